// Package plainyaml reads the one document of a YAML file that anybody may have written: within bounds, without
// anchors, aliases, tags and the like, and with the place of everything in it, so that a mistake can be told by
// line, column and path.
package plainyaml

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// MaxBytes is how large a file may be.
	MaxBytes = 1 << 20
	maxFlow  = 16 // nested [ and {

	// The lexer copies a folded or literal text once for each empty line at its end, looks from each < to the end of its run,
	// and from each tab in double quotes to the end of the line. The parser moves all tokens that follow a value that is
	// left out. A megabyte of one of these would take minutes or hours.
	maxBlank = 50   // empty lines in a row
	maxTabs  = 100  // in one line
	maxLess  = 100  // < in a row
	maxNulls = 1000 // values left out
)

// Bounds are those of a file. The parser recurses with the nesting and is quadratic in the keys of one
// mapping; neither may be left to whoever wrote the file.
type Bounds struct {
	Tokens   int // words and signs
	Keys     int // of one mapping
	Column   int // of what begins a list item or ends a key outside of [ and {: bounds the nesting of blocks
	Problems int // after so many, no more are looked for
}

// Problem says why a file cannot be read.
type Problem struct {
	Line, Column int    // from 1; 0 where the file as a whole is meant
	Bad          string // as it stands, quoted, or what it is
	Want         string // what would be right: a noun phrase, or a sentence that ends with a full stop
	Sign         bool   // it is a sign, such as & or !, that plain YAML has no use for
}

// Parse gives the root of the document. It is [Node.Given] unless there are problems or the file is empty.
func Parse(data []byte, b Bounds) (root Node, problems []Problem) {
	one := func(line, column int, bad, want string) []Problem {
		return []Problem{{Line: line, Column: column, Bad: bad, Want: want}}
	}
	if len(data) > MaxBytes {
		return Node{}, one(0, 0, fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("at most %d", MaxBytes))
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // some editors put a byte order mark first
	if line, column := badText(data); line > 0 {
		return Node{}, one(line, column, "not text", "UTF-8 without control characters")
	}
	if line, bad, want := costly(data); line > 0 {
		return Node{}, one(line, 1, bad, want)
	}
	defer func() {
		if p := recover(); p != nil {
			root, problems = Node{}, one(1, 1, "not YAML that can be read", "plain YAML")
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if len(tokens) > b.Tokens {
		return Node{}, one(0, 0, fmt.Sprintf("%d words and signs", len(tokens)), fmt.Sprintf("at most %d", b.Tokens))
	}
	if problems := refused(tokens, b); len(problems) > 0 {
		return Node{}, problems
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		line, column, message := 1, 1, "cannot be read"
		if y, ok := errors.AsType[yaml.Error](err); ok { // its Error method repeats the file
			message = y.GetMessage()
			if tk := y.GetToken(); tk != nil && tk.Position != nil {
				// The parser may place the end of the file behind it.
				line, column = min(tk.Position.Line, 1+bytes.Count(data, []byte("\n"))), max(tk.Position.Column, 1)
			}
		}
		message = strings.NewReplacer("\n", " ", "\t", `\t`).Replace(message)
		if strings.Contains(message, `'\t'`) {
			message += ": indent with blanks, not with tabs"
		}
		return Node{}, one(line, column, "syntax error", message+".")
	}
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType:
		case root.Given():
			line, column := position(doc.Body)
			problems = append(problems, Problem{Line: line, Column: column, Bad: "a second document", Want: "one document: nothing after ---"})
		default:
			root = Node{Line: 1, Column: 1, given: true, n: doc.Body}
		}
	}
	return root, problems
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

// costly finds the first line of what would keep the lexer busy. It looks at each byte once.
func costly(data []byte) (line int, bad, want string) {
	blank, tabs, less := 0, 0, 0
	empty := true
	line = 1
	for _, c := range data {
		if c == '<' {
			less++
		} else {
			less = 0
		}
		switch c {
		case '\n':
			if blank++; !empty {
				blank = 0
			}
			line, tabs, empty = line+1, 0, true
			if blank > maxBlank {
				return line - 1, "too many empty lines in a row", fmt.Sprintf("at most %d", maxBlank)
			}
		case '\t':
			if tabs++; tabs > maxTabs {
				return line, "too many tabs in one line", fmt.Sprintf("at most %d", maxTabs)
			}
		case ' ', '\r':
		default:
			empty = false
		}
		if less > maxLess {
			return line, "too many < in a row", fmt.Sprintf("at most %d", maxLess)
		}
	}
	return 0, "", ""
}

// refused is what plain YAML has no use for and a hostile file would bomb us with.
func refused(tokens token.Tokens, b Bounds) (problems []Problem) {
	flow, deepest := 0, 0
	keys := make([]int, b.Column+1) // in the present mapping that begins in a column, outside of [ and {
	var flowKeys [maxFlow + 1]int
	var braces [maxFlow + 1]bool // { rather than [
	nulls := 0
	refuse := func(tk *token.Token, sign bool, bad, want string) {
		problems = append(problems, Problem{tk.Position.Line, tk.Position.Column, bad, want, sign})
	}
	tooMany := func(tk *token.Token) {
		refuse(tk, false, "too many keys", fmt.Sprintf("at most %d in one mapping", b.Keys))
	}
	for _, tk := range tokens {
		if len(problems) >= b.Problems {
			return problems
		}
		if leftOut(tk, flow, flow <= maxFlow && braces[flow]) {
			if nulls++; nulls == maxNulls+1 {
				refuse(tk, false, "too many values left out", fmt.Sprintf("at most %d", maxNulls))
			}
		}
		switch tk.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			refuse(tk, true, Quote(tk.Value), "the value itself: anchors (&), aliases (*) and merge keys (<<) are not used; a text that begins with one of these goes in quotes.")
		case token.TagType:
			refuse(tk, true, Quote(tk.Value), "no tags; a text that begins with ! goes in quotes.")
		case token.MappingKeyType, token.DirectiveType:
			refuse(tk, true, Quote(tk.Value), "simple keys and no directives; a text that begins with ? or % goes in quotes.")
		case token.MappingStartType, token.SequenceStartType:
			if flow++; flow <= maxFlow {
				flowKeys[flow], braces[flow] = 0, tk.Type == token.MappingStartType
			} else if flow == maxFlow+1 {
				refuse(tk, false, "nested too deeply", fmt.Sprintf("at most %d levels", maxFlow))
			}
		case token.MappingEndType, token.SequenceEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingValueType:
			first := tk
			if tk.Type == token.MappingValueType && tk.Prev != nil {
				first = tk.Prev // the key
			}
			if flow > 0 {
				if tk.Type == token.SequenceEntryType { // the parser would nest without bound
					refuse(tk, false, "a list of dashes inside of [ or {", "[a, b], or a text that begins with - in quotes")
				} else if flow <= maxFlow {
					if flowKeys[flow]++; flowKeys[flow] == b.Keys+1 {
						tooMany(first)
					}
				}
				continue
			}
			at := first.Position.Column
			if at < 1 || at > b.Column {
				refuse(tk, false, "nested too deeply", fmt.Sprintf("blocks that begin before column %d", b.Column))
				continue
			}
			for ; deepest > at; deepest-- {
				keys[deepest] = 0
			}
			deepest = at
			if keys[at]++; tk.Type == token.SequenceEntryType {
				keys[at] = 0
			} else if keys[at] == b.Keys+1 {
				tooMany(first)
			}
		}
	}
	return problems
}

// leftOut says that no value follows tk, for which the parser puts a null in. braces is whether { is the innermost of flow.
func leftOut(tk *token.Token, flow int, braces bool) bool {
	is := func(tk *token.Token, types ...token.Type) bool { return tk != nil && slices.Contains(types, tk.Type) }
	switch tk.Type {
	case token.CollectEntryType, token.MappingEndType: // {a, b}
		prev := beside(tk, false)
		return braces && prev != nil && is(beside(prev, false), token.MappingStartType, token.CollectEntryType)
	case token.MappingValueType:
		next, key := beside(tk, true), beside(tk, false)
		if flow > 0 || next == nil || key == nil {
			return next == nil || is(next, token.CollectEntryType, token.MappingEndType, token.SequenceEndType)
		}
		at := key.Position.Column
		return next.Position.Column < at || next.Position.Column == at && next.Type != token.SequenceEntryType
	case token.SequenceEntryType:
		next := beside(tk, true)
		return next == nil || next.Position.Column <= tk.Position.Column
	}
	return false
}

// beside is the token after or before tk that is no remark.
func beside(tk *token.Token, after bool) *token.Token {
	for {
		if after {
			tk = tk.Next
		} else {
			tk = tk.Prev
		}
		if tk == nil || tk.Type != token.CommentType {
			return tk
		}
	}
}

// Node is a value in the document, or one that is not there.
type Node struct {
	Path         string // of keys and indices: ports[0].slaves[1].unit_id; empty for the root
	Line, Column int    // of the value, or of its key or dash where it is a mapping, a list or nothing

	given bool
	n     ast.Node
}

// Missing is the value of a key that is not in a mapping: it has the mapping's place.
func (x Node) Missing(key string) Node {
	return Node{Path: Join(x.Path, key), Line: x.Line, Column: x.Column}
}

// Given is false where the value is not there at all.
func (x Node) Given() bool { return x.given }

// Scalar is the text of a value as YAML means it, and its kind: text, number, boolean, null, mapping, list or missing.
func (x Node) Scalar() (text, kind string) {
	if !x.given {
		return "", "missing"
	}
	return scalar(x.n)
}

// Shown is a value in a few words.
func (x Node) Shown() string {
	switch text, kind := x.Scalar(); kind {
	case "missing":
		return "missing"
	case "null":
		return "no value"
	case "mapping", "list":
		return "a " + kind
	default:
		return Quote(text)
	}
}

func scalar(n ast.Node) (text, kind string) {
	switch n := n.(type) {
	case nil, *ast.NullNode:
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
	if n == nil {
		return 0, 0
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return tk.Position.Line, tk.Position.Column
	}
	return 0, 0
}

// Entry is a key of a mapping and its value.
type Entry struct {
	Key                string
	KeyLine, KeyColumn int
	Before             int // the line of the key's first entry, where this one repeats it
	Node                   // the value
}

// Entries are those of a mapping; ok is false where the value is none.
func (x Node) Entries() (list []Entry, ok bool) {
	m, ok := x.n.(ast.MapNode)
	if !ok {
		return nil, false
	}
	lines := map[string]int{}
	for it := m.MapRange(); it.Next(); {
		key, _ := scalar(it.Key())
		line, column := position(it.Key())
		e := Entry{key, line, column, lines[key], Node{Join(x.Path, plainKey(key)), line, column, true, it.Value()}}
		if e.Before == 0 {
			lines[key] = line
		}
		if e.Single() {
			e.Line, e.Column = position(e.n)
		}
		list = append(list, e)
	}
	return list, true
}

// Items are those of a list; ok is false where the value is none.
func (x Node) Items() (list []Node, ok bool) {
	s, ok := x.n.(*ast.SequenceNode)
	if !ok {
		return nil, false
	}
	for i, item := range s.Values {
		e := Node{Path: fmt.Sprintf("%s[%d]", x.Path, i), given: true, n: item}
		e.Line, e.Column = position(item)
		if _, kind := e.Scalar(); kind == "null" && !s.IsFlowStyle && i < len(s.Entries) && s.Entries[i].Start != nil {
			e.Line, e.Column = s.Entries[i].Start.Position.Line, s.Entries[i].Start.Position.Column
		}
		list = append(list, e)
	}
	return list, true
}

// Single is whether the value is one text, number or boolean.
func (x Node) Single() bool {
	_, kind := x.Scalar()
	return kind == "text" || kind == "number" || kind == "boolean"
}

// Join is the path of a key in the mapping at path.
func Join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// plainKey keeps a strange key from breaking the message that names it.
func plainKey(key string) string {
	if strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || strings.ContainsRune(".[]\"'", c) }) || len(key) > 64 || key == "" {
		return Quote(key)
	}
	return key
}
