package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/agent/status"
)

// TestNoForecastBeforeTheFirstPayload: the forecast is the rate so far, and before there is one it is no figure.
func TestNoForecastBeforeTheFirstPayload(t *testing.T) {
	shown := func(s status.Status) string {
		var b strings.Builder
		require.NoError(t, printStatus(&b, s))
		return b.String()
	}
	s := status.Status{Operations: status.Operations{Month: "2026-11-01"}}
	require.NotContains(t, shown(s), "forecast 0")
	require.Contains(t, shown(s), "no forecast before the first payload")
	s.Publish.Operations, s.Operations.Forecast = 3, 500
	require.Contains(t, shown(s), "forecast 500")
}
