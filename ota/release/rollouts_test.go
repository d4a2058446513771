package release

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestBucket: the places that gateways have are never to change, or a rollout under way would go to others; and they are spread evenly.
func TestBucket(t *testing.T) {
	for _, tt := range []struct {
		rollout, gateway string
		want             float64
	}{
		{"r-1", "gw-0001", 54.420490999}, {"r-1", "gw-0002", 12.107397364}, {"r-2", "gw-0001", 51.895532471}, {"", "", 43.048164924},
	} {
		require.InDelta(t, tt.want, Bucket(tt.rollout, tt.gateway), 1e-9, "%s %s", tt.rollout, tt.gateway)
	}
	const gateways, bins = 20_000, 50
	for _, rollout := range []string{"r-1", "r-2", "1.9.1"} {
		var counts [bins]int
		for i := range gateways {
			b := Bucket(rollout, fmt.Sprintf("gw-%04d", i))
			require.True(t, b >= 0 && b < 100)
			counts[int(b/100*bins)]++
		}
		square, expected := 0.0, float64(gateways)/bins
		for _, n := range counts {
			square += (float64(n) - expected) * (float64(n) - expected) / expected
		}
		require.Less(t, square, 85.35, "χ² with 49 degrees of freedom is below this 999 times in 1000") // its 99.9 % quantile
		t.Logf("%s: χ² %.1f", rollout, square)
	}
	// Two rollouts draw anew: of the first tenth of one, a tenth is in the first tenth of the other.
	both, first := 0, 0
	for i := range gateways {
		if g := fmt.Sprintf("gw-%04d", i); Bucket("r-1", g) < 10 {
			first++
			if Bucket("r-2", g) < 10 {
				both++
			}
		}
	}
	require.InDelta(t, 0.1, float64(both)/float64(first), 0.03)
}

func listed(counter uint64, state string) Listed {
	return Listed{Counter: counter, Version: fmt.Sprintf("1.%d.0", counter), Platforms: []string{"linux-arm64"}, State: state}
}

// rolling is a product with 10 released and 11 rolling, by one rollout.
func rolling(o Rollout) *Rollouts {
	o.ID, o.Counter, o.Version = "r", 11, "1.11.0"
	return &Rollouts{Schema: 1, Product: "p", Serial: 1, Releases: []Listed{listed(9, Released), listed(10, Released), listed(11, Rolling)}, Rollouts: []Rollout{o}}
}

func TestEntitled(t *testing.T) {
	open := Rollout{State: Running, Groups: []Group{
		{Name: "lab", Gateways: []string{"a", "b", "c", "d"}, State: Open, OpenTo: 50, First: "d"}, {Name: "all", Percent: 100, State: Waiting},
	}}
	state := func(s string) Rollout { o := open; o.State = s; return o }
	group := func(s string) Rollout {
		o := open
		o.Groups = []Group{open.Groups[0], open.Groups[1]}
		o.Groups[0].State = s
		return o
	}
	for _, tt := range []struct {
		name    string
		rollout Rollout
		gateway string
		running uint64
		want    uint64
		why     string
	}{
		{"the open half of a group", open, "b", 10, 11, "group lab is open"},
		{"the other half", open, "c", 10, 10, "nothing newer is offered"},
		{"the first of the group, though in the other half", open, "d", 10, 11, "open"},
		{"a group that waits", open, "z", 10, 10, "nothing newer"},
		{"an old one in a group that waits", open, "z", 3, 10, "1.10.0 (10) is released"},
		{"an old one in the open half", open, "a", 3, 11, "open"},
		{"first alone: the first", group(FirstOnly), "d", 10, 11, "goes first, alone"},
		{"first alone: another", group(FirstOnly), "a", 10, 10, "nothing newer"},
		{"group done", group(GroupDone), "c", 10, 11, "done"},
		{"group waiting", group(Waiting), "a", 10, 10, "nothing newer"},
		{"paused", state(Paused), "a", 10, 10, "nothing newer"},
		{"paused: who has it keeps it", state(Paused), "a", 11, 11, "runs 1.11.0"},
		{"halted rollout", state(HaltedRoll), "a", 10, 10, "nothing newer"},
		{"halted rollout: who has it keeps it", state(HaltedRoll), "a", 11, 11, "runs 1.11.0"},
		{"rollout done", state(Done), "z", 10, 11, "done"},
		{"newer than all that is listed", open, "a", 12, 11, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := rolling(tt.rollout)
			_, err := r.Encode()
			require.NoError(t, err)
			got, why := r.Entitled(tt.gateway, tt.running)
			require.Equal(t, tt.want, got, why)
			require.Contains(t, why, tt.why)
		})
	}
	r := rolling(open)
	r.Releases[2].State = Halted
	got, _ := r.Entitled("a", 10)
	require.EqualValues(t, 10, got, "a halted release is never offered, whatever its rollout says")
	r.Releases[1].State = Removed
	got, _ = r.Entitled("a", 3)
	require.EqualValues(t, 9, got, "nor a removed one: the newest that is released")
	r.Releases[0].State = Added
	got, why := r.Entitled("a", 3)
	require.Zero(t, got)
	require.Contains(t, why, "no release of p is offered")
	got, _ = (&Rollouts{}).Entitled("a", 3)
	require.Zero(t, got)
	// Of the platforms, only what there is.
	r = rolling(open)
	r.Releases[2].Platforms = []string{"linux-armv6"}
	got, _ = r.On("linux-arm64").Entitled("a", 3)
	require.EqualValues(t, 10, got)
	got, _ = r.On("linux-armv6").Entitled("a", 3)
	require.EqualValues(t, 11, got)
	require.Len(t, r.Releases, 3, "r is as it was")
	// A release that is newer, but halted, hides nothing.
	r = rolling(open)
	r.Releases = append(r.Releases, listed(12, Halted), listed(13, Added))
	got, _ = r.Entitled("a", 10)
	require.EqualValues(t, 11, got)
}

// TestEntitledNever: whatever the rollouts say, no gateway is offered a release that is added, halted or removed, or rolling without
// its group; and what was offered stays so when more of a group is opened.
func TestEntitledNever(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRollouts(t)
		_, err := r.Encode()
		require.NoError(t, err)
		gateway := rapid.SampledFrom(ids).Draw(t, "gateway")
		running := rapid.Uint64Range(0, 12).Draw(t, "running")
		got, why := r.Entitled(gateway, running)
		require.NotEmpty(t, why)
		if got == 0 || got == running {
			return
		}
		l := r.Listed(got)
		require.NotNil(t, l)
		switch l.State {
		case Released:
		case Rolling:
			reached := false
			for i := range r.Rollouts {
				ok, _ := r.Rollouts[i].Reaches(gateway)
				reached = reached || ok && r.Rollouts[i].Counter == got
			}
			require.True(t, reached)
			for i := range r.Rollouts {
				for j := range r.Rollouts[i].Groups {
					r.Rollouts[i].Groups[j].OpenTo = 100
				}
			}
			again, _ := r.Entitled(gateway, running)
			require.GreaterOrEqual(t, again, got)
		default:
			t.Fatalf("offered %s, which is %s", l.Version, l.State)
		}
	})
}

var ids = []string{"a", "b", "c", "d", "e", "gw-1", "gw-2", "gw-3"}

func drawRollouts(t *rapid.T) *Rollouts {
	r := &Rollouts{Schema: 1, Product: "p", Serial: rapid.Uint64Range(1, MaxCounter).Draw(t, "serial")}
	counter := uint64(0)
	for range rapid.IntRange(0, 5).Draw(t, "releases") {
		counter += rapid.Uint64Range(1, 3).Draw(t, "step")
		l := listed(counter, rapid.SampledFrom([]string{Added, Rolling, Released, Halted, Removed}).Draw(t, "state"))
		r.Releases = append(r.Releases, l)
		if rapid.Bool().Draw(t, "rollout") {
			o := Rollout{
				ID: fmt.Sprintf("r-%d", counter), Counter: counter, Version: l.Version,
				State:        rapid.SampledFrom([]string{Running, Paused, HaltedRoll, Done}).Draw(t, "rollout state"),
				ErrorPercent: rapid.Float64Range(0, 100).Draw(t, "errors"), ErrorCount: rapid.IntRange(0, 9).Draw(t, "count"),
			}
			low := 0.0
			for range rapid.IntRange(1, 4).Draw(t, "groups") {
				g := Group{
					Name: fmt.Sprintf("g%d", len(o.Groups)), State: rapid.SampledFrom([]string{Waiting, FirstOnly, Open, GroupDone}).Draw(t, "group state"),
					OpenTo: rapid.Float64Range(0, 100).Draw(t, "open"), First: rapid.SampledFrom(append([]string{""}, ids...)).Draw(t, "first"),
				}
				if next := rapid.Float64Range(low, 100).Draw(t, "percent"); next > low && rapid.Bool().Draw(t, "by percent") {
					low, g.Percent = next, next
				} else {
					g.Gateways = rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 1, 4, rapid.ID).Draw(t, "gateways")
				}
				o.Groups = append(o.Groups, g)
			}
			r.Rollouts = append(r.Rollouts, o)
		}
	}
	return r
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRollouts(t)
		data, err := r.Encode()
		require.NoError(t, err)
		got, err := ParseRollouts(data)
		require.NoError(t, err)
		require.Equal(t, r, got)
	})
}

// TestGroups: each gateway is in one group at most, and the groups by percent take their share.
func TestGroups(t *testing.T) {
	o := Rollout{ID: "r", Groups: []Group{{Name: "lab", Gateways: []string{"gw-7"}}, {Name: "some", Percent: 10}, {Name: "more", Percent: 40}, {Name: "all", Percent: 100}}}
	counts := map[int]int{}
	for i := range 10_000 {
		g, place := o.Group(fmt.Sprintf("gw-%d", i))
		counts[g]++
		require.True(t, place >= 0 && place < 100)
	}
	require.Equal(t, 1, counts[0])
	require.InDelta(t, 1000, counts[1], 120)
	require.InDelta(t, 3000, counts[2], 200)
	require.InDelta(t, 6000, counts[3], 200)
	o.Groups = o.Groups[:2]
	g, _ := o.Group("gw-8")
	_, b := o.Group("gw-7")
	require.Zero(t, b)
	if Bucket("r", "gw-8") >= 10 {
		require.Equal(t, -1, g, "a rollout need not reach everybody")
	}
}

func TestAssigned(t *testing.T) {
	r := rolling(Rollout{State: Running, Groups: []Group{{Name: "all", Percent: 100, State: Waiting}}})
	order := func(product string, counter uint64, pin bool) *Order {
		return &Order{Gateway: "a", Serial: 4, Release: OrderRelease{Product: product, Counter: counter, Pin: pin}}
	}
	for _, tt := range []struct {
		name    string
		order   *Order
		r       *Rollouts
		counter uint64
		pinned  bool
		why     string
	}{
		{"no order", nil, r, 10, false, "released"},
		{"an order that says nothing of releases", order("", 0, false), r, 10, false, "released"},
		{"ahead of the rollout", order("p", 11, false), r, 11, false, "by order 4"},
		{"behind the rollouts", order("p", 9, false), r, 10, false, "released"},
		{"not listed", order("p", 12, false), r, 10, false, "which is not listed"},
		{"of another product", order("q", 11, false), r, 10, false, "released"},
		{"pinned", order("p", 3, true), r, 3, true, "pinned"},
		{"pinned, no rollouts", order("p", 3, true), nil, 3, true, "pinned"},
		{"nothing at all", nil, nil, 0, false, "no rollouts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := Assigned(tt.order, tt.r, "a", 2)
			require.Equal(t, tt.counter, a.Counter)
			require.Equal(t, tt.pinned, a.Pinned)
			require.Contains(t, a.Why, tt.why)
		})
	}
	r.Releases[2].State = Halted
	a := Assigned(order("p", 11, false), r, "a", 2)
	require.EqualValues(t, 10, a.Counter, "an order does not bring back what was halted")
	require.Contains(t, a.Why, "halted")
}

// TestStep: from anywhere to the newest, over stepping stones.
func TestStep(t *testing.T) {
	needs := map[uint64]uint64{5: 0, 10: 4, 20: 9, 30: 18, 40: 30}
	r := &Rollouts{Product: "p"}
	for _, c := range []uint64{5, 10, 20, 30, 40} {
		r.Releases = append(r.Releases, listed(c, Released))
	}
	min := func(c uint64) (uint64, error) { return needs[c], nil }
	way := func(running uint64) (steps []uint64) {
		for running < 40 {
			next, err := r.Step(running, 40, min)
			require.NoError(t, err)
			require.Greater(t, next, running)
			steps, running = append(steps, next), next
		}
		return steps
	}
	require.Equal(t, []uint64{5, 10, 20, 30, 40}, way(0))
	require.Equal(t, []uint64{10, 20, 30, 40}, way(4))
	require.Equal(t, []uint64{30, 40}, way(18))
	require.Equal(t, []uint64{40}, way(35))
	r.Releases[2].State = Added // also one that is offered to nobody
	require.Equal(t, []uint64{20, 30, 40}, way(9))
	r.Releases[2].State = Halted
	_, err := r.Step(10, 40, min)
	require.Equal(t, "rel.stepping", code(err))
	gone := errors.New("gone")
	_, err = r.Step(10, 40, func(c uint64) (uint64, error) {
		if c == 30 {
			return 0, gone
		}
		return needs[c], nil
	})
	require.ErrorIs(t, err, gone, "a stone may hide behind a manifest that could not be had")
}
