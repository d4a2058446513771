package config

import (
	"strings"

	"homeward/drivers"
)

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
