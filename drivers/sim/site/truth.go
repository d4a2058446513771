package site

import (
	"bufio"
	"encoding/json"
	"io"
	"sync"
	"time"
)

// recorder writes the truth file. The first failure stays. It is safe for use by several goroutines.
type recorder struct {
	mu  sync.Mutex
	w   *bufio.Writer // nil: there is no truth file
	err error
}

func newRecorder(w io.Writer) *recorder {
	if w == nil {
		return &recorder{}
	}
	return &recorder{w: bufio.NewWriterSize(w, 64<<10)}
}

// truthChannel is a channel in the truth file.
type truthChannel struct {
	Name      string  `json:"name"`
	Unit      string  `json:"unit"`
	Tolerance float64 `json:"tolerance"`
}

func (r *recorder) write(v any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w == nil || r.err != nil {
		return
	}
	line, err := json.Marshal(v)
	if err == nil {
		_, err = r.w.Write(append(line, '\n'))
	}
	r.err = err
}

func (r *recorder) begin(s *Site, at time.Time) {
	r.write(struct {
		Kind    string `json:"kind"`
		Version int    `json:"version"`
		TimeMS  int64  `json:"t_ms"`
	}{"site", 1, at.UnixMilli()})
	for _, x := range s.sensors {
		channels := []truthChannel{}
		for _, c := range x.channels {
			channels = append(channels, truthChannel{c.name, c.unit, c.tolerance})
		}
		r.write(struct {
			Kind     string         `json:"kind"`
			Sensor   string         `json:"sensor"`
			Driver   string         `json:"driver"`
			EveryMS  int64          `json:"every_ms"`
			Talks    bool           `json:"talks"`
			Channels []truthChannel `json:"channels"`
		}{"sensor", x.name, x.driver, x.every.Milliseconds(), x.talks, channels})
	}
}

func (r *recorder) served(channel string, v float64, at time.Time) {
	r.write(struct {
		Kind    string  `json:"kind"`
		TimeMS  int64   `json:"t_ms"`
		Channel string  `json:"channel"`
		Value   float64 `json:"value"`
	}{"served", at.UnixMilli(), channel, v})
}

func (r *recorder) fault(f *fault, state string, at time.Time) {
	sensors := []string{}
	for _, s := range f.target.sensors {
		sensors = append(sensors, s.name)
	}
	r.write(struct {
		Kind    string   `json:"kind"`
		TimeMS  int64    `json:"t_ms"`
		On      string   `json:"on"`
		Sensors []string `json:"sensors"`
		Fault   string   `json:"fault"`
		State   string   `json:"state"`
	}{"fault", at.UnixMilli(), f.on, sensors, f.name, state})
}

func (r *recorder) end(at time.Time) {
	r.write(struct {
		Kind   string `json:"kind"`
		TimeMS int64  `json:"t_ms"`
	}{"end", at.UnixMilli()})
}

func (r *recorder) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.w != nil && r.err == nil {
		r.err = r.w.Flush()
	}
	return r.err
}
