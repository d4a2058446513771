package ledger

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"text/tabwriter"
	"time"

	"homeward/agent/config"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/drivers"
)

// Cost is how many data operations a payload counts for: one per started 1,024 bytes, the
// strictest rule in use (Particle, "Data operations", docs.particle.io). Where a home
// counts messages whatever their size, it is too many for payloads above 1,024 bytes.
func Cost(bytes int) int { return max(1, (bytes+1023)/1024) }

// Days is the month that a plan is made for, the longest.
const Days = 31

// A block is what Particle's Basic plan is sold in (docs.particle.io, "Migrating to the Basic plan"; list price
// of 2026). It is used up as soon as one of the three is.
const (
	BlockOperations = 720_000 // a month, pooled over all devices
	BlockDevices    = 100
	BlockMegabytes  = 540 // of cellular data a month
	BlockDollars    = 299 // US$ a month
)

// PlanOptions say what to plan for.
type PlanOptions struct {
	Devices int  // gateways like this one; 0 is 1
	Prices  bool // with the price of the blocks
}

// Forecast is the month ahead of one gateway, all sensors well and the home always reached.
type Forecast struct {
	Days       int      `json:"days"`
	Gateways   int      `json:"gateways"`
	Readings   float64  `json:"readings"`          // of one gateway
	Operations float64  `json:"operations"`        // of one gateway with the configured format
	Budget     int64    `json:"budget,omitempty"`  // operations.per_month
	Percent    *float64 `json:"percent,omitempty"` // of the budget
	Formats    []Format `json:"formats"`
	OneByOne   Format   `json:"one_publish_per_reading"`
	Blocks     Blocks   `json:"blocks"`
}

// Format is what one way of publishing brings.
type Format struct {
	Name               string  `json:"name"`
	ReadingsPerPayload float64 `json:"readings_per_payload"`
	BytesPerPayload    float64 `json:"bytes_per_payload"`
	Payloads           float64 `json:"payloads"`
	Operations         float64 `json:"operations"`
	// What decides when a payload leaves is whichever comes first.
	PayloadsIfFull  float64 `json:"payloads_if_only_full,omitempty"` // each filled up to publish.max_bytes
	PayloadsByAge   float64 `json:"payloads_if_only_age,omitempty"`  // each after publish.max_age, whatever its size
	LimitedBy       string  `json:"limited_by,omitempty"`            // full or age: what made most of them leave
	FullAfterS      float64 `json:"full_after_s,omitempty"`          // how long it takes to fill one
	MaxAgeS         float64 `json:"max_age_s,omitempty"`
	ReadingsIfFull  float64 `json:"readings_per_full_payload,omitempty"`
	PercentOfSingle float64 `json:"percent_of_one_publish_per_reading,omitempty"` // operations
}

// Blocks is what all gateways together need.
type Blocks struct {
	Operations      float64  `json:"operations"`
	Blocks          int      `json:"blocks"`
	OneByOne        int      `json:"blocks_with_one_publish_per_reading"`
	Megabytes       float64  `json:"payload_megabytes"`
	Cellular        int      `json:"blocks_over_cellular"` // as Blocks, and for the payloads' megabytes
	Dollars         *float64 `json:"us_dollars_a_month,omitempty"`
	DollarsOneByOne *float64 `json:"us_dollars_a_month_with_one_publish_per_reading,omitempty"`
}

// Plan forecasts a month of 31 days: it lets the configuration's sensors poll made-up values of four to five
// digits and packs them as the gateway does. What a dead-band or on_change leaves out, and what
// alarms, faults and the backlog after an outage add, is not in it; nor are the home's own
// messages (status, proof), which carry no reading.
func Plan(c *config.Config, o PlanOptions) (*Forecast, error) {
	const seconds = Days * 24 * 3600
	f := &Forecast{Days: Days, Gateways: max(o.Devices, 1), Budget: c.Operations.PerMonth}
	perSecond, polls := 0.0, 0.0
	for i := range c.Sensors {
		if s := &c.Sensors[i]; !s.Disabled {
			perSecond += float64(len(s.Channels)) / time.Duration(s.Every).Seconds()
			polls += seconds / time.Duration(s.Every).Seconds()
		}
	}
	f.Readings = perSecond * seconds
	f.OneByOne = Format{Name: "one publish per reading", ReadingsPerPayload: 1, Payloads: f.Readings, Operations: f.Readings}
	if perSecond > 0 {
		f.OneByOne.BytesPerPayload = pollOneByOne(c)
	}
	var chosen Format
	for _, name := range formats {
		format := Format{Name: name, MaxAgeS: time.Duration(c.Publish.MaxAge).Seconds()}
		if perSecond > 0 {
			if err := format.fill(c, f, perSecond, polls); err != nil && name != c.Publish.Format {
				continue // names that are too long for it, or not allowed in it
			} else if err != nil {
				return nil, err
			}
		}
		f.Formats = append(f.Formats, format)
		if name == c.Publish.Format {
			chosen = format
		}
	}
	f.Operations = chosen.Operations
	if f.Budget > 0 {
		percent := 100 * f.Operations / float64(f.Budget)
		f.Percent = &percent
	}
	n := float64(f.Gateways)
	f.Blocks = Blocks{Operations: n * f.Operations, Blocks: blocks(n, n*f.Operations), OneByOne: blocks(n, n*f.OneByOne.Operations)}
	f.Blocks.Megabytes = n * chosen.Payloads * chosen.BytesPerPayload / 1e6
	f.Blocks.Cellular = max(f.Blocks.Blocks, int(math.Ceil(f.Blocks.Megabytes/BlockMegabytes)))
	if o.Prices {
		now, single := float64(f.Blocks.Blocks*BlockDollars), float64(f.Blocks.OneByOne*BlockDollars)
		f.Blocks.Dollars, f.Blocks.DollarsOneByOne = &now, &single
	}
	return f, nil
}

// formats are those that a gateway publishes with.
var formats = []string{pack.FormatRows, pack.FormatPacked, pack.FormatSenML}

// writers make payloads of a format: for packed with a schema that has seen some payloads of these sensors, as a gateway's has
// after a while.
func writers(c *config.Config, format string) (func() pack.Writer, error) {
	if format != pack.FormatPacked {
		return func() pack.Writer { return pack.New(format, header(c), int(c.Publish.MaxBytes)) }, nil
	}
	world := newWorld(c)
	var seen []pack.Poll
	for n := 0; n < packedTraining && len(world.sensors) > 0; {
		_, p := world.next()
		seen, n = append(seen, p), n+len(p.Readings)
	}
	coder, err := packed.Train(1000, packed.Sets(c), seen, 2)
	if err != nil {
		return nil, err
	}
	return func() pack.Writer {
		return coder.NewWriter(header(c), packed.RadixOf(c.Publish.Encoding), false, int(c.Publish.MaxBytes))
	}, nil
}

// packedTraining is how many made-up readings a packed plan's schema has seen.
const packedTraining = 4000

// fill forecasts one format.
func (x *Format) fill(c *config.Config, f *Forecast, perSecond, polls float64) error {
	const seconds = Days * 24 * 3600
	aged, err := simulate(c, x.Name, time.Duration(c.Publish.MaxAge))
	if err != nil {
		return err
	}
	full, err := simulate(c, x.Name, math.MaxInt64)
	if err != nil {
		return err
	}
	x.ReadingsPerPayload = aged.readings / aged.payloads
	x.BytesPerPayload = aged.bytes / aged.payloads
	x.Payloads = f.Readings / x.ReadingsPerPayload
	x.Operations = x.Payloads * aged.cost / aged.payloads
	x.ReadingsIfFull = full.readings / full.payloads
	x.PayloadsIfFull = f.Readings / x.ReadingsIfFull
	x.FullAfterS = x.ReadingsIfFull / perSecond
	x.PayloadsByAge = min(seconds/x.MaxAgeS, polls) // each begins with a poll
	x.LimitedBy = "age"
	if aged.full*2 > aged.payloads {
		x.LimitedBy = "full"
	}
	x.PercentOfSingle = 100 * x.Operations / f.OneByOne.Operations
	return nil
}

func blocks(gateways, operations float64) int {
	return int(max(math.Ceil(gateways/BlockDevices), math.Ceil(operations/BlockOperations)))
}

// The header of made-up payloads: numbers as long as those of a gateway that has run for a year.
func header(c *config.Config) pack.Header {
	return pack.Header{Gateway: c.Gateway, Epoch: 1_000_000_000, First: 100_000_000}
}

const startTime = int64(1_800_000_000_000) // Unix ms

// tally is what a simulation counted.
type tally struct{ payloads, full, readings, bytes, cost float64 }

// The bounds of a simulation; beyond, the mean no longer moves.
const (
	maxPayloads = 40
	maxPacked   = 10 // of packed ones, which hold many times as much
	maxPolls    = 200_000
)

// simulate polls the sensors and packs the polls until enough payloads have left.
func simulate(c *config.Config, format string, maxAge time.Duration) (tally, error) {
	world := newWorld(c)
	fresh, err := writers(c, format)
	if err != nil {
		return tally{}, err
	}
	var t tally
	type taken struct {
		at time.Duration
		p  pack.Poll
	}
	var inside []taken // the polls of the payload being filled
	rows := fresh()
	var take func(at time.Duration, p pack.Poll) error
	depart := func(full bool) error {
		payload, n := rows.Close()
		t.payloads++
		if full {
			t.full++
		}
		t.readings += float64(n)
		t.bytes += float64(len(payload))
		t.cost += float64(Cost(len(payload)))
		rest := inside
		for ; n > 0 && len(rest) > 0; rest = rest[1:] {
			if k := len(rest[0].p.Readings); n < k {
				rest[0].p.Readings = rest[0].p.Readings[n:]
				break
			} else {
				n -= k
			}
		}
		rows, inside = fresh(), nil
		for _, x := range rest { // taken, and did not fit after all
			if err := take(x.at, x.p); err != nil {
				return err
			}
		}
		return nil
	}
	take = func(at time.Duration, p pack.Poll) error {
		for !rows.Add(p) {
			if rows.Len() == 0 { // too large for one payload: split by channels
				n := rows.AddPart(p)
				if n == 0 {
					return fmt.Errorf("ledger: a reading of %s does not fit into a payload of %d bytes: raise publish.max_bytes, or shorten its name", p.Readings[0].Channel, c.Publish.MaxBytes)
				}
				inside = append(inside, taken{at, pack.Poll{Time: p.Time, Readings: p.Readings[:n]}})
				p.Readings = p.Readings[n:]
			}
			if err := depart(true); err != nil {
				return err
			}
		}
		inside = append(inside, taken{at, p})
		return nil
	}
	for range maxPolls {
		at, p := world.next()
		if len(inside) > 0 && at-inside[0].at >= maxAge {
			if err := depart(false); err != nil {
				return tally{}, err
			}
		}
		if t.payloads >= maxPayloads || format == pack.FormatPacked && t.payloads >= maxPacked {
			return t, nil
		}
		if err := take(at, p); err != nil {
			return tally{}, err
		}
	}
	if t.payloads == 0 { // so many fit that none was full
		return t, depart(false)
	}
	return t, nil
}

// pollOneByOne is the mean size of payloads that hold one reading each.
func pollOneByOne(c *config.Config) float64 {
	world := newWorld(c)
	n, bytes := 0, 0
	for n < 1000 {
		_, p := world.next()
		for _, r := range p.Readings {
			rows := pack.New(c.Publish.Format, header(c), math.MaxInt) // packed: as alarms go, in rows
			rows.Add(pack.Poll{Time: p.Time, Readings: []drivers.Reading{r}})
			bytes += rows.Size()
			n++
		}
	}
	return float64(bytes) / float64(n)
}

// world is the sensors of a configuration with made-up values.
type world struct {
	sensors []*source
	random  *rand.Rand
}

type source struct {
	every, due time.Duration
	readings   []drivers.Reading
}

func newWorld(c *config.Config) *world {
	w := &world{random: rand.New(rand.NewPCG(1, 2))} // the same month every time
	for i := range c.Sensors {
		s := &c.Sensors[i]
		if s.Disabled || len(s.Channels) == 0 {
			continue
		}
		src := &source{every: time.Duration(s.Every)}
		src.due = time.Duration(w.random.Int64N(int64(min(src.every, time.Second))))
		for _, ch := range s.Channels {
			r := drivers.Reading{Channel: s.Full(ch.Name), Value: float64(1000 + w.random.IntN(9000))}
			if ch.Unit != nil {
				r.Unit = *ch.Unit
			}
			src.readings = append(src.readings, r)
		}
		w.sensors = append(w.sensors, src)
	}
	return w
}

// next is the poll that comes next. Values wander in steps of a hundredth.
func (w *world) next() (time.Duration, pack.Poll) {
	s := w.sensors[0]
	for _, x := range w.sensors {
		if x.due < s.due {
			s = x
		}
	}
	at := s.due
	s.due += s.every
	p := pack.Poll{Time: startTime + at.Milliseconds(), Readings: make([]drivers.Reading, len(s.readings))}
	for i := range s.readings {
		s.readings[i].Value += float64(w.random.IntN(7) - 3) // in hundredths
		p.Readings[i] = s.readings[i]
		p.Readings[i].Value /= 100
	}
	return at, p
}

// Print writes the forecast as a table.
func (f *Forecast) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	p := func(format string, args ...any) { fmt.Fprintf(w, format, args...) }
	p("\treadings\tper payload\tbytes\tpayloads\toperations\t\n")
	for _, x := range append(f.Formats, f.OneByOne) {
		p("%s\t%s\t%.1f\t%.0f\t%s\t%s\t\n", x.Name, count(f.Readings), x.ReadingsPerPayload, x.BytesPerPayload, count(x.Payloads), count(x.Operations))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var text []byte
	say := func(format string, args ...any) { text = fmt.Appendf(text, format+"\n", args...) }
	say("")
	say("A month of %d days of one gateway, every sensor answering and the home always reached.", f.Days)
	for _, x := range f.Formats {
		if x.LimitedBy == "" {
			continue
		}
		say("%s: a payload is full after %s (%.1f readings, %s payloads a month) and leaves after %s at the latest (%s payloads a month).",
			x.Name, span(x.FullAfterS), x.ReadingsIfFull, count(x.PayloadsIfFull), span(x.MaxAgeS), count(x.PayloadsByAge))
		if x.LimitedBy == "age" {
			say("%s: most leave before they are full: a longer publish.max_age saves operations.", x.Name)
		} else {
			say("%s: most leave full: a longer publish.max_age would save nothing.", x.Name)
		}
		say("%s: %.1f %% of the operations of one publish per reading.", x.Name, x.PercentOfSingle)
	}
	if f.Percent != nil {
		say("Budget: %s of %s operations, %.1f %%.", count(f.Operations), count(float64(f.Budget)), *f.Percent)
	}
	say("%s: %s operations, %s of %s operations and %d devices a month; with one publish per reading %s.",
		many(f.Gateways, "gateway"), count(f.Blocks.Operations), many(f.Blocks.Blocks, "block"), count(BlockOperations), BlockDevices, many(f.Blocks.OneByOne, "block"))
	say("Over cellular data that is part of a block (%d MB), %s: the payloads are %.1f MB.", BlockMegabytes, many(f.Blocks.Cellular, "block"), f.Blocks.Megabytes)
	if f.Blocks.Dollars != nil {
		say("At US$%d a block (Particle's Basic plan, list price of 2026): US$%s a month; with one publish per reading US$%s.",
			BlockDollars, count(*f.Blocks.Dollars), count(*f.Blocks.DollarsOneByOne))
	}
	say("An operation is counted per started 1,024 bytes. Not counted: alarms, repeats, a backlog, status messages; what deadband and on_change leave out.")
	_, err := out.Write(text)
	return err
}

// count writes a whole number with its thousands apart.
func count(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func many(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return count(float64(n)) + " " + what
}

func span(seconds float64) string {
	d := time.Duration(min(seconds, 1e9) * float64(time.Second))
	if d > time.Minute {
		return config.Duration(d.Round(time.Second)).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
