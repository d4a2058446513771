package buffer

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The values of meta.db. Each starts with a CRC-32C of its key and the rest, for bbolt's data pages have none.

// metaHead is under key "head".
type metaHead struct {
	Version int    `json:"version"`
	Gen     uint32 `json:"generation"` // halves up to this one are sealed
	Segment uint64 `json:"segment"`    // the highest number given to a segment
}

// metaLane is under key "lane/<epoch>".
type metaLane struct {
	Next        Seq           `json:"next"`
	Done        [][2]Seq      `json:"done,omitempty"`
	Gaps        []metaGap     `json:"gaps,omitempty"`
	LastGap     uint64        `json:"last_gap"`
	LastAttempt uint64        `json:"last_attempt"`
	Delivered   uint64        `json:"delivered"`
	Dropped     uint64        `json:"dropped"`
	Thinned     uint64        `json:"thinned,omitempty"`
	GapsEver    uint64        `json:"gaps_ever"`
	Segments    []segmentInfo `json:"segments,omitempty"`
}

type metaGap struct {
	ID     uint64 `json:"id"`
	From   Seq    `json:"from,omitempty"`
	To     Seq    `json:"to,omitempty"`
	N      uint64 `json:"n"`
	TFrom  int64  `json:"t_from,omitempty"`
	TTo    int64  `json:"t_to,omitempty"`
	Reason Reason `json:"reason"`
	Maybe  bool   `json:"maybe_delivered,omitempty"`
}

// segmentInfo is what meta.db says about a segment.
type segmentInfo struct {
	ID    uint64   `json:"id"`
	First Seq      `json:"first"`
	Last  Seq      `json:"last"`
	Boots []string `json:"boots,omitempty"`

	Decided bool `json:"decided,omitempty"` // it says so itself
}

const (
	keyHead    = "head"
	keyLane    = "lane/"    // + epoch in decimal
	keyAttempt = "attempt/" // + epoch/id: the body of a recAttempt
	keyAnchor  = "anchor/"  // + boot id in hex
	keySide    = "side/"    // + key
	keyThinned = "thinned/" // + segment: which of its numbers were thinned; of its own, so that only what changes is written
)

func sealValue(key string, v []byte) []byte {
	b := make([]byte, 4, 4+len(v))
	b = append(b, v...)
	binary.LittleEndian.PutUint32(b, crcUpdate(crc([]byte(key)), v))
	return b
}

func openValue(key string, b []byte) ([]byte, bool) {
	if len(b) < 4 || crcUpdate(crc([]byte(key)), b[4:]) != binary.LittleEndian.Uint32(b) {
		return nil, false
	}
	return b[4:], true
}

// snapshot gives all of meta.db's values. Without the segments, which the
// sealer adds: they are as of its commit.
type snapshot struct {
	head   metaHead
	lanes  map[Epoch]*metaLane
	done   map[Epoch]*rangeSet
	kept   map[Epoch]*rangeSet
	values map[string][]byte // the rest, sealed
}

func (s *state) snapshot(gen uint32) *snapshot {
	sn := &snapshot{metaHead{Version: formatVersion, Gen: gen}, map[Epoch]*metaLane{}, map[Epoch]*rangeSet{}, map[Epoch]*rangeSet{}, map[string][]byte{}}
	for e, l := range s.lanes {
		m := &metaLane{Next: l.next, LastGap: l.lastGap, LastAttempt: l.lastAttempt, Delivered: l.delivered, Dropped: l.dropped, Thinned: l.thinned, GapsEver: l.gapsEver}
		for _, r := range l.done.r {
			m.Done = append(m.Done, [2]Seq{r.From, r.To})
		}
		for _, g := range l.gaps {
			m.Gaps = append(m.Gaps, metaGap{g.ID, g.Range.From, g.Range.To, g.N, g.TFrom, g.TTo, g.Reason, g.MaybeDelivered})
		}
		for _, a := range l.attempts {
			key := fmt.Sprintf("%s%d/%d", keyAttempt, e, a.ID)
			sn.values[key] = sealValue(key, appendAttempt(nil, e, a))
		}
		done, kept := l.done.clone(), l.kept.clone()
		sn.lanes[e], sn.done[e], sn.kept[e] = m, &done, &kept
	}
	for boot, a := range s.anchors {
		key := keyAnchor + hex.EncodeToString(boot[:])
		v, _ := json.Marshal(a) // two integers
		sn.values[key] = sealValue(key, v)
	}
	for k, v := range s.side {
		sn.values[keySide+k] = sealValue(keySide+k, v)
	}
	return sn
}

// loaded is what could be read of meta.db.
type loaded struct {
	state
	head     metaHead
	hasHead  bool
	segs     map[Epoch][]segmentInfo
	attempts map[Epoch]map[uint64]*Attempt
	kept     map[Epoch]*rangeSet
	bad      []string // keys whose values are damaged
}

func newLoaded() *loaded {
	return &loaded{state: newState(), segs: map[Epoch][]segmentInfo{}, attempts: map[Epoch]map[uint64]*Attempt{}, kept: map[Epoch]*rangeSet{}}
}

// take reads one value. finish must follow the last.
func (m *loaded) take(key string, sealed []byte) {
	v, ok := openValue(key, sealed)
	if !ok || !m.value(key, v) {
		m.bad = append(m.bad, key)
	}
}

func (m *loaded) value(key string, v []byte) bool {
	switch {
	case key == keyHead:
		m.hasHead = json.Unmarshal(v, &m.head) == nil
		return m.hasHead
	case strings.HasPrefix(key, keyLane):
		var e Epoch
		var ml metaLane
		if _, err := fmt.Sscanf(key[len(keyLane):], "%d", &e); err != nil || json.Unmarshal(v, &ml) != nil || ml.Next < 1 || ml.Next > maxSeq {
			return false
		}
		l := &lane{epoch: e, next: ml.Next, lastGap: ml.LastGap, lastAttempt: ml.LastAttempt, delivered: ml.Delivered, dropped: ml.Dropped, thinned: ml.Thinned, gapsEver: ml.GapsEver}
		for _, r := range ml.Done {
			if r[1] >= ml.Next || r[0] < 1 || r[1] < r[0] {
				return false
			}
			l.done.add(Range{r[0], r[1]})
		}
		for _, g := range ml.Gaps {
			l.gaps = append(l.gaps, Gap{g.ID, Range{g.From, g.To}, g.N, g.TFrom, g.TTo, g.Reason, g.Maybe})
		}
		m.lanes[e] = l
		m.segs[e] = ml.Segments
	case strings.HasPrefix(key, keyAttempt):
		d := &decoder{b: v}
		e, a := decodeAttempt(d)
		if !d.done() || fmt.Sprintf("%s%d/%d", keyAttempt, e, a.ID) != key {
			return false
		}
		if m.attempts[e] == nil {
			m.attempts[e] = map[uint64]*Attempt{}
		}
		m.attempts[e][a.ID] = a
	case strings.HasPrefix(key, keyAnchor):
		boot, err := hex.DecodeString(key[len(keyAnchor):])
		var a anchor
		if err != nil || len(boot) != 16 || json.Unmarshal(v, &a) != nil {
			return false
		}
		m.anchors[[16]byte(boot)] = a
	case strings.HasPrefix(key, keyThinned):
		e, rs, ok := decodeThinned(v)
		if !ok {
			return false
		}
		if m.kept[e] == nil {
			m.kept[e] = &rangeSet{}
		}
		for _, r := range rs {
			m.kept[e].add(r)
		}
	case strings.HasPrefix(key, keySide):
		m.side[key[len(keySide):]] = append([]byte{}, v...)
	}
	return true
}

// finish puts the attempts into their lanes, and what is kept of the thinned.
func (m *loaded) finish() {
	for e, kept := range m.kept {
		if l := m.lanes[e]; l != nil {
			for _, r := range l.done.r {
				kept.within(r, func(r Range) { l.kept.add(r) })
			}
		}
	}
	for e, as := range m.attempts {
		l := m.lanes[e]
		if l == nil {
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(as)) {
			if a := as[id]; a.Range.To < l.next {
				l.addAttempt(a)
			}
		}
	}
}

func bootSet(ids []string) map[[16]byte]bool {
	set := map[[16]byte]bool{}
	for _, s := range ids {
		if id, err := hex.DecodeString(s); err == nil && len(id) == 16 {
			set[[16]byte(id)] = true
		}
	}
	return set
}

// metaValues is all that meta.db is to hold: the snapshot, with the segments as they are now.
func (b *Buffer) metaValues(sn *snapshot) map[string][]byte {
	values := maps.Clone(sn.values)
	put := func(key string, v any) {
		j, _ := json.Marshal(v) // plain structs of numbers and strings
		values[key] = sealValue(key, j)
	}
	sn.head.Segment = b.segment
	put(keyHead, sn.head)
	for e, m := range sn.lanes {
		m.Segments = nil
		for _, s := range b.lanes[e].segs {
			si := segmentInfo{ID: s.id, First: s.first, Last: s.last, Decided: s.marked}
			for boot := range s.boots {
				si.Boots = append(si.Boots, hex.EncodeToString(boot[:]))
			}
			slices.Sort(si.Boots)
			m.Segments = append(m.Segments, si)
			if v := appendThinned(nil, e, b.keptIn(s, sn.kept[e])); v != nil {
				key := fmt.Sprintf("%s%d", keyThinned, s.id)
				values[key] = sealValue(key, v)
			}
		}
		put(fmt.Sprintf("%s%d", keyLane, e), m)
	}
	return values
}
