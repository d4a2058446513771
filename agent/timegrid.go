package agent

import (
	"strings"

	"homeward/agent/config"
	"homeward/buffer"
)

// timeGrid rounds the times of polls to their sensor's time_resolution, as they are published. The buffer keeps the times as
// taken: order and age go by the monotonic clock, and a time that is repaired later is rounded then. One goroutine uses it.
type timeGrid struct {
	config func() *config.Config

	of      *config.Config
	sensors map[string]*config.Sensor
}

// round is the time of st as it is published, Unix ms. A sensor may be gone from the configuration: its times stay as they are.
func (g *timeGrid) round(st buffer.Stored) int64 {
	if g == nil || len(st.Readings) == 0 {
		return st.Time
	}
	if c := g.config(); c != g.of {
		g.of, g.sensors = c, make(map[string]*config.Sensor, len(c.Sensors))
		for i := range c.Sensors {
			g.sensors[c.Sensors[i].Name] = &c.Sensors[i]
		}
	}
	name, _, _ := strings.Cut(st.Readings[0].Channel, "/")
	if s := g.sensors[name]; s != nil {
		return s.PublishedTime(st.Time)
	}
	return st.Time
}
