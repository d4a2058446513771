package ota

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"homeward/buffer/durable"
	"homeward/ota/boot"
)

// journal is what is worth remembering over a restart beside the record. All of it can be lost: then a patch that does not fit is
// tried once more, a refusal told twice, a pause cut short; and a gateway with a new name waits for an order above the old name's.
type journal struct {
	State     State        `json:"state"`
	Candidate boot.Release `json:"candidate"`
	Tried     []string     `json:"tried,omitempty"`    // blobs that did not give their part
	Told      []told       `json:"told,omitempty"`     // refusals that were told
	Trials    []trials     `json:"trials,omitempty"`   // of releases that power cuts or the link undid
	Assigned  []assigned   `json:"assigned,omitempty"` // what named the releases that were armed or refused
	Back      bool         `json:"back,omitempty"`     // was unpinned: the product's release, though it is older
	Gateway   string       `json:"gateway,omitempty"`  // whose orders are followed
	Renamed   bool         `json:"renamed,omitempty"`  // it had another name: the record's move_seq is still of that one's orders
	Serial    uint64       `json:"serial,omitempty"`   // of orders under the new name, the highest seen
	Checked   int64        `json:"checked,omitempty"`  // unix seconds of the last complete look
}

type told struct {
	Manifest string `json:"manifest"`
	Code     string `json:"code"`
}

type trials struct {
	Manifest  string `json:"manifest"`
	N         int    `json:"n"`
	NotBefore int64  `json:"not_before"` // unix seconds
}

type assigned struct {
	Manifest string `json:"manifest"`
	Order    uint64 `json:"order"`
	Rollout  string `json:"rollout"`
}

const (
	maxJournal = 32 << 10
	maxKept    = 16 // of each list, the newest
)

// readJournal gives an empty one for what cannot be read.
func readJournal(fs durable.FS, path string) journal {
	data, err := durable.Read(fs, path, maxJournal)
	if err != nil {
		return journal{}
	}
	return parseJournal(data)
}

func parseJournal(data []byte) journal {
	var j journal
	if json.Unmarshal(data, &j) != nil {
		return journal{}
	}
	j.bound()
	return j
}

func (j *journal) bound() {
	j.Tried = newest(j.Tried)
	j.Told = newest(j.Told)
	j.Trials = newest(j.Trials)
	j.Assigned = newest(j.Assigned)
}

func newest[T any](list []T) []T {
	if len(list) > maxKept {
		list = slices.Clone(list[len(list)-maxKept:])
	}
	return list
}

func (j *journal) trials(manifest string) trials {
	for _, t := range j.Trials {
		if t.Manifest == manifest {
			return t
		}
	}
	return trials{Manifest: manifest}
}

func (j *journal) assignment(manifest string) (assigned, bool) {
	for _, a := range j.Assigned {
		if a.Manifest == manifest {
			return a, true
		}
	}
	return assigned{}, false
}

// name notes whose orders are followed. Another name's orders count from the beginning.
func (j *journal) name(gateway string) {
	if j.Gateway != "" && j.Gateway != gateway {
		j.Renamed, j.Serial = true, 0
		for i := range j.Assigned {
			j.Assigned[i].Order = 0
		}
	}
	j.Gateway = gateway
}

// forget begins anew with a release.
func (j *journal) forget(manifest string) {
	j.Told = slices.DeleteFunc(j.Told, func(t told) bool { return t.Manifest == manifest })
	j.Trials = slices.DeleteFunc(j.Trials, func(t trials) bool { return t.Manifest == manifest })
	j.Assigned = slices.DeleteFunc(j.Assigned, func(a assigned) bool { return a.Manifest == manifest })
}

// note changes the journal durably; a change that changes nothing costs nothing.
func (u *Updater) note(change func(*journal)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.noteLocked(change)
}

func (u *Updater) noteLocked(change func(*journal)) error {
	before, err := json.Marshal(u.journal)
	if err != nil {
		return fmt.Errorf("ota: journal: %w", err)
	}
	var j journal
	if err := json.Unmarshal(before, &j); err != nil { // a deep copy
		return fmt.Errorf("ota: journal: %w", err)
	}
	change(&j)
	j.bound()
	after, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("ota: journal: %w", err)
	}
	if bytes.Equal(before, after) {
		return nil
	}
	if err := durable.Replace(u.fs, u.path("journal.json"), after, 0o600); err != nil {
		return fmt.Errorf("ota: journal: %w", err)
	}
	u.journal = j
	return nil
}

// is says whether the entry is of that result. The generation alone does not: see liftLocked.
func (e Entry) is(r boot.Result) bool {
	return e.Event != EventArmed && e.of() == r.Gen && e.Release.SHA256 == r.Release.SHA256 && e.Code == r.Code && e.UnixS == r.UnixS
}

// Entry is a line of the history.
type Entry struct {
	Gen     uint64       `json:"gen"`              // of the record at that time, or higher: it grows here and names an outcome
	Record  uint64       `json:"record,omitempty"` // of the record, where Gen is higher: a record that was lost begins anew
	UnixS   int64        `json:"unix_s"`           // by the gateway's clock
	Event   string       `json:"event"`            // armed committed rolled-back refused inconclusive
	Release boot.Release `json:"release"`
	Code    string       `json:"code"` // "ok", or why not
	Text    string       `json:"text,omitempty"`
	Attempt int          `json:"attempt,omitempty"`
	Acked   bool         `json:"acked,omitempty"` // an outcome that the fleet has
}

// The events of the history. All but the first are outcomes.
const (
	EventArmed        = "armed"
	EventCommitted    = "committed"
	EventRolledBack   = "rolled-back"
	EventRefused      = "refused"
	EventInconclusive = "inconclusive"
)

// Outcome is what the fleet has to be told.
type Outcome struct {
	Gen     uint64 `json:"gen"` // with gateway and release the key by which receivers drop repeats
	State   string `json:"state"`
	Code    string `json:"code"`
	Counter uint64 `json:"counter"`
	Version string `json:"version"`
	Attempt int    `json:"attempt"`
	Text    string `json:"text,omitempty"`
}

const (
	maxEntries = 64
	maxHistory = 256 << 10
	maxText    = 240 // bytes of an entry's text
)

func readHistory(fs durable.FS, path string) []Entry {
	data, err := durable.Read(fs, path, maxHistory)
	if err != nil {
		return nil
	}
	return parseHistory(data)
}

// parseHistory skips what cannot be read.
func parseHistory(data []byte) []Entry {
	var list []Entry
	for line := range bytes.Lines(data) {
		var e Entry
		if json.Unmarshal(line, &e) == nil && e.Event != "" {
			e.Text = clip(e.Text)
			list = append(list, e)
		}
	}
	if len(list) > maxEntries {
		list = list[len(list)-maxEntries:]
	}
	return list
}

func clip(text string) string {
	if len(text) > maxText {
		text = string(bytes.ToValidUTF8([]byte(text[:maxText]), nil)) + "…"
	}
	return text
}

func (u *Updater) writeHistoryLocked(list []Entry) error {
	if len(list) > maxEntries { // an armed entry before an outcome that nobody has acknowledged
		at := slices.IndexFunc(list, func(e Entry) bool { return e.Acked || e.Event == EventArmed })
		list = slices.Delete(slices.Clone(list), max(at, 0), max(at, 0)+1)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	for _, e := range list {
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("ota: history: %w", err)
		}
	}
	if err := durable.Replace(u.fs, u.path("outbox/history.jsonl"), out.Bytes(), 0o600); err != nil {
		return fmt.Errorf("ota: history: %w", err)
	}
	u.history = list
	return nil
}

// tell puts what the record says of the last trial into the outbox, once. A verdict that is not final yet stays out.
func (u *Updater) tell(rec boot.Record) error {
	r := rec.LastResult
	if r == nil || r.Code == "" {
		return nil
	}
	if u.outcomeKnown(*r) {
		return nil
	}
	e := Entry{Gen: r.Gen, UnixS: r.UnixS, Event: event(*r), Release: r.Release, Code: r.Code, Text: clip(r.Text), Attempt: r.Attempt, Acked: r.Acked}
	u.mu.Lock()
	u.liftLocked(&e)
	err := u.writeHistoryLocked(append(slices.Clone(u.history), e))
	u.mu.Unlock()
	if err != nil {
		return err
	}
	u.step("told")
	u.changed()
	u.log.Info("update", "outcome", e.Event, "code", e.Code, "version", e.Release.Version, "counter", e.Release.Counter, "attempt", e.Attempt)
	return nil
}

// liftLocked gives an entry a number that no other has: after the loss of the record its generations come again.
func (u *Updater) liftLocked(e *Entry) {
	var top uint64
	for _, old := range u.history {
		top = max(top, old.Gen)
	}
	if e.Gen <= top {
		e.Gen, e.Record = top+1, e.Gen
	}
}

// of is the generation of the record that the entry is of.
func (e Entry) of() uint64 { return cmp.Or(e.Record, e.Gen) }

// event is the kind of outcome that a result is. A trial has an attempt, a refusal has none.
func event(r boot.Result) string {
	switch {
	case r.Code == boot.CodeOK:
		return EventCommitted
	case r.Attempt == 0:
		return EventRefused
	case r.Code == CodeInconclusive || r.Code == CodePower || r.Code == boot.CodeVerify || r.Code == CodeNotStarted:
		return EventInconclusive
	}
	return EventRolledBack
}

// Outcome is the oldest one that was not acknowledged.
func (u *Updater) Outcome() (Outcome, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range u.history {
		if e.Event != EventArmed && !e.Acked {
			return Outcome{e.Gen, e.Event, e.Code, e.Release.Counter, e.Release.Version, e.Attempt, e.Text}, true
		}
	}
	return Outcome{}, false
}

// Acked says that the outcome with that Gen has reached the fleet: it is not told again. An unknown one is nothing.
func (u *Updater) Acked(gen uint64) error {
	u.mu.Lock()
	list := slices.Clone(u.history)
	found, of := false, Entry{}
	for i := range list {
		if list[i].Gen == gen && list[i].Event != EventArmed && !list[i].Acked {
			list[i].Acked, found, of = true, true, list[i]
		}
	}
	var err error
	if found {
		err = u.writeHistoryLocked(list)
	}
	u.mu.Unlock()
	if !found || err != nil {
		return err
	}
	// The record knows, too, in case the history is lost.
	err = u.update(func(r *boot.Record) error {
		if r.LastResult != nil && of.is(*r.LastResult) {
			last := *r.LastResult
			last.Acked = true
			r.LastResult = &last
		}
		return nil
	})
	u.changed()
	return err
}

// History is what happened, the oldest first.
func (u *Updater) History() []Entry {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.history)
}
