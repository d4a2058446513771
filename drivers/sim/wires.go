package sim

import "homeward/drivers"

// wireChips measure volts, amperes, gas, and temperature at the end of a wire.
var wireChips = []ChipType{
	{"ds18b20", drivers.W1Bus, 0, []Quantity{{"temperature", "Cel", 20, 0.01}},
		func(w *World, name string, v map[string]Value) any { return NewDS18B20(w, name, v["temperature"]) }},
	{"max31855", drivers.SPI, 0, []Quantity{{"temperature", "Cel", 200, 0.01}, {"junction", "Cel", 25, 0.01}},
		func(w *World, name string, v map[string]Value) any {
			return NewMAX31855(w, name, v["temperature"], v["junction"])
		}},
	{"scd4x", drivers.I2C, 0x62, []Quantity{{"co2", "ppm", 800, 0}, {"temperature", "Cel", 20, 0.006}, {"humidity", "%RH", 50, 0.006}},
		func(w *World, name string, v map[string]Value) any { return NewSCD4x(w, name, 0xF8969F073BBE, v) }},
	{"ina219", drivers.I2C, 0x40, []Quantity{{"voltage", "V", 12, 0.0005}, {"current", "A", 0.5, 1e-6}, {"power", "W", 6, 1e-5}},
		func(w *World, name string, v map[string]Value) any { return NewINA219(w, name, 0.1, v) }},
	{"ads1115", drivers.I2C, 0x48, []Quantity{{"in0", "V", 1, 1e-6}, {"in1", "V", 2, 1e-6}, {"in2", "V", 3, 1e-6}, {"in3", "V", 0.5, 1e-6}},
		func(w *World, name string, v map[string]Value) any {
			return NewADS1115(w, name, [4]Value{or(v["in0"], 1), or(v["in1"], 2), or(v["in2"], 3), or(v["in3"], 0.5)})
		}},
}
