package ota

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/ota/delta"
	"homeward/ota/release"
)

// TestSlots on the real file system: steps 5 to 8, and what is left of an interrupted one.
func TestSlots(t *testing.T) {
	dir := t.TempDir()
	slots := filepath.Join(dir, "slots")
	require.NoError(t, os.Mkdir(slots, 0o700))
	running := filepath.Join(dir, "running")
	old, data := bytes.Repeat([]byte("old program "), 4000), bytes.Repeat([]byte("new program "), 5000)
	require.NoError(t, os.WriteFile(running, old, 0o755))
	var labels []string
	s := &slotBackend{fs: durable.OS{}, dir: slots, running: Factory, agent: running, late: map[string]int{}, step: func(l string) { labels = append(labels, l) },
		check: func(_ context.Context, agent string) error {
			got, err := os.ReadFile(agent)
			if err == nil && !bytes.Equal(got, data) {
				err = errors.New("another program")
			}
			return err
		}}
	require.Equal(t, hashOf(old), s.Base())
	var z bytes.Buffer
	require.NoError(t, delta.Compress(&z, bytes.NewReader(data)))
	patch, err := delta.Diff(old, data)
	require.NoError(t, err)
	blob := func(content []byte) string {
		path := filepath.Join(dir, hashOf(content))
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	p := &release.Part{Name: "agent", Backend: "slot", SHA256: hashOf(data), Size: int64(len(data))}
	ctx := t.Context()
	left := filepath.Join(slots, newPrefix+p.SHA256)
	for name, e := range map[string]struct {
		enc  release.Encoding
		blob []byte
	}{
		"zstd":   {release.Encoding{Enc: "zstd", Size: int64(z.Len())}, z.Bytes()},
		"patch":  {release.Encoding{Enc: "bsdiff40", Base: hashOf(old), Size: int64(len(patch))}, patch},
		"copied": {release.Encoding{Enc: copyEnc}, data},
	} {
		require.NoError(t, os.MkdirAll(left, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(left, "agent"), []byte("half"), 0o555))
		labels = nil
		require.NoError(t, s.Stage(ctx, p, e.enc, blob(e.blob)), name)
		require.Equal(t, []string{"built", "synced", "read-back", "staged"}, labels)
		require.NoError(t, s.Check(ctx, p))
		have, err := s.Have(ctx, p)
		require.NoError(t, err)
		require.True(t, have)
		info, err := os.Stat(s.file(p.SHA256))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o555), info.Mode().Perm())
		require.NoDirExists(t, left)

		require.NoError(t, os.Chmod(s.file(p.SHA256), 0o755)) // it rots
		require.NoError(t, os.WriteFile(s.file(p.SHA256), []byte("rot"), 0o555))
		have, err = s.Have(ctx, p)
		require.NoError(t, err)
		require.False(t, have)
	}
	// What a blob says is never more than what was signed.
	for name, c := range map[string]struct {
		size int64
		enc  release.Encoding
		blob []byte
	}{
		"more than signed":  {int64(len(data)) - 1, release.Encoding{Enc: "zstd"}, z.Bytes()},
		"less than signed":  {int64(len(data)) + 1, release.Encoding{Enc: "zstd"}, z.Bytes()},
		"no patch":          {int64(len(data)), release.Encoding{Enc: "bsdiff40", Size: 5}, []byte("patch")},
		"no frame":          {int64(len(data)), release.Encoding{Enc: "zstd"}, []byte("frame")},
		"another content":   {int64(len(old)), release.Encoding{Enc: copyEnc}, old},
		"unknown encoding":  {int64(len(data)), release.Encoding{Enc: "xdelta"}, data},
		"an empty file":     {int64(len(data)), release.Encoding{Enc: copyEnc}, nil},
		"half of the frame": {int64(len(data)), release.Encoding{Enc: "zstd"}, z.Bytes()[:z.Len()/2]},
	} {
		q := *p
		q.Size = c.size
		err := s.Stage(ctx, &q, c.enc, blob(c.blob))
		require.Error(t, err, name)
		require.Equal(t, "slot.verify", CodeOf(err), name)
	}
	require.Equal(t, "slot.disk", CodeOf(s.Stage(ctx, p, release.Encoding{Enc: "zstd"}, filepath.Join(dir, "gone"))))
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, s.Stage(stopped, p, release.Encoding{Enc: "zstd"}, blob(z.Bytes())), context.Canceled)

	require.NoError(t, s.Collect([]string{hashOf(old)}))
	entries, err := os.ReadDir(slots)
	require.NoError(t, err)
	require.Empty(t, entries)
}
