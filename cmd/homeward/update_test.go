package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"homeward/agent/cloud/cloudtest"
	"homeward/agent/status"
)

// programs are built once each.
var programs = struct {
	sync.Mutex
	dir  string
	made map[string]string
}{made: map[string]string{}}

// program builds a package of this module as releases are built, with a variable set by the linker.
func program(t *testing.T, pkg, set string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if path := programs.made[pkg+set]; path != "" {
		return path
	}
	if programs.dir == "" {
		path, err := build()
		require.NoError(t, err)
		programs.dir = filepath.Dir(path) // removed with it
	}
	path := filepath.Join(programs.dir, fmt.Sprintf("program-%d", len(programs.made)))
	flags := "-s -w"
	if set != "" {
		flags += " -X " + set
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	programs.made[pkg+set] = path
	return path
}

func agentOf(t *testing.T, version string) string {
	return program(t, ".", "homeward/cmd/homeward/cli.version="+version)
}

func bad(t *testing.T, how string) string { return program(t, "./testdata/bad", "main.how="+how) }

// fleet is a fleet manager at work with homeward-fleet.
type fleet struct {
	t       *testing.T
	program string
	dir     string
	url     string
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, program: program(t, "../homeward-fleet", ""), dir: filepath.Join(t.TempDir(), "acme")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f.url = "http://" + l.Addr().String()
	require.NoError(t, l.Close())
	f.do("init", "--organization", "acme", "--address", f.url, "--no-passphrase")
	f.do("product", "add", "p", "--no-passphrase")
	f.do("publish")
	server := exec.Command(f.program, "--fleet", f.dir, "serve", "--listen", f.url[len("http://"):])
	run(t, server)
	return f
}

func (f *fleet) do(args ...string) string {
	f.t.Helper()
	cmd := exec.Command(f.program, append([]string{"--fleet", f.dir}, args...)...)
	out, err := cmd.CombinedOutput()
	require.NoError(f.t, err, "homeward-fleet %s: %s", strings.Join(args, " "), out)
	return string(out)
}

// release makes one that every gateway may have at once.
func (f *fleet) release(version, path string, stable, deadline string) {
	f.t.Helper()
	f.do("release", "add", "p", path, "--version", version, "--stable", stable, "--deadline", deadline)
	f.do("release", "roll", "p", version, "--all")
	f.do("publish")
}

func (f *fleet) root() string {
	f.t.Helper()
	list, err := filepath.Glob(filepath.Join(f.dir, "repository", "1.root.json"))
	require.NoError(f.t, err)
	require.Len(f.t, list, 1)
	return list[0]
}

// follow has the site ask the fleet for releases.
func (s *site) follow(f *fleet) {
	s.extra += fmt.Sprintf("fleet: {repository: %q, root_file: %q, every: 1m}\n", f.url, f.root())
}

// launch starts the site as the service does: through the launcher, here without systemd.
func (s *site) launch(factory string) {
	s.t.Helper()
	s.cmd = exec.Command(program(s.t, "../homeward-launch", ""), "--supervise", "run", "--config", s.config(), "--log", "debug")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = append(append(os.Environ(), s.env...), "HOMEWARD_STATE="+filepath.Join(s.dir, "state"), "HOMEWARD_FACTORY="+factory)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	require.NoError(s.t, s.cmd.Start())
	group := s.cmd.Process.Pid
	s.t.Cleanup(func() { _ = syscall.Kill(-group, syscall.SIGKILL) })
}

// cut is what a power cut is to the processes: launcher and agent are gone at once.
func (s *site) cut() {
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// reports are the updates' part of the retained statuses, each told once.
type reports struct {
	mu   sync.Mutex
	list []report
}

type report struct {
	Release string `json:"release"`
	Update  struct {
		State, Code  string
		Counter, Gen uint64
		Attempt      int
	} `json:"update"`
}

func (r *reports) outcomes(counter uint64) (codes []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.list {
		if x.Update.Gen != 0 && x.Update.Counter == counter && !slices.Contains(codes, x.Update.Code) {
			codes = append(codes, x.Update.Code)
		}
	}
	return codes
}

func watchReports(t *testing.T, url string) (*reports, paho.Client) {
	t.Helper()
	r := &reports{}
	c := paho.NewClient(paho.NewClientOptions().AddBroker(strings.Replace(url, "mqtt://", "tcp://", 1)).SetClientID("fleet"))
	token := c.Connect()
	require.True(t, token.WaitTimeout(patience))
	require.NoError(t, token.Error())
	token = c.Subscribe("homeward/acme/cold/gw-1/status", 1, func(_ paho.Client, m paho.Message) {
		var x report
		if json.Unmarshal(m.Payload(), &x) == nil {
			r.mu.Lock()
			r.list = append(r.list, x)
			r.mu.Unlock()
		}
	})
	require.True(t, token.WaitTimeout(patience))
	t.Cleanup(func() { c.Disconnect(0) })
	return r, c
}

func nudge(t *testing.T, c paho.Client) {
	t.Helper()
	require.True(t, c.Publish("homeward/acme/cold/gw-1/orders", 1, false, `{"look":true}`).WaitTimeout(patience))
}

// pause is the longest time without a poll between two moments (Unix ms).
func (s *site) pause(from, to int64) (longest int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := from
	for _, at := range s.times {
		if at > from && at <= to {
			longest = max(longest, at-before)
			before = at
		}
	}
	return longest
}

// TestUpdate is an update from the fleet manager's command to the committed slot, and a bad one that is undone, with the real
// programs: nothing that was read is lost.
func TestUpdate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := newFleet(t)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	s.consumer = consume(t, m.URL)
	told, fleetClient := watchReports(t, m.URL)
	s.follow(f)
	s.configure(m.URL)
	s.launch(agentOf(t, "1.0.0"))
	s.until("running the factory's release", proven)
	v, err := s.status()
	require.NoError(t, err)
	require.Equal(t, []any{"1.0.0", "factory", uint64(0)}, []any{v.Version, v.Update.Slot, v.Update.Counter})

	from := time.Now().UnixMilli()
	f.release("1.1.0", agentOf(t, "1.1.0"), "2s", "60s")
	out, err := exec.Command(agentOf(t, "1.0.0"), "update", "apply", filepath.Join(f.dir, "repository"), "--config", s.config()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "1.1.0, release 1", "a folder, as on a USB stick")
	v = s.until("1.1.0 committed", func(v status.Status) bool { return v.Version == "1.1.0" && v.Update.LastResult == "1.1.0: ok" })
	require.EqualValues(t, 1, v.Update.Counter)
	require.Len(t, v.Update.Slot, 64)
	require.Eventually(t, func() bool { return slices.Equal([]string{"ok"}, told.outcomes(1)) }, patience, 50*time.Millisecond)
	t.Logf("longest time without a poll (every 100 ms) while updating: %d ms; fetched %d bytes", s.pause(from, time.Now().UnixMilli()), v.Update.Bytes.Today)

	f.release("1.2.0", bad(t, "exit"), "2s", "60s")
	nudge(t, fleetClient)
	v = s.until("1.2.0 undone", func(v status.Status) bool { return v.Update.LastResult == "1.2.0: trial.crash" && proven(v) })
	require.Equal(t, "1.1.0", v.Version)
	require.Equal(t, []status.Quarantined{{Version: "1.2.0", Counter: 2, Code: "trial.crash"}}, v.Update.Quarantine)
	require.Eventually(t, func() bool { return slices.Equal([]string{"trial.crash"}, told.outcomes(2)) }, patience, 50*time.Millisecond)
	fetched := v.Update.Bytes.Today
	out, err = exec.Command(agentOf(t, "1.0.0"), "update", "apply", filepath.Join(f.dir, "repository"), "--config", s.config()).CombinedOutput()
	require.Error(t, err, "%s", out)
	require.Contains(t, string(out), "trial.crash", "nor by hand, while nobody assigns it anew")
	v, err = s.status()
	require.NoError(t, err)
	require.Less(t, v.Update.Bytes.Today-fetched, int64(20_000), "it is not fetched again")
	require.Equal(t, "1.1.0", v.Version)

	out, err = exec.Command(agentOf(t, "1.1.0"), "update", "history", "--config", s.config()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `committed +1\.1\.0 +release 1 +ok`, string(out))
	require.Regexp(t, `rolled-back +1\.2\.0 +release 2 +trial\.crash`, string(out))

	s.settle(m.URL)
	s.complete()

	out, err = exec.Command(agentOf(t, "1.1.0"), "update", "clear", "1.3.0", "--config", s.config()).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "want one that did: 1.2.0")
	out, err = exec.Command(agentOf(t, "1.1.0"), "update", "clear", "1.2.0", "--config", s.config()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "failed here")
}

// complete: everything that was served has arrived, but for what a stop cut off while it was read.
func (s *site) complete() {
	s.t.Helper()
	for epoch, list := range s.consumer.epochs() {
		for i, r := range list {
			require.EqualValues(s.t, i+1, r.Seq, "epoch %d", epoch)
		}
	}
	require.Empty(s.t, s.consumer.gaps)
	require.Empty(s.t, s.consumer.wrong)
}

// TestUpdateKilled: launcher and agent are killed again and again while releases come, good and bad ones: a good one is committed
// in the end, what runs is always one that was signed, and no reading is lost.
func TestUpdateKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	f := newFleet(t)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	s.consumer = consume(t, m.URL)
	s.follow(f)
	s.configure(m.URL)
	factory := agentOf(t, "1.0.0")
	f.release("1.1.0", agentOf(t, "1.1.0"), "1s", "60s")
	seed := uint64(time.Now().UnixNano())
	dice := rand.New(rand.NewPCG(seed, 1))
	kills := rounds(4, 150)
	good := []string{"1.1.0"}
	for i := range kills {
		s.launch(factory)
		apply := exec.Command("/bin/sh", "-c", `until "$0" update apply "$1" --config "$2"; do sleep 0.2; done`, factory, filepath.Join(f.dir, "repository"), s.config())
		apply.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		require.NoError(t, apply.Start())
		time.Sleep(time.Duration(dice.IntN(4000)) * time.Millisecond)
		if dice.IntN(3) == 0 { // the agent alone, as the kernel does it when memory is short
			if v, err := s.status(); err == nil {
				_ = syscall.Kill(v.PID, syscall.SIGKILL)
				time.Sleep(time.Duration(dice.IntN(500)) * time.Millisecond)
			}
		}
		s.cut()
		_ = syscall.Kill(-apply.Process.Pid, syscall.SIGKILL)
		_ = apply.Wait()
		if i%10 == 9 && i+10 < kills {
			version := fmt.Sprintf("1.%d.0", 2+i/10)
			if i%20 == 19 {
				f.release(version, bad(t, []string{"exit", "segfault"}[i/20%2]), "1s", "60s")
			} else {
				f.release(version, agentOf(t, version), "1s", "60s")
				good = append(good, version)
			}
		}
	}
	s.launch(factory)
	v := s.until("something trusted running", func(v status.Status) bool { return slices.Contains(good, v.Version) || v.Version == "1.0.0" })
	t.Logf("seed %d: %d kills, %d good releases and %d bad ones; %s runs, quarantined: %v", seed, kills, len(good), kills/20, v.Version, v.Update.Quarantine)
	// A kill in a trial is a crash, so that a good release may have been undone, too; the next one comes through.
	f.release("9.9.9", agentOf(t, "9.9.9"), "1s", "60s")
	require.Eventually(t, func() bool {
		return exec.Command(factory, "update", "apply", filepath.Join(f.dir, "repository"), "--config", s.config()).Run() == nil
	}, patience, time.Second)
	s.until("the next good release committed", func(v status.Status) bool { return v.Update.LastResult == "9.9.9: ok" && v.Version == "9.9.9" })
	s.settle(m.URL)
	s.complete()
}
