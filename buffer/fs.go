package buffer

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"homeward/buffer/durable"
)

// FS is the file system as far as the buffer uses it, so that a test can make each call fail.
type FS interface {
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	Rename(old, new string) error
	Remove(name string) error
	MkdirAll(dir string, perm os.FileMode) error
	ReadDir(dir string) ([]os.DirEntry, error)
	Stat(name string) (os.FileInfo, error)
	SyncDir(dir string) error
	Free(dir string) (bytes int64, inodes int64, err error)
}

// File is an open file of an FS. The bbolt databases take it through bbolt's OpenFile hook only where it is an *os.File
// (an [OSFile]); otherwise they, and the lock, use the operating system's file of the same name.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error // data and the metadata needed to read it (fdatasync)
	Truncate(size int64) error
	Size() (int64, error)
	Close() error
}

// Clock gives timers for Flush and Seal.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// OSFS is the operating system's file system.
type OSFS struct{}

// OSFile is a file of [OSFS].
type OSFile struct{ *os.File }

// Sync is fdatasync(2).
func (f OSFile) Sync() error {
	for {
		err := fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			if err != nil {
				return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
			}
			return nil
		}
	}
}

// Size is the file's length in bytes.
func (f OSFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// OpenFile is [os.OpenFile].
func (OSFS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return OSFile{f}, nil
}

// Rename is [os.Rename].
func (OSFS) Rename(old, new string) error { return os.Rename(old, new) }

// Remove is [os.Remove].
func (OSFS) Remove(name string) error { return os.Remove(name) }

// MkdirAll is [os.MkdirAll].
func (OSFS) MkdirAll(dir string, perm os.FileMode) error { return os.MkdirAll(dir, perm) }

// ReadDir is [os.ReadDir].
func (OSFS) ReadDir(dir string) ([]os.DirEntry, error) { return os.ReadDir(dir) }

// Stat is [os.Stat].
func (OSFS) Stat(name string) (os.FileInfo, error) { return os.Stat(name) }

// SyncDir makes the names in the folder durable.
func (OSFS) SyncDir(dir string) error { return durable.SyncDir(dir) }

// Free is what an unprivileged user may still take. inodes is -1 where the
// file system does not count them (btrfs, vfat).
func (OSFS) Free(dir string) (bytes int64, inodes int64, err error) { return durable.OS{}.Free(dir) }

type realClock struct{}

func (realClock) Now() time.Time                         { return time.Now() }
func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
