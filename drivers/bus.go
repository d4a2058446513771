package drivers

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/spi"
)

// Env is what a sensor is opened with. Exactly one of Port, I2C, SPI and W1 is set, as
// the options' Bus asked.
type Env struct {
	Port Port // Serial and TCP
	I2C  i2c.Bus
	SPI  spi.Port
	W1   W1
	// Timeout bounds one exchange with the instrument; never zero.
	Timeout time.Duration
	// Shared holds what all sensors of one opened bus have in common (a Modbus
	// master, for instance); it is dropped when the bus is closed. Never nil.
	Shared *Shared
	// Sleep pauses for a conversion (milliseconds).
	// Nil means real time.
	Sleep func(d time.Duration)
	Log   *slog.Logger // nil is silent
}

// Shared is a small store for one opened bus. It is used by the bus's owner
// alone and so needs no lock.
type Shared struct{ values map[any]any }

// Load returns what was stored under key, making it first if there is none.
func (s *Shared) Load(key any, make func() any) any {
	if v, ok := s.values[key]; ok {
		return v
	}
	if s.values == nil {
		s.values = map[any]any{}
	}
	v := make()
	s.values[key] = v
	return v
}

// W1 is a 1-Wire bus as Linux's w1 subsystem gives it (Documentation/w1/w1-generic.rst).
type W1 interface {
	// Devices lists what the kernel has found, such as 28-0316a2798bff, sorted.
	Devices() ([]string, error)
	// Read reads a file of a device, such as w1_slave. A device that is not there is [ErrTimeout],
	// a bus that is not there [ErrGone].
	Read(device, file string) ([]byte, error)
}

// Port is an open serial port, or a TCP connection. It is used by one goroutine at a time.
type Port interface {
	// Read waits at most wait for the first bytes and returns at least one, or
	// ErrTimeout when none came, or an error for which errors.Is(err, ErrGone) holds when
	// the port is lost.
	Read(p []byte, wait time.Duration) (int, error)
	// Write sends all of p or fails; it gives up after the time that p takes on the
	// line plus a second, and then the port counts as gone.
	Write(p []byte) error
	// Flush throws away what was received and not yet read.
	Flush() error
	// Line says how the port is set; its true rate decides the pauses. Of a TCP connection it is zero.
	Line() Line
	Close() error
}

// Line is the setting of a serial line, written as 19200-8E1.
type Line struct {
	Baud     int
	DataBits int
	Parity   byte // 'N', 'E' or 'O'
	StopBits int
}

func (l Line) String() string {
	return fmt.Sprintf("%d-%d%c%d", l.Baud, l.DataBits, l.Parity, l.StopBits)
}

// CharTime is how long one character takes on the line: start bit, data, parity, stop.
func (l Line) CharTime() time.Duration {
	bits := 1 + l.DataBits + l.StopBits
	if l.Parity != 'N' {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(l.Baud)
}

// ParseLine reads BAUD-DPS: 9600-8N1, 19200-8E1.
func ParseLine(s string) (Line, error) {
	bad := func() (Line, error) {
		return Line{}, fmt.Errorf("drivers: line %q: want BAUD-DATABITS PARITY STOPBITS such as 9600-8N1 or 19200-8E1", s)
	}
	rate, rest, ok := strings.Cut(s, "-")
	baud, err := strconv.Atoi(rate)
	if !ok || err != nil || baud < 50 || baud > 4_000_000 || len(rest) != 3 {
		return bad()
	}
	l := Line{Baud: baud, DataBits: int(rest[0] - '0'), Parity: rest[1], StopBits: int(rest[2] - '0')}
	if l.DataBits < 5 || l.DataBits > 8 || !strings.ContainsRune("NEO", rune(l.Parity)) || l.StopBits < 1 || l.StopBits > 2 {
		return bad()
	}
	return l, nil
}

// The errors that a driver's errors wrap.
var (
	// The bus.
	ErrGone    = errors.New("the bus is gone")            // unplugged: close it and look for it again
	ErrTimeout = errors.New("no answer in time")          // silent: ask more rarely
	ErrHeld    = errors.New("held back after a time-out") // not asked at all: a late answer could still come; see RetryAfter

	// The answer.
	ErrCheck  = errors.New("the answer failed its check") // CRC, length, unit, function, identity
	ErrRefuse = errors.New("the instrument refused")      // a Modbus exception, a NACK of a command
	ErrValue  = errors.New("not a usable value")          // NaN, infinite, beyond 2^53

	// The instrument.
	ErrWrong = errors.New("not the expected instrument") // a retry does not help until someone changes something
)

// Retry says whether asking again can help without anyone doing something on
// site or in the configuration.
func Retry(err error) bool { return err != nil && !errors.Is(err, ErrWrong) }

// HeldError says that a request was not sent, and when it may be.
type HeldError struct{ After time.Duration }

func (e *HeldError) Error() string { return fmt.Sprintf("%v, for another %v", ErrHeld, e.After) }

// Is makes errors.Is(err, ErrHeld) hold.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }
