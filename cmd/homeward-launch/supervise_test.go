package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/ota/boot"
)

// safe is a buffer that a process writes and a test reads.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// supervise starts a supervisor with short times.
func (b *box) supervise() (*exec.Cmd, *safe) {
	b.t.Helper()
	cmd := exec.Command(os.Args[0], "--supervise", "run", "--config", "x")
	cmd.Env = append(b.command().Env, "HOMEWARD_TEST_LAUNCH=1")
	out := &safe{}
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(b.t, cmd.Start())
	b.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, out
}

func (b *box) starts(slot string) int {
	return strings.Count(b.read("log"), fmt.Sprintf(" %.12s start", slot))
}

func (b *box) soon(what string, out *safe, is func() bool) {
	b.t.Helper()
	require.Eventually(b.t, is, 20*time.Second, 10*time.Millisecond, "%s: %s\n%s", what, out, b.read("log"))
}

func status(cmd *exec.Cmd) int {
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func TestSupervise(t *testing.T) {
	t.Parallel()
	// Hanging before READY=1 ends by the trial's watchdog: the start time-out is an hour here, but for a release that feeds and gets nowhere.
	for _, c := range []struct{ behave, code string }{
		{"hang", boot.CodeHang}, {"hang-at-start", boot.CodeHang}, {"never-ready", boot.CodeHang}, {"slow 1000", boot.CodeOK}, {"exit 1", boot.CodeCrash}, {"exit 0", boot.CodeCrash}, {"panic", boot.CodeCrash},
		{"exit 2", boot.CodeConfig}, {"ok", boot.CodeOK},
	} {
		t.Run(c.behave, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			old := b.install("ok")
			b.set(func(r *boot.Record) { r.Active, r.Release = old, release(1) })
			if c.behave == "never-ready" {
				b.env = append(b.env, "HOMEWARD_TEST_START=1s")
			}
			cmd, out := b.supervise()
			b.soon("starts", out, func() bool { return b.starts(old) == 1 })
			next := b.install(c.behave)
			b.write("assign", next+" 2") // armed by the old one, which exits with 42
			b.soon("verdict", out, func() bool { r, _, _ := b.store.Load(); return r.LastResult != nil && r.Trial == nil })
			require.Equal(t, c.code, b.record().LastResult.Code, "%s %s", b.record().LastResult.Text, out)
			if c.code == boot.CodeOK {
				require.Equal(t, next, b.record().Active)
			} else {
				b.soon("the old one again", out, func() bool { return b.starts(old) == 2 })
				require.Equal(t, old, b.record().Active)
			}
			b.soon("ready", out, func() bool {
				return strings.HasSuffix(b.read("log"), "ready\n") || strings.HasSuffix(b.read("log"), "committed\n")
			})
			r := b.record()
			_, is := r.Quarantined(release(2).SHA256)
			require.Equal(t, c.code == boot.CodeHang || c.code == boot.CodeCrash, is)
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			require.Equal(t, 0, status(cmd), "%s", out)
			require.True(t, strings.HasSuffix(b.read("log"), "stopped\n"), b.read("log"))
			b.clean()
		})
	}
}

func TestSuperviseRefusedConfiguration(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.write("behave/factory", "exit 2")
	cmd, out := b.supervise()
	require.Equal(t, 2, status(cmd))
	require.Equal(t, 1, b.starts("factory"))
	require.Contains(t, out.String(), "refuses its configuration: it is not started again")
}

func TestSuperviseSignals(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	cmd, out := b.supervise()
	b.soon("ready", out, func() bool { return strings.HasSuffix(b.read("log"), "ready\n") })
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP)) // which the fake agent does not know
	b.soon("again", out, func() bool { return b.starts("factory") == 2 })
	require.Contains(t, out.String(), "it was killed by SIGHUP")

	b.soon("ready", out, func() bool { return strings.Count(b.read("log"), "ready\n") == 2 })

	// A supervisor that is killed takes the agent with it.
	child := ""
	b.soon("child", out, func() bool {
		text, _ := exec.Command("sh", "-c", fmt.Sprintf("cat /proc/%d/task/*/children", cmd.Process.Pid)).Output()
		child = strings.TrimSpace(string(text))
		return child != ""
	})
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	b.soon("gone", out, func() bool {
		text, err := os.ReadFile("/proc/" + child + "/stat")
		return err != nil || strings.Contains(string(text), ") Z ")
	})
}

// TestSuperviseStopsWhatDoesNotStop: an agent that hangs is killed after the stop time-out.
func TestSuperviseStopsWhatDoesNotStop(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.write("behave/factory", "hang-at-start")
	cmd, out := b.supervise()
	b.soon("starts", out, func() bool { return b.starts("factory") == 1 })
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, 128+int(syscall.SIGKILL), status(cmd), "%s", out)
	require.Contains(t, out.String(), "does not answer: it is killed")
}

// TestHear: only the agent is listened to.
func TestHear(t *testing.T) {
	fd, name, err := listen()
	require.NoError(t, err)
	defer syscall.Close(fd)
	t.Setenv("NOTIFY_SOCKET", name)
	for pid, want := range map[int]bool{os.Getpid(): true, os.Getpid() + 1: false} {
		notify("READY=1")
		text, ok := hear(fd, pid)
		require.Equal(t, want, ok)
		require.Equal(t, want, text == "READY=1")
	}
}
