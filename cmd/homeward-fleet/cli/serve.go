package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"homeward/cmd/cmdline"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the repository, for trying out",
		Long: `Serve the repository's folder over HTTP, as any web server can: with ETag, conditional requests and ranges. It has no TLS and no
limits; for a fleet in the field use a web server, an object store or a CDN.`,
		Example: "  homeward-fleet serve --listen 127.0.0.1:8087",
		Args:    cmdline.NoArgs,
	}
	listen := cmd.Flags().String("listen", "127.0.0.1:8087", "host and port")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := a.look()
		if err != nil {
			return err
		}
		root, err := os.OpenRoot(f.RepositoryDir())
		if err != nil {
			return err
		}
		defer root.Close()
		l, err := net.Listen("tcp", *listen)
		if err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "serving %s on http://%s\n", f.RepositoryDir(), l.Addr())
		server := &http.Server{Handler: files{root}, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(l) }()
		select {
		case err = <-ended:
		case <-cmd.Context().Done():
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			if err = server.Shutdown(ctx); err != nil {
				err = server.Close()
			}
			<-ended
		}
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		return err
	}
	return cmd
}

// files serves regular files below a folder, and nothing else.
type files struct{ root *os.Root }

func (h files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	f, err := h.root.Open(name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "max-age=31536000, immutable") // its name changes with its content
	var content io.ReadSeeker = f
	if sum, ok := strings.CutPrefix(name, "blobs/"); ok {
		w.Header().Set("ETag", `"`+sum+`"`)
	} else {
		raw, err := io.ReadAll(io.LimitReader(f, 64<<20))
		if err != nil {
			http.Error(w, "cannot be read", http.StatusInternalServerError)
			return
		}
		sum := sha256.Sum256(raw)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
		content = bytes.NewReader(raw)
		if name == "timestamp.json" {
			w.Header().Set("Cache-Control", "no-cache")
		}
	}
	http.ServeContent(w, r, name, time.Time{}, content)
}
