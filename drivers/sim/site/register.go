package site

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"homeward/drivers"
	"homeward/drivers/sim"
)

// encode gives the registers that hold a value, and what a gateway makes of them.
func (c *register) encode(v float64) (words []uint16, value float64) {
	if c.kind == "bool" {
		if v >= 0.5 {
			return []uint16{1}, 1
		}
		return []uint16{0}, 0
	}
	low, high := typeRange(c.kind)
	raw := (v - c.offset) / c.scale
	whole := c.kind != "float32" && c.kind != "float64"
	if whole {
		raw = math.Round(raw)
	}
	if c.wave.kind == "counter" && whole { // goes around, as a register does
		if raw = math.Mod(raw, high+1); raw < 0 {
			raw += high + 1
		}
	}
	raw = min(max(raw, low), high)
	words, err := sim.ModbusWords(c.kind, c.order, c.words, raw)
	if err != nil { // the type is known and the number fits
		panic("site: " + err.Error())
	}
	digits := 64
	if c.kind == "float32" { // the shortest decimal that means the same float32
		raw, digits = float64(float32(raw)), 32
	}
	return words, scaled(strconv.FormatFloat(raw, 'g', -1, digits), c.scale, c.offset)
}

// scaled is raw × scale + offset in decimal, rounded once: 214 × 0.1 is 21.4.
func scaled(raw string, scale, offset float64) float64 {
	v, ok := new(big.Rat).SetString(raw)
	s, ok1 := new(big.Rat).SetString(strconv.FormatFloat(scale, 'g', -1, 64))
	o, ok2 := new(big.Rat).SetString(strconv.FormatFloat(offset, 'g', -1, 64))
	if !ok || !ok1 || !ok2 {
		return math.NaN()
	}
	f, _ := v.Mul(v, s).Add(v, o).Float64()
	return f
}

// twelve is v with twelve significant digits, which is what the gateway keeps of code × scale.
func twelve(v float64) float64 {
	f, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 12, 64), 64)
	if err != nil {
		return v
	}
	return f
}

// inexact is how far a right gateway may be from [scaled], which rounds once: nothing where whole numbers are divided by a power
// of ten, and a few units of the last bit where it has to round on its way.
func (c *register) inexact() float64 {
	low, high := c.wave.low, c.wave.high
	whole := c.kind != "float32" && c.kind != "float64"
	if c.kind == "bool" || c.scale == 1 && c.offset == 0 || whole && c.scale == math.Trunc(c.scale) && c.offset == math.Trunc(c.offset) {
		return 0
	}
	if c.wave.kind == "counter" {
		low, high = typeRange(c.kind)
		low, high = low*c.scale+c.offset, high*c.scale+c.offset
	}
	most := max(math.Abs(low), math.Abs(high)) + math.Abs(c.offset)
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(c.scale, 'e', -1, 64), "e")
	_, fraction, _ := strings.Cut(mantissa, ".")
	e, err := strconv.Atoi(exponent)
	digits := len(fraction) - e // behind the point
	if whole && c.offset == 0 && err == nil && digits >= 0 && digits <= 22 && len(fraction) < 15 && most*math.Pow10(digits) <= drivers.MaxExact {
		return 0
	}
	return 4 * most * 0x1p-53
}

// fill puts a unit's registers into its map; served is told of each value when it is asked for.
func (u *slave) fill(m *sim.ModbusMap, start time.Time, now func() time.Time, served func(channel string, v float64, at time.Time)) {
	for i := range u.registers {
		c := &u.registers[i]
		table, err := sim.ParseModbusTable(c.table)
		if err != nil { // the parser has seen to it
			panic("site: " + err.Error())
		}
		value, full := c.wave.value(start), u.sensor.name+"/"+c.name
		m.SetFunc(table, uint16(c.address), c.size, func() []uint16 { // called under the map's lock
			at := now()
			words, v := c.encode(value(at))
			served(full, v, at)
			return words
		})
	}
}

// holes says whether registers lie between the unit's that it does not have.
func (u *slave) holes() bool {
	type span struct{ first, last, n int }
	spans := map[string]span{}
	for _, c := range u.registers {
		s, ok := spans[c.table]
		if !ok {
			s = span{first: c.address, last: c.address}
		}
		s.first, s.last, s.n = min(s.first, c.address), max(s.last, c.address+c.size-1), s.n+c.size
		spans[c.table] = s
	}
	for _, s := range spans {
		if s.last-s.first+1 != s.n {
			return true
		}
	}
	return false
}
