package sim

import (
	"fmt"
	"hash/fnv"
	"math"
	"time"
)

// DS18B20 is a Maxim DS18B20 after its ROM has been selected: 19-7487 rev 6. A conversion's result is in the scratchpad at once;
// the bus waits as long as it takes.
type DS18B20 struct {
	name  string
	world *World
	value Value
	id    string

	pad    [9]byte // with its CRC
	eeprom [3]byte // TH, TL, configuration
	at     time.Time
	taken  bool // a conversion was made since the reset
}

// NewDS18B20 makes a chip that lives in w, in °C. Its serial number is made of its name, so that it is the same each time. What
// it hands out is told as name/temperature.
func NewDS18B20(w *World, name string, temperature Value) *DS18B20 {
	h := fnv.New64a()
	h.Write([]byte(name))
	c := &DS18B20{
		name: name, world: w, value: or(temperature, 20),
		id:     fmt.Sprintf("28-%012x", h.Sum64()&(1<<48-1)),
		eeprom: [3]byte{0x4B, 0x46, 0x7F}, // 75 °C, 70 °C, 12 bits: as delivered
	}
	c.Reset()
	return c
}

// ID implements [W1Chip].
func (c *DS18B20) ID() string { return c.id }

// Reset implements [W1Chip]: 85 °C, and the settings out of the EEPROM (figure 9, page 8).
func (c *DS18B20) Reset() {
	c.pad = [9]byte{0x50, 0x05, c.eeprom[0], c.eeprom[1], c.eeprom[2], 0xFF, 0x0C, 0x10}
	c.pad[8] = crcW1(c.pad[:8])
	c.taken = false
}

// bits is the resolution (table 2, page 9).
func (c *DS18B20) bits() int { return 9 + int(c.pad[4]>>5&3) }

// Conversion implements [W1Chip]: 93.75 ms for 9 bits, twice as much for each more (table 2).
func (c *DS18B20) Conversion() time.Duration {
	return 93750 * time.Microsecond << (c.bits() - 9)
}

// W1 implements [W1Chip].
func (c *DS18B20) W1(w []byte, n int) []byte {
	r := make([]byte, n)
	for i := range r {
		r[i] = 0xFF // nobody pulls the line
	}
	if len(w) == 0 {
		return r
	}
	switch w[0] {
	case w1Convert:
		c.at, c.taken = c.world.now(), true
		raw := int16(math.Round(max(-55, min(125, c.value(c.at))) * 16))
		raw &^= 1<<(12-c.bits()) - 1
		c.pad[0], c.pad[1] = byte(raw), byte(uint16(raw)>>8)
		// Reserved; a genuine chip leaves the rest of its counter there after a conversion.
		c.pad[6] = 0x10 - c.pad[0]&0x0F
	case 0x4E: // write scratchpad: TH, TL, configuration
		if len(w) >= 4 {
			c.pad[2], c.pad[3], c.pad[4] = w[1], w[2], w[3]&0x60|0x1F
		}
	case 0x48: // copy scratchpad
		copy(c.eeprom[:], c.pad[2:5])
	case 0xB8: // recall
		copy(c.pad[2:5], c.eeprom[:])
	case w1Read:
		copy(r, c.pad[:])
		if c.taken {
			c.world.served(c.name+"/temperature", float64(int16(uint16(c.pad[1])<<8|uint16(c.pad[0])))/16, c.at)
		}
	}
	c.pad[8] = crcW1(c.pad[:8])
	return r
}
