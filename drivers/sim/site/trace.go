package site

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"homeward/configs/plainyaml"
)

// The bounds of a trace's file.
const (
	maxTraceBytes = 64 << 20
	maxTraceRows  = 2_000_000
	maxTraces     = 16 // files of one site
)

// trace is one channel of a recorded file: steps.
type trace struct {
	ms    []float64 // since the file's first row, rising
	value []float64
	end   float64 // of the file: its last row, and once more the channel's mean interval, so that a loop does not stumble
}

// at is the value at a time since the file's first row: the last one that is not later, or the first one.
func (t *trace) at(ms float64) float64 {
	i := sort.Search(len(t.ms), func(i int) bool { return t.ms[i] > ms })
	return t.value[max(0, i-1)]
}

func (t *trace) span() float64 { return t.end }

func (t *trace) bounds() (low, high float64) { return slices.Min(t.value), slices.Max(t.value) }

const traceHeader = "t_ms,channel,value"

// readTrace reads the CSV of a recording: t_ms,channel,value, sorted by time.
func readTrace(r io.Reader) (map[string]*trace, error) {
	limited := &io.LimitedReader{R: r, N: maxTraceBytes + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 4096), 4096)
	all := map[string]*trace{}
	first, last, n, headed := 0.0, math.Inf(-1), 0, false
	for lines.Scan() {
		n++
		text := strings.TrimSuffix(lines.Text(), "\r")
		bad := func(format string, args ...any) error {
			return fmt.Errorf("line %d: %s", n, fmt.Sprintf(format, args...))
		}
		if n == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if !headed {
			if text != traceHeader {
				return nil, bad("%s: want the header %s", plainyaml.Quote(text), traceHeader)
			}
			headed = true
			continue
		}
		if n > maxTraceRows {
			return nil, bad("too many: want at most %d rows", maxTraceRows)
		}
		parts := strings.Split(text, ",")
		if len(parts) != 3 || parts[1] == "" {
			return nil, bad("%s: want %s", plainyaml.Quote(text), traceHeader)
		}
		ms, err := strconv.ParseInt(parts[0], 10, 64)
		if err != nil || float64(ms) < last {
			return nil, bad("t_ms %s: want Unix time in ms, not before the line above", plainyaml.Quote(parts[0]))
		}
		v, err := strconv.ParseFloat(parts[2], 64)
		if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, bad("value %s: want a number", plainyaml.Quote(parts[2]))
		}
		if last = float64(ms); len(all) == 0 {
			first = last
		}
		t := all[parts[1]]
		if t == nil {
			t = &trace{}
			all[strings.Clone(parts[1])] = t
		}
		t.ms, t.value = append(t.ms, last-first), append(t.value, v)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("longer than %d bytes", maxTraceBytes)
	}
	if len(all) == 0 {
		return nil, errors.New("no rows: want at least one below " + traceHeader)
	}
	for _, t := range all {
		t.end = last - first
		if k := len(t.ms); k > 1 {
			t.end += (t.ms[k-1] - t.ms[0]) / float64(k-1)
		}
	}
	return all, nil
}

// traceWave reads {file, channel, loop, speed}. The file's name is relative to the site's.
func (p *parse) traceWave(x node) wave {
	w := wave{kind: "trace", incomplete: true}
	f, ok := x.mapping("file", "channel", "loop", "speed")
	if !ok {
		return w
	}
	w.loop = f.at("loop").truth(true)
	w.speed = f.at("speed").number(ptr(1.0))
	if w.speed <= 0 {
		f.at("speed").bad("a number above 0: how many times faster than recorded")
	}
	name, ok1 := f.at("file").text("the name of a CSV file (" + traceHeader + ")")
	channel, ok2 := f.at("channel").text("a channel of the file")
	if !ok1 || !ok2 {
		return w
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(p.dir, name)
	}
	got, ok := p.traces[name]
	if !ok {
		if len(p.traces) >= maxTraces {
			f.at("file").bad("at most %d files", maxTraces)
			return w
		}
		got.channels, got.err = p.openTrace(name)
		p.traces[name] = got
	}
	if got.err != nil {
		f.at("file").wrong(plainyaml.Quote(name)+": "+got.err.Error(), "")
		return w
	}
	if w.trace = got.channels[channel]; w.trace == nil {
		var have []string
		for c := range got.channels {
			have = append(have, c)
		}
		slices.Sort(have)
		if len(have) > 20 {
			have = append(have[:20], "…")
		}
		f.at("channel").bad("one of the file's: %s", strings.Join(have, ", "))
		return w
	}
	w.low, w.high = w.trace.bounds()
	w.incomplete = false
	return w
}

type traceFile struct {
	channels map[string]*trace
	err      error
}

// openFile opens a trace.
func openFile(name string) (io.ReadCloser, error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() { // a pipe would hold us up
		return nil, errors.New("not a file")
	}
	return os.Open(name)
}

func (p *parse) openTrace(name string) (map[string]*trace, error) {
	f, err := p.open(name)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err // the name stands before
		}
		return nil, err
	}
	defer f.Close()
	return readTrace(f)
}

func ptr[T any](v T) *T { return &v }
