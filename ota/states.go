package ota

import "fmt"

// State of the updater. The names are persisted and shown.
type State string

// The states.
const (
	Idle       State = "idle"        // nothing to do until the next look
	Checking   State = "checking"    // asking the repository
	Chosen     State = "chosen"      // a release is meant for us; may it, and is there room?
	Fetching   State = "fetching"    // its blobs come
	Staging    State = "staging"     // slots are built from them
	Staged     State = "staged"      // complete, verified and self-checked
	Waiting    State = "waiting"     // same; the window is shut
	Armed      State = "armed"       // the next start begins the trial
	Trial      State = "trial"       // we are the new release, on trial
	Committed  State = "committed"   // the trial was passed; this state is left at once
	RolledBack State = "rolled-back" // the trial was not passed; the next start is the old release
	Judging    State = "judging"     // we are the old release again: is the link down for us, too?
	Deferred   State = "deferred"    // later: power, bytes of the day, room, a pause between trials, no launcher
	Refused    State = "refused"     // not this release, until another assignment
	Failed     State = "failed"      // the last look or download failed; again after a pause
)

// Event is what happened in a state.
type Event string

// The events.
const (
	due       Event = "due"       // time for a look, or nudged, or told by hand
	none      Event = "none"      // no release to take
	found     Event = "found"     // one to take
	refuse    Event = "refuse"    // one that we do not take
	fail      Event = "fail"      // could not be done; later
	postpone  Event = "postpone"  // could be done, and must not be now
	fits      Event = "fits"      // allowed, with room
	present   Event = "present"   // allowed, and all parts are staged already
	fetched   Event = "fetched"   // a verified blob is there
	built     Event = "built"     // a part is staged
	broken    Event = "broken"    // an encoding did not give the part: the next one
	complete  Event = "complete"  // all parts are staged
	shut      Event = "shut"      // the window is
	stale     Event = "stale"     // it took long: look again first, it may be withdrawn
	arm       Event = "arm"       // the record has a trial
	healthy   Event = "healthy"   // the trial is passed
	unhealthy Event = "unhealthy" // it is not
	settled   Event = "settled"   // an outcome is final
)

// Transition is a row of Table. Resume is the state that a new process begins in, when the last one ended in To.
type Transition struct {
	From   State
	On     Event
	To     State
	Resume State
}

// Table is the whole of it. After a restart nothing before the record's trial needs to be remembered: what is on disk is found by
// the steps themselves, so all of those states resume with a look at the repository, which may have changed its mind. What the
// record has decides in New: a trial of our slot resumes as Trial.
var Table = []Transition{
	{Idle, due, Checking, Checking},
	{Waiting, due, Checking, Checking},
	{Deferred, due, Checking, Checking},
	{Refused, due, Checking, Checking},
	{Failed, due, Checking, Checking},

	{Checking, none, Idle, Idle},
	{Checking, found, Chosen, Checking},
	{Checking, refuse, Refused, Checking},
	{Checking, postpone, Deferred, Checking},
	{Checking, fail, Failed, Checking},

	{Chosen, fits, Fetching, Checking},
	{Chosen, present, Staged, Checking},
	{Chosen, postpone, Deferred, Checking},
	{Chosen, fail, Failed, Checking},

	{Fetching, fetched, Staging, Checking},
	{Fetching, complete, Staged, Checking},
	{Fetching, postpone, Deferred, Checking},
	{Fetching, refuse, Refused, Checking},
	{Fetching, fail, Failed, Checking},
	{Fetching, stale, Checking, Checking},

	{Staging, built, Fetching, Checking},
	{Staging, broken, Fetching, Checking},
	{Staging, fail, Failed, Checking},
	{Staging, postpone, Deferred, Checking},

	{Staged, refuse, Refused, Checking},
	{Staged, shut, Waiting, Checking},
	{Staged, stale, Checking, Checking},
	{Staged, postpone, Deferred, Checking},
	{Staged, fail, Failed, Checking},
	{Staged, arm, Armed, Armed},

	{Trial, healthy, Committed, Idle},
	{Trial, unhealthy, RolledBack, Judging},
	{Committed, settled, Idle, Idle},
	{Judging, settled, Idle, Idle},
}

// rests are the states in which there is nothing to do before the next event from outside.
var rests = map[State]bool{Idle: true, Waiting: true, Deferred: true, Refused: true, Failed: true, Armed: true, RolledBack: true}

// next finds the row; there is one for each event that a step returns, which a test holds.
func next(from State, on Event) (State, error) {
	for _, t := range Table {
		if t.From == from && t.On == on {
			return t.To, nil
		}
	}
	return Failed, fmt.Errorf("ota: state %s has no event %s", from, on)
}

// Labels are the places where Options.Step is called, in the order of an update: a power cut at each of them is survived.
var Labels = []string{
	"refreshed", "order-seen", "chosen", "fetched", "built", "synced", "read-back", "staged", "self-checked", "baseline", "parts-armed", "armed",
	"restart", "trial", "powered", "trial-refreshed", "healthy", "confirmed", "committed", "rolled-back", "told", "collected",
}
