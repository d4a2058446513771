package cli

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"homeward/agent/config"
	"homeward/agent/status"
	"homeward/cmd/cmdline"
	"homeward/drivers/all"
	"homeward/drivers/sim"
	"homeward/drivers/sim/site"
	"homeward/drivers/sim/truth"
)

const small = `ports:
  - name: rs485
    slaves:
      - {sensor: boiler, unit_id: 1, every: 200ms, channels: [{name: flow, register: holding, address: 0, type: int16, scale: 0.1, unit: Cel, value: {sine: {mean: 62, amplitude: 8, period: 9s}}}]}
i2c:
  - {name: i2c-1, chips: [{sensor: cellar, chip: bme280, every: 200ms}]}
spi:
  - {name: spi0.0, sensor: tank, chip: mcp3008, vref: 3.3, every: 200ms, channels: [{name: level, input: 0, value: 1.5}]}
faults:
  - {at: 200ms, for: 100ms, on: cellar, fault: nack}
`

func siteFile(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "site.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestSite: a gateway with the configuration that --gateway writes accepts it and reads the site.
func TestSite(t *testing.T) {
	defer goleak.VerifyNone(t)
	program := built(t)
	dir, path := t.TempDir(), siteFile(t, small)
	config, told := filepath.Join(dir, "gateway.yaml"), filepath.Join(dir, "truth.jsonl")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	root := Command()
	out := new(safeBuffer)
	root.SetArgs([]string{path, "--dir", filepath.Join(dir, "site"), "--gateway", config, "--truth", told})
	root.SetOut(out)
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "nack on cellar ends") }, 20*time.Second, 10*time.Millisecond)

	written, err := os.ReadFile(config)
	require.NoError(t, err)
	require.Contains(t, string(written), "max_age: 2s", "nothing waits for minutes until somebody compares")
	socket := filepath.Join(dir, "site", "sim.sock")
	check := exec.Command(program, "check", "--config", config)
	check.Env = append(childEnv(os.Environ()), sim.Env+"="+socket)
	text, err := check.CombinedOutput()
	require.NoError(t, err, "%s", text)
	for _, want := range []string{"boiler: modbus on sim:rs485: flow ", "cellar: bme280 on sim:i2c-1: temperature ", "tank: mcp3008 on sim:spi0.0: level ", "reached and proven"} {
		require.Contains(t, string(text), want)
	}
	gw, err := startGateway(program, config, filepath.Join(dir, "site", "state"), filepath.Join(dir, "log"), socket)
	require.NoError(t, err)
	v, err := gw.until(ctx, 20*time.Second, func(v status.Status) bool { return v.Buffer.Delivered >= 3 })
	require.NoError(t, err, "%+v\n%s", v, tail(gw.log, 20))
	require.NoError(t, gw.stop(stopBound))

	cancel() // as Ctrl-C does
	require.NoError(t, <-done)
	for _, want := range []string{"HOMEWARD_SIM=" + socket, "sim:rs485", "sim:i2c-1, 0x76: cellar", "sim:spi0.0: tank", "mqtt://127.0.0.1:", told, config, "nack on cellar begins for 100ms"} {
		require.Contains(t, out.String(), want)
	}
	f, err := os.Open(told)
	require.NoError(t, err)
	defer f.Close()
	served, faults := map[string]int{}, 0
	complete, err := truth.Read(f, truth.Reader{
		Served: func(v truth.Served) error { served[v.Channel]++; return nil },
		Fault:  func(truth.Fault) error { faults++; return nil },
	})
	require.NoError(t, err)
	require.True(t, complete)
	require.Equal(t, 2, faults)
	for _, channel := range []string{"boiler/flow", "cellar/temperature", "tank/level"} {
		require.NotZero(t, served[channel], channel)
	}
}

func TestSiteEnds(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out, errs bytes.Buffer
	require.Equal(t, cmdline.ExitDone, Main([]string{siteFile(t, small), "--for", "50ms"}, &out, &errs), "%s", &errs)
	require.Empty(t, errs.String())
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	for _, x := range left { // the files of the test itself are there
		require.NotContains(t, x.Name(), "homeward-site-", "its folder is gone")
	}
}

// TestTruthFile: one that is there is not overwritten, and one that cannot be written ends the run, with one message.
func TestTruthFile(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	told := filepath.Join(t.TempDir(), "truth.jsonl")
	var out, errs bytes.Buffer
	require.Equal(t, cmdline.ExitDone, Main([]string{siteFile(t, small), "--for", "10ms", "--truth", told}, &out, &errs), "%s", &errs)
	before, err := os.ReadFile(told)
	require.NoError(t, err)
	require.Equal(t, cmdline.ExitUsage, Main([]string{siteFile(t, small), "--for", "10ms", "--truth", told}, &out, &errs))
	require.Contains(t, errs.String(), "want a new file")
	after, err := os.ReadFile(told)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))

	errs.Reset()
	require.Equal(t, cmdline.ExitFailed, Main([]string{siteFile(t, small), "--for", "30s", "--truth", "/dev/full"}, &out, &errs))
	require.Equal(t, 1, strings.Count(errs.String(), "no space left on device"), "%s", &errs)
}

func TestSiteUsage(t *testing.T) {
	bad := siteFile(t, strings.NewReplacer("unit_id: 1", "unit_id: 0", "vref: 3.3", "vref: 0").Replace(small))
	var out bytes.Buffer
	require.Equal(t, cmdline.ExitUsage, Main([]string{bad}, &out, &out))
	require.Equal(t, bad+":4:35: ports[0].slaves[0].unit_id: \"0\": want a whole number from 1 to 247\n"+
		bad+":8:55: spi[0].vref: \"0\": want the reference voltage, above 0 and at most 100 V\n", out.String())
	good := siteFile(t, small)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"/nowhere/site.yaml"}, cmdline.ExitUsage, "/nowhere/site.yaml"},
		{[]string{good, good}, cmdline.ExitUsage, "want one site's file"},
		{[]string{good, "--for", "-1s"}, cmdline.ExitUsage, "want a time"},
		{[]string{"--for", "1s"}, cmdline.ExitUsage, "no site's file"},
		{[]string{good, "--speed", "3"}, cmdline.ExitUsage, "unknown flag"},
		{[]string{good, "--truth", "/nowhere/truth"}, cmdline.ExitFailed, "/nowhere/truth"},
		{[]string{good, "--dir", "/tmp/" + strings.Repeat("x", 120)}, cmdline.ExitUsage, "too long for a socket"},
	} {
		out.Reset()
		require.Equal(t, c.code, Main(c.args, &out, &out), "%v: %s", c.args, &out)
		require.Contains(t, out.String(), c.want)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestExamples: a gateway takes the configuration of every site in configs/sites.
func TestExamples(t *testing.T) {
	paths, err := filepath.Glob("../../../configs/sites/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s, err := site.Load(path)
			require.NoError(t, err)
			r, err := s.Open(site.Options{Dir: t.TempDir(), Broker: func(l net.Listener) (io.Closer, error) { return serveBroker(l, nil) }})
			require.NoError(t, err)
			defer r.Close()
			c, err := config.Parse("gateway.yaml", []byte(r.Config("/tmp/state", false)), all.Factories)
			require.NoError(t, err)
			require.Empty(t, c.Warnings)
			var channels []string
			for i := range c.Sensors {
				require.False(t, c.Sensors[i].Disabled)
				for _, ch := range c.Sensors[i].Channels {
					channels = append(channels, c.Sensors[i].Full(ch.Name))
				}
			}
			require.Equal(t, s.Channels(), channels, "what the truth file tells of")
		})
	}
}
