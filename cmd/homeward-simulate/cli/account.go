package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"homeward/agent/pack"
	"homeward/drivers"
	"homeward/drivers/sim/truth"
)

// account compares what the instruments served with what the broker got. What has been
// compared is forgotten, so that it stays small however long the demo runs. It is safe for use by several goroutines.
type account struct {
	tolerance map[string]float64 // by channel: how far the gateway's arithmetic may be from the simulator's

	mu       sync.Mutex              // protects the following
	served   map[string]*truth.Queue // not yet delivered
	gateway  string
	epoch    uint32
	next     uint64                  // all before were compared
	early    map[uint64]pack.Reading // came before their turn
	channels map[string]uint64       // readings delivered, by channel
	payloads uint64
	bytes    uint64
	repeats  uint64
	readings uint64 // distinct
	gaps     []pack.Gap
	wrong    []string // what was wrong, in plain words
	wrongs   int      // also those that did not fit
}

// maxWrong bounds what is remembered word by word.
const maxWrong = 20

func newAccount(tolerance map[string]float64) *account {
	return &account{tolerance: tolerance, served: map[string]*truth.Queue{}, next: 1, early: map[uint64]pack.Reading{}, channels: map[string]uint64{}}
}

// serve notes a value on its way to the gateway.
func (a *account) serve(channel string, v float64, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue(channel).Add(truth.Value{V: v, MS: at.UnixMilli()})
}

func (a *account) queue(channel string) *truth.Queue {
	q := a.served[channel]
	if q == nil {
		q = &truth.Queue{Tolerance: a.tolerance[channel]}
		a.served[channel] = q
	}
	return q
}

// receive takes a payload from the broker.
func (a *account) receive(payload []byte) {
	p, err := pack.Decode(payload)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.payloads++
	a.bytes += uint64(len(payload))
	if err != nil {
		a.complain("a payload cannot be decoded: %v", err)
		return
	}
	if a.gateway == "" {
		a.gateway, a.epoch = p.Gateway, p.Epoch
	}
	if p.Gateway != a.gateway || p.Epoch != a.epoch {
		a.complain("a payload is of gateway %s, epoch %d; all others are of %s, epoch %d", p.Gateway, p.Epoch, a.gateway, a.epoch)
		return
	}
	a.gaps = append(a.gaps, p.Gaps[:min(len(p.Gaps), maxWrong)]...)
	if len(a.gaps) > 10*maxWrong {
		a.gaps = a.gaps[:10*maxWrong]
	}
	for _, r := range p.Readings {
		if _, again := a.early[r.Seq]; again || r.Seq < a.next {
			a.repeats++
			continue
		}
		a.readings++
		a.early[r.Seq] = r
	}
	for {
		r, ok := a.early[a.next]
		if !ok {
			return
		}
		delete(a.early, a.next)
		a.next++
		a.compare(r)
	}
}

// compare looks for the reading among what was served and not yet delivered, in order.
func (a *account) compare(r pack.Reading) {
	a.channels[r.Channel]++
	if r.Quality != drivers.Good {
		a.complain("reading %d of %s has quality %s, not good", r.Seq, r.Channel, r.Quality)
	}
	q := a.queue(r.Channel)
	defer q.Forget()
	if q.Take(r.Value, r.TimeMS, truth.Asked) {
		return
	}
	elsewhen, ok := q.TakeAny(r.Value)
	if !ok {
		a.complain("reading %d of %s is %g: no value that was served since the one delivered before it", r.Seq, r.Channel, r.Value)
		return
	}
	a.complain("reading %d of %s has the time %s, but its value was served at %s", r.Seq, r.Channel,
		time.UnixMilli(r.TimeMS).UTC().Format(pack.TimeLayout), time.UnixMilli(elsewhen.MS).UTC().Format(pack.TimeLayout))
}

func (a *account) complain(format string, args ...any) {
	if a.wrongs++; len(a.wrong) < maxWrong {
		a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
	}
}

// counts is what an account holds at an instant.
type counts struct {
	payloads, bytes, repeats, readings, contiguous uint64
}

func (a *account) counts() counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	return counts{a.payloads, a.bytes, a.repeats, a.readings, a.next - 1}
}

// claims is what the gateway says of itself at the end.
type claims struct {
	recorded  uint64 // sequence numbers given
	delivered uint64 // readings whose outcome is delivered
	sensors   map[string]polls
}

// polls are a sensor's.
type polls struct{ made, failed, readings uint64 }

// verify says what is wrong, in plain words; nothing if every reading arrived. all are the site's
// channels: each must have brought one reading for each poll that did not fail. (What was served may be more: a poll can fail
// after its instrument has answered, a converter is read once when it is opened, and homeward check reads without recording.)
func (a *account) verify(c claims, all []string) (wrong []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got, beyond := a.next-1, uint64(len(a.early))
	for _, seq := range slices.Sorted(maps.Keys(a.early)) { // what lies beyond a hole is compared as well
		a.compare(a.early[seq])
		delete(a.early, seq)
	}
	wrong = append(wrong, a.wrong...)
	if more := a.wrongs - len(a.wrong); more > 0 {
		wrong = append(wrong, fmt.Sprintf("and %d more of that kind", more))
	}
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if got != c.recorded || beyond > 0 {
		say("the gateway recorded %d readings; the broker got numbers 1 to %d without a hole, and %d beyond a hole", c.recorded, got, beyond)
	}
	if c.delivered != c.recorded {
		say("the gateway recorded %d readings and counts %d as delivered", c.recorded, c.delivered)
	}
	for _, g := range a.gaps {
		if g.From != nil && g.To != nil {
			say("readings %d to %d were given up: %s", *g.From, *g.To, g.Reason)
		} else {
			say("%d readings were not taken: %s", g.N, g.Reason)
		}
	}
	sensors := map[string]uint64{}
	for _, name := range all {
		sensor, _, _ := strings.Cut(name, "/")
		p, n := c.sensors[sensor], a.channels[name]
		if good := p.made - p.failed; n < max(good, 1) {
			say("%s: the gateway made %d good polls, %d readings were delivered", name, good, n)
		}
		sensors[sensor] += n
	}
	for _, name := range slices.Sorted(maps.Keys(sensors)) {
		if n := c.sensors[name].readings; sensors[name] != n {
			say("%s: the gateway recorded %d readings, %d were delivered", name, n, sensors[name])
		}
	}
	var sum uint64
	for _, name := range slices.Sorted(maps.Keys(a.channels)) {
		if !slices.Contains(all, name) {
			say("%s is no channel of this site", name)
		}
		sum += a.channels[name]
	}
	if sum != got+beyond {
		say("%d readings by channel, %d by number", sum, got+beyond)
	}
	return wrong
}
