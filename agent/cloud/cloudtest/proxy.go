package cloudtest

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Proxy is the line between a client and a TCP server; it can go silent without being cut, and be cut.
type Proxy struct {
	Port int // on 127.0.0.1; it stays the same over Kill and Revive

	t      testing.TB
	target string
	work   sync.WaitGroup

	mu       sync.Mutex
	change   *sync.Cond // of frozen or conns
	frozen   bool
	listener net.Listener
	conns    map[net.Conn]bool
}

// StartProxy opens a line to target, host:port.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{t: t, target: target, conns: map[net.Conn]bool{}}
	p.change = sync.NewCond(&p.mu)
	p.Revive()
	t.Cleanup(func() { p.Kill(); p.work.Wait() })
	return p
}

// Freeze keeps every connection open and lets nothing pass any more, as a router without a route
// does; Thaw undoes it. Nothing that was on its way is lost.
func (p *Proxy) Freeze() { p.freeze(true) }

// Thaw undoes Freeze.
func (p *Proxy) Thaw() { p.freeze(false) }

func (p *Proxy) freeze(frozen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = frozen
	p.change.Broadcast()
}

// Kill cuts every connection and refuses new ones; what was on its way is lost. It ends a freeze.
func (p *Proxy) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
	p.frozen = false
	p.change.Broadcast()
}

// Revive takes connections again.
func (p *Proxy) Revive() {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port))
	require.NoError(p.t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Port, p.listener = l.Addr().(*net.TCPAddr).Port, l
	p.work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", p.target)
			if err != nil {
				_ = client.Close()
				continue
			}
			if !p.keep(l, client, server) {
				return
			}
			p.work.Go(func() { p.pump(client, server) })
			p.work.Go(func() { p.pump(server, client) })
		}
	})
}

// keep notes a pair of connections, unless the line was cut since l took it.
func (p *Proxy) keep(l net.Listener, pair ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pair {
		if p.listener != l {
			_ = c.Close()
		} else {
			p.conns[c] = true
		}
	}
	return p.listener == l
}

func (p *Proxy) pump(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for p.frozen && p.conns[from] {
			p.change.Wait()
		}
		cut := !p.conns[from]
		p.mu.Unlock()
		if n > 0 && !cut {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil || cut {
			return
		}
	}
}
