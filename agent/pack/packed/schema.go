package packed

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// Schema says what the numbers of a payload mean. It is published once, as JSON; payloads name it by its id.
type Schema struct {
	Gateway  string    `json:"gw,omitempty"` // whose it is
	Epoch    uint32    `json:"e,omitempty"`
	ID       uint32    `json:"id"` // counted by the gateway within its epoch, from 1; never used twice
	Channels []Channel `json:"ch"`
	Groups   []Group   `json:"gr"`
	// Primers are payloads of this schema (radix 93) that every coder replays before its first: they cost nothing but
	// their transmission and tell what the channels are like.
	Primers []string `json:"primer,omitempty"`
}

// Channel says how a channel's values are numbered. A value is written as a whole number n and comes back as
//
//	n/Div                                     where Div is given
//	n*Step + Off                              otherwise
//	floor(n*Step + Off + 0.5) / 10^Dec        with Dec
//	the same, rounded to float32 first        with Float32: float32(n/Div), or of n*Step + Off; then Dec
//	the float32 whose bits are n              with Bits (ordered: the sign turned into a negative n)
//
// in IEEE 754 doubles, each operation rounded by itself. What does not lie there is corrected or written out; nothing is lost.
type Channel struct {
	Name    string  `json:"n"`
	Unit    string  `json:"u,omitempty"`
	Div     float64 `json:"div,omitempty"`
	Step    float64 `json:"step,omitempty"`
	Off     float64 `json:"off,omitempty"`
	Dec     *int    `json:"dec,omitempty"` // 0 to 15
	Float32 bool    `json:"f32,omitempty"`
	Bits    bool    `json:"bits,omitempty"`
	Linear  bool    `json:"lin,omitempty"`  // expected to go on as before, instead of staying
	Level   bool    `json:"lev,omitempty"`  // expected where it was on average lately
	Fixed   bool    `json:"fix,omitempty"`  // expected at Mean
	Mean    int64   `json:"mean,omitempty"` // where n is expected at first
	Spread  int     `json:"dev,omitempty"`  // how many bits twice the distance from there has, usually: 0 to 48
	Slots   int     `json:"sl,omitempty"`   // 2^Slots places for what its model learns: 4 to 12; 0: 2^11
	Parent  int     `json:"par,omitempty"`  // 1 + the place in ch of an earlier channel of the same group that tells about this one; 0 none
}

// Group is channels that are read together, in the order in which a poll has them.
type Group struct {
	Channels []int `json:"ch"`             // places in ch
	Res      int64 `json:"res"`            // ms: what nearly all times between two polls are a multiple of
	Every    int64 `json:"per"`            // the usual time between two polls, in Res
	Pull     int   `json:"pull,omitempty"` // what a poll's deviation from Every is expected to be: see the constants; 0 none
	Slots    int   `json:"sl,omitempty"`   // the same as a channel's, for its times
}

// What a group's next deviation may be like.
const (
	pullBefore = 1 + iota // the last but one: two polls take turns
	pullBack              // against those before, half of what is left of them
	pulls
)

// Bounds of a schema.
const (
	MaxChannels = 4096
	MaxGroups   = 1024
	MaxSchema   = 1 << 20 // bytes of its JSON
	maxPrimers  = 8
	maxSpread   = 48
	maxIndex    = 1 << 44 // of n
	minSlots    = 4       // bits
	maxSlots    = 12
	usualSlots  = 11      // where the schema does not say
	maxEvery    = 1 << 32 // ms
)

// ParseSchema reads and checks a schema.
func ParseSchema(text []byte) (*Schema, error) {
	if len(text) > MaxSchema {
		return nil, fmt.Errorf("packed: schema of %d bytes: want at most %d", len(text), MaxSchema)
	}
	s := &Schema{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("packed: schema: %w", err)
	}
	return s, s.check()
}

// Of says whether the schema is of these channels, read together in the same way.
func (s *Schema) Of(sets []Set) bool {
	return slices.EqualFunc(s.Groups, sets, func(g Group, set Set) bool {
		return slices.EqualFunc(g.Channels, set.Channels, func(at int, h Hint) bool {
			return s.Channels[at].Name == h.Name && s.Channels[at].Unit == h.Unit
		})
	})
}

// Text is the schema as it is published.
func (s *Schema) Text() []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // finite numbers and strings
	}
	return text
}

func (s *Schema) check() error {
	switch {
	case s.ID == 0:
		return fmt.Errorf("packed: schema: id 0: want 1 or more")
	case len(s.Channels) == 0 || len(s.Channels) > MaxChannels:
		return fmt.Errorf("packed: schema %d: %d channels: want 1 to %d", s.ID, len(s.Channels), MaxChannels)
	case len(s.Groups) == 0 || len(s.Groups) > MaxGroups:
		return fmt.Errorf("packed: schema %d: %d groups: want 1 to %d", s.ID, len(s.Groups), MaxGroups)
	case len(s.Primers) > maxPrimers:
		return fmt.Errorf("packed: schema %d: %d primers: want at most %d", s.ID, len(s.Primers), maxPrimers)
	}
	names := map[string]bool{}
	for i := range s.Channels {
		c := &s.Channels[i]
		if err := c.check(); err != nil {
			return fmt.Errorf("packed: schema %d: channel %q: %w", s.ID, c.Name, err)
		}
		if c.Name == "" || names[c.Name] {
			return fmt.Errorf("packed: schema %d: channel %q: want a name of its own", s.ID, c.Name)
		}
		names[c.Name] = true
	}
	seen := make([]bool, len(s.Channels))
	for i, g := range s.Groups {
		switch {
		case len(g.Channels) == 0:
			return fmt.Errorf("packed: schema %d: group %d has no channels", s.ID, i)
		case g.Res < 1 || g.Res > maxEvery:
			return fmt.Errorf("packed: schema %d: group %d: res %d: want 1 to 2^32 ms", s.ID, i, g.Res)
		case g.Every < 1 || g.Every > maxEvery/g.Res:
			return fmt.Errorf("packed: schema %d: group %d: per %d: want 1 to 2^32 ms in steps of %d", s.ID, i, g.Every, g.Res)
		}
		if g.Pull < 0 || g.Pull >= pulls {
			return fmt.Errorf("packed: schema %d: group %d: pull %d: want 0 to %d", s.ID, i, g.Pull, pulls-1)
		}
		if g.Slots != 0 && (g.Slots < minSlots || g.Slots > maxSlots) {
			return fmt.Errorf("packed: schema %d: group %d: sl %d: want %d to %d, or 0", s.ID, i, g.Slots, minSlots, maxSlots)
		}
		at := map[int]bool{}
		for _, c := range g.Channels {
			if c < 0 || c >= len(s.Channels) || seen[c] {
				return fmt.Errorf("packed: schema %d: group %d: channel %d: want the place of one that no group has yet", s.ID, i, c)
			}
			if p := s.Channels[c].Parent; p != 0 && !at[p-1] {
				return fmt.Errorf("packed: schema %d: channel %q: parent %d: want 1 + the place of an earlier one of its group, or 0", s.ID, s.Channels[c].Name, p)
			}
			seen[c], at[c] = true, true
		}
	}
	for i, ok := range seen {
		if !ok {
			return fmt.Errorf("packed: schema %d: channel %q is in no group", s.ID, s.Channels[i].Name)
		}
	}
	return nil
}

func (c *Channel) check() error {
	finite := func(v float64) bool { return v == v && math.Abs(v) < 1e300 }
	switch {
	case !finite(c.Div) || !finite(c.Step) || !finite(c.Off):
		return fmt.Errorf("div %g, step %g, off %g: want finite numbers", c.Div, c.Step, c.Off)
	case !c.Bits && (c.Div < 0 || c.Step < 0 || (c.Div == 0) == (c.Step == 0)):
		return fmt.Errorf("div %g, step %g: want one of them above 0", c.Div, c.Step)
	case c.Div != 0 && c.Dec != nil && !c.Float32:
		return fmt.Errorf("dec with div: want f32 as well, or step")
	case c.Dec != nil && (*c.Dec < 0 || *c.Dec > 15):
		return fmt.Errorf("dec %d: want 0 to 15", *c.Dec)
	case c.Spread < 0 || c.Spread > maxSpread:
		return fmt.Errorf("dev %d: want 0 to %d", c.Spread, maxSpread)
	case c.Slots != 0 && (c.Slots < minSlots || c.Slots > maxSlots):
		return fmt.Errorf("sl %d: want %d to %d, or 0", c.Slots, minSlots, maxSlots)
	case c.Mean > maxIndex || c.Mean < -maxIndex:
		return fmt.Errorf("mean %d: want at most 2^44", c.Mean)
	}
	return nil
}

var pow10 = [16]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// value is what n stands for, moved by corr: units of 10^-Dec, or steps from one double to the next.
func (c *Channel) value(n, corr int64) float64 {
	var x float64
	switch {
	case c.Bits:
		return fromOrder(order(float64(fromOrder32(n))) + corr)
	case c.Div != 0:
		x = float64(n) / c.Div
	default:
		x = float64(float64(n)*c.Step) + c.Off
	}
	if c.Float32 {
		x = float64(float32(x))
		if c.Dec != nil {
			x = float64(x * pow10[*c.Dec])
		}
	}
	if c.Dec != nil {
		return (math.Floor(x+0.5) + float64(corr)) / pow10[*c.Dec]
	}
	return fromOrder(order(x) + corr)
}

// index is the n and the correction that give v; false if there is none.
func (c *Channel) index(v float64) (n, corr int64, ok bool) {
	var x float64
	switch {
	case c.Bits:
		x = float64(order32(float32(v)))
	case c.Div != 0:
		x = v * c.Div
	case c.Dec != nil && !c.Float32:
		x = (float64(v*pow10[*c.Dec]) - c.Off) / c.Step // float64: not fused
	default:
		x = (v - c.Off) / c.Step
	}
	if !(math.Abs(x) < maxIndex) {
		return 0, 0, false
	}
	n = int64(math.Round(x))
	w := c.value(n, 0)
	switch {
	case w == v && math.Signbit(w) == math.Signbit(v):
		return n, 0, true
	case c.Dec != nil:
		corr = int64(math.Round(float64((v - w) * pow10[*c.Dec])))
	default:
		corr = order(v) - order(w)
	}
	if corr < -maxCorrection || corr > maxCorrection {
		return n, 0, false
	}
	w = c.value(n, corr)
	return n, corr, w == v && math.Signbit(w) == math.Signbit(v)
}

const maxCorrection = 100

// order numbers the doubles by their size.
func order(v float64) int64 {
	b := int64(math.Float64bits(v))
	if b < 0 {
		return math.MinInt64 - b
	}
	return b
}

func fromOrder(n int64) float64 {
	if n < 0 {
		n = math.MinInt64 - n
	}
	return math.Float64frombits(uint64(n))
}

func order32(v float32) int64 {
	b := int32(math.Float32bits(v))
	if b < 0 {
		return int64(math.MinInt32) - int64(b)
	}
	return int64(b)
}

func fromOrder32(n int64) float32 {
	if n < 0 {
		n = math.MinInt32 - n
	}
	return math.Float32frombits(uint32(n))
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func floorDiv(a, b int64) (quotient, rest int64) {
	quotient, rest = a/b, a%b
	if rest < 0 {
		quotient, rest = quotient-1, rest+b
	}
	return quotient, rest
}

func size(v uint64) int { return bits.Len64(v) }
