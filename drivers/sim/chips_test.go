package sim

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"periph.io/x/conn/v3/spi"
	"pgregory.net/rapid"

	"homeward/drivers"
)

// The integer compensation of the BME280 datasheet, §4.2.3: what a driver without floating point computes.

func int32T(c bmeCalibration, adc int32) (hundredths, fine int32) {
	v1 := ((adc>>3 - int32(c.T1)<<1) * int32(c.T2)) >> 11
	d := adc>>4 - int32(c.T1)
	v2 := (((d * d) >> 12) * int32(c.T3)) >> 14
	fine = v1 + v2
	return (fine*5 + 128) >> 8, fine
}

func int64P(c bmeCalibration, adc, fine int32) (q24_8 int64) {
	p := func(i int) int64 { return int64(c.P[i-2]) }
	v1 := int64(fine) - 128000
	v2 := v1*v1*p(6) + (v1*p(5))<<17 + p(4)<<35
	v1 = (v1*v1*p(3))>>8 + (v1*p(2))<<12
	v1 = ((1<<47 + v1) * int64(c.P1)) >> 33
	pa := 1048576 - int64(adc)
	pa = ((pa<<31 - v2) * 3125) / v1
	a := (p(9) * (pa >> 13) * (pa >> 13)) >> 25
	b := (p(8) * pa) >> 19
	return (pa+a+b)>>8 + p(7)<<4
}

func int32H(c bmeCalibration, adc, fine int32) (q22_10 int32) {
	v := fine - 76800
	v = ((adc<<14 - int32(c.H4)<<20 - int32(c.H5)*v + 16384) >> 15) *
		((((((v*int32(c.H6))>>10)*(((v*int32(c.H3))>>11)+32768))>>10+2097152)*int32(c.H2) + 8192) >> 14)
	v -= (((v >> 15) * (v >> 15)) >> 7) * int32(c.H1) >> 4
	return max(0, min(419430400, v)) >> 12
}

// TestBMEExample is the worked example of the BMP280 datasheet, §3.12.
func TestBMEExample(t *testing.T) {
	c := exampleCalibration
	celsius, fine := c.temperature(519888)
	require.InDelta(t, 25.08, celsius, 0.005)
	require.InDelta(t, 128422, fine, 1)
	require.InDelta(t, 100653.27, c.pressure(415148, fine), 0.05)
}

// TestBMECompensation: the floating-point formulas, and the codes found by bisection, agree with the integer ones.
func TestBMECompensation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := exampleCalibration
		wantT := rapid.Float64Range(-40, 85).Draw(t, "T")
		wantP := rapid.Float64Range(30000, 110000).Draw(t, "P")
		wantH := rapid.Float64Range(1, 99).Draw(t, "H")
		adcT := bisect(1<<20, wantT, func(a float64) float64 { v, _ := c.temperature(a); return v })
		hundredths, fine := int32T(c, adcT)
		require.InDelta(t, wantT, float64(hundredths)/100, 0.011)
		_, ffine := c.temperature(float64(adcT))
		require.InDelta(t, ffine, float64(fine), 40, "0.01 °C is 51.2")
		adcP := bisect(1<<20, -wantP, func(a float64) float64 { return -c.pressure(a, float64(fine)) })
		require.InDelta(t, wantP, float64(int64P(c, adcP, fine))/256, 0.5)
		adcH := bisect(1<<16, wantH, func(a float64) float64 { return c.humidity(a, float64(fine)) })
		require.InDelta(t, wantH, float64(int32H(c, adcH, fine))/1024, 0.02)
	})
}

// clock is a hand-driven one.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

type servedValue struct {
	channel string
	raw     any
}

// bench is a world with a hand-driven clock that notes what is served.
func bench() (*World, *clock, *[]servedValue) {
	c := &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	var got []servedValue
	w := &World{Now: c.now, Served: func(channel string, raw any, _ time.Time) { got = append(got, servedValue{channel, raw}) }}
	return w, c, &got
}

func TestBMEForced(t *testing.T) {
	w, clk, served := bench()
	env := Environment{Temperature: Constant(-7.25), Humidity: Constant(61.5), Pressure: Constant(98765)}
	bus := w.AddI2C("i2c-1")
	require.NoError(t, bus.Add(0x76, NewBME280(w, "climate", env)))
	reg := func(at byte, n int) []byte {
		r := make([]byte, n)
		require.NoError(t, bus.Tx(0x76, []byte{at}, r))
		return r
	}
	require.Equal(t, []byte{0x60}, reg(0xD0, 1))
	require.Equal(t, []byte{1}, reg(0xF3, 1), "NVM is copied after power-on")
	clk.t = clk.t.Add(2 * time.Millisecond)
	require.Equal(t, []byte{0}, reg(0xF3, 1))
	require.Equal(t, []byte{0x80, 0, 0, 0x80, 0, 0, 0x80, 0}, reg(0xF7, 8), "reset values, table 18")
	require.Empty(t, *served)
	require.Equal(t, uint16(27504), binary.LittleEndian.Uint16(reg(0x88, 2)))
	h := reg(0xE1, 7)
	require.EqualValues(t, 313, int(int8(h[3]))<<4|int(h[4]&15))
	require.EqualValues(t, 50, int(int8(h[5]))<<4|int(h[4]>>4))

	// Oversampling ×1 of all, forced: 1.25 + 2.3 + 2.3 + 0.575 + 2.3 + 0.575 ms.
	require.NoError(t, bus.Tx(0x76, []byte{0xF2, 1, 0xF4, 1<<5 | 1<<2 | 1}, nil))
	clk.t = clk.t.Add(9299 * time.Microsecond)
	require.Equal(t, []byte{8, 0x25}, reg(0xF3, 2))
	require.Equal(t, byte(0x80), reg(0xF7, 8)[0])
	clk.t = clk.t.Add(time.Microsecond)
	require.Equal(t, []byte{0, 0x24}, reg(0xF3, 2), "and it sleeps again")
	r := reg(0xF7, 8)
	require.Zero(t, r[2], "16 bits at ×1")
	adc := func(b []byte) int32 { return int32(b[0])<<12 | int32(b[1])<<4 | int32(b[2])>>4 }
	c := exampleCalibration
	hundredths, fine := int32T(c, adc(r[3:]))
	require.InDelta(t, -7.25, float64(hundredths)/100, 0.011)
	require.InDelta(t, 98765, float64(int64P(c, adc(r), fine))/256, 5)
	require.InDelta(t, 61.5, float64(int32H(c, int32(binary.BigEndian.Uint16(r[6:])), fine))/1024, 0.02)
	require.Equal(t, "climate/temperature climate/pressure climate/humidity", channels(*served))
	require.InDelta(t, float64(hundredths)/100, (*served)[0].raw, 0.011)
	reg(0xF7, 8)
	require.Len(t, *served, 3, "a conversion is told once")

	// ctrl_hum does not count before ctrl_meas is written.
	require.NoError(t, bus.Tx(0x76, []byte{0xF2, 0}, nil))
	require.Equal(t, byte(1), w.i2c["i2c-1"].chips[0x76].chip.(*BME280).hum)
	require.NoError(t, bus.Tx(0x76, []byte{0xF4, 1<<5 | 1}, nil))
	clk.t = clk.t.Add(3550 * time.Microsecond)
	r = reg(0xF7, 8)
	require.Equal(t, []byte{0x80, 0, 0}, r[:3], "pressure skipped")
	require.Equal(t, []byte{0x80, 0}, r[6:], "humidity skipped")
	require.NoError(t, bus.Tx(0x76, []byte{0xE0, 0xB6}, nil))
	require.Equal(t, []byte{1, 0}, reg(0xF3, 2), "reset")
}

func channels(got []servedValue) (s string) {
	for i, g := range got {
		if i > 0 {
			s += " "
		}
		s += g.channel
	}
	return s
}

func TestBMPOverSPI(t *testing.T) {
	w, clk, served := bench()
	temperature := 21.0
	w.AddSPI("bmp", NewBMP280(w, "bmp", Environment{Temperature: func(time.Time) float64 { return temperature }}))
	o, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:bmp"})
	require.NoError(t, err)
	c, err := o.SPI.Connect(0, spi.Mode0, 8)
	require.NoError(t, err)
	r := make([]byte, 2)
	require.NoError(t, c.Tx([]byte{0xD0, 0}, r))
	require.Equal(t, []byte{0xFF, 0x58}, r)
	// Normal mode, ×16 temperature alone, 0.5 ms of standby: bit 7 is clear in a write.
	require.NoError(t, c.Tx([]byte{0x75, 0, 0x74, 5<<5 | 3}, nil))
	conversion := 1250*time.Microsecond + 16*2300*time.Microsecond
	clk.t = clk.t.Add(conversion)
	read := func() float64 {
		r := make([]byte, 4)
		require.NoError(t, c.Tx([]byte{0xFA, 0, 0, 0}, r))
		h, _ := int32T(exampleCalibration, int32(r[1])<<12|int32(r[2])<<4|int32(r[3])>>4)
		return float64(h) / 100
	}
	require.InDelta(t, 21, read(), 0.011)
	temperature = 22
	clk.t = clk.t.Add(conversion)
	require.InDelta(t, 21, read(), 0.011, "not yet")
	clk.t = clk.t.Add(500 * time.Microsecond)
	require.InDelta(t, 22, read(), 0.011)
	temperature = 23
	clk.t = clk.t.Add(time.Hour)
	require.InDelta(t, 23, read(), 0.011)
	require.Equal(t, "bmp/temperature bmp/temperature bmp/temperature", channels(*served))
}

func TestMCP(t *testing.T) {
	w, _, served := bench()
	var inputs [8]func(time.Time) float64
	for i := range inputs {
		inputs[i] = Constant(3.3*float64(i)/8 + 1e-4*float64(i+1)) // not quite at an edge
	}
	inputs[7] = Constant(9)
	w.AddSPI("ten", NewMCP3008(w, "ten", 3.3, inputs))
	w.AddSPI("twelve", NewMCP3208(w, "twelve", 3.3, inputs))
	open := func(name string) spi.Conn {
		o, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: name})
		require.NoError(t, err)
		c, err := o.SPI.Connect(1e6, spi.Mode0, 8)
		require.NoError(t, err)
		return c
	}
	ten, twelve := open("ten"), open("twelve")
	for i := range 8 {
		want := min(1<<10*i/8, 1023)
		if i == 7 {
			want = 1023
		}
		r := make([]byte, 3)
		// Figure 6-1: the start bit in the last place of the first byte.
		require.NoError(t, ten.Tx([]byte{1, byte(8|i) << 4, 0}, r))
		require.Equal(t, []byte{0xFF, 0xF8 | byte(want>>8), byte(want)}, r, "input %d", i)
		want = 1 << 12 * i / 8
		if i == 7 {
			want = 4095
		}
		require.NoError(t, twelve.Tx([]byte{byte(6 | i>>2), byte(i << 6), 0}, r))
		require.Equal(t, []byte{0xFF, 0xE0 | byte(want>>8), byte(want)}, r, "input %d", i)
	}
	require.Equal(t, servedValue{"ten/3", 384}, (*served)[6])
	// After bit 0 comes bit 1: the code once more, the other way round, then zeros (figure 5-2).
	r := make([]byte, 5)
	*served = nil
	inputs[0] = nil
	require.NoError(t, ten.Tx([]byte{1, 0xF0, 0, 0, 0}, r)) // input 7: 1023
	require.Equal(t, []byte{0xFF, 0xFB, 0xFF, 0xFF, 0x80}, r)
	// Differential: 5 − 4, and 4 − 5, which is below zero.
	require.NoError(t, ten.Tx([]byte{1, 5 << 4, 0}, r[:3]))
	require.Equal(t, []byte{0xF8, 128}, r[1:3])
	require.NoError(t, ten.Tx([]byte{1, 4 << 4, 0}, r[:3]))
	require.Equal(t, []byte{0xF8, 0}, r[1:3])
	require.Equal(t, []servedValue{{"ten/7", 1023}, {"ten/5-4", 128}, {"ten/4-5", 0}}, *served)
	// Two packets under one chip select are one transaction; two without are two.
	require.NoError(t, ten.TxPackets([]spi.Packet{{W: []byte{1, 0xD0}, KeepCS: true}, {R: r[:1]}}))
	require.Equal(t, byte(5*128&0xFF), r[0])
	require.NoError(t, ten.TxPackets([]spi.Packet{{W: []byte{1, 0xD0}}, {R: r[:1]}}))
	require.Equal(t, byte(0xFF), r[0])
	require.NoError(t, ten.Tx(nil, nil))
	require.Error(t, ten.Tx([]byte{1, 2}, r[:1]))
}

// TestMCPBits: whatever the place of the start bit, the code comes seven clocks later.
func TestMCPBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &World{Now: func() time.Time { return time.Unix(0, 0) }}
		code := rapid.IntRange(0, 1023).Draw(t, "code")
		in := [8]func(time.Time) float64{2: Constant((float64(code) + 0.5) / 1024 * 5)}
		chip := NewMCP3008(w, "x", 5, in)
		lead := rapid.IntRange(0, 7).Draw(t, "lead")
		var word [4]byte
		binary.BigEndian.PutUint32(word[:], uint32(0b11010)<<(27-lead))
		r := binary.BigEndian.Uint32(chip.SPI(word[:]))
		require.Zero(t, r>>(31-lead-6)&1, "the null bit")
		require.Equal(t, uint32(code), r>>(31-lead-16)&1023)
	})
}

func TestWaves(t *testing.T) {
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }
	s := Sine(10, 2, 4*time.Second)
	for i, want := range []float64{10, 12, 10, 8} {
		require.InDelta(t, want, s(at(int64(i)*1000)), 1e-9)
	}
	require.InDelta(t, 1.5, Sawtooth(1, 2, time.Second)(at(2500)), 1e-9)
	require.Equal(t, 3.0, Constant(3)(at(0)))
}
