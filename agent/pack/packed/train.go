package packed

import (
	"context"
	"math"
	"slices"

	"homeward/agent/pack"
	"homeward/drivers"
)

// lattices proposes how a channel's values may be numbered, the plainest first.
func lattices(values []float64) []Channel {
	var extra []Channel
	single := 0
	for _, v := range values {
		single += flag(float64(float32(v)) == v)
	}
	if single*20 > len(values)*19 {
		for d := range 7 {
			hit := 0
			for _, v := range values {
				hit += flag(float64(float32(math.Round(v*pow10[d])/pow10[d])) == v)
			}
			if hit*20 > len(values)*19 {
				extra = append(extra, Channel{Div: pow10[d], Float32: true})
				break
			}
		}
		extra = append(extra, Channel{Bits: true})
	}
	return append(plain(values), extra...)
}

func plain(values []float64) []Channel {
	dec := decimals(values)
	if dec < 0 {
		return []Channel{{Div: 1}}
	}
	out := []Channel{{Div: pow10[dec]}}
	// whole steps of the decimal
	ms := map[int64]bool{}
	for _, v := range values {
		if math.Abs(v) < 1e15/pow10[dec] {
			ms[int64(math.Round(v*pow10[dec]))] = true
		}
	}
	if len(ms) < 3 {
		return out
	}
	distinct := make([]int64, 0, len(ms))
	for m := range ms {
		distinct = append(distinct, m)
	}
	slices.Sort(distinct)
	g := int64(0)
	for i := 1; i < len(distinct); i++ {
		g = gcd(g, distinct[i]-distinct[i-1])
	}
	if g > 1 {
		off := distinct[0] % g
		if off == 0 && math.Mod(pow10[dec], float64(g)) == 0 {
			out = append(out, Channel{Div: pow10[dec] / float64(g)})
		} else {
			out = append(out, Channel{Step: float64(g), Off: float64(off), Dec: &dec})
		}
	}
	for _, tol := range []float64{0.5, 1.2, 8} {
		for _, c := range hidden(distinct, tol) {
			c.Dec = &dec
			out = append(out, c)
		}
	}
	return out
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// decimals that nearly all values have, those with float noise not counted.
func decimals(values []float64) int {
	best, bestCost := -1, math.Inf(1)
	for d := range 13 {
		miss := 0
		for _, v := range values {
			w := math.Round(v*pow10[d]) / pow10[d]
			if u := order(v) - order(w); u > 20 || u < -20 {
				miss++
			}
		}
		cost := float64(d)*3.3*float64(len(values)) + float64(miss)*64
		if cost < bestCost && miss < len(values)/2+1 {
			best, bestCost = d, cost
		}
	}
	return best
}

// hidden finds the step that all values lie on but for tol.
func hidden(m []int64, tol float64) []Channel {
	best := int64(math.MaxInt64)
	for i := 1; i < len(m); i++ {
		if d := m[i] - m[i-1]; float64(d) > 2*tol {
			best = min(best, d)
		}
	}
	if best == math.MaxInt64 {
		return nil
	}
	lo, hi := float64(best)-2*tol, float64(best)+2*tol
	if lo <= 0 {
		lo = 0.5
	}
	// refine over growing spans
	for span := 1; span < len(m); span++ {
		changed := false
		for i := 0; i+span < len(m); i++ {
			d := float64(m[i+span] - m[i])
			mid := (lo + hi) / 2
			k := math.Round(d / mid)
			if k < 1 {
				if d > 2*tol {
					return nil
				}
				continue
			}
			// ambiguous k: wait
			if (hi-lo)*k > mid {
				continue
			}
			l, h := (d-2*tol)/k, (d+2*tol)/k
			if l > hi || h < lo {
				return nil
			}
			if l > lo {
				lo, changed = l, true
			}
			if h < hi {
				hi, changed = h, true
			}
		}
		if !changed && span > 8 && span > len(m)/4 {
			break
		}
	}
	return fit(m, tol, simplest(lo, hi)+0, (lo+hi)/2)
}

func fit(m []int64, tol float64, steps ...float64) (out []Channel) {
	for _, step := range steps {
		if step <= 1 {
			continue
		}
		off := offset(m, tol, step)
		out = append(out, Channel{Step: step, Off: off})
	}
	return out
}

func offset(m []int64, tol, step float64) float64 {
	// the offset
	olo, ohi := math.Inf(-1), math.Inf(1)
	for _, v := range m {
		x := float64(v-m[0]) / step
		r := float64(v-m[0]) - math.Round(x)*step
		olo, ohi = max(olo, r-tol), min(ohi, r+tol)
	}
	if olo > ohi {
		olo, ohi = 0, 0
	}
	base := float64(m[0])
	k := math.Round(base / step)
	offLo, offHi := base+olo-k*step, base+ohi-k*step
	if offLo <= 0 && offHi >= 0 {
		return 0
	}
	return simplestSigned(offLo, offHi)
}

func simplestSigned(lo, hi float64) float64 {
	switch {
	case lo <= 0 && hi >= 0:
		return 0
	case hi < 0:
		return -simplest(-hi, -lo)
	}
	return simplest(lo, hi)
}

// simplest is the fraction with the smallest denominator in [lo, hi], both positive.
func simplest(lo, hi float64) float64 {
	p, q := simplestPQ(lo, hi, 20)
	return p / q
}

func simplestPQ(lo, hi float64, depth int) (p, q float64) {
	f := math.Floor(lo)
	if f == lo || depth == 0 {
		return f, 1
	}
	if f+1 <= hi {
		return f + 1, 1
	}
	a, b := simplestPQ(1/(hi-f), 1/(lo-f), depth-1)
	return f*a + b, a
}

// Hint is what is known of a channel before any value is.
type Hint struct {
	Name  string
	Unit  string
	Exact *Channel // how the values come about, such as Step 0.1 for a register with a scale; nil unknown
}

// Set is channels that are read together.
type Set struct {
	Channels []Hint
	Every    int64 // ms: the usual time between two polls; 0 unknown
	Res      int64 // ms: what times are a multiple of; 0 unknown
}

// primerSize is the size of primers, in bytes.
const primerSize = 1024

// trialLength bounds how many polls of a group are tried.
const trialLength = 1500

// linearGain is what going on as before must win to be believed: a night says little of the day.
const linearGain = 1.06

// levelGain is the same for an average.
const levelGain = 1.01

// pullGain is the same for how a group's times are expected.
const pullGain = 1.01

// Train makes a schema from what is known of the channels and from polls as they came, which may be none. The polls'
// last payloads become its primers: as many as primers says.
func Train(id uint32, sets []Set, polls []pack.Poll, primers int) (*Coder, error) {
	return TrainContext(context.Background(), id, sets, polls, primers)
}

// TrainContext is [Train], which takes seconds on a small processor and ends early with ctx.
func TrainContext(ctx context.Context, id uint32, sets []Set, polls []pack.Poll, primers int) (*Coder, error) {
	s := &Schema{ID: id}
	for _, set := range sets {
		g := Group{Res: max(set.Res, 1)}
		g.Every = min(max(1, set.Every/g.Res), maxEvery/g.Res)
		for _, h := range set.Channels {
			c := Channel{Div: 1}
			if h.Exact != nil {
				c = *h.Exact
			}
			c.Name, c.Unit = h.Name, h.Unit
			g.Channels = append(g.Channels, len(s.Channels))
			s.Channels = append(s.Channels, c)
		}
		s.Groups = append(s.Groups, g)
	}
	c, err := New(s)
	if err != nil || len(polls) == 0 {
		return c, err
	}
	records := make([][]record, len(s.Groups))
	var places []int
	for _, p := range polls {
		g, at, ok := c.locate(p, places[:0])
		places = at
		if !ok || len(at) < len(s.Groups[g].Channels) || slices.ContainsFunc(p.Readings, func(r drivers.Reading) bool { return r.Quality != drivers.Good }) {
			continue
		}
		r := record{group: g, time: p.Time, values: make([]float64, len(at))}
		for i := range p.Readings {
			r.values[i] = p.Readings[i].Value
		}
		records[g] = append(records[g], r)
	}
	for g := range s.Groups {
		if len(records[g]) >= 4 {
			if err := s.train(ctx, g, sets[g], records[g]); err != nil {
				return nil, err
			}
		}
	}
	if primers == 0 {
		return New(s)
	}
	known := slices.DeleteFunc(slices.Clone(polls), func(p pack.Poll) bool { return !c.Fits(p) })
	return s.prime(ctx, known, primers)
}

// prime gives the schema primers: full ones, that end as late as a few tries find.
func (s *Schema) prime(ctx context.Context, polls []pack.Poll, primers int) (best *Coder, err error) {
	found := 0 // where the best begin
	for start, try := 0, 0; try < 5 && start < len(polls); try++ {
		s := *s
		c, err := New(&s)
		if err != nil {
			return nil, err
		}
		rest := polls[start:]
		for len(s.Primers) < primers && len(rest) > 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			payload, left := c.one(rest, primerSize)
			if payload == nil || len(left) == 0 && best != nil {
				break
			}
			if err := c.prime(string(payload)); err != nil {
				return nil, err
			}
			s.Primers, rest = append(s.Primers, string(payload)), left
		}
		switch {
		case best == nil || len(s.Primers) == primers && len(rest) > 0:
			best, found = c, start
			start += len(rest) - len(rest)/64 // the next end about where the polls do
		default: // they end too early to be full
			start -= (start - found + 7) / 8
		}
		if start <= found {
			break
		}
	}
	if best == nil {
		return New(s)
	}
	return best, nil
}

// train fits a group.
func (s *Schema) train(ctx context.Context, g int, set Set, records []record) error {
	gr := &s.Groups[g]
	if set.Every == 0 {
		var steps []int64
		for i := 1; i < len(records); i++ {
			steps = append(steps, records[i].time-records[i-1].time)
		}
		if set.Res == 0 {
			gr.Res = 1
			for _, res := range []int64{60000, 1000, 100, 10} {
				miss := 0
				for _, d := range steps {
					miss += flag(d%res != 0)
				}
				if miss*50 <= len(steps) {
					gr.Res = res
					break
				}
			}
		}
		slices.Sort(steps)
		gr.Every = min(max(1, steps[len(steps)/2]/gr.Res), maxEvery/gr.Res)
	}
	records = records[max(0, len(records)-2*trialLength):]
	half := records[len(records)/2:]
	for i, at := range gr.Channels {
		if err := ctx.Err(); err != nil {
			return err
		}
		known := s.Channels[at]
		values := make([]float64, len(records))
		for j := range records {
			values[j] = records[j].values[i]
		}
		candidates := lattices(values)
		if set.Channels[i].Exact != nil {
			candidates = append([]Channel{known}, candidates...)
		}
		best, least := known, math.Inf(1)
		for _, c := range candidates {
			c.Name, c.Unit = known.Name, known.Unit
			for k := range 4 {
				c.Linear, c.Level, c.Fixed = k == 1, k == 2, k == 3
				c.Mean, c.Spread = c.middle(values)
				s.Channels[at] = c
				if c.Fixed { // what comes is not known yet
					s.Channels[at].Mean, _ = c.middle(values[:len(values)/2])
				}
				cost, _ := s.trial(gr, half, i)
				if c.Linear {
					cost *= linearGain
				} else if c.Level {
					cost *= levelGain
				}
				if cost < least*0.985 {
					best, least = c, cost
				}
			}
		}
		s.Channels[at] = best
		parent := 0
		for _, p := range gr.Channels[:i] {
			s.Channels[at].Parent = p + 1
			if cost, _ := s.trial(gr, half, i); cost < least*0.99 {
				parent, least = p+1, cost
			}
		}
		s.Channels[at].Parent = parent
		if parent == 0 && i > 0 {
			s.Channels[at].Parent = gr.Channels[i-1] + 1
		}
		_, used := s.trial(gr, half, i)
		s.Channels[at].Slots = room(used)
	}
	least := math.Inf(1)
	for pull := range pulls {
		try := *gr
		try.Pull = pull
		cost, used := try.trial(half)
		if pull > 0 {
			cost *= pullGain
		}
		if cost < least {
			least, gr.Pull, gr.Slots = cost, pull, room(used)
		}
	}
	return nil
}

// room is how many slots, in bits, are enough where a trial used so many: collisions stay rare.
func room(used int) int {
	return min(max(size(uint64(8*used)), minSlots), maxSlots)
}

// trialSlots is the size of a trial's model, in bits: larger than any that is used.
const trialSlots = 13

func used(slots []slot) (n int) {
	for _, s := range slots {
		n += flag(s&255 > 0)
	}
	return n
}

// trial is what the times of a group cost, in bits.
func (g *Group) trial(records []record) (cost float64, slots int) {
	m := newTrial(g)
	dry := coder{dry: true}
	for i := range records {
		r := record{time: records[i].time}
		m.time(&dry, &r, g, &m.streams[0])
	}
	return dry.spent, used(m.slots)
}

func newTrial(g *Group) *model {
	m := &model{streams: make([]stream, 1), clocks: make([]clock, 1)}
	m.slots = make([]slot, 1<<trialSlots)
	m.streams[0].slots, m.streams[0].shift = m.slots, 32-trialSlots
	m.streams[0].refined = &m.refined[0]
	m.refined[0].reset()
	m.streams[0].reset()
	return m
}

// middle is where a channel's numbers are, and how many bits their distance from there has.
func (c *Channel) middle(values []float64) (mean int64, spread int) {
	var ns []int64
	for _, v := range values {
		if n, _, ok := c.index(v); ok {
			ns = append(ns, n)
		}
	}
	if len(ns) == 0 {
		return 0, 0
	}
	slices.Sort(ns)
	mean = ns[len(ns)/2]
	for i, n := range ns {
		ns[i] = max(n-mean, mean-n)
	}
	slices.Sort(ns)
	return mean, min(size(uint64(2*ns[len(ns)*6/10])), maxSpread)
}

// trial is what channel i of a group costs, in bits.
func (s *Schema) trial(g *Group, records []record, i int) (cost float64, slots int) {
	var m model
	cs := stream{slots: make([]slot, 1<<trialSlots), shift: 32 - trialSlots}
	cs.refined = &refinements{}
	cs.refined.reset()
	cs.reset()
	dry := coder{dry: true}
	last := make([]int64, i)
	steps := make([]int64, i)
	for n := range records {
		var a around
		for j, at := range g.Channels[:i] {
			x, _, _ := s.Channels[at].index(records[n].values[j])
			if n == 0 {
				last[j] = x
			}
			steps[j], last[j] = x-last[j], x
			a.changed += uint32(flag(steps[j] != 0))
			if s.Channels[g.Channels[i]].Parent == at+1 {
				a.parent, a.step = x, steps[j]
			}
		}
		v := records[n].values[i]
		m.value(&dry, &v, &s.Channels[g.Channels[i]], &cs, &a)
	}
	return dry.spent, used(cs.slots)
}
