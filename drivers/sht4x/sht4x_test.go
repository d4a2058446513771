package sht4x

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

func options() drivers.Options {
	o := Factory.New("sht4x").(*Options)
	o.BusName = "sim:chip"
	return o
}

// bench has an SHT4x; an SHT3x takes its place.
func bench(celsius, rh float64) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		return chiptest.Bench(t, 0x44, func(w *sim.World) (one, other sim.I2CChip) {
			env := sim.Environment{Temperature: sim.Constant(celsius), Humidity: sim.Constant(rh)}
			return sim.NewSHT4x(w, "chip", 0x12345678, env), sim.NewSHT3x(w, "other", env)
		})
	}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Case{Options: options, Bench: bench(21.4, 45), Anonymous: true})
}

// TestDatasheet plays the datasheet's commands and checksum example.
func TestDatasheet(t *testing.T) {
	got, err := chiptest.Play(t, options(), 1, "testdata/sht4x-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{{Channel: "temperature", Value: 25, Unit: "Cel"}, {Channel: "humidity", Value: 87.23, Unit: "%RH"}}, got)
}

// TestConversion: the conversion of signal output, with what lies beyond 0 and 100 %RH cut.
func TestConversion(t *testing.T) {
	for _, c := range []struct {
		t, h        uint16
		celsius, rh float64
	}{{1, 0, -45, 0}, {0xFFFE, 0xFFFF, 130, 100}, {0x8000, 0x8000, 42.5, 56.5}, {1872, 3146, -40, 0}, {63663, 55574, 125, 100}, {26214, 29360, 25, 50}} {
		got, err := convert(c.t, c.h)
		require.NoError(t, err)
		require.Equal(t, map[string]float64{"temperature": c.celsius, "humidity": c.rh}, got)
	}
	for _, w := range []uint16{0, 0xFFFF} {
		_, err := convert(w, 0x8000)
		require.ErrorIs(t, err, drivers.ErrCheck)
	}
}

// TestEveryFlippedBit of the serial number and of a measurement.
func TestEveryFlippedBit(t *testing.T) {
	for _, at := range []int{3, 5} {
		for i := range 48 {
			flipped := false
			got, err := chiptest.Watched(t, options(), 1, bench(21.4, 45), func(_ *drivertest.Bench, n int, _, r []byte) {
				if n == at {
					r[i/8] ^= 1 << (i % 8)
					flipped = true
				}
			})
			require.ErrorIs(t, err, drivers.ErrCheck, i)
			require.Empty(t, got)
			require.True(t, flipped)
		}
	}
}

// TestSerialOfNone: all zeros or ones, checksums right.
func TestSerialOfNone(t *testing.T) {
	for _, w := range []uint16{0, 0xFFFF} {
		_, err := chiptest.Watched(t, options(), 1, bench(21.4, 45), func(_ *drivertest.Bench, n int, _, r []byte) {
			if n == 3 {
				copy(r, chip.AppendWord(chip.AppendWord(nil, w), w))
			}
		})
		require.ErrorIs(t, err, drivers.ErrCheck)
		require.ErrorContains(t, err, "serial number")
	}
}

// TestValues: what the simulated chip serves, over its range.
func TestValues(t *testing.T) {
	chiptest.Climate(t, options(), bench)
}

// TestPowerLost: during a measurement it is an error; between two it changes nothing.
func TestPowerLost(t *testing.T) {
	for at := 4; at <= 5; at++ {
		got, err := chiptest.Watched(t, options(), 2, bench(21.4, 45), func(b *drivertest.Bench, n int, _, _ []byte) {
			if n == at {
				b.Unplug()
				b.Plug()
				time.Sleep(2 * time.Millisecond)
			}
		})
		if at == 4 {
			require.Error(t, err)
			require.Empty(t, got)
		} else {
			require.NoError(t, err)
			require.Len(t, got, 4)
			require.Equal(t, got[:2], got[2:])
		}
	}
}

// TestOtherChip: an SHT3x at the address takes none of the commands.
func TestOtherChip(t *testing.T) {
	chiptest.OtherChip(t, options(), bench(21.4, 45))
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{Options: chip.Options{BusName: "/dev/i2c-1"}, Address: new(0x47)})
	drivertest.Mistakes(t, "channels[0].name", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "dewpoint"}}}})
}

// FuzzDecode: what is taken has right checksums and lies on the scales.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{0x66, 0x66, 0x93, 0xBE, 0xEF, 0x92})
	f.Add([]byte{})
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, answer []byte) {
		w, err := chip.Words(answer)
		if err != nil || len(w) != 2 {
			return
		}
		v, err := convert(w[0], w[1])
		if err != nil {
			return
		}
		require.Equal(t, answer, chip.AppendWord(chip.AppendWord(nil, w[0]), w[1]))
		require.True(t, v["temperature"] >= -45 && v["temperature"] <= 130 && v["humidity"] >= 0 && v["humidity"] <= 100)
	})
}
