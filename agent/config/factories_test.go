package config_test

import (
	"homeward/drivers"
	"homeward/drivers/modbus"
)

var factories = []drivers.Factory{modbus.Factory}
