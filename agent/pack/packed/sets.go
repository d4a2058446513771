package packed

import (
	"math"
	"time"

	"homeward/agent/config"
	"homeward/agent/pack"
	"homeward/drivers"
)

// RadixOf is the alphabet that publish.encoding names; where it names none, [Text].
func RadixOf(encoding string) Radix {
	switch encoding {
	case "text85":
		return Safe
	case "binary":
		return Binary
	}
	return Text
}

// Sets are the configured channels as the sampler polls them.
func Sets(c *config.Config) (sets []Set) {
	for i := range c.Sensors {
		s := &c.Sensors[i]
		if s.Disabled || len(s.Channels) == 0 {
			continue
		}
		var steps []drivers.Step
		if o, ok := s.Options.(drivers.Stepper); ok {
			steps = o.Steps()
		}
		set := Set{Every: time.Duration(s.Every).Milliseconds(), Res: time.Duration(s.TimeResolution).Milliseconds()}
		for n, ch := range s.Channels {
			h := Hint{Name: s.Full(ch.Name)}
			if ch.Unit != nil {
				h.Unit = string(*ch.Unit)
			}
			var step drivers.Step
			if n < len(steps) {
				step = steps[n]
			}
			h.Exact = lattice(step)
			if r := drivers.NewReducer(&ch); r.Resolution() > 0 && !r.Holds(step) { // rounding, not the instrument, says where values lie
				if h.Exact = lattice(r.Step()); h.Exact == nil {
					h.Exact = &Channel{Step: r.Resolution()}
				}
			}
			set.Channels = append(set.Channels, h)
		}
		sets = append(sets, set)
	}
	if c.Operations.AtLimit == "thin" {
		for _, set := range sets[:len(sets):len(sets)] {
			sets = append(sets, aggregates(set))
		}
	}
	return sets
}

// aggregates are what stands for a set's readings where the budget does not carry them; the names are [pack.Aggregates]'s.
func aggregates(set Set) (a Set) {
	for _, h := range set.Channels {
		low, mean, high := pack.Aggregates(h.Name)
		a.Channels = append(a.Channels, Hint{Name: low, Unit: h.Unit, Exact: h.Exact}, Hint{Name: mean, Unit: h.Unit}, Hint{Name: high, Unit: h.Unit, Exact: h.Exact})
	}
	return a
}

// lattice is how a step's values are numbered; nil if it is not known.
func lattice(s drivers.Step) *Channel {
	switch s.Times {
	case 0:
		return nil
	case 1:
		return &Channel{Div: math.Pow10(s.Places)}
	}
	return &Channel{Step: s.Times, Dec: &s.Places}
}
