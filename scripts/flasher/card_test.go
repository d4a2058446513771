package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const cardBytes = 80 * mib

// card is a laptop with dev in its reader.
func card(t *testing.T, dev *memDevice) (func(*world), *laptop) {
	if dev.b == nil {
		dev.b = bytes.Repeat([]byte{0xa5}, cardBytes)
	}
	l := newLaptop(t)
	l.write("sys/block/sdb/size", fmt.Sprintln(len(dev.b)/sector))
	return func(w *world) {
		w.host = l.host()
		w.open = func(path string) (Device, error) {
			if path != "/dev/sdb" {
				return nil, fmt.Errorf("opened %s", path)
			}
			dev.opened = true
			return dev, nil
		}
	}, l
}

func TestCard(t *testing.T) {
	img := makeImage(t)
	want, _ := os.ReadFile(img)
	dev := &memDevice{}
	fix, _ := card(t, dev)
	code, out, errs := runFlash(t, func(w *world) { fix(w); w.stdin = strings.NewReader("sdb\n") }, img, "/dev/sdb")
	if code != 0 {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	for _, line := range []string{
		"to        /dev/sdb        83.9 MB  Generic SD/MMC, serial 000000000820 (usb, removable)\n",
		"          now holds sdb1  1.0 MB  vfat bootfs\n",
		fmt.Sprintf("verified  60.8 MB read back, SHA-256 %x\n", sha256.Sum256(want)),
		"done      /dev/sdb is ready: take it out\n",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("output lacks %q:\n%s", line, out)
		}
	}
	if !bytes.Equal(dev.b[:len(want)], want) {
		t.Error("the card does not hold the image")
	}
	// A backup GPT of the card's past is gone, the rest is left alone.
	if !bytes.Equal(dev.b[len(dev.b)-headSize:], make([]byte, headSize)) || dev.b[len(want)] != 0xa5 {
		t.Error("the card's end: want 1 MiB of zeros, and nothing else touched")
	}
}

func TestNotAsked(t *testing.T) {
	img := makeImage(t)
	for name, answer := range map[string]string{"other name": "sda\n", "yes": "y\n", "nothing": "", "empty": "\n"} {
		t.Run(name, func(t *testing.T) {
			dev := &memDevice{}
			fix, _ := card(t, dev)
			code, out, errs := runFlash(t, func(w *world) { fix(w); w.stdin = strings.NewReader(answer) }, img, "/dev/sdb")
			if code != 1 || !strings.Contains(errs, "nothing was written") || dev.opened {
				t.Errorf("code %d, opened %v\n%s%s", code, dev.opened, out, errs)
			}
		})
	}
	dev := &memDevice{}
	fix, _ := card(t, dev)
	if code, out, _ := runFlash(t, fix, img, "/dev/sdb", "--dry-run", "--hostname", "gw"); code != 0 || dev.opened || !strings.Contains(out, "dry run: nothing was written") {
		t.Errorf("dry run: code %d, opened %v\n%s", code, dev.opened, out)
	}
}

// TestCardChangedWhileAsked puts another card in, or mounts it, before the answer comes.
func TestCardChangedWhileAsked(t *testing.T) {
	img := makeImage(t)
	for name, c := range map[string]struct {
		change func(l *laptop)
		want   string
	}{
		"other card": {func(l *laptop) { l.write("sys/block/sdb/diskseq", "8\n") }, "another card than a moment ago"},
		"mounted":    {func(l *laptop) { l.write("mountinfo", "1 1 8:17 / /media/x rw - vfat /dev/sdb1 rw\n") }, "sdb1 is mounted at /media/x"},
		"pulled":     {func(l *laptop) { l.write("sys/block/sdb/size", "0\n") }, "no card in the reader"},
	} {
		t.Run(name, func(t *testing.T) {
			dev := &memDevice{}
			fix, l := card(t, dev)
			code, out, errs := runFlash(t, func(w *world) {
				fix(w)
				w.stdin = readerFunc(func(p []byte) (int, error) { c.change(l); return copy(p, "sdb\n"), nil })
			}, img, "/dev/sdb")
			if code != 1 || !strings.Contains(errs, c.want) || dev.opened {
				t.Errorf("code %d, opened %v\n%s%s", code, dev.opened, out, errs)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// noTable fails if the card looks bootable.
func noTable(t *testing.T, b []byte) {
	t.Helper()
	if _, _, err := readTable(b[:headSize]); err == nil {
		t.Error("an unfinished card has a partition table")
	}
	if !bytes.Equal(b[:blockSize], make([]byte, blockSize)) {
		t.Error("an unfinished card's first block is not zero")
	}
}

// TestPulled pulls the card after so many bytes: in the head, the stream, the edits, and the
// head's last write, which is found by counting.
func TestPulled(t *testing.T) {
	img := makeImage(t)
	before, _ := os.ReadFile(img)
	args := []string{img, "/dev/sdb", "--yes", "--hostname", "gw-1", "--enable", "spi"}
	whole := &memDevice{}
	fix, _ := card(t, whole)
	if code, out, errs := runFlash(t, fix, args...); code != 0 {
		t.Fatalf("code %d\n%s%s", code, out, errs)
	}
	total := whole.written
	for _, at := range []int64{1, headSize, 3 * headSize, 40 * mib, int64(len(before)) + 1<<20, total - headSize - 1, total - headSize, total - blockSize - 1, total - blockSize} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			dev := &memDevice{failAt: at}
			fix, _ := card(t, dev)
			code, out, errs := runFlash(t, fix, args...)
			if code != 1 || strings.Contains(out, "is ready") || strings.Contains(out, "done      ") {
				t.Errorf("code %d\n%s", code, out)
			}
			if !strings.Contains(errs, "no such device or address") || !strings.Contains(errs, "/dev/sdb cannot be used as it is: write it again, or take another card; "+img+" was not touched") {
				t.Errorf("message: %s", errs)
			}
			if at >= headSize {
				noTable(t, dev.b)
			}
		})
	}
	after, _ := os.ReadFile(img)
	if !bytes.Equal(before, after) {
		t.Error("the image was changed")
	}
}

// TestStopped presses Ctrl-C in the middle of each stage.
func TestStopped(t *testing.T) {
	img := makeImage(t)
	for _, at := range []int64{0, headSize, 30 * mib} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			dev := &memDevice{onWrite: func(off int64) {
				if off >= at {
					cancel()
				}
			}}
			fix, _ := card(t, dev)
			code, out, errs := runFlashCtx(t, ctx, fix, img, "/dev/sdb", "--yes", "--hostname", "gw-1")
			if code != 1 || strings.Contains(out, "is ready") || !strings.HasPrefix(errs, "stopped: /dev/sdb cannot be used as it is") {
				t.Errorf("code %d\n%s%s", code, out, errs)
			}
			noTable(t, dev.b)
		})
	}
	t.Run("before the first write", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		dev := &memDevice{}
		fix, _ := card(t, dev)
		block := make(chan struct{})
		defer close(block)
		code, _, errs := runFlashCtx(t, ctx, func(w *world) {
			fix(w)
			w.stdin = readerFunc(func([]byte) (int, error) { cancel(); <-block; return 0, os.ErrClosed })
		}, img, "/dev/sdb")
		if code != 1 || errs != "stopped; nothing was written\n" || dev.opened {
			t.Errorf("code %d, opened %v: %s", code, dev.opened, errs)
		}
	})
}

// TestBadMedium has a card that stores something else than it was given.
func TestBadMedium(t *testing.T) {
	img := makeImage(t)
	for name, at := range map[string]int64{"image": 50*mib + 17, "first block": 440, "head": 8192, "edited": bootAt + 3} {
		t.Run(name, func(t *testing.T) {
			dev := &memDevice{}
			dev.spoil = func(off int64, p []byte) {
				if i := at - off; i >= 0 && i < int64(len(p)) {
					p[i] ^= 1
				}
			}
			fix, _ := card(t, dev)
			code, out, errs := runFlash(t, fix, img, "/dev/sdb", "--yes", "--enable", "spi")
			if code != 1 || strings.Contains(out, "is ready") || !strings.Contains(errs, "differs from what was written") {
				t.Errorf("code %d\n%s%s", code, out, errs)
			}
			if name != "first block" { // that one does not even keep the zeros
				noTable(t, dev.b)
			}
		})
	}
}

// TestLoop writes a real block device, reads its partitions through the kernel, and has one
// that fails in the middle: its backing file system is full.
func TestLoop(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	losetup := need(t, "losetup", "mount")
	img := makeImage(t)
	attach := func(t *testing.T, file string) string {
		t.Helper()
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, cardBytes); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(losetup, "--find", "--show", "--partscan", file)
		out, err := c.Output()
		if err != nil {
			t.Skipf("no loop device here (%v)", err)
		}
		dev := strings.TrimSpace(string(out))
		t.Cleanup(func() { exec.Command(losetup, "-d", dev).Run() })
		return dev
	}
	t.Run("whole", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "card")
		dev := attach(t, file)
		name := filepath.Base(dev)
		if code, _, errs := runFlash(t, nil, img, dev, "--yes"); code != 1 || !strings.Contains(errs, "a fixed disk (loop)") {
			t.Fatalf("code %d: %s", code, errs)
		}
		code, out, errs := runFlash(t, nil, img, dev, "--yes", "--force-fixed", name, "--hostname", "gw-1", "--enable", "i2c,uart")
		if code != 0 {
			t.Fatalf("code %d\n%s%s", code, out, errs)
		}
		checkClean(t, file)
		if got := bootFile(t, file, "cmdline.txt"); !strings.Contains(got, "systemd.run=/boot/firmware/homeward-first-boot.sh") {
			t.Errorf("cmdline.txt: %s", got)
		}
	})
	t.Run("held by another", func(t *testing.T) {
		dev := attach(t, filepath.Join(t.TempDir(), "card"))
		held, err := openBlock(dev)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		code, _, errs := runFlash(t, nil, img, dev, "--yes", "--force-fixed", filepath.Base(dev))
		if code != 1 || !strings.Contains(errs, "in use (mounted, or held by another program)") {
			t.Errorf("code %d: %s", code, errs)
		}
	})
	t.Run("fails in the middle", func(t *testing.T) {
		dir := t.TempDir()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", dir).CombinedOutput(); err != nil {
			t.Skipf("no tmpfs here: %s", out)
		}
		t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
		file := filepath.Join(dir, "card")
		dev := attach(t, file)
		code, out, errs := runFlash(t, nil, img, dev, "--yes", "--force-fixed", filepath.Base(dev))
		if code != 1 || strings.Contains(out, "is ready") || !strings.Contains(errs, dev+" cannot be used as it is: write it again") {
			t.Errorf("code %d\n%s%s", code, out, errs)
		}
		t.Log(errs)
		b := make([]byte, headSize)
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.ReadAt(b, 0)
		noTable(t, b)
	})
}
