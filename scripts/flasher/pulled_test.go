package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	whole := insert(t, 0, 0) // for the count of what is written
	if code, out, errs := flash(whole.dev); code != 0 {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	checkClean(t, whole.medium)
	quiet(t, whole.dev)
	total, _ := whole.state()
	for name, at := range map[string]struct{ pull, read int64 }{
		"in the image":        {50 * mib, 0},
		"in the edited files": {total - headSize - blockSize, 0},
		"in the last block":   {total - 1, 0},
		"while read back":     {0, 30 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			s := insert(t, at.pull, at.read)
			dev := s.dev
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
			if _, gone := s.state(); !gone {
				t.Error("it was never pulled out")
			}
			quiet(t, dev)
			b := make([]byte, headSize)
			f, err := os.Open(s.medium)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			noTable(t, b)
			if name != "in the image" {
				return
			}
			// The same socket, another card.
			s.put(0, 0)
			if code, out, errs := flash(dev); code != 0 || !strings.Contains(out, dev+" is ready") {
				t.Fatalf("again: code %d\n%s%s", code, out, errs)
			}
			checkClean(t, s.medium)
		})
	}
}

// TestKilledWhileWriting kills TestPulledForReal in the middle of a write: it is gone, and so are its socket, mount and loop device.
func TestKilledWhileWriting(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	makeImage(t) // skips where its tools are missing
	insert(t, 0, 0)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	c := exec.Command(self, "-test.run", "^TestPulledForReal$")
	c.Env = append(os.Environ(), "TMPDIR="+tmp)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	wait := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				text, _ := os.ReadFile(out.Name())
				c.Process.Kill()
				t.Fatalf("%s: not within two minutes\n%s", what, text)
			}
		}
	}
	sockets := func() []string { s, _ := filepath.Glob(filepath.Join(tmp, "flasher-socket*")); return s }
	wait("a card being written", func() bool {
		for _, s := range sockets() {
			var st syscall.Stat_t
			if syscall.Stat(filepath.Join(s, "medium"), &st) == nil && st.Blocks*512 > 8*mib {
				return true
			}
		}
		return false
	})
	var devices []string
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range all {
		if b, _ := os.ReadFile(name); strings.Contains(string(b), tmp) {
			devices = append(devices, name)
		}
	}
	if len(devices) == 0 {
		t.Error("no loop device is seen")
	}
	c.Process.Kill()
	gone := make(chan error, 1)
	go func() { gone <- c.Wait() }()
	wait("its end", func() bool { return len(gone) > 0 })
	if err := <-gone; err == nil || err.Error() != "signal: killed" {
		t.Errorf("%v, want that it was killed in the middle", err)
	}
	wait("its socket's end", func() bool { return len(sockets()) == 0 })
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), tmp) {
		t.Errorf("left mounted: %v\n%s", err, mounts)
	}
	// losetup would wait for a device that is stuck; the kernel's list does not. udev may look at the device a moment longer.
	wait("its loop device's end", func() bool {
		return !slices.ContainsFunc(devices, func(name string) bool {
			b, _ := os.ReadFile(name)
			return strings.Contains(string(b), tmp) || string(b) == "/card\n" // its path, once its file system is unmounted
		})
	})
}
