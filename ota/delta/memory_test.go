package delta

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// applier builds the program that applies what it is told, and nothing else.
func applier(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "apply")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", stripped, "-o", path, "./testdata/apply")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	return path
}

// peak applies in a process of its own and returns the most memory that it had, in bytes (VmHWM: all that was resident, the program
// itself counted).
func peak(t *testing.T, program string, args ...string) int {
	t.Helper()
	cmd := exec.Command(program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	found := regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`).FindSubmatch(out)
	require.NotNil(t, found, "%s", out)
	kb, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return kb * 1024
}

// big makes two contents of 15 MB and what leads from one to the other: so many pieces, changes and new bytes that each of the three
// streams fills the largest bzip2 block.
func big() differ {
	const size = 15_000_000
	random := rand.New(rand.NewPCG(15, 15))
	d := differ{old: make([]byte, size)}
	for i := range d.old {
		d.old[i] = byte(i>>4) ^ byte(i>>11)
	}
	for at := 0; len(d.new) < size; {
		left := size - len(d.new)
		add, insert := min(left, random.IntN(min(700, size-at))), 0
		for i := range add {
			by := byte(0)
			if random.IntN(60) == 0 {
				by = byte(random.Uint32())
			}
			d.difference = append(d.difference, by)
			d.new = append(d.new, d.old[at+i]+by)
		}
		if random.IntN(3) == 0 {
			insert = min(left-add, random.IntN(150))
		}
		for range insert {
			d.extra = append(d.extra, byte(random.Uint32()))
		}
		d.new = append(d.new, d.extra[len(d.extra)-insert:]...)
		to := random.IntN(size - 1)
		d.control = append(d.control, make([]byte, tripleLen)...)
		t := d.control[len(d.control)-tripleLen:]
		putNumber(t[0:], int64(add))
		putNumber(t[8:], int64(insert))
		putNumber(t[16:], int64(to-at-add))
		at = to
	}
	return d
}

// TestMemory: whatever a gateway applies, a content of 15 MB needs at most 16 MB of memory, the process's own included; also a patch of
// Debian's bsdiff, whose bzip2 blocks are the largest there are. Measured on amd64 on 2026-11-30: docs/benchmarks.md.
func TestMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("no /proc here")
	}
	t.Parallel()
	const bound = 16_000_000
	dir, program := t.TempDir(), applier(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	blocks := big()
	require.Greater(t, min(len(blocks.control), len(blocks.extra)), 900_000)
	write(t, dir, "old", blocks.old)
	new := blocks.new
	ways := []string{"patch, largest blocks", "zstd"}
	write(t, dir, ways[0], blocks.patch(9))
	if os.Getenv("HOMEWARD_CAMPAIGN") == "1" {
		ways = append(ways, "patch")
		write(t, dir, "patch", blocks.patch(level))
	}
	var z bytes.Buffer
	fast, err := zstd.NewWriter(&z, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<WindowLog)) // a decoder's memory is the window's
	require.NoError(t, err)
	_, err = fast.Write(new)
	require.NoError(t, err)
	require.NoError(t, fast.Close())
	write(t, dir, "zstd", z.Bytes())
	t.Logf("a process that does nothing: %.1f MB", float64(peak(t, program))/1e6)
	for _, how := range ways {
		args := []string{file(how), file("made"), strconv.Itoa(len(new))}
		if how != "zstd" {
			args = append(args, file("old"))
		}
		got := peak(t, program, args...)
		blob, err := os.Stat(file(how))
		require.NoError(t, err)
		t.Logf("%s of %d bytes for %d: at most %.1f MB", how, blob.Size(), len(new), float64(got)/1e6)
		require.LessOrEqual(t, got, bound, how)
		made, err := os.ReadFile(file("made"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(new, made), how)
	}
}
