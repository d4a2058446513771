// Package line reads instruments that print: scales, meters, loggers, whatever sends lines of text over a
// serial port or a TCP connection. A regular expression with named groups says what a line looks like.
//
// What it promises: a reading comes from one line that was received whole, from terminator to terminator and without a pause, and
// that matches the pattern from its first to its last byte; it is at most about a second old. A line that does
// not match is counted and skipped, and is shown when no other comes in time. Where more lines wait than are asked
// for, the newest counts.
//
// What it cannot know: a line has no checksum, so a digit that became another digit on the way is a value like any
// other. Parity on the line (8E1, 7E1), a narrow pattern, and min and max are what helps.
package line

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"homeward/drivers"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name:    "line",
	Summary: "lines of text over a serial port or TCP, taken apart by a regular expression",
	New:     func(string) drivers.Options { return &Options{} },
}

// The defaults of [Options].
const (
	DefaultLine      = "9600-8N1"
	DefaultMaxLength = 256
	DefaultPatience  = 3 * time.Second
)

const maxPattern = 2000

// Options is the configuration of one instrument.
type Options struct {
	Source       `yaml:",inline"`
	Pattern      string    `yaml:"pattern" doc:"regular expression (Go, RE2) with named groups, such as (?P<weight>[-+ ][0-9. ]+)kg; it has to match the whole line"`
	Ask          string    `yaml:"ask,omitempty" doc:"what to send to get a line, such as \"P\\r\\n\"; without it the instrument talks by itself"`
	Separator    string    `yaml:"separator,omitempty" doc:"what ends a line, default CR, LF or both"`
	MaxLength    *int      `yaml:"max_length,omitempty" doc:"longest line, 8 to 4096 bytes, default 256"`
	DecimalComma bool      `yaml:"decimal_comma,omitempty" doc:"numbers are written 12,5 instead of 12.5"`
	UnitGroup    string    `yaml:"unit_group,omitempty" doc:"the group that holds the unit, for channels with units"`
	Chans        []Channel `yaml:"channels" doc:"what to read"`

	re *regexp.Regexp
}

// Channel is one number of a line.
type Channel struct {
	drivers.Channel `yaml:",inline"`
	Group           string   `yaml:"group,omitempty" doc:"the pattern's group that holds the number, default the channel's name"`
	UnitGroup       string   `yaml:"unit_group,omitempty" doc:"the group that holds this channel's unit, default the sensor's unit_group"`
	Scale           *float64 `yaml:"scale,omitempty" doc:"value = number × scale + offset, default 1"`
	Offset          float64  `yaml:"offset,omitempty" doc:"value = number × scale + offset, default 0"`
	Units           []Unit   `yaml:"units,omitempty" doc:"factor by the text of unit_group; a text that is not listed is an error"`
}

// Unit is what a unit is worth in the channel's own.
type Unit struct {
	Text   string  `yaml:"text" doc:"as the instrument prints it, such as kg"`
	Factor float64 `yaml:"factor" doc:"number × factor is in the channel's unit, such as 0.001 for g where that is kg"`
}

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	var faults []drivers.Fault
	fault := func(path string, bad any, want string) {
		faults = append(faults, drivers.Fault{Path: path, Bad: bad, Want: want})
	}
	o.CheckSource(fault, DefaultLine)
	o.re = nil
	switch {
	case o.Pattern == "":
		fault("pattern", nil, "a regular expression with a named group for each channel")
	case len(o.Pattern) > maxPattern:
		fault("pattern", fmt.Sprintf("%d bytes", len(o.Pattern)), fmt.Sprintf("at most %d bytes", maxPattern))
	default:
		if _, err := regexp.Compile(o.Pattern); err != nil {
			fault("pattern", o.Pattern, wrongPattern(o.Pattern, err))
		} else {
			o.re = regexp.MustCompile(`\A(?:` + o.Pattern + `)\z`)
		}
	}
	if len(o.Ask) > 64 {
		fault("ask", o.Ask, "at most 64 bytes")
	}
	if len(o.Separator) > 8 {
		fault("separator", o.Separator, "at most 8 bytes")
	}
	if o.MaxLength == nil {
		o.MaxLength = new(int)
		*o.MaxLength = DefaultMaxLength
	}
	if n := *o.MaxLength; n < 8 || n > 4096 {
		fault("max_length", n, "8 to 4096 bytes")
	}
	group := func(path, name string) {
		if o.re == nil || name == "" || o.re.SubexpIndex(name) >= 0 {
			return
		}
		names := slices.DeleteFunc(o.re.SubexpNames(), func(s string) bool { return s == "" })
		have := "none: name one (?P<" + name + ">…)"
		if len(names) > 0 {
			have = strings.Join(names, ", ")
		}
		fault(path, name, "a group of the pattern, which has "+have)
	}
	group("unit_group", o.UnitGroup)
	if len(o.Chans) == 0 {
		fault("channels", nil, "at least one channel")
	}
	for i := range o.Chans {
		c := &o.Chans[i]
		at := fmt.Sprintf("channels[%d].", i)
		if c.Group == "" {
			c.Group = c.Name
		}
		group(at+"group", c.Group)
		if c.UnitGroup == "" && c.Units != nil {
			c.UnitGroup = o.UnitGroup
		} else {
			group(at+"unit_group", c.UnitGroup)
		}
		switch {
		case c.Units != nil && c.UnitGroup == "":
			fault(at+"unit_group", nil, "the group that holds the unit, as there are units")
		case c.Units == nil && c.UnitGroup != "":
			fault(at+"units", nil, "the factor of each unit, such as {text: g, factor: 0.001}")
		}
		for j, u := range c.Units {
			path := fmt.Sprintf("%sunits[%d].", at, j)
			if u.Text != strings.TrimSpace(u.Text) || slices.ContainsFunc(c.Units[:j], func(v Unit) bool { return v.Text == u.Text }) {
				fault(path+"text", u.Text, "each unit once, without blanks around it")
			}
			if !factor(u.Factor) {
				fault(path+"factor", u.Factor, "a finite number other than 0")
			}
		}
		drivers.CheckScale(&c.Scale, c.Offset, func(key string, bad any, want string) { fault(at+key, bad, want) })
	}
	return faults
}

func factor(f float64) bool { return f != 0 && !math.IsNaN(f) && !math.IsInf(f, 0) }

// wrongPattern says where a pattern is wrong: the library names the part, not its place.
func wrongPattern(pattern string, err error) string {
	var e *syntax.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	at := strings.LastIndex(pattern, e.Expr)
	switch {
	case e.Code == syntax.ErrMissingParen || e.Code == syntax.ErrUnexpectedParen: // Expr is the whole pattern
		at = unbalanced(pattern)
	case e.Code == syntax.ErrTrailingBackslash:
		at = len(pattern) - 1
	case at < 0:
		at = 0
	}
	return fmt.Sprintf("a regular expression; at character %d: %s", len([]rune(pattern[:at]))+1, e.Code)
}

// unbalanced is where a parenthesis has no partner.
func unbalanced(pattern string) int {
	var open []int
	class := -1 // where a [ was
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '\\':
			i++
		case class >= 0:
			if c == ']' && i > class+1 && (i != class+2 || pattern[class+1] != '^') {
				class = -1
			}
		case c == '[':
			class = i
		case c == '(':
			open = append(open, i)
		case c == ')' && len(open) == 0:
			return i
		case c == ')':
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return open[len(open)-1]
	}
	return 0
}

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel {
	list := make([]drivers.Channel, len(o.Chans))
	for i, c := range o.Chans {
		if list[i] = c.Channel; c.Unit == nil {
			list[i].Unit = new(drivers.Unit)
		}
	}
	return list
}

// Patience implements [drivers.Talker]. An instrument that is asked does not talk by itself.
func (o *Options) Patience() time.Duration {
	if o.Ask != "" {
		return 0
	}
	return DefaultPatience
}

// Open implements [drivers.Options]. A line tells nothing of who sent it, so nothing is read before the first Read.
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
		return nil, fmt.Errorf("line: %w: %s: %v, want %s", drivers.ErrWrong, f.Path, f.Bad, f.Want)
	}
	return &Sensor{o: o, channels: o.Channels(), port: env.Port, timeout: env.Timeout, now: now, reader: SharedReader(env, *o.MaxLength, o.Separator, now)}, nil
}

// Sensor is an instrument that prints.
type Sensor struct {
	o        *Options
	channels []drivers.Channel
	port     drivers.Port
	reader   *Reader
	timeout  time.Duration
	now      func() time.Time
	failed   bool // the last Read had no line: its answer may still come
}

// Close implements [drivers.Sensor].
func (s *Sensor) Close() error { return nil }

// Read implements [drivers.Sensor]. Errors wrap [drivers.ErrTimeout] where nothing came, and [drivers.ErrCheck] too where
// no whole line did; [drivers.ErrCheck] alone where lines came and none matched; [drivers.ErrValue] where a group of the line is no number or has an unknown unit.
func (s *Sensor) Read(ctx context.Context) ([]drivers.Reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("line: %w", err)
	}
	if err := s.begin(); err != nil {
		return nil, fmt.Errorf("line: %w", err)
	}
	s.failed = true
	defer s.reader.End()
	deadline := s.now().Add(s.timeout)
	var (
		match  [][]byte
		bad    []byte // the last line that did not match
		misses int    // whole lines that did not match
		torn   int
	)
	// What waits already is looked through first, and the newest line counts.
	for until := s.now(); ; {
		text, err := s.reader.Next(ctx, until)
		switch {
		case errors.Is(err, drivers.ErrTimeout) && match == nil && until.Before(deadline):
			until = deadline
			continue
		case errors.Is(err, drivers.ErrTimeout):
		case err != nil:
			return nil, fmt.Errorf("line: %w", err)
		case !text.Whole:
			torn++
			continue
		default:
			if m := s.o.re.FindSubmatch(text.Bytes); m != nil {
				match = m
			} else {
				misses++
				bad = text.Bytes
			}
			if match == nil && s.now().Before(deadline) || until.Before(deadline) && s.reader.Received < maxBacklog {
				continue
			}
		}
		break
	}
	if match == nil {
		return nil, fmt.Errorf("line: %w", s.unmatched(misses, torn, bad))
	}
	s.failed = false
	return s.readings(match)
}

func (s *Sensor) begin() error {
	if s.o.Ask == "" {
		return s.reader.Begin()
	}
	quiet := time.Duration(0)
	if s.failed {
		quiet = stall
	}
	s.reader.Received, s.reader.Spilled = 0, 0
	if err := s.reader.Discard(quiet); err != nil {
		return err
	}
	s.reader.Asked()
	return s.port.Write([]byte(s.o.Ask))
}

// silentError is a time without a line that matches.
type silentError struct {
	text    string
	came    bool
	refused bool // whole lines came: it is not silent
}

func (e *silentError) Error() string { return e.text }

func (e *silentError) Is(target error) bool {
	return target == drivers.ErrTimeout && !e.refused || target == drivers.ErrCheck && e.came
}

func (s *Sensor) unmatched(misses, torn int, bad []byte) error {
	e := &silentError{came: s.reader.Received > 0, text: fmt.Sprintf("%v (%v)", drivers.ErrTimeout, s.timeout)}
	switch {
	case misses > 0:
		lines, do := "one line", "does"
		if misses > 1 {
			lines, do = fmt.Sprintf("%d lines", misses), "do"
		}
		e.refused = true
		e.text = fmt.Sprintf("%v: in %v %s came that %s not match the pattern, the last one %s", drivers.ErrCheck, s.timeout, lines, do, Printable(bad))
	case torn > 0:
		e.text += ": only the end of a line came; make timeout longer than two lines are apart"
	case e.came:
		e.text += fmt.Sprintf(": %d bytes came without the end of a line; compare line and separator with the instrument's settings", s.reader.Received)
	}
	return e
}

func (s *Sensor) readings(match [][]byte) ([]drivers.Reading, error) {
	var readings []drivers.Reading
	var errs []string
	for i := range s.o.Chans {
		c := &s.o.Chans[i]
		v, err := s.value(c, match)
		if err != nil {
			errs = append(errs, fmt.Sprintf("%s: %v", c.Name, err))
			continue
		}
		readings = append(readings, drivers.Reading{Channel: c.Name, Value: v, Unit: *s.channels[i].Unit})
	}
	if errs != nil {
		return readings, fmt.Errorf("line: %w: %s", drivers.ErrValue, strings.Join(errs, "; "))
	}
	return readings, nil
}

func (s *Sensor) value(c *Channel, match [][]byte) (float64, error) {
	text := match[s.o.re.SubexpIndex(c.Group)]
	if text == nil {
		return 0, fmt.Errorf("the line has no %s", c.Group)
	}
	v, err := parseNumber(string(text), s.o.DecimalComma)
	if err != nil {
		return 0, err
	}
	by := *c.Scale
	if c.Units != nil {
		unit := strings.TrimSpace(string(match[s.o.re.SubexpIndex(c.UnitGroup)]))
		i := slices.IndexFunc(c.Units, func(u Unit) bool { return u.Text == unit })
		if i < 0 {
			var want []string
			for _, u := range c.Units {
				want = append(want, u.Text)
			}
			return 0, fmt.Errorf("unit %s: want %s", Printable([]byte(unit)), strings.Join(want, ", "))
		}
		by *= c.Units[i].Factor
	}
	if by != 1 || c.Offset != 0 {
		// Twelve digits drop the noise of binary arithmetic and nothing else.
		v, _ = strconv.ParseFloat(strconv.FormatFloat(v*by+c.Offset, 'g', 12, 64), 64)
	}
	if v == 0 {
		v = 0 // no negative zero
	}
	if err := drivers.CheckValue(v); err != nil {
		return 0, errors.New(strings.TrimPrefix(err.Error(), drivers.ErrValue.Error()+": "))
	}
	return v, nil
}

var number = regexp.MustCompile(`^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?$`)

// parseNumber reads what instruments print: blanks may stand around the number and after its sign.
func parseNumber(text string, comma bool) (float64, error) {
	bad := func() (float64, error) {
		want := "a number such as -12.5"
		if comma {
			want = "a number such as -12,5"
		}
		return 0, fmt.Errorf("%s: want %s", Printable([]byte(text)), want)
	}
	s := strings.Trim(text, " \t")
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		s = s[:1] + strings.TrimLeft(s[1:], " \t")
	}
	if comma {
		if strings.Contains(s, ".") {
			return bad()
		}
		s = strings.Replace(s, ",", ".", 1)
	}
	if len(s) > 40 || !number.MatchString(s) {
		return bad()
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return bad()
	}
	return v, nil
}
