package status

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// operations are a month at whose every figure a number stands that no other has.
func operations() Status {
	budget, percent, left, reserve, hour := uint64(7200), 17.53, int64(5221), uint64(720), 9.25
	s := Status{
		Gateway: "gw-0017", Home: Home{State: "proven"}, Sensors: []Sensor{}, Problems: []Problem{},
		Operations: Operations{
			Month: "2026-11-15", Used: 1262, Budget: &budget, Percent: &percent, Forecast: 6480, LimitState: "stretched", Left: &left, Reserve: &reserve, PerHour: &hour,
			Alarms: 3, Free: 11, Unknown: 29, OnePerReading: 63100,
			Past: []PastMonth{{"2026-07-15", 1, 2}, {"2026-08-15", 6001, 300000}, {"2026-09-15", 6002, 310000}, {"2026-10-15", 6003, 320000}},
		},
		Publish: Publish{Operations: 5, MaxAgeS: 842, ConfiguredMaxAgeS: 300, Thinned: 2400},
		Buffer:  Buffer{OldestAgeS: 75.25, Thinned: 3600, ThinnedKept: 1800},
	}
	s.Operations.LimitText = s.Operations.InWords()
	return s
}

func TestLimitInWords(t *testing.T) {
	budget, spent, few, many := uint64(100), int64(0), 0.2903, 1234.5
	for want, o := range map[string]Operations{
		"no budget: operations.per_month is not set":                                                                                {LimitState: "none"},
		"no reading waits for the budget":                                                                                           {LimitState: "below", Budget: &budget},
		"no reading waits for the budget; it allows 0.29 operations an hour besides what is saved":                                  {LimitState: "below", Budget: &budget, PerHour: &few, Forecast: 100},
		"no reading waits for the budget; at this rate it will be exceeded":                                                         {LimitState: "below", Budget: &budget, PerHour: &few, Forecast: 101},
		"readings wait longer than publish.max_age, to keep to the budget; it allows 1234 operations an hour besides what is saved": {LimitState: "stretched", Budget: &budget, PerHour: &many},
		"readings wait longer than publish.max_age, to keep to the budget; at this rate it will be exceeded":                        {LimitState: "stretched", Budget: &budget, PerHour: &few, Forecast: 4000},
		"what the budget does not carry leaves as min, mean and max":                                                                {LimitState: "thin", Budget: &budget},
		"spent: readings wait for the next month; what it does not carry then leaves as min, mean and max":                          {LimitState: "thin", Budget: &budget, Left: &spent, Used: 90},
		"spent: readings and alarms wait for the next month; what it does not carry then leaves as min, mean and max":               {LimitState: "thin", Budget: &budget, Left: &spent, Used: 100},
		"spent: readings wait for the next month":                                                                                   {LimitState: "hold", Budget: &budget, Left: &spent, Used: 99},
		"spent: readings and alarms wait for the next month":                                                                        {LimitState: "hold", Budget: &budget, Left: &spent, Used: 100},
		"spent: readings and alarms leave all the same, beyond the budget":                                                          {LimitState: "continue", Budget: &budget, Left: &spent, Used: 120},
	} {
		require.Equal(t, want, o.InWords())
	}
}

// TestMetricsOfOperations: each figure, with what its HELP says of it.
func TestMetricsOfOperations(t *testing.T) {
	shown := func(s Status) string {
		var b strings.Builder
		WriteMetrics(&b, s)
		return b.String()
	}
	all := shown(operations())
	for sample, help := range map[string]string{
		"homeward_operations_used 1262":                    "never fewer than were sent",
		"homeward_operations_budget 7200":                  "allowed this billing month",
		"homeward_operations_reserve 720":                  "for alarms",
		"homeward_operations_left 5221":                    "left for readings that are no alarms",
		"homeward_operations_alarms 3":                     "for alarms",
		"homeward_operations_forecast 6480":                "at the month's end",
		"homeward_operations_per_hour 9.25":                "an hour",
		"homeward_operations_one_per_reading 63100":        "one publish for each reading",
		`homeward_operations_unbilled{class="free"} 11`:    "what is known of their cost",
		`homeward_operations_unbilled{class="unknown"} 29`: "what is known of their cost",
		`homeward_operations_limit{state="stretched"} 1`:   "the label",
		"homeward_publish_max_age_seconds 842":             "present maximum age",
		"homeward_publish_max_age_configured_seconds 300":  "publish.max_age",
		"homeward_publish_operations_total 5":              "repeats included",
		"homeward_publish_readings_thinned_total 2400":     "gave way to aggregates",
		"homeward_buffer_thinned_kept_readings 1800":       "still stored",
	} {
		require.Contains(t, all, "\n"+sample+"\n")
		name, _, _ := strings.Cut(strings.Fields(sample)[0], "{")
		require.Regexp(t, `(?m)^# HELP `+name+` .*`+help, all)
	}
	without := operations()
	without.Operations.Budget, without.Operations.Left, without.Operations.Reserve, without.Operations.PerHour = nil, nil, nil, nil
	for _, name := range []string{"budget", "reserve", "left", "per_hour"} {
		require.NotContains(t, shown(without), "homeward_operations_"+name, "what there is none of")
	}
}

// TestPageShowsOperations runs the page's script: what it shows, and that it shows the next status when that comes.
func TestPageShowsOperations(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no node: apt install nodejs (scripts/test-deps)")
		}
		t.Skip("no node: apt install nodejs (scripts/test-deps)")
	}
	page := get(t, Handler(operations), "GET", "localhost", "/").Body.String()
	_, script, ok := strings.Cut(page, "<script>")
	require.True(t, ok)
	script, _, ok = strings.Cut(script, "</script>")
	require.True(t, ok)
	first, next, bare := operations(), operations(), Status{Sensors: []Sensor{}, Problems: []Problem{}, Operations: Operations{Past: []PastMonth{}}}
	next.Operations.Used, next.Operations.LimitState, next.Publish.MaxAgeS = 6480, "hold", 5025
	next.Operations.LimitText = "spent"
	bare.Operations.LimitText = "no budget"
	served, err := json.Marshal([]Status{first, next, bare})
	require.NoError(t, err)
	cmd := exec.Command(node, "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`
const served = %s, byID = {};
const element = () => ({textContent: "", kids: [], append(...k) { this.kids.push(...k) }, replaceChildren(...k) { this.kids = k }});
globalThis.document = {getElementById: id => byID[id] ??= element(), createElement: element};
globalThis.fetch = async () => { if (!served.length) throw "end"; const s = served.shift(); return {json: async () => s} };
globalThis.setTimeout = again => { // after each look
  if (served.length === done) return;
  done = served.length;
  const kids = byID.operations.kids.map(k => k.textContent);
  for (let i = 0; i < kids.length; i += 2) console.log(kids[i] + ": " + kids[i + 1]);
  console.log("--");
  again();
};
let done = -1;
(0, eval)(%q);
`, served, script))
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LANG=C")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	shown := strings.Split(strings.ReplaceAll(string(out), ",", ""), "--\n")
	require.GreaterOrEqual(t, len(shown), 3, "%s", out)
	require.Equal(t, `used: 1262 of 7200 (17.5 %) since 2026-11-15
forecast: 6480 at the month's end
saving: one publish per reading would have been 63100 50.0 times as many
limit: stretched: readings wait longer than publish.max_age to keep to the budget; it allows 9.2 operations an hour besides what is saved
alarms: 3 of the operations 720 of the budget kept for them
max age: 14 min 2 s now publish.max_age is 5 min; the oldest reading has waited for 1 min 15 s
besides: 11 operations known to be free 29 of unknown cost (status proofs schemas)
thinned: 3600 of the readings given up gave way to aggregates 2400 since the start; 1800 are still stored
earlier: 2026-10-15: 6003 (320000) 2026-09-15: 6002 (310000) 2026-08-15: 6001 (300000) (one publish per reading)
`, shown[0])
	require.Contains(t, shown[1], "used: 6480 of 7200")
	require.Contains(t, shown[1], "limit: hold: spent\n")
	require.Contains(t, shown[1], "max age: 1 h 23 min 45 s now")
	require.Equal(t, `used: 0 no month yet: the clock was never trusted
forecast: none before the first payload
limit: no budget
alarms: 0 of the operations
besides: 0 operations known to be free 0 of unknown cost (status proofs schemas)
`, shown[2])
}
