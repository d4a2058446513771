// Package modbus reads instruments that speak Modbus, RTU on a serial line or TCP.
//
// What it promises: a value is the one that the unit held for the asked register
// at the time of the reading, or there is an error. A reply counts only if unit, function, byte
// count, length and CRC are right; a unit that has not answered in time is not asked
// again while its reply may still come ([Options].Late), and the line is drained and
// silent before each request. A refused, damaged or unusable value costs its own channels
// only; after a time-out the poll ends, so that a silent unit costs
// its neighbours on the line one time-out. Over TCP a reply is known by its transaction id, so nothing has to be
// held back; a connection whose frames can no longer be told apart is closed and made anew.
//
// What it cannot know: RTU replies carry no transaction id. One that arrives later than
// Late after its time-out, and while the same unit is asked for as many registers of
// the same kind, is indistinguishable from the right one; docs/modbus.md says how to
// choose Late.
//
// Sources: "MODBUS Application Protocol Specification V1.1b3", "MODBUS over Serial
// Line Specification and Implementation Guide V1.02" and "MODBUS Messaging on TCP/IP Implementation
// Guide V1.0b", all modbus.org.
package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"homeward/drivers"
)

// Sensor is one unit on a line, or behind a connection.
type Sensor struct {
	master asker
	unit   byte
	timing timing
	points []point // in the order of the channels
	blocks []block
	first  int // the block to begin with
}

// Read implements [drivers.Sensor]. Errors wrap, per request: [drivers.ErrTimeout], [drivers.ErrHeld],
// [drivers.ErrRefuse], [drivers.ErrCheck], [drivers.ErrGone]; per channel: [drivers.ErrValue].
func (s *Sensor) Read(ctx context.Context) ([]drivers.Reading, error) {
	values := make([]float64, len(s.points))
	have := make([]bool, len(s.points))
	var errs failures
	for k := range s.blocks {
		at := (s.first + k) % len(s.blocks)
		b := s.blocks[at]
		data, err := s.master.ask(ctx, request{s.unit, b.function, uint16(b.address), uint16(b.count)}, s.timing)
		if held := (*drivers.HeldError)(nil); errors.As(err, &held) {
			errs = append(errs, fmt.Errorf("unit %d: %w", s.unit, err))
			break
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("unit %d: %v (%s): %w%s", s.unit, b, s.names(b), err, s.hint(b, err)))
			if !errors.Is(err, drivers.ErrGone) && (errors.Is(err, drivers.ErrRefuse) || errors.Is(err, drivers.ErrCheck) && !errors.Is(err, drivers.ErrTimeout)) {
				continue
			}
			// A unit may be mute about one block alone: the others come first next time.
			if errors.Is(err, drivers.ErrTimeout) {
				s.first = (at + 1) % len(s.blocks)
			}
			break
		}
		for _, i := range b.points {
			p := s.points[i]
			v, err := p.decode(data, p.address-b.address)
			if err != nil {
				errs = append(errs, fmt.Errorf("unit %d: %v (%s): %w", s.unit, block{p.function, p.address, p.size, nil}, p.name, err))
				continue
			}
			values[i], have[i] = v, true
		}
	}
	readings := make([]drivers.Reading, 0, len(s.points))
	for i, p := range s.points {
		if have[i] {
			readings = append(readings, drivers.Reading{Channel: p.name, Value: values[i], Unit: p.unit})
		}
	}
	if len(errs) == 0 {
		return readings, nil
	}
	return readings, fmt.Errorf("modbus: %w", errs)
}

// hint says what an exception usually comes of, where that can be told.
func (s *Sensor) hint(b block, err error) string {
	var refused *refusedError
	if !errors.As(err, &refused) {
		return ""
	}
	switch refused.code {
	case 0x02: // manuals number registers from 1, below a digit for their kind
		for register, first := range map[string]int{"discrete": 10001, "input": 30001, "holding": 40001} {
			if n := b.address - first; n >= 0 && n < 9999 {
				return fmt.Sprintf("; what a manual calls %d is register: %s, address: %d", b.address, register, n)
			}
		}
	case 0x0A, 0x0B:
		return fmt.Sprintf("; a gateway answered, and behind it nothing does as unit_id: %d", s.unit)
	}
	return ""
}

// Close implements [drivers.Sensor].
func (s *Sensor) Close() error { return nil }

// failures is several errors in one line.
type failures []error

func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f failures) Unwrap() []error { return f }

// point is a channel, ready to be read.
type point struct {
	name     string
	unit     drivers.Unit
	function byte
	address  int
	size     int // in registers or bits
	kind     string
	order    string
	words    string
	shift    int    // of the bit field
	mask     uint64 // 0: no bit field
	scale    scale
	offset   float64
}

func newPoint(c Channel) point {
	p := point{
		name: c.Name, function: functionOf[c.Register], address: *c.Address, size: typeSize[c.Type],
		kind: c.Type, order: c.Order, words: c.Words, scale: newScale(*c.Scale), offset: c.Offset,
	}
	if c.Unit != nil {
		p.unit = *c.Unit
	}
	switch {
	case c.Bit != nil:
		p.shift, p.mask = *c.Bit, 1
	case c.Bits != nil:
		p.shift, p.mask = c.Bits[0], 1<<(c.Bits[1]-c.Bits[0]+1)-1
	}
	return p
}

// decode takes the value out of a reply's data; at is the point's distance from the first
// register or bit asked for.
func (p point) decode(data []byte, at int) (float64, error) {
	if p.function == readCoils || p.function == readDiscrete {
		return p.whole(int64(data[at/8] >> (at % 8) & 1))
	}
	var raw uint64
	for i := range p.size {
		j := at + i
		if p.words == "little" {
			j = at + p.size - 1 - i
		}
		register := binary.BigEndian.Uint16(data[2*j:])
		if p.order == "little" {
			register = register>>8 | register<<8
		}
		raw = raw<<16 | uint64(register)
	}
	if p.mask != 0 {
		return p.whole(int64(raw >> p.shift & p.mask))
	}
	switch p.kind {
	case "int16":
		return p.whole(int64(int16(raw)))
	case "int32":
		return p.whole(int64(int32(raw)))
	case "int64":
		return p.whole(int64(raw))
	case "uint64":
		if raw > drivers.MaxExact {
			return 0, fmt.Errorf("%w: %d is beyond 2^53, where whole numbers are no longer exact", drivers.ErrValue, raw)
		}
		return p.whole(int64(raw))
	case "float32":
		// The shortest decimal that means the same float32: 21.4, not 21.399999618530273.
		f := math.Float32frombits(uint32(raw))
		v, err := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", drivers.ErrValue, err)
		}
		return p.real(v)
	case "float64":
		return p.real(math.Float64frombits(raw))
	default: // uint16, uint32
		return p.whole(int64(raw))
	}
}

func (p point) whole(raw int64) (float64, error) {
	if raw > drivers.MaxExact || raw < -drivers.MaxExact {
		return 0, fmt.Errorf("%w: %d is beyond 2^53, where whole numbers are no longer exact", drivers.ErrValue, raw)
	}
	return p.real(float64(raw))
}

func (p point) real(raw float64) (float64, error) {
	if err := drivers.CheckValue(raw); err != nil {
		return 0, err
	}
	v := p.scale.times(raw) + p.offset
	if v == 0 {
		v = 0 // no negative zero
	}
	return v, drivers.CheckValue(v)
}

// scale is a factor as a decimal fraction, so that 214 × 0.1 is 21.4 and not
// 21.400000000000002.
type scale struct{ factor, digits, power float64 } // factor = digits / power, where power is not 0

func newScale(factor float64) scale {
	s := scale{factor: factor}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(factor, 'e', -1, 64), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	e, _ := strconv.Atoi(exponent)
	// Powers of ten up to 22, and integers up to 2^53, are exact.
	if e -= len(fraction); e < 0 && e >= -22 && len(fraction) < 15 {
		s.digits, _ = strconv.ParseFloat(whole+fraction, 64)
		s.power = math.Pow10(-e)
	}
	return s
}

func (s scale) times(raw float64) float64 {
	if product := raw * s.digits; s.power != 0 && math.Abs(product) <= drivers.MaxExact {
		return product / s.power
	}
	return raw * s.factor
}
