package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"homeward/agent/config"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/drivers"
	"homeward/drivers/hostbus"
)

const (
	busRetry   = 500 * time.Millisecond // a port that is back is found within this
	failRetry  = 2 * time.Second        // after a failure that cost the bus little
	wrongRetry = 10 * time.Second       // after an instrument that is not the expected one
	slowPolls  = 3                      // so many late polls are a problem
	maxBackoff = time.Minute            // for a silent instrument that has neighbours
	readGrace  = time.Second            // for a Read that has begun when the sampling is to stop
	readBound  = 30 * time.Second       // for one whole Read, whatever the driver does
)

// OpenBus opens the bus of a sensor; [hostbus.Open] in earnest.
type OpenBus func(ctx context.Context, bus drivers.Bus) (*hostbus.Handle, error)

// sink is where the sampler's readings go.
type sink interface {
	Append(buffer.Poll) (buffer.Seq, error)
	NoteGap(buffer.Gap) error
}

// sampler owns the buses: one goroutine each, which alone speaks on it.
type sampler struct {
	open     OpenBus
	clock    Clock
	sink     sink
	alarmed  func(first buffer.Seq) // called after an alarm's poll was appended
	problems *problems
	log      *slog.Logger
	vital    *vital

	mu     sync.Mutex
	owners []*owner
}

// apply starts the sensors, keeping every bus whose sensors have not changed as it is.
// A bus that changed goes over to its new owner as soon as its present poll has ended; ctx bounds the life of all.
func (s *sampler) apply(ctx context.Context, sensors []config.Sensor, alarms []config.Alarm) {
	groups := map[drivers.Bus][]config.Sensor{}
	var order []drivers.Bus
	for _, c := range sensors {
		bus := c.Options.Bus()
		if groups[bus] == nil {
			order = append(order, bus)
		}
		groups[bus] = append(groups[bus], c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var next, stop []*owner
	kept := map[drivers.Bus]*owner{}
	past := map[string]*sensor{} // counts outlive a change of the configuration
	for _, o := range s.owners {
		if reflect.DeepEqual(o.configs, groups[o.bus]) && reflect.DeepEqual(o.alarms, alarms) {
			kept[o.bus] = o
		} else {
			stop = append(stop, o)
		}
	}
	before := map[drivers.Bus]<-chan struct{}{} // a bus has one owner at a time
	for _, o := range stop {
		o.cancel()
		before[o.bus] = o.done
		for _, x := range o.sensors {
			past[x.cfg.Name] = x
		}
	}
	for _, bus := range order {
		o := kept[bus]
		if o == nil {
			o = s.start(ctx, bus, groups[bus], alarms, past, before[bus])
		}
		next = append(next, o)
	}
	s.owners = next
}

// wait returns when every owner has ended, or after the bound: a driver stuck in
// the kernel must not keep the agent from stopping.
func (s *sampler) wait(bound time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	for _, o := range s.owners {
		select {
		case <-o.done:
		case <-timer.C:
			s.log.Warn("a bus did not stop in time", "bus", o.bus.Name)
			return
		}
	}
}

func (s *sampler) status() []status.Sensor {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []status.Sensor
	for _, o := range s.owners {
		for _, x := range o.sensors {
			x.mu.Lock()
			v := x.view
			x.mu.Unlock()
			out = append(out, v)
		}
	}
	return out
}

// readNow reads the named sensor on its bus, between the polls, without recording anything.
func (s *sampler) readNow(ctx context.Context, name string) ([]drivers.Reading, error) {
	s.mu.Lock()
	var o *owner
	var x *sensor
	for _, c := range s.owners {
		for _, y := range c.sensors {
			if y.cfg.Name == name {
				o, x = c, y
			}
		}
	}
	s.mu.Unlock()
	if o == nil {
		return nil, fmt.Errorf("agent: no sensor %q", name)
	}
	type outcome struct {
		readings []drivers.Reading
		err      error
	}
	answer := make(chan outcome, 1)
	job := func(ctx context.Context) {
		readings, err := o.read(ctx, x)
		answer <- outcome{slices.Clone(readings), err}
	}
	select {
	case o.jobs <- job:
	case <-o.done:
		return nil, errors.New("agent: stopping")
	case <-ctx.Done():
		return nil, fmt.Errorf("agent: bus %s had no time: %w", o.bus.Name, ctx.Err())
	}
	select {
	case a := <-answer:
		return a.readings, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("agent: no answer from bus %s: %w", o.bus.Name, ctx.Err())
	}
}

// owner is the one goroutine that speaks on a bus.
type owner struct {
	*sampler
	bus     drivers.Bus
	configs []config.Sensor
	alarms  []config.Alarm
	sensors []*sensor
	jobs    chan func(context.Context)
	cancel  context.CancelFunc
	done    chan struct{}
	beat    *beat

	handle *hostbus.Handle // nil: not open
	shared *drivers.Shared
}

// sensor is an instrument as its bus's owner knows it.
type sensor struct {
	cfg      *config.Sensor
	channels map[string]*config.Recorder
	dev      drivers.Sensor // nil: not open
	tick     time.Time      // next on the drift-free grid
	due      time.Time      // next poll: the tick, or a retry
	silent   int            // polls in a row without any answer
	slow     int            // polls that took longer than every, less those that did not
	failed   bool           // the last poll

	mu   sync.Mutex
	view status.Sensor
}

func (s *sampler) start(ctx context.Context, bus drivers.Bus, configs []config.Sensor, alarms []config.Alarm, past map[string]*sensor, before <-chan struct{}) *owner {
	ctx, cancel := context.WithCancel(ctx)
	o := &owner{
		sampler: s, bus: bus, configs: configs, alarms: alarms, cancel: cancel,
		jobs: make(chan func(context.Context)), done: make(chan struct{}), beat: s.vital.add("bus " + bus.Name),
	}
	for i := range configs {
		x := newSensor(&configs[i], alarms)
		x.inherit(past[x.cfg.Name])
		o.sensors = append(o.sensors, x)
	}
	go func() {
		defer close(o.done)
		defer o.beat.end()
		if before != nil {
			<-before // bounded by the end of its poll
			for _, x := range o.sensors {
				x.inherit(past[x.cfg.Name]) // which that poll has counted
			}
		}
		o.run(ctx)
		for _, x := range o.sensors { // whoever follows finds out anew
			s.problems.forget(sensorCodes, x.cfg.Name)
		}
	}()
	return o
}

// inherit takes over what its predecessor counted; nil: there was none.
func (x *sensor) inherit(old *sensor) {
	if old == nil {
		return
	}
	old.mu.Lock()
	v := old.view
	old.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.view.LastOK, x.view.Errors, x.view.Readings, x.view.Polls, x.view.Missed, x.view.Unsampled = v.LastOK, v.Errors, v.Readings, v.Polls, v.Missed, v.Unsampled
}

func newSensor(c *config.Sensor, alarms []config.Alarm) *sensor {
	x := &sensor{cfg: c, channels: map[string]*config.Recorder{}}
	x.view = status.Sensor{Name: c.Name, Driver: c.Driver, Bus: c.Options.Bus().Name, EveryS: time.Duration(c.Every).Seconds(), State: "starting"}
	for i := range c.Channels {
		x.channels[c.Channels[i].Name] = config.NewRecorder(c, &c.Channels[i], alarms)
	}
	// Gateways switched on together, and sensors of one gateway, should not all speak at once.
	x.tick = time.Now().Add(rand.N(min(time.Duration(c.Every), time.Second)))
	x.due = x.tick
	return x
}

func (o *owner) run(ctx context.Context) {
	defer o.close()
	for _, x := range o.sensors {
		if x.cfg.Disabled {
			x.mu.Lock()
			x.view.State = "disabled"
			x.mu.Unlock()
		}
	}
	for ctx.Err() == nil {
		x := o.next()
		var timer <-chan time.Time
		if x == nil {
			o.beat.promise(time.Hour)
		} else {
			wait := time.Until(x.due)
			o.beat.promise(wait)
			timer = time.After(max(wait, 0))
		}
		select {
		case <-ctx.Done():
		case job := <-o.jobs:
			o.beat.promise(readBound)
			job(ctx)
		case <-timer:
			o.beat.promise(readBound)
			o.poll(ctx, x)
		}
	}
}

// next is the sensor whose turn it is: the earliest due; among those due already,
// one that answers before one that does not.
func (o *owner) next() (first *sensor) {
	now := time.Now()
	for _, x := range o.sensors {
		if x.cfg.Disabled {
			continue
		}
		switch {
		case first == nil:
			first = x
		case first.due.After(now) || x.due.After(now):
			if x.due.Before(first.due) {
				first = x
			}
		case x.failed != first.failed && x.due.Sub(first.due).Abs() < time.Duration(x.cfg.Every):
			if first.failed {
				first = x
			}
		case x.due.Before(first.due):
			first = x
		}
	}
	return first
}

// close gives the bus up, so that a port that comes back can be opened anew.
func (o *owner) close() {
	for _, x := range o.sensors {
		x.close()
	}
	if o.handle != nil {
		_ = o.handle.Close() // a lost port has nothing left to say
		o.handle, o.shared = nil, nil
	}
}

func (x *sensor) close() {
	if x.dev != nil {
		_ = x.dev.Close()
		x.dev = nil
	}
}

// read opens what is not open and asks once.
//
// A conversation that has begun may end after ctx: what the instrument has said already would be lost
// otherwise, at each reload.
func (o *owner) read(ctx context.Context, x *sensor) (readings []drivers.Reading, err error) {
	stop := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readBound)
	defer cancel()
	defer context.AfterFunc(stop, func() { time.AfterFunc(readGrace, cancel) })()
	if o.handle == nil {
		h, err := o.open(ctx, o.bus)
		if err != nil {
			return nil, &busError{err}
		}
		o.handle, o.shared = h, &drivers.Shared{}
	}
	if x.dev == nil {
		env := drivers.Env{Port: o.handle.Port, I2C: o.handle.I2C, SPI: o.handle.SPI, W1: o.handle.W1, Timeout: time.Duration(x.cfg.Timeout), Shared: o.shared, Log: o.log}
		dev, err := x.cfg.Options.Open(ctx, env)
		if err != nil {
			return nil, err
		}
		x.dev = dev
	}
	readings, err = x.dev.Read(ctx)
	return x.vouch(readings, err)
}

// vouch lets nothing pass that the sensor's configuration does not name or that is no number.
func (x *sensor) vouch(readings []drivers.Reading, err error) ([]drivers.Reading, error) {
	kept := readings[:0]
	for _, r := range readings {
		verr := drivers.CheckValue(r.Value)
		if x.channels[r.Channel] == nil {
			verr = errors.New("the driver named a channel that is not configured")
		}
		if verr != nil {
			err = errors.Join(err, fmt.Errorf("channel %s: %w", r.Channel, verr))
			continue
		}
		kept = append(kept, r)
	}
	return kept, err
}

func (o *owner) poll(ctx context.Context, x *sensor) {
	stamp := o.clock.Stamp()
	began := time.Now()
	readings, err := o.read(ctx, x)
	if _, talks := drivers.Talks(x.cfg.Options); talks { // it spoke when it wanted to
		stamp = o.clock.Stamp()
	}
	var held *drivers.HeldError
	if errors.As(err, &held) {
		x.reschedule(time.Now().Add(held.After))
		return
	}
	recorded, lost, aerr := 0, 0, error(nil)
	if len(readings) > 0 {
		recorded, lost, aerr = o.record(x, stamp, readings)
	}
	delay := o.judge(x, readings, err)
	missed := x.reschedule(time.Now().Add(delay))

	x.mu.Lock()
	v := &x.view
	asked := !errors.As(err, new(*busError)) // looking for a bus is no poll
	if asked {
		v.Polls++
	}
	v.Missed += uint64(missed)
	v.Readings += uint64(recorded)
	v.Unsampled += uint64(lost)
	if err != nil {
		v.LastError = oneLine(err)
		if asked {
			v.Errors++
		}
	}
	if len(readings) > 0 {
		now := time.UnixMilli(stamp.Wall).UTC()
		v.LastOK = &now
	}
	x.mu.Unlock()

	if missed > 0 && err == nil && time.Since(began) > time.Duration(x.cfg.Every) {
		x.slow = min(x.slow+1, 2*slowPolls)
	} else {
		x.slow = max(x.slow-1, 0)
	}
	if x.slow >= slowPolls {
		o.problems.raise(CodeSensorSlow, x.cfg.Name, status.Warn,
			fmt.Sprintf("one poll took %v, longer than every: %v", time.Since(began).Round(time.Millisecond), time.Duration(x.cfg.Every)),
			"poll it more rarely, read fewer or closer registers, or raise the line's rate")
	} else if x.slow == 0 {
		o.problems.clear(CodeSensorSlow, x.cfg.Name)
	}
	if aerr != nil && !errors.Is(aerr, buffer.ErrFull) {
		o.log.Error("append failed", "sensor", x.cfg.Name, "error", aerr)
	}
}

var sensorCodes = []Code{CodeSensorFailing, CodeSensorSilent, CodeSensorGone, CodeSensorWrong, CodeSensorSlow}

// judge turns the outcome of a poll into the sensor's state and the pause before the next.
func (o *owner) judge(x *sensor, readings []drivers.Reading, err error) (delay time.Duration) {
	every := time.Duration(x.cfg.Every)
	state, code, remedy := "ok", Code(""), ""
	if err != nil {
		code, remedy = sensorProblem(o.bus.Kind, len(readings), err)
	}
	x.failed = err != nil && len(readings) == 0
	if !errors.Is(err, drivers.ErrTimeout) {
		x.silent = 0
	}
	switch {
	case err == nil:
	case code == CodeSensorGone:
		o.close()
		state, delay = "gone", busRetry
		// Nobody on this bus can be asked before it is back.
		for _, y := range o.sensors {
			if y != x && !y.cfg.Disabled {
				y.failed = true
				y.lose(y.reschedule(time.Now().Add(busRetry)), err)
				o.problems.only(code, sensorCodes, y.cfg.Name, status.Fail, oneLine(err), remedy)
			}
		}
	case code == CodeSensorWrong:
		state, delay = "wrong", max(every, wrongRetry)
	case code == CodeSensorSilent && !errors.Is(err, drivers.ErrTimeout): // no acknowledgement: that cost nobody any time
		state, delay = "silent", min(every, failRetry)
	case code == CodeSensorSilent:
		x.silent++
		bound := maxBackoff
		if o.alone(x) {
			bound = max(every, failRetry)
		}
		delay = bound
		if x.silent < 12 {
			delay = min(max(every, time.Duration(x.cfg.Timeout))<<(x.silent-1), bound)
		}
		state = "silent"
	case len(readings) > 0:
		state = "partial"
	default:
		state, delay = "failing", min(every, failRetry)
	}
	if x.failed {
		x.close() // identity and calibration are read anew
	}
	text := ""
	if err != nil {
		text = oneLine(err)
	}
	if err == nil || code != "" {
		o.problems.only(code, sensorCodes[:4], x.cfg.Name, status.Fail, text, remedy)
	}
	x.mu.Lock()
	x.view.State = state
	x.mu.Unlock()
	return delay
}

func (x *sensor) lose(missed int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.view.State = "gone"
	x.view.LastError = oneLine(err)
	x.view.Missed += uint64(missed)
}

func (o *owner) alone(x *sensor) bool {
	return !slices.ContainsFunc(o.sensors, func(y *sensor) bool { return y != x && !y.cfg.Disabled })
}

// reschedule sets the next poll: the first tick that is not before earliest, or
// earliest itself when it comes before the next tick. It returns how many ticks
// pass without a poll.
func (x *sensor) reschedule(earliest time.Time) (missed int) {
	now := time.Now()
	every := time.Duration(x.cfg.Every)
	if behind := now.Sub(x.tick); behind >= 0 { // the tick that led here, and any that passed during the poll
		n := behind/every + 1
		x.tick = x.tick.Add(n * every)
		missed = int(n) - 1
	}
	switch {
	case !earliest.After(now):
		x.due = x.tick
	case earliest.Before(x.tick):
		x.due = earliest
	default:
		n := (earliest.Sub(x.tick) + every - 1) / every
		x.tick = x.tick.Add(n * every)
		missed += int(n)
		x.due = x.tick
	}
	return missed
}

// record filters the readings and appends what is left as one poll.
func (o *owner) record(x *sensor, stamp drivers.Stamp, readings []drivers.Reading) (recorded, lost int, err error) {
	poll := buffer.Poll{Stamp: stamp, Readings: readings[:0]}
	for _, r := range readings {
		r, keep, alarm := x.channels[r.Channel].Take(r)
		if keep {
			poll.Alarm = poll.Alarm || alarm
			poll.Readings = append(poll.Readings, r)
		}
	}
	if len(poll.Readings) == 0 {
		return 0, 0, nil
	}
	seq, err := o.sink.Append(poll)
	if err != nil {
		for _, r := range poll.Readings { // what was not kept must not silence what comes next
			x.channels[strings.TrimPrefix(r.Channel, x.cfg.Name+"/")].Forget()
		}
		n := len(poll.Readings)
		gap := buffer.Gap{N: uint64(n), TFrom: stamp.Wall, TTo: stamp.Wall, Reason: buffer.Unsampled}
		return 0, n, errors.Join(err, o.sink.NoteGap(gap))
	}
	if poll.Alarm {
		o.alarmed(seq)
	}
	return len(poll.Readings), 0, nil
}

// oneLine is an error's text for status and problems.
func oneLine(err error) string {
	const bound = 300
	s := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(s) > bound {
		s = strings.ToValidUTF8(s[:bound], "") + "…"
	}
	return s
}
