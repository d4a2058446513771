package mcp9808

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
	o := Factory.New("mcp9808").(*Options)
	o.BusName = "sim:chip"
	return o
}

// bench has an MCP9808; an LM75A, which has neither identity, takes its place.
func bench(celsius float64) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		return chiptest.Bench(t, 0x18, func(w *sim.World) (one, other sim.I2CChip) {
			return sim.NewMCP9808(w, "chip", sim.Constant(celsius)), sim.NewLM75(w, "other", false, nil)
		})
	}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Case{Options: options, Bench: bench(21.4)})
}

// TestDatasheet plays DS25095A's identity and temperatures.
func TestDatasheet(t *testing.T) {
	got, err := chiptest.Play(t, options(), 2, "testdata/mcp9808-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{
		{Channel: "temperature", Value: 25.25, Unit: "Cel"}, {Channel: "temperature", Value: -25.25, Unit: "Cel"},
	}, got)
}

// TestCodes: equation 5-1 of DS25095A (page 25): upper byte × 16 + lower byte / 16, below 0 Cel minus 256. The flags change nothing.
func TestCodes(t *testing.T) {
	for raw := range uint16(0x2000) {
		upper, lower := float64(raw>>8&0x0F), float64(raw&0xFF)
		want := upper*16 + lower/16
		if raw&0x1000 != 0 {
			want -= 256
		}
		for flags := range uint16(8) {
			got, err := decode(flags<<13 | raw)
			if want < -60 || want > 150 {
				require.ErrorIs(t, err, drivers.ErrCheck)
				continue
			}
			if err != nil || got-want > 0.00501 || want-got > 0.00501 {
				t.Fatalf("%04x: %g, %v, want %g", flags<<13|raw, got, err, want)
			}
		}
	}
}

func TestValues(t *testing.T) {
	for _, celsius := range []float64{-40, -0.06, 0, 0.1, 21.4, 125} {
		got, err := chiptest.Read(t, options(), 1, func(t *testing.T) drivers.Env { return bench(celsius)(t).Env })
		require.NoError(t, err)
		require.InDelta(t, celsius, got[0].Value, 0.0625/2+0.006)
	}
}

// TestPowerLost: at any step of a reading but the last; and the one after it refuses, too.
func TestPowerLost(t *testing.T) {
	for at := 6; at < 11; at++ {
		got, err := chiptest.Watched(t, options(), 2, bench(21.4), func(b *drivertest.Bench, n int, _, _ []byte) {
			if n == at {
				b.Unplug()
				b.Plug()
			}
		})
		require.ErrorIs(t, err, drivers.ErrCheck, at)
		require.ErrorContains(t, err, "lost its settings")
		if at < 9 {
			require.Empty(t, got, "the value may be one of before the first conversion")
		}
	}
}

// TestDeadBus: all ones and all zeros.
func TestDeadBus(t *testing.T) {
	for _, level := range []byte{0, 0xFF} {
		_, err := chiptest.Watched(t, options(), 1, bench(21.4), func(_ *drivertest.Bench, _ int, _, r []byte) { chiptest.Fill(r, level) })
		require.ErrorIs(t, err, drivers.ErrCheck)
		require.ErrorContains(t, err, "nothing drives the bus")
	}
}

// TestIdentity: both registers count, the revision does not.
func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		manufacturer, device uint16
		want                 error
	}{
		{0x0054, 0x0400, nil}, {0x0054, 0x0401, nil},
		{0x0054, 0x0201, drivers.ErrWrong}, // an MCP9804: DS22203C register 5-6
		{0x0055, 0x0400, drivers.ErrWrong}, {0x0000, 0x0400, drivers.ErrWrong}, {0x0054, 0x0000, drivers.ErrWrong},
		{0, 0, drivers.ErrCheck}, {0xFFFF, 0xFFFF, drivers.ErrCheck},
	} {
		_, err := chiptest.Watched(t, options(), 1, bench(21.4), func(_ *drivertest.Bench, _ int, w, r []byte) {
			switch w[0] {
			case 6:
				copy(r, []byte{byte(c.manufacturer >> 8), byte(c.manufacturer & 0xFF)})
			case 7:
				copy(r, []byte{byte(c.device >> 8), byte(c.device & 0xFF)})
			}
		})
		require.ErrorIs(t, err, c.want, "%04x %04x", c.manufacturer, c.device)
	}
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{Options: chip.Options{BusName: "/dev/i2c-1"}, Address: new(0x48)})
	drivertest.Mistakes(t, "channels[0].name", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "pressure"}}}})
}

// FuzzDecode: no code gives a value outside of what the chip can measure.
func FuzzDecode(f *testing.F) {
	for _, raw := range []uint16{0, 0xFFFF, 0xC194, 0x3E6C} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw uint16) {
		if v, err := decode(raw); err == nil {
			require.True(t, v >= -60 && v <= 150)
		}
	})
}
