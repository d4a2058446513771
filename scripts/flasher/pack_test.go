package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPacked writes the image from each packing, and from torn ones.
func TestPacked(t *testing.T) {
	img := makeImage(t)
	plain, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, c := range []struct{ tool, pkg, ext, args, kind string }{
		{"xz", "xz-utils", ".xz", "-0 -T2 --block-size=8MiB", "xz"},
		{"gzip", "gzip", ".gz", "-1", "gzip"},
		{"zstd", "zstd", ".zst", "-1", "zstd"},
	} {
		t.Run(c.ext, func(t *testing.T) {
			tool := need(t, c.tool, c.pkg)
			packed := filepath.Join(dir, "os.img"+c.ext)
			run(t, "", "sh", "-c", fmt.Sprintf("%s %s -c <%s >%s", tool, c.args, img, packed))
			dev := &memDevice{}
			fix, _ := card(t, dev)
			code, out, errs := runFlash(t, fix, packed, "/dev/sdb", "--yes")
			if code != 0 || !strings.Contains(out, c.kind) {
				t.Fatalf("code %d\n%s%s", code, out, errs)
			}
			if !bytes.Equal(dev.b[:len(plain)], plain) {
				t.Error("the card does not hold the image")
			}

			whole, _ := os.ReadFile(packed)
			for _, keep := range []int{len(whole) / 2, len(whole) - 5} {
				torn := writeFile(t, dir, "torn.img"+c.ext, string(whole[:keep]))
				dev := &memDevice{}
				fix, _ := card(t, dev)
				code, out, errs := runFlash(t, fix, torn, "/dev/sdb", "--yes")
				if code != 1 || strings.Contains(out, "is ready") {
					t.Errorf("%d of %d bytes: code %d\n%s%s", keep, len(whole), code, out, errs)
				}
				if c.ext == ".xz" && (dev.opened || !strings.Contains(errs, "incomplete download?")) {
					t.Errorf("a torn .xz is found before the card is touched: %s", errs)
				}
				if dev.opened {
					noTable(t, dev.b)
				}
			}
			// A turned bit in the sum at the end is always found; elsewhere it may mean the
			// same (a run of zeros copied from another place), but never another image.
			for i, at := range []int{len(whole) - 3, len(whole) / 2, len(whole) / 3} {
				if i == 0 && c.ext == ".gz" {
					at = len(whole) - 6
				}
				bad := bytes.Clone(whole)
				bad[at] ^= 0x40
				dev := &memDevice{}
				fix, _ := card(t, dev)
				code, out, errs := runFlash(t, fix, writeFile(t, dir, "bad.img"+c.ext, string(bad)), "/dev/sdb", "--yes")
				switch {
				case code == 1 && !strings.Contains(out, "is ready"):
				case i > 0 && code == 0 && bytes.Equal(dev.b[:len(plain)], plain):
				default:
					t.Errorf("a bit turned at %d of %d: code %d\n%s%s", at, len(whole), code, out, errs)
				}
			}
		})
	}
	t.Run("plain, torn", func(t *testing.T) {
		dev := &memDevice{}
		fix, _ := card(t, dev)
		code, _, errs := runFlash(t, fix, writeFile(t, dir, "torn.img", string(plain[:50*mib])), "/dev/sdb", "--yes")
		if code != 1 || dev.opened || !strings.Contains(errs, "52.4 MB, but its partitions reach to 60.8 MB: incomplete download?") {
			t.Errorf("code %d, opened %v: %s", code, dev.opened, errs)
		}
	})
	t.Run("larger than its partitions say, packed without a size", func(t *testing.T) {
		packed := filepath.Join(dir, "large.img.gz")
		run(t, "", "sh", "-c", fmt.Sprintf("(cat %s; head -c 70M /dev/zero) | gzip -1 >%s", img, packed))
		dev := &memDevice{}
		fix, _ := card(t, dev)
		code, _, errs := runFlash(t, fix, packed, "/dev/sdb", "--yes")
		if code != 1 || !strings.Contains(errs, "larger than the device, 83.9 MB") {
			t.Errorf("code %d: %s", code, errs)
		}
		noTable(t, dev.b)
		code, _, errs = runFlash(t, nil, packed, "--image-only", filepath.Join(dir, "out"))
		if code != 1 || !strings.Contains(errs, "larger than") {
			t.Errorf("code %d: %s", code, errs)
		}
	})
	t.Run("odd end", func(t *testing.T) { // not a multiple of a block, nor of a sector
		odd := append(bytes.Clone(plain), 1, 2, 3)
		dev := &memDevice{}
		fix, _ := card(t, dev)
		code, out, errs := runFlash(t, fix, writeFile(t, dir, "odd.img", string(odd)), "/dev/sdb", "--yes")
		if code != 0 || !bytes.Equal(dev.b[:len(odd)], odd) {
			t.Errorf("code %d\n%s%s", code, out, errs)
		}
	})
}

func TestNotAnImage(t *testing.T) {
	dir := t.TempDir()
	zeros := make([]byte, 4*mib)
	overlap := bytes.Clone(zeros)
	for i := range 2 {
		copy(overlap[446+16*i:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0})
	}
	overlap[510], overlap[511] = 0x55, 0xaa
	for name, c := range map[string]struct{ text, want string }{
		"empty.img":   {"", "no partition table"},
		"zeros.img":   {string(zeros), "no partition table"},
		"page.img":    {strings.Repeat("<html>captive portal</html>", 100000), "no partition table"},
		"overlap.img": {string(overlap), "partitions 1 and 2 overlap"},
		"short.img":   {"x", "it has 1 bytes only"},
		"os.zip":      {"PK\x03\x04" + string(zeros), "a zip archive: unpack it first"},
		"x.img.xz":    {"\xfd7zXZ\x00" + string(zeros[:1000]), "incomplete download?"},
		"x.img.gz":    {"\x1f\x8b\x08", "gzip"},
	} {
		dev := &memDevice{b: make([]byte, mib)}
		fix, _ := card(t, dev)
		code, _, errs := runFlash(t, fix, writeFile(t, dir, name, c.text), "/dev/sdb", "--yes")
		if code != 1 || dev.opened || !strings.Contains(errs, c.want) {
			t.Errorf("%s: code %d, opened %v: %s\nwant %q", name, code, dev.opened, errs, c.want)
		}
	}
}

func TestPublishedSum(t *testing.T) {
	img := makeImage(t)
	b, _ := os.ReadFile(img)
	h := sha256.Sum256(b)
	sum := hex.EncodeToString(h[:])
	dir := t.TempDir()
	other := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		arg, want string
		code      int
	}{
		"hex":          {sum, "SHA-256 as published", 0},
		"capitals":     {strings.ToUpper(sum), "SHA-256 as published", 0},
		"file":         {writeFile(t, dir, "a", other+"  else.img\n"+sum+"  *"+filepath.Base(img)+"\n"), "SHA-256 as published", 0},
		"bare file":    {writeFile(t, dir, "b", sum+"\n"), "SHA-256 as published", 0},
		"wrong":        {other, "SHA-256 is " + sum + ", published is " + other, 1},
		"other's file": {writeFile(t, dir, "c", other+"  else.img\n"), "no line for os.img", 2},
		"no file":      {"123", "want 64 hex digits or a file", 2},
	} {
		t.Run(name, func(t *testing.T) {
			dev := &memDevice{}
			fix, _ := card(t, dev)
			code, out, errs := runFlash(t, fix, img, "/dev/sdb", "--yes", "--sha256", c.arg)
			if code != c.code || !strings.Contains(out+errs, c.want) || dev.opened != (c.code == 0) {
				t.Errorf("code %d, opened %v\n%s%s", code, dev.opened, out, errs)
			}
		})
	}
}

// TestGPT reads a table made byte by byte from UEFI 2.10 §5.3, and refuses it with any one bit turned.
func TestGPT(t *testing.T) {
	head := make([]byte, headSize)
	copy(head[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	head[510], head[511] = 0x55, 0xaa
	table := head[2*sector:][:128*128]
	for i, p := range [][2]uint64{{8192, 16383}, {16384, 99999}} {
		e := table[128*i:]
		copy(e, "0123456789abcdef")
		binary.LittleEndian.PutUint64(e[32:], p[0])
		binary.LittleEndian.PutUint64(e[40:], p[1])
	}
	h := head[sector:]
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	binary.LittleEndian.PutUint64(h[24:], 1)
	binary.LittleEndian.PutUint64(h[32:], 102399)
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], 128)
	binary.LittleEndian.PutUint32(h[84:], 128)
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	parts, end, err := readTable(head)
	want := []Partition{{N: 1, Start: 8192 * sector, Size: 8192 * sector}, {N: 2, Start: 16384 * sector, Size: 83616 * sector}}
	if err != nil || end != 102400*sector || !slices.Equal(parts, want) {
		t.Fatalf("%+v end %d %v", parts, end, err)
	}
	for i := sector; i < sector+92; i++ {
		bad := bytes.Clone(head[:40*sector])
		bad[i] ^= 0x10
		if _, _, err := readTable(bad); err == nil {
			t.Errorf("accepted with byte %d changed", i)
		}
	}
}

// FuzzTable and FuzzXZ feed what arrives from outside: no panic, bounded memory.
func FuzzTable(f *testing.F) {
	gpt := make([]byte, 20*sector)
	copy(gpt[446:], []byte{0, 0, 0, 0, 0xee, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0})
	gpt[510], gpt[511] = 0x55, 0xaa
	copy(gpt[512:], "EFI PART")
	f.Add(gpt)
	f.Fuzz(func(t *testing.T, head []byte) {
		parts, end, err := readTable(head)
		if err == nil && (len(parts) == 0 || end <= 0) {
			t.Errorf("%v, end %d", parts, end)
		}
		for _, p := range parts {
			if p.Start <= 0 || p.Size <= 0 || p.Start+p.Size > end {
				t.Errorf("partition %+v, end %d", p, end)
			}
		}
	})
}

func FuzzXZ(f *testing.F) {
	f.Add([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x00\x00\x00\x00\x1c\xdfD!\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := xzSize(bytes.NewReader(b), int64(len(b))); err == nil && n < 0 {
			t.Errorf("%d bytes", n)
		}
	})
}
