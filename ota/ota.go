// Package ota changes the program for a trusted release that is meant for this gateway, and puts the old one back.
//
// Parties. Package trust says what the fleet has signed, package release what that means, package boot keeps the record that
// decides which slot runs, and the launcher starts it and puts the old one back when a new one dies. An [Updater] does the rest:
// it asks, chooses, fetches, stages, arms, judges a trial from inside the new release, commits or rolls back, and tells the fleet.
//
// Promises. Whatever happens at any moment, a slot that was verified runs. No byte of a release is executed before its hash is the
// signed one, read back from the disk. The record is the only commit point: everything before is done again, or found done, after
// a power cut; nothing has to be undone. The security floor and the highest order's number never fall. A release that failed is
// not tried again until a newer assignment names it (an order with a higher serial, or another rollout), or someone clears it by
// hand. Each outcome is told with a stable code until it is acknowledged. A power cut is not a failure of the release; neither is a
// link that is down for the old release, too.
//
// May be lost: at a power cut what was fetched since the download's last journal entry; with the journal (a file that only speeds
// things up) which patches did not fit, and up to two of the three trials of a release that power cuts or the link undid.
//
// What it needs of the agent. Make one Updater when the state folder is locked and the clock is there; call [Updater.Run] in a
// goroutine of the agent and end it with its context, before [boot.Store.Stopped] (with 0 seconds: Run has counted them), which is
// the agent's last act when it was asked to stop: then a trial that is cut short costs no try. When Restart is called, stop
// cleanly and exit with [ExitRestart]. Health says how the agent is doing. When Changed is called, or at any time,
// [Updater.Status] and [Updater.Outcome] have what to show; publish the outcome, and when that was delivered call [Updater.Acked].
// A hint on B/orders is [Updater.Nudge]. During a trial the agent keeps its data readable for the previous release.
package ota

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"homeward/buffer/durable"
	"homeward/ota/boot"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// ExitRestart is the exit status with which the agent asks the launcher to start again: a trial is armed, or was decided.
const ExitRestart = boot.ExitAgain

// Options of an updater. Fields without a word on their zero are needed.
type Options struct {
	Dir  string      // <state>/ota
	FS   durable.FS  // nil: the operating system's
	Boot *boot.Store // the record, in Dir

	Gateway  string
	Product  string
	Platform string   // such as linux-arm64
	Hardware []string // all that the gateway answers to
	Launcher int      // the launcher's version; 0: 1

	Slot    string // $HOMEWARD_SLOT: the running slot's hash, or "factory"; "": not started by the launcher, nothing is ever armed
	Agent   string // the running program's file
	Version string // its version

	Trust      trust.Options // FS, Dir and Floors may be left out; Source nil: releases come by Apply only
	Repository Repository    // nil: opened with Trust
	MinRate    int64         // bytes per second below which a download is given up; 0: the downloader's own

	Config func() Settings  // asked each time
	Now    func() time.Time // the wall clock, never below the floor; nil: time.Now
	Synced func() bool      // whether Now can be believed; nil: it can
	Ready  func() error     // nil or nil error: there is power for an update; an error says why not
	Health Health           // of this agent
	// SelfCheck runs `agent selfcheck …` with bounds on memory; ctx bounds the time. An error is the release's fault, unless it
	// wraps what speaks of the machine: an errno (ENOMEM, EAGAIN, EIO…; EACCES and EPERM, of a disk where nothing may be started),
	// context.DeadlineExceeded, or an exec.ExitError by SIGKILL, which are the release's fault the third time.
	SelfCheck func(ctx context.Context, agent string) error
	Backends  func(slots Backend) map[string]Backend // by name; nil: {"slot": slots}
	Restart   func()                                 // asks the agent to stop and exit with ExitRestart; must not wait for it
	Changed   func()                                 // status or outcome changed; nil: nobody asks. Must not call the updater back
	Step      func(label string)                     // called at each label of Labels; nil: not. For tests that kill
	Log       *slog.Logger                           // nil: silent
}

// Settings may change while Run runs.
type Settings struct {
	Window     Window         // in which a staged release may be started; it goes before a rollout's own
	Zone       *time.Location // of Window and of the day of DailyBytes; nil: time.Local
	DailyBytes int64          // most that is fetched in a day; 0: no bound. A tenth, at most 1 MB, is for metadata only
	Every      time.Duration  // between two looks at the repository, moved by up to a tenth; 0: 1 h
}

// Repository says what the fleet has signed; *trust.Repository is one.
type Repository interface {
	Refresh(ctx context.Context) error
	Target(ctx context.Context, path string) ([]byte, error) // trust.ErrNoTarget: nobody signed that path
}

// Backend installs one kind of part beside what runs. All of it is resumable: after a power cut it is called again.
type Backend interface {
	// Base is the hash of the content that patches apply to; "": there is none.
	Base() string
	// Have says whether the part is completely staged, having read it back.
	Have(ctx context.Context, p *release.Part) (bool, error)
	// Stage makes the part out of a verified blob in one of its encodings. An error with code slot.verify says that this blob will
	// never do.
	Stage(ctx context.Context, p *release.Part, e release.Encoding, blob string) error
	// Check proves before arming that the staged part can run.
	Check(ctx context.Context, p *release.Part) error
	// Arm makes the next start try it. For slots the record does that.
	Arm(ctx context.Context, p *release.Part) error
	// Confirm makes it stay, before the record commits.
	Confirm(ctx context.Context, p *release.Part) error
	// Collect removes what is not among those to keep (hashes).
	Collect(keep []string) error
}

// Health is how the agent says how it is doing.
type Health interface {
	// Baseline is what Check of the next release will be judged against: what failed before, and what worked. At most 16 KiB.
	Baseline(ctx context.Context) (json.RawMessage, error)
	// Check looks at config, store, drivers, memory…; names are stable words. What failed in the same way at the baseline is OK.
	// baseline is what the previous release's Baseline gave; nil if that was lost. It is called every ten seconds and returns at once.
	Check(ctx context.Context, baseline json.RawMessage) []Check
	// Link says whether the home is reached.
	Link(ctx context.Context) bool
}

// Check is one thing that was looked at.
type Check struct {
	Name string `json:"name"` // such as store; of one of several, such as drivers, the Text says which
	OK   bool   `json:"ok"`
	Text string `json:"text,omitempty"`
}

// Error has a stable code.
type Error struct {
	code string
	text string
	err  error
}

func (e *Error) Error() string {
	if e.err != nil {
		return "ota: " + e.text + ": " + e.err.Error()
	}
	return "ota: " + e.text
}

// Code is the stable code, such as slot.verify.
func (e *Error) Code() string { return e.code }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.err }

// Status is what is to be shown.
type Status struct {
	Product string `json:"product"`
	Version string `json:"version"` // of what runs
	Slot    string `json:"slot"`    // its hash, or "factory"
	Counter uint64 `json:"counter"` // of the running release; 0: the factory's, or another product's
	State   State  `json:"state"`
	Since   int64  `json:"since"` // unix seconds

	Candidate  string `json:"candidate"` // version of the release under way; "": none
	Target     uint64 `json:"target"`    // its counter
	Attempt    int    `json:"attempt"`   // its trials so far
	Code       string `json:"code"`      // why it is not under way: a refusal, a deferral, the last failure; "": nothing is wrong
	Text       string `json:"text"`      // the same in words
	Why        string `json:"why"`       // what assigned the candidate, or why there is none
	LastResult string `json:"last_result"`

	Bytes      Bytes              `json:"bytes"`
	Checked    int64              `json:"checked"`    // unix seconds of the last complete look at the repository; 0: never
	NextCheck  int64              `json:"next_check"` // unix seconds; 0: not planned
	Pin        *boot.Pin          `json:"pin,omitempty"`
	Window     string             `json:"window"`
	Floor      uint64             `json:"floor"` // security floor of the product
	Quarantine []boot.Quarantined `json:"quarantine,omitempty"`
	Fallback   bool               `json:"fallback,omitempty"` // what runs is not what the record says: the launcher fell back
	Checks     []Check            `json:"checks,omitempty"`   // of a trial, those that fail now
}

// Bytes of updates, of what is inside the messages (bodies); they are no data operations.
type Bytes struct {
	Today int64 `json:"today"`
	Limit int64 `json:"limit"` // of the day; 0: none
	Done  int64 `json:"done"`  // of the download under way
	Total int64 `json:"total"`
}

// Updater is the one owner of the updates of a gateway.
type Updater struct {
	o        Options
	fs       durable.FS
	log      *slog.Logger
	repo     Repository
	blobs    trust.Downloader
	sources  *sources
	bytes    *budget
	slots    *slotBackend
	backends map[string]Backend
	nudged   chan struct{}

	work chan struct{} // holds one token while the states are worked through: by Run, or by Apply

	mu        sync.Mutex              // protects the following; taken after work
	interrupt context.CancelCauseFunc // ends the fetch under way; nil: none
	status    Status
	journal   journal
	history   []Entry
	checked   time.Time // when this process last refreshed completely; the zero: not yet
	online    time.Time // same, not from a folder
	selfOK    string    // manifest whose parts passed their self-check in this process
}

// New checks the options and reads what is there; a disk that fails is Run's matter. It decides nothing: a trial begins with Run,
// though the status has it from here on.
func New(o Options) (*Updater, error) {
	switch {
	case o.Dir == "":
		return nil, errors.New("ota: options: Dir: missing: want <state>/ota")
	case o.Boot == nil || o.Config == nil || o.Health == nil || o.SelfCheck == nil || o.Restart == nil:
		return nil, errors.New("ota: options: Boot, Config, Health, SelfCheck and Restart are needed")
	case !release.IsGateway(o.Gateway) || !release.IsName(o.Product) || !release.IsPlatform(o.Platform):
		return nil, fmt.Errorf("ota: options: gateway %q, product %q, platform %q: want names as package release has them", o.Gateway, o.Product, o.Platform)
	case o.Slot != "" && o.Slot != Factory && !release.IsHash(o.Slot):
		return nil, fmt.Errorf("ota: options: slot %q: want a SHA-256, %q, or none", o.Slot, Factory)
	}
	if o.FS == nil {
		o.FS = durable.OS{}
	}
	o.Launcher = cmp.Or(o.Launcher, 1)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	u := &Updater{o: o, fs: o.FS, log: o.Log, nudged: make(chan struct{}, 1), work: make(chan struct{}, 1)}
	u.bytes = openBudget(u.fs, u.path("bytes.json"), u.local, func() int64 { return o.Config().DailyBytes })
	u.sources = &sources{online: o.Trust.Source, bytes: u.bytes}
	u.repo = o.Repository
	if u.repo == nil {
		t := o.Trust
		t.Source = metadata{u.sources}
		if t.FS == nil {
			t.FS = u.fs
		}
		t.Dir = cmp.Or(t.Dir, u.path("trust"))
		if t.Floors == nil {
			t.Floors = roleFloors{o.Boot}
		}
		u.repo = &opener{o: t}
		_ = u.repo.(*opener).open() // Refresh says what is wrong, and tries again: a trial must come to its end
	}
	u.slots = &slotBackend{fs: u.fs, dir: u.path("slots"), running: o.Slot, agent: o.Agent, check: o.SelfCheck, step: u.step, late: map[string]int{}}
	u.backends = map[string]Backend{release.SlotBackend: u.slots}
	if o.Backends != nil {
		u.backends = o.Backends(u.slots)
	}
	u.blobs = trust.Downloader{FS: u.fs, Source: u.sources, Dir: u.path("stage"), Take: u.take, MinRate: o.MinRate, Progress: u.progress}
	u.journal = readJournal(u.fs, u.path("journal.json"))
	u.history = readHistory(u.fs, u.path("outbox/history.jsonl"))
	u.status.State = Idle
	if s := u.journal.State; s == Waiting || s == Deferred { // until the first look
		u.status.Candidate, u.status.Target = u.journal.Candidate.Version, u.journal.Candidate.Counter
	}
	if rec, _, err := o.Boot.Load(); err == nil { // else Run says so, until it can be read
		u.showLocked(rec)
		if t := rec.Trial; t != nil && u.ours(rec) { // at once: who saw an idle gateway that runs it would take it for committed
			u.onTrialLocked(*t)
		}
	}
	return u, nil
}

// lock takes the work, unless ctx ends before.
func (u *Updater) lock(ctx context.Context) bool {
	select {
	case u.work <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (u *Updater) unlock() { <-u.work }

// opener opens the repository when it is first needed, and again as long as that fails.
type opener struct {
	o    trust.Options
	repo *trust.Repository
}

func (r *opener) open() (err error) {
	if r.repo == nil {
		r.repo, err = trust.Open(r.o)
	}
	return err
}

// Refresh implements Repository.
func (r *opener) Refresh(ctx context.Context) error {
	if err := r.open(); err != nil {
		return err
	}
	return r.repo.Refresh(ctx)
}

// Target implements Repository.
func (r *opener) Target(ctx context.Context, path string) ([]byte, error) {
	if err := r.open(); err != nil {
		return nil, err
	}
	return r.repo.Target(ctx, path)
}

// folders makes them, and their names durable.
func (u *Updater) folders() error {
	for _, dir := range []string{u.o.Dir, u.path("slots"), u.path("stage"), u.path("outbox")} {
		if err := makeDir(u.fs, dir); err != nil {
			return diskError("make folders", err)
		}
	}
	return nil
}

// makeDir makes a folder, and its name durable.
func makeDir(fs durable.FS, dir string) error {
	if info, err := fs.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(dir))
}

// Factory is the slot of the agent that the package or the card brought.
const Factory = "factory"

func (u *Updater) path(name string) string { return filepath.Join(u.o.Dir, filepath.FromSlash(name)) }

// local is the wall clock in the gateway's zone.
func (u *Updater) local() time.Time {
	zone := u.o.Config().Zone
	if zone == nil {
		zone = time.Local
	}
	return u.o.Now().In(zone)
}

func (u *Updater) take(n int) error {
	if u.sources.local() {
		return nil
	}
	return u.bytes.take(n, false)
}

func (u *Updater) progress(done, size int64) {
	u.mu.Lock()
	u.status.Bytes.Done, u.status.Bytes.Total = done, size
	u.mu.Unlock()
}

func (u *Updater) step(label string) {
	if u.o.Step != nil {
		u.o.Step(label)
	}
}

func (u *Updater) changed() {
	if u.o.Changed != nil {
		u.o.Changed()
	}
}

// Nudge asks for a look at the repository soon. It never waits; many are one, and they are spread so that a fleet that is told
// together does not come together.
func (u *Updater) Nudge() {
	u.mu.Lock()
	if u.interrupt != nil && time.Since(u.checked) > soon {
		u.interrupt(errRecheck) // what is being fetched may be what was withdrawn
	}
	u.mu.Unlock()
	select {
	case u.nudged <- struct{}{}:
	default:
	}
}

// Status is what is to be shown now.
func (u *Updater) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.status
	cfg := u.o.Config()
	s.Bytes.Today, s.Bytes.Limit, s.Window = u.bytes.today(), cfg.DailyBytes, cfg.Window.String()
	return s
}

// showLocked takes into the status what the record says.
func (u *Updater) showLocked(rec boot.Record) {
	s := &u.status
	s.Product, s.Version, s.Slot = u.o.Product, u.o.Version, cmp.Or(u.o.Slot, Factory)
	running, fallback := u.running(rec)
	s.Counter, s.Fallback = running.Counter, fallback
	s.Pin, s.Floor = rec.Pin, rec.Floors[u.o.Product]
	s.Quarantine = append([]boot.Quarantined(nil), rec.Quarantine...)
	s.LastResult = ""
	if rec.LastResult != nil {
		s.LastResult = rec.LastResult.Code
		if rec.LastResult.Release.Version != "" {
			s.LastResult = rec.LastResult.Release.Version + ": " + rec.LastResult.Code
		}
	}
	s.Checked = max(s.Checked, u.journal.Checked) // the journal has not each look
}

// ours says whether this process is what the record has on trial.
func (u *Updater) ours(rec boot.Record) bool {
	return rec.Trial != nil && u.o.Slot != "" && rec.Trial.Slot == u.slotName()
}

func (u *Updater) onTrialLocked(t boot.Trial) {
	s := &u.status
	s.State, s.Since = Trial, u.o.Now().Unix()
	s.Candidate, s.Target, s.Attempt = t.Release.Version, t.Release.Counter, t.Attempt
}

// slotName is how the record names what this process was started from.
func (u *Updater) slotName() string {
	if u.o.Slot == Factory {
		return ""
	}
	return u.o.Slot
}

// counted is a release as this product's are compared with it: counters of another product say nothing.
func (u *Updater) counted(r boot.Release) boot.Release {
	if r.Product != "" && r.Product != u.o.Product {
		r.Counter = 0
	}
	return r
}

// running is the release that runs, counted. fallback: not the one that the record says should.
func (u *Updater) running(rec boot.Record) (r boot.Release, fallback bool) {
	r, fallback = u.runs(rec)
	return u.counted(r), fallback
}

// runs is the same with the counter as it is.
func (u *Updater) runs(rec boot.Record) (r boot.Release, fallback bool) {
	slot := u.slotName()
	switch {
	case u.o.Slot == "": // by hand: the record says what a launcher would start
		return rec.Release, false
	case rec.Trial != nil && rec.Trial.Slot == slot:
		return rec.Trial.Release, false
	case rec.Active == slot:
		return rec.Release, false
	case rec.Prev == slot && slot != "":
		return rec.PrevRelease, true
	}
	return boot.Release{}, true
}

// roleFloors keeps the versions below which no role may fall in the record.
type roleFloors struct{ boot *boot.Store }

func (f roleFloors) RoleFloors() map[string]boot.RoleFloor {
	rec, _, err := f.boot.Load()
	if err != nil {
		return nil
	}
	return rec.Roles
}

func (f roleFloors) SetRoleFloors(roles map[string]boot.RoleFloor) error {
	_, err := f.boot.Update(func(r *boot.Record) error {
		r.Roles = roles
		return nil
	})
	return err
}
