package sim

import (
	"math"
	"time"
)

// BH1750 is ROHM's BH1750FVI by its instructions (BH1750FVI technical note 2009.04 rev. B): one-time and continuous measurement in
// high and low resolution, the measurement time register, power-down and reset.
type BH1750 struct {
	name  string
	world *World
	light Value

	mt     byte
	on     bool
	mode   byte // 0: none
	data   uint16
	lux    float64
	at     time.Time
	fresh  bool
	end    time.Time // of the measurement under way
	factor float64   // counts per lux of it
	period time.Duration
}

// NewBH1750 makes a BH1750 that lives in w: it tells name/light (lx).
func NewBH1750(w *World, name string, light Value) *BH1750 {
	c := &BH1750{name: name, world: w, light: or(light, 300)}
	c.Reset()
	return c
}

// Reset implements [I2CChip]: powered down, and the data register is 0.
func (c *BH1750) Reset() { c.mt, c.on, c.mode, c.data, c.fresh = 69, false, 0, 0, false }

// I2C implements [I2CChip]: one instruction a transaction; reads have none.
func (c *BH1750) I2C(w []byte, n int) ([]byte, bool) {
	c.advance()
	if len(w) > 1 || len(w) == 1 && !c.instruction(w[0]) {
		return nil, false
	}
	r := make([]byte, n)
	if n > 0 {
		if c.fresh {
			c.world.served(c.name+"/light", c.lux, c.at)
			c.fresh = false
		}
		v := c.data
		for i := range r {
			r[i] = byte(v >> 8)
			v = v<<8 | 0xFF
		}
	}
	return r, true
}

func (c *BH1750) instruction(op byte) bool {
	switch {
	case op == 0x00:
		c.on, c.mode = false, 0
	case op == 0x01:
		c.on = true
	case op == 0x07: // not taken while powered down
		if c.on {
			c.data, c.fresh = 0, false
		}
	case op>>3 == 0x40>>3:
		c.mt = c.mt&0x1F | op<<5
	case op>>5 == 0x60>>5:
		c.mt = c.mt&0xE0 | op&0x1F
	case op == 0x10, op == 0x11, op == 0x13, op == 0x20, op == 0x21, op == 0x23:
		c.on, c.mode = true, op
		c.factor, c.period = 1.2*float64(c.mt)/69, 120*time.Millisecond // typical
		switch op & 3 {
		case 1:
			c.factor *= 2
		case 3:
			c.period = 16 * time.Millisecond
		}
		c.period = time.Duration(float64(c.period) * float64(c.mt) / 69)
		c.end = c.world.now().Add(c.period)
	default:
		return false
	}
	return true
}

func (c *BH1750) advance() {
	now := c.world.now()
	if c.mode == 0 || now.Before(c.end) {
		return
	}
	c.at = c.end
	if c.mode&0x20 != 0 {
		c.on, c.mode = false, 0
	} else {
		c.at = c.end.Add(now.Sub(c.end) / max(c.period, 1) * c.period)
		c.end = c.at.Add(max(c.period, 1))
	}
	c.data = uint16(max(0, min(65535, math.Round(c.light(c.at)*c.factor))))
	c.lux, c.fresh = float64(c.data)/c.factor, c.data != 65535 // a full register means nothing
}
