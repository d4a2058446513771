package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"homeward/configs/plainyaml"
	"homeward/drivers"
)

// StateVariable is the environment variable that names the state folder.
const StateVariable = "HOMEWARD_STATE"

// Load reads a configuration file. factories are the drivers that it may name. The error is a
// *[Problems] unless the file cannot be read at all.
func Load(path string, factories []drivers.Factory) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, factories)
}

// read takes no more of a file than shows that it is too long. It waits for nobody: the agent reads its file again while it
// works, and would stand still at a pipe.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("config: %s: %s: want a regular file", path, fileKind(info.Mode()))
	}
	data, err := io.ReadAll(io.LimitReader(f, plainyaml.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return data, nil
}

func fileKind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	default:
		return "a device or the like"
	}
}

// Parse reads a configuration; name stands in its problems as the file.
func Parse(name string, data []byte, factories []drivers.Factory) (*Config, error) {
	return parse(name, data, factories, os.Getenv)
}

func parse(name string, data []byte, factories []drivers.Factory, getenv func(string) string) (*Config, error) {
	d := newDecoder(name, factories)
	sum := sha256.Sum256(data)
	c := &Config{Digest: hex.EncodeToString(sum[:])}
	setDefaults(reflect.ValueOf(c).Elem())
	if root := d.parse(data); root.Given() {
		d.at[""] = root
		d.decode(root, reflect.ValueOf(c).Elem())
		d.check(c, getenv)
	}
	if len(d.problems.List) > 0 {
		d.problems.sort()
		return nil, &d.problems
	}
	return c, nil
}

const defaultTimeout = Duration(time.Second)

// check looks at what a key's type and limits can not say.
func (d *decoder) check(c *Config, getenv func(string) string) {
	if _, given := d.at["gateway"]; given && !isID(c.Gateway) {
		d.problem("gateway", d.shown("gateway"), "1 to 64 of a-z 0-9 . _ -")
	}
	d.checkState(c, getenv)
	d.checkHome(c)
	d.checkSensors(c)
	d.checkEncoding(c)
	d.checkSenML(c)
	d.checkFit(c)
	d.checkAlarms(c)
	d.checkZone(c)
	d.checkBudget(c)
	d.checkStatus(c)
	d.checkFleet(c)
}

func isID(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

func (d *decoder) warn(c *Config, code, path, text, remedy string) {
	c.Warnings = append(c.Warnings, Warning{Code: code, Path: path, Line: d.where(path).Line, Text: text, Remedy: remedy})
}

func (d *decoder) checkState(c *Config, getenv func(string) string) {
	env := getenv(StateVariable)
	_, given := d.at["state"]
	if env != "" && !given {
		c.State = env
	}
	switch {
	case !filepath.IsAbs(c.State):
		d.problem("state", plainyaml.Quote(c.State), "an absolute path such as /var/lib/homeward")
	case env != "" && filepath.Clean(env) != filepath.Clean(c.State):
		d.problem("state", d.shown("state"), fmt.Sprintf("%q, as $%s says; or name this folder there too, if the readings are here (systemctl edit homeward: Environment=%s=%s)", env, StateVariable, StateVariable, c.State))
	}
	c.State = filepath.Clean(c.State)
}

func (d *decoder) checkHome(c *Config) {
	h := &c.Home
	for _, level := range []struct{ key, value string }{
		{"organization", h.Organization}, {"project", h.Project}, {"product", h.Product}, {"prefix", h.Prefix},
	} {
		path := "home." + level.key
		switch _, given := d.at[path]; {
		case !given && level.value == "": // reported as missing
		case !drivers.IsName(level.value):
			d.problem(path, d.shown(path), drivers.WantName)
		case strings.HasPrefix(level.value, "$"):
			d.problem(path, d.shown(path), "no $ at the beginning: such topics belong to the broker")
		}
	}
	if _, given := d.at["home.client_id"]; given && (h.ClientID == "" || !drivers.IsName(h.ClientID)) {
		d.problem("home.client_id", d.shown("home.client_id"), drivers.WantName)
	}
	if _, given := d.at["home.url"]; given {
		d.checkURL(c)
	}
	if h.PasswordFile != "" && h.Username == "" {
		d.problem("home.username", "missing", "the user name that the password belongs to")
	}
	if (h.CertFile == "") != (h.KeyFile == "") {
		missing := "home.cert_file"
		if h.KeyFile == "" {
			missing = "home.key_file"
		}
		d.problem(missing, "missing", "both cert_file and key_file, or neither")
	}
	for _, ref := range []struct {
		key, value string
		secret     bool
	}{
		{"password_file", h.PasswordFile, true}, {"ca_file", h.CAFile, false}, {"cert_file", h.CertFile, false}, {"key_file", h.KeyFile, true},
	} {
		path := "home." + ref.key
		if _, given := d.at[path]; given {
			d.checkRef(path, ref.value, ref.secret)
		}
	}
}

// checkRef looks at the name of a file; a secret's may also be that of a credential.
func (d *decoder) checkRef(path, ref string, secret bool) {
	name, credential := strings.CutPrefix(ref, credentialPrefix)
	switch {
	case secret && credential && !isCredential(name):
		d.problem(path, "not a credential's name", "credential:NAME with a name of letters, digits and . _ -")
	case secret && !credential && !filepath.IsAbs(ref): // it may be the secret itself, typed into the wrong place
		d.problem(path, "no absolute path (not shown: it could be a secret)", "an absolute path such as /etc/homeward/password, or credential:NAME")
	case !secret && !filepath.IsAbs(ref):
		d.problem(path, d.shown(path), "an absolute path such as /etc/homeward/ca.pem")
	}
}

const wantURL = "an address such as tls://broker.example.net:8883; mqtt://, tls://, ws:// or wss://"

// checkURL never repeats an address that has a password in it.
func (d *decoder) checkURL(c *Config) {
	const path = "home.url"
	if strings.Contains(c.Home.URL, "@") {
		d.problem(path, "an address with user or password in it", wantURL+", with username and password_file as keys of their own")
		return
	}
	u, err := url.Parse(c.Home.URL)
	if err != nil {
		d.problem(path, d.shown(path), wantURL)
		return
	}
	secure, known := map[string]bool{"mqtt": false, "ws": false, "tls": true, "wss": true}[u.Scheme]
	port, perr := strconv.Atoi(u.Port())
	switch {
	case u.RawQuery != "", u.Fragment != "":
		d.problem(path, "an address with a query or fragment (not shown: it could hold a secret)", wantURL)
		return
	case !known, u.Hostname() == "":
		d.problem(path, d.shown(path), wantURL)
		return
	case u.Port() != "" && (perr != nil || port < 1 || port > 65535), strings.HasSuffix(u.Host, ":"):
		d.problem(path, d.shown(path), "a port from 1 to 65535, or none")
		return
	case u.Path != "" && u.Path != "/" && (u.Scheme == "mqtt" || u.Scheme == "tls"):
		d.problem(path, d.shown(path), "no path after the host: only ws:// and wss:// have one")
		return
	}
	if secure {
		return
	}
	for key, value := range map[string]string{"ca_file": c.Home.CAFile, "cert_file": c.Home.CertFile} {
		if value != "" {
			d.problem("home."+key, "used without encryption", "tls:// or wss:// in home.url")
		}
	}
	if !loopback(u.Hostname()) {
		d.warn(c, CodeWarning, path, u.Scheme+":// to another machine is not encrypted: anyone on the way can read and change what is sent, the password included",
			"use tls:// or wss://, or a broker on this machine")
	}
}

func (d *decoder) checkSensors(c *Config) {
	if len(c.Sensors) == 0 {
		d.warn(c, CodeWarning, "sensors", "no sensors: nothing will be read", "add one under sensors:")
	}
	first := map[string]string{} // names, and where they were first
	lines := map[string]string{} // serial ports, and who set them first
	read := map[chipKey][]int{}  // the sensors that read a chip
	for i := range c.Sensors {
		s, path := &c.Sensors[i], fmt.Sprintf("sensors[%d]", i)
		namePath := path + ".name"
		if _, given := d.at[namePath]; given {
			switch {
			case !drivers.IsName(s.Name):
				d.problem(namePath, d.shown(namePath), drivers.WantName)
			case first[s.Name] != "":
				d.problem(namePath, d.shown(namePath), fmt.Sprintf("a name of its own: %s has it already (line %d)", first[s.Name], d.where(first[s.Name]).Line))
			default:
				first[s.Name] = path
			}
		}
		d.checkTimes(c, s, path)
		if s.Min != nil && s.Max != nil && *s.Min > *s.Max {
			d.problem(path+".max", d.shown(path+".max"), "not less than min")
		}
		if s.Options == nil {
			continue
		}
		n := len(d.problems.List)
		for _, f := range s.Options.Check() {
			d.fault(path, f)
		}
		if len(d.problems.List) > n || d.brokenBelow(path) {
			continue
		}
		d.checkChannels(c, s, path)
		bus := s.Options.Bus()
		if bus.Kind != drivers.Serial && bus.Kind != drivers.TCP {
			d.checkChip(c, read, i, path)
			continue
		}
		if other, taken := lines[bus.Name]; !taken {
			lines[bus.Name] = path
		} else if o := d.optionsOf(c, other); talks(o) || talks(s.Options) {
			d.problem(path, plainyaml.Quote(bus.Name), fmt.Sprintf("a port of its own: an instrument that talks by itself shares it with none, and %s has it too", other))
		} else if o := o.Bus(); o.Line != bus.Line {
			d.problem(path+".line", d.shown(path+".line"), fmt.Sprintf("%v, as %s has it on the same port", o.Line, other))
		}
	}
}

func (d *decoder) optionsOf(c *Config, path string) drivers.Options {
	i, _ := strconv.Atoi(strings.Trim(strings.TrimPrefix(path, "sensors"), "[]"))
	return c.Sensors[i].Options
}

func talks(o drivers.Options) bool {
	_, ok := drivers.Talks(o)
	return ok
}

func (d *decoder) brokenBelow(path string) bool {
	for p := range d.failed {
		if p == path || strings.HasPrefix(p, path+".") {
			return true
		}
	}
	return false
}

func (d *decoder) checkTimes(c *Config, s *Sensor, path string) {
	patience, talks := drivers.Talks(s.Options)
	if _, given := d.at[path+".time_resolution"]; !given {
		s.TimeResolution = defaultTimeResolution(s.Every, talks)
	} else if s.TimeResolution%Duration(time.Millisecond) != 0 {
		d.problem(path+".time_resolution", d.shown(path+".time_resolution"), "whole milliseconds, 1ms to 1h")
	} else if s.TimeResolution > s.Every && !talks && !d.brokenBelow(path) {
		d.warn(c, CodeWarning, path+".time_resolution", fmt.Sprintf("time_resolution %v is longer than every %v: several readings of a channel get the same time", s.TimeResolution, s.Every),
			"make every longer or time_resolution shorter")
	}
	if _, given := d.at[path+".timeout"]; !given {
		s.Timeout = min(defaultTimeout, s.Every)
		if talks {
			s.Timeout = Duration(patience)
		}
	} else if talks { // it may well be silent for longer than every
	} else if s.Timeout > s.Every && !d.brokenBelow(path) {
		d.warn(c, CodeWarning, path+".timeout", fmt.Sprintf("timeout %v is longer than every %v: when %s is silent, polls are missed", s.Timeout, s.Every, s.Name),
			"make timeout shorter or every longer")
	}
}

// defaultTimeResolution is fine enough to tell a sensor's polls apart; an instrument that talks by itself says when.
func defaultTimeResolution(every Duration, talks bool) Duration {
	switch {
	case talks || every < Duration(100*time.Millisecond):
		return Duration(time.Millisecond)
	case every < Duration(time.Second):
		return Duration(10 * time.Millisecond)
	}
	return Duration(100 * time.Millisecond)
}

// fault turns a driver's complaint into a problem at its place.
func (d *decoder) fault(sensor string, f drivers.Fault) {
	path := sensor
	if f.Path != "" {
		path = plainyaml.Join(sensor, f.Path)
	}
	bad := d.shown(path)
	if !d.at[path].Single() && f.Bad != nil {
		bad = plainyaml.Quote(fmt.Sprint(f.Bad))
	}
	d.problem(path, bad, f.Want)
}

// checkChannels fills the resolved channels of a sensor.
func (d *decoder) checkChannels(c *Config, s *Sensor, path string) {
	s.Channels = slices.Clone(s.Options.Channels())
	seen := map[string]bool{}
	for i := range s.Channels {
		ch := &s.Channels[i]
		at := fmt.Sprintf("%s.channels[%d]", path, i)
		if _, listed := d.at[at]; !listed {
			at = path
		}
		namePath := at + ".name"
		switch {
		case !drivers.IsName(ch.Name):
			d.problem(namePath, d.shown(namePath), drivers.WantName)
		case seen[ch.Name]:
			d.problem(namePath, d.shown(namePath), "a name that no other channel of this sensor has")
		}
		seen[ch.Name] = true
		if ch.Deadband == nil {
			ch.Deadband = s.Deadband
		}
		if ch.OnChange == nil {
			ch.OnChange = s.OnChange
		}
		if ch.Resolution == nil {
			ch.Resolution = s.Resolution
		}
		if ch.Min == nil {
			ch.Min = s.Min
		}
		if ch.Max == nil {
			ch.Max = s.Max
		}
		if ch.Deadband != nil && *ch.Deadband < 0 {
			d.problem(at+".deadband", d.shown(at+".deadband"), "at least 0")
		}
		if ch.Min != nil && ch.Max != nil && *ch.Min > *ch.Max {
			d.problem(at+".max", d.shown(at+".max"), "not less than min")
		}
		if ch.Unit != nil {
			d.checkUnit(c, *ch.Unit, at+".unit", s.Full(ch.Name))
		}
	}
	if len(s.Channels) == 0 {
		d.problem(path+".channels", "none", "at least one")
	}
}

func (d *decoder) checkUnit(c *Config, u drivers.Unit, path, full string) {
	if _, given := d.at[path]; given && u == "C" && !strings.Contains(strings.ToLower(full), "charge") {
		d.warn(c, CodeWarning, path, `unit "C" is the coulomb, of electric charge`, "did you mean Cel, degrees Celsius?")
		return
	}
	if u == "" || u.Known() {
		return
	}
	if len(u) > 32 || !utf8.ValidString(string(u)) || strings.ContainsFunc(string(u), func(r rune) bool { return !unicode.IsGraphic(r) }) {
		d.problem(path, d.shown(path), "a SenML unit such as Cel, %RH, Pa, V or kWh")
		return
	}
	remedy := "take a unit of RFC 8428 §12.1 or RFC 8798, or leave it if receivers know yours"
	if g := guessUnit(u); g != "" {
		remedy = "did you mean " + g + "? Or leave it if receivers know yours"
	}
	d.warn(c, CodeWarning, path, fmt.Sprintf("unit %q is not a SenML unit", u), remedy)
}

func (d *decoder) checkAlarms(c *Config) {
	known := map[string]bool{}
	for i := range c.Sensors {
		for _, ch := range c.Sensors[i].Channels {
			known[c.Sensors[i].Full(ch.Name)] = true
		}
	}
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, a := range c.Publish.Alarms {
		path := fmt.Sprintf("publish.alarms[%d]", i)
		switch {
		case a.Channel == "" || known[a.Channel] || d.unsure(c, a.Channel):
		default:
			want := "the full name of a channel, sensor/channel"
			if g := d.Guess(a.Channel, names); g != "" {
				want = "did you mean " + g + "?"
			}
			d.problem(path+".channel", d.shown(path+".channel"), want)
		}
		switch {
		case a.Above == nil && a.Below == nil:
			d.problem(path+".above", "missing", "above, below or both")
		case a.Above != nil && a.Below != nil && *a.Above < *a.Below:
			d.problem(path+".above", d.shown(path+".above"), "not less than below: every value would be an alarm")
		}
	}
}

// onePayload is a payload of one reading with the longest numbers, without its names, by format.
var onePayload = map[string]string{
	"rows":  `{"gw":"","e":4294967295,"s":18446744073709551615,"n":1,"t":9007199254740992,"g":[{"c":[""],"u":[""],"r":[[0,-1.7976931348623157e+308]],"q":[[null,"stale-clock"]]}]}`,
	"senml": `[{"bver":26,"bn":"/","hwe":4294967295,"hws":18446744073709551615,"bt":253402300799.999,"n":"","u":"","v":-1.7976931348623157e+308,"hwt":-62167219200000,"hwq":"stale-clock"}]`,
}

func (d *decoder) checkEncoding(c *Config) {
	const path = "publish.encoding"
	if _, given := d.at[path]; given && c.Publish.Format != "packed" {
		d.warn(c, CodeWarning, path, fmt.Sprintf("publish.encoding says nothing about publish.format %s", c.Publish.Format), "leave it out, or use publish.format: packed")
	}
}

// checkSenML makes sure that what is to go out as SenML has names that the standard allows (RFC 8428 §4.5.1).
func (d *decoder) checkSenML(c *Config) {
	if c.Publish.Format != "senml" {
		return
	}
	const want = "letters a-z A-Z, digits and - : . _ alone, since publish.format is senml"
	if !drivers.IsSenMLName(c.Gateway) {
		d.problem("gateway", d.shown("gateway"), "a letter or digit first, since publish.format is senml")
	}
	for i := range c.Sensors {
		s, path := &c.Sensors[i], fmt.Sprintf("sensors[%d]", i)
		if s.Name != "" && !drivers.IsSenMLName("x"+s.Name) {
			d.problem(path+".name", d.shown(path+".name"), want)
			continue
		}
		for k, ch := range s.Channels {
			if at := fmt.Sprintf("%s.channels[%d].name", path, k); ch.Name != "" && !drivers.IsSenMLName("x"+ch.Name) {
				d.problem(at, d.shown(at), want)
			}
		}
	}
}

// checkFit makes sure that each reading fits into a payload.
func (d *decoder) checkFit(c *Config) {
	most, channel := 0, ""
	for i := range c.Sensors {
		for _, ch := range c.Sensors[i].Channels {
			full := c.Sensors[i].Full(ch.Name)
			format := c.Publish.Format
			if format == "packed" {
				format = "rows" // as alarms are
			}
			n := len(onePayload[format]) + len(c.Gateway) + jsonSize(full)
			if ch.Unit != nil {
				n += jsonSize(string(*ch.Unit))
			}
			if n > most {
				most, channel = n, full
			}
		}
	}
	if int64(c.Publish.MaxBytes) < int64(most) {
		d.problem("publish.max_bytes", plainyaml.Quote(c.Publish.MaxBytes.String()), fmt.Sprintf("at least %d, for one reading of %s, or a shorter name", most, channel))
	}
}

// jsonSize is the most bytes that s takes inside of a JSON string.
func jsonSize(s string) int {
	text, _ := json.Marshal(s) // a string cannot fail
	return len(text) - 2
}

// unsure says that a channel may well be one of a sensor that has problems of its own.
func (d *decoder) unsure(c *Config, channel string) bool {
	for i := range c.Sensors {
		s := &c.Sensors[i]
		if s.Channels == nil && (s.Name == "" || strings.HasPrefix(channel, s.Name+"/")) {
			return true
		}
	}
	return false
}

func (d *decoder) checkStatus(c *Config) {
	const path = "status.listen"
	if _, given := d.at[path]; !given {
		return
	}
	host, port, err := net.SplitHostPort(c.Status.Listen)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 0 || n > 65535 {
		d.problem(path, d.shown(path), "host:port such as 127.0.0.1:8080, or :8080 for every interface")
		return
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		d.warn(c, CodeWarning, path, "the status page asks for no password, and can be read by anyone who reaches "+c.Status.Listen, "use 127.0.0.1, or a firewall")
	}
}

func (d *decoder) checkZone(c *Config) {
	const path = "operations.time_zone"
	var err error
	if c.Operations.Zone, err = time.LoadLocation(c.Operations.TimeZone); err != nil || c.Operations.TimeZone == "Local" {
		c.Operations.Zone = time.UTC
		d.problem(path, d.shown(path), "UTC, or a name of the tz database such as Europe/Berlin")
	}
}

// checkBudget warns of a budget that no reading is within, or no full payload: those are made smaller then.
func (d *decoder) checkBudget(c *Config) {
	const path = "operations.per_month"
	o := &c.Operations
	payload, ordinary := int64(1), float64(o.PerMonth)*(1-float64(o.Reserve))
	if o.PerBytes > 0 {
		payload = (int64(c.Publish.MaxBytes) + int64(o.PerBytes) - 1) / int64(o.PerBytes)
	}
	switch {
	case o.PerMonth == 0 || o.AtLimit == "continue" || float64(payload) <= ordinary:
	case ordinary < 1:
		d.warn(c, CodeWarning, path, fmt.Sprintf("the budget without its reserve is %.4g of an operation: no reading will ever leave", ordinary), "raise operations.per_month, or lower operations.reserve")
	default:
		d.warn(c, CodeWarning, path, fmt.Sprintf("a payload of publish.max_bytes is %d operations, and the budget without its reserve is %.4g: payloads will be smaller", payload, ordinary),
			"raise operations.per_month, or lower publish.max_bytes or operations.reserve")
	}
}

// loopback says that a host is this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkFleet looks at where releases come from.
func (d *decoder) checkFleet(c *Config) {
	if c.Fleet == nil {
		if _, given := d.at["update"]; given {
			d.warn(c, CodeWarning, "update", "says nothing without fleet: no release is fetched", "name the fleet's repository and root (fleet:), or leave it out")
		}
		return
	}
	u, err := url.Parse(c.Fleet.Repository)
	if c.Fleet.Repository != "" && (err != nil || !slices.Contains([]string{"https", "http", "file"}, u.Scheme) || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme == "file" && (u.Host != "" || u.Path == "") || u.Scheme != "file" && u.Host == "") {
		bad := d.shown("fleet.repository")
		if strings.ContainsAny(c.Fleet.Repository, "@?#") {
			bad = "an address with user, password, query or fragment (not shown)"
		}
		d.problem("fleet.repository", bad, "an address such as https://fleet.example.net/acme, or file:///media/usb/acme, without user or password")
	} else if err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
		d.warn(c, CodeWarning, "fleet.repository", "not encrypted: whoever carries it can see which releases are fetched, though not change them", "https://, if the server offers it")
	}
	if c.Fleet.RootFile != "" {
		d.checkRef("fleet.root_file", c.Fleet.RootFile, false)
	}
}
