package delta

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	// WindowLog is the window of what [Compress] makes, as a power of two: 2 MiB, which a decoder keeps in memory.
	WindowLog = 21
	// maxWindow is the largest window that [Decompress] takes, in bytes.
	maxWindow = 8 << 20
)

// Compress writes the whole of r as one zstd frame with a window of 2^[WindowLog] bytes, as small as it can: the same each time.
func Compress(w io.Writer, r io.Reader) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(1<<WindowLog), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("delta: zstd: %w", err)
	}
	if _, err := io.Copy(z, r); err != nil {
		return errors.Join(fmt.Errorf("delta: compress: %w", err), z.Close())
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("delta: compress: %w", err)
	}
	return nil
}

// Decompress writes to w the content of size bytes that r has compressed. The size is the one that was signed: more, or less, is
// refused with the code delta.size after at most that many bytes. Windows above 8 MiB and dictionaries are refused.
func Decompress(w io.Writer, r io.Reader, size int64) error {
	if size < 0 || size > MaxSize {
		return wrongSize("content of %d bytes: want 0 to %d", size, MaxSize)
	}
	src := &source{r: r}
	z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fmt.Errorf("delta: zstd: %w", err)
	}
	defer z.Close()
	dst := &sink{w: w}
	fault := func(err error) error {
		switch {
		case dst.err != nil:
			return fmt.Errorf("delta: write the content: %w", dst.err)
		case src.err != nil:
			return fmt.Errorf("delta: read the compressed content: %w", src.err)
		}
		return malformed("compressed content: %v", err)
	}
	n, err := io.Copy(dst, io.LimitReader(z, size))
	if err != nil {
		return fault(err)
	}
	if n < size {
		return wrongSize("compressed content ends after %d bytes: want %d", n, size)
	}
	var one [1]byte
	switch n, err := io.ReadFull(z, one[:]); { // reads the checksum at the frame's end, too
	case n > 0:
		return wrongSize("compressed content goes on after %d bytes: want no more", size)
	case err != io.EOF:
		return fault(err)
	}
	return nil
}

// sink remembers an error of writing.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	if err != nil {
		s.err = err
	}
	return n, err
}
