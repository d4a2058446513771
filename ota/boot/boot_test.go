package boot

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
)

func hash(c byte) string { return strings.Repeat(string(c), 64) }

func release(n uint64) Release {
	return Release{Product: "gateway-v2", Version: fmt.Sprintf("1.0.%d", n), Counter: n, SHA256: fmt.Sprintf("%064x", n)}
}

// armed is a gateway on release 1 in slot a, with release 2 in slot b armed.
func armed(t require.TestingT) Record {
	r := Record{Gen: 7, Active: hash('a'), Release: release(1), Floors: map[string]uint64{"gateway-v2": 1}}
	require.NoError(t, Arm(&r, Trial{Slot: hash('b'), Release: release(2), StableS: 600, DeadlineS: 1800, NeedServer: true, Serial: 5}))
	return r
}

func TestCrashesEndTheTrial(t *testing.T) {
	r := armed(t)
	for i := range Tries {
		require.Equal(t, Decision{Slot: hash('b'), Trial: true, Changed: true}, Start(&r, "boot1"))
		require.Equal(t, Tries-1-i, r.Trial.TriesLeft)
		Ended(&r, i == 1, "it exited with status 1")
	}
	require.Equal(t, Decision{Slot: hash('a'), Changed: true, RolledBack: true}, Start(&r, "boot1"))
	require.Equal(t, &Result{Release: release(2), Code: CodeCrash, Text: "it was started 3 times and did not stay; at last: it exited with status 1", Gen: 8, Attempt: 1, Serial: 5}, r.LastResult)
	require.Equal(t, []Quarantined{{Manifest: release(2).SHA256, Slot: hash('b'), Release: release(2), Code: CodeCrash, Serial: 5}}, r.Quarantine)
	require.Equal(t, Decision{Slot: hash('a')}, Start(&r, "boot1"), "and stays")
	require.Equal(t, map[string]uint64{"gateway-v2": 1}, r.Floors, "no floor rises")
	require.ErrorIs(t, Arm(&r, Trial{Slot: hash('b'), Release: release(2)}), ErrQuarantined)
	Clear(&r, release(2).SHA256)
	require.NoError(t, Arm(&r, Trial{Slot: hash('b'), Release: release(2)}))
}

func TestHangsEndTheTrial(t *testing.T) {
	r := armed(t)
	for range Tries {
		require.True(t, Start(&r, "boot1").Trial)
		Ended(&r, true, "it hung")
	}
	require.True(t, Start(&r, "boot1").RolledBack)
	require.Equal(t, CodeHang, r.LastResult.Code)
}

func TestCleanStopsCostNothing(t *testing.T) {
	r := armed(t)
	for range CleanStarts {
		require.True(t, Start(&r, "boot1").Trial)
		require.Equal(t, Tries-1, r.Trial.TriesLeft)
		r.Trial.Clean = true
	}
	for i := range Tries { // then the crashes count as ever
		require.True(t, Start(&r, "boot1").Trial, "crash %d", i)
	}
	require.True(t, Start(&r, "boot1").RolledBack)
}

// TestCleanStopsEnd: a release that ends in good order again and again does not stay on trial for ever.
func TestCleanStopsEnd(t *testing.T) {
	r := armed(t)
	starts := func(bootID string) (n int) {
		for Start(&r, bootID).Trial {
			n++
			require.Less(t, n, 1000)
			r.Trial.Clean = true
			require.NoError(t, r.check())
		}
		return n
	}
	for range CleanStarts { // a boot has all of them
		require.True(t, Start(&r, "boot0").Trial)
		r.Trial.Clean = true
	}
	require.Equal(t, CleanStarts+Tries, starts("boot1"))
	require.Equal(t, CodeCrash, r.LastResult.Code)
	require.Equal(t, "it was started 23 times and did not stay", r.LastResult.Text)
	require.Len(t, r.Quarantine, 1)

	// An older agent wrote none of it.
	var old Trial
	require.NoError(t, json.Unmarshal([]byte(`{"slot":"`+hash('b')+`","tries_left":2,"boots_left":9,"boot_id":"boot1","clean":true}`), &old))
	r = Record{Trial: &old}
	require.True(t, Start(&r, "boot1").Trial)
	require.Equal(t, 2, r.Trial.TriesLeft)
}

func TestPowerCutsAreNoCrashes(t *testing.T) {
	r := armed(t)
	cuts := 0
	cut := func() Decision { cuts++; return Start(&r, fmt.Sprint("boot", cuts)) }
	for range Boots {
		require.True(t, cut().Trial)
		require.Equal(t, Tries-1, r.Trial.TriesLeft, "a boot has all its tries")
	}
	d := cut()
	require.True(t, d.RolledBack)
	require.Equal(t, hash('a'), d.Slot)
	require.Equal(t, CodePower, r.LastResult.Code)
	require.Empty(t, r.Quarantine)
	for attempt := 2; attempt <= Attempts; attempt++ {
		require.NoError(t, Arm(&r, Trial{Slot: hash('b'), Release: release(2)}))
		require.Equal(t, attempt, r.Trial.Attempt)
		for range Boots {
			require.True(t, cut().Trial)
		}
		require.True(t, cut().RolledBack)
	}
	require.ErrorIs(t, Arm(&r, Trial{Slot: hash('b'), Release: release(2)}), ErrAttempts)
	require.NoError(t, Arm(&r, Trial{Slot: hash('c'), Release: release(3)}), "another release is welcome")
}

// TestTwentyPowerCuts: 20 power cuts during the trials of a good release end in its commit, not in quarantine.
func TestTwentyPowerCuts(t *testing.T) {
	r := armed(t)
	for n := range 20 {
		if d := Start(&r, fmt.Sprint("boot", n)); d.RolledBack {
			require.NoError(t, Arm(&r, Trial{Slot: hash('b'), Release: release(2)}))
		}
	}
	require.True(t, Start(&r, "boot20").Trial)
	Commit(&r, 2)
	require.Equal(t, hash('b'), r.Active)
	require.Equal(t, release(2), r.Release)
	require.Equal(t, hash('a'), r.Prev)
	require.Equal(t, release(1), r.PrevRelease)
	require.Equal(t, map[string]uint64{"gateway-v2": 2}, r.Floors)
	require.Equal(t, CodeOK, r.LastResult.Code)
	require.Empty(t, r.Quarantine)
}

func TestArm(t *testing.T) {
	r := armed(t)
	before := *r.Trial
	require.NoError(t, Arm(&r, Trial{Slot: hash('b'), Release: release(2)}))
	require.Equal(t, before, *r.Trial, "again: nothing")
	require.NoError(t, Arm(&r, Trial{Slot: hash('c'), Release: release(3)}), "never started: gives way")
	Start(&r, "boot1")
	require.ErrorIs(t, Arm(&r, Trial{Slot: hash('d'), Release: release(4)}), ErrOnTrial)
	require.ErrorContains(t, Arm(&Record{}, Trial{Slot: "../../etc", Release: release(4)}), "want 64 hex digits")
	require.ErrorContains(t, Arm(&Record{}, Trial{Slot: hash('d'), Release: Release{SHA256: "x"}}), "want 64 hex digits")

	// A link that is down for both says nothing about the release.
	RollBack(&r, CodeLink, "no server", true)
	require.ErrorIs(t, Arm(&r, Trial{Slot: hash('c'), Release: release(3)}), ErrQuarantined)
	Reconsider(&r, CodeInconclusive, "no link with the old release either")
	require.NoError(t, Arm(&r, Trial{Slot: hash('c'), Release: release(3)}))
	require.Equal(t, 2, r.Trial.Attempt)
}

func TestCommitAndRollBackWithoutTrial(t *testing.T) {
	r := Record{Active: hash('a'), Floors: map[string]uint64{"p": 3}}
	was := r.clone()
	Commit(&r, 9)
	RollBack(&r, CodeCrash, "x", true)
	Ended(&r, true, "x")
	require.Equal(t, was, r)
}

func TestQuarantineIsBounded(t *testing.T) {
	r := Record{}
	for n := range uint64(40) {
		require.NoError(t, Arm(&r, Trial{Slot: hash('b'), Release: release(n + 1)}))
		RollBack(&r, CodeCrash, strings.Repeat("ü", 500), true)
		data, err := r.encode()
		require.NoError(t, err)
		require.LessOrEqual(t, len(data), MaxRecord)
	}
	require.LessOrEqual(t, len(r.Quarantine), MaxQuarantined)
	require.GreaterOrEqual(t, len(r.Quarantine), 6, "so many fit, at least")
	_, is := r.Quarantined(release(40).SHA256)
	require.True(t, is, "the newest stays")
}

// TestFullRecord: a record at its fullest, with the worst texts, holds the last twelve quarantined releases.
func TestFullRecord(t *testing.T) {
	for name, c := range map[string]string{"plain": "x", "quotes": `"`, "html": "<&>", "control": "\x01", "separators": "\u2028", "invalid": "\xff"} {
		const product = "cold-chain-gateway-v2"
		full := func(n uint64) Release {
			return Release{Product: product, Version: "1.10.2-rc.1", Counter: n, SHA256: fmt.Sprintf("%064x", n)}
		}
		s := &Store{FS: crashfs.New(1), Dir: "/s/ota"}
		update := func(change func(r *Record) error) Record {
			t.Helper()
			r, err := s.Update(change)
			require.NoError(t, err, name)
			data, err := durable.Read(s.FS, s.path(recordName), MaxRecord)
			require.NoError(t, err)
			require.NotContains(t, string(data), `\u00`, "%s: no byte becomes six", name)
			again, err := Parse(data)
			require.NoError(t, err, name)
			require.Equal(t, r, again, name)
			return r
		}
		update(func(r *Record) error {
			r.Active, r.Release, r.Prev, r.PrevRelease = hash('b'), full(11), hash('a'), full(10)
			r.Floors, r.MoveSeq, r.Roles = map[string]uint64{product: 10}, 12, map[string]RoleFloor{}
			for _, role := range []string{"root", "timestamp", "snapshot", "targets", "releases-" + product, "dev-" + product, "orders", "orders-3f"} {
				r.Roles[role] = RoleFloor{1234, "0123456789abcdef"}
			}
			return nil
		})
		var r Record
		kept := 0
		for n := range uint64(20) {
			r = update(func(r *Record) error {
				err := Arm(r, Trial{Slot: fmt.Sprintf("%064x", 500+n), Release: full(100 + n), StableS: 600, DeadlineS: 1800, Serial: 12})
				Start(r, "4a1c2f5e-0000-4000-8000-000000000000")
				Ended(r, false, strings.Repeat(c, 100))
				return err
			})
			r = update(func(r *Record) error { RollBack(r, CodeHealth+"drivers", strings.Repeat(c, 300), true); return nil })
			require.Equal(t, full(100+n), r.LastResult.Release)
			last := r.Quarantine[len(r.Quarantine)-1]
			require.Equal(t, Quarantined{Manifest: full(100 + n).SHA256, Slot: fmt.Sprintf("%064x", 500+n), Release: full(100 + n), Code: CodeHealth + "drivers", Serial: 12}, last)
			kept = max(kept, len(r.Quarantine))
			require.GreaterOrEqual(t, len(r.Quarantine), min(int(n)+1, 12), name)
		}
		t.Logf("%s: %d fit, at most %d", name, len(r.Quarantine), kept)
		for _, q := range r.Quarantine {
			require.Equal(t, "1.10.2-rc.1", q.Release.Version)
			require.Equal(t, q.Manifest, q.Release.SHA256)
		}
	}
}

// TestAttemptsEnd: what was tried often enough without a verdict needs a newer assignment, and that is enough.
func TestAttemptsEnd(t *testing.T) {
	r := armed(t)
	tries := func(serial uint64) (n int) {
		for {
			err := Arm(&r, Trial{Slot: hash('b'), Release: release(2), Serial: serial})
			if err != nil {
				require.ErrorIs(t, err, ErrAttempts)
				return n
			}
			n++
			require.Equal(t, n, r.Trial.Attempt)
			RollBack(&r, CodePower, "x", false)
			require.Less(t, n, 10)
		}
	}
	require.Equal(t, Attempts, tries(5))
	require.Zero(t, tries(5))
	require.Zero(t, tries(4))
	require.Equal(t, Attempts, tries(6))
	require.Zero(t, tries(6))
}

// TestStartAgainstModel: whatever happens, in whatever order, the rules hold; the model counts what really happened.
func TestStartAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := armed(t)
		boot, boots, tries := 0, 0, 0 // boots that ended without a verdict; ends in this boot that nobody asked for
		running, started, clean, cleans := false, -1, false, 0
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"start", "start", "start", "stop", "cut", "cut", "commit", "bad"}).Draw(t, "event") {
			case "start": // after whatever end
				if running && clean {
					cleans++
				}
				if running && (!clean || cleans > CleanStarts) {
					tries++
				}
				had := r.Trial != nil
				d := Start(&r, fmt.Sprint(boot))
				if !had {
					require.Equal(t, Decision{Slot: r.Active}, d)
					continue
				}
				switch {
				case boots >= Boots:
					require.True(t, d.RolledBack)
					require.Equal(t, CodePower, r.LastResult.Code)
					require.Empty(t, r.Quarantine)
				case tries >= Tries:
					require.True(t, d.RolledBack)
					require.Equal(t, CodeCrash, r.LastResult.Code)
					require.Len(t, r.Quarantine, 1)
				default:
					require.True(t, d.Trial, "tries %d boots %d", tries, boots)
					require.Equal(t, hash('b'), d.Slot)
					running, started, clean = true, boot, false
				}
				require.NoError(t, r.check())
			case "stop":
				if r.Trial != nil && running && started == boot {
					r.Trial.Clean, clean = true, true
				}
			case "cut":
				if started == boot {
					boots++
				}
				boot++
				tries, running, clean, cleans = 0, false, false, 0
			case "commit":
				if r.Trial != nil && running {
					Commit(&r, 2)
					require.Equal(t, hash('b'), r.Active)
					require.Equal(t, uint64(2), r.Floors["gateway-v2"])
				}
			case "bad":
				if r.Trial != nil && running {
					RollBack(&r, CodeHealth+"store", "x", true)
					require.Equal(t, hash('a'), r.Active)
				}
			}
			if r.Trial == nil {
				if r.LastResult.Code == CodeOK {
					require.Equal(t, hash('b'), r.Active)
				} else {
					require.Equal(t, hash('a'), r.Active)
					require.Equal(t, uint64(1), r.Floors["gateway-v2"], "a floor rises at a commit only")
				}
			}
		}
	})
}
