package config_test

import (
	"errors"
	"strings"
	"testing"

	"homeward/agent/config"
)

// Whatever the file holds, Parse answers with a configuration or with problems that have a place.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		base + boiler, base, "", "a", "- a", "a:\n  - b\n -c", "[", "{", "a: |\n x", "a: >-\n  x\n y", "a: 'x", "a: \"\\", "? a\n: b",
		"&a a: *a", "<<: {}", "!t a", "%YAML 1.2\n---\na: b", "a: b\n---\nc: d\n...\n", "\xef\xbb\xbfa: b", "a: {b: [c, {d: e}]}", "a:\r\n  b: c\r\n",
		"sensors: [{}, [], a, ~]", "sensors:\n- name: a\n  driver: meter\n  channels:\n  - {name: b}\n  -\n", "gateway: .inf", "{a: 1}: 2", "a: b: c", "#", "\t", "a: !!binary x",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("f.yaml", data, meters)
		if err == nil {
			if c.Gateway == "" || c.Home.URL == "" || c.State == "" {
				t.Fatalf("accepted without what is required: %+v", c)
			}
			return
		}
		var p *config.Problems
		if !errors.As(err, &p) || len(p.List) == 0 {
			t.Fatalf("not a list of problems: %v", err)
		}
		lines := 1 + strings.Count(string(data), "\n")
		for _, x := range p.List {
			if x.Line < 0 || x.Line > lines || x.Line > 0 && x.Column < 1 || x.Text == "" || strings.ContainsAny(x.Text, "\n\r") {
				t.Fatalf("of %d lines: %+v", lines, x)
			}
		}
	})
}
