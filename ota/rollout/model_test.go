package rollout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/ota/release"
)

// model is a gateway as far as a rollout sees it.
type model struct {
	id      string
	offline func(at time.Time) bool
	wrong   bool // hardware that the release is not for
	counter uint64
	trial   uint64    // release on trial; 0: none
	until   time.Time // the trial's end
	update  Update
	seen    time.Time
	ran     map[uint64]bool
	shunned uint64        // quarantined
	untried time.Duration // a trial takes so long
}

func version(counter uint64) string { return fmt.Sprintf("1.%d.0", counter) }

// tick is what it does in a few minutes, if it is online.
func (m *model) tick(r *release.Rollouts, now time.Time, good func(counter uint64) bool) {
	if m.offline(now) {
		return
	}
	m.seen = now
	if m.trial != 0 {
		if now.Before(m.until) {
			return
		}
		m.update.State = "idle"
		if m.update.Code = "ok"; good(m.trial) {
			m.counter = m.trial
		} else {
			m.update.Code, m.shunned = "trial.crash", m.trial
		}
		m.trial = 0
		return
	}
	c, _ := r.On("linux-arm64").Entitled(m.id, m.counter)
	if c <= m.counter || c == m.shunned {
		return
	}
	m.update = Update{State: "trial", Counter: c, Attempt: 1}
	if m.wrong {
		m.update.State, m.update.Code, m.shunned = "refused", "rel.wrong_hw", c
		return
	}
	m.trial, m.until = c, now.Add(m.untried)
	m.ran[c] = true
}

func (m *model) says(now time.Time) Seen {
	v := version(m.counter)
	if m.trial != 0 {
		v = version(m.trial)
	}
	return Seen{Gateway: m.id, Online: !m.offline(now), At: m.seen, Version: v, Update: m.update}
}

// TestModel: fleets of any size, with offline gateways and wrong hardware, and several managers of whom some start anew now and then: a bad
// release is halted with few that ever ran it, a good one reaches everybody who comes online.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 7))
		isGood := rapid.Bool().Draw(t, "good")
		n := rapid.SampledFrom([]int{1, 2, 7, 60}).Draw(t, "gateways")
		groups := []release.Group{{Name: "some", Percent: 10, State: release.Waiting}, {Name: "half", Percent: 50, State: release.Waiting}, {Name: "all", Percent: 100, State: release.Waiting}}
		o := release.Rollout{ID: fmt.Sprint("r", random.IntN(1000)), ErrorPercent: 30, SuccessPercent: 60, AtOnce: rapid.SampledFrom([]float64{0, 25}).Draw(t, "at once"), SoakS: 3600, VerdictAfterS: 86400, Groups: groups}
		r := product(o)
		var fleet []*model
		for i := range n {
			m := &model{id: fmt.Sprintf("gw-%d", i), counter: 10, ran: map[uint64]bool{}, seen: start, untried: time.Duration(10+random.IntN(20)) * time.Minute}
			m.update = Update{State: "idle", Code: "ok", Counter: 10}
			back := start.Add(time.Duration(random.IntN(30*24)) * time.Hour)
			away := random.IntN(10) == 0
			m.offline = func(at time.Time) bool { return away && at.Before(back) }
			m.wrong = random.IntN(20) == 0
			fleet = append(fleet, m)
		}
		managers := make([]Memory, 3)
		good := func(c uint64) bool { return c == 10 || isGood }
		step := 20 * time.Minute
		for now := start; now.Before(start.Add(40 * 24 * time.Hour)); now = now.Add(step) {
			if now.After(start.Add(24 * time.Hour)) {
				step = 6 * time.Hour
			}
			for _, m := range fleet {
				m.tick(r, now, good)
			}
			one := random.IntN(len(managers))
			if random.IntN(50) == 0 {
				managers[one] = Memory{}
			}
			var seen []Seen
			for _, m := range fleet {
				s := m.says(now)
				managers[one].Note(&s)
				seen = append(seen, s)
			}
			next, steps := Decide(r, seen, now)
			if slices.ContainsFunc(steps, Step.Changes) {
				next.Serial++
				r = next
			}
		}
		for range 6 { // the last of them come to an end
			for _, m := range fleet {
				m.tick(r, start.Add(41*24*time.Hour), good)
			}
		}
		ran, wrong, first := 0, 0, 0
		for _, m := range fleet {
			if m.ran[11] {
				ran++
			}
			if g, _ := r.Rollouts[0].Group(m.id); g == 0 {
				first++
			}
			if m.wrong {
				wrong++
			}
		}
		switch roll := &r.Rollouts[0]; {
		case wrong == n, roll.State == release.HaltedRoll && isGood: // by chance, a group with too much wrong hardware
			require.LessOrEqual(t, float64(ran), float64(n))
		case isGood:
			if roll.State == release.Done {
				for _, m := range fleet {
					require.True(t, m.wrong || m.counter == 11, "%s stays on %d", m.id, m.counter)
				}
			}
		default:
			require.Equal(t, release.HaltedRoll, roll.State)
			require.LessOrEqual(t, ran, 1, "the first alone had it: %d of %d, the first group has %d", ran, n, first)
			for _, m := range fleet {
				require.EqualValues(t, 10, m.counter)
			}
		}
	})
}
