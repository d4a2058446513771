package site

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"homeward/drivers"
	"homeward/drivers/bme280"
	"homeward/drivers/hostbus"
	"homeward/drivers/mcp3008"
	"homeward/drivers/modbus"
	"homeward/drivers/sim"
	"homeward/drivers/sim/truth"
)

const bench = `ports:
  - name: rs485
    line: 115200-8N1
    slaves:
      - sensor: boiler
        unit_id: 1
        every: 1s
        channels:
          - {name: polls, register: holding, address: 0, type: uint16, value: {counter: 1}}
          - {name: flow, register: holding, address: 4, type: int16, scale: 0.1, unit: Cel, value: {sine: {mean: 62, amplitude: 8, period: 1s}}}
          - {name: pump, register: coil, address: 1, value: 1}
      - {sensor: meter, unit_id: 2, every: 1s, channels: [{name: energy, register: input, address: 0, type: float32, unit: kWh, value: 21.4}]}
i2c: [{name: i2c-1, chips: [{sensor: cellar, chip: bme280, every: 1s, values: {temperature: {sawtooth: {low: 10, high: 20, period: 1s}}}}]}]
spi: [{name: spi0.0, sensor: tank, chip: mcp3008, vref: 3.3, every: 1s, channels: [{name: level, input: 2, value: 1.5}]}]
w1: [{name: w1, devices: [{sensor: hall, chip: ds18b20, every: 2s, values: {temperature: 21.5}}]}]
faults:
`

// rig is an opened site with a truth file in memory.
type rig struct {
	t    *testing.T
	r    *Running
	file *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// noBroker takes connections and says nothing.
func noBroker(l net.Listener) (io.Closer, error) { return l, nil }

func open(t *testing.T, text string) *rig {
	s, err := Parse("site.yaml", []byte(text))
	require.NoError(t, err)
	t.Cleanup(func() { goleak.VerifyNone(t) }) // the last one
	x := &rig{t: t, file: new(safeBuffer)}
	x.r, err = s.Open(Options{Dir: t.TempDir(), Truth: x.file, Broker: noBroker})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, x.r.Close()) })
	t.Setenv(sim.Env, x.r.Socket())
	return x
}

// read reads a sensor as the gateway does: over the socket, or the port's terminal.
func (x *rig) read(sensor string) ([]drivers.Reading, error) {
	if sensor == "hall" {
		return x.hall()
	}
	var o drivers.Options
	p := func(v int) *int { return &v }
	channel := func(name string) drivers.Channel { return drivers.Channel{Name: name} }
	scale := 0.1
	switch sensor {
	case "boiler":
		o = &modbus.Options{Port: "sim:rs485", Line: "115200-8N1", UnitID: p(1), MaxGap: p(0), Chans: []modbus.Channel{
			{Channel: channel("polls"), Register: "holding", Address: p(0), Type: "uint16"},
			{Channel: channel("flow"), Register: "holding", Address: p(4), Type: "int16", Scale: &scale},
			{Channel: channel("pump"), Register: "coil", Address: p(1)},
		}}
	case "meter":
		o = &modbus.Options{Port: "sim:rs485", Line: "115200-8N1", UnitID: p(2), Chans: []modbus.Channel{
			{Channel: channel("energy"), Register: "input", Address: p(0), Type: "float32"},
		}}
	case "cellar":
		o = bme280.Factory.New("bme280")
		o.(*bme280.Options).BusName = "sim:i2c-1"
	case "tank":
		volts := 3.3 / 1024
		o = mcp3008.Factory.New("mcp3008")
		o.(*mcp3008.Options).BusName = "sim:spi0.0"
		o.(*mcp3008.Options).Chans = []mcp3008.Channel{{Channel: channel("level"), Input: p(2), Scale: &volts}}
	}
	require.Empty(x.t, o.Check())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	h, err := hostbus.Open(ctx, o.Bus())
	if err != nil {
		return nil, err
	}
	defer h.Close()
	s, err := o.Open(ctx, drivers.Env{Port: h.Port, I2C: h.I2C, SPI: h.SPI, Timeout: 300 * time.Millisecond, Shared: new(drivers.Shared)})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Read(ctx)
}

// hall reads the one device of the 1-Wire bus.
func (x *rig) hall() ([]drivers.Reading, error) {
	h, err := hostbus.Open(context.Background(), drivers.Bus{Kind: drivers.W1Bus, Name: "sim:w1"})
	if err != nil {
		return nil, err
	}
	defer h.Close()
	ids, err := h.W1.Devices()
	if err != nil || len(ids) == 0 {
		return nil, errors.Join(err, errors.New("no device"))
	}
	text, err := h.W1.Read(ids[0], "w1_slave")
	if err != nil {
		return nil, err
	}
	_, number, _ := strings.Cut(string(text), "t=")
	if !strings.Contains(string(text), "YES") {
		return nil, drivers.ErrCheck
	}
	v, err := strconv.Atoi(strings.TrimSpace(number))
	return []drivers.Reading{{Channel: "temperature", Value: float64(v) / 1000}}, err
}

// written is a truth file.
type written struct {
	site     truth.Site
	sensors  []truth.Sensor
	served   []truth.Served
	faults   []truth.Fault
	complete bool
}

// records reads the truth file so far.
func (x *rig) records() (all written) {
	require.NoError(x.t, x.r.truth.flush())
	x.file.mu.Lock()
	defer x.file.mu.Unlock()
	var err error
	all.complete, err = truth.Read(bytes.NewReader(x.file.b.Bytes()), truth.Reader{
		Site:   func(v truth.Site) error { all.site = v; return nil },
		Sensor: func(v truth.Sensor) error { all.sensors = append(all.sensors, v); return nil },
		Served: func(v truth.Served) error { all.served = append(all.served, v); return nil },
		Fault:  func(v truth.Fault) error { all.faults = append(all.faults, v); return nil },
	})
	require.NoError(x.t, err)
	return all
}

// TestTruth: what a reader gets is what the truth file says, in value and time.
func TestTruth(t *testing.T) {
	x := open(t, bench+"  []")
	got := map[string][]float64{}
	begin := time.Now().UnixMilli()
	for range 3 {
		for _, sensor := range []string{"boiler", "meter", "cellar", "tank", "hall"} {
			readings, err := x.read(sensor)
			require.NoError(t, err)
			for _, r := range readings {
				name := sensor + "/" + r.Channel
				got[name] = append(got[name], r.Value)
			}
		}
	}
	served, tolerance := map[string][]float64{}, x.r.site.Tolerances()
	for _, r := range x.records().served {
		require.GreaterOrEqual(t, r.TimeMS, begin)
		require.LessOrEqual(t, r.TimeMS, time.Now().UnixMilli())
		served[r.Channel] = append(served[r.Channel], r.Value)
	}
	require.Len(t, got, 9)
	for name, values := range got {
		if name == "tank/level" { // opening a converter reads it, too
			served[name] = []float64{served[name][1], served[name][3], served[name][5]}
		}
		require.Len(t, served[name], 3, name)
		require.InDeltaSlice(t, values, served[name], tolerance[name]+1e-12, name)
	}
	require.Equal(t, []float64{1, 2, 3}, got["boiler/polls"])
	require.Equal(t, []float64{21.4, 21.4, 21.4}, got["meter/energy"])
	require.NotEqual(t, got["cellar/temperature"][0], got["cellar/temperature"][2])
	require.False(t, x.records().complete)
	require.NoError(t, x.r.Close())
	all := x.records()
	require.True(t, all.complete)
	require.Len(t, all.sensors, 5)
	require.Equal(t, truth.Sensor{Name: "boiler", Driver: "modbus", EveryMS: 1000, Bus: "rs485", AnswerMS: all.sensors[0].AnswerMS,
		Channels: []truth.Channel{{Name: "polls"}, {Name: "flow", Unit: "Cel"}, {Name: "pump"}}}, all.sensors[0])
}

// TestFaults: each fault acts on its target from its beginning to its end, and the truth file has both.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		fault  string // the entry without its time
		sensor string // that fails
		is     error  // nil: any
		well   string // another one that does not; empty: none is looked at
	}{
		{"on: rs485, fault: unplug", "meter", drivers.ErrGone, "cellar"},
		{"on: rs485, fault: rename", "boiler", drivers.ErrGone, "cellar"},
		{"on: rs485, fault: silent", "boiler", drivers.ErrTimeout, "tank"},
		{"on: boiler, fault: silent", "boiler", drivers.ErrTimeout, "meter"},
		{"on: meter, fault: late, delay: 600ms", "meter", drivers.ErrTimeout, "boiler"},
		{"on: meter, fault: truncated, bytes: 4", "meter", nil, "boiler"},
		{"on: meter, fault: corrupt", "meter", drivers.ErrCheck, "boiler"},
		{"on: meter, fault: noise, bytes: \"55aa\"", "meter", nil, "boiler"},
		{"on: meter, fault: exception, code: 4", "meter", drivers.ErrRefuse, "boiler"},
		{"on: cellar, fault: nack", "cellar", nil, "boiler"},
		{"on: i2c-1, fault: nack", "cellar", nil, "boiler"},
		{"on: i2c-1, fault: unplug", "cellar", drivers.ErrGone, "tank"},
		{"on: cellar, fault: unplug", "cellar", nil, "tank"},
		{"on: cellar, fault: stuck, hold: 20ms", "cellar", drivers.ErrTimeout, "tank"},
		{"on: cellar, fault: flip, bit: 2", "cellar", drivers.ErrWrong, "tank"},
		{"on: tank, fault: float, level: 1", "tank", nil, "cellar"},
		{"on: tank, fault: unplug", "tank", nil, "cellar"},
		{"on: spi0.0, fault: flip, bit: 16", "tank", nil, "cellar"},
		{"on: hall, fault: nack", "hall", nil, "cellar"},
		{"on: hall, fault: unplug", "hall", nil, "cellar"},
		{"on: w1, fault: unplug", "hall", drivers.ErrGone, "cellar"},
		{"on: w1, fault: stuck, hold: 20ms", "hall", nil, "cellar"},
		{"on: hall, fault: flip, bit: 9", "hall", drivers.ErrCheck, "cellar"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			x := open(t, bench+"  - {at: 1s, for: 1s, "+c.fault+"}")
			events := x.r.site.events()
			require.Len(t, events, 2)
			_, err := x.read(c.sensor)
			require.NoError(t, err, "before")
			require.NoError(t, x.r.act(events[0]))
			_, err = x.read(c.sensor)
			require.Error(t, err)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			_, err = x.read(c.well)
			require.NoError(t, err, "the others do not notice")
			require.NoError(t, x.r.act(events[1]))
			require.Eventually(t, func() bool { _, err = x.read(c.sensor); return err == nil }, 10*time.Second, 10*time.Millisecond, "after: %v", err)
			faults := x.records().faults
			require.Len(t, faults, 2)
			require.Equal(t, "begin", faults[0].State)
			require.Equal(t, "end", faults[1].State)
			require.Contains(t, faults[0].Sensors, c.sensor)
			require.NotContains(t, faults[0].Sensors, c.well)
		})
	}
}

// TestSpoiled: what goes out in a broken reply does not count as handed out.
func TestSpoiled(t *testing.T) {
	x := open(t, bench+"  - {at: 1s, for: 1s, on: meter, fault: corrupt}")
	events := x.r.site.events()
	require.NoError(t, x.r.act(events[0]))
	time.Sleep(spoilDelay + 10*time.Millisecond)
	_, err := x.read("meter")
	require.Error(t, err)
	require.Empty(t, x.records().served)
	require.NoError(t, x.r.act(events[1]))
	_, err = x.read("meter")
	require.NoError(t, err)
	require.Len(t, x.records().served, 1)
}

func TestRename(t *testing.T) {
	x := open(t, bench+"  - {at: 0s, on: rs485, fault: rename}")
	before := x.r.Line("rs485").TTY()
	require.NoError(t, x.r.act(x.r.site.events()[0]))
	require.NotEqual(t, before, x.r.Line("rs485").TTY())
	_, err := x.read("boiler")
	require.NoError(t, err)
	require.Len(t, x.records().faults, 2, "begin and end")
}

func TestClockJump(t *testing.T) {
	x := open(t, bench+"  - {at: 0s, for: 1s, fault: clock-jump, offset: -2h, trusted: false}\nclock: {offset: 1s}")
	clock := func() (bool, time.Duration) {
		trusted, offset, err := sim.Clock(context.Background())
		require.NoError(t, err)
		return trusted, offset
	}
	for i, want := range []struct {
		trusted bool
		offset  time.Duration
	}{{true, time.Second}, {false, -2 * time.Hour}, {true, time.Second}} {
		if i > 0 {
			require.NoError(t, x.r.act(x.r.site.events()[i-1]))
		}
		trusted, offset := clock()
		require.Equal(t, want.trusted, trusted)
		require.Equal(t, want.offset, offset)
	}
	told := x.records()
	require.Equal(t, int64(1000), told.site.OffsetMS)
	require.Equal(t, int64(-7200_000), told.faults[0].OffsetMS)
	require.Equal(t, int64(1000), told.faults[1].OffsetMS, "back to the site's own")
	require.Equal(t, []bool{false, true, false}, []bool{told.site.Untrusted, told.faults[0].Untrusted, told.faults[1].Untrusted})
}

// TestRun: the timeline acts in real time, says so, and the truth file is written meanwhile.
func TestRun(t *testing.T) {
	defer goleak.VerifyNone(t)
	s, err := Parse("site.yaml", []byte(bench+"  - {at: 50ms, for: 50ms, on: rs485, fault: unplug}\n  - {at: 10ms, on: broker, fault: frozen}"))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "truth.jsonl")
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	var said []string
	r, err := s.Open(Options{Dir: t.TempDir(), Truth: file, Broker: noBroker, Say: func(line string) { said = append(said, line) }})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	require.NoError(t, r.Run(ctx))
	require.Equal(t, []string{"frozen on broker begins", "unplug on rs485 (boiler, meter) begins for 50ms", "unplug on rs485 (boiler, meter) ends"}, said)
	require.NoError(t, r.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 5, bytes.Count(text, []byte(`"kind":"sensor"`)))
	require.Equal(t, 3, bytes.Count(text, []byte(`"kind":"fault"`)))
	require.Contains(t, string(text), `"kind":"end"`)
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// TestTruthFull: a truth file that cannot be written ends the run with an error.
func TestTruthFull(t *testing.T) {
	s, err := Parse("site.yaml", []byte(bench+"  []"))
	require.NoError(t, err)
	r, err := s.Open(Options{Dir: t.TempDir(), Truth: full{}, Broker: noBroker})
	require.NoError(t, err)
	require.ErrorIs(t, r.Run(context.Background()), io.ErrShortWrite)
	require.Error(t, r.Close())
}

func TestOpenFails(t *testing.T) {
	defer goleak.VerifyNone(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s, err := Parse("site.yaml", []byte(bench+"  []\nbroker: {listen: \""+l.Addr().String()+"\"}"))
	require.NoError(t, err)
	_, err = s.Open(Options{Dir: t.TempDir(), Broker: noBroker})
	require.ErrorContains(t, err, "broker: listen tcp "+l.Addr().String())
}
