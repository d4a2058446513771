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

// units are the symbols of RFC 8428 §12.1, of RFC 8798 §2 and §3, and what IANA's registries of SenML units
// gained since.
var units = func() map[drivers.Unit]bool {
	set := map[drivers.Unit]bool{}
	for _, u := range strings.Fields(`
		m kg g s A K cd mol Hz rad sr N Pa J W C V F Ohm S Wb T H Cel lm lx Bq Gy Sv kat m2 m3 l m/s m/s2
		m3/s l/s W/m2 cd/m2 bit bit/s lat lon pH dB dBW Bspl count / % %RH %EL EL 1/s 1/min beat/min beats S/m
		B VA VAs var vars J/m kg/m3 deg NTU
		ms min h MHz kW kVA kvar Ah Wh kWh varh kvarh kVAh Wh/km KiB GB Mbit/s B/s MB/s mV mA dBm ug/m3
		mm/h m/h ppm /100 /1000 hPa mm cm km km/h ppb ppt VAh mg/l ug/l g/l`) {
		set[drivers.Unit(u)] = true
	}
	return set
}()

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
	for known := range units {
		if strings.EqualFold(string(known), string(u)) && (best == "" || string(known) < best) {
			best = string(known)
		}
	}
	return best
}
