package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"homeward/drivers"
)

// Value is a quantity in the course of time.
type Value = func(time.Time) float64

// Quantity is one thing that a chip measures.
type Quantity struct {
	Name    string // as the chip tells it, and as the driver's channel is called by default
	Unit    drivers.Unit
	Default float64
	// Tolerance is how far a right gateway's value may lie from what is told as served: the difference of two ways of rounding.
	Tolerance float64
}

// ChipType is a chip that can be put on a simulated bus by its name.
type ChipType struct {
	Name       string // as the gateway's driver is called
	Bus        drivers.BusKind
	Address    uint16 // I2C: where it is by default
	Quantities []Quantity
	// New makes an [I2CChip], [SPIChip] or [W1Chip] that lives in w. What it hands out is told as name/quantity, a
	// float64 in the quantity's unit: what the codes mean that it serves. Quantities without a value are constant.
	New func(w *World, name string, values map[string]Value) any
}

// ChipTypes are all that a site can be made of.
func ChipTypes() []ChipType { return slices.Concat(baseChips, airChips, wireChips) }

// FindChip is the type of a name.
func FindChip(name string) (ChipType, error) {
	var names []string
	for _, t := range ChipTypes() {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	slices.Sort(names)
	return ChipType{}, fmt.Errorf("sim: chip %q: want one of %s", name, strings.Join(names, ", "))
}

// baseChips are Bosch's and Microchip's first ones.
var baseChips = []ChipType{
	{"bme280", drivers.I2C, 0x76, []Quantity{{"temperature", "Cel", 20, 0.02}, {"humidity", "%RH", 50, 0.05}, {"pressure", "Pa", 101325, 1}},
		func(w *World, name string, v map[string]Value) any { return NewBME280(w, name, environment(v)) }},
	{"bmp280", drivers.I2C, 0x76, []Quantity{{"temperature", "Cel", 20, 0.02}, {"pressure", "Pa", 101325, 1}},
		func(w *World, name string, v map[string]Value) any { return NewBMP280(w, name, environment(v)) }},
}

func environment(v map[string]Value) Environment {
	return Environment{Temperature: v["temperature"], Humidity: v["humidity"], Pressure: v["pressure"]}
}

// or is v, or a constant where there is none.
func or(v Value, constant float64) Value {
	if v == nil {
		return Constant(constant)
	}
	return v
}
