package all

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFactories: every name is a driver's alone, and an empty configuration is refused with words, never
// with a panic.
func TestFactories(t *testing.T) {
	taken := map[string]string{}
	for _, f := range Factories {
		require.NotEmpty(t, f.Summary, f.Name)
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			require.Regexp(t, `^[a-z][a-z0-9]*$`, name)
			require.Empty(t, taken[name], "%s is a name of two drivers", name)
			taken[name] = f.Name
			o := f.New(name)
			require.NotSame(t, o, f.New(name), "each sensor has its own options")
			faults := o.Check()
			if name != "ds18b20" { // its bus has a usual place, and there may be one alone
				require.NotEmpty(t, faults, name)
			}
			for _, x := range faults {
				require.NotEmpty(t, x.Path, name)
				require.NotEmpty(t, x.Want, "%s %s", name, x.Path)
			}
		}
	}
	require.Equal(t, map[string]string{
		"bme280": "bme280", "bmp280": "bme280",
		"ds18b20":  "ds18b20",
		"max31855": "max31855",
		"mcp3008":  "mcp3008", "mcp3208": "mcp3008",
		"modbus": "modbus",
		"nmea":   "nmea", "line": "line",
		"tmp102": "tmp102", "lm75": "tmp102",
		"mcp9808": "mcp9808",
		"scd4x":   "scd4x",
		"ina219":  "ina219",
		"ads1115": "ads1115",
		"sht3x":   "sht3x",
		"sht4x":   "sht4x",
		"bh1750":  "bh1750",
	}, taken)
}
