package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud/cloudtest"
	"homeward/agent/cloud/mqtt"
	"homeward/agent/config"
	"homeward/agent/status"
)

// brokerDesk is a publisher whose home is a real Mosquitto with further lines of configuration.
func brokerDesk(t *testing.T, extra string, change func(*config.Publish)) *desk {
	t.Helper()
	if testing.Short() {
		t.Skip("short: needs a real broker and some seconds")
	}
	t.Parallel()
	d := newDesk(t, change)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{Extra: extra})
	home, err := mqtt.New(mqtt.Options{URL: m.URL, ClientID: "gw-7", Prefix: "homeward", Organization: "acme", Project: "cold", Gateway: "gw"})
	require.NoError(t, err)
	d.cloud = home
	d.run(t)
	t.Cleanup(func() { d.end(t) })
	return d
}

// until waits for the problem.
func (d *desk) until(t *testing.T, code Code) (found status.Problem) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, p := range d.problems.list() {
			if p.Code == string(code) {
				found = p
				return true
			}
		}
		return false
	}, 2*time.Minute, 20*time.Millisecond, "%s", code)
	return found
}

func (d *desk) lower(n int) {
	c := *d.cfg.Load()
	c.MaxBytes = config.Size(n)
	d.cfg.Store(&c)
}

// delivers appends until something is delivered.
func (d *desk) delivers(t *testing.T, what string) {
	t.Helper()
	require.Eventually(t, func() bool { return d.buf.Stats().Delivered >= 50 }, 2*time.Minute, 20*time.Millisecond, what)
}

// TestMosquittoDropsLarge: Mosquitto acknowledges what is above its message_size_limit, and passes it to nobody.
func TestMosquittoDropsLarge(t *testing.T) {
	d := brokerDesk(t, "message_size_limit 300\n", nil)
	for i := range 50 {
		d.append(t, "s/"+strings.Repeat("x", 40), float64(i)/7, false)
	}
	p := d.until(t, CodeHomeUnproven)
	require.Contains(t, p.Text, "a message of 1024 bytes")
	require.Contains(t, p.Text, "does not come back")
	require.Contains(t, p.Remedy, "message_size_limit to 1024")
	require.Contains(t, p.Remedy, "publish.max_bytes")
	require.Error(t, d.proveNow(t.Context()), "a check says so too")
	require.Zero(t, d.buf.Stats().Delivered)
	require.Empty(t, d.lane.Attempts(), "nothing was sent")
	d.lower(300)
	d.delivers(t, fmt.Sprint(d.problems.list()))
	require.Empty(t, d.codes())
}

// TestMosquittoCutsLarge: Mosquitto ends the connection at what is above its max_packet_size, without a word.
func TestMosquittoCutsLarge(t *testing.T) {
	d := brokerDesk(t, "max_packet_size 900\n", nil)
	for i := range 50 {
		d.append(t, "s/"+strings.Repeat("x", 40), float64(i)/7, false)
	}
	p := d.until(t, CodeStuck)
	require.Contains(t, p.Text, "a payload of 1024 bytes (publish.max_bytes is 1024) was tried 5 times without an answer")
	require.Contains(t, p.Remedy, "max_packet_size")
	err := d.proveNow(t.Context())
	require.ErrorContains(t, err, "1024 bytes", "a check says so too")
	_, remedy := homeProblem(err)
	require.Contains(t, remedy, "max_packet_size")
	require.Zero(t, d.buf.Stats().Delivered)
	require.EqualValues(t, 50, d.buf.Stats().Pending)
	d.lower(800)
	d.delivers(t, fmt.Sprint(d.problems.list()))
	require.Empty(t, d.codes())
}
