package buffer

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// faultFS is the operating system's file system with failing calls, and with a
// volatile cache under the tail log: what was written since the last Sync
// may be lost at a cut, sector by sector.
type faultFS struct {
	OSFS
	mu    sync.Mutex
	fail  func(op, name string) error
	disks map[string]*disk
	free  func() (bytes, inodes int64)
	wrote int // calls that write
}

func newFaultFS() *faultFS { return &faultFS{disks: map[string]*disk{}} }

const sector = 512

type disk struct {
	old map[int64][]byte // dirty sectors, as they are on the medium
}

func (f *faultFS) try(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch op {
	case "write", "truncate", "rename", "remove", "create":
		f.wrote++
	}
	if f.fail != nil {
		return f.fail(op, filepath.Base(name))
	}
	return nil
}

func (f *faultFS) setFail(fail func(op, name string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *faultFS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	op := "open"
	if flag&os.O_CREATE != 0 {
		op = "create"
	} else if flag&os.O_RDWR != 0 {
		op = "openrw"
	}
	if err := f.try(op, name); err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	file, err := f.OSFS.OpenFile(name, flag, perm)
	if err != nil || !strings.HasPrefix(filepath.Base(name), logName) {
		return file, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.disks[name]
	if d == nil {
		d = &disk{map[int64][]byte{}}
		f.disks[name] = d
	}
	return &faultFile{file.(OSFile), f, d, name}, nil
}

func (f *faultFS) Rename(old, new string) error {
	if err := f.try("rename", old); err != nil {
		return &os.LinkError{Op: "rename", Old: old, New: new, Err: err}
	}
	err := f.OSFS.Rename(old, new)
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.disks[old]; err == nil && d != nil {
		f.disks[new] = d
		delete(f.disks, old)
	}
	return err
}

func (f *faultFS) Remove(name string) error {
	if err := f.try("remove", name); err != nil {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return f.OSFS.Remove(name)
}

func (f *faultFS) Free(dir string) (int64, int64, error) {
	if f.free != nil {
		b, i := f.free()
		return b, i, nil
	}
	return f.OSFS.Free(dir)
}

// cut loses of each dirty sector what keep does not keep.
func (f *faultFS) cut(keep func() bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, d := range f.disks {
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		for at, old := range d.old {
			if !keep() {
				_, _ = file.WriteAt(old, at)
			}
		}
		_ = file.Close()
	}
	f.disks = map[string]*disk{}
}

type faultFile struct {
	OSFile
	fs   *faultFS
	d    *disk
	name string
}

func (f *faultFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.fs.try("write", f.name); err != nil {
		return 0, &os.PathError{Op: "write", Path: f.name, Err: err}
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	for s := off / sector * sector; s < off+int64(len(b)); s += sector {
		if _, ok := f.d.old[s]; !ok {
			old := make([]byte, sector)
			_, _ = f.OSFile.ReadAt(old, s)
			f.d.old[s] = old
		}
	}
	return f.OSFile.WriteAt(b, off)
}

func (f *faultFile) Sync() error {
	if err := f.fs.try("sync", f.name); err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.name, Err: err}
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	clear(f.d.old)
	return nil
}

// stillClock never fires: flushes and seals happen when the test says so.
type stillClock struct{ t time.Time }

func (c stillClock) Now() time.Time                       { return c.t }
func (c stillClock) After(time.Duration) <-chan time.Time { return nil }
