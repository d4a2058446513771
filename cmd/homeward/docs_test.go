package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPromisesName: docs/promises.md names tests that exist, in the package that it names before them.
func TestPromisesName(t *testing.T) {
	text, err := os.ReadFile("../../docs/promises.md")
	require.NoError(t, err)
	tests := map[string]map[string]bool{} // package → names
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	require.NoError(t, filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("../..", filepath.Dir(path))
		if err != nil {
			return err
		}
		if tests[rel] == nil {
			tests[rel] = map[string]bool{}
		}
		for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
			tests[rel][m[1]] = true
		}
		return nil
	}))
	named := 0
	for _, row := range strings.Split(string(text), "\n") {
		at := ""
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row, -1) {
			switch word := m[1]; {
			case tests[word] != nil:
				at = word
			case strings.HasPrefix(word, "Test") || strings.HasPrefix(word, "Fuzz"):
				require.True(t, tests[at][word] || word == "TestConformance" && tests["drivers/modbus"][word], "docs/promises.md: %s in %q", word, at)
				named++
			}
		}
	}
	require.Greater(t, named, 30)
}
