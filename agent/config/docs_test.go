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

// Where the default time-out differs by driver, the reference says so.
func TestTimeoutDocumented(t *testing.T) {
	text, err := os.ReadFile(docFile)
	require.NoError(t, err)
	row := regexp.MustCompile("(?m)^\\| `timeout` .*$").FindString(string(text))
	for _, sensor := range []string{
		"driver: modbus, unit_id: 1, channels: [{name: x, register: holding, address: 0, type: int16}]",
		"driver: nmea", `driver: line, pattern: "(?P<x>.*)", channels: [{name: x}]`,
	} {
		c, err := config.Parse("h.yaml", []byte(base+"sensors: [{name: a, port: /dev/x, "+sensor+"}]\n"), factories)
		require.NoError(t, err)
		require.Contains(t, row, " "+c.Sensors[0].Timeout.String())
	}
}

// docs/simulate.md names every chip there is.
func TestSimulatedChips(t *testing.T) {
	text, err := os.ReadFile("../../docs/simulate.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), "Chips are simulated at register level:")
	require.True(t, ok)
	named, _, _ := strings.Cut(rest, "\n\n")
	for _, f := range factories {
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			if name != "modbus" && name != "nmea" && name != "line" {
				require.Contains(t, strings.ToLower(named), name)
			}
		}
	}
}

// By hand, the user gets the groups that the package gives it.
func TestInstallGroups(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	byHand := regexp.MustCompile(`--groups (\S+) homeward`).FindStringSubmatch(string(text))
	require.NotNil(t, byHand)
	users, err := os.ReadFile("../../configs/systemd/homeward.sysusers")
	require.NoError(t, err)
	var groups []string
	for _, m := range regexp.MustCompile(`(?m)^m homeward (\S+)$`).FindAllStringSubmatch(string(users), -1) {
		groups = append(groups, m[1])
	}
	require.ElementsMatch(t, groups, strings.Split(byHand[1], ","))
}
