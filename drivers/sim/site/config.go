package site

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"homeward/drivers"
	"homeward/drivers/sim"
)

// Config is the configuration of a gateway at this site, in YAML: gateway, state, home and sensors. More sections can be
// put after it. With disabled, no sensor is read.
func (r *Running) Config(state string, disabled bool) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	g := r.site.Gateway
	p("# A gateway at the simulated site %s. The site must be running: %s=%s", r.site.File, sim.Env, r.socket)
	p("gateway: %q", g.ID)
	p("state: %q", state)
	p("home:")
	p("  cloud: mqtt")
	p("  organization: %q", g.Organization)
	p("  project: %q", g.Project)
	p("  product: %q", g.Product)
	p("  url: mqtt://%s", r.Broker())
	p("sensors:")
	for _, s := range r.site.sensors {
		p("  - name: %q", s.name)
		p("    driver: %s", s.driver)
		switch s.kind {
		case unit, tcpUnit:
			r.modbusConfig(p, s)
		case talkerKind:
			r.talkerConfig(p, s)
		case i2cChip, spiDevice, w1Device:
			r.chipConfig(p, s)
		}
		p("    every: %v", s.every)
		timeout := s.timeout
		if timeout == 0 && s.kind == unit { // shorter than the default, so that a silent unit does not cost the others their polls
			timeout = max(min(s.every/2, 500*time.Millisecond), 10*time.Millisecond)
		}
		if timeout > 0 {
			p("    timeout: %v", timeout)
		}
		if disabled {
			p("    disabled: true")
		}
	}
	return b.String()
}

// portConfig names the port that a sensor sits at.
func (r *Running) portConfig(p func(string, ...any), s *sensor) {
	if d := r.doors[s.port.name]; d != nil {
		p("    url: tcp://%s", d.Addr())
	} else {
		p("    port: %s%s  # or %s", sim.Prefix, s.port.name, r.lines[s.port.name].Link())
		p("    line: %v", s.port.line)
	}
}

func (r *Running) talkerConfig(p func(string, ...any), s *sensor) {
	r.portConfig(p, s)
	format := s.port.talker.format
	if format != "" {
		p("    pattern: %q", pattern(format, s.channels))
	}
	p("    channels:")
	for i, c := range s.channels {
		if format != "" {
			p("      - {name: %q, group: %s, unit: %q}", c.name, group(i), c.unit)
		} else {
			p("      - {name: %q}", c.name)
		}
	}
}

// placeholder is where a value stands in a talker's format; see [sim.CheckLines].
var placeholder = regexp.MustCompile(`\{([A-Za-z0-9_.-]+)(?::[^}]*)?\}`)

// group names the group of a channel: a channel's name may have signs that a group's may not.
func group(i int) string { return fmt.Sprintf("v%d", i) }

// pattern is the regular expression that takes apart what a format makes.
func pattern(format string, channels []channel) string {
	var b strings.Builder
	last := 0
	for _, m := range placeholder.FindAllStringSubmatchIndex(format, -1) {
		b.WriteString(regexp.QuoteMeta(format[last:m[0]]))
		i := slices.IndexFunc(channels, func(c channel) bool { return c.name == format[m[2]:m[3]] })
		fmt.Fprintf(&b, ` *(?P<%s>[-+0-9.e]+) *`, group(i))
		last = m[1]
	}
	return b.String() + regexp.QuoteMeta(format[last:])
}

func (r *Running) modbusConfig(p func(string, ...any), s *sensor) {
	r.portConfig(p, s)
	p("    unit_id: %d", s.unit.id)
	if s.unit.holes() {
		p("    max_gap: 0  # the unit refuses registers that it does not have")
	}
	p("    channels:")
	for _, c := range s.unit.registers {
		more := ""
		if c.kind != "bool" {
			more = fmt.Sprintf(", type: %s, order: %s, words: %s, scale: %v, offset: %v", c.kind, c.order, c.words, c.scale, c.offset)
		}
		p("      - {name: %q, register: %s, address: %d%s, unit: %q}", c.name, c.table, c.address, more, c.unit)
	}
}

func (r *Running) chipConfig(p func(string, ...any), s *sensor) {
	c := s.chip
	p("    bus: %s%s", sim.Prefix, c.bus)
	if c.kind == drivers.I2C {
		p("    address: 0x%02x", c.address)
	}
	if c.kind == drivers.W1Bus {
		p("    id: %s", r.roms[c])
	}
	if converters[c.name] > 0 {
		p("    channels:")
		for _, i := range c.inputs {
			p("      - {name: %q, input: %d, scale: %v, unit: %q}", i.name, i.number, c.scale(), i.unit)
		}
	} else if c.kind != c.chip.Bus {
		p("    interface: %s", c.kind)
	}
}

// sensorsOf are the sensors at a port.
func (s *Site) sensorsOf(p *port) (all []*sensor) {
	for _, u := range p.slaves {
		all = append(all, u.sensor)
	}
	if p.talker != nil {
		all = append(all, p.talker.sensor)
	}
	return all
}
