package packed

import (
	"math"
	"slices"

	"homeward/agent/pack"
	"homeward/drivers"
)

// Writer fills one payload. Polls are kept and coded when the payload is closed, or when a guess says that it is full:
// how many bytes a poll takes depends on those after it.
type Writer struct {
	c      *Coder
	head   Info
	max    int
	polls  []record
	queue  [][]int   // per group: its polls
	n      int       // readings
	over   bool      // coded once, and found to be too much
	places []int     // of the last poll
	slab   []float64 // room for values
}

// NewWriter begins a payload of at most max bytes; the gateway's name goes into it where named says so.
func (c *Coder) NewWriter(h pack.Header, radix Radix, named bool, max int) *Writer {
	w := &Writer{c: c, max: max, queue: make([][]int, len(c.schema.Groups))}
	w.head = Info{Schema: c.schema.ID, Epoch: h.Epoch, First: h.First, radix: radix}
	if named {
		w.head.Gateway = h.Gateway
	}
	return w
}

// Add takes a whole poll. False: it is not of the schema, or there is enough to fill the payload.
func (w *Writer) Add(p pack.Poll) bool {
	g, places, ok := w.c.locate(p, w.places[:0])
	w.places = places
	if !ok || w.over || w.n+len(w.c.schema.Groups[g].Channels) > maxReadings || len(w.polls)+1 >= int(w.head.radix*w.head.radix*w.head.radix) {
		w.over = w.over || ok
		return false
	}
	size := len(w.c.schema.Groups[g].Channels)
	r := record{group: g, time: p.Time, values: w.room(size)}
	if len(p.Readings) < size || slices.ContainsFunc(p.Readings, func(r drivers.Reading) bool { return r.Quality != drivers.Good }) {
		r.shape, r.present, r.quality = true, make([]bool, size), make([]drivers.Quality, size)
	}
	for i, at := range places {
		r.values[at] = p.Readings[i].Value
		if r.shape {
			r.present[at], r.quality[at] = true, p.Readings[i].Quality
		}
	}
	if len(w.polls) == 0 {
		w.head.base = p.Time
	}
	w.queue[g] = append(w.queue[g], len(w.polls))
	w.polls = append(w.polls, r)
	w.n += len(p.Readings)
	ratio := math.Float64frombits(w.c.ratio.Load())
	if float64(w.n)*ratio > float64(w.max)*1.04 {
		t := w.start(len(w.polls))
		if !t.run(w.max, nil) {
			w.over = true
		} else {
			w.c.ratio.Store(math.Float64bits(max(float64(t.length())/float64(w.n), 1e-4)))
		}
		t.free()
	}
	return true
}

// room is where a poll's values go: many polls share one allocation.
func (w *Writer) room(n int) []float64 {
	if len(w.slab) < n {
		w.slab = make([]float64, max(n, 1024))
	}
	room := w.slab[:n:n]
	w.slab = w.slab[n:]
	return room
}

// AddPart takes nothing: [Writer.Close] splits a poll that is too large alone.
func (w *Writer) AddPart(pack.Poll) int { return 0 }

// AddGap takes a gap record, before the first poll.
func (w *Writer) AddGap(g pack.Gap) bool {
	if len(w.polls) > 0 || len(w.head.Gaps) >= maxGaps || len(g.Reason) > 255 {
		return false
	}
	w.head.Gaps = append(w.head.Gaps, g)
	if w.Size() > w.max {
		w.head.Gaps = w.head.Gaps[:len(w.head.Gaps)-1]
		return false
	}
	return true
}

// Full says that no more is taken.
func (w *Writer) Full() bool { return w.over }

// Len is the number of readings taken; [Writer.Close] may have to leave some of them out.
func (w *Writer) Len() int { return w.n }

// Size is the number of bytes of what was taken.
func (w *Writer) Size() int {
	t := w.start(len(w.polls))
	t.run(math.MaxInt, nil)
	defer t.free()
	return t.length()
}

// Size is how many bytes polls take in payloads of at most max; those that are not of the schema are left out.
func (c *Coder) Size(polls []pack.Poll, max int) (bytes int) {
	known := slices.DeleteFunc(slices.Clone(polls), func(p pack.Poll) bool { return !c.Fits(p) })
	_ = c.fill(known, max, func(payload []byte) bool {
		bytes += len(payload)
		return true
	})
	return bytes
}

// fill packs polls into payloads of at most max bytes until there are no more polls, or one does not fit, or take says no;
// it returns the polls that are left.
func (c *Coder) fill(polls []pack.Poll, max int, take func(payload []byte) bool) []pack.Poll {
	for len(polls) > 0 {
		w := c.NewWriter(pack.Header{First: 1}, Text, false, max)
		for i := 0; i < len(polls) && w.Add(polls[i]); i++ {
		}
		payload, n := w.Close()
		if n == 0 || !take(payload) {
			return polls
		}
		for n > 0 {
			if k := len(polls[0].Readings); n < k { // a poll too large alone
				rest := polls[0]
				rest.Readings = rest.Readings[n:]
				polls = append([]pack.Poll{rest}, polls[1:]...)
				break
			} else {
				n -= k
			}
			polls = polls[1:]
		}
	}
	return nil
}

// try is a coding of the first of the polls.
type try struct {
	w     *Writer
	c     coder
	m     *model
	n     int   // polls to be coded
	done  int   // polls coded
	at    []int // per group: polls coded
	last  int   // the latest poll coded
	parts int   // of the only poll
}

func (w *Writer) start(n int) *try {
	t := &try{w: w, m: w.c.borrow(&w.c.prior), n: n, at: make([]int, len(w.queue)), last: -1}
	t.c.begin(int(w.head.radix), make([]byte, 0, min(w.max, 1<<16)+16), false)
	w.head.header(&t.c)
	t.m.begin(w.head.base)
	return t
}

// fork is a copy that codes n polls.
func (t *try) fork(n int) *try {
	o := *t
	o.c.digits = append(make([]byte, 0, cap(t.c.digits)), t.c.digits...)
	o.m, o.at, o.n = t.w.c.borrow(t.m), slices.Clone(t.at), n
	return &o
}

// free gives the model back; the digits remain.
func (t *try) free() {
	if t != nil && t.m != nil {
		t.w.c.spare.Put(t.m)
		t.m = nil
	}
}

func (t *try) fixed() int {
	r := int(t.w.head.radix)
	if t.n >= r*r {
		return 6
	}
	return 5
}

func (t *try) length() int { return t.fixed() + t.c.length() }

// run codes the polls until all are in or the payload is longer than limit: false. It calls mark before each.
func (t *try) run(limit int, mark func(*try)) bool {
	var scratch record
	for t.done < t.n {
		if mark != nil {
			mark(t)
		}
		g := t.m.next()
		queue := t.w.queue[g]
		i := t.at[g]
		if i >= len(queue) || queue[i] >= t.n {
			t.m.ended(&t.c, g, true)
			continue
		}
		t.m.ended(&t.c, g, false)
		r := &t.w.polls[queue[i]]
		scratch = *r
		if t.parts > 0 {
			scratch = r.first(t.parts)
		}
		t.m.record(&t.c, &scratch)
		t.at[g]++
		t.done++
		t.last = max(t.last, queue[i])
		if t.done < t.n && len(t.c.digits)+t.fixed() > limit {
			return false
		}
	}
	return t.length() <= limit
}

// first is the record with its first n readings alone.
func (r *record) first(n int) record {
	o := r.clone()
	if !o.shape {
		o.shape, o.present, o.quality = true, make([]bool, len(o.values)), make([]drivers.Quality, len(o.values))
		for i := range o.present {
			o.present[i] = true
		}
	}
	for i := range o.present {
		if o.present[i] {
			if n == 0 {
				o.present[i] = false
			} else {
				n--
			}
		}
	}
	return o
}

func (r *record) len() int {
	if !r.shape {
		return len(r.values)
	}
	n := 0
	for _, p := range r.present {
		n += flag(p)
	}
	return n
}

// Close codes the payload: as many of the polls, in the order in which they were added, as fit; of a first poll that does
// not fit by itself as many of its readings. It returns the payload and how many readings it holds: 0 if not one fits.
func (w *Writer) Close() ([]byte, int) {
	best := w.fit()
	if best == nil {
		return nil, 0
	}
	defer best.free()
	n := 0
	for i := range w.polls[:best.n] {
		n += w.polls[i].len()
	}
	if best.parts > 0 {
		n = best.parts
	}
	digits := best.c.end()
	out := make([]byte, best.fixed(), best.fixed()+len(digits))
	r := int(w.head.radix)
	out[0] = w.head.radix.version() + byte(best.fixed()-5)
	count := best.n
	for i := best.fixed() - 1; i >= 3; i-- {
		out[i] = byte(count % r)
		count /= r
	}
	out = append(out, digits...)
	check := checkDigits(out, w.head.radix)
	out[1], out[2] = byte(check/r), byte(check%r)
	if w.head.radix != Binary {
		letters := w.head.radix.letters()
		for i := range out {
			out[i] = letters[out[i]]
		}
	}
	if n > 0 {
		w.c.ratio.Store(math.Float64bits(max(float64(len(out))/float64(n), 1e-4)))
	}
	return out, n
}

// fit finds the coding with the most polls.
func (w *Writer) fit() *try {
	var saved *try
	if len(w.polls) == 0 {
		return w.start(0)
	}
	full := w.start(len(w.polls))
	if full.run(w.max, func(t *try) {
		if saved == nil && len(t.c.digits) > w.max*4/5 {
			saved = t.fork(t.n)
		}
	}) {
		saved.free()
		return full
	}
	// The first poll that was not coded: about so many will fit.
	b := len(w.polls)
	for g, queue := range w.queue {
		if i := full.at[g]; i < len(queue) {
			b = min(b, queue[i])
		}
	}
	per := max(0.1, float64(w.max)/float64(max(1, full.done))) // bytes a poll
	full.free()
	b = min(max(b, 1), len(w.polls)-1)
	var best *try
	for lo, hi := 0, len(w.polls); lo+1 < hi; {
		b = min(max(b, lo+1), hi-1)
		var t *try
		if saved != nil && saved.last < b && saved.done < b { // as far as it goes, b polls are coded so too
			t = saved.fork(b)
		} else {
			t = w.start(b)
		}
		if t.run(w.max, nil) {
			best.free()
			lo, best = b, t
			b += max(1, int(float64(w.max-t.length())/per))
		} else {
			over := len(t.c.digits) + t.fixed() - w.max
			t.free()
			hi = b
			b -= max(1, int(float64(over)/per)+(t.n-t.done))
		}
	}
	saved.free()
	if best == nil {
		best = w.part()
	}
	return best
}

// part fits as many readings of the first poll as there is room for.
func (w *Writer) part() (best *try) {
	lo, hi := 0, w.polls[0].len()
	for lo+1 < hi {
		mid := (lo + hi) / 2
		t := w.start(1)
		t.parts = mid
		if t.run(w.max, nil) {
			best.free()
			lo, best = mid, t
		} else {
			t.free()
			hi = mid
		}
	}
	return best
}
