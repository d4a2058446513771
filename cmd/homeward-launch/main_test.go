package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/ota/boot"
)

// programs are the launcher and the fake agent, built once.
var programs = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "homeward-launch-"); err != nil {
		return "", err
	}
	for name, pkg := range map[string]string{"homeward-launch": ".", "agent": "./testdata/fakeagent"} {
		build := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", filepath.Join(dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%w: %s", err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	if os.Getenv("HOMEWARD_TEST_LAUNCH") != "" { // as the launcher, with short times
		startTimeout, watchdog, trialWatchdog, stopTimeout = time.Hour, 400*time.Millisecond, 300*time.Millisecond, time.Second
		if text := os.Getenv("HOMEWARD_TEST_START"); text != "" {
			startTimeout, _ = time.ParseDuration(text)
		}
		apart = [boot.Tries]int64{}
		main()
		return
	}
	code := m.Run()
	if dir, _ := programs(); dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// box is a gateway without systemd.
type box struct {
	t       *testing.T
	dir     string
	state   string
	agent   []byte
	store   *boot.Store
	boots   int
	slots   int
	env     []string
	uid     uint32 // to run as; 0: as the test does
	factory string
}

func newBox(t *testing.T) *box {
	t.Helper()
	dir, err := programs()
	require.NoError(t, err)
	agent, err := os.ReadFile(filepath.Join(dir, "agent"))
	require.NoError(t, err)
	state := filepath.Join(t.TempDir(), "state")
	require.NoError(t, os.MkdirAll(filepath.Join(state, "behave"), 0o755))
	return &box{t: t, dir: dir, state: state, agent: agent, factory: filepath.Join(dir, "agent"), store: &boot.Store{FS: durable.OS{}, Dir: filepath.Join(state, "ota")}}
}

// install makes a slot whose agent behaves so.
func (b *box) install(behave string) string {
	b.t.Helper()
	b.slots++
	data := fmt.Appendf(append([]byte(nil), b.agent...), "%d", b.slots)
	sum := sha256.Sum256(data)
	slot := hex.EncodeToString(sum[:])
	b.write("behave/"+slot, behave)
	require.NoError(b.t, os.MkdirAll(b.store.SlotDir(slot), 0o755))
	require.NoError(b.t, os.WriteFile(b.store.Agent(slot), data, 0o755))
	return slot
}

func (b *box) write(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.state, name)
	require.NoError(b.t, os.WriteFile(path+".new", []byte(text), 0o644))
	require.NoError(b.t, os.Rename(path+".new", path))
}

func (b *box) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(b.state, name))
	return string(text)
}

func release(n uint64) boot.Release {
	return boot.Release{Product: "p", Version: fmt.Sprint(n), Counter: n, SHA256: fmt.Sprintf("%064x", n)}
}

func (b *box) set(change func(r *boot.Record)) {
	b.t.Helper()
	_, err := b.store.Update(func(r *boot.Record) error { change(r); return nil })
	require.NoError(b.t, err)
}

func (b *box) arm(slot string, n uint64) {
	b.t.Helper()
	b.set(func(r *boot.Record) { require.NoError(b.t, boot.Arm(r, boot.Trial{Slot: slot, Release: release(n)})) })
}

func (b *box) record() boot.Record {
	b.t.Helper()
	r, how, err := b.store.Load()
	require.NoError(b.t, err)
	require.NoError(b.t, how.Problem)
	return r
}

func (b *box) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(b.dir, "homeward-launch"), args...)
	cmd.Env = append(os.Environ(), "HOMEWARD_STATE="+b.state, "HOMEWARD_FACTORY="+b.factory, fmt.Sprint("HOMEWARD_BOOT_ID=boot", b.boots))
	cmd.Env = append(cmd.Env, b.env...)
	if b.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: b.uid, Gid: b.uid}}
	}
	return cmd
}

// start runs the launcher until the agent that it became ends; with kill, for that long at most.
func (b *box) start(kill time.Duration) (status int, out string) {
	b.t.Helper()
	cmd := b.command("run", "--config", "x")
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &text
	require.NoError(b.t, cmd.Start())
	timer := time.AfterFunc(kill, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	timer.Stop()
	return cmd.ProcessState.ExitCode(), text.String()
}

// ran lists the slots that were started, the last of them first.
func (b *box) last() string {
	b.t.Helper()
	slot := ""
	for line := range strings.Lines(b.read("log")) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "start" {
			slot = f[1]
		}
	}
	return slot
}

func (b *box) clean() {
	b.t.Helper()
	require.Empty(b.t, b.read("violations"))
}

func TestFactoryAndArguments(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.write("behave/factory", "exit 7")
	status, out := b.start(10 * time.Second)
	require.Equal(t, 7, status, out)
	require.Empty(t, out)
	require.Contains(t, b.read("log"), "factory start run --config x")
	_, err := os.Stat(filepath.Join(b.state, "ota", "boot.state"))
	require.ErrorIs(t, err, os.ErrNotExist, "a start without a trial writes no record")

	b.factory = filepath.Join(b.dir, "none")
	status, out = b.start(10 * time.Second)
	require.Equal(t, 1, status)
	require.Contains(t, out, "nothing could be started, not even "+b.factory)

	text, err := b.command("--version").Output()
	require.NoError(t, err)
	require.Equal(t, "homeward-launch v1.2.3, level 1\n", string(text))
	for _, args := range [][]string{{"--what"}, {"--guard", "x"}} {
		cmd := b.command(args...)
		require.Error(t, cmd.Run())
		require.Equal(t, 2, cmd.ProcessState.ExitCode())
	}
}

// TestBadReleases: what does not stay ends on the old slot after three tries, with its code.
func TestBadReleases(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ behave, result, code, status, want, text string }{
		{"exit 1", "exit-code", "exited", "1", boot.CodeCrash, "exited with status 1"},
		{"exit 0", "success", "exited", "0", boot.CodeCrash, "exited with status 0"},
		{"exit 42", "success", "exited", "42", boot.CodeCrash, "exited with status 42"},
		{"segv", "signal", "killed", "SEGV", boot.CodeCrash, "killed by SIGSEGV"},
		{"hang", "watchdog", "killed", "KILL", boot.CodeHang, "the watchdog ended it"},
		{"hang-at-start", "timeout", "killed", "KILL", boot.CodeHang, "hung at its start"},
	} {
		t.Run(c.behave, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			old, bad := b.install("exit 3"), b.install(c.behave)
			b.set(func(r *boot.Record) { r.Active, r.Release = old, release(1) })
			b.arm(bad, 2)
			for i := range boot.Tries {
				_, out := b.start(400 * time.Millisecond)
				require.Equal(t, bad[:12], b.last(), out)
				require.Equal(t, boot.Tries-1-i, b.record().Trial.TriesLeft)
				stopped := b.command("--stopped")
				stopped.Env = append(stopped.Env, "SERVICE_RESULT="+c.result, "EXIT_CODE="+c.code, "EXIT_STATUS="+c.status)
				require.NoError(t, stopped.Run())
				if i < boot.Tries-1 { // as if a while had passed: the pause before the next try is not what is tested here
					l, known := b.store.Last("boot0")
					require.True(t, known)
					l.StartS = max(0, l.StartS-10)
					require.NoError(t, b.store.Note(l))
				}
			}
			_, out := b.start(5 * time.Second)
			require.Equal(t, old[:12], b.last(), out)
			r := b.record()
			require.Nil(t, r.Trial)
			require.Equal(t, c.want, r.LastResult.Code)
			require.Contains(t, r.LastResult.Text, c.text)
			require.InDelta(t, time.Now().Unix(), r.LastResult.UnixS, 60)
			require.Len(t, r.Quarantine, 1)
			b.clean()
		})
	}
}

// TestPanicIsNoUsage: Go's own exit status after a panic is the one of a wrong configuration, which nobody would start again.
func TestPanicIsNoUsage(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.write("behave/factory", "panic")
	cmd := b.command("run")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "panic: as asked")
	ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.True(t, ws.Signaled(), "%v", cmd.ProcessState)
}

func TestPause(t *testing.T) {
	trial := func(left int, bootID string) *boot.Record {
		return &boot.Record{Trial: &boot.Trial{TriesLeft: left, BootID: bootID}}
	}
	for _, c := range []struct {
		name  string
		r     *boot.Record
		last  boot.Last
		known bool
		want  time.Duration
	}{
		{"nothing known", &boot.Record{}, boot.Last{}, false, 0},
		{"stopped", &boot.Record{}, boot.Last{Clean: true, StartS: 99, Crashes: 9}, true, 0},
		{"first crash", &boot.Record{}, boot.Last{StartS: 99}, true, 0},
		{"second", &boot.Record{}, boot.Last{StartS: 99, Crashes: 1}, true, time.Second},
		{"tenth", &boot.Record{}, boot.Last{StartS: 99, Crashes: 9}, true, 5 * time.Second},
		{"after a long run", &boot.Record{}, boot.Last{StartS: 30, Crashes: 9}, true, 0},
		{"trial: never started", trial(3, ""), boot.Last{StartS: 99}, true, 0},
		{"trial: second try", trial(2, "b"), boot.Last{StartS: 99}, true, 2 * time.Second},
		{"trial: third try", trial(1, "b"), boot.Last{StartS: 99}, true, 9 * time.Second},
		{"trial: third try after a hang", trial(1, "b"), boot.Last{StartS: 85}, true, 0},
		{"trial: it ends", trial(0, "b"), boot.Last{StartS: 99}, true, 0},
		{"clock", trial(1, "b"), boot.Last{StartS: 200}, true, 10 * time.Second},
	} {
		require.Equal(t, c.want, pause(c.r, "b", c.last, c.known, 100), c.name)
	}
}

// TestDamagedSlots: what is not what its name says is not started, after anything but a clean stop.
func TestDamagedSlots(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.env = []string{"FAKE_ANY=1"}
	prev, active, next := b.install("exit 3"), b.install("exit 3"), b.install("exit 3")
	b.set(func(r *boot.Record) { r.Active, r.Prev = active, prev })
	spoil := func(slot string) {
		f, err := os.OpenFile(b.store.Agent(slot), os.O_RDWR, 0)
		require.NoError(t, err)
		info, err := f.Stat()
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{0}, info.Size()-1)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	started := func(want string) {
		t.Helper()
		status, out := b.start(10 * time.Second)
		require.Equal(t, 3, status, out)
		require.Equal(t, fmt.Sprintf("%.12s", want), b.last(), out)
		b.boots++ // no pause
	}
	started(active)

	b.arm(next, 2)
	spoil(next)
	started(active)
	require.Equal(t, boot.CodeVerify, b.record().LastResult.Code)
	require.Empty(t, b.record().Quarantine, "the card is to blame, not the release")

	spoil(active)
	require.NoError(t, b.store.Note(boot.Last{Clean: true, Slot: active, BootID: fmt.Sprint("boot", b.boots)}))
	started(active) // stopped in good order in this boot: not read again
	require.NoError(t, b.store.Note(boot.Last{Clean: true, Slot: prev, BootID: fmt.Sprint("boot", b.boots)}))
	started(prev) // another one was
	started(prev)
	require.NoError(t, os.Remove(b.store.Agent(prev)))
	b.write("behave/factory", "exit 3")
	started("factory")
	b.factory += "-none"
	other := b.install("exit 3")
	started(other) // no release that anybody named, but whole, and better than nothing
	require.Equal(t, active, b.record().Active, "the record is the updater's to mend")
}

// TestLostRecord: without a record the newest slot is started; one that does not stay gives way to the next older, at last to the
// factory's, durably.
func TestLostRecord(t *testing.T) {
	for _, c := range []struct {
		name string
		lost func(s *boot.Store) error // what becomes of the record, after each start
	}{
		{"both damaged", func(*boot.Store) error { return nil }},
		{"written by the agent since", func(s *boot.Store) error {
			_, err := s.Update(func(r *boot.Record) error { r.TimeFloor++; return nil })
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t)
			oldest, older, newest := b.install("x"), b.install("x"), b.install("x")
			for i, slot := range []string{oldest, older, newest} {
				at := time.Unix(int64(1000+i), 0)
				require.NoError(t, os.Chtimes(b.store.Agent(slot), at, at))
			}
			for _, name := range []string{"boot.state", "boot.state.bak"} {
				b.write("ota/"+name, "torn")
			}
			now, said := int64(100), ""
			l := &launcher{state: b.state, factory: b.factory, boot: "boot0", store: b.store, sleep: func(d time.Duration) { now += int64(d / time.Second) },
				say: func(format string, args ...any) { said += fmt.Sprintf(format+"\n", args...) },
				now: func() int64 { return 1 }, uptime: func() int64 { return now }}
			start := func(ran int64) string {
				p := l.plan()
				require.NotEmpty(t, p.list)
				p.note.Slot, p.note.StartS = p.list[0].slot, now
				require.NoError(t, b.store.Note(p.note))
				require.NoError(t, c.lost(b.store))
				now += ran
				return p.list[0].slot
			}
			for range 20 {
				require.Equal(t, newest, start(soon), "one that ran for a while is no bad one")
			}
			require.Equal(t, newest, start(1))
			require.NoError(t, b.store.Note(boot.Last{Clean: true, Slot: newest, BootID: "boot0"}))
			var ran []string
			for range 3*boot.Tries + 4 {
				ran = append(ran, start(1))
			}
			var want []string
			for _, slot := range []string{newest, older, oldest, ""} {
				want = append(want, slot, slot, slot)
			}
			require.Equal(t, append(want, ""), ran, said)
			require.Contains(t, said, "does not stay: now the factory's")
			r := b.record()
			require.Empty(t, r.Active)
			l.boot = "boot1"
			require.Empty(t, start(1), "after a power cut, too")
		})
	}

	// A release that was committed is never given up for its crashes.
	b := newBox(t)
	older, active := b.install("x"), b.install("x")
	b.set(func(r *boot.Record) { r.Active, r.Release, r.Prev = active, release(2), older })
	l := &launcher{state: b.state, factory: b.factory, boot: "boot0", store: b.store, sleep: func(time.Duration) {},
		say: t.Logf, now: func() int64 { return 1 }, uptime: func() int64 { return 10 }}
	require.NoError(t, b.store.Note(boot.Last{Slot: active, BootID: "boot0", StartS: 9, Crashes: 50}))
	require.Equal(t, active, l.plan().list[0].slot)
	require.Equal(t, active, b.record().Active)
}

// TestNotExecutable: a program that the kernel refuses.
func TestNotExecutable(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.write("behave/factory", "exit 3")
	text := []byte("no program at all")
	sum := sha256.Sum256(text)
	slot := hex.EncodeToString(sum[:])
	require.NoError(t, os.MkdirAll(b.store.SlotDir(slot), 0o755))
	require.NoError(t, os.WriteFile(b.store.Agent(slot), text, 0o755))
	b.arm(slot, 2)
	status, out := b.start(10 * time.Second)
	require.Equal(t, 3, status, out)
	require.Equal(t, "factory", b.last())
	require.Equal(t, boot.CodeCrash, b.record().LastResult.Code)
	require.Contains(t, b.record().LastResult.Text, "exec format error")
	require.Len(t, b.record().Quarantine, 1)

	require.NoError(t, os.Chmod(b.store.Agent(slot), 0o644)) // as on a file system that runs no programs
	b.set(func(r *boot.Record) { boot.Clear(r, release(2).SHA256); r.LastResult = nil })
	b.arm(slot, 2)
	status, out = b.start(10 * time.Second)
	require.Equal(t, 3, status, out)
	require.Contains(t, b.record().LastResult.Text, "permission denied")
	require.Empty(t, b.record().Quarantine)
}

// TestStateCannotBeWritten: the active slot starts, the trial waits, and nothing hangs.
func TestStateCannotBeWritten(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("wants root, to run the launcher as somebody else")
		}
		t.Skip("wants root, to run the launcher as somebody else")
	}
	t.Parallel()
	b := newBox(t)
	for dir := b.state; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	require.NoError(t, os.Chmod(b.dir, 0o755))
	old, next := b.install("exit 3"), b.install("ok")
	b.set(func(r *boot.Record) { r.Active, r.Release = old, release(1) })
	b.arm(next, 2)
	for _, name := range []string{"boot.state", "boot.state.bak", "boot.lock"} {
		require.NoError(t, os.Chmod(b.store.Dir+"/"+name, 0o644)) // readable for the test's somebody else
	}
	require.NoError(t, os.Chmod(b.store.Dir, 0o755))
	before := b.record()
	b.uid = 65534
	b.env = []string{"FAKE_ANY=1"}
	for range 5 {
		status, out := b.start(10 * time.Second)
		require.Equal(t, 3, status, out)
		require.Contains(t, out, "release p 2 (2) waits for its trial: it cannot be counted")
	}
	require.Equal(t, before, b.record())
	b.uid = 0
	b.start(2 * time.Second)
	require.Equal(t, next, b.record().Active, "it can be counted again, and is good")
}

// TestGuardByRoot: what root undoes by hand is undone for the service's user, too.
func TestGuardByRoot(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("wants root, to run the launcher as somebody else")
		}
		t.Skip("wants root, to run the launcher as somebody else")
	}
	t.Parallel()
	b := newBox(t)
	for dir := b.state; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	require.NoError(t, os.Chmod(b.dir, 0o755))
	old, next := b.install("exit 3"), b.install("exit 1")
	require.NoError(t, filepath.WalkDir(b.state, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, 65534, 65534))
	}))
	b.set(func(r *boot.Record) { r.Active, r.Release = old, release(1) })
	b.arm(next, 2)
	b.uid = 65534
	status, out := b.start(10 * time.Second)
	require.Equal(t, 1, status, out)
	require.Equal(t, next[:12], b.last(), out)

	b.uid = 0
	text, err := b.command("--guard").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(text), "release p 2 (2) is undone")
	b.uid = 65534
	status, out = b.start(10 * time.Second)
	require.Equal(t, 3, status, out)
	require.Equal(t, old[:12], b.last(), out)
	require.Len(t, b.record().Quarantine, 1)
	b.clean()

	// A record that it may not read: the active slot, as far as it is known, and no trial.
	b.set(func(r *boot.Record) { boot.Clear(r, release(2).SHA256); r.LastResult = nil })
	b.arm(next, 2)
	require.NoError(t, os.Chown(b.store.Dir+"/boot.state", 0, 0))
	b.boots++
	b.env = []string{"FAKE_ANY=1"}
	status, out = b.start(10 * time.Second)
	require.Equal(t, 3, status, out)
	require.Contains(t, out, "permission denied")
	require.Equal(t, old[:12], b.last(), out)
	cmd := b.command("--guard")
	text, err = cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, 1, cmd.ProcessState.ExitCode(), "it says that it did not: %s", text)
	require.NotNil(t, b.record().Trial)
}

func TestGuard(t *testing.T) {
	t.Parallel()
	const exit1, exit2, killed = "ExecMainCode=1\nExecMainStatus=1\n", "ExecMainCode=1\nExecMainStatus=2\n", "ExecMainCode=2\nExecMainStatus=2\n"
	for _, c := range []struct {
		name    string
		end     string // what the unit says; "-": run by hand
		started bool
		undone  string // code
		next    string
	}{
		{"by hand", "-", true, boot.CodeCrash, ""},
		{"by hand, never started", "-", false, boot.CodeCrash, ""},
		{"start limit", exit1, true, boot.CodeCrash, "now"},
		{"start limit, killed by signal 2", killed, true, boot.CodeCrash, "now"},
		{"start limit, never started", exit1, false, "", ""},
		{"configuration", exit2, true, boot.CodeConfig, "now"},
		{"configuration, never started", exit2, false, "", "stay"},
		{"restarted by systemd", "", true, "", "stay"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			b.arm(b.install("ok"), 2)
			if c.started {
				b.set(func(r *boot.Record) { boot.Start(r, "boot0") })
			}
			run := func() string {
				cmd := b.command("--guard")
				dir := t.TempDir()
				if c.end != "-" {
					cmd.Env = append(cmd.Env, "RUNTIME_DIRECTORY="+dir)
				}
				if c.end != "" && c.end != "-" {
					require.NoError(t, os.WriteFile(filepath.Join(dir, "end"), []byte(c.end), 0o600))
				}
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, string(out))
				text, err := os.ReadFile(filepath.Join(dir, "next"))
				require.Equal(t, c.end != "-", err == nil)
				return string(text)
			}
			require.Equal(t, c.next, run())
			r := b.record()
			if c.undone == "" {
				require.NotNil(t, r.Trial)
			} else {
				require.Nil(t, r.Trial)
				require.Equal(t, c.undone, r.LastResult.Code)
				_, is := r.Quarantined(release(2).SHA256)
				require.Equal(t, c.undone != boot.CodeConfig, is, "the old release may refuse the same configuration")
			}
			again := run()
			require.Equal(t, r, b.record(), "a second time changes nothing")
			require.NotEqual(t, "now", again)
		})
	}
}

// kills runs gateways through good and bad releases and kills launcher and agent at random moments; sometimes it is a power cut, after
// which the boot is another. What must hold is looked at after each.
func kills(t *testing.T, seed uint64, want int, supervised bool) (killed int, counts map[string]int) {
	b := newBox(t)
	rnd := rand.New(rand.NewPCG(seed, 5))
	counts = map[string]int{}
	b.write("commit_ms", "30")
	good := map[uint64]bool{}
	slots := map[uint64]string{}
	next := uint64(1)
	offer := func() {
		next++
		behave := []string{"ok", "ok", "exit 1", "exit 0", "late 20"}[rnd.IntN(5)]
		good[next] = behave == "ok"
		slots[next] = b.install(behave)
		b.write("assign", fmt.Sprintf("%s %d", slots[next], next))
		counts["releases"]++
	}
	offer()
	seen := boot.Record{}
	for round := 0; killed < want || counts["committed"] == 0; round++ {
		require.Less(t, round, want*20, "it goes on")
		args := []string{"run"}
		if supervised {
			args = []string{"--supervise", "run"}
		}
		cmd := b.command(args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		var text strings.Builder
		cmd.Stdout, cmd.Stderr = &text, &text
		require.NoError(t, cmd.Start())
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		after := time.Duration(rnd.IntN(20)) * time.Millisecond
		if rnd.IntN(2) == 0 {
			after = time.Duration(rnd.IntN(400)) * time.Millisecond
		}
		select {
		case <-done: // it ended by itself
			counts["own ends"]++
		case <-time.After(after):
			_ = cmd.Process.Kill()
			<-done
			killed++
		}
		if rnd.IntN(4) == 0 {
			b.boots++
			counts["power cuts"]++
		} else if l, known := b.store.Last(fmt.Sprint("boot", b.boots)); known { // as if time had passed: no pauses
			l.StartS, l.Crashes = max(0, l.StartS-100), 0
			require.NoError(t, b.store.Note(l))
		}
		b.clean()
		r := b.record()
		where := fmt.Sprintf("round %d: %s", round, text.String())
		for _, slot := range []string{r.Active, r.Prev} {
			if slot != "" {
				require.NoError(t, b.store.Verify(slot), where)
			}
		}
		require.GreaterOrEqual(t, r.Gen, seen.Gen, where)
		require.GreaterOrEqual(t, r.Floors["p"], seen.Floors["p"], where)
		require.GreaterOrEqual(t, r.Release.Counter, seen.Release.Counter, "%s: a committed release stays", where)
		if c := r.Release.Counter; c != 0 {
			require.True(t, good[c], "%s: release %d is bad and committed", where, c)
			require.Equal(t, slots[c], r.Active, where)
			require.Equal(t, c, r.Floors["p"], where)
		}
		for _, q := range r.Quarantine {
			require.NotEqual(t, boot.CodePower, q.Code, where)
			require.True(t, r.Trial == nil || r.Trial.Release.SHA256 != q.Manifest, where)
		}
		// The next release, once there is a verdict.
		_, bad := r.Quarantined(release(next).SHA256)
		given := b.read("refused") == strconv.FormatUint(next, 10) && r.Trial == nil
		switch {
		case r.Release.Counter == next:
			counts["committed"]++
			offer()
		case bad && r.Trial == nil:
			counts["quarantined"]++
			offer()
		case given:
			counts["given up"]++
			offer()
		}
		seen = r
		if len(slots) > 40 { // the card is small
			for c, slot := range slots {
				if c+20 < next && slot != r.Active && slot != r.Prev && (r.Trial == nil || r.Trial.Slot != slot) {
					require.NoError(t, os.RemoveAll(b.store.SlotDir(slot)))
					delete(slots, c)
				}
			}
		}
	}
	return killed, counts
}

// TestKills: 15 and 15 kills here, 600 in scripts/campaign; HOMEWARD_SEED chooses others.
func TestKills(t *testing.T) {
	t.Parallel()
	want := 15
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		want = 300
	}
	seed, _ := strconv.ParseUint(os.Getenv("HOMEWARD_SEED"), 10, 64)
	for _, supervised := range []bool{false, true} {
		t.Run(map[bool]string{false: "alone", true: "supervised"}[supervised], func(t *testing.T) {
			t.Parallel()
			killed, counts := kills(t, seed+1, want, supervised)
			t.Logf("kills: %d, %v, no violation", killed, counts)
		})
	}
}
