package ledger

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// stream publishes live readings by age: one payload each present maximum age, as long as there is something to send.
type stream struct {
	*site
	least   time.Duration
	oldest  time.Time // of the readings that wait; zero: none
	backlog int       // payloads
	spent   int
	ages    []float64 // seconds, one a minute
	longest time.Duration
}

func (s *stream) step(t require.TestingT, d time.Duration, sampling, connected bool) {
	s.now = s.now.Add(d)
	if sampling && s.oldest.IsZero() {
		s.oldest = s.now
	}
	if !connected {
		return
	}
	age := s.MaxAge(s.least, 1)
	s.ages = append(s.ages, age.Seconds())
	if !s.oldest.IsZero() && s.now.Sub(s.oldest) >= age && s.May(Live, 1, s.backlog > 0) {
		s.longest = max(s.longest, s.now.Sub(s.oldest))
		s.spend(t, Live, 1)
		s.spent++
		s.oldest = time.Time{}
	}
	for s.backlog > 0 && s.May(Backlog, 1, true) {
		s.spend(t, Backlog, 1)
		s.spent++
		s.backlog--
	}
}

// steepest is the largest factor by which the age changed within so many steps, from step first on.
func (s *stream) steepest(first, steps int) float64 {
	most := 1.0
	for i := first + steps; i < len(s.ages); i++ {
		most = max(most, s.ages[i]/s.ages[i-steps], s.ages[i-steps]/s.ages[i])
	}
	return most
}

func TestPaceLastsTheMonth(t *testing.T) {
	for name, c := range map[string]struct {
		budget int64
		least  time.Duration
		low    float64 // of the ordinary budget is at least used
	}{
		"enough":     {7200, 15 * time.Minute, 0.3},
		"not enough": {7200, time.Minute, 0.93},
		"a tenth":    {720, time.Minute, 0.9},
		"very small": {60, time.Minute, 0.7},
	} {
		t.Run(name, func(t *testing.T) {
			s := &stream{site: newSite("2026-03-01T00:00:00Z", Budget{Operations: c.budget, Day: 1, Reserve: 0.1, AtLimit: Hold, Backlog: 0.5}), least: c.least}
			for s.now.Month() == time.March {
				s.step(t, time.Minute, true, true)
			}
			ordinary := 0.9 * float64(c.budget)
			t.Logf("%d of %v operations, longest wait %v, steepest change in half an hour: factor %.2f", s.spent, ordinary, s.longest, s.steepest(3*24*60, 30))
			require.LessOrEqual(t, float64(s.spent), ordinary)
			require.GreaterOrEqual(t, float64(s.spent), c.low*ordinary)
			require.Less(t, s.steepest(3*24*60, 30), 1.3) // once what a new gateway may spend at once is spent
			if name == "enough" {                         // then nothing is stretched
				require.Less(t, s.longest, c.least+2*time.Minute)
			}
		})
	}
}

// The age settles: no swing once the first day is over.
func TestPaceSettles(t *testing.T) {
	s := &stream{site: newSite("2026-03-01T00:00:00Z", Budget{Operations: 7200, Day: 1, Reserve: 0.1, AtLimit: Hold, Backlog: 0.5}), least: time.Minute}
	for s.now.Day() < 25 {
		s.step(t, time.Minute, true, true)
	}
	low, high := math.Inf(1), 0.0
	for _, a := range s.ages[5*24*60:] {
		low, high = min(low, a), max(high, a)
	}
	t.Logf("between %v and %v", low, high)
	require.Less(t, high/low, 1.1)
}

// After an outage the backlog leaves with what was saved, and live readings are hardly later than before.
func TestPaceAfterAnOutage(t *testing.T) {
	s := &stream{site: newSite("2026-03-01T00:00:00Z", Budget{Operations: 7200, Day: 1, Reserve: 0.1, AtLimit: Hold, Backlog: 0.5}), least: time.Minute}
	for s.now.Day() < 10 {
		s.step(t, time.Minute, true, true)
	}
	before := s.ages[len(s.ages)-1]
	for s.now.Day() < 13 {
		s.step(t, time.Minute, true, false)
	}
	s.backlog, s.oldest = 300, time.Time{} // of the 648 that were not spent
	n := len(s.ages)
	for began := s.now; s.backlog > 0; {
		s.step(t, time.Minute, true, true)
		require.Less(t, s.now.Sub(began), 12*time.Hour)
	}
	for s.now.Month() == time.March {
		s.step(t, time.Minute, true, true)
	}
	most := 0.0
	for _, a := range s.ages[n:] {
		most = max(most, a)
	}
	t.Logf("before %.0f s, at most %.0f s after", before, most)
	require.Less(t, most, 1.3*before)
	require.LessOrEqual(t, s.spent, 6480)
}

// Alarms take the reserve first and then what readings would have had; all together never more than the budget.
func TestAlarmsDrawOnTheReserve(t *testing.T) {
	s := newSite("2026-03-01T00:00:00Z", Budget{Operations: 100, Day: 1, Reserve: 0.1, AtLimit: Hold})
	for range 10 {
		require.True(t, s.May(Alarm, 1, false))
		s.spend(t, Alarm, 1)
	}
	require.EqualValues(t, 90, s.Report().Left)
	for range 90 {
		require.True(t, s.May(Alarm, 1, false))
		s.spend(t, Alarm, 1)
	}
	require.False(t, s.May(Alarm, 1, false))
	require.False(t, s.May(Live, 1, false))
	require.EqualValues(t, 100, s.Report().Used)
	s.now = s.now.AddDate(0, 1, 0)
	require.True(t, s.May(Alarm, 1, false))
}

// Whoever raises the budget sees readings leave.
func TestLargerBudgetIsFeltAtOnce(t *testing.T) {
	s := newSite("2026-03-01T00:00:00Z", Budget{Operations: 60, Day: 1, Reserve: 0.1, AtLimit: Hold})
	for s.May(Live, 1, false) {
		s.spend(t, Live, 1)
	}
	s.budget.Operations = 7200
	for range 100 {
		require.True(t, s.May(Live, 1, false))
		s.spend(t, Live, 1)
	}
	s.budget.Operations = 60
	require.False(t, s.May(Live, 1, false))
	s.budget.Operations = 7200 // to and fro gives no more than there is
	for s.May(Live, 1, false) {
		s.spend(t, Live, 1)
		s.budget.Operations = 60
		s.Report()
		s.budget.Operations = 7200
	}
	require.LessOrEqual(t, s.Report().Used, uint64(6480))
}

// What a larger budget has let gather is not spent on the first day of a smaller one.
func TestSmallerBudgetLastsTheMonth(t *testing.T) {
	s := newSite("2026-03-01T00:00:00Z", Budget{Operations: 30_000, Day: 1, Reserve: 0.1, AtLimit: Hold})
	s.spend(t, Live, 300)
	s.now = s.now.Add(12 * time.Hour)
	s.Report()
	s.budget.Operations = 1000
	used := s.Report().Used
	for s.May(Live, 1, false) {
		s.spend(t, Live, 1)
	}
	require.InDelta(t, 30, float64(s.Report().Used-used), 20, "a day's worth")
	require.EqualValues(t, 900-s.Report().Used, s.Report().Left)
}

func TestReadingsLeaveTheReserve(t *testing.T) {
	s := newSite("2026-03-31T12:00:00Z", Budget{Operations: 100, Day: 1, Reserve: 0.1, AtLimit: Hold})
	s.spend(t, Live, 90)
	require.False(t, s.May(Live, 1, false))
	require.False(t, s.May(Backlog, 1, true))
	require.True(t, s.May(Alarm, 1, false))
}

func TestContinue(t *testing.T) {
	s := newSite("2026-03-20T12:00:00Z", Budget{Operations: 100, Day: 1, Reserve: 0.1, AtLimit: Continue})
	s.spend(t, Live, 500)
	require.True(t, s.May(Live, 1, false))
	require.True(t, s.May(Backlog, 1, false))
	require.Greater(t, s.MaxAge(time.Minute, 1), time.Hour) // yet no faster than the budget would have it
	require.EqualValues(t, 500, s.Report().Used)
}

func TestNoBudget(t *testing.T) {
	s := newSite("2026-03-20T12:00:00Z", Budget{Day: 1})
	s.spend(t, Live, 1_000_000)
	require.True(t, s.May(Live, 1, false))
	require.Equal(t, time.Minute, s.MaxAge(time.Minute, 1))
	r := s.Report()
	require.True(t, math.IsInf(r.PerHour, 1))
}

func TestForecast(t *testing.T) {
	s := newSite("2026-04-01T00:00:00Z", Budget{Day: 1})
	for range 5 * 24 {
		s.now = s.now.Add(time.Hour)
		s.spend(t, Live, 10)
	}
	require.InDelta(t, 7200, float64(s.Report().Forecast), 0.05*7200)
	s.restart()
	require.InDelta(t, 7200, float64(s.Report().Forecast), 0.05*7200)
}

// Whatever happens, no more leaves in a month than the budget allows.
func TestNeverBeyondTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Budget{
			Operations: rapid.Int64Range(1, 2000).Draw(t, "budget"), Day: rapid.IntRange(1, 31).Draw(t, "day"),
			Reserve: float64(rapid.IntRange(0, 90).Draw(t, "reserve")) / 100, AtLimit: rapid.SampledFrom([]string{Hold, Thin}).Draw(t, "at limit"),
			Backlog: float64(rapid.IntRange(1, 100).Draw(t, "share")) / 100,
		}
		s := newSite("2026-01-20T12:00:00Z", b)
		spent, alarms := map[string]int64{}, map[string]int64{}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				age := s.MaxAge(time.Minute, 1)
				require.GreaterOrEqual(t, age, time.Minute)
				require.LessOrEqual(t, age, fullMonth)
			},
			"try": func(t *rapid.T) {
				k, cost := rapid.SampledFrom([]Kind{Alarm, Live, Live, Backlog}).Draw(t, "kind"), rapid.IntRange(1, 16).Draw(t, "cost")
				for range rapid.IntRange(1, 200).Draw(t, "times") {
					if !s.May(k, cost, rapid.Bool().Draw(t, "backlog")) {
						break
					}
					s.spend(t, k, cost)
					start, _ := Month(s.now, b.Day, nil)
					m := start.Format(time.DateOnly)
					if spent[m] += int64(cost); k == Alarm {
						alarms[m] += int64(cost)
					}
					require.LessOrEqual(t, spent[m], b.Operations)
					if k != Alarm {
						require.LessOrEqual(t, float64(spent[m]-alarms[m]), ordinary(b)+1e-9, "the reserve is for alarms")
					}
				}
			},
			"wait": func(t *rapid.T) {
				s.now = s.now.Add(time.Duration(rapid.IntRange(1, 40*24*3600).Draw(t, "seconds")) * time.Second)
			},
			"restart": func(*rapid.T) { s.restart() },
		})
	})
}

// Another publish.max_age is the maximum age at once, where the budget carries it.
func TestMaxAgeChanges(t *testing.T) {
	s := newSite("2026-03-01T00:00:00Z", Budget{Operations: 720_000, Day: 1, Reserve: 0.1, AtLimit: Hold, Backlog: 0.5})
	for _, least := range []time.Duration{10 * time.Minute, time.Minute, time.Hour, 4 * time.Second} {
		require.Equal(t, least, s.MaxAge(least, 1))
		s.now = s.now.Add(time.Second)
	}
}

// A budget that is raised, or gone, takes back what a small one had stretched.
func TestMaxAgeFollowsTheBudget(t *testing.T) {
	s := &stream{site: newSite("2026-03-01T00:00:00Z", Budget{Operations: 720, Day: 1, Reserve: 0.1, AtLimit: Hold, Backlog: 0.5}), least: time.Minute}
	for range 3 * 24 * 60 {
		s.step(t, time.Minute, true, true)
	}
	require.Greater(t, s.MaxAge(s.least, 1), 30*time.Minute)
	s.budget.Operations = 720_000
	s.now = s.now.Add(time.Second)
	require.Less(t, s.MaxAge(s.least, 1), 61*time.Second)
}
