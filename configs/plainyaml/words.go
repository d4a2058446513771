package plainyaml

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Quote shows a value on one line and not too long.
func Quote(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

// OrList is a, b or c.
func OrList(values []string) string {
	if n := len(values); n > 1 {
		return strings.Join(values[:n-1], ", ") + " or " + values[n-1]
	}
	return strings.Join(values, "")
}

// guessWork bounds the comparing of characters in one file: guesses are a courtesy.
const guessWork = 20_000_000

// Guesser finds what somebody meant, in one file. The zero value is ready.
type Guesser struct{ work int }

// Guess is the candidate that is most like word, if one is like enough.
func (g *Guesser) Guess(word string, candidates []string) string {
	w := []rune(strings.ToLower(word[:min(len(word), 256)]))
	best, bestDistance := "", max(1, len(w)/3)+1
	for _, c := range candidates {
		if g.work += len(w) * len(c); g.work > guessWork {
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
