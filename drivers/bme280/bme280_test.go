package bme280

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

// TestWorkedExample is the calculation of BST-BMP280-DS001 §3.12 (page 23): 25.08 Cel and 100653.27 Pa. The page
// calculates in floating point; the 64-bit integer formulas of §3.11.3, which run here, come within 0.02 Pa of it.
func TestWorkedExample(t *testing.T) {
	c := calibration{
		t1: 27504, t2: 26435, t3: -1000,
		p1: 36477, p2: -10685, p3: 3024, p4: 2855, p5: 140, p6: -7, p7: 15500, p8: -14600, p9: 6000,
	}
	centi, fine := c.temperature(519888)
	require.EqualValues(t, 2508, centi)
	require.EqualValues(t, 128422, fine)
	p, ok := c.pressure(415148, fine)
	require.True(t, ok)
	require.EqualValues(t, 25767233, p)
	require.InDelta(t, 100653.27, float64(p)/256, 0.02)
}

// TestCalibrationThatDivides: by zero the datasheet's formula would, with these parameters.
func TestCalibrationThatDivides(t *testing.T) {
	c := calibration{p1: 1, p2: -1 << 15}
	_, ok := c.pressure(415148, 1<<20+128000)
	require.False(t, ok)
}

func TestCalibrationLayout(t *testing.T) {
	low := make([]byte, calibLowLen)
	for i := range 12 {
		binary.LittleEndian.PutUint16(low[2*i:], uint16(1000+i))
	}
	low[25] = 75
	var c calibration
	// H4 and H5 share a byte (BST-BME280-DS002 table 16): H4 = 0xE4<<4 | low nibble of 0xE5, H5 = 0xE6<<4 | its high nibble.
	require.NoError(t, c.parse(low, []byte{0x6A, 0x01, 0x00, 0x13, 0x29, 0x03, 0x1E}))
	require.Equal(t, calibration{t1: 1000, t2: 1001, t3: 1002, p1: 1003, p2: 1004, p3: 1005, p4: 1006, p5: 1007, p6: 1008, p7: 1009, p8: 1010, p9: 1011,
		h1: 75, h2: 362, h3: 0, h4: 0x139, h5: 0x32, h6: 30}, c)
	require.NoError(t, c.parse(low, []byte{0x6A, 0x01, 0x00, 0xFF, 0x29, 0xFE, 0xE2}))
	require.EqualValues(t, -7, c.h4, "signed")
	require.EqualValues(t, -30, c.h5)
	require.EqualValues(t, -30, c.h6)
	require.Error(t, c.parse(make([]byte, calibLowLen), nil), "zeros")
	require.Error(t, c.parse(low, []byte{255, 255, 255, 255, 255, 255, 255}), "ones")
}

// TestNothingMakesItPanic: whatever a chip holds, the results are readings or an error, and a number that passes is a number.
func TestNothingMakesItPanic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &Dev{opts: &Options{BusName: "/dev/i2c-1"}}
		require.Empty(t, d.opts.Check())
		low := rapid.SliceOfN(rapid.Byte(), calibLowLen, calibLowLen).Draw(t, "low")
		hum := rapid.SliceOfN(rapid.Byte(), calibHumLen, calibHumLen).Draw(t, "hum")
		if d.calib.parse(low, hum) != nil {
			return
		}
		readings, _ := d.convert(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "data"))
		for _, r := range readings {
			require.NoError(t, drivers.CheckValue(r.Value))
			require.Less(t, r.Value, 1e6)
			require.Greater(t, r.Value, -1e6)
		}
	})
}

var air = sim.Environment{Temperature: sim.Constant(21.5), Humidity: sim.Constant(45), Pressure: sim.Constant(101325)}

func options(alias, kind string) func() drivers.Options {
	return func() drivers.Options {
		o := Factory.New(alias).(*Options)
		o.BusName, o.Interface = "sim:chip", kind
		return o
	}
}

// socket holds a chip, and another one after an exchange.
type socket struct{ *sim.BME280 }

// bench is a simulated chip; the simulator computes raw values with the datasheet's floating-point formulas, the driver with the integer ones.
func bench(alias, kind string) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		w := &sim.World{}
		one, other := sim.NewBME280(w, "chip", air), sim.NewBMP280(w, "other", air)
		if alias == "bmp280" {
			one, other = other, one
		}
		chip := &socket{one}
		s := &drivertest.Steps{}
		b := &drivertest.Bench{Steps: s, Env: drivers.Env{Timeout: time.Second}, Exchange: func() { chip.BME280 = other }}
		if kind == "spi" {
			dev := w.AddSPI("chip", chip)
			o, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:chip"})
			require.NoError(t, err)
			b.Env.SPI = s.SPI(o.SPI)
			b.Unplug, b.Plug = dev.Unplug, dev.Plug
			return b
		}
		bus := w.AddI2C("chip")
		require.NoError(t, bus.Add(0x76, chip))
		b.Env.I2C = s.I2C(bus)
		b.Unplug, b.Plug = func() { bus.Unplug(0x76) }, func() { bus.Plug(0x76) }
		return b
	}
}

func TestConformance(t *testing.T) {
	for _, alias := range []string{"bme280", "bmp280"} {
		for _, kind := range []string{"i2c", "spi"} {
			t.Run(alias+" "+kind, func(t *testing.T) {
				drivertest.Run(t, drivertest.Case{Options: options(alias, kind), Bench: bench(alias, kind)})
			})
		}
	}
}

func TestValuesAgreeWithTheSimulatedAir(t *testing.T) {
	for _, n := range []int{1, 2, 4, 8, 16} {
		o := options("bme280", "i2c")().(*Options)
		o.Oversampling = &n
		require.Empty(t, o.Check())
		dev, err := o.Open(t.Context(), bench("bme280", "i2c")(t).Env)
		require.NoError(t, err)
		r, err := dev.Read(t.Context())
		require.NoError(t, err)
		require.InDelta(t, 21.5, r[0].Value, 0.02)
		require.InDelta(t, 45, r[1].Value, 0.1)
		require.InDelta(t, 101325, r[2].Value, 5)
	}
}

// TestPowerLost: a chip that lost its supply between two readings, or during a conversion, is an error
// until it is opened again, although it answers and has the right identity.
func TestPowerLost(t *testing.T) {
	for _, alias := range []string{"bme280", "bmp280"} {
		for _, kind := range []string{"i2c", "spi"} {
			for _, during := range []bool{false, true} {
				o := options(alias, kind)()
				require.Empty(t, o.Check())
				b := bench(alias, kind)(t)
				cycle := func() { b.Unplug(); b.Plug() }
				sensor, err := o.Open(t.Context(), b.Env)
				require.NoError(t, err)
				_, err = sensor.Read(t.Context())
				require.NoError(t, err)
				if during {
					sensor.(*Dev).sleep = func(time.Duration) { cycle() }
				} else {
					cycle()
				}
				got, err := sensor.Read(t.Context())
				require.ErrorIs(t, err, drivers.ErrCheck)
				require.ErrorContains(t, err, "lost its settings")
				require.Empty(t, got)
				sensor, err = o.Open(t.Context(), b.Env)
				require.NoError(t, err)
				got, err = sensor.Read(t.Context())
				require.NoError(t, err)
				require.Len(t, got, len(o.Channels()))
			}
		}
	}
}

// TestDeadWire: an SPI data line that is held low or high, from the start or later.
func TestDeadWire(t *testing.T) {
	for _, level := range []byte{0x00, 0xFF} {
		w := &sim.World{}
		dev := w.AddSPI("chip", sim.NewBME280(w, "chip", air))
		bus, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:chip"})
		require.NoError(t, err)
		env := drivers.Env{SPI: bus.SPI, Timeout: time.Second}
		o := options("bme280", "spi")()
		require.Empty(t, o.Check())
		sensor, err := o.Open(t.Context(), env)
		require.NoError(t, err)
		dev.SetFault(sim.BusFault{Float: true, Level: level})
		got, err := sensor.Read(t.Context())
		require.ErrorIs(t, err, drivers.ErrCheck)
		require.ErrorContains(t, err, "nothing drives the bus")
		require.Empty(t, got)
		_, err = o.Open(t.Context(), env)
		require.ErrorIs(t, err, drivers.ErrCheck)
	}
}

// stuck is a chip that has one bit of its status always set.
type stuck struct {
	registers
	bit byte
}

func (s stuck) read(at byte, p []byte) error {
	err := s.registers.read(at, p)
	if at == regStatus {
		p[0] |= s.bit
	}
	return err
}

// TestNeverReady: a chip that never ends its start or its conversion costs a bounded time.
func TestNeverReady(t *testing.T) {
	o := options("bme280", "i2c")()
	require.Empty(t, o.Check())
	sensor, err := o.Open(t.Context(), bench("bme280", "i2c")(t).Env)
	require.NoError(t, err)
	d, slept := sensor.(*Dev), time.Duration(0)
	d.sleep = func(x time.Duration) { slept += x; time.Sleep(x) }
	chip := d.reg
	d.reg = stuck{chip, statusMeasuring}
	got, err := d.Read(t.Context())
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorContains(t, err, "still measuring")
	require.Empty(t, got)
	require.LessOrEqual(t, slept, 2*d.took)
	slept, d.reg = 0, stuck{chip, statusUpdating}
	require.ErrorContains(t, d.open(t.Context()), "still starting")
	require.LessOrEqual(t, slept, 20*time.Millisecond)
}

// TestCodesThatAreNone: what the data registers hold after a reset or a skipped measurement, and what a dead bus gives.
func TestCodesThatAreNone(t *testing.T) {
	o := options("bme280", "i2c")()
	require.Empty(t, o.Check())
	sensor, err := o.Open(t.Context(), bench("bme280", "i2c")(t).Env)
	require.NoError(t, err)
	d := sensor.(*Dev)
	good := []byte{0x65, 0x5A, 0xC0, 0x7E, 0xED, 0x00, 0x6E, 0x00}
	got, err := d.convert(good)
	require.NoError(t, err)
	require.Equal(t, 25.08, got[0].Value)
	require.Equal(t, 100653.25, got[2].Value)
	for i, none := range map[int][][]byte{
		0: {{0x80, 0, 0, 0x80, 0, 0}, {0, 0, 0}, {0xFF, 0xFF, 0xF0}, {0xFF, 0xFF, 0}, {0, 0, 0xF0}},
		3: {{0, 0, 0}, {0xFF, 0xFF, 0xF0}, {0xFF, 0xFF, 0}},
		6: {{0, 0}, {0xFF, 0xFF}},
	} {
		for _, x := range none {
			data := bytes.Clone(good)
			copy(data[i:], x)
			got, err := d.convert(data)
			require.ErrorIs(t, err, drivers.ErrCheck, "%x", data)
			require.Empty(t, got)
		}
	}
}

// TestResetCodeIsAlsoACode: temperature, pressure and humidity whose code is the one of the reset state are read.
func TestResetCodeIsAlsoACode(t *testing.T) {
	o := options("bme280", "i2c")()
	require.Empty(t, o.Check())
	sensor, err := o.Open(t.Context(), bench("bme280", "i2c")(t).Env)
	require.NoError(t, err)
	d := sensor.(*Dev)
	for i, data := range [][]byte{
		{0x65, 0x5A, 0xC0, 0x80, 0x00, 0x00, 0x6E, 0x00},
		{0x65, 0x5A, 0xC0, 0x7E, 0xED, 0x00, 0x80, 0x00},
		{0x80, 0x00, 0x00, 0x7E, 0xED, 0x00, 0x6E, 0x00},
	} {
		got, err := d.convert(data)
		require.NoError(t, err, "%x", data)
		require.Len(t, got, 3)
		require.InDelta(t, []float64{26.46, 70.36, 81875}[i], got[i].Value, 0.5)
	}
}

// TestRangesAndChannels: the operating range is each channel's default for min and max, and stays what was given; checking
// twice is the same as once.
func TestRangesAndChannels(t *testing.T) {
	low := 10.0
	for _, kind := range []string{"i2c", "spi"} {
		o := options("bme280", kind)().(*Options)
		o.Chans = []drivers.Channel{{Name: "pressure"}, {Name: "temperature", Min: &low}}
		require.Empty(t, o.Check())
		require.Empty(t, o.Check())
		c := o.Channels()
		require.Equal(t, []string{"pressure", "temperature"}, []string{c[0].Name, c[1].Name})
		require.Equal(t, []float64{30000, 110000, 10, 85}, []float64{*c[0].Min, *c[0].Max, *c[1].Min, *c[1].Max})
		require.Equal(t, []drivers.Unit{"Pa", "Cel"}, []drivers.Unit{*c[0].Unit, *c[1].Unit})
		sensor, err := o.Open(t.Context(), bench("bme280", kind)(t).Env)
		require.NoError(t, err)
		r, err := sensor.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, "pressure", r[0].Channel)
		require.InDelta(t, 101325, r[0].Value, 5)
	}
	require.Len(t, func() []drivers.Channel { o := options("bmp280", "i2c")(); o.Check(); return o.Channels() }(), 2, "no humidity")
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{BusName: "/dev/i2c-1", Address: new(0x50)}, &Options{BusName: "/dev/spidev0.0", Address: new(0x50)})
	drivertest.Mistakes(t, "interface", &Options{BusName: "/dev/thing"}, &Options{BusName: "/dev/i2c-1", Interface: "usb"},
		&Options{BusName: "/dev/i2c-1", Interface: "spi"}, &Options{BusName: "/dev/spidev0.0", Interface: "i2c"})
	drivertest.Mistakes(t, "oversampling", &Options{BusName: "/dev/i2c-1", Oversampling: new(3)})
	drivertest.Mistakes(t, "channels[0].name", &Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "temperatur"}}},
		&Options{BusName: "/dev/i2c-1", bmp: true, Chans: []drivers.Channel{{Name: "humidity"}}})
	drivertest.Mistakes(t, "channels[0].unit", &Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "pressure", Unit: new(drivers.Unit("F"))}}})
}

// changed is a chip of which one bit of one register reads otherwise than it was written.
type changed struct {
	registers
	at, bit byte
}

func (c changed) read(at byte, p []byte) error {
	err := c.registers.read(at, p)
	if i := int(c.at) - int(at); i >= 0 && i < len(p) {
		p[i] ^= c.bit
	}
	return err
}

// TestEverySettingCounts: a chip that holds another oversampling, standby or filter than was written is not believed.
func TestEverySettingCounts(t *testing.T) {
	o := options("bme280", "i2c")()
	require.Empty(t, o.Check())
	sensor, err := o.Open(t.Context(), bench("bme280", "i2c")(t).Env)
	require.NoError(t, err)
	d := sensor.(*Dev)
	chip := d.reg
	// The registers of BST-BME280-DS002 §5.4.3, §5.4.5 and §5.4.6, and the bits of each that are settings.
	for at, bits := range map[byte]byte{0xF2: 0b111, 0xF4: 0b11111100, 0xF5: 0b11111100} {
		for bit := byte(1); bit != 0; bit <<= 1 {
			if bits&bit == 0 {
				continue
			}
			d.reg = changed{chip, at, bit}
			got, err := d.Read(t.Context())
			require.ErrorIs(t, err, drivers.ErrCheck, "%#02x: %08b", at, bit)
			require.ErrorContains(t, err, "lost its settings")
			require.Empty(t, got)
		}
	}
	d.reg = chip
	got, err := d.Read(t.Context())
	require.NoError(t, err)
	require.Len(t, got, 3)
}
