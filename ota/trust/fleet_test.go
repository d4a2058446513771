package trust

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/stretchr/testify/require"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"homeward/buffer/durable/crashfs"
	"homeward/ota/boot"
)

// t0 is when the fleets of these tests live.
var t0 = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// fleet is a repository that a test makes and breaks: what it says is in its fields, sign turns it into files.
type fleet struct {
	t     testing.TB
	keys  map[string][]ed25519.PrivateKey // by role
	root  *metadata.Metadata[metadata.RootType]
	snap  *metadata.Metadata[metadata.SnapshotType]
	stamp *metadata.Metadata[metadata.TimestampType]
	roles map[string]*metadata.Metadata[metadata.TargetsType] // targets and what it delegates to

	mu    sync.Mutex
	files map[string][]byte // the folder
}

var keysMade atomic.Uint64

// newKey is a key that no other is like, and the same in each process that asks in the same order (fuzzing has many).
func newKey(testing.TB) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "key %d", keysMade.Add(1)))
	return ed25519.NewKeyFromSeed(seed[:])
}

func keyOf(t testing.TB, k ed25519.PrivateKey) (*metadata.Key, string) {
	key, err := metadata.KeyFromPublicKey(k.Public())
	require.NoError(t, err)
	id, err := key.ID()
	require.NoError(t, err)
	return key, id
}

// newFleet is a fleet with two products, a bin of orders and a pinned development gateway. Its factory root is the first.
func newFleet(t testing.TB) *fleet {
	f := &fleet{t: t, keys: map[string][]ed25519.PrivateKey{}, roles: map[string]*metadata.Metadata[metadata.TargetsType]{}, files: map[string][]byte{}}
	year := t0.Add(365 * 24 * time.Hour)
	f.root, f.snap, f.stamp = metadata.Root(year), metadata.Snapshot(t0.Add(14*24*time.Hour)), metadata.Timestamp(t0.Add(7*24*time.Hour))
	f.roles[targets] = metadata.Targets(year)
	f.rekey(root, 2)
	f.rekey(targets, 2)
	f.rekey(snapshot, 1)
	f.rekey(timestamp, 1)
	f.delegate(targets, "releases-p1", []string{"releases/p1/*", "releases/p1/*/*"}, false)
	f.delegate(targets, "releases-p2", []string{"releases/p2/*", "releases/p2/*/*"}, false)
	f.delegate(targets, "dev-p1", []string{"dev/gw7/*"}, true)
	f.delegate(targets, "orders", []string{"orders/*"}, true)
	f.bins("orders", 2)
	f.target("releases-p1", "releases/p1/rollouts.json", `{"serial":1}`)
	f.target("releases-p1", "releases/p1/linux-arm64/141.json", `{"counter":141}`)
	f.target("releases-p2", "releases/p2/rollouts.json", `{"serial":2}`)
	f.target("dev-p1", "dev/gw7/linux-arm64.json", `{"counter":7}`)
	f.order("gw7", `{"gateway":"gw7","serial":1}`)
	f.publish()
	return f
}

// rekey gives a top-level role n new keys, and that threshold.
func (f *fleet) rekey(role string, n int) {
	f.keys[role] = nil
	f.root.Signed.Roles[role].KeyIDs = nil
	f.root.Signed.Roles[role].Threshold = n
	for range n {
		k := newKey(f.t)
		key, _ := keyOf(f.t, k)
		f.keys[role] = append(f.keys[role], k)
		require.NoError(f.t, f.root.Signed.AddKey(key, role))
	}
}

// delegate makes a role with a key of its own.
func (f *fleet) delegate(parent, role string, paths []string, terminating bool) {
	p := &f.roles[parent].Signed
	if p.Delegations == nil {
		p.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	if f.keys[role] == nil {
		f.keys[role] = []ed25519.PrivateKey{newKey(f.t)}
	}
	key, id := keyOf(f.t, f.keys[role][0])
	p.Delegations.Keys[id] = key
	p.Delegations.Roles = append(p.Delegations.Roles, metadata.DelegatedRole{Name: role, KeyIDs: []string{id}, Threshold: 1, Terminating: terminating, Paths: paths})
	if f.roles[role] == nil {
		f.roles[role] = metadata.Targets(t0.Add(90 * 24 * time.Hour))
	}
}

// bins spreads a role over 2^bits of them.
func (f *fleet) bins(role string, bits int) {
	k := newKey(f.t)
	key, id := keyOf(f.t, k)
	s := &metadata.SuccinctRoles{KeyIDs: []string{id}, Threshold: 1, BitLength: bits, NamePrefix: role}
	f.roles[role].Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{id: key}, SuccinctRoles: s}
	for _, bin := range s.GetRoles() {
		f.keys[bin] = []ed25519.PrivateKey{k}
		f.roles[bin] = metadata.Targets(t0.Add(90 * 24 * time.Hour))
	}
}

// target puts a file under a role.
func (f *fleet) target(role, name, content string) {
	info, err := metadata.TargetFile().FromBytes(name, []byte(content))
	require.NoError(f.t, err)
	f.roles[role].Signed.Targets[name] = info
	dir, base := path.Split(name)
	f.put(dir+hex.EncodeToString(info.Hashes["sha256"])+"."+base, []byte(content))
}

func (f *fleet) order(gateway, content string) {
	name := "orders/" + gateway + ".json"
	bin := f.roles["orders"].Signed.Delegations.GetRolesForTarget(name)[0].Name
	f.target(bin, name, content)
}

func sign[T metadata.Roles](f *fleet, m *metadata.Metadata[T], keys []ed25519.PrivateKey) []byte {
	m.ClearSignatures()
	for _, k := range keys {
		s, err := signature.LoadSigner(k, crypto.Hash(0))
		require.NoError(f.t, err)
		_, err = m.Sign(s)
		require.NoError(f.t, err)
	}
	raw, err := m.ToBytes(false)
	require.NoError(f.t, err)
	return raw
}

// signRoot writes the root, signed by its own keys and the extra ones (those of the root before).
func (f *fleet) signRoot(extra ...ed25519.PrivateKey) []byte {
	raw := sign(f, f.root, append(append([]ed25519.PrivateKey{}, f.keys[root]...), extra...))
	f.put(fmt.Sprintf("%d.root.json", f.root.Signed.Version), raw)
	return raw
}

// newRoot writes the next root after change.
func (f *fleet) newRoot(change func()) {
	old := f.keys[root]
	f.root.Signed.Version++
	change()
	if &old[0] == &f.keys[root][0] {
		old = nil
	}
	f.signRoot(old...)
}

// bump is the next version of a role of targets' kind, or snapshot or timestamp; publish signs it.
func (f *fleet) bump(roles ...string) {
	for _, role := range roles {
		switch role {
		case snapshot:
			f.snap.Signed.Version++
		case timestamp:
			f.stamp.Signed.Version++
		default:
			f.roles[role].Signed.Version++
		}
	}
}

// publish signs everything as it is now.
func (f *fleet) publish() {
	if f.root.Signed.Version == 1 {
		f.signRoot()
	}
	for role, m := range f.roles {
		f.put(fmt.Sprintf("%d.%s.json", m.Signed.Version, role), sign(f, m, f.keys[role]))
		f.snap.Signed.Meta[role+".json"] = metadata.MetaFile(m.Signed.Version)
	}
	f.publishSnapshot()
}

func (f *fleet) publishSnapshot() {
	raw := sign(f, f.snap, f.keys[snapshot])
	f.put(fmt.Sprintf("%d.snapshot.json", f.snap.Signed.Version), raw)
	sum := sha256.Sum256(raw)
	f.stamp.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: f.snap.Signed.Version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	f.publishTimestamp()
}

func (f *fleet) publishTimestamp() { f.put("timestamp.json", sign(f, f.stamp, f.keys[timestamp])) }

// next publishes new versions of the roles, and of snapshot and timestamp.
func (f *fleet) next(roles ...string) {
	f.bump(append(roles, snapshot, timestamp)...)
	f.publish()
}

func (f *fleet) put(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files[name] = data
}

func (f *fleet) get(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.files[name]
}

func (f *fleet) drop(names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		delete(f.files, name)
	}
}

// copyFiles is the folder as it is now, for a server that plays it again later.
func (f *fleet) copyFiles() map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := map[string][]byte{}
	for k, v := range f.files {
		c[k] = v
	}
	return c
}

func (f *fleet) replay(files map[string][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files = files
}

// dir writes the folder out.
func (f *fleet) dir() string {
	dir := f.t.TempDir()
	for name, data := range f.files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(f.t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(f.t, os.WriteFile(p, data, 0o644))
	}
	return dir
}

// server serves the folder as a plain file server does, and counts.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	peers    map[string]bool // connections
	bytes    int
	hook     func(w http.ResponseWriter, r *http.Request) bool // true: answered
}

func (f *fleet) serve() *server {
	s := &server{peers: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		s.mu.Lock()
		s.requests, s.peers[r.RemoteAddr] = append(s.requests, name), true
		hook := s.hook
		s.mu.Unlock()
		if hook != nil && hook(w, r) {
			return
		}
		data := f.get(name)
		if data == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(data)))
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(&counting{w, s}, r, "", time.Time{}, strings.NewReader(string(data)))
	}))
	f.t.Cleanup(s.Close)
	return s
}

type counting struct {
	http.ResponseWriter
	s *server
}

func (c *counting) Write(p []byte) (int, error) {
	c.s.mu.Lock()
	c.s.bytes += len(p)
	c.s.mu.Unlock()
	return c.ResponseWriter.Write(p)
}

func (s *server) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.bytes = nil, 0
}

func (s *server) seen() ([]string, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...), s.bytes
}

// floors keeps them in memory.
type floors struct {
	mu  sync.Mutex
	all map[string]boot.RoleFloor
	err error
	set int
}

func (f *floors) RoleFloors() map[string]boot.RoleFloor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

func (f *floors) SetRoleFloors(all map[string]boot.RoleFloor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set++
	if f.err != nil {
		return f.err
	}
	f.all = all
	return nil
}

// gateway is what a test opens again and again on the same disk.
type gateway struct {
	t       testing.TB
	o       Options
	now     time.Time
	synced  bool
	factory []byte
	fs      *crashfs.FS // the disk, unless o.FS is another
}

func (f *fleet) gateway(src Source) *gateway {
	g := &gateway{t: f.t, now: t0, synced: true, factory: f.get("1.root.json")}
	g.fs = crashfs.New(1)
	g.o = Options{FS: g.fs, Dir: "/state/ota/trust", Root: g.factory, Source: src, Floors: &floors{},
		Now: func() time.Time { return g.now }, Synced: func() bool { return g.synced }}
	return g
}

func (g *gateway) open() *Repository {
	r, err := Open(g.o)
	require.NoError(g.t, err)
	return r
}

// web is a source on a test server.
func (f *fleet) web(s *server) Source {
	src, err := HTTPS(s.URL, HTTPOptions{Plain: true, Wait: 5 * time.Second})
	require.NoError(f.t, err)
	return src
}

// code is an error's code.
func code(err error) string {
	var c interface{ Code() string }
	if asCode(err, &c) {
		return c.Code()
	}
	if err != nil {
		return "no code: " + err.Error()
	}
	return ""
}

// noSpace and errno are what a disk says.
const noSpace = syscall.ENOSPC

type errno string

func (e errno) Error() string { return string(e) }

func withVersion(f boot.RoleFloor, v int64) boot.RoleFloor { f.Version = v; return f }

func sortedStrings(s []string) []string { slices.Sort(s); return s }
