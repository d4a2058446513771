// Package ina219 reads TI's current and power monitor INA219 over I2C: bus voltage, current, power.
//
// It promises that a value comes from a chip that showed its reset value when it was opened, still holds the settings that were
// written to it, and has completed a conversion since; a current beyond the chip's range is an error, not the
// range's end. Current and power are computed here from the two voltages that the chip measures, so that its calibration register, whose
// rounding they would suffer, is not needed.
//
// What it cannot tell: a bit that flips on the way, as there is no checksum; and another chip of the family with the same registers (INA220).
//
// periph.io's driver for it was not taken: it neither reads its settings back nor notices a range that is exceeded.
//
// Source: Texas Instruments SBOS448G.
package ina219

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
	Name: "ina219", Summary: "TI INA219 over I2C: voltage, current, power",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one chip.
type Options struct {
	chip.Options `yaml:",inline"`
	Address      *int     `yaml:"address,omitempty" doc:"I2C address, 0x40 (default) to 0x4f"`
	Shunt        *float64 `yaml:"shunt,omitempty" doc:"resistance of the shunt in ohms, default 0.1"`
	MaxCurrent   *float64 `yaml:"max_current,omitempty" doc:"largest current in amperes: chooses the chip's range; default and at most 0.32 V divided by the shunt"`

	gain int // of ranges
}

// ranges of the shunt's voltage in codes of 10 µV, by the gain bits PG (§8.6.2.1).
var ranges = []int{4000, 8000, 16000, 32000}

const (
	shuntVolts = 10e-6 // of a code, §8.6.3.1
	busVolts   = 4e-3  // of a code, §8.6.3.2
	maxVolts   = 26    // on the bus, §7.3; the scale goes to 32 V
)

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	addresses := make([]int, 16)
	for i := range addresses {
		addresses[i] = 0x40 + i
	}
	faults := chip.CheckI2C(o.BusName, &o.Address, "0x40 to 0x4f, by the chip's pins A1 and A0", addresses...)
	if o.Shunt == nil {
		o.Shunt = new(float64)
		*o.Shunt = 0.1
	}
	if !(*o.Shunt >= 1e-5 && *o.Shunt <= 1000) {
		return append(faults, drivers.Fault{Path: "shunt", Bad: *o.Shunt, Want: "ohms, 0.00001 to 1000"})
	}
	most := float64(ranges[3]) * shuntVolts / *o.Shunt
	if o.MaxCurrent == nil {
		o.MaxCurrent = &most
	}
	if !(*o.MaxCurrent > 0 && *o.MaxCurrent <= most*(1+1e-9)) {
		faults = append(faults, drivers.Fault{Path: "max_current", Bad: *o.MaxCurrent, Want: fmt.Sprintf("amperes, more than 0 and at most %g: 0.32 V at the shunt of %g ohms", chip.Round(most, 3), *o.Shunt)})
	} else {
		for o.gain = 0; o.gain < 3 && *o.MaxCurrent**o.Shunt > float64(ranges[o.gain])*shuntVolts*(1+1e-9); o.gain++ {
		}
	}
	i := *o.MaxCurrent
	return append(faults, o.CheckChannels([]chip.Quantity{
		{Name: "voltage", Unit: "V", Min: 0, Max: maxVolts}, {Name: "current", Unit: "A", Min: -i, Max: i}, {Name: "power", Unit: "W", Min: -i * maxVolts, Max: i * maxVolts},
	})...)
}

// The registers (table 2), and what the configuration reads after a reset.
const (
	regConfig = 0x00
	regShunt  = 0x01
	regBus    = 0x02

	configReset = 0x399F
	resetBit    = 0x8000
	busRange32  = 0x2000
	averaged    = 0x0660 // BADC and SADC: 16 samples each, 8.51 ms (§8.6.2.1)
	continuous  = 0x0007

	ready    = 0x0002 // CNVR
	overflow = 0x0001 // OVF

	conversion = 40 * time.Millisecond // two of both voltages
)

// Dev is an opened chip.
type Dev struct {
	opts     *Options
	dev      *i2c.Dev
	settings uint16
}

// Open resets the chip, sees that it reads as one that was reset, and sets it up.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, dev: &i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}, settings: busRange32 | uint16(o.gain)<<11 | averaged | continuous}
	sleep := env.Sleep
	if sleep == nil {
		sleep = time.Sleep
	}
	if err := d.open(ctx); err != nil {
		return nil, fmt.Errorf("ina219: %w", err)
	}
	sleep(conversion)
	return d, nil
}

func (d *Dev) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Read first: nothing is written to what is no INA219.
	if _, err := d.read(regConfig); err != nil {
		return err
	}
	if err := d.write(regConfig, resetBit); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	is, err := d.read(regConfig)
	if err != nil {
		return err
	}
	if is != configReset {
		return fmt.Errorf("%w: its configuration is %#04x after a reset, an INA219's is %#04x", drivers.ErrWrong, is, configReset)
	}
	if err := d.write(regConfig, d.settings); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return d.holds()
}

// holds says that the chip has the settings that were written to it.
func (d *Dev) holds() error {
	is, err := d.read(regConfig)
	if err == nil && is != d.settings {
		err = fmt.Errorf("%w: its configuration is %#04x, not %#04x as set: it has lost its supply, or is another chip", drivers.ErrCheck, is, d.settings)
	}
	return err
}

func (d *Dev) read(at byte) (uint16, error) {
	var r [2]byte
	if err := d.dev.Tx([]byte{at}, r[:]); err != nil {
		return 0, fmt.Errorf("register %d: %w", at, err)
	}
	return uint16(r[0])<<8 | uint16(r[1]), nil
}

func (d *Dev) write(at byte, v uint16) error { return d.dev.Tx([]byte{at, byte(v >> 8), byte(v)}, nil) }

// Read implements [drivers.Sensor]: the latest conversion of both voltages.
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	values, err := d.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("ina219: %w", err)
	}
	return d.opts.Pick(values), nil
}

func (d *Dev) measure(ctx context.Context) (map[string]float64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bus, err := d.read(regBus)
	if err != nil {
		return nil, err
	}
	shunt, err := d.read(regShunt)
	if err != nil {
		return nil, err
	}
	if err := d.holds(); err != nil { // after the measurement: it was made with these settings
		return nil, err
	}
	return d.opts.convert(bus, shunt)
}

func (o *Options) convert(bus, shunt uint16) (map[string]float64, error) {
	switch {
	case bus&ready == 0:
		return nil, fmt.Errorf("%w: no conversion since it was set up", drivers.ErrCheck)
	case bus&overflow != 0: // without a calibration nothing overflows in the chip
		return nil, fmt.Errorf("%w: the chip says that its arithmetic overflows", drivers.ErrCheck)
	}
	code := int(int16(shunt))
	if limit := ranges[o.gain]; code >= limit || code <= -limit {
		return nil, fmt.Errorf("%w: %.3g V at the shunt, the end of the range: more than max_current: %g", drivers.ErrCheck, float64(code)*shuntVolts, *o.MaxCurrent)
	}
	volts, amperes := float64(bus>>3)*busVolts, float64(code)*shuntVolts / *o.Shunt
	return map[string]float64{"voltage": chip.Round(volts, 3), "current": chip.Trim(amperes), "power": chip.Trim(volts * amperes)}, nil
}

// Close implements [drivers.Sensor]. The chip goes on measuring.
func (d *Dev) Close() error { return nil }
