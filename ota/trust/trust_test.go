package trust

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func asCode(err error, c *interface{ Code() string }) bool { return errors.As(err, c) }

func version(r *Repository, role string) int64 {
	for _, s := range r.State().Roles {
		if s.Name == role {
			return s.Version
		}
	}
	return 0
}

// What one gateway does with a repository, from a folder and from a web server.
func TestRefreshAndTarget(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for name, src := range map[string]Source{"folder": Folder(f.dir()), "web": f.web(f.serve())} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			g := f.gateway(src)
			g.o.FS, g.o.Dir = nil, filepath.Join(t.TempDir(), "trust")
			r := g.open()
			_, err := r.Target(ctx, "releases/p1/rollouts.json")
			require.Equal(t, CodeMissing, code(err), "nothing is known yet: %v", err)
			require.NoError(t, r.Refresh(ctx))
			for path, want := range map[string]string{
				"releases/p1/rollouts.json":        `{"serial":1}`,
				"releases/p1/linux-arm64/141.json": `{"counter":141}`,
				"releases/p2/rollouts.json":        `{"serial":2}`,
				"dev/gw7/linux-arm64.json":         `{"counter":7}`,
				"orders/gw7.json":                  `{"gateway":"gw7","serial":1}`,
			} {
				got, err := r.Target(ctx, path)
				require.NoError(t, err, path)
				require.Equal(t, want, string(got))
			}
			for _, path := range []string{"releases/p1/linux-arm64/142.json", "dev/gw8/linux-arm64.json", "orders/gw8.json", "moves/gw7.json", "x", "", "../x", "a//b"} {
				_, err := r.Target(ctx, path)
				require.ErrorIs(t, err, ErrNoTarget, path)
				require.Equal(t, CodeNoTarget, code(err))
			}
			// All of it is there without a source after a restart.
			g.o.Source = nil
			r = g.open()
			got, err := r.Target(ctx, "orders/gw7.json")
			require.NoError(t, err)
			require.Equal(t, `{"gateway":"gw7","serial":1}`, string(got))
			got, err = r.Target(ctx, "releases/p1/rollouts.json")
			require.NoError(t, err)
			require.Equal(t, `{"serial":1}`, string(got))
		})
	}
}

// An idle refresh costs two requests and less than two kilobytes of bodies, also right after a start.
func TestIdleRefresh(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := newFleet(t)
	s := f.serve()
	g := f.gateway(f.web(s))
	r := g.open()
	require.NoError(t, r.Refresh(ctx))
	_, err := r.Target(ctx, "orders/gw7.json")
	require.NoError(t, err)
	for _, again := range []bool{false, true, false} {
		if again {
			r = g.open()
		}
		s.reset()
		require.NoError(t, r.Refresh(ctx))
		requests, bytes := s.seen()
		require.Equal(t, []string{"2.root.json", "timestamp.json"}, requests)
		require.LessOrEqual(t, bytes, 2000)
	}
	require.Len(t, s.peers, 1, "one connection will do")
	// With what is cached, a look-up costs nothing.
	s.reset()
	_, err = r.Target(ctx, "orders/gw7.json")
	require.NoError(t, err)
	requests, _ := s.seen()
	require.Empty(t, requests)

	// A new order costs this gateway the snapshot, its bin and the order.
	f.order("gw7", `{"gateway":"gw7","serial":2}`)
	bin := f.roles["orders"].Signed.Delegations.GetRolesForTarget("orders/gw7.json")[0].Name
	f.next(bin)
	s.reset()
	require.NoError(t, r.Refresh(ctx))
	got, err := r.Target(ctx, "orders/gw7.json")
	require.NoError(t, err)
	require.Equal(t, `{"gateway":"gw7","serial":2}`, string(got))
	requests, _ = s.seen()
	require.Len(t, requests, 5, strings.Join(requests, " "))
}
