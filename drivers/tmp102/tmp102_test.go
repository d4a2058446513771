package tmp102

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/chip"
	"homeward/drivers/chip/chiptest"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func options(name string) drivers.Options {
	o := Factory.New(name).(*Options)
	o.BusName = "sim:chip"
	return o
}

// bench has the chip of a name and temperature; lm75ti is TI's LM75A.
func bench(name string, celsius float64) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		return chiptest.Bench(t, 0x48, func(w *sim.World) (one, other sim.I2CChip) {
			one, other = sim.NewTMP102(w, "chip", sim.Constant(celsius)), sim.NewLM75(w, "chip", name == "lm75ti", sim.Constant(celsius))
			if name != "tmp102" {
				one, other = other, one
			}
			return one, other
		})
	}
}

func TestConformance(t *testing.T) {
	for name, driver := range map[string]string{"tmp102": "tmp102", "lm75": "lm75", "lm75ti": "lm75"} {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, drivertest.Case{Options: func() drivers.Options { return options(driver) }, Bench: bench(name, 21.4)})
		})
	}
}

// TestDatasheet plays the datasheets' registers and temperatures.
func TestDatasheet(t *testing.T) {
	cel := func(v float64) drivers.Reading { return drivers.Reading{Channel: "temperature", Value: v, Unit: "Cel"} }
	got, err := chiptest.Play(t, options("tmp102"), 3, "testdata/tmp102-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{cel(-25), cel(0.25), cel(150)}, got)
	o := options("lm75").(*Options)
	o.Address = new(int)
	*o.Address = 0x4F
	got, err = chiptest.Play(t, o, 2, "testdata/lm75-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{cel(25.13), cel(-55)}, got)
}

// TestCodes is SBOS397B table 6 (page 7) and LM75A rev. 04 table 10 (page 8).
func TestCodes(t *testing.T) {
	for code, want := range map[uint16]float64{
		0x0960: 150, 0x0800: 128, 0x07FF: 127.94, 0x0640: 100, 0x0500: 80, 0x04B0: 75, 0x0320: 50, 0x0190: 25, 0x0004: 0.25,
		0x0000: 0, 0x1FFC: -0.25, 0x1E70: -25, 0x1C90: -55,
	} {
		got, err := decodeTMP102(code<<3 | 1)
		require.NoError(t, err)
		require.Equal(t, want, got, "%04x", code)
	}
	for code, want := range map[uint16]float64{
		0x3F8: 127, 0x3F7: 126.88, 0x3F1: 126.13, 0x3E8: 125, 0x0C8: 25, 0x001: 0.13, 0x000: 0, 0x7FF: -0.13, 0x738: -25, 0x649: -54.88, 0x648: -55,
	} {
		got, err := decodeLM75(code << 5)
		require.NoError(t, err)
		require.Equal(t, want, got, "%03x", code)
	}
	for _, raw := range []uint16{0x0000, 0xFFFF, 0x1900, 0x1903, 0x1905, 0x7FF9, 0x8001} {
		_, err := decodeTMP102(raw)
		require.ErrorIs(t, err, drivers.ErrCheck, "%04x", raw)
	}
	for _, raw := range []uint16{0xFFFF, 0x1901, 0x1910, 0x8000} {
		_, err := decodeLM75(raw)
		require.ErrorIs(t, err, drivers.ErrCheck, "%04x", raw)
	}
}

// TestValues: what the simulated chips serve, over their ranges.
func TestValues(t *testing.T) {
	for name, step := range map[string]float64{"tmp102": 0.0625, "lm75": 0.125, "lm75ti": 0.5} {
		for _, celsius := range []float64{-55, -40.3, -0.4, 0, 0.06, 21.4, 99.99, 125} {
			driver := name[:min(len(name), 6)]
			if driver != "tmp102" {
				driver = "lm75"
			}
			got, err := chiptest.Read(t, options(driver), 2, func(t *testing.T) drivers.Env { return bench(name, celsius)(t).Env })
			require.NoError(t, err)
			require.InDelta(t, celsius, got[0].Value, step/2+0.006, name)
		}
	}
}

// TestLongPowered: a chip that is opened at any moment between two of its own conversions.
func TestLongPowered(t *testing.T) {
	for _, name := range []string{"tmp102", "lm75"} {
		for ms := time.Duration(1); ms < 600; ms += 7 {
			got, err := chiptest.Read(t, options(name), 2, func(t *testing.T) drivers.Env {
				e := bench(name, 21.4)(t).Env
				time.Sleep(ms * time.Millisecond)
				return e
			})
			require.NoError(t, err, "%s after %d ms", name, ms)
			require.Len(t, got, 2)
			require.InDelta(t, 21.4, got[1].Value, 0.07)
		}
	}
}

// TestPowerLost: before a reading, and while the TMP102 converts, when its register reads 0 Cel.
func TestPowerLost(t *testing.T) {
	for _, name := range []string{"tmp102", "lm75"} {
		for _, at := range []int{5, 6, 7, 8} {
			n := 0
			got, err := chiptest.Watched(t, options(name), 1, bench(name, 21.4), func(b *drivertest.Bench, i int, _, _ []byte) {
				if n = i; i == at {
					b.Unplug()
					b.Plug()
				}
			})
			if n <= at { // it was the last transaction
				continue
			}
			require.ErrorIs(t, err, drivers.ErrCheck, "%s %d", name, at)
			require.Empty(t, got)
		}
	}
}

// TestStuck: a bus that reads all ones or all zeros, and a conversion without end.
func TestStuck(t *testing.T) {
	for _, name := range []string{"tmp102", "lm75"} {
		for _, spoil := range []func(r []byte){
			func(r []byte) { chiptest.Fill(r, 0xFF) },
			func(r []byte) { chiptest.Fill(r, 0) },
			func(r []byte) {
				if len(r) == 2 {
					r[0] &= 0x7F
					r[1] |= 8
				} else if len(r) == 1 {
					r[0] ^= 0x10
				}
			},
		} {
			got, err := chiptest.Watched(t, options(name), 1, bench(name, 21.4), func(_ *drivertest.Bench, _ int, _, r []byte) { spoil(r) })
			require.Error(t, err)
			require.Empty(t, got)
		}
	}
	got, err := chiptest.Read(t, options("tmp102"), 1, func(t *testing.T) drivers.Env {
		e := bench("tmp102", 21.4)(t).Env
		calls := 0
		e.Sleep = func(d time.Duration) {
			if calls++; calls == 1 {
				time.Sleep(d) // the second one takes no time: the conversion has not ended
			}
		}
		return e
	})
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorContains(t, err, "still converting")
	require.Empty(t, got)
}

// TestFirstConfiguration: what the configuration of another chip, or of none, may read when it is opened.
func TestFirstConfiguration(t *testing.T) {
	for _, c := range []struct {
		name string
		word uint16
		want error
		says string
	}{
		{"tmp102", 0x60A0, nil, ""}, {"tmp102", 0xE1B0, nil, ""},
		{"tmp102", 0x60A1, drivers.ErrCheck, "bits 3 to 0"}, {"tmp102", 0x60A8, drivers.ErrCheck, "bits 3 to 0"}, {"tmp102", 0xFFFF, drivers.ErrCheck, "nothing drives"},
		{"tmp102", 0x20A0, drivers.ErrWrong, "driver: lm75"}, {"tmp102", 0x40A0, drivers.ErrWrong, "driver: lm75"}, {"tmp102", 0x0000, drivers.ErrWrong, "driver: lm75"},
		{"lm75", 0x0000, nil, ""}, {"lm75", 0x1F00, nil, ""},
		{"lm75", 0x6000, drivers.ErrWrong, "driver: tmp102"}, {"lm75", 0x2000, drivers.ErrWrong, "bits 7 to 5"}, {"lm75", 0x8000, drivers.ErrWrong, "bits 7 to 5"}, {"lm75", 0xFF00, drivers.ErrCheck, "nothing drives"},
	} {
		_, err := chiptest.Watched(t, options(c.name), 1, bench(c.name, 21.4), func(_ *drivertest.Bench, n int, _, r []byte) {
			if n == 1 {
				copy(r, []byte{byte(c.word >> 8), byte(c.word & 0xFF)})
			}
		})
		require.ErrorIs(t, err, c.want, "%s %04x", c.name, c.word)
		if c.want != nil {
			require.ErrorContains(t, err, c.says, "%s %04x", c.name, c.word)
		}
	}
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{Options: chip.Options{BusName: "/dev/i2c-1"}, Address: new(0x4C)})
	drivertest.Mistakes(t, "channels[0].name", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "humidity"}}}})
	drivertest.Mistakes(t, "channels[0].unit", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "temperature", Unit: new(drivers.Unit("F"))}}}})
	o := Options{Options: chip.Options{BusName: "/dev/i2c-1"}, Address: new(0x4C), lm75: true}
	require.Empty(t, o.Check())
}

// FuzzDecode: no code gives a value outside of what the chip can measure, or with its fixed bits wrong.
func FuzzDecode(f *testing.F) {
	for _, raw := range []uint16{0, 0xFFFF, 0x1901, 0xF381, 0x4B01, 0x1920, 0xC900} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw uint16) {
		if v, err := decodeTMP102(raw); err == nil {
			require.EqualValues(t, 1, raw&7)
			require.True(t, v >= -60 && v <= 155)
		}
		if v, err := decodeLM75(raw); err == nil {
			require.Zero(t, raw&0x1F)
			require.True(t, v >= -60 && v <= 155)
		}
	})
}
