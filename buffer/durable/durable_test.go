package durable

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, c := range []struct {
		data string
		perm os.FileMode
	}{{"one", 0o600}, {"a longer second", 0o666}, {"", 0o640}} {
		require.NoError(t, WriteFile(path, []byte(c.data), c.perm))
		got, err := ReadFile(path, 1<<10)
		require.NoError(t, err)
		require.Equal(t, c.data, string(got))
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, c.perm, info.Mode().Perm(), "the umask must not matter")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing may be left beside")
}

func TestWriteFileReplacesWhatAnInterruptedOneLeft(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	victim := filepath.Join(dir, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("untouched"), 0o600))
	require.NoError(t, os.Symlink(victim, path+TempSuffix))
	require.NoError(t, WriteFile(path, []byte("new"), 0o600))
	got, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "untouched", string(got))
}

func TestWriteFileErrorLeavesTheOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	require.NoError(t, os.Mkdir(path, 0o700)) // rename over a folder fails
	err := WriteFile(path, []byte("new"), 0o600)
	require.ErrorContains(t, err, "durable: replace "+path)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Error(t, WriteFile(filepath.Join(dir, "no", "such"), nil, 0o600))
}

func TestReadFileRefuses(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err := ReadFile(pipe, 10)
	require.ErrorContains(t, err, "want a regular file")
	_, err = ReadFile(dir, 10)
	require.Error(t, err)
	big := filepath.Join(dir, "big")
	require.NoError(t, os.WriteFile(big, make([]byte, 11), 0o600))
	_, err = ReadFile(big, 10)
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = ReadFile(filepath.Join(dir, "none"), 10)
	require.ErrorIs(t, err, os.ErrNotExist)
}
