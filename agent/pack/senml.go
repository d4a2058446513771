package pack

import (
	"math"
	"strconv"

	"homeward/drivers"
)

// SenML fills one payload of the format senml: RFC 8428 §5, JSON; docs/payload.md draws it. The zero value is not
// usable; see [NewSenML].
//
// What the standard has no label for stands in members of our own, which whoever does not know them passes over
// (§4.4: only labels that end in _ must be understood).
type SenML struct {
	max       int
	in        measure
	fixed     int    // what head and the brackets count
	head      []byte // the first record's base members
	body      []byte // all records; the first one continues after head
	counted   int    // what body counts
	n         int    // readings
	records   int
	base      int64 // Unix ms; valid if based
	based     bool
	secondary bool // a secondary unit was used

	scratch []byte
}

// The members beyond RFC 8428, all of the first record or of their own one.
const (
	senmlEpoch   = "hwe" // the epoch
	senmlFirst   = "hws" // the sequence number of the first reading
	senmlQuality = "hwq" // quality, where it is not good
	senmlTime    = "hwt" // Unix ms, where the standard cannot tell the time: before absoluteTime
	senmlGap     = "hwg" // a gap record, as rows has it
)

// senmlGapName is the name of gap records below the gateway's; a channel's has a slash.
const senmlGapName = "gap"

// absoluteTime is the least time that is not relative to the present: 2^28 s (RFC 8428 §4.5.3), in ms. A clock that was never
// set is before it.
const absoluteTime = (1 << 28) * 1000

// Versions: RFC 8428's own, and with the feature Secondary Units, 2^4 (RFC 9100 §2 and §4.1).
const (
	senmlVersion   = 10
	senmlSecondary = senmlVersion + 1<<4
)

const senmlVersionText = `"bver":26,`

// NewSenML begins a payload of at most max bytes.
func NewSenML(h Header, max int) *SenML { return newSenML(h, max, plain) }

func newSenML(h Header, max int, in measure) *SenML {
	p := &SenML{max: max, in: in}
	p.head = appendString(append(p.head, `"bn":`...), h.Gateway+"/")
	p.head = strconv.AppendUint(append(p.head, `,"`+senmlEpoch+`":`...), uint64(h.Epoch), 10)
	p.head = strconv.AppendUint(append(p.head, `,"`+senmlFirst+`":`...), h.First, 10)
	p.fixed = len(`[{`) + in.bytes(p.head) + len(`]`)
	return p
}

// Len is the number of readings so far.
func (p *SenML) Len() int { return p.n }

// Size is the number of bytes of the payload so far, exactly.
func (p *SenML) Size() int { return p.size(p.counted, p.secondary) }

func (p *SenML) size(body int, secondary bool) int {
	n := p.fixed + body
	if body == 0 {
		n += len(`}`)
	}
	if secondary {
		n += p.in.text(senmlVersionText)
	}
	return n
}

// Full says that no poll can be added any more, however short. It is a hint, as with [Rows.Full].
func (p *SenML) Full() bool { return p.n > 0 && p.Size()+p.in.text(`,{"n":"a/b","v":0}`) > p.max }

// Add takes a whole poll. False: it does not fit, and nothing has changed. A poll with
// a value that is not a finite number fits nowhere.
func (p *SenML) Add(poll Poll) bool { return p.add(poll, true) == len(poll.Readings) }

// AddPart is [Rows.AddPart].
func (p *SenML) AddPart(poll Poll) int { return p.add(poll, false) }

// add takes the longest prefix of a poll that fits; with whole, all of it or nothing. It returns how many readings it took.
func (p *SenML) add(poll Poll, whole bool) int {
	base, based, secondary := p.base, p.based, p.secondary
	b, n, counted := p.scratch[:0], 0, p.counted
	for _, r := range poll.Readings {
		if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
			break
		}
		before, wasSecondary := len(b), secondary
		b = p.open(b, p.records+n == 0)
		if !based && poll.Time >= absoluteTime {
			base, based = poll.Time, true
			b = append(appendSeconds(append(b, `"bt":`...), base), ',')
		}
		b = appendString(append(b, `"n":`...), r.Channel)
		if r.Unit != "" {
			b = appendString(append(b, `,"u":`...), string(r.Unit))
			secondary = secondary || r.Unit.Secondary()
		}
		b = appendNumber(append(b, `,"v":`...), r.Value)
		b = appendSenMLTime(b, poll.Time, base)
		if r.Quality != drivers.Good {
			b = append(append(append(b, `,"`+senmlQuality+`":"`...), r.Quality.String()...), '"')
		}
		b = append(b, '}')
		more := p.in.bytes(b[before:])
		if p.size(counted+more, secondary) > p.max {
			b, secondary = b[:before], wasSecondary
			break
		}
		counted += more
		n++
	}
	p.scratch = b
	if n == 0 || whole && n < len(poll.Readings) {
		return 0
	}
	p.body, p.counted = append(p.body, b...), counted
	p.base, p.based, p.secondary = base, based, secondary
	p.n += n
	p.records += n
	return n
}

// open begins a record; the first one goes on after the base members.
func (p *SenML) open(b []byte, first bool) []byte {
	if first {
		return append(b, ',')
	}
	return append(b, `,{`...)
}

// appendSenMLTime writes t relative to base. What would be read as relative to the present is said to be about now, and
// exactly in a member of ours.
func appendSenMLTime(b []byte, t, base int64) []byte {
	relative := t - base
	if t < absoluteTime {
		relative = -base
	}
	if relative != 0 {
		b = appendSeconds(append(b, `,"t":`...), relative)
	}
	if t < absoluteTime {
		b = strconv.AppendInt(append(b, `,"`+senmlTime+`":`...), t, 10)
	}
	return b
}

// appendSeconds writes milliseconds as seconds, exactly.
func appendSeconds(b []byte, ms int64) []byte {
	if ms < 0 {
		b, ms = append(b, '-'), -ms
	}
	b = strconv.AppendInt(b, ms/1000, 10)
	if frac := ms % 1000; frac != 0 {
		b = append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
		for b[len(b)-1] == '0' {
			b = b[:len(b)-1]
		}
	}
	return b
}

// AddGap takes a gap record: the number of readings that will not come, and the whole of it in a member of ours. False: it does
// not fit, and nothing has changed.
func (p *SenML) AddGap(g Gap) bool {
	b := p.open(p.scratch[:0], p.records == 0)
	b = append(b, `"n":"`+senmlGapName+`","u":"count","v":`...)
	b = strconv.AppendUint(b, g.N, 10)
	if p.based { // about now
		b = appendSeconds(append(b, `,"t":`...), -p.base)
	}
	b = appendGap(append(b, `,"`+senmlGap+`":`...), g)
	b = append(b, '}')
	p.scratch = b
	more := p.in.bytes(b)
	if p.size(p.counted+more, p.secondary) > p.max {
		return false
	}
	p.body, p.counted = append(p.body, b...), p.counted+more
	p.records++
	return true
}

// Close gives the payload, with all readings that were taken.
func (p *SenML) Close() ([]byte, int) { return p.Bytes(), p.Len() }

// Bytes is the payload.
func (p *SenML) Bytes() []byte {
	b := append(make([]byte, 0, p.Size()), `[{`...)
	if p.secondary {
		b = append(b, senmlVersionText...)
	}
	b = append(append(b, p.head...), p.body...)
	if len(p.body) == 0 {
		b = append(b, '}')
	}
	return append(b, ']')
}
