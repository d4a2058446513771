package sim

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"homeward/drivers"
)

// The socket's protocol: the client asks, the server answers, one at a time. A message is a
// length (4 bytes, big endian) and JSON of that length; bytes are base64.

// maxTransfer is the most that one transaction carries, as Linux's spidev allows by default.
const maxTransfer = 4096

const maxMessage = 4 * maxTransfer

// exchangeBound is how long a client waits for an answer. A stuck bus answers within [maxStuck].
const (
	exchangeBound = 5 * time.Second
	maxStuck      = 4 * time.Second
)

// The operations.
const (
	opOpen  = "open"  // Kind, Name → nothing; what follows on this connection is of that bus
	opTx    = "tx"    // Addr (I2C only), W, N → R
	opW1    = "w1"    // Device, File → R; without Device → Devices
	opPort  = "port"  // Name → Path
	opClock = "clock" // → Trusted, OffsetNS
	opList  = "list"  // → Buses
)

type request struct {
	Op   string          `json:"op"`
	Kind drivers.BusKind `json:"kind,omitempty"`
	Name string          `json:"name,omitempty"`
	Addr uint16          `json:"addr,omitempty"`
	W    []byte          `json:"w,omitempty"`
	N    int             `json:"n,omitempty"` // bytes to read

	Device string `json:"device,omitempty"`
	File   string `json:"file,omitempty"`
}

type reply struct {
	Error    string `json:"error,omitempty"`
	Class    string `json:"class,omitempty"` // see classes
	R        []byte `json:"r,omitempty"`
	Path     string `json:"path,omitempty"`
	Trusted  bool   `json:"trusted,omitempty"`
	OffsetNS int64  `json:"offset_ns,omitempty"`

	Buses   []listed `json:"buses,omitempty"`
	Devices []string `json:"devices,omitempty"`
}

// listed is a bus by its kind and its name without the prefix.
type listed struct {
	Kind drivers.BusKind `json:"kind"`
	Name string          `json:"name"`
}

// classes are the errors that keep their meaning over the socket.
var classes = [...]struct {
	name string
	err  error
}{
	{"gone", drivers.ErrGone}, {"timeout", drivers.ErrTimeout}, {"check", drivers.ErrCheck},
	{"refuse", drivers.ErrRefuse}, {"wrong", drivers.ErrWrong},
	{"nack", syscall.ENXIO}, {"nack-data", syscall.EREMOTEIO},
}

func failure(err error) reply {
	r := reply{Error: err.Error()}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			r.Class = c.name
			break
		}
	}
	return r
}

// remoteError is what the other side said, with its class.
type remoteError struct {
	text string
	is   error // may be nil
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

func (r *reply) err() error {
	if r.Error == "" {
		return nil
	}
	e := &remoteError{text: r.Error}
	for _, c := range classes {
		if r.Class == c.name {
			e.is = c.err
		}
	}
	return e
}

func writeMessage(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return fmt.Errorf("message of %d bytes, want at most %d", len(text), maxMessage)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text)))
	_, err = w.Write(append(b, text...))
	return err
}

func readMessage(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("message of %d bytes, want at most %d", n, maxMessage)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}
