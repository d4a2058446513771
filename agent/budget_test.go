package agent

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/agent/pack"
	"homeward/buffer"
)

// spread appends a reading a second that fills a payload in about a minute.
func (d *desk) spread(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		d.append(t, "s/a-rather-long-name-of-a-channel", float64(i)/7, false)
		time.Sleep(time.Second)
	}
}

func TestHoldKeepsWhatTheBudgetDoesNotCarry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.budget.Store(&ledger.Budget{Operations: 20, Day: 1, Reserve: 0.1, AtLimit: ledger.Hold, Backlog: 0.5})
		d.run(t)
		d.spread(t, 4*3600)
		operations := len(d.home.arrivals())
		require.Less(t, operations, 18)
		require.Contains(t, d.codes(), "operations.held")
		require.Zero(t, d.buf.Stats().Dropped)
		v, _, _ := d.status()
		require.Greater(t, v.MaxAgeS, 100.0)
		for range 2 { // the reserve
			d.append(t, "s/alarm", 1, true)
		}
		time.Sleep(5 * time.Second)
		alarms := 0
		for _, a := range d.home.arrivals() {
			if a.alarm {
				alarms++
			}
		}
		require.Equal(t, 2, alarms)
		require.Positive(t, d.buf.Stats().Pending)

		// All of it is spent: alarms wait too, and say so; a larger budget lets them go.
		for range 20 {
			d.append(t, "s/alarm", 1, true)
		}
		time.Sleep(time.Minute)
		require.Len(t, d.home.arrivals(), 20)
		held := false
		for _, p := range d.problems.list() {
			held = held || p.Code == "operations.held" && p.Subject == "alarms"
		}
		require.True(t, held)
		b := *d.budget.Load()
		b.Operations = 100_000
		d.budget.Store(&b)
		time.Sleep(time.Minute)
		alarms = 0
		for _, a := range d.home.arrivals() {
			if a.alarm {
				alarms++
			}
		}
		require.Equal(t, 22, alarms)
		time.Sleep(12 * time.Hour)
		require.Zero(t, d.buf.Stats().Pending)
		require.Empty(t, d.codes())
		d.end(t)
	})
}

// What waits for the budget after a restart says so too.
func TestHeldBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.budget.Store(&ledger.Budget{Operations: 20, Day: 1, Reserve: 0.1, AtLimit: ledger.Hold, Backlog: 0.5})
		for i := range 3000 {
			d.append(t, "s/a-rather-long-name-of-a-channel", float64(i)/7, false)
		}
		d.run(t)
		time.Sleep(20 * time.Minute)
		require.Contains(t, d.codes(), "operations.held")
		d.end(t)
	})
}

func TestContinueGoesBeyondTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		d.budget.Store(&ledger.Budget{Operations: 20, Day: 1, Reserve: 0.1, AtLimit: ledger.Continue, Backlog: 0.5})
		d.run(t)
		d.spread(t, 3600)
		require.Greater(t, len(d.home.arrivals()), 20, "full payloads are not held")
		require.Less(t, d.buf.Stats().Pending, uint64(60))
		require.NotContains(t, d.codes(), "operations.held")
		d.end(t)
	})
}

// A budget that never holds a full payload gets smaller ones.
func TestPayloadsThatTheBudgetHolds(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{ledger.Hold, ledger.Thin} {
		t.Run(limit, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, func(c *config.Publish) { c.MaxBytes = 64 << 10 })
				d.budget.Store(&ledger.Budget{Operations: 30, Day: 1, Reserve: 0.1, AtLimit: limit, Backlog: 0.5})
				d.run(t)
				for i := range 3 * 24 * 60 {
					d.append(t, "s/a-rather-long-name-of-a-channel", float64(i)/7, false)
					time.Sleep(time.Minute)
				}
				came := d.home.arrivals()
				require.Greater(t, len(came), 1, "not one in a month")
				require.Less(t, time.Since(came[len(came)-1].at), 50*time.Hour)
				for _, a := range came {
					require.LessOrEqual(t, len(a.bytes), 2<<10)
				}
				require.LessOrEqual(t, d.ledger.Report().Used, uint64(27))
				d.end(t)
			})
		})
	}
}

// refusing is a store that takes nothing while it is full.
type refusing struct {
	*buffer.Buffer
	full *atomic.Bool
}

func (r refusing) PutSide(key string, value []byte) error {
	if r.full.Load() {
		return errors.New("no space left on device")
	}
	return r.Buffer.PutSide(key, value)
}

// elsewhere keeps the account apart from the buffer.
type elsewhere map[string][]byte

func (e elsewhere) Side(key string) []byte { return e[key] }
func (e elsewhere) PutSide(key string, value []byte) error {
	e[key] = value
	return nil
}

// What is billed is counted with the flush that its attempt needs anyway.
func TestCountingCostsNoFlush(t *testing.T) {
	flushes := func(apart bool) (n uint64) {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, nil)
			o := ledger.Options{Store: d.buf, Durable: d.lane.Durable, Clock: d.clock.Stamp, Budget: func() ledger.Budget { return *d.budget.Load() }}
			if apart {
				o.Store = elsewhere{}
			}
			d.ledger = ledger.Open(o)
			d.run(t)
			time.Sleep(time.Minute)
			before := d.buf.Stats().Flushes
			for i := range 30 {
				d.append(t, "s/c", float64(i), false)
				time.Sleep(20 * time.Second)
			}
			n = d.buf.Stats().Flushes - before
			require.EqualValues(t, 30, d.ledger.Report().Used)
			d.end(t)
		})
		return n
	}
	apart, within := flushes(true), flushes(false)
	t.Logf("%d flushes for 30 payloads, %d with the account elsewhere", within, apart)
	require.Less(t, within, apart+15, "one a payload would be 30")
}

// What cannot be counted is not sent, and leaves once it can be.
func TestNotSentUncounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		full := &atomic.Bool{}
		d.ledger = ledger.Open(ledger.Options{
			Store: refusing{d.buf, full}, Durable: d.lane.Durable, Clock: d.clock.Stamp, Budget: func() ledger.Budget { return *d.budget.Load() },
		})
		d.run(t)
		time.Sleep(time.Minute)
		full.Store(true)
		d.append(t, "s/c", 1, false)
		d.append(t, "s/c", 2, true)
		time.Sleep(30 * time.Second)
		require.Empty(t, d.home.arrivals())
		full.Store(false)
		time.Sleep(30 * time.Second)
		require.Zero(t, d.buf.Stats().Pending)
		d.end(t)
	})
}

// A home that takes so many publishes in any time of a length gets no more, and alarms do not queue behind readings.
func TestRate(t *testing.T) {
	for _, window := range []int{0, 1} {
		t.Run(fmt.Sprint("window ", window), func(t *testing.T) { keepsToRate(t, window) })
	}
}

func keepsToRate(t *testing.T, window int) {
	synctest.Test(t, func(t *testing.T) {
		rate := config.Rate{N: 5, Per: 15 * time.Second}
		d := newDesk(t, func(c *config.Publish) { c.Rate, c.Window = rate, window })
		for i := range 3000 {
			d.append(t, "s/a-rather-long-name-of-a-channel", float64(i)/7, false)
		}
		d.run(t)
		time.Sleep(20 * time.Second)
		began := time.Now()
		seq := d.append(t, "s/alarm", 1, true)
		time.Sleep(10 * time.Minute)
		came := d.home.arrivals()
		require.EqualValues(t, 3001, d.buf.Stats().Delivered)
		require.Greater(t, len(came), 50)
		for i := range came {
			if i >= rate.N {
				require.GreaterOrEqual(t, came[i].at.Sub(came[i-rate.N].at), rate.Per)
			}
			if came[i].alarm {
				require.EqualValues(t, seq, came[i].payload.First)
				require.Less(t, came[i].at.Sub(began), 2*time.Second)
			}
		}
		d.end(t)
	})
}

// A budget that is made smaller must not wait for more operations at once than it ever allows.
func TestBudgetLoweredBeforeAggregatesLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeskOn(t, 1<<20, nil)
		defer d.end(t)
		b := ledger.Budget{Operations: 10_000, Day: 1, Reserve: 0.1, AtLimit: ledger.Thin, Backlog: 0.5}
		d.budget.Store(&b)
		d.run(t)
		for k := range 150 {
			for i := range 400 { // so many that the aggregates of one interval need 100 payloads and more
				d.append(t, fmt.Sprintf("s/a-rather-long-name-of-a-channel-%03d", i), float64(i*k)/7, false)
			}
			time.Sleep(10 * time.Second)
		}
		_, _, most := d.ledger.Spendable()
		require.Greater(t, most, 200.0)
		require.Greater(t, d.buf.Stats().Pending, uint64(40_000))
		less := b
		less.Operations = 3000
		d.budget.Store(&less)
		cfg := *d.cfg.Load() // as any reload brings one
		d.cfg.Store(&cfg)
		time.Sleep(4 * 24 * time.Hour)
		require.Less(t, d.buf.Stats().Pending, uint64(1000))
		require.NotContains(t, d.codes(), "operations.held")
	})
}

// countedWriter has ten readings a byte.
type countedWriter struct {
	pack.Writer
	n, asked int
}

func (w *countedWriter) Len() int { return w.n }
func (w *countedWriter) Size() int {
	w.asked++
	return w.n / 10
}

// What a long payload costs is not asked for with each reading that comes while it is held.
func TestCostOfWhatGrowsIsSeldomAsked(t *testing.T) {
	s := &session{publisher: &publisher{rule: func() ledger.Rule { return ledger.Rule{PerBytes: 1024} }}, limit: 64 << 10}
	w := &countedWriter{}
	r := run{rows: w}
	for w.n = 1; w.n < 600_000; w.n += 3 {
		about := s.costAbout(&r)
		exact := s.rule().Cost(w.n / 10)
		require.LessOrEqual(t, about, exact)
		require.GreaterOrEqual(t, float64(about), float64(exact)*15/16-1)
	}
	require.Less(t, w.asked, 300)
	require.Equal(t, s.rule().Cost(w.n/10), s.cost(&r), "before it leaves")
}

// What small payloads hold does not thin what fits into large ones.
func TestLargerPayloadsAreNotThinnedForSmallOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeskOn(t, 1<<20, func(c *config.Publish) { c.MaxBytes = 512; c.MaxAge = config.Duration(time.Minute) })
		defer d.end(t)
		d.budget.Store(&ledger.Budget{Operations: 100_000, Day: 1, Reserve: 0.1, AtLimit: ledger.Thin, Backlog: 0.5})
		d.run(t)
		d.spread(t, 3600)
		d.home.set(func() { d.home.dial = errors.New("away") })
		d.home.last.drop()
		cfg := *d.cfg.Load()
		cfg.MaxBytes = 64 << 10
		d.cfg.Store(&cfg)
		d.budget.Store(&ledger.Budget{Operations: 2000, Day: 1, Reserve: 0.1, AtLimit: ledger.Thin, Backlog: 0.5})
		d.spread(t, 3600)
		d.home.set(func() { d.home.dial = nil })
		time.Sleep(3 * 24 * time.Hour)
		v, _, _ := d.status()
		require.Zero(t, v.Thinned)
		require.Zero(t, d.buf.Stats().Pending)
	})
}
