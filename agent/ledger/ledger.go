package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"homeward/drivers"
)

// Class says what a cloud makes of a publish.
type Class string

// The classes.
const (
	Billed  Class = "billed"  // against the budget
	Free    Class = "free"    // the cloud says that it costs nothing
	Unknown Class = "unknown" // nobody has said: counted apart
)

// Rule is how a cloud bills a publish.
type Rule struct {
	PerBytes int // an operation for each started so many bytes; 0: one a publish, whatever its size
}

// Cost is how many data operations a publish of so many bytes is.
func (r Rule) Cost(bytes int) int {
	if r.PerBytes <= 0 {
		return 1
	}
	return max(1, (bytes+r.PerBytes-1)/r.PerBytes)
}

// What happens when the budget does not carry all that there is to send; the texts are the configuration's.
const (
	Hold     = "hold"     // what the budget does not carry waits
	Thin     = "thin"     // it leaves coarser
	Continue = "continue" // it leaves, beyond the budget if need be
)

// Budget is what may be spent.
type Budget struct {
	Operations int64          // a billing month; 0: no budget
	Day        int            // on which the month begins, 1 to 31
	Zone       *time.Location // nil: UTC
	Reserve    float64        // share of Operations that is kept for alarms
	AtLimit    string         // Hold, Thin or Continue
	Backlog    float64        // share of what may be spent that goes to a backlog while there is one
}

// Store keeps small facts; buffer.Buffer is one.
type Store interface {
	Side(key string) []byte
	PutSide(key string, value []byte) error
}

// The keys in the store: the present month of the present home, which the releases before this one know too; its earlier months; and,
// under sideOps + "." + a digest, those of other homes.
const (
	sideOps  = "operations"
	sidePast = "operations.past"
)

const (
	keptMonths = 13
	edge       = 2 * time.Minute // what is counted so shortly before a month's end may be billed in the next
	lease      = 16              // publishes that are not billed, counted ahead at once
)

// counts are of publishes tried.
type counts struct {
	Used    uint64 `json:"used"`              // operations billed
	Alarms  uint64 `json:"alarms,omitempty"`  // of those
	Free    uint64 `json:"free,omitempty"`    // operations
	Unknown uint64 `json:"unknown,omitempty"` // operations
	Single  uint64 `json:"single,omitempty"`  // readings tried for the first time: what one publish each would have cost
}

func (c *counts) add(o counts) {
	c.Used += o.Used
	c.Alarms += o.Alarms
	c.Free += o.Free
	c.Unknown += o.Unknown
	c.Single += o.Single
}

// atLeast makes none less than o's.
func (c *counts) atLeast(o counts) {
	c.Used, c.Alarms, c.Free = max(c.Used, o.Used), max(c.Alarms, o.Alarms), max(c.Free, o.Free)
	c.Unknown, c.Single = max(c.Unknown, o.Unknown), max(c.Single, o.Single)
}

// less is c without o, which is part of it.
func (c counts) less(o counts) counts {
	return counts{c.Used - o.Used, c.Alarms - o.Alarms, c.Free - o.Free, c.Unknown - o.Unknown, c.Single - o.Single}
}

// month is one billing month; named by its first day, 2006-01-02, in the billing zone.
type month struct {
	Month string `json:"month"`
	counts
	Until counts `json:"until,omitzero"` // account.Total when it was left
}

// account is what the store holds of the present month.
type account struct {
	month
	Home  string  `json:"home,omitempty"`
	Total counts  `json:"total,omitzero"`  // ever counted
	Base  counts  `json:"base,omitzero"`   // Total when the present month, or the first after a clock that was wrong, began
	Doubt counts  `json:"doubt,omitzero"`  // of the month's, what may be billed in the next
	Wrong bool    `json:"wrong,omitempty"` // the clock went back to this month, where it had not been before
	Live  float64 `json:"live,omitempty"`  // operations that may be spent at once on live readings
	Saved float64 `json:"saved,omitempty"` // and on a backlog
	At    int64   `json:"at,omitempty"`    // when Live and Saved were that, Unix ms; 0: unknown
	Rate  float64 `json:"rate,omitempty"`  // operations a second over the last day or so, times Seen
	Seen  float64 `json:"seen,omitempty"`  // how much of a day or so that is, 0 to 1
	Paced bool    `json:"paced,omitempty"` // there was a budget
	Room  float64 `json:"room,omitempty"`  // how much Live could hold
	Begun string  `json:"begun,omitempty"` // when months begin, as configured
}

// Options is what a ledger is made of. All but Home are required.
type Options struct {
	Store   Store
	Durable func() <-chan struct{} // closed once what was put before is durable
	Home    string                 // whom the operations belong to: another home's account is kept apart
	Clock   func() drivers.Stamp
	Budget  func() Budget
}

// Ledger is the account of one home. Its methods may be called from any goroutine.
type Ledger struct {
	o Options

	mu      sync.Mutex
	acc     account
	past    []month         // ascending
	leased  counts          // of Free and Unknown: counted in the store, not yet used
	durable <-chan struct{} // closed once leased is
	last    drivers.Stamp
	days    []day         // of this life, oldest first
	unsure  counts        // of earlier lives, when nobody knew which month it was
	trusted drivers.Stamp // the last that was, of this life
	age     float64       // ln of the present maximum age in seconds
	aged    time.Duration // when age was that, monotonic
	least   time.Duration // publish.max_age as age was made with
	per     int64         // and operations.per_month
	backlog bool
	start   time.Time // of the present month, which day and zone make it
	end     time.Time
	name    string
	day     int
	zone    *time.Location
	failing error
}

// Open reads the account of the home. The store keeps that of the home before.
func Open(o Options) *Ledger {
	l := &Ledger{o: o, age: math.NaN()}
	_ = json.Unmarshal(o.Store.Side(sideOps), &l.acc)   // none yet: zero
	_ = json.Unmarshal(o.Store.Side(sidePast), &l.past) // lost: only past months
	if l.acc.Home != "" && l.acc.Home != o.Home {
		other := drawer(l.acc.Home)
		if err := cmp.Or(o.Store.PutSide(other, o.Store.Side(sideOps)), o.Store.PutSide(other+".past", o.Store.Side(sidePast))); err != nil {
			l.failing = err
		}
		l.acc, l.past = account{}, nil
		_ = json.Unmarshal(o.Store.Side(drawer(o.Home)), &l.acc)
		_ = json.Unmarshal(o.Store.Side(drawer(o.Home)+".past"), &l.past)
	}
	l.acc.Home = o.Home
	if l.unsure = l.acc.Doubt; l.acc.Month == "" {
		l.unsure = l.acc.counts
	}
	l.last = o.Clock()
	if l.last.Trusted && l.acc.At > 0 && l.last.Wall > l.acc.At { // what was saved while nobody looked
		gone := time.Duration(min(l.last.Wall-l.acc.At, 31*24*time.Hour.Milliseconds())) * time.Millisecond
		l.turn(l.last, false, false)
		l.refill(gone, l.last)
	}
	return l
}

func drawer(home string) string {
	sum := sha256.Sum256([]byte(home))
	return sideOps + "." + hex.EncodeToString(sum[:6])
}

// Entry is one try of a publish.
type Entry struct {
	Class    Class
	Cost     int  // operations
	Kind     Kind // what of it is billed draws on
	Readings int  // in it, if this is the first try
}

// Kind is what a publish carries; of the least patience first.
type Kind uint8

// The kinds.
const (
	Alarm    Kind = iota // draws on the reserve, and beyond it on all that is left
	Live                 // readings
	Backlog              // readings that an outage has left behind
	Overhead             // status, proofs, schemas
)

// Count counts a try. The publish may be made once the store is durable, which for what is not billed it often is already (wait is
// false): such publishes are counted ahead, several at once. Where Count fails the publish must not be made.
func (l *Ledger) Count(e Entry) (wait bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.advance()
	c := counts{Single: uint64(e.Readings)}
	leased := (*uint64)(nil)
	switch cost := uint64(e.Cost); e.Class {
	case Free:
		c.Free, leased = cost, &l.leased.Free
	case Unknown:
		c.Unknown, leased = cost, &l.leased.Unknown
	default:
		c.Used = cost
		if e.Kind == Alarm {
			c.Alarms = cost
		}
	}
	was := l.acc
	l.acc.add(c)
	l.acc.Total.add(c)
	doubt := !now.Trusted || l.acc.Month == "" || time.UnixMilli(now.Wall).Add(edge).After(l.end)
	if doubt {
		l.acc.Doubt.add(c)
	}
	l.spend(e.Kind, float64(c.Used))
	l.remember(now, c)
	switch {
	case leased == nil:
	case doubt: // counted twice, perhaps: not ahead
	case *leased >= uint64(e.Cost):
		*leased -= uint64(e.Cost)
		select {
		case <-l.durable:
			return false, nil
		default:
			return true, nil
		}
	default:
		*leased += lease
		if err := l.keep(was); err != nil {
			return false, err
		}
		l.durable = l.o.Durable()
		return true, nil
	}
	return true, l.keep(was)
}

// keep writes the account; where it cannot it is as it was.
func (l *Ledger) keep(was account) error {
	a := l.acc
	a.add(l.leased)
	a.Total.add(l.leased)
	text, err := json.Marshal(a)
	if err == nil {
		err = l.o.Store.PutSide(sideOps, text)
	}
	if l.failing = err; err != nil {
		l.acc, l.leased = was, counts{}
		return fmt.Errorf("ledger: not counted: %w", err)
	}
	return nil
}

// turn begins another billing month if the clock says so, which only a trusted one may. whole says that it has run without a jump since the
// last look.
//
// An operation whose month is in doubt is counted in each that it may belong to: what was counted while the clock
// was not trusted, or the month about to end; all of the month, where the configuration has begun it elsewhere; and what was counted while the clock
// may have been wrong. That it was, is seen when it jumps: then the month has at least what was counted in it in this life, by
// the clock as it is now. Over a restart it is seen when it goes back: then the month gets all that was counted since
// the clock was there last, or else since the last month began that nothing speaks against.
func (l *Ledger) turn(now drivers.Stamp, whole, jumped bool) {
	if !now.Trusted {
		return
	}
	b, at := l.o.Budget(), time.UnixMilli(now.Wall)
	if b.Day != l.day || b.Zone != l.zone || at.Before(l.start) || !at.Before(l.end) {
		l.start, l.end = Month(at, b.Day, b.Zone)
		l.day, l.zone, l.name = b.Day, b.Zone, l.start.Format(time.DateOnly)
	}
	name := l.name
	begun := strconv.Itoa(b.Day) + " " + l.start.Location().String()
	moved := l.acc.Begun != "" && l.acc.Begun != begun
	l.acc.Begun = begun
	switch {
	case name == l.acc.Month:
		if jumped {
			l.acc.atLeast(l.inLife(now))
		}
		if time.UnixMilli(now.Wall).Add(edge).Before(l.end) {
			l.acc.Doubt = counts{}
		}
		return
	case l.acc.Month == "":
		l.acc.Month, l.leased = name, counts{}
		return
	}
	was := l.acc
	left := l.acc.month
	left.Until = l.acc.Total
	next := month{Month: name}
	i, known := l.find(name)
	back := name < left.Month
	switch {
	case known:
		next = l.past[i]
		l.past = slices.Delete(l.past, i, i+1)
		next.add(l.acc.Total.less(next.Until))
	case moved:
		next.add(left.counts)
	case jumped:
	case back || l.acc.Wrong && !whole:
		next.add(l.acc.Total.less(l.acc.Base))
	default:
		next.add(l.acc.Doubt)
		l.acc.Base = l.acc.Total.less(l.acc.Doubt)
	}
	if jumped {
		next.atLeast(l.inLife(now))
	}
	next.Until = counts{}
	l.acc.month, l.acc.Doubt, l.acc.Saved, l.acc.Wrong = next, counts{}, 0, back && !known
	if i, known = l.find(left.Month); known {
		l.past[i] = left
	} else {
		l.past = slices.Insert(l.past, i, left)
	}
	if n := len(l.past) - keptMonths; n > 0 {
		l.past = slices.Delete(l.past, 0, n)
	}
	l.leased = counts{} // it is of the month before
	text, err := json.Marshal(l.past)
	if err == nil {
		err = l.o.Store.PutSide(sidePast, text)
	}
	if err != nil {
		l.failing, l.acc = err, was // it turns with the next look
		return
	}
	_ = l.keep(was)
}

// day is what was counted in a day of the monotonic clock.
type day struct {
	from time.Duration
	counts
}

// maxDays cover any month.
const maxDays = 33

func (l *Ledger) remember(now drivers.Stamp, c counts) {
	from := now.Mono.Truncate(24 * time.Hour)
	if n := len(l.days); n == 0 || l.days[n-1].from != from {
		l.days = append(l.days[max(0, n-maxDays+1):], day{from: from})
	}
	l.days[len(l.days)-1].add(c)
}

// inLife is what was counted in this life and in the present month, by the clock as it is now: to the day, rather too much. What
// was in doubt when it began is part of it: the clock that has resolved that was wrong.
func (l *Ledger) inLife(now drivers.Stamp) counts {
	sum := l.unsure
	for _, d := range l.days {
		end := time.UnixMilli(now.Wall).Add(d.from + 24*time.Hour - now.Mono)
		if end.After(l.start) {
			sum.add(d.counts)
		}
	}
	return sum
}

func (l *Ledger) find(name string) (int, bool) {
	return slices.BinarySearchFunc(l.past, name, func(m month, name string) int { return cmp.Compare(m.Month, name) })
}

// Report is what the ledger knows.
type Report struct {
	Month      string // first day; "" while no trusted clock has said
	Used       uint64 // operations billed, repeats included
	Alarms     uint64 // of those
	Free       uint64
	Unknown    uint64
	Single     uint64  // what one publish per reading would have cost so far
	Forecast   uint64  // Used at the month's end
	Left       int64   // of the budget for ordinary readings; negative where alarms took more than the reserve and all
	Reserve    uint64  // of the budget, for alarms
	PerHour    float64 // operations an hour that are allowed now; +Inf without a budget
	Trusted    bool    // the clock: else no month begins
	Past       []Past
	NotCounted error // why the last Count failed
}

// Past is an earlier month.
type Past struct {
	Month         string
	Used          uint64
	OnePerReading uint64
}

// Report tells how the month stands.
func (l *Ledger) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, b := l.advance(), l.o.Budget()
	r := Report{
		Month: l.acc.Month, Used: l.acc.Used, Alarms: l.acc.Alarms, Free: l.acc.Free, Unknown: l.acc.Unknown, Single: l.acc.Single,
		Forecast: l.acc.Used, PerHour: math.Inf(1), Trusted: now.Trusted, NotCounted: l.failing,
	}
	for _, m := range l.past {
		r.Past = append(r.Past, Past{m.Month, m.Used, m.Single})
	}
	if l.acc.Seen > 0 {
		r.Forecast += uint64(l.acc.Rate / l.acc.Seen * l.ahead(now).Seconds())
	}
	if b.Operations > 0 {
		r.Left, r.Reserve = int64(l.left(b)), uint64(math.Round(b.Reserve*float64(b.Operations)))
		r.PerHour = 3600 * l.allowance(b, now)
		if b.AtLimit != Continue {
			r.Forecast = max(r.Used, min(r.Forecast, uint64(b.Operations)))
		}
	}
	return r
}
