package modbus

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// TestReplies: what comes instead of the reply to "unit 1, holding 5", and before or after it.
func TestReplies(t *testing.T) {
	right := registers(1, 3, 42)
	bad := registers(1, 3, 42)
	bad[4] ^= 1
	const ms = time.Millisecond
	type piece struct {
		after time.Duration // since the request has left
		b     []byte
	}
	for _, c := range []struct {
		name   string
		pieces []piece
		want   error  // nil: 42
		text   string // part of the error
		ends   time.Duration
	}{
		{"at once", []piece{{0, right}}, nil, "", 0},
		{"just in time", []piece{{195 * ms, right}}, nil, "", 0},
		{"in two pieces", []piece{{10 * ms, right[:3]}, {60 * ms, right[3:]}}, nil, "", 0},
		{"begun in time", []piece{{199 * ms, right}}, nil, "", 0},
		{"silence", nil, drivers.ErrTimeout, "no answer in time (200ms)", 0},
		{"a driver's glitch before it", []piece{{ms, []byte{0, 0xFF}}, {ms + 300*time.Microsecond + 2*573*time.Microsecond, right}}, nil, "", 0},
		{"noise, silence, reply", []piece{{10 * ms, []byte("noise")}, {30 * ms, right}}, nil, "", 0},
		{"foreign unit, then ours in the same breath", []piece{{10 * ms, append(registers(2, 3, 13), right...)}}, nil, "", 0},
		{"foreign function, then ours", []piece{{10 * ms, registers(1, 4, 13)}, {50 * ms, right}}, nil, "", 0},
		{"wrong length, then ours", []piece{{10 * ms, registers(1, 3, 13, 14)}, {50 * ms, right}}, nil, "", 0},
		{"foreign exception, then ours", []piece{{10 * ms, appendCRC([]byte{2, 0x83, 2})}, {50 * ms, right}}, nil, "", 0},
		{"wrong unit", []piece{{10 * ms, registers(2, 3, 42)}}, drivers.ErrCheck, "a frame of unit 2", 0},
		{"wrong function", []piece{{10 * ms, registers(1, 4, 42)}}, drivers.ErrCheck, "function 0x04 instead of 0x03", 0},
		{"wrong byte count", []piece{{10 * ms, registers(1, 3, 42, 43)}}, drivers.ErrCheck, "4 data bytes instead of 2", 0},
		{"exception of another function", []piece{{10 * ms, appendCRC([]byte{1, 0x84, 2})}}, drivers.ErrCheck, "function 0x84", 0},
		{"torn", []piece{{10 * ms, right[:6]}}, drivers.ErrTimeout, "a torn frame, 6 of 7 bytes", 0},
		{"beheaded", []piece{{10 * ms, right[2:]}}, drivers.ErrTimeout, "noise", 0},
		{"a byte too many in it", []piece{{10 * ms, append(append([]byte{}, right[:3]...), append([]byte{9}, right[3:]...)...)}}, drivers.ErrCheck, "", 0},
		{"wrong CRC", []piece{{10 * ms, bad}}, drivers.ErrCheck, "wrong CRC in a reply of 7 bytes", 20 * ms},
		{"noise only", []piece{{10 * ms, []byte("what is this?")}}, drivers.ErrCheck, "noise: 77 68 61", 0},
		{"our own echo", []piece{{0, request{1, 3, 5, 1}.encode()}}, drivers.ErrCheck, "set echo: true", 0},
		{"exception", []piece{{10 * ms, appendCRC([]byte{1, 0x83, 2})}}, drivers.ErrRefuse, "illegal data address (0x02)", 20 * ms},
		{"reply with noise after it", []piece{{10 * ms, append(append([]byte{}, right...), 1, 3, 2)}}, nil, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire("19200-8E1")
			s := w.open(t, new(drivers.Shared), one(1))
			faulty := true
			w.onWrite = func(end time.Time, _ []byte) {
				if !faulty {
					w.deliver(end.Add(ms), registers(1, 3, 99))
					return
				}
				for _, p := range c.pieces {
					w.deliver(end.Add(p.after), p.b)
				}
			}
			require.NoError(t, s.master.(*master).silence(context.Background(), s.timing))
			begin := w.t
			v, err := readOne(s)
			if c.want == nil {
				require.NoError(t, err)
				require.Equal(t, 42.0, v)
			} else {
				require.ErrorIs(t, err, c.want)
				require.ErrorContains(t, err, c.text)
				require.ErrorContains(t, err, "modbus: unit 1: holding 5 (x): ")
			}
			if c.ends != 0 {
				require.Less(t, w.t.Sub(begin), c.ends)
			}
			require.LessOrEqual(t, w.t.Sub(begin), timeout+70*ms)

			// Whatever it was, the next healthy reply is read as it is.
			faulty = false
			w.t = w.t.Add(2 * timeout)
			v, err = readOne(s)
			require.NoError(t, err)
			require.Equal(t, 99.0, v)
		})
	}
}

func TestExceptionNames(t *testing.T) {
	for code, name := range map[byte]string{
		1: "illegal function (0x01)", 2: "illegal data address (0x02)", 3: "illegal data value (0x03)",
		4: "server device failure (0x04)", 5: "acknowledge (still busy with it) (0x05)", 6: "server device busy (0x06)",
		8: "memory parity error (0x08)", 0x0A: "gateway path unavailable (0x0A); a gateway answered, and behind it nothing does as unit_id: 1",
		0x0B: "gateway target failed to respond (0x0B); a gateway answered, and behind it nothing does as unit_id: 1", 7: "unknown exception 0x07",
	} {
		w := newWire("19200-8E1")
		s := w.open(t, new(drivers.Shared), one(1))
		w.onWrite = func(end time.Time, _ []byte) { w.deliver(end, appendCRC([]byte{1, 0x83, code})) }
		_, err := readOne(s)
		require.EqualError(t, err, "modbus: unit 1: holding 5 (x): the instrument refused: "+name)
		require.ErrorIs(t, err, drivers.ErrRefuse)
		require.True(t, drivers.Retry(err))
	}
}

// TestLateReply: the reply to register 5 comes when its time is over; it has the right unit,
// function and length for register 90's request, and must not become its value.
func TestLateReply(t *testing.T) {
	for _, delay := range []time.Duration{201, 250, 300, 500, 599} {
		t.Run(fmt.Sprint(delay), func(t *testing.T) {
			w := newWire("19200-8E1")
			s := w.open(t, new(drivers.Shared), &Options{UnitID: ptr(1), Chans: []Channel{
				channel("five", "holding", 5, "uint16"), channel("ninety", "holding", 90, "uint16"),
			}})
			requests := 0
			w.onWrite = func(end time.Time, frame []byte) {
				requests++
				wait := time.Millisecond
				if requests == 1 {
					wait = delay * time.Millisecond
				}
				w.deliver(end.Add(wait), registers(1, 3, uint16(frame[3])))
			}
			got, err := s.Read(context.Background())
			require.Empty(t, got)
			require.ErrorIs(t, err, drivers.ErrTimeout)
			require.Len(t, w.sent, 1, "the poll ends with the time-out")

			// Until the time is over, nothing is sent, and no time is spent.
			for range 3 {
				before := w.t
				got, err = s.Read(context.Background())
				var held *drivers.HeldError
				require.ErrorAs(t, err, &held)
				require.ErrorIs(t, err, drivers.ErrHeld)
				require.Empty(t, got)
				require.Equal(t, before, w.t)
				require.Len(t, w.sent, 1)
				w.t = w.t.Add(held.After - time.Millisecond)
			}
			w.t = w.t.Add(time.Millisecond)
			got, err = s.Read(context.Background())
			require.NoError(t, err)
			require.Equal(t, []drivers.Reading{{Channel: "five", Value: 5}, {Channel: "ninety", Value: 90}}, got)
		})
	}
}

// TestLateReplyAmongOthers: while unit 1 owes a reply, unit 2 is asked, and unit 1's reply comes
// in the middle of it.
func TestLateReplyAmongOthers(t *testing.T) {
	w := newWire("19200-8E1")
	var shared drivers.Shared
	a, b := w.open(t, &shared, one(1)), w.open(t, &shared, one(2))
	w.onWrite = func(end time.Time, frame []byte) {
		if frame[0] == 1 {
			w.deliver(end.Add(250*time.Millisecond), registers(1, 3, 11))
		} else {
			w.deliver(end.Add(100*time.Millisecond), registers(2, 3, 22))
		}
	}
	_, err := readOne(a)
	require.ErrorIs(t, err, drivers.ErrTimeout)
	begin := w.t
	v, err := readOne(b)
	require.NoError(t, err)
	require.Equal(t, 22.0, v)
	require.Less(t, w.t.Sub(begin), 110*time.Millisecond, "a healthy unit does not wait for a silent one")
	_, err = readOne(a)
	require.ErrorIs(t, err, drivers.ErrHeld)
}

// TestRefusedBlock: one refused block costs its own channels only.
func TestRefusedBlock(t *testing.T) {
	w := newWire("19200-8E1")
	s := w.open(t, new(drivers.Shared), &Options{UnitID: ptr(1), Chans: []Channel{
		channel("c", "holding", 500, "uint16"), channel("b", "holding", 200, "uint16"), channel("a", "holding", 5, "uint16"),
	}})
	damage := false
	w.onWrite = func(end time.Time, frame []byte) {
		reply := registers(1, 3, uint16(frame[3]))
		if frame[3] == 200 {
			reply = appendCRC([]byte{1, 0x83, 4})
			if damage {
				reply = registers(1, 3, 1)
				reply[4]++
			}
		}
		w.deliver(end, reply)
	}
	got, err := s.Read(context.Background())
	require.EqualError(t, err, "modbus: unit 1: holding 200 (b): the instrument refused: server device failure (0x04)")
	require.Equal(t, []drivers.Reading{{Channel: "c", Value: 500 & 0xFF}, {Channel: "a", Value: 5}}, got)
	damage = true
	got, err = s.Read(context.Background())
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.NotErrorIs(t, err, drivers.ErrTimeout)
	require.Len(t, got, 2)
}

// TestMuteBlock: a unit that never answers for one block does not keep the others from being
// read.
func TestMuteBlock(t *testing.T) {
	w := newWire("19200-8E1")
	s := w.open(t, new(drivers.Shared), &Options{UnitID: ptr(1), Chans: []Channel{
		channel("a", "holding", 5, "uint16"), channel("b", "holding", 200, "uint16"),
	}})
	w.onWrite = func(end time.Time, frame []byte) {
		if frame[3] != 5 {
			w.deliver(end, registers(1, 3, 77))
		}
	}
	got, err := s.Read(context.Background())
	require.ErrorIs(t, err, drivers.ErrTimeout)
	require.Empty(t, got)
	w.t = w.t.Add(3 * timeout)
	got, err = s.Read(context.Background())
	require.ErrorIs(t, err, drivers.ErrTimeout)
	require.Equal(t, []drivers.Reading{{Channel: "b", Value: 77}}, got)
}

func TestEcho(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(echo []byte) []byte
		want  error
	}{
		{"whole", func(b []byte) []byte { return b }, nil},
		{"collision", func(b []byte) []byte { b[3] ^= 4; return b }, drivers.ErrCheck},
		{"none", func(b []byte) []byte { return nil }, drivers.ErrCheck},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire("19200-8E1")
			o := one(1)
			o.Echo = true
			s := w.open(t, new(drivers.Shared), o)
			w.onWrite = func(end time.Time, frame []byte) {
				w.deliver(end.Add(-time.Duration(len(frame))*w.line.CharTime()), c.spoil(frame))
				w.deliver(end.Add(2*time.Millisecond), registers(1, 3, 42))
			}
			v, err := readOne(s)
			require.ErrorIs(t, err, c.want)
			if c.want == nil {
				require.Equal(t, 42.0, v)
			}
		})
	}
	t.Run("silent unit, silent adapter", func(t *testing.T) {
		w := newWire("19200-8E1")
		o := one(1)
		o.Echo = true
		_, err := readOne(w.open(t, new(drivers.Shared), o))
		require.ErrorIs(t, err, drivers.ErrTimeout)
		require.ErrorContains(t, err, "echo")
	})
}

// TestBursts: a USB adapter hands bytes over every 16 ms only.
func TestBursts(t *testing.T) {
	w := newWire("19200-8E1")
	w.burst = 16 * time.Millisecond
	o := &Options{UnitID: ptr(1)}
	values := make([]uint16, 100)
	for i := range values {
		values[i] = uint16(3 * i)
		o.Chans = append(o.Chans, channel("r", "holding", i, "uint16"))
	}
	s := w.open(t, new(drivers.Shared), o)
	w.onWrite = func(end time.Time, _ []byte) { w.deliver(end.Add(time.Millisecond), registers(1, 3, values...)) }
	for range 5 {
		got, err := s.Read(context.Background())
		require.NoError(t, err)
		for i, r := range got {
			require.Equal(t, float64(3*i), r.Value)
		}
	}
}

// TestBabble: a line that is never silent costs one time-out and nothing is sent into it.
func TestBabble(t *testing.T) {
	w := newWire("19200-8E1")
	s := w.open(t, new(drivers.Shared), one(1))
	w.deliver(w.t, make([]byte, 10_000))
	begin := w.t
	_, err := readOne(s)
	require.ErrorIs(t, err, drivers.ErrTimeout)
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorContains(t, err, "never silent")
	require.Empty(t, w.sent)
	require.Less(t, w.t.Sub(begin), timeout+100*time.Millisecond)

	// The same instead of a reply.
	w = newWire("19200-8E1")
	s = w.open(t, new(drivers.Shared), one(1))
	w.onWrite = func(end time.Time, _ []byte) { w.deliver(end, make([]byte, 10_000)) }
	begin = w.t
	_, err = readOne(s)
	require.ErrorIs(t, err, drivers.ErrTimeout)
	require.Less(t, w.t.Sub(begin), timeout+150*time.Millisecond)
}

// TestStale: a whole, right reply that was there before the request answers nothing.
func TestStale(t *testing.T) {
	w := newWire("19200-8E1")
	s := w.open(t, new(drivers.Shared), one(1))
	w.onWrite = func(end time.Time, _ []byte) { w.deliver(end, registers(1, 3, 42)) }
	for _, stray := range [][]byte{registers(1, 3, 666), []byte("noise"), {1}, {1, 3, 2}} {
		w.deliver(w.t.Add(-time.Millisecond), stray) // some of it is still on its way
		v, err := readOne(s)
		require.NoError(t, err)
		require.Equal(t, 42.0, v)
		w.t = w.t.Add(time.Second)
	}
}

func TestGone(t *testing.T) {
	w := newWire("19200-8E1")
	s := w.open(t, new(drivers.Shared), one(1))
	w.err = fmt.Errorf("unplugged: %w", drivers.ErrGone)
	_, err := readOne(s)
	require.ErrorIs(t, err, drivers.ErrGone)

	w = newWire("19200-8E1")
	s = w.open(t, new(drivers.Shared), one(1))
	w.onWrite = func(time.Time, []byte) { w.err = drivers.ErrGone }
	_, err = readOne(s)
	require.ErrorIs(t, err, drivers.ErrGone)
}

// TestCancel: a cancelled wait ends within a slice, and the unit still owes its reply.
func TestCancel(t *testing.T) {
	w := newWire("19200-8E1")
	o := one(1)
	s := w.open(t, new(drivers.Shared), o)
	s.timing.timeout, s.timing.late = 10*time.Second, 20*time.Second
	ctx, cancel := context.WithCancel(context.Background())
	w.onWrite = func(time.Time, []byte) { cancel() }
	begin := w.t
	_, err := s.Read(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, w.t.Sub(begin), 2*slice)
	_, err = s.Read(context.Background())
	require.True(t, errors.Is(err, drivers.ErrHeld), err)
	require.Len(t, w.sent, 1)
}
