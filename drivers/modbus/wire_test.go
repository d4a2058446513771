package modbus

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// wire is a port under virtual time: only Read lets time pass. Bytes arrive one by one at the
// pace of the line, in the order of their instants.
type wire struct {
	t       time.Time
	line    drivers.Line
	arrive  []arrival
	sent    [][]byte
	onWrite func(end time.Time, frame []byte) // end: when its last bit has left
	burst   time.Duration                     // a USB adapter hands bytes over at multiples of this
	err     error                             // what Read and Write fail with
}

type arrival struct {
	at time.Time
	b  byte
}

func newWire(line string) *wire {
	l, err := drivers.ParseLine(line)
	if err != nil {
		panic(err)
	}
	return &wire{t: time.Unix(1_700_000_000, 0), line: l}
}

func (w *wire) now() time.Time { return w.t }

// deliver puts b on the line from at on.
func (w *wire) deliver(at time.Time, b []byte) {
	for i, x := range b {
		w.arrive = append(w.arrive, arrival{at.Add(time.Duration(i+1) * w.line.CharTime()), x})
	}
	slices.SortStableFunc(w.arrive, func(a, b arrival) int { return a.at.Compare(b.at) })
}

func (w *wire) Read(p []byte, wait time.Duration) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	until := w.t.Add(max(wait, 0))
	if len(w.arrive) > 0 {
		first := w.arrive[0].at
		if w.burst > 0 {
			first = first.Truncate(w.burst).Add(w.burst)
		}
		if first.After(w.t) && !first.After(until) {
			w.t = first
		}
	}
	n := 0
	for n < len(p) && len(w.arrive) > 0 && !w.arrive[0].at.After(w.t) {
		if w.burst > 0 && w.arrive[0].at.Truncate(w.burst).Add(w.burst).After(w.t) {
			break
		}
		p[n] = w.arrive[0].b
		w.arrive = w.arrive[1:]
		n++
	}
	if n == 0 {
		w.t = until
		return 0, drivers.ErrTimeout
	}
	return n, nil
}

func (w *wire) Write(b []byte) error {
	if w.err != nil {
		return w.err
	}
	w.sent = append(w.sent, slices.Clone(b))
	if w.onWrite != nil {
		w.onWrite(w.t.Add(time.Duration(len(b))*w.line.CharTime()), slices.Clone(b))
	}
	return nil
}

func (w *wire) Flush() error       { w.arrive = nil; return nil }
func (w *wire) Line() drivers.Line { return w.line }
func (w *wire) Close() error       { return nil }

// open makes a sensor on the wire; all sensors of one shared store have one master.
func (w *wire) open(t require.TestingT, shared *drivers.Shared, o *Options) *Sensor {
	if o.Port == "" {
		o.Port = "/dev/ttyS0"
	}
	require.Empty(t, o.Check())
	s, err := o.open(drivers.Env{Port: w, Timeout: timeout, Shared: shared}, w.now)
	require.NoError(t, err)
	return s
}

const timeout = 200 * time.Millisecond

// registers is the reply of a healthy unit to a request of functions 3 and 4.
func registers(unit, function byte, values ...uint16) []byte {
	b := []byte{unit, function, byte(2 * len(values))}
	for _, v := range values {
		b = append(b, byte(v>>8), byte(v))
	}
	return appendCRC(b)
}

func channel(name, register string, address int, kind string) Channel {
	return Channel{Channel: drivers.Channel{Name: name}, Register: register, Address: &address, Type: kind}
}

// one is the options of a sensor with one register.
func one(unit int) *Options {
	return &Options{UnitID: &unit, Chans: []Channel{channel("x", "holding", 5, "uint16")}}
}

func readOne(s *Sensor) (float64, error) {
	got, err := s.Read(context.Background())
	if err != nil || len(got) != 1 {
		return 0, err
	}
	return got[0].Value, nil
}

// TestRequestOnTheWire holds the request against the bytes of the application protocol's
// example, §6.3: read holding registers 108 to 110 (address 0x006B) of, here, unit 17.
func TestRequestOnTheWire(t *testing.T) {
	w := newWire("19200-8E1")
	unit := 17
	s := w.open(t, new(drivers.Shared), &Options{UnitID: &unit, Chans: []Channel{
		channel("a", "holding", 0x6B, "uint16"), channel("b", "holding", 0x6C, "uint16"), channel("c", "holding", 0x6D, "uint16"),
	}})
	w.onWrite = func(end time.Time, frame []byte) {
		require.Equal(t, []byte{0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87}, frame)
		w.deliver(end.Add(5*time.Millisecond), registers(17, 3, 0x022B, 0x0000, 0x0064))
	}
	got, err := s.Read(context.Background())
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{{Channel: "a", Value: 0x22B}, {Channel: "b"}, {Channel: "c", Value: 100}}, got)
}

// TestBusTime: a poll of 100 registers at 115,200 baud is one request of 8 and one reply of 205
// characters, 20.3 ms with their parity bits, and two silences of 1.75 ms.
func TestBusTime(t *testing.T) {
	w := newWire("115200-8E1")
	o := &Options{UnitID: ptr(1), Line: "115200-8E1"}
	for i := range 100 {
		o.Chans = append(o.Chans, channel("r", "holding", i, "uint16"))
	}
	s := w.open(t, new(drivers.Shared), o)
	w.onWrite = func(end time.Time, _ []byte) {
		w.deliver(end.Add(1750*time.Microsecond), registers(1, 3, make([]uint16, 100)...))
	}
	_, err := s.Read(context.Background()) // the first has a longer silence before it
	require.NoError(t, err)
	begin := w.t
	got, err := s.Read(context.Background())
	require.NoError(t, err)
	require.Len(t, got, 100)
	require.Len(t, w.sent, 2)
	require.InDelta(t, 23.8, float64(w.t.Sub(begin))/1e6, 0.2, "ms")
}

// TestSilence: 3.5 characters of silence come before a request, 1.75 ms above 19,200 baud, or the
// longer turnaround.
func TestSilence(t *testing.T) {
	for _, c := range []struct {
		line       string
		turnaround time.Duration
		want       time.Duration
	}{
		{"9600-8E1", 0, 4010 * time.Microsecond},
		{"19200-8N1", 0, 1822 * time.Microsecond},
		{"38400-8N1", 0, 1750 * time.Microsecond},
		{"115200-8E1", 20 * time.Millisecond, 20 * time.Millisecond},
		{"9600-8E1", time.Millisecond, 4010 * time.Microsecond},
	} {
		w := newWire(c.line)
		o := one(1)
		o.Line, o.Turnaround = c.line, c.turnaround
		s := w.open(t, new(drivers.Shared), o)
		var gap time.Duration
		var last time.Time
		w.onWrite = func(end time.Time, frame []byte) {
			gap = w.t.Sub(last)
			reply := registers(1, 3, 7)
			w.deliver(end.Add(time.Millisecond), reply)
			last = end.Add(time.Millisecond + time.Duration(len(reply))*w.line.CharTime())
		}
		for range 2 {
			v, err := readOne(s)
			require.NoError(t, err)
			require.Equal(t, 7.0, v)
		}
		require.InDelta(t, float64(c.want), float64(gap), float64(5*time.Microsecond), c.line)
	}
}
