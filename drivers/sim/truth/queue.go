package truth

import (
	"cmp"
	"math"
	"slices"
)

// Window is how long before (negative) and after a reading's time its value may have been served, in ms.
type Window struct{ From, To int64 }

// The gateway takes a reading's time before it asks: so the value is served after that, but for the rounding to
// milliseconds and a clock that is being corrected, and within what a poll takes on a busy machine. Of an instrument
// that talks by itself it takes the time when all has been said: the value was served before.
var (
	Asked = Window{-100, 5000}
	Talks = Window{-5000, 100}
)

// Value is what an instrument gave, and when.
type Value struct {
	V  float64
	MS int64 // Unix ms
}

// Queue is what was served on one channel, in the order of time, of which each value can be taken once. The zero Queue is empty.
type Queue struct {
	Tolerance float64

	values []Value
	next   int // all before were taken, or were passed over
	loose  int // the same for [Queue.TakeAny]
	taken  []bool
}

// Add notes a value on its way to the gateway.
func (q *Queue) Add(v Value) { q.values = append(q.values, v) }

// Sort puts what was added out of order in order. Nothing may have been taken yet.
func (q *Queue) Sort() {
	slices.SortStableFunc(q.values, func(a, b Value) int { return cmp.Compare(a.MS, b.MS) })
}

// Len is how many values were neither taken nor passed over.
func (q *Queue) Len() int { return len(q.values) - q.next }

// near says whether a reading of v can be of x: to the last bit, but for the tolerance that the truth file states.
func (q *Queue) near(x Value, v float64) bool {
	return x.V == v || q.Tolerance > 0 && math.Abs(x.V-v) <= q.Tolerance
}

// from is the index of the first value not served before ms.
func (q *Queue) from(ms int64) int {
	i, _ := slices.BinarySearchFunc(q.values, ms, func(x Value, ms int64) int { return cmp.Compare(x.MS, ms) })
	return i
}

// Take takes the first value that a reading of v at ms can be of. Those before it are passed over: readings come in the
// order of their time, and of windows of one length the first fit leaves the others theirs.
func (q *Queue) Take(v float64, ms int64, w Window) bool {
	for i := max(q.next, q.from(ms+w.From)); i < len(q.values) && q.values[i].MS <= ms+w.To; i++ {
		if q.near(q.values[i], v) {
			q.take(i)
			return true
		}
	}
	return false
}

// Sought is a reading for which [Queue.Match] looks.
type Sought struct {
	V      float64
	Times  []int64 // when it may have been taken
	Window Window
}

// Match gives each reading a value that it can be of and that no other has, the one nearest in time first; where that
// leaves a reading without, others take another one that they can be of. It returns the index of the value, or -1.
func (q *Queue) Match(all []Sought) (got []int) {
	type pair struct {
		r, i int
		far  int64
	}
	var pairs []pair
	fits := make([][]int, len(all))
	for r, s := range all {
		for _, ms := range s.Times {
			q.around(ms, s.Window, func(i int) bool {
				if q.near(q.values[i], s.V) && !q.isTaken(i) && !slices.Contains(fits[r], i) {
					fits[r] = append(fits[r], i)
					pairs = append(pairs, pair{r, i, max(q.values[i].MS-ms, ms-q.values[i].MS)})
				}
				return len(fits[r]) < maxFits
			})
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(a.far, b.far) })
	owner := map[int]int{} // of values
	got = slices.Repeat([]int{-1}, len(all))
	for _, p := range pairs {
		if _, has := owner[p.i]; !has && got[p.r] < 0 {
			owner[p.i], got[p.r] = p.r, p.i
		}
	}
	var steps int
	var seek func(r int) bool
	seek = func(r int) bool { // an augmenting path
		for _, i := range fits[r] {
			if steps++; steps > maxSteps {
				return false
			}
			if other, has := owner[i]; !has || other != r && got[other] == i && func() bool {
				got[other] = -1 // for the way on
				if seek(other) {
					return true
				}
				got[other] = i
				return false
			}() {
				owner[i], got[r] = r, i
				return true
			}
		}
		return false
	}
	for r := range all {
		if steps = 0; got[r] < 0 {
			seek(r)
		}
	}
	for _, i := range got {
		if i >= 0 {
			q.take(i)
		}
	}
	return got
}

// The bounds of [Queue.Match].
const (
	maxFits  = 64   // values that a reading can be of
	maxLooks = 1000 // values that are looked at for a reading
	maxSteps = 1000 // on the way to another distribution
)

// around calls f with the values in the window, the nearest to ms first, until f says no.
func (q *Queue) around(ms int64, w Window, f func(i int) bool) {
	after := q.from(ms)
	before := after - 1
	for range maxLooks {
		a := after < len(q.values) && q.values[after].MS <= ms+w.To
		b := before >= 0 && q.values[before].MS >= ms+w.From
		i := after
		switch {
		case !a && !b:
			return
		case b && (!a || ms-q.values[before].MS < q.values[after].MS-ms):
			i, before = before, before-1
		default:
			after++
		}
		if q.values[i].MS < ms+w.From || q.values[i].MS > ms+w.To {
			continue
		}
		if !f(i) {
			return
		}
	}
}

func (q *Queue) isTaken(i int) bool { return i < len(q.taken) && q.taken[i] }

// TakeAny takes the first value that a reading of v can be of, whatever its time, and says when it was served; calls
// are in the order of what was served, too.
func (q *Queue) TakeAny(v float64) (x Value, ok bool) {
	return q.takeAny(v, func(int64) bool { return true })
}

// takeAny is the same among the values served at a time that when allows.
func (q *Queue) takeAny(v float64, when func(ms int64) bool) (x Value, ok bool) {
	for i := q.loose; i < len(q.values); i++ {
		if q.near(q.values[i], v) && !q.isTaken(i) && when(q.values[i].MS) {
			x = q.values[i]
			q.take(i)
			q.loose = i + 1
			return x, true
		}
	}
	return Value{}, false
}

func (q *Queue) take(i int) {
	if len(q.taken) < len(q.values) {
		q.taken = append(q.taken, make([]bool, len(q.values)-len(q.taken))...)
	}
	q.taken[i] = true
	q.next = max(q.next, i+1)
}

// Forget gives up the memory of what was taken and passed over.
func (q *Queue) Forget() {
	q.values, q.taken, q.next, q.loose = q.values[q.next:], nil, 0, 0
}

// nearest is when the nearest value that a reading of v at ms can be of was served.
func (q *Queue) nearest(v float64, ms int64, w Window) (at int64, ok bool) {
	q.around(ms, w, func(i int) bool {
		if q.near(q.values[i], v) {
			at, ok = q.values[i].MS, true
		}
		return !ok
	})
	return at, ok
}

// Has says whether a reading of v at ms can be of a value that was served, and whether one of them was taken.
func (q *Queue) Has(v float64, ms int64, w Window) (served, taken bool) {
	for i := q.from(ms + w.From); i < len(q.values) && q.values[i].MS <= ms+w.To; i++ {
		if q.near(q.values[i], v) {
			served = true
			taken = taken || i < len(q.taken) && q.taken[i]
		}
	}
	return served, taken
}
