package trust_test

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
	"homeward/ota/boot"
	"homeward/ota/trust"
	"homeward/ota/trust/writer"
)

type floors map[string]boot.RoleFloor

func (f floors) RoleFloors() map[string]boot.RoleFloor { return f }

func (f floors) SetRoleFloors(all map[string]boot.RoleFloor) error { maps.Copy(f, all); return nil }

// The gateway's client on repositories that the fleet manager's writer makes: orders in bins, a pin, another key for the
// timestamp, another number of bins.
func TestWriter(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	ring := &writer.Ring{}
	keys := func(role string, n, threshold int) writer.Authority {
		a := writer.Authority{Threshold: threshold}
		for range n {
			k, _, err := writer.NewKey(role, "", 0)
			require.NoError(t, err)
			ring.Keys = append(ring.Keys, k)
			a.Keys = append(a.Keys, k.Public)
		}
		return a
	}
	plan := writer.Plan{
		Root: keys(writer.Root, 3, 2), Targets: keys(writer.Targets, 3, 2), Snapshot: keys(writer.Snapshot, 1, 1), Timestamp: keys(writer.Timestamp, 1, 1),
		Delegated: []writer.Role{
			{Name: "releases-p1", Authority: keys("releases-p1", 1, 1), Paths: []string{"releases/p1/*", "releases/p1/*/*"}, Files: map[string][]byte{
				"releases/p1/rollouts.json": []byte("{}"), "releases/p1/linux-arm64/7.json": []byte(`{"counter":7}`)}},
			{Name: "dev-p1", Authority: keys("dev-p1", 1, 1), Paths: []string{"dev/gw-3/*"}, Files: map[string][]byte{"dev/gw-3/linux-arm64.json": []byte(`{"counter":9}`)}},
			{Name: writer.Orders, Authority: keys(writer.Orders, 1, 1), Paths: []string{"orders/*"}, Bits: 4, Files: map[string][]byte{}},
		},
	}
	orders := plan.Delegated[2].Files
	for i := range 20 {
		orders[fmt.Sprintf("orders/gw-%d.json", i)] = fmt.Appendf(nil, `{"gateway":"gw-%d"}`, i)
	}
	w := &writer.Repository{FS: durable.OS{}, Dir: filepath.Join(dir, "repository"), Staged: filepath.Join(dir, "staged"), Now: func() time.Time { return now }}
	publish := func() {
		t.Helper()
		c, err := w.Prepare(plan, ring)
		require.NoError(t, err)
		require.NoError(t, c.Commit())
		require.True(t, c.Ready)
	}
	publish()
	root, err := durable.ReadFile(filepath.Join(dir, "repository", "1.root.json"), 64<<10)
	require.NoError(t, err)
	o := trust.Options{FS: crashfs.New(1), Dir: "/trust", Root: root, Source: trust.Folder(filepath.Join(dir, "repository")), Floors: floors{},
		Now: func() time.Time { return now }, Synced: func() bool { return true }}
	r, err := trust.Open(o)
	require.NoError(t, err)
	see := func(extra map[string]string) {
		t.Helper()
		require.NoError(t, r.Refresh(ctx))
		want := map[string]string{"releases/p1/rollouts.json": "{}", "releases/p1/linux-arm64/7.json": `{"counter":7}`}
		for name, content := range orders {
			want[name] = string(content)
		}
		maps.Copy(want, extra)
		for name, content := range want {
			got, err := r.Target(ctx, name)
			if content == "" {
				require.ErrorIs(t, err, trust.ErrNoTarget)
				continue
			}
			require.NoError(t, err, name)
			require.Equal(t, content, string(got))
		}
	}
	see(map[string]string{"dev/gw-3/linux-arm64.json": `{"counter":9}`, "dev/gw-4/linux-arm64.json": "", "orders/gw-99.json": ""})
	require.Equal(t, now, r.State().Issued)

	orders["orders/gw-3.json"] = []byte(`{"gateway":"gw-3","serial":2}`)
	plan.Delegated[1].Paths, plan.Delegated[1].Files = nil, map[string][]byte{}
	now = now.Add(time.Hour)
	publish()
	see(map[string]string{"dev/gw-3/linux-arm64.json": ""})

	plan.Timestamp = keys(writer.Timestamp, 1, 1)
	plan.Delegated[2].Bits = 6
	publish()
	see(nil)

	// A month later all that expires is signed again, and the gateway that slept takes it.
	now = now.Add(31 * 24 * time.Hour)
	publish()
	r, err = trust.Open(o)
	require.NoError(t, err)
	see(nil)
}

// Protobuf and what it brings would make the device program four megabytes larger; go.mod replaces the one package that wants it.
func TestNoProtobuf(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "homeward/ota/...").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "github.com/theupdateframework/go-tuf/v2/metadata\n")
	for _, bad := range []string{"google.golang.org/protobuf", "google.golang.org/genproto", "google.golang.org/grpc"} {
		require.False(t, strings.Contains(string(out), bad), "%s is linked", bad)
	}
}
