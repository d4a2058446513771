package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBomb has a file of some kilobytes that would fill any disk: the image, and behind it the
// same packed zeros again and again.
func TestBomb(t *testing.T) {
	xz := need(t, "xz", "xz-utils")
	img := makeImage(t)
	dir := t.TempDir()
	bomb := filepath.Join(dir, "bomb.img.xz")
	run(t, "", "sh", "-c", fmt.Sprintf("%s -0 -c <%s >%s; head -c 16M /dev/zero | %s -9 -c >%s/zeros", xz, img, bomb, xz, dir))
	zeros, err := os.ReadFile(filepath.Join(dir, "zeros"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(bomb, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Repeat(zeros, 300)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	dev := &memDevice{}
	fix, _ := card(t, dev)
	for _, args := range [][]string{{bomb, "/dev/sdb", "--yes"}, {bomb, "--image-only", filepath.Join(dir, "out.img")}} {
		code, out, errs := runFlash(t, fix, args...)
		if code != 1 || dev.opened || !strings.Contains(errs, "it unpacks to 5.09 GB, but its partitions reach to 60.8 MB only") {
			t.Errorf("code %d, opened %v\n%s%s", code, dev.opened, out, errs)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "out*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestXZIndex has indexes that would cost time or memory.
func TestXZIndex(t *testing.T) {
	foot := func(index []byte) []byte {
		b := append([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F"), index...)
		b = append(b, 0, 0, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(index)/4-1))
		return append(b, 0, 4, 'Y', 'Z')
	}
	many := binary.AppendUvarint([]byte{0}, 4<<20)
	many = append(many, bytes.Repeat([]byte{1, 1}, 4<<20)...)
	many = append(many, make([]byte, 4-len(many)%4)...)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"four million blocks": {foot(many), "index is bad"},
		"an index of 20 MB":   {foot(make([]byte, 20<<20)), "index does not fit"},
		"padding only":        {make([]byte, 8<<20), "more than a megabyte of padding"},
	} {
		if n, err := xzSize(bytes.NewReader(c.b), int64(len(c.b))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d %v, want %q", name, n, err, c.want)
		}
	}
}

// TestDamagedFAT breaks the boot partition's file system: each is refused, with the reason.
func TestDamagedFAT(t *testing.T) {
	const table = bootAt + 32*sector // mkfs.vfat -F 32 reserves 32 sectors
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		change func(b []byte)
		want   string
	}{
		"a chain that meets itself":  {func(b []byte) { le.PutUint32(b[table+4*9:], 5); le.PutUint32(b[table+4*5:], 9) }, "never ends"},
		"the root folder a ring":     {func(b []byte) { le.PutUint32(b[table+4*2:], 2) }, "never ends"},
		"a table of two terabytes":   {func(b []byte) { le.PutUint32(b[bootAt+36:], 0xffffffff) }, "damaged"},
		"sectors of nothing":         {func(b []byte) { le.PutUint16(b[bootAt+11:], 0) }, "sectors of 0 bytes"},
		"clusters of nothing":        {func(b []byte) { b[bootAt+13] = 0 }, "clusters of 0 sectors"},
		"larger than its partition":  {func(b []byte) { le.PutUint32(b[bootAt+32:], 1<<31) }, "damaged"},
		"root folder behind the end": {func(b []byte) { le.PutUint32(b[bootAt+44:], 1<<27) }, "root folder"},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(makeImage(t))
			if err != nil {
				t.Fatal(err)
			}
			c.change(b)
			dir := t.TempDir()
			code, out, errs := runFlash(t, nil, writeFile(t, dir, "bad.img", string(b)), "--image-only", filepath.Join(dir, "out"), "--enable", "spi")
			if code != 1 || !strings.Contains(errs, c.want) {
				t.Errorf("code %d, want %q\n%s%s", code, c.want, out, errs)
			}
		})
	}
}

// FuzzFAT changes a boot partition: whatever comes, the end comes, without a panic.
func FuzzFAT(f *testing.F) {
	f.Add(uint32(36), uint32(0xffffffff), uint32(0x4000), uint32(2))
	f.Fuzz(func(t *testing.T, at1, to1, at2, to2 uint32) {
		file, err := os.Open(makeImage(t))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		o := newOverlay(file, rootAt+rootBytes)
		for at, to := range map[uint32]uint32{at1: to1, at2: to2} {
			var b [4]byte
			binary.LittleEndian.PutUint32(b[:], to)
			if _, err := o.WriteAt(b[:], bootAt+int64(at%(1<<20))); err != nil {
				t.Fatal(err)
			}
		}
		s := Settings{Hostname: "gw", Enable: []string{"spi"}}
		s.prepare(o, []Partition{{N: 1, Start: bootAt, Size: bootBytes}})
	})
}

// TestRefusedDevices asks the kernel's own answers of a real block device.
func TestRefusedDevices(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	img := makeImage(t)
	s := insert(t, 0, 0)
	dev := s.dev
	f, err := os.OpenFile(dev, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1); err != nil {
		t.Fatal(err)
	}
	code, _, errs := runFlash(t, nil, img, dev, "--yes", "--force-fixed", filepath.Base(dev))
	if code != 1 || !strings.HasPrefix(errs, dev+": write-protected: slide the lock of the card or adapter\n") {
		t.Errorf("code %d: %s", code, errs)
	}
	// Locked between the last look and the opening.
	if d, err := openBlock(dev); err == nil || !strings.Contains(err.Error(), "write-protected") {
		t.Errorf("%v %v", d, err)
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 0); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(t.TempDir(), "large.img")
	run(t, "", "cp", "--sparse=always", img, large)
	if err := os.Truncate(large, cardBytes+sector); err != nil {
		t.Fatal(err)
	}
	code, _, errs = runFlash(t, nil, large, dev, "--yes", "--force-fixed", filepath.Base(dev))
	if code != 1 || !strings.HasPrefix(errs, dev+": 83.9 MB, but the image needs 83.9 MB: take a larger card\n") {
		t.Errorf("code %d: %s", code, errs)
	}
	if written, _ := s.state(); written != 0 {
		t.Errorf("%d bytes were written", written)
	}
}
