package pack

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
)

var update = flag.Bool("update", false, "write the vectors anew")

func reading(ch string, v float64, u drivers.Unit) drivers.Reading {
	return drivers.Reading{Channel: ch, Value: v, Unit: u}
}

// vectors are payloads that every later version must read, and that this one writes.
func vectors() map[string]*Rows {
	h := Header{Gateway: "gw-0017", Epoch: 3, First: 1201}
	from, to := uint64(7), uint64(9)
	v := map[string]*Rows{}
	r := NewRows(h, 1024)
	r.Add(Poll{1700000000000, []drivers.Reading{reading("boiler/flow", 21.4, "Cel"), reading("boiler/energy", 103.2, "kWh")}})
	r.Add(Poll{1700000000250, []drivers.Reading{reading("tank/level", 2.71, "V")}})
	r.Add(Poll{1700000001250, []drivers.Reading{reading("tank/level", 2.72, "V")}})
	r.Add(Poll{1700000010000, []drivers.Reading{reading("boiler/flow", 21.5, "Cel")}})
	v["example"] = r
	r = NewRows(h, 1024)
	r.AddGap(Gap{From: &from, To: &to, N: 3, TFrom: 1699999990000, TTo: 1699999992000, Reason: "evicted", MaybeDelivered: true})
	r.AddGap(Gap{N: 12, TFrom: 1, TTo: 2, Reason: "unsampled"})
	v["gaps-alone"] = r
	r = NewRows(h, 1024)
	r.Add(Poll{1000, []drivers.Reading{reading("a b/ü\"<>", -0.5, ""), {Channel: "x/y", Value: 1e-9, Unit: "%RH", Quality: drivers.Suspect}}})
	r.Add(Poll{-5, []drivers.Reading{reading("a b/ü\"<>", 9007199254740992, ""), {Channel: "x/y", Value: 1.7976931348623157e308, Unit: "%RH", Quality: drivers.StaleClock}}})
	r.AddGap(Gap{N: 1, Reason: "unsampled"})
	v["odd"] = r
	return v
}

// TestVectors: what is in testdata/rows is read for ever; what this release writes is there.
func TestVectors(t *testing.T) {
	const dir = "testdata/rows"
	for name, r := range vectors() {
		path := filepath.Join(dir, name+".json")
		if *update {
			require.NoError(t, os.WriteFile(path, r.Bytes(), 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+".lines"), lines(t, r.Bytes()), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), string(r.Bytes()), name)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Greater(t, len(files), len(vectors()), "and some that others wrote")
	for _, path := range files {
		payload, err := os.ReadFile(path)
		require.NoError(t, err)
		want, err := os.ReadFile(strings.TrimSuffix(path, ".json") + ".lines")
		require.NoError(t, err)
		require.Equal(t, string(want), string(lines(t, payload)), path)
	}
}

func lines(t testing.TB, payload []byte) []byte {
	p, err := Decode(payload)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, Lines(&b, p))
	return b.Bytes()
}

func TestExampleIsTheDocumentedOne(t *testing.T) {
	require.Equal(t, `{"gw":"gw-0017","e":3,"s":1201,"n":5,"t":1700000000000,"g":[`+
		`{"c":["boiler/flow","boiler/energy"],"u":["Cel","kWh"],"r":[[0,21.4,103.2],[10000,21.5,null]]},`+
		`{"c":["tank/level"],"u":["V"],"r":[[250,2.71],[1250,2.72]]}]}`, string(vectors()["example"].Bytes()))
	p, err := Decode(vectors()["example"].Bytes())
	require.NoError(t, err)
	var got []string
	for _, r := range p.Readings {
		got = append(got, fmt.Sprint(r.Seq, r.Channel, r.TimeMS-1700000000000, r.Value))
	}
	require.Equal(t, []string{"1201boiler/flow0 21.4", "1202boiler/energy0 103.2", "1203boiler/flow10000 21.5", "1204tank/level250 2.71", "1205tank/level1250 2.72"}, got)
}

func genPoll(t *rapid.T, label string) Poll {
	names := []string{"a/x", "a/y", "a/z", "boiler room/flow ü", `q/"<&>`, "b/1", "b/2"}
	mask := rapid.IntRange(1, 1<<len(names)-1).Draw(t, label)
	p := Poll{Time: rapid.Int64Range(-1e6, 1e6).Draw(t, "time") + rapid.SampledFrom([]int64{0, 1.7e12}).Draw(t, "era")}
	for i, n := range names {
		if mask>>i&1 == 1 {
			v := rapid.OneOf(rapid.Float64Range(-1000, 1000), rapid.Float64(), rapid.Map(rapid.IntRange(-99999, 99999), func(i int) float64 { return float64(i) / 100 })).Draw(t, "value")
			if drivers.CheckValue(v) != nil {
				v = 0
			}
			q := drivers.Quality(rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2, 3}).Draw(t, "quality"))
			p.Readings = append(p.Readings, drivers.Reading{Channel: n, Value: v, Unit: drivers.Unit(rapid.SampledFrom([]string{"Cel", "V"}).Draw(t, "unit")), Quality: q})
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "shuffled") == 0 {
		p.Readings = rapid.Permutation(p.Readings).Draw(t, "order")
	}
	return p
}

// filled is a payload of a format with polls and gap records in it, and what it took, in order. Whatever is added, it sees what all
// writers promise: the payload is within its limit, its size is what Size says, and a refused poll changes nothing and would have been too much.
func filled(t *rapid.T, format string, poll func(*rapid.T) Poll) (payload []byte, took Payload) {
	limit := rapid.IntRange(100, 2000).Draw(t, "limit")
	took.Header = Header{Gateway: "gw", Epoch: rapid.Uint32().Draw(t, "epoch"), First: rapid.Uint64Range(1, 1e15).Draw(t, "first")}
	var taken []func(Writer) bool
	again := func(limit int) Writer { // one that has taken the same
		w := New(format, took.Header, limit)
		for _, add := range taken {
			require.True(t, add(w))
		}
		return w
	}
	w := again(limit)
	for range rapid.IntRange(0, 40).Draw(t, "steps") {
		if rapid.IntRange(0, 9).Draw(t, "what") == 0 {
			g := Gap{N: rapid.Uint64().Draw(t, "n"), TTo: 5, Reason: "evicted"}
			if w.AddGap(g) {
				took.Gaps = append(took.Gaps, g)
				taken = append(taken, func(w Writer) bool { return w.AddGap(g) })
			}
			continue
		}
		p := poll(t)
		before, full := closed(w), w.Full()
		n := len(p.Readings)
		if w.Add(p) {
			require.False(t, full, "added to a full one")
		} else {
			require.Equal(t, before, closed(w), "a refused poll changes nothing")
			wide := again(1e9)
			require.True(t, wide.Add(p))
			require.Greater(t, wide.Size(), limit, "it would not have fitted")
			n = 0
			if rapid.Bool().Draw(t, "part") {
				n = w.AddPart(p)
				require.Less(t, n, len(p.Readings))
				require.False(t, again(limit).Add(Poll{p.Time, p.Readings[:n+1]}), "one more would not have fitted")
			}
		}
		if n > 0 {
			taken = append(taken, func(w Writer) bool { return w.Add(Poll{p.Time, p.Readings[:n]}) })
		}
		for _, x := range p.Readings[:n] {
			took.Readings = append(took.Readings, Reading{
				Seq: took.First + uint64(len(took.Readings)), TimeMS: p.Time, Channel: x.Channel, Value: x.Value, Unit: x.Unit, Quality: x.Quality,
			})
		}
		require.Equal(t, len(closed(w)), w.Size())
		require.Equal(t, len(took.Readings), w.Len())
	}
	if len(took.Readings)+len(took.Gaps) > 0 {
		require.LessOrEqual(t, w.Size(), limit)
	}
	return closed(w), took
}

// TestNeverOverTheLimitAndNothingLost: every reading comes back, in rows grouped by channels.
func TestNeverOverTheLimitAndNothingLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payload, took := filled(t, FormatRows, func(t *rapid.T) Poll { return genPoll(t, "channels") })
		out, err := Decode(payload)
		require.NoError(t, err)
		require.Equal(t, took.Header, out.Header)
		require.Equal(t, took.Gaps, out.Gaps)
		for i := range out.Readings {
			require.Equal(t, took.First+uint64(i), out.Readings[i].Seq)
		}
		require.Equal(t, byChannel(took.Readings), byChannel(out.Readings), "each channel's readings in the order in which they were added")
	})
}

func TestDecodeRefuses(t *testing.T) {
	good := `{"gw":"g","e":1,"s":1,"n":2,"t":5,"g":[{"c":["a/b","a/c"],"u":["V",""],"r":[[0,1,2]]}]}`
	_, err := Decode([]byte(good))
	require.NoError(t, err)
	for _, tc := range []struct{ old, new, says string }{
		{good, "", "empty payload"},
		{"{", "x", "first byte"},
		{"}", "", "not JSON"},
		{`"gw":"g"`, `"gw":""`, `gw: "": want`},
		{`"gw":"g"`, `"gw":7`, `gw: 7: want`},
		{`"gw":"g"`, `"gw":"` + strings.Repeat("n", 256) + `"`, "gw:"},
		{`"gw":"g",`, ``, "gw: missing"},
		{`"gw"`, `"GW"`, `"GW": unknown`},
		{`"gw":"g"`, `"gw":"g","gw":"h"`, "gw: "},
		{`"e":1`, `"e":-1`, "e: -1"},
		{`"e":1`, `"e":4294967296`, "e: 4294967296"},
		{`"e":1`, `"e":1.0`, "e: 1.0"},
		{`"e":1,`, ``, "e: missing"},
		{`"n":2`, `"n":3`, "n: 3: want 2"},
		{`"n":2`, `"n":4294967298`, "n: 4294967298"},
		{`"n":2,`, ``, "n: missing"},
		{`"s":1`, `"s":0`, "s: 0"},
		{`"s":1`, `"s":18446744073709551615`, "s:"},
		{`"s":1,`, ``, "s: missing"},
		{`"t":5`, `"t":5.5`, "t: 5.5"},
		{`"t":5`, `"t":253402300800000`, "t:"},
		{`"t":5,`, ``, "t: missing"},
		{`"t":5,`, `"t":5}`, "not JSON"},
		{`,"g":[{"c":["a/b","a/c"],"u":["V",""],"r":[[0,1,2]]}]`, ``, "g: missing"},
		{`[{"c"`, `[null,{"c"`, "g[0]: null: want an object"},
		{`"c":["a/b","a/c"]`, `"c":[]`, "g[0].c: []"},
		{`"c":["a/b","a/c"],`, ``, "g[0].c: missing"},
		{`"a/c"`, `""`, `g[0].c[1]: ""`},
		{`"a/c"`, `"a/b"`, `g[0].c: "a/b": want each channel once`},
		{`"a/b"`, `"` + strings.Repeat("n", 256) + `"`, "g[0].c[0]"},
		{`"a/b"`, "\"\xff\"", "UTF-8"},
		{`"u":["V",""]`, `"u":["V"]`, "g[0].u"},
		{`"u":["V",""]`, `"u":["V",null]`, "g[0].u[1]"},
		{`"u":["V",""]`, `"u":["` + strings.Repeat("V", 65) + `",""]`, "g[0].u[0]"},
		{`[[0,1,2]]`, `[[0,1]]`, "g[0].r[0][2]: missing"},
		{`[[0,1,2]]`, `[[0,1,2,3]]`, "g[0].r[0]"},
		{`[[0,1,2]]`, `[[]]`, "g[0].r[0][0]: missing"},
		{`[[0,1,2]]`, `[7]`, "g[0].r[0]: 7: want an array"},
		{`[[0,1,2]]`, `[[0.5,1,2]]`, "g[0].r[0][0]"},
		{`[[0,1,2]]`, `[[null,1,2]]`, "g[0].r[0][0]"},
		{`[[0,1,2]]`, `[[253402300799995,1,2]]`, "g[0].r[0][0]"},
		{`[[0,1,2]]`, `[[0,1,1e999]]`, "g[0].r[0][2]: 1e999"},
		{`[[0,1,2]]`, `[[0,1,"2"]]`, `g[0].r[0][2]: "2"`},
		{`[[0,1,2]]`, `[[0,1,true]]`, `g[0].r[0][2]: true`},
		{`[[0,1,2]]`, `[[0,1,[2]]]`, `g[0].r[0][2]: [2]`},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[]`, "g[0].q: []"},
		{`[[0,1,2]]`, `[[0,1,2]],"q":null`, "g[0].q: null"},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[[null,null,null],[]]`, "g[0].q"},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[[null,null]]`, "g[0].q[0][2]: missing"},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[[null,null,null,null]]`, "g[0].q[0]"},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[["suspect",null,null]]`, "g[0].q[0][0]"},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[[null,"fine",null]]`, `g[0].q[0][1]: "fine"`},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[[null,1,null]]`, `g[0].q[0][1]: 1`},
		{`"n":2,"t":5,"g":[{"c":["a/b","a/c"],"u":["V",""],"r":[[0,1,2]]`, `"n":1,"t":5,"g":[{"c":["a/b","a/c"],"u":["V",""],"r":[[0,1,null]],"q":[[null,null,"suspect"]]`, "g[0].q[0][2]"},
		{`}]}`, `}],"x":1}`, `"x": unknown`},
		{`}]}`, `,"x":1}]}`, `g[0]."x": unknown`},
		{`}]}`, `}]}{}`, "not JSON"},
		{`}]}`, `}],"gap":{}}`, "gap: {}"},
		{`}]}`, `}],"gap":[{"from":2,"to":1,"n":1,"t_from":0,"t_to":0,"reason":"x"}]}`, "gap[0].to: 1"},
		{`}]}`, `}],"gap":[{"from":0,"to":1,"n":1,"t_from":0,"t_to":0,"reason":"x"}]}`, "gap[0].from: 0"},
		{`}]}`, `}],"gap":[{"from":2,"to":null,"n":1,"t_from":0,"t_to":0,"reason":"x"}]}`, "gap[0].to: null"},
		{`}]}`, `}],"gap":[{"to":null,"n":1,"t_from":0,"t_to":0,"reason":"x"}]}`, "gap[0].from: missing"},
		{`}]}`, `}],"gap":[{"from":null,"to":null,"n":-1,"t_from":0,"t_to":0,"reason":"x"}]}`, "gap[0].n"},
		{`}]}`, `}],"gap":[{"from":null,"to":null,"n":1,"t_to":0,"reason":"x"}]}`, "gap[0].t_from: missing"},
		{`}]}`, `}],"gap":[{"from":null,"to":null,"n":1,"t_from":0,"t_to":1e3,"reason":"x"}]}`, "gap[0].t_to: 1e3"},
		{`}]}`, `}],"gap":[{"from":null,"to":null,"n":1,"t_from":0,"t_to":0,"reason":""}]}`, "gap[0].reason"},
		{`}]}`, `}],"gap":[{"from":null,"to":null,"n":1,"t_from":0,"t_to":0,"reason":"x","maybe_delivered":1}]}`, "gap[0].maybe_delivered: 1"},
		{`[[0,1,2]]`, strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "depth"},
	} {
		_, err := Decode([]byte(strings.Replace(good, tc.old, tc.new, 1)))
		require.ErrorContains(t, err, tc.says, "%s → %.200s", tc.old, tc.new)
		require.True(t, strings.HasPrefix(err.Error(), "pack: "), "%v", err)
		require.Less(t, len(err.Error()), 300)
	}
	_, err = Decode(append([]byte(good), make([]byte, MaxPayload)...))
	require.ErrorContains(t, err, "at most")
}

// TestDecodeIsBounded: a payload that lies about its contents costs memory in proportion to its own size.
func TestDecodeIsBounded(t *testing.T) {
	for _, filler := range []string{"[],", "{},", "[[", `"",`, "0,"} {
		hostile := `{"gw":"g","e":1,"s":1,"n":2147483647,"t":5,"g":[` + strings.Repeat(filler, (MaxPayload-200)/len(filler)) + `0]}`
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Decode([]byte(hostile))
		runtime.ReadMemStats(&after)
		require.Error(t, err)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(48<<20), filler)
	}
}

func TestDecoderPassesOverBadLines(t *testing.T) {
	good := string(vectors()["example"].Bytes())
	long := strings.Repeat("x", MaxPayload+5000)
	in := strings.Join([]string{good, "nonsense", "", long, good}, "\n")
	var bads []int
	var out bytes.Buffer
	bad, err := Decoder{Bad: func(line int, _ error) { bads = append(bads, line) }}.Run(strings.NewReader(in), &out)
	require.NoError(t, err)
	require.Equal(t, 2, bad)
	require.Equal(t, []int{2, 4}, bads)
	require.Equal(t, 10, strings.Count(out.String(), "\n"))
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m))
		require.Len(t, m, 9)
	}
	out.Reset()
	bad, err = Decoder{Hex: true}.Run(strings.NewReader(fmt.Sprintf("%x\r\nzz\n", good)), &out)
	require.NoError(t, err)
	require.Equal(t, 1, bad)
	require.Equal(t, 5, strings.Count(out.String(), "\n"))
}

func TestSplitTopic(t *testing.T) {
	for _, tc := range []struct{ line, topic, message string }{
		{"homeward/acme/cold/gw-1/readings {\"gw\"", "homeward/acme/cold/gw-1/readings", "{\"gw\""},
		{"homeward/acme/cold/gw-1/schema/17 {}", "homeward/acme/cold/gw-1/schema/17", "{}"},
		{"homeward/Acme Ltd/cold chain 2/gw-1/alarms !x y/readings z", "homeward/Acme Ltd/cold chain 2/gw-1/alarms", "!x y/readings z"},
		{"homeward/readings 1/schema/5 x/readings 7b", "homeward/readings 1/schema/5 x/readings", "7b"},
		{"other/topic 7b7d", "other/topic", "7b7d"},
		{"other/topic a b", "other/topic", "a b"},
		{"{\"a/b\": 1}", "", "{\"a/b\": 1}"},
		{"!/readings a", "", "!/readings a"},
		{"7b7d", "", "7b7d"},
		{"a b/c", "", "a b/c"},
		{"a/b ", "", "a/b "},
	} {
		topic, message := splitTopic([]byte(tc.line))
		require.Equal(t, []string{tc.topic, tc.message}, []string{topic, string(message)}, tc.line)
	}
}

// reference decodes with the standard library alone, and leniently.
func reference(t *testing.T, data []byte) (p Payload) {
	var w struct {
		GW string
		E  uint32
		S  uint64
		T  int64
		G  []struct {
			C, U []string
			R    [][]*float64
			Q    [][]*string
		}
		Gap []Gap
	}
	require.NoError(t, json.Unmarshal(data, &w))
	p = Payload{Header: Header{w.GW, w.E, w.S}, Gaps: w.Gap}
	for _, g := range w.G {
		for k, row := range g.R {
			for j, v := range row[1:] {
				if v == nil {
					continue
				}
				r := Reading{p.First + uint64(len(p.Readings)), w.T + int64(*row[0]), g.C[j], *v, drivers.Unit(g.U[j]), drivers.Good}
				if g.Q != nil && g.Q[k][j+1] != nil {
					q, err := drivers.ParseQuality(*g.Q[k][j+1])
					require.NoError(t, err)
					r.Quality = q
				}
				p.Readings = append(p.Readings, r)
			}
		}
	}
	return p
}

// FuzzDecode: no input makes Decode panic; what it takes, the standard library reads the
// same; and it survives a second round.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/rows/*.json")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, name := range files {
		data, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 0 && data[0] == '[' {
			return // FuzzSenML's
		}
		p, err := Decode(data)
		if err != nil {
			require.Less(t, len(err.Error()), 300)
			return
		}
		want := reference(t, data)
		require.Equal(t, want.Header, p.Header)
		require.Equal(t, len(want.Gaps), len(p.Gaps))
		require.True(t, slices.Equal(want.Readings, p.Readings), "want %v, got %v", want.Readings, p.Readings)

		out := lines(t, data)
		require.Equal(t, len(p.Readings)+len(p.Gaps), bytes.Count(out, []byte("\n")))
		for _, line := range bytes.Split(bytes.TrimSpace(out), []byte("\n")) {
			require.True(t, len(line) == 0 || json.Valid(line), "%s", line)
		}

		r := NewRows(p.Header, math.MaxInt)
		for _, g := range p.Gaps {
			require.True(t, r.AddGap(g))
		}
		for _, x := range p.Readings {
			require.True(t, r.Add(Poll{x.TimeMS, []drivers.Reading{{Channel: x.Channel, Value: x.Value, Unit: x.Unit, Quality: x.Quality}}}))
		}
		if r.Size() > MaxPayload {
			return
		}
		again, err := Decode(r.Bytes())
		require.NoError(t, err)
		require.Equal(t, p.Gaps, again.Gaps)
		require.True(t, slices.Equal(sorted(p.Readings), sorted(again.Readings)))
	})
}

// byChannel is each channel's readings in their order.
func byChannel(all []Reading) map[string][]Reading {
	m := map[string][]Reading{}
	for _, r := range all {
		r.Seq = 0
		m[r.Channel] = append(m[r.Channel], r)
	}
	return m
}

// sorted is the readings in an order that does not depend on the payload's groups.
func sorted(all []Reading) []Reading {
	all = slices.Clone(all)
	for i := range all {
		all[i].Seq = 0
	}
	slices.SortFunc(all, func(a, b Reading) int {
		return cmp.Or(cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.TimeMS, b.TimeMS), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Quality, b.Quality))
	})
	return all
}

func TestNumbersAndStrings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Float64().Draw(t, "number")
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return
		}
		want, err := json.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, strings.Replace(string(want), "e+", "e", 1), string(appendNumber(nil, v)))
		s := string(rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) })).Draw(t, "string"))
		var back string
		quoted := appendString(nil, s)
		require.NoError(t, json.Unmarshal(quoted, &back))
		require.Equal(t, string([]rune(s)), back, "%q", quoted) // U+FFFD for each byte that is not UTF-8
	})
	for _, s := range []string{"", "a/b", `"\`, "\x00\n\x1f", "<&>", "\u2028\u2029", "ü𝄞"} {
		var back string
		quoted := appendString(nil, s)
		require.NoError(t, json.Unmarshal(quoted, &back))
		require.Equal(t, s, back)
		require.NotContains(t, string(quoted), "\n")
	}
}

// TestGrouping: what goes where is part of no promise, and of how much fits.
func TestGrouping(t *testing.T) {
	all := make([]drivers.Reading, 12)
	for i := range all {
		all[i] = reading(fmt.Sprintf("meter/%c", 'a'+i), float64(i), "W")
	}
	r := NewRows(Header{"g", 1, 1}, 2000)
	require.True(t, r.Add(Poll{0, all[:11]}))
	require.True(t, r.Add(Poll{1, all[1:9]}))
	require.Len(t, r.groups, 1, "three blanks are shorter than names")
	require.True(t, r.Add(Poll{2, []drivers.Reading{all[4], all[3], all[2], all[1], all[0]}}))
	require.Len(t, r.groups, 1, "in any order")
	require.True(t, r.Add(Poll{3, all}))
	require.Len(t, r.groups, 1, "a channel that has been missing so far is cheaper than all names again")
	require.Equal(t, "meter/l", r.groups[0].columns[11].Channel)
	require.True(t, r.Add(Poll{4, all[5:6]}))
	require.Len(t, r.groups, 2, "eleven blanks are longer than a name")
	require.True(t, r.Add(Poll{5, []drivers.Reading{reading("other/a", 1, "W")}}))
	require.Len(t, r.groups, 3, "another sensor")
	require.True(t, r.Add(Poll{6, []drivers.Reading{reading("meter/a", 1, "kW"), reading("meter/b", 1, "W")}}))
	require.Len(t, r.groups, 4, "another unit")
	require.True(t, r.Add(Poll{7, all}))
	require.Len(t, r.groups, 5, "nothing goes before the group that has its latest")
	require.Equal(t, len(r.Bytes()), r.Size())
	p, err := Decode(r.Bytes())
	require.NoError(t, err)
	require.Len(t, p.Readings, r.Len())
}

func TestNoNumberFitsNowhere(t *testing.T) {
	r := NewRows(Header{"g", 1, 1}, 2000)
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		p := Poll{5, []drivers.Reading{reading("a/b", 1, ""), reading("a/c", v, "")}}
		before := r.Bytes()
		require.False(t, r.Add(p))
		require.Equal(t, before, r.Bytes())
		require.Equal(t, 1, r.AddPart(p))
		require.Zero(t, r.AddPart(Poll{5, p.Readings[1:]}))
	}
	_, err := Decode(r.Bytes())
	require.NoError(t, err)
}

// TestPartIsTheLongestPrefix of a poll that is too large alone.
func TestPartIsTheLongestPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Poll{Time: 1.7e12}
		for i := range rapid.IntRange(1, 40).Draw(t, "channels") {
			p.Readings = append(p.Readings, drivers.Reading{Channel: fmt.Sprintf("m/%d", i), Value: rapid.Float64Range(-1e3, 1e3).Draw(t, "value"),
				Quality: rapid.SampledFrom([]drivers.Quality{drivers.Good, drivers.Suspect}).Draw(t, "quality")})
		}
		limit := rapid.IntRange(60, 1000).Draw(t, "limit")
		best := 0
		for n := range p.Readings {
			if NewRows(Header{"g", 1, 1}, limit).Add(Poll{p.Time, p.Readings[:n+1]}) {
				best = n + 1
			}
		}
		r := NewRows(Header{"g", 1, 1}, limit)
		require.Equal(t, best, r.AddPart(p))
		require.Equal(t, best, r.Len())
	})
}

func BenchmarkRows(b *testing.B) {
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		r := NewRows(Header{"gw-0017", 3, 1}, 1024)
		for i := 0; ; i++ {
			p := Poll{1.7e12 + int64(i)*1000, []drivers.Reading{reading("boiler/flow", float64(i%700)/10, "Cel"), reading("boiler/energy", 103.2, "kWh")}}
			if !r.Add(p) {
				break
			}
			n += 2
		}
		_ = r.Bytes()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/reading")
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	r := NewRows(Header{"gw-0017", 3, 1}, 1024)
	for i := int64(0); r.Add(Poll{1.7e12 + i*1000, []drivers.Reading{reading("boiler/flow", float64(i%700)/10, "Cel"), reading("boiler/energy", 103.2, "kWh")}}); i++ {
	}
	payload := r.Bytes()
	for b.Loop() {
		if _, err := Decode(payload); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*r.Len()), "ns/reading")
}

// closed is the payload with everything that w took.
func closed(w Writer) []byte {
	payload, n := w.Close()
	if n != w.Len() {
		panic("a reading that was taken is not in the payload")
	}
	return payload
}
