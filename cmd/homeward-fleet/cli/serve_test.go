package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestServe: what gateways ask of a web server: conditional requests, ranges that hold while the file stays, and nothing beside the folder.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	blob := strings.Repeat("ab", 32)
	for name, content := range map[string]string{"repository/timestamp.json": "{}", "repository/blobs/" + blob: "0123456789", "secret": "x"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	require.NoError(t, os.Symlink("../secret", filepath.Join(dir, "repository", "link")))
	root, err := os.OpenRoot(filepath.Join(dir, "repository"))
	require.NoError(t, err)
	defer root.Close()
	for _, c := range []struct {
		method, path, header, value string
		code                        int
		body                        string
	}{
		{"GET", "/timestamp.json", "", "", 200, "{}"},
		{"GET", "/timestamp.json", "If-None-Match", "ETAG", 304, ""},
		{"HEAD", "/timestamp.json", "", "", 200, ""},
		{"GET", "/blobs/" + blob, "Range", "bytes=4-", 206, "456789"},
		{"GET", "/blobs/" + blob, "If-None-Match", `"` + blob + `"`, 304, ""},
		{"GET", "/blobs/" + blob, "Range", "bytes=40-", 416, "invalid range: failed to overlap\n"},
		{"GET", "/", "", "", 404, "404 page not found\n"},
		{"GET", "/blobs", "", "", 404, "404 page not found\n"},
		{"GET", "/../secret", "", "", 404, "404 page not found\n"},
		{"GET", "/%2e%2e/secret", "", "", 404, "404 page not found\n"},
		{"GET", "/link", "", "", 404, "404 page not found\n"},
		{"POST", "/timestamp.json", "", "", 405, "GET or HEAD\n"},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		if c.header != "" {
			first := httptest.NewRecorder()
			files{root}.ServeHTTP(first, httptest.NewRequest("GET", c.path, nil))
			r.Header.Set(c.header, strings.Replace(c.value, "ETAG", first.Header().Get("ETag"), 1))
			r.Header.Set("If-Range", first.Header().Get("ETag"))
		}
		w := httptest.NewRecorder()
		files{root}.ServeHTTP(w, r)
		require.Equal(t, c.code, w.Code, "%+v", c)
		require.Equal(t, c.body, w.Body.String(), "%+v", c)
	}
}

// TestAnotherManager: a folder that is older than what is served is not published.
func TestAnotherManager(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/acme/timestamp.json" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"signed":{"version":7}}`)
	}))
	defer server.Close()
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "fleet.yaml"), []byte("organization: acme\naddress: "+server.URL+"/acme\n"), 0o600))
	m.run("product", "add", "p")
	code, _, errs := m.try("publish")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "serves timestamp 7, and this folder's is 1: another manager has published; take over that folder first")
	m.run("publish", "--offline")
}
