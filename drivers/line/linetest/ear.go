// Package linetest lets tests hear simulated talkers under virtual time. It promises nothing else.
package linetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"homeward/drivers"
	"homeward/drivers/sim"
)

// Ear is a port in memory, and the other end of its line.
type Ear struct {
	wake chan struct{}
	done <-chan struct{}

	mu    sync.Mutex // protects the following
	buf   []byte
	err   error
	Asked []byte // what was written to the port
	asks  chan []byte
}

// Listen puts a talker on a line until the test ends. It is used in a bubble of [testing/synctest].
func Listen(t *testing.T, talker *sim.Talker, setting string) *Ear {
	t.Helper()
	l, err := drivers.ParseLine(setting)
	if err != nil {
		t.Fatal(err)
	}
	e := NewEar(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = talker.Serve(t.Context(), end{e}, l) // ends with the context
	}()
	t.Cleanup(func() { <-served })
	return e
}

// NewEar is a port with nobody on it.
func NewEar(ctx context.Context) *Ear {
	return &Ear{wake: make(chan struct{}, 1), done: ctx.Done(), asks: make(chan []byte, 16)}
}

// Say puts bytes on the line.
func (e *Ear) Say(b string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.buf = append(e.buf, b...)
	}
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Break makes the port fail with err; nil plugs it in again, empty.
func (e *Ear) Break(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err, e.buf = err, nil
}

// Waiting is how many bytes have not been read.
func (e *Ear) Waiting() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.buf)
}

// Read implements [drivers.Port].
func (e *Ear) Read(p []byte, wait time.Duration) (int, error) {
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	for {
		e.mu.Lock()
		n, err := copy(p, e.buf), e.err
		e.buf = e.buf[n:]
		e.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		if wait <= 0 {
			return 0, drivers.ErrTimeout
		}
		select {
		case <-e.wake:
		case <-timer.C:
			return 0, drivers.ErrTimeout
		}
	}
}

// Write implements [drivers.Port].
func (e *Ear) Write(p []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return e.err
	}
	e.Asked = append(e.Asked, p...)
	select {
	case e.asks <- append([]byte(nil), p...):
	default:
	}
	return nil
}

// Flush implements [drivers.Port].
func (e *Ear) Flush() error { e.mu.Lock(); defer e.mu.Unlock(); e.buf = nil; return e.err }

// Line implements [drivers.Port].
func (e *Ear) Line() drivers.Line { return drivers.Line{} }

// Close implements [drivers.Port].
func (e *Ear) Close() error { return nil }

// end is the talker's end.
type end struct{ e *Ear }

func (x end) Write(p []byte) (int, error) { x.e.Say(string(p)); return len(p), nil }

func (x end) Read(p []byte) (int, error) {
	select {
	case b := <-x.e.asks:
		return copy(p, b), nil
	case <-x.e.done:
		return 0, errors.New("the line has ended")
	}
}
