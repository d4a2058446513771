package drivers_test

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
)

func TestRound(t *testing.T) {
	for _, c := range []struct{ v, resolution, want float64 }{
		{21.30000000001, 0.1, 21.3}, {21.349999, 0.1, 21.3}, {21.35, 0.1, 21.4}, {-21.35, 0.1, -21.4},
		{0.1 + 0.2, 0.1, 0.3}, {2.5, 1, 3}, {-2.5, 1, -3}, {0.125, 0.25, 0.25},
		{20.14, 0.0625, 20.125}, {20.16, 0.0625, 20.1875}, {-0.03, 0.0625, 0}, {0.03125, 0.0625, 0.0625},
		{1234, 50, 1250}, {1225, 50, 1250}, {1224.9, 50, 1200}, {149, 100, 100}, {7, 2.5, 7.5}, {8.74, 2.5, 7.5},
		{3.3, 0.00322265625, 3.3}, {1, 1.0 / 3, 1}, {0.8, 1.0 / 3, 2.0 / 3},
		{1.5, 0, 1.5}, {1.5, -1, 1.5}, {1.5, math.Inf(1), 1.5}, {1.5, math.NaN(), 1.5},
		{1 << 52, 0.1, 1 << 52}, {1e300, 0.1, 1e300}, {1e300, 1e-300, 1e300}, {1 << 53, 1e16, 1 << 53}, {0.04, 0.1, 0}, {-0.04, 0.1, 0},
		{5e-324, 0.1, 0}, {3e-16, 1e-16, 3e-16}, {6.1e22, 1e22, 6.1e22},
	} {
		got := drivers.NewGrid(c.resolution).Round(c.v)
		require.Equal(t, c.want, got, "%v", c)
		require.False(t, got == 0 && math.Signbit(got), "%v: -0", c)
	}
}

func TestGridStep(t *testing.T) {
	for resolution, want := range map[float64]drivers.Step{
		0.1: {Times: 1, Places: 1}, 0.0625: {Times: 625, Places: 4}, 2.5: {Times: 25, Places: 1}, 1: {Times: 1}, 50: {Times: 50}, 1e15: {Times: 1e15},
		1.0 / 3: {}, 1e-15: {Times: 1, Places: 15}, 1e-16: {}, 1e22: {}, 0.30000000000000004: {}, 0: {}, -1: {},
	} {
		require.Equal(t, want, drivers.NewGrid(resolution).Step(), resolution)
	}
}

func TestGridHolds(t *testing.T) {
	for _, c := range []struct {
		resolution float64
		step       drivers.Step
		want       bool
	}{
		{0.1, drivers.Step{Times: 1, Places: 1}, true},
		{0.1, drivers.Step{Times: 5, Places: 1}, true},
		{0.1, drivers.Step{Times: 1}, true},
		{0.1, drivers.Step{Times: 1, Places: 2}, false},
		{0.1, drivers.Step{Times: 25, Places: 2}, false},
		{0.01, drivers.Step{Times: 25, Places: 2}, true},
		{0.0625, drivers.Step{Times: 125, Places: 3}, true},
		{2, drivers.Step{Times: 3}, false},
		{2, drivers.Step{Times: 6}, true},
		{1e-15, drivers.Step{Times: 1 << 52}, true},
		{0.1, drivers.Step{}, false},
		{1.0 / 3, drivers.Step{Times: 1}, false},
		{0, drivers.Step{}, true},
	} {
		require.Equal(t, c.want, drivers.NewGrid(c.resolution).Holds(c.step), "%v", c)
	}
}

var resolutions = rapid.OneOf(
	rapid.SampledFrom([]float64{0.1, 0.01, 0.001, 1, 0.5, 0.0625, 0.25, 0.05, 2.5, 10, 50, 0.00322265625, 1.0 / 3, 6.104e-5, 1e-15, 1e9}),
	rapid.Float64Range(1e-12, 1e9),
)

// A rounded value is a multiple, the nearest; rounding it again changes nothing; the order of values is kept.
func TestRoundProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		resolution := resolutions.Draw(t, "resolution")
		g := drivers.NewGrid(resolution)
		v := rapid.OneOf(rapid.Float64Range(-1e6, 1e6), rapid.Float64()).Draw(t, "value")
		if drivers.CheckValue(v) != nil {
			t.Skip("no reading")
		}
		w := g.Round(v)
		require.NoError(t, drivers.CheckValue(w))
		require.Equal(t, w, g.Round(w), "again")
		require.Equal(t, -w+0, g.Round(-v)+0, "symmetric")
		if math.Abs(v)/resolution > 1<<44 {
			require.True(t, w == v || math.Abs(w-v) <= resolution)
			return
		}
		noise := 4e-16 * (math.Abs(v) + resolution)
		require.LessOrEqual(t, math.Abs(w-v), resolution/2+noise, "nearest")
		n := math.Round(w / resolution)
		require.InDelta(t, n*resolution, w, noise, "a multiple")
		if up := math.Nextafter(v, math.Inf(1)); drivers.CheckValue(up) == nil {
			require.GreaterOrEqual(t, g.Round(up), w, "in order")
		}
	})
}

// With a decimal resolution a value has no more decimal places than the resolution.
func TestRoundPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.IntRange(0, 6).Draw(t, "places")
		times := rapid.IntRange(1, 999).Draw(t, "times")
		resolution := float64(times) / math.Pow10(places)
		w := drivers.NewGrid(resolution).Round(rapid.Float64Range(-1e6, 1e6).Draw(t, "value"))
		_, part, _ := strings.Cut(strconv.FormatFloat(w, 'f', -1, 64), ".")
		require.LessOrEqual(t, len(part), places, "%v", w)
	})
}

// Values on a step that the resolution holds come through rounding as they were.
func TestHeldStepsAreLossless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drivers.Step{Times: float64(rapid.IntRange(1, 10_000).Draw(t, "times")), Places: rapid.IntRange(0, 6).Draw(t, "places")}
		g := drivers.NewGrid(float64(rapid.IntRange(1, 1000).Draw(t, "resolution")) / math.Pow10(rapid.IntRange(0, 6).Draw(t, "of")))
		v := float64(rapid.IntRange(-1e6, 1e6).Draw(t, "n")) * s.Times / math.Pow10(s.Places)
		if g.Holds(s) {
			require.Equal(t, v, g.Round(v)+0)
		} else {
			lossy := false // one of its first multiples moves
			for n := 1.0; n <= 2000; n++ {
				x := n * s.Times / math.Pow10(s.Places)
				lossy = lossy || g.Round(x) != x
			}
			require.True(t, lossy)
		}
	})
}

func TestReducerDull(t *testing.T) {
	p := func(v float64) *float64 { return &v }
	for _, c := range []struct {
		name    string
		channel drivers.Channel
		last, v float64
		want    bool
	}{
		{"nothing asked", drivers.Channel{}, 1, 1, false},
		{"as far as the dead-band, though the doubles are closer", drivers.Channel{Deadband: p(0.1)}, 21.3, 21.4, false},
		{"as far as the dead-band, down", drivers.Channel{Deadband: p(0.1)}, 21.4, 21.3, false},
		{"closer", drivers.Channel{Deadband: p(0.1)}, 21.3, 21.39, true},
		{"no dead-band", drivers.Channel{Deadband: p(0)}, 1, 1, false},
		{"the same", drivers.Channel{OnChange: new(true)}, 1, 1, true},
		{"hardly another", drivers.Channel{OnChange: new(true)}, 1, math.Nextafter(1, 2), false},
		{"not asked to look", drivers.Channel{OnChange: new(false)}, 1, 1, false},
	} {
		r := drivers.NewReducer(&c.channel)
		require.False(t, r.Dull(drivers.Reading{Value: c.v}), "%s: the first", c.name)
		r.Record(drivers.Reading{Value: c.last})
		require.Equal(t, c.want, r.Dull(drivers.Reading{Value: c.v}), c.name)
		require.False(t, r.Dull(drivers.Reading{Value: c.v, Quality: drivers.Suspect}), "%s: another quality", c.name)
		r.Forget()
		require.False(t, r.Dull(drivers.Reading{Value: c.v}), "%s: forgotten", c.name)
	}
}
