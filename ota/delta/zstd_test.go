package delta

import (
	"bytes"
	"crypto/sha256"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestCompressDecompress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, data := texts(t)
		var z, out bytes.Buffer
		require.NoError(t, Compress(&z, bytes.NewReader(data)))
		require.NoError(t, Decompress(&out, bytes.NewReader(z.Bytes()), int64(len(data))))
		require.True(t, bytes.Equal(data, out.Bytes()))
		out.Reset()
		require.Equal(t, "delta.size", code(Decompress(&out, bytes.NewReader(z.Bytes()), int64(len(data)+1))))
		if len(data) > 0 {
			out.Reset()
			require.Equal(t, "delta.size", code(Decompress(&out, bytes.NewReader(z.Bytes()), int64(len(data)-1))))
			require.LessOrEqual(t, out.Len(), len(data)-1, "never more than the signed size")
		}
	})
}

// counting counts what is written, up to a bound beyond which the test has failed.
type counting struct{ n, most int64 }

func (c *counting) Write(b []byte) (int, error) {
	if c.n += int64(len(b)); c.n > c.most {
		panic("more than the signed size was written")
	}
	return len(b), nil
}

func TestHostileFrames(t *testing.T) {
	// frame makes a frame by hand: magic, descriptor, window, blocks (RFC 8878 §3.1.1).
	frame := func(descriptor, window byte, blocks ...string) string {
		return "\x28\xb5\x2f\xfd" + string([]byte{descriptor, window}) + strings.Join(blocks, "")
	}
	rle := func(last bool, size uint32) string { // a block of one byte, repeated
		h := size<<3 | 1<<1
		if last {
			h |= 1
		}
		return string([]byte{byte(h), byte(h >> 8), byte(h >> 16), 'x'})
	}
	bomb := frame(0, 11<<3, append([]string(nil), strings.Repeat(rle(false, 128<<10), 8000)+rle(true, 1))...) // 32 KB that become 1 GB
	var good bytes.Buffer
	require.NoError(t, Compress(&good, strings.NewReader(strings.Repeat("0123456789", 1000))))
	flipped := bytes.Clone(good.Bytes())
	flipped[len(flipped)-1] ^= 1
	for _, tt := range []struct{ name, data, code, want string }{
		{"bomb", bomb, "delta.size", "goes on after 10000 bytes"},
		{"bomb of frames", strings.Repeat(frame(0, 11<<3, rle(true, 4096)), 10_000), "delta.size", "goes on after"},
		{"window of 16 MiB", frame(0, 14<<3, rle(true, 10_000)), "delta.malformed", "window size exceeded"},
		{"window of 3.75 TiB", frame(0, 255, rle(true, 10_000)), "delta.malformed", "window size exceeded"},
		{"a dictionary", frame(1, 11<<3, "\x07", rle(true, 10_000)), "delta.malformed", "dictionary"},
		{"huge content said", "\x28\xb5\x2f\xfd\xe0" + strings.Repeat("\xff", 8) + rle(true, 10_000), "delta.malformed", "exceeds configured limit"},
		{"wrong checksum", string(flipped), "delta.malformed", "CRC"},
		{"cut", good.String()[:good.Len()-6], "delta.malformed", "EOF"},
		{"empty", "", "delta.size", "ends after 0 bytes"},
		{"no frame", "PK\x03\x04 something else", "delta.malformed", "magic"},
		{"rubbish behind", good.String() + "rubbish", "delta.malformed", "magic"},
		{"another frame behind", good.String() + good.String(), "delta.size", "goes on after"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := &counting{most: 10_000}
			err := Decompress(out, strings.NewReader(tt.data), 10_000)
			require.Equal(t, tt.code, code(err), "%v", err)
			require.ErrorContains(t, err, tt.want)
		})
	}
	require.Equal(t, "delta.size", code(Decompress(&counting{}, strings.NewReader(""), -1)))
	require.Equal(t, "delta.size", code(Decompress(&counting{}, strings.NewReader(""), MaxSize+1)))
}

// TestZstdProgram: the zstd program reads what we write, and we read what it writes.
func TestZstdProgram(t *testing.T) {
	t.Parallel()
	needs(t, "zstd")
	data := build(t, "p", program(1), stripped)
	var z, again, out bytes.Buffer
	require.NoError(t, Compress(&z, bytes.NewReader(data)))
	require.NoError(t, Compress(&again, bytes.NewReader(data)))
	require.Equal(t, z.Bytes(), again.Bytes(), "the same each time")
	var head zstd.Header
	require.NoError(t, head.Decode(z.Bytes()))
	require.EqualValues(t, 1<<WindowLog, head.WindowSize)
	cmd := exec.Command("zstd", "-d", "-c")
	cmd.Stdin = &z
	got, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, sha256.Sum256(data), sha256.Sum256(got))
	cmd = exec.Command("zstd", "-19", "--zstd=wlog=21", "-c", "-q")
	cmd.Stdin = bytes.NewReader(data)
	theirs, err := cmd.Output()
	require.NoError(t, err)
	require.NoError(t, Decompress(&out, bytes.NewReader(theirs), int64(len(data))))
	require.Equal(t, sha256.Sum256(data), sha256.Sum256(out.Bytes()))
}
