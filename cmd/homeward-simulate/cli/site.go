package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	broker "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"homeward/drivers"
	"homeward/drivers/sim"
)

const (
	gatewayID = "demo-gateway"
	topics    = "homeward/demo/boiler-house/" + gatewayID // B of the home's topics
)

// register is one holding register of the boiler.
type register struct {
	name, kind, unit string
	scale            float64
	wave             func(time.Time) float64 // in unit; nil: the counter of polls
}

var registers = []register{
	{"polls", "uint16", "", 1, nil},
	{"flow-temperature", "int16", "Cel", 0.1, sim.Sine(62, 8, 90*time.Second)},
	{"return-temperature", "int16", "Cel", 0.1, sim.Sine(47, 6, 70*time.Second)},
	{"outside-temperature", "int16", "Cel", 0.1, sim.Sine(-3, 5, 10*time.Minute)},
	{"flow", "uint16", "l/s", 0.001, sim.Sine(0.8, 0.3, 45*time.Second)},
	{"pressure", "uint16", "Pa", 100, sim.Sine(180e3, 20e3, 2*time.Minute)},
	{"power", "uint16", "W", 10, sim.Sine(21e3, 9e3, 80*time.Second)},
	{"pump", "uint16", "1/min", 1, sim.Sine(2200, 400, 30*time.Second)},
	{"valve", "uint16", "/", 0.001, sim.Sawtooth(0, 1, 25*time.Second)},
	{"energy", "uint16", "kWh", 0.1, sim.Sawtooth(0, 6000, 24*time.Hour)},
}

const (
	unitID     = 1
	serialLine = "19200-8E1"
	bmeAddress = 0x76
	adcVref    = 3.3
	tankInput  = 0
	supplyIn   = 5
)

// site is the simulated site: instruments, clock and broker. close ends it.
type site struct {
	socket string // for $HOMEWARD_SIM
	broker string // host:port
	acc    *account

	world  *sim.World
	line   *sim.SerialLine
	tank   *sim.SPIDevice
	mqtt   *broker.Server
	cancel context.CancelFunc
	done   sync.WaitGroup
	once   sync.Once
}

// channels are all of the site's.
func (s *site) channels() (all []string) {
	for _, r := range registers {
		all = append(all, "boiler/"+r.name)
	}
	return append(all, "cellar/temperature", "cellar/humidity", "cellar/pressure", "tank/level", "tank/supply")
}

// tolerances are what rounding may do. The BME280's integer formulas give 0.01 °C, 1/256 Pa and 1/1024 %RH, and differ a
// little from the floating-point ones that the simulator uses.
var tolerances = map[string]float64{"cellar/temperature": 0.02, "cellar/humidity": 0.05, "cellar/pressure": 1}

// openSite starts everything; dir is for its socket and links.
func openSite(dir string, log *slog.Logger) (*site, error) {
	s := &site{socket: filepath.Join(dir, "sim.sock"), acc: newAccount(tolerances)}
	s.world = &sim.World{Log: log, Served: s.served}
	s.world.SetClock(true, 0)

	line, err := drivers.ParseLine(serialLine)
	if err != nil {
		return nil, err
	}
	slave, regs := new(sim.Modbus), new(sim.ModbusMap)
	regs.SetFunc(sim.Holding, 0, len(registers), s.boiler())
	slave.AddSlave(unitID, regs)
	if s.line, err = sim.NewSerialLine(filepath.Join(dir, "ports", "rs485"), line, slave, log); err != nil {
		return nil, err
	}
	s.world.AddSerial("rs485", s.line)

	climate := sim.NewBME280(s.world, "cellar", sim.Environment{
		Temperature: sim.Sine(12, 3, 5*time.Minute), Humidity: sim.Sine(70, 15, 3*time.Minute), Pressure: sim.Sine(101325, 800, 20*time.Minute),
	})
	if err := s.world.AddI2C("i2c-1").Add(bmeAddress, climate); err != nil {
		return nil, errors.Join(err, s.line.Close())
	}
	s.tank = s.world.AddSPI("spi0.0", sim.NewMCP3008(s.world, "tank", adcVref, [8]func(time.Time) float64{
		tankInput: sim.Sine(1.6, 1.35, time.Minute), supplyIn: sim.Sine(2.4, 0.05, 7*time.Second),
	}))

	if err := s.startBroker(); err != nil {
		return nil, errors.Join(err, s.line.Close())
	}
	socket, err := sim.Listen(s.socket)
	if err != nil {
		return nil, errors.Join(err, s.mqtt.Close(), s.line.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.done.Go(func() {
		if err := s.world.ServeListener(ctx, socket); err != nil {
			log.Error("simulator stopped", "error", err)
		}
	})
	return s, nil
}

func (s *site) startBroker() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	s.broker = l.Addr().String()
	s.mqtt = broker.New(&broker.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	got := func(_ *broker.Client, _ packets.Subscription, p packets.Packet) { s.acc.receive(p.Payload) }
	err = errors.Join(
		s.mqtt.AddHook(new(auth.AllowHook), nil),
		s.mqtt.AddListener(listeners.NewNet("demo", l)),
		s.mqtt.Subscribe(topics+"/readings", 1, got),
		s.mqtt.Subscribe(topics+"/alarms", 2, got),
	)
	if err == nil {
		err = s.mqtt.Serve()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("broker: %w", err), s.mqtt.Close())
	}
	return nil
}

// boiler gives the registers, once per request.
func (s *site) boiler() func() []uint16 {
	polls := uint16(0)
	return func() []uint16 { // called under the map's lock
		now := time.Now()
		values := make([]uint16, len(registers))
		for i, r := range registers {
			if r.wave == nil {
				polls++
				values[i] = polls
			} else {
				values[i] = uint16(int(math.Round(r.wave(now) / r.scale)))
			}
			raw := float64(values[i])
			if r.kind == "int16" {
				raw = float64(int16(values[i]))
			}
			s.acc.serve("boiler/"+r.name, raw*r.scale, now)
		}
		return values
	}
}

// served takes what the chips hand out.
func (s *site) served(channel string, raw any, at time.Time) {
	switch v := raw.(type) {
	case float64:
		s.acc.serve(channel, v, at)
	case int: // the converter's code
		name := map[string]string{fmt.Sprintf("tank/%d", tankInput): "tank/level", fmt.Sprintf("tank/%d", supplyIn): "tank/supply"}[channel]
		s.acc.serve(name, float64(v)*adcScale, at)
	}
}

// adcScale is volts per code.
const adcScale = adcVref / 1024

// config is the gateway's configuration on this site.
func (s *site) config(state, listen string, disabled bool) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	off := ""
	if disabled {
		off = ", disabled: true"
	}
	p("# Written by homeward-simulate demo.")
	p("gateway: %s", gatewayID)
	p("state: %q", state)
	p("home:")
	p("  cloud: mqtt")
	p("  organization: demo")
	p("  project: boiler-house")
	p("  product: demo")
	p("  url: mqtt://%s", s.broker)
	p("sensors:")
	p("  - name: boiler")
	p("    driver: modbus")
	p("    port: sim:rs485")
	p("    line: %s", serialLine)
	p("    unit_id: %d", unitID)
	p("    every: 1s")
	p("    timeout: 500ms")
	p("    disabled: %t", disabled)
	p("    channels:")
	for i, r := range registers {
		p("      - {name: %s, register: holding, address: %d, type: %s, scale: %v, unit: %q}", r.name, i, r.kind, r.scale, r.unit)
	}
	p("  - {name: cellar, driver: bme280, bus: sim:i2c-1, address: 0x%02x, every: 1s%s}", bmeAddress, off)
	p("  - name: tank")
	p("    driver: mcp3008")
	p("    bus: sim:spi0.0")
	p("    every: 500ms")
	p("    disabled: %t", disabled)
	p("    channels:")
	p("      - {name: level, input: %d, scale: %v, unit: V}", tankInput, adcScale)
	p("      - {name: supply, input: %d, scale: %v, unit: V}", supplyIn, adcScale)
	p("publish:")
	p("  format: rows")
	p("  max_bytes: 1024")
	p("  max_age: 2s")
	p("  alarms:")
	p("    - {channel: tank/level, above: 2.9}")
	p("operations: {per_month: 2000000}")
	p("buffer: {max_bytes: 64MB, keep_free: 0, flush: 1s}")
	p("status: {listen: %q}", listen)
	return b.String()
}

// close ends everything and waits for it.
func (s *site) close() {
	s.once.Do(func() {
		s.cancel()
		_ = s.mqtt.Close()
		_ = s.line.Close()
		s.done.Wait()
	})
}
