package writer

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
)

// tb is what a test and a property have.
type tb interface {
	require.TestingT
	Helper()
}

// fleet is a repository in the making: its keys and what it is to say.
type fleet struct {
	t    tb
	r    *Repository
	ring *Ring
	plan Plan
	now  time.Time
}

func newAuthority(t tb, ring *Ring, role string, n, threshold int) Authority {
	a := Authority{Threshold: threshold}
	for range n {
		k, _, err := NewKey(role, "", 0)
		require.NoError(t, err)
		ring.Keys = append(ring.Keys, k)
		a.Keys = append(a.Keys, k.Public)
	}
	return a
}

func newFleet(t tb, files durable.FS, dir string) *fleet {
	f := &fleet{t: t, ring: &Ring{}, now: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	f.r = &Repository{FS: files, Dir: dir + "/repository", Staged: dir + "/staged", Now: func() time.Time { return f.now }}
	f.plan = Plan{
		Root: newAuthority(t, f.ring, Root, 3, 2), Targets: newAuthority(t, f.ring, Targets, 3, 2),
		Snapshot: newAuthority(t, f.ring, Snapshot, 1, 1), Timestamp: newAuthority(t, f.ring, Timestamp, 1, 1),
		Delegated: []Role{
			{Name: "releases-p1", Authority: newAuthority(t, f.ring, "releases-p1", 1, 1), Paths: []string{"releases/p1/*", "releases/p1/*/*"}, Files: map[string][]byte{"releases/p1/rollouts.json": []byte("{}")}},
			{Name: "dev-p1", Authority: newAuthority(t, f.ring, "dev-p1", 1, 1), Files: map[string][]byte{}},
			{Name: Orders, Authority: newAuthority(t, f.ring, Orders, 1, 1), Paths: []string{"orders/*"}, Bits: 4, Files: map[string][]byte{}},
		},
	}
	for i := range 20 {
		f.plan.Delegated[2].Files[fmt.Sprintf("orders/gw-%d.json", i)] = fmt.Appendf(nil, "{\"serial\":%d}", i)
	}
	return f
}

// without is the ring without the keys of these roles.
func (f *fleet) without(roles ...string) *Ring {
	r := &Ring{}
next:
	for _, k := range f.ring.Keys {
		for _, role := range roles {
			if k.Role == role {
				continue next
			}
		}
		r.Keys = append(r.Keys, k)
	}
	return r
}

func (f *fleet) publish(ring *Ring) *Change {
	f.t.Helper()
	c, err := f.r.Prepare(f.plan, ring)
	require.NoError(f.t, err)
	require.NoError(f.t, c.Commit())
	return c
}

func TestPublish(t *testing.T) {
	f := newFleet(t, crashfs.New(1), "")
	c := f.publish(f.ring)
	require.True(t, c.Ready)
	require.Empty(t, c.Waits)
	require.True(t, f.publish(f.ring).Nothing)

	// A changed order changes its bin, the snapshot and the timestamp.
	f.plan.Delegated[2].Files["orders/gw-3.json"] = []byte("{}")
	c = f.publish(f.without(Root, Targets, "releases-p1"))
	require.Len(t, c.Steps, 3)
	require.True(t, c.Ready)

	// A pin waits for targets, one signature after the other, and everything else goes on.
	f.plan.Delegated[1].Paths = []string{"dev/gw-3/*"}
	f.plan.Delegated[1].Files["dev/gw-3/linux-arm64.json"] = []byte("{}")
	f.plan.Delegated[0].Files["releases/p1/linux-arm64/7.json"] = []byte("{}")
	c = f.publish(f.without(Targets))
	require.True(t, c.Ready)
	require.Equal(t, 0, c.Steps[0].Signed)
	p, err := f.r.Load()
	require.NoError(t, err)
	_, err = f.r.File(p, "releases/p1/linux-arm64/7.json")
	require.NoError(t, err)
	_, err = f.r.File(p, "dev/gw-3/linux-arm64.json")
	require.Error(t, err)
	one := f.without(Targets)
	one.Keys = append(one.Keys, f.ring.Keys[3])
	c = f.publish(one)
	require.Equal(t, 1, c.Steps[0].Signed)
	require.Len(t, c.Steps[0].Missing, 2)
	other := f.without(Targets, "dev-p1")
	other.Keys = append(other.Keys, f.ring.Keys[4])
	c = f.publish(other)
	require.Equal(t, 2, c.Steps[0].Signed)
	require.True(t, c.Ready)
	p, err = f.r.Load()
	require.NoError(t, err)
	_, err = f.r.File(p, "dev/gw-3/linux-arm64.json")
	require.NoError(t, err)
}
