package site

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
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

// quote shows a value on one line and not too long.
func quote(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// orList is a, b or c.
func orList(values []string) string {
	if n := len(values); n > 1 {
		return strings.Join(values[:n-1], ", ") + " or " + values[n-1]
	}
	return strings.Join(values, "")
}

// guess is the candidate that is most like word, if one is like enough.
func guess(word string, candidates []string) string {
	w := []rune(strings.ToLower(word[:min(len(word), 64)]))
	best, bestDistance := "", max(1, len(w)/3)+1
	for _, c := range candidates {
		if n := distance(w, []rune(c)); n < bestDistance {
			best, bestDistance = c, n
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b []rune) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		corner := row[0]
		row[0] = i + 1
		for j := range b {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, change)
		}
	}
	return row[len(b)]
}
