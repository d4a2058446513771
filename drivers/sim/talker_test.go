package sim

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adrianmo/go-nmea"
	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// heard is what a talker says in d of virtual time, and what it tells as served.
func heard(t *testing.T, d time.Duration, make func(w *World) *Talker, before func(*Talker)) (text string, served map[string]float64) {
	synctest.Test(t, func(t *testing.T) {
		served = map[string]float64{}
		ours, theirs := net.Pipe()
		w := &World{Served: func(channel string, raw any, _ time.Time) { served[channel] = raw.(float64) }}
		talker := make(w)
		if before != nil {
			before(talker)
		}
		done := running(func() { _ = talker.Serve(t.Context(), theirs, drivers.Line{}) })
		_ = ours.SetReadDeadline(time.Now().Add(d))
		b, _ := io.ReadAll(ours)
		ours.Close()
		theirs.Close()
		<-done
		text = string(b)
	})
	return text, served
}

func running(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}

func TestLines(t *testing.T) {
	channels := []LineValue{{"weight", Constant(12.345)}, {"tare", Constant(2.6)}, {"n", Constant(7)}}
	const format = "ST,GS,{weight:%7.2f}kg {tare:%d} {n}"
	require.NoError(t, CheckLines(format, channels))
	lines := func(w *World) *Talker { return NewLines(w, "scale", time.Second, format, channels) }
	text, served := heard(t, 2500*time.Millisecond, lines, nil)
	require.Equal(t, "ST,GS,  12.35kg 3 7\r\nST,GS,  12.35kg 3 7\r\n", text)
	require.Equal(t, map[string]float64{"scale/weight": 12.35, "scale/tare": 3, "scale/n": 7}, served, "as printed")

	for name, c := range map[string]struct {
		fault TalkFault
		want  string
	}{
		"silent":    {TalkFault{Silent: true}, ""},
		"truncated": {TalkFault{Truncate: 9}, "ST,GS,  1"},
		"corrupt":   {TalkFault{Corrupt: true}, "ST,GS,  \xb12.35kg 3 7\r\n"},
		"late":      {TalkFault{Late: time.Second}, ""},
	} {
		text, served := heard(t, 1500*time.Millisecond, lines, func(d *Talker) { d.SetFault(c.fault) })
		require.Equal(t, c.want, text, name)
		require.Empty(t, served, "%s: not told as served", name)
	}
	text, served = heard(t, 2500*time.Millisecond, lines, func(d *Talker) { d.SetFault(TalkFault{Noise: []byte("\xff"), Times: 1}) })
	require.Equal(t, "\xffST,GS,  12.35kg 3 7\r\nST,GS,  12.35kg 3 7\r\n", text)
	require.Len(t, served, 3)

	for _, bad := range []string{"{weight", "{weight:%s} {tare} {n}", "{weight} {tare}", "{weight} {tare} {n} {m}", "{weight} {tare} {n} {n}"} {
		require.Error(t, CheckLines(bad, channels), bad)
	}
}

// TestNMEASentences: what is said parses with a library that others wrote, and means what is told.
func TestNMEASentences(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	values := map[string]Value{"latitude": Constant(-33.8523456), "longitude": Constant(-0.01), "wind-speed": Constant(5.126), "depth": Constant(3.456),
		"heading": Constant(359.94), "water-temperature": Constant(-1.25), "air-temperature": Constant(20)}
	served := map[string]float64{}
	w := &World{Now: func() time.Time { return at }}
	for _, u := range NewNMEA(w, "gps", time.Second, values).burst(at) {
		require.LessOrEqual(t, len(u.text), 82)
		s, err := nmea.Parse(u.text)
		require.NoError(t, err, u.text)
		for _, v := range u.values {
			served[v.channel] = v.value
		}
		switch s := s.(type) {
		case nmea.RMC:
			require.InDelta(t, -33.8523456, s.Latitude, 2e-7)
			require.InDelta(t, -0.01, s.Longitude, 2e-7)
			require.InDelta(t, 11.5, s.Speed*1852/3600, 0.001)
			require.Equal(t, nmea.Date{Valid: true, DD: 4, MM: 3, YY: 26}, s.Date)
		case nmea.GGA:
			require.Equal(t, int64(8), s.NumSatellites)
			require.Equal(t, "1", s.FixQuality)
		case nmea.MWV:
			require.Equal(t, 5.13, s.WindSpeed) //nolint:testifylint // as printed
		}
	}
	require.Len(t, served, 14)
	require.InDelta(t, 3.46, served["depth"], 1e-9)

	void := NewNMEA(w, "gps", time.Second, map[string]Value{"quality": Constant(0), "satellites": Constant(2)}).burst(at)
	require.Equal(t, "$GNRMC,050607.00,V,,,,,,,040326,,,N*64\r\n", void[0].text)
	require.Equal(t, []printed{{"quality", 0}, {"satellites", 2}}, void[1].values)
}

// TestModbusTCP holds an exchange against the bytes that the messaging guide's header prescribes.
func TestModbusTCP(t *testing.T) {
	regs := new(ModbusMap)
	regs.Set(Holding, 0x6B, 0x22B, 0, 0x64)
	var d Modbus
	d.AddSlave(0x11, regs)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := running(func() { _ = d.ServeTCP(ctx, l) })
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	ask := func(unit byte, n int) []byte {
		_, err := c.Write([]byte{0x15, 1, 0, 0, 0, 6, unit, 3, 0, 0x6B, 0, 3})
		require.NoError(t, err)
		b := make([]byte, n)
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		return b
	}
	require.Equal(t, []byte{0x15, 1, 0, 0, 0, 9, 0x11, 3, 6, 2, 0x2B, 0, 0, 0, 0x64}, ask(0x11, 15))
	require.Equal(t, []byte{0x15, 1, 0, 0, 0, 3, 0x12, 0x83, 0x0B}, ask(0x12, 9))
	for _, x := range []struct {
		fault ModbusFault
		at    int
		want  byte
	}{
		{ModbusFault{Foreign: true}, 1, 0x41}, {ModbusFault{Corrupt: true}, 3, 1}, {ModbusFault{Unit: 9}, 6, 9}, {ModbusFault{Function: 4}, 7, 4},
		{ModbusFault{Noise: []byte{7}}, 0, 7},
	} {
		x.fault.Times = 1
		d.SetFault(0x11, x.fault)
		n := 15 + len(x.fault.Noise)
		require.Equal(t, x.want, ask(0x11, n)[x.at])
	}
	d.SetFault(0x11, ModbusFault{Exception: 2, Times: 1})
	require.Equal(t, byte(2), ask(0x11, 9)[8])
	d.SetFault(0x11, ModbusFault{Length: 2, Times: 1})
	require.Equal(t, uint16(11), binary.BigEndian.Uint16(ask(0x11, 17)[4:]))
	cancel()
	<-done
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err, "closed at the end")
}
