package site

import (
	"net"
	"sync"
	"time"
)

// door is a listener that can be gone, and back at the same address, or frozen: then it keeps connections, and
// takes new ones, but nothing goes through either way. What goes on behind it does not notice.
type door struct {
	addr net.Addr

	mu     sync.Mutex
	change *sync.Cond // something below has changed
	l      net.Listener
	frozen bool
	closed bool
	conns  map[*gated]struct{}
	queue  []net.Conn
	loops  sync.WaitGroup
}

// maxQueue bounds the connections that wait to be accepted.
const maxQueue = 64

func openDoor(listen string) (*door, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	d := &door{addr: l.Addr(), l: l, conns: map[*gated]struct{}{}}
	d.change = sync.NewCond(&d.mu)
	d.loops.Go(func() { d.accept(l) })
	return d, nil
}

func (d *door) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		if d.l != l || len(d.queue) >= maxQueue {
			d.mu.Unlock()
			c.Close()
			continue
		}
		g := &gated{Conn: c, door: d}
		d.conns[g] = struct{}{}
		d.queue = append(d.queue, g)
		d.change.Broadcast()
		d.mu.Unlock()
	}
}

// Accept implements [net.Listener]. It waits while the door is gone.
func (d *door) Accept() (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 && !d.closed {
		d.change.Wait()
	}
	if d.closed {
		return nil, net.ErrClosed
	}
	c := d.queue[0]
	d.queue = d.queue[1:]
	return c, nil
}

// Addr implements [net.Listener].
func (d *door) Addr() net.Addr { return d.addr }

// Close implements [net.Listener]; it cuts all connections.
func (d *door) Close() error {
	d.mu.Lock()
	d.closed = true
	d.change.Broadcast()
	d.mu.Unlock()
	return d.setGone(true)
}

// setGone refuses connections and cuts those that there are, or listens again.
func (d *door) setGone(gone bool) error {
	if !gone {
		// Somebody's outgoing connection may have the port for a moment.
		for tries := 0; ; tries++ {
			if err := d.back(); err == nil || tries == 100 {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	d.mu.Lock()
	l := d.l
	d.l, d.queue = nil, nil
	var cut []*gated
	for g := range d.conns {
		cut = append(cut, g)
	}
	d.mu.Unlock()
	var err error
	if l != nil {
		err = l.Close()
	}
	for _, g := range cut {
		g.Close()
	}
	d.loops.Wait()
	return err
}

// back listens again.
func (d *door) back() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.l != nil || d.closed {
		return nil
	}
	l, err := net.Listen("tcp", d.addr.String())
	if err == nil {
		d.l = l
		d.loops.Go(func() { d.accept(l) })
	}
	return err
}

func (d *door) setFrozen(frozen bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen = frozen
	d.change.Broadcast()
}

// gated is a connection through a door.
type gated struct {
	net.Conn
	door   *door
	closed bool // under the door's lock
}

// pass waits while the door is frozen.
func (g *gated) pass() error {
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	for g.door.frozen && !g.closed {
		g.door.change.Wait()
	}
	if g.closed {
		return net.ErrClosed
	}
	return nil
}

// Read implements [net.Conn]. What came in while the door froze waits, too.
func (g *gated) Read(p []byte) (int, error) {
	if err := g.pass(); err != nil {
		return 0, err
	}
	n, err := g.Conn.Read(p)
	if n > 0 {
		if gone := g.pass(); gone != nil {
			return 0, gone
		}
	}
	return n, err
}

// Write implements [net.Conn].
func (g *gated) Write(p []byte) (int, error) {
	if err := g.pass(); err != nil {
		return 0, err
	}
	return g.Conn.Write(p)
}

// Close implements [net.Conn].
func (g *gated) Close() error {
	g.door.mu.Lock()
	g.closed = true
	delete(g.door.conns, g)
	g.door.change.Broadcast()
	g.door.mu.Unlock()
	return g.Conn.Close()
}
