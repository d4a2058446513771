// Package durable replaces one small file so that after a power cut it is the
// old one or the new one, whole, and once WriteFile has returned, the new one.
//
// What it does not promise: that the file is the new one if the power goes
// before WriteFile returns; and anything at all on a card that lies about
// flushes.
package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// TempSuffix ends the name of the file that WriteFile writes beside the target.
// One such file left by a power cut is overwritten by the next WriteFile.
const TempSuffix = ".new"

// FS is the file system as far as small durable files, slots and downloads use it, so that a test can cut the power or fail at
// each call. Names are paths as the operating system takes them; nothing is durable before Sync (content) and SyncDir (names).
type FS interface {
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	Rename(old, new string) error
	Link(old, new string) error
	Remove(name string) error
	RemoveAll(name string) error
	MkdirAll(dir string, perm os.FileMode) error
	ReadDir(dir string) ([]os.DirEntry, error)
	Stat(name string) (os.FileInfo, error)
	SyncDir(dir string) error
	Free(dir string) (bytes, inodes int64, err error) // what an unprivileged user may still take; inodes -1: not counted there
}

// File is an open file of an [FS]; an *os.File is one.
type File interface {
	io.ReadWriteCloser
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Chmod(perm os.FileMode) error
	Stat() (os.FileInfo, error)
}

// WriteFile makes data the content of path with exactly the given permissions
// (no umask): it writes beside, syncs, renames and syncs the folder. On an
// error path is as it was, except for an error of the last step (the folder's
// sync), after which it may be either. One writer per path at a time.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return Replace(OS{}, path, data, perm)
}

// Replace is [WriteFile] on any file system.
func Replace(fs FS, path string, data []byte, perm os.FileMode) error {
	if err := replace(fs, path, data, perm); err != nil {
		return fmt.Errorf("durable: replace %s: %w", path, err)
	}
	return nil
}

func replace(fs FS, path string, data []byte, perm os.FileMode) (err error) {
	tmp := path + TempSuffix
	// What is left of an earlier attempt may have other permissions, or be a link.
	if err := fs.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := fs.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = fs.Remove(tmp) // the first error is the one to tell
		}
	}()
	if err := fill(f, data, perm); err != nil {
		_ = f.Close() // same
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fs.Rename(tmp, path); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(path))
}

func fill(f File, data []byte, perm os.FileMode) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil { // the umask took some away
		return err
	}
	return f.Sync()
}

// SyncDir makes the names in a folder durable: what was created, renamed or
// removed there before the call stays so.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ErrTooLarge is returned by ReadFile for a file beyond its bound.
var ErrTooLarge = errors.New("larger than expected")

// ReadFile reads a regular file of at most max bytes. Anything else there (a
// pipe, a device, a folder, a larger file) is an error, and never blocks or
// fills the memory.
func ReadFile(path string, max int64) ([]byte, error) { return Read(OS{}, path, max) }

// Read is [ReadFile] on any file system.
func Read(fs FS, path string, max int64) ([]byte, error) {
	data, err := read(fs, path, max)
	if err != nil {
		return nil, fmt.Errorf("durable: read %s: %w", path, err)
	}
	return data, nil
}

func read(fs FS, path string, max int64) (data []byte, err error) {
	f, err := fs.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("is %s, want a regular file", info.Mode().Type())
	}
	data, err = io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max)
	}
	return data, nil
}
