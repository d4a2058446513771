package site

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong in a site's file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 where the file as a whole is meant
	Path         string // of the key: ports[0].slaves[1].unit_id; may be empty
	Bad          string // the value as it stands, quoted, or "missing", "unknown key", …
	Want         string // what would be right
}

func (p Problem) String() string {
	at := p.File
	if p.Line > 0 {
		at = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
	if p.Path != "" {
		at += ": " + p.Path
	}
	text := at + ": " + p.Bad
	if p.Want != "" {
		text += ": want " + p.Want
	}
	return text
}

// Problems is everything that is wrong in a site's file, in the order of the lines.
type Problems []Problem

// maxProblems bounds what a hostile file can make us say.
const maxProblems = 100

// Error has one line per problem: file:line:column: path: value: what would be right.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}

func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if n := len(p) - maxProblems; n > 0 {
		p = append(p[:maxProblems:maxProblems], Problem{File: p[0].File, Bad: fmt.Sprintf("and %d more problems", n)})
	}
	return p
}
