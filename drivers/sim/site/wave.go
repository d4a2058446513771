package site

import (
	"fmt"
	"math"
	"time"

	"homeward/drivers/sim"
)

// wave is a quantity in the course of time, as the file gives it.
type wave struct {
	kind       string  // constant, sine, sawtooth, counter or trace
	low, high  float64 // what it stays between; a counter: its step, and nothing
	period     time.Duration
	trace      *trace
	loop       bool
	speed      float64
	incomplete bool // its trace could not be read
}

var waveKinds = []string{"sine", "sawtooth", "counter", "trace"}

const (
	minPeriod = time.Millisecond
	maxPeriod = 366 * 24 * time.Hour
)

// wave reads a constant, or one of the forms.
func (p *parse) wave(x node) wave {
	w := p.form(x)
	if math.Abs(w.low) > maxValue || math.Abs(w.high) > maxValue {
		x.wrong(fmt.Sprintf("from %g to %g", w.low, w.high), "values within ±%g", maxValue)
	}
	return w
}

// maxValue keeps what is computed from values finite.
const maxValue = 1e300

func (p *parse) form(x node) wave {
	const want = "a number, {sine: {mean, amplitude, period}}, {sawtooth: {low, high, period}}, {counter: STEP} or {trace: {file, channel}}"
	if _, kind := x.Scalar(); kind != "mapping" {
		if kind != "number" {
			x.bad(want)
			return wave{}
		}
		v := x.number(nil)
		return wave{kind: "constant", low: v, high: v}
	}
	f, ok := x.mapping(waveKinds...)
	if !ok {
		return wave{}
	}
	if len(f.keys) != 1 {
		if len(f.keys) > 1 {
			x.wrong("several forms at once", want)
		} else {
			x.wrong("no form", want)
		}
		return wave{}
	}
	switch {
	case f.at("sine").Given():
		if s, ok := f.at("sine").mapping("mean", "amplitude", "period"); ok {
			mean, amplitude := s.at("mean").number(nil), math.Abs(s.at("amplitude").number(nil))
			return wave{kind: "sine", low: mean - amplitude, high: mean + amplitude, period: s.at("period").duration(-1, minPeriod, maxPeriod)}
		}
	case f.at("sawtooth").Given():
		if s, ok := f.at("sawtooth").mapping("low", "high", "period"); ok {
			w := wave{kind: "sawtooth", low: s.at("low").number(nil), high: s.at("high").number(nil), period: s.at("period").duration(-1, minPeriod, maxPeriod)}
			if w.low > w.high {
				s.at("high").bad("not less than low")
			}
			return w
		}
	case f.at("counter").Given():
		w := wave{kind: "counter", low: f.at("counter").number(nil)}
		if w.low <= 0 {
			f.at("counter").bad("a step above 0")
		}
		return w
	case f.at("trace").Given():
		return p.traceWave(f.at("trace"))
	}
	return wave{}
}

// value is the wave as a chip asks for it. A trace begins with the first question; a counter counts the questions.
func (w wave) value(start time.Time) sim.Value {
	switch w.kind {
	case "sine":
		return sim.Sine((w.low+w.high)/2, (w.high-w.low)/2, w.period)
	case "sawtooth":
		return sim.Sawtooth(w.low, w.high, w.period)
	case "counter":
		n := 0.0
		return func(time.Time) float64 { n++; return n * w.low }
	case "trace":
		return func(t time.Time) float64 { return w.trace.at(w.channelTime(t.Sub(start))) }
	}
	return sim.Constant(w.low)
}

// channelTime is where in its trace a time since the start lies, in ms.
func (w wave) channelTime(since time.Duration) float64 {
	ms := float64(since) / float64(time.Millisecond) * w.speed
	if span := w.trace.span(); w.loop && span > 0 {
		ms = math.Mod(ms, span)
	}
	return ms
}
