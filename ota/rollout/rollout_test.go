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

var start = time.Unix(1_800_000_000, 0).UTC()

const oldVersion, newVersion = "1.10.0", "1.11.0"

// product has 10 released and 11 rolling, by one rollout.
func product(o release.Rollout) *release.Rollouts {
	o.Counter, o.Version = 11, newVersion
	if o.ID == "" {
		o.ID = "r"
	}
	if o.State == "" {
		o.State = release.Running
	}
	r := &release.Rollouts{Schema: 1, Product: "p", Serial: 1, Rollouts: []release.Rollout{o}, Releases: []release.Listed{
		{Counter: 10, Version: oldVersion, Platforms: []string{"linux-arm64"}, State: release.Released},
		{Counter: 11, Version: newVersion, Platforms: []string{"linux-arm64"}, State: release.Rolling},
	}}
	return r
}

// list is a group of gateways by name.
func list(name, state string, gateways ...string) release.Group {
	return release.Group{Name: name, State: state, Gateways: gateways}
}

// says is an online gateway with the old release, or with the new one, and what it says of the update.
func says(gateway, state, code string) Seen {
	s := Seen{Gateway: gateway, Platform: "linux-arm64", Online: true, At: start, Version: oldVersion, Update: Update{State: state, Code: code, Counter: 11, Attempt: 1}}
	switch {
	case state == "":
		s.Update = Update{State: "idle", Code: "ok", Counter: 10}
	case code == "ok", state == "trial":
		s.Version = newVersion
	}
	return s
}

func off(s Seen) Seen { s.Online = false; return s }

func idle(gateway string) Seen { return says(gateway, "", "") }
func kept(gateway string) Seen { return says(gateway, "idle", "ok") }
func bad(gateway string) Seen  { return says(gateway, "idle", "trial.crash") }

func TestDecide(t *testing.T) {
	trialLong := says("a", "trial", "")
	trialLong.Took = start.Add(-25 * time.Hour)
	goneInTrial := off(trialLong)
	goneInTrial.At = start.Add(-24 * time.Hour)
	three := func(state string) release.Rollout {
		return release.Rollout{ErrorPercent: 40, SoakS: 3600, VerdictAfterS: 86400, Groups: []release.Group{list("lab", state, "a", "b", "c"), list("rest", release.Waiting, "x", "y")}}
	}
	open := func(change func(*release.Rollout)) release.Rollout {
		o := three(release.Open)
		o.Groups[0].First, o.Groups[0].OpenTo = "a", 100
		if change != nil {
			change(&o)
		}
		return o
	}
	first := three(release.FirstOnly)
	first.Groups[0].First, first.Groups[0].Since = "a", start.Add(-time.Hour).Unix()
	byHand := three(release.FirstOnly)
	byHand.Groups[0].First = "a"
	longAgo := three(release.FirstOnly)
	longAgo.Groups[0].First, longAgo.Groups[0].Since = "a", start.Add(-25*time.Hour).Unix()
	other := says("a", "refused", "rel.stepping")
	other.Update.Counter = 9
	settledAt := func(at time.Time) release.Rollout {
		return open(func(o *release.Rollout) { o.Groups[0].Settled = at.Unix() })
	}
	for _, tt := range []struct {
		name    string
		rollout release.Rollout
		seen    []Seen
		steps   []string // the kinds and groups of all steps
		why     string   // in any of them
		check   func(t *testing.T, o *release.Rollout)
	}{
		{"nobody heard of", three(release.Waiting), nil, []string{"wait "}, "no gateway of its groups has been heard of", nil},
		{"the first goes", three(release.Waiting), []Seen{idle("c"), idle("b"), idle("x")}, []string{"first lab", "wait lab"}, "gateway b goes first, alone",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, "b", o.Groups[0].First) }},
		{"the first was chosen by hand", func() release.Rollout { o := three(release.Waiting); o.Groups[0].First = "c"; return o }(),
			[]Seen{idle("a"), idle("c")}, []string{"first lab", "wait lab"}, "gateway c goes first", nil},
		{"the first is online", three(release.Waiting), []Seen{off(idle("a")), idle("b")}, []string{"first lab", "wait lab"}, "gateway b", nil},
		{"all of the first group are offline: passed over", three(release.Waiting), []Seen{off(idle("a")), idle("x")}, []string{"wait lab", "first rest", "wait rest"}, "passed over", nil},
		{"nobody known in the first group", three(release.Waiting), []Seen{idle("x")}, []string{"first rest", "wait rest"}, "", nil},
		{"all are offline", three(release.Waiting), []Seen{off(idle("a")), off(idle("x"))}, []string{"wait lab", "wait rest"}, "nobody of it is online", nil},
		{"the first is at it", first, []Seen{says("a", "trial", ""), idle("b")}, []string{"wait lab"}, "gateway a goes first, alone: trial", nil},
		{"the first went offline before it took it", first, []Seen{off(idle("a")), idle("b")}, []string{"first lab", "wait lab"}, "went offline before", nil},
		{"the first was never heard of", first, []Seen{idle("c")}, []string{"first lab", "wait lab"}, "has not been heard of", nil},
		{"the first went offline in its trial", first, []Seen{goneInTrial, idle("b")}, []string{"wait lab"}, "is offline since", nil},
		{"the first is deferred", first, []Seen{says("a", "deferred", "fetch.budget"), idle("b")}, []string{"wait lab"}, "cannot tell yet: deferred fetch.budget", nil},
		{"the first has kept it", first, []Seen{kept("a"), idle("b"), idle("c")}, []string{"opened lab", "opened lab", "wait lab"}, "went first and has kept it",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, 100.0, o.Groups[0].OpenTo) }},
		{"the first rolled it back", first, []Seen{bad("a"), idle("b"), idle("c")}, []string{"halt "}, "went first of group lab, alone, failed: 1 trial.crash",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, release.HaltedRoll, o.State) }},
		{"the first gives no verdict", first, []Seen{trialLong, idle("b"), idle("c")}, []string{"halt "}, "1 no verdict", nil},
		{"the first cannot have it", first, []Seen{says("a", "refused", "rel.wrong_hw"), idle("b"), idle("c")}, []string{"first lab", "wait lab"}, "cannot have it (rel.wrong_hw)", nil},
		{"the first is ahead already", three(release.Waiting), []Seen{kept("a"), kept("b"), kept("c"), idle("x")},
			[]string{"opened lab", "settled lab", "wait lab"}, "nobody has to go first", nil},
		{"not enough have kept it", open(nil), []Seen{kept("a"), idle("b"), idle("c")}, []string{"wait lab"}, "1 have kept it, 0 failed, 2 are to come: want 60 %", nil},
		{"offline and deferred ones are left out", open(nil), []Seen{kept("a"), off(idle("b")), says("c", "deferred", "fetch.budget")}, []string{"settled lab", "wait lab"}, "1 are offline, 1 cannot tell", nil},
		{"inconclusive and power cuts are left out", open(nil), []Seen{kept("a"), says("b", "idle", "trial.power"), says("c", "idle", "trial.inconclusive")}, []string{"settled lab", "wait lab"}, "2 cannot tell", nil},
		{"the repository is out of reach of all", open(nil), []Seen{says("a", "failed", "tuf.unreachable"), says("b", "failed", "fetch.slow")}, []string{"wait lab"}, "2 cannot tell", nil},
		{"soaks", settledAt(start.Add(-time.Hour + time.Second)), []Seen{kept("a"), kept("b"), kept("c"), idle("x")}, []string{"wait lab"}, "soaks for 1s yet", nil},
		{"has soaked", settledAt(start.Add(-time.Hour)), []Seen{kept("a"), kept("b"), kept("c"), idle("x")}, []string{"done lab", "first rest", "wait rest"}, "gateway x goes first", nil},
		{"fails while it soaks, not too many", settledAt(start.Add(-time.Minute)), []Seen{kept("a"), kept("b"), bad("c"), idle("x")}, []string{"wait lab"}, "soaks for", nil},
		{"no longer enough", open(func(o *release.Rollout) { o.Groups[0].Settled, o.SuccessPercent = 1, 90 }), []Seen{kept("a"), kept("b"), bad("c")}, []string{"revoked lab", "wait lab"}, "no longer 90 %", nil},
		{"too many failed", open(nil), []Seen{kept("a"), bad("b"), bad("c")}, []string{"halt "}, "more than 40 % failed: 2 trial.crash",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, release.HaltedRoll, o.State) }},
		{"too many failed in all", open(func(o *release.Rollout) { o.ErrorCount = 1 }), []Seen{kept("a"), kept("b"), bad("c")}, []string{"halt "}, "1 gateways failed", nil},
		{"a late failure in a group that is done", open(func(o *release.Rollout) { o.Groups[0].State, o.ErrorCount = release.GroupDone, 1 }), []Seen{bad("c"), idle("x")}, []string{"halt "}, "", nil},
		{"some at once", open(func(o *release.Rollout) { o.AtOnce, o.Groups[0].OpenTo = 34, 0 }), []Seen{kept("a"), idle("b"), idle("c")}, []string{"opened lab", "wait lab"}, "1 of its 3 gateways may go",
			func(t *testing.T, o *release.Rollout) { require.InDelta(t, 66.7, o.Groups[0].OpenTo, 0.1) }},
		{"more at once, when some are through", open(func(o *release.Rollout) { o.AtOnce, o.Groups[0].OpenTo = 34, 66.6 }), []Seen{kept("a"), kept("b"), idle("c")}, []string{"opened lab", "settled lab", "wait lab"}, "",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, 100.0, o.Groups[0].OpenTo) }},
		{"the last group is done", func() release.Rollout { o := three(release.GroupDone); o.Groups[1].State = release.GroupDone; return o }(), []Seen{kept("a"), kept("x")}, []string{"release "}, "is for everybody",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, release.Done, o.State) }},
		{"the last group is offline", three(release.GroupDone), []Seen{kept("a"), off(idle("x"))}, []string{"wait rest"}, "nobody of it is online", nil},
		{"paused", func() release.Rollout { o := open(nil); o.State = release.Paused; return o }(), []Seen{bad("a"), bad("b")}, nil, "", nil},
		{"halted", func() release.Rollout { o := open(nil); o.State = release.HaltedRoll; return o }(), []Seen{kept("a"), kept("b")}, nil, "", nil},
		{"another platform", three(release.Waiting), []Seen{{Gateway: "a", Platform: "linux-armv6", Online: true, Version: oldVersion}}, []string{"wait "}, "no gateway", nil},
		{"failed with it before, by another rollout", three(release.Waiting), []Seen{bad("a"), bad("b")}, []string{"first lab", "wait lab"}, "gateway a goes first",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, []string{"a"}, o.Again) }},
		{"chosen when the rollout was made", byHand, []Seen{idle("a"), idle("b")}, []string{"first lab", "wait lab"}, "as the rollout was made",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, start.Unix(), o.Groups[0].Since) }},
		{"chosen when the rollout was made, and failed", byHand, []Seen{bad("a"), idle("b")}, []string{"halt "}, "went first", nil},
		{"does not take it", longAgo, []Seen{idle("a"), idle("b")}, []string{"first lab", "wait lab"}, "gateway b goes first, alone: gateway a is online and does not take it: still on release 10", nil},
		{"does not take it, and nobody else is there", longAgo, []Seen{idle("a")}, []string{"wait lab"}, "nobody is online who could go first", nil},
		{"passed over before", func() release.Rollout {
			o := first
			o.Groups = slices.Clone(o.Groups)
			o.Groups[0].Passed = []string{"b"}
			return o
		}(),
			[]Seen{says("a", "refused", "rel.wrong_hw"), idle("b"), idle("c")}, []string{"first lab", "wait lab"}, "gateway c goes first",
			func(t *testing.T, o *release.Rollout) { require.Equal(t, []string{"b", "a"}, o.Groups[0].Passed) }},
		{"passed over before, and nobody else is left", func() release.Rollout {
			o := first
			o.Groups = slices.Clone(o.Groups)
			o.Groups[0].Passed = []string{"b"}
			return o
		}(),
			[]Seen{off(idle("a")), idle("b")}, []string{"first lab", "wait lab"}, "gateway b goes first", nil},
		{"all that are there cannot have it", func() release.Rollout {
			o := first
			o.Groups = slices.Clone(o.Groups)
			o.Groups[0].Passed = []string{"b"}
			return o
		}(),
			[]Seen{says("a", "refused", "rel.wrong_hw"), says("b", "refused", "rel.wrong_hw")}, []string{"halt "}, "2 rel.wrong_hw", nil},
		{"is stuck with another release", first, []Seen{other, idle("b")}, []string{"first lab", "wait lab"}, "refused rel.stepping (of 9)", nil},
		{"tries it again", func() release.Rollout { o := first; o.Again = []string{"a"}; return o }(), []Seen{says("a", "fetching", ""), bad("b")}, []string{"again ", "wait lab"}, "goes first, alone: fetching",
			func(t *testing.T, o *release.Rollout) { require.Empty(t, o.Again) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := product(tt.rollout)
			before := clone(r)
			next, steps := Decide(r, tt.seen, start)
			require.Equal(t, before, r, "what was given is as it was")
			var kinds []string
			found := false
			text := ""
			for _, s := range steps {
				kinds = append(kinds, s.Kind+" "+s.Group)
				text += s.String() + "\n"
				found = found || tt.why == "" || contains(s.Why, tt.why)
			}
			require.Equal(t, tt.steps, kinds, text)
			require.True(t, found || len(steps) == 0, "%s\nwant %s", text, tt.why)
			if tt.check != nil {
				tt.check(t, &next.Rollouts[0])
			}
			halted := next.Rollouts[0].State == release.HaltedRoll && tt.rollout.State == ""
			require.Equal(t, halted, next.Releases[1].State == release.Halted)
			checkAgain(t, r, next, steps, tt.seen, start)
		})
	}
	// A second rollout of the same release: what the first one's gateway said of the last is not held against it, once.
	r := product(byHand)
	halted := byHand
	halted.ID, halted.State, halted.Counter, halted.Version = "q", release.HaltedRoll, 11, newVersion
	r.Rollouts = append(r.Rollouts, halted)
	next, steps := Decide(r, []Seen{bad("a"), idle("b")}, start)
	require.Equal(t, "first", steps[0].Kind)
	require.Equal(t, []string{"a"}, next.Rollouts[0].Again)
	next, _ = Decide(next, []Seen{says("a", "trial", ""), idle("b")}, start)
	require.Empty(t, next.Rollouts[0].Again)
	next, _ = Decide(next, []Seen{bad("a"), idle("b")}, start)
	require.Equal(t, release.HaltedRoll, next.Rollouts[0].State)
	for state, want := range map[string]string{release.Halted: "halt", release.Removed: "halt", release.Released: "release", release.Added: "wait"} {
		r := product(first)
		r.Releases[1].State = state
		next, steps := Decide(r, []Seen{idle("a")}, start)
		require.Len(t, steps, 1)
		require.Equal(t, want, steps[0].Kind)
		if want == "halt" {
			require.Equal(t, release.HaltedRoll, next.Rollouts[0].State)
		}
	}
}

func contains(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

// checkAgain holds what is true of every decision.
func checkAgain(t require.TestingT, r, next *release.Rollouts, steps []Step, seen []Seen, now time.Time) {
	changes := slices.ContainsFunc(steps, Step.Changes)
	if changes {
		require.NotEqual(t, r, next)
	} else {
		require.Equal(t, r, next)
	}
	_, err := next.Encode()
	require.NoError(t, err)
	again, steps2 := Decide(next, seen, now)
	require.Equal(t, next, again, "a second look changes nothing: %v", steps2)
	require.False(t, slices.ContainsFunc(steps2, Step.Changes), "%v", steps2)
	shuffled := slices.Clone(seen)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	other, steps3 := Decide(r, shuffled, now)
	require.Equal(t, next, other, "in whatever order it was heard")
	require.Equal(t, steps, steps3)
	order := map[string]int{release.Waiting: 0, release.FirstOnly: 1, release.Open: 2, release.GroupDone: 3}
	for i := range r.Rollouts {
		was, is := &r.Rollouts[i], &next.Rollouts[i]
		if was.State != release.Running {
			require.Equal(t, was, is, "only what runs is touched")
		}
		for j := range was.Groups {
			require.GreaterOrEqual(t, order[is.Groups[j].State], order[was.Groups[j].State], "groups only go forward")
			if was.Groups[j].State != release.FirstOnly && was.Groups[j].State != release.Waiting {
				require.GreaterOrEqual(t, is.Groups[j].OpenTo, was.Groups[j].OpenTo, "and only open")
			}
		}
	}
	for i := range r.Releases {
		was, is := r.Releases[i].State, next.Releases[i].State
		require.True(t, was == is || was == release.Rolling && (is == release.Released || is == release.Halted), "%s became %s", was, is)
	}
}

func drawSeen(t *rapid.T, gateway string) Seen {
	s := Seen{
		Gateway: gateway, Platform: rapid.SampledFrom([]string{"", "linux-arm64", "linux-arm64", "linux-armv6"}).Draw(t, "platform"),
		Online: rapid.IntRange(0, 3).Draw(t, "online") > 0, At: start.Add(-time.Duration(rapid.IntRange(0, 100_000).Draw(t, "ago")) * time.Second),
		Version: rapid.SampledFrom([]string{oldVersion, oldVersion, newVersion, "1.12.0", "0.9"}).Draw(t, "version"),
		Update: Update{
			State:   rapid.SampledFrom([]string{"", "none", "idle", "checking", "fetching", "waiting", "trial", "armed", "rolled-back", "deferred", "refused", "failed"}).Draw(t, "state"),
			Code:    rapid.SampledFrom([]string{"", "", "ok", "ok", "ok", "trial.crash", "trial.power", "trial.inconclusive", "rel.wrong_hw", "slot.verify", "fetch.budget", "tuf.expired", "new.code"}).Draw(t, "code"),
			Counter: rapid.SampledFrom([]uint64{0, 10, 11, 11, 11, 12}).Draw(t, "counter"), Attempt: rapid.IntRange(0, 3).Draw(t, "attempt"),
		},
	}
	if rapid.Bool().Draw(t, "took") {
		s.Took = s.At.Add(-time.Duration(rapid.IntRange(0, 100_000).Draw(t, "took ago")) * time.Second)
	}
	return s
}

// TestDecideAlways: whatever is heard, decisions are the same in any order, settled at once, forward only, and well-formed; at most as many
// as may are let go, and nobody of a group whose turn it is not.
func TestDecideAlways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := release.Rollout{
			ID:           rapid.SampledFrom([]string{"r", "s", "t"}).Draw(t, "id"),
			State:        rapid.SampledFrom([]string{release.Running, release.Running, release.Running, release.Paused, release.HaltedRoll, release.Done}).Draw(t, "rollout state"),
			ErrorPercent: rapid.SampledFrom([]float64{0, 10, 50}).Draw(t, "errors"), ErrorCount: rapid.SampledFrom([]int{0, 0, 1, 5}).Draw(t, "count"),
			SuccessPercent: rapid.SampledFrom([]float64{0, 50, 90}).Draw(t, "success"), AtOnce: rapid.SampledFrom([]float64{0, 10, 50}).Draw(t, "at once"),
			SoakS: rapid.SampledFrom([]int64{0, 3600}).Draw(t, "soak"), VerdictAfterS: rapid.SampledFrom([]int64{0, 86400}).Draw(t, "verdict"),
		}
		states := []string{release.Waiting, release.FirstOnly, release.Open, release.GroupDone}
		id := func(i int) string { return fmt.Sprintf("gw-%d", i) }
		if rapid.Bool().Draw(t, "a list") {
			o.Groups = append(o.Groups, list("lab", rapid.SampledFrom(states).Draw(t, "state"), id(0), id(1), id(2)))
		}
		for _, p := range [][]float64{{100}, {10, 100}, {5, 40, 80}}[rapid.IntRange(0, 2).Draw(t, "groups")] {
			o.Groups = append(o.Groups, release.Group{
				Name: fmt.Sprint(p), Percent: p, State: rapid.SampledFrom(states).Draw(t, "state"), OpenTo: rapid.SampledFrom([]float64{0, 30, 100}).Draw(t, "open"),
				First: rapid.SampledFrom([]string{"", id(3), id(7)}).Draw(t, "first"), Settled: rapid.SampledFrom([]int64{0, start.Unix() - 1800, start.Unix() - 7200}).Draw(t, "settled"),
			})
		}
		r := product(o)
		r.Releases = append(r.Releases, release.Listed{Counter: 12, Version: "1.12.0", Platforms: []string{"linux-arm64"}, State: release.Added})
		r.Releases[1].State = rapid.SampledFrom([]string{release.Rolling, release.Rolling, release.Rolling, release.Halted, release.Released}).Draw(t, "release state")
		var seen []Seen
		n := rapid.IntRange(0, 30).Draw(t, "gateways")
		for i := range n {
			seen = append(seen, drawSeen(t, id(i)))
		}
		if n > 0 && rapid.Bool().Draw(t, "one twice") {
			seen = append(seen, drawSeen(t, id(0)))
		}
		next, steps := Decide(r, seen, start)
		checkAgain(t, r, next, steps, seen, start)
		if next.Rollouts[0].State != release.Running || next.Releases[1].State != release.Rolling {
			return
		}
		for _, s := range seen { // who may go now and might not before?
			before, _ := r.Rollouts[0].Reaches(s.Gateway)
			after, why := next.Rollouts[0].Reaches(s.Gateway)
			if before || !after {
				continue
			}
			i, _ := next.Rollouts[0].Group(s.Gateway)
			for j := range i {
				g := &next.Rollouts[0].Groups[j]
				if g.State != release.GroupDone { // passed over: none of it is at it, or could be
					for _, other := range seen {
						if k, _ := next.Rollouts[0].Group(other.Gateway); k == j && other.Platform != "linux-armv6" && other.Gateway != id(0) {
							v := Judge(next, &next.Rollouts[0], other, start)
							require.False(t, other.Online && (v == Trying || v == Untouched), "%s may go (%s), though %s of %s is %d", s.Gateway, why, other.Gateway, g.Name, v)
						}
					}
				}
			}
		}
	})
}

func TestMemory(t *testing.T) {
	var m Memory
	s := says("a", "trial", "")
	m.Note(&s)
	require.Equal(t, start, s.Took)
	s.At = start.Add(time.Hour)
	m.Note(&s)
	require.Equal(t, start, s.Took, "since the first word of it")
	s.Update.Attempt++
	m.Note(&s)
	require.Equal(t, start.Add(time.Hour), s.Took)
}
