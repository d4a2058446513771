package buffer

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/drivers"
)

func asPoll(first Seq, p Poll) poll {
	s := &shape{}
	out := poll{first: first, stamp: p.Stamp, shape: s, alarm: p.Alarm}
	good := true
	for _, r := range p.Readings {
		s.names, s.units = append(s.names, r.Channel), append(s.units, r.Unit)
		out.values = append(out.values, r.Value)
		out.quals = append(out.quals, r.Quality)
		good = good && r.Quality == drivers.Good
	}
	if good {
		out.quals = nil
	}
	return out
}

// samePoll compares bit for bit: NaN is NaN, and -0 is not 0.
func samePoll(t require.TestingT, want, got *poll) {
	require.Equal(t, want.first, got.first)
	require.Equal(t, want.stamp, got.stamp)
	require.Equal(t, want.alarm, got.alarm)
	require.Equal(t, want.shape.names, got.shape.names)
	require.Equal(t, want.shape.units, got.shape.units)
	require.Equal(t, want.quals, got.quals)
	require.Len(t, got.values, len(want.values))
	for i := range want.values {
		require.Equal(t, math.Float64bits(want.values[i]), math.Float64bits(got.values[i]), "%v", want.values[i])
	}
}

func TestBlockRoundTrip(t *testing.T) {
	special := []float64{0, math.Copysign(0, -1), math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64, 1 << 53, 1<<53 + 2, 0.1, 0.3, 1e-9, 123456.789, 1e22}
	rapid.Check(t, func(t *rapid.T) {
		var ps []poll
		seq := Seq(rapid.Uint64Range(1, uint64(maxSeq)/2).Draw(t, "first"))
		shapes := map[string]*shape{}
		for range rapid.IntRange(1, 30).Draw(t, "polls") {
			p := drawPoll(t)
			p.Stamp.Mono = time.Duration(rapid.Int64().Draw(t, "any mono"))
			p.Stamp.Wall = rapid.Int64().Draw(t, "any wall")
			if rapid.IntRange(0, 3).Draw(t, "special") == 0 {
				p.Readings[0].Value = rapid.SampledFrom(special).Draw(t, "special value")
			}
			x := asPoll(seq, p)
			k := p.Readings[0].Channel + string(rune(len(p.Readings)))
			if shapes[k] == nil {
				shapes[k] = x.shape
			}
			x.shape = shapes[k]
			seq += Seq(len(p.Readings))
			ps = append(ps, x)
		}
		var z deflater
		b, err := z.encode(77, ps)
		require.NoError(t, err)
		blk, err := decodeBlock(b)
		require.NoError(t, err)
		require.Equal(t, Epoch(77), blk.epoch)
		require.Equal(t, Range{ps[0].first, seq - 1}, blk.span())
		require.Len(t, blk.ps, len(ps))
		for i := range ps {
			samePoll(t, &ps[i], &blk.ps[i])
		}
	})
}

func TestBlockDamage(t *testing.T) {
	var ps []poll
	for i := range 50 {
		ps = append(ps, asPoll(Seq(1+10*i), pollAt(i, 10)))
	}
	var z deflater
	b, err := z.encode(1, ps)
	require.NoError(t, err)
	require.Less(t, len(b), 500*8/2, "decimal columns take less than half of 8 bytes a reading")
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		_, err := decodeBlock(b)
		require.ErrorIs(t, err, errBlock, "bit %d", bit)
		b[bit/8] ^= 1 << (bit % 8)
	}
	for n := range len(b) {
		_, err := decodeBlock(b[:n])
		require.ErrorIs(t, err, errBlock)
	}
}

func TestColumnsKeepScale(t *testing.T) {
	// The first value needs no digit after the point, a later one has two, the next more than any scale can hold.
	for _, col := range [][]float64{{1, 1.25, 3}, {0.5, 0.25, 1e-12}, {1e15, 0.1}, {9007199254740991, 1}} {
		var ps []poll
		s := &shape{[]string{"a"}, []drivers.Unit{""}}
		for i, v := range col {
			ps = append(ps, poll{first: Seq(i + 1), shape: s, values: []float64{v}})
		}
		var z deflater
		b, err := z.encode(1, ps)
		require.NoError(t, err)
		blk, err := decodeBlock(b)
		require.NoError(t, err)
		for i, v := range col {
			require.Equal(t, math.Float64bits(v), math.Float64bits(blk.ps[i].values[0]))
		}
	}
}
