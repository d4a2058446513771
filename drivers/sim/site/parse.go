package site

import (
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"homeward/configs/plainyaml"
	"homeward/drivers"
	"homeward/drivers/sim"
	"homeward/drivers/sim/truth"
)

// Site is what a site's file says.
type Site struct {
	File    string
	Gateway GatewayNames
	broker  string // where it listens
	trusted bool   // the clock
	offset  time.Duration

	ports   []*port
	tcp     []*port
	i2c     []*chipBus
	spi     []*chip
	w1      []*chipBus
	sensors []*sensor // in the order of the file
	faults  []*fault
}

// GatewayNames are the gateway's and its home's, as written into its configuration.
type GatewayNames struct{ ID, Organization, Project, Product string }

// kind is what a fault can be on.
type kind string

const (
	serialPort kind = "a serial port with Modbus units"
	unit       kind = "a Modbus unit on a serial port"
	tcpServer  kind = "a Modbus TCP server"
	tcpUnit    kind = "a Modbus unit behind TCP"
	talkerPort kind = "a serial port with an instrument that talks"
	talkerTCP  kind = "a TCP server with an instrument that talks"
	talkerKind kind = "an instrument that talks"
	i2cBusKind kind = "an I2C bus"
	i2cChip    kind = "an I2C chip"
	spiDevice  kind = "an SPI device"
	w1BusKind  kind = "a 1-Wire bus"
	w1Device   kind = "a 1-Wire device"
	brokerKind kind = "the broker"
	clockKind  kind = "the clock"
)

// sensor is one of the gateway's.
type sensor struct {
	name     string
	kind     kind
	driver   string
	every    time.Duration
	timeout  time.Duration // 0: the gateway's default
	talks    bool
	channels []channel

	port *port // of a unit
	unit *slave
	chip *chip
}

// channel is what a gateway records of a sensor.
type channel struct {
	name      string
	unit      string
	tolerance float64
}

// port is a serial port, or a TCP server, with what answers there.
type port struct {
	name   string
	listen string       // TCP
	line   drivers.Line // serial
	delay  time.Duration
	slaves []*slave
	talker *talker // instead of slaves
}

// talker is an instrument that talks by itself.
type talker struct {
	sensor *sensor
	format string          // of its lines; empty: NMEA 0183
	waves  map[string]wave // by channel
}

type slave struct {
	sensor    *sensor
	id        int
	registers []register
}

type register struct {
	channel
	table         string
	address, size int
	kind          string
	order, words  string
	scale, offset float64
	wave          wave
}

// chipBus is an I2C or a 1-Wire bus.
type chipBus struct {
	name  string
	chips []*chip
}

// chip is one on an I2C bus, or behind a chip select.
type chip struct {
	sensor  *sensor
	name    string // as the driver is called
	bus     string
	kind    drivers.BusKind
	address uint16 // I2C
	chip    sim.ChipType
	waves   map[string]wave // by quantity

	inputs []input // of a converter
	vref   float64
}

type input struct {
	channel
	number int
	wave   wave
}

// parse is one reading of a file.
type parse struct {
	reader
	dir    string // for traces
	open   func(name string) (io.ReadCloser, error)
	traces map[string]traceFile
	names  map[string]target // of sensors, ports and buses
	site   *Site
}

// target is what a fault's `on` means.
type target struct {
	kind    kind
	line    int
	sensors []*sensor // that it concerns
	port    *port
	bus     string
}

// Load reads a site's file. The error is [Problems] unless it cannot be read at all.
func Load(path string) (*Site, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("site: %s: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, plainyaml.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("site: %w", err)
	}
	return Parse(path, data)
}

// Parse reads a site; name stands in its problems as the file, and traces are looked for beside it.
func Parse(name string, data []byte) (*Site, error) { return parseSite(name, data, openFile) }

func parseSite(name string, data []byte, open func(string) (io.ReadCloser, error)) (*Site, error) {
	p := &parse{
		reader: reader{file: name, said: map[string]bool{}}, dir: filepath.Dir(name), open: open, traces: map[string]traceFile{}, names: map[string]target{},
		site: &Site{File: name},
	}
	if root := p.reader.parse(data); root.Given() {
		p.root(root)
	}
	if len(p.problems) > 0 {
		return nil, p.problems.sorted()
	}
	return p.site, nil
}

// The bounds of a site.
const (
	maxSensors  = 200
	maxChannels = 20_000
	maxFaults   = 1000
)

func (p *parse) root(x node) {
	f, ok := x.mapping("gateway", "broker", "clock", "ports", "tcp", "i2c", "spi", "w1", "faults")
	if !ok {
		return
	}
	s := p.site
	p.names["broker"] = target{kind: brokerKind}
	p.names[truth.OnClock] = target{kind: clockKind}
	s.Gateway = GatewayNames{"simulated", "sim", "site", "simulated"}
	if g := f.at("gateway"); g.Given() {
		p.gateway(g)
	}
	s.broker = "127.0.0.1:0"
	if b := f.at("broker"); b.Given() {
		if g, ok := b.mapping("listen"); ok && g.at("listen").Given() {
			s.broker = g.at("listen").listen()
		}
	}
	s.trusted = true
	if c := f.at("clock"); c.Given() {
		if g, ok := c.mapping("trusted", "offset"); ok {
			s.trusted, s.offset = g.at("trusted").truth(true), g.at("offset").duration(0, -maxOffset, maxOffset)
		}
	}
	for _, x := range f.at("ports").list() {
		p.port(x)
	}
	for _, x := range f.at("tcp").list() {
		p.tcp(x)
	}
	for _, x := range f.at("i2c").list() {
		p.i2c(x)
	}
	for _, x := range f.at("w1").list() {
		p.w1(x)
	}
	for _, x := range f.at("spi").list() {
		p.spi(x)
	}
	if len(s.sensors) == 0 && len(p.problems) == 0 {
		x.wrong("no sensors", "at least one, below ports, tcp, i2c, spi or w1")
	}
	if n := len(s.Channels()); n > maxChannels {
		x.wrong(fmt.Sprintf("%d channels", n), "at most %d", maxChannels)
	}
	if n := len(s.sensors); n > maxSensors {
		x.wrong(fmt.Sprintf("%d sensors", n), "at most %d", maxSensors)
	}
	p.faults(f.at("faults"))
}

// maxOffset bounds how far a clock is put: within what a time.Duration and a certificate's dates can say.
const maxOffset = 100 * 365 * 24 * time.Hour

func (p *parse) gateway(x node) {
	g, ok := x.mapping("id", "organization", "project", "product")
	if !ok {
		return
	}
	n := &p.site.Gateway
	if id := g.at("id"); id.Given() {
		const want = "1 to 64 of a-z 0-9 . _ -"
		text, ok := id.text(want)
		if ok && (len(text) > 64 || strings.ContainsFunc(text, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c))
		})) {
			id.bad(want)
		}
		n.ID = text
	}
	for key, to := range map[string]*string{"organization": &n.Organization, "project": &n.Project, "product": &n.Product} {
		if y := g.at(key); y.Given() {
			*to = y.name()
		}
	}
}

// listen is where a server listens.
func (x node) listen() string {
	const want = "HOST:PORT, such as 127.0.0.1:0 for a free port"
	text, ok := x.text(want)
	if !ok {
		return ""
	}
	_, number, err := net.SplitHostPort(text)
	if n, perr := strconv.Atoi(number); err != nil || perr != nil || n < 0 || n > 65535 {
		x.bad(want)
	}
	return text
}

// own takes a name for something; every name is one thing's.
func (p *parse) own(x node, name string, t target) {
	if name == "" {
		return
	}
	if other, taken := p.names[name]; taken {
		switch {
		case other.line > 0:
			x.bad("a name of its own: %s on line %d has it already", other.kind, other.line)
		default:
			x.bad("another name: this one is %s's", other.kind)
		}
		return
	}
	t.line = x.Line
	p.names[name] = t
}

// also adds a sensor to what a fault on its bus concerns.
func (p *parse) also(bus string, s *sensor) {
	if t, ok := p.names[bus]; ok {
		t.sensors = append(t.sensors, s)
		p.names[bus] = t
	}
}

const (
	minEvery = 10 * time.Millisecond
	maxEvery = 24 * time.Hour
)

// sensor reads what all sensors have.
func (p *parse) sensor(f fields, k kind, driver string) *sensor {
	s := &sensor{name: f.at("sensor").name(), kind: k, driver: driver, every: f.at("every").duration(-1, minEvery, maxEvery)}
	if t := f.at("timeout"); t.Given() {
		s.timeout = t.duration(0, time.Millisecond, maxEvery)
	}
	p.own(f.at("sensor"), s.name, target{kind: k, sensors: []*sensor{s}})
	p.site.sensors = append(p.site.sensors, s)
	return s
}

func (p *parse) port(x node) {
	f, ok := x.mapping("name", "line", "delay", "slaves", "nmea", "talker")
	if !ok {
		return
	}
	t := &port{name: f.at("name").busName()}
	t.line, _ = drivers.ParseLine("19200-8E1")
	if f.at("nmea").Given() {
		t.line, _ = drivers.ParseLine("4800-8N1") // the standard's
	}
	if l := f.at("line"); l.Given() {
		text, _ := l.Scalar()
		line, err := drivers.ParseLine(text)
		if err != nil || line.DataBits != 8 {
			l.bad("baud rate, 8 data bits, parity and stop bits, such as 19200-8E1 or 9600-8N1")
		} else {
			t.line = line
		}
	}
	p.answers(f, t, serialPort, unit, talkerPort)
	p.site.ports = append(p.site.ports, t)
}

func (p *parse) tcp(x node) {
	f, ok := x.mapping("name", "listen", "delay", "slaves", "nmea", "talker")
	if !ok {
		return
	}
	t := &port{name: f.at("name").busName(), listen: "127.0.0.1:0"}
	if l := f.at("listen"); l.Given() {
		t.listen = l.listen()
	}
	p.answers(f, t, tcpServer, tcpUnit, talkerTCP)
	p.site.tcp = append(p.site.tcp, t)
}

// answers reads what is at the other end of a port: Modbus units, or one instrument that talks.
func (p *parse) answers(f fields, t *port, ofUnits, ofUnit, ofTalker kind) {
	var given []string
	for _, key := range []string{"slaves", "nmea", "talker"} {
		if f.at(key).Given() {
			given = append(given, key)
		}
	}
	if len(given) > 1 {
		f.at(given[1]).wrong("given beside "+given[0], "one of slaves, nmea and talker")
		return
	}
	if len(given) == 1 && given[0] != "slaves" {
		p.own(f.at("name"), t.name, target{kind: ofTalker, port: t})
		if d := f.at("delay"); d.Given() {
			d.bad("no delay: it is the units'")
		}
		if given[0] == "nmea" {
			p.nmea(f.at("nmea"), t)
		} else {
			p.talker(f.at("talker"), t)
		}
		return
	}
	t.delay = f.at("delay").duration(0, 0, time.Minute)
	p.own(f.at("name"), t.name, target{kind: ofUnits, port: t})
	p.slaves(f, t, ofUnit)
}

// nmea reads {sensor, every, values}: the values given are the channels.
func (p *parse) nmea(x node, t *port) {
	f, ok := x.mapping("sensor", "every", "timeout", "values")
	if !ok {
		return
	}
	s := p.sensor(f, talkerKind, "nmea")
	s.talks, s.port = true, t
	t.talker = &talker{sensor: s, waves: map[string]wave{}}
	p.also(t.name, s)
	var known []string
	for _, q := range sim.NMEAQuantities() {
		known = append(known, q.Name)
	}
	v, ok := f.at("values").mapping(known...)
	if !ok {
		return
	}
	if len(v.keys) == 0 {
		v.wrong("no values", "at least one of %s", strings.Join(known, ", "))
	}
	for _, q := range sim.NMEAQuantities() {
		if w := v.at(q.Name); w.Given() {
			t.talker.waves[q.Name] = p.wave(w)
			s.channels = append(s.channels, channel{q.Name, string(q.Unit), q.Tolerance})
		}
	}
}

// talker reads {sensor, every, format, channels: [{name, unit, value}]}.
func (p *parse) talker(x node, t *port) {
	f, ok := x.mapping("sensor", "every", "timeout", "format", "channels")
	if !ok {
		return
	}
	s := p.sensor(f, talkerKind, "line")
	s.talks, s.port = true, t
	t.talker = &talker{sensor: s, waves: map[string]wave{}}
	p.also(t.name, s)
	format, ok := f.at("format").text("a line with {channel} or {channel:%.2f} where a value stands")
	t.talker.format = format
	if !f.at("channels").Given() {
		f.at("channels").bad("a list of channels: {name, unit, value}")
	}
	names := map[string]int{}
	var values []sim.LineValue
	for _, x := range f.at("channels").list() {
		g, ok := x.mapping("name", "unit", "value")
		if !ok {
			continue
		}
		c := p.channel(g, names)
		t.talker.waves[c.name] = p.wave(g.at("value"))
		s.channels = append(s.channels, c)
		values = append(values, sim.LineValue{Name: c.name})
	}
	if ok {
		if err := sim.CheckLines(format, values); err != nil {
			f.at("format").wrong(strings.TrimPrefix(err.Error(), "sim: "), "")
		}
	}
}

func (p *parse) slaves(f fields, t *port, k kind) {
	list := f.at("slaves")
	if !list.Given() {
		list.bad("a list of Modbus units: {sensor, unit_id, every, channels}")
	}
	ids := map[int]int{}
	for _, x := range list.list() {
		f, ok := x.mapping("sensor", "unit_id", "every", "timeout", "channels")
		if !ok {
			continue
		}
		s := p.sensor(f, k, "modbus")
		u := &slave{sensor: s, id: f.at("unit_id").whole(0, 1, 247)}
		s.port, s.unit = t, u
		p.also(t.name, s)
		if line := ids[u.id]; line > 0 {
			f.at("unit_id").bad("a unit of its own: line %d has it already", line)
		}
		ids[u.id] = f.at("unit_id").Line
		p.registers(f.at("channels"), s, u)
		t.slaves = append(t.slaves, u)
	}
}

// typeSize is how many registers a type takes, and typeRange what it holds.
var typeSize = map[string]int{"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "int64": 4, "uint64": 4, "float32": 2, "float64": 4}

var typeNames = []string{"int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"}

// typeRange is what a type holds and a gateway takes: whole numbers up to 2^53.
func typeRange(kind string) (low, high float64) {
	switch kind {
	case "int16":
		return math.MinInt16, math.MaxInt16
	case "uint16":
		return 0, math.MaxUint16
	case "int32":
		return math.MinInt32, math.MaxInt32
	case "uint32":
		return 0, math.MaxUint32
	case "int64":
		return -drivers.MaxExact, drivers.MaxExact
	case "uint64":
		return 0, drivers.MaxExact
	case "float32":
		return -math.MaxFloat32, math.MaxFloat32
	}
	return -math.MaxFloat64, math.MaxFloat64
}

const maxRegisters = 1000 // channels of one unit

func (p *parse) registers(list node, s *sensor, u *slave) {
	items := list.list()
	if len(items) == 0 || len(items) > maxRegisters {
		list.wrong(fmt.Sprintf("%d channels", len(items)), "1 to %d: {name, register, address, type, value}", maxRegisters)
		return
	}
	type cell struct {
		table   string
		address int
	}
	taken, names := map[cell]int{}, map[string]int{}
	for _, x := range items {
		f, ok := x.mapping("name", "register", "address", "type", "order", "words", "scale", "offset", "unit", "value")
		if !ok {
			continue
		}
		c := register{channel: p.channel(f, names), table: f.at("register").choice(true, "holding", "input", "coil", "discrete"), size: 1,
			address: f.at("address").whole(-1, 0, 0xFFFF), scale: f.at("scale").number(ptr(1.0)), offset: f.at("offset").number(ptr(0.0))}
		if c.scale == 0 {
			f.at("scale").bad("a number other than 0")
			c.scale = 1
		}
		c.order, c.words = f.at("order").choice(false, "big", "little"), f.at("words").choice(false, "big", "little")
		if c.table == "coil" || c.table == "discrete" {
			c.kind = "bool"
			for _, key := range []string{"type", "order", "words", "scale", "offset"} {
				if text, _ := f.at(key).Scalar(); f.at(key).Given() && !(key == "type" && text == "bool") {
					f.at(key).bad("no %s: a %s is one bit, 0 or 1", key, c.table)
				}
			}
		} else if c.kind = f.at("type").choice(true, typeNames...); c.kind != "" {
			c.size = typeSize[c.kind]
		}
		if c.address+c.size > 0x10000 {
			f.at("address").bad("at most %d, as %s takes %d registers", 0x10000-c.size, c.kind, c.size)
		}
		for i := range c.size {
			at := cell{c.table, c.address + i}
			if line := taken[at]; line > 0 {
				f.at("address").bad("registers of its own: the channel on line %d has %s %d", line, c.table, at.address)
				break
			}
			taken[at] = x.Line
		}
		n := len(p.problems)
		if v := f.at("value"); !v.Given() {
			v.bad("a number or a form such as {sine: {mean, amplitude, period}}")
		} else if c.wave = p.wave(v); c.kind != "" && len(p.problems) == n {
			c.fits(v)
			c.tolerance = c.inexact()
		}
		s.channels = append(s.channels, c.channel)
		u.registers = append(u.registers, c)
	}
}

// fits looks whether a register can hold its wave.
func (c *register) fits(x node) {
	low, high := typeRange(c.kind)
	switch {
	case c.wave.kind == "counter": // goes around
	case c.kind == "bool":
		if c.wave.low < 0 || c.wave.high > 1 {
			x.wrong(fmt.Sprintf("from %g to %g", c.wave.low, c.wave.high), "0 to 1: what is at least 0.5 is 1")
		}
	default:
		bound := func(raw float64) float64 { return scaled(strconv.FormatFloat(raw, 'g', -1, 64), c.scale, c.offset) }
		a, b := bound(low), bound(high)
		if a, b = min(a, b), max(a, b); c.wave.low < a || c.wave.high > b {
			x.wrong(fmt.Sprintf("from %g to %g", c.wave.low, c.wave.high), "%g to %g, which is what %s holds with scale %g and offset %g", a, b, c.kind, c.scale, c.offset)
		}
	}
}

// channel reads a name and a unit.
func (p *parse) channel(f fields, names map[string]int) channel {
	c := channel{name: f.at("name").name()}
	if line := names[c.name]; line > 0 && c.name != "" {
		f.at("name").bad("a name of its own: line %d has it already", line)
	}
	names[c.name] = f.at("name").Line
	if u := f.at("unit"); u.Given() {
		// An empty text is a bare number's.
		if text, kind := u.Scalar(); kind != "text" || len(text) > 32 || strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
			u.bad("a SenML unit such as Cel, %%RH, Pa, V or kWh, at most 32 bytes")
		} else {
			c.unit = text
		}
	}
	return c
}

func (p *parse) i2c(x node) {
	f, ok := x.mapping("name", "chips")
	if !ok {
		return
	}
	b := &chipBus{name: f.at("name").busName()}
	p.own(f.at("name"), b.name, target{kind: i2cBusKind, bus: b.name})
	list := f.at("chips")
	if !list.Given() {
		list.bad("a list of chips: {sensor, chip, address, every, values}")
	}
	addresses := map[uint16]int{}
	for _, x := range list.list() {
		f, ok := x.mapping("sensor", "chip", "address", "every", "timeout", "values")
		if !ok {
			continue
		}
		c := &chip{bus: b.name, kind: drivers.I2C}
		known := p.chipType(f.at("chip"), c)
		c.sensor = p.sensor(f, i2cChip, c.name)
		c.sensor.chip = c
		p.also(b.name, c.sensor)
		c.address = uint16(f.at("address").whole(int(max(c.chip.Address, 8)), 0x08, 0x77))
		if line := addresses[c.address]; line > 0 {
			f.at("address").bad("an address of its own: the chip on line %d has 0x%02x", line, c.address)
		}
		addresses[c.address] = x.Line
		if known {
			p.quantities(f.at("values"), c)
		}
		b.chips = append(b.chips, c)
	}
	p.site.i2c = append(p.site.i2c, b)
}

func (p *parse) w1(x node) {
	f, ok := x.mapping("name", "devices")
	if !ok {
		return
	}
	b := &chipBus{name: f.at("name").busName()}
	p.own(f.at("name"), b.name, target{kind: w1BusKind, bus: b.name})
	list := f.at("devices")
	if !list.Given() {
		list.bad("a list of devices: {sensor, chip, every, values}")
	}
	for _, x := range list.list() {
		f, ok := x.mapping("sensor", "chip", "every", "timeout", "values")
		if !ok {
			continue
		}
		c := &chip{bus: b.name, kind: drivers.W1Bus}
		known := p.chipType(f.at("chip"), c)
		c.sensor = p.sensor(f, w1Device, c.name)
		c.sensor.chip = c
		p.also(b.name, c.sensor)
		if known {
			p.quantities(f.at("values"), c)
		}
		b.chips = append(b.chips, c)
	}
	p.site.w1 = append(p.site.w1, b)
}

// converters are chips whose channels the site names.
var converters = map[string]int{"mcp3008": 10, "mcp3208": 12} // bits

// chipNames are the chips that fit a bus.
func chipNames(k drivers.BusKind) (names []string) {
	for _, t := range sim.ChipTypes() {
		if fitsBus(t, k) && converters[t.Name] == 0 {
			names = append(names, t.Name)
		}
	}
	if k == drivers.SPI {
		names = append(names, "mcp3008", "mcp3208")
	}
	slices.Sort(names)
	return names
}

// fitsBus: some chips, such as the BME280, sit on several kinds of bus.
func fitsBus(t sim.ChipType, k drivers.BusKind) bool {
	if t.Bus == k {
		return true
	}
	switch c := t.New(&sim.World{}, "probe", nil); k {
	case drivers.I2C:
		_, ok := c.(sim.I2CChip)
		return ok
	case drivers.SPI:
		_, ok := c.(sim.SPIChip)
		return ok
	case drivers.W1Bus:
		_, ok := c.(sim.W1Chip)
		return ok
	}
	return false
}

func (p *parse) chipType(x node, c *chip) bool {
	names := chipNames(c.kind)
	if c.name = x.choice(true, names...); c.name == "" {
		return false
	}
	if converters[c.name] > 0 {
		return true
	}
	var err error
	if c.chip, err = sim.FindChip(c.name); err != nil {
		x.bad("one of %s", strings.Join(names, ", "))
	}
	return err == nil
}

// quantities reads what a chip measures; what is not given stays at the chip's default.
func (p *parse) quantities(x node, c *chip) {
	c.waves = map[string]wave{}
	var known []string
	for _, q := range c.chip.Quantities {
		known = append(known, q.Name)
		c.sensor.channels = append(c.sensor.channels, channel{q.Name, string(q.Unit), q.Tolerance})
	}
	if !x.Given() {
		return
	}
	f, ok := x.mapping(known...)
	if !ok {
		return
	}
	for _, name := range known {
		if v := f.at(name); v.Given() {
			c.waves[name] = p.wave(v)
		}
	}
}

func (p *parse) spi(x node) {
	f, ok := x.mapping("name", "sensor", "chip", "every", "timeout", "values", "vref", "channels")
	if !ok {
		return
	}
	c := &chip{bus: f.at("name").busName(), kind: drivers.SPI}
	known := p.chipType(f.at("chip"), c)
	c.sensor = p.sensor(f, spiDevice, c.name)
	c.sensor.chip = c
	p.own(f.at("name"), c.bus, target{kind: spiDevice, bus: c.bus, sensors: []*sensor{c.sensor}})
	p.site.spi = append(p.site.spi, c)
	without := []string{"vref", "channels"}
	if converters[c.name] > 0 {
		without = []string{"values"}
	}
	for _, key := range without {
		if known && f.at(key).Given() {
			f.at(key).wrong("given", "no %s: %s has none", key, c.name)
		}
	}
	switch {
	case !known:
	case converters[c.name] > 0:
		p.inputs(f, c)
	default:
		p.quantities(f.at("values"), c)
	}
}

func (p *parse) inputs(f fields, c *chip) {
	c.vref = f.at("vref").number(nil)
	if f.at("vref").Given() && (c.vref <= 0 || c.vref > 100) {
		f.at("vref").bad("the reference voltage, above 0 and at most 100 V")
	}
	list := f.at("channels")
	if !list.Given() {
		list.bad("a list of inputs: {name, input, value}, with the value in V")
	}
	names, numbers := map[string]int{}, map[int]int{}
	for _, x := range list.list() {
		f, ok := x.mapping("name", "input", "value")
		if !ok {
			continue
		}
		i := input{channel: p.channel(f, names), number: f.at("input").whole(-1, 0, 7)}
		i.unit = "V"
		if line := numbers[i.number]; line > 0 {
			f.at("input").bad("an input of its own: line %d has it already", line)
		}
		numbers[i.number] = x.Line
		n := len(p.problems)
		v := f.at("value")
		if i.wave = p.wave(v); len(p.problems) == n && c.vref > 0 && i.wave.kind != "counter" && (i.wave.low < 0 || i.wave.high > c.vref) {
			v.wrong(fmt.Sprintf("from %g to %g", i.wave.low, i.wave.high), "0 to %g V, the reference voltage", c.vref)
		}
		c.inputs = append(c.inputs, i)
		c.sensor.channels = append(c.sensor.channels, i.channel)
	}
}
