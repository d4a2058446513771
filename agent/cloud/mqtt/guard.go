package mqtt

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// guard stands between the network and the client library, which trusts its peer: five
// bytes would make it allocate 256 MB, and a SUBACK with more codes than topics would
// end the process. It follows the packets' fixed headers (MQTT 3.1.1 §2.2) and ends the
// connection at the first one that a broker has no reason to send. It also gives every
// write a deadline of its own: the library's ping has none, and its other writes would lift it.
type guard struct {
	net.Conn
	writeWait time.Duration
	topics    int    // in the one SUBSCRIBE that is sent
	most      uint32 // bytes of a packet, behind its fixed header

	// Of the packet being read; only the reader touches them.
	state   int
	header  byte
	length  uint32
	shift   uint
	greeted bool // CONNACK was seen

	writing sync.Mutex

	mu  sync.Mutex
	err error
}

const (
	atHeader = iota
	atLength
	atBody
)

// The kinds of packet that a broker may send (MQTT 3.1.1 §2.2.1); nothing here uses QoS 2 or unsubscribes.
const (
	packetConnack  = 2
	packetPublish  = 3
	packetPuback   = 4
	packetSuback   = 9
	packetPingresp = 13
)

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 {
		if bad := g.follow(p[:n]); bad != nil {
			g.note(bad)
			_ = g.Conn.Close()
			return 0, bad
		}
	}
	if err != nil {
		g.note(err)
	}
	return n, err
}

func (g *guard) Write(p []byte) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	_ = g.Conn.SetWriteDeadline(time.Now().Add(g.writeWait))
	n, err := g.Conn.Write(p)
	if err != nil { // half a packet may have left: nothing can follow it
		if !g.greeted {
			// A server that refuses the client's certificate says so after the handshake (TLS 1.3, RFC 8446
			// §4.4.2.4) and hangs up; the reason is there to be read although the CONNECT has met a closed door.
			_ = g.Conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, reason := g.Conn.Read(make([]byte, 1)); isAlert(reason) {
				err = reason
			}
		}
		g.note(err)
		_ = g.Conn.Close()
	}
	return n, err
}

// SetWriteDeadline does nothing: Write sets its own.
func (g *guard) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets that of reading alone.
func (g *guard) SetDeadline(t time.Time) error { return g.Conn.SetReadDeadline(t) }

func (g *guard) note(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

// cause is the first error of the connection.
func (g *guard) cause() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *guard) follow(p []byte) error {
	for len(p) > 0 {
		switch g.state {
		case atHeader:
			g.header, g.length, g.shift, g.state = p[0], 0, 0, atLength
			p = p[1:]
		case atLength:
			b := p[0]
			p = p[1:]
			g.length |= uint32(b&0x7f) << g.shift
			g.shift += 7
			if b&0x80 != 0 {
				if g.shift >= 28 {
					return fmt.Errorf("the broker sent a malformed packet length")
				}
				continue
			}
			if err := g.judge(); err != nil {
				return err
			}
			g.state = atBody
			if g.length == 0 {
				g.state = atHeader
			}
		case atBody:
			n := min(uint32(len(p)), g.length)
			g.length -= n
			p = p[n:]
			if g.length == 0 {
				g.state = atHeader
			}
		}
	}
	return nil
}

func (g *guard) judge() error {
	kind := g.header >> 4
	if !g.greeted && kind != packetConnack {
		return fmt.Errorf("the other side does not speak MQTT: its first byte is %#02x", g.header)
	}
	want := uint32(2)
	switch kind {
	case packetConnack:
		if g.greeted {
			return errors.New("the broker sent a second CONNACK")
		}
		g.greeted = true
	case packetPublish:
		if qos := g.header >> 1 & 3; qos > 1 {
			return fmt.Errorf("the broker sent a PUBLISH with QoS %d: at most 1 is subscribed", qos)
		}
		if g.length > g.most {
			return fmt.Errorf("the broker sent a packet of %d bytes: at most %d are taken", g.length, g.most)
		}
		return nil
	case packetPuback:
	case packetSuback:
		if want = uint32(2 + g.topics); g.length == 3 { // of a schema's topic alone
			want = 3
		}
	case packetPingresp:
		want = 0
	default:
		return fmt.Errorf("the broker sent a packet of kind %d, which nobody asked for", kind)
	}
	if g.length != want {
		return fmt.Errorf("the broker sent a packet of kind %d with %d bytes: want %d", kind, g.length, want)
	}
	return nil
}

// abortAfter has the kernel give a connection up when sent data stays unacknowledged for d.
func abortAfter(conn net.Conn, d time.Duration) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}
