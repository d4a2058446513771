package pack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"homeward/drivers"
)

// Rows fills one payload of the format rows; docs/payload.md draws it. The zero value is not
// usable; see [NewRows].
type Rows struct {
	header Header
	max    int
	start  []byte // up to and with `"n":`
	n      int
	base   int64 // set with the first poll or gap
	based  bool
	groups []*group
	body   int // bytes of all groups, without the commas between them
	gaps   []byte
	row    []byte // scratch
	marks  []byte // scratch: the row's qualities
}

// group is polls with the same channels, or some of them.
type group struct {
	columns []drivers.Reading // channel and unit alone count
	head    []byte            // {"c":[…],"u":[…],"r":[
	rows    []byte            // joined by commas
	marks   []byte            // qualities in the same shape
	marked  bool              // some quality is not good
}

const (
	rowsMiddle = `,"t":`
	rowsGroups = `,"g":[`
	rowsGaps   = `],"gap":[`
	rowsEnd    = `]}`
	groupMarks = `],"q":[`
	groupEnd   = `]}`
)

func (g *group) size() int {
	n := len(g.head) + len(g.rows) + len(groupEnd)
	if g.marked {
		n += len(groupMarks) + len(g.marks)
	}
	return n
}

// NewRows begins a payload of at most max bytes.
func NewRows(h Header, max int) *Rows {
	r := &Rows{header: h, max: max}
	r.start = append(r.start, `{"gw":`...)
	r.start = append(r.start, quote(h.Gateway)...)
	r.start = append(r.start, `,"e":`...)
	r.start = strconv.AppendUint(r.start, uint64(h.Epoch), 10)
	r.start = append(r.start, `,"s":`...)
	r.start = strconv.AppendUint(r.start, h.First, 10)
	r.start = append(r.start, `,"n":`...)
	return r
}

// Len is the number of readings so far.
func (r *Rows) Len() int { return r.n }

// Size is the number of bytes of the payload so far, exactly.
func (r *Rows) Size() int { return r.size(r.n, r.base, len(r.groups), r.body, len(r.gaps)) }

func (r *Rows) size(n int, base int64, groups, body, gaps int) int {
	s := len(r.start) + digits(int64(n)) + len(rowsMiddle) + digits(base) + len(rowsGroups) + body + max(groups-1, 0) + len(rowsEnd)
	if gaps > 0 {
		s += len(rowsGaps) + gaps
	}
	return s
}

// Add takes a whole poll. False: it does not fit, and nothing has changed.
func (r *Rows) Add(p Poll) bool {
	if len(p.Readings) == 0 {
		return true
	}
	base := r.base
	if !r.based {
		base = p.Time
	}
	best, bestSize := (*group)(nil), math.MaxInt
	var row, marks []byte
	for _, g := range r.groups {
		if !r.fill(g, p, base) {
			continue
		}
		if size := r.grown(g); size < bestSize {
			best, bestSize = g, size
			row, marks = append(row[:0], r.row...), append(marks[:0], r.marks...)
		}
	}
	// A row of blanks may cost more than a group of its own.
	if best == nil || slices.ContainsFunc(best.columns, func(c drivers.Reading) bool { return !has(p, c) }) {
		g := newGroup(p)
		r.fill(g, p, base)
		if size := g.size() + r.grown(g) + 1; size < bestSize {
			best, bestSize = g, size
			row, marks = r.row, r.marks
		}
	}
	groups := len(r.groups)
	fresh := len(best.rows) == 0
	body := r.body + bestSize
	if fresh {
		body-- // the comma before it is counted by size
		groups++
	}
	if r.size(r.n+len(p.Readings), base, groups, body, len(r.gaps)) > r.max {
		return false
	}
	if fresh {
		r.groups = append(r.groups, best)
	} else {
		best.rows, best.marks = append(best.rows, ','), append(best.marks, ',')
	}
	best.rows, best.marks = append(best.rows, row...), append(best.marks, marks...)
	best.marked = best.marked || marked(p)
	r.base, r.based = base, true
	r.n += len(p.Readings)
	r.body = body
	return true
}

// AddPart takes the longest prefix of the poll's readings that fits and returns its length.
func (r *Rows) AddPart(p Poll) int {
	low, high := 0, len(p.Readings)
	for low < high {
		mid := (low + high + 1) / 2
		trial := r.clone()
		if trial.Add(Poll{p.Time, p.Readings[:mid]}) {
			low = mid
		} else {
			high = mid - 1
		}
	}
	if low > 0 {
		r.Add(Poll{p.Time, p.Readings[:low]})
	}
	return low
}

// clone is deep enough to try an Add on.
func (r *Rows) clone() *Rows {
	c := *r
	c.row, c.marks = nil, nil
	c.groups = make([]*group, len(r.groups))
	for i, g := range r.groups {
		h := *g
		h.rows, h.marks = slices.Clip(g.rows), slices.Clip(g.marks)
		c.groups[i] = &h
	}
	return &c
}

// AddGap takes a gap record. False: it does not fit, and nothing has changed.
func (r *Rows) AddGap(g Gap) bool {
	text, err := json.Marshal(g)
	if err != nil {
		return false
	}
	base := r.base
	if !r.based {
		base = g.TTo
	}
	n := len(r.gaps) + len(text)
	if len(r.gaps) > 0 {
		n++
	}
	if r.size(r.n, base, len(r.groups), r.body, n) > r.max {
		return false
	}
	if len(r.gaps) > 0 {
		r.gaps = append(r.gaps, ',')
	}
	r.gaps = append(r.gaps, text...)
	if r.n == 0 {
		r.base = base // of a payload without readings; the first poll sets it anew
	}
	return true
}

// Bytes is the payload.
func (r *Rows) Bytes() []byte {
	b := make([]byte, 0, r.Size())
	b = append(b, r.start...)
	b = strconv.AppendInt(b, int64(r.n), 10)
	b = append(b, rowsMiddle...)
	b = strconv.AppendInt(b, r.base, 10)
	b = append(b, rowsGroups...)
	for i, g := range r.groups {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, g.head...), g.rows...)
		if g.marked {
			b = append(append(b, groupMarks...), g.marks...)
		}
		b = append(b, groupEnd...)
	}
	if len(r.gaps) > 0 {
		b = append(append(b, rowsGaps...), r.gaps...)
	}
	return append(b, rowsEnd...)
}

func newGroup(p Poll) *group {
	g := &group{columns: make([]drivers.Reading, len(p.Readings))}
	g.head = append(g.head, `{"c":[`...)
	for i, x := range p.Readings {
		g.columns[i] = drivers.Reading{Channel: x.Channel, Unit: x.Unit}
		if i > 0 {
			g.head = append(g.head, ',')
		}
		g.head = append(g.head, quote(x.Channel)...)
	}
	g.head = append(g.head, `],"u":[`...)
	for i, x := range p.Readings {
		if i > 0 {
			g.head = append(g.head, ',')
		}
		g.head = append(g.head, quote(string(x.Unit))...)
	}
	g.head = append(g.head, `],"r":[`...)
	return g
}

func has(p Poll, c drivers.Reading) bool {
	return slices.ContainsFunc(p.Readings, func(x drivers.Reading) bool { return x.Channel == c.Channel })
}

func marked(p Poll) bool {
	return slices.ContainsFunc(p.Readings, func(x drivers.Reading) bool { return x.Quality != drivers.Good })
}

// fill writes the poll as a row of g into the scratch space. False: g lacks one of its channels, or has them in another order.
func (r *Rows) fill(g *group, p Poll, base int64) bool {
	r.row = strconv.AppendInt(append(r.row[:0], '['), p.Time-base, 10)
	r.marks = append(r.marks[:0], "[null"...)
	i := 0
	for _, c := range g.columns {
		r.row, r.marks = append(r.row, ','), append(r.marks, ',')
		if i == len(p.Readings) || p.Readings[i].Channel != c.Channel || p.Readings[i].Unit != c.Unit {
			r.row, r.marks = append(r.row, "null"...), append(r.marks, "null"...)
			continue
		}
		x := p.Readings[i]
		i++
		r.row = appendNumber(r.row, x.Value)
		if x.Quality == drivers.Good {
			r.marks = append(r.marks, "null"...)
		} else {
			r.marks = append(append(append(r.marks, '"'), x.Quality.String()...), '"')
		}
	}
	r.row, r.marks = append(r.row, ']'), append(r.marks, ']')
	return i == len(p.Readings)
}

// grown is what g's size grows by with the row in the scratch space.
func (r *Rows) grown(g *group) int {
	comma := 0
	if len(g.rows) > 0 {
		comma = 1
	}
	n := comma + len(r.row)
	bad := bytes.ContainsRune(r.marks, '"')
	switch {
	case g.marked:
		n += comma + len(r.marks)
	case bad:
		n += len(groupMarks) + len(g.marks) + comma + len(r.marks)
	}
	return n
}

func digits(v int64) int {
	var b [20]byte
	return len(strconv.AppendInt(b[:0], v, 10))
}

// appendNumber writes v as JSON, the shortest text that reads back as the same number.
func appendNumber(b []byte, v float64) []byte {
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(b, v, format, -1, 64)
}

// quote writes s as a JSON string without HTML escapes.
func quote(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string cannot fail
	return bytes.TrimRight(b.Bytes(), "\n")
}

// The longest names and units that a payload may hold, in bytes.
const (
	maxName = 255
	maxUnit = 64
)

type wireRows struct {
	GW  *string     `json:"gw"`
	E   *uint32     `json:"e"`
	S   *uint64     `json:"s"`
	N   *uint64     `json:"n"`
	T   *int64      `json:"t"`
	G   []wireGroup `json:"g"`
	Gap []Gap       `json:"gap"`
}

type wireGroup struct {
	C []string     `json:"c"`
	U []string     `json:"u"`
	R [][]*float64 `json:"r"`
	Q [][]*string  `json:"q"`
}

func bad(field string, got any, want string) error {
	return fmt.Errorf("pack: rows: %s: %v: want %s", field, got, want)
}

func decodeRows(payload []byte) (Payload, error) {
	if !utf8.Valid(payload) {
		return Payload{}, fmt.Errorf("pack: rows: not UTF-8")
	}
	var w wireRows
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return Payload{}, fmt.Errorf("pack: rows: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Payload{}, fmt.Errorf("pack: rows: something follows the payload")
	}
	switch {
	case w.GW == nil || *w.GW == "" || len(*w.GW) > maxName:
		return Payload{}, bad("gw", deref(w.GW), "the gateway's id")
	case w.E == nil:
		return Payload{}, bad("e", "missing", "the epoch")
	case w.S == nil:
		return Payload{}, bad("s", "missing", "the first sequence number")
	case w.N == nil:
		return Payload{}, bad("n", "missing", "the number of readings")
	case w.T == nil || *w.T < -maxTime || *w.T > maxTime:
		return Payload{}, bad("t", deref(w.T), "the base time in Unix ms")
	}
	p := Payload{Header: Header{Gateway: *w.GW, Epoch: *w.E, First: *w.S}, Gaps: w.Gap}
	for i := range w.G {
		if err := p.takeGroup(i, &w.G[i], *w.T); err != nil {
			return Payload{}, err
		}
	}
	if *w.N != uint64(len(p.Readings)) {
		return Payload{}, bad("n", *w.N, fmt.Sprintf("%d, the number of values", len(p.Readings)))
	}
	if *w.N > 0 && *w.S == 0 || *w.S > math.MaxUint64-*w.N {
		return Payload{}, bad("s", *w.S, "a sequence number from 1")
	}
	for i, g := range w.Gap {
		switch {
		case (g.From == nil) != (g.To == nil), g.From != nil && (*g.From == 0 || *g.From > *g.To):
			return Payload{}, bad(fmt.Sprintf("gap[%d]", i), "from and to", "both or neither, from at most to")
		case g.Reason == "" || len(g.Reason) > maxUnit:
			return Payload{}, bad(fmt.Sprintf("gap[%d].reason", i), strconv.Quote(g.Reason), "a reason")
		}
	}
	return p, nil
}

// maxTime bounds times to whole numbers that every consumer can hold.
const maxTime = drivers.MaxExact

func deref[T any](v *T) any {
	if v == nil {
		return "missing"
	}
	return *v
}

func (p *Payload) takeGroup(i int, g *wireGroup, base int64) error {
	at := func(part string, args ...any) string { return fmt.Sprintf("g[%d].", i) + fmt.Sprintf(part, args...) }
	if len(g.U) != len(g.C) {
		return bad(at("u"), len(g.U), fmt.Sprintf("%d units, one a channel", len(g.C)))
	}
	for j := range g.C {
		if g.C[j] == "" || len(g.C[j]) > maxName {
			return bad(at("c[%d]", j), strconv.Quote(g.C[j]), fmt.Sprintf("a name of 1 to %d bytes", maxName))
		}
		if len(g.U[j]) > maxUnit {
			return bad(at("u[%d]", j), len(g.U[j]), fmt.Sprintf("at most %d bytes", maxUnit))
		}
	}
	if g.Q != nil && len(g.Q) != len(g.R) {
		return bad(at("q"), len(g.Q), fmt.Sprintf("%d rows as in r", len(g.R)))
	}
	for k, row := range g.R {
		if len(row) != len(g.C)+1 {
			return bad(at("r[%d]", k), len(row), fmt.Sprintf("%d entries: an offset and a value a channel", len(g.C)+1))
		}
		if row[0] == nil || *row[0] != math.Trunc(*row[0]) || math.Abs(*row[0]) > maxTime {
			return bad(at("r[%d][0]", k), deref(row[0]), "the offset in whole ms")
		}
		if g.Q != nil && len(g.Q[k]) != len(row) {
			return bad(at("q[%d]", k), len(g.Q[k]), fmt.Sprintf("%d entries as in r", len(row)))
		}
		for j, v := range row[1:] {
			if v == nil {
				continue
			}
			r := Reading{Seq: p.First + uint64(len(p.Readings)), TimeMS: base + int64(*row[0]), Channel: g.C[j], Value: *v, Unit: drivers.Unit(g.U[j])}
			if g.Q != nil && g.Q[k][j+1] != nil {
				q, err := drivers.ParseQuality(*g.Q[k][j+1])
				if err != nil {
					return bad(at("q[%d][%d]", k, j+1), strconv.Quote(*g.Q[k][j+1]), "null or a quality")
				}
				r.Quality = q
			}
			p.Readings = append(p.Readings, r)
		}
	}
	return nil
}
