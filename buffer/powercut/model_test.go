//go:build linux && (amd64 || arm64)

package powercut

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"homeward/buffer"
	"homeward/drivers"
)

// model is a buffer as its operations say that it is; nothing in it is stored.
type model struct {
	lanes              map[buffer.Epoch]*laneModel
	side               map[string]string
	anchors            map[uint64]bool // lives whose clock was found out
	delivered, dropped uint64
}

type laneModel struct {
	next     buffer.Seq
	open     runs
	attempts []*attempt
	gaps     map[string]runs // not yet reported, by reason
	idle     uint64          // N of those of reason unsampled
	left     uint64          // readings without an outcome
	kept     runs            // thinned, and still there
}

type attempt struct {
	r       buffer.Range
	crc     uint32
	tries   int
	carried []buffer.Gap
	rest    runs   // of r, without an outcome
	id      uint64 // 0: not known
}

func (a *attempt) String() string {
	return fmt.Sprintf("%d-%d crc %08x tries %d gaps %d", a.r.From, a.r.To, a.crc, a.tries, len(a.carried))
}

func newModel() *model {
	return &model{lanes: map[buffer.Epoch]*laneModel{}, side: map[string]string{}, anchors: map[uint64]bool{}}
}

func (m *model) lane(e buffer.Epoch) *laneModel {
	l := m.lanes[e]
	if l == nil {
		l = &laneModel{next: 1, gaps: map[string]runs{}}
		m.lanes[e] = l
	}
	return l
}

func (m *model) clone() *model {
	c := &model{map[buffer.Epoch]*laneModel{}, maps.Clone(m.side), maps.Clone(m.anchors), m.delivered, m.dropped}
	for e, l := range m.lanes {
		x := *l
		x.open, x.gaps, x.attempts = slices.Clone(l.open), maps.Clone(l.gaps), nil
		x.kept = slices.Clone(l.kept)
		for k, v := range x.gaps {
			x.gaps[k] = slices.Clone(v)
		}
		for _, a := range l.attempts {
			y := *a
			y.rest = slices.Clone(a.rest)
			x.attempts = append(x.attempts, &y)
		}
		c.lanes[e] = &x
	}
	return c
}

func (m *model) nexts() map[buffer.Epoch]buffer.Seq {
	n := map[buffer.Epoch]buffer.Seq{}
	for _, e := range epochs {
		n[e] = m.lane(e).next
	}
	return n
}

func (m *model) appended() (n uint64) {
	for _, l := range m.lanes {
		n += uint64(l.next - 1)
	}
	return n
}

func (m *model) pending() (n uint64) {
	for _, l := range m.lanes {
		n += l.left
	}
	return n
}

// String says everything that must be the same.
func (m *model) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "delivered %d dropped %d side %v\n", m.delivered, m.dropped, m.side) // fmt sorts maps
	for _, e := range epochs {
		l := m.lane(e)
		fmt.Fprintf(&b, "epoch %d next %d left %d open %v kept %v gaps %v unsampled %d\n", e, l.next, l.left, l.open, l.kept, l.gaps, l.idle)
		for _, a := range l.attempts {
			fmt.Fprintf(&b, "epoch %d attempt %v\n", e, a)
		}
	}
	return b.String()
}

// gap lists a gap (sign 1) or takes it off the list (-1).
func (l *laneModel) gap(g buffer.Gap, sign int) {
	if g.Range == (buffer.Range{}) {
		l.idle += uint64(sign) * g.N // wraps for -1
		return
	}
	key := string(g.Reason)
	if g.MaybeDelivered {
		key += "?"
	}
	s := l.gaps[key]
	if sign > 0 {
		s.add(g.Range)
	} else {
		s.remove(g.Range)
	}
	if l.gaps[key] = s; len(s) == 0 {
		delete(l.gaps, key)
	}
}

func (m *model) apply(o op) error {
	l := m.lane(o.E)
	find := func() (*attempt, error) {
		for _, a := range l.attempts {
			if a.r == o.R && a.crc == o.CRC {
				return a, nil
			}
		}
		return nil, fmt.Errorf("%s of an attempt that there is not: %+v", o.Do, o)
	}
	end := func(x *attempt) { l.attempts = slices.DeleteFunc(l.attempts, func(a *attempt) bool { return a == x }) }
	reopen := func(a *attempt) {
		for _, g := range a.carried {
			l.gap(g, 1)
		}
	}
	switch o.Do {
	case "append":
		if o.R.From != l.next {
			return fmt.Errorf("append of %d, want %d", o.R.From, l.next)
		}
		l.open.add(o.R)
		l.next = o.R.To + 1
		l.left += o.R.Len()
	case "thin": // all of it, or nothing
		if o.Part.From != l.next {
			return fmt.Errorf("thinning gave %d, want %d", o.Part.From, l.next)
		}
		l.open.add(o.Part)
		l.next = o.Part.To + 1
		l.left += o.Part.Len() - o.R.Len()
		l.open.remove(o.R)
		for _, a := range slices.Clone(l.attempts) { // only if what had decided it is missing
			if had := a.rest.len(); had > 0 {
				if a.rest.remove(o.R); len(a.rest) == 0 {
					reopen(a)
					end(a)
				}
			}
		}
		l.gap(buffer.Gap{Range: o.R, Reason: buffer.Thinned}, 1)
		l.kept.add(o.R)
		m.dropped += o.R.Len()
	case "fix":
		a := &attempt{r: o.R, crc: o.CRC, tries: 1, carried: o.Gaps, id: o.ID}
		if o.R != (buffer.Range{}) {
			a.rest.add(o.R)
			l.open.remove(o.R)
		}
		for _, g := range o.Gaps {
			l.gap(g, -1)
		}
		l.attempts = append(l.attempts, a)
	case "ack", "ranges", "release", "giveup", "retried":
		a, err := find()
		if err != nil {
			return err
		}
		switch o.Do {
		case "ack":
			m.delivered += a.rest.len()
			l.left -= a.rest.len()
			end(a)
		case "ranges":
			had := a.rest.len()
			a.rest.remove(o.Part)
			m.delivered += had - a.rest.len()
			l.left -= had - a.rest.len()
			if len(a.rest) == 0 {
				end(a)
			}
		case "release":
			for _, r := range a.rest {
				l.open.add(r)
			}
			reopen(a)
			end(a)
		case "giveup":
			if o.R != (buffer.Range{}) { // else they would come back for ever
				reopen(a)
			}
			for _, r := range a.rest {
				l.gap(buffer.Gap{Range: r, Reason: o.Reason, MaybeDelivered: a.tries > 1}, 1)
			}
			m.dropped += a.rest.len()
			l.left -= a.rest.len()
			end(a)
		case "retried":
			a.tries++
		}
	case "gap":
		l.gap(buffer.Gap{N: o.N}, 1)
	case "side":
		if m.side[o.Key] = o.Value; o.Value == "" {
			delete(m.side, o.Key)
		}
	case "anchor":
		m.anchors[o.Life] = true
	default:
		return fmt.Errorf("no operation %q", o.Do)
	}
	return nil
}

// dump is what is found in a buffer.
type dump struct {
	Digest   string
	IDs      map[string]uint64 // of the attempts, by their line in the digest
	Stale    []uint64          // lives with an open reading whose clock was not trusted and is not repaired
	Repaired []uint64
	Fresh    bool     // the buffer takes itself for a new one
	Bad      []string // what must not be
	Notes    []string // what the buffer says that it repaired
}

// match finds after which operation, the last durable one or a later, the
// buffer is what was seen. Where the power went while the log changed halves,
// some operations at the end of the old half may be missing before those in the
// new one (torn); readings among them must be gaps of reason damaged.
func (m *model) match(ops []op, durable int, seen *dump) (at int, torn bool, now *model, err error) {
	if len(seen.Bad) > 0 {
		return 0, false, nil, fmt.Errorf("found %q; the buffer says %q", seen.Bad, seen.Notes)
	}
	if seen.Fresh && m.appended() > 0 {
		return 0, false, nil, fmt.Errorf("the buffer takes itself for a new one and says %q", seen.Notes)
	}
	states := []*model{m.clone()} // after each operation from durable on
	for i, o := range ops {
		last := states[len(states)-1]
		if i >= durable {
			last = last.clone()
			states = append(states, last)
		}
		if err := last.apply(o); err != nil {
			return 0, false, nil, fmt.Errorf("operation %d: %w", i, err)
		}
	}
	same := func(x *model) bool { return x.String() == seen.Digest && x.clocks(seen) == nil }
	for i, x := range states {
		if same(x) {
			return durable + i, false, x, x.ids(seen)
		}
	}
	if strings.Contains(seen.Digest, string(buffer.Damaged)) {
		for i, old := range states {
			for k := i + 1; k < len(states); k++ {
				x := old.clone()
				holes := x.skip(states[k])
				for l := k; l < len(states); l++ {
					if l > k {
						_ = x.apply(ops[durable+l-1]) // the attempt that it decides may be one of those missing
					}
					if y := x.mended(holes); same(y) {
						return durable + i, true, y, y.ids(seen)
					}
				}
			}
		}
	}
	return 0, false, nil, fmt.Errorf("not what it was after any of the operations %d to %d; it says %q\nfound:\n%sthe first:\n%sthe last:\n%s",
		durable, len(ops), seen.Notes, seen.Digest, states[0], states[len(states)-1])
}

// skip gives each lane the next number of a later state, and says which numbers
// that leaves out.
func (m *model) skip(to *model) map[buffer.Epoch]buffer.Range {
	holes := map[buffer.Epoch]buffer.Range{}
	for _, e := range epochs {
		l, next := m.lane(e), to.lane(e).next
		if r := (buffer.Range{From: l.next, To: next - 1}); !r.Empty() {
			holes[e] = r
			l.open.add(r)
			l.left += r.Len()
			l.next = next
		}
	}
	return holes
}

// mended gives up what is open of the holes.
func (m *model) mended(holes map[buffer.Epoch]buffer.Range) *model {
	m = m.clone()
	for e, hole := range holes {
		l := m.lane(e)
		l.kept.remove(hole)
		for _, r := range slices.Clone(l.open) {
			r.From, r.To = max(r.From, hole.From), min(r.To, hole.To)
			if r.Empty() {
				continue
			}
			l.open.remove(r)
			l.gap(buffer.Gap{Range: r, Reason: buffer.Damaged}, 1)
			l.left -= r.Len()
			m.dropped += r.Len()
		}
	}
	return m
}

// clocks: a reading of a boot whose clock was found out is repaired, no other is.
func (m *model) clocks(seen *dump) error {
	for _, life := range seen.Stale {
		if m.anchors[life] {
			return fmt.Errorf("readings of life %d are not repaired", life)
		}
	}
	for _, life := range seen.Repaired {
		if !m.anchors[life] {
			return fmt.Errorf("readings of life %d are repaired by nothing", life)
		}
	}
	return nil
}

func (m *model) ids(seen *dump) error {
	for e, l := range m.lanes {
		for _, a := range l.attempts {
			got := seen.IDs[fmt.Sprint(e, " ", a)]
			if a.id == 0 {
				a.id = got
			}
			if got != a.id {
				return fmt.Errorf("epoch %d: attempt %v has id %d, had %d", e, a, got, a.id)
			}
		}
	}
	return nil
}

// walker finds the polls that the lives appended to a lane, in order.
type walker struct {
	e     buffer.Epoch
	lives []lifeStart
	i     int
	first buffer.Seq
}

// to gives the poll that holds q, its life, and where in it q is. q may not go back.
func (w *walker) to(q buffer.Seq) (p buffer.Poll, life uint64, off int) {
	for w.i+1 < len(w.lives) && w.lives[w.i+1].Next[w.e] <= q {
		w.i++
		w.first = 0
	}
	w.first = max(w.first, w.lives[w.i].Next[w.e])
	life = w.lives[w.i].Life
	for {
		p = pollAt(w.e, w.first, life)
		n := buffer.Seq(len(p.Readings))
		if q < w.first+n {
			return p, life, int(q - w.first)
		}
		w.first += n
	}
}

// differ says in what the stored readings are not those of the poll from off on.
func differ(got buffer.Stored, want buffer.Poll, off int) string {
	if off+len(got.Readings) > len(want.Readings) {
		return fmt.Sprintf("%d readings, want at most %d", len(got.Readings), len(want.Readings)-off)
	}
	for i, g := range got.Readings {
		w := want.Readings[off+i]
		if g.Quality == drivers.StaleClock && !want.Stamp.Trusted && w.Quality == drivers.Good {
			w.Quality = drivers.StaleClock
		}
		if g != w {
			return fmt.Sprintf("%+v, want %+v", g, w)
		}
	}
	if got.Alarm != want.Alarm || got.Boot != want.Stamp.Boot || got.Mono != want.Stamp.Mono {
		return fmt.Sprintf("alarm %v boot %x at %v, want %v %x %v", got.Alarm, got.Boot, got.Mono, want.Alarm, want.Stamp.Boot, want.Stamp.Mono)
	}
	return ""
}

// runs is a set of numbers: sorted, none touching the next.
type runs []buffer.Range

func (s runs) len() (n uint64) {
	for _, r := range s {
		n += r.Len()
	}
	return n
}

func (s *runs) add(r buffer.Range) {
	all := append(slices.Clone(*s), r)
	slices.SortFunc(all, func(a, b buffer.Range) int { return int(int64(a.From) - int64(b.From)) })
	out := all[:1]
	for _, r := range all[1:] {
		if last := &out[len(out)-1]; r.From <= last.To+1 {
			last.To = max(last.To, r.To)
		} else {
			out = append(out, r)
		}
	}
	*s = out
}

func (s *runs) remove(r buffer.Range) {
	var out runs
	for _, o := range *s {
		if left := (buffer.Range{From: o.From, To: min(o.To, r.From-1)}); !left.Empty() {
			out = append(out, left)
		}
		if right := (buffer.Range{From: max(o.From, r.To+1), To: o.To}); !right.Empty() {
			out = append(out, right)
		}
	}
	*s = out
}
