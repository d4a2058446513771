package drivers

import "strings"

// The symbols of IANA's two registries of SenML units: the primary ones (RFC 8428 §12.1, RFC 8798 §2), and
// the secondary ones (RFC 8798 §3), which a SenML pack may only use when it says so (RFC 9100 §4.1).
var primaryUnits, secondaryUnits = unitSet(`
	m kg g s A K cd mol Hz rad sr N Pa J W C V F Ohm S Wb T H Cel lm lx Bq Gy Sv kat m2 m3 l m/s m/s2
	m3/s l/s W/m2 cd/m2 bit bit/s lat lon pH dB dBW Bspl count / % %RH %EL EL 1/s 1/min beat/min beats S/m
	B VA VAs var vars J/m kg/m3 deg NTU`), unitSet(`
	ms min h MHz kW kVA kvar Ah Wh kWh varh kvarh kVAh Wh/km KiB GB Mbit/s B/s MB/s mV mA dBm ug/m3
	mm/h m/h ppm /100 /1000 hPa mm cm km km/h ppb ppt VAh mg/l ug/l g/l`)

func unitSet(symbols string) map[Unit]bool {
	set := map[Unit]bool{}
	for _, u := range strings.Fields(symbols) {
		set[Unit(u)] = true
	}
	return set
}

// Known says that u is a SenML unit, primary or secondary.
func (u Unit) Known() bool { return primaryUnits[u] || secondaryUnits[u] }

// Secondary says that u is one of RFC 8798's secondary units, such as kWh.
func (u Unit) Secondary() bool { return secondaryUnits[u] }

// Units calls yield with each symbol, in no order.
func Units(yield func(Unit) bool) {
	for _, set := range []map[Unit]bool{primaryUnits, secondaryUnits} {
		for u := range set {
			if !yield(u) {
				return
			}
		}
	}
}

// IsSenMLName says that s may be a name in SenML (RFC 8428 §4.5.1): letters, digits and -:./_ alone, a
// letter or digit first.
func IsSenMLName(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '-' && c != ':' && c != '.' && c != '/' && c != '_') {
			return false
		}
	}
	return s != ""
}
