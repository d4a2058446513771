// Package drivers holds the words that every instrument is described with:
// [Sensor], [Reading], [Unit], [Factory], and the errors that say whether a
// retry helps. One package below it holds one instrument or protocol.
//
// What a driver promises:
//
//   - [Options.Open] talks to the instrument where it has an identity or a
//     calibration, and fails clearly when it is not the expected one.
//   - [Sensor.Read] is synchronous and never makes a number up: a bus error, a
//     failed check (CRC, identity, range of the raw value) or an unplugged wire
//     is an error, not a reading.
//   - It starts no goroutine and keeps no schedule; the sampler owns time, and
//     is the only caller: one Read at a time on one bus.
//
// What it may lose: a reading of which the instrument gave no good answer. The
// sampler counts it.
package drivers

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Unit is a SenML unit symbol: RFC 8428 §12.1 (primary) or RFC 8798 §3
// (secondary, such as kWh). Empty means a bare number.
type Unit string

// Quality says how far a reading can be trusted.
type Quality uint8

// The qualities; their texts are part of the wire formats.
const (
	Good       Quality = iota
	StaleClock         // taken before the clock was trusted and not repaired
	Suspect            // outside the range that the configuration or the instrument gives
	Aggregate          // computed from several readings
)

var qualityNames = [...]string{Good: "good", StaleClock: "stale-clock", Suspect: "suspect", Aggregate: "aggregate"}

func (q Quality) String() string {
	if int(q) < len(qualityNames) {
		return qualityNames[q]
	}
	return fmt.Sprintf("quality(%d)", uint8(q))
}

// ParseQuality is the inverse of [Quality.String].
func ParseQuality(s string) (Quality, error) {
	for q, name := range qualityNames {
		if s == name {
			return Quality(q), nil
		}
	}
	return 0, fmt.Errorf("drivers: quality %q: want good, stale-clock, suspect or aggregate", s)
}

// Stamp is the instant of a reading. Boot and Mono never go back and order
// readings within a boot; Wall is what the clock said and is only to be believed
// if Trusted.
type Stamp struct {
	Boot    [16]byte      // the kernel's boot id (/proc/sys/kernel/random/boot_id)
	Mono    time.Duration // CLOCK_BOOTTIME: since boot, suspended time included
	Wall    int64         // Unix time, ms
	Trusted bool          // the clock was synchronised (adjtimex) at that instant
}

// Reading is one quantity at one instant.
type Reading struct {
	Channel string // within the driver: the channel's own name; from the sampler on: sensor/channel
	Value   float64
	Unit    Unit
	Quality Quality
}

// MaxExact is the largest integer magnitude that a float64 holds exactly.
const MaxExact = 1 << 53

// CheckValue refuses what a reading may not hold: NaN, infinities, and
// integers beyond 2^53 (they would be rounded silently).
func CheckValue(v float64) error {
	switch {
	case math.IsNaN(v):
		return fmt.Errorf("%w: not a number", ErrValue)
	case math.IsInf(v, 0):
		return fmt.Errorf("%w: infinite", ErrValue)
	case math.Abs(v) > MaxExact && v == math.Trunc(v):
		return fmt.Errorf("%w: %g is beyond 2^53, where whole numbers are no longer exact", ErrValue, v)
	}
	return nil
}

// Step says on which values a channel's lie, where that is known beforehand: n*Times/10^Places for whole n. Times 0: not known.
type Step struct {
	Times  float64 // a whole number
	Places int     // 0 to 15
}

// Stepper is [Options] that know their channels' steps, in the order of Channels. Who packs readings needs fewer bytes with
// it; values beside the steps come through as well.
type Stepper interface{ Steps() []Step }

// Sensor is an opened instrument.
type Sensor interface {
	// Read asks the instrument once. It returns the readings that it vouches for,
	// in the order of the configured channels, and an error for the rest; both may
	// be non-empty when only some channels failed. Channel names are the
	// channels' own, without the sensor's. ctx bounds the whole call; the
	// driver's own time-out (Env.Timeout) bounds each exchange.
	Read(ctx context.Context) ([]Reading, error)
	// Close gives up what the driver itself holds; the bus is the sampler's.
	Close() error
}

// Channel is what every channel of every driver can be configured with; drivers
// embed it (yaml inline) in their own channel type.
type Channel struct {
	Name       string   `yaml:"name" doc:"name of the channel; the full name is sensor/channel"`
	Unit       *Unit    `yaml:"unit,omitempty" doc:"SenML unit (RFC 8428, RFC 8798), such as Cel, %RH, Pa, V, kWh"`
	Deadband   *float64 `yaml:"deadband,omitempty" doc:"do not record a value closer than this to the last one recorded (same unit)"`
	OnChange   *bool    `yaml:"on_change,omitempty" doc:"record a value only when it differs from the last one recorded"`
	Resolution *float64 `yaml:"resolution,omitempty" min:"0" max:"1000000000" doc:"a value is recorded as the nearest multiple of this (same unit); 0: as the instrument gives it"`
	Min        *float64 `yaml:"min,omitempty" doc:"values below are recorded with quality suspect"`
	Max        *float64 `yaml:"max,omitempty" doc:"values above are recorded with quality suspect"`
}

// BusKind is what a driver needs from the sampler.
type BusKind string

// The kinds of bus.
const (
	Serial BusKind = "serial" // Env.Port
	I2C    BusKind = "i2c"    // Env.I2C
	SPI    BusKind = "spi"    // Env.SPI
	TCP    BusKind = "tcp"    // Env.Port
	W1Bus  BusKind = "w1"     // Env.W1
)

// Bus names the bus that a sensor sits on.
type Bus struct {
	Kind BusKind
	Name string // /dev/…, tcp://host:port, the folder of a 1-Wire bus, or sim:NAME; sensors with the same Kind and Name share an owner
	Line Line   // Serial only
}

// Fault is one thing wrong in a driver's options. The configuration turns it
// into a message with file, line and column.
type Fault struct {
	Path string // YAML path below the sensor: "unit_id", "channels[2].type"
	Bad  any    // the value as given; nil when it is missing
	Want string // what would be right, as a noun phrase or a short sentence
}

// Factory is a driver as the list of drivers (package drivers/all) names it.
type Factory struct {
	Name    string   // the configuration's `driver:`, e.g. "modbus"
	Aliases []string // other names for the same driver, e.g. bmp280
	Summary string   // one line for the documentation
	New     func(name string) Options
}

// Talker is implemented by the [Options] of instruments that talk by themselves. Their readings have the
// time at which Read returned, not the one at which it was called.
type Talker interface {
	// Patience is the default of `timeout`: how long the instrument may be silent before that is an error. 0: this one
	// speaks only when it is asked, as it is configured.
	Patience() time.Duration
}

// Talks says whether the instrument of these options talks by itself, and its patience.
func Talks(o Options) (patience time.Duration, talks bool) {
	if t, ok := o.(Talker); ok {
		patience = t.Patience()
	}
	return patience, patience > 0
}

// Options is a pointer to a driver's own part of a sensor's configuration: a
// struct whose exported fields have `yaml` and `doc` tags. The strict YAML decoder fills
// it (keys that neither it nor the common part knows are errors), the
// schema generator reads its type.
type Options interface {
	// Check reports everything that is wrong, and may fill defaults in.
	Check() []Fault
	// Bus says where the instrument sits.
	Bus() Bus
	// Channels lists the channels that Read gives, in that order, defaults
	// filled in (Unit never nil). Valid after Check found nothing.
	Channels() []Channel
	// Open talks to the instrument and returns it ready to Read.
	Open(ctx context.Context, env Env) (Sensor, error)
}
