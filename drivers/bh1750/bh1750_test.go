package bh1750

import (
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/chip"
	"homeward/drivers/chip/chiptest"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func options() drivers.Options {
	o := Factory.New("bh1750").(*Options)
	o.BusName = "sim:chip"
	return o
}

func bench(lux float64) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		return chiptest.Bench(t, 0x23, func(w *sim.World) (one, other sim.I2CChip) {
			return sim.NewBH1750(w, "chip", sim.Constant(lux)), sim.NewMCP9808(w, "other", nil)
		})
	}
}

func TestConformance(t *testing.T) {
	for _, lux := range []float64{0, 300, 90000} { // once, and twice
		drivertest.Run(t, drivertest.Case{Options: options, Bench: bench(lux), Anonymous: true})
	}
}

// TestDatasheet plays the example of page 10, and what follows from the instruction set and the measurement time register.
func TestDatasheet(t *testing.T) {
	got, err := chiptest.Play(t, options(), 3, "testdata/bh1750-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{
		{Channel: "light", Value: 28066.7, Unit: "lx"}, {Channel: "light", Value: 91169, Unit: "lx"}, {Channel: "light", Value: 0, Unit: "lx"},
	}, got)
}

// TestCounts: page 10's example, the ends of both scales, and what is no value.
func TestCounts(t *testing.T) {
	for _, c := range []struct {
		n    uint16
		t    byte
		want float64
	}{{0x8390, normal, 28066.7}, {0, normal, 0}, {1, normal, 0.8}, {2, normal, 1.7}, {0xFFFE, normal, 54611.7}, {0xFFFE, shortest, 121555.0}} {
		got, err := lux(c.n, c.t)
		require.NoError(t, err)
		require.InDelta(t, c.want, got, 0.051)
	}
	for n, at := range map[uint16]byte{full: shortest, 0: shortest, 0x3FFE: shortest} {
		_, err := lux(n, at)
		require.ErrorIs(t, err, drivers.ErrCheck, n)
	}
	_, err := lux(full, normal)
	require.ErrorIs(t, err, drivers.ErrCheck)
}

// TestValues: what the simulated chip serves, dark, dim, bright and beyond the ordinary scale; more than it can measure is an error.
func TestValues(t *testing.T) {
	for _, light := range []float64{0, 1, 300, 54000, 54700, 99999, 121000} {
		got, err := chiptest.Read(t, options(), 2, func(t *testing.T) drivers.Env { return bench(light)(t).Env })
		require.NoError(t, err)
		require.Len(t, got, 2)
		for _, r := range got {
			require.InDelta(t, light, r.Value, 1)
		}
	}
	got, err := chiptest.Read(t, options(), 1, func(t *testing.T) drivers.Env { return bench(130000)(t).Env })
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorContains(t, err, "more light than 121557 lx")
	require.Empty(t, got)
}

// TestPowerLost: at any step of a reading, no other value than the light's comes of it.
func TestPowerLost(t *testing.T) {
	for _, light := range []float64{300, 90000} {
		for at := 3; at <= 10; at++ {
			got, err := chiptest.Watched(t, options(), 2, bench(light), func(b *drivertest.Bench, n int, _, _ []byte) {
				if n == at {
					b.Unplug()
					b.Plug()
				}
			})
			for _, r := range got {
				require.InDelta(t, light, r.Value, 1, "step %d", at)
			}
			if err != nil {
				require.ErrorIs(t, err, drivers.ErrCheck)
				require.Greater(t, light, 54612.0)
			}
		}
	}
}

// TestDeadBus: one that reads ones is an error.
func TestDeadBus(t *testing.T) {
	got, err := chiptest.Watched(t, options(), 1, bench(300), func(_ *drivertest.Bench, _ int, _, r []byte) { chiptest.Fill(r, 0xFF) })
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.Empty(t, got)
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{Options: chip.Options{BusName: "/dev/i2c-1"}, Address: new(0x24)})
	drivertest.Mistakes(t, "channels[0].name", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "lux"}}}})
	drivertest.Mistakes(t, "channels[0].unit", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "light", Unit: new(drivers.Unit("lux"))}}}})
}

// FuzzDecode: no count gives a value beyond the scale.
func FuzzDecode(f *testing.F) {
	for _, n := range []uint16{0, 1, 0x8390, 0xC000, 0xFFFF} {
		f.Add(n, true)
		f.Add(n, false)
	}
	f.Fuzz(func(t *testing.T, n uint16, bright bool) {
		at, top := byte(normal), 54612.5
		if bright {
			at, top = shortest, 121557.0
		}
		if v, err := lux(n, at); err == nil {
			require.NotEqual(t, uint16(full), n)
			require.True(t, v >= 0 && v <= top)
		}
	})
}
