package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/agent/status"
	"homeward/buffer"
)

func find(lines []Line, name string) (found []Line) {
	for _, l := range lines {
		if l.Name == name {
			found = append(found, l)
		}
	}
	return found
}

// TestCheckShowsStandingProblems: what the running agent complains of is in its check, once.
func TestCheckShowsStandingProblems(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	a := newAgent(t, plainConfig(t.TempDir()), clock)
	quiet := a.check(t.Context(), "", true)
	a.problems.raise(CodeStatusListen, "127.0.0.1:80", status.Warn, "address already in use", "choose another")
	a.problems.raise(CodeStuck, "", status.Fail, "a payload of 1024 bytes", "lower publish.max_bytes")
	a.problems.raise(CodeHomeDown, "", status.Fail, "no route", "the network")
	lines := a.check(t.Context(), "", true)
	require.Len(t, lines, len(quiet)+2, "offline, the home is not asked for")
	require.Equal(t, []Line{warnLine("status.listen 127.0.0.1:80", "address already in use", "choose another")}, find(lines, "status.listen 127.0.0.1:80"))
	require.Equal(t, []Line{failLine("publish.stuck", "a payload of 1024 bytes", "lower publish.max_bytes")}, find(lines, "publish.stuck"))
	require.Len(t, a.check(t.Context(), "", false), len(quiet)+3, "the home's own line says that it is down")
}

func TestStanding(t *testing.T) {
	ok := []Line{okLine("clock", ""), okLine("buffer", ""), okLine("home", ""), okLine("sensor a", "")}
	bad := []Line{warnLine("clock", "", ""), failLine("buffer", "", ""), failLine("home", "", ""), failLine("sensor a", "", "")}
	for _, tc := range []struct {
		code             Code
		subject          string
		besideOK, inside bool // whether it has a line beside lines that are well, and beside those that are not
	}{
		{CodeSensorSilent, "a", true, false},
		{CodeSensorSlow, "a", true, false},
		{CodeSensorSilent, "b", true, true},
		{CodeBufferFull, "", true, false},
		{CodeBufferDamaged, "", true, true}, // stopped sampling stands in its place
		{CodeBufferDisk, "", true, true},
		{CodeBufferEvicting, "", true, true},
		{CodeStranded, "epoch 1", true, true},
		{CodeHomeUnproven, "", true, false},
		{CodeNoAck, "", true, true},
		{CodeTooLarge, "", true, true},
		{CodeClock, "", true, false},
		{CodeOps70, "", true, true},
		{CodeOps100, "", true, true},
		{CodeStatusListen, "x", true, true},
		{CodeConfigReload, "", false, false}, // these have lines of their own
		{CodeConfigRestart, "", false, false},
		{CodeConfigWarning, "x", false, false},
		{CodeHomeChanged, "", false, false},
	} {
		list := []status.Problem{{Code: string(tc.code), Subject: tc.subject, Severity: status.Fail, Text: "text", Remedy: "remedy"}}
		for beside, want := range map[*[]Line]bool{&ok: tc.besideOK, &bad: tc.inside} {
			got := standing(list, *beside, false)
			require.Equal(t, want, len(got) == 1, "%s: %v", tc.code, got)
			for _, l := range got {
				require.Contains(t, l.Text, "text")
				require.Equal(t, "remedy", l.Remedy)
				answers := tc.code == CodeSensorSilent && slices.Contains([]string{"a", "b"}, tc.subject)
				require.Equal(t, map[bool]string{true: resultWarn, false: resultFail}[answers], l.Result, tc.code)
			}
		}
	}
}

// TestBacklogThatDoesNotLeave: readings that are older than max_age while the home takes readings are worth a look.
func TestBacklogThatDoesNotLeave(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	a := newAgent(t, plainConfig(t.TempDir()), clock)
	a.pub = &publisher{state: "proven"}
	a.pub.view.Connected = true
	_, err := a.lane.Append(buffer.Poll{Stamp: clock.Stamp(), Readings: value(1)})
	require.NoError(t, err)
	result := func() Line {
		t.Helper()
		found := find(a.check(t.Context(), "", true), "buffer")
		require.Len(t, found, 1)
		return found[0]
	}
	require.Equal(t, resultOK, result().Result)
	for range 65 { // max_age is 10 s
		clock.set(noon(2026, 3, 1).Add(2*time.Minute), true)
	}
	require.Equal(t, resultOK, result().Result)
	for range 60 {
		clock.set(noon(2026, 3, 1).Add(2*time.Minute), true)
	}
	l := result()
	require.Equal(t, resultWarn, l.Result)
	require.Contains(t, l.Text, "longer than publish.max_age: 10s")
	require.Contains(t, l.Remedy, "after an outage")

	// A budget that keeps it is named; and a maximum age that it has stretched is what counts.
	a.cfg.Load().Operations = config.Operations{PerMonth: 100, BillingDay: 1, AtLimit: ledger.Hold}
	spendOperations(t, a, 100)
	l = result()
	require.Equal(t, resultWarn, l.Result)
	require.Contains(t, l.Text, "longer than publish.max_age: 10s; hold: spent: readings and alarms wait for the next month")
	require.Contains(t, l.Remedy, "operations.per_month")
	a.pub.view.MaxAgeS = 20
	require.Contains(t, result().Text, "longer than the present maximum age: 20s")
	a.pub.view.MaxAgeS = 3600
	require.Equal(t, resultOK, result().Result)
	a.cfg.Load().Operations.PerMonth, a.pub.view.MaxAgeS = 0, 0
	a.pub.view.Connected = false
	require.Equal(t, resultOK, result().Result, "the home's own line says why it waits")
}

// TestBudgetRemedies: what is advised is what helps, and what is said of a budget that does not suffice is what the agent will do.
func TestBudgetRemedies(t *testing.T) {
	sensors := func(c *config.Config, every time.Duration) {
		s := fakeConfig("a", every, &fakeOptions{})
		c.Sensors = []config.Sensor{s}
	}
	c := plainConfig(t.TempDir())
	c.Publish.Format = "rows"
	c.Operations.PerMonth = 10
	sensors(c, 100*time.Millisecond)
	c.Publish.MaxAge = config.Duration(time.Hour)
	for atLimit, want := range map[string]string{
		ledger.Hold:     "what it does not carry will wait in the buffer, and once that is full the oldest is given up",
		ledger.Thin:     "what it does not carry will leave as min, mean and max of each channel and interval",
		ledger.Continue: "the budget will be exceeded by about ",
	} {
		c.Operations.AtLimit = atLimit
		l := checkBudget(c)
		require.Equal(t, resultWarn, l.Result)
		require.Contains(t, l.Text, "no publish.max_age makes it suffice")
		require.Contains(t, l.Text, want)
		require.Contains(t, l.Remedy, "longer publish.max_age saves nothing: raise the sensors' every")
		require.Equal(t, atLimit != ledger.Thin, strings.Contains(l.Remedy, "operations.at_limit: "), l.Remedy)
	}
	c.Operations.AtLimit, c.Buffer.WhenFull = ledger.Hold, "stop-sampling"
	require.Contains(t, checkBudget(c).Text, "once that is full nothing more is recorded")
	c.Publish.MaxBytes = 512
	require.Contains(t, checkBudget(c).Remedy, "saves nothing: raise publish.max_bytes to 1024")
	c.Publish.MaxBytes = 1024

	// One reading a minute: 44,640 a month, at most some thousand payloads.
	sensors(c, time.Minute)
	c.Publish.MaxAge = config.Duration(2 * time.Minute)
	c.Operations.PerMonth, c.Operations.Reserve = 2000, 0.1
	for _, c.Operations.AtLimit = range []string{ledger.Hold, ledger.Thin, ledger.Continue} {
		l := checkBudget(c)
		require.Equal(t, resultWarn, l.Result)
		require.Contains(t, l.Text, " of 2000, 200 of which are kept for alarms: so that it lasts, readings will wait longer than publish.max_age: 2m, about 24m")
		require.Contains(t, l.Remedy, "leave before they are full: raise publish.max_age")
	}
	c.Operations.PerMonth = 10
	require.Contains(t, checkBudget(c).Text, "no publish.max_age makes it suffice")
	require.Contains(t, checkBudget(c).Remedy, "saves some, and not enough: raise the sensors' every")

	// What is said to suffice does, and not much less.
	var enough float64
	_, after, _ := strings.Cut(checkBudget(c).Remedy, "; as configured about ")
	_, err := fmt.Sscanf(after, "%f a month would do", &enough)
	require.NoError(t, err)
	c.Operations.PerMonth = int64(enough)
	require.NotContains(t, checkBudget(c).Text, "suffice")
	require.NotContains(t, checkBudget(c).Text, "wait longer")
	c.Operations.PerMonth = int64(0.9 * enough)
	require.Contains(t, checkBudget(c).Text, "wait longer")

	c.Operations.PerMonth = 100_000
	require.Equal(t, resultOK, checkBudget(c).Result)
	c.Publish.Format, c.Operations.PerMonth = "senml", 10
	sensors(c, 100*time.Millisecond)
	c.Publish.MaxAge = config.Duration(time.Hour)
	require.Contains(t, checkBudget(c).Remedy, "publish.format: packed makes about")
}

// TestCheckRate: a publish.rate that does not carry what is configured is named, budget or not.
func TestCheckRate(t *testing.T) {
	c := plainConfig(t.TempDir())
	c.Publish.Format = "rows"
	c.Sensors = []config.Sensor{fakeConfig("a", 2*time.Second, &fakeOptions{})}
	c.Publish.MaxAge = config.Duration(time.Minute)
	require.Equal(t, resultOK, checkBudget(c).Result)
	for rate, want := range map[config.Rate]string{
		{N: 1, Per: time.Minute}:    "",
		{N: 30, Per: time.Minute}:   "",
		{N: 1, Per: 24 * time.Hour}: "; publish.rate: 1/24h lets about 31 payloads leave of 46179: readings will wait in the buffer until it is full",
		{N: 4, Per: 5 * time.Minute}: "; publish.rate: 4/5m lets about 35712 payloads leave of 46179: " +
			"readings will wait longer than publish.max_age: 1m, about 1m15s",
	} {
		c.Publish.Rate = rate
		l := checkBudget(c)
		if want == "" {
			require.Equal(t, resultOK, l.Result, l.Text)
			continue
		}
		require.Equal(t, resultWarn, l.Result, l.Text)
		require.Contains(t, l.Text, want)
		require.Contains(t, l.Remedy, "raise publish.rate")
	}
	c.Operations.PerMonth, c.Publish.Rate = 100, config.Rate{N: 1, Per: 24 * time.Hour}
	l := checkBudget(c)
	require.Contains(t, l.Text, "no publish.max_age makes it suffice")
	require.Contains(t, l.Remedy, "raise publish.rate; ")
	require.Contains(t, l.Remedy, "raise operations.per_month")
}

// TestOperationsRemedy: the agent advises by what made its payloads leave.
func TestOperationsRemedy(t *testing.T) {
	for want, tc := range map[string]struct {
		values int
		age    time.Duration
	}{
		"saves nothing: raise the sensors' every": {2000, time.Hour},
		"full: raise publish.max_age":             {20, 3 * time.Second},
		"homeward plan says whether":              {0, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, func(c *config.Publish) { c.MaxAge = config.Duration(tc.age) })
			clock := &setClock{}
			clock.set(noon(2026, 3, 20), true)
			c := plainConfig(t.TempDir())
			c.Operations.PerMonth = 10
			a := newAgent(t, c, clock)
			spendOperations(t, a, 10)
			a.pub = d.publisher
			d.run(t)
			for i := range tc.values {
				d.append(t, "s/c", float64(i)/7, false)
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(20 * time.Second)
			a.operationProblems()
			list := a.problems.list()
			require.Len(t, list, 1)
			require.Contains(t, list[0].Remedy, want)
			d.end(t)
			require.NoError(t, a.buf.Close())
		})
	}
}
