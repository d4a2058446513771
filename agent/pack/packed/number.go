package packed

// Sets of weights: one for each kind of decision.
const (
	setZero = iota
	setSign
	setLength                  // of the first question, of those upwards, of those downwards
	setDigits  = setLength + 3 // of the first bit, and of the rest
	setFlags   = setDigits + 2
	setOdd     = setFlags + 1
	weightSets = setOdd + 1
)

// maxBits is what a number may have, so that JavaScript's are exact.
const maxBits = 52

const (
	contexts    = 6
	guessers    = 2
	guessMask   = 63
	memoryMask  = 15
	modelledLow = 8 // bits below the leading one that are modelled at least; the rest is noise, unless a guess is right
	above       = 5 // a number has about as many bits as its size x16 less these
)

// history is what a stream has seen of its own numbers.
type history struct {
	n       int              // 0 or 1
	v1, v2  int64            // the last, and the one before
	e1, e2  int64            // the last steps
	changes uint32           // of the last steps: 1 where it was not 0
	size    int32            // of the steps, x16, lately
	level   int64            // of the numbers, x16, lately
	flags   uint32           // of the last escapes
	missing uint32           // in the last record of which something was missing
	guessed [guessers]uint32 // of the last guesses: 1 where it was right
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
func (s *stream) place(a, b, c uint32) uint32 { return hash(a, b, c) >> s.shift }

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
	hashChanges = iota + 2
	hashLast
	hashParent
	hashSize
	_
	hashLevel
	hashByParent
	hashByLast
	_
	_
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

// residual codes e, the step from what was expected; expected is that number itself, other twice another that it may be.
func (s *stream) residual(c *coder, e, expected, other int64, a *around) int64 {
	am := uint32(size(uint64(s.size)))
	m1, ms, ch := magnitude(s.e1), magnitude(a.step), min(a.changed, 3)
	ctx := [contexts]uint32{
		hash(hashParent, min(ms, 15), ch),
		hash(hashLast, uint32(s.v1), 0),
		hash(hashBeside, m1, ms),
		hash(hashChanges, s.changes&15, ch),
		hash(hashLevel, magnitude(other-expected*2), 0),
		hash(hashSize, am, m1),
	}
	guess := [guessers]int64{
		s.guesses[0][hash(hashByParent, uint32(a.parent), 0)&guessMask] - expected,
		s.guesses[1][hash(hashByLast, uint32(s.v1), uint32(s.v2))&guessMask] - expected,
	}
	return s.number(c, e, &ctx, &guess, int(am)-above)
}

// saw adds a number to the history; e is its step from what was expected.
func (s *stream) saw(c *coder, v, e int64, a *around) {
	if s.n == 0 {
		s.n, s.v1, s.v2, s.level = 1, v, v, v*16
	}
	for i, h := range [guessers]uint32{hash(hashByParent, uint32(a.parent), 0), hash(hashByLast, uint32(s.v1), uint32(s.v2))} {
		g := &s.guesses[i][h&guessMask]
		if c.undo != nil {
			c.undo.guess(g)
		}
		s.guessed[i] = s.guessed[i]<<1 | uint32(flag(*g == v))
		*g = v
	}
	s.level += (v*16 - s.level) * 5 >> 5
	s.v2, s.v1 = s.v1, v
	s.e2, s.e1 = s.e1, e
	s.changes = s.changes<<1 | uint32(flag(e != 0))
	s.size += (int32(min(max(e, -e), 1<<20))*16 - s.size) * 9 >> 6
}

// What makes one place of a context, a bit of a number and what is known of it.
const (
	keyNode    = 0x9E3779B1
	keyOut     = 0x85EBCA6B
	keyGuess   = 0xC2B2AE35
	spread     = 0x2C1B3C6D
	guess0Salt = 10 << 24
	guess1Salt = 20 << 24
)

// Nodes: which bit of a number.
const (
	nodeZero = iota
	nodeSign
	nodeDigit // of the guesses
	nodeFirst = 64
	nodeUp    = 128
	nodeDown  = 192
	nodeOut   = 256
)

// number codes e in the contexts ctx; guess says what it may be, usual how many bits it may have.
func (s *stream) number(c *coder, e int64, ctx *[contexts]uint32, guess *[guessers]int64, usual int) int64 {
	shift := s.shift
	on0, on1 := true, true
	g0, g1 := uint64(max(guess[0], -guess[0])), uint64(max(guess[1], -guess[1]))
	h0, h1 := s.guessed[0]&7<<2, s.guessed[1]&7<<2
	// A guess is a context of its own: which bit it wants, if it has been right so far.
	guessed0 := func(node uint32, want bool) uint32 {
		k := uint32(0)
		if on0 {
			k = h0 + 1 + uint32(flag(want))
		}
		return (k*keyGuess + node*keyNode + guess0Salt) * spread >> shift
	}
	guessed1 := func(node uint32, want bool) uint32 {
		k := uint32(0)
		if on1 {
			k = h1 + 1 + uint32(flag(want))
		}
		return (k*keyGuess + node*keyNode + guess1Salt) * spread >> shift
	}

	for i := range 5 {
		c.place[i] = ctx[i] * spread >> shift
	}
	want0, want1 := g0 != 0, g1 != 0
	c.place[5] = guessed0(nodeZero, want0)
	b := s.bit(c, flag(e != 0), 6, setZero)
	if b == 0 {
		return 0
	}
	on0, on1 = want0, want1

	for i := range 5 {
		c.place[i] = (ctx[i] + keyNode) * spread >> shift
	}
	want0, want1 = guess[0] < 0, guess[1] < 0
	c.place[5] = guessed1(nodeSign, want1)
	sign := s.bit(c, flag(e < 0), 6, setSign)
	on0, on1 = on0 && want0 == (sign == 1), on1 && want1 == (sign == 1)

	v := uint64(max(e, -e))
	l, l0, l1 := size(v), size(g0), size(g1)
	longer := func(set, n int, node uint32) bool {
		key := node * keyNode
		c.place[0] = (ctx[0] + key) * spread >> shift
		c.place[1] = (ctx[1] + key) * spread >> shift
		c.place[2] = (ctx[2] + key) * spread >> shift
		c.place[3] = (ctx[5] + key) * spread >> shift
		c.place[4] = key * spread >> shift
		c.place[5] = guessed0(node, l0 > n)
		b := s.bit(c, flag(l > n), 6, set) == 1
		on0, on1 = on0 && b == (l0 > n), on1 && b == (l1 > n)
		return b
	}
	n := max(usual, 1)
	if longer(setLength, n, uint32(nodeFirst+n)) {
		for n++; n < maxBits && longer(setLength+1, n, uint32(nodeUp+n)); n++ {
		}
	} else {
		for n > 1 && !longer(setLength+2, n-1, uint32(nodeDown+n)) {
			n--
		}
	}
	out := uint64(1)
	for i := n - 2; i >= 0; i-- {
		d := n - 2 - i
		if d >= modelledLow && !on0 && !on1 {
			return signed(out<<(i+1)|c.raw(v&(1<<(i+1)-1), i+1), sign)
		}
		want0, want1 := g0>>i&1, g1>>i&1
		c.place[0] = (uint32(out)*keyOut + uint32(nodeOut+n<<1|sign)*keyNode) * spread >> shift
		c.place[1] = guessed0(nodeDigit, want0 == 1)
		c.place[2] = guessed1(nodeDigit, want1 == 1)
		b := uint64(s.bit(c, int(v>>i&1), 3, min(setDigits+d, setDigits+1)))
		on0, on1 = on0 && b == want0, on1 && b == want1
		out = out<<1 | b
	}
	return signed(out, sign)
}

func signed(v uint64, sign int) int64 {
	if sign == 1 {
		return -int64(v)
	}
	return int64(v)
}

// flag codes one bit in the context ctx; kind tells one use from another.
func (s *stream) flag(c *coder, b int, kind, ctx uint32) int {
	c.place[0] = s.place(hashFlag, kind, 0)
	c.place[1] = s.place(hashFlag, kind, 1+ctx)
	return s.bit(c, b, 2, setFlags)
}

// natural codes v with its length modelled; usual is about how many bits it has.
func (s *stream) natural(c *coder, v uint64, kind uint32, usual int) uint64 {
	n := usual
	if s.flag(c, flag(size(v) > n), kind, 0) == 1 {
		for n++; n < maxBits && s.flag(c, flag(size(v) > n), kind, uint32(n-usual)) == 1; n++ {
		}
	} else {
		for n > 0 && s.flag(c, flag(size(v) > n-1), kind, uint32(64+usual-n)) == 0 {
			n--
		}
	}
	if n < 2 {
		return uint64(n)
	}
	return 1<<(n-1) | c.raw(v&(1<<(n-1)-1), n-1)
}
