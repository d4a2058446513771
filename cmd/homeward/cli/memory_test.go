package cli

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Pages of the program come back as they are used, and those that are not stay away.
func TestUnmapProgram(t *testing.T) {
	fileKB := func() int {
		text, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		m := regexp.MustCompile(`RssFile:\s+(\d+) kB`).FindSubmatch(text)
		require.NotNil(t, m)
		n, err := strconv.Atoi(string(m[1]))
		require.NoError(t, err)
		return n
	}
	before := fileKB()
	require.NoError(t, unmapProgram())
	after := fileKB()
	t.Logf("%d KB of files, then %d", before, after)
	require.Less(t, after, before*3/4)
}
