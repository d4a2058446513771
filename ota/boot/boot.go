// Package boot decides which program a gateway starts: the slot that runs, the one on trial, or the factory's. The launcher calls
// it before it starts anything, the updater when it arms, commits or undoes a release; both through one small record.
//
// It promises: a trial is counted durably before it starts; a release that crashes, hangs or makes the box restart ends on the old
// one without network, configuration or database; power cuts count apart from crashes; a committed release is never undone by
// itself, a quarantined one never armed; floors only rise. After a power cut the record is the old or the new one, whole.
//
// It may lose: one generation, where boot.state itself was damaged (boot.state.bak is the one before); everything but the slots,
// where both were. Then the newest slot whose hash is its name is started, without its floors.
package boot

import (
	"errors"
	"fmt"
	"strings"
)

// Codes of how a trial ended. Health checks have "trial.health:" and their name.
const (
	CodeOK           = "ok"
	CodeCrash        = "trial.crash"         // tries used up by exits
	CodeHang         = "trial.hang"          // tries used up, the last one by a hang
	CodePower        = "trial.power"         // boots used up: no verdict, to be tried again
	CodeHealth       = "trial.health:"       // and the check's name
	CodeLink         = "trial.link"          // the server is out of reach, which it was not before
	CodeInconclusive = "trial.inconclusive"  // same, but for the old release too: to be tried again
	CodeVerify       = "slot.verify"         // the slot is not what its name says, or gone: to be tried again
	CodeConfig       = "trial.health:config" // it refuses the configuration, which the old one may refuse too: to be tried again
)

// Decision is what the launcher does next.
type Decision struct {
	Slot       string // to be started; "" is the factory's
	Trial      bool   // Slot is on trial: the record must be durable before the start
	Changed    bool   // the record was changed
	RolledBack bool   // the trial ended here
}

// Start counts one start of the trial, if there is one, and says what to start. Tries are counted within one boot, boots apart from
// them: a power cut is no crash. A start after a stop that was asked for costs no try, but only CleanStarts times in a boot: a release
// that again and again says so by itself does not stay either.
func Start(r *Record, bootID string) Decision {
	t := r.Trial
	if t == nil {
		return Decision{Slot: r.Active}
	}
	clean := t.Clean
	t.Clean = false
	if t.BootID != bootID {
		if t.BootID != "" { // that boot ended without a verdict
			t.BootsLeft--
			if t.BootsLeft <= 0 {
				t.BootsLeft = 0
				RollBack(r, CodePower, fmt.Sprintf("%d boots ended without a verdict", Boots), false)
				return Decision{Slot: r.Active, Changed: true, RolledBack: true}
			}
		}
		t.BootID, t.TriesLeft, t.Hung, t.Ended = bootID, Tries, false, ""
		t.Cleans, clean = 0, false
	}
	if clean {
		if t.Cleans++; t.Cleans > CleanStarts {
			t.Cleans, clean = CleanStarts, false
		}
	}
	if !clean {
		if t.TriesLeft <= 0 {
			code, text := exhausted(t)
			RollBack(r, code, text, true)
			return Decision{Slot: r.Active, Changed: true, RolledBack: true}
		}
		t.TriesLeft--
	}
	return Decision{Slot: t.Slot, Trial: true, Changed: true}
}

func exhausted(t *Trial) (code, text string) {
	code, text = CodeCrash, fmt.Sprintf("it was started %d times and did not stay", Tries+t.Cleans)
	if t.Hung {
		code = CodeHang
	}
	if t.Ended != "" {
		text += "; at last: " + t.Ended
	}
	return code, text
}

// Ended notes how a try ended, for the code and the text of a rollback that may follow.
func Ended(r *Record, hung bool, how string) {
	if r.Trial != nil && r.Trial.BootID != "" && !r.Trial.Clean {
		r.Trial.Hung, r.Trial.Ended = hung, bounded(how, maxText/2)
	}
}

// RollBack ends the trial in favour of the active slot; without a trial it changes nothing. The caller sets the result's time.
func RollBack(r *Record, code, text string, quarantine bool) {
	t := r.Trial
	if t == nil {
		return
	}
	r.Trial = nil
	r.LastResult = &Result{Release: t.Release, Code: bounded(code, 80), Text: bounded(text, maxText), Gen: r.Gen + 1, Attempt: t.Attempt, Serial: t.Serial}
	if quarantine && isHash(t.Release.SHA256) {
		Clear(r, t.Release.SHA256)
		r.Quarantine = append(r.Quarantine, Quarantined{Manifest: t.Release.SHA256, Slot: t.Slot, Release: t.Release, Code: bounded(code, 80), Serial: t.Serial})
		if n := len(r.Quarantine) - MaxQuarantined; n > 0 {
			r.Quarantine = append([]Quarantined(nil), r.Quarantine[n:]...)
		}
	}
}

// Clear ends the quarantine of the release with this manifest: it was assigned anew, or an operator wants it.
func Clear(r *Record, manifest string) {
	var left []Quarantined
	for _, q := range r.Quarantine {
		if q.Manifest != manifest {
			left = append(left, q)
		}
	}
	r.Quarantine = left
}

// Reconsider changes the last verdict, quarantine included, to one that lets the release be tried again: the old release has no
// link either, so that trial.link says nothing about the new one.
func Reconsider(r *Record, code, text string) {
	if r.LastResult == nil || r.LastResult.Code == CodeOK {
		return
	}
	Clear(r, r.LastResult.Release.SHA256)
	last := *r.LastResult
	last.Code, last.Text, last.Gen, last.Acked = bounded(code, 80), bounded(text, maxText), r.Gen+1, false
	r.LastResult = &last
}

// Errors of Arm.
var (
	ErrQuarantined = errors.New("the release is quarantined: it wants a newer assignment")
	ErrAttempts    = errors.New("the release was tried often enough without a verdict: it wants a newer assignment")
	ErrOnTrial     = errors.New("another release is on trial")
)

// Arm puts a release on trial, from the next start on. It sets the counts; the rest of t is the caller's. Arming again what is armed
// changes nothing; what was armed and never started gives way to another. A release that used its attempts up without a verdict needs
// a serial above that of the last one.
func Arm(r *Record, t Trial) error {
	if !isHash(t.Slot) {
		return fmt.Errorf("boot: arm slot %.80q: want 64 hex digits", t.Slot)
	}
	if !isHash(t.Release.SHA256) {
		return fmt.Errorf("boot: arm %s: its manifest's hash is %.80q: want 64 hex digits", t.Release, t.Release.SHA256)
	}
	if old := r.Trial; old != nil {
		if old.Slot == t.Slot && old.Release == t.Release {
			return nil
		}
		if old.BootID != "" {
			return fmt.Errorf("boot: arm %s: %s: %w", t.Release, old.Release, ErrOnTrial)
		}
	}
	if q, is := r.Quarantined(t.Release.SHA256); is {
		return fmt.Errorf("boot: arm %s: %s: %w", t.Release, q.Code, ErrQuarantined)
	}
	t.Attempt = 1
	if last := r.LastResult; last != nil && last.Code != CodeOK && last.Release.SHA256 == t.Release.SHA256 {
		t.Attempt = last.Attempt + 1
	}
	if t.Attempt > Attempts && t.Serial > r.LastResult.Serial {
		t.Attempt = 1 // assigned anew since
	}
	if t.Attempt > Attempts {
		return fmt.Errorf("boot: arm %s: %d times, the last ended with %s: %w", t.Release, Attempts, r.LastResult.Code, ErrAttempts)
	}
	t.TriesLeft, t.BootsLeft, t.BootID, t.PoweredS, t.Clean, t.Cleans, t.Hung, t.Ended = Tries, Boots, "", 0, false, 0, false, ""
	r.Trial = &t
	return nil
}

// Commit ends the trial in favour of its release and raises the product's floor, which never falls; without a trial it changes
// nothing. The caller sets the result's time.
func Commit(r *Record, securityFloor uint64) {
	t := r.Trial
	if t == nil {
		return
	}
	if t.Slot != r.Active {
		r.Prev, r.PrevRelease = r.Active, r.Release
	}
	r.Active, r.Release, r.Trial = t.Slot, t.Release, nil
	if t.Home != "" {
		r.Home = t.Home
	}
	if t.Release.Product != "" && securityFloor > r.Floors[t.Release.Product] {
		floors := map[string]uint64{t.Release.Product: securityFloor}
		for product, floor := range r.Floors {
			if product != t.Release.Product {
				floors[product] = floor
			}
		}
		r.Floors = floors
	}
	r.LastResult = &Result{Release: t.Release, Code: CodeOK, Gen: r.Gen + 1, Attempt: t.Attempt}
}

// bounded cuts text to max bytes of valid UTF-8. Control characters, six bytes each in the record, become spaces.
func bounded(text string, max int) string {
	if len(text) > max {
		text = text[:max]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == '\u2028' || c == '\u2029' {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, ""))
}
