package delta

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAgentReleases builds the agent twice for arm64, the second time with one line changed, one more, and the next version, and says what a
// gateway has to load: at most 5 % of the whole. HOMEWARD_PAIRS ("OLD,NEW OLD,NEW") measures other files, too. docs/benchmarks.md
// keeps the figures.
func TestAgentReleases(t *testing.T) {
	if os.Getenv("HOMEWARD_CAMPAIGN") != "1" {
		t.Skip("builds the agent twice: in make campaign")
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	source := filepath.Join(root, "agent", "publish.go")
	text, err := os.ReadFile(source)
	require.NoError(t, err)
	dir, edited := t.TempDir(), string(text)
	for old, new := range map[string]string{`fmt.Errorf("`: `fmt.Errorf("again: `, "import (\n": "// One line more.\nimport (\n"} {
		require.Contains(t, edited, old)
		edited = strings.Replace(edited, old, new, 1)
	}
	changed := write(t, dir, "publish.go", []byte(edited))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{source: changed}})
	require.NoError(t, err)
	overlayFile := write(t, dir, "overlay.json", overlay)
	agent := func(version, flags string, more ...string) []byte {
		out := filepath.Join(dir, "homeward")
		cmd := exec.Command("go", append(append([]string{"build", "-trimpath",
			"-ldflags", flags + " -X homeward/cmd/homeward/cli.version=" + version, "-o", out}, more...), "./cmd/homeward")...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOOS=linux", "GOARCH=arm64")
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", said)
		data, err := os.ReadFile(out)
		require.NoError(t, err)
		return data
	}
	share := measure(t, "one line changed, one more", agent("1.9.0", stripped), agent("1.9.1", stripped, "-overlay", overlayFile))
	require.LessOrEqual(t, share, 5.0, "percent")
	measure(t, "the same, -compressdwarf=false", agent("1.9.0", "-compressdwarf=false"), agent("1.9.1", "-compressdwarf=false", "-overlay", overlayFile))
	measure(t, "the same, compressed DWARF", agent("1.9.0", ""), agent("1.9.1", "", "-overlay", overlayFile))
	for pair := range strings.FieldsSeq(os.Getenv("HOMEWARD_PAIRS")) {
		oldFile, newFile, _ := strings.Cut(pair, ",")
		old, err := os.ReadFile(oldFile)
		require.NoError(t, err)
		new, err := os.ReadFile(newFile)
		require.NoError(t, err)
		measure(t, filepath.Base(oldFile)+" to "+filepath.Base(newFile), old, new)
	}
}

// measure prints what a gateway has to load and returns the patch's share of the whole, in percent.
func measure(t *testing.T, what string, old, new []byte) float64 {
	t.Helper()
	patch, err := Diff(old, new)
	require.NoError(t, err)
	got, err := patched(old, patch, len(new))
	require.NoError(t, err)
	require.True(t, bytes.Equal(new, got))
	var z bytes.Buffer
	require.NoError(t, Compress(&z, bytes.NewReader(new)))
	share := float64(len(patch)) / float64(z.Len()) * 100
	t.Logf("%s: program %d bytes, whole %d, patch %d: %.2f %%", what, len(new), z.Len(), len(patch), share)
	return share
}
