package buffer

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
)

// model is the buffer as a plain map would be.
type model struct {
	lanes   map[Epoch]*modelLane
	anchors map[[16]byte]anchor
	side    map[string]string
}

type modelLane struct {
	polls    []modelPoll
	done     map[Seq]bool
	thinned  map[Seq]bool
	attempts []Attempt
	gaps     []Gap
	lastGap  uint64
	lastTry  uint64
}

type modelPoll struct {
	first Seq
	Poll
}

func (m *model) clone() *model {
	c := &model{map[Epoch]*modelLane{}, maps.Clone(m.anchors), maps.Clone(m.side)}
	for e, l := range m.lanes {
		c.lanes[e] = &modelLane{slices.Clone(l.polls), maps.Clone(l.done), maps.Clone(l.thinned), slices.Clone(l.attempts), slices.Clone(l.gaps), l.lastGap, l.lastTry}
	}
	return c
}

func (l *modelLane) next() Seq {
	if len(l.polls) == 0 {
		return 1
	}
	p := l.polls[len(l.polls)-1]
	return p.first + Seq(len(p.Readings))
}

func (l *modelLane) open(s Seq) bool {
	if l.done[s] {
		return false
	}
	for _, a := range l.attempts {
		if a.Range.From <= s && s <= a.Range.To {
			return false
		}
	}
	return true
}

// seen is what a user of the buffer can tell of it, as text, and hidden what decides what it will tell.
type seen struct {
	open, attempts, gaps, side, hidden string
	originals                          string // as exported
	next                               Seq
	pending, kept                      uint64
}

func (m *model) time(s drivers.Stamp) (int64, bool) {
	if s.Trusted {
		return s.Wall, false
	}
	if a, ok := m.anchors[s.Boot]; ok {
		return a.Wall + int64((s.Mono-a.Mono)/time.Millisecond), false
	}
	return s.Wall, true
}

func (m *model) see(e Epoch) seen {
	l := m.lanes[e]
	v := seen{next: 1}
	if l == nil {
		l = &modelLane{}
	}
	v.next = l.next()
	var open, originals strings.Builder
	for _, p := range l.polls {
		for i, r := range p.Readings {
			s := p.first + Seq(i)
			if l.thinned[s] {
				v.kept++
				fmt.Fprintf(&originals, "%d %x\n", s, math.Float64bits(r.Value))
			}
			if !l.done[s] {
				v.pending++
			}
			if l.open(s) {
				t, stale := m.time(p.Stamp)
				if stale && r.Quality == drivers.Good {
					r.Quality = drivers.StaleClock
				}
				fmt.Fprintf(&open, "%d %d %v %q %x %s %v %v\n", s, t, p.Alarm, r.Channel, math.Float64bits(r.Value), r.Unit, r.Quality, p.Stamp.Mono)
			}
		}
	}
	v.open, v.originals = open.String(), originals.String()
	for _, a := range l.attempts {
		v.attempts += fmt.Sprintf("%+v\n", a)
	}
	for _, g := range l.gaps {
		if !slices.ContainsFunc(l.attempts, func(a Attempt) bool { return slices.Contains(a.Gaps, g.ID) }) {
			v.gaps += fmt.Sprintf("%d %v %d %s %v\n", g.ID, g.Range, g.N, g.Reason, g.MaybeDelivered)
		}
	}
	v.hidden = fmt.Sprint(m.anchors, l.lastGap, l.lastTry)
	for _, k := range slices.Sorted(maps.Keys(m.side)) {
		v.side += k + "=" + m.side[k] + "\n"
	}
	return v
}

func see(t require.TestingT, b *Buffer, e Epoch, keys []string) seen {
	l, err := b.Lane(e)
	require.NoError(t, err)
	v := seen{next: l.Next()}
	var open, originals strings.Builder
	marked := map[Seq]bool{}
	for s, err := range l.All() {
		require.NoError(t, err)
		for i, r := range s.Readings {
			marked[s.First+Seq(i)] = s.Thinned
			if s.Thinned {
				fmt.Fprintf(&originals, "%d %x\n", s.First+Seq(i), math.Float64bits(r.Value))
			}
		}
	}
	v.originals = originals.String()
	for s, err := range l.Open(1) {
		require.NoError(t, err)
		for i, r := range s.Readings {
			thinned, exported := marked[s.First+Seq(i)]
			require.True(t, exported && !thinned, "what is open is exported, unmarked: %d", s.First)
			fmt.Fprintf(&open, "%d %d %v %q %x %s %v %v\n", s.First+Seq(i), s.Time, s.Alarm, r.Channel, math.Float64bits(r.Value), r.Unit, r.Quality, s.Mono)
		}
	}
	v.open = open.String()
	for _, a := range l.Attempts() {
		v.attempts += fmt.Sprintf("%+v\n", *a)
	}
	for _, g := range l.OpenGaps() {
		v.gaps += fmt.Sprintf("%d %v %d %s %v\n", g.ID, g.Range, g.N, g.Reason, g.MaybeDelivered)
	}
	for _, ls := range b.Stats().Lanes {
		if ls.Epoch == e {
			v.pending, v.kept = ls.Pending, ls.Kept
		}
	}
	v.hidden = fmt.Sprint(b.anchors, l.l.lastGap, l.l.lastAttempt)
	for _, k := range keys {
		if s := b.Side(k); s != nil {
			v.side += k + "=" + string(s) + "\n"
		}
	}
	return v
}

func (l *modelLane) putGap(g Gap) {
	for i, o := range l.gaps {
		carried := slices.ContainsFunc(l.attempts, func(a Attempt) bool { return slices.Contains(a.Gaps, o.ID) })
		if carried || o.Reason != g.Reason || o.MaybeDelivered != g.MaybeDelivered || o.Range.Empty() != g.Range.Empty() {
			continue
		}
		if !g.Range.Empty() {
			if o.Range.To+1 != g.Range.From && g.Range.To+1 != o.Range.From {
				continue
			}
			g.Range = Range{min(g.Range.From, o.Range.From), max(g.Range.To, o.Range.To)}
		}
		g.N += o.N
		g.ID = o.ID
		l.gaps[i] = g
		return
	}
	l.lastGap++
	g.ID = l.lastGap
	l.gaps = append(l.gaps, g)
}

// giveUp makes a gap of each maximal run within one attempt or none.
func (l *modelLane) giveUp(r Range, reason Reason) {
	owner := func(s Seq) int {
		for i, a := range l.attempts {
			if a.Range.From <= s && s <= a.Range.To {
				return i
			}
		}
		return -1
	}
	type run struct {
		r Range
		a int
	}
	var runs []run
	for s := r.From; s <= r.To; s++ {
		if l.done[s] {
			continue
		}
		if n := len(runs); n > 0 && runs[n-1].r.To == s-1 && runs[n-1].a == owner(s) {
			runs[n-1].r.To = s
		} else {
			runs = append(runs, run{Range{s, s}, owner(s)})
		}
	}
	ids := make([]uint64, len(l.attempts))
	tries := make([]int, len(l.attempts))
	for i, a := range l.attempts {
		ids[i], tries[i] = a.ID, a.Tries
	}
	for _, u := range runs {
		g := Gap{Range: u.r, N: u.r.Len(), Reason: reason}
		if u.a >= 0 {
			g.MaybeDelivered = tries[u.a] > 1 || reason != Refused && reason != Undeliverable
		}
		// The gap is put while the attempt still carries its gaps.
		l.putGap(g)
		if u.a >= 0 {
			l.attempts = slices.DeleteFunc(l.attempts, func(a Attempt) bool { return a.ID == ids[u.a] })
		}
		for s := u.r.From; s <= u.r.To; s++ {
			l.done[s] = true
			if reason == Thinned {
				l.thinned[s] = true
			}
		}
	}
}

func (l *modelLane) ack(id uint64) {
	for i, a := range l.attempts {
		if a.ID == id {
			for s := a.Range.From; !a.Range.Empty() && s <= a.Range.To; s++ {
				l.done[s] = true
			}
			l.gaps = slices.DeleteFunc(l.gaps, func(g Gap) bool { return slices.Contains(a.Gaps, g.ID) })
			l.attempts = slices.Delete(slices.Clone(l.attempts), i, i+1)
			return
		}
	}
}

func drawPoll(t *rapid.T) Poll {
	n := rapid.SampledFrom([]int{1, 1, 2, 3, 10, 40}).Draw(t, "n")
	shape := rapid.IntRange(0, 3).Draw(t, "shape")
	p := Poll{
		Stamp: drivers.Stamp{Boot: [16]byte{byte(rapid.IntRange(1, 3).Draw(t, "boot"))}, Mono: time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "mono")),
			Wall: rapid.Int64Range(-1e12, 2e12).Draw(t, "wall"), Trusted: rapid.Bool().Draw(t, "trusted")},
		Alarm: rapid.IntRange(0, 9).Draw(t, "alarm") == 0,
	}
	odd := rapid.IntRange(0, 4).Draw(t, "odd") == 0
	for i := range n {
		r := drivers.Reading{Channel: fmt.Sprintf("s%d/ü %d", shape, i), Value: float64(rapid.IntRange(-9999, 9999).Draw(t, "v")) / 100, Unit: "Cel"}
		if odd {
			r.Value = rapid.Float64().Draw(t, "odd value")
			r.Quality = drivers.Quality(rapid.IntRange(0, 3).Draw(t, "q"))
		}
		p.Readings = append(p.Readings, r)
	}
	return p
}

// TestAgainstModel drives the buffer with random calls, kills and power cuts.
// After a kill all is as it was; after a cut it is as it was at some
// moment since the last flush.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := mkTemp()
		require.NoError(t, err)
		defer removeAll(dir)
		fs := newFaultFS()
		opt := Options{FS: fs, Clock: stillClock{time.Unix(1e9, 0)}, HalfBytes: minHalf, SegmentBytes: minSegment}
		b, err := Open(dir, opt)
		require.NoError(t, err)
		defer func() { b.end() }()
		m := &model{map[Epoch]*modelLane{}, map[[16]byte]anchor{}, map[string]string{}}
		since := []*model{m.clone()} // the states since the last flush
		epochs := []Epoch{1, 4_000_000_000}
		keys := []string{"a", "b"}
		flushed := func() { since = []*model{m.clone()} }
		changed := func() { since = append(since, m.clone()) }
		lane := func() (*Lane, *modelLane) {
			e := rapid.SampledFrom(epochs).Draw(t, "epoch")
			l, err := b.Lane(e)
			require.NoError(t, err)
			if m.lanes[e] == nil {
				m.lanes[e] = &modelLane{done: map[Seq]bool{}, thinned: map[Seq]bool{}}
			}
			return l, m.lanes[e]
		}
		reopen := func() {
			b, err = Open(dir, opt)
			require.NoError(t, err)
			require.Empty(t, b.Stats().RecoveredFrom)
		}
		same := func(x *model) bool {
			for _, e := range epochs {
				if x.see(e) != see(t, b, e, keys) {
					return false
				}
			}
			return true
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				l, ml := lane()
				for range rapid.IntRange(1, 30).Draw(t, "times") {
					p := drawPoll(t)
					active := b.active
					first, err := l.Append(p)
					require.NoError(t, err)
					require.Equal(t, ml.next(), first)
					ml.polls = append(ml.polls, modelPoll{first, p})
					changed()
					if b.active != active { // the sealer flushes on its own now
						require.NoError(t, b.Flush())
						flushed()
					}
				}
			},
			"fix": func(t *rapid.T) {
				l, ml := lane()
				a := Attempt{Payload: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload"), Cost: 1}
				if from := Seq(rapid.Uint64Range(1, uint64(ml.next())).Draw(t, "from")); from < ml.next() {
					a.Range = Range{from, min(ml.next()-1, from+Seq(rapid.Uint64Range(0, 50).Draw(t, "len")))}
				}
				ok := true
				for s := a.Range.From; s > 0 && s <= a.Range.To; s++ {
					ok = ok && ml.open(s)
				}
				for _, g := range l.OpenGaps() {
					if rapid.Bool().Draw(t, "carry") {
						a.Gaps = append(a.Gaps, g.ID)
					}
				}
				got, err := l.Fix(a)
				if !ok {
					require.ErrorIs(t, err, ErrOpen)
					return
				}
				require.NoError(t, err)
				ml.lastTry++
				a.ID, a.Tries = ml.lastTry, 1
				require.Equal(t, a.ID, got.ID)
				ml.attempts = append(slices.Clone(ml.attempts), *got)
				changed()
			},
			"outcome": func(t *rapid.T) {
				l, ml := lane()
				if len(ml.attempts) == 0 {
					require.ErrorIs(t, l.Ack(99999), ErrUnknown)
					return
				}
				a := rapid.SampledFrom(ml.attempts).Draw(t, "attempt")
				switch rapid.IntRange(0, 4).Draw(t, "which") {
				case 0, 1:
					require.NoError(t, l.Ack(a.ID))
					ml.ack(a.ID)
				case 2:
					require.NoError(t, l.Release(a.ID))
					ml.attempts = slices.DeleteFunc(slices.Clone(ml.attempts), func(x Attempt) bool { return x.ID == a.ID })
				case 3:
					require.NoError(t, l.GiveUp(a.ID, Refused))
					if a.Range.Empty() {
						ml.ack(a.ID)
					} else {
						ml.giveUp(a.Range, Refused)
						if b.Flush() == nil { // it can be several records: not one state
							flushed()
						}
						return
					}
				case 4:
					require.NoError(t, l.Retried(a.ID))
					ml.attempts = slices.Clone(ml.attempts)
					for i := range ml.attempts {
						if ml.attempts[i].ID == a.ID {
							ml.attempts[i].Tries++
						}
					}
				}
				changed()
			},
			"receiver": func(t *rapid.T) {
				l, ml := lane()
				if len(ml.attempts) == 0 {
					return
				}
				a := rapid.SampledFrom(ml.attempts).Draw(t, "attempt")
				if a.Range.Empty() {
					return
				}
				r := Range{a.Range.From + Seq(rapid.Uint64Range(0, a.Range.Len()-1).Draw(t, "skip")), a.Range.To + 1000}
				require.NoError(t, l.AckRanges([]Range{r, {1 << 40, 1 << 41}, {}}))
				for _, x := range slices.Clone(ml.attempts) {
					whole := !x.Range.Empty()
					for s := x.Range.From; s > 0 && s <= x.Range.To; s++ {
						if r.From <= s && s <= r.To {
							ml.done[s] = true
						}
						whole = whole && ml.done[s]
					}
					if whole {
						ml.ack(x.ID)
					}
				}
				changed()
			},
			"gap": func(t *rapid.T) {
				l, ml := lane()
				if rapid.Bool().Draw(t, "unsampled") {
					g := Gap{N: rapid.Uint64Range(1, 9).Draw(t, "n"), TFrom: 5, TTo: 6, Reason: Unsampled}
					require.NoError(t, l.NoteGap(g))
					ml.putGap(g)
				} else if ml.next() > 1 {
					from := Seq(rapid.Uint64Range(1, uint64(ml.next()-1)).Draw(t, "from"))
					r := Range{from, min(ml.next()-1, from+20)}
					require.NoError(t, l.NoteGap(Gap{Range: r, Reason: Purged}))
					ml.giveUp(r, Purged)
					if b.Flush() == nil { // it can be several records: not one state
						flushed()
					}
					return
				}
				changed()
			},
			"thin": func(t *rapid.T) {
				l, ml := lane()
				if ml.next() == 1 {
					return
				}
				from := Seq(rapid.Uint64Range(1, uint64(ml.next()-1)).Draw(t, "from"))
				r := Range{from, min(ml.next()-1, from+Seq(rapid.Uint64Range(0, 300).Draw(t, "len")))}
				var ps []Poll
				for range rapid.IntRange(1, 20).Draw(t, "aggregates") {
					p := drawPoll(t)
					for i := range p.Readings {
						p.Readings[i].Quality = drivers.Aggregate
					}
					ps = append(ps, p)
				}
				some, flying := false, false
				for s := r.From; s <= r.To; s++ {
					some = some || ml.open(s)
					flying = flying || !ml.open(s) && !ml.done[s]
				}
				active := b.active
				first, err := l.Thin(r, ps)
				if !some || flying {
					require.ErrorIs(t, err, ErrOpen)
					return
				}
				require.NoError(t, err)
				require.Equal(t, ml.next(), first)
				ml.giveUp(r, Thinned)
				for _, p := range ps {
					ml.polls = append(ml.polls, modelPoll{ml.next(), p})
				}
				changed()
				if b.active != active { // the sealer flushes on its own now
					require.NoError(t, b.Flush())
					flushed()
				}
			},
			"side": func(t *rapid.T) {
				k := rapid.SampledFrom(keys).Draw(t, "key")
				v := rapid.StringN(0, 20, 40).Draw(t, "value")
				if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
					require.NoError(t, b.PutSide(k, nil))
					delete(m.side, k)
				} else {
					require.NoError(t, b.PutSide(k, []byte(v)))
					m.side[k] = v
				}
				changed()
			},
			"anchor": func(t *rapid.T) {
				boot := [16]byte{byte(rapid.IntRange(1, 3).Draw(t, "boot"))}
				a := anchor{time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "mono")), rapid.Int64Range(0, 2e12).Draw(t, "wall")}
				require.NoError(t, b.Anchor(boot, a.Mono, a.Wall))
				m.anchors[boot] = a
				changed()
			},
			"flush": func(t *rapid.T) { require.NoError(t, b.Flush()); flushed() },
			"seal":  func(t *rapid.T) { require.NoError(t, b.SealNow()); flushed() },
			"close": func(t *rapid.T) { require.NoError(t, b.Close()); flushed(); reopen() },
			"kill":  func(t *rapid.T) { b.end(); reopen(); flushed() },
			"cut": func(t *rapid.T) {
				b.end()
				odds := rapid.IntRange(0, 4).Draw(t, "odds")
				fs.cut(func() bool { return rapid.IntRange(1, 4).Draw(t, "keep") <= odds })
				reopen()
				for i := len(since) - 1; i >= 0; i-- {
					if same(since[i]) {
						m = since[i].clone()
						flushed()
						return
					}
				}
				for _, e := range epochs {
					t.Logf("epoch %d: found %+v\nwant at least %+v", e, see(t, b, e, keys), since[0].see(e))
				}
				t.Fatal("not a state since the last flush")
			},
			"": func(t *rapid.T) {
				for _, e := range epochs {
					require.Equal(t, m.see(e), see(t, b, e, keys))
				}
			},
		})
		require.Empty(t, b.Verify())
	})
}
