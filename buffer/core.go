package buffer

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Buffer is an opened folder. All methods may be used at once from many
// goroutines.
type Buffer struct {
	dir      string
	fs       FS
	clock    Clock
	log      *slog.Logger
	seed     maphash.Seed
	readOnly bool
	half     int // bytes
	segLimit int
	fresh    bool
	metaGen  uint32 // as found by Open
	metaOK   bool
	lock     File

	// sealMu is held by whoever seals, syncMu during an fdatasync of the log. dbMu guards
	// dbs and is held during everything that bbolt does. Order: sealMu, then syncMu or dbMu, then mu,
	// then noteMu. mu is never held while waiting for the disk, except for writes to the page cache.
	sealMu sync.Mutex
	syncMu sync.Mutex
	dbMu   sync.Mutex
	dbs

	mu sync.Mutex // guards all that follows
	state
	opt      Options
	tail     File // nil: could not be made yet
	tailDead bool // an fdatasync failed: nothing is known about what is on disk
	halves   [2]half
	active   int
	job      *sealJob // the other half waits to be sealed
	freed    chan struct{}
	fr       frames
	waiting  []chan struct{} // closed when what was written since the last sync began is on disk
	syncing  []chan struct{} // the same for the sync that is under way
	closed   bool
	inFlight int // bytes

	segment     uint64 // the highest number given
	bytes       int64
	flushes     uint64
	seals       uint64
	diskFull    bool
	sealFailing bool
	stopped     bool
	overBound   bool
	anchored    [16]byte // the boot last anchored
	credit      int64    // bytes given up for room that are not used yet
	tight       string   // the bound that room found reached
	short       string   // Stats.Short
	evictedFor  string   // Stats.EvictedFor
	unwritten   uint32   // generation since which an outcome is in the state and not in the log; 0: none
	lastBoot    [16]byte
	damagedF    []string
	firstDirty  time.Time // of the active half

	noteMu    sync.Mutex // guards what follows
	lastErr   string
	recovered []string

	dirty    chan struct{}
	flushNow chan struct{}
	sealNow  chan struct{}
	stop     chan struct{}
	stopOnce sync.Once
	wg       sync.WaitGroup
}

const (
	maxInFlight  = 256 << 10
	bigUnsynced  = 256 << 10
	appendWait   = time.Second
	MaxSide      = 32 << 10 // bytes of a side record
	maxSideKey   = 256
	maxSideTotal = 1 << 20
)

// More errors of the buffer.
var (
	ErrInFlight = errors.New("buffer: too many bytes in flight, want at most 262144 in all attempts together")
	ErrReadOnly = errors.New("buffer: opened to look only")
	ErrOpen     = errors.New("buffer: range is not open")
	ErrUnknown  = errors.New("buffer: no such attempt")
	ErrTooLarge = errors.New("buffer: more at once than half the log holds")

	errLogFull = errors.New("buffer: log full")
)

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (b *Buffer) usable() error {
	switch {
	case b.closed:
		return ErrClosed
	case b.readOnly:
		return ErrReadOnly
	}
	return nil
}

// write puts what fr holds behind the active half's records.
func (b *Buffer) write(h *half) error {
	base := int64(b.active) * int64(b.half)
	if _, err := b.tail.WriteAt(b.fr.b, base+int64(h.off)); err != nil {
		err = fmt.Errorf("buffer: write the log: %w", err)
		b.failed("log cannot be written", err)
		return err
	}
	h.off += len(b.fr.b)
	h.prev = b.fr.prev
	h.unsynced = append(h.unsynced, b.fr.b...)
	if len(b.waiting) == 0 {
		b.waiting = append(b.waiting, make(chan struct{}))
		kick(b.dirty)
	}
	if b.sealFailing && b.mustDrop() {
		kick(b.sealNow)
	}
	if len(h.unsynced) > bigUnsynced {
		kick(b.flushNow)
	}
	if !h.used {
		h.used = true
		b.firstDirty = b.clock.Now()
		kick(b.sealNow)
	}
	return nil
}

// record writes one side record.
func (b *Buffer) record(t recType, body func([]byte) []byte) error {
	if err := b.ready(); err != nil {
		return err
	}
	limit := b.half
	if t != recGap {
		limit -= reserve(b.half) / 2
	}
	for range 2 {
		h := &b.halves[b.active]
		b.fr.reset(h)
		b.fr.begin(t)
		b.fr.b = body(b.fr.b)
		b.fr.end()
		if h.off+len(b.fr.b) <= limit {
			return b.write(h)
		}
		if err := b.switchHalf(); err != nil {
			return err
		}
	}
	return ErrTooLarge
}

// ready makes sure that there is a log to write to.
func (b *Buffer) ready() error {
	if b.tail != nil {
		return nil
	}
	kick(b.sealNow)
	last, _ := b.notes()
	return fmt.Errorf("buffer: no log: %s", last)
}

// switchHalf turns the active half over to the sealer and appends to the other.
func (b *Buffer) switchHalf() error {
	if b.job != nil {
		kick(b.sealNow)
		return errLogFull
	}
	old, other := &b.halves[b.active], &b.halves[1-b.active]
	keep := *other
	other.reset(old.gen + 1)
	b.active = 1 - b.active
	b.fr.reset(other)
	b.fr.begin(recHead)
	b.fr.b = appendHead(b.fr.b, b.half, &b.state)
	b.fr.end()
	other.used = true // no seal for the head alone
	if err := b.write(other); err != nil {
		b.active = 1 - b.active
		*other = keep
		return err
	}
	other.used = false
	b.pruneAnchors()
	b.job = &sealJob{half: 1 - b.active, snap: b.snapshot(old.gen)}
	kick(b.sealNow)
	return nil
}

// sync makes everything written so far durable.
func (b *Buffer) sync() error {
	b.syncMu.Lock()
	defer b.syncMu.Unlock()
	b.mu.Lock()
	if len(b.waiting) == 0 || b.tail == nil {
		b.mu.Unlock()
		return nil
	}
	if b.tailDead {
		if err := b.reopenLog(); err != nil {
			b.failed("log cannot be reopened", err)
			b.mu.Unlock()
			return fmt.Errorf("buffer: reopen the log: %w", err)
		}
	}
	waiting, f := b.waiting, b.tail
	b.waiting, b.syncing = nil, waiting
	var gen [2]uint32
	var off [2]int
	for i := range b.halves {
		gen[i], off[i] = b.halves[i].gen, b.halves[i].off
	}
	b.mu.Unlock()

	err := f.Sync()

	b.mu.Lock()
	defer b.mu.Unlock()
	b.syncing = nil
	if err != nil {
		b.waiting = append(waiting, b.waiting...)
		b.tailDead = true
		kick(b.dirty)
		b.failed("log cannot be flushed", err)
		return fmt.Errorf("buffer: flush the log: %w", err)
	}
	b.flushes++
	for i := range b.halves {
		h := &b.halves[i]
		if h.gen != gen[i] {
			continue
		}
		n := copy(h.unsynced, h.unsynced[off[i]-h.flushed:])
		h.unsynced = h.unsynced[:n]
		if n == 0 && cap(h.unsynced) > 64<<10 {
			h.unsynced = nil
		}
		h.flushed = off[i]
	}
	for _, c := range waiting {
		close(c)
	}
	return nil
}

// reopenLog starts over with a new handle after a failed flush: the kernel may
// have marked as clean what it could not write, so all of it is written again.
func (b *Buffer) reopenLog() error {
	f, err := b.openFile(logName, openRW, 0)
	if err != nil {
		return err
	}
	for i := range b.halves {
		h := &b.halves[i]
		if len(h.unsynced) == 0 {
			continue
		}
		if _, err := f.WriteAt(h.unsynced, int64(i)*int64(b.half)+int64(h.flushed)); err != nil {
			_ = f.Close() // the write's error tells more
			return err
		}
	}
	_ = b.tail.Close() // of a handle that is dead anyway
	b.tail, b.tailDead = f, false
	return nil
}

// failed keeps the last error for Stats and logs where it changes.
func (b *Buffer) failed(what string, err error) {
	b.noteMu.Lock()
	defer b.noteMu.Unlock()
	if msg := err.Error(); msg != b.lastErr {
		b.lastErr = msg
		b.log.Warn("buffer: "+what, "error", err)
	}
}

func (b *Buffer) lastErrClear() {
	b.noteMu.Lock()
	defer b.noteMu.Unlock()
	b.lastErr = ""
}

// tell notes what was repaired.
func (b *Buffer) tell(format string, args ...any) {
	b.noteMu.Lock()
	defer b.noteMu.Unlock()
	s := fmt.Sprintf(format, args...)
	b.recovered = append(b.recovered, s)
	b.log.Warn("buffer: repaired", "what", s)
}

func (b *Buffer) notes() (lastErr string, recovered []string) {
	b.noteMu.Lock()
	defer b.noteMu.Unlock()
	return b.lastErr, slices.Clone(b.recovered)
}

func (b *Buffer) flusher() {
	defer b.wg.Done()
	for {
		select {
		case <-b.stop:
			return
		case <-b.dirty:
		}
		b.mu.Lock()
		wait := b.opt.Flush
		b.mu.Unlock()
		select {
		case <-b.stop:
			return
		case <-b.clock.After(wait):
		case <-b.flushNow:
		}
		_ = b.sync() // kept and logged there, and tried again
	}
}

var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (b *Buffer) durable() <-chan struct{} {
	for _, cs := range [][]chan struct{}{b.waiting, b.syncing} {
		if len(cs) > 0 {
			return cs[len(cs)-1]
		}
	}
	return closedChan
}

// Flush makes everything written so far durable and returns when it is. A read-only buffer has nothing to flush.
func (b *Buffer) Flush() error {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return b.sync()
}

// Anchor tells that at mono of this boot it was wall (Unix ms); readings of the boot that were stamped untrusted are resolved with it from now on. Durable with the next flush.
func (b *Buffer) Anchor(boot [16]byte, mono time.Duration, wall int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.usable(); err != nil {
		return err
	}
	a := anchor{mono, wall}
	if old, ok := b.anchors[boot]; ok && old == a {
		return nil
	}
	err := b.record(recAnchor, func(d []byte) []byte { return appendAnchor(d, boot, a) })
	if err != nil {
		return err
	}
	b.anchors[boot], b.anchored = a, boot
	return nil
}

// PutSide stores a small opaque record (at most 32 KB, all together 1 MB) under key (at most 256 bytes). It is durable with the next flush; the latest wins; nil deletes.
func (b *Buffer) PutSide(key string, value []byte) error {
	if len(key) == 0 || len(key) > maxSideKey || len(value) > MaxSide {
		return fmt.Errorf("buffer: side record %.40q of %d bytes, want a key of 1 to %d bytes and at most %d bytes", key, len(value), maxSideKey, MaxSide)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.usable(); err != nil {
		return err
	}
	old, had := b.side[key]
	if had == (value != nil) && string(old) == string(value) {
		return nil
	}
	total := len(key) + len(value)
	for k, v := range b.side {
		if k != key {
			total += len(k) + len(v)
		}
	}
	if total > maxSideTotal {
		return fmt.Errorf("buffer: side record %q would make %d bytes, want at most %d in all", key, total, maxSideTotal)
	}
	if err := b.record(recSide, func(d []byte) []byte { return appendSide(d, key, value) }); err != nil {
		return err
	}
	if value == nil {
		delete(b.side, key)
	} else {
		b.side[key] = append([]byte{}, value...)
	}
	return nil
}

// Side gives the record under key, or nil.
func (b *Buffer) Side(key string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.side[key]
	if !ok {
		return nil
	}
	return append([]byte{}, v...)
}

// Lane opens the epoch's lane, making it if there is none.
func (b *Buffer) Lane(e Epoch) (*Lane, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, ErrClosed
	}
	if b.readOnly && b.lanes[e] == nil {
		return nil, fmt.Errorf("%w: no lane of epoch %d", ErrReadOnly, e)
	}
	return &Lane{b, b.lane(e)}, nil
}

// Lanes lists the epochs, lowest first.
func (b *Buffer) Lanes() []Epoch {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.epochs()
}

// SetBounds changes MaxBytes, KeepFree, Flush and WhenFull of a running buffer (SIGHUP).
func (b *Buffer) SetBounds(o Options) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o = o.withDefaults()
	b.opt.MaxBytes, b.opt.KeepFree, b.opt.Flush, b.opt.WhenFull = o.MaxBytes, o.KeepFree, o.Flush, o.WhenFull
	b.overBound = true
	kick(b.sealNow)
}

// Fresh says that nothing of an earlier life was found, or so little that numbers already given may be unknown: a caller
// that no longer knows its epoch must start one that was never used. One that does may go on: numbers that may have been given were skipped.
func (b *Buffer) Fresh() bool { return b.fresh }

func (o Options) withDefaults() Options {
	o.MaxBytes = cmp.Or(o.MaxBytes, 512<<20)
	o.Flush = cmp.Or(o.Flush, time.Second)
	o.Seal = cmp.Or(o.Seal, time.Minute)
	o.WhenFull = cmp.Or(o.WhenFull, DropOldest)
	o.HalfBytes = cmp.Or(o.HalfBytes, int(min(1<<20, o.MaxBytes/16)))
	o.HalfBytes = min(max(o.HalfBytes, minHalf), maxHalf) &^ 4095
	o.SegmentBytes = cmp.Or(o.SegmentBytes, 16<<20)
	if o.FS == nil {
		o.FS = OSFS{}
	}
	if o.Clock == nil {
		o.Clock = realClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}
