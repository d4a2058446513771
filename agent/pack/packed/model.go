package packed

// Integers only, every shift rounds down, nothing passes 2^53: the same in Go and in JavaScript.

// squashTable is 65536/(1+e^-x) at x = -8, -7.5 … 8, within what the coder takes.
var squashTable = [33]int32{22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793, 47911, 53581, 57724,
	60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514}

var (
	squashes    [4096]uint16 // of x+2048, x in 1/256
	stretches   [4096]int16  // of p>>4: the least x whose squash reaches p
	rates       [256]int32   // of a slot's count: 32768/(count+1.6)
	confidences [256]int32   // of a slot's count
)

func init() {
	for i := range squashes {
		x := int32(i)
		squashes[i] = uint16(squashTable[x>>7] + ((squashTable[x>>7+1]-squashTable[x>>7])*(x&127))>>7)
	}
	x := 0
	for i := range stretches {
		for x < 4095 && int(squashes[x]) < i<<4+8 {
			x++
		}
		stretches[i] = int16(x - 2048)
	}
	for n := range int32(256) {
		rates[n] = 327680 / (10*n + 16)
		confidences[n] = 256 * (10*n + 3) / (10*n + 16)
	}
}

// slot is what was seen in one context: p<<8 | n: how likely a 1 is (p of 65536), after n bits.
type slot uint32

const (
	maxInputs  = 6
	countLimit = 120 // a slot keeps adapting
	countPrior = 18  // what was learnt before the payload is believed only so far
)

// refinements say what came of what the mixer said, by kind of decision.
type refinements [setFlags + 3][33]uint16

// stream is the model of one sequence of numbers.
type stream struct {
	slots   []slot // 2^(32-shift)
	shift   int
	weights [weightSets][maxInputs]int32
	refined *refinements
	history
	guesses [guessers][guessMask + 1]int64
	memory  [memoryMask + 1]float64
}

// bit codes one bit from n contexts, each a place in slots, with one of the sets of weights.
func (s *stream) bit(c *coder, b, n, set int) int {
	at, st, w := c.place[:n], c.stretch[:n], s.weights[set][:n]
	slots := s.slots
	dot := int64(0)
	for i, a := range at {
		sl := slots[a]
		x := int32(stretches[sl>>12]) * confidences[sl&255] >> 8
		st[i] = x
		dot += int64(w[i]) * int64(x)
	}
	x := int32(min(max(dot>>16, -2048), 2047) + 2048)
	p := int32(squashes[x])
	var near *uint16
	if set < setFlags {
		kind := set
		if set == setZero && s.changes&3 != 0 {
			kind = setFlags - 1 + int(s.changes&3)
		}
		cell, part := s.refined[kind][x>>7:x>>7+2], x&127
		final := (p + 3*((int32(cell[0])*(128-part)+int32(cell[1])*part)>>7)) >> 2
		b = c.bit(b, int(min(max(final, 22), 65514)))
		near = &cell[part>>6]
	} else {
		b = c.bit(b, int(p))
	}
	if c.undo != nil {
		c.undo.decision(s, at, w, set, near)
	}
	t := target(b)
	if near != nil {
		*near = uint16(int32(*near) + (t-int32(*near))>>refineRate)
	}
	err := (t - p) * learn
	for i, a := range at {
		w[i] += err * st[i] >> 16
		sl := &slots[a]
		q, n := int32(*sl>>8), *sl&255
		q += (t - q) * rates[n] >> 15
		if n < countLimit {
			n++
		}
		*sl = slot(q)<<8 | n
	}
	return b
}

// target is the probability that a bit has shown to be right.
func target(b int) int32 { return int32(-b & 65535) }

// What a stream begins with.
const (
	firstGuess  = 45000  // of a context never seen: a 1 is likelier
	firstWeight = 100000 // of all contexts together
	learn       = 5      // how fast weights follow
	refineRate  = 6      // and refinements
)

func (s *stream) reset() {
	for i := range s.slots {
		s.slots[i] = firstGuess << 8
	}
	for i := range s.weights {
		n := 6
		if i >= setFlags {
			n = 2
		} else if i >= setDigits {
			n = 3
		}
		for j := range s.weights[i] {
			s.weights[i][j] = firstWeight / int32(n)
		}
	}
}

func (r *refinements) reset() {
	for i := range r {
		for j := range r[i] {
			r[i][j] = uint16(squashTable[j])
		}
	}
}
