package delta

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzPatch: whatever a patch says, nothing panics, no more than the signed size is written, and nothing is read outside the old content.
func FuzzPatch(f *testing.F) {
	const old = "0123456789 the old content, of which there are some bytes"
	for _, new := range []string{"", "0123456789", "the new content, of which there are some bytes, too", old, strings.Repeat(old, 3)} {
		patch, err := Diff([]byte(old), []byte(new))
		require.NoError(f, err)
		f.Add([]byte(old), patch, int64(len(new)))
	}
	f.Add([]byte(old), raw(f, [][3]int64{{2, 1, 3}, {5, 0, -10}, {1, 1, 0}}, "\x00\x00\x00\x00\x00\x00\x00\x01", "xy", 10), int64(10))
	f.Add([]byte(old), raw(f, [][3]int64{{0, 0, maxInt64}, {maxInt64, 1, 0}}, "", "", 10), int64(10))
	f.Add([]byte(old), raw(f, [][3]int64{{0, 4096, 0}}, "", strings.Repeat("x", 4096), 4096), int64(4096))
	f.Fuzz(func(t *testing.T, old, patch []byte, size int64) {
		if size > 1<<20 {
			size %= 1 << 20
		}
		out := &counting{most: max(size, 0)}
		err := Patch(out, bytes.NewReader(old), int64(len(old)), bytes.NewReader(patch), int64(len(patch)), size)
		if err == nil {
			require.Equal(t, size, out.n)
			return
		}
		require.Contains(t, []string{"delta.malformed", "delta.size"}, code(err), "%v", err)
	})
}

// FuzzDecompress: whatever a frame says, nothing panics, and no more than the signed size is written.
func FuzzDecompress(f *testing.F) {
	for _, s := range []string{"", "some text", strings.Repeat("0123456789", 1000)} {
		var z bytes.Buffer
		require.NoError(f, Compress(&z, strings.NewReader(s)))
		f.Add(z.Bytes(), int64(len(s)))
	}
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\x58"+strings.Repeat("\x02\x00\x10x", 100)+"\x0b\x00\x00x"), int64(1000))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		if size > 1<<20 {
			size %= 1 << 20
		}
		out := &counting{most: max(size, 0)}
		if err := Decompress(out, bytes.NewReader(data), size); err != nil {
			require.Contains(t, []string{"delta.malformed", "delta.size"}, code(err), "%v", err)
			return
		}
		require.Equal(t, size, out.n)
	})
}

// FuzzDiff: what was made of two contents makes the second of the first.
func FuzzDiff(f *testing.F) {
	f.Add([]byte(""), []byte(""))
	f.Add([]byte("banana"), []byte("ananas"))
	f.Add(bytes.Repeat([]byte("abc"), 100), bytes.Repeat([]byte("abd"), 90))
	f.Fuzz(func(t *testing.T, old, new []byte) {
		if len(old) > 1<<12 || len(new) > 1<<12 {
			return
		}
		patch, err := Diff(old, new)
		require.NoError(t, err)
		got, err := patched(old, patch, len(new))
		require.NoError(t, err)
		require.True(t, bytes.Equal(new, got))
	})
}

// FuzzCheckBinary: whatever a file is, nothing panics, and a refusal has a code.
func FuzzCheckBinary(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\xb7\x00\x01\x00\x00\x00" + strings.Repeat("\x00", 40)))
	f.Add([]byte("\x7fELF\x01\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\x28\x00\x01\x00\x00\x00" + strings.Repeat("\x00", 28)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := CheckBinary(bytes.NewReader(data)); err != nil {
			require.Contains(t, []string{"binary.format", "binary.platform", "binary.dynamic", "binary.dwarf"}, code(err), "%v", err)
		}
	})
}
