package cli

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"homeward/agent/status"
	"homeward/drivers/sim"
)

// TestFaults: the real gateway recovers by itself from what the site does to it, and what
// it recorded meanwhile arrives unchanged.
func TestFaults(t *testing.T) {
	defer goleak.VerifyNone(t)
	program := built(t)
	dir := t.TempDir()
	s, err := openSite(dir, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer s.Close()
	listen, err := freePort()
	require.NoError(t, err)
	state, config := filepath.Join(dir, "state"), filepath.Join(dir, "homeward.yaml")
	require.NoError(t, os.WriteFile(config, []byte(s.config(state, listen, false)), 0o600))
	log := filepath.Join(dir, "homeward.log")
	gw, err := startGateway(program, config, state, log, s.Socket())
	require.NoError(t, err)
	defer gw.stop(stopBound)

	// until waits for the sensors' states: name to state, or to !state.
	until := func(want map[string]string) status.Status {
		t.Helper()
		v, err := gw.until(context.Background(), 15*time.Second, func(v status.Status) bool {
			for _, x := range v.Sensors {
				if state, not := strings.CutPrefix(want[x.Name], "!"); not == (x.State == state) {
					return false
				}
			}
			return len(v.Sensors) == 3
		})
		require.NoError(t, err, "%v: %+v\n%s", want, v.Sensors, tail(log, 20))
		return v
	}
	const ok = "ok"
	until(map[string]string{"boiler": ok, "cellar": ok, "tank": ok})

	before := s.Line("rs485").TTY()
	require.NoError(t, s.Line("rs485").Unplug())
	bus := s.World().AddI2C("i2c-1")
	bus.Unplug(0x76)
	until(map[string]string{"boiler": "gone", "cellar": "!ok", "tank": ok})
	require.NoError(t, s.Line("rs485").Plug())
	require.NotEqual(t, before, s.Line("rs485").TTY(), "it comes back under another number")
	bus.Plug(0x76)
	until(map[string]string{"boiler": ok, "cellar": ok, "tank": ok})

	s.SPI("spi0.0").SetFault(sim.BusFault{Float: true, Level: 0xFF})
	until(map[string]string{"tank": "!ok", "boiler": ok, "cellar": ok})
	s.SPI("spi0.0").SetFault(sim.BusFault{})
	bus.SetGone(true)
	until(map[string]string{"tank": ok, "boiler": ok, "cellar": "gone"})
	bus.SetGone(false)
	until(map[string]string{"tank": ok, "boiler": ok, "cellar": ok})

	var out bytes.Buffer
	d := &demo{dir: dir, out: &out, site: s, gw: gw, config: config, listen: listen}
	wrong, err := d.end(state)
	require.NoError(t, err)
	require.Empty(t, wrong)
	for _, x := range d.last.Sensors {
		require.NotZero(t, x.Errors, x.Name)
	}
	require.Empty(t, d.last.Problems)
}
