package site

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The bounds of a file. The parser recurses with the nesting and is quadratic in the keys of one
// mapping; neither may be left to whoever wrote the file.
const (
	maxBytes  = 1 << 20
	maxTokens = 100_000
	maxFlow   = 16 // nested [ and {
	maxKeys   = 200
	maxColumn = 256 // where blocks may begin: bounds their nesting
)

// reader turns nodes into values and keeps going after a mistake.
type reader struct {
	file     string
	problems Problems
	said     map[string]bool // paths that have a problem: what is wrong for another reason as well can wait
}

// node is a place in the document.
type node struct {
	r            *reader
	n            ast.Node // nil: the key is missing
	path         string
	line, column int // of the value, or of its key where it is a mapping, a list or nothing
}

func (x node) given() bool { return x.n != nil }

// bad reports the node as it stands.
func (x node) bad(want string, args ...any) { x.wrong(x.shown(), want, args...) }

func (x node) wrong(what, want string, args ...any) {
	if len(args) > 0 {
		want = fmt.Sprintf(want, args...)
	}
	if x.r.said[x.path] {
		return
	}
	if x.path != "" {
		x.r.said[x.path] = true
	}
	x.r.problems = append(x.r.problems, Problem{x.r.file, x.line, x.column, x.path, what, want})
}

func (x node) shown() string {
	switch text, kind := scalar(x.n); kind {
	case "missing":
		return "missing"
	case "null":
		return "no value"
	case "mapping", "list":
		return "a " + kind
	default:
		return quote(text)
	}
}

// parse returns the root of the document, without a node after it reported why there is none.
func (r *reader) parse(data []byte) (root node) {
	at := func(line, column int) node { return node{r: r, line: line, column: column} }
	if len(data) > maxBytes {
		at(0, 0).wrong(fmt.Sprintf("%d bytes", len(data)), "at most %d", maxBytes)
		return
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors put a byte order mark first
	if line, column := badText(data); line > 0 {
		at(line, column).wrong("not text", "UTF-8 without control characters")
		return
	}
	defer func() {
		if p := recover(); p != nil {
			at(1, 1).wrong("not YAML that can be read", "plain YAML")
			root = node{}
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if len(tokens) > maxTokens {
		at(0, 0).wrong(fmt.Sprintf("%d words and signs", len(tokens)), "at most %d", maxTokens)
		return
	}
	if !r.plain(tokens) {
		return
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		line, column, message := 1, 1, "cannot be read"
		if y, ok := errors.AsType[yaml.Error](err); ok { // its Error method repeats the file
			message = y.GetMessage()
			if tk := y.GetToken(); tk != nil && tk.Position != nil {
				line, column = min(tk.Position.Line, 1+bytes.Count(data, []byte("\n"))), max(tk.Position.Column, 1)
			}
		}
		message = strings.NewReplacer("\n", " ", "\t", `\t`).Replace(message)
		if strings.Contains(message, `'\t'`) {
			message += " (indent with blanks, not with tabs)"
		}
		at(line, column).wrong("syntax error: "+message, "")
		return
	}
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType:
		case root.n != nil:
			line, column := position(doc.Body)
			at(line, column).wrong("a second document", "one document: nothing after ---")
		default:
			root = node{r, doc.Body, "", 1, 1}
		}
	}
	if root.n == nil {
		at(1, 1).wrong("nothing in it", "keys such as ports: and i2c:")
	}
	return root
}

// badText finds the first byte that is no UTF-8 or a control character.
func badText(data []byte) (line, column int) {
	line, column = 1, 1
	for len(data) > 0 {
		c, n := utf8.DecodeRune(data)
		switch {
		case c == utf8.RuneError && n == 1, c < ' ' && c != '\n' && c != '\r' && c != '\t', c == 0x7f,
			c == '\r' && !bytes.HasPrefix(data, []byte("\r\n")):
			return line, column
		case c == '\n':
			line, column = line+1, 0
		}
		data, column = data[n:], column+1
	}
	return 0, 0
}

// plain refuses what a site has no use for and a hostile file would bomb us with.
func (r *reader) plain(tokens token.Tokens) bool {
	flow := 0
	var keys [maxColumn + 1]int // in the present mapping that begins in a column, outside of [ and {
	var flowKeys [maxFlow + 1]int
	deepest := 0
	refuse := func(tk *token.Token, bad, want string, args ...any) {
		node{r: r, line: tk.Position.Line, column: tk.Position.Column}.wrong(bad, want, args...)
	}
	for _, tk := range tokens {
		if len(r.problems) > maxProblems {
			return false
		}
		switch tk.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.MappingKeyType, token.DirectiveType:
			refuse(tk, quote(tk.Value), "plain YAML without & * << ! ? %; a text that begins with one of these goes in quotes")
		case token.MappingStartType, token.SequenceStartType:
			if flow++; flow > maxFlow {
				refuse(tk, "nested too deeply", "at most %d levels", maxFlow)
				return false
			}
			flowKeys[flow] = 0
		case token.MappingEndType, token.SequenceEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingValueType:
			if flow > 0 {
				if flowKeys[flow]++; tk.Type == token.MappingValueType && flowKeys[flow] > maxKeys {
					refuse(tk, "too many keys", "at most %d in one mapping", maxKeys)
					return false
				}
				continue
			}
			first := tk
			if tk.Type == token.MappingValueType && tk.Prev != nil {
				first = tk.Prev // the key
			}
			at := first.Position.Column
			if at < 1 || at > maxColumn {
				refuse(tk, "nested too deeply", "blocks that begin before column %d", maxColumn)
				return false
			}
			for ; deepest > at; deepest-- {
				keys[deepest] = 0
			}
			deepest = at
			if keys[at]++; tk.Type == token.SequenceEntryType {
				keys[at] = 0
			} else if keys[at] > maxKeys {
				refuse(first, "too many keys", "at most %d in one mapping", maxKeys)
				return false
			}
		}
	}
	return len(r.problems) == 0
}

// scalar is the text of a node as it means it, and its kind: text, number, boolean, null, mapping, list or missing.
func scalar(n ast.Node) (text, kind string) {
	switch n := n.(type) {
	case nil:
		return "", "missing"
	case *ast.NullNode:
		return "", "null"
	case *ast.StringNode:
		if n.Token.Type == token.StringType && isFloat(n.Value) { // the parser takes 1e-3 for a text
			return n.Value, "number"
		}
		return n.Value, "text"
	case *ast.LiteralNode:
		return n.Value.Value, "text"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, "number"
	case *ast.BoolNode:
		return n.GetToken().Value, "boolean"
	case ast.MapNode:
		return "", "mapping"
	case *ast.SequenceNode:
		return "", "list"
	}
	return n.GetToken().Value, "text"
}

// isFloat is YAML 1.2.2's rule for plain numbers, §10.3.2.
func isFloat(s string) bool {
	_, err := strconv.ParseFloat(s, 64)
	return err == nil && !strings.ContainsFunc(s, func(c rune) bool { return !strings.ContainsRune("0123456789.eE+-", c) })
}

func position(n ast.Node) (line, column int) {
	// A mapping's own token is its first colon; it begins with its first key.
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return position(m.Values[0].Key)
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		return position(m.Key)
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return tk.Position.Line, tk.Position.Column
	}
	return 0, 0
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
	return node{r: f.r, path: join(f.path, key), line: f.line, column: f.column}
}

// mapping reads the entries; keys that are not among known are reported. Without known ones, any will do.
func (x node) mapping(known ...string) (f fields, ok bool) {
	f = fields{x, map[string]node{}}
	m, ok := x.n.(ast.MapNode)
	if !ok {
		x.bad("a mapping of keys to values")
		return f, false
	}
	lines := map[string]int{}
	for it := m.MapRange(); it.Next(); {
		key, _ := scalar(it.Key())
		e := node{r: x.r, n: it.Value(), path: join(x.path, plainKey(key))}
		e.line, e.column = position(it.Key())
		if line, twice := lines[key]; twice {
			e.wrong("given twice", "it once; it is already on line %d", line)
			continue
		}
		lines[key] = e.line
		if len(known) > 0 && !slices.Contains(known, key) {
			want := "one of " + strings.Join(known, ", ")
			if g := guess(key, known); g != "" {
				want = g
			}
			e.wrong("unknown key", want)
			continue
		}
		if _, kind := scalar(e.n); kind != "mapping" && kind != "list" && kind != "null" {
			e.line, e.column = position(e.n)
		}
		f.keys[key] = e
	}
	return f, true
}

// list reads the items of a list; one that is missing has none.
func (x node) list() (items []node) {
	if !x.given() {
		return nil
	}
	s, ok := x.n.(*ast.SequenceNode)
	if !ok {
		x.bad("a list: [ … ], or lines that begin with -")
		return nil
	}
	for i, item := range s.Values {
		e := node{r: x.r, n: item, path: fmt.Sprintf("%s[%d]", x.path, i)}
		e.line, e.column = position(item)
		items = append(items, e)
	}
	return items
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// plainKey keeps a strange key from breaking the message that names it.
func plainKey(key string) string {
	if strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || strings.ContainsRune(".[]\"'", c) }) || len(key) > 64 || key == "" {
		return quote(key)
	}
	return key
}

// text is a text that is not empty; want says which.
func (x node) text(want string) (string, bool) {
	text, kind := scalar(x.n)
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

// isName is the gateway's rule for the names of sensors and channels: 1 to 64 characters of any script (127 bytes),
// printable, blanks not at the ends. The slash separates sensor and channel; plus and number sign are MQTT's wildcards.
func isName(s string) bool {
	n := utf8.RuneCountInString(s)
	return n >= 1 && n <= 64 && len(s) <= 127 && utf8.ValidString(s) && strings.TrimSpace(s) == s &&
		!strings.ContainsFunc(s, func(c rune) bool {
			return strings.ContainsRune("/+#", c) || c != ' ' && !unicode.In(c, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S)
		})
}

// name is the name of a sensor or channel.
func (x node) name() string {
	text, ok := x.text("a name")
	if ok && !isName(text) {
		x.bad("a name of 1 to 64 characters (127 bytes) without / + # and control characters, and without blanks at its ends")
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
	if !x.given() && !required {
		return words[0]
	}
	text, _ := scalar(x.n)
	if !slices.Contains(words, text) {
		want := orList(words)
		if g := guess(text, words); g != "" && len(words) > 1 && text != "" {
			want += "; did you mean " + g + "?"
		}
		x.bad("%s", want)
		return ""
	}
	return text
}

// duration is a time of at least low and at most high; missing, it is def, or reported where def is negative.
func (x node) duration(def, low, high time.Duration) time.Duration {
	if !x.given() && def >= 0 {
		return def
	}
	text, _ := scalar(x.n)
	d, err := time.ParseDuration(text)
	if err != nil || d < low || d > high {
		x.bad("a time from %v to %v, such as 500ms, 10s, 5m or 24h", low, high)
		return max(def, low)
	}
	return d
}

// number is a finite number; missing, it is *def, or reported where def is nil.
func (x node) number(def *float64) float64 {
	if !x.given() && def != nil {
		return *def
	}
	text, kind := scalar(x.n)
	v, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
	if kind != "number" || err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		x.bad("a number")
		return 0
	}
	return v
}

// whole is a whole number from low to high; missing, it is def, or reported where def is below low.
func (x node) whole(def, low, high int) int {
	if !x.given() && def >= low {
		return def
	}
	text, kind := scalar(x.n)
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
	if !x.given() {
		return def
	}
	text, kind := scalar(x.n)
	if kind != "boolean" {
		x.bad("true or false")
	}
	return strings.EqualFold(text, "true")
}
