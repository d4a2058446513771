package truth

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Kind is a way in which something can have gone wrong.
type Kind string

// The kinds.
const (
	Lost      Kind = "lost"      // a sequence number that is missing, and that no gap covers
	Repeated  Kind = "repeated"  // one value under two keys, or a key with two contents
	Misnamed  Kind = "misnamed"  // a channel or unit that the site does not have, or a value that another channel served
	Wrong     Kind = "wrong"     // nothing was served that the reading can be of
	Unsampled Kind = "unsampled" // an instrument was not heard for long, and nothing explains it
)

// Kinds are all, in the order in which they are told.
var Kinds = []Kind{Lost, Repeated, Misnamed, Wrong, Unsampled}

// maxExamples bounds what is described of a kind.
const maxExamples = 20

// Options of [Verify].
type Options struct {
	// Recovery is how long after a fault an instrument may still be silent; 0 is what the gateway promises of each fault.
	Recovery time.Duration
	// Allowance is how long a busy machine may keep a poll waiting; 0 is [DefaultAllowance].
	Allowance time.Duration
}

// DefaultAllowance is what a poll was seen to wait, at most, on two cores with twenty runnable tasks, rounded up.
const DefaultAllowance = 400 * time.Millisecond

// The bounds of a reading's time, in ms.
const (
	roundMS     = 100  // a clock that is being corrected, and two roundings
	disturbedMS = 1000 // while a fault lies on the bus, a poll may have waited for it so much longer
	heldMS      = 5000 // while one lies on it that holds the line, or the answer
	settleMS    = 2000 // so long after a fault a bus counts as disturbed
	followMS    = 3000 // so long the gateway may hold an earlier word on the clock for true
	unwrittenMS = 2000 // what a simulator that was killed may have served since it wrote last
	minNever    = 3    // times that an instrument is heard and a channel of it is not
	minMedian   = 5    // readings
)

// pollTime is what a poll may take beyond three intervals before an instrument counts as not heard.
const pollTime = 2 * time.Second

// Report is what [Verify] finds.
type Report struct {
	Complete  bool              `json:"complete"` // the truth has an end
	Served    uint64            `json:"served"`   // values
	Readings  uint64            `json:"readings"` // distinct
	Repeats   uint64            `json:"repeats"`  // identical ones, which delivery at least once makes
	Lanes     int               `json:"lanes"`
	Gaps      map[string]uint64 `json:"gaps"`       // readings given up or not taken, by reason
	Aggregate uint64            `json:"aggregate"`  // readings computed from several, which cannot be compared
	Stale     uint64            `json:"stale"`      // readings whose time is not to be trusted, compared by value
	LargestMS int64             `json:"largest_ms"` // from a reading's time to its value's, of instruments that are asked
	Beyond    uint64            `json:"beyond"`     // readings after what a cut off truth tells, which are not judged
	Missing   uint64            `json:"missing"`    // values that were served while nothing excuses it, and did not arrive
	WatchedMS int64             `json:"watched_ms"` // of all instruments together
	ExcusedMS int64             `json:"excused_ms"` // of that, the time for which a fault or a gap excuses silence
	Findings  []Finding         `json:"findings"`   // one of each of Kinds
	Recovered []Recovery        `json:"recoveries"` // of each fault and sensor
}

// Finding is all that went wrong in one way.
type Finding struct {
	Kind     Kind      `json:"kind"`
	Count    uint64    `json:"count"`
	Examples []Example `json:"examples"`
}

// Example is one case of a [Finding].
type Example struct {
	Gateway string   `json:"gateway,omitempty"`
	Epoch   uint32   `json:"epoch"`
	Seq     uint64   `json:"seq,omitempty"`
	To      uint64   `json:"to,omitempty"` // the last one, of several numbers
	Channel string   `json:"channel,omitempty"`
	TimeMS  int64    `json:"t_ms,omitempty"`
	Value   *float64 `json:"value,omitempty"`
	Why     string   `json:"why"`
}

// Recovery is how long an instrument took to come back.
type Recovery struct {
	Fault   string `json:"fault"`
	On      string `json:"on"`
	Sensor  string `json:"sensor"` // empty: it concerns none
	BeginMS int64  `json:"begin_ms"`
	EndMS   int64  `json:"end_ms"` // 0: it lasted until the end
	// AfterMS is from the fault's end to the first reading taken after it; nil: there is none.
	AfterMS *int64 `json:"after_ms"`
}

// OK says that nothing went wrong.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Count > 0 })
}

// Count is how often something went wrong in one way.
func (r *Report) Count(k Kind) uint64 { return r.Findings[slices.Index(Kinds, k)].Count }

// The bounds of what arrived.
const (
	maxLanes  = 1000
	maxGaps   = 1_000_000
	maxBeyond = 1_000_000 // readings more than values were served
	maxLook   = 10_000    // readings that are not found, before the search gets coarser
)

type laneKey struct {
	gateway string
	epoch   uint32
}

// lane is what arrived of one.
type lane struct {
	laneKey
	seen map[uint64]int // sequence number → index into readings
	gaps []span
}

// span is numbers that a gap record, or a reading, covers.
type span struct {
	from, to uint64
	ms       int64 // of a reading
	timeless bool  // a gap of unknown time
}

// gap is a gap record, to know repeats by.
type gap struct {
	lane           int
	from, to, n    uint64 // from and to: 0 where nothing was sampled
	msFrom, msTo   int64
	reason         string
	maybeDelivered bool
}

// reading is one that arrived.
type reading struct {
	lane    int
	seq     uint64
	ms      int64
	value   float64
	channel int // -1: the site has none of this name
	quality quality
}

type quality uint8

const (
	plain quality = iota // good or suspect
	stale
	aggregate
	odd // something else is wrong with it, which has been said
)

// instrument is a sensor and what is known of it.
type instrument struct {
	Sensor
	heard []mark
	lags  []int64 // from a reading's time to its value's, while nothing disturbed the bus
}

// mark is a time at which an instrument was heard, or need not have been.
type mark struct{ from, to int64 }

// given is the time of a gap record, and how many readings it says were given up or not taken.
type given struct {
	mark
	n uint64
}

type channel struct {
	full   string
	unit   string
	sensor int
	queue  Queue
	heard  []mark
}

// clock is the site's from an instant on.
type clock struct{ from, offset int64 }

// lasting is a fault with its end.
type lasting struct {
	Fault
	end int64 // 0: none
}

type verifier struct {
	Options
	report   Report
	sensors  []*instrument
	byName   map[string]int // of sensors
	channels []*channel
	byFull   map[string]int // of channels
	clocks   []clock
	doubted  []mark            // times at which the clock was not trusted
	faulty   map[string][]mark // by bus: times at which a fault lay on it
	held     map[string][]mark // by bus: those at which a poll may have waited for long
	shared   map[string]int    // by bus: how many instruments sit on it
	faults   []lasting
	lanes    []*lane
	byKey    map[laneKey]int
	readings []reading
	gaps     map[gap]bool
	unheard  []given // of gap records
	first    int64   // a gateway was there: between these
	last     int64
	end      int64   // of what the truth tells
	numbers  float64 // sequence numbers that arrived or that a gap covers
	looked   int     // readings for which other channels were asked
	searched int     // readings without a time that were not found
}

// Verify compares the truth of a site with what arrived: readings as JSON lines, as homeward decode prints them, in any
// order, of any number of gateways and epochs. The error is of reading alone. Its memory is bounded by what was served.
func Verify(truth, arrived io.Reader, o Options) (*Report, error) {
	if o.Allowance == 0 {
		o.Allowance = DefaultAllowance
	}
	v := &verifier{Options: o, byName: map[string]int{}, byFull: map[string]int{}, byKey: map[laneKey]int{}, gaps: map[gap]bool{}}
	v.report.Gaps = map[string]uint64{}
	v.report.Recovered = []Recovery{}
	for _, k := range Kinds {
		v.report.Findings = append(v.report.Findings, Finding{Kind: k, Examples: []Example{}})
	}
	if err := v.truth(truth); err != nil {
		return nil, err
	}
	if err := v.arrived(arrived); err != nil {
		return nil, err
	}
	v.lost()
	v.tooMany()
	v.compare()
	v.unsampled()
	v.recoveries()
	v.report.Readings, v.report.Lanes = uint64(len(v.readings)), len(v.lanes)
	return &v.report, nil
}

// find notes n cases, of which e is the example.
func (v *verifier) find(k Kind, n uint64, e Example) {
	f := &v.report.Findings[slices.Index(Kinds, k)]
	f.Count += n
	if len(f.Examples) < maxExamples {
		f.Examples = append(f.Examples, e)
	}
}

func (v *verifier) truth(in io.Reader) (err error) {
	see := func(ms int64) {
		if v.first == 0 || ms < v.first {
			v.first = ms
		}
		v.last = max(v.last, ms)
	}
	v.report.Complete, err = Read(in, Reader{
		Site: func(s Site) error {
			v.clocks = []clock{{s.TimeMS, s.OffsetMS}}
			v.trust(s.TimeMS, s.Untrusted)
			return nil
		},
		Sensor: func(s Sensor) error {
			at := len(v.sensors)
			v.byName[s.Name] = at
			v.sensors = append(v.sensors, &instrument{Sensor: s})
			for _, c := range s.Channels {
				full := s.Name + "/" + c.Name
				v.byFull[full] = len(v.channels)
				v.channels = append(v.channels, &channel{full: full, unit: c.Unit, sensor: at, queue: Queue{Tolerance: c.Tolerance}})
			}
			return nil
		},
		Served: func(s Served) error {
			c := v.channels[v.byFull[s.Channel]]
			c.queue.Add(Value{s.Value, s.TimeMS})
			v.report.Served++
			v.end = max(v.end, s.TimeMS)
			if !v.sensors[c.sensor].Talks { // somebody asked
				see(s.TimeMS)
			}
			return nil
		},
		Fault: func(f Fault) error {
			v.end = max(v.end, f.TimeMS)
			if f.On == OnClock && f.Fault == "clock-jump" {
				v.clocks = append(v.clocks, clock{f.TimeMS, f.OffsetMS})
				v.trust(f.TimeMS, f.Untrusted)
			}
			if f.State == "begin" {
				v.faults = append(v.faults, lasting{Fault: f})
				return nil
			}
			for i := len(v.faults) - 1; i >= 0; i-- {
				if x := &v.faults[i]; x.On == f.On && x.Fault.Fault == f.Fault && x.end == 0 {
					x.end = max(f.TimeMS, 1)
					return nil
				}
			}
			return fmt.Errorf("the end of %s on %s, which has not begun", shorten(f.Fault), shorten(f.On))
		},
	})
	for _, c := range v.channels {
		c.queue.Sort()
	}
	v.disturb()
	return err
}

// trust notes whether the clock is trusted from now on.
func (v *verifier) trust(ms int64, untrusted bool) {
	if n := len(v.doubted); n > 0 && v.doubted[n-1].to == math.MaxInt64 {
		v.doubted[n-1].to = ms + followMS
	}
	if untrusted {
		v.doubted = append(v.doubted, mark{ms - roundMS, math.MaxInt64})
	}
}

func inside(marks []mark, ms int64) bool {
	return slices.ContainsFunc(marks, func(m mark) bool { return ms >= m.from && ms <= m.to })
}

// bus is what an instrument shares with its neighbours.
func (x *instrument) bus() string {
	if x.Bus == "" {
		return "/" + x.Name // no bus has such a name
	}
	return x.Bus
}

// disturb notes when a fault lay on each bus: in the order of time, without overlaps.
func (v *verifier) disturb() {
	v.faulty, v.held, v.shared = map[string][]mark{}, map[string][]mark{}, map[string]int{}
	for _, x := range v.sensors {
		v.shared[x.bus()]++
	}
	for _, f := range v.faults {
		m := mark{f.TimeMS, math.MaxInt64}
		if f.end > 0 {
			m.to = f.end + settleMS
		}
		said := map[string]bool{}
		for _, name := range f.Sensors {
			if bus := v.sensors[v.byName[name]].bus(); !said[bus] {
				said[bus] = true
				v.faulty[bus] = append(v.faulty[bus], m)
				if f.Fault.Fault == "stuck" || f.Fault.Fault == "late" && v.sensors[v.byName[name]].Talks {
					v.held[bus] = append(v.held[bus], mark{m.from - heldMS, m.to})
				}
			}
		}
	}
	for bus, marks := range v.faulty {
		v.faulty[bus] = merge(marks)
	}
}

// disturbed says whether a fault lay on the instrument's bus between two times.
func (v *verifier) disturbed(x *instrument, from, to int64) bool {
	marks := v.faulty[x.bus()]
	i, _ := slices.BinarySearchFunc(marks, from, func(m mark, ms int64) int { return cmp.Compare(m.to, ms) })
	return i < len(marks) && marks[i].from <= to
}

// line is one of homeward decode's.
type line struct {
	Gateway string   `json:"gateway"`
	Epoch   uint32   `json:"epoch"`
	Seq     *uint64  `json:"seq"`
	Time    string   `json:"time"`
	TimeMS  int64    `json:"t_ms"`
	Channel string   `json:"channel"`
	Value   *float64 `json:"value"`
	Unit    string   `json:"unit"`
	Quality string   `json:"quality"`
	Gap     *struct {
		From           *uint64 `json:"from"`
		To             *uint64 `json:"to"`
		N              uint64  `json:"n"`
		TFrom          int64   `json:"t_from"`
		TTo            int64   `json:"t_to"`
		Reason         string  `json:"reason"`
		MaybeDelivered bool    `json:"maybe_delivered"`
	} `json:"gap"`
}

// reasons are those that a gateway gives for a gap.
var reasons = []string{"evicted", "purged", "damaged", "undeliverable", "thinned", "refused", "unsampled"}

func (v *verifier) arrived(in io.Reader) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	for n := 1; ; n++ {
		text, err := readLine(lines)
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return fmt.Errorf("arrived: line %d: %w", n, err)
		}
		if len(text) > 0 && text[0] != '\n' {
			var l line
			if err = strict(text, &l); err == nil {
				err = v.line(&l)
			}
			if err != nil {
				return fmt.Errorf("arrived: line %d: %w: want what homeward decode prints", n, err)
			}
		}
		if last {
			return nil
		}
	}
}

func (v *verifier) line(l *line) error {
	if !isName(l.Gateway) {
		return fmt.Errorf("gateway %q: want a name", shorten(l.Gateway))
	}
	key := laneKey{l.Gateway, l.Epoch}
	at, ok := v.byKey[key]
	if !ok {
		if at = len(v.lanes); at >= maxLanes {
			return fmt.Errorf("more than %d gateways and epochs", maxLanes)
		}
		v.byKey[key] = at
		v.lanes = append(v.lanes, &lane{laneKey: key, seen: map[uint64]int{}})
	}
	if g := l.Gap; g != nil {
		if l.Seq != nil || (g.From == nil) != (g.To == nil) || g.From != nil && (*g.From < 1 || *g.From > *g.To) || !isName(g.Reason) {
			return errors.New("a gap that makes no sense")
		}
		if !slices.Contains(reasons, g.Reason) {
			return fmt.Errorf("a gap's reason %q: want one of %s", shorten(g.Reason), strings.Join(reasons, ", "))
		}
		x := gap{lane: at, n: g.N, msFrom: g.TFrom, msTo: g.TTo, reason: g.Reason, maybeDelivered: g.MaybeDelivered}
		if g.From != nil {
			x.from, x.to = *g.From, *g.To
		}
		if v.gaps[x] {
			v.report.Repeats++
			return nil
		}
		if v.gaps[x] = true; len(v.gaps) > maxGaps || len(v.report.Gaps) > 100 {
			return fmt.Errorf("more than %d gaps, or 100 reasons", maxGaps)
		}
		v.report.Gaps[x.reason] += x.n
		timed := x.msFrom > 0 && x.msTo >= x.msFrom && x.msTo <= maxTimeMS
		if timed {
			v.unheard = append(v.unheard, given{mark{x.msFrom, x.msTo}, x.n})
		}
		if x.from > 0 {
			v.lanes[at].gaps = append(v.lanes[at].gaps, span{from: x.from, to: x.to, timeless: !timed})
		}
		return nil
	}
	if l.Seq == nil || *l.Seq == 0 || l.Value == nil || l.TimeMS < -maxTimeMS || l.TimeMS > maxTimeMS {
		return errors.New("neither a reading nor a gap")
	}
	r := reading{lane: at, seq: *l.Seq, ms: l.TimeMS, value: *l.Value, channel: -1}
	switch l.Quality {
	case "good", "suspect":
	case "stale-clock":
		r.quality = stale
	case "aggregate":
		r.quality = aggregate
	default:
		return fmt.Errorf("quality %q", shorten(l.Quality))
	}
	why := "no channel of this site"
	if c, ok := v.byFull[l.Channel]; ok {
		r.channel = c
		why = ""
		if unit := v.channels[c].unit; unit != l.Unit {
			why = fmt.Sprintf("unit %q, the site's is %q", shorten(l.Unit), unit)
		}
	}
	late := "" // what its two times say
	if text := time.UnixMilli(l.TimeMS).UTC().Format("2006-01-02T15:04:05.000Z"); l.Time != text {
		late = fmt.Sprintf("its time says %q, its t_ms %s", shorten(l.Time), text)
	}
	if before, again := v.lanes[at].seen[r.seq]; again {
		if v.readings[before] == r && why == "" {
			v.report.Repeats++
		} else {
			e := v.example(r, "another content than the first time")
			e.Channel = shorten(l.Channel)
			v.find(Repeated, 1, e)
		}
		return nil
	}
	if uint64(len(v.readings)) >= v.report.Served+maxBeyond {
		return fmt.Errorf("%d more readings than the site served values", maxBeyond)
	}
	v.lanes[at].seen[r.seq] = len(v.readings)
	if why != "" {
		e := v.example(r, why)
		e.Channel = shorten(l.Channel)
		v.find(Misnamed, 1, e)
		if r.channel >= 0 { // heard, at least
			r.quality = odd
		}
	}
	if late != "" && why == "" {
		v.find(Wrong, 1, v.example(r, late))
	}
	v.readings = append(v.readings, r)
	return nil
}

func (v *verifier) example(r reading, why string) Example {
	l := v.lanes[r.lane]
	e := Example{Gateway: l.gateway, Epoch: l.epoch, Seq: r.seq, TimeMS: r.ms, Value: &r.value, Why: why}
	if r.channel >= 0 {
		e.Channel = v.channels[r.channel].full
	}
	return e
}

// lost looks for holes in the numbers of each lane. A gap of unknown time lies between the readings beside it.
func (v *verifier) lost() {
	for _, l := range v.lanes {
		spans := slices.Clone(l.gaps)
		for seq, i := range l.seen {
			spans = append(spans, span{from: seq, to: seq, ms: v.readings[i].ms})
		}
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
		end := uint64(0) // all up to here is there
		before, last, timeless := int64(0), uint64(0), false
		for _, s := range spans {
			if s.from-1 > end {
				v.find(Lost, s.from-1-end, Example{Gateway: l.gateway, Epoch: l.epoch, Seq: end + 1, To: s.from - 1, Why: "no reading, and no gap covers it"})
			}
			v.numbers += float64(s.to - min(s.to, max(end, s.from-1)))
			end = max(end, s.to)
			if s.ms != 0 {
				if timeless && before != 0 && before < s.ms {
					v.unheard = append(v.unheard, given{mark{before, s.ms}, s.from - last})
				}
				before, last, timeless = s.ms, s.from, false
			}
			timeless = timeless || s.timeless
		}
	}
}

// tooMany looks whether more was given up than there can have been.
func (v *verifier) tooMany() {
	numbers := v.numbers
	for _, r := range v.readings {
		if r.quality == aggregate { // it has a number of its own
			numbers--
		}
	}
	if v.report.Complete && numbers > float64(v.report.Served) {
		v.find(Wrong, 1, Example{Why: fmt.Sprintf("%.0f readings arrived or were given up, of %d values that were served", numbers, v.report.Served)})
	}
}

// machine gives the times at which the machine's clock may have been when the site's was at ms, the likeliest first.
func (v *verifier) machine(ms int64) (times []int64) {
	const slack = 5000
	for i, c := range v.clocks {
		t := ms - c.offset
		until := v.end
		if i+1 < len(v.clocks) {
			until = v.clocks[i+1].from
		}
		if t >= c.from-slack && t <= until+slack && !slices.Contains(times, t) {
			times = append(times, t)
		}
	}
	if times == nil {
		times = []int64{ms - v.clocks[0].offset}
	}
	return times
}

// compare looks for each reading among what was served on its channel.
func (v *verifier) compare() {
	order := make([][]int, len(v.channels))
	for i, r := range v.readings {
		if r.channel >= 0 {
			order[r.channel] = append(order[r.channel], i)
		}
	}
	var left []int // not found under their own name
	for c := range v.channels {
		left = append(left, v.channel(c, order[c])...)
	}
	for _, i := range left {
		v.judge(&v.readings[i])
	}
	v.early()
}

// channel compares the readings of one channel, and returns those of which it does not find the value.
func (v *verifier) channel(at int, order []int) (left []int) {
	c := v.channels[at]
	x := v.sensors[c.sensor]
	time := func(r *reading) int64 { return v.machine(r.ms)[0] }
	slices.SortFunc(order, func(i, j int) int {
		a, b := &v.readings[i], &v.readings[j]
		switch {
		case a.quality != b.quality:
			return cmp.Compare(a.quality, b.quality)
		case a.quality == stale:
			return cmp.Or(cmp.Compare(v.lanes[a.lane].epoch, v.lanes[b.lane].epoch), cmp.Compare(a.seq, b.seq))
		}
		return cmp.Or(cmp.Compare(time(a), time(b)), cmp.Compare(a.lane, b.lane), cmp.Compare(a.seq, b.seq))
	})
	var sought []Sought
	var of []int // which readings they are
	var before *reading
	for _, i := range order {
		r := &v.readings[i]
		if r.quality != plain {
			continue
		}
		twin := before != nil && before.ms == r.ms && before.value == r.value && v.lanes[before.lane].gateway == v.lanes[r.lane].gateway
		if before = r; twin {
			v.find(Repeated, 1, v.example(*r, "the same reading under another number, too"))
			continue
		}
		times := v.machine(r.ms)
		sought = append(sought, Sought{r.value, times, v.window(x, times[0])})
		of = append(of, i)
	}
	for n, i := range c.queue.Match(sought) {
		if i < 0 {
			left = append(left, of[n])
			continue
		}
		s := sought[n]
		served := c.queue.values[i].MS
		ms := slices.MinFunc(s.Times, func(a, b int64) int { return cmp.Compare(max(a-served, served-a), max(b-served, served-b)) })
		v.hear(c, ms)
		if !v.disturbed(x, ms, served) && len(s.Times) == 1 {
			x.lags = append(x.lags, served-ms)
		}
		if !x.Talks {
			v.report.LargestMS = max(v.report.LargestMS, served-ms)
		}
		v.last = max(v.last, ms)
		if v.first == 0 {
			v.first = ms
		}
	}
	for _, i := range order {
		r := &v.readings[i]
		switch r.quality {
		case plain:
		case aggregate:
			v.report.Aggregate++
			v.hear(c, time(r))
		case odd:
			v.hear(c, time(r))
		case stale:
			v.report.Stale++
			if len(v.doubted) == 0 {
				v.hear(c, time(r))
				v.find(Wrong, 1, v.example(*r, "its quality is stale-clock, but the site's clock was trusted all the time"))
				continue
			}
			at, ok := Value{}, false
			if v.searched < maxLook { // each that is not found has cost a look at all
				at, ok = c.queue.takeAny(r.value, func(ms int64) bool { return inside(v.doubted, ms) })
			}
			if ok {
				v.hear(c, at.MS)
			} else {
				v.searched++
				v.find(Wrong, 1, v.example(*r, "no such value was served, while the clock was not trusted, that no other reading is of"))
			}
		}
	}
	return left
}

// hear notes that a channel was heard.
func (v *verifier) hear(c *channel, ms int64) {
	x := v.sensors[c.sensor]
	x.heard = append(x.heard, mark{ms, ms})
	c.heard = append(c.heard, mark{ms, ms})
}

// window is when the value of a reading may have been served: a gateway takes the time before it asks, and of an instrument that
// talks by itself when all has been said.
func (v *verifier) window(x *instrument, ms int64) Window {
	far := x.AnswerMS + v.Allowance.Milliseconds()
	if v.disturbed(x, ms-far, ms+far) {
		far += disturbedMS
	}
	if held := v.held[x.bus()]; len(held) > 0 && inside(held, ms) {
		far = max(far, heldMS)
	}
	if x.Talks {
		return Window{-far, roundMS}
	}
	return Window{-roundMS, far}
}

// early looks for an instrument whose readings all have a time that is somewhat off.
func (v *verifier) early() {
	for _, x := range v.sensors {
		if len(x.lags) < minMedian {
			continue
		}
		slices.Sort(x.lags)
		n := len(x.lags) / 2
		median, how := x.lags[n], "early"
		if x.Talks {
			median, how = -x.lags[n], "late"
		}
		if median > x.AnswerMS+roundMS {
			v.find(Wrong, 1, Example{Channel: x.Name, Why: fmt.Sprintf("half of its readings have a time that is %d ms or more too %s: want at most %d", median, how, x.AnswerMS+roundMS)})
		}
	}
}

// judge says what is wrong with a reading that is of no value left under its name.
func (v *verifier) judge(r *reading) {
	own := v.channels[r.channel]
	x := v.sensors[own.sensor]
	times := v.machine(r.ms)
	if !v.report.Complete {
		// A killed simulator has not written what it served in its last second, or somewhat more on a busy machine.
		for _, ms := range times {
			if w := v.window(x, ms); ms+w.To > v.end && ms+w.From < v.end+unwrittenMS {
				v.report.Beyond++
				return
			}
		}
	}
	for _, ms := range times {
		served, taken := own.queue.Has(r.value, ms, v.window(x, ms))
		switch {
		case taken:
			v.find(Repeated, 1, v.example(*r, "the value that was served then is another reading's already"))
		case served:
			v.find(Wrong, 1, v.example(*r, "in another order than was served"))
		default:
			continue
		}
		return
	}
	for _, ms := range times {
		if at, ok := own.queue.nearest(r.value, ms, Window{-heldMS, heldMS}); ok {
			w := v.window(x, ms)
			v.find(Wrong, 1, v.example(*r, fmt.Sprintf("its value was served %+d ms from its time: want %+d to %+d", at-ms, w.From, w.To)))
			return
		}
	}
	if v.looked++; v.looked <= maxLook {
		for _, c := range v.channels {
			for _, ms := range times {
				if served, _ := c.queue.Has(r.value, ms, v.window(v.sensors[c.sensor], ms)); served && c != own {
					v.find(Misnamed, 1, v.example(*r, "served as "+c.full))
					return
				}
			}
		}
	}
	v.find(Wrong, 1, v.example(*r, "nothing near was served at that time"))
}

// unsampled looks for times at which an instrument, or one of its channels alone, was not heard, and for channels of which too much
// that was served did not arrive.
func (v *verifier) unsampled() {
	if v.first == 0 {
		return // nobody was there to listen
	}
	for _, x := range v.sensors {
		slices.SortFunc(x.heard, func(a, b mark) int { return cmp.Compare(a.from, b.from) })
	}
	for at, x := range v.sensors {
		excused := v.excuses(x)
		for _, m := range merge(excused) {
			v.report.ExcusedMS += max(0, min(m.to, v.last)-max(m.from, v.first))
		}
		v.report.WatchedMS += v.last - v.first
		excused = append(excused, v.holes(x, x.Name, slices.Concat(excused, x.heard))...)
		for _, c := range v.channels {
			if c.sensor == at {
				if len(c.heard) == 0 && x.polls() >= minNever { // no fault takes one channel of an instrument that is heard
					v.find(Unsampled, 1, Example{Channel: c.full, Why: fmt.Sprintf("no reading at all, and its instrument was heard %d times", x.polls())})
					continue
				}
				excused := append(slices.Clone(excused), v.holes(x, c.full, slices.Concat(excused, c.heard))...)
				v.missing(x, c, merge(excused))
			}
		}
	}
}

// polls is how often the instrument was heard; what it said is in order.
func (x *instrument) polls() (n int) {
	for i, m := range x.heard {
		if i == 0 || m.from != x.heard[i-1].from {
			n++
		}
	}
	return n
}

// excuses are the times at which an instrument need not have been heard.
func (v *verifier) excuses(x *instrument) []mark {
	marks := []mark{{v.first, v.first}}
	for _, g := range v.unheard {
		if float64(g.to-g.from) > (float64(g.n)+1)*float64(3*x.EveryMS+pollTime.Milliseconds()) {
			continue // so few readings are none of so long a time
		}
		for _, from := range v.machine(g.from) {
			marks = append(marks, mark{from, from + g.to - g.from})
		}
	}
	for _, f := range v.faults {
		if slices.Contains(f.Sensors, x.Name) {
			m := mark{f.TimeMS, v.last}
			if f.end > 0 {
				m.to = f.end + v.recovery(x, f)
			}
			marks = append(marks, m)
		}
	}
	return marks
}

// What the gateway promises: it looks each half second for a port that is gone and has it back within two seconds; asks an instrument that is
// not what it should be again after ten; one that did not answer in time after two, or, where others wait for the bus meanwhile, after
// pauses that double, up to a minute; and all others after two seconds.
const (
	pluggedMS = 2000
	wrongMS   = 10_000
	backoffMS = 60_000
)

// recovery is how long after a fault an instrument may still be silent, its next interval not counted.
func (v *verifier) recovery(x *instrument, f lasting) int64 {
	if v.Recovery > 0 {
		return v.Recovery.Milliseconds()
	}
	switch f.Fault.Fault {
	case "unplug", "rename":
		if f.On == x.Bus && x.Driver == "modbus" || x.Talks { // a port: that it is gone is seen at once
			return pluggedMS
		}
	case "silent", "late", "truncated", "noise", "frozen", "stuck":
		if x.Talks {
			return pluggedMS
		}
		if v.shared[x.bus()] > 1 { // after pauses of 1, 2 and 4 seconds, perhaps during several faults, the next one is 8
			since := min(v.first, f.TimeMS)
			if i, _ := slices.BinarySearchFunc(x.heard, f.end, func(m mark, ms int64) int { return cmp.Compare(m.from, ms) }); i > 0 {
				since = x.heard[i-1].from
			}
			return min(backoffMS, f.end-since+max(pluggedMS, 2*x.EveryMS))
		}
		return max(pluggedMS, x.EveryMS)
	}
	return wrongMS
}

// merge puts marks in order, without overlaps.
func merge(marks []mark) (merged []mark) {
	slices.SortFunc(marks, func(a, b mark) int { return cmp.Compare(a.from, b.from) })
	for _, m := range marks {
		if n := len(merged); n > 0 && m.from <= merged[n-1].to {
			merged[n-1].to = max(merged[n-1].to, m.to)
		} else {
			merged = append(merged, m)
		}
	}
	return merged
}

// holes finds, and returns, the times for which no mark lets name be silent.
func (v *verifier) holes(x *instrument, name string, marks []mark) (holes []mark) {
	slices.SortFunc(marks, func(a, b mark) int { return cmp.Compare(a.from, b.from) })
	bound := 3*x.EveryMS + pollTime.Milliseconds()
	end := v.first
	hole := func(until int64) {
		if until-end > bound {
			holes = append(holes, mark{end, until})
			v.find(Unsampled, 1, Example{Channel: name, TimeMS: end, Why: fmt.Sprintf("no reading for %v, and no fault or gap explains it", time.Duration(until-end)*time.Millisecond)})
		}
	}
	for _, m := range marks {
		hole(min(m.from, v.last))
		end = max(end, m.to)
	}
	hole(v.last)
	return holes
}

// missing counts the values that were served while nothing excuses the channel's silence and that did not arrive. A few may: a
// poll can fail after its instrument has answered, and some instruments are read once when they are set up.
func (v *verifier) missing(x *instrument, c *channel, excused []mark) {
	if x.Talks && len(c.heard) == 0 {
		return // whether somebody listens, a talker does not know; a hole has been found
	}
	served, taken, next := uint64(0), uint64(0), 0
	first := int64(0) // missing
	all := c.queue.values
	for i := 0; i < len(all); {
		// What is asked again within half an interval is one; and what is said within one, as a position stands in several
		// sentences of a burst. A burst that is taken a little later makes two in the next.
		s, n := all[i], uint64(0)
		until := s.MS + x.EveryMS/2
		if x.Talks {
			until = s.MS - s.MS%x.EveryMS + x.EveryMS - 1
		}
		for ; i < len(all) && all[i].MS <= until; i++ {
			if c.queue.isTaken(i) {
				n++
			}
		}
		for next < len(excused) && excused[next].to+roundMS < s.MS {
			next++
		}
		if s.MS < v.first+pollTime.Milliseconds() || s.MS > v.last || next < len(excused) && excused[next].from-roundMS <= s.MS {
			continue
		}
		served++
		if n > 0 && !x.Talks {
			n = 1
		}
		if taken += n; n == 0 && first == 0 {
			first = s.MS
		}
	}
	missing := served - min(served, taken)
	v.report.Missing += missing
	if missing > 2+served/10 {
		v.find(Unsampled, 1, Example{Channel: c.full, TimeMS: first, Why: fmt.Sprintf("%d of %d values that it served did not arrive, and no fault or gap explains it", missing, served)})
	}
}

// recoveries looks for the first reading after each fault.
func (v *verifier) recoveries() {
	for _, x := range v.sensors {
		slices.SortFunc(x.heard, func(a, b mark) int { return cmp.Compare(a.from, b.from) })
	}
	for _, f := range v.faults {
		if len(f.Sensors) == 0 { // of the broker, or the clock
			v.report.Recovered = append(v.report.Recovered, Recovery{Fault: f.Fault.Fault, On: f.On, BeginMS: f.TimeMS, EndMS: f.end})
		}
		for _, name := range f.Sensors {
			r := Recovery{Fault: f.Fault.Fault, On: f.On, Sensor: name, BeginMS: f.TimeMS, EndMS: f.end}
			heard := v.sensors[v.byName[name]].heard
			i, _ := slices.BinarySearchFunc(heard, f.end, func(m mark, ms int64) int { return cmp.Compare(m.from, ms) })
			if f.end > 0 && i < len(heard) {
				after := heard[i].from - f.end
				r.AfterMS = &after
			}
			v.report.Recovered = append(v.report.Recovered, r)
		}
	}
}
