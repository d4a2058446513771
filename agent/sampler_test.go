package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/buffer"
	"homeward/drivers"
	"homeward/drivers/hostbus"
)

// fakeOptions is an instrument made of functions.
type fakeOptions struct {
	bus      drivers.Bus
	channels []drivers.Channel
	open     func() error
	read     func(ctx context.Context) ([]drivers.Reading, error)
}

func (f *fakeOptions) Check() []drivers.Fault      { return nil }
func (f *fakeOptions) Bus() drivers.Bus            { return f.bus }
func (f *fakeOptions) Channels() []drivers.Channel { return f.channels }
func (f *fakeOptions) Open(context.Context, drivers.Env) (drivers.Sensor, error) {
	if f.open != nil {
		if err := f.open(); err != nil {
			return nil, err
		}
	}
	return fakeSensor{f}, nil
}

type fakeSensor struct{ f *fakeOptions }

func (s fakeSensor) Read(ctx context.Context) ([]drivers.Reading, error) { return s.f.read(ctx) }
func (s fakeSensor) Close() error                                        { return nil }

func fakeConfig(name string, every time.Duration, f *fakeOptions) config.Sensor {
	if f.bus == (drivers.Bus{}) {
		f.bus = drivers.Bus{Kind: drivers.I2C, Name: "fake"}
	}
	if f.channels == nil {
		f.channels = []drivers.Channel{{Name: "v"}}
	}
	return config.Sensor{Name: name, Driver: "fake", Every: config.Duration(every), Timeout: config.Duration(500 * time.Millisecond), Options: f, Channels: f.channels}
}

func value(v float64) []drivers.Reading { return []drivers.Reading{{Channel: "v", Value: v}} }

// memory is a lane that keeps polls in memory.
type memory struct {
	mu    sync.Mutex
	polls []buffer.Poll
	at    []time.Time
	gaps  []buffer.Gap
	seq   buffer.Seq
	err   error
}

func (m *memory) Append(p buffer.Poll) (buffer.Seq, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return 0, m.err
	}
	first := m.seq + 1
	m.seq += buffer.Seq(len(p.Readings))
	p.Readings = append([]drivers.Reading(nil), p.Readings...)
	m.polls, m.at = append(m.polls, p), append(m.at, time.Now())
	return first, nil
}

func (m *memory) NoteGap(g buffer.Gap) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gaps = append(m.gaps, g)
	return nil
}

func (m *memory) of(channel string) (at []time.Time, values []float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, p := range m.polls {
		for _, r := range p.Readings {
			if r.Channel == channel {
				at, values = append(at, m.at[i]), append(values, r.Value)
			}
		}
	}
	return at, values
}

type goClock struct{ began time.Time }

func (c goClock) Stamp() drivers.Stamp {
	return drivers.Stamp{Boot: [16]byte{1}, Mono: time.Since(c.began), Wall: time.Now().UnixMilli(), Trusted: true}
}
func (goClock) Source() (string, *float64) { return "test", nil }

// rig is a sampler over fakes, in a bubble of its own time.
type rig struct {
	*sampler
	mem    *memory
	alarms []buffer.Seq
	stop   context.CancelFunc
	ctx    context.Context
}

func newRig(t *testing.T, open OpenBus) *rig {
	t.Helper()
	if open == nil {
		open = func(context.Context, drivers.Bus) (*hostbus.Handle, error) { return &hostbus.Handle{}, nil }
	}
	log := slog.New(slog.DiscardHandler)
	r := &rig{mem: &memory{}}
	r.sampler = &sampler{
		open: open, clock: goClock{time.Now()}, sink: r.mem, problems: newProblems(time.Now, log), log: log, vital: newVital(),
		alarmed: func(s buffer.Seq) { r.alarms = append(r.alarms, s) },
	}
	r.ctx, r.stop = context.WithCancel(t.Context())
	return r
}

func (r *rig) end() {
	r.stop()
	r.wait(time.Minute)
}

func (r *rig) codes() (codes []string) {
	for _, p := range r.problems.list() {
		codes = append(codes, p.Code+" "+p.Subject)
	}
	return codes
}

func TestSamplerKeepsItsGrid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		n := 0
		r.apply(r.ctx, []config.Sensor{fakeConfig("a", time.Second, &fakeOptions{read: func(context.Context) ([]drivers.Reading, error) {
			n++
			time.Sleep(time.Duration(n%7) * 100 * time.Millisecond) // a varying read must not push the next tick
			return value(float64(n)), nil
		}})}, nil)
		time.Sleep(60 * time.Second)
		r.end()
		at, _ := r.mem.of("a/v")
		require.InDelta(t, 60, len(at), 1)
		for i := range at {
			took := time.Duration((i+1)%7) * 100 * time.Millisecond
			require.Equal(t, at[0].Add(-100*time.Millisecond).Add(time.Duration(i)*time.Second), at[i].Add(-took))
		}
		require.Zero(t, r.status()[0].Missed)
	})
}

func TestSamplerCountsMissedTicksAndNeverBunches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.apply(r.ctx, []config.Sensor{fakeConfig("a", time.Second, &fakeOptions{read: func(context.Context) ([]drivers.Reading, error) {
			time.Sleep(2500 * time.Millisecond)
			return value(1), nil
		}})}, nil)
		time.Sleep(31 * time.Second)
		require.Contains(t, r.codes(), "sensor.slow a")
		r.end()
		at, _ := r.mem.of("a/v")
		require.InDelta(t, 10, len(at), 1)
		for i := 1; i < len(at); i++ {
			require.Equal(t, 3*time.Second, at[i].Sub(at[i-1]))
		}
		require.EqualValues(t, 2*len(at), r.status()[0].Missed)
		require.Empty(t, r.codes(), "nobody is there any more")
	})
}

func TestSilentNeighbourCostsOneTimeoutPerBackoffStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var asked atomic.Int64
		var silent atomic.Bool
		silent.Store(true)
		r.apply(r.ctx, []config.Sensor{
			fakeConfig("dead", time.Second, &fakeOptions{read: func(context.Context) ([]drivers.Reading, error) {
				asked.Add(1)
				if !silent.Load() {
					return value(2), nil
				}
				time.Sleep(500 * time.Millisecond)
				return nil, fmt.Errorf("fake: %w", drivers.ErrTimeout)
			}}),
			fakeConfig("alive", 100*time.Millisecond, &fakeOptions{read: func(context.Context) ([]drivers.Reading, error) {
				time.Sleep(10 * time.Millisecond)
				return value(1), nil
			}}),
		}, nil)
		time.Sleep(10 * time.Minute)
		require.Less(t, asked.Load(), int64(20))
		require.Greater(t, asked.Load(), int64(12), "never given up")
		s := r.status()
		require.Equal(t, "silent", s[0].State)
		require.Equal(t, "ok", s[1].State)
		require.LessOrEqual(t, s[1].Missed, uint64(asked.Load()*5), "each question cost the neighbour one time-out of 500 ms at most")
		require.Contains(t, r.codes(), "sensor.silent dead")
		silent.Store(false)
		time.Sleep(time.Minute + time.Second)
		require.Equal(t, "ok", r.status()[0].State, "back within the longest back-off")
		require.Empty(t, r.codes())
		r.end()
	})
}

func TestUnplugClosesFirstAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var plugged atomic.Bool
		var open atomic.Int64
		plugged.Store(true)
		r := newRig(t, func(context.Context, drivers.Bus) (*hostbus.Handle, error) {
			if !plugged.Load() {
				return nil, fmt.Errorf("fake: %w", drivers.ErrGone)
			}
			require.Zero(t, open.Load(), "the lost port is closed before it is opened again")
			open.Add(1)
			return hostbus.NewHandle(func() error { open.Add(-1); return nil }), nil
		})
		read := func(context.Context) ([]drivers.Reading, error) {
			if !plugged.Load() {
				return nil, fmt.Errorf("fake: read: %w", drivers.ErrGone)
			}
			return value(1), nil
		}
		r.apply(r.ctx, []config.Sensor{fakeConfig("a", 10*time.Second, &fakeOptions{read: read}), fakeConfig("b", time.Second, &fakeOptions{read: read})}, nil)
		time.Sleep(20 * time.Second)
		plugged.Store(false)
		time.Sleep(30 * time.Second)
		require.Equal(t, "gone", r.status()[0].State)
		require.Equal(t, "gone", r.status()[1].State)
		require.ElementsMatch(t, []string{"sensor.gone a", "sensor.gone b"}, r.codes())
		back := time.Now()
		plugged.Store(true)
		time.Sleep(5 * time.Second)
		for _, ch := range []string{"a/v", "b/v"} {
			at, _ := r.mem.of(ch)
			require.Less(t, at[len(at)-1].Sub(back), 5*time.Second)
			first := at[len(at)-1]
			for i := len(at) - 1; i >= 0 && !at[i].Before(back); i-- {
				first = at[i]
			}
			require.LessOrEqual(t, first.Sub(back), 2*time.Second, ch)
		}
		require.Empty(t, r.codes())
		r.end()
		require.Zero(t, open.Load(), "the bus is closed at the end")
	})
}

func TestWrongInstrumentAndHeldRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var opened atomic.Int64
		reads := 0
		r.apply(r.ctx, []config.Sensor{
			fakeConfig("wrong", time.Second, &fakeOptions{open: func() error { opened.Add(1); return fmt.Errorf("fake: id 0x58: %w", drivers.ErrWrong) }}),
			fakeConfig("held", time.Second, &fakeOptions{read: func(context.Context) ([]drivers.Reading, error) {
				if reads++; reads == 2 {
					return nil, &drivers.HeldError{After: 300 * time.Millisecond}
				}
				return value(1), nil
			}}),
		}, nil)
		time.Sleep(60 * time.Second)
		s := r.status()
		require.Equal(t, "wrong", s[0].State)
		require.InDelta(t, 6, opened.Load(), 1, "asked rarely: nothing changes by asking")
		require.Zero(t, s[1].Errors, "what was not asked has not failed")
		require.InDelta(t, 60, s[1].Readings, 1)
		r.end()
	})
}

func TestRecordFilters(t *testing.T) {
	p := func(v float64) *float64 { return &v }
	yes := true
	for _, tc := range []struct {
		name    string
		channel drivers.Channel
		alarms  []config.Alarm
		in      []float64
		want    []float64
		suspect []float64
		alarmed int
	}{
		{"all", drivers.Channel{}, nil, []float64{1, 1, 1}, []float64{1, 1, 1}, nil, 0},
		{"on change", drivers.Channel{OnChange: &yes}, nil, []float64{1, 1, 2, 2, 1}, []float64{1, 2, 1}, nil, 0},
		{"dead-band against the last recorded", drivers.Channel{Deadband: p(1)}, nil, []float64{0, 0.6, 0.9, 1.2, 1.5, 0.1}, []float64{0, 1.2, 0.1}, nil, 0},
		{"suspect", drivers.Channel{Min: p(0), Max: p(10)}, nil, []float64{-1, 0, 10, 11}, []float64{-1, 0, 10, 11}, []float64{-1, 11}, 0},
		{"suspect breaks the dead-band", drivers.Channel{Deadband: p(5), Max: p(10)}, nil, []float64{9, 11, 9}, []float64{9, 11, 9}, []float64{11}, 0},
		{"alarm enters and leaves", drivers.Channel{OnChange: &yes}, []config.Alarm{{Channel: "a/v", Above: p(5)}}, []float64{1, 6, 6, 7, 2, 2}, []float64{1, 6, 7, 2}, nil, 2},
		{"rounded", drivers.Channel{Resolution: p(0.1)}, nil, []float64{21.3, 21.349, 21.35, -0.01}, []float64{21.3, 21.3, 21.4, 0}, nil, 0},
		{"on change of what is rounded", drivers.Channel{Resolution: p(0.5), OnChange: &yes}, nil, []float64{1, 1.2, 1.3, 1.6, 1}, []float64{1, 1.5, 1}, nil, 0},
		{"dead-band of what is rounded", drivers.Channel{Resolution: p(0.1), Deadband: p(0.1)}, nil, []float64{21.3, 21.34, 21.36, 21.44, 21.46}, []float64{21.3, 21.4, 21.5}, nil, 0},
		{"limits of what the instrument said", drivers.Channel{Resolution: p(1), Max: p(10)}, nil, []float64{10, 10.4, 9.6}, []float64{10, 10, 10}, []float64{10}, 0},
		{"alarm of what the instrument said", drivers.Channel{Resolution: p(1), OnChange: &yes}, []config.Alarm{{Channel: "a/v", Above: p(5)}}, []float64{5, 5.1, 5.4, 4.9}, []float64{5, 5, 5}, nil, 2},
		{"alarm below", drivers.Channel{Deadband: p(100)}, []config.Alarm{{Channel: "a/v", Below: p(0)}}, []float64{1, -1}, []float64{1, -1}, nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				tc.channel.Name = "v"
				i := 0
				r.apply(r.ctx, []config.Sensor{fakeConfig("a", time.Second, &fakeOptions{channels: []drivers.Channel{tc.channel}, read: func(context.Context) ([]drivers.Reading, error) {
					if i == len(tc.in) {
						return nil, errors.New("the end")
					}
					i++
					return value(tc.in[i-1]), nil
				}})}, tc.alarms)
				time.Sleep(20 * time.Second)
				r.end()
				_, got := r.mem.of("a/v")
				require.Equal(t, tc.want, got)
				var suspect []float64
				for _, p := range r.mem.polls {
					if p.Readings[0].Quality == drivers.Suspect {
						suspect = append(suspect, p.Readings[0].Value)
					}
				}
				require.Equal(t, tc.suspect, suspect)
				require.Len(t, r.alarms, tc.alarmed)
			})
		})
	}
}

func TestNoNumberIsNoReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		bad := []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1<<53 + 2}
		i := 0
		r.apply(r.ctx, []config.Sensor{fakeConfig("a", time.Second, &fakeOptions{channels: []drivers.Channel{{Name: "v"}, {Name: "w"}}, read: func(context.Context) ([]drivers.Reading, error) {
			i++
			return append(value(bad[i%len(bad)]), drivers.Reading{Channel: "w", Value: 1}, drivers.Reading{Channel: "stranger"}), nil
		}})}, nil)
		time.Sleep(10 * time.Second)
		r.end()
		_, v := r.mem.of("a/v")
		_, w := r.mem.of("a/w")
		require.Empty(t, v)
		require.Len(t, w, 10)
		require.Equal(t, "partial", r.status()[0].State)
		require.Contains(t, r.status()[0].LastError, "stranger")
	})
}

func TestFullBufferCountsWhatItDoesNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		above := 0.0
		r.apply(r.ctx, []config.Sensor{fakeConfig("a", time.Second, &fakeOptions{read: func(context.Context) ([]drivers.Reading, error) { return value(1), nil }})},
			[]config.Alarm{{Channel: "a/v", Above: &above}})
		r.mem.mu.Lock()
		r.mem.err = buffer.ErrFull
		r.mem.mu.Unlock()
		time.Sleep(10 * time.Second)
		r.mem.mu.Lock()
		r.mem.err = nil
		require.Len(t, r.mem.gaps, 10)
		require.Equal(t, buffer.Unsampled, r.mem.gaps[0].Reason)
		r.mem.mu.Unlock()
		require.EqualValues(t, 10, r.status()[0].Unsampled)
		time.Sleep(5 * time.Second)
		r.end()
		require.Len(t, r.alarms, 1, "the alarm that could not be kept is raised again")
	})
}

func TestApplyKeepsUnchangedBusesAndStopsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		read := func(context.Context) ([]drivers.Reading, error) { return value(1), nil }
		one := fakeConfig("one", time.Second, &fakeOptions{bus: drivers.Bus{Name: "1"}, open: nil, read: nil})
		one.Options.(*fakeOptions).read = read
		two := fakeConfig("two", time.Second, &fakeOptions{bus: drivers.Bus{Name: "2"}, read: read})
		r.apply(r.ctx, []config.Sensor{two}, nil)
		time.Sleep(5 * time.Second)
		r.apply(r.ctx, []config.Sensor{one}, nil)
		require.Len(t, r.status(), 1)
		before, _ := r.mem.of("two/v")
		time.Sleep(5 * time.Second)
		after, _ := r.mem.of("two/v")
		require.Len(t, after, len(before), "a bus that is gone from the configuration is silent")
		at, _ := r.mem.of("one/v")
		require.Len(t, at, 5)
		r.end()
	})
}

func TestStuckDriverIsNamedAndDoesNotHoldTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		release := make(chan struct{})
		r.apply(r.ctx, []config.Sensor{fakeConfig("a", time.Second, &fakeOptions{read: func(context.Context) ([]drivers.Reading, error) {
			<-release
			return nil, errors.New("released")
		}})}, nil)
		time.Sleep(time.Minute)
		require.Empty(t, r.vital.stuck())
		time.Sleep(5 * time.Minute)
		require.Equal(t, "bus fake", r.vital.stuck())
		r.stop()
		began := time.Now()
		r.wait(time.Second)
		require.Equal(t, time.Second, time.Since(began))
		close(release)
		r.wait(time.Minute)
	})
}

// TestReloadWaitsForNobody: a bus in the middle of a long poll goes over when that ends; the others at once.
func TestReloadWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var busy atomic.Int64
		slow := fakeConfig("slow", time.Second, &fakeOptions{bus: drivers.Bus{Name: "1"}, read: func(ctx context.Context) ([]drivers.Reading, error) {
			if busy.Add(1) > 1 {
				t.Error("two owners on one bus")
			}
			defer busy.Add(-1)
			time.Sleep(20 * time.Second) // heeds no context
			return value(1), nil
		}})
		quick := fakeConfig("quick", time.Second, &fakeOptions{bus: drivers.Bus{Name: "2"}, read: func(context.Context) ([]drivers.Reading, error) { return value(1), nil }})
		r.apply(r.ctx, []config.Sensor{slow, quick}, nil)
		time.Sleep(5 * time.Second)
		began := time.Now()
		for i := range 3 { // changes every bus
			above := 100 + float64(i)
			r.apply(r.ctx, []config.Sensor{slow, quick}, []config.Alarm{{Channel: "quick/v", Above: &above}})
		}
		require.Zero(t, time.Since(began))
		time.Sleep(10 * time.Second)
		at, _ := r.mem.of("quick/v")
		require.InDelta(t, 15, len(at), 2)
		time.Sleep(2 * time.Minute)
		_, v := r.mem.of("slow/v")
		require.Greater(t, len(v), 4, "the slow one goes on, its long poll was kept")
		require.Len(t, r.status(), 2)
		for _, x := range r.status() {
			_, v := r.mem.of(x.Name + "/v")
			require.EqualValues(t, len(v), x.Readings, "%s: what its last poll before the change recorded counts", x.Name)
		}
		r.end()
	})
}
