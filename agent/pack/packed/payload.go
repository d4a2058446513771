package packed

import (
	"cmp"
	"math"
	"math/bits"
	"slices"

	"homeward/drivers"
)

// record is one poll of one group.
type record struct {
	group  int
	time   int64 // Unix ms
	values []float64
	marks  []mark // of each channel of the group
	shape  bool   // something is missing or not good: marks count
}

// mark is a reading's quality, or that there is none.
type mark uint8

const missing mark = 255

// model is everything that coding changes.
type model struct {
	schema  *Schema
	slots   []slot
	streams []stream // of the channels, then of the groups
	clocks  []clock
	base    int64          // Unix ms
	refined [2]refinements // of all channels, and of all groups
	over    int            // groups that have ended
}

func newModel(s *Schema) *model {
	m := &model{schema: s, streams: make([]stream, len(s.Channels)+len(s.Groups)), clocks: make([]clock, len(s.Groups))}
	n := 0
	for i := range m.streams {
		n += 1 << m.slotBits(i)
	}
	m.slots = make([]slot, n)
	m.share()
	for i := range m.streams {
		m.streams[i].reset()
	}
	m.refined[0].reset()
	m.refined[1].reset()
	return m
}

func (m *model) slotBits(i int) int {
	if n := len(m.schema.Channels); i >= n {
		return cmp.Or(m.schema.Groups[i-n].Slots, usualSlots)
	}
	return cmp.Or(m.schema.Channels[i].Slots, usualSlots)
}

// share gives each stream its slots.
func (m *model) share() {
	rest := m.slots
	for i := range m.streams {
		n := m.slotBits(i)
		m.streams[i].slots, m.streams[i].shift = rest[:1<<n:1<<n], 32-n
		rest = rest[1<<n:]
		m.streams[i].refined = &m.refined[flag(i >= len(m.schema.Channels))]
	}
}

// prior is what a payload's model begins with. Only the slots that were used are kept.
type prior struct {
	streams []stream
	refined [2]refinements
	used    []uint64 // of each slot a bit
	slots   []slot
}

// prior settles m: what was learnt is kept, where the numbers stood forgotten.
func (m *model) prior() *prior {
	p := &prior{streams: slices.Clone(m.streams), refined: m.refined, used: make([]uint64, (len(m.slots)+63)/64)}
	for i := range p.streams {
		s := &p.streams[i]
		s.history, s.slots, s.refined = history{}, nil, nil
	}
	for i, s := range m.slots {
		if s&255 > 0 {
			p.used[i/64] |= 1 << (i % 64)
			p.slots = append(p.slots, s&^255|min(s&255, countPrior))
		}
	}
	p.slots = slices.Clip(p.slots)
	return p
}

// begin makes m ready for a payload whose times begin at base.
func (m *model) begin(p *prior, base int64) {
	copy(m.streams, p.streams)
	m.share()
	m.refined = p.refined
	for i := range m.slots {
		m.slots[i] = firstGuess << 8
	}
	n := 0
	for i, word := range p.used {
		for ; word != 0; word &= word - 1 {
			m.slots[i*64+bits.TrailingZeros64(word)] = p.slots[n]
			n++
		}
	}
	clear(m.clocks)
	for i := range m.clocks {
		m.clocks[i].expected = base
	}
	m.base, m.over = base, 0
}

func (m *model) group(g int) *stream { return &m.streams[len(m.schema.Channels)+g] }

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
	flagMissing
	flagQuality
	flagRest
	flagFirst
	flagGraded
	flagGaps
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

// ended codes whether group g has no more records in this payload. Where there is only one, nothing need be said.
func (m *model) ended(c *coder, g int, b bool) bool {
	if len(m.clocks) == 1 {
		return false
	}
	s := m.group(0)
	n := uint32(min(m.over, 3))
	c.place[0] = s.place(hashFlag, flagEnded, n)
	c.place[1] = s.place(hashFlag, flagEnded, 4+2*n+uint32(flag(m.clocks[g].seen)))
	if s.bit(c, flag(b), 2, setFlags) == 0 {
		return false
	}
	m.clocks[g].ended = true
	m.over++
	return true
}

// record codes one of group g; decoding fills it.
func (m *model) record(c *coder, r *record) {
	g := &m.schema.Groups[r.group]
	gs := m.group(r.group)
	if c.undo != nil {
		c.undo.stream(gs)
		for _, at := range g.Channels {
			c.undo.stream(&m.streams[at])
		}
	}
	m.time(c, r, g, gs)
	graded := m.shape(c, r, g, gs)
	var a around
	for i, at := range g.Channels {
		if r.marks[i] == missing {
			continue
		}
		ch, cs := &m.schema.Channels[at], &m.streams[at]
		if graded {
			q := 0
			for bit := range 2 {
				q = q<<1 | cs.flag(c, int(r.marks[i])>>(1-bit)&1, flagQuality, uint32(q+bit))
			}
			r.marks[i] = mark(q)
		}
		a.parent, a.step = 0, 0
		if p := ch.Parent - 1; p >= 0 {
			ps := &m.streams[p]
			a.parent, a.step = ps.v1, ps.e1
		}
		m.value(c, &r.values[i], ch, cs, &a)
		a.changed += cs.changes & 1
	}
}

// shape codes which channels are there, and whether their qualities follow.
func (m *model) shape(c *coder, r *record, g *Group, gs *stream) (graded bool) {
	r.shape = gs.flag(c, flag(r.shape), flagShape, gs.flags&3) == 1
	gs.flags = gs.flags<<1 | uint32(flag(r.shape))
	if !r.shape {
		return false
	}
	gaps := 0
	if !c.decoding {
		for _, k := range r.marks {
			gaps |= flag(k == missing)
			graded = graded || k != missing && k != mark(drivers.Good)
		}
	}
	graded = gs.flag(c, flag(graded), flagGraded, 0) == 1
	if gs.flag(c, gaps, flagGaps, uint32(flag(graded))) == 0 {
		return graded
	}
	n, last := uint32(0), uint32(0)
	for i, at := range g.Channels {
		cs := &m.streams[at]
		if n > 0 || i < len(g.Channels)-1 { // else it must be the last
			c.place[0] = gs.place(hashFlag, flagMissing, min(n, 2)<<2|last<<1|cs.missing)
			c.place[1] = gs.place(hashFlag, flagMissing, uint32(16+i<<1)+min(n, 1))
			last = uint32(gs.bit(c, flag(r.marks[i] == missing), 2, setFlags))
		} else {
			last = 1
		}
		cs.missing = last
		n += last
		if last == 1 {
			r.marks[i] = missing
		} else if c.decoding {
			r.marks[i] = mark(drivers.Good)
		}
	}
	return graded
}

func (m *model) time(c *coder, rec *record, g *Group, gs *stream) {
	k := &m.clocks[rec.group]
	at, rest := floorDiv(rec.time, g.Res)
	if !k.seen {
		k.seen = true
		rec.time = m.base + unzigzag(gs.natural(c, zigzag(rec.time-m.base), flagFirst, size(uint64(g.Every*g.Res))))
		k.at, k.rest = floorDiv(rec.time, g.Res)
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
		pull := int64(0)
		switch g.Pull {
		case pullBefore:
			pull = gs.e2
		case pullBack:
			pull = -(k.phase >> 5)
		}
		late, m1 := magnitude(k.phase>>6), magnitude(gs.e1)
		ctx := [contexts]uint32{
			hash(hashLate, late, m1),
			hash(hashTimeValue, uint32(gs.e1), 0),
			hash(hashTimeSteps, m1, magnitude(gs.e2)),
			hash(hashBefore, gs.changes&15, 0),
			hash(hashPhase, late, 0),
			hash(hashTimeStep, m1, 0),
		}
		h := hash(hashByStep, uint32(gs.e1), 0) & guessMask
		guess := [guessers]int64{gs.guesses[0][h] - pull, gs.e2 - pull}
		usual := k.at + g.Every + pull
		r := gs.number(c, at-usual, &ctx, &guess, size(uint64(gs.size))-above)
		gs.size += (int32(min(max(r, -r), 1<<20))*16 - gs.size) * 9 >> 6
		k.at, k.rest = usual+r, rest
		e := min(max(r+pull, -maxIndex), maxIndex)
		if limit := maxTime/g.Res + 1; k.at > limit || k.at < -limit {
			c.bad, k.at = errStream, 0
		}
		gs.guessed[0] = gs.guessed[0]<<1 | uint32(flag(guess[0] == r))
		gs.guessed[1] = gs.guessed[1]<<1 | uint32(flag(guess[1] == r))
		if c.undo != nil {
			c.undo.guess(&gs.guesses[0][h])
		}
		gs.guesses[0][h] = e
		gs.e2, gs.e1 = gs.e1, e
		gs.changes = gs.changes<<1 | uint32(flag(e != 0))
		k.phase += min(max(e, -1<<20), 1<<20) * 16
		k.phase -= k.phase >> 3
		rec.time = k.at*g.Res + k.rest
	}
	if rec.time > maxTime || rec.time < -maxTime {
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
		n = ch.Mean + unzigzag(cs.natural(c, zigzag(n-ch.Mean), flagFirst, ch.Spread))
		if n > maxIndex*2 || n < -maxIndex*2 {
			c.bad, n = errStream, 0
		}
		cs.saw(c, n, 0, a)
	} else {
		usual, other := cs.v1, cs.level>>3
		switch {
		case ch.Linear:
			usual += cs.v1 - cs.v2
		case ch.Level:
			usual, other = (cs.level+8)>>4, cs.v1*2
		case ch.Fixed:
			usual, other = ch.Mean, cs.v1*2
		}
		e := cs.residual(c, n-usual, usual, other, a)
		n = usual + e
		if n > maxIndex*2 || n < -maxIndex*2 {
			c.bad, n = errStream, 0
		}
		cs.saw(c, n, e, a)
	}
	c.place[0] = cs.place(hashOdd, cs.flags&3, 0)
	c.place[1] = cs.place(hashOdd, 4, uint32(n))
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
		x := near + float64(unzigzag(s.natural(c, zigzag(digits-int64(near)), flagDigits, 0)))
		*v = x / pow10[k]
	}
	if c.undo != nil {
		c.undo.remember(m)
	}
	*m = *v
}

// correction codes how far the value is from where its number lies: not 0.
func (s *stream) correction(c *coder, v int64, n uint32) int64 {
	bit := func(b int, node uint32) int {
		c.place[0] = s.place(hashCorrection, node, 0)
		c.place[1] = s.place(hashCorrection, node+256, n)
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
