package packed

import (
	"math"
	"slices"

	"homeward/agent/pack"
	"homeward/drivers"
)

// Writer fills one payload. Polls are coded as they come, in the order in which a decoder expects them: a poll waits for
// those that are expected before it.
type Writer struct {
	c     *Coder
	head  Info
	named bool
	max   int
	n     int // readings taken
	full  bool
	*work      // nil: nothing was taken
	keeps bool // its work, for the next payload
}

// work is what a writer needs while it is at it.
type work struct {
	m      *model
	out    coder
	undo   undo
	polls  []poll
	values []float64
	marks  []mark
	queues []queue // of each group
	places []int   // of the last poll

	coded    int // polls
	readings int // of these
	latest   int // 1 + the last of them, in the order in which they were added
	biggest  int // digits of one poll, at most
	looked   int // polls of the payload that was looked at last
	slack    int // digits that it left; -1: none was looked at
	parts    int // readings of the only poll; 0: all

	closing bool // no more polls come
	careful bool // look before each poll
	skipped bool // the last time, there was no look
	said    bool // after the last poll, that a group has ended

	ends  int    // polls of the best payload so far
	best  []byte // its digits
	spare []byte
}

// poll is one that was taken.
type poll struct {
	time  int64 // Unix ms
	group int32
	at    int32 // in values and marks
	n     int32 // readings
	next  int32 // the next of its group; -1: none yet
	shape bool  // something is missing or not good
}

type queue struct{ first, last int32 } // -1: none

// NewWriter begins a payload of at most max bytes; the gateway's name goes into it where named says so.
func (c *Coder) NewWriter(h pack.Header, radix Radix, named bool, max int) *Writer {
	w := &Writer{c: c, max: max, named: named}
	w.head.radix = radix
	w.start(h)
	return w
}

// Reset begins another payload, like the last. A writer that is used again keeps its memory, and allocates payloads alone.
func (w *Writer) Reset(h pack.Header) {
	w.keeps = true
	if w.work != nil {
		w.clear()
	}
	w.start(h)
}

func (w *Writer) start(h pack.Header) {
	w.head = Info{Schema: w.c.schema.ID, Epoch: h.Epoch, First: h.First, radix: w.head.radix}
	if w.named {
		w.head.Gateway = h.Gateway
	}
	w.n, w.full = 0, false
}

// drop gives the memory to the next writer.
func (w *Writer) drop() {
	if w.work != nil && !w.keeps {
		w.c.works.Put(w.work)
		w.work = nil
	}
}

// begin makes ready for the first poll.
func (w *Writer) begin() {
	k, _ := w.c.works.Get().(*work)
	if k == nil {
		k = &work{m: newModel(w.c.schema), queues: make([]queue, len(w.c.schema.Groups))}
	}
	w.work = k
	w.clear()
}

// clear forgets the polls.
func (w *Writer) clear() {
	w.polls, w.values, w.marks = w.polls[:0], w.values[:0], w.marks[:0]
	for g := range w.queues {
		w.queues[g] = queue{-1, -1}
	}
}

// restart begins to code, from the first poll.
func (w *Writer) restart() {
	w.m.begin(w.c.prior, w.head.base)
	w.out.begin(int(w.head.radix), w.out.digits[:0], false)
	w.head.header(&w.out)
	for g := range w.queues {
		w.queues[g].first = -1
	}
	for i := len(w.polls) - 1; i >= 0; i-- {
		w.queues[w.polls[i].group].first = int32(i)
	}
	w.coded, w.readings, w.latest, w.biggest, w.looked, w.slack, w.ends, w.parts = 0, 0, 0, 0, 0, -1, 0, 0
	w.closing, w.careful, w.skipped, w.said = false, false, false, false
}

// Add takes a whole poll. False: it is not of the schema, or the payload is full.
func (w *Writer) Add(p pack.Poll) bool {
	if w.full {
		return false
	}
	if w.work == nil {
		w.begin()
	}
	g, places, ok := w.c.locate(p, w.places[:0])
	w.places = places
	if !ok {
		return false
	}
	size := len(w.c.schema.Groups[g].Channels)
	r := int(w.head.radix)
	if len(w.values)+size > maxReadings || len(w.polls)+1 >= r*r*r {
		w.full = true
		return false
	}
	i, at := len(w.polls), len(w.values)
	w.values, w.marks = slices.Grow(w.values, size)[:at+size], slices.Grow(w.marks, size)[:at+size]
	shape := len(p.Readings) < size
	if shape {
		for j := range size {
			w.values[at+j], w.marks[at+j] = 0, missing
		}
	}
	for j, place := range places {
		w.values[at+place], w.marks[at+place] = p.Readings[j].Value, mark(p.Readings[j].Quality)
		shape = shape || p.Readings[j].Quality != drivers.Good
	}
	w.polls = append(w.polls, poll{p.Time, int32(g), int32(at), int32(len(p.Readings)), -1, shape})
	w.n += len(p.Readings)
	q := &w.queues[g]
	if q.last >= 0 {
		w.polls[q.last].next = int32(i)
	}
	if q.first < 0 {
		q.first = int32(i)
	}
	q.last = int32(i)
	if i == 0 {
		w.head.base = p.Time
		w.restart()
	} else if w.m.clocks[g].ended { // it was said too early
		w.c.learn(len(w.out.digits), w.readings)
		w.restart()
	}
	w.advance()
	return true
}

// fixed is the number of digits before the stream, with n polls.
func (w *Writer) fixed(n int) int {
	if r := int(w.head.radix); n >= r*r {
		return 6
	}
	return 5
}

// about is how many digits so many polls take.
func (w *Writer) about(polls int) int {
	each := math.Float64frombits(w.c.ratio.Load()) // a reading
	if w.readings > 300 {
		each = float64(len(w.out.digits)) / float64(w.readings)
	}
	return int(each * float64(w.n) / float64(len(w.polls)) * float64(polls))
}

// learn keeps how many digits a reading takes.
func (c *Coder) learn(digits, readings int) {
	if readings > 0 {
		c.ratio.Store(math.Float64bits(max(float64(digits)/float64(readings), 1e-4)))
	}
}

// advance codes the polls that are next, until one is that has not come yet, or the payload is full.
func (w *Writer) advance() {
	c := &w.out
	for !w.full && w.coded < len(w.polls) {
		g := w.m.next()
		i := int(w.queues[g].first)
		if i < 0 {
			if !w.closing && len(c.digits)+w.about(len(w.polls)-w.coded) < w.max+w.max/32+16 {
				return
			}
			if w.coded == w.latest && w.coded > 0 && !w.said && !w.mayEnd(w.coded) {
				w.full = true
				return
			}
			w.m.ended(c, g, true) // what still comes of it will find no room
			w.said = true
			continue
		}
		if i >= w.latest && i > 0 && !w.mayEnd(i) {
			w.full = true
			return
		}
		before := len(c.digits)
		w.m.ended(c, g, false)
		w.said = false
		w.code(i)
		w.coded++
		w.readings += int(w.polls[i].n)
		w.latest = max(w.latest, i+1)
		w.biggest = max(w.biggest, len(c.digits)-before)
		w.full = len(c.digits)+w.fixed(w.coded) > w.max
	}
}

// code codes poll i, the first of its queue.
func (w *Writer) code(i int) {
	p := &w.polls[i]
	from := int(p.at)
	to := from + len(w.c.schema.Groups[p.group].Channels)
	r := record{int(p.group), p.time, w.values[from:to], w.marks[from:to], p.shape}
	if w.parts > 0 {
		r = r.first(w.parts)
	}
	w.m.record(&w.out, &r)
	w.queues[p.group].first = p.next
}

// mayEnd looks, near the end, what the payload would be with all polls before number n. False: they do not fit, and what
// does is kept.
func (w *Writer) mayEnd(n int) bool {
	if n == w.coded && w.said {
		return true // this was looked at before it was said
	}
	if !w.careful && (len(w.out.digits)+w.about(n-w.coded)+len(w.queues)/2+3*w.biggest+w.max/32 < w.max ||
		w.slack >= 0 && 2*w.about(n-w.looked)+2*w.biggest+2 < w.slack) {
		w.skipped = true
		return true
	}
	all, lo := n, w.latest-1
	if w.said && w.coded == w.latest {
		lo++
	}
	for hi := n + 1; lo+1 < hi; n = (lo + hi) / 2 {
		if size := w.tryEnd(n); size <= w.max {
			lo, w.looked, w.slack, w.skipped = n, n, w.max-size, false
		} else {
			hi = n
		}
	}
	return lo == all
}

// tryEnd codes what is missing of the first n polls, keeps the digits if they fit, and takes it back.
func (w *Writer) tryEnd(n int) (size int) {
	c := &w.out
	before := *c
	c.digits = append(w.spare[:0], c.digits...)
	c.undo = &w.undo
	w.undo.begin(w.m, w.queues)
	for left := n - w.coded; left > 0 && len(c.digits) <= w.max; {
		g := w.m.next()
		w.undo.group(g)
		i := int(w.queues[g].first)
		if i < 0 || i >= n {
			w.m.ended(c, g, true)
			continue
		}
		w.m.ended(c, g, false)
		w.code(i)
		left--
	}
	size = math.MaxInt
	w.spare = c.digits
	if len(c.digits) <= w.max {
		w.spare = c.end()
		size = len(w.spare) + w.fixed(n)
	}
	if size <= w.max {
		w.best, w.spare, w.ends = w.spare, w.best, n
	}
	w.undo.back()
	*c = before
	return size
}

// first is the record with its first n readings alone.
func (r *record) first(n int) record {
	o := *r
	o.shape, o.marks = true, slices.Clone(r.marks)
	for i := range o.marks {
		if o.marks[i] != missing {
			if n == 0 {
				o.marks[i] = missing
			} else {
				n--
			}
		}
	}
	return o
}

// AddPart takes nothing: [Writer.Close] splits a poll that is too large alone.
func (w *Writer) AddPart(pack.Poll) int { return 0 }

// AddGap takes a gap record, before the first poll.
func (w *Writer) AddGap(g pack.Gap) bool {
	if w.n > 0 || len(w.head.Gaps) >= maxGaps || len(g.Reason) > 255 {
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
func (w *Writer) Full() bool { return w.full }

// Len is the number of readings taken; [Writer.Close] may have to leave some of them out.
func (w *Writer) Len() int { return w.n }

// Size is the number of bytes of what was taken, which is all coded for it.
func (w *Writer) Size() int {
	if w.work == nil || w.n == 0 {
		var c coder
		c.begin(int(w.head.radix), nil, false)
		w.head.header(&c)
		return w.fixed(0) + c.length()
	}
	o := &Writer{c: w.c, head: w.head, max: math.MaxInt / 2}
	o.begin()
	defer o.drop()
	o.polls, o.values, o.marks = append(o.polls, w.polls...), append(o.values, w.values...), append(o.marks, w.marks...)
	o.restart()
	o.closing = true
	o.advance()
	return o.fixed(o.coded) + o.out.length()
}

// Close gives the payload: as many of the polls, in the order in which they were added, as fit; of a first poll that does
// not fit by itself as many of its readings. It returns the payload and how many readings it holds: 0 if not one fits.
// After it, only [Writer.Reset] and [Writer.Len] are of use.
func (w *Writer) Close() ([]byte, int) {
	defer func() {
		w.drop()
		w.full = true
	}()
	if w.n == 0 {
		var c coder
		c.begin(int(w.head.radix), nil, false)
		w.head.header(&c)
		return w.seal(c.end(), 0), 0
	}
	w.finish()
	if w.skipped && w.full { // the last look was too early: a poll was larger than any before
		w.full = false
		w.restart()
		w.careful = true
		w.finish()
	}
	n := 0
	for i := range w.polls[:w.ends] {
		n += int(w.polls[i].n)
	}
	if n == 0 {
		if n = w.part(); n == 0 {
			return nil, 0
		}
	}
	out := w.seal(w.best, w.ends)
	w.c.learn(len(out), n)
	return out, n
}

// finish codes all there is, and keeps the best payload.
func (w *Writer) finish() {
	w.closing = true
	w.advance()
	if !w.full {
		w.full = w.tryEnd(len(w.polls)) > w.max
		w.skipped = w.skipped && w.full
	}
}

// part fits as many readings of the first poll as there is room for.
func (w *Writer) part() (n int) {
	w.restart()
	for hi := int(w.polls[0].n); n+1 < hi; {
		w.parts = (n + hi) / 2
		if w.tryEnd(1) <= w.max {
			n = w.parts
		} else {
			hi = w.parts
		}
	}
	return n
}

// seal makes a payload of a stream's digits.
func (w *Writer) seal(digits []byte, polls int) []byte {
	r := int(w.head.radix)
	fixed := w.fixed(polls)
	out := make([]byte, fixed+len(digits))
	out[0] = w.head.radix.version() + byte(fixed-5)
	for i := fixed - 1; i >= 3; i-- {
		out[i] = byte(polls % r)
		polls /= r
	}
	copy(out[fixed:], digits)
	check := checkDigits(out, w.head.radix)
	out[1], out[2] = byte(check/r), byte(check%r)
	if w.head.radix != Binary {
		letters := w.head.radix.letters()
		for i := range out {
			out[i] = letters[out[i]]
		}
	}
	return out
}

// Size is how many bytes polls take in payloads of at most max; those that are not of the schema are left out.
func (c *Coder) Size(polls []pack.Poll, max int) (bytes int) {
	known := slices.DeleteFunc(slices.Clone(polls), func(p pack.Poll) bool { return !c.Fits(p) })
	c.fill(known, max, func(payload []byte) { bytes += len(payload) })
	return bytes
}

// fill packs polls into payloads of at most max bytes until there are no more, or one does not fit.
func (c *Coder) fill(polls []pack.Poll, max int, take func(payload []byte)) {
	for len(polls) > 0 {
		payload, rest := c.one(polls, max)
		if payload == nil {
			return
		}
		take(payload)
		polls = rest
	}
}

// one packs the first of the polls into a payload, and gives what is left of them.
func (c *Coder) one(polls []pack.Poll, max int) (payload []byte, rest []pack.Poll) {
	w := c.NewWriter(pack.Header{First: 1}, Text, false, max)
	for i := 0; i < len(polls) && w.Add(polls[i]); i++ {
	}
	payload, n := w.Close()
	for n > 0 {
		k := len(polls[0].Readings)
		if n < k { // a poll too large alone
			part := polls[0]
			part.Readings = part.Readings[n:]
			return payload, append([]pack.Poll{part}, polls[1:]...)
		}
		polls, n = polls[1:], n-k
	}
	return payload, polls
}
