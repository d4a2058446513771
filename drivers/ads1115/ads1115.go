// Package ads1115 reads TI's analogue-to-digital converter ADS1115 over I2C: four inputs against ground, or four pairs.
//
// It promises that each value is the result of a conversion that was started for it, of the input and the range configured:
// the chip still holds the request when the conversion has ended, which one that lost its supply does not. A voltage at
// the end of the range is an error, since the true one may be beyond.
//
// The chip has no identity and no checksum. What it offers instead, the thresholds of its comparator, must read as after a
// reset when it is opened, so that most other chips at the address are refused. What it cannot tell: a bit that flips in
// the result, and an input that nothing is connected to, which floats.
//
// periph.io's driver for it was not taken: it neither reads the request back nor notices a range that is exceeded.
//
// Source: Texas Instruments SBAS444D.
package ads1115

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"periph.io/x/conn/v3/i2c"

	"homeward/drivers"
	"homeward/drivers/chip"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name: "ads1115", Summary: "TI ADS1115 over I2C: four voltages, 16 bits",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one converter.
type Options struct {
	BusName string    `yaml:"bus" doc:"the I2C bus: /dev/i2c-N or sim:NAME"`
	Address *int      `yaml:"address,omitempty" doc:"I2C address, 0x48 (default) to 0x4b"`
	Chans   []Channel `yaml:"channels,omitempty" doc:"what to read; default: in0 to in3, against ground"`
}

// Channel is one input against ground, or against another one.
type Channel struct {
	drivers.Channel `yaml:",inline"`
	Input           *int     `yaml:"input" doc:"0 to 3"`
	Against         *int     `yaml:"against,omitempty" doc:"the input that is the other side: 0 against 1, or 0, 1 or 2 against 3; default: ground"`
	Range           *float64 `yaml:"range,omitempty" doc:"full scale in volts, positive and negative: 6.144, 4.096 (default), 2.048, 1.024, 0.512 or 0.256; no input may be above the supply"`
	Scale           *float64 `yaml:"scale,omitempty" doc:"value = volts × scale + offset, default 1"`
	Offset          float64  `yaml:"offset,omitempty" doc:"value = volts × scale + offset, default 0"`

	request uint16
}

// fullScales by the bits PGA, multiplexer settings by those of MUX (§9.6.3).
var (
	fullScales = []float64{6.144, 4.096, 2.048, 1.024, 0.512, 0.256}
	pairs      = [][2]int{{0, 1}, {0, 3}, {1, 3}, {2, 3}}
)

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	faults := chip.CheckI2C(o.BusName, &o.Address, "0x48 to 0x4b, by the chip's pin ADDR", 0x48, 0x49, 0x4A, 0x4B)
	if len(o.Chans) == 0 {
		for i := range 4 {
			o.Chans = append(o.Chans, Channel{Channel: drivers.Channel{Name: fmt.Sprintf("in%d", i)}, Input: &i})
		}
	}
	for i := range o.Chans {
		c := &o.Chans[i]
		fault := func(key string, bad any, want string) {
			faults = append(faults, drivers.Fault{Path: fmt.Sprintf("channels[%d].%s", i, key), Bad: bad, Want: want})
		}
		mux := 0
		switch {
		case c.Input == nil:
			fault("input", nil, "0 to 3")
			continue
		case *c.Input < 0 || *c.Input > 3:
			fault("input", *c.Input, "0 to 3")
			continue
		case c.Against == nil:
			mux = 4 + *c.Input
		default:
			if mux = slices.Index(pairs, [2]int{*c.Input, *c.Against}); mux < 0 {
				fault("against", *c.Against, "1 for input 0, or 3 for input 0, 1 or 2; swap the two and use a negative scale for others")
				continue
			}
		}
		if c.Range == nil {
			c.Range = &fullScales[1]
		}
		gain := slices.Index(fullScales, *c.Range)
		if gain < 0 {
			fault("range", *c.Range, "6.144, 4.096, 2.048, 1.024, 0.512 or 0.256")
			continue
		}
		c.request = start | uint16(mux)<<12 | uint16(gain)<<9 | singleShot | rate250 | noComparator
		if c.Scale == nil && c.Unit == nil {
			c.Unit = new(drivers.Unit("V"))
		}
		drivers.CheckScale(&c.Scale, c.Offset, fault)
		if c.Unit == nil {
			c.Unit = new(drivers.Unit)
		}
	}
	return faults
}

// Bus implements [drivers.Options].
func (o *Options) Bus() drivers.Bus { return drivers.Bus{Kind: drivers.I2C, Name: o.BusName} }

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel {
	out := make([]drivers.Channel, len(o.Chans))
	for i, c := range o.Chans {
		out[i] = c.Channel
	}
	return out
}

// The registers (table 6), and the configuration's bits (§9.6.3). The rate is not the one of a reset, so that a
// request never looks like one.
const (
	regResult = 0
	regConfig = 1
	regLow    = 2
	regHigh   = 3

	lowReset, highReset = 0x8000, 0x7FFF

	start        = 0x8000 // written: convert; read: no conversion is going on
	singleShot   = 0x0100
	rate250      = 0x00A0 // 250 a second
	noComparator = 0x0003

	conversion = 4600 * time.Microsecond // 1/250 s, 10 % slow (§9.3.6), and 25 µs to wake up
	tries      = 5
)

// Dev is an opened converter.
type Dev struct {
	opts  *Options
	dev   *i2c.Dev
	sleep func(time.Duration)
}

// Open looks at the thresholds.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, dev: &i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}, sleep: env.Sleep}
	if d.sleep == nil {
		d.sleep = time.Sleep
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("ads1115: %w", err)
	}
	low, err := d.read(regLow)
	if err == nil {
		var high uint16
		if high, err = d.read(regHigh); err == nil && (low != lowReset || high != highReset) {
			err = fmt.Errorf("%w: the comparator's thresholds are %#04x and %#04x, after a reset an ADS1115 has %#04x and %#04x", drivers.ErrWrong, low, high, lowReset, highReset)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ads1115: %w", err)
	}
	return d, nil
}

func (d *Dev) read(at byte) (uint16, error) {
	var r [2]byte
	if err := d.dev.Tx([]byte{at}, r[:]); err != nil {
		return 0, fmt.Errorf("register %d: %w", at, err)
	}
	return uint16(r[0])<<8 | uint16(r[1]), nil
}

// Read implements [drivers.Sensor]: one conversion after another.
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	var out []drivers.Reading
	var errs []error
	for i := range d.opts.Chans {
		c := &d.opts.Chans[i]
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("ads1115: %w", err)
		}
		code, err := d.convert(c.request)
		var v float64
		if err == nil {
			v, err = c.value(code)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("ads1115: channel %s, input %d: %w", c.Name, *c.Input, err))
			continue
		}
		out = append(out, drivers.Reading{Channel: c.Name, Value: v, Unit: *c.Unit})
	}
	return out, errors.Join(errs...)
}

// convert starts a conversion and waits for its result.
func (d *Dev) convert(request uint16) (int16, error) {
	if err := d.dev.Tx([]byte{regConfig, byte(request >> 8), byte(request)}, nil); err != nil {
		return 0, err
	}
	for range tries {
		d.sleep(conversion)
		is, err := d.read(regConfig)
		switch {
		case err != nil:
			return 0, err
		case is|start != request:
			return 0, fmt.Errorf("%w: the chip holds %#04x, not %#04x as asked: it has lost its supply, or is another chip", drivers.ErrCheck, is, request)
		case is&start != 0:
			code, err := d.read(regResult)
			return int16(code), err
		}
	}
	return 0, fmt.Errorf("%w: a conversion does not end", drivers.ErrCheck)
}

func (c *Channel) value(code int16) (float64, error) {
	if code == math.MaxInt16 || code == math.MinInt16 {
		return 0, fmt.Errorf("%w: the voltage is at or beyond the end of range: %g", drivers.ErrCheck, *c.Range)
	}
	v := chip.Trim(float64(code)**c.Range/32768**c.Scale + c.Offset)
	return v, drivers.CheckValue(v)
}

// Close implements [drivers.Sensor]: after a conversion the chip sleeps by itself.
func (d *Dev) Close() error { return nil }
