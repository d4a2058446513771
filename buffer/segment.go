package buffer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterr "go.etcd.io/bbolt/errors"
)

const (
	metaName   = "meta.db"
	metaCap    = 16 << 20
	minSegment = 512 << 10
	maxSegment = 64 << 20 // with the few that are open at once, a 32-bit address space has room
	maxOpen    = 2        // segments mapped at once
)

var (
	bucketBlocks  = []byte("blocks") // first number, big endian → block
	bucketMeta    = []byte("meta")
	bucketDecided = []byte("decided") // of a segment of which everything has its outcome
)

const keyDecided = "thinned"

var errDamaged = errors.New("damaged")

// guard runs what touches a database's pages: a damaged one makes bbolt panic, one that cannot be read from the disk is a fault.
func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return do()
}

// transient says that an error is the system's lack of something.
func transient(err error) bool {
	for _, t := range []error{syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOSPC, syscall.EDQUOT, bolterr.ErrTimeout} {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

func (b *Buffer) openBolt(name string, limit int, readOnly bool) (db *bolt.DB, err error) {
	var file *os.File
	opt := &bolt.Options{
		Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, ReadOnly: readOnly,
		InitialMmapSize: limit, PageSize: 4096, MaxSize: limit, NoStatistics: true,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := b.openFile(filepath.Base(name), flag, perm)
			if err != nil {
				return nil, err
			}
			if of, ok := f.(OSFile); ok {
				file = of.File
				return file, nil
			}
			_ = f.Close() // not one that can be mapped
			file, err = os.OpenFile(name, flag, perm)
			return file, err
		},
	}
	if readOnly { // bbolt would initialise an empty one
		if info, err := b.fs.Stat(b.path(name)); err != nil {
			return nil, err
		} else if info.Size() == 0 {
			return nil, fmt.Errorf("%w: empty", errDamaged)
		} else if info.Size() > int64(limit)+maxAhead { // more than a small machine can map
			opt.OpenFile = func(string, int, os.FileMode) (*os.File, error) {
				file, err = b.usedPart(name)
				return file, err
			}
		}
	}
	if !readOnly { // an empty one would be initialised in place, which a power cut could leave half done: only createBolt may
		info, serr := b.fs.Stat(b.path(name))
		if serr == nil && info.Size() > int64(limit)+maxAhead {
			if err := b.cutFile(name); err != nil { // a small machine cannot map it as it is
				return nil, err
			}
			info, serr = b.fs.Stat(b.path(name))
		}
		if serr == nil {
			if err := b.checkFile(name); err != nil {
				return nil, fmt.Errorf("%s, %d bytes: %w", name, info.Size(), err)
			}
		}
	}
	err = guard(func() error {
		db, err = bolt.Open(b.path(name), filePerm, opt)
		return err
	})
	if err != nil {
		if file != nil {
			_ = file.Close() // bbolt does not after a panic; twice is harmless
		}
		return nil, err
	}
	db.AllocSize = min(1<<20, max(limit/16, 64<<10)&^4095)
	return db, nil
}

func closeBolt(db *bolt.DB) {
	if db != nil {
		_ = guard(db.Close) // everything was committed
	}
}

// segment is a file of sealed blocks of one lane. first and last are guarded by Buffer.mu, the rest by dbMu.
type segment struct {
	id          uint64
	epoch       Epoch
	first, last Seq
	boots       map[[16]byte]bool
	marked      bool // the file says itself that all has its outcome

	decided Range   // as found in the file: these have their outcome,
	thinned []Range // and of these aggregates are it

	db    *bolt.DB
	write bool
	raw   []rawBlock // where it is damaged and could not be replaced: what can be read of it
	gone  bool
	full  bool // takes no more blocks
}

func (s *segment) name() string { return fmt.Sprintf("%08d.db", s.id) }

// segmentID is the number of the segment whose file has the name.
func segmentID(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, ".db")
	if !ok || len(digits) < 8 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 10, 64)
	return id, err == nil && id > 0 && fmt.Sprintf("%08d", id) == digits
}

type rawBlock struct {
	blockInfo
	off int64
}

// dbs is what Buffer.dbMu guards.
type dbs struct {
	meta     *bolt.DB
	open     []*segment // most recently used last
	cache    []cached
	deflater deflater
	onCommit func(name string) error // tests: a commit fails
}

type cached struct {
	seg *segment
	blk *block
}

func (b *Buffer) closeDBs() {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	for len(b.open) > 0 {
		b.closeSeg(b.open[0])
	}
	closeBolt(b.meta)
	b.meta = nil
}

func (b *Buffer) closeSeg(s *segment) {
	closeBolt(s.db)
	s.db, s.write = nil, false
	b.open = slices.DeleteFunc(b.open, func(o *segment) bool { return o == s })
}

// use opens the segment's file, and closes others so that few are mapped.
func (b *Buffer) use(s *segment, write bool) (*bolt.DB, error) {
	if s.db != nil && (s.write || !write) {
		if i := slices.Index(b.open, s); i >= 0 {
			b.open = append(slices.Delete(b.open, i, i+1), s)
		}
		return s.db, nil
	}
	b.closeSeg(s)
	for len(b.open) >= maxOpen {
		b.closeSeg(b.open[0])
	}
	limit := b.segLimit
	if info, err := b.fs.Stat(b.path(s.name())); err == nil { // made under another limit
		limit = max(limit, int(min(info.Size(), maxSegment)))
	}
	db, err := b.openBolt(s.name(), limit, !write)
	if err != nil {
		return nil, err
	}
	s.db, s.write = db, write
	b.open = append(b.open, s)
	return db, nil
}

func key(s Seq) []byte { return binary.BigEndian.AppendUint64(nil, uint64(s)) }

// update commits. After an error the handle is not trusted any more: whoever comes next opens and checks the file.
func (b *Buffer) update(db *bolt.DB, name string, do func(*bolt.Tx) error) error {
	return guard(func() error {
		return db.Update(func(tx *bolt.Tx) error {
			if err := do(tx); err != nil {
				return err
			}
			if b.onCommit != nil {
				return b.onCommit(name)
			}
			return nil
		})
	})
}

// createBolt makes a database under another name first, so that one that has the name is whole.
func (b *Buffer) createBolt(name string, limit, pad int, bucket []byte) error {
	tmp := name + suffixNew
	if err := b.fs.Remove(b.path(tmp)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := b.openBolt(tmp, limit, false)
	if err != nil {
		return err
	}
	err = b.update(db, tmp, func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(bucket); err != nil {
			return err
		}
		if pad == 0 {
			return nil
		}
		p, err := tx.CreateBucketIfNotExists([]byte("pad"))
		if err != nil {
			return err
		}
		return p.Put([]byte("pad"), make([]byte, pad))
	})
	if err == nil && pad > 0 { // its pages are now the file's own, so that it can be committed to on a full disk
		err = b.update(db, tmp, func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("pad")) })
	}
	if cerr := guard(db.Close); err == nil {
		err = cerr
	}
	return b.named(tmp, name, err)
}

// named gives a file that was made as tmp its name, durably, unless err or what comes up here says that it is not whole; then it is removed.
func (b *Buffer) named(tmp, name string, err error) error {
	if err == nil {
		err = b.fs.Rename(b.path(tmp), b.path(name))
	}
	if err == nil {
		err = b.fs.SyncDir(b.dir)
	}
	if err != nil {
		_ = b.fs.Remove(b.path(tmp)) // the first error is the one to tell
	}
	return err
}

// extent lists what a segment's file holds.
func (b *Buffer) extent(s *segment, write bool) (found blockInfo, last Seq, err error) {
	db, err := b.use(s, write)
	if err != nil {
		return found, 0, err
	}
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			bk := tx.Bucket(bucketBlocks)
			if bk == nil {
				return fmt.Errorf("%w: no bucket", errDamaged)
			}
			c := bk.Cursor()
			for _, step := range []func() ([]byte, []byte){c.First, c.Last} {
				k, v := step()
				if k == nil {
					return nil
				}
				info, ok := blockAt(v)
				if !ok || !bytes.Equal(k, key(info.first)) {
					return errBlock
				}
				if found.n == 0 {
					found = info
				}
				last = info.span().To
			}
			if d := tx.Bucket(bucketDecided); d != nil {
				s.foundDecided(d.Get([]byte(keyDecided)), found.epoch, Range{found.first, last})
			}
			return nil
		})
	})
	return found, last, err
}

// loadSegments finds the segments: meta.db says what the older ones hold, each lane's newest and those that it does not know are looked into.
func (b *Buffer) loadSegments(m *loaded) error {
	entries, err := b.fs.ReadDir(b.dir) // anew: a salvage may have been finished
	if err != nil {
		return fmt.Errorf("buffer: read the folder: %w", err)
	}
	known := map[uint64]*segment{}
	newest := map[uint64]bool{}
	for e, infos := range m.segs {
		top := uint64(0)
		for _, si := range infos {
			known[si.ID] = &segment{id: si.ID, epoch: e, first: si.First, last: si.Last, boots: bootSet(si.Boots), marked: si.Decided}
			top = max(top, si.ID)
		}
		newest[top] = true
	}
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	for _, en := range entries {
		name := en.Name()
		id, ok := segmentID(name)
		if !ok {
			continue
		}
		b.segment = max(b.segment, id)
		s := known[id]
		if s == nil || newest[id] {
			if s == nil {
				s = &segment{id: id}
			}
			info, last, err := b.extent(s, false)
			switch {
			case err == nil && info.n == 0: // made, and never committed to
				b.closeSeg(s)
				if !b.readOnly {
					_ = b.fs.Remove(b.path(name)) // only room is lost if it stays
				}
				continue
			case err == nil:
				s.epoch, s.first, s.last = info.epoch, info.first, last
			case noFault(err):
				return b.refuse(name, err)
			default:
				if err := b.salvage(s, err); err != nil {
					return b.refuse(name, err)
				}
			}
		}
		if s.gone || s.first == 0 || s.last < s.first {
			continue
		}
		l := b.state.lane(s.epoch)
		l.segs = append(l.segs, s)
		l.next = max(l.next, s.last+1)
	}
	for _, l := range b.lanes {
		slices.SortFunc(l.segs, func(x, y *segment) int { return cmp.Compare(x.id, y.id) })
	}
	return nil
}

// segPolls gives the polls of the segment's block that holds pos, or of the next. None: look again where pos is.
func (b *Buffer) segPolls(s *segment, pos Seq) ([]poll, error) {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	blk, err := b.segBlock(s, pos)
	if err != nil && !s.gone {
		if !noFault(err) {
			err = b.salvage(s, err)
		}
		if err != nil {
			return nil, fmt.Errorf("buffer: read segment %s: %w", s.name(), err)
		}
		return nil, nil
	}
	if blk == nil {
		b.mu.Lock()
		if l := b.lanes[s.epoch]; l != nil {
			l.kept.remove(Range{pos, s.last})
		}
		s.last = min(s.last, pos-1)
		if s.last < s.first {
			b.dropSeg(s)
		}
		b.mu.Unlock()
		return nil, nil
	}
	i, _ := slices.BinarySearchFunc(blk.ps, pos, func(p poll, q Seq) int { return cmp.Compare(p.last(), q) })
	return blk.ps[i:], nil
}

func (b *Buffer) segBlock(s *segment, pos Seq) (*block, error) {
	for i, c := range b.cache {
		if c.seg == s && c.blk.first <= pos && pos <= c.blk.span().To {
			if i > 0 {
				b.cache[0], b.cache[i] = b.cache[i], b.cache[0]
			}
			return c.blk, nil
		}
	}
	var blk *block
	if s.gone {
		return nil, nil
	}
	if s.raw != nil {
		i, _ := slices.BinarySearchFunc(s.raw, pos, func(r rawBlock, q Seq) int { return cmp.Compare(r.span().To, q) })
		if i == len(s.raw) {
			return nil, nil
		}
		buf, err := b.readRaw(s, s.raw[i])
		if err != nil {
			return nil, err
		}
		if blk, err = decodeBlock(buf); err != nil {
			return nil, err
		}
	} else {
		db, err := b.use(s, false)
		if err != nil {
			return nil, err
		}
		err = guard(func() error {
			return db.View(func(tx *bolt.Tx) error {
				bk := tx.Bucket(bucketBlocks)
				if bk == nil {
					return fmt.Errorf("%w: no bucket", errDamaged)
				}
				c := bk.Cursor()
				k, v := c.Seek(key(pos))
				if !bytes.Equal(k, key(pos)) {
					pk, pv := c.Prev()
					if k == nil {
						pk, pv = c.Last()
					}
					if pk != nil {
						info, ok := blockAt(pv)
						if !ok {
							return errBlock
						}
						if info.span().To >= pos {
							k, v = pk, pv
						}
					}
				}
				if k == nil {
					return nil
				}
				blk, err = decodeBlock(v)
				if err == nil && (!bytes.Equal(k, key(blk.first)) || blk.epoch != s.epoch) {
					err = errBlock
				}
				return err
			})
		})
		if err != nil || blk == nil {
			return nil, err
		}
	}
	b.cache = append([]cached{{s, blk}}, b.cache[:min(len(b.cache), 1)]...)
	return blk, nil
}

func (b *Buffer) forget(s *segment) {
	b.cache = slices.DeleteFunc(b.cache, func(c cached) bool { return c.seg == s })
}

// dropSeg takes a segment out of its lane. Buffer.mu is held.
func (b *Buffer) dropSeg(s *segment) {
	if l := b.lanes[s.epoch]; l != nil {
		l.segs = slices.DeleteFunc(l.segs, func(o *segment) bool { return o == s })
	}
}

// salvage sets a damaged segment aside and puts in its place what blocks can be found in it. What cannot is found missing by whoever reads, and becomes a gap.
// An error: it cannot be looked into now, and stays as it is. dbMu is held.
func (b *Buffer) salvage(s *segment, why error) error {
	name := s.name()
	b.closeSeg(s)
	b.forget(s)
	raws, epoch, err := b.rawBlocks(s)
	if err != nil {
		return err
	}
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		s.marked = false
		n := 0
		for _, r := range raws {
			n += r.n
		}
		b.tell("%s: %v; %d blocks with %d readings saved", name, why, len(raws), n)
		if l := b.lanes[s.epoch]; l != nil && s.first > 0 {
			var saved rangeSet
			for _, r := range raws {
				saved.add(r.span())
			}
			saved.missing(Range{s.first, s.last}, func(r Range) { l.kept.remove(r) })
		}
		if len(raws) == 0 {
			s.gone = true
			b.dropSeg(s)
			return
		}
		s.epoch, s.first, s.last = epoch, raws[0].first, raws[len(raws)-1].span().To
	}()
	if b.readOnly {
		s.raw = raws
		return nil
	}
	if len(raws) == 0 {
		if err := b.setAside(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			b.failed("damaged file cannot be set aside", err)
		}
		return nil
	}
	if err := b.rewrite(s, raws); err != nil {
		b.failed("damaged segment cannot be replaced, used as it is", err)
		s.raw = raws
	}
	return nil
}

// rewrite makes a new file of the blocks and puts it in the place of the damaged one.
func (b *Buffer) rewrite(s *segment, raws []rawBlock) error {
	name := s.name()
	tmp := name + suffixSalvage
	if err := b.createBolt(tmp, b.segLimit, 0, bucketBlocks); err != nil {
		return err
	}
	limit := 0
	for _, r := range raws {
		limit += 2*r.size + 8192
	}
	db, err := b.openBolt(tmp, max(b.segLimit, limit), false)
	if err != nil {
		return err
	}
	for len(raws) > 0 && err == nil {
		err = b.update(db, tmp, func(tx *bolt.Tx) error {
			bk := tx.Bucket(bucketBlocks)
			bk.FillPercent = 0.9
			for size := 0; len(raws) > 0 && size < 1<<20; raws = raws[1:] {
				buf, err := b.readRaw(s, raws[0])
				if err != nil {
					return err
				}
				if err := bk.Put(key(raws[0].first), buf); err != nil {
					return err
				}
				size += len(buf)
			}
			return nil
		})
	}
	if cerr := guard(db.Close); err == nil {
		err = cerr
	}
	if err == nil {
		err = b.setAside(name)
	}
	return b.named(tmp, name, err)
}

func (b *Buffer) readRaw(s *segment, r rawBlock) ([]byte, error) {
	f, err := b.openFile(s.name(), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, r.size)
	_, err = f.ReadAt(buf, r.off)
	_ = f.Close() // read only
	return buf, err
}

// rawBlocks finds whole blocks in a file without asking bbolt. An error: it cannot be opened, and that is not its fault.
func (b *Buffer) rawBlocks(s *segment) (found []rawBlock, epoch Epoch, err error) {
	epoch = s.epoch
	f, err := b.openFile(s.name(), os.O_RDONLY, 0)
	if err != nil {
		if !noFault(err) {
			err = nil
		}
		return nil, epoch, err
	}
	defer func() { _ = f.Close() }() // read only
	size, err := f.Size()
	if err != nil {
		return nil, epoch, nil
	}
	size = min(size, 2*maxSegment) // what is longer has no bytes of ours there
	const window = 256 << 10
	buf := make([]byte, window)
	budget := 16 * size
	for off := int64(0); off < size && budget > 0; {
		n, err := f.ReadAt(buf, off)
		if err != nil && err != io.EOF { // an unreadable sector: step over it
			off += 4096
			budget -= 4096
			continue
		}
		budget -= int64(n)
		i := bytes.Index(buf[:n], []byte(blockMagic))
		if i < 0 {
			off += int64(max(n-len(blockMagic)+1, 1))
			continue
		}
		off += int64(i)
		head := buf[i:n]
		if len(head) < blockHeader {
			if i == 0 { // the file ends in it
				break
			}
			continue
		}
		length := int(min(binary.LittleEndian.Uint32(head[8:]), maxBlockFile))
		blk := head
		if length > len(head) && int64(length) <= size-off {
			blk = make([]byte, length)
			budget -= int64(length)
			if _, err := f.ReadAt(blk, off); err != nil {
				off++
				continue
			}
		}
		info, ok := blockAt(blk)
		if !ok {
			off++
			continue
		}
		if epoch == 0 && len(found) == 0 && s.first == 0 {
			epoch = info.epoch
		}
		if info.epoch == epoch {
			found = append(found, rawBlock{info, off})
		}
		off += int64(info.size)
	}
	slices.SortFunc(found, func(x, y rawBlock) int {
		return cmp.Or(cmp.Compare(x.first, y.first), cmp.Compare(y.n, x.n), cmp.Compare(x.off, y.off))
	})
	out := found[:0]
	for _, r := range found {
		if len(out) == 0 || r.first > out[len(out)-1].span().To {
			out = append(out, r)
		}
	}
	return out, epoch, nil
}

// loadMeta reads meta.db. Without a head it is not to be trusted: the state is to be rebuilt.
// An error: it cannot be opened, and that is not its fault.
func (b *Buffer) loadMeta() (*loaded, error) {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	m := newLoaded()
	if _, err := b.fs.Stat(b.path(metaName)); errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	held := false
	db, err := b.openBolt(metaName, metaCap, b.readOnly)
	if err != nil && noFault(err) {
		return nil, err
	}
	if err == nil {
		err = guard(func() error {
			return db.View(func(tx *bolt.Tx) error {
				bk := tx.Bucket(bucketMeta)
				if bk == nil {
					return fmt.Errorf("%w: no bucket", errDamaged)
				}
				return bk.ForEach(func(k, v []byte) error {
					held = true
					m.take(string(k), v)
					return nil
				})
			})
		})
		b.meta = db
	}
	if err == nil && !held { // made, and never committed to
		return m, nil
	}
	for _, k := range m.bad {
		if strings.HasPrefix(k, keyLane) || k == keyHead {
			err = cmp.Or(err, fmt.Errorf("%w: value %q", errDamaged, k))
		} else {
			b.tell("%s: value %q is damaged and dropped", metaName, k)
		}
	}
	if err == nil && !m.hasHead {
		err = fmt.Errorf("%w: no head", errDamaged)
	}
	if err == nil && m.head.Version > formatVersion {
		b.log.Warn("buffer: written by a later version", "format", m.head.Version)
	}
	if err == nil {
		m.finish()
		return m, nil
	}
	closeBolt(b.meta)
	b.meta = nil
	b.tell("%s: %v; set aside, outcomes since are told again", metaName, err)
	if !b.readOnly {
		if err := b.setAside(metaName); err != nil {
			b.failed("damaged file cannot be set aside", err)
		}
	}
	// Side records and anchors stand for themselves; cursors only as a whole.
	out := newLoaded()
	out.side, out.anchors = m.side, m.anchors
	return out, nil
}

// commitMeta makes meta.db say what the snapshot does, and which segments there are now.
func (b *Buffer) commitMeta(sn *snapshot) error {
	b.dbMu.Lock()
	defer b.dbMu.Unlock()
	b.mu.Lock()
	values, pad := b.metaValues(sn), int(min(1<<20, max(b.opt.MaxBytes/32, 128<<10)))
	b.mu.Unlock()
	if b.meta == nil {
		if _, err := b.fs.Stat(b.path(metaName)); errors.Is(err, fs.ErrNotExist) {
			if err := b.createBolt(metaName, metaCap, pad, bucketMeta); err != nil {
				return fmt.Errorf("buffer: make %s: %w", metaName, err)
			}
		}
		db, err := b.openBolt(metaName, metaCap, false)
		if err != nil {
			if !noFault(err) {
				b.asideMeta(err)
			}
			return fmt.Errorf("buffer: open %s: %w", metaName, err)
		}
		b.meta = db
	}
	err := b.update(b.meta, metaName, func(tx *bolt.Tx) error {
		bk, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		var stale [][]byte
		have := map[string]bool{}
		err = bk.ForEach(func(k, v []byte) error {
			if want, ok := values[string(k)]; !ok {
				stale = append(stale, bytes.Clone(k))
			} else if bytes.Equal(want, v) {
				have[string(k)] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, k := range stale {
			if err := bk.Delete(k); err != nil {
				return err
			}
		}
		for _, k := range slices.Sorted(maps.Keys(values)) {
			if !have[k] {
				if err := bk.Put([]byte(k), values[k]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		closeBolt(b.meta)
		b.meta = nil
		if errors.Is(err, errDamaged) {
			b.asideMeta(err)
		}
		return fmt.Errorf("buffer: commit %s: %w", metaName, err)
	}
	return nil
}

// asideMeta: the next commit makes a new one, and writes everything.
func (b *Buffer) asideMeta(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tell("%s: %v; set aside", metaName, why)
	if err := b.setAside(metaName); err != nil {
		b.failed("damaged file cannot be set aside", err)
	}
}
