// Package tmp102 reads temperature from TI's TMP102, and under the name lm75 from NXP's and TI's LM75A.
//
// It promises that a value comes from a chip that still holds the settings that were written to it, before and after the
// conversion: one that lost its supply is an error, and is set up again when it is opened anew. The bits that are always 0 or
// always 1 are checked: a TMP102 measures in extended mode, where the lowest of them is 1, so that a line held low is no 0 Cel.
//
// What it cannot tell: neither chip has an identity (but TI's LM75A) or a checksum, so another chip with the same registers, such as a TMP112, is taken
// for the one, and a bit that flips on the way is a value that is wrong by that bit.
//
// periph.io's driver (devices v3.7.4) drops the errors of reading the configuration and checks no fixed bit, so this one is our own.
//
// Sources: TI SBOS397I (sections), SBOS397B and SBOS397C (tables), NXP LM75A rev. 04, TI SNOS808.
package tmp102

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
	Name: "tmp102", Aliases: []string{"lm75"},
	Summary: "TI TMP102 and LM75A, NXP LM75A over I2C: temperature",
	New:     func(name string) drivers.Options { return &Options{lm75: name == "lm75"} },
}

// Options is the configuration of one chip.
type Options struct {
	chip.Options `yaml:",inline"`
	Address      *int `yaml:"address,omitempty" doc:"I2C address, 0x48 (default) to 0x4B, lm75: to 0x4F"`

	lm75 bool
}

// TMP102: specified range (SBOS397 §5.3); LM75A: rev. 04 §2.
var quantities = []chip.Quantity{{Name: "temperature", Unit: "Cel", Min: -55, Max: 125}}

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	allowed, want := []int{0x48, 0x49, 0x4A, 0x4B}, "0x48 to 0x4b, by the chip's pin ADD0"
	if o.lm75 {
		allowed, want = append(allowed, 0x4C, 0x4D, 0x4E, 0x4F), "0x48 to 0x4f, by the chip's pins A2 to A0"
	}
	return append(chip.CheckI2C(o.BusName, &o.Address, want, allowed...), o.CheckChannels(quantities)...)
}

// The registers, of both (SBOS397, pointer register; LM75A table 5).
const (
	regTemperature = 0
	regConfig      = 1
	regProduct     = 7 // TI's LM75A alone
)

// The TMP102's configuration (SBOS397B table 7): shut down, extended mode. R1 and R0 are read-only ones.
const (
	ready    = 0x8000 // OS
	resBits  = 0x6000 // R1, R0
	alert    = 0x0020 // AL, the chip's own
	zeroBits = 0x000F
	settings = resBits | 0x0100 | 0x0080 | 0x0010 // SD, CR1 (as after power-on), EM
	longest  = 35 * time.Millisecond              // a conversion (SBOS397 §5.5)
)

// The LM75A's configuration (LM75A table 8): six faults in a row before it switches its output. After a loss of supply it is one.
const (
	lm75Settings = 0x18
	lm75Reserved = 0xE0
	lm75TI       = 0xA1                   // product and revision of TI's LM75A (SNOS808)
	lm75Longest  = 300 * time.Millisecond // a conversion: 100 ms NXP, 300 ms TI
)

// Dev is an opened chip.
type Dev struct {
	opts  *Options
	dev   *i2c.Dev
	sleep func(time.Duration)
	ti    bool // the LM75A is TI's
}

// Open sets the chip up.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, dev: &i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}, sleep: env.Sleep}
	if d.sleep == nil {
		d.sleep = time.Sleep
	}
	if err := d.open(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name(), err)
	}
	return d, nil
}

func (d *Dev) name() string {
	if d.opts.lm75 {
		return "lm75"
	}
	return "tmp102"
}

func (d *Dev) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := d.config(); err != nil {
		return err
	}
	v := uint16(settings)
	write := []byte{regConfig, byte(v >> 8), byte(v & 0xFF)}
	if d.opts.lm75 {
		write = []byte{regConfig, lm75Settings}
		// Two bytes: where the pointer has two bits this is Tos, of which an LM75 that is read by one byte alone may hold
		// the bus low (TI SNIS153B page 11).
		product, err := d.read(regProduct, 2)
		if err != nil {
			return fmt.Errorf("product: %w", err)
		}
		d.ti = product>>8 == lm75TI // NXP's gives the high byte of Tos
	}
	if err := d.dev.Tx(write, nil); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if d.opts.lm75 {
		d.sleep(lm75Longest) // from power-on, or from a shutdown
	} else {
		d.sleep(longest) // a conversion under way ends before the chip sleeps (§6.4.3)
	}
	return d.settled()
}

func (d *Dev) read(at byte, n int) (uint16, error) {
	var p [2]byte
	if err := d.dev.Tx([]byte{at}, p[:n]); err != nil {
		return 0, err
	}
	if n == 1 {
		return uint16(p[0]), nil
	}
	return uint16(p[0])<<8 | uint16(p[1]), nil
}

// config reads the configuration and checks the bits that are the same in every chip of the kind.
func (d *Dev) config() (uint16, error) {
	n := 2
	if d.opts.lm75 {
		n = 1
	}
	v, err := d.read(regConfig, n)
	switch {
	case err != nil:
		return 0, fmt.Errorf("configuration: %w", err)
	case v == 1<<(8*n)-1:
		return 0, fmt.Errorf("%w: configuration reads %#x: nothing drives the bus", drivers.ErrCheck, v)
	case d.opts.lm75 && v&lm75Reserved == resBits>>8:
		return 0, fmt.Errorf("%w: configuration reads %#02x, as of a TMP102: write driver: tmp102", drivers.ErrWrong, v)
	case d.opts.lm75 && v&lm75Reserved != 0:
		return 0, fmt.Errorf("%w: configuration reads %#02x, want bits 7 to 5 to be 0", drivers.ErrWrong, v)
	case !d.opts.lm75 && v&resBits != resBits:
		return 0, fmt.Errorf("%w: configuration reads %#04x, want bits 14 and 13 to be 1; of an LM75 they are 0: write driver: lm75", drivers.ErrWrong, v)
	case !d.opts.lm75 && v&zeroBits != 0:
		return 0, fmt.Errorf("%w: configuration reads %#04x, want bits 3 to 0 to be 0", drivers.ErrCheck, v)
	}
	return v, nil
}

// settled checks that the chip holds what was written to it; after a loss of supply it does not.
func (d *Dev) settled() error {
	v, err := d.config()
	if err != nil {
		return err
	}
	want := uint16(settings)
	if d.opts.lm75 {
		want = lm75Settings
	}
	if v&^(ready|alert) != want&^alert {
		return fmt.Errorf("%w: the chip has lost its settings: configuration reads %#x, want %#x", drivers.ErrCheck, v, want)
	}
	return nil
}

// Read implements [drivers.Sensor].
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	v, err := d.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.name(), err)
	}
	return d.opts.Pick(map[string]float64{"temperature": v}), nil
}

func (d *Dev) measure(ctx context.Context) (float64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := d.settled(); err != nil {
		return 0, err
	}
	if !d.opts.lm75 {
		v := uint16(settings | ready)
		if err := d.dev.Tx([]byte{regConfig, byte(v >> 8), byte(v & 0xFF)}, nil); err != nil {
			return 0, fmt.Errorf("start: %w", err)
		}
		d.sleep(longest)
		v, err := d.config()
		if err != nil {
			return 0, err
		}
		if v&ready == 0 {
			return 0, fmt.Errorf("%w: still converting after the longest time, %v", drivers.ErrCheck, longest)
		}
	}
	raw, err := d.read(regTemperature, 2)
	if err != nil {
		return 0, fmt.Errorf("temperature: %w", err)
	}
	if err := d.settled(); err != nil { // a supply that failed meanwhile
		return 0, err
	}
	switch {
	case !d.opts.lm75:
		return decodeTMP102(raw)
	case d.ti:
		return decode(raw &^ 0x7F) // 9 bits, the rest is undefined (SNOS808)
	}
	return decodeLM75(raw)
}

// decodeTMP102 is of extended mode: 13 bits of 0.0625 Cel, then 0, 0, 1 (SBOS397C tables 3 and 4, SBOS397B table 6).
func decodeTMP102(raw uint16) (float64, error) {
	if raw&7 != 1 {
		return 0, fmt.Errorf("%w: temperature reads %#04x, want its bits 2 to 0 to be 001", drivers.ErrCheck, raw)
	}
	return decode2(int16(raw&^7), 128)
}

// decodeLM75 is of NXP's: 11 bits of 0.125 Cel, then zeros (LM75A tables 9 and 10).
func decodeLM75(raw uint16) (float64, error) {
	if raw&0x1F != 0 {
		return 0, fmt.Errorf("%w: temperature reads %#04x, want its bits 4 to 0 to be 0", drivers.ErrCheck, raw)
	}
	return decode(raw)
}

func decode(raw uint16) (float64, error) { return decode2(int16(raw), 256) }

// decode2 rounds to hundredths, which keeps the steps of 0.0625 Cel apart.
func decode2(raw int16, perCelsius float64) (float64, error) {
	v := float64(raw) / perCelsius
	if v < -60 || v > 155 { // beyond what either chip survives, or its format has
		return 0, fmt.Errorf("%w: %g Cel cannot be measured by this chip", drivers.ErrCheck, v)
	}
	return chip.Round(v, 2), nil
}

// Close implements [drivers.Sensor].
func (d *Dev) Close() error { return nil }
