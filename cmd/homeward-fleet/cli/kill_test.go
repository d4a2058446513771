package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable/crashfs"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// gateway is a client of a repository's folder, with what it saw before.
type gateway struct {
	files *crashfs.FS
	root  []byte
}

func (g *gateway) look(repository string, paths []string) error {
	r, err := trust.Open(trust.Options{FS: g.files, Dir: "/trust", Root: g.root, Source: trust.Folder(repository), Synced: func() bool { return true }})
	if err != nil {
		return err
	}
	if err := r.Refresh(context.Background()); err != nil {
		return err
	}
	for _, path := range paths {
		if _, err := r.Target(context.Background(), path); err != nil && !errors.Is(err, trust.ErrNoTarget) {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// TestKilled kills managers' commands (SIGKILL) at moments drawn from a seed: gateways accept what is left, one that knows only the
// first root and one that looked after each kill before; and the commands after that do their work.
func TestKilled(t *testing.T) {
	t.Parallel()
	kills, seed := 12, uint64(1)
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		kills, seed = 500, uint64(time.Now().UnixNano())
	}
	if s := os.Getenv("HOMEWARD_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "HOMEWARD_SEED")
		seed = n
	}
	defer func() {
		if t.Failed() {
			t.Logf("HOMEWARD_SEED=%d repeats it", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, 0))
	m := newManager(t)
	repository := filepath.Join(m.dir, "repository")
	first, err := os.ReadFile(filepath.Join(repository, "1.root.json"))
	require.NoError(t, err)
	m.run("product", "add", "p")
	m.run("publish")
	m.enroll("gw-1", "p")
	m.enroll("gw-2", "p")
	program := filepath.Join(t.TempDir(), "program")
	build(t, program, "1.0.0", "-s", "-w")
	m.run("release", "add", "p", program, "--version", "1.0.0")
	m.run("release", "roll", "p", "1.0.0", "--all")
	m.run("publish")
	paths := []string{release.RolloutsPath("p"), release.ManifestPath("p", "linux-arm64", 1), release.OrderPath("gw-1"), release.OrderPath("gw-2"), release.DevPath("gw-1", "linux-arm64")}
	steady := &gateway{crashfs.New(1), first}
	require.NoError(t, steady.look(repository, paths))
	killed, versions := 0, 1
	for i := range kills {
		// Something to say, whole; then the publication that is killed; or a command that is killed, then a publication.
		versions++
		change := [][]string{
			{"orders", "set", "gw-1", "--release", []string{"1.0.0", "none"}[r.IntN(2)]},
			{"pin", "gw-1", "1.0.0"},
			{"unpin", "gw-1"},
			{"key", "rotate", []string{"timestamp", "snapshot", "orders", "releases-p", "dev-p"}[r.IntN(5)]},
			{"release", "add", "p", program, "--version", fmt.Sprintf("1.0.%d", versions), "--patches", "0"},
			{"product", "add", fmt.Sprintf("p%d", versions)},
		}[r.IntN(6)]
		victim := change
		if r.IntN(3) > 0 {
			m.try(change...) // unpin and the like may have nothing to do
			victim = []string{"publish"}
		}
		cmd := exec.Command(os.Args[0])
		cmd.Args = append([]string{"homeward-fleet", "--fleet", m.dir}, victim...)
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(r.IntN(120)) * time.Millisecond)
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() == -1 {
			killed++
		}
		require.NoError(t, (&gateway{crashfs.New(1), first}).look(repository, paths), "%d: %v", i, victim)
		require.NoError(t, steady.look(repository, paths), "%d: %v", i, victim)
		if r.IntN(2) == 0 {
			m.run("publish")
			require.NoError(t, steady.look(repository, paths), "%d: after %v", i, victim)
		}
	}
	m.run("publish")
	require.Contains(t, m.run("publish"), "nothing to do")
	t.Logf("kills: %d of %d commands", killed, kills)
}
