package config_test

import "homeward/drivers/all"

var factories = all.Factories
