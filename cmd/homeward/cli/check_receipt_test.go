package cli

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"homeward/agent"
)

// TestQRFits: the longest code fits a terminal of 80 columns and is square.
func TestQRFits(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, printQR(&out, strings.Repeat("x", agent.MaxCompact)))
	rows := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for _, row := range rows {
		width := utf8.RuneCountInString(regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(row, ""))
		require.Equal(t, 69+4, width)
	}
	require.Len(t, rows, (69+4+1)/2)
}
