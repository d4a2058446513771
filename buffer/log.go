package buffer

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"time"

	"homeward/drivers"
)

// The tail log: one file of two halves, each a run of records that start at its
// beginning. docs/buffer.md draws it to the byte.

const (
	logName       = "tail.log"
	formatVersion = 1
	frameHeader   = 20 // length, CRC-32C, generation, CRC of the record before, flushed; 4 bytes each
	minHalf       = 64 << 10
	maxHalf       = 64 << 20
	maxName       = 1024 // bytes of a channel's full name or a unit
)

// reserve is kept at the end of a half, for side records beside readings and half of it for gaps beside both, so that what gives
// way can be told when nothing else fits any more.
func reserve(half int) int { return min(half/16, 16<<10) }

type recType byte

// The records of the log.
const (
	recHead    recType = 1 // first of a half: version, half's size, each lane's next number
	recShape   recType = 2 // names and units of a poll's channels
	recBoot    recType = 3 // a boot id
	recPoll    recType = 4
	recAttempt recType = 5
	recRetried recType = 6
	recDone    recType = 7 // an attempt acked or released
	recRanges  recType = 8 // delivered on a receiver's word
	recGap     recType = 9 // a gap made or grown, and the attempts that it ends
	recAnchor  recType = 10
	recSide    recType = 11
	recGroup   recType = 12 // what follows up to a recWhole counts only with it
	recWhole   recType = 13
)

// shape is what polls of one sensor have in common.
type shape struct {
	names []string
	units []drivers.Unit
}

func (s *shape) is(rs []drivers.Reading) bool {
	if len(rs) != len(s.names) {
		return false
	}
	for i := range rs {
		if rs[i].Channel != s.names[i] || rs[i].Unit != s.units[i] {
			return false
		}
	}
	return true
}

func shapeHash(seed maphash.Seed, rs []drivers.Reading) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for i := range rs {
		h.WriteString(rs[i].Channel)
		h.WriteByte(0)
		h.WriteString(string(rs[i].Unit))
		h.WriteByte(0)
	}
	return h.Sum64()
}

// poll is a Poll as stored.
type poll struct {
	first  Seq
	stamp  drivers.Stamp
	shape  *shape
	values []float64
	quals  []drivers.Quality // nil: all good
	alarm  bool
}

func (p *poll) last() Seq   { return p.first + Seq(len(p.values)) - 1 }
func (p *poll) span() Range { return Range{p.first, p.last()} }

// readings gives those numbered r of the poll.
func (p *poll) readings(r Range) []drivers.Reading {
	out := make([]drivers.Reading, r.Len())
	for i := range out {
		k := int(r.From-p.first) + i
		out[i] = drivers.Reading{Channel: p.shape.names[k], Unit: p.shape.units[k], Value: p.values[k]}
		if p.quals != nil {
			out[i].Quality = p.quals[k]
		}
	}
	return out
}

// half is one half of the log. generation 0: it holds nothing that is needed.
type half struct {
	gen      uint32
	off      int    // end of the records
	prev     uint32 // CRC of the last one
	flushed  int    // up to here it is on disk
	unsynced []byte // what was written from flushed on
	used     bool   // more than the head and what repeats it

	shapes []*shape
	byHash map[uint64]int // the latest shape with the hash
	boots  [][16]byte
	lanes  map[Epoch]*halfLane
}

// halfLane says where a lane's polls are in a half: all of first ≤ n < next.
type halfLane struct {
	first, next Seq
	index       []indexEntry // one poll in each 4 KB or so
}

type indexEntry struct {
	seq Seq
	off int
}

const indexStep = 4096

func (h *half) note(e Epoch, first Seq, n int, off int) {
	hl := h.lanes[e]
	if hl == nil {
		hl = &halfLane{first: first}
		h.lanes[e] = hl
	}
	hl.next = first + Seq(n)
	if k := len(hl.index); k == 0 || off-hl.index[k-1].off >= indexStep {
		hl.index = append(hl.index, indexEntry{first, off})
	}
}

func (h *half) reset(gen uint32) {
	*h = half{gen: gen, byHash: map[uint64]int{}, lanes: map[Epoch]*halfLane{}, unsynced: h.unsynced[:0]}
}

// frames builds records behind each other, to be written at once.
type frames struct {
	b     []byte
	start int
	gen   uint32
	prev  uint32
	mark  uint32
}

func (f *frames) reset(h *half) {
	f.b, f.gen, f.prev, f.mark = f.b[:0], h.gen, h.prev, uint32(h.flushed)
	if cap(f.b) > 64<<10 { // an attempt's bytes need not stay
		f.b = nil
	}
}

func (f *frames) begin(t recType) {
	f.start = len(f.b)
	f.b = append(f.b, make([]byte, frameHeader)...)
	f.b = append(f.b, byte(t))
}

func (f *frames) end() {
	h := f.b[f.start:]
	le := binary.LittleEndian
	le.PutUint32(h[0:], uint32(len(h)-frameHeader))
	le.PutUint32(h[8:], f.gen)
	le.PutUint32(h[12:], f.prev)
	le.PutUint32(h[16:], f.mark)
	f.prev = frameCRC(h)
	le.PutUint32(h[4:], f.prev)
}

func frameCRC(h []byte) uint32 {
	var head [frameHeader - 4]byte
	copy(head[:4], h[:4])
	copy(head[4:], h[8:frameHeader])
	return crcUpdate(crc(head[:]), h[frameHeader:])
}

// untorn is buf without a group of records at its end that a torn write left without its recWhole. A group that damage
// has a part in counts as far as it can be read.
func untorn(buf []byte, gen uint32) []byte {
	group := -1
	s := scanHalf(buf, gen, func(off int, payload []byte) {
		switch recType(payload[0]) {
		case recGroup:
			group = off
		case recWhole:
			group = -1
		}
	})
	if group < 0 || len(s.damaged) > 0 && s.damaged[len(s.damaged)-1][0] >= group {
		return buf
	}
	return buf[:group]
}

type frame struct {
	payload              []byte // type and body
	next                 int    // offset of what follows
	crc, gen, prev, mark uint32
}

// frameAt reads the record at off; it checks all but the chain. gen 0: any.
func frameAt(buf []byte, off int, gen uint32) (frame, bool) {
	return frameIn(buf, off, off, gen)
}

func frameBytes(h []byte, off int, gen uint32) (fr frame, ok bool) {
	if len(h) < frameHeader+1 {
		return fr, false
	}
	le := binary.LittleEndian
	n := le.Uint32(h)
	fr.crc, fr.gen, fr.prev, fr.mark = le.Uint32(h[4:]), le.Uint32(h[8:]), le.Uint32(h[12:]), le.Uint32(h[16:])
	if n == 0 || uint64(n) > uint64(len(h)-frameHeader) || fr.gen == 0 || gen != 0 && fr.gen != gen || uint64(fr.mark) > uint64(off) {
		return fr, false
	}
	h = h[:frameHeader+int(n)]
	if frameCRC(h) != fr.crc {
		return fr, false
	}
	fr.payload, fr.next = h[frameHeader:], len(h)
	return fr, true
}

// scan is what reading a half from disk found.
type scan struct {
	gen     uint32
	end     int
	prev    uint32
	head    bool     // the first record is whole
	damaged [][2]int // spans that had been flushed and are not readable now
}

// scanHalf visits the records of a half in order and stops at the first that
// fails, unless a later one proves (its flushed mark) that what fails had been
// on disk: then it is damage, not a torn tail, and the scan goes on behind it.
// minGen: when the head is lost, records of an older generation are not looked at.
func scanHalf(buf []byte, minGen uint32, visit func(off int, payload []byte)) scan {
	var s scan
	if fr, ok := frameAt(buf, 0, 0); ok && recType(fr.payload[0]) == recHead && fr.prev == 0 {
		s.gen, s.head = fr.gen, true
	}
	budget := 64 * len(buf) // of bytes put through the CRC by the search
	for {
		fr, ok := frameAt(buf, s.end, s.gen)
		if ok && s.gen != 0 && fr.prev == s.prev {
			visit(s.end, fr.payload)
			s.end, s.prev = fr.next, fr.crc
			continue
		}
		next, found := findProof(buf, s.end, s.gen, minGen, &budget)
		if !found {
			return s
		}
		s.damaged = append(s.damaged, [2]int{s.end, next})
		fr, _ = frameAt(buf, next, 0)
		s.gen, s.prev, s.end = fr.gen, fr.prev, next
	}
}

// findProof looks behind off for the first record of a chain in which one was
// written after off had been flushed. gen 0: the chain's generation is not
// known, only that it is at least minGen.
func findProof(buf []byte, off int, gen, minGen uint32, budget *int) (int, bool) {
	le := binary.LittleEndian
	for at := off; at+frameHeader < len(buf) && *budget > 0; at++ {
		n := le.Uint32(buf[at:])
		if n == 0 || uint64(n) > uint64(len(buf)-at-frameHeader) {
			continue
		}
		if g := le.Uint32(buf[at+8:]); g == 0 || gen != 0 && g != gen || g < minGen {
			continue
		}
		if uint64(le.Uint32(buf[at+16:])) > uint64(at) {
			continue
		}
		*budget -= int(n)
		fr, ok := frameAt(buf, at, gen)
		if !ok {
			continue
		}
		start, g := at, fr.gen
		for ok {
			if int(fr.mark) > off {
				return start, true
			}
			*budget -= len(fr.payload)
			at = fr.next
			prev := fr.crc
			fr, ok = frameAt(buf, at, g)
			ok = ok && fr.prev == prev
		}
		at-- // the loop steps on
	}
	return 0, false
}

// poll appends the poll's record, before it those of its shape and boot where the half
// does not have them yet. The result takes them back out of the half's tables.
func (f *frames) poll(h *half, seed maphash.Seed, e Epoch, first Seq, p *Poll) pollUndo {
	hash := shapeHash(seed, p.Readings)
	id, had := h.byHash[hash]
	undo := pollUndo{len(h.shapes), len(h.boots), hash, id, had}
	if !had || !h.shapes[id].is(p.Readings) {
		id = len(h.shapes)
		s := &shape{make([]string, len(p.Readings)), make([]drivers.Unit, len(p.Readings))}
		f.begin(recShape)
		f.b = binary.AppendUvarint(f.b, uint64(id))
		f.b = binary.AppendUvarint(f.b, uint64(len(p.Readings)))
		for i, r := range p.Readings {
			s.names[i], s.units[i] = strings.Clone(r.Channel), drivers.Unit(strings.Clone(string(r.Unit)))
			f.b = appendString(appendString(f.b, r.Channel), string(r.Unit))
		}
		f.end()
		h.shapes, h.byHash[hash] = append(h.shapes, s), id
	}
	boot := slices.Index(h.boots, p.Stamp.Boot)
	if boot < 0 {
		boot = len(h.boots)
		f.begin(recBoot)
		f.b = binary.AppendUvarint(f.b, uint64(boot))
		f.b = append(f.b, p.Stamp.Boot[:]...)
		f.end()
		h.boots = append(h.boots, p.Stamp.Boot)
	}
	f.begin(recPoll)
	f.b = binary.AppendUvarint(f.b, uint64(e))
	f.b = binary.AppendUvarint(f.b, uint64(first))
	f.b = binary.AppendUvarint(f.b, uint64(len(p.Readings)))
	var flags byte
	if p.Alarm {
		flags |= flagAlarm
	}
	if p.Stamp.Trusted {
		flags |= flagTrusted
	}
	for _, r := range p.Readings {
		if r.Quality != drivers.Good {
			flags |= flagQuality
		}
	}
	f.b = append(f.b, flags)
	f.b = binary.AppendUvarint(f.b, uint64(id))
	f.b = binary.AppendUvarint(f.b, uint64(boot))
	f.b = binary.AppendVarint(f.b, int64(p.Stamp.Mono))
	f.b = binary.AppendVarint(f.b, p.Stamp.Wall)
	if flags&flagQuality != 0 {
		for _, r := range p.Readings {
			f.b = append(f.b, byte(r.Quality))
		}
	}
	for _, r := range p.Readings {
		f.b = binary.LittleEndian.AppendUint64(f.b, math.Float64bits(r.Value))
	}
	f.end()
	return undo
}

// pollUndo takes out of the half's tables what a poll that is not written had put in.
type pollUndo struct {
	shapes, boots int
	hash          uint64
	old           int
	had           bool
}

func (u pollUndo) do(h *half) {
	h.shapes, h.boots = h.shapes[:u.shapes], h.boots[:u.boots]
	if u.had {
		h.byHash[u.hash] = u.old
	} else {
		delete(h.byHash, u.hash)
	}
}

const (
	flagAlarm   = 1
	flagTrusted = 2
	flagQuality = 4
)

// pollRecord is the body of a recPoll; the poll's shape is nil when the half
// does not (any more) say what it is.
type pollRecord struct {
	epoch Epoch
	n     int
	poll  poll
}

// pollHead reads only whose numbers a poll record holds.
func pollHead(body []byte) (e Epoch, first Seq, n int, ok bool) {
	d := decoder{b: body}
	e, first, n = d.epoch(), d.seq(), int(min(d.uvarint(), 1<<17))
	return e, first, n, !d.bad && first > 0 && n > 0 && n <= maxReadings
}

func (h *half) decodePoll(body []byte) (r pollRecord, ok bool) {
	d := decoder{b: body}
	r.epoch, r.poll.first = d.epoch(), d.seq()
	r.n = d.count(8)
	flags := d.byte()
	id, boot := d.uvarint(), d.uvarint()
	r.poll.stamp.Mono, r.poll.stamp.Wall = time.Duration(d.varint()), d.varint()
	r.poll.stamp.Trusted, r.poll.alarm = flags&flagTrusted != 0, flags&flagAlarm != 0
	var quals []byte
	if flags&flagQuality != 0 {
		quals = d.bytes(uint64(r.n))
	}
	raw := d.bytes(8 * uint64(r.n))
	if !d.done() || r.n == 0 || r.n > maxReadings || r.poll.first == 0 {
		return r, false
	}
	if id >= uint64(len(h.shapes)) || h.shapes[id] == nil || len(h.shapes[id].names) != r.n || boot >= uint64(len(h.boots)) {
		return r, false
	}
	r.poll.shape, r.poll.stamp.Boot = h.shapes[id], h.boots[boot]
	if quals != nil {
		r.poll.quals = make([]drivers.Quality, r.n)
		for i, q := range quals {
			r.poll.quals[i] = drivers.Quality(q)
		}
	}
	r.poll.values = make([]float64, r.n)
	for i := range r.poll.values {
		r.poll.values[i] = math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:]))
	}
	return r, true
}

// define takes a recShape or recBoot into the half's tables.
func (h *half) define(t recType, body []byte, seed maphash.Seed) bool {
	d := decoder{b: body}
	id := d.uvarint()
	switch t {
	case recShape:
		n := d.count(2)
		s := &shape{make([]string, n), make([]drivers.Unit, n)}
		rs := make([]drivers.Reading, n)
		for i := range n {
			s.names[i], s.units[i] = d.string(), drivers.Unit(d.string())
			rs[i] = drivers.Reading{Channel: s.names[i], Unit: s.units[i]}
		}
		if !d.done() || n == 0 || id > 1<<16 {
			return false
		}
		for uint64(len(h.shapes)) < id { // lost to damage
			h.shapes = append(h.shapes, nil)
		}
		if uint64(len(h.shapes)) == id {
			h.shapes = append(h.shapes, s)
		}
		h.shapes[id] = s
		h.byHash[shapeHash(seed, rs)] = int(id)
	case recBoot:
		boot := d.boot()
		if !d.done() || id > 1<<16 {
			return false
		}
		for uint64(len(h.boots)) <= id {
			h.boots = append(h.boots, [16]byte{})
		}
		h.boots[id] = boot
	}
	return true
}

// frameIn is frameAt for a buffer that begins somewhere in a half: at is the offset in it, off that in the half.
func frameIn(buf []byte, at, off int, gen uint32) (frame, bool) {
	if at >= len(buf) {
		return frame{}, false
	}
	fr, ok := frameBytes(buf[at:], off, gen)
	fr.next += at
	return fr, ok
}

// frameSize is what the record at the beginning of buf says its size is.
func frameSize(buf []byte, half int) (int, bool) {
	if len(buf) < frameHeader {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(buf)
	return frameHeader + int(n&0x7fffffff), n > 0 && n < uint32(half)
}
