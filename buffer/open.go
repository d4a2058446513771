package buffer

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	openRW        = os.O_RDWR
	openRO        = os.O_RDONLY
	suffixNew     = ".new"      // being made; never read
	suffixSalvage = ".salvaged" // whole; takes the place of a damaged file of the name before it
	suffixDamaged = ".damaged"  // set aside, never read again
	lockName      = "lock"
	filePerm      = 0o600
)

func (b *Buffer) path(name string) string { return filepath.Join(b.dir, name) }

// Open opens the buffer in the folder, making it if there is none. It succeeds
// whatever the files hold: what is damaged is set aside and told in
// [Stats].RecoveredFrom. Errors: the folder cannot be made, read or written;
// [ErrBusy]; a file cannot be opened for a reason that is no fault of what is in
// it (permissions, descriptors, memory), and nothing was changed.
func Open(dir string, o Options) (*Buffer, error) {
	o = o.withDefaults()
	if o.WhenFull != DropOldest && o.WhenFull != StopSampling {
		return nil, fmt.Errorf("buffer: when_full %q, want %s or %s", o.WhenFull, DropOldest, StopSampling)
	}
	b := &Buffer{
		dir: dir, fs: o.FS, clock: o.Clock, log: o.Log, seed: maphash.MakeSeed(), readOnly: o.ReadOnly, half: o.HalfBytes,
		opt: o, state: newState(), overBound: true,
		dirty: make(chan struct{}, 1), flushNow: make(chan struct{}, 1), sealNow: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	b.segLimit = int(min(o.SegmentBytes, max(o.MaxBytes/8, minSegment), maxSegment)) &^ 4095
	if !o.ReadOnly {
		if err := b.fs.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("buffer: make the folder: %w", err)
		}
	}
	if _, err := b.fs.ReadDir(dir); err != nil {
		return nil, fmt.Errorf("buffer: read the folder: %w", err)
	}
	if err := b.takeLock(); err != nil {
		return nil, err
	}
	entries, err := b.fs.ReadDir(dir)
	if err == nil {
		err = b.admit(entries)
	} else {
		err = fmt.Errorf("buffer: read the folder: %w", err)
	}
	if err == nil {
		err = b.recover(entries)
	}
	if err != nil {
		b.closeFiles()
		return nil, err
	}
	if !b.readOnly {
		b.wg.Add(2)
		go b.flusher()
		go b.sealer()
		kick(b.sealNow)
	}
	return b, nil
}

// takeLock keeps others out; whoever only looks shares it with those who only look.
func (b *Buffer) takeLock() error {
	flag, how := os.O_RDWR|os.O_CREATE, syscall.LOCK_EX
	if b.readOnly {
		flag, how = os.O_RDONLY, syscall.LOCK_SH
	}
	if err := b.regular(lockName); errors.Is(err, errNotFile) {
		return b.refuse(lockName, err)
	}
	f, err := os.OpenFile(b.path(lockName), flag, filePerm)
	if b.readOnly && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) && !b.readOnly { // made by another user: locking needs no write access
		f, err = os.OpenFile(b.path(lockName), os.O_RDONLY, 0)
	}
	if err != nil {
		return fmt.Errorf("buffer: lock the folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%w: %s", ErrBusy, b.dir)
		}
		return fmt.Errorf("buffer: lock the folder: %w", err)
	}
	b.lock = OSFile{f}
	return nil
}

func (b *Buffer) closeFiles() {
	b.closeDBs()
	for _, f := range []File{b.tail, b.lock} {
		if f != nil {
			_ = f.Close() // all that matters was synced
		}
	}
	b.tail = nil
}

// ours says whether a name is one that the buffer gives. What else lies in its folder is neither counted nor touched.
func ours(name string) bool {
	if base, ok := strings.CutSuffix(name, suffixDamaged); ok {
		if i := strings.LastIndexByte(base, '.'); i > 0 {
			if _, err := strconv.Atoi(base[i+1:]); err == nil {
				base = base[:i] // a second one
			}
		}
		name = base
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, suffixNew), suffixSalvage)
	_, ok := segmentID(name)
	return ok || name == logName || name == metaName || name == lockName
}

// setAside renames a damaged file to a name that is free, ending in .damaged.
func (b *Buffer) setAside(name string) error {
	for i := 1; ; i++ {
		to := name + suffixDamaged
		if i > 1 {
			to = fmt.Sprintf("%s.%d%s", name, i, suffixDamaged)
		}
		if _, err := b.fs.Stat(b.path(to)); err == nil && i < 1000 {
			continue
		}
		if err := b.fs.Rename(b.path(name), b.path(to)); err != nil {
			return err
		}
		return b.fs.SyncDir(b.dir)
	}
}

// recover brings the state to what the files say.
func (b *Buffer) recover(entries []os.DirEntry) error {
	if err := b.tidy(entries); err != nil {
		return err
	}
	if !b.readOnly {
		if err := b.cutBack(); err != nil {
			return err
		}
	}
	m, err := b.loadMeta()
	if err != nil {
		return b.refuse(metaName, err)
	}
	b.metaGen, b.metaOK = m.head.Gen, m.hasHead
	b.state = m.state
	b.segment = m.head.Segment
	if err := b.loadSegments(m); err != nil {
		return err
	}
	if err := b.openLog(m.head.Gen, m.hasHead, false); err != nil {
		var there *logError
		if errors.As(err, &there) && noFault(err) {
			return b.refuse(logName, there.err)
		}
		if b.readOnly {
			b.tell("%s: %v", logName, err)
		} else if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("buffer: the folder cannot be written: %w", err)
		}
		b.failed("no log yet", err)
		b.diskFull = errors.Is(err, syscall.ENOSPC)
	}
	b.segLimit = max(b.segLimit, minSegment, 2*b.half)
	b.measure()
	return nil
}

// tidy removes what was being made when an earlier life ended, and finishes a salvage.
func (b *Buffer) tidy(entries []os.DirEntry) error {
	for _, e := range entries {
		name := e.Name()
		if b.readOnly || !ours(name) {
			continue
		}
		switch base := strings.TrimSuffix(name, suffixSalvage); {
		case strings.HasSuffix(name, suffixNew):
			_ = b.fs.Remove(b.path(name)) // only room is lost if it stays
		case base != name:
			_, err := b.fs.Stat(b.path(base))
			if errors.Is(err, fs.ErrNotExist) {
				err = b.fs.Rename(b.path(name), b.path(base))
			} else if err == nil {
				_ = b.fs.Remove(b.path(name)) // the damaged one is still there and is salvaged again
			}
			if err != nil {
				return fmt.Errorf("buffer: put what was salvaged in its place: %w", err)
			}
		}
	}
	return nil
}

// lateLog makes the log that Open could not make.
func (b *Buffer) lateLog() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tail != nil {
		return nil
	}
	return b.openLog(b.metaGen, b.metaOK, true)
}

// openLog replays the log onto the state, which is that of meta.db (metaOK) or
// a guess; late: the buffer is running and mu is held. An error: there is no log to write to, and nothing was replayed.
func (b *Buffer) openLog(metaGen uint32, metaOK, late bool) error {
	in, err := b.inspectLog(metaGen, true)
	if err != nil {
		return err
	}
	if b.readOnly && in.file == nil {
		if metaOK && metaGen > 0 {
			b.tell("%s: missing", logName)
		}
		b.mendAll(nil)
		return nil
	}
	found := in.file != nil
	if in.file == nil {
		gen := metaGen + 1
		if err := b.createLog(b.half, func(w *logWriter) error { return w.fill(0, gen, nil, &b.state) }); err != nil {
			return err
		}
		if in, err = b.inspectLog(metaGen, false); err != nil {
			return err
		}
		if in.file == nil {
			return errors.New("buffer: the log is not there after it was made")
		}
	}
	b.tail, b.half = in.file, in.half
	// The order of the halves is that of their generations; what meta.db covers is done with.
	order := []int{0, 1}
	if in.scans[0].gen > in.scans[1].gen {
		order = []int{1, 0}
	}
	newest := in.scans[order[1]].gen
	lost := in.lost || metaOK && (!found || newest <= metaGen)
	if oldest := in.scans[order[0]].gen; !metaOK && found && newest > 1 && oldest != newest-1 {
		lost = true // the half that cannot be read may have been the newer
	}
	if !metaOK {
		b.rebuild(in, order)
		if !b.readOnly && !late { // late, the first seal does it
			base := newest
			if g := in.scans[order[0]].gen; g > 0 && g+1 == newest {
				base = g
			}
			if err := b.commitMeta(b.snapshot(base - 1)); err != nil {
				b.failed("meta.db cannot be made", err)
			}
		}
	}
	var holes map[Epoch][]Range
	for k, i := range order {
		gen := in.scans[i].gen
		if gen == 0 || metaOK && gen <= metaGen || k == 0 && gen+1 != newest {
			continue
		}
		h := &b.halves[i]
		h.reset(gen)
		buf, err := readHalf(in.file, i, in.half)
		if err != nil {
			return err
		}
		s := b.replay(h, buf, gen, &holes)
		h.off, h.prev, h.flushed = s.end, s.prev, s.end
		if k == 0 && newest == gen+1 {
			b.job = &sealJob{half: i, snap: b.snapshot(gen)}
		}
	}
	b.active = order[1]
	if newest <= metaGen || newest == 0 { // all that was in it is lost, or sealed: start behind it
		b.active = order[0]
		h := &b.halves[b.active]
		h.reset(metaGen + 1)
		if !b.readOnly {
			if err := b.startHalf(h); err != nil {
				return err
			}
		}
	}
	b.fresh = lost || !metaOK && len(b.lanes) == 0
	if b.readOnly {
		b.mendAll(holes)
		return nil
	}
	// Whatever the page cache still holds of a killed process is to be on disk before anyone builds on it.
	if err := b.tail.Sync(); err != nil {
		b.tailDead = true
		b.failed("log cannot be flushed", err)
	}
	if h := &b.halves[b.active]; h.used {
		b.firstDirty = b.clock.Now()
	}
	if lost {
		b.jump()
	}
	b.mendAll(holes)
	return nil
}

// startHalf writes the head of a half.
func (b *Buffer) startHalf(h *half) error {
	b.fr.reset(h)
	b.fr.begin(recHead)
	b.fr.b = appendHead(b.fr.b, b.half, &b.state)
	b.fr.end()
	h.used = true // no seal for the head alone
	err := b.write(h)
	h.used = false
	return err
}

// jump steps over all numbers that a lost half of the log can have given: none
// is ever used again. How many were is not known: a gap with N 0.
func (b *Buffer) jump() {
	b.tell("%s: lost since the last seal; numbers that may have been given are skipped", logName)
	for _, l := range b.lanes {
		r := Range{l.next, l.next + Seq(2*b.half/8)}
		g := Gap{ID: l.lastGap + 1, Range: r, Reason: Damaged, MaybeDelivered: true}
		if err := b.record(recGap, func(d []byte) []byte { return appendGap(d, l.epoch, g, nil) }); err != nil {
			b.failed("gap not written", err)
		}
		l.setGap(g, nil)
	}
}

// mendAll makes a gap of each number without an outcome that is stored nowhere.
func (b *Buffer) mendAll(holes map[Epoch][]Range) {
	for _, e := range b.epochs() {
		l := b.lanes[e]
		b.trimKept(l)
		stored := l.done.clone()
		for _, r := range l.flight.r { // their bytes are kept with the attempt
			stored.add(r)
		}
		for _, s := range l.segs {
			stored.add(Range{s.first, s.last})
		}
		for i := range b.halves {
			if hl := b.halves[i].lanes[e]; hl != nil {
				stored.add(Range{hl.first, hl.next - 1})
			}
		}
		for _, r := range holes[e] {
			if !l.done.overlaps(r) && !l.flight.overlaps(r) {
				stored.remove(r)
			}
		}
		var missing []Range
		stored.missing(Range{1, l.next - 1}, func(r Range) { missing = append(missing, r) })
		for _, r := range missing {
			b.tell("epoch %d: readings %d to %d are damaged", e, r.From, r.To)
			if b.readOnly {
				g := Gap{ID: l.lastGap + 1, Range: r, N: r.Len(), Reason: Damaged}
				l.setGap(g, nil)
				l.lost = append(l.lost, r)
				continue
			}
			if err := b.giveUpLocked(l, r, Damaged, nil); err != nil {
				b.failed("gap not written", err)
			}
		}
		// An attempt of which everything got its outcome in a torn write is over.
		for _, a := range slices.Clone(l.attempts) {
			if !a.Range.Empty() && l.done.has(a.Range) {
				l.end(a.ID, false)
			}
		}
	}
	b.countFlight()
}

// replay takes a half's records into the state.
func (b *Buffer) replay(h *half, buf []byte, gen uint32, holes *map[Epoch][]Range) scan {
	bad, group := 0, false
	s := scanHalf(untorn(buf, gen), gen, func(off int, payload []byte) {
		t, body := recType(payload[0]), payload[1:]
		switch t {
		case recGroup, recWhole:
			group = t == recGroup
		case recHead:
			if hd, ok := decodeHead(body); ok {
				for e, next := range hd.next {
					if l := b.state.lane(e); next > 0 {
						l.next = max(l.next, next)
					}
				}
			} else {
				bad++
			}
			return
		case recShape, recBoot:
			if !h.define(t, body, b.seed) {
				bad++
			}
		case recPoll:
			r, ok := h.decodePoll(body)
			if !ok {
				bad++
				return
			}
			l := b.state.lane(r.epoch)
			hl := h.lanes[r.epoch]
			if r.poll.first > l.next && hl != nil {
				if *holes == nil {
					*holes = map[Epoch][]Range{}
				}
				(*holes)[r.epoch] = append((*holes)[r.epoch], Range{l.next, r.poll.first - 1})
			}
			if r.poll.first >= l.next || hl == nil || hl.next == r.poll.first {
				h.note(r.epoch, r.poll.first, r.n, off)
				l.next = max(l.next, r.poll.last()+1)
				if !group { // aggregates are of the boots of their originals
					b.lastBoot = r.poll.stamp.Boot
				}
			}
		default:
			if !b.applySide(t, body) {
				bad++
			}
		}
		h.used = true
	})
	if bad > 0 {
		b.tell("%s: generation %d: %d records cannot be read", logName, gen, bad)
	}
	for _, d := range s.damaged {
		b.tell("%s: generation %d: bytes %d to %d of the half are damaged", logName, gen, d[0], d[1])
	}
	return s
}

// rebuild guesses what meta.db said from the segments and the log: what has
// left no trace had its outcome, everything else is open again.
func (b *Buffer) rebuild(in inspected, order []int) {
	floor := map[Epoch]Seq{}
	low := func(e Epoch, s Seq) {
		if f, ok := floor[e]; !ok || s < f {
			floor[e] = s
		}
	}
	for e, l := range b.lanes {
		for _, s := range l.segs {
			if s.decided != (Range{s.first, s.last}) {
				low(e, s.first)
			} else {
				low(e, s.last+1)
			}
			l.next = max(l.next, s.last+1)
		}
	}
	for _, i := range order {
		if in.scans[i].gen == 0 {
			continue
		}
		buf, err := readHalf(in.file, i, in.half)
		if err != nil {
			continue
		}
		scanHalf(buf, in.scans[i].gen, func(_ int, payload []byte) {
			switch recType(payload[0]) {
			case recHead:
				if hd, ok := decodeHead(payload[1:]); ok {
					for e, next := range hd.next {
						low(e, next)
						b.state.lane(e)
					}
				}
			case recPoll:
				if e, first, _, ok := pollHead(payload[1:]); ok {
					low(e, first)
				}
			}
		})
	}
	for e, f := range floor {
		l := b.state.lane(e)
		l.next = max(l.next, f)
		if f > 1 {
			l.done.add(Range{1, f - 1})
			b.tell("epoch %d: outcomes of the readings before %d are no longer known", e, f)
		}
		for _, s := range l.segs {
			l.done.add(s.decided)
			for _, r := range s.thinned {
				l.kept.add(r)
			}
		}
	}
}

// logError: the log is there and cannot be opened or read.
type logError struct{ err error }

func (e *logError) Error() string { return e.err.Error() }
func (e *logError) Unwrap() error { return e.err }

// inspected is a log as found.
type inspected struct {
	file     File
	writable bool
	half     int
	scans    [2]scan
	lost     bool // numbers may have been given that are not known
}

// inspectLog opens the log; one that is damaged it first replaces by what can
// be read of it, but only if anew. No file, no error: there is none.
func (b *Buffer) inspectLog(metaGen uint32, anew bool) (in inspected, err error) {
	why := ""
	flag := openRW
	if b.readOnly {
		flag = os.O_RDONLY
	}
	f, err := b.openFile(logName, flag, 0)
	in.writable = err == nil && !b.readOnly
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	if err != nil && noFault(err) {
		return in, &logError{err}
	}
	if err != nil && !b.readOnly {
		why = err.Error()
		f, err = b.fs.OpenFile(b.path(logName), os.O_RDONLY, 0)
	}
	if err != nil {
		if b.readOnly {
			return in, err
		}
		if !anew {
			return in, err
		}
		b.tell("%s: %v; set aside", logName, err)
		return in, b.setAside(logName)
	}
	size, err := f.Size()
	if err != nil {
		size = 0
	}
	if err != nil && noFault(err) {
		_ = f.Close() // nothing was written
		return in, &logError{err}
	}
	in.file, in.half = f, b.half
	sized, long := false, false
	if size%8192 == 0 && size/2 >= minHalf && size/2 <= maxHalf {
		in.half, sized = int(size/2), true
	}
	for i := range in.scans {
		buf, rerr := readHalf(f, i, in.half)
		if i == 0 {
			if fr, ok := frameAt(buf, 0, 0); ok && recType(fr.payload[0]) == recHead {
				if hd, ok := decodeHead(fr.payload[1:]); ok && hd.half >= minHalf && hd.half <= maxHalf {
					if hd.half != in.half {
						in.half, sized = hd.half, false
						buf, rerr = readHalf(f, i, in.half)
					}
					long = size > 2*int64(in.half)
					sized = sized || long // all of it is there
				}
			}
		}
		if rerr != nil {
			why = rerr.Error()
			if noFault(rerr) {
				_ = f.Close() // nothing was written
				return inspected{}, &logError{rerr}
			}
		}
		in.scans[i] = scanHalf(buf, metaGen+1, func(int, []byte) {})
		s := in.scans[i]
		if s.gen > metaGen && (len(s.damaged) > 0 || !s.head) {
			why = fmt.Sprintf("half %d is damaged", i)
		}
	}
	if in.scans[0].gen == 0 && in.scans[1].gen == 0 {
		why = "holds no records"
	}
	if !sized {
		why = fmt.Sprintf("%d bytes long", size)
	}
	if long && why == "" {
		what := fmt.Sprintf("%s: %d bytes long, of which %d are used", logName, size, 2*in.half)
		if b.readOnly {
			b.tell("%s", what)
		} else if err := f.Truncate(2 * int64(in.half)); err != nil { // its length is not what counts
			b.failed("log cannot be cut back", err)
		} else {
			b.tell("%s; cut back", what)
		}
	}
	if why != "" && !anew {
		_ = f.Close() // not to be used
		return inspected{}, fmt.Errorf("buffer: %s, although it was written anew: %s", logName, why)
	}
	if why == "" || b.readOnly {
		if why != "" {
			b.tell("%s: %s", logName, why)
		}
		return in, nil
	}
	err = b.createLog(in.half, func(w *logWriter) error {
		n := 0
		for i, s := range in.scans {
			if s.gen == 0 {
				continue
			}
			buf, _ := readHalf(f, i, in.half) // what could not be read was told above
			if err := w.fill(i, s.gen, buf, &b.state); err != nil {
				return err
			}
			n++
		}
		if n == 0 {
			return w.fill(0, metaGen+1, nil, &b.state)
		}
		return nil
	})
	if err != nil {
		if sized && (in.scans[0].gen > 0 || in.scans[1].gen > 0) && why != "" && in.writable {
			b.tell("%s: %s; used as it is, for a new one cannot be made: %v", logName, why, err)
			return in, nil
		}
		_ = f.Close() // read only
		return inspected{}, err
	}
	_ = f.Close() // set aside
	b.tell("%s: %s; set aside and written anew from what can be read", logName, why)
	lost := in.scans[0].gen == 0 && in.scans[1].gen == 0
	for i, s := range in.scans {
		if s.gen > metaGen && len(s.damaged) > 0 {
			for _, d := range s.damaged {
				b.tell("%s: half %d: bytes %d to %d are damaged", logName, i, d[0], d[1])
			}
		}
	}
	in, err = b.inspectLog(metaGen, false)
	in.lost = lost || !sized
	return in, err
}

// createLog makes a log of zeroes and what fill writes, and puts it in the
// place of the one that is there, which is set aside.
func (b *Buffer) createLog(half int, fill func(*logWriter) error) error {
	name := b.path(logName)
	f, err := b.fs.OpenFile(name+suffixNew, openRW|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return fmt.Errorf("buffer: make the log: %w", err)
	}
	zero := make([]byte, 64<<10)
	for off := 0; off < 2*half && err == nil; off += len(zero) {
		_, err = f.WriteAt(zero[:min(len(zero), 2*half-off)], int64(off))
	}
	if err == nil {
		err = fill(&logWriter{f, half})
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = b.fs.Rename(name+suffixNew, name+suffixSalvage)
	}
	if err == nil {
		err = b.fs.SyncDir(b.dir)
	}
	if err == nil {
		if err = b.setAside(logName); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = b.fs.Rename(name+suffixSalvage, name)
	}
	if err == nil {
		err = b.fs.SyncDir(b.dir)
	}
	if err != nil {
		_ = b.fs.Remove(name + suffixNew) // the first error is the one to tell
		return fmt.Errorf("buffer: make the log: %w", err)
	}
	return nil
}

// logWriter fills a new log.
type logWriter struct {
	f    File
	half int
}

// fill writes half i: the records that can be read in old, or where it has no
// head one from the state. What is a whole group in it needs no marks any more.
func (w *logWriter) fill(i int, gen uint32, old []byte, st *state) error {
	fr := frames{gen: gen}
	add := func(t recType, body []byte) {
		fr.begin(t)
		fr.b = append(fr.b, body...)
		fr.mark = uint32(fr.start)
		fr.end()
	}
	old = untorn(old, gen)
	head := scanHalf(old, gen, func(int, []byte) {}).head
	if !head {
		add(recHead, appendHead(nil, w.half, st))
	}
	scanHalf(old, gen, func(_ int, payload []byte) {
		if t := recType(payload[0]); t == recGroup || t == recWhole {
			return
		}
		if len(fr.b)+frameHeader+len(payload) <= w.half { // only a head that was added can make it longer
			add(recType(payload[0]), payload[1:])
		}
	})
	_, err := w.f.WriteAt(fr.b, int64(i)*int64(w.half))
	return err
}

// readHalf reads as much of half i as there is.
func readHalf(f File, i, half int) ([]byte, error) {
	buf := make([]byte, half)
	n, err := f.ReadAt(buf, int64(i)*int64(half))
	if err == io.EOF {
		err = nil
	}
	return buf[:n], err
}
