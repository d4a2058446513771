package sim

import (
	"encoding/binary"
	"math"
)

// MAX31855 is a Maxim MAX31855: 19-5793 rev 5, tables 2 to 5. It cannot be written to.
type MAX31855 struct {
	name      string
	world     *World
	hot, cold Value
	// Fault is what is wrong with the thermocouple: 1 open, 2 shorted to ground, 4 to the supply. Set it before use.
	Fault byte
}

// NewMAX31855 makes a chip that lives in w. What it hands out is told as name/temperature and name/junction, in °C; with a
// fault, only the junction.
func NewMAX31855(w *World, name string, temperature, junction Value) *MAX31855 {
	return &MAX31855{name: name, world: w, hot: or(temperature, 200), cold: or(junction, 25)}
}

// Reset implements [SPIChip]: the chip remembers nothing.
func (c *MAX31855) Reset() {}

// SPI implements [SPIChip]: 32 bits, and then zeros.
func (c *MAX31855) SPI(w []byte) []byte {
	now := c.world.now()
	hot := int32(math.Round(max(-270, min(1800, c.hot(now))) * 4))
	cold := int32(math.Round(max(-55, min(127, c.cold(now))) * 16))
	f := uint32(hot)<<18 | uint32(cold)&0xFFF<<4
	if c.Fault != 0 {
		f = 0x7FFC<<16 | 1<<16 | f&0xFFF0 | uint32(c.Fault&7)
	}
	frame := binary.BigEndian.AppendUint32(nil, f)
	r := make([]byte, len(w))
	if copy(r, frame) == len(frame) {
		if c.Fault == 0 {
			c.world.served(c.name+"/temperature", float64(hot)/4, now)
		}
		c.world.served(c.name+"/junction", float64(cold)/16, now)
	}
	return r
}
