package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
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

// quote shows a value on one line and not too long.
func quote(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// guessWork bounds the comparing of characters in one file: guesses are a courtesy.
const guessWork = 20_000_000

// guess is the candidate that is most like word, if one is like enough.
func (d *decoder) guess(word string, candidates []string) string {
	w := []rune(strings.ToLower(word[:min(len(word), 256)]))
	best, bestDistance := "", max(1, len(w)/3)+1
	for _, c := range candidates {
		if d.guessed += len(w) * len(c); d.guessed > guessWork {
			return ""
		}
		if n := distance(w, []rune(strings.ToLower(c))); n < bestDistance {
			best, bestDistance = c, n
		}
	}
	return best
}

// distance is the number of characters to insert, leave out, replace or swap with their
// neighbour (optimal string alignment).
func distance(a, b []rune) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}
