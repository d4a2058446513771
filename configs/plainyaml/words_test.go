package plainyaml

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"flush", "fulsh", 1}, {"flush", "flsh", 1}, {"flush", "flusch", 1}, {"buffer", "bufer", 1}, {"kühl", "kuhl", 1}, {"abc", "xyz", 3}, {"ca", "abc", 3}} {
		require.Equal(t, c.want, distance([]rune(c.a), []rune(c.b)), "%s %s", c.a, c.b)
		require.Equal(t, c.want, distance([]rune(c.b), []rune(c.a)), "%s %s", c.b, c.a)
	}
}

// A guess is a courtesy, which a hostile file uses up.
func TestGuessesAreBounded(t *testing.T) {
	var g Guesser
	require.Equal(t, "buffer", g.Guess("bufer", []string{"buffer", "status"}))
	require.Empty(t, g.Guess("zebra", []string{"buffer", "status"}))
	many := make([]string, 1000)
	for i := range many {
		many[i] = "a name of thirty-two characters "
	}
	for range 1000 {
		g.Guess("a name of thirty-two character", many)
	}
	require.Empty(t, g.Guess("bufer", []string{"buffer"}))
}
