// Package bh1750 reads illuminance from ROHM's BH1750FVI.
//
// It promises that a value comes out of a measurement that was started for it, and that darkness was measured twice: the data register of a chip
// that has just lost its supply reads 0, too. Light beyond the scale is measured again with a shorter time, and is an error where that is not enough.
//
// What it cannot tell: the chip has neither identity nor checksum, and nothing that was written can be read back. Whatever acknowledges its
// instructions is taken for it, and a bit that flips on the way is a value that is wrong by that bit.
//
// periph.io's driver (devices v3.7.4) sends a reset for each power mode and takes a full register for a value, so this one is our own.
//
// Source: ROHM, BH1750FVI Technical Note, 2009.04 rev. B.
package bh1750

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"periph.io/x/conn/v3/i2c"

	"homeward/drivers"
	"homeward/drivers/chip"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name: "bh1750", Summary: "ROHM BH1750FVI over I2C: light",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one chip.
type Options struct {
	chip.Options `yaml:",inline"`
	Address      *int `yaml:"address,omitempty" doc:"I2C address, 0x23 (default) or 0x5C"`
}

var quantities = []chip.Quantity{{Name: "light", Unit: "lx", Min: 0, Max: 100000}} // page 1, features

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	return append(chip.CheckI2C(o.BusName, &o.Address, "0x23 or 0x5c, by the chip's pin ADDR", 0x23, 0x5C), o.CheckChannels(quantities)...)
}

// The instructions (instruction set architecture) and times (page 2).
const (
	opMeasure = 0x20 // one time, H-resolution; powers the chip up, and down when it is done
	opTimeHi  = 0x40 // bits 7 to 5 of the measurement time register
	opTimeLo  = 0x60 // bits 4 to 0

	normal     = 69                     // the register's value after power-on (measurement time register)
	shortest   = 31                     // the least that is allowed: 0.45 times as sensitive
	conversion = 180 * time.Millisecond // H-resolution, at most, at the normal value
	full       = 0xFFFF
)

// Dev is an opened chip.
type Dev struct {
	opts  *Options
	dev   *i2c.Dev
	sleep func(time.Duration)
}

// Open sees that there is a chip which takes instructions.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, dev: &i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}, sleep: env.Sleep}
	if d.sleep == nil {
		d.sleep = time.Sleep
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("bh1750: %w", err)
	}
	if err := d.setTime(normal); err != nil {
		return nil, fmt.Errorf("bh1750: %w", err)
	}
	return d, nil
}

// setTime sets the measurement time register. Each instruction is a transaction of its own (page 10).
func (d *Dev) setTime(t byte) error {
	for _, op := range []byte{opTimeHi | t>>5, opTimeLo | t&0x1F} {
		if err := d.dev.Tx([]byte{op}, nil); err != nil {
			return fmt.Errorf("measurement time: %w", err)
		}
	}
	return nil
}

// count measures once. The time is set each time: a chip that lost its supply has the normal one.
func (d *Dev) count(ctx context.Context, t byte) (uint16, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := d.setTime(t); err != nil {
		return 0, err
	}
	if err := d.dev.Tx([]byte{opMeasure}, nil); err != nil {
		return 0, fmt.Errorf("start: %w", err)
	}
	d.sleep(conversion*time.Duration(t)/normal + time.Millisecond)
	var p [2]byte
	if err := d.dev.Tx(nil, p[:]); err != nil {
		return 0, fmt.Errorf("measurement: %w", err)
	}
	return binary.BigEndian.Uint16(p[:]), nil
}

// Read implements [drivers.Sensor].
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	v, err := d.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("bh1750: %w", err)
	}
	return d.opts.Pick(map[string]float64{"light": v}), nil
}

func (d *Dev) measure(ctx context.Context) (float64, error) {
	t := byte(normal)
	n, err := d.count(ctx, t)
	if err == nil && n == 0 { // dark, or without supply a moment ago
		n, err = d.count(ctx, t)
	}
	if err == nil && n == full {
		t = shortest
		n, err = d.count(ctx, t)
	}
	if err != nil {
		return 0, err
	}
	return lux(n, t)
}

// lux is n / 1.2 × 69 / t (page 10, and the measurement time register).
func lux(n uint16, t byte) (float64, error) {
	if n == full {
		return 0, fmt.Errorf("%w: the data register is full: more light than %.0f lx, or nothing drives the bus", drivers.ErrCheck, float64(full)/1.2*normal/float64(t))
	}
	if t == shortest && n < full/4 { // the measurement before, of the same light, was beyond the scale: at least 0.449 of it
		return 0, fmt.Errorf("%w: %d counts right after more than %d: the light changes, or the bus is bad", drivers.ErrCheck, n, full)
	}
	return chip.Round(float64(n)/1.2*normal/float64(t), 1), nil // one count is 0.8 lx
}

// Close implements [drivers.Sensor]: the chip powers down by itself.
func (d *Dev) Close() error { return nil }
