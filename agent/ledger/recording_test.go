package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/agent/config"
	"homeward/agent/pack"
	"homeward/drivers"
)

// room1 is a gateway with a sensor room of two channels, read each ten seconds.
func room1(change func(*config.Config)) *config.Config {
	c := gateway(1024, 5*time.Minute, nil)
	c.Operations.PerBytes = 1024
	c.Sensors = []config.Sensor{{
		Name: "room", Every: config.Duration(10 * time.Second), TimeResolution: config.Duration(100 * time.Millisecond),
		Channels: []drivers.Channel{{Name: "temperature", Unit: new(drivers.Unit("Cel"))}, {Name: "humidity", Unit: new(drivers.Unit("%RH"))}},
	}}
	if change != nil {
		change(c)
	}
	return c
}

// wave is a recording of its sensor: a line each for both channels, n polls that far apart, from a time on.
func wave(from int64, n int, every time.Duration) string {
	var b strings.Builder
	for i := range n {
		at := from + int64(i)*every.Milliseconds() + int64(i*7919%13) // a few ms late
		fmt.Fprintf(&b, "%d,room/temperature,%.2f\n%d,room/humidity,%.1f\n", at, 21+2*math.Sin(float64(i)/30), at, 45+float64(i*31%17)/10)
	}
	return b.String()
}

const noon = int64(1_700_000_000_000)

func recorded(t *testing.T, c *config.Config, files ...string) *Recording {
	t.Helper()
	r := NewRecording(c)
	for i, text := range files {
		name := filepath.Join(t.TempDir(), fmt.Sprintf("r%d.csv", i))
		require.NoError(t, os.WriteFile(name, []byte("t_ms,channel,value\n"+text), 0o600))
		require.NoError(t, r.ReadFile(name))
	}
	return r
}

func plan(t *testing.T, c *config.Config, o PlanOptions) *Forecast {
	t.Helper()
	f, err := Plan(c, o)
	require.NoError(t, err)
	return f
}

const hours = Days * 24

func TestPlanOfRecording(t *testing.T) {
	c := room1(nil)
	f := plan(t, c, PlanOptions{Recording: recorded(t, c, wave(noon, 360, 10*time.Second))})
	require.Equal(t, "recording", f.Measured.Source)
	require.InDelta(t, 3600, f.Measured.Seconds, 0.1, "from the first poll to the one that would come after the last")
	require.Equal(t, 720, f.Measured.Readings)
	require.InEpsilon(t, 720*hours, f.Readings, 1e-4)
	require.Equal(t, f.Readings, f.Taken)
	require.Empty(t, f.Measured.MadeUp)
	require.Empty(t, f.Measured.Missing)
	rows := f.Formats[0]
	require.InDelta(t, 60, rows.ReadingsPerPayload, 0.5, "five minutes of it")
	require.InEpsilon(t, 12*hours, rows.Operations, 0.01)
}

// What is packed is what the recording says: the same as when it is packed here.
func TestPlanPacksTheRecording(t *testing.T) {
	c := room1(func(c *config.Config) { c.Publish.MaxAge = config.Duration(240 * time.Hour) })
	f := plan(t, c, PlanOptions{Recording: recorded(t, c, wave(noon, 5000, 10*time.Second))})
	payloads, n := 0, 0
	w := pack.New("rows", pack.Header{Gateway: c.Gateway, Epoch: 1_000_000_000, First: 100_000_000}, 1024)
	for i := range 5000 {
		at := noon + int64(i)*10_000 + int64(i*7919%13)
		p := pack.Poll{Time: c.Sensors[0].PublishedTime(at), Readings: []drivers.Reading{
			{Channel: "room/temperature", Unit: "Cel", Value: math.Round(2100+200*math.Sin(float64(i)/30)) / 100},
			{Channel: "room/humidity", Unit: "%RH", Value: math.Round(450+float64(i*31%17)) / 10},
		}}
		if !w.Add(p) {
			payloads, n = payloads+1, n+w.Len()
			w = pack.New("rows", pack.Header{Gateway: c.Gateway, Epoch: 1_000_000_000, First: 100_000_000}, 1024)
			require.True(t, w.Add(p))
		}
	}
	require.InEpsilon(t, float64(n)/float64(payloads), f.Formats[0].ReadingsPerPayload, 0.001)
	require.Equal(t, "full", f.Formats[0].LimitedBy)
}

// The time between files does not count, that of files side by side counts once.
func TestRecordingSpans(t *testing.T) {
	c := room1(func(c *config.Config) {
		c.Sensors = append(c.Sensors, config.Sensor{Name: "attic", Every: config.Duration(time.Minute), Channels: []drivers.Channel{{Name: "t"}}})
	})
	attic := ""
	for i := range 10 {
		attic += fmt.Sprintf("%d,attic/t,%d\n", noon+int64(i)*60_000, i)
	}
	f := plan(t, c, PlanOptions{Recording: recorded(t, c, wave(noon+1e12, 60, 10*time.Second), wave(noon, 60, 10*time.Second), attic)})
	require.InDelta(t, 1200, f.Measured.Seconds, 1)
	require.InEpsilon(t, hours/(1200.0/3600)*(120*2+10), f.Readings, 0.001)
	require.InDelta(t, 60, f.Formats[0].ReadingsPerPayload, 6, "no payload spans the years between")
}

// A sensor that was recorded more often than it is configured is read as it is configured; one recorded more rarely as it was.
func TestRecordingFollowsEvery(t *testing.T) {
	for every, want := range map[time.Duration]float64{
		time.Second: 720, 10 * time.Second: 720, 20 * time.Second: 360, 15 * time.Second: 480, time.Minute: 120, 25 * time.Second: 288, 7 * time.Minute: 120.0 / 7, 24 * time.Hour: 2.0 / 24,
	} {
		c := room1(func(c *config.Config) { c.Sensors[0].Every = config.Duration(every) })
		f := plan(t, c, PlanOptions{Recording: recorded(t, c, wave(noon, 360, 10*time.Second))})
		require.InEpsilon(t, want*hours, f.Readings, 0.01, every)
	}
}

func TestRecordingLacksSomething(t *testing.T) {
	c := room1(func(c *config.Config) {
		c.Sensors[0].Channels = append(c.Sensors[0].Channels, drivers.Channel{Name: "co2"})
		c.Sensors = append(c.Sensors, config.Sensor{Name: "attic", Every: config.Duration(time.Minute), Channels: []drivers.Channel{{Name: "t"}, {Name: "h"}}},
			config.Sensor{Name: "shed", Disabled: true, Every: config.Duration(time.Minute), Channels: []drivers.Channel{{Name: "t"}}})
	})
	text := wave(noon, 360, 10*time.Second) + fmt.Sprintf("%d,shed/t,1\n%d,room/humidity,\n", noon, noon)
	f := plan(t, c, PlanOptions{Recording: recorded(t, c, text)})
	require.Equal(t, []string{"attic"}, f.Measured.MadeUp)
	require.Equal(t, []string{"room/co2"}, f.Measured.Missing)
	require.Equal(t, 2, f.Measured.Skipped, "of the sensor that is disabled, and the one without a value")
	require.Equal(t, 720, f.Measured.Readings)
	require.InEpsilon(t, 720*hours+120*hours, f.Readings, 1e-3)
	text = print(t, f)
	require.Contains(t, text, "not counted: room/co2. Made-up values for attic,")
	require.Contains(t, text, "2 lines of no use")
}

func print(t *testing.T, f *Forecast) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, f.Print(&b))
	return strings.Join(strings.Fields(b.String()), " ")
}

func TestRecordingMistakes(t *testing.T) {
	c := room1(nil)
	const head = "t_ms,channel,value\n"
	for text, want := range map[string]string{
		"":                                "x.csv:1: empty: want a first line with the columns t_ms,channel,value",
		"1,room/humidity,2\n":             `x.csv:1: "1,room/humidity,2": want a first line with the columns`,
		"t_ms,channel\n1,room/humidity\n": `x.csv:1: "t_ms,channel": want a first line`,
		head:                              "x.csv:1: no readings: want at least one below the first line",
		head + "1,room/humidity\n":        `x.csv:2: "1,room/humidity": 2 fields: want 3, as the first line has`,
		head + "1,room/humidity,1\n1,room/humid,1\n":          `x.csv:3: channel "room/humid": the configuration names no such channel: want the full name of one of its channels, sensor/channel, such as room/temperature`,
		head + "1,humidity,1\n":                               `x.csv:2: channel "humidity": the configuration names no such channel`,
		head + "1.5,room/humidity,1\n":                        `x.csv:2: t_ms "1.5": want Unix time in whole ms, to the year 9999`,
		head + "-1,room/humidity,1\n":                         `x.csv:2: t_ms "-1"`,
		head + "253402300800000,room/humidity,1\n":            `x.csv:2: t_ms "253402300800000"`,
		head + "1,room/humidity,warm\n":                       `x.csv:2: value "warm": want a decimal number as a reading may be`,
		head + "1,room/humidity,NaN\n":                        `x.csv:2: value "NaN"`,
		head + "1,room/humidity,1e400\n":                      `x.csv:2: value "1e400"`,
		head + "1,room/humidity,9007199254740994\n":           `x.csv:2: value "9007199254740994"`,
		head + "1,room/humidity,0x10\n":                       `x.csv:2: value "0x10"`,
		head + "1,room/humidity,1\n\n\n2,\"room/humidity,1\n": "x.csv:5: not CSV",
	} {
		name := filepath.Join(t.TempDir(), "x.csv")
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		require.ErrorContains(t, NewRecording(c).ReadFile(name), want, "%q", text)
	}
	require.ErrorContains(t, NewRecording(c).ReadFile(t.TempDir()), "no .csv in it")
	require.ErrorContains(t, NewRecording(c).ReadFile("/dev/null"), "not a file")
	_, err := Plan(c, PlanOptions{Recording: recorded(t, c, "1000,room/humidity,1\n1000,room/temperature,1\n")})
	require.ErrorContains(t, err, "at least two times (2 readings there)")
	_, err = Plan(c, PlanOptions{Recording: recorded(t, c, fmt.Sprintf("1000,room/humidity,1\n%d,room/humidity,1\n", noon))})
	require.ErrorContains(t, err, "from 1970-01-01 to 2023-11-14: want at most ten years; is there a clock that was not set?")
	_, err = Plan(c, PlanOptions{Recording: NewRecording(c)})
	require.ErrorContains(t, err, "at least two times")
}

// Of the buffer, aggregates, what has no time and what is configured no more are of no use; a large one gives its newest.
func TestRecordingOfBuffer(t *testing.T) {
	c := room1(func(c *config.Config) { c.Sensors[0].Channels[0].Deadband = new(0.5) })
	var b strings.Builder
	b.WriteString("gateway,epoch,seq,time,t_ms,channel,value,unit,quality,outcome\n")
	for i := range 100 {
		fmt.Fprintf(&b, "gw,1,%d,x,%d,room/temperature,%d,Cel,good,\n", i, noon+int64(i)*10_000, i%20)
	}
	fmt.Fprintf(&b, "gw,1,7,x,72500,room/temperature,1,Cel,stale-clock,\ngw,1,8,x,%d,room/temperature,1,Cel,aggregate,\ngw,1,8,x,%d,old/temperature,1,Cel,good,thinned\n", noon, noon)
	r := NewRecording(c)
	require.NoError(t, r.ReadBuffer(strings.NewReader(b.String())))
	f := plan(t, c, PlanOptions{Recording: r, Thorough: true})
	require.Equal(t, "buffer", f.Measured.Source)
	require.Equal(t, 100, f.Measured.Readings)
	require.Equal(t, 3, f.Measured.Skipped)
	require.InDelta(t, 1000, f.Measured.Seconds, 0.001)
	for _, x := range f.Reductions {
		switch x.Key {
		case keyDeadband:
			require.True(t, x.Used)
			require.Nil(t, x.Without, "what it left out is gone")
		case keyOnChange:
			require.False(t, x.Used)
			require.Nil(t, x.With)
		case keyTime:
			require.NotNil(t, x.Without, "times are in the buffer as taken")
		}
	}
	require.Contains(t, print(t, f), "? the buffer holds what is left")

	var many strings.Builder
	many.WriteString("t_ms,channel,value\n")
	for i := range maxBufferRows + 10 {
		fmt.Fprintf(&many, "%d,room/humidity,1\n", noon+int64(i)*1000)
	}
	r = NewRecording(c)
	require.NoError(t, r.ReadBuffer(strings.NewReader(many.String())))
	require.GreaterOrEqual(t, len(r.rows), maxBufferRows/2)
	require.LessOrEqual(t, len(r.rows), maxBufferRows)
	require.Equal(t, noon+int64(maxBufferRows+9)*1000, r.rows[len(r.rows)-1].at)
	require.Equal(t, r.rows[0].at, r.spans[0].from)
}

// What homeward buffer export writes of a gateway that thinned: the originals count, their aggregates do not.
func TestRecordingOfThinned(t *testing.T) {
	c := room1(nil)
	var b strings.Builder
	b.WriteString("gateway,epoch,seq,time,t_ms,channel,value,unit,quality,outcome\n")
	for i := range 100 {
		fmt.Fprintf(&b, "gw,1,%d,x,%d,room/temperature,%d,Cel,good,thinned\n", i, noon+int64(i)*10_000, i%20)
	}
	for i, of := range []string{"min", "mean", "max"} {
		fmt.Fprintf(&b, "gw,1,%d,x,%d,room/temperature/%s,1,Cel,aggregate,delivered\n", 200+i, noon, of)
	}
	file := filepath.Join(t.TempDir(), "readings.csv")
	require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o600))
	r := NewRecording(c)
	require.NoError(t, r.ReadFile(file))
	f := plan(t, c, PlanOptions{Recording: r})
	require.Equal(t, 100, f.Measured.Readings)
	require.Equal(t, 3, f.Measured.Skipped)
	b.WriteString("gw,1,300,x,1700000000000,room/other/min,1,Cel,good,\n")
	require.ErrorContains(t, NewRecording(c).read(strings.NewReader(b.String()), "r.csv"), "names no such channel", "only aggregates have channels of their own")
}

// Alarms in a recording leave alone, and are counted.
func TestPlanCountsAlarms(t *testing.T) {
	c := room1(func(c *config.Config) {
		c.Publish.Alarms = []config.Alarm{{Channel: "room/temperature", Above: new(22.9)}}
	})
	text := wave(noon, 1131, 10*time.Second) // six waves of 30*2pi polls: each crosses up and down
	f := plan(t, c, PlanOptions{Recording: recorded(t, c, text)})
	require.InEpsilon(t, 12/(11310.0/3600)*hours, f.Alarms, 0.001)
	calm := plan(t, room1(nil), PlanOptions{Recording: recorded(t, room1(nil), text)})
	require.Zero(t, calm.Alarms)
	rows, was := f.Formats[0], calm.Formats[0]
	require.Equal(t, f.Readings, calm.Readings)
	require.Greater(t, rows.Operations, was.Operations+f.Alarms*0.99)
	require.LessOrEqual(t, rows.Operations, was.Operations+f.Alarms*2.01, "each cuts a payload short at most")
	require.Contains(t, print(t, f), "each a publish of its own")
	// What a reader multiplies gives what stands beside it.
	for _, x := range f.Formats {
		require.InEpsilon(t, f.Readings, x.Payloads*x.ReadingsPerPayload, 1e-9, x.Name)
	}
	require.InEpsilon(t, rows.Payloads*rows.BytesPerPayload/1e6, f.Blocks.Megabytes, 1e-9)
	require.Less(t, f.Blocks.Megabytes, calm.Blocks.Megabytes+f.Alarms*200/1e6, "an alarm's poll is small")
	require.Greater(t, f.Blocks.Megabytes, calm.Blocks.Megabytes)
	require.InEpsilon(t, was.ReadingsIfFull, rows.ReadingsIfFull, 0.05, "alarms make no full payload smaller")
}

// A month with a reduction and without are the plans of configurations with and without it.
func TestReductionsAreTwoPlans(t *testing.T) {
	with := func(change func(ch *drivers.Channel)) *config.Config {
		return room1(func(c *config.Config) {
			for i := range c.Sensors[0].Channels {
				change(&c.Sensors[0].Channels[i])
			}
		})
	}
	text := wave(noon, 360, 10*time.Second)
	for key, c := range map[string]*config.Config{
		keyDeadband:   with(func(ch *drivers.Channel) { ch.Deadband = new(0.3) }),
		keyOnChange:   with(func(ch *drivers.Channel) { ch.OnChange = new(true) }),
		keyResolution: with(func(ch *drivers.Channel) { ch.Resolution = new(0.5) }),
		keyTime:       room1(func(c *config.Config) { c.Sensors[0].TimeResolution = config.Duration(time.Second) }),
	} {
		for _, format := range []string{"rows", "packed"} {
			if format == "packed" && key != keyResolution {
				continue // each takes its time
			}
			c.Publish.Format = format
			plain := room1(func(c *config.Config) { c.Publish.Format = format })
			f := plan(t, c, PlanOptions{Recording: recorded(t, c, text), Thorough: true})
			if key == keyTime {
				plain.Sensors[0].TimeResolution = config.Duration(time.Millisecond)
			}
			bare := plan(t, plain, PlanOptions{Recording: recorded(t, plain, text)})
			for _, x := range f.Reductions {
				if x.Key != key {
					require.True(t, !x.Used || x.Key == keyTime, key)
					continue
				}
				require.True(t, x.Used)
				require.Equal(t, Effect{f.Readings, f.Operations}, *x.With, key)
				require.Equal(t, Effect{bare.Readings, bare.Operations}, *x.Without, key)
				require.Equal(t, key == keyOnChange, x.Lossless, key)
				if key == keyDeadband || key == keyOnChange {
					require.Less(t, f.Readings, 0.98*f.Taken, key)
				} else {
					require.Equal(t, f.Readings, f.Taken, key)
					require.Positive(t, x.Changed, key)
				}
			}
			if key == keyResolution {
				require.LessOrEqual(t, f.Operations, bare.Operations)
			}
		}
	}
}

// Of a reduction that is not used, on_change alone needs no number: the plan says what it would bring.
func TestReductionsNotUsed(t *testing.T) {
	c := room1(nil)
	f := plan(t, c, PlanOptions{Thorough: true})
	changing := room1(func(c *config.Config) {
		for i := range c.Sensors[0].Channels {
			c.Sensors[0].Channels[i].OnChange = new(true)
		}
	})
	want := plan(t, changing, PlanOptions{})
	for _, x := range f.Reductions {
		require.Equal(t, x.Key == keyTime, x.Used)
		switch x.Key {
		case keyOnChange:
			require.Equal(t, Effect{want.Readings, want.Operations}, *x.With)
			require.Equal(t, Effect{f.Readings, f.Operations}, *x.Without)
		case keyDeadband, keyResolution:
			require.Nil(t, x.With)
			require.Nil(t, x.Without)
		}
	}
	require.Less(t, want.Readings, f.Readings)
}

// Rounding to what the driver's steps are multiples of loses nothing, and the plan says so.
func TestResolutionDeclared(t *testing.T) {
	for _, c := range []struct {
		steps    []drivers.Step
		lossless bool
		changed  float64
	}{
		{[]drivers.Step{{Times: 1, Places: 1}, {Times: 5, Places: 1}}, true, 0},
		{[]drivers.Step{{Times: 1, Places: 1}, {}}, false, 0.45},
		{[]drivers.Step{{Times: 1, Places: 2}, {Times: 1, Places: 1}}, false, 0.45},
		{nil, false, 0.9},
	} {
		cfg := room1(func(g *config.Config) {
			g.Sensors[0].Options = stepping{steps: c.steps}
			for i := range g.Sensors[0].Channels {
				g.Sensors[0].Channels[i].Resolution = new(0.1)
			}
		})
		x := plan(t, cfg, PlanOptions{Thorough: true}).Reductions[2]
		require.Equal(t, keyResolution, x.Key)
		require.Equal(t, c.lossless, x.Lossless, "%v", c.steps)
		require.InDelta(t, c.changed, x.Changed, 0.05, "%v", c.steps)
	}
}

type stepping struct {
	drivers.Options
	steps []drivers.Step
}

func (s stepping) Steps() []drivers.Step { return s.steps }

func TestCheapest(t *testing.T) {
	small := func(c *config.Config) { c.Publish.MaxBytes = 512 }
	for _, freshness := range []time.Duration{0, 17 * time.Minute} {
		c := room1(small)
		f := plan(t, c, PlanOptions{Thorough: true, Freshness: freshness})
		wanted := freshness
		if wanted == 0 {
			wanted = 5 * time.Minute
		}
		best := math.Inf(1)
		for _, format := range []string{"rows", "packed", "senml"} {
			for _, encoding := range []string{"text", "binary"} {
				g := room1(func(g *config.Config) {
					small(g)
					g.Publish.Format, g.Publish.Encoding, g.Publish.MaxAge = format, encoding, config.Duration(wanted)
				})
				best = min(best, plan(t, g, PlanOptions{}).Operations)
			}
		}
		require.InEpsilon(t, best, f.Cheapest.Operations, 1e-9)
		require.InDelta(t, f.Operations-best, f.Cheapest.Saved, 1e-6)
		require.Equal(t, wanted.Seconds(), f.Cheapest.MaxAgeS)
		require.Equal(t, 1, f.Cheapest.Blocks)
		many := plan(t, c, PlanOptions{Thorough: true, Freshness: freshness, Devices: 2000})
		require.Equal(t, blocks(2000, 2000*best), many.Cheapest.Blocks)
		require.Contains(t, print(t, many), fmt.Sprintf("operations a month, %d blocks for 2,000 gateways", many.Cheapest.Blocks))
		if f.CheapestText != nil {
			require.Equal(t, "binary", f.Cheapest.Encoding)
			require.Less(t, f.Cheapest.Operations, f.CheapestText.Operations)
			require.NotEqual(t, "binary", f.CheapestText.Encoding)
		}
	}
}

// The plan of each age in the table is the plan of a configuration with that age; a longer one never costs more.
func TestAges(t *testing.T) {
	small := func(c *config.Config) { c.Publish.MaxBytes = 512 }
	f := plan(t, room1(small), PlanOptions{Thorough: true})
	for _, x := range f.Formats {
		require.Len(t, x.ByMaxAge, len(ages), "5m is configured")
		for i, a := range x.ByMaxAge {
			if i > 0 {
				require.LessOrEqual(t, a.Operations, x.ByMaxAge[i-1].Operations*1.01)
			}
			if i%2 == 1 {
				continue // each takes its time
			}
			g := room1(func(g *config.Config) {
				small(g)
				g.Publish.Format, g.Publish.Encoding, g.Publish.MaxAge = x.Name, x.Encoding, config.Duration(a.MaxAgeS*1e9)
			})
			require.InEpsilon(t, plan(t, g, PlanOptions{}).Operations, a.Operations, 1e-9, "%s %v", x.label(), a)
		}
	}
}

func TestBudget(t *testing.T) {
	budget := func(n int64, format, atLimit string, alarms ...config.Alarm) *config.Config {
		return room1(func(c *config.Config) {
			c.Operations.PerMonth, c.Operations.Reserve, c.Operations.AtLimit, c.Publish.Format = n, 0.1, atLimit, format
			c.Publish.Alarms = alarms
		})
	}
	// 12 payloads an hour: 8,928.
	f := plan(t, budget(10_000, "rows", "hold"), PlanOptions{Thorough: true})
	require.True(t, *f.Enough)
	require.Equal(t, 1000.0, f.Reserve)
	require.NotContains(t, print(t, f), "too small")
	f = plan(t, budget(9_900, "rows", "hold"), PlanOptions{Thorough: true})
	require.False(t, *f.Enough, "a tenth is kept for alarms")
	require.InDelta(t, 600, *f.EnoughMaxAgeS, 1e-9)
	require.Contains(t, print(t, f), "operations a month, 90.2 % of the budget, 1 block for 1 gateway")
	require.Contains(t, print(t, f), "max_age 10m would do")
	// Rows are full before they are old: only another format helps.
	for at, want := range map[string]string{"hold": "waits in the buffer", "thin": "min, mean and max", "continue": "beyond the budget"} {
		f = plan(t, budget(1000, "rows", at), PlanOptions{Thorough: true})
		require.False(t, *f.Enough)
		require.Nil(t, f.EnoughMaxAgeS)
		require.Contains(t, print(t, f), "no max_age makes it suffice. at_limit "+at+": ")
		require.Contains(t, print(t, f), want)
	}
	f = plan(t, budget(1000, "packed", "hold"), PlanOptions{Thorough: true})
	require.InDelta(t, 3600, *f.EnoughMaxAgeS, 1e-9)
	// Alarms beyond the reserve take from the rest.
	c := budget(9_950, "rows", "hold", config.Alarm{Channel: "room/temperature", Above: new(22.9)})
	f = plan(t, c, PlanOptions{Recording: recorded(t, c, wave(noon, 1131, 10*time.Second))})
	require.Greater(t, f.Alarms, f.Reserve)
	require.False(t, *f.Enough)
}

// A plan is text for a mail: no line is longer than 100 characters, whatever the names and numbers, and none has a control character.
func TestPrintFitsAMail(t *testing.T) {
	c := room1(func(c *config.Config) {
		c.Operations.PerMonth, c.Operations.Reserve, c.Publish.MaxAge, c.Publish.Format = 1000, 0.1, config.Duration(7*time.Minute), "packed"
		c.Sensors[0].Channels[0].Deadband, c.Sensors[0].Channels[0].Resolution = new(0.3), new(0.1)
	})
	base := plan(t, c, PlanOptions{Devices: 100, Prices: true, Thorough: true, Recording: recorded(t, c, wave(noon, 360, 10*time.Second))})
	text, err := json.Marshal(base)
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		f := &Forecast{}
		require.NoError(t, json.Unmarshal(text, f))
		scale := func(v *float64) {
			if v != nil {
				*v *= math.Pow10(rapid.IntRange(-3, 9).Draw(t, "factor"))
			}
		}
		f.Gateway = strings.Repeat("g", rapid.IntRange(1, 64).Draw(t, "gateway"))
		f.Gateways, f.Budget, f.PerBytes = rapid.IntRange(1, 1e9).Draw(t, "gateways"), rapid.Int64Range(1, 1e12).Draw(t, "budget"), rapid.IntRange(0, 1<<20).Draw(t, "per bytes")
		for _, v := range []*float64{&f.Readings, &f.Taken, &f.Operations, &f.Alarms, &f.Reserve, f.Percent, f.EnoughMaxAgeS, &f.SchemaOperations, &f.Cheapest.Operations, &f.Cheapest.Saved, &f.Measured.Seconds,
			&f.Blocks.Operations, &f.Blocks.Megabytes, f.Blocks.Dollars, f.Blocks.DollarsOneByOne, &f.OneByOne.Operations, &f.OneByOne.Payloads} {
			scale(v)
		}
		for i := range f.Formats {
			x := &f.Formats[i]
			x.Blocks = rapid.IntRange(1, 1e9).Draw(t, "blocks")
			for _, v := range []*float64{&x.Payloads, &x.Operations, x.Percent, &x.FullAfterS} {
				scale(v)
			}
			for k := range x.ByMaxAge {
				scale(&x.ByMaxAge[k].Operations)
			}
		}
		for i := range f.Reductions {
			for _, e := range []*Effect{f.Reductions[i].With, f.Reductions[i].Without} {
				if e != nil {
					scale(&e.Readings)
					scale(&e.Operations)
				}
			}
		}
		f.Measured.Source = rapid.SampledFrom([]string{"made-up", "recording", "buffer"}).Draw(t, "source")
		f.Measured.Readings, f.Measured.Skipped = rapid.IntRange(0, 1e9).Draw(t, "readings"), rapid.IntRange(0, 1e9).Draw(t, "skipped")
		f.Measured.Files = []string{strings.Repeat("f", rapid.IntRange(1, 200).Draw(t, "file"))}
		f.Measured.Missing, f.Measured.MadeUp = []string{strings.Repeat("m", 129), "a", "b", "c", "d"}, []string{strings.Repeat("ü", 64)}
		var b bytes.Buffer
		require.NoError(t, f.Print(&b))
		for line := range strings.SplitSeq(b.String(), "\n") {
			require.LessOrEqual(t, utf8.RuneCountInString(line), width, "%s", line)
			require.Equal(t, strings.TrimRight(line, " "), line)
			require.False(t, strings.ContainsFunc(line, unicode.IsControl), "%q", line)
			require.NotContains(t, line, "NaN")
		}
	})
}

// Whatever a recording has in it, reading it ends with a plan or says what is wrong.
func FuzzRecording(f *testing.F) {
	f.Add([]byte("t_ms,channel,value\n" + wave(noon, 5, time.Second)))
	f.Add([]byte("\ufefft_ms,value,channel,quality\n1,1,room/humidity,good\n5,2,room/humidity,aggregate\n9000,3,room/humidity,good\n"))
	f.Add([]byte("t_ms,channel,value\n\"1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			return
		}
		c := room1(func(c *config.Config) { c.Sensors[0].Channels[1].Deadband = new(0.5) })
		for _, buffer := range []bool{false, true} {
			r := NewRecording(c)
			var err error
			if buffer {
				err = r.ReadBuffer(bytes.NewReader(text))
			} else {
				err = r.read(bytes.NewReader(text), "x")
			}
			if err != nil {
				continue
			}
			tape, err := r.wind(c)
			if err != nil {
				continue
			}
			require.NotEmpty(t, tape.rows)
			require.Positive(t, tape.length)
			require.Zero(t, tape.loop%1000)
			p := newPlanner(c, tape)
			require.Equal(t, p.played > 0, p.kept > 0)
			next, last := p.play(tape), int64(math.MinInt64)
			for range 100 {
				e, ok := next()
				if !ok {
					break
				}
				require.GreaterOrEqual(t, e.at, last, "in the order of time")
				last = e.at
			}
		}
	})
}
