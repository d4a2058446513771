package buffer

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// accounted: each number has one outcome or is open, and what is open can be read.
func accounted(t *testing.T, b *Buffer, l *Lane) (open, lost uint64) {
	t.Helper()
	for s, err := range l.Open(1) {
		require.NoError(t, err)
		open += uint64(len(s.Readings))
		for i, r := range s.Readings {
			n := int(s.First) - 1 + i
			require.Equal(t, pollAt(n/10, 10).Readings[n%10], r)
		}
	}
	for _, g := range l.OpenGaps() {
		require.Equal(t, Evicted, g.Reason)
		require.Equal(t, g.Range.Len(), g.N)
		require.NotZero(t, g.TFrom)
		require.LessOrEqual(t, g.TFrom, g.TTo)
		lost += g.N
	}
	st := b.Stats()
	require.Equal(t, uint64(l.Next()-1), st.Pending+st.Delivered+st.Dropped)
	require.Equal(t, lost, st.Dropped)
	require.Equal(t, open, st.Pending-st.InFlight)
	return open, lost
}

func add(t *testing.T, l *Lane, n int) {
	t.Helper()
	for range n {
		_, err := l.Append(pollAt(int(l.Next()-1)/10, 10))
		require.NoError(t, err)
	}
}

func hostile(n int) Poll { // does not compress
	p := pollAt(n, 10)
	for i := range p.Readings {
		x := uint64(n*10+i+1) * 0x9E3779B97F4A7C15
		p.Readings[i].Value = float64(x>>11) / (1 << 40)
	}
	return p
}

func TestEvictionKeepsTheBound(t *testing.T) {
	dir := t.TempDir()
	opt := Options{MaxBytes: 4 << 20, HalfBytes: 128 << 10, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	add(t, l, 100)
	a, err := l.Fix(Attempt{Range: Range{11, 30}, Payload: []byte("x")})
	require.NoError(t, err)
	require.NoError(t, b.SealNow())
	n := int(l.Next()-1) / 10
	for i := range 60_000 {
		_, err := l.Append(hostile(n + i))
		require.NoError(t, err)
		if i%1000 == 999 {
			require.NoError(t, b.SealNow())
			b.measure()
			require.LessOrEqual(t, b.Stats().Bytes, opt.MaxBytes)
		}
	}
	gaps := l.OpenGaps()
	require.Len(t, gaps, 3, "one before the attempt, the attempt's, which may have been delivered, and one behind that grows: %+v", gaps)
	require.Equal(t, Range{1, 10}, gaps[0].Range)
	require.Equal(t, Range{11, 30}, gaps[1].Range)
	require.Equal(t, Seq(31), gaps[2].Range.From)
	require.False(t, gaps[0].MaybeDelivered)
	require.True(t, gaps[1].MaybeDelivered)
	require.False(t, gaps[2].MaybeDelivered)
	require.Equal(t, pollAt(1, 1).Stamp.Wall, gaps[1].TFrom)
	require.Equal(t, pollAt(2, 1).Stamp.Wall, gaps[1].TTo)
	require.ErrorIs(t, l.Ack(a.ID), ErrUnknown)
	var open uint64
	for s, err := range l.Open(1) {
		require.NoError(t, err)
		require.Equal(t, gaps[2].Range.To+1+Seq(open), s.First)
		open += uint64(len(s.Readings))
	}
	st := b.Stats()
	require.Equal(t, st.Pending, open)
	require.Equal(t, uint64(l.Next()-1), open+st.Dropped)
	require.NoError(t, b.Close())
	b = mustOpen(t, dir, opt)
	require.Equal(t, st.Dropped, b.Stats().Dropped)
	require.Empty(t, b.Verify())
}

func TestStopSampling(t *testing.T) {
	opt := Options{MaxBytes: 3 << 20, HalfBytes: 64 << 10, SegmentBytes: minSegment, WhenFull: StopSampling, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, t.TempDir(), opt)
	l := mustLane(t, b, 1)
	var err error
	n := 0
	for ; err == nil && n < 1_000_000; n++ {
		if _, err = l.Append(hostile(n)); n%300 == 299 {
			require.NoError(t, b.SealNow())
		}
	}
	require.ErrorIs(t, err, ErrFull)
	st := b.Stats()
	require.True(t, st.Stopped)
	require.LessOrEqual(t, st.Bytes, opt.MaxBytes)
	require.Zero(t, st.Dropped)
	require.Equal(t, uint64(l.Next()-1), st.Pending)
	for b.Stats().Pending > 0 { // and draining makes room
		r := Range{l.l.first(), min(l.l.first()+9999, l.Next()-1)}
		a, err := l.Fix(Attempt{Range: r})
		require.NoError(t, err)
		require.NoError(t, l.Ack(a.ID))
	}
	require.NoError(t, b.SealNow())
	require.False(t, b.Stats().Stopped)
	_, err = l.Append(pollAt(0, 1))
	require.NoError(t, err)
}

// The disk is full for a while at each single call in turn that can find it so.
func TestDiskFullAtEveryWrite(t *testing.T) {
	for _, policy := range []WhenFull{DropOldest, StopSampling} {
		for at := 0; ; at++ {
			dir, err := mkTemp()
			require.NoError(t, err)
			fs := newFaultFS()
			var calls, failed int
			until := at + 4
			fail := func(op, name string) error {
				if op == "sync" || op == "open" || op == "openrw" || op == "rename" || op == "remove" {
					return nil
				}
				calls++
				if calls > at && calls <= until {
					failed++
					return syscall.ENOSPC
				}
				return nil
			}
			fs.setFail(fail)
			b, err := Open(dir, Options{FS: fs, HalfBytes: minHalf, SegmentBytes: minSegment, WhenFull: policy, Clock: stillClock{time.Unix(1e9, 0)}})
			require.NoError(t, err)
			b.dbMu.Lock()
			b.onCommit = func(name string) error { fs.mu.Lock(); defer fs.mu.Unlock(); return fail("commit", name) }
			b.dbMu.Unlock()
			l := mustLane(t, b, 1)
			for range 3 {
				for range 15 {
					if _, err := l.Append(pollAt(int(l.Next()-1)/10, 10)); err != nil && !errors.Is(err, ErrFull) {
						require.ErrorContains(t, err, "no space left")
					}
				}
				_ = b.SealNow()
			}
			fs.setFail(nil)
			b.dbMu.Lock()
			b.onCommit = nil
			b.dbMu.Unlock()
			for range 3 {
				b.sealMu.Lock()
				require.NoError(t, b.lateLog())
				b.sealMu.Unlock()
				require.NoError(t, b.SealNow())
			}
			require.False(t, b.Stats().DiskFull)
			require.False(t, b.Stats().Stopped)
			add(t, l, 1)
			open, lost := accounted(t, b, l)
			require.NoError(t, b.Close())
			require.Zero(t, lost)
			b, err = Open(dir, Options{FS: fs})
			require.NoError(t, err)
			require.Empty(t, b.Verify())
			o2, l2 := accounted(t, b, mustLane(t, b, 1))
			require.Equal(t, [2]uint64{open, lost}, [2]uint64{o2, l2})
			b.end()
			removeAll(dir)
			if failed == 0 {
				require.Greater(t, at, 40, "the failures must have hit something")
				break
			}
		}
	}
}

// fullDisk makes a buffer on a disk that can be full: then segments can be neither made nor written to, and what meta.db needs is its own already.
func fullDisk(t *testing.T, dir string, opt Options) (*Buffer, *atomic.Bool) {
	t.Helper()
	fs := newFaultFS()
	full := new(atomic.Bool)
	opt.FS, opt.HalfBytes, opt.SegmentBytes = fs, minHalf, minSegment
	b := mustOpen(t, dir, opt)
	b.dbMu.Lock()
	b.onCommit = func(name string) error {
		if full.Load() && !strings.HasPrefix(name, metaName) {
			return syscall.ENOSPC
		}
		return nil
	}
	b.dbMu.Unlock()
	return b, full
}

// A disk that stays full: nothing waits, nothing stored gives way, and what is not taken can be counted, over restarts too.
func TestDiskFullForLong(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Seal: time.Hour, Clock: stillClock{time.Unix(1e9, 0)}}
	b, full := fullDisk(t, dir, opt)
	l := mustLane(t, b, 1)
	add(t, l, 1000)
	require.NoError(t, b.SealNow())
	full.Store(true)
	missed := uint64(0)
	for i := range 6000 {
		if i == 100 {
			require.ErrorIs(t, b.SealNow(), syscall.ENOSPC)
		}
		if _, err := l.Append(pollAt(int(l.Next()-1)/10, 10)); err != nil {
			require.ErrorIs(t, err, ErrFull)
			require.ErrorContains(t, err, "the disk is full")
			require.NoError(t, l.NoteGap(Gap{N: 10, TFrom: 1, TTo: int64(i), Reason: Unsampled}))
			missed += 10
		}
		if i%500 == 0 {
			_ = b.SealNow()
		}
	}
	require.NotZero(t, missed)
	stored := l.Next() - 1
	require.Greater(t, stored, Seq(12_000), "the log was used first")
	check := func() {
		t.Helper()
		st := b.Stats()
		require.Zero(t, st.Dropped)
		require.Empty(t, st.EvictedFor)
		n := 0
		for s, err := range l.Open(1) {
			require.NoError(t, err)
			require.Equal(t, Seq(n+1), s.First)
			n += len(s.Readings)
		}
		require.Equal(t, int(stored), n)
		gaps := l.OpenGaps()
		require.Len(t, gaps, 1)
		require.Equal(t, Unsampled, gaps[0].Reason)
		require.Equal(t, missed, gaps[0].N)
	}
	check()
	require.True(t, b.Stats().DiskFull)
	require.Equal(t, ShortDisk, b.Stats().Short)
	require.NoError(t, b.Close())
	b, full = fullDisk(t, dir, opt)
	l = mustLane(t, b, 1)
	check()
	require.NoError(t, b.SealNow()) // there is room again
	require.NoError(t, b.SealNow())
	check()
	require.False(t, b.Stats().DiskFull)
	add(t, l, 1)
	stored += 10
	check()
	require.False(t, full.Load())
}

// On a full disk whose home is there the readings go through, and the segments that are delivered give their room back.
func TestDiskFullAndDelivering(t *testing.T) {
	b, full := fullDisk(t, t.TempDir(), Options{Seal: time.Hour, Clock: stillClock{time.Unix(1e9, 0)}})
	l := mustLane(t, b, 1)
	add(t, l, 100)
	require.NoError(t, b.SealNow())
	deliver := func() {
		r := Range{l.l.first(), l.Next() - 1}
		a, err := l.Fix(Attempt{Range: r, Payload: make([]byte, 100)})
		require.NoError(t, err)
		require.NoError(t, l.Ack(a.ID))
	}
	full.Store(true)
	for i := range 3000 {
		_, err := l.Append(pollAt(i, 10))
		require.NoError(t, err, "poll %d", i)
		if i%20 == 19 {
			deliver()
		}
		if i%150 == 149 {
			_ = b.SealNow()
		}
	}
	st := b.Stats()
	require.Zero(t, st.Dropped)
	require.Zero(t, st.Pending)
	require.Empty(t, l.l.segs)
}

// Where the home comes back while the log is as full as readings may make it, there is room for attempts.
func TestFullLogDelivers(t *testing.T) {
	dir := t.TempDir()
	b, full := fullDisk(t, dir, Options{Seal: time.Hour, Clock: stillClock{time.Unix(1e9, 0)}})
	l := mustLane(t, b, 1)
	full.Store(true)
	for range 20 { // the sealer may be a moment behind
		for range 500 {
			_, _ = l.Append(pollAt(int(l.Next()-1)/10, 10))
		}
		_ = b.SealNow()
	}
	_, err := l.Append(pollAt(0, 10))
	require.ErrorIs(t, err, ErrFull)
	for b.Stats().Pending > 0 {
		r := Range{l.l.first(), min(l.l.first()+999, l.Next()-1)}
		a, err := l.Fix(Attempt{Range: r, Payload: make([]byte, 800)})
		require.NoError(t, err)
		require.NoError(t, l.Ack(a.ID))
	}
	require.NoError(t, b.SealNow(), "nothing is left that needs room")
	_, err = l.Append(pollAt(0, 10))
	require.NoError(t, err)
	b.end()
	b = mustOpen(t, dir, Options{Clock: stillClock{time.Unix(1e9, 0)}})
	require.Equal(t, uint64(10), b.Stats().Pending)
	require.Zero(t, b.Stats().Dropped)
}

// keep_free and inodes are bounds: the oldest gives way, and Stats says for what. A disk that others keep full takes one segment, not one for each try.
func TestEvictedFor(t *testing.T) {
	for want, free := range map[string][2]int64{ShortKeepFree: {10 << 20, 1000}, ShortInodes: {100 << 20, 3}} {
		fs := newFaultFS()
		var tight atomic.Bool
		fs.free = func() (int64, int64) {
			if tight.Load() {
				return free[0], free[1]
			}
			return 100 << 20, 1000
		}
		b := mustOpen(t, t.TempDir(), Options{FS: fs, KeepFree: 50 << 20, HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}})
		l := mustLane(t, b, 1)
		for i := range 6 {
			for n := range 2000 {
				_, err := l.Append(hostile(i*2000 + n))
				require.NoError(t, err)
				if n%400 == 399 {
					require.NoError(t, b.SealNow())
				}
			}
			l.l.segs[len(l.l.segs)-1].full = true
		}
		segs := len(l.l.segs)
		tight.Store(true)
		b.dbMu.Lock()
		b.onCommit = func(string) error { return syscall.ENOSPC }
		b.dbMu.Unlock()
		_, err := l.Append(pollAt(0, 10))
		require.NoError(t, err)
		for range 10 {
			require.ErrorIs(t, b.SealNow(), syscall.ENOSPC)
		}
		st := b.Stats()
		require.Equal(t, want, st.EvictedFor)
		require.Equal(t, ShortDisk, st.Short)
		require.Len(t, l.l.segs, segs-1)
	}
}

func TestKeepFree(t *testing.T) {
	fs := newFaultFS()
	var free atomic.Int64
	free.Store(100 << 20)
	fs.free = func() (int64, int64) { return free.Load(), 1000 }
	b := mustOpen(t, t.TempDir(), Options{FS: fs, KeepFree: 50 << 20, HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}})
	l := mustLane(t, b, 1)
	for i := range 4 {
		add(t, l, 100)
		require.NoError(t, b.SealNow())
		l.l.segs[i].full = true
	}
	require.Len(t, l.l.segs, 4)
	free.Store(10 << 20) // someone else has filled the disk
	add(t, l, 100)
	require.NoError(t, b.SealNow())
	_, lost := accounted(t, b, l)
	require.NotZero(t, lost)
	require.LessOrEqual(t, lost, uint64(2000), "what is given up pays for the new one, the others stay")
	before := lost
	free.Store(100 << 20)
	add(t, l, 100)
	require.NoError(t, b.SealNow())
	_, lost = accounted(t, b, l)
	require.Equal(t, before, lost)
}

func TestFailedFlushIsRepeatedFromMemory(t *testing.T) {
	fs := newFaultFS()
	dir := t.TempDir()
	opt := Options{FS: fs, Clock: stillClock{time.Unix(1e9, 0)}, HalfBytes: minHalf}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	add(t, l, 10)
	durable := l.Durable()
	fs.setFail(func(op, name string) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	})
	require.ErrorIs(t, b.Flush(), syscall.EIO)
	add(t, l, 10)
	require.ErrorIs(t, b.Flush(), syscall.EIO)
	require.NotEmpty(t, b.Stats().LastError)
	select {
	case <-durable:
		t.Fatal("durable without a flush")
	default:
	}
	fs.setFail(nil)
	fs.cut(func() bool { return false }) // the kernel dropped what it could not write
	require.NoError(t, b.Flush())
	<-durable
	b.end()
	fs.cut(func() bool { return false })
	b = mustOpen(t, dir, opt)
	l = mustLane(t, b, 1)
	checkPolls(t, readAll(t, l, 1), 0, 20)
}

func TestIdleWritesNothing(t *testing.T) {
	fs := newFaultFS()
	dir := t.TempDir()
	opt := Options{FS: fs, Flush: time.Millisecond, Seal: time.Millisecond}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	add(t, l, 10)
	require.NoError(t, b.Anchor(testBoot, 1, 2))
	require.NoError(t, b.Close())
	before := fingerprint(t, dir)
	b = mustOpen(t, dir, opt)
	l = mustLane(t, b, 1)
	checkPolls(t, readAll(t, l, 1), 0, 10)
	require.NoError(t, b.Anchor(testBoot, 1, 2)) // nothing new
	require.NoError(t, b.PutSide("a", nil))
	require.NoError(t, b.Flush())
	require.NoError(t, b.SealNow())
	b.Stats()
	require.Empty(t, b.Verify())
	require.NoError(t, b.Close())
	require.Equal(t, before, fingerprint(t, dir))
}

func TestGapsMerge(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{})
	l := mustLane(t, b, 1)
	for i := range int64(1000) {
		require.NoError(t, l.NoteGap(Gap{N: 2, TFrom: 1000 - i, TTo: 2000 + i, Reason: Unsampled}))
	}
	require.Equal(t, []Gap{{ID: 1, N: 2000, TFrom: 1, TTo: 2999, Reason: Unsampled}}, l.OpenGaps())
	a, err := l.Fix(Attempt{Gaps: []uint64{1}, Payload: []byte("gap")})
	require.NoError(t, err)
	require.Empty(t, l.OpenGaps())
	_, err = l.Fix(Attempt{Gaps: []uint64{1}})
	require.ErrorIs(t, err, ErrOpen)
	require.NoError(t, l.NoteGap(Gap{N: 1, TFrom: 7, TTo: 8, Reason: Unsampled})) // what is on its way does not grow
	require.Equal(t, []Gap{{ID: 2, N: 1, TFrom: 7, TTo: 8, Reason: Unsampled}}, l.OpenGaps())
	require.NoError(t, l.Release(a.ID))
	require.Len(t, l.OpenGaps(), 2)
	a, err = l.Fix(Attempt{Gaps: []uint64{1, 2}})
	require.NoError(t, err)
	require.NoError(t, l.Ack(a.ID))
	require.Empty(t, l.OpenGaps())
	require.Equal(t, uint64(2), b.Stats().Gaps)
	require.Zero(t, b.Stats().Dropped)

	add(t, l, 10)
	for i := range Seq(10) {
		require.NoError(t, l.NoteGap(Gap{Range: Range{10*i + 1, 10*i + 10}, Reason: Purged}))
	}
	require.Equal(t, []Gap{{ID: 3, Range: Range{1, 100}, N: 100, TFrom: pollAt(0, 1).Stamp.Wall, TTo: pollAt(9, 1).Stamp.Wall, Reason: Purged}}, l.OpenGaps())
	require.ErrorIs(t, l.NoteGap(Gap{Range: Range{101, 102}, Reason: Purged}), ErrOpen)
}

func TestStaleClockIsRepaired(t *testing.T) {
	dir := t.TempDir()
	b := mustOpen(t, dir, Options{})
	l := mustLane(t, b, 1)
	boot2 := [16]byte{2}
	stamp := func(boot [16]byte, mono time.Duration, trusted bool) Poll {
		return Poll{Stamp: drivers.Stamp{Boot: boot, Mono: mono, Wall: 1000, Trusted: trusted},
			Readings: []drivers.Reading{{Channel: "a/b", Value: 1}, {Channel: "a/c", Value: 2, Quality: drivers.Suspect}}}
	}
	for _, p := range []Poll{stamp(testBoot, time.Second, false), stamp(testBoot, 2*time.Second, true), stamp(boot2, time.Second, false)} {
		_, err := l.Append(p)
		require.NoError(t, err)
	}
	check := func(times []int64, q []drivers.Quality) {
		t.Helper()
		for i, s := range readAll(t, mustLane(t, b, 1), 1) {
			require.Equal(t, times[i], s.Time)
			require.Equal(t, q[i], s.Readings[0].Quality)
			require.Equal(t, drivers.Suspect, s.Readings[1].Quality)
		}
	}
	check([]int64{1000, 1000, 1000}, []drivers.Quality{drivers.StaleClock, drivers.Good, drivers.StaleClock})
	require.NoError(t, b.Anchor(testBoot, 5*time.Second, 1_700_000_005_000))
	want, quality := []int64{1_700_000_001_000, 1000, 1000}, []drivers.Quality{drivers.Good, drivers.Good, drivers.StaleClock}
	check(want, quality)
	require.Equal(t, want[0], b.Stats().OldestTime)
	require.NoError(t, b.Close())
	for i := range 20 { // the anchors of boots that nothing is stored of go
		b = mustOpen(t, dir, Options{})
		check(want, quality)
		require.NoError(t, b.Anchor([16]byte{99, byte(i)}, 1, 1))
		require.NoError(t, b.Close())
	}
	b = mustOpen(t, dir, Options{})
	check(want, quality)
	require.LessOrEqual(t, len(b.anchors), 9)
}

func TestBounded(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{})
	l := mustLane(t, b, 1)
	_, err := l.Append(Poll{})
	require.ErrorContains(t, err, "want 1 to 65535")
	_, err = l.Append(Poll{Readings: make([]drivers.Reading, 65535)})
	require.ErrorContains(t, err, "what half the log can hold")
	_, err = l.Append(Poll{Readings: []drivers.Reading{{Channel: strings.Repeat("x", 2000)}}})
	require.ErrorContains(t, err, "longer than 1024 bytes")
	add(t, l, 10)
	_, err = l.Fix(Attempt{Range: Range{1, 10}, Payload: make([]byte, 200<<10)})
	require.NoError(t, err)
	_, err = l.Fix(Attempt{Range: Range{11, 20}, Payload: make([]byte, 57<<10)})
	require.ErrorIs(t, err, ErrInFlight)
	for _, r := range []Range{{5, 15}, {0, 3}, {20, 11}, {95, 101}, {1 << 40, 1 << 41}} {
		_, err = l.Fix(Attempt{Range: r})
		require.ErrorIs(t, err, ErrOpen, "%v", r)
	}
	require.Error(t, b.PutSide("", nil))
	require.Error(t, b.PutSide("a", make([]byte, 33<<10)))
	for i := range 100 {
		err = b.PutSide(fmt.Sprint(i), make([]byte, 32<<10))
	}
	require.ErrorContains(t, err, "in all")
}

// A receiver that repeats itself costs one record.
func TestAckRangesOnce(t *testing.T) {
	dir := t.TempDir()
	opt := Options{HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 1)
	add(t, l, 40)
	for i := range Seq(4) {
		_, err := l.Fix(Attempt{Range: Range{100*i + 1, 100*i + 100}})
		require.NoError(t, err)
	}
	off := func() int { return b.halves[b.active].off }
	before, active := off(), b.active
	rs := make([]Range, 4000)
	for i := range rs {
		rs[i] = Range{2, 1 << 53}
	}
	require.NoError(t, l.AckRanges(rs))
	require.Equal(t, active, b.active)
	require.Less(t, off()-before, 64)
	require.Equal(t, []Range{{2, 400}}, l.l.done.r)
	require.Equal(t, uint64(399), l.l.delivered)
	require.Len(t, l.Attempts(), 1)
	before = off()
	for range 100 {
		require.NoError(t, l.AckRanges(rs))
	}
	require.Equal(t, before, off())
	require.NoError(t, l.AckRanges([]Range{{1, 1}, {1, 1}, {0, 0}, {5, 3}}))
	require.Empty(t, l.Attempts())
	b.end()
	b = mustOpen(t, dir, opt)
	require.Equal(t, uint64(400), b.Stats().Delivered)
	require.Zero(t, b.Stats().Pending)
}
