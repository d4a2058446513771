package main

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/drivers"
)

// trace is a recording: readings in the order of time.
type trace struct {
	name  string
	rows  []row
	units map[string]drivers.Unit // a CSV has none
	sets  []packed.Set            // what a configuration says of the channels; a CSV has none
	// Lines without a value are no readings: nothing is put in their place, and they are told of.
	blanks     int
	firstBlank string // file and line
}

type row struct {
	time    int64 // Unix ms
	channel string
	value   float64
}

// The bounds of a file.
const (
	maxTraceBytes = 256 << 20
	maxTraceRows  = 4_000_000
	maxName       = 255 // bytes
	lastTime      = 253402300799999
)

const header = "t_ms,channel,value"

// readFolder reads every CSV of a folder. What is wrong is told of every file, of each the first.
func readFolder(dir string) (all []trace, err error) {
	names, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*.csv"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		if _, err := os.ReadDir(dir); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: no .csv in it: want files of %s", dir, header)
	}
	var errs []error
	for _, name := range names {
		t, err := readFile(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, t)
	}
	return all, errors.Join(errs...)
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

func readFile(name string) (trace, error) {
	if info, err := os.Stat(name); err != nil {
		return trace{}, err
	} else if !info.Mode().IsRegular() {
		return trace{}, fmt.Errorf("%s: not a file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return trace{}, err
	}
	defer f.Close()
	return readTrace(f, name)
}

// readTrace reads a CSV of t_ms,channel,value.
func readTrace(in io.Reader, name string) (trace, error) {
	t := trace{name: strings.TrimSuffix(filepath.Base(name), ".csv")}
	limited := &io.LimitedReader{R: in, N: maxTraceBytes + 1}
	lines := csv.NewReader(bufio.NewReaderSize(limited, 64<<10))
	lines.FieldsPerRecord, lines.ReuseRecord = -1, true
	names := map[string]string{}
	last := int64(0)
	for first := true; ; first = false {
		fields, err := lines.Read()
		line := 0
		bad := func(format string, args ...any) (trace, error) {
			return trace{}, fmt.Errorf("%s:%d: %s", name, line, fmt.Sprintf(format, args...))
		}
		var parse *csv.ParseError
		switch {
		case limited.N <= 0:
			return trace{}, fmt.Errorf("%s: longer than %d bytes", name, maxTraceBytes)
		case errors.Is(err, io.EOF) && first:
			line = 1
			return bad("empty: want the header %s", header)
		case errors.Is(err, io.EOF):
			if len(t.rows) == 0 {
				line = 2
				return bad("no readings: want at least one with a value below %s", header)
			}
			return t, nil
		case errors.As(err, &parse):
			line = parse.Line
			return bad("not CSV: %v: want %s", parse.Err, header)
		case err != nil:
			return trace{}, fmt.Errorf("%s: %w", name, err)
		}
		line, _ = lines.FieldPos(0)
		if first {
			if text := strings.TrimPrefix(strings.Join(fields, ","), "\ufeff"); text != header {
				return bad("%s: want the header %s", quote(text), header)
			}
			continue
		}
		if len(fields) != 3 {
			return bad("%s: %d fields: want %s", quote(strings.Join(fields, ",")), len(fields), header)
		}
		if len(t.rows) >= maxTraceRows {
			return bad("too many readings: want at most %d", maxTraceRows)
		}
		ms, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil || ms < 0 || ms > lastTime {
			return bad("t_ms %s: want Unix time in whole ms, to the year 9999", quote(fields[0]))
		}
		if ms < last {
			return bad("t_ms %d: before the %d above it: want readings in the order of time", ms, last)
		}
		last = ms
		if c := fields[1]; c == "" || len(c) > maxName || !utf8.ValidString(c) || strings.ContainsFunc(c, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return bad("channel %s: want a name of 1 to %d bytes of UTF-8 without control characters", quote(c), maxName)
		}
		if fields[2] == "" {
			if t.blanks == 0 {
				t.firstBlank = fmt.Sprintf("%s:%d", name, line)
			}
			t.blanks++
			continue
		}
		v, err := strconv.ParseFloat(fields[2], 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || strings.ContainsAny(fields[2], "xX_") {
			return bad("value %s: want a finite decimal number", quote(fields[2]))
		}
		channel, ok := names[fields[1]]
		if !ok {
			channel = strings.Clone(fields[1])
			names[channel] = channel
		}
		t.rows = append(t.rows, row{ms, channel, v})
	}
}

// quote shows a text that may be anything.
func quote(s string) string {
	if len(s) > 60 {
		return strconv.Quote(s[:60]) + "…"
	}
	return strconv.Quote(s)
}

// cut is where the test begins: at 30 % of the readings, moved to the end of the instant that stands there.
func (t *trace) cut() (int, error) {
	at := max(1, len(t.rows)*3/10)
	for at < len(t.rows) && t.rows[at].time == t.rows[at-1].time {
		at++
	}
	if at == len(t.rows) {
		return 0, fmt.Errorf("%s: %d readings, and none after the first 30 %% and their last instant: want more", t.name, len(t.rows))
	}
	return at, nil
}

// sameSensor is how often two channels must have been read at the same instant, of the readings of each, to count as one
// sensor's, of which now and then a value is missing.
const sameSensor = 0.9

// groups finds out which channels are read together. Channels which only come after the first n readings are known
// too, as they would be from a configuration, each by itself. Where there is a configuration, it says so itself.
func (t *trace) groups(n int) []packed.Set {
	if t.sets != nil {
		return t.sets
	}
	instants := map[string][]int32{} // of each channel
	var order []string
	instant := int32(0)
	for i, r := range t.rows {
		if i > 0 && r.time != t.rows[i-1].time {
			instant++
		}
		got, known := instants[r.channel]
		if !known {
			order = append(order, r.channel)
			instants[r.channel] = nil
		}
		if i < n && (len(got) == 0 || got[len(got)-1] != instant) {
			instants[r.channel] = append(got, instant)
		}
	}
	var sets []packed.Set
	var leaders [][]int32
	for _, c := range order {
		mine := instants[c]
		at := slices.IndexFunc(leaders, func(leader []int32) bool { return together(leader, mine) })
		if at < 0 {
			at = len(sets)
			sets, leaders = append(sets, packed.Set{}), append(leaders, mine)
		}
		sets[at].Channels = append(sets[at].Channels, packed.Hint{Name: c, Unit: string(t.units[c])})
	}
	return sets
}

func together(a, b []int32) bool {
	least := sameSensor * float64(max(len(a), len(b)))
	if len(a) == 0 || float64(min(len(a), len(b))) < least {
		return false
	}
	both := 0
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] < b[j]:
			i++
		case a[i] > b[j]:
			j++
		default:
			both, i, j = both+1, i+1, j+1
		}
	}
	return float64(both) >= least
}

// polls are readings as a sampler would have brought them: those of one instant and sensor, in the sensor's order of channels.
func (t *trace) polls(rows []row, sets []packed.Set) []pack.Poll {
	type seat struct{ group, at int }
	seats := map[string]seat{}
	for g := range sets {
		for i, c := range sets[g].Channels {
			seats[c.Name] = seat{g, i}
		}
	}
	var all []pack.Poll
	for i := 0; i < len(rows); {
		j := i
		for j < len(rows) && rows[j].time == rows[i].time {
			j++
		}
		part := slices.Clone(rows[i:j])
		i = j
		for len(part) > 0 {
			g := seats[part[0].channel].group
			found := make([]*row, len(sets[g].Channels))
			var rest []row
			for k := range part {
				s := seats[part[k].channel]
				if s.group != g || found[s.at] != nil { // another sensor's, or the same channel once more
					rest = append(rest, part[k])
					continue
				}
				found[s.at] = &part[k]
			}
			p := pack.Poll{Time: part[0].time}
			for _, r := range found {
				if r != nil {
					p.Readings = append(p.Readings, drivers.Reading{Channel: r.channel, Value: r.value, Unit: t.units[r.channel]})
				}
			}
			all = append(all, p)
			part = rest
		}
	}
	return all
}

// senmlNames are polls with names that SenML allows (RFC 8428 §4.5.1), and how many channels had to be renamed for that.
func senmlNames(polls []pack.Poll) (out []pack.Poll, renamed int) {
	names, taken := map[string]string{}, map[string]bool{}
	rename := func(old string) string {
		if s, ok := names[old]; ok {
			return s
		}
		s := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-:./_", r) {
				return r
			}
			return '_'
		}, old)
		s = s[:min(len(s), maxName-len(gateway+"/"))]
		for n, stem := 2, s; taken[s]; n++ {
			end := fmt.Sprintf("-%d", n)
			s = stem[:min(len(stem), maxName-len(gateway+"/")-len(end))] + end
		}
		names[old], taken[s] = s, true
		if s != old {
			renamed++
		}
		return s
	}
	for _, p := range polls {
		q := pack.Poll{Time: p.Time, Readings: slices.Clone(p.Readings)}
		for i := range q.Readings {
			q.Readings[i].Channel = rename(q.Readings[i].Channel)
		}
		out = append(out, q)
	}
	return out, renamed
}
