package modbus

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"homeward/drivers"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name:    "modbus",
	Summary: "Modbus RTU over a serial port, or Modbus TCP: registers, coils and discrete inputs of one unit",
	New:     func(string) drivers.Options { return &Options{} },
}

// The defaults of [Options].
const (
	DefaultLine     = "19200-8E1" // "MODBUS over Serial Line V1.02" §2.5.1: even parity, and §3.3: 19.2 kbit/s
	DefaultMaxGap   = 8
	DefaultMaxCount = 125 // registers in one reply, application protocol §6.3
)

// bitsPerRegister converts the limits, given in registers, to coils: the same
// bytes on the wire.
const bitsPerRegister = 16

// Options is the configuration of one Modbus unit.
type Options struct {
	Port       string        `yaml:"port,omitempty" doc:"serial port, by a name that stays: /dev/serial/by-path/… or by-id/…"`
	URL        string        `yaml:"url,omitempty" doc:"instead of port: Modbus TCP, tcp://host:port; default port 502"`
	Line       string        `yaml:"line,omitempty" doc:"line setting BAUD-DATABITS PARITY STOPBITS, default 19200-8E1"`
	UnitID     *int          `yaml:"unit_id" doc:"the unit's address on the line, 1 to 247; over TCP 0 to 255, often 1 or 255 for a device that is no gateway"`
	Late       time.Duration `yaml:"late,omitempty" doc:"after a time-out the unit is not asked again for this long, since its reply may still come; default twice the time-out"`
	Turnaround time.Duration `yaml:"turnaround,omitempty" doc:"pause between requests, default (and at least) 3.5 characters"`
	MaxGap     *int          `yaml:"max_gap,omitempty" doc:"unwanted registers that may be read to join two requests, default 8"`
	MaxCount   *int          `yaml:"max_count,omitempty" doc:"registers per request, 1 to 125, default 125"`
	Echo       bool          `yaml:"echo,omitempty" doc:"the adapter hears what it sends (two-wire without receiver switching)"`
	Chans      []Channel     `yaml:"channels" doc:"what to read"`

	line drivers.Line
	url  string // with its port
}

// Channel is one quantity of a unit.
type Channel struct {
	drivers.Channel `yaml:",inline"`
	Register        string   `yaml:"register" doc:"holding, input, coil or discrete"`
	Address         *int     `yaml:"address" doc:"first register or bit, 0 to 65535, as sent on the wire (40001 in some manuals is holding 0)"`
	Type            string   `yaml:"type,omitempty" doc:"int16 uint16 int32 uint32 int64 uint64 float32 float64 or bool; coils and discrete inputs are bool"`
	Order           string   `yaml:"order,omitempty" doc:"byte order within a register: big (default) or little"`
	Words           string   `yaml:"words,omitempty" doc:"order of the registers of one value: big (default, most significant first) or little"`
	Scale           *float64 `yaml:"scale,omitempty" doc:"value = raw × scale + offset, default 1"`
	Offset          float64  `yaml:"offset,omitempty" doc:"value = raw × scale + offset, default 0"`
	Bit             *int     `yaml:"bit,omitempty" doc:"one bit of a register, 0 (least significant) to 15; the value is 0 or 1"`
	Bits            []int    `yaml:"bits,omitempty" doc:"a field of a register, [from, to], both included, 0 the least significant"`
}

// types and the registers that they take.
var typeSize = map[string]int{
	"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "int64": 4, "uint64": 4, "float32": 2, "float64": 4, "bool": 1,
}

const typeNames = "int16, uint16, int32, uint32, int64, uint64, float32, float64 or bool"

var functionOf = map[string]byte{
	"coil": readCoils, "discrete": readDiscrete, "holding": readHolding, "input": readInput,
}

// Check implements [drivers.Options].
func (o *Options) Check() []drivers.Fault {
	var faults []drivers.Fault
	fault := func(path string, bad any, want string) {
		faults = append(faults, drivers.Fault{Path: path, Bad: bad, Want: want})
	}
	within := func(path string, v *int, low, high int, required bool) {
		switch {
		case v == nil && required:
			fault(path, nil, fmt.Sprintf("%d to %d", low, high))
		case v != nil && (*v < low || *v > high):
			fault(path, *v, fmt.Sprintf("%d to %d", low, high))
		}
	}
	if o.URL != "" {
		o.checkTCP(fault)
		within("unit_id", o.UnitID, 0, maxTCPUnit, true)
	} else {
		if o.Port == "" {
			fault("port", nil, "the serial port, such as /dev/serial/by-path/…, or url: tcp://host:502")
		}
		if o.Line == "" {
			o.Line = DefaultLine
		}
		line, err := drivers.ParseLine(o.Line)
		switch {
		case err != nil:
			fault("line", o.Line, "baud rate, data bits, parity and stop bits, such as 19200-8E1 or 9600-8N1")
		case line.DataBits != 8:
			fault("line", o.Line, "8 data bits: RTU frames are bytes")
		}
		o.line = line
		within("unit_id", o.UnitID, 1, maxUnit, true)
	}
	if o.Late < 0 || o.Late > time.Hour {
		fault("late", o.Late, "0 (twice the time-out) to 1h")
	}
	if o.Turnaround < 0 || o.Turnaround > 10*time.Second {
		fault("turnaround", o.Turnaround, "0 (3.5 characters) to 10s")
	}
	if o.MaxGap == nil {
		o.MaxGap = ptr(DefaultMaxGap)
	}
	within("max_gap", o.MaxGap, 0, DefaultMaxCount, false)
	if o.MaxCount == nil {
		o.MaxCount = ptr(DefaultMaxCount)
	}
	within("max_count", o.MaxCount, 1, DefaultMaxCount, false)
	if len(o.Chans) == 0 {
		fault("channels", nil, "at least one channel")
	}
	for i := range o.Chans {
		o.Chans[i].check(func(key string, bad any, want string) {
			fault(fmt.Sprintf("channels[%d].%s", i, key), bad, want)
		}, *o.MaxCount)
	}
	return faults
}

// checkTCP checks url, and refuses what only a line has.
func (o *Options) checkTCP(fault func(path string, bad any, want string)) {
	url, ok := parseURL(o.URL)
	if !ok {
		fault("url", o.URL, "tcp://host or tcp://host:port")
	}
	o.url = url
	const only = "nothing: with url there is no serial line"
	if o.Port != "" {
		fault("port", o.Port, "either port or url")
	}
	if o.Line != "" {
		fault("line", o.Line, only)
	}
	if o.Late != 0 {
		fault("late", o.Late, only+", and late replies are known by their transaction ids")
	}
	if o.Turnaround != 0 {
		fault("turnaround", o.Turnaround, only)
	}
	if o.Echo {
		fault("echo", o.Echo, only)
	}
}

func (c *Channel) check(fault func(key string, bad any, want string), maxCount int) {
	function, ok := functionOf[c.Register]
	if !ok {
		fault("register", given(c.Register), "holding, input, coil or discrete")
	}
	isBit := function == readCoils || function == readDiscrete
	if c.Type == "" {
		switch {
		case isBit, c.Bit != nil:
			c.Type = "bool"
		case c.Bits != nil:
			c.Type = "uint16"
		}
	}
	size, ok := typeSize[c.Type]
	switch {
	case !ok:
		fault("type", given(c.Type), typeNames)
	case isBit && c.Type != "bool":
		fault("type", c.Type, "bool: a "+c.Register+" is one bit")
	case c.Bits != nil && !isBit && c.Type != "uint16":
		fault("type", c.Type, "uint16, as bits is a field of one register")
	case c.Bit != nil && !isBit && c.Type != "bool" && c.Type != "uint16":
		fault("type", c.Type, "bool or uint16, as bit is one bit of one register")
	case ok && c.Type == "bool" && !isBit && c.Bit == nil && function != 0 && c.Bits == nil:
		fault("bit", nil, "0 to 15: which bit of the register the bool is")
	case size > maxCount && maxCount > 0:
		fault("type", c.Type, fmt.Sprintf("a type of at most max_count (%d) registers", maxCount))
	}
	if c.Address == nil {
		fault("address", nil, "0 to 65535")
	} else if *c.Address < 0 || *c.Address > 0xFFFF {
		fault("address", *c.Address, "0 to 65535")
	} else if size > 1 && *c.Address+size > 0x10000 {
		fault("address", *c.Address, fmt.Sprintf("at most %d, as a %s takes %d registers", 0x10000-size, c.Type, size))
	}
	for _, o := range []struct {
		key string
		v   *string
	}{{"order", &c.Order}, {"words", &c.Words}} {
		switch {
		case *o.v == "":
			*o.v = "big"
		case *o.v != "big" && *o.v != "little":
			fault(o.key, *o.v, "big or little")
		}
	}
	drivers.CheckScale(&c.Scale, c.Offset, fault)
	switch {
	case c.Bit != nil && c.Bits != nil:
		fault("bits", c.Bits, "either bit or bits")
	case isBit && c.Bit != nil:
		fault("bit", *c.Bit, "no bit: a "+c.Register+" is one")
	case isBit && c.Bits != nil:
		fault("bits", c.Bits, "no bits: a "+c.Register+" is one")
	case c.Bit != nil && (*c.Bit < 0 || *c.Bit > 15):
		fault("bit", *c.Bit, "0 (least significant) to 15")
	case c.Bits != nil && (len(c.Bits) != 2 || c.Bits[0] < 0 || c.Bits[1] > 15 || c.Bits[0] > c.Bits[1]):
		fault("bits", c.Bits, "[from, to] with 0 ≤ from ≤ to ≤ 15")
	}
}

// given is nil for a key that is missing.
func given(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// Steps implements [drivers.Stepper].
func (o *Options) Steps() []drivers.Step {
	steps := make([]drivers.Step, len(o.Chans))
	for i, c := range o.Chans {
		if c.Type == "float32" || c.Type == "float64" || c.Offset != 0 {
			continue
		}
		switch s := newScale(*c.Scale); {
		case s.power != 0 && s.power <= 1e15:
			steps[i] = drivers.Step{Times: math.Abs(s.digits), Places: int(math.Round(math.Log10(s.power)))}
		case s.power == 0 && s.factor == math.Trunc(s.factor) && math.Abs(s.factor) < 1<<32:
			steps[i] = drivers.Step{Times: math.Abs(s.factor)}
		}
	}
	return steps
}

func ptr[T any](v T) *T { return &v }

// Bus implements [drivers.Options].
func (o *Options) Bus() drivers.Bus {
	if o.URL != "" {
		return drivers.Bus{Kind: drivers.TCP, Name: o.url}
	}
	return drivers.Bus{Kind: drivers.Serial, Name: o.Port, Line: o.line}
}

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel {
	list := make([]drivers.Channel, len(o.Chans))
	for i, c := range o.Chans {
		list[i] = c.Channel
		if list[i].Unit == nil {
			list[i].Unit = ptr(drivers.Unit(""))
		}
	}
	return list
}

// masterKey is where the sensors of a port or connection find their common master.
type masterKey struct{}

// Open implements [drivers.Options]. Modbus has no identity to ask for that all units
// answer, so nothing is sent before the first Read.
func (o *Options) Open(_ context.Context, env drivers.Env) (drivers.Sensor, error) {
	return o.open(env, time.Now)
}

func (o *Options) open(env drivers.Env, now func() time.Time) (*Sensor, error) {
	if faults := o.Check(); len(faults) > 0 {
		f := faults[0]
		return nil, fmt.Errorf("modbus: %w: %s: %v, want %s", drivers.ErrWrong, f.Path, f.Bad, f.Want)
	}
	s := &Sensor{
		master: env.Shared.Load(masterKey{}, func() any {
			if o.URL != "" {
				return newTCPMaster(env.Port, env.Log, now)
			}
			return newMaster(env.Port, env.Log, now)
		}).(asker),
		unit:   byte(*o.UnitID),
		timing: timing{timeout: env.Timeout, late: o.Late, turnaround: o.Turnaround, echo: o.Echo},
	}
	if s.timing.late == 0 {
		s.timing.late = 2 * env.Timeout
	}
	for _, c := range o.Chans {
		s.points = append(s.points, newPoint(c))
	}
	s.blocks = plan(s.points, *o.MaxGap, *o.MaxCount)
	return s, nil
}

// block is one request and the points that it serves.
type block struct {
	function byte
	address  int
	count    int
	points   []int // indexes, in order of address
}

func (b block) String() string {
	kind := [...]string{readCoils: "coil", readDiscrete: "discrete", readHolding: "holding", readInput: "input"}[b.function]
	if b.count == 1 {
		return fmt.Sprintf("%s %d", kind, b.address)
	}
	return fmt.Sprintf("%s %d to %d", kind, b.address, b.address+b.count-1)
}

// plan joins points of one kind that lie close into as few requests as the limits, in registers,
// allow.
func plan(points []point, maxGap, maxCount int) []block {
	order := make([]int, len(points))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		a, b := points[i], points[j]
		if a.function != b.function {
			return int(a.function) - int(b.function)
		}
		return a.address - b.address
	})
	var blocks []block
	for _, i := range order {
		p := points[i]
		gap, most := maxGap, maxCount
		if p.function == readCoils || p.function == readDiscrete {
			gap, most = gap*bitsPerRegister, most*bitsPerRegister
		}
		if n := len(blocks); n > 0 {
			b := &blocks[n-1]
			end := max(b.address+b.count, p.address+p.size)
			if b.function == p.function && p.address-(b.address+b.count) <= gap && end-b.address <= most {
				b.count = end - b.address
				b.points = append(b.points, i)
				continue
			}
		}
		blocks = append(blocks, block{p.function, p.address, p.size, []int{i}})
	}
	return blocks
}

// names lists the channels of a block for an error, shortened.
func (s *Sensor) names(b block) string {
	const most = 4
	var list []string
	for _, i := range b.points[:min(len(b.points), most)] {
		list = append(list, s.points[i].name)
	}
	if n := len(b.points) - most; n > 0 {
		list = append(list, fmt.Sprintf("%d more", n))
	}
	return strings.Join(list, ", ")
}
