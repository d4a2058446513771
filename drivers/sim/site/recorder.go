package site

import (
	"io"
	"sync"
	"time"

	"homeward/drivers/sim/truth"
)

// recorder writes the truth file. The first failure stays. It is safe for use by several goroutines.
type recorder struct {
	mu  sync.Mutex
	w   *truth.Writer // nil: there is no truth file
	err error
}

func newRecorder(w io.Writer) *recorder {
	if w == nil {
		return &recorder{}
	}
	return &recorder{w: truth.NewWriter(w)}
}

func (r *recorder) write(record any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w != nil && r.err == nil {
		r.err = r.w.Write(record)
	}
}

func (r *recorder) begin(s *Site, at time.Time) {
	r.write(truth.Site{Version: truth.Version, TimeMS: at.UnixMilli(), OffsetMS: s.offset.Milliseconds(), Untrusted: !s.trusted})
	for _, x := range s.sensors {
		channels := []truth.Channel{}
		for _, c := range x.channels {
			channels = append(channels, truth.Channel{Name: c.name, Unit: c.unit, Tolerance: c.tolerance})
		}
		r.write(truth.Sensor{Name: x.name, Driver: x.driver, EveryMS: x.every.Milliseconds(), Talks: x.talks, Channels: channels,
			Bus: x.bus(), AnswerMS: x.answer().Milliseconds()})
	}
}

func (r *recorder) served(channel string, v float64, at time.Time) {
	r.write(truth.Served{TimeMS: at.UnixMilli(), Channel: channel, Value: v})
}

// bus is what the sensor sits on.
func (x *sensor) bus() string {
	if x.chip != nil {
		return x.chip.bus
	}
	return x.port.name
}

// answers are how long chips take until they hand out a value, where that is more than a few transactions: they are set up anew, and
// convert, perhaps twice or for each input.
var answers = map[string]time.Duration{
	"ads1115": 150 * time.Millisecond, "bh1750": 200 * time.Millisecond, "ds18b20": 800 * time.Millisecond, "lm75": 350 * time.Millisecond,
	"mcp9808": 550 * time.Millisecond, "scd4x": 600 * time.Millisecond, "tmp102": 100 * time.Millisecond,
}

// answer is how long a poll may take until its last value is handed out; of an instrument that talks, until all has been said.
func (x *sensor) answer() time.Duration {
	if x.chip != nil {
		if a, ok := answers[x.chip.name]; ok {
			return a
		}
		return 50 * time.Millisecond
	}
	char := time.Duration(0)
	if x.port.line.Baud > 0 {
		char = x.port.line.CharTime()
	}
	if t := x.port.talker; t != nil {
		if t.format == "" { // a burst of several sentences, each at most 82 signs long; what the last one did not say is kept
			return x.every + 8*82*char
		}
		return 255 * char
	}
	const frames = 8 + 5 + 2*4 // characters of question, answer and the pauses around them
	total := 50 * time.Millisecond
	for i := range x.unit.registers { // asked for one by one, at worst
		total += x.port.delay + time.Duration(frames+2*x.unit.registers[i].size)*char
	}
	return total
}

// fault notes a fault's beginning or end; offset is the clock's from then on, of a fault on the clock, and untrusted whether it counts.
func (r *recorder) fault(f *fault, state string, at time.Time, offset time.Duration, untrusted bool) {
	sensors := []string{}
	for _, s := range f.target.sensors {
		sensors = append(sensors, s.name)
	}
	r.write(truth.Fault{TimeMS: at.UnixMilli(), On: f.on, Sensors: sensors, Fault: f.name, State: state, OffsetMS: offset.Milliseconds(), Untrusted: untrusted})
}

func (r *recorder) end(at time.Time) { r.write(truth.End{TimeMS: at.UnixMilli()}) }

func (r *recorder) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w != nil && r.err == nil {
		r.err = r.w.Flush()
	}
	return r.err
}
