// Package nmea reads instruments that speak NMEA 0183: satellite receivers, echo sounders, wind and weather
// instruments, compasses.
//
// What it promises: a reading comes from one sentence that was received whole, with a right checksum and fields of the right form, and is
// not older than about a second when Read returns. Latitude and longitude come from the same sentence. A
// receiver without a fix gives no position, and the error says so, while satellites and quality are still
// readings. Noise, torn and foreign sentences, and tag blocks are skipped.
//
// What it cannot know: the checksum is eight bits of exclusive or. It finds every damage of one byte; of a sentence with several damaged
// bytes, one in 256 passes, less those whose fields are of the wrong form. Which instrument said a sentence: where several give a
// quantity, the newest counts.
//
// Sentences are parsed by github.com/adrianmo/go-nmea, which takes empty positions for 0° 0′, and NaN and Inf for numbers: fields are
// checked here first. Sources: gpsd's "NMEA Revealed" (gpsd.gitlab.io/gpsd/NMEA.html) and go-nmea's documentation.
package nmea

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"homeward/drivers"
	"homeward/drivers/line"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name:    "nmea",
	Summary: "NMEA 0183 over a serial port or TCP: position, depth, wind, temperatures, heading",
	New:     func(string) drivers.Options { return &Options{} },
}

// The defaults of [Options].
const (
	DefaultLine     = "4800-8N1" // gpsd, "NMEA Revealed": NMEA 0183 is 4800 bits per second, 8 data bits, no parity, one stop bit
	DefaultPatience = 3 * time.Second
)

const (
	// current is how old a value may be that waits for others: a second, and what an epoch may be late.
	current = line.Fresh + 100*time.Millisecond
	// pause ends a burst.
	pause = 200 * time.Millisecond
	// maxLine is a sentence and the tag block before it.
	maxLine    = 2 * maxSentence
	maxTalkers = 8
)

// Options is the configuration of one instrument, or of several on one line.
type Options struct {
	line.Source `yaml:",inline"`
	Wind        string    `yaml:"wind,omitempty" enum:"relative,true" doc:"reference of wind-speed and wind-angle: relative (default) or true"`
	Heading     string    `yaml:"heading,omitempty" enum:"true,magnetic" doc:"north of heading: true (default) or magnetic"`
	Chans       []Channel `yaml:"channels,omitempty" doc:"quantities to record, default latitude, longitude, altitude, speed, course, satellites, quality and hdop"`
}

// Channel is one quantity; its name says which.
type Channel struct {
	drivers.Channel `yaml:",inline"`
}

// quantities with their units; the first ones are the default.
var quantities = []struct {
	name   string
	unit   drivers.Unit
	source string
}{
	{"latitude", "lat", "RMC, GGA, GNS or GLL"},
	{"longitude", "lon", "RMC, GGA, GNS or GLL"},
	{"altitude", "m", "GGA or GNS"},
	{"speed", "m/s", "RMC or VTG"},
	{"course", "deg", "RMC or VTG"},
	{"satellites", "count", "GGA or GNS"},
	{"quality", "", "GGA"},
	{"hdop", "", "GGA or GNS"},
	{"depth", "m", "DPT or DBT"},
	{"wind-speed", "m/s", "MWV"},
	{"wind-angle", "deg", "MWV"},
	{"water-temperature", "Cel", "MTW or MDA"},
	{"air-temperature", "Cel", "XDR, MDA or MTA"},
	{"heading", "deg", "HDT, THS, HDM or HDG"},
}

const defaults = 8

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	var faults []drivers.Fault
	fault := func(path string, bad any, want string) {
		faults = append(faults, drivers.Fault{Path: path, Bad: bad, Want: want})
	}
	o.CheckSource(fault, DefaultLine)
	switch o.Wind {
	case "":
		o.Wind = "relative"
	case "relative", "true":
	default:
		fault("wind", o.Wind, "relative or true")
	}
	switch o.Heading {
	case "":
		o.Heading = "true"
	case "true", "magnetic":
	default:
		fault("heading", o.Heading, "true or magnetic")
	}
	if len(o.Chans) == 0 {
		for _, q := range quantities[:defaults] {
			o.Chans = append(o.Chans, Channel{drivers.Channel{Name: q.name}})
		}
	}
	seen := map[string]bool{}
	for i := range o.Chans {
		c := &o.Chans[i]
		at := slices.IndexFunc(quantities, func(q struct {
			name   string
			unit   drivers.Unit
			source string
		}) bool {
			return q.name == c.Name
		})
		path := fmt.Sprintf("channels[%d].", i)
		switch {
		case at < 0:
			var names []string
			for _, q := range quantities {
				names = append(names, q.name)
			}
			var bad any
			if c.Name != "" {
				bad = c.Name
			}
			fault(path+"name", bad, "one of "+strings.Join(names, ", "))
			continue
		case seen[c.Name]:
			fault(path+"name", c.Name, "each quantity once")
		}
		seen[c.Name] = true
		unit := quantities[at].unit
		if c.Unit == nil {
			c.Unit = &unit
		} else if *c.Unit != unit {
			fault(path+"unit", string(*c.Unit), fmt.Sprintf("%q, or nothing", unit))
		}
	}
	return faults
}

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel {
	list := make([]drivers.Channel, len(o.Chans))
	for i, c := range o.Chans {
		list[i] = c.Channel
	}
	return list
}

// Patience implements [drivers.Talker].
func (o *Options) Patience() time.Duration { return DefaultPatience }

// Open implements [drivers.Options]. An instrument speaks when it likes, so nothing is waited for before the first Read.
func (o *Options) Open(_ context.Context, env drivers.Env) (drivers.Sensor, error) {
	s, err := o.open(env, time.Now)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (o *Options) open(env drivers.Env, now func() time.Time) (*Sensor, error) {
	if faults := o.Check(); len(faults) > 0 {
		f := faults[0]
		return nil, fmt.Errorf("nmea: %w: %s: %v, want %s", drivers.ErrWrong, f.Path, f.Bad, f.Want)
	}
	return &Sensor{
		channels: o.Channels(), wind: map[string]string{"relative": "R", "true": "T"}[o.Wind], magnetic: o.Heading == "magnetic",
		reader: line.SharedReader(env, maxLine, "", now), timeout: env.Timeout, now: now, inView: map[string]int{},
	}, nil
}

// Sensor is what speaks on one line.
type Sensor struct {
	channels []drivers.Channel
	wind     string
	magnetic bool
	reader   *line.Reader
	timeout  time.Duration
	now      func() time.Time
	inView   map[string]int // satellites, by talker; for messages alone
}

// Close implements [drivers.Sensor].
func (s *Sensor) Close() error { return nil }

// heard is what a quantity was said to be.
type heard struct {
	value float64
	void  string // why there is none
	from  string // address of the sentence
	at    time.Time
}

// poll is one Read under way.
type poll struct {
	*Sensor
	heard   map[string]heard
	kinds   map[string]bool // addresses of good sentences
	refused int             // sentences that failed their check
	last    []byte          // the last line without a good sentence
	why     error
}

// Read implements [drivers.Sensor]. Errors wrap [drivers.ErrTimeout] where nothing came, [drivers.ErrCheck] too where no
// sentence did, [drivers.ErrCheck] alone where no good one did, and [drivers.ErrValue] for quantities that the instrument did not give, or said not to know.
func (s *Sensor) Read(ctx context.Context) ([]drivers.Reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("nmea: %w", err)
	}
	if err := s.reader.Begin(); err != nil {
		return nil, fmt.Errorf("nmea: %w", err)
	}
	defer s.reader.End()
	p := &poll{Sensor: s, heard: map[string]heard{}, kinds: map[string]bool{}}
	deadline := s.now().Add(s.timeout)
	// What waits already is taken first, so that the newest counts.
	for until, waited := s.now(), false; ; {
		text, err := s.reader.Next(ctx, until)
		switch {
		case err == nil:
			p.take(text)
			if !waited { // there may be more
				continue
			}
		case !errors.Is(err, drivers.ErrTimeout):
			return nil, fmt.Errorf("nmea: %w", err)
		case waited && (!until.Before(deadline) || p.missing(false) == 0):
			return p.result()
		}
		waited = true
		if p.missing(true) == 0 {
			return p.result()
		}
		// Where only a quantity without a value is missing the burst may still bring one.
		until = deadline
		if soon := s.now().Add(pause); p.missing(false) == 0 && soon.Before(deadline) {
			until = soon
		}
		if !s.now().Before(deadline) {
			return p.result()
		}
	}
}

// take hears one line.
func (p *poll) take(text line.Text) {
	raw, ok := isolate(text.Bytes)
	if !ok {
		p.last = text.Bytes
		return
	}
	said, err := decode(raw, p.wind, p.magnetic)
	if err != nil {
		p.refused++
		p.last, p.why = text.Bytes, err
		return
	}
	if len(p.kinds) < 64 {
		p.kinds[said.address] = true
	}
	if said.inView >= 0 {
		if _, ok := p.inView[said.address]; ok || len(p.inView) < maxTalkers {
			p.inView[said.address] = said.inView
		}
	}
	for q, v := range said.values {
		p.heard[q] = heard{value: v, from: said.address, at: text.At}
	}
	for _, q := range said.void {
		// Another sentence's value stands, until it is old.
		if h, ok := p.heard[q]; !ok || h.void != "" || h.from == said.address || p.now().Sub(h.at) > current {
			p.heard[q] = heard{void: said.why, from: said.address, at: text.At}
		}
	}
}

// missing counts the channels without a current value; with void ones, or without.
func (p *poll) missing(void bool) (n int) {
	now := p.now()
	for _, c := range p.channels {
		h, ok := p.heard[c.Name]
		if !ok || now.Sub(h.at) > current || void && h.void != "" {
			n++
		}
	}
	return n
}

// silentError is a time without a good sentence.
type silentError struct {
	text    string
	came    bool
	refused bool // whole sentences came: it is not silent
}

func (e *silentError) Error() string { return e.text }

func (e *silentError) Is(target error) bool {
	return target == drivers.ErrTimeout && !e.refused || target == drivers.ErrCheck && e.came
}

func (p *poll) result() ([]drivers.Reading, error) {
	if len(p.kinds) == 0 {
		return nil, fmt.Errorf("nmea: %w", p.silence())
	}
	var readings []drivers.Reading
	var errs []string
	reasons := map[string][]string{}
	var order []string
	now := p.now()
	for _, c := range p.channels {
		h, ok := p.heard[c.Name]
		reason := ""
		switch {
		case !ok:
			reason = "no " + source(c.Name)
		case now.Sub(h.at) > current:
			reason = h.from + " came too long before the others"
		case h.void == blank && c.Name == "course":
			continue // receivers leave it blank while they do not move
		case h.void == noFixYet:
			reason = noFixYet
		case h.void != "":
			reason = h.void + " by " + h.from
		default:
			readings = append(readings, drivers.Reading{Channel: c.Name, Value: h.value, Unit: *c.Unit})
			continue
		}
		if reasons[reason] == nil {
			order = append(order, reason)
		}
		reasons[reason] = append(reasons[reason], c.Name)
	}
	for _, reason := range order {
		names := strings.Join(reasons[reason], ", ")
		if reason == noFixYet {
			reason += ": " + p.satellites()
		}
		errs = append(errs, fmt.Sprintf("%s: %s", names, reason))
	}
	if errs == nil {
		return readings, nil
	}
	text := strings.Join(errs, "; ")
	if len(reasons) > 1 || reasons[noFixYet] == nil {
		kinds := slices.Sorted(maps.Keys(p.kinds))
		more := ""
		if len(kinds) > 12 {
			kinds, more = kinds[:12], " …"
		}
		text += fmt.Sprintf(" (in %v came %s%s)", p.timeout, strings.Join(kinds, " "), more)
	}
	return readings, fmt.Errorf("nmea: %w: %s", drivers.ErrValue, text)
}

func source(name string) string {
	for _, q := range quantities {
		if q.name == name {
			return q.source
		}
	}
	return "sentence"
}

// satellites says how many are in view, as far as GSV told.
func (p *poll) satellites() string {
	if len(p.inView) == 0 {
		return "the receiver does not say how many satellites are in view"
	}
	sum := 0
	for _, n := range p.inView {
		sum += n
	}
	return fmt.Sprintf("%d satellites in view", sum)
}

func (p *poll) silence() error {
	e := &silentError{came: p.reader.Received > 0, text: fmt.Sprintf("%v (%v)", drivers.ErrTimeout, p.timeout)}
	switch {
	case p.refused > 0:
		sentences := "one sentence"
		if p.refused > 1 {
			sentences = fmt.Sprintf("%d sentences", p.refused)
		}
		e.refused = true
		e.text = fmt.Sprintf("%v: in %v came %s, and no good one, the last one %s: %v", drivers.ErrCheck, p.timeout, sentences, line.Printable(p.last), p.why)
	case p.last != nil:
		e.text += fmt.Sprintf(": no NMEA 0183 sentence came, but %s; is line (the rate) right?", line.Printable(p.last))
	case e.came:
		e.text += fmt.Sprintf(": %d bytes came without the end of a line; is line (the rate) right?", p.reader.Received)
	}
	return e
}
