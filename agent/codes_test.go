package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCodes holds docs/codes.md and the codes of the program together, both ways.
func TestCodes(t *testing.T) {
	source, err := os.ReadFile("problems.go")
	require.NoError(t, err)
	doc, err := os.ReadFile("../docs/codes.md")
	require.NoError(t, err)
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`Code\w+\s+Code = "([^"]+)"`).FindAllSubmatch(source, -1) {
		used[string(m[1])] = true
		require.Contains(t, string(doc), "`"+string(m[1])+"`", "docs/codes.md explains it")
	}
	require.Greater(t, len(used), 20)
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\|").FindAllSubmatch(doc, -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllSubmatch(row[1], -1) {
			require.True(t, used[string(m[1])], "docs/codes.md explains %s, which the program never says", m[1])
		}
	}
}

// TestUpdateCodes: each code of updates is listed, and explained.
func TestUpdateCodes(t *testing.T) {
	listed, err := os.ReadFile("../docs/codes.md")
	require.NoError(t, err)
	explained, err := os.ReadFile("../docs/updates.md")
	require.NoError(t, err)
	n := 0
	require.NoError(t, filepath.WalkDir("../ota", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "crashfs") {
			return err
		}
		source, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?:Code\w*\s+=\s+|fault\()"((?:tuf|fetch|rel|slot|trial|order|move|update)\.[a-z_]+)"`).FindAllSubmatch(source, -1) {
			n++
			require.Contains(t, string(listed), "`"+string(m[1]), "docs/codes.md lists it")
			require.Contains(t, string(explained), "`"+string(m[1]), "docs/updates.md explains it")
		}
		return nil
	}))
	require.Greater(t, n, 40)
}
