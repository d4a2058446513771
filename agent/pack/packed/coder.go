package packed

import (
	"errors"
	"math"
	"math/bits"
)

// The range coder works in the payload's own radix: digits come out of it as they stand in the text, without an armour.
// low and size never pass 2^53, so that the decoder in JavaScript is exact with plain numbers.
type coder struct {
	radix       uint64
	top, bottom uint64 // radix^W, radix^(W-1)
	low, size   uint64 // encoding; decoding: low is what was read less the interval's start
	digits      []byte // encoding: those that are settled but for a carry; decoding: all
	at          int    // decoding: the next digit
	decoding    bool
	bad         error   // decoding: what cannot have been encoded
	dry         bool    // nothing is coded: the model learns, and spent counts
	spent       float64 // bits, as the model has them
	undo        *undo   // what changes is kept, where not nil
	place       [maxInputs]uint32
	stretch     [maxInputs]int32 // and what they say
}

var errStream = errors.New("packed: damaged: no encoder writes this")

func (c *coder) begin(radix int, digits []byte, decoding bool) {
	w := 7
	if radix == 256 {
		w = 6
	}
	*c = coder{radix: uint64(radix), top: 1, digits: digits, decoding: decoding}
	for range w {
		c.bottom, c.top = c.top, c.top*c.radix
	}
	c.size = c.top
	if decoding {
		for range w {
			c.low = c.low*c.radix + c.next()
		}
	}
}

// next is the digit that comes; beyond the end are zeros.
func (c *coder) next() uint64 {
	if c.at >= len(c.digits) {
		c.at++
		return 0
	}
	c.at++
	return uint64(c.digits[c.at-1])
}

func (c *coder) normalize() {
	for c.size < c.bottom {
		if c.decoding {
			c.low = c.low*c.radix + c.next()
		} else {
			c.digits = append(c.digits, byte(c.low/c.bottom))
			c.low = c.low % c.bottom * c.radix
		}
		c.size *= c.radix
	}
}

func (c *coder) carry() {
	if c.low < c.top {
		return
	}
	c.low -= c.top
	for i := len(c.digits) - 1; ; i-- {
		if uint64(c.digits[i]) < c.radix-1 {
			c.digits[i]++
			return
		}
		c.digits[i] = 0
	}
}

// bit codes one bit that is 1 with the probability p/65536.
func (c *coder) bit(b int, p int) int {
	if c.dry {
		if b == 0 {
			p = 65536 - p
		}
		c.spent += 16 - math.Log2(float64(p))
		return b
	}
	bound := (c.size >> 16) * uint64(p)
	if c.decoding {
		b = 0
		if c.low < bound {
			b = 1
		}
	}
	if b == 1 {
		c.size = bound
	} else {
		if c.decoding {
			c.low -= bound
		} else {
			c.low += bound
			c.carry()
		}
		c.size -= bound
	}
	if c.size < c.bottom {
		c.normalize()
	}
	return b
}

// uniform codes v of 0 to n-1, all as likely; n is at most 65536.
func (c *coder) uniform(v, n uint64) uint64 {
	if c.dry {
		c.spent += math.Log2(float64(n))
		return v
	}
	q := c.size / n
	if c.decoding {
		v = c.low / q
		if v >= n {
			v, c.bad = n-1, errStream
		}
		c.low -= min(c.low, v*q)
	} else {
		c.low += v * q
		c.carry()
	}
	c.size = q
	if c.size < c.bottom {
		c.normalize()
	}
	return v
}

// raw codes the low bits of v.
func (c *coder) raw(v uint64, width int) uint64 {
	out := uint64(0)
	for width > 0 {
		n := min(width, 16)
		width -= n
		out = out<<n | c.uniform(v>>width&(1<<n-1), 1<<n)
	}
	return out
}

// natural codes a number whose length in bits is below 2^lengthBits.
func (c *coder) natural(v uint64, lengthBits int) uint64 {
	n := int(c.uniform(uint64(bits.Len64(v)), 1<<lengthBits))
	if n < 2 {
		return uint64(n)
	}
	v = 1<<(n-1) | c.raw(v, n-1)
	if v > maxNumber {
		c.bad, v = errStream, 0
	}
	return v
}

// tail is the shortest string of digits that, followed by anything, lies in the interval: how many, and which.
func (c *coder) tail() (n int, carry bool, digits uint64) {
	unit := c.top
	for n = 0; ; n++ { // n digits, each unit apart
		v := (c.low + unit - 1) / unit * unit
		if v < c.low+c.size {
			if v >= c.top {
				return n, true, (v - c.top) / unit
			}
			return n, false, v / unit
		}
		unit /= c.radix
	}
}

// length is how many digits the whole would have if it ended here; at most one too many.
func (c *coder) length() int {
	n, _, _ := c.tail()
	return len(c.digits) + n
}

// end gives the digits, without zeros at their end.
func (c *coder) end() []byte {
	n, carry, digits := c.tail()
	if carry {
		c.low = c.top
		c.carry()
	}
	for i := range n {
		unit := uint64(1)
		for range n - 1 - i {
			unit *= c.radix
		}
		c.digits = append(c.digits, byte(digits/unit%c.radix))
	}
	for len(c.digits) > 0 && c.digits[len(c.digits)-1] == 0 {
		c.digits = c.digits[:len(c.digits)-1]
	}
	return c.digits
}
