package ds18b20

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func options() drivers.Options { return &Options{BusName: "sim:w1"} }

func bench(t *testing.T) *drivertest.Bench {
	w := &sim.World{}
	bus, c := w.AddW1("w1"), sim.NewDS18B20(w, "flow", sim.Constant(21.5))
	require.NoError(t, bus.Add(c))
	s := &drivertest.Steps{}
	return &drivertest.Bench{
		Steps: s, Env: drivers.Env{W1: s.W1(bus), Timeout: time.Second},
		Unplug: func() { bus.Unplug(c.ID()) }, Plug: func() { bus.Plug(c.ID()) },
	}
}

// TestConformance: anonymous, because a chip's identity is its address: another one is one that is not there.
func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Case{Options: options, Bench: bench, Anonymous: true})
}

func TestDatasheetConversation(t *testing.T) {
	f, err := os.Open("testdata/ds18b20-datasheet.txt")
	require.NoError(t, err)
	defer f.Close()
	o := options()
	require.Empty(t, o.Check())
	s, err := o.Open(t.Context(), drivers.Env{W1: drivertest.Play(t, f).W1()})
	require.NoError(t, err)
	for _, want := range []float64{25.06, -10.13} {
		r, err := s.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, []drivers.Reading{{Channel: "temperature", Value: want, Unit: "Cel"}}, r)
	}
	for _, want := range []error{drivers.ErrCheck, drivers.ErrTimeout, drivers.ErrGone} {
		r, err := s.Read(t.Context())
		require.ErrorIs(t, err, want)
		require.Empty(t, r)
	}
}

// TestRecordAndPlay: what was recorded of a 1-Wire bus gives the same readings and the same kinds of error again.
func TestRecordAndPlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sim.World{}
		bus, c := w.AddW1("w1"), sim.NewDS18B20(w, "flow", sim.Constant(-7.5))
		require.NoError(t, bus.Add(c))
		var text bytes.Buffer
		rec := drivertest.NewRecorder(&text)
		run := func(b drivers.W1, gone func()) (r []drivers.Reading, err error) {
			o := options()
			require.Empty(t, o.Check())
			s, err := o.Open(t.Context(), drivers.Env{W1: b})
			require.NoError(t, err)
			r, err = s.Read(t.Context())
			require.NoError(t, err)
			gone()
			_, err = s.Read(t.Context())
			return r, err
		}
		first, err := run(rec.W1(bus), func() { bus.SetGone(true) })
		require.ErrorIs(t, err, drivers.ErrGone)
		require.NoError(t, rec.Err())
		again, err := run(drivertest.Play(t, &text).W1(), func() {})
		require.ErrorIs(t, err, drivers.ErrGone)
		require.Equal(t, first, again)
	})
}

// TestCRC: the example of Maxim's application note 27 (family 02, serial number 1B81C) and the delivered scratchpad.
func TestCRC(t *testing.T) {
	require.EqualValues(t, 0xA2, crc8([]byte{0x02, 0x1C, 0xB8, 0x01, 0, 0, 0}))
	require.EqualValues(t, 0x1C, crc8([]byte{0x50, 0x05, 0x4B, 0x46, 0x7F, 0xFF, 0x0C, 0x10}))
	require.Zero(t, crc8(make([]byte, 8)), "why zeros need a check of their own")
}

func pad(raw uint16, config, six byte) []byte {
	p := []byte{byte(raw), byte(raw >> 8), 0x4B, 0x46, config, 0xFF, six, 0x10}
	return append(p, crc8(p))
}

func file(p []byte) []byte {
	return fmt.Appendf(nil, "% x : crc=%02x YES\n% x t=1\n", p, p[8], p)
}

// TestTable is the table of temperatures in 19-7487 rev 6, and that of the resolutions.
func TestTable(t *testing.T) {
	for code, want := range map[uint16]float64{
		0x07D0: 125, 0x0550: 85, 0x0191: 25.0625, 0x00A2: 10.125, 0x0008: 0.5, 0: 0,
		0xFFF8: -0.5, 0xFF5E: -10.125, 0xFE6F: -25.0625, 0xFC90: -55,
	} {
		got, err := decode(file(pad(code, 0x7F, 0x10-byte(code&15))))
		require.NoError(t, err, "%04x", code)
		require.Equal(t, want, got)
	}
	for config, want := range map[byte]float64{0x1F: 25, 0x3F: 25.25, 0x5F: 25.375, 0x7F: 25.4375} {
		got, err := decode(file(pad(0x0197, config, 9)))
		require.NoError(t, err)
		require.Equal(t, want, got, "the undefined bits do not count")
	}
}

func TestRefused(t *testing.T) {
	for name, text := range map[string][]byte{
		"power-on":    file(pad(0x0550, 0x7F, 0x0C)),
		"zeros":       file(make([]byte, 9)),
		"ones":        []byte("ff ff ff ff ff ff ff ff ff : crc=c9 NO\nff ff ff ff ff ff ff ff ff t=-62\n"),
		"-127":        file(pad(0xF810, 0x7F, 0x10)),
		"126":         file(pad(0x07E0, 0x7F, 0x10)),
		"another":     file(pad(0x0191, 0xFF, 0x0F)),
		"NO":          []byte("91 01 4b 46 7f ff 0f 10 25 : crc=25 NO\n91 01 4b 46 7f ff 0f 10 25 t=25062\n"),
		"kernel":      []byte("91 01 4b 46 7f ff 0f 10 25 : crc=26 YES\n91 01 4b 46 7f ff 0f 10 25 t=25062\n"),
		"second line": []byte("91 01 4b 46 7f ff 0f 10 25 : crc=25 YES\n92 01 4b 46 7f ff 0f 10 25 t=25062\n"),
		"half":        []byte("91 01 4b 46 7f ff 0f 10 25 : crc=25 YES\n"),
		"text":        []byte("hello"),
	} {
		_, err := decode(text)
		require.ErrorIs(t, err, drivers.ErrCheck, name)
	}
	_, err := decode(nil)
	require.ErrorIs(t, err, drivers.ErrTimeout)
}

// TestEveryFlippedBit of the scratchpad is refused, even if the kernel says YES.
func TestEveryFlippedBit(t *testing.T) {
	for i := range 72 {
		p := pad(0x0191, 0x7F, 0x0F)
		p[i/8] ^= 0x80 >> (i % 8)
		_, err := decode(file(p))
		require.ErrorIs(t, err, drivers.ErrCheck, "bit %d", i)
	}
}

// TestBus: several chips need an id; each is read by its own, and faults are those of one chip.
func TestBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sim.World{}
		bus := w.AddW1("w1")
		a, b := sim.NewDS18B20(w, "a", sim.Constant(10)), sim.NewDS18B20(w, "b", sim.Constant(-20.5))
		require.NoError(t, bus.Add(a))
		require.NoError(t, bus.Add(b))
		env := drivers.Env{W1: bus}
		open := func(id string) (drivers.Sensor, error) {
			o := &Options{ID: id}
			require.Empty(t, o.Check())
			return o.Open(t.Context(), env)
		}
		_, err := open("")
		require.ErrorIs(t, err, drivers.ErrWrong)
		require.ErrorContains(t, err, a.ID())
		_, err = open("28-000000000001")
		require.ErrorIs(t, err, drivers.ErrTimeout)
		require.ErrorContains(t, err, b.ID())
		s, err := open(b.ID())
		require.NoError(t, err)
		r, err := s.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, -20.5, r[0].Value)
		for _, f := range []struct {
			sim.BusFault
			want error
		}{{sim.BusFault{Flip: 3, Times: 1}, drivers.ErrCheck}, {sim.BusFault{NACK: true, Times: 1}, drivers.ErrTimeout}} {
			bus.SetFault(b.ID(), f.BusFault)
			_, err = s.Read(t.Context())
			require.ErrorIs(t, err, f.want)
			_, err = s.Read(t.Context())
			require.NoError(t, err)
		}
		// Power lost in the middle of a conversion.
		go func() {
			time.Sleep(100 * time.Millisecond)
			bus.Unplug(b.ID())
			bus.Plug(b.ID())
		}()
		_, err = s.Read(t.Context())
		require.ErrorContains(t, err, "lost its supply")
		bus.SetGone(true)
		_, err = s.Read(t.Context())
		require.ErrorIs(t, err, drivers.ErrGone)
		_, err = open(b.ID())
		require.ErrorIs(t, err, drivers.ErrGone)
	})
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{BusName: "/dev/i2c-1"})
	drivertest.Mistakes(t, "id", &Options{ID: "10-0316a2798bff"})
	drivertest.Mistakes(t, "channels[0].name", &Options{Chans: []drivers.Channel{{Name: "humidity"}}})
	drivertest.Mistakes(t, "channels[0].unit", &Options{Chans: []drivers.Channel{{Name: "temperature", Unit: new(drivers.Unit("F"))}}})
}

func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := decode(text)
		if err == nil && (v < -55 || v > 125) {
			t.Fatal(v)
		}
	})
}
