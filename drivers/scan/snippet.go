package scan

import (
	"fmt"
	"regexp"
	"strings"
)

var plain = regexp.MustCompile(`^[A-Za-z0-9/][A-Za-z0-9/._-]*(:[A-Za-z0-9/._-]+)*$`)

// quote makes a YAML scalar for a flow mapping.
func quote(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return fmt.Sprintf("%q", s)
}

// snippet is one item of the configuration's sensors: list.
func snippet(name, driver, key, where string, rest ...string) string {
	return fmt.Sprintf("- {name: %s, driver: %s, %s: %s%s}", name, driver, key, quote(where), strings.Join(append([]string{""}, rest...), ", "))
}

// modbusRest is valid, and a placeholder: the instrument's manual has the registers.
func modbusRest(line string, unit int) string {
	return fmt.Sprintf("line: %s, unit_id: %d, channels: [{name: register0, register: holding, address: 0, type: uint16}]", line, unit)
}

func i2cSnippet(driver, bus string, address uint16) string {
	rest := []string{fmt.Sprintf("address: 0x%02x", address)}
	return snippet(fmt.Sprintf("%s-%02x", driver, address), driver, "bus", bus, rest...)
}
