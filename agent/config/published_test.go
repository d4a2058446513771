package config_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/agent/config"
)

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
