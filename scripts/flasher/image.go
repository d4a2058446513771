package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Image is an operating system's image, packed or not. It is only ever read.
type Image struct {
	Path   string
	Packed int64  // bytes of the file
	Size   int64  // bytes unpacked; -1 where the packing does not say
	Kind   string // plain, xz, gzip or zstd
	Sum    string // SHA-256 of the file, where it was asked for
	Parts  []Partition
	End    int64 // of the last partition, in bytes
}

// maxWindow bounds the memory a packed image may ask for: xz -9 uses 64 MiB, zstd --ultra 128 MiB.
const maxWindow = 128 << 20

var magics = []struct{ kind, magic string }{{"xz", "\xfd7zXZ\x00"}, {"gzip", "\x1f\x8b\x08"}, {"zstd", "\x28\xb5\x2f\xfd"}}

// openImage looks at the image's start: its packing, size and partitions.
func openImage(path string) (*Image, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("image %s: not a file", path)
	}
	img := &Image{Path: path, Packed: st.Size(), Size: -1, Kind: "plain"}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	defer f.Close()
	start := make([]byte, 64)
	n, _ := io.ReadFull(f, start)
	start = start[:n]
	for _, m := range magics {
		if bytes.HasPrefix(start, []byte(m.magic)) {
			img.Kind = m.kind
		}
	}
	switch img.Kind {
	case "plain":
		img.Size = st.Size()
		if bytes.HasPrefix(start, []byte("PK\x03\x04")) {
			return nil, fmt.Errorf("image %s: a zip archive: unpack it first, want .img, .img.xz, .img.gz or .img.zst", path)
		}
	case "xz":
		if img.Size, err = xzSize(f, st.Size()); err != nil {
			return nil, fmt.Errorf("image %s: xz: %w: incomplete download?", path, err)
		}
	case "zstd":
		var h zstd.Header
		if h.Decode(start) == nil && h.HasFCS && h.FrameContentSize < 1<<50 {
			img.Size = int64(h.FrameContentSize)
		}
	}
	r, err := img.open(context.Background())
	if err != nil {
		return nil, err
	}
	defer r.Close()
	head := make([]byte, headSize)
	if n, err := io.ReadFull(r, head); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("image %s: %w: it has %d bytes only", path, errNoTable, n)
		}
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	if img.Parts, img.End, err = readTable(head); err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	if img.Kind == "zstd" && img.Size >= 0 && img.Size < img.End {
		img.Size = -1 // the first of several frames
	}
	// A few kilobytes may unpack to a full disk.
	if img.Kind != "plain" && img.Size > img.End+1<<30 {
		return nil, fmt.Errorf("image %s: it unpacks to %s, but its partitions reach to %s only: not an image as published", path, bytesText(img.Size), bytesText(img.End))
	}
	if img.Size >= 0 && img.Size < img.End {
		return nil, fmt.Errorf("image %s: %s, but its partitions reach to %s: incomplete download?", path, bytesText(img.Size), bytesText(img.End))
	}
	return img, nil
}

// least is how many bytes the image will have at least.
func (i *Image) least() int64 { return max(i.Size, i.End) }

type stream struct {
	io.Reader
	close func() error
}

func (s stream) Close() error { return s.close() }

// open unpacks the image from its start. Reading ends with ctx.
func (i *Image) open(ctx context.Context) (io.ReadCloser, error) {
	f, err := os.Open(i.Path)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	in := bufio.NewReaderSize(ctxReader{ctx, f}, 1<<20)
	s := stream{in, f.Close}
	switch i.Kind {
	case "xz":
		s.Reader, err = newXZ(in)
	case "gzip":
		s.Reader, err = gzip.NewReader(in)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<50), zstd.WithDecoderConcurrency(2)); err == nil {
			s.Reader, s.close = d, func() error { d.Close(); return f.Close() }
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("image %s: %s: %w", i.Path, i.Kind, err)
	}
	return s, nil
}

func newXZ(r io.Reader) (io.Reader, error) { return xz.ReaderConfig{}.NewReader(r) }

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// xzSize adds up the indexes of all streams of an .xz file, from its end (xz format 1.2.1 §2.1.2, §4).
func xzSize(f io.ReaderAt, size int64) (int64, error) {
	var total, padding int64
	for end := size; end > 0; {
		var foot [12]byte
		if end < 32 || end%4 != 0 {
			return 0, errors.New("its end is missing")
		}
		if _, err := f.ReadAt(foot[:], end-12); err != nil {
			return 0, err
		}
		if bytes.Equal(foot[8:], []byte{0, 0, 0, 0}) { // stream padding
			if padding += 4; padding > 1<<20 {
				return 0, errors.New("more than a megabyte of padding")
			}
			end -= 4
			continue
		}
		if string(foot[10:]) != "YZ" {
			return 0, errors.New("its end is missing")
		}
		back := (int64(binary.LittleEndian.Uint32(foot[4:])) + 1) * 4
		if back > 16<<20 || back > end-24 {
			return 0, errors.New("its index does not fit")
		}
		index := make([]byte, back)
		if _, err := f.ReadAt(index, end-12-back); err != nil {
			return 0, err
		}
		if index[0] != 0 {
			return 0, errors.New("its index is missing")
		}
		r := bytes.NewReader(index[1:])
		n, err := binary.ReadUvarint(r)
		if err != nil || n > 1<<20 { // a terabyte in blocks of a megabyte
			return 0, errors.New("its index is bad")
		}
		var blocks int64
		sizes := make([]int64, 0, min(n, 1<<16))
		for range n {
			unpadded, err1 := binary.ReadUvarint(r)
			plain, err2 := binary.ReadUvarint(r)
			if err1 != nil || err2 != nil || unpadded > uint64(end) || plain > 1<<50 {
				return 0, errors.New("its index is bad")
			}
			blocks += int64(unpadded+3) &^ 3
			sizes = append(sizes, int64(unpadded+3)&^3)
			if total += int64(plain); total > 1<<50 {
				return 0, errors.New("its index is bad")
			}
		}
		if end -= 24 + back + blocks; end < 0 {
			return 0, errors.New("its index does not fit")
		}
		at := end + 12
		for _, n := range sizes {
			if err := xzBlock(f, at); err != nil {
				return 0, err
			}
			at += n
		}
	}
	return total, nil
}

// xzBlock looks at a block's header (§3.1): the library takes any dictionary up to 4 GiB.
func xzBlock(f io.ReaderAt, at int64) error {
	h := make([]byte, 64)
	n, _ := f.ReadAt(h, at)
	r := bytes.NewReader(h[:n])
	r.ReadByte() // size of the header
	flags, _ := r.ReadByte()
	if flags&0x40 != 0 {
		binary.ReadUvarint(r)
	}
	if flags&0x80 != 0 {
		binary.ReadUvarint(r)
	}
	id, _ := binary.ReadUvarint(r)
	binary.ReadUvarint(r)
	dict, err := r.ReadByte()
	if flags&3 != 0 || id != 0x21 || err != nil {
		return errors.New("a filter other than LZMA2: pack it with plain xz")
	}
	if dict > 40 || int64(2|dict&1)<<(dict/2+11) > maxWindow {
		return fmt.Errorf("a dictionary of more than %s", bytesText(maxWindow))
	}
	return nil
}

// wantSum reads a published sum: 64 hex digits, or a file of "SUM  NAME" lines as sha256sum writes them.
func wantSum(arg, image string) (string, error) {
	if isSum(arg) {
		return strings.ToLower(arg), nil
	}
	f, err := os.Open(arg)
	if err != nil {
		return "", usageError{fmt.Errorf("--sha256 %s: want 64 hex digits or a file that holds them: %w", arg, err)}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "", err
	}
	var alone []string
	for line := range strings.Lines(string(data)) {
		w := strings.Fields(line)
		switch {
		case len(w) == 1 && isSum(w[0]):
			alone = append(alone, w[0])
		case len(w) == 2 && isSum(w[0]) && filepath.Base(strings.TrimPrefix(w[1], "*")) == filepath.Base(image):
			return strings.ToLower(w[0]), nil
		}
	}
	if len(alone) == 1 {
		return strings.ToLower(alone[0]), nil
	}
	return "", usageError{fmt.Errorf("--sha256 %s: no line for %s", arg, filepath.Base(image))}
}

func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

// checkSum reads the whole file and compares: a bad image is found before the card is touched.
func (i *Image) checkSum(ctx context.Context, want string, p progress) error {
	f, err := os.Open(i.Path)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	p.begin("checking the image", i.Packed)
	if _, err := io.Copy(io.MultiWriter(h, p), ctxReader{ctx, f}); err != nil {
		return fmt.Errorf("image %s: %w", i.Path, err)
	}
	p.end()
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("image %s: SHA-256 is %s, published is %s (of the file as it is, not unpacked): download it again", i.Path, got, want)
	}
	i.Sum = want
	return nil
}
