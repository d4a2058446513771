//go:build linux && (amd64 || arm64)

package powercut

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestCacheSurvivors checks the model of the cache by itself: what was flushed
// survives any cut, and each sector of the rest is one that was written there.
func TestCacheSurvivors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const sectors = 16
		dark := 0
		c := newCache(sectors*Sector, func() { dark++ })
		gen := c.open()
		possible := make([]map[byte]bool, sectors) // contents that each may have after a cut
		now := make([]byte, sectors)
		forget := func() {
			for i := range possible {
				possible[i] = map[byte]bool{now[i]: true}
			}
		}
		forget()
		keep := Keep(rapid.IntRange(0, 2).Draw(t, "keep"))
		for i := range rapid.IntRange(0, 40).Draw(t, "requests") {
			if rapid.IntRange(0, 4).Draw(t, "flush") == 0 {
				require.Zero(t, c.flush(gen))
				forget()
				continue
			}
			from := rapid.IntRange(0, sectors-1).Draw(t, "from")
			n := rapid.IntRange(1, sectors-from).Draw(t, "n")
			require.Zero(t, c.write(gen, bytes.Repeat([]byte{byte(i + 1)}, n*Sector), int64(from*Sector)))
			for s := from; s < from+n; s++ {
				now[s] = byte(i + 1)
				possible[s][now[s]] = true
			}
		}
		if keep == KeepNone { // then only the oldest
			for s := range possible {
				possible[s] = map[byte]bool{c.stable[s*Sector]: true}
			}
		}
		c.lose(Cut{Keep: keep, Seed: rapid.Uint64().Draw(t, "seed")})
		c.lose(Cut{})
		require.Equal(t, 1, dark)
		require.Equal(t, syscall.EIO, c.write(gen, make([]byte, Sector), 0), "the old user is cut off")
		require.Equal(t, syscall.EIO, c.flush(gen))
		p := make([]byte, sectors*Sector)
		_, errno := c.read(c.open(), p, 0)
		require.Zero(t, errno)
		require.Equal(t, c.stable, p)
		for s := range sectors {
			sector := p[s*Sector : (s+1)*Sector]
			require.Equal(t, bytes.Repeat(sector[:1], Sector), sector, "a sector is not torn")
			require.True(t, possible[s][sector[0]], "sector %d holds %d", s, sector[0])
		}
	})
}

// TestCacheArmed: the cut comes with the request it was planned for, the same
// seed gives the same disk, and every outcome of a flush in flight happens.
func TestCacheArmed(t *testing.T) {
	flushed := map[bool]bool{}
	differ := false
	for seed := range uint64(20) {
		var first []byte
		for range 2 {
			c := newCache(8*Sector, func() {})
			gen := c.open()
			c.armed = Cut{After: 3, Keep: KeepSubset, Seed: seed}
			require.Zero(t, c.write(gen, bytes.Repeat([]byte{1}, 8*Sector), 0))
			require.Zero(t, c.flush(gen))
			require.Equal(t, syscall.EIO, c.write(gen, bytes.Repeat([]byte{2}, 8*Sector), 0))
			require.Equal(t, Counts{2, 16 * Sector, 1}, c.n)
			if first == nil {
				first = c.stable
			}
			require.Equal(t, first, c.stable)
			differ = differ || bytes.ContainsAny(first, "\x01") && bytes.ContainsAny(first, "\x02")
		}
		c := newCache(Sector, func() {})
		gen := c.open()
		c.armed = Cut{After: 2, Seed: seed}
		require.Zero(t, c.write(gen, []byte{1}, 0))
		require.Equal(t, syscall.EIO, c.flush(gen))
		flushed[c.stable[0] == 1] = true
	}
	require.True(t, differ, "a torn write")
	require.Len(t, flushed, 2, "a flush in flight may or may not have been done")
}

// TestDisk goes once around: what was synced is there after a cut, what was not
// is not, and ext4 itself is sound.
func TestDisk(t *testing.T) {
	d := newDisk(t)
	for i, keep := range []Keep{KeepNone, KeepPrefix, KeepSubset} {
		synced := filepath.Join(d.Path(), fmt.Sprint("synced", i))
		f, err := os.Create(synced)
		require.NoError(t, err)
		_, err = f.WriteString("whole")
		require.NoError(t, err)
		before, err := d.Counts()
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		require.NoError(t, f.Close())
		after, err := d.Counts()
		require.NoError(t, err)
		require.NotZero(t, after.Sub(before).Flushes)
		require.GreaterOrEqual(t, after.Sub(before).Bytes, uint64(4096))
		loose := filepath.Join(d.Path(), fmt.Sprint("loose", i))
		require.NoError(t, os.WriteFile(loose, []byte("gone"), 0o600))

		dark := d.Dark()
		require.NoError(t, d.Cut(Cut{Keep: keep, Seed: 1}))
		<-dark
		f, err = os.Open(synced)
		require.NoError(t, err)
		require.Error(t, f.Sync(), "the disk is off")
		require.NoError(t, f.Close())
		require.NoError(t, d.Unmount())
		require.NoError(t, d.Mount())
		got, err := os.ReadFile(synced)
		require.NoError(t, err)
		require.Equal(t, "whole", string(got))
		require.NoFileExists(t, loose)
		require.NoError(t, d.Unmount())
		require.NoError(t, d.Check())
		require.NoError(t, d.Mount())
	}
}

func init() {
	// hold makes a disk, tells of it and waits to be killed.
	roles["hold"] = func(dir string, _ uint64) error {
		d, err := New(dir)
		if err != nil {
			return err
		}
		fmt.Println(d.Loop(), d.proc.Process.Pid)
		select {}
	}
}

// TestNothingIsLeft: neither Close nor a kill leaves a mount, a loop device or a
// process.
func TestNothingIsLeft(t *testing.T) {
	gone := func(dir, loop string) {
		t.Helper()
		require.Eventually(t, func() bool {
			back, err := os.ReadFile("/sys/block/" + loop + "/loop/backing_file")
			return err != nil || !strings.Contains(string(back), dir)
		}, 20*time.Second, 10*time.Millisecond, "%s is still there", loop)
	}
	d := newDisk(t)
	loop := d.Loop()
	require.NoError(t, d.Close())
	gone(d.dir, loop)
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), d.dir)

	dir := t.TempDir()
	w := startWorker(t, "hold", dir, 0, at{lines: 1}, aloneEnv+"=") // in a namespace of its own, as a test binary is
	select {
	case <-w.on:
	case <-w.ended:
		t.Fatal(w.kill(), w.stderr.String())
	}
	lines := w.kill()
	var pid int
	_, err = fmt.Sscan(lines[0], &loop, &pid)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return syscall.Kill(pid, 0) != nil }, 20*time.Second, 10*time.Millisecond)
	gone(dir, loop)
}
