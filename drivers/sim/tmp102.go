package sim

import (
	"math"
	"time"
)

// TMP102 is TI's TMP102 at register level (SBOS397): 12 and 13 bits, shutdown, one-shot and continuous conversion. The limit
// registers are kept; the alert that they drive is not (the bit AL reads as after power-on).
type TMP102 struct {
	name        string
	world       *World
	temperature Value

	pointer byte
	config  uint16
	limits  [2]uint16
	celsius float64 // in the temperature register
	at      time.Time
	fresh   bool      // not yet told
	done    time.Time // end of the conversion under way; zero: none
}

const (
	tmp102PowerOn = 0x60A0                // table 6-10: 12 bits, 4 Hz, AL set
	tmp102Convert = 26 * time.Millisecond // typical (§5.5)
	tmp102Low     = 0x4B00                // §6.5.3: 75 °C
	tmp102High    = 0x5000                // 80 °C
)

// NewTMP102 makes a TMP102 that lives in w: it tells name/temperature (°C).
func NewTMP102(w *World, name string, temperature Value) *TMP102 {
	c := &TMP102{name: name, world: w, temperature: or(temperature, 20)}
	c.Reset()
	return c
}

// Reset implements [I2CChip]. The first conversion begins at power-on; until it ends the register reads 0 °C.
func (c *TMP102) Reset() {
	c.pointer, c.config, c.limits = 0, tmp102PowerOn, [2]uint16{tmp102Low, tmp102High}
	c.celsius, c.fresh, c.done = 0, false, c.world.now().Add(tmp102Convert)
}

// I2C implements [I2CChip].
func (c *TMP102) I2C(w []byte, n int) ([]byte, bool) {
	c.advance()
	if len(w) > 0 {
		if w[0] > 3 { // P7 to P2 must be 0 (§6.5.1)
			return nil, false
		}
		c.pointer = w[0]
	}
	if len(w) > 2 {
		c.write(uint16(w[1])<<8 | uint16(w[2]))
	}
	r := make([]byte, n)
	if n > 0 {
		v := c.register()
		for i := range r {
			r[i] = byte(v >> 8)
			v = v<<8 | 0xFF
		}
	}
	return r, true
}

func (c *TMP102) register() uint16 {
	switch c.pointer {
	case 0:
		if c.fresh {
			c.world.served(c.name+"/temperature", c.celsius, c.at)
			c.fresh = false
		}
		code := uint16(int16(c.celsius * 16))
		if c.config&0x10 != 0 {
			return code<<3 | 1
		}
		return uint16(min(int16(code), 0x7FF)) << 4
	case 1:
		v := c.config &^ 0x8000
		if c.config&0x0100 != 0 && c.done.IsZero() {
			v |= 0x8000 // ready (§6.4.4)
		}
		return v
	}
	return c.limits[c.pointer-2]
}

func (c *TMP102) write(v uint16) {
	switch c.pointer {
	case 0:
	case 1:
		was := c.config
		c.config = v&0x1FD0 | tmp102PowerOn&0x6020 // R1, R0 and AL are read-only, the rest reads 0
		now := c.world.now()
		if v&0x0100 != 0 && now.Before(c.done.Add(-tmp102Convert)) {
			c.done = time.Time{} // it waited for the next one to begin
		}
		switch {
		case v&0x0100 == 0 && was&0x0100 != 0, v&0x0100 != 0 && v&0x8000 != 0 && c.done.IsZero():
			c.done = now.Add(tmp102Convert)
		}
	default:
		c.limits[c.pointer-2] = v
	}
}

// advance ends a conversion. A shutdown lets the one under way end (§6.4.3).
func (c *TMP102) advance() {
	now := c.world.now()
	if c.done.IsZero() || now.Before(c.done) {
		return
	}
	at := c.done
	c.done = time.Time{}
	if c.config&0x0100 == 0 {
		period := [4]time.Duration{4000, 1000, 250, 125}[c.config>>6&3] * time.Millisecond // table 6-8
		at = at.Add(now.Sub(at) / period * period)
		c.done = at.Add(period)
	}
	high := 127.9375
	if c.config&0x10 != 0 {
		high = 150
	}
	c.celsius = max(-55, min(high, math.Round(c.temperature(at)*16)/16))
	c.at, c.fresh = at, true
}

// LM75 is NXP's LM75A at register level (LM75A rev. 4): 11 bits, conversions all the time but in shutdown. With TI it is TI's
// LM75A (SNOS808): 9 bits, of the rest noise, and an identity register.
type LM75 struct {
	name        string
	world       *World
	temperature Value
	ti          bool

	pointer byte
	config  byte
	limits  [2]uint16
	celsius float64
	fresh   bool      // there was a conversion
	next    time.Time // end of the conversion under way
}

const lm75Convert = 100 * time.Millisecond // one every 100 ms (LM75A §7.1, table 15)

// NewLM75 makes NXP's, or with ti TI's, LM75A that lives in w: it tells name/temperature (°C), each time that it is read, with that
// time: the chip measures by itself, and nobody who reads it knows when.
func NewLM75(w *World, name string, ti bool, temperature Value) *LM75 {
	c := &LM75{name: name, world: w, ti: ti, temperature: or(temperature, 20)}
	c.Reset()
	return c
}

// Reset implements [I2CChip].
func (c *LM75) Reset() {
	c.pointer, c.config, c.limits = 0, 0, [2]uint16{0x4B00, 0x5000} // table 5
	c.celsius, c.fresh, c.next = 0, false, c.world.now().Add(lm75Convert)
}

// I2C implements [I2CChip].
func (c *LM75) I2C(w []byte, n int) ([]byte, bool) {
	c.advance()
	if len(w) > 0 {
		c.pointer = w[0] & 7
		if !c.ti {
			c.pointer &= 3 // only the lowest two bits count (§7.4.1)
		}
	}
	switch {
	case len(w) > 1 && c.pointer == 1:
		if c.config&1 != 0 && w[1]&1 == 0 {
			c.next = c.world.now().Add(lm75Convert)
		}
		c.config = w[1] & 0x1F
	case len(w) > 2 && (c.pointer == 2 || c.pointer == 3):
		c.limits[c.pointer-2] = (uint16(w[1])<<8 | uint16(w[2])) & 0xFF80
	}
	r := make([]byte, n)
	if n == 0 {
		return r, true
	}
	var v uint16
	switch c.pointer {
	case 0:
		if c.fresh {
			c.world.served(c.name+"/temperature", c.celsius, c.world.now())
		}
		if v = uint16(int16(c.celsius * 256)); c.ti {
			v |= 0x55
		}
	case 1:
		v = uint16(c.config)<<8 | uint16(c.config)
	case 2, 3:
		v = c.limits[c.pointer-2]
	case 7:
		v = 0xA1FF
	}
	for i := range r {
		r[i] = byte(v >> 8)
		v = v<<8 | 0xFF
	}
	return r, true
}

func (c *LM75) advance() {
	now := c.world.now()
	if c.config&1 != 0 || now.Before(c.next) {
		return
	}
	at := c.next.Add(now.Sub(c.next) / lm75Convert * lm75Convert)
	c.next = at.Add(lm75Convert)
	step := 8.0
	if c.ti {
		step = 2
	}
	c.celsius = max(-55, min(127.5, math.Round(c.temperature(at)*step)/step))
	c.fresh = true
}
