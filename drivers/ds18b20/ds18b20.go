// Package ds18b20 reads Maxim's 1-Wire thermometer DS18B20 through Linux's w1_therm.
//
// It promises a temperature only from a scratchpad whose checksum holds, by the kernel's word and by its own count, and whose
// configuration byte is one that the chip can have. The chip's two well-known untruths are
// refused: 85 °C, which it holds after power-on until it has measured, and a scratchpad of zeros, whose checksum is
// right although a line held low gives it.
//
// It loses a true 85.0 °C of a chip that never touches its reserved byte 6 (some imitations), and it cannot tell a chip
// that gives its last value again after an interrupted supply, as some imitations do.
//
// Sources: Maxim 19-7487 rev 6 (DS18B20); Linux, drivers/w1/slaves/w1_therm.c.
package ds18b20

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"homeward/drivers"
	"homeward/drivers/chip"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name: "ds18b20", Summary: "Maxim DS18B20 on a 1-Wire bus, through the kernel: temperature",
	New: func(string) drivers.Options { return &Options{} },
}

// Options is the configuration of one thermometer.
type Options struct {
	BusName string            `yaml:"bus,omitempty" doc:"the folder of the 1-Wire bus, default /sys/bus/w1/devices, or sim:NAME"`
	ID      string            `yaml:"id,omitempty" doc:"the chip, such as 28-0316a2798bff; only needed where the bus has several"`
	Chans   []drivers.Channel `yaml:"channels,omitempty" doc:"how the temperature is recorded; its name is temperature"`
}

var quantities = []chip.Quantity{{Name: "temperature", Unit: "Cel", Min: -55, Max: 125}} // page 1

var idForm = regexp.MustCompile(`^28-[0-9a-f]{12}$`)

// Check implements [drivers.Options].
func (o *Options) Check() (faults []drivers.Fault) {
	switch {
	case o.BusName == "":
		o.BusName = "/sys/bus/w1/devices"
	case strings.HasPrefix(o.BusName, "/dev/"):
		faults = append(faults, drivers.Fault{Path: "bus", Bad: o.BusName, Want: "the folder of a 1-Wire bus, such as /sys/bus/w1/devices"})
	}
	if o.ID != "" && !idForm.MatchString(o.ID) {
		faults = append(faults, drivers.Fault{Path: "id", Bad: o.ID, Want: "28- and twelve hexadecimal digits in lower case, as ls /sys/bus/w1/devices shows them"})
	}
	return append(faults, chip.CheckChannels(&o.Chans, quantities)...)
}

// Bus implements [drivers.Options].
func (o *Options) Bus() drivers.Bus { return drivers.Bus{Kind: drivers.W1Bus, Name: o.BusName} }

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel { return append([]drivers.Channel(nil), o.Chans...) }

// Dev is a thermometer that was found.
type Dev struct {
	opts *Options
	bus  drivers.W1
	id   string
}

// Open looks for the thermometer among those that the kernel has found.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := env.W1.Devices()
	if err != nil {
		return nil, fmt.Errorf("ds18b20: %w", err)
	}
	var found []string
	for _, id := range all {
		if idForm.MatchString(id) && (o.ID == "" || o.ID == id) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) == 1:
		return &Dev{opts: o, bus: env.W1, id: found[0]}, nil
	case len(found) > 1:
		return nil, fmt.Errorf("ds18b20: %w: several on the bus: want id: with one of %s", drivers.ErrWrong, strings.Join(found, ", "))
	}
	has := "no device: see to wiring and pull-up resistor"
	if len(all) > 0 {
		has = strings.Join(all, ", ")
	}
	wanted := "a DS18B20 (28-…)"
	if o.ID != "" {
		wanted = o.ID
	}
	return nil, fmt.Errorf("ds18b20: %w: %s is not there; the bus has %s", drivers.ErrTimeout, wanted, has)
}

// Read implements [drivers.Sensor]. The kernel has the chip measure, which takes up to 750 ms.
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	text, err := d.bus.Read(d.id, "w1_slave")
	if err != nil {
		return nil, fmt.Errorf("ds18b20: %s: %w", d.id, err)
	}
	v, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("ds18b20: %s: %w", d.id, err)
	}
	c := chip.Options{Chans: d.opts.Chans}
	return c.Pick(map[string]float64{"temperature": chip.Round(v, 2)}), nil // steps of 0.06 °C
}

// form is what w1_slave_show writes: the scratchpad with the kernel's verdict, and the last good scratchpad.
var form = regexp.MustCompile(`^((?:[0-9a-f]{2} ){9}): crc=([0-9a-f]{2}) (YES|NO)\n((?:[0-9a-f]{2} ){9})t=-?[0-9]{1,7}\n$`)

// decode gives the °C of a w1_slave, or why there are none.
func decode(text []byte) (float64, error) {
	if len(text) == 0 { // the kernel has given up
		return 0, fmt.Errorf("%w: the chip did not answer the kernel", drivers.ErrTimeout)
	}
	m := form.FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%w: w1_slave reads %.120q: want a scratchpad, crc=, YES or NO, and t=", drivers.ErrCheck, text)
	}
	pad, err := hex.DecodeString(strings.ReplaceAll(string(m[1]), " ", ""))
	if err != nil {
		return 0, errors.Join(drivers.ErrCheck, err)
	}
	crc := crc8(pad[:8])
	switch {
	case strings.Trim(string(m[1]), "0 ") == "":
		return 0, fmt.Errorf("%w: the scratchpad reads zeros: the data line is held low, or the chip is broken", drivers.ErrCheck)
	case strings.Trim(string(m[1]), "f ") == "":
		return 0, fmt.Errorf("%w: the scratchpad reads ones: nothing answers", drivers.ErrCheck)
	case crc != pad[8], string(m[3]) != "YES", string(m[2]) != hex.EncodeToString(pad[8:]):
		return 0, fmt.Errorf("%w: scratchpad % x: checksum %02x, by the kernel %s %s: a bad contact, or a long wire", drivers.ErrCheck, pad, crc, m[2], m[3])
	case string(m[1]) != string(m[4]): // the kernel writes a good scratchpad twice
		return 0, fmt.Errorf("%w: the second line has another scratchpad (%s) than the first (% x)", drivers.ErrCheck, strings.TrimSpace(string(m[4])), pad)
	case pad[4]&0x9F != 0x1F: // configuration register
		return 0, fmt.Errorf("%w: configuration byte %02x: want 1f, 3f, 5f or 7f: another chip", drivers.ErrCheck, pad[4])
	}
	raw := int16(uint16(pad[1])<<8 | uint16(pad[0]))
	// Figure 9, page 8: what stands there after power-on. After a measurement of 85 °C a genuine chip has 10 in byte 6.
	if raw == 0x0550 && pad[6] == 0x0C {
		return 0, fmt.Errorf("%w: 85 Cel with byte 6 at 0c: the chip has lost its supply and not measured since", drivers.ErrCheck)
	}
	raw &^= 1<<(3-pad[4]>>5&3) - 1 // fewer bits: the lowest are undefined (temperature register)
	v := float64(raw) / 16
	if v < -55 || v > 125 {
		return 0, fmt.Errorf("%w: temperature %g Cel cannot be measured by this chip", drivers.ErrCheck, v)
	}
	return v, nil
}

// crc8 is Maxim's: x⁸ + x⁵ + x⁴ + 1, least significant bit first (CRC generation).
func crc8(b []byte) (crc byte) {
	for _, x := range b {
		crc ^= x
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low != 0 {
				crc ^= 0x8C
			}
		}
	}
	return crc
}

// Close implements [drivers.Sensor].
func (d *Dev) Close() error { return nil }
