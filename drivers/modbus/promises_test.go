package modbus

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// TestUnitOfEach: each reading has its own channel's unit.
func TestUnitOfEach(t *testing.T) {
	w := newWire("19200-8E1")
	o := &Options{UnitID: ptr(1)}
	units := []drivers.Unit{"Cel", "", "V", "kWh"}
	for i, u := range units {
		c := channel(string(rune('a'+i)), "holding", i, "uint16")
		if u != "" {
			c.Unit = &u
		}
		o.Chans = append(o.Chans, c)
	}
	s := w.open(t, new(drivers.Shared), o)
	w.onWrite = func(end time.Time, _ []byte) { w.deliver(end, registers(1, 3, 1, 2, 3, 4)) }
	got, err := s.Read(t.Context())
	require.NoError(t, err)
	require.Len(t, got, len(units))
	for i, r := range got {
		require.Equal(t, units[i], r.Unit, r.Channel)
	}
}

// TestHeldForLate: after a time-out the unit is asked again when late has passed, and no moment before; by default late is twice
// the time-out (docs/modbus.md).
func TestHeldForLate(t *testing.T) {
	for late, want := range map[time.Duration]time.Duration{0: 2 * timeout, 700 * time.Millisecond: 700 * time.Millisecond, time.Minute: time.Minute} {
		w := newWire("19200-8E1")
		o := one(1)
		o.Late = late
		s := w.open(t, new(drivers.Shared), o)
		_, err := readOne(s)
		require.ErrorIs(t, err, drivers.ErrTimeout)
		over := w.t
		for w.t.Sub(over) < want {
			_, err := readOne(s)
			require.ErrorIs(t, err, drivers.ErrHeld, w.t.Sub(over))
			require.Len(t, w.sent, 1)
			w.t = w.t.Add(want / 100)
		}
		w.onWrite = func(end time.Time, _ []byte) { w.deliver(end, registers(1, 3, 42)) }
		v, err := readOne(s)
		require.NoError(t, err)
		require.Equal(t, 42.0, v)
	}
}

// TestUnexplained: what an adapter hands over some milliseconds after something unexplained, or after late has passed, is thrown
// away before the next request, though it is a whole and right frame: the silence is longer then.
func TestUnexplained(t *testing.T) {
	const burst = 25 * time.Millisecond // between the latency of an adapter and the silence
	wrong, right := registers(1, 3, 666), registers(1, 3, 42)
	for name, first := range map[string]struct {
		reply []byte
		ok    bool
	}{
		"a byte behind the reply":       {append(registers(1, 3, 41), 9), true},
		"a frame before the reply":      {append(registers(2, 3, 13), registers(1, 3, 41)...), true},
		"a byte behind the exception":   {append(appendCRC([]byte{1, 0x83, 4}), 9), false},
		"a frame before the exception":  {append(registers(2, 3, 13), appendCRC([]byte{1, 0x83, 4})...), false},
		"a reply whose check is wrong":  {append(registers(1, 3, 41)[:6], 0), false},
		"nothing, until late is passed": {nil, false},
	} {
		for _, adapter := range []time.Duration{0, 16 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s, adapter %v", name, adapter), func(t *testing.T) {
				w := newWire("19200-8E1")
				w.burst = adapter
				s := w.open(t, new(drivers.Shared), one(1))
				w.onWrite = func(end time.Time, _ []byte) { w.deliver(end, first.reply) }
				v, err := readOne(s)
				if first.ok {
					require.NoError(t, err)
					require.Equal(t, 41.0, v)
				} else {
					require.Error(t, err)
				}
				if first.reply == nil {
					w.t = w.t.Add(2 * timeout)
				}
				w.deliver(w.t.Add(burst), wrong)
				w.onWrite = func(end time.Time, _ []byte) { w.deliver(end.Add(timeout/2), right) }
				v, err = readOne(s)
				require.NoError(t, err)
				require.Equal(t, 42.0, v)
			})
		}
	}
}

// TestTimeoutEndsThePoll: a silent unit of many blocks costs one request and one time-out; over TCP nothing holds it back.
func TestTimeoutEndsThePoll(t *testing.T) {
	chans := []Channel{channel("a", "holding", 5, "uint16"), channel("b", "holding", 300, "uint16"), channel("c", "input", 5, "uint16"), channel("d", "coil", 5, "bool")}
	conn := newStream()
	line := newWire("19200-8E1")
	for name, c := range map[string]struct {
		s    *Sensor
		now  func() time.Time
		sent *[][]byte
	}{
		"tcp": {conn.open(t, new(drivers.Shared), 1, chans...), conn.now, &conn.sent},
		"rtu": {line.open(t, new(drivers.Shared), &Options{UnitID: ptr(1), Chans: chans}), line.now, &line.sent},
	} {
		require.Len(t, c.s.blocks, 4)
		begin := c.now()
		got, err := c.s.Read(t.Context())
		require.ErrorIs(t, err, drivers.ErrTimeout, name)
		require.NotErrorIs(t, err, drivers.ErrHeld, name)
		require.Empty(t, got)
		require.Len(t, *c.sent, 1, name)
		require.Less(t, c.now().Sub(begin), 2*timeout, name)
	}
}
