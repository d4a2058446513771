package ledger

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"homeward/agent/config"
	"homeward/agent/pack"
	"homeward/drivers"
)

// feed is what the sensors of a configuration bring, without end: those of a tape what it says, again and again, the others made-up
// values. What is not recorded, by dead-band and the like, is left out, and times are as they are published.
type feed struct {
	c        *config.Config
	channels *channels
	records  []*config.Recorder // by place in channels.all

	tape  *tape
	pos   int
	round int64 // how often the tape was played
	tick  []int64
	due   madeUp

	raw, taken, changed int   // so far: polls, those of the tape that are not read among them, readings, and readings that rounding changed
	missed              []int // polls of the tape that are not read, by sensor
}

// event is one poll as it is recorded. One that is left out altogether has no readings.
type event struct {
	pack.Poll
	sensor int
	at     int64 // Unix ms: when it was taken
	alarm  bool
	again  bool // the tape was played before
}

const startTime = int64(1_800_000_000_000) // Unix ms

// allSensors and noSensor stand for the index of one.
const (
	allSensors = -1
	noSensor   = -2
)

// newFeed begins one. Of the sensors that the tape does not have, only one may bring made-up values.
func newFeed(c *config.Config, k *channels, t *tape, only int) *feed {
	f := &feed{c: c, channels: k, tape: t, records: make([]*config.Recorder, len(k.all)), tick: make([]int64, len(c.Sensors)), missed: make([]int, len(c.Sensors))}
	start := startTime
	if t != nil {
		start = t.rows[0].at
	}
	for i, p := range k.all {
		s := &c.Sensors[p.sensor]
		var alarms []config.Alarm // made-up values have none
		if t != nil && t.of[p.sensor] {
			alarms = c.Publish.Alarms
		}
		f.records[i] = config.NewRecorder(s, &s.Channels[p.at], alarms)
	}
	for i := range c.Sensors {
		f.tick[i] = math.MinInt64
		s := &c.Sensors[i]
		if s.Disabled || len(s.Channels) == 0 || t != nil && t.of[i] || only != allSensors && i != only {
			continue
		}
		f.due = append(f.due, newSource(i, s, start))
	}
	heap.Init(&f.due)
	return f
}

// next is the poll that comes next; false: there is none, for nothing is read.
func (f *feed) next() (event, bool) {
	for f.raw++; f.tape != nil; f.raw++ {
		if f.pos == len(f.tape.rows) {
			f.pos, f.round = 0, f.round+1
		}
		x := f.tape.rows[f.pos]
		at := x.at + f.round*f.tape.loop
		if len(f.due) > 0 && f.due[0].due < at {
			break
		}
		e, ok := f.played(at)
		if ok {
			return e, true
		}
	}
	if len(f.due) == 0 {
		return event{}, false
	}
	s := f.due[0]
	e := f.record(s.index, s.due+s.late(), s.poll())
	s.due += s.every
	heap.Fix(&f.due, 0)
	return e, true
}

// played is the tape's next poll; false: the sensor is read more rarely now, or not at all.
func (f *feed) played(at int64) (event, bool) {
	t, k := f.tape, f.channels
	first := t.rows[f.pos]
	sensor := k.all[first.channel].sensor
	var places []int32
	var values []drivers.Reading
	for ; f.pos < len(t.rows); f.pos++ {
		x := t.rows[f.pos]
		at, twice := slices.BinarySearch(places, x.channel) // in the sensor's order
		if x.at != first.at || k.all[x.channel].sensor != sensor || twice {
			break
		}
		ch := &f.c.Sensors[sensor].Channels[k.all[x.channel].at]
		places, values = slices.Insert(places, at, x.channel), slices.Insert(values, at, drivers.Reading{Channel: ch.Name, Value: x.value, Unit: unit(ch)})
	}
	// One that was read more often than it is configured is read at the ticks alone.
	every := max(1, time.Duration(f.c.Sensors[sensor].Every).Milliseconds())
	if tick := f.tick[sensor]; tick == math.MinInt64 {
		f.tick[sensor] = at + every
	} else if at < tick-every/10 {
		f.missed[sensor]++
		return event{}, false
	} else {
		f.tick[sensor] = tick + ((at-tick)/every+1)*every
		if at < tick {
			f.tick[sensor] = tick + every
		}
	}
	return f.recordAt(sensor, at, places, values), true
}

func unit(ch *drivers.Channel) drivers.Unit {
	if ch.Unit == nil {
		return ""
	}
	return *ch.Unit
}

// record is what is recorded of a poll of all channels of a sensor.
func (f *feed) record(sensor int, at int64, readings []drivers.Reading) event {
	first, _ := slices.BinarySearchFunc(f.channels.all, sensor, func(p place, s int) int { return p.sensor - s })
	places := make([]int32, len(readings))
	for i := range places {
		places[i] = int32(first + i)
	}
	return f.recordAt(sensor, at, places, readings)
}

func (f *feed) recordAt(sensor int, at int64, places []int32, readings []drivers.Reading) event {
	e := event{at: at, sensor: sensor, again: f.round > 0, Poll: pack.Poll{Time: f.c.Sensors[sensor].PublishedTime(at), Readings: readings[:0]}}
	for i, r := range readings {
		f.taken++
		k := f.records[places[i]]
		if k.Round(r.Value) != r.Value {
			f.changed++
		}
		if r, keep, alarm := k.Take(r); keep {
			e.Readings, e.alarm = append(e.Readings, r), e.alarm || alarm
		}
	}
	return e
}

// reel is a feed less the polls that are left out altogether, which many simulations look at: they come in turn, and what one has seen
// is kept for the next. It ends, for a simulation must.
type reel struct {
	fresh func() *feed
	most  int  // polls, with those left out
	keeps bool // few enough to be kept
	feed  *feed
	kept  []event
}

// from gives one poll after the other.
func (r *reel) from() func() (event, bool) {
	if !r.keeps {
		f := r.fresh()
		return func() (event, bool) { return r.pull(f) }
	}
	if r.feed == nil {
		r.feed = r.fresh()
	}
	i := 0
	return func() (event, bool) {
		if i == len(r.kept) {
			e, ok := r.pull(r.feed)
			if !ok {
				return e, false
			}
			r.kept = append(r.kept, e)
		}
		i++
		return r.kept[i-1], true
	}
}

func (r *reel) pull(f *feed) (event, bool) {
	for f.raw < r.most {
		e, ok := f.next()
		if !ok {
			break
		}
		if len(e.Readings) > 0 {
			return e, true
		}
	}
	return event{}, false
}

// source is a sensor with made-up values: they wander between min and max in steps of a hundredth, or those of its driver, and come
// some ms after their time.
type source struct {
	index      int
	every, due int64 // ms; Unix ms
	random     *rand.Rand
	channels   []drivers.Channel
	steps      []drivers.Step
	n          []int64 // of steps
	low, high  []int64
}

func newSource(i int, s *config.Sensor, start int64) *source {
	x := &source{index: i, every: max(1, time.Duration(s.Every).Milliseconds()), channels: s.Channels, random: rand.New(rand.NewPCG(1, uint64(i)))} // the same month every time
	x.due = start + x.random.Int64N(min(x.every, 1000))
	known := []drivers.Step(nil)
	if o, ok := s.Options.(drivers.Stepper); ok {
		known = o.Steps()
	}
	for j := range s.Channels {
		step := drivers.Step{Times: 1, Places: 2}
		if j < len(known) && known[j].Times != 0 {
			step = known[j]
		}
		x.steps = append(x.steps, step)
		low, high := between(&s.Channels[j], step)
		x.low, x.high = append(x.low, low), append(x.high, high)
		x.n = append(x.n, low+x.random.Int64N(high-low+1))
	}
	return x
}

// between is where made-up values lie, in steps: four digits, or between the channel's limits.
func between(ch *drivers.Channel, step drivers.Step) (low, high int64) {
	const few, lot = 1000, 1 << 40
	low, high = few, 10*few-1
	one := step.Times / math.Pow10(step.Places)
	steps := func(v float64) int64 { return int64(max(-lot, min(v/one, lot))) }
	switch {
	case ch.Min != nil && ch.Max != nil:
		low, high = steps(*ch.Min)+1, steps(*ch.Max)-1
	case ch.Min != nil:
		low = max(low, steps(*ch.Min)+1)
		high = max(high, low+9*few)
	case ch.Max != nil:
		high = min(high, steps(*ch.Max)-1)
		low = min(low, high-9*few)
	}
	if low > high { // narrower than a step
		return few, few
	}
	return low, high
}

// late is by how many ms a poll comes after its time.
func (x *source) late() int64 { return x.random.Int64N(max(1, min(10, x.every/10))) }

func (x *source) poll() []drivers.Reading {
	readings := make([]drivers.Reading, len(x.channels))
	for i := range x.channels {
		n := x.n[i] + int64(x.random.IntN(7)-3)
		if n >= x.low[i] && n <= x.high[i] {
			x.n[i] = n
		}
		ch := &x.channels[i]
		readings[i] = drivers.Reading{Channel: ch.Name, Unit: unit(ch), Value: float64(x.n[i]) * x.steps[i].Times / math.Pow10(x.steps[i].Places)}
	}
	return readings
}

// madeUp is a heap of sources, by what is due first.
type madeUp []*source

func (m madeUp) Len() int { return len(m) }
func (m madeUp) Less(i, j int) bool {
	return m[i].due < m[j].due || m[i].due == m[j].due && m[i].index < m[j].index
}
func (m madeUp) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m *madeUp) Push(x any)   { *m = append(*m, x.(*source)) }
func (m *madeUp) Pop() any     { panic("nothing ends") }
