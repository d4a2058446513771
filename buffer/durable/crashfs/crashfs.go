// Package crashfs is a file system in memory that loses what was not synced, for tests of what must survive a power cut.
//
// Content is durable after File.Sync, names after SyncDir of their folder; a rename is one change, of both its names. At
// [FS.Reboot] everything else survives in whole, not at all, or at random: any of the changes of names, each in its order; of each
// write all, nothing, a beginning, or zeros of the right length. It is harsher than ext4, which keeps the order of names, and
// than a sync of a file there, which keeps its name too.
//
// [FS.CrashAt] cuts the power at an operation, [FS.Fail] and [FS.FailFrom] make operations fail. An operation is a call that
// changes something or syncs: also one that fails by itself.
package crashfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"homeward/buffer/durable"
)

// ErrCrash is what every call gets once the power is gone.
var ErrCrash = errors.New("crashfs: the power is gone")

// Mode says what of the unsynced survives a reboot.
type Mode int

// Modes.
const (
	None   Mode = iota // only what was synced
	All                // everything, as after a kill
	Random             // anything between
)

// Modes are all of them.
var Modes = []Mode{None, All, Random}

func (m Mode) String() string { return [...]string{"none", "all", "random"}[m] }

// FS is one file system; it starts with an empty root folder, and "" and "/" are both that.
type FS struct {
	mu      sync.Mutex
	seed    uint64
	rand    *rand.Rand
	root    *node
	pending []change // of names, not durable yet, oldest first
	ops     int
	crashAt int // 0: never
	crashed bool
	fails   map[int]error
	from    int // with fromErr
	fromErr error
	space   int64 // bytes of content in all; 0: plenty
	clock   int64 // grows with each operation: the time of files
}

// node is a file or a folder.
type node struct {
	dir     bool
	mode    os.FileMode
	mtime   int64
	data    []byte // as it is seen
	durable []byte // as it was at the last sync
	writes  []write
	names   map[string]*node // folder, as it is seen
	kept    map[string]*node // folder, as it was at the last sync
}

// write is one write since the last sync; data nil: a truncation to off.
type write struct {
	off  int64
	data []byte
	cut  bool
}

// change is one operation on names; its parts survive together.
type change []part

type part struct {
	dir  *node
	name string
	to   *node // nil: removed
}

// New makes an empty file system. The same seed and the same calls give the same survivors.
func New(seed uint64) *FS {
	f := &FS{seed: seed, rand: rand.New(rand.NewPCG(seed, 0x686f6d65)), fails: map[int]error{}, clock: 1_700_000_000}
	f.root = f.folder(0o755)
	return f
}

func (f *FS) folder(perm os.FileMode) *node {
	return &node{dir: true, mode: perm, mtime: f.clock, names: map[string]*node{}, kept: map[string]*node{}}
}

// Ops says how many operations there were since New, Clone or Reboot.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// CrashAt cuts the power at the n-th operation from New, Clone or Reboot on, counted from 1: it does not happen. 0 is never.
func (f *FS) CrashAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashAt = n
}

// Crashed says whether the power is gone.
func (f *FS) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashed
}

// Fail makes the n-th operation fail with err; of a write, a first half is done.
func (f *FS) Fail(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails[n] = err
}

// FailFrom makes the n-th operation and all later ones fail with err, as on a disk that became read-only; 0 ends it.
func (f *FS) FailFrom(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.from, f.fromErr = n, err
}

// SetSpace bounds the bytes of all files together: a write beyond fails with ENOSPC. 0 is no bound.
func (f *FS) SetSpace(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.space = bytes
}

// Clone gives a file system in the same state, with nothing to fail and no open files.
func (f *FS) Clone(seed uint64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := New(seed)
	c.clock, c.space = f.clock, f.space
	copies := map[*node]*node{}
	var of func(n *node) *node
	of = func(n *node) *node {
		if n == nil {
			return nil
		}
		if to, ok := copies[n]; ok {
			return to
		}
		to := *n
		copies[n] = &to
		to.data, to.durable = append([]byte(nil), n.data...), append([]byte(nil), n.durable...)
		to.writes = append([]write(nil), n.writes...)
		if n.dir {
			to.names, to.kept = map[string]*node{}, map[string]*node{}
			for name, m := range n.names {
				to.names[name] = of(m)
			}
			for name, m := range n.kept {
				to.kept[name] = of(m)
			}
		}
		return &to
	}
	c.root = of(f.root)
	for _, ch := range f.pending {
		var to change
		for _, p := range ch {
			to = append(to, part{of(p.dir), p.name, of(p.to)})
		}
		c.pending = append(c.pending, to)
	}
	return c
}

// Reboot gives what is there after the power came back; f is of no use any more.
func (f *FS) Reboot(mode Mode) *FS {
	f.mu.Lock()
	f.crashed = true
	seed := f.rand.Uint64()
	f.mu.Unlock()
	c := f.Clone(seed)
	if mode == All {
		c.settle(All)
		return c
	}
	for _, ch := range c.pending {
		if mode == Random && c.rand.IntN(2) == 0 {
			ch.apply()
		}
	}
	c.settle(mode)
	return c
}

func (ch change) apply() {
	for _, p := range ch {
		if p.to == nil {
			delete(p.dir.kept, p.name)
		} else {
			p.dir.kept[p.name] = p.to
		}
	}
}

// settle makes what survives both seen and durable.
func (f *FS) settle(mode Mode) {
	f.pending = nil
	done := map[*node]bool{}
	var settle func(n *node)
	settle = func(n *node) {
		if done[n] {
			return
		}
		done[n] = true
		if !n.dir {
			switch mode {
			case None:
				n.data = append([]byte(nil), n.durable...)
			case Random:
				n.data = f.survive(n)
			}
			n.durable, n.writes = append([]byte(nil), n.data...), nil
			return
		}
		if mode == All {
			n.kept = n.names
		}
		n.names = map[string]*node{}
		for _, name := range sorted(n.kept) {
			n.names[name] = n.kept[name]
			settle(n.kept[name])
		}
		n.kept = map[string]*node{}
		for name, m := range n.names {
			n.kept[name] = m
		}
	}
	settle(f.root)
}

func sorted(names map[string]*node) []string {
	var all []string
	for name := range names {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}

// survive gives the content of a file of which some writes were lost.
func (f *FS) survive(n *node) []byte {
	data := append([]byte(nil), n.durable...)
	stop := len(n.writes) // half of the time a beginning of the writes, else any of them
	if f.rand.IntN(2) == 0 {
		stop = f.rand.IntN(len(n.writes) + 1)
	}
	for i, w := range n.writes {
		if i >= stop {
			break
		}
		kind := f.rand.IntN(4)
		if stop < len(n.writes) && i < stop-1 {
			kind = 0
		}
		switch {
		case w.cut:
			if kind < 3 {
				data = resize(data, w.off)
			}
		case kind == 0: // whole
			data = put(data, w.off, w.data)
		case kind == 1: // nothing
		case kind == 2: // a beginning
			data = put(data, w.off, w.data[:f.rand.IntN(len(w.data)+1)])
		default: // the size, not the bytes
			if end := w.off + int64(len(w.data)); end > int64(len(data)) {
				data = resize(data, end)
			}
		}
	}
	return data
}

func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size:size]
	}
	return append(data[:len(data):len(data)], make([]byte, size-int64(len(data)))...)
}

func put(data []byte, off int64, p []byte) []byte {
	if end := off + int64(len(p)); end > int64(len(data)) {
		data = resize(data, end)
	} else {
		data = append([]byte(nil), data...)
	}
	copy(data[off:], p)
	return data
}

// op counts one operation; f.mu is held.
func (f *FS) op() error {
	if f.crashed {
		return ErrCrash
	}
	f.ops++
	f.clock++
	if f.crashAt > 0 && f.ops >= f.crashAt {
		f.crashed = true
		return ErrCrash
	}
	if err := f.fails[f.ops]; err != nil {
		return err
	}
	if f.from > 0 && f.ops >= f.from {
		return f.fromErr
	}
	return nil
}

func split(name string) []string {
	clean := filepath.Clean("/" + filepath.ToSlash(name))
	if clean == "/" {
		return nil
	}
	return strings.Split(clean[1:], "/")
}

// find gives the node of a name; the folder that it is in and its last element.
func (f *FS) find(name string) (n, dir *node, base string, err error) {
	n = f.root
	parts := split(name)
	for i, p := range parts {
		if n == nil {
			return nil, nil, "", syscall.ENOENT
		}
		if !n.dir {
			return nil, nil, "", syscall.ENOTDIR
		}
		dir, base = n, p
		n = n.names[p]
		if n == nil && i < len(parts)-1 {
			return nil, nil, "", syscall.ENOENT
		}
	}
	return n, dir, base, nil
}

// do makes a change of names.
func (f *FS) do(parts ...part) {
	for _, p := range parts {
		p.dir.mtime = f.clock
		if p.to == nil {
			delete(p.dir.names, p.name)
		} else {
			p.dir.names[p.name] = p.to
		}
	}
	f.pending = append(f.pending, parts)
}

func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}

// OpenFile counts as an operation where it may create or truncate.
func (f *FS) OpenFile(name string, flag int, perm os.FileMode) (durable.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := f.open(name, flag, perm)
	if err != nil {
		return nil, fail("open", name, err)
	}
	return h, nil
}

func (f *FS) open(name string, flag int, perm os.FileMode) (*handle, error) {
	if f.crashed {
		return nil, ErrCrash
	}
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		if err := f.op(); err != nil {
			return nil, err
		}
	}
	n, dir, base, err := f.find(name)
	if err != nil {
		return nil, err
	}
	writes := flag&(os.O_WRONLY|os.O_RDWR) != 0
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, syscall.ENOENT
	case n == nil:
		n = &node{mode: perm.Perm(), mtime: f.clock}
		f.do(part{dir, base, n})
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, syscall.EEXIST
	case n.dir && writes:
		return nil, syscall.EISDIR
	case flag&os.O_TRUNC != 0 && writes && len(n.data) > 0:
		n.cut(0, f.clock)
	}
	return &handle{fs: f, n: n, name: name, flag: flag}, nil
}

func (n *node) cut(size, clock int64) {
	n.data = resize(n.data, size)
	n.writes = append(n.writes, write{off: size, cut: true})
	n.mtime = clock
}

// Rename is one change.
func (f *FS) Rename(old, new string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return link(old, new, "rename", f.rename(old, new))
}

func link(old, new, op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: op, Old: old, New: new, Err: err}
}

func (f *FS) rename(old, new string) error {
	if err := f.op(); err != nil {
		return err
	}
	n, from, oldBase, err := f.find(old)
	if err != nil {
		return err
	}
	at, to, newBase, err := f.find(new)
	if err != nil {
		return err
	}
	if n == nil {
		return syscall.ENOENT
	}
	if from == nil || to == nil {
		return syscall.EBUSY
	}
	switch {
	case at != nil && at.dir:
		return syscall.EEXIST // as os.Rename has it
	case at == n:
		return nil // two names of one file: both stay
	case at != nil && n.dir:
		return syscall.ENOTDIR
	}
	if n.dir && strings.HasPrefix(filepath.Clean("/"+new)+"/", filepath.Clean("/"+old)+"/") {
		return syscall.EINVAL
	}
	f.do(part{from, oldBase, nil}, part{to, newBase, n})
	return nil
}

// Link makes a second name of a file.
func (f *FS) Link(old, new string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return link(old, new, "link", f.link(old, new))
}

func (f *FS) link(old, new string) error {
	if err := f.op(); err != nil {
		return err
	}
	n, _, _, err := f.find(old)
	if err != nil {
		return err
	}
	if n == nil {
		return syscall.ENOENT
	}
	at, dir, base, err := f.find(new)
	if err != nil {
		return err
	}
	if at != nil {
		return syscall.EEXIST
	}
	if n.dir {
		return syscall.EPERM
	}
	f.do(part{dir, base, n})
	return nil
}

// Remove removes a file or an empty folder.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fail("remove", name, f.remove(name))
}

func (f *FS) remove(name string) error {
	if err := f.op(); err != nil {
		return err
	}
	n, dir, base, err := f.find(name)
	if err != nil {
		return err
	}
	if n == nil {
		return syscall.ENOENT
	}
	if dir == nil {
		return syscall.EBUSY
	}
	if len(n.names) > 0 {
		return syscall.ENOTEMPTY
	}
	f.do(part{dir, base, nil})
	return nil
}

// RemoveAll is one operation of many changes.
func (f *FS) RemoveAll(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.op(); err != nil {
		return fail("unlinkat", name, err)
	}
	n, dir, base, err := f.find(name)
	if errors.Is(err, syscall.ENOENT) || err == nil && n == nil {
		return nil
	}
	if err != nil || dir == nil {
		return fail("unlinkat", name, errors.Join(err, syscall.EINVAL))
	}
	var empty func(n *node)
	empty = func(n *node) {
		for _, name := range sorted(n.names) {
			empty(n.names[name])
			f.do(part{n, name, nil})
		}
	}
	empty(n)
	f.do(part{dir, base, nil})
	return nil
}

// MkdirAll is one operation of as many changes as folders were missing.
func (f *FS) MkdirAll(name string, perm os.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return fail("mkdir", name, ErrCrash)
	}
	if n, _, _, err := f.find(name); err == nil && n != nil && n.dir {
		return nil // nothing to change
	}
	if err := f.op(); err != nil {
		return fail("mkdir", name, err)
	}
	n := f.root
	for _, p := range split(name) {
		m := n.names[p]
		if m == nil {
			m = f.folder(perm.Perm())
			f.do(part{n, p, m})
		}
		if !m.dir {
			return fail("mkdir", name, syscall.ENOTDIR)
		}
		n = m
	}
	return nil
}

// SyncDir makes a folder's names durable; of a rename to or from elsewhere, the other name too.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.op(); err != nil {
		return fail("sync", name, err)
	}
	n, _, _, err := f.find(name)
	if err != nil {
		return fail("sync", name, err)
	}
	if n == nil || !n.dir {
		return fail("sync", name, syscall.ENOENT)
	}
	// From the newest back: what touches the folder, and whatever came before to the same names.
	type key struct {
		dir  *node
		name string
	}
	wanted := map[key]bool{}
	take := make([]bool, len(f.pending))
	for i := len(f.pending) - 1; i >= 0; i-- {
		for _, p := range f.pending[i] {
			take[i] = take[i] || p.dir == n || wanted[key{p.dir, p.name}]
		}
		if take[i] {
			for _, p := range f.pending[i] {
				wanted[key{p.dir, p.name}] = true
			}
		}
	}
	var left []change
	for i, ch := range f.pending {
		if take[i] {
			ch.apply()
		} else {
			left = append(left, ch)
		}
	}
	f.pending = left
	return nil
}

// ReadDir gives the names, sorted.
func (f *FS) ReadDir(name string) ([]os.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return nil, fail("open", name, ErrCrash)
	}
	n, _, _, err := f.find(name)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	if err == nil && !n.dir {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, fail("open", name, err)
	}
	var all []os.DirEntry
	for _, base := range sorted(n.names) {
		all = append(all, fs.FileInfoToDirEntry(n.names[base].info(base)))
	}
	return all, nil
}

// Stat never follows anything: there are no links but hard ones.
func (f *FS) Stat(name string) (os.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return nil, fail("stat", name, ErrCrash)
	}
	n, _, base, err := f.find(name)
	if err == nil && n == nil {
		err = syscall.ENOENT
	}
	if err != nil {
		return nil, fail("stat", name, err)
	}
	return n.info(base), nil
}

// Free is what SetSpace leaves.
func (f *FS) Free(string) (bytes, inodes int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return 0, 0, ErrCrash
	}
	if f.space == 0 {
		return 1 << 40, 1 << 20, nil
	}
	return max(0, f.space-f.used()), 1 << 20, nil
}

func (f *FS) used() (sum int64) {
	seen := map[*node]bool{}
	var add func(n *node)
	add = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		sum += int64(len(n.data))
		for _, m := range n.names {
			add(m)
		}
	}
	add(f.root)
	return sum
}

// Tree lists all files with their sizes, for a test's message.
func (f *FS) Tree() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	var walk func(path string, n *node)
	walk = func(path string, n *node) {
		for _, name := range sorted(n.names) {
			m := n.names[name]
			if m.dir {
				fmt.Fprintf(&b, "%s/%s/\n", path, name)
				walk(path+"/"+name, m)
			} else {
				fmt.Fprintf(&b, "%s/%s %d\n", path, name, len(m.data))
			}
		}
	}
	walk("", f.root)
	return b.String()
}

type info struct {
	name  string
	size  int64
	mode  os.FileMode
	mtime int64
}

func (n *node) info(name string) info {
	if n.dir {
		return info{name, 0, n.mode | os.ModeDir, n.mtime}
	}
	return info{name, int64(len(n.data)), n.mode, n.mtime}
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() os.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Unix(i.mtime, 0) }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

// handle is an open file.
type handle struct {
	fs     *FS
	n      *node
	name   string
	flag   int
	off    int64
	closed bool
}

func (h *handle) lock() func() { h.fs.mu.Lock(); return h.fs.mu.Unlock }

func (h *handle) usable(write bool) error {
	switch {
	case h.closed:
		return os.ErrClosed
	case h.fs.crashed:
		return ErrCrash
	case write && h.flag&(os.O_WRONLY|os.O_RDWR) == 0, !write && h.flag&os.O_WRONLY != 0:
		return syscall.EBADF
	case !write && h.n.dir:
		return syscall.EISDIR
	}
	return nil
}

func (h *handle) Read(p []byte) (int, error) {
	defer h.lock()()
	n, err := h.readAt(p, h.off)
	h.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	defer h.lock()()
	return h.readAt(p, off)
}

func (h *handle) readAt(p []byte, off int64) (int, error) {
	if err := h.usable(false); err != nil {
		return 0, fail("read", h.name, err)
	}
	if off < 0 {
		return 0, fail("read", h.name, syscall.EINVAL)
	}
	if off >= int64(len(h.n.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, h.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) Write(p []byte) (int, error) {
	defer h.lock()()
	off := h.off
	if h.flag&os.O_APPEND != 0 {
		off = int64(len(h.n.data))
	}
	n, err := h.writeAt(p, off)
	h.off = off + int64(n)
	return n, err
}

func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	defer h.lock()()
	return h.writeAt(p, off)
}

func (h *handle) writeAt(p []byte, off int64) (int, error) {
	if err := h.usable(true); err != nil {
		return 0, fail("write", h.name, err)
	}
	if off < 0 {
		return 0, fail("write", h.name, syscall.EINVAL)
	}
	err := h.fs.op()
	if err != nil {
		if h.fs.crashed {
			return 0, fail("write", h.name, err)
		}
		p = p[:len(p)/2]
	}
	if more := off + int64(len(p)) - int64(len(h.n.data)); h.fs.space > 0 && more > 0 {
		if room := max(0, h.fs.space-h.fs.used()); more > room {
			p, err = p[:max(0, int64(len(p))-(more-room))], syscall.ENOSPC
		}
	}
	if len(p) > 0 {
		h.n.data = put(h.n.data, off, p)
		h.n.writes = append(h.n.writes, write{off: off, data: append([]byte(nil), p...)})
		h.n.mtime = h.fs.clock
	}
	return len(p), fail("write", h.name, err)
}

func (h *handle) Truncate(size int64) error {
	defer h.lock()()
	if err := h.usable(true); err != nil {
		return fail("truncate", h.name, err)
	}
	if size < 0 {
		return fail("truncate", h.name, syscall.EINVAL)
	}
	if err := h.fs.op(); err != nil {
		return fail("truncate", h.name, err)
	}
	h.n.cut(size, h.fs.clock)
	return nil
}

func (h *handle) Sync() error {
	defer h.lock()()
	if h.closed {
		return fail("sync", h.name, os.ErrClosed)
	}
	if err := h.fs.op(); err != nil {
		return fail("sync", h.name, err)
	}
	if !h.n.dir {
		h.n.durable, h.n.writes = append([]byte(nil), h.n.data...), nil
	}
	return nil
}

// Chmod is durable at once: no promise rests on it.
func (h *handle) Chmod(perm os.FileMode) error {
	defer h.lock()()
	if h.closed {
		return fail("chmod", h.name, os.ErrClosed)
	}
	if err := h.fs.op(); err != nil {
		return fail("chmod", h.name, err)
	}
	h.n.mode = perm.Perm()
	return nil
}

func (h *handle) Stat() (os.FileInfo, error) {
	defer h.lock()()
	if h.closed || h.fs.crashed {
		return nil, fail("stat", h.name, map[bool]error{true: os.ErrClosed, false: ErrCrash}[h.closed])
	}
	return h.n.info(filepath.Base(h.name)), nil
}

func (h *handle) Close() error {
	defer h.lock()()
	if h.closed {
		return fail("close", h.name, os.ErrClosed)
	}
	h.closed = true
	return nil
}
