package config_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/agent/config"
	"homeward/drivers"
)

// Neither rounding nor dead-band nor on_change changes what is an alarm, or what is suspect; an alarm is always recorded; what
// is recorded is what rounding says, and what is not is close to the last that was.
func TestReductionsNeverChangeAlarms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Float64Range(-50, 50)
		plain := drivers.Channel{Name: "x", Min: new(limit.Draw(t, "min")), Max: new(limit.Draw(t, "max"))}
		alarms := []config.Alarm{{Channel: "a/x", Above: new(limit.Draw(t, "above"))}, {Channel: "a/x", Below: new(limit.Draw(t, "below"))}, {Channel: "b/x", Above: new(-100.0)}}
		reduced := plain
		reduced.Resolution = new(rapid.SampledFrom([]float64{0.1, 0.0625, 1, 10, 1.0 / 3, 0}).Draw(t, "resolution"))
		reduced.Deadband = new(rapid.SampledFrom([]float64{0, 0.5, 5}).Draw(t, "deadband"))
		reduced.OnChange = new(rapid.Bool().Draw(t, "on_change"))
		s := &config.Sensor{Name: "a"}
		a, b := config.NewRecorder(s, &plain, alarms), config.NewRecorder(s, &reduced, alarms)
		grid := drivers.NewGrid(*reduced.Resolution)
		last, first := 0.0, true
		for range 100 {
			r := drivers.Reading{Channel: "x", Value: rapid.Float64Range(-60, 60).Draw(t, "value")}
			want, keep, alarm := a.Take(r)
			require.True(t, keep)
			require.Equal(t, r.Value, want.Value)
			got, kept, alarmed := b.Take(r)
			require.Equal(t, alarm, alarmed)
			require.Equal(t, want.Quality, got.Quality)
			require.Equal(t, "a/x", got.Channel)
			require.Equal(t, grid.Round(r.Value), got.Value)
			require.True(t, kept || !alarmed && !first)
			if kept {
				last, first = got.Value, false
			} else {
				require.True(t, math.Abs(got.Value-last) < *reduced.Deadband || *reduced.OnChange && got.Value == last)
			}
		}
	})
}

func TestPublishedTime(t *testing.T) {
	for _, c := range []struct {
		taken, want int64
		resolution  time.Duration
	}{
		{1700000000049, 1700000000000, 100 * time.Millisecond},
		{1700000000050, 1700000000100, 100 * time.Millisecond},
		{1700000000100, 1700000000100, 100 * time.Millisecond},
		{1700000000999, 1700000001000, time.Second},
		{-51, -100, 100 * time.Millisecond}, {-50, 0, 100 * time.Millisecond}, {-49, 0, 100 * time.Millisecond},
		{1700000000049, 1700000000049, time.Millisecond}, {1700000000049, 1700000000049, 0},
		{3, 3, 3 * time.Millisecond}, {4, 3, 3 * time.Millisecond}, {5, 6, 3 * time.Millisecond},
	} {
		s := config.Sensor{TimeResolution: config.Duration(c.resolution)}
		require.Equal(t, c.want, s.PublishedTime(c.taken), "%v", c)
	}
}

// A published time is on the grid, the nearest, the same again, and never changes the order.
func TestPublishedTimeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		res := rapid.Int64Range(1, 3_600_000).Draw(t, "ms")
		s := config.Sensor{TimeResolution: config.Duration(time.Duration(res) * time.Millisecond)}
		taken := rapid.Int64Range(-1<<50, 1<<50).Draw(t, "taken")
		got := s.PublishedTime(taken)
		require.Zero(t, got%res)
		require.LessOrEqual(t, 2*max(got-taken, taken-got), res)
		require.Equal(t, got, s.PublishedTime(got))
		later := taken + rapid.Int64Range(0, 2*res).Draw(t, "later")
		require.GreaterOrEqual(t, s.PublishedTime(later), got)
	})
}
