package sim

import (
	"math"
	"time"
)

// sensirion answers with words that have a checksum of their own: polynomial 0x31, from 0xFF.
func sensirion(words ...uint16) (out []byte) {
	for _, w := range words {
		crc := uint32(w)<<8 ^ 0xFF0000
		for i := 23; i >= 8; i-- { // division of 24 bits by x⁸+x⁵+x⁴+1
			if crc>>i&1 != 0 {
				crc ^= 0x131 << (i - 8)
			}
		}
		out = append(out, byte(w>>8), byte(w), byte(crc))
	}
	return out
}

// code is the 16-bit code nearest to v, where 0 means low and 65535 means low+span; and what it means.
func code(v, low, span float64) (uint16, float64) {
	c := max(0, min(65535, math.Round((v-low)/span*65535)))
	return uint16(c), low + span*c/65535
}

// climate is a measurement of temperature and humidity, waiting to be read.
type climate struct {
	words  [2]uint16
	served [2]quantity
	at     time.Time // its end
}

// SHT3x is Sensirion's SHT3x-DIS by its commands (datasheet version 7): single shots and periodic measurement, status, heater, break,
// reset. Alert limits are not there; clock stretching is an answer that waits for nothing.
type SHT3x struct {
	name  string
	world *World
	env   Environment

	status  uint16
	pending *climate
	answer  []byte // of the status
	period  time.Duration
	ready   time.Time // after power-on or reset
}

// NewSHT3x makes an SHT3x that lives in w: it tells name/temperature (°C) and name/humidity (%RH).
func NewSHT3x(w *World, name string, env Environment) *SHT3x {
	c := &SHT3x{name: name, world: w, env: Environment{Temperature: or(env.Temperature, 20), Humidity: or(env.Humidity, 50)}}
	c.Reset()
	return c
}

// Reset implements [I2CChip].
func (c *SHT3x) Reset() {
	c.status, c.pending, c.answer, c.period = 0x8010, nil, nil, 0
	c.ready = c.world.now().Add(time.Millisecond) // t_PU, table 4
}

// StartPeriodic is what somebody else may have left the chip at: two measurements a second.
func (c *SHT3x) StartPeriodic() { c.period = 500 * time.Millisecond }

// I2C implements [I2CChip].
func (c *SHT3x) I2C(w []byte, n int) ([]byte, bool) {
	if c.world.now().Before(c.ready) {
		return nil, false
	}
	if len(w) > 0 {
		if len(w) != 2 || !c.command(uint16(w[0])<<8|uint16(w[1])) {
			c.status |= 2
			return nil, false
		}
		c.status &^= 2
	}
	if n == 0 {
		return nil, true
	}
	r := make([]byte, n)
	for i := range r {
		r[i] = 0xFF
	}
	switch {
	case c.answer != nil:
		copy(r, c.answer)
		c.answer = nil
	case c.pending != nil && !c.world.now().Before(c.pending.at):
		copy(r, sensirion(c.pending.words[:]...))
		for _, q := range c.pending.served {
			c.world.served(c.name+"/"+q.name, q.value, c.pending.at)
		}
		c.pending = nil
	default: // nothing there (yet): the read header is not acknowledged
		return nil, false
	}
	return r, true
}

func (c *SHT3x) command(cmd uint16) bool {
	took := map[uint16]time.Duration{ // table 4, maximum
		0x2400: 15500, 0x240B: 6500, 0x2416: 4500, 0x2C06: 15500, 0x2C0D: 6500, 0x2C10: 4500,
	}[cmd] * time.Microsecond
	c.answer = nil
	switch {
	case cmd == 0xF32D:
		c.answer = sensirion(c.status)
	case cmd == 0x3041:
		c.status &^= 0x8C10
	case cmd == 0x306D:
		c.status |= 0x2000
	case cmd == 0x3066:
		c.status &^= 0x2000
	case cmd == 0x3093:
		c.period, c.pending = 0, nil
	case c.period != 0: // while it measures by itself, it takes nothing but break and fetch
		return false
	case cmd == 0x30A2:
		c.Reset()
	case took != 0:
		c.measure(c.world.now().Add(took))
	default:
		return false
	}
	return true
}

func (c *SHT3x) measure(at time.Time) {
	p := &climate{at: at}
	var t, h float64
	p.words[0], t = code(c.env.Temperature(at), -45, 175)
	p.words[1], h = code(c.env.Humidity(at), 0, 100)
	p.served = [2]quantity{{"temperature", t}, {"humidity", h}}
	c.pending = p
}
