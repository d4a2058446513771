package hostbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"homeward/drivers"
)

const (
	dialBound = 5 * time.Second
	// tcpWriteBound is for a request of some bytes: a peer that takes none of it for so long is lost.
	tcpWriteBound = time.Second
	tcpPrefix     = "tcp://"
)

// dialTCP is replaced by tests. Keep-alive tells a peer that lost its power within a minute.
var dialTCP = (&net.Dialer{Timeout: dialBound, KeepAliveConfig: net.KeepAliveConfig{
	Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 3,
}}).DialContext

// OpenTCP dials tcp://host:port. The error wraps [drivers.ErrGone] where nobody answers.
func OpenTCP(ctx context.Context, url string) (drivers.Port, error) {
	address, ok := strings.CutPrefix(url, tcpPrefix)
	if host, port, err := net.SplitHostPort(address); !ok || err != nil || host == "" || port == "" {
		return nil, fmt.Errorf("hostbus: %s: %w: want tcp://host:port", url, drivers.ErrWrong)
	}
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	c, err := dialTCP(ctx, "tcp", address)
	if err == nil {
		return &tcpPort{url: url, conn: c}, nil
	}
	todo := "is the device powered and in this network, and the address right (ping it)?"
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		todo = "the name is not known: compare it with the device's, or use its IP address"
	case errors.Is(err, syscall.ECONNREFUSED):
		todo = "the host is there, but nothing listens on this port: switch the protocol on in the device, and compare the port"
	}
	return nil, fmt.Errorf("hostbus: %s: %w: %w: %s", url, drivers.ErrGone, err, todo)
}

// tcpPort is a [drivers.Port] over a connection. Once it has failed it stays lost.
type tcpPort struct {
	url  string
	conn net.Conn

	mu   sync.Mutex // protects the following
	gone error
}

func (p *tcpPort) lost() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// fail remembers why the connection is lost.
func (p *tcpPort) fail(doing string, cause error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(cause, io.EOF) {
		cause = errors.New("the other side has closed the connection")
	}
	if p.gone == nil {
		p.gone = fmt.Errorf("hostbus: %s: %s: %w: %w", p.url, doing, drivers.ErrGone, cause)
	}
	return p.gone
}

// instant is the shortest wait: a deadline that has passed would keep what is there from being read.
const instant = time.Millisecond

func (p *tcpPort) Read(b []byte, wait time.Duration) (int, error) {
	if err := p.lost(); err != nil {
		return 0, err
	}
	if len(b) == 0 {
		return 0, drivers.ErrTimeout
	}
	if err := p.conn.SetReadDeadline(time.Now().Add(max(wait, instant))); err != nil {
		return 0, p.fail("read", err)
	}
	n, err := p.conn.Read(b)
	var timeout net.Error
	switch {
	case n > 0: // an error comes again
		return n, nil
	case errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, syscall.ETIMEDOUT):
		return 0, drivers.ErrTimeout
	case err == nil:
		return 0, drivers.ErrTimeout
	}
	return 0, p.fail("read", err)
}

// Write implements [drivers.Port]. What was sent in part cannot be taken back, so any failure loses the connection.
func (p *tcpPort) Write(b []byte) error {
	if err := p.lost(); err != nil {
		return err
	}
	err := p.conn.SetWriteDeadline(time.Now().Add(tcpWriteBound))
	if err == nil {
		_, err = p.conn.Write(b)
	}
	if err != nil {
		return p.fail("write", err)
	}
	return nil
}

// Flush implements [drivers.Port]. A peer that sends without end is not waited for.
func (p *tcpPort) Flush() error {
	var b [4096]byte
	for range 64 {
		if _, err := p.Read(b[:], 0); errors.Is(err, drivers.ErrTimeout) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (p *tcpPort) Line() drivers.Line { return drivers.Line{} }

// Close implements [drivers.Port]. Closing twice is harmless.
func (p *tcpPort) Close() error {
	p.mu.Lock()
	closed := errors.Is(p.gone, net.ErrClosed)
	if !closed {
		p.gone = fmt.Errorf("hostbus: %s: %w: %w", p.url, drivers.ErrGone, net.ErrClosed)
	}
	p.mu.Unlock()
	if closed {
		return nil
	}
	return p.conn.Close()
}
