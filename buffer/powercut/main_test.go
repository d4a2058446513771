//go:build linux && (amd64 || arm64)

package powercut

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	Main()
	if role := os.Getenv("HOMEWARD_POWERCUT_ROLE"); role != "" {
		seed, err := strconv.ParseUint(os.Getenv("HOMEWARD_POWERCUT_SEED"), 10, 64)
		if err == nil {
			err = roles[role](os.Args[1], seed)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err) // expected once the power is off
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// roles are what the test binary does when it is started as a worker in dir.
// A worker prints what it was promised, a line each; the promise counts from then.
var roles = map[string]func(dir string, seed uint64) error{}

// worker is a process that will lose its disk.
type worker struct {
	cmd    *exec.Cmd
	ended  chan struct{} // stdout is at its end
	stderr strings.Builder

	mu    sync.Mutex
	lines []string
	on    chan struct{} // closed at the line that was asked for
	isOn  bool
}

// startWorker runs a role; on is closed at the line where at wants it.
func startWorker(t testing.TB, role, dir string, seed uint64, at at, env ...string) *worker {
	t.Helper()
	w := &worker{ended: make(chan struct{}), on: make(chan struct{})}
	w.cmd = exec.Command("/proc/self/exe", dir)
	w.cmd.Env = append(os.Environ(), "HOMEWARD_POWERCUT_ROLE="+role, "HOMEWARD_POWERCUT_SEED="+strconv.FormatUint(seed, 10))
	w.cmd.Env = append(w.cmd.Env, env...)
	w.cmd.Stderr = &w.stderr
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := w.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, w.cmd.Start())
	go func() { // ends with the worker
		defer close(w.ended)
		for s := bufio.NewScanner(out); s.Scan(); {
			w.mu.Lock()
			w.lines = append(w.lines, s.Text())
			if !w.isOn && len(w.lines) >= max(at.from, at.lines) && strings.HasPrefix(s.Text(), at.word) {
				w.isOn = true
				close(w.on)
			}
			w.mu.Unlock()
		}
	}()
	return w
}

// kill ends the worker and returns its whole lines.
func (w *worker) kill() []string {
	_ = w.cmd.Process.Kill() // it may be gone already
	<-w.ended
	_ = w.cmd.Wait() // "signal: killed"
	return w.lines
}

// ask runs a role that comes to an end by itself, within a minute, and returns what it says.
func ask(role, dir string, seed uint64, stdin io.Reader) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", dir)
	cmd.Env = append(os.Environ(), "HOMEWARD_POWERCUT_ROLE="+role, "HOMEWARD_POWERCUT_SEED="+strconv.FormatUint(seed, 10))
	cmd.Stdin = stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", role, err, stderr.String())
	}
	return out, nil
}

// at says when the power goes: with a request or with a line of the worker,
// whichever is first.
type at struct {
	from  int    // lines before After of the cut begins to count; 0: from the start
	lines int    // 0: never
	word  string // not before a line that begins so
}

// cutUnder runs a role in dir, cuts the power under it, brings the disk up
// again and returns what the worker had printed.
func cutUnder(t testing.TB, d *Disk, role, dir string, seed uint64, when at, cut Cut) []string {
	t.Helper()
	dark := d.Dark()
	if cut.After > 0 && when.from == 0 {
		require.NoError(t, d.Arm(cut))
	}
	w := startWorker(t, role, dir, seed, when)
	defer w.kill()
	deadline := time.After(60 * time.Second)
	if when.from > 0 || when.lines > 0 {
		select {
		case <-w.on:
			if when.lines > 0 {
				require.NoError(t, d.Cut(cut))
			} else {
				require.NoError(t, d.Arm(cut))
			}
		case <-dark:
		case <-w.ended:
		case <-deadline:
		}
	}
	select {
	case <-dark:
	case <-w.ended: // by itself: only the cut may be the reason
		select {
		case <-dark:
		case <-time.After(5 * time.Second):
			t.Fatalf("%s ended before the power was cut: %q\n%s", role, w.kill(), &w.stderr)
		}
	case <-deadline:
		t.Fatalf("%s: no cut after a minute: the disk met too few requests", role)
	}
	lines := w.kill()
	require.NoError(t, d.Unmount())
	require.NoError(t, d.Mount())
	return lines
}

// cuts is how many to make: few by default, HOMEWARD_CUTS of them if set, many
// in a campaign.
func cuts(t testing.TB, few, many int) int {
	t.Helper()
	if s := os.Getenv("HOMEWARD_CUTS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err, "HOMEWARD_CUTS")
		return n
	}
	if os.Getenv("HOMEWARD_CAMPAIGN") == "1" {
		return many
	}
	return few
}

func newDisk(t testing.TB) *Disk {
	t.Helper()
	if m := Missing(); m != "" {
		if os.Getenv("CI") != "" && canRestart() == nil {
			t.Fatal(m)
		}
		t.Skip(m) // in CI an emulated processor's only
	}
	d, err := New(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}
