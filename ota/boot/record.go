package boot

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// Limits of a record and of a trial.
const (
	MaxRecord      = 4096 // bytes of boot.state: one block, so that its write is as cheap as a write can be
	MaxQuarantined = 16   // fewer where the record would not fit into MaxRecord: the oldest goes first
	Tries          = 3    // starts of a trial within one boot
	Boots          = 10   // boots of a trial
	CleanStarts    = 20   // starts of a trial within one boot that cost no try, since the stop before was asked for
	Attempts       = 3    // times one release is armed while its trials end without a verdict
	maxText        = 240  // bytes of a result's text
)

// LauncherLevel is what a manifest's requires.launcher is compared with: it grows when a release may rely on something new of
// the launcher. The launcher tells the agent in $HOMEWARD_LAUNCHER.
const LauncherLevel = 1

// ExitAgain is the agent's exit status that asks to be started again at once: a trial was armed, or a rollback decided. Before it, as
// before each end that was asked for, comes Store.Stopped.
const ExitAgain = 42

// ExitUsage is the agent's exit status for a mistake in the configuration: outside a trial, starting again cannot mend it.
const ExitUsage = 2

// Record is boot.state: which slot runs, which one is on trial, and what must never be forgotten. It is the only commit point of
// an update. Keys that this program does not know are kept as they are, here and in Trial: the launcher may be older than the agent.
type Record struct {
	Gen         uint64               `json:"gen"`                   // grows by one with each write
	Home        string               `json:"home,omitempty"`        // of a move; kept as it is
	Epoch       uint32               `json:"epoch,omitempty"`       // same
	Active      string               `json:"active"`                // slot; "" is the factory's agent
	Release     Release              `json:"release"`               // what Active holds; zero for the factory's
	Prev        string               `json:"prev,omitempty"`        // slot before Active
	PrevRelease Release              `json:"prev_release"`          // what Prev holds
	Trial       *Trial               `json:"trial,omitempty"`       // armed or running
	Quarantine  []Quarantined        `json:"quarantine,omitempty"`  // newest last
	Floors      map[string]uint64    `json:"floors,omitempty"`      // product → security floor; raised at commit only
	Roles       map[string]RoleFloor `json:"roles,omitempty"`       // highest metadata versions seen
	MoveSeq     uint64               `json:"move_seq,omitempty"`    // highest serial of an order seen
	Pin         *Pin                 `json:"pin,omitempty"`         // development gateway: honoured without network
	LastResult  *Result              `json:"last_result,omitempty"` // of the last trial
	TimeFloor   int64                `json:"time_floor,omitempty"`  // Unix seconds: the clock is never below

	extra map[string]json.RawMessage
}

// Release names a release. The zero Release is nobody's.
type Release struct {
	Product string `json:"product,omitempty"`
	Version string `json:"version,omitempty"`
	Counter uint64 `json:"counter,omitempty"`
	SHA256  string `json:"sha256,omitempty"` // of its manifest, hex
}

// Trial is a release that has not been judged yet.
type Trial struct {
	Slot       string  `json:"slot"`
	Release    Release `json:"release"`
	Home       string  `json:"home,omitempty"`       // home that is committed together with it
	TriesLeft  int     `json:"tries_left"`           // starts left within the boot BootID
	BootsLeft  int     `json:"boots_left"`           // boots left that may end without a verdict
	BootID     string  `json:"boot_id,omitempty"`    // of the last try; "" while it was never started
	PoweredS   int64   `json:"powered_s"`            // seconds that the trial has run so far
	Clean      bool    `json:"clean,omitempty"`      // the last stop was asked for: the next start costs no try
	Cleans     int     `json:"cleans,omitempty"`     // starts within the boot BootID that cost no try
	Hung       bool    `json:"hung,omitempty"`       // the last try was killed because it hung
	Ended      string  `json:"ended,omitempty"`      // how the last try ended, for people
	StableS    int64   `json:"stable_s,omitempty"`   // seconds without a gap in which it must be healthy
	DeadlineS  int64   `json:"deadline_s,omitempty"` // powered seconds until there must be a verdict
	NeedServer bool    `json:"need_server,omitempty"`
	Attempt    int     `json:"attempt"`          // 1 for the first time that this release is armed
	Serial     uint64  `json:"serial,omitempty"` // of the order or rollouts that assigned it

	extra map[string]json.RawMessage
}

// Quarantined is a release that must not be armed again before a newer assignment.
type Quarantined struct {
	Manifest string  `json:"manifest"` // SHA-256 of its manifest, hex
	Slot     string  `json:"slot,omitempty"`
	Release  Release `json:"release"`
	Code     string  `json:"code"`
	Serial   uint64  `json:"serial,omitempty"` // an assignment with a higher one clears it
}

// Result is how the last trial ended.
type Result struct {
	Release Release `json:"release"`
	Code    string  `json:"code"` // "ok", or why not
	Text    string  `json:"text,omitempty"`
	Gen     uint64  `json:"gen"` // of the record that holds it first: with gateway and release it names the outcome
	Attempt int     `json:"attempt,omitempty"`
	Serial  uint64  `json:"serial,omitempty"` // of the assignment
	UnixS   int64   `json:"unix_s,omitempty"` // 0: the clock was not asked
	Acked   bool    `json:"acked,omitempty"`  // the fleet knows
}

// RoleFloor is the highest version of a role's metadata seen, signed with these keys.
type RoleFloor struct {
	Version int64  `json:"v"`
	Keys    string `json:"k"` // short hash of the ids of the role's keys: other keys may start lower
}

// Pin keeps a development gateway on one release.
type Pin struct {
	Release Release `json:"release"`
	Serial  uint64  `json:"serial,omitempty"` // of the order that pinned it
}

// schema of the record. A change that an older launcher may ignore needs no new one: it keeps what it does not know.
const schema = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors of a record that was read.
var (
	ErrDamaged = errors.New("damaged")             // torn, empty, zero-filled, changed: the previous one counts
	ErrNewer   = errors.New("of a newer launcher") // whole, but not to be understood: it is not overwritten
)

// Parse reads boot.state: one line of JSON, and one line with its CRC-32C as eight hex digits. Whatever it returns is within its
// bounds and names no path.
func Parse(data []byte) (Record, error) {
	if len(data) > MaxRecord {
		return Record{}, fmt.Errorf("boot: record of %d bytes, want at most %d: %w", len(data), MaxRecord, ErrDamaged)
	}
	const tail = 1 + 8 + 1
	if len(data) < tail || data[len(data)-1] != '\n' || data[len(data)-tail] != '\n' {
		return Record{}, fmt.Errorf("boot: record of %d bytes without its checksum: %w", len(data), ErrDamaged)
	}
	text, sum := data[:len(data)-tail], string(data[len(data)-tail+1:len(data)-1])
	if want := fmt.Sprintf("%08x", crc32.Checksum(text, castagnoli)); sum != want {
		return Record{}, fmt.Errorf("boot: record's checksum is %q, want %s: %w", sum, want, ErrDamaged)
	}
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return Record{}, fmt.Errorf("boot: record: %w: %w", err, ErrDamaged)
	}
	if head.Schema > schema {
		return Record{}, fmt.Errorf("boot: record has schema %d, want at most %d: %w", head.Schema, schema, ErrNewer)
	}
	if head.Schema < 1 {
		return Record{}, fmt.Errorf("boot: record has schema %d, want %d: %w", head.Schema, schema, ErrDamaged)
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, fmt.Errorf("boot: record: %w: %w", err, ErrDamaged)
	}
	if err := r.check(); err != nil {
		return Record{}, fmt.Errorf("boot: record: %w: %w", err, ErrDamaged)
	}
	return r, nil
}

// encode gives the bytes of boot.state; where they would be too many, what is least needed goes.
func (r *Record) encode() ([]byte, error) {
	for {
		text, err := plainJSON(r)
		if err != nil {
			return nil, err
		}
		data := fmt.Appendf(text, "\n%08x\n", crc32.Checksum(text, castagnoli))
		if len(data) <= MaxRecord {
			return data, nil
		}
		if !r.shorten(len(data) - MaxRecord) {
			return nil, fmt.Errorf("boot: record would have %d bytes, want at most %d", len(data), MaxRecord)
		}
	}
}

// shorten makes the record shorter by about n bytes or by one step: first the texts, then the slots of quarantined releases, which
// only a gateway without the factory's program misses, then these releases themselves, the oldest first. The newest stays. false: there
// is nothing left to go.
func (r *Record) shorten(n int) bool {
	if last := r.LastResult; last != nil && last.Text != "" {
		short := *last
		short.Text = bounded(last.Text, max(0, len(last.Text)-max(n, 1)))
		r.LastResult = &short
		return true
	}
	if t := r.Trial; t != nil && t.Ended != "" {
		short := *t
		short.Ended = bounded(t.Ended, max(0, len(t.Ended)-max(n, 1)))
		r.Trial = &short
		return true
	}
	if len(r.Quarantine) == 0 {
		return false
	}
	old := len(r.Quarantine) - 1
	q := append([]Quarantined(nil), r.Quarantine...)
	for i := range q[:old] {
		if q[i].Slot != "" {
			q[i].Slot, r.Quarantine = "", q
			return true
		}
	}
	if old > 0 {
		r.Quarantine = q[1:]
	}
	return old > 0
}

// plainJSON is JSON that does not write <, > and & as six bytes each.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// check holds what is true of each record, whoever wrote it.
func (r *Record) check() error {
	slots := []struct{ what, slot string }{{"active", r.Active}, {"prev", r.Prev}}
	releases := []Release{r.Release, r.PrevRelease}
	if t := r.Trial; t != nil {
		if t.Slot == "" {
			return errors.New("trial without a slot")
		}
		slots = append(slots, struct{ what, slot string }{"trial.slot", t.Slot})
		releases = append(releases, t.Release)
		if t.TriesLeft < 0 || t.TriesLeft > Tries || t.BootsLeft < 0 || t.BootsLeft > Boots {
			return fmt.Errorf("trial has %d tries and %d boots left, want 0 to %d and 0 to %d", t.TriesLeft, t.BootsLeft, Tries, Boots)
		}
		if t.PoweredS < 0 || t.StableS < 0 || t.DeadlineS < 0 || t.Attempt < 0 || t.Cleans < 0 {
			return fmt.Errorf("trial has powered_s %d, stable_s %d, deadline_s %d, attempt %d, cleans %d: want none below 0",
				t.PoweredS, t.StableS, t.DeadlineS, t.Attempt, t.Cleans)
		}
		if _, is := r.Quarantined(t.Release.SHA256); is {
			return fmt.Errorf("release %s on trial is quarantined", t.Release)
		}
	}
	if len(r.Quarantine) > MaxQuarantined {
		return fmt.Errorf("%d releases quarantined, want at most %d", len(r.Quarantine), MaxQuarantined)
	}
	for _, q := range r.Quarantine {
		slots = append(slots, struct{ what, slot string }{"quarantine.slot", q.Slot})
		releases = append(releases, q.Release)
		if !isHash(q.Manifest) {
			return fmt.Errorf("quarantine.manifest %.80q, want 64 hex digits", q.Manifest)
		}
	}
	if r.Pin != nil {
		releases = append(releases, r.Pin.Release)
	}
	if r.LastResult != nil {
		releases = append(releases, r.LastResult.Release)
	}
	for _, s := range slots {
		if s.slot != "" && !isHash(s.slot) {
			return fmt.Errorf("%s %.80q, want 64 hex digits", s.what, s.slot)
		}
	}
	for _, l := range releases {
		if l.SHA256 != "" && !isHash(l.SHA256) {
			return fmt.Errorf("release %.80s has sha256 %.80q, want 64 hex digits", l, l.SHA256)
		}
	}
	return nil
}

// isHash says whether s is a SHA-256 in lower-case hex: also what makes a slot's name safe in a path.
func isHash(s string) bool {
	if len(s) != 64 || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}

// IsSlot says whether name can be a slot's: 64 hex digits, lower case.
func IsSlot(name string) bool { return isHash(name) }

func (l Release) String() string {
	if l == (Release{}) {
		return "factory"
	}
	return fmt.Sprintf("%s %s (%d)", l.Product, l.Version, l.Counter)
}

// Quarantined says whether the release with this manifest is.
func (r *Record) Quarantined(manifest string) (Quarantined, bool) {
	for _, q := range r.Quarantine {
		if q.Manifest == manifest {
			return q, true
		}
	}
	return Quarantined{}, false
}

// clone gives a record that shares nothing with r.
func (r *Record) clone() Record {
	data, err := json.Marshal(r)
	var c Record
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		panic(fmt.Sprintf("boot: a record that was read cannot be copied: %v", err))
	}
	return c
}

// The JSON of Record and Trial: the fields, and with them the keys that are not ours. That of Quarantined has its manifest's hash once.
type (
	plainRecord      Record
	plainTrial       Trial
	plainQuarantined Quarantined
)

// MarshalJSON leaves out what Manifest says already.
func (q Quarantined) MarshalJSON() ([]byte, error) {
	if q.Release.SHA256 == q.Manifest {
		q.Release.SHA256 = ""
	}
	return plainJSON(plainQuarantined(q))
}

// UnmarshalJSON fills in what Manifest says.
func (q *Quarantined) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, (*plainQuarantined)(q)); err != nil {
		return err
	}
	if q.Release.SHA256 == "" {
		q.Release.SHA256 = q.Manifest
	}
	return nil
}

// MarshalJSON adds the schema and the unknown keys.
func (r Record) MarshalJSON() ([]byte, error) {
	return join(struct {
		Schema int `json:"schema"`
		plainRecord
	}{schema, plainRecord(r)}, r.extra)
}

// UnmarshalJSON keeps unknown keys.
func (r *Record) UnmarshalJSON(data []byte) (err error) {
	p := struct {
		Schema int `json:"schema"`
		plainRecord
	}{}
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*r = Record(p.plainRecord)
	r.extra, err = unknown(data, Record{Trial: &Trial{}, Home: "x", Epoch: 1, Prev: "x", Quarantine: make([]Quarantined, 1), Floors: map[string]uint64{"": 0},
		Roles: map[string]RoleFloor{"": {}}, MoveSeq: 1, Pin: &Pin{}, LastResult: &Result{}, TimeFloor: 1})
	return err
}

// MarshalJSON adds the unknown keys.
func (t Trial) MarshalJSON() ([]byte, error) { return join(plainTrial(t), t.extra) }

// UnmarshalJSON keeps unknown keys.
func (t *Trial) UnmarshalJSON(data []byte) (err error) {
	var p plainTrial
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*t = Trial(p)
	t.extra, err = unknown(data, Trial{Home: "x", BootID: "x", Clean: true, Cleans: 1, Hung: true, Ended: "x", StableS: 1, DeadlineS: 1, NeedServer: true, Serial: 1})
	return err
}

// join is v as a JSON object with more keys.
func join(v any, extra map[string]json.RawMessage) ([]byte, error) {
	data, err := plainJSON(v)
	if err != nil || len(extra) == 0 {
		return data, err
	}
	more, err := plainJSON(extra)
	if err != nil {
		return nil, err
	}
	return append(append(bytes.TrimSuffix(data, []byte("}")), ','), more[1:]...), nil
}

// unknown gives the keys of the object data that full, a value with no field left out, does not have.
func unknown(data []byte, full any) (map[string]json.RawMessage, error) {
	var all, ours map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	text, err := json.Marshal(full)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &ours); err != nil {
		return nil, err
	}
	for key := range all {
		for our := range ours {
			if strings.EqualFold(key, our) { // as encoding/json matches them
				delete(all, key)
			}
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}
