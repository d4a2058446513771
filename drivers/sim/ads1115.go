package sim

import (
	"fmt"
	"math"
	"time"
)

// ADS1115 is TI's ADS1115 at register level (SBAS444D): single conversions, and the comparator's thresholds, which do nothing.
type ADS1115 struct {
	name   string
	world  *World
	inputs [4]Value

	pointer byte
	config  uint16
	result  int16
	low     uint16
	high    uint16
	ends    time.Time // of the conversion; zero: none is going on
	told    string    // what the result will be told as when it is read; "" once it was
	volts   float64
}

// NewADS1115 makes an ADS1115 that lives in w, with its inputs in volts (nil: 0 V). What it hands out is told as name/in0 to
// name/in3, and name/in0-1 and so on for pairs: the volts of the code.
func NewADS1115(w *World, name string, inputs [4]Value) *ADS1115 {
	c := &ADS1115{name: name, world: w, inputs: inputs}
	c.Reset()
	return c
}

// Reset implements [I2CChip] (§7.4.1, tables 7 to 9).
func (c *ADS1115) Reset() {
	c.pointer, c.config, c.result, c.low, c.high, c.ends, c.told = 0, 0x0583, 0, 0x8000, 0x7FFF, time.Time{}, ""
}

// I2C implements [I2CChip].
func (c *ADS1115) I2C(w []byte, n int) ([]byte, bool) {
	if len(w) > 0 {
		c.pointer = w[0] & 3
	}
	c.finish()
	if len(w) == 3 {
		v := uint16(w[1])<<8 | uint16(w[2])
		switch c.pointer {
		case 1:
			c.config = v &^ 0x8000
			if v&0x8100 == 0x8100 && c.ends.IsZero() { // start, single shot
				rate := []int{8, 16, 32, 64, 128, 250, 475, 860}[v>>5&7]
				c.ends = c.world.now().Add(time.Second/time.Duration(rate) + 25*time.Microsecond)
			}
		case 2:
			c.low = v
		case 3:
			c.high = v
		}
	}
	r := make([]byte, n)
	for i := range r {
		r[i] = 0xFF
	}
	if n >= 2 {
		v := [4]uint16{uint16(c.result), c.config, c.low, c.high}[c.pointer]
		if c.pointer == 1 && c.ends.IsZero() {
			v |= 0x8000
		}
		if c.pointer == 0 && c.told != "" {
			c.world.served(c.name+"/"+c.told, c.volts, c.world.now())
			c.told = ""
		}
		r[0], r[1] = byte(v>>8), byte(v)
	}
	return r, true
}

// finish ends a conversion whose time has come.
func (c *ADS1115) finish() {
	if c.ends.IsZero() || c.world.now().Before(c.ends) {
		return
	}
	at := c.ends
	c.ends = time.Time{}
	volts := func(i int) float64 {
		if c.inputs[i] == nil {
			return 0
		}
		return c.inputs[i](at)
	}
	mux := int(c.config >> 12 & 7)
	v := 0.0
	if mux >= 4 {
		c.told, v = fmt.Sprintf("in%d", mux-4), volts(mux-4)
	} else {
		p := [4][2]int{{0, 1}, {0, 3}, {1, 3}, {2, 3}}[mux]
		c.told, v = fmt.Sprintf("in%d-%d", p[0], p[1]), volts(p[0])-volts(p[1])
	}
	scale := []float64{6.144, 4.096, 2.048, 1.024, 0.512, 0.256, 0.256, 0.256}[c.config>>9&7]
	c.result = int16(max(-32768, min(32767, math.Round(v/scale*32768))))
	c.volts = float64(c.result) * scale / 32768
}
