package durable

import (
	"os"
)

// OS is the operating system's file system.
type OS struct{}

// OpenFile is [os.OpenFile].
func (OS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Rename is [os.Rename].
func (OS) Rename(old, new string) error { return os.Rename(old, new) }

// Link is [os.Link].
func (OS) Link(old, new string) error { return os.Link(old, new) }

// Remove is [os.Remove].
func (OS) Remove(name string) error { return os.Remove(name) }

// RemoveAll is [os.RemoveAll].
func (OS) RemoveAll(name string) error { return os.RemoveAll(name) }

// MkdirAll is [os.MkdirAll].
func (OS) MkdirAll(dir string, perm os.FileMode) error { return os.MkdirAll(dir, perm) }

// ReadDir is [os.ReadDir].
func (OS) ReadDir(dir string) ([]os.DirEntry, error) { return os.ReadDir(dir) }

// Stat is [os.Stat].
func (OS) Stat(name string) (os.FileInfo, error) { return os.Stat(name) }

// SyncDir is [SyncDir].
func (OS) SyncDir(dir string) error { return SyncDir(dir) }
