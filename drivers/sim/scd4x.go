package sim

import "time"

// SCD4x is Sensirion's SCD40 by its commands (datasheet version 1.4): periodic measurement, data ready, serial number, stop. Anything
// else is not acknowledged.
type SCD4x struct {
	name   string
	world  *World
	serial uint64
	values [3]Value // carbon dioxide (ppm), temperature (°C), humidity (%RH)

	started time.Time // zero: idle
	taken   int       // measurements that are over or were read
	busy    time.Time // nothing is acknowledged before
	answer  []byte
}

const scdInterval = 5 * time.Second

// NewSCD4x makes an SCD4x that lives in w: it tells name/co2 (ppm), name/temperature (°C) and name/humidity (%RH).
func NewSCD4x(w *World, name string, serial uint64, v map[string]Value) *SCD4x {
	c := &SCD4x{name: name, world: w, serial: serial, values: [3]Value{or(v["co2"], 800), or(v["temperature"], 20), or(v["humidity"], 50)}}
	c.Reset()
	return c
}

// Reset implements [I2CChip]: idle, after up to a second (§2.3, table 6).
func (c *SCD4x) Reset() {
	c.started, c.taken, c.answer = time.Time{}, 0, nil
	c.busy = c.world.now().Add(time.Second)
}

// due is how many measurements have been completed.
func (c *SCD4x) due(now time.Time) int {
	if c.started.IsZero() {
		return 0
	}
	return int(now.Sub(c.started) / scdInterval)
}

// I2C implements [I2CChip].
func (c *SCD4x) I2C(w []byte, n int) ([]byte, bool) {
	now := c.world.now()
	if now.Before(c.busy) {
		return nil, false
	}
	if len(w) > 0 {
		if len(w) != 2 || !c.command(uint16(w[0])<<8|uint16(w[1]), now) {
			return nil, false
		}
	}
	if n == 0 {
		return nil, true
	}
	if c.answer == nil {
		return nil, false
	}
	r := make([]byte, n)
	for i := range r {
		r[i] = 0xFF
	}
	copy(r, c.answer)
	c.answer = nil
	return r, true
}

func (c *SCD4x) command(cmd uint16, now time.Time) bool {
	c.answer = nil
	c.busy = now.Add(time.Millisecond)
	idle := c.started.IsZero()
	switch {
	case cmd == 0x21B1 && idle:
		c.started, c.taken = now, 0
	case cmd == 0x3F86:
		c.started, c.busy = time.Time{}, now.Add(500*time.Millisecond)
	case cmd == 0x3682 && idle:
		c.answer = sensirion(uint16(c.serial>>32), uint16(c.serial>>16), uint16(c.serial))
	case cmd == 0xE4B8:
		word := uint16(0x8000) // §3.8.2: the low eleven bits are zero while nothing is ready
		if c.due(now) > c.taken {
			word = 0x8006
		}
		c.answer = sensirion(word)
	case cmd == 0xEC05 && c.due(now) > c.taken: // otherwise it is not acknowledged, §3.5.2
		c.taken = c.due(now)
		co2 := uint16(max(0, min(40000, c.values[0](now))))
		t, celsius := code(c.values[1](now), -45, 175)
		h, rh := code(c.values[2](now), 0, 100)
		c.answer = sensirion(co2, t, h)
		// Told as of when it is read: what is measured every five seconds is the present to whoever reads.
		c.world.served(c.name+"/co2", float64(co2), now)
		c.world.served(c.name+"/temperature", celsius, now)
		c.world.served(c.name+"/humidity", rh, now)
	default:
		return false
	}
	return true
}
