package agent

import (
	"errors"
	"slices"
	"strings"
	"syscall"

	"homeward/drivers"
)

// busError is what kept a bus from being opened: nobody was asked.
type busError struct{ error }

func (e *busError) Unwrap() error { return e.error }

// sensorProblem names what an error of a poll that gave n readings means, and what to do: what helps on one kind of bus misleads on another.
func sensorProblem(kind drivers.BusKind, n int, err error) (Code, string) {
	code, column := CodeSensorFailing, remedyFailing
	switch {
	case errors.Is(err, drivers.ErrGone) && errors.Is(err, drivers.ErrCheck): // a connection given up for what came on it
		code = CodeSensorGone
	case errors.Is(err, drivers.ErrGone):
		code, column = CodeSensorGone, remedyGone
	case errors.As(err, new(*busError)) && errors.Is(err, drivers.ErrWrong):
		code, column = CodeSensorGone, remedyNoBus
	case errors.As(err, new(*busError)):
		code, column = CodeSensorGone, remedyTaken
	case errors.Is(err, drivers.ErrWrong):
		code, column = CodeSensorWrong, remedyWrong
	case kind == drivers.I2C && n == 0 && isNACK(err):
		return CodeSensorSilent, "check its wiring, power and address: homeward scan lists what answers on the bus"
	case errors.Is(err, drivers.ErrTimeout) && errors.Is(err, drivers.ErrCheck):
		code, column = CodeSensorSilent, remedyGarbled
	case errors.Is(err, drivers.ErrTimeout):
		code, column = CodeSensorSilent, remedySilent
	case n > 0 || errors.Is(err, drivers.ErrRefuse) || errors.Is(err, drivers.ErrValue):
		column = remedyChannels
	}
	i := slices.Index(busKinds[:], kind)
	if i < 0 {
		i = 0
	}
	return code, remedies[column][i]
}

// isNACK says that no chip acknowledged. Adapters differ in whether they say so of the address or of what follows it, and the
// library for the real ones wraps the kernel's errors as text.
func isNACK(err error) bool {
	for _, e := range []syscall.Errno{syscall.ENXIO, syscall.EREMOTEIO} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return false
}

// What may be wrong with a sensor, as far as what to do about it differs.
const (
	remedyGone     = iota // the bus is not there
	remedyNoBus           // what is there is no such bus, or cannot be set as configured
	remedyTaken           // the bus is there and cannot be opened
	remedyWrong           // another instrument
	remedySilent          // nothing came
	remedyGarbled         // something came, and no answer in time
	remedyFailing         // the answer failed its check
	remedyChannels        // the instrument answers, but not for these channels
	remedyKinds
)

var busKinds = [...]drivers.BusKind{drivers.Serial, drivers.TCP, drivers.I2C, drivers.SPI, drivers.W1Bus}

var remedies = [remedyKinds][len(busKinds)]string{
	remedyGone: {
		"plug it in, or switch it on; if it is, compare the configured name with what homeward scan lists",
		"check the device's power and network cable, and host and port in url",
		"switch I2C on (raspi-config, Interface Options), or plug the adapter in; if it is, compare the configured name with what homeward scan lists",
		"switch SPI on (raspi-config, Interface Options), or plug the adapter in; if it is, compare the configured name with what homeward scan lists",
		"switch 1-Wire on (raspi-config, Interface Options) and restart, or plug the adapter in; the folder of the bus is usually /sys/bus/w1/devices",
	},
	remedyNoBus: {
		"name a serial port in port, as homeward scan lists them, and a line that it can be set to",
		"name the device as tcp://host:port in url",
		"name an I2C bus in bus, as homeward scan lists them",
		"name an SPI device in bus, as homeward scan lists them",
		"name the folder of a 1-Wire bus in bus, usually /sys/bus/w1/devices",
	},
	remedyTaken: {
		"free the port, or give the user that homeward runs as access to it (group dialout), as the text says",
		"let the gateway reach the device, as the text says",
		"give the user that homeward runs as access to the bus (group i2c), as the text says",
		"give the user that homeward runs as access to the device (group spi), as the text says",
		"give the user that homeward runs as access to the folder, as the text says",
	},
	remedyWrong: {
		"check which instrument is on this port, its address, and the configured driver",
		"check which instrument is at this address, its unit_id if it has one, and the configured driver",
		"check which chip is at this address (homeward scan names those that it knows), and the configured driver",
		"check which chip is at this chip select, and the configured driver",
		"configure id or driver as the text says: homeward scan lists the devices on the bus",
	},
	remedySilent: {
		"check its supply, the wiring (A and B swapped?), its address and the line's rate and parity",
		"check that it is switched on, and its unit_id if it has one; a device server or gateway answers for the line behind it, whose wiring and settings count too",
		"check the bus: the chip, a neighbour or the wiring holds it low; take the supply off all its chips for a moment, and unplug them one by one",
		"check its supply, the wiring and the chip select",
		"check its wiring, supply and pull-up resistor (4.7 kΩ), and the configured id: homeward scan lists the devices on the bus",
	},
	remedyGarbled: {
		"compare the line's rate and parity with the instrument's; then check the wiring (a bad contact, termination, ground), and that nobody else speaks on it",
		"compare the port in url and the driver with what the device speaks, and the settings of a line behind it",
		"check the wiring: short wires, pull-up resistors, supply",
		"check the wiring: short wires, supply, the chip select",
		"check its wiring, supply and pull-up resistor (4.7 kΩ)",
	},
	remedyFailing: {
		"compare what the text shows with what the instrument sends: the line's rate and parity, the driver and its pattern; if those are right, check the wiring, termination and ground",
		"compare what the text shows with what the device sends: the port in url, the driver and its pattern, and the settings of a line behind it",
		"check its supply and the wiring (short wires, pull-up resistors), and that nothing else uses the chip",
		"check its supply, the data line and the chip select, and the configured driver",
		"check its wiring, supply and pull-up resistor (4.7 kΩ); a long bus wants a stronger one",
	},
	remedyChannels: {
		"compare the channels named with the instrument's manual (Modbus addresses count from 0 here) and with what it sends, as the text says; a satellite receiver without a fix wants a clear sky",
		"compare the channels named (Modbus addresses count from 0 here), and unit_id if it has one, with the instrument's manual and with what it sends, as the text says",
		"check what the text says of the channels named: their inputs and range; if the chip refuses a command, take its supply off for a moment",
		"check what the text says of the channels named: their inputs and wiring",
		"check what the text says of the channels named",
	},
}
