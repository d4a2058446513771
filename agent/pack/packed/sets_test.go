package packed_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/agent/config"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/drivers"
)

// stepping is an instrument whose channels have known steps.
type stepping struct{ steps []drivers.Step }

func (stepping) Check() []drivers.Fault                                    { return nil }
func (stepping) Bus() drivers.Bus                                          { return drivers.Bus{} }
func (stepping) Channels() []drivers.Channel                               { return nil }
func (stepping) Open(context.Context, drivers.Env) (drivers.Sensor, error) { return nil, nil }
func (s stepping) Steps() []drivers.Step                                   { return s.steps }

func TestSetsFollowResolution(t *testing.T) {
	two := 2
	four := 4
	for _, c := range []struct {
		name       string
		step       drivers.Step
		resolution float64
		want       *packed.Channel
	}{
		{"nothing known", drivers.Step{}, 0, nil},
		{"the instrument's step", drivers.Step{Times: 1, Places: 2}, 0, &packed.Channel{Div: 100}},
		{"the resolution", drivers.Step{}, 0.1, &packed.Channel{Div: 10}},
		{"a resolution that is not a power of ten", drivers.Step{}, 0.0625, &packed.Channel{Step: 625, Dec: &four}},
		{"a resolution that is no decimal", drivers.Step{}, 1.0 / 3, &packed.Channel{Step: 1.0 / 3}},
		{"a resolution coarser than the step", drivers.Step{Times: 1, Places: 2}, 0.1, &packed.Channel{Div: 10}},
		{"a step that is a multiple of the resolution", drivers.Step{Times: 25, Places: 2}, 0.01, &packed.Channel{Step: 25, Dec: &two}},
		{"a step beside the resolution", drivers.Step{Times: 25, Places: 2}, 0.1, &packed.Channel{Div: 10}},
	} {
		cfg := &config.Config{Sensors: []config.Sensor{{
			Name: "a", Every: config.Duration(10 * time.Second), TimeResolution: config.Duration(100 * time.Millisecond),
			Options: stepping{[]drivers.Step{c.step}}, Channels: []drivers.Channel{{Name: "x", Resolution: &c.resolution}},
		}}}
		sets := packed.Sets(cfg)
		require.Len(t, sets, 1)
		require.EqualValues(t, 10_000, sets[0].Every)
		require.EqualValues(t, 100, sets[0].Res)
		require.Equal(t, []packed.Hint{{Name: "a/x", Exact: c.want}}, sets[0].Channels, c.name)
	}
}

// What was rounded lies where the schema says: it needs no correction, whatever the resolution, and comes back to the bit.
func TestRoundedValuesLieOnTheLattice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		resolution := rapid.OneOf(rapid.SampledFrom([]float64{0.1, 0.01, 1, 0.0625, 0.00322265625, 2.5, 50, 1.0 / 3}), rapid.Float64Range(1e-6, 1e3)).Draw(t, "resolution")
		grid := drivers.NewGrid(resolution)
		var polls []pack.Poll
		for i := range 200 {
			v := grid.Round(rapid.Float64Range(-1e4, 1e4).Draw(t, "v"))
			polls = append(polls, pack.Poll{Time: 1_800_000_000_000 + int64(i)*1000, Readings: []drivers.Reading{{Channel: "a/x", Value: v}}})
		}
		cfg := &config.Config{Sensors: []config.Sensor{{
			Name: "a", Every: config.Duration(time.Second), TimeResolution: config.Duration(100 * time.Millisecond), Channels: []drivers.Channel{{Name: "x", Resolution: &resolution}},
		}}}
		coder, err := packed.Train(1, packed.Sets(cfg), nil, 0)
		require.NoError(t, err)
		w := coder.NewWriter(pack.Header{Gateway: "g", First: 1}, packed.Text, true, math.MaxInt32)
		for _, p := range polls {
			require.True(t, w.Add(p))
		}
		payload, n := w.Close()
		require.Equal(t, len(polls), n)
		back, err := coder.Decode(payload)
		require.NoError(t, err)
		for i, r := range back.Readings {
			require.Equal(t, math.Float64bits(polls[i].Readings[0].Value), math.Float64bits(r.Value))
			require.Equal(t, polls[i].Time, r.TimeMS)
		}
		// At most 36 bits of number a reading, where what lies beside the lattice takes a double's 64 or decimals.
		if math.Abs(1e4/resolution) < 1<<20 {
			require.Less(t, len(payload), 200*36/8, "resolution %v", resolution)
		}
	})
}
