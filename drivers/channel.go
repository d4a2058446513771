package drivers

import (
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A name goes out with every payload; a full name has to fit into 255 bytes there.
const (
	maxName      = 64  // characters
	maxNameBytes = 127 // in UTF-8
)

// WantName says what [IsName] asks for.
const WantName = "a name of 1 to 64 characters (127 bytes) without / + # and control characters, and without blanks at its ends"

// IsName is the rule for the names of sensors and channels and for the levels of a topic:
// 1 to 64 characters of any script (127 bytes in UTF-8), printable; blanks inside, but not at the ends. The slash separates
// sensor and channel; plus and number sign are MQTT's wildcards.
func IsName(s string) bool {
	n := utf8.RuneCountInString(s)
	return n >= 1 && n <= maxName && len(s) <= maxNameBytes && utf8.ValidString(s) && strings.TrimSpace(s) == s &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return strings.ContainsRune("/+#", r) || r != ' ' && !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S)
		})
}

// CheckScale checks the keys scale and offset of a channel whose value is raw × scale + offset, and fills in: without a scale it is 1.
func CheckScale(scale **float64, offset float64, fault func(key string, bad any, want string)) {
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	if *scale == nil {
		*scale = new(1.0)
	}
	if s := **scale; s == 0 || !finite(s) {
		fault("scale", s, "a finite number other than 0")
	}
	if !finite(offset) {
		fault("offset", offset, "a finite number")
	}
}
