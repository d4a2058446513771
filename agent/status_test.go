package agent

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/buffer"
	"homeward/drivers"
)

// TestStatusOfOperations: what the agent says of its month is what the ledger, the buffer and the configuration have.
func TestStatusOfOperations(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 20), true)
	c := plainConfig(t.TempDir())
	c.Publish.MaxAge = config.Duration(90 * time.Second)
	a := newAgent(t, c, clock)
	o := a.Status().Operations
	require.Equal(t, "none", o.LimitState)
	require.Contains(t, o.LimitText, "no budget")
	require.Nil(t, o.Left)
	require.Nil(t, o.Reserve)

	c.Operations = config.Operations{PerMonth: 100, Reserve: 0.1, BillingDay: 1, AtLimit: ledger.Hold}
	for _, e := range []ledger.Entry{
		{Class: ledger.Billed, Cost: 40, Kind: ledger.Live, Readings: 2000}, {Class: ledger.Billed, Cost: 2, Kind: ledger.Alarm, Readings: 2},
		{Class: ledger.Free, Cost: 3, Kind: ledger.Overhead}, {Class: ledger.Unknown, Cost: 5, Kind: ledger.Overhead},
	} {
		_, err := a.ledger.Count(e)
		require.NoError(t, err)
	}
	o = a.Status().Operations
	require.Equal(t, []uint64{42, 100, 10, 2, 3, 5, 2002}, []uint64{o.Used, *o.Budget, *o.Reserve, o.Alarms, o.Free, o.Unknown, o.OnePerReading})
	require.EqualValues(t, 50, *o.Left, "of 90 for readings")
	require.Equal(t, o.InWords(), o.LimitText)
	spendOperations(t, a, 50)
	require.Equal(t, "spent: readings wait for the next month", a.Status().Operations.LimitText)
	clock.set(noon(2026, 4, 1), true)
	require.Equal(t, "2026-03-01", a.Status().Operations.Past[0].Month)
	require.EqualValues(t, 92, a.Status().Operations.Past[0].Used)

	lane, err := a.buf.Lane(a.epoch)
	require.NoError(t, err)
	poll := buffer.Poll{Readings: []drivers.Reading{{Channel: "a/x", Value: 1}, {Channel: "a/y", Value: 2}}}
	first, err := lane.Append(poll)
	require.NoError(t, err)
	poll.Readings = []drivers.Reading{{Channel: "a/x/mean", Value: 1, Quality: drivers.Aggregate}}
	_, err = lane.Thin(buffer.Range{From: first, To: first + 1}, []buffer.Poll{poll})
	require.NoError(t, err)
	require.EqualValues(t, 2, a.Status().Buffer.Thinned)
	require.EqualValues(t, 2, a.Status().Buffer.ThinnedKept)
	require.Equal(t, 90.0, a.Status().Publish.ConfiguredMaxAgeS)
}

// What the budget makes of publishing is said of the present configuration, not of what it did a while ago.
func TestLimitState(t *testing.T) {
	c := plainConfig(t.TempDir())
	c.Publish.MaxAge, c.Operations.PerMonth = config.Duration(time.Minute), 100
	for _, x := range []struct {
		atLimit, want string
		maxAge        float64
		thinning      bool
		left          int64
	}{
		{ledger.Thin, "thin", 60, true, 50}, {ledger.Hold, "below", 60, true, 50}, {ledger.Hold, "stretched", 90, true, 50}, {ledger.Continue, "stretched", 90, true, 50},
		{ledger.Thin, "stretched", 90, false, 50}, {ledger.Thin, "below", 60, false, 50}, {ledger.Hold, "hold", 60, false, 0},
	} {
		c.Operations.AtLimit = x.atLimit
		require.Equal(t, x.want, limitState(c, ledger.Report{Left: x.left}, x.maxAge, x.thinning), "%+v", x)
	}
}
