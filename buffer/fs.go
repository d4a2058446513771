package buffer

import (
	"io"
	"os"
	"time"
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

// File is an open file of an FS. The bbolt databases take it through bbolt's OpenFile hook only where it is an *os.File.
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
