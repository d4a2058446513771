package sim

import "time"

// SHT4x is Sensirion's SHT4x by its commands (datasheet version 6): measurements, serial number, reset. The heater is not there.
type SHT4x struct {
	name   string
	world  *World
	env    Environment
	serial uint32

	pending *climate
	answer  []byte
	busy    time.Time // nothing is acknowledged before
}

// NewSHT4x makes an SHT4x that lives in w: it tells name/temperature (°C) and name/humidity (%RH).
func NewSHT4x(w *World, name string, serial uint32, env Environment) *SHT4x {
	c := &SHT4x{name: name, world: w, serial: serial, env: Environment{Temperature: or(env.Temperature, 20), Humidity: or(env.Humidity, 50)}}
	c.Reset()
	return c
}

// Reset implements [I2CChip].
func (c *SHT4x) Reset() {
	c.pending, c.answer = nil, nil
	c.busy = c.world.now().Add(time.Millisecond) // power-up and soft reset, table 5
}

// I2C implements [I2CChip].
func (c *SHT4x) I2C(w []byte, n int) ([]byte, bool) {
	now := c.world.now()
	if now.Before(c.busy) {
		return nil, false
	}
	if len(w) > 0 {
		took := map[byte]time.Duration{0xFD: 8300, 0xF6: 4500, 0xE0: 1600}[w[0]] * time.Microsecond // table 5, maximum
		switch {
		case len(w) != 1:
			return nil, false
		case w[0] == 0x89:
			c.answer, c.pending = sensirion(uint16(c.serial>>16), uint16(c.serial)), nil
		case w[0] == 0x94:
			c.Reset()
		case took != 0:
			p := &climate{at: now.Add(took)}
			var t, h float64
			p.words[0], t = code(c.env.Temperature(p.at), -45, 175)
			p.words[1], h = code(c.env.Humidity(p.at), -6, 125)
			p.served = [2]quantity{{"temperature", t}, {"humidity", max(0, min(100, h))}}
			c.pending, c.answer, c.busy = p, nil, p.at
		default:
			return nil, false
		}
	}
	if n == 0 {
		return nil, true
	}
	r := make([]byte, n)
	for i := range r {
		r[i] = 0xFF
	}
	switch {
	case now.Before(c.busy):
		return nil, false
	case c.answer != nil:
		copy(r, c.answer)
		c.answer = nil
	case c.pending != nil:
		copy(r, sensirion(c.pending.words[:]...))
		for _, q := range c.pending.served {
			c.world.served(c.name+"/"+q.name, q.value, c.pending.at)
		}
		c.pending = nil
	default:
		return nil, false
	}
	return r, true
}
