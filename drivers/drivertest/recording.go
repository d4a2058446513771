package drivertest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"periph.io/x/conn/v3"
	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
)

// step is one line of a recording; see [Recorder].
type step struct {
	kind    string
	addr    uint16 // i2c
	out, in []byte
	fault   string // "": it went well
}

const (
	kindI2C  = "i2c"
	kindSPI  = "spi"
	kindSend = "send"
	kindRecv = "recv"
	kindW1   = "w1"
)

// faults are the errors by their name in a recording. The last one stands for all others.
var faults = [...]struct {
	name string
	err  error
}{{"gone", drivers.ErrGone}, {"timeout", drivers.ErrTimeout}, {"fault", errors.New("remote I/O error")}}

func (s step) String() string {
	text := func(b []byte) string {
		if len(b) == 0 {
			return "-"
		}
		return hex.EncodeToString(b)
	}
	var line string
	switch s.kind {
	case kindI2C:
		line = fmt.Sprintf("%s %02x %s %s", s.kind, s.addr, text(s.out), text(s.in))
	case kindSPI:
		line = fmt.Sprintf("%s %s %s", s.kind, text(s.out), text(s.in))
	case kindSend:
		line = fmt.Sprintf("%s %s", s.kind, text(s.out))
	case kindRecv:
		line = fmt.Sprintf("%s %s", s.kind, text(s.in))
	case kindW1:
		line = fmt.Sprintf("%s %s %s", s.kind, w1Text(s.out), w1Text(s.in))
	}
	if s.fault != "" {
		line += " ! " + s.fault
	}
	return line
}

// maxLine is more than the longest transfer of the drivers.
const maxLine = 64 << 10

// parse reads a recording.
func parse(r io.Reader) (steps []step, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		s, err := parseStep(f)
		if err != nil {
			return nil, fmt.Errorf("drivertest: recording, line %d: %w", n, err)
		}
		steps = append(steps, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("drivertest: recording: %w", err)
	}
	return steps, nil
}

func parseStep(f []string) (s step, err error) {
	s.kind = f[0]
	if n := len(f); n > 2 && f[n-2] == "!" {
		s.fault, f = f[n-1], f[:n-2]
		if faultNamed(s.fault) == nil {
			return s, fmt.Errorf("error %q: want gone, timeout or fault", s.fault)
		}
	}
	f = f[1:]
	var parts []*[]byte
	switch s.kind {
	case kindI2C:
		if len(f) == 0 {
			return s, errors.New("i2c: want an address")
		}
		addr, err := strconv.ParseUint(f[0], 16, 7)
		if err != nil {
			return s, fmt.Errorf("address %q: want 00 to 7f", f[0])
		}
		s.addr, f, parts = uint16(addr), f[1:], []*[]byte{&s.out, &s.in}
	case kindSPI:
		parts = []*[]byte{&s.out, &s.in}
	case kindSend:
		parts = []*[]byte{&s.out}
	case kindRecv:
		parts = []*[]byte{&s.in}
	case kindW1:
		if len(f) < 2 {
			return s, errors.New("w1: want what was read, and its text")
		}
		if s.out, err = parseW1(f[0]); err == nil {
			s.in, err = parseW1(strings.Join(f[1:], " "))
		}
		return s, err
	default:
		return s, fmt.Errorf("step %q: want i2c, spi, w1, send or recv", s.kind)
	}
	if len(f) != len(parts) {
		return s, fmt.Errorf("%s: %d fields of bytes, want %d", s.kind, len(f), len(parts))
	}
	for i, text := range f {
		if text == "-" {
			continue
		}
		if *parts[i], err = hex.DecodeString(text); err != nil {
			return s, fmt.Errorf("bytes %q: %w", text, err)
		}
	}
	return s, nil
}

// w1Text quotes a text so that it can stand among fields and comments.
func w1Text(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return strings.NewReplacer("  ", ` \x20`, "#", `\x23`, "!", `\x21`).Replace(strconv.QuoteToASCII(string(b)))
}

func parseW1(text string) ([]byte, error) {
	if text == "-" {
		return nil, nil
	}
	s, err := strconv.Unquote(text)
	if err != nil || s == "" {
		return nil, fmt.Errorf("text %s: want it quoted as Go does, or - for none", text)
	}
	return []byte(s), nil
}

func faultNamed(name string) error {
	for _, f := range faults {
		if f.name == name {
			return f.err
		}
	}
	return nil
}

func faultName(err error) string {
	for _, f := range faults {
		if err == nil || errors.Is(err, f.err) {
			return f.name
		}
	}
	return faults[len(faults)-1].name
}

// Recorder writes what goes over a bus as a recording, for [Play]. It changes nothing of it.
//
// A recording is a conversation on a bus as text, so that it can be read, commented and compared. A
// line is a step; bytes are hexadecimal, - stands for none, and # begins a comment:
//
//	i2c 76 d0 60    7-bit address, bytes written, bytes read
//	spi d000 ff60   bytes out, bytes in, under one chip select
//	send 0103…      serial: what the driver wrote
//	recv 0103…      serial: what it then read; silence is not written down
//	w1 - "28-0316a2798bff\n"              1-Wire: the devices that were listed
//	w1 "28-0316a2798bff/w1_slave" "50 …"  1-Wire: a file's name and text
//
// A step that failed has ! and the kind of error at its end: gone, timeout, or fault for any other. (The periph
// library's own recordings, i2ctest and spitest, hold no failures and no serial lines.)
type Recorder struct {
	mu  sync.Mutex // protects the following
	w   io.Writer
	err error
}

// NewRecorder records to w.
func NewRecorder(w io.Writer) *Recorder { return &Recorder{w: w} }

// Err is the first error of the writer; nothing was recorded after it.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Recorder) note(s step, err error) {
	if err != nil {
		s.fault = faultName(err)
		s.in = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		_, r.err = fmt.Fprintln(r.w, s)
	}
}

// I2C records the transactions of b.
func (r *Recorder) I2C(b i2c.Bus) i2c.Bus { return recordedI2C{b, r} }

type recordedI2C struct {
	i2c.Bus
	r *Recorder
}

func (b recordedI2C) Tx(addr uint16, w, in []byte) error {
	err := b.Bus.Tx(addr, w, in)
	b.r.note(step{kind: kindI2C, addr: addr, out: w, in: in}, err)
	return err
}

// SPI records the transactions of p.
func (r *Recorder) SPI(p spi.Port) spi.Port { return recordedSPI{p, r} }

type recordedSPI struct {
	spi.Port
	r *Recorder
}

func (p recordedSPI) Connect(f physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	c, err := p.Port.Connect(f, mode, bits)
	if err != nil {
		return nil, err
	}
	return recordedConn{c, p.r}, nil
}

type recordedConn struct {
	spi.Conn
	r *Recorder
}

func (c recordedConn) Tx(w, in []byte) error {
	out := bytes.Clone(w) // both may be the same memory
	err := c.Conn.Tx(w, in)
	c.r.note(step{kind: kindSPI, out: out, in: in}, err)
	return err
}

func (recordedConn) TxPackets([]spi.Packet) error { return errPackets }

var errPackets = errors.New("drivertest: packets cannot be recorded: want Tx")

// W1 records what is listed and read of b.
func (r *Recorder) W1(b drivers.W1) drivers.W1 { return recordedW1{b, r} }

type recordedW1 struct {
	b drivers.W1
	r *Recorder
}

func (b recordedW1) Devices() ([]string, error) {
	ids, err := b.b.Devices()
	var in []byte
	for _, id := range ids {
		in = append(in, id+"\n"...)
	}
	b.r.note(step{kind: kindW1, in: in}, err)
	return ids, err
}

func (b recordedW1) Read(device, file string) ([]byte, error) {
	in, err := b.b.Read(device, file)
	b.r.note(step{kind: kindW1, out: []byte(device + "/" + file), in: in}, err)
	return in, err
}

// Port records what is written to p and read from it.
func (r *Recorder) Port(p drivers.Port) drivers.Port { return recordedPort{p, r} }

type recordedPort struct {
	drivers.Port
	r *Recorder
}

func (p recordedPort) Write(b []byte) error {
	err := p.Port.Write(b)
	p.r.note(step{kind: kindSend, out: b}, err)
	return err
}

func (p recordedPort) Read(b []byte, wait time.Duration) (int, error) {
	n, err := p.Port.Read(b, wait)
	if !errors.Is(err, drivers.ErrTimeout) {
		p.r.note(step{kind: kindRecv, in: b[:n]}, err)
	}
	return n, err
}

// Player is the bus of a recording. A driver that says anything else than what was recorded, or not all of
// it, fails the test.
type Player struct {
	t    testing.TB
	left []step
	n    int    // steps taken
	rest []byte // of the last recv, not yet read
	off  bool   // it has differed: what follows would only differ, too
}

// Play reads a recording, and sees at the end of the test that all of it was taken.
func Play(t testing.TB, recording io.Reader) *Player {
	t.Helper()
	steps, err := parse(recording)
	if err != nil {
		t.Fatal(err)
	}
	p := &Player{t: t, left: steps}
	t.Cleanup(func() {
		if len(p.left) > 0 && !p.off {
			t.Errorf("drivertest: the driver ended after step %d; the recording goes on with: %v", p.n, p.left[0])
		}
	})
	return p
}

// take plays the next step if it is want, whose answer is not looked at.
func (p *Player) take(want step, n int) (step, error) {
	p.t.Helper()
	var s step
	if len(p.left) > 0 {
		s = p.left[0]
	}
	if s.kind != want.kind || s.addr != want.addr || !bytes.Equal(s.out, want.out) || s.fault == "" && len(s.in) != n {
		if !p.off {
			p.off = true
			recorded := "the end"
			if s.kind != "" {
				recorded = s.String()
			}
			p.t.Errorf("drivertest: step %d: the driver: %v, for %d bytes; the recording: %s", p.n+1, want, n, recorded)
		}
		return s, errors.New("drivertest: not what was recorded")
	}
	p.left = p.left[1:]
	p.n++
	return s, faultNamed(s.fault)
}

// I2C is the recording as an I2C bus.
func (p *Player) I2C() i2c.Bus { return playedI2C{p} }

type playedI2C struct{ p *Player }

func (playedI2C) String() string                  { return "recording" }
func (playedI2C) SetSpeed(physic.Frequency) error { return nil }

func (b playedI2C) Tx(addr uint16, w, r []byte) error {
	b.p.t.Helper()
	s, err := b.p.take(step{kind: kindI2C, addr: addr, out: w}, len(r))
	if err == nil {
		copy(r, s.in)
	}
	return err
}

// SPI is the recording as an SPI device.
func (p *Player) SPI() spi.Port { return playedSPI{p} }

type playedSPI struct{ p *Player }

func (playedSPI) String() string { return "recording" }

func (p playedSPI) Connect(physic.Frequency, spi.Mode, int) (spi.Conn, error) {
	return playedConn(p), nil
}

type playedConn struct{ p *Player }

func (playedConn) String() string               { return "recording" }
func (playedConn) Duplex() conn.Duplex          { return conn.Full }
func (playedConn) TxPackets([]spi.Packet) error { return errPackets }

func (c playedConn) Tx(w, r []byte) error {
	c.p.t.Helper()
	s, err := c.p.take(step{kind: kindSPI, out: w}, len(r))
	if err == nil {
		copy(r, s.in)
	}
	return err
}

// W1 is the recording as a 1-Wire bus.
func (p *Player) W1() drivers.W1 { return playedW1{p} }

type playedW1 struct{ p *Player }

func (b playedW1) take(what string) ([]byte, error) {
	b.p.t.Helper()
	n := 0
	if len(b.p.left) > 0 {
		n = len(b.p.left[0].in)
	}
	s, err := b.p.take(step{kind: kindW1, out: []byte(what)}, n)
	if err != nil {
		return nil, err
	}
	return s.in, nil
}

func (b playedW1) Devices() ([]string, error) {
	b.p.t.Helper()
	in, err := b.take("")
	return strings.Fields(string(in)), err
}

func (b playedW1) Read(device, file string) ([]byte, error) {
	b.p.t.Helper()
	return b.take(device + "/" + file)
}

// Port is the recording as a serial port. Where nothing was received the line is silent; the waiting is
// real, so play it under [testing/synctest].
func (p *Player) Port(line drivers.Line) drivers.Port { return playedPort{p, line} }

type playedPort struct {
	p    *Player
	line drivers.Line
}

func (p playedPort) Line() drivers.Line { return p.line }
func (p playedPort) Close() error       { return nil }
func (p playedPort) Flush() error       { p.p.rest = nil; return nil }

func (p playedPort) Write(b []byte) error {
	p.p.t.Helper()
	_, err := p.p.take(step{kind: kindSend, out: b}, 0)
	return err
}

func (p playedPort) Read(b []byte, wait time.Duration) (int, error) {
	q := p.p
	if len(q.rest) == 0 && len(q.left) > 0 && q.left[0].kind == kindRecv {
		s, err := q.take(step{kind: kindRecv}, len(q.left[0].in))
		if err != nil {
			return 0, err
		}
		q.rest = s.in
	}
	if len(q.rest) == 0 {
		time.Sleep(wait)
		return 0, drivers.ErrTimeout
	}
	n := copy(b, q.rest)
	q.rest = q.rest[n:]
	return n, nil
}
