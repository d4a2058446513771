package config_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
)

// What docs/instruments.md shows can be copied: each block is read without a mistake or a warning, and the schema agrees.
func TestInstrumentsExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/instruments.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)\n## ([^\n]*)\n|```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	schema := resolve(t)
	drivers := map[string]bool{}
	heading, n := "", 0
	for _, b := range blocks {
		if b[1] != "" {
			heading = b[1]
			continue
		}
		n++
		t.Run(heading, func(t *testing.T) {
			file := base + "sensors:\n" + b[2]
			c, err := config.Parse("instruments.md", []byte(file), factories)
			require.NoError(t, err, "%s", file)
			require.Empty(t, c.Warnings, "%s", file)
			require.NoError(t, schema.Validate(asJSON(t, []byte(file))))
			for _, s := range c.Sensors {
				drivers[s.Driver] = true
			}
		})
	}
	require.Equal(t, strings.Count(string(text), "```yaml"), n)
	for _, f := range factories {
		require.True(t, drivers[f.Name], "%s has no example", f.Name)
	}
}

// A word to choose that YAML takes for a boolean needs no quotes.
func TestBooleanWords(t *testing.T) {
	for text, want := range map[string]string{
		"wind: true, heading: true":         "",
		`wind: "true", heading: "true"`:     "",
		"wind: relative, heading: magnetic": "",
		"wind: false":                       `sensors[0].wind: "false": want relative or true`,
		"heading: north":                    "want true or magnetic",
	} {
		_, err := config.Parse("h.yaml", []byte(base+"sensors: [{name: a, driver: nmea, port: /dev/x, "+text+"}]\n"), factories)
		if want == "" {
			require.NoError(t, err, text)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
}
