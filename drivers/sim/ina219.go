package sim

import (
	"math"
	"time"
)

// INA219 is TI's INA219 at register level (SBOS448G): configuration, the two voltages, calibration, current and power.
type INA219 struct {
	name    string
	world   *World
	shunt   float64 // ohms
	voltage Value
	current Value

	pointer     byte
	config      uint16
	calibration uint16
	set         time.Time // when the configuration was written
	bus         uint16    // the voltage's code when its register was last read
}

// NewINA219 makes an INA219 that lives in w, with a shunt in ohms: it tells name/voltage (V), name/current (A) and name/power (W) when
// the shunt's voltage is read; the bus voltage is the one that was read last.
func NewINA219(w *World, name string, shunt float64, v map[string]Value) *INA219 {
	c := &INA219{name: name, world: w, shunt: shunt, voltage: or(v["voltage"], 12), current: or(v["current"], 0.5)}
	c.Reset()
	return c
}

// Reset implements [I2CChip].
func (c *INA219) Reset() {
	c.pointer, c.config, c.calibration, c.set = 0, 0x399F, 0, c.world.now()
	c.bus = c.volts(c.set)
}

// I2C implements [I2CChip]: the first byte written is the pointer, two more a register's value.
func (c *INA219) I2C(w []byte, n int) ([]byte, bool) {
	if len(w) > 0 {
		c.pointer = w[0]
	}
	if len(w) == 3 {
		v := uint16(w[1])<<8 | uint16(w[2])
		switch c.pointer {
		case 0:
			if c.config, c.set = v, c.world.now(); v&0x8000 != 0 {
				c.Reset()
			}
		case 5:
			c.calibration = v &^ 1
		}
	}
	r := make([]byte, n)
	for i := range r {
		r[i] = 0xFF
	}
	if n >= 2 {
		v := c.register(c.pointer)
		r[0], r[1] = byte(v>>8), byte(v)
	}
	return r, true
}

// conversionTime is of the field BADC or SADC, table 5.
func conversionTime(adc uint16) time.Duration {
	if adc&8 == 0 {
		return []time.Duration{84, 148, 276, 532}[adc&3] * time.Microsecond
	}
	return 532 * time.Microsecond << (adc & 7)
}

func (c *INA219) register(at byte) uint16 {
	now := c.world.now()
	full := int(4000) << (c.config >> 11 & 3)
	shunt := max(-full, min(full, int(math.Round(c.current(now)*c.shunt/10e-6))))
	bus := c.volts(now)
	switch at {
	case 0:
		return c.config
	case 1:
		volts, amperes := float64(c.bus)*4e-3, float64(shunt)*10e-6/c.shunt
		c.world.served(c.name+"/voltage", volts, now)
		c.world.served(c.name+"/current", amperes, now)
		c.world.served(c.name+"/power", volts*amperes, now)
		return uint16(int16(shunt))
	case 2:
		c.bus = bus
		v := bus << 3
		if now.Sub(c.set) >= conversionTime(c.config>>7&15)+conversionTime(c.config>>3&15) && c.config&7 == 7 {
			v |= 2
		}
		return v
	case 3: // equation 5
		return uint16(int(c.register4()) * int(bus) / 5000)
	case 4:
		return uint16(c.register4())
	case 5:
		return c.calibration
	}
	return 0
}

// volts is the code of the bus voltage.
func (c *INA219) volts(now time.Time) uint16 {
	return uint16(max(0, min(8000, math.Round(c.voltage(now)/4e-3))))
}

// register4 is the current, equation 4.
func (c *INA219) register4() int16 {
	full := int(4000) << (c.config >> 11 & 3)
	shunt := max(-full, min(full, int(math.Round(c.current(c.world.now())*c.shunt/10e-6))))
	return int16(shunt * int(c.calibration) / 4096)
}
