package packed

import (
	"bytes"
	"math"
	"testing"
)

// fuzzSite is a schema with much of what a schema can have, and payloads of it.
func fuzzSite(f *testing.F) (*Coder, [][]byte) {
	s := drawSite.Example(1)
	s.radix, s.limit, s.primes, s.trains = Binary, 622, 2, false
	k := s.build(f)
	schema, err := ParseSchema([]byte(k.Schema))
	if err != nil {
		f.Fatal(err)
	}
	c, err := New(schema)
	if err != nil {
		f.Fatal(err)
	}
	return c, k.Payloads
}

// FuzzDecode: whatever has a check that holds decodes to readings that a payload can have, or is refused.
func FuzzDecode(f *testing.F) {
	c, payloads := fuzzSite(f)
	for _, p := range payloads[:min(3, len(payloads))] {
		f.Add(p)
	}
	f.Add(bytes.Repeat([]byte{1}, 40))
	f.Add(bytes.Repeat([]byte{2, 255}, 40))
	f.Fuzz(func(t *testing.T, digits []byte) {
		if len(digits) < 6 {
			return
		}
		p := seal(append([]byte{1 + digits[0]&1}, digits[1:]...), Binary)
		d, err := c.Decode(p)
		if err != nil {
			return
		}
		if len(d.Readings) > maxReadings {
			t.Fatalf("%d readings", len(d.Readings))
		}
		for i, r := range d.Readings {
			if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) || r.TimeMS > maxTime || r.TimeMS < -maxTime || r.Seq != d.First+uint64(i) || r.Seq > maxNumber {
				t.Fatalf("reading %d: %+v", i, r)
			}
		}
	})
}

// FuzzSchema: a schema is refused, or has a coder that says again what it was made of.
func FuzzSchema(f *testing.F) {
	c, _ := fuzzSite(f)
	f.Add(c.Schema().Text())
	f.Add([]byte(`{"id":1,"ch":[{"n":"a","div":1,"sl":4,"dev":48,"fix":true}],"gr":[{"ch":[0],"res":1,"per":1,"pull":2,"sl":4}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSchema(text)
		if err != nil || len(s.Channels) > 100 {
			return
		}
		if _, err := New(s); err != nil {
			return
		}
		again, err := ParseSchema(s.Text())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Text(), s.Text()) {
			t.Fatalf("%s: %s", s.Text(), again.Text())
		}
	})
}
