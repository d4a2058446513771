package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"homeward/agent/config"
	"homeward/agent/home"
	"homeward/agent/status"
	"homeward/buffer/durable"
	"homeward/ota"
	"homeward/ota/boot"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// Updates is what an agent needs to change its own program.
type Updates struct {
	Slot      string    // $HOMEWARD_SLOT: what the launcher started; "": no launcher, and nothing is ever armed
	Program   string    // the running program's file
	Launcher  int       // the launcher's version
	Built     time.Time // when this program was built; the zero: unknown
	SelfCheck func(ctx context.Context, agent string) error
}

// maxRoot bounds fleet.root_file, bytes.
const maxRoot = 64 << 10

// ErrRestart ends Run when the launcher is to start the agent again: a trial is armed, or has been decided.
var ErrRestart = errors.New("agent: to be started again for an update")

// UpdatePath is where releases, slots and the record of what runs are kept.
func UpdatePath(state string) string { return filepath.Join(state, "ota") }

// updates is the agent's side of the updater; nil where nothing changes the program.
type updates struct {
	*ota.Updater
	restart chan struct{}
}

// openUpdates makes the updater of a gateway that has a fleet, or that runs a release on trial: without a fleet it can
// but fail, and the old release comes back.
func (a *Agent) openUpdates() error {
	cfg := a.Config
	dir := UpdatePath(cfg.State)
	record := &boot.Store{FS: durable.OS{}, Dir: dir}
	trial := false
	if a.Updates.Slot != "" { // a new release that cannot read what the old one could
		rec, _, err := record.Load()
		trial = err == nil && rec.Trial != nil
	}
	if cfg.Fleet == nil && !trial {
		return nil
	}
	u := &updates{restart: make(chan struct{}, 1)}
	o := ota.Options{
		Dir: dir, Boot: record,
		Gateway: cfg.Gateway, Product: cfg.Home.Product, Platform: home.Platform(), Hardware: home.Hardware(), Launcher: a.Updates.Launcher,
		Slot: a.Updates.Slot, Agent: a.Updates.Program, Version: a.Version,
		Config: func() ota.Settings {
			c := a.cfg.Load()
			var s ota.Settings
			if c.Update != nil {
				s.Window = ota.Window{From: int(c.Update.Window.From / time.Minute), To: int(c.Update.Window.To / time.Minute)}
				s.DailyBytes = int64(c.Update.DailyBytes)
			}
			if c.Fleet != nil {
				s.Every = time.Duration(c.Fleet.Every)
			}
			return s
		},
		Now:    func() time.Time { return time.UnixMilli(a.Clock.Stamp().Wall) },
		Synced: func() bool { return a.Clock.Stamp().Trusted },
		Health: &health{a: a}, SelfCheck: a.Updates.SelfCheck,
		Restart: func() {
			select {
			case u.restart <- struct{}{}:
			default:
			}
		},
		Log: a.Log,
	}
	o.Trust = trust.Options{Built: a.Updates.Built, Now: o.Now, Synced: o.Synced, Log: a.Log}
	broken := trustFleet(cfg.Fleet, &o.Trust)
	if broken != nil && !trial {
		return broken
	}
	if broken != nil { // the trial must have its verdict
		o.Repository = noFleet{broken}
	}
	var err error
	if u.Updater, err = ota.New(o); err != nil {
		return errors.Join(broken, err)
	}
	a.updates = u
	if cfg.Fleet == nil {
		return nil
	}
	return broken
}

// trustFleet says whom a gateway's fleet trusts, and where it is.
func trustFleet(f *config.Fleet, o *trust.Options) (err error) {
	if f == nil {
		return errors.New("no fleet is configured (fleet:)")
	}
	if o.Root, err = durable.ReadFile(f.RootFile, maxRoot); err != nil {
		return fmt.Errorf("fleet.root_file: %w", err)
	}
	if o.Source, err = fleetSource(f.Repository); err != nil {
		return fmt.Errorf("fleet.repository: %w", err)
	}
	return nil
}

// stopped tells the launcher that the stop was asked for: the next start costs a release on trial no try.
func (a *Agent) stopped() {
	if a.Updates == nil || a.Updates.Slot == "" {
		return
	}
	dir := UpdatePath(a.Config.State)
	if _, err := os.Stat(dir); err != nil {
		return // nothing was ever updated here
	}
	slot := a.Updates.Slot
	if slot == ota.Factory {
		slot = ""
	}
	if err := (&boot.Store{FS: durable.OS{}, Dir: dir}).Stopped(slot, boot.BootID(), 0); err != nil {
		a.Log.Warn("stop not noted for the launcher", "error", err)
	}
}

// fleetSource is where a fleet's folder lies.
func fleetSource(address string) (trust.Source, error) {
	if u, err := url.Parse(address); err == nil && u.Scheme == "file" {
		return trust.Folder(u.Path), nil
	}
	return trust.HTTPS(address, trust.HTTPOptions{Plain: true}) // config has warned of http://; what counts is signed
}

// noFleet is the repository of a gateway without one.
type noFleet struct{ why error }

func (n noFleet) Refresh(context.Context) error                  { return n.why }
func (n noFleet) Target(context.Context, string) ([]byte, error) { return nil, n.why }

// health judges a release on trial by what the one before it reached.
type health struct {
	a *Agent

	mu      sync.Mutex
	written time.Time // when the store was last tried
	store   string    // what was wrong then
}

// baseline is what the previous release was like just before it gave way.
type baseline struct {
	Sensors map[string]string `json:"sensors"` // state of each
	Store   bool              `json:"store"`   // takes what is written; without it nothing can be said of the next one's
	RSS     int64             `json:"rss"`     // bytes
	Files   int               `json:"files"`   // open descriptors
}

// Baseline is how it is now.
func (h *health) Baseline(context.Context) (json.RawMessage, error) {
	b := baseline{Sensors: map[string]string{}, Store: h.checkStore().OK, RSS: residentBytes(), Files: openFiles()}
	for _, s := range h.a.sampler.status() {
		b.Sensors[s.Name] = s.State
	}
	return json.Marshal(b)
}

const (
	storeEvery  = time.Minute // between two trial writes
	firstReport = time.Minute // beyond its interval, for a sensor's first answer
	leastRSS    = 64 << 20    // a release may use so much, or twice what the one before used
	leastFiles  = 256
)

// Check looks at what makes a gateway useful.
func (h *health) Check(_ context.Context, before json.RawMessage) []ota.Check {
	was := baseline{Store: true}
	_ = json.Unmarshal(before, &was) // lost: nothing is excused
	store := h.checkStore()
	store.OK = store.OK || !was.Store // a disk that was full before the update
	checks := []ota.Check{{Name: "config", OK: true}, store}
	cfg := h.a.cfg.Load()
	for _, s := range h.a.sampler.status() {
		if text := sensorTrouble(s, was.Sensors[s.Name], cfg, time.Since(h.a.started)); text != "" {
			checks = append(checks, ota.Check{Name: "drivers", Text: s.Name + ": " + text})
		}
	}
	memory := ota.Check{Name: "memory", OK: true}
	if rss, most := residentBytes(), max(leastRSS, 2*was.RSS); rss > most {
		memory = ota.Check{Name: "memory", Text: fmt.Sprintf("%d MB are used, want at most %d", rss>>20, most>>20)}
	}
	files := ota.Check{Name: "files", OK: true}
	if n, most := openFiles(), max(leastFiles, 2*was.Files); n > most {
		files = ota.Check{Name: "files", Text: fmt.Sprintf("%d files are open, want at most %d", n, most)}
	}
	return append(checks, memory, files)
}

// sensorTrouble says what is wrong with a sensor that was not so before; "" when nothing is.
func sensorTrouble(s status.Sensor, before string, cfg *config.Config, up time.Duration) string {
	good := []string{"ok", "partial", "disabled"}
	i := slices.IndexFunc(cfg.Sensors, func(c config.Sensor) bool { return c.Name == s.Name })
	switch {
	case slices.Contains(good, s.State), i < 0, s.State == before:
		return ""
	case s.State == "starting" && up < time.Duration(s.EveryS*float64(time.Second))+firstReport:
		return ""
	}
	text := "it is " + s.State
	if s.LastError != "" {
		text += ": " + s.LastError
	}
	if before != "" {
		text += " (it was " + before + " before the update)"
	}
	return text
}

const sideHealth = "health"

// checkStore writes a small fact, has it flushed, and reads it back.
func (h *health) checkStore() ota.Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.written.IsZero() || time.Since(h.written) >= storeEvery {
		h.written, h.store = time.Now(), ""
		want := strconv.FormatInt(h.written.UnixNano(), 36)
		if err := errors.Join(h.a.buf.PutSide(sideHealth, []byte(want)), h.a.buf.Flush()); err != nil {
			h.store = oneLine(err)
		} else if got := string(h.a.buf.Side(sideHealth)); got != want {
			h.store = fmt.Sprintf("%q was written and %q read", want, got)
		}
	}
	return ota.Check{Name: "store", OK: h.store == "", Text: h.store}
}

// Link says whether the home is reached, and takes what it is sent.
func (h *health) Link(context.Context) bool {
	_, state, _ := h.a.pubStatus()
	return state == "proven"
}

// residentBytes is what the process holds of the memory (proc(5), statm); 0: unknown.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

func openFiles() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}

// updateStatus is what `homeward status` shows of it.
func (a *Agent) updateStatus() status.Update {
	v := status.Update{Version: a.Version, State: "none"}
	if a.Updates != nil {
		v.Slot = a.Updates.Slot
	}
	if a.updates == nil {
		return v
	}
	s := a.updates.Status()
	v.State, v.Candidate, v.LastResult = string(s.State), s.Candidate, s.LastResult
	v.Counter, v.Target, v.Attempt, v.Code, v.Text, v.Why = s.Counter, s.Target, s.Attempt, s.Code, s.Text, s.Why
	v.Bytes = status.UpdateBytes(s.Bytes)
	v.Checked, v.NextCheck = unixTime(s.Checked), unixTime(s.NextCheck)
	v.Window, v.Floor, v.Fallback = s.Window, s.Floor, s.Fallback
	if s.Pin != nil {
		v.Pinned = s.Pin.Release.Version
	}
	for _, q := range s.Quarantine {
		v.Quarantine = append(v.Quarantine, status.Quarantined{Version: q.Release.Version, Counter: q.Release.Counter, Code: q.Code})
	}
	for _, c := range s.Checks {
		v.Failing = append(v.Failing, strings.TrimSuffix(c.Name+": "+c.Text, ": "))
	}
	return v
}

func unixTime(s int64) *time.Time {
	if s == 0 {
		return nil
	}
	t := time.Unix(s, 0).UTC()
	return &t
}

// toldUpdate is `update` of the retained status: the outcome that the fleet does not have yet, or what is under way, or the
// last result.
type toldUpdate struct {
	State   string `json:"state"`
	Code    string `json:"code"`
	Counter uint64 `json:"counter"`
	Attempt int    `json:"attempt"`
	Gen     uint64 `json:"gen,omitempty"` // of an outcome that is told until this status has arrived: with gateway and counter its key
}

func (a *Agent) tellUpdate() (release string, u toldUpdate) {
	if a.updates == nil {
		return a.Version, toldUpdate{State: "none"}
	}
	s := a.updates.Status()
	if o, ok := a.updates.Outcome(); ok {
		return s.Version, toldUpdate{o.State, o.Code, o.Counter, o.Attempt, o.Gen}
	}
	if s.Candidate != "" {
		return s.Version, toldUpdate{State: string(s.State), Code: s.Code, Counter: s.Target, Attempt: s.Attempt}
	}
	h := a.updates.History()
	for _, e := range slices.Backward(h) {
		if e.Event != ota.EventArmed {
			return s.Version, toldUpdate{State: string(s.State), Code: e.Code, Counter: e.Release.Counter, Attempt: e.Attempt}
		}
	}
	return s.Version, toldUpdate{State: string(s.State), Code: s.Code, Counter: s.Counter}
}

// nudge looks at the repository soon.
func (a *Agent) nudge() {
	if a.updates != nil {
		a.updates.Nudge()
	}
}

// owesOutcome says that the fleet does not know an outcome yet.
func (a *Agent) owesOutcome() bool {
	if a.updates == nil {
		return false
	}
	_, ok := a.updates.Outcome()
	return ok
}

// reportOutcome notes that a retained status, and the outcome in it, have arrived.
func (a *Agent) reportOutcome(text []byte) {
	var v struct {
		Update toldUpdate `json:"update"`
	}
	if a.updates == nil || json.Unmarshal(text, &v) != nil || v.Update.Gen == 0 {
		return
	}
	if err := a.updates.Acked(v.Update.Gen); err != nil {
		a.Log.Warn("told outcome not recorded", "error", err)
	}
}

// staleAfter is how long the fleet may be out of reach before that is a problem: the repository's timestamp expires after
// seven days.
const staleAfter = 3 * 24 * time.Hour

// settleTrial is how long a release on trial may take to reach its home and read its sensors before that is a problem.
const settleTrial = time.Minute

// updateProblems is called once a second.
func (a *Agent) updateProblems() {
	if a.updates == nil {
		return
	}
	s := a.updates.Status()
	name := s.Candidate
	now := a.Clock.Stamp()
	set := func(code Code, on bool, sev status.Severity, text, remedy string) {
		if on {
			a.problems.raise(code, "", sev, text, remedy)
		} else {
			a.problems.clear(code, "")
		}
	}
	since := time.Unix(s.Checked, 0)
	if s.Checked == 0 {
		since = a.started
	}
	late := now.Trusted && time.UnixMilli(now.Wall).Sub(since) > staleAfter
	hard := strings.HasPrefix(s.Code, "tuf.") && s.Code != trust.CodeUnreachable && s.Code != trust.CodeTime && s.Code != trust.CodeNoTarget
	text := fmt.Sprintf("no fresh word of the fleet since %s", since.UTC().Format(time.DateOnly))
	if hard || s.Text != "" && late {
		text += ": " + s.Text + " (" + s.Code + ")"
	}
	set(CodeUpdateSource, late || hard, status.Warn, text, updateRemedy(s.Code))
	unwell := s.State == ota.Trial && len(s.Checks) > 0
	if !unwell {
		a.unwell = time.Time{}
	} else if a.unwell.IsZero() {
		a.unwell = time.Now()
	}
	set(CodeUpdateTrial, unwell && time.Since(a.unwell) >= settleTrial, status.Warn,
		fmt.Sprintf("release %s is on trial and not well: %s", name, checksText(s.Checks)), "nothing to do: the gateway goes back by itself if it stays so")
	set(CodeUpdateRefused, s.State == ota.Refused, status.Warn, strings.Join(strings.Fields(fmt.Sprintf("release %s is not installed: %s (%s)", name, s.Text, s.Code)), " "), updateRemedy(s.Code))
	set(CodeUpdateLauncher, a.Updates.Slot == "", status.Warn, "this agent has a fleet and was not started by homeward-launch: releases are not installed",
		"start it by its service, or with homeward-launch --supervise run (docs/install.md)")
	set(CodeUpdateFallback, s.Fallback, status.Warn, "the slot that should run could not be started; an older one runs in its place",
		"look at the card (dmesg); the fleet's release is installed again by itself")
}

func checksText(list []ota.Check) string {
	var parts []string
	for _, c := range list {
		parts = append(parts, strings.TrimSuffix(c.Name+": "+c.Text, ": "))
	}
	return strings.Join(parts, "; ")
}

// updateRemedy says what to do about a code of an update.
func updateRemedy(code string) string {
	switch {
	case code == trust.CodeTime:
		return "nothing but to set the clock: have an NTP client reach its server"
	case code == trust.CodeUnreachable || code == "":
		return "check fleet.repository and the way to it from here"
	case code == trust.CodeExpired:
		return "have the fleet manager publish again (homeward-fleet publish): what is signed has run out"
	case code == trust.CodeStore, code == trust.CodeFetchSpace, code == trust.CodeFetchStore:
		return "free space on the file system of the state folder, or look at the card"
	case strings.HasPrefix(code, "tuf."):
		return "have the fleet manager look at the repository: what it offers is not what was signed for this gateway (homeward-fleet publish checks it)"
	case strings.HasPrefix(code, "trial."):
		return "have the fleet manager look at the release; this gateway takes it again when it is assigned anew"
	}
	return "have the fleet manager look at the release (homeward-fleet release list); docs/updates.md explains the code"
}

var errNoUpdates = errors.New("this gateway has no fleet: a release is trusted by the fleet's root (fleet.root_file in the configuration)")

// serveUpdates adds what `homeward update` asks for.
func (a *Agent) serveUpdates(mux *http.ServeMux) {
	mux.HandleFunc("GET /update/history", func(w http.ResponseWriter, _ *http.Request) {
		list := []ota.Entry{}
		if a.updates != nil {
			list = append(list, a.updates.History()...)
		}
		status.WriteJSON(w, list)
	})
	mux.HandleFunc("POST /update/clear", func(w http.ResponseWriter, r *http.Request) {
		if err := a.clearUpdate(r.FormValue("version")); err != nil {
			http.Error(w, oneLine(err), http.StatusUnprocessableEntity)
			return
		}
		status.WriteJSON(w, a.updateStatus())
	})
	mux.HandleFunc("POST /update/apply", func(w http.ResponseWriter, r *http.Request) {
		answer := func(code int, err error) { http.Error(w, oneLine(err), code) }
		switch {
		case a.updates == nil:
			answer(http.StatusConflict, errNoUpdates)
			return
		case !filepath.IsAbs(r.FormValue("path")):
			answer(http.StatusBadRequest, fmt.Errorf("path %q: want an absolute one", r.FormValue("path")))
			return
		}
		if _, err := a.updates.Apply(r.Context(), r.FormValue("path")); err != nil {
			seen := ""
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, trust.ErrNotFound) {
				seen = fmt.Sprintf(": want the folder in which timestamp.json lies, where the service's user can read it (its /tmp is its own, and it sees no home folders): such as a stick mounted at /media/usb; here it is %s", r.FormValue("path"))
			}
			answer(http.StatusUnprocessableEntity, fmt.Errorf("%w (%s)%s", err, ota.CodeOf(err), seen))
			return
		}
		status.WriteJSON(w, a.updateStatus())
	})
}

// clearUpdate ends the quarantine of a release that failed here.
func (a *Agent) clearUpdate(version string) error {
	if a.updates == nil {
		return errNoUpdates
	}
	var known []string
	for _, q := range a.updates.Status().Quarantine {
		if q.Release.Version == version {
			return a.updates.Clear(q.Manifest)
		}
		known = append(known, q.Release.Version)
	}
	if len(known) == 0 {
		known = []string{"none"}
	}
	return fmt.Errorf("version %.80q did not fail here: want one that did: %s", version, strings.Join(known, ", "))
}

// enrol writes the file by which a fleet takes this gateway on.
func (a *Agent) enrol() {
	version := a.Version
	if !release.IsVersion(version) {
		version = "dev"
	}
	if _, err := home.Enrol(a.Config.State, a.Config.Gateway, version); err != nil {
		a.Log.Warn("no enrolment file", "error", err)
	}
}
