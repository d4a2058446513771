package site

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"homeward/configs/plainyaml"
	"homeward/drivers/sim"
)

// fault is one entry of the timeline.
type fault struct {
	name    string
	on      string
	at      time.Duration
	length  time.Duration // 0: until the end
	target  target
	line    int
	modbus  sim.ModbusFault // of units
	bus     sim.BusFault    // of chips
	trusted bool            // the clock
	offset  time.Duration
}

// faultKind is what a fault can be on, and its own keys.
type faultKind struct {
	name string
	on   []kind
	keys []string
	read func(f fields, x *fault)
}

var unitKinds = []kind{unit, serialPort, tcpUnit, tcpServer}

var wireKinds = []kind{i2cChip, i2cBusKind, w1Device, w1BusKind}

var talkerKinds = []kind{talkerKind, talkerPort, talkerTCP}

var speakers = slices.Concat(unitKinds, talkerKinds)

var faultKinds = []faultKind{
	{"unplug", []kind{serialPort, talkerPort, tcpServer, talkerTCP, i2cBusKind, i2cChip, spiDevice, w1BusKind, w1Device}, nil, nil},
	{"rename", []kind{serialPort, talkerPort}, nil, nil},
	{"silent", speakers, nil, func(_ fields, x *fault) { x.modbus.Silent = true }},
	{"late", speakers, []string{"delay"}, func(f fields, x *fault) {
		x.modbus.Late = f.at("delay").duration(-1, time.Millisecond, time.Minute)
	}},
	{"truncated", speakers, []string{"bytes"}, func(f fields, x *fault) { x.modbus.Truncate = f.at("bytes").whole(3, 1, 255) }},
	{"corrupt", speakers, nil, func(_ fields, x *fault) { x.modbus.Corrupt = true }},
	{"noise", speakers, []string{"bytes"}, func(f fields, x *fault) { x.modbus.Noise = f.noise() }},
	{"exception", unitKinds, []string{"code"}, func(f fields, x *fault) { x.modbus.Exception = byte(f.at("code").whole(4, 1, 255)) }},
	{"nack", wireKinds, nil, func(_ fields, x *fault) { x.bus.NACK = true }},
	{"stuck", wireKinds, []string{"hold"}, func(f fields, x *fault) {
		x.bus.Stuck = f.at("hold").duration(100*time.Millisecond, time.Millisecond, 4*time.Second)
	}},
	{"flip", append(wireKinds[:4:4], spiDevice), []string{"bit"}, func(f fields, x *fault) { x.bus.Flip = f.at("bit").whole(1, 1, 8*256) }},
	{"float", []kind{spiDevice}, []string{"level"}, func(f fields, x *fault) {
		x.bus.Float, x.bus.Level = true, 0xFF
		if f.at("level").whole(1, 0, 1) == 0 {
			x.bus.Level = 0
		}
	}},
	{"gone", []kind{brokerKind}, nil, nil},
	{"frozen", []kind{brokerKind, tcpServer, talkerTCP}, nil, nil},
	{"clock-jump", []kind{clockKind}, []string{"offset", "trusted"}, func(f fields, x *fault) {
		x.offset = f.at("offset").duration(-1, -maxOffset, maxOffset)
		x.trusted = f.at("trusted").truth(true)
	}},
}

// noise are bytes in hexadecimal digits.
func (f fields) noise() []byte {
	x := f.at("bytes")
	if !x.Given() {
		return []byte{0xFF, 0x00, 0x55}
	}
	const want = "1 to 64 bytes in hexadecimal digits and quotes, such as \"ff0055\""
	text, ok := x.text(want)
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if ok && (err != nil || len(b) == 0 || len(b) > 64) {
		x.bad(want)
	}
	return b
}

// maxLength bounds the timeline.
const maxLength = 366 * 24 * time.Hour

func (p *parse) faults(list node) {
	items := list.list()
	if len(items) > maxFaults {
		list.wrong(fmt.Sprintf("%d faults", len(items)), "at most %d", maxFaults)
		return
	}
	for _, x := range items {
		p.fault(x)
	}
	p.overlaps(items)
}

func (p *parse) fault(x node) {
	f, ok := x.mapping() // which keys there may be depends on one of them
	if !ok {
		return
	}
	var names []string
	for _, k := range faultKinds {
		names = append(names, k.name)
	}
	before := len(p.problems)
	what := f.at("fault").choice(true, names...)
	at := f.at("at").duration(-1, 0, maxLength)
	var length time.Duration
	if l := f.at("for"); l.Given() {
		length = l.duration(-1, time.Millisecond, maxLength)
	}
	y := &fault{name: what, at: at, length: length, line: x.Line}
	p.site.faults = append(p.site.faults, y)
	if what == "clock-jump" && !f.at("on").Given() {
		y.on, ok = "clock", true
	} else {
		y.on, ok = f.at("on").text("the name of a sensor, port or bus, broker or clock")
	}
	if ok {
		if y.target, ok = p.names[y.on]; !ok {
			var all []string
			for name := range p.names {
				all = append(all, name)
			}
			slices.Sort(all)
			f.at("on").bad("%s", p.oneOf(y.on, all))
		}
	}
	if what == "" {
		return
	}
	k := faultKinds[slices.Index(names, what)]
	known := append([]string{"at", "for", "on", "fault"}, k.keys...)
	for key, v := range f.keys {
		if !slices.Contains(known, key) {
			v.wrong("unknown key for "+what, "%s", p.oneOf(key, known))
		}
	}
	if k.read != nil {
		k.read(f, y)
	}
	if ok && !slices.Contains(k.on, y.target.kind) {
		f.at("fault").bad("%s, which %s (%s) can have; %s is of %s", plainyaml.OrList(faultsOf(y.target.kind)), y.on, y.target.kind, what, kindList(k.on))
	} else if y.target.port != nil && len(y.target.sensors) == 0 && len(p.problems) == before {
		f.at("on").bad("a port with sensors")
	}
}

func faultsOf(k kind) (names []string) {
	for _, x := range faultKinds {
		if slices.Contains(x.on, k) {
			names = append(names, x.name)
		}
	}
	return names
}

func kindList(kinds []kind) string {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k))
	}
	return plainyaml.OrList(names)
}

// parts are the things that a fault puts out of order; two faults at once on one of them would undo each other.
func (x *fault) parts() (all []string) {
	switch x.target.kind {
	case brokerKind, clockKind:
		return []string{x.on}
	}
	switch x.name {
	case "unplug", "rename", "gone", "frozen":
		return []string{"plug " + x.on}
	}
	for _, s := range x.target.sensors {
		all = append(all, "wire "+s.name)
	}
	return all
}

func (x *fault) end() time.Duration {
	switch {
	case x.name == "rename":
		return x.at + x.length
	case x.length == 0:
		return maxLength * 2
	}
	return x.at + x.length
}

// overlaps reports faults at the same time on the same part.
func (p *parse) overlaps(items []node) {
	if len(p.problems) > 0 {
		return
	}
	type span struct {
		*fault
		node node
	}
	byPart := map[string][]span{}
	for i, x := range p.site.faults {
		for _, part := range x.parts() {
			byPart[part] = append(byPart[part], span{x, items[i]})
		}
	}
	said := map[*fault]bool{}
	for _, list := range byPart {
		slices.SortStableFunc(list, func(a, b span) int { return int(a.at - b.at) })
		for i := 1; i < len(list); i++ {
			if a, b := list[i-1], list[i]; b.at < a.end() && !said[b.fault] {
				said[b.fault] = true
				until := "the end"
				if a.length > 0 {
					until = a.end().String()
				}
				b.node.wrong(fmt.Sprintf("%s on %s at %v", b.name, b.on, b.at), "it later: %s of line %d lasts until %s", a.name, a.line, until)
			}
		}
	}
}
