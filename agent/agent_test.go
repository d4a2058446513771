package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud"
	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/drivers"
	"homeward/drivers/hostbus"
)

// setClock shows what a test sets.
type setClock struct {
	mu  sync.Mutex
	now drivers.Stamp
}

func (c *setClock) set(at time.Time, trusted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = drivers.Stamp{Boot: [16]byte{1}, Mono: c.now.Mono + time.Second, Wall: at.UnixMilli(), Trusted: trusted}
}

// pass lets time pass, by both clocks.
func (c *setClock) pass(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Mono += time.Duration(until.UnixMilli()-c.now.Wall) * time.Millisecond
	c.now.Wall = until.UnixMilli()
}

func (c *setClock) Stamp() drivers.Stamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *setClock) Source() (string, *float64) { return "test", nil }

func plainConfig(state string) *config.Config {
	return &config.Config{
		Gateway: "gw-1", State: state, Home: config.Home{Cloud: "mqtt", Organization: "acme", Project: "cold", Product: "p"},
		Publish:    config.Publish{MaxBytes: 1024, MaxAge: config.Duration(10 * time.Second), Acknowledge: "proven", BacklogShare: 0.5},
		Buffer:     config.Buffer{MaxBytes: 64 << 20, Flush: config.Duration(time.Second), WhenFull: "drop-oldest"},
		Operations: config.Operations{BillingDay: 1},
	}
}

func newAgent(t *testing.T, c *config.Config, clock Clock) *Agent {
	t.Helper()
	a, err := New(Options{Config: c, Clock: clock})
	require.NoError(t, err)
	t.Cleanup(func() { _ = a.buf.Close() })
	return a
}

func (a *Agent) codes() (out []string) {
	for _, p := range a.problems.list() {
		out = append(out, p.Code)
	}
	return out
}

func noon(year int, month time.Month, day int) time.Time {
	return time.Date(year, month, day, 12, 0, 0, 0, time.UTC)
}

func TestBufferProblems(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	a := newAgent(t, plainConfig(t.TempDir()), clock)
	a.bufferProblems(buffer.Stats{})
	require.Empty(t, a.codes())
	give := func(seq buffer.Seq, reason buffer.Reason) {
		_, err := a.lane.Append(buffer.Poll{Stamp: clock.Stamp(), Readings: value(1)})
		require.NoError(t, err)
		require.NoError(t, a.lane.NoteGap(buffer.Gap{Range: buffer.Range{From: seq, To: seq}, Reason: reason}))
	}
	give(1, buffer.Undeliverable)
	a.bufferProblems(buffer.Stats{Dropped: 1, Pending: 5})
	require.Empty(t, a.codes(), "given up for another reason")
	a.bufferProblems(buffer.Stats{})
	give(2, buffer.Evicted)
	for _, step := range []struct {
		name string
		s    buffer.Stats
		want []string
		text string // of the first problem
	}{
		{"stopped", buffer.Stats{Stopped: true}, []string{"buffer.full"}, "sampling has stopped"},
		{"no more", buffer.Stats{}, nil, ""},
		{"no room", buffer.Stats{DiskFull: true, LastError: "no space left on device"}, []string{"buffer.disk"}, "no space left on device"},
		{"no room, and stopped", buffer.Stats{DiskFull: true, Stopped: true}, []string{"buffer.disk", "buffer.full"}, "disk is full"},
		{"no room, and nothing goes", buffer.Stats{DiskFull: true, Short: buffer.ShortDisk, LastError: "x"}, []string{"buffer.disk"}, "nothing stored is given up"},
		{"room", buffer.Stats{}, nil, ""},
		{"damage", buffer.Stats{DamagedFiles: []string{"a.damaged", "b.damaged"}}, []string{"buffer.damaged"}, "2 damaged files were set aside, first a.damaged"},
		{"files deleted", buffer.Stats{}, nil, ""},
		{"the oldest given up", buffer.Stats{Dropped: 10, Pending: 5}, []string{"buffer.evicting"}, "10 readings were given up"},
		{"a second later", buffer.Stats{Dropped: 10, Pending: 4}, []string{"buffer.evicting"}, "10 readings were given up"},
		{"more", buffer.Stats{Dropped: 12, Pending: 4}, []string{"buffer.evicting"}, "12 readings were given up"},
		{"drained", buffer.Stats{Dropped: 12}, nil, ""},
		{"and again", buffer.Stats{Dropped: 13}, []string{"buffer.evicting"}, "13 readings were given up"},
		{"drained again", buffer.Stats{Dropped: 13}, nil, ""},
		{"thinned, while a gap of those waits to be told", buffer.Stats{Dropped: 500, Thinned: 487, Pending: 4}, nil, ""},
		{"for others", buffer.Stats{Dropped: 14, EvictedFor: buffer.ShortKeepFree}, []string{"buffer.evicting"}, "less than buffer.keep_free"},
		{"no longer", buffer.Stats{Dropped: 14}, nil, ""},
		{"for its own size", buffer.Stats{Dropped: 15, EvictedFor: buffer.ShortMaxBytes}, []string{"buffer.evicting"}, "no room within buffer.max_bytes"},
	} {
		a.bufferProblems(step.s)
		list := a.problems.list()
		require.ElementsMatch(t, step.want, a.codes(), step.name)
		if len(list) > 0 {
			require.Contains(t, list[0].Text, step.text, step.name)
			require.NotEmpty(t, list[0].Remedy, step.name)
		}
	}
}

// What was given up before this start is not news.
func TestEvictionsOfAnEarlierLifeAreNoProblem(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	c := plainConfig(t.TempDir())
	a := newAgent(t, c, clock)
	_, err := a.lane.Append(buffer.Poll{Stamp: clock.Stamp(), Readings: value(1)})
	require.NoError(t, err)
	id, err := a.lane.Fix(buffer.Attempt{Range: buffer.Range{From: 1, To: 1}, Payload: []byte("x")})
	require.NoError(t, err)
	require.NoError(t, a.lane.GiveUp(id.ID, buffer.Evicted))
	require.EqualValues(t, 1, a.buf.Stats().Dropped)
	require.NoError(t, a.buf.Close())
	a = newAgent(t, c, clock)
	require.EqualValues(t, 1, a.buf.Stats().Dropped)
	a.bufferProblems(a.buf.Stats())
	require.Empty(t, a.codes())
}

func spendOperations(t *testing.T, a *Agent, n int) {
	_, err := a.ledger.Count(ledger.Entry{Class: ledger.Billed, Cost: n, Kind: ledger.Live})
	require.NoError(t, err)
}

func TestOperationsOfTheMonth(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 20), true)
	c := plainConfig(t.TempDir())
	c.Operations = config.Operations{PerMonth: 100, BillingDay: 15, AtLimit: "hold"}
	a := newAgent(t, c, clock)
	spend := func(n int) { spendOperations(t, a, n) }
	check := func(month string, used uint64, want ...string) {
		t.Helper()
		a.operationProblems()
		o := a.operationsStatus()
		require.Equal(t, month, o.Month)
		require.Equal(t, used, o.Used)
		require.Equal(t, float64(used), *o.Percent)
		require.Equal(t, map[bool]string{true: "hold", false: "below"}[used >= 100], o.LimitState)
		require.ElementsMatch(t, want, a.codes())
	}
	check("2026-03-15", 0)
	spend(69)
	check("2026-03-15", 69)
	spend(1)
	check("2026-03-15", 70, "operations.70")
	spend(20)
	check("2026-03-15", 90, "operations.90")

	// Another life goes on counting.
	require.NoError(t, a.buf.Close())
	a = newAgent(t, c, clock)
	check("2026-03-15", 90, "operations.90")
	spend(9)
	check("2026-03-15", 99, "operations.90")
	spend(1)
	check("2026-03-15", 100, "operations.100")

	// A clock that nobody vouches for turns no month, forwards or back.
	clock.set(noon(2026, 5, 1), false)
	spend(1)
	check("2026-03-15", 101, "operations.100")
	clock.set(time.Unix(1000, 0), false)
	check("2026-03-15", 101, "operations.100")

	clock.set(time.Date(2026, 4, 14, 23, 59, 59, 0, time.UTC), true)
	check("2026-03-15", 101, "operations.100")
	clock.set(time.Date(2026, 4, 15, 0, 0, 0, 0, time.UTC), true)
	check("2026-04-15", 1) // of which nobody knows when it was
	spend(3)
	check("2026-04-15", 4)
	clock.pass(noon(2026, 6, 1))
	spend(2) // the first that is heard of the new month
	check("2026-05-15", 2)
	require.NoError(t, a.buf.Close())
	a = newAgent(t, c, clock)
	check("2026-05-15", 2)
}

func TestClockProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := &setClock{}
		clock.set(time.Unix(1000, 0), false)
		c := plainConfig(t.TempDir())
		noSocket(t, c)
		a := newAgent(t, c, clock)
		a.tend()
		require.NotContains(t, a.codes(), "clock.untrusted", "NTP may take a minute")
		time.Sleep(61 * time.Second)
		a.tend()
		require.Contains(t, a.codes(), "clock.untrusted")
		clock.set(time.Now(), true)
		a.tend()
		require.NotContains(t, a.codes(), "clock.untrusted")
		require.NoError(t, a.buf.Close())
	})
}

// TestDescribeIsBounded: a home that takes the payloads takes what is said of the gateway, however much is wrong.
func TestDescribeIsBounded(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	a := newAgent(t, plainConfig(t.TempDir()), clock)
	for i := range 40 {
		a.problems.raise(CodeSensorSilent, fmt.Sprintf("sensor-%d", i), status.Fail, strings.Repeat("long ", i), "look")
	}
	var here, gone struct {
		Online   bool              `json:"online"`
		Problems []json.RawMessage `json:"problems"`
	}
	text, will := a.describe(true), a.describe(false)
	require.LessOrEqual(t, len(text), 1024)
	require.LessOrEqual(t, len(will), 512)
	require.NoError(t, json.Unmarshal(text, &here))
	require.NoError(t, json.Unmarshal(will, &gone))
	require.Greater(t, len(here.Problems), 3)
	require.NotEmpty(t, gone.Problems)
	require.True(t, here.Online)
	require.False(t, gone.Online)
}

func TestStatusListenProblem(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	a := newAgent(t, plainConfig(t.TempDir()), clock)
	var asked []string
	taken := true
	a.Listen = func(addr string) (net.Listener, error) {
		asked = append(asked, addr)
		if taken {
			return nil, errors.New("bind: address already in use")
		}
		return net.Listen("tcp", "127.0.0.1:0")
	}
	a.listen("127.0.0.1:8080")
	list := a.problems.list()
	require.Len(t, list, 1)
	require.Equal(t, status.Problem{
		Code: "status.listen", Subject: "127.0.0.1:8080", Severity: status.Warn, Since: list[0].Since,
		Text: "bind: address already in use", Remedy: "choose another status.listen, or stop what listens there",
	}, list[0])
	taken = false
	a.listen("127.0.0.1:8080")
	require.Empty(t, a.codes())
	require.NotNil(t, a.web)
	a.listen("")
	require.Nil(t, a.web)
	require.Equal(t, []string{"127.0.0.1:8080", "127.0.0.1:8080"}, asked)
}

// noSocket keeps the agent from opening its socket, which would hold up a bubble's time; it works without.
func noSocket(t *testing.T, c *config.Config) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(c.State, "run"), nil, 0o600))
}

// TestServiceManager follows a life as systemd hears it.
func TestServiceManager(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		t.Run(map[bool]string{false: "all well", true: "a driver is stuck"}[stuck], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := plainConfig(t.TempDir())
				noSocket(t, c)
				release := make(chan struct{})
				c.Sensors = []config.Sensor{fakeConfig("a", time.Second, &fakeOptions{read: func(context.Context) ([]drivers.Reading, error) {
					if stuck {
						<-release
					}
					return value(1), nil
				}})}
				type word struct {
					at   time.Duration
					text string
				}
				var said []word
				began := time.Now()
				a, err := New(Options{
					Config: c, Clock: goClock{began}, Log: slog.New(slog.DiscardHandler), Watchdog: 30 * time.Second,
					OpenBus:  func(context.Context, drivers.Bus) (*hostbus.Handle, error) { return &hostbus.Handle{}, nil },
					NewCloud: func(*config.Config, buffer.Epoch, *slog.Logger) (cloud.Cloud, error) { return &fakeHome{}, nil },
					Notify:   func(text string) { said = append(said, word{time.Since(began), text}) },
				})
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- a.Run(ctx, nil) }()
				time.Sleep(10*time.Minute + time.Second/2)
				delivered := a.buf.Stats().Delivered
				cancel()
				require.NoError(t, <-done)
				require.Less(t, time.Since(began), 10*time.Minute+6*time.Second, "it stops within five seconds")

				require.Equal(t, word{0, "READY=1"}, said[0])
				require.Equal(t, "STOPPING=1", said[len(said)-1].text)
				fed := said[1 : len(said)-1]
				for i, w := range fed {
					require.Equal(t, word{time.Duration(i+1) * 10 * time.Second, "WATCHDOG=1"}, w)
				}
				if stuck {
					require.Zero(t, delivered)
					require.NotEmpty(t, fed)
					last := fed[len(fed)-1].at
					require.LessOrEqual(t, last, readBound+slack, "nobody tells the watchdog that all is well")
					require.Greater(t, last, readBound, "a slow read is not stuck")
				} else {
					require.Len(t, fed, 60)
					require.Greater(t, delivered, uint64(500))
				}
				close(release)
				a.sampler.wait(time.Minute)
			})
		})
	}
}
