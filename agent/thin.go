package agent

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/agent/pack"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/drivers"
)

// Thinning: where at_limit is thin and the budget does not carry all readings, those that wait give way to their least, mean and greatest value of
// each channel and interval, as many intervals as the payloads hold that may leave. The originals stay in the buffer while there is room.

// thinnable is a run of polls that aggregates may stand for: alarms leave as they are, and what is an aggregate stays one.
type thinnable struct {
	r        buffer.Range
	n        int // readings
	from, to int64
	channels map[string]bool
}

// mostThinned readings are looked at together; what is left comes next.
const mostThinned = 250_000

// runs finds what may be thinned from start to end (0: to the end).
func (s *session) runs(start, end buffer.Seq) (runs []thinnable) {
	var now *thinnable
	total := 0
	for st, err := range s.lane.Open(start) {
		if total += len(st.Readings); err != nil || total > mostThinned || end != 0 && st.First >= end {
			break
		}
		last := st.First + buffer.Seq(len(st.Readings)) - 1
		if end != 0 && last >= end {
			break
		}
		if st.Alarm || st.Readings[0].Quality == drivers.Aggregate {
			now = nil
			continue
		}
		if now == nil || st.First != now.r.To+1 {
			runs = append(runs, thinnable{r: buffer.Range{From: st.First}, from: st.Time, to: st.Time, channels: map[string]bool{}})
			now = &runs[len(runs)-1]
		}
		now.r.To = last
		now.n += len(st.Readings)
		now.from, now.to = min(now.from, st.Time), max(now.to, st.Time)
		for _, r := range st.Readings {
			if !now.channels[r.Channel] {
				now.channels[strings.Clone(r.Channel)] = true
			}
		}
	}
	return runs
}

// thin replaces what waits from start to end by aggregates, if it takes more than the payloads that so many operations carry. It says whether it has replaced
// any; and how many operations aggregates take, atMost at the most, if there are to be any: until that many are there, what waits had better wait on.
func (s *session) thin(start, end buffer.Seq, operations, atMost float64) (done bool, needs float64) {
	e := s.capacity()
	if s.ledger.AtLimit() != ledger.Thin || e.plain == 0 || s.packing != nil && !s.packs && !s.unschooled { // packed, what waits may well fit
		return false, 0
	}
	cost := float64(s.rule().Cost(s.limit))
	payloads, mostly := max(1, math.Floor(operations/cost)), max(1, math.Floor(atMost/cost))
	runs := s.runs(start, end)
	total, least := 0, 0
	for _, r := range runs {
		total += r.n
		least += 3 * len(r.channels)
	}
	if float64(total) <= 1.2*payloads*e.plain {
		return false, 0
	}
	if needs = math.Ceil(float64(least) / e.aggregates); payloads < min(needs, mostly) && 2*least < total {
		return false, min(needs, mostly) * cost
	}
	room := payloads * e.aggregates
	for _, r := range runs {
		share := 0.9 * room * float64(r.n) / float64(total)
		intervals := max(1, int(share)/(3*len(r.channels)))
		if 3*len(r.channels)*intervals > r.n*2/3 {
			continue // that would save nothing
		}
		if s.replace(r, intervals) {
			done = true
		}
	}
	if !done {
		return false, 0
	}
	return true, min(needs, mostly) * cost
}

// each is how many readings a payload of a kind holds; 0 unknown.
type each struct {
	kind              payloadKind
	plain, aggregates float64
}

// payloadKind is what the capacity of a payload hangs on.
type payloadKind struct {
	limit            int
	format, encoding string
	packed           bool // the home has the schema
}

// capacity is what has been learnt of payloads as they are now: those of another size or format say nothing.
func (s *session) capacity() *each {
	if k := (payloadKind{s.limit, s.cfg.Format, s.cfg.Encoding, s.packs}); s.each.kind != k {
		s.each = each{kind: k}
	}
	return &s.each
}

// learn takes a payload of n readings; what is far from full says little.
func (e *each) learn(n, bytes, limit int, aggregates bool) {
	if n == 0 || bytes < limit/4 {
		return
	}
	full := float64(n) * float64(limit) / float64(bytes)
	into := &e.plain
	if aggregates {
		into = &e.aggregates
	}
	if *into == 0 {
		*into = full
	}
	*into += (full - *into) / 2
	if !aggregates && e.aggregates == 0 {
		e.aggregates = full / 3 // a guess: names are longer, and means seldom repeat
	}
}

// replace thins one run.
func (s *session) replace(r thinnable, intervals int) bool {
	for {
		polls := s.aggregate(r, intervals)
		if len(polls) == 0 {
			return false // all of it suspect
		}
		_, err := s.lane.Thin(r.r, polls)
		switch {
		case errors.Is(err, buffer.ErrTooLarge) && intervals > 1:
			intervals /= 2
			continue
		case err != nil:
			s.log.Warn("readings not thinned", "from", r.r.From, "to", r.r.To, "error", err)
			return false
		}
		s.log.Info("readings thinned", "from", r.r.From, "to", r.r.To, "readings", r.n, "intervals", intervals)
		now := s.clock.Stamp().Mono
		s.mu.Lock()
		s.view.Thinned += uint64(r.n)
		s.thinnedAt = now
		s.mu.Unlock()
		return true
	}
}

// span is what an interval has of one channel.
type span struct {
	unit      drivers.Unit
	low, high float64
	sum       float64
	n         float64
	decimals  int
}

// aggregate makes a poll of each sensor and interval that has readings in the run. Its time is that of the first of them.
// Values outside of the sensor's range (quality suspect) are left out, unless a channel has no others in the interval.
func (s *session) aggregate(r thinnable, intervals int) (polls []buffer.Poll) {
	type group struct {
		stamp   drivers.Stamp
		names   []string // in order of appearance
		spans   map[string]*span
		suspect map[string]*span
	}
	var order []string // of sensors
	groups := map[string]*group{}
	flush := func() {
		for _, sensor := range order {
			g := groups[sensor]
			p := buffer.Poll{Stamp: g.stamp}
			for _, name := range g.names {
				x := g.spans[name]
				if x == nil {
					x = g.suspect[name]
				}
				low, mean, high := pack.Aggregates(name)
				for _, v := range []struct {
					name  string
					value float64
				}{{low, x.low}, {mean, x.mean()}, {high, x.high}} {
					p.Readings = append(p.Readings, drivers.Reading{Channel: v.name, Value: v.value, Unit: x.unit, Quality: drivers.Aggregate})
				}
			}
			polls = append(polls, p)
		}
		order, groups = nil, map[string]*group{}
	}
	at := 0
	for st, err := range s.lane.Open(r.r.From) {
		if err != nil || st.First > r.r.To {
			break
		}
		if n := int(float64(st.Time-r.from) * float64(intervals) / float64(r.to-r.from+1)); n > at { // by sequence, should the clock have gone back
			flush()
			at = n
		}
		for _, rd := range st.Readings {
			sensor, _, _ := strings.Cut(rd.Channel, "/")
			g := groups[sensor]
			if g == nil {
				g = &group{stamp: st.Stamp(), spans: map[string]*span{}, suspect: map[string]*span{}}
				sensor = strings.Clone(sensor)
				groups[sensor], order = g, append(order, sensor)
			}
			if g.spans[rd.Channel] == nil && g.suspect[rd.Channel] == nil {
				g.names = append(g.names, strings.Clone(rd.Channel))
			}
			into := g.spans
			if rd.Quality == drivers.Suspect {
				into = g.suspect
			}
			x := into[rd.Channel]
			if x == nil {
				x = &span{unit: rd.Unit, low: rd.Value, high: rd.Value}
				into[strings.Clone(rd.Channel)] = x
			}
			x.add(rd.Value)
		}
	}
	flush()
	return polls
}

func (x *span) add(v float64) {
	x.low, x.high = min(x.low, v), max(x.high, v)
	x.sum += v
	x.n++
	if x.decimals < maxDecimals {
		x.decimals = max(x.decimals, decimals(v))
	}
}

const maxDecimals = 9

// decimals is how many digits a value has behind the point.
func decimals(v float64) int {
	var text [32]byte
	b := strconv.AppendFloat(text[:0], v, 'f', -1, 64)
	for i, c := range b {
		if c == '.' {
			return min(len(b)-i-1, maxDecimals)
		}
	}
	return 0
}

// mean has one decimal more than the values: the rest is noise that costs bytes. It lies between low and high.
func (x *span) mean() float64 {
	m := x.sum / x.n
	if math.IsInf(x.sum, 0) { // sums of what is near the largest number
		m = x.low/2 + x.high/2
	}
	if short, err := strconv.ParseFloat(strconv.FormatFloat(m, 'f', x.decimals+1, 64), 64); err == nil {
		m = short
	}
	return min(max(m, x.low), x.high)
}

// hold tells that readings, or an alarm, wait for the budget.
func (s *session) hold() {
	r := s.ledger.Report()
	if s.alarmsWait() && s.heldAlarm {
		s.problems.raise(CodeHeld, "alarms", status.Fail, fmt.Sprintf("an alarm waits: %d operations are used, the whole budget of the month from %s", r.Used, r.Month), "raise operations.per_month, or set operations.at_limit: continue")
	} else {
		s.problems.clear(CodeHeld, "alarms")
	}
	age := time.Duration(0)
	if s.heldLive || s.heldBehind {
		age = s.oldest()
	}
	most := max(heldAfter, 4*time.Duration(s.cfg.MaxAge))
	if s.ledger.AtLimit() == ledger.Thin { // aggregates are made of what has waited for as long as a payload takes
		most = max(4*heldAfter, 3*s.maxAge())
	}
	switch {
	case age > most:
		text := fmt.Sprintf("readings wait for the budget, the oldest for %v: it allows %.2g operations an hour until the month ends", age.Round(time.Minute), r.PerHour)
		if !r.Trusted {
			text += "; no month begins while the clock is not synchronised"
		}
		s.problems.raise(CodeHeld, "", status.Warn, text, "nothing is lost while the buffer has room; homeward plan says what saves operations; or raise operations.per_month, or set operations.at_limit: thin")
	case age < most/2:
		s.problems.clear(CodeHeld, "")
	}
}

// oldest is how long the oldest reading without an outcome has waited.
func (s *session) oldest() time.Duration {
	switch now, st := s.clock.Stamp(), s.buf.Stats(); {
	case st.OldestMono > 0:
		return now.Mono - st.OldestMono
	case st.OldestTime > 0: // of an earlier boot
		return time.Duration(now.Wall-st.OldestTime) * time.Millisecond
	}
	return 0
}

// heldAfter is how long readings that are due must wait for the budget before that is a problem.
const heldAfter = 15 * time.Minute

// limitState is what the budget makes of publishing now.
func limitState(c *config.Config, r ledger.Report, maxAge float64, thinning bool) string {
	budget := uint64(c.Operations.PerMonth)
	switch {
	case budget == 0:
		return "none"
	case r.Left < 1 || r.Used >= budget:
		return c.Operations.AtLimit
	case thinning && c.Operations.AtLimit == ledger.Thin: // what thinned may be configured no more
		return ledger.Thin
	case maxAge > time.Duration(c.Publish.MaxAge).Seconds():
		return "stretched"
	}
	return "below"
}
