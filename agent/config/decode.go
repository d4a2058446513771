package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"homeward/drivers"
)

// The bounds of a file. The parser recurses with the nesting and is quadratic in the keys of one
// mapping; neither may be left to whoever wrote the file.
const (
	maxBytes  = 1 << 20
	maxTokens = 500_000
	maxFlow   = 16 // nested [ and {
	maxKeys   = 1000
	maxColumn = 512 // of what begins a list item or ends a key outside of [ and {: bounds the nesting of blocks
)

// decoder fills structs from YAML nodes and keeps going after a mistake. It knows where each
// value stood, so that later checks can speak of a key by its path.
type decoder struct {
	file      string
	factories []drivers.Factory
	problems  Problems
	at        map[string]place // by path
	failed    map[string]bool  // paths that already have a problem
	guessed   int              // work done by guess
}

// place is where a value stands, and what it is.
type place struct {
	line, column int
	text         string // of a scalar
	scalar       bool
}

func newDecoder(file string, factories []drivers.Factory) *decoder {
	return &decoder{file: file, factories: factories, at: map[string]place{}, failed: map[string]bool{}}
}

// parse returns the root of the document, or nil after it reported why there is none.
func (d *decoder) parse(data []byte) (root ast.Node) {
	whole := func(line, column int, bad, want string) {
		d.problems.add(Problem{File: d.file, Line: line, Column: column, Bad: bad, Want: want})
	}
	if len(data) > maxBytes {
		whole(0, 0, fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("at most %d", maxBytes))
		return nil
	}
	if line, column := badText(data); line > 0 {
		whole(line, column, "not text", "UTF-8 without control characters")
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			whole(1, 1, "not YAML that can be read", fmt.Sprintf("plain YAML (the parser failed: %v).", r))
			root = nil
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if len(tokens) > maxTokens {
		whole(0, 0, fmt.Sprintf("%d words and signs", len(tokens)), fmt.Sprintf("at most %d", maxTokens))
		return nil
	}
	if !d.plain(tokens) {
		return nil
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
		whole(line, column, "syntax error", message+".")
		return nil
	}
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType:
		case root != nil:
			at := position(doc.Body)
			whole(at.line, at.column, "a second document", "one document: nothing after ---")
		default:
			root = doc.Body
		}
	}
	if root == nil {
		whole(1, 1, "nothing in it", "keys such as gateway: and home:")
	}
	return root
}

// badText finds the first byte that is no UTF-8 or a control character.
func badText(data []byte) (line, column int) {
	line, column = 1, 1
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && n == 1, r < ' ' && r != '\n' && r != '\r' && r != '\t', r == 0x7f,
			r == '\r' && !bytes.HasPrefix(data, []byte("\r\n")):
			return line, column
		case r == '\n':
			line, column = line+1, 0
		}
		data, column = data[n:], column+1
	}
	return 0, 0
}

// plain refuses what a configuration has no use for and a hostile one would bomb us with.
func (d *decoder) plain(tokens token.Tokens) bool {
	flow, ok := 0, true
	var keys [maxColumn + 1]int // in the present mapping that begins in a column, outside of [ and {
	deepest := 0
	refuse := func(tk *token.Token, bad, want string) {
		d.problems.add(Problem{File: d.file, Line: tk.Position.Line, Column: tk.Position.Column, Bad: bad, Want: want})
		ok = false
	}
	for _, tk := range tokens {
		switch tk.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			refuse(tk, quote(tk.Value), "the value itself: anchors (&), aliases (*) and merge keys (<<) are not used; a text that begins with one of these goes in quotes.")
		case token.TagType:
			refuse(tk, quote(tk.Value), "no tags; a text that begins with ! goes in quotes.")
		case token.MappingKeyType, token.DirectiveType:
			refuse(tk, quote(tk.Value), "simple keys and no directives; a text that begins with ? or % goes in quotes.")
		case token.MappingStartType, token.SequenceStartType:
			if flow++; flow == maxFlow+1 {
				refuse(tk, "nested too deeply", fmt.Sprintf("at most %d levels", maxFlow))
			}
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingValueType:
			if flow > 0 {
				continue
			}
			first := tk
			if tk.Type == token.MappingValueType && tk.Prev != nil {
				first = tk.Prev // the key
			}
			at := first.Position.Column
			if at < 1 || at > maxColumn {
				refuse(tk, "nested too deeply", fmt.Sprintf("blocks that begin before column %d", maxColumn))
				continue
			}
			for ; deepest > at; deepest-- {
				keys[deepest] = 0
			}
			deepest = at
			if keys[at]++; tk.Type == token.SequenceEntryType {
				keys[at] = 0
			} else if keys[at] == maxKeys+1 {
				refuse(first, "too many keys", fmt.Sprintf("at most %d in one mapping", maxKeys))
			}
		}
		if len(d.problems.List) >= maxProblems {
			return false
		}
	}
	return ok
}

// problem reports path, unless it or something around it has one already: what is wrong
// about a value of the wrong type is that.
func (d *decoder) problem(path, bad, want string) {
	for p := path; ; p = parent(p) {
		if d.failed[p] {
			return
		}
		if p == "" {
			break
		}
	}
	d.failed[path] = true
	at := d.where(path)
	d.problems.add(Problem{File: d.file, Line: at.line, Column: at.column, Path: path, Bad: bad, Want: want})
}

// where is the place of path, or of the nearest thing around it.
func (d *decoder) where(path string) place {
	for {
		if at, ok := d.at[path]; ok || path == "" {
			return at
		}
		path = parent(path)
	}
}

// shown is the value at path as it stands in the file.
func (d *decoder) shown(path string) string {
	if at, ok := d.at[path]; ok && at.scalar {
		return quote(at.text)
	} else if ok {
		return "given"
	}
	return "missing"
}

// parent cuts the last key or index off a path.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// field is a key that a struct knows.
type field struct {
	reflect.StructField
	key      string
	required bool // drivers check their own part, with better words
	value    reflect.Value
}

// fields lists the keys of structs, those of embedded ones included. v holds structs.
func fields(vs ...reflect.Value) []field {
	var list []field
	for _, v := range vs {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key, flags, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case flags == "inline":
				list = append(list, fields(v.Field(i))...)
			case f.IsExported() && key != "-":
				if key == "" {
					key = strings.ToLower(f.Name)
				}
				own := v.Type().PkgPath() == reflect.TypeFor[Config]().PkgPath()
				list = append(list, field{f, key, own && flags == "", v.Field(i)})
			}
		}
	}
	return list
}

// setDefaults gives the fields of a struct what their default tags say.
func setDefaults(v reflect.Value) {
	for _, f := range fields(v) {
		switch def, ok := f.Tag.Lookup("default"); {
		case ok:
			if why := setScalar(f.value, def, kindOf(def)); why != "" {
				panic("config: default of " + f.key + ": " + why) // a test reads every default
			}
		case f.value.Kind() == reflect.Struct:
			setDefaults(f.value)
		}
	}
}

// kindOf is what YAML takes a plain text for, as far as defaults and limits need it.
func kindOf(text string) string {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return "number"
	}
	if text == "true" || text == "false" {
		return "boolean"
	}
	return "text"
}

// decode fills v, which is settable, from n.
func (d *decoder) decode(n ast.Node, v reflect.Value, path string) {
	text, kind := scalar(n)
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); !ok {
		switch {
		case v.Type() == reflect.TypeFor[Sensor]():
			d.sensor(n, v, path)
			return
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			d.decode(n, v.Elem(), path)
			return
		case v.Kind() == reflect.Struct:
			setDefaults(v)
			switch required := slices.ContainsFunc(fields(v), func(f field) bool { return f.required }); {
			case kind != "null":
				d.structs(n, path, v)
			case required:
				d.problem(path, "no value", wants(v))
			}
			return
		case v.Kind() == reflect.Slice:
			if kind != "null" {
				d.list(n, v, path)
			}
			return
		}
	}
	if kind == "mapping" || kind == "list" {
		d.problem(path, "a "+kind, wants(v))
		return
	}
	if kind == "null" {
		d.problem(path, "no value", wants(v)+", or leave the key out")
		return
	}
	if want := setScalar(v, text, kind); want != "" {
		d.problem(path, quote(text), want)
	}
}

// structs fills structs that share one mapping.
func (d *decoder) structs(n ast.Node, path string, vs ...reflect.Value) {
	entries, ok := d.mapping(n, path)
	if !ok {
		return
	}
	known := fields(vs...)
	for _, e := range entries {
		i := slices.IndexFunc(known, func(f field) bool { return f.key == e.key })
		if i < 0 {
			d.unknown(e, path, known)
			continue
		}
		f := known[i]
		d.decode(e.value, f.value, e.path)
		d.limits(f, e.path)
	}
	for _, f := range known {
		if _, ok := d.at[join(path, f.key)]; !ok && f.required {
			d.problem(join(path, f.key), "missing", f.Tag.Get("doc"))
		}
	}
}

// entry is one key of a mapping and its value.
type entry struct {
	key   string
	path  string
	place place // of the key
	value ast.Node
}

// mapping returns the entries of a mapping and notes where their values are.
func (d *decoder) mapping(n ast.Node, path string) ([]entry, bool) {
	m, ok := n.(ast.MapNode)
	if !ok {
		text, kind := scalar(n)
		bad := "a " + kind
		if kind != "list" {
			bad = quote(text)
		}
		d.problem(path, bad, "a mapping of keys to values")
		return nil, false
	}
	var list []entry
	seen := map[string]int{}
	for it := m.MapRange(); it.Next(); {
		at := position(it.Key())
		key, _ := scalar(it.Key())
		e := entry{key, join(path, plainKey(key)), at, it.Value()}
		if line, ok := seen[key]; ok {
			d.problemAt(at, e.path, "given twice", fmt.Sprintf("it once; it is already on line %d.", line))
			continue
		}
		seen[key] = at.line
		d.at[e.path] = at
		text, kind := scalar(e.value)
		if kind != "mapping" && kind != "list" && kind != "null" {
			v := position(e.value)
			d.at[e.path] = place{v.line, v.column, text, true}
		}
		list = append(list, e)
	}
	return list, true
}

// plainKey keeps a strange key from breaking the message that names it.
func plainKey(key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || strings.ContainsRune(".[]\"'", r) }) || len(key) > 64 || key == "" {
		return quote(key)
	}
	return key
}

func (d *decoder) problemAt(at place, path, bad, want string) {
	d.problems.add(Problem{File: d.file, Line: at.line, Column: at.column, Path: path, Bad: bad, Want: want})
}

// list fills a slice.
func (d *decoder) list(n ast.Node, v reflect.Value, path string) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		text, kind := scalar(n)
		bad := "a " + kind
		if kind != "mapping" {
			bad = quote(text)
		}
		d.problem(path, bad, "a list: [ … ], or lines that begin with -")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
	for i, item := range s.Values {
		p := fmt.Sprintf("%s[%d]", path, i)
		at := position(item)
		text, kind := scalar(item)
		if kind == "null" && i < len(s.Entries) && s.Entries[i].Start != nil {
			at.line, at.column = s.Entries[i].Start.Position.Line, s.Entries[i].Start.Position.Column
		}
		if kind != "mapping" && kind != "list" && kind != "null" {
			at.text, at.scalar = text, true
		}
		d.at[p] = at
		if kind == "null" {
			d.problem(p, "no value", wants(v.Index(i))+", or no -")
			continue
		}
		d.decode(item, v.Index(i), p)
	}
}

// sensor fills the common part and the driver's from one mapping.
func (d *decoder) sensor(n ast.Node, v reflect.Value, path string) {
	setDefaults(v)
	s := v.Addr().Interface().(*Sensor)
	var driver string
	if m, ok := n.(ast.MapNode); ok {
		for it := m.MapRange(); it.Next(); {
			if key, _ := scalar(it.Key()); key == "driver" {
				driver, _ = scalar(it.Value())
			}
		}
	}
	f := findDriver(d.factories, driver)
	if f == nil {
		d.strangers(n, path, v)
		if names := driverNames(d.factories); driver != "" {
			want := "one of " + strings.Join(names, ", ")
			if g := d.guess(driver, names); g != "" {
				want = "want " + want + "; did you mean " + g + "?"
			}
			d.problem(join(path, "driver"), quote(driver), want)
		}
		return
	}
	s.Options = f.New(driver)
	d.structs(n, path, v, reflect.ValueOf(s.Options).Elem())
}

// strangers fills the common part of a sensor whose driver is not known, so that the other
// keys can not be judged.
func (d *decoder) strangers(n ast.Node, path string, v reflect.Value) {
	entries, _ := d.mapping(n, path)
	for _, f := range fields(v) {
		i := slices.IndexFunc(entries, func(e entry) bool { return e.key == f.key })
		if i >= 0 {
			d.decode(entries[i].value, f.value, entries[i].path)
			d.limits(f, entries[i].path)
		} else if f.required && entries != nil {
			d.problem(join(path, f.key), "missing", f.Tag.Get("doc"))
		}
	}
}

// unknown reports a key that nobody knows.
func (d *decoder) unknown(e entry, path string, known []field) {
	keys := make([]string, len(known))
	for i, f := range known {
		keys[i] = f.key
	}
	slices.Sort(keys)
	want := "one of " + strings.Join(keys, ", ")
	switch g := d.guess(e.key, keys); {
	case strings.Contains(strings.ToLower(e.key), "passw") || e.key == "secret" || e.key == "token":
		d.problemAt(e.place, e.path, "a secret in the file", "password_file: with the name of a file (mode 0600), or password_file: credential:NAME; secrets never stand in the configuration.")
		return
	case g != "":
		want = "did you mean " + g + "?"
	default:
		if other := elsewhere[e.key]; other != "" && parent(other) != path {
			want = "did you mean " + other + "?"
		}
	}
	d.problemAt(e.place, e.path, "unknown key", want)
}

// limits checks a value against its field's enum, min and max.
func (d *decoder) limits(f field, path string) {
	v := f.value
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if d.failed[path] {
		return
	}
	if enum := f.Tag.Get("enum"); enum != "" {
		values := strings.Split(enum, ",")
		if slices.Contains(values, v.String()) {
			return
		}
		want := orList(values)
		if later := strings.Split(f.Tag.Get("later"), ","); slices.Contains(later, v.String()) {
			want = "want " + want + ": " + v.String() + " is not in this release."
		} else if g := d.guess(v.String(), values); g != "" && len(values) > 1 {
			want = "want " + want + "; did you mean " + g + "?"
		}
		d.problem(path, d.shown(path), want)
		return
	}
	low, high := f.Tag.Get("min"), f.Tag.Get("max")
	tooLow := low != "" && number(v) < number(parsed(v.Type(), low))
	tooHigh := high != "" && number(v) > number(parsed(v.Type(), high))
	switch {
	case !tooLow && !tooHigh:
	case low != "" && high != "":
		d.problem(path, d.shown(path), low+" to "+high)
	case tooLow:
		d.problem(path, d.shown(path), "at least "+low)
	default:
		d.problem(path, d.shown(path), "at most "+high)
	}
}

func orList(values []string) string {
	if n := len(values); n > 1 {
		return strings.Join(values[:n-1], ", ") + " or " + values[n-1]
	}
	return values[0]
}

// parsed is a tag's text as a value.
func parsed(t reflect.Type, text string) reflect.Value {
	v := reflect.New(t).Elem()
	if why := setScalar(v, text, kindOf(text)); why != "" {
		panic("config: limit " + text + ": " + why) // a test reads every limit
	}
	return v
}

func number(v reflect.Value) float64 {
	if v.CanInt() {
		return float64(v.Int())
	}
	return v.Float()
}

// scalar returns the text of a node as it means it, and its kind: text, number, boolean, null, mapping or
// list.
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
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune("0123456789.eE+-", r) }) && kindOf(s) == "number"
}

func position(n ast.Node) place {
	// A mapping's own token is its first colon; it begins with its first key.
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return position(m.Values[0].Key)
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		return position(m.Key)
	}
	tk := n.GetToken()
	if tk == nil || tk.Position == nil {
		return place{}
	}
	return place{line: tk.Position.Line, column: tk.Position.Column}
}

// wants says what a type takes.
func wants(v reflect.Value) string {
	switch v.Interface().(type) {
	case Duration, time.Duration:
		return wantDuration
	case Size:
		return wantSize
	case Percent:
		return wantPercent
	case Window:
		return wantWindow
	}
	switch v.Kind() {
	case reflect.Pointer:
		return wants(reflect.Zero(v.Type().Elem()))
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	case reflect.Struct:
		return "a mapping of keys to values"
	}
	return "a whole number"
}

// setScalar gives v, which is no pointer, the value that text stands for, or says what would be right.
func setScalar(v reflect.Value, text, kind string) (want string) {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return err.Error()
		}
		return ""
	}
	want = wants(v)
	plain := strings.ReplaceAll(text, "_", "")
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		var d Duration
		if d.UnmarshalText([]byte(text)) != nil {
			return want
		}
		v.SetInt(int64(d))
	case v.Kind() == reflect.String:
		if kind != "text" {
			return fmt.Sprintf("a text; put it in quotes: %q", text)
		}
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		if kind != "boolean" {
			return want
		}
		v.SetBool(strings.EqualFold(text, "true"))
	case v.CanFloat():
		x, err := strconv.ParseFloat(plain, 64)
		if kind != "number" || err != nil || math.IsInf(x, 0) || math.IsNaN(x) {
			return want
		}
		v.SetFloat(x)
	case v.CanInt(), v.CanUint():
		if digits := strings.TrimLeft(plain, "+-"); len(digits) > 1 && digits[0] == '0' && digits[1] <= '9' {
			return want + " without leading zeros"
		}
		x, err := strconv.ParseInt(plain, 0, 64)
		if kind != "number" || err != nil {
			return want
		}
		switch {
		case v.CanInt() && !v.OverflowInt(x):
			v.SetInt(x)
		case v.CanUint() && x >= 0 && !v.OverflowUint(uint64(x)):
			v.SetUint(uint64(x))
		default:
			return want + " in the range of its kind"
		}
	default:
		return "nothing: the program can not read a " + v.Type().String()
	}
	return ""
}

// elsewhere says where a key belongs that is found in the wrong section.
var elsewhere = func() map[string]string {
	paths := map[string]string{}
	for _, f := range fields(reflect.ValueOf(&Config{}).Elem()) {
		paths[f.key] = f.key
		if t := f.value; t.Kind() == reflect.Struct {
			for _, g := range fields(t) {
				if _, taken := paths[g.key]; !taken {
					paths[g.key] = f.key + "." + g.key
				}
			}
		}
	}
	return paths
}()
