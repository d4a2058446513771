// Package cloud is the contract of a home's messaging side: one authenticated
// conversation with one kind of cloud, and the classes that its failures fall
// into. One package below it speaks to one cloud; all pass the suite in
// cloudtest.
//
// What a cloud promises: it says *delivered* only when the home took the payload
// on the very connection that carried it. What it may lose: nothing of its own;
// whatever is not acknowledged is for the caller to send again, byte for byte.
package cloud

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Class says what a failure means for the caller.
type Class string

// The classes.
const (
	Unreachable Class = "unreachable" // no answer, connection lost: back off, try again
	Denied      Class = "denied"      // credentials or identity refused: the home is questionable
	NotTrusted  Class = "not-trusted" // the other side could not prove who it is (TLS)
	Unproven    Class = "unproven"    // connected, but what is sent does not come through
	TooLarge    Class = "too-large"   // this payload will never be taken
	Slow        Class = "slow"        // told to wait
	Unpaid      Class = "unpaid"      // the organization's payloads are refused
)

// Error is a failure with its class, and what the operator should do.
type Error struct {
	Class  Class
	Op     string        // "connect", "publish", "prove"
	Remedy string        // one sentence
	Wait   time.Duration // Slow: not before
	Bytes  int           // of the payload that met it, where smaller ones came through; else 0
	Err    error
}

func (e *Error) Error() string { return "cloud: " + e.Op + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of err; Unreachable when it has none.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Unreachable
}

// Kind is what a message is.
type Kind uint8

// The kinds.
const (
	Readings Kind = iota
	Alarm
)

// Message is one publish.
type Message struct {
	Kind    Kind
	Payload []byte
}

// Limits are the cloud's, before configuration.
type Limits struct {
	MaxBytes int  // of a payload
	Wraps    bool // payloads are text that the home puts into a JSON string: it counts what they are there, between the quotes
	Window   int  // publishes in flight
	Schemas  bool // keeps schemas for receivers
	// Publishes of readings and alarms within any time Per; 0: as many as come.
	Publishes int
	Per       time.Duration
	// Overhead is what a status, a proof or a schema is to whoever bills: "billed", "free", or "": nobody has said.
	Overhead string
}

// Cloud makes sessions. It holds no connection itself.
type Cloud interface {
	Name() string
	Limits() Limits
	// Dial connects and authenticates. status is what others see of the gateway while
	// connected, will what they see when it falls silent; nil leaves either as it is.
	Dial(ctx context.Context, status, will []byte) (Session, error)
}

// Session is one connection. Once Done is closed it stays dead; every outcome that
// had not come by then is unknown.
type Session interface {
	// Publish sends m and calls ack exactly once, from any goroutine: nil when
	// the home took it on this connection, an *Error otherwise. It does not wait for
	// the acknowledgement.
	Publish(m Message, ack func(error)) error
	// Prove shows that what is sent comes through, up to a payload of size bytes: a home may pass on the
	// small and drop the large. Nothing may be deleted on the strength of acknowledgements before it has
	// succeeded, and no larger payload than was proven.
	Prove(ctx context.Context, size int) error
	// Schema publishes what payloads of the format packed are decoded with, so that receivers which come later have it
	// too, and returns once it was read back: a payload without its schema says nothing. Only where Limits.Schemas is.
	Schema(ctx context.Context, id uint32, text []byte) error
	// Status replaces what others see of the gateway.
	Status(ctx context.Context, status []byte) error
	// Hints carries orders' nudges ("orders") and receivers' acknowledgements ("acks"); bounded, drops the oldest.
	Hints() <-chan Hint
	Done() <-chan struct{}
	Err() error // why Done; an *Error
	// Close says farewell (status, if not nil) and disconnects.
	Close(ctx context.Context, status []byte)
}

// Hint is something that arrived. It is hostile until checked.
type Hint struct {
	Topic   string // "orders" or "acks"
	Payload []byte
}

// Backoff paces reconnects: full jitter below a bound that doubles with each step, so that a fleet that lost its
// broker together does not return together. The zero value starts at a second and ends at two minutes. It is for one
// goroutine.
type Backoff struct {
	Min, Max time.Duration // 0: 1 s, 2 min
	bound    time.Duration // of the next step; 0: Min
}

// Next is how long to wait now: between a tenth of the present bound and the bound.
func (b *Backoff) Next() time.Duration {
	most := cmp.Or(b.Max, 2*time.Minute)
	bound := min(cmp.Or(b.bound, b.Min, time.Second), most)
	if b.bound = most; bound <= most/2 {
		b.bound = 2 * bound
	}
	low := bound / 10
	return low + rand.N(bound-low+1)
}

// Wait waits for as long as Next says, at least for least. It returns early, with ctx's error, when ctx ends.
func (b *Backoff) Wait(ctx context.Context, least time.Duration) error {
	t := time.NewTimer(max(b.Next(), least))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Reset begins anew: the last connection was good.
func (b *Backoff) Reset() { b.bound = 0 }
