// Package sht4x reads temperature and relative humidity from Sensirion's SHT40, SHT41, SHT43 and SHT45.
//
// It promises that a value comes out of a measurement that was started for it, with the right checksum for each word. The chip has
// no settings and sleeps by itself, so that one which lost its supply in between measures as before; its serial number is read when it is opened.
//
// What it cannot tell: an SHT4x that was exchanged for another one while nobody opened it.
//
// Source: Sensirion, Datasheet SHT4x, version 6 (February 2023).
package sht4x

import (
	"context"
	"fmt"
	"time"

	"periph.io/x/conn/v3/i2c"

	"homeward/drivers"
	"homeward/drivers/chip"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name: "sht4x", Summary: "Sensirion SHT40, SHT41, SHT43 and SHT45 over I2C: temperature, humidity",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one chip.
type Options struct {
	chip.Options `yaml:",inline"`
	Address      *int `yaml:"address,omitempty" doc:"I2C address, 0x44 (default), 0x45 or 0x46"`
}

// In the order of recording, with their ranges (§2).
var quantities = []chip.Quantity{{Name: "temperature", Unit: "Cel", Min: -40, Max: 125}, {Name: "humidity", Unit: "%RH", Min: 0, Max: 100}}

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	return append(chip.CheckI2C(o.BusName, &o.Address, "0x44, 0x45 or 0x46, by the letter after the chip's name (A, B, C)", 0x44, 0x45, 0x46), o.CheckChannels(quantities)...)
}

// The commands (command overview).
const (
	cmdMeasure = 0xFD // high precision
	cmdSerial  = 0x89
	cmdReset   = 0x94

	conversion = 9 * time.Millisecond // high precision: at most 8.3 ms (timings)
	pause      = 2 * time.Millisecond // power-up and reset take at most 1 ms (timings)
)

// Dev is an opened chip.
type Dev struct {
	opts  *Options
	dev   *i2c.Dev
	sleep func(time.Duration)
}

// Open resets the chip, which ends what it may be doing (its heater), and reads its serial number.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, dev: &i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}, sleep: env.Sleep}
	if d.sleep == nil {
		d.sleep = time.Sleep
	}
	serial, err := d.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("sht4x: %w", err)
	}
	if env.Log != nil {
		env.Log.Debug("sht4x: opened", "serial", fmt.Sprintf("%08x", serial))
	}
	return d, nil
}

func (d *Dev) open(ctx context.Context) (serial uint32, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	d.sleep(pause)
	if err := d.dev.Tx([]byte{cmdReset}, nil); err != nil {
		return 0, fmt.Errorf("reset: %w", err)
	}
	d.sleep(pause)
	w, err := d.ask(cmdSerial, pause)
	if err != nil {
		return 0, fmt.Errorf("serial number: %w", err)
	}
	if serial = uint32(w[0])<<16 | uint32(w[1]); serial == 0 || serial == 0xFFFFFFFF {
		return 0, fmt.Errorf("%w: serial number %08x: a broken chip", drivers.ErrCheck, serial)
	}
	return serial, nil
}

// ask sends a command and reads its two words. A chip that has none does not acknowledge.
func (d *Dev) ask(cmd byte, wait time.Duration) ([]uint16, error) {
	if err := d.dev.Tx([]byte{cmd}, nil); err != nil {
		return nil, err
	}
	d.sleep(wait)
	var p [6]byte
	if err := d.dev.Tx(nil, p[:]); err != nil {
		return nil, err
	}
	return chip.Words(p[:])
}

// Read implements [drivers.Sensor].
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sht4x: %w", err)
	}
	w, err := d.ask(cmdMeasure, conversion)
	if err != nil {
		return nil, fmt.Errorf("sht4x: measurement: %w", err)
	}
	values, err := convert(w[0], w[1])
	if err != nil {
		return nil, fmt.Errorf("sht4x: measurement: %w", err)
	}
	return d.opts.Pick(values), nil
}

// convert is of the section on the conversion of signal output. Humidities beyond 0 and 100 %RH, which the formula gives, are cut as it says.
func convert(t, h uint16) (map[string]float64, error) {
	if t == 0 || t == 0xFFFF { // -45 and 130 Cel: the ends of the scale, where no chip works
		return nil, fmt.Errorf("%w: raw temperature %#04x", drivers.ErrCheck, t)
	}
	return map[string]float64{
		"temperature": chip.Round(-45+175*float64(t)/65535, 2), // repeats within 0.04 Cel
		"humidity":    chip.Round(max(0, min(100, -6+125*float64(h)/65535)), 2),
	}, nil
}

// Close implements [drivers.Sensor].
func (d *Dev) Close() error { return nil }
