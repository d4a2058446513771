package mcp3008

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func ptr[T any](v T) *T { return &v }

func options(name string) func() drivers.Options {
	return func() drivers.Options {
		o := Factory.New(name).(*Options)
		o.BusName = "sim:adc"
		o.Chans = []Channel{
			{Channel: drivers.Channel{Name: "level", Unit: ptr(drivers.Unit("V"))}, Input: ptr(0), Scale: ptr(3.3 / 1024)},
			{Channel: drivers.Channel{Name: "raw"}, Input: ptr(7)},
			{Channel: drivers.Channel{Name: "between"}, Input: ptr(0), Differential: true},
		}
		return o
	}
}

func bench(name string) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		w := &sim.World{}
		inputs := [8]func(time.Time) float64{0: sim.Constant(1.65), 1: sim.Constant(0.825), 7: sim.Constant(3.2)}
		chip := sim.NewMCP3008(w, "adc", 3.3, inputs)
		if name == "mcp3208" {
			chip = sim.NewMCP3208(w, "adc", 3.3, inputs)
		}
		dev := w.AddSPI("adc", chip)
		o, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:adc"})
		require.NoError(t, err)
		s := &drivertest.Steps{}
		return &drivertest.Bench{Steps: s, Env: drivers.Env{SPI: s.SPI(o.SPI), Timeout: time.Second}, Unplug: dev.Unplug, Plug: dev.Plug}
	}
}

func TestConformance(t *testing.T) {
	for _, name := range []string{"mcp3008", "mcp3208"} {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, drivertest.Case{Options: options(name), Bench: bench(name), Anonymous: true})
		})
	}
}

func TestValues(t *testing.T) {
	for name, want := range map[string][3]float64{"mcp3008": {1.65, 992, 256}, "mcp3208": {6.6, 3971, 1024}} {
		o := options(name)()
		require.Empty(t, o.Check())
		dev, err := o.Open(t.Context(), bench(name)(t).Env)
		require.NoError(t, err)
		r, err := dev.Read(t.Context())
		require.NoError(t, err)
		for i := range want {
			require.InDelta(t, want[i], r[i].Value, 1, "%s %s", name, r[i].Channel)
		}
	}
}

// frame builds what a chip sends for a code (DS21295D figures 5-1 and 5-2).
func frame(bits, code int) []byte {
	r := []byte{0xFF, 0xF8, 0, 0, 0} // nothing drives the line before the null bit
	set := func(i, v int) { r[i/8] |= byte(v << (7 - i%8)) }
	for i := range bits {
		set(firstBit+i, code>>(bits-1-i)&1)
	}
	for i := 1; i < bits; i++ {
		set(firstBit+bits-1+i, code>>i&1)
	}
	return r
}

func TestEveryCodeAndEverySingleFault(t *testing.T) {
	for _, bits := range []int{10, 12} {
		for code := range 1 << bits {
			r := frame(bits, code)
			got, err := decode(r, bits)
			require.NoError(t, err)
			require.Equal(t, code, got)
			for i := firstBit - 1; i < frameLen*8; i++ {
				r[i/8] ^= 0x80 >> (i % 8)
				got, err := decode(r, bits)
				if i == firstBit+bits-1 { // the one bit that is sent once
					require.NoError(t, err)
					require.Equal(t, code^1, got)
				} else {
					require.ErrorIs(t, err, drivers.ErrCheck, "code %d bit %d", code, i)
				}
				r[i/8] ^= 0x80 >> (i % 8)
			}
		}
	}
}

func TestDeadLines(t *testing.T) {
	_, err := decode([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF}, 10)
	require.ErrorIs(t, err, drivers.ErrCheck)
	code, err := decode([]byte{0, 0, 0, 0, 0}, 10)
	require.NoError(t, err, "a line held low is 0 V, as documented")
	require.Zero(t, code)
	_, err = decode(frame(12, 0xABC), 10)
	require.Error(t, err, "another chip than configured")
	_, err = decode(frame(10, 0x155), 12)
	require.Error(t, err)
}

func TestOtherChip(t *testing.T) {
	for _, bits := range [][2]int{{10, 12}, {12, 10}} {
		var taken []int
		for code := range 1 << bits[0] {
			if _, err := decode(frame(bits[0], code), bits[1]); err == nil {
				taken = append(taken, code)
			}
		}
		require.Equal(t, []int{0}, taken, "%v: a code of the other chip passes for one of this", bits)
	}
}

func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, r []byte, bits int) {
		if len(r) != frameLen || bits != 10 && bits != 12 {
			return
		}
		code, err := decode(r, bits)
		if err != nil {
			return
		}
		want := frame(bits, code)
		want[0], want[1] = r[0], r[1]&0xFC|want[1]&0x03
		require.Equal(t, want, r, "what is taken is exactly what a chip sends")
	})
}

// TestBadContact: a line that floats while a sensor is read gives an error for each channel, and one
// that fails in one conversion costs that channel alone.
func TestBadContact(t *testing.T) {
	w := &sim.World{}
	dev := w.AddSPI("adc", sim.NewMCP3008(w, "adc", 3.3, [8]func(time.Time) float64{0: sim.Constant(1.65)}))
	bus, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:adc"})
	require.NoError(t, err)
	o := options("mcp3008")()
	require.Empty(t, o.Check())
	s, err := o.Open(t.Context(), drivers.Env{SPI: bus.SPI, Timeout: time.Second})
	require.NoError(t, err)
	dev.SetFault(sim.BusFault{Flip: firstBit + 1, Times: 1})
	r, err := s.Read(t.Context())
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorContains(t, err, "channel level, input 0")
	require.Len(t, r, 2)
	require.Equal(t, "raw", r[0].Channel)
	dev.SetFault(sim.BusFault{Float: true, Level: 0xFF})
	r, err = s.Read(t.Context())
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.Empty(t, r)
}

// TestScaleBeyondFloats: what the scale makes infinite is no reading.
func TestScaleBeyondFloats(t *testing.T) {
	o := options("mcp3008")().(*Options)
	o.Chans[0].Scale = ptr(1e307)
	require.Empty(t, o.Check())
	s, err := o.Open(t.Context(), bench("mcp3008")(t).Env)
	require.NoError(t, err)
	r, err := s.Read(t.Context())
	require.ErrorIs(t, err, drivers.ErrValue)
	require.Len(t, r, 2)
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{Chans: []Channel{{Input: ptr(1)}}})
	drivertest.Mistakes(t, "channels", &Options{BusName: "x"})
	drivertest.Mistakes(t, "channels[0].input", &Options{BusName: "x", Chans: []Channel{{Input: ptr(8)}}})
	drivertest.Mistakes(t, "channels[1].input", &Options{BusName: "x", Chans: []Channel{{Input: ptr(0)}, {}}})
	drivertest.Mistakes(t, "channels[0].scale", &Options{BusName: "x", Chans: []Channel{{Input: ptr(0), Scale: ptr(0.0)}}})
}
