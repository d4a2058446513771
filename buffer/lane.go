package buffer

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"homeward/drivers"
)

// Lane holds one epoch's readings. Its methods may be used at once from many goroutines.
type Lane struct {
	b *Buffer
	l *lane
}

// Epoch is the lane's.
func (l *Lane) Epoch() Epoch { return l.l.epoch }

func (p *Poll) check(half int) error {
	if len(p.Readings) == 0 || len(p.Readings) > maxReadings {
		return fmt.Errorf("buffer: poll of %d readings, want 1 to %d", len(p.Readings), maxReadings)
	}
	size := 256
	for i := range p.Readings {
		r := &p.Readings[i]
		if len(r.Channel) > maxName || len(r.Unit) > maxName {
			return fmt.Errorf("buffer: channel %.40q or its unit is longer than %d bytes", r.Channel, maxName)
		}
		size += 16 + len(r.Channel) + len(r.Unit)
	}
	if most := half - 3*reserve(half); size > most {
		return fmt.Errorf("buffer: poll of %d bytes (%d readings), want at most %d: what half the log can hold", size, len(p.Readings), most)
	}
	return nil
}

// Append writes the poll to the tail log (a kill after it loses nothing) and returns the number of its first reading.
// An alarm forces a flush. Errors: [ErrFull] (sampling stopped as configured, or the disk is full and so is the log), [ErrClosed], [ErrReadOnly], or that the log cannot be written;
// in all cases nothing was stored and no number was given.
func (l *Lane) Append(p Poll) (Seq, error) {
	b := l.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := p.check(b.half); err != nil {
		return 0, err
	}
	waited := false
	for {
		if err := b.usable(); err != nil {
			return 0, err
		}
		if b.stopped && b.opt.WhenFull == StopSampling {
			kick(b.sealNow)
			return 0, ErrFull
		}
		if err := b.ready(); err != nil {
			return 0, err
		}
		h := &b.halves[b.active]
		b.fr.reset(h)
		undo := b.fr.poll(h, b.seed, l.l.epoch, l.l.next, &p)
		if h.off+len(b.fr.b) <= b.pollLimit() {
			off := h.off + b.fr.start
			if err := b.write(h); err != nil {
				undo.do(h)
				return 0, err
			}
			b.lastBoot = p.Stamp.Boot
			return b.appended(l.l, h, &p, off), nil
		}
		undo.do(h)
		if err := b.nextHalf(&waited); err != nil {
			return 0, err
		}
	}
}

// pollLimit is up to where polls may fill the active half.
func (b *Buffer) pollLimit() int {
	if b.short == ShortDisk && b.job != nil { // it may last: attempts and outcomes need room too
		return b.half / 4 * 3
	}
	return b.half - reserve(b.half)
}

// nextHalf goes on in the other half, or waits once, without the lock, until it is free.
func (b *Buffer) nextHalf(waited *bool) error {
	err := b.switchHalf()
	if !errors.Is(err, errLogFull) {
		return err
	}
	if *waited || b.sealFailing {
		return b.noRoom()
	}
	*waited = true
	b.awaitRoom()
	return nil
}

// appended takes what was written into the state.
func (b *Buffer) appended(l *lane, h *half, p *Poll, off int) Seq {
	first, n := l.next, len(p.Readings)
	h.note(l.epoch, first, n, off)
	l.next += Seq(n)
	if l.appended != nil {
		close(l.appended)
		l.appended = nil
	}
	if p.Alarm {
		kick(b.flushNow)
	}
	return first
}

func (b *Buffer) noRoom() error {
	if b.opt.WhenFull == StopSampling {
		return ErrFull
	}
	last, _ := b.notes()
	if b.short == ShortDisk {
		return &diskFullError{last}
	}
	return fmt.Errorf("%w: the disk did not take the other half in time: %s", errLogFull, last)
}

// diskFullError is an [ErrFull] that nobody configured.
type diskFullError struct{ last string }

func (e *diskFullError) Error() string {
	return "buffer: the disk is full and so is the log; nothing stored is given up for it: " + e.last
}

func (e *diskFullError) Is(target error) bool { return target == ErrFull }

// awaitRoom waits, without the lock, until a half is free, but not for long.
func (b *Buffer) awaitRoom() {
	if b.freed == nil {
		b.freed = make(chan struct{})
	}
	freed := b.freed
	b.mu.Unlock()
	select {
	case <-freed:
	case <-b.stop:
	case <-b.clock.After(appendWait):
	}
	b.mu.Lock()
}

// Next is the number that the next reading will get.
func (l *Lane) Next() Seq {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	return l.l.next
}

// Appended returns a channel that is closed at the next Append.
func (l *Lane) Appended() <-chan struct{} {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	if l.l.appended == nil {
		l.l.appended = make(chan struct{})
	}
	return l.l.appended
}

// Durable is closed once everything written before the call is on disk.
func (l *Lane) Durable() <-chan struct{} {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	return l.b.durable()
}

// NoteGap records a gap that is not an outcome of stored readings (Unsampled, with an empty Range), or gives up what is
// open or in flight of a stored range for the reason; attempts that it overlaps end, and what they held beyond it is open again.
// ID and MaybeDelivered are set here; for a range also N, and the times where they are 0.
func (l *Lane) NoteGap(g Gap) error {
	if g.Range == (Range{}) {
		b := l.b
		b.mu.Lock()
		defer b.mu.Unlock()
		if err := b.usable(); err != nil {
			return err
		}
		g.ID, g.MaybeDelivered = 0, false
		return b.putGap(l.l, g, nil)
	}
	if g.Range.Empty() {
		return fmt.Errorf("buffer: gap from %d to %d, want a range or none", g.Range.From, g.Range.To)
	}
	return l.b.giveUp(l.l, g.Range, g.Reason, g.TFrom, g.TTo)
}

// OpenGaps lists gaps not yet reported and not in an attempt.
func (l *Lane) OpenGaps() []Gap {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	var out []Gap
	for _, g := range l.l.gaps {
		if !l.l.carried(g.ID) {
			out = append(out, g)
		}
	}
	return out
}

// Fix makes an attempt: boundary and bytes are durable when the next flush is (Buffer.Flush, or the periodic one; Durable
// tells). Every number of the range must be open ([ErrOpen]), and the gaps unreported. It counts as the first try, for what
// is fixed may have been sent. All attempts together hold at most 256 KB ([ErrInFlight]). The ID is set here; the result is a
// copy that shares the payload.
func (l *Lane) Fix(a Attempt) (*Attempt, error) {
	b := l.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.usable(); err != nil {
		return nil, err
	}
	if a.Range != (Range{}) && (a.Range.Empty() || a.Range.To >= l.l.next || l.l.open(a.Range.From, a.Range.To+1) != a.Range) {
		return nil, fmt.Errorf("%w: %d to %d of epoch %d", ErrOpen, a.Range.From, a.Range.To, l.l.epoch)
	}
	for i, id := range a.Gaps {
		if l.l.gap(id) == nil || l.l.carried(id) || slices.Contains(a.Gaps[:i], id) {
			return nil, fmt.Errorf("%w: gap %d of epoch %d is reported or being so", ErrOpen, id, l.l.epoch)
		}
	}
	for _, told := range a.Told {
		if g := l.l.gap(told.ID); g == nil || *g != told {
			return nil, fmt.Errorf("%w: gap %d of epoch %d has grown", ErrOpen, told.ID, l.l.epoch)
		}
	}
	a.Told = nil
	if b.inFlight+len(a.Payload) > maxInFlight {
		return nil, fmt.Errorf("%w: %d and %d more", ErrInFlight, b.inFlight, len(a.Payload))
	}
	a.ID = l.l.lastAttempt + 1
	a.Gaps, a.Payload, a.Tries = slices.Clone(a.Gaps), slices.Clone(a.Payload), max(a.Tries, 1)
	if err := b.record(recAttempt, func(d []byte) []byte { return appendAttempt(d, l.l.epoch, &a) }); err != nil {
		return nil, err
	}
	l.l.addAttempt(&a)
	b.inFlight += len(a.Payload)
	return a.copy(), nil
}

func (a *Attempt) copy() *Attempt {
	c := *a
	c.Gaps = slices.Clone(a.Gaps)
	return &c
}

// Attempts lists the attempts whose fate is unknown, oldest first: after a start they are to be tried again first.
func (l *Lane) Attempts() []*Attempt {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	out := make([]*Attempt, len(l.l.attempts))
	for i, a := range l.l.attempts {
		out[i] = a.copy()
	}
	return out
}

// Retried counts one more try of an attempt (side record). [ErrUnknown]: there is no such attempt (any more).
func (l *Lane) Retried(id uint64) error {
	return l.withAttempt(id, func(a *Attempt) error {
		err := l.b.record(recRetried, func(d []byte) []byte {
			d = binary.AppendUvarint(d, uint64(l.l.epoch))
			d = binary.AppendUvarint(d, id)
			return binary.AppendUvarint(d, uint64(a.Tries+1))
		})
		if err == nil {
			a.Tries++
		}
		return err
	})
}

func (l *Lane) withAttempt(id uint64, do func(*Attempt) error) error {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	if err := l.b.usable(); err != nil {
		return err
	}
	a := l.l.attempt(id)
	if a == nil {
		return fmt.Errorf("%w: %d of epoch %d", ErrUnknown, id, l.l.epoch)
	}
	return do(a)
}

// Ack: delivered, and the gaps that it carried are reported. [ErrUnknown]: there is no such attempt (any more), which after an
// eviction is no fault.
func (l *Lane) Ack(id uint64) error { return l.finish(id, true) }

// Release: not delivered for certain; its readings and gaps are open again.
func (l *Lane) Release(id uint64) error { return l.finish(id, false) }

func (l *Lane) finish(id uint64, delivered bool) error {
	return l.withAttempt(id, func(*Attempt) error {
		// An outcome that finds no room in the log is not lost by a crash of the
		// network, only repeated after one of the process: it is taken anyway.
		l.b.note(recDone, func(d []byte) []byte {
			d = binary.AppendUvarint(d, uint64(l.l.epoch))
			d = binary.AppendUvarint(d, id)
			return append(d, flag(delivered))
		})
		l.l.end(id, delivered)
		l.b.countFlight()
		return nil
	})
}

// note is record for what is true whether it can be written or not.
func (b *Buffer) note(t recType, body func([]byte) []byte) {
	if err := b.record(t, body); err != nil {
		b.failed("outcome not written, only kept until the next seal", err)
		b.unwritten = b.halves[b.active].gen
	}
}

func (b *Buffer) countFlight() {
	b.inFlight = 0
	for _, l := range b.lanes {
		for _, a := range l.attempts {
			b.inFlight += len(a.Payload)
		}
	}
}

// GiveUp ends an attempt with a gap of the reason. It counts as maybe delivered where a try had no answer: for Refused and Undeliverable,
// which are answers, each try but the last. The gaps that it carried are open again; where it carried nothing else they are dropped, for else they would come back for ever.
func (l *Lane) GiveUp(id uint64, r Reason) error {
	b := l.b
	b.mu.Lock()
	if err := b.usable(); err != nil {
		b.mu.Unlock()
		return err
	}
	a := l.l.attempt(id)
	if a == nil {
		b.mu.Unlock()
		return fmt.Errorf("%w: %d of epoch %d", ErrUnknown, id, l.l.epoch)
	}
	rg := a.Range
	b.mu.Unlock()
	if rg.Empty() {
		return l.finish(id, true)
	}
	return b.giveUp(l.l, rg, r, 0, 0)
}

// AckRanges: delivered, on a receiver's word (publish.acknowledge: receiver); only ranges inside attempts count.
func (l *Lane) AckRanges(rs []Range) error {
	b := l.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.usable(); err != nil {
		return err
	}
	var news rangeSet // each number once, however often the receiver says it
	for _, r := range rs {
		for _, a := range l.l.attempts {
			l.l.done.missing(r.intersect(a.Range), func(m Range) { news.add(m) })
		}
	}
	in := news.r
	if len(in) == 0 {
		return nil
	}
	b.note(recRanges, func(d []byte) []byte {
		d = binary.AppendUvarint(d, uint64(l.l.epoch))
		d = binary.AppendUvarint(d, uint64(len(in)))
		for _, r := range in {
			d = binary.AppendUvarint(d, uint64(r.From))
			d = binary.AppendUvarint(d, uint64(r.To))
		}
		return d
	})
	l.l.addRanges(in)
	b.countFlight()
	return nil
}

// giveUp makes gaps of all numbers of r without an outcome.
func (b *Buffer) giveUp(l *lane, r Range, reason Reason, tFrom, tTo int64) error {
	b.mu.Lock()
	if err := b.usable(); err != nil {
		b.mu.Unlock()
		return err
	}
	if r.To >= l.next {
		b.mu.Unlock()
		return fmt.Errorf("%w: %d to %d of epoch %d, whose last is %d", ErrOpen, r.From, r.To, l.epoch, l.next-1)
	}
	ps := l.pieces(r, reason)
	b.mu.Unlock()
	times := b.pieceTimes(l, r, ps)
	for k, t := range times {
		times[k] = [2]int64{cmp.Or(tFrom, t[0]), cmp.Or(tTo, t[1])}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.usable(); err != nil {
		return err
	}
	return b.giveUpLocked(l, r, reason, times)
}

// pieceTimes resolves the first and last time of each piece of r and of r itself.
func (b *Buffer) pieceTimes(l *lane, r Range, ps []piece) map[Range][2]int64 {
	times := map[Range][2]int64{r: {}}
	for _, p := range ps[:min(len(ps), 64)] { // beyond that the times are those of the whole
		times[p.r] = [2]int64{}
	}
	for k := range times {
		from, to := b.timesOf(l, k)
		times[k] = [2]int64{from, to}
	}
	return times
}

// piece is a part of a range that becomes one gap.
type piece struct {
	r     Range
	maybe bool
	ends  []uint64
}

// pieces cuts what has no outcome of r where an attempt begins or ends.
func (l *lane) pieces(r Range, reason Reason) (ps []piece) {
	l.done.missing(r, func(m Range) {
		for from := m.From; from <= m.To; {
			p := piece{r: Range{from, m.To}}
			for _, a := range l.attempts {
				if a.Range.Empty() {
					continue
				}
				if a.Range.From <= from && from <= a.Range.To {
					p.r.To = min(p.r.To, a.Range.To)
					p.ends = append(p.ends, a.ID)
					answered := reason == Refused || reason == Undeliverable
					p.maybe = p.maybe || a.Tries > 1 || a.Tries > 0 && !answered
				} else if a.Range.From > from {
					p.r.To = min(p.r.To, a.Range.From-1)
				}
			}
			ps = append(ps, p)
			from = p.r.To + 1
		}
	})
	return ps
}

// giveUpLocked makes the gaps. times: by piece, and for those it does not hold by r.
func (b *Buffer) giveUpLocked(l *lane, r Range, reason Reason, times map[Range][2]int64) error {
	for _, p := range l.pieces(r, reason) {
		if err := b.putGap(l, p.gap(r, reason, times), p.ends); err != nil {
			return err
		}
	}
	return nil
}

// gap is what becomes of the piece. times: of some pieces, and of r for those it does not hold.
func (p *piece) gap(r Range, reason Reason, times map[Range][2]int64) Gap {
	t, ok := times[p.r]
	if !ok {
		t = times[r]
	}
	return Gap{Range: p.r, N: p.r.Len(), TFrom: t[0], TTo: t[1], Reason: reason, MaybeDelivered: p.maybe}
}

// grows says whether the gap can take in another: like it, and touching it.
func (g *Gap) grows(more *Gap) bool {
	if g.Reason != more.Reason || g.MaybeDelivered != more.MaybeDelivered || g.Range.Empty() != more.Range.Empty() {
		return false
	}
	return more.Range.Empty() || (g.Range.To+1 == more.Range.From || more.Range.To+1 == g.Range.From) && (g.N == 0) == (more.N == 0)
}

// with is the gap grown by another.
func (g Gap) with(more Gap) Gap {
	if !more.Range.Empty() {
		g.Range = Range{min(g.Range.From, more.Range.From), max(g.Range.To, more.Range.To)}
	}
	g.N += more.N
	g.TFrom, g.TTo = earliest(g.TFrom, more.TFrom), max(g.TTo, more.TTo)
	return g
}

// putGap records a new gap, or lets one that is like it and touches it grow.
func (b *Buffer) putGap(l *lane, g Gap, ends []uint64) error {
	g.ID = l.lastGap + 1
	told := uint64(0) // of the readings, by the log
	for _, o := range l.gaps {
		if !o.grows(&g) || l.carried(o.ID) {
			continue
		}
		g, told = o.with(g), o.N
		if n, ok := l.owed[o.ID]; ok {
			told = n
		}
		break
	}
	// While the log cannot be sealed what was not sampled is counted in memory and told in ever larger steps, for there is not much room left.
	count := g.Range.Empty() && len(ends) == 0
	if count && b.sealFailing && b.job != nil && told > 0 && g.N-told <= told/16 {
		l.owe(g.ID, told)
	} else if err := b.record(recGap, func(d []byte) []byte { return appendGap(d, l.epoch, g, ends) }); err == nil {
		delete(l.owed, g.ID)
	} else if count && errors.Is(err, errLogFull) {
		l.owe(g.ID, told)
	} else {
		return err
	}
	l.setGap(g, ends)
	b.countFlight()
	return nil
}

// owe notes that the log says of a gap only that it is of n readings.
func (l *lane) owe(id, n uint64) {
	if l.owed == nil {
		l.owed = map[uint64]uint64{}
	}
	l.owed[id] = n
}

// writeOwed tells the log what it does not say of gaps yet, as far as it has room.
func (b *Buffer) writeOwed() {
	for _, l := range b.lanes {
		for _, id := range sortedKeys(l.owed) {
			if g := l.gap(id); g != nil && b.record(recGap, func(d []byte) []byte { return appendGap(d, l.epoch, *g, nil) }) != nil {
				return
			}
			delete(l.owed, id)
		}
	}
}

// earliest is the smaller of two times, of which 0 is unknown.
func earliest(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Open iterates over polls without outcome and not in an attempt, from the given number on, in order. Safe beside Append and
// outcomes; sees polls appended before the call. Of a poll that is partly open it gives each open run as a Stored of its own.
// Getting to from costs a lookup, not a scan. An error ends the iteration; what is found damaged on the way becomes a gap and is passed over.
func (l *Lane) Open(from Seq) iter.Seq2[Stored, error] { return l.iterate(from, false) }

// All iterates over everything stored, outcome or not, for export. What was delivered is stored only until the next seal or, in a
// segment, as long as something else in it is open; what was thinned as long as there is room, and marked. Where readings without an outcome cannot be read it yields an [UnreadableError], and goes on.
func (l *Lane) All() iter.Seq2[Stored, error] { return l.iterate(1, true) }

// UnreadableError tells of readings that should be stored and cannot be read.
type UnreadableError struct {
	Epoch Epoch
	Range Range
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("epoch %d: readings %d to %d are damaged", e.Epoch, e.Range.From, e.Range.To)
}

// unreadable yields what the reader passed over as far as it has no outcome. False: no more is wanted.
func (l *Lane) unreadable(missed []Range, limit Seq, yield func(Stored, error) bool) bool {
	var without []Range
	l.b.mu.Lock()
	for _, r := range missed {
		l.l.kept.remove(r)
		l.l.done.missing(Range{r.From, min(r.To, limit-1)}, func(r Range) { without = append(without, r) })
	}
	l.b.mu.Unlock()
	return l.tellUnreadable(without, yield)
}

func (l *Lane) tellUnreadable(rs []Range, yield func(Stored, error) bool) bool {
	for _, r := range rs {
		if !yield(Stored{}, &UnreadableError{l.l.epoch, r}) {
			return false
		}
	}
	return true
}

func (l *Lane) iterate(from Seq, all bool) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		b := l.b
		b.mu.Lock()
		limit, lost := l.l.next, l.l.lost
		var kept, marks rangeSet
		if all { // what is evicted after it was read is marked all the same
			kept = l.l.kept.clone()
		}
		b.mu.Unlock()
		if all && !l.tellUnreadable(lost, yield) {
			return
		}
		rd := reader{b: b, l: l.l}
		pos := max(from, 1)
		for pos < limit {
			b.mu.Lock()
			if b.closed {
				b.mu.Unlock()
				yield(Stored{}, ErrClosed)
				return
			}
			if !all {
				r := l.l.open(pos, limit)
				if r.Empty() {
					b.mu.Unlock()
					return
				}
				pos = r.From
			}
			b.mu.Unlock()
			ps, err := rd.read(pos, limit, !all)
			if all && !l.unreadable(rd.missed, limit, yield) {
				return
			}
			rd.missed = rd.missed[:0]
			if err != nil {
				yield(Stored{}, err)
				return
			}
			if len(ps) == 0 {
				return
			}
			if all {
				marks = rangeSet{}
				span := Range{ps[0].first, ps[len(ps)-1].last()}
				kept.within(span, func(r Range) { marks.add(r) })
				b.mu.Lock()
				l.l.kept.within(span, func(r Range) { marks.add(r) })
				b.mu.Unlock()
			}
			for i := range ps {
				for {
					s := Range{max(pos, ps[i].first), min(ps[i].last(), limit-1)}
					if s.Empty() {
						break
					}
					b.mu.Lock()
					if !all {
						s = l.l.open(s.From, s.To+1)
						if s.Empty() {
							b.mu.Unlock()
							break
						}
					}
					thinned := false
					if all {
						s, thinned = marks.run(s)
					}
					st := b.stored(&ps[i], s)
					st.Thinned = thinned
					b.mu.Unlock()
					if !yield(st, nil) {
						return
					}
					pos = s.To + 1
				}
				pos = max(pos, ps[i].last()+1)
			}
		}
	}
}

// stored resolves the poll's time as it is known now.
func (b *Buffer) stored(p *poll, r Range) Stored {
	s := Stored{First: r.From, Readings: p.readings(r), Alarm: p.alarm, Boot: p.stamp.Boot, Mono: p.stamp.Mono, Wall: p.stamp.Wall, Trusted: p.stamp.Trusted}
	var stale bool
	s.Time, stale = b.resolve(p.stamp)
	if stale {
		for i := range s.Readings {
			if s.Readings[i].Quality == drivers.Good {
				s.Readings[i].Quality = drivers.StaleClock
			}
		}
	}
	return s
}

func (b *Buffer) resolve(s drivers.Stamp) (ms int64, stale bool) {
	if s.Trusted {
		return s.Wall, false
	}
	if a, ok := b.anchors[s.Boot]; ok {
		return a.Wall + int64((s.Mono-a.Mono)/time.Millisecond), false
	}
	return s.Wall, true
}
