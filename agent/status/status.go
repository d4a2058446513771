// Package status shows what is: the facts of a running gateway as JSON,
// Prometheus text and one local page, over a unix socket and, where configured,
// over HTTP.
//
// It promises to show what it was given and to change nothing: over TCP it
// answers GET requests alone, to callers that name a loopback or the configured
// host. Nothing it shows holds a secret; whoever fills it sees to that.
package status

import (
	"fmt"
	"time"
)

// Status is what `homeward status --json` prints. Fields are only ever added.
type Status struct {
	Gateway    string     `json:"gateway"`
	Version    string     `json:"version"`
	UptimeS    int64      `json:"uptime_s"`
	PID        int        `json:"pid"`
	Key        string     `json:"ed25519"` // the public half of the gateway's own key, in hex; "" while it has none
	Home       Home       `json:"home"`
	Sensors    []Sensor   `json:"sensors"`
	Buffer     Buffer     `json:"buffer"`
	Publish    Publish    `json:"publish"`
	Operations Operations `json:"operations"`
	Update     Update     `json:"update"`
	Clock      Clock      `json:"clock"`
	Problems   []Problem  `json:"problems"`
}

// Home is where readings go.
type Home struct {
	Cloud        string    `json:"cloud"`
	Organization string    `json:"organization"`
	Project      string    `json:"project"`
	Product      string    `json:"product"`
	Epoch        uint32    `json:"epoch"`
	State        string    `json:"state"` // connecting, proven, questionable, refused, changed
	Since        time.Time `json:"since"`
	URL          string    `json:"url"`
}

// Sensor is one instrument.
type Sensor struct {
	Name      string     `json:"name"`
	Driver    string     `json:"driver"`
	Bus       string     `json:"bus"`
	EveryS    float64    `json:"every_s"`
	State     string     `json:"state"` // starting, ok, partial, failing, silent, gone, wrong, disabled
	LastOK    *time.Time `json:"last_ok"`
	LastError string     `json:"last_error"`
	Errors    uint64     `json:"errors"`
	Readings  uint64     `json:"readings"`  // recorded
	Polls     uint64     `json:"polls"`     // made, failed ones included
	Missed    uint64     `json:"missed"`    // ticks that passed without a poll
	Unsampled uint64     `json:"unsampled"` // readings taken or due while the buffer took none
}

// Buffer is what waits.
type Buffer struct {
	Pending    uint64   `json:"pending"`
	OldestAgeS float64  `json:"oldest_age_s"`
	Bytes      int64    `json:"bytes"`
	MaxBytes   int64    `json:"max_bytes"`
	Free       int64    `json:"free"`
	Dropped    uint64   `json:"dropped"`
	Delivered  uint64   `json:"delivered"`
	Gaps       uint64   `json:"gaps"`
	Flushes    uint64   `json:"flushes"`
	Seals      uint64   `json:"seals"`
	Lanes      []Lane   `json:"lanes"`
	Damaged    []string `json:"damaged,omitempty"`
	Recovered  []string `json:"recovered,omitempty"`

	Thinned     uint64 `json:"thinned"`      // of Dropped: aggregates stand for them
	ThinnedKept uint64 `json:"thinned_kept"` // of Thinned, still stored: homeward buffer export has them
}

// Lane is the part of the buffer that holds one epoch's readings.
type Lane struct {
	Epoch    uint32 `json:"epoch"`
	First    uint64 `json:"first"`
	Next     uint64 `json:"next"`
	Pending  uint64 `json:"pending"`
	Gaps     int    `json:"gaps"`
	Segments int    `json:"segments"`
}

// Publish is what left since the start of the agent.
type Publish struct {
	Connected    bool       `json:"connected"`
	Payloads     uint64     `json:"payloads"`   // acknowledged
	Readings     uint64     `json:"readings"`   // in those
	Operations   uint64     `json:"operations"` // tried, repeats included
	Bytes        uint64     `json:"bytes"`      // tried
	InFlight     int        `json:"in_flight"`  // payloads
	LastAck      *time.Time `json:"last_ack"`
	LastProof    *time.Time `json:"last_proof"`
	Format       string     `json:"format"`
	BacklogShare float64    `json:"backlog_share"` // of the payloads acknowledged in the last minute, 0 to 1
	Connects     uint64     `json:"connects"`
	MaxAgeS      float64    `json:"max_age_s"` // the present maximum age: after it a payload leaves though it is not full, if the budget carries it; 0 before the first session
	Thinned      uint64     `json:"thinned"`   // readings that gave way to aggregates

	ConfiguredMaxAgeS float64 `json:"max_age_configured_s"` // publish.max_age
}

// Operations is the gateway's own count; it never claims to equal a bill.
type Operations struct {
	Month         string      `json:"month"`           // first day of the billing month; "" until a trusted clock has said
	Used          uint64      `json:"used"`            // billed
	Budget        *uint64     `json:"budget"`          // nil: none configured
	Percent       *float64    `json:"percent"`         // of the budget
	Forecast      uint64      `json:"forecast"`        // at the month's end, at the rate of the last day
	LimitState    string      `json:"limit_state"`     // none, below, stretched (readings wait longer than max_age), thin (readings have given way to aggregates lately), or operations.at_limit once nothing is left for readings
	LimitText     string      `json:"limit_text"`      // the same in words: [Operations.InWords]
	Left          *int64      `json:"left"`            // of the budget for readings that are no alarms; below 0 where alarms took more than the reserve and all; nil: no budget
	Reserve       *uint64     `json:"reserve"`         // of the budget, for alarms; nil: no budget
	PerHour       *float64    `json:"per_hour"`        // that the budget allows from now on; nil: no budget
	Alarms        uint64      `json:"alarms"`          // of Used
	Free          uint64      `json:"free"`            // operations that the cloud says cost nothing
	Unknown       uint64      `json:"unknown"`         // operations of which nobody has said what they cost: status, proofs and schemas
	OnePerReading uint64      `json:"one_per_reading"` // what one publish for each of these readings would have cost
	Past          []PastMonth `json:"past"`            // oldest first
}

// InWords says what LimitState means for what there is to send.
func (o Operations) InWords() string {
	wait := "readings wait for the next month"
	if o.Budget != nil && o.Used >= *o.Budget {
		wait = "readings and alarms wait for the next month"
	}
	switch o.LimitState {
	case "below":
		return "no reading waits for the budget" + o.ahead()
	case "stretched":
		return "readings wait longer than publish.max_age, to keep to the budget" + o.ahead()
	case "thin":
		if o.Left != nil && *o.Left < 1 {
			return "spent: " + wait + "; what it does not carry then leaves as min, mean and max"
		}
		return "what the budget does not carry leaves as min, mean and max"
	case "hold":
		return "spent: " + wait
	case "continue":
		return "spent: readings and alarms leave all the same, beyond the budget"
	}
	return "no budget: operations.per_month is not set"
}

// ahead is what the budget holds for the time to come.
func (o Operations) ahead() string {
	switch {
	case o.Budget == nil || o.PerHour == nil:
		return ""
	case o.Forecast > *o.Budget:
		return "; at this rate it will be exceeded"
	case *o.PerHour < 10:
		return fmt.Sprintf("; it allows %.2g operations an hour besides what is saved", *o.PerHour)
	}
	return fmt.Sprintf("; it allows %.0f operations an hour besides what is saved", *o.PerHour)
}

// Factor is how many times as many operations one publish per reading would have cost as were used; 0 while none were.
func (o Operations) Factor() float64 {
	if o.Used == 0 {
		return 0
	}
	return float64(o.OnePerReading) / float64(o.Used)
}

// PastMonth is an earlier billing month.
type PastMonth struct {
	Month         string `json:"month"`
	Used          uint64 `json:"used"`
	OnePerReading uint64 `json:"one_per_reading"`
}

// Update is the release that runs.
type Update struct {
	Version    string `json:"version"`
	Slot       string `json:"slot"`        // hash of the running program, factory, or "" where no launcher started it
	State      string `json:"state"`       // none where there is no fleet; else as docs/updates.md lists them
	Candidate  string `json:"candidate"`   // version of the release under way
	LastResult string `json:"last_result"` // version and code of the last outcome

	Counter    uint64        `json:"counter"` // of the running release; 0: the one that the package brought
	Target     uint64        `json:"target"`  // the candidate's
	Attempt    int           `json:"attempt"` // its trials so far
	Code       string        `json:"code"`    // why it does not go on
	Text       string        `json:"text"`    // the same in words
	Why        string        `json:"why"`     // what assigned it
	Bytes      UpdateBytes   `json:"bytes"`   // no data operations
	Checked    *time.Time    `json:"checked"` // the last complete look at the repository
	NextCheck  *time.Time    `json:"next_check"`
	Pinned     string        `json:"pinned,omitempty"` // version that this gateway stays on
	Window     string        `json:"window,omitempty"`
	Floor      uint64        `json:"floor"`                // no release below is taken any more
	Quarantine []Quarantined `json:"quarantine,omitempty"` // releases that failed here
	Fallback   bool          `json:"fallback,omitempty"`
	Failing    []string      `json:"failing,omitempty"` // checks of a trial
}

// UpdateBytes is what updates have fetched.
type UpdateBytes struct {
	Today int64 `json:"today"`
	Limit int64 `json:"limit"` // of a day; 0: none
	Done  int64 `json:"done"`  // of the download under way
	Total int64 `json:"total"`
}

// Quarantined is a release that is not taken again until it is assigned anew.
type Quarantined struct {
	Version string `json:"version"`
	Counter uint64 `json:"counter"`
	Code    string `json:"code"`
}

// Clock says how far times can be trusted.
type Clock struct {
	Trusted  bool     `json:"trusted"`
	Source   string   `json:"source"`    // kernel, simulator
	OffsetMS *float64 `json:"offset_ms"` // the kernel's estimate of the error; nil while unknown
}

// Severity of a problem.
type Severity string

// The severities.
const (
	Warn Severity = "warn"
	Fail Severity = "fail"
)

// Problem is what is wrong, with a name; docs/codes.md lists the codes.
type Problem struct {
	Code     string    `json:"code"`
	Subject  string    `json:"subject,omitempty"` // the sensor, file or key it is about
	Severity Severity  `json:"severity"`
	Text     string    `json:"text"`
	Remedy   string    `json:"remedy"`
	Since    time.Time `json:"since"`
}
