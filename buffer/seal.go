package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	bolterr "go.etcd.io/bbolt/errors"
)

// sealJob is a half that waits to become blocks. snap is the state as of its end.
type sealJob struct {
	half int
	snap *snapshot
}

// errNoRoom: writing would go over a bound, at which the oldest gives way. On a disk that is merely full nothing does: what is stored is worth
// more than what comes.
var errNoRoom = errors.New("buffer: no room within keep_free or the file system's inodes")

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, errNoRoom) ||
		err != nil && strings.Contains(err.Error(), syscall.ENOSPC.Error()) // bbolt keeps only the text where a file cannot grow
}

// sealer is the goroutine that seals: when it is time, when a half is full,
// and again, ever more rarely, while it fails.
func (b *Buffer) sealer() {
	defer b.wg.Done()
	const first, most = time.Second, 30 * time.Second
	backoff := first
	var again time.Time // not before, unless something has to give way
	for {
		b.mu.Lock()
		now := b.clock.Now()
		var wait time.Duration = -1
		switch used := b.halves[b.active].used; {
		case b.sealFailing || b.stopped || b.tail == nil:
			wait = max(again.Sub(now), 0)
		case b.job != nil || b.overBound:
			wait = 0
		case used:
			wait = max(b.firstDirty.Add(b.opt.Seal).Sub(now), 0)
		}
		b.mu.Unlock()
		if wait != 0 {
			var timer <-chan time.Time
			if wait > 0 {
				timer = b.clock.After(wait)
			}
			select {
			case <-b.stop:
				return
			case <-timer:
			case <-b.sealNow:
				if !b.urgent(again) {
					continue
				}
			}
		}
		select {
		case <-b.stop:
			return
		default:
		}
		if err := b.sealDue(); err != nil {
			again = b.clock.Now().Add(backoff)
			backoff = min(2*backoff, most)
		} else {
			again, backoff = b.clock.Now().Add(first), first
		}
	}
}

// urgent says whether a wake-up is reason enough to try now.
func (b *Buffer) urgent(again time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.sealFailing && !b.stopped && b.tail != nil {
		return false // the loop looks what is due
	}
	return !b.clock.Now().Before(again) || b.mustDrop()
}

// mustDrop: the log is nearly full and its other half cannot be sealed within the bounds.
func (b *Buffer) mustDrop() bool {
	return b.sealFailing && b.short != "" && b.short != ShortDisk && b.job != nil && b.opt.WhenFull == DropOldest && b.nearlyFull()
}

func (b *Buffer) nearlyFull() bool { return b.halves[b.active].off > b.half/4*3 }

func (b *Buffer) sealDue() error {
	b.sealMu.Lock()
	defer b.sealMu.Unlock()
	if err := b.lateLog(); err != nil {
		b.failed("no log", err)
		return err
	}
	b.mu.Lock()
	h := &b.halves[b.active]
	if b.job == nil && h.used && !b.clock.Now().Before(b.firstDirty.Add(b.opt.Seal)) {
		if err := b.switchHalf(); err != nil {
			b.sealFailing = true
			b.mu.Unlock()
			b.failed("log cannot be written", err)
			return err
		}
	}
	job := b.job
	b.mu.Unlock()
	return b.settle(job)
}

// SealNow seals all that is in the log now.
func (b *Buffer) SealNow() error {
	if b.readOnly {
		return ErrReadOnly
	}
	b.sealMu.Lock()
	defer b.sealMu.Unlock()
	for {
		b.mu.Lock()
		if b.tail == nil {
			b.mu.Unlock()
			return nil
		}
		older := b.job != nil
		if !older && b.halves[b.active].used {
			if err := b.switchHalf(); err != nil {
				b.mu.Unlock()
				return err
			}
		}
		job := b.job
		b.mu.Unlock()
		if err := b.settle(job); err != nil {
			return err
		}
		if !older {
			return nil
		}
	}
}

// settle seals the job, if there is one, and then looks at the bounds. What does not fit makes the oldest give way, or sampling stop.
func (b *Buffer) settle(job *sealJob) error {
	var err error
	if job != nil {
		for {
			if err = b.seal(job, false, false); err == nil || !errors.Is(err, errNoRoom) || !b.evictOldest(b.tightness()) {
				break
			}
		}
		for err != nil && noSpace(err) && !errors.Is(err, errNoRoom) { // what has its outcome by now needs no room, and gives some
			freed := b.removeDamaged() || b.freeDone()
			if err = b.seal(job, true, !freed); !freed {
				break
			}
		}
		if errors.Is(err, errNoRoom) {
			b.mu.Lock()
			drop := b.opt.WhenFull == DropOldest && b.nearlyFull()
			b.mu.Unlock()
			if drop {
				if derr := b.dropHalf(job); derr == nil {
					err = nil
				}
			}
		}
	}
	b.measure()
	for b.over() {
		if !b.evictOldest(ShortMaxBytes) {
			break
		}
		b.measure()
	}
	full := b.over() && !b.dropOldest()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sealFailing && err == nil {
		b.log.Info("buffer: sealing again")
		b.lastErrClear()
	}
	b.sealFailing = err != nil
	b.diskFull, b.short = err != nil && noSpace(err), ""
	if errors.Is(err, errNoRoom) {
		b.short = b.tight
	} else if b.diskFull {
		b.short = ShortDisk
	}
	b.overBound = false
	stop := b.opt.WhenFull == StopSampling && (full || b.diskFull)
	if stop != b.stopped {
		b.stopped = stop
		b.log.Warn("buffer: sampling stopped or resumed", "stopped", stop)
	}
	if err != nil {
		b.failed("log cannot be sealed", err)
	}
	return err
}

func (b *Buffer) dropOldest() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opt.WhenFull == DropOldest
}

func (b *Buffer) tightness() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tight
}

// freeDone unlinks the segments of which everything has its outcome by now, as the log says; where none of them is without originals of
// aggregates, the oldest. False: there is none.
func (b *Buffer) freeDone() bool {
	b.mu.Lock()
	var over []*segment
	for _, l := range b.lanes {
		for _, s := range l.segs {
			if r := (Range{s.first, s.last}); b.unwritten == 0 && l.done.has(r) && !l.kept.overlaps(r) {
				over = append(over, s)
			}
		}
	}
	if s := b.oldestDone(); s != nil && len(over) == 0 {
		over = append(over, s)
	}
	b.mu.Unlock()
	if len(over) == 0 || b.sync() != nil {
		return false
	}
	freed := false
	for _, s := range over {
		if err := b.unlink(s); err != nil {
			b.failed("segment cannot be removed", err)
		} else {
			freed = true
		}
	}
	return freed
}

// seal turns a half into blocks. Each step may be repeated after a crash or an error: the segments' commits, meta.db's commit, reuse.
// lean: what got its outcome since the half was full is left out too; the other half says so. bare: originals of aggregates are left out.
func (b *Buffer) seal(job *sealJob, lean, bare bool) (err error) {
	done := job.snap.done
	b.mu.Lock()
	if lean && b.unwritten == 0 {
		done = map[Epoch]*rangeSet{}
		for e, l := range b.lanes {
			d := l.done.clone()
			done[e] = &d
		}
	}
	b.mu.Unlock()
	// The head of the active half is on disk before meta.db speaks of a generation that only it can follow.
	if err := b.sync(); err != nil {
		return err
	}
	b.mu.Lock()
	h := &b.halves[job.half]
	tables, off, gen, tail := half{shapes: h.shapes, boots: h.boots}, h.off, h.gen, b.tail
	b.mu.Unlock()
	paid, err := b.room(off)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // or a disk that others keep full would take one segment for each try
			b.mu.Lock()
			b.credit += paid
			b.mu.Unlock()
		}
	}()
	buf := make([]byte, off)
	if _, err := tail.ReadAt(buf, int64(job.half)*int64(b.half)); err != nil {
		return fmt.Errorf("buffer: read the log: %w", err)
	}
	polls := map[Epoch][]poll{}
	s := scanHalf(buf, gen, func(_ int, payload []byte) {
		if recType(payload[0]) == recPoll {
			if r, ok := tables.decodePoll(payload[1:]); ok {
				polls[r.epoch] = append(polls[r.epoch], r.poll)
			}
		}
	})
	if s.end != off { // damaged under our hands: what is missing becomes a gap when it is looked for
		b.tell("%s: generation %d is damaged from %d on", logName, gen, s.end)
	}
	left := map[*lane][]Range{}
	for _, e := range sortedKeys(polls) {
		b.mu.Lock()
		l := b.lane(e)
		b.mu.Unlock()
		ps, out := b.unsealed(l, done[e], polls[e], bare)
		left[l] = out
		if err := b.store(l, ps); err != nil {
			return err
		}
	}
	if err := b.commitMeta(job.snap); err != nil {
		return err
	}
	b.release(job, left)
	b.clean(job.snap)
	return nil
}

// unsealed leaves out what a segment has already, and what has its outcome at the beginning and the end (out), but unless bare the
// originals of aggregates stay.
func (b *Buffer) unsealed(l *lane, done *rangeSet, ps []poll, bare bool) (in []poll, out []Range) {
	b.mu.Lock()
	defer b.mu.Unlock()
	over := func(p *poll) bool {
		return done != nil && done.has(p.span()) && (bare || !l.kept.overlaps(p.span()))
	}
	in = slices.DeleteFunc(ps, func(p poll) bool {
		for _, s := range l.segs {
			if s.first <= p.first && p.last() <= s.last {
				return true
			}
		}
		return false
	})
	for len(in) > 0 && over(&in[0]) {
		out = append(out, in[0].span())
		in = in[1:]
	}
	for len(in) > 0 && over(&in[len(in)-1]) {
		out = append(out, in[len(in)-1].span())
		in = in[:len(in)-1]
	}
	return in, out
}

// release lets the job's half be written to again. left is what is not stored any more then.
func (b *Buffer) release(job *sealJob, left map[*lane][]Range) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l, rs := range left {
		for _, r := range rs {
			l.kept.remove(r)
		}
	}
	h := &b.halves[job.half]
	h.lanes, h.shapes, h.byHash, h.used, h.unsynced = nil, nil, nil, false, nil
	h.flushed = h.off
	b.job = nil
	if job.snap.head.Gen >= b.unwritten {
		b.unwritten = 0
	}
	b.writeOwed()
	b.seals++
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}

// pruneAnchors forgets those of boots of which nothing is stored any more.
func (b *Buffer) pruneAnchors() {
	if len(b.anchors) <= 8 { // a few more cost nothing
		return
	}
	keep := map[[16]byte]bool{b.lastBoot: true, b.anchored: true}
	for i := range b.halves {
		for _, boot := range b.halves[i].boots {
			keep[boot] = true
		}
	}
	for _, l := range b.lanes {
		for _, s := range l.segs {
			if s.boots == nil {
				return
			}
			for boot := range s.boots {
				keep[boot] = true
			}
		}
	}
	for boot := range b.anchors {
		if !keep[boot] {
			delete(b.anchors, boot)
		}
	}
}

// store puts the polls into the lane's segments.
func (b *Buffer) store(l *lane, ps []poll) error {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	for len(ps) > 0 {
		s, err := b.writable(l)
		if err != nil {
			return err
		}
		n, err := b.storeIn(s, l.epoch, ps)
		if errors.Is(err, bolterr.ErrMaxSizeReached) {
			if s.last == 0 {
				return fmt.Errorf("buffer: commit %s: %w", s.name(), err)
			}
			s.full, err = true, nil
			continue
		}
		if err != nil {
			b.closeSeg(s)
			if !noFault(err) && errors.Is(err, errDamaged) && s.last > 0 {
				err = cmp.Or(b.salvage(s, err), err)
			}
			return fmt.Errorf("buffer: commit %s: %w", s.name(), err)
		}
		if n == 0 {
			s.full = true
			continue
		}
		b.mu.Lock()
		if s.first == 0 {
			s.first = ps[0].first
			l.segs = append(l.segs, s)
		}
		s.last, s.marked = ps[n-1].last(), false
		if s.boots != nil {
			for i := range ps[:n] {
				s.boots[ps[i].stamp.Boot] = true
			}
		}
		b.mu.Unlock()
		ps = ps[n:]
	}
	return nil
}

// writable is the lane's segment that takes blocks, or a new one.
func (b *Buffer) writable(l *lane) (*segment, error) {
	b.mu.Lock()
	var s *segment
	if n := len(l.segs); n > 0 {
		s = l.segs[n-1]
	}
	b.mu.Unlock()
	if s != nil && s.raw == nil && !s.full {
		_, err := b.use(s, true)
		if err == nil {
			return s, nil
		}
		if !noFault(err) {
			err = b.salvage(s, err)
		}
		if err != nil {
			return nil, fmt.Errorf("buffer: open %s: %w", s.name(), err)
		}
	}
	b.mu.Lock()
	b.segment++
	s = &segment{id: b.segment, epoch: l.epoch, boots: map[[16]byte]bool{}}
	b.mu.Unlock()
	if err := b.createBolt(s.name(), b.segLimit, 0, bucketBlocks); err != nil {
		return nil, fmt.Errorf("buffer: make %s: %w", s.name(), err)
	}
	if _, err := b.use(s, true); err != nil {
		return nil, fmt.Errorf("buffer: open %s: %w", s.name(), err)
	}
	return s, nil
}

// storeIn commits as many polls as the segment has room for, and says how many.
func (b *Buffer) storeIn(s *segment, e Epoch, ps []poll) (int, error) {
	db, err := b.use(s, true)
	if err != nil {
		return 0, err
	}
	const txBytes = 512 << 10
	stored := 0
	err = b.update(db, s.name(), func(tx *boltTx) error {
		bk := tx.Bucket(bucketBlocks)
		if bk == nil {
			return fmt.Errorf("%w: no bucket", errDamaged)
		}
		bk.FillPercent = 0.9
		room := int64(b.segLimit) - tx.Size() - int64(db.AllocSize) - 64<<10
		for size := 0; stored < len(ps) && size < txBytes; {
			n, readings := 0, 0
			for rest := ps[stored:]; n < len(rest) && readings < blockTarget && (n == 0 || rest[n].first == rest[n-1].last()+1); n++ {
				readings += len(rest[n].values)
			}
			blk, err := b.deflater.encode(e, ps[stored:stored+n])
			if err != nil {
				return err
			}
			if room -= int64(2*len(blk) + 8192); room < 0 && (s.last > 0 || stored > 0) {
				return nil
			}
			if err := bk.Put(key(ps[stored].first), blk); err != nil {
				return err
			}
			stored += n
			size += len(blk)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return stored, nil
}

// clean unlinks the segments of which, as meta.db now says, everything has its outcome. Those with originals of aggregates stay while there is room.
func (b *Buffer) clean(sn *snapshot) {
	b.mu.Lock()
	var over []*segment
	var mark *segment
	for e, l := range b.lanes {
		for i, s := range l.segs {
			switch d, r := sn.done[e], (Range{s.first, s.last}); {
			case d == nil || !d.has(r):
			case !l.kept.overlaps(r):
				over = append(over, s)
			case !s.marked && i < len(l.segs)-1 && (mark == nil || s.id < mark.id): // one for each seal
				mark = s
			}
		}
	}
	b.mu.Unlock()
	if mark != nil {
		b.mark(mark)
	}
	for _, s := range over {
		if err := b.unlink(s); err != nil {
			b.failed("segment cannot be removed", err)
		}
	}
}

func (b *Buffer) unlink(s *segment) error {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	b.closeSeg(s)
	b.forget(s)
	if err := b.fs.Remove(b.path(s.name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.gone = true
	b.mu.Lock()
	b.dropSeg(s)
	if l := b.lanes[s.epoch]; l != nil {
		l.kept.remove(Range{s.first, s.last})
	}
	b.mu.Unlock()
	return b.fs.SyncDir(b.dir)
}

// oldestDone is the oldest segment of which everything has its outcome: it holds originals of aggregates, or what the next seal unlinks anyway.
func (b *Buffer) oldestDone() *segment {
	if b.unwritten != 0 {
		return nil
	}
	return b.oldestSegment(func(l *lane, s *segment) bool { return l.done.has(Range{s.first, s.last}) })
}

func (b *Buffer) oldestSegment(of func(*lane, *segment) bool) (s *segment) {
	for _, l := range b.lanes {
		for _, o := range l.segs {
			if (s == nil || o.id < s.id) && of(l, o) {
				s = o
			}
		}
	}
	return s
}

// evictOldest makes room: of damaged files that still lie about, segments in which nothing is without an outcome, and others, one, the oldest, goes;
// what it holds without an outcome is given up. Where sampling is to stop only the second kind goes. False: there is none, or it cannot be done.
func (b *Buffer) evictOldest(why string) bool {
	drop := b.dropOldest()
	if drop && b.removeDamaged() {
		return true
	}
	b.mu.Lock()
	s := b.oldestDone()
	if s == nil && drop {
		s = b.oldestSegment(func(*lane, *segment) bool { return true })
	}
	if s == nil {
		b.mu.Unlock()
		return false
	}
	l, r := b.lanes[s.epoch], Range{s.first, s.last}
	done, kept := l.done.has(r), l.kept.overlaps(r)
	b.mu.Unlock()
	size, length := int64(0), int64(0)
	if info, err := b.fs.Stat(b.path(s.name())); err == nil {
		size = sizeOf(info)
		length = min(info.Size(), size+maxAhead) // what a seal is charged has what it enlarges a file ahead in it too
	}
	if !done {
		if err := b.giveUp(l, r, Evicted, 0, 0); err != nil {
			b.failed("gap not written", err)
			return false
		}
		b.log.Warn("buffer: oldest segment evicted", "epoch", l.epoch, "from", r.From, "to", r.To, "for", why)
		b.mu.Lock()
		b.evictedFor = why
		b.mu.Unlock()
	}
	if err := b.sync(); err != nil {
		return false
	}
	if err := b.unlink(s); err != nil {
		b.failed("segment cannot be removed", err)
		return false
	}
	if done && kept {
		b.log.Info("buffer: originals of aggregates removed", "epoch", l.epoch, "from", r.From, "to", r.To, "for", why)
	}
	b.mu.Lock()
	b.bytes -= size
	b.credit += length
	b.mu.Unlock()
	return true
}

func (b *Buffer) removeDamaged() bool {
	b.mu.Lock()
	names := slices.Clone(b.damagedF)
	b.mu.Unlock()
	for _, name := range names {
		info, err := b.fs.Stat(b.path(name))
		if err != nil || b.fs.Remove(b.path(name)) != nil {
			continue
		}
		b.mu.Lock()
		b.damagedF = slices.DeleteFunc(b.damagedF, func(n string) bool { return n == name })
		b.bytes -= sizeOf(info)
		b.credit += sizeOf(info)
		b.mu.Unlock()
		return true
	}
	return false
}

// dropHalf gives up what a half holds that cannot be sealed within the bounds: there is nothing older to unlink, and the other half is nearly full too.
func (b *Buffer) dropHalf(job *sealJob) error {
	b.mu.Lock()
	held := map[*lane]Range{}
	for e, hl := range b.halves[job.half].lanes {
		l, r := b.lane(e), Range{hl.first, hl.next - 1}
		for _, s := range l.segs { // sealed before the disk was full
			if s.first <= r.From && r.From <= s.last {
				r.From = s.last + 1
			}
		}
		if !r.Empty() {
			held[l] = r
		}
	}
	b.mu.Unlock()
	for l, r := range held {
		if err := b.giveUp(l, r, Evicted, 0, 0); err != nil {
			return err
		}
		b.log.Warn("buffer: readings evicted from the log", "epoch", l.epoch, "from", r.From, "to", r.To)
		b.mu.Lock()
		b.evictedFor = b.tight
		b.mu.Unlock()
	}
	if err := b.sync(); err != nil {
		return err
	}
	if err := b.commitMeta(job.snap); err != nil {
		return err
	}
	left := map[*lane][]Range{}
	for l, r := range held {
		left[l] = []Range{r}
	}
	b.release(job, left)
	return nil
}

// measure counts what the buffer's files take.
func (b *Buffer) measure() {
	entries, err := b.fs.ReadDir(b.dir)
	if err != nil {
		return // the last measure stands
	}
	var sum int64
	var damaged []string
	for _, e := range entries {
		if !ours(e.Name()) {
			continue
		}
		if info, err := e.Info(); err == nil {
			sum += sizeOf(info)
		}
		if strings.HasSuffix(e.Name(), suffixDamaged) {
			damaged = append(damaged, e.Name())
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes, b.damagedF = sum, damaged
}

// slack is what the next seals may add.
func (b *Buffer) slack(n int) int64 { return int64(n) + int64(min(1<<20, b.segLimit/16)) + 64<<10 }

// over says whether MaxBytes could be passed by the next seal.
func (b *Buffer) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.half
	if b.opt.WhenFull == StopSampling {
		n = 2 * b.half // both halves may still be sealed
	}
	return b.bytes+b.slack(n) > b.opt.MaxBytes
}

// room makes sure that n bytes more keep what is to be kept free. Where others
// have filled the file system the buffer only stops growing: each segment
// given up pays for what is written after it: paid is what this one takes of that.
func (b *Buffer) room(n int) (paid int64, err error) {
	free, inodes, err := b.fs.Free(b.dir)
	if err != nil {
		return 0, nil // not known: the write will tell
	}
	b.mu.Lock()
	need := b.slack(n)
	b.tight = ""
	if free < b.opt.KeepFree+need && b.opt.KeepFree > 0 {
		b.tight = ShortKeepFree
	} else if inodes >= 0 && inodes < 8 {
		b.tight = ShortInodes
	}
	tight := b.tight != ""
	if !tight {
		b.credit = 0
	}
	enough := b.credit >= need
	if tight && enough {
		paid = need
		b.credit -= need
	}
	b.mu.Unlock()
	if tight && !enough {
		return 0, fmt.Errorf("%w: %d bytes and %d inodes free", errNoRoom, free, inodes)
	}
	return paid, nil
}
