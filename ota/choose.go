package ota

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"homeward/ota/boot"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// candidate is a release that is meant for this gateway.
type candidate struct {
	m      *release.Manifest
	raw    []byte
	rel    boot.Release
	why    string
	by     assigned
	serial uint64 // of the order or the rollouts
	named  bool   // by the order itself
	window Window // the rollout's
	pinned bool
}

// refusal is a release, or an order, that will not be followed before it changes.
type refusal struct {
	rel   boot.Release
	by    assigned
	quiet bool // known already
	err   error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// choose says which release is to be installed, and why; nil: none. It obeys what an order says of serials and pins, durably, first.
func (u *Updater) choose(ctx context.Context) (*candidate, string, error) {
	rec, _, err := u.o.Boot.Load()
	if err != nil {
		return nil, "", err
	}
	order, err := u.order(ctx, &rec)
	if err != nil {
		return nil, "", err
	}
	rollouts, err := u.rollouts(ctx)
	if err != nil {
		return nil, "", err
	}
	running, fallback := u.running(rec)
	if fallback && rec.Active != "" && u.o.Boot.Verify(rec.Active) == nil {
		running, fallback = u.counted(rec.Release), false // it is whole: the next start may well be its own
	}
	u.mu.Lock()
	back := u.journal.Back
	u.mu.Unlock()
	// A gateway that fell back, or was unpinned, takes what its product has, older or not.
	at := running.Counter
	if back || fallback {
		at = 0
	}
	a := release.Assigned(order, rollouts, u.o.Gateway, at)
	if a.Counter == 0 || !a.Pinned && !back && a.Counter <= at {
		return nil, a.Why, nil
	}
	c := &candidate{why: a.Why, pinned: a.Pinned, rel: boot.Release{Product: a.Product, Counter: a.Counter}}
	path := release.DevPath(u.o.Gateway, u.o.Platform)
	if order != nil {
		c.by.Order = order.Serial
	}
	switch {
	case a.Pinned:
		c.serial, c.named = order.Serial, true
	default:
		c.named = order != nil && order.Release.Product == a.Product && order.Release.Counter == a.Counter
		c.serial = rollouts.Serial
		if c.named {
			c.serial = order.Serial
		}
		c.assign(rollouts, a.Counter)
		from := running.Counter
		step, err := rollouts.Step(from, a.Counter, func(counter uint64) (uint64, error) {
			m, _, err := u.manifest(ctx, release.ManifestPath(a.Product, u.o.Platform, counter))
			if err != nil {
				return 0, err
			}
			return m.Requires.MinCounter, nil
		})
		if err != nil {
			return nil, a.Why, c.refuse(err)
		}
		if step != a.Counter {
			c.why += fmt.Sprintf("; %d comes first, a stepping stone", step)
			c.rel.Counter = step
		}
		path = release.ManifestPath(a.Product, u.o.Platform, step)
	}
	c.m, c.raw, err = u.manifest(ctx, path)
	if c.raw != nil {
		sum := sha256.Sum256(c.raw)
		c.rel.SHA256 = hex.EncodeToString(sum[:])
		c.by.Manifest = c.rel.SHA256
	}
	if err != nil {
		return nil, c.why, c.refuse(err)
	}
	if c.m.Counter != c.rel.Counter {
		return nil, c.why, c.refuse(&Error{CodeCounter, fmt.Sprintf("%s is release %d, want %d", path, c.m.Counter, c.rel.Counter), nil})
	}
	c.rel.Product, c.rel.Version = c.m.Product, c.m.Version
	if c.rel.SHA256 == running.SHA256 && !fallback {
		if back {
			if err := u.note(func(j *journal) { j.Back = false }); err != nil {
				return nil, "", err
			}
		}
		return nil, c.why, nil
	}
	if err := c.m.For(release.Gateway{Product: u.o.Product, Platform: u.o.Platform, Hardware: u.o.Hardware,
		Floor: rec.Floors[u.o.Product], Launcher: u.o.Launcher, Running: running.Counter}); err != nil {
		return nil, c.why, c.refuse(err)
	}
	for _, p := range c.m.Needed() {
		if u.backends[p.Backend] == nil {
			return nil, c.why, c.refuse(&Error{CodeBackend, fmt.Sprintf("part %s: backend %q: want one that this gateway has", p.Name, p.Backend), nil})
		}
	}
	return u.quarantine(&rec, c)
}

// assign finds the rollout that brings the release, and its window. An order that names the release does without.
func (c *candidate) assign(r *release.Rollouts, counter uint64) {
	for i := range r.Rollouts {
		o := &r.Rollouts[i]
		if o.Counter != counter || o.State == release.HaltedRoll {
			continue
		}
		c.by.Rollout = o.ID
		if l := r.Listed(counter); !c.named && l != nil && l.State == release.Rolling {
			c.window, _ = ParseWindow(o.Window) // checked there
		}
	}
}

// refuse is a refusal where the release itself is at fault, and the error as it is where it could not be looked at: no bytes left
// for today, no source, a link or a disk that fails.
func (c *candidate) refuse(err error) error {
	var from *release.Error
	var ours *Error
	var trusted *trust.Error
	if errors.Is(err, ErrBudget) || errors.Is(err, errNoSource) || errors.As(err, &trusted) {
		return err
	}
	if errors.As(err, &from) || errors.As(err, &ours) {
		return &refusal{rel: c.rel, by: c.by, err: err}
	}
	return err
}

// quarantine lets a release pass that is not quarantined, or was assigned anew since.
func (u *Updater) quarantine(rec *boot.Record, c *candidate) (*candidate, string, error) {
	q, is := rec.Quarantined(c.rel.SHA256)
	if !is {
		return c, c.why, nil
	}
	u.mu.Lock()
	was, known := u.journal.assignment(c.rel.SHA256)
	u.mu.Unlock()
	if !known { // a journal that was lost: from here on
		if err := u.note(func(j *journal) { j.Assigned = append(j.Assigned, c.by) }); err != nil {
			return nil, "", err
		}
	}
	byOrder := c.named && c.by.Order > was.Order
	byRollout := c.by.Rollout != "" && c.by.Rollout != was.Rollout
	if !known || !byOrder && !byRollout {
		err := &Error{CodeQuarantined, fmt.Sprintf("%s was tried and ended with %s: want a newer order or rollout, or an operator who clears it",
			c.rel, q.Code), nil}
		return nil, c.why, &refusal{rel: c.rel, by: c.by, quiet: true, err: err}
	}
	if err := u.clear(c.rel.SHA256); err != nil {
		return nil, "", err
	}
	return c, c.why, nil
}

// clear ends a quarantine: the release begins anew.
func (u *Updater) clear(manifest string) error {
	if err := u.note(func(j *journal) {
		j.forget(manifest)
		j.Tried = nil // among them those of this release, which may be whole by now
	}); err != nil {
		return err
	}
	return u.update(func(r *boot.Record) error {
		boot.Clear(r, manifest)
		if r.LastResult != nil && r.LastResult.Release.SHA256 == manifest {
			last := *r.LastResult
			last.Attempt = 0 // of trials so far
			r.LastResult = &last
		}
		return nil
	})
}

// Clear ends the quarantine of the release with that manifest, by an operator's word.
func (u *Updater) Clear(manifest string) error {
	rec, _, err := u.o.Boot.Load()
	if err != nil {
		return err
	}
	if _, is := rec.Quarantined(manifest); !is {
		return fmt.Errorf("ota: clear %.80q: want the manifest of a quarantined release", manifest)
	}
	if err := u.clear(manifest); err != nil {
		return err
	}
	u.Nudge()
	return nil
}

// order is what is ordered of us, nil if nothing is. A pin holds until an order says otherwise, whether or not there is one now.
func (u *Updater) order(ctx context.Context, rec *boot.Record) (*release.Order, error) {
	path := release.OrderPath(u.o.Gateway)
	data, err := u.repo.Target(ctx, path)
	if errors.Is(err, trust.ErrNoTarget) {
		if rec.Pin == nil {
			return nil, nil
		}
		p := rec.Pin
		return &release.Order{Gateway: u.o.Gateway, Serial: p.Serial,
			Release: release.OrderRelease{Product: p.Release.Product, Version: p.Release.Version, Counter: p.Release.Counter, Pin: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	seen, renamed := rec.MoveSeq, u.journal.Renamed
	if renamed {
		seen = u.journal.Serial
	}
	u.mu.Unlock()
	refuse := func(err error) error { return &refusal{err: err} }
	o, err := release.ParseOrder(data)
	switch {
	case err != nil:
		return nil, refuse(err)
	case o.Gateway != u.o.Gateway:
		return nil, refuse(&Error{CodeOrderGateway, fmt.Sprintf("%s is for %q, want %q", path, o.Gateway, u.o.Gateway), nil})
	case o.Serial < seen:
		return nil, refuse(&Error{CodeOrderSerial, fmt.Sprintf("%s has serial %d, want at least %d, which was seen", path, o.Serial, seen), nil})
	}
	var pin *boot.Pin
	if r := o.Release; r.Pin {
		pin = &boot.Pin{Release: boot.Release{Product: r.Product, Version: r.Version, Counter: r.Counter}, Serial: o.Serial}
	}
	same := pin == nil && rec.Pin == nil || pin != nil && rec.Pin != nil && pin.Release == rec.Pin.Release
	if o.Serial == seen && same {
		return o, nil
	}
	if err := u.note(func(j *journal) {
		j.Back = pin == nil && (j.Back || rec.Pin != nil)
		if j.Renamed {
			j.Serial, j.Renamed = o.Serial, o.Serial < rec.MoveSeq
		}
	}); err != nil {
		return nil, err
	}
	if err := u.update(func(r *boot.Record) error {
		if o.Serial < r.MoveSeq && !renamed {
			return refuse(&Error{CodeOrderSerial, fmt.Sprintf("%s has serial %d, want at least %d", path, o.Serial, r.MoveSeq), nil})
		}
		r.MoveSeq, r.Pin = max(r.MoveSeq, o.Serial), pin
		*rec = *r
		return nil
	}); err != nil {
		return nil, err
	}
	u.step("order-seen")
	return o, nil
}

// rollouts are those of our product and platform, nil if there are none.
func (u *Updater) rollouts(ctx context.Context) (*release.Rollouts, error) {
	path := release.RolloutsPath(u.o.Product)
	data, err := u.repo.Target(ctx, path)
	if errors.Is(err, trust.ErrNoTarget) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := release.ParseRollouts(data)
	if err == nil && r.Product != u.o.Product {
		err = &Error{CodeWrongProduct, fmt.Sprintf("%s is of product %q, want %q", path, r.Product, u.o.Product), nil}
	}
	if err != nil {
		return nil, &refusal{err: err}
	}
	return r.On(u.o.Platform), nil
}

// manifest reads a signed one. The bytes come with an error that is the manifest's own.
func (u *Updater) manifest(ctx context.Context, path string) (*release.Manifest, []byte, error) {
	data, err := u.repo.Target(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	m, err := release.ParseManifest(data)
	return m, data, err
}

// update changes the record and shows it.
func (u *Updater) update(change func(*boot.Record) error) error {
	rec, err := u.o.Boot.Update(change)
	if err != nil {
		return err
	}
	u.mu.Lock()
	u.showLocked(rec)
	u.mu.Unlock()
	return nil
}
