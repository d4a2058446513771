package buffer

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

type boltTx = bolt.Tx

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// Stats is what status shows; a snapshot.
func (b *Buffer) Stats() Stats {
	free, _, _ := b.fs.Free(b.dir) // 0 where it cannot be told
	b.mu.Lock()
	lanes := slices.Clone(b.epochs())
	b.mu.Unlock()
	for _, e := range lanes {
		b.findOldest(e)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{Bytes: b.bytes, MaxBytes: b.opt.MaxBytes, Free: free, Flushes: b.flushes, Seals: b.seals, DiskFull: b.diskFull,
		Short: b.short, EvictedFor: b.evictedFor, Stopped: b.stopped, DamagedFiles: slices.Clone(b.damagedF)}
	s.LastError, s.RecoveredFrom = b.notes()
	for _, e := range b.epochs() {
		l := b.lanes[e]
		ls := LaneStats{Epoch: e, First: l.first(), Next: l.next, Pending: l.pending(), Kept: l.kept.n, Segments: len(l.segs)}
		for _, g := range l.gaps {
			if !l.carried(g.ID) {
				ls.Gaps++
			}
		}
		s.Lanes = append(s.Lanes, ls)
		s.Pending += ls.Pending
		s.InFlight += l.flight.n
		s.Dropped += l.dropped
		s.Thinned += l.thinned
		s.ThinnedKept += ls.Kept
		s.Delivered += l.delivered
		s.Gaps += l.gapsEver
		if o := l.oldest; ls.Pending > 0 && o.seq == ls.First && o.known {
			if s.OldestTime == 0 || o.time < s.OldestTime {
				s.OldestTime = o.time
				s.OldestMono = 0
				if o.boot == b.lastBoot {
					s.OldestMono = o.mono
				}
			}
		}
	}
	return s
}

// findOldest looks the oldest pending reading of a lane up, if it is not the one it was.
func (b *Buffer) findOldest(e Epoch) {
	b.mu.Lock()
	l := b.lanes[e]
	first, next := l.first(), l.next
	same := l.oldest.seq == first && l.oldest.known
	b.mu.Unlock()
	if same || first >= next {
		return
	}
	rd := reader{b: b, l: l}
	ps, err := rd.read(first, first+1, false)
	if err != nil || len(ps) == 0 || ps[0].first > first {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t, _ := b.resolve(ps[0].stamp)
	l.oldest = oldest{known: true, seq: first, time: t, mono: ps[0].stamp.Mono, boot: ps[0].stamp.Boot}
}

// Verify reads all files and tells every problem found; nil when sound. It disturbs nothing but the publisher, which waits
// while a segment is read.
func (b *Buffer) Verify() []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return []string{ErrClosed.Error()}
	}
	segs := map[Epoch][]*segment{}
	for e, l := range b.lanes {
		segs[e] = slices.Clone(l.segs)
	}
	if b.readOnly {
		_, rec := b.notes()
		found = append(found, rec...)
	}
	b.mu.Unlock()
	b.verifyLog(say)
	b.verifyMeta(say)
	for _, e := range sortedKeys(segs) {
		for _, s := range segs[e] {
			b.verifySegment(s, say)
		}
	}
	return found
}

func (b *Buffer) verifyLog(say func(string, ...any)) {
	b.mu.Lock()
	defer b.mu.Unlock() // so that nothing is appended meanwhile; the log is small
	if b.tail == nil {
		if !b.unborn() {
			say("%s: missing", logName)
		}
		return
	}
	if size, err := b.tail.Size(); err == nil && size > 2*int64(b.half) && !b.readOnly { // told at the start otherwise
		say("%s: %d bytes long, of which %d are used", logName, size, 2*b.half)
	}
	for i := range b.halves {
		h := &b.halves[i]
		if i != b.active && b.job == nil || h.gen == 0 {
			continue
		}
		buf, err := readHalf(b.tail, i, b.half)
		if err != nil {
			say("%s: half %d: %v", logName, i, err)
			continue
		}
		bad := 0
		tables := half{byHash: map[uint64]int{}, lanes: map[Epoch]*halfLane{}}
		s := scanHalf(buf, h.gen, func(_ int, p []byte) {
			switch t := recType(p[0]); t {
			case recShape, recBoot:
				if !tables.define(t, p[1:], b.seed) {
					bad++
				}
			case recPoll:
				if _, ok := tables.decodePoll(p[1:]); !ok {
					bad++
				}
			}
		})
		if s.end < h.off || len(s.damaged) > 0 || bad > 0 || s.gen != h.gen {
			say("%s: half %d: readable up to %d of %d bytes, %d damaged spans, %d unreadable records", logName, i, s.end, h.off, len(s.damaged), bad)
		}
	}
}

// unborn says that a buffer which is looked at was ended before its first start had made all files: there is nothing
// else, or the log has everything from its first half on.
func (b *Buffer) unborn() bool {
	_, repaired := b.notes()
	if !b.readOnly || b.metaOK || len(repaired) > 0 {
		return false
	}
	if b.tail == nil {
		return b.segment == 0
	}
	return b.halves[0].gen == 1 || b.halves[1].gen == 1
}

func (b *Buffer) verifyMeta(say func(string, ...any)) {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	if b.meta == nil {
		b.mu.Lock()
		unborn := b.unborn()
		b.mu.Unlock()
		if !unborn {
			say("%s: missing", metaName)
		}
		return
	}
	b.verifyFile(metaName, say)
	m := newLoaded()
	err := guard(func() error {
		return b.meta.View(func(tx *bolt.Tx) error {
			bk := tx.Bucket(bucketMeta)
			if bk == nil {
				return fmt.Errorf("%w: no bucket", errDamaged)
			}
			return bk.ForEach(func(k, v []byte) error { m.take(string(k), v); return nil })
		})
	})
	if err != nil {
		say("%s: %v", metaName, err)
	}
	for _, k := range m.bad {
		say("%s: value %q is damaged", metaName, k)
	}
}

// verifyFile walks a database's pages, and says so where it is longer than what they fill.
func (b *Buffer) verifyFile(name string, say func(string, ...any)) {
	f, err := b.openFile(name, openRO, 0)
	if err == nil {
		defer func() { _ = f.Close() }() // read only
		err = checkPages(f)
	}
	if err != nil {
		say("%s: %v", name, err)
	} else if size, used, ok := excess(f); ok {
		say("%s: %d bytes long, of which %d are used; the next start cuts it back", name, size, used)
	}
}

func (b *Buffer) verifySegment(s *segment, say func(string, ...any)) {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	if s.gone {
		return
	}
	if s.raw != nil {
		say("%s: damaged", s.name())
		return
	}
	b.verifyFile(s.name(), say)
	db, err := b.use(s, false)
	if err == nil {
		err = guard(func() error {
			return db.View(func(tx *bolt.Tx) error {
				bk := tx.Bucket(bucketBlocks)
				if bk == nil {
					return fmt.Errorf("%w: no bucket", errDamaged)
				}
				return bk.ForEach(func(k, v []byte) error {
					blk, err := decodeBlock(v)
					if err != nil || !bytes.Equal(k, key(blk.first)) || blk.epoch != s.epoch {
						say("%s: block %x is damaged", s.name(), k)
					}
					return nil
				})
			})
		})
	}
	if err != nil {
		say("%s: %v", s.name(), err)
	}
}

// Close flushes, seals what is in the log and closes. Closing twice is harmless.
func (b *Buffer) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.mu.Unlock()
	b.stopOnce.Do(func() { close(b.stop) })
	b.wg.Wait()
	var err error
	if !b.readOnly {
		b.mu.Lock()
		if b.tail != nil {
			b.writeOwed()
		}
		b.mu.Unlock()
		err = b.sync()
		if serr := b.SealNow(); serr != nil { // the log keeps it
			b.log.Warn("buffer: not sealed at the end", "error", serr)
		}
		if serr := b.sync(); err == nil {
			err = serr
		}
	}
	b.end()
	return err
}

// end closes without a flush.
func (b *Buffer) end() {
	b.stopOnce.Do(func() { close(b.stop) })
	b.wg.Wait()
	b.sealMu.Lock()
	defer b.sealMu.Unlock()
	b.syncMu.Lock()
	defer b.syncMu.Unlock()
	b.closeDBs()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, f := range []File{b.tail, b.lock} {
		if f != nil {
			_ = f.Close() // all that matters was synced
		}
	}
	b.tail, b.lock = nil, nil
	for _, l := range b.lanes {
		if l.appended != nil { // whoever waits finds the buffer closed
			close(l.appended)
			l.appended = nil
		}
	}
}
