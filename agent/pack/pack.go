// Package pack turns readings into payloads and back.
//
// It promises that a payload is never larger than its limit, is filled up to it rather
// than stopped at a guess, stands alone, and is the same bytes for the same
// readings; and that decoding refuses, in bounded time and memory, whatever it does
// not know. A payload's first byte tells its format: `{` is rows, `[` senml.
//
// It loses nothing: values, times (to the millisecond), units and qualities come back as they went in.
package pack

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"homeward/drivers"
)

// Header says whose readings a payload carries.
type Header struct {
	Gateway string
	Epoch   uint32
	First   uint64 // sequence number of the first reading on the wire
}

// Poll is readings of one instant; channels are full names, each at most once.
type Poll struct {
	Time     int64 // Unix ms
	Readings []drivers.Reading
}

// Gap is a range that will not come, or (From and To nil) a time without samples.
type Gap struct {
	From           *uint64 `json:"from"` // both ends included
	To             *uint64 `json:"to"`
	N              uint64  `json:"n"`
	TFrom          int64   `json:"t_from"` // Unix ms; 0 unknown
	TTo            int64   `json:"t_to"`
	Reason         string  `json:"reason"`                    // 1 to 64 bytes
	MaybeDelivered bool    `json:"maybe_delivered,omitempty"` // it was tried and no answer came
}

// Writer fills one payload.
type Writer interface {
	Add(Poll) bool    // takes a whole poll; false: it does not fit, and nothing has changed
	AddPart(Poll) int // takes as many of a poll's readings as fit, and returns how many: for one too large for a payload of its own
	AddGap(Gap) bool  // takes a gap record; false: it does not fit, and nothing has changed
	Full() bool       // no poll fits any more, however short; a hint
	Len() int         // readings so far
	Size() int        // bytes so far, exactly, as the limit counts them
	// Close gives the payload, and how many of the readings it holds: the first ones, in the order in which they were
	// added. A format that cannot tell a payload's size before it is whole may have taken more. 0: not one fits.
	Close() (payload []byte, n int)
}

// The formats, as `publish.format` has them.
const (
	FormatRows  = "rows"
	FormatSenML = "senml"
)

// FormatPacked is package packed's, which needs a schema; alarms, and what no schema has, are rows.
const FormatPacked = "packed"

// Formats are those of this package.
var Formats = []string{FormatRows, FormatSenML}

// New begins a payload of at most max bytes; a format that is not one of [Formats] is rows.
func New(format string, h Header, max int) Writer { return begin(format, h, max, plain) }

// NewWrapped is [New] for a home that puts each payload into a JSON string: max, and Size, are what [Wrapped] counts.
func NewWrapped(format string, h Header, max int) Writer { return begin(format, h, max, wrapped) }

func begin(format string, h Header, max int, in measure) Writer {
	if format == FormatSenML {
		return newSenML(h, max, in)
	}
	return newRows(h, max, in)
}

// Wrapped is how many bytes a payload of text has in a JSON string, the quotes around it not counted: in UTF-8, with no
// more escaped than JSON demands, which is what our formats have: " and \.
func Wrapped(payload []byte) int { return wrapped.bytes(payload) }

// measure is how a home counts a payload's bytes.
type measure bool

const (
	plain   measure = false
	wrapped measure = true // in a JSON string
)

func (m measure) bytes(b []byte) int {
	if m == plain {
		return len(b)
	}
	return len(b) + bytes.Count(b, []byte{'"'}) + bytes.Count(b, []byte{'\\'})
}

func (m measure) text(s string) int {
	if m == plain {
		return len(s)
	}
	return len(s) + strings.Count(s, `"`) + strings.Count(s, `\`)
}

// Payload is what a payload holds.
type Payload struct {
	Header
	Readings []Reading // in wire order: the sequence numbers rise by one
	Gaps     []Gap
}

// Reading is one decoded reading.
type Reading struct {
	Seq     uint64
	TimeMS  int64
	Channel string
	Value   float64
	Unit    drivers.Unit
	Quality drivers.Quality
}

// Aggregates names the channels that stand for one where a budget does not carry its readings: the least, the mean and the greatest value of an
// interval. No instrument's channel has such a name, for a configured name holds no slash.
func Aggregates(channel string) (low, mean, high string) {
	return channel + "/min", channel + "/mean", channel + "/max"
}

// MaxPayload bounds what Decode looks at, in bytes.
const MaxPayload = 1 << 20

// Decode reads one payload of any format that this release knows.
func Decode(payload []byte) (Payload, error) {
	switch {
	case len(payload) > MaxPayload:
		return Payload{}, fmt.Errorf("pack: payload of %d bytes: want at most %d", len(payload), MaxPayload)
	case len(payload) > 0 && payload[0] == '{':
		return decodeRows(payload)
	case len(payload) > 0 && payload[0] == '[':
		return decodeSenML(payload)
	case len(payload) == 0:
		return Payload{}, fmt.Errorf("pack: empty payload")
	}
	return Payload{}, fmt.Errorf("pack: first byte %q: want { (format rows) or [ (senml)", payload[0])
}

// TimeLayout is how times are printed: RFC 3339, UTC, milliseconds.
const TimeLayout = "2006-01-02T15:04:05.000Z"

// Lines writes a payload as JSON lines, one a reading and one a gap.
func Lines(w io.Writer, p Payload) error {
	start := appendString([]byte(`{"gateway":`), p.Gateway)
	start = strconv.AppendUint(append(start, `,"epoch":`...), uint64(p.Epoch), 10)
	var b []byte
	for _, r := range p.Readings {
		b = append(append(b[:0], start...), `,"seq":`...)
		b = strconv.AppendUint(b, r.Seq, 10)
		b = append(b, `,"time":"`...)
		b = time.UnixMilli(r.TimeMS).UTC().AppendFormat(b, TimeLayout)
		b = append(b, `","t_ms":`...)
		b = strconv.AppendInt(b, r.TimeMS, 10)
		b = appendString(append(b, `,"channel":`...), r.Channel)
		b = appendNumber(append(b, `,"value":`...), r.Value)
		b = appendString(append(b, `,"unit":`...), string(r.Unit))
		b = append(b, `,"quality":"`...)
		b = append(b, r.Quality.String()...)
		b = append(b, "\"}\n"...)
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	for _, g := range p.Gaps {
		b = appendGap(append(append(b[:0], start...), `,"gap":`...), g)
		if _, err := w.Write(append(b, "}\n"...)); err != nil {
			return err
		}
	}
	return nil
}
