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
