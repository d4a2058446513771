package pack

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
)

// The examples of RFC 8428 §5.1, by section.
const (
	senmlSingle   = `[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]`
	senmlMultiple = `[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},
		{"n":"current","t":-5,"v":1.2},{"n":"current","t":-4,"v":1.3},{"n":"current","t":-3,"v":1.4},
		{"n":"current","t":-2,"v":1.5},{"n":"current","t":-1,"v":1.6},{"n":"current","v":1.7}]`
	senmlMeasurements = `[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},
		{"u":"lon","v":24.30621},{"u":"lat","v":60.07965},{"t":60,"v":20.3},{"u":"lon","t":60,"v":24.30622},{"u":"lat","t":60,"v":60.07965},
		{"t":120,"v":20.7},{"u":"lon","t":120,"v":24.30623},{"u":"lat","t":120,"v":60.07966},{"u":"%EL","t":150,"v":98},
		{"t":180,"v":21.2},{"u":"lon","t":180,"v":24.30628},{"u":"lat","t":180,"v":60.07967}]`
	senmlResolved = `[{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067464e+09,"v":20},
		{"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067464e+09,"v":24.30621},
		{"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067464e+09,"v":60.07965},
		{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067524e+09,"v":20.3},
		{"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067524e+09,"v":24.30622},
		{"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067524e+09,"v":60.07965},
		{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067584e+09,"v":20.7},
		{"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067584e+09,"v":24.30623},
		{"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067584e+09,"v":60.07966},
		{"n":"urn:dev:ow:10e2073a01080063","u":"%EL","t":1.320067614e+09,"v":98},
		{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067644e+09,"v":21.2},
		{"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067644e+09,"v":24.30628},
		{"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067644e+09,"v":60.07967}]`
	senmlTypes = `[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},
		{"n":"label","vs":"Machine Room"},{"n":"open","vb":false},{"n":"nfc-reader","vd":"aGkgCg"}]`
	senmlCollection = `[{"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":25.2},{"n":"humidity","u":"%RH","v":30},
		{"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3},{"n":"humidity","u":"%RH","v":67}]`
	senmlSetting = `[{"bn":"urn:dev:ow:10e2073a01080063:"},{"n":"temp","u":"Cel","v":23.1},{"n":"heat","u":"/","v":1},{"n":"fan","u":"/","v":0}]`
	senmlLights  = `[{"bt":1.320078429e+09,"bu":"/","n":"2001:db8::3","v":0.5},{"n":"2001:db8::4","v":0.5},
		{"n":"2001:db8::3","t":0.1,"v":0},{"n":"2001:db8::4","t":0.1,"v":0}]`
)

func resolved(t *testing.T, pack string) []SenMLRecord {
	all, err := ResolveSenML([]byte(pack))
	require.NoError(t, err)
	for i := range all {
		all[i].own = nil
	}
	return all
}

// TestRFCExamples: the standard's examples mean what the standard says.
func TestRFCExamples(t *testing.T) {
	v := func(x float64) *float64 { return &x }
	s := func(x string) *string { return &x }
	no := false
	require.Equal(t, []SenMLRecord{{Name: "urn:dev:ow:10e2073a01080063", Unit: "Cel", Value: v(23.1)}}, resolved(t, senmlSingle))
	const at = "urn:dev:ow:10e2073a0108006:"
	require.Equal(t, []SenMLRecord{
		{Name: at + "voltage", Unit: "V", Time: 1276020076.001, Value: v(120.1)},
		{Name: at + "current", Unit: "A", Time: 1276020071.001, Value: v(1.2)},
		{Name: at + "current", Unit: "A", Time: 1276020072.001, Value: v(1.3)},
		{Name: at + "current", Unit: "A", Time: 1276020073.001, Value: v(1.4)},
		{Name: at + "current", Unit: "A", Time: 1276020074.001, Value: v(1.5)},
		{Name: at + "current", Unit: "A", Time: 1276020075.001, Value: v(1.6)},
		{Name: at + "current", Unit: "A", Time: 1276020076.001, Value: v(1.7)},
	}, resolved(t, senmlMultiple))
	require.Equal(t, resolved(t, senmlResolved), resolved(t, senmlMeasurements), "§5.1.4 is §5.1.3 resolved")
	require.Len(t, resolved(t, senmlResolved), 13)
	const ow = "urn:dev:ow:10e2073a01080063:"
	require.Equal(t, []SenMLRecord{
		{Name: ow + "temp", Unit: "Cel", Value: v(23.1)}, {Name: ow + "label", Text: s("Machine Room")},
		{Name: ow + "open", Bool: &no}, {Name: ow + "nfc-reader", Data: s("aGkgCg")},
	}, resolved(t, senmlTypes))
	require.Equal(t, []SenMLRecord{
		{Name: "2001:db8::2/temperature", Unit: "Cel", Time: 1320078429, Value: v(25.2)}, {Name: "2001:db8::2/humidity", Unit: "%RH", Time: 1320078429, Value: v(30)},
		{Name: "2001:db8::1/temperature", Unit: "Cel", Time: 1320078429, Value: v(12.3)}, {Name: "2001:db8::1/humidity", Unit: "%RH", Time: 1320078429, Value: v(67)},
	}, resolved(t, senmlCollection))
	require.Equal(t, []SenMLRecord{
		{Name: ow + "temp", Unit: "Cel", Value: v(23.1)}, {Name: ow + "heat", Unit: "/", Value: v(1)}, {Name: ow + "fan", Unit: "/", Value: v(0)},
	}, resolved(t, senmlSetting))
	require.Equal(t, 1320078429.1, resolved(t, senmlLights)[3].Time)
	// Base values and sums, §4.6: a missing one counts as 0.
	require.Equal(t, []SenMLRecord{{Name: "a", Value: v(10), Sum: v(7)}, {Name: "b", Value: v(12), Sum: v(5)}},
		resolved(t, `[{"bv":10,"bs":5,"n":"a","s":2},{"n":"b","v":2}]`))
	// None of them is ours.
	for _, pack := range []string{senmlSingle, senmlMultiple, senmlMeasurements, senmlTypes, senmlCollection, senmlSetting} {
		_, err := Decode([]byte(pack))
		require.Error(t, err, pack)
	}
}

func senmlVectors() map[string]*SenML {
	h := Header{Gateway: "gw-0017", Epoch: 3, First: 1201}
	from, to := uint64(7), uint64(9)
	v := map[string]*SenML{}
	p := NewSenML(h, 1024)
	p.Add(Poll{1700000000000, []drivers.Reading{reading("boiler/flow", 21.4, "Cel"), reading("boiler/energy", 103.2, "kWh")}})
	p.Add(Poll{1700000000250, []drivers.Reading{reading("tank/level", 2.71, "V")}})
	p.Add(Poll{1700000001250, []drivers.Reading{reading("tank/level", 2.72, "V")}})
	p.Add(Poll{1700000010000, []drivers.Reading{reading("boiler/flow", 21.5, "Cel")}})
	v["example"] = p
	p = NewSenML(h, 1024)
	p.AddGap(Gap{From: &from, To: &to, N: 3, TFrom: 1699999990000, TTo: 1699999992000, Reason: "evicted", MaybeDelivered: true})
	p.AddGap(Gap{N: 12, TFrom: 1, TTo: 2, Reason: "unsampled"})
	v["gaps-alone"] = p
	p = NewSenML(h, 1024)
	p.Add(Poll{72_500, []drivers.Reading{{Channel: "x/y", Value: 1e-9, Quality: drivers.StaleClock}}})
	p.Add(Poll{1700000000001, []drivers.Reading{{Channel: "x/y", Value: -0.5, Unit: "Cel", Quality: drivers.Suspect}}})
	p.Add(Poll{-5, []drivers.Reading{{Channel: "x/y", Value: 9007199254740992, Quality: drivers.StaleClock}}})
	p.AddGap(Gap{N: 1, Reason: "unsampled"})
	v["odd"] = p
	v["nothing"] = NewSenML(h, 1024)
	return v
}

// TestSenMLVectors: what is in testdata/senml is read for ever; what this release writes is there.
func TestSenMLVectors(t *testing.T) {
	for name, p := range senmlVectors() {
		path := filepath.Join("testdata/senml", name)
		if *update {
			require.NoError(t, os.WriteFile(path+".json", p.Bytes(), 0o644))
			require.NoError(t, os.WriteFile(path+".lines", lines(t, p.Bytes()), 0o644))
		}
		want, err := os.ReadFile(path + ".json")
		require.NoError(t, err)
		require.Equal(t, string(want), string(p.Bytes()), name)
		want, err = os.ReadFile(path + ".lines")
		require.NoError(t, err)
		require.Equal(t, string(want), string(lines(t, p.Bytes())), name)
	}
	rows, err := os.ReadFile("testdata/rows/example.lines")
	require.NoError(t, err)
	senml, err := os.ReadFile("testdata/senml/example.lines")
	require.NoError(t, err)
	require.ElementsMatch(t, withoutSeq(string(rows)), withoutSeq(string(senml)), "both formats say the same")
}

func withoutSeq(lines string) (out []string) {
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		before, rest, _ := strings.Cut(line, `"seq":`)
		_, after, _ := strings.Cut(rest, ",")
		out = append(out, before+after)
	}
	return out
}

// TestSenMLWithinItsLimit: everything is there in the order in which it was added; and whoever knows the
// standard alone reads names, units, values and times.
func TestSenMLWithinItsLimit(t *testing.T) {
	names := []string{"a/x", "a/y", "room-1/flow.2", "b/1", "b/2_c"}
	poll := func(t *rapid.T) Poll {
		p := Poll{Time: rapid.Int64Range(-1e6, 1e6).Draw(t, "time") + rapid.SampledFrom([]int64{0, absoluteTime, 1.7e12}).Draw(t, "era")}
		for range rapid.IntRange(1, 5).Draw(t, "channels") {
			v := rapid.OneOf(rapid.Float64Range(-1000, 1000), rapid.Float64()).Draw(t, "value")
			if drivers.CheckValue(v) != nil {
				v = 0
			}
			p.Readings = append(p.Readings, drivers.Reading{Channel: rapid.SampledFrom(names).Draw(t, "name"), Value: v,
				Unit:    drivers.Unit(rapid.SampledFrom([]string{"Cel", "kWh", ""}).Draw(t, "unit")),
				Quality: drivers.Quality(rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3}).Draw(t, "quality"))})
		}
		return p
	}
	rapid.Check(t, func(t *rapid.T) {
		payload, took := filled(t, FormatSenML, poll)
		out, err := Decode(payload)
		require.NoError(t, err)
		require.Equal(t, took, out)
		standard, err := ResolveSenML(payload)
		require.NoError(t, err)
		in := took.Readings
		for _, r := range standard {
			if r.Name == "gw/gap" {
				require.Zero(t, r.Time, "about now")
				continue
			}
			x := in[0]
			in = in[1:]
			require.Equal(t, "gw/"+x.Channel, r.Name)
			require.Equal(t, string(x.Unit), r.Unit)
			require.Equal(t, x.Value, *r.Value)
			if x.TimeMS >= absoluteTime {
				require.InDelta(t, float64(x.TimeMS)/1000, r.Time, 1e-6)
			} else {
				require.Zero(t, r.Time, "a time before 2^28 s would be taken for one relative to the present")
			}
		}
		require.Empty(t, in)
	})
}

func TestSenMLRefuses(t *testing.T) {
	const good = `[{"bn":"g/","hwe":3,"hws":7,"bt":1700000000,"n":"a/x","u":"V","v":1},{"n":"a/y","t":0.5,"v":2,"hwq":"suspect"},{"n":"gap","v":3,"hwg":{"from":1,"to":2,"n":2,"t_from":0,"t_to":0,"reason":"x"}}]`
	p, err := Decode([]byte(good))
	require.NoError(t, err)
	require.Len(t, p.Readings, 2)
	for _, c := range []struct{ old, new, says string }{
		{"[{", "[5,{", "[0]: 5: want an object"},
		{good, "[]", "at least one record"},
		{`"bn":"g/",`, ``, "[0].bn: missing"},
		{`"bn":"g/"`, `"bn":"g"`, `[0].bn: "g": want the gateway's id and a slash`},
		{`"bn":"g/"`, `"bn":"ü/"`, `letters, digits`},
		{`"bn":"g/"`, `"bn":"` + strings.Repeat("g", 300) + `/"`, "[0].bn"},
		{`"hwe":3,`, ``, "[0].hwe: missing"},
		{`"hwe":3`, `"hwe":4294967296`, "[0].hwe: 4294967296"},
		{`"hws":7,`, ``, "[0].hws: missing"},
		{`"hws":7`, `"hws":0`, "hws: 0: want a sequence number from 1"},
		{`"hws":7`, `"hws":18446744073709551615`, "want a sequence number from 1"},
		{`"n":"a/y"`, `"n":"a/y","hws":9`, "the first record alone"},
		{`"n":"a/y"`, `"n":"a/y","bn":"h/"`, `[1].n: "h/a/y": want a name below g/`},
		{`"n":"a/y"`, `"n":"a y"`, "letters, digits"},
		{`"n":"a/y"`, `"n":""`, "a name below g/"},
		{`"v":1`, `"v":"1"`, `[0].v: "1": want a finite number`},
		{`"v":1`, `"v":1e999`, `[0].v: 1e999`},
		{`"v":1`, `"vs":"on"`, "[0].v: missing: want a number"},
		{`"v":1`, `"v":1,"vb":true`, "one of v, vs, vb and vd"},
		{`"v":1`, `"v":1,"s":2`, "a number, and nothing else"},
		{`"v":2,`, ``, "[1].v: missing: want a value or a sum"},
		{`"v":1`, `"v":1,"bver":27`, "[0].bver: 27: want a version up to 10, or 26"},
		{`"v":2`, `"v":2,"bver":26`, "[1].bver: 26: want the version of the records before it"},
		{`"v":1`, `"v":1,"must_":1`, "must_"},
		{`"v":1`, `"v":1,"v":2`, "it once"},
		{`"v":1`, `"v":1,"\u0076":2`, "[0].v: "},
		{`"v":1`, `"v":1,"must\u005f":1`, "one of"},
		{`"n":"a/y"`, `"\u006e":"a y"`, "letters, digits"},
		{`"hwq":"suspect"`, `"hw\u0071":"bad"`, "[1].hwq"},
		{`"bt":1700000000,`, ``, "[0].t: 0: want seconds since 1970"},
		{`"bt":1700000000`, `"bt":1e300`, "[0].t"},
		{`"bt":1700000000`, `"bt":1.8e308`, "[0].bt"},
		{`"t":0.5`, `"t":0.5,"hwt":268435456000`, "[1].hwt: 268435456000"},
		{`"hwq":"suspect"`, `"hwq":"bad"`, `[1].hwq: "bad": want good`},
		{`"to":2`, `"to":0`, "[2].hwg.to: 0"},
	} {
		require.Contains(t, good, c.old)
		_, err := Decode([]byte(strings.Replace(good, c.old, c.new, 1)))
		require.ErrorContains(t, err, c.says, "%s → %.100s", c.old, c.new)
		require.True(t, strings.HasPrefix(err.Error(), "pack: senml: "), "%v", err)
		require.Less(t, len(err.Error()), 600)
	}
	// A label is the same however it is written.
	for old, new := range map[string]string{`"v":1`: `"v":1,"\u0062v":100`, `"bt":1700000000`: `"bt":1700000000,"\u0062\u0076":100`} {
		p, err := Decode([]byte(strings.Replace(good, old, new, 1)))
		require.NoError(t, err)
		require.Equal(t, 101.0, p.Readings[0].Value, "a base value counts")
		records, err := ResolveSenML([]byte(strings.Replace(good, old, new, 1)))
		require.NoError(t, err)
		require.Equal(t, 102.0, *records[1].Value)
	}
	// What others may add is passed over.
	_, err = Decode([]byte(strings.Replace(good, `"v":1`, `"v":1,"ct":"60","x":[{"y":1}]`, 1)))
	require.NoError(t, err)
}

// TestSenMLIsBounded: a base name is not multiplied without bound.
func TestSenMLIsBounded(t *testing.T) {
	hostile := `[{"bn":"` + strings.Repeat("g", 250) + `/","hwe":1,"hws":1,"bt":1700000000}` + strings.Repeat(`,{"v":1}`, 100_000) + `]`
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Decode([]byte(hostile))
	runtime.ReadMemStats(&after)
	require.Error(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(160<<20))
}

func TestSenMLNoNumber(t *testing.T) {
	p := NewSenML(Header{Gateway: "g", First: 1}, 1024)
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		require.False(t, p.Add(Poll{1.7e12, []drivers.Reading{reading("a/b", 1, ""), reading("a/c", v, "")}}))
		require.Zero(t, p.Len())
	}
}

// FuzzSenML: no input makes the reader panic, and what is taken comes back from a writer's hand.
func FuzzSenML(f *testing.F) {
	files, err := filepath.Glob("testdata/senml/*.json")
	require.NoError(f, err)
	require.NotEmpty(f, files)
	for _, name := range files {
		data, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(data)
	}
	for _, pack := range []string{senmlSingle, senmlMultiple, senmlMeasurements, senmlTypes, senmlCollection, senmlSetting, senmlLights} {
		f.Add([]byte(pack))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := ResolveSenML(data)
		if err != nil {
			return
		}
		for _, r := range all {
			require.True(t, drivers.IsSenMLName(r.Name))
			require.True(t, json.Valid(data))
		}
		p, err := Decode(data)
		if err != nil {
			return
		}
		w := NewSenML(p.Header, math.MaxInt)
		for _, g := range p.Gaps {
			require.True(t, w.AddGap(g))
		}
		for _, x := range p.Readings {
			require.True(t, w.Add(Poll{x.TimeMS, []drivers.Reading{{Channel: x.Channel, Value: x.Value, Unit: x.Unit, Quality: x.Quality}}}))
		}
		if w.Size() > MaxPayload {
			return
		}
		again, err := Decode(closed(w))
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}
