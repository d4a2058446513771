package buffer

import (
	"fmt"
	"io"
	"slices"
)

// reader reads a lane's polls back, from wherever they are now.
type reader struct {
	b   *Buffer
	l   *lane
	buf []byte

	missed []Range // what was passed over and not mended
}

const (
	readChunk = 32 << 10
	maxMissed = 1 << 16
)

// read gives some polls that follow each other, of which the first ends at or
// after pos. What is nowhere is passed over, and with mend made a gap of reason
// damaged. No polls: there is nothing from pos on.
func (rd *reader) read(pos, limit Seq, mend bool) ([]poll, error) {
	b := rd.b
	last := Seq(0)
	for tries := 0; ; tries++ {
		if pos != last {
			last, tries = pos, 0
		}
		if tries > 100 {
			return nil, fmt.Errorf("buffer: reading %d of epoch %d: moved too often", pos, rd.l.epoch)
		}
		b.mu.Lock()
		w := b.where(rd.l, pos)
		b.mu.Unlock()
		switch {
		case w.half >= 0:
			ps, err := rd.tail(w, pos)
			b.mu.Lock()
			same := b.halves[w.half].gen == w.gen && b.tail == w.tail
			b.mu.Unlock()
			if err != nil && same {
				return nil, err
			}
			if len(ps) == 0 && !same { // sealed meanwhile
				continue
			}
			next := w.next
			if len(ps) > 0 {
				next = ps[0].first
			}
			if next > pos { // the log does not hold what it should
				rd.pass(Range{pos, min(next, limit) - 1}, mend)
				pos = next
			}
			if len(ps) > 0 {
				return run(ps), nil
			}
		case w.seg != nil:
			ps, err := b.segPolls(w.seg, pos)
			if err != nil {
				return nil, err
			}
			if len(ps) == 0 { // removed, or found shorter than it was
				continue
			}
			if ps[0].first > pos {
				rd.pass(Range{pos, min(ps[0].first, limit) - 1}, mend)
			}
			return run(ps), nil
		case w.hole.Empty():
			return nil, nil
		default:
			rd.pass(w.hole, mend)
			pos = w.hole.To + 1
		}
		if pos >= limit {
			return nil, nil
		}
	}
}

// run is the part of ps up to the first hole.
func run(ps []poll) []poll {
	for i := 1; i < len(ps); i++ {
		if ps[i].first != ps[i-1].last()+1 {
			return ps[:i]
		}
	}
	return ps
}

func (rd *reader) pass(hole Range, mend bool) {
	switch {
	case hole.Empty():
	case mend && !rd.b.readOnly:
		rd.b.mendHole(rd.l, hole)
	case len(rd.missed) < maxMissed:
		rd.missed = append(rd.missed, hole)
	}
}

// place says where a number is.
type place struct {
	half      int // -1: not in the log
	gen       uint32
	from, end int // offsets in the half
	next      Seq // what the index leads to next
	tail      File
	tables    half // tables only

	seg  *segment
	hole Range // neither: up to before the next that is stored
}

func (b *Buffer) where(l *lane, pos Seq) place {
	if pos >= l.next {
		return place{half: -1}
	}
	hole := Range{pos, l.next - 1}
	for _, i := range []int{1 - b.active, b.active} {
		h := &b.halves[i]
		hl := h.lanes[l.epoch]
		if hl == nil || pos >= hl.next {
			continue
		}
		if pos < hl.first {
			hole.To = min(hole.To, hl.first-1)
			continue
		}
		k, ok := slices.BinarySearchFunc(hl.index, pos, func(e indexEntry, s Seq) int {
			if e.seq < s {
				return -1
			} else if e.seq > s {
				return 1
			}
			return 0
		})
		if !ok {
			k = max(k-1, 0)
		}
		next := hl.next
		if k+1 < len(hl.index) {
			next = hl.index[k+1].seq
		}
		return place{half: i, gen: h.gen, from: hl.index[k].off, end: h.off, next: next, tail: b.tail,
			tables: half{shapes: h.shapes, boots: h.boots}}
	}
	for _, s := range l.segs {
		if s.first <= pos && pos <= s.last {
			return place{half: -1, seg: s}
		}
		if s.first > pos {
			hole.To = min(hole.To, s.first-1)
		}
	}
	return place{half: -1, hole: hole}
}

// tail reads polls from a half of the log, which may be overwritten meanwhile:
// then the generation or the CRC does not fit, and there are fewer or none.
func (rd *reader) tail(w place, pos Seq) ([]poll, error) {
	if n := min(readChunk, w.end-w.from); len(rd.buf) < n {
		rd.buf = make([]byte, n)
	}
	base := int64(w.half) * int64(rd.b.half)
	var ps []poll
	for off := w.from; off < w.end && len(ps) == 0; {
		buf := rd.buf[:min(len(rd.buf), w.end-off)]
		n, err := w.tail.ReadAt(buf, base+int64(off))
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("buffer: read the log: %w", err)
		}
		buf = buf[:n]
		at := 0
		for {
			fr, ok := frameIn(buf, at, off+at, w.gen)
			if !ok {
				break
			}
			if recType(fr.payload[0]) == recPoll {
				if e, first, cnt, ok := pollHead(fr.payload[1:]); ok && e == rd.l.epoch && first+Seq(cnt) > pos {
					if r, ok := w.tables.decodePoll(fr.payload[1:]); ok {
						ps = append(ps, r.poll)
					}
				}
			}
			at = fr.next
		}
		if at > 0 {
			off += at
			continue
		}
		size, ok := frameSize(buf, rd.b.half)
		switch {
		case ok && size > len(buf) && size <= w.end-off: // larger than a chunk
			rd.buf = make([]byte, size)
		case ok && size <= len(buf): // damaged: try the next
			off += size
		default:
			return ps, nil
		}
	}
	return ps, nil
}

// timesOf resolves the times of the first and the last of the range; 0 where they cannot be read.
func (b *Buffer) timesOf(l *lane, r Range) (from, to int64) {
	rd := reader{b: b, l: l}
	at := func(s Seq) int64 {
		ps, err := rd.read(s, s+1, false)
		if err != nil || len(ps) == 0 || ps[0].first > s {
			return 0
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		t, _ := b.resolve(ps[0].stamp)
		return t
	}
	return at(r.From), at(r.To)
}

// mendHole makes a gap of what is neither stored nor has an outcome.
func (b *Buffer) mendHole(l *lane, r Range) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.usable() != nil {
		return
	}
	for from := r.From; ; { // an attempt keeps its own bytes: it may still be delivered
		open := l.open(from, r.To+1)
		if open.Empty() {
			return
		}
		if err := b.giveUpLocked(l, open, Damaged, nil); err != nil {
			b.failed("gap not written, only kept until the next seal", err)
			b.unwritten = b.halves[b.active].gen
			for _, p := range l.pieces(open, Damaged) { // or the reader would come back for ever
				l.setGap(Gap{ID: l.lastGap + 1, Range: p.r, N: p.r.Len(), Reason: Damaged, MaybeDelivered: p.maybe}, p.ends)
			}
			b.countFlight()
		}
		from = open.To + 1
	}
}
