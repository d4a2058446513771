package site

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"homeward/drivers/sim"
)

// event is a fault's beginning or end.
type event struct {
	at    time.Duration // since the start
	fault *fault
	begin bool
}

// events are the timeline in its order. What ends at an instant ends before what begins at it.
func (s *Site) events() (all []event) {
	for _, f := range s.faults {
		all = append(all, event{f.at, f, true})
		if f.length > 0 {
			all = append(all, event{f.at + f.length, f, false})
		}
	}
	slices.SortStableFunc(all, func(a, b event) int {
		switch {
		case a.at != b.at:
			return int(min(max(a.at-b.at, -1), 1))
		case a.begin == b.begin:
			return 0
		case b.begin:
			return -1
		}
		return 1
	})
	return all
}

// play lets act do each event at its time, until ctx ends.
func play(ctx context.Context, events []event, act func(event) error) error {
	start := time.Now()
	for _, e := range events {
		timer := time.NewTimer(time.Until(start.Add(e.at)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := act(e); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// act makes a fault, or ends it. The truth file has its beginning before it acts, and its end after.
func (r *Running) act(e event) error {
	f := e.fault
	fail := func(err error) error {
		return fmt.Errorf("site: %s:%d: %s on %s: %w", r.site.File, f.line, f.name, f.on, err)
	}
	var offset time.Duration // after the fault, of a fault on the clock
	if f.target.kind == clockKind {
		offset = r.site.offset
	}
	if e.begin {
		r.say(e)
		r.truth.fault(f, "begin", time.Now(), f.offset, f.target.kind == clockKind && !f.trusted)
		if err := r.set(f, true); err != nil {
			return fail(err)
		}
		if f.name != "rename" || f.length > 0 {
			return nil
		}
		e.begin = false // out and in at once
	}
	if err := r.set(f, false); err != nil {
		return fail(err)
	}
	r.truth.fault(f, "end", time.Now(), offset, f.target.kind == clockKind && !r.site.trusted)
	r.say(e)
	return nil
}

func (r *Running) say(e event) {
	if r.o.Say == nil {
		return
	}
	var sensors []string
	for _, s := range e.fault.target.sensors {
		sensors = append(sensors, s.name)
	}
	what := "ends"
	if e.begin {
		what = "begins"
		if e.fault.length > 0 {
			what += " for " + e.fault.length.String()
		}
	}
	on := e.fault.on
	if names := strings.Join(sensors, ", "); names != "" && names != on {
		on += " (" + names + ")"
	}
	r.o.Say(fmt.Sprintf("%s on %s %s", e.fault.name, on, what))
}

// spoilDelay is how long after a fault of the reply has been set values still count as handed out: a reply may have been on its way.
const spoilDelay = 200 * time.Millisecond

func (r *Running) set(f *fault, on bool) error {
	t := f.target
	switch f.name {
	case "unplug", "rename":
		switch t.kind {
		case serialPort, talkerPort:
			if l := r.lines[f.on]; on {
				return l.Unplug()
			} else {
				return l.Plug()
			}
		case tcpServer, talkerTCP:
			return r.doors[f.on].setGone(on)
		case i2cBusKind:
			r.world.AddI2C(f.on).SetGone(on)
		case i2cChip:
			c := t.sensors[0].chip
			if b := r.world.AddI2C(c.bus); on {
				b.Unplug(c.address)
			} else {
				b.Plug(c.address)
			}
		case w1BusKind:
			r.world.AddW1(f.on).SetGone(on)
		case w1Device:
			c := t.sensors[0].chip
			if b := r.world.AddW1(c.bus); on {
				b.Unplug(r.roms[c])
			} else {
				b.Plug(r.roms[c])
			}
		case spiDevice:
			if d := r.spi[t.sensors[0].chip.bus]; on {
				d.Unplug()
			} else {
				d.Plug()
			}
		}
		return nil
	case "gone":
		return r.doors[f.on].setGone(on)
	case "frozen":
		r.doors[f.on].setFrozen(on)
		return nil
	case "clock-jump":
		if on {
			r.world.SetClock(f.trusted, f.offset)
		} else {
			r.world.SetClock(r.site.trusted, r.site.offset)
		}
		return nil
	}
	for _, s := range t.sensors {
		switch s.kind {
		case talkerKind:
			m := f.modbus
			if !on {
				m = sim.ModbusFault{}
			}
			r.talker[s.port].SetFault(sim.TalkFault{Silent: m.Silent, Late: m.Late, Truncate: m.Truncate, Corrupt: m.Corrupt, Noise: m.Noise})
		case unit, tcpUnit:
			m, spoiled := f.modbus, r.spoiled[s.unit]
			if !on {
				m = sim.ModbusFault{}
				spoiled.Store(0)
			}
			r.modbus[s.port].SetFault(byte(s.unit.id), m)
			if m.Corrupt || m.Truncate > 0 || m.Exception != 0 {
				spoiled.Store(time.Now().Add(spoilDelay).UnixNano())
			}
		case i2cChip, spiDevice, w1Device:
			b := f.bus
			if !on {
				b = sim.BusFault{}
			}
			switch s.kind {
			case spiDevice:
				r.spi[s.chip.bus].SetFault(b)
			case w1Device:
				r.world.AddW1(s.chip.bus).SetFault(r.roms[s.chip], b)
			default:
				r.world.AddI2C(s.chip.bus).SetFault(s.chip.address, b)
			}
		}
	}
	return nil
}
