package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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
