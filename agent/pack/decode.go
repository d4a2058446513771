package pack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"homeward/drivers"
)

// What a payload may hold.
const (
	maxName = 255 // bytes of a name
	maxText = 64  // bytes of a unit or reason

	minTime = -62167219200000 // Unix ms of the years 0 to 9999, all that RFC 3339 can write
	maxTime = 253402300799999
)

// fault is one thing wrong in a payload; the path grows as it is handed up.
type fault struct{ path, got, want string }

func (f *fault) Error() string {
	return fmt.Sprintf("%s: %s: want %s", f.path, f.got, f.want)
}

// refuse makes a fault of the value raw; nil is one that is missing.
func refuse(raw []byte, want string) *fault {
	const most = 40
	got := string(raw)
	if len(got) > most {
		got = strings.ToValidUTF8(got[:most], "") + "…"
	}
	if raw == nil {
		got = "missing"
	}
	return &fault{got: visible(got), want: want}
}

// visible keeps what a stranger wrote from doing anything to a terminal.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func (f *fault) at(name string) *fault {
	if f.path != "" && f.path[0] != '[' {
		name += "."
	}
	f.path = name + f.path
	return f
}

func (f *fault) index(i int) *fault { return f.at("[" + strconv.Itoa(i) + "]") }

// The text below is walked over without a tree in memory. It is known to be valid JSON.

// skip returns the length of the value that text begins with.
func skip(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '[', '{':
			depth++
		case ']', '}':
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(text)
}

// list walks over what is between a container's brackets.
type list struct{ text []byte }

func openList(raw []byte) (list, *fault) {
	if len(raw) == 0 || raw[0] != '[' {
		return list{}, refuse(raw, "an array")
	}
	return list{raw[1 : len(raw)-1]}, nil
}

// next returns the next value, nil after the last.
func (l *list) next() []byte {
	l.text = bytes.TrimLeft(l.text, ",: \t\r\n")
	if len(l.text) == 0 {
		return nil
	}
	n := skip(l.text)
	raw := l.text[:n]
	l.text = l.text[n:]
	return raw
}

// object returns the values of names, nil where one is absent; other and repeated names are refused.
func object(raw []byte, names ...string) ([][]byte, *fault) {
	return members(raw, func(string) bool { return false }, names...)
}

// members is object, but passes over other names that may be unknown.
func members(raw []byte, unknown func(name string) bool, names ...string) ([][]byte, *fault) {
	if len(raw) == 0 || raw[0] != '{' {
		return nil, refuse(raw, "an object")
	}
	values := make([][]byte, len(names))
	l := list{raw[1 : len(raw)-1]}
next:
	for key := l.next(); key != nil; key = l.next() {
		label := string(key[1 : len(key)-1])
		if strings.IndexByte(label, '\\') >= 0 { // the same label, written in another way
			_ = json.Unmarshal(key, &label) // valid
		}
		for i, name := range names {
			if label == name {
				if values[i] != nil {
					return nil, refuse(key, "it once").at(name)
				}
				values[i] = l.next()
				continue next
			}
		}
		if !unknown(label) {
			return nil, (&fault{got: "unknown", want: "one of " + strings.Join(names, " ")}).at(refuse(key, "").got)
		}
		l.next()
	}
	return values, nil
}

func text(raw []byte, least, most int, want string) (string, *fault) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", refuse(raw, want)
	}
	s := string(raw[1 : len(raw)-1])
	if strings.IndexByte(s, '\\') >= 0 {
		_ = json.Unmarshal(raw, &s) // valid
	}
	if len(s) < least || len(s) > most {
		return "", refuse(raw, want)
	}
	return s, nil
}

func texts(raw []byte, least, most int, want string) (all []string, f *fault) {
	l, f := openList(raw)
	if f != nil {
		return nil, f
	}
	for raw := l.next(); raw != nil; raw = l.next() {
		s, f := text(raw, least, most, want)
		if f != nil {
			return nil, f.index(len(all))
		}
		all = append(all, s)
	}
	return all, nil
}

func unsigned(raw []byte, bits int, want string) (uint64, *fault) {
	v, err := strconv.ParseUint(string(raw), 10, bits)
	if err != nil {
		return 0, refuse(raw, want)
	}
	return v, nil
}

func millis(raw []byte, low, high int64, want string) (int64, *fault) {
	v, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || v < low || v > high {
		return 0, refuse(raw, want)
	}
	return v, nil
}

func isNull(raw []byte) bool { return len(raw) > 0 && raw[0] == 'n' }

const wantTime = "Unix ms, of the years 0 to 9999"

// jsonText checks that a payload is JSON, and cuts the blanks at its ends.
func jsonText(payload []byte) ([]byte, error) {
	if !utf8.Valid(payload) {
		return nil, errors.New("not UTF-8")
	}
	if !json.Valid(payload) {
		var why json.RawMessage
		return nil, fmt.Errorf("not JSON: %w", json.Unmarshal(payload, &why))
	}
	return bytes.TrimSpace(payload), nil
}

func decodeRows(payload []byte) (Payload, error) {
	payload, err := jsonText(payload)
	if err != nil {
		return Payload{}, fmt.Errorf("pack: rows: %w", err)
	}
	p, f := rows(payload)
	if f != nil {
		return Payload{}, fmt.Errorf("pack: rows: %w", f)
	}
	return p, nil
}

func rows(payload []byte) (p Payload, f *fault) {
	v, f := object(payload, "gw", "e", "s", "n", "t", "g", "gap")
	if f != nil {
		return p, f
	}
	if p.Gateway, f = text(v[0], 1, maxName, "the gateway's id"); f != nil {
		return p, f.at("gw")
	}
	e, f := unsigned(v[1], 32, "the epoch, below 2^32")
	if f != nil {
		return p, f.at("e")
	}
	p.Epoch = uint32(e)
	if p.First, f = unsigned(v[2], 64, "the first sequence number"); f != nil {
		return p, f.at("s")
	}
	n, f := unsigned(v[3], 31, "the number of readings")
	if f != nil {
		return p, f.at("n")
	}
	if n > 0 && p.First == 0 || p.First > math.MaxUint64-n {
		return p, refuse(v[2], "a sequence number from 1").at("s")
	}
	base, f := millis(v[4], minTime, maxTime, wantTime)
	if f != nil {
		return p, f.at("t")
	}
	groups, f := openList(v[5])
	if f != nil {
		return p, f.at("g")
	}
	if n > 0 {
		p.Readings = make([]Reading, 0, min(int(n), len(payload)/2))
	}
	for i, raw := 0, groups.next(); raw != nil; i, raw = i+1, groups.next() {
		if f := p.takeGroup(raw, base); f != nil {
			return p, f.index(i).at("g")
		}
	}
	if n != uint64(len(p.Readings)) {
		return p, refuse(v[3], fmt.Sprintf("%d, the number of values", len(p.Readings))).at("n")
	}
	if v[6] == nil {
		return p, nil
	}
	gaps, f := openList(v[6])
	if f != nil {
		return p, f.at("gap")
	}
	for raw := gaps.next(); raw != nil; raw = gaps.next() {
		g, f := takeGap(raw)
		if f != nil {
			return p, f.index(len(p.Gaps)).at("gap")
		}
		p.Gaps = append(p.Gaps, g)
	}
	return p, nil
}

func (p *Payload) takeGroup(raw []byte, base int64) *fault {
	v, f := object(raw, "c", "u", "r", "q")
	if f != nil {
		return f
	}
	names, f := texts(v[0], 1, maxName, fmt.Sprintf("a name of 1 to %d bytes", maxName))
	if f != nil {
		return f.at("c")
	}
	if len(names) == 0 {
		return refuse(v[0], "at least one channel").at("c")
	}
	ordered := slices.Sorted(slices.Values(names))
	for i, name := range ordered[1:] {
		if name == ordered[i] {
			return refuse(appendString(nil, name), "each channel once").at("c")
		}
	}
	units, f := texts(v[1], 0, maxText, fmt.Sprintf("a unit of at most %d bytes", maxText))
	if f != nil {
		return f.at("u")
	}
	if len(units) != len(names) {
		return refuse(v[1], fmt.Sprintf("%d units, one a channel", len(names))).at("u")
	}
	values, f := openList(v[2])
	if f != nil {
		return f.at("r")
	}
	var marks list
	if v[3] != nil {
		if marks, f = openList(v[3]); f != nil {
			return f.at("q")
		}
	}
	for k, raw := 0, values.next(); raw != nil; k, raw = k+1, values.next() {
		var qualities []byte
		if v[3] != nil {
			if qualities = marks.next(); qualities == nil {
				return refuse(v[3], "as many rows as r").at("q")
			}
		}
		if f := p.takeRow(k, raw, qualities, names, units, base); f != nil {
			return f
		}
	}
	if marks.next() != nil {
		return refuse(v[3], "as many rows as r").at("q")
	}
	return nil
}

func (p *Payload) takeRow(k int, raw, qualities []byte, names, units []string, base int64) *fault {
	values, f := openList(raw)
	if f != nil {
		return f.index(k).at("r")
	}
	offset, f := millis(values.next(), minTime-base, maxTime-base, "the offset in whole ms, of the years 0 to 9999")
	if f != nil {
		return f.index(0).index(k).at("r")
	}
	var marks list
	if qualities != nil {
		if marks, f = openList(qualities); f != nil {
			return f.index(k).at("q")
		}
		if mark := marks.next(); !isNull(mark) {
			return refuse(mark, "null in the offset's place").index(0).index(k).at("q")
		}
	}
	for j := range names {
		value := values.next()
		quality := drivers.Good
		if qualities != nil {
			if mark := marks.next(); !isNull(mark) {
				const want = "null or, for a value, good, stale-clock, suspect or aggregate"
				name, f := text(mark, 1, maxText, want)
				q, err := drivers.ParseQuality(name)
				if f != nil || err != nil || isNull(value) {
					return refuse(mark, want).index(j + 1).index(k).at("q")
				}
				quality = q
			}
		}
		if isNull(value) {
			continue
		}
		number, err := strconv.ParseFloat(string(value), 64) // takes more than JSON does; value is JSON
		if err != nil {
			return refuse(value, "a finite number or null").index(j + 1).index(k).at("r")
		}
		p.Readings = append(p.Readings, Reading{
			Seq: p.First + uint64(len(p.Readings)), TimeMS: base + offset,
			Channel: names[j], Value: number, Unit: drivers.Unit(units[j]), Quality: quality,
		})
	}
	if values.next() != nil {
		return refuse(raw, "an offset and one entry a channel").index(k).at("r")
	}
	if marks.next() != nil {
		return refuse(qualities, "as many entries as the row in r").index(k).at("q")
	}
	return nil
}

func takeGap(raw []byte) (g Gap, f *fault) {
	v, f := object(raw, "from", "to", "n", "t_from", "t_to", "reason", "maybe_delivered")
	if f != nil {
		return g, f
	}
	if !isNull(v[0]) || !isNull(v[1]) {
		from, f := unsigned(v[0], 64, "a sequence number, or null in both from and to")
		if f != nil || from == 0 {
			return g, refuse(v[0], "a sequence number, or null in both from and to").at("from")
		}
		to, f := unsigned(v[1], 64, "")
		if f != nil || to < from {
			return g, refuse(v[1], "a sequence number not below from").at("to")
		}
		g.From, g.To = &from, &to
	}
	if g.N, f = unsigned(v[2], 64, "the number of readings"); f != nil {
		return g, f.at("n")
	}
	if g.TFrom, f = millis(v[3], minTime, maxTime, wantTime); f != nil {
		return g, f.at("t_from")
	}
	if g.TTo, f = millis(v[4], minTime, maxTime, wantTime); f != nil {
		return g, f.at("t_to")
	}
	if g.Reason, f = text(v[5], 1, maxText, fmt.Sprintf("a reason of 1 to %d bytes", maxText)); f != nil {
		return g, f.at("reason")
	}
	switch string(v[6]) {
	case "true":
		g.MaybeDelivered = true
	case "", "false":
	default:
		return g, refuse(v[6], "true or false").at("maybe_delivered")
	}
	return g, nil
}
