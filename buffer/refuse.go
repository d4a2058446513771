package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	bolterr "go.etcd.io/bbolt/errors"
)

// errNotFile: something else has the name of one of the buffer's files.
var errNotFile = errors.New("not a file")

// noFault says that an error is not the file's fault: the system lacks something, or keeps the process from the file. What is in it
// may be sound, so that it is never set aside for that. EIO is not among them: that is how a medium says that it has lost something.
func noFault(err error) bool {
	if transient(err) {
		return true
	}
	for _, t := range []error{errNotFile, syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ELOOP, syscall.ENOTDIR, syscall.EISDIR,
		syscall.ENAMETOOLONG, syscall.ENXIO, syscall.ENODEV, syscall.EBUSY, syscall.ETXTBSY, syscall.EINTR, syscall.ENOLCK, syscall.ESTALE, syscall.ETIMEDOUT} {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// openFile opens a file of the folder. A named pipe there would keep whoever opens it waiting for ever.
func (b *Buffer) openFile(name string, flag int, perm os.FileMode) (File, error) {
	if err := b.regular(name); err != nil {
		return nil, err
	}
	return b.fs.OpenFile(b.path(name), flag, perm)
}

// regular says what is wrong with a name that something other than a file has. That nothing has it is no error.
func (b *Buffer) regular(name string) error {
	info, err := b.fs.Stat(b.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: b.path(name), Err: fmt.Errorf("%w but %s", errNotFile, kind(info.Mode()))}
	}
	return err
}

func kind(m os.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&os.ModeNamedPipe != 0:
		return "a named pipe"
	case m&os.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// admit opens each of the buffer's files once, before anything is changed: what cannot be opened for a reason that is no fault of the file
// is an error, for otherwise sound readings would be taken for lost. A few stay open meanwhile, as they will later.
func (b *Buffer) admit(entries []os.DirEntry) error {
	flag := openRW
	if b.readOnly {
		flag = openRO
	}
	var held []File
	defer func() {
		for _, f := range held {
			_ = f.Close() // nothing was written
		}
	}()
	for _, e := range entries {
		name := e.Name()
		base := strings.TrimSuffix(name, suffixSalvage)
		if _, ok := segmentID(base); !ok && base != logName && base != metaName {
			continue
		}
		f, err := b.openFile(name, flag, 0)
		if errors.Is(err, fs.ErrNotExist) && e.Type()&os.ModeSymlink != 0 {
			return fmt.Errorf("buffer: %w; nothing was changed: it is a symbolic link to what is not there, mount or restore that", err)
		}
		if err == nil {
			if held = append(held, f); len(held) > maxOpen+3 {
				_ = held[0].Close() // nothing was written
				held = held[1:]
			}
		} else if noFault(err) {
			return b.refuse(name, err)
		}
	}
	return nil
}

// refuse makes the error of a start that cannot be: it names the file, its owner and what helps.
func (b *Buffer) refuse(name string, err error) error {
	help := "mend that and start again"
	switch {
	case errors.Is(err, errNotFile):
		help = "move it away"
	case errors.Is(err, syscall.EMFILE):
		help = "this process may not have more files open: raise LimitNOFILE= in its unit (ulimit -n)"
	case errors.Is(err, syscall.ENFILE):
		help = "the system may not have more files open: raise fs.file-max, or stop what holds so many"
	case errors.Is(err, syscall.ENOMEM):
		help = "free memory, or raise MemoryMax= in its unit"
	case errors.Is(err, syscall.EROFS):
		help = "mount its file system for writing"
	case errors.Is(err, bolterr.ErrTimeout):
		err, help = fmt.Errorf("open %s: %w", b.path(name), err), "another process has it locked: stop that"
	case errors.Is(err, fs.ErrPermission):
		help = b.ownership(name, err)
	}
	return fmt.Errorf("buffer: %w; nothing was changed: %s", err, help)
}

// ownership says whose a file is, and how it comes to belong to who runs this.
func (b *Buffer) ownership(name string, err error) string {
	path, me := b.path(name), os.Geteuid()
	info, serr := b.fs.Stat(path)
	if serr != nil {
		return fmt.Sprintf("this runs as %s, and may not look into the folder: chown -R %d %s", account(me), me, b.dir)
	}
	owner := -1
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(st.Uid)
	}
	whose := fmt.Sprintf("it belongs to %s (mode %#o) and this runs as %s", account(owner), info.Mode().Perm(), account(me))
	switch {
	case b.readOnly:
		return whose + ": run this as root or as the owner"
	case errors.Is(err, syscall.EPERM):
		return fmt.Sprintf("%s; it may be immutable: chattr -i -a %s", whose, path)
	case owner == me:
		return fmt.Sprintf("%s: chmod u+rw %s", whose, path)
	}
	return fmt.Sprintf("%s: chown %d %s", whose, me, path)
}

func account(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", uid)
}
