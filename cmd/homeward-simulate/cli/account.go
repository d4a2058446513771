package cli

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"homeward/agent/pack"
	"homeward/drivers"
)

// account compares what the instruments served with what the broker got. What has been
// compared is forgotten, so that it stays small however long the demo runs. It is safe for use by several goroutines.
type account struct {
	tolerance map[string]float64 // by channel: how far the gateway's arithmetic may be from the simulator's

	mu       sync.Mutex // protects the following
	served   map[string][]float64
	total    map[string]uint64 // of values served, by channel
	gateway  string
	epoch    uint32
	next     uint64                  // all before were compared
	early    map[uint64]pack.Reading // came before their turn
	channels map[string]*tally
	payloads uint64
	bytes    uint64
	repeats  uint64
	readings uint64 // distinct
	gaps     []pack.Gap
	wrong    []string // what was wrong, in plain words
	wrongs   int      // also those that did not fit
}

// tally is of one channel.
type tally struct {
	delivered uint64
	skipped   uint64 // served between two delivered values, and not delivered
}

// maxWrong bounds what is remembered word by word.
const maxWrong = 20

func newAccount(tolerance map[string]float64) *account {
	return &account{tolerance: tolerance, served: map[string][]float64{}, total: map[string]uint64{}, next: 1, early: map[uint64]pack.Reading{}, channels: map[string]*tally{}}
}

// serve notes a value on its way to the gateway.
func (a *account) serve(channel string, v float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.served[channel] = append(a.served[channel], v)
	a.total[channel]++
}

// totals are how many values were served so far, by channel.
func (a *account) totals() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.total)
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
	t := a.channels[r.Channel]
	if t == nil {
		t = &tally{}
		a.channels[r.Channel] = t
	}
	if r.Quality != drivers.Good {
		a.complain("reading %d of %s has quality %s, not good", r.Seq, r.Channel, r.Quality)
	}
	queue := a.served[r.Channel]
	for i, v := range queue {
		if math.Abs(v-r.Value) <= a.tolerance[r.Channel]+1e-9*math.Abs(v) {
			if t.delivered > 0 {
				t.skipped += uint64(i)
			}
			t.delivered++
			a.served[r.Channel] = queue[i+1:]
			return
		}
	}
	t.delivered++
	a.complain("reading %d of %s is %g: no value that was served since the one delivered before it", r.Seq, r.Channel, r.Value)
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
	recorded  uint64            // sequence numbers given
	delivered uint64            // readings whose outcome is delivered
	sensors   map[string]uint64 // readings recorded by each sensor, at least
	errors    map[string]uint64 // failed polls of each sensor
	others    map[string]uint64 // requests to each sensor that were no polls: homeward check reads without recording
}

// verify says what is wrong, in plain words; nothing if every reading arrived. complete are the channels of
// which each value served must have been delivered, but for those of failed polls and of other requests; all
// are the channels that must have brought something.
func (a *account) verify(c claims, all, complete []string) (wrong []string) {
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
		t := a.channels[name]
		if t == nil {
			say("nothing of %s was delivered", name)
			continue
		}
		sensor, _, _ := strings.Cut(name, "/")
		sensors[sensor] += t.delivered
	}
	for name, n := range c.sensors {
		if sensors[name] < n {
			say("%s: the gateway recorded at least %d readings, %d were delivered", name, n, sensors[name])
		}
	}
	var sum uint64
	for name, t := range a.channels {
		sensor, _, _ := strings.Cut(name, "/")
		if _, known := sensors[sensor]; !known {
			say("%s is no channel of this site", name)
		}
		sum += t.delivered
	}
	if sum != got+beyond {
		say("%d readings by channel, %d by number", sum, got+beyond)
	}
	for _, name := range complete {
		sensor, _, _ := strings.Cut(name, "/")
		if t := a.channels[name]; t != nil && t.skipped > c.errors[sensor]+c.others[sensor] {
			say("%s: %d values between delivered ones are missing; the gateway counted %d failed polls, and %d requests were no polls", name, t.skipped, c.errors[sensor], c.others[sensor])
		}
	}
	return wrong
}
