package ledger

import (
	"encoding/json"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
)

// store keeps what a kill leaves and what a power cut leaves.
type store struct {
	written, durable map[string]string
	fail             error
	puts             int
	flushed          chan struct{}
}

func newStore() *store {
	return &store{written: map[string]string{}, durable: map[string]string{}, flushed: make(chan struct{})}
}

func (s *store) Durable() <-chan struct{} { return s.flushed }

func (s *store) Side(key string) []byte {
	if v, ok := s.written[key]; ok {
		return []byte(v)
	}
	return nil
}

func (s *store) PutSide(key string, value []byte) error {
	if s.fail != nil {
		return s.fail
	}
	s.puts++
	s.written[key] = string(value)
	return nil
}

func (s *store) flush() {
	s.durable = maps.Clone(s.written)
	close(s.flushed)
	s.flushed = make(chan struct{})
}

func (s *store) powerCut() { s.written = maps.Clone(s.durable) }

// site is a gateway's ledger and its clock, which may be wrong.
type site struct {
	*Ledger
	store   *store
	budget  Budget
	now     time.Time // the truth
	boot    byte
	booted  time.Time
	trusted bool
	off     time.Duration
}

func newSite(at string, b Budget) *site {
	now, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	s := &site{store: newStore(), budget: b, now: now, booted: now, trusted: true}
	s.open()
	return s
}

func (s *site) open() {
	s.Ledger = Open(Options{Store: s.store, Durable: s.store.Durable, Home: "mqtt/o/p/q", Clock: s.stamp, Budget: func() Budget { return s.budget }})
}

func (s *site) restart() {
	s.boot++
	s.booted = s.now
	s.open()
}

func (s *site) stamp() drivers.Stamp {
	return drivers.Stamp{Boot: [16]byte{s.boot}, Mono: s.now.Sub(s.booted), Wall: s.now.Add(s.off).UnixMilli(), Trusted: s.trusted}
}

func (s *site) spend(t require.TestingT, k Kind, cost int) {
	_, err := s.Count(Entry{Class: Billed, Cost: cost, Kind: k, Readings: 10 * cost})
	require.NoError(t, err)
}

func TestRule(t *testing.T) {
	for _, c := range []struct{ per, bytes, cost int }{
		{1024, 0, 1}, {1024, 1, 1}, {1024, 1024, 1}, {1024, 1025, 2}, {1024, 16384, 16}, {0, 0, 1}, {0, 1 << 20, 1}, {512, 1024, 2},
	} {
		require.Equal(t, c.cost, Rule{c.per}.Cost(c.bytes), "%d bytes, one per started %d", c.bytes, c.per)
	}
}

func TestCountsByClassAndMonth(t *testing.T) {
	s := newSite("2026-03-10T12:00:00Z", Budget{Operations: 100, Day: 15, AtLimit: Hold})
	s.spend(t, Live, 3)
	s.spend(t, Alarm, 2)
	for _, c := range []Class{Free, Unknown, Unknown} {
		_, err := s.Count(Entry{Class: c, Cost: 1, Kind: Overhead})
		require.NoError(t, err)
	}
	r := s.Report()
	require.Equal(t, []any{"2026-02-15", uint64(5), uint64(2), uint64(1), uint64(2), uint64(50)}, []any{r.Month, r.Used, r.Alarms, r.Free, r.Unknown, r.Single})
	s.now = s.now.AddDate(0, 0, 6)
	r = s.Report()
	require.Equal(t, "2026-03-15", r.Month)
	require.Zero(t, r.Used)
	require.Equal(t, []Past{{"2026-02-15", 5, 50}}, r.Past)
	for range 20 { // a year and more: what is older goes
		s.now = s.now.AddDate(0, 1, 0)
		s.spend(t, Live, 1)
	}
	r = s.Report()
	require.Len(t, r.Past, keptMonths)
	require.Equal(t, "2026-10-15", r.Past[0].Month)
	s.restart()
	require.Equal(t, r.Past, s.Report().Past)
	require.EqualValues(t, 1, s.Report().Used)
}

// The month begins at midnight where the bill is written.
func TestMonthInItsZone(t *testing.T) {
	zone, err := time.LoadLocation("America/New_York")
	require.NoError(t, err)
	s := newSite("2026-04-01T03:55:00Z", Budget{Day: 1, Zone: zone}) // 23:55 on the 31st of March
	require.Equal(t, "2026-03-01", s.Report().Month)
	s.now = s.now.Add(5 * time.Minute)
	require.Equal(t, "2026-04-01", s.Report().Month)
}

// What is counted just before the month ends may be billed in the next.
func TestEdgeOfTheMonth(t *testing.T) {
	s := newSite("2026-03-31T23:57:00Z", Budget{Day: 1})
	s.spend(t, Live, 7)
	s.now = s.now.Add(2 * time.Minute)
	s.spend(t, Live, 1)
	s.now = s.now.Add(2 * time.Minute)
	r := s.Report()
	require.Equal(t, "2026-04-01", r.Month)
	require.EqualValues(t, 1, r.Used)
	require.EqualValues(t, 8, r.Past[0].Used)
}

// A clock that went wrong for a while and came back has neither lost nor doubled anything.
func TestClockThatWasWrong(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 400 * 24 * time.Hour, "behind": -400 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			s := newSite("2026-03-10T12:00:00Z", Budget{Day: 1})
			s.spend(t, Live, 10)
			s.now, s.off = s.now.Add(time.Hour), off
			s.spend(t, Live, 5)
			s.now, s.off = s.now.Add(time.Hour), 0
			require.EqualValues(t, 15, s.Report().Used)
			require.Equal(t, "2026-03-01", s.Report().Month)
			s.now = s.now.AddDate(0, 1, 0)
			require.Zero(t, s.Report().Used)
			require.Equal(t, "2026-04-01", s.Report().Month)
		})
	}
}

// What was counted before any clock was right is part of the month that the clock shows in the end.
func TestDoubtResolvedByAWrongClock(t *testing.T) {
	s := newSite("2026-03-10T12:00:00Z", Budget{Day: 1})
	s.trusted = false
	s.spend(t, Live, 10)
	s.restart()
	s.trusted, s.off = true, -40*24*time.Hour
	require.Equal(t, "2026-01-01", s.Report().Month)
	s.off = 0
	require.Equal(t, "2026-03-01", s.Report().Month)
	require.EqualValues(t, 10, s.Report().Used)
}

// Another billing day means another month, of which what was counted may be part.
func TestBillingDayMoved(t *testing.T) {
	s := newSite("2026-03-10T12:00:00Z", Budget{Day: 1})
	s.spend(t, Live, 10)
	s.budget.Day = 5
	require.Equal(t, "2026-03-05", s.Report().Month)
	require.EqualValues(t, 10, s.Report().Used)
}

func TestHomesHaveTheirOwnAccounts(t *testing.T) {
	s := newSite("2026-03-10T12:00:00Z", Budget{Day: 1})
	s.spend(t, Live, 10)
	o := s.o
	o.Home = "mqtt/o/elsewhere/q"
	other := Open(o)
	require.Zero(t, other.Report().Used)
	_, err := other.Count(Entry{Class: Billed, Cost: 3})
	require.NoError(t, err)
	require.EqualValues(t, 10, Open(s.o).Report().Used)
	require.EqualValues(t, 3, Open(o).Report().Used)
}

// The account of the releases before this one: {"month","used"}.
func TestAccountOfBefore(t *testing.T) {
	s := newSite("2026-03-10T12:00:00Z", Budget{Day: 1, Operations: 100})
	require.NoError(t, s.store.PutSide("operations", []byte(`{"month":"2026-03-01","used":42}`)))
	s.restart()
	require.EqualValues(t, 42, s.Report().Used)
	s.spend(t, Live, 1)
	var old struct {
		Month string
		Used  uint64
	}
	require.NoError(t, json.Unmarshal(s.store.Side("operations"), &old))
	require.Equal(t, "2026-03-01", old.Month)
	require.EqualValues(t, 43, old.Used)
}

func TestNotCounted(t *testing.T) {
	s := newSite("2026-03-10T12:00:00Z", Budget{Day: 1})
	s.store.fail = errors.New("no space left")
	_, err := s.Count(Entry{Class: Billed, Cost: 1})
	require.ErrorContains(t, err, "no space left")
	require.Zero(t, s.Report().Used)
	require.Error(t, s.Report().NotCounted)
	s.store.fail = nil
	s.spend(t, Live, 1)
	require.EqualValues(t, 1, s.Report().Used)
	require.NoError(t, s.Report().NotCounted)
}

// What is not billed rarely writes.
func TestOverheadIsCountedAhead(t *testing.T) {
	s := newSite("2026-03-10T12:00:00Z", Budget{Day: 1})
	waits, before := 0, s.store.puts
	for range 100 {
		s.store.flush()
		wait, err := s.Count(Entry{Class: Unknown, Cost: 1, Kind: Overhead})
		require.NoError(t, err)
		if wait {
			waits++
		}
	}
	require.Equal(t, s.store.puts-before, waits)
	require.LessOrEqual(t, waits, 7)
	require.EqualValues(t, 100, s.Report().Unknown)
}

// Whatever is sent, lost, cut or mistimed: once the clock is right, the month has at least what was sent in it.
func TestNeverCountsLessThanWasSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		day := rapid.IntRange(1, 31).Draw(t, "billing day")
		s := newSite("2026-01-20T12:00:00Z", Budget{Operations: 1000, Day: day, AtLimit: rapid.SampledFrom([]string{Hold, Thin, Continue}).Draw(t, "at limit")})
		type pending struct {
			cost  uint64
			class Class
		}
		billed, unknown := map[string]uint64{}, map[string]uint64{}
		var waiting []pending
		month := func() string {
			start, _ := Month(s.now, day, nil)
			return start.Format(time.DateOnly)
		}
		sent := func(p pending) {
			if p.class == Billed {
				billed[month()] += p.cost
			} else {
				unknown[month()] += p.cost
			}
		}
		wrongUnseen := false // a trusted clock is wrong: what shows it is its jump, which nobody sees over a restart, so there is none
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				r := s.Report()
				if s.trusted && s.off == 0 {
					require.Equal(t, month(), r.Month)
					require.GreaterOrEqual(t, r.Used, billed[month()])
					require.GreaterOrEqual(t, r.Unknown, unknown[month()])
				}
			},
			"count": func(t *rapid.T) {
				p := pending{uint64(rapid.IntRange(1, 16).Draw(t, "cost")), rapid.SampledFrom([]Class{Billed, Billed, Unknown}).Draw(t, "class")}
				wait, err := s.Count(Entry{Class: p.class, Cost: int(p.cost), Kind: rapid.SampledFrom([]Kind{Alarm, Live, Backlog}).Draw(t, "kind")})
				require.NoError(t, err)
				if wait {
					waiting = append(waiting, p)
				} else {
					sent(p)
				}
			},
			"flush": func(*rapid.T) {
				s.store.flush()
				s.now = s.now.Add(time.Second)
				for _, p := range waiting {
					sent(p)
				}
				waiting = nil
			},
			"wait": func(t *rapid.T) {
				if len(waiting) > 0 {
					return // a flush is never far
				}
				d := rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 12 * 24 * time.Hour, 29 * 24 * time.Hour}).Draw(t, "for")
				s.now = s.now.Add(d)
			},
			"refused": func(t *rapid.T) {
				s.store.fail = errors.New("full")
				_, err := s.Count(Entry{Class: Billed, Cost: 1})
				require.Error(t, err)
				s.store.fail = nil
			},
			"kill": func(t *rapid.T) {
				if wrongUnseen {
					return
				}
				waiting = nil
				s.restart()
			},
			"power cut": func(*rapid.T) {
				if wrongUnseen {
					return
				}
				waiting = nil
				s.store.powerCut()
				s.restart()
			},
			"lose trust": func(t *rapid.T) {
				s.trusted = false
				s.off = time.Duration(rapid.IntRange(-900, 900).Draw(t, "days off")) * 24 * time.Hour
			},
			"wrong": func(t *rapid.T) {
				if s.trusted {
					wrongUnseen = true
					s.off = time.Duration(rapid.IntRange(-900, 900).Draw(t, "days off")) * 24 * time.Hour
					s.Report() // it is looked at each second
				}
			},
			"right": func(*rapid.T) {
				s.trusted, s.off, wrongUnseen = true, 0, false
				s.Report()
				s.store.flush()
			},
		})
	})
}
