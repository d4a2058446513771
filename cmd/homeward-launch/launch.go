package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"homeward/ota/boot"
)

// trialWatchdog is the watchdog of a release on trial: shorter than the unit's, so that three hangs end within a minute.
var trialWatchdog = 15 * time.Second

// apart is how many seconds lie between the starts of two tries within a boot: before the third, the second, the first.
var apart = [boot.Tries]int64{10, 3, 0}

// refuses is why a release on trial is undone that ends with boot.ExitUsage. It is not quarantined: the mistake may have come into the
// file during the trial, and the old release then refuses it too. The updater tries again, a bounded number of times.
const refuses = "it refuses the configuration: exit status 2"

// soon is within how many seconds of its start an end counts as a repetition of the one before.
const soon = 60

type launcher struct {
	state, factory, boot string
	store                *boot.Store
	say                  func(format string, args ...any)
	now, uptime          func() int64 // Unix seconds; seconds since the boot
	sleep                func(time.Duration)
	notify               func(text string)
}

// candidate is a program that may be started.
type candidate struct {
	slot  string // "" is the factory's
	path  string
	trial bool
}

// plan counts the start and gives what to start, the best first.
type plan struct {
	list []candidate
	note boot.Last // of the run that begins
	skip string    // slot that needs no check: it ended cleanly in this boot
}

// pause is for how long the next start waits, so that what passes by itself has passed: another program's hold of a port, a
// device that resets. A first end is answered at once.
func pause(r *boot.Record, bootID string, last boot.Last, known bool, uptime int64) time.Duration {
	if !known || last.Clean {
		return 0
	}
	ran := max(0, uptime-last.StartS)
	if t := r.Trial; t != nil && t.BootID == bootID && !t.Clean {
		if t.TriesLeft <= 0 {
			return 0 // it ends here
		}
		return time.Duration(max(0, apart[min(t.TriesLeft, boot.Tries)-1]-ran)) * time.Second
	}
	if ran >= soon {
		return 0
	}
	return []time.Duration{0, 1, 2, 5}[min(last.Crashes, 3)] * time.Second
}

// plan decides and counts. Nothing that goes wrong here keeps the active slot from being started.
func (l *launcher) plan() plan {
	r, how, err := l.store.Load()
	if err := errors.Join(how.Problem, err); err != nil {
		l.say("record: %v; taken from: %s", err, how.Source)
	}
	p := plan{}
	last, known := l.store.Last(l.boot)
	if wait := pause(&r, l.boot, last, known, l.uptime()); wait > 0 {
		l.sleep(wait)
	}
	d := boot.Decision{Slot: r.Active}
	if r.Trial != nil {
		name := r.Trial.Release
		changed, err := l.store.Update(func(r *boot.Record) error {
			d = boot.Start(r, l.boot)
			l.stamp(r, d.RolledBack)
			return nil
		})
		switch {
		case err != nil: // never an uncounted trial
			l.say("release %s waits for its trial: it cannot be counted: %v", name, err)
			d = boot.Decision{Slot: r.Active}
		case d.RolledBack:
			r = changed
			l.say("release %s is undone: %s: %s", name, r.LastResult.Code, r.LastResult.Text)
		default:
			r = changed
		}
	}
	if d.Trial {
		if err := l.store.Verify(d.Slot); err != nil {
			l.undo(boot.CodeVerify, err.Error(), false)
		} else {
			l.say("release %s on trial: %d of %d tries, %d of %d boots left", r.Trial.Release, r.Trial.TriesLeft, boot.Tries, r.Trial.BootsLeft, boot.Boots)
			p.list = append(p.list, candidate{d.Slot, l.store.Agent(d.Slot), true})
		}
	}
	p.note = boot.Last{BootID: l.boot}
	if known && last.Clean {
		p.skip = last.Slot
	}
	if known && !last.Clean && !d.RolledBack {
		p.note.Crashes = 1
		if l.uptime()-last.StartS < soon {
			p.note.Crashes = last.Crashes + 1
		}
	}
	if !d.Trial && guessed(&r) && last.Slot == r.Active && p.note.Crashes >= boot.Tries {
		l.giveWay(&r)
		p.note.Crashes = 0
	}
	add := func(slot string) {
		c := candidate{slot: slot, path: l.factory}
		if slot != "" {
			c.path = l.store.Agent(slot)
		}
		if !slices.ContainsFunc(p.list, func(x candidate) bool { return x.slot == slot && !x.trial }) {
			p.list = append(p.list, c)
		}
	}
	add(r.Active)
	if r.Prev != "" {
		add(r.Prev)
	}
	add("")
	if slots, err := l.store.Slots(); err == nil { // with the factory's gone, any that is whole
		for _, slot := range slots {
			if _, bad := slotQuarantined(&r, slot); !bad {
				add(slot)
			}
		}
	}
	return p
}

// guessed says whether nobody ever confirmed the active slot: the record was lost, and the slot was taken since it was the newest.
func guessed(r *boot.Record) bool { return r.Active != "" && r.Release == (boot.Release{}) }

// giveWay makes the next older slot that is whole the active one, at last the factory's, in a record that was lost: the newest
// slot may be one that was quarantined. It goes one way only, so that it ends.
func (l *launcher) giveWay(r *boot.Record) {
	bad, next := r.Active, ""
	slots, err := l.store.Slots()
	if err != nil {
		l.say("%v", err)
	}
	if i := slices.Index(slots, bad); i >= 0 {
		for _, slot := range slots[i+1:] {
			if slices.ContainsFunc(r.Quarantine, func(q boot.Quarantined) bool { return q.Slot == slot }) || l.store.Verify(slot) != nil {
				continue
			}
			next = slot
			break
		}
	}
	name := next
	if name == "" {
		name = "the factory's"
	}
	l.say("slot %.12s, the newest when the record was lost, does not stay: now %.13s", bad, name)
	if _, err := l.store.Update(func(r *boot.Record) error {
		if r.Active == bad && guessed(r) {
			r.Active, r.Prev, r.PrevRelease = next, "", boot.Release{}
		}
		return nil
	}); err != nil {
		l.say("%v", err) // the next start decides again
	}
	r.Active, r.Prev = next, ""
}

func slotQuarantined(r *boot.Record, slot string) (boot.Quarantined, bool) {
	for _, q := range r.Quarantine {
		if q.Slot == slot && slot != r.Active && slot != r.Prev {
			return q, true
		}
	}
	return boot.Quarantined{}, false
}

func (l *launcher) stamp(r *boot.Record, rolledBack bool) {
	if rolledBack && r.LastResult != nil {
		r.LastResult.UnixS = max(l.now(), r.TimeFloor)
	}
}

// undo ends the trial; where that cannot be written, the next start decides again.
func (l *launcher) undo(code, text string, quarantine bool) bool {
	done := false
	r, err := l.store.Update(func(r *boot.Record) error {
		done = r.Trial != nil
		boot.RollBack(r, code, text, quarantine)
		l.stamp(r, done)
		return nil
	})
	if err != nil {
		l.say("the trial should end with %s: %v", code, err)
		return false
	}
	if done {
		l.say("release %s is undone: %s: %s", r.LastResult.Release, code, text)
	}
	return done
}

// usable says whether a candidate may be started. The one on trial was checked before.
func (l *launcher) usable(c candidate, p plan) bool {
	if c.slot == "" || c.trial || c.slot == p.skip {
		return true
	}
	if err := l.store.Verify(c.slot); err != nil {
		l.say("not started: %v", err)
		return false
	}
	return true
}

// environment is the agent's, with what the launcher tells it.
func (l *launcher) environment(c candidate, more ...string) []string {
	slot := c.slot
	if slot == "" {
		slot = "factory"
	}
	set := append([]string{"HOMEWARD_SLOT=" + slot, "HOMEWARD_STATE=" + l.state, "HOMEWARD_LAUNCHER=" + strconv.Itoa(boot.LauncherLevel)}, more...)
	if os.Getenv("GOTRACEBACK") == "" {
		// A panic of a Go program is exit status 2, which says that the configuration is wrong: make it a signal instead.
		set = append(set, "GOTRACEBACK=crash")
	}
	var all []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(set, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			all = append(all, kv)
		}
	}
	return append(all, set...)
}

// exec becomes the agent. It returns only when nothing could be started.
func (l *launcher) exec(args []string) {
	p := l.plan()
	for _, c := range p.list {
		if !l.usable(c, p) {
			continue
		}
		p.note.Slot, p.note.StartS = c.slot, l.uptime()
		if err := l.store.Note(p.note); err != nil {
			l.say("%v", err) // the slot will be checked at the next start, and it is not paced
		}
		var more []string
		if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); c.trial && err == nil && usec > trialWatchdog.Microseconds() {
			set := fmt.Sprintf("WATCHDOG_USEC=%d", trialWatchdog.Microseconds())
			l.notify(set)
			more = append(more, set)
		}
		err := unix.Exec(c.path, append([]string{c.path}, args...), l.environment(c, more...))
		l.failed(c, err)
	}
}

// failed is for a program that the kernel would not start.
func (l *launcher) failed(c candidate, err error) {
	l.say("%s: %v", c.path, err)
	if c.trial {
		wrong := errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.EINVAL) // not for this machine: that will not change
		l.undo(boot.CodeCrash, "it cannot be started: "+err.Error(), wrong)
	}
}

// stopped notes how the agent ended, as systemd tells it (SERVICE_RESULT, EXIT_CODE, EXIT_STATUS).
func (l *launcher) stopped() {
	result, code, status := os.Getenv("SERVICE_RESULT"), os.Getenv("EXIT_CODE"), os.Getenv("EXIT_STATUS")
	r, _, err := l.store.Load()
	if err != nil || r.Trial == nil || r.Trial.BootID != l.boot || r.Trial.Clean {
		return
	}
	how := ending(result, code, status)
	if _, err := l.store.Update(func(r *boot.Record) error {
		boot.Ended(r, result == "watchdog" || result == "timeout", how)
		return nil
	}); err != nil {
		l.say("%v", err)
	}
}

// ending puts systemd's words into a sentence.
func ending(result, code, status string) string {
	switch {
	case result == "watchdog":
		return "it hung: the watchdog ended it"
	case result == "timeout":
		return "it hung at its start or its end"
	case result == "oom-kill":
		return "it was killed: it took too much memory"
	case code == "exited":
		return "it exited with status " + status
	case code == "killed" || code == "dumped":
		return "it was killed by SIG" + strings.TrimPrefix(status, "SIG")
	}
	return ""
}

// guard is for a service that failed: it undoes what is on trial where that failed for good, and says whether the service is to be
// started again, in the file "next" of the unit's folder: now, stay (not by us), or nothing, which is after a rest. The unit says in the
// file "end" how the service ended; without it, systemd restarts the service by itself, as from 254 on when OnFailure= comes with
// each restart. Run twice it does no more than once. By hand, without a folder, it always undoes.
func (l *launcher) guard() int {
	dir := os.Getenv("RUNTIME_DIRECTORY")
	if dir == "" {
		if l.undo(boot.CodeCrash, "undone by homeward-launch --guard", true) {
			return 0
		}
		if r, _, err := l.store.Load(); err != nil || r.Trial != nil {
			return 1 // undo has said why
		}
		l.say("no release is on trial")
		return 0
	}
	next := "stay"
	if end, err := os.ReadFile(filepath.Join(dir, "end")); err == nil {
		next = l.failedForGood(string(end))
	}
	if err := os.WriteFile(filepath.Join(dir, "next"), []byte(next), 0o600); err != nil {
		l.say("%v", err)
		return 1
	}
	return 0
}

// failedForGood judges by the service's ExecMainCode (1: it exited) and ExecMainStatus.
func (l *launcher) failedForGood(end string) (next string) {
	lines := strings.Fields(end)
	refused := slices.Contains(lines, "ExecMainCode=1") && slices.Contains(lines, "ExecMainStatus="+strconv.Itoa(boot.ExitUsage))
	r, how, err := l.store.Load()
	if err := errors.Join(how.Problem, err); err != nil {
		l.say("record: %v; taken from: %s", err, how.Source)
	}
	undone := false
	if t := r.Trial; t != nil && t.BootID != "" {
		switch {
		case refused:
			undone = l.undo(boot.CodeConfig, refuses, false)
		case t.Hung:
			undone = l.undo(boot.CodeHang, "it hung until the service was stopped", true)
		default:
			undone = l.undo(boot.CodeCrash, strings.TrimSuffix("it ended until the service was stopped; at last: "+t.Ended, "; at last: "), true)
		}
	}
	switch {
	case undone:
		return "now"
	case refused:
		return "stay"
	}
	return ""
}
