package buffer

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	goflag "flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = goflag.Bool("update", false, "write testdata/format-1.tar.gz, a state as this release leaves it")

// TestPredecessor: a folder that an earlier release left, stopped without a seal, is read as if it were our own; and what we add
// to it has the same format number, read and sealed by the same rules.
func TestPredecessor(t *testing.T) {
	const golden = "testdata/format-1.tar.gz"
	if *update {
		dir, _ := site(t)
		pack(t, dir, golden)
	}
	dir := t.TempDir()
	unpack(t, golden, dir)
	b := mustOpen(t, dir, Options{HalfBytes: 256 << 10, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}})
	require.Empty(t, b.Stats().RecoveredFrom)
	require.Empty(t, b.Stats().DamagedFiles)
	require.Empty(t, b.Verify())
	got := look(t, b)
	require.Equal(t, outcome{open: 4800, flight: 100, delivered: 100, next: 5001}, got)
	require.Equal(t, "42", string(b.Side("ledger")))
	l := mustLane(t, b, 3)
	a := l.Attempts()
	require.Len(t, a, 1)
	require.Equal(t, "second", string(a[0].Payload), "a repeat has the same bytes")
	require.NoError(t, l.Ack(a[0].ID))
	_, err := l.Append(pollAt(500, 10))
	require.NoError(t, err)
	require.NoError(t, b.SealNow())
	require.NoError(t, b.Close())
}

func pack(t *testing.T, dir, file string) {
	f, err := os.Create(file)
	require.NoError(t, err)
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	require.NoError(t, err)
	w := tar.NewWriter(z)
	require.NoError(t, w.AddFS(os.DirFS(dir)))
	require.NoError(t, errors.Join(w.Close(), z.Close(), f.Close()))
}

func unpack(t *testing.T, file, dir string) {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		require.NoError(t, err)
		require.True(t, fs.ValidPath(filepath.Clean(h.Name)))
		path := filepath.Join(dir, h.Name)
		if h.FileInfo().IsDir() {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, data, 0o644))
	}
}
