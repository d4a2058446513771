// Package rollout decides how a product's rollouts go on, from what the gateways say of themselves: the next group where the one before
// has kept the release, more of a group where not too many are at it, a halt where too many failed.
//
// It is a pure function: [Decide] knows the rollouts as they are signed, what was heard of the gateways, and the time. Any number of fleet
// managers may run it; with the same view they come to the same result, in whatever order they heard of the gateways, and a second call
// with nothing new changes nothing. All that has to outlast a manager's program is in the rollouts themselves.
//
// What it promises: a release that was halted is never offered again by it, and nobody's committed release is taken back; no group opens
// before the one before has settled and soaked, but for groups of which nobody can be reached; the first gateway of each group goes alone.
//
// Who counts. A gateway has succeeded when it has committed the release, not when it has installed it. It has failed when it rolled the
// release back or refused it, or when it took it and was seen VerdictAfterS later without a verdict. Offline, deferred, out of reach of the
// repository, interrupted by power cuts, inconclusive: neither, and left out of the shares. The shares are of those that count: with a
// verdict, or online and without one yet.
//
// What may be wrong: a manager that has just started knows of a gateway that is at it only since then, so that it is found missing later
// than by one that watched all the time, never earlier.
package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"homeward/ota/release"
)

// Seen is what is known of one gateway of the product: its retained status, and when it came. Leave out those that rollouts do not
// concern: pinned ones, and ones that moved away.
type Seen struct {
	Gateway  string
	Platform string // "": not known; taken to be one that the release is for
	Online   bool
	At       time.Time // when it was last heard of
	Version  string    // of the release that runs
	Update   Update
	Took     time.Time // when it was first heard of with this update (package's [Memory] keeps it); zero: not known
}

// Update is `update` of a retained status: the release that is under way, or the last that was.
type Update struct {
	State   string
	Code    string
	Counter uint64
	Attempt int
}

// Kinds of steps.
const (
	First   = "first"   // a group begins with this gateway, alone
	Opened  = "opened"  // a group, or more of it, may go
	Settled = "settled" // enough of a group have succeeded: it soaks
	Again   = "again"   // gateways that failed with the release before this rollout try it again: what they say counts
	Revoked = "revoked" // it no longer has: too many failed while it soaked
	Done    = "done"    // a group has soaked
	Release = "release" // the rollout is done: the release is for everybody
	Halt    = "halt"    // too many failed
	Wait    = "wait"    // nothing is changed, and this is why
)

// Step is what was decided about a rollout, and why.
type Step struct {
	Rollout string
	Group   string // "": the rollout as a whole
	Kind    string
	Why     string // in words
}

// Changes says whether the step changes the rollouts: all do but a wait.
func (s Step) Changes() bool { return s.Kind != Wait }

func (s Step) String() string {
	if s.Group == "" {
		return fmt.Sprintf("rollout %s: %s: %s", s.Rollout, s.Kind, s.Why)
	}
	return fmt.Sprintf("rollout %s, group %s: %s: %s", s.Rollout, s.Group, s.Kind, s.Why)
}

// Verdict is what a status says about a release.
type Verdict int

// The verdicts.
const (
	Untouched Verdict = iota // it has nothing to do with the release yet
	Trying                   // it is at it
	Neither                  // it cannot be told, and is not the release's fault
	Succeeded                // it runs the release, committed
	Failed                   // it rolled the release back, or refused it
	Missing                  // it took the release and is seen too long afterwards without a verdict: has failed
	Elsewhere                // it runs a newer release
)

// Judge says what a gateway's status means for a rollout.
func Judge(r *release.Rollouts, o *release.Rollout, s Seen, now time.Time) Verdict {
	concerns := s.Update.Counter == o.Counter
	switch {
	case concerns && s.Update.Code == "ok":
		return Succeeded
	case concerns && failure(s.Update.Code):
		return Failed
	case s.Version == o.Version && s.Update.State != "trial" && s.Update.State != "armed" && s.Update.State != "rolled-back" &&
		(s.Update.Counter >= o.Counter || s.Update.Counter == 0): // what it says of an older release was said before this one ran
		return Succeeded
	case s.Version != o.Version && newer(r, o.Counter, s.Version):
		return Elsewhere
	case !concerns && s.Update.State == "refused":
		return Neither // it is stuck with another release, such as a stepping stone to this one
	case !concerns || s.Update.State == "" || s.Update.State == "none":
		return Untouched
	case s.Update.State == "deferred" || s.Update.Code != "":
		return Neither
	case s.Update.State == "waiting": // for its window
		return Trying
	}
	// What is said of an offline gateway is its will: how it stood when it connected, whenever it comes.
	if s.Online && o.VerdictAfterS > 0 && !s.Took.IsZero() && now.Sub(s.Took) >= time.Duration(o.VerdictAfterS)*time.Second {
		return Missing
	}
	return Trying
}

// failure says whether a code is the release's fault, or the gateway's refusal of it. Room, bytes, power, links, the clock and how a
// gateway was started are neither: it may take the release later.
func failure(code string) bool {
	switch code {
	case "trial.inconclusive", "trial.power", "trial.pause", "trial.baseline":
		return false
	case "slot.verify", "slot.selfcheck":
		return true
	}
	return strings.HasPrefix(code, "trial.") || strings.HasPrefix(code, "rel.")
}

// newer says whether a version is that of a release after counter.
func newer(r *release.Rollouts, counter uint64, version string) bool {
	return slices.ContainsFunc(r.Releases, func(l release.Listed) bool { return l.Version == version && l.Counter > counter })
}

// member is a gateway of a group.
type member struct {
	Seen
	place   float64
	verdict Verdict
	again   bool // it had failed before this rollout reached it
}

func (m *member) failed() bool { return m.verdict == Failed || m.verdict == Missing }

// pending says whether a verdict is still to come.
func (m *member) pending() bool { return m.Online && (m.verdict == Untouched || m.verdict == Trying) }

// took says whether it has begun with the release.
func (m *member) took() bool { return m.verdict == Trying || m.verdict == Neither }

// tally counts a group.
type tally struct{ good, failed, pending, offline, neither int }

func (t tally) counts() int { return t.good + t.failed + t.pending }

func (t tally) String() string {
	s := fmt.Sprintf("%d have kept it, %d failed, %d are to come", t.good, t.failed, t.pending)
	if t.offline > 0 {
		s += fmt.Sprintf(", %d are offline", t.offline)
	}
	if t.neither > 0 {
		s += fmt.Sprintf(", %d cannot tell", t.neither)
	}
	return s
}

func count(members []member) (t tally) {
	for i := range members {
		switch m := &members[i]; {
		case m.verdict == Succeeded:
			t.good++
		case m.failed():
			t.failed++
		case m.pending():
			t.pending++
		case m.verdict == Neither:
			t.neither++
		case m.verdict != Elsewhere:
			t.offline++
		}
	}
	return t
}

// Decide takes the next steps of all of a product's rollouts that run. What it returns is a copy; whoever signs it gives it the next
// serial. Without a step that changes something it is equal to r. seen may be in any order; of a gateway that is there twice, the later
// word counts.
func Decide(r *release.Rollouts, seen []Seen, now time.Time) (*release.Rollouts, []Step) {
	next := clone(r)
	latest := map[string]Seen{}
	for _, s := range seen {
		if was, ok := latest[s.Gateway]; !ok || later(s, was) {
			latest[s.Gateway] = s
		}
	}
	var steps []Step
	for i := range next.Rollouts {
		if next.Rollouts[i].State == release.Running {
			d := decision{r: next, o: &next.Rollouts[i], now: now}
			d.sort(latest)
			d.run()
			steps = append(steps, d.steps...)
		}
	}
	return next, steps
}

// later puts two words of one gateway in an order; of the same time, in any that is always the same.
func later(a, b Seen) bool {
	if c := a.At.Compare(b.At); c != 0 {
		return c > 0
	}
	return fmt.Sprint(a.Online, a.Version, a.Update, a.Took.UnixNano()) > fmt.Sprint(b.Online, b.Version, b.Update, b.Took.UnixNano())
}

func clone(r *release.Rollouts) *release.Rollouts {
	c := *r
	c.Releases = slices.Clone(r.Releases)
	c.Rollouts = slices.Clone(r.Rollouts)
	for i := range c.Rollouts {
		c.Rollouts[i].Groups = slices.Clone(c.Rollouts[i].Groups)
		for j := range c.Rollouts[i].Groups {
			g := &c.Rollouts[i].Groups[j]
			g.Passed = slices.Clone(g.Passed)
		}
		c.Rollouts[i].Again = slices.Clone(c.Rollouts[i].Again)
	}
	return &c
}

type decision struct {
	r       *release.Rollouts
	o       *release.Rollout
	now     time.Time
	members [][]member // by group, by place
	steps   []Step
}

func (d *decision) say(group, kind, format string, args ...any) {
	d.steps = append(d.steps, Step{d.o.ID, group, kind, fmt.Sprintf(format, args...)})
}

// sort puts the gateways into their groups.
func (d *decision) sort(latest map[string]Seen) {
	d.members = make([][]member, len(d.o.Groups))
	l := d.r.Listed(d.o.Counter)
	for _, s := range latest {
		if s.Platform != "" && (l == nil || !slices.Contains(l.Platforms, s.Platform)) {
			continue
		}
		g, place := d.o.Group(s.Gateway)
		if g < 0 {
			continue
		}
		m := member{s, place, Judge(d.r, d.o, s, d.now), false}
		reached, _ := d.o.Reaches(s.Gateway)
		reached = reached || slices.Contains(d.o.Groups[g].Passed, s.Gateway)
		if group := &d.o.Groups[g]; group.State == release.FirstOnly && group.Since == 0 && d.rerun() {
			reached = false // chosen when the rollout was made: what it says may be of the rollout before
		}
		if m.verdict == Failed && (!reached || slices.Contains(d.o.Again, s.Gateway)) {
			m.verdict, m.again = Untouched, true // that was before
		}
		d.members[g] = append(d.members[g], m)
	}
	for _, group := range d.members {
		slices.SortFunc(group, func(a, b member) int {
			return cmp.Or(cmp.Compare(a.place, b.place), strings.Compare(a.Gateway, b.Gateway))
		})
	}
}

// rerun says whether the release had another rollout.
func (d *decision) rerun() bool {
	return slices.ContainsFunc(d.r.Rollouts, func(o release.Rollout) bool { return o.Counter == d.o.Counter && o.ID != d.o.ID })
}

// run decides about one rollout. Each round makes one step forward, and there are few to make.
func (d *decision) run() {
	switch l := d.r.Listed(d.o.Counter); {
	case l == nil || l.State == release.Halted || l.State == release.Removed:
		d.halt("its release is not offered any more")
		return
	case l.State == release.Released:
		d.o.State = release.Done
		d.say("", Release, "%s (%d) is for everybody already", l.Version, l.Counter)
		return
	case l.State != release.Rolling:
		d.say("", Wait, "%s (%d) is %s, not rolling", l.Version, l.Counter, l.State)
		return
	}
	if why := d.broken(); why != "" {
		d.halt(why)
		return
	}
	d.tryAgain()
	for range 8 * len(d.o.Groups) {
		if !d.forward() {
			return
		}
	}
}

// maxAgain bounds the list of those that had failed before: a rollout with more of them is halted, as soon as it reaches them.
const maxAgain = 256

// reach remembers that the rollout reaches a gateway that had failed before.
func (d *decision) reach(m *member) {
	if m.again && !slices.Contains(d.o.Again, m.Gateway) && len(d.o.Again) < maxAgain {
		d.o.Again = append(d.o.Again, m.Gateway)
		slices.Sort(d.o.Again)
	}
}

// tryAgain takes those off the list that try again: what they say from now on counts.
func (d *decision) tryAgain() {
	var at []string
	for _, group := range d.members {
		for i := range group {
			if m := &group[i]; !m.again && slices.Contains(d.o.Again, m.Gateway) {
				at = append(at, m.Gateway)
			}
		}
	}
	if len(at) > 0 {
		slices.Sort(at)
		d.o.Again = slices.DeleteFunc(d.o.Again, func(id string) bool { return slices.Contains(at, id) })
		d.say("", Again, "%s", strings.Join(at, " "))
	}
}

// broken says why the rollout is to be halted.
func (d *decision) broken() string {
	total := 0
	for i := range d.o.Groups {
		g, t := &d.o.Groups[i], count(d.members[i])
		total += t.failed
		if m := d.alone(i); m != nil && m.failed() && (m.verdict == Missing || strings.HasPrefix(m.Update.Code, "trial.")) {
			return fmt.Sprintf("gateway %s, which went first of group %s, alone, failed%s", m.Gateway, g.Name, d.codes())
		}
		if d.o.ErrorPercent > 0 && float64(t.failed)*100 > d.o.ErrorPercent*float64(t.counts()) {
			return fmt.Sprintf("of group %s %s: more than %g %% failed%s", g.Name, t, d.o.ErrorPercent, d.codes())
		}
	}
	if d.o.ErrorCount > 0 && total >= d.o.ErrorCount {
		return fmt.Sprintf("%d gateways failed: as many as halt it%s", total, d.codes())
	}
	return ""
}

// alone is the gateway that goes alone in a group, if that is how far it is.
func (d *decision) alone(group int) *member {
	g := &d.o.Groups[group]
	if g.State != release.FirstOnly {
		return nil
	}
	if i := slices.IndexFunc(d.members[group], func(m member) bool { return m.Gateway == g.First }); i >= 0 {
		return &d.members[group][i]
	}
	return nil
}

// codes lists what the failures said, the most frequent first.
func (d *decision) codes() string {
	counts := map[string]int{}
	for _, group := range d.members {
		for i := range group {
			switch m := &group[i]; m.verdict {
			case Failed:
				counts[m.Update.Code]++
			case Missing:
				counts["no verdict"]++
			}
		}
	}
	var codes []string
	for code := range counts {
		codes = append(codes, code)
	}
	slices.SortFunc(codes, func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	text := ""
	for i, code := range codes[:min(len(codes), 5)] {
		text += fmt.Sprintf("%s%d %s", map[bool]string{true: ": ", false: ", "}[i == 0], counts[code], code)
	}
	return text
}

func (d *decision) halt(why string) {
	d.o.State = release.HaltedRoll
	if l := d.r.Listed(d.o.Counter); l != nil {
		l.State = release.Halted
	}
	d.say("", Halt, "%s", why)
}

// forward takes one step and says whether there may be another.
func (d *decision) forward() bool {
	last := -1 // the last group of which somebody is known
	for i := range d.o.Groups {
		if len(d.members[i]) > 0 {
			last = i
		}
	}
	if last < 0 {
		d.say("", Wait, "no gateway of its groups has been heard of")
		return false
	}
	for i := range d.o.Groups {
		g, t := &d.o.Groups[i], count(d.members[i])
		if g.State == release.GroupDone {
			continue
		}
		if t.counts() == 0 && !slices.ContainsFunc(d.members[i], func(m member) bool { return m.took() }) && i != last {
			// Nobody to wait for: those who come online later make it the next group, as long as the rollout runs.
			if len(d.members[i]) > 0 {
				d.wait(g.Name, "nobody of it is online: passed over until somebody is")
			}
			continue
		}
		return d.group(i, t)
	}
	if d.o.Groups[last].State != release.GroupDone {
		return false
	}
	d.o.State = release.Done
	why := "all groups are done"
	if l := d.r.Listed(d.o.Counter); l != nil && l.State == release.Rolling {
		l.State = release.Released
		why = fmt.Sprintf("%s (%d) is for everybody: all groups are done", l.Version, l.Counter)
	}
	d.say("", Release, "%s", why)
	return false
}

// wait says why nothing happens, once.
func (d *decision) wait(group, format string, args ...any) {
	s := Step{d.o.ID, group, Wait, fmt.Sprintf(format, args...)}
	if !slices.Contains(d.steps, s) {
		d.steps = append(d.steps, s)
	}
}

// group takes a step in the group whose turn it is.
func (d *decision) group(i int, t tally) bool {
	g := &d.o.Groups[i]
	switch g.State {
	case release.Waiting:
		if t.pending == 0 { // all have it already, or have their verdict: by an order, or by an earlier rollout
			if t.counts() == 0 {
				d.wait(g.Name, "nobody of it is online")
				return false
			}
			d.say(g.Name, Opened, "%s: nobody has to go first", t)
			d.open(i, 100)
			return true
		}
		return d.first(i, "")
	case release.FirstOnly:
		m := d.alone(i)
		switch {
		case m == nil:
			return d.first(i, "the gateway that was to go first has not been heard of")
		case m.verdict == Succeeded || m.verdict == Elsewhere:
			d.say(g.Name, Opened, "gateway %s went first and has kept it", m.Gateway)
			d.open(i, 0)
			d.widen(i)
			return true
		case g.Since == 0 && m.verdict != Failed:
			g.Since = max(d.now.Unix(), 1)
			d.reach(m)
			d.say(g.Name, First, "gateway %s goes first, alone, as the rollout was made", m.Gateway)
			return true
		case m.failed(): // not the release's fault, or the rollout would be halted
			return d.first(i, fmt.Sprintf("gateway %s cannot have it (%s)", m.Gateway, m.Update.Code))
		case m.verdict == Untouched && !m.Online:
			return d.first(i, fmt.Sprintf("gateway %s went offline before it took it", m.Gateway))
		case m.verdict == Untouched && d.o.VerdictAfterS > 0 && g.Since > 0 && d.now.Sub(time.Unix(g.Since, 0)) >= time.Duration(d.o.VerdictAfterS)*time.Second,
			m.verdict == Neither && m.Update.Counter != d.o.Counter:
			return d.first(i, fmt.Sprintf("gateway %s is online and does not take it: %s", m.Gateway, d.says(m)))
		case m.verdict == Neither && m.Online:
			d.wait(g.Name, "gateway %s goes first, and cannot tell yet: %s", m.Gateway, d.says(m))
		case !m.Online:
			d.wait(g.Name, "gateway %s, which goes first, took it and is offline since %s", m.Gateway, m.At.UTC().Format(time.RFC3339))
		default:
			d.wait(g.Name, "gateway %s goes first, alone: %s", m.Gateway, d.says(m))
		}
		return false
	}
	if d.widen(i) {
		return true
	}
	return d.settle(i, t)
}

// says is a gateway's word on its update.
func (d *decision) says(m *member) string {
	if m.Update.State == "" {
		return "nothing is known of its update"
	}
	s := strings.TrimSpace(m.Update.State + " " + m.Update.Code)
	if m.Update.Counter != d.o.Counter && (m.Update.State == "idle" || m.Update.State == "committed") {
		return fmt.Sprintf("still on release %d", m.Update.Counter)
	}
	if m.Update.Counter != d.o.Counter {
		s += fmt.Sprintf(" (of %d)", m.Update.Counter)
	}
	return s
}

// maxPassed bounds the list of those that could not go first.
const maxPassed = 64

// first chooses who goes first, the lowest place of those who can: online, without a verdict, and not passed over before. Where nobody
// else is left and the one whose turn it is has gone offline, one that was passed over has another go.
func (d *decision) first(i int, why string) bool {
	g := &d.o.Groups[i]
	find := func(ok func(m *member) bool) int {
		return slices.IndexFunc(d.members[i], func(m member) bool { return m.pending() && ok(&m) })
	}
	chosen := -1
	if g.State == release.Waiting {
		chosen = find(func(m *member) bool { return m.Gateway == g.First }) // chosen by hand
	}
	if chosen < 0 {
		chosen = find(func(m *member) bool { return m.Gateway != g.First && !slices.Contains(g.Passed, m.Gateway) })
	}
	if present := d.alone(i); chosen < 0 && (present == nil || !present.Online) {
		chosen = find(func(m *member) bool { return m.Gateway != g.First })
	}
	if chosen >= 0 {
		m := &d.members[i][chosen]
		if g.State == release.FirstOnly && g.First != "" && g.First != m.Gateway && !slices.Contains(g.Passed, g.First) && len(g.Passed) < maxPassed {
			g.Passed = append(g.Passed, g.First)
		}
		g.State, g.First, g.OpenTo, g.Since = release.FirstOnly, m.Gateway, 0, max(d.now.Unix(), 1)
		d.reach(m)
		if why != "" {
			why = ": " + why
		}
		d.say(g.Name, First, "gateway %s goes first, alone%s", m.Gateway, why)
		return true
	}
	if m := d.alone(i); g.State == release.FirstOnly && m != nil && m.failed() { // and nobody is left who could go
		d.say(g.Name, Opened, "%s; nobody else is there to go first", count(d.members[i]))
		d.open(i, 100)
		return true
	}
	d.wait(g.Name, "nobody is online who could go first%s", map[bool]string{true: "; " + why}[why != ""])
	return false
}

// open lets a share of a group go.
func (d *decision) open(i int, to float64) {
	g := &d.o.Groups[i]
	g.State, g.OpenTo = release.Open, to
	for j := range d.members[i] {
		if m := &d.members[i][j]; m.place < to || m.Gateway == g.First {
			d.reach(m)
		}
	}
}

// widen opens as much of a group as may be at it at once.
func (d *decision) widen(i int) bool {
	g, members := &d.o.Groups[i], d.members[i]
	atOnce := len(members)
	if d.o.AtOnce > 0 {
		atOnce = max(1, int(d.o.AtOnce/100*float64(len(members))))
	}
	busy := 0
	for j := range members {
		if m := &members[j]; m.pending() && (m.place < g.OpenTo || m.Gateway == g.First) {
			busy++
		}
	}
	to := 100.0
	for j := range members {
		m := &members[j]
		if m.place < g.OpenTo || !m.pending() || m.Gateway == g.First {
			continue
		}
		if busy == atOnce {
			to = m.place
			break
		}
		busy++
	}
	if to <= g.OpenTo {
		return false
	}
	d.say(g.Name, Opened, "%d of its %d gateways may go: to %.4g %% from %.4g", busy, len(members), to, g.OpenTo)
	d.open(i, to)
	return true
}

// settle looks whether enough of an open group have succeeded, for long enough.
func (d *decision) settle(i int, t tally) bool {
	g := &d.o.Groups[i]
	want := d.o.SuccessPercent
	if want == 0 {
		want = 100 - d.o.ErrorPercent
	}
	enough := t.good > 0 && float64(t.good)*100 >= want*float64(t.counts()) && g.OpenTo >= 100
	switch {
	case !enough && g.Settled != 0:
		g.Settled = 0
		d.say(g.Name, Revoked, "%s: no longer %g %%", t, want)
		return true
	case !enough:
		d.wait(g.Name, "%s: want %g %%, of a group that is open to %.4g %%", t, want, g.OpenTo)
		return false
	case g.Settled == 0 && d.o.SoakS > 0:
		g.Settled = max(d.now.Unix(), 1)
		d.say(g.Name, Settled, "%s: %g %% are enough", t, want)
		return true
	}
	if left := time.Unix(g.Settled, 0).Add(time.Duration(d.o.SoakS) * time.Second).Sub(d.now); d.o.SoakS > 0 && left > 0 {
		d.wait(g.Name, "%s; soaks for %v yet", t, left.Round(time.Second))
		return false
	}
	g.State, g.OpenTo = release.GroupDone, 100
	d.say(g.Name, Done, "%s", t)
	return true
}

// Memory keeps since when each gateway has been at what it is at, and what it said of it last. It is a manager's own, and may be lost.
type Memory struct {
	since map[string]taken
}

type taken struct {
	counter uint64
	attempt int
	at      time.Time
	code    string
}

// Note fills in s.Took, and remembers it. A gateway's will may be older than its verdict: it does not take that back.
func (m *Memory) Note(s *Seen) {
	if m.since == nil {
		m.since = map[string]taken{}
	}
	was, ok := m.since[s.Gateway]
	if !ok || was.counter != s.Update.Counter || was.attempt != s.Update.Attempt {
		was = taken{s.Update.Counter, s.Update.Attempt, s.At, ""}
	}
	if !s.Online && s.Update.Code == "" {
		s.Update.Code = was.code
	}
	was.code = s.Update.Code
	m.since[s.Gateway] = was
	s.Took = was.at
}
