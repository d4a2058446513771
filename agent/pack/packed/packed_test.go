package packed

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/agent/pack"
	"homeward/drivers"
)

// sets draws what channels there are; some know how their values come about.
func sets(t *rapid.T) []Set {
	var out []Set
	for g := range rapid.IntRange(1, 5).Draw(t, "groups") {
		s := Set{Every: rapid.SampledFrom([]int64{0, 100, 1000, 60000}).Draw(t, "every"), Res: rapid.SampledFrom([]int64{0, 1, 100, 1000}).Draw(t, "res")}
		for c := range rapid.IntRange(1, 6).Draw(t, "channels") {
			h := Hint{Name: fmt.Sprintf("s%d/c%d", g, c), Unit: rapid.SampledFrom([]string{"", "Cel", "V"}).Draw(t, "unit")}
			dec := 2
			h.Exact = rapid.SampledFrom([]*Channel{nil, {Step: 0.1}, {Step: 0.003, Off: -7.1}, {Div: 16}, {Step: 6.25, Dec: &dec}, {Div: 10, Float32: true}, {Bits: true}, {Div: 10, Float32: true, Dec: &dec}}).Draw(t, "exact")
			s.Channels = append(s.Channels, h)
		}
		out = append(out, s)
	}
	return out
}

// values draws one channel's values: what instruments do, and what they should not.
func values(t *rapid.T, n int) []float64 {
	kind := rapid.IntRange(0, 8).Draw(t, "kind")
	seed := rapid.Uint64().Draw(t, "seed")
	next := func() float64 { // SplitMix64
		seed += 0x9E3779B97F4A7C15
		z := (seed ^ seed>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		return float64((z^z>>31)>>11) / (1 << 53)
	}
	out := make([]float64, n)
	v := math.Round(next()*1000) / 10
	for i := range out {
		switch kind {
		case 0: // hardly moves
			if next() < 0.1 {
				v = math.Round(v*10+next()*2-1) / 10
			}
			out[i] = v
		case 1: // a counter
			v += math.Floor(next() * 50)
			out[i] = v
		case 2: // on and off
			out[i] = math.Floor(next() * 2)
		case 3: // noise
			out[i] = next()*200 - 100
		case 4: // float32
			out[i] = float64(float32(next() * 50))
		case 5: // 1/16 with two decimals
			out[i] = math.Floor(math.Floor(next()*300)*6.25+0.5) / 100
		case 6: // any double
			out[i] = math.Float64frombits(uint64(next() * (1 << 63)))
			if math.IsNaN(out[i]) || math.IsInf(out[i], 0) {
				out[i] = math.Copysign(0, -1)
			}
			if next() < 0.5 {
				out[i] = -out[i]
			}
		case 7: // a float32 with one decimal
			out[i] = float64(float32(math.Round(next()*1000) / 10))
		default: // an average of ten
			out[i] = math.Round(next()*10000) / 10 / 160
		}
	}
	return out
}

// polls draws what the sampler would record.
func polls(t *rapid.T, ss []Set) []pack.Poll {
	n := rapid.IntRange(1, 400).Draw(t, "polls")
	all := map[string][]float64{}
	for _, s := range ss {
		for _, c := range s.Channels {
			all[c.Name] = values(t, n)
		}
	}
	var out []pack.Poll
	now := rapid.Int64Range(-1<<41, 1<<43).Draw(t, "now")
	for i := range n {
		s := ss[rapid.IntRange(0, len(ss)-1).Draw(t, "set")]
		now += rapid.SampledFrom([]int64{0, 1, 100, 1000, 1003, 60000, -7}).Draw(t, "step")
		p := pack.Poll{Time: now}
		odd := rapid.IntRange(0, 9).Draw(t, "odd") == 0
		for _, c := range s.Channels {
			q := drivers.Good
			if odd {
				if rapid.Bool().Draw(t, "missing") {
					continue
				}
				q = drivers.Quality(rapid.IntRange(0, 3).Draw(t, "quality"))
			}
			p.Readings = append(p.Readings, drivers.Reading{Channel: c.Name, Unit: drivers.Unit(c.Unit), Value: all[c.Name][i], Quality: q})
		}
		if len(p.Readings) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// flat is every reading of the polls, sorted, with its value's bits.
func flat(ps []pack.Poll) (out []string) {
	for _, p := range ps {
		for _, r := range p.Readings {
			out = append(out, fmt.Sprintf("%d %s %x %s %s", p.Time, r.Channel, math.Float64bits(r.Value), r.Unit, r.Quality))
		}
	}
	slices.Sort(out)
	return out
}

func flatPayload(p pack.Payload) (out []string) {
	for _, r := range p.Readings {
		out = append(out, fmt.Sprintf("%d %s %x %s %s", r.TimeMS, r.Channel, math.Float64bits(r.Value), r.Unit, r.Quality))
	}
	slices.Sort(out)
	return out
}

// packAll packs polls into payloads; each is checked: within the limit, all of it back, and the next poll did not fit.
func packAll(t require.TestingT, c *Coder, ps []pack.Poll, radix Radix, max int) (payloads [][]byte) {
	first := uint64(1)
	for len(ps) > 0 {
		h := pack.Header{Gateway: "gw", Epoch: 3, First: first}
		fill := func(ps []pack.Poll) ([]byte, int) {
			w := c.NewWriter(h, radix, len(payloads)%2 == 0, max)
			for _, p := range ps {
				if !w.Add(p) {
					break
				}
			}
			return w.Close()
		}
		payload, n := fill(ps)
		require.Positive(t, n, "%d bytes: not one reading fits", max)
		require.LessOrEqual(t, len(payload), max)
		again, m := fill(ps)
		if n == m { // where one more does not fit and two more do, it depends on where the search began
			require.Equal(t, payload, again, "the same readings, the same bytes")
		}
		got, err := c.Decode(payload)
		require.NoError(t, err)
		require.Equal(t, first, got.First)
		require.Equal(t, first+uint64(n)-1, got.Readings[len(got.Readings)-1].Seq)
		took, k := []pack.Poll{}, 0
		for k < n {
			p := ps[0]
			if k+len(p.Readings) > n { // a poll too large alone
				require.Empty(t, took)
				ps = slices.Clone(ps)
				ps[0].Readings = p.Readings[n-k:]
				p.Readings = p.Readings[:n-k]
			} else {
				ps = ps[1:]
			}
			took, k = append(took, p), k+len(p.Readings)
		}
		require.Equal(t, flat(took), flatPayload(got))
		if len(ps) > 0 && ps[0].Time != took[len(took)-1].Time {
			w := c.NewWriter(h, radix, len(payloads)%2 == 0, math.MaxInt/2)
			for _, p := range append(took, ps[0]) {
				require.True(t, w.Add(p))
			}
			require.Greater(t, w.Size()+1, max, "one more poll would have fitted")
		}
		payloads = append(payloads, payload)
		first += uint64(n)
	}
	return payloads
}

func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ss := sets(t)
		ps := polls(t, ss)
		trained := ps[:rapid.IntRange(0, len(ps)).Draw(t, "trained")]
		c, err := Train(uint32(rapid.IntRange(1, 1<<20).Draw(t, "id")), ss, trained, rapid.IntRange(0, 3).Draw(t, "primers"))
		require.NoError(t, err)
		// A receiver has the schema as text.
		text := c.Schema().Text()
		s, err := ParseSchema(text)
		require.NoError(t, err)
		receiver, err := New(s)
		require.NoError(t, err)
		radix := rapid.SampledFrom([]Radix{Text, Safe, Binary}).Draw(t, "radix")
		for _, p := range packAll(t, c, ps, radix, rapid.SampledFrom([]int{160, 622, 864, 1024, 4096}).Draw(t, "max")) {
			a, err := c.Decode(p)
			require.NoError(t, err)
			b, err := receiver.Decode(p)
			require.NoError(t, err)
			require.Equal(t, flatPayload(a), flatPayload(b))
		}
	})
}

// A writer that is used again allocates the payload and nothing else.
func TestWriterAllocations(t *testing.T) {
	var ss []Set
	for _, s := range []string{"a", "b", "c"} {
		ss = append(ss, Set{Every: 1000, Channels: []Hint{{Name: s + "/x"}, {Name: s + "/y"}}})
	}
	var ps []pack.Poll
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 1500 {
		s := ss[i%3]
		p := pack.Poll{Time: int64(i * 333)}
		for c := range s.Channels {
			p.Readings = append(p.Readings, drivers.Reading{Channel: s.Channels[c].Name, Value: float64(r.IntN(1000)) / 10})
		}
		ps = append(ps, p)
	}
	c, err := Train(1, ss, ps, 2)
	require.NoError(t, err)
	for _, radix := range []Radix{Text, Binary} {
		w := c.NewWriter(pack.Header{First: 1}, radix, false, 1024)
		require.LessOrEqual(t, testing.AllocsPerRun(20, func() {
			w.Reset(pack.Header{Epoch: 3, First: 7})
			i := 0
			for w.Add(ps[i]) {
				i++
			}
			if _, n := w.Close(); n == 0 {
				t.Fatal("nothing was packed")
			}
		}), 1.0)
	}
}

// Where a sensor falls silent, the others' polls do not wait for it for ever, and its own, when it speaks again, loses nothing.
func TestSilentSensor(t *testing.T) {
	ss := []Set{{Every: 1000, Channels: []Hint{{Name: "a"}}}, {Every: 1000, Channels: []Hint{{Name: "b"}}}, {Every: 3_600_000, Channels: []Hint{{Name: "c"}}}}
	r := rand.New(rand.NewPCG(1, 2))
	var ps []pack.Poll
	for i := range 4000 {
		for g, name := range []string{"a", "b", "c"} {
			if g == 0 && i > 500 && i < 3000 || g == 2 && i%1700 != 0 {
				continue
			}
			ps = append(ps, pack.Poll{Time: int64(i)*1000 + int64(r.IntN(300)), Readings: []drivers.Reading{{Channel: name, Value: float64(r.IntN(40)) / 10}}})
		}
	}
	c, err := Train(1, ss, ps[:1000], 2)
	require.NoError(t, err)
	payloads := packAll(t, c, ps, Text, 1024)
	require.Less(t, len(payloads), 14, "about as few as with all sensors awake")
}
