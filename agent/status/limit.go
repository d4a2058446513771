package status

import (
	"net"
	"sync"
	"time"
)

// bodyBound is for the rest of a request that is refused.
const bodyBound = time.Second

// limits are those of a listener's connections.
type limits struct {
	connections int           // at a time; others wait in the kernel, where they cost no descriptor
	header      time.Duration // for the request
	write       time.Duration // for the peer to take some of an answer
}

// limitsOf leaves whoever reaches the socket more time to read: its peers are let in by its mode, and buffer export may be
// piped into a pager.
func limitsOf(l net.Listener) limits {
	most := limits{connections: 32, header: 5 * time.Second, write: 15 * time.Second}
	if l.Addr().Network() == "unix" {
		most.write = 5 * time.Minute
	}
	return most
}

// limit makes l accept no more than most connections at a time.
func limit(l net.Listener, most limits) net.Listener {
	return &limited{Listener: l, limits: most, places: make(chan struct{}, most.connections), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	limits
	places chan struct{} // one element for each connection
	closed chan struct{}
	once   sync.Once
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitedConn{Conn: c, write: l.write, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn gives each write its own time, so that the time until an answer is known does not count.
type limitedConn struct {
	net.Conn
	write time.Duration
	leave func()
}

func (c *limitedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// CloseWrite lets the server say that it has said all before it closes.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
