package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/agent/pack"
	"homeward/cmd/cmdline"
	"homeward/drivers/sim/truth"
)

// TestVerifyCommand: what homeward decode prints of the demo's channel is compared with a truth file, and the exit code tells.
func TestVerifyCommand(t *testing.T) {
	dir := t.TempDir()
	var told bytes.Buffer
	w := truth.NewWriter(&told)
	begin := start.UnixMilli()
	records := []any{
		truth.Site{Version: 1, TimeMS: begin},
		truth.Sensor{Name: "boiler", Driver: "modbus", EveryMS: 1000, Channels: []truth.Channel{{Name: "polls"}}},
		truth.Fault{TimeMS: begin + 1500, On: "rs485", Sensors: []string{"boiler"}, Fault: "unplug", State: "begin"},
		truth.Fault{TimeMS: begin + 1700, On: "rs485", Sensors: []string{"boiler"}, Fault: "unplug", State: "end"},
		truth.Fault{TimeMS: begin + 1700, On: "broker", Fault: "gone", State: "begin"},
	}
	for v := range 6 {
		records = append(records, truth.Served{TimeMS: begin + int64(1000*v) + 20, Channel: "boiler/polls", Value: float64(v + 1)})
	}
	for _, r := range append(records, truth.End{TimeMS: begin + 7000}) {
		require.NoError(t, w.Write(r))
	}
	require.NoError(t, w.Flush())
	file := filepath.Join(dir, "truth.jsonl")
	require.NoError(t, os.WriteFile(file, told.Bytes(), 0o600))
	decoded := func(payloads ...[]byte) string {
		var b strings.Builder
		for _, p := range payloads {
			x, err := pack.Decode(p)
			require.NoError(t, err)
			require.NoError(t, pack.Lines(&b, x))
		}
		return b.String()
	}
	all := decoded(rows(7, 1, "boiler/polls", 1, 2, 3, 4), rows(7, 5, "boiler/polls", 5, 6), rows(7, 5, "boiler/polls", 5, 6))
	gap := []byte(`{"gw":"g","e":7,"s":3,"n":1,"t":1700000000000,"g":[{"c":["boiler/polls"],"u":[""],"r":[[2000,3]]}],"gap":[{"from":2,"to":2,"n":1,"t_from":1700000001000,"t_to":1700000001000,"reason":"evicted"}]}`)
	path := filepath.Join(dir, "arrived.jsonl")
	for _, c := range []struct {
		name, arrived string
		args          []string
		code          int
		want          []string
	}{
		{"all is well", all, nil, cmdline.ExitDone, []string{"6 values served; 6 readings arrived, of 1 gateways and epochs; 2 identical repeats", "lost       0", "unsampled  0",
			"rs485                    unplug       boiler                   200ms        300ms", "broker                   gone         -", "all is well"}},
		{"from a file", "", []string{path}, cmdline.ExitDone, []string{"all is well"}},
		{"from -", all, []string{"-"}, cmdline.ExitDone, []string{"all is well"}},
		{"a gap", decoded(rows(7, 1, "boiler/polls", 1), gap, rows(7, 4, "boiler/polls", 4, 5, 6)), nil, cmdline.ExitDone, []string{"gap records say evicted: 1", "all is well"}},
		{"lost", decoded(rows(7, 1, "boiler/polls", 1, 2), rows(7, 5, "boiler/polls", 5, 6)), nil, cmdline.ExitFailed, []string{"lost       2", "g epoch 7 seq 3 to 4: no reading", "FAILED: 2 lost"}},
		{"wrong", decoded(rows(7, 1, "boiler/polls", 1, 2, 3.5)), nil, cmdline.ExitFailed, []string{"wrong      1", "g epoch 7 seq 3 boiler/polls 2023-11-14T22:13:22.000Z 3.5: nothing near"}},
		{"another name", `{"gateway":"g","epoch":7,"seq":1,"time":"","t_ms":1,"channel":"boiler/\u001b[2Jflow","value":1,"unit":"","quality":"good"}`, nil, cmdline.ExitFailed, []string{"misnamed   1", `"boiler/\x1b[2Jflow"`}},
		{"JSON", all, []string{"--json"}, cmdline.ExitDone, []string{`"ok": true`, `"kind": "lost"`}},
		{"JSON of what is lost", decoded(rows(7, 2, "boiler/polls", 2)), []string{"--json"}, cmdline.ExitFailed, []string{`"ok": false`}},
		{"no readings", "hello\n", nil, cmdline.ExitFailed, []string{"homeward-simulate: arrived: line 1:", "want what homeward decode prints"}},
		{"two files", "", []string{path, path}, cmdline.ExitUsage, []string{"2 files"}},
		{"no such file", "", []string{path + ".none"}, cmdline.ExitFailed, []string{"no such file"}},
		{"an allowance of nothing", all, []string{"--allowance", "0s"}, cmdline.ExitUsage, []string{"--allowance"}},
		{"a recovery of nothing", all, []string{"--recovery", "-1s"}, cmdline.ExitUsage, []string{"--recovery"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(path, []byte(all), 0o600))
			in, err := os.CreateTemp(dir, "in")
			require.NoError(t, err)
			defer in.Close()
			_, err = in.WriteString(c.arrived)
			require.NoError(t, err)
			_, err = in.Seek(0, 0)
			require.NoError(t, err)
			stdin := os.Stdin
			os.Stdin = in
			defer func() { os.Stdin = stdin }()
			var out bytes.Buffer
			require.Equal(t, c.code, Main(append([]string{"verify", "--truth", file}, c.args...), &out, &out), "%s", &out)
			for _, want := range c.want {
				require.Contains(t, out.String(), want)
			}
			require.NotContains(t, out.String(), "\x1b")
			if c.name == "JSON" {
				var v struct {
					OK bool `json:"ok"`
					truth.Report
				}
				require.NoError(t, json.Unmarshal(out.Bytes(), &v))
				require.Equal(t, uint64(6), v.Readings)
				require.Equal(t, int64(300), *v.Recovered[0].AfterMS)
			}
		})
	}
	var out bytes.Buffer
	require.Equal(t, cmdline.ExitUsage, Main([]string{"verify"}, &out, &out))
	require.Contains(t, out.String(), "no --truth FILE")
	require.Equal(t, cmdline.ExitFailed, Main([]string{"verify", "--truth", path}, &out, &out))
	require.Contains(t, out.String(), "want site first")
}
