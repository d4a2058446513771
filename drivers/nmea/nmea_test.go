package nmea

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
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

const patience = 3 * time.Second

func options(channels ...string) *Options {
	o := new(Options)
	o.Port = "/dev/ttyAMA0"
	for _, c := range channels {
		o.Chans = append(o.Chans, Channel{drivers.Channel{Name: c}})
	}
	return o
}

func open(t require.TestingT, o *Options, port drivers.Port) *Sensor {
	s, err := o.Open(context.Background(), drivers.Env{Port: port, Timeout: patience, Shared: new(drivers.Shared)})
	require.NoError(t, err)
	return s.(*Sensor)
}

func everything() (names []string) {
	for _, q := range quantities {
		names = append(names, q.name)
	}
	return names
}

func constants(names []string) map[string]sim.Value {
	v := map[string]sim.Value{}
	for _, q := range sim.NMEAQuantities() {
		if slices.Contains(names, q.Name) {
			v[q.Name] = sim.Constant(q.Default)
		}
	}
	return v
}

func TestConformance(t *testing.T) {
	for name, channels := range map[string][]string{"default": nil, "everything": everything()} {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, drivertest.Case{
				Anonymous: true,
				Options:   func() drivers.Options { return options(channels...) },
				Bench: func(t *testing.T) *drivertest.Bench {
					ear := linetest.Listen(t, sim.NewNMEA(new(sim.World), "gps", time.Second, constants(channels)), "38400-8N1")
					steps := new(drivertest.Steps)
					return &drivertest.Bench{
						Env: drivers.Env{Port: steps.Port(ear), Timeout: patience}, Steps: steps,
						Unplug: func() { ear.Break(drivers.ErrGone) }, Plug: func() { ear.Break(nil) },
					}
				},
			})
		})
	}
}

// played reads a recording of gpsd's examples.
func played(t *testing.T, p *drivertest.Player) {
	o := options("latitude", "longitude", "altitude", "satellites", "hdop", "depth", "heading")
	require.Empty(t, o.Check())
	synctest.Test(t, func(t *testing.T) {
		got, err := open(t, o, &once{Port: p.Port(drivers.Line{})}).Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, []drivers.Reading{
			{Channel: "latitude", Value: 44.069006, Unit: "lat"}, {Channel: "longitude", Value: -121.3143268, Unit: "lon"}, {Channel: "altitude", Value: 1113, Unit: "m"},
			{Channel: "satellites", Value: 12, Unit: "count"}, {Channel: "hdop", Value: 0.98}, {Channel: "depth", Value: 10.04, Unit: "m"}, {Channel: "heading", Value: 274.07, Unit: "deg"},
		}, got)
	})
}

// once is a port whose first read finds nothing old.
type once struct {
	drivers.Port
	begun bool
}

func (o *once) Read(p []byte, wait time.Duration) (int, error) {
	if !o.begun {
		o.begun = true
		return 0, drivers.ErrTimeout
	}
	return o.Port.Read(p, wait)
}

// TestFresh: what has lain in the buffer is not read, unless the last reading has just ended; then the newest counts.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ear := linetest.NewEar(t.Context())
		s := open(t, options("depth"), ear)
		say := func(depth int) { ear.Say(sum(fmt.Sprintf("SDDPT,%d,0", depth)) + "\r\n") }
		read := func() (float64, error) {
			got, err := s.Read(t.Context())
			if err != nil {
				return 0, err
			}
			return got[0].Value, nil
		}
		say(1)
		_, err := read()
		require.ErrorIs(t, err, drivers.ErrTimeout, "old at the start")

		time.Sleep(1500 * time.Millisecond)
		say(2)
		time.AfterFunc(time.Second, func() { say(3) })
		v, err := read()
		require.NoError(t, err)
		require.Equal(t, 3.0, v) //nolint:testifylint // exact

		say(4)
		time.Sleep(400 * time.Millisecond)
		say(5)
		time.Sleep(500 * time.Millisecond)
		begin := time.Now()
		v, err = read()
		require.NoError(t, err)
		require.Equal(t, 5.0, v) //nolint:testifylint // exact
		require.Zero(t, time.Since(begin), "it was there")

		// The head of a sentence that lay there is not joined to what comes.
		time.Sleep(2 * time.Second)
		whole := sum("SDDPT,7,0") + "\r\n"
		ear.Say(whole[:8])
		time.AfterFunc(100*time.Millisecond, func() { ear.Say(whole[8:]) })
		_, err = read()
		require.ErrorIs(t, err, drivers.ErrTimeout)
	})
}

// TestTogether: values that came more than about a second before the others are waited for again.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ear := linetest.NewEar(t.Context())
		s := open(t, options("depth", "water-temperature"), ear)
		after := func(d time.Duration, body string) { time.AfterFunc(d, func() { ear.Say(sum(body) + "\r\n") }) }
		after(100*time.Millisecond, "SDDPT,1,0")
		after(1500*time.Millisecond, "YXMTW,10,C")
		after(2000*time.Millisecond, "SDDPT,2,0")
		got, err := s.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, []drivers.Reading{{Channel: "depth", Value: 2, Unit: "m"}, {Channel: "water-temperature", Value: 10, Unit: "Cel"}}, got)

		time.Sleep(5 * time.Second)
		after(100*time.Millisecond, "SDDPT,3,0")
		after(2500*time.Millisecond, "YXMTW,11,C")
		got, err = s.Read(t.Context())
		require.ErrorIs(t, err, drivers.ErrValue)
		require.EqualError(t, err, "nmea: not a usable value: depth: SDDPT came too long before the others (in 3s came SDDPT YXMTW)")
		require.Equal(t, []drivers.Reading{{Channel: "water-temperature", Value: 11, Unit: "Cel"}}, got)
	})
}

// TestNoFix: a receiver that sees the sky and knows no place.
func TestNoFix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quality := 0.0
		talker := sim.NewNMEA(new(sim.World), "gps", time.Second, map[string]sim.Value{
			"quality": func(time.Time) float64 { return quality }, "satellites": sim.Constant(2),
		})
		s := open(t, options(), linetest.Listen(t, talker, "9600-8N1"))
		begin := time.Now()
		got, err := s.Read(t.Context())
		require.ErrorIs(t, err, drivers.ErrValue)
		require.NotErrorIs(t, err, drivers.ErrTimeout)
		require.EqualError(t, err, "nmea: not a usable value: latitude, longitude, altitude, speed, course, hdop: no fix yet: 4 satellites in view")
		require.Equal(t, []drivers.Reading{{Channel: "satellites", Value: 2, Unit: "count"}, {Channel: "quality", Value: 0}}, got)
		require.Less(t, time.Since(begin), 2*time.Second, "the burst's end tells that nothing more comes")
		quality = 1
		got, err = s.Read(t.Context())
		require.NoError(t, err)
		require.Len(t, got, 8)
		quality = 0
		got, err = s.Read(t.Context())
		require.Error(t, err)
		require.Len(t, got, 2, "no position of before")
	})
}

// TestStanding: a receiver that does not move leaves the course blank, which is no error.
func TestStanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ear := linetest.NewEar(t.Context())
		s := open(t, options("latitude", "longitude", "course"), ear)
		time.AfterFunc(time.Second, func() { ear.Say("$GNRMC,001031.00,A,4404.13993,N,12118.86023,W,0.146,,100117,,,A*7B\r\n") })
		got, err := s.Read(t.Context())
		require.NoError(t, err)
		require.Len(t, got, 2)
	})
}

// TestErrors: what comes instead of the wanted is named.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ say, want string }{
		{"", "nmea: no answer in time (3s)"},
		{"\xf8\x80\x13\x91", "nmea: no answer in time (3s): 4 bytes came without the end of a line; is line (the rate) right?"},
		{"\xf8\x80\r\x91", `nmea: no answer in time (3s): no NMEA 0183 sentence came, but "\xf8\x80"; is line (the rate) right?`},
		{"$INMTW,17.9,C*1C\r\n", `nmea: the answer failed its check: in 3s came one sentence, and no good one, the last one "$INMTW,17.9,C*1C": INMTW: nmea: sentence checksum mismatch [1B != 1C]`},
		{"$INMTW,17.9,C*1B\r\n", "nmea: not a usable value: depth: no DPT or DBT (in 3s came INMTW)"},
		{sum("SDDPT,,0") + "\r\n", "nmea: not a usable value: depth: left blank by SDDPT (in 3s came SDDPT)"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ear := linetest.NewEar(t.Context())
			s := open(t, options("depth"), ear)
			time.AfterFunc(time.Second, func() { ear.Say(c.say) })
			got, err := s.Read(t.Context())
			require.EqualError(t, err, c.want)
			require.Equal(t, strings.Contains(c.want, "no answer"), errors.Is(err, drivers.ErrTimeout))
			require.Empty(t, got)
			require.True(t, drivers.Retry(err))
		})
	}
}

// TestFlood: a peer that never pauses and says nothing costs no more than the time-out and a bounded buffer.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, text := range []string{strings.Repeat("x", 512), strings.Repeat("$GPGGA,\n", 64)} {
			s := open(t, options("depth"), flood(text))
			begin := time.Now()
			_, err := s.Read(t.Context())
			require.ErrorIs(t, err, drivers.ErrCheck)
			require.LessOrEqual(t, time.Since(begin), patience+200*time.Millisecond)
		}
	})
}

type flood string

func (f flood) Read(p []byte, _ time.Duration) (int, error) {
	time.Sleep(100 * time.Microsecond)
	return copy(p, f), nil
}
func (flood) Write([]byte) error { return nil }
func (flood) Flush() error       { return nil }
func (flood) Line() drivers.Line { return drivers.Line{} }
func (flood) Close() error       { return nil }

// TestProperty: bursts whose sentences lose, gain and change bytes give values that were sent in a whole sentence,
// together where they belong together, or none.
func TestProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 1))
		damage := rapid.IntRange(0, 10).Draw(t, "damage in ten")
		var stream strings.Builder
		type place struct{ lat, lon float64 }
		places, depths := map[place]bool{}, map[float64]bool{}
		for range 20 {
			lat, lon, depth := rng.IntN(5999), rng.IntN(5999), rng.IntN(9000)
			places[place{rounded(48 + float64(lat)/6000), rounded(11 + float64(lon)/6000)}] = true
			depths[float64(depth)/10] = true
			for _, s := range []string{
				sum(fmt.Sprintf("GPGGA,123519,48%02d.%02d,N,011%02d.%02d,E,1,08,0.9,545.4,M,46.9,M,,", lat/100, lat%100, lon/100, lon%100)),
				sum(fmt.Sprintf("GPGLL,48%02d.%02d,N,011%02d.%02d,E,123519,A,A", lat/100, lat%100, lon/100, lon%100)),
				sum(fmt.Sprintf("SDDPT,%d.%d,0.3", depth/10, depth%10)),
			} {
				b := []byte(s + "\r\n")
				if rng.IntN(10) < damage {
					i := rng.IntN(len(b))
					switch rng.IntN(4) {
					case 0:
						b[i] ^= 1 << rng.IntN(8)
					case 1:
						b = slices.Delete(b, i, i+1)
					case 2:
						b = slices.Insert(b, i, byte(rng.IntN(256)))
					case 3:
						b = b[:i]
					}
				}
				stream.Write(b)
			}
		}
		p := &trickle{text: stream.String(), rng: rng, t: time.Unix(1_700_000_000, 0)}
		o := options("latitude", "longitude", "depth")
		s, err := o.open(drivers.Env{Port: p, Timeout: patience, Shared: new(drivers.Shared)}, func() time.Time { return p.t })
		require.NoError(t, err)
		for p.text != "" {
			got, _ := s.Read(context.Background())
			v := map[string]float64{}
			for _, r := range got {
				v[r.Channel] = r.Value
			}
			if _, ok := v["latitude"]; ok {
				require.True(t, places[place{v["latitude"], v["longitude"]}], "%v", v)
			}
			if d, ok := v["depth"]; ok {
				require.True(t, depths[d], "%v", v)
			}
		}
		if damage == 0 {
			require.Positive(t, p.n)
		}
	})
}

func rounded(v float64) float64 { return float64(int64(v*1e7+0.5)) / 1e7 }

// trickle gives a text in pieces of any size, under its own time.
type trickle struct {
	text string
	rng  *rand.Rand
	t    time.Time
	n    int
}

func (p *trickle) Read(b []byte, wait time.Duration) (int, error) {
	step := time.Duration(p.rng.IntN(30)) * time.Millisecond
	if step > wait || p.text == "" {
		p.t = p.t.Add(wait)
		return 0, drivers.ErrTimeout
	}
	p.t = p.t.Add(step)
	n := copy(b, p.text[:min(len(p.text), 1+p.rng.IntN(40))])
	p.text = p.text[n:]
	p.n += n
	return n, nil
}
func (*trickle) Write([]byte) error { return nil }
func (*trickle) Flush() error       { return nil }
func (*trickle) Line() drivers.Line { return drivers.Line{} }
func (*trickle) Close() error       { return nil }

// TestSite reads a simulated ship over a real pseudo-terminal and a real connection, in good times and bad.
func TestSite(t *testing.T) {
	t.Parallel()
	for _, kind := range []drivers.BusKind{drivers.Serial, drivers.TCP} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			served := make(chan map[string]float64, 1)
			served <- map[string]float64{}
			w := &sim.World{Served: func(channel string, raw any, _ time.Time) {
				m := <-served
				m[strings.TrimPrefix(channel, "ship/")] = raw.(float64)
				served <- m
			}}
			talker := sim.NewNMEA(w, "ship", 100*time.Millisecond, constants(everything()))
			o := options(everything()...)
			var serial *sim.SerialLine
			if kind == drivers.TCP {
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
				serial, err = sim.NewSerialLine(filepath.Join(t.TempDir(), "gps"), setting, talker, nil)
				require.NoError(t, err)
				defer serial.Close()
				o.Port, o.Line = serial.Link(), "115200-8N1"
			}
			require.Empty(t, o.Check())
			connect := func() (*hostbus.Handle, drivers.Sensor) {
				h, err := hostbus.Open(t.Context(), o.Bus())
				require.NoError(t, err)
				s, err := o.Open(t.Context(), drivers.Env{Port: h.Port, Timeout: 20 * time.Second, Shared: new(drivers.Shared)})
				require.NoError(t, err)
				return h, s
			}
			h, s := connect()
			defer func() { h.Close() }()
			right := func() {
				t.Helper()
				got, err := s.Read(t.Context())
				require.NoError(t, err)
				values := map[string]float64{}
				for _, r := range got {
					values[r.Channel] = r.Value
				}
				var want map[string]float64
				require.Eventually(t, func() bool { // told a moment after it was written
					m := <-served
					want = maps.Clone(m)
					served <- m
					return len(want) == len(quantities)
				}, 5*time.Second, time.Millisecond)
				require.Equal(t, want, values)
			}
			right()
			for _, f := range []sim.TalkFault{
				{Silent: true, Times: 2}, {Corrupt: true, Times: 3}, {Truncate: 40, Times: 2}, {Noise: []byte("\x00$GP\xff\r\n\r\n*"), Times: 2}, {Late: 150 * time.Millisecond, Times: 1},
			} {
				talker.SetFault(f)
				right()
			}
			if serial == nil {
				return
			}
			require.NoError(t, serial.Unplug())
			_, err := s.Read(t.Context())
			require.ErrorIs(t, err, drivers.ErrGone)
			require.NoError(t, h.Close())
			require.NoError(t, serial.Plug())
			h, s = connect()
			right()
		})
	}
}

func TestOptions(t *testing.T) {
	o := &Options{Wind: "apparent", Heading: "north", Chans: []Channel{
		{drivers.Channel{Name: "lat"}}, {drivers.Channel{Name: "depth"}}, {drivers.Channel{Name: "depth"}}, {drivers.Channel{Name: "speed", Unit: new(drivers.Unit)}}, {},
	}}
	o.Port, o.URL, o.Line = "x", "udp://y", "4800"
	var paths []string
	for _, f := range o.Check() {
		paths = append(paths, f.Path)
		require.NotEmpty(t, f.Want)
	}
	require.Equal(t, []string{"url", "port", "line", "wind", "heading", "channels[0].name", "channels[2].name", "channels[3].unit", "channels[4].name"}, paths)
	o = options()
	require.Empty(t, o.Check())
	require.Equal(t, drivers.Bus{Kind: drivers.Serial, Name: "/dev/ttyAMA0", Line: drivers.Line{Baud: 4800, DataBits: 8, Parity: 'N', StopBits: 1}}, o.Bus())
	require.Len(t, o.Channels(), 8)
	for _, c := range o.Channels() {
		require.True(t, *c.Unit == "" || c.Unit.Known(), c.Name)
	}
	var _ drivers.Talker = o
	o = &Options{}
	o.URL = "tcp://10.0.0.9:10110"
	require.Empty(t, o.Check())
	require.Equal(t, drivers.Bus{Kind: drivers.TCP, Name: "tcp://10.0.0.9:10110"}, o.Bus())
}
