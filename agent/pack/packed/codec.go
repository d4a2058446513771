package packed

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"math"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"homeward/agent/pack"
	"homeward/drivers"
)

// Radix is the alphabet of a payload.
type Radix int

// The alphabets.
const (
	Text   Radix = 93  // space to ~ without " and \: stands in a JSON string as it is
	Safe   Radix = 85  // also without space & < > ' / = and `: passes templates that escape HTML
	Binary Radix = 256 // bytes
)

const (
	letters93 = " !#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"
	letters85 = "!#$%()*+,-.0123456789:;?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_abcdefghijklmnopqrstuvwxyz{|}~"
)

// version is the first digit: of a payload whose count has two digits; with three it is one more.
func (r Radix) version() byte {
	if r == Safe {
		return 3
	}
	return 1
}

func (r Radix) letters() string {
	if r == Safe {
		return letters85
	}
	return letters93
}

// maxReadings bounds a payload, so that a few bytes cannot ask for gigabytes.
const maxReadings = 1 << 17

// Coder packs and unpacks the payloads of one schema. It is safe for concurrent use; a [Writer] of it is not.
type Coder struct {
	schema *Schema
	prior  *prior
	places map[string]seat
	ratio  atomic.Uint64 // float64: bytes a reading in the last payload
	works  sync.Pool     // of *work, for writers
	models sync.Pool     // of *model, for decoding
}

// seat is where a channel sits: in which group, and where in it.
type seat struct{ group, at int }

// New makes a schema ready: it replays the primers.
func New(s *Schema) (*Coder, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	c := &Coder{schema: s, places: map[string]seat{}}
	c.ratio.Store(math.Float64bits(1))
	for g := range s.Groups {
		for i, at := range s.Groups[g].Channels {
			c.places[s.Channels[at].Name] = seat{g, i}
		}
	}
	m := newModel(s)
	c.prior = m.prior()
	c.models.Put(m)
	for i, text := range s.Primers {
		if err := c.prime(text); err != nil {
			return nil, fmt.Errorf("packed: schema %d: primer %d: %w", s.ID, i+1, err)
		}
	}
	return c, nil
}

// prime decodes a primer, which was coded with what those before it taught, and keeps what that teaches.
func (c *Coder) prime(text string) error {
	d, err := open([]byte(text))
	if err != nil {
		return err
	}
	if d.Schema != c.schema.ID || d.radix != Text {
		return fmt.Errorf("schema %d, radix %d: want %d and %d", d.Schema, d.radix, c.schema.ID, Text)
	}
	m := c.model()
	defer c.models.Put(m)
	m.begin(c.prior, d.base)
	if err := d.records(m, func(*record) {}); err != nil {
		return err
	}
	c.prior = m.prior()
	return nil
}

func (c *Coder) model() *model {
	if m, ok := c.models.Get().(*model); ok {
		return m
	}
	return newModel(c.schema)
}

// Schema is the coder's; it may not be changed.
func (c *Coder) Schema() *Schema { return c.schema }

// Fits says whether the schema has all of a poll's channels, with their units, in one group and its order.
func (c *Coder) Fits(p pack.Poll) bool {
	_, _, ok := c.locate(p, nil)
	return ok
}

// locate finds a poll's group and the places of its readings in it.
func (c *Coder) locate(p pack.Poll, at []int) (group int, places []int, ok bool) {
	if len(p.Readings) == 0 || p.Time > maxTime/8 || p.Time < -maxTime/8 {
		return 0, at, false
	}
	last := -1
	for i := range p.Readings {
		r := &p.Readings[i]
		pl, known := c.places[r.Channel]
		if i == 0 {
			group = pl.group
		}
		if !known || pl.group != group || pl.at <= last || r.Quality > drivers.Aggregate || math.IsNaN(r.Value) || math.IsInf(r.Value, 0) ||
			c.schema.Channels[c.schema.Groups[group].Channels[pl.at]].Unit != string(r.Unit) {
			return 0, at, false
		}
		last = pl.at
		at = append(at, pl.at)
	}
	return group, at, true
}

// Info is what a payload says without its schema.
type Info struct {
	Schema  uint32
	Gateway string // empty where the payload leaves it to its topic
	Epoch   uint32
	First   uint64
	Polls   int
	Gaps    []pack.Gap
	radix   Radix
	base    int64
	coder   coder
	digits  int // all
}

// Is says whether a payload looks packed: its first byte tells.
func Is(payload []byte) bool {
	if len(payload) == 0 {
		return false
	}
	switch payload[0] {
	case letters93[1], letters93[2], letters85[3], letters85[4], 1, 2:
		return true
	}
	return false
}

// Peek reads what a payload says without its schema.
func Peek(payload []byte) (Info, error) {
	d, err := open(payload)
	if err != nil {
		return Info{}, err
	}
	return *d, nil
}

const (
	maxGaps   = 127
	maxNumber = 1 << 53
)

func open(payload []byte) (*Info, error) {
	d := &Info{radix: Text}
	if len(payload) < 6 || len(payload) > pack.MaxPayload {
		return nil, fmt.Errorf("packed: payload of %d bytes: want 6 to %d", len(payload), pack.MaxPayload)
	}
	wide := 0
	switch payload[0] {
	case letters93[1]:
	case letters93[2]:
		wide = 1
	case letters85[3]:
		d.radix = Safe
	case letters85[4]:
		d.radix, wide = Safe, 1
	case 1:
		d.radix = Binary
	case 2:
		d.radix, wide = Binary, 1
	default:
		return nil, fmt.Errorf("packed: first byte %q: no version that this release knows", payload[0])
	}
	digits := make([]byte, len(payload))
	if d.radix == Binary {
		copy(digits, payload)
	} else {
		var table [256]int16
		for i := range table {
			table[i] = -1
		}
		for i, l := range []byte(d.radix.letters()) {
			table[l] = int16(i)
		}
		for i, l := range payload {
			if table[l] < 0 {
				return nil, fmt.Errorf("packed: byte %d is %q: not a digit of radix %d", i, l, d.radix)
			}
			digits[i] = byte(table[l])
		}
	}
	got := int(digits[1])*int(d.radix) + int(digits[2])
	if want := checkDigits(digits, d.radix); got != want {
		return nil, fmt.Errorf("packed: damaged: its check is %d, what it says %d", want, got)
	}
	for i := range 2 + wide {
		d.Polls = d.Polls*int(d.radix) + int(digits[3+i])
	}
	d.digits = len(digits)
	c := &d.coder
	c.begin(int(d.radix), digits[5+wide:], true)
	d.header(c)
	if c.bad != nil || d.Schema == 0 {
		return nil, errStream
	}
	return d, nil
}

var unchecked [2]byte // what stands for the check's digits

// checkDigits is the CRC-32 (IEEE) over all digits, the check's own taken as 0, modulo radix².
func checkDigits(digits []byte, radix Radix) int {
	sum := crc32.Update(crc32.ChecksumIEEE(digits[:1]), crc32.IEEETable, unchecked[:])
	return int(crc32.Update(sum, crc32.IEEETable, digits[3:]) % uint32(radix*radix))
}

// header codes what precedes the polls.
func (d *Info) header(c *coder) {
	schema := c.natural(uint64(d.Schema), 6)
	if c.uniform(uint64(flag(d.Gateway != "")), 2) == 1 {
		d.Gateway = text(c, d.Gateway)
	}
	epoch := c.natural(uint64(d.Epoch), 6)
	if schema > math.MaxUint32 || epoch > math.MaxUint32 {
		c.bad = errStream
	}
	d.Schema, d.Epoch = uint32(schema), uint32(epoch)
	d.First = c.natural(d.First, 6)
	whole := d.base%1000 == 0
	if c.uniform(uint64(flag(whole)), 2) == 1 {
		d.base = unzigzag(c.natural(zigzag(d.base/1000), 6)) * 1000
	} else {
		d.base = unzigzag(c.natural(zigzag(d.base), 6))
	}
	if d.First > maxNumber-maxReadings || d.base > maxTime || d.base < -maxTime {
		c.bad = errStream
	}
	n := int(c.natural(uint64(len(d.Gaps)), 3))
	for i := range n {
		if c.decoding {
			d.Gaps = append(d.Gaps, pack.Gap{})
		}
		gap(c, &d.Gaps[i])
	}
}

func gap(c *coder, g *pack.Gap) {
	has := c.uniform(uint64(flag(g.From != nil && g.To != nil)), 2) == 1
	if has {
		var from, to uint64
		if !c.decoding {
			from, to = *g.From, *g.To
		}
		from = c.natural(from, 6)
		to = from + c.natural(to-from, 6)
		if c.decoding {
			g.From, g.To = &from, &to
		}
	}
	g.N = c.natural(g.N, 6)
	g.TFrom = unzigzag(c.natural(zigzag(g.TFrom), 6))
	g.TTo = unzigzag(c.natural(zigzag(g.TTo), 6))
	if g.N > maxNumber || g.From != nil && (*g.From > maxNumber || *g.To > maxNumber) || max(g.TFrom, -g.TFrom, g.TTo, -g.TTo) > maxTime {
		c.bad = errStream
	}
	g.Reason = text(c, g.Reason)
	g.MaybeDelivered = c.uniform(uint64(flag(g.MaybeDelivered)), 2) == 1
}

// text codes up to 255 bytes.
func text(c *coder, s string) string {
	b := make([]byte, c.uniform(uint64(min(len(s), 255)), 256))
	copy(b, s)
	for i := range b {
		b[i] = byte(c.uniform(uint64(b[i]), 256))
	}
	if !utf8.Valid(b) {
		c.bad = errStream
	}
	return string(b)
}

// records decodes the polls.
func (d *Info) records(m *model, take func(*record)) error {
	c := &d.coder
	readings := 0
	var r record
	for n := 0; n < d.Polls; {
		g := m.next()
		if g < 0 {
			return errStream
		}
		if m.ended(c, g, false) {
			continue
		}
		size := len(m.schema.Groups[g].Channels)
		r = record{group: g, values: resize(r.values, size), marks: resize(r.marks, size)}
		for i := range r.marks {
			r.marks[i] = mark(drivers.Good)
		}
		m.record(c, &r)
		if readings += size; readings > maxReadings || c.bad != nil {
			return errStream
		}
		take(&r)
		n++
	}
	return nil
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// Decode gives what the payload holds, in wire order. It must be of this coder's schema.
func (c *Coder) Decode(payload []byte) (pack.Payload, error) {
	d, err := open(payload)
	if err != nil {
		return pack.Payload{}, err
	}
	if d.Schema != c.schema.ID {
		return pack.Payload{}, fmt.Errorf("packed: a payload of schema %d: this one is %d", d.Schema, c.schema.ID)
	}
	p := pack.Payload{Header: pack.Header{Gateway: cmp.Or(d.Gateway, c.schema.Gateway), Epoch: d.Epoch, First: d.First}, Gaps: d.Gaps}
	m := c.model()
	defer c.models.Put(m)
	m.begin(c.prior, d.base)
	err = d.records(m, func(r *record) {
		for i, at := range c.schema.Groups[r.group].Channels {
			if r.marks[i] == missing {
				continue
			}
			ch := &c.schema.Channels[at]
			p.Readings = append(p.Readings, pack.Reading{
				Seq: d.First + uint64(len(p.Readings)), TimeMS: r.time, Channel: ch.Name, Value: r.values[i], Unit: drivers.Unit(ch.Unit), Quality: drivers.Quality(r.marks[i]),
			})
		}
	})
	return p, err
}
