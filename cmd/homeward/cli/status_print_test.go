package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/agent/status"
)

func shownStatus(t *testing.T, s status.Status) string {
	var b strings.Builder
	require.NoError(t, printStatus(&b, s))
	return b.String()
}

// TestStatusShowsOperations: what the month has cost, what it would have, and what the budget makes of it.
func TestStatusShowsOperations(t *testing.T) {
	budget, percent, reserve, hour := uint64(7200), 17.53, uint64(720), 9.25
	s := status.Status{
		Operations: status.Operations{
			Month: "2026-11-15", Used: 1262, Budget: &budget, Percent: &percent, Forecast: 6480, LimitState: "stretched", Reserve: &reserve, PerHour: &hour,
			Alarms: 3, Free: 11, Unknown: 29, OnePerReading: 63100,
			Past: []status.PastMonth{{Month: "2026-07-15", Used: 1, OnePerReading: 2}, {Month: "2026-08-15", Used: 6001, OnePerReading: 300000}, {Month: "2026-09-15", Used: 6002, OnePerReading: 310000}, {Month: "2026-10-15", Used: 6003, OnePerReading: 320000}},
		},
		Publish: status.Publish{Operations: 5, MaxAgeS: 842.3, ConfiguredMaxAgeS: 300, Thinned: 2400},
		Buffer:  status.Buffer{OldestAgeS: 75.25, Thinned: 3600, ThinnedKept: 1800},
	}
	shown := shownStatus(t, s)
	for _, line := range []string{
		"operations  1262 of 7200 (17.5 %) since 2026-11-15, forecast 6480 at the month's end",
		"saving      one publish per reading would have been 63100, 50.0 times as many",
		"limit       stretched: readings wait longer than publish.max_age, to keep to the budget; it allows 9.2 operations an hour besides what is saved",
		"alarms      3 of the operations, 720 of the budget kept for them",
		"max age     14m2s now, publish.max_age is 5m; the oldest reading has waited for 1m15s",
		"besides     11 operations known to be free, 29 of unknown cost (status, proofs, schemas)",
		"thinned     3600 of the readings given up gave way to aggregates, 2400 since the start; 1800 are still stored",
		"earlier     2026-10-15: 6003 (320000), 2026-09-15: 6002 (310000), 2026-08-15: 6001 (300000) (one publish per reading)",
	} {
		require.Contains(t, shown, "\n"+line+"\n")
	}

	// Without a budget, before anything was sent and before the clock was right, nothing is made up.
	shown = shownStatus(t, status.Status{Operations: status.Operations{LimitState: "none"}})
	require.Contains(t, shown, "\noperations  0, no month yet: the clock was never trusted, no forecast before the first payload\n")
	require.Contains(t, shown, "\nlimit       no budget: operations.per_month is not set\n")
	require.Contains(t, shown, "\nalarms      0 of the operations\n")
	for _, head := range []string{"saving", "max age", "thinned", "earlier"} {
		require.NotContains(t, shown, "\n"+head+" ")
	}
}

// TestNoForecastBeforeTheFirstPayload: the forecast is the rate so far, and before there is one it is no figure.
func TestNoForecastBeforeTheFirstPayload(t *testing.T) {
	shown := func(s status.Status) string { return shownStatus(t, s) }
	s := status.Status{Operations: status.Operations{Month: "2026-11-01"}}
	require.NotContains(t, shown(s), "forecast 0")
	require.Contains(t, shown(s), "no forecast before the first payload")
	s.Publish.Operations, s.Operations.Forecast = 3, 500
	require.Contains(t, shown(s), "forecast 500")
}
