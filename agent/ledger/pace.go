package ledger

import (
	"math"
	"time"

	"homeward/drivers"
)

// The pace.
//
// Of what is left of the budget for ordinary readings, a part may be spent at once: live, a day's worth at most, and saved, for a
// backlog. The rest flows into them evenly until the month's end; so all that is spent is never more than was left. What finds
// no room in live, since fewer payloads leave than could, is saved. While there is a backlog its share of the flow goes to it first.
//
// The maximum age of live readings grows as live drains: as configured while it is full, four times what the flow alone would carry when it is
// empty. Each payload then costs a little more waiting, and the age settles where what leaves is what flows in. It is smoothed over half an
// hour, or a quarter of the time between payloads: a fraction of what live takes to drain or fill, so that it never swings.
const (
	steep   = 8 // the flow is at most this many times the budget's mean, whatever the clock says of the month's end
	slowest = 4 // times the age that the flow carries
	smooth  = 30 * time.Minute
	daily   = 24 * time.Hour // over which the rate is averaged
)

const fullMonth = 31 * 24 * time.Hour

// advance brings the account up to now.
func (l *Ledger) advance() drivers.Stamp {
	now, last := l.o.Clock(), l.last
	l.last = now
	gone := now.Mono - last.Mono
	if now.Boot != last.Boot || gone < 0 {
		l.days = nil
		l.turn(now, false, false)
		l.refill(0, now)
		return now
	}
	off := time.Duration(now.Wall-l.trusted.Wall)*time.Millisecond - (now.Mono - l.trusted.Mono)
	jumped := l.trusted.Trusted && off.Abs() > edge
	l.turn(now, l.trusted.Trusted && !jumped, jumped && now.Trusted)
	l.refill(gone, now)
	if now.Trusted {
		l.trusted = now
	}
	return now
}

// ahead is how long the month lasts; the whole of one where no trusted clock says.
func (l *Ledger) ahead(now drivers.Stamp) time.Duration {
	if !now.Trusted {
		return fullMonth
	}
	return max(l.end.Sub(time.UnixMilli(now.Wall)), time.Second)
}

// ordinary is the budget but for the reserve.
func ordinary(b Budget) float64 { return float64(b.Operations) * (1 - b.Reserve) }

// left is what the budget still has for ordinary readings.
func (l *Ledger) left(b Budget) float64 {
	over := max(0, float64(l.acc.Alarms)-b.Reserve*float64(b.Operations)) // alarms that found the reserve empty
	return ordinary(b) - float64(l.acc.Used-l.acc.Alarms) - over
}

// allowance is the flow in operations a second.
func (l *Ledger) allowance(b Budget, now drivers.Stamp) float64 {
	mean := ordinary(b) / fullMonth.Seconds()
	flow := (l.left(b) - l.acc.Live - l.acc.Saved) / l.ahead(now).Seconds()
	return max(0, min(flow, steep*mean))
}

// room is how much live holds: a day's worth, yet some payloads of a small budget, and no more than a tenth of it.
func room(b Budget) float64 { return max(1, min(max(ordinary(b)/30, 20), ordinary(b)/10)) }

func (l *Ledger) refill(gone time.Duration, now drivers.Stamp) {
	if gone > 0 {
		keep := math.Exp(-gone.Seconds() / daily.Seconds())
		l.acc.Rate *= keep
		l.acc.Seen = 1 - (1-l.acc.Seen)*keep
	}
	b := l.o.Budget()
	if b.Operations <= 0 {
		return
	}
	if !l.acc.Paced { // what is seen of a new gateway first need not wait
		l.acc.Live, l.acc.Paced = max(0, min(room(b), l.left(b))), true
	}
	if more := room(b) - l.acc.Room; more > 0 && l.acc.Room > 0 { // a larger budget is felt at once
		l.acc.Live += max(0, min(more, l.left(b)-l.acc.Live-l.acc.Saved))
	}
	if less := room(b) / l.acc.Room; less < 1 { // what a larger one had saved would be spent at once, and nothing be left for the month
		l.acc.Live, l.acc.Saved = l.acc.Live*less, l.acc.Saved*less
	}
	l.acc.Room = room(b)
	in := l.allowance(b, now) * gone.Seconds()
	if l.backlog {
		l.acc.Saved += in * b.Backlog
		in *= 1 - b.Backlog
	}
	l.acc.Live += in
	if over := l.acc.Live - room(b); over > 0 {
		l.acc.Live -= over
		l.acc.Saved += over
	}
	l.acc.At = 0
	if now.Trusted {
		l.acc.At = now.Wall
	}
}

// spend takes what was billed out of what may be spent at once.
func (l *Ledger) spend(k Kind, cost float64) {
	if l.acc.Seen == 0 {
		l.acc.Seen = 1e-6
	}
	l.acc.Rate += cost / daily.Seconds()
	if k == Alarm {
		return
	}
	first, second := &l.acc.Live, &l.acc.Saved
	if k == Backlog || *first < cost && *second >= cost {
		first, second = second, first
	}
	if *first -= cost; *first < 0 {
		*second, *first = max(0, *second+*first), 0
	}
}

// May says whether a publish of the cost may leave now. backlog tells the ledger whether there is one, which is then given its share.
//
// An alarm may while the budget has anything left. Live readings may while live holds the cost, or what is saved while there is no backlog; a
// backlog while what is saved does, or live is full. With [Continue], and without a budget, everything may.
func (l *Ledger) May(k Kind, cost int, backlog bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	l.backlog = backlog
	b := l.o.Budget()
	if b.Operations <= 0 || b.AtLimit == Continue {
		return true
	}
	c := float64(cost)
	if float64(l.acc.Used)+c > float64(b.Operations) {
		return false
	}
	if k == Alarm || k == Overhead {
		return true
	}
	if l.left(b) < c {
		return false
	}
	full := l.acc.Live >= room(b)-0.001
	switch k {
	case Backlog:
		return l.acc.Saved >= c || full && l.acc.Live+l.acc.Saved >= c
	default:
		// A payload that costs more than live ever holds leaves when it is full.
		return l.acc.Live >= min(c, room(b)) || !backlog && l.acc.Saved >= c
	}
}

// Spendable is how many operations may be spent at once on live readings, and on a backlog, and how many the first can be at most; +Inf without a budget.
func (l *Ledger) Spendable() (live, backlog, most float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	b := l.o.Budget()
	if b.Operations <= 0 || b.AtLimit == Continue {
		return math.Inf(1), math.Inf(1), math.Inf(1)
	}
	return l.acc.Live, l.acc.Saved, room(b)
}

// AtLimit is what happens to what the budget does not carry; "" where there is none.
func (l *Ledger) AtLimit() string {
	if b := l.o.Budget(); b.Operations > 0 {
		return b.AtLimit
	}
	return ""
}

// MaxAge is how long an ordinary reading may wait now: least, or longer where the budget would not last. cost is that of a
// payload.
func (l *Ledger) MaxAge(least time.Duration, cost int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.advance()
	b := l.o.Budget()
	if b.Operations <= 0 || least <= 0 {
		return least
	}
	c, whole := float64(cost), room(b)
	mean := ordinary(b) / fullMonth.Seconds()
	flow := max(l.allowance(b, now), mean/slowest)
	if l.left(b) <= c && b.AtLimit == Continue { // spent: as if the month began
		flow, whole = mean, 0
	}
	if l.backlog {
		flow *= max(1-b.Backlog, 0.1)
	}
	most := time.Duration(min(slowest*c/flow, fullMonth.Seconds()) * 1e9)
	want := math.Log(least.Seconds())
	if most > least {
		fill := 0.0
		if whole > c {
			fill = max(0, min(1, (l.acc.Live-c)/(whole-c)))
		} else if whole > 0 {
			fill = min(1, l.acc.Live/whole)
		}
		want += (1 - fill) * (math.Log(most.Seconds()) - want)
	}
	switch gone := now.Mono - l.aged; {
	case math.IsNaN(l.age) || gone < 0 || least != l.least || b.Operations != l.per: // another publish.max_age or budget is felt at once
		l.age = want
	default:
		over := max(smooth.Seconds(), c/mean/4) // each payload moves live, and with it want
		l.age += (want - l.age) * (1 - math.Exp(-gone.Seconds()/over))
	}
	l.aged, l.least, l.per = now.Mono, least, b.Operations
	if math.Exp(l.age) <= least.Seconds()*1.001 {
		return least
	}
	return time.Duration(math.Exp(l.age) * 1e9)
}
