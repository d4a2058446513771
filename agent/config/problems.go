package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong in a configuration.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1; 0 where the file as a whole is meant
	Column int    `json:"column"` // from 1, in characters
	Path   string `json:"path"`   // of the key: home.url, sensors[0].channels[2].type; may be empty
	Bad    string `json:"bad"`    // the value as it stands in the file, quoted, or "missing", "unknown key", …
	Want   string `json:"want"`   // what would be right: a noun phrase, or a sentence that ends with . or ?
	Text   string `json:"text"`   // Path, Bad and Want in one line
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
}

// Problems is everything that is wrong in a configuration, in the order of the lines.
type Problems struct {
	List []Problem
}

// maxProblems bounds what a hostile file can make us say.
const maxProblems = 1000

// Error has one line per problem: file:line:column: path: bad value: what would be right.
func (p *Problems) Error() string {
	lines := make([]string, len(p.List))
	for i, x := range p.List {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}

// add takes a problem; x.Want is a noun phrase unless it ends a sentence of its own.
func (p *Problems) add(x Problem) {
	parts := []string{x.Path, x.Bad, x.Want}
	if x.Want != "" && !strings.HasSuffix(x.Want, "?") && !strings.HasSuffix(x.Want, ".") {
		parts[2] = "want " + x.Want
	}
	x.Text = strings.TrimSuffix(strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": "), ".")
	p.List = append(p.List, x)
}

func (p *Problems) sort() {
	slices.SortStableFunc(p.List, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if n := len(p.List) - maxProblems; n > 0 {
		file := p.List[0].File
		p.List = p.List[:maxProblems]
		p.add(Problem{File: file, Bad: fmt.Sprintf("%d more problems", n)})
	}
}
