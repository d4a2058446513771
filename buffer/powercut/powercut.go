//go:build linux && (amd64 || arm64)

package powercut

import (
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const aloneEnv = "HOMEWARD_POWERCUT_ALONE" // set in a process with a mount namespace of its own

// Main must be called first in TestMain (or main) of a program that uses the
// rig. In a process that was started to be a disk it does not return. Otherwise
// it restarts the program in a mount namespace of its own, so that no mount
// can outlive it; without the right to do so it returns and [Missing] says why.
func Main() {
	if s := os.Getenv(serveEnv); s != "" {
		if s == "0" { // canRestart asks
			os.Exit(0)
		}
		size, err := strconv.ParseInt(s, 10, 64)
		if err == nil {
			err = serve(size)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(aloneEnv) != "" || Missing() != "" {
		return
	}
	runtime.LockOSThread() // exec takes over this thread's namespace
	defer runtime.UnlockOSThread()
	if unix.Unshare(unix.CLONE_NEWNS) != nil || unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil {
		return
	}
	err := os.Setenv(aloneEnv, "1")
	if err == nil {
		err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "powercut: restart in an own mount namespace:", err)
	os.Exit(1)
}

// Missing says in one line what the rig needs and does not have here; "" if nothing.
func Missing() string {
	switch {
	case os.Geteuid() != 0:
		return "the power-cut rig needs root"
	case unix.Access("/dev/fuse", unix.R_OK|unix.W_OK) != nil:
		return "the power-cut rig needs /dev/fuse"
	case unix.Access("/dev/loop-control", unix.R_OK|unix.W_OK) != nil:
		return "the power-cut rig needs /dev/loop-control"
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		return "the power-cut rig needs mkfs.ext4"
	}
	if err := canRestart(); err != nil {
		return "the power-cut rig must be able to start its own program, which an emulated one is not: " + err.Error()
	}
	return ""
}

// canRestart starts the program once more, to end at once in Main.
var canRestart = sync.OnceValue(func() error {
	if os.Getenv(serveEnv) != "" { // a program that did not call Main
		return errors.New("it does not call powercut.Main first")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"=0")
	return cmd.Run()
})

// Size of a disk in bytes: large enough for mkfs.ext4 to choose blocks of 4 KB.
// Memory is taken for what is written only.
const Size = 640 << 20

// Disk is a running disk, and ext4 on it. Its methods are not for concurrent
// use, except Cut, Arm, Dark, Off and Counts.
type Disk struct {
	dir     string
	proc    *exec.Cmd
	rpc     *rpc.Client
	fuseDir string
	fuse    bool   // mounted
	loop    string // of the mount; "" when not mounted
}

// New starts a disk with an empty ext4 and mounts it. It works below dir, an
// empty folder, until Close.
func New(dir string) (*Disk, error) {
	d := &Disk{dir: dir, fuseDir: filepath.Join(dir, "fuse")}
	if err := d.start(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Disk) start() error {
	for _, p := range []string{d.fuseDir, d.Path()} {
		if err := os.Mkdir(p, 0o700); err != nil {
			return fmt.Errorf("powercut: %w", err)
		}
	}
	if err := d.serve(); err != nil {
		return fmt.Errorf("powercut: start the disk: %w", err)
	}
	return d.attach(func(loop string) error {
		return run("mkfs.ext4", "-q", loop)
	})
}

// starting: no mount may go while a new disk's process still holds its copy of
// it (see detachRigs).
var starting sync.Mutex

// serve mounts the FUSE file system and starts its process.
func (d *Disk) serve() error {
	starting.Lock()
	defer starting.Unlock()
	conn, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer conn.Close() // the process alone keeps it, so that the connection ends with it
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%d", conn.Fd(), maxWrite)
	if err := unix.Mount("homeward-powercut", d.fuseDir, fuseType, unix.MS_NODEV|unix.MS_NOSUID, opts); err != nil {
		return fmt.Errorf("mount a FUSE file system at %s: %w", d.fuseDir, err)
	}
	d.fuse = true
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+strconv.Itoa(Size))
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{conn}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:      true, // an interrupt is for the test; the disk ends by its pipe
		Unshareflags: unix.CLONE_NEWNS,
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.proc, d.rpc = cmd, rpc.NewClient(stdio{out, in})
	_, err = d.Counts() // it answers once it serves
	return err
}

// Path is where the file system is mounted.
func (d *Disk) Path() string { return filepath.Join(d.dir, "mnt") }

// Loop is the name of the block device, e.g. loop0.
func (d *Disk) Loop() string { return filepath.Base(d.loop) }

// attach makes a loop device over the disk, prepares it if asked to, and mounts it.
func (d *Disk) attach(prepare func(loop string) error) error {
	loop, err := attachLoop(filepath.Join(d.fuseDir, diskName))
	if err != nil {
		return fmt.Errorf("powercut: attach a loop device: %w", err)
	}
	defer loop.Close() // the mount keeps it; the last one to let go of it detaches it
	if prepare != nil {
		if err := prepare(loop.Name()); err != nil {
			return err
		}
	}
	// noinit_itable: no zeroing of inode tables in the background, as on a file system that is a few minutes old.
	if err := unix.Mount(loop.Name(), d.Path(), "ext4", unix.MS_NOATIME, "noinit_itable"); err != nil {
		return fmt.Errorf("powercut: mount %s: %w", loop.Name(), err)
	}
	d.loop = loop.Name()
	return nil
}

// attachLoop returns a loop device over the file that detaches itself when nobody has it open.
func attachLoop(path string) (*os.File, error) {
	back, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close() // the loop device holds its own reference
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	for range 100 {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("LOOP_CTL_GET_FREE: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd:   uint32(back.Fd()),
			Size: Sector,
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was faster
			return nil, fmt.Errorf("LOOP_CONFIGURE %s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("no free loop device in 100 tries")
}

// Arm plans a cut at a coming request; it replaces an earlier plan.
func (d *Disk) Arm(cut Cut) error {
	if cut.After < 1 {
		return fmt.Errorf("powercut: cut at request %d: want 1 or more", cut.After)
	}
	return d.rpc.Call("Disk.Arm", cut, &struct{}{})
}

// Cut cuts the power now. If it is off, nothing happens.
func (d *Disk) Cut(cut Cut) error { return d.rpc.Call("Disk.Cut", cut, &struct{}{}) }

// Dark is closed when the power is off, or the disk closed.
func (d *Disk) Dark() <-chan struct{} {
	done := make(chan struct{})
	call := d.rpc.Go("Disk.Dark", struct{}{}, &struct{}{}, make(chan *rpc.Call, 1))
	go func() { // ends with the disk
		<-call.Done
		close(done)
	}()
	return done
}

// Off tells whether the power is off.
func (d *Disk) Off() (off bool, err error) {
	err = d.rpc.Call("Disk.Off", struct{}{}, &off)
	return off, err
}

// Counts tells what arrived at the disk since New began, mkfs included.
func (d *Disk) Counts() (n Counts, err error) {
	err = d.rpc.Call("Disk.Counts", struct{}{}, &n)
	return n, err
}

// Unmount takes the file system down: with the power on in good order, with the
// power off without a write. Whoever has files open there must have ended.
func (d *Disk) Unmount() error {
	if d.loop == "" {
		return nil
	}
	starting.Lock()
	defer starting.Unlock()
	var err error
	for range 500 { // a killed process lets go of its files a moment later
		if err = unix.Unmount(d.Path(), 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("powercut: unmount %s: %w", d.Path(), err), unix.Unmount(d.Path(), unix.MNT_DETACH))
	}
	d.loop = ""
	return err
}

// Mount brings the disk up again after Unmount; ext4 replays its journal.
func (d *Disk) Mount() error { return d.attach(nil) }

// Check runs e2fsck, which must find nothing, on the unmounted file system.
func (d *Disk) Check() error {
	return run("e2fsck", "-f", "-n", filepath.Join(d.fuseDir, diskName))
}

// Close unmounts, detaches and ends everything. Closing twice is harmless.
func (d *Disk) Close() error {
	err := d.Unmount()
	if d.rpc != nil {
		err = errors.Join(err, d.rpc.Close())
		d.rpc = nil
	}
	if d.proc != nil {
		err = errors.Join(err, d.proc.Wait())
		d.proc = nil
	}
	if d.fuse {
		err = errors.Join(err, unix.Unmount(d.fuseDir, unix.MNT_DETACH))
		d.fuse = false
	}
	return err
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("powercut: %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
