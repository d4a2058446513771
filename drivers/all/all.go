// Package all is the one list of drivers: a new driver is a package and a line here.
package all

import (
	"homeward/drivers"
	"homeward/drivers/modbus"
)

// Factories are the drivers that this program knows.
var Factories = []drivers.Factory{
	modbus.Factory,
}
