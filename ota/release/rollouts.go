package release

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// States of a listed release.
const (
	Added    = "added"    // there, and a stepping stone where one is needed; offered to nobody
	Rolling  = "rolling"  // offered to those whom its rollout has reached
	Released = "released" // offered to all
	Halted   = "halted"   // not offered any more; who runs it keeps it
	Removed  = "removed"  // same, and its files may be gone
)

// States of a rollout.
const (
	Running    = "running"
	Paused     = "paused" // nobody new, until it runs again
	HaltedRoll = "halted" // nobody new, for good
	Done       = "done"
)

// States of a group of a rollout.
const (
	Waiting   = "waiting"
	FirstOnly = "first" // its first gateway, alone
	Open      = "open"  // the share OpenTo of it
	GroupDone = "done"  // all of it, and what comes back later
)

// Rollouts says which gateway may have which release of a product: the target releases/<product>/rollouts.json. Only the fleet
// changes it, each time with a higher serial.
type Rollouts struct {
	Schema   int       `json:"schema"` // 1
	Product  string    `json:"product"`
	Serial   uint64    `json:"serial"`
	Releases []Listed  `json:"releases,omitempty"` // by counter, ascending
	Rollouts []Rollout `json:"rollouts,omitempty"`
}

// Listed is a release of the product.
type Listed struct {
	Counter   uint64   `json:"counter"`
	Version   string   `json:"version"`
	Platforms []string `json:"platforms"` // those that it has a manifest for
	State     string   `json:"state"`
}

// Rollout brings one release to the gateways, group by group.
type Rollout struct {
	ID      string  `json:"id"`
	Counter uint64  `json:"counter"`
	Version string  `json:"version"`
	State   string  `json:"state"`
	Groups  []Group `json:"groups"` // in this order, fixed when it starts

	SuccessPercent float64 `json:"success_percent,omitempty"` // of a group's gateways that count (package rollout): to go on; 0: 100 less ErrorPercent
	ErrorPercent   float64 `json:"error_percent,omitempty"`   // of the same: if more have failed, halt; 0: not looked at
	ErrorCount     int     `json:"error_count,omitempty"`     // so many failed in the whole rollout: halt; 0: not looked at
	AtOnce         float64 `json:"at_once,omitempty"`         // percent of a group's gateways that may be at it at the same time; 0: all
	SoakS          int64   `json:"soak_s,omitempty"`          // seconds between the last verdict that a group needs and the next group
	VerdictAfterS  int64   `json:"verdict_after_s,omitempty"` // a gateway that took it and is seen this many seconds later without a verdict has failed; 0: never
	Window         string  `json:"window,omitempty"`          // gateways' local time, such as 02:00-05:00; none: their own

	Again []string `json:"again,omitempty"` // gateways that had failed with this release before this rollout reached them, and have not tried it again yet
}

// Group is a part of the gateways: a list, or those with a bucket up to Percent that no earlier group has.
type Group struct {
	Name     string   `json:"name"`
	Gateways []string `json:"gateways,omitempty"`
	Percent  float64  `json:"percent,omitempty"` // of the product's gateways, together with the groups before
	First    string   `json:"first,omitempty"`   // the one that goes alone
	Since    int64    `json:"since,omitempty"`   // unix seconds: since then it may; 0: not known
	Passed   []string `json:"passed,omitempty"`  // those that were to go first, and could not
	State    string   `json:"state"`
	OpenTo   float64  `json:"open_to,omitempty"` // percent of this group that may go, by place
	Settled  int64    `json:"settled,omitempty"` // unix seconds: since then enough have succeeded; the soak begins
}

// ParseRollouts reads rollouts of at most [MaxFile] bytes.
func ParseRollouts(data []byte) (*Rollouts, error) {
	r := new(Rollouts)
	if err := decodeSchema(data, "rollouts", r); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

// Encode gives the bytes that [ParseRollouts] reads, or the error that it would give.
func (r *Rollouts) Encode() ([]byte, error) { return encode(r, ParseRollouts) }

func (r *Rollouts) check() error {
	if err := first(
		named("rollouts: product", r.Product, IsName, WantName),
		within("rollouts: serial", r.Serial, 1, MaxCounter),
		counted("rollouts: releases", len(r.Releases), maxReleases),
		counted("rollouts: rollouts", len(r.Rollouts), maxRollouts),
	); err != nil {
		return err
	}
	for i := range r.Releases {
		l := &r.Releases[i]
		at := fmt.Sprintf("rollouts: release %d", l.Counter)
		if err := first(
			within(at+": counter", l.Counter, 1, MaxCounter),
			named(at+": version", l.Version, IsVersion, wantVersion),
			oneOf(at+": state", l.State, Added, Rolling, Released, Halted, Removed),
			counted(at+": platforms", len(l.Platforms), maxPlatforms),
		); err != nil {
			return err
		}
		if i > 0 && l.Counter <= r.Releases[i-1].Counter {
			return malformed(at+": counter", l.Counter, "releases by ascending counter, each once")
		}
		for j, p := range l.Platforms {
			if err := named(at+": platforms", p, IsPlatform, wantPlatform); err != nil {
				return err
			}
			if slices.Contains(l.Platforms[:j], p) {
				return malformed(at+": platforms", p, "each platform once")
			}
		}
	}
	ids := map[string]bool{}
	running := map[uint64]string{}
	for i := range r.Rollouts {
		o := &r.Rollouts[i]
		if err := o.check(); err != nil {
			return err
		}
		at := "rollouts: rollout " + o.ID
		if ids[o.ID] {
			return malformed(at+": id", o.ID, "each id once")
		}
		ids[o.ID] = true
		l := r.Listed(o.Counter)
		if l == nil {
			return malformed(at+": counter", o.Counter, "that of a release that is listed")
		}
		if l.Version != o.Version {
			return malformed(at+": version", o.Version, "that of the release with its counter, "+l.Version)
		}
		if o.State == Running || o.State == Paused {
			if other := running[o.Counter]; other != "" {
				return malformed(at+": counter", o.Counter, "one rollout under way for a release; "+other+" is, too")
			}
			running[o.Counter] = o.ID
		}
	}
	return nil
}

func (o *Rollout) check() error {
	if err := named("rollouts: rollout: id", o.ID, isPart, wantPart); err != nil {
		return err
	}
	at := "rollouts: rollout " + o.ID
	if err := first(
		oneOf(at+": state", o.State, Running, Paused, HaltedRoll, Done),
		named(at+": version", o.Version, IsVersion, wantVersion),
		within(at+": success_percent", o.SuccessPercent, 0, 100),
		within(at+": error_percent", o.ErrorPercent, 0, 100),
		within(at+": error_count", o.ErrorCount, 0, 1<<30),
		within(at+": at_once", o.AtOnce, 0, 100),
		within(at+": soak_s", o.SoakS, 0, maxWait),
		within(at+": verdict_after_s", o.VerdictAfterS, 0, maxWait),
		counted(at+": groups", len(o.Groups), maxGroups),
	); err != nil {
		return err
	}
	if err := gateways(at+": again", o.Again); err != nil {
		return err
	}
	if o.Window != "" && !IsWindow(o.Window) {
		return malformed(at+": window", o.Window, "a time of day such as 02:00-05:00")
	}
	if len(o.Groups) == 0 {
		return malformed(at+": groups", nil, "at least one group")
	}
	low, names := 0.0, map[string]bool{}
	for i := range o.Groups {
		g := &o.Groups[i]
		if err := named(at+": group: name", g.Name, IsName, WantName); err != nil {
			return err
		}
		at := at + ": group " + g.Name
		if names[g.Name] {
			return malformed(at+": name", g.Name, "each group once")
		}
		names[g.Name] = true
		if err := first(
			oneOf(at+": state", g.State, Waiting, FirstOnly, Open, GroupDone),
			within(at+": percent", g.Percent, 0, 100),
			within(at+": open_to", g.OpenTo, 0, 100),
			within(at+": settled", g.Settled, 0, maxUnix),
			within(at+": since", g.Since, 0, maxUnix),
			gateways(at+": gateways", g.Gateways),
			gateways(at+": passed", g.Passed),
		); err != nil {
			return err
		}
		if g.First != "" && !IsGateway(g.First) {
			return malformed(at+": first", g.First, wantGateway)
		}
		switch {
		case len(g.Gateways) > 0 && g.Percent != 0:
			return malformed(at+": percent", g.Percent, "either gateways or percent")
		case len(g.Gateways) == 0 && g.Percent <= low:
			return malformed(at+": percent", g.Percent, fmt.Sprintf("a list of gateways, or more than the groups before, %v", low))
		case len(g.Gateways) == 0:
			low = g.Percent
		}
	}
	return nil
}

// gateways checks a list of them.
func gateways(what string, list []string) error {
	if err := counted(what, len(list), maxMembers); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, id := range list {
		if err := named(what, id, IsGateway, wantGateway); err != nil {
			return err
		}
		if seen[id] {
			return malformed(what, id, "each gateway once")
		}
		seen[id] = true
	}
	return nil
}

// IsWindow is the rule for a time of day: HH:MM-HH:MM, which may pass midnight.
func IsWindow(s string) bool {
	from, to, ok := strings.Cut(s, "-")
	clock := func(s string) bool {
		h, m, ok := strings.Cut(s, ":")
		hour, err1 := strconv.ParseUint(h, 10, 8)
		minute, err2 := strconv.ParseUint(m, 10, 8)
		return ok && len(h) == 2 && len(m) == 2 && err1 == nil && err2 == nil && hour < 24 && minute < 60
	}
	return ok && clock(from) && clock(to) && from != to
}

// Listed is the release with that counter, nil if none is listed.
func (r *Rollouts) Listed(counter uint64) *Listed {
	i, ok := slices.BinarySearchFunc(r.Releases, counter, func(l Listed, c uint64) int {
		switch {
		case l.Counter < c:
			return -1
		case l.Counter > c:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &r.Releases[i]
}

// On is what of r concerns a platform: the releases that have a manifest for it. It shares everything else with r.
func (r *Rollouts) On(platform string) *Rollouts {
	on := *r
	on.Releases = nil
	for _, l := range r.Releases {
		if slices.Contains(l.Platforms, platform) {
			on.Releases = append(on.Releases, l)
		}
	}
	return &on
}

// Group is the index of the group that a gateway belongs to, the first that has it, and its place there: 0 ≤ place < 100. -1: none.
func (o *Rollout) Group(gateway string) (group int, place float64) {
	bucket, low := Bucket(o.ID, gateway), 0.0
	for i := range o.Groups {
		g := &o.Groups[i]
		if len(g.Gateways) > 0 {
			if at := slices.Index(g.Gateways, gateway); at >= 0 {
				return i, float64(at) / float64(len(g.Gateways)) * 100
			}
			continue
		}
		if bucket >= low && bucket < g.Percent {
			return i, (bucket - low) / (g.Percent - low) * 100
		}
		low = g.Percent
	}
	return -1, 0
}

// Reaches says whether a rollout lets a gateway have its release now, and why or why not.
func (o *Rollout) Reaches(gateway string) (bool, string) {
	at := "rollout " + o.ID
	switch o.State {
	case Paused, HaltedRoll:
		return false, at + " is " + o.State
	case Done:
		return true, at + " is done"
	}
	i, place := o.Group(gateway)
	if i < 0 {
		return false, at + " has no group with this gateway"
	}
	g := &o.Groups[i]
	at += ", group " + g.Name
	switch g.State {
	case FirstOnly:
		if g.First == gateway {
			return true, at + ": goes first, alone"
		}
		return false, at + ": its first gateway goes alone"
	case Open:
		if place < g.OpenTo || g.First == gateway {
			return true, at + " is open"
		}
		return false, fmt.Sprintf("%s is open to %.4g %%", at, g.OpenTo)
	case GroupDone:
		return true, at + " is done"
	}
	return false, at + " is waiting"
}

// Entitled is the newest release that a gateway may have: one that is released, or that is rolling and has reached it; never one
// that is halted or removed. Zero: none. A release no newer than the running one means that there is nothing to do: who runs a
// release that was halted keeps it. A development gateway that was unpinned goes back to what its product has, older or not: ask for it
// with running 0. The second result says why, in words. Take what is meant for the gateway's platform first ([Rollouts.On]), and mind
// its order ([Assigned]).
func (r *Rollouts) Entitled(gateway string, running uint64) (counter uint64, why string) {
	why = "no release of " + r.Product + " is offered to this gateway"
	for i := len(r.Releases) - 1; i >= 0; i-- {
		l := &r.Releases[i]
		if l.Counter == running {
			return running, fmt.Sprintf("runs %s (%d), which is %s; nothing newer is offered", l.Version, l.Counter, l.State)
		}
		switch l.State {
		case Released:
			return l.Counter, fmt.Sprintf("%s (%d) is released", l.Version, l.Counter)
		case Rolling:
			reached, said := false, fmt.Sprintf("%s (%d) is rolling without a rollout", l.Version, l.Counter)
			for j := range r.Rollouts {
				if o := &r.Rollouts[j]; o.Counter == l.Counter {
					var because string
					if reached, because = o.Reaches(gateway); reached {
						return l.Counter, fmt.Sprintf("%s (%d): %s", l.Version, l.Counter, because)
					}
					said = fmt.Sprintf("%s (%d): %s", l.Version, l.Counter, because)
				}
			}
			why = said
		}
	}
	return 0, why
}

// Step is the release to take next on the way from running to wanted: wanted itself, or the newest stepping stone below it, which
// may be any that is listed but halted or removed. minCounter tells the min_counter of a release, out of its manifest. No way:
// an error with the code rel.stepping. From a higher release more can be reached, so that the newest stone is never a dead end
// where another one is none.
func (r *Rollouts) Step(running, wanted uint64, minCounter func(counter uint64) (uint64, error)) (uint64, error) {
	need, err := minCounter(wanted)
	if err != nil || need <= running {
		return wanted, err
	}
	var failed error // a stone whose manifest is out of reach may hide behind one that is not
	for i := len(r.Releases) - 1; i >= 0; i-- {
		l := &r.Releases[i]
		if l.Counter >= wanted || l.State == Halted || l.State == Removed {
			continue
		}
		if l.Counter <= running {
			break
		}
		min, err := minCounter(l.Counter)
		if err != nil {
			failed = err
			continue
		}
		if min <= running {
			return l.Counter, nil
		}
	}
	if failed != nil {
		return 0, failed
	}
	return 0, fault("rel.stepping", fmt.Sprintf("release %d: min_counter", wanted), need,
		fmt.Sprintf("a release between that can be installed on %d; none is listed", running))
}
