// Package scd4x reads carbon dioxide, temperature and relative humidity from Sensirion's SCD40 and SCD41.
//
// It promises that a value comes out of a measurement which the chip has said to be complete, not older than one interval
// of five seconds, with the right checksum for each word. A chip that lost its supply measures nothing until it is told to: that shows as a
// measurement which does not come, and it is set up again. The chip's own calibration (altitude, offset, automatic self-calibration) is left as it is.
//
// While the first measurement takes its five seconds, [Dev.Read] waits for nothing and says when to ask again
// ([drivers.HeldError]), so that the neighbours on the bus are read meanwhile.
//
// What it cannot tell: an SCD4x that was exchanged for another one which was already measuring.
//
// periph.io's driver for it was not taken: it asks for no serial number, and does not notice a chip that stopped measuring.
//
// Source: Sensirion, Datasheet SCD4x, version 1.3 (September 2022).
package scd4x

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
	Name: "scd4x", Summary: "Sensirion SCD40 and SCD41 over I2C: carbon dioxide, temperature, humidity",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one chip.
type Options struct {
	chip.Options `yaml:",inline"`
	Address      *int `yaml:"address,omitempty" doc:"I2C address: 0x62, there is no other"`
}

// In the order of recording, with their ranges (§1; the output of carbon dioxide goes to 40,000 ppm).
var quantities = []chip.Quantity{
	{Name: "co2", Unit: "ppm", Min: 0, Max: 40000}, {Name: "temperature", Unit: "Cel", Min: -10, Max: 60}, {Name: "humidity", Unit: "%RH", Min: 0, Max: 100},
}

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	return append(chip.CheckI2C(o.BusName, &o.Address, "0x62, the chip's only one", 0x62), o.CheckChannels(quantities)...)
}

// The commands (§3.4, table 9).
const (
	cmdStart  = 0x21B1 // periodic measurement
	cmdRead   = 0xEC05
	cmdStop   = 0x3F86
	cmdReady  = 0xE4B8
	cmdSerial = 0x3682

	interval  = 5 * time.Second
	stopTime  = 500 * time.Millisecond // §3.5.3: nothing is acknowledged meanwhile
	execution = 2 * time.Millisecond   // of all others 1 ms
	margin    = 700 * time.Millisecond // of the chip's clock, over an interval
	soon      = 200 * time.Millisecond
)

// Dev is an opened chip.
type Dev struct {
	opts  *Options
	dev   *i2c.Dev
	sleep func(time.Duration)
	last  time.Time // when the present interval began, at the latest
}

// Open stops what the chip may be measuring, reads its serial number and starts the periodic measurement.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, dev: &i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}, sleep: env.Sleep}
	if d.sleep == nil {
		d.sleep = time.Sleep
	}
	serial, err := d.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("scd4x: %w", err)
	}
	if env.Log != nil {
		env.Log.Debug("scd4x: opened", "serial", fmt.Sprintf("%012x", serial))
	}
	return d, nil
}

func (d *Dev) open(ctx context.Context) (serial uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := d.send(cmdStop); err != nil {
		return 0, fmt.Errorf("stop: %w", err)
	}
	d.sleep(stopTime)
	w, err := d.ask(cmdSerial, 3)
	if err != nil {
		return 0, fmt.Errorf("serial number: %w", err)
	}
	if serial = uint64(w[0])<<32 | uint64(w[1])<<16 | uint64(w[2]); serial == 0 || serial == 0xFFFFFFFFFFFF {
		return 0, fmt.Errorf("%w: serial number %012x: a broken chip", drivers.ErrCheck, serial)
	}
	if err := d.send(cmdStart); err != nil {
		return 0, fmt.Errorf("start: %w", err)
	}
	d.sleep(execution)
	d.last = time.Now()
	return serial, nil
}

func (d *Dev) send(cmd uint16) error { return d.dev.Tx([]byte{byte(cmd >> 8), byte(cmd)}, nil) }

// ask sends a command and reads its n words.
func (d *Dev) ask(cmd uint16, n int) ([]uint16, error) {
	if err := d.send(cmd); err != nil {
		return nil, err
	}
	d.sleep(execution)
	p := make([]byte, 3*n)
	if err := d.dev.Tx(nil, p); err != nil {
		return nil, err
	}
	return chip.Words(p)
}

// Read implements [drivers.Sensor]: the latest measurement. Where there is none since the last reading, it says when there will
// be one.
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("scd4x: %w", err)
	}
	w, err := d.ask(cmdReady, 1)
	if err != nil {
		return nil, fmt.Errorf("scd4x: is it ready: %w", err)
	}
	if w[0]&0x07FF == 0 { // §3.8.2: the eleven low bits
		waited := time.Since(d.last)
		if waited > interval+margin {
			return nil, fmt.Errorf("scd4x: %w: no measurement for %v: it has lost its supply, or is broken", drivers.ErrCheck, waited.Round(100*time.Millisecond))
		}
		return nil, fmt.Errorf("scd4x: %w", &drivers.HeldError{After: max(interval-waited, soon)})
	}
	if w, err = d.ask(cmdRead, 3); err != nil {
		return nil, fmt.Errorf("scd4x: measurement: %w", err)
	}
	values, err := convert(w[0], w[1], w[2])
	if err != nil {
		return nil, fmt.Errorf("scd4x: measurement: %w", err)
	}
	d.last = time.Now()
	return d.opts.Pick(values), nil
}

// convert is of §3.5.2.
func convert(co2, t, h uint16) (map[string]float64, error) {
	switch {
	case co2 == 0: // no air is without; the chip says so when a sample failed
		return nil, fmt.Errorf("%w: no carbon dioxide at all: the sample failed", drivers.ErrCheck)
	case co2 > 40000:
		return nil, fmt.Errorf("%w: %d ppm of carbon dioxide, more than the chip can say", drivers.ErrCheck, co2)
	case t == 0 || t == 0xFFFF: // -45 and 130 Cel: the ends of the scale, where no chip works
		return nil, fmt.Errorf("%w: raw temperature %#04x", drivers.ErrCheck, t)
	}
	return map[string]float64{
		"co2":         float64(co2),
		"temperature": chip.Round(-45+175*float64(t)/65535, 2),
		"humidity":    chip.Round(100*float64(h)/65535, 2),
	}, nil
}

// Close implements [drivers.Sensor]. The chip goes on measuring; Open stops it.
func (d *Dev) Close() error { return nil }
