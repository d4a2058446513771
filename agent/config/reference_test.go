package config_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/drivers"
)

// configs/homeward.schema.json and the reference in docs/configuration.md are written from the
// types: go test ./agent/config -run Reference -update
var update = flag.Bool("update", false, "write the JSON Schema and the reference")

const (
	schemaFile = "../../configs/homeward.schema.json"
	docFile    = "../../docs/configuration.md"
	docBegin   = "<!-- reference: written by go test ./agent/config -run Reference -update -->\n"
	docEnd     = "<!-- end of reference -->\n"
)

func TestReferenceSchema(t *testing.T) { fresh(t, schemaFile, schemaText(t)) }

func TestReferenceDocumentation(t *testing.T) {
	old, err := os.ReadFile(docFile)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(old), docBegin)
	require.True(t, ok, "no %q", docBegin)
	_, after, ok := strings.Cut(rest, docEnd)
	require.True(t, ok, "no %q", docEnd)
	fresh(t, docFile, []byte(before+docBegin+reference()+docEnd+after))
}

func fresh(t *testing.T, file string, want []byte) {
	if *update {
		require.NoError(t, os.WriteFile(file, want, 0o644))
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, have), "%s is stale: go test ./agent/config -run Reference -update", file)
}

// key is a key of a struct, with its tags.
type key struct {
	reflect.StructField
	name     string
	required bool
}

func keys(t reflect.Type) []key {
	var list []key
	for i := range t.NumField() {
		f := t.Field(i)
		name, flags, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if flags == "inline" {
			list = append(list, keys(f.Type)...)
		} else if f.IsExported() && name != "-" {
			list = append(list, key{f, name, flags == ""})
		}
	}
	return list
}

// bare is a type without pointer.
func bare(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func textual(t reflect.Type) bool {
	return slices.Contains([]reflect.Type{
		reflect.TypeFor[config.Duration](), reflect.TypeFor[config.Size](), reflect.TypeFor[config.Percent](), reflect.TypeFor[config.Window](), reflect.TypeFor[config.Rate](), reflect.TypeFor[time.Duration](),
	}, t)
}

func schemaText(t *testing.T) []byte {
	root := object(keys(reflect.TypeFor[config.Config]()))
	root.Schema = "http://json-schema.org/draft-07/schema#"
	root.Title = "Homeward gateway configuration"
	root.Definitions = map[string]*jsonschema.Schema{}
	var any_ []*jsonschema.Schema
	var names []any
	for _, f := range factories {
		all := append(keys(reflect.TypeFor[config.Sensor]()), keys(reflect.TypeOf(f.New("x")).Elem())...)
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			names = append(names, name)
			var is any = name
			any_ = append(any_, &jsonschema.Schema{
				If:   &jsonschema.Schema{Properties: map[string]*jsonschema.Schema{"driver": {Const: &is}}},
				Then: &jsonschema.Schema{Ref: "#/definitions/" + f.Name},
			})
		}
		s := object(all)
		s.Description = f.Summary
		root.Definitions[f.Name] = s
	}
	sensor := object(keys(reflect.TypeFor[config.Sensor]()))
	sensor.AdditionalProperties = nil
	sensor.Properties["driver"].Enum = names
	sensor.AllOf = any_
	root.Properties["sensors"].Items = sensor
	text, err := json.MarshalIndent(root, "", "  ")
	require.NoError(t, err)
	return append(text, '\n')
}

func object(list []key) *jsonschema.Schema {
	s := &jsonschema.Schema{Properties: map[string]*jsonschema.Schema{}, AdditionalProperties: &jsonschema.Schema{Not: &jsonschema.Schema{}}}
	for _, k := range list {
		p := value(bare(k.Type), k.Tag)
		p.Description = k.Tag.Get("doc")
		s.Properties[k.name] = p
		s.PropertyOrder = append(s.PropertyOrder, k.name)
		if k.required {
			s.Required = append(s.Required, k.name)
		}
	}
	s.Type = "object"
	if s.Required == nil {
		s.Type, s.Types = "", []string{"object", "null"}
	}
	return s
}

// value is the schema of one value; tag may limit it.
func value(t reflect.Type, tag reflect.StructTag) *jsonschema.Schema {
	s := &jsonschema.Schema{Pattern: tag.Get("pattern")}
	zero := 0.0
	switch {
	case t == reflect.TypeFor[config.Duration](), t == reflect.TypeFor[time.Duration]():
		s.Types, s.Pattern, s.Minimum, s.Maximum = []string{"string", "integer"}, `^([0-9]+([.][0-9]+)?(ns|us|ms|s|m|h))+$`, &zero, &zero
	case t == reflect.TypeFor[config.Size]():
		s.Types, s.Pattern, s.Minimum = []string{"string", "integer"}, `^[0-9]+([KMGT]i?)?B?$`, &zero
	case t == reflect.TypeFor[config.Percent]():
		s.Type, s.Pattern = "string", `^[0-9]+([.][0-9]+)?%$`
	case t == reflect.TypeFor[config.Window]():
		s.Type, s.Pattern = "string", `^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]$`
	case t == reflect.TypeFor[config.Rate]():
		s.Type, s.Pattern = "string", `^[1-9][0-9]*/[0-9.a-z]+$`
	case t.Kind() == reflect.Struct:
		return object(keys(t))
	case t.Kind() == reflect.Slice:
		s.Types, s.Items = []string{"array", "null"}, value(bare(t.Elem()), "")
	case t.Kind() == reflect.String:
		s.Type = "string"
	case t.Kind() == reflect.Bool:
		s.Type = "boolean"
	case t.Kind() == reflect.Float32, t.Kind() == reflect.Float64:
		s.Type = "number"
	default:
		s.Type = "integer"
	}
	if enum := tag.Get("enum"); enum != "" {
		for _, v := range strings.Split(enum, ",") {
			s.Enum = append(s.Enum, v)
			if v == "true" { // without quotes too
				s.Type, s.Types, s.Enum = "", []string{"string", "boolean"}, append(s.Enum, true)
			}
		}
	}
	if def, ok := tag.Lookup("default"); ok {
		s.Default = literal(s.Type, def)
	}
	if s.Type == "number" || s.Type == "integer" {
		s.Minimum, s.Maximum = limit(tag.Get("min")), limit(tag.Get("max"))
	}
	return s
}

func limit(text string) *float64 {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil
	}
	return &v
}

func literal(kind, text string) json.RawMessage {
	if kind == "number" || kind == "integer" || kind == "boolean" {
		return json.RawMessage(text)
	}
	return json.RawMessage(strconv.Quote(text))
}

// reference is the tables of docs/configuration.md.
func reference() string {
	var b strings.Builder
	table := func(list []key) {
		b.WriteString("\n| key | takes | default | meaning | example |\n|---|---|---|---|---|\n")
		for _, k := range list {
			if k.Type == reflect.TypeFor[[]config.Sensor]() || bare(k.Type).Kind() == reflect.Struct && !textual(bare(k.Type)) {
				continue
			}
			def := "–"
			if k.required {
				def = "**required**"
			} else if v, ok := k.Tag.Lookup("default"); ok {
				def = "`" + v + "`"
			}
			example := ""
			if v := cmp.Or(k.Tag.Get("example"), k.Tag.Get("default")); v != "" {
				example = "`" + k.name + ": " + v + "`"
			}
			words := strings.NewReplacer("|", "\\|", "<", "&lt;", ">", "&gt;").Replace(k.Tag.Get("doc"))
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", k.name, takes(k), def, words, example)
		}
	}
	root := keys(reflect.TypeFor[config.Config]())
	b.WriteString("\n## Top level\n")
	table(root)
	for _, k := range root {
		if t := bare(k.Type); t.Kind() == reflect.Struct {
			fmt.Fprintf(&b, "\n## `%s`\n\n%s.\n", k.name, capital(k.Tag.Get("doc")))
			table(keys(t))
		}
		if k.name == "publish" {
			b.WriteString("\n### `publish.alarms[]`\n")
			table(keys(reflect.TypeFor[config.Alarm]()))
		}
		if k.name == "sensors" {
			b.WriteString("\n## `sensors[]`\n\nWhat all sensors have in common; the keys of its driver stand beside these.\n")
			table(keys(reflect.TypeFor[config.Sensor]()))
			b.WriteString("\n### Channels\n\nWhat all channels have in common.\n")
			table(keys(reflect.TypeFor[drivers.Channel]()))
		}
	}
	b.WriteString("\n## Drivers\n")
	for _, f := range factories {
		fmt.Fprintf(&b, "\n### `driver: %s`\n\n%s.", f.Name, f.Summary)
		if len(f.Aliases) > 0 {
			fmt.Fprintf(&b, " Also called %s.", "`"+strings.Join(f.Aliases, "`, `")+"`")
		}
		b.WriteByte('\n')
		t := reflect.TypeOf(f.New("x")).Elem()
		table(keys(t))
		for _, k := range keys(t) {
			if k.name == "channels" && k.Type.Kind() == reflect.Slice && bare(k.Type.Elem()).Kind() == reflect.Struct {
				var own []key
				for _, c := range keys(bare(k.Type.Elem())) {
					if !slices.ContainsFunc(keys(reflect.TypeFor[drivers.Channel]()), func(x key) bool { return x.name == c.name }) {
						own = append(own, c)
					}
				}
				if len(own) > 0 {
					b.WriteString("\nIts channels take, beside what all channels take:\n")
					table(own)
				}
			}
		}
	}
	b.WriteByte('\n')
	return b.String()
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func takes(k key) string {
	t := bare(k.Type)
	low, high := k.Tag.Get("min"), k.Tag.Get("max")
	within := ""
	switch {
	case low != "" && high != "":
		within = ", " + low + " to " + high
	case low != "":
		within = ", at least " + low
	case high != "":
		within = ", at most " + high
	}
	if enum := k.Tag.Get("enum"); enum != "" {
		return "`" + strings.ReplaceAll(enum, ",", "` `") + "`"
	}
	switch {
	case t == reflect.TypeFor[config.Duration](), t == reflect.TypeFor[time.Duration]():
		return "duration" + within
	case t == reflect.TypeFor[config.Size]():
		return "size" + within
	case t == reflect.TypeFor[config.Percent]():
		return "percentage" + within
	case t == reflect.TypeFor[config.Window]():
		return "time of day"
	case t == reflect.TypeFor[config.Rate]():
		return "number/time"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "`true` `false`"
	case reflect.Float32, reflect.Float64:
		return "number" + within
	case reflect.Slice:
		return "list"
	}
	return "whole number" + within
}

// Every driver's keys can be read, have their words, and stand beside the common ones.
func TestDriversKeys(t *testing.T) {
	for _, f := range factories {
		o := f.New("x")
		typ := reflect.TypeOf(o)
		require.Equal(t, reflect.Pointer, typ.Kind(), f.Name)
		common := map[string]bool{}
		for _, k := range keys(reflect.TypeFor[config.Sensor]()) {
			common[k.name] = true
		}
		for _, k := range keys(typ.Elem()) {
			require.False(t, common[k.name], "driver %s: key %s is common to all sensors", f.Name, k.name)
		}
		documented(t, f.Name, typ.Elem())
		if f.Name == "ds18b20" {
			continue // its bus has a default, and an only device needs no id
		}
		require.NotEmpty(t, o.Check(), "driver %s finds nothing wrong with an empty configuration", f.Name)
	}
	documented(t, "", reflect.TypeFor[config.Config]())
}

func documented(t *testing.T, path string, typ reflect.Type) {
	for _, k := range keys(typ) {
		at := path + "." + k.name
		require.NotEmpty(t, k.name, at)
		require.NotEmpty(t, k.Tag.Get("doc"), at)
		inner := bare(k.Type)
		if inner.Kind() == reflect.Slice {
			inner = bare(inner.Elem())
		}
		switch {
		case textual(inner), inner.Kind() == reflect.String, inner.Kind() == reflect.Bool, inner.Kind() == reflect.Float64, inner.Kind() == reflect.Float32,
			inner.Kind() >= reflect.Int && inner.Kind() <= reflect.Uint64:
		case inner.Kind() == reflect.Struct:
			documented(t, at, inner)
		default:
			t.Errorf("%s: %v can not be read", at, k.Type)
		}
	}
}

func resolve(t *testing.T) *jsonschema.Resolved {
	text, err := os.ReadFile(schemaFile)
	require.NoError(t, err)
	var s jsonschema.Schema
	require.NoError(t, json.Unmarshal(text, &s))
	r, err := s.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	require.NoError(t, err)
	return r
}

func asJSON(t *testing.T, text []byte) any {
	var v any
	require.NoError(t, yaml.Unmarshal(text, &v))
	j, err := json.Marshal(v)
	require.NoError(t, err)
	var back any
	require.NoError(t, json.Unmarshal(j, &back))
	return back
}

// Every sample loads without a warning that was not meant, and the schema agrees.
func TestSamples(t *testing.T) {
	files, err := filepath.Glob("../../configs/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 4)
	schema := resolve(t)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := config.Load(file, factories)
			require.NoError(t, err)
			require.NotEmpty(t, c.Sensors)
			require.Empty(t, c.Warnings)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, schema.Validate(asJSON(t, text)))
			require.Contains(t, string(text), "homeward.schema.json", "editors find the schema by it")
		})
	}
}

const right = `gateway: gw-1
home: {organization: acme, project: p, product: q, url: "tls://h"}
sensors:
  - {name: a, driver: modbus, port: /dev/x, unit_id: 1, channels: [{name: b, register: holding, address: 0, type: int16}]}
`

// What Parse refuses for the shape of a key, the schema refuses too.
func TestSchemaRefuses(t *testing.T) {
	schema := resolve(t)
	require.NoError(t, schema.Validate(asJSON(t, []byte(right))))
	_, err := config.Parse("h.yaml", []byte(right), factories)
	require.NoError(t, err)
	for _, c := range [][2]string{
		{"gateway: gw-1\n", ""}, {"gateway: gw-1", "gateway: GW"}, {"gateway: gw-1", "gateway: 1"}, {"gateway: gw-1", "gateway: gw-1\nzebra: 1"},
		{"organization: acme, ", ""}, {"tls://h", "https://h"}, {"tls://h", "tls://u:p@h"}, {"product: q,", "product: q, cloud: losant,"}, {"product: q,", "product: q, password: x,"},
		{"driver: modbus", "driver: modbuss"}, {"driver: modbus, ", ""}, {"unit_id: 1", "unitid: 1"}, {"unit_id: 1", "unit_id: x"}, {"unit_id: 1", "unit_id: 1, every: 10"},
		{"unit_id: 1", "unit_id: 1, disabled: maybe"}, {"unit_id: 1", "unit_id: 1, deadband: -1"}, {"register: holding", "regster: holding"}, {"name: a, ", ""},
		{"sensors:", "publish: {format: cbor}\nsensors:"}, {"sensors:", "publish: {max_bytes: 1 KB}\nsensors:"}, {"sensors:", "publish: {backlog_share: 0.5}\nsensors:"},
		{"sensors:", "publish: {alarms: [{above: 1}]}\nsensors:"}, {"sensors:", "operations: {billing_day: 32}\nsensors:"}, {"sensors:", "buffer: {when_full: stop}\nsensors:"},
		{"sensors:", "buffer: []\nsensors:"}, {"sensors:", "state: var\nsensors:"}, {"sensors:", "update: {window: 2-5}\nsensors:"},
		{"sensors:", "publish: {rate: often}\nsensors:"},
	} {
		text := strings.Replace(right, c[0], c[1], 1)
		require.NotEqual(t, right, text)
		require.Error(t, schema.Validate(asJSON(t, []byte(text))), text)
		_, err := config.Parse("h.yaml", []byte(text), factories)
		require.Error(t, err, text)
	}
}
