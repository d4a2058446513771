package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
	"homeward/ota/trust"
)

// folder is a source that reads a repository on any file system.
type folder struct {
	files durable.FS
	dir   string
}

func (f folder) Get(_ context.Context, q trust.Request) (*trust.Body, error) {
	raw, err := durable.Read(f.files, f.dir+"/"+q.Name, maxMetadata)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, trust.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &trust.Body{ReadCloser: io.NopCloser(bytes.NewReader(raw)), Size: int64(len(raw))}, nil
}

// client is a gateway's view, as it was left when it last looked.
type client struct {
	files *crashfs.FS
	root  []byte
}

// look lets a copy of the client refresh and read everything; keep makes the copy the client.
func (c *client) look(now time.Time, repo durable.FS, paths []string, keep bool) error {
	files := c.files.Clone(1)
	gateway, err := trust.Open(trust.Options{FS: files, Dir: "/trust", Root: c.root, Source: folder{repo, "/repository"}, Now: func() time.Time { return now }, Synced: func() bool { return true }})
	if err != nil {
		return err
	}
	if err := gateway.Refresh(context.Background()); err != nil {
		return err
	}
	for _, path := range paths {
		if _, err := gateway.Target(context.Background(), path); err != nil && !errors.Is(err, trust.ErrNoTarget) {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if keep {
		c.files = files
	}
	return nil
}

// TestCrash: whatever managers do, with whatever keys, and wherever the power goes, what is left is a repository that every client
// accepts, those that looked last before any of it as well as those that know only the first root; and the next publication, with all
// keys, says what was to be said. The keys that are replaced are at hand.
func TestCrash(t *testing.T) {
	crashes, looks, publications, begun := 0, 0, 0, uint64(0)
	defer func() {
		if t.Failed() {
			t.Logf("HOMEWARD_SEED=%d repeats it", begun)
		}
	}()
	runs, seed := 10, uint64(1)
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		runs, seed = 1500, uint64(time.Now().UnixNano())
	}
	if s := os.Getenv("HOMEWARD_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "HOMEWARD_SEED")
		runs, seed = 1, n
	}
	for ; runs > 0; runs, seed = runs-1, seed+1 {
		begun = seed
		r := rand.New(rand.NewPCG(seed, 0))
		disk := crashfs.New(seed)
		f := newFleet(t, disk, "")
		f.plan.Delegated[2].Bits = 1
		f.publish(f.ring)
		first, err := durable.Read(disk, "/repository/1.root.json", maxMetadata)
		require.NoError(t, err)
		paths := []string{"releases/p1/rollouts.json", "orders/gw-1.json", "orders/gw-2.json", "dev/gw-1/a.json"}
		clients := []*client{{crashfs.New(1), first}} // the first one never keeps what it saw
		n := 0
		for range 1 + r.IntN(6) {
			n++
			f.now = f.now.Add(time.Duration(r.IntN(61)) * time.Hour)
			switch r.IntN(6) {
			case 0:
				f.plan.Delegated[0].Files["releases/p1/rollouts.json"] = fmt.Appendf(nil, "{\"n\":%d}", n)
			case 1:
				f.plan.Delegated[2].Files["orders/gw-1.json"] = fmt.Appendf(nil, "{\"n\":%d}", n)
			case 2: // pin, unpin
				if d := &f.plan.Delegated[1]; d.Paths == nil {
					d.Paths, d.Files = []string{"dev/gw-1/*"}, map[string][]byte{"dev/gw-1/a.json": []byte("{}")}
				} else {
					d.Paths, d.Files = nil, map[string][]byte{}
				}
			default: // a key
				role := r.IntN(7)
				a := []*Authority{&f.plan.Root, &f.plan.Targets, &f.plan.Snapshot, &f.plan.Timestamp,
					&f.plan.Delegated[0].Authority, &f.plan.Delegated[1].Authority, &f.plan.Delegated[2].Authority}[role]
				name := []string{Root, Targets, Snapshot, Timestamp, "releases-p1", "dev-p1", Orders}[role]
				k := newAuthority(t, f.ring, name, 1, 1).Keys[0]
				a.Keys = append(append([]Public{}, a.Keys[1:]...), k)
			}
			if r.IntN(2) == 0 {
				c := &client{crashfs.New(1), first}
				require.NoError(t, c.look(f.now, f.r.FS, paths, true))
				clients = append(clients, c)
			}
			// One manager with some of the keys, cut short; then one with all.
			ring := f.ring
			if r.IntN(2) == 0 {
				ring = f.without([]string{Root, Targets, Snapshot, Timestamp, "releases-p1", Orders}[r.IntN(6)])
			}
			disk = f.r.FS.(*crashfs.FS).Clone(seed + uint64(n))
			f.r.FS = disk
			disk.CrashAt(1 + r.IntN(45))
			if c, err := f.r.Prepare(f.plan, ring); err == nil {
				err = c.Commit()
				require.True(t, err == nil || disk.Crashed(), "%v", err)
			} else {
				require.True(t, disk.Crashed(), "%v", err)
			}
			if disk.Crashed() {
				crashes++
			}
			disk = disk.Reboot(crashfs.Modes[r.IntN(len(crashfs.Modes))])
			f.r.FS = disk
			for i, c := range clients {
				looks++
				require.NoError(t, c.look(f.now, disk, paths, i > 0 && (r.IntN(2) == 0)), "client %d after the cut", i)
			}
			c := f.publish(f.ring)
			publications++
			require.True(t, c.Ready, "%+v %v", c.Steps, c.Waits)
			p, err := f.r.Load()
			require.NoError(t, err)
			for _, role := range f.plan.Delegated {
				for path, want := range role.Files {
					got, err := f.r.File(p, path)
					require.NoError(t, err)
					require.Equal(t, string(want), string(got), path)
				}
			}
			for i, c := range clients {
				looks++
				require.NoError(t, c.look(f.now, disk, paths, i > 0 && (r.IntN(2) == 0)), "client %d after the publication", i)
			}
		}
	}
	t.Logf("cuts: %d in %d publications, %d looks of clients", crashes, publications, looks)
}
