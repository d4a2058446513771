package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/drivers"
)

// gateway is a configuration of sensors that are read every so often and have so many channels.
func gateway(maxBytes config.Size, maxAge time.Duration, sensors map[time.Duration]int) *config.Config {
	c := &config.Config{Gateway: "gw-0017", Publish: config.Publish{Format: "rows", MaxBytes: maxBytes, MaxAge: config.Duration(maxAge)}}
	unit := drivers.Unit("Cel")
	for every, channels := range sensors {
		s := config.Sensor{Name: "boiler", Driver: "modbus", Every: config.Duration(every)}
		for i := range channels {
			s.Channels = append(s.Channels, drivers.Channel{Name: fmt.Sprintf("t%02d", i), Unit: &unit})
		}
		c.Sensors = append(c.Sensors, s)
	}
	return c
}

func TestPlanFull(t *testing.T) {
	// Ten channels a second fill 1,024 bytes long before five minutes are over.
	f, err := Plan(gateway(1024, 5*time.Minute, map[time.Duration]int{time.Second: 10}), PlanOptions{})
	require.NoError(t, err)
	require.Equal(t, float64(31*24*3600*10), f.Readings)
	rows := f.Formats[0]
	require.Equal(t, "full", rows.LimitedBy)
	require.InDelta(t, f.Readings, rows.Payloads*rows.ReadingsPerPayload, 1)
	require.InEpsilon(t, rows.PayloadsIfFull, rows.Payloads, 1e-9)
	require.Equal(t, rows.Payloads, rows.Operations, "a payload of 1,024 bytes is one operation")
	require.Equal(t, f.Operations, rows.Operations)
	require.Greater(t, rows.BytesPerPayload, 1024.0-80, "filled up to the limit, short of one more row at most")
	require.LessOrEqual(t, rows.BytesPerPayload, 1024.0)
	require.Equal(t, f.Readings, f.OneByOne.Operations)
	require.Less(t, rows.Operations*50, f.OneByOne.Operations)
	require.Nil(t, f.Percent)
}

func TestPlanAged(t *testing.T) {
	// Two channels every half minute: a payload leaves after five minutes with ten polls in it.
	c := gateway(1024, 5*time.Minute, map[time.Duration]int{30 * time.Second: 2})
	c.Operations.PerMonth = 8928 * 2
	f, err := Plan(c, PlanOptions{})
	require.NoError(t, err)
	rows := f.Formats[0]
	require.Equal(t, "age", rows.LimitedBy)
	require.Equal(t, 20.0, rows.ReadingsPerPayload)
	require.InDelta(t, 31*24*12, rows.Payloads, 1e-6)
	require.InDelta(t, 31*24*12, rows.PayloadsByAge, 1e-6)
	require.Less(t, rows.PayloadsIfFull, rows.Payloads)
	require.InDelta(t, 50, *f.Percent, 1e-6)
}

func TestPlanFewerPollsThanAges(t *testing.T) {
	f, err := Plan(gateway(1024, 5*time.Minute, map[time.Duration]int{24 * time.Hour: 3}), PlanOptions{})
	require.NoError(t, err)
	require.InDelta(t, 31, f.Formats[0].Payloads, 1e-9)
	require.InDelta(t, 31, f.Formats[0].PayloadsByAge, 1e-9)
	require.InDelta(t, 93, f.Readings, 1e-9)
}

func TestPlanLargePayloadsCostMore(t *testing.T) {
	c := gateway(4096, time.Hour, map[time.Duration]int{time.Second: 10})
	f, err := Plan(c, PlanOptions{})
	require.NoError(t, err)
	require.InDelta(t, f.Formats[0].Payloads, f.Operations, 1e-6, "where the home counts publishes")
	c.Operations.PerBytes = 1024
	f, err = Plan(c, PlanOptions{})
	require.NoError(t, err)
	require.InDelta(t, 4*f.Formats[0].Payloads, f.Operations, 1e-6)
}

func TestPlanPollTooLargeForOnePayload(t *testing.T) {
	f, err := Plan(gateway(1024, time.Minute, map[time.Duration]int{time.Minute: 100}), PlanOptions{})
	require.NoError(t, err)
	require.InDelta(t, 31*24*60*100, f.Readings, 1e-6)
	require.Greater(t, f.Formats[0].Payloads, 31*24*60*1.99)
	_, err = Plan(gateway(100, time.Minute, map[time.Duration]int{time.Minute: 2}), PlanOptions{})
	require.ErrorContains(t, err, "boiler/t00 does not fit into a payload of 100 bytes: raise publish.max_bytes")
}

func TestPlanOfNothing(t *testing.T) {
	c := gateway(1024, time.Minute, map[time.Duration]int{time.Minute: 2})
	c.Sensors[0].Disabled = true
	f, err := Plan(c, PlanOptions{Prices: true})
	require.NoError(t, err)
	require.Zero(t, f.Readings)
	require.Zero(t, f.Operations)
	require.Equal(t, 1, f.Blocks.Blocks, "the gateway itself needs one")
	text, err := json.Marshal(f)
	require.NoError(t, err, "no NaN")
	require.NotContains(t, string(text), "NaN")
	require.NoError(t, f.Print(&bytes.Buffer{}))
}

func TestBlocks(t *testing.T) {
	for _, c := range []struct {
		gateways, operations float64
		want                 int
	}{
		{1, 0, 1}, {100, 720_000, 1}, {100, 720_001, 2}, {101, 10, 2}, {250, 3_000_000, 5}, {1000, 7_200_000, 10},
	} {
		require.Equal(t, c.want, blocks(c.gateways, c.operations), "%v", c)
	}
}

func TestLong(t *testing.T) {
	for seconds, want := range map[float64]string{59.4: "59s", 3600: "1h", 45480: "12h38m", 2 * 86400: "2 days", 2*86400 + 3600: "2 days 1h"} {
		require.Equal(t, want, long(seconds))
	}
}

func TestPrint(t *testing.T) {
	c := gateway(1024, 5*time.Minute, map[time.Duration]int{10 * time.Second: 4})
	c.Operations.PerMonth = 7200
	f, err := Plan(c, PlanOptions{Devices: 250, Prices: true})
	require.NoError(t, err)
	require.Equal(t, 250, f.Gateways)
	require.Equal(t, float64(f.Blocks.Blocks*299), *f.Blocks.Dollars)
	require.Equal(t, float64(f.Blocks.Cellular*299), *f.Blocks.DollarsCellular)
	var b bytes.Buffer
	require.NoError(t, f.Print(&b))
	for _, want := range []string{"one publish per reading", "1,071,360", "budget ", "250 gateways", "US$299 a block", "over cellular data US$", "720,000 operations and 100 devices"} {
		require.Contains(t, strings.Join(strings.Fields(b.String()), " "), want)
	}
	again, err := Plan(c, PlanOptions{Devices: 250, Prices: true})
	require.NoError(t, err)
	require.Equal(t, f, again, "the same configuration gives the same plan")
	f, err = Plan(c, PlanOptions{})
	require.NoError(t, err)
	b.Reset()
	require.NoError(t, f.Print(&b))
	require.False(t, strings.Contains(b.String(), "US$"), "prices only when asked for")
	require.False(t, math.IsNaN(f.Operations))
}
