package drivertest_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
	"homeward/drivers/bme280"
	"homeward/drivers/drivertest"
	"homeward/drivers/mcp3008"
	"homeward/drivers/modbus"
	"homeward/drivers/sim"
)

func open(t *testing.T, o drivers.Options, env drivers.Env) drivers.Sensor {
	t.Helper()
	require.Empty(t, o.Check())
	env.Timeout, env.Shared = time.Second, &drivers.Shared{}
	s, err := o.Open(t.Context(), env)
	require.NoError(t, err)
	return s
}

func readings(t *testing.T, s drivers.Sensor) []drivers.Reading {
	t.Helper()
	r, err := s.Read(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, r)
	return r
}

func file(t *testing.T, name string) *os.File {
	f, err := os.Open("testdata/" + name)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func bmp280() *bme280.Options {
	o := bme280.Factory.New("bmp280").(*bme280.Options)
	o.BusName = "sim:chip"
	return o
}

func holding(first int) *modbus.Options {
	o := modbus.Factory.New("modbus").(*modbus.Options)
	unit := 17
	o.Port, o.UnitID = "/dev/ttyUSB0", &unit
	for i, name := range []string{"a", "b", "c"} {
		address := first + i
		o.Chans = append(o.Chans, modbus.Channel{Channel: drivers.Channel{Name: name}, Register: "holding", Address: &address, Type: "uint16"})
	}
	return o
}

// TestDatasheetConversation: the driver's whole conversation with the chip of the worked example.
func TestDatasheetConversation(t *testing.T) {
	env := drivers.Env{I2C: drivertest.Play(t, file(t, "bmp280-datasheet.txt")).I2C(), Sleep: func(time.Duration) {}}
	require.Equal(t, []drivers.Reading{{Channel: "temperature", Value: 25.08, Unit: "Cel"}, {Channel: "pressure", Value: 100653.25, Unit: "Pa"}},
		readings(t, open(t, bmp280(), env)))
}

func TestSpecificationConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line, err := drivers.ParseLine("19200-8E1")
		require.NoError(t, err)
		env := drivers.Env{Port: drivertest.Play(t, file(t, "modbus-example.txt")).Port(line)}
		require.Equal(t, []drivers.Reading{{Channel: "a", Value: 555}, {Channel: "b", Value: 0}, {Channel: "c", Value: 100}},
			readings(t, open(t, holding(0x6B), env)))
	})
}

// TestRecordAndPlay: what was recorded of a driver's conversation gives it the same readings again, on each kind of bus.
func TestRecordAndPlay(t *testing.T) {
	line, err := drivers.ParseLine("19200-8E1")
	require.NoError(t, err)
	input := 2
	adc := func() drivers.Options {
		o := mcp3008.Factory.New("mcp3208").(*mcp3008.Options)
		o.BusName, o.Chans = "sim:adc", []mcp3008.Channel{{Channel: drivers.Channel{Name: "level"}, Input: &input}}
		return o
	}
	for _, c := range []struct {
		name    string
		options func() drivers.Options
		record  func(t *testing.T, r *drivertest.Recorder) drivers.Env
		play    func(p *drivertest.Player) drivers.Env
	}{
		{"i2c", func() drivers.Options { return bmp280() }, func(t *testing.T, r *drivertest.Recorder) drivers.Env {
			w := &sim.World{}
			bus := w.AddI2C("chip")
			require.NoError(t, bus.Add(0x76, sim.NewBMP280(w, "chip", sim.Environment{})))
			return drivers.Env{I2C: r.I2C(bus)}
		}, func(p *drivertest.Player) drivers.Env { return drivers.Env{I2C: p.I2C()} }},
		{"spi", adc, func(t *testing.T, r *drivertest.Recorder) drivers.Env {
			w := &sim.World{}
			w.AddSPI("adc", sim.NewMCP3208(w, "adc", 3.3, [8]func(time.Time) float64{2: sim.Constant(1)}))
			o, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:adc"})
			require.NoError(t, err)
			return drivers.Env{SPI: r.SPI(o.SPI)}
		}, func(p *drivertest.Player) drivers.Env { return drivers.Env{SPI: p.SPI()} }},
		{"serial", func() drivers.Options {
			o := holding(3)
			*o.UnitID = 7
			for i := range o.Chans {
				o.Chans[i].Register = "input"
			}
			return o
		}, func(t *testing.T, r *drivertest.Recorder) drivers.Env {
			return drivers.Env{Port: r.Port(&slave{line: line})}
		},
			func(p *drivertest.Player) drivers.Env { return drivers.Env{Port: p.Port(line)} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var text bytes.Buffer
				r := drivertest.NewRecorder(&text)
				s := open(t, c.options(), c.record(t, r))
				first, second := readings(t, s), readings(t, s)
				require.NoError(t, r.Err())
				s = open(t, c.options(), c.play(drivertest.Play(t, &text)))
				require.Equal(t, first, readings(t, s))
				require.Equal(t, second, readings(t, s))
			})
		})
	}
}

// watched is a test whose failures are looked at.
type watched struct {
	testing.TB
	said []string
	end  []func()
}

func (w *watched) Helper()                        {}
func (w *watched) Cleanup(f func())               { w.end = append(w.end, f) }
func (w *watched) Errorf(format string, a ...any) { w.said = append(w.said, fmt.Sprintf(format, a...)) }
func (w *watched) Fatal(a ...any)                 { panic(fmt.Sprint(a...)) }

// TestPlayDiffers: a conversation that is not the recorded one fails the test, once, at the step where it leaves it.
func TestPlayDiffers(t *testing.T) {
	const recorded = "i2c 76 d0 58\ni2c 76 f400 - # sleep\n\ni2c 76 f7 0102"
	type tx struct {
		addr uint16
		w    string
		n    int
	}
	for _, c := range []struct {
		name string
		say  []tx
		want string // "": nothing
	}{
		{"as recorded", []tx{{0x76, "\xd0", 1}, {0x76, "\xf4\x00", 0}, {0x76, "\xf7", 2}}, ""},
		{"another byte", []tx{{0x76, "\xd0", 1}, {0x76, "\xf4\x01", 0}, {0x76, "\xf7", 2}}, "step 2: the driver: i2c 76 f401 -, for 0 bytes; the recording: i2c 76 f400 -"},
		{"another address", []tx{{0x77, "\xd0", 1}}, "step 1: the driver: i2c 77"},
		{"another length", []tx{{0x76, "\xd0", 2}}, "for 2 bytes"},
		{"another order", []tx{{0x76, "\xd0", 1}, {0x76, "\xf7", 2}}, "step 2"},
		{"too little", []tx{{0x76, "\xd0", 1}}, "ended after step 1; the recording goes on with: i2c 76 f400 -"},
		{"too much", []tx{{0x76, "\xd0", 1}, {0x76, "\xf4\x00", 0}, {0x76, "\xf7", 2}, {0x76, "\xf7", 2}}, "step 4: the driver: i2c 76 f7 -, for 2 bytes; the recording: the end"},
	} {
		w := &watched{TB: t}
		bus := drivertest.Play(w, strings.NewReader(recorded)).I2C()
		failed := false
		for _, x := range c.say {
			r := make([]byte, x.n)
			failed = bus.Tx(x.addr, []byte(x.w), r) != nil || failed
			if !failed && x.n == 2 {
				require.Equal(t, []byte{1, 2}, r)
			}
		}
		for _, f := range w.end {
			f()
		}
		if c.want == "" {
			require.Empty(t, w.said, c.name)
			require.False(t, failed)
			continue
		}
		require.Len(t, w.said, 1, c.name)
		require.Contains(t, w.said[0], c.want)
	}
}

// TestRecordedFailures: they are played as the same kind of error, and without a number.
func TestRecordedFailures(t *testing.T) {
	var text bytes.Buffer
	r := drivertest.NewRecorder(&text)
	w := &sim.World{}
	bus := w.AddI2C("b")
	require.NoError(t, bus.Add(0x76, sim.NewBMP280(w, "b", sim.Environment{})))
	conversation := func(tx func(addr uint16, w, r []byte) error, between func(sim.BusFault), gone func()) (errs []error) {
		in := []byte{0xAA}
		between(sim.BusFault{NACK: true})
		errs = append(errs, tx(0x76, []byte{0xD0}, in))
		between(sim.BusFault{Stuck: time.Millisecond})
		errs = append(errs, tx(0x76, []byte{0xD0}, in))
		gone()
		return append(errs, tx(0x76, []byte{0xD0}, in))
	}
	conversation(r.I2C(bus).Tx, func(f sim.BusFault) { bus.SetFault(0x76, f) }, func() { bus.SetGone(true) })
	require.Equal(t, "i2c 76 d0 - ! fault\ni2c 76 d0 - ! timeout\ni2c 76 d0 - ! gone\n", text.String())
	errs := conversation(drivertest.Play(t, &text).I2C().Tx, func(sim.BusFault) {}, func() {})
	for i, want := range [][2]bool{{false, false}, {false, true}, {true, false}} {
		require.Error(t, errs[i])
		require.Equal(t, want, [2]bool{errors.Is(errs[i], drivers.ErrGone), errors.Is(errs[i], drivers.ErrTimeout)})
	}
}

// TestRecordedPortFailures: a port that is pulled, and one that is silent.
func TestRecordedPortFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line, err := drivers.ParseLine("19200-8E1")
		require.NoError(t, err)
		var text bytes.Buffer
		s := &slave{line: line}
		p := drivertest.NewRecorder(&text).Port(s)
		_, err = p.Read(make([]byte, 8), time.Millisecond)
		require.ErrorIs(t, err, drivers.ErrTimeout)
		s.gone = true
		_, err = p.Read(make([]byte, 8), time.Millisecond)
		require.ErrorIs(t, err, drivers.ErrGone)
		require.ErrorIs(t, p.Write([]byte{1}), drivers.ErrGone)
		require.Equal(t, "recv - ! gone\nsend 01 ! gone\n", text.String())
		q := drivertest.Play(t, &text).Port(line)
		_, err = q.Read(make([]byte, 8), time.Millisecond)
		require.ErrorIs(t, err, drivers.ErrGone)
		began := time.Now()
		_, err = q.Read(make([]byte, 8), time.Second)
		require.ErrorIs(t, err, drivers.ErrTimeout)
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, q.Write([]byte{1}), drivers.ErrGone)
	})
}

// TestPortPieces: a short buffer gets the rest at the next call; Flush throws it away.
func TestPortPieces(t *testing.T) {
	p := drivertest.Play(t, strings.NewReader("recv 010203\nrecv 0405")).Port(drivers.Line{})
	b := make([]byte, 2)
	for _, want := range []string{"\x01\x02", "\x03", "\x04\x05"} {
		n, err := p.Read(b, 0)
		require.NoError(t, err)
		require.Equal(t, want, string(b[:n]))
	}
	p = drivertest.Play(t, strings.NewReader("recv 010203")).Port(drivers.Line{})
	_, err := p.Read(b, 0)
	require.NoError(t, err)
	require.NoError(t, p.Flush())
	_, err = p.Read(b, 0)
	require.ErrorIs(t, err, drivers.ErrTimeout)
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// TestRecorderKeepsOut: a recorder that cannot write does not disturb the bus.
func TestRecorderKeepsOut(t *testing.T) {
	w := &sim.World{}
	w.AddSPI("adc", sim.NewMCP3008(w, "adc", 3.3, [8]func(time.Time) float64{}))
	o, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:adc"})
	require.NoError(t, err)
	r := drivertest.NewRecorder(full{})
	c, err := r.SPI(o.SPI).Connect(0, spi.Mode0, 8)
	require.NoError(t, err)
	require.NoError(t, c.Tx([]byte{1, 0x80, 0}, make([]byte, 3)))
	require.ErrorContains(t, r.Err(), "no space left")
	require.ErrorContains(t, c.TxPackets(nil), "want Tx")
}

func TestRecordingRefused(t *testing.T) {
	for text, want := range map[string]string{
		"spi 00 00\ncan 01":                  `line 2: step "can": want i2c, spi, w1, send or recv`,
		"i2c":                                "want an address",
		"i2c 80 - -":                         `address "80": want 00 to 7f`,
		"i2c 76 d0":                          "i2c: 1 fields of bytes, want 2",
		"send 0":                             `bytes "0"`,
		"recv xy":                            `bytes "xy"`,
		"recv - ! late":                      `error "late": want gone, timeout or fault`,
		"send 01 02":                         "send: 2 fields of bytes, want 1",
		"send " + strings.Repeat("0", 1<<17): "too long",
	} {
		func() {
			defer func() { require.Contains(t, fmt.Sprint(recover()), want) }()
			drivertest.Play(&watched{TB: t}, strings.NewReader(text))
		}()
	}
}
