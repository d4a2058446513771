package config_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
)

// A copied sensor whose address was forgotten, and two drivers on one chip, are mistakes; one chip shared between sensors is none.
func TestOneChipTwice(t *testing.T) {
	const i2c = "bus: /dev/i2c-1, "
	for _, c := range []struct{ name, a, b, want string }{
		{"copied", "driver: bme280, " + i2c + "address: 0x76", "driver: bme280, " + i2c + "address: 0x76", "h.yaml:5:57: sensors[1].address: 0x76: want an address of its own on /dev/i2c-1: sensors[0], a, reads temperature there already"},
		{"copied, by default", "driver: bme280, " + i2c, "driver: bme280, " + i2c, "h.yaml:5:5: sensors[1].address: 0x76: want an address of its own on /dev/i2c-1: sensors[0], a, reads temperature there already"},
		{"default and written", "driver: bme280, " + i2c, "driver: bme280, " + i2c + "address: 118", "sensors[1].address: 0x76: want"},
		{"two drivers", "driver: tmp102, " + i2c + "address: 0x48", "driver: ads1115, " + i2c + "address: 0x48, channels: [{name: x, input: 0}]", "sensors[1].address: 0x48: want an address of its own on /dev/i2c-1: sensors[0], a, is there already, with driver: tmp102"},
		{"two aliases", "driver: bme280, " + i2c, "driver: bmp280, " + i2c, "is there already, with driver: bme280"},
		{"another address", "driver: bme280, " + i2c, "driver: bme280, " + i2c + "address: 0x77", ""},
		{"another bus", "driver: bme280, " + i2c, "driver: bme280, bus: /dev/i2c-3", ""},
		{"shared", "driver: bme280, " + i2c + "channels: [{name: temperature}]", "driver: bme280, " + i2c + "channels: [{name: humidity}]", ""},
		{"disabled", "driver: bme280, " + i2c, "disabled: true, driver: bme280, " + i2c, ""},
		{"SPI copied", "driver: max31855, bus: /dev/spidev0.0", "driver: max31855, bus: /dev/spidev0.0", `sensors[1].bus: "/dev/spidev0.0": want a bus of its own: sensors[0], a, reads `},
		{"SPI with two drivers", "driver: max31855, bus: /dev/spidev0.0", "driver: bme280, bus: /dev/spidev0.0", `sensors[1].bus: "/dev/spidev0.0": want a bus of its own: sensors[0], a, is there already, with driver: max31855`},
		{"an input twice", "driver: mcp3008, bus: /dev/spidev0.0, channels: [{name: x, input: 0}, {name: y, input: 1}]", "driver: mcp3008, bus: /dev/spidev0.0, channels: [{name: z, input: 1}]", `sensors[1].bus: "/dev/spidev0.0": want a bus of its own: sensors[0], a, reads input 1`},
		{"inputs shared", "driver: mcp3008, bus: /dev/spidev0.0, channels: [{name: x, input: 0}]", "driver: mcp3008, bus: /dev/spidev0.0, channels: [{name: x, input: 1}]", ""},
		{"an input of an ads1115 twice", "driver: ads1115, " + i2c + "channels: [{name: x, input: 0}]", "driver: ads1115, " + i2c + "channels: [{name: y, input: 0}]", "reads input 0"},
		{"against another", "driver: ads1115, " + i2c + "channels: [{name: x, input: 0}]", "driver: ads1115, " + i2c + "channels: [{name: y, input: 0, against: 1}]", ""},
		{"1-Wire copied", "driver: ds18b20, id: 28-0316a2798bff", "driver: ds18b20, id: 28-0316a2798bff", `h.yaml:5:36: sensors[1].id: "28-0316a2798bff": want an id of its own: sensors[0], a, has it already`},
		{"1-Wire without id", "driver: ds18b20", "driver: ds18b20", "sensors[1].id: missing: want the chip's id, since sensors[0], a, is on the same bus"},
		{"1-Wire, one without id", "driver: ds18b20", "driver: ds18b20, id: 28-0316a2798bff", "h.yaml:4:5: sensors[0].id: missing: want the chip's id, since sensors[1], b, is on the same bus"},
		{"two thermometers", "driver: ds18b20, id: 28-0316a2798bf0", "driver: ds18b20, id: 28-0316a2798bff", ""},
		{"a unit twice", "driver: modbus, port: /dev/x, unit_id: 1, channels: [{name: x, register: holding, address: 0, type: int16}]", "driver: modbus, port: /dev/x, unit_id: 1, every: 1h, channels: [{name: x, register: holding, address: 0, type: int16}]", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Parse("h.yaml", []byte(base+"sensors:\n  - {name: a, "+c.a+"}\n  - {name: b, "+c.b+"}\n"), factories)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			require.Equal(t, 0, strings.Count(err.Error(), "\n"), "once: %v", err)
		})
	}
}
