package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"homeward/cmd/cmdline"
)

// programs is where built puts what it builds.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "homeward-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "homeward")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "homeward/cmd/homeward")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// built is the gateway's program, made from this tree.
func built(t *testing.T) string {
	path, err := build()
	require.NoError(t, err)
	return path
}

func script(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "homeward")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
	return path
}

// TestDemo runs the whole: a real gateway as a child, a real broker, real terminals.
func TestDemo(t *testing.T) {
	defer goleak.VerifyNone(t)
	program := built(t)
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("HOMEWARD_STATE", "/nowhere") // must not reach the child
	t.Run("for a time", func(t *testing.T) {
		var out, errs bytes.Buffer
		code := Main([]string{"demo", "--for", "5s", "--homeward", program}, &out, &errs)
		require.Equal(t, cmdline.ExitDone, code, "%s\n%s", &out, &errs)
		require.Empty(t, errs.String())
		for _, want := range []string{"status page", "mosquitto_sub -h 127.0.0.1", "every reading arrived"} {
			require.Contains(t, out.String(), want)
		}
		left, err := os.ReadDir(os.TempDir())
		require.NoError(t, err)
		require.Empty(t, left, "the temporary folder is gone")
	})
	t.Run("until it is interrupted", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "kept")
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		var out bytes.Buffer
		root := Command()
		root.SetArgs([]string{"demo", "--dir", dir, "--homeward", program})
		root.SetOut(&out)
		checked := make(chan error, 1)
		go func() { // what a user would do meanwhile; it reads the instruments, too
			time.Sleep(2 * time.Second)
			check := exec.Command(program, "check", "--config", filepath.Join(dir, "homeward.yaml"))
			check.Env = childEnv(os.Environ())
			text, err := check.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, text)
			}
			checked <- err
		}()
		require.NoError(t, root.ExecuteContext(ctx), "%s", &out)
		require.NoError(t, <-checked)
		require.Contains(t, out.String(), "left in "+dir)
		for _, name := range []string{"homeward.yaml", "homeward.log", "state"} {
			_, err := os.Stat(filepath.Join(dir, name))
			require.NoError(t, err)
		}
		require.Equal(t, cmdline.ExitUsage, Main([]string{"demo", "--dir", dir, "--homeward", program}, &out, &out))
		require.Contains(t, out.String(), "is not empty")
	})
}

// TestDemoFails: a gateway that does not work is said so, with the end of its log.
func TestDemoFails(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Setenv("TMPDIR", t.TempDir())
	var out bytes.Buffer
	code := Main([]string{"demo", "--for", "1s", "--homeward", script(t, "echo no luck today >&2; exit 3\n")}, &out, &out)
	require.Equal(t, cmdline.ExitFailed, code)
	for _, want := range []string{"FAILED", "exit status 3", "no luck today", "left in"} {
		require.Contains(t, out.String(), want)
	}
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Len(t, left, 1, "the folder is left to be looked at")
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"nonsense"}, cmdline.ExitUsage, `unknown command "nonsense"`},
		{[]string{"demo", "more"}, cmdline.ExitUsage, "unknown command"},
		{[]string{"demo", "--for", "-1s"}, cmdline.ExitUsage, "want a time"},
		{[]string{"demo", "--for", "soon"}, cmdline.ExitUsage, "invalid duration"},
		{[]string{"demo", "--homeward", "/nowhere/homeward"}, cmdline.ExitUsage, "there is no program /nowhere/homeward"},
		{[]string{"demo", "--homeward", "/bin/true", "--dir", "/tmp/" + strings.Repeat("x", 100)}, cmdline.ExitUsage, "too long for a socket"},
		{[]string{"demo", "--help"}, cmdline.ExitDone, "--for"},
		{nil, cmdline.ExitDone, "demo"},
	} {
		var out bytes.Buffer
		require.Equal(t, c.code, Main(c.args, &out, &out), "%v: %s", c.args, &out)
		require.Contains(t, out.String(), c.want)
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("line\n", 10000)+"a\nb\n"), 0o600))
	require.Equal(t, "  line\n  a\n  b", tail(path, 3))
	require.Contains(t, tail(path+".none", 3), "no such file")
}
