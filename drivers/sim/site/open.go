// Package site runs a simulated site from one file: instruments on serial ports, TCP, I2C and SPI, the values that they
// measure (waveforms or recorded traces), a broker, and faults at their times.
//
// It promises that a file with a mistake is refused as a whole, with every mistake at its line; that a fault acts when the
// timeline says so; and that each value that an instrument hands out stands in the truth file, in the unit and scale
// in which a right gateway records it. It may lose the last second of the truth file when it is killed.
package site

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"homeward/drivers/sim"
)

// Options are what a site is opened with.
type Options struct {
	Dir   string    // for the socket and the ports' links; must be there
	Truth io.Writer // nil: no truth file
	// Broker serves MQTT on l until it is closed. Nil: the site has no broker.
	Broker func(l net.Listener) (io.Closer, error)
	// Served is told of each value, beside the truth file. It may be called by several goroutines at once. May be nil.
	Served func(channel string, value float64, at time.Time)
	// Say is told of each fault as it happens; one line without its end. May be nil.
	Say func(line string)
	Log *slog.Logger // may be nil
}

// Running is an opened site. Close ends it.
type Running struct {
	site   *Site
	o      Options
	socket string
	world  *sim.World
	lines  map[string]*sim.SerialLine
	modbus map[*port]*sim.Modbus
	talker map[*port]*sim.Talker
	doors  map[string]*door
	spi    map[string]*sim.SPIDevice
	roms   map[*chip]string // of 1-Wire devices
	truth  *recorder
	server io.Closer // the broker
	start  time.Time

	spoiled map[*slave]*atomic.Int64 // since when its replies hand out nothing that is right; Unix ns, 0: they do
	cancel  context.CancelFunc
	done    sync.WaitGroup
	once    sync.Once
	err     error // of Close
}

// maxSocketPath is what a unix socket's address holds (unix(7): 108 bytes with the final zero).
const maxSocketPath = 107

// Open starts everything but the timeline.
func (s *Site) Open(o Options) (_ *Running, err error) {
	r := &Running{
		site: s, o: o, socket: filepath.Join(o.Dir, "sim.sock"), start: time.Now(),
		lines: map[string]*sim.SerialLine{}, modbus: map[*port]*sim.Modbus{}, talker: map[*port]*sim.Talker{}, doors: map[string]*door{}, spi: map[string]*sim.SPIDevice{}, roms: map[*chip]string{},
		spoiled: map[*slave]*atomic.Int64{},
	}
	if len(r.socket) > maxSocketPath {
		return nil, fmt.Errorf("site: %s is too long for a socket's path: want at most %d bytes", r.socket, maxSocketPath)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	defer func() {
		if err != nil {
			_ = r.Close()
		}
	}()
	r.truth = newRecorder(o.Truth)
	r.truth.begin(s, r.start)
	r.world = &sim.World{Log: o.Log, Served: r.chipServed()}
	r.world.SetClock(s.trusted, s.offset)
	for _, p := range s.ports {
		if err := r.openPort(p); err != nil {
			return nil, err
		}
	}
	for _, p := range s.tcp {
		if err := r.openTCP(ctx, p); err != nil {
			return nil, err
		}
	}
	for _, b := range s.i2c {
		bus := r.world.AddI2C(b.name)
		for _, c := range b.chips {
			if err := bus.Add(c.address, r.newChip(c).(sim.I2CChip)); err != nil {
				return nil, err
			}
		}
	}
	for _, b := range s.w1 {
		bus := r.world.AddW1(b.name)
		for _, c := range b.chips {
			chip := r.newChip(c).(sim.W1Chip)
			if err := bus.Add(chip); err != nil {
				return nil, err
			}
			r.roms[c] = chip.ID()
		}
	}
	for _, c := range s.spi {
		r.spi[c.bus] = r.world.AddSPI(c.bus, r.newChip(c).(sim.SPIChip))
	}
	if o.Broker != nil {
		d, err := openDoor(s.broker)
		if err != nil {
			return nil, fmt.Errorf("site: broker: %w", err)
		}
		r.doors["broker"] = d
		if r.server, err = o.Broker(d); err != nil {
			return nil, fmt.Errorf("site: broker: %w", err)
		}
	}
	l, err := sim.Listen(r.socket)
	if err != nil {
		return nil, err
	}
	r.done.Go(func() {
		if err := r.world.ServeListener(ctx, l); err != nil && o.Log != nil {
			o.Log.Error("site: the socket is no longer served", "error", err)
		}
	})
	return r, nil
}

// slaves makes the units of a port.
func (r *Running) slaves(p *port) *sim.Modbus {
	d := &sim.Modbus{Delay: p.delay}
	for _, u := range p.slaves {
		m := new(sim.ModbusMap)
		spoiled := new(atomic.Int64)
		r.spoiled[u] = spoiled
		u.fill(m, r.start, time.Now, func(channel string, v float64, at time.Time) {
			if since := spoiled.Load(); since == 0 || at.UnixNano() < since {
				r.served(channel, v, at)
			}
		})
		d.AddSlave(byte(u.id), m)
	}
	r.modbus[p] = d
	return d
}

// device is what hangs on a port.
func (r *Running) device(p *port) interface {
	sim.SerialDevice
	ServeTCP(context.Context, net.Listener) error
} {
	if p.talker == nil {
		return r.slaves(p)
	}
	t := p.talker
	if t.format == "" {
		values := map[string]sim.Value{}
		for name, w := range t.waves {
			values[name] = w.value(r.start)
		}
		r.talker[p] = sim.NewNMEA(r.world, t.sensor.name, t.sensor.every, values)
		return r.talker[p]
	}
	var values []sim.LineValue
	for _, c := range t.sensor.channels {
		values = append(values, sim.LineValue{Name: c.name, Value: t.waves[c.name].value(r.start)})
	}
	r.talker[p] = sim.NewLines(r.world, t.sensor.name, t.sensor.every, t.format, values)
	return r.talker[p]
}

// openTCP serves a port's device on a listener of its own.
func (r *Running) openTCP(ctx context.Context, p *port) error {
	d, err := openDoor(p.listen)
	if err != nil {
		return fmt.Errorf("site: %s: %w", p.name, err)
	}
	r.doors[p.name] = d
	device := r.device(p)
	r.done.Go(func() {
		if err := device.ServeTCP(ctx, d); err != nil && ctx.Err() == nil && r.o.Log != nil {
			r.o.Log.Error("site: a TCP server stopped", "name", p.name, "error", err)
		}
	})
	return nil
}

func (r *Running) openPort(p *port) error {
	l, err := sim.NewSerialLine(filepath.Join(r.o.Dir, "ports", p.name), p.line, r.device(p), r.o.Log)
	if err != nil {
		return err
	}
	r.lines[p.name] = l
	r.world.AddSerial(p.name, l)
	return nil
}

func (r *Running) newChip(c *chip) any {
	if bits := converters[c.name]; bits > 0 {
		var in [8]func(time.Time) float64
		for _, i := range c.inputs {
			in[i.number] = i.wave.value(r.start)
		}
		if bits == 12 {
			return sim.NewMCP3208(r.world, c.sensor.name, c.vref, in)
		}
		return sim.NewMCP3008(r.world, c.sensor.name, c.vref, in)
	}
	values := map[string]sim.Value{}
	for name, w := range c.waves {
		values[name] = w.value(r.start)
	}
	return c.chip.New(r.world, c.sensor.name, values)
}

// scale is volts per code of a converter.
func (c *chip) scale() float64 { return c.vref / float64(int(1)<<converters[c.name]) }

// chipServed takes what chips hand out: a converter's codes become volts.
func (r *Running) chipServed() func(string, any, time.Time) {
	type converted struct {
		channel string
		scale   float64
	}
	codes := map[string]converted{}
	known := map[string]bool{}
	for _, c := range r.site.spi {
		for _, i := range c.inputs {
			codes[fmt.Sprintf("%s/%d", c.sensor.name, i.number)] = converted{c.sensor.name + "/" + i.name, c.scale()}
		}
	}
	for _, s := range r.site.sensors {
		for _, c := range s.channels {
			known[s.name+"/"+c.name] = true
		}
	}
	return func(channel string, raw any, at time.Time) {
		switch v := raw.(type) {
		case float64:
			if known[channel] {
				r.served(channel, v, at)
			}
		case int:
			if c, ok := codes[channel]; ok {
				r.served(c.channel, twelve(float64(v)*c.scale), at)
			}
		}
	}
}

func (r *Running) served(channel string, v float64, at time.Time) {
	r.truth.served(channel, v, at)
	if r.o.Served != nil {
		r.o.Served(channel, v, at)
	}
}

// Socket is the path for $HOMEWARD_SIM.
func (r *Running) Socket() string { return r.socket }

// World is where everything lives.
func (r *Running) World() *sim.World { return r.world }

// Line is a serial port's, nil if there is none of this name.
func (r *Running) Line(name string) *sim.SerialLine { return r.lines[name] }

// SPI is an SPI device, nil if there is none of this name.
func (r *Running) SPI(name string) *sim.SPIDevice { return r.spi[name] }

// Broker is where the broker listens, or empty.
func (r *Running) Broker() string {
	if d := r.doors["broker"]; d != nil {
		return d.Addr().String()
	}
	return ""
}

// Channels are the full names of all channels.
func (s *Site) Channels() (all []string) {
	for _, x := range s.sensors {
		for _, c := range x.channels {
			all = append(all, x.name+"/"+c.name)
		}
	}
	return all
}

// Tolerances are the channels' that have one: how far a right gateway's value may lie from what is told as served.
func (s *Site) Tolerances() map[string]float64 {
	all := map[string]float64{}
	for _, x := range s.sensors {
		for _, c := range x.channels {
			if c.tolerance > 0 {
				all[x.name+"/"+c.name] = c.tolerance
			}
		}
	}
	return all
}

// Offer says line by line what there is and where: a word, and what to do with it.
func (r *Running) Offer() (lines [][2]string) {
	add := func(what, format string, args ...any) {
		lines = append(lines, [2]string{what, fmt.Sprintf(format, args...)})
	}
	names := func(sensors []*sensor) string {
		var all []string
		for _, s := range sensors {
			all = append(all, s.name)
		}
		return strings.Join(all, ", ")
	}
	add("socket", "%s=%s", sim.Env, r.socket)
	for _, p := range r.site.ports {
		l := r.lines[p.name]
		add("port", "sim:%s, %v: %s, now %s: %s", p.name, p.line, l.Link(), l.TTY(), names(r.site.sensorsOf(p)))
	}
	for _, p := range r.site.tcp {
		add("tcp", "tcp://%s (%s): %s", r.doors[p.name].Addr(), p.name, names(r.site.sensorsOf(p)))
	}
	for _, b := range r.site.i2c {
		for _, c := range b.chips {
			add("i2c", "sim:%s, 0x%02x: %s, a %s", b.name, c.address, c.sensor.name, c.name)
		}
	}
	for _, b := range r.site.w1 {
		for _, c := range b.chips {
			add("w1", "sim:%s, %s: %s, a %s", b.name, r.roms[c], c.sensor.name, c.name)
		}
	}
	for _, c := range r.site.spi {
		add("spi", "sim:%s: %s, a %s", c.bus, c.sensor.name, c.name)
	}
	if b := r.Broker(); b != "" {
		add("broker", "mqtt://%s", b)
	}
	return lines
}

// Run plays the timeline until ctx ends. It returns an error when a fault could not be made or the truth file not be
// written.
func (r *Running) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var flusher sync.WaitGroup
	defer flusher.Wait()
	defer cancel(nil)
	flusher.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := r.truth.flush(); err != nil {
					cancel(err)
					return
				}
			}
		}
	})
	err := play(ctx, r.site.events(), r.act)
	if err == nil {
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
			err = cause
		}
	}
	return err
}

// Close ends everything, waits for it, and ends the truth file.
func (r *Running) Close() error {
	r.once.Do(func() {
		r.cancel()
		var errs []error
		for _, d := range r.doors {
			d.setFrozen(false)
		}
		if r.server != nil {
			errs = append(errs, r.server.Close())
		}
		for _, d := range r.doors {
			errs = append(errs, d.Close())
		}
		for _, l := range r.lines {
			errs = append(errs, l.Close())
		}
		r.done.Wait()
		r.truth.end(time.Now())
		errs = append(errs, r.truth.flush())
		r.err = errors.Join(errs...)
	})
	return r.err
}
