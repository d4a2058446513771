package site

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"homeward/configs/plainyaml"
	"homeward/drivers"
)

var bounds = plainyaml.Bounds{Tokens: 100_000, Keys: 200, Column: 256, Problems: maxProblems}

// reader turns nodes into values and keeps going after a mistake.
type reader struct {
	file     string
	problems Problems
	said     map[string]bool // paths that have a problem: what is wrong for another reason as well can wait
	plainyaml.Guesser
}

// node is a place in the document; one that is not given, a key that is missing.
type node struct {
	r *reader
	plainyaml.Node
}

// bad reports the node as it stands.
func (x node) bad(want string, args ...any) { x.wrong(x.Shown(), want, args...) }

func (x node) wrong(what, want string, args ...any) { x.wrongAt(x.Line, x.Column, what, want, args...) }

func (x node) wrongAt(line, column int, what, want string, args ...any) {
	if len(args) > 0 {
		want = fmt.Sprintf(want, args...)
	}
	if x.r.said[x.Path] {
		return
	}
	if x.Path != "" {
		x.r.said[x.Path] = true
	}
	x.r.problems = append(x.r.problems, Problem{x.r.file, line, column, x.Path, what, want})
}

// parse returns the root of the document, which is not given after it reported why there is none.
func (r *reader) parse(data []byte) node {
	root, problems := plainyaml.Parse(data, bounds)
	file := node{r: r}
	for _, p := range problems {
		switch why, sentence := strings.CutSuffix(p.Want, "."); {
		case p.Sign:
			file.wrongAt(p.Line, p.Column, p.Bad, "plain YAML without & * << ! ? %; a text that begins with one of these goes in quotes")
		case sentence:
			file.wrongAt(p.Line, p.Column, p.Bad+": "+why, "")
		default:
			file.wrongAt(p.Line, p.Column, p.Bad, p.Want)
		}
	}
	if !root.Given() && len(problems) == 0 {
		file.wrongAt(1, 1, "nothing in it", "keys such as ports: and i2c:")
	}
	return node{r, root}
}

// fields are the entries of a mapping. A key that is not there is a missing node at the mapping's place.
type fields struct {
	node
	keys map[string]node
}

func (f fields) at(key string) node {
	if x, ok := f.keys[key]; ok {
		return x
	}
	return node{f.r, f.Missing(key)}
}

// mapping reads the entries; keys that are not among known are reported. Without known ones, any will do.
func (x node) mapping(known ...string) (f fields, ok bool) {
	f = fields{x, map[string]node{}}
	entries, ok := x.Entries()
	if !ok {
		x.bad("a mapping of keys to values")
		return f, false
	}
	for _, e := range entries {
		v := node{x.r, e.Node}
		if e.Before > 0 {
			v.wrongAt(e.KeyLine, e.KeyColumn, "given twice", "it once; it is already on line %d", e.Before)
			continue
		}
		if len(known) > 0 && !slices.Contains(known, e.Key) {
			v.wrongAt(e.KeyLine, e.KeyColumn, "unknown key", "%s", x.r.oneOf(e.Key, known))
			continue
		}
		f.keys[e.Key] = v
	}
	return f, true
}

// oneOf is the word that was meant, or what there is.
func (r *reader) oneOf(word string, known []string) string {
	if g := r.Guess(word, known); g != "" {
		return g
	}
	return "one of " + strings.Join(known[:min(len(known), 30)], ", ")
}

// list reads the items of a list; one that is missing has none.
func (x node) list() (items []node) {
	if !x.Given() {
		return nil
	}
	list, ok := x.Items()
	if !ok {
		x.bad("a list: [ … ], or lines that begin with -")
	}
	for _, item := range list {
		items = append(items, node{x.r, item})
	}
	return items
}

// text is a text that is not empty; want says which.
func (x node) text(want string) (string, bool) {
	text, kind := x.Scalar()
	if kind == "number" || kind == "boolean" {
		x.bad("%s; a text that looks like a number goes in quotes", want)
		return "", false
	}
	if kind != "text" || text == "" {
		x.bad("%s", want)
		return "", false
	}
	return text, true
}

// name is the name of a sensor or channel.
func (x node) name() string {
	text, ok := x.text("a name")
	if ok && !drivers.IsName(text) {
		x.bad(drivers.WantName)
		return ""
	}
	return text
}

// busName is the name of a port or bus, which is part of a path and of sim:NAME.
func (x node) busName() string {
	const want = "1 to 32 of a-z A-Z 0-9 . _ -, beginning with a letter or digit, such as i2c-1 or rs485"
	text, ok := x.text(want)
	if ok && (len(text) > 32 || strings.ContainsRune("._-", rune(text[0])) || strings.ContainsFunc(text, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c))
	})) {
		x.bad(want)
		return ""
	}
	return text
}

// choice is one of some words, the first of which is meant where the key is missing and may be.
func (x node) choice(required bool, words ...string) string {
	if !x.Given() && !required {
		return words[0]
	}
	text, _ := x.Scalar()
	if !slices.Contains(words, text) {
		want := plainyaml.OrList(words)
		if g := x.r.Guess(text, words); g != "" && len(words) > 1 && text != "" {
			want += "; did you mean " + g + "?"
		}
		x.bad("%s", want)
		return ""
	}
	return text
}

// duration is a time of at least low and at most high; missing, it is def, or reported where def is negative.
func (x node) duration(def, low, high time.Duration) time.Duration {
	if !x.Given() && def >= 0 {
		return def
	}
	text, _ := x.Scalar()
	d, err := time.ParseDuration(text)
	if err != nil || d < low || d > high {
		x.bad("a time from %v to %v, such as 500ms, 10s, 5m or 24h", low, high)
		return max(def, low)
	}
	return d
}

// number is a finite number; missing, it is *def, or reported where def is nil.
func (x node) number(def *float64) float64 {
	if !x.Given() && def != nil {
		return *def
	}
	text, kind := x.Scalar()
	v, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
	if kind != "number" || err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		x.bad("a number")
		return 0
	}
	return v
}

// whole is a whole number from low to high; missing, it is def, or reported where def is below low.
func (x node) whole(def, low, high int) int {
	if !x.Given() && def >= low {
		return def
	}
	text, kind := x.Scalar()
	plain := strings.ReplaceAll(text, "_", "")
	v, err := strconv.ParseInt(plain, 0, 64)
	leading := len(plain) > 1 && plain[0] == '0' && plain[1] <= '9' // octal, or not?
	if kind != "number" || err != nil || leading || v < int64(low) || v > int64(high) {
		x.bad("a whole number from %d to %d", low, high)
		return low - 1
	}
	return int(v)
}

// truth is true or false.
func (x node) truth(def bool) bool {
	if !x.Given() {
		return def
	}
	text, kind := x.Scalar()
	if kind != "boolean" {
		x.bad("true or false")
	}
	return strings.EqualFold(text, "true")
}
