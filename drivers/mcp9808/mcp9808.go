// Package mcp9808 reads temperature from Microchip's MCP9808.
//
// It promises that a value comes from a chip that has just shown its identity and still holds the settings that were written
// to it: one that was pulled, exchanged or lost its supply is an error, and is set up again when it is opened anew. The value is the latest
// of the chip's own conversions, at most half a second old.
//
// What it cannot tell: a bit that flips on the way, as there is no checksum; such a value is wrong by what the bit is worth.
//
// periph.io's driver (devices v3.7.4) does not read the identity and notices no loss of settings, so this one is our own.
//
// Source: Microchip DS25095A.
package mcp9808

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
	Name: "mcp9808", Summary: "Microchip MCP9808 over I2C: temperature",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one chip.
type Options struct {
	chip.Options `yaml:",inline"`
	Address      *int `yaml:"address,omitempty" doc:"I2C address, 0x18 (default) to 0x1F"`
}

var quantities = []chip.Quantity{{Name: "temperature", Unit: "Cel", Min: -40, Max: 125}} // temperature characteristics

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	return append(chip.CheckI2C(o.BusName, &o.Address, "0x18 to 0x1f, by the chip's pins A2 to A0",
		0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F), o.CheckChannels(quantities)...)
}

// The registers (§5.1, register 5-1).
const (
	regConfig       = 1
	regAmbient      = 5
	regManufacturer = 6 // Microchip: 0x0054
	regDevice       = 7 // 0x04 and the revision
	regResolution   = 8

	manufacturer = 0x0054
	device       = 0x04
	// A hysteresis of 1.5 Cel (configuration register, bits 10-9) does nothing while the alert is off; after a loss of supply it is 0 Cel.
	settings   = 0x0200
	resolution = 3 // 0.0625 Cel (resolution register)
	// Twice the typical time of a conversion (temperature conversion time), of which no maximum is given.
	conversion = 500 * time.Millisecond
)

// Dev is an opened chip.
type Dev struct {
	opts *Options
	dev  *i2c.Dev
}

// Open identifies the chip, sets it up and waits for its first conversion.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, dev: &i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}}
	sleep := env.Sleep
	if sleep == nil {
		sleep = time.Sleep
	}
	if err := d.open(ctx, sleep); err != nil {
		return nil, fmt.Errorf("mcp9808: %w", err)
	}
	return d, nil
}

func (d *Dev) open(ctx context.Context, sleep func(time.Duration)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.identify(); err != nil {
		return err
	}
	for _, w := range [][]byte{{regConfig, settings >> 8, settings & 0xFF}, {regResolution, resolution}} {
		if err := d.dev.Tx(w, nil); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	sleep(conversion)
	return d.settled()
}

func (d *Dev) read(at byte) (uint16, error) {
	var p [2]byte
	err := d.dev.Tx([]byte{at}, p[:])
	return uint16(p[0])<<8 | uint16(p[1]), err
}

func (d *Dev) identify() error {
	m, err := d.read(regManufacturer)
	if err != nil {
		return fmt.Errorf("manufacturer: %w", err)
	}
	id, err := d.read(regDevice)
	switch {
	case err != nil:
		return fmt.Errorf("device: %w", err)
	case m == manufacturer && id>>8 == device:
		return nil
	case m == id && (m == 0 || m == 0xFFFF):
		return fmt.Errorf("%w: identity reads %#04x: nothing drives the bus", drivers.ErrCheck, m)
	}
	return fmt.Errorf("%w: manufacturer reads %#04x and device %#02x, want %#04x and %#02x", drivers.ErrWrong, m, id>>8, manufacturer, device)
}

// settled checks that the chip holds what was written to it; after a loss of supply it does not.
func (d *Dev) settled() error {
	c, err := d.read(regConfig)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	var r [1]byte
	if err := d.dev.Tx([]byte{regResolution}, r[:]); err != nil {
		return fmt.Errorf("resolution: %w", err)
	}
	if c != settings || r[0] != resolution {
		return fmt.Errorf("%w: the chip has lost its settings: configuration %#04x, resolution %#02x, want %#04x and %#02x", drivers.ErrCheck, c, r[0], settings, resolution)
	}
	return nil
}

// Read implements [drivers.Sensor].
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	v, err := d.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("mcp9808: %w", err)
	}
	return d.opts.Pick(map[string]float64{"temperature": v}), nil
}

func (d *Dev) measure(ctx context.Context) (float64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := d.identify(); err != nil {
		return 0, err
	}
	raw, err := d.read(regAmbient)
	if err != nil {
		return 0, fmt.Errorf("temperature: %w", err)
	}
	if err := d.settled(); err != nil { // after it: what was read before may be 0 Cel of a chip that has just started
		return 0, err
	}
	return decode(raw)
}

// decode takes the comparison flags, which the alert's limits decide, off: 13 bits of 0.0625 Cel, two's complement (§5.1.3, register 5-4, equation 5-1).
func decode(raw uint16) (float64, error) {
	v := float64(int16(raw<<3)) / 128
	if v < -60 || v > 150 { // absolute maximum ratings
		return 0, fmt.Errorf("%w: %g Cel cannot be measured by this chip", drivers.ErrCheck, v)
	}
	return chip.Round(v, 2), nil
}

// Close implements [drivers.Sensor].
func (d *Dev) Close() error { return nil }
