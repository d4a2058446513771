package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud"
	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/drivers"
)

// fakeHome is a cloud whose behaviour a test sets at any time.
type fakeHome struct {
	mu       sync.Mutex
	dial     error // what Dial says
	prove    error // what Prove says
	passes   int   // bytes of the largest message that comes through; 0: any
	cuts     int   // bytes of the largest message that does not end the connection; 0: any
	cutBatch int   // the same of payloads alone
	proofs   []int // sizes that were asked for
	schema   error // what Schema says
	schemas  []string
	deaf     error    // what Status says
	statuses []string // that it took
	mute     bool     // no acknowledgements
	answer   func(payload []byte) error
	sessions int
	last     *fakeSession
	came     []arrival
}

type arrival struct {
	at      time.Time
	session int
	alarm   bool
	bytes   string
	payload pack.Payload
}

func (h *fakeHome) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *fakeHome) arrivals() []arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]arrival(nil), h.came...)
}

// decode is what a receiver does: a packed payload needs one of the schemas that came before it.
func (h *fakeHome) decode(payload []byte) (pack.Payload, error) {
	if !packed.Is(payload) {
		return pack.Decode(payload)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	info, err := packed.Peek(payload)
	if err != nil {
		return pack.Payload{}, err
	}
	for _, text := range h.schemas {
		if s, err := packed.ParseSchema([]byte(text)); err == nil && s.ID == info.Schema {
			c, err := packed.New(s)
			if err != nil {
				return pack.Payload{}, err
			}
			return c.Decode(payload)
		}
	}
	return pack.Payload{}, fmt.Errorf("schema %d never came", info.Schema)
}

func (h *fakeHome) Name() string { return "fake" }
func (h *fakeHome) Limits() cloud.Limits {
	return cloud.Limits{MaxBytes: 1 << 18, Window: 16, Schemas: true}
}

func (h *fakeHome) Dial(context.Context, []byte, []byte) (cloud.Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dial != nil {
		return nil, h.dial
	}
	h.sessions++
	h.last = &fakeSession{h: h, n: h.sessions, done: make(chan struct{}), hints: make(chan cloud.Hint, 16)}
	return h.last, nil
}

type fakeSession struct {
	h     *fakeHome
	n     int
	done  chan struct{}
	hints chan cloud.Hint
	once  sync.Once
}

func (s *fakeSession) Publish(m cloud.Message, ack func(error)) error {
	p, err := s.h.decode(m.Payload)
	if err != nil {
		return err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.came = append(s.h.came, arrival{time.Now(), s.n, m.Kind == cloud.Alarm, string(m.Payload), p})
	if s.h.cutBatch > 0 && len(m.Payload) > s.h.cutBatch {
		s.drop()
		return nil
	}
	if s.h.mute {
		return nil
	}
	err = nil
	if s.h.answer != nil {
		err = s.h.answer(m.Payload)
	}
	go ack(err)
	return nil
}

func (s *fakeSession) Prove(_ context.Context, size int) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.proofs = append(s.h.proofs, size)
	if s.h.cuts > 0 && size > s.h.cuts {
		s.drop()
		return &cloud.Error{Class: cloud.Unreachable, Op: "prove", Bytes: size, Err: fmt.Errorf("the connection ended at %d bytes", size), Remedy: "look at the size"}
	}
	if s.h.passes > 0 && size > s.h.passes {
		return &cloud.Error{Class: cloud.Unproven, Op: "prove", Bytes: size, Err: fmt.Errorf("%d bytes do not come back", size), Remedy: "look at the size"}
	}
	return s.h.prove
}
func (s *fakeSession) Schema(_ context.Context, id uint32, text []byte) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.h.schema == nil {
		s.h.schemas = append(s.h.schemas, string(text))
	}
	return s.h.schema
}

func (s *fakeSession) Status(_ context.Context, text []byte) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.h.deaf == nil {
		s.h.statuses = append(s.h.statuses, string(text))
	}
	return s.h.deaf
}
func (s *fakeSession) Hints() <-chan cloud.Hint      { return s.hints }
func (s *fakeSession) Done() <-chan struct{}         { return s.done }
func (s *fakeSession) Err() error                    { return errors.New("fake: lost") }
func (s *fakeSession) Close(context.Context, []byte) { s.drop() }
func (s *fakeSession) drop()                         { s.once.Do(func() { close(s.done) }) }

// desk is a publisher over a real buffer and a fake home, in time of its own.
type desk struct {
	sets []packed.Set
	*publisher
	home   *fakeHome
	cfg    atomic.Pointer[config.Publish]
	budget atomic.Pointer[ledger.Budget]
	stop   context.CancelFunc
	done   sync.WaitGroup
}

func newDesk(t *testing.T, change func(*config.Publish)) *desk {
	t.Helper()
	return newDeskOn(t, 64<<10, change)
}

// newDeskOn has a buffer with a log of two halves.
func newDeskOn(t *testing.T, half int, change func(*config.Publish)) *desk {
	t.Helper()
	buf, err := buffer.Open(t.TempDir(), buffer.Options{HalfBytes: half, Seal: 10 * time.Second})
	require.NoError(t, err)
	lane, err := buf.Lane(7)
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	d := &desk{home: &fakeHome{}}
	cfg := &config.Publish{MaxBytes: 1024, MaxAge: config.Duration(10 * time.Second), Acknowledge: "proven", BacklogShare: 0.5}
	if change != nil {
		change(cfg)
	}
	d.cfg.Store(cfg)
	d.budget.Store(&ledger.Budget{})
	d.publisher = newPublisher(&publisher{
		buf: buf, lane: lane, cloud: d.home, header: pack.Header{Gateway: "gw", Epoch: 7},
		settings: d.cfg.Load, sets: func() []packed.Set { return d.sets }, flush: func() time.Duration { return time.Second },
		describe: func(bool) []byte { return []byte("{}") },
		rule:     func() ledger.Rule { return ledger.Rule{PerBytes: 1024} }, ledger: ledger.Open(ledger.Options{
			Store: buf, Durable: lane.Durable, Clock: goClock{time.Now()}.Stamp, Budget: func() ledger.Budget { return *d.budget.Load() },
		}),
		clock: goClock{time.Now()}, problems: newProblems(time.Now, log), log: log, beat: newVital().add("publisher"),
	})
	return d
}

func (d *desk) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d.stop = cancel
	d.done.Go(func() { d.Run(ctx) })
}

func (d *desk) end(t *testing.T) {
	d.stop()
	d.done.Wait()
	require.NoError(t, d.buf.Close())
}

func (d *desk) append(t *testing.T, channel string, v float64, alarm bool) buffer.Seq {
	t.Helper()
	seq, err := d.lane.Append(buffer.Poll{Stamp: d.clock.Stamp(), Readings: []drivers.Reading{{Channel: channel, Value: v}}, Alarm: alarm})
	require.NoError(t, err)
	if alarm {
		d.alarmed(seq)
	}
	return seq
}

func (d *desk) codes() (out []string) {
	for _, p := range d.problems.list() {
		out = append(out, p.Code)
	}
	return out
}

func TestNothingIsDeletedWhileTheHomeIsUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		unproven := &cloud.Error{Class: cloud.Unproven, Op: "prove", Err: errors.New("does not come back"), Remedy: "look at the rules"}
		d.home.prove = unproven
		d.run(t)
		for i := range 100 {
			d.append(t, "s/c", float64(i), false)
			time.Sleep(time.Second)
		}
		require.Empty(t, d.home.arrivals(), "nothing is sent to a home that may throw it away")
		require.Zero(t, d.buf.Stats().Delivered)
		require.Contains(t, d.codes(), "home.unproven")
		d.home.set(func() { d.home.prove = nil })
		time.Sleep(3 * time.Minute)
		require.EqualValues(t, 100, d.buf.Stats().Delivered)
		require.Empty(t, d.codes())

		// An hour later the path is proven again; when that fails, acknowledgements count for nothing.
		d.home.set(func() { d.home.prove = unproven })
		time.Sleep(61 * time.Minute)
		require.Contains(t, d.codes(), "home.unproven")
		d.append(t, "s/c", 1, false)
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 100, d.buf.Stats().Delivered)
		d.home.set(func() { d.home.prove = nil })
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 101, d.buf.Stats().Delivered)
		d.end(t)
	})
}

// TestProvenUpToTheLargestPayload: a home that passes on the small and drops the large is proven for what is published, or not at all.
func TestProvenUpToTheLargestPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.home.passes = 300
		d.home.answer = func([]byte) error { return nil } // all is acknowledged
		d.run(t)
		sample := func(n int) {
			for i := range n {
				d.append(t, "s/c", float64(i), false)
				time.Sleep(time.Second)
			}
		}
		largest := func() (n int) {
			for _, a := range d.home.arrivals() {
				n = max(n, len(a.bytes))
			}
			return n
		}
		limit := func(n int) {
			c := *d.cfg.Load()
			c.MaxBytes = config.Size(n)
			d.cfg.Store(&c)
		}
		sample(200)
		require.Equal(t, 1024, d.home.proofs[0])
		require.Empty(t, d.home.arrivals())
		require.Zero(t, d.buf.Stats().Delivered)
		require.Contains(t, d.codes(), "home.unproven")

		limit(300) // the remedy works at once
		time.Sleep(5 * time.Second)
		require.Empty(t, d.codes())
		time.Sleep(time.Minute)
		require.EqualValues(t, 200, d.buf.Stats().Delivered)
		require.LessOrEqual(t, largest(), 300)

		d.home.set(func() { d.home.passes = 2000 })
		limit(2000) // more is sent once more is proven
		time.Sleep(5 * time.Second)
		for i := range 1000 {
			d.append(t, "s/c", float64(i)/7, false)
		}
		time.Sleep(time.Minute)
		require.EqualValues(t, 1200, d.buf.Stats().Delivered)
		require.Greater(t, largest(), 1024)

		before := len(d.home.arrivals())
		limit(3000) // and when that fails, nothing is sent
		time.Sleep(5 * time.Second)
		for i := range 1000 {
			d.append(t, "s/c", float64(i)/7, false)
		}
		time.Sleep(time.Hour)
		require.Contains(t, d.codes(), "home.unproven")
		require.Len(t, d.home.arrivals(), before)
		d.home.set(func() { d.home.passes = 0 })
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 2200, d.buf.Stats().Delivered)
		require.Greater(t, largest(), 2000)
		require.LessOrEqual(t, largest(), 3000)
		d.end(t)
	})
}

func TestMaxAgeIsKeptAndPayloadsAreFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.run(t)
		time.Sleep(time.Second)
		rng := rand.New(rand.NewPCG(1, 2))
		appended := map[uint64]time.Time{}
		for i := range 3000 {
			seq := d.append(t, fmt.Sprintf("s/c%d", i%3), float64(i%100), false)
			appended[uint64(seq)] = time.Now()
			pause := 50 * time.Millisecond
			if rng.IntN(100) == 0 {
				pause = time.Duration(rng.IntN(30)) * time.Second
			}
			time.Sleep(pause)
		}
		time.Sleep(time.Minute)
		require.EqualValues(t, 3000, d.buf.Stats().Delivered)
		full := 0
		for _, a := range d.home.arrivals() {
			require.LessOrEqual(t, len(a.bytes), 1024)
			if len(a.bytes) > 1000 {
				full++
			}
			for _, r := range a.payload.Readings {
				require.LessOrEqual(t, a.at.Sub(appended[a.payload.First]), 10*time.Second, "max_age")
				_ = r
			}
		}
		require.Positive(t, full, "bursts fill payloads to the limit")
		d.end(t)
	})
}

func TestAlarmsLeaveAtOnceAndAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(c *config.Publish) { c.MaxAge = config.Duration(time.Hour) })
		d.run(t)
		time.Sleep(time.Second)
		for i := range 5 {
			d.append(t, "s/c", float64(i), false)
		}
		seq := d.append(t, "s/alarm", 99, true)
		d.append(t, "s/c", 6, false)
		began := time.Now()
		time.Sleep(2 * time.Second)
		came := d.home.arrivals()
		// The readings before the alarm are cut off by it, so they leave too; the one behind waits.
		var alarm *arrival
		for i := range came {
			if came[i].alarm {
				alarm = &came[i]
			}
		}
		require.NotNil(t, alarm)
		require.EqualValues(t, seq, alarm.payload.First)
		require.Len(t, alarm.payload.Readings, 1)
		require.LessOrEqual(t, alarm.at.Sub(began), time.Second)
		require.EqualValues(t, 1, d.buf.Stats().Pending, "the reading behind the alarm keeps its max_age")
		d.end(t)
	})
}

func TestUnansweredIsTriedAgainByteForByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.home.mute = true
		d.run(t)
		for i := range 50 {
			d.append(t, "s/c", float64(i), false)
			time.Sleep(500 * time.Millisecond)
		}
		time.Sleep(10 * time.Minute)
		require.Contains(t, d.codes(), "publish.no-ack")
		require.Zero(t, d.buf.Stats().Delivered)
		d.home.set(func() { d.home.mute = false })
		time.Sleep(5 * time.Minute)
		require.EqualValues(t, 50, d.buf.Stats().Delivered)
		byFirst := map[uint64]string{}
		sessions := map[int]bool{}
		for _, a := range d.home.arrivals() {
			sessions[a.session] = true
			if old, ok := byFirst[a.payload.First]; ok {
				require.Equal(t, old, a.bytes, "a repeat is the same bytes")
			}
			byFirst[a.payload.First] = a.bytes
		}
		require.Greater(t, len(sessions), 2)
		require.Empty(t, d.codes())
		d.end(t)
	})
}

func TestTooLargeBecomesAGapThatIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.home.answer = func(p []byte) error {
			if strings.Contains(string(p), "poison") {
				return &cloud.Error{Class: cloud.TooLarge, Op: "publish", Err: errors.New("too large")}
			}
			return nil
		}
		d.run(t)
		time.Sleep(time.Second)
		d.append(t, "s/poison", 1, true)
		time.Sleep(5 * time.Second)
		for i := range 5 {
			d.append(t, "s/c", float64(i), false)
		}
		time.Sleep(time.Minute)
		s := d.buf.Stats()
		require.EqualValues(t, 5, s.Delivered)
		require.EqualValues(t, 1, s.Dropped)
		var told []pack.Gap
		for _, a := range d.home.arrivals() {
			told = append(told, a.payload.Gaps...)
		}
		require.Len(t, told, 1)
		require.Equal(t, "undeliverable", told[0].Reason)
		require.EqualValues(t, 1, *told[0].From)
		require.Empty(t, d.lane.OpenGaps())
		require.Contains(t, d.codes(), "publish.too-large")
		d.end(t)
	})
}

func TestGapsAreToldWithoutReadingsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.run(t)
		now := time.Now().UnixMilli()
		require.NoError(t, d.lane.NoteGap(buffer.Gap{N: 3, TFrom: now, TTo: now, Reason: buffer.Unsampled}))
		require.NoError(t, d.lane.NoteGap(buffer.Gap{N: 4, TFrom: now, TTo: now + 1, Reason: buffer.Unsampled}))
		time.Sleep(time.Minute)
		came := d.home.arrivals()
		require.Len(t, came, 1)
		require.Empty(t, came[0].payload.Readings)
		require.EqualValues(t, 7, came[0].payload.Gaps[0].N)
		require.Empty(t, d.lane.OpenGaps())
		d.end(t)
	})
}

func TestReadingTooLargeForAnyPayloadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(c *config.Publish) { c.MaxBytes = 256 })
		d.run(t)
		time.Sleep(time.Second)
		d.append(t, "s/ok", 1, false)
		d.append(t, "s/"+strings.Repeat("x", 250), 2, false)
		d.append(t, "s/ok", 3, false)
		time.Sleep(2 * time.Minute)
		s := d.buf.Stats()
		require.EqualValues(t, 2, s.Delivered)
		require.EqualValues(t, 1, s.Dropped)
		require.Zero(t, s.Pending)
		d.end(t)
	})
}

func TestPollTooLargeAloneIsSplitByChannels(t *testing.T) {
	for _, format := range pack.Formats {
		t.Run(format, func(t *testing.T) { splitByChannels(t, format) })
	}
}

func splitByChannels(t *testing.T, format string) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(c *config.Publish) { c.Format = format })
		d.run(t)
		time.Sleep(time.Second)
		for round := range 2 {
			p := buffer.Poll{Stamp: d.clock.Stamp(), Alarm: round == 1}
			for i := range 200 {
				p.Readings = append(p.Readings, drivers.Reading{Channel: fmt.Sprintf("s/channel-%d", i), Value: float64(i)})
			}
			seq, err := d.lane.Append(p)
			require.NoError(t, err)
			if p.Alarm {
				d.alarmed(seq)
			}
		}
		time.Sleep(time.Minute)
		require.EqualValues(t, 400, d.buf.Stats().Delivered)
		seen := map[uint64]bool{}
		for _, a := range d.home.arrivals() {
			require.LessOrEqual(t, len(a.bytes), 1024)
			require.Equal(t, map[string]byte{pack.FormatRows: '{', pack.FormatSenML: '['}[format], a.bytes[0])
			for _, r := range a.payload.Readings {
				require.False(t, seen[r.Seq])
				seen[r.Seq] = true
			}
		}
		require.Len(t, seen, 400)
		d.end(t)
	})
}

func TestGapNeverCostsAReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(c *config.Publish) { c.MaxBytes = 256 })
		d.header.Gateway = strings.Repeat("g", 64)
		name := "s/" + strings.Repeat("x", 90) // fits alone, and not beside a gap
		d.run(t)
		time.Sleep(time.Second)
		now := time.Now().UnixMilli()
		require.NoError(t, d.lane.NoteGap(buffer.Gap{N: 3, TFrom: now, TTo: now, Reason: buffer.Unsampled}))
		for i := range 20 {
			d.append(t, name, float64(i), false)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		s := d.buf.Stats()
		require.EqualValues(t, 20, s.Delivered)
		require.Zero(t, s.Dropped)
		require.Empty(t, d.lane.OpenGaps(), "the gap was told in a payload of its own")
		require.Empty(t, d.codes())
		d.end(t)
	})
}

func TestGapThatFitsNowhereIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(c *config.Publish) { c.MaxBytes = 120 })
		d.run(t)
		now := time.Now().UnixMilli()
		require.NoError(t, d.lane.NoteGap(buffer.Gap{N: 1 << 40, TFrom: now, TTo: now, Reason: buffer.Unsampled}))
		time.Sleep(10 * time.Minute)
		require.Empty(t, d.home.arrivals(), "no empty payload is sent in its place")
		require.Contains(t, d.codes(), "publish.too-large")
		d.cfg.Store(&config.Publish{MaxBytes: 1024, MaxAge: d.cfg.Load().MaxAge, Acknowledge: "proven", BacklogShare: 0.5})
		time.Sleep(time.Minute)
		require.Len(t, d.home.arrivals(), 1)
		require.Empty(t, d.lane.OpenGaps())
		d.end(t)
	})
}

// TestAlarmsPassASilentReceiver: payloads that a receiver does not confirm take no place from alarms.
func TestAlarmsPassASilentReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, func(c *config.Publish) { c.Acknowledge = "receiver"; c.MaxAge = config.Duration(time.Second) })
		d.run(t)
		time.Sleep(time.Second)
		for i := range 300 {
			for j := range 40 { // far more than may be in flight
				p := buffer.Poll{Stamp: d.clock.Stamp()}
				for k := range 10 {
					p.Readings = append(p.Readings, drivers.Reading{Channel: fmt.Sprintf("s/channel-%d", k), Value: float64(i*j*k) / 7})
				}
				_, err := d.lane.Append(p)
				require.NoError(t, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		for i := range 20 {
			d.append(t, "s/alarm", float64(i), true)
			time.Sleep(5 * time.Second)
		}
		alarms := 0
		for _, a := range d.home.arrivals() {
			if a.alarm {
				alarms++
			}
		}
		require.GreaterOrEqual(t, alarms, 20)
		require.Contains(t, d.codes(), "publish.no-ack")
		d.end(t)
	})
}

func TestPayloadThatIsNeverAnsweredIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.home.mute = true
		d.run(t)
		d.append(t, "s/c", 1, false)
		for end := time.Now().Add(time.Hour); len(d.home.arrivals()) < 5; time.Sleep(time.Second) {
			require.True(t, time.Now().Before(end))
			require.NotContains(t, d.codes(), "publish.stuck")
		}
		time.Sleep(ackBound + 5*time.Second)
		require.Contains(t, d.codes(), "publish.stuck", "after the fifth try")
		require.Zero(t, d.buf.Stats().Delivered)
		require.EqualValues(t, 1, d.buf.Stats().Pending, "it is kept")
		d.home.set(func() { d.home.mute = false })
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 1, d.buf.Stats().Delivered)
		require.Empty(t, d.codes())
		d.end(t)
	})
}

// TestSizeThatEndsTheConnection: a home that hangs up on what is too large for it, as MQTT 3.1.1 has it, is no trouble of the network.
func TestSizeThatEndsTheConnection(t *testing.T) {
	for name, cut := range map[string]func(*fakeHome){
		"at the proof":   func(h *fakeHome) { h.cuts = 900 },
		"at the payload": func(h *fakeHome) { h.cutBatch = 900 },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, nil)
				cut(d.home)
				for i := range 100 {
					d.append(t, "s/"+strings.Repeat("x", 40), float64(i)/7, false)
				}
				d.run(t)
				sessions := func() int {
					d.home.mu.Lock()
					defer d.home.mu.Unlock()
					return d.home.sessions
				}
				for end := time.Now().Add(time.Hour); sessions() < 5; time.Sleep(10 * time.Millisecond) {
					require.True(t, time.Now().Before(end))
					require.NotContains(t, d.codes(), "publish.stuck")
				}
				time.Sleep(20 * time.Second)
				size := 1024
				if came := d.home.arrivals(); len(came) > 0 {
					size = len(came[0].bytes)
				}
				var home, stuck status.Problem
				for _, p := range d.problems.list() {
					switch p.Code {
					case "publish.stuck":
						stuck = p
					case "home.unreachable":
						home = p
					}
				}
				require.Contains(t, stuck.Text, fmt.Sprintf("a payload of %d bytes (publish.max_bytes is 1024)", size))
				require.Contains(t, stuck.Remedy, "max_packet_size")
				require.NotContains(t, home.Remedy, "network")
				require.Less(t, d.buf.Stats().Delivered, uint64(50), "what fills no payload may come through")
				d.home.set(func() { d.home.cuts, d.home.cutBatch = 0, 0 })
				time.Sleep(5 * time.Minute)
				require.Empty(t, d.codes())
				require.EqualValues(t, 100, d.buf.Stats().Delivered)
				d.end(t)
			})
		})
	}
}

func TestHomeThatCannotBeDialled(t *testing.T) {
	for _, tc := range []struct {
		class cloud.Class
		code  string
		state string
	}{
		{cloud.Denied, "home.denied", "questionable"},
		{cloud.NotTrusted, "home.not-trusted", "questionable"},
		{cloud.Unpaid, "home.denied", "questionable"},
		{cloud.Unreachable, "home.unreachable", "connecting"},
	} {
		t.Run(string(tc.class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, nil)
				d.home.dial = &cloud.Error{Class: tc.class, Op: "connect", Err: errors.New("not you"), Remedy: "look here"}
				d.run(t)
				d.append(t, "s/c", 1, false)
				time.Sleep(5 * time.Minute)
				list := d.problems.list()
				require.Len(t, list, 1)
				require.Equal(t, tc.code, list[0].Code)
				require.Contains(t, list[0].Text, "not you")
				require.Equal(t, "look here", list[0].Remedy)
				_, state, _ := d.status()
				require.Equal(t, tc.state, state)
				require.EqualValues(t, 1, d.buf.Stats().Pending)
				d.home.set(func() { d.home.dial = nil })
				time.Sleep(5 * time.Minute)
				require.Empty(t, d.codes())
				_, state, _ = d.status()
				require.Equal(t, "proven", state)
				require.EqualValues(t, 1, d.buf.Stats().Delivered)
				d.end(t)
			})
		})
	}
}

// TestHomeGoneForAnHour: what was sampled meanwhile is kept, and follows the live readings when the home is back.
func TestHomeGoneForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.run(t)
		sample := func(n int) {
			for i := range n {
				d.append(t, "s/c", float64(i%500)/8, false)
				time.Sleep(time.Second)
			}
		}
		sample(60)
		d.home.set(func() {
			d.home.dial = &cloud.Error{Class: cloud.Unreachable, Op: "connect", Err: errors.New("no route")}
			d.home.last.drop()
		})
		before := len(d.home.arrivals())
		sample(3600)
		require.Len(t, d.home.arrivals(), before)
		require.Contains(t, d.codes(), "home.unreachable")
		require.GreaterOrEqual(t, d.buf.Stats().Pending, uint64(3600))
		d.home.set(func() { d.home.dial = nil })
		sample(300) // the longest pause between tries is two minutes
		require.Empty(t, d.codes())
		require.Less(t, d.buf.Stats().Pending, uint64(20), "the hour has drained, live readings wait for max_age as ever")
		time.Sleep(time.Minute)
		require.EqualValues(t, 3960, d.buf.Stats().Delivered)
		seen := map[uint64]bool{}
		for _, a := range d.home.arrivals() {
			for _, r := range a.payload.Readings {
				seen[r.Seq] = true
			}
		}
		require.Len(t, seen, 3960)
		d.end(t)
	})
}
