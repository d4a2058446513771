package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/configs/plainyaml"
)

// The line that the parser names may be the one after the mistake; what is said names the right one, and no value.
func TestHint(t *testing.T) {
	syntax := plainyaml.Problem{Line: 2, Column: 1, Bad: "syntax error", Want: "x."}
	for text, want := range map[string]string{
		"gateway gw-0017\nstate: /x":                    "x: want a colon after gateway in line 1.",
		"a:\n  b:\n  password hunter2\n":                "x: want a colon after password in line 3.",
		"- {name: \"a]\", every: 1s # }\n- {name: b}\n": "x: the { of line 1 is not closed.",
		"a: 'it''s # ['\nb: 1\n":                        "x.",
		"a: {b: [1, 2}\nc: 1\n":                         "x: the [ of line 1 is not closed.",
		"a:\n- b: 1\n  c: 2\n":                          "x.",
		"a:\r\n  url: mqtt://h\r\n":                     "x.",
		"a:\n  url:mqtt\n":                              "x: want a blank after url:.",
		"a: 1 # [\n\n  b: 2\n":                          "x: line 3 begins in column 3, and no key above that it can stand below: want the keys of one mapping one below the other.",
		strings.Repeat("[", 1000) + "\n":                "x: the [ of line 1 is not closed.",
		"a:\n  - b: 1\n    c: 2\n":                      "x.",
		"":                                              "x.",
	} {
		require.Equal(t, want, hint([]byte(text), syntax), text)
	}
	other := plainyaml.Problem{Line: 1, Bad: "too many keys", Want: "at most 10"}
	require.Equal(t, other.Want, hint([]byte("a b"), other))

	_, err := Parse("h.yaml", []byte("sensors:\n  - {name: a, every: 1s\n  - {name: b}\n"), nil)
	require.ErrorContains(t, err, "the { of line 2 is not closed")
	_, err = Parse("h.yaml", []byte("home:\n  password hunter2\n  url: x\n"), nil)
	require.NotContains(t, err.Error(), "hunter2")
}
