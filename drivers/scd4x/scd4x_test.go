package scd4x

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/chip"
	"homeward/drivers/chip/chiptest"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func options() drivers.Options {
	o := Factory.New("scd4x").(*Options)
	o.BusName = "sim:chip"
	return o
}

// bench has an SCD4x that has long had its supply; an SHT4x, which is never at this address, takes its place.
func bench(co2, celsius, rh float64) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		b := chiptest.Bench(t, 0x62, func(w *sim.World) (one, other sim.I2CChip) {
			return sim.NewSCD4x(w, "chip", 0xF8969F073BBE, map[string]sim.Value{"co2": sim.Constant(co2), "temperature": sim.Constant(celsius), "humidity": sim.Constant(rh)}),
				sim.NewSHT4x(w, "other", 1, sim.Environment{})
		})
		time.Sleep(time.Second)
		plug := b.Plug
		b.Plug = func() { plug(); time.Sleep(time.Second) }
		return b
	}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Case{Options: options, Bench: bench(812, 21.4, 45), Anonymous: true})
}

// TestDatasheet plays the datasheet's examples.
func TestDatasheet(t *testing.T) {
	got, err := chiptest.Play(t, options(), 1, "testdata/scd4x-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{{Channel: "co2", Value: 500, Unit: "ppm"}, {Channel: "temperature", Value: 25, Unit: "Cel"}, {Channel: "humidity", Value: 37, Unit: "%RH"}}, got)
}

// TestValues: what the simulated chip serves, over its range.
func TestValues(t *testing.T) {
	for _, v := range [][3]float64{{400, -10, 0}, {812, 21.4, 45.67}, {40000, 60, 100}} {
		got, err := chiptest.Read(t, options(), 2, func(t *testing.T) drivers.Env { return bench(v[0], v[1], v[2])(t).Env })
		require.NoError(t, err)
		require.Len(t, got, 6)
		for i := range 6 {
			require.InDelta(t, v[i%3], got[i].Value, 0.01)
		}
	}
}

// TestWaitsForNothing: while the chip measures, Read says when there will be something, and keeps the bus for no longer than it takes to ask.
func TestWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, o := bench(812, 21.4, 45)(t), options()
		require.Empty(t, o.Check())
		dev, err := o.Open(t.Context(), b.Env)
		require.NoError(t, err)
		for range 3 {
			began := time.Now()
			readings, err := dev.Read(t.Context())
			held := new(drivers.HeldError)
			require.ErrorAs(t, err, &held)
			require.Empty(t, readings)
			require.Less(t, time.Since(began), 10*time.Millisecond)
			require.InDelta(t, 5, held.After.Seconds(), 0.1)
			time.Sleep(held.After)
			_, err = dev.Read(t.Context())
			for end := time.Now().Add(time.Second); err != nil && time.Now().Before(end); _, err = dev.Read(t.Context()) {
				require.ErrorAs(t, err, &held)
				require.LessOrEqual(t, held.After, time.Second)
				time.Sleep(held.After)
			}
			require.NoError(t, err)
		}
	})
}

// TestSupplyLost: a chip that lost its supply measures nothing, and that is an error, not an old value.
func TestSupplyLost(t *testing.T) {
	reads := 0
	got, err := chiptest.Watched(t, options(), 3, bench(812, 21.4, 45), func(b *drivertest.Bench, _ int, _, r []byte) {
		if len(r) == 9 && r[0] != 0xF8 { // a measurement
			if reads++; reads == 2 {
				b.Unplug()
				b.Plug()
			}
		}
	})
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorContains(t, err, "lost its supply")
	require.Len(t, got, 6, "two measurements")
}

// TestEveryFlippedBit of the serial number, of the answer whether it is ready, and of a measurement.
func TestEveryFlippedBit(t *testing.T) {
	for _, bytes := range []int{9, 3, -9} { // the serial number, ready, the measurement
		n := max(bytes, -bytes)
		for i := range 8 * n {
			flipped, nines := false, 0
			got, err := chiptest.Watched(t, options(), 1, bench(812, 21.4, 45), func(_ *drivertest.Bench, _ int, _, r []byte) {
				if len(r) == 9 {
					nines++
				}
				if len(r) == n && (bytes == 3 || bytes == 9 && nines == 1 || bytes == -9 && nines == 2) {
					r[i/8] ^= 1 << (i % 8)
					flipped = true
				}
			})
			require.ErrorIs(t, err, drivers.ErrCheck, "%d: bit %d", bytes, i)
			require.Empty(t, got)
			require.True(t, flipped)
		}
	}
}

func TestConversion(t *testing.T) {
	for _, w := range [][3]uint16{{0, 0x6667, 0x5EB9}, {40001, 0x6667, 0x5EB9}, {500, 0, 0x5EB9}, {500, 0xFFFF, 0x5EB9}} {
		_, err := convert(w[0], w[1], w[2])
		require.ErrorIs(t, err, drivers.ErrCheck, w)
	}
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{Options: chip.Options{BusName: "/dev/i2c-1"}, Address: new(0x61)})
	drivertest.Mistakes(t, "channels[0].name", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "voc"}}}})
}

// FuzzDecode: what is taken has right checksums and lies on the scales.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, answer []byte) {
		w, err := chip.Words(answer)
		if err != nil || len(w) != 3 {
			return
		}
		v, err := convert(w[0], w[1], w[2])
		if err != nil {
			return
		}
		require.True(t, v["co2"] > 0 && v["co2"] <= 40000 && v["temperature"] >= -45 && v["temperature"] <= 130 && v["humidity"] >= 0 && v["humidity"] <= 100)
	})
}

// TestNoSerialNumber: 0 and all ones are what a broken chip gives, with a right check.
func TestNoSerialNumber(t *testing.T) {
	for serial, want := range map[uint64]bool{0: false, 0xFFFFFFFFFFFF: false, 1: true, 0xFFFFFFFFFFFE: true} {
		got, err := chiptest.Read(t, options(), 1, func(t *testing.T) drivers.Env {
			b := chiptest.Bench(t, 0x62, func(w *sim.World) (one, other sim.I2CChip) {
				return sim.NewSCD4x(w, "chip", serial, nil), sim.NewSHT4x(w, "other", 1, sim.Environment{})
			})
			time.Sleep(time.Second)
			return b.Env
		})
		if want {
			require.NoError(t, err)
			require.Len(t, got, 3)
			continue
		}
		require.ErrorIs(t, err, drivers.ErrCheck, "%012x", serial)
		require.ErrorContains(t, err, "a broken chip")
		require.Empty(t, got)
	}
}
