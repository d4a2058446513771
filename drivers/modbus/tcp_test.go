package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
	"homeward/drivers/drivertest"
	"homeward/drivers/hostbus"
	"homeward/drivers/sim"
)

// stream is a connection under virtual time: only Read lets time pass.
type stream struct {
	t       time.Time
	arrive  []arrival
	sent    [][]byte
	onWrite func(frame []byte)
	err     error
}

func newStream() *stream { return &stream{t: time.Unix(1_700_000_000, 0)} }

func (w *stream) now() time.Time     { return w.t }
func (w *stream) Flush() error       { w.arrive = nil; return nil }
func (w *stream) Line() drivers.Line { return drivers.Line{} }
func (w *stream) Close() error       { w.err, w.arrive = drivers.ErrGone, nil; return nil }

// deliver puts b on the connection at an instant.
func (w *stream) deliver(at time.Time, b []byte) {
	for _, x := range b {
		w.arrive = append(w.arrive, arrival{at, x})
	}
	slices.SortStableFunc(w.arrive, func(a, b arrival) int { return a.at.Compare(b.at) })
}

func (w *stream) Read(p []byte, wait time.Duration) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	until := w.t.Add(wait)
	if len(w.arrive) > 0 && w.arrive[0].at.After(w.t) && !w.arrive[0].at.After(until) {
		w.t = w.arrive[0].at
	}
	n := 0
	for n < len(p) && len(w.arrive) > 0 && !w.arrive[0].at.After(w.t) {
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

func (w *stream) Write(b []byte) error {
	if w.err != nil {
		return w.err
	}
	w.sent = append(w.sent, slices.Clone(b))
	if w.onWrite != nil {
		w.onWrite(slices.Clone(b))
	}
	return nil
}

// adu puts a reply, unit first and without CRC, behind the header of a request.
func adu(request, reply []byte) []byte {
	b := append(slices.Clone(request[:4]), byte(len(reply)>>8), byte(len(reply)))
	return append(b, reply...)
}

// words is a healthy reply, unit first, whose registers hold f of their address.
func words(request []byte, f func(address int) uint16) []byte {
	address, count := int(binary.BigEndian.Uint16(request[8:])), int(binary.BigEndian.Uint16(request[10:]))
	b := []byte{request[6], request[7], byte(2 * count)}
	for i := range count {
		b = binary.BigEndian.AppendUint16(b, f(address+i))
	}
	return b
}

func same(address int) uint16 { return uint16(address) }

func (w *stream) open(t require.TestingT, shared *drivers.Shared, unit int, chans ...Channel) *Sensor {
	o := &Options{URL: "tcp://plc", UnitID: &unit, Chans: chans}
	require.Empty(t, o.Check())
	require.Equal(t, drivers.Bus{Kind: drivers.TCP, Name: "tcp://plc:502"}, o.Bus())
	s, err := o.open(drivers.Env{Port: w, Timeout: timeout, Shared: shared}, w.now)
	require.NoError(t, err)
	return s
}

// TestTCPOnTheWire: the application protocol's example, §6.3, behind the header of the messaging guide, §3.1.3.
func TestTCPOnTheWire(t *testing.T) {
	w := newStream()
	s := w.open(t, new(drivers.Shared), 0xFF, channel("a", "holding", 0x6B, "uint16"), channel("b", "holding", 0x6C, "uint16"), channel("c", "holding", 0x6D, "uint16"))
	w.onWrite = func(frame []byte) {
		require.Equal(t, []byte{0, 1, 0, 0, 0, 6, 0xFF, 3, 0, 0x6B, 0, 3}, frame)
		w.deliver(w.t, []byte{0, 1, 0, 0, 0, 9})
		w.deliver(w.t.Add(timeout/2), []byte{0xFF, 3, 6, 2, 0x2B, 0, 0, 0, 0x64})
	}
	got, err := s.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{{Channel: "a", Value: 0x22B}, {Channel: "b"}, {Channel: "c", Value: 100}}, got)
}

// TestTCPRefused: what each wrong answer is, and whether the connection survives it.
func TestTCPRefused(t *testing.T) {
	good := func(q []byte) []byte { return adu(q, words(q, same)) }
	for name, c := range map[string]struct {
		answer func(q []byte) []byte
		is     []error
		says   string
		closed bool
	}{
		"silence":                       {func([]byte) []byte { return nil }, []error{drivers.ErrTimeout}, "no answer in time", false},
		"other id":                      {func(q []byte) []byte { b := good(q); b[1]++; return b }, []error{drivers.ErrTimeout, drivers.ErrCheck}, "transaction 2 instead of 1", false},
		"exception":                     {func(q []byte) []byte { return adu(q, []byte{q[6], q[7] | 0x80, 0x0B}) }, []error{drivers.ErrRefuse}, "behind it nothing does as unit_id: 1", false},
		"unit":                          {func(q []byte) []byte { b := good(q); b[6]++; return b }, []error{drivers.ErrCheck}, "of unit 2", false},
		"function":                      {func(q []byte) []byte { b := good(q); b[7]++; return b }, []error{drivers.ErrCheck}, "0x04 instead of 0x03", false},
		"exception of another function": {func(q []byte) []byte { return adu(q, []byte{q[6], 0x84, 2}) }, []error{drivers.ErrCheck}, "function 0x84", false},
		"byte count":                    {func(q []byte) []byte { b := good(q); b[8]++; return b }, []error{drivers.ErrCheck}, "3 data bytes instead of 2", false},
		"longer":                        {func(q []byte) []byte { return adu(q, append(words(q, same), 0)) }, []error{drivers.ErrCheck}, "of 3 bytes that announces 2", false},
		"protocol":                      {func(q []byte) []byte { b := good(q); b[3] = 1; return b }, []error{drivers.ErrCheck, drivers.ErrGone}, "protocol 1", true},
		"length 2":                      {func(q []byte) []byte { b := good(q); b[5] = 2; return b }, []error{drivers.ErrCheck, drivers.ErrGone}, "length of 2", true},
		"length 255":                    {func(q []byte) []byte { b := good(q); b[5] = 255; return b }, []error{drivers.ErrCheck, drivers.ErrGone}, "length of 255", true},
		"torn":                          {func(q []byte) []byte { return good(q)[:10] }, []error{drivers.ErrCheck, drivers.ErrGone}, "only 10 bytes", true},
		"torn, and a late one behind it": {func(q []byte) []byte {
			return append(good(q)[:10], good([]byte{0, 0, 0, 0, 0, 6, 1, 3, 0, 5, 0, 1})...)
		}, []error{drivers.ErrCheck, drivers.ErrGone}, "10 bytes follow the reply", true},
		"twice":    {func(q []byte) []byte { return append(good(q), good(q)...) }, []error{drivers.ErrCheck, drivers.ErrGone}, "11 bytes follow the reply", true},
		"one byte": {func(q []byte) []byte { return good(q)[:1] }, []error{drivers.ErrCheck, drivers.ErrGone}, "only 1 bytes", true},
		"http":     {func([]byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n") }, []error{drivers.ErrCheck, drivers.ErrGone}, "not Modbus TCP", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newStream()
			s := w.open(t, new(drivers.Shared), 1, channel("x", "holding", 5, "uint16"))
			w.onWrite = func(q []byte) { w.deliver(w.t, c.answer(q)) }
			begin := w.t
			got, err := s.Read(t.Context())
			require.Empty(t, got)
			for _, is := range c.is {
				require.ErrorIs(t, err, is)
			}
			require.ErrorContains(t, err, c.says)
			require.True(t, drivers.Retry(err))
			require.LessOrEqual(t, w.t.Sub(begin), timeout)
			require.Equal(t, c.closed, w.err != nil)
			w.onWrite = func(q []byte) { w.deliver(w.t, good(q)) }
			got, err = s.Read(t.Context())
			if c.closed {
				require.ErrorIs(t, err, drivers.ErrGone)
				require.Empty(t, got)
				return
			}
			require.NoError(t, err)
			require.Equal(t, []drivers.Reading{{Channel: "x", Value: 5}}, got)
		})
	}
}

// TestTCPLate: the reply for register 5 comes while register 90, of equal shape, is waited for.
func TestTCPLate(t *testing.T) {
	w, shared := newStream(), new(drivers.Shared)
	five, ninety := w.open(t, shared, 1, channel("x", "holding", 5, "uint16")), w.open(t, shared, 1, channel("x", "holding", 90, "uint16"))
	require.Same(t, five.master, ninety.master, "one connection, one master")
	w.onWrite = func(q []byte) { w.deliver(w.t.Add(timeout+timeout/4), adu(q, words(q, same))) }
	_, err := five.Read(t.Context())
	require.ErrorIs(t, err, drivers.ErrTimeout)
	w.onWrite = func(q []byte) { w.deliver(w.t.Add(timeout/2), adu(q, words(q, same))) }
	v, err := readOne(ninety)
	require.NoError(t, err)
	require.Equal(t, 90.0, v) //nolint:testifylint // exact
}

// TestTCPUnasked: a frame that came before the request, in whole or in part, is not its reply, though its id is right.
func TestTCPUnasked(t *testing.T) {
	for _, before := range []int{11, 10, 7, 6, 1} { // bytes of it
		w := newStream()
		s := w.open(t, new(drivers.Shared), 1, channel("x", "holding", 5, "uint16"))
		guess := []byte{0, 2, 0, 0, 0, 5, 1, 3, 2, 0x10, 0x92}
		w.onWrite = func(q []byte) {
			w.deliver(w.t, adu(q, words(q, same)))
			w.deliver(w.t.Add(timeout/4), guess[:before])
		}
		v, err := readOne(s)
		require.NoError(t, err)
		require.Equal(t, 5.0, v) //nolint:testifylint // exact
		w.t = w.t.Add(timeout)
		w.onWrite = func(q []byte) {
			require.Equal(t, guess[:2], q[:2], "the id that was guessed")
			w.deliver(w.t.Add(time.Millisecond), guess[before:])
			w.deliver(w.t.Add(2*time.Millisecond), adu(q, words(q, same)))
		}
		v, err = readOne(s)
		require.NoError(t, err, before)
		require.Equal(t, 5.0, v, before) //nolint:testifylint // exact
	}
	// One that never ends is not waited for.
	w := newStream()
	s := w.open(t, new(drivers.Shared), 1, channel("x", "holding", 5, "uint16"))
	w.onWrite = func([]byte) { require.Fail(t, "asked all the same") }
	for range 100_000 {
		for _, x := range []byte{0, 1, 0, 0, 0, 5, 1, 3, 2, 0, 7} {
			w.arrive = append(w.arrive, arrival{w.t, x})
		}
	}
	_, err := s.Read(t.Context())
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorIs(t, err, drivers.ErrGone)
	require.ErrorContains(t, err, "without end and unasked")
}

// TestTCPProperty: whatever a gateway does to replies, late ones included, a value is that of the register and the
// poll for which it is given, and a fresh connection recovers.
func TestTCPProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, shared := newStream(), new(drivers.Shared)
		poll := 0
		healthy := false
		w.onWrite = func(q []byte) {
			now := poll
			reply := adu(q, words(q, func(a int) uint16 { return uint16(1000*now + 10*int(q[6]) + a) }))
			at := w.t
			if !healthy {
				switch rapid.SampledFrom([]string{"right", "late", "silent", "torn", "unit", "id", "twice", "longer", "split"}).Draw(t, "fault") {
				case "late":
					at = at.Add(time.Duration(rapid.Int64Range(0, int64(4*timeout)).Draw(t, "late")))
				case "silent":
					return
				case "torn":
					reply = reply[:rapid.IntRange(0, len(reply)-1).Draw(t, "cut")]
				case "unit":
					reply[6] ^= 3
				case "id":
					binary.BigEndian.PutUint16(reply, binary.BigEndian.Uint16(reply)-uint16(rapid.IntRange(1, 3).Draw(t, "ago")))
				case "twice":
					reply = append(reply, reply...)
				case "longer":
					reply = append(reply, 0)
				case "split":
					w.deliver(at, reply[:4])
					reply, at = reply[4:], at.Add(timeout/2)
				}
			}
			w.deliver(at, reply)
		}
		var sensors []*Sensor
		connect := func() {
			w.err, w.arrive = nil, nil
			shared = new(drivers.Shared)
			sensors = nil
			for _, unit := range []int{1, 2} {
				for _, a := range []int{3, 5} {
					sensors = append(sensors, w.open(t, shared, unit, channel("x", "holding", a, "uint16")))
				}
			}
		}
		connect()
		read := func(s *Sensor) error {
			poll++
			got, err := s.Read(context.Background())
			for _, r := range got {
				if want := 1000*poll + 10*int(s.unit) + s.points[0].address; r.Value != float64(want%65536) {
					t.Fatalf("%v, want %d", r.Value, want)
				}
			}
			if err == nil && len(got) != 1 {
				t.Fatalf("neither reading nor error")
			}
			return err
		}
		for range rapid.IntRange(1, 20).Draw(t, "polls") {
			if err := read(rapid.SampledFrom(sensors).Draw(t, "sensor")); errors.Is(err, drivers.ErrGone) {
				connect()
			}
		}
		healthy = true
		if w.arrive = nil; w.err != nil || sensors[0].master.(*tcpMaster).n > 0 {
			connect()
		}
		for _, s := range sensors {
			if err := read(s); err != nil {
				t.Fatalf("not recovered: %v", err)
			}
		}
	})
}

// FuzzTCP puts arbitrary bytes on a connection: data that is accepted stands in them as a whole frame.
func FuzzTCP(f *testing.F) {
	right := []byte{0, 1, 0, 0, 0, 5, 1, 3, 2, 0, 7}
	f.Add(right)
	f.Add(append([]byte{0, 9, 0, 0, 0, 3, 1, 0x83, 2}, right...))
	f.Add(right[:8])
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newStream()
		w.onWrite = func([]byte) { w.deliver(w.t, b) }
		m := newTCPMaster(w, nil, w.now)
		data, err := m.ask(context.Background(), request{unit: 1, function: readHolding, address: 5, count: 1}, timing{timeout: timeout})
		if err != nil {
			require.Nil(t, data)
			return
		}
		require.Contains(t, string(b), string(append([]byte{0, 1, 0, 0, 0, 5, 1, 3, 2}, data...)))
	})
}

func TestTCPConformance(t *testing.T) {
	for _, pulled := range []string{"unit", "connection"} {
		t.Run(pulled, func(t *testing.T) {
			var now *stream
			answer := func(w *stream) func([]byte) {
				return func(q []byte) { w.deliver(w.t.Add(time.Millisecond), adu(q, words(q, same))) }
			}
			drivertest.Run(t, drivertest.Case{
				Anonymous: true,
				Options: func() drivers.Options {
					unit := 17
					return onStream{&Options{URL: "tcp://plc", UnitID: &unit, Chans: []Channel{
						channel("flow", "holding", 5, "int16"), channel("energy", "input", 16, "uint32"),
					}}, &now}
				},
				Bench: func(*testing.T) *drivertest.Bench {
					w, steps := newStream(), new(drivertest.Steps)
					w.onWrite, now = answer(w), w
					b := &drivertest.Bench{
						Env: drivers.Env{Port: steps.Port(w), Timeout: timeout}, Steps: steps,
						Unplug: func() { w.onWrite = nil }, Plug: func() { w.onWrite = answer(w) },
					}
					if pulled == "connection" {
						b.Unplug = func() { w.err = fmt.Errorf("hostbus: %w", drivers.ErrGone) }
						b.Plug = func() { w.err, w.arrive = nil, nil }
					}
					return b
				},
			})
		})
	}
}

type onStream struct {
	*Options
	stream **stream
}

func (o onStream) Open(_ context.Context, env drivers.Env) (drivers.Sensor, error) {
	(*o.stream).arrive = nil // a connection of its own
	s, err := o.open(env, (*o.stream).now)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// TestTCPSite: two units behind one gateway, over a real connection, with the simulator's faults.
func TestTCPSite(t *testing.T) {
	t.Parallel()
	var d sim.Modbus
	for unit := range byte(2) {
		regs := new(sim.ModbusMap)
		regs.Set(sim.Holding, 0, 100*uint16(unit+1))
		d.AddSlave(unit+1, regs)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.ServeTCP(ctx, l) }()
	defer func() { cancel(); require.NoError(t, <-done) }()

	var h *hostbus.Handle
	var sensors [4]drivers.Sensor // unit 1, unit 2, each with short and with patient time-out
	connect := func() {
		if h != nil {
			h.Close()
		}
		shared := new(drivers.Shared)
		for i := range sensors {
			o := &Options{URL: "tcp://" + l.Addr().String(), UnitID: ptr(i%2 + 1), Chans: []Channel{channel("x", "holding", 0, "uint16")}}
			require.Empty(t, o.Check())
			if i == 0 {
				h, err = hostbus.Open(t.Context(), o.Bus())
				require.NoError(t, err)
			}
			sensors[i], err = o.Open(t.Context(), drivers.Env{Port: h.Port, Shared: shared, Timeout: []time.Duration{medium, patient}[i/2]})
			require.NoError(t, err)
		}
	}
	connect()
	defer func() { h.Close() }()
	for name, c := range map[string]struct {
		fault  sim.ModbusFault
		want   error
		closed bool
	}{
		"silent":      {sim.ModbusFault{Silent: true}, drivers.ErrTimeout, false},
		"late":        {sim.ModbusFault{Late: medium + short}, drivers.ErrTimeout, false},
		"transaction": {sim.ModbusFault{Foreign: true}, drivers.ErrTimeout, false},
		"unit":        {sim.ModbusFault{Unit: 2}, drivers.ErrCheck, false},
		"longer":      {sim.ModbusFault{Length: 2}, drivers.ErrCheck, false},
		"exception":   {sim.ModbusFault{Exception: 6}, drivers.ErrRefuse, false},
		"truncated":   {sim.ModbusFault{Truncate: 8}, drivers.ErrGone, true},
		"protocol":    {sim.ModbusFault{Corrupt: true}, drivers.ErrGone, true},
	} {
		c.fault.Times = 1
		d.SetFault(1, c.fault)
		got, err := sensors[0].Read(t.Context())
		require.ErrorIs(t, err, c.want, name)
		require.Empty(t, got, name)
		if c.closed {
			_, err = sensors[3].Read(t.Context())
			require.ErrorIs(t, err, drivers.ErrGone, "%s: all units behind it", name)
			connect()
		}
		require.Equal(t, 200.0, value(t, sensors[3]), name)
		require.Equal(t, 100.0, value(t, sensors[2]), name)
	}
}

// TestTCPOptions: what fits only a line is refused by name, and url means the same with and without its port.
func TestTCPOptions(t *testing.T) {
	for url, want := range map[string]string{
		"tcp://plc": "tcp://plc:502", "tcp://10.0.0.7:1502": "tcp://10.0.0.7:1502", "tcp://[fd00::7]": "tcp://[fd00::7]:502", "tcp://[fd00::7]:5020": "tcp://[fd00::7]:5020",
		"plc:502": "", "tcp://": "", "tcp://:502": "", "tcp://plc:0": "", "tcp://plc:70000": "", "tcp://plc:x": "", "tcp://plc/1": "", "tcp://a b": "", "udp://plc": "",
	} {
		got, ok := parseURL(url)
		require.Equal(t, want, got, url)
		require.Equal(t, want != "", ok, url)
	}
	o := &Options{URL: "plc", Port: "/dev/ttyS0", Line: "9600-8N1", UnitID: ptr(256), Late: time.Second, Turnaround: time.Second, Echo: true, Chans: []Channel{channel("x", "holding", 0, "uint16")}}
	var paths []string
	for _, f := range o.Check() {
		paths = append(paths, f.Path)
	}
	require.Equal(t, []string{"url", "port", "line", "late", "turnaround", "echo", "unit_id"}, paths)
	for _, unit := range []int{0, 255} {
		require.Empty(t, (&Options{URL: "tcp://plc", UnitID: &unit, Chans: o.Chans}).Check())
	}
}
