package ota

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/ota/boot"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// hooked is a repository with something before each refresh.
type hooked struct {
	Repository
	refresh func(ctx context.Context) error
}

func (h hooked) Refresh(ctx context.Context) error {
	if err := h.refresh(ctx); err != nil {
		return err
	}
	return h.Repository.Refresh(ctx)
}

// fit is an agent that does well, but for what checks says.
type fit struct{ checks func() []Check }

func (f fit) Baseline(context.Context) (json.RawMessage, error) { return json.RawMessage(`{}`), nil }
func (f fit) Link(context.Context) bool                         { return true }
func (f fit) Check(context.Context, json.RawMessage) []Check {
	if f.checks == nil {
		return nil
	}
	return f.checks()
}

// options of an agent in the box that runs from slot.
func (b *box) options(slot string) Options {
	return Options{Dir: boxDir, FS: b.fs, Boot: b.store(), Gateway: "gw-1", Product: "box", Platform: "linux-arm64", Hardware: []string{"pi"},
		Slot: slot, Agent: factory, Version: "x", Repository: b.fleet, Trust: trust.Options{Source: b.fleet}, MinRate: 1,
		Config: func() Settings { return b.settings }, Health: fit{}, Restart: func() {}, SelfCheck: func(context.Context, string) error { return nil }}
}

// onTrial puts release 1 on trial, started once, with the repository and the home reached before.
func (b *box) onTrial() (slot string, rel boot.Release) {
	m := b.add(1, &program{name: "one"})
	data, err := m.Encode()
	require.NoError(b.t, err)
	b.put(m)
	rel = boot.Release{Product: "box", Version: "1.1", Counter: 1, SHA256: hashOf(data)}
	armed, err := json.Marshal(armedFile{Manifest: data, Channel: true, Link: true})
	require.NoError(b.t, err)
	require.NoError(b.t, durable.Replace(b.fs, boxDir+"/armed.json", armed, 0o600))
	_, err = b.store().Update(func(r *boot.Record) error {
		return boot.Arm(r, boot.Trial{Slot: slotOf(m), Release: rel, StableS: 600, DeadlineS: 1800})
	})
	require.NoError(b.t, err)
	_, err = b.store().Update(func(r *boot.Record) error { boot.Start(r, "a boot"); return nil })
	require.NoError(b.t, err)
	return slotOf(m), rel
}

func (b *box) loseRecord() {
	require.NoError(b.t, b.fs.Remove(boxDir+"/boot.state"))
	require.NoError(b.t, b.fs.Remove(boxDir+"/boot.state.bak"))
	b.committed = 0
}

// TestTrialIsShownAtOnce: a status that is published before Run must not look like a gateway that has settled on the new release.
func TestTrialIsShownAtOnce(t *testing.T) {
	b := newBox(t)
	slot, rel := b.onTrial()
	u, err := New(b.options(slot))
	require.NoError(t, err)
	s := u.Status()
	require.Equal(t, Trial, s.State)
	require.Equal(t, rel.Version, s.Candidate)
	require.Equal(t, []uint64{1, 1}, []uint64{s.Target, s.Counter})
	require.Equal(t, 1, s.Attempt)

	u, err = New(b.options(Factory)) // the old release, where the trial was not started
	require.NoError(t, err)
	require.Equal(t, Idle, u.Status().State)
}

// TestTrialEndedBeforeRun: the guard rolled back between New and Run.
func TestTrialEndedBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		slot, _ := b.onTrial()
		u, err := New(b.options(slot))
		require.NoError(t, err)
		_, err = b.store().Update(func(r *boot.Record) error { boot.RollBack(r, boot.CodeHang, "", true); return nil })
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = u.Run(ctx) }()
		time.Sleep(time.Hour)
		require.NotEqual(t, Trial, u.Status().State)
		require.NotZero(t, b.fleet.looks())
		cancel()
		<-ended
	})
}

// TestApplyIsLeft: who asked goes away at the moment of arming; the restart follows all the same.
func TestApplyIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.put(b.add(1, &program{name: "one"}))
		b.offer(1, 1)
		ctx, cancel := context.WithCancel(context.Background())
		restarts := 0
		o := b.options(Factory)
		o.Restart = func() { restarts++ }
		o.Step = func(label string) {
			if label == "armed" {
				cancel()
			}
		}
		u, err := New(o)
		require.NoError(t, err)
		require.NoError(t, u.folders())
		u.cycle(ctx, true) // what Apply does
		require.NotNil(t, b.record().Trial)
		require.Equal(t, Armed, u.Status().State)
		require.Equal(t, 1, restarts)
	})
}

// TestProductChanged: the other product's counter says nothing about this one's.
func TestProductChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.put(b.add(141, &program{name: "old"}))
		b.offer(1, 141)
		b.until(2*time.Hour, b.runs(141))
		b.product, b.downgrade = "other", true
		b.put(b.add(5, &program{name: "new"}))
		b.offer(1, 5)
		b.fleet.down = true
		b.on(time.Minute, nil)
		require.Zero(t, b.u.Status().Counter)
		b.fleet.down = false
		b.until(48*time.Hour, b.runs(5))
		require.Equal(t, "other", b.record().Release.Product)
		require.Equal(t, uint64(5), b.u.Status().Counter)
	})
}

// TestCheckedGoesForward: a write of the record does not bring back an older look.
func TestCheckedGoesForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := withOne(t)
		began, seen := time.Now(), false
		b.until(21*time.Hour, func() bool {
			if seen || time.Since(began) < 20*time.Hour {
				return seen
			}
			seen = true
			before := b.u.Status().Checked
			require.NotZero(t, before)
			require.NoError(t, b.u.update(func(r *boot.Record) error { r.TimeFloor++; return nil }))
			require.Equal(t, before, b.u.Status().Checked)
			return true
		})
	})
}

// TestBadSlotGoes: without its record a gateway starts the newest slot, which must not be the one that failed.
func TestBadSlotGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one := withOne(t)
		m := b.add(2, &program{name: "two", unhealthy: "store"}, one)
		b.put(m)
		b.offer(2, 1, 2)
		b.until(24*time.Hour, func() bool { return b.told["2 trial.health:store"] == 1 })
		b.fleet.down = true // nobody looks, so that nobody chooses what to keep
		b.on(time.Minute, nil)
		slots, err := b.store().Slots()
		require.NoError(t, err)
		require.Equal(t, []string{one}, slots)
	})
}

// TestBudgetIsNoRefusal: the day's bytes may end in the middle of the metadata, at whatever file.
func TestBudgetIsNoRefusal(t *testing.T) {
	for limit := int64(3000); limit < 30000; limit += 750 {
		synctest.Test(t, func(t *testing.T) {
			b := newBox(t)
			b.put(b.add(1, &program{name: "one"}))
			b.offer(1, 1)
			p := publish(t, b.fleet)
			b.signed = func(durable.FS) trust.Options {
				return trust.Options{Root: p.root, Source: memory{p}, Now: time.Now, Synced: func() bool { return true }}
			}
			b.settings.DailyBytes = limit
			b.on(10*time.Minute, nil)
			s := b.u.Status()
			require.Equal(t, Deferred, s.State, "daily bytes %d: %s %s", limit, s.Code, s.Text)
			require.Equal(t, "fetch.budget", s.Code)
			require.Empty(t, b.told)
		})
	}
}

// TestGenerationsRepeat: after the loss of the record its generations come again; each outcome is told all the same, with a number
// of its own.
func TestGenerationsRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := withOne(t)
		two := &program{name: "two", crash: time.Second}
		for _, code := range []string{"trial.crash", "ok"} { // of the same release
			b.loseRecord()
			b.anew, b.bad = true, map[string]bool{}
			b.put(b.add(2, two))
			b.offer(2, "1:halted", 2)
			b.until(24*time.Hour, func() bool { return b.told["2 "+code] == 1 })
			two.crash = 0
		}
		seen, lifted := map[uint64]bool{}, 0
		for _, e := range b.u.History() {
			require.False(t, seen[e.Gen], "%+v", e)
			seen[e.Gen] = true
			if e.Record > 0 {
				lifted++
			}
		}
		require.NotZero(t, lifted)
		require.True(t, b.record().LastResult.Acked)
	})
}

// judged runs the release on trial for d.
func (b *box) judged(slot string, d time.Duration, change func(*Options)) {
	o := b.options(slot)
	change(&o)
	u, err := New(o)
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = u.Run(ctx) }()
	time.Sleep(d)
	synctest.Wait()
	cancel()
	<-ended
}

// TestBusyServer: one that asks to be left alone is asked again all the same; if it stays busy, the release is not to blame.
func TestBusyServer(t *testing.T) {
	for name, c := range map[string]struct {
		err error
		ok  int // from this trial on
	}{
		"answers in the end": {&trust.BusyError{Status: 503}, 0},
		"busy":               {&trust.BusyError{Status: 429}, 1},
		"no bytes left":      {ErrBudget, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, _ := withOne(t)
				two := &program{name: "two"}
				b.put(b.add(2, two))
				b.offer(2, 1, 2)
				b.refuses = func() error {
					s, late := b.u.Status(), 0
					if s.State != Trial {
						return nil
					}
					if time.Now().Unix()-s.Since > 20*60 {
						late = 1
					}
					if two.runs+late > 1+c.ok {
						return nil
					}
					return fmt.Errorf("read: %w", c.err)
				}
				b.until(48*time.Hour, b.runs(2))
				require.Empty(t, b.record().Quarantine)
				require.Equal(t, c.ok, b.told["2 trial.inconclusive"])
				require.Equal(t, 1+c.ok, two.runs)
			})
		})
	}
}

// TestSlowLook: a look at the repository that takes long holds up neither the checks nor the trial's clock, and a release that became
// ill meanwhile is not committed.
func TestSlowLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		slot, _ := b.onTrial()
		var looks atomic.Int32
		checks := 0
		b.judged(slot, 20*time.Minute, func(o *Options) {
			o.Repository = hooked{b.fleet, func(ctx context.Context) error {
				if looks.Add(1) < 3 {
					<-ctx.Done() // never answers
					return context.Cause(ctx)
				}
				time.Sleep(9 * time.Minute) // and does not hear
				return nil
			}}
			o.Health = fit{func() []Check {
				checks++
				return []Check{{Name: "store", OK: looks.Load() < 3, Text: "broken since the third look began"}}
			}}
		})
		r := b.record()
		require.NotNil(t, r.Trial)
		require.Empty(t, r.Active)
		require.InDelta(t, 1200, r.Trial.PoweredS, 2)
		require.GreaterOrEqual(t, checks, 120)
	})
}

// TestDeadChannel: a repository that never answers does not put off the verdict.
func TestDeadChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		slot, _ := b.onTrial()
		b.judged(slot, 33*time.Minute, func(o *Options) {
			o.Repository = hooked{b.fleet, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }}
		})
		r := b.record()
		require.Nil(t, r.Trial)
		require.Equal(t, "trial.health:update-channel", r.LastResult.Code)
	})
}

// TestGaps: what was not looked at for long was not healthy; where that goes on, there is no verdict.
func TestGaps(t *testing.T) {
	for name, wait := range map[string]func(n int) time.Duration{
		"once":   func(n int) time.Duration { return map[bool]time.Duration{true: 5 * time.Minute}[n == 50] },
		"always": func(int) time.Duration { return 40 * time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				slot, _ := b.onTrial()
				n, began, committed := 0, time.Now(), time.Duration(0)
				b.judged(slot, 40*time.Minute, func(o *Options) {
					o.Health = fit{func() []Check { n++; time.Sleep(wait(n)); return nil }}
					o.Step = func(label string) {
						if label == "committed" {
							committed = time.Since(began)
						}
					}
				})
				r := b.record()
				require.Nil(t, r.Trial)
				if name == "once" {
					require.Equal(t, slot, r.Active)
					require.GreaterOrEqual(t, committed, 22*time.Minute)
					return
				}
				require.Empty(t, r.Active)
				require.Empty(t, r.Quarantine)
				require.Equal(t, CodeInconclusive, r.LastResult.Code)
			})
		})
	}
}

// TestRenamed: the orders of a gateway's new name count from the beginning, and do not fall either; in the end the record has them.
func TestRenamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		_, err := b.store().Update(func(r *boot.Record) error { r.MoveSeq = 7; return nil })
		require.NoError(t, err)
		look := func(gateway string, serial uint64) Status {
			if serial > 0 {
				data, err := (&release.Order{Gateway: gateway, Serial: serial}).Encode()
				require.NoError(t, err)
				b.fleet.sign(release.OrderPath(gateway), data)
			}
			var s Status
			o := b.options(Factory)
			o.Gateway = gateway
			u, err := New(o)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() { defer close(ended); _ = u.Run(ctx) }()
			time.Sleep(10 * time.Minute)
			s = u.Status()
			cancel()
			<-ended
			return s
		}
		require.Equal(t, "move.seq", look("gw-1", 6).Code)
		for _, c := range []struct {
			gateway string
			serial  uint64
			code    string
			moveSeq uint64
		}{{"gw-2", 1, "", 7}, {"gw-2", 3, "", 7}, {"gw-2", 2, "move.seq", 7}, {"gw-2", 3, "", 7}, {"gw-2", 9, "", 9}, {"gw-2", 8, "move.seq", 9}} {
			require.Equal(t, c.code, look(c.gateway, c.serial).Code, "%+v", c)
			require.Equal(t, c.moveSeq, b.record().MoveSeq, "%+v", c)
		}
	})
}
