package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
)

// chunk is what is written and read in one go: the erase block of common cards.
const chunk = 4 << 20

// progress is told how far a stage is.
type progress interface {
	begin(stage string, total int64) // total ≤ 0: unknown
	io.Writer                        // counts
	end()
}

// spoiled is an error after the first byte was written.
type spoiled struct {
	err  error
	hint string
}

func (s spoiled) Error() string { return s.err.Error() }
func (s spoiled) Unwrap() error { return s.err }

// flash writes the image, reads it back, makes it ready, reads that back, and writes the
// first headSize bytes last. Any error after the first write is a spoiled: what is on the
// device then has no partition table.
func flash(ctx context.Context, img *Image, dev Device, limit int64, prepare func(*overlay, []Partition) error, p progress) (*Written, error) {
	r, err := img.open(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	head := make([]byte, headSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Path, err)
	}
	w := &Written{}
	// From here on the card is not what it was.
	if err := w.write(ctx, img, dev, limit, head, r, prepare, p); err != nil {
		// What failed in its last step has a table already: take it away, if the card is still there.
		if put(dev, aligned(blockSize), 0) == nil {
			_ = dev.Sync()
		}
		return nil, spoiled{err: err}
	}
	return w, nil
}

// Written is what a run put on the device.
type Written struct {
	Size   int64  // bytes of the image
	Sum    []byte // its SHA-256, as read back
	Edited int64  // bytes changed in it
}

func (w *Written) write(ctx context.Context, img *Image, dev Device, limit int64, head []byte, r io.Reader, prepare func(*overlay, []Partition) error, p progress) error {
	zero := make([]byte, headSize)
	if err := put(dev, zero, 0); err != nil {
		return err
	}
	// A backup GPT of the card's past at its very end would confuse tools.
	if size := dev.Size(); size >= img.least()+2*headSize {
		if at := (size - headSize) &^ (blockSize - 1); at >= headSize {
			if err := put(dev, zero[:size-at], at); err != nil {
				return err
			}
		}
	}
	if err := settle(dev); err != nil {
		return err
	}
	dev.Reread()

	sum := sha256.New()
	sum.Write(head)
	size, err := w.stream(ctx, img, dev, limit, r, sum, p)
	if err != nil {
		return err
	}
	w.Size, w.Sum = size, sum.Sum(nil)
	if size < img.End {
		return fmt.Errorf("image %s: it ends at %s, but its partitions reach to %s: incomplete download", img.Path, bytesText(size), bytesText(img.End))
	}

	p.begin("reading back", size)
	back := sha256.New()
	back.Write(head)
	p.Write(head)
	if err := readBack(ctx, dev, headSize, size, io.MultiWriter(back, p)); err != nil {
		return err
	}
	p.end()
	if !bytes.Equal(back.Sum(nil), w.Sum) {
		return fmt.Errorf("what was read back differs from what was written (SHA-256 %x, want %x): the card or its reader is bad", back.Sum(nil), w.Sum)
	}

	space := dev.Size()
	if space == 0 {
		space = size
	}
	o := newOverlay(dev, space)
	for at := 0; at < len(head); at += blockSize {
		o.dirty[int64(at/blockSize)] = head[at:][:blockSize]
	}
	if prepare != nil {
		if err := prepare(o, img.Parts); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	blocks := o.blocks()
	var late []int64
	for len(blocks) > 0 && blocks[0] < headSize/blockSize {
		late, blocks = append(late, blocks[0]), blocks[1:]
	}
	if err := w.blocks(ctx, o, dev, blocks, "making ready", p); err != nil {
		return err
	}
	w.Edited = int64(len(blocks)) * blockSize
	if err := ctx.Err(); err != nil {
		return err
	}
	// The first block, with the partition table, is the very last.
	if err := w.blocks(context.WithoutCancel(ctx), o, dev, late[1:], "", p); err != nil {
		return err
	}
	if err := w.blocks(context.WithoutCancel(ctx), o, dev, late[:1], "", p); err != nil {
		return err
	}
	dev.Reread()
	return nil
}

// stream writes what follows the head and returns the image's size.
func (w *Written) stream(ctx context.Context, img *Image, dev Device, limit int64, r io.Reader, sum hash.Hash, p progress) (int64, error) {
	type piece struct {
		buf []byte
		n   int
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	free, full := make(chan []byte, 3), make(chan piece)
	for range cap(free) {
		free <- aligned(chunk)
	}
	done := make(chan struct{})
	go func() { // unpacks and sums while the card is busy
		defer close(done)
		defer close(full)
		for {
			var b []byte
			select {
			case b = <-free:
			case <-ctx.Done():
				return
			}
			n, err := fill(r, b)
			sum.Write(b[:n])
			select {
			case full <- piece{b, n, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { cancel(); <-done }()

	p.begin("writing", img.Size)
	p.Write(make([]byte, headSize))
	at := int64(headSize)
	for since := 0; ; {
		var c piece
		var ok bool
		select {
		case c, ok = <-full:
		case <-ctx.Done():
		}
		if !ok {
			return at, context.Cause(ctx)
		}
		end := c.err == io.EOF
		if c.err != nil && !end {
			return at, fmt.Errorf("image %s: after %s: %w", img.Path, bytesText(at+int64(c.n)), c.err)
		}
		if at+int64(c.n) > limit {
			return at, fmt.Errorf("image %s: larger than the device, %s", img.Path, bytesText(limit))
		}
		if c.n > 0 {
			// Pad to a block, but not beyond the device's end.
			n := (c.n + blockSize - 1) &^ (blockSize - 1)
			if size := dev.Size(); size > 0 {
				n = int(min(int64(n), size-at))
			} else {
				n = c.n
			}
			clear(c.buf[c.n:max(n, c.n)])
			if err := put(dev, c.buf[:n], at); err != nil {
				return at, err
			}
			at += int64(c.n)
			p.Write(c.buf[:c.n])
			if since += c.n; since >= 64<<20 {
				since = 0
				if err := dev.Sync(); err != nil {
					return at, fmt.Errorf("flush after %s: %w", bytesText(at), err)
				}
			}
		}
		if end {
			break
		}
		free <- c.buf
	}
	p.end()
	return at, settle(dev)
}

// fill is io.ReadFull, but the end of the image is io.EOF and a torn packing stays io.ErrUnexpectedEOF.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

// blocks writes changed blocks and compares them with what the medium gives back.
func (w *Written) blocks(ctx context.Context, o *overlay, dev Device, blocks []int64, stage string, p progress) error {
	if stage != "" && len(blocks) > 0 {
		p.begin(stage, int64(len(blocks))*blockSize)
		defer p.end()
	}
	buf, got := aligned(chunk), aligned(chunk)
	runs := func(do func(b []byte, at int64) error) error {
		for i := 0; i < len(blocks); {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, first := 0, blocks[i]
			for ; i < len(blocks) && blocks[i] == first+int64(n) && n < chunk/blockSize; i, n = i+1, n+1 {
				copy(buf[n*blockSize:], o.dirty[blocks[i]])
			}
			at := first * blockSize
			if err := do(buf[:min(int64(n*blockSize), o.size-at)], at); err != nil {
				return err
			}
		}
		return nil
	}
	if err := runs(func(b []byte, at int64) error {
		if stage != "" {
			p.Write(b)
		}
		return put(dev, b, at)
	}); err != nil {
		return err
	}
	if err := settle(dev); err != nil {
		return err
	}
	return runs(func(b []byte, at int64) error {
		if n, err := dev.ReadAt(got[:len(b)], at); n < len(b) {
			return fmt.Errorf("read back at %s: %w", bytesText(at), noEOF(err))
		}
		if !bytes.Equal(got[:len(b)], b) {
			return fmt.Errorf("what was read back at %s differs from what was written: the card or its reader is bad", bytesText(at))
		}
		return nil
	})
}

func readBack(ctx context.Context, dev Device, at, end int64, to io.Writer) error {
	buf := aligned(chunk)
	for at < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(chunk, end-at)]
		if n, err := dev.ReadAt(b, at); n < len(b) {
			return fmt.Errorf("read back at %s: %w", bytesText(at), noEOF(err))
		}
		to.Write(b)
		at += int64(len(b))
	}
	return nil
}

func put(dev Device, b []byte, at int64) error {
	if n, err := dev.WriteAt(b, at); err != nil {
		return fmt.Errorf("write at %s: %w", bytesText(at), err)
	} else if n < len(b) {
		return fmt.Errorf("write at %s: %w", bytesText(at), io.ErrShortWrite)
	}
	return nil
}

// settle waits until all is on the medium, and forgets it, so that it is read from there.
func settle(dev Device) error {
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if err := dev.DropCache(); err != nil {
		return fmt.Errorf("drop cached blocks: %w", err)
	}
	return nil
}

func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
