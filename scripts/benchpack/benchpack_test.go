package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/drivers"
)

func TestReadTrace(t *testing.T) {
	good, err := readTrace(strings.NewReader("\ufefft_ms,channel,value\r\n1,a,0.5\r\n1,\"b,c\",-1e3\r\n2,a,\r\n2,a,-0\r\n"), "dir/x.csv")
	require.NoError(t, err)
	require.Equal(t, trace{name: "x", rows: []row{{1, "a", 0.5}, {1, "b,c", -1000}, {2, "a", math.Copysign(0, -1)}}, blanks: 1, firstBlank: "dir/x.csv:4"}, good)

	for _, c := range []struct{ text, want string }{
		{"", "x.csv:1: empty: want the header t_ms,channel,value"},
		{"1,a,2\n", `x.csv:1: "1,a,2": want the header t_ms,channel,value`},
		{"t_ms,channel,value\n", "x.csv:2: no readings"},
		{"t_ms,channel,value\n1,a,\n", "x.csv:2: no readings"},
		{"t_ms,channel,value\n1,a,2\n2,a,two\n", `x.csv:3: value "two": want a finite decimal number`},
		{"t_ms,channel,value\n1,a,NaN\n", `x.csv:2: value "NaN"`},
		{"t_ms,channel,value\n1,a,1e999\n", `x.csv:2: value "1e999"`},
		{"t_ms,channel,value\n1,a,0x10p0\n", `x.csv:2: value "0x10p0"`},
		{"t_ms,channel,value\n1.5,a,1\n", `x.csv:2: t_ms "1.5": want Unix time in whole ms`},
		{"t_ms,channel,value\n-1,a,1\n", `x.csv:2: t_ms "-1"`},
		{"t_ms,channel,value\n7,a,1\n\n6,a,1\n", "x.csv:4: t_ms 6: before the 7 above it"},
		{"t_ms,channel,value\n7,a,1\n6,a,\n", "x.csv:3: t_ms 6: before the 7 above it"},
		{"t_ms,channel,value\n7,a\n", `x.csv:2: "7,a": 2 fields`},
		{"t_ms,channel,value\n7,,1\n", `x.csv:2: channel "": want a name`},
		{"t_ms,channel,value\n7,\xff,1\n", `x.csv:2: channel "\xff"`},
		{"t_ms,channel,value\n7,a\x1b[1m,1\n", `x.csv:2: channel "a\x1b[1m"`},
		{"t_ms,channel,value\n7,\"a,1\n", "x.csv:2: not CSV"},
		{"\x7fELF\x02\x01\x01\x00\x00\"\n", "x.csv:1: not CSV"},
		{"\x89PNG\r\n\x1a\n\x00\x00", `x.csv:1: "\x89PNG": want the header`},
	} {
		_, err := readTrace(strings.NewReader(c.text), "x.csv")
		require.ErrorContains(t, err, c.want, "%q", c.text)
		require.NotContains(t, err.Error(), "\n")
	}
}

// TestFolder: what is wrong with each file is told at once.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	_, err := readFolder(dir)
	require.ErrorContains(t, err, "no .csv in it")
	_, err = readFolder(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	put := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	put("b.csv", "t_ms,channel,value\n1,a,1\n")
	put("a.csv", "t_ms,channel,value\n1,a,1\n")
	put("README.md", "not one of them")
	all, err := readFolder(dir)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "a", all[0].name)
	put("c.csv", "")
	put("d.csv", "t_ms,channel,value\n1,a,x\n")
	_, err = readFolder(dir)
	require.ErrorContains(t, err, "c.csv:1: ")
	require.ErrorContains(t, err, "d.csv:2: ")
}

func TestCut(t *testing.T) {
	x := trace{name: "x"}
	for i := range 10 {
		x.rows = append(x.rows, row{int64(i / 4), string(rune('a' + i%4)), 1})
	}
	at, err := x.cut() // the third of ten lies within the first instant
	require.NoError(t, err)
	require.Equal(t, 4, at)
	x.rows = x.rows[:4]
	_, err = x.cut()
	require.ErrorContains(t, err, "x: 4 readings, and none after")
}

func TestGroups(t *testing.T) {
	x := trace{name: "x", units: map[string]drivers.Unit{"a": "V"}}
	for i := range int64(100) {
		x.rows = append(x.rows, row{i * 10, "a", 1}, row{i * 10, "c", 1})
		if i%30 != 7 { // now and then missing
			x.rows = append(x.rows, row{i * 10, "b", 1})
		}
		if i%2 == 0 { // half as often: another sensor's
			x.rows = append(x.rows, row{i * 10, "d", 1})
		}
		if i > 90 { // unknown at first
			x.rows = append(x.rows, row{i*10 + 5, "e", 1}, row{i*10 + 5, "f", 1})
		}
	}
	sets := x.groups(150)
	var got [][]string
	for _, s := range sets {
		var names []string
		for _, c := range s.Channels {
			names = append(names, c.Name)
		}
		got = append(got, names)
	}
	require.Equal(t, [][]string{{"a", "c", "b"}, {"d"}, {"e"}, {"f"}}, got)
	require.Equal(t, "V", sets[0].Channels[0].Unit)

	polls := x.polls([]row{{1, "b", 1}, {1, "d", 2}, {1, "a", 3}, {1, "b", 4}, {2, "f", 5}}, sets)
	require.Equal(t, []pack.Poll{
		{Time: 1, Readings: []drivers.Reading{{Channel: "a", Value: 3, Unit: "V"}, {Channel: "b", Value: 1}}},
		{Time: 1, Readings: []drivers.Reading{{Channel: "d", Value: 2}}},
		{Time: 1, Readings: []drivers.Reading{{Channel: "b", Value: 4}}},
		{Time: 2, Readings: []drivers.Reading{{Channel: "f", Value: 5}}},
	}, polls)
}

// walk is a trace of two sensors with three channels.
func walk(name string, n int) trace {
	t := trace{name: name}
	for i := range n {
		at := int64(1_700_000_000_000 + i*1000)
		t.rows = append(t.rows, row{at, "a/x", math.Round(100*math.Sin(float64(i)/20)) / 10}, row{at, "a/y", float64(i / 7)})
		if i%3 == 0 {
			t.rows = append(t.rows, row{at + 400, "b/z", math.Round(1000*hash(1, int64(i))) / 1000})
		}
	}
	return t
}

func ready(t *testing.T, x trace) (polls []pack.Poll, list []codec) {
	at, err := x.cut()
	require.NoError(t, err)
	sets := x.groups(at)
	c, err := packed.Train(1, sets, x.polls(x.rows[:at], sets), 2)
	require.NoError(t, err)
	return x.polls(x.rows[at:], sets), codecs(c)
}

// TestVerify: no difference between what went in and what came out is overlooked.
func TestVerify(t *testing.T) {
	polls, list := ready(t, walk("walk", 1500))
	for _, c := range list {
		t.Run(c.format, func(t *testing.T) {
			const limit = 400
			l, err := c.pack(polls, limit)
			require.NoError(t, err)
			require.NoError(t, c.verify(l, polls))
			require.Greater(t, len(l.payloads), 1)
			for what, spoil := range map[string]func(*pack.Payload){
				"time":    func(p *pack.Payload) { p.Readings[1].TimeMS++ },
				"channel": func(p *pack.Payload) { p.Readings[1].Channel += "x" },
				"value":   func(p *pack.Payload) { p.Readings[1].Value = math.Nextafter(p.Readings[1].Value, 1e9) },
				"sign": func(p *pack.Payload) {
					p.Readings[1].Value = math.Copysign(p.Readings[1].Value, -p.Readings[1].Value-1)
				},
				"unit":     func(p *pack.Payload) { p.Readings[1].Unit = "V" },
				"quality":  func(p *pack.Payload) { p.Readings[1].Quality = drivers.Suspect },
				"sequence": func(p *pack.Payload) { p.Readings[1].Seq++ },
				"first":    func(p *pack.Payload) { p.First++ },
				"epoch":    func(p *pack.Payload) { p.Epoch++ },
				"gateway":  func(p *pack.Payload) { p.Gateway += "x" },
				"lost":     func(p *pack.Payload) { p.Readings = p.Readings[1:] },
				"twice":    func(p *pack.Payload) { p.Readings = append(p.Readings, p.Readings[0]) },
				"gap":      func(p *pack.Payload) { p.Gaps = make([]pack.Gap, 1) },
			} {
				bad := c
				n := 0
				bad.decode = func(b []byte) (pack.Payload, error) {
					p, err := c.decode(b)
					if n++; n == 2 {
						spoil(&p)
					}
					return p, err
				}
				require.ErrorContains(t, bad.verify(l, polls), "payload 2 of ", what)
			}
			require.Error(t, c.verify(load{l.payloads[:1], l.counts[:1], limit}, polls), "payloads are missing")
			spoilt := slices.Clone(l.payloads[0])
			spoilt[len(spoilt)/2] ^= 1
			require.Error(t, c.verify(load{append([][]byte{spoilt}, l.payloads[1:]...), l.counts, limit}, polls))
		})
	}
}

// TestSenMLNames: names that SenML does not allow still make a comparison.
func TestSenMLNames(t *testing.T) {
	x := trace{name: "x"}
	long := strings.Repeat("l", maxName)
	for i := range 20 {
		for _, c := range []string{"good/1", "ä b", "ö b", "%", long, long[1:]} {
			x.rows = append(x.rows, row{int64(i * 1000), c, float64(i)})
		}
	}
	polls, list := ready(t, x)
	allowed, renamed := senmlNames(polls)
	require.Equal(t, 5, renamed)
	require.Equal(t, "ä b", polls[0].Readings[1].Channel, "left as it was")
	seen := map[string]bool{}
	for _, r := range allowed[0].Readings {
		seen[r.Channel] = true
	}
	require.Len(t, seen, 6)
	l, err := list[1].pack(allowed, operation)
	require.NoError(t, err)
	require.NoError(t, list[1].verify(l, allowed))
}

func TestOperations(t *testing.T) {
	l := load{payloads: [][]byte{make([]byte, 1000), make([]byte, 1024), make([]byte, 256)}, counts: []int{100, 110, 15}, limit: 1024}
	require.InDelta(t, 225/2.25, l.perOperation(), 1e-9)
	l.limit, l.payloads[2] = 622, make([]byte, 311)
	require.InDelta(t, 225/2.5, l.perOperation(), 1e-9)

	polls := []pack.Poll{{Time: 1, Readings: make([]drivers.Reading, 3)}, {Time: 2, Readings: make([]drivers.Reading, 2)}}
	require.Len(t, skip(polls, 3), 1)
	require.Len(t, skip(polls, 1)[0].Readings, 2)
	require.Len(t, skip(polls, 1)[1].Readings, 2)
	require.Empty(t, skip(polls, 5))
	require.Len(t, polls[0].Readings, 3, "left as they were")
}

// TestLargePoll: a poll that is too large for a payload is spread over several, in every format.
func TestLargePoll(t *testing.T) {
	x := trace{name: "wide"}
	for i := range 12 {
		for c := range 400 {
			x.rows = append(x.rows, row{int64(1_700_000_000_000 + i*1000), fmt.Sprintf("sensor/channel-%03d", c), math.Sqrt(float64(i*400 + c))})
		}
	}
	polls, list := ready(t, x)
	for _, c := range list {
		l, err := c.pack(polls, 622)
		require.NoError(t, err, c.format)
		require.NoError(t, c.verify(l, polls), c.format)
		require.Greater(t, len(l.payloads), len(polls), c.format)
	}
}

// untable reads what [table] writes.
func untable(text []byte) (all []sample) {
	var names []string
	var last []float64
	var at int64
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		fields := strings.Split(line, ",")
		if fields[0] == "t" {
			names, last, at = fields[1:], make([]float64, len(fields)-1), 0
			continue
		}
		dt, _ := strconv.ParseInt(fields[0], 10, 64)
		at += dt
		for i, f := range fields[1:] {
			if f != "" {
				last[i], _ = strconv.ParseFloat(f, 64)
			}
			all = append(all, sample{at, names[i], math.Float64bits(last[i]), ""})
		}
	}
	return all
}

func samples(polls []pack.Poll) (all []sample) {
	for _, p := range polls {
		for _, r := range p.Readings {
			all = append(all, sample{p.Time, r.Channel, math.Float64bits(r.Value), r.Unit})
		}
	}
	slices.SortFunc(all, sample.compare)
	return all
}

// TestOthers: what we compare with loses nothing either.
func TestOthers(t *testing.T) {
	x := walk("walk", 600)
	sets := x.groups(len(x.rows))
	polls := x.polls(x.rows, sets)
	polls[3].Readings = polls[3].Readings[:1] // a poll with a channel missing
	polls[9].Readings[0].Value = math.Copysign(0, -1)

	l, err := brotliPack(polls, operation)
	require.NoError(t, err)
	require.Greater(t, len(l.payloads), 1)
	var got []sample
	for _, b := range l.payloads {
		require.LessOrEqual(t, len(b), operation)
		raw, err := unbase93(b)
		require.NoError(t, err)
		text, err := unshrink(raw)
		require.NoError(t, err)
		got = append(got, untable(text)...)
	}
	slices.SortFunc(got, sample.compare)
	require.Equal(t, samples(polls), got)
	n, err := wholeBrotli(polls)
	require.NoError(t, err)
	require.Less(t, n, len(l.payloads)*operation)

	array := codec{open: func(_ uint64, limit int) filler { return &arrayFiller{limit: limit} }}
	l, err = array.pack(polls, operation)
	require.NoError(t, err)
	got = nil
	for i, b := range l.payloads {
		var part []struct {
			T int64
			N string
			V float64
		}
		require.NoError(t, json.Unmarshal(b, &part))
		require.Len(t, part, l.counts[i])
		for _, r := range part {
			got = append(got, sample{r.T, r.N, math.Float64bits(r.V), ""})
		}
	}
	slices.SortFunc(got, sample.compare)
	require.Equal(t, samples(polls), got)
}

func TestBase93(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		text := base93(b)
		got, err := unbase93(text)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%x became %x, %v", b, got, err)
		}
		if d := len(text) - lettersFor(len(b)); d < 0 || d > 1 { // the 1 before it
			t.Fatalf("%d letters for %d bytes, computed %d", len(text), len(b), lettersFor(len(b)))
		}
	})
}

// TestRecordings: the simulator's recordings are the same each time, and what they are meant to be.
func TestRecordings(t *testing.T) {
	defer goleak.VerifyNone(t)
	for i := range places {
		p := places[i]
		p.length /= 4
		t.Run(p.name, func(t *testing.T) {
			a, err := p.record()
			require.NoError(t, err)
			b, err := p.record()
			require.NoError(t, err)
			require.Equal(t, a, b)
			seen, changed := map[string]float64{}, map[string]bool{}
			for i, r := range a.rows {
				require.Zero(t, r.time%p.res.Milliseconds())
				require.True(t, i == 0 || r.time >= a.rows[i-1].time)
				last, ok := seen[r.channel]
				seen[r.channel] = r.value
				changed[r.channel] = changed[r.channel] || ok && last != r.value
			}
			for channel := range p.values {
				require.Contains(t, seen, channel)
				require.True(t, changed[channel], "%s stays at %v", channel, seen[channel])
				require.Contains(t, a.units, channel)
			}
			// It is a file like any other.
			dir := t.TempDir()
			require.NoError(t, a.write(dir))
			c, err := readFile(filepath.Join(dir, p.name+".csv"))
			require.NoError(t, err)
			require.Equal(t, a.rows, c.rows)
		})
	}
}

// TestFails: a sensor that does not answer leaves a gap.
func TestFails(t *testing.T) {
	p := store
	p.length = 12 * time.Hour
	x, err := p.record()
	require.NoError(t, err)
	widest, last := int64(0), int64(0)
	for _, r := range x.rows {
		if r.channel == "room3/temperature" {
			if last > 0 {
				widest = max(widest, r.time-last)
			}
			last = r.time
		}
	}
	require.InDelta(t, 2*time.Hour.Milliseconds(), widest, 120_000)
}

// TestRun: from a folder to the JSON file.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	x, y := walk("walk", 500), walk("recorded", 400)
	require.NoError(t, x.write(dir))
	var out, said bytes.Buffer
	o := options{traces: dir, json: filepath.Join(t.TempDir(), "out.json"), primers: 2, runs: 1, out: &out, progress: &said, recorded: []trace{y}}
	require.Zero(t, o.run(), said.String())
	read := func() (list []map[string]any) {
		text, err := os.ReadFile(o.json)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &list))
		return list
	}
	list := read()
	require.Len(t, list, 2*len(formats)*len(limits))
	for i, r := range list {
		require.Len(t, r, 5)
		require.Equal(t, []string{"walk", "recorded"}[i/12], r["trace"])
		require.Equal(t, formats[i/3%4], r["format"])
		require.EqualValues(t, limits[i%3], r["limit"])
		require.Greater(t, r["readings_per_operation"], 1.0)
		require.Equal(t, true, r["decoded_ok"])
	}
	for _, want := range []string{"| walk ", "| median ", "of 1024 bytes", "of 864 bytes", "of 622 bytes", "JSON array", "KB a channel", "not measured"} {
		require.Contains(t, out.String(), want)
	}

	// A decoder that is wrong once is told.
	said.Reset()
	o.codecs = func(c *packed.Coder) []codec {
		list := codecs(c)
		decode := list[2].decode
		list[2].decode = func(b []byte) (pack.Payload, error) {
			p, err := decode(b)
			if err == nil {
				p.Readings[0].Value++
			}
			return p, err
		}
		return list
	}
	require.Equal(t, 1, o.run())
	require.Contains(t, said.String(), "walk: packed-text, limit 622: payload 1 of ")
	for _, r := range read() {
		require.Equal(t, r["format"] != textFormat, r["decoded_ok"])
	}

	// What cannot be measured is told before anything is.
	for text, want := range map[string]string{
		"t_ms,channel,value\n1,a,1\n1,b,1\n": "bad: 2 readings, and none after",
		"t_ms,channel,value\n1,a,z\n":        "bad.csv:2: ",
	} {
		said.Reset()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "bad.csv"), []byte(text), 0o644))
		require.Equal(t, 2, o.run())
		require.Contains(t, said.String(), want)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "bad.csv")))
	said.Reset()
	o.recorded[0].name = "walk"
	require.Equal(t, 2, o.run())
	require.Contains(t, said.String(), "walk: the simulator's recording is called so")
}

// TestNode: what a decoder in JavaScript gives is compared as well; here one that reads JSON.
func TestNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no node: apt install nodejs (scripts/test-deps)")
		}
		t.Skip("no node: apt install nodejs (scripts/test-deps)")
	}
	script := filepath.Join(t.TempDir(), "fake.js")
	require.NoError(t, os.WriteFile(script, []byte(`exports.decoder = () => text => JSON.parse(text)`), 0o644))
	polls := []pack.Poll{{Time: 5, Readings: []drivers.Reading{{Channel: "é", Value: 0.1, Unit: "V"}, {Channel: "b", Value: -2e-7}}}}
	payload := `{"gateway":"","epoch":3,"first":1234567,"gaps":[],"readings":[{"seq":1234567,"t":5,"n":"\u00e9","v":0.1,"u":"V","q":"good"},{"seq":1234568,"t":5,"n":"b","v":%s,"u":"","q":"good"}]}`
	for value, ok := range map[string]bool{"-2e-7": true, "-2.0000000000000004e-7": false} {
		l := load{payloads: [][]byte{fmt.Appendf(nil, payload, value)}, counts: []int{2}, limit: operation}
		r, decode, err := runNode(node, script, &packed.Schema{}, l)
		require.NoError(t, err)
		require.Len(t, r.PayloadMS, 1)
		require.Equal(t, ok, codec{decode: decode}.verify(l, polls) == nil)
	}
	require.NoError(t, os.WriteFile(script, []byte(`exports.decoder = () => () => { throw new Error("no such thing") }`), 0o644))
	_, _, err = runNode(node, script, &packed.Schema{}, load{payloads: [][]byte{[]byte("x")}, counts: []int{1}})
	require.ErrorContains(t, err, "no such thing")
}
