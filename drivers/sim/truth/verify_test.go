package truth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// arrival is one line of what arrived.
type arrival struct {
	gateway string
	epoch   uint32
	seq     uint64
	ms      int64
	channel string
	value   float64
	unit    string
	quality string
	gap     string // instead
	text    int64  // how far its time as a text is from ms
}

func (a arrival) line() string {
	if a.gap != "" {
		return fmt.Sprintf(`{"gateway":%q,"epoch":%d,"gap":%s}`, a.gateway, a.epoch, a.gap)
	}
	q := a.quality
	if q == "" {
		q = "good"
	}
	return fmt.Sprintf(`{"gateway":%q,"epoch":%d,"seq":%d,"time":%q,"t_ms":%d,"channel":%q,"value":%v,"unit":%q,"quality":%q}`,
		a.gateway, a.epoch, a.seq, time.UnixMilli(a.ms+a.text).UTC().Format("2006-01-02T15:04:05.000Z"), a.ms, a.channel, a.value, a.unit, q)
}

func text(all []arrival) string {
	var b strings.Builder
	for _, a := range all {
		b.WriteString(a.line() + "\n")
	}
	return b.String()
}

const begin = int64(1_700_000_000_000)

// story is a site and all that arrived of it.
type story struct {
	truth   string
	arrived []arrival
	sensors []Sensor
}

// tell makes a story in which nothing goes wrong: one to four sensors, some of which talk, failed polls, a fault, several
// epochs, gaps, repeats, any order of arrival.
func tell(t *rapid.T) *story {
	s := &story{}
	for i := range rapid.IntRange(2, 4).Draw(t, "sensors") {
		x := Sensor{Name: fmt.Sprintf("s%d", i), Driver: "modbus", EveryMS: 1000, Talks: i == 1 && rapid.Bool().Draw(t, "talks")}
		for j := range rapid.IntRange(1, 3).Draw(t, "channels") {
			x.Channels = append(x.Channels, Channel{fmt.Sprintf("c%d", j), []string{"Cel", "", "Pa"}[j], 0.01})
		}
		s.sensors = append(s.sensors, x)
	}
	var truth bytes.Buffer
	w := NewWriter(&truth)
	write := func(v any) { require.NoError(t, w.Write(v)) }
	write(Site{Version: Version, TimeMS: begin})
	for _, x := range s.sensors {
		write(x)
	}
	// The polls, second by second. Values are all different: channel k of poll n serves 1000 k + n.
	polls := rapid.IntRange(20, 40).Draw(t, "polls")
	changes := rapid.IntRange(5, polls-1).Draw(t, "epoch changes at")
	fault := rapid.IntRange(1, 10).Draw(t, "fault at")
	failing := rapid.IntRange(0, 10).Draw(t, "failing")
	epoch, seq := uint32(7), uint64(0)
	for n := range polls {
		now := begin + int64(n)*1000
		if n == fault {
			write(Fault{TimeMS: now - 20, On: "wire", Sensors: []string{"s0"}, Fault: "unplug", State: "begin"})
		}
		if n == fault+2 {
			write(Fault{TimeMS: now - 20, On: "wire", Sensors: []string{"s0"}, Fault: "unplug", State: "end"})
		}
		if n == changes {
			epoch, seq = 8, 0
		}
		k := 0
		for i, x := range s.sensors {
			out := i == 0 && n >= fault && n < fault+2
			lost := (7*n+3*i+failing)%11 == 0 // served, but the poll failed
			for _, c := range x.Channels {
				k++
				if out {
					continue
				}
				v := float64(1000*k + n)
				write(Served{TimeMS: now + 100, Channel: x.Name + "/" + c.Name, Value: v})
				if lost {
					continue
				}
				at := now + 70
				if x.Talks {
					at = now + 130
				}
				seq++
				s.arrived = append(s.arrived, arrival{gateway: "g", epoch: epoch, seq: seq, ms: at, channel: x.Name + "/" + c.Name, value: v + 0.005, unit: c.Unit})
			}
		}
	}
	write(End{TimeMS: begin + int64(polls)*1000})
	require.NoError(t, w.Flush())
	s.truth = truth.String()
	// A range was given up, and a gap says so, once or twice.
	if i := rapid.IntRange(0, len(s.arrived)-1).Draw(t, "gap"); i > 0 {
		x := s.arrived[i]
		g := fmt.Sprintf(`{"from":%d,"to":%d,"n":1,"t_from":%d,"t_to":%d,"reason":"evicted"}`, x.seq, x.seq, x.ms, x.ms)
		s.arrived[i] = arrival{gateway: x.gateway, epoch: x.epoch, gap: g}
		s.arrived = append(s.arrived, s.arrived[i])
	}
	return s
}

// shuffle brings everything in any order, and some of it twice.
func (s *story) shuffle(t *rapid.T) string {
	all := append(slices.Clone(s.arrived), s.arrived[:rapid.IntRange(0, len(s.arrived)).Draw(t, "again")]...)
	return text(rapid.Permutation(all).Draw(t, "order"))
}

func verify(t require.TestingT, truth, arrived string) *Report {
	return verifyWith(t, truth, arrived, Options{Recovery: 3e9})
}

func verifyWith(t require.TestingT, truth, arrived string, o Options) *Report {
	r, err := Verify(strings.NewReader(truth), strings.NewReader(arrived), o)
	require.NoError(t, err)
	return r
}

func counts(r *Report) string {
	text, _ := json.Marshal(r.Findings)
	return string(text)
}

// TestNothingWrong: whatever order it arrives in.
func TestNothingWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := tell(t)
		r := verify(t, s.truth, s.shuffle(t))
		require.True(t, r.OK(), "%s", counts(r))
		require.True(t, r.Complete)
		require.Len(t, r.Recovered, 1)
		require.NotNil(t, r.Recovered[0].AfterMS)
		require.Zero(t, (*r.Recovered[0].AfterMS-90)%1000, "the reading of a poll after the fault")
	})
}

// mutations are all that can go wrong; each says which kind must be found.
var mutations = map[string]func(t *rapid.T, s *story) Kind{
	"drop": func(t *rapid.T, s *story) Kind {
		i := s.pick(t, func(i int) bool { // the last number of a lane is missed by nobody
			return slices.ContainsFunc(s.arrived, func(x arrival) bool { return x.epoch == s.arrived[i].epoch && x.seq > s.arrived[i].seq })
		})
		s.arrived = slices.Delete(s.arrived, i, i+1)
		return Lost
	},
	"repeat under a new key": func(t *rapid.T, s *story) Kind {
		x := s.arrived[s.pick(t, nil)]
		x.seq = s.last(x.epoch) + 1
		s.arrived = append(s.arrived, x)
		return Repeated
	},
	"repeat under a new key and time": func(t *rapid.T, s *story) Kind {
		x := s.arrived[s.pick(t, nil)]
		x.seq = s.last(x.epoch) + 1
		x.ms++
		s.arrived = append(s.arrived, x)
		return Repeated
	},
	"repeat in a new epoch": func(t *rapid.T, s *story) Kind {
		x := s.arrived[s.pick(t, nil)]
		x.epoch, x.seq = 99, 1
		s.arrived = append(s.arrived, x)
		return Repeated
	},
	"another content of a key": func(t *rapid.T, s *story) Kind {
		x := s.arrived[s.pick(t, nil)]
		x.ms += rapid.Int64Range(1, 50).Draw(t, "later")
		s.arrived = append(s.arrived, x)
		return Repeated
	},
	"rename to what there is not": func(t *rapid.T, s *story) Kind {
		s.arrived[s.pick(t, nil)].channel = rapid.SampledFrom([]string{"s0/c9", "oven/x", "s0", "", "s0/c0 "}).Draw(t, "name")
		return Misnamed
	},
	"rename to another": func(t *rapid.T, s *story) Kind {
		x := &s.arrived[s.pick(t, nil)]
		var others []Channel
		var names []string
		for _, y := range s.sensors {
			for _, c := range y.Channels {
				if full := y.Name + "/" + c.Name; full != x.channel {
					others, names = append(others, c), append(names, full)
				}
			}
		}
		i := rapid.IntRange(0, len(others)-1).Draw(t, "other")
		x.channel, x.unit = names[i], others[i].Unit
		return Misnamed
	},
	"another unit": func(t *rapid.T, s *story) Kind {
		s.arrived[s.pick(t, nil)].unit = "K"
		return Misnamed
	},
	"another value": func(t *rapid.T, s *story) Kind {
		s.arrived[s.pick(t, nil)].value += rapid.SampledFrom([]float64{0.02, -0.02, 0.5, 1e5, -1e5}).Draw(t, "by")
		return Wrong
	},
	"swap two channels": func(t *rapid.T, s *story) Kind {
		i := s.pick(t, nil)
		j := s.pick(t, func(j int) bool {
			return s.arrived[j].channel != s.arrived[i].channel && s.arrived[j].ms/1000 == s.arrived[i].ms/1000
		})
		s.arrived[i].value, s.arrived[j].value = s.arrived[j].value, s.arrived[i].value
		return Misnamed
	},
	"shift the time": func(t *rapid.T, s *story) Kind {
		s.arrived[s.pick(t, nil)].ms += rapid.SampledFrom([]int64{-3600_000, -60_000, -5200, 5200, 60_000, 3600_000}).Draw(t, "by")
		return Wrong
	},
	"shift the time a little": func(t *rapid.T, s *story) Kind {
		i := s.pick(t, func(i int) bool { return !strings.HasPrefix(s.arrived[i].channel, "s0/") }) // no fault was near
		s.arrived[i].ms += rapid.SampledFrom([]int64{-4900, -2000, -500, 200, 300, 2000, 4900}).Draw(t, "by")
		if strings.HasPrefix(s.arrived[i].channel, "s1/") && s.sensors[1].Talks {
			s.arrived[i].ms = begin - 2000
		}
		return Wrong
	},
	"a stretch of one sensor was never sampled": func(t *rapid.T, s *story) Kind {
		s.sample(t, true)
		return Unsampled
	},
	"a stretch of one sensor is dropped": func(t *rapid.T, s *story) Kind {
		s.sample(t, false)
		return Lost
	},
	"the gap is missing": func(t *rapid.T, s *story) Kind {
		i := s.pick(t, func(i int) bool {
			return slices.ContainsFunc(s.arrived, func(x arrival) bool { return x.epoch == s.arrived[i].epoch && x.seq > s.arrived[i].seq })
		})
		x := s.arrived[i]
		g := arrival{gateway: x.gateway, epoch: x.epoch, gap: fmt.Sprintf(`{"from":%d,"to":%d,"n":1,"t_from":%d,"t_to":%d,"reason":"damaged"}`, x.seq, x.seq, x.ms, x.ms)}
		s.arrived[i] = g
		r := verify(t, s.truth, s.shuffle(t))
		require.True(t, r.OK(), "with it: %s", counts(r))
		s.arrived = slices.Delete(s.arrived, i, i+1)
		return Lost
	},
}

// pick is the index of a reading.
func (s *story) pick(t *rapid.T, ok func(i int) bool) int {
	var fit []int
	for i, x := range s.arrived {
		if x.gap == "" && (ok == nil || ok(i)) {
			fit = append(fit, i)
		}
	}
	if len(fit) == 0 {
		t.Skip("none fits")
	}
	return rapid.SampledFrom(fit).Draw(t, "which")
}

func (s *story) last(epoch uint32) (seq uint64) {
	for _, x := range s.arrived {
		if x.epoch == epoch {
			seq = max(seq, x.seq)
		}
	}
	return seq
}

// sample takes eight seconds or more of the last sensor out, whose fault never was; the numbers close up.
func (s *story) sample(t *rapid.T, renumber bool) {
	name := s.sensors[len(s.sensors)-1].Name + "/"
	from := begin + 1000*rapid.Int64Range(1, 10).Draw(t, "from")
	to := from + 1000*rapid.Int64Range(8, 10).Draw(t, "seconds")
	s.arrived = slices.DeleteFunc(s.arrived, func(x arrival) bool {
		return strings.HasPrefix(x.channel, name) && x.ms >= from && x.ms < to || renumber && x.gap != ""
	})
	if renumber {
		n := map[uint32]uint64{}
		for i := range s.arrived {
			n[s.arrived[i].epoch]++
			s.arrived[i].seq = n[s.arrived[i].epoch]
		}
	}
}

// TestMutations: whatever went wrong is found, and named.
func TestMutations(t *testing.T) {
	for name, mutate := range mutations {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := tell(t)
				kind := mutate(t, s)
				r := verify(t, s.truth, s.shuffle(t))
				require.NotZero(t, r.Count(kind), "%s: %s", kind, counts(r))
				require.NotEmpty(t, r.Findings[slices.Index(Kinds, kind)].Examples)
			})
		})
	}
}

// TestExplained: a gap record, and a fault, explain silence; nothing else does.
func TestExplained(t *testing.T) {
	var truth bytes.Buffer
	w := NewWriter(&truth)
	require.NoError(t, w.Write(Site{Version: 1, TimeMS: begin}))
	for _, name := range []string{"a", "b"} {
		require.NoError(t, w.Write(Sensor{Name: name, Driver: "x", EveryMS: 1000, Channels: []Channel{{Name: "v"}}}))
	}
	var all []arrival
	add := func(name string, n int) {
		ms := begin + int64(n)*1000
		require.NoError(t, w.Write(Served{TimeMS: ms, Channel: name + "/v", Value: float64(n)}))
		all = append(all, arrival{gateway: "g", epoch: 1, seq: uint64(len(all)) + 1, ms: ms, channel: name + "/v", value: float64(n)})
	}
	for n := range 60 {
		add("a", n)
		if n < 10 || n >= 40 {
			add("b", n)
		}
	}
	require.NoError(t, w.Flush())
	r := verify(t, truth.String(), text(all))
	require.Equal(t, uint64(1), r.Count(Unsampled), "%s", counts(r))
	require.False(t, r.Complete)
	e := r.Findings[slices.Index(Kinds, Unsampled)].Examples[0]
	require.Equal(t, "b", e.Channel)
	require.Equal(t, begin+9000, e.TimeMS)
	require.Contains(t, e.Why, "31s")

	gap := arrival{gateway: "g", epoch: 1, gap: fmt.Sprintf(`{"from":null,"to":null,"n":30,"t_from":%d,"t_to":%d,"reason":"unsampled"}`, begin+10000, begin+39000)}
	r = verify(t, truth.String(), text(append(all, gap)))
	require.True(t, r.OK(), "%s", counts(r))
	require.Equal(t, map[string]uint64{"unsampled": 30}, r.Gaps)

	fault := func(sensor string, from, to int) {
		for i, state := range []string{"begin", "end"} {
			require.NoError(t, w.Write(Fault{TimeMS: begin + int64([]int{from, to}[i])*1000, On: "bus", Sensors: []string{sensor}, Fault: "silent", State: state}))
		}
		require.NoError(t, w.Flush())
	}
	fault("a", 9, 38)
	require.False(t, verify(t, truth.String(), text(all)).OK(), "a neighbour's fault")
	fault("b", 9, 30)
	require.False(t, verify(t, truth.String(), text(all)).OK(), "it ended long before, and the recovery took long")
	fault("b", 31, 38)
	r = verify(t, truth.String(), text(all))
	require.True(t, r.OK(), "%s", counts(r))
	require.Equal(t, int64(10000), *r.Recovered[1].AfterMS)
	require.Equal(t, int64(2000), *r.Recovered[2].AfterMS)
}

// TestNever: an instrument that never gave anything, and a fault that never ended.
func TestNever(t *testing.T) {
	truth := fmt.Sprintf(`{"kind":"site","version":1,"t_ms":%[1]d}
{"kind":"sensor","sensor":"a","driver":"x","every_ms":1000,"talks":false,"channels":[{"name":"v","unit":"","tolerance":0}]}
{"kind":"sensor","sensor":"b","driver":"x","every_ms":1000,"talks":false,"channels":[{"name":"v","unit":"","tolerance":0}]}
{"kind":"sensor","sensor":"c","driver":"x","every_ms":1000,"talks":false,"channels":[]}
{"kind":"fault","t_ms":%[1]d,"on":"c","sensors":["c"],"fault":"nack","state":"begin"}
{"kind":"fault","t_ms":%[1]d,"on":"broker","sensors":[],"fault":"gone","state":"begin"}
`, begin)
	var all []arrival
	for n := range 10 {
		ms := begin + int64(n)*1000
		truth += fmt.Sprintf(`{"kind":"served","t_ms":%d,"channel":"a/v","value":%d}`+"\n", ms, n)
		all = append(all, arrival{gateway: "g", epoch: 1, seq: uint64(n) + 1, ms: ms, channel: "a/v", value: float64(n)})
	}
	r := verify(t, truth+`{"kind":"end","t_m`, text(all))
	require.False(t, r.Complete, "cut off within its last line")
	require.Equal(t, uint64(1), r.Count(Unsampled), "%s", counts(r))
	require.Equal(t, "b", r.Findings[4].Examples[0].Channel)
	require.Len(t, r.Recovered, 2)
	require.Nil(t, r.Recovered[0].AfterMS)
	require.Empty(t, r.Recovered[1].Sensor)
}

// TestClock: a clock that is ahead, and one that jumps, do not make right readings wrong; and one that was not trusted is
// compared by value alone.
func TestClock(t *testing.T) {
	truth := fmt.Sprintf(`{"kind":"site","version":1,"t_ms":%d,"offset_ms":100000,"untrusted":true}
{"kind":"sensor","sensor":"a","driver":"x","every_ms":1000,"talks":false,"channels":[{"name":"v","unit":"","tolerance":0}]}
`, begin)
	var all []arrival
	for n := range 30 {
		ms, offset := begin+int64(n)*1000, int64(100000)
		if n == 10 {
			truth += fmt.Sprintf(`{"kind":"fault","t_ms":%d,"on":"clock","sensors":[],"fault":"clock-jump","state":"begin","offset_ms":-3600000,"untrusted":true}`+"\n", ms)
		}
		if n >= 10 {
			offset = -3600000
		}
		truth += fmt.Sprintf(`{"kind":"served","t_ms":%d,"channel":"a/v","value":%d}`+"\n", ms, n)
		all = append(all, arrival{gateway: "g", epoch: 1, seq: uint64(n) + 1, ms: ms + offset, channel: "a/v", value: float64(n)})
	}
	truth += fmt.Sprintf(`{"kind":"end","t_ms":%d}`+"\n", begin+30_000)
	r := verify(t, truth, text(all))
	require.True(t, r.OK(), "%s", counts(r))
	all[20].ms += 10000
	require.Equal(t, uint64(1), verify(t, truth, text(all)).Count(Wrong))
	all[20].quality, all[21].quality, all[22].quality = "stale-clock", "stale-clock", "aggregate"
	r = verify(t, truth, text(all))
	require.True(t, r.OK(), "%s", counts(r))
	require.Equal(t, []uint64{2, 1}, []uint64{r.Stale, r.Aggregate})
	all[21].value = 777
	require.Equal(t, uint64(1), verify(t, truth, text(all)).Count(Wrong))
}

// TestRefused: what is no truth, and no reading, is refused with its line.
func TestRefused(t *testing.T) {
	const site = `{"kind":"site","version":1,"t_ms":1}` + "\n"
	const sensor = `{"kind":"sensor","sensor":"a","driver":"x","every_ms":1000,"talks":false,"channels":[{"name":"v","unit":"","tolerance":0}]}` + "\n"
	for _, c := range []struct{ truth, want string }{
		{"", "no site in it"},
		{"{}\n", `line 1: kind "": want site first`},
		{"x\n", "line 1: not JSON"},
		{sensor, "line 1: kind \"sensor\": want site first"},
		{site + site, "line 2: a second site"},
		{`{"kind":"site","version":2,"t_ms":1}` + "\n", "version 2: want 1"},
		{`{"kind":"site","version":1,"t_ms":1,"more":1}` + "\n", `unknown field "more"`},
		{site + sensor + sensor, "line 3: sensor a: want each once"},
		{site + `{"kind":"sensor","sensor":"a/b","every_ms":1}` + "\n", "without a slash"},
		{site + `{"kind":"sensor","sensor":"a","every_ms":0}` + "\n", "every_ms 0"},
		{site + `{"kind":"served","t_ms":1,"channel":"a/v","value":1}` + "\n", `channel "a/v": want one that a sensor above has`},
		{site + sensor + `{"kind":"served","t_ms":-1,"channel":"a/v","value":1}` + "\n", "t_ms -1"},
		{site + sensor + `{"kind":"served","t_ms":1,"channel":"a/v","value":1e999}` + "\n", "line 3"},
		{site + `{"kind":"fault","t_ms":1,"on":"x","sensors":["b"],"fault":"y","state":"begin"}` + "\n", `fault on sensor "b"`},
		{site + `{"kind":"fault","t_ms":1,"on":"x","sensors":[],"fault":"y","state":"middle"}` + "\n", "want begin or end"},
		{site + `{"kind":"fault","t_ms":1,"on":"x","sensors":[],"fault":"y","state":"end"}` + "\n", "has not begun"},
		{site + `{"kind":"end","t_ms":1}` + "\n" + sensor, "line 3: something after the end"},
		{site + `{"kind":"other"}` + "\n", `kind "other"`},
		{site + `{} {}` + "\n", "line 2"},
		{site + sensor + `{"kind":"served","t_ms":1,"channel":"a/v","value":1,"value":2}` + "\n", `line 3: key "value": want it once`},
		{site + sensor + `{"kind":"served","t_ms":1,"channel":"a/v","Value":2}` + "\n", `line 3: key "Value": want small letters`},
		{site + strings.Repeat("x", maxLine+1) + "\n", "line 2: longer than"},
	} {
		_, err := Verify(strings.NewReader(c.truth), strings.NewReader(""), Options{})
		require.ErrorContains(t, err, c.want)
		require.NotContains(t, err.Error(), "\n")
	}
	for _, c := range []struct{ line, want string }{
		{"x", "line 1"},
		{"{}", "gateway"},
		{`{"gateway":"g","epoch":1}`, "neither a reading nor a gap"},
		{`{"gateway":"g","epoch":1,"seq":0,"value":1,"quality":"good"}`, "neither"},
		{`{"gateway":"g","epoch":1,"seq":1,"value":1,"quality":"fine"}`, `quality "fine"`},
		{`{"gateway":"g","epoch":-1}`, "line 1"},
		{`{"gateway":"g","epoch":1,"gap":{"from":5,"to":4,"n":1,"t_from":0,"t_to":0,"reason":"x"}}`, "makes no sense"},
		{`{"gateway":"g","epoch":1,"gap":{"from":5,"to":null,"n":1,"t_from":0,"t_to":0,"reason":"x"}}`, "makes no sense"},
		{`{"gateway":"g","epoch":1,"seq":1,"gap":{"from":1,"to":1,"n":1,"t_from":0,"t_to":0,"reason":"x"}}`, "makes no sense"},
		{`{"gateway":"g","epoch":1,"gap":{"from":1,"to":1,"n":1,"t_from":0,"t_to":0,"reason":"x"}}`, `reason "x": want one of evicted`},
		{`{"gateway":"g","epoch":1,"seq":1,"value":1,"value":2,"quality":"good"}`, `key "value": want it once`},
		{`{"gateway":"g","epoch":1,"seq":1,"VALUE":1,"quality":"good"}`, `key "VALUE": want small letters`},
		{`{"gateway":"g","epoch":1,"\u017feq":1,"value":1,"quality":"good"}`, `want small letters`},
		{`{"gateway":"g","epoch":1,"gap":{"from":1,"to":1,"n":1,"n":1,"t_from":0,"t_to":0,"reason":"evicted"}}`, `key "n": want it once`},
		{`{"gateway":"g","epoch":1,"more":1}`, "unknown field"},
	} {
		_, err := Verify(strings.NewReader(site+sensor), strings.NewReader(c.line), Options{})
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, "homeward decode")
	}
}

// TestHuge: a gap up to the end of all numbers costs nothing.
func TestHuge(t *testing.T) {
	r := verify(t, `{"kind":"site","version":1,"t_ms":1}`+"\n",
		`{"gateway":"g","epoch":1,"gap":{"from":3,"to":18446744073709551615,"n":18446744073709551615,"t_from":0,"t_to":0,"reason":"evicted"}}`+"\n"+
			`{"gateway":"g","epoch":1,"gap":{"from":18446744073709551615,"to":18446744073709551615,"n":1,"t_from":1,"t_to":9223372036854775807,"reason":"evicted"}}`+"\n")
	require.Equal(t, uint64(2), r.Count(Lost))
	require.Len(t, r.Findings[0].Examples, 1)
}

func FuzzVerify(f *testing.F) {
	f.Add(`{"kind":"site","version":1,"t_ms":1}
{"kind":"sensor","sensor":"a","driver":"x","every_ms":1000,"talks":false,"channels":[{"name":"v","unit":"","tolerance":0}]}
{"kind":"fault","t_ms":1,"on":"x","sensors":["a"],"fault":"y","state":"begin"}
{"kind":"served","t_ms":1,"channel":"a/v","value":1}
`, `{"gateway":"g","epoch":1,"seq":1,"time":"","t_ms":1,"channel":"a/v","value":1,"unit":"","quality":"good"}
{"gateway":"g","epoch":1,"gap":{"from":5,"to":7,"n":1,"t_from":0,"t_to":0,"reason":"evicted"}}
`)
	f.Fuzz(func(t *testing.T, truth, arrived string) {
		r, err := Verify(strings.NewReader(truth), strings.NewReader(arrived), Options{})
		if err == nil && r.OK() && r.Readings > r.Served {
			t.Fatalf("%d readings of %d values, and nothing wrong", r.Readings, r.Served)
		}
	})
}

// TestTwoGateways: each has numbers of its own.
func TestTwoGateways(t *testing.T) {
	truth := fmt.Sprintf(`{"kind":"site","version":1,"t_ms":%d}
{"kind":"sensor","sensor":"g","driver":"x","every_ms":1000,"talks":false,"channels":[{"name":"v","unit":"","tolerance":0}]}
{"kind":"sensor","sensor":"h","driver":"x","every_ms":1000,"talks":false,"channels":[{"name":"v","unit":"","tolerance":0}]}
`, begin)
	var all []arrival
	for n := range 10 {
		for _, name := range []string{"g", "h"} {
			ms := begin + int64(n)*1000
			truth += fmt.Sprintf(`{"kind":"served","t_ms":%d,"channel":"%s/v","value":%d}`+"\n", ms, name, n)
			all = append(all, arrival{gateway: name, epoch: 1, seq: uint64(n) + 1, ms: ms, channel: name + "/v", value: float64(n)})
		}
	}
	r := verify(t, truth, text(all))
	require.True(t, r.OK(), "%s", counts(r))
	require.Equal(t, 2, r.Lanes)
	r = verify(t, truth, text(slices.Delete(all, 5, 6)))
	require.Equal(t, uint64(1), r.Count(Lost), "%s", counts(r))
	e := r.Findings[0].Examples[0]
	require.Equal(t, []any{"h", uint64(3), uint64(3)}, []any{e.Gateway, e.Seq, e.To})
}
