package delta

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func code(err error) string {
	var c interface{ Code() string }
	if errors.As(err, &c) {
		return c.Code()
	}
	return ""
}

// patched applies a patch in memory.
func patched(old, patch []byte, size int) ([]byte, error) {
	var b bytes.Buffer
	err := Patch(&b, bytes.NewReader(old), int64(len(old)), bytes.NewReader(patch), int64(len(patch)), int64(size))
	return b.Bytes(), err
}

func TestSuffixes(t *testing.T) {
	for _, s := range []string{"", "a", "aa", "ab", "ba", "banana", "mississippi", "aaaaaaaaab", "baaaaaaaaa", "abababababa", strings.Repeat("\x00", 300), "\xff\x00\xff\xff\x00"} {
		checkSuffixes(t, []byte(s))
	}
	rapid.Check(t, func(t *rapid.T) {
		symbols := rapid.IntRange(1, 256).Draw(t, "symbols")
		checkSuffixes(t, rapid.SliceOfN(rapid.Custom(func(t *rapid.T) byte { return byte(rapid.IntRange(0, symbols-1).Draw(t, "b")) }), 0, 300).Draw(t, "text"))
	})
}

func checkSuffixes(t require.TestingT, s []byte) {
	got := suffixes(s, 256)
	require.Len(t, got, len(s))
	require.True(t, sort.SliceIsSorted(got, func(i, j int) bool { return bytes.Compare(s[got[i]:], s[got[j]:]) < 0 }), "%q: %v", s, got)
	seen := slices.Clone(got)
	slices.Sort(seen)
	for i, p := range seen {
		require.EqualValues(t, i, p, "each place once")
	}
}

// texts are two contents that have something in common, as two versions do.
func texts(t *rapid.T) (old, new []byte) {
	symbols := rapid.SampledFrom([]int{1, 2, 4, 256}).Draw(t, "symbols")
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	piece := func(n int) []byte {
		b := make([]byte, random.IntN(n+1))
		for i := range b {
			b[i] = byte(random.IntN(symbols))
		}
		return b
	}
	old = piece(rapid.SampledFrom([]int{0, 3, 100, 5000}).Draw(t, "length"))
	for range rapid.IntRange(0, 20).Draw(t, "pieces") {
		if len(old) == 0 || random.IntN(4) == 0 {
			new = append(new, piece(200)...)
			continue
		}
		from := random.IntN(len(old))
		part := slices.Clone(old[from : from+random.IntN(len(old)-from+1)])
		for i := 0; i < len(part); i += 1 + random.IntN(60) { // addresses change here and there
			part[i]++
		}
		new = append(new, part...)
	}
	return old, new
}

func TestDiffPatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, new := texts(t)
		patch, err := Diff(old, new)
		require.NoError(t, err)
		again, err := Diff(old, new)
		require.NoError(t, err)
		require.Equal(t, patch, again, "the same each time")
		got, err := patched(old, patch, len(new))
		require.NoError(t, err)
		require.True(t, bytes.Equal(new, got))
		// Any other size is refused, and a shorter old content never read beyond.
		_, err = patched(old, patch, len(new)+1)
		require.Equal(t, "delta.size", code(err))
		if len(old) > 0 {
			_, err = patched(old[:len(old)/2], patch, len(new))
			require.Contains(t, []string{"", "delta.malformed"}, code(err))
		}
	})
}

// raw makes a patch of given blocks.
func raw(t testing.TB, triples [][3]int64, difference, extra string, size int64) []byte {
	t.Helper()
	var control []byte
	for _, tr := range triples {
		var b [tripleLen]byte
		for i, v := range tr {
			putNumber(b[8*i:], v)
		}
		control = append(control, b[:]...)
	}
	blocks := [][]byte{bzip(control, 1), bzip([]byte(difference), 1), bzip([]byte(extra), 1)}
	patch := make([]byte, headerLen)
	copy(patch, magic)
	putNumber(patch[8:], int64(len(blocks[0])))
	putNumber(patch[16:], int64(len(blocks[1])))
	putNumber(patch[24:], size)
	return append(patch, bytes.Join(blocks, nil)...)
}

const maxInt64 = 1<<63 - 1

func TestHostilePatches(t *testing.T) {
	const old = "0123456789"
	good := raw(t, [][3]int64{{2, 1, 3}, {5, 0, -10}, {1, 1, 0}}, "\x00\x00\x00\x00\x00\x00\x00\x01", "xy", 10)
	got, err := patched([]byte(old), good, 10)
	require.NoError(t, err)
	require.Equal(t, "01x567891y", string(got))
	with := func(at int, v int64) []byte {
		p := slices.Clone(good)
		putNumber(p[at:], v)
		return p
	}
	for _, tt := range []struct {
		name  string
		patch []byte
		code  string
		want  string
	}{
		{"empty", nil, "delta.malformed", "header"},
		{"half a header", good[:31], "delta.malformed", "header"},
		{"other magic", append([]byte("BSDIFF41"), good[8:]...), "delta.malformed", "BSDIFF40"},
		{"negative control length", with(8, -1), "delta.malformed", "inside"},
		{"control length beyond the end", with(8, int64(len(good))), "delta.malformed", "inside"},
		{"control length overflows", with(8, maxInt64), "delta.malformed", "inside"},
		{"negative difference length", with(16, -1), "delta.malformed", "inside"},
		{"difference length overflows with control", with(16, maxInt64), "delta.malformed", "inside"},
		{"negative size", with(24, -10), "delta.size", "want 10"},
		{"negative zero lengths", with(8, -0), "delta.malformed", "control block"},
		{"another size than signed", with(24, 11), "delta.size", "makes 11 bytes: want 10"},
		{"huge size", with(24, maxInt64), "delta.size", "want 10"},
		{"negative add", raw(t, [][3]int64{{-1, 10, 0}}, "", "0123456789", 10), "delta.malformed", "writes -1"},
		{"negative insert", raw(t, [][3]int64{{10, -1, 0}}, "0123456789", "", 10), "delta.malformed", "and -1 bytes"},
		{"add beyond the size", raw(t, [][3]int64{{11, 0, 0}}, "0123456789a", "", 10), "delta.malformed", "the 10 that are left"},
		{"insert beyond the size", raw(t, [][3]int64{{5, 6, 0}}, "01234", "012345", 10), "delta.malformed", "the 10 that are left"},
		{"add and insert overflow", raw(t, [][3]int64{{maxInt64, maxInt64, 0}}, "", "", 10), "delta.malformed", "are left"},
		{"reads beyond the old content", raw(t, [][3]int64{{5, 0, 4}, {2, 3, 0}}, "0123456", "012", 10), "delta.malformed", "reads 2 bytes at 9"},
		{"moves before the old content", raw(t, [][3]int64{{5, 0, -6}, {5, 0, 0}}, "0123456789", "", 10), "delta.malformed", "moves by -6"},
		{"moves beyond the old content", raw(t, [][3]int64{{5, 0, 6}, {0, 5, 0}}, "01234", "01234", 10), "delta.malformed", "moves by 6"},
		{"move overflows", raw(t, [][3]int64{{5, 0, maxInt64}, {0, 5, 0}}, "01234", "01234", 10), "delta.malformed", "moves by"},
		{"most negative move", raw(t, [][3]int64{{5, 0, -maxInt64}, {0, 5, 0}}, "01234", "01234", 10), "delta.malformed", "moves by"},
		{"only moves", raw(t, slices.Repeat([][3]int64{{0, 0, 0}}, 1000), "", "", 10), "delta.malformed", "more triples than"},
		{"control ends early", raw(t, [][3]int64{{5, 0, 0}}, "01234", "", 10), "delta.malformed", "control block ends too early"},
		{"difference ends early", raw(t, [][3]int64{{10, 0, 0}}, "01234", "", 10), "delta.malformed", "difference block ends too early"},
		{"extra ends early", raw(t, [][3]int64{{0, 10, 0}}, "", "01234", 10), "delta.malformed", "extra block ends too early"},
		{"control goes on", raw(t, [][3]int64{{0, 10, 0}, {0, 0, 0}}, "", "0123456789", 10), "delta.malformed", "control block has more"},
		{"difference goes on", raw(t, [][3]int64{{0, 10, 0}}, "1", "0123456789", 10), "delta.malformed", "difference block has more"},
		{"extra goes on", raw(t, [][3]int64{{0, 10, 0}}, "", "0123456789a", 10), "delta.malformed", "extra block has more"},
		{"no bzip2", append(slices.Clone(good[:headerLen]), bytes.Repeat([]byte("x"), len(good)-headerLen)...), "delta.malformed", "control block: bzip2"},
		{"cut", good[:len(good)-5], "delta.malformed", "extra block ends too early"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := patched([]byte(old), tt.patch, 10)
			require.Equal(t, tt.code, code(err), "%v", err)
			require.ErrorContains(t, err, tt.want)
			require.LessOrEqual(t, len(got), 10)
		})
	}
	for _, size := range []int64{-1, MaxSize + 1, maxInt64} {
		require.Equal(t, "delta.size", code(Patch(&bytes.Buffer{}, strings.NewReader(old), size, bytes.NewReader(good), int64(len(good)), 10)))
		require.Equal(t, "delta.size", code(Patch(&bytes.Buffer{}, strings.NewReader(old), 10, bytes.NewReader(good), size, 10)))
		require.Equal(t, "delta.size", code(Patch(&bytes.Buffer{}, strings.NewReader(old), 10, bytes.NewReader(good), int64(len(good)), size)))
	}
}

// failing fails after n bytes.
type failing struct {
	n   int
	err error
}

func (f *failing) Write(b []byte) (int, error) {
	if f.n -= len(b); f.n < 0 {
		return 0, f.err
	}
	return len(b), nil
}

func (f *failing) ReadAt(b []byte, at int64) (int, error) { return 0, f.err }

func (f *failing) Read(b []byte) (int, error) { return 0, f.err }

// What fails in reading and writing is nobody's hostile patch: it is passed on, without a code, and may be tried again.
func TestTroubleIsPassedOn(t *testing.T) {
	old, disk := []byte(strings.Repeat("0123456789", 10_000)), errors.New("disk")
	new := append(slices.Clone(old), "more"...)
	patch, err := Diff(old, new)
	require.NoError(t, err)
	o, p := bytes.NewReader(old), bytes.NewReader(patch)
	sizes := func(w *failing, old, patch interface {
		ReadAt([]byte, int64) (int, error)
	}) error {
		return Patch(w, old, o.Size(), patch, p.Size(), int64(len(new)))
	}
	fine, broken := &failing{n: 1 << 30}, &failing{err: disk}
	require.NoError(t, sizes(fine, o, p))
	for _, err := range []error{sizes(broken, o, p), sizes(&failing{n: 70_000, err: disk}, o, p), sizes(fine, broken, p), sizes(fine, o, broken)} {
		require.ErrorIs(t, err, disk)
		require.Empty(t, code(err))
	}
	var z bytes.Buffer
	require.NoError(t, Compress(&z, bytes.NewReader(new)))
	for _, err := range []error{
		Compress(broken, bytes.NewReader(new)), Compress(&z, broken),
		Decompress(broken, &z, int64(len(new))), Decompress(&bytes.Buffer{}, broken, 10),
	} {
		require.ErrorIs(t, err, disk)
		require.Empty(t, code(err))
	}
	short := sizes(fine, bytes.NewReader(old[:10]), p) // the file is shorter than was said
	require.ErrorContains(t, short, "read the old content")
	require.Empty(t, code(short))
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing: scripts/test-deps installs it", p)
			}
			t.Skipf("%s is missing: scripts/test-deps installs it", p)
		}
	}
}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}

// build compiles a program from source, as releases are built.
func build(t *testing.T, name, source, flags string, env ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "main.go", []byte(source))
	write(t, dir, "go.mod", []byte("module example\n\ngo 1.26\n"))
	out := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux", "GOARCH=arm64")
	cmd.Env = append(cmd.Env, env...)
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	return data
}

const stripped = "-s -w"

// program is the source of a small program: each version says a little more.
func program(version int) string {
	s := "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)\n\nfunc main() {\n\tfmt.Println(\"version\", len(os.Args))\n"
	for i := range version {
		s += fmt.Sprintf("\tif len(os.Args) > %d {\n\t\tfmt.Printf(\"%%q is one too many for %%d\\n\", os.Args[%d], %d)\n\t}\n", i+2, i+1, i*7)
	}
	return s + "}\n"
}

// pairs are old and new contents: two builds for each of two platforms, and what is no program.
func pairs(t *testing.T) map[string][2][]byte {
	t.Helper()
	random := rand.New(rand.NewPCG(5, 5))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	moved := slices.Concat(noise[200_000:], []byte("in between"), noise[50_000:200_000], noise[:50_000])
	return map[string][2][]byte{
		"Go, arm64, one line":     {build(t, "p", program(1), stripped), build(t, "p", program(2), stripped)},
		"Go, armv6, more lines":   {build(t, "p", program(1), stripped, "GOARCH=arm", "GOARM=6"), build(t, "p", program(9), stripped, "GOARCH=arm", "GOARM=6")},
		"noise, pieces moved":     {noise, moved},
		"nothing in common":       {noise[:1000], []byte(strings.Repeat("text ", 5000))},
		"from nothing":            {nil, []byte("something")},
		"to nothing":              {[]byte("something"), nil},
		"the same":                {noise, noise},
		"zeros":                   {make([]byte, 50_000), make([]byte, 80_000)},
		"one byte longer at 0":    {noise, slices.Concat([]byte{1}, noise)},
		"begins with the old end": {noise[:10_000], slices.Concat(noise[9_000:10_000], noise[:9_000])},
	}
}

// TestDebian: Debian's bspatch applies our patches, and we apply those of Debian's bsdiff, which are no smaller by more than one in fifty.
func TestDebian(t *testing.T) {
	t.Parallel()
	needs(t, "bsdiff", "bspatch")
	for name, pair := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			old, new := pair[0], pair[1]
			dir := t.TempDir()
			oldFile, newFile := write(t, dir, "old", old), write(t, dir, "new", new)
			ours, err := Diff(old, new)
			require.NoError(t, err)
			oursFile, made := write(t, dir, "ours", ours), filepath.Join(dir, "made")
			said, err := exec.Command("bspatch", oldFile, made, oursFile).CombinedOutput()
			require.NoError(t, err, "%s", said)
			got, err := os.ReadFile(made)
			require.NoError(t, err)
			require.True(t, bytes.Equal(new, got), "bspatch makes the new content of our patch")

			got, err = patched(old, ours, len(new))
			require.NoError(t, err)
			require.True(t, bytes.Equal(new, got))
			if len(old) == 0 || len(new) == 0 {
				return // Debian's bsdiff takes no empty files
			}
			theirsFile := filepath.Join(dir, "theirs")
			said, err = exec.Command("bsdiff", oldFile, newFile, theirsFile).CombinedOutput()
			require.NoError(t, err, "%s", said)
			theirs, err := os.ReadFile(theirsFile)
			require.NoError(t, err)
			got, err = patched(old, theirs, len(new))
			require.NoError(t, err)
			require.True(t, bytes.Equal(new, got))
			t.Logf("%d bytes to %d: our patch %d, Debian's %d", len(old), len(new), len(ours), len(theirs))
			require.LessOrEqual(t, len(ours), len(theirs)*51/50+32)
		})
	}
}

// Repetitive contents have long matches everywhere. Looking at each to its end would take long for these.
func TestRepetitive(t *testing.T) {
	t.Parallel()
	const size = 1_000_000
	zeros, periodic := make([]byte, size), bytes.Repeat([]byte("abcdefghijklmnopqrstuvwxyz012345"), size/32)
	marked := func(b []byte, each int) []byte {
		b = bytes.Clone(b)
		for i := 0; i < len(b); i += each {
			b[i] = '!'
		}
		return b
	}
	for name, pair := range map[string][2][]byte{
		"zeros":            {zeros, make([]byte, 2*size)},
		"zeros with marks": {zeros, marked(zeros, 5003)},
		"marks to zeros":   {marked(zeros, 5003), zeros},
		"periods":          {periodic, marked(periodic, 33_331)},
		"periods, back":    {marked(periodic, 33_331), periodic},
	} {
		patch, err := Diff(pair[0], pair[1])
		require.NoError(t, err)
		got, err := patched(pair[0], patch, len(pair[1]))
		require.NoError(t, err)
		require.True(t, bytes.Equal(pair[1], got), name)
		require.Less(t, len(patch), 1000, name)
	}
}
