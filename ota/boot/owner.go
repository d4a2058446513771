package boot

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"homeward/buffer/durable"
)

// heir gives what root makes to the owner of the folder: the service, which is not root, has to read and write it afterwards.
type heir struct{ durable.FS }

func (h heir) OpenFile(name string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := h.FS.OpenFile(name, flag, perm)
	if err != nil || flag&os.O_EXCL == 0 { // what was there before keeps its owner
		return f, err
	}
	if err := h.inherit(f, filepath.Dir(name)); err != nil {
		_ = f.Close() // the first error is the one to tell
		return nil, err
	}
	return f, nil
}

// inherit gives the open file or folder f the owner and group of dir. Nobody but root has to, or can.
func (h heir) inherit(f durable.File, dir string) error {
	own, ok := f.(interface{ Chown(uid, gid int) error })
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	info, err := h.FS.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return nil
	}
	if err := own.Chown(int(st.Uid), int(st.Gid)); !errors.Is(err, os.ErrPermission) { // a root that may not, or a file system without owners
		return err
	}
	return nil
}

// open opens a small file for writing, and makes it where it is not. A link is not followed: root may be the one who writes in a folder
// that is somebody else's.
func (s *Store) open(name string, flag int) (f durable.File, err error) {
	for range 3 { // between the two another process may make or remove it
		f, err = s.FS.OpenFile(s.path(name), flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
		f, err = heir{s.FS}.OpenFile(s.path(name), flag|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
	return f, err
}

// makeDir makes the folder, if it is not there.
func (s *Store) makeDir() error {
	_, err := s.FS.Stat(s.Dir)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.FS.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	if _, real := s.FS.(durable.OS); !real {
		return nil
	}
	d, err := s.FS.OpenFile(s.Dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(heir{s.FS}.inherit(d, filepath.Dir(s.Dir)), d.Close())
}
