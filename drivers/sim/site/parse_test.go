package site

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/configs/plainyaml"
)

// whole has one of everything.
const whole = `gateway: {id: gw-1, organization: acme, project: cold, product: box}
broker: {listen: "127.0.0.1:0"}
clock: {trusted: false, offset: -1h}
ports:
  - name: rs485
    line: 9600-8N1
    delay: 1ms
    slaves:
      - sensor: boiler
        unit_id: 1
        every: 1s
        timeout: 300ms
        channels:
          - {name: flow, register: holding, address: 0, type: int16, scale: 0.1, unit: Cel, value: {sine: {mean: 62, amplitude: 8, period: 90s}}}
          - {name: level, register: input, address: 2, type: float32, order: little, words: little, offset: -1, value: {sawtooth: {low: 0, high: 5, period: 1m}}}
          - {name: pump, register: coil, address: 3, value: 1}
      - sensor: meter
        unit_id: 2
        every: 2s
        channels: [{name: energy, register: holding, address: 0, type: uint32, scale: 0.001, unit: kWh, value: {counter: 0.25}}]
i2c:
  - name: i2c-1
    chips:
      - {sensor: cellar, chip: bme280, every: 1s, values: {temperature: 12.5, humidity: {sine: {mean: 50, amplitude: 5, period: 1h}}}}
      - {sensor: attic, chip: bmp280, address: 0x77, every: 1s}
spi:
  - {name: spi0.0, sensor: tank, chip: mcp3008, vref: 3.3, every: 500ms, channels: [{name: level, input: 0, value: 1.5}]}
  - {name: spi0.1, sensor: shed, chip: bme280, every: 1s}
faults:
  - {at: 1s, for: 2s, on: rs485, fault: unplug}
  - {at: 4s, on: boiler, fault: late, delay: 700ms}
  - {at: 4s, for: 1s, on: meter, fault: noise, bytes: "00 ff"}
  - {at: 5s, for: 1s, on: i2c-1, fault: stuck, hold: 50ms}
  - {at: 5s, for: 1s, on: tank, fault: float, level: 0}
  - {at: 6s, on: attic, fault: nack}
  - {at: 6s, for: 1s, on: broker, fault: gone}
  - {at: 7s, for: 1s, on: broker, fault: frozen}
  - {at: 8s, fault: clock-jump, offset: 1h, trusted: true}
  - {at: 9s, on: rs485, fault: rename}
`

func TestParse(t *testing.T) {
	s, err := Parse("whole.yaml", []byte(whole))
	require.NoError(t, err)
	require.Equal(t, GatewayNames{"gw-1", "acme", "cold", "box"}, s.Gateway)
	require.Equal(t, []string{"boiler/flow", "boiler/level", "boiler/pump", "meter/energy", "cellar/temperature", "cellar/humidity", "cellar/pressure",
		"attic/temperature", "attic/pressure", "tank/level", "shed/temperature", "shed/humidity", "shed/pressure"}, s.Channels())
	require.Equal(t, -time.Hour, s.offset)
	require.False(t, s.trusted)
	require.Len(t, s.faults, 10)
	require.Equal(t, 700*time.Millisecond, s.faults[1].modbus.Late)
	require.Equal(t, []byte{0, 0xff}, s.faults[2].modbus.Noise)
	require.Len(t, s.faults[3].target.sensors, 2, "a bus's fault concerns all that sit on it")
	require.Equal(t, uint16(0x76), s.i2c[0].chips[0].address, "the chip's own")
	level := s.Tolerances()["boiler/level"]
	require.InDelta(t, 0, level, 1e-14, "a last bit of what has an offset")
	require.Equal(t, map[string]float64{"boiler/level": level, "cellar/temperature": 0.02, "cellar/humidity": 0.05, "cellar/pressure": 1, "attic/temperature": 0.02, "attic/pressure": 1,
		"shed/temperature": 0.02, "shed/humidity": 0.05, "shed/pressure": 1}, s.Tolerances())
}

// TestMistakes changes one thing in a right file; what is said names the place, the value and what would be right.
func TestMistakes(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"broker:", "brokers:", `site.yaml:2:1: brokers: unknown key: want broker`},
		{"broker: {listen: \"127.0.0.1:0\"}", "weather: fine", `site.yaml:2:1: weather: unknown key: want one of gateway, broker, clock, ports`},
		{"id: gw-1", "id: Gateway", `site.yaml:1:15: gateway.id: "Gateway": want 1 to 64 of a-z 0-9 . _ -`},
		{"organization: acme", "organization: a/b", `gateway.organization: "a/b": want a name of 1 to 64 characters`},
		{`"127.0.0.1:0"`, `"127.0.0.1"`, `broker.listen: "127.0.0.1": want HOST:PORT`},
		{"trusted: false", "trusted: maybe", `site.yaml:3:18: clock.trusted: "maybe": want true or false`},
		{"offset: -1h", "offset: 1", `clock.offset: "1": want a time from`},
		{"name: rs485", "name: ../rs485", `site.yaml:5:11: ports[0].name: "../rs485": want 1 to 32 of a-z`},
		{"name: i2c-1", "name: rs485", `i2c[0].name: "rs485": want a name of its own: a serial port with Modbus units on line 5 has it already`},
		{"sensor: cellar", "sensor: boiler", `i2c[0].chips[0].sensor: "boiler": want a name of its own: a Modbus unit on a serial port on line 9 has it already`},
		{"sensor: cellar", "sensor: broker", `i2c[0].chips[0].sensor: "broker": want another name: this one is the broker's`},
		{"9600-8N1", "9600-7E1", `ports[0].line: "9600-7E1": want baud rate, 8 data bits`},
		{"unit_id: 2", "unit_id: 1", `ports[0].slaves[1].unit_id: "1": want a unit of its own: line 10 has it already`},
		{"unit_id: 2", "unit_id: 248", `ports[0].slaves[1].unit_id: "248": want a whole number from 1 to 247`},
		{"unit_id: 2", "unitid: 2", `ports[0].slaves[1].unitid: unknown key: want unit_id`},
		{"        unit_id: 2\n", "", `ports[0].slaves[1].unit_id: missing: want a whole number from 1 to 247`},
		{"every: 2s", "every: 2", `ports[0].slaves[1].every: "2": want a time from 10ms to 24h0m0s, such as 500ms`},
		{"        every: 2s\n", "", `ports[0].slaves[1].every: missing: want a time`},
		{"timeout: 300ms", "timeout: [1]", `ports[0].slaves[0].timeout: a list: want a time`},
		{"register: input", "register: imput", `channels[1].register: "imput": want holding, input, coil or discrete; did you mean input?`},
		{"type: float32", "type: real", `channels[1].type: "real": want int16, uint16,`},
		{"type: float32, ", "", `channels[1].type: missing: want int16, uint16,`},
		{"address: 2,", "address: 65535,", `channels[1].address: "65535": want at most 65534, as float32 takes 2 registers`},
		{"register: input, address: 2", "register: holding, address: 0", `channels[1].address: "0": want registers of its own: the channel on line 14 has holding 0`},
		{"scale: 0.1", "scale: 0", `channels[0].scale: "0": want a number other than 0`},
		{"scale: 0.1", "scale: .inf", `channels[0].scale: ".inf": want a number`},
		{"order: little", "order: middle", `channels[1].order: "middle": want big or little`},
		{"{name: pump, register: coil,", "{name: pump, register: coil, scale: 2,", `channels[2].scale: "2": want no scale: a coil is one bit`},
		{"address: 3, value: 1", "address: 3, value: 2", `channels[2].value: from 2 to 2: want 0 to 1`},
		{"{name: level, register", "{name: flow, register", `channels[1].name: "flow": want a name of its own: line 14 has it already`},
		{"unit: Cel", "unit: [Cel]", `channels[0].unit: a list: want a SenML unit`},
		{"mean: 62", "mean: 6200", `channels[0].value: from 6192 to 6208: want -3276.8 to 3276.7, which is what int16 holds with scale 0.1 and offset 0`},
		{"mean: 62", "mean: warm", `channels[0].value.sine.mean: "warm": want a number`},
		{"mean: 62", "median: 62", `channels[0].value.sine.median: unknown key: want mean`},
		{"period: 90s", "period: 0s", `channels[0].value.sine.period: "0s": want a time from 1ms`},
		{"low: 0, high: 5", "low: 6, high: 5", `channels[1].value.sawtooth.high: "5": want not less than low`},
		{"value: {counter: 0.25}", "value: {counter: 0}", `value.counter: "0": want a step above 0`},
		{"value: {counter: 0.25}", "value: {counter: 1, sine: {}}", `value: several forms at once: want a number, {sine:`},
		{"value: {counter: 0.25}", "value: {}", `value: no form: want a number, {sine:`},
		{"value: {counter: 0.25}", "value: noise", `value: "noise": want a number, {sine:`},
		{"value: {counter: 0.25}", "value: {cosine: 1}", `value.cosine: unknown key: want sine`},
		{", value: {counter: 0.25}", "", `value: missing: want a number or a form`},
		{"value: {counter: 0.25}", "value: {trace: {file: none.csv, channel: a}}", `value.trace.file: "none.csv": file does not exist`},
		{"value: {counter: 0.25}", "value: {trace: {file: t.csv, channel: c}}", `value.trace.channel: "c": want one of the file's: a, b`},
		{"value: {counter: 0.25}", "value: {trace: {file: t.csv, channel: a, speed: 0}}", `value.trace.speed: "0": want a number above 0`},
		{"value: {counter: 0.25}", "value: {trace: {file: bad.csv, channel: a}}", `value.trace.file: "bad.csv": line 3: value "x": want a number`},
		{"chip: bmp280", "chip: bmp281", `i2c[0].chips[1].chip: "bmp281": want `},
		{"chip: bmp280", "chip: mcp3008", `i2c[0].chips[1].chip: "mcp3008": want `},
		{"address: 0x77", "address: 0x76", `i2c[0].chips[1].address: "0x76": want an address of its own: the chip on line 24 has 0x76`},
		{"address: 0x77", "address: 0x78", `i2c[0].chips[1].address: "0x78": want a whole number from 8 to 119`},
		{"{temperature: 12.5", "{temp: 12.5", `i2c[0].chips[0].values.temp: unknown key: want one of temperature, humidity, pressure`},
		{"vref: 3.3", "vref: -1", `spi[0].vref: "-1": want the reference voltage, above 0`},
		{"vref: 3.3, ", "", `spi[0].vref: missing: want a number`},
		{"input: 0, value: 1.5", "input: 8, value: 1.5", `spi[0].channels[0].input: "8": want a whole number from 0 to 7`},
		{"input: 0, value: 1.5", "input: 0, value: 3.5", `spi[0].channels[0].value: from 3.5 to 3.5: want 0 to 3.3 V`},
		{"{name: spi0.1, ", "{name: spi0.1, vref: 3, ", `spi[1].vref: given: want no vref: bme280 has none`},
		{"on: rs485, fault: unplug", "on: rs484, fault: unplug", `faults[0].on: "rs484": want rs485`},
		{"on: rs485, fault: unplug", "on: rs485, fault: explode", `faults[0].fault: "explode": want unplug, rename,`},
		{"on: rs485, fault: unplug", "fault: unplug", `faults[0].on: missing: want the name of a sensor, port or bus, broker or clock`},
		{"{at: 1s, for: 2s, on: rs485", "{for: 2s, on: rs485", `faults[0].at: missing: want a time from 0s`},
		{"for: 2s", "for: 0s", `faults[0].for: "0s": want a time from 1ms`},
		{"for: 2s, on: rs485", "four: 2s, on: rs485", `faults[0].four: unknown key for unplug: want for`},
		{"on: rs485, fault: unplug", "on: rs485, fault: nack", `faults[0].fault: "nack": want unplug, rename, silent, late, truncated, corrupt, noise or exception, which rs485 (a serial port with Modbus units) can have; nack is of an I2C chip, an I2C bus, a 1-Wire device or a 1-Wire bus`},
		{"on: attic, fault: nack", "on: tank, fault: nack", `faults[5].fault: "nack": want unplug, flip or float, which tank (an SPI device) can have`},
		{"on: attic, fault: nack", "on: attic, fault: nack, delay: 1s", `faults[5].delay: unknown key for nack: want one of at, for, on, fault`},
		{"fault: late, delay: 700ms", "fault: late", `faults[1].delay: missing: want a time from 1ms to 1m0s`},
		{`bytes: "00 ff"`, `bytes: "0"`, `faults[2].bytes: "0": want 1 to 64 bytes in hexadecimal digits`},
		{"hold: 50ms", "hold: 5s", `faults[3].hold: "5s": want a time from 1ms to 4s`},
		{"level: 0}", "level: 2}", `faults[4].level: "2": want a whole number from 0 to 1`},
		{"offset: 1h, trusted", "trusted", `faults[8].offset: missing: want a time`},
		{"{at: 4s, for: 1s, on: meter", "{at: 4s, for: 1s, on: boiler", `faults[2]: noise on boiler at 4s: want it later: late of line 31 lasts until the end`},
		{"{at: 7s, for: 1s, on: broker", "{at: 6500ms, for: 1s, on: broker", `faults[7]: frozen on broker at 6.5s: want it later: gone of line 36 lasts until 7s`},
		{"{at: 9s, on: rs485, fault: rename", "{at: 2s, on: rs485, fault: rename", `faults[9]: rename on rs485 at 2s: want it later: unplug of line 30 lasts until 3s`},
		{"gateway:", "gateway: &a", `want plain YAML without &`},
		{"gateway:", "\tgateway:", `syntax error`},
		{"gateway:", "\x01gateway:", `site.yaml:1:1: not text: want UTF-8`},
		{"broker: {listen: \"127.0.0.1:0\"}", "clock: {}", `site.yaml:3:1: clock: given twice: want it once; it is already on line 2`},
		{"ports:\n", "ports: 5\nx:\n", `ports: "5": want a list`},
		{whole, "", "site.yaml:1:1: nothing in it: want keys such as ports:"},
		{whole, "clock: {}", "no sensors: want at least one"},
		{whole, "[]", "site.yaml:1:1: a list: want a mapping"},
		{whole, "clock: {}\n---\nclock: {}", "a second document"},
		{whole, strings.Repeat("[", 100), "nested too deeply"},
		{whole, strings.Repeat(" ", plainyaml.MaxBytes+1), "want at most 1048576"},
		{whole, "ports: [{name: p, slaves: [], nmea: {}}]", `ports[0].nmea: given beside slaves: want one of slaves, nmea and talker`},
		{whole, "w1: [{name: w1, devices: [{sensor: s, chip: bme280, every: 1s}]}]", `w1[0].devices[0].chip: "bme280": want ds18b20`},
		{whole, "w1: [{name: w1}]", `w1[0].devices: missing: want a list of devices`},
		{whole, "w1: [{name: w1, devices: [{sensor: s, chip: ds18b20, every: 1s}]}]\nfaults: [{at: 1s, on: s, fault: float}]", `want unplug, nack, stuck or flip, which s (a 1-Wire device) can have`},
		{whole, "ports: [{name: p}]", `ports[0].slaves: missing: want a list of Modbus units`},
		{whole, "ports: [{name: p, nmea: {sensor: s, every: 1s, values: {speeed: 1}}}]", `ports[0].nmea.values.speeed: unknown key: want speed`},
		{whole, "ports: [{name: p, nmea: {sensor: s, every: 1s}}]", `ports[0].nmea.values: missing: want a mapping`},
		{whole, "tcp: [{name: p, talker: {sensor: s, every: 1s, format: '{a', channels: [{name: a, value: 1}]}}]", `tcp[0].talker.format: line "{a": want {channel}`},
		{whole, "tcp: [{name: p, talker: {sensor: s, every: 1s, format: '{b}', channels: [{name: a, value: 1}]}}]", `tcp[0].talker.format: line "{b}": {b} is no channel`},
		{whole, "tcp: [{name: p, delay: 1s, talker: {sensor: s, every: 1s, format: '{a}', channels: [{name: a, value: 1}]}}]", `tcp[0].delay: "1s": want no delay`},
		{whole, "tcp: [{name: p, talker: {sensor: s, every: 1s, format: '{a}', channels: [{name: a, value: 1}]}}]\nfaults: [{at: 1s, on: s, fault: exception}]",
			`faults[0].fault: "exception": want silent, late, truncated, corrupt or noise, which s (an instrument that talks) can have`},
		{whole, "ports: [{name: p, slaves: []}]\nfaults: [{at: 1s, on: p, fault: silent}]", `faults[0].on: "p": want a port with sensors`},
	} {
		require.Contains(t, whole, c.old)
		text := strings.Replace(whole, c.old, c.new, 1)
		_, err := parseSite("site.yaml", []byte(text), memory)
		require.Error(t, err, c.new)
		require.Contains(t, err.Error(), c.want)
		problems, ok := errors.AsType[Problems](err)
		require.True(t, ok)
		require.LessOrEqual(t, len(problems), 6, "one mistake is no avalanche:\n%v", err)
	}
}

// memory is a folder of traces.
func memory(name string) (io.ReadCloser, error) {
	text, ok := map[string]string{
		"t.csv":   "t_ms,channel,value\n1000,a,1\n1000,b,5\n2000,a,2\n4000,b,6\n",
		"bad.csv": "t_ms,channel,value\n1000,a,1\n1000,b,x\n",
	}[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// TestAllAtOnce: every mistake is reported, in the order of the lines.
func TestAllAtOnce(t *testing.T) {
	text := strings.NewReplacer("9600-8N1", "fast", "unit_id: 2", "unit_id: 0", "vref: 3.3", "vref: 0", "on: attic", "on: loft").Replace(whole)
	_, err := Parse("site.yaml", []byte(text))
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 4, err)
	for i, want := range []string{"site.yaml:6:11: ports[0].line", "site.yaml:18:18: ports[0].slaves[1].unit_id", "site.yaml:27:55: spi[0].vref", "site.yaml:35:18: faults[5].on"} {
		require.Contains(t, lines[i], want)
	}
}

// TestExamples: what stands in configs/sites is right.
func TestExamples(t *testing.T) {
	paths, err := filepath.Glob("../../../configs/sites/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		_, err := Load(path)
		require.NoError(t, err)
	}
}

func TestLoad(t *testing.T) {
	_, err := Load("/nowhere/site.yaml")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Load(t.TempDir())
	require.ErrorContains(t, err, "not a file")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	paths, _ := filepath.Glob("../../../configs/sites/*.yaml")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(text)
	}
	for _, s := range []string{"", "a: b", "ports: [{}]", "faults: [{at: 1s}]", "i2c: [{chips: [{values: {}}]}]", "a: &b [*b]", "ports:\n- name: x\n  slaves:\n  -", "spi: [{chip: mcp3008, channels: [{}]}]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSite("f.yaml", data, memory)
		if err == nil {
			s.events()
			for _, p := range append(s.ports, s.tcp...) {
				for _, u := range p.slaves {
					for _, c := range u.registers {
						words, _ := c.encode(c.wave.value(time.Unix(0, 0))(time.Unix(1e9, 0)))
						require.Len(t, words, c.size)
					}
				}
			}
			return
		}
		problems, ok := errors.AsType[Problems](err)
		require.True(t, ok)
		require.NotEmpty(t, problems)
		require.LessOrEqual(t, len(problems), maxProblems+1)
		for _, p := range problems {
			require.NotEmpty(t, p.Bad)
			require.NotContains(t, p.String(), "\n")
		}
	})
}
