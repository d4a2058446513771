package ota

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"homeward/buffer/durable"
	"homeward/ota/boot"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// Times of the updater.
const (
	soon        = 30 * time.Second // a nudge is followed within so long, and two looks are no closer
	fresh       = time.Minute      // a look that is older is repeated before arming
	firstFail   = time.Minute      // the bound of the first pause after a failure; it doubles up to every, or 6 h
	maxFail     = 6 * time.Hour
	trialPause  = time.Hour // before a release is armed again that power cuts or the link undid; then six times as long
	maxEvents   = 4096      // of one cycle: no table and no server keeps us in a loop
	spaceFactor = 110       // percent of what is needed
)

// errRecheck interrupts a download that takes long: what it is for may have been withdrawn. errApply does for one by hand.
var (
	errRecheck = errors.New("ota: look again")
	errApply   = errors.New("ota: a release is applied by hand")
)

// cycle is one way through the states.
type cycle struct {
	hand      bool // Apply: at once
	cand      *candidate
	looked    time.Time // when the repository was
	part      *release.Part
	enc       release.Encoding
	blob      string
	have      map[string]bool // parts that are staged
	last      error           // of the last encoding
	why       string
	err       error         // why it rests
	pause     time.Duration // at most, until the next look; 0: the usual
	least     time.Duration // at least, but for a nudge
	completed bool          // the look at the repository was complete
}

// Run works until ctx ends: a trial first if this is one, then a look at the repository every now and then. It returns nil.
func (u *Updater) Run(ctx context.Context) error {
	failures := 0
	for {
		if !u.lock(ctx) {
			return nil
		}
		done := u.begin(ctx)
		u.unlock()
		if done {
			break
		}
		failures++
		if ok, _ := u.sleep(ctx, backoff(failures, time.Minute), false); !ok {
			return nil
		}
	}
	failures = 0
	wait := 5*time.Second + rand.N(min(u.every(), 2*time.Minute)) // a site that got its power back does not ask all at once
	for {
		if u.Status().State == Armed || u.Status().State == RolledBack {
			<-ctx.Done()
			return nil
		}
		ok, nudged := u.sleep(ctx, wait, true)
		if !ok || !u.lock(ctx) {
			return nil
		}
		asked := ctx
		if nudged { // somebody waits for it: a busy server is asked again sooner
			asked = trust.Urgent(ctx)
		}
		c := u.cycle(asked, false)
		u.unlock()
		switch u.Status().State {
		case Failed:
			failures++
			wait = max(backoff(failures, u.every()), min(trust.RetryAfter(c.err), maxFail))
		default:
			failures = 0
			wait = jitter(u.every())
		}
		if c.pause > 0 {
			wait = min(wait, c.pause)
		}
		wait = max(wait, c.least)
	}
}

func (u *Updater) every() time.Duration {
	if d := u.o.Config().Every; d > 0 {
		return d
	}
	return time.Hour
}

func jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// backoff is full jitter below a bound that doubles, up to most or 6 h.
func backoff(failures int, most time.Duration) time.Duration {
	bound := min(firstFail<<min(failures-1, 20), max(most, firstFail), maxFail)
	return bound/10 + rand.N(bound-bound/10+1)
}

// sleep waits; a nudge ends it within soon. not ok: ctx ended.
func (u *Updater) sleep(ctx context.Context, d time.Duration, nudge bool) (ok, wasNudged bool) {
	u.mu.Lock()
	u.status.NextCheck = u.o.Now().Add(d).Unix()
	u.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	nudged := u.nudged
	if !nudge {
		nudged = nil
	}
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-t.C:
			return true, wasNudged
		case <-nudged:
			wasNudged = true
			if left := d - time.Since(began); left > soon {
				d, began = soon/6+rand.N(soon), time.Now()
				t.Reset(d)
			}
			nudged = nil // one is enough
		}
	}
}

// begin does what a start owes: what the record says of the last trial, and of this one. false: the disk does not let us; again later.
func (u *Updater) begin(ctx context.Context) bool {
	rec, from, err := u.o.Boot.Load()
	if ferr := u.folders(); ferr != nil {
		err = errors.Join(err, ferr)
	}
	if err == nil && from.Problem != nil {
		u.log.Warn("boot record", "source", from.Source, "problem", from.Problem)
	}
	if err == nil && from.Source != boot.FromRecord {
		// Before the first slot gets its name there must be a record: without one, the newest slot is what would be started.
		err = u.update(func(*boot.Record) error { return nil })
	}
	if err == nil && u.ours(rec) {
		return u.trial(ctx, rec)
	}
	if err == nil && u.Status().State == Trial { // New saw one, and the guard ended it since
		u.show(Idle, nil)
		u.mu.Lock()
		u.status.Candidate, u.status.Target, u.status.Attempt = "", 0, 0
		u.mu.Unlock()
	}
	if err == nil && rec.Trial != nil && u.o.Slot != "" {
		// The launcher starts the trial, or ends it: that it did neither means that it was not asked.
		err = u.update(func(r *boot.Record) error {
			boot.RollBack(r, CodeNotStarted, fmt.Sprintf("slot %s runs though slot %s is on trial", u.o.Slot, rec.Trial.Slot), false)
			u.stamp(r)
			return nil
		})
		if err == nil {
			rec, _, err = u.o.Boot.Load()
		}
	}
	if nerr := u.note(func(j *journal) { j.name(u.o.Gateway) }); nerr != nil {
		u.log.Warn("update", "problem", nerr) // a new name is noticed at the next start
	}
	if err == nil {
		err = u.judge(ctx, rec)
	}
	if ctx.Err() != nil {
		return true
	}
	if err == nil {
		if rec, _, err = u.o.Boot.Load(); err == nil {
			err = errors.Join(u.settle(rec), u.tell(rec), u.collect(rec, nil, true))
		}
	}
	if err != nil {
		u.show(Failed, err)
		return false
	}
	u.mu.Lock()
	u.showLocked(rec)
	if u.status.Fallback {
		u.status.Code = CodeFallback
		u.status.Text = fmt.Sprintf("slot %s runs, not the committed %s: the launcher fell back", u.o.Slot, shown(rec.Active))
	}
	u.mu.Unlock()
	u.changed()
	return true
}

func shown(slot string) string {
	if slot == "" {
		return Factory
	}
	return slot
}

// stamp gives a result that has none its time.
func (u *Updater) stamp(r *boot.Record) {
	if r.LastResult != nil && r.LastResult.UnixS == 0 {
		last := *r.LastResult
		last.UnixS = u.o.Now().Unix()
		r.LastResult = &last
	}
}

// settle plans another trial for a release that was undone without being quarantined, or ends its trials.
func (u *Updater) settle(rec boot.Record) error {
	r := rec.LastResult
	if r == nil || r.Attempt == 0 || r.Code == boot.CodeOK || u.outcomeKnown(*r) {
		return nil
	}
	if _, is := rec.Quarantined(r.Release.SHA256); is {
		return nil
	}
	pause := trialPause
	for range r.Attempt - 1 {
		pause *= 6
	}
	if err := u.note(func(j *journal) {
		t := j.trials(r.Release.SHA256)
		j.Trials = slices.DeleteFunc(j.Trials, func(old trials) bool { return old.Manifest == t.Manifest })
		j.Trials = append(j.Trials, trials{t.Manifest, max(t.N, r.Attempt), u.o.Now().Add(jitter(pause)).Unix()})
	}); err != nil {
		return err
	}
	if r.Attempt < boot.Attempts {
		return nil
	}
	slot := "" // as far as is known
	if _, m := u.readArmed(r.Release.SHA256); m != nil {
		slot = m.Agent().SHA256
	}
	return u.update(func(rec *boot.Record) error {
		if _, is := rec.Quarantined(r.Release.SHA256); !is && release.IsHash(r.Release.SHA256) {
			rec.Quarantine = append(rec.Quarantine, boot.Quarantined{Manifest: r.Release.SHA256, Slot: slot, Release: r.Release, Code: r.Code})
			if n := len(rec.Quarantine) - boot.MaxQuarantined; n > 0 {
				rec.Quarantine = slices.Clone(rec.Quarantine[n:])
			}
		}
		return nil
	})
}

func (u *Updater) outcomeKnown(r boot.Result) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.history, func(e Entry) bool { return e.is(r) })
}

// show is the state and what stands behind it.
func (u *Updater) show(s State, err error) {
	u.mu.Lock()
	if u.status.State != s {
		u.status.Since = u.o.Now().Unix()
	}
	u.status.State, u.status.Code, u.status.Text = s, "", ""
	if err != nil {
		u.status.Code, u.status.Text = CodeOf(err), clip(err.Error())
	}
	u.mu.Unlock()
	u.changed()
}

// cycle goes through the states from a look at the repository until they rest.
func (u *Updater) cycle(ctx context.Context, hand bool) *cycle {
	c := &cycle{hand: hand, have: map[string]bool{}}
	state, err := next(u.Status().State, due)
	if err != nil {
		return c
	}
	u.show(state, nil)
	for range maxEvents {
		on := u.do(ctx, state, c)
		if ctx.Err() != nil && on != arm { // the record has the trial: the restart follows, whoever stopped waiting for it
			break
		}
		if state, err = next(state, on); err != nil {
			c.err = err
		}
		if on == stale {
			c.cand, c.have, c.last = nil, map[string]bool{}, nil
		}
		u.show(state, c.err)
		if rests[state] {
			break
		}
	}
	if err := errors.Join(u.bytes.settle(), u.rest(state, c)); err != nil {
		u.log.Warn("update", "problem", err)
	}
	if rests[state] {
		if c.err != nil {
			u.log.Info("update", "state", state, "code", CodeOf(c.err), "problem", c.err)
		}
	} else { // cut short
		u.show(Idle, nil)
	}
	if state == Armed {
		u.step("restart")
		u.o.Restart()
	}
	return c
}

// rest remembers where the cycle came to rest, and tells what the fleet should know.
func (u *Updater) rest(state State, c *cycle) error {
	u.mu.Lock()
	u.status.Why = c.why
	u.status.Candidate, u.status.Target, u.status.Attempt = "", 0, 0
	if c.cand != nil {
		u.status.Candidate, u.status.Target = c.cand.rel.Version, c.cand.rel.Counter
		u.status.Attempt = u.journal.trials(c.cand.rel.SHA256).N
	}
	u.status.Bytes.Done, u.status.Bytes.Total = 0, 0
	u.mu.Unlock()
	err := u.note(func(j *journal) {
		j.State = state
		if c.cand != nil {
			j.Candidate = c.cand.rel
		} else {
			j.Candidate = boot.Release{}
		}
		if c.completed && c.looked.Unix()-j.Checked >= 24*3600 { // not a write for each look
			j.Checked = c.looked.Unix()
		}
	})
	var r *refusal
	if state == Refused && errors.As(c.err, &r) && !r.quiet {
		err = errors.Join(err, u.refused(r))
	}
	return err
}

// refused tells a refusal, once for each release and code.
func (u *Updater) refused(r *refusal) error {
	t := told{r.rel.SHA256, CodeOf(r.err)}
	u.mu.Lock()
	known := slices.Contains(u.journal.Told, t)
	u.mu.Unlock()
	if known {
		return nil
	}
	var rec boot.Record
	if err := u.update(func(rr *boot.Record) error {
		rr.LastResult = &boot.Result{Release: r.rel, Code: t.Code, Text: clip(r.err.Error()), Gen: rr.Gen + 1, UnixS: u.o.Now().Unix()}
		rec = *rr
		return nil
	}); err != nil {
		return err
	}
	return errors.Join(u.tell(rec), u.note(func(j *journal) { j.Told = append(j.Told, t) }))
}

// do is the work of one state. It returns the event; what is wrong is in c.err.
func (u *Updater) do(ctx context.Context, s State, c *cycle) Event {
	c.err = nil
	switch s {
	case Checking:
		return u.look(ctx, c)
	case Chosen:
		return u.may(ctx, c)
	case Fetching:
		return u.fetch(ctx, c)
	case Staging:
		return u.stage(ctx, c)
	case Staged:
		return u.arm(ctx, c)
	}
	c.err = fmt.Errorf("ota: nothing to do in state %s", s)
	return fail
}

// look refreshes and chooses: steps 1 and 2.
func (u *Updater) look(ctx context.Context, c *cycle) Event {
	if err := u.repo.Refresh(ctx); err != nil {
		return c.failed(err)
	}
	c.looked, c.completed = u.o.Now(), true
	u.mu.Lock()
	u.checked = time.Now()
	if !u.sources.local() {
		u.online = u.checked
	}
	u.status.Checked = c.looked.Unix()
	u.mu.Unlock()
	u.step("refreshed")
	cand, why, err := u.choose(ctx)
	c.why, c.cand = why, cand
	var r *refusal
	switch {
	case errors.As(err, &r):
		if cerr := u.drop(nil); cerr != nil {
			return c.failed(cerr)
		}
		c.err = err
		return refuse
	case err != nil:
		return c.failed(err)
	}
	if err := u.drop(cand); err != nil {
		return c.failed(err)
	}
	if cand == nil {
		return none
	}
	u.mu.Lock()
	u.status.Candidate, u.status.Target, u.status.Why = cand.rel.Version, cand.rel.Counter, why
	u.mu.Unlock()
	u.step("chosen")
	return found
}

func (c *cycle) failed(err error) Event {
	c.err = err
	switch CodeOf(err) {
	case ErrBudget.code, CodeSpace, trust.CodeFetchSpace:
		return postpone
	}
	return fail
}

// drop removes what was fetched or staged for another release than c: superseded, withdrawn, halted or refused.
func (u *Updater) drop(c *candidate) error {
	rec, _, err := u.o.Boot.Load()
	if err != nil {
		return err
	}
	return u.collect(rec, c, false)
}

// collect keeps the slots that the record names, the one that runs, and what c needs. Blobs stay for c; at start, when nobody has
// chosen yet, for all.
func (u *Updater) collect(rec boot.Record, c *candidate, start bool) error {
	keep := []string{rec.Active, rec.Prev, u.slotName()}
	if rec.Trial != nil {
		keep = append(keep, rec.Trial.Slot)
	}
	var blobs []string
	if c != nil {
		for _, p := range c.m.Needed() {
			keep = append(keep, p.SHA256)
			for _, e := range p.Encodings {
				blobs = append(blobs, e.SHA256)
			}
		}
	}
	if start {
		// A slot that was staged for a release to be armed soon is one look at the repository away from being known.
		entries, err := u.fs.ReadDir(u.path("slots"))
		if err != nil {
			return diskError("list slots", err)
		}
		for _, e := range entries {
			// What is known to be bad goes: without a record, the newest slot is what would be started.
			bad := slices.ContainsFunc(rec.Quarantine, func(q boot.Quarantined) bool { return q.Slot == e.Name() })
			if release.IsHash(e.Name()) && !bad {
				keep = append(keep, e.Name())
			}
		}
	}
	var failed error
	for _, b := range u.backends {
		failed = errors.Join(failed, b.Collect(keep))
	}
	if !start {
		entries, err := u.fs.ReadDir(u.path("stage"))
		if err != nil {
			return diskError("list stage", err)
		}
		for _, e := range entries {
			if name := e.Name(); len(name) < 64 || !slices.Contains(blobs, name[:64]) {
				failed = errors.Join(failed, u.fs.RemoveAll(filepath.Join(u.path("stage"), name)))
			}
		}
	}
	u.step("collected")
	return failed
}

// may says whether the release can be fetched and armed at all, and now: the rest of step 2.
func (u *Updater) may(ctx context.Context, c *cycle) Event {
	if u.o.Slot == "" {
		c.err = &Error{CodeNoLauncher, "the agent was not started by homeward-launch, which puts the old release back: nothing is installed", nil}
		return postpone
	}
	if u.o.Ready != nil {
		if err := u.o.Ready(); err != nil {
			c.err = &Error{CodeNotReady, "not enough power", err}
			return postpone
		}
	}
	u.mu.Lock()
	t := u.journal.trials(c.cand.rel.SHA256)
	u.mu.Unlock()
	if wait := time.Unix(t.NotBefore, 0).Sub(u.o.Now()); t.NotBefore > 0 && wait > 0 && !c.hand {
		// Bounded: a clock that was wrong for a while must not stop updates for good.
		c.pause = min(wait, 24*time.Hour)
		if wait <= 72*time.Hour {
			c.err = &Error{CodePause, fmt.Sprintf("trial %d of %s ended without a verdict: the next one is not before %s",
				t.N, c.cand.rel, time.Unix(t.NotBefore, 0).UTC().Format(time.RFC3339)), nil}
			return postpone
		}
	}
	var need int64
	for _, p := range c.cand.m.Needed() {
		b := u.backends[p.Backend]
		have, err := b.Have(ctx, p)
		if err != nil {
			return c.failed(err)
		}
		c.have[p.Name] = have
		if have {
			continue
		}
		need += p.Size
		if choices := u.choices(p, b); len(choices) > 0 {
			need += choices[0].Size
		}
	}
	if need == 0 {
		return present
	}
	free, inodes, err := u.fs.Free(u.o.Dir)
	if err != nil {
		return c.failed(diskError("free space", err))
	}
	if need += need * (spaceFactor - 100) / 100; free < need || inodes >= 0 && inodes < 64 {
		c.err = &Error{CodeSpace, fmt.Sprintf("%d bytes and %d files are free, want %d bytes and 64 files", free, inodes, need), nil}
		return postpone
	}
	return fits
}

// choices are the encodings of a part that may do, the cheapest first.
func (u *Updater) choices(p *release.Part, b Backend) []release.Encoding {
	base := b.Base()
	if base != "" && base == p.SHA256 {
		return []release.Encoding{{Enc: copyEnc, Base: base}}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.DeleteFunc(p.Choices(func(sha string) bool { return base != "" && sha == base }),
		func(e release.Encoding) bool { return slices.Contains(u.journal.Tried, e.SHA256) })
}

// fetch brings the next blob that is needed: steps 3 and 4.
func (u *Updater) fetch(ctx context.Context, c *cycle) Event {
	c.part = nil
	for _, p := range c.cand.m.Needed() {
		if !c.have[p.Name] {
			c.part = p
			break
		}
	}
	if c.part == nil {
		return complete
	}
	choices := u.choices(c.part, u.backends[c.part.Backend])
	if len(choices) == 0 {
		err := c.last
		if err == nil {
			err = &Error{CodeVerify, fmt.Sprintf("none of the encodings of part %s gives it", c.part.Name), nil}
		}
		return u.condemn(c, err)
	}
	c.enc = choices[0]
	if c.enc.Enc == copyEnc {
		c.blob = u.o.Agent
		return fetched
	}
	limited, cancel := context.WithCancelCause(ctx)
	look := time.AfterFunc(u.every(), func() { cancel(errRecheck) })
	u.mu.Lock()
	u.interrupt = cancel
	u.mu.Unlock()
	path, err := u.blobs.Fetch(limited, c.enc.SHA256, c.enc.Size)
	look.Stop()
	u.mu.Lock()
	u.interrupt = nil
	u.mu.Unlock()
	cause := context.Cause(limited)
	cancel(nil)
	switch {
	case err == nil:
		c.blob = path
		u.step("fetched")
		return fetched
	case errors.Is(cause, errRecheck):
		return stale
	case errors.Is(cause, errApply):
		c.pause = time.Second
		return postpone
	}
	// What the server holds under that name is not it: a patch is not asked for again. The link's troubles say nothing of the blob.
	switch CodeOf(err) {
	case trust.CodeFetchHash, trust.CodeFetchSize, trust.CodeFetchMissing, trust.CodeFetchRange:
		if c.enc.Base != "" {
			if nerr := u.note(func(j *journal) { j.Tried = append(j.Tried, c.enc.SHA256) }); nerr != nil {
				return c.failed(nerr)
			}
			u.log.Info("update: the next encoding", "after", c.enc.Enc, "code", CodeOf(err), "problem", err)
			return u.fetch(ctx, c)
		}
		if CodeOf(err) != trust.CodeFetchMissing {
			c.least = jitter(maxFail) // all of it came, and was paid for
		}
	case ErrBudget.code:
		c.pause = u.bytes.untilTomorrow() + rand.N(10*time.Minute)
	}
	return c.failed(err)
}

// stage builds the part: steps 5 to 8.
func (u *Updater) stage(ctx context.Context, c *cycle) Event {
	err := u.backends[c.part.Backend].Stage(ctx, c.part, c.enc, c.blob)
	if err == nil {
		c.have[c.part.Name] = true
		if c.enc.Enc != copyEnc {
			if err := u.fs.Remove(c.blob); err != nil {
				return c.failed(diskError("remove blob", err))
			}
		}
		return built
	}
	if CodeOf(err) == CodeVerify && c.enc.Enc != copyEnc {
		c.last = err
		if nerr := u.note(func(j *journal) { j.Tried = append(j.Tried, c.enc.SHA256) }); nerr != nil {
			return c.failed(nerr)
		}
		if rerr := u.fs.Remove(c.blob); rerr != nil {
			return c.failed(diskError("remove blob", rerr))
		}
		u.log.Info("update: the next encoding", "after", c.enc.Enc, "code", CodeVerify, "problem", err)
		return broken
	}
	return c.failed(err)
}

// condemn refuses a release that can never run here, and quarantines it.
func (u *Updater) condemn(c *cycle, err error) Event {
	rel := c.cand.rel
	if uerr := u.note(func(j *journal) { j.Assigned = append(j.forgetAssigned(rel.SHA256), c.cand.by) }); uerr != nil {
		return c.failed(uerr)
	}
	if uerr := u.update(func(r *boot.Record) error {
		boot.Clear(r, rel.SHA256)
		r.Quarantine = append(r.Quarantine, boot.Quarantined{Manifest: rel.SHA256, Release: rel, Code: CodeOf(err), Serial: c.cand.serial})
		if n := len(r.Quarantine) - boot.MaxQuarantined; n > 0 {
			r.Quarantine = slices.Clone(r.Quarantine[n:])
		}
		r.LastResult = &boot.Result{Release: rel, Code: CodeOf(err), Text: clip(err.Error()), Gen: r.Gen + 1, UnixS: u.o.Now().Unix()}
		return nil
	}); uerr != nil {
		return c.failed(uerr)
	}
	rec, _, lerr := u.o.Boot.Load()
	if lerr == nil {
		lerr = errors.Join(u.tell(rec), u.collect(rec, nil, false))
	}
	if lerr != nil {
		u.log.Warn("update", "problem", lerr)
	}
	c.err = &refusal{rel: rel, by: c.cand.by, quiet: true, err: err}
	return refuse
}

// armed is what the trial needs of the release that armed it.
type armedFile struct {
	Manifest []byte          `json:"manifest"` // raw: its hash is in the record
	Pinned   bool            `json:"pinned,omitempty"`
	Link     bool            `json:"link"`    // the home was reached
	Channel  bool            `json:"channel"` // the repository was
	Baseline json.RawMessage `json:"baseline,omitempty"`
}

const (
	maxBaseline = 16 << 10
	maxArmed    = 2*release.MaxFile + 2*maxBaseline
)

// arm checks the staged parts and, if the window is open and the release still meant, puts it on trial: steps 9 to 11.
func (u *Updater) arm(ctx context.Context, c *cycle) Event {
	rel := c.cand.rel
	u.mu.Lock()
	checked := u.selfOK == rel.SHA256
	u.mu.Unlock()
	if !checked {
		for _, p := range c.cand.m.Needed() {
			if err := u.backends[p.Backend].Check(ctx, p); err != nil {
				if ctx.Err() != nil {
					return fail
				}
				if CodeOf(err) == CodeSelfCheck {
					return u.condemn(c, err)
				}
				return c.failed(err)
			}
		}
		u.mu.Lock()
		u.selfOK = rel.SHA256
		u.mu.Unlock()
		u.step("self-checked")
	}
	if !c.hand {
		wait, err := u.shut(c.cand)
		if wait > 0 {
			c.pause, c.err = wait, err
			return shut
		}
	}
	if time.Since(u.lastLook()) > fresh && !c.hand {
		return stale
	}
	base, err := u.o.Health.Baseline(ctx)
	if err != nil {
		return c.failed(&Error{CodeBaseline, "how the agent is doing", err})
	}
	if len(base) > maxBaseline {
		return c.failed(&Error{CodeBaseline, fmt.Sprintf("%d bytes, want at most %d", len(base), maxBaseline), nil})
	}
	u.mu.Lock()
	online := !u.online.IsZero() && time.Since(u.online) < 2*u.every() // by hand: the repository may be out of reach for good
	u.mu.Unlock()
	data, err := json.Marshal(armedFile{c.cand.raw, c.cand.pinned, u.o.Health.Link(ctx), online, base})
	if err == nil {
		err = durable.Replace(u.fs, u.path("armed.json"), data, 0o600)
	}
	if err != nil {
		return c.failed(diskError("baseline", err))
	}
	u.step("baseline")
	for _, p := range c.cand.m.Needed() {
		if err := u.backends[p.Backend].Arm(ctx, p); err != nil {
			return c.failed(err)
		}
	}
	u.step("parts-armed")
	var n int
	if err := u.note(func(j *journal) {
		j.Assigned = append(j.forgetAssigned(rel.SHA256), c.cand.by)
		n = j.trials(rel.SHA256).N
	}); err != nil {
		return c.failed(err)
	}
	var gen uint64
	var attempt int
	err = u.update(func(r *boot.Record) error {
		h := c.cand.m.Health
		if err := boot.Arm(r, boot.Trial{Slot: c.cand.m.Agent().SHA256, Release: rel, Serial: c.cand.serial,
			StableS: h.StableS, DeadlineS: h.DeadlineS, NeedServer: h.NeedServer}); err != nil {
			return err
		}
		r.Trial.Attempt = max(r.Trial.Attempt, n+1)
		gen, attempt = r.Gen+1, r.Trial.Attempt
		return nil
	})
	if err != nil {
		return c.failed(err)
	}
	u.step("armed")
	u.mu.Lock()
	e := Entry{Gen: gen, UnixS: u.o.Now().Unix(), Event: EventArmed, Release: rel, Attempt: attempt}
	u.liftLocked(&e)
	err = u.writeHistoryLocked(append(slices.Clone(u.history), e))
	u.status.Attempt = attempt
	u.mu.Unlock()
	if err != nil {
		u.log.Warn("update", "problem", err) // the trial counts
	}
	return arm
}

func (u *Updater) lastLook() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.checked
}

// shut is how long the window is still shut; 0: it is open. Without a clock nobody knows, which the error says.
func (u *Updater) shut(c *candidate) (time.Duration, error) {
	w := u.o.Config().Window
	if w == (Window{}) {
		w = c.window
	}
	if w == (Window{}) {
		return 0, nil
	}
	if u.o.Synced != nil && !u.o.Synced() {
		return 10 * time.Minute, &Error{CodeClock, fmt.Sprintf("the window is %s and the clock has never been set by a server: want a time server, or `homeward update apply`", w), nil}
	}
	return w.Wait(u.local(), u.o.Gateway+c.rel.SHA256), nil
}

func (j *journal) forgetAssigned(manifest string) []assigned {
	return slices.DeleteFunc(j.Assigned, func(a assigned) bool { return a.Manifest == manifest })
}

// Apply installs a release from a fleet repository's folder, such as one on a USB stick, or from any file in its top: with all
// checks, but at once, whatever window, pause and bytes of the day say. It returns what state that led to; nothing to take is an
// error that says why. The restart follows as usual.
func (u *Updater) Apply(ctx context.Context, path string) (Status, error) {
	dir := path
	if info, err := os.Stat(path); err != nil {
		return Status{}, fmt.Errorf("ota: apply: %w: want a fleet repository's folder", err)
	} else if !info.IsDir() {
		dir = filepath.Dir(path)
	}
	busy := func() error {
		switch s := u.Status().State; s {
		case Armed, Trial, RolledBack, Judging:
			return fmt.Errorf("ota: apply: a release is %s: want its end first", s)
		}
		return nil
	}
	if err := busy(); err != nil { // a trial holds the work for long
		return u.Status(), err
	}
	u.mu.Lock()
	if u.interrupt != nil {
		u.interrupt(errApply)
	}
	u.mu.Unlock()
	if !u.lock(ctx) {
		return u.Status(), context.Cause(ctx)
	}
	defer u.unlock()
	if err := busy(); err != nil {
		return u.Status(), err
	}
	if err := u.folders(); err != nil {
		return u.Status(), err
	}
	u.sources.use(trust.Folder(dir))
	defer u.sources.use(nil)
	c := u.cycle(ctx, true)
	s := u.Status()
	switch {
	case s.State == Armed:
		return s, nil
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case c.err != nil:
		return s, c.err
	case s.State == Idle:
		return s, fmt.Errorf("ota: apply: nothing to install: %s", c.why)
	}
	return s, nil
}

func manifestHash(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
