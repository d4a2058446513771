package modbus

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzReply puts arbitrary bytes on the line instead of a reply, in two pieces. Data that is
// accepted must stand in them as a whole frame; all else is an error, in
// bounded time.
func FuzzReply(f *testing.F) {
	f.Fuzz(func(t *testing.T, first, second []byte, pauseMs uint8, function byte, count uint8) {
		r := request{unit: 1, function: function%4 + 1, address: 5, count: uint16(count%125) + 1}
		w := newWire("19200-8E1")
		m := newMaster(w, nil, w.now)
		w.onWrite = func(end time.Time, _ []byte) {
			w.deliver(end, first)
			w.deliver(end.Add(time.Duration(len(first))*w.line.CharTime()+time.Duration(pauseMs)*time.Millisecond), second)
		}
		begin := w.t
		data, err := m.ask(context.Background(), r, timing{timeout: timeout, late: 2 * timeout})
		require.Less(t, w.t.Sub(begin), time.Duration(len(first)+len(second))*w.line.CharTime()+2*time.Second)
		if err != nil {
			require.Nil(t, data)
			return
		}
		frame := appendCRC(append([]byte{1, r.function, byte(r.size())}, data...))
		require.Len(t, data, r.size())
		require.True(t, bytes.Contains(append(append([]byte{}, first...), second...), frame))
	})
}

// FuzzJudge: what is judged an answer encodes to the same bytes.
func FuzzJudge(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, unit, function byte, count uint8) {
		r := request{unit: unit, function: function%4 + 1, count: uint16(count%125) + 1}
		v, n := r.judge(b)
		switch v {
		case answer:
			require.Equal(t, appendCRC(append([]byte{unit, r.function, byte(r.size())}, b[3:n-2]...)), b[:n])
		case refusal:
			require.Equal(t, appendCRC([]byte{unit, r.function | exceptionBit, b[2]}), b[:n])
		case partial:
			require.Less(t, len(b), n)
		}
		require.LessOrEqual(t, n, max(maxFrame, len(b)))
	})
}
