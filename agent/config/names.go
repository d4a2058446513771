package config

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"homeward/drivers"
)

// A name goes out with every payload; a full name has to fit into 255 bytes there.
const (
	maxName      = 64  // characters
	maxNameBytes = 127 // in UTF-8
)

const wantName = "a name of 1 to 64 characters (127 bytes) without / + # and control characters, and without blanks at its ends"

// isName is the rule for the names of sensors and channels and for the levels of a topic:
// 1 to 64 characters of any script (127 bytes in UTF-8), printable; blanks inside, but not at the ends. The slash separates
// sensor and channel; plus and number sign are MQTT's wildcards.
func isName(s string) bool {
	n := utf8.RuneCountInString(s)
	return n >= 1 && n <= maxName && len(s) <= maxNameBytes && utf8.ValidString(s) && strings.TrimSpace(s) == s &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return strings.ContainsRune("/+#", r) || r != ' ' && !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S)
		})
}

// guessUnit knows what people write instead.
func guessUnit(u drivers.Unit) string {
	switch strings.ToLower(string(u)) {
	case "c", "°c", "degc", "celsius":
		return "Cel"
	case "rh", "%rh", "% rh":
		return "%RH"
	case "ω", "ohms", "ohm":
		return "Ohm"
	case "m³":
		return "m3"
	case "m²":
		return "m2"
	case "µg/m³", "μg/m³", "µg/m3":
		return "ug/m3"
	case "°", "degree", "degrees":
		return "deg"
	}
	best := ""
	for known := range drivers.Units {
		if strings.EqualFold(string(known), string(u)) && (best == "" || string(known) < best) {
			best = string(known)
		}
	}
	return best
}
