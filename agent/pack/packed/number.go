package packed

// Sets of weights: one for each kind of decision.
const (
	setZero = iota
	setSign
	setLength                  // of the first two bits, and of the rest
	setDigits  = setLength + 3 // of the first bit, and of the rest
	setFlags   = setDigits + 2
	setOdd     = setFlags + 1
	weightSets = setOdd + 1
)

// maxBits is what a number may have, so that JavaScript's are exact.
const maxBits = 52

const (
	contexts    = 8
	guessers    = 2
	guessMask   = 255
	memoryMask  = 63
	modelledLow = 8 // bits below the leading one that are modelled; the rest is noise
)

// history is what a stream has seen of its own numbers.
type history struct {
	n       int    // 0 or 1
	v1, v2  int64  // the last, and the one before
	e1, e2  int64  // the last steps
	changes uint32 // of the last steps: 1 where it was not 0
	size    int32  // of the steps, x16, lately
	level   int64  // of the numbers, x16, lately
	flags   uint32 // of the last escapes
	guesses [guessers][guessMask + 1]int64
	guessed [guessers]uint32 // of the last guesses: 1 where it was right
	memory  [memoryMask + 1]float64
}

// around is what the other numbers of the record say.
type around struct {
	parent  int64  // the parent's number in this record
	step    int64  // and its step
	changed uint32 // numbers before this one in the record whose step was not 0
}

func hash(a, b, c uint32) uint32 {
	h := a*0x9E3779B1 ^ b*0x85EBCA6B ^ c*0xC2B2AE35
	h ^= h >> 15
	h *= 0x2C1B3C6D
	return h ^ h>>13
}

// place is a context's slot.
func place(a, b, c uint32) uint16 { return uint16(hash(a, b, c) >> (32 - slotBits)) }

// magnitude is the sign and the size of a step: 0, then 2 (1) and 3 (-1), 4 (2 and 3) and 5, 6 (4 to 7) …
func magnitude(e int64) uint32 {
	if e < 0 {
		return uint32(size(uint64(-e)))<<1 | 1
	}
	return uint32(size(uint64(e))) << 1
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Hashes of contexts begin with a number of their own.
const (
	hashNode = iota + 1
	hashChanges
	hashLast
	hashParent
	hashSize
	hashBoth
	hashLevel
	hashByParent
	hashByLast
	hashGuess
	hashDigits
	hashFlag
	hashLate
	hashPhase
	hashTimeStep
	hashTimeSteps
	hashTimeValue
	hashBefore
	hashByStep
	hashCorrection
	hashBeside
	hashOdd
)

// residual codes e, the step from what was expected; expected is that number itself.
func (s *stream) residual(c *coder, e, expected int64, a *around) int64 {
	am := uint32(size(uint64(s.size)))
	ctx := [contexts]uint32{
		hash(hashChanges, s.changes&15, min(a.changed, 3)),
		hash(hashLast, uint32(s.v1), 0),
		hash(hashParent, min(magnitude(a.step), 15), min(a.changed, 3)),
		hash(hashSize, am, magnitude(s.e1)),
		hash(hashBoth, uint32(s.v1), uint32(a.parent)),
		hash(hashLevel, magnitude(s.level>>3-expected*2), 0),
		hash(hashBeside, magnitude(s.e1), magnitude(a.step)),
	}
	guess := [guessers]int64{
		s.guesses[0][hash(hashByParent, uint32(a.parent), 0)&guessMask] - expected,
		s.guesses[1][hash(hashByLast, uint32(s.v1), uint32(s.v2))&guessMask] - expected,
	}
	return s.number(c, e, &ctx, &guess, unbounded)
}

// saw adds a number to the history; e is its step from what was expected.
func (s *stream) saw(v, e int64, a *around) {
	if s.n == 0 {
		s.n, s.v1, s.v2, s.level = 1, v, v, v*16
	}
	for i, h := range [guessers]uint32{hash(hashByParent, uint32(a.parent), 0), hash(hashByLast, uint32(s.v1), uint32(s.v2))} {
		g := &s.guesses[i][h&guessMask]
		s.guessed[i] = s.guessed[i]<<1 | uint32(flag(*g == v))
		*g = v
	}
	s.level += (v*16 - s.level) * 5 >> 5
	s.v2, s.v1 = s.v1, v
	s.e2, s.e1 = s.e1, e
	s.changes = s.changes<<1 | uint32(flag(e != 0))
	s.size += (int32(min(max(e, -e), 1<<20))*16 - s.size) * 9 >> 6
}

const unbounded = -1 << 62

// number codes e, at least least, in the contexts ctx; guess says what it may be.
func (s *stream) number(c *coder, e int64, ctx *[contexts]uint32, guess *[guessers]int64, least int64) int64 {
	on := [guessers]bool{true, true}
	// decide codes one bit of the number; want is what the guesses say.
	decide := func(b, set int, node uint32, want [guessers]int) int {
		for i := range contexts {
			s.at[i] = place(ctx[i], node, hashNode)
		}
		for i := range guessers {
			h := uint32(0)
			if on[i] {
				h = uint32(1+want[i])<<3 | s.guessed[i]&7
			}
			s.at[contexts+i] = place(hashGuess+uint32(i)<<8, min(node, 40), h)
		}
		b = s.bit(c, b, contexts+guessers, set)
		for i := range guessers {
			on[i] = on[i] && want[i] == b
		}
		return b
	}
	of := func(f func(g int64) bool) (w [guessers]int) {
		for i := range guessers {
			w[i] = flag(f(guess[i]))
		}
		return w
	}

	if least <= 0 && decide(flag(e != 0), setZero, 0, of(func(g int64) bool { return g != 0 })) == 0 {
		return 0
	}
	sign := 0
	if least < 0 {
		sign = decide(flag(e < 0), setSign, 1, of(func(g int64) bool { return g < 0 }))
	}
	bound := uint64(max(least, 0)) // what is not smaller than e, or
	if sign == 1 {
		bound = uint64(-least) // what -e is not greater than
	}
	v := uint64(max(e, -e))
	n := 1
	for ; n < maxBits; n++ {
		if sign == 0 && size(bound) > n {
			continue
		}
		if sign == 1 && size(bound) == n || decide(flag(size(v) > n), min(setLength+n-1, setLength+2), uint32(1+n),
			of(func(g int64) bool { return size(uint64(max(g, -g))) > n })) == 0 {
			break
		}
	}
	tight := size(bound) == n // the bits so far are the bound's
	out := uint64(1)
	for i := n - 2; i >= 0; i-- {
		if n-2-i >= modelledLow {
			out = out<<(i+1) | c.raw(v&(1<<(i+1)-1), i+1)
			break
		}
		limit := int(bound >> i & 1)
		b := 1 - sign
		if !tight || limit == sign {
			b = decide(int(v>>i&1), min(setDigits+n-2-i, setDigits+1), hash(hashDigits, uint32(n)<<1|uint32(sign), uint32(out)),
				of(func(g int64) bool { return uint64(max(g, -g))>>i&1 == 1 }))
		}
		tight = tight && b == limit
		out = out<<1 | uint64(b)
	}
	if sign == 1 {
		return -int64(out)
	}
	return int64(out)
}

// flag codes one bit in the context ctx; kind tells one use from another.
func (s *stream) flag(c *coder, b int, kind, ctx uint32) int {
	s.at[0] = place(hashFlag, kind, 0)
	s.at[1] = place(hashFlag, kind, 1+ctx)
	return s.bit(c, b, 2, setFlags)
}

// natural codes v with its length modelled.
func (s *stream) natural(c *coder, v uint64, kind uint32) uint64 {
	n := 0
	for n < maxBits && s.flag(c, flag(size(v) > n), kind, uint32(n)) == 1 {
		n++
	}
	if n < 2 {
		return uint64(n)
	}
	return 1<<(n-1) | c.raw(v&(1<<(n-1)-1), n-1)
}
