package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"homeward/agent"
	"homeward/agent/status"
	"homeward/cmd/cmdline"
	"homeward/drivers/sim"
)

// gateway is the real program, running as a child.
type gateway struct {
	cmd    *exec.Cmd
	socket string
	log    string
	done   chan struct{} // closed when it has ended; err is valid then
	err    error
}

// findGateway is the program beside our own, or path.
func findGateway(path string) (string, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("where is homeward? %w; name it with --homeward", err)
		}
		path = filepath.Join(filepath.Dir(self), "homeward")
	}
	info, err := os.Stat(path)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return "", cmdline.Usage(fmt.Errorf("there is no program %s: build it beside this one (go build -o bin/ ./cmd/...) or name it with --homeward", path))
	}
	return filepath.Abs(path)
}

// startGateway starts program with the configuration; its output goes to log.
func startGateway(program, config, state, log, simulator string) (*gateway, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	g := &gateway{cmd: exec.Command(program, "run", "--config", config), socket: agent.SocketPath(state), log: log, done: make(chan struct{})}
	g.cmd.Stdout, g.cmd.Stderr = out, out
	g.cmd.Env = append(childEnv(os.Environ()), sim.Env+"="+simulator)
	// A Ctrl-C at the terminal is ours to pass on; and if we are killed, it ends too.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is of the thread that starts
		defer runtime.UnlockOSThread()
		err := g.cmd.Start()
		started <- err
		if err == nil {
			g.err = g.cmd.Wait()
			close(g.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s does not start: %w", program, err)
	}
	return g, nil
}

// childEnv is env without what belongs to this process's own service.
func childEnv(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{sim.Env, "HOMEWARD_STATE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}, name)
	})
}

// status asks it how it is.
func (g *gateway) status(ctx context.Context) (status.Status, error) {
	var v status.Status
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return v, status.Get(ctx, g.socket, "/status.json", &v)
}

// ended says whether and how it has ended by itself.
func (g *gateway) ended() error {
	select {
	case <-g.done:
		how := "ended"
		if g.err != nil {
			how = g.err.Error()
		}
		return fmt.Errorf("the gateway has stopped by itself (%s); the end of its log:\n%s", how, tail(g.log, 15))
	default:
		return nil
	}
}

// until asks for its status, ten times a second, until ok says yes; the last status is returned in any case.
func (g *gateway) until(ctx context.Context, bound time.Duration, ok func(status.Status) bool) (status.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last status.Status
	var err error
	for {
		if gone := g.ended(); gone != nil {
			return last, gone
		}
		var v status.Status
		if v, err = g.status(ctx); err == nil {
			if last = v; ok(v) {
				return v, nil
			}
		}
		select {
		case <-tick.C:
		case <-g.done:
		case <-ctx.Done():
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("not within %v", bound)
			}
			return last, err
		}
	}
}

func (g *gateway) signal(s os.Signal) error { return g.cmd.Process.Signal(s) }

// stop ends it with SIGTERM, and with SIGKILL after bound.
func (g *gateway) stop(bound time.Duration) error {
	if err := g.ended(); err != nil {
		return err
	}
	if err := g.signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-g.done:
	case <-time.After(bound):
		_ = g.cmd.Process.Kill()
		<-g.done
		return fmt.Errorf("the gateway did not stop within %v of SIGTERM and was killed", bound)
	}
	if g.err != nil {
		return fmt.Errorf("the gateway stopped with %w; the end of its log:\n%s", g.err, tail(g.log, 15))
	}
	return nil
}

// tail is the last n lines of a file, indented.
func tail(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return "  " + err.Error()
	}
	defer f.Close()
	const most = 16 << 10
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-most), io.SeekStart)
	}
	text, _ := io.ReadAll(io.LimitReader(f, most))
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	lines = lines[max(0, len(lines)-n):]
	return "  " + string(bytes.Join(lines, []byte("\n  ")))
}
