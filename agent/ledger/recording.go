package ledger

import (
	"bufio"
	"cmp"
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
	"time"

	"homeward/agent/config"
	"homeward/drivers"
)

// Recording is readings as they were taken, of the channels of a configuration: what a plan is made from instead of made-up values.
// Where the times of two sources are apart, the time between them does not count.
type Recording struct {
	Files    []string // what was read
	Buffer   bool     // from a gateway's buffer: what its dead-bands and on_change left out is not in it
	Skipped  int      // lines of no use: without a value or a time to trust, and aggregates; of the buffer, channels no longer configured
	channels *channels
	rows     []sample
	spans    []reach
	most     int // rows kept; of the buffer the newest
}

// sample is one reading.
type sample struct {
	at      int64 // Unix ms
	channel int32 // place in channels.all
	value   float64
}

type reach struct{ from, to int64 } // Unix ms

// channels are those of a configuration, one after the other.
type channels struct {
	all    []place
	byName map[string]int32
}

type place struct{ sensor, at int }

func channelsOf(c *config.Config) *channels {
	k := &channels{byName: map[string]int32{}}
	for i := range c.Sensors {
		for j := range c.Sensors[i].Channels {
			k.byName[c.Sensors[i].Full(c.Sensors[i].Channels[j].Name)] = int32(len(k.all))
			k.all = append(k.all, place{i, j})
		}
	}
	return k
}

// The bounds of recordings.
const (
	maxRows       = 4_000_000
	maxBufferRows = 500_000   // the newest: a small box may hold many more
	maxBytes      = 512 << 20 // of a file
	lastTime      = 253402300799999
)

// The columns that a recording has. Others, as homeward buffer export writes them, may stand beside these.
var columns = []string{"t_ms", "channel", "value"}

const wantHeader = "want a first line with the columns t_ms,channel,value"

// NewRecording is an empty one of the channels of c.
func NewRecording(c *config.Config) *Recording {
	return &Recording{channels: channelsOf(c), most: maxRows}
}

// ReadFile takes a CSV, or all .csv files of a folder. What is wrong with a line is told with file and line.
func (r *Recording) ReadFile(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	files := []string{path}
	if info.IsDir() {
		files = nil
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".csv") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 {
			return fmt.Errorf("%s: no .csv in it: want files with the columns %s", path, strings.Join(columns, ","))
		}
	}
	for _, name := range files {
		if err := r.readFile(name); err != nil {
			return err
		}
	}
	return nil
}

func (r *Recording) readFile(name string) error {
	if info, err := os.Stat(name); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := r.read(f, name); err != nil {
		return err
	}
	r.Files = append(r.Files, name)
	return nil
}

// ReadBuffer takes what homeward buffer export writes as CSV.
func (r *Recording) ReadBuffer(in io.Reader) error {
	r.Buffer, r.most = true, maxBufferRows
	return r.read(in, "buffer")
}

func (r *Recording) read(in io.Reader, name string) error {
	limited := &io.LimitedReader{R: in, N: maxBytes}
	if r.Buffer {
		limited.N = math.MaxInt64
	}
	text := bufio.NewReaderSize(limited, 64<<10)
	if mark, _ := text.Peek(3); string(mark) == "\ufeff" {
		_, _ = text.Discard(3)
	}
	lines := csv.NewReader(text)
	lines.FieldsPerRecord, lines.ReuseRecord = -1, true
	var at [3]int
	quality, width, line := -1, 0, 1
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s", name, line, fmt.Sprintf(format, args...))
	}
	span := reach{math.MaxInt64, math.MinInt64}
	for first := true; ; first = false {
		fields, err := lines.Read()
		var parse *csv.ParseError
		switch {
		case limited.N <= 0:
			return fmt.Errorf("%s: longer than %d MiB: split it, or take a part", name, maxBytes>>20)
		case errors.Is(err, io.EOF) && first:
			return bad("empty: %s", wantHeader)
		case errors.Is(err, io.EOF):
			if span.from <= span.to {
				r.spans = append(r.spans, span)
			} else if !r.Buffer {
				return bad("no readings: want at least one below the first line")
			}
			return nil
		case errors.As(err, &parse):
			line = parse.Line
			return bad("not CSV: %v", parse.Err)
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		}
		line, _ = lines.FieldPos(0)
		if first {
			for i, c := range columns {
				if at[i] = slices.Index(fields, c); at[i] < 0 {
					return bad("%s: %s", quote(strings.Join(fields, ",")), wantHeader)
				}
			}
			quality, width = slices.Index(fields, "quality"), len(fields)
			continue
		}
		if len(fields) != width {
			return bad("%s: %d fields: want %d, as the first line has", quote(strings.Join(fields, ",")), len(fields), width)
		}
		ms, err := strconv.ParseInt(fields[at[0]], 10, 64)
		if err != nil || ms < 0 || ms > lastTime {
			return bad("t_ms %s: want Unix time in whole ms, to the year 9999", quote(fields[at[0]]))
		}
		channel, known := r.channels.byName[fields[at[1]]]
		aggregate := quality >= 0 && fields[quality] == drivers.Aggregate.String() // of a channel of its own, which no configuration names
		if !known && !r.Buffer && !aggregate {
			return bad("channel %s: the configuration names no such channel: want the full name of one of its channels, sensor/channel%s", quote(fields[at[1]]), r.example())
		}
		if fields[at[2]] == "" { // an instrument that did not answer: no reading
			r.Skipped++
			continue
		}
		v, err := strconv.ParseFloat(fields[at[2]], 64)
		if err != nil || drivers.CheckValue(v) != nil || strings.ContainsAny(fields[at[2]], "xX_") {
			return bad("value %s: want a decimal number as a reading may be", quote(fields[at[2]]))
		}
		if aggregate || quality >= 0 && fields[quality] == drivers.StaleClock.String() || !known {
			r.Skipped++
			continue
		}
		if len(r.rows) >= r.most {
			if !r.Buffer {
				return bad("too many readings: want at most %d", r.most)
			}
			copy(r.rows, r.rows[r.most/2:])
			r.rows = r.rows[:r.most-r.most/2]
			span.from = r.rows[0].at
		}
		span.from, span.to = min(span.from, ms), max(span.to, ms)
		r.rows = append(r.rows, sample{ms, channel, v})
	}
}

func (r *Recording) example() string {
	for name, i := range r.channels.byName {
		if i == 0 {
			return ", such as " + name
		}
	}
	return ""
}

// quote shows a text that may be anything.
func quote(s string) string {
	if len(s) > 60 {
		return strconv.Quote(strings.ToValidUTF8(s[:60], "")) + "…"
	}
	return strconv.Quote(s)
}

// tape is a recording made ready: its spans of time joined, so that it can be played again and again.
type tape struct {
	rows   []sample // in order of time, sensor by sensor; at least two
	length time.Duration
	loop   int64 // ms from one beginning to the next: whole seconds, so that times keep their place on a grid
	of     []bool
	idle   int // readings of sensors that are disabled: left out
}

// wind joins the spans.
func (r *Recording) wind(c *config.Config) (*tape, error) {
	k := r.channels
	t := &tape{of: make([]bool, len(c.Sensors))}
	r.rows = slices.DeleteFunc(r.rows, func(x sample) bool {
		idle := c.Sensors[k.all[x.channel].sensor].Disabled
		t.idle += flag(idle)
		return idle
	})
	slices.SortStableFunc(r.rows, func(a, b sample) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(k.all[a.channel].sensor, k.all[b.channel].sensor))
	})
	spans := slices.Clone(r.spans)
	slices.SortFunc(spans, func(a, b reach) int { return cmp.Compare(a.from, b.from) })
	joined := spans[:0]
	for _, s := range spans {
		if n := len(joined); n > 0 && s.from <= joined[n-1].to {
			joined[n-1].to = max(joined[n-1].to, s.to)
		} else {
			joined = append(joined, s)
		}
	}
	// A poll stands for the time until the next: so much is added to each span.
	instants := make([]int, len(c.Sensors))
	before := make([]int64, len(c.Sensors))
	for _, x := range r.rows {
		s := k.all[x.channel].sensor
		if t.of[s] = true; instants[s] == 0 || x.at != before[s] {
			instants[s]++
			before[s] = x.at
		}
	}
	total := int64(0)
	for _, s := range joined {
		total += s.to - s.from
	}
	most := 0
	for _, n := range instants {
		most = max(most, n)
	}
	if most <= len(joined) || total == 0 {
		return nil, fmt.Errorf("ledger: the recording has too little: want a sensor's readings of at least two times (%d readings there)", len(r.rows))
	}
	pause := total / int64(most-len(joined))
	if most := 10 * 366 * 24 * time.Hour; total+pause*int64(len(joined)) > most.Milliseconds() {
		return nil, fmt.Errorf("ledger: the recording goes from %s to %s: want at most ten years; is there a clock that was not set?",
			time.UnixMilli(joined[0].from).UTC().Format(time.DateOnly), time.UnixMilli(joined[len(joined)-1].to).UTC().Format(time.DateOnly))
	}
	t.length = time.Duration(total+pause*int64(len(joined))) * time.Millisecond
	seconds := func(ms int64) int64 { return (ms + 999) / 1000 * 1000 }
	shift, at := int64(0), 0
	for i, s := range joined {
		if i > 0 { // as if it followed on the one before
			shift += seconds(joined[i-1].to-joined[i-1].from+pause) - (s.from - joined[i-1].from - (s.from-joined[i-1].from)%1000)
		}
		for ; at < len(r.rows) && r.rows[at].at <= s.to; at++ {
			x := r.rows[at]
			x.at += shift
			t.rows = append(t.rows, x)
		}
		if i == len(joined)-1 {
			t.loop = seconds(t.rows[len(t.rows)-1].at - t.rows[0].at + pause)
		}
	}
	return t, nil
}

// cut gives the first readings of a tape, of share at most and at most so many, for a schema to learn from, and the rest to measure with.
func (t *tape) cut(share float64, most int) (lesson, rest *tape) {
	n := min(int(share*float64(len(t.rows))), most)
	for n > 0 && n < len(t.rows) && t.rows[n].at == t.rows[n-1].at {
		n++
	}
	if n == 0 || n == len(t.rows) {
		return t, t
	}
	gone := t.rows[n].at - t.rows[0].at
	return &tape{rows: t.rows[:n], loop: t.loop, of: t.of}, &tape{rows: t.rows[n:], loop: max(1000, t.loop-gone/1000*1000), of: t.of}
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Empty says that nothing was read.
func (r *Recording) Empty() bool { return len(r.rows) == 0 }
