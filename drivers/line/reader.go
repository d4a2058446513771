package line

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"time"

	"homeward/drivers"
)

const (
	// Fresh is how old what an instrument has said may be.
	Fresh = time.Second
	// slice bounds one wait at the port, so that a cancelled context is noticed.
	slice = 100 * time.Millisecond
	// stall is the silence within a line after which it is no longer believed to be one. USB adapters hand bytes over up to
	// 16 ms apart (FTDI AN232B-04 §2); a TCP segment that is sent again takes 200 ms or more, and costs its line.
	stall = 150 * time.Millisecond
	// kernelBuffer is what Linux's line discipline holds of what nobody has read; beyond it, bytes are lost.
	kernelBuffer = 4000
	// maxBacklog bounds what is thrown away, or looked through, in one go.
	maxBacklog = 1 << 18
)

// Source is where an instrument that speaks in lines sits.
type Source struct {
	Port string `yaml:"port,omitempty" doc:"serial port, by a name that stays: /dev/serial/by-path/… or by-id/…"`
	Line string `yaml:"line,omitempty" doc:"line setting BAUD-DATABITS PARITY STOPBITS such as 9600-8N1"`
	URL  string `yaml:"url,omitempty" doc:"instead of port: tcp://host:port of a serial device server or an instrument with a network socket"`

	line drivers.Line
}

// CheckSource says what is wrong, and fills line in.
func (s *Source) CheckSource(fault func(path string, bad any, want string), defaultLine string) {
	if s.URL != "" {
		address, ok := strings.CutPrefix(s.URL, "tcp://")
		host, port, err := net.SplitHostPort(address)
		if n, perr := strconv.ParseUint(port, 10, 16); !ok || err != nil || perr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@?# \t") {
			fault("url", s.URL, "tcp://host:port")
		}
		if s.Port != "" {
			fault("port", s.Port, "either port or url")
		}
		if s.Line != "" {
			fault("line", s.Line, "nothing: with url there is no serial line")
		}
		return
	}
	if s.Port == "" {
		fault("port", nil, "the serial port, such as /dev/serial/by-id/…, or url: tcp://host:port")
	}
	if s.Line == "" {
		s.Line = defaultLine
	}
	l, err := drivers.ParseLine(s.Line)
	if err != nil {
		fault("line", s.Line, "baud rate, data bits, parity and stop bits, such as "+defaultLine)
	}
	s.line = l
}

// Bus implements [drivers.Options].
func (s *Source) Bus() drivers.Bus {
	if s.URL != "" {
		return drivers.Bus{Kind: drivers.TCP, Name: s.URL}
	}
	return drivers.Bus{Kind: drivers.Serial, Name: s.Port, Line: s.line}
}

// Text is one line as it came.
type Text struct {
	Bytes []byte    // without its terminator; never empty
	At    time.Time // when its end came, or a little before
	// Whole: it began right after a terminator, without a pause in it, and is not too long.
	Whole bool
}

// Reader takes lines off a port, of bounded length, none of them older than [Fresh]. It is used by the port's owner alone.
//
// It believes in terminators alone: whatever comes before the first one, or was interrupted, is not whole.
type Reader struct {
	port drivers.Port
	now  func() time.Time
	max  int    // bytes in a line
	sep  []byte // nil: CR, LF or both

	buf    []byte    // received, not yet given out
	seen   time.Time // when the last of buf was read
	last   time.Time // when it came: then, or at the earliest it can have
	broken bool      // buf begins within a line that is not whole
	ended  time.Time // the last [Reader.End]
	old    time.Time // what is read before anything had to be waited for came after this; zero: none is left

	Received int // bytes since [Reader.Begin]
	Spilled  int // bytes of lines that were too long, since Begin
}

// NewReader reads lines of at most max bytes that end with sep, or, where it is empty, with CR, LF or both.
func NewReader(port drivers.Port, max int, sep string, now func() time.Time) *Reader {
	return &Reader{port: port, now: now, max: max, sep: []byte(sep), broken: true}
}

// readerKey is where a port's sensors find its reader again when they are opened anew: it knows where a line begins.
type readerKey struct {
	max int
	sep string
}

// SharedReader is the reader of env's port, made where there is none.
func SharedReader(env drivers.Env, max int, sep string, now func() time.Time) *Reader {
	return env.Shared.Load(readerKey{max, sep}, func() any { return NewReader(env.Port, max, sep, now) }).(*Reader)
}

// Begin starts a reading. What lies in the buffers counts if the last reading ended less than [Fresh] ago, and is thrown away otherwise.
func (r *Reader) Begin() error {
	r.Received, r.Spilled = 0, 0
	if !r.ended.IsZero() && r.now().Sub(r.ended) < Fresh {
		r.old = r.ended
		return nil
	}
	return r.Discard(0)
}

// End says that a reading is over.
func (r *Reader) End() { r.ended = r.now() }

// Discard throws away what has come, until nothing comes for quiet.
func (r *Reader) Discard(quiet time.Duration) error {
	r.old = time.Time{}
	tail, total := r.buf, 0
	r.buf = nil
	chunk := make([]byte, 1024)
	for total < maxBacklog {
		n, err := r.port.Read(chunk, quiet)
		if errors.Is(err, drivers.ErrTimeout) {
			break
		}
		if err != nil {
			r.broken = true
			return err
		}
		total += n
		tail = append(tail[max(0, len(tail)-len(r.sep)):], chunk[:n]...)
	}
	if len(tail) > 0 {
		_, end, _ := r.cut(tail)
		for end > 0 && end < len(tail) {
			tail = tail[end:]
			_, end, _ = r.cut(tail)
		}
		r.broken = end != len(tail) || total >= kernelBuffer
	}
	return nil
}

// Asked says that whatever comes next begins a line: the instrument was asked.
func (r *Reader) Asked() { r.buf, r.broken = nil, false }

// cut finds the first line in b: its length, and where the next one begins.
func (r *Reader) cut(b []byte) (length, next int, ok bool) {
	i, n := -1, 1
	if len(r.sep) > 0 {
		i, n = bytes.Index(b, r.sep), len(r.sep)
	} else {
		i = bytes.IndexAny(b, "\r\n")
	}
	if i < 0 {
		return 0, 0, false
	}
	return i, i + n, true
}

// Next gives the next line that ends before an instant, or has ended before now, or [drivers.ErrTimeout].
func (r *Reader) Next(ctx context.Context, until time.Time) (Text, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Text{}, err
		}
		if length, next, ok := r.cut(r.buf); ok {
			text := Text{Bytes: bytes.Clone(r.buf[:length]), At: r.last, Whole: !r.broken && length <= r.max}
			r.buf, r.broken = r.buf[next:], false
			if length > r.max {
				r.Spilled += length
			}
			if length > 0 {
				return text, nil
			}
			continue
		}
		if len(r.buf) > r.max {
			// The end may be the beginning of a terminator, or of something worth finding.
			keep := min(len(r.buf), r.max/2)
			r.Spilled += len(r.buf) - keep
			r.buf, r.broken = append([]byte(nil), r.buf[len(r.buf)-keep:]...), true
		}
		if r.Received > maxBacklog && !r.now().Before(until) {
			return Text{}, drivers.ErrTimeout // it never pauses
		}
		chunk := make([]byte, 512)
		n, err := r.read(ctx, chunk, until)
		if err != nil {
			return Text{}, err
		}
		now := r.now()
		if len(r.buf) > 0 && now.Sub(r.seen) > stall {
			r.broken = true
		}
		r.seen, r.last = now, now
		if !r.old.IsZero() {
			r.last = r.old
		}
		r.buf = append(r.buf, chunk[:n]...)
		r.Received += n
	}
}

// read is the port's Read until an instant, in slices that let ctx be noticed.
func (r *Reader) read(ctx context.Context, p []byte, until time.Time) (int, error) {
	for {
		wait := min(max(until.Sub(r.now()), 0), slice)
		if !r.old.IsZero() {
			wait = 0
		}
		n, err := r.port.Read(p, wait)
		if !errors.Is(err, drivers.ErrTimeout) {
			return n, err
		}
		r.old = time.Time{} // from here on everything is new
		if !r.now().Before(until) {
			return 0, drivers.ErrTimeout
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
}

// Printable is what b looks like, bounded, for an error.
func Printable(b []byte) string {
	const most = 60
	text := strconv.QuoteToASCII(string(b[:min(len(b), most)]))
	if len(b) > most {
		text += "…"
	}
	return text
}
