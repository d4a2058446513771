package mqtt

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// guard stands between the network and the client library, which trusts its peer: five
// bytes would make it allocate 256 MB, and a SUBACK with more codes than topics would
// end the process. It follows the packets' fixed headers (MQTT 3.1.1 §2.2) and fails the
// connection at the first one that is out of bounds. It also gives every write a deadline.
type guard struct {
	net.Conn
	writeWait time.Duration
	topics    int // in the one SUBSCRIBE that is sent

	// Of the packet being read; only the reader touches them.
	state  int // bytes of the length seen, or body
	kind   byte
	length uint32
	shift  uint

	mu  sync.Mutex
	err error
}

const (
	atHeader = iota
	atLength
	atBody
)

const (
	packetConnack = 2
	packetSuback  = 9
)

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 {
		if bad := g.follow(p[:n]); bad != nil {
			_ = g.Conn.Close()
			g.note(bad)
			return 0, bad
		}
	}
	if err != nil {
		g.note(err)
	}
	return n, err
}

func (g *guard) Write(p []byte) (int, error) {
	_ = g.Conn.SetWriteDeadline(time.Now().Add(g.writeWait))
	n, err := g.Conn.Write(p)
	if err != nil {
		g.note(err)
	}
	return n, err
}

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
			g.kind, g.length, g.shift, g.state = p[0]>>4, 0, 0, atLength
			p = p[1:]
		case atLength:
			b := p[0]
			p = p[1:]
			g.length |= uint32(b&0x7f) << g.shift
			g.shift += 7
			if b&0x80 != 0 {
				if g.shift >= 28 {
					return fmt.Errorf("mqtt: the broker sent a malformed packet length")
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
	switch {
	case g.length > maxPacket:
		return fmt.Errorf("mqtt: the broker sent a packet of %d bytes: at most %d are taken", g.length, maxPacket)
	case g.kind == packetSuback && g.length != uint32(2+g.topics):
		return fmt.Errorf("mqtt: the broker sent a SUBACK of %d bytes: want %d", g.length, 2+g.topics)
	case g.kind == packetConnack && g.length != 2:
		return fmt.Errorf("mqtt: the broker sent a CONNACK of %d bytes: want 2", g.length)
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
