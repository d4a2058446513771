package sim

import "homeward/drivers"

// airChips measure temperature, humidity and light.
var airChips = []ChipType{
	{"tmp102", drivers.I2C, 0x48, []Quantity{{"temperature", "Cel", 20, 0.006}},
		func(w *World, name string, v map[string]Value) any { return NewTMP102(w, name, v["temperature"]) }},
	{"lm75", drivers.I2C, 0x4C, []Quantity{{"temperature", "Cel", 20, 0.006}},
		func(w *World, name string, v map[string]Value) any { return NewLM75(w, name, false, v["temperature"]) }},
	{"mcp9808", drivers.I2C, 0x18, []Quantity{{"temperature", "Cel", 20, 0.006}},
		func(w *World, name string, v map[string]Value) any { return NewMCP9808(w, name, v["temperature"]) }},
	{"sht3x", drivers.I2C, 0x44, []Quantity{{"temperature", "Cel", 20, 0.006}, {"humidity", "%RH", 50, 0.006}},
		func(w *World, name string, v map[string]Value) any { return NewSHT3x(w, name, environment(v)) }},
	{"sht4x", drivers.I2C, 0x44, []Quantity{{"temperature", "Cel", 20, 0.006}, {"humidity", "%RH", 50, 0.006}},
		func(w *World, name string, v map[string]Value) any {
			return NewSHT4x(w, name, 0x0F1E2D3C, environment(v))
		}},
	{"bh1750", drivers.I2C, 0x23, []Quantity{{"light", "lx", 300, 0.06}},
		func(w *World, name string, v map[string]Value) any { return NewBH1750(w, name, v["light"]) }},
}
