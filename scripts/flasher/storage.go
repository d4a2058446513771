package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/diskfs/go-diskfs/backend"
)

// Device is what an image is written to: a card or a file.
type Device interface {
	io.ReaderAt // any offset and length
	io.WriterAt // multiples of blockSize, but for the end of the device
	Sync() error
	DropCache() error // what is read next comes from the medium
	Reread()          // tell the kernel of the new partitions
	Size() int64      // bytes; 0 for a file, which grows
	Close() error
}

const (
	blockSize = 4096
	// headSize is the part at the start that is written last: as long as it is zero,
	// nothing takes the card for bootable. It holds the MBR and GPT of any image.
	headSize = 1 << 20
	// maxEdits bounds what is kept in memory between editing and writing.
	maxEdits = 512 << 20
)

// overlay is a device with changes kept in memory: file systems are edited in it as a
// whole, and nothing is on the card before all edits succeeded.
type overlay struct {
	dev   io.ReaderAt
	size  int64
	dirty map[int64][]byte // block number → blockSize bytes
	pos   int64
}

func newOverlay(dev io.ReaderAt, size int64) *overlay {
	return &overlay{dev: dev, size: size, dirty: map[int64][]byte{}}
}

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= o.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), o.size-off))
	if m, err := o.dev.ReadAt(p[:n], off); m < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	for b := off / blockSize; b*blockSize < off+int64(n); b++ {
		data, ok := o.dirty[b]
		if !ok {
			continue
		}
		if at := b*blockSize - off; at >= 0 {
			copy(p[at:n], data)
		} else {
			copy(p[:n], data[-at:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > o.size {
		return 0, fmt.Errorf("write at %d beyond the end, %d", off+int64(len(p)), o.size)
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		b := at / blockSize
		data, ok := o.dirty[b]
		if !ok {
			if len(o.dirty) >= maxEdits/blockSize {
				return done, fmt.Errorf("more than %s to add: leave some files out", bytesText(maxEdits))
			}
			data = make([]byte, blockSize)
			want := min(blockSize, o.size-b*blockSize)
			if m, err := o.dev.ReadAt(data[:want], b*blockSize); int64(m) < want {
				return done, fmt.Errorf("read at %d: %w", b*blockSize, err)
			}
			o.dirty[b] = data
		}
		done += copy(data[at%blockSize:], p[done:])
	}
	return len(p), nil
}

// blocks are the changed blocks in order.
func (o *overlay) blocks() []int64 { return slices.Sorted(maps.Keys(o.dirty)) }

func (o *overlay) Read(p []byte) (int, error) {
	n, err := o.ReadAt(p, o.pos)
	o.pos += int64(n)
	return n, err
}

func (o *overlay) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += o.pos
	case io.SeekEnd:
		off += o.size
	}
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	o.pos = off
	return off, nil
}

func (o *overlay) Close() error                            { return nil }
func (o *overlay) Path() string                            { return "" }
func (o *overlay) Sys() (*os.File, error)                  { return nil, backend.ErrNotSuitable }
func (o *overlay) Writable() (backend.WritableFile, error) { return o, nil }
func (o *overlay) Stat() (fs.FileInfo, error)              { return overlayInfo{o.size}, nil }

type overlayInfo struct{ size int64 }

func (i overlayInfo) Name() string       { return "card" }
func (i overlayInfo) Size() int64        { return i.size }
func (i overlayInfo) Mode() fs.FileMode  { return 0o600 }
func (i overlayInfo) ModTime() time.Time { return time.Time{} }
func (i overlayInfo) IsDir() bool        { return false }
func (i overlayInfo) Sys() any           { return nil }

func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}
