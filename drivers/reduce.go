package drivers

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Grid is the whole multiples of a resolution. The zero Grid leaves every value as it is.
type Grid struct {
	resolution float64
	step       Step // the same as a decimal; Times 0: it has more than 15 places
}

// maxMultiple bounds the multiples: beyond, doubles no longer tell neighbours apart for certain.
const maxMultiple = 1 << 44

// NewGrid is the multiples of a resolution above 0; of any other number the zero Grid.
func NewGrid(resolution float64) Grid {
	if !(resolution > 0) || math.IsInf(resolution, 0) {
		return Grid{}
	}
	return Grid{resolution, decimal(resolution)}
}

// decimal is a number as its shortest decimal says it: 0.0625 is 625/10^4.
func decimal(v float64) Step {
	digits, power, _ := strings.Cut(strconv.FormatFloat(v, 'e', -1, 64), "e")
	whole, part, _ := strings.Cut(digits, ".")
	times, err := strconv.ParseFloat(whole+part, 64)
	exponent, perr := strconv.Atoi(power)
	places := len(part) - exponent
	if places < 0 {
		times, places = times*math.Pow10(-places), 0
	}
	if err != nil || perr != nil || places > 15 || times > MaxExact {
		return Step{}
	}
	return Step{Times: times, Places: places}
}

// Resolution is that of which g holds the multiples; 0 for the zero Grid.
func (g Grid) Resolution() float64 { return g.resolution }

// Step is the same in whole numbers; Times is 0 where it has more than 15 decimal places.
func (g Grid) Step() Step { return g.step }

// Round is the multiple that is nearest to v; halves, as far as doubles tell them, go away from 0. It is the double nearest to that decimal: with a resolution of 0.1 it is
// 21.3, never 21.300000000000001. A value of more than 2^44 multiples stays as it is.
func (g Grid) Round(v float64) float64 {
	if g.resolution == 0 {
		return v
	}
	n, w := math.Round(v/g.resolution), 0.0
	if g.step.Times != 0 {
		power := math.Pow10(g.step.Places)
		n = math.Round(v * power / g.step.Times)
		w = n * g.step.Times / power
	} else {
		w = n * g.resolution
	}
	switch {
	case !(math.Abs(n) <= maxMultiple) || math.Abs(w) > MaxExact:
		return v
	case n == 0:
		return 0 // never -0
	}
	return w
}

// Holds says that all values of a step are multiples of the resolution, so that rounding them changes nothing.
func (g Grid) Holds(s Step) bool {
	switch {
	case g.resolution == 0:
		return true
	case s.Times == 0 || g.step.Times == 0:
		return false
	}
	scaled := func(times float64, places int) *big.Int {
		n := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(places)), nil)
		return n.Mul(n, big.NewInt(int64(times)))
	}
	return new(big.Int).Rem(scaled(s.Times, g.step.Places), scaled(g.step.Times, s.Places)).Sign() == 0
}

// Reducer says what of a channel's readings is recorded: the value rounded to its resolution, unless dead-band or on_change
// leave it out. They compare with the last value recorded, never with the last one seen, so that a slow drift shows.
type Reducer struct {
	Grid
	deadband *float64
	onChange bool

	last     float64
	quality  Quality
	recorded bool
}

// NewReducer is that of a channel, nothing recorded yet.
func NewReducer(c *Channel) Reducer {
	r := Reducer{deadband: c.Deadband, onChange: c.OnChange != nil && *c.OnChange}
	if c.Resolution != nil {
		r.Grid = NewGrid(*c.Resolution)
	}
	return r
}

// Dull says that a reading, its value rounded, need not be recorded.
func (r *Reducer) Dull(x Reading) bool {
	if !r.recorded || x.Quality != r.quality {
		return false
	}
	// 21.4 is no closer to 21.3 than 0.1, though the doubles are.
	const ulp = 1.0 / (1 << 52)
	d := math.Abs(x.Value - r.last)
	return r.deadband != nil && d+ulp*(math.Abs(x.Value)+math.Abs(r.last)) < *r.deadband || r.onChange && d == 0
}

// Record notes that a reading is recorded.
func (r *Reducer) Record(x Reading) { r.last, r.quality, r.recorded = x.Value, x.Quality, true }

// Forget makes the next reading count as the first.
func (r *Reducer) Forget() { r.recorded = false }
