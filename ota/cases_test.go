package ota

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/ota/boot"
	"homeward/ota/release"
)

// TestTable: each event that a working state can return has a row, each row's states are known, and every state that rests can be left.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Table {
		require.False(t, seen[string(r.From)+string(r.On)], "%s on %s twice", r.From, r.On)
		seen[string(r.From)+string(r.On)] = true
		require.True(t, r.Resume == Checking || r.Resume == Idle || r.Resume == Armed || r.Resume == Judging)
	}
	for s := range rests {
		if s != Armed && s != RolledBack {
			to, err := next(s, due)
			require.NoError(t, err)
			require.Equal(t, Checking, to)
		}
	}
	for from, events := range map[State][]Event{
		Checking: {none, found, refuse, fail, postpone}, Chosen: {fits, present, postpone, fail}, Fetching: {fetched, complete, postpone, refuse, fail, stale},
		Staging: {built, broken, fail, postpone}, Staged: {refuse, shut, stale, postpone, fail, arm},
	} {
		for _, on := range events {
			_, err := next(from, on)
			require.NoError(t, err)
		}
	}
	_, err := next(Idle, arm)
	require.EqualError(t, err, "ota: state idle has no event arm")
}

// TestLabels: an update passes each of them.
func TestLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[string]bool{}
		b := newBox(t)
		b.onStep = func(label string) { seen[label] = true }
		m := b.add(1, &program{name: "one"})
		b.put(m)
		b.offer(1, 1)
		b.until(3*time.Hour, b.runs(1))
		b.put(b.add(2, &program{name: "two", unhealthy: "store"}, slotOf(m)))
		b.offer(2, 1, 2)
		b.order(&release.Order{Serial: 1})
		b.until(5*time.Hour, func() bool { return b.toldCode(2, "trial.health:store") })
		for _, label := range Labels {
			require.True(t, seen[label], label)
			delete(seen, label)
		}
		require.Empty(t, seen, "not in Labels")
	})
}

// TestWithdrawn: what is halted or superseded before it is armed never runs, and leaves nothing.
func TestWithdrawn(t *testing.T) {
	for _, label := range []string{"half fetched", "half fetched, nudged", "fetched", "staged", "waiting"} {
		for _, how := range []string{"halted", "superseded", "unlisted"} {
			t.Run(label+" "+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b, _ := withOne(t)
					two, three := &program{name: "two"}, &program{name: "three"}
					b.put(b.add(2, two))
					b.put(b.add(3, three))
					b.offer(2, 1, 2)
					b.fleet.rate = 1500 // two minutes for a release
					b.settings.Every = 10 * time.Minute
					var withdrawn atomic.Bool
					withdraw := func() {
						if withdrawn.Swap(true) {
							return
						}
						switch how {
						case "halted":
							b.offer(3, 1, "2:halted")
						case "superseded":
							b.offer(3, 1, 2, 3)
						default:
							b.offer(3, 1)
						}
					}
					if label == "waiting" {
						b.settings.Zone, b.settings.Window = time.UTC, window02
						for h := time.Now().UTC().Hour(); h < 5 || h > 20; h = time.Now().UTC().Hour() {
							time.Sleep(time.Hour)
						}
					}
					b.onStep = func(l string) {
						if l == label && b.u.Status().Target == 2 {
							withdraw()
						}
					}
					done := func() bool {
						s := b.u.Status()
						switch {
						case strings.HasPrefix(label, "half") && s.Target == 2 && s.Bytes.Done > s.Bytes.Total/2:
							if label == "half fetched" { // the fleet's server is slow, so that the next look comes during it
								b.fleet.slow(100)
							}
							withdraw()
							if label != "half fetched" {
								b.u.Nudge()
							}
						case label == "waiting" && s.State == Waiting && s.Target == 2:
							withdraw()
						}
						if how == "superseded" {
							return withdrawn.Load() && b.runs(3)()
						}
						return false
					}
					if how == "superseded" {
						b.until(36*time.Hour, done)
						require.Equal(t, 1, three.runs)
					} else {
						b.on(36*time.Hour, done)
						require.Equal(t, uint64(1), b.record().Release.Counter)
						require.Equal(t, Idle, b.u.Status().State)
					}
					require.True(t, withdrawn.Load())
					require.Zero(t, two.runs)
					entries, err := b.fs.ReadDir(boxDir + "/stage")
					require.NoError(t, err)
					require.Empty(t, entries)
					slots, err := b.store().Slots()
					require.NoError(t, err)
					require.LessOrEqual(t, len(slots), 2)
					require.NotContains(t, b.told, "2 ok")
				})
			})
		}
	}
}

// TestWindow: fetched at any time, started only in the window, by the gateway's clock in its zone.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one := withOne(t)
		zone := time.FixedZone("site", 9*3600)
		b.settings.Zone, b.settings.Window = zone, window02
		for h := time.Now().In(zone).Hour(); h != 12; h = time.Now().In(zone).Hour() {
			time.Sleep(time.Hour)
		}
		two := &program{name: "two"}
		b.put(b.add(2, two, one))
		b.offer(2, 1, 2)
		believed := false
		b.synced = func() bool { return believed }
		b.on(24*time.Hour, nil)
		require.Equal(t, Waiting, b.u.Status().State, "nobody knows the time")
		require.Equal(t, CodeClock, b.u.Status().Code)
		require.Contains(t, b.u.Status().Text, "the window is 02:00-05:00 and the clock has never been set")
		require.Equal(t, "1.2", b.u.Status().Candidate)
		require.Equal(t, "02:00-05:00", b.u.Status().Window)
		require.Zero(t, two.runs)
		believed = true
		var at time.Time
		b.onStep = func(label string) {
			if label == "armed" {
				at = time.Now().In(zone)
			}
		}
		b.until(24*time.Hour, b.runs(2))
		require.GreaterOrEqual(t, at.Hour(), 2)
		require.Less(t, at.Hour(), 5)
	})
}

// TestRolloutWindow: a rollout's window counts where the gateway has none of its own.
func TestRolloutWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one := withOne(t)
		b.settings.Zone = time.UTC
		b.put(b.add(2, &program{name: "two"}, one))
		b.rolled(2, "night")
		r, err := release.ParseRollouts(b.fleet.targets[release.RolloutsPath("box")])
		require.NoError(t, err)
		r.Rollouts[0].Window = "23:00-01:00"
		b.roll(r)
		var at time.Time
		b.onStep = func(label string) {
			if label == "armed" {
				at = time.Now().UTC()
			}
		}
		b.until(30*time.Hour, b.runs(2))
		require.Contains(t, []int{23, 0}, at.Hour())
	})
}

// TestBudget: a release that is larger than the day's bytes comes in pieces, on as many days, and no byte of it twice.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := withOne(t)
		b.settings.Zone, b.settings.DailyBytes = time.UTC, 100_000
		m := b.add(2, &program{name: "two"})
		b.put(m)
		b.offer(2, 1, 2)
		for h := time.Now().UTC().Hour(); h != 12; h = time.Now().UTC().Hour() {
			time.Sleep(time.Hour)
		}
		before, day := b.fleet.served, time.Now().UTC().Day()
		b.on(11*time.Hour, nil)
		s := b.u.Status()
		require.Equal(t, Deferred, s.State)
		require.Equal(t, "fetch.budget", s.Code)
		require.Equal(t, int64(100_000), s.Bytes.Limit)
		require.LessOrEqual(t, b.fleet.served-before, int64(90_000))
		require.GreaterOrEqual(t, s.Bytes.Today, b.fleet.served-before)
		require.Equal(t, day, time.Now().UTC().Day())
		b.until(3*24*time.Hour, b.runs(2))
		require.Equal(t, m.Agent().Encodings[0].Size, b.fleet.served-before)
	})
}

// TestDisk: an operation fails, or all of them for a while (full, read-only); the box goes on with what it had, and updates later.
func TestDisk(t *testing.T) {
	s := scenarios[0]
	none, _ := s.play(t, 1, life{})
	stride := 59
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		stride = 1
	}
	runs := 0
	for at := 1 + time.Now().Second()%stride; at <= none[0]; at += stride {
		for _, long := range []bool{false, true} {
			errno := []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS}[(at+runs)%3]
			runs++
			synctest.Test(t, func(t *testing.T) {
				b := newBox(t)
				b.diskFails = true
				b.settings.Every = 10 * time.Minute
				b.fleet.rate = 600
				s.setup(b)
				if long {
					b.fs.FailFrom(b.fs.Ops()+at, errno)
				} else {
					b.fs.Fail(b.fs.Ops()+at, errno)
				}
				healed := time.Now().Add(time.Hour + 20*time.Minute)
				b.until(72*time.Hour, func() bool {
					if long && time.Now().After(healed) {
						b.fs.FailFrom(0, nil)
					}
					return s.stage(b)
				})
				require.Empty(t, b.record().Quarantine, "the release is not to blame")
			})
			if t.Failed() {
				t.Fatalf("operation %d, %v, long %v", at, errno, long)
			}
		}
	}
	t.Logf("faults: %d operations, %d runs, 0 violations", none[0], runs)
}

// TestRefused: each refusal has its code, is told once, and nothing is fetched.
func TestRefused(t *testing.T) {
	for _, r := range []struct {
		name   string
		change func(b *box, m *release.Manifest)
		code   string
	}{
		{"other hardware", func(_ *box, m *release.Manifest) { m.HW = []string{"toaster"} }, "rel.wrong_hw"},
		{"newer launcher", func(_ *box, m *release.Manifest) { m.Requires.Launcher = 9 }, "rel.launcher"},
		{"no stepping stone", func(b *box, m *release.Manifest) {
			m.Counter, m.Version, m.Requires.MinCounter = 3, "1.3", 2
			b.offer(2, 1, 3)
		}, "rel.stepping"},
		{"other product's manifest", func(b *box, m *release.Manifest) {
			m.Product = "other"
			data, err := m.Encode()
			require.NoError(b.t, err)
			b.fleet.targets[release.ManifestPath("box", "linux-arm64", 2)] = data
		}, "rel.wrong_product"},
		{"other platform's manifest", func(b *box, m *release.Manifest) {
			m.Platform = "linux-amd64"
			data, err := m.Encode()
			require.NoError(b.t, err)
			b.fleet.targets[release.ManifestPath("box", "linux-arm64", 2)] = data
		}, "rel.wrong_platform"},
		{"another release's manifest", func(b *box, m *release.Manifest) {
			m.Counter = 5
			data, err := m.Encode()
			require.NoError(b.t, err)
			b.fleet.targets[release.ManifestPath("box", "linux-arm64", 2)] = data
		}, "rel.counter"},
		{"unknown schema", func(b *box, _ *release.Manifest) {
			b.fleet.targets[release.ManifestPath("box", "linux-arm64", 2)] = []byte(`{"schema":9}`)
		}, "rel.schema"},
		{"nonsense", func(b *box, _ *release.Manifest) {
			b.fleet.targets[release.ManifestPath("box", "linux-arm64", 2)] = []byte(`{"schema":1,"schema":1}`)
		}, "rel.malformed"},
		{"unknown backend", func(b *box, m *release.Manifest) {
			data := b.fleet.targets[release.ManifestPath("box", "linux-arm64", 2)]
			b.fleet.targets[release.ManifestPath("box", "linux-arm64", 2)] = []byte(strings.Replace(string(data), `"backend":"slot"`, `"backend":"mcuboot"`, 1))
		}, "rel.backend"},
		{"below the floor", func(b *box, m *release.Manifest) {
			b.order(&release.Order{Serial: 1, Release: release.OrderRelease{Product: "box", Counter: 2, Pin: true}})
			_, err := b.store().Update(func(r *boot.Record) error { r.Floors = map[string]uint64{"box": 3}; return nil })
			require.NoError(b.t, err)
			data, err := m.Encode()
			require.NoError(b.t, err)
			b.fleet.targets[release.DevPath("gw-1", "linux-arm64")] = data
		}, "rel.floor"},
		{"order for another gateway", func(b *box, _ *release.Manifest) {
			b.order(&release.Order{Serial: 1})
			data := b.fleet.targets[release.OrderPath("gw-1")]
			b.fleet.targets[release.OrderPath("gw-1")] = []byte(strings.Replace(string(data), "gw-1", "gw-2", 1))
		}, "order.gateway"},
		{"an old order", func(b *box, _ *release.Manifest) {
			_, err := b.store().Update(func(r *boot.Record) error { r.MoveSeq = 9; return nil })
			require.NoError(b.t, err)
			b.order(&release.Order{Serial: 8})
		}, "move.seq"},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, one := withOne(t)
				two := &program{name: "two"}
				m := b.add(2, two, one)
				b.put(m)
				b.offer(2, 1, 2)
				before := b.fleet.served
				r.change(b, m)
				if m.Product == "box" && m.Platform == "linux-arm64" && m.Counter != 5 && r.code != "rel.schema" && r.code != "rel.malformed" && r.code != "rel.backend" {
					b.put(m)
				}
				b.on(12*time.Hour, nil)
				s := b.u.Status()
				require.Equal(t, Refused, s.State, "%+v", s)
				require.Equal(t, r.code, s.Code)
				require.Len(t, b.told, 2, "%v", b.told)
				for what, n := range b.told {
					require.Equal(t, 1, n, what)
					require.True(t, strings.HasSuffix(what, " ok") || strings.HasSuffix(what, r.code), what)
				}
				require.Equal(t, before, b.fleet.served)
				require.Zero(t, two.runs)
				h := b.u.History()
				require.Equal(t, EventRefused, h[len(h)-1].Event)
				require.True(t, h[len(h)-1].Acked)
			})
		})
	}
}

// TestPin: a development gateway keeps what it is pinned to, also when the order is out of reach; unpinned it goes back to its
// product's release, though that is older; the floor is not raised by what the development key signed.
func TestPin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one := withOne(t)
		b.downgrade = true
		dev := b.add(900, &program{name: "dev"}, one)
		dev.SecurityFloor = 900
		data, err := dev.Encode()
		require.NoError(t, err)
		b.fleet.targets[release.DevPath("gw-1", "linux-arm64")] = data
		b.order(&release.Order{Serial: 3, Release: release.OrderRelease{Product: "box", Version: "1.900", Counter: 900, Pin: true}})
		b.until(3*time.Hour, b.runs(900))
		require.Zero(t, b.record().Floors["box"])
		require.Equal(t, uint64(900), b.u.Status().Pin.Release.Counter)

		b.put(b.add(2, &program{name: "two"}))
		b.offer(2, 1, 2)
		delete(b.fleet.targets, release.OrderPath("gw-1"))
		b.on(6*time.Hour, nil)
		require.Equal(t, uint64(900), b.record().Release.Counter, "rollouts leave it alone")
		require.NotNil(t, b.record().Pin)

		b.order(&release.Order{Serial: 4})
		b.until(6*time.Hour, b.runs(2))
		require.Nil(t, b.record().Pin)
		b.on(6*time.Hour, nil)
		require.Equal(t, uint64(2), b.record().Release.Counter)
		require.Equal(t, Idle, b.u.Status().State)
		require.False(t, b.u.journal.Back)
	})
}

// TestSteppingStones: after a long time away the gateway takes each stone, and no other release.
func TestSteppingStones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, one := withOne(t)
		stone := b.add(5, &program{name: "five"}, one)
		b.put(stone)
		for _, c := range []uint64{3, 7} {
			m := b.add(c, &program{name: map[uint64]string{3: "three", 7: "seven"}[c]})
			if c == 7 {
				m.Requires.MinCounter = 5
			}
			b.put(m)
		}
		last := b.add(9, &program{name: "nine"}, slotOf(stone))
		last.Requires.MinCounter = 6
		b.put(last)
		b.offer(2, 1, "3:added", "5:added", "7:added", 9)
		b.until(24*time.Hour, b.runs(9))
		require.Equal(t, []string{"factory", "one", "one", "five", "seven", "nine"}, b.started)
	})
}

// TestPatches: one that does not fit is not fetched twice, and the whole does it.
func TestPatches(t *testing.T) {
	for name, damage := range map[string]func(b *box, m *release.Manifest){
		"gives something else": func(b *box, m *release.Manifest) {
			e := &m.Agent().Encodings[1]
			patch := b.fleet.blobs[b.patchOf(one(b), slotOf(b.add(77, &program{name: "another"}, one(b))))]
			e.SHA256, e.Size = hashOf(patch), int64(len(patch))
		},
		"is not there":    func(b *box, m *release.Manifest) { delete(b.fleet.blobs, m.Agent().Encodings[1].SHA256) },
		"is another file": func(b *box, m *release.Manifest) { b.fleet.blobs[m.Agent().Encodings[1].SHA256][7] ^= 1 },
		"is no patch": func(b *box, m *release.Manifest) {
			e := &m.Agent().Encodings[1]
			e.SHA256 = hashOf([]byte("patch"))
			b.fleet.blobs[e.SHA256], e.Size = []byte("patch"), 5
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, base := withOne(t)
				m := b.add(2, &program{name: "two"}, base)
				for i := range m.Agent().Encodings { // others use the same bytes
					e := m.Agent().Encodings[i]
					b.fleet.blobs[e.SHA256] = append([]byte(nil), b.fleet.blobs[e.SHA256]...)
				}
				damage(b, m)
				patch := m.Agent().Encodings[1].SHA256
				b.put(m)
				b.offer(2, 1, 2)
				b.fleet.gets = nil
				whole := m.Agent().Encodings[0].SHA256
				blob := b.fleet.blobs[whole]
				delete(b.fleet.blobs, whole) // so that all is asked for again and again
				b.on(12*time.Hour, nil)
				require.Equal(t, Failed, b.u.Status().State)
				require.Equal(t, "fetch.missing", b.u.Status().Code)
				b.fleet.blobs[whole] = blob
				b.until(24*time.Hour, b.runs(2))
				n := 0
				for _, get := range b.fleet.gets {
					if get == release.BlobPath(patch) {
						n++
					}
				}
				require.LessOrEqual(t, n, 1)
			})
		})
	}
}

// TestSpoiltBlob: a server that has other bytes under the release's name does not get them fetched every hour.
func TestSpoiltBlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := withOne(t)
		m := b.add(2, &program{name: "two"})
		e := m.Agent().Encodings[0]
		good := b.fleet.blobs[e.SHA256]
		bad := append([]byte(nil), good...)
		bad[7] ^= 1
		b.fleet.blobs[e.SHA256] = bad
		b.put(m)
		b.offer(2, 1, 2)
		before := b.fleet.served
		b.on(24*time.Hour, nil)
		require.Equal(t, "fetch.hash", b.u.Status().Code)
		require.Less(t, b.fleet.served-before, 6*e.Size)
		require.Empty(t, b.record().Quarantine, "the release is not to blame")
		b.fleet.blobs[e.SHA256] = good
		b.until(24*time.Hour, b.runs(2))
	})
}

func one(b *box) string { return hashOf(b.program(&program{name: "one"})) }

// patchOf finds the blob of the patch that add made.
func (b *box) patchOf(base, to string) string {
	v, _ := made.Load(base + to)
	return hashOf(v.([]byte))
}

// TestByHand: an agent that nobody watches over installs nothing.
func TestByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		b.noLaunch = true
		b.put(b.add(1, &program{name: "one"}))
		b.offer(1, 1)
		b.on(6*time.Hour, nil)
		s := b.u.Status()
		require.Equal(t, Deferred, s.State)
		require.Equal(t, CodeNoLauncher, s.Code)
		require.Equal(t, "1.1", s.Candidate)
		require.Zero(t, b.fleet.served)
		require.Empty(t, b.told)

		b.noLaunch, b.ready = false, errors.New("battery at 12 %, want 30 %")
		b.on(6*time.Hour, nil)
		require.Equal(t, CodeNotReady, b.u.Status().Code)
		require.Contains(t, b.u.Status().Text, "battery at 12 %")
		b.ready = nil
		b.until(6*time.Hour, b.runs(1))
	})
}

// TestFallback: the launcher found the active slot damaged and started another; that is said, and the slot is made anew.
func TestFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slot := withOne(t)
		f, err := b.fs.OpenFile(b.store().Agent(slot), os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("rot"), 100)
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		b.started = nil
		said := false
		b.onStep = func(label string) {
			if b.u != nil {
				said = said || b.u.Status().Fallback
			}
		}
		b.onDamaged = true
		b.on(3*time.Hour, nil)
		b.onDamaged = false
		require.Equal(t, []string{"factory", "one"}, b.started)
		require.True(t, said)
		require.NoError(t, b.store().Verify(slot))
		require.Equal(t, slot, b.look("end").Active)
		require.False(t, b.u.Status().Fallback)
	})
}

// TestStumble: the launcher started another slot though the active one is whole; nothing is installed for that.
func TestStumble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, slot := withOne(t)
		b.started, b.stumble = nil, true
		b.on(6*time.Hour, nil)
		require.True(t, b.u.Status().Fallback)
		require.Equal(t, slot, b.look("end").Active)
		b.on(6*time.Hour, nil)
		require.False(t, b.u.Status().Fallback)
		require.Equal(t, []string{"factory", "one"}, b.started)
	})
}

// TestApply: from a folder, at once, with the window shut and the day's bytes spent.
func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, base := withOne(t)
		m := b.add(2, &program{name: "two"}, base)
		b.put(m)
		b.offer(2, 1, 2)
		stick := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(stick, "blobs"), 0o700))
		for sha, blob := range b.fleet.blobs {
			require.NoError(t, os.WriteFile(filepath.Join(stick, "blobs", sha), blob, 0o600))
		}
		b.settings.Zone, b.settings.Window, b.settings.DailyBytes = time.UTC, Window{1, 2}, 1
		b.settings.Every = 1000 * time.Hour
		before, tried := b.fleet.served, false
		b.until(time.Hour, func() bool {
			if !tried {
				tried = true
				_, err := b.u.Apply(t.Context(), filepath.Join(stick, "missing"))
				require.ErrorContains(t, err, "want a fleet repository's folder")
				s, err := b.u.Apply(t.Context(), stick)
				require.NoError(t, err)
				require.Equal(t, Armed, s.State)
				_, err = b.u.Apply(t.Context(), stick)
				require.ErrorContains(t, err, "a release is armed")
			}
			return b.runs(2)()
		})
		require.Equal(t, before, b.fleet.served, "nothing from the network")
		b.on(10*time.Minute, nil)
		b.on(time.Minute, func() bool {
			_, err := b.u.Apply(t.Context(), filepath.Join(stick, "blobs"))
			require.ErrorContains(t, err, "nothing to install")
			return true
		})
	})
}

// TestApplyDuringDownload: what is fetched from the network gives way to the stick.
func TestApplyDuringDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := withOne(t)
		m := b.add(2, &program{name: "two"})
		b.put(m)
		b.offer(2, 1, 2)
		stick := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(stick, "blobs"), 0o700))
		sha := m.Agent().Encodings[0].SHA256
		require.NoError(t, os.WriteFile(filepath.Join(stick, "blobs", sha), b.fleet.blobs[sha], 0o600))
		b.fleet.slow(100)
		before, tried := b.fleet.served, false
		b.until(5*time.Hour, func() bool {
			if s := b.u.Status(); !tried && s.State == Fetching && s.Bytes.Done > 30_000 {
				tried = true
				s, err := b.u.Apply(t.Context(), stick)
				require.NoError(t, err)
				require.Equal(t, Armed, s.State)
			}
			return b.runs(2)()
		})
		require.True(t, tried)
		require.Less(t, b.fleet.served-before, int64(80_000))
		kinds := []string{}
		for _, e := range b.u.History() {
			kinds = append(kinds, e.Event)
		}
		require.Equal(t, []string{EventArmed, EventCommitted, EventArmed, EventCommitted}, kinds)
	})
}

// TestPace: looks are jittered, fewer after failures, sooner after a nudge; all without a byte of a release.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := withOne(t)
		b.offer(2, 1)
		asked := b.fleet.asked
		b.on(100*time.Hour, nil)
		require.InDelta(t, 100, b.fleet.asked-asked, 8)

		b.fleet.down, asked = true, b.fleet.asked
		b.on(100*time.Hour, nil)
		require.Greater(t, b.fleet.asked-asked, 100)
		require.Less(t, b.fleet.asked-asked, 260)
		require.Equal(t, Failed, b.u.Status().State)
		require.Equal(t, "tuf.unreachable", b.u.Status().Code)
		b.fleet.down = false

		b.on(time.Hour, nil)
		asked = b.fleet.asked
		began := time.Now()
		b.on(3*time.Minute, func() bool {
			b.u.Nudge()
			b.u.Nudge()
			return b.fleet.looks() > asked
		})
		require.LessOrEqual(t, time.Since(began), 50*time.Second)
	})
}

// TestHistoryLost: an outcome that was acknowledged is not told again though the history is gone; one that was not, is.
func TestHistoryLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := withOne(t)
		b.on(time.Minute, nil)
		for _, acked := range []bool{true, false} {
			_, err := b.store().Update(func(r *boot.Record) error { r.LastResult.Acked = acked; return nil })
			require.NoError(t, err)
			require.NoError(t, durable.Replace(b.fs, boxDir+"/outbox/history.jsonl", []byte("torn{"), 0o600))
			b.gens, b.told = map[string][]uint64{}, map[string]int{}
			b.on(10*time.Minute, nil)
			require.Equal(t, map[bool]int{true: 0, false: 1}[acked], b.told["1 ok"])
		}
		require.True(t, b.record().LastResult.Acked)
	})
}

func TestOptions(t *testing.T) {
	_, err := New(Options{})
	require.ErrorContains(t, err, "Dir: missing")
	_, err = New(Options{Dir: t.TempDir()})
	require.ErrorContains(t, err, "Boot, Config, Health, SelfCheck and Restart are needed")
}
