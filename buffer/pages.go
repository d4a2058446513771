package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"syscall"
)

// checkPages walks a bbolt file without bbolt: when that opens a file to write it
// looks for free pages in a goroutine of its own, where a damaged page or
// one beyond the end of the file ends the process and nothing can recover.
// What passes here does not make it panic. (Layout: bbolt's internal/common;
// little-endian, as all that the agent runs on.)
func checkPages(f File) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	c := &pageChecker{f: f, seen: map[uint64]bool{0: true, 1: true}}
	ms, err := c.metas()
	if err != nil {
		return err
	}
	m := ms[len(ms)-1]
	c.high = m.high
	if c.high > uint64(size)/pageSize {
		return fmt.Errorf("%w: %d pages, but %d bytes", errDamaged, c.high, size)
	}
	return c.page(m.root, 0, nil, nil)
}

// excess says how long a bbolt file is and how much of that bbolt uses, where that is so much less that the length cannot be its doing (a bad
// i_size). It does so only where both meta pages and all that they lead to are whole.
func excess(f File) (size, used int64, ok bool) {
	size, err := f.Size()
	if err != nil {
		return 0, 0, false
	}
	ms, err := (&pageChecker{f: f}).metas()
	if err != nil || len(ms) < 2 {
		return 0, 0, false
	}
	high := max(ms[0].high, ms[1].high)
	if high >= uint64(size)/pageSize || size-int64(high*pageSize) <= maxAhead || checkPages(f) != nil {
		return 0, 0, false
	}
	return size, int64(high * pageSize), true
}

const maxAhead = 2 << 20 // more than a file is enlarged ahead of its use (AllocSize)

type metaPage struct{ tx, root, high uint64 }

// metas gives the valid meta pages, the newest last; none is an error.
func (c *pageChecker) metas() (ms []metaPage, err error) {
	for id := range uint64(2) {
		p, err := c.read(id, 1)
		if err != nil {
			continue
		}
		le := binary.LittleEndian
		m := p[pageHeader:]
		h := fnv.New64a()
		_, _ = h.Write(m[:56])
		if le.Uint32(m) != 0xED0CDAED || le.Uint32(m[4:]) != 2 || h.Sum64() != le.Uint64(m[56:]) {
			continue
		}
		if le.Uint32(m[8:]) != pageSize {
			return nil, fmt.Errorf("%w: pages of %d bytes, want %d", errDamaged, le.Uint32(m[8:]), pageSize)
		}
		ms = append(ms, metaPage{le.Uint64(m[48:]), le.Uint64(m[16:]), le.Uint64(m[40:])})
	}
	if len(ms) == 0 {
		return nil, fmt.Errorf("%w: no valid meta page", errDamaged)
	}
	if len(ms) == 2 && ms[0].tx >= ms[1].tx {
		ms[0], ms[1] = ms[1], ms[0]
	}
	return ms, nil
}

const (
	pageSize    = 4096
	pageHeader  = 16
	pageElement = 16
	branchPage  = 1
	leafPage    = 2
	bucketLeaf  = 1
	maxDepth    = 40
)

type pageChecker struct {
	f    File
	high uint64 // pages in use
	seen map[uint64]bool
}

func (c *pageChecker) read(id, n uint64) ([]byte, error) {
	p := make([]byte, n*pageSize)
	if k, err := c.f.ReadAt(p, int64(id*pageSize)); k < len(p) {
		if err == io.EOF {
			err = fmt.Errorf("%w: page %d is beyond the end", errDamaged, id)
		}
		return nil, err
	}
	return p, nil
}

// page checks a page and all below it; its keys are at least low, and less than high where that is not nil.
func (c *pageChecker) page(id uint64, depth int, low, high []byte) error {
	bad := func(why string) error { return fmt.Errorf("%w: page %d: %s", errDamaged, id, why) }
	if id < 2 || id >= c.high || depth > maxDepth {
		return bad("out of bounds")
	}
	p, err := c.read(id, 1)
	if err != nil {
		return err
	}
	over := uint64(binary.LittleEndian.Uint32(p[12:]))
	if over >= c.high-id {
		return bad("out of bounds")
	}
	for i := id; i <= id+over; i++ {
		if c.seen[i] {
			return bad("used twice")
		}
		c.seen[i] = true
	}
	if over > 0 {
		if p, err = c.read(id, over+1); err != nil {
			return err
		}
	}
	if binary.LittleEndian.Uint64(p) != id {
		return bad("has another's number")
	}
	return c.elements(id, p, depth, low, high)
}

func (c *pageChecker) elements(id uint64, p []byte, depth int, low, high []byte) error {
	bad := func(why string) error { return fmt.Errorf("%w: page %d: %s", errDamaged, id, why) }
	le := binary.LittleEndian
	flags, n := le.Uint16(p[8:]), int(le.Uint16(p[10:]))
	if flags != branchPage && flags != leafPage {
		return bad("neither branch nor leaf")
	}
	if pageHeader+n*pageElement > len(p) || flags == branchPage && n == 0 {
		return bad("too many elements, or none")
	}
	type element struct {
		k, v  []byte
		child uint64
		flags uint32
	}
	es := make([]element, n)
	for i := range es {
		at := pageHeader + i*pageElement
		h := p[at:]
		var pos, ksize, vsize uint64
		if flags == branchPage {
			pos, ksize, es[i].child = uint64(le.Uint32(h)), uint64(le.Uint32(h[4:])), le.Uint64(h[8:])
		} else {
			es[i].flags, pos, ksize, vsize = le.Uint32(h), uint64(le.Uint32(h[4:])), uint64(le.Uint32(h[8:])), uint64(le.Uint32(h[12:]))
		}
		from := uint64(at) + pos
		if from+ksize+vsize > uint64(len(p)) || from < pageHeader+uint64(n)*pageElement {
			return bad("an element reaches out of it")
		}
		es[i].k, es[i].v = p[from:from+ksize], p[from+ksize:from+ksize+vsize]
		if i > 0 && bytes.Compare(es[i-1].k, es[i].k) >= 0 || i == 0 && bytes.Compare(low, es[i].k) > 0 || high != nil && bytes.Compare(es[i].k, high) >= 0 {
			return bad("keys are out of order")
		}
	}
	for i, e := range es {
		switch {
		case flags == branchPage:
			next := high
			if i+1 < n {
				next = es[i+1].k
			}
			if err := c.page(e.child, depth+1, e.k, next); err != nil {
				return err
			}
		case e.flags&bucketLeaf != 0:
			if len(e.v) < 16 {
				return bad("a bucket is too short")
			}
			if root := le.Uint64(e.v); root != 0 {
				if err := c.page(root, depth+1, nil, nil); err != nil {
					return err
				}
			} else if inline := e.v[16:]; len(inline) < pageHeader || le.Uint16(inline[8:]) != leafPage {
				return bad("a bucket is too short")
			} else if err := c.elements(id, inline, depth+1, nil, nil); err != nil {
				return err
			}
		case e.flags != 0:
			return bad("an element of unknown kind")
		}
	}
	return nil
}

// checkFile is checkPages for a file by name.
func (b *Buffer) checkFile(name string) error {
	f, err := b.openFile(name, openRO, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	return checkPages(f)
}

// cutBack takes off what a file is longer than bbolt uses of it.
func (b *Buffer) cutBack() error {
	entries, err := b.fs.ReadDir(b.dir)
	if err != nil {
		return fmt.Errorf("buffer: read the folder: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if _, ok := segmentID(name); ok || name == metaName {
			if err := b.cutFile(name); err != nil { // its length is not what counts, so that it may stay
				b.failed("file cannot be cut back", err)
			}
		}
	}
	return nil
}

func (b *Buffer) cutFile(name string) error {
	f, err := b.openFile(name, openRW, 0)
	if err != nil {
		return nil // whoever needs it will say so
	}
	defer func() { _ = f.Close() }() // synced
	size, used, ok := excess(f)
	if !ok {
		return nil
	}
	if err = f.Truncate(used); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	b.tell("%s: %d bytes long, of which %d are used; cut back", name, size, used)
	return nil
}

// usedPart is a copy, in a temporary file that has no name, of what bbolt uses of a file that is far longer.
func (b *Buffer) usedPart(name string) (*os.File, error) {
	f, err := b.openFile(name, openRO, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	_, used, ok := excess(f)
	if !ok || used > 2*maxSegment {
		return nil, fmt.Errorf("%w: far too long, and what of it is used cannot be told", errDamaged)
	}
	part, err := os.CreateTemp("", "homeward-*.db")
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.Remove(part.Name()), copyPart(part, f, used))
	if err != nil {
		_ = part.Close() // it is gone with that
		return nil, err
	}
	return part, nil
}

func copyPart(to io.Writer, from io.ReaderAt, n int64) error {
	_, err := io.Copy(to, io.NewSectionReader(from, 0, n))
	return err
}

// sizeOf is what a file takes of the disk: its length may be far more where it has holes.
func sizeOf(info os.FileInfo) int64 {
	size := info.Size()
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return size
	}
	if st.Blocks == 0 { // a file system that does not tell
		return min(size, 2*maxHalf)
	}
	return min(size, int64(st.Blocks)*512)
}
