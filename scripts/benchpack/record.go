package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"homeward/agent/config"
	"homeward/agent/pack/packed"
	"homeward/drivers"
	"homeward/drivers/all"
	"homeward/drivers/mcp3008"
	"homeward/drivers/modbus"
	"homeward/drivers/sim"
)

// The simulator's own recordings: the gateway's drivers read simulated chips and Modbus units, on a clock that only this
// program moves. They are the same on every run.

// place is a simulated site: a gateway's sensors, and what they measure.
type place struct {
	name    string
	sensors string                       // YAML
	length  time.Duration                // of the recording
	res     time.Duration                // to which times are rounded down
	late    time.Duration                // how much later than planned a poll may be
	values  map[string]sim.Value         // by channel; of converters and currents in volts and such
	fails   func(string, time.Time) bool // whether a sensor's poll finds nobody; may be nil
}

// siteStart is a Monday at midnight.
var siteStart = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// hash is a number from 0 to 1 that looks random.
func hash(seed, n int64) float64 {
	x := uint64(seed)*0x9E3779B97F4A7C15 + uint64(n)*0xBF58476D1CE4E5B9 // splitmix64
	x ^= x >> 30
	x *= 0xBF58476D1CE4E5B9
	x ^= x >> 27
	x *= 0x94D049BB133111EB
	x ^= x >> 31
	return float64(x>>11) / (1 << 53)
}

// noise is up to ±amplitude, another one each ms.
func noise(seed int64, amplitude float64) sim.Value {
	return func(t time.Time) float64 {
		ms := t.UnixMilli()
		return amplitude * (hash(seed, ms) + hash(seed+1000, ms) + hash(seed+2000, ms) - 1.5) / 1.5
	}
}

// drift wanders within ±amplitude, in curves of about the period.
func drift(seed int64, amplitude float64, period time.Duration) sim.Value {
	return func(t time.Time) float64 {
		x := float64(t.UnixMilli()) / float64(period.Milliseconds())
		i := math.Floor(x)
		f := x - i
		f = f * f * (3 - 2*f)
		a, b := hash(seed, int64(i)), hash(seed, int64(i)+1)
		return amplitude * (2*(a+(b-a)*f) - 1)
	}
}

func sum(parts ...sim.Value) sim.Value {
	return func(t time.Time) (v float64) {
		for _, p := range parts {
			v += p(t)
		}
		return v
	}
}

// switched is 1 for the first part of each period, and 0 otherwise.
func switched(period time.Duration, part float64) sim.Value {
	saw := sim.Sawtooth(0, 1, period)
	return func(t time.Time) float64 {
		if saw(t) < part {
			return 1
		}
		return 0
	}
}

// count is what comes together at a rate a second, which changes, since the site's start; in whole steps.
func count(rate, step float64, seed int64) sim.Value {
	wander := drift(seed, 600*rate, 40*time.Minute)
	return func(t time.Time) float64 {
		s := t.Sub(siteStart).Seconds()
		return math.Floor((1e4*rate+rate*s*1.5+wander(t))/step) * step
	}
}

func times(f sim.Value, factor float64) sim.Value {
	return func(t time.Time) float64 { return f(t) * factor }
}

var places = []place{plant, store, machine}

// plant is a plant room: a heat meter, a power meter, a climate sensor and a tank, every 10 or 30 s.
var plant = place{
	name: "sim-plant",
	sensors: `
  - name: boiler
    driver: modbus
    url: tcp://boiler.sim:502
    unit_id: 1
    every: 10s
    channels:
      - {name: flow, register: holding, address: 0, type: int16, scale: 0.1, unit: Cel}
      - {name: return, register: holding, address: 1, type: int16, scale: 0.1, unit: Cel}
      - {name: outside, register: holding, address: 2, type: int16, scale: 0.1, unit: Cel}
      - {name: pressure, register: holding, address: 3, type: uint16, scale: 0.01, unit: bar}
      - {name: volume, register: holding, address: 4, type: uint32, scale: 0.001, unit: m3}
      - {name: energy, register: holding, address: 6, type: uint32, scale: 0.001, unit: kWh}
      - {name: starts, register: holding, address: 8, type: uint16}
      - {name: pump, register: coil, address: 0}
      - {name: burner, register: coil, address: 1}
  - name: meter
    driver: modbus
    url: tcp://meter.sim:502
    unit_id: 2
    every: 10s
    channels:
      - {name: u1, register: input, address: 0, type: float32, unit: V}
      - {name: i1, register: input, address: 2, type: float32, unit: A}
      - {name: power, register: input, address: 4, type: float32, unit: W}
      - {name: frequency, register: input, address: 6, type: uint16, scale: 0.01, unit: Hz}
      - {name: energy, register: input, address: 7, type: uint32, scale: 0.01, unit: kWh}
  - {name: cellar, driver: bme280, bus: sim:i2c-1, address: 0x76, every: 30s}
  - name: tank
    driver: mcp3008
    bus: sim:spi0.0
    every: 10s
    channels:
      - {name: level, input: 0, scale: 0.00322265625, unit: V}
      - {name: supply, input: 1, scale: 0.00322265625, unit: V}
`,
	length: 4 * time.Hour, res: 100 * time.Millisecond, late: 30 * time.Millisecond,
	values: map[string]sim.Value{
		"boiler/flow":        sum(sim.Constant(62), times(switched(11*time.Minute, 0.4), 4), drift(1, 5, 9*time.Minute), noise(2, 0.08)),
		"boiler/return":      sum(sim.Constant(47), drift(3, 4, 14*time.Minute), noise(4, 0.08)),
		"boiler/outside":     sum(sim.Sine(-2, 6, 24*time.Hour), drift(5, 1, time.Hour)),
		"boiler/pressure":    sum(sim.Constant(1.62), drift(6, 0.05, 20*time.Minute)),
		"boiler/volume":      count(0.00035, 0.001, 7),
		"boiler/energy":      count(0.0062, 0.001, 8),
		"boiler/starts":      count(1.0/660, 1, 9),
		"boiler/pump":        switched(50*time.Minute, 0.8),
		"boiler/burner":      switched(11*time.Minute, 0.4),
		"meter/u1":           sum(sim.Constant(231.5), drift(10, 2.5, 5*time.Minute), noise(11, 0.3)),
		"meter/i1":           sum(sim.Constant(6.4), times(switched(7*time.Minute, 0.3), 5), noise(12, 0.06)),
		"meter/power":        sum(sim.Constant(1480), times(switched(7*time.Minute, 0.3), 1150), noise(13, 14)),
		"meter/frequency":    sum(sim.Constant(50), drift(14, 0.04, time.Minute), noise(15, 0.01)),
		"meter/energy":       count(0.0005, 0.01, 16),
		"cellar/temperature": sum(sim.Constant(12.3), drift(17, 0.8, 35*time.Minute), noise(18, 0.01)),
		"cellar/humidity":    sum(sim.Constant(71), drift(19, 4, 25*time.Minute), noise(20, 0.05)),
		"cellar/pressure":    sum(sim.Constant(101250), drift(21, 180, 2*time.Hour), noise(22, 2)),
		"tank/level":         sum(sim.Sawtooth(2.4, 0.9, 50*time.Minute), noise(23, 0.004)),
		"tank/supply":        sum(sim.Constant(2.4), noise(24, 0.002)),
	},
}

// store is a cold store: slow thermometers one by one, doors, and a probe that is away for a while.
var store = place{
	name: "sim-store",
	sensors: `
  - {name: room1, driver: mcp9808, bus: sim:i2c-1, address: 0x18, every: 60s}
  - {name: room2, driver: mcp9808, bus: sim:i2c-1, address: 0x19, every: 60s}
  - {name: room3, driver: mcp9808, bus: sim:i2c-1, address: 0x1a, every: 60s}
  - {name: freezer, driver: tmp102, bus: sim:i2c-1, address: 0x48, every: 60s}
  - {name: hall, driver: sht4x, bus: sim:i2c-1, address: 0x44, every: 60s}
  - {name: light, driver: bh1750, bus: sim:i2c-1, address: 0x23, every: 60s}
  - name: doors
    driver: modbus
    url: tcp://doors.sim:502
    unit_id: 1
    every: 15s
    channels:
      - {name: door1, register: discrete, address: 0}
      - {name: door2, register: discrete, address: 1}
      - {name: opened, register: input, address: 0, type: uint32}
`,
	length: 26 * time.Hour, res: 100 * time.Millisecond, late: 30 * time.Millisecond,
	values: map[string]sim.Value{
		"room1/temperature":   sum(sim.Constant(4.2), times(sim.Sawtooth(-1, 1, 23*time.Minute), 0.6), noise(31, 0.04)),
		"room2/temperature":   sum(sim.Constant(2.8), times(sim.Sawtooth(-1, 1, 31*time.Minute), 0.5), noise(32, 0.04)),
		"room3/temperature":   sum(sim.Constant(6.5), drift(33, 0.7, time.Hour), noise(34, 0.04)),
		"freezer/temperature": sum(sim.Constant(-21), drift(35, 1.5, 40*time.Minute), noise(36, 0.05)),
		"hall/temperature":    sum(sim.Sine(15, 3, 24*time.Hour), drift(37, 0.5, time.Hour), noise(38, 0.02)),
		"hall/humidity":       sum(sim.Sine(60, 8, 24*time.Hour), drift(39, 2, 30*time.Minute), noise(40, 0.1)),
		"light/light":         sum(times(switched(24*time.Hour, 0.4), 420), noise(41, 2), sim.Constant(3)),
		"doors/door1":         switched(37*time.Minute, 0.04),
		"doors/door2":         switched(3*time.Hour, 0.02),
		"doors/opened":        count(1.0/1800, 1, 42),
	},
	fails: func(sensor string, t time.Time) bool {
		since := t.Sub(siteStart)
		return sensor == "room3" && since > 9*time.Hour && since < 11*time.Hour || sensor == "doors" && hash(50, t.Unix()/60) < 0.01
	},
}

// machine is a machine tool: three fast instruments, each at its own time, to the ms.
var machine = place{
	name: "sim-machine",
	sensors: `
  - name: spindle
    driver: mcp3008
    bus: sim:spi0.0
    every: 1s
    channels:
      - {name: load, input: 0, scale: 0.09765625, unit: "%"}
      - {name: vibration, input: 1, scale: 0.0048828125, unit: m/s2}
      - {name: current, input: 2, scale: 0.029296875, unit: A}
      - {name: coolant, input: 3, scale: 0.00322265625, unit: V}
  - {name: motor, driver: ina219, bus: sim:i2c-1, address: 0x40, shunt: 0.1, every: 500ms}
  - {name: cabinet, driver: sht3x, bus: sim:i2c-1, address: 0x44, every: 5s}
`,
	length: 40 * time.Minute, res: time.Millisecond, late: 12 * time.Millisecond,
	values: map[string]sim.Value{
		"spindle/load":        sum(times(switched(90*time.Second, 0.6), 1.5), sim.Constant(0.4), drift(61, 0.2, 8*time.Second), noise(62, 0.04)),
		"spindle/vibration":   sum(times(switched(90*time.Second, 0.6), 0.8), sim.Constant(0.3), noise(63, 0.3)),
		"spindle/current":     sum(times(switched(90*time.Second, 0.6), 1.2), sim.Constant(0.2), noise(64, 0.02)),
		"spindle/coolant":     sum(sim.Constant(1.7), drift(65, 0.02, 4*time.Minute)),
		"motor/voltage":       sum(sim.Constant(23.9), noise(66, 0.03)),
		"motor/current":       sum(times(switched(90*time.Second, 0.6), 0.9), sim.Constant(0.3), noise(67, 0.01)),
		"cabinet/temperature": sum(sim.Constant(38), drift(68, 3, 6*time.Minute), noise(69, 0.01)),
		"cabinet/humidity":    sum(sim.Constant(32), drift(70, 3, 6*time.Minute), noise(71, 0.05)),
	},
}

// record reads a place for as long as it says.
func (p *place) record() (trace, error) {
	t, err := p.run()
	if err != nil {
		return t, fmt.Errorf("%s: %w", p.name, err)
	}
	return t, nil
}

func (p *place) run() (_ trace, err error) {
	t := trace{name: p.name, units: map[string]drivers.Unit{}}
	c, err := config.Parse(p.name, []byte("gateway: "+gateway+"\nstate: /nowhere\nhome: {cloud: mqtt, organization: acme, project: bench, product: sim, url: mqtt://127.0.0.1}\nsensors:"+p.sensors), all.Factories)
	if err != nil {
		return t, err
	}
	for i := range c.Sensors {
		c.Sensors[i].TimeResolution = config.Duration(p.res) // that of the recording
	}
	t.sets = packed.Sets(c)
	ctx, cancel := context.WithCancel(context.Background())
	now := siteStart
	r := &recorder{place: p, world: &sim.World{Now: func() time.Time { return now }}}
	defer func() {
		cancel()
		for _, port := range r.ports {
			_ = port.Close()
		}
		r.done.Wait()
	}()
	type polled struct {
		sensor config.Sensor
		dev    drivers.Sensor
		next   time.Time
		n      int64
	}
	var plan []polled
	for i, s := range c.Sensors {
		env := drivers.Env{Timeout: time.Minute, Shared: new(drivers.Shared), Sleep: func(d time.Duration) { now = now.Add(d) }}
		if err := r.attach(ctx, s, &env); err != nil {
			return t, fmt.Errorf("%s: %w", s.Name, err)
		}
		dev, err := s.Options.Open(ctx, env)
		if err != nil {
			return t, fmt.Errorf("%s: %w", s.Name, err)
		}
		defer dev.Close()
		every := time.Duration(s.Every)
		first := siteStart.Add(time.Minute + time.Duration(hash(int64(i), 77)*float64(min(every, time.Second))))
		plan = append(plan, polled{sensor: s, dev: dev, next: first})
	}
	end := siteStart.Add(p.length)
	for {
		i := 0
		for j := range plan {
			if plan[j].next.Before(plan[i].next) {
				i = j
			}
		}
		s := &plan[i]
		if s.next.After(end) {
			break
		}
		due := s.next.Add(time.Duration(hash(int64(i)+90, s.n) * float64(p.late)))
		s.next, s.n = s.next.Add(time.Duration(s.sensor.Every)), s.n+1
		if due.After(now) { // another sensor may have taken longer
			now = due
		}
		begin := now.Truncate(p.res).UnixMilli()
		if p.fails != nil && p.fails(s.sensor.Name, now) {
			continue
		}
		readings, err := s.dev.Read(ctx)
		if err != nil {
			return t, fmt.Errorf("%s at %v: %w", s.sensor.Name, now, err)
		}
		for _, x := range readings {
			full := s.sensor.Full(x.Channel)
			t.units[full] = x.Unit
			t.rows = append(t.rows, row{begin, full, x.Value})
		}
	}
	slices.SortStableFunc(t.rows, func(a, b row) int { return cmp.Compare(a.time, b.time) })
	return t, nil
}

// recorder is what a place's sensors are connected to.
type recorder struct {
	place *place
	world *sim.World
	ports []*memoryPort
	done  sync.WaitGroup
}

// value is a channel's, and a mistake in the place where there is none.
func (r *recorder) value(channel string) (sim.Value, error) {
	v := r.place.values[channel]
	if v == nil {
		return nil, fmt.Errorf("nothing says what %s measures", channel)
	}
	return v, nil
}

// attach makes the instrument of a sensor and gives the way to it.
func (r *recorder) attach(ctx context.Context, s config.Sensor, env *drivers.Env) error {
	bus := s.Options.Bus()
	if bus.Kind == drivers.TCP {
		return r.attachModbus(ctx, s, env)
	}
	name := strings.TrimPrefix(bus.Name, sim.Prefix)
	if o, ok := s.Options.(*mcp3008.Options); ok {
		var inputs [8]func(time.Time) float64
		for _, c := range o.Chans {
			v, err := r.value(s.Full(c.Name))
			if err != nil {
				return err
			}
			inputs[*c.Input] = v
		}
		r.world.AddSPI(name, sim.NewMCP3008(r.world, s.Name, 3.3, inputs))
	} else {
		kind, err := sim.FindChip(s.Driver)
		if err != nil {
			return err
		}
		values := map[string]sim.Value{}
		for _, q := range kind.Quantities {
			if v := r.place.values[s.Full(q.Name)]; v != nil {
				values[q.Name] = v
			}
		}
		chip, ok := kind.New(r.world, s.Name, values).(sim.I2CChip)
		if !ok {
			return fmt.Errorf("%s: want a chip for I2C", s.Driver)
		}
		address, ok := reflect.ValueOf(s.Options).Elem().FieldByName("Address").Interface().(*int)
		if !ok || address == nil {
			return fmt.Errorf("%s: want its address", s.Driver)
		}
		if err := r.world.AddI2C(name).Add(uint16(*address), chip); err != nil {
			return err
		}
	}
	opened, err := r.world.Open(bus)
	env.I2C, env.SPI = opened.I2C, opened.SPI
	return err
}

// attachModbus makes a unit and a connection to it that lies in memory.
func (r *recorder) attachModbus(ctx context.Context, s config.Sensor, env *drivers.Env) error {
	options, ok := s.Options.(*modbus.Options)
	if !ok {
		return fmt.Errorf("driver %s: want modbus", s.Driver)
	}
	regs := new(sim.ModbusMap)
	for _, c := range options.Chans {
		v, err := r.value(s.Full(c.Name))
		if err != nil {
			return err
		}
		table, err := sim.ParseModbusTable(c.Register)
		if err != nil {
			return err
		}
		read := func() []uint16 { return []uint16{uint16(v(r.world.Now()))} }
		size := 1
		if table == sim.Holding || table == sim.Input {
			scale := 1.0
			if c.Scale != nil {
				scale = *c.Scale
			}
			words, err := sim.ModbusWords(c.Type, "big", "big", 0)
			if err != nil {
				return err
			}
			size = len(words)
			read = func() []uint16 {
				words, err := sim.ModbusWords(c.Type, "big", "big", v(r.world.Now())/scale)
				if err != nil {
					return nil // refused as an illegal address, and so the recording fails
				}
				return words
			}
		}
		regs.SetFunc(table, uint16(*c.Address), size, read)
	}
	d := new(sim.Modbus)
	d.AddSlave(byte(*options.UnitID), regs)
	here, there := net.Pipe()
	port := &memoryPort{conn: here}
	r.ports = append(r.ports, port)
	l := &oneListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conns <- there
	r.done.Go(func() { _ = d.ServeTCP(ctx, l) })
	env.Port = port
	return nil
}

// memoryPort is a connection within this program: after a request it waits for the whole answer, and
// without one it is silent at once, whatever the machine is doing.
type memoryPort struct {
	conn  net.Conn
	asked bool
}

func (p *memoryPort) Read(b []byte, _ time.Duration) (int, error) {
	if !p.asked {
		return 0, drivers.ErrTimeout
	}
	p.asked = false
	n, err := p.conn.Read(b)
	if err != nil {
		return n, errors.Join(drivers.ErrGone, err)
	}
	return n, nil
}

func (p *memoryPort) Write(b []byte) error {
	p.asked = true
	_, err := p.conn.Write(b)
	return err
}

func (p *memoryPort) Flush() error       { return nil }
func (p *memoryPort) Line() drivers.Line { return drivers.Line{} }
func (p *memoryPort) Close() error       { return p.conn.Close() }

// oneListener brings one connection.
type oneListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, io.EOF
	}
}

func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }
