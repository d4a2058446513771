package ota

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable/crashfs"
	"homeward/ota/release"
)

// scenario is a life of a box: what the fleet says, and when it is over.
type scenario struct {
	name  string
	setup func(b *box)
	stage func(b *box) bool // advances what the fleet says; true: it is over
}

func short(m *release.Manifest) *release.Manifest {
	m.Health = release.Health{StableS: 40, DeadlineS: 90, NeedServer: true}
	return m
}

var scenarios = []scenario{
	{"two good releases, by rollout and by order", func(b *box) {
		b.put(short(b.add(1, &program{name: "one"})))
		b.offer(1, 1)
	}, func(b *box) bool {
		switch r := b.look("stage"); {
		case r.Release.Counter == 1 && r.MoveSeq == 0 && b.toldCode(1, "ok"):
			m := short(b.add(2, &program{name: "two"}, r.Active))
			m.SecurityFloor = 2
			b.put(m)
			b.offer(2, 1, "2:added")
			b.order(&release.Order{Serial: 7, Release: release.OrderRelease{Product: "box", Counter: 2}})
		case r.Release.Counter == 2 && r.Trial == nil:
			require.Equal(b.t, uint64(2), r.Floors["box"])
			require.Equal(b.t, uint64(7), r.MoveSeq)
			return b.toldCode(2, "ok")
		}
		return false
	}},
	{"a release that finds itself ill", func(b *box) {
		b.put(short(b.add(1, &program{name: "one"})))
		b.offer(1, 1)
	}, func(b *box) bool {
		switch r := b.look("stage"); {
		case r.Release.Counter == 1 && len(r.Quarantine) == 0 && b.toldCode(1, "ok") && !b.fleet.signed(release.ManifestPath("box", "linux-arm64", 2)):
			b.put(short(b.add(2, &program{name: "two", unhealthy: "store"}, r.Active)))
			b.offer(2, 1, 2)
		case len(r.Quarantine) == 1 && r.Trial == nil:
			require.Equal(b.t, "trial.health:store", r.Quarantine[0].Code)
			require.Equal(b.t, uint64(1), r.Release.Counter)
			return b.toldCode(2, "trial.health:store")
		}
		return false
	}},
	{"a release that crashes", func(b *box) {
		b.put(short(b.add(1, &program{name: "one", crash: 30 * time.Second})))
		b.offer(1, 1)
	}, func(b *box) bool {
		r := b.look("stage")
		return len(r.Quarantine) == 1 && r.Trial == nil && b.toldCode(1, "trial.crash")
	}},
}

// life is one run with power cuts.
type life struct {
	at   []int // operations, each counted from the last cut
	mode []crashfs.Mode
}

// play runs a scenario with cuts and says how many operations were between them and the end.
func (s scenario) play(t *testing.T, seed uint64, l life) (ops []int, served int64) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.settings.Every = 10 * time.Minute
		b.fleet.rate = 600 // so that a download has several journal entries, one each half a minute
		s.setup(b)
		b.fs = b.fs.Clone(seed)
		done := func() bool { return s.stage(b) }
		for i, at := range l.at {
			b.ops = 0
			b.power(at)
			end := b.on(24*time.Hour, done)
			ops = append(ops, b.ops+b.fs.Ops())
			if end == over {
				require.True(t, done(), "not over: cuts %+v, record %+v, status %+v, history %+v, journal %+v", l, b.record(), b.u.Status(), b.u.History(), b.u.journal)
				served = b.fleet.served
				return
			}
			b.power(0)
			b.reboot(l.mode[i])
			b.look(fmt.Sprintf("after the cut at %d, %s", at, l.mode[i]))
		}
		b.ops = 0
		before := b.fs.Ops()
		b.until(24*time.Hour, done)
		ops = append(ops, b.ops+b.fs.Ops()-before)
		served = b.fleet.served
		for what, gens := range b.gens {
			require.Len(t, slices.Compact(gens), 1, "one outcome under two names: %s %v", what, gens)
		}
		slots, err := b.store().Slots()
		require.NoError(t, err)
		require.LessOrEqual(t, len(slots), 3)
	})
	return ops, served
}

// TestCutAtEachLabel cuts the power right after each named step, and once more at the same step.
func TestCutAtEachLabel(t *testing.T) {
	runs := 0
	defer func() { t.Logf("cuts: at %d named steps, %d runs", len(Labels), runs) }()
	for i, label := range Labels {
		for j, mode := range crashfs.Modes {
			if os.Getenv("HOMEWARD_CAMPAIGN") == "" && i%3 != j {
				continue
			}
			for _, s := range scenarios[:2] {
				runs++
				synctest.Test(t, func(t *testing.T) {
					b := newBox(t)
					b.settings.Every = 10 * time.Minute
					s.setup(b)
					done := func() bool { return s.stage(b) }
					passed := 0
					b.onStep = func(l string) {
						if l == label {
							if passed++; passed <= 2 {
								b.power(1)
							}
						}
					}
					for cuts := 0; ; cuts++ {
						require.LessOrEqual(t, cuts, 2, label)
						if b.on(24*time.Hour, done) == over {
							break
						}
						b.power(0)
						b.reboot(mode)
						b.look(label)
					}
					require.True(t, done(), "%s, %s: %+v", label, mode, b.record())
				})
			}
		}
	}
}

// TestCrashes cuts the power at file operations of whole updates, twice, and looks whether a good slot is there, floors and orders
// rise, nothing unverified is executed, nothing committed undone, nothing quarantined armed, each outcome told once, and the
// download goes on where it was. HOMEWARD_CAMPAIGN=1: at every operation, in all modes, and a second time at six or seven
// places after each of those.
func TestCrashes(t *testing.T) {
	campaign := os.Getenv("HOMEWARD_CAMPAIGN") != ""
	for i, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			none, served := s.play(t, 1, life{})
			total := none[0]
			began := time.Now()
			runs, worst := 0, 0.0
			play := func(l life) []int {
				ops, bytes := s.play(t, uint64(runs), l)
				runs++
				ratio := float64(bytes) / float64(served)
				worst = max(worst, ratio)
				if ratio > 2 || t.Failed() {
					t.Fatalf("cuts %+v: %d bytes fetched, %d without cuts", l, bytes, served)
				}
				return ops
			}
			if campaign {
				depth2 := 0
				for at := 1; at <= total; at++ {
					for _, mode := range crashfs.Modes {
						ops := play(life{[]int{at}, []crashfs.Mode{mode}})
						if len(ops) < 2 {
							continue
						}
						r := rand.New(rand.NewPCG(uint64(at), uint64(mode)))
						stride := max(1, ops[1]/6)
						for second := 1 + r.IntN(stride); second <= ops[1]; second += stride {
							play(life{[]int{at, second}, []crashfs.Mode{mode, crashfs.Modes[r.IntN(3)]}})
							depth2++
						}
					}
				}
				t.Logf("cuts: %d operations, %d runs (%d with a second cut), 0 violations, at most %.2f times the bytes, %v", total, runs, depth2, worst, time.Since(began).Round(time.Second))
				return
			}
			r := rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano())))
			for range 10 {
				l := life{[]int{1 + r.IntN(total), 1 + r.IntN(total)}, []crashfs.Mode{crashfs.Modes[r.IntN(3)], crashfs.Modes[r.IntN(3)]}}
				play(l)
			}
			t.Logf("cuts: %d operations, %d runs, %.2f times the bytes, %v", total, runs, worst, time.Since(began))
		})
	}
}
