package buffer

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

var testBoot = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// pollAt makes a poll of n readings, all different from those of other i.
func pollAt(i, n int) Poll {
	p := Poll{Stamp: drivers.Stamp{Boot: testBoot, Mono: time.Duration(i) * time.Second, Wall: 1_700_000_000_000 + int64(i)*1000, Trusted: true}}
	for k := range n {
		p.Readings = append(p.Readings, drivers.Reading{Channel: fmt.Sprintf("s%d/c%d", n, k), Value: float64(i) + float64(k)/100, Unit: "Cel"})
	}
	return p
}

func mustOpen(t testing.TB, dir string, o Options) *Buffer {
	t.Helper()
	b, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(b.end)
	return b
}

func mustLane(t testing.TB, b *Buffer, e Epoch) *Lane {
	t.Helper()
	l, err := b.Lane(e)
	require.NoError(t, err)
	return l
}

func readAll(t testing.TB, l *Lane, from Seq) []Stored {
	t.Helper()
	var out []Stored
	for s, err := range l.Open(from) {
		require.NoError(t, err)
		out = append(out, s)
	}
	return out
}

func checkPolls(t testing.TB, got []Stored, from, n int) {
	t.Helper()
	require.Len(t, got, n)
	for i, s := range got {
		want := pollAt(from+i, len(s.Readings))
		require.Equal(t, want.Readings, s.Readings)
		require.Equal(t, want.Stamp.Wall, s.Time)
		require.Equal(t, want.Stamp.Mono, s.Mono)
		require.Equal(t, want.Stamp.Boot, s.Boot)
	}
}

func TestAppendAndReadBack(t *testing.T) {
	dir := t.TempDir()
	b := mustOpen(t, dir, Options{})
	require.True(t, b.Fresh())
	l := mustLane(t, b, 7)
	for i := range 100 {
		seq, err := l.Append(pollAt(i, 10))
		require.NoError(t, err)
		require.Equal(t, Seq(10*i+1), seq)
	}
	checkPolls(t, readAll(t, l, 1), 0, 100)
	checkPolls(t, readAll(t, l, 501), 50, 50)
	b.end() // killed

	b = mustOpen(t, dir, Options{})
	require.False(t, b.Fresh())
	require.Empty(t, b.Stats().RecoveredFrom)
	l = mustLane(t, b, 7)
	require.Equal(t, Seq(1001), l.Next())
	checkPolls(t, readAll(t, l, 1), 0, 100)
	a, err := l.Fix(Attempt{Range: Range{1, 500}, Payload: []byte("payload"), Cost: 1})
	require.NoError(t, err)
	checkPolls(t, readAll(t, l, 1), 50, 50)
	require.NoError(t, b.SealNow())
	checkPolls(t, readAll(t, l, 1), 50, 50)
	require.NoError(t, l.Ack(a.ID))
	require.Equal(t, uint64(500), b.Stats().Pending)
	require.NoError(t, b.Close())

	b = mustOpen(t, dir, Options{})
	require.Empty(t, b.Stats().RecoveredFrom)
	require.Empty(t, b.Verify())
	l = mustLane(t, b, 7)
	checkPolls(t, readAll(t, l, 1), 50, 50)
	require.Equal(t, uint64(500), b.Stats().Delivered)
}

// Whoever only looks sees everything: segments, a half that waits to be sealed, the active half.
func TestReadOnlySeesAll(t *testing.T) {
	dir := t.TempDir()
	opt := Options{HalfBytes: minHalf, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 5)
	add(t, l, 100)
	a, err := l.Fix(Attempt{Range: Range{501, 600}, Payload: []byte("p"), Alarm: true, Cost: 3})
	require.NoError(t, err)
	require.NoError(t, b.SealNow())
	d, err := l.Fix(Attempt{Range: Range{1, 10}})
	require.NoError(t, err)
	require.NoError(t, l.Ack(d.ID))
	add(t, l, 100)
	b.sealMu.Lock() // the sealer does not get to it
	b.mu.Lock()
	require.NoError(t, b.switchHalf())
	b.mu.Unlock()
	add(t, l, 100)
	go b.end()
	b.sealMu.Unlock()
	b.end()

	opt.ReadOnly = true
	before := fingerprint(t, dir)
	r := mustOpen(t, dir, opt)
	l = mustLane(t, r, 5)
	n := 0
	for s, err := range l.All() {
		require.NoError(t, err)
		require.Equal(t, Seq(10*n+1), s.First, "delivered or in flight, as long as it is stored")
		require.Equal(t, pollAt(n, 10).Readings, s.Readings)
		n++
	}
	require.Equal(t, 300, n)
	require.Len(t, readAll(t, l, 1), 300-1-10)
	require.Equal(t, []*Attempt{{ID: a.ID, Range: a.Range, Payload: []byte("p"), Alarm: true, Cost: 3, Tries: 1}}, l.Attempts())
	require.Empty(t, r.Verify())
	require.Equal(t, []Epoch{5}, r.Lanes())
	st := r.Stats()
	require.Equal(t, uint64(2990), st.Pending)
	require.Equal(t, uint64(100), st.InFlight)
	require.Equal(t, pollAt(1, 1).Stamp.Wall, st.OldestTime)
	require.Equal(t, pollAt(1, 1).Stamp.Mono, st.OldestMono)
	_, err = l.Append(pollAt(0, 1))
	require.ErrorIs(t, err, ErrReadOnly)
	require.ErrorIs(t, l.Ack(a.ID), ErrReadOnly)
	require.ErrorIs(t, r.SealNow(), ErrReadOnly)
	_, err = r.Lane(6)
	require.ErrorIs(t, err, ErrReadOnly)
	require.NoError(t, r.Close())
	_, err = r.Lane(5)
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, before, fingerprint(t, dir))
}

func TestSetBounds(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{HalfBytes: minHalf, SegmentBytes: minSegment})
	l := mustLane(t, b, 1)
	for i := range 4 {
		add(t, l, 100)
		require.NoError(t, b.SealNow())
		l.l.segs[i].full = true
	}
	size := b.Stats().Bytes
	b.SetBounds(Options{MaxBytes: size})
	require.NoError(t, b.SealNow())
	require.NotZero(t, b.Stats().Dropped)
	require.Less(t, b.Stats().Bytes, size)
	b.SetBounds(Options{MaxBytes: size / 2, WhenFull: StopSampling})
	require.NoError(t, b.SealNow())
	_, err := l.Append(pollAt(0, 1))
	require.ErrorIs(t, err, ErrFull)
	b.SetBounds(Options{MaxBytes: 2 * size, WhenFull: StopSampling})
	require.NoError(t, b.SealNow())
	_, err = l.Append(pollAt(0, 1))
	require.NoError(t, err)
}
