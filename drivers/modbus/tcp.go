package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"homeward/drivers"
)

// "MODBUS Messaging on TCP/IP Implementation Guide V1.0b", §3.1.3 and §4.1: the MBAP header is transaction
// id, protocol id, length of what follows, unit id; a frame has at most 260 bytes.
const (
	mbapSize    = 7
	maxTCPFrame = 260
	tcpPort     = "502" // ibid. §4.3.1
	maxTCPUnit  = 255   // ibid. §4.4.2.1: 255 for a device that is no gateway, and 0 is accepted too
)

// parseURL gives tcp://host:port with the port filled in.
func parseURL(s string) (string, bool) {
	address, ok := strings.CutPrefix(s, "tcp://")
	if !ok {
		return "", false
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"), tcpPort
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", false
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@?# \t") {
		return "", false
	}
	return "tcp://" + net.JoinHostPort(host, port), true
}

// asker is a master on a line or on a connection.
type asker interface {
	ask(ctx context.Context, r request, t timing) ([]byte, error)
}

// tcpMaster is the only client on one connection. It is used by the connection's owner alone.
//
// Replies are told apart by their transaction ids, so a late one never counts for another request; and what comes before a request
// is none of its reply. The boundaries between
// frames are known by their lengths alone: once they are in doubt the connection is
// closed, and dialled anew by whoever owns it.
type tcpMaster struct {
	port drivers.Port
	now  func() time.Time
	log  *slog.Logger // nil is silent

	id   uint16 // of the last request
	n    int    // bytes in rx
	rx   [2 * maxTCPFrame]byte
	lost error // why the connection was given up
}

func newTCPMaster(port drivers.Port, log *slog.Logger, now func() time.Time) *tcpMaster {
	return &tcpMaster{port: port, log: log, now: now}
}

// outOfStepError is a connection that was closed because of what came.
type outOfStepError struct{ why string }

func (e *outOfStepError) Error() string {
	return fmt.Sprintf("%v: %s; the connection was closed and is made anew", drivers.ErrCheck, e.why)
}

func (e *outOfStepError) Is(target error) bool {
	return target == drivers.ErrCheck || target == drivers.ErrGone
}

// giveUp closes the connection.
func (m *tcpMaster) giveUp(format string, args ...any) error {
	m.lost = &outOfStepError{fmt.Sprintf(format, args...)}
	_ = m.port.Close() // nothing that could still be said matters
	return m.lost
}

// ask sends r once and returns the data of its reply, valid until the next call.
func (m *tcpMaster) ask(ctx context.Context, r request, t timing) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.lost != nil {
		return nil, m.lost
	}
	if err := m.drain(); err != nil {
		return nil, err
	}
	unasked := m.n > 0 // the frame that has begun
	m.id++
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 12), m.id)
	pdu := r.encode()
	pdu = pdu[:len(pdu)-2] // no CRC
	frame = append(frame, 0, 0, 0, byte(len(pdu)))
	if err := m.port.Write(append(frame, pdu...)); err != nil {
		return nil, err
	}
	deadline := m.now().Add(t.timeout)
	saw := ""
	for {
		reply, err := m.frame()
		if err != nil {
			return nil, err
		}
		if reply != nil {
			id := binary.BigEndian.Uint16(reply)
			if unasked {
				unasked, saw = false, "a reply that began before the request"
				m.debug("a reply that began before the request", reply)
				continue
			}
			if id == m.id {
				// One request is under way at a time, so nothing follows its reply. If something does, the
				// reply may have been torn, and its end be the beginning of another.
				if m.n > 0 {
					return nil, m.giveUp("%d bytes follow the reply", m.n)
				}
				return judgeTCP(reply, r)
			}
			saw = fmt.Sprintf("a reply to another request (transaction %d instead of %d)", id, m.id)
			m.debug("a late or foreign reply", reply)
			if m.now().Before(deadline) {
				continue
			}
		}
		n, err := 0, drivers.ErrTimeout
		if m.now().Before(deadline) {
			n, err = readUntil(ctx, m.port, m.now, m.rx[m.n:], deadline)
		}
		m.n += n
		switch {
		case err == nil:
		case errors.Is(err, drivers.ErrTimeout) && m.n > 0 && m.now().Before(deadline):
		case errors.Is(err, drivers.ErrTimeout) && m.n > 0:
			return nil, m.giveUp("only %d bytes of a reply came within %v", m.n, t.timeout)
		case errors.Is(err, drivers.ErrTimeout):
			return nil, &unansweredError{t.timeout, saw}
		default:
			return nil, err
		}
	}
}

// maxUnasked is how many reads before a request may bring something.
const maxUnasked = 64

// drain throws away what came before the request: it is no reply to it, whatever its transaction id. A frame of which only the
// beginning has come stays, so that the next one's beginning is known.
func (m *tcpMaster) drain() error {
	for range maxUnasked {
		n, err := m.port.Read(m.rx[m.n:], 0)
		if errors.Is(err, drivers.ErrTimeout) {
			return nil
		} else if err != nil {
			return err
		}
		m.n += n
		for {
			frame, err := m.frame()
			if err != nil {
				return err
			}
			if frame == nil {
				break
			}
			m.debug("a reply that came before the request", frame)
		}
	}
	return m.giveUp("it sends without end and unasked")
}

// frame takes a whole frame off what has been received, nil while there is none; it is valid until the next read.
func (m *tcpMaster) frame() ([]byte, error) {
	if m.n < mbapSize-1 {
		return nil, nil
	}
	protocol, length := binary.BigEndian.Uint16(m.rx[2:]), int(binary.BigEndian.Uint16(m.rx[4:]))
	switch {
	case protocol != 0:
		return nil, m.giveUp("protocol %d instead of 0: this is not Modbus TCP, or bytes are missing", protocol)
	case length < 3 || length > maxTCPFrame-mbapSize+1: // unit, function, and an exception's code
		return nil, m.giveUp("a length of %d instead of 3 to 254", length)
	}
	size := mbapSize - 1 + length
	if m.n < size {
		return nil, nil
	}
	frame := append([]byte(nil), m.rx[:size]...)
	m.n = copy(m.rx[:], m.rx[size:m.n])
	return frame, nil
}

// judgeTCP reads the reply to r: unit, function, byte count and length must be its own.
func judgeTCP(frame []byte, r request) ([]byte, error) {
	unit, pdu := frame[mbapSize-1], frame[mbapSize:]
	bad := func(format string, args ...any) ([]byte, error) {
		return nil, fmt.Errorf("%w: "+format, append([]any{drivers.ErrCheck}, args...)...)
	}
	switch {
	case unit != r.unit:
		return bad("a reply of unit %d", unit)
	case pdu[0] == r.function|exceptionBit && len(pdu) == 2:
		return nil, &refusedError{pdu[1]}
	case pdu[0] != r.function:
		return bad("a reply with function 0x%02X instead of 0x%02X", pdu[0], r.function)
	case int(pdu[1]) != r.size():
		return bad("a reply with %d data bytes instead of %d", pdu[1], r.size())
	case len(pdu) != 2+r.size():
		return bad("a reply of %d bytes that announces %d", len(pdu)-2, pdu[1])
	}
	return pdu[2:], nil
}

func (m *tcpMaster) debug(msg string, b []byte) {
	if m.log != nil {
		m.log.Debug("modbus: "+msg, "bytes", fmt.Sprintf("% x", b[:min(len(b), 32)]))
	}
}
