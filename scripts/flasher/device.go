package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// aligned gives a buffer that O_DIRECT accepts.
func aligned(n int) []byte {
	b := make([]byte, n+blockSize)
	off := blockSize - int(uintptr(unsafe.Pointer(&b[0]))%blockSize)
	return b[off : off+n : off+n]
}

// fileDevice is a file that becomes the prepared image.
type fileDevice struct{ f *os.File }

func (d fileDevice) ReadAt(p []byte, off int64) (int, error)  { return d.f.ReadAt(p, off) }
func (d fileDevice) WriteAt(p []byte, off int64) (int, error) { return d.f.WriteAt(p, off) }
func (d fileDevice) Sync() error                              { return d.f.Sync() }
func (d fileDevice) DropCache() error {
	return unix.Fadvise(int(d.f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
func (d fileDevice) Reread()      {}
func (d fileDevice) Size() int64  { return 0 }
func (d fileDevice) Close() error { return d.f.Close() }

// blockDevice is a whole disk, held exclusively: while it is open nothing can mount its partitions.
type blockDevice struct {
	f      *os.File
	size   int64
	direct bool
}

func openBlock(path string) (*blockDevice, error) {
	flags := os.O_RDWR | unix.O_EXCL | unix.O_CLOEXEC
	f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	direct := err == nil
	if errors.Is(err, unix.EINVAL) {
		f, err = os.OpenFile(path, flags, 0)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%s: in use (mounted, or held by another program): unmount its partitions first", path)
	case errors.Is(err, unix.EROFS):
		return nil, fmt.Errorf("%s: write-protected: slide the lock of the card or adapter", path)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s: no right to write: run it with sudo", path)
	case errors.Is(err, unix.ENOMEDIUM):
		return nil, fmt.Errorf("%s: no card in the reader", path)
	case err != nil:
		return nil, err
	}
	// Opening a locked one for writing is allowed, for the sake of old programs.
	if ro, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); err == nil && ro != 0 {
		f.Close()
		return nil, fmt.Errorf("%s: write-protected: slide the lock of the card or adapter", path)
	}
	d := &blockDevice{f: f, direct: direct}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil || d.size == 0 {
		f.Close()
		return nil, fmt.Errorf("%s: size unknown: no card in the reader?", path)
	}
	return d, nil
}

func (d *blockDevice) Size() int64 { return d.size }
func (d *blockDevice) Sync() error { return d.f.Sync() }
func (d *blockDevice) DropCache() error {
	if err := unix.IoctlSetInt(int(d.f.Fd()), unix.BLKFLSBUF, 0); err != nil && !(d.direct && errors.Is(err, unix.EACCES)) {
		return err
	}
	return nil
}
func (d *blockDevice) Reread()      { _ = unix.IoctlSetInt(int(d.f.Fd()), unix.BLKRRPART, 0) }
func (d *blockDevice) Close() error { return d.f.Close() }

func (d *blockDevice) WriteAt(p []byte, off int64) (int, error) {
	if d.direct && uintptr(unsafe.Pointer(unsafe.SliceData(p)))%blockSize != 0 {
		b := aligned(len(p))
		copy(b, p)
		p = b
	}
	return d.f.WriteAt(p, off)
}

// ReadAt reads whole blocks around what is asked.
func (d *blockDevice) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= d.size {
			return done, io.EOF
		}
		from := at &^ (blockSize - 1)
		to := min((off+int64(len(p))+blockSize-1)&^(blockSize-1), from+chunk, d.size)
		b := aligned(int(to - from))
		if n, err := d.f.ReadAt(b, from); n < len(b) {
			return done, noEOF(err)
		}
		done += copy(p[done:], b[at-from:])
	}
	return done, nil
}
