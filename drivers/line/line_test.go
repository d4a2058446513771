package line

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
	"homeward/drivers/drivertest"
	"homeward/drivers/hostbus"
	"homeward/drivers/line/linetest"
	"homeward/drivers/sim"
)

func ptr[T any](v T) *T { return &v }

const scalePattern = `(?P<state>ST|US),(GS|NT),(?P<weight>[-+ ] *[0-9.]+)(?P<unit>k?g)`

// scale is a scale whose indicator prints stability, gross or net, weight and unit.
func scale() *Options {
	o := &Options{Pattern: scalePattern, UnitGroup: "unit", Chans: []Channel{
		{Channel: drivers.Channel{Name: "weight", Unit: ptr(drivers.Unit("kg"))}, Units: []Unit{{"kg", 1}, {"g", 0.001}}},
	}}
	o.Port = "/dev/ttyUSB0"
	return o
}

func single(pattern string) *Options {
	o := &Options{Pattern: pattern, Chans: []Channel{{Channel: drivers.Channel{Name: "v"}}}}
	o.Port = "/dev/ttyUSB0"
	return o
}

func open(t require.TestingT, o *Options, port drivers.Port) *Sensor {
	s, err := o.Open(context.Background(), drivers.Env{Port: port, Timeout: DefaultPatience, Shared: new(drivers.Shared)})
	require.NoError(t, err)
	return s.(*Sensor)
}

func TestConformance(t *testing.T) {
	for _, ask := range []string{"", "P\r\n"} {
		t.Run("ask "+strings.TrimSpace(ask), func(t *testing.T) {
			drivertest.Run(t, drivertest.Case{
				Anonymous: true,
				Options: func() drivers.Options {
					o := &Options{Pattern: `(?P<t>-?[0-9.]+);(?P<rh>[0-9.]+)`, Ask: ask, Chans: []Channel{
						{Channel: drivers.Channel{Name: "humidity", Unit: ptr(drivers.Unit("%RH"))}, Group: "rh"}, {Channel: drivers.Channel{Name: "t"}},
					}}
					o.Port = "/dev/ttyUSB0"
					return o
				},
				Bench: func(t *testing.T) *drivertest.Bench {
					talker := sim.NewLines(new(sim.World), "logger", time.Second, "{t:%.1f};{rh}", []sim.LineValue{{Name: "t", Value: sim.Constant(-3.25)}, {Name: "rh", Value: sim.Constant(45)}})
					if ask != "" {
						talker.Ask = []byte(ask)
					}
					ear, steps := linetest.Listen(t, talker, "9600-8N1"), new(drivertest.Steps)
					return &drivertest.Bench{
						Env: drivers.Env{Port: steps.Port(ear), Timeout: DefaultPatience}, Steps: steps,
						Unplug: func() { ear.Break(drivers.ErrGone) }, Plug: func() { ear.Break(nil) },
					}
				},
			})
		})
	}
}

// TestRecording plays a weighing indicator that is asked.
func TestRecording(t *testing.T) {
	recording, err := os.Open("testdata/scale.txt")
	require.NoError(t, err)
	defer recording.Close()
	p := drivertest.Play(t, recording)
	synctest.Test(t, func(t *testing.T) {
		o := scale()
		o.Ask = "P\r\n"
		require.Empty(t, o.Check())
		s := open(t, o, p.Port(drivers.Line{}))
		for _, want := range []float64{12.345, 0.25} {
			got, err := s.Read(t.Context())
			require.NoError(t, err)
			require.Equal(t, []drivers.Reading{{Channel: "weight", Value: want, Unit: "kg"}}, got)
		}
	})
}

// TestValues: what a line means.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		name, said, want string
		change           func(*Options)
	}{
		{"kilograms", "ST,GS,+  12.345kg", "12.345", nil},
		{"grams", "US,NT,-   250.5g", "-0.2505", nil},
		{"zero", "ST,GS,-   0.000kg", "0", nil},
		{"blank sign", "ST,GS,   12.30kg", "12.3", nil},
		{"unlisted unit", "ST,GS,+  12.345g", `line: not a usable value: weight: unit "g": want kg, t`, func(o *Options) { o.Chans[0].Units = []Unit{{"kg", 1}, {"t", 1000}} }},
		{"two points", "ST,GS,+  1.2.3kg", `line: not a usable value: weight: "+  1.2.3": want a number such as -12.5`, nil},
		{"scale and offset", "ST,GS,+  10.1kg", "9", func(o *Options) { o.Chans[0].Scale, o.Chans[0].Offset = ptr(0.1), 7.99 }},
		{"comma", "-3,25", "-3.25", func(o *Options) { *o = *single(`(?P<v>.*)`); o.DecimalComma = true }},
		{"comma unwanted", "-3,25", `line: not a usable value: v: "-3,25": want a number such as -12.5`, func(o *Options) { *o = *single(`(?P<v>.*)`) }},
		{"point unwanted", "1.234,5", `line: not a usable value: v: "1.234,5": want a number such as -12,5`, func(o *Options) { *o = *single(`(?P<v>.*)`); o.DecimalComma = true }},
		{"not a number", "NaN", `line: not a usable value: v: "NaN": want a number such as -12.5`, func(o *Options) { *o = *single(`(?P<v>.*)`) }},
		{"hexadecimal", "0x1p4", `line: not a usable value: v: "0x1p4": want a number such as -12.5`, func(o *Options) { *o = *single(`(?P<v>.*)`) }},
		{"too large", "1e300", "line: not a usable value: v: 1e+300 is beyond 2^53, where whole numbers are no longer exact", func(o *Options) { *o = *single(`(?P<v>.*)`) }},
		{"beyond", "9007199254740993", "line: not a usable value: v: 9.90791918022e+15 is beyond 2^53, where whole numbers are no longer exact", func(o *Options) { *o = *single(`(?P<v>.*)`); o.Chans[0].Scale = ptr(1.1) }},
		{"exponent", " +1.5e-3\t", "0.0015", func(o *Options) { *o = *single(`(?P<v>.*)`) }},
		{"group that is not there", "b7", "line: not a usable value: v: the line has no v", func(o *Options) { *o = *single(`a(?P<v>\d)|b(?P<w>\d)`) }},
		{"not anchored by itself", "x7", "", func(o *Options) { *o = *single(`(?P<v>\d)`) }},
		{"alternatives are one", "7x", "", func(o *Options) { *o = *single(`(?P<v>\d)|y`) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := scale()
				if c.change != nil {
					c.change(o)
				}
				ear := linetest.NewEar(t.Context())
				time.AfterFunc(time.Second, func() { ear.Say("\r\n" + c.said + "\r\n") })
				got, err := open(t, o, ear).Read(t.Context())
				switch {
				case c.want == "":
					require.ErrorIs(t, err, drivers.ErrCheck)
					require.NotErrorIs(t, err, drivers.ErrTimeout, "it is not silent")
					require.ErrorContains(t, err, "one line came that does not match the pattern, the last one")
				case err != nil:
					require.ErrorIs(t, err, drivers.ErrValue)
					require.EqualError(t, err, c.want)
					require.Empty(t, got)
				default:
					require.Equal(t, c.want, fmt.Sprint(got[0].Value))
				}
			})
		})
	}
}

// TestWhole: only what was received from terminator to terminator, without a pause, is a line.
func TestWhole(t *testing.T) {
	type said = struct {
		after time.Duration
		text  string
	}
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		said []said
		want string
	}{
		{"the end of a line at the start", []said{{0, "345kg\r\n"}, {900 * ms, "12345kg\r\n"}}, "12345"},
		{"nothing but its end", []said{{100 * ms, "345kg\r\n"}}, "line: no answer in time (3s): only the end of a line came; make timeout longer than two lines are apart"},
		{"in pieces", []said{{0, "\n12"}, {20 * ms, "34"}, {20 * ms, "5kg"}, {20 * ms, "\r"}}, "12345"},
		{"interrupted", []said{{0, "\n12"}, {400 * ms, "345kg\n"}, {400 * ms, "7kg\n"}}, "7"},
		{"torn, and the next after it", []said{{0, "\n1"}, {900 * ms, "12345kg\r\n"}, {900 * ms, "8kg\r\n"}}, "8"},
		{"CR alone", []said{{0, "\r12kg\r"}}, "12"},
		{"empty lines", []said{{0, "\n\r\n\r\n12kg\n\n"}}, "12"},
		{"too long", []said{{0, "\n" + strings.Repeat("1", 600) + "kg\n"}, {50 * ms, "9kg\n"}}, "9"},
		{"no end", []said{{0, "\n12kg"}}, "line: no answer in time (3s): 5 bytes came without the end of a line; compare line and separator with the instrument's settings"},
		{"noise", []said{{0, "\n\xff\xfe7kg\n"}}, `line: the answer failed its check: in 3s one line came that does not match the pattern, the last one "\xff\xfe7kg"`},
		{"silence", nil, "line: no answer in time (3s)"},
		{"the newest that is there", []said{{0, "\n1kg\n2kg\n3kg\n4"}}, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ear := linetest.NewEar(t.Context())
				at := 100 * ms
				for _, x := range c.said {
					at += x.after
					time.AfterFunc(at, func() { ear.Say(x.text) })
				}
				got, err := open(t, single(`(?P<v>\d+)kg`), ear).Read(t.Context())
				if err != nil {
					require.Equal(t, strings.Contains(c.want, "no answer"), errors.Is(err, drivers.ErrTimeout))
					require.Equal(t, c.want, err.Error())
					require.True(t, drivers.Retry(err))
					return
				}
				require.Equal(t, c.want, fmt.Sprint(got[0].Value))
			})
		})
	}
}

// TestFresh: what has lain in the buffer is not read, unless the last reading has just ended; then the newest counts. The
// reader knows where a line begins though the sensor was opened anew.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ear, o := linetest.NewEar(t.Context()), single(`(?P<v>\d+)`)
		env := drivers.Env{Port: ear, Timeout: DefaultPatience, Shared: new(drivers.Shared)}
		read := func() (string, time.Duration) {
			s, err := o.Open(t.Context(), env)
			require.NoError(t, err)
			begin := time.Now()
			got, err := s.Read(t.Context())
			if err != nil {
				return err.Error(), 0
			}
			return fmt.Sprint(got[0].Value), time.Since(begin)
		}
		later := func(d time.Duration, text string) { time.AfterFunc(d, func() { ear.Say(text) }) }
		ear.Say("1\n2\n")
		later(time.Second, "3\n")
		v, _ := read()
		require.Equal(t, "3", v, "the terminator before it was seen")

		ear.Say("4\n5\n")
		time.Sleep(900 * time.Millisecond)
		v, took := read()
		require.Equal(t, "5", v)
		require.Zero(t, took)

		ear.Say("6\n7")
		time.Sleep(2 * time.Second)
		later(50*time.Millisecond, "8\n")
		later(time.Second, "9\n")
		v, _ = read()
		require.Equal(t, "9", v, "78 is half old")

		time.Sleep(2 * time.Second)
		ear.Say(strings.Repeat("1234567\n", kernelBuffer/8+1)) // more than a kernel keeps: the last of it may be torn
		later(50*time.Millisecond, "10\n")
		later(time.Second, "11\n")
		v, _ = read()
		require.Equal(t, "11", v)
	})
}

// TestAsk: the question is sent at each reading, after what lay there was thrown away; an answer that comes late is not
// taken for the next one's.
func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := single(`v(?P<v>\d+)`)
		o.Ask = "?"
		ear := linetest.NewEar(t.Context())
		s := open(t, o, ear)
		ear.Say("v1\n")
		time.AfterFunc(time.Millisecond, func() { ear.Say("v2\n") })
		got, err := s.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2.0, got[0].Value) //nolint:testifylint // exact
		require.Equal(t, "?", string(ear.Asked))
		_, err = s.Read(t.Context())
		require.ErrorIs(t, err, drivers.ErrTimeout)
		time.AfterFunc(stall/2, func() { ear.Say("v3\n") }) // late
		time.AfterFunc(2*stall, func() { ear.Say("v4\n") })
		got, err = s.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, 4.0, got[0].Value) //nolint:testifylint // exact
		require.Equal(t, "???", string(ear.Asked))
	})
}

func TestSeparator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := single(`(?P<v>\d+)`)
		o.Separator = "<>"
		ear := linetest.NewEar(t.Context())
		s := open(t, o, ear)
		for i, text := range []string{"1<", ">2", "<", ">"} {
			time.AfterFunc(time.Duration(1+i)*50*time.Millisecond, func() { ear.Say(text) })
		}
		got, err := s.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, 2.0, got[0].Value) //nolint:testifylint // exact
	})
}

// TestProperty: of a stream whose lines lose their ends, are held up, or get bytes that no text has, only values that
// were sent in a whole line are read.
func TestProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		damage := rapid.IntRange(0, 10).Draw(t, "damage in ten")
		p := &trickle{rng: rng, t: time.Unix(1_700_000_000, 0)}
		sent := map[float64]bool{}
		for range 40 {
			n := rng.IntN(1_000_000)
			b := fmt.Sprintf("+%d kg\r\n", n)
			sent[float64(n)] = true
			if rng.IntN(10) < damage {
				i := rng.IntN(len(b) - 2)
				switch rng.IntN(3) {
				case 0: // the rest is lost, and the next line comes a while later
					p.pieces = append(p.pieces, b[:i], "")
					continue
				case 1: // a bit that no digit has
					b = b[:i] + string([]byte{b[i] | 0x80}) + b[i+1:]
				case 2:
					b = b[:i] + string([]byte{byte(0x80 + rng.IntN(128))}) + b[i:]
				}
			}
			for len(b) > 0 {
				k := 1 + rng.IntN(len(b))
				p.pieces = append(p.pieces, b[:k])
				if b = b[k:]; b != "" && rng.IntN(20) < damage/4 { // held up within a line
					p.pieces = append(p.pieces, "")
				}
			}
		}
		o := single(`\+(?P<v>\d+) kg`)
		s, err := o.open(drivers.Env{Port: p, Timeout: DefaultPatience, Shared: new(drivers.Shared)}, func() time.Time { return p.t })
		require.NoError(t, err)
		n := 0
		for len(p.pieces) > 0 {
			got, _ := s.Read(context.Background())
			for _, r := range got {
				n++
				require.True(t, sent[r.Value], "%v", r.Value)
			}
			p.t = p.t.Add(time.Duration(rng.IntN(2000)) * time.Millisecond)
		}
		if damage == 0 {
			require.Positive(t, n)
		}
	})
}

// trickle gives pieces one by one under its own time; an empty one is a long pause.
type trickle struct {
	pieces []string
	rng    *rand.Rand
	t      time.Time
	pause  time.Duration
}

func (p *trickle) Read(b []byte, wait time.Duration) (int, error) {
	if p.pause == 0 && len(p.pieces) > 0 {
		p.pause = time.Duration(p.rng.IntN(20)) * time.Millisecond
		for len(p.pieces) > 0 && p.pieces[0] == "" {
			p.pause += stall + 200*time.Millisecond
			p.pieces = p.pieces[1:]
		}
	}
	if p.pause > wait || len(p.pieces) == 0 {
		p.pause -= min(wait, p.pause)
		p.t = p.t.Add(max(wait, time.Microsecond))
		return 0, drivers.ErrTimeout
	}
	p.t, p.pause = p.t.Add(p.pause), 0
	n := copy(b, p.pieces[0])
	p.pieces = p.pieces[1:]
	return n, nil
}
func (*trickle) Write([]byte) error { return nil }
func (*trickle) Flush() error       { return nil }
func (*trickle) Line() drivers.Line { return drivers.Line{} }
func (*trickle) Close() error       { return nil }

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		change func(*Options)
		path   string
		want   string
	}{
		{func(o *Options) { o.Port = "" }, "port", "or url"},
		{func(o *Options) { o.Line = "9600" }, "line", "9600-8N1"},
		{func(o *Options) { o.Port, o.URL = "", "tcp://x" }, "url", "tcp://host:port"},
		{func(o *Options) { o.URL = "tcp://x:1" }, "port", "either"},
		{func(o *Options) { o.Pattern = "" }, "pattern", "named group"},
		{func(o *Options) { o.Pattern = strings.Repeat("x", 3000) }, "pattern", "at most 2000"},
		{func(o *Options) { o.Pattern = `abc[0-9` }, "pattern", "at character 4: missing closing ]"},
		{func(o *Options) { o.Pattern = `ab(c(d)` }, "pattern", "at character 3: missing closing )"},
		{func(o *Options) { o.Pattern = `a[(]b)c` }, "pattern", "at character 6: unexpected )"},
		{func(o *Options) { o.Pattern = `äöa**` }, "pattern", "at character 4: invalid nested repetition operator"},
		{func(o *Options) { o.Pattern = `x\` }, "pattern", "at character 2: trailing backslash"},
		{func(o *Options) { o.Pattern = `x\y` }, "pattern", "at character 2: invalid escape sequence"},
		{func(o *Options) { o.Pattern = `x(?<=y)` }, "pattern", "at character 2: invalid"},
		{func(o *Options) { o.Pattern = `\d+` }, "unit_group", "has none"},
		{func(o *Options) { o.Chans[0].Group = "w" }, "channels[0].group", "state, weight, unit"},
		{func(o *Options) { o.Chans[0].UnitGroup = "w" }, "channels[0].unit_group", "state, weight, unit"},
		{func(o *Options) { o.UnitGroup = "" }, "channels[0].unit_group", "as there are units"},
		{func(o *Options) { o.Chans[0].Units, o.Chans[0].UnitGroup = nil, "unit" }, "channels[0].units", "factor"},
		{func(o *Options) { o.Chans[0].Units[1].Factor = 0 }, "channels[0].units[1].factor", "other than 0"},
		{func(o *Options) { o.Chans[0].Units[1].Text = "kg" }, "channels[0].units[1].text", "once"},
		{func(o *Options) { o.Chans[0].Scale = ptr(0.0) }, "channels[0].scale", "other than 0"},
		{func(o *Options) { o.Chans = nil }, "channels", "at least one"},
		{func(o *Options) { o.Ask = strings.Repeat("x", 65) }, "ask", "64"},
		{func(o *Options) { o.Separator = strings.Repeat("x", 9) }, "separator", "8"},
		{func(o *Options) { o.MaxLength = ptr(4) }, "max_length", "8 to 4096"},
	} {
		o := scale()
		c.change(o)
		faults := o.Check()
		require.NotEmpty(t, faults, c.path)
		require.True(t, slices.ContainsFunc(faults, func(f drivers.Fault) bool { return f.Path == c.path && strings.Contains(f.Want, c.want) }), "%s, %s: %v", c.path, c.want, faults)
		_, err := o.Open(t.Context(), drivers.Env{Shared: new(drivers.Shared)})
		require.ErrorIs(t, err, drivers.ErrWrong)
	}
	o := scale()
	require.Empty(t, o.Check())
	require.Equal(t, drivers.Bus{Kind: drivers.Serial, Name: "/dev/ttyUSB0", Line: drivers.Line{Baud: 9600, DataBits: 8, Parity: 'N', StopBits: 1}}, o.Bus())
}

// TestSite reads a simulated scale over a real pseudo-terminal and a real connection, talking and asked, in good times and bad.
func TestSite(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind drivers.BusKind
		ask  string
	}{{drivers.Serial, ""}, {drivers.Serial, "P\r\n"}, {drivers.TCP, ""}, {drivers.TCP, "P\r\n"}} {
		t.Run(fmt.Sprintf("%s %q", c.kind, c.ask), func(t *testing.T) {
			t.Parallel()
			var n float64
			served := make(chan map[float64]bool, 1)
			served <- map[float64]bool{}
			w := &sim.World{Served: func(_ string, raw any, _ time.Time) {
				m := <-served
				m[raw.(float64)] = true
				served <- m
			}}
			talker := sim.NewLines(w, "scale", 50*time.Millisecond, "ST,GS,{weight:%+09.3f}kg", []sim.LineValue{{Name: "weight", Value: func(time.Time) float64 { n += 1.001; return n }}})
			o := scale()
			if o.Ask = c.ask; c.ask != "" {
				talker.Ask = []byte(c.ask)
			}
			if c.kind == drivers.TCP {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(t, err)
				done := make(chan error, 1)
				ctx, cancel := context.WithCancel(context.Background())
				go func() { done <- talker.ServeTCP(ctx, l) }()
				defer func() { cancel(); require.NoError(t, <-done) }()
				o.Port, o.URL = "", "tcp://"+l.Addr().String()
			} else {
				setting, err := drivers.ParseLine("115200-8N1")
				require.NoError(t, err)
				line, err := sim.NewSerialLine(filepath.Join(t.TempDir(), "scale"), setting, talker, nil)
				require.NoError(t, err)
				defer line.Close()
				o.Port, o.Line = line.Link(), "115200-8N1"
			}
			require.Empty(t, o.Check())
			h, err := hostbus.Open(t.Context(), o.Bus())
			require.NoError(t, err)
			defer h.Close()
			s, err := o.Open(t.Context(), drivers.Env{Port: h.Port, Timeout: 10 * time.Second, Shared: new(drivers.Shared)})
			require.NoError(t, err)
			hasty, err := o.Open(t.Context(), drivers.Env{Port: h.Port, Timeout: time.Second, Shared: new(drivers.Shared)})
			require.NoError(t, err)
			right := func() {
				t.Helper()
				got, err := s.Read(t.Context())
				require.NoError(t, err)
				require.Eventually(t, func() bool { // told a moment after it was written
					m := <-served
					defer func() { served <- m }()
					return m[got[0].Value]
				}, 5*time.Second, time.Millisecond)
			}
			right()
			for _, f := range []sim.TalkFault{{Silent: true}, {Corrupt: true}, {Truncate: 12}} {
				talker.SetFault(f)
				if c.ask == "" {
					time.Sleep(150 * time.Millisecond) // what was said before the fault
				}
				for { // a good line may still be on its way
					if _, err = hasty.Read(t.Context()); err != nil {
						break
					}
				}
				require.True(t, errors.Is(err, drivers.ErrTimeout) || errors.Is(err, drivers.ErrCheck), "%v", err)
				talker.SetFault(sim.TalkFault{})
				right()
			}
			talker.SetFault(sim.TalkFault{Noise: []byte("\xff\x00\r\n"), Times: 1})
			right()
		})
	}
}

func FuzzParseNumber(f *testing.F) {
	for _, s := range []string{"12.5", "-  0,25", "+1e-3", "NaN", "1.2.3", " ", "0x10", "1_000"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, comma bool) {
		v, err := parseNumber(s, comma)
		if err == nil {
			require.True(t, strings.ContainsAny(s, "0123456789"))
			require.False(t, math.IsNaN(v) || math.IsInf(v, 0))
		}
	})
}

// FuzzReader: whatever comes, in whatever pieces, a whole line stands between two terminators in it.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\n12kg\r\n"), uint8(3))
	f.Add([]byte("12\r\r\n\n34\n5"), uint8(1))
	f.Add([]byte(strings.Repeat("x", 300)+"\nab\n"), uint8(200))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		p := &trickle{rng: rand.New(rand.NewPCG(1, 1)), t: time.Unix(1_700_000_000, 0)}
		for rest := string(b); rest != ""; {
			n := min(len(rest), int(size)+1)
			p.pieces, rest = append(p.pieces, rest[:n]), rest[n:]
		}
		r := NewReader(p, 64, "", func() time.Time { return p.t })
		for range len(b) + 2 {
			text, err := r.Next(t.Context(), p.t.Add(time.Second))
			if err != nil {
				require.ErrorIs(t, err, drivers.ErrTimeout)
				require.LessOrEqual(t, len(r.buf), 64+512)
				break
			}
			require.NotEmpty(t, text.Bytes)
			if text.Whole {
				require.LessOrEqual(t, len(text.Bytes), 64)
				s := strings.ReplaceAll(string(b), "\r", "\n")
				require.Contains(t, s, "\n"+string(text.Bytes)+"\n")
			}
		}
	})
}
