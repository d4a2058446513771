package ota

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
	"homeward/ota/release"
)

// withOne is a box that runs release 1, committed.
func withOne(t *testing.T) (b *box, slot string) {
	b = newBox(t)
	m := b.add(1, &program{name: "one"})
	b.put(m)
	b.offer(1, 1)
	b.until(3*time.Hour, b.runs(1))
	return b, slotOf(m)
}

// rolled offers release 2 by a rollout with this id.
func (b *box) rolled(serial uint64, id string) {
	b.roll(&release.Rollouts{Schema: 1, Product: "box", Serial: serial,
		Releases: []release.Listed{{Counter: 1, Version: "1.1", Platforms: []string{"linux-arm64"}, State: release.Released},
			{Counter: 2, Version: "1.2", Platforms: []string{"linux-arm64"}, State: release.Rolling}},
		Rollouts: []release.Rollout{{ID: id, Counter: 2, Version: "1.2", State: release.Running, Groups: []release.Group{{Name: "all", Percent: 100, State: release.GroupDone}}}}})
}

// TestBadReleases: each ends on the old release, with its code, quarantined, told once, and is not tried again before a newer
// assignment names it.
func TestBadReleases(t *testing.T) {
	type row struct {
		name   string
		p      program
		change func(b *box, m *release.Manifest)
		code   string
		runs   int // of the new program, at most
	}
	for _, r := range []row{
		{name: "segfault at start", p: program{crash: -1}, code: "trial.crash", runs: 3},
		{name: "exit 1 after two seconds", p: program{crash: 2 * time.Second}, code: "trial.crash", runs: 3},
		{name: "hang at start", p: program{hang: -1}, code: "trial.hang", runs: 3},
		{name: "busy loop that does not feed the watchdog", p: program{hang: 90 * time.Second}, code: "trial.hang", runs: 3},
		{name: "healthy for nine of ten minutes, then exits", p: program{crash: 9 * time.Minute}, code: "trial.crash", runs: 3},
		{name: "healthy for nine of ten minutes, then leaks memory", p: program{leaks: 9 * time.Minute}, code: "trial.health:memory", runs: 1},
		{name: "breaks only the update channel", p: program{deaf: true}, code: "trial.health:update-channel", runs: 1},
		{name: "breaks the link home", p: program{mute: true}, code: "trial.link", runs: 1},
		{name: "a driver that worked does not", p: program{unhealthy: "drivers"}, code: "trial.health:drivers", runs: 1},
		{name: "cannot read the store", p: program{unhealthy: "store"}, code: "trial.health:store", runs: 1},
		{name: "needs a newer store format", p: program{selfCheck: errors.New("store: format 3, want at most 2")}, code: "slot.selfcheck"},
		{name: "wrong architecture", p: program{selfCheck: errors.New("exec format error")}, code: "slot.selfcheck"},
		{name: "truncated file", code: "slot.verify", change: func(b *box, m *release.Manifest) {
			p := m.Agent()
			p.SHA256 = hashOf(append([]byte(b.content[p.SHA256]), 1))
			p.Size++
		}},
		{name: "a file that is not what was signed", code: "slot.verify", change: func(_ *box, m *release.Manifest) {
			m.Agent().SHA256 = hashOf([]byte("another"))
		}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, one := withOne(t)
				r.p.name = "two"
				m := b.add(2, &r.p, one)
				if r.change != nil {
					r.change(b, m)
				}
				sha := b.put(m)
				b.rolled(2, "first")
				b.until(24*time.Hour, func() bool { return b.toldCode(2, r.code) })
				b.on(3*time.Hour, nil) // and nothing more happens, even where the fleet changes something else
				served, runs := b.fleet.served, r.p.runs
				b.rolled(3, "first")
				b.on(48*time.Hour, nil)
				require.Equal(t, map[string]int{"1 ok": 1, "2 " + r.code: 1}, b.told)
				require.Equal(t, served, b.fleet.served, "nothing of it is fetched again")
				require.Equal(t, runs, r.p.runs)
				require.LessOrEqual(t, runs, r.runs)
				rec := b.look("end")
				require.Equal(t, uint64(1), rec.Release.Counter)
				require.Nil(t, rec.Trial)
				require.Len(t, rec.Quarantine, 1)
				require.Equal(t, sha, rec.Quarantine[0].Manifest)
				require.Equal(t, r.code, rec.Quarantine[0].Code)
				s := b.u.Status()
				require.Equal(t, Refused, s.State)
				require.Equal(t, "rel.quarantined", s.Code)
				require.Equal(t, "one", s.Version)

				b.anew = true // a new rollout of the same release is a new chance
				b.rolled(4, "second")
				b.until(24*time.Hour, func() bool { return b.told["2 "+r.code] == 2 })
				b.on(time.Hour, nil)
				require.Len(t, b.look("end").Quarantine, 1)
			})
		})
	}
}

// TestQuarantineEndsByHand: and by an order with a higher serial, not by the same one.
func TestQuarantineEndsByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one := withOne(t)
		bad := &program{name: "two", unhealthy: "store"}
		sha := b.put(b.add(2, bad, one))
		b.offer(2, 1, "2:added")
		b.order(&release.Order{Serial: 5, Release: release.OrderRelease{Product: "box", Counter: 2}})
		b.until(24*time.Hour, func() bool { return b.told["2 trial.health:store"] == 1 })
		b.on(6*time.Hour, nil)
		require.Equal(t, 1, bad.runs)
		b.order(&release.Order{Serial: 6}) // which says nothing of it
		b.offer(3, 1, 2)
		b.on(6*time.Hour, nil)
		require.Equal(t, 1, bad.runs)
		b.anew = true
		b.order(&release.Order{Serial: 7, Release: release.OrderRelease{Product: "box", Counter: 2}})
		b.until(24*time.Hour, func() bool { return b.told["2 trial.health:store"] == 2 })
		b.on(6*time.Hour, nil)
		require.Equal(t, 2, bad.runs)

		bad.unhealthy = ""
		cleared := false
		b.until(24*time.Hour, func() bool {
			if !cleared {
				cleared = true
				require.ErrorContains(t, b.u.Clear("abc"), `"abc": want the manifest of a quarantined release`)
				require.NoError(t, b.u.Clear(sha))
			}
			return b.runs(2)()
		})
		require.Empty(t, b.look("end").Quarantine)
	})
}

// TestPowerCutsInATrial: twenty of them do not hurt a good release.
func TestPowerCutsInATrial(t *testing.T) {
	for _, mode := range crashfs.Modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, one := withOne(t)
				two := &program{name: "two"}
				b.put(b.add(2, two, one))
				b.offer(2, 1, 2)
				b.until(3*time.Hour, func() bool { return two.runs == 1 })
				for cuts := 0; cuts < 20; {
					before := two.runs
					b.on(5*time.Minute, nil)
					b.reboot(mode)
					if two.runs > before {
						cuts++
					} else if cuts < 20 { // the old release runs for a pause
						b.on(2*time.Hour, func() bool { return two.runs > before })
					}
					require.Empty(t, b.look("cut").Quarantine)
				}
				b.until(72*time.Hour, b.runs(2))
				require.Empty(t, b.look("end").Quarantine)
				require.Equal(t, 1, b.told["2 ok"])
				require.GreaterOrEqual(t, two.runs, 20)
				t.Logf("%d starts, told %v", two.runs, b.told)
			})
		})
	}
}

// TestDeadLink: a link that is down for the whole trial, and for the old release, too, is no verdict; after three trials there is no
// fourth.
func TestDeadLink(t *testing.T) {
	for trials := 1; trials <= 3; trials++ {
		t.Run(fmt.Sprint(trials, " trials"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, one := withOne(t)
				two := &program{name: "two"}
				m := b.add(2, two, one)
				m.Health.NeedServer = trials != 2 // then it is the repository that is out of reach
				b.put(m)
				b.offer(2, 1, 2)
				b.onStep = func(label string) {
					switch {
					case label == "trial":
						b.linkDown, b.fleet.down = two.runs <= trials, two.runs <= trials
					case label == "told":
						b.linkDown, b.fleet.down = false, false
					}
				}
				if trials < 3 {
					b.until(10*24*time.Hour, b.runs(2))
					require.Empty(t, b.look("end").Quarantine)
					require.Equal(t, map[string]int{"1 ok": 1, "2 trial.inconclusive": trials, "2 ok": 1}, b.told)
					require.Equal(t, trials+1, two.runs)
					return
				}
				b.until(10*24*time.Hour, func() bool { return b.told["2 trial.inconclusive"] == 3 })
				b.on(10*24*time.Hour, nil)
				require.Equal(t, 3, two.runs)
				require.Len(t, b.look("end").Quarantine, 1)
				require.Equal(t, uint64(1), b.record().Release.Counter)
			})
		})
	}
}

// TestLinkThatWasDownBefore: a link that was down before the update is none of the release's business.
func TestLinkThatWasDownBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one := withOne(t)
		b.linkDown = true
		b.put(b.add(2, &program{name: "two", mute: true}, one))
		b.offer(2, 1, 2)
		b.until(24*time.Hour, b.runs(2))
	})
}

// TestDeadlineIsPowered: time without power does not count; what fails at first and mends itself before the deadline is no failure.
func TestDeadlineIsPowered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one := withOne(t)
		two := &program{name: "two", unhealthy: "store"}
		b.put(b.add(2, two, one))
		b.offer(2, 1, 2)
		b.until(3*time.Hour, func() bool { return two.runs == 1 })
		b.on(10*time.Minute, nil)
		time.Sleep(48 * time.Hour) // without power
		b.on(15*time.Minute, nil)
		require.NotNil(t, b.record().Trial, "25 of 30 powered minutes")
		two.unhealthy = ""
		b.until(time.Hour, b.runs(2))
	})
}

// TestBusyMachine: a self-check that could not be made, or took too long, says nothing of the release; the third time it does.
func TestBusyMachine(t *testing.T) {
	for name, busy := range map[string]func(ctx context.Context) error{
		"no memory": func(context.Context) error { return &os.PathError{Op: "fork/exec", Path: "agent", Err: syscall.ENOMEM} },
		"slow":      func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"slow by its own measure": func(context.Context) error {
			time.Sleep(30 * time.Second)
			return fmt.Errorf("no answer: %w", context.DeadlineExceeded)
		},
		"killed for want of memory": func(context.Context) error { return fmt.Errorf("no answer: %w", exit(t, "kill -KILL $$")) },
		"noexec":                    func(context.Context) error { return &os.PathError{Op: "fork/exec", Path: "agent", Err: syscall.EACCES} },
		"not permitted":             func(context.Context) error { return &os.PathError{Op: "fork/exec", Path: "agent", Err: syscall.EPERM} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, one := withOne(t)
				b.put(b.add(2, &program{name: "two"}, one))
				b.offer(2, 1, 2)
				times := 0
				b.onCheck = func(ctx context.Context) error {
					if times++; times <= 2 {
						return busy(ctx)
					}
					return nil
				}
				b.until(12*time.Hour, b.runs(2))
				require.Equal(t, 3, times)
				require.Equal(t, map[string]int{"1 ok": 1, "2 ok": 1}, b.told)
			})
		})
	}
	for name, c := range map[string]struct {
		check func(ctx context.Context) error
		times int // until it is the release's fault; 0: never
	}{
		"slow":    {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 3},
		"killed":  {func(context.Context) error { return exit(t, "kill -KILL $$") }, 3},
		"crashes": {func(context.Context) error { return exit(t, "kill -SEGV $$") }, 1},
		"says no": {func(context.Context) error { return exit(t, "exit 1") }, 1},
		"noexec":  {func(context.Context) error { return &os.PathError{Op: "fork/exec", Path: "agent", Err: syscall.EACCES} }, 0},
	} {
		t.Run(name+" always", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, one := withOne(t)
				b.put(b.add(2, &program{name: "two"}, one))
				b.offer(2, 1, 2)
				times := 0
				b.onCheck = func(ctx context.Context) error { times++; return c.check(ctx) }
				if c.times > 0 {
					b.until(12*time.Hour, func() bool { return b.toldCode(2, "slot.selfcheck") })
					require.Equal(t, c.times, times)
					return
				}
				b.on(48*time.Hour, nil)
				require.Empty(t, b.record().Quarantine)
				require.Greater(t, times, 3)
				require.Equal(t, Failed, b.u.Status().State)
				require.Equal(t, CodeDisk, b.u.Status().Code)
				require.Contains(t, b.u.Status().Text, "noexec")
			})
		})
	}
}

var exits sync.Map

// exit is the error of a real process, which a bubble of synctest should not wait for twice.
func exit(t *testing.T, script string) error {
	if err, ok := exits.Load(script); ok {
		return err.(error)
	}
	err := exec.Command("sh", "-c", script).Run()
	require.Error(t, err)
	exits.Store(script, err)
	return err
}

// TestClearedAnew: a release of which nothing fitted is fetched again when it is assigned or cleared anew.
func TestClearedAnew(t *testing.T) {
	for _, how := range []string{"by hand", "order"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, _ := withOne(t)
				m := b.add(2, &program{name: "two"})
				sha := b.put(m)
				b.offer(2, 1, 2)
				b.onStep = func(label string) { // the disk gives other bytes than it got
					if label == "fetched" {
						b.onStep = nil
						path := boxDir + "/stage/" + m.Agent().Encodings[0].SHA256
						require.NoError(t, durable.Replace(b.fs, path, []byte("rot"), 0o600))
					}
				}
				b.until(24*time.Hour, func() bool { return b.toldCode(2, "slot.verify") })
				b.anew = true
				if how == "order" {
					b.order(&release.Order{Serial: 3, Release: release.OrderRelease{Product: "box", Counter: 2}})
				}
				cleared := how != "by hand"
				b.until(24*time.Hour, func() bool {
					if !cleared {
						cleared = true
						require.NoError(t, b.u.Clear(sha))
					}
					return b.runs(2)()
				})
			})
		})
	}
}
