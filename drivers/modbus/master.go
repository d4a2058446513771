package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"homeward/drivers"
)

const (
	// slice bounds one wait at the port, so that a cancelled context is noticed.
	slice = 100 * time.Millisecond
	// stall is the silence, beyond 3.5 characters, after which bytes that are no frame are
	// given up. USB adapters deliver in bursts up to 16 ms apart (FTDI AN232B-04
	// §2: latency timer), so the line's own 3.5 characters cannot be seen through them.
	stall = 50 * time.Millisecond
)

// master is the only speaker on one opened port. It is used by the port's
// owner alone.
type master struct {
	port drivers.Port
	now  func() time.Time
	log  *slog.Logger // nil is silent
	char time.Duration
	gap  time.Duration // the silence that ends a frame

	last  time.Time      // when the line was last known to be busy
	dirty bool           // bytes of unknown origin came: the rest of them may follow
	held  [256]time.Time // by unit: not to be asked before
	rx    [2 * maxFrame]byte
}

// timing is what a sensor's options say about an exchange.
type timing struct {
	timeout    time.Duration // from the end of the request to the reply's first byte
	late       time.Duration // how long after a time-out the reply may still come
	turnaround time.Duration // pause between requests, if longer than gap
	echo       bool          // the adapter hears itself
}

func newMaster(port drivers.Port, log *slog.Logger, now func() time.Time) *master {
	m := &master{port: port, now: now, log: log, char: port.Line().CharTime()}
	m.gap = 7 * m.char / 2
	// "MODBUS over Serial Line V1.02" §2.5.1.1: fixed above 19,200 baud.
	if port.Line().Baud > 19200 {
		m.gap = 1750 * time.Microsecond
	}
	// Whoever used the line before may have left a reply on its way.
	m.last, m.dirty = now(), true
	return m
}

// unansweredError is a request without a reply: one may still come. It is a time-out, and if
// something else came instead, a failed check too.
type unansweredError struct {
	after time.Duration
	saw   string
}

func (e *unansweredError) Error() string {
	if e.saw == "" {
		return fmt.Sprintf("%v (%v)", drivers.ErrTimeout, e.after)
	}
	return fmt.Sprintf("%v (%v), only %s", drivers.ErrTimeout, e.after, e.saw)
}

func (e *unansweredError) Is(target error) bool {
	return target == drivers.ErrTimeout || target == drivers.ErrCheck && e.saw != ""
}

// ask sends r once and returns the data of its reply, valid until the next call.
//
// No reply of another request is ever taken for this one's, as far as RTU, which
// has no transaction id, can tell: it must come from the unit, with the function, the byte
// count and a right CRC, and a unit that owes a reply is not asked again before
// t.late has passed; until then ask returns [drivers.HeldError] and sends nothing.
func (m *master) ask(ctx context.Context, r request, t timing) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if left := m.held[r.unit].Sub(m.now()); left > 0 {
		return nil, &drivers.HeldError{After: left}
	}
	if h := m.held[r.unit]; !h.IsZero() {
		// An adapter may hand over a little later what came in the last moment.
		m.held[r.unit] = time.Time{}
		m.dirty = true
		if h.After(m.last) {
			m.last = h
		}
	}
	if err := m.silence(ctx, t); err != nil {
		return nil, err
	}
	frame := r.encode()
	if err := m.port.Write(frame); err != nil {
		return nil, err
	}
	m.last = m.now().Add(time.Duration(len(frame)) * m.char)
	data, settled, err := m.receive(ctx, r, t, frame)
	if !settled {
		m.held[r.unit] = m.now().Add(t.late)
	}
	return data, err
}

// silence throws away what comes until nothing has come for long enough.
func (m *master) silence(ctx context.Context, t timing) error {
	need := max(m.gap, t.turnaround)
	if m.dirty {
		need = max(need, m.gap+stall)
	}
	limit := m.now().Add(t.timeout + need)
	for {
		n, err := m.read(ctx, m.rx[:], m.last.Add(need))
		switch {
		case errors.Is(err, drivers.ErrTimeout):
			m.dirty = false
			return nil
		case err != nil:
			return err
		}
		m.last, m.dirty = m.now(), true
		need = max(need, m.gap+stall)
		m.debug("stray bytes before a request", m.rx[:n])
		if m.last.After(limit) {
			return &unansweredError{t.timeout, "a line that is never silent: another master, or noise"}
		}
	}
}

// receive waits for the reply to r, which has just been sent as frame. settled says that no
// reply to it can come any more.
func (m *master) receive(ctx context.Context, r request, t timing, frame []byte) (data []byte, settled bool, err error) {
	var (
		deadline = m.last.Add(t.timeout)
		hard     = deadline.Add(time.Duration(minFrame+r.size())*m.char + stall)
		echo     = 0 // bytes of our own request still to come
		buf      = m.rx[:0]
		noise    bool // what comes belongs to no frame, until there is a silence
		saw      string
	)
	if t.echo {
		echo = len(frame)
	}
	for {
		until := deadline
		switch {
		case noise:
			until = m.last.Add(m.gap)
		case len(buf) >= 2 && buf[0] == r.unit && buf[1]&^exceptionBit == r.function:
			until = hard
		case len(buf) > 0:
			until = m.last.Add(m.gap + stall)
		}
		if until.After(hard) {
			until = hard
		}
		n, err := m.read(ctx, m.rx[len(buf):], until)
		switch {
		case errors.Is(err, drivers.ErrTimeout):
			if len(buf) > 0 {
				saw = m.describe(buf, r, frame)
			}
			if len(buf) == 0 || !m.now().Before(deadline) {
				if echo > 0 {
					saw = "not even the echo that the configuration promises"
				}
				return nil, false, &unansweredError{t.timeout, saw}
			}
			buf, noise = m.rx[:0], false
			continue
		case err != nil:
			return nil, false, err
		}
		buf, m.last = m.rx[:len(buf)+n], m.now()
		m.dirty = true // until all of it is explained

		if echo > 0 {
			k := min(echo, len(buf))
			sent := frame[len(frame)-echo:]
			if !bytes.Equal(buf[:k], sent[:k]) {
				return nil, false, fmt.Errorf("%w: the echo differs from what was sent: a collision, or an adapter that does not echo", drivers.ErrCheck)
			}
			echo -= k
			buf = m.drop(buf, k)
		}
		for !noise {
			// No frame begins with the broadcast address or a reserved one: such bytes
			// are what a driver makes when it is switched on or off.
			skip := 0
			for skip < len(buf) && (buf[skip] == 0 || buf[skip] > maxUnit) {
				skip++
			}
			if buf = m.drop(buf, skip); len(buf) == 0 {
				break
			}
			v, n := r.judge(buf)
			switch v {
			case answer:
				m.dirty = saw != "" || len(buf) > n
				return buf[3 : n-2], true, nil
			case refusal:
				m.dirty = saw != "" || len(buf) > n
				return nil, true, &refusedError{buf[2]}
			case damaged:
				return nil, true, fmt.Errorf("%w: wrong CRC in a reply of %d bytes", drivers.ErrCheck, n)
			case foreign:
				saw = m.describe(buf[:n], r, frame)
				buf = m.drop(buf, n)
				continue
			case junk:
				noise = true
			case partial:
			}
			break
		}
		if noise {
			buf = buf[:min(len(buf), maxFrame)]
			if m.last.After(deadline) {
				return nil, false, &unansweredError{t.timeout, m.describe(buf, r, frame)}
			}
		}
	}
}

// drop removes the first n bytes of buf, which begins at rx[0].
func (m *master) drop(buf []byte, n int) []byte {
	if n == 0 {
		return buf
	}
	return m.rx[:copy(m.rx[:], buf[n:])]
}

// read is the port's Read until an instant, in slices that let ctx be noticed.
func (m *master) read(ctx context.Context, p []byte, until time.Time) (int, error) {
	return readUntil(ctx, m.port, m.now, p, until)
}

func readUntil(ctx context.Context, port drivers.Port, now func() time.Time, p []byte, until time.Time) (int, error) {
	for left := until.Sub(now()); ; {
		wait := min(max(left, 0), slice)
		n, err := port.Read(p, wait)
		if !errors.Is(err, drivers.ErrTimeout) {
			return n, err
		}
		if left -= wait; left <= 0 {
			return 0, drivers.ErrTimeout
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
}

// describe says what b is, in words that help whoever has to find the fault.
func (m *master) describe(b []byte, r request, sent []byte) string {
	m.debug("bytes that are no reply", b)
	switch v, n := r.judge(b); {
	case bytes.HasPrefix(b, sent):
		return "the request itself came back: the adapter echoes, set echo: true"
	case v == foreign && b[0] != r.unit:
		return fmt.Sprintf("a frame of unit %d", b[0])
	case v == foreign && b[1]&^exceptionBit != r.function:
		return fmt.Sprintf("a frame with function 0x%02X instead of 0x%02X", b[1], r.function)
	case v == foreign:
		return fmt.Sprintf("a reply with %d data bytes instead of %d", b[2], r.size())
	case v == partial:
		return fmt.Sprintf("a torn frame, %d of %d bytes", len(b), n)
	default:
		return fmt.Sprintf("noise: % x", b[:min(len(b), 16)])
	}
}

func (m *master) debug(msg string, b []byte) {
	if m.log != nil {
		m.log.Debug("modbus: "+msg, "bytes", fmt.Sprintf("% x", b[:min(len(b), 32)]))
	}
}

// refusedError is an exception reply.
type refusedError struct{ code byte }

func (e *refusedError) Error() string {
	return fmt.Sprintf("%v: %s", drivers.ErrRefuse, exceptionName(e.code))
}

func (e *refusedError) Is(target error) bool { return target == drivers.ErrRefuse }
