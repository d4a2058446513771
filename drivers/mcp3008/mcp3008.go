// Package mcp3008 reads Microchip's analogue-to-digital converters MCP3008 (10 bits) and MCP3208 (12 bits), eight inputs, over SPI.
//
// The chip has no identity and no checksum. Clocked on after a conversion it repeats the code
// with the least significant bit first, and then sends zeros; the driver takes a value
// only when null bit, repetition and zeros are as they must be. So a wire that is pulled
// and reads ones or noise is an error. What cannot be told from 0 V is a data line that is held low:
// where 0 V means a broken wire, configure min.
//
// Sources: Microchip DS21295D (MCP3004/3008) and DS21298E (MCP3204/3208), §5.
package mcp3008

import (
	"context"
	"errors"
	"fmt"

	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
	"homeward/drivers/chip"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name: "mcp3008", Aliases: []string{"mcp3208"},
	Summary: "Microchip MCP3008 (10 bits) and MCP3208 (12 bits) over SPI: eight analogue inputs",
	New: func(name string) drivers.Options {
		o := &Options{bits: 10}
		if name == "mcp3208" {
			o.bits = 12
		}
		return o
	},
}

// Options is the configuration of one converter.
type Options struct {
	BusName string    `yaml:"bus" doc:"/dev/spidevB.C or sim:NAME"`
	Chans   []Channel `yaml:"channels" doc:"what to read"`

	bits int
}

// Channel is one input, or the difference of two.
type Channel struct {
	drivers.Channel `yaml:",inline"`
	Input           *int     `yaml:"input" doc:"0 to 7"`
	Differential    bool     `yaml:"differential,omitempty" doc:"the input against its neighbour (0 against 1, 1 against 0, 2 against 3…); negative differences read 0"`
	Scale           *float64 `yaml:"scale,omitempty" doc:"value = code × scale + offset, default 1; for volts the reference voltage divided by 1024 (MCP3208: 4096)"`
	Offset          float64  `yaml:"offset,omitempty" doc:"value = code × scale + offset, default 0"`
}

// Check implements [drivers.Options].
func (o *Options) Check() (faults []drivers.Fault) {
	if o.BusName == "" {
		faults = append(faults, drivers.Fault{Path: "bus", Want: "the SPI device, such as /dev/spidev0.0"})
	}
	if len(o.Chans) == 0 {
		faults = append(faults, drivers.Fault{Path: "channels", Want: "at least one channel with its input"})
	}
	for i := range o.Chans {
		c := &o.Chans[i]
		fault := func(key string, bad any, want string) {
			faults = append(faults, drivers.Fault{Path: fmt.Sprintf("channels[%d].%s", i, key), Bad: bad, Want: want})
		}
		switch {
		case c.Input == nil:
			fault("input", nil, "0 to 7")
		case *c.Input < 0 || *c.Input > 7:
			fault("input", *c.Input, "0 to 7")
		}
		drivers.CheckScale(&c.Scale, c.Offset, fault)
		if c.Unit == nil {
			c.Unit = new(drivers.Unit)
		}
	}
	return faults
}

// Bus implements [drivers.Options].
func (o *Options) Bus() drivers.Bus { return drivers.Bus{Kind: drivers.SPI, Name: o.BusName} }

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel {
	out := make([]drivers.Channel, len(o.Chans))
	for i, c := range o.Chans {
		out[i] = c.Channel
	}
	return out
}

// Dev is an opened converter.
type Dev struct {
	opts *Options
	conn spi.Conn
}

// Open reads one input, to see that a converter answers.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	c, err := env.SPI.Connect(physic.MegaHertz, spi.Mode0, 8) // at most 1.35 MHz (MCP3208: 1 MHz) at 2.7 V, §1, table; at least 10 kHz
	if err != nil {
		return nil, fmt.Errorf("mcp3008: %w", err)
	}
	d := &Dev{opts: o, conn: c}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := d.code(*o.Chans[0].Input, o.Chans[0].Differential); err != nil {
		return nil, fmt.Errorf("mcp3008: %w", err)
	}
	return d, nil
}

// Read implements [drivers.Sensor].
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	var out []drivers.Reading
	var errs []error
	for _, c := range d.opts.Chans {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		code, err := d.code(*c.Input, c.Differential)
		if err != nil {
			errs = append(errs, fmt.Errorf("mcp3008: channel %s, input %d: %w", c.Name, *c.Input, err))
			continue
		}
		v := chip.Trim(float64(code)**c.Scale + c.Offset)
		if err := drivers.CheckValue(v); err != nil {
			errs = append(errs, fmt.Errorf("mcp3008: channel %s: code %d with its scale and offset: %w", c.Name, code, err))
			continue
		}
		out = append(out, drivers.Reading{Channel: c.Name, Value: v, Unit: *c.Unit})
	}
	return out, errors.Join(errs...)
}

// frame is the bytes of one conversion: 7 idle bits, start bit, four command bits, one to sample, the null bit, the
// code, its repetition and zeros (§6.1, figure 6-1 for the leading zeros).
const frameLen = 5

// firstBit is where the code starts, in bits from the start of the frame.
const firstBit = 14

func (d *Dev) code(input int, differential bool) (int, error) {
	command := byte(input) << 4
	if !differential {
		command |= 0x80 // SGL/DIFF, table 5-2
	}
	w, r := []byte{0x01, command, 0, 0, 0}, make([]byte, frameLen)
	if err := d.conn.Tx(w, r); err != nil {
		return 0, err
	}
	return decode(r, d.opts.bits)
}

// decode takes the code out of what the chip sent, or refuses it.
func decode(r []byte, bits int) (int, error) {
	bit := func(i int) int { return int(r[i/8]>>(7-i%8)) & 1 }
	if bit(firstBit-1) != 0 {
		return 0, fmt.Errorf("%w: no null bit before the code (%x): nothing drives the data line", drivers.ErrCheck, r)
	}
	code := 0
	for i := range bits {
		code = code<<1 | bit(firstBit+i)
	}
	for i := 1; i < bits; i++ { // figure 5-2: from bit 1 up; bit 0 is common to both
		if bit(firstBit+bits-1+i) != code>>i&1 {
			return 0, fmt.Errorf("%w: the repetition differs from the code (%x): a bad contact, or another chip", drivers.ErrCheck, r)
		}
	}
	for i := firstBit + 2*bits - 1; i < frameLen*8; i++ {
		if bit(i) != 0 {
			return 0, fmt.Errorf("%w: no zeros after the code (%x): another chip, or a bad contact", drivers.ErrCheck, r)
		}
	}
	return code, nil
}

// Close implements [drivers.Sensor].
func (d *Dev) Close() error { return nil }
