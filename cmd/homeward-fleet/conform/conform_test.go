package conform

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/stretchr/testify/require"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"homeward/cmd/cmdline"
)

// repository is one with a single key and one target, served as the suite does: metadata and targets apart, threshold 1.
type repository struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
	asked []string
}

func sign[T metadata.Roles](t *testing.T, m *metadata.Metadata[T], key ed25519.PrivateKey) []byte {
	s, err := signature.LoadSigner(key, crypto.Hash(0))
	require.NoError(t, err)
	_, err = m.Sign(s)
	require.NoError(t, err)
	raw, err := m.ToBytes(false)
	require.NoError(t, err)
	return raw
}

func serve(t *testing.T, name, content string, expires time.Time) *repository {
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	public, err := metadata.KeyFromPublicKey(key.Public())
	require.NoError(t, err)
	root, targets := metadata.Root(expires), metadata.Targets(expires)
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		require.NoError(t, root.Signed.AddKey(public, role))
	}
	info, err := metadata.TargetFile().FromBytes(name, []byte(content))
	require.NoError(t, err)
	targets.Signed.Targets[name] = info
	dir, base := filepath.Split(name)
	r := &repository{files: map[string][]byte{
		"/metadata/1.root.json":     sign(t, root, key),
		"/metadata/1.targets.json":  sign(t, targets, key),
		"/metadata/1.snapshot.json": sign(t, metadata.Snapshot(expires), key),
		"/metadata/timestamp.json":  sign(t, metadata.Timestamp(expires), key),
		"/targets/" + dir + hex.EncodeToString(info.Hashes["sha256"]) + "." + base: []byte(content),
	}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked = append(r.asked, q.URL.Path)
		if data, ok := r.files[q.URL.Path]; ok {
			_, _ = w.Write(data)
			return
		}
		http.NotFound(w, q)
	}))
	t.Cleanup(r.Close)
	return r
}

func TestConformance(t *testing.T) {
	const name, content = "path/to/a target.txt", "content"
	r := serve(t, name, content, time.Now().Add(time.Hour))
	dir := t.TempDir()
	meta, targets, root := filepath.Join(dir, "metadata"), filepath.Join(dir, "targets"), filepath.Join(dir, "initial_root.json")
	require.NoError(t, os.Mkdir(meta, 0o700))
	require.NoError(t, os.Mkdir(targets, 0o700))
	require.NoError(t, os.WriteFile(root, r.files["/metadata/1.root.json"], 0o600))
	run := func(args ...string) int {
		cmd := Command()
		cmd.SetArgs(append([]string{"--metadata-dir", meta}, args...))
		cmd.SetErr(testWriter{t})
		return cmdline.Run(context.Background(), cmd, func(error) error { return nil })
	}
	refresh := []string{"--metadata-url", r.URL + "/metadata", "refresh"}
	download := func(name string) []string {
		return []string{"--metadata-url", r.URL + "/metadata", "--target-name", name, "--target-base-url", r.URL + "/targets", "--target-dir", targets, "download"}
	}
	require.Equal(t, 1, run(refresh...), "no root yet")
	require.Equal(t, 0, run("init", root))
	require.Empty(t, r.asked)
	require.Equal(t, 0, run(refresh...))
	require.Equal(t, []string{"/metadata/2.root.json", "/metadata/timestamp.json", "/metadata/1.snapshot.json", "/metadata/1.targets.json"}, r.asked)
	for file, served := range map[string]string{"root": "1.root", "timestamp": "timestamp", "snapshot": "1.snapshot", "targets": "1.targets"} {
		raw, err := os.ReadFile(filepath.Join(meta, file+".json"))
		require.NoError(t, err)
		require.Equal(t, string(r.files["/metadata/"+served+".json"]), string(raw), "byte for byte")
	}
	require.Equal(t, 1, run(download("missing")...))
	require.Equal(t, 0, run(download(name)...))
	raw, err := os.ReadFile(filepath.Join(targets, "path%2Fto%2Fa%20target.txt"))
	require.NoError(t, err)
	require.Equal(t, content, string(raw))
	r.asked = nil
	require.Equal(t, 0, run(download(name)...))
	require.Equal(t, []string{"/metadata/2.root.json", "/metadata/timestamp.json"}, r.asked, "the target is not fetched twice")
	require.Equal(t, 2, run("refresh"), "an address is missing")

	// The time is date's.
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "date"), fmt.Appendf(nil, "#!/bin/sh\necho %d\n", time.Now().Add(2*time.Hour).Unix()), 0o755))
	t.Setenv("PATH", bin)
	require.Equal(t, 1, run(refresh...), "it has expired")
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) { w.t.Logf("%s", p); return len(p), nil }
