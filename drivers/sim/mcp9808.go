package sim

import (
	"math"
	"time"
)

// MCP9808 is Microchip's MCP9808 at register level (DS25095A): identity, resolutions, shutdown, the comparison flags. The alert
// output and the lock bits are not there.
type MCP9808 struct {
	name        string
	world       *World
	temperature Value

	pointer    byte
	config     uint16
	limits     [3]uint16 // upper, lower, critical
	resolution byte
	celsius    float64
	fresh      bool // there was a conversion
	next       time.Time
}

// NewMCP9808 makes an MCP9808 that lives in w: it tells name/temperature (°C), each time that it is read, with that time: the chip
// measures by itself, and nobody who reads it knows when.
func NewMCP9808(w *World, name string, temperature Value) *MCP9808 {
	c := &MCP9808{name: name, world: w, temperature: or(temperature, 20)}
	c.Reset()
	return c
}

// Reset implements [I2CChip].
func (c *MCP9808) Reset() {
	c.pointer, c.config, c.limits, c.resolution = 0, 0, [3]uint16{}, 3
	c.celsius, c.fresh, c.next = 0, false, c.world.now().Add(c.period())
}

// period is what a conversion takes, typically (table 5-2).
func (c *MCP9808) period() time.Duration {
	return [4]time.Duration{30, 65, 130, 250}[c.resolution] * time.Millisecond
}

// I2C implements [I2CChip].
func (c *MCP9808) I2C(w []byte, n int) ([]byte, bool) {
	c.advance()
	if len(w) > 0 {
		c.pointer = w[0] & 0x0F
	}
	switch {
	case len(w) > 2 && c.pointer == 1:
		was := c.config
		c.config = (uint16(w[1])<<8 | uint16(w[2])) & 0x07FF
		if was&0x100 != 0 && c.config&0x100 == 0 {
			c.next = c.world.now().Add(c.period())
		}
	case len(w) > 2 && c.pointer >= 2 && c.pointer <= 4:
		c.limits[c.pointer-2] = (uint16(w[1])<<8 | uint16(w[2])) & 0x1FFC
	case len(w) > 1 && c.pointer == 8:
		c.resolution = w[1] & 3
		c.next = c.world.now().Add(c.period())
	}
	r := make([]byte, n)
	if n == 0 {
		return r, true
	}
	v := uint16(0)
	switch c.pointer {
	case 1:
		v = c.config
	case 2, 3, 4:
		v = c.limits[c.pointer-2]
	case 5:
		v = c.ambient()
	case 6:
		v = 0x0054
	case 7:
		v = 0x0400
	case 8:
		v = uint16(c.resolution)<<8 | 0xFF
	}
	for i := range r {
		r[i] = byte(v >> 8)
		v = v<<8 | 0xFF
	}
	return r, true
}

// ambient is the temperature with its flags (register 5-4).
func (c *MCP9808) ambient() uint16 {
	if c.fresh {
		c.world.served(c.name+"/temperature", c.celsius, c.world.now())
	}
	limit := func(i int) float64 { return float64(int16(c.limits[i]<<3)) / 128 }
	v := uint16(int16(c.celsius*16)) & 0x1FFF
	if c.celsius >= limit(2) {
		v |= 0x8000
	}
	if c.celsius > limit(0) {
		v |= 0x4000
	}
	if c.celsius < limit(1) {
		v |= 0x2000
	}
	return v
}

func (c *MCP9808) advance() {
	now := c.world.now()
	if c.config&0x100 != 0 || now.Before(c.next) {
		return
	}
	at := c.next.Add(now.Sub(c.next) / c.period() * c.period())
	c.next = at.Add(c.period())
	step := float64(int(2) << c.resolution) // 0.5 to 0.0625 °C
	c.celsius = max(-40, min(125, math.Round(c.temperature(at)*step)/step))
	c.fresh = true
}
