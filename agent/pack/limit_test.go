package pack_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/drivers"
)

// site is channels, as hostile as a configuration may have them, and what they gave.
type site struct {
	header pack.Header
	sets   []packed.Set
	polls  []pack.Poll
	gaps   []pack.Gap
}

// nasty draws text of 1 to most characters, at most 127 bytes.
func nasty(t *rapid.T, most int) string {
	letters := rapid.SampledFrom([]string{`"`, `"\`, `\`, `"\/<&>' `, "aü☃𝄞", "abc"}).Draw(t, "letters")
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Map(func(r rune) rune {
			if r == '/' {
				return -1
			}
			return r
		}, strings.TrimSpace(rapid.StringOfN(rapid.RuneFrom([]rune(letters)), 1, most, 120).Draw(t, "text")))
	}).Filter(drivers.IsName).Draw(t, "name")
}

func drawSite(t *rapid.T) (s site) {
	s.header = pack.Header{Gateway: nasty(t, 64), Epoch: rapid.Uint32().Draw(t, "epoch"), First: rapid.Uint64Range(1, 1<<52).Draw(t, "first")}
	longest := rapid.SampledFrom([]int{1, 8, 64}).Draw(t, "longest")
	most := rapid.SampledFrom([]int{3, 6, 60}).Draw(t, "most")
	for i := range rapid.IntRange(1, 3).Draw(t, "sensors") {
		name := fmt.Sprint(i, nasty(t, longest))
		set := packed.Set{Every: rapid.SampledFrom([]int64{0, 1000}).Draw(t, "every")}
		for k := range rapid.IntRange(1, most).Draw(t, "channels") {
			unit := ""
			if rapid.Bool().Draw(t, "has unit") {
				unit = nasty(t, min(longest, 16))
			}
			set.Channels = append(set.Channels, packed.Hint{Name: fmt.Sprint(name, "/", k, nasty(t, longest)), Unit: unit})
		}
		s.sets = append(s.sets, set)
	}
	now := rapid.SampledFrom([]int64{-5, 1000, 1_700_000_000_000}).Draw(t, "now")
	kind := rapid.IntRange(0, 2).Draw(t, "values")
	seed := rapid.Uint64().Draw(t, "seed")
	random := func() float64 { // SplitMix64
		seed += 0x9E3779B97F4A7C15
		z := (seed ^ seed>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		return float64((z^z>>31)>>11) / (1 << 53)
	}
	for range rapid.IntRange(1, 200).Draw(t, "polls") {
		now += int64(random() * 1500)
		p := pack.Poll{Time: now}
		set := s.sets[int(random()*float64(len(s.sets)))]
		odd := random() < 0.1
		for _, h := range set.Channels {
			r := drivers.Reading{Channel: h.Name, Unit: drivers.Unit(h.Unit)}
			switch kind {
			case 0:
				r.Value = math.Round(random() * 3)
			case 1:
				r.Value = math.Round(random()*1e5) / 100
			default:
				r.Value = (random() - 0.5) * math.Pow(10, math.Round(random()*40-20))
			}
			if odd && random() < 0.3 {
				continue
			}
			if odd {
				r.Quality = drivers.Quality(random() * 4)
			}
			p.Readings = append(p.Readings, r)
		}
		if len(p.Readings) > 0 {
			s.polls = append(s.polls, p)
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "gaps") {
		s.gaps = append(s.gaps, pack.Gap{N: rapid.Uint64Range(0, 1<<50).Draw(t, "n"), TFrom: 1, TTo: now, Reason: "evicted"})
	}
	return s
}

// counted is what a cloud counts: the payload's bytes, or what they become inside of the quotes of a JSON string.
func counted(t require.TestingT, payload []byte, wrapped bool) int {
	if !wrapped {
		return len(payload)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	require.NoError(t, e.Encode(string(payload)))
	var back string
	require.NoError(t, json.Unmarshal(b.Bytes(), &back))
	require.Equal(t, string(payload), back, "the text passes through JSON")
	n := b.Len() - len("\"\"\n")
	require.Equal(t, n, pack.Wrapped(payload))
	return n
}

// TestFullToTheLimit: in every format, and as every cloud counts, no payload is over its limit, and the next reading would
// not have fitted into it.
func TestFullToTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSite(t)
		format := rapid.SampledFrom([]string{pack.FormatRows, pack.FormatSenML, "text", "text85", "binary"}).Draw(t, "format")
		wraps := format != "binary" && rapid.Bool().Draw(t, "wrapped")
		limit := rapid.SampledFrom([]int{256, 300, 400, 622, 864, 1024, 4096}).Draw(t, "limit") + rapid.IntRange(0, 9).Draw(t, "more")
		named := rapid.Bool().Draw(t, "named")
		begin := pack.New
		if wraps {
			begin = pack.NewWrapped
		}
		if format != pack.FormatRows && format != pack.FormatSenML {
			taught := s.polls[:rapid.IntRange(0, len(s.polls)).Draw(t, "taught")]
			coder, err := packed.Train(1, s.sets, taught, rapid.IntRange(0, 1).Draw(t, "primers"))
			require.NoError(t, err)
			begin = func(_ string, h pack.Header, limit int) pack.Writer {
				return coder.NewWriter(h, packed.RadixOf(format), named, limit)
			}
		}
		for rest, gaps := s.polls, s.gaps; len(rest) > 0; gaps = nil {
			var told []pack.Gap
			w := begin(format, s.header, limit)
			for _, g := range gaps {
				if w.AddGap(g) {
					told = append(told, g)
				}
			}
			polls := 0 // added whole
			for polls < len(rest) && w.Add(rest[polls]) {
				polls++
			}
			if polls == 0 {
				w.AddPart(rest[0])
			}
			payload, n := w.Close()
			if n > 0 || len(told) > 0 {
				require.LessOrEqual(t, counted(t, payload, wraps), limit)
			}
			// What it holds, and with one more.
			var more []pack.Poll
			left := n
			for left > 0 && len(rest) > 0 && left >= len(rest[0].Readings) {
				left -= len(rest[0].Readings)
				more, rest = append(more, rest[0]), rest[1:]
			}
			if len(rest) == 0 {
				return
			}
			next := rest[0]
			if left > 0 || len(more) == 0 { // a poll too large alone
				next.Readings = next.Readings[:left+1]
			}
			wide := begin(format, s.header, 1<<20)
			for _, g := range told {
				require.True(t, wide.AddGap(g))
			}
			for _, p := range append(more, next) {
				require.True(t, wide.Add(p))
			}
			over, _ := wide.Close()
			require.Greater(t, counted(t, over, wraps), limit, "one more would have fitted")
			if left > 0 {
				rest = append([]pack.Poll{{Time: next.Time, Readings: rest[0].Readings[left:]}}, rest[1:]...)
			} else if n == 0 {
				rest = rest[1:] // given up
			}
			s.header.First += uint64(n)
		}
	})
}
