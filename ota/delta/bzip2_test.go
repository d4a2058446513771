package delta

import (
	"bytes"
	"compress/bzip2"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func unzip(t require.TestingT, z []byte) []byte {
	data, err := io.ReadAll(bzip2.NewReader(bytes.NewReader(z)))
	require.NoError(t, err)
	return data
}

func TestBzip(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	noise := make([]byte, 250_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	steep := []byte{} // counts like Fibonacci's numbers: codes would become longer than they may
	for i, a, b := 0, 1, 1; i < 22; i, a, b = i+1, b, a+b {
		steep = append(steep, bytes.Repeat([]byte{byte(i * 7)}, a)...)
	}
	random.Shuffle(len(steep), func(i, j int) { steep[i], steep[j] = steep[j], steep[i] })
	for name, data := range map[string][]byte{
		"empty": nil, "one": {0}, "two": {1, 2}, "4": []byte("aaaa"), "5": []byte("aaaaa"), "255": bytes.Repeat([]byte{9}, 255), "256": bytes.Repeat([]byte{9}, 256),
		"259": bytes.Repeat([]byte{9}, 259), "260": bytes.Repeat([]byte{9}, 260), "zeros": make([]byte, 300_000), "periodic": []byte(strings.Repeat("abcab", 40_000)),
		"noise": noise, "steep": steep, "a block": noise[:99_981], "just over a block": noise[:99_982], "text": []byte(strings.Repeat("the quick brown fox ", 900)),
	} {
		for _, level := range []int{1, 9} {
			z := bzip(data, level)
			require.True(t, bytes.Equal(data, unzip(t, z)), "%s, level %d", name, level)
			require.LessOrEqual(t, len(z), len(data)+len(data)/50+200, name)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		_, data := texts(t)
		require.True(t, bytes.Equal(data, unzip(t, bzip(data, 1))))
	})
}

// TestBzipProgram: the bzip2 program reads it, and packs no better by more than one in fifty.
func TestBzipProgram(t *testing.T) {
	needs(t, "bzip2")
	data := build(t, "p", program(1), stripped)
	cmd := exec.Command("bzip2", "-d", "-c")
	z := bzip(data, 9)
	cmd.Stdin = bytes.NewReader(z)
	got, err := cmd.Output()
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	cmd = exec.Command("bzip2", "-9", "-c")
	cmd.Stdin = bytes.NewReader(data)
	theirs, err := cmd.Output()
	require.NoError(t, err)
	t.Logf("%d bytes: ours %d, the program's %d", len(data), len(z), len(theirs))
	require.LessOrEqual(t, len(z), len(theirs)*51/50)
}

func FuzzBzip(f *testing.F) {
	f.Add([]byte(""), 1)
	f.Add([]byte("aaaaaaaabbbbcd"), 9)
	f.Add(bytes.Repeat([]byte{0, 1}, 2000), 3)
	f.Fuzz(func(t *testing.T, data []byte, level int) {
		if level < 1 || level > 9 {
			level = 1
		}
		require.True(t, bytes.Equal(data, unzip(t, bzip(data, level))))
	})
}
