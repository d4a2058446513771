package ads1115

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/chip/chiptest"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func ptr[T any](v T) *T { return &v }

func options() drivers.Options {
	o := Factory.New("ads1115").(*Options)
	o.BusName = "sim:chip"
	return o
}

// bench has an ADS1115; a TMP102, which may have the same address, takes its place.
func bench(volts ...float64) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		return chiptest.Bench(t, 0x48, func(w *sim.World) (one, other sim.I2CChip) {
			var inputs [4]sim.Value
			for i, v := range volts {
				inputs[i] = sim.Constant(v)
			}
			return sim.NewADS1115(w, "chip", inputs), sim.NewTMP102(w, "other", sim.Constant(20))
		})
	}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Case{Options: options, Bench: bench(1.65, 0.825, 0, 3.2)})
}

// TestDatasheet plays the datasheet's registers.
func TestDatasheet(t *testing.T) {
	o := options().(*Options)
	o.Chans = []Channel{{Channel: drivers.Channel{Name: "level"}, Input: ptr(0)}}
	got, err := chiptest.Play(t, o, 1, "testdata/ads1115-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{{Channel: "level", Value: 2.048, Unit: "V"}}, got)
}

// TestCodes: the ideal output codes (§9.5.4), and the size of a step in each range (§9.3.3).
func TestCodes(t *testing.T) {
	for fs, step := range map[float64]float64{6.144: 187.5e-6, 4.096: 125e-6, 2.048: 62.5e-6, 1.024: 31.25e-6, 0.512: 15.625e-6, 0.256: 7.8125e-6} {
		c := Channel{Range: &fs, Scale: ptr(1.0)}
		for code, want := range map[int16]float64{0: 0, 1: step, -1: -step, 16384: fs / 2, -16384: -fs / 2} {
			v, err := c.value(code)
			require.NoError(t, err)
			require.InDelta(t, want, v, 1e-12)
		}
		for _, code := range []int16{math.MaxInt16, math.MinInt16} {
			_, err := c.value(code)
			require.ErrorIs(t, err, drivers.ErrCheck)
		}
	}
}

// TestInputsAndPairs: each multiplexer setting, range, scale and offset.
func TestInputsAndPairs(t *testing.T) {
	o := options().(*Options)
	name := func(s string) drivers.Channel { return drivers.Channel{Name: s} }
	o.Chans = []Channel{
		{Channel: name("a"), Input: ptr(3)},
		{Channel: name("b"), Input: ptr(0), Against: ptr(1), Range: ptr(2.048)},
		{Channel: name("c"), Input: ptr(0), Against: ptr(3), Range: ptr(6.144)},
		{Channel: name("d"), Input: ptr(1), Against: ptr(3), Range: ptr(1.024)},
		{Channel: name("e"), Input: ptr(2), Against: ptr(3), Range: ptr(4.096), Scale: ptr(-10.0), Offset: 5},
	}
	got, err := chiptest.Read(t, o, 1, func(t *testing.T) drivers.Env { return bench(2.5, 1, 0.5, 0.25)(t).Env })
	require.NoError(t, err)
	for i, want := range []float64{0.25, 1.5, 2.25, 0.75, 2.5} {
		require.InDelta(t, want, got[i].Value, 0.002, got[i].Channel)
	}
	require.Equal(t, drivers.Unit("V"), got[0].Unit)
	require.Equal(t, drivers.Unit(""), got[4].Unit, "a scale makes something else of volts")
}

// TestRangeExceeded costs that channel alone.
func TestRangeExceeded(t *testing.T) {
	got, err := chiptest.Read(t, options(), 1, func(t *testing.T) drivers.Env { return bench(1, 4.2, 2, -4.2)(t).Env })
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorContains(t, err, "channel in1, input 1")
	require.ErrorContains(t, err, "channel in3, input 3")
	require.Len(t, got, 2)
}

// TestSupplyLost at any time during a reading: no value of a conversion that was not asked for.
func TestSupplyLost(t *testing.T) {
	for at := 3; at <= 4; at++ { // the request, the look at it
		synctest.Test(t, func(t *testing.T) {
			b, o := bench(1, 1, 1, 1)(t), options()
			require.Empty(t, o.Check())
			b.Env.I2C = &chiptest.Tap{Bus: b.Env.I2C, On: func(n int, _, _ []byte) {
				if n == at {
					b.Unplug()
					b.Plug()
				}
			}}
			s, err := o.Open(t.Context(), b.Env)
			require.NoError(t, err)
			got, err := s.Read(t.Context())
			if at == 3 {
				require.ErrorIs(t, err, drivers.ErrCheck)
				require.Len(t, got, 3, "the next request finds the chip well")
			} else { // the result register is then 0, and that cannot be told from a voltage
				require.NoError(t, err)
			}
		})
	}
}

// TestNeverEnds: a converter that is always busy.
func TestNeverEnds(t *testing.T) {
	got, err := chiptest.Read(t, options(), 1, func(t *testing.T) drivers.Env {
		e := bench(1, 1, 1, 1)(t).Env
		e.I2C = &chiptest.Tap{Bus: e.I2C, On: func(_ int, w, r []byte) {
			if len(r) == 2 && w[0] == regConfig {
				r[0] &^= 0x80
			}
		}}
		e.Sleep = time.Sleep
		return e
	})
	require.ErrorContains(t, err, "does not end")
	require.Empty(t, got)
}

func TestCheckNamesMistakes(t *testing.T) {
	in := func(c Channel) *Options { return &Options{BusName: "/dev/i2c-1", Chans: []Channel{c}} }
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{BusName: "/dev/i2c-1", Address: ptr(0x4C)})
	drivertest.Mistakes(t, "channels[0].input", in(Channel{Input: ptr(4)}))
	drivertest.Mistakes(t, "channels[0].against", in(Channel{Input: ptr(1), Against: ptr(0)}))
	drivertest.Mistakes(t, "channels[0].range", in(Channel{Input: ptr(1), Range: ptr(5.0)}))
	drivertest.Mistakes(t, "channels[0].scale", in(Channel{Input: ptr(1), Scale: ptr(0.0)}))
	drivertest.Mistakes(t, "channels[0].offset", in(Channel{Input: ptr(1), Offset: math.Inf(1)}))
	require.Equal(t, "channels[0].input", in(Channel{}).Check()[0].Path)
}

// FuzzDecode: a code either is refused or lies within the range.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, code int16, gain uint8) {
		fs := fullScales[int(gain)%len(fullScales)]
		c := Channel{Range: &fs, Scale: ptr(1.0)}
		v, err := c.value(code)
		require.Equal(t, code == math.MaxInt16 || code == math.MinInt16, err != nil)
		require.True(t, math.Abs(v) < fs)
	})
}
