package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// socket is a FUSE file system of one file, the medium below a loop device: it can be pulled out.
type socket struct {
	fs.Inode
	f *os.File

	mu      sync.Mutex
	pullAt  int64 // after so many bytes written; 0: never
	readAt  int64 // after so many read since the last write; 0: never
	written int64
	read    int64
	gone    bool
}

type socketFile struct {
	fs.Inode
	s *socket
}

func (s *socket) OnAdd(ctx context.Context) {
	s.AddChild("card", s.NewPersistentInode(ctx, &socketFile{s: s}, fs.StableAttr{Mode: syscall.S_IFREG}), false)
}

func (f *socketFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, cardBytes
	return 0
}

func (f *socketFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return f, fuse.FOPEN_DIRECT_IO, 0 // nothing of it stays in the kernel
}

func (f *socketFile) Read(_ context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.s.read += int64(len(p)); f.s.readAt > 0 && f.s.read > f.s.readAt {
		f.s.gone = true
	}
	if f.s.gone {
		return nil, syscall.EIO
	}
	n, _ := f.s.f.ReadAt(p, off)
	return fuse.ReadResultData(p[:n]), 0
}

func (f *socketFile) Write(_ context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.read = 0
	if f.s.written += int64(len(p)); f.s.pullAt > 0 && f.s.written > f.s.pullAt {
		f.s.gone = true
	}
	if f.s.gone {
		return 0, syscall.EIO
	}
	if _, err := f.s.f.WriteAt(p, off); err != nil {
		return 0, syscall.EIO
	}
	return uint32(len(p)), 0
}

func (f *socketFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.s.gone {
		return syscall.EIO
	}
	return 0
}

func (f *socketFile) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.ENOTSUP
}

// insert puts a card into a socket; dev is the block device that appears.
func insert(t *testing.T, pullAt int64) (s *socket, dev string) {
	t.Helper()
	losetup := need(t, "losetup", "mount")
	need(t, "fusermount3", "fuse3")
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse here")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "medium"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(cardBytes); err != nil {
		t.Fatal(err)
	}
	s = &socket{f: f, pullAt: pullAt}
	dir := t.TempDir()
	server, err := fs.Mount(dir, s, &fs.Options{MountOptions: fuse.MountOptions{FsName: "socket", DisableXAttrs: true, MaxWrite: 1 << 19}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(losetup, "--find", "--show", "--partscan", filepath.Join(dir, "card")).Output()
	if err != nil {
		server.Unmount()
		t.Skipf("no loop device here (%v)", err)
	}
	dev = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		exec.Command(losetup, "-d", dev).Run()
		exec.Command("umount", "-l", dir).Run()
		server.Wait()
		f.Close()
	})
	return s, dev
}

// TestPulledForReal takes the medium of a real block device away: from some write on, all that
// the kernel asks of it fails, as with a card pulled out of its reader. Nothing is left behind, and a new card is written well.
func TestPulledForReal(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	img := makeImage(t)
	flash := func(dev string) (int, string, string) {
		return runFlash(t, nil, img, dev, "--yes", "--force-fixed", filepath.Base(dev), "--hostname", "gw-1", "--enable", "spi")
	}
	quiet := func(t *testing.T, dev string) {
		t.Helper()
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), dev) {
			t.Errorf("%s is mounted: %v", dev, err)
		}
		// Nobody holds it: it can be had again, if only to say that it is gone.
		f, err := os.OpenFile(dev, os.O_RDONLY|syscall.O_EXCL, 0)
		if err != nil {
			t.Errorf("%s is held: %v", dev, err)
			return
		}
		f.Close()
	}
	whole, dev := insert(t, 0) // for the count of what is written
	if code, out, errs := flash(dev); code != 0 {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	checkClean(t, whole.f.Name())
	quiet(t, dev)
	total := whole.written
	for name, at := range map[string]int64{
		"in the image":        50 * mib,
		"in the edited files": total - headSize - blockSize,
		"in the last block":   total - 1,
		"while read back":     0,
	} {
		t.Run(name, func(t *testing.T) {
			s, dev := insert(t, at)
			if at == 0 {
				s.readAt = 60 * mib
			}
			code, out, errs := flash(dev)
			if code != 1 || strings.Contains(out, "is ready") || strings.Contains(out, "done      ") {
				t.Errorf("code %d\n%s", code, out)
			}
			want := "input/output error (pulled out? otherwise the card or its reader is bad): " + dev +
				" cannot be used as it is: write it again, or take another card; " + img + " was not touched\n"
			if strings.Count(errs, "\n") != 1 || !strings.HasSuffix(errs, want) {
				t.Errorf("message:\n%swant one line that ends with\n%s", errs, want)
			}
			t.Log(errs)
			if !s.gone {
				t.Error("it was never pulled out")
			}
			quiet(t, dev)
			b := make([]byte, headSize)
			if _, err := s.f.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			noTable(t, b)
			if name != "in the image" {
				return
			}
			// The same socket, another card.
			s.mu.Lock()
			s.gone, s.pullAt, s.readAt = false, 0, 0
			s.mu.Unlock()
			if code, out, errs := flash(dev); code != 0 || !strings.Contains(out, dev+" is ready") {
				t.Fatalf("again: code %d\n%s%s", code, out, errs)
			}
			checkClean(t, s.f.Name())
		})
	}
}
