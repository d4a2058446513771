package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// site is a buffer with readings in segments (1 to 2000, and 2001 to 4000 in a second one), in the log (4001 to 5000), an
// attempt at 1001–1100, and 1–100 delivered; stopped without a seal.
func site(t *testing.T) (dir string, opt Options) {
	t.Helper()
	dir, err := mkTemp()
	require.NoError(t, err)
	t.Cleanup(func() { removeAll(dir) })
	opt = Options{HalfBytes: 256 << 10, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}}
	b := mustOpen(t, dir, opt)
	l := mustLane(t, b, 3)
	add := func(n int) {
		for range n / 10 {
			_, err := l.Append(pollAt(int(l.Next()-1)/10, 10))
			require.NoError(t, err)
			require.NoError(t, b.Flush())
		}
	}
	add(100)
	a, err := l.Fix(Attempt{Range: Range{1, 100}, Payload: []byte("first")})
	require.NoError(t, err)
	require.NoError(t, l.Ack(a.ID))
	add(1900)
	_, err = l.Fix(Attempt{Range: Range{1001, 1100}, Payload: []byte("second")})
	require.NoError(t, err)
	require.NoError(t, b.SealNow())
	l.l.segs[0].full = true
	add(2000)
	require.NoError(t, b.SealNow())
	require.Len(t, l.l.segs, 2)
	add(1000)
	require.NoError(t, b.PutSide("ledger", []byte("42")))
	require.NoError(t, b.Flush())
	b.end()
	return dir, opt
}

// outcome is what a lane says of each number: how many are open, in an attempt and in gaps; together they and what was
// delivered are all.
type outcome struct {
	open, flight, lost, delivered uint64
	next                          Seq
}

func look(t *testing.T, b *Buffer) outcome {
	t.Helper()
	l := mustLane(t, b, 3)
	var o outcome
	for s, err := range l.Open(1) {
		require.NoError(t, err)
		o.open += uint64(len(s.Readings))
		for i, r := range s.Readings { // and they are the right ones
			n := int(s.First) - 1 + i
			require.Equal(t, pollAt(n/10, 10).Readings[n%10], r)
		}
	}
	for _, g := range l.OpenGaps() {
		require.Equal(t, Damaged, g.Reason)
		o.lost += g.N
	}
	o.flight, o.delivered, o.next = l.l.flight.n, l.l.delivered, l.Next()
	return o
}

var whole = outcome{open: 4800, flight: 100, delivered: 100, next: 5001}

func TestDamage(t *testing.T) {
	const (
		seg1, seg2 = "00000001.db", "00000002.db"
	)
	zero := func(from, n int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			if n < 0 {
				info, err := f.Stat()
				require.NoError(t, err)
				n = info.Size() - from
			}
			_, err = f.WriteAt(make([]byte, n), from)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
	}
	truncate := func(n int64) func(*testing.T, string) {
		return func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, n)) }
	}
	flip := func(at int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			var c [1]byte
			_, err = f.ReadAt(c[:], at)
			require.NoError(t, err)
			c[0] ^= 0x10
			_, err = f.WriteAt(c[:], at)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
	}
	remove := func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) }
	midBlock := func(t *testing.T, path string) {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(path, int64(bytes.Index(data, []byte(blockMagic))+100)))
	}
	noise := func(t *testing.T, path string) {
		b := make([]byte, 100_000)
		for i := range b {
			b[i] = byte(i*i>>3 ^ i)
		}
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
	all := func(o outcome) bool { return o == whole }
	// Whatever happens to a segment, the attempt and the readings outside it stay.
	segment1 := func(o outcome) bool {
		return o.next == 5001 && o.flight == 100 && o.delivered == 100 && o.open >= 3000 && o.open+o.lost == 4800
	}
	segment2 := func(o outcome) bool {
		return o.next == 5001 && o.flight == 100 && o.delivered == 100 && o.open >= 2800 && o.open+o.lost == 4800
	}
	lostLog := func(o outcome) bool { // N of what was in it is not known, and no number is used again
		return o.open == 3800 && o.flight == 100 && o.next > 5000 && o.lost == 0
	}
	// Without meta.db what was delivered is no longer known, but was not stored any more; the attempt's readings are open again.
	noMeta := func(o outcome) bool { return o.open == 4900 && o.flight == 0 && o.next == 5001 }
	for _, c := range []struct {
		file   string
		how    string
		damage func(*testing.T, string)
		want   func(outcome) bool
		fresh  bool
		aside  bool
	}{
		{seg1, "missing", remove, segment1, false, false},
		{seg1, "empty", truncate(0), segment1, false, true},
		{seg1, "zeroed", zero(0, -1), segment1, false, true},
		{seg1, "first page zeroed", zero(0, 4096), all, false, false}, // the other meta page serves
		{seg1, "both meta pages zeroed", zero(0, 8192), all, false, true},
		{seg1, "first 16 KB zeroed", zero(0, 16384), segment1, false, true},
		{seg1, "half zeroed", zero(8192, 8192), segment1, false, true},
		{seg1, "truncated to a page", truncate(4096), segment1, false, true},
		{seg1, "truncated oddly", midBlock, segment1, false, true},
		{seg1, "noise", noise, segment1, false, true},
		{seg2, "missing", remove, segment2, false, false},
		{seg2, "empty", truncate(0), segment2, false, true},
		{seg2, "zeroed", zero(0, -1), segment2, false, true},
		{seg2, "both meta pages zeroed", zero(0, 8192), all, false, true},
		{seg2, "first 16 KB zeroed", zero(0, 16384), segment2, false, true},
		{seg2, "noise", noise, segment2, false, true},
		{logName, "missing", remove, lostLog, true, false},
		{logName, "empty", truncate(0), lostLog, true, true},
		{logName, "zeroed", zero(0, -1), lostLog, true, true},
		{logName, "newer half zeroed", zero(0, 256<<10), lostLog, true, false},
		{logName, "older half zeroed", zero(256<<10, 256<<10), all, false, false},
		{logName, "truncated to the newer half", truncate(256 << 10), func(o outcome) bool { return o.open == 4800 && o.lost == 0 && o.next > 5001 }, true, true},
		{logName, "noise", noise, lostLog, true, true},
		{logName, "head flipped", flip(24), all, false, true},
		{metaName, "missing", remove, noMeta, false, false},
		{metaName, "empty", truncate(0), noMeta, false, true},
		{metaName, "zeroed", zero(0, -1), noMeta, false, true},
		{metaName, "both meta pages zeroed", zero(0, 8192), noMeta, false, true},
		{metaName, "truncated", truncate(9000), noMeta, false, true},
		{metaName, "noise", noise, noMeta, false, true},
	} {
		t.Run(c.file+" "+c.how, func(t *testing.T) {
			dir, opt := site(t)
			c.damage(t, filepath.Join(dir, c.file))
			ro := opt
			ro.ReadOnly = true
			before := fingerprint(t, dir)
			b, err := Open(dir, ro)
			require.NoError(t, err)
			for _, err := range mustLane(t, b, 3).Open(1) {
				require.NoError(t, err)
			}
			b.Verify()
			b.Stats()
			require.NoError(t, b.Close())
			require.Equal(t, before, fingerprint(t, dir), "looking changes nothing")

			b = mustOpen(t, dir, opt)
			o := look(t, b)
			require.True(t, c.want(o), "%+v", o)
			require.Equal(t, c.fresh, b.Fresh())
			st := b.Stats()
			b.measure()
			require.Equal(t, c.aside, slices.Contains(b.Stats().DamagedFiles, c.file+suffixDamaged), "%v", st.RecoveredFrom)
			// It goes on, and what it says stays true.
			l := mustLane(t, b, 3)
			seq, err := l.Append(pollAt(0, 1))
			require.NoError(t, err)
			require.Equal(t, o.next, seq)
			require.NoError(t, l.NoteGap(Gap{Range: Range{seq, seq}, Reason: Damaged}))
			o = look(t, b)
			require.NoError(t, b.Close())
			b = mustOpen(t, dir, opt)
			require.Equal(t, o, look(t, b))
			require.Empty(t, b.Verify())
			require.Empty(t, b.Stats().RecoveredFrom)
			require.False(t, b.Fresh())
		})
	}
}

func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	s := ""
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		s += fmt.Sprintln(e.Name(), len(data), crc(data), info.ModTime())
	}
	return s
}

// A flipped bit anywhere in the log costs at most the records it is in, never a wrong reading, and no number.
func TestFlippedBitInTheLog(t *testing.T) {
	dir, opt := site(t)
	path := filepath.Join(dir, logName)
	sound, err := os.ReadFile(path)
	require.NoError(t, err)
	end := 0
	scanHalf(sound[:256<<10], 1, func(off int, p []byte) { end = off + frameHeader + len(p) })
	if end < 10_000 {
		t.Fatal("the log holds too little")
	}
	meta, err := os.ReadFile(filepath.Join(dir, metaName))
	require.NoError(t, err)
	for at := 0; at < end; at += 991 {
		data := slices.Clone(sound)
		data[at] ^= 1 << (at % 8)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, metaName), meta, 0o600))
		b, err := Open(dir, opt)
		require.NoError(t, err)
		o := look(t, b)
		b.end()
		require.Equal(t, uint64(100), o.flight)
		if o.next == 5001 {
			require.Equal(t, uint64(4800), o.open+o.lost, "offset %d", at)
			if at < 200 { // names and boot id: all readings depend on them
				continue
			}
			require.LessOrEqual(t, o.lost, uint64(10), "offset %d", at)
		} else { // the records of the last flush look like a torn tail
			require.Greater(t, at, end-1000, "offset %d: %+v", at, o)
		}
		for _, e := range must(os.ReadDir(dir)) {
			if strings.HasSuffix(e.Name(), suffixDamaged) {
				require.NoError(t, os.Remove(filepath.Join(dir, e.Name())))
			}
		}
	}
}

// A flipped bit anywhere in a segment costs at most what the page is about.
func TestFlippedBitInASegment(t *testing.T) {
	dir, opt := site(t)
	path := filepath.Join(dir, "00000001.db")
	sound := must(os.ReadFile(path))
	keep := map[string][]byte{}
	for _, e := range must(os.ReadDir(dir)) {
		keep[e.Name()] = must(os.ReadFile(filepath.Join(dir, e.Name())))
	}
	used := len(sound)
	for used > 0 && sound[used-1] == 0 {
		used--
	}
	for at := 0; at < used; at += 211 {
		for _, e := range must(os.ReadDir(dir)) {
			if _, ok := keep[e.Name()]; !ok {
				require.NoError(t, os.Remove(filepath.Join(dir, e.Name())))
			}
		}
		for name, data := range keep {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		}
		data := slices.Clone(sound)
		data[at] ^= 1 << (at % 8)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		b, err := Open(dir, opt)
		require.NoError(t, err)
		o := look(t, b)
		b.end()
		require.Equal(t, uint64(4800), o.open+o.lost, "offset %d: %+v", at, o)
		require.Equal(t, uint64(100), o.flight)
		require.LessOrEqual(t, o.lost, uint64(1800), "offset %d", at)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A file that may be read and not written, and a folder that may not be written, are refused.
func TestReadOnlyFiles(t *testing.T) {
	for _, name := range siteFiles {
		dir, opt := site(t)
		before := fingerprint(t, dir)
		fs := newFaultFS()
		fs.setFail(func(op, n string) error {
			if n == name && (op == "openrw" || op == "create") {
				return syscall.EACCES
			}
			return nil
		})
		opt.FS = fs
		_, err := Open(dir, opt)
		require.ErrorIs(t, err, syscall.EACCES)
		require.ErrorContains(t, err, filepath.Join(dir, name))
		require.Equal(t, before, fingerprint(t, dir))
		fs.setFail(nil)
		require.Equal(t, whole, look(t, mustOpen(t, dir, opt)))
	}
	dir, opt := site(t)
	fs := newFaultFS()
	fs.setFail(func(op, n string) error {
		if op == "openrw" || op == "create" || op == "rename" || op == "remove" {
			return syscall.EROFS
		}
		return nil
	})
	opt.FS = fs
	_, err := Open(dir, opt)
	require.ErrorIs(t, err, syscall.EROFS)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Open(file, Options{})
	require.ErrorIs(t, err, syscall.ENOTDIR)
}

func TestBusy(t *testing.T) {
	dir := t.TempDir()
	b := mustOpen(t, dir, Options{})
	_, err := Open(dir, Options{})
	require.ErrorIs(t, err, ErrBusy)
	_, err = Open(dir, Options{ReadOnly: true})
	require.ErrorIs(t, err, ErrBusy)
	require.NoError(t, b.Close())
	r1 := mustOpen(t, dir, Options{ReadOnly: true})
	r2 := mustOpen(t, dir, Options{ReadOnly: true})
	require.NoError(t, r1.Close())
	require.NoError(t, r2.Close())
	require.ErrorIs(t, r2.PutSide("a", nil), ErrClosed)
}

// A file that is longer than what is used of it (a bad i_size) neither counts with its length nor makes sound readings give way; verify says it.
func TestTooLong(t *testing.T) {
	for _, name := range siteFiles {
		for _, size := range []int64{5_000_001, 64 << 20, 1 << 40} {
			dir, opt := site(t)
			path := filepath.Join(dir, name)
			if err := os.Truncate(path, size); err != nil { // a file system of small files
				t.Logf("%d bytes: %v", size, err)
				continue
			}
			opt.MaxBytes, opt.ReadOnly = 8<<20, true
			b := mustOpen(t, dir, opt)
			require.Equal(t, whole, look(t, b))
			found := b.Verify()
			require.Len(t, found, 1)
			require.Contains(t, found[0], fmt.Sprintf("%s: %d bytes long, of which", name, size))
			require.Less(t, b.Stats().Bytes, int64(8<<20))
			require.NoError(t, b.Close())

			opt.ReadOnly = false
			b = mustOpen(t, dir, opt)
			require.NoError(t, b.SealNow())
			require.Equal(t, whole, look(t, b), "%s %d", name, size)
			require.Empty(t, b.Verify())
			require.False(t, b.Fresh())
			require.Less(t, must(os.Stat(path)).Size(), int64(4<<20))
			b.end()
			removeAll(dir)
		}
	}
}

// The same under a buffer that runs, and where what is used cannot be told.
func TestTooLongAndMore(t *testing.T) {
	dir, opt := site(t)
	opt.MaxBytes = 8 << 20
	b := mustOpen(t, dir, opt)
	for _, name := range siteFiles {
		require.NoError(t, os.Truncate(filepath.Join(dir, name), 1<<33))
	}
	require.NoError(t, b.SealNow())
	require.Equal(t, whole, look(t, b))
	require.Empty(t, b.Stats().DamagedFiles)
	b.end()

	dir, opt = site(t)
	opt.MaxBytes = 8 << 20
	path := filepath.Join(dir, "00000001.db")
	f := must(os.OpenFile(path, os.O_RDWR, 0))
	must(f.WriteAt(make([]byte, 8192), 0)) // both meta pages
	require.NoError(t, f.Truncate(1<<40))
	require.NoError(t, f.Close())
	b = mustOpen(t, dir, opt)
	require.NoError(t, b.SealNow())
	require.Equal(t, whole, look(t, b))
	require.NoError(t, b.SealNow())
	require.Equal(t, whole, look(t, b))
	require.Empty(t, b.Verify())
}

// An export gives what can be read, and names exactly what cannot.
func TestAllNamesWhatItLacks(t *testing.T) {
	for _, ro := range []bool{true, false} {
		for how, damage := range map[string]func(path string){
			"a block": func(path string) {
				data := must(os.ReadFile(path))
				copy(data[bytes.Index(data, []byte(blockMagic))+40:], make([]byte, 20))
				require.NoError(t, os.WriteFile(path, data, 0o600))
			},
			"empty":   func(path string) { require.NoError(t, os.Truncate(path, 0)) },
			"missing": func(path string) { require.NoError(t, os.Remove(path)) },
		} {
			dir, opt := site(t)
			opt.ReadOnly = ro
			late := how == "a block" && !ro // found by the reader; the others by the start, which makes gaps
			if !late {
				damage(filepath.Join(dir, "00000001.db"))
			}
			b := mustOpen(t, dir, opt)
			if late {
				damage(filepath.Join(dir, "00000001.db"))
			}
			var have rangeSet
			var lost rangeSet
			for s, err := range mustLane(t, b, 3).All() {
				var u *UnreadableError
				if errors.As(err, &u) {
					require.Equal(t, Epoch(3), u.Epoch)
					require.Equal(t, u.Range.Len(), lost.add(u.Range), "told once")
					continue
				}
				require.NoError(t, err)
				have.add(Range{s.First, s.First + Seq(len(s.Readings)) - 1})
			}
			if ro || late {
				require.Positive(t, lost.n, how)
			}
			for _, g := range mustLane(t, b, 3).OpenGaps() {
				lost.add(g.Range)
			}
			for _, r := range lost.r {
				require.False(t, have.overlaps(r), how)
			}
			for _, r := range append(have.r, lost.r...) {
				have.add(r)
			}
			have.add(Range{1, 100}) // delivered
			if how != "a block" {
				have.add(Range{1001, 1100}) // their attempt has its bytes
			}
			require.Equal(t, []Range{{1, 5000}}, have.r, how)
		}
	}
}

// Killed at each single step of its first start, before anything was recorded: nothing is missing.
func TestVerifyAfterADeathAtBirth(t *testing.T) {
	for at := 0; ; at++ {
		dir := t.TempDir()
		fs := newFaultFS()
		n := 0
		fs.setFail(func(op, name string) error {
			if op == "open" {
				return nil
			}
			if n++; n > at {
				return syscall.EIO // and all that follows
			}
			return nil
		})
		opt := Options{FS: fs, Clock: stillClock{time.Unix(1e9, 0)}}
		if b, err := Open(dir, opt); err == nil {
			b.end()
		}
		b := mustOpen(t, dir, Options{ReadOnly: true})
		if _, err := os.Stat(filepath.Join(dir, logName+suffixSalvage)); err != nil { // one step from being the log
			require.Empty(t, b.Verify(), "step %d", at)
		}
		b.end()
		if n <= at {
			require.Greater(t, at, 5)
			return
		}
	}
}

// The log without meta.db, where there was one: that is told.
func TestVerifyMissesMeta(t *testing.T) {
	dir, opt := site(t)
	require.NoError(t, os.Remove(filepath.Join(dir, metaName)))
	opt.ReadOnly = true
	require.Contains(t, strings.Join(mustOpen(t, dir, opt).Verify(), "\n"), metaName+": missing")
	dir, _ = site(t)
	require.NoError(t, os.Remove(filepath.Join(dir, metaName)))
	require.NoError(t, os.Remove(filepath.Join(dir, logName)))
	require.Contains(t, strings.Join(mustOpen(t, dir, opt).Verify(), "\n"), logName+": missing")
}

// foreignFS counts looks at files that are not the buffer's.
type foreignFS struct {
	OSFS
	looks *int
}

type foreignEntry struct {
	os.DirEntry
	looks *int
}

func (e foreignEntry) Info() (os.FileInfo, error) {
	if strings.HasPrefix(e.Name(), "foreign") {
		*e.looks++
	}
	return e.DirEntry.Info()
}

func (f foreignFS) ReadDir(dir string) ([]os.DirEntry, error) {
	entries, err := f.OSFS.ReadDir(dir)
	for i, e := range entries {
		entries[i] = foreignEntry{e, f.looks}
	}
	return entries, err
}

// What others put into the folder is neither counted, looked at, nor touched.
func TestForeignFiles(t *testing.T) {
	dir, opt := site(t)
	names := []string{"foreign", "foreign.new", "foreign.salvaged", "foreign.damaged", "foreign.2.damaged", "1.db", "00000000.db", "00000001.db.x", "000000001.db", "note"}
	for _, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), 0o600))
	}
	looks := 0
	opt.FS, opt.MaxBytes = foreignFS{looks: &looks}, 8<<20
	b := mustOpen(t, dir, opt)
	require.NoError(t, b.SealNow())
	require.NoError(t, b.SealNow())
	require.Equal(t, whole, look(t, b))
	require.Empty(t, b.Stats().DamagedFiles)
	require.NoError(t, b.Close())
	require.Zero(t, looks)
	for _, name := range names {
		require.FileExists(t, filepath.Join(dir, name))
	}
	for _, name := range []string{"00000001.db", "123456789.db", "tail.log.damaged", "tail.log.2.damaged", "00000001.db.17.damaged", "00000001.db.salvaged.new", "meta.db.new"} {
		require.True(t, ours(name), name)
	}
}
