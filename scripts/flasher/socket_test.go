package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// A socket is a card's reader: a loop device whose medium is a file on a FUSE file system, so that it can be pulled out.
// Another process serves it, this program started again with socketEnv: a process that serves what it writes to itself
// cannot be killed in the middle of a write, and would take the machine's loop devices with it. When the test ends, however
// it ends, the server reads the end of its standard input, fails what is still asked of it, and takes everything down.

const socketEnv = "FLASHER_TEST_SOCKET"

// socket is the test's end.
type socket struct {
	t      *testing.T
	dev    string // the block device
	medium string // what the card holds
	in     io.WriteCloser
	out    *bufio.Reader
}

// insert puts a card into a socket. It is pulled out after pullAt bytes written, or readAt read since the last write; 0: never.
func insert(t *testing.T, pullAt, readAt int64) *socket {
	t.Helper()
	need(t, "losetup", "mount")
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse here")
	}
	need(t, "fusermount3", "fuse3")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), socketEnv+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the test; the server follows it
	var errs strings.Builder
	c.Stderr = &errs
	s := &socket{t: t}
	if s.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.in.Close()
		io.Copy(io.Discard, s.out)
		if err := c.Wait(); err != nil {
			t.Errorf("the socket: %v\n%s", err, errs.String())
			if s.dev != "" { // killed: nobody else takes it down
				exec.Command("losetup", "-d", s.dev).Run()
				exec.Command("umount", "-l", filepath.Join(filepath.Dir(s.medium), "mount")).Run()
				os.RemoveAll(filepath.Dir(s.medium))
			}
		}
	})
	hello, _ := s.out.ReadString('\n')
	if why, ok := strings.CutPrefix(hello, "skip "); ok {
		t.Skip(why)
	}
	if n, err := fmt.Sscanf(hello, "ready %s %s\n", &s.dev, &s.medium); n != 2 {
		t.Fatalf("the socket says %q: %v", hello, err)
	}
	s.put(pullAt, readAt)
	return s
}

// put has another card put in, which is pulled out in its turn.
func (s *socket) put(pullAt, readAt int64) {
	s.t.Helper()
	s.ask("put %d %d", pullAt, readAt)
}

// state is how much was written to the card, and whether it was pulled out.
func (s *socket) state() (written int64, gone bool) {
	s.t.Helper()
	answer := s.ask("state")
	if n, err := fmt.Sscanf(answer, "%d %t", &written, &gone); n != 2 {
		s.t.Fatalf("the socket says %q: %v", answer, err)
	}
	return written, gone
}

func (s *socket) ask(format string, args ...any) string {
	s.t.Helper()
	if _, err := fmt.Fprintf(s.in, format+"\n", args...); err != nil {
		s.t.Fatalf("the socket: %v", err)
	}
	answer, err := s.out.ReadString('\n')
	if err != nil {
		s.t.Fatalf("the socket: %v", err)
	}
	return answer
}

// serveSocket is the other process: it serves until its standard input ends.
func serveSocket() (err error) {
	// With the test its pipes may be gone; that ends the serving, not this process.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	work, err := os.MkdirTemp("", "flasher-socket")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	name, dir := filepath.Join(work, "medium"), filepath.Join(work, "mount")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(cardBytes); err != nil {
		return err
	}
	r := &reader{f: f}
	if _, err := fs.Mount(dir, r, &fs.Options{MountOptions: fuse.MountOptions{FsName: "socket", DisableXAttrs: true, MaxWrite: 1 << 19}}); err != nil {
		return err
	}
	// The folder's inode is removed only when nothing is mounted on it any more; what is left of the connection this process's end aborts.
	defer exec.Command("umount", "-l", dir).Run()
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	out, err := exec.Command("losetup", "--find", "--show", "--partscan", filepath.Join(dir, "card")).Output()
	if err != nil {
		fmt.Printf("skip no loop device here (%v)\n", err)
		return nil
	}
	dev := strings.TrimSpace(string(out))
	fmt.Println("ready", dev, name)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var pullAt, readAt int64
		if n, _ := fmt.Sscanf(lines.Text(), "put %d %d", &pullAt, &readAt); n == 2 {
			r.mu.Lock()
			r.gone, r.pullAt, r.readAt, r.written, r.read = false, pullAt, readAt, 0, 0
			r.mu.Unlock()
			fmt.Println("ok")
			continue
		}
		r.mu.Lock()
		fmt.Println(r.written, r.gone)
		r.mu.Unlock()
	}
	// What is still asked of the card fails from now on; so the device is let go of, whoever had it.
	r.mu.Lock()
	r.gone = true
	r.mu.Unlock()
	abort := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", st.Sys().(*syscall.Stat_t).Dev) // where that is mounted
	os.WriteFile(abort, []byte("1"), 0)
	return exec.Command("losetup", "-d", dev).Run()
}

// reader is the file system: one file, the medium.
type reader struct {
	fs.Inode
	f *os.File

	mu      sync.Mutex
	pullAt  int64
	readAt  int64
	written int64
	read    int64
	gone    bool
}

type readerCard struct {
	fs.Inode
	r *reader
}

func (r *reader) OnAdd(ctx context.Context) {
	r.AddChild("card", r.NewPersistentInode(ctx, &readerCard{r: r}, fs.StableAttr{Mode: syscall.S_IFREG}), false)
}

func (c *readerCard) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, cardBytes
	return 0
}

func (c *readerCard) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return c, fuse.FOPEN_DIRECT_IO, 0 // nothing of it stays in the kernel
}

func (c *readerCard) Read(_ context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.read += int64(len(p)); c.r.readAt > 0 && c.r.read > c.r.readAt {
		c.r.gone = true
	}
	if c.r.gone {
		return nil, syscall.EIO
	}
	n, _ := c.r.f.ReadAt(p, off)
	return fuse.ReadResultData(p[:n]), 0
}

func (c *readerCard) Write(_ context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.read = 0
	if c.r.written += int64(len(p)); c.r.pullAt > 0 && c.r.written > c.r.pullAt {
		c.r.gone = true
	}
	if c.r.gone {
		return 0, syscall.EIO
	}
	if _, err := c.r.f.WriteAt(p, off); err != nil {
		return 0, syscall.EIO
	}
	return uint32(len(p)), 0
}

func (c *readerCard) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.gone {
		return syscall.EIO
	}
	return 0
}

func (c *readerCard) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.ENOTSUP
}
