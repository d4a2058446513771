package delta

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
)

// chunk is how much is read and added at once, in bytes.
const chunk = 32 << 10

// Patch writes to w the content of newSize bytes that the patch makes of the old one. It reads both as it goes. The sizes are
// those that were signed; what does not keep to them is refused with the code delta.size, any other fault with delta.malformed. What
// was written before an error is worth nothing; what was written without one is still to be compared with its hash.
func Patch(w io.Writer, old io.ReaderAt, oldSize int64, patch io.ReaderAt, patchSize, newSize int64) error {
	for _, s := range []struct {
		what string
		size int64
	}{{"old content", oldSize}, {"patch", patchSize}, {"new content", newSize}} {
		if s.size < 0 || s.size > MaxSize {
			return wrongSize("%s of %d bytes: want 0 to %d", s.what, s.size, MaxSize)
		}
	}
	if patchSize < headerLen {
		return malformed("patch of %d bytes: want at least its header of %d", patchSize, headerLen)
	}
	var header [headerLen]byte
	if err := readAt(patch, header[:], 0); err != nil {
		return fmt.Errorf("delta: read the patch: %w", err)
	}
	if string(header[:8]) != magic {
		return malformed("patch begins with %q: want %s", header[:8], magic)
	}
	control, difference, size := number(header[8:]), number(header[16:]), number(header[24:])
	rest := patchSize - headerLen
	if control < 0 || control > rest || difference < 0 || difference > rest-control {
		return malformed("patch of %d bytes says that its blocks have %d and %d: want them inside", patchSize, control, difference)
	}
	if size != newSize {
		return wrongSize("patch makes %d bytes: want %d", size, newSize)
	}
	p := patcher{
		w: bufio.NewWriterSize(w, chunk), old: old, oldSize: oldSize, left: newSize,
		control:    newBlock("control", patch, headerLen, control),
		difference: newBlock("difference", patch, headerLen+control, difference),
		extra:      newBlock("extra", patch, headerLen+control+difference, rest-control-difference),
	}
	if err := p.run(newSize); err != nil {
		return err
	}
	if err := p.w.Flush(); err != nil {
		return fmt.Errorf("delta: write the new content: %w", err)
	}
	return nil
}

type patcher struct {
	w       *bufio.Writer
	old     io.ReaderAt
	oldSize int64
	at      int64 // place in old, 0 to oldSize
	left    int64 // bytes to write yet

	control, difference, extra *block
	buf, was                   [chunk]byte
}

func (p *patcher) run(newSize int64) error {
	// A triple that writes nothing only moves; more triples than bytes are a way to keep a gateway busy.
	for triples := int64(0); p.left > 0; triples++ {
		if triples > newSize+16 {
			return malformed("control block has more triples than the new content has bytes, %d", newSize)
		}
		var t [tripleLen]byte
		if err := p.control.read(t[:]); err != nil {
			return err
		}
		add, insert, move := number(t[0:]), number(t[8:]), number(t[16:])
		if add < 0 || add > p.left || insert < 0 || insert > p.left-add {
			return malformed("triple %d writes %d and %d bytes: want 0 to the %d that are left", triples+1, add, insert, p.left)
		}
		if add > p.oldSize-p.at {
			return malformed("triple %d reads %d bytes at %d of the old content: want them inside its %d", triples+1, add, p.at, p.oldSize)
		}
		if err := p.add(add); err != nil {
			return err
		}
		if err := p.insert(insert); err != nil {
			return err
		}
		if move < -p.at || move > p.oldSize-p.at {
			return malformed("triple %d moves by %d from %d of the old content: want a place inside its %d", triples+1, move, p.at, p.oldSize)
		}
		p.at += move
	}
	for _, b := range []*block{p.control, p.difference, p.extra} {
		if err := b.end(); err != nil {
			return err
		}
	}
	return nil
}

// add writes n bytes of old, each with one of the difference added.
func (p *patcher) add(n int64) error {
	for n > 0 {
		buf := p.buf[:min(n, chunk)]
		if err := p.difference.read(buf); err != nil {
			return err
		}
		was := p.was[:len(buf)]
		if err := readAt(p.old, was, p.at); err != nil {
			return fmt.Errorf("delta: read the old content: %w", err)
		}
		for i, b := range was {
			buf[i] += b
		}
		if err := p.write(buf); err != nil {
			return err
		}
		n -= int64(len(buf))
		p.at += int64(len(buf))
	}
	return nil
}

// insert writes n bytes of extra.
func (p *patcher) insert(n int64) error {
	for n > 0 {
		buf := p.buf[:min(n, chunk)]
		if err := p.extra.read(buf); err != nil {
			return err
		}
		if err := p.write(buf); err != nil {
			return err
		}
		n -= int64(len(buf))
	}
	return nil
}

func (p *patcher) write(b []byte) error {
	if _, err := p.w.Write(b); err != nil {
		return fmt.Errorf("delta: write the new content: %w", err)
	}
	p.left -= int64(len(b))
	return nil
}

// block is one of the three streams of a patch.
type block struct {
	name string
	src  *source
	r    io.Reader
}

func newBlock(name string, patch io.ReaderAt, at, size int64) *block {
	src := &source{r: io.NewSectionReader(patch, at, size)}
	return &block{name, src, bzip2.NewReader(bufio.NewReaderSize(src, 4096))}
}

// source remembers an error of reading, which is not the patch's fault.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (b *block) fault(err error) error {
	switch {
	case b.src.err != nil:
		return fmt.Errorf("delta: read the patch: %w", b.src.err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("%s block ends too early", b.name)
	}
	return malformed("%s block: %v", b.name, err)
}

// read fills buf.
func (b *block) read(buf []byte) error {
	if _, err := io.ReadFull(b.r, buf); err != nil {
		return b.fault(err)
	}
	return nil
}

// end wants nothing more in the block.
func (b *block) end() error {
	var one [1]byte
	switch n, err := io.ReadFull(b.r, one[:]); {
	case n > 0:
		return malformed("%s block has more than the new content takes", b.name)
	case err != io.EOF:
		return b.fault(err)
	}
	return nil
}

// readAt fills buf. A content that is shorter than was said is an error.
func readAt(r io.ReaderAt, buf []byte, at int64) error {
	n, err := r.ReadAt(buf, at)
	switch {
	case n == len(buf):
		return nil
	case err == nil || err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}
