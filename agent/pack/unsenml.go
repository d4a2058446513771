package pack

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"homeward/drivers"
)

// SenMLRecord is one resolved record (RFC 8428 §4.6): base members added in. Exactly one of Value, Text, Bool and Data is
// set, or Sum alone.
type SenMLRecord struct {
	Name       string
	Unit       string
	Time       float64 // seconds: since 1970 if at least 2^28, else relative to the present (§4.5.3)
	UpdateTime float64 // seconds
	Value, Sum *float64
	Text       *string
	Bool       *bool
	Data       *string // base64url
	own        [][]byte
}

// senmlLabels are the members that a resolver looks at, the standard's (RFC 8428 §4) and then ours.
var senmlLabels = []string{"bver", "bn", "bt", "bu", "bv", "bs", "n", "u", "v", "vs", "vb", "vd", "s", "t", "ut",
	senmlEpoch, senmlFirst, senmlQuality, senmlTime, senmlGap}

// The places in senmlLabels.
const (
	atVersion = iota
	atBaseName
	atBaseTime
	atBaseUnit
	atBaseValue
	atBaseSum
	atName
	atUnit
	atValue
	atText
	atBool
	atData
	atSum
	atTime
	atUpdate
	atOwn // our own, from here
)

// The places of our own members in SenMLRecord.own.
const (
	ownEpoch = iota
	ownFirst
	ownQuality
	ownTime
	ownGap
)

// ResolveSenML reads a SenML pack in JSON, of whoever's making, and resolves it as RFC 8428 §4.6 says. Versions up to 10 are
// taken, and 26 (secondary units, RFC 9100).
func ResolveSenML(payload []byte) ([]SenMLRecord, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("pack: senml: %d bytes: want at most %d", len(payload), MaxPayload)
	}
	payload, err := jsonText(payload)
	if err != nil {
		return nil, fmt.Errorf("pack: senml: %w", err)
	}
	var all []SenMLRecord
	if f := resolve(payload, func(_ int, r *SenMLRecord) *fault {
		if r != nil {
			all = append(all, *r)
		}
		return nil
	}); f != nil {
		return nil, fmt.Errorf("pack: senml: %w", f)
	}
	return all, nil
}

// resolve hands over each record, resolved; nil for one of base members alone.
func resolve(payload []byte, take func(i int, r *SenMLRecord) *fault) *fault {
	records, f := openList(payload)
	if f != nil {
		return f.at("pack")
	}
	var base senmlBase
	i := 0
	for raw := records.next(); raw != nil; i, raw = i+1, records.next() {
		r, f := base.resolve(i, raw)
		if f == nil {
			f = take(i, r)
		}
		if f != nil {
			return f.index(i)
		}
	}
	if i == 0 {
		return refuse(payload, "at least one record").at("pack")
	}
	return nil
}

// senmlBase is the base members that hold at some record.
type senmlBase struct {
	version, name, unit string
	time, value, sum    float64
	hasValue, hasSum    bool
	r                   SenMLRecord
}

func (b *senmlBase) resolve(i int, raw []byte) (*SenMLRecord, *fault) {
	// §4.4: only a label that ends in _ must be understood.
	v, f := members(raw, func(label string) bool { return !strings.HasSuffix(label, "_") }, senmlLabels...)
	if f != nil {
		return nil, f
	}
	number := func(at int, into *float64) bool {
		if f != nil || v[at] == nil {
			return false
		}
		x, err := strconv.ParseFloat(string(v[at]), 64)
		if c := v[at][0]; err != nil || c != '-' && (c < '0' || c > '9') {
			f = refuse(v[at], "a finite number").at(senmlLabels[at])
		}
		*into = x
		return true
	}
	word := func(at int, most int, want string, into *string) bool {
		if f != nil || v[at] == nil {
			return false
		}
		s, g := text(v[at], 0, most, want)
		if g != nil {
			f = g.at(senmlLabels[at])
		}
		*into = s
		return true
	}
	var version float64
	if number(atVersion, &version) {
		if version != math.Trunc(version) || version < 1 || version > senmlVersion && version != senmlSecondary {
			return nil, refuse(v[atVersion], fmt.Sprintf("a version up to %d, or %d", senmlVersion, senmlSecondary)).at("bver")
		}
		if s := string(v[atVersion]); i > 0 && b.version != s { // §4.4: the same in all records
			return nil, refuse(v[atVersion], "the version of the records before it").at("bver")
		} else {
			b.version = s
		}
	}
	word(atBaseName, maxName, fmt.Sprintf("a name of at most %d bytes", maxName), &b.name)
	word(atBaseUnit, maxText, fmt.Sprintf("a unit of at most %d bytes", maxText), &b.unit)
	number(atBaseTime, &b.time)
	b.hasValue = number(atBaseValue, &b.value) || b.hasValue
	b.hasSum = number(atBaseSum, &b.sum) || b.hasSum
	bare := true
	for _, x := range v[atName:atOwn] {
		bare = bare && x == nil
	}
	if f != nil {
		return nil, f
	}
	if bare { // base members for those that follow
		return nil, nil
	}
	b.r = SenMLRecord{Name: b.name, Unit: b.unit, Time: b.time, own: v[atOwn:]}
	r := &b.r
	var name string
	if word(atName, maxName, fmt.Sprintf("a name of at most %d bytes", maxName), &name); len(name)+len(b.name) > maxName {
		return nil, refuse(v[atName], fmt.Sprintf("at most %d bytes with the base name", maxName)).at("n")
	}
	r.Name += name
	if f == nil && !drivers.IsSenMLName(r.Name) {
		return nil, refuse(appendString(nil, r.Name), "letters, digits and -:./_, a letter or digit first").at("n")
	}
	word(atUnit, maxText, fmt.Sprintf("a unit of at most %d bytes", maxText), &r.Unit)
	var t float64
	number(atTime, &t)
	r.Time += t
	number(atUpdate, &r.UpdateTime)
	values := 0
	var x, sum float64
	var s, data string
	if number(atValue, &x) {
		x += b.value
		r.Value, values = &x, values+1
	}
	if word(atText, MaxPayload, "a string", &s) {
		r.Text, values = &s, values+1
	}
	if word(atData, MaxPayload, "a string of base64url", &data) {
		r.Data, values = &data, values+1
	}
	if f == nil && v[atBool] != nil {
		is := string(v[atBool]) == "true"
		if !is && string(v[atBool]) != "false" {
			return nil, refuse(v[atBool], "true or false").at("vb")
		}
		r.Bool, values = &is, values+1
	}
	if number(atSum, &sum) || b.hasSum {
		sum += b.sum
		r.Sum = &sum
	}
	if values == 0 && b.hasValue { // §4.6: a missing value counts as 0 beside a base value
		x = b.value
		r.Value, values = &x, 1
	}
	switch {
	case f != nil:
		return nil, f
	case values > 1:
		return nil, refuse(raw, "one of v, vs, vb and vd")
	case values == 0 && r.Sum == nil:
		return nil, refuse(nil, "a value or a sum").at("v")
	}
	for _, y := range []*float64{r.Value, r.Sum, &r.Time} {
		if y != nil && math.IsInf(*y, 0) {
			return nil, refuse(raw, "finite sums with the base members")
		}
	}
	return r, nil
}

// decodeSenML reads what [SenML] writes.
func decodeSenML(payload []byte) (Payload, error) {
	payload, err := jsonText(payload)
	if err != nil {
		return Payload{}, fmt.Errorf("pack: senml: %w", err)
	}
	var p Payload
	if f := resolve(payload, func(i int, r *SenMLRecord) *fault { return p.takeSenML(payload, i, r) }); f != nil {
		return Payload{}, fmt.Errorf("pack: senml: %w", f)
	}
	if n := uint64(len(p.Readings)); n > 0 && (p.First == 0 || p.First > math.MaxUint64-n) {
		return Payload{}, fmt.Errorf("pack: senml: %s: %d: want a sequence number from 1", senmlFirst, p.First)
	}
	return p, nil
}

func (p *Payload) takeSenML(payload []byte, i int, r *SenMLRecord) *fault {
	var own [][]byte
	if i == 0 {
		first, _ := openList(payload)
		v, f := members(first.next(), func(string) bool { return true }, senmlLabels...)
		if f != nil {
			return f
		}
		name, f := text(v[atBaseName], 2, maxName, "the gateway's id and a slash")
		if f == nil && !strings.HasSuffix(name, "/") {
			f = refuse(v[atBaseName], "the gateway's id and a slash")
		}
		if f != nil {
			return f.at("bn")
		}
		p.Gateway = strings.TrimSuffix(name, "/")
		own = v[atOwn:]
		e, f := unsigned(own[ownEpoch], 32, "the epoch, below 2^32")
		if f != nil {
			return f.at(senmlEpoch)
		}
		p.Epoch = uint32(e)
		if p.First, f = unsigned(own[ownFirst], 64, "the first sequence number"); f != nil {
			return f.at(senmlFirst)
		}
	}
	if r == nil {
		return nil
	}
	own = r.own
	if i > 0 && (own[ownEpoch] != nil || own[ownFirst] != nil) {
		return (&fault{got: "here", want: "it in the first record alone"}).at(senmlEpoch + " or " + senmlFirst)
	}
	channel, ok := strings.CutPrefix(r.Name, p.Gateway+"/")
	if !ok || channel == "" {
		return refuse(appendString(nil, r.Name), "a name below "+p.Gateway+"/").at("n")
	}
	if own[ownGap] != nil {
		g, f := takeGap(own[ownGap])
		if f != nil {
			return f.at(senmlGap)
		}
		p.Gaps = append(p.Gaps, g)
		return nil
	}
	if r.Value == nil || r.Sum != nil {
		return (&fault{got: "missing", want: "a number, and nothing else"}).at("v")
	}
	out := Reading{Seq: p.First + uint64(len(p.Readings)), Channel: channel, Value: *r.Value, Unit: drivers.Unit(r.Unit)}
	if own[ownQuality] != nil {
		const want = "good, stale-clock, suspect or aggregate"
		name, f := text(own[ownQuality], 1, maxText, want)
		q, err := drivers.ParseQuality(name)
		if f != nil || err != nil {
			return refuse(own[ownQuality], want).at(senmlQuality)
		}
		out.Quality = q
	}
	switch {
	case own[ownTime] != nil:
		var f *fault
		if out.TimeMS, f = millis(own[ownTime], minTime, absoluteTime-1, fmt.Sprintf("Unix ms before %d", int64(absoluteTime))); f != nil {
			return f.at(senmlTime)
		}
	case r.Time*1000 < absoluteTime-0.5 || r.Time*1000 > maxTime+0.5:
		return (&fault{got: strconv.FormatFloat(r.Time, 'f', -1, 64), want: "seconds since 1970, at least 2^28 and before the year 10000, with the base time"}).at("t")
	default:
		out.TimeMS = min(int64(math.Round(r.Time*1000)), maxTime)
	}
	p.Readings = append(p.Readings, out)
	return nil
}
