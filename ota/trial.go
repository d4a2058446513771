package ota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"homeward/buffer/durable"
	"homeward/ota/boot"
	"homeward/ota/release"
	"homeward/ota/trust"
)

const (
	trialTick   = 10 * time.Second
	poweredTick = time.Minute     // how often the trial's age is stored
	startGrace  = 60              // seconds that a start may take, beyond stable_s, in a trial that is past its deadline already
	judgeTime   = 3 * time.Minute // within which the old release has to reach what the new one could not
	refreshTime = 2 * time.Minute // of one look at the repository by a trial, or by a judge
	maxGap      = 3               // ticks between two checks of one healthy stretch
	channelName = "update-channel"
)

// trial judges this release from the inside: steps 15 to 17. true: it ended here, or with ctx.
func (u *Updater) trial(ctx context.Context, rec boot.Record) bool {
	t := *rec.Trial
	u.mu.Lock()
	u.onTrialLocked(t)
	u.mu.Unlock()
	u.step("trial")
	u.changed()
	u.log.Info("update: trial", "version", t.Release.Version, "counter", t.Release.Counter, "attempt", t.Attempt, "powered_s", t.PoweredS)

	armed, m := u.readArmed(t.Release.SHA256)
	began := time.Now()
	powered := func() int64 { return t.PoweredS + int64(time.Since(began)/time.Second) }
	// Power cuts may have used up the time without the release being at fault: each start gets a chance.
	deadline := max(t.DeadlineS, t.PoweredS+t.StableS+startGrace)
	stored := began
	var (
		healthySince time.Time // of the present stretch
		link         = !(t.NeedServer && armed.Link)
		channel      = !armed.Channel
		channelErr   error
		tryChannel   = began
		tries        int
		bad          []Check
		checkedAt    time.Time
		looking      bool                  // a goroutine is at the repository: it must not hold up the checks
		looked       = make(chan error, 1) // what it found
		looks        sync.WaitGroup
	)
	every := max(min(trialTick, time.Duration(t.StableS)*time.Second/4), time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	defer looks.Wait()
	lookCtx, endLook := context.WithCancel(ctx)
	defer endLook()
	for {
		bad = bad[:0]
		for _, c := range u.o.Health.Check(ctx, armed.Baseline) {
			if !c.OK {
				bad = append(bad, c)
			}
		}
		if ctx.Err() != nil {
			return u.stopped(t, powered())
		}
		link = link || u.o.Health.Link(ctx)
		now := time.Now()
		if !channel && !looking && !now.Before(tryChannel) && powered() < deadline {
			looking = true
			looks.Go(func() { looked <- u.refresh(lookCtx) })
		}
		switch {
		case len(bad) > 0:
			healthySince = time.Time{}
		case healthySince.IsZero():
			healthySince = now
		case now.Sub(checkedAt) > maxGap*every: // nobody knows how it was in between
			if healthySince = now; powered() >= deadline {
				healthySince = time.Time{} // this has to end
			}
		}
		checkedAt = now
		shown := append([]Check(nil), bad...)
		if !link {
			shown = append(shown, Check{Name: "link", Text: "the home is not reached"})
		}
		if !channel {
			text := ""
			if channelErr != nil {
				text = clip(channelErr.Error())
			}
			shown = append(shown, Check{Name: channelName, Text: text})
		}
		u.mu.Lock()
		u.status.Checks = shown
		u.mu.Unlock()
		stable := !healthySince.IsZero() && now.Sub(healthySince) >= time.Duration(t.StableS)*time.Second
		if stable && link && channel {
			u.step("healthy")
			if err := u.commit(ctx, t, armed, m); err != nil {
				u.log.Warn("update: commit", "problem", err) // again at the next tick
			} else {
				return u.committed(ctx)
			}
		} else if powered() >= deadline && (healthySince.IsZero() || stable && !looking) {
			code, text := verdict(bad, link, channel, channelErr)
			return u.rollBack(t, code, text, code != CodeInconclusive)
		}
		if now.Sub(stored) >= poweredTick {
			gone, err := u.store(func(r *boot.Record) { r.Trial.PoweredS = powered() }, t)
			if gone { // the guard was faster
				u.show(RolledBack, nil)
				u.o.Restart()
				return true
			}
			if err != nil {
				u.log.Warn("update: trial", "problem", err)
			}
			stored = now
			u.step("powered")
		}
		select {
		case <-ctx.Done():
			return u.stopped(t, powered())
		case <-tick.C:
		case channelErr = <-looked:
			looking = false
			if channel = channelErr == nil; channel {
				u.step("trial-refreshed")
			} else {
				tries++
				tryChannel = time.Now().Add(min(backoff(tries, 5*time.Minute), 5*time.Minute))
			}
		}
	}
}

// refresh is one look at the repository that cannot wait until a busy server likes, and must not take for ever.
func (u *Updater) refresh(ctx context.Context) error {
	limited, cancel := context.WithTimeout(trust.Urgent(ctx), refreshTime)
	defer cancel()
	return u.repo.Refresh(limited)
}

// verdict names what kept the release from being healthy: its own checks first. A server that said that it is busy, and a day whose
// bytes are spent, say nothing about the release; neither does a machine so busy that checks came too late.
func verdict(bad []Check, link, channel bool, channelErr error) (code, text string) {
	switch {
	case len(bad) > 0:
		return boot.CodeHealth + bad[0].Name, bad[0].Text
	case !link:
		return boot.CodeLink, "the home was reached before, and is not now"
	case channel:
		return CodeInconclusive, "checks came too far apart to say how the new release does"
	}
	var busy *trust.BusyError
	if errors.As(channelErr, &busy) || errors.Is(channelErr, ErrBudget) {
		return CodeInconclusive, "the repository could not be asked: " + channelErr.Error()
	}
	text = "the repository was read before, and is not now"
	if channelErr != nil {
		text += ": " + channelErr.Error()
	}
	return boot.CodeHealth + channelName, text
}

// store changes the trial's own fields. gone: there is no such trial any more.
func (u *Updater) store(change func(*boot.Record), t boot.Trial) (gone bool, err error) {
	errGone := errors.New("gone")
	err = u.update(func(r *boot.Record) error {
		if r.Trial == nil || r.Trial.Slot != t.Slot || r.Trial.Release != t.Release {
			return errGone
		}
		change(r)
		return nil
	})
	return errors.Is(err, errGone), err
}

// stopped ends a trial's process: its seconds count.
func (u *Updater) stopped(t boot.Trial, powered int64) bool {
	if _, err := u.store(func(r *boot.Record) { r.Trial.PoweredS = powered }, t); err != nil {
		u.log.Warn("update: trial", "problem", err)
	}
	return true
}

// readArmed gives what the old release wrote before arming, and the manifest. Lost, it makes the trial more lenient, and the floor
// is not raised before the next release.
func (u *Updater) readArmed(manifest string) (armedFile, *release.Manifest) {
	var a armedFile
	data, err := durable.Read(u.fs, u.path("armed.json"), maxArmed)
	if err == nil {
		a, err = parseArmed(data, manifest)
	}
	if err != nil {
		u.log.Warn("update: baseline", "problem", err)
		return armedFile{}, nil
	}
	m, err := release.ParseManifest(a.Manifest)
	if err != nil { // read by the old release and not by us
		u.log.Warn("update: manifest", "problem", err)
		return a, nil
	}
	return a, m
}

func parseArmed(data []byte, manifest string) (armedFile, error) {
	var a armedFile
	if err := json.Unmarshal(data, &a); err != nil {
		return armedFile{}, fmt.Errorf("ota: armed.json: %w", err)
	}
	if got := manifestHash(a.Manifest); got != manifest {
		return armedFile{}, fmt.Errorf("ota: armed.json is of manifest %s, want %s", got, manifest)
	}
	return a, nil
}

// commit makes it stay. A development release does not raise the floor: its key may only ever concern its own gateways, and these
// go back to their product's release.
func (u *Updater) commit(ctx context.Context, t boot.Trial, armed armedFile, m *release.Manifest) error {
	var floor uint64
	if m != nil {
		for _, p := range m.Needed() {
			b := u.backends[p.Backend]
			if b == nil {
				return fmt.Errorf("ota: confirm part %s: no backend %q", p.Name, p.Backend)
			}
			if err := b.Confirm(ctx, p); err != nil {
				return err
			}
		}
		if !armed.Pinned {
			floor = m.SecurityFloor
		}
	}
	u.step("confirmed")
	gone, err := u.store(func(r *boot.Record) {
		boot.Commit(r, floor)
		u.stamp(r)
	}, t)
	if gone {
		u.show(RolledBack, nil)
		u.o.Restart()
		return nil
	}
	if err == nil {
		u.step("committed")
	}
	return err
}

func (u *Updater) committed(ctx context.Context) bool {
	if u.Status().State == RolledBack {
		return true
	}
	u.show(Committed, nil)
	rec, _, err := u.o.Boot.Load()
	if err == nil {
		err = errors.Join(u.note(func(j *journal) {
			j.forget(rec.Release.SHA256)
			j.Back = j.Back && rec.Pin != nil
		}), u.tell(rec), u.collect(rec, nil, false))
	}
	u.mu.Lock()
	u.status.Candidate, u.status.Target, u.status.Attempt, u.status.Checks = "", 0, 0, nil
	u.mu.Unlock()
	u.show(Idle, nil)
	if err != nil {
		u.log.Warn("update: commit", "problem", err)
		return ctx.Err() != nil
	}
	return true
}

// rollBack is our own verdict: R2.
func (u *Updater) rollBack(t boot.Trial, code, text string, quarantine bool) bool {
	_, err := u.store(func(r *boot.Record) {
		boot.RollBack(r, code, text, quarantine)
		u.stamp(r)
	}, t)
	if err != nil && CodeOf(err) != "update.failed" {
		u.log.Warn("update: roll back", "problem", err)
	}
	if rec, _, lerr := u.o.Boot.Load(); lerr != nil || rec.Trial != nil {
		return false // again, from the start of the trial's judgement
	}
	u.step("rolled-back")
	u.log.Warn("update: rolled back", "version", t.Release.Version, "code", code, "problem", text)
	u.show(RolledBack, &Error{code, text, nil})
	u.step("restart")
	u.o.Restart()
	return true
}

// judge is the old release's word on a verdict that the link may be to blame for: if it does not reach either what the new one did not,
// there was no verdict.
func (u *Updater) judge(ctx context.Context, rec boot.Record) error {
	r := rec.LastResult
	if r == nil || u.outcomeKnown(*r) || rec.Trial != nil {
		return nil
	}
	var reached func() bool
	switch r.Code {
	case boot.CodeLink:
		reached = func() bool { return u.o.Health.Link(ctx) }
	case boot.CodeHealth + channelName:
		reached = func() bool { return u.refresh(ctx) == nil }
	default:
		return nil
	}
	u.show(Judging, nil)
	for began := time.Now(); time.Since(began) < judgeTime; {
		if reached() {
			u.show(Idle, nil)
			return nil
		}
		t := time.NewTimer(trialTick)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
	u.show(Idle, nil)
	return u.update(func(rec *boot.Record) error {
		boot.Reconsider(rec, CodeInconclusive, "the old release does not reach it either: "+r.Text)
		u.stamp(rec)
		return nil
	})
}

var _ Repository = (*trust.Repository)(nil)
