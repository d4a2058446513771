package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud"
	"homeward/agent/config"
	"homeward/agent/home"
	"homeward/agent/status"
	"homeward/buffer/durable"
	"homeward/ota/boot"
	"homeward/ota/release"
)

// TestToldUntilItHasArrived: what became of an update is told again until a home that is proven has taken it; the status that a
// connection begins with proves nothing.
func TestToldUntilItHasArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		var owed atomic.Bool
		var reported atomic.Int64
		owed.Store(true)
		d.owes = owed.Load
		d.reported = func(text []byte) {
			require.Equal(t, "{}", string(text))
			reported.Add(1)
			owed.Store(false)
		}
		d.home.prove = &cloud.Error{Class: cloud.Unproven, Op: "prove", Err: errors.New("does not come back"), Remedy: "look"}
		d.run(t)
		time.Sleep(10 * time.Minute)
		require.Zero(t, reported.Load(), "a home that may throw it away")
		d.home.set(func() { d.home.prove, d.home.deaf = nil, errors.New("no answer") })
		time.Sleep(10 * time.Minute)
		require.Zero(t, reported.Load(), "it was not taken")
		d.home.set(func() { d.home.deaf = nil })
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 1, reported.Load())
		taken := 0
		d.home.set(func() { taken = len(d.home.statuses) })
		time.Sleep(time.Hour)
		d.home.set(func() { require.Len(t, d.home.statuses, taken, "once is enough") })
		require.EqualValues(t, 1, reported.Load())
		d.end(t)
	})
}

// TestNudged: whatever is said at B/orders is a reason to look at the repository, but for what a receiver asks of the publisher.
func TestNudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, nil)
		var nudges atomic.Int64
		d.nudged = func() { nudges.Add(1) }
		d.run(t)
		time.Sleep(time.Minute)
		for _, text := range []string{`{"look":true}`, "", "{", strings.Repeat("[", 1000), `{"schema":true}`} {
			var last *fakeSession
			d.home.set(func() { last = d.home.last })
			last.hints <- cloud.Hint{Topic: "orders", Payload: []byte(text)}
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 4, nudges.Load())
		d.end(t)
	})
}

// TestSensorTrouble: a release is judged by what the one before it reached.
func TestSensorTrouble(t *testing.T) {
	cfg := &config.Config{Sensors: []config.Sensor{{Name: "a"}}}
	for _, c := range []struct {
		name, now, before string
		every             float64
		up                time.Duration
		want              string
	}{
		{"works", "ok", "ok", 10, time.Hour, ""},
		{"works now", "ok", "silent", 10, time.Hour, ""},
		{"some channels", "partial", "ok", 10, time.Hour, ""},
		{"disabled", "disabled", "ok", 10, time.Hour, ""},
		{"silent before, too", "silent", "silent", 10, time.Hour, ""},
		{"silent now", "silent", "ok", 10, time.Hour, "it is silent: no answer (it was ok before the update)"},
		{"fails otherwise", "failing", "silent", 10, time.Hour, "it is failing: no answer (it was silent before the update)"},
		{"nothing is known", "failing", "", 10, time.Hour, "it is failing: no answer"},
		{"not asked yet", "starting", "ok", 3600, 50 * time.Minute, ""},
		{"should have been asked", "starting", "ok", 10, 2 * time.Minute, "it is starting: no answer (it was ok before the update)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := status.Sensor{Name: "a", State: c.now, EveryS: c.every, LastError: "no answer"}
			require.Equal(t, c.want, sensorTrouble(s, c.before, cfg, c.up))
			s.Name = "new in the configuration"
			require.Empty(t, sensorTrouble(s, c.before, cfg, c.up))
		})
	}
}

// TestHealth: a working agent is healthy against its own baseline; one whose store takes nothing is not.
func TestHealth(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	a := newAgent(t, plainConfig(t.TempDir()), clock)
	a.sampler = &sampler{}
	h := &health{a: a}
	before, err := h.Baseline(t.Context())
	require.NoError(t, err)
	var b baseline
	require.NoError(t, json.Unmarshal(before, &b))
	require.Positive(t, b.RSS)
	require.Positive(t, b.Files)
	names := map[string]bool{}
	for _, c := range h.Check(t.Context(), before) {
		require.True(t, c.OK, "%+v", c)
		names[c.Name] = true
	}
	require.Equal(t, map[string]bool{"config": true, "store": true, "memory": true, "files": true}, names)
	require.False(t, h.Link(t.Context()), "there is no home")

	require.NoError(t, a.buf.Close())
	h.written = time.Time{}
	checks := h.Check(t.Context(), nil)
	require.Equal(t, "store", checks[1].Name)
	require.False(t, checks[1].OK)
	require.NotEmpty(t, checks[1].Text)
	require.True(t, h.Check(t.Context(), []byte(`{"store":false}`))[1].OK, "it took nothing before the update, either")
}

// TestFleetTrouble: a gateway whose fleet cannot be looked at works, and says so.
func TestFleetTrouble(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	c := plainConfig(t.TempDir())
	c.Fleet = &config.Fleet{Repository: "https://192.0.2.1/acme", RootFile: filepath.Join(c.State, "none.json")}
	a, err := New(Options{Config: c, Clock: clock, Updates: &Updates{SelfCheck: func(context.Context, string) error { return nil }}})
	require.NoError(t, err)
	defer func() { require.NoError(t, a.buf.Close()) }()
	require.Contains(t, a.codes(), string(CodeUpdateSource))
	require.Contains(t, a.problems.list()[0].Text, "none.json")
	require.Equal(t, "none", a.Status().Update.State)
	a.updateProblems()
	require.Contains(t, a.codes(), string(CodeUpdateSource), "it stays")
}

// TestNoFleet: without one nothing is said of updates.
func TestNoFleet(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	c := plainConfig(t.TempDir())
	a, err := New(Options{Config: c, Clock: clock, Version: "1.2.3", Updates: &Updates{Slot: "factory"}})
	require.NoError(t, err)
	defer func() { require.NoError(t, a.buf.Close()) }()
	require.Nil(t, a.updates)
	require.Empty(t, a.codes())
	var v struct {
		Release string
		Update  map[string]any
	}
	require.NoError(t, json.Unmarshal(a.describe(true), &v))
	require.Equal(t, "1.2.3", v.Release)
	require.Equal(t, map[string]any{"state": "none", "code": "", "counter": 0.0, "attempt": 0.0}, v.Update)
	require.NoDirExists(t, UpdatePath(c.State))
	text, err := os.ReadFile(home.EnrolmentPath(c.State))
	require.NoError(t, err)
	e, err := release.ParseEnrolment(text)
	require.NoError(t, err)
	require.Equal(t, c.Gateway, e.Gateway)
	require.Equal(t, "1.2.3", e.Agent)
	require.NotContains(t, string(text), "SECRET")
}

// TestStoppedCostsNoTry: a stop that was asked for is noted for the launcher.
func TestStoppedCostsNoTry(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	c := plainConfig(t.TempDir())
	slot := strings.Repeat("ab", 32)
	a := newAgent(t, c, clock)
	a.Updates = &Updates{Slot: slot}
	a.stopped()
	require.NoDirExists(t, UpdatePath(c.State), "nothing was ever updated")
	require.NoError(t, os.Mkdir(UpdatePath(c.State), 0o700))
	store := &boot.Store{FS: durable.OS{}, Dir: UpdatePath(c.State)}
	_, err := store.Update(func(r *boot.Record) error {
		r.Trial = &boot.Trial{Slot: slot, TriesLeft: 2, BootsLeft: 10, BootID: boot.BootID(), Release: boot.Release{Product: "p", Version: "2", Counter: 2, SHA256: slot}}
		return nil
	})
	require.NoError(t, err)
	a.stopped()
	rec, _, err := store.Load()
	require.NoError(t, err)
	require.True(t, rec.Trial.Clean)
}

// TestTrialWithoutFleet: a release on trial that cannot look at its fleet has an updater all the same, which undoes it.
func TestTrialWithoutFleet(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	slot := strings.Repeat("ab", 32)
	for name, fleet := range map[string]*config.Fleet{"none": nil, "without root": {Repository: "https://192.0.2.1/acme", RootFile: "/nowhere/root.json"}} {
		t.Run(name, func(t *testing.T) {
			c := plainConfig(t.TempDir())
			c.Fleet = fleet
			require.NoError(t, os.Mkdir(UpdatePath(c.State), 0o700))
			_, err := (&boot.Store{FS: durable.OS{}, Dir: UpdatePath(c.State)}).Update(func(r *boot.Record) error {
				r.Trial = &boot.Trial{Slot: slot, TriesLeft: 2, BootsLeft: 10, BootID: boot.BootID(), Release: boot.Release{Product: "q", Version: "2", Counter: 2, SHA256: slot}}
				return nil
			})
			require.NoError(t, err)
			a, err := New(Options{Config: c, Clock: clock, Version: "2", Updates: &Updates{Slot: slot, SelfCheck: func(context.Context, string) error { return nil }}})
			require.NoError(t, err)
			defer func() { require.NoError(t, a.buf.Close()) }()
			require.NotNil(t, a.updates)
			require.Error(t, noFleet{errors.New("x")}.Refresh(t.Context()))
			if fleet != nil {
				require.Contains(t, a.codes(), string(CodeUpdateSource))
			}
		})
	}
}

// TestCheckUpdate: what the leave-site check says of the fleet's repository, where one is named.
func TestCheckUpdate(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "root.json")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	for _, c := range []struct {
		name    string
		fleet   *config.Fleet
		offline bool
		result  string
		say     string
	}{
		{"none", nil, false, resultOK, "installed by hand"},
		{"no root file", &config.Fleet{Repository: "file://" + dir, RootFile: dir + "/none.json"}, true, resultFail, "fleet.root_file: "},
		{"no root", &config.Fleet{Repository: "file://" + dir, RootFile: file("gateway: x")}, true, resultFail, "fleet.root_file " + dir},
	} {
		cfg := plainConfig(dir)
		cfg.Fleet = c.fleet
		l := checkUpdate(t.Context(), cfg, clock, c.offline)
		require.Equal(t, c.result, l.Result, c.name)
		require.Contains(t, l.Text, c.say)
		if c.result != resultOK {
			require.Contains(t, l.Remedy, "N.root.json")
		}
	}
}
