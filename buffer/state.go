package buffer

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"
)

// What the buffer knows about its readings. Every change is a record of the tail log, and the
// same apply functions serve the running buffer and the replay, so that the state is meta.db's
// snapshot plus the records of later generations, nothing else.

type anchor struct {
	Mono time.Duration `json:"mono"`
	Wall int64         `json:"wall"`
}

type state struct {
	lanes   map[Epoch]*lane
	anchors map[[16]byte]anchor
	side    map[string][]byte
}

func newState() state {
	return state{map[Epoch]*lane{}, map[[16]byte]anchor{}, map[string][]byte{}}
}

// lane is one epoch's part of the state.
type lane struct {
	epoch       Epoch
	next        Seq
	done        rangeSet // numbers that have their outcome
	flight      rangeSet // numbers in attempts and not done
	attempts    []*Attempt
	gaps        []Gap // not yet reported, by id
	lastGap     uint64
	lastAttempt uint64
	delivered   uint64
	dropped     uint64
	thinned     uint64 // of dropped
	gapsEver    uint64

	kept rangeSet // of done: thinned, and still stored as far as is known

	owed     map[uint64]uint64 // gaps of which the log says only so many readings
	segs     []*segment        // by number, which is by age
	appended chan struct{}
	oldest   oldest
	lost     []Range // opened to look only: what is nowhere, which else would be a gap already
}

// oldest caches the stamp of the oldest pending reading.
type oldest struct {
	known bool
	seq   Seq
	time  int64
	mono  time.Duration
	boot  [16]byte
}

func (s *state) lane(e Epoch) *lane {
	l := s.lanes[e]
	if l == nil {
		l = &lane{epoch: e, next: 1}
		s.lanes[e] = l
	}
	return l
}

func (s *state) epochs() []Epoch { return slices.Sorted(maps.Keys(s.lanes)) }

func (l *lane) pending() uint64 { return uint64(l.next-1) - l.done.n }

// first is the oldest number without an outcome, or next.
func (l *lane) first() Seq {
	if c := l.done.cover(1); !c.Empty() {
		return c.To + 1
	}
	return 1
}

// open finds the first run of numbers at or after from that have no outcome, are in no attempt
// and are before limit.
func (l *lane) open(from, limit Seq) Range {
	for from < limit {
		c := l.done.cover(from)
		if c.Empty() {
			if c = l.flight.cover(from); c.Empty() {
				break
			}
		}
		from = c.To + 1
	}
	if from >= limit {
		return Range{}
	}
	to := limit - 1
	if i := l.done.at(from); i < len(l.done.r) {
		to = min(to, l.done.r[i].From-1)
	}
	if i := l.flight.at(from); i < len(l.flight.r) {
		to = min(to, l.flight.r[i].From-1)
	}
	return Range{from, to}
}

func (l *lane) attempt(id uint64) *Attempt {
	for _, a := range l.attempts {
		if a.ID == id {
			return a
		}
	}
	return nil
}

func (l *lane) gap(id uint64) *Gap {
	for i := range l.gaps {
		if l.gaps[i].ID == id {
			return &l.gaps[i]
		}
	}
	return nil
}

// carried says which attempt reports the gap.
func (l *lane) carried(id uint64) bool {
	for _, a := range l.attempts {
		if slices.Contains(a.Gaps, id) {
			return true
		}
	}
	return false
}

func (l *lane) addAttempt(a *Attempt) {
	if l.attempt(a.ID) != nil {
		return
	}
	l.attempts = append(l.attempts, a)
	l.lastAttempt = max(l.lastAttempt, a.ID)
	l.done.missing(a.Range, func(r Range) { l.flight.add(r) })
}

// end takes an attempt away. Its gaps are done when it was delivered, and open again otherwise.
func (l *lane) end(id uint64, delivered bool) {
	a := l.attempt(id)
	if a == nil {
		return
	}
	l.attempts = slices.DeleteFunc(l.attempts, func(x *Attempt) bool { return x == a })
	l.flight.remove(a.Range)
	if delivered {
		l.delivered += l.done.add(a.Range)
		l.gaps = slices.DeleteFunc(l.gaps, func(g Gap) bool { return slices.Contains(a.Gaps, g.ID) })
	}
}

// addRanges takes what a receiver has; attempts of which nothing is missing any more are delivered.
func (l *lane) addRanges(rs []Range) {
	for _, r := range rs {
		l.flight.remove(r)
		l.delivered += l.done.add(r)
	}
	for _, a := range slices.Clone(l.attempts) {
		if !a.Range.Empty() && l.done.has(a.Range) {
			l.end(a.ID, true)
		}
	}
}

// setGap makes or grows a gap. Its numbers have their outcome with it.
func (l *lane) setGap(g Gap, ends []uint64) {
	for _, id := range ends {
		l.end(id, false)
	}
	if g.Reason == Thinned {
		l.done.missing(g.Range, func(r Range) { l.kept.add(r) })
	}
	if l.done.add(g.Range) > 0 {
		l.flight.remove(g.Range)
	}
	lost := g.N
	if old := l.gap(g.ID); old != nil {
		lost = g.N - min(g.N, old.N)
		*old = g
	} else if g.ID > l.lastGap {
		l.gaps = append(l.gaps, g)
		l.lastGap = g.ID
		l.gapsEver++
	} else { // reported since
		return
	}
	if g.Reason != Unsampled {
		l.dropped += lost
	}
	if g.Reason == Thinned {
		l.thinned += lost
	}
	l.next = max(l.next, g.Range.To+1)
}

// The bodies of the side records.

func appendAttempt(b []byte, e Epoch, a *Attempt) []byte {
	b = binary.AppendUvarint(b, uint64(e))
	b = binary.AppendUvarint(b, a.ID)
	b = binary.AppendUvarint(b, uint64(a.Range.From))
	b = binary.AppendUvarint(b, uint64(a.Range.To))
	b = append(b, flag(a.Alarm))
	b = binary.AppendUvarint(b, uint64(a.Tries))
	b = binary.AppendUvarint(b, uint64(a.Cost))
	b = binary.AppendUvarint(b, uint64(len(a.Gaps)))
	for _, id := range a.Gaps {
		b = binary.AppendUvarint(b, id)
	}
	return appendString(b, string(a.Payload))
}

func decodeAttempt(d *decoder) (Epoch, *Attempt) {
	e := d.epoch()
	a := &Attempt{ID: d.uvarint(), Range: Range{d.seq(), d.seq()}, Alarm: d.byte() != 0,
		Tries: int(d.uvarint() & 0x7fffffff), Cost: int(d.uvarint() & 0x7fffffff)}
	for range d.count(1) {
		a.Gaps = append(a.Gaps, d.uvarint())
	}
	a.Payload = slices.Clone(d.bytes(d.uvarint()))
	return e, a
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func appendGap(b []byte, e Epoch, g Gap, ends []uint64) []byte {
	b = binary.AppendUvarint(b, uint64(e))
	b = binary.AppendUvarint(b, g.ID)
	b = binary.AppendUvarint(b, uint64(g.Range.From))
	b = binary.AppendUvarint(b, uint64(g.Range.To))
	b = binary.AppendUvarint(b, g.N)
	b = binary.AppendVarint(b, g.TFrom)
	b = binary.AppendVarint(b, g.TTo)
	b = append(b, flag(g.MaybeDelivered))
	b = appendString(b, string(g.Reason))
	b = binary.AppendUvarint(b, uint64(len(ends)))
	for _, id := range ends {
		b = binary.AppendUvarint(b, id)
	}
	return b
}

func decodeGap(d *decoder) (e Epoch, g Gap, ends []uint64) {
	e = d.epoch()
	g = Gap{ID: d.uvarint(), Range: Range{d.seq(), d.seq()}, N: d.uvarint(), TFrom: d.varint(), TTo: d.varint(),
		MaybeDelivered: d.byte() != 0, Reason: Reason(d.string())}
	for range d.count(1) {
		ends = append(ends, d.uvarint())
	}
	return e, g, ends
}

// applySide replays a side record. False: it cannot be read.
func (s *state) applySide(t recType, body []byte) bool {
	d := &decoder{b: body}
	switch t {
	case recAttempt:
		if e, a := decodeAttempt(d); d.done() {
			s.lane(e).addAttempt(a)
		}
	case recRetried:
		e, id, tries := d.epoch(), d.uvarint(), int(d.uvarint()&0x7fffffff)
		if d.done() {
			if a := s.lane(e).attempt(id); a != nil {
				a.Tries = tries
			}
		}
	case recDone:
		e, id, delivered := d.epoch(), d.uvarint(), d.byte()
		if d.done() {
			s.lane(e).end(id, delivered != 0)
		}
	case recRanges:
		e := d.epoch()
		var rs []Range
		for range d.count(2) {
			rs = append(rs, Range{d.seq(), d.seq()})
		}
		if d.done() {
			s.lane(e).addRanges(rs)
		}
	case recGap:
		if e, g, ends := decodeGap(d); d.done() {
			s.lane(e).setGap(g, ends)
		}
	case recAnchor:
		boot, mono, wall := d.boot(), d.varint(), d.varint()
		if d.done() {
			s.anchors[boot] = anchor{time.Duration(mono), wall}
		}
	case recSide:
		key, set := d.string(), d.byte()
		value := slices.Clone(d.bytes(d.uvarint()))
		if d.done() {
			if set != 0 {
				s.side[key] = value
			} else {
				delete(s.side, key)
			}
		}
	default:
		return true // of a later version: not ours to judge
	}
	return !d.bad && len(d.b) == 0
}

func appendHead(b []byte, half int, s *state) []byte {
	b = append(b, formatVersion)
	b = binary.AppendUvarint(b, uint64(half))
	b = binary.AppendUvarint(b, uint64(len(s.lanes)))
	for _, e := range s.epochs() {
		b = binary.AppendUvarint(b, uint64(e))
		b = binary.AppendUvarint(b, uint64(s.lanes[e].next))
	}
	return b
}

type headRecord struct {
	version byte
	half    int
	next    map[Epoch]Seq
}

func decodeHead(body []byte) (h headRecord, ok bool) {
	d := &decoder{b: body}
	h = headRecord{version: d.byte(), half: int(d.uvarint() & 0x7fffffff), next: map[Epoch]Seq{}}
	for range d.count(2) {
		e := d.epoch()
		h.next[e] = d.seq()
	}
	return h, d.done()
}

func appendAnchor(b []byte, boot [16]byte, a anchor) []byte {
	b = append(b, boot[:]...)
	b = binary.AppendVarint(b, int64(a.Mono))
	return binary.AppendVarint(b, a.Wall)
}

func appendSide(b []byte, key string, value []byte) []byte {
	b = appendString(b, key)
	b = append(b, flag(value != nil))
	return appendString(b, string(value))
}
