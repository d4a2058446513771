package config

import (
	"time"

	"homeward/drivers"
)

// Recorder says what is recorded of a channel's readings. A reading below min or above max is suspect; one that enters or leaves
// an alarm is recorded in any case; both are judged by what the instrument said. Then the value is rounded, and dead-band and
// on_change judge what is rounded.
type Recorder struct {
	full     string
	min, max *float64
	watches  []watch
	drivers.Reducer
}

type watch struct {
	Alarm
	active bool
}

// NewRecorder is that of a channel of s, nothing recorded yet.
func NewRecorder(s *Sensor, ch *drivers.Channel, alarms []Alarm) *Recorder {
	k := &Recorder{full: s.Full(ch.Name), min: ch.Min, max: ch.Max, Reducer: drivers.NewReducer(ch)}
	for _, a := range alarms {
		if a.Channel == k.full {
			k.watches = append(k.watches, watch{Alarm: a})
		}
	}
	return k
}

// Take judges a reading, and gives it as it is recorded, if it is: with its channel's full name.
func (k *Recorder) Take(r drivers.Reading) (recorded drivers.Reading, keep, alarm bool) {
	if r.Quality == drivers.Good && (k.min != nil && r.Value < *k.min || k.max != nil && r.Value > *k.max) {
		r.Quality = drivers.Suspect
	}
	for i := range k.watches {
		w := &k.watches[i]
		now := w.Above != nil && r.Value > *w.Above || w.Below != nil && r.Value < *w.Below
		alarm = alarm || now != w.active
		w.active = now
	}
	r.Channel, r.Value = k.full, k.Round(r.Value)
	if !alarm && k.Dull(r) {
		return r, false, false
	}
	k.Record(r)
	return r, true, alarm
}

// Forget makes the next reading count as the first: what was recorded is lost.
func (k *Recorder) Forget() {
	k.Reducer.Forget()
	for i := range k.watches {
		k.watches[i].active = false
	}
}

// PublishedTime is the time of a reading of s as it is published: the multiple of time_resolution that is nearest to when it was
// taken, halves later; both in Unix ms.
func (s *Sensor) PublishedTime(taken int64) int64 {
	res := time.Duration(s.TimeResolution).Milliseconds()
	if res < 2 {
		return taken
	}
	rest := taken % res
	if rest < 0 {
		rest += res
	}
	if rest*2 >= res {
		return taken - rest + res
	}
	return taken - rest
}
