// Package drivertest is the suite that every driver passes. It knows nothing of buses: a
// test gives it an instrument on a bench, real or simulated, that can be pulled,
// exchanged, and broken at any step of its conversation.
package drivertest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
)

// Case is one driver with one configuration.
type Case struct {
	Options func() drivers.Options    // fresh ones, not yet checked
	Bench   func(t *testing.T) *Bench // a fresh bench with a healthy instrument
	// Anonymous: the protocol has nothing to tell one instrument from another by.
	Anonymous bool
}

// Bench is an instrument within reach.
type Bench struct {
	Env      drivers.Env // its bus goes through Steps
	Steps    *Steps
	Unplug   func()
	Plug     func() // the instrument has lost its supply meanwhile
	Exchange func() // puts another instrument in its place; not used where Anonymous
}

// Steps counts the operations on a bus and makes one of them fail.
type Steps struct {
	Fail  int // this one from now on fails, counted from 1; 0: none
	Count int
}

func (s *Steps) take() error {
	s.Count++
	if s.Fail > 0 {
		if s.Fail--; s.Fail == 0 {
			return errors.New("remote I/O error")
		}
	}
	return nil
}

// I2C counts the transactions of b.
func (s *Steps) I2C(b i2c.Bus) i2c.Bus { return i2cSteps{b, s} }

type i2cSteps struct {
	i2c.Bus
	s *Steps
}

func (b i2cSteps) Tx(addr uint16, w, r []byte) error {
	if err := b.s.take(); err != nil {
		return err
	}
	return b.Bus.Tx(addr, w, r)
}

// SPI counts the transactions of p.
func (s *Steps) SPI(p spi.Port) spi.Port { return &spiSteps{p, s} }

type spiSteps struct {
	spi.Port
	s *Steps
}

func (p *spiSteps) Connect(f physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	c, err := p.Port.Connect(f, mode, bits)
	if err != nil {
		return nil, err
	}
	return &spiConnSteps{c, p.s}, nil
}

type spiConnSteps struct {
	spi.Conn
	s *Steps
}

func (c *spiConnSteps) Tx(w, r []byte) error {
	if err := c.s.take(); err != nil {
		return err
	}
	return c.Conn.Tx(w, r)
}

// W1 counts what is listed and read.
func (s *Steps) W1(b drivers.W1) drivers.W1 { return w1Steps{b, s} }

type w1Steps struct {
	b drivers.W1
	s *Steps
}

func (b w1Steps) Devices() ([]string, error) {
	if err := b.s.take(); err != nil {
		return nil, err
	}
	return b.b.Devices()
}

func (b w1Steps) Read(device, file string) ([]byte, error) {
	if err := b.s.take(); err != nil {
		return nil, err
	}
	return b.b.Read(device, file)
}

// Port counts what is written and read.
func (s *Steps) Port(p drivers.Port) drivers.Port { return &portSteps{p, s} }

type portSteps struct {
	drivers.Port
	s *Steps
}

func (p *portSteps) Write(b []byte) error {
	if err := p.s.take(); err != nil {
		return err
	}
	return p.Port.Write(b)
}

func (p *portSteps) Read(b []byte, wait time.Duration) (int, error) {
	n, err := p.Port.Read(b, wait)
	if err == nil { // waiting for nothing is no step that can fail
		err = p.s.take()
	}
	if err != nil {
		return 0, err
	}
	return n, nil
}

// read reads as the sampler does: one that says when to ask again is asked again then.
func read(ctx context.Context, dev drivers.Sensor) (readings []drivers.Reading, err error) {
	for range 100 {
		readings, err = dev.Read(ctx)
		held := new(drivers.HeldError)
		if !errors.As(err, &held) {
			break
		}
		time.Sleep(held.After)
	}
	return readings, err
}

// open checks the options, opens and reads once.
func open(t *testing.T, c Case, b *Bench) (drivers.Options, drivers.Sensor, []drivers.Reading, error) {
	t.Helper()
	o := c.Options()
	require.Empty(t, o.Check())
	env := b.Env
	env.Shared = &drivers.Shared{}
	dev, err := o.Open(t.Context(), env)
	if err != nil {
		require.Nil(t, dev, "no half-open sensor")
		return o, nil, nil, err
	}
	readings, err := read(t.Context(), dev)
	return o, dev, readings, err
}

// good opens and reads, and sees that everything configured is there.
func good(t *testing.T, c Case, b *Bench) drivers.Sensor {
	t.Helper()
	o, dev, readings, err := open(t, c, b)
	require.NoError(t, err)
	channels := o.Channels()
	require.NotEmpty(t, channels)
	require.Len(t, readings, len(channels))
	for i, ch := range channels {
		require.Equal(t, ch.Name, readings[i].Channel, "readings come in the order of the channels")
		require.NotNil(t, ch.Unit, "Channels fills the unit in")
		require.Equal(t, *ch.Unit, readings[i].Unit)
		require.NoError(t, drivers.CheckValue(readings[i].Value))
	}
	return dev
}

// leaf is a subtest under virtual time: conversions and time-outs pass at once.
func leaf(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// Run runs the suite. Every part of it builds its own bench, under the virtual time of [synctest]: a
// bench may hold nothing that waits for the world outside.
func Run(t *testing.T, c Case) {
	leaf(t, "reads what is configured", func(t *testing.T) {
		dev := good(t, c, c.Bench(t))
		for range 3 {
			readings, err := read(t.Context(), dev)
			require.NoError(t, err)
			require.NotEmpty(t, readings)
		}
		require.NoError(t, dev.Close())
		require.NoError(t, dev.Close(), "closing twice is harmless")
	})

	leaf(t, "each step that fails is an error, and opening anew recovers", func(t *testing.T) {
		b := c.Bench(t)
		good(t, c, b)
		steps := b.Steps.Count
		require.Positive(t, steps)
		for i := 1; i <= steps; i++ {
			b := c.Bench(t)
			b.Steps.Fail = i
			_, _, readings, err := open(t, c, b)
			require.Error(t, err, "step %d of %d", i, steps)
			require.Less(t, len(readings), len(c.checked(t).Channels()), "step %d of %d: no full set without each step", i, steps)
			require.Zero(t, b.Steps.Fail, "step %d was reached", i)
			require.True(t, drivers.Retry(err), "a fault of the bus may pass: %v", err)
			good(t, c, b)
		}
	})

	leaf(t, "pulled is an error and never a number", func(t *testing.T) {
		b := c.Bench(t)
		dev := good(t, c, b)
		b.Unplug()
		for range 3 {
			readings, err := read(t.Context(), dev)
			require.Error(t, err)
			require.Empty(t, readings)
		}
		require.NoError(t, dev.Close())
		_, _, readings, err := open(t, c, b)
		require.Error(t, err)
		require.Empty(t, readings)
		require.True(t, drivers.Retry(err), "it may be plugged in again: %v", err)
		b.Plug()
		good(t, c, b)
	})

	leaf(t, "pulled and put back unnoticed is set up anew or refused", func(t *testing.T) {
		b := c.Bench(t)
		dev := good(t, c, b)
		before, err := read(t.Context(), dev)
		require.NoError(t, err)
		b.Unplug()
		b.Plug()
		readings, err := read(t.Context(), dev)
		if err == nil {
			require.Len(t, readings, len(before))
		} else {
			require.Empty(t, readings)
		}
		good(t, c, b)
	})

	leaf(t, "a cancelled context is honoured", func(t *testing.T) {
		dev := good(t, c, c.Bench(t))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		readings, err := dev.Read(ctx)
		require.Error(t, err)
		require.Empty(t, readings)
	})

	if c.Anonymous {
		return
	}
	leaf(t, "another instrument is refused", func(t *testing.T) {
		b := c.Bench(t)
		dev := good(t, c, b)
		b.Exchange()
		readings, err := read(t.Context(), dev)
		require.Error(t, err)
		require.Empty(t, readings)
		_, _, _, err = open(t, c, b)
		require.ErrorIs(t, err, drivers.ErrWrong)
		require.False(t, drivers.Retry(err))
	})
}

func (c Case) checked(t *testing.T) drivers.Options {
	t.Helper()
	o := c.Options()
	require.Empty(t, o.Check())
	return o
}
