// Package chip is what drivers of small I2C chips have in common: the options bus, address and channels, where
// each channel is one of the chip's quantities, and Sensirion's checksummed words.
//
// A driver embeds [Options] and adds its own address, so that the documentation of that key names the chip's:
//
//	type Options struct {
//		chip.Options `yaml:",inline"`
//		Address      *int `yaml:"address,omitempty" doc:"I2C address, 0x44 (default) or 0x45"`
//	}
//
//	func (o *Options) Check() []drivers.Fault {
//		return append(chip.CheckI2C(o.BusName, &o.Address, "0x44 or 0x45, by the chip's pin ADDR", 0x44, 0x45),
//			o.CheckChannels(quantities)...)
//	}
//
// and ends its reading with [Options.Pick]. A driver with other channels than fixed quantities uses [CheckI2C] alone, one on another
// bus [CheckChannels] alone.
//
// It promises that a word whose checksum is wrong is never given. It loses nothing.
package chip

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"homeward/drivers"
)

// Quantity is one thing that a chip measures: the channel of that name.
type Quantity struct {
	Name     string
	Unit     drivers.Unit
	Min, Max float64 // operating range: values outside are suspect unless the configuration says otherwise
}

// Options are the keys of a chip on I2C with fixed quantities, but for its address.
type Options struct {
	BusName string            `yaml:"bus" doc:"the I2C bus: /dev/i2c-N or sim:NAME"`
	Chans   []drivers.Channel `yaml:"channels,omitempty" doc:"which quantities, by name, and how each is recorded; default: all"`
}

// CheckI2C checks bus and address, and fills the address in: the default is the first allowed one. want says in words
// which are allowed, and what on the chip decides.
func CheckI2C(bus string, address **int, want string, allowed ...int) (faults []drivers.Fault) {
	switch {
	case bus == "":
		faults = append(faults, drivers.Fault{Path: "bus", Want: "the I2C bus, such as /dev/i2c-1"})
	case strings.Contains(bus, "spidev"), strings.Contains(bus, "tty"):
		faults = append(faults, drivers.Fault{Path: "bus", Bad: bus, Want: "an I2C bus, such as /dev/i2c-1"})
	}
	switch {
	case *address == nil:
		*address = &allowed[0]
	case !slices.Contains(allowed, **address):
		faults = append(faults, drivers.Fault{Path: "address", Bad: fmt.Sprintf("%#x", **address), Want: want})
	}
	return faults
}

// CheckChannels is the function of that name on the options' channels.
func (o *Options) CheckChannels(quantities []Quantity) []drivers.Fault {
	return CheckChannels(&o.Chans, quantities)
}

// CheckChannels checks channels against what the chip measures, and fills in: without any, all of them; unit and range.
func CheckChannels(channels *[]drivers.Channel, quantities []Quantity) (faults []drivers.Fault) {
	if len(*channels) == 0 {
		for _, q := range quantities {
			*channels = append(*channels, drivers.Channel{Name: q.Name})
		}
	}
	for i := range *channels {
		c := &(*channels)[i]
		j := slices.IndexFunc(quantities, func(q Quantity) bool { return q.Name == c.Name })
		if j < 0 {
			faults = append(faults, drivers.Fault{Path: fmt.Sprintf("channels[%d].name", i), Bad: c.Name, Want: names(quantities)})
			continue // its unit cannot be known
		}
		q := quantities[j]
		if c.Unit != nil && *c.Unit != q.Unit {
			faults = append(faults, drivers.Fault{
				Path: fmt.Sprintf("channels[%d].unit", i), Bad: string(*c.Unit), Want: string(q.Unit) + ": this driver gives no other",
			})
		}
		c.Unit = &q.Unit
		if c.Min == nil {
			c.Min = &q.Min
		}
		if c.Max == nil {
			c.Max = &q.Max
		}
	}
	return faults
}

// names joins them as a sentence does: a, b or c.
func names(quantities []Quantity) string {
	var out strings.Builder
	for i, q := range quantities {
		switch {
		case i > 0 && i == len(quantities)-1:
			out.WriteString(" or ")
		case i > 0:
			out.WriteString(", ")
		}
		out.WriteString(q.Name)
	}
	return out.String()
}

// Bus implements [drivers.Options].
func (o *Options) Bus() drivers.Bus { return drivers.Bus{Kind: drivers.I2C, Name: o.BusName} }

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel { return slices.Clone(o.Chans) }

// Pick makes the readings of the configured channels out of all that was measured, by quantity.
func (o *Options) Pick(values map[string]float64) []drivers.Reading {
	out := make([]drivers.Reading, len(o.Chans))
	for i, c := range o.Chans {
		out[i] = drivers.Reading{Channel: c.Name, Value: values[c.Name], Unit: *c.Unit}
	}
	return out
}

// Round rounds to a number of decimals, near what a chip resolves, so that no noise digits are kept and paid for.
func Round(v float64, decimals int) float64 {
	p := math.Pow10(decimals)
	return math.Round(v*p)/p + 0 // no minus zero
}

// Trim drops the noise digits of binary arithmetic (0.1 × 3 is not 0.30000000000000004), which a payload would carry and
// no converter's code justifies: 12 significant digits are left.
func Trim(v float64) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 12, 64), 64)
	if err != nil {
		return v
	}
	return r + 0 // no minus zero
}

// CRC8 is Sensirion's: polynomial 0x31, initialization 0xFF, no reflection, no final XOR; of 0xBEEF it is 0x92 (SHT3x-DIS
// datasheet, version 7, §4.12, table 20).
func CRC8(b []byte) byte {
	crc := byte(0xFF)
	for _, x := range b {
		crc ^= x
		for range 8 {
			top := crc & 0x80
			if crc <<= 1; top != 0 {
				crc ^= 0x31
			}
		}
	}
	return crc
}

// Words takes an answer apart in which each 16-bit word, most significant byte first, is followed by its [CRC8]. Any wrong
// one is [drivers.ErrCheck] for all of it.
func Words(answer []byte) ([]uint16, error) {
	if len(answer)%3 != 0 {
		return nil, fmt.Errorf("%w: %d bytes, want words of two with a checksum", drivers.ErrCheck, len(answer))
	}
	words := make([]uint16, 0, len(answer)/3)
	for i := 0; i < len(answer); i += 3 {
		w := answer[i : i+2]
		if got, want := answer[i+2], CRC8(w); got != want {
			return nil, fmt.Errorf("%w: word %d is %x with checksum %#02x, want %#02x", drivers.ErrCheck, i/3+1, w, got, want)
		}
		words = append(words, uint16(w[0])<<8|uint16(w[1]))
	}
	return words, nil
}

// AppendWord appends a word and its [CRC8], as these chips want arguments and give answers.
func AppendWord(b []byte, w uint16) []byte {
	hi, lo := byte(w>>8), byte(w)
	return append(b, hi, lo, CRC8([]byte{hi, lo}))
}
