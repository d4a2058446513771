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

func TestVectors(t *testing.T) {
	for name, r := range vectors() {
		path := filepath.Join("testdata", "rows", name+".json")
		lines := func() []byte {
			p, err := Decode(r.Bytes())
			require.NoError(t, err)
			var b bytes.Buffer
			require.NoError(t, Lines(&b, p))
			return b.Bytes()
		}
		if *update {
			require.NoError(t, os.WriteFile(path, r.Bytes(), 0o644))
			require.NoError(t, os.WriteFile(strings.TrimSuffix(path, ".json")+".lines", lines(), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), string(r.Bytes()), name)
		wantLines, err := os.ReadFile(strings.TrimSuffix(path, ".json") + ".lines")
		require.NoError(t, err)
		require.Equal(t, string(wantLines), string(lines()), name)
	}
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
	return p
}

// TestNeverOverTheLimitAndNothingLost: whatever is added, the payload is within its limit, its size is what
// Size says, a refused poll would have been too much, and every reading comes back.
func TestNeverOverTheLimitAndNothingLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(100, 2000).Draw(t, "limit")
		h := Header{Gateway: "gw", Epoch: rapid.Uint32().Draw(t, "epoch"), First: rapid.Uint64Range(1, 1e15).Draw(t, "first")}
		r := NewRows(h, limit)
		var in []Reading
		var gaps []Gap
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			if rapid.IntRange(0, 9).Draw(t, "what") == 0 {
				g := Gap{N: rapid.Uint64().Draw(t, "n"), TTo: 5, Reason: "evicted"}
				if r.AddGap(g) {
					gaps = append(gaps, g)
				}
				continue
			}
			p := genPoll(t, "channels")
			before := r.Bytes()
			n := len(p.Readings)
			if !r.Add(p) {
				if rapid.Bool().Draw(t, "part") {
					longer := r.clone()
					n = r.AddPart(p)
					require.Less(t, n, len(p.Readings))
					require.False(t, longer.Add(Poll{p.Time, p.Readings[:n+1]}), "one more would not have fitted")
				} else {
					n = 0
					require.Equal(t, before, r.Bytes(), "a refused poll changes nothing")
					wide := *r.clone()
					wide.max = math.MaxInt
					require.True(t, wide.Add(p))
					require.Greater(t, len(wide.Bytes()), limit, "it would not have fitted")
				}
			}
			for _, x := range p.Readings[:n] {
				in = append(in, Reading{TimeMS: p.Time, Channel: x.Channel, Value: x.Value, Unit: x.Unit, Quality: x.Quality})
			}
			require.Equal(t, len(r.Bytes()), r.Size())
			require.Equal(t, len(in), r.Len())
		}
		if len(in)+len(gaps) > 0 {
			require.LessOrEqual(t, r.Size(), limit)
		}
		out, err := Decode(r.Bytes())
		require.NoError(t, err)
		require.Equal(t, h, out.Header)
		require.Equal(t, gaps, out.Gaps)
		for i := range out.Readings {
			require.Equal(t, h.First+uint64(i), out.Readings[i].Seq)
			out.Readings[i].Seq = 0
		}
		order := func(a, b Reading) int {
			return cmp.Or(cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.TimeMS, b.TimeMS), cmp.Compare(a.Value, b.Value), cmp.Compare(a.Unit, b.Unit), cmp.Compare(a.Quality, b.Quality))
		}
		slices.SortFunc(in, order)
		slices.SortFunc(out.Readings, order)
		require.Equal(t, in, append([]Reading(nil), out.Readings...))
	})
}

func TestDecodeRefuses(t *testing.T) {
	good := `{"gw":"g","e":1,"s":1,"n":2,"t":5,"g":[{"c":["a/b","a/c"],"u":["V",""],"r":[[0,1,2]]}]}`
	_, err := Decode([]byte(good))
	require.NoError(t, err)
	for _, tc := range []struct{ old, new, says string }{
		{good, "", "empty"},
		{"{", "[", "first byte"},
		{`"gw":"g"`, `"gw":""`, "gw"},
		{`"gw":"g",`, ``, "gw: missing"},
		{`"e":1`, `"e":-1`, "e"},
		{`"e":1`, `"e":4294967296`, "e"},
		{`"n":2`, `"n":3`, "n: 3"},
		{`"s":1`, `"s":0`, "s: 0"},
		{`"s":1`, `"s":18446744073709551615`, "s:"},
		{`"t":5`, `"t":5.5`, "t"},
		{`"t":5`, `"t":9007199254740993`, "t:"},
		{`"u":["V",""]`, `"u":["V"]`, "g[0].u"},
		{`[[0,1,2]]`, `[[0,1]]`, "g[0].r[0]"},
		{`[[0,1,2]]`, `[[0.5,1,2]]`, "g[0].r[0][0]"},
		{`[[0,1,2]]`, `[[null,1,2]]`, "g[0].r[0][0]"},
		{`[[0,1,2]]`, `[[0,1,1e999]]`, "1e999"},
		{`[[0,1,2]]`, `[[0,1,"2"]]`, "string"},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[]`, "g[0].q"},
		{`[[0,1,2]]`, `[[0,1,2]],"q":[[null,"fine",null]]`, "g[0].q[0][1]"},
		{`}]}`, `}],"x":1}`, "unknown field"},
		{`}]}`, `}]}{}`, "follows"},
		{`"a/b"`, `"` + strings.Repeat("n", 256) + `"`, "g[0].c[0]"},
		{`"a/b"`, "\"\xff\"", "UTF-8"},
		{`}]}`, `}],"gap":[{"from":2,"to":1,"n":1,"t_from":0,"t_to":0,"reason":"x"}]}`, "gap[0]"},
		{`}]}`, `}],"gap":[{"from":2,"to":null,"n":1,"t_from":0,"t_to":0,"reason":"x"}]}`, "gap[0]"},
		{`}]}`, `}],"gap":[{"n":1,"reason":""}]}`, "gap[0].reason"},
	} {
		_, err := Decode([]byte(strings.Replace(good, tc.old, tc.new, 1)))
		require.ErrorContains(t, err, tc.says, "%s → %s", tc.old, tc.new)
	}
	_, err = Decode(append([]byte(good), make([]byte, MaxPayload)...))
	require.ErrorContains(t, err, "at most")
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

// FuzzDecode: no input makes Decode panic, and what it takes survives a second round.
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
		p, err := Decode(data)
		if err != nil {
			return
		}
		var b bytes.Buffer
		require.NoError(t, Lines(&b, p))
		for _, line := range bytes.Split(bytes.TrimSpace(b.Bytes()), []byte("\n")) {
			require.True(t, len(line) == 0 || json.Valid(line), "%s", line)
		}
		r := NewRows(p.Header, math.MaxInt)
		for _, x := range p.Readings {
			require.True(t, r.Add(Poll{x.TimeMS, []drivers.Reading{{Channel: x.Channel, Value: x.Value, Unit: x.Unit, Quality: x.Quality}}}))
		}
		_, err = Decode(r.Bytes())
		require.NoError(t, err)
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
