// Package sht3x reads temperature and relative humidity from Sensirion's SHT30, SHT31 and SHT35 (SHT3x-DIS).
//
// It promises that a value comes out of a measurement that was started for it, with the right checksum for each word, from a chip whose status
// says that it took the command, that its heater is off, and that it was not reset since it was opened.
//
// What it cannot tell: one SHT3x from another. A chip that was exchanged shows as one that was reset.
//
// Source: Sensirion, Datasheet SHT3x-DIS, version 5 to 7.
package sht3x

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
	Name: "sht3x", Summary: "Sensirion SHT30, SHT31 and SHT35 over I2C: temperature, humidity",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one chip.
type Options struct {
	chip.Options `yaml:",inline"`
	Address      *int `yaml:"address,omitempty" doc:"I2C address, 0x44 (default) or 0x45"`
}

// In the order of recording, with their ranges (§1, sensor performance).
var quantities = []chip.Quantity{{Name: "temperature", Unit: "Cel", Min: -40, Max: 125}, {Name: "humidity", Unit: "%RH", Min: 0, Max: 100}}

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	return append(chip.CheckI2C(o.BusName, &o.Address, "0x44 or 0x45, by the chip's pin ADDR", 0x44, 0x45), o.CheckChannels(quantities)...)
}

// The commands.
const (
	cmdMeasure     = 0x2400 // single shot, high repeatability, no clock stretching (table 9)
	cmdBreak       = 0x3093 // stop measuring periodically (§4.8)
	cmdHeaterOff   = 0x3066 // table 16
	cmdStatus      = 0xF32D // table 17
	cmdClearStatus = 0x3041 // table 19

	conversion = 16 * time.Millisecond // high repeatability: at most 15.5 ms (§2, timing)
	pause      = time.Millisecond      // between commands, and for a break to take effect (§4.8)
)

// The status register (table 18).
const (
	statusHeater   = 1 << 13
	statusReset    = 1 << 4
	statusCommand  = 1 << 1
	statusChecksum = 1 << 0
	statusZero     = 1<<14 | 1<<12 | 1<<3 | 1<<2 // reserved, 0
)

// Dev is an opened chip.
type Dev struct {
	opts  *Options
	dev   *i2c.Dev
	sleep func(time.Duration)
}

// Open stops what the chip may be doing, and clears its status.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, dev: &i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}, sleep: env.Sleep}
	if d.sleep == nil {
		d.sleep = time.Sleep
	}
	if err := d.open(ctx); err != nil {
		return nil, fmt.Errorf("sht3x: %w", err)
	}
	return d, nil
}

func (d *Dev) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.sleep(2 * pause) // power-up takes up to 1.5 ms (§2, timing)
	for _, c := range []struct {
		cmd  uint16
		name string
	}{{cmdBreak, "break"}, {cmdHeaterOff, "heater off"}, {cmdClearStatus, "clear status"}} {
		if err := d.send(c.cmd); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		d.sleep(pause)
	}
	return d.check()
}

func (d *Dev) send(cmd uint16) error { return d.dev.Tx([]byte{byte(cmd >> 8), byte(cmd)}, nil) }

// check reads the status.
func (d *Dev) check() error {
	var p [3]byte
	if err := d.dev.Tx([]byte{cmdStatus >> 8, cmdStatus & 0xFF}, p[:]); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	w, err := chip.Words(p[:])
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	switch s := w[0]; {
	case s&statusZero != 0:
		return fmt.Errorf("%w: status %#04x has reserved bits set", drivers.ErrCheck, s)
	case s&statusReset != 0:
		return fmt.Errorf("%w: the chip was reset, or lost its supply (status %#04x)", drivers.ErrCheck, s)
	case s&statusHeater != 0:
		return fmt.Errorf("%w: the chip's heater is on (status %#04x)", drivers.ErrCheck, s)
	case s&(statusCommand|statusChecksum) != 0:
		return fmt.Errorf("%w: the chip did not take the last command (status %#04x)", drivers.ErrRefuse, s)
	}
	return nil
}

// Read implements [drivers.Sensor].
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	readings, err := d.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("sht3x: %w", err)
	}
	return readings, nil
}

func (d *Dev) measure(ctx context.Context) ([]drivers.Reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.send(cmdMeasure); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	d.sleep(conversion)
	var p [6]byte
	if err := d.dev.Tx(nil, p[:]); err != nil { // not acknowledged where there is no measurement
		return nil, fmt.Errorf("measurement: %w", err)
	}
	values, err := decode(p[:])
	if err != nil {
		return nil, fmt.Errorf("measurement: %w", err)
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d.opts.Pick(values), nil
}

// decode is of §4.13.
func decode(answer []byte) (map[string]float64, error) {
	w, err := chip.Words(answer)
	if err != nil {
		return nil, err
	}
	if len(w) != 2 {
		return nil, fmt.Errorf("%w: %d words, want 2", drivers.ErrCheck, len(w))
	}
	if w[0] == 0 || w[0] == 0xFFFF { // -45 and 130 Cel: the ends of the scale, where no chip works
		return nil, fmt.Errorf("%w: raw temperature %#04x", drivers.ErrCheck, w[0])
	}
	return map[string]float64{
		"temperature": chip.Round(-45+175*float64(w[0])/65535, 2), // one step is 0.003 Cel, the chip repeats within 0.04
		"humidity":    chip.Round(100*float64(w[1])/65535, 2),     // 0.0015 %RH, within 0.08
	}, nil
}

// Close implements [drivers.Sensor]: the chip sleeps by itself after each measurement.
func (d *Dev) Close() error { return nil }
