// Package all is the one list of drivers: a new driver is a package and a line here.
package all

import (
	"homeward/drivers"
	"homeward/drivers/ads1115"
	"homeward/drivers/bh1750"
	"homeward/drivers/bme280"
	"homeward/drivers/ds18b20"
	"homeward/drivers/ina219"
	"homeward/drivers/line"
	"homeward/drivers/max31855"
	"homeward/drivers/mcp3008"
	"homeward/drivers/mcp9808"
	"homeward/drivers/modbus"
	"homeward/drivers/nmea"
	"homeward/drivers/scd4x"
	"homeward/drivers/sht3x"
	"homeward/drivers/sht4x"
	"homeward/drivers/tmp102"
)

// Factories are the drivers that this program knows.
var Factories = []drivers.Factory{
	ads1115.Factory,
	bh1750.Factory,
	bme280.Factory,
	ds18b20.Factory,
	ina219.Factory,
	line.Factory,
	max31855.Factory,
	mcp3008.Factory,
	mcp9808.Factory,
	modbus.Factory,
	nmea.Factory,
	scd4x.Factory,
	sht3x.Factory,
	sht4x.Factory,
	tmp102.Factory,
}
