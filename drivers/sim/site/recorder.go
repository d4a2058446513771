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
	r.write(truth.Site{Version: truth.Version, TimeMS: at.UnixMilli(), OffsetMS: s.offset.Milliseconds()})
	for _, x := range s.sensors {
		channels := []truth.Channel{}
		for _, c := range x.channels {
			channels = append(channels, truth.Channel{Name: c.name, Unit: c.unit, Tolerance: c.tolerance})
		}
		r.write(truth.Sensor{Name: x.name, Driver: x.driver, EveryMS: x.every.Milliseconds(), Talks: x.talks, Channels: channels})
	}
}

func (r *recorder) served(channel string, v float64, at time.Time) {
	r.write(truth.Served{TimeMS: at.UnixMilli(), Channel: channel, Value: v})
}

// fault notes a fault's beginning or end; offset is the clock's from then on, of a fault on the clock.
func (r *recorder) fault(f *fault, state string, at time.Time, offset time.Duration) {
	sensors := []string{}
	for _, s := range f.target.sensors {
		sensors = append(sensors, s.name)
	}
	r.write(truth.Fault{TimeMS: at.UnixMilli(), On: f.on, Sensors: sensors, Fault: f.name, State: state, OffsetMS: offset.Milliseconds()})
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
