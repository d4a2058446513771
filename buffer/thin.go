package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	bolterr "go.etcd.io/bbolt/errors"

	"homeward/drivers"
)

// Thin replaces readings by aggregates of them, all or nothing, a crash included: every open number of r gets its outcome, gap reason
// [Thinned], and polls are appended, in order; first is the number of the first of their readings. Durable with the next flush. One gap is
// made for each open run of r, or a gap that touches it, is not in an attempt and has the same reason grows.
//
// The originals are not given by Open any more and count as dropped, but stay stored, marked, for [Lane.All] until there is too little
// room: then they are the first to go, without another outcome.
//
// What of r has its outcome already is left alone (an eviction may be faster than whoever makes the aggregates). Errors, in all cases
// with nothing changed: [ErrOpen] (a number of r is in an attempt or was never given, or none is open), [ErrTooLarge] (polls together
// take more than 52 KB where half the log is the smallest, 64 KB, or 976 KB where it is the usual megabyte; halve r and try again), [ErrFull] (no room in
// the log now), [ErrClosed], [ErrReadOnly], or that the log cannot be written. Each reading of polls must be of quality aggregate, so that
// a receiver who has both an original and its aggregate can tell them apart; a poll's stamp is best that of the first it is made of, see [Stored.Stamp].
func (l *Lane) Thin(r Range, polls []Poll) (first Seq, err error) {
	b := l.b
	if len(polls) == 0 {
		return 0, fmt.Errorf("buffer: nothing to stand for %d to %d", r.From, r.To)
	}
	for i := range polls {
		if err := polls[i].check(b.half); err != nil {
			return 0, err
		}
		for _, rd := range polls[i].Readings {
			if rd.Quality != drivers.Aggregate {
				return 0, fmt.Errorf("buffer: %q of quality %v stands for others, want %v", rd.Channel, rd.Quality, drivers.Aggregate)
			}
		}
	}
	b.mu.Lock()
	ps, err := b.thinnable(l.l, r)
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	times := b.pieceTimes(l.l, r, ps)
	b.mu.Lock()
	defer b.mu.Unlock()
	waited := false
	for {
		if ps, err = b.thinnable(l.l, r); err != nil {
			return 0, err
		}
		if err := b.ready(); err != nil {
			return 0, err
		}
		h := &b.halves[b.active]
		gaps := l.l.thinGaps(r, ps, times)
		offs, undo := b.thinFrames(h, l.l, polls, gaps)
		switch size := len(b.fr.b); {
		case size > b.half-3*reserve(b.half):
			undo()
			return 0, fmt.Errorf("%w: %d bytes for the aggregates of %d to %d", ErrTooLarge, size, r.From, r.To)
		case h.off+size <= b.pollLimit():
			base := h.off
			if err := b.write(h); err != nil {
				undo()
				return 0, err
			}
			first = l.l.next
			for i := range polls {
				b.appended(l.l, h, &polls[i], base+offs[i])
			}
			for _, g := range gaps {
				l.l.setGap(g, nil)
			}
			return first, nil
		}
		undo()
		if err := b.nextHalf(&waited); err != nil {
			return 0, err
		}
	}
}

// thinnable gives the open runs of r.
func (b *Buffer) thinnable(l *lane, r Range) ([]piece, error) {
	if err := b.usable(); err != nil {
		return nil, err
	}
	if r.Empty() || r.To >= l.next || l.flight.overlaps(r) {
		return nil, fmt.Errorf("%w: %d to %d of epoch %d, of which some are in an attempt or were never given", ErrOpen, r.From, r.To, l.epoch)
	}
	ps := l.pieces(r, Thinned)
	if len(ps) == 0 {
		return nil, fmt.Errorf("%w: %d to %d of epoch %d, which all have their outcome", ErrOpen, r.From, r.To, l.epoch)
	}
	return ps, nil
}

// thinGaps says which gaps there are to be, new or grown: as putGap would make them one after another.
func (l *lane) thinGaps(r Range, ps []piece, times map[Range][2]int64) (gaps []Gap) {
	all, last := slices.Clone(l.gaps), l.lastGap
	changed := map[uint64]bool{}
	for i := range ps {
		g := ps[i].gap(r, Thinned, times)
		if k := slices.IndexFunc(all, func(o Gap) bool { return o.grows(&g) && !l.carried(o.ID) }); k >= 0 {
			all[k] = all[k].with(g)
			changed[all[k].ID] = true
			continue
		}
		last++
		g.ID = last
		all = append(all, g)
		changed[g.ID] = true
	}
	return slices.DeleteFunc(all, func(g Gap) bool { return !changed[g.ID] })
}

// thinFrames builds the group of records. The aggregates come before the gaps: whoever does not know groups finds of a torn one
// aggregates beside their originals, which can be told apart, and never a gap for which nothing stands. offs: of the polls' records.
func (b *Buffer) thinFrames(h *half, l *lane, polls []Poll, gaps []Gap) (offs []int, undo func()) {
	b.fr.reset(h)
	b.fr.begin(recGroup)
	b.fr.end()
	var undos []pollUndo
	next := l.next
	for i := range polls {
		undos = append(undos, b.fr.poll(h, b.seed, l.epoch, next, &polls[i]))
		offs = append(offs, b.fr.start)
		next += Seq(len(polls[i].Readings))
	}
	for _, g := range gaps {
		b.fr.begin(recGap)
		b.fr.b = appendGap(b.fr.b, l.epoch, g, nil)
		b.fr.end()
	}
	b.fr.begin(recWhole)
	b.fr.end()
	return offs, func() {
		for _, u := range slices.Backward(undos) {
			u.do(h)
		}
	}
}

// keptIn gives the numbers of a segment that were thinned before a snapshot, whose kept is given, and not removed since.
func (b *Buffer) keptIn(s *segment, kept *rangeSet) (rs []Range) {
	l := b.lanes[s.epoch]
	kept.within(Range{s.first, s.last}, func(r Range) {
		l.kept.within(r, func(r Range) { rs = append(rs, r) })
	})
	return rs
}

// appendThinned is the value of meta.db for the thinned numbers of a segment; nil where there are none.
func appendThinned(b []byte, e Epoch, rs []Range) []byte {
	if len(rs) == 0 {
		return nil
	}
	b = binary.AppendUvarint(b, uint64(e))
	b = binary.AppendUvarint(b, uint64(len(rs)))
	last := Seq(0)
	for _, r := range rs {
		b = binary.AppendUvarint(b, uint64(r.From-last))
		b = binary.AppendUvarint(b, uint64(r.To-r.From))
		last = r.To
	}
	return b
}

func decodeThinned(v []byte) (e Epoch, rs []Range, ok bool) {
	d := &decoder{b: v}
	e = d.epoch()
	last := Seq(0)
	for range d.count(2) {
		from := last + d.seq()
		last = from + d.seq()
		if from == 0 || last > maxSeq {
			return e, nil, false
		}
		rs = append(rs, Range{from, last})
	}
	return e, rs, d.done() && len(rs) > 0
}

// trimKept forgets of the thinned what is stored nowhere any more.
func (b *Buffer) trimKept(l *lane) {
	if l.kept.n == 0 {
		return
	}
	var stored, kept rangeSet
	for _, s := range l.segs {
		stored.add(Range{s.first, s.last})
	}
	for i := range b.halves {
		if hl := b.halves[i].lanes[l.epoch]; hl != nil {
			stored.add(Range{hl.first, hl.next - 1})
		}
	}
	for _, r := range stored.r {
		l.kept.within(r, func(r Range) { kept.add(r) })
	}
	l.kept = kept
}

// mark lets a segment say itself that all it holds has its outcome, and which are originals: if meta.db were lost they would be delivered
// beside their aggregates. Where it cannot be written nothing else changes.
func (b *Buffer) mark(s *segment) {
	b.mu.Lock()
	all := Range{s.first, s.last}
	var rs []Range
	b.lanes[s.epoch].kept.within(all, func(r Range) { rs = append(rs, r) })
	b.mu.Unlock()
	if len(rs) == 0 {
		return
	}
	v := appendThinned(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(all.From)), uint64(all.To)), s.epoch, rs)
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	if s.gone || s.raw != nil {
		return
	}
	db, err := b.use(s, true)
	if err == nil {
		err = b.update(db, s.name(), func(tx *boltTx) error {
			bk, err := tx.CreateBucketIfNotExists(bucketDecided)
			if err != nil {
				return err
			}
			return bk.Put([]byte(keyDecided), sealValue(keyDecided, v))
		})
		if err != nil {
			b.closeSeg(s)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.marked = err == nil || errors.Is(err, bolterr.ErrMaxSizeReached)
}

// foundDecided takes what mark wrote to a segment of the epoch that holds the range.
func (s *segment) foundDecided(sealed []byte, epoch Epoch, held Range) {
	v, ok := openValue(keyDecided, sealed)
	if !ok {
		return
	}
	d := &decoder{b: v}
	all := Range{d.seq(), d.seq()}
	e, rs, ok := decodeThinned(d.b)
	if d.bad || !ok || e != epoch || all.intersect(held) != all || rs[0].From < all.From || rs[len(rs)-1].To > all.To {
		return
	}
	s.decided, s.thinned = all, rs
}
