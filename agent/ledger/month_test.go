package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestMonth(t *testing.T) {
	for _, c := range []struct {
		now        string
		day        int
		start, end string
	}{
		{"2026-11-25T12:00:00Z", 1, "2026-11-01", "2026-12-01"},
		{"2026-11-01T00:00:00Z", 1, "2026-11-01", "2026-12-01"},
		{"2026-10-31T23:59:59Z", 1, "2026-10-01", "2026-11-01"},
		{"2026-12-31T23:59:59Z", 1, "2026-12-01", "2027-01-01"},
		{"2027-01-09T00:00:00Z", 10, "2026-12-10", "2027-01-10"},
		{"2026-02-15T00:00:00Z", 31, "2026-01-31", "2026-02-28"},
		{"2026-02-28T00:00:00Z", 31, "2026-02-28", "2026-03-31"},
		{"2024-02-29T00:00:00Z", 30, "2024-02-29", "2024-03-30"}, // a leap year
		{"2026-04-29T10:00:00Z", 31, "2026-03-31", "2026-04-30"},
		{"1970-01-01T00:00:00Z", 15, "1969-12-15", "1970-01-15"}, // a clock that was never set
		{"2026-11-01T00:30:00+02:00", 1, "2026-10-01", "2026-11-01"},
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		require.NoError(t, err)
		start, end := Month(now, c.day, nil)
		require.Equal(t, c.start, start.Format(time.DateOnly), "%s day %d", c.now, c.day)
		require.Equal(t, c.end, end.Format(time.DateOnly), "%s day %d", c.now, c.day)
	}
}

// The months of a billing day follow on each other without gap or overlap.
func TestMonthsAreSeamless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "now"), 0)
		day := rapid.IntRange(1, 31).Draw(t, "day")
		start, end := Month(now, day, nil)
		require.False(t, now.Before(start))
		require.True(t, now.Before(end))
		days := end.Sub(start).Hours() / 24
		require.GreaterOrEqual(t, days, 28.0)
		require.LessOrEqual(t, days, 31.0)
		s, e := Month(end, day, nil)
		require.Equal(t, end, s)
		require.True(t, e.After(s))
		s, e = Month(end.Add(-time.Second), day, nil)
		require.Equal(t, start, s)
		require.Equal(t, end, e)
	})
}
