package sim

import (
	"encoding/binary"
	"math"
	"time"
)

// BME280 is a Bosch BME280, or without humidity a BMP280, at register level: BST-BME280-DS001 rev.
// 1.24 and BST-BMP280-DS001 rev. 1.26. It sits on I2C and on SPI alike. Forced, normal and sleep mode,
// the time a conversion takes, the status register, oversampling's resolution and reset are there; the
// IIR filter is not (a set filter changes nothing).
type BME280 struct {
	name  string
	world *World
	bmp   bool
	env   Environment
	cal   bmeCalibration

	reg     [256]byte
	pointer byte      // where an I2C read without a register begins
	hum     byte      // osrs_h in effect: ctrl_hum counts from the next write to ctrl_meas on (§5.4.3)
	done    time.Time // end of the conversion under way; zero: none
	copying time.Time // NVM is copied until then (im_update)
	latest  []quantity
	at      time.Time // when latest was measured
}

// Environment is what surrounds a chip at an instant; nil means 20 °C, 50 %RH, 101325 Pa.
type Environment struct {
	Temperature func(time.Time) float64 // °C
	Humidity    func(time.Time) float64 // %RH; not asked by a BMP280
	Pressure    func(time.Time) float64 // Pa
}

type quantity struct {
	name  string
	value float64
}

// The registers.
const (
	bmeCalib   = 0x88
	bmeID      = 0xD0
	bmeReset   = 0xE0
	bmeCalib2  = 0xE1
	bmeCtrlHum = 0xF2
	bmeStatus  = 0xF3
	bmeCtrl    = 0xF4
	bmeConfig  = 0xF5
	bmeData    = 0xF7
)

const (
	bmeResetWord = 0xB6
	bmeCopyTime  = 2 * time.Millisecond // start-up time, table 1
)

// NewBME280 makes a BME280 that lives in w. What it hands out is told as name/temperature (°C),
// name/humidity (%RH) and name/pressure (Pa), float64s: the datasheet's compensation
// of the very codes that it serves.
func NewBME280(w *World, name string, env Environment) *BME280 { return newBME(w, name, env, false) }

// NewBMP280 makes a BMP280; see [NewBME280].
func NewBMP280(w *World, name string, env Environment) *BME280 { return newBME(w, name, env, true) }

func newBME(w *World, name string, env Environment, bmp bool) *BME280 {
	for _, e := range []struct {
		f *func(time.Time) float64
		v float64
	}{{&env.Temperature, 20}, {&env.Humidity, 50}, {&env.Pressure, 101325}} {
		if *e.f == nil {
			*e.f = Constant(e.v)
		}
	}
	c := &BME280{name: name, world: w, bmp: bmp, env: env, cal: exampleCalibration}
	c.Reset()
	return c
}

// Reset implements [I2CChip] and [SPIChip].
func (c *BME280) Reset() {
	c.reg = [256]byte{bmeID: 0x60}
	if c.bmp {
		c.reg[bmeID] = 0x58
	}
	c.cal.write(&c.reg, c.bmp)
	c.clearData()
	c.pointer, c.hum, c.done, c.latest = 0, 0, time.Time{}, nil
	c.copying = c.world.now().Add(bmeCopyTime)
}

// clearData puts the reset values, which are also those of a skipped measurement, in.
func (c *BME280) clearData() {
	copy(c.reg[bmeData:], []byte{0x80, 0, 0, 0x80, 0, 0, 0x80, 0})
	if c.bmp {
		c.reg[bmeData+6] = 0
	}
}

// I2C implements [I2CChip]: writes are pairs of register and value, reads count up (§6.2).
func (c *BME280) I2C(w []byte, n int) ([]byte, bool) {
	if n == 0 {
		for ; len(w) >= 2; w = w[2:] {
			c.write(w[0], w[1])
		}
		if len(w) == 1 {
			c.pointer = w[0]
		}
		return nil, true
	}
	if len(w) > 0 {
		c.pointer = w[0]
	}
	return c.read(c.pointer, n), true
}

// SPI implements [SPIChip]: bit 7 of the first byte is set for a read, and otherwise taken as
// set in the register's address (§6.3).
func (c *BME280) SPI(w []byte) []byte {
	r := make([]byte, len(w))
	for i := range r {
		r[i] = 0xFF // high impedance
	}
	switch {
	case len(w) == 0:
	case w[0]&0x80 != 0:
		copy(r[1:], c.read(w[0], len(w)-1))
	default:
		for ; len(w) >= 2; w = w[2:] {
			c.write(w[0]|0x80, w[1])
		}
	}
	return r
}

func (c *BME280) read(at byte, n int) []byte {
	c.advance()
	r := make([]byte, n)
	for i := range r {
		if a := int(at) + i; a >= 0x80 && a < len(c.reg) {
			r[i] = c.reg[a]
		}
	}
	if int(at) < bmeData+8 && int(at)+n > bmeData {
		for _, q := range c.latest {
			c.world.served(c.name+"/"+q.name, q.value, c.at)
		}
		c.latest = nil // the same conversion is told once
	}
	return r
}

func (c *BME280) write(at, v byte) {
	c.advance()
	switch at {
	case bmeReset:
		if v == bmeResetWord {
			c.Reset()
		}
	case bmeCtrlHum:
		if !c.bmp {
			c.reg[at] = v & 0x07
		}
	case bmeConfig:
		c.reg[at] = v &^ 0x02
	case bmeCtrl:
		c.reg[at] = v
		c.hum = c.reg[bmeCtrlHum]
		c.done = time.Time{}
		if v&3 != 0 {
			c.done = c.world.now().Add(c.conversion())
		}
	}
}

// oversampling gives how many samples an osrs setting takes (tables 20, 23, 24).
func oversampling(osrs byte) int {
	if osrs == 0 {
		return 0
	}
	return 1 << min(osrs-1, 4)
}

// conversion is how long one takes at most (§9.1, t_measure,max).
func (c *BME280) conversion() time.Duration {
	t, p, h := oversampling(c.reg[bmeCtrl]>>5), oversampling(c.reg[bmeCtrl]>>2&7), oversampling(c.hum)
	us := 1250 + 2300*t
	if p > 0 {
		us += 2300*p + 575
	}
	if h > 0 {
		us += 2300*h + 575
	}
	return time.Duration(us) * time.Microsecond
}

// standby is the pause between conversions in normal mode (BME280 table 27, BMP280 table 11).
func (c *BME280) standby() time.Duration {
	us := [8]int{500, 62500, 125000, 250000, 500000, 1000000, 10000, 20000}
	if c.bmp {
		us[6], us[7] = 2000000, 4000000
	}
	return time.Duration(us[c.reg[bmeConfig]>>5]) * time.Microsecond
}

// advance brings the registers up to the present.
func (c *BME280) advance() {
	now := c.world.now()
	c.reg[bmeStatus] = 0
	if now.Before(c.copying) {
		c.reg[bmeStatus] |= 0x01
	}
	if c.done.IsZero() {
		return
	}
	if !now.Before(c.done) {
		at := c.done
		if c.reg[bmeCtrl]&3 == 3 {
			period := c.conversion() + c.standby()
			at = at.Add(now.Sub(at) / period * period)
			c.done = at.Add(period)
		} else {
			c.reg[bmeCtrl] &^= 3 // a forced conversion ends in sleep mode
			c.done = time.Time{}
		}
		c.measure(at)
	}
	if !c.done.IsZero() && !now.Before(c.done.Add(-c.conversion())) {
		c.reg[bmeStatus] |= 0x08
	}
}

// measure puts a conversion's codes into the data registers.
func (c *BME280) measure(at time.Time) {
	osT, osP := c.reg[bmeCtrl]>>5, c.reg[bmeCtrl]>>2&7
	c.clearData()
	c.at, c.latest = at, nil
	adcT := bisect(1<<20, c.env.Temperature(at), func(adc float64) float64 { t, _ := c.cal.temperature(adc); return t })
	adcT = resolution(adcT, osT)
	t, fine := c.cal.temperature(float64(adcT))
	if osT != 0 {
		put20(c.reg[bmeData+3:], adcT)
		c.latest = append(c.latest, quantity{"temperature", t})
	}
	if osP != 0 {
		adc := bisect(1<<20, -c.env.Pressure(at), func(adc float64) float64 { return -c.cal.pressure(adc, fine) })
		adc = resolution(adc, osP)
		put20(c.reg[bmeData:], adc)
		c.latest = append(c.latest, quantity{"pressure", c.cal.pressure(float64(adc), fine)})
	}
	if !c.bmp && c.hum != 0 {
		adc := bisect(1<<16, c.env.Humidity(at), func(adc float64) float64 { return c.cal.humidity(adc, fine) })
		binary.BigEndian.PutUint16(c.reg[bmeData+6:], uint16(adc))
		c.latest = append(c.latest, quantity{"humidity", c.cal.humidity(float64(adc), fine)})
	}
}

// resolution is what oversampling leaves of 20 bits while the filter is off: 16 bits at ×1, one
// more with each doubling (§3.4.1, §3.4.2 of the BMP280's, tables 4 and 5).
func resolution(adc int32, osrs byte) int32 {
	if osrs == 0 {
		return adc
	}
	return adc &^ (1<<(5-min(osrs, 5)) - 1)
}

func put20(b []byte, v int32) { b[0], b[1], b[2] = byte(v>>12), byte(v>>4), byte(v<<4) }

// bisect finds the code below limit whose value, which must grow with the code, is nearest to want.
func bisect(limit int32, want float64, value func(adc float64) float64) int32 {
	low, high := int32(0), limit-1
	for low < high {
		mid := low + (high-low)/2
		if value(float64(mid)) < want {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low > 0 && want-value(float64(low-1)) < value(float64(low))-want {
		low--
	}
	return low
}

// bmeCalibration is a chip's trimming parameters.
type bmeCalibration struct {
	T1     uint16
	T2, T3 int16
	P1     uint16
	P      [8]int16 // P2 to P9
	H1     uint8
	H2     int16
	H3     uint8
	H4, H5 int16 // 12 bits
	H6     int8
}

// exampleCalibration is the BMP280 datasheet's worked example (§3.12), with the humidity
// parameters of a common part.
var exampleCalibration = bmeCalibration{
	T1: 27504, T2: 26435, T3: -1000,
	P1: 36477, P: [8]int16{-10685, 3024, 2855, 140, -7, 15500, -14600, 6000},
	H1: 75, H2: 362, H3: 0, H4: 313, H5: 50, H6: 30,
}

// write puts the parameters where table 16 has them.
func (c bmeCalibration) write(reg *[256]byte, bmp bool) {
	le := binary.LittleEndian
	le.PutUint16(reg[0x88:], c.T1)
	le.PutUint16(reg[0x8A:], uint16(c.T2))
	le.PutUint16(reg[0x8C:], uint16(c.T3))
	le.PutUint16(reg[0x8E:], c.P1)
	for i, p := range c.P {
		le.PutUint16(reg[0x90+2*i:], uint16(p))
	}
	if bmp {
		return
	}
	reg[0xA1] = c.H1
	le.PutUint16(reg[0xE1:], uint16(c.H2))
	reg[0xE3] = c.H3
	reg[0xE4] = byte(c.H4 >> 4)
	reg[0xE5] = byte(c.H4&0x0F) | byte(c.H5<<4)
	reg[0xE6] = byte(c.H5 >> 4)
	reg[0xE7] = byte(c.H6)
}

// temperature in °C, and t_fine: BME280 datasheet §8.1, in double precision.
func (c *bmeCalibration) temperature(adc float64) (celsius, fine float64) {
	t1 := float64(c.T1)
	a := (adc/16384 - t1/1024) * float64(c.T2)
	b := adc/131072 - t1/8192
	sum := a + b*b*float64(c.T3)
	return sum / 5120, math.Trunc(sum)
}

// pressure in Pa: §8.1. It falls as the code grows.
func (c *bmeCalibration) pressure(adc, fine float64) float64 {
	p := func(i int) float64 { return float64(c.P[i-2]) }
	v1 := fine/2 - 64000
	v2 := v1*v1*p(6)/32768 + v1*p(5)*2
	v2 = v2/4 + p(4)*65536
	v1 = (p(3)*v1*v1/524288 + p(2)*v1) / 524288
	v1 = (1 + v1/32768) * float64(c.P1)
	if v1 == 0 {
		return 0
	}
	pa := (1048576 - adc - v2/4096) * 6250 / v1
	return pa + (p(9)*pa*pa/2147483648+pa*p(8)/32768+p(7))/16
}

// humidity in %RH: §8.1.
func (c *bmeCalibration) humidity(adc, fine float64) float64 {
	h := fine - 76800
	h = (adc - (float64(c.H4)*64 + float64(c.H5)/16384*h)) *
		(float64(c.H2) / 65536 * (1 + float64(c.H6)/67108864*h*(1+float64(c.H3)/67108864*h)))
	h *= 1 - float64(c.H1)*h/524288
	return max(0, min(100, h))
}
