package pack

import (
	"bytes"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"homeward/drivers"
)

// Rows fills one payload of the format rows; docs/payload.md draws it. The zero value is not
// usable; see [NewRows].
type Rows struct {
	max    int
	in     measure
	start  []byte // up to and with `"n":`
	fixed  int    // what start and the parts of every payload count
	n      int
	base   int64 // of the first poll; before that, of the last gap
	based  bool  // by a poll
	groups []*group
	latest map[string]int // of each channel, the last group that has it
	body   int            // what all groups count, with the commas between them
	gaps   []byte

	// Scratch, so that a steady stream of polls allocates nothing.
	row, best line
	head      []byte
}

// group is polls with the same channels, or some of them.
type group struct {
	columns []drivers.Reading // channel and unit alone count
	n       int
	rows    []byte // n of them, joined by commas
	marks   []byte // their qualities in the same shape; nil while all are good
}

// extend gives the group more columns, blank in the rows that it has.
func (g *group) extend(columns []drivers.Reading) {
	if len(columns) == 0 {
		return
	}
	g.columns = append(g.columns, columns...)
	if g.n > 0 {
		end := []byte(strings.Repeat(",null", len(columns)) + "]") // only a row ends in ]
		g.rows = bytes.ReplaceAll(g.rows, []byte("]"), end)
		g.marks = bytes.ReplaceAll(g.marks, []byte("]"), end)
	}
}

func (g *group) add(l *line) {
	if g.n > 0 {
		g.rows = append(g.rows, ',')
	}
	g.rows = append(g.rows, l.values...)
	switch {
	case len(g.marks) > 0:
		g.marks = append(append(g.marks, ','), l.marks...)
	case l.marked:
		for range g.n {
			g.marks = append(g.marks, '[')
			for range g.columns {
				g.marks = append(g.marks, "null,"...)
			}
			g.marks = append(g.marks, "null],"...)
		}
		g.marks = append(g.marks, l.marks...)
	}
	g.n++
}

// line is a poll as a row of some group.
type line struct {
	in     measure
	values []byte // has nothing that counts twice
	marks  []byte
	marked bool
	blanks int
	extra  []drivers.Reading // those that the group has no column for, at the row's end
	used   []bool
}

const (
	rowsMiddle = `,"t":`
	rowsGroups = `,"g":[`
	rowsGaps   = `],"gap":[`
	rowsEnd    = `]}`
	groupMarks = `],"q":[`
	groupEnd   = `]}`

	shortestGroup = `,{"c":["a"],"u":[""],"r":[[0,0]]}`
)

// NewRows begins a payload of at most max bytes.
func NewRows(h Header, max int) *Rows { return newRows(h, max, plain) }

func newRows(h Header, max int, in measure) *Rows {
	r := &Rows{max: max, in: in, latest: map[string]int{}}
	r.row.in, r.best.in = in, in
	r.start = append(r.start, `{"gw":`...)
	r.start = appendString(r.start, h.Gateway)
	r.start = append(r.start, `,"e":`...)
	r.start = strconv.AppendUint(r.start, uint64(h.Epoch), 10)
	r.start = append(r.start, `,"s":`...)
	r.start = strconv.AppendUint(r.start, h.First, 10)
	r.start = append(r.start, `,"n":`...)
	r.fixed = in.bytes(r.start) + in.text(rowsMiddle) + in.text(rowsGroups) + in.text(rowsEnd)
	return r
}

// Len is the number of readings so far.
func (r *Rows) Len() int { return r.n }

// Size is the number of bytes of the payload so far, exactly.
func (r *Rows) Size() int { return r.size(r.n, r.base, r.body, r.in.bytes(r.gaps)) }

func (r *Rows) size(n int, base int64, body, gaps int) int {
	s := r.fixed + digits(int64(n)) + digits(base) + body
	if gaps > 0 {
		s += r.in.text(rowsGaps) + gaps
	}
	return s
}

// Full says that no poll can be added any more, however short. It is a hint: a
// payload that is not full may still have no room for the next poll.
func (r *Rows) Full() bool {
	shortest := r.in.text(shortestGroup)
	for _, g := range r.groups {
		shortest = min(shortest, len(`,[0]`)+len(`,0`)*len(g.columns))
	}
	return r.n > 0 && r.Size()+shortest > r.max
}

// Add takes a whole poll. False: it does not fit, and nothing has changed. A poll with
// a value that is not a finite number fits nowhere.
func (r *Rows) Add(p Poll) bool {
	if len(p.Readings) == 0 {
		return true
	}
	for _, x := range p.Readings {
		if math.IsNaN(x.Value) || math.IsInf(x.Value, 0) {
			return false
		}
	}
	base := r.base
	if !r.based {
		base = p.Time
	}
	// A channel's readings stay in order on the wire: a poll goes into no group before one that has a channel of it.
	first, kin := 0, false
	for _, x := range p.Readings {
		if i, ok := r.latest[x.Channel]; ok {
			first, kin = max(first, i), true
		}
	}
	into, cost := -1, math.MaxInt // a group, or the next one
	consider := func(i, c int) {
		if c < cost {
			into, cost = i, c
			r.row, r.best = r.best, r.row
		}
	}
	for i := first; i < len(r.groups); i++ {
		g := r.groups[i]
		if !r.row.fill(g.columns, p, p.Time-base) {
			continue
		}
		c := r.row.cost(g)
		if len(r.row.extra) > 0 {
			if i > first || !kin { // columns are only added to a group of the same sensor
				continue
			}
			c += r.in.head(r.row.extra) - r.in.head(nil) + 2 // commas
		}
		consider(i, c)
	}
	// A row of blanks may cost more than a group of its own.
	if into < 0 || r.best.blanks > 0 || len(r.best.extra) > 0 {
		r.row.fill(p.Readings, p, p.Time-base)
		c := r.in.head(p.Readings) + len(groupEnd) + r.row.cost(&group{columns: p.Readings})
		if len(r.groups) > 0 {
			c++ // the comma before it
		}
		consider(len(r.groups), c)
	}
	if r.size(r.n+len(p.Readings), base, r.body+cost, r.in.bytes(r.gaps)) > r.max {
		return false
	}
	if into == len(r.groups) {
		r.groups = append(r.groups, &group{})
		r.best.extra = append(r.best.extra[:0], p.Readings...)
	}
	g := r.groups[into]
	for _, x := range r.best.extra {
		r.latest[x.Channel] = into
	}
	g.extend(r.best.extra)
	g.add(&r.best)
	r.base, r.based = base, true
	r.n += len(p.Readings)
	r.body += cost
	return true
}

// AddPart is for a poll that is too large for a payload of its own: it takes the longest prefix of
// its readings that fits into one without other readings, and returns its length; 0: not even one does.
func (r *Rows) AddPart(p Poll) int {
	low, high := 0, len(p.Readings)
	for low < high {
		mid := (low + high + 1) / 2
		if r.clone().Add(Poll{p.Time, p.Readings[:mid]}) {
			low = mid
		} else {
			high = mid - 1
		}
	}
	r.Add(Poll{p.Time, p.Readings[:low]})
	return low
}

// clone is deep enough to try an Add on.
func (r *Rows) clone() *Rows {
	c := *r
	c.row, c.best, c.head = line{in: r.in}, line{in: r.in}, nil
	c.latest = maps.Clone(r.latest)
	c.groups = make([]*group, len(r.groups))
	for i, g := range r.groups {
		h := *g
		h.columns, h.rows, h.marks = slices.Clip(g.columns), slices.Clip(g.rows), slices.Clip(g.marks)
		c.groups[i] = &h
	}
	return &c
}

// AddGap takes a gap record. False: it does not fit, and nothing has changed.
func (r *Rows) AddGap(g Gap) bool {
	r.head = appendGap(r.head[:0], g)
	base := r.base
	if !r.based {
		base = g.TTo
	}
	n := r.in.bytes(r.gaps) + r.in.bytes(r.head)
	if len(r.gaps) > 0 {
		n++
	}
	if r.size(r.n, base, r.body, n) > r.max {
		return false
	}
	if len(r.gaps) > 0 {
		r.gaps = append(r.gaps, ',')
	}
	r.gaps = append(r.gaps, r.head...)
	r.base = base // of a payload without readings; the first poll sets it anew
	return true
}

// Close gives the payload, with all readings that were taken.
func (r *Rows) Close() ([]byte, int) { return r.Bytes(), r.Len() }

// Bytes is the payload.
func (r *Rows) Bytes() []byte {
	b := make([]byte, 0, r.Size()) // or fewer
	b = append(b, r.start...)
	b = strconv.AppendInt(b, int64(r.n), 10)
	b = append(b, rowsMiddle...)
	b = strconv.AppendInt(b, r.base, 10)
	b = append(b, rowsGroups...)
	for i, g := range r.groups {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendHead(b, g.columns), g.rows...)
		if len(g.marks) > 0 {
			b = append(append(b, groupMarks...), g.marks...)
		}
		b = append(b, groupEnd...)
	}
	if len(r.gaps) > 0 {
		b = append(append(b, rowsGaps...), r.gaps...)
	}
	return append(b, rowsEnd...)
}

// head is what appendHead writes.
func (m measure) head(columns []drivers.Reading) int {
	n := m.text(`{"c":[],"u":[],"r":[`) + 2*max(len(columns)-1, 0)
	for _, x := range columns {
		n += m.quoted(x.Channel) + m.quoted(string(x.Unit))
	}
	return n
}

func appendHead(b []byte, columns []drivers.Reading) []byte {
	b = append(b, `{"c":[`...)
	for i, x := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, x.Channel)
	}
	b = append(b, `],"u":[`...)
	for i, x := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, string(x.Unit))
	}
	return append(b, `],"r":[`...)
}

// fill writes a poll as a row of these columns, and of more where they lack a channel. False: they have one of the
// channels in another unit.
func (l *line) fill(columns []drivers.Reading, p Poll, offset int64) bool {
	*l = line{in: l.in, values: l.values[:0], marks: l.marks[:0], extra: l.extra[:0], used: slices.Grow(l.used[:0], len(p.Readings))[:len(p.Readings)]}
	clear(l.used)
	l.values = strconv.AppendInt(append(l.values, '['), offset, 10)
	l.marks = append(l.marks, "[null"...)
	next := 0 // they usually come in the columns' order
	for _, c := range columns {
		at := -1
		for range p.Readings {
			if next == len(p.Readings) {
				next = 0
			}
			if !l.used[next] && p.Readings[next].Channel == c.Channel {
				at = next
				break
			}
			next++
		}
		switch {
		case at < 0:
			l.values, l.marks = append(l.values, ",null"...), append(l.marks, ",null"...)
			l.blanks++
			continue
		case p.Readings[at].Unit != c.Unit:
			return false
		}
		l.used[at] = true
		l.write(p.Readings[at])
		next++
	}
	for i, x := range p.Readings {
		if !l.used[i] {
			l.extra = append(l.extra, x)
			l.write(x)
		}
	}
	l.values, l.marks = append(l.values, ']'), append(l.marks, ']')
	return true
}

func (l *line) write(x drivers.Reading) {
	l.values = appendNumber(append(l.values, ','), x.Value)
	if x.Quality == drivers.Good {
		l.marks = append(l.marks, ",null"...)
		return
	}
	l.marks = append(append(append(l.marks, `,"`...), x.Quality.String()...), '"')
	l.marked = true
}

// cost is what g's rows grow by with this one, and its blanks in those before it.
func (l *line) cost(g *group) int {
	const blank = len(",null")
	comma, blanks := min(g.n, 1), g.n*blank*len(l.extra)
	n := comma + len(l.values) + blanks
	switch {
	case len(g.marks) > 0:
		n += comma + l.in.bytes(l.marks) + blanks
	case l.marked: // those of the rows before it have to be told, too
		n += l.in.text(groupMarks) + g.n*(len("[null],")+blank*len(g.columns)) + blanks + l.in.bytes(l.marks)
	}
	return n
}

func digits(v int64) int {
	var b [20]byte
	return len(strconv.AppendInt(b[:0], v, 10))
}

// appendNumber writes v as JSON, in the fewest digits that read back as the same number. As in
// JavaScript, only the very large and very small have an exponent.
func appendNumber(b []byte, v float64) []byte {
	if a := math.Abs(v); a == 0 || a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	b = strconv.AppendFloat(b, v, 'e', -1, 64)
	// Go writes e-09 and e+21.
	at := len(b) - 1
	for b[at] != 'e' {
		at--
	}
	switch {
	case b[at+1] == '+':
		b = slices.Delete(b, at+1, at+2)
	case b[at+2] == '0':
		b = slices.Delete(b, at+2, at+3)
	}
	return b
}

// appendString writes s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c == '\u2028' || c == '\u2029': // line ends to some; a payload is one line
			b = append(b, '\\', 'u', '2', '0', '2', hex[c&15])
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}

// quoted is what appendString writes.
func (m measure) quoted(s string) int {
	var room [2 + 6*64]byte
	if len(s) <= 64 {
		return m.bytes(appendString(room[:0], s))
	}
	return m.bytes(appendString(nil, s))
}

func appendGap(b []byte, g Gap) []byte {
	seq := func(key string, v *uint64) {
		b = append(b, key...)
		if v == nil {
			b = append(b, "null"...)
		} else {
			b = strconv.AppendUint(b, *v, 10)
		}
	}
	seq(`{"from":`, g.From)
	seq(`,"to":`, g.To)
	b = strconv.AppendUint(append(b, `,"n":`...), g.N, 10)
	b = strconv.AppendInt(append(b, `,"t_from":`...), g.TFrom, 10)
	b = strconv.AppendInt(append(b, `,"t_to":`...), g.TTo, 10)
	b = appendString(append(b, `,"reason":`...), g.Reason)
	if g.MaybeDelivered {
		b = append(b, `,"maybe_delivered":true`...)
	}
	return append(b, '}')
}
