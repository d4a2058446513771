//go:build linux

package buffer

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A file system that is really full, under the databases too. It needs the right to mount one.
func TestRealFullDisk(t *testing.T) {
	mnt := t.TempDir()
	if err := syscall.Mount("tmpfs", mnt, "tmpfs", 0, "size=8m"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("mount: %v", err)
		}
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(mnt, syscall.MNT_DETACH)) })
	for _, policy := range []WhenFull{DropOldest, StopSampling} {
		dir := filepath.Join(mnt, string(policy))
		opt := Options{HalfBytes: minHalf, SegmentBytes: minSegment, WhenFull: policy, Clock: stillClock{time.Unix(1e9, 0)}}
		b := mustOpen(t, dir, opt)
		l := mustLane(t, b, 1)
		for range 5 {
			add(t, l, 100)
			require.NoError(t, b.SealNow())
		}
		ballast := must(os.Create(filepath.Join(mnt, "ballast")))
		for err := error(nil); err == nil; {
			_, err = ballast.Write(make([]byte, 4096))
		}
		stored := 0
		for range 3000 {
			if _, err := l.Append(pollAt(int(l.Next()-1)/10, 10)); err == nil {
				stored++
			}
			if stored%200 == 0 {
				_ = b.SealNow()
			}
		}
		require.NotZero(t, stored)
		require.True(t, b.Stats().DiskFull)
		_, lost := accounted(t, b, l)
		require.Zero(t, lost)
		b.end() // killed on a full disk
		b = mustOpen(t, dir, opt)
		l = mustLane(t, b, 1)
		_, again := accounted(t, b, l)
		require.Equal(t, lost, again)
		require.NoError(t, ballast.Close())
		require.NoError(t, os.Remove(ballast.Name()))
		require.NoError(t, b.SealNow())
		require.NoError(t, b.SealNow())
		require.False(t, b.Stats().DiskFull)
		require.False(t, b.Stats().Stopped)
		add(t, l, 1)
		accounted(t, b, l)
		require.NoError(t, b.Close())
		b = mustOpen(t, dir, opt)
		require.Empty(t, b.Verify())
		require.NoError(t, b.Close())
		require.NoError(t, os.RemoveAll(dir))
	}
}
