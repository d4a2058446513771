package modbus

import (
	"math"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

func TestCheck(t *testing.T) {
	good := func() *Options {
		return &Options{Port: "/dev/ttyS0", UnitID: ptr(1), Chans: []Channel{channel("x", "holding", 0, "int16")}}
	}
	with := func(change func(*Channel)) func(*Options) {
		return func(o *Options) { change(&o.Chans[0]) }
	}
	for _, c := range []struct {
		name   string
		change func(*Options)
		path   string // "" for none
		bad    any
	}{
		{"good", func(*Options) {}, "", nil},
		{"no port", func(o *Options) { o.Port = "" }, "port", nil},
		{"line", func(o *Options) { o.Line = "19200" }, "line", "19200"},
		{"seven bits", func(o *Options) { o.Line = "9600-7E1" }, "line", "9600-7E1"},
		{"no unit", func(o *Options) { o.UnitID = nil }, "unit_id", nil},
		{"broadcast", func(o *Options) { o.UnitID = ptr(0) }, "unit_id", 0},
		{"unit 248", func(o *Options) { o.UnitID = ptr(248) }, "unit_id", 248},
		{"late", func(o *Options) { o.Late = -1 }, "late", time.Duration(-1)},
		{"turnaround", func(o *Options) { o.Turnaround = time.Minute }, "turnaround", time.Minute},
		{"max_gap", func(o *Options) { o.MaxGap = ptr(-1) }, "max_gap", -1},
		{"max_gap 0", func(o *Options) { o.MaxGap = ptr(0) }, "", nil},
		{"max_count", func(o *Options) { o.MaxCount = ptr(126) }, "max_count", 126},
		{"max_count 0", func(o *Options) { o.MaxCount = ptr(0) }, "max_count", 0},
		{"no channels", func(o *Options) { o.Chans = nil }, "channels", nil},
		{"no register", with(func(c *Channel) { c.Register = "" }), "channels[0].register", nil},
		{"register", with(func(c *Channel) { c.Register = "hold" }), "channels[0].register", "hold"},
		{"no type", with(func(c *Channel) { c.Type = "" }), "channels[0].type", nil},
		{"type", with(func(c *Channel) { c.Type = "int8" }), "channels[0].type", "int8"},
		{"no address", with(func(c *Channel) { c.Address = nil }), "channels[0].address", nil},
		{"address -1", with(func(c *Channel) { c.Address = ptr(-1) }), "channels[0].address", -1},
		{"address 65536", with(func(c *Channel) { c.Address = ptr(65536) }), "channels[0].address", 65536},
		{"last address", with(func(c *Channel) { c.Address = ptr(65535) }), "", nil},
		{"beyond the end", with(func(c *Channel) { c.Address, c.Type = ptr(65533), "float64" }), "channels[0].address", 65533},
		{"to the end", with(func(c *Channel) { c.Address, c.Type = ptr(65532), "float64" }), "", nil},
		{"wider than a request", func(o *Options) { o.MaxCount = ptr(3); o.Chans[0].Type = "int64" }, "channels[0].type", "int64"},
		{"order", with(func(c *Channel) { c.Order = "middle" }), "channels[0].order", "middle"},
		{"words", with(func(c *Channel) { c.Words = "BIG" }), "channels[0].words", "BIG"},
		{"scale 0", with(func(c *Channel) { c.Scale = ptr(0.0) }), "channels[0].scale", 0.0},
		{"scale infinite", with(func(c *Channel) { c.Scale = ptr(math.Inf(1)) }), "channels[0].scale", math.Inf(1)},
		{"offset", with(func(c *Channel) { c.Offset = math.Inf(-1) }), "channels[0].offset", math.Inf(-1)},
		{"bool without bit", with(func(c *Channel) { c.Type = "bool" }), "channels[0].bit", nil},
		{"bit", with(func(c *Channel) { c.Type, c.Bit = "", ptr(15) }), "", nil},
		{"bit 16", with(func(c *Channel) { c.Type, c.Bit = "", ptr(16) }), "channels[0].bit", 16},
		{"bit of a float", with(func(c *Channel) { c.Type, c.Bit = "float32", ptr(1) }), "channels[0].type", "float32"},
		{"bit of a coil", with(func(c *Channel) { c.Register, c.Type, c.Bit = "coil", "", ptr(1) }), "channels[0].bit", 1},
		{"bits", with(func(c *Channel) { c.Type, c.Bits = "", []int{4, 7} }), "", nil},
		{"bits backwards", with(func(c *Channel) { c.Type, c.Bits = "", []int{7, 4} }), "channels[0].bits", []int{7, 4}},
		{"bits, one", with(func(c *Channel) { c.Type, c.Bits = "", []int{7} }), "channels[0].bits", []int{7}},
		{"bits of int16", with(func(c *Channel) { c.Bits = []int{4, 7} }), "channels[0].type", "int16"},
		{"bit and bits", with(func(c *Channel) { c.Type, c.Bit, c.Bits = "uint16", ptr(1), []int{4, 7} }), "channels[0].bits", []int{4, 7}},
		{"bits of a discrete", with(func(c *Channel) { c.Register, c.Type, c.Bits = "discrete", "", []int{4, 7} }), "channels[0].bits", []int{4, 7}},
		{"coil as int16", with(func(c *Channel) { c.Register = "coil" }), "channels[0].type", "int16"},
		{"coil", with(func(c *Channel) { c.Register, c.Type = "coil", "" }), "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good()
			c.change(o)
			faults := o.Check()
			if c.path == "" {
				require.Empty(t, faults)
				require.Empty(t, o.Check(), "checking again finds the same")
				return
			}
			require.Len(t, faults, 1)
			require.Equal(t, c.path, faults[0].Path)
			require.Equal(t, c.bad, faults[0].Bad)
			require.NotEmpty(t, faults[0].Want)
			_, err := o.open(drivers.Env{Port: newWire("9600-8N1"), Timeout: timeout, Shared: new(drivers.Shared)}, time.Now)
			require.ErrorIs(t, err, drivers.ErrWrong)
		})
	}
	t.Run("all at once", func(t *testing.T) {
		o := &Options{Chans: []Channel{{}, {}}}
		var paths []string
		for _, f := range o.Check() {
			paths = append(paths, f.Path)
		}
		require.Equal(t, []string{
			"port", "unit_id", "channels[0].register", "channels[0].type", "channels[0].address",
			"channels[1].register", "channels[1].type", "channels[1].address",
		}, paths)
	})
}

// TestYAML reads every key there is, strictly, as the configuration does.
func TestYAML(t *testing.T) {
	const text = `
port: /dev/serial/by-path/platform-3f980000.usb-usb-0:1.3:1.0-port0
line: 9600-8N1
unit_id: 17
late: 3s
turnaround: 20ms
max_gap: 0
max_count: 60
echo: true
channels:
  - {name: flow, register: holding, address: 0, type: int16, scale: 0.1, offset: -40, unit: Cel, deadband: 0.5, on_change: true, min: -20, max: 90}
  - {name: energy, register: input, address: 16, type: uint32, order: big, words: little, unit: kWh}
  - {name: open, register: holding, address: 3, bit: 4}
  - {name: mode, register: holding, address: 3, bits: [8, 11]}
  - {name: pump, register: coil, address: 65535}
`
	got := Factory.New("modbus").(*Options)
	require.NoError(t, yaml.UnmarshalWithOptions([]byte(text), got, yaml.Strict()))
	require.Empty(t, got.Check())
	require.Equal(t, 3*time.Second, got.Late)
	require.Equal(t, 20*time.Millisecond, got.Turnaround)
	require.Equal(t, 17, *got.UnitID)
	require.Equal(t, 0, *got.MaxGap)
	require.Equal(t, 60, *got.MaxCount)
	require.True(t, got.Echo)
	flow := got.Chans[0]
	require.Equal(t, drivers.Channel{Name: "flow", Unit: ptr(drivers.Unit("Cel")), Deadband: ptr(0.5), OnChange: ptr(true), Min: ptr(-20.0), Max: ptr(90.0)}, flow.Channel)
	require.Equal(t, 0.1, *flow.Scale)
	require.Equal(t, -40.0, flow.Offset)
	require.Equal(t, "little", got.Chans[1].Words)
	require.Equal(t, 4, *got.Chans[2].Bit)
	require.Equal(t, []int{8, 11}, got.Chans[3].Bits)
	require.Equal(t, 65535, *got.Chans[4].Address)
	require.Error(t, yaml.UnmarshalWithOptions([]byte("unitid: 1"), new(Options), yaml.Strict()))
}

func TestBusAndChannels(t *testing.T) {
	cel := drivers.Unit("Cel")
	o := &Options{Port: "/dev/ttyS0", Line: "9600-8N1", UnitID: ptr(1), Chans: []Channel{
		channel("a", "holding", 0, "int16"), channel("b", "coil", 0, ""),
	}}
	o.Chans[0].Unit = &cel
	require.Empty(t, o.Check())
	require.Equal(t, drivers.Bus{Kind: drivers.Serial, Name: "/dev/ttyS0", Line: drivers.Line{Baud: 9600, DataBits: 8, Parity: 'N', StopBits: 1}}, o.Bus())
	require.Equal(t, []drivers.Channel{{Name: "a", Unit: &cel}, {Name: "b", Unit: ptr(drivers.Unit(""))}}, o.Channels())
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name             string
		points           []point
		maxGap, maxCount int
		want             []block
	}{
		{"adjacent", []point{{function: 3, address: 0, size: 1}, {function: 3, address: 1, size: 2}}, 0, 125,
			[]block{{3, 0, 3, []int{0, 1}}}},
		{"unsorted and overlapping", []point{{function: 3, address: 4, size: 1}, {function: 3, address: 2, size: 4}, {function: 3, address: 4, size: 1}}, 0, 125,
			[]block{{3, 2, 4, []int{1, 0, 2}}}},
		{"gap of 8", []point{{function: 3, address: 0, size: 1}, {function: 3, address: 9, size: 1}}, 8, 125,
			[]block{{3, 0, 10, []int{0, 1}}}},
		{"gap of 9", []point{{function: 3, address: 0, size: 1}, {function: 3, address: 10, size: 1}}, 8, 125,
			[]block{{3, 0, 1, []int{0}}, {3, 10, 1, []int{1}}}},
		{"kinds apart", []point{{function: 4, address: 1, size: 1}, {function: 3, address: 0, size: 1}}, 8, 125,
			[]block{{3, 0, 1, []int{1}}, {4, 1, 1, []int{0}}}},
		{"max_count", []point{{function: 3, address: 0, size: 2}, {function: 3, address: 2, size: 2}, {function: 3, address: 4, size: 2}}, 8, 5,
			[]block{{3, 0, 4, []int{0, 1}}, {3, 4, 2, []int{2}}}},
		{"125 registers and one more", append(run(4, 125), point{function: 4, address: 125, size: 1}), 8, 125,
			[]block{{4, 0, 125, seq(125)}, {4, 125, 1, []int{125}}}},
		{"2000 coils and one more", append(run(1, 2000), point{function: 1, address: 2000, size: 1}), 8, 125,
			[]block{{1, 0, 2000, seq(2000)}, {1, 2000, 1, []int{2000}}}},
		{"coils with a gap of 128", []point{{function: 1, address: 0, size: 1}, {function: 1, address: 129, size: 1}, {function: 1, address: 259, size: 1}}, 8, 125,
			[]block{{1, 0, 130, []int{0, 1}}, {1, 259, 1, []int{2}}}},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, plan(c.points, c.maxGap, c.maxCount)) })
	}
}

func run(function byte, n int) (points []point) {
	for i := range n {
		points = append(points, point{function: function, address: i, size: 1})
	}
	return points
}

func seq(n int) (list []int) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

func TestDecode(t *testing.T) {
	nan := []uint16{0x7FC0, 0}
	for _, c := range []struct {
		name  string
		kind  string
		order string
		words string
		regs  []uint16
		want  float64
		err   error
	}{
		{"", "int16", "", "", []uint16{0x00D6}, 214, nil},
		{"", "int16", "", "", []uint16{0xFFFF}, -1, nil},
		{"", "int16", "", "", []uint16{0x8000}, -32768, nil},
		{"", "int16", "little", "", []uint16{0xD600}, 214, nil},
		{"", "uint16", "", "", []uint16{0xFFFF}, 65535, nil},
		{"", "int32", "", "", []uint16{0x0001, 0x0002}, 0x10002, nil},
		{"", "int32", "", "little", []uint16{0x0002, 0x0001}, 0x10002, nil},
		{"", "int32", "little", "big", []uint16{0x0100, 0x0200}, 0x10002, nil},
		{"", "int32", "little", "little", []uint16{0x0200, 0x0100}, 0x10002, nil},
		{"", "int32", "", "", []uint16{0xFFFF, 0xFFFE}, -2, nil},
		{"", "uint32", "", "", []uint16{0xFFFF, 0xFFFE}, 4294967294, nil},
		{"", "int64", "", "", []uint16{0xFFFF, 0xFFFF, 0xFFFF, 0xFFF6}, -10, nil},
		{"", "int64", "", "little", []uint16{10, 0, 0, 0}, 10, nil},
		{"2^53", "uint64", "", "", []uint16{0x0020, 0, 0, 0}, 1 << 53, nil},
		{"2^53+1", "uint64", "", "", []uint16{0x0020, 0, 0, 1}, 0, drivers.ErrValue},
		{"2^64-1", "uint64", "", "", []uint16{0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF}, 0, drivers.ErrValue},
		{"-2^53", "int64", "", "", []uint16{0xFFE0, 0, 0, 0}, -(1 << 53), nil},
		{"-2^53-1", "int64", "", "", []uint16{0xFFDF, 0xFFFF, 0xFFFF, 0xFFFF}, 0, drivers.ErrValue},
		{"-2^63", "int64", "", "", []uint16{0x8000, 0, 0, 0}, 0, drivers.ErrValue},
		{"21.4", "float32", "", "", []uint16{0x41AB, 0x3333}, 21.4, nil},
		{"", "float32", "little", "little", []uint16{0x3333, 0xAB41}, 21.4, nil},
		{"NaN", "float32", "", "", nan, 0, drivers.ErrValue},
		{"+Inf", "float32", "", "", []uint16{0x7F80, 0}, 0, drivers.ErrValue},
		{"-Inf", "float64", "", "", []uint16{0xFFF0, 0, 0, 0}, 0, drivers.ErrValue},
		{"NaN", "float64", "", "", []uint16{0x7FF8, 0, 0, 0}, 0, drivers.ErrValue},
		{"-1.5", "float64", "", "", []uint16{0xBFF8, 0, 0, 0}, -1.5, nil},
		{"1e300", "float64", "", "", []uint16{0x7E37, 0xE43C, 0x8800, 0x759C}, 0, drivers.ErrValue},
	} {
		t.Run(c.kind+" "+c.order+" "+c.words+" "+c.name, func(t *testing.T) {
			ch := channel("x", "holding", 2, c.kind)
			ch.Order, ch.Words = c.order, c.words
			v, err := decodeRegisters(t, ch, c.regs)
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.want, v)
		})
	}
	t.Run("bit", func(t *testing.T) {
		ch := channel("x", "input", 2, "")
		ch.Bit = ptr(4)
		v, err := decodeRegisters(t, ch, []uint16{0x0010})
		require.NoError(t, err)
		require.Equal(t, 1.0, v)
		v, err = decodeRegisters(t, ch, []uint16{0xFFEF})
		require.NoError(t, err)
		require.Equal(t, 0.0, v)
	})
	t.Run("bits, scaled", func(t *testing.T) {
		ch := channel("x", "input", 2, "")
		ch.Bits, ch.Scale, ch.Offset = []int{4, 7}, ptr(0.5), -1
		v, err := decodeRegisters(t, ch, []uint16{0xABCD})
		require.NoError(t, err)
		require.Equal(t, 0xC*0.5-1, v)
	})
	t.Run("all 16 bits", func(t *testing.T) {
		ch := channel("x", "input", 2, "")
		ch.Bits = []int{0, 15}
		v, err := decodeRegisters(t, ch, []uint16{0xABCD})
		require.NoError(t, err)
		require.Equal(t, float64(0xABCD), v)
	})
	t.Run("overflow by scaling", func(t *testing.T) {
		ch := channel("x", "input", 2, "uint32")
		ch.Scale = ptr(1e300)
		_, err := decodeRegisters(t, ch, []uint16{1, 1})
		require.ErrorIs(t, err, drivers.ErrValue)
	})
}

// decodeRegisters checks the channel and decodes it two registers into a reply.
func decodeRegisters(t *testing.T, c Channel, regs []uint16) (float64, error) {
	c.check(func(key string, bad any, want string) { t.Fatalf("%s %v: want %s", key, bad, want) }, 125)
	data := []byte{0xAA, 0xAA, 0xAA, 0xAA}
	for _, r := range append(regs, 0xAAAA) {
		data = append(data, byte(r>>8), byte(r))
	}
	return newPoint(c).decode(data, 2)
}

func TestScale(t *testing.T) {
	for _, c := range []struct{ raw, factor, want float64 }{
		{214, 0.1, 21.4},
		{103200, 0.001, 103.2},
		{3, 0.1, 0.3},
		{-7, 0.7, -4.9},
		{4095, 0.00322, 13.1859},
		{1, 1e-30, 1e-30},
		{9007199254740991, 0.001, 9007199254740.991},
		{5, -2, -10},
		{7, 2.5, 17.5},
		{100, 1e3, 1e5},
		{3, 1.0 / 3, 1},
	} {
		require.Equal(t, c.want, newScale(c.factor).times(c.raw), "%v × %v", c.raw, c.factor)
	}
}
