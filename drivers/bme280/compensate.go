package bme280

import (
	"encoding/binary"
	"errors"
)

// calibration is what the factory burnt into the chip (BST-BME280-DS002 §4.2.2, table 16;
// BST-BMP280-DS001 §3.11.2, table 17).
type calibration struct {
	t1             uint16
	t2, t3         int16
	p1             uint16
	p2, p3, p4, p5 int16
	p6, p7, p8, p9 int16
	h1, h3         uint8
	h2, h4, h5     int16
	h6             int8
}

// The registers of the calibration.
const (
	calibLow    = 0x88 // 24 bytes of temperature and pressure, one reserved, H1
	calibLowLen = 26
	calibHum    = 0xE1 // 7 bytes of humidity
	calibHumLen = 7
)

// parse reads the calibration. low is calibLowLen bytes, hum calibHumLen or nil for a BMP280.
func (c *calibration) parse(low, hum []byte) error {
	if uniform(low[:24]) || hum != nil && uniform(hum) {
		return errors.New("calibration reads all the same: no chip, or a broken one")
	}
	u := func(i int) uint16 { return binary.LittleEndian.Uint16(low[i:]) }
	s := func(i int) int16 { return int16(u(i)) }
	c.t1, c.t2, c.t3 = u(0), s(2), s(4)
	c.p1, c.p2, c.p3, c.p4, c.p5 = u(6), s(8), s(10), s(12), s(14)
	c.p6, c.p7, c.p8, c.p9 = s(16), s(18), s(20), s(22)
	if c.t1 == 0 || c.p1 == 0 {
		return errors.New("calibration has a zero where no chip has one (dig_T1, dig_P1)")
	}
	if hum == nil {
		return nil
	}
	c.h1 = low[25]
	c.h2, c.h3 = int16(binary.LittleEndian.Uint16(hum)), hum[2]
	c.h4 = int16(int8(hum[3]))<<4 | int16(hum[4]&0x0F)
	c.h5 = int16(int8(hum[5]))<<4 | int16(hum[4]>>4)
	c.h6 = int8(hum[6])
	return nil
}

func uniform(b []byte) bool {
	for _, x := range b {
		if x != b[0] {
			return false
		}
	}
	return b[0] == 0 || b[0] == 0xFF
}

// temperature returns hundredths of a degree Celsius and t_fine (BST-BME280-DS002 §4.2.3).
func (c *calibration) temperature(adc int32) (centi, fine int64) {
	a, t1, t2, t3 := int64(adc), int64(c.t1), int64(c.t2), int64(c.t3)
	v1 := ((a>>3 - t1<<1) * t2) >> 11
	d := a>>4 - t1
	v2 := ((d * d >> 12) * t3) >> 14
	fine = v1 + v2
	return (fine*5 + 128) >> 8, fine
}

// pressure returns 1/256 Pa (§4.2.3); false: the calibration makes no sense.
func (c *calibration) pressure(adc int32, fine int64) (int64, bool) {
	v1 := fine - 128000
	v2 := v1*v1*int64(c.p6) + (v1*int64(c.p5))<<17 + int64(c.p4)<<35
	v1 = (v1*v1*int64(c.p3))>>8 + (v1*int64(c.p2))<<12
	v1 = (int64(1)<<47 + v1) * int64(c.p1) >> 33
	if v1 == 0 {
		return 0, false
	}
	p := int64(1048576 - adc)
	p = (p<<31 - v2) * 3125 / v1
	v1 = (int64(c.p9) * (p >> 13) * (p >> 13)) >> 25
	v2 = (int64(c.p8) * p) >> 19
	return (p+v1+v2)>>8 + int64(c.p7)<<4, true
}

// humidity returns 1/1024 %RH, bounded to 0 and 100 as the datasheet does (§4.2.3).
func (c *calibration) humidity(adc int32, fine int64) int64 {
	v := fine - 76800
	x := (int64(adc)<<14 - int64(c.h4)<<20 - int64(c.h5)*v + 16384) >> 15
	y := (((v*int64(c.h6))>>10*((v*int64(c.h3))>>11+32768))>>10+2097152)*int64(c.h2) + 8192
	v = x * (y >> 14)
	v -= (((v >> 15) * (v >> 15)) >> 7) * int64(c.h1) >> 4
	return min(max(v, 0), 419430400) >> 12
}
