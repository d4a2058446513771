package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/stretchr/testify/require"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"homeward/buffer/durable"
)

// forge changes the signed part of a file as plain JSON, and signs it with keys.
func (f *fleet) forge(name string, keys []ed25519.PrivateKey, change func(signed map[string]any)) {
	var m struct {
		Signed     map[string]any   `json:"signed"`
		Signatures []map[string]any `json:"signatures"`
	}
	require.NoError(f.t, json.Unmarshal(f.get(name), &m))
	change(m.Signed)
	if keys != nil {
		m.Signatures = nil
		payload, err := cjson.EncodeCanonical(m.Signed)
		require.NoError(f.t, err)
		for _, k := range keys {
			_, id := keyOf(f.t, k)
			m.Signatures = append(m.Signatures, map[string]any{"keyid": id, "sig": hex.EncodeToString(ed25519.Sign(k, payload))})
		}
	}
	raw, err := json.Marshal(m)
	require.NoError(f.t, err)
	f.put(name, raw)
}

// rename signs a file of another version in the place where one is expected.
func (f *fleet) unsigned(name string) {
	var m map[string]any
	require.NoError(f.t, json.Unmarshal(f.get(name), &m))
	m["signatures"] = []any{}
	raw, err := json.Marshal(m)
	require.NoError(f.t, err)
	f.put(name, raw)
}

// Each row: an honest refresh, then what the attacker or the accident does, and what the next refresh says; in the same process
// or after a restart (by turns; in a campaign both). Whatever it says, the set that was in force stays so, and honesty afterwards is enough.
func TestAttacks(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for i, c := range []struct {
		name string
		code string // "": accepted
		do   func(f *fleet, g *gateway)
		root int64 // the version in force afterwards; 0: 1
	}{
		// The root.
		{"root: new keys, signed by old and new", "", func(f *fleet, g *gateway) {
			f.newRoot(func() { f.rekey(root, 2) })
			f.next()
		}, 2},
		{"root: new keys, not signed by the old", CodeRoot, func(f *fleet, g *gateway) {
			f.root.Signed.Version++
			f.rekey(root, 2)
			f.signRoot()
		}, 0},
		{"root: new keys, signed by one of two old", CodeRoot, func(f *fleet, g *gateway) {
			old := f.keys[root]
			f.root.Signed.Version++
			f.rekey(root, 2)
			f.signRoot(old[0])
		}, 0},
		{"root: new keys, not signed by the new", CodeRoot, func(f *fleet, g *gateway) {
			old := f.keys[root]
			f.root.Signed.Version++
			f.rekey(root, 2)
			f.keys[root] = old
			f.signRoot()
		}, 0},
		{"root: one key under two ids", CodeRoot, func(f *fleet, g *gateway) {
			f.root.Signed.Version++
			f.signRoot()
			f.forge("2.root.json", f.keys[root], func(s map[string]any) {
				keys := s["keys"].(map[string]any)
				_, id := keyOf(f.t, f.keys[root][0])
				keys["00"+id[2:]] = keys[id]
				s["roles"].(map[string]any)["root"].(map[string]any)["keyids"] = []any{id, "00" + id[2:]}
			})
		}, 0},
		{"root: a version skipped", CodeRoot, func(f *fleet, g *gateway) {
			f.root.Signed.Version += 2
			f.put("2.root.json", f.signRoot())
		}, 0},
		{"root: the same version again", CodeRoot, func(f *fleet, g *gateway) { f.put("2.root.json", f.get("1.root.json")) }, 0},
		{"root: threshold of root 1", CodeRoot, func(f *fleet, g *gateway) { f.newRoot(func() { f.root.Signed.Roles[root].Threshold = 1 }) }, 0},
		{"root: threshold of targets 1", CodeRoot, func(f *fleet, g *gateway) { f.newRoot(func() { f.root.Signed.Roles[targets].Threshold = 1 }) }, 0},
		{"root: threshold of root 0", CodeRoot, func(f *fleet, g *gateway) { f.newRoot(func() { f.root.Signed.Roles[root].Threshold = 0 }) }, 0},
		{"root: threshold of timestamp 0", CodeMalformed, func(f *fleet, g *gateway) {
			f.newRoot(func() { f.root.Signed.Roles[timestamp].Threshold = 0 })
		}, 2},
		{"root: threshold raised", "", func(f *fleet, g *gateway) {
			f.newRoot(func() { f.rekey(root, 3) })
			f.next()
		}, 2},
		{"root: a role missing", CodeRoot, func(f *fleet, g *gateway) {
			f.newRoot(func() {})
			f.forge("2.root.json", f.keys[root], func(s map[string]any) { delete(s["roles"].(map[string]any), "snapshot") })
		}, 0},
		{"root: a role that is null", CodeRoot, func(f *fleet, g *gateway) {
			f.newRoot(func() {})
			f.forge("2.root.json", f.keys[root], func(s map[string]any) { s["roles"].(map[string]any)["snapshot"] = nil })
		}, 0},
		{"root: a key that is null", CodeRoot, func(f *fleet, g *gateway) {
			f.newRoot(func() {})
			f.forge("2.root.json", f.keys[root], func(s map[string]any) {
				for id := range s["keys"].(map[string]any) {
					s["keys"].(map[string]any)[id] = nil
				}
			})
		}, 0},
		{"root: a key of the wrong length", CodeRoot, func(f *fleet, g *gateway) {
			f.newRoot(func() {})
			f.forge("2.root.json", f.keys[root], func(s map[string]any) {
				for _, k := range s["keys"].(map[string]any) {
					k.(map[string]any)["keyval"] = map[string]any{"public": "abcd"}
				}
			})
		}, 0},
		{"root: too large", CodeMalformed, func(f *fleet, g *gateway) { f.put("2.root.json", bytes.Repeat([]byte(" "), maxRoot+1)) }, 0},
		{"root: custom fields", "", func(f *fleet, g *gateway) {
			f.newRoot(func() { f.root.Signed.UnrecognizedFields = map[string]any{"custom": map[string]any{"a": 1}} })
			f.next()
		}, 2},
		{"root: wrong _type", CodeRoot, func(f *fleet, g *gateway) { f.put("2.root.json", f.get("1.targets.json")) }, 0},
		{"root: expired", CodeExpired, func(f *fleet, g *gateway) { f.newRoot(func() { f.root.Signed.Expires = t0.Add(-day) }) }, 2},
		{"root: an expired one as a step", "", func(f *fleet, g *gateway) {
			end := f.root.Signed.Expires
			f.newRoot(func() { f.root.Signed.Expires = t0.Add(-day) })
			f.newRoot(func() { f.root.Signed.Expires = end })
			f.next()
		}, 3},
		{"root: newer, and no timestamp: the root stays", CodeMissing, func(f *fleet, g *gateway) {
			f.newRoot(func() { f.rekey(timestamp, 1) })
			f.drop("timestamp.json")
		}, 2},
		{"root: newer, and a broken timestamp: the root stays", CodeMalformed, func(f *fleet, g *gateway) {
			f.newRoot(func() { f.rekey(timestamp, 1) })
			f.put("timestamp.json", []byte(`{"signed":{`))
		}, 2},
		{"root: newer takes the timestamp's key away, the old key signs on", CodeSignature, func(f *fleet, g *gateway) {
			old := f.keys[timestamp]
			f.newRoot(func() { f.rekey(timestamp, 1) })
			f.keys[timestamp] = old
			f.next()
		}, 2},

		// The timestamp.
		{"timestamp: rolled back", CodeRollback, func(f *fleet, g *gateway) { f.stamp.Signed.Version = 9; f.publishTimestamp() }, 0},
		{"timestamp: same version, other content", "", func(f *fleet, g *gateway) {
			f.snap.Signed.Version = 100
			f.publishSnapshot()
		}, 0},
		{"timestamp: of an unknown key", CodeSignature, func(f *fleet, g *gateway) {
			f.keys[timestamp] = []ed25519.PrivateKey{newKey(f.t)}
			f.next()
		}, 0},
		{"timestamp: unsigned", CodeSignature, func(f *fleet, g *gateway) { f.next(); f.unsigned("timestamp.json") }, 0},
		{"timestamp: an invalid signature among the valid", "", func(f *fleet, g *gateway) {
			f.next()
			f.forge("timestamp.json", append([]ed25519.PrivateKey{newKey(f.t)}, f.keys[timestamp]...), func(map[string]any) {})
		}, 0},
		{"timestamp: one signature twice", CodeMalformed, func(f *fleet, g *gateway) {
			f.next()
			f.forge("timestamp.json", append(f.keys[timestamp], f.keys[timestamp]...), func(map[string]any) {})
		}, 0},
		{"timestamp: expired", CodeExpired, func(f *fleet, g *gateway) { f.stamp.Signed.Expires = t0.Add(-day); f.next() }, 0},
		{"timestamp: frozen for eight days", CodeExpired, func(f *fleet, g *gateway) { g.now = t0.Add(8 * day) }, 0},
		{"timestamp: wrong _type", CodeMalformed, func(f *fleet, g *gateway) { f.put("timestamp.json", f.get("1.targets.json")) }, 0},
		{"timestamp: no snapshot in it", CodeMalformed, func(f *fleet, g *gateway) {
			f.next()
			f.forge("timestamp.json", f.keys[timestamp], func(s map[string]any) { s["meta"] = map[string]any{} })
		}, 0},
		{"timestamp: the snapshot is null", CodeMalformed, func(f *fleet, g *gateway) {
			f.next()
			f.forge("timestamp.json", f.keys[timestamp], func(s map[string]any) { s["meta"] = map[string]any{"snapshot.json": nil} })
		}, 0},
		{"timestamp: null", CodeMalformed, func(f *fleet, g *gateway) { f.put("timestamp.json", []byte("null")) }, 0},
		{"timestamp: empty", CodeMalformed, func(f *fleet, g *gateway) { f.put("timestamp.json", []byte{}) }, 0},
		{"timestamp: zeros", CodeMalformed, func(f *fleet, g *gateway) { f.put("timestamp.json", make([]byte, 500)) }, 0},
		{"timestamp: too large", CodeMalformed, func(f *fleet, g *gateway) { f.put("timestamp.json", make([]byte, maxTimestamp+1)) }, 0},
		{"timestamp: deep nesting", CodeMalformed, func(f *fleet, g *gateway) { f.put("timestamp.json", []byte(strings.Repeat("[", 16000))) }, 0},
		{"timestamp: a version of 2^70", CodeMalformed, func(f *fleet, g *gateway) {
			f.put("timestamp.json", []byte(strings.Replace(string(f.get("timestamp.json")), `"version":10`, `"version":1180591620717411303424`, 1)))
		}, 0},

		// The snapshot.
		{"snapshot: rolled back", CodeRollback, func(f *fleet, g *gateway) {
			f.snap.Signed.Version = 9
			f.stamp.Signed.Version++
			f.publishSnapshot()
		}, 0},
		{"snapshot: missing", CodeMissing, func(f *fleet, g *gateway) { f.next(); f.drop("11.snapshot.json") }, 0},
		{"snapshot: other bytes than signed", CodeHash, func(f *fleet, g *gateway) {
			f.next()
			raw := f.get("11.snapshot.json")
			f.put("11.snapshot.json", append(raw[:len(raw)-1:len(raw)-1], ' ', '}')[:len(raw)])
		}, 0},
		{"snapshot: other version than its name", CodeRollback, func(f *fleet, g *gateway) {
			f.next()
			f.stamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(12)
			f.stamp.Signed.Version++
			f.put("12.snapshot.json", f.get("11.snapshot.json"))
			f.publishTimestamp()
		}, 0},
		{"snapshot: of an unknown key", CodeSignature, func(f *fleet, g *gateway) { f.keys[snapshot] = []ed25519.PrivateKey{newKey(f.t)}; f.next() }, 0},
		{"snapshot: expired", CodeExpired, func(f *fleet, g *gateway) { f.snap.Signed.Expires = t0.Add(-day); f.next() }, 0},
		{"snapshot: a role left out", CodeMalformed, func(f *fleet, g *gateway) {
			f.bump(snapshot, timestamp)
			delete(f.snap.Signed.Meta, "releases-p1.json")
			f.publishSnapshot()
		}, 0},
		{"snapshot: targets left out", CodeMalformed, func(f *fleet, g *gateway) {
			f.bump(snapshot, timestamp)
			delete(f.snap.Signed.Meta, "targets.json")
			f.publishSnapshot()
		}, 0},
		{"snapshot: a role that is null", CodeMalformed, func(f *fleet, g *gateway) {
			f.bump(snapshot, timestamp)
			f.publishSnapshot()
			f.forge("11.snapshot.json", f.keys[snapshot], func(s map[string]any) { s["meta"].(map[string]any)["new.json"] = nil })
			f.stamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(11)
			f.publishTimestamp()
		}, 0},
		{"snapshot: a role rolled back", CodeRollback, func(f *fleet, g *gateway) {
			f.bump(snapshot, timestamp)
			f.snap.Signed.Meta["releases-p1.json"] = metadata.MetaFile(9)
			f.publishSnapshot()
		}, 0},
		{"snapshot: signed with a huge length", CodeMalformed, func(f *fleet, g *gateway) {
			f.next()
			f.stamp.Signed.Meta["snapshot.json"].Length = 1 << 40
			f.publishTimestamp()
		}, 0},

		// targets.
		{"targets: rolled back", CodeRollback, func(f *fleet, g *gateway) { f.roles[targets].Signed.Version = 9; f.next() }, 0},
		{"targets: missing", CodeMissing, func(f *fleet, g *gateway) { f.next(targets); f.drop("11.targets.json") }, 0},
		{"targets: one of two signatures", CodeSignature, func(f *fleet, g *gateway) { f.keys[targets] = f.keys[targets][:1]; f.next(targets) }, 0},
		{"targets: expired", CodeExpired, func(f *fleet, g *gateway) { f.roles[targets].Signed.Expires = t0.Add(-day); f.next(targets) }, 0},
		{"targets: a snapshot in its place", CodeMalformed, func(f *fleet, g *gateway) { f.next(targets); f.put("11.targets.json", f.get("11.snapshot.json")) }, 0},
		{"targets: other version than its name", CodeRollback, func(f *fleet, g *gateway) { f.next(targets); f.put("11.targets.json", f.get("10.targets.json")) }, 0},
		{"targets: a target that is null", CodeMalformed, func(f *fleet, g *gateway) {
			f.next(targets)
			f.forge("11.targets.json", f.keys[targets], func(s map[string]any) { s["targets"] = map[string]any{"x": nil} })
		}, 0},
		{"targets: a target without hashes", CodeMalformed, func(f *fleet, g *gateway) {
			f.next(targets)
			f.forge("11.targets.json", f.keys[targets], func(s map[string]any) { s["targets"] = map[string]any{"x": map[string]any{"length": 5}} })
		}, 0},

		// Fast-forward, and how the owner recovers: by other keys.
		{"fast-forward: timestamp, the same keys", CodeRollback, func(f *fleet, g *gateway) {
			f.stamp.Signed.Version = 1 << 40
			f.publishTimestamp()
			require.NoError(f.t, g.open().Refresh(context.Background()))
			f.stamp.Signed.Version = 11
			f.publishTimestamp()
		}, 0},
		{"fast-forward: timestamp, other keys", "", func(f *fleet, g *gateway) {
			f.stamp.Signed.Version = 1 << 40
			f.publishTimestamp()
			require.NoError(f.t, g.open().Refresh(context.Background()))
			f.newRoot(func() { f.rekey(timestamp, 1) })
			f.stamp.Signed.Version = 11
			f.publishTimestamp()
		}, 2},
		{"fast-forward: snapshot, other keys", "", func(f *fleet, g *gateway) {
			f.snap.Signed.Version = 1 << 40
			f.bump(timestamp)
			f.publishSnapshot()
			require.NoError(f.t, g.open().Refresh(context.Background()))
			f.newRoot(func() { f.rekey(timestamp, 1); f.rekey(snapshot, 1) })
			f.snap.Signed.Version = 11
			f.bump(timestamp)
			f.publishSnapshot()
		}, 2},
		{"fast-forward: targets in the snapshot, other keys", "", func(f *fleet, g *gateway) {
			f.roles[targets].Signed.Version = 1 << 40
			f.next()
			require.NoError(f.t, g.open().Refresh(context.Background()))
			f.newRoot(func() { f.rekey(timestamp, 1); f.rekey(snapshot, 1); f.rekey(targets, 2) })
			f.roles[targets].Signed.Version = 11
			f.next()
		}, 2},
	} {
		for _, restart := range []bool{false, true} {
			if restart == (i%2 == 0) && os.Getenv("HOMEWARD_CAMPAIGN") == "" {
				continue
			}
			t.Run(fmt.Sprintf("%s/restart=%v", c.name, restart), func(t *testing.T) {
				t.Parallel()
				ctx := context.Background()
				f := newFleet(t)
				f.bumpTo(10)
				f.publish()
				g := f.gateway(f.web(f.serve()))
				r := g.open()
				require.NoError(t, r.Refresh(ctx))
				order, err := r.Target(ctx, "orders/gw7.json")
				require.NoError(t, err)
				before := r.Files()
				honest, end := f.copyFiles(), g.now
				g.t = t
				c.do(f, g)
				if restart || strings.HasPrefix(c.name, "fast-forward") {
					r = g.open()
				}
				err = r.Refresh(ctx)
				require.Equal(t, c.code, code(err), "%v", err)
				want := max(c.root, 1)
				require.Equal(t, want, version(r, root))
				require.Equal(t, want, version(g.open(), root), "after a restart")
				if c.code != "" && c.root == 0 && !strings.HasPrefix(c.name, "fast-forward") {
					require.True(t, maps.EqualFunc(before, r.Files(), bytes.Equal), "what was in force stays")
					g.now = end
					again, err := r.Target(ctx, "orders/gw7.json")
					require.NoError(t, err)
					require.Equal(t, order, again)
					f.replay(honest)
					require.NoError(t, r.Refresh(ctx), "honesty is enough")
				}
			})
		}
	}
}

// bumpTo makes all versions n.
func (f *fleet) bumpTo(n int64) {
	f.snap.Signed.Version, f.stamp.Signed.Version = n, n
	for _, m := range f.roles {
		m.Signed.Version = n
	}
}

// The factory's root comes back with nothing: a server that withholds the newer root and has the revoked key gets nowhere, not
// even when the cache is lost.
func TestFactoryRewind(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		ctx := context.Background()
		f := newFleet(t)
		s := f.serve()
		g := f.gateway(f.web(s))
		require.NoError(t, g.open().Refresh(ctx))
		revoked := f.keys[timestamp]
		f.newRoot(func() { f.rekey(timestamp, 1); f.rekey(snapshot, 1) })
		f.next()
		require.NoError(t, g.open().Refresh(ctx))
		honest := f.copyFiles()

		// The attacker's: the world as it was before the new root, with higher versions.
		evil := newFleet(t)
		evil.files = f.copyFiles()
		f.drop("2.root.json")
		f.keys[timestamp] = revoked
		f.bump(timestamp)
		f.publishTimestamp()
		if lost {
			require.NoError(t, g.fs.RemoveAll(g.o.Dir))
		}
		want := CodeSignature
		if lost {
			want = CodeRollback
		}
		for range 2 {
			r := g.open()
			require.Equal(t, want, code(r.Refresh(ctx)))
			_, err := r.Target(ctx, "orders/gw8.json")
			require.Error(t, err)
		}
		f.replay(honest)
		r := g.open()
		require.NoError(t, r.Refresh(ctx), "it heals")
		require.Equal(t, int64(2), version(r, root))
	}
}

// Every cache file in every state that a torn write leaves, against an honest server and one that plays an old, still valid
// repository again: the first heals it, the second gets nowhere.
func TestTornCache(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := newFleet(t)
	s := f.serve()
	first := f.gateway(f.web(s))
	old := f.copyFiles()
	f.next(targets, "releases-p1")
	f.order("gw7", `{"gateway":"gw7","serial":2}`)
	f.newRoot(func() {})
	f.next("orders-" + f.binOf("gw7"))
	honest := f.copyFiles()
	r := first.open()
	require.NoError(t, r.Refresh(ctx))
	_, err := r.Target(ctx, "orders/gw7.json")
	require.NoError(t, err)
	var names []string
	for _, dir := range []string{"", "files"} {
		entries, err := first.fs.ReadDir(filepath.Join(first.o.Dir, dir))
		require.NoError(t, err)
		for _, e := range entries {
			if !e.IsDir() {
				names = append(names, filepath.Join(dir, e.Name()))
			}
			if strings.HasPrefix(e.Name(), genPrefix) {
				in, err := first.fs.ReadDir(filepath.Join(first.o.Dir, e.Name()))
				require.NoError(t, err)
				for _, file := range in {
					names = append(names, filepath.Join(e.Name(), file.Name()))
				}
			}
		}
	}
	require.GreaterOrEqual(t, len(names), 8, "%v", names)
	combination := 0
	for _, name := range names {
		for _, state := range []string{"empty", "half", "zeroed", "missing", "a folder", "one bit"} {
			for _, server := range []string{"honest", "replay"} {
				if combination++; combination%5 != 0 && os.Getenv("HOMEWARD_CAMPAIGN") == "" {
					continue // a fifth of them each time the tests run
				}
				t.Run(name+"/"+state+"/"+server, func(t *testing.T) {
					g := *first
					g.t, g.fs = t, first.fs.Clone(1)
					g.o.FS = g.fs
					p := filepath.Join(g.o.Dir, name)
					raw, err := durable.Read(g.fs, p, 1<<20)
					require.NoError(t, err)
					require.NoError(t, g.fs.Remove(p))
					switch state {
					case "empty":
						raw = nil
					case "half":
						raw = raw[:len(raw)/2]
					case "zeroed":
						raw = make([]byte, len(raw))
					case "one bit":
						raw[len(raw)/3] ^= 4
					case "a folder":
						require.NoError(t, g.fs.MkdirAll(p, 0o700))
					}
					if state != "missing" && state != "a folder" {
						require.NoError(t, durable.Replace(g.fs, p, raw, 0o600))
					}
					f.replay(honest)
					if server == "replay" {
						f.replay(old)
					}
					r := g.open()
					err = r.Refresh(ctx)
					if server == "replay" {
						require.Equal(t, CodeRollback, code(err), "%v", err)
						f.replay(honest)
					} else {
						require.NoError(t, err)
					}
					require.NoError(t, r.Refresh(ctx))
					got, err := r.Target(ctx, "orders/gw7.json")
					require.NoError(t, err)
					require.Equal(t, `{"gateway":"gw7","serial":2}`, string(got))
					g.o.Source = nil
					got, err = g.open().Target(ctx, "orders/gw7.json")
					require.NoError(t, err, "healed on the disk too")
					require.Equal(t, `{"gateway":"gw7","serial":2}`, string(got))
				})
			}
		}
	}
}

func (f *fleet) binOf(gateway string) string {
	bin := f.roles["orders"].Signed.Delegations.GetRolesForTarget("orders/" + gateway + ".json")[0].Name
	return strings.TrimPrefix(bin, "orders-")
}

// What a key that is not the owner's can sign, and what it cannot.
func TestDelegations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		path string
		code string
		do   func(f *fleet)
	}{
		{"dev target of another gateway", "dev/gw8/linux-arm64.json", CodeNoTarget, func(f *fleet) { f.target("dev-p1", "dev/gw8/linux-arm64.json", "{}") }},
		{"dev key signs a fleet path", "releases/p1/linux-arm64/999.json", CodeNoTarget, func(f *fleet) { f.target("dev-p1", "releases/p1/linux-arm64/999.json", "{}") }},
		{"dev key signs an order", "orders/gw9.json", CodeNoTarget, func(f *fleet) { f.target("dev-p1", "orders/gw9.json", "{}") }},
		{"another product's key", "releases/p1/linux-arm64/999.json", CodeNoTarget, func(f *fleet) { f.target("releases-p2", "releases/p1/linux-arm64/999.json", "{}") }},
		{"releases key below its folders", "releases/p1/a/b/999.json", CodeNoTarget, func(f *fleet) { f.target("releases-p1", "releases/p1/a/b/999.json", "{}") }},
		{"a bin signs a release", "releases/p1/linux-arm64/999.json", CodeNoTarget, func(f *fleet) {
			bin := f.roles["orders"].Signed.Delegations.GetRolesForTarget("releases/p1/linux-arm64/999.json")[0].Name
			f.target(bin, "releases/p1/linux-arm64/999.json", "{}")
		}},
		{"another bin signs an order", "orders/gw9.json", CodeNoTarget, func(f *fleet) {
			for bin := range f.roles {
				if strings.HasPrefix(bin, "orders-") && bin != "orders-"+f.binOf("gw9") {
					f.target(bin, "orders/gw9.json", "{}")
				}
			}
		}},
		{"orders signs a move", "moves/gw7.json", CodeNoTarget, func(f *fleet) { f.target("orders", "moves/gw7.json", "{}") }},
		{"targets signs a move", "moves/gw7.json", "", func(f *fleet) { f.target(targets, "moves/gw7.json", "{}") }},
		{"targets delegates moves", "moves/gw7.json", CodeDelegation, func(f *fleet) {
			f.delegate(targets, "moves", []string{"moves/*"}, false)
			f.target("moves", "moves/gw7.json", "{}")
		}},
		{"a role takes another's name space", "releases/p1/linux-arm64/999.json", CodeDelegation, func(f *fleet) {
			f.delegate(targets, "helper", []string{"releases/*/*/*"}, false)
			f.target("helper", "releases/p1/linux-arm64/999.json", "{}")
		}},
		{"a releases role delegates on", "releases/p1/linux-arm64/999.json", CodeDelegation, func(f *fleet) {
			f.delegate("releases-p1", "releases-p1b", []string{"releases/p1/*/*"}, false)
			f.target("releases-p1b", "releases/p1/linux-arm64/999.json", "{}")
		}},
		{"bins delegated by targets itself", "orders/gw7.json", CodeDelegation, func(f *fleet) {
			f.roles[targets].Signed.Delegations.Roles = f.roles[targets].Signed.Delegations.Roles[:3]
			f.delegate(targets, "orders-ff", []string{"orders/*"}, false)
		}},
		{"diamond: two delegators of one role", "orders/gw7.json", CodeDiamond, func(f *fleet) {
			f.delegate(targets, "orders-"+f.binOf("gw7"), []string{"dev/x/*"}, false)
		}},
		{"diamond: orders delegates a releases role", "releases/p1/linux-arm64/141.json", CodeDiamond, func(f *fleet) {
			d := f.roles["orders"].Signed.Delegations
			d.SuccinctRoles = nil
			f.delegate("orders", "releases-p1", []string{"releases/*/*"}, false)
		}},
		{"diamond: one role listed twice", "releases/p1/rollouts.json", CodeDiamond, func(f *fleet) {
			f.delegate(targets, "releases-p1", []string{"releases/p1/*"}, false)
		}},
		{"a circle", "orders/gw8.json", CodeDelegation, func(f *fleet) {
			f.roles["orders"].Signed.Delegations = nil
			f.delegate("orders", "orders-a", []string{"orders/*"}, false)
			f.delegate("orders-a", "orders-b", []string{"orders/*"}, false)
			f.delegate("orders-b", "orders-a", []string{"orders/*"}, false)
		}},
		{"a role delegates to targets", "orders/gw8.json", CodeDelegation, func(f *fleet) {
			f.roles["orders"].Signed.Delegations = nil
			f.delegate("orders", targets, []string{"orders/*"}, false)
		}},
		{"role name ../x", "releases/p1/rollouts.json", CodeDelegation, func(f *fleet) { f.odd("../x") }},
		{"role name /x", "releases/p1/rollouts.json", CodeDelegation, func(f *fleet) { f.odd("/x") }},
		{"role name #", "releases/p1/rollouts.json", CodeDelegation, func(f *fleet) { f.odd("#") }},
		{"role name ?", "releases/p1/rollouts.json", CodeDelegation, func(f *fleet) { f.odd("?") }},
		{"role name empty", "releases/p1/rollouts.json", CodeDelegation, func(f *fleet) { f.odd("") }},
		{"role of an unknown key", "orders/gw7.json", CodeSignature, func(f *fleet) { f.keys["orders"] = []ed25519.PrivateKey{newKey(f.t)} }},
		{"role with threshold 0", "orders/gw7.json", CodeMalformed, func(f *fleet) { f.roles[targets].Signed.Delegations.Roles[3].Threshold = 0 }},
		{"role expired", "orders/gw7.json", CodeExpired, func(f *fleet) { f.roles["orders"].Signed.Expires = t0.Add(-time.Hour) }},
		{"role missing", "orders/gw7.json", CodeMissing, func(f *fleet) { f.publish(); f.drop("1.orders.json") }},
		{"target missing", "orders/gw7.json", CodeMissing, func(f *fleet) {
			for name := range f.files {
				if strings.HasPrefix(name, "orders/") {
					f.drop(name)
				}
			}
		}},
		{"target substituted", "orders/gw7.json", CodeHash, func(f *fleet) {
			for name, data := range f.files {
				if strings.HasPrefix(name, "orders/") {
					f.put(name, bytes.Repeat([]byte("x"), len(data)))
				}
			}
		}},
		{"target too large", "orders/gw7.json", CodeMalformed, func(f *fleet) { f.order("gw7", strings.Repeat("x", maxTarget+1)) }},
		{"target of an unknown hash", "orders/gw7.json", CodeMalformed, func(f *fleet) {
			f.roles["orders-"+f.binOf("gw7")].Signed.Targets["orders/gw7.json"].Hashes = metadata.Hashes{"md5": []byte{1}}
		}},
		{"target of two hashes, one wrong", "orders/gw7.json", CodeHash, func(f *fleet) {
			f.roles["orders-"+f.binOf("gw7")].Signed.Targets["orders/gw7.json"].Hashes["sha512"] = make([]byte, 64)
		}},
		{"target by sha512", "orders/gw7.json", "", func(f *fleet) {
			info, err := metadata.TargetFile().FromBytes("orders/gw7.json", []byte("{}"), "sha512")
			require.NoError(f.t, err)
			f.roles["orders-"+f.binOf("gw7")].Signed.Targets["orders/gw7.json"] = info
			f.put("orders/"+hex.EncodeToString(info.Hashes["sha512"])+".gw7.json", []byte("{}"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			f := newFleet(t)
			c.do(f)
			if c.name != "role missing" {
				f.publish()
			}
			r := f.gateway(f.web(f.serve())).open()
			err := r.Refresh(ctx)
			require.NoError(t, err)
			_, _ = r.Target(ctx, "orders/gw1.json") // orders is known by now, and what it delegates
			_, err = r.Target(ctx, c.path)
			require.Equal(t, c.code, code(err), "%v", err)
		})
	}
}

// odd puts a delegation of that name first.
func (f *fleet) odd(name string) {
	f.delegate(targets, name, []string{"releases/*/*"}, false)
	d := f.roles[targets].Signed.Delegations
	d.Roles = append(d.Roles[len(d.Roles)-1:], d.Roles[:len(d.Roles)-1]...)
}

// What lies between the gateway and the repository.
func TestWayThere(t *testing.T) {
	t.Parallel()
	other := newFleet(t)
	elsewhere := other.serve()
	for _, c := range []struct {
		name string
		code string
		do   func(w http.ResponseWriter, r *http.Request) bool
	}{
		{"captive portal, a page with status 200", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte("<html>pay"))
			return true
		}},
		{"captive portal, a page without a type", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte("<html>pay"))
			return true
		}},
		{"captive portal, redirected", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
			return true
		}},
		{"another host has no newer root", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "root.json") {
				http.Redirect(w, r, elsewhere.URL+"/nothing", http.StatusFound)
				return true
			}
			return false
		}},
		{"403 is not that there is no newer root", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}},
		{"500", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(500); return true }},
		{"gzip bomb", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte{0x1f, 0x8b})
			return true
		}},
		{"huge Content-Length", CodeMalformed, func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", "9000000000000000000")
			w.WriteHeader(200)
			return true
		}},
		{"endless body", CodeMalformed, func(w http.ResponseWriter, r *http.Request) bool { endless(w, r); return true }},
		{"endless header", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			w.WriteHeader(200)
			return true
		}},
		{"not modified, unasked", CodeUnreachable, func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(304); return true }},
		{"an address that moved within the host", "", func(w http.ResponseWriter, r *http.Request) bool {
			if to, ok := strings.CutPrefix(r.URL.Path, "/"); ok && !strings.HasPrefix(to, "new/") && r.Header.Get("Referer") == "" && to == "timestamp.json" {
				http.Redirect(w, r, "/new/timestamp.json", http.StatusMovedPermanently)
				return true
			}
			if r.URL.Path == "/new/timestamp.json" {
				r.URL.Path = "/timestamp.json"
			}
			return false
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			s := f.serve()
			if c.code == "" {
				s.Config.Handler = moved(s.Config.Handler)
			} else {
				s.hook = c.do
			}
			g := f.gateway(f.web(s))
			r := g.open()
			err := r.Refresh(context.Background())
			require.Equal(t, c.code, code(err), "%v", err)
			s.hook = nil
			require.NoError(t, r.Refresh(context.Background()))
		})
	}
}

// moved has everything below /new/, and redirects there.
func moved(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := strings.CutPrefix(r.URL.Path, "/new"); ok {
			r.URL.Path = p
			h.ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, "/new"+r.URL.Path, http.StatusMovedPermanently)
	})
}

// A server that says "not modified" of an old timestamp does not freeze a gateway that has seen a newer one.
func TestNotModifiedBelowFloor(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := newFleet(t)
	s := f.serve()
	g := f.gateway(f.web(s))
	r := g.open()
	require.NoError(t, r.Refresh(ctx))
	fl := g.o.Floors.(*floors)
	up := maps.Clone(fl.all)
	up[timestamp] = withVersion(up[timestamp], 7)
	require.NoError(t, fl.SetRoleFloors(up))
	require.Equal(t, CodeRollback, code(r.Refresh(ctx)))
	_, err := g.open().Target(ctx, "orders/gw7.json")
	require.Equal(t, CodeRollback, code(err), "nor does the cache")
}

// The clock: unset, wrong, jumping; never a stop for good.
func TestTime(t *testing.T) {
	t.Parallel()
	year := 365 * 24 * time.Hour
	ctx := context.Background()
	t.Run("1970, and the build's time", func(t *testing.T) {
		f := newFleet(t)
		g := f.gateway(Folder(f.dir()))
		g.now, g.synced = time.Unix(0, 0), false
		require.NoError(t, g.open().Refresh(ctx), "nothing has expired yet")
		g.o.Built = t0.Add(-time.Hour)
		require.NoError(t, g.open().Refresh(ctx))
		g.o.Built = t0.Add(30 * 24 * time.Hour)
		require.Equal(t, CodeTime, code(g.open().Refresh(ctx)), "this program is newer than that timestamp's end")
	})
	t.Run("ten years ahead, not synchronized", func(t *testing.T) {
		f := newFleet(t)
		g := f.gateway(Folder(f.dir()))
		r := g.open()
		require.NoError(t, r.Refresh(ctx))
		g.now, g.synced = t0.Add(10*year), false
		err := r.Refresh(ctx)
		require.Equal(t, CodeTime, code(err))
		require.ErrorContains(t, err, "waiting for time")
		require.Equal(t, CodeTime, code(g.open().Refresh(ctx)))
		_, err = r.Target(ctx, "orders/gw7.json")
		require.Equal(t, CodeTime, code(err))
		g.now = t0
		_, err = r.Target(ctx, "orders/gw7.json")
		require.NoError(t, err, "the clock came back")
		g.now, g.synced = t0.Add(10*year), true
		require.Equal(t, CodeExpired, code(g.open().Refresh(ctx)))
		g.now = t0
		require.NoError(t, g.open().Refresh(ctx), "the right time is enough")
		_, err = g.open().Target(ctx, "orders/gw7.json")
		require.NoError(t, err)
	})
	t.Run("issued_at moves the floor", func(t *testing.T) {
		f := newFleet(t)
		f.stamp.Signed.UnrecognizedFields = map[string]any{"issued_at": t0.Add(-time.Hour).Format(time.RFC3339)}
		f.next()
		g := f.gateway(f.web(f.serve()))
		g.now, g.synced = time.Unix(0, 0), false
		r := g.open()
		require.NoError(t, r.Refresh(ctx))
		require.Equal(t, t0.Add(-time.Hour), r.State().Issued)
		// An old repository that ended before that time is not news, though the clock thinks so.
		f.roles["orders"].Signed.Expires = t0.Add(-2 * time.Hour)
		f.next("orders")
		require.NoError(t, r.Refresh(ctx))
		_, err := r.Target(ctx, "orders/gw7.json")
		require.Equal(t, CodeTime, code(err))
	})
	t.Run("issued_at beyond its own end", func(t *testing.T) {
		for _, at := range []any{t0.Add(year).Unix(), t0.Add(year).Format(time.RFC3339), "soon", -5, true, int64(1) << 50} {
			f := newFleet(t)
			f.stamp.Signed.UnrecognizedFields = map[string]any{"issued_at": at}
			f.next()
			g := f.gateway(f.web(f.serve()))
			require.NoError(t, g.open().Refresh(ctx), "%v", at)
		}
	})
}

// TLS: whose certificate is vouched for, and whose is not; and from http:// to https:// on the same host.
func TestTLS(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := newFleet(t)
	s := httptest.NewTLSServer(f.serve().Config.Handler)
	defer s.Close()
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	src, err := HTTPS(s.URL, HTTPOptions{TLS: s.Client().Transport.(*http.Transport).TLSClientConfig})
	require.NoError(t, err)
	require.NoError(t, f.gateway(src).open().Refresh(ctx))
	src, err = HTTPS(s.URL, HTTPOptions{})
	require.NoError(t, err)
	err = f.gateway(src).open().Refresh(ctx)
	require.Equal(t, CodeUnreachable, code(err))
	require.ErrorContains(t, err, "certificate")

	upgrade := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, s.URL+r.URL.Path, http.StatusMovedPermanently)
	}))
	defer upgrade.Close()
	src, err = HTTPS(upgrade.URL, HTTPOptions{Plain: true, TLS: s.Client().Transport.(*http.Transport).TLSClientConfig})
	require.NoError(t, err)
	require.NoError(t, f.gateway(src).open().Refresh(ctx))
}

// What cannot be kept is not in force: an error, and the same again later.
func TestFloorsFail(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := newFleet(t)
	g := f.gateway(f.web(f.serve()))
	fl := g.o.Floors.(*floors)
	fl.err = noSpace
	r := g.open()
	require.Equal(t, CodeStore, code(r.Refresh(ctx)))
	require.Empty(t, fl.all)
	fl.err = nil
	require.NoError(t, r.Refresh(ctx))
	require.Equal(t, int64(1), fl.all[timestamp].Version)
	_, err := r.Target(ctx, "orders/gw7.json")
	require.NoError(t, err)
	require.Equal(t, int64(1), fl.all["orders"].Version, "of each role that was asked")
}

// A folder is no more trusted than a server.
func TestFolderTricks(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := newFleet(t)
	out := filepath.Join(t.TempDir(), "out.json")
	require.NoError(t, os.WriteFile(out, f.get("timestamp.json"), 0o600))
	for name, c := range map[string]struct {
		do   func(p string) error
		code string
	}{
		"a link out of it":  {func(p string) error { return os.Symlink(out, p) }, CodeUnreachable},
		"a link within":     {func(p string) error { return os.Symlink("copy.json", p) }, ""},
		"a pipe":            {func(p string) error { return syscall.Mkfifo(p, 0o600) }, CodeUnreachable},
		"a folder":          {func(p string) error { return os.Mkdir(p, 0o700) }, CodeUnreachable},
		"a link to zero":    {func(p string) error { return os.Symlink("/dev/zero", p) }, CodeUnreachable},
		"a link to nothing": {func(p string) error { return os.Symlink("nothing", p) }, CodeMissing},
		"a sparse file":     {func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) }, CodeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			dir := f.dir()
			require.NoError(t, os.Rename(filepath.Join(dir, "timestamp.json"), filepath.Join(dir, "copy.json")))
			require.NoError(t, c.do(filepath.Join(dir, "timestamp.json")))
			require.Equal(t, c.code, code(f.gateway(Folder(dir)).open().Refresh(ctx)))
		})
	}
	data, sum := blob(1000)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "blobs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", sum), data, 0o644))
	_, err := (&Downloader{Source: Folder(dir), Dir: t.TempDir()}).Fetch(ctx, sum, 1000)
	require.NoError(t, err)
}
