package sht3x

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/chip"
	"homeward/drivers/chip/chiptest"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func options() drivers.Options {
	o := Factory.New("sht3x").(*Options)
	o.BusName = "sim:chip"
	return o
}

// bench has an SHT3x; an SHT4x takes its place.
func bench(celsius, rh float64) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		return chiptest.Bench(t, 0x44, func(w *sim.World) (one, other sim.I2CChip) {
			env := sim.Environment{Temperature: sim.Constant(celsius), Humidity: sim.Constant(rh)}
			return sim.NewSHT3x(w, "chip", env), sim.NewSHT4x(w, "other", 1, env)
		})
	}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Case{Options: options, Bench: bench(21.4, 45), Anonymous: true})
}

// TestDatasheet plays the datasheet's commands and checksum example.
func TestDatasheet(t *testing.T) {
	got, err := chiptest.Play(t, options(), 1, "testdata/sht3x-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{{Channel: "temperature", Value: 25, Unit: "Cel"}, {Channel: "humidity", Value: 74.58, Unit: "%RH"}}, got)
}

// TestConversion: the ends and the middle of the scales of §4.13 (page 14).
func TestConversion(t *testing.T) {
	for _, c := range []struct {
		t, h        uint16
		celsius, rh float64
	}{{1, 0, -45, 0}, {0xFFFE, 0xFFFF, 130, 100}, {0x8000, 0x8000, 42.5, 50}, {1872, 6554, -40, 10}, {63663, 58982, 125, 90}} {
		got, err := decode(chip.AppendWord(chip.AppendWord(nil, c.t), c.h))
		require.NoError(t, err)
		require.Equal(t, map[string]float64{"temperature": c.celsius, "humidity": c.rh}, got)
	}
	for _, w := range []uint16{0, 0xFFFF} {
		_, err := decode(chip.AppendWord(chip.AppendWord(nil, w), 0x8000))
		require.ErrorIs(t, err, drivers.ErrCheck)
	}
}

// TestEveryFlippedBit of measurement and status.
func TestEveryFlippedBit(t *testing.T) {
	good := chip.AppendWord(chip.AppendWord(nil, 0x6666), 0xBEEF)
	for i := range 8 * len(good) {
		bad := slices.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		got, err := decode(bad)
		require.ErrorIs(t, err, drivers.ErrCheck, i)
		require.Empty(t, got)
	}
	for i := range 24 {
		got, err := chiptest.Watched(t, options(), 1, bench(21.4, 45), func(_ *drivertest.Bench, n int, _, r []byte) {
			if n == 7 {
				r[i/8] ^= 1 << (i % 8)
			}
		})
		require.ErrorIs(t, err, drivers.ErrCheck, i)
		require.Empty(t, got)
	}
}

// TestStatus: each bit that says something is refused, and those that say nothing here are not.
func TestStatus(t *testing.T) {
	for status, want := range map[uint16]error{
		0x0010: drivers.ErrCheck, 0x2000: drivers.ErrCheck, 0x4000: drivers.ErrCheck, 0x1000: drivers.ErrCheck, 0x0008: drivers.ErrCheck, 0x0004: drivers.ErrCheck,
		0x0002: drivers.ErrRefuse, 0x0001: drivers.ErrRefuse,
		0x8000: nil, 0x0C00: nil, 0x03E0: nil, // alerts; reserved, whatever they are
	} {
		got, err := chiptest.Watched(t, options(), 1, bench(21.4, 45), func(_ *drivertest.Bench, n int, _, r []byte) {
			if n == 7 {
				copy(r, chip.AppendWord(nil, status))
			}
		})
		require.ErrorIs(t, err, want, "%04x", status)
		require.Equal(t, want == nil, len(got) == 2, "%04x", status)
	}
}

// TestValues: what the simulated chip serves, over its range.
func TestValues(t *testing.T) {
	chiptest.Climate(t, options(), bench)
}

// TestPowerLost: between readings and during a measurement; opened anew it reads again.
func TestPowerLost(t *testing.T) {
	for at := 4; at <= 6; at++ {
		got, err := chiptest.Watched(t, options(), 1, bench(21.4, 45), func(b *drivertest.Bench, n int, _, _ []byte) {
			if n == at {
				b.Unplug()
				b.Plug()
				time.Sleep(2 * time.Millisecond)
			}
		})
		require.Error(t, err, at)
		require.Empty(t, got)
	}
}

// TestLeftMeasuring: a chip that somebody left measuring by itself is stopped.
func TestLeftMeasuring(t *testing.T) {
	got, err := chiptest.Read(t, options(), 1, func(t *testing.T) drivers.Env {
		w := &sim.World{}
		c, bus := sim.NewSHT3x(w, "chip", sim.Environment{Temperature: sim.Constant(30)}), w.AddI2C("chip")
		require.NoError(t, bus.Add(0x44, c))
		c.StartPeriodic()
		return drivers.Env{I2C: bus}
	})
	require.NoError(t, err)
	require.InDelta(t, 30, got[0].Value, 0.01)
}

// TestOtherChip: an SHT4x at the address takes none of the commands.
func TestOtherChip(t *testing.T) {
	chiptest.OtherChip(t, options(), bench(21.4, 45))
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{Options: chip.Options{BusName: "/dev/i2c-1"}, Address: new(0x46)})
	drivertest.Mistakes(t, "channels[0].name", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "pressure"}}}})
}

// FuzzDecode: what is taken has right checksums and lies on the scales.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x66, 0x66, 0x93, 0xBE, 0xEF, 0x92})
	f.Add([]byte{})
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, answer []byte) {
		v, err := decode(answer)
		if err != nil {
			return
		}
		require.Len(t, answer, 6)
		require.Equal(t, answer[2], chip.CRC8(answer[:2]))
		require.Equal(t, answer[5], chip.CRC8(answer[3:5]))
		require.True(t, v["temperature"] >= -45 && v["temperature"] <= 130 && v["humidity"] >= 0 && v["humidity"] <= 100)
	})
}
