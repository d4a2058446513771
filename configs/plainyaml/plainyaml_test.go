package plainyaml

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var small = Bounds{Tokens: 1000, Keys: 10, Column: 40, Problems: 5}

// show is a document as its places, kinds and texts.
func show(x Node) string {
	text, kind := x.Scalar()
	s := fmt.Sprintf("%d:%d %s %s %q\n", x.Line, x.Column, x.Path, kind, text)
	entries, _ := x.Entries()
	for _, e := range entries {
		s += show(e.Node)
	}
	items, _ := x.Items()
	for _, e := range items {
		s += show(e)
	}
	return s
}

// Every value has its own place; a mapping, a list and nothing have their key's or dash's.
func TestPlaces(t *testing.T) {
	root, problems := Parse([]byte("\ufeffa: 1\nb:\n  - c: {d: x, \"e f\": yes}\n    g: 1e-3\n  -\n  - |-\n    h\ni:\nk: [true, \"2\", ~]\n"), small)
	require.Empty(t, problems)
	require.Equal(t, `1:1  mapping ""
1:4 a number "1"
2:1 b list ""
3:5 b[0] mapping ""
3:5 b[0].c mapping ""
3:12 b[0].c.d text "x"
3:22 b[0].c."e f" text "yes"
4:8 b[0].g number "1e-3"
5:3 b[1] null ""
6:5 b[2] text "h"
8:1 i null ""
9:1 k list ""
9:5 k[0] boolean "true"
9:11 k[1] text "2"
9:16 k[2] null ""
`, show(root))
	m := root.Missing("z")
	require.Equal(t, "missing", m.Shown())
	require.False(t, m.Given() || m.Single())
	require.Equal(t, []any{"z", 1, 1}, []any{m.Path, m.Line, m.Column})

	root, problems = Parse([]byte("a: 1\nb: 2\na: 3\na: 4\n"), small)
	require.Empty(t, problems)
	entries, ok := root.Entries()
	require.True(t, ok)
	require.Equal(t, []int{0, 0, 1, 1}, []int{entries[0].Before, entries[1].Before, entries[2].Before, entries[3].Before})
	_, ok = root.Items()
	require.False(t, ok)

	root, problems = Parse([]byte("# nothing\n"), small)
	require.Empty(t, problems)
	require.False(t, root.Given())
}

// What is too much is refused before the parser sees it, in blocks and in braces.
func TestBounds(t *testing.T) {
	keys := func(n int, sep string) (s string) {
		for i := range n {
			s += fmt.Sprintf("k%d: 1%s", i, sep)
		}
		return s
	}
	for text, want := range map[string]string{
		keys(10, "\n"):                                    "",
		keys(11, "\n"):                                    "11:1 too many keys: at most 10 in one mapping",
		"{" + keys(10, ", ") + "}":                        "",
		"{" + keys(11, ", ") + "}":                        "1:72 too many keys: at most 10 in one mapping",
		strings.Repeat("- {a: 1, b: {c: 2}}\n", 30):       "",
		"[" + strings.Repeat("{a: 1, b: 2}, ", 30) + "]":  "",
		strings.Repeat("[", 16) + strings.Repeat("]", 16): "",
		strings.Repeat("[", 18) + strings.Repeat("]", 18): "1:17 nested too deeply: at most 16 levels",
		"a:\n" + strings.Repeat(" ", 40) + "- b\n":        "2:41 nested too deeply: blocks that begin before column 40",
		"[" + strings.Repeat("1,", 500) + "]":             "0:0 1002 words and signs: at most 1000",
		strings.Repeat("#", MaxBytes+1):                   "0:0 1048577 bytes: at most 1048576",
		"a: &b 1\n":                                       "1:4 \"&\": the value itself: anchors (&), aliases (*) and merge keys (<<) are not used; a text that begins with one of these goes in quotes.",
		"a: 1\n---\nb: 2\n":                               "3:1 a second document: one document: nothing after ---",
	} {
		root, problems := Parse([]byte(text), small)
		if want == "" {
			require.Empty(t, problems, text)
			require.True(t, root.Given(), text)
			continue
		}
		require.Len(t, problems, 1, text)
		p := problems[0]
		require.Equal(t, want, fmt.Sprintf("%d:%d %s: %s", p.Line, p.Column, p.Bad, p.Want))
	}
	_, problems := Parse([]byte("["+strings.Repeat("&a 1, ", 100)+"]"), small)
	require.Len(t, problems, small.Problems)
	require.True(t, problems[0].Sign)
}

func TestWords(t *testing.T) {
	require.Equal(t, `"a\nb"`, Quote("a\nb"))
	require.Equal(t, `"`+strings.Repeat("é", 60)+`…"`, Quote(strings.Repeat("é", 61)))
	require.Equal(t, []string{"", "a", "a or b", "a, b or c"}, []string{OrList(nil), OrList([]string{"a"}), OrList([]string{"a", "b"}), OrList([]string{"a", "b", "c"})})
}

// What would keep the lexer or the parser busy for longer than its length says is refused, at its line, and no less than that is.
func TestCostly(t *testing.T) {
	many := Bounds{Tokens: 10_000, Keys: 5000, Column: 40, Problems: 5}
	const tabs = "3:1 too many tabs in one line: at most 100"
	nulls := func(n int) string {
		return strings.Repeat("- # nothing\n# here\n", n/2) + "- {" + strings.Repeat("a, b: , \"c\": 1, ", n/4) + "z: 1}\n"
	}
	for text, want := range map[string]string{
		"x: >\n  a\n" + strings.Repeat("\n", maxBlank) + "y: 1\n":                          "",
		"x: >\n  a\n" + strings.Repeat("\n", maxBlank+1) + "y: 1\n":                        "53:1 too many empty lines in a row: at most 50",
		"x: |\r\n  a\r\n" + strings.Repeat(" \r\n", maxBlank+1):                            "53:1 too many empty lines in a row: at most 50",
		"x: |\n  a\n" + strings.Repeat(strings.Repeat("\n", maxBlank)+"  a\n", 10):         "",
		"# a\n\nx: \"" + strings.Repeat("\ta", maxTabs) + "\"\n":                           "",
		"# a\n\nx: \"" + strings.Repeat("\ta", maxTabs+1) + "\"\n":                         tabs,
		"# a\n\nx: \"" + strings.Repeat(strings.Repeat("\ta", maxTabs)+"\n  ", 5) + "\"\n": "",
		"x: " + strings.Repeat("<", maxLess) + "\n":                                        "",
		"x:\n " + strings.Repeat("<", maxLess+1) + "\n":                                    "2:1 too many < in a row: at most 100",
		nulls(maxNulls):       "",
		nulls(maxNulls) + "-": "1002:1 too many values left out: at most 1000",
		"- {" + strings.Repeat("a, ", maxNulls) + "}\n- {b}\n":           "2:5 too many values left out: at most 1000",
		strings.Repeat("a:\n", maxNulls+1):                               "1001:2 too many values left out: at most 1000",
		strings.Repeat("- a:\n  - b\n  -   c:\n      d\n", maxNulls/2):   "",
		"x: [" + strings.Repeat("a, b: 1, [], {}, ", maxNulls/2) + "]\n": "",
		"x: {y: [- a]}\n": "1:9 a list of dashes inside of [ or {: [a, b], or a text that begins with - in quotes",
		"x: [-1, a-b]\n":  "",
	} {
		root, problems := Parse([]byte(text), many)
		if want == "" {
			require.Empty(t, problems, "%.60q", text)
			require.True(t, root.Given(), "%.60q", text)
			continue
		}
		require.NotEmpty(t, problems, "%.60q", text)
		p := problems[0]
		require.Equal(t, want, fmt.Sprintf("%d:%d %s: %s", p.Line, p.Column, p.Bad, p.Want), "%.60q", text)
	}
}
