package config_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/agent/config"
	"homeward/drivers"
	"homeward/drivers/all"
)

// meter is a driver with a key of every kind.
type meter struct {
	Port     string        `yaml:"port" doc:"serial port"`
	Line     string        `yaml:"line,omitempty" doc:"line setting"`
	UnitID   *int          `yaml:"unit_id" doc:"address"`
	Small    uint8         `yaml:"small,omitempty" doc:"a byte"`
	Ratio    float32       `yaml:"ratio,omitempty" doc:"a number"`
	Late     time.Duration `yaml:"late,omitempty" doc:"a duration"`
	Echo     bool          `yaml:"echo,omitempty" doc:"a switch"`
	Bits     []int         `yaml:"bits,omitempty" doc:"numbers"`
	Quantity []quantity    `yaml:"channels" doc:"what to read"`
	line     drivers.Line
}

type quantity struct {
	drivers.Channel `yaml:",inline"`
	Register        string `yaml:"register,omitempty" doc:"holding or input"`
}

func (m *meter) Check() []drivers.Fault {
	var faults []drivers.Fault
	if m.Port == "" {
		faults = append(faults, drivers.Fault{Path: "port", Want: "the serial port"})
	}
	if m.Line == "" {
		m.Line = "9600-8N1"
	}
	var err error
	if m.line, err = drivers.ParseLine(m.Line); err != nil {
		faults = append(faults, drivers.Fault{Path: "line", Bad: m.Line, Want: "a line such as 9600-8N1"})
	}
	for i, q := range m.Quantity {
		if q.Register != "holding" && q.Register != "" {
			faults = append(faults, drivers.Fault{Path: fmt.Sprintf("channels[%d].register", i), Bad: q.Register, Want: "holding"})
		}
	}
	return faults
}
func (m *meter) Bus() drivers.Bus {
	return drivers.Bus{Kind: drivers.Serial, Name: m.Port, Line: m.line}
}
func (m *meter) Channels() []drivers.Channel {
	var list []drivers.Channel
	for _, q := range m.Quantity {
		list = append(list, q.Channel)
	}
	return list
}
func (m *meter) Open(context.Context, drivers.Env) (drivers.Sensor, error) {
	return nil, errors.New("not in this test")
}

var meters = []drivers.Factory{{Name: "meter", Aliases: []string{"gauge"}, Summary: "a meter", New: func(string) drivers.Options { return &meter{} }}}

func load(text string) (*config.Config, error) {
	return config.Parse("h.yaml", []byte(text), meters)
}

// base is a right configuration on two lines; what a test adds begins on line 3.
const base = `gateway: gw-1
home: {organization: acme, project: cold-chain, product: box, url: "mqtt://localhost"}
`

// boiler is a right sensor on line 4, in a list that line 3 begins.
const boiler = `sensors:
  - {name: boiler, driver: meter, port: /dev/ttyS0, unit_id: 1, channels: [{name: flow, unit: Cel}]}
`

const (
	wantName = "want a name of 1 to 64 characters (127 bytes) without / + # and control characters, and without blanks at its ends"
	wantURL  = "want an address such as tls://broker.example.net:8883; mqtt://, tls://, ws:// or wss://"
)

// Each mistake is told with its line and column (which the text marks with «), the value and
// what would be right.
func TestMistakes(t *testing.T) {
	in := func(old, new string) string { return base + strings.Replace(boiler, old, new, 1) }
	home := func(old, new string) string { return strings.Replace(base, old, new, 1) }
	url := func(u string) string { return home(`"mqtt://localhost"`, `«"`+u+`"`) }
	for _, c := range []struct{ name, text, want string }{
		// The file as a whole.
		{"empty", "", "nothing in it: want keys such as gateway: and home:"},
		{"comment only", "# nothing\n", "nothing in it: want keys such as gateway: and home:"},
		{"list", "«- a\n", `a list: want a mapping of keys to values`},
		{"text", "«hello\n", `"hello": want a mapping of keys to values`},
		{"no UTF-8", base + "state: \"«\xff\"\n", "not text: want UTF-8 without control characters"},
		{"NUL", base + "sta«\x00te: x\n", "not text: want UTF-8 without control characters"},
		{"bell after umlauts", base + "# äöü «\a\n", "not text: want UTF-8 without control characters"},
		{"syntax", base + "state: «[\n", "syntax error: sequence end token ']' not found: the [ of line 3 is not closed"},
		{"no colon", base + "«buffer 1\nstate: /x\n", "syntax error: non-map value is specified: want a colon after buffer"},
		{"no blank after the colon", base + "sensors:\n  - name: a\n    «unit_id:1 # x\n    every: 1s\n", "syntax error: non-map value is specified: want a blank after unit_id:"},
		{"too deep a key", base + "buffer:\n  flush: «1s\n   keep_free: 1MB\n", "syntax error: mapping value is not allowed in this context: line 5 begins in column 4, and no key above that it can stand below: want the keys of one mapping one below the other"},
		{"a key between two", base + "sensors:\n  - name: a\n   «driver: meter\n", "syntax error: value is not allowed in this context: line 5 begins in column 4, and no key above that it can stand below: want the keys of one mapping one below the other"},
		{"brace for a bracket", base + "state: «[1, 2}\n", "syntax error: sequence end token ']' not found: the [ of line 3 is not closed"},
		{"tab after a dash", base + "sensors:\n  -\tnam«e: a\n", "syntax error: tab character cannot use as a map key directly: want blanks, not tabs"},
		{"two colons", base + "state: «a: b\n", "syntax error: mapping value is not allowed in this context: a text with a colon in it goes in quotes"},
		{"reserved", base + "state: «@a\n", "syntax error: '@' is a reserved character: a text that begins with it goes in quotes"},
		{"quote in a text", base + "state: 'it'«s'\n", "syntax error: value is not allowed in this context. map key-value is pre-defined: want nothing after the value; inside of '…' a quote is written twice"},
		{"tab", base + "buffer:\n«\tflush: 1s\n", `syntax error: found character '\t' that cannot start any token: indent with blanks, not with tabs`},
		{"mapping as key", base + "{a: 1}«: 2\n", "syntax error: found an invalid key for this map"},
		{"anchor", base + "state: «&a /x\n", `"&": the value itself: anchors (&), aliases (*) and merge keys (<<) are not used; a text that begins with one of these goes in quotes`},
		{"alias", base + "state: «*a\n", `"*": the value itself: anchors (&), aliases (*) and merge keys (<<) are not used; a text that begins with one of these goes in quotes`},
		{"merge key", base + "buffer:\n  «<<: {flush: 1s}\n", `"<<": the value itself: anchors (&), aliases (*) and merge keys (<<) are not used; a text that begins with one of these goes in quotes`},
		{"tag", base + "state: «!!str /x\n", `"!!str": no tags; a text that begins with ! goes in quotes`},
		{"complex key", base + "«? state\n: /x\n", `"?": simple keys and no directives; a text that begins with ? or % goes in quotes`},
		{"second document", base + "---\n«gateway: gw-2\n", "a second document: want one document: nothing after ---"},
		{"deep", base + "state: [[[[[[[[[[[[[[[[«[]]]]]]]]]]]]]]]]]\n", "nested too deeply: want at most 16 levels"},
		{"deep block", base + "state:\n" + strings.Repeat(" ", 600) + "«- a\n", "nested too deeply: want blocks that begin before column 512"},

		// Keys.
		{"unknown section", base + "«bufer: {}\n", "bufer: unknown key: did you mean buffer?"},
		{"unknown without guess", base + "«zebra: 1\n", "zebra: unknown key: want one of buffer, fleet, gateway, home, operations, publish, sensors, state, status, update"},
		{"unknown in a section", base + "buffer:\n  «max_byte: 1MB\n", "buffer.max_byte: unknown key: did you mean max_bytes?"},
		{"swapped letters", base + "buffer: {«fulsh: 1s}\n", "buffer.fulsh: unknown key: did you mean flush?"},
		{"key of another section", base + "«max_age: 5m\n", "max_age: unknown key: did you mean publish.max_age?"},
		{"unknown in a sensor", base + "sensors:\n  - name: a\n    driver: meter\n    port: /dev/x\n    «unitid: 1\n    channels: [{name: b}]\n", "sensors[0].unitid: unknown key: did you mean unit_id?"},
		{"unknown in a channel", in("unit: Cel", "«units: Cel"), "sensors[0].channels[0].units: unknown key: did you mean unit?"},
		{"strange key", base + "«\"a.b c\": 1\n", `"a.b c": unknown key: want one of buffer, fleet, gateway, home, operations, publish, sensors, state, status, update`},
		{"duplicate", base + "state: /a\n«state: /b\n", "state: given twice: want it once; it is already on line 3"},
		{"duplicate in a flow", base + "buffer: {flush: 1s, «flush: 2s}\n", "buffer.flush: given twice: want it once; it is already on line 3"},
		{"password", home("home: {", "home: {username: u, «password: hunter2, "), "home.password: a secret in the file: password_file: with the name of a file (mode 0600), or password_file: credential:NAME; secrets never stand in the configuration"},
		{"missing gateway", "«" + strings.TrimPrefix(base, "gateway: gw-1\n"), "gateway: missing: want id of this gateway: 1 to 64 of a-z 0-9 . _ -"},
		{"missing home", "«gateway: gw-1\n", "home: missing: want where the readings go"},
		{"nothing in home", "gateway: gw-1\n«home:\n", "home: no value: want a mapping of keys to values"},
		{"missing project", strings.Replace(home(" project: cold-chain,", ""), "home:", "«home:", 1), "home.project: missing: want where readings go and are billed; third level of the topics"},

		// Types.
		{"number for a text", home("gw-1", "«17"), `gateway: "17": want a text; put it in quotes: "17"`},
		{"boolean for a text", base + "state: «true\n", `state: "true": want a text; put it in quotes: "true"`},
		{"null for a text", base + "«state:\n", "state: no value: want a text, or leave the key out"},
		{"tilde for a text", base + "«state: ~\n", "state: no value: want a text, or leave the key out"},
		{"list for a text", base + "«state: [/a]\n", "state: a list: want a text"},
		{"mapping for a number", base + "operations:\n  «billing_day: {a: 1}\n", "operations.billing_day: a mapping: want a whole number"},
		{"text for a section", base + "buffer: «big\n", `buffer: "big": want a mapping of keys to values`},
		{"list for a section", base + "«buffer: [a]\n", `buffer: a list: want a mapping of keys to values`},
		{"mapping for a list", base + "«sensors: {name: a}\n", "sensors: a mapping: want a list: [ … ], or lines that begin with -"},
		{"text for a list", base + "sensors: «none\n", `sensors: "none": want a list: [ … ], or lines that begin with -`},
		{"text in a list", base + "sensors: [«none]\n", `sensors[0]: "none": want a mapping of keys to values`},
		{"null in a list", base + "sensors:\n  «-\n", "sensors[0]: no value: want a mapping of keys to values, or no -"},
		{"text for a number", base + "operations: {billing_day: «first}\n", `operations.billing_day: "first": want a whole number`},
		{"quoted number", base + "operations: {billing_day: «\"1\"}\n", `operations.billing_day: "1": want a whole number`},
		{"fraction for a whole number", base + "operations: {billing_day: «1.5}\n", `operations.billing_day: "1.5": want a whole number`},
		{"comma in a number", in("unit_id: 1", "unit_id: 1, min: 61, «04, max: 70"), `sensors[0].04: a comma in a number: want a point: min: 61.04`},
		{"comma in a number of its own line", base + "sensors:\n  - name: a\n    driver: meter\n    port: /dev/x\n    unit_id: 1\n    min: «-61,04\n    channels: [{name: b}]\n", `sensors[0].min: "-61,04": want a number with a point: -61.04`},
		{"octal", base + "operations: {billing_day: «010}\n", `operations.billing_day: "010": want a whole number without leading zeros`},
		{"huge number", base + "operations: {per_month: «99999999999999999999}\n", `operations.per_month: "99999999999999999999": want a whole number`},
		{"duration without unit", base + "buffer: {flush: «10}\n", `buffer.flush: "10": want a duration such as 500ms, 10s, 5m or 24h`},
		{"negative duration", base + "buffer: {flush: «-1s}\n", `buffer.flush: "-1s": want a duration such as 500ms, 10s, 5m or 24h`},
		{"size with a blank", base + "buffer:\n  max_bytes: «512 MB\n", `buffer.max_bytes: "512 MB": want a size such as 1024, 64KB, 512MB or 2GB (powers of 1000), or 64KiB, 512MiB (powers of 1024)`},
		{"size beyond int64", base + "buffer: {max_bytes: «99999999999TB}\n", `buffer.max_bytes: "99999999999TB": want a size such as 1024, 64KB, 512MB or 2GB (powers of 1000), or 64KiB, 512MiB (powers of 1024)`},
		{"rate", base + "publish: {rate: «often}\n", `publish.rate: "often": want a number, 1 to 65535, and a time, 100ms to 24h, such as 1/s, 30/15s or 300/1m`},
		{"a rate of none", base + "publish: {rate: «0/s}\n", `publish.rate: "0/s": want a number, 1 to 65535, and a time, 100ms to 24h, such as 1/s, 30/15s or 300/1m`},
		{"time zone", base + "operations: {time_zone: «Europe/Berln}\n", `operations.time_zone: "Europe/Berln": want UTC, or a name of the tz database such as Europe/Berlin`},
		{"percent", base + "operations: {reserve: «0.1}\n", `operations.reserve: "0.1": want a percentage such as 10%`},
		{"window", base + "update: {window: «\"25:00-05:00\"}\n", `update.window: "25:00-05:00": want a time of day such as "02:00-05:00"`},
		{"not a number", in("unit_id: 1", "unit_id: 1, min: «.nan"), `sensors[0].min: ".nan": want a number`},
		{"number beyond float64", in("unit_id: 1", "unit_id: 1, max: «1e999"), `sensors[0].max: "1e999": want a number`},
		{"driver: text for a duration", in("unit_id: 1", "unit_id: 1, late: «soon"), `sensors[0].late: "soon": want a duration such as 500ms, 10s, 5m or 24h`},
		{"driver: byte", in("unit_id: 1", "unit_id: 1, small: «256"), `sensors[0].small: "256": want a whole number in the range of its kind`},
		{"driver: switch", in("unit_id: 1", "unit_id: 1, echo: «yes"), `sensors[0].echo: "yes": want true or false`},
		{"driver: list item", in("unit_id: 1", "unit_id: 1, bits: [1, «x]"), `sensors[0].bits[1]: "x": want a whole number`},
		{"after umlauts", in("name: boiler", `name: "Kühlräume", ratio: «x`), `sensors[0].ratio: "x": want a number`},
		{"after a text of several lines", base + "state: |-\n  /var\nstatus: {listen: «1}\n", `status.listen: "1": want a text; put it in quotes: "1"`},
		{"after CRLF", strings.ReplaceAll(base, "\n", "\r\n") + "buffer:\r\n  flush: «10\r\n", `buffer.flush: "10": want a duration such as 500ms, 10s, 5m or 24h`},

		// Ranges and enumerations.
		{"too low", base + "publish: {max_bytes: «10}\n", `publish.max_bytes: "10": want 256 to 256KiB`},
		{"too high", base + "operations: {billing_day: «32}\n", `operations.billing_day: "32": want 1 to 31`},
		{"a negative resolution", in("unit_id: 1", "unit_id: 1, resolution: «-1"), `sensors[0].resolution: "-1": want 0 to 1000000000`},
		{"a channel's negative resolution", in("unit: Cel", "resolution: «-1"), `sensors[0].channels[0].resolution: "-1": want 0 to 1000000000`},
		{"a resolution beyond all values", in("unit: Cel", "resolution: «1e300"), `sensors[0].channels[0].resolution: "1e300": want 0 to 1000000000`},
		{"a time resolution too fine", in("unit_id: 1", "unit_id: 1, time_resolution: «500us"), `sensors[0].time_resolution: "500us": want 1ms to 1h`},
		{"a time resolution too coarse", in("unit_id: 1", "unit_id: 1, time_resolution: «2h"), `sensors[0].time_resolution: "2h": want 1ms to 1h`},
		{"a time resolution in parts of a millisecond", in("unit_id: 1", "unit_id: 1, time_resolution: «2500us"), `sensors[0].time_resolution: "2500us": want whole milliseconds, 1ms to 1h`},
		{"below a lower bound only", in("unit_id: 1", "unit_id: 1, deadband: «-1"), `sensors[0].deadband: "-1": want at least 0`},
		{"every 0", in("unit_id: 1", "unit_id: 1, every: «0s"), `sensors[0].every: "0s": want 10ms to 24h`},
		{"enumeration", base + "buffer: {when_full: «stop}\n", `buffer.when_full: "stop": want drop-oldest or stop-sampling`},
		{"enumeration with a guess", base + "publish: {acknowledge: «prooven}\n", `publish.acknowledge: "prooven": want proven, puback or receiver; did you mean proven?`},
		{"cloud of a later release", home("home: {", "home: {cloud: «losant, "), `home.cloud: "losant": want mqtt: losant is not in this release`},
		{"unknown encoding", base + "publish: {format: packed, encoding: «base64}\n", `publish.encoding: "base64": want text, text85 or binary`},
		{"empty encoding", base + "publish: {encoding: «\"\"}\n", `publish.encoding: "": want text, text85 or binary`},
		{"empty at_limit", base + "operations: {at_limit: «\"\"}\n", `operations.at_limit: "": want hold, thin or continue`},
		{"unknown format", base + "publish: {format: «cbor}\n", `publish.format: "cbor": want rows, packed or senml`},
		{"a name that SenML does not have", strings.Replace(in("name: flow", "name: «Kühlraum"), "sensors:", "publish: {format: senml}\nsensors:", 1), `sensors[0].channels[0].name: "Kühlraum": want letters a-z A-Z, digits and - : . _ alone, since publish.format is senml`},
		{"a sensor that SenML does not have", strings.Replace(in("name: boiler", `name: «"boiler 1"`), "sensors:", "publish: {format: senml}\nsensors:", 1), `sensors[0].name: "boiler 1": want letters a-z A-Z, digits and - : . _ alone, since publish.format is senml`},
		{"a gateway that SenML does not have", home("gw-1", "«.gw") + "publish: {format: senml}\n", `gateway: ".gw": want a letter or digit first, since publish.format is senml`},
		{"cloud that never was", home("home: {", "home: {cloud: «azure, "), `home.cloud: "azure": want mqtt`},

		// Names.
		{"gateway id", home("gw-1", "«GW 1"), `gateway: "GW 1": want 1 to 64 of a-z 0-9 . _ -`},
		{"empty gateway", home("gw-1", `«""`), `gateway: "": want 1 to 64 of a-z 0-9 . _ -`},
		{"slash in a sensor", in("name: boiler", "name: «a/b"), `sensors[0].name: "a/b": ` + wantName},
		{"blank at the end", in("name: boiler", `name: «"a "`), `sensors[0].name: "a ": ` + wantName},
		{"wildcard in a channel", in("name: flow", `name: «"a#"`), `sensors[0].channels[0].name: "a#": ` + wantName},
		{"right-to-left override", in("name: flow", `name: «"a\u202eb"`), `sensors[0].channels[0].name: "a\u202eb": ` + wantName},
		{"65 characters", in("name: flow", "name: «"+strings.Repeat("ä", 65)), `sensors[0].channels[0].name: "` + strings.Repeat("ä", 60) + `…": ` + wantName},
		{"empty sensor name", in("name: boiler", `name: «""`), `sensors[0].name: "": ` + wantName},
		{"topic level", home("acme", "«a/b"), `home.organization: "a/b": ` + wantName},
		{"prefix of the broker", home("home: {", "home: {prefix: «$SYS, "), `home.prefix: "$SYS": want no $ at the beginning: such topics belong to the broker`},
		{"client id", home("home: {", "home: {client_id: «\"\", "), `home.client_id: "": ` + wantName},
		{"same sensor twice", base + boiler + strings.Replace(strings.Split(boiler, "\n")[1], "boiler", "«boiler", 1) + "\n", `sensors[1].name: "boiler": want a name of its own: sensors[0] has it already (line 4)`},
		{"same channel twice", in("[{name: flow, unit: Cel}]", "[{name: flow}, {name: «flow}]"), `sensors[0].channels[1].name: "flow": want a name that no other channel of this sensor has`},
		{"channel without name", in("{name: flow, ", "«{"), `sensors[0].channels[0].name: missing: ` + wantName},

		// Home.
		{"empty address", url(""), `home.url: "": ` + wantURL},
		{"no scheme", url("localhost:1883"), `home.url: "localhost:1883": ` + wantURL},
		{"https", url("https://localhost"), `home.url: "https://localhost": ` + wantURL},
		{"no host", url("tls://:8883"), `home.url: "tls://:8883": ` + wantURL},
		{"no address at all", url("tls://[::1"), `home.url: "tls://[::1": ` + wantURL},
		{"query", url("wss://h/mqtt?a=b"), `home.url: an address with a query or fragment (not shown: it could hold a secret): ` + wantURL},
		{"port", url("tls://h:99999"), `home.url: "tls://h:99999": want a port from 1 to 65535, or none`},
		{"path", url("tls://h/mqtt"), `home.url: "tls://h/mqtt": want no path after the host: only ws:// and wss:// have one`},
		{"password in the address", url("tls://u:hunter2@h"), `home.url: an address with user or password in it: ` + wantURL + ", with username and password_file as keys of their own"},
		{"password without user", home("home: {", "«home: {password_file: /p, "), "home.username: missing: want the user name that the password belongs to"},
		{"certificate without key", strings.Replace(home("home: {", "«home: {cert_file: /c, "), "mqtt:", "tls:", 1), "home.key_file: missing: want both cert_file and key_file, or neither"},
		{"authorities without encryption", home("home: {", "home: {ca_file: «/ca, "), "home.ca_file: used without encryption: want tls:// or wss:// in home.url"},
		{"relative file", home("home: {", "home: {username: u, password_file: «pw, "), `home.password_file: no absolute path (not shown: it could be a secret): want an absolute path such as /etc/homeward/password, or credential:NAME`},
		{"credential for what is no secret", strings.Replace(home("home: {", "home: {ca_file: «credential:ca, "), "mqtt:", "tls:", 1), `home.ca_file: "credential:ca": want an absolute path such as /etc/homeward/ca.pem`},
		{"credential", home("home: {", "home: {username: u, password_file: «credential:../x, "), `home.password_file: not a credential's name: want credential:NAME with a name of letters, digits and . _ -`},

		// Sensors.
		{"unknown driver", in("driver: meter", "driver: «metre"), `sensors[0].driver: "metre": want one of gauge, meter; did you mean meter?`},
		{"unknown driver without a guess", in("driver: meter", "driver: «zz9"), `sensors[0].driver: "zz9": want one of gauge, meter`},
		{"no driver", in("{name: boiler, driver: meter", "«{name: boiler"), "sensors[0].driver: missing: want which driver reads it"},
		{"driver: missing", in("{name: boiler, driver: meter, port: /dev/ttyS0", "«{name: boiler, driver: meter"), "sensors[0].port: missing: want the serial port"},
		{"driver: fault", in("unit_id: 1", "unit_id: 1, line: «fast"), `sensors[0].line: "fast": want a line such as 9600-8N1`},
		{"driver: fault in a channel", in("unit: Cel", "register: «coil"), `sensors[0].channels[0].register: "coil": want holding`},
		{"no channels", in("channels: [{name: flow, unit: Cel}]", "«channels: []"), "sensors[0].channels: none: want at least one"},
		{"min above max", in("unit_id: 1", "unit_id: 1, min: 5, max: «4"), `sensors[0].max: "4": want not less than min`},
		{"min above max in a channel", in("unit: Cel", "min: 5, max: «4"), `sensors[0].channels[0].max: "4": want not less than min`},
		{"deadband in a channel", in("unit: Cel", "deadband: «-1"), `sensors[0].channels[0].deadband: "-1": want at least 0`},
		{"unit", in("unit: Cel", `unit: «"a\tb"`), `sensors[0].channels[0].unit: "a\tb": want a SenML unit such as Cel, %RH, Pa, V or kWh`},
		{"two lines on one port", base + boiler + "  - {name: b, driver: gauge, port: /dev/ttyS0, line: «19200-8E1, unit_id: 2, channels: [{name: x}]}\n", `sensors[1].line: "19200-8E1": want 9600-8N1, as sensors[0] has it on the same port`},

		{"reading larger than a payload", in("name: flow", "name: '"+strings.Repeat(`"`, 64)+"'") + "publish: {max_bytes: «256}\n", `publish.max_bytes: "256": want at least 306, for one reading of boiler/` + strings.Repeat(`"`, 64) + ", or a shorter name"},

		// Alarms.
		{"alarm of an unknown channel", base + boiler + "publish: {alarms: [{channel: «boiler/flaw, above: 1}]}\n", `publish.alarms[0].channel: "boiler/flaw": did you mean boiler/flow?`},
		{"alarm of no channel at all", base + boiler + "publish: {alarms: [{channel: «tank, above: 1}]}\n", `publish.alarms[0].channel: "tank": want the full name of a channel, sensor/channel`},
		{"alarm without channel", base + boiler + "publish: {alarms: [«{above: 1}]}\n", `publish.alarms[0].channel: missing: want full name of the channel`},
		{"alarm without limit", base + boiler + "publish: {alarms: [«{channel: boiler/flow}]}\n", "publish.alarms[0].above: missing: want above, below or both"},
		{"alarm at every value", base + boiler + "publish: {alarms: [{channel: boiler/flow, above: «1, below: 2}]}\n", `publish.alarms[0].above: "1": want not less than below: every value would be an alarm`},

		// The rest.
		{"relative state", base + "state: «var\n", `state: "var": want an absolute path such as /var/lib/homeward`},
		{"listen", base + "status: {listen: «localhost}\n", `status.listen: "localhost": want host:port such as 127.0.0.1:8080, or :8080 for every interface`},
		{"fleet address", base + "fleet: {repository: «ftp://x, root_file: /r}\n", `fleet.repository: "ftp://x": want an address such as https://fleet.example.net/acme, or file:///media/usb/acme, without user or password`},
		{"fleet without root", base + "«fleet: {repository: https://x}\n", "fleet.root_file: missing: want the fleet's root of trust: the root.json that homeward-fleet init wrote"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before, after, _ := strings.Cut(c.text, "«")
			line, column := 1+strings.Count(before, "\n"), 1+utf8.RuneCountInString(before[strings.LastIndex(before, "\n")+1:])
			if after == "" {
				line, column = 1, 1
			}
			_, err := load(before + after)
			var p *config.Problems
			require.ErrorAs(t, err, &p)
			require.Equal(t, fmt.Sprintf("h.yaml:%d:%d: %s", line, column, c.want), p.Error())
			require.NotContains(t, p.Error(), "hunter2")
		})
	}
}

func TestTooMuch(t *testing.T) {
	for text, want := range map[string]string{
		base + strings.Repeat("#", 1<<20):            fmt.Sprintf("h.yaml: %d bytes: want at most 1048576", 1<<20+len(base)),
		"a: [" + strings.Repeat("1,", 260_000) + "]": "h.yaml: 520004 words and signs: want at most 500000",
	} {
		_, err := load(text)
		require.EqualError(t, err, want)
	}
	_, err := load(strings.Repeat("x: 1\n", 5000))
	require.EqualError(t, err, "h.yaml:1001:1: too many keys: want at most 1000 in one mapping")
	_, err = load("a:\n" + strings.Repeat("  - {name: b}\n  - c:\n", 5000))
	require.NotContains(t, err.Error(), "too many keys")

	_, err = load(base + "sensors: [" + strings.Repeat("1,", 3000) + "]\n")
	var p *config.Problems
	require.ErrorAs(t, err, &p)
	require.Len(t, p.List, 1001)
	require.Equal(t, "h.yaml: 2000 more problems", p.List[1000].String())
}

// A file with many mistakes is mended in one go.
func TestAllAtOnce(t *testing.T) {
	_, err := load(`gateway: GW
homes: {}
sensors:
  - name: a
    driver: meter
    every: 10
    unit_id: x
    channels:
      - {name: b, unti: V}
      - {name: b}
  - {driver: metre}
publish:
  max_bytes: 1
  alarms: [{channel: c/d, above: 1}, {channel: a/b}]
buffer: {flush: 1, flush: 2, when_full: never}
`)
	require.EqualError(t, err, `h.yaml:1:1: home: missing: want where the readings go
h.yaml:1:10: gateway: "GW": want 1 to 64 of a-z 0-9 . _ -
h.yaml:2:1: homes: unknown key: did you mean home?
h.yaml:4:5: sensors[0].port: missing: want the serial port
h.yaml:6:12: sensors[0].every: "10": want a duration such as 500ms, 10s, 5m or 24h
h.yaml:7:14: sensors[0].unit_id: "x": want a whole number
h.yaml:9:19: sensors[0].channels[0].unti: unknown key: did you mean unit?
h.yaml:11:5: sensors[1].name: missing: want name of the sensor; a channel's full name is sensor/channel
h.yaml:11:14: sensors[1].driver: "metre": want one of gauge, meter; did you mean meter?
h.yaml:13:14: publish.max_bytes: "1": want 256 to 256KiB
h.yaml:14:38: publish.alarms[1].above: missing: want above, below or both
h.yaml:15:17: buffer.flush: "1": want a duration such as 500ms, 10s, 5m or 24h
h.yaml:15:20: buffer.flush: given twice: want it once; it is already on line 15
h.yaml:15:41: buffer.when_full: "never": want drop-oldest or stop-sampling`)
}

func TestDefaults(t *testing.T) {
	c, err := load(base + boiler)
	require.NoError(t, err)
	require.Empty(t, c.Warnings)
	require.Equal(t, "/var/lib/homeward", c.State)
	require.Equal(t, config.Home{Cloud: "mqtt", Organization: "acme", Project: "cold-chain", Product: "box", URL: "mqtt://localhost", Prefix: "homeward"}, c.Home)
	require.Equal(t, config.Publish{
		Format: "rows", Encoding: "text", MaxBytes: 1024, MaxAge: config.Duration(5 * time.Minute), Acknowledge: "proven", BacklogShare: 0.5,
	}, c.Publish)
	require.Equal(t, config.Operations{BillingDay: 1, Reserve: 0.1, TimeZone: "UTC", Zone: time.UTC, PerBytes: 1024, AtLimit: "hold"}, c.Operations)
	require.Equal(t, config.Buffer{MaxBytes: 512e6, KeepFree: 256e6, Flush: config.Duration(time.Second), WhenFull: "drop-oldest"}, c.Buffer)
	require.Nil(t, c.Fleet)
	require.Nil(t, c.Update)
	require.Empty(t, c.Status.Listen)
	s := c.Sensors[0]
	require.Equal(t, config.Duration(10*time.Second), s.Every)
	require.Equal(t, config.Duration(time.Second), s.Timeout)
	require.Equal(t, "boiler/flow", s.Full(s.Channels[0].Name))
	require.Equal(t, drivers.Unit("Cel"), *s.Channels[0].Unit)

	empty, err := load(base + boiler + "publish:\nbuffer: {}\nstatus: ~\n") // everything below commented out
	require.NoError(t, err)
	empty.Digest = c.Digest
	require.Equal(t, c, empty)
}

func TestTimeoutFollowsEvery(t *testing.T) {
	c, err := load(base + strings.Replace(boiler, "unit_id: 1", "unit_id: 1, every: 100ms", 1))
	require.NoError(t, err)
	require.Equal(t, config.Duration(100*time.Millisecond), c.Sensors[0].Timeout)
	require.Empty(t, c.Warnings)
}

func TestTimeResolution(t *testing.T) {
	for _, c := range []struct {
		sensor string
		want   time.Duration
	}{
		{"driver: gauge, unit_id: 1, channels: [{name: x}]", 100 * time.Millisecond},
		{"driver: gauge, unit_id: 1, channels: [{name: x}], every: 1s", 100 * time.Millisecond},
		{"driver: gauge, unit_id: 1, channels: [{name: x}], every: 500ms", 10 * time.Millisecond},
		{"driver: gauge, unit_id: 1, channels: [{name: x}], every: 50ms", time.Millisecond},
		{"driver: gauge, unit_id: 1, channels: [{name: x}], every: 1m, time_resolution: 1m", time.Minute},
		{"driver: gauge, unit_id: 1, channels: [{name: x}], every: 1m, time_resolution: 1ms", time.Millisecond},
	} {
		cfg, err := load(base + "sensors: [{name: a, port: /dev/x, " + c.sensor + "}]\n")
		require.NoError(t, err, c.sensor)
		require.Equal(t, config.Duration(c.want), cfg.Sensors[0].TimeResolution, c.sensor)
		require.Empty(t, cfg.Warnings)
	}
	for sensor, want := range map[string]time.Duration{
		"driver: nmea": time.Millisecond, "driver: nmea, every: 1m": time.Millisecond, "driver: nmea, time_resolution: 1m": time.Minute,
		`driver: line, pattern: "(?P<x>.*)", channels: [{name: x}]`:           time.Millisecond,
		`driver: line, ask: "?", pattern: "(?P<x>.*)", channels: [{name: x}]`: 100 * time.Millisecond,
	} {
		cfg, err := config.Parse("h.yaml", []byte(base+"sensors: [{name: a, port: /dev/x, "+sensor+"}]\n"), factories)
		require.NoError(t, err, sensor)
		require.Equal(t, config.Duration(want), cfg.Sensors[0].TimeResolution, sensor)
		require.Empty(t, cfg.Warnings)
	}
}

func TestChannelsTakeAfterTheirSensor(t *testing.T) {
	c, err := load(base + `sensors:
  - name: a
    driver: gauge
    port: /dev/x
    unit_id: 7
    deadband: 0.5
    on_change: true
    resolution: 0.1
    min: -1
    max: 1_000
    bits: [0x10, 3]
    ratio: 1e-1
    late: 2s
    echo: true
    channels:
      - {name: plain}
      - {name: own, deadband: 0, on_change: false, resolution: 0, min: -2, max: 2.5}
`)
	require.NoError(t, err)
	s := c.Sensors[0]
	require.Equal(t, 0.5, *s.Channels[0].Deadband)
	require.True(t, *s.Channels[0].OnChange)
	require.Equal(t, 0.1, *s.Channels[0].Resolution)
	require.Equal(t, -1.0, *s.Channels[0].Min)
	require.Equal(t, 1000.0, *s.Channels[0].Max)
	require.Zero(t, *s.Channels[1].Deadband)
	require.False(t, *s.Channels[1].OnChange)
	require.Zero(t, *s.Channels[1].Resolution)
	require.Equal(t, -2.0, *s.Channels[1].Min)
	require.Equal(t, 2.5, *s.Channels[1].Max)
	m := s.Options.(*meter)
	require.Equal(t, 7, *m.UnitID)
	require.Equal(t, []int{16, 3}, m.Bits)
	require.Equal(t, float32(0.1), m.Ratio)
	require.Equal(t, 2*time.Second, m.Late)
	require.True(t, m.Echo)
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ name, text, code, path, say string }{
		{"no sensors", base, config.CodeWarning, "sensors", "nothing will be read"},
		{"not encrypted", strings.Replace(base, "localhost", "broker.example.net", 1) + boiler, config.CodeWarning, "home.url", "not encrypted"},
		{"not encrypted websocket", strings.Replace(base, "mqtt://localhost", "ws://192.0.2.1", 1) + boiler, config.CodeWarning, "home.url", "not encrypted"},
		{"time-out longer than every", base + strings.Replace(boiler, "unit_id: 1", "unit_id: 1, every: 1s, timeout: 2s", 1), config.CodeWarning, "sensors[0].timeout", "longer than every"},
		{"an encoding of nothing", base + boiler + "publish: {encoding: binary}\n", config.CodeWarning, "publish.encoding", "says nothing about publish.format rows"},
		{"times coarser than every", base + strings.Replace(boiler, "unit_id: 1", "unit_id: 1, every: 1s, time_resolution: 2s", 1), config.CodeWarning, "sensors[0].time_resolution", "the same time"},
		{"unknown unit", base + strings.Replace(boiler, "unit: Cel", "unit: °C", 1), config.CodeWarning, "sensors[0].channels[0].unit", `"°C"`},
		{"coulomb", base + strings.Replace(boiler, "unit: Cel", "unit: C", 1), config.CodeWarning, "sensors[0].channels[0].unit", `unit "C" is the coulomb`},
		{"a budget below one payload", base + boiler + "publish: {max_bytes: 64KiB}\noperations: {per_month: 70}\n", config.CodeWarning, "operations.per_month", "64 operations, and the budget without its reserve is 63"},
		{"a budget below one operation", base + boiler + "operations: {per_month: 1}\n", config.CodeWarning, "operations.per_month", "is 0.9 of an operation: no reading will ever leave"},
		{"open status page", base + boiler + "status: {listen: \":8080\"}\n", config.CodeWarning, "status.listen", "no password"},
		{"update without fleet", base + boiler + "update: {window: \"22:00-02:00\"}\n", config.CodeWarning, "update", "without fleet"},
		{"fleet over http", base + boiler + "fleet: {repository: \"http://f.example.net/acme\", root_file: /r}\n", config.CodeWarning, "fleet.repository", "not encrypted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := load(c.text)
			require.NoError(t, err)
			require.Len(t, got.Warnings, 1)
			w := got.Warnings[0]
			require.Equal(t, c.code, w.Code)
			require.Equal(t, c.path, w.Path)
			require.Contains(t, w.Text, c.say)
			require.NotEmpty(t, w.Remedy)
			require.Positive(t, w.Line)
		})
	}
	for _, text := range []string{
		"publish: {max_bytes: 64KiB}\noperations: {per_month: 80}\n", "publish: {max_bytes: 64KiB}\noperations: {per_month: 70, at_limit: continue}\n",
		"publish: {max_bytes: 64KiB}\noperations: {per_month: 2, bytes_per_operation: 0}\n", "operations: {per_month: 1, reserve: 0%}\n", "publish: {max_bytes: 64KiB}\n",
	} {
		got, err := load(base + boiler + text)
		require.NoError(t, err)
		require.Empty(t, got.Warnings, text)
	}
	got, err := load(base + strings.Replace(boiler, "name: flow, unit: Cel", "name: Charge, unit: C", 1))
	require.NoError(t, err)
	require.Empty(t, got.Warnings)
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]:1884"} {
		got, err := load(strings.Replace(base, "localhost", host, 1) + boiler)
		require.NoError(t, err)
		require.Empty(t, got.Warnings, host)
	}
}

func TestUnits(t *testing.T) {
	for unit, want := range map[string]string{
		"°C": "did you mean Cel?", "C": "did you mean Cel", "degC": "did you mean Cel?", "rh": "did you mean %RH?", "ohm": "did you mean Ohm?", "m³": "did you mean m3?", "m²": "did you mean m2?",
		"µg/m³": "did you mean ug/m3?", "°": "did you mean deg?", "KWH": "did you mean kWh?", "pa": "did you mean Pa?", "furlong": "RFC 8428", "": "", "%RH": "", "kWh": "", "mg/l": "",
	} {
		c, err := load(base + strings.Replace(boiler, "unit: Cel", fmt.Sprintf("unit: %q", unit), 1))
		require.NoError(t, err)
		if want == "" {
			require.Empty(t, c.Warnings, unit)
			continue
		}
		require.Len(t, c.Warnings, 1, unit)
		require.Contains(t, c.Warnings[0].Remedy, want)
	}
}

func TestStateVariable(t *testing.T) {
	t.Setenv(config.StateVariable, "/srv/homeward/")
	c, err := load(base)
	require.NoError(t, err)
	require.Equal(t, "/srv/homeward", c.State)
	c, err = load(base + "state: /srv/homeward\n")
	require.NoError(t, err)
	require.Equal(t, "/srv/homeward", c.State)
	_, err = load(base + "state: /var/lib/homeward\n")
	require.EqualError(t, err, `h.yaml:3:8: state: "/var/lib/homeward": want "/srv/homeward/", as $HOMEWARD_STATE says; or name this folder there too, if the readings are here (systemctl edit homeward: Environment=HOMEWARD_STATE=/var/lib/homeward)`)
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "homeward.yaml")
	_, err := config.Load(path, meters)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(path, []byte(base+boiler), 0o600))
	c, err := config.Load(path, meters)
	require.NoError(t, err)
	require.Equal(t, "gw-1", c.Gateway)
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	_, err = config.Load(path, meters)
	require.EqualError(t, err, path+`:1:1: "x": want a mapping of keys to values`)
}

func TestDiff(t *testing.T) {
	old, err := load(base + boiler)
	require.NoError(t, err)
	again, err := load(base + boiler)
	require.NoError(t, err)
	require.Empty(t, config.Diff(old, again))
	require.Empty(t, config.RestartNeeded(old, again))

	next, err := load(strings.Replace(strings.Replace(base, "cold-chain", "warm-chain", 1), "localhost", "127.0.0.1", 1) +
		"state: /srv\n" + strings.Replace(boiler, "unit_id: 1", "unit_id: 2", 1) + "buffer: {flush: 2s}\n")
	require.NoError(t, err)
	require.Equal(t, []config.Change{
		{Path: "state", Restart: true}, {Path: "home.project", Restart: true}, {Path: "home.url", Restart: true},
		{Path: "sensors"}, {Path: "buffer"},
	}, config.Diff(old, next))
	require.Equal(t, "changed, but not applied until a restart: state, home.project, home.url", config.RestartNeeded(old, next))

	next, err = load(base + boiler + "status: {listen: 127.0.0.1:1}\n")
	require.NoError(t, err)
	require.Equal(t, []config.Change{{Path: "status"}}, config.Diff(old, next))
	require.Empty(t, config.RestartNeeded(old, next))
}

// A driver with several names is told which one was written, not the sensor's name.
func TestAlias(t *testing.T) {
	var asked []string
	f := all.Factories[slices.IndexFunc(all.Factories, func(f drivers.Factory) bool { return f.Name == "bme280" })]
	made := f.New
	f.New = func(name string) drivers.Options { asked = append(asked, name); return made(name) }
	_, err := config.Parse("t", []byte(base+"sensors: [{name: cellar, driver: bmp280, bus: /dev/i2c-1}]\n"), []drivers.Factory{f})
	require.NoError(t, err)
	require.Equal(t, []string{"bmp280"}, asked)
	_, err = config.Parse("t", []byte("\ufeff"+base), nil)
	require.NoError(t, err, "a byte order mark is no mistake")
}

// What is written from a configuration reads back as the same.
func TestMarshal(t *testing.T) {
	c, err := load(base + "status: {listen: 127.0.0.1:8080}\noperations: {per_month: 7200, billing_day: 31}\nfleet: {repository: https://f, root_file: /r}\nupdate: {window: \"22:30-02:00\", daily_bytes: 20MB}\n")
	require.NoError(t, err)
	text, err := yaml.Marshal(c)
	require.NoError(t, err)
	again, err := load(string(text))
	require.NoError(t, err, string(text))
	again.Warnings, c.Warnings = nil, nil
	require.NotEqual(t, c.Digest, again.Digest)
	again.Digest = c.Digest
	require.Equal(t, c, again)
}

func TestValuesReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := config.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "duration"))
		s := config.Size(rapid.Int64Range(0, 1<<40).Draw(t, "size")) * config.Size(rapid.SampledFrom([]int{1, 1000, 1024, 1_000_000}).Draw(t, "unit"))
		p := config.Percent(float64(rapid.IntRange(0, 1000).Draw(t, "permille")) / 1000)
		var d2 config.Duration
		require.NoError(t, d2.UnmarshalText([]byte(d.String())))
		require.Equal(t, d, d2)
		var s2 config.Size
		require.NoError(t, s2.UnmarshalText([]byte(s.String())))
		require.Equal(t, s, s2)
		var p2 config.Percent
		require.NoError(t, p2.UnmarshalText([]byte(p.String())), p.String())
		require.InDelta(t, float64(p), float64(p2), 1e-9)
	})
	require.Equal(t, "5m", config.Duration(5*time.Minute).String())
	require.Equal(t, "24h", config.Duration(24*time.Hour).String())
	require.Equal(t, "10s", config.Duration(10*time.Second).String())
	require.Equal(t, "1h1m1s", config.Duration(time.Hour+time.Minute+time.Second).String())
	require.Equal(t, "0s", config.Duration(0).String())
	require.Equal(t, "512MB", config.Size(512e6).String())
	require.Equal(t, "256KiB", config.Size(256<<10).String())
	require.Equal(t, "1024", config.Size(1024).String())
}

func TestValues(t *testing.T) {
	for text, want := range map[string]config.Size{"0": 0, "1024": 1024, "64KB": 64000, "64KiB": 65536, "512MB": 512e6, "2GB": 2e9, "1TiB": 1 << 40, "7B": 7} {
		var s config.Size
		require.NoError(t, s.UnmarshalText([]byte(text)))
		require.Equal(t, want, s, text)
	}
	for _, text := range []string{"", "KB", "-1", "+1", "1.5MB", "1 MB", "1mb", "1M", "0x10", "1_000", "9223372036854775808", "9300000TB", "1KBB"} {
		require.Error(t, new(config.Size).UnmarshalText([]byte(text)), text)
	}
	for _, text := range []string{"", "10", "101%", "-1%", "%", "1e1%", "NaN%", "0x1p1%", "Inf%", "10 %"} {
		require.Error(t, new(config.Percent).UnmarshalText([]byte(text)), text)
	}
	for _, text := range []string{"", "1", "-1s", "+1s", "1d", "1 s", "s", "9999999999h"} {
		require.Error(t, new(config.Duration).UnmarshalText([]byte(text)), text)
	}
	for _, text := range []string{"", "2-5", "02:00", "02:00-24:00", "02:00-02:00", "2:00-5:00", "02:00-05:60", "02:00-05:00-06:00"} {
		require.Error(t, new(config.Window).UnmarshalText([]byte(text)), text)
	}
	var w config.Window
	require.NoError(t, w.UnmarshalText([]byte("22:30-02:00")))
	require.Equal(t, config.Window{From: 22*time.Hour + 30*time.Minute, To: 2 * time.Hour}, w)
}

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), mode))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for name, content := range map[string]string{"plain": "hunter2", "newline": "hunter2\n", "crlf": "hunter2\r\n"} {
		secret, err := config.ReadSecret(file(name, content, 0o600))
		require.NoError(t, err)
		require.Equal(t, "hunter2", string(secret), name)
	}
	secret, err := config.ReadSecret(file("two", "hunter2\n\n", 0o400))
	require.NoError(t, err)
	require.Equal(t, "hunter2\n", string(secret), "only one newline is not part of it")

	file("mqtt", "hunter2\n", 0o440) // systemd's own modes
	secret, err = config.ReadSecret("credential:mqtt")
	require.NoError(t, err)
	require.Equal(t, "hunter2", string(secret))

	open := file("open", "hunter2", 0o640)
	for ref, want := range map[string]string{
		open:                            "config: secret " + open + ": mode 0640 lets others at it: chmod 600 " + open,
		file("world", "hunter2", 0o604): "chmod 600",
		file("empty", "\n", 0o600):      "is empty",
		file("large", strings.Repeat("x", 1<<17), 0o600): "larger than 65536 bytes",
		dir:                           "is no regular file",
		filepath.Join(dir, "missing"): "no such file",
		"credential:missing":          "no such file",
		"credential:../etc/passwd":    "want a name of letters",
		"credential:..":               "want a name of letters",
		"credential:":                 "want a name of letters",
	} {
		_, err := config.ReadSecret(ref)
		require.ErrorContains(t, err, want, ref)
		require.NotContains(t, err.Error(), "hunter2")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	_, err = config.ReadSecret("credential:mqtt")
	require.ErrorContains(t, err, "LoadCredential=mqtt:FILE")
}
