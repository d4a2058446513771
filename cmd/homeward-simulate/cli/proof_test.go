package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"homeward/agent/cloud/cloudtest"
	"homeward/agent/pack"
	"homeward/agent/status"
	"homeward/drivers"
	"homeward/drivers/all"
	"homeward/drivers/chip"
	"homeward/drivers/chip/chiptest"
	"homeward/drivers/sim"
	"homeward/drivers/sim/site"
	"homeward/drivers/sim/truth"
)

// The columns of the table: every kind of instrument has an entry for each of them.
const (
	unplugged   = "unplug"
	busGone     = "bus gone"
	renamed     = "another name"
	silent      = "silent"
	late        = "late"
	truncated   = "truncated"
	corrupt     = "corrupt"
	noise       = "noise"
	exception   = "exception"
	nack        = "nack"
	stuck       = "stuck"
	flip        = "flip"
	floatHigh   = "floats high"
	floatLow    = "floats low"
	lineFrozen  = "frozen line"
	brokerGone  = "broker gone"
	brokerStops = "broker frozen"
)

var proofFaults = []string{unplugged, busGone, renamed, silent, late, truncated, corrupt, noise, exception, nack, stuck, flip, floatHigh, floatLow, lineFrozen, brokerGone, brokerStops}

// acts is how a site's file has a fault; hard ones let no reading through.
var acts = map[string]struct {
	yaml string
	hard bool
}{
	unplugged: {"fault: unplug", true}, busGone: {"fault: unplug", true}, renamed: {"fault: rename", true}, silent: {"fault: silent", true},
	late: {"fault: late, delay: 700ms", false}, truncated: {"fault: truncated, bytes: 3", true}, corrupt: {"fault: corrupt", true}, noise: {"fault: noise", false},
	exception: {"fault: exception, code: 4", true}, nack: {"fault: nack", true}, stuck: {"fault: stuck, hold: 50ms", true}, flip: {"fault: flip, bit: 12", true},
	floatHigh: {"fault: float, level: 1", true}, floatLow: {"fault: float, level: 0", true}, lineFrozen: {"fault: frozen", true},
	brokerGone: {"fault: gone", false}, brokerStops: {"fault: frozen", false},
}

// The timeline: faults strike in slots, so that an instrument recovers from one before the next.
const (
	firstSlot   = 5 * time.Second
	slotLength  = 8 * time.Second
	faultLength = 2500 * time.Millisecond
	slots       = 4
	// The broker is away at the end of a slot, when the instruments are back.
	brokerAfter  = 4 * time.Second
	brokerLength = 3900 * time.Millisecond
)

// cell is one entry of the table: what has to be seen, or why there is nothing to see.
type cell struct {
	kind, fault string
	reason      string // why the pair makes no sense
	sensor, on  string
}

// proof is the site that the table is made on.
type proof struct {
	cells                []cell
	ports, tcp, i2c, spi strings.Builder
	w1, faults           strings.Builder
	skipped              []string // kinds without a driver
}

func has(driver string) bool {
	return slices.ContainsFunc(all.Factories, func(f drivers.Factory) bool { return f.Name == driver || slices.Contains(f.Aliases, driver) })
}

// no notes pairs that make no sense.
func (p *proof) no(kind, reason string, faults ...string) {
	for _, f := range faults {
		p.cells = append(p.cells, cell{kind: kind, fault: f, reason: reason})
	}
}

// strike lets a fault act on something in a slot, and expects it of a sensor.
func (p *proof) strike(kind, fault, sensor, on string, slot int) {
	p.cells = append(p.cells, cell{kind: kind, fault: fault, sensor: sensor, on: on})
	at, length := firstSlot+time.Duration(slot)*slotLength, faultLength
	if on == "broker" {
		at, length = at+brokerAfter, brokerLength
	}
	if line := fmt.Sprintf("  - {at: %v, for: %v, on: %s, %s}\n", at, length, on, acts[fault].yaml); !strings.Contains(p.faults.String(), line) {
		p.faults.WriteString(line) // a bus's fault is one for all on it
	}
}

const (
	noAddress   = "it has no address that could be not acknowledged"
	notOnChip   = "a chip has no frames of its own: what it says is clocked by the gateway"
	noException = "only Modbus refuses with a code"
	noPortName  = "only a serial port comes back under another name"
	noWire      = "a serial line is not clocked: what a held or floating line gives is noise, or silence"
	noChecksum  = "no checksum: a wrong bit is another value"
	ownBus      = "nothing else is on its line: pulled out is all that can be"
)

// speaker adds instruments that answer or talk on a line: one for each two faults or so.
func (p *proof) speaker(kind string, b *strings.Builder, body func(sensor string) string, order ...string) {
	for i, fault := range order {
		name := fmt.Sprintf("%s-%d", strings.ReplaceAll(kind, " ", "-"), i/slots)
		if i%slots == 0 {
			fmt.Fprintf(b, "  - name: port-%s\n%s", name, body(name))
		}
		on := name
		if fault == unplugged || fault == renamed || fault == lineFrozen {
			on = "port-" + name
		}
		p.strike(kind, fault, name, on, i%slots)
	}
	p.no(kind, noAddress, nack)
	p.no(kind, noWire, stuck, flip, floatHigh, floatLow)
	p.no(kind, ownBus, busGone)
}

// waveOf moves around a quantity's default.
func waveOf(q sim.Quantity, i int) string {
	if q.Default == 0 || q.Name == "quality" {
		return fmt.Sprint(q.Default)
	}
	amplitude := q.Default * 0.1
	if amplitude < 0 {
		amplitude = -amplitude
	}
	return fmt.Sprintf("{sine: {mean: %v, amplitude: %v, period: %ds}}", q.Default, amplitude, 17+i)
}

func values(qs []sim.Quantity) string {
	var all []string
	for i, q := range qs {
		all = append(all, fmt.Sprintf("%s: %s", q.Name, waveOf(q, i)))
	}
	return "{" + strings.Join(all, ", ") + "}"
}

func units(sensor string) string {
	return fmt.Sprintf(`    slaves:
      - sensor: %s
        unit_id: 1
        every: 1s
        timeout: 300ms
        channels:
          - {name: polls, register: holding, address: 0, type: uint16, value: {counter: 1}}
          - {name: flow, register: holding, address: 1, type: int16, scale: 0.1, unit: Cel, value: {sine: {mean: 62, amplitude: 8, period: 17s}}}
          - {name: return, register: holding, address: 2, type: int16, scale: 0.1, unit: Cel, value: {sine: {mean: -20, amplitude: 6, period: 19s}}}
          - {name: energy, register: input, address: 16, type: uint32, scale: 0.001, unit: kWh, value: {sawtooth: {low: 100, high: 4000, period: 60s}}}
          - {name: power, register: input, address: 20, type: float32, unit: W, value: {sine: {mean: 21000, amplitude: 9000, period: 23s}}}
          - {name: pump, register: coil, address: 3, value: {sawtooth: {low: 0, high: 1, period: 5s}}}
`, sensor)
}

// everyOf is how often a chip is read: the slow ones as often as they measure.
func everyOf(chip string) time.Duration {
	switch chip {
	case "ds18b20": // a conversion of 0.75 s
		return 2 * time.Second
	case "scd4x":
		return 5 * time.Second
	}
	return time.Second
}

// checked is whether all of a chip's answers to its driver bear a checksum. Where they do not, a wrong bit in one of them has to
// pass for a value: otherwise there is a checksum of another kind, and the table lacks an entry.
func checked(t *testing.T, c sim.ChipType) bool {
	f := all.Factories[slices.IndexFunc(all.Factories, func(f drivers.Factory) bool { return f.Name == c.Name || slices.Contains(f.Aliases, c.Name) })]
	read := func(on func(n int, r []byte)) error { // with what each of its transactions reads
		o := f.New(c.Name)
		options := reflect.ValueOf(o).Elem()
		options.FieldByName("BusName").SetString(sim.Prefix + "probe")
		options.FieldByName("Address").Set(reflect.ValueOf(new(int(c.Address))))
		_, err := chiptest.Read(t, o, 1, func(t *testing.T) drivers.Env {
			w := &sim.World{}
			bus := w.AddI2C("probe")
			require.NoError(t, bus.Add(c.Address, c.New(w, "probe", nil).(sim.I2CChip)))
			time.Sleep(time.Second) // it has long had its supply
			return drivers.Env{I2C: &chiptest.Tap{Bus: bus, On: func(n int, _, r []byte) { on(n, r) }}}
		})
		return err
	}
	bits, bare := map[int]int{}, false // by transaction
	require.NoError(t, read(func(n int, r []byte) {
		if len(r) > 0 {
			bits[n] = 8 * len(r)
			_, err := chip.Words(r)
			bare = bare || err != nil
		}
	}), c.Name)
	require.NotEmpty(t, bits, c.Name)
	passes := false
	for n, size := range bits {
		for bit := 0; bit < size && !passes; bit++ {
			passes = read(func(i int, r []byte) {
				if i == n {
					r[bit/8] ^= 0x80 >> (bit % 8)
				}
			}) == nil
		}
	}
	require.Equal(t, bare, passes, "%s: a wrong bit passes for a value where answers bear no checksum, and only there", c.Name)
	return !bare
}

// newProof makes the site from what the simulator can be.
func newProof(t *testing.T) *proof {
	p := &proof{}
	p.speaker("modbus rtu", &p.ports, units, unplugged, silent, truncated, noise, renamed, late, corrupt, exception)
	p.no("modbus rtu", "a serial line that passes nothing on is silent", lineFrozen)
	p.speaker("modbus tcp", &p.tcp, units, unplugged, silent, truncated, noise, lineFrozen, late, corrupt, exception)
	p.no("modbus tcp", noPortName, renamed)
	for _, kind := range []string{"nmea", "line"} { // and so are their drivers called
		require.True(t, has(kind), "the gateway has no driver %s", kind)
		body := func(sensor string) string {
			if kind == "line" {
				return fmt.Sprintf(`    line: 9600-8N1
    talker:
      sensor: %s
      every: 1s
      format: "W {weight:%%.2f} kg T {temp:%%.1f}"
      channels:
        - {name: weight, unit: kg, value: {sine: {mean: 120, amplitude: 80, period: 17s}}}
        - {name: temp, unit: Cel, value: {sine: {mean: 4, amplitude: 2, period: 19s}}}
`, sensor)
			}
			return fmt.Sprintf("    line: 9600-8N1\n    nmea:\n      sensor: %s\n      every: 1s\n      values: %s\n", sensor, values(sim.NMEAQuantities()))
		}
		p.speaker(kind, &p.ports, body, unplugged, silent, truncated, noise, renamed, late, corrupt)
		p.no(kind, noException, exception)
		p.no(kind, "a serial line that passes nothing on is silent", lineFrozen)
	}
	p.chips(t)
	for _, kind := range p.kinds() { // the broker is missed by all; the last one of a kind has the least of its own to recover from
		for i := len(p.cells) - 1; i >= 0; i-- {
			if c := p.cells[i]; c.kind == kind && c.sensor != "" {
				p.strike(kind, brokerGone, c.sensor, "broker", 1)
				p.strike(kind, brokerStops, c.sensor, "broker", 2)
				break
			}
		}
	}
	return p
}

// chips adds each type of chip: those on I2C a few to a bus, those on SPI one for each fault.
func (p *proof) chips(t *testing.T) {
	type bus struct {
		name  string
		taken map[uint16]bool
	}
	var buses []*bus
	const most = 3 // on a bus
	var sections []*strings.Builder
	add := func(c sim.ChipType, sensor string) (on string) {
		i := slices.IndexFunc(buses, func(b *bus) bool { return !b.taken[c.Address] && len(b.taken) < most })
		if i < 0 {
			i = len(buses)
			buses = append(buses, &bus{fmt.Sprintf("i2c-%d", i), map[uint16]bool{}})
			sections = append(sections, &strings.Builder{})
			fmt.Fprintf(sections[i], "  - name: i2c-%d\n    chips:\n", i)
		}
		buses[i].taken[c.Address] = true
		fmt.Fprintf(sections[i], "      - {sensor: %s, chip: %s, every: %v, values: %s}\n", sensor, c.Name, everyOf(c.Name), values(c.Quantities))
		return buses[i].name
	}
	spi := func(kind, body string) {
		for _, f := range []string{unplugged, floatHigh, floatLow} {
			if f == floatLow && strings.HasPrefix(kind, "mcp3") {
				p.no(kind, "all zeros are a right answer: 0 V", f)
				continue
			}
			name := strings.ReplaceAll(kind+" "+f, " ", "-")
			fmt.Fprintf(&p.spi, "  - {name: bus-%s, sensor: %s, %s}\n", name, name, body)
			p.strike(kind, f, name, "bus-"+name, 0)
		}
		p.no(kind, "an SPI chip acknowledges nothing, and holds no line", nack, stuck)
		p.no(kind, noChecksum, flip)
		p.no(kind, "an SPI device is a bus of its own: pulled out is all that can be", busGone)
	}
	chip := func(kind string) {
		p.no(kind, notOnChip, silent, late, truncated, corrupt, noise)
		p.no(kind, noException, exception)
		p.no(kind, noPortName, renamed)
		p.no(kind, "its bus is on the board", lineFrozen)
	}
	for _, c := range sim.ChipTypes() {
		if !has(c.Name) {
			p.skipped = append(p.skipped, c.Name)
			continue
		}
		made := c.New(&sim.World{}, "probe", nil)
		if _, ok := made.(sim.I2CChip); ok {
			kind, bears := c.Name+" i2c", checked(t, c)
			sensor, on := c.Name, ""
			for slot, fault := range []string{busGone, nack, stuck, unplugged, flip} {
				if fault == flip && !bears {
					p.no(kind, noChecksum, flip)
					continue
				}
				if slow := everyOf(c.Name) > time.Second; slot == 0 || slow || fault == flip {
					sensor = fmt.Sprintf("%s-%d", c.Name, slot) // a slow one has not recovered in time for the next fault
					if slow {
						slot = 0
					}
					on = add(c, sensor)
				}
				if fault != busGone {
					on = sensor
				}
				p.strike(kind, fault, sensor, on, slot%slots)
			}
			p.no(kind, "an I2C line that nothing drives is not acknowledged: nack", floatHigh, floatLow)
			chip(kind)
		}
		if _, ok := made.(sim.SPIChip); ok {
			kind := c.Name + " spi"
			spi(kind, fmt.Sprintf("chip: %s, every: 1s, values: %s", c.Name, values(c.Quantities)))
			chip(kind)
		}
		if _, ok := made.(sim.W1Chip); ok {
			kind := c.Name + " w1"
			for slot, fault := range []string{busGone, nack, stuck, unplugged, flip} {
				sensor := fmt.Sprintf("%s-w1-%d", c.Name, slot)
				fmt.Fprintf(&p.w1, "  - {name: bus-%s, devices: [{sensor: %s, chip: %s, every: %v, values: %s}]}\n", sensor, sensor, c.Name, everyOf(c.Name), values(c.Quantities))
				on := sensor
				if fault == busGone {
					on = "bus-" + sensor
				}
				p.strike(kind, fault, sensor, on, slot%slots)
			}
			p.no(kind, "a 1-Wire line that nothing drives is pulled up, and nobody is present: nack", floatHigh)
			p.no(kind, "a 1-Wire line that is held low is stuck", floatLow)
			chip(kind)
		}
		_, i2c := made.(sim.I2CChip)
		_, isSPI := made.(sim.SPIChip)
		_, w1 := made.(sim.W1Chip)
		require.True(t, i2c || isSPI || w1, "%s: a kind of chip that the table has no place for", c.Name)
	}
	for _, c := range []string{"mcp3008", "mcp3208"} {
		spi(c, fmt.Sprintf("chip: %s, vref: 3.3, every: 1s, channels: [{name: level, input: 0, value: {sine: {mean: 1.6, amplitude: 1.3, period: 17s}}}, {name: supply, input: 5, value: {sine: {mean: 2.4, amplitude: 0.05, period: 7s}}}]", c))
		chip(c)
	}
	for _, s := range sections {
		p.i2c.WriteString(s.String())
	}
}

// kinds are those of the table, in its order.
func (p *proof) kinds() (all []string) {
	for _, c := range p.cells {
		if !slices.Contains(all, c.kind) {
			all = append(all, c.kind)
		}
	}
	return all
}

func (p *proof) yaml() string {
	return "gateway: {id: proof, organization: acme, project: proof, product: gateway}\nports:\n" + p.ports.String() + "tcp:\n" + p.tcp.String() +
		"i2c:\n" + p.i2c.String() + "spi:\n" + p.spi.String() + "w1:\n" + p.w1.String() + "faults:\n" + p.faults.String()
}

// receiver is whoever reads the broker.
type receiver struct {
	mu       sync.Mutex
	payloads bytes.Buffer // one a line
	arrived  []pack.Reading
	err      error
}

func (r *receiver) take(payload []byte) {
	p, err := pack.Decode(payload)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, err)
	r.payloads.Write(append(payload, '\n'))
	r.arrived = append(r.arrived, p.Readings...)
}

// distinct is how many readings there are.
func (r *receiver) distinct() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[uint64]bool{}
	for _, x := range r.arrived {
		seen[x.Seq] = true
	}
	return uint64(len(seen))
}

const proofTopics = "homeward/acme/proof/proof"

// broker lets the site have Debian's Mosquitto where it is installed, behind the site's own door; the simulator's own elsewhere.
func (r *receiver) broker(t *testing.T) func(net.Listener) (io.Closer, error) {
	if _, err := exec.LookPath("mosquitto"); err != nil {
		t.Log("the broker: the simulator's own, as Mosquitto is not installed")
		got := func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) { r.take(p.Payload) }
		return func(l net.Listener) (io.Closer, error) {
			return serveBroker(l, func(b *mochi.Server) error {
				return errors.Join(b.Subscribe(proofTopics+"/readings", 1, got), b.Subscribe(proofTopics+"/alarms", 2, got))
			})
		}
	}
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	client := paho.NewClient(paho.NewClientOptions().AddBroker(strings.Replace(m.URL, "mqtt://", "tcp://", 1)).SetClientID("proof"))
	connected := client.Connect()
	require.True(t, connected.WaitTimeout(10*time.Second))
	require.NoError(t, connected.Error())
	t.Cleanup(func() { client.Disconnect(0) })
	subscribed := client.SubscribeMultiple(map[string]byte{proofTopics + "/readings": 1, proofTopics + "/alarms": 1}, func(_ paho.Client, m paho.Message) { r.take(m.Payload()) })
	require.True(t, subscribed.WaitTimeout(10*time.Second))
	require.NoError(t, subscribed.Error())
	return func(l net.Listener) (io.Closer, error) { return passOn(l, fmt.Sprintf("localhost:%d", m.Port)), nil }
}

// passing takes connections and passes them on to a server.
type passing struct {
	l    net.Listener
	work sync.WaitGroup
}

func passOn(l net.Listener, to string) io.Closer {
	p := &passing{l: l}
	p.work.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			p.work.Go(func() {
				defer from.Close()
				server, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer server.Close()
				var both sync.WaitGroup
				for _, x := range [][2]net.Conn{{from, server}, {server, from}} {
					both.Go(func() {
						_, _ = io.Copy(x[0], x[1])
						from.Close()
						server.Close()
					})
				}
				both.Wait()
			})
		}
	})
	return p
}

// Close ends all connections, which the listener knows.
func (p *passing) Close() error {
	err := p.l.Close()
	p.work.Wait()
	return err
}

// round runs the site and a gateway once.
type round struct {
	report  *truth.Report
	arrived []pack.Reading
	last    status.Status
}

func (p *proof) round(t *testing.T, program string) round {
	// A unix socket's path is short.
	dir, err := os.MkdirTemp("", "proof-")
	require.NoError(t, err)
	defer func() {
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	}()
	parsed, err := site.Parse("proof.yaml", []byte(p.yaml()))
	require.NoError(t, err, "%s", p.yaml())
	truthFile := filepath.Join(dir, "truth.jsonl")
	told, err := os.Create(truthFile)
	require.NoError(t, err)
	defer told.Close()
	got := &receiver{}
	running, err := parsed.Open(site.Options{Dir: dir, Truth: told, Broker: got.broker(t), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer running.Close()
	state, config := filepath.Join(dir, "state"), filepath.Join(dir, "homeward.yaml")
	configure := func(disabled bool) {
		require.NoError(t, os.WriteFile(config, []byte(running.Config(state, disabled)+
			"publish: {max_age: 2s}\noperations: {per_month: 4000000}\nbuffer: {max_bytes: 64MB, keep_free: 0, flush: 1s}\nstatus: {listen: \"127.0.0.1:0\"}\n"), 0o600))
	}
	configure(false)
	log := filepath.Join(dir, "homeward.log")
	gw, err := startGateway(program, config, state, log, running.Socket())
	require.NoError(t, err)
	defer gw.stop(stopBound)

	until := func(what string, bound time.Duration, ok func(status.Status) bool) status.Status {
		v, err := gw.until(context.Background(), bound, ok)
		var states []string
		for _, s := range v.Sensors {
			if s.State != "ok" {
				states = append(states, fmt.Sprintf("%s %s: %s", s.Name, s.State, s.LastError))
			}
		}
		require.NoError(t, err, "%s\n%s\nleft in %s; the end of the log:\n%s", what, strings.Join(states, "\n"), dir, tail(log, 20))
		return v
	}
	states := func(state string) func(status.Status) bool {
		return func(v status.Status) bool {
			return len(v.Sensors) > 0 && !slices.ContainsFunc(v.Sensors, func(s status.Sensor) bool { return s.State != state })
		}
	}
	until("every instrument is read", 30*time.Second, states("ok"))
	ctx, cancel := context.WithCancel(context.Background())
	var playing sync.WaitGroup
	playing.Go(func() {
		if err := running.Run(ctx); err != nil {
			t.Errorf("the timeline: %v", err)
		}
	})
	defer playing.Wait()
	defer cancel()
	time.Sleep(firstSlot + (slots-1)*slotLength + faultLength + time.Second)
	until("every instrument recovers", 2*time.Minute, states("ok"))
	time.Sleep(2500 * time.Millisecond) // and is read once or twice more
	configure(true)
	require.NoError(t, gw.signal(syscall.SIGHUP))
	until("every instrument is at rest", startBound, states("disabled"))
	last := until("the backlog drains", time.Minute, func(v status.Status) bool { return v.Buffer.Pending == 0 && v.Publish.InFlight == 0 })
	require.NoError(t, gw.stop(stopBound))
	for end := time.Now().Add(5 * time.Second); got.distinct() < sampled(last) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	playing.Wait()
	require.NoError(t, running.Close())
	require.NoError(t, got.err)
	require.Equal(t, sampled(last), got.distinct(), "what was recorded arrived")

	decode := exec.Command(program, "decode")
	decode.Stdin = &got.payloads
	decode.Stderr = os.Stderr
	arrived, err := decode.Output()
	require.NoError(t, err)
	what, err := os.Open(truthFile)
	require.NoError(t, err)
	defer what.Close()
	report, err := truth.Verify(what, bytes.NewReader(arrived), truth.Options{Allowance: time.Second})
	require.NoError(t, err)
	if !report.OK() {
		var text strings.Builder
		require.NoError(t, printReport(&text, report))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "arrived.jsonl"), arrived, 0o600))
		t.Errorf("left in %s\n%s", dir, &text)
	}
	return round{report, got.arrived, last}
}

// during is how many readings of a sensor were taken in a time.
func (r *round) during(sensor string, from, to int64) int {
	seen := map[uint64]bool{}
	for _, x := range r.arrived {
		if strings.HasPrefix(x.Channel, sensor+"/") && x.TimeMS >= from && x.TimeMS < to {
			seen[x.Seq] = true
		}
	}
	return len(seen)
}

// TestProof: each fault on each kind of instrument, with the real gateway and a real broker: no reading is wrong, misnamed, repeated
// or lost without a gap record, no silence is unexplained, and every instrument comes back by itself. The table is
// what was measured; a pair that makes no sense stands in it with the reason.
func TestProof(t *testing.T) {
	if testing.Short() {
		t.Skip("the table of faults takes a minute")
	}
	program := built(t)
	t.Cleanup(func() { goleak.VerifyNone(t) })
	p := newProof(t)
	rounds := 1
	if os.Getenv("HOMEWARD_CAMPAIGN") == "1" {
		rounds = 10
	}
	recovered := map[int][]time.Duration{} // by cell
	meanwhile := map[int][]int{}
	for n := range rounds {
		var r round
		t.Run(fmt.Sprintf("round %d", n+1), func(t *testing.T) { r = p.round(t, program) })
		if r.report == nil {
			return // and that has been said
		}
		for i, c := range p.cells {
			if c.reason != "" {
				continue
			}
			act, _, _ := strings.Cut(strings.TrimPrefix(acts[c.fault].yaml, "fault: "), ",")
			at := slices.IndexFunc(r.report.Recovered, func(x truth.Recovery) bool {
				return x.On == c.on && x.Fault == act && (x.Sensor == c.sensor || x.Sensor == "" && c.on == "broker")
			})
			require.GreaterOrEqual(t, at, 0, "%s, %s: did not strike", c.kind, c.fault)
			x := r.report.Recovered[at]
			require.NotZero(t, x.EndMS, "%s, %s: did not end", c.kind, c.fault)
			n := r.during(c.sensor, x.BeginMS+500, x.EndMS-500) // a reply may be on its way
			meanwhile[i] = append(meanwhile[i], n)
			if c.on == "broker" {
				chip, _, _ := strings.Cut(c.kind, " ")
				if n == 0 && everyOf(chip) < brokerLength-time.Second {
					t.Errorf("%s, %s: no reading was taken while the broker was away", c.kind, c.fault)
				}
				continue
			}
			if acts[c.fault].hard && n > 0 {
				t.Errorf("%s, %s: %d readings were taken during it", c.kind, c.fault, n)
			}
			if x.AfterMS == nil {
				t.Errorf("%s, %s: %s did not come back", c.kind, c.fault, c.sensor)
				continue
			}
			recovered[i] = append(recovered[i], time.Duration(*x.AfterMS)*time.Millisecond)
		}
		t.Logf("%d values served, %d readings arrived, %d identical repeats, %d polls failed", r.report.Served, r.report.Readings, r.report.Repeats, failures(r.last))
	}
	p.table(t, recovered, meanwhile)
}

func failures(v status.Status) (n uint64) {
	for _, s := range v.Sensors {
		n += s.Errors
	}
	return n
}

// table prints what was seen, and sees that no pair is missing.
func (p *proof) table(t *testing.T, recovered map[int][]time.Duration, meanwhile map[int][]int) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s | %-14s | recovery\n", "instrument", "fault")
	for _, kind := range p.kinds() {
		for _, fault := range proofFaults {
			n := 0
			for i, c := range p.cells {
				if c.kind != kind || c.fault != fault {
					continue
				}
				n++
				what := "makes no sense: " + c.reason
				switch {
				case len(recovered[i]) == 1:
					what = recovered[i][0].String()
				case len(recovered[i]) > 1:
					what = fmt.Sprintf("%v to %v in %d rounds", slices.Min(recovered[i]), slices.Max(recovered[i]), len(recovered[i]))
				case c.on == "broker":
					what = fmt.Sprintf("needs none: %d readings taken meanwhile", slices.Min(meanwhile[i]))
				case c.reason == "":
					what = "none"
				}
				fmt.Fprintf(&b, "%-14s | %-14s | %s\n", kind, fault, what)
			}
			if n != 1 {
				t.Errorf("%s, %s: stands in the table %d times: want once", kind, fault, n)
			}
		}
	}
	for _, kind := range p.skipped {
		fmt.Fprintf(&b, "%-14s | the gateway has no driver for it\n", kind)
	}
	t.Logf("the table\n%s", &b)
}
