// Package truth is what a simulated site says that it did, as a file, and the comparison of that file with what
// reached the other end.
//
// The file is JSON lines: a site first, its sensors, then each value that was handed out and each beginning and end of a fault as
// they happened, and an end. [Read] refuses whatever it does not know, in bounded memory; [Verify] says of each
// reading that arrived whether the site served it, and of each that did not whether something explains that. It
// loses nothing that matters: findings beyond the first few of a kind are counted and not described.
package truth

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Version of the file that this release writes and reads.
const Version = 1

// Site begins the file.
type Site struct {
	Version int   `json:"version"`
	TimeMS  int64 `json:"t_ms"` // Unix ms
	// OffsetMS is how far the site's clock, which is the gateway's, is ahead of t_ms everywhere in the file.
	OffsetMS int64 `json:"offset_ms,omitempty"`
	// Untrusted: the site's clock does not count as synchronised.
	Untrusted bool `json:"untrusted,omitempty"`
}

// Sensor is one instrument.
type Sensor struct {
	Name     string    `json:"sensor"`
	Driver   string    `json:"driver"`
	EveryMS  int64     `json:"every_ms"`
	Talks    bool      `json:"talks"` // unasked
	Channels []Channel `json:"channels"`
	// Bus is what it sits on, alone or with others, who then wait for each other; empty where that is not known.
	Bus string `json:"bus,omitempty"`
	// AnswerMS is how long after the beginning of a poll it may hand out a value, the instrument being set up anew included; of one
	// that talks, how long after a value it may have said all.
	AnswerMS int64 `json:"answer_ms,omitempty"`
}

// Channel is one quantity of a sensor.
type Channel struct {
	Name      string  `json:"name"` // without the sensor's
	Unit      string  `json:"unit"`
	Tolerance float64 `json:"tolerance"` // how far a right gateway's value may lie from the one served
}

// Served is a value on its way to the gateway.
type Served struct {
	TimeMS  int64   `json:"t_ms"`
	Channel string  `json:"channel"` // sensor/channel
	Value   float64 `json:"value"`
}

// Fault is the beginning or the end of one.
type Fault struct {
	TimeMS  int64    `json:"t_ms"`
	On      string   `json:"on"`
	Sensors []string `json:"sensors"` // that it concerns
	Fault   string   `json:"fault"`
	State   string   `json:"state"` // begin or end
	// OffsetMS is the clock's from now on; of a fault on the clock only.
	OffsetMS  int64 `json:"offset_ms,omitempty"`
	Untrusted bool  `json:"untrusted,omitempty"` // the clock, from now on
}

// OnClock is what a fault of the clock is on.
const OnClock = "clock"

// End ends the file; one that was cut off has none.
type End struct {
	TimeMS int64 `json:"t_ms"`
}

// Writer writes the file. It is not safe for use by several goroutines.
type Writer struct{ w *bufio.Writer }

// NewWriter begins the file.
func NewWriter(w io.Writer) *Writer { return &Writer{bufio.NewWriterSize(w, 64<<10)} }

// Write writes a [Site], [Sensor], [Served], [Fault] or [End].
func (w *Writer) Write(record any) error {
	kind := ""
	switch record.(type) {
	case Site:
		kind = "site"
	case Sensor:
		kind = "sensor"
	case Served:
		kind = "served"
	case Fault:
		kind = "fault"
	case End:
		kind = "end"
	default:
		return fmt.Errorf("truth: a %T: want a Site, Sensor, Served, Fault or End", record)
	}
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("truth: %w", err)
	}
	_, err = fmt.Fprintf(w.w, `{"kind":%q,%s`+"\n", kind, text[1:])
	return err
}

// Flush writes what is still in memory.
func (w *Writer) Flush() error { return w.w.Flush() }

// The bounds of a file.
const (
	maxLine     = 1 << 20 // bytes
	maxSensors  = 1000
	maxChannels = 20_000 // of all sensors
	maxFaults   = 100_000
	maxServed   = 50_000_000
	maxName     = 255
	maxEveryMS  = 7 * 24 * 3600 * 1000
	maxTimeMS   = 253402300799999 // the year 9999
)

// Reader takes what [Read] finds, in the file's order. What it is given has been checked.
type Reader struct {
	Site   func(Site) error
	Sensor func(Sensor) error
	Served func(Served) error
	Fault  func(Fault) error
}

// Read reads a file to its end, and says whether it has one: the file of a simulator that was killed is cut off, perhaps
// within its last line.
func Read(in io.Reader, to Reader) (complete bool, err error) {
	r := state{to: to, channels: map[string]bool{}, sensors: map[string]bool{}}
	lines := bufio.NewReaderSize(in, 64<<10)
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) { // what follows the last newline is cut off
			if !r.begun {
				return false, fmt.Errorf("truth: no site in it: want a file that homeward-simulate has written with --truth")
			}
			return r.ended, nil
		}
		if err == nil {
			err = r.take(line)
		}
		if err != nil {
			return false, fmt.Errorf("truth: line %d: %w", n, err)
		}
	}
}

// readLine reads a whole line; io.EOF where there is none.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		}
		if err == nil && line == nil {
			return part, nil // valid until the next read
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// strict decodes one line into v, whose keys are all that there may be.
func strict(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value: want one a line")
	}
	return checkKeys(line)
}

// checkKeys sees that no key stands twice, and that each is spelled as it should be: [json] takes VALUE for value, and the last
// of two.
func checkKeys(line []byte) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	type level struct {
		object, value bool // a value comes next
		keys          []string
	}
	var levels []level
	for {
		token, err := d.Token()
		if err != nil {
			return nil // the end, which has been looked at
		}
		top := len(levels) - 1
		if key, ok := token.(string); ok && top >= 0 && levels[top].object && !levels[top].value {
			l := &levels[top]
			if strings.ContainsFunc(key, func(c rune) bool { return c != '_' && (c < 'a' || c > 'z') }) {
				return fmt.Errorf("key %q: want small letters", shorten(key))
			}
			if slices.Contains(l.keys, key) {
				return fmt.Errorf("key %q: want it once", shorten(key))
			}
			l.keys, l.value = append(l.keys, key), true
			continue
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			levels = levels[:top]
			continue
		}
		if top >= 0 {
			levels[top].value = false
		}
		if token == json.Delim('{') || token == json.Delim('[') {
			levels = append(levels, level{object: token == json.Delim('{')})
		}
	}
}

// state is where in a file we are.
type state struct {
	to           Reader
	begun, ended bool
	sensors      map[string]bool
	channels     map[string]bool
	faults       int
	served       int
}

func (r *state) take(line []byte) error {
	var head struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	switch {
	case r.ended:
		return errors.New("something after the end")
	case !r.begun && head.Kind != "site":
		return fmt.Errorf("kind %q: want site first", head.Kind)
	}
	type kind struct {
		Kind string `json:"kind"`
	}
	switch head.Kind {
	case "site":
		var v struct {
			kind
			Site
		}
		if err := strict(line, &v); err != nil {
			return err
		}
		if r.begun {
			return errors.New("a second site: want one file for each run of a site")
		}
		if v.Version != Version {
			return fmt.Errorf("version %d: want %d", v.Version, Version)
		}
		r.begun = true
		return errors.Join(checkTime(v.TimeMS), checkOffset(v.OffsetMS), call(r.to.Site, v.Site))
	case "sensor":
		var v struct {
			kind
			Sensor
		}
		if err := strict(line, &v); err != nil {
			return err
		}
		if err := r.sensor(v.Sensor); err != nil {
			return err
		}
		return call(r.to.Sensor, v.Sensor)
	case "served":
		var v struct {
			kind
			Served
		}
		if err := strict(line, &v); err != nil {
			return err
		}
		if r.served++; r.served > maxServed {
			return fmt.Errorf("more than %d values", maxServed)
		}
		if !r.channels[v.Channel] {
			return fmt.Errorf("channel %q: want one that a sensor above has", shorten(v.Channel))
		}
		if err := checkTime(v.TimeMS); err != nil {
			return err
		}
		return call(r.to.Served, v.Served)
	case "fault":
		var v struct {
			kind
			Fault
		}
		if err := strict(line, &v); err != nil {
			return err
		}
		if err := r.fault(v.Fault); err != nil {
			return err
		}
		return call(r.to.Fault, v.Fault)
	case "end":
		var v struct {
			kind
			End
		}
		if err := strict(line, &v); err != nil {
			return err
		}
		r.ended = true
		return checkTime(v.TimeMS)
	}
	return fmt.Errorf("kind %q: want site, sensor, served, fault or end", shorten(head.Kind))
}

func call[T any](f func(T) error, v T) error {
	if f == nil {
		return nil
	}
	return f(v)
}

func (r *state) sensor(s Sensor) error {
	switch {
	case !isName(s.Name) || strings.Contains(s.Name, "/"):
		return fmt.Errorf("sensor %q: want a name without a slash", shorten(s.Name))
	case r.sensors[s.Name]:
		return fmt.Errorf("sensor %s: want each once", s.Name)
	case len(r.sensors) >= maxSensors:
		return fmt.Errorf("more than %d sensors", maxSensors)
	case s.EveryMS < 1 || s.EveryMS > maxEveryMS:
		return fmt.Errorf("sensor %s: every_ms %d: want 1 to %d", s.Name, s.EveryMS, maxEveryMS)
	case s.AnswerMS < 0 || s.AnswerMS > maxEveryMS:
		return fmt.Errorf("sensor %s: answer_ms %d: want 0 to %d", s.Name, s.AnswerMS, maxEveryMS)
	case len(s.Bus) > maxName:
		return fmt.Errorf("sensor %s: bus %q: want a name", s.Name, shorten(s.Bus))
	}
	r.sensors[s.Name] = true
	for _, c := range s.Channels {
		full := s.Name + "/" + c.Name
		switch {
		case !isName(c.Name):
			return fmt.Errorf("sensor %s: channel %q: want a name", s.Name, shorten(c.Name))
		case r.channels[full]:
			return fmt.Errorf("channel %s: want each once", full)
		case len(r.channels) >= maxChannels:
			return fmt.Errorf("more than %d channels", maxChannels)
		case c.Tolerance < 0 || math.IsInf(c.Tolerance, 0):
			return fmt.Errorf("channel %s: tolerance %g: want 0 or more", full, c.Tolerance)
		}
		r.channels[full] = true
	}
	return nil
}

func (r *state) fault(f Fault) error {
	if r.faults++; r.faults > maxFaults {
		return fmt.Errorf("more than %d faults", maxFaults)
	}
	if f.State != "begin" && f.State != "end" {
		return fmt.Errorf("state %q of a fault: want begin or end", shorten(f.State))
	}
	if !isName(f.On) || !isName(f.Fault) || len(f.Sensors) > maxSensors {
		return fmt.Errorf("fault %q on %q: want names", shorten(f.Fault), shorten(f.On))
	}
	for _, s := range f.Sensors {
		if !r.sensors[s] {
			return fmt.Errorf("fault on sensor %q: want one that stands above", shorten(s))
		}
	}
	return errors.Join(checkTime(f.TimeMS), checkOffset(f.OffsetMS))
}

func isName(s string) bool { return s != "" && len(s) <= maxName }

func checkTime(ms int64) error {
	if ms < 0 || ms > maxTimeMS {
		return fmt.Errorf("t_ms %d: want Unix milliseconds up to the year 9999", ms)
	}
	return nil
}

func checkOffset(ms int64) error {
	if ms < -maxTimeMS || ms > maxTimeMS {
		return fmt.Errorf("offset_ms %d: want at most %d", ms, int64(maxTimeMS))
	}
	return nil
}

// shorten keeps a strange text from filling a message.
func shorten(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}
