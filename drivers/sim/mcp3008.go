package sim

import (
	"fmt"
	"time"
)

// MCP3x08 is a Microchip MCP3008 (10 bits) or MCP3208 (12 bits), bit by bit: DS21295D §5,
// DS21298E §5.
type MCP3x08 struct {
	name   string
	world  *World
	bits   int
	vref   float64
	inputs [8]func(time.Time) float64
}

// NewMCP3008 makes an MCP3008 that lives in w, with its inputs in volts (nil: 0 V). What it
// hands out is told as name/0 to name/7 for single-ended inputs, name/0-1, name/1-0 and so on
// for differential ones: the code, an int.
func NewMCP3008(w *World, name string, vref float64, inputs [8]func(time.Time) float64) *MCP3x08 {
	return &MCP3x08{name: name, world: w, bits: 10, vref: vref, inputs: inputs}
}

// NewMCP3208 makes an MCP3208; see [NewMCP3008].
func NewMCP3208(w *World, name string, vref float64, inputs [8]func(time.Time) float64) *MCP3x08 {
	return &MCP3x08{name: name, world: w, bits: 12, vref: vref, inputs: inputs}
}

// Reset implements [SPIChip]: the chip remembers nothing.
func (c *MCP3x08) Reset() {}

// SPI implements [SPIChip]. The first one after the chip select is the start bit; then come SGL/DIFF, D2,
// D1, D0, a clock to sample, the null bit, the code from its most significant bit, the same code
// from bit 1 up, and zeros (figures 5-1 and 5-2). Before the null bit nothing drives the line: it reads as ones.
func (c *MCP3x08) SPI(w []byte) []byte {
	r := make([]byte, len(w))
	bit := func(i int) int { return int(w[i/8]>>(7-i%8)) & 1 }
	n := 8 * len(w)
	start := 0
	for start < n && bit(start) == 0 {
		start++
	}
	null := start + 6
	code := 0
	if start+5 <= n-1 { // the sample is complete
		code = c.convert(bit(start+1) == 1, bit(start+2)<<2|bit(start+3)<<1|bit(start+4))
	}
	for i := range n {
		var v int
		switch at := i - null - 1; { // from the most significant bit on
		case i < null:
			v = 1
		case at < 0:
		case at < c.bits:
			v = code >> (c.bits - 1 - at) & 1
		case at < 2*c.bits-1:
			v = code >> (at - c.bits + 1) & 1
		}
		r[i/8] |= byte(v << (7 - i%8))
	}
	return r
}

func (c *MCP3x08) convert(single bool, d int) int {
	now := c.world.now()
	volts := func(i int) float64 {
		if c.inputs[i] == nil {
			return 0
		}
		return c.inputs[i](now)
	}
	name, v := fmt.Sprintf("%s/%d", c.name, d), volts(d)
	if !single { // table 5-2: D0 says which one of the pair is the positive one
		name = fmt.Sprintf("%s/%d-%d", c.name, d, d^1)
		v -= volts(d ^ 1)
	}
	top := 1 << c.bits
	code := max(0, min(top-1, int(v/c.vref*float64(top)))) // equation 4-1
	c.world.served(name, code, now)
	return code
}
