// Package chiptest is what the tests of drivers of I2C chips have in common.
package chiptest

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"periph.io/x/conn/v3/i2c"

	"homeward/drivers"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

// socket holds a chip, and another one after an exchange.
type socket struct{ sim.I2CChip }

// Bench puts the chip one at addr of a simulated bus; other takes its place at an exchange.
func Bench(t *testing.T, addr uint16, chips func(w *sim.World) (one, other sim.I2CChip)) *drivertest.Bench {
	t.Helper()
	w := &sim.World{}
	one, other := chips(w)
	chip, bus, s := &socket{one}, w.AddI2C("chip"), &drivertest.Steps{}
	require.NoError(t, bus.Add(addr, chip))
	return &drivertest.Bench{
		Steps: s, Env: drivers.Env{I2C: s.I2C(bus), Timeout: time.Second},
		Unplug: func() { bus.Unplug(addr) }, Plug: func() { bus.Plug(addr) },
		Exchange: func() { other.Reset(); chip.I2CChip = other },
	}
}

// Read checks o, opens it and reads n times, in virtual time, until one fails, and gives all readings.
func Read(t *testing.T, o drivers.Options, n int, env func(t *testing.T) drivers.Env) (got []drivers.Reading, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		require.Empty(t, o.Check())
		e := env(t)
		e.Timeout, e.Shared = time.Second, &drivers.Shared{}
		var s drivers.Sensor
		if s, err = o.Open(t.Context(), e); err != nil {
			return
		}
		for range n {
			var r []drivers.Reading
			r, err = s.Read(t.Context())
			for held := new(drivers.HeldError); errors.As(err, &held); r, err = s.Read(t.Context()) {
				time.Sleep(held.After)
			}
			if got = append(got, r...); err != nil {
				return
			}
		}
	})
	return got, err
}

// Play is [Read] on the recording in file, of n readings.
func Play(t *testing.T, o drivers.Options, n int, file string) ([]drivers.Reading, error) {
	t.Helper()
	return Read(t, o, n, func(t *testing.T) drivers.Env {
		f, err := os.Open(file)
		require.NoError(t, err)
		defer f.Close()
		return drivers.Env{I2C: drivertest.Play(t, f).I2C()}
	})
}

// Tap sees, and may change, what is read from a bus; n counts the transactions from 1.
type Tap struct {
	i2c.Bus
	On func(n int, w, r []byte)
	n  int
}

// Tx implements [i2c.Bus].
func (b *Tap) Tx(addr uint16, w, r []byte) error {
	b.n++
	err := b.Bus.Tx(addr, w, r)
	if err == nil && b.On != nil {
		b.On(b.n, w, r)
	}
	return err
}

// Watched is [Read] on a bench whose bus is watched: on sees, and may change, what each transaction reads, and may unplug the chip
// after it.
func Watched(t *testing.T, o drivers.Options, n int, bench func(t *testing.T) *drivertest.Bench, on func(b *drivertest.Bench, n int, w, r []byte)) ([]drivers.Reading, error) {
	t.Helper()
	return Read(t, o, n, func(t *testing.T) drivers.Env {
		b := bench(t)
		b.Env.I2C = &Tap{Bus: b.Env.I2C, On: func(n int, w, r []byte) { on(b, n, w, r) }}
		return b.Env
	})
}

// Fill makes all that was read one level: what a bus gives that nothing drives.
func Fill(r []byte, level byte) {
	for i := range r {
		r[i] = level
	}
}

// OtherChip sees that another chip at the address, to which an exchange changes, gives no reading.
func OtherChip(t *testing.T, o drivers.Options, bench func(t *testing.T) *drivertest.Bench) {
	t.Helper()
	got, err := Read(t, o, 1, func(t *testing.T) drivers.Env {
		b := bench(t)
		b.Exchange()
		return b.Env
	})
	require.Error(t, err)
	require.Empty(t, got)
}

// Climate sees that temperature and humidity are read as they are, over the range of Sensirion's sensors.
func Climate(t *testing.T, o drivers.Options, bench func(celsius, rh float64) func(t *testing.T) *drivertest.Bench) {
	t.Helper()
	for _, v := range [][2]float64{{-40, 0}, {0, 50}, {21.4, 45.67}, {125, 100}} {
		got, err := Read(t, o, 1, func(t *testing.T) drivers.Env { return bench(v[0], v[1])(t).Env })
		require.NoError(t, err)
		require.InDelta(t, v[0], got[0].Value, 0.01)
		require.InDelta(t, v[1], got[1].Value, 0.01)
	}
}
