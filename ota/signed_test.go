package ota

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
	"homeward/ota/release"
	"homeward/ota/trust"
	"homeward/ota/trust/writer"
)

// published is a repository as the fleet manager's writer makes it, in memory.
type published struct {
	w     *writer.Repository
	plan  writer.Plan
	ring  *writer.Ring
	root  []byte
	fleet *fleet
}

func publish(t *testing.T, f *fleet) *published {
	files := crashfs.New(1)
	for _, dir := range []string{"/repository", "/staged"} {
		require.NoError(t, makeDir(files, dir))
	}
	p := &published{w: &writer.Repository{FS: files, Dir: "/repository", Staged: "/staged", Now: time.Now}, ring: &writer.Ring{}, fleet: f}
	keys := func(role string, n, threshold int) writer.Authority {
		a := writer.Authority{Threshold: threshold}
		for range n {
			k, _, err := writer.NewKey(role, "", 0)
			require.NoError(t, err)
			p.ring.Keys = append(p.ring.Keys, k)
			a.Keys = append(a.Keys, k.Public)
		}
		return a
	}
	p.plan = writer.Plan{
		Root: keys(writer.Root, 3, 2), Targets: keys(writer.Targets, 3, 2), Snapshot: keys(writer.Snapshot, 1, 1), Timestamp: keys(writer.Timestamp, 1, 1),
		Delegated: []writer.Role{
			{Name: "releases-box", Authority: keys("releases-box", 1, 1), Paths: []string{"releases/box/*", "releases/box/*/*"}},
			{Name: writer.Orders, Authority: keys(writer.Orders, 1, 1), Paths: []string{"orders/*"}, Bits: 4},
		},
	}
	p.sign(t)
	var err error
	p.root, err = durable.Read(files, "/repository/1.root.json", 64<<10)
	require.NoError(t, err)
	return p
}

// sign publishes what the fleet says now.
func (p *published) sign(t *testing.T) {
	releases, orders := map[string][]byte{}, map[string][]byte{}
	for name, data := range p.fleet.targets {
		if strings.HasPrefix(name, "orders/") {
			orders[name] = data
		} else {
			releases[name] = data
		}
	}
	p.plan.Delegated[0].Files, p.plan.Delegated[1].Files = releases, orders
	c, err := p.w.Prepare(p.plan, p.ring)
	require.NoError(t, err)
	require.NoError(t, c.Commit())
	require.True(t, c.Ready || c.Nothing)
}

// memory serves the folder's files out of the writer's file system.
type memory struct{ *published }

func (m memory) Get(ctx context.Context, q trust.Request) (*trust.Body, error) {
	if strings.HasPrefix(q.Name, "blobs/") {
		return m.fleet.Get(ctx, q)
	}
	data, err := durable.Read(m.w.FS, path.Join(m.w.Dir, q.Name), 1<<20)
	if err != nil {
		return nil, trust.ErrNotFound
	}
	tag := fmt.Sprintf("%q", hashOf(data)[:16])
	if q.IfNoneMatch == tag {
		return nil, trust.ErrNotModified
	}
	return &trust.Body{ReadCloser: io.NopCloser(bytes.NewReader(data)), Size: int64(len(data)), ETag: tag}, nil
}

// TestSigned is two updates with the real repository, its cache and its floors on the same disk, and power cuts anywhere.
func TestSigned(t *testing.T) {
	play := func(seed uint64, at int, mode crashfs.Mode) (ops int) {
		synctest.Test(t, func(t *testing.T) {
			b := newBox(t)
			b.settings.Every = 30 * time.Minute
			b.put(short(b.add(1, &program{name: "one"})))
			b.offer(1, 1)
			p := publish(t, b.fleet)
			b.signed = func(fs durable.FS) trust.Options {
				return trust.Options{Root: p.root, Source: memory{p}, Now: time.Now, Synced: func() bool { return true }}
			}
			b.fs = b.fs.Clone(seed)
			done := func() bool {
				switch r := b.look("stage"); {
				case r.Release.Counter == 1 && b.toldCode(1, "ok") && !b.fleet.signed(release.OrderPath("gw-1")):
					b.put(short(b.add(2, &program{name: "two"}, r.Active)))
					b.offer(2, 1, "2:added")
					b.order(&release.Order{Serial: 7, Release: release.OrderRelease{Product: "box", Counter: 2}})
					p.sign(t)
				case r.Release.Counter == 2 && r.Trial == nil:
					require.Equal(t, uint64(7), r.MoveSeq)
					return b.toldCode(2, "ok")
				}
				return false
			}
			b.power(at)
			roles := map[string]int64{}
			b.onStep = func(string) { // durable by now
				for role, f := range b.record().Roles {
					roles[role] = max(roles[role], f.Version)
				}
			}
			end := b.on(24*time.Hour, done)
			ops = b.ops + b.fs.Ops()
			if end == cut {
				b.power(0)
				b.reboot(mode)
				b.look("after the cut")
				had := maps.Clone(roles)
				for role, f := range b.record().Roles {
					require.GreaterOrEqual(t, f.Version, had[role], role)
				}
				b.until(24*time.Hour, done)
			}
			require.True(t, done(), "%v: %+v", end, b.u.Status())
			require.NotEmpty(t, roles)
		})
		if t.Failed() {
			t.Fatalf("cut at %d, %s", at, mode)
		}
		return ops
	}
	total := play(1, 0, crashfs.All)
	runs, r := 0, rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		for at := 1; at <= total; at++ {
			play(uint64(at), at, crashfs.Modes[r.IntN(3)])
			runs++
		}
	} else {
		for range 6 {
			play(r.Uint64(), 1+r.IntN(total), crashfs.Modes[r.IntN(3)])
			runs++
		}
	}
	t.Logf("cuts: %d operations, %d runs, 0 violations", total, runs)
}
