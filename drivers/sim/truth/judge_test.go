package truth

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// run is a site of one sensor a with channels x and y, of which each poll serves both, and all that arrived of it.
type run struct {
	t       *testing.T
	sensors []Sensor
	records []any // after the sensors
	arrived []arrival
	open    bool // the truth has no end
	end     int64
	site    Site
}

// polls makes n polls, a second apart: x is 10 + n, y is 1000 + n, served 20 ms after the reading's time.
func polls(t *testing.T, n int) *run {
	r := &run{t: t, site: Site{Version: Version, TimeMS: begin}, end: begin + int64(n)*1000}
	r.sensors = []Sensor{{Name: "a", Driver: "modbus", EveryMS: 1000, Channels: []Channel{{Name: "x"}, {Name: "y"}}}}
	for i := range n {
		ms := begin + int64(i)*1000
		for j, name := range []string{"a/x", "a/y"} {
			v := float64([]int{10, 1000}[j] + i)
			r.records = append(r.records, Served{TimeMS: ms + 20, Channel: name, Value: v})
			r.arrived = append(r.arrived, arrival{gateway: "g", epoch: 1, seq: uint64(len(r.arrived)) + 1, ms: ms, channel: name, value: v})
		}
	}
	return r
}

// at is the reading of a channel's poll n.
func (r *run) at(channel string, n int) *arrival {
	for i := range r.arrived {
		if a := &r.arrived[i]; a.channel == channel && (a.ms-begin)/1000 == int64(n) {
			return a
		}
	}
	r.t.Fatalf("no poll %d of %s", n, channel)
	return nil
}

// drop takes readings away, as if they had never been taken.
func (r *run) drop(what func(a arrival) bool) {
	r.arrived = slices.DeleteFunc(r.arrived, what)
	for i := range r.arrived {
		r.arrived[i].seq = uint64(i) + 1
	}
}

func (r *run) told() string {
	var b bytes.Buffer
	w := NewWriter(&b)
	require.NoError(r.t, w.Write(r.site))
	for _, x := range r.sensors {
		require.NoError(r.t, w.Write(x))
	}
	records := slices.Clone(r.records)
	slices.SortStableFunc(records, func(a, b any) int { return int(timeOf(a) - timeOf(b)) })
	for _, x := range records {
		require.NoError(r.t, w.Write(x))
	}
	if !r.open {
		require.NoError(r.t, w.Write(End{TimeMS: r.end}))
	}
	require.NoError(r.t, w.Flush())
	return b.String()
}

func timeOf(x any) int64 {
	switch x := x.(type) {
	case Served:
		return x.TimeMS
	case Fault:
		return x.TimeMS
	}
	return 0
}

// fault adds one between two seconds of the run.
func (r *run) fault(name, on string, sensors []string, from, to int) {
	for i, state := range []string{"begin", "end"} {
		r.records = append(r.records, Fault{TimeMS: begin + int64([]int{from, to}[i])*1000 - 100, On: on, Sensors: sensors, Fault: name, State: state})
	}
}

func (r *run) verify() *Report {
	return verifyWith(r.t, r.told(), text(r.arrived), Options{})
}

// only requires that there is one finding, and gives its example.
func (r *run) only(k Kind) Example {
	r.t.Helper()
	report := r.verify()
	for _, f := range report.Findings {
		want := uint64(0)
		if f.Kind == k {
			want = 1
		}
		require.Equal(r.t, want, f.Count, "%s: %s", f.Kind, counts(report))
	}
	return report.Findings[slices.Index(Kinds, k)].Examples[0]
}

func (r *run) well() *Report {
	r.t.Helper()
	report := r.verify()
	require.True(r.t, report.OK(), "%s", counts(report))
	return report
}

// TestExact: a value is compared to its last bit, but for the tolerance that the truth states.
func TestExact(t *testing.T) {
	for _, c := range []struct{ served, arrived, tolerance float64 }{
		{4294967.653, 4294967.651, 0}, {1, 1.0000000009, 0}, {0.1, 0.1 + 1.4e-17, 0}, {20, 20.02001, 0.02},
	} {
		r := polls(t, 5)
		r.sensors[0].Channels[0].Tolerance = c.tolerance
		for i, x := range r.records {
			if s := x.(Served); s.Channel == "a/x" {
				s.Value = c.served
				r.records[i] = s
			}
		}
		for n := range 5 {
			r.at("a/x", n).value = c.served + c.tolerance/2
		}
		r.well()
		r.at("a/x", 3).value = c.arrived
		require.Equal(t, uint64(7), r.only(Wrong).Seq, fmt.Sprint(c))
	}
}

// TestNearest: a wrong value is found, and named itself, though the same value was served at another poll.
func TestNearest(t *testing.T) {
	r := polls(t, 20)
	r.drop(func(a arrival) bool { return a.ms == begin+11_000 }) // a poll that failed after its instrument had answered
	r.well()
	wrong := r.at("a/x", 10)
	wrong.value++ // which the failed poll served
	e := r.only(Wrong)
	require.Equal(t, wrong.seq, e.Seq)
	require.Contains(t, e.Why, "+1020 ms from its time")

	r = polls(t, 20)
	wrong = r.at("a/y", 5)
	wrong.value++ // which the next poll served, and delivered
	e = r.only(Wrong)
	require.Equal(t, []any{wrong.seq, "a/y"}, []any{e.Seq, e.Channel})

	r = polls(t, 20) // several values in one window, and values that do not change
	for i, x := range r.records {
		s := x.(Served)
		s.Value = 5
		r.records[i] = s
		r.arrived[i].value = 5
	}
	r.well()
	r.at("a/x", 7).value = 6
	require.Equal(t, r.at("a/x", 7).seq, r.only(Wrong).Seq)
}

// TestMatch: the nearest value first, and none is left without one that it could have.
func TestMatch(t *testing.T) {
	q := Queue{}
	for _, ms := range []int64{0, 300, 320} {
		q.Add(Value{5, ms})
	}
	w := Window{-100, 400}
	require.Equal(t, []int{0, 2, 1}, q.Match([]Sought{{5, []int64{0}, w}, {5, []int64{0}, w}, {5, []int64{290}, w}}))
	require.Equal(t, []int{-1}, q.Match([]Sought{{5, []int64{0}, w}}), "they are taken")
	q = Queue{}
	for _, ms := range []int64{100, 350} {
		q.Add(Value{5, ms})
	}
	require.Equal(t, []int{1, 0}, q.Match([]Sought{{5, []int64{80}, w}, {5, []int64{20}, Window{-100, 100}}}), "the nearest is another's only one")
}

// TestTimes: a time that is too early or too late is found, one reading's or all.
func TestTimes(t *testing.T) {
	shift := func(a *arrival, ms int64) { a.ms += ms }
	for _, ms := range []int64{-86_400_000, -6000, -4900, -2000, -500, 150, 300, 5000} {
		r := polls(t, 20)
		x := r.at("a/x", 10)
		shift(x, ms)
		require.Equal(t, x.seq, r.only(Wrong).Seq, "%d ms", ms)
		r = polls(t, 20)
		for i := range r.arrived {
			shift(&r.arrived[i], ms)
		}
		require.NotZero(t, r.verify().Count(Wrong), "all of them, %d ms", ms)
	}
	r := polls(t, 20) // each may be that early on a busy machine, but not all
	for i := range r.arrived {
		shift(&r.arrived[i], -300)
	}
	e := r.only(Wrong)
	require.Equal(t, "a", e.Channel)
	require.Contains(t, e.Why, "320 ms or more too early")
	r.sensors[0].AnswerMS = 250
	require.Equal(t, int64(320), r.well().LargestMS)

	r = polls(t, 20)
	r.at("a/y", 4).text = 9000
	require.Contains(t, r.only(Wrong).Why, "its time says")

	r = polls(t, 20)
	shift(r.at("a/x", 10), -600)
	require.Equal(t, uint64(1), r.verify().Count(Wrong))
	require.True(t, verifyWith(t, r.told(), text(r.arrived), Options{Allowance: 700_000_000}).OK(), "a busier machine")
	r.fault("nack", "wire", []string{"a"}, 9, 11)
	r.well() // it may have waited
	shift(r.at("a/x", 9), -1000)
	require.Equal(t, uint64(1), r.verify().Count(Wrong), "but not so long")
	r.fault("stuck", "wire", []string{"a"}, 8, 12)
	r.well()
}

// TestStale: only a clock that was not trusted makes readings whose time does not count.
func TestStale(t *testing.T) {
	r := polls(t, 10)
	for i := range r.arrived {
		r.arrived[i].quality = "stale-clock"
		r.arrived[i].ms -= 86_400_000
	}
	require.Equal(t, uint64(20), r.verify().Count(Wrong), "the clock was trusted")
	r.site.Untrusted = true
	require.Equal(t, uint64(20), r.well().Stale)
	r.records = append(r.records, Fault{TimeMS: begin + 2500, On: OnClock, Fault: "clock-jump", State: "begin"})
	require.Equal(t, uint64(8), r.verify().Count(Wrong), "it is trusted from the third poll on, of which the gateway hears some time later")
}

// TestChannel: a channel that never arrives is found, though its instrument is heard; and one of which every second reading is missing.
func TestChannel(t *testing.T) {
	r := polls(t, 30)
	r.drop(func(a arrival) bool { return a.channel == "a/y" })
	e := r.verify().Findings[slices.Index(Kinds, Unsampled)].Examples[0]
	require.Equal(t, "a/y", e.Channel)
	require.Contains(t, e.Why, "no reading at all, and its instrument was heard 30 times")
	r.fault("silent", "a", []string{"a"}, 0, 30)
	require.Equal(t, "a/y", r.only(Unsampled).Channel, "though faults lay on it all the time")

	r = polls(t, 30) // for half of the time
	r.drop(func(a arrival) bool { return a.channel == "a/y" && a.ms >= begin+15_000 })
	e = r.verify().Findings[slices.Index(Kinds, Unsampled)].Examples[0]
	require.Equal(t, []any{"a/y", begin + 14_000}, []any{e.Channel, e.TimeMS})

	r = polls(t, 30)
	r.drop(func(a arrival) bool { return a.channel == "a/y" && a.ms/1000%2 == 1 })
	e = r.only(Unsampled)
	require.Equal(t, "a/y", e.Channel)
	require.Contains(t, e.Why, "14 of 28 values")

	r = polls(t, 8)
	r.drop(func(a arrival) bool { return a.ms >= begin+4000 })
	require.Equal(t, uint64(2), r.verify().Count(Unsampled), "the last four of eight polls, of two channels: %s", counts(r.verify()))

	r = polls(t, 30) // a talker says it twice in a burst, and may be taken at any time
	r.sensors[0].Talks, r.sensors[0].AnswerMS = true, 1000
	for i, x := range r.records {
		s := x.(Served)
		again := s
		s.TimeMS -= 900
		r.records[i] = s
		r.records = append(r.records, again)
		r.arrived[i].ms += 30
	}
	r.well()
	r.drop(func(a arrival) bool { return a.channel == "a/y" && a.ms/1000%2 == 1 })
	require.Equal(t, "a/y", r.only(Unsampled).Channel)

	r = polls(t, 30) // some polls fail
	r.drop(func(a arrival) bool { return a.ms/1000%11 == 3 })
	report := r.well()
	require.Equal(t, uint64(4), report.Missing)
	require.Equal(t, []int64{29_000, 0}, []int64{report.WatchedMS, report.ExcusedMS})
}

// TestRecovery: after a fault an instrument may be silent for as long as the gateway promises of that fault, and no longer.
func TestRecovery(t *testing.T) {
	for _, c := range []struct {
		name, fault, on, driver string
		neighbour, talks        bool
		length, promise         int // s
	}{
		{"a port", "unplug", "rs485", "modbus", true, false, 20, 2},
		{"renamed", "rename", "rs485", "modbus", false, false, 1, 2},
		{"a talker's port", "unplug", "rs485", "line", false, true, 5, 2},
		{"a chip", "unplug", "a", "bme280", false, false, 5, 10},
		{"not acknowledged", "nack", "a", "bme280", true, false, 5, 10},
		{"silent alone", "silent", "a", "modbus", false, false, 20, 2},
		{"silent among others", "silent", "a", "modbus", true, false, 10, 12},
		{"silent among others for long", "silent", "a", "modbus", true, false, 70, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			const from = 10
			n := from + c.length + c.promise + 20
			for _, silent := range []int{c.promise + 3, c.promise + 8} { // after its end
				r := polls(t, n)
				r.sensors[0].Driver, r.sensors[0].Bus, r.sensors[0].Talks, r.sensors[0].AnswerMS = c.driver, "rs485", c.talks, 100
				if c.talks {
					for i := range r.arrived {
						r.arrived[i].ms += 50
					}
				}
				r.sensors = append(r.sensors, Sensor{Name: "b", Driver: "modbus", EveryMS: 10_000, Bus: map[bool]string{true: "rs485"}[c.neighbour]})
				r.fault("nack", "b", []string{"b"}, 0, n) // which has no channels
				r.fault(c.fault, c.on, []string{"a"}, from, from+c.length)
				out := func(ms int64) bool { return ms >= begin+from*1000-200 && ms < begin+int64(from+c.length+silent)*1000 }
				r.drop(func(a arrival) bool { return out(a.ms) })
				r.records = slices.DeleteFunc(r.records, func(x any) bool { s, ok := x.(Served); return ok && out(s.TimeMS) })
				if silent == c.promise+3 {
					excused := r.well().ExcusedMS - r.verify().WatchedMS/2 // b's are all
					require.InDelta(t, (c.length+c.promise)*1000, excused, 1100, "and since it was last heard")
				} else {
					require.Equal(t, "a", r.only(Unsampled).Channel)
				}
			}
		})
	}
	r := polls(t, 80) // what is not heard at all, but for faults
	r.sensors = append(r.sensors, Sensor{Name: "b", Driver: "modbus", EveryMS: 1000, Channels: []Channel{{Name: "v"}}})
	r.fault("silent", "b", []string{"b"}, 8, 48)
	require.Equal(t, uint64(2), r.verify().Count(Unsampled), "before and after: %s", counts(r.verify()))
}

// TestGaps: a gap record explains no more than it says, and not more than there was.
func TestGaps(t *testing.T) {
	r := polls(t, 60)
	r.drop(func(a arrival) bool { return a.ms >= begin+20_000 && a.ms < begin+50_000 })
	gap := func(n int) arrival {
		return arrival{gateway: "g", epoch: 1, gap: fmt.Sprintf(`{"from":null,"to":null,"n":%d,"t_from":%d,"t_to":%d,"reason":"unsampled"}`, n, begin+20_000, begin+49_000)}
	}
	all := r.arrived
	r.arrived = append(slices.Clone(all), gap(60))
	r.well()
	r.arrived = append(slices.Clone(all), gap(1))
	require.Equal(t, "a", r.only(Unsampled).Channel, "one reading is not half a minute")

	r = polls(t, 10)
	r.arrived = append(r.arrived[:10], arrival{gateway: "g", epoch: 1, gap: fmt.Sprintf(`{"from":11,"to":20,"n":10,"t_from":%d,"t_to":%d,"reason":"evicted"}`, begin+5000, begin+9000)})
	r.well()
	r.arrived[10].gap = fmt.Sprintf(`{"from":11,"to":500,"n":490,"t_from":%d,"t_to":%d,"reason":"evicted"}`, begin+5000, begin+9000)
	require.Contains(t, r.only(Wrong).Why, "500 readings arrived or were given up, of 20 values")
}

// TestKilled: what the simulator served last, and has not written, is no wrong reading; what is later is.
func TestKilled(t *testing.T) {
	r := polls(t, 20)
	r.records = r.records[:len(r.records)-4] // of the last two polls
	require.Equal(t, uint64(5), r.verify().Count(Wrong), "with an end; and more arrived than was served")
	r.open = true
	require.Equal(t, uint64(4), r.well().Beyond)
	last := r.arrived[len(r.arrived)-1]
	last.seq, last.ms = last.seq+1, last.ms+1000
	r.arrived = append(r.arrived, last)
	require.Equal(t, last.seq, r.only(Wrong).Seq)
	r.arrived = r.arrived[:len(r.arrived)-1]
	r.at("a/x", 10).value = -1
	require.Equal(t, r.at("a/x", 10).seq, r.only(Wrong).Seq)
}

// TestUnit: a reading with another unit is misnamed, and no aggregate.
func TestUnit(t *testing.T) {
	r := polls(t, 10)
	r.at("a/x", 5).unit = "K"
	require.Equal(t, r.at("a/x", 5).seq, r.only(Misnamed).Seq)
	require.Zero(t, r.verify().Aggregate)
}
