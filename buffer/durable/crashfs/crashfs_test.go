package crashfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/buffer/durable"
)

func put1(t require.TestingT, fs durable.FS, name, text string, sync bool) {
	f, err := fs.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	_, err = f.Write([]byte(text))
	require.NoError(t, err)
	if sync {
		require.NoError(t, f.Sync())
	}
	require.NoError(t, f.Close())
}

// content is what a file holds, or "-" where it is missing.
func content(t require.TestingT, fs durable.FS, name string) string {
	data, err := durable.Read(fs, name, 1<<20)
	if err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
		return "-"
	}
	return string(data)
}

// outcomes collects what a scenario can leave, over the modes and many seeds.
func outcomes(t *testing.T, scenario func(fs *FS), look func(fs *FS) string) map[string]bool {
	t.Helper()
	seen := map[string]bool{}
	for _, mode := range Modes {
		for seed := range uint64(200) {
			fs := New(seed)
			scenario(fs)
			seen[look(fs.Reboot(mode))] = true
		}
	}
	return seen
}

func TestUnsyncedIsLost(t *testing.T) {
	start := func(fs *FS) {
		require.NoError(t, durable.Replace(fs, "a", []byte("old"), 0o600))
	}
	read := func(fs *FS) string { return content(t, fs, "a") }

	// Written beside and renamed, never synced: old, new, empty, torn, zeros.
	seen := outcomes(t, func(fs *FS) {
		start(fs)
		put1(t, fs, "a.new", "longer", false)
		require.NoError(t, fs.Rename("a.new", "a"))
	}, read)
	for _, want := range []string{"old", "longer", "", "lon", "\x00\x00\x00\x00\x00\x00"} {
		require.True(t, seen[want], "%q was never left: %v", want, seen)
	}
	require.False(t, seen["-"], "a rename over a name does not lose it")

	// The content synced, the name not: old or new.
	seen = outcomes(t, func(fs *FS) {
		start(fs)
		put1(t, fs, "a.new", "longer", true)
		require.NoError(t, fs.Rename("a.new", "a"))
	}, read)
	require.Equal(t, map[string]bool{"old": true, "longer": true}, seen)

	// Removed first: it can be gone.
	seen = outcomes(t, func(fs *FS) {
		start(fs)
		require.NoError(t, fs.Remove("a"))
		put1(t, fs, "a.new", "longer", true)
		require.NoError(t, fs.Rename("a.new", "a"))
	}, read)
	require.True(t, seen["-"])

	// A file made and synced in a folder whose names are not.
	seen = outcomes(t, func(fs *FS) {
		require.NoError(t, fs.MkdirAll("d/e", 0o700))
		put1(t, fs, "d/e/f", "x", true)
		require.NoError(t, fs.SyncDir("d/e"))
	}, func(fs *FS) string { return content(t, fs, "d/e/f") })
	require.Equal(t, map[string]bool{"-": true, "x": true}, seen)

	// Overwritten in place: a mixture.
	seen = outcomes(t, func(fs *FS) {
		start(fs)
		f, err := fs.OpenFile("a", os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("N"), 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("W"), 2)
		require.NoError(t, err)
	}, read)
	require.Equal(t, map[string]bool{"old": true, "NlW": true, "Nld": true, "olW": true}, seen)
}

// TestReplaceIsOldOrNew cuts the power at each operation of a replacement, twice.
func TestReplaceIsOldOrNew(t *testing.T) {
	states := 0
	whole := func(fs *FS, may ...string) {
		states++
		require.Contains(t, may, content(t, fs, "d/a"), fs.Tree())
	}
	base := New(1)
	require.NoError(t, base.MkdirAll("d", 0o700))
	require.NoError(t, base.SyncDir("/"))
	require.NoError(t, durable.Replace(base, "d/a", []byte("old"), 0o600))
	for n := 1; ; n++ {
		first := base.Clone(uint64(n))
		first.CrashAt(n)
		err := durable.Replace(first, "d/a", []byte("new"), 0o600)
		for _, mode := range Modes {
			for seed := range uint64(20) {
				after := first.Clone(seed).Reboot(mode)
				if err == nil {
					whole(after, "new")
				} else {
					require.ErrorIs(t, err, ErrCrash)
					whole(after, "old", "new")
				}
				for m := 1; ; m++ { // and again during the next replacement
					second := after.Clone(seed)
					second.CrashAt(m)
					err := durable.Replace(second, "d/a", []byte("newest"), 0o600)
					for _, mode := range Modes {
						again := second.Clone(uint64(m)).Reboot(mode)
						if err == nil {
							whole(again, "newest")
						} else {
							whole(again, "old", "new", "newest")
						}
					}
					if err == nil {
						break
					}
				}
			}
		}
		if err == nil {
			break
		}
	}
	t.Logf("%d states", states)
	require.Greater(t, states, 1000)
}

func TestCrashAndFail(t *testing.T) {
	fs := New(1)
	require.NoError(t, durable.Replace(fs, "a", []byte("old"), 0o600))
	ops := fs.Ops()
	require.Equal(t, 7, ops, "remove, create, write, chmod, sync, rename, sync of the folder")
	for n := 1; n <= ops; n++ {
		c := fs.Clone(1)
		c.Fail(n, syscall.EIO)
		err := durable.Replace(c, "a", []byte("new"), 0o600)
		require.ErrorIs(t, err, syscall.EIO, "operation %d", n)
		require.False(t, c.Crashed())
		require.NoError(t, durable.Replace(c, "a", []byte("new"), 0o600), "it works again")
		require.Equal(t, "new", content(t, c.Reboot(None), "a"))
	}
	full := fs.Clone(1)
	full.SetSpace(5)
	require.ErrorIs(t, durable.Replace(full, "a", []byte("longer"), 0o600), syscall.ENOSPC)
	require.Equal(t, "old", content(t, full, "a"))
	bytes, _, err := full.Free("/")
	require.NoError(t, err)
	require.Equal(t, int64(2), bytes)

	ro := fs.Clone(1)
	ro.FailFrom(1, syscall.EROFS)
	require.ErrorIs(t, durable.Replace(ro, "a", []byte("new"), 0o600), syscall.EROFS)
	require.ErrorIs(t, ro.MkdirAll("x", 0o700), syscall.EROFS)
	require.Equal(t, "old", content(t, ro, "a"))

	dead := fs.Clone(1)
	f, err := dead.OpenFile("a", os.O_RDWR, 0)
	require.NoError(t, err)
	dead.CrashAt(1)
	_, err = f.Write([]byte("x"))
	require.ErrorIs(t, err, ErrCrash)
	_, err = f.Read(make([]byte, 1))
	require.ErrorIs(t, err, ErrCrash)
	_, err = dead.Stat("a")
	require.ErrorIs(t, err, ErrCrash)
	_, err = dead.ReadDir("/")
	require.ErrorIs(t, err, ErrCrash)
	require.Equal(t, "old", content(t, dead.Reboot(All), "a"))
}

// TestAsTheOperatingSystem does the same at random here and in a real folder: results, errors, names and content agree.
func TestAsTheOperatingSystem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "crashfs-")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		model := New(1)
		require.NoError(t, model.MkdirAll(dir, 0o700))
		names := rapid.SampledFrom([]string{"a", "b", "d", "d/a", "d/e", "d/e/f"})
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			x, y := names.Draw(t, "x"), names.Draw(t, "y")
			what := rapid.SampledFrom([]string{"write", "append", "rename", "link", "remove", "removeall", "mkdir", "truncate", "sync"}).Draw(t, "what")
			off := rapid.Int64Range(0, 8).Draw(t, "off")
			do := func(fs durable.FS) error {
				x, y := filepath.Join(dir, x), filepath.Join(dir, y)
				open := func(flag int, then func(f durable.File) error) error {
					f, err := fs.OpenFile(x, flag, 0o600)
					if err != nil {
						return err
					}
					defer f.Close()
					return then(f)
				}
				switch what {
				case "write":
					return open(os.O_RDWR|os.O_CREATE, func(f durable.File) error {
						_, err := f.WriteAt(fmt.Appendf(nil, "<%d>", off), off)
						return err
					})
				case "append":
					return open(os.O_WRONLY|os.O_APPEND|os.O_CREATE, func(f durable.File) error {
						_, err := io.WriteString(f, "+")
						return err
					})
				case "truncate":
					return open(os.O_WRONLY, func(f durable.File) error { return f.Truncate(off) })
				case "rename":
					return fs.Rename(x, y)
				case "link":
					return fs.Link(x, y)
				case "remove":
					return fs.Remove(x)
				case "removeall":
					return fs.RemoveAll(x)
				case "mkdir":
					return fs.MkdirAll(x, 0o700)
				}
				return fs.SyncDir(x)
			}
			real, ours := do(durable.OS{}), do(model)
			if what == "sync" {
				continue // of a file the system has no objection
			}
			require.Equal(t, real == nil, ours == nil, "%s %s %s: %v, %v", what, x, y, real, ours)
			if what != "rename" && what != "link" { // of two names, which error comes first is the kernel's taste
				require.Equal(t, os.IsNotExist(real), os.IsNotExist(ours), "%s %s: %v, %v", what, x, real, ours)
			}
			require.Equal(t, list(t, durable.OS{}, dir), list(t, model, dir), "%s %s %s", what, x, y)
		}
		require.Equal(t, list(t, durable.OS{}, dir), list(t, model.Reboot(All), dir))
	})
}

func list(t require.TestingT, fs durable.FS, dir string) (all []string) {
	entries, err := fs.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			all = append(append(all, path+"/"), list(t, fs, path)...)
			continue
		}
		all = append(all, path+"="+content(t, fs, path))
	}
	return all
}
