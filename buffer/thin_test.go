package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// aggregate stands for the polls from i on.
func aggregate(i int) Poll {
	p := pollAt(i, 3)
	for k, name := range []string{"min", "mean", "max"} {
		p.Readings[k].Channel, p.Readings[k].Quality = "s10/c0 "+name, drivers.Aggregate
	}
	return p
}

// exported gives the numbers that All marks as originals, and those that it does not.
func exported(t testing.TB, l *Lane) (thinned, others []Range) {
	t.Helper()
	var sets [2]rangeSet
	for s, err := range l.All() {
		require.NoError(t, err)
		k := 0
		if s.Thinned {
			k = 1
		}
		require.Equal(t, uint64(len(s.Readings)), sets[k].add(Range{s.First, s.First + Seq(len(s.Readings)) - 1}))
	}
	return sets[1].r, sets[0].r
}

func TestThin(t *testing.T) {
	dir := t.TempDir()
	opt := Options{HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	add(t, l, 100)
	woken := l.Appended()
	first, err := l.Thin(Range{1, 600}, []Poll{aggregate(0), aggregate(30)})
	require.NoError(t, err)
	require.Equal(t, Seq(1001), first)
	<-woken
	check := func(kept bool) {
		t.Helper()
		l = mustLane(t, b, 1)
		require.Equal(t, Seq(1007), l.Next())
		open := readAll(t, l, 1)
		checkPolls(t, open[:40], 60, 40)
		require.Len(t, open, 42)
		require.Equal(t, Seq(1004), open[41].First)
		require.Equal(t, aggregate(30).Readings, open[41].Readings)
		require.Equal(t, aggregate(30).Stamp, open[41].Stamp())
		require.Equal(t, []Gap{{ID: 1, Range: Range{1, 600}, N: 600, TFrom: pollAt(0, 1).Stamp.Wall, TTo: pollAt(59, 1).Stamp.Wall, Reason: Thinned}}, l.OpenGaps())
		st := b.Stats()
		require.Equal(t, []uint64{600, 600, 406}, []uint64{st.Dropped, st.Thinned, st.Pending})
		thinned, others := exported(t, l)
		if !kept {
			require.Zero(t, st.ThinnedKept)
			require.Empty(t, thinned)
			return
		}
		require.Equal(t, uint64(600), st.ThinnedKept)
		require.Equal(t, uint64(600), st.Lanes[0].Kept)
		require.Equal(t, []Range{{1, 600}}, thinned)
		require.Equal(t, []Range{{601, 1006}}, others)
	}
	check(true)
	b.end() // killed
	b = mustOpen(t, dir, opt)
	require.Empty(t, b.Stats().RecoveredFrom)
	check(true)
	require.NoError(t, b.SealNow())
	check(true)
	require.NoError(t, b.Close())
	b = mustOpen(t, dir, opt)
	check(true)
	require.Empty(t, b.Verify())
	ro := opt
	ro.ReadOnly = true
	require.NoError(t, b.Close())
	b = mustOpen(t, dir, ro)
	check(true)
	_, err = l.Thin(Range{601, 700}, []Poll{aggregate(60)})
	require.ErrorIs(t, err, ErrReadOnly)
	require.Empty(t, b.Verify())
	require.NoError(t, b.Close())
}

// What is delivered and told leaves the originals where they are.
func TestOriginalsStayWhenAllIsTold(t *testing.T) {
	dir := t.TempDir()
	opt := Options{HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	add(t, l, 100)
	require.NoError(t, b.SealNow())
	_, err := l.Thin(Range{1, 1000}, []Poll{aggregate(0)})
	require.NoError(t, err)
	a, err := l.Fix(Attempt{Range: Range{1001, 1003}, Gaps: []uint64{1}})
	require.NoError(t, err)
	require.NoError(t, l.Ack(a.ID))
	for round := range uint64(3) {
		require.NoError(t, b.SealNow())
		thinned, _ := exported(t, l)
		require.Equal(t, []Range{{1, 1000}}, thinned)
		require.Empty(t, l.OpenGaps())
		st := b.Stats()
		require.Equal(t, []uint64{0, 3 + 10*round, 1000, 1000, 1000}, []uint64{st.Pending, st.Delivered, st.Dropped, st.Thinned, st.ThinnedKept})
		require.NoError(t, b.Close())
		b = mustOpen(t, dir, opt)
		l = mustLane(t, b, 1)
		add(t, l, 1)
		a, err := l.Fix(Attempt{Range: Range{l.Next() - 10, l.Next() - 1}})
		require.NoError(t, err)
		require.NoError(t, l.Ack(a.ID))
	}
}

func TestThinRefuses(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}})
	l := mustLane(t, b, 1)
	add(t, l, 100)
	a, err := l.Fix(Attempt{Range: Range{101, 200}})
	require.NoError(t, err)
	d, err := l.Fix(Attempt{Range: Range{301, 400}})
	require.NoError(t, err)
	require.NoError(t, l.Ack(d.ID))
	one := []Poll{aggregate(0)}
	var many []Poll
	for i := range 1000 {
		many = append(many, aggregate(i))
	}
	for name, c := range map[string]struct {
		r    Range
		ps   []Poll
		want error
		text string
	}{
		"nothing in return":    {Range{1, 100}, nil, nil, "nothing to stand for"},
		"not marked":           {Range{1, 100}, []Poll{pollAt(1, 1)}, nil, "of quality good"},
		"no poll":              {Range{1, 100}, []Poll{{}}, nil, "want 1 to"},
		"in flight":            {Range{1, 100 + 1}, one, ErrOpen, "in an attempt"},
		"around what is":       {Range{1, 1000}, one, ErrOpen, "in an attempt"},
		"delivered":            {Range{301, 400}, one, ErrOpen, "have their outcome"},
		"never given":          {Range{990, 1001}, one, ErrOpen, "never given"},
		"empty":                {Range{}, one, ErrOpen, ""},
		"the wrong way round":  {Range{20, 10}, one, ErrOpen, ""},
		"more than a half":     {Range{1, 100}, many, ErrTooLarge, "bytes"},
		"one larger than that": {Range{1, 100}, []Poll{{Readings: make([]drivers.Reading, 65535)}}, nil, "what half the log can hold"},
	} {
		t.Run(name, func(t *testing.T) {
			active, off := b.active, b.halves[b.active].off
			shapes := len(b.halves[active].shapes)
			_, err := l.Thin(c.r, c.ps)
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.ErrorContains(t, err, c.text)
			require.Equal(t, []int{active, off, shapes}, []int{b.active, b.halves[b.active].off, len(b.halves[active].shapes)})
			require.Equal(t, Seq(1001), l.Next())
			require.Zero(t, b.Stats().Dropped)
		})
	}
	// What is decided in between is left alone, and nothing is told of it.
	first, err := l.Thin(Range{201, 1000}, one)
	require.NoError(t, err)
	require.Equal(t, Seq(1001), first)
	var rs []Range
	for _, g := range l.OpenGaps() {
		rs = append(rs, g.Range)
		require.Equal(t, g.Range.Len(), g.N)
	}
	require.Equal(t, []Range{{201, 300}, {401, 1000}}, rs)
	require.Equal(t, uint64(700), b.Stats().Thinned)
	// The attempt released, its numbers join the two sides that are not told yet.
	require.NoError(t, l.Release(a.ID))
	_, err = l.Thin(Range{1, 200}, one)
	require.NoError(t, err)
	gaps := l.OpenGaps()
	require.Len(t, gaps, 2)
	require.Equal(t, Range{1, 300}, gaps[0].Range)
	require.Equal(t, uint64(300), gaps[0].N)
	require.Equal(t, pollAt(0, 1).Stamp.Wall, gaps[0].TFrom)
	require.Equal(t, pollAt(29, 1).Stamp.Wall, gaps[0].TTo)
	// What is being told does not grow.
	c, err := l.Fix(Attempt{Gaps: []uint64{gaps[1].ID}})
	require.NoError(t, err)
	_, err = l.Thin(Range{1001, 1003}, one)
	require.NoError(t, err)
	gaps = l.OpenGaps()
	require.Len(t, gaps, 2)
	require.Equal(t, Range{1001, 1003}, gaps[1].Range)
	require.NoError(t, l.Ack(c.ID))
	b.end()
	_, err = l.Thin(Range{1004, 1006}, one)
	require.ErrorIs(t, err, ErrClosed)
}

// A power cut in the middle of a thinning: all of it or nothing, whichever sectors reached the disk, and the log goes on from there.
func TestThinIsWholeOrNot(t *testing.T) {
	var seen [2]int
	for lost := range 40 {
		fs := newFaultFS()
		dir, err := mkTemp()
		require.NoError(t, err)
		opt := Options{FS: fs, HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
		b := mustOpen(t, dir, opt)
		l := mustLane(t, b, 1)
		add(t, l, 60)
		require.NoError(t, b.Flush())
		var aggs []Poll
		for i := range 60 {
			aggs = append(aggs, aggregate(i))
		}
		_, err = l.Thin(Range{1, 600}, aggs)
		require.NoError(t, err)
		b.end()
		n := 0
		fs.cut(func() bool { n++; return n%40 != lost })
		for range 2 {
			b = mustOpen(t, dir, opt)
			require.Empty(t, b.Stats().RecoveredFrom)
			l = mustLane(t, b, 1)
			thinned, others := exported(t, l)
			switch st := b.Stats(); st.Dropped {
			case 0:
				seen[0]++
				require.Equal(t, Seq(601), l.Next())
				require.Empty(t, thinned)
				require.Equal(t, []Range{{1, 600}}, others)
				checkPolls(t, readAll(t, l, 1), 0, 60)
			default:
				seen[1]++
				require.Equal(t, Seq(781), l.Next())
				require.Equal(t, []Range{{1, 600}}, thinned)
				require.Equal(t, []Range{{601, 780}}, others)
				require.Len(t, readAll(t, l, 1), 60)
			}
			b.end()
		}
		b = mustOpen(t, dir, opt) // what follows is found again
		l = mustLane(t, b, 1)
		next := l.Next()
		_, err = l.Append(pollAt(7, 10))
		require.NoError(t, err)
		if next == 601 {
			_, err = l.Thin(Range{1, 600}, aggs[:1])
			require.NoError(t, err)
		}
		b.end()
		b = mustOpen(t, dir, opt)
		require.Equal(t, uint64(600), b.Stats().Thinned)
		require.Empty(t, b.Stats().RecoveredFrom)
		require.NoError(t, b.Close())
		removeAll(dir)
	}
	require.NotZero(t, seen[0])
	require.NotZero(t, seen[1])
}

// At a bound the originals go first, oldest first, and nothing is counted for it; only then what has no outcome.
func TestOriginalsGoFirst(t *testing.T) {
	for _, policy := range []WhenFull{DropOldest, StopSampling} {
		t.Run(string(policy), func(t *testing.T) {
			b := mustOpen(t, t.TempDir(), Options{HalfBytes: minHalf, SegmentBytes: minSegment, WhenFull: policy, Clock: stillClock{time.Unix(1e9, 0)}})
			l := mustLane(t, b, 1)
			fill := func() {
				for range 1500 {
					_, err := l.Append(hostile(int(l.Next()) / 10))
					require.NoError(t, err)
					if int(l.Next())%4000 < 10 {
						require.NoError(t, b.SealNow())
					}
				}
				require.NoError(t, b.SealNow())
				l.l.segs[len(l.l.segs)-1].full = true
			}
			var spans []Range
			for range 6 {
				from := l.Next()
				fill()
				spans = append(spans, Range{from, l.Next() - 1})
			}
			for _, i := range []int{4, 2} {
				_, err := l.Thin(spans[i], []Poll{aggregate(i)})
				require.NoError(t, err)
			}
			require.NoError(t, b.SealNow())
			st := b.Stats()
			require.Equal(t, uint64(30_000), st.ThinnedKept)
			squeeze := func() []Range {
				had := len(l.l.segs)
				for size := b.Stats().Bytes + b.slack(2*b.half); len(l.l.segs) == had; size -= 16 << 10 {
					b.SetBounds(Options{MaxBytes: size, WhenFull: policy})
					require.NoError(t, b.SealNow())
					if b.Stats().Stopped {
						break
					}
				}
				thinned, _ := exported(t, l)
				return thinned
			}
			require.Equal(t, []Range{spans[4]}, squeeze(), "the older of the two")
			require.Equal(t, uint64(15_000), b.Stats().ThinnedKept)
			require.Empty(t, squeeze())
			now := b.Stats()
			require.Zero(t, now.ThinnedKept)
			require.Equal(t, []uint64{st.Dropped, st.Thinned, st.Pending, st.Gaps}, []uint64{now.Dropped, now.Thinned, now.Pending, now.Gaps})
			require.Empty(t, now.EvictedFor)
			require.False(t, now.Stopped)
			squeeze()
			now = b.Stats()
			if policy == StopSampling {
				require.True(t, now.Stopped)
				require.Equal(t, st.Dropped, now.Dropped)
				return
			}
			require.Equal(t, st.Dropped+spans[0].Len(), now.Dropped)
			require.Equal(t, st.Thinned, now.Thinned)
			require.True(t, slices.ContainsFunc(l.OpenGaps(), func(g Gap) bool { return g.Reason == Evicted && g.Range == spans[0] }))
		})
	}
}

// thinner appends, thins and delivers, and knows what it gave.
type thinner struct {
	t       testing.TB
	polls   map[Seq]Poll
	thinned rangeSet
	max     Seq
}

func (th *thinner) append(l *Lane, p Poll) error {
	first, err := l.Append(p)
	th.gave(first, err, p)
	return err
}

func (th *thinner) gave(first Seq, err error, ps ...Poll) {
	for _, p := range ps {
		if err == nil {
			th.polls[first] = p
			first += Seq(len(p.Readings))
			th.max = first - 1
		}
	}
}

func (th *thinner) thin(l *Lane, r Range, ps ...Poll) error {
	first, err := l.Thin(r, ps)
	th.gave(first, err, ps...)
	if err == nil {
		th.thinned.add(r)
	}
	return err
}

// check: each number has one outcome or none, and what is exported is what was given, marked as it was thinned. It returns how many are kept.
func (th *thinner) check(b *Buffer, l *Lane) (kept uint64) {
	t := th.t
	t.Helper()
	require.Equal(t, th.max+1, l.Next())
	st := b.Stats()
	require.Equal(t, uint64(th.max), st.Pending+st.Delivered+st.Dropped)
	require.Equal(t, th.thinned.n, st.Thinned)
	open := map[Seq]bool{}
	for s, err := range l.Open(1) {
		require.NoError(t, err)
		for i, r := range s.Readings {
			q := s.First + Seq(i)
			open[q] = true
			require.False(t, th.thinned.has(Range{q, q}))
			require.Equal(t, th.at(q), r)
		}
	}
	require.Equal(t, st.Pending-st.InFlight, uint64(len(open)))
	for s, err := range l.All() {
		require.NoError(t, err)
		for i, r := range s.Readings {
			q := s.First + Seq(i)
			require.Equal(t, th.thinned.has(Range{q, q}), s.Thinned, "%d", q)
			require.Equal(t, th.at(q), r)
			delete(open, q)
			if s.Thinned {
				kept++
			}
		}
	}
	require.Empty(t, open, "what is open is exported")
	require.Equal(t, kept, st.ThinnedKept)
	require.Empty(t, b.Verify())
	return kept
}

func (th *thinner) at(q Seq) drivers.Reading {
	for first := q; first > 0; first-- {
		if p, ok := th.polls[first]; ok {
			return p.Readings[q-first]
		}
	}
	return drivers.Reading{}
}

// The disk is full for a while at each single call in turn that can find it so: a thinning is whole or not, and nothing is lost but originals.
func TestDiskFullAtEveryWriteOfAThinning(t *testing.T) {
	for _, policy := range []WhenFull{DropOldest, StopSampling} {
		for at := 0; ; at++ {
			dir, err := mkTemp()
			require.NoError(t, err)
			fs := newFaultFS()
			var calls, failed int
			fail := func(op, name string) error {
				if op == "sync" || op == "open" || op == "openrw" || op == "rename" || op == "remove" {
					return nil
				}
				if calls++; calls > at && calls <= at+4 {
					failed++
					return syscall.ENOSPC
				}
				return nil
			}
			opt := Options{FS: fs, HalfBytes: minHalf, SegmentBytes: minSegment, WhenFull: policy, Clock: stillClock{time.Unix(1e9, 0)}}
			b, err := Open(dir, opt)
			require.NoError(t, err)
			require.NoError(t, b.SealNow())
			fs.setFail(fail)
			b.dbMu.Lock()
			b.onCommit = func(name string) error { fs.mu.Lock(); defer fs.mu.Unlock(); return fail("commit", name) }
			b.dbMu.Unlock()
			l := mustLane(t, b, 1)
			th := &thinner{t: t, polls: map[Seq]Poll{}}
			for i := range 3 {
				from := l.Next()
				for k := range 12 {
					_ = th.append(l, pollAt(12*i+k, 10))
				}
				if a, err := l.Fix(Attempt{Range: Range{from, from + 9}}); err == nil {
					require.NoError(t, l.Ack(a.ID))
				}
				if to := from + 59; to < l.Next() {
					_ = th.thin(l, Range{from + 10, to}, aggregate(i), aggregate(i+1))
				}
				_ = b.SealNow()
			}
			fs.setFail(nil)
			b.dbMu.Lock()
			b.onCommit = nil
			b.dbMu.Unlock()
			for range 3 {
				require.NoError(t, b.SealNow())
			}
			th.check(b, l)
			require.NoError(t, th.append(l, pollAt(99, 10)))
			kept := th.check(b, l)
			require.NoError(t, b.Close())
			b, err = Open(dir, opt)
			require.NoError(t, err)
			require.Equal(t, kept, th.check(b, mustLane(t, b, 1)))
			b.end()
			removeAll(dir)
			if failed == 0 {
				require.Equal(t, uint64(150), kept, "nothing went where there was room")
				require.Greater(t, at, 30, "the failures must have hit something")
				break
			}
		}
	}
}

// Each bound makes originals give way before readings, and a disk that is full does too; but those of the half at hand only when nothing else is left.
func TestOriginalsMakeRoom(t *testing.T) {
	for _, short := range []string{ShortKeepFree, ShortInodes, ShortDisk} {
		t.Run(short, func(t *testing.T) {
			fs := newFaultFS()
			var tight atomic.Bool
			fs.free = func() (int64, int64) {
				switch {
				case tight.Load() && short == ShortKeepFree:
					return 10 << 20, 1000
				case tight.Load() && short == ShortInodes:
					return 100 << 20, 3
				}
				return 100 << 20, 1000
			}
			opt := Options{FS: fs, KeepFree: 50 << 20, HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
			b := mustOpen(t, t.TempDir(), opt)
			l := mustLane(t, b, 1)
			th := &thinner{t: t, polls: map[Seq]Poll{}}
			n := 0
			fill := func(polls int) Range {
				from := l.Next()
				for range polls {
					require.NoError(t, th.append(l, hostile(n)))
					if n++; n%400 == 0 {
						_ = b.SealNow()
					}
				}
				_ = b.SealNow()
				return Range{from, l.Next() - 1}
			}
			var spans []Range
			for i := range 5 {
				spans = append(spans, fill(1000))
				l.l.segs[i].full = true
			}
			require.NoError(t, th.thin(l, spans[3], aggregate(3)))
			require.NoError(t, th.thin(l, spans[1], aggregate(1)))
			require.NoError(t, b.SealNow())
			require.Equal(t, uint64(20_000), th.check(b, l))
			tight.Store(true)
			if short == ShortDisk { // until as much as a segment takes is free
				had := len(l.l.segs)
				b.dbMu.Lock()
				b.onCommit = func(name string) error {
					if name != metaName && tight.Load() && len(l.l.segs) >= had {
						return syscall.ENOSPC
					}
					return nil
				}
				b.dbMu.Unlock()
			}
			fill(200)
			require.NoError(t, b.SealNow())
			tight.Store(false)
			require.NoError(t, b.SealNow())
			require.Equal(t, uint64(10_000), th.check(b, l))
			thinned, _ := exported(t, l)
			require.Equal(t, []Range{spans[3]}, thinned, "the oldest of them")
			require.Equal(t, b.Stats().Thinned, b.Stats().Dropped)
			require.Empty(t, b.Stats().EvictedFor)
		})
	}
}

// Where sampling stopped at a bound, thinning makes it go on: the originals give way.
func TestThinningResumesSampling(t *testing.T) {
	opt := Options{MaxBytes: 3 << 20, HalfBytes: minHalf, SegmentBytes: minSegment, WhenFull: StopSampling, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, t.TempDir(), opt)
	l := mustLane(t, b, 1)
	var err error
	for n := 0; err == nil; n++ {
		if _, err = l.Append(hostile(n)); n%300 == 299 {
			require.NoError(t, b.SealNow())
		}
	}
	require.ErrorIs(t, err, ErrFull)
	require.True(t, b.Stats().Stopped)
	segs := len(l.l.segs)
	s := l.l.segs[0]
	_, err = l.Thin(Range{s.first, s.last}, []Poll{aggregate(0)})
	require.NoError(t, err)
	require.NoError(t, b.SealNow())
	require.False(t, b.Stats().Stopped)
	require.Less(t, len(l.l.segs), segs)
	_, err = l.Append(pollAt(0, 1))
	require.NoError(t, err)
	require.Zero(t, b.Stats().ThinnedKept)
}

// thinnedSite is a buffer of five segments of 4000 readings, the first three thinned and their aggregates delivered; nothing is left in the log.
func thinnedSite(t *testing.T) (dir string, opt Options, th *thinner) {
	t.Helper()
	dir = t.TempDir()
	opt = Options{HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	th = &thinner{t: t, polls: map[Seq]Poll{}}
	for i := range 5 {
		for k := range 400 {
			require.NoError(t, th.append(l, pollAt(400*i+k, 10)))
		}
		require.NoError(t, b.SealNow())
		l.l.segs[i].full = true
	}
	require.NoError(t, th.thin(l, Range{1, 12_000}, aggregate(1)))
	a, err := l.Fix(Attempt{Range: Range{20_001, 20_003}, Gaps: []uint64{1}})
	require.NoError(t, err)
	require.NoError(t, l.Ack(a.ID))
	for range 4 { // one is marked at each
		require.NoError(t, b.SealNow())
		require.NoError(t, b.PutSide("k", []byte{byte(b.Stats().Seals)}))
	}
	require.Equal(t, uint64(12_000), th.check(b, l))
	require.NoError(t, b.Close())
	return dir, opt, th
}

// Without meta.db segments of which everything was decided say so themselves: originals are not delivered beside their aggregates,
// and what was delivered before them is not taken for damaged.
func TestMetaLostAfterThinning(t *testing.T) {
	dir, opt, _ := thinnedSite(t)
	require.NoError(t, os.Remove(filepath.Join(dir, metaName)))
	for range 2 {
		b := mustOpen(t, dir, opt)
		l := mustLane(t, b, 1)
		thinned, others := exported(t, l)
		require.Equal(t, []Range{{1, 12_000}}, thinned)
		require.Equal(t, []Range{{12_001, 20_000}}, others)
		open := readAll(t, l, 1)
		require.Equal(t, Seq(12_001), open[0].First)
		require.Len(t, open, 800)
		require.Equal(t, uint64(12_000), b.Stats().ThinnedKept)
		gaps := l.OpenGaps()
		require.Len(t, gaps, 1)
		require.Equal(t, Range{20_001, 20_003}, gaps[0].Range, "delivered behind what is open: that is not known any more, as ever")
		require.Empty(t, b.Verify())
		require.NoError(t, b.Close())
	}
}

// Marked once, a segment is not written to for that again.
func TestMarksAreKept(t *testing.T) {
	dir, opt, th := thinnedSite(t)
	stamp := func() (s string) {
		for _, name := range []string{"00000001.db", "00000002.db", "00000003.db"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			s += fmt.Sprint(crc(data), " ")
		}
		return s
	}
	before := stamp()
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	for i := range 4 {
		require.NoError(t, th.append(l, pollAt(i, 10)))
		require.NoError(t, b.SealNow())
	}
	require.Equal(t, uint64(12_000), th.check(b, l))
	require.NoError(t, b.Close())
	require.Equal(t, before, stamp())
}

// Damage to originals costs what it hits, and no reading is counted for it.
func TestDamagedOriginals(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"missing":  func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"empty":    func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) },
		"one page": func(t *testing.T, path string) { flipAt(t, path, -2000) },
		"a block": func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			flipAt(t, path, int64(bytes.Index(data, []byte(blockMagic))+200))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, opt, th := thinnedSite(t)
			damage(t, filepath.Join(dir, "00000002.db"))
			b := mustOpen(t, dir, opt)
			l := mustLane(t, b, 1)
			thinned, others := exported(t, l)
			require.Equal(t, []Range{{12_001, 20_000}}, others)
			var kept rangeSet
			for _, r := range thinned {
				kept.add(r)
			}
			require.True(t, kept.has(Range{1, 4000}) && kept.has(Range{8001, 12_000}))
			require.Equal(t, kept.n, b.Stats().ThinnedKept)
			st := b.Stats()
			require.Equal(t, []uint64{12_000, 12_000, 3, 8000}, []uint64{st.Dropped, st.Thinned, st.Delivered, st.Pending})
			require.Empty(t, l.OpenGaps())
			require.NoError(t, th.append(l, pollAt(1, 10)))
			require.NoError(t, b.Close())
			b = mustOpen(t, dir, opt)
			require.Equal(t, kept.n, th.check(b, mustLane(t, b, 1)))
		})
	}
}

func flipAt(t *testing.T, path string, at int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	if at < 0 {
		at += int64(len(data))
	}
	data[at] ^= 0x10
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

// A bit flipped anywhere in a thinning that had been flushed: what can be read of it counts, each number has one outcome, and the log goes on.
func TestDamagedThinning(t *testing.T) {
	dir := t.TempDir()
	opt := Options{HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	for i := range 30 {
		_, err := l.Append(pollAt(i, 10))
		require.NoError(t, err)
	}
	from := b.halves[b.active].off
	_, err := l.Thin(Range{1, 200}, []Poll{aggregate(1), aggregate(2)})
	require.NoError(t, err)
	to := b.halves[b.active].off
	require.NoError(t, b.Flush())
	_, err = l.Append(pollAt(30, 10))
	require.NoError(t, err)
	next := l.Next()
	require.NoError(t, b.Flush())
	active := b.active
	b.end()
	log, err := os.ReadFile(filepath.Join(dir, logName))
	require.NoError(t, err)
	seen := map[[3]uint64]int{}
	for at := from; at < to; at += 3 {
		dir, err := mkTemp()
		require.NoError(t, err)
		bad := slices.Clone(log)
		bad[active*minHalf+at] ^= 0x40
		require.NoError(t, os.WriteFile(filepath.Join(dir, logName), bad, 0o600))
		b := mustOpen(t, dir, opt)
		for range 2 {
			l := mustLane(t, b, 1)
			require.Equal(t, next, l.Next(), "at %d", at)
			st := b.Stats()
			require.Equal(t, uint64(next-1), st.Pending+st.Dropped)
			var gone rangeSet
			for _, g := range l.OpenGaps() {
				require.Equal(t, g.N, gone.add(g.Range))
			}
			require.Equal(t, gone.n, st.Dropped)
			thinned, _ := exported(t, l)
			if st.Thinned > 0 {
				require.Equal(t, []Range{{1, 200}}, thinned)
			} else {
				require.Empty(t, thinned)
			}
			seen[[3]uint64{st.Pending, st.Thinned, st.Dropped}]++
			require.NoError(t, b.Close())
			b = mustOpen(t, dir, opt)
		}
		b.end()
		removeAll(dir)
	}
	for k := range seen { // thinned, less aggregates that were hit; or both where the gap was
		require.Contains(t, []uint64{0, 200}, k[1])
	}
	require.Greater(t, len(seen), 2, "%v", seen)
}

// An eviction and then a kill, before meta.db knows: what is said to be kept is what is there.
func TestKilledAfterAnEviction(t *testing.T) {
	dir, opt, th := thinnedSite(t)
	b := mustOpen(t, dir, opt)
	require.True(t, b.evictOldest(ShortMaxBytes))
	require.Equal(t, uint64(8000), th.check(b, mustLane(t, b, 1)))
	b.end()
	for range 2 {
		b = mustOpen(t, dir, opt)
		require.Equal(t, uint64(8000), b.Stats().ThinnedKept)
		require.Equal(t, uint64(8000), th.check(b, mustLane(t, b, 1)))
		require.NoError(t, b.Close())
	}
}

// Aggregates are of the boots of what they are made of, and repaired with it; the oldest reading is of this boot all the same.
func TestAggregatesOfAnEarlierBoot(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	earlier := func(s int) drivers.Stamp {
		return drivers.Stamp{Boot: [16]byte{9}, Mono: time.Duration(s) * time.Second, Wall: 5}
	}
	for i := range 10 {
		_, err := l.Append(Poll{Stamp: earlier(i), Readings: pollAt(i, 1).Readings})
		require.NoError(t, err)
	}
	_, err := l.Append(pollAt(20, 1))
	require.NoError(t, err)
	first := readAll(t, l, 1)[0]
	require.Equal(t, earlier(0), first.Stamp())
	a := aggregate(0)
	a.Stamp = first.Stamp()
	_, err = l.Thin(Range{1, 10}, []Poll{a})
	require.NoError(t, err)
	require.NoError(t, b.Anchor([16]byte{9}, 0, 1_600_000_000_000))
	for range 2 {
		require.Equal(t, 20*time.Second, b.Stats().OldestMono)
		open := readAll(t, mustLane(t, b, 1), 1)
		require.Len(t, open, 2)
		require.Equal(t, int64(1_600_000_000_000), open[1].Time)
		b.end()
		b = mustOpen(t, dir, opt)
	}
}

// On a full disk originals that were never sealed go last, where nothing else makes room, and are then not said to be there.
func TestOriginalsInTheLogOnAFullDisk(t *testing.T) {
	b, full := fullDisk(t, t.TempDir(), Options{Seal: time.Hour, Clock: stillClock{time.Unix(1e9, 0)}})
	l := mustLane(t, b, 1)
	th := &thinner{t: t, polls: map[Seq]Poll{}}
	round := func() {
		from := l.Next()
		for i := range 50 {
			require.NoError(t, th.append(l, pollAt(i, 10)))
		}
		require.NoError(t, th.thin(l, Range{from, from + 499}, aggregate(0)))
		a, err := l.Fix(Attempt{Range: Range{from + 500, from + 502}})
		require.NoError(t, err)
		require.NoError(t, l.Ack(a.ID))
	}
	round()
	require.NoError(t, b.SealNow())
	require.Equal(t, uint64(500), th.check(b, l))
	full.Store(true)
	round()
	require.Equal(t, uint64(1000), th.check(b, l), "the log holds them")
	require.NoError(t, b.SealNow(), "nothing is left that needs room")
	require.Zero(t, th.check(b, l))
	require.Empty(t, l.l.segs)
	full.Store(false)
	round()
	require.NoError(t, b.SealNow())
	require.Equal(t, uint64(500), th.check(b, l))
}

// Samplers, a publisher that delivers or thins, seals, exports and evictions of originals all at once: each number has one outcome, and no
// original is exported without its mark.
func TestThinAllAtOnce(t *testing.T) {
	opt := childOptions
	opt.Seal, opt.WhenFull = 5*time.Millisecond, StopSampling
	dir := t.TempDir()
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	const samplers, polls, size = 3, 1500, 10
	var wg, others sync.WaitGroup
	for k := range samplers {
		wg.Go(func() {
			for i := range polls {
				for {
					_, err := l.Append(pollAt(k*polls+i, size))
					if err == nil {
						break
					}
					if !errors.Is(err, ErrFull) && !errors.Is(err, errLogFull) { // a loaded machine may be slow to seal
						t.Error(err)
						return
					}
				}
			}
		})
	}
	done, stop := make(chan struct{}), make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	var mu sync.Mutex
	var thinned, delivered rangeSet
	exports, evicted := 0, 0
	export := func() {
		mu.Lock()
		before := thinned.clone()
		mu.Unlock()
		for s, err := range l.All() {
			if err != nil {
				t.Error(err)
				return
			}
			if r := (Range{s.First, s.First + Seq(len(s.Readings)) - 1}); !s.Thinned && before.overlaps(r) {
				t.Errorf("%v is exported without a mark", r)
			}
		}
		exports++
	}
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				export()
			}
		}
	})
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			b.sealMu.Lock()
			b.mu.Lock()
			segs := slices.Clone(l.l.segs)
			b.mu.Unlock()
			b.dbMu.Lock()
			for _, s := range segs { // small ones
				s.full = true
			}
			b.dbMu.Unlock()
			if b.evictOldest(ShortMaxBytes) {
				evicted++
			}
			b.sealMu.Unlock()
		}
	})
	n := 0
	for finished := false; ; {
		more := l.Appended()
		var r Range
		for s, err := range l.Open(1) {
			require.NoError(t, err)
			if r.From == 0 {
				r = Range{s.First, s.First - 1}
			}
			if s.First != r.To+1 || r.Len() > 200 {
				break
			}
			r.To += Seq(len(s.Readings))
		}
		if n++; r.Len() > 20 && n%3 > 0 {
			if _, err := l.Thin(r, []Poll{aggregate(n)}); err != nil {
				require.True(t, errors.Is(err, ErrFull) || errors.Is(err, errLogFull), "%v", err)
				continue
			}
			mu.Lock()
			require.Equal(t, r.Len(), thinned.add(r))
			mu.Unlock()
			continue
		}
		if r.From > 0 {
			a, err := l.Fix(Attempt{Range: r})
			require.NoError(t, err)
			require.NoError(t, l.Ack(a.ID))
			require.Equal(t, r.Len(), delivered.add(r))
			continue
		}
		if finished {
			break
		}
		select {
		case <-more:
		case <-done:
			finished = true
		}
	}
	close(stop)
	others.Wait()
	require.NotZero(t, exports)
	require.NotEmpty(t, thinned.r)
	st := b.Stats()
	require.Zero(t, st.Pending)
	require.Equal(t, []uint64{delivered.n, thinned.n, thinned.n}, []uint64{st.Delivered, st.Dropped, st.Thinned})
	require.Equal(t, uint64(l.Next()-1), delivered.n+thinned.n)
	export()
	require.NoError(t, b.SealNow())
	originals, _ := exported(t, l)
	kept := rangeSet{}
	for _, r := range originals {
		kept.add(r)
	}
	require.Equal(t, kept.n, b.Stats().ThinnedKept)
	require.Empty(t, b.Verify())
	require.NoError(t, b.Close())
	b = mustOpen(t, dir, opt)
	require.Equal(t, kept.n, b.Stats().ThinnedKept)
	b.sealMu.Lock()
	for b.evictOldest(ShortMaxBytes) {
	}
	b.sealMu.Unlock()
	require.Zero(t, b.Stats().ThinnedKept)
	require.Empty(t, mustLane(t, b, 1).l.segs)
	require.Equal(t, st.Dropped, b.Stats().Dropped)
	t.Logf("%d exports, %d evictions, %d thinned, of those %d kept", exports, evicted, thinned.n, kept.n)
}
