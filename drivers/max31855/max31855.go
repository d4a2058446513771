// Package max31855 reads Maxim's thermocouple converter MAX31855 (K, J, N, T, S, R, E by the part's last letter) over SPI.
//
// It promises that a thermocouple which is open or shorted is an error that says which; the temperature of the chip itself (channel
// junction) is then still given. The frame's reserved bits are checked, and the fault bit against the three causes.
//
// The chip has neither identity nor checksum, and nothing tells the type of thermocouple. A frame of zeros (both temperatures exactly 0 °C) is refused, because a data
// line held low gives it.
//
// Source: Maxim 19-5793 rev 5.
package max31855

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
	"homeward/drivers/chip"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name: "max31855", Summary: "Maxim MAX31855 over SPI: a thermocouple's temperature, and that of its cold junction",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one converter.
type Options struct {
	BusName string            `yaml:"bus" doc:"/dev/spidevB.C or sim:NAME"`
	Chans   []drivers.Channel `yaml:"channels,omitempty" doc:"temperature, junction, or both (default), and how each is recorded"`
}

// The least and the most that can be read of any thermocouple (page 1); the chip works from -40 to 125 Cel (page 2).
var quantities = []chip.Quantity{{Name: "temperature", Unit: "Cel", Min: -270, Max: 1800}, {Name: "junction", Unit: "Cel", Min: -40, Max: 125}}

// Check implements [drivers.Options].
func (o *Options) Check() (faults []drivers.Fault) {
	switch {
	case o.BusName == "":
		faults = append(faults, drivers.Fault{Path: "bus", Want: "the SPI device, such as /dev/spidev0.0"})
	case strings.Contains(o.BusName, "i2c"):
		faults = append(faults, drivers.Fault{Path: "bus", Bad: o.BusName, Want: "an SPI device, such as /dev/spidev0.0"})
	}
	return append(faults, chip.CheckChannels(&o.Chans, quantities)...)
}

// Bus implements [drivers.Options].
func (o *Options) Bus() drivers.Bus { return drivers.Bus{Kind: drivers.SPI, Name: o.BusName} }

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel { return append([]drivers.Channel(nil), o.Chans...) }

// Dev is an opened converter.
type Dev struct {
	opts *Options
	conn spi.Conn
}

// Open reads a frame, to see that a converter answers; a broken thermocouple does not keep it from opening.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	c, err := env.SPI.Connect(physic.MegaHertz, spi.Mode0, 8) // at most 5 MHz (serial interface timing)
	if err != nil {
		return nil, fmt.Errorf("max31855: %w", err)
	}
	d := &Dev{opts: o, conn: c}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f, err := d.frame(); err != nil {
		return nil, fmt.Errorf("max31855: %w", err)
	} else if _, _, broken, err := decode(f); err != nil && broken == "" {
		return nil, fmt.Errorf("max31855: %w", err)
	}
	return d, nil
}

func (d *Dev) frame() (uint32, error) {
	r := make([]byte, 4)
	err := d.conn.Tx(make([]byte, 4), r)
	return binary.BigEndian.Uint32(r), err
}

// Read implements [drivers.Sensor].
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := d.frame()
	if err != nil {
		return nil, fmt.Errorf("max31855: %w", err)
	}
	hot, cold, broken, err := decode(f)
	if err != nil {
		err = fmt.Errorf("max31855: %w", err)
		if broken == "" {
			return nil, err
		}
	}
	var out []drivers.Reading
	wanted := false
	for _, c := range d.opts.Chans {
		v := cold
		if c.Name == "temperature" {
			if wanted = true; broken != "" {
				continue
			}
			v = hot
		}
		out = append(out, drivers.Reading{Channel: c.Name, Value: chip.Round(v, 2), Unit: *c.Unit})
	}
	if !wanted { // nobody asks for the thermocouple
		err = nil
	}
	return out, err
}

// decode takes a frame apart (tables 2 and 3, page 10). broken names what is wrong with the thermocouple, where
// cold is still good.
func decode(f uint32) (hot, cold float64, broken string, err error) {
	bad := func(format string, a ...any) (float64, float64, string, error) {
		return 0, 0, "", fmt.Errorf("%w: frame %08x: "+format, append([]any{drivers.ErrCheck, f}, a...)...)
	}
	switch {
	case f == 0:
		return bad("zeros: nothing drives the data line")
	case f == 0xFFFFFFFF:
		return bad("ones: nothing drives the data line")
	case f&(1<<17|1<<3) != 0:
		return bad("reserved bits 17 and 3 are not zero: another chip, or a bad contact")
	case (f&(1<<16) != 0) != (f&7 != 0):
		return bad("the fault bit (16) contradicts the causes (2 to 0)")
	}
	hot, cold = float64(int32(f)>>18)/4, float64(int16(f)>>4)/16
	if cold < -55 || cold > 127 { // table 5, page 10
		return bad("junction %g Cel cannot be measured by this chip", cold)
	}
	for _, c := range []struct {
		bit  uint32
		what string
	}{{1, "OC: the thermocouple is open"}, {2, "SCG: the thermocouple is shorted to ground"}, {4, "SCV: the thermocouple is shorted to the supply"}} {
		if f&c.bit != 0 {
			if broken != "" {
				broken += "; "
			}
			broken += c.what
		}
	}
	if broken != "" {
		return 0, cold, broken, fmt.Errorf("%w: %s", drivers.ErrCheck, broken)
	}
	if hot < -270 || hot > 1800 {
		return bad("temperature %g Cel cannot be measured by this chip", hot)
	}
	return hot, cold, "", nil
}

// Close implements [drivers.Sensor].
func (d *Dev) Close() error { return nil }
