package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"homeward/configs/plainyaml"
	"homeward/drivers"
)

// bounds are those of a configuration: 10,000 channels fit.
var bounds = plainyaml.Bounds{Tokens: 500_000, Keys: 1000, Column: 512, Problems: maxProblems}

// decoder fills structs from YAML nodes and keeps going after a mistake. It knows where each
// value stood, so that later checks can speak of a key by its path.
type decoder struct {
	file      string
	factories []drivers.Factory
	problems  Problems
	at        map[string]plainyaml.Node // by path
	failed    map[string]bool           // paths that already have a problem
	plainyaml.Guesser
}

func newDecoder(file string, factories []drivers.Factory) *decoder {
	return &decoder{file: file, factories: factories, at: map[string]plainyaml.Node{}, failed: map[string]bool{}}
}

// parse returns the root of the document, which is not given after it reported why there is none.
func (d *decoder) parse(data []byte) plainyaml.Node {
	root, problems := plainyaml.Parse(data, bounds)
	for _, p := range problems {
		d.problems.add(Problem{File: d.file, Line: p.Line, Column: p.Column, Bad: p.Bad, Want: hint(data, p)})
	}
	if !root.Given() && len(problems) == 0 {
		d.problems.add(Problem{File: d.file, Line: 1, Column: 1, Bad: "nothing in it", Want: "keys such as gateway: and home:"})
	}
	return root
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
	d.problems.add(Problem{File: d.file, Line: at.Line, Column: at.Column, Path: path, Bad: bad, Want: want})
}

// where is the place of path, or of the nearest thing around it.
func (d *decoder) where(path string) plainyaml.Node {
	for {
		if at, ok := d.at[path]; ok || path == "" {
			return at
		}
		path = parent(path)
	}
}

// shown is the value at path as it stands in the file.
func (d *decoder) shown(path string) string {
	if x := d.at[path]; x.Single() || !x.Given() {
		return x.Shown()
	}
	return "given"
}

// parent cuts the last key or index off a path.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
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
func (d *decoder) decode(n plainyaml.Node, v reflect.Value) {
	text, kind := n.Scalar()
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); !ok {
		switch {
		case v.Type() == reflect.TypeFor[Sensor]():
			d.sensor(n, v)
			return
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			d.decode(n, v.Elem())
			return
		case v.Kind() == reflect.Struct:
			setDefaults(v)
			switch required := slices.ContainsFunc(fields(v), func(f field) bool { return f.required }); {
			case kind != "null":
				d.structs(n, v)
			case required:
				d.problem(n.Path, n.Shown(), wants(v))
			}
			return
		case v.Kind() == reflect.Slice:
			if kind != "null" {
				d.list(n, v)
			}
			return
		}
	}
	if kind == "mapping" || kind == "list" {
		d.problem(n.Path, n.Shown(), wants(v))
		return
	}
	if kind == "null" {
		d.problem(n.Path, n.Shown(), wants(v)+", or leave the key out")
		return
	}
	if want := setScalar(v, text, kind); want != "" {
		d.problem(n.Path, n.Shown(), want)
	}
}

// structs fills structs that share one mapping.
func (d *decoder) structs(n plainyaml.Node, vs ...reflect.Value) {
	entries, ok := d.mapping(n)
	if !ok {
		return
	}
	known := fields(vs...)
	for at, e := range entries {
		i := slices.IndexFunc(known, func(f field) bool { return f.key == e.Key })
		if i < 0 && at > 0 && isDigits(e.Key) {
			if whole, kind := entries[at-1].Scalar(); kind == "number" && isNull(e.Node) { // {scale: 61,04}
				d.atKey(e, "a comma in a number", fmt.Sprintf("a point: %s: %s.%s", entries[at-1].Key, whole, e.Key))
				continue
			}
		}
		if i < 0 {
			d.unknown(e, n.Path, known)
			continue
		}
		f := known[i]
		if word, kind := e.Scalar(); kind == "boolean" && slices.Contains(strings.Split(f.Tag.Get("enum"), ","), "true") {
			f.value.SetString(word) // "true" is one of the words to choose from
		} else {
			d.decode(e.Node, f.value)
		}
		d.limits(f, e.Path)
	}
	for _, f := range known {
		if path := plainyaml.Join(n.Path, f.key); f.required && !d.at[path].Given() {
			d.problem(path, "missing", f.Tag.Get("doc"))
		}
	}
}

func isNull(n plainyaml.Node) bool {
	_, kind := n.Scalar()
	return kind == "null"
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// mapping returns the entries of a mapping and notes where their values are.
func (d *decoder) mapping(n plainyaml.Node) ([]plainyaml.Entry, bool) {
	all, ok := n.Entries()
	if !ok {
		d.problem(n.Path, n.Shown(), "a mapping of keys to values")
		return nil, false
	}
	var list []plainyaml.Entry
	for _, e := range all {
		if e.Before > 0 {
			d.atKey(e, "given twice", fmt.Sprintf("it once; it is already on line %d", e.Before))
			continue
		}
		d.at[e.Path] = e.Node
		list = append(list, e)
	}
	return list, true
}

// atKey reports a key, rather than its value.
func (d *decoder) atKey(e plainyaml.Entry, bad, want string) {
	d.problems.add(Problem{File: d.file, Line: e.KeyLine, Column: e.KeyColumn, Path: e.Path, Bad: bad, Want: want})
}

// list fills a slice.
func (d *decoder) list(n plainyaml.Node, v reflect.Value) {
	items, ok := n.Items()
	if !ok {
		d.problem(n.Path, n.Shown(), "a list: [ … ], or lines that begin with -")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	for i, item := range items {
		d.at[item.Path] = item
		if _, kind := item.Scalar(); kind == "null" {
			d.problem(item.Path, item.Shown(), wants(v.Index(i))+", or no -")
			continue
		}
		d.decode(item, v.Index(i))
	}
}

// sensor fills the common part and the driver's from one mapping.
func (d *decoder) sensor(n plainyaml.Node, v reflect.Value) {
	setDefaults(v)
	s := v.Addr().Interface().(*Sensor)
	var driver string
	entries, _ := n.Entries()
	for _, e := range entries {
		if e.Key == "driver" {
			driver, _ = e.Scalar()
		}
	}
	f := findDriver(d.factories, driver)
	if f == nil {
		d.strangers(n, v)
		if names := driverNames(d.factories); driver != "" {
			want := "one of " + strings.Join(names, ", ")
			if g := d.Guess(driver, names); g != "" {
				want = "want " + want + "; did you mean " + g + "?"
			}
			d.problem(plainyaml.Join(n.Path, "driver"), plainyaml.Quote(driver), want)
		}
		return
	}
	s.Options = f.New(driver)
	d.structs(n, v, reflect.ValueOf(s.Options).Elem())
}

// strangers fills the common part of a sensor whose driver is not known, so that the other
// keys can not be judged.
func (d *decoder) strangers(n plainyaml.Node, v reflect.Value) {
	entries, _ := d.mapping(n)
	for _, f := range fields(v) {
		i := slices.IndexFunc(entries, func(e plainyaml.Entry) bool { return e.Key == f.key })
		if i >= 0 {
			d.decode(entries[i].Node, f.value)
			d.limits(f, entries[i].Path)
		} else if f.required && entries != nil {
			d.problem(plainyaml.Join(n.Path, f.key), "missing", f.Tag.Get("doc"))
		}
	}
}

// unknown reports a key that nobody knows.
func (d *decoder) unknown(e plainyaml.Entry, path string, known []field) {
	keys := make([]string, len(known))
	for i, f := range known {
		keys[i] = f.key
	}
	slices.Sort(keys)
	want := "one of " + strings.Join(keys, ", ")
	switch g := d.Guess(e.Key, keys); {
	case strings.Contains(strings.ToLower(e.Key), "passw") || e.Key == "secret" || e.Key == "token":
		d.atKey(e, "a secret in the file", "password_file: with the name of a file (mode 0600), or password_file: credential:NAME; secrets never stand in the configuration.")
		return
	case g != "":
		want = "did you mean " + g + "?"
	default:
		if other := elsewhere[e.Key]; other != "" && parent(other) != path {
			want = "did you mean " + other + "?"
		}
	}
	d.atKey(e, "unknown key", want)
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
		want := plainyaml.OrList(values)
		if later := strings.Split(f.Tag.Get("later"), ","); v.String() != "" && slices.Contains(later, v.String()) {
			want = "want " + want + ": " + v.String() + " is not in this release."
		} else if g := d.Guess(v.String(), values); g != "" && len(values) > 1 {
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
	case Rate:
		return wantRate
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
		if whole, decimals, comma := strings.Cut(text, ","); comma && isDigits(strings.TrimPrefix(whole, "-")) && isDigits(decimals) {
			return want + " with a point: " + whole + "." + decimals
		}
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
