//go:build linux && (amd64 || arm64)

package powercut

import (
	"context"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	serveEnv = "HOMEWARD_POWERCUT_SERVE" // the size in bytes, in the process that is the disk
	diskName = "disk"                    // of the one file there
	fuseType = "fuse.powercut"
	maxWrite = 1 << 20
)

// disk is the FUSE file system and, under the name Disk, the RPC service.
type disk struct {
	fs.Inode
	size int64

	mu   sync.Mutex // guards what follows
	c    *cache
	dark chan struct{} // closed when the power goes
}

// device is the one file, as the kernel names it.
type device struct {
	fs.Inode
	d *disk
}

// handle is the disk as opened between two cuts.
type handle struct {
	d   *disk
	gen int
}

func (d *disk) OnAdd(ctx context.Context) {
	d.AddChild(diskName, d.NewPersistentInode(ctx, &device{d: d}, fs.StableAttr{Mode: syscall.S_IFREG}), false)
}

func (f *device) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, uint64(f.d.size)
	return 0
}

func (f *device) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.c.off {
		f.d.dark = make(chan struct{})
	}
	return &handle{f.d, f.d.c.open()}, fuse.FOPEN_DIRECT_IO, 0 // no page cache that would outlive a cut
}

func (h *handle) Read(_ context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	n, errno := h.d.c.read(h.gen, p, off)
	return fuse.ReadResultData(p[:n]), errno
}

func (h *handle) Write(_ context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if errno := h.d.c.write(h.gen, p, off); errno != 0 {
		return 0, errno
	}
	return uint32(len(p)), 0
}

// Fsync is the loop device's FLUSH.
func (h *handle) Fsync(context.Context, uint32) syscall.Errno {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return h.d.c.flush(h.gen)
}

// Allocate refuses discards; ext4 then writes its zeros.
func (h *handle) Allocate(context.Context, uint64, uint64, uint32) syscall.Errno {
	return syscall.ENOTSUP
}

// service is the disk's switchboard, for net/rpc.
type service struct{ d *disk }

// Arm plans a cut.
func (s service) Arm(cut Cut, _ *struct{}) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.c.armed = cut
	return nil
}

// Cut cuts now, if the power is on.
func (s service) Cut(cut Cut, _ *struct{}) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.c.lose(cut)
	return nil
}

// Dark returns when the power is off.
func (s service) Dark(struct{}, *struct{}) error {
	s.d.mu.Lock()
	dark := s.d.dark
	s.d.mu.Unlock()
	<-dark
	return nil
}

// Off tells whether the power is off.
func (s service) Off(_ struct{}, off *bool) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	*off = s.d.c.off
	return nil
}

// Counts tells what has arrived.
func (s service) Counts(_ struct{}, n *Counts) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	*n = s.d.c.n
	return nil
}

// stdio joins the two pipes to the process that made this one.
type stdio struct {
	io.Reader
	io.WriteCloser
}

// untilEnd closes gone when the reader has no more to give.
type untilEnd struct {
	io.Reader
	gone chan struct{}
}

func (r untilEnd) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		close(r.gone)
	}
	return n, err
}

// serve is the process that is the disk. It ends when its maker does. The FUSE
// connection is file 3.
//
// It runs in a mount namespace without any of the maker's mounts: if this were
// the last process to hold the ext4 above its own disk, its exit would unmount
// it and wait for itself for ever.
func serve(size int64) error {
	if err := detachRigs(); err != nil {
		return err
	}
	d := &disk{size: size, dark: make(chan struct{})}
	d.c = newCache(size, func() { close(d.dark) })
	server, err := fs.Mount("/dev/fd/3", d, &fs.Options{MountOptions: fuse.MountOptions{
		DisableXAttrs: true,
		MaxWrite:      maxWrite,
	}})
	if err != nil {
		return fmt.Errorf("powercut: serve the FUSE connection: %w", err)
	}
	r := rpc.NewServer()
	if err := r.RegisterName("Disk", service{d}); err != nil {
		return err
	}
	gone := make(chan struct{})
	go r.ServeConn(stdio{untilEnd{os.Stdin, gone}, os.Stdout}) // it would wait for calls that wait for a cut
	<-gone
	runtime.KeepAlive(server)
	return nil
}

// detachRigs takes the mounts of this rig out of a namespace.
func detachRigs() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("powercut: %w", err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		f := strings.Fields(line) // device, mount point, type, …
		if len(f) < 3 || f[2] != fuseType && !(f[2] == "ext4" && strings.HasPrefix(f[0], "/dev/loop")) {
			continue
		}
		if err := unix.Unmount(f[1], unix.MNT_DETACH); err != nil {
			return fmt.Errorf("powercut: detach %s: %w", f[1], err)
		}
	}
	return nil
}
