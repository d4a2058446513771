package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/ota/release"
)

// TestWill: a gateway that has kept a release and loses its link much later is told of by its will, which is the status of the moment
// in which it connected: on trial. That is no missing verdict, for a manager that knew it and for one that has just begun.
func TestWill(t *testing.T) {
	r := &release.Rollouts{Schema: 1, Product: "p", Serial: 1,
		Releases: []release.Listed{{Counter: 2, Version: "1.2", Platforms: []string{"linux-arm64"}, State: release.Rolling}},
		Rollouts: []release.Rollout{{ID: "r", Counter: 2, Version: "1.2", State: release.Running, ErrorPercent: 10, VerdictAfterS: 86400, SoakS: 3 * 86400,
			Groups: []release.Group{{Name: "all", Percent: 50, State: release.Open, OpenTo: 100, First: "gw-1"}, {Name: "rest", Percent: 100, State: release.Waiting}}}}}
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	var m Memory
	see := func(m *Memory, after time.Duration, online bool, u Update) Verdict {
		s := Seen{Gateway: "gw-1", Platform: "linux-arm64", Online: online, At: at.Add(after), Version: "1.2", Update: u}
		m.Note(&s)
		next, _ := Decide(r, []Seen{s}, at.Add(after))
		if next != nil {
			require.Equal(t, release.Running, next.Rollouts[0].State, "nothing halts")
		}
		return Judge(r, &r.Rollouts[0], s, at.Add(after))
	}
	trial := Update{State: "trial", Counter: 2, Attempt: 1}
	require.Equal(t, Trying, see(&m, 0, true, trial))
	require.Equal(t, Succeeded, see(&m, 11*time.Minute, true, Update{State: "committed", Code: "ok", Counter: 2, Attempt: 1}))
	require.Equal(t, Succeeded, see(&m, 48*time.Hour, false, trial), "its will")
	require.Equal(t, Trying, see(&Memory{}, 48*time.Hour, false, trial), "somebody else hears only that")
	late := Seen{Gateway: "gw-1", Online: true, At: at.Add(49 * time.Hour), Version: "1.2", Update: trial, Took: at}
	require.Equal(t, Missing, Judge(r, &r.Rollouts[0], late, at.Add(49*time.Hour)), "online, and no verdict for more than a day")
}

// TestVersionAlone: running a version is not having kept it, when what the gateway says of updates is older.
func TestVersionAlone(t *testing.T) {
	r := &release.Rollouts{Releases: []release.Listed{{Counter: 1, Version: "1.1"}, {Counter: 2, Version: "1.2"}}}
	o := &release.Rollout{Counter: 2, Version: "1.2"}
	for _, c := range []struct {
		u    Update
		want Verdict
	}{
		{Update{State: "idle", Code: "ok", Counter: 1}, Untouched},
		{Update{State: "idle", Code: "ok", Counter: 2}, Succeeded},
		{Update{State: "fetching", Counter: 3}, Succeeded},
		{Update{State: "none"}, Succeeded}, // a card with it
	} {
		require.Equal(t, c.want, Judge(r, o, Seen{Version: "1.2", Online: true, Update: c.u}, time.Now()), "%+v", c.u)
	}
}
