package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// onTerminal runs a command on a terminal, types what is asked for, and gives all that was shown.
func onTerminal(t *testing.T, answers map[string]string, args ...string) string {
	t.Helper()
	shown, code := tryTerminal(t, answers, args...)
	require.Zero(t, code, shown)
	return shown
}

// tryTerminal gives the exit code as well. An answer that ends with Ctrl-C has no line end.
func tryTerminal(t *testing.T, answers map[string]string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Args = append([]string{"homeward-fleet"}, args...)
	cmd.Env = append(os.Environ(), "TERM=xterm", passphraseEnv+"=")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 120})
	require.NoError(t, err)
	defer terminal.Close()
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var shown strings.Builder
	at := 0
	for b := make([]byte, 4096); ; {
		n, err := terminal.Read(b)
		shown.Write(b[:n])
		for ask, answer := range answers {
			if i := strings.Index(shown.String()[at:], ask); i >= 0 {
				at += i + len(ask)
				for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) { // nobody types that fast
					if state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS); err == nil && state.Lflag&unix.ECHO == 0 {
						break
					}
				}
				if !strings.HasSuffix(answer, "\x03") {
					answer += "\n"
				}
				_, err := io.WriteString(terminal, answer)
				require.NoError(t, err)
			}
		}
		if err != nil { // EIO: the program has closed its end
			break
		}
	}
	err = cmd.Wait()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return shown.String(), failed.ExitCode()
	}
	require.NoError(t, err)
	return shown.String(), 0
}

// TestTerminal: on a terminal passphrases are asked for and not shown, and long work has a bar that ends.
func TestTerminal(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "acme")
	const typed = "typed-and-not-shown"
	out := onTerminal(t, map[string]string{"passphrase for the new keys: ": typed, "again: ": typed}, "--fleet", dir, "init", "--organization", "acme", "--gateways", "4")
	require.Contains(t, out, "is the fleet of acme")
	require.NotContains(t, out, typed)
	onTerminal(t, map[string]string{"passphrase for the new keys: ": typed, "again: ": typed}, "--fleet", dir, "product", "add", "p")
	out = onTerminal(t, map[string]string{"leave it out): ": typed}, "--fleet", dir, "publish")
	require.Contains(t, out, "published: timestamp 2")
	require.Equal(t, 1, strings.Count(out, "leave it out): "), "one passphrase for all: %s", out)
	require.NotContains(t, out, typed)
	asked := strings.Index(out, "leave it out): ")
	require.Contains(t, out[:asked], "to be signed:\r\n  targets 2 (changed)\r\n      releases-p gets key ", "what is signed is listed before the passphrase is asked for")

	// Ctrl-C at the question ends it at once; a wrong passphrase is called so.
	onTerminal(t, map[string]string{"passphrase for the new keys: ": typed, "again: ": typed}, "--fleet", dir, "key", "rotate", "timestamp")
	out, code := tryTerminal(t, map[string]string{"leave it out): ": "wrong-and-not-shown"}, "--fleet", dir, "publish")
	require.Equal(t, 1, code, "ten times wrong")
	require.Equal(t, 9, strings.Count(out, "this passphrase does not open it"))
	require.NotContains(t, out, "wrong-and-not-shown")
	out, code = tryTerminal(t, map[string]string{"leave it out): ": "half-\x03"}, "--fleet", dir, "publish")
	require.Equal(t, 1, code, "it left by itself: what it says of it may be lost, as Ctrl-C empties the terminal's queues")
	require.NotContains(t, out, "published")
	_, err := os.Stat(filepath.Join(dir, "staged"))
	require.ErrorIs(t, err, os.ErrNotExist)
	onTerminal(t, map[string]string{"leave it out): ": typed}, "--fleet", dir, "publish")

	program := filepath.Join(t.TempDir(), "program")
	build(t, program, "1.0.0", "-s", "-w")
	onTerminal(t, nil, "--fleet", dir, "release", "add", "p", program, "--version", "1.0.0")
	out = onTerminal(t, nil, "--fleet", dir, "release", "add", "p", program, "--version", "1.0.1") // the same program: no patch to make
	require.Contains(t, out, "is release 2")
}
