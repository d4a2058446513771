package ledger

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"homeward/agent/config"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/drivers"
)

// Days is the month that a plan is made for, the longest.
const Days = 31

const monthSeconds = Days * 24 * 3600

// A block is what Particle's Basic plan is sold in (docs.particle.io, "Migrating to the Basic plan"; list price
// of 2026). It is used up as soon as one of the three is.
const (
	BlockOperations = 720_000 // a month, pooled over all devices
	BlockDevices    = 100
	BlockMegabytes  = 540 // of cellular data a month
	BlockDollars    = 299 // US$ a month
)

// PlanOptions say what to plan for.
type PlanOptions struct {
	Devices   int           // gateways like this one; 0 is 1
	Prices    bool          // with the price of the blocks
	Recording *Recording    // what the sensors bring; nil: made-up values
	Thorough  bool          // with every age and encoding, and what each reduction brings: takes seconds
	Freshness time.Duration // how old a reading may be before it is published, for the cheapest setting; 0: publish.max_age
}

// Forecast is the month ahead of one gateway, all sensors well and the home always reached.
type Forecast struct {
	Days       int      `json:"days"`
	Gateway    string   `json:"gateway"`
	Gateways   int      `json:"gateways"`
	Readings   float64  `json:"readings"`          // of one gateway, as published
	Taken      float64  `json:"readings_taken"`    // before deadband and on_change left some out
	Operations float64  `json:"operations"`        // of one gateway with the configured format
	Alarms     float64  `json:"alarms"`            // publishes of a poll each; without a recording not known
	Budget     int64    `json:"budget,omitempty"`  // operations.per_month
	Reserve    float64  `json:"reserve"`           // operations of the budget that are kept for alarms
	Percent    *float64 `json:"percent,omitempty"` // of the budget
	Enough     *bool    `json:"enough,omitempty"`  // the budget less its reserve suffices for what is no alarm
	// Where it does not, the least max_age that would do; nil: none does.
	EnoughMaxAgeS *float64 `json:"enough_max_age_s,omitempty"`
	AtLimit       string   `json:"at_limit,omitempty"`
	PerBytes      int      `json:"bytes_per_operation"`
	Format        string   `json:"format"`   // the configured one
	Encoding      string   `json:"encoding"` // of packed payloads
	Measured      Measured `json:"measured"`
	Formats       []Format `json:"formats"`
	OneByOne      Format   `json:"one_publish_per_reading"`
	Blocks        Blocks   `json:"blocks"`
	// What a schema of packed payloads costs a month, given to the home each day; not in Operations: many homes do not bill it.
	SchemaOperations float64     `json:"schema_operations,omitempty"`
	Reductions       []Reduction `json:"reductions,omitempty"`
	Cheapest         *Cheapest   `json:"cheapest,omitempty"`
	CheapestText     *Cheapest   `json:"cheapest_text,omitempty"` // where the cheapest is bytes
}

// Measured says what the figures were measured on.
type Measured struct {
	Source   string   `json:"source"` // made-up, recording or buffer
	Files    []string `json:"files,omitempty"`
	Seconds  float64  `json:"seconds,omitempty"` // the time that the recording has
	Readings int      `json:"readings,omitempty"`
	Skipped  int      `json:"skipped,omitempty"` // lines of no use: of sensors that are disabled or channels that are gone, without value or time, aggregates
	MadeUp   []string `json:"made_up,omitempty"` // sensors that the recording lacks
	Missing  []string `json:"missing,omitempty"` // channels that it lacks of sensors that it has: not counted
	Short    bool     `json:"short,omitempty"`   // too short to fill two packed payloads: their figures are rough
}

// Format is what one way of publishing brings, the payloads of alarms among it.
type Format struct {
	Name               string   `json:"name"`
	Encoding           string   `json:"encoding,omitempty"` // of packed payloads
	ReadingsPerPayload float64  `json:"readings_per_payload"`
	BytesPerPayload    float64  `json:"bytes_per_payload"`
	Payloads           float64  `json:"payloads"`
	Operations         float64  `json:"operations"`
	Percent            *float64 `json:"percent,omitempty"` // of the budget
	Blocks             int      `json:"blocks,omitempty"`  // for all gateways
	// What decides when a payload leaves is whichever comes first.
	PayloadsIfFull  float64 `json:"payloads_if_only_full,omitempty"` // each filled up to publish.max_bytes
	PayloadsByAge   float64 `json:"payloads_if_only_age,omitempty"`  // each after publish.max_age, whatever its size
	LimitedBy       string  `json:"limited_by,omitempty"`            // full or age: what made most of them leave
	FullAfterS      float64 `json:"full_after_s,omitempty"`          // how long it takes to fill one
	MaxAgeS         float64 `json:"max_age_s,omitempty"`
	ReadingsIfFull  float64 `json:"readings_per_full_payload,omitempty"`
	PercentOfSingle float64 `json:"percent_of_one_publish_per_reading,omitempty"` // operations
	ByMaxAge        []Age   `json:"by_max_age,omitempty"`
}

// Age is what a month costs with a publish.max_age.
type Age struct {
	MaxAgeS    float64 `json:"max_age_s"`
	Payloads   float64 `json:"payloads"`
	Operations float64 `json:"operations"`
}

// Reduction is what leaving out or rounding saves in a month.
type Reduction struct {
	Key      string `json:"key"` // of the configuration: deadband, on_change, resolution, time_resolution
	Used     bool   `json:"used"`
	Channels int    `json:"channels"` // that have it; of time_resolution: of sensors that have one above 1 ms
	Of       int    `json:"of"`
	Lossless bool   `json:"lossless"` // what is left out, or how values were, can be told from what is published
	// The month with it and without. Of one that is not used and needs no number, With is with it on every channel. nil: that cannot be told.
	With    *Effect `json:"with,omitempty"`
	Without *Effect `json:"without,omitempty"`
	Changed float64 `json:"changed,omitempty"` // share of the values, or of the times, that it changed
}

// Effect is a month.
type Effect struct {
	Readings   float64 `json:"readings"`
	Operations float64 `json:"operations"`
}

// Cheapest is the setting with the fewest operations.
type Cheapest struct {
	Format     string  `json:"format"`
	Encoding   string  `json:"encoding,omitempty"`
	MaxAgeS    float64 `json:"max_age_s"` // the freshness that was wanted
	Operations float64 `json:"operations"`
	Blocks     int     `json:"blocks"`           // for all gateways
	Saved      float64 `json:"operations_saved"` // against the configured setting; below 0 where fresher readings cost more
}

// Blocks is what all gateways together need.
type Blocks struct {
	Operations      float64  `json:"operations"`
	Blocks          int      `json:"blocks"`
	OneByOne        int      `json:"blocks_with_one_publish_per_reading"`
	Megabytes       float64  `json:"payload_megabytes"`
	Cellular        int      `json:"blocks_over_cellular"` // as Blocks, and for the payloads' megabytes
	Dollars         *float64 `json:"us_dollars_a_month,omitempty"`
	DollarsCellular *float64 `json:"us_dollars_a_month_over_cellular,omitempty"`
	DollarsOneByOne *float64 `json:"us_dollars_a_month_with_one_publish_per_reading,omitempty"`
}

// Plan forecasts a month of 31 days: it lets the configuration's sensors bring what a recording says, or made-up values, leaves
// out and rounds what the sampler does, and packs the rest as the gateway does. What faults and the backlog after an outage add
// is not in it; nor are the home's own messages (status, proof, schema), which carry no reading.
func Plan(c *config.Config, o PlanOptions) (*Forecast, error) {
	f := &Forecast{
		Days: Days, Gateway: c.Gateway, Gateways: max(o.Devices, 1), Budget: c.Operations.PerMonth, AtLimit: cmp.Or(c.Operations.AtLimit, Hold),
		PerBytes: int(c.Operations.PerBytes), Format: c.Publish.Format, Encoding: cmp.Or(c.Publish.Encoding, "text"), Measured: Measured{Source: "made-up"},
	}
	var t *tape
	if o.Recording != nil {
		var err error
		if t, err = o.Recording.wind(c); err != nil {
			return nil, err
		}
		f.Measured = o.Recording.measured(c, t)
	}
	p := newPlanner(c, t)
	f.Readings, f.Taken, f.Alarms = p.kept, p.taken, p.alarms
	f.OneByOne = Format{Name: "one publish per reading", ReadingsPerPayload: 1, Payloads: p.kept}
	if err := p.oneByOne(&f.OneByOne); err != nil {
		return nil, err
	}
	n := float64(f.Gateways)
	chosen, err := f.formats(p, o.Thorough)
	if err != nil {
		return nil, err
	}
	f.Operations = chosen.Operations
	f.Blocks = Blocks{Operations: n * f.Operations, Blocks: blocks(n, n*f.Operations), OneByOne: blocks(n, n*f.OneByOne.Operations)}
	f.OneByOne.Blocks = f.Blocks.OneByOne
	f.Blocks.Megabytes = n * chosen.Payloads * chosen.BytesPerPayload / 1e6 // those of alarms among them
	f.Blocks.Cellular = max(f.Blocks.Blocks, int(math.Ceil(f.Blocks.Megabytes/BlockMegabytes)))
	if o.Prices {
		now, cellular, single := float64(f.Blocks.Blocks*BlockDollars), float64(f.Blocks.Cellular*BlockDollars), float64(f.Blocks.OneByOne*BlockDollars)
		f.Blocks.Dollars, f.Blocks.DollarsCellular, f.Blocks.DollarsOneByOne = &now, &cellular, &single
	}
	if f.Budget > 0 {
		f.Percent = f.percent(f.Operations)
		f.OneByOne.Percent = f.percent(f.OneByOne.Operations)
		f.Reserve = float64(f.Budget) * float64(c.Operations.Reserve)
		enough := chosen.suffices(f, chosen.Operations)
		f.Enough = &enough
	}
	if o.Thorough && p.kept > 0 {
		if err := f.thorough(p, chosen, cmp.Or(o.Freshness, time.Duration(c.Publish.MaxAge))); err != nil {
			return nil, err
		}
		f.Reductions, err = reductions(p, chosen, o.Recording)
	}
	return f, err
}

func (f *Forecast) percent(operations float64) *float64 {
	percent := 100 * operations / float64(f.Budget)
	return &percent
}

// suffices says that the budget carries so many operations, those of alarms among them.
func (x *Format) suffices(f *Forecast, operations float64) bool {
	ordinary := operations - f.Alarms
	return ordinary <= float64(f.Budget)-max(f.Reserve, f.Alarms)
}

// formats forecasts each format, and gives the configured one.
func (f *Forecast) formats(p *planner, thorough bool) (chosen *Format, err error) {
	var list []Format
	for _, name := range []string{pack.FormatRows, pack.FormatPacked, pack.FormatSenML} {
		x := Format{Name: name}
		if name == pack.FormatPacked {
			x.Encoding = f.Encoding
		}
		list = append(list, x)
		if name == pack.FormatPacked && thorough {
			for _, encoding := range []string{"text", "binary"} {
				if encoding != f.Encoding {
					list = append(list, Format{Name: name, Encoding: encoding})
				}
			}
		}
	}
	at := -1
	for _, x := range list {
		x.MaxAgeS = time.Duration(p.c.Publish.MaxAge).Seconds()
		configured := x.Name == f.Format && (x.Encoding == "" || x.Encoding == f.Encoding)
		if p.kept > 0 {
			if err := x.fill(p, f); err != nil && !configured {
				continue // names that are too long for it, or not allowed in it
			} else if err != nil {
				return nil, err
			}
			x.Blocks = blocks(float64(f.Gateways), float64(f.Gateways)*x.Operations)
			if f.Budget > 0 {
				x.Percent = f.percent(x.Operations)
			}
		}
		if configured {
			at = len(f.Formats)
		}
		f.Formats = append(f.Formats, x)
	}
	if at < 0 { // a format that nobody knows is rows
		at = 0
	}
	return &f.Formats[at], nil
}

// ages are those that a thorough plan compares.
var ages = []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}

// longer are those that are looked through for a budget that does not suffice.
var longer = []time.Duration{
	10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 3 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 20 * time.Minute, 30 * time.Minute, 45 * time.Minute,
	time.Hour, 90 * time.Minute, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour, 6 * time.Hour, 8 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour,
}

// thorough compares ages, and finds the cheapest setting.
func (f *Forecast) thorough(p *planner, chosen *Format, freshness time.Duration) error {
	now := time.Duration(p.c.Publish.MaxAge)
	shown := append(slices.Clone(ages), now)
	slices.Sort(shown)
	shown = slices.Compact(shown)
	for i := range f.Formats {
		x := &f.Formats[i]
		for _, age := range shown {
			a, err := p.age(x, age)
			if err != nil {
				return err
			}
			x.ByMaxAge = append(x.ByMaxAge, a)
		}
		a, err := p.age(x, freshness)
		if err != nil {
			return err
		}
		n := float64(f.Gateways)
		one := &Cheapest{Format: x.Name, Encoding: x.Encoding, MaxAgeS: a.MaxAgeS, Operations: a.Operations, Blocks: blocks(n, n*a.Operations), Saved: f.Operations - a.Operations}
		if f.Cheapest == nil || one.Operations < f.Cheapest.Operations {
			f.Cheapest = one
		}
		if x.Encoding != "binary" && (f.CheapestText == nil || one.Operations < f.CheapestText.Operations) {
			f.CheapestText = one
		}
	}
	if f.Cheapest == f.CheapestText {
		f.CheapestText = nil
	}
	if f.Enough == nil || *f.Enough {
		return nil
	}
	for _, age := range longer {
		if age <= now {
			continue
		}
		a, err := p.age(chosen, age)
		if err != nil {
			return err
		}
		if chosen.suffices(f, a.Operations) {
			f.EnoughMaxAgeS = &a.MaxAgeS
			break
		}
	}
	return nil
}

// reductions says what each brings.
func reductions(p *planner, chosen *Format, r *Recording) (list []Reduction, err error) {
	now := &Effect{p.kept, chosen.Operations}
	changed := func(change func(*config.Sensor, *drivers.Channel)) (*Effect, error) {
		v := newPlanner(altered(p.c, change), p.tape)
		x := Format{Name: chosen.Name, Encoding: chosen.Encoding}
		a, err := v.age(&x, time.Duration(v.c.Publish.MaxAge))
		return &Effect{v.kept, a.Operations}, err
	}
	all, timed, held := 0, 0, 0
	uses := map[string]int{}
	for i := range p.c.Sensors {
		s := &p.c.Sensors[i]
		if s.Disabled {
			continue
		}
		var steps []drivers.Step
		if o, ok := s.Options.(drivers.Stepper); ok {
			steps = o.Steps()
		}
		if time.Duration(s.TimeResolution) > time.Millisecond {
			timed += len(s.Channels)
		}
		for j := range s.Channels {
			ch := &s.Channels[j]
			all++
			uses[keyDeadband] += flag(ch.Deadband != nil && *ch.Deadband > 0)
			uses[keyOnChange] += flag(ch.OnChange != nil && *ch.OnChange)
			if rec := drivers.NewReducer(ch); rec.Resolution() > 0 {
				uses[keyResolution]++
				held += flag(j < len(steps) && rec.Holds(steps[j]))
			}
		}
	}
	uses[keyTime] = timed
	without := map[string]func(*config.Sensor, *drivers.Channel){
		keyDeadband:   func(_ *config.Sensor, ch *drivers.Channel) { ch.Deadband = nil },
		keyOnChange:   func(_ *config.Sensor, ch *drivers.Channel) { ch.OnChange = nil },
		keyResolution: func(_ *config.Sensor, ch *drivers.Channel) { ch.Resolution = nil },
		keyTime:       func(s *config.Sensor, _ *drivers.Channel) { s.TimeResolution = config.Duration(time.Millisecond) },
	}
	for _, key := range []string{keyDeadband, keyOnChange, keyResolution, keyTime} {
		x := Reduction{Key: key, Channels: uses[key], Of: all, Used: uses[key] > 0, Lossless: key == keyOnChange || key == keyResolution && held == uses[key]}
		unseen := r != nil && r.Buffer && key != keyTime // what they did is done
		switch {
		case x.Used:
			x.With = now
			if !unseen {
				x.Without, err = changed(without[key])
			}
		case key == keyOnChange && !unseen:
			x.Without = now
			x.With, err = changed(func(_ *config.Sensor, ch *drivers.Channel) { ch.OnChange = new(true) })
		}
		if err != nil {
			return nil, err
		}
		switch {
		case key == keyResolution:
			x.Changed = p.rounded
		case key == keyTime:
			x.Changed = p.moved
		}
		list = append(list, x)
	}
	return list, nil
}

// The keys of the configuration that reduce what is sent.
const (
	keyDeadband   = "deadband"
	keyOnChange   = "on_change"
	keyResolution = "resolution"
	keyTime       = "time_resolution"
)

// altered is a configuration with each channel changed.
func altered(c *config.Config, change func(*config.Sensor, *drivers.Channel)) *config.Config {
	o := *c
	o.Sensors = slices.Clone(c.Sensors)
	for i := range o.Sensors {
		s := &o.Sensors[i]
		s.Channels = slices.Clone(s.Channels)
		for j := range s.Channels {
			change(s, &s.Channels[j])
		}
	}
	return &o
}

func blocks(gateways, operations float64) int {
	return int(max(math.Ceil(gateways/BlockDevices), math.Ceil(operations/BlockOperations)))
}

// measured says what a tape is.
func (r *Recording) measured(c *config.Config, t *tape) Measured {
	m := Measured{Source: "recording", Files: r.Files, Seconds: t.length.Seconds(), Readings: len(t.rows), Skipped: r.Skipped + t.idle}
	if r.Buffer {
		m.Source = "buffer"
	}
	there := make([]bool, len(r.channels.all))
	for _, x := range t.rows {
		there[x.channel] = true
	}
	for i := range c.Sensors {
		if s := &c.Sensors[i]; !s.Disabled && !t.of[i] {
			m.MadeUp = append(m.MadeUp, s.Name)
		}
	}
	for i, p := range r.channels.all {
		if s := &c.Sensors[p.sensor]; t.of[p.sensor] && !there[i] {
			m.Missing = append(m.Missing, s.Full(s.Channels[p.at].Name))
		}
	}
	return m
}

// planner lets a configuration run.
type planner struct {
	c        *config.Config
	rule     Rule
	tape     *tape // nil: made-up values alone
	channels *channels
	coder    *packed.Coder // learnt from what the sensors bring; nil: not needed yet
	rest     *tape         // what it was not learnt from

	// Of a month:
	taken, kept, alarms, alarmReadings float64
	played                             float64 // readings kept in one playing of the tape
	rounded, moved                     float64 // shares of values and times
	known                              map[run]tally
	reels                              map[*tape]*reel
}

// run is one simulation.
type run struct {
	format, encoding string
	age              time.Duration
}

func newPlanner(c *config.Config, t *tape) *planner {
	p := &planner{c: c, rule: Rule{PerBytes: int(c.Operations.PerBytes)}, tape: t, rest: t, channels: channelsOf(c), known: map[run]tally{}, reels: map[*tape]*reel{}}
	p.survey()
	return p
}

// play is what comes with a tape, from its beginning.
func (p *planner) play(t *tape) func() (event, bool) {
	r := p.reels[t]
	if r == nil {
		r = &reel{fresh: func() *feed { return newFeed(p.c, p.channels, t, allSensors) }, most: maxPolls, keeps: p.played <= maxKept}
		if t != nil {
			r.most = max(r.most, 2*len(t.rows))
		}
		p.reels[t] = r
	}
	return r.from()
}

// survey counts what a month brings: all that the tape has, and some polls of each sensor with made-up values.
func (p *planner) survey() {
	type found struct{ polls, taken, kept, alarms, alarmReadings float64 }
	looked, rounded, moved := 0, 0, 0
	count := func(f *feed, more func() bool) []found {
		by := make([]found, len(p.c.Sensors))
		for more() {
			before := f.taken
			e, ok := f.next()
			if !ok || f.round > 0 {
				break
			}
			x, n := &by[e.sensor], f.taken-before
			x.polls++
			x.taken += float64(n)
			x.kept += float64(len(e.Readings))
			if e.alarm {
				x.alarms++
				x.alarmReadings += float64(len(e.Readings))
			}
			looked += n
			moved += n * flag(e.Time != e.at)
		}
		rounded += f.changed
		return by
	}
	add := func(x found, times float64) {
		p.taken += x.taken * times
		p.kept += x.kept * times
		p.alarms += x.alarms * times
		p.alarmReadings += x.alarmReadings * times
	}
	if p.tape != nil {
		f := newFeed(p.c, p.channels, p.tape, noSensor)
		for i, x := range count(f, func() bool { return f.pos < len(p.tape.rows) }) {
			p.played += x.kept
			times := monthSeconds / p.tape.length.Seconds()
			if f.missed[i] > 0 { // it is read at its own pace, which the recording's length may be no multiple of
				times = min(times, monthSeconds/time.Duration(p.c.Sensors[i].Every).Seconds()/x.polls)
			}
			add(x, times)
		}
	}
	for i := range p.c.Sensors {
		s := &p.c.Sensors[i]
		if s.Disabled || len(s.Channels) == 0 || p.tape != nil && p.tape.of[i] {
			continue
		}
		polls := max(50, min(2000, 20_000/len(s.Channels)))
		f := newFeed(p.c, p.channels, nil, i)
		x := count(f, func() bool { return f.raw < polls })[i]
		add(x, monthSeconds/time.Duration(s.Every).Seconds()/x.polls)
	}
	if looked > 0 {
		p.rounded, p.moved = float64(rounded)/float64(looked), float64(moved)/float64(looked)
	}
}

// The header of made-up payloads: numbers as long as those of a gateway that has run for a year.
func (p *planner) header() pack.Header {
	return pack.Header{Gateway: p.c.Gateway, Epoch: 1_000_000_000, First: 100_000_000}
}

// What a schema learns from, as a gateway's that has run for a day.
const (
	lessonReadings = 4000
	lessonShare    = 0.3 // of a recording: it is not measured with what was learnt from
	lessonPrimers  = 4
)

// writers make payloads of a format.
func (p *planner) writers(format, encoding string) (func() pack.Writer, error) {
	if format != pack.FormatPacked {
		return func() pack.Writer { return pack.New(format, p.header(), int(p.c.Publish.MaxBytes)) }, nil
	}
	if p.coder == nil {
		lesson := p.tape
		if p.tape != nil {
			lesson, p.rest = p.tape.cut(lessonShare, lessonReadings)
		}
		var seen []pack.Poll
		f := newFeed(p.c, p.channels, lesson, allSensors)
		for n := 0; n < lessonReadings && f.raw < maxPolls; {
			e, ok := f.next()
			if !ok || f.round > 0 {
				break
			}
			if len(e.Readings) > 0 {
				seen, n = append(seen, e.Poll), n+len(e.Readings)
			}
		}
		coder, err := packed.Train(1000, packed.Sets(p.c), seen, lessonPrimers)
		if err != nil {
			return nil, err
		}
		p.coder = coder
	}
	return func() pack.Writer {
		return p.coder.NewWriter(p.header(), packed.RadixOf(encoding), false, int(p.c.Publish.MaxBytes))
	}, nil
}

// age is what a format costs with a max_age.
func (p *planner) age(x *Format, maxAge time.Duration) (Age, error) {
	t, err := p.simulate(x.Name, x.Encoding, maxAge)
	if err != nil {
		return Age{}, err
	}
	payloads, operations, _ := p.month(t)
	return Age{maxAge.Seconds(), payloads, operations}, nil
}

// month is what a month costs that goes on like t.
func (p *planner) month(t tally) (payloads, operations, bytes float64) {
	if t.readings > 0 {
		payloads = (p.kept - p.alarmReadings) / t.readings * t.payloads
		operations, bytes = payloads*t.cost/t.payloads, payloads*t.bytes/t.payloads
	}
	if p.alarms > 0 {
		each := 1.0 // publishes of an alarm
		cost, size := 1.0, 0.0
		if t.alarms > 0 {
			each, cost, size = t.alarmPayloads/t.alarms, t.alarmCost/t.alarms, t.alarmBytes/t.alarms
		}
		payloads, operations, bytes = payloads+p.alarms*each, operations+p.alarms*cost, bytes+p.alarms*size
	}
	return payloads, operations, bytes
}

// fill forecasts one format.
func (x *Format) fill(p *planner, f *Forecast) error {
	aged, err := p.simulate(x.Name, x.Encoding, time.Duration(p.c.Publish.MaxAge))
	if err != nil {
		return err
	}
	full, err := p.simulate(x.Name, x.Encoding, forever)
	if err != nil {
		return err
	}
	f.Measured.Short = f.Measured.Short || p.tape != nil && full.short && full.payloads < 2
	var bytes float64
	if x.Payloads, x.Operations, bytes = p.month(aged); x.Payloads > 0 {
		x.ReadingsPerPayload, x.BytesPerPayload = p.kept/x.Payloads, bytes/x.Payloads
	}
	ordinary := p.kept - p.alarmReadings
	if full.payloads > 0 && ordinary > 0 {
		x.ReadingsIfFull = full.readings / full.payloads
		if full.full > 0 { // not those that an alarm cut short
			x.ReadingsIfFull = full.fullReadings / full.full
		}
		x.PayloadsIfFull = ordinary / x.ReadingsIfFull
		x.FullAfterS = x.ReadingsIfFull / ordinary * monthSeconds
		x.PayloadsByAge = p.byAge()
		x.LimitedBy = "age"
		if aged.full*2 > aged.payloads {
			x.LimitedBy = "full"
		}
	}
	x.PercentOfSingle = 100 * x.Operations / f.OneByOne.Operations
	if x.Name == pack.FormatPacked && x.Name == f.Format {
		f.SchemaOperations = Days * float64(p.rule.Cost(len(p.coder.Schema().Text())))
	}
	return nil
}

const forever = time.Duration(math.MaxInt64)

// early is by how much sooner than max_age the publisher lets a payload leave, beside a flush: half of it at most.
const early = 1200 * time.Millisecond

// leaves is how old a payload's first poll may be when the payload leaves.
func (p *planner) leaves(maxAge time.Duration) time.Duration {
	return maxAge - min(maxAge/2, time.Duration(p.c.Buffer.Flush)+early)
}

// byAge is how many payloads a month would be were they never full.
func (p *planner) byAge() float64 {
	key := run{age: time.Duration(p.c.Publish.MaxAge)}
	t, ok := p.known[key]
	if !ok {
		leaves := p.leaves(key.age).Milliseconds()
		start := int64(math.MinInt64)
		next := p.play(p.tape)
		for e, ok := next(); ok; e, ok = next() {
			if e.alarm {
				continue
			}
			if start == math.MinInt64 || e.at-start >= leaves {
				if t.payloads == 1000 {
					break
				}
				t.payloads++
				start = e.at
			}
			t.readings += float64(len(e.Readings))
		}
		p.known[key] = t
	}
	if t.readings == 0 {
		return 0
	}
	return (p.kept - p.alarmReadings) / t.readings * t.payloads
}

// tally is what a simulation counted.
type tally struct {
	payloads, full, readings, fullReadings, bytes, cost float64
	alarms, alarmPayloads, alarmBytes, alarmCost        float64
	short                                               bool // too little to fill enough
}

// The bounds of a simulation; beyond, the mean of made-up values no longer moves.
const (
	maxPayloads    = 40
	maxPacked      = 10   // of packed ones, which hold many times as much
	fewReadings    = 5000 // with fewer, up to 25 times as many payloads
	maxPolls       = 200_000
	maxKept        = 100_000 // readings of a recording that are kept for the next simulation
	maxReadings    = 300_000 // of a recording, from parts of it that are spread over its time
	maxPackedReads = 60_000
	parts          = 6
)

// simulate lets the sensors run and packs what they bring until enough payloads have left.
func (p *planner) simulate(format, encoding string, maxAge time.Duration) (tally, error) {
	key := run{format, encoding, maxAge}
	if t, ok := p.known[key]; ok {
		return t, nil
	}
	for k, t := range p.known { // all were full sooner: so they are
		if k.format == format && k.encoding == encoding && k.age < maxAge && t.payloads > 0 && t.full == t.payloads {
			p.known[key] = t
			return t, nil
		}
	}
	fresh, err := p.writers(format, encoding)
	if err != nil {
		return tally{}, err
	}
	s := &simulation{p: p, fresh: fresh, writer: fresh(), leaves: p.leaves(maxAge).Milliseconds()}
	if maxAge == forever {
		s.leaves = math.MaxInt64
	}
	if err := s.run(format); err != nil {
		return tally{}, err
	}
	p.known[key] = s.tally
	return s.tally, nil
}

// simulation fills payloads.
type simulation struct {
	tally
	p      *planner
	fresh  func() pack.Writer
	writer pack.Writer
	leaves int64   // ms
	inside []event // the polls of the payload being filled
}

func (s *simulation) run(format string) error {
	p, t := s.p, s.p.tape
	enough, most := float64(maxPayloads), maxReadings
	if format == pack.FormatPacked {
		enough, most, t = maxPacked, maxPackedReads, p.rest
	}
	all, part := math.MaxInt, math.MaxInt // readings from one part of the recording to the next, and those of one
	if t != nil {
		if most *= max(1, int(p.c.Publish.MaxBytes)/1024); p.played > float64(most) {
			all, part = int(p.played)/parts, most/parts
		}
	}
	skipping, seen, next := false, 0, p.play(t)
	for e, ok := next(); ok; e, ok = next() {
		if e.again && format == pack.FormatPacked { // which would learn the recording by heart
			break
		}
		if s.payloads >= enough && (s.readings >= fewReadings || s.payloads >= 25*enough) && (t == nil || e.again) {
			return nil
		}
		seen += len(e.Readings)
		if skip := seen%all > part; skip {
			skipping = true
			continue
		}
		if skipping {
			skipping, s.writer, s.inside = false, s.fresh(), nil
		}
		if e.alarm {
			if err := s.alarm(format, e); err != nil {
				return err
			}
			continue
		}
		if len(s.inside) > 0 && e.at-s.inside[0].at >= s.leaves {
			if err := s.depart(false); err != nil {
				return err
			}
		}
		if err := s.take(e); err != nil {
			return err
		}
	}
	if s.payloads < enough && len(s.inside) > 0 && !skipping {
		s.begun()
	}
	return nil
}

// begun counts the payload being filled for as much of one as it is: by its bytes, or by its age.
func (s *simulation) begun() {
	first := s.fresh()
	first.Add(s.inside[0].Poll) // false: it is a part of one too large
	size, least, most := float64(s.writer.Size()), float64(first.Size()), float64(s.p.c.Publish.MaxBytes)
	share := float64(s.inside[len(s.inside)-1].at-s.inside[0].at) / float64(s.leaves)
	if most > least {
		share = max(share, (size-least)/(most-least))
	}
	share = min(max(share, 1.0/float64(1+len(s.inside))), 1)
	payload, n := s.writer.Close()
	if n == 0 {
		return
	}
	s.payloads += share
	s.readings += float64(n)
	s.bytes += share * min(most, least+(size-least)/share)
	s.cost += share * float64(s.p.rule.Cost(int(min(most, max(float64(len(payload)), least+(size-least)/share)))))
	s.short = true
}

// take puts a poll into the payload, which leaves when it does not fit any more.
func (s *simulation) take(e event) error {
	for !s.writer.Add(e.Poll) {
		if s.writer.Len() == 0 { // too large for one payload: split by channels
			n := s.writer.AddPart(e.Poll)
			if n == 0 {
				return s.p.tooLarge(e.Readings[0].Channel)
			}
			part := e
			part.Readings = e.Readings[:n]
			s.inside = append(s.inside, part)
			e.Readings = e.Readings[n:]
		}
		if err := s.depart(true); err != nil {
			return err
		}
	}
	s.inside = append(s.inside, e)
	return nil
}

func (p *planner) tooLarge(channel string) error {
	return fmt.Errorf("ledger: a reading of %s does not fit into a payload of %d bytes: raise publish.max_bytes, or shorten its name", channel, p.c.Publish.MaxBytes)
}

// depart counts the payload, and begins the next with what did not fit after all.
func (s *simulation) depart(full bool) error {
	payload, n := s.writer.Close()
	rest := s.inside
	if n == 0 && len(rest) > 0 {
		return s.p.tooLarge(rest[0].Readings[0].Channel)
	}
	s.payloads++
	s.full += float64(flag(full))
	s.fullReadings += float64(n * flag(full))
	s.readings += float64(n)
	s.bytes += float64(len(payload))
	s.cost += float64(s.p.rule.Cost(len(payload)))
	for ; n > 0 && len(rest) > 0; rest = rest[1:] {
		if k := len(rest[0].Readings); n < k {
			rest[0].Readings = rest[0].Readings[n:]
			break
		} else {
			n -= k
		}
	}
	s.writer, s.inside = s.fresh(), nil
	for _, e := range rest {
		if err := s.take(e); err != nil {
			return err
		}
	}
	return nil
}

// alarm counts a poll that leaves at once, alone; what waits leaves too, for a payload has no holes.
func (s *simulation) alarm(format string, e event) error {
	if len(s.inside) > 0 {
		if err := s.depart(false); err != nil {
			return err
		}
	}
	s.alarms++
	for len(e.Readings) > 0 {
		w := pack.New(format, s.p.header(), int(s.p.c.Publish.MaxBytes)) // packed: rows
		n := len(e.Readings)
		if !w.Add(e.Poll) {
			if n = w.AddPart(e.Poll); n == 0 {
				return s.p.tooLarge(e.Readings[0].Channel)
			}
		}
		payload, _ := w.Close()
		s.alarmPayloads++
		s.alarmBytes += float64(len(payload))
		s.alarmCost += float64(s.p.rule.Cost(len(payload)))
		e.Readings = e.Readings[n:]
	}
	return nil
}

// oneByOne measures payloads that hold one reading each.
func (p *planner) oneByOne(x *Format) error {
	n, bytes, cost := 0, 0, 0
	next := p.play(p.tape)
	for e, ok := next(); ok && n < 1000; e, ok = next() {
		for _, r := range e.Readings {
			w := pack.New(p.c.Publish.Format, p.header(), math.MaxInt) // packed: as alarms go, in rows
			w.Add(pack.Poll{Time: e.Time, Readings: []drivers.Reading{r}})
			n, bytes, cost = n+1, bytes+w.Size(), cost+p.rule.Cost(w.Size())
		}
	}
	if n > 0 {
		x.BytesPerPayload = float64(bytes) / float64(n)
		x.Operations = x.Payloads * float64(cost) / float64(n)
	}
	return nil
}
