package config_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
)

// What is no regular file is refused at once: the agent's main loop reads the file, and must not wait for a writer.
func TestLoadWaitsForNobody(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe.yaml")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	link := filepath.Join(dir, "link.yaml")
	require.NoError(t, os.Symlink(pipe, link))
	for path, want := range map[string]string{
		pipe:        "config: " + pipe + ": a pipe: want a regular file",
		link:        "config: " + link + ": a pipe: want a regular file",
		dir:         "config: " + dir + ": a folder: want a regular file",
		"/dev/zero": "config: /dev/zero: a device or the like: want a regular file",
	} {
		got := make(chan error, 1)
		go func() {
			_, err := config.Load(path, nil)
			got <- err
		}()
		select {
		case err := <-got:
			require.EqualError(t, err, want)
		case <-time.After(30 * time.Second):
			if w, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
				_ = w.Close() // lets it go
			}
			require.Fail(t, "it waits", path)
		}
	}
}
