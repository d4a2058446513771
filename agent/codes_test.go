package agent

import (
	"os"
	"regexp"
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
