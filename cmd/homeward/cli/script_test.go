package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"homeward/agent"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/drivers"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"homeward": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// secret stands in the scripts' password files; no command may ever print it.
const secret = "correct-horse"

// TestScripts runs the program as a user does. Beside testscript's own commands there are
//
//	exit CODE COMMAND…   runs it and wants this exit code, and no secret in its output
//	fill STATE N         makes a buffer with N polls of two readings, of which the first is in flight
//	damage FILE          overwrites all of a file but its first 4 KB
//	await STATE          waits until an agent answers at its socket
//	expand FILE…         puts the environment's values in place of $NAME
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("SECRET", secret)
			e.Setenv("NOTIFY_SOCKET", "")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exit": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exit CODE COMMAND…")
				}
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					var failed *exec.ExitError
					if !errors.As(err, &failed) {
						ts.Fatalf("%v", err)
					}
					got = failed.ExitCode()
				}
				if got != want {
					ts.Fatalf("exit %d, want %d", got, want)
				}
				if strings.Contains(ts.ReadFile("stdout")+ts.ReadFile("stderr"), secret) {
					ts.Fatalf("the output holds the secret")
				}
			},
			"fill": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[1])
				ts.Check(err)
				ts.Check(fill(ts.MkAbs(args[0]), n))
			},
			"thin": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(thin(ts.MkAbs(args[0])))
			},
			"expand": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, name := range args {
					ts.Check(os.WriteFile(ts.MkAbs(name), []byte(os.Expand(ts.ReadFile(name), ts.Getenv)), 0o600))
				}
			},
			"damage": func(ts *testscript.TestScript, _ bool, args []string) {
				f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
				ts.Check(err)
				defer f.Close()
				info, err := f.Stat()
				ts.Check(err)
				_, err = f.WriteAt(bytes.Repeat([]byte{0xA5}, int(info.Size())-4096), 4096)
				ts.Check(err)
			},
			"await": func(ts *testscript.TestScript, _ bool, args []string) {
				socket := agent.SocketPath(ts.MkAbs(args[0]))
				var err error
				for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
					var v status.Status
					if err = status.Get(context.Background(), socket, "/status.json", &v); err == nil {
						return
					}
				}
				ts.Fatalf("no agent: %v", err)
			},
		},
	})
}

// thin replaces the first poll of a buffer that fill made.
func thin(state string) error {
	b, err := buffer.Open(agent.BufferPath(state), buffer.Options{})
	if err != nil {
		return err
	}
	lane, err := b.Lane(7)
	if err == nil {
		_, err = lane.Thin(buffer.Range{From: 3, To: 4}, []buffer.Poll{{
			Stamp:    drivers.Stamp{Boot: [16]byte{1}, Wall: 1700000001000, Trusted: true},
			Readings: []drivers.Reading{{Channel: "cellar/temperature", Value: 21.5, Unit: "Cel", Quality: drivers.Aggregate}},
		}})
	}
	return errors.Join(err, b.Close())
}

// fill makes the buffer of a gateway that was switched off with a backlog.
func fill(state string, n int) error {
	b, err := buffer.Open(agent.BufferPath(state), buffer.Options{})
	if err != nil {
		return err
	}
	lane, err := b.Lane(7)
	if err != nil {
		return errors.Join(err, b.Close())
	}
	for i := range n {
		_, err = lane.Append(buffer.Poll{
			Stamp: drivers.Stamp{Mono: time.Duration(i) * time.Second, Wall: 1_700_000_000_000 + int64(i)*1000, Trusted: true},
			Readings: []drivers.Reading{
				{Channel: "cellar/temperature", Value: 21.5, Unit: "Cel"},
				{Channel: "cellar/humidity", Value: float64(i), Unit: "%RH", Quality: drivers.Suspect},
			},
		})
		if err != nil {
			return errors.Join(err, b.Close())
		}
	}
	_, err = lane.Fix(buffer.Attempt{Range: buffer.Range{From: 1, To: 2}, Payload: []byte("{}"), Cost: 1})
	return errors.Join(err, b.Close())
}
