package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"homeward/cmd/cmdline"
)

// Names of hostile payloads reach neither output as they are: a terminal would obey them. They mean the same in JSON.
func TestDecodeIsPlain(t *testing.T) {
	name := "a\u009b31mb\u007f\u202e\U000e0041ü°\U0001f321" + strings.Repeat("ö", 50) + "\u0085"
	payload := func(c string) string {
		return `{"gw":"g","e":1,"s":1,"n":1,"t":0,"g":[{"c":["` + c + `"],"u":[""],"r":[[0,1]]}]}` + "\n"
	}
	in := strings.Repeat(payload(name), 100) + // beyond what is written at once
		strings.Replace(payload(name), `"gw"`, `"\u009bx"`, 1) + strings.Replace(payload(name), `"n":1`, `"n":"\u009b"`, 1)
	in = strings.ReplaceAll(in, `\u009b`, "\u009b")
	cmd := decodeCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	var out, errs bytes.Buffer
	cmd.SetIn(strings.NewReader(in))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs([]string{})
	require.ErrorIs(t, cmd.Execute(), cmdline.ErrFailed)
	for _, text := range []string{out.String(), errs.String()} {
		require.NotEmpty(t, text)
		require.False(t, strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }), "%q", text)
	}
	require.Contains(t, errs.String(), "u009b")
	require.Contains(t, out.String(), "ü°\U0001f321")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.True(t, len(lines) == 100, len(lines))
	for _, line := range lines {
		var r struct{ Channel string }
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		require.Equal(t, name, r.Channel)
	}
}

// A character may be cut by the writes.
func TestPlainWriterTorn(t *testing.T) {
	var out bytes.Buffer
	w := &plainWriter{w: &out}
	for _, b := range []byte("ü\u009b\U0001f321\n") {
		n, err := w.Write([]byte{b})
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	require.Equal(t, "ü\\u009b\U0001f321\n", out.String())
}
