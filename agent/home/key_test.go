package home

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestKeyRace: whoever asks at the same time gets the same key, and nothing is left beside it.
func TestKeyRace(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		keys := make([]ed25519.PrivateKey, 16)
		errs := make([]error, len(keys))
		var all sync.WaitGroup
		begin := make(chan struct{})
		for i := range keys {
			all.Go(func() {
				<-begin
				keys[i], errs[i] = Key(dir)
			})
		}
		close(begin)
		all.Wait()
		for i, k := range keys {
			require.NoError(t, errs[i])
			require.Equal(t, keys[0], k)
		}
		names, err := os.ReadDir(filepath.Dir(KeyPath(dir)))
		require.NoError(t, err)
		require.Len(t, names, 1)
		info, err := os.Stat(KeyPath(dir))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
}

// TestKeyBad: a file that is no key is refused and stays as it is.
func TestKeyBad(t *testing.T) {
	dir := t.TempDir()
	good, err := Key(dir)
	require.NoError(t, err)
	require.Len(t, Public(good), 64)
	text, err := os.ReadFile(KeyPath(dir))
	require.NoError(t, err)
	for name, bad := range map[string][]byte{
		"empty": {}, "torn": text[:60], "twice": append(append([]byte{}, text...), text...), "large": make([]byte, maxKey+1), "other": []byte("hello\n"),
	} {
		require.NoError(t, os.WriteFile(KeyPath(dir), bad, 0o600))
		_, err := Key(dir)
		require.ErrorContains(t, err, "restore it", name)
		now, err := os.ReadFile(KeyPath(dir))
		require.NoError(t, err)
		require.Equal(t, bad, now, name)
	}
	require.NoError(t, os.WriteFile(KeyPath(dir), text, 0o600))
	require.NoError(t, os.Chmod(KeyPath(dir), 0o644))
	_, err = Key(dir)
	require.ErrorContains(t, err, "mode 0644")
	require.NoError(t, os.Chmod(KeyPath(dir), 0o600))
	same, err := Key(dir)
	require.NoError(t, err)
	require.Equal(t, good, same)
	_, err = Key(filepath.Join(dir, "none"))
	require.ErrorContains(t, err, "could not be made")
	require.NoError(t, os.Remove(KeyPath(dir)))
	require.NoError(t, os.Symlink("/etc/passwd", KeyPath(dir)))
	_, err = Key(dir)
	require.Error(t, err, "a link is not followed")
}
