package trust

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable/crashfs"
)

// A power cut, and a failing disk, at every operation of a refresh that brings a new root, a new release and a new order, and again at
// every operation of what follows: the root never goes back once a refresh has said that it is kept, the set in force is the old
// or the new one, whole, and the next refresh gets to the end.
func TestRefreshPowerCuts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := newFleet(t)
	old := f.copyFiles()
	f.newRoot(func() { f.rekey(timestamp, 1) })
	f.order("gw7", `{"gateway":"gw7","serial":2}`)
	f.next("releases-p1", "orders-"+f.binOf("gw7"))
	fresh := f.copyFiles()
	src := &mem{files: old, whole: true}
	g := f.gateway(src)
	work := func(g *gateway) (root1 int64, order string, err error) {
		r, err := Open(g.o)
		if err != nil {
			return 0, "", err
		}
		if err := r.Refresh(ctx); err != nil {
			return version(r, root), "", err
		}
		raw, err := r.Target(ctx, "orders/gw7.json")
		return version(r, root), string(raw), err
	}
	_, order, err := work(g)
	require.NoError(t, err)
	require.Contains(t, order, `"serial":1`)
	src.files = fresh

	// What the disk holds without the network.
	look := func(g *gateway) int64 {
		g.o.Source, g.o.Targets = nil, nil
		defer func() { g.o.Source = src }()
		r, err := Open(g.o)
		require.NoError(t, err)
		switch v := version(r, root); v {
		case 1:
			raw, err := r.Target(ctx, "orders/gw7.json")
			require.NoError(t, err, "the old set, whole")
			require.Contains(t, string(raw), `"serial":1`)
			return 1
		case 2:
			raw, err := r.Target(ctx, "releases/p1/rollouts.json")
			if err != nil { // the set is the new one, and this is not cached; or only the root is
				require.Contains(t, []string{CodeUnreachable, CodeSignature}, code(err), "%v", err)
			}
			require.NotContains(t, string(raw), `"serial":9`)
			return 2
		default:
			t.Fatalf("root %d", v)
			return 0
		}
	}
	again := func(fs *crashfs.FS) *gateway {
		n := *g
		n.fs, n.o.FS = fs, fs
		n.o.Floors = &floors{all: g.o.Floors.RoleFloors()}
		return &n
	}
	first, second, runs := 5, 41, 0 // every so many, from another start in each mode
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		first, second = 1, 1
	}
	for i, mode := range crashfs.Modes {
		for n := 1 + i%first; ; n += first {
			one := again(g.fs.Clone(uint64(n)))
			one.fs.CrashAt(n)
			kept, _, err := work(one)
			if err == nil {
				require.Greater(t, n, 15)
				break
			}
			require.Equal(t, CodeStore, code(err), "at %d: %v", n, err)
			after := again(one.fs.Reboot(mode))
			after.o.Floors = one.o.Floors
			have := look(after)
			if one.o.Floors.RoleFloors()[root].Version == 2 {
				require.Equal(t, int64(2), have, "%s at %d: floors are raised after the set is kept", mode, n)
			}
			require.GreaterOrEqual(t, have, min(kept, 1))
			for k := 1 + n%second; ; k += second {
				two := again(after.fs.Clone(uint64(k)))
				two.fs.CrashAt(k)
				runs++
				if _, _, err := work(two); err == nil {
					break
				}
				end := again(two.fs.Reboot(mode))
				end.o.Floors = two.o.Floors
				require.GreaterOrEqual(t, look(end), have, "%s at %d and %d: a root that was kept stays", mode, n, k)
				v, order, err := work(end)
				require.NoError(t, err)
				require.Equal(t, int64(2), v)
				require.Contains(t, order, `"serial":2`)
			}
		}
	}
	t.Logf("%d runs with two power cuts", runs)

	for n := 1; ; n++ {
		one := again(g.fs.Clone(uint64(n)))
		one.fs.Fail(n, noSpace)
		_, _, err := work(one)
		if one.fs.Ops() < n {
			break
		}
		if err != nil {
			require.Equal(t, CodeStore, code(err), "at %d: %v", n, err)
		}
		look(one)
		_, order, err := work(one)
		require.NoError(t, err)
		require.Contains(t, order, `"serial":2`)
	}
}

// An idle refresh writes nothing, and a new timestamp writes little.
func TestRefreshWrites(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := newFleet(t)
	g := f.gateway(f.web(f.serve()))
	r := g.open()
	require.NoError(t, r.Refresh(ctx))
	ops, set := g.fs.Ops(), g.o.Floors.(*floors).set
	for range 5 {
		require.NoError(t, r.Refresh(ctx))
	}
	require.Equal(t, ops, g.fs.Ops())
	require.Equal(t, set, g.o.Floors.(*floors).set)
	f.bump(timestamp)
	f.publishTimestamp()
	require.NoError(t, r.Refresh(ctx))
	require.Less(t, g.fs.Ops()-ops, 25)
	require.Equal(t, set+1, g.o.Floors.(*floors).set)
	entries, err := g.fs.ReadDir(g.o.Dir)
	require.NoError(t, err)
	require.LessOrEqual(t, len(entries), 3, "two generations, and the target files if there are any")
}
