// Package config turns one YAML file into the typed configuration of a gateway.
//
// What it promises: the file is read strictly, and everything that is wrong with it is reported at once
// ([Problems]), each with file, line, column, the bad value and what would be right; a
// key that nobody knows comes with a guess at the one that was meant. A [Config] that
// [Load] or [Parse] returned has been checked: its defaults are filled in, its values are in
// range, its names are unique and every alarm names a channel that exists. Reading a hostile
// file takes bounded time and memory and never panics.
//
// What it does not do: it opens no device, no network and no other file, so a configuration
// can be checked anywhere. Secrets never stand in it; [ReadSecret] fetches them when they are needed.
package config

import (
	"slices"
	"time"
	_ "time/tzdata" // not every gateway has it

	"homeward/drivers"
)

// The tags of a field say everything about its key, for the decoder, the JSON Schema and the
// documentation alike: yaml (omitempty: the key may be left out), doc, default, enum (allowed values), later
// (values of later releases), min and max (both included), example. A pattern helps editors; the checks of Parse
// say more than it could.

// Config is the whole configuration.
type Config struct {
	Gateway    string     `yaml:"gateway" doc:"id of this gateway: 1 to 64 of a-z 0-9 . _ -" pattern:"^[a-z0-9._-]{1,64}$" example:"gw-0017"`
	State      string     `yaml:"state,omitempty" default:"/var/lib/homeward" pattern:"^/" doc:"folder below which the gateway writes everything it writes; an absolute path; where $HOMEWARD_STATE is set it is the default and state must agree with it"`
	Home       Home       `yaml:"home" doc:"where the readings go"`
	Sensors    []Sensor   `yaml:"sensors,omitempty" doc:"the instruments"`
	Publish    Publish    `yaml:"publish,omitempty" doc:"how and when readings are published"`
	Operations Operations `yaml:"operations,omitempty" doc:"the month's budget of data operations"`
	Buffer     Buffer     `yaml:"buffer,omitempty" doc:"how much is kept, and how safely"`
	Fleet      *Fleet     `yaml:"fleet,omitempty" doc:"where signed orders and releases come from; without it releases are installed by hand"`
	Update     *Update    `yaml:"update,omitempty" doc:"when releases are installed, and how much may be fetched for them"`
	Status     Status     `yaml:"status,omitempty" doc:"the local status page"`

	// Digest is the SHA-256 of the file, in hex: whether two configurations are the same.
	Digest string `yaml:"-"`
	// Warnings are what is allowed but hardly meant.
	Warnings []Warning `yaml:"-"`
}

// Home is where the readings go.
type Home struct {
	Cloud        string `yaml:"cloud,omitempty" default:"mqtt" enum:"mqtt" later:"losant,particle,studio" doc:"kind of the home"`
	Organization string `yaml:"organization" doc:"who pays; second level of the topics" example:"acme"`
	Project      string `yaml:"project" doc:"where readings go and are billed; third level of the topics" example:"cold-chain"`
	Product      string `yaml:"product" doc:"which hardware and firmware line this gateway is" example:"gateway-v2"`
	URL          string `yaml:"url" doc:"the broker: mqtt:// (no encryption), tls://, ws:// (no encryption) or wss://, host, and a port where it is not the usual one" pattern:"^(mqtt|tls|ws|wss)://[^@?#]+$" example:"tls://broker.example.net:8883"`
	Username     string `yaml:"username,omitempty" doc:"user name at the broker" example:"gw-0017"`
	PasswordFile string `yaml:"password_file,omitempty" doc:"file that holds the password (mode 0600), or credential:NAME for a systemd credential" example:"/etc/homeward/password"`
	CAFile       string `yaml:"ca_file,omitempty" doc:"PEM file of the authorities that the broker's certificate must come from; default: the system's" example:"/etc/homeward/ca.pem"`
	CertFile     string `yaml:"cert_file,omitempty" doc:"PEM file of this gateway's certificate, for brokers that ask for one" example:"/etc/homeward/gateway.pem"`
	KeyFile      string `yaml:"key_file,omitempty" doc:"PEM file of the certificate's key (mode 0600), or credential:NAME" example:"/etc/homeward/gateway.key"`
	Prefix       string `yaml:"prefix,omitempty" default:"homeward" doc:"first level of the topics"`
	ClientID     string `yaml:"client_id,omitempty" doc:"MQTT client id; default: <gateway>-<epoch>" example:"gw-0017-1"`
}

// Sensor is one instrument: what all have in common, and its driver's own part.
type Sensor struct {
	Name           string   `yaml:"name" doc:"name of the sensor; a channel's full name is sensor/channel" example:"boiler"`
	Driver         string   `yaml:"driver" doc:"which driver reads it" example:"modbus"`
	Every          Duration `yaml:"every,omitempty" default:"10s" min:"10ms" max:"24h" doc:"how often it is read"`
	Timeout        Duration `yaml:"timeout,omitempty" min:"1ms" max:"1m" doc:"how long one exchange with it may take; default: 1s, or every where that is shorter; 3s for instruments that talk by themselves (nmea, line without ask)" example:"500ms"`
	Deadband       *float64 `yaml:"deadband,omitempty" min:"0" doc:"for channels that have none of their own: do not record a value closer than this to the last one recorded" example:"0.1"`
	OnChange       *bool    `yaml:"on_change,omitempty" doc:"for channels that do not say themselves: record a value only when it differs from the last one recorded" example:"true"`
	Resolution     *float64 `yaml:"resolution,omitempty" min:"0" max:"1000000000" doc:"for channels that have none of their own: a value is recorded as the nearest multiple of this; 0: as the instrument gives it" example:"0.1"`
	TimeResolution Duration `yaml:"time_resolution,omitempty" min:"1ms" max:"1h" doc:"the time of its readings is published as the nearest multiple of this; default: 100ms (every below 1s: 10ms, below 100ms: 1ms); 1ms for instruments that talk by themselves (nmea, line without ask)" example:"1s"`
	Min            *float64 `yaml:"min,omitempty" doc:"for channels that have none of their own: values below are recorded with quality suspect" example:"-40"`
	Max            *float64 `yaml:"max,omitempty" doc:"for channels that have none of their own: values above are recorded with quality suspect" example:"85"`
	Disabled       bool     `yaml:"disabled,omitempty" default:"false" doc:"do not read it"`

	// Options is the driver's part, checked.
	Options drivers.Options `yaml:"-"`
	// Channels are what Options.Channels gives, with the sensor's deadband, on_change, resolution,
	// min and max where the channel has none. Names are the channels' own; see [Sensor.Full].
	Channels []drivers.Channel `yaml:"-"`
}

// Full is the full name of a channel of s.
func (s *Sensor) Full(channel string) string { return s.Name + "/" + channel }

// Publish says how and when readings leave.
type Publish struct {
	Format       string   `yaml:"format,omitempty" default:"rows" enum:"rows,packed,senml" doc:"what a payload looks like: rows is JSON that anyone can read; packed carries some 20 times as many readings, for whoever runs a decoder (docs/packed.md); senml is RFC 8428, for whoever demands the standard: far fewer readings fit"`
	Encoding     string   `yaml:"encoding,omitempty" default:"text" enum:"text,text85,binary" doc:"letters of packed payloads: text stands in a JSON string as it is, text85 is also safe where HTML is escaped (2 % fewer readings), binary is bytes, for receivers that take any (some 20 % more)"`
	MaxBytes     Size     `yaml:"max_bytes,omitempty" default:"1024" min:"256" max:"256KiB" doc:"a payload is never larger; what the home bills as one operation is a good choice"`
	MaxAge       Duration `yaml:"max_age,omitempty" default:"5m" min:"100ms" max:"720h" doc:"no ordinary reading waits longer before it is published, while the home is reached and the month's budget lasts (operations)"`
	Alarms       []Alarm  `yaml:"alarms,omitempty" doc:"channels whose readings leave at once when they cross a limit"`
	Acknowledge  string   `yaml:"acknowledge,omitempty" default:"proven" enum:"proven,puback,receiver" doc:"when a reading counts as delivered: proven (acknowledged by a broker that was seen to pass on what it acknowledges), puback (acknowledged), receiver (a receiver says so on the topic acks)"`
	BacklogShare Percent  `yaml:"backlog_share,omitempty" default:"50%" min:"1%" max:"100%" doc:"how much of the sending may be backlog while newer readings wait too"`
	Window       int      `yaml:"window,omitempty" default:"0" min:"0" max:"1000" doc:"payloads that may be on their way unacknowledged; 0: as many as suit the kind of home"`
	Rate         Rate     `yaml:"rate,omitempty" doc:"most publishes of readings and alarms in any time of this length; default: what the kind of home allows" example:"30/15s"`
}

// Alarm names a channel whose readings leave at once outside of limits. At least one limit is set.
type Alarm struct {
	Channel string   `yaml:"channel" doc:"full name of the channel" example:"tank/level"`
	Above   *float64 `yaml:"above,omitempty" doc:"a value above this is an alarm" example:"2.9"`
	Below   *float64 `yaml:"below,omitempty" doc:"a value below this is an alarm" example:"0.2"`
}

// Operations is the month's budget.
type Operations struct {
	PerMonth   int64   `yaml:"per_month,omitempty" default:"0" min:"0" max:"1000000000000" doc:"data operations that this gateway may use in a billing month; 0: no budget" example:"7200"`
	BillingDay int     `yaml:"billing_day,omitempty" default:"1" min:"1" max:"31" doc:"day on which the billing month begins, at midnight of time_zone; in shorter months the last day"`
	TimeZone   string  `yaml:"time_zone,omitempty" default:"UTC" doc:"time zone of the billing month, as the tz database names it" example:"Europe/Berlin"`
	PerBytes   Size    `yaml:"bytes_per_operation,omitempty" default:"1024" min:"0" max:"1MiB" doc:"a publish is one operation for each started so many bytes of its payload; 0: one operation whatever its size"`
	Reserve    Percent `yaml:"reserve,omitempty" default:"10%" min:"0%" max:"90%" doc:"share of the budget that is kept for alarms; beyond it they take what is left for readings"`
	AtLimit    string  `yaml:"at_limit,omitempty" default:"hold" enum:"hold,thin,continue" doc:"what happens to readings that the budget does not carry: hold keeps them until it does; thin sends min, mean and max of each channel and interval instead; continue sends them beyond the budget. With hold and thin a budget that is used up keeps alarms too"`

	Zone *time.Location `yaml:"-"` // TimeZone's
}

// Buffer says how much is kept, and how safely.
type Buffer struct {
	MaxBytes Size     `yaml:"max_bytes,omitempty" default:"512MB" min:"8MB" max:"1TB" doc:"the buffer takes no more of the disk than this"`
	KeepFree Size     `yaml:"keep_free,omitempty" default:"256MB" min:"0" max:"1TB" doc:"the buffer leaves this much of the file system free"`
	Flush    Duration `yaml:"flush,omitempty" default:"1s" min:"10ms" max:"1m" doc:"how often readings are forced to disk: what a power cut may cost"`
	WhenFull string   `yaml:"when_full,omitempty" default:"drop-oldest" enum:"drop-oldest,stop-sampling" doc:"what gives way when the buffer is full"`
}

// Fleet says where signed orders and releases are found.
type Fleet struct {
	Repository string   `yaml:"repository" doc:"address of the fleet's folder: https://, http:// or file://" example:"https://fleet.example.net/acme"`
	RootFile   string   `yaml:"root_file" doc:"the fleet's root of trust: the root.json that homeward-fleet init wrote" example:"/etc/homeward/root.json"`
	Every      Duration `yaml:"every,omitempty" default:"1h" min:"1m" max:"720h" doc:"how often it is looked at; each time is moved by up to a tenth, so that a fleet does not come at once"`
}

// Update says when releases are installed.
type Update struct {
	Window     Window `yaml:"window,omitempty" doc:"time of day in which a fetched release may be started, local time; default: at any time" example:"02:00-05:00"`
	DailyBytes Size   `yaml:"daily_bytes,omitempty" default:"0" min:"0" max:"1TB" doc:"most that is fetched from the repository in a day; what is fetched by halves goes on the next day; 0: no limit" example:"20MB"`
}

// Status is the local page.
type Status struct {
	Listen string `yaml:"listen,omitempty" doc:"host:port on which status page, JSON and metrics are served over HTTP; default: not at all" example:"127.0.0.1:8080"`
}

// The codes of warnings.
const (
	CodeWarning = "config.warning"
)

// Warning is something that is allowed but hardly meant.
type Warning struct {
	Code   string `json:"code"`
	Path   string `json:"path"` // of the key, as in [Problem]
	Line   int    `json:"line"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

// driverNames lists what `driver:` may be.
func driverNames(factories []drivers.Factory) []string {
	var names []string
	for _, f := range factories {
		names = append(append(names, f.Name), f.Aliases...)
	}
	slices.Sort(names)
	return names
}

func findDriver(factories []drivers.Factory, name string) *drivers.Factory {
	for i, f := range factories {
		if f.Name == name || slices.Contains(f.Aliases, name) {
			return &factories[i]
		}
	}
	return nil
}
