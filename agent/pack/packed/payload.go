package packed

import (
	"math"

	"homeward/drivers"
)

// record is one poll of one group.
type record struct {
	group   int
	time    int64 // Unix ms
	values  []float64
	shape   bool              // something is missing or not good: present and quality count
	present []bool            // of each channel of the group
	quality []drivers.Quality // of each channel of the group
}

// model is everything that coding changes. A copy of a schema's prior is a fresh start.
type model struct {
	schema   *Schema
	channels []stream
	groups   []stream
	clocks   []clock
	base     int64 // Unix ms
}

// clock is a group's time.
type clock struct {
	seen, ended bool
	at, rest    int64 // the last time: at*Res + rest
	phase       int64 // how far the times have run from the usual one, x16, forgetting
	expected    int64 // Unix ms
}

// maxTime bounds times, Unix ms: JavaScript's numbers are exact so far.
const maxTime = 1 << 52

// Kinds of flags.
const (
	flagEscape = iota
	flagMemory
	flagDecimal
	flagDecimals
	flagDigits
	flagEnded
	flagShape
	flagPresent
	flagQuality
	flagRest
	flagFirst
)

// next is the group that is expected to speak first, of those that have not ended; -1 if all have.
func (m *model) next() int {
	best := -1
	for g := range m.clocks {
		if k := &m.clocks[g]; !k.ended && (best < 0 || k.expected < m.clocks[best].expected) {
			best = g
		}
	}
	return best
}

// ended codes whether group g has no more records in this payload.
func (m *model) ended(c *coder, g int, b bool) bool {
	b = m.groups[g].flag(c, flag(b), flagEnded, uint32(flag(m.clocks[g].seen))) == 1
	m.clocks[g].ended = b
	return b
}

// record codes one of group g; decoding fills it.
func (m *model) record(c *coder, r *record) {
	g := &m.schema.Groups[r.group]
	gs := &m.groups[r.group]
	m.time(c, r, g, gs)
	r.shape = gs.flag(c, flag(r.shape), flagShape, gs.flags&3) == 1
	gs.flags = gs.flags<<1 | uint32(flag(r.shape))
	var a around
	for i, at := range g.Channels {
		if r.shape && !m.shape(c, r, i, &m.channels[at]) {
			continue
		}
		ch, cs := &m.schema.Channels[at], &m.channels[at]
		a.parent, a.step = 0, 0
		if p := ch.Parent - 1; p >= 0 {
			ps := &m.channels[p]
			a.parent, a.step = ps.v1, ps.e1
		}
		m.value(c, &r.values[i], ch, cs, &a)
		a.changed += cs.changes & 1
	}
}

// shape codes whether the channel is there, and its quality.
func (m *model) shape(c *coder, r *record, i int, cs *stream) bool {
	r.present[i] = cs.flag(c, flag(r.present[i]), flagPresent, 0) == 1
	if !r.present[i] {
		return false
	}
	q := 0
	for bit := range 2 {
		q = q<<1 | cs.flag(c, int(r.quality[i])>>(1-bit)&1, flagQuality, uint32(q+bit))
	}
	r.quality[i] = drivers.Quality(q)
	return true
}

func (m *model) time(c *coder, r *record, g *Group, gs *stream) {
	k := &m.clocks[r.group]
	at, rest := floorDiv(r.time, g.Res)
	if !k.seen {
		k.seen = true
		r.time = m.base + unzigzag(gs.natural(c, zigzag(r.time-m.base), flagFirst))
		k.at, k.rest = floorDiv(r.time, g.Res)
	} else {
		if g.Res > 1 {
			if gs.flag(c, flag(rest != k.rest), flagRest, 0) == 1 {
				rest = int64(c.raw(uint64(rest), size(uint64(g.Res-1))))
			} else {
				rest = k.rest
			}
		} else {
			rest = 0
		}
		usual := k.at + g.Every
		ctx := [contexts]uint32{
			hash(hashPhase, magnitude(k.phase>>6), 0),
			hash(hashTimeStep, magnitude(gs.e1), 0),
			hash(hashTimeSteps, magnitude(gs.e1), magnitude(gs.e2)),
			hash(hashTimeValue, uint32(gs.e1), 0),
			hash(hashLate, magnitude(k.phase>>6), magnitude(gs.e1)),
			hash(hashBefore, gs.changes&15, 0),
		}
		h := hash(hashByStep, uint32(gs.e1), 0) & guessMask
		guess := [guessers]int64{gs.guesses[0][h], gs.e2}
		e := gs.number(c, at-usual, &ctx, &guess, unbounded)
		k.at, k.rest = usual+e, rest
		if limit := maxTime/g.Res + 1; k.at > limit || k.at < -limit {
			c.bad, k.at = errStream, 0
		}
		gs.guessed[0] = gs.guessed[0]<<1 | uint32(flag(guess[0] == e))
		gs.guessed[1] = gs.guessed[1]<<1 | uint32(flag(guess[1] == e))
		gs.guesses[0][h] = e
		gs.e2, gs.e1 = gs.e1, e
		gs.changes = gs.changes<<1 | uint32(flag(e != 0))
		k.phase += min(max(e, -1<<20), 1<<20) * 16
		k.phase -= k.phase >> 3
		r.time = k.at*g.Res + k.rest
	}
	if r.time > maxTime || r.time < -maxTime {
		c.bad = errStream
	}
	k.expected = (k.at+g.Every)*g.Res + k.rest
}

func (m *model) value(c *coder, v *float64, ch *Channel, cs *stream, a *around) {
	var n, corr int64
	ok := true
	if !c.decoding {
		n, corr, ok = ch.index(*v)
	}
	if cs.n == 0 {
		n = ch.Mean + unzigzag(cs.natural(c, zigzag(n-ch.Mean), flagFirst))
		if n > maxIndex*2 || n < -maxIndex*2 {
			c.bad, n = errStream, 0
		}
		cs.saw(n, 0, a)
	} else {
		usual := cs.v1
		if ch.Linear {
			usual += cs.v1 - cs.v2
		}
		e := cs.residual(c, n-usual, usual, a)
		n = usual + e
		if n > maxIndex*2 || n < -maxIndex*2 {
			c.bad, n = errStream, 0
		}
		cs.saw(n, e, a)
	}
	cs.at[0] = place(hashOdd, cs.flags&3, 0)
	cs.at[1] = place(hashOdd, 4, uint32(n))
	odd := cs.bit(c, flag(!ok || corr != 0), 2, setOdd)
	cs.flags = cs.flags<<1 | uint32(odd)
	switch {
	case odd == 0:
		corr = 0
	case cs.flag(c, flag(!ok), flagEscape, 0) == 1:
		cs.escape(c, v, ch, n)
		return
	default:
		corr = cs.correction(c, corr, uint32(n))
	}
	if c.decoding {
		*v = ch.value(n, corr)
		if math.IsNaN(*v) || math.IsInf(*v, 0) {
			c.bad, *v = errStream, 0
		}
	}
}

const maxDigits = 1 << 50

// escape codes a value that does not lie on the channel's lattice; n is near it.
func (s *stream) escape(c *coder, v *float64, ch *Channel, n int64) {
	m := &s.memory[hash(hashByLast, uint32(n), 0)&memoryMask]
	if s.flag(c, flag(math.Float64bits(*m) == math.Float64bits(*v)), flagMemory, s.flags>>1&3) == 1 {
		*v = *m
		return
	}
	places, digits := -1, int64(0)
	if !c.decoding {
		for k := range pow10 {
			x := math.Round(*v * pow10[k])
			if (x != 0 || !math.Signbit(x)) && math.Abs(x) < maxDigits && math.Float64bits(x/pow10[k]) == math.Float64bits(*v) {
				places, digits = k, int64(x)
				break
			}
		}
	}
	if s.flag(c, flag(places >= 0), flagDecimal, 0) == 0 {
		*v = math.Float64frombits(c.raw(math.Float64bits(*v), 64))
		if math.IsNaN(*v) || math.IsInf(*v, 0) {
			c.bad, *v = errStream, 0
		}
	} else {
		k := 0
		for k < 15 && s.flag(c, flag(places > k), flagDecimals, uint32(k)) == 1 {
			k++
		}
		near := math.Floor(float64(ch.value(n, 0)*pow10[k]) + 0.5) // float64: not fused
		if !(math.Abs(near) < maxDigits) {
			near = 0
		}
		x := near + float64(unzigzag(s.natural(c, zigzag(digits-int64(near)), flagDigits)))
		*v = x / pow10[k]
	}
	*m = *v
}

// correction codes how far the value is from where its number lies: not 0.
func (s *stream) correction(c *coder, v int64, n uint32) int64 {
	bit := func(b int, node uint32) int {
		s.at[0] = place(hashCorrection, node, 0)
		s.at[1] = place(hashCorrection, node+256, n)
		return s.bit(c, b, 2, setFlags)
	}
	sign := bit(flag(v < 0), 1)
	m := int64(1)
	for m < maxCorrection && bit(flag(max(v, -v) > m), uint32(1+min(m, 30))) == 1 {
		m++
	}
	if sign == 1 {
		return -m
	}
	return m
}
