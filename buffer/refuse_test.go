package buffer

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

var siteFiles = []string{logName, metaName, "00000001.db", "00000002.db"}

// A file that cannot be opened for a reason that is no fault of what is in it is neither set aside nor given up: the start is refused, and nothing is touched.
func TestWhatCannotBeOpenedIsNotGivenUp(t *testing.T) {
	dir, opt := site(t)
	before := fingerprint(t, dir)
	for _, ro := range []bool{false, true} {
		for _, name := range siteFiles {
			for _, errno := range []syscall.Errno{syscall.EACCES, syscall.EPERM, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ELOOP} {
				fs := newFaultFS()
				fs.setFail(func(op, n string) error {
					if n == name && (op == "open" || op == "openrw") {
						return errno
					}
					return nil
				})
				opt.FS, opt.ReadOnly = fs, ro
				_, err := Open(dir, opt)
				require.ErrorIs(t, err, errno, "%s", name)
				require.ErrorContains(t, err, filepath.Join(dir, name))
				require.ErrorContains(t, err, "nothing was changed")
				if errno == syscall.EACCES {
					require.ErrorContains(t, err, "it belongs to "+account(os.Geteuid()))
				}
				if errno == syscall.EMFILE {
					require.ErrorContains(t, err, "LimitNOFILE=")
				}
				require.Equal(t, before, fingerprint(t, dir), "%s %v", name, errno)
			}
		}
	}
	opt.FS, opt.ReadOnly = nil, false
	require.Equal(t, whole, look(t, mustOpen(t, dir, opt)))
}

// The process runs out of descriptors at each single call in turn: whatever the start makes of it, the next one with enough of them has everything.
func TestOutOfDescriptorsAtEveryOpen(t *testing.T) {
	refused := 0
	for at := 0; ; at++ {
		dir, opt := site(t)
		fs := newFaultFS()
		n := 0
		fs.setFail(func(op, name string) error {
			if op != "open" && op != "openrw" && op != "create" {
				return nil
			}
			if n++; n > at {
				return syscall.EMFILE
			}
			return nil
		})
		opt.FS = fs
		b, err := Open(dir, opt)
		if err != nil {
			require.ErrorIs(t, err, syscall.EMFILE)
			refused++
		} else {
			for _, err := range mustLane(t, b, 3).Open(1) { // a running one says so, and comes back
				if err != nil {
					require.ErrorIs(t, err, syscall.EMFILE)
				}
			}
			fs.setFail(nil)
			require.Equal(t, whole, look(t, b), "open %d", at)
			b.end()
		}
		opt.FS = nil
		b = mustOpen(t, dir, opt)
		require.Equal(t, whole, look(t, b), "open %d", at)
		require.Empty(t, b.Stats().RecoveredFrom)
		require.Empty(t, b.Stats().DamagedFiles)
		b.end()
		removeAll(dir)
		if n <= at {
			break
		}
	}
	require.Greater(t, refused, 4)
}

// A segment that cannot be opened while the buffer runs is asked again.
func TestRunningOutOfDescriptors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EACCES, syscall.EMFILE} {
		dir, opt := site(t)
		fs := newFaultFS()
		opt.FS = fs
		b := mustOpen(t, dir, opt)
		fs.setFail(func(op, name string) error {
			if strings.HasSuffix(name, ".db") && strings.HasPrefix(op, "open") {
				return errno
			}
			return nil
		})
		n := 0
		for _, err := range mustLane(t, b, 3).Open(1) {
			require.ErrorIs(t, err, errno)
			n++
		}
		require.Equal(t, 1, n)
		_ = b.SealNow()
		fs.setFail(nil)
		require.Equal(t, whole, look(t, b))
		require.NoError(t, b.SealNow())
		require.Equal(t, whole, look(t, b))
		require.Empty(t, b.Verify())
	}
}

// What is not a file under one of the buffer's names neither hangs whoever opens it nor counts as lost.
func TestNotAFile(t *testing.T) {
	for _, name := range append([]string{lockName, "00000002.db" + suffixSalvage}, siteFiles...) {
		for how, make := range map[string]func(string) error{
			"a named pipe": func(p string) error { return syscall.Mkfifo(p, 0o600) },
			"a folder":     func(p string) error { return os.Mkdir(p, 0o700) },
			"no such file": func(p string) error { return os.Symlink(p+".gone", p) },
			"symbolic":     func(p string) error { return os.Symlink(p, p) },
		} {
			if name == lockName && !strings.HasPrefix(how, "a ") {
				continue
			}
			dir, opt := site(t)
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err == nil {
				require.NoError(t, os.Remove(path))
			}
			require.NoError(t, make(path))
			for _, opt.ReadOnly = range []bool{true, false} {
				_, err := Open(dir, opt)
				require.ErrorContains(t, err, path, how)
				require.ErrorContains(t, err, how)
			}
			require.NoError(t, os.Remove(path))
			if err == nil {
				require.NoError(t, os.WriteFile(path, data, 0o600))
			}
			require.Equal(t, whole, look(t, mustOpen(t, dir, opt)), "%s %s", name, how)
		}
	}
}
