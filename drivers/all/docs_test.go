package all

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

const guide = "../../docs/drivers.md"

// TestGuideTable: each driver has its row.
func TestGuideTable(t *testing.T) {
	text, err := os.ReadFile(guide)
	require.NoError(t, err)
	for _, f := range Factories {
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			require.Regexp(t, "(?m)^\\|[^|]*`"+name+"`[^|]*\\|", string(text), "%s has no row in %s", name, guide)
		}
	}
}

// TestGuideExample: the example of docs/drivers.md is compiled as it stands, and its test passes.
func TestGuideExample(t *testing.T) {
	text, err := os.ReadFile(guide)
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(text, -1)
	require.Len(t, blocks, 2, "the driver and its test")
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for i, name := range []string{"tmp117.go", "tmp117_test.go"} {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, blocks[i][1], 0o600))
		overlay.Replace[filepath.Join(root, "drivers/tmp117", name)] = path
	}
	list, err := json.Marshal(overlay)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600))
	// gofmt says whether it may be copied as it is.
	out, err := exec.Command("gofmt", "-l", filepath.Join(dir, "tmp117.go"), filepath.Join(dir, "tmp117_test.go")).CombinedOutput()
	require.NoError(t, err)
	require.Empty(t, string(out), "gofmt would change it")
	// The package has no folder: vet and go test would look for it.
	program := filepath.Join(dir, "tmp117.test")
	cmd := exec.Command("go", "test", "-c", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "./drivers/tmp117")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(program, "-test.v").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestConformance/another_instrument_is_refused")
	require.Contains(t, string(out), "--- PASS: TestTable")
}
