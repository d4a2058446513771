package writer

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
	"homeward/ota/trust"
)

// only is the ring with the keys of these roles.
func (f *fleet) only(roles ...string) *Ring {
	r := &Ring{}
	for _, k := range f.ring.Keys {
		if slices.Contains(roles, k.Role) {
			r.Keys = append(r.Keys, k)
		}
	}
	return r
}

func (f *fleet) step(c *Change, role string) *Step {
	i := slices.IndexFunc(c.Steps, func(s Step) bool { return s.Role == role })
	if i < 0 {
		return nil
	}
	return &c.Steps[i]
}

// TestLostKey: a new root takes the timestamp's key away though nobody has it any more; gateways of before follow.
func TestLostKey(t *testing.T) {
	disk := crashfs.New(1)
	f := newFleet(t, disk, "")
	f.publish(f.ring)
	first, err := durable.Read(disk, "/repository/1.root.json", maxMetadata)
	require.NoError(t, err)
	c := &client{crashfs.New(1), first}
	require.NoError(t, c.look(f.now, disk, nil, true))
	f.ring = f.without(Timestamp, Snapshot)
	f.plan.Timestamp, f.plan.Snapshot = newAuthority(t, f.ring, Timestamp, 1, 1), newAuthority(t, f.ring, Snapshot, 1, 1)
	change := f.publish(f.ring)
	require.True(t, change.Ready)
	require.True(t, change.rootFirst)
	require.Equal(t, "changed", f.step(change, Root).Reason)
	require.Equal(t, "keys", f.step(change, Snapshot).Reason)
	require.NoError(t, c.look(f.now, disk, []string{"orders/gw-1.json"}, true))
	require.True(t, f.publish(f.ring).Nothing)
}

// TestRenewal: who has a role's keys renews it when it is due, who has not leaves it alone, and what has ended is told and stops nobody
// else's.
func TestRenewal(t *testing.T) {
	disk := crashfs.New(1)
	f := newFleet(t, disk, "")
	f.publish(f.ring)
	automation := f.only(Snapshot, Timestamp)
	renewed := func(c *Change) (roles []string) {
		for _, s := range c.Steps {
			require.Equal(t, map[bool]string{true: "changed", false: "renewed"}[s.Role == Timestamp && len(c.Steps) > 1], s.Reason, s.Role)
			roles = append(roles, s.Role)
		}
		return roles
	}
	f.now = f.now.Add(12 * time.Hour)
	require.True(t, f.publish(automation).Nothing)
	f.now = f.now.Add(24 * time.Hour)
	require.Equal(t, []string{Timestamp}, renewed(f.publish(automation)))
	f.now = f.now.Add(7 * day)
	require.Equal(t, []string{Snapshot, Timestamp}, renewed(f.publish(automation)))
	for range 12 { // to day 92, with automation's keys alone
		f.now = f.now.Add(7 * day)
		f.publish(automation)
	}
	f.plan.Files = nil
	p, err := f.r.Load()
	require.NoError(t, err)
	for _, s := range p.Roles() {
		require.Equal(t, strings.HasPrefix(s.Role, "orders") || s.Role == "releases-p1", f.now.After(s.Expires), "%s %v", s.Role, s.Expires)
	}
	f.plan.Delegated[0].Files["releases/p1/rollouts.json"] = []byte("{\"n\":2}")
	c := f.publish(f.only(Snapshot, Timestamp, "releases-p1"))
	require.True(t, c.Publishes())
	require.Equal(t, "changed", f.step(c, "releases-p1").Reason)
	require.Len(t, c.Waits, 1)
	require.Contains(t, c.Waits[0], "orders: it ended on 2027-02-28")
	f.publish(f.ring)
	p, err = f.r.Load()
	require.NoError(t, err)
	for _, s := range p.Roles() {
		require.True(t, f.now.Before(s.Expires), s.Role)
	}
	// An owner's single key begins a renewal, and another one completes it.
	f.now = f.now.Add(470 * day)
	one, two := f.without(Root), f.without(Root)
	one.Keys, two.Keys = append(one.Keys, f.ring.Keys[0]), append(two.Keys, f.ring.Keys[1])
	require.Nil(t, f.step(f.publish(f.without(Root)), Root), "without a key it is not even staged")
	require.Equal(t, 1, f.step(f.publish(one), Root).Signed)
	f.now = f.now.Add(day)
	require.True(t, f.step(f.publish(two), Root).Complete)
}

// TestStaged: what waits is only signed on when it says what the plan says; what somebody else put there is made anew.
func TestStaged(t *testing.T) {
	f := newFleet(t, crashfs.New(1), "")
	f.publish(f.ring)
	f.plan.Delegated[1].Paths = []string{"dev/gw-3/*"}
	one := f.without(Targets)
	one.Keys = append(one.Keys, f.ring.Keys[3])
	staged := "/staged/targets.json"
	f.publish(one)
	read := func() *metadata.Metadata[metadata.TargetsType] {
		raw, err := durable.Read(f.r.FS, staged, maxMetadata)
		require.NoError(t, err)
		d, err := new(metadata.Metadata[metadata.TargetsType]).FromBytes(raw)
		require.NoError(t, err)
		return d
	}
	for name, spoil := range map[string]func(d *metadata.Metadata[metadata.TargetsType]){
		"another path": func(d *metadata.Metadata[metadata.TargetsType]) {
			d.Signed.Delegations.Roles[0].Paths = []string{"dev/*/*"}
		},
		"another version": func(d *metadata.Metadata[metadata.TargetsType]) { d.Signed.Version = 99 },
		"another end":     func(d *metadata.Metadata[metadata.TargetsType]) { d.Signed.Expires = f.now.Add(3000 * day) },
		"a further field": func(d *metadata.Metadata[metadata.TargetsType]) {
			d.Signed.UnrecognizedFields = map[string]any{"also": "this"}
		},
		"a wrong signature": func(d *metadata.Metadata[metadata.TargetsType]) { d.Signatures[0].Signature[3] ^= 1 },
		"a strange one": func(d *metadata.Metadata[metadata.TargetsType]) {
			d.Signatures = append(d.Signatures, metadata.Signature{KeyID: strings.Repeat("ab", 32), Signature: make([]byte, 64)})
		},
	} {
		d := read()
		spoil(d)
		raw, err := d.ToBytes(false)
		require.NoError(t, err)
		require.NoError(t, durable.Replace(f.r.FS, staged, raw, 0o644))
		s := f.step(f.publish(one), Targets)
		require.Equal(t, 1, s.Signed, name)
		d = read()
		require.Len(t, d.Signatures, 1, name)
		require.EqualValues(t, 2, d.Signed.Version, name)
		require.Nil(t, d.Signed.UnrecognizedFields["also"], name)
		require.True(t, d.Signed.Expires.Before(f.now.Add(366*day)), name)
		require.Equal(t, []string{"dev/gw-3/*"}, d.Signed.Delegations.Roles[1].Paths, name)
	}
	require.NoError(t, durable.Replace(f.r.FS, staged, []byte("{"), 0o644))
	require.Equal(t, 1, f.step(f.publish(one), Targets).Signed)
	require.True(t, f.step(f.publish(f.ring), Targets).Complete)
	_, err := f.r.FS.Stat(staged)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestHold: targets is not published before the roles that it names are signed as it wants: gateways would refuse them.
func TestHold(t *testing.T) {
	f := newFleet(t, crashfs.New(1), "")
	f.publish(f.ring)
	old := f.ring
	f.ring = f.without("releases-p1")
	fresh := &Ring{}
	f.plan.Delegated[0].Authority = newAuthority(t, fresh, "releases-p1", 1, 1)
	c := f.publish(f.ring)
	require.False(t, c.Ready)
	require.Contains(t, c.Waits, "everything: targets names releases-p1, which is not signed as it wants")
	require.True(t, f.step(c, Targets).Complete)
	f.ring.Keys = append(f.ring.Keys, fresh.Keys...)
	require.True(t, f.publish(f.without(Targets, Root)).Publishes(), "the owners' signatures have waited")
	f.ring = old
}

// TestRefused: what would not work is refused before anything is written.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(f *fleet)
		want  string
	}{
		"a threshold above the keys": {func(f *fleet) { f.plan.Targets.Threshold = 4 }, "targets wants 4 of 3 signatures"},
		"no threshold":               {func(f *fleet) { f.plan.Root.Threshold = 0 }, "root wants 0 of 3 signatures"},
		"a delegate without keys":    {func(f *fleet) { f.plan.Delegated[0].Keys = nil }, "releases-p1 wants 1 of 0 signatures"},
		"a file too large": {func(f *fleet) {
			f.plan.Delegated[0].Files["releases/p1/rollouts.json"] = make([]byte, maxTarget+1)
		}, "releases/p1/rollouts.json has 65537 bytes: a gateway takes at most 65536"},
		"a key under another's id": {func(f *fleet) {
			k := f.ring.Keys[0]
			k.seed = f.ring.Keys[1].seed
		}, "the key inside is not the one that its comments name"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, crashfs.New(1), "")
			c.spoil(f)
			_, err := f.r.Prepare(f.plan, f.ring)
			require.ErrorContains(t, err, c.want)
			_, err = f.r.FS.Stat(f.r.Dir)
			require.ErrorIs(t, err, os.ErrNotExist)
		})
	}
	// Outside of what targets lets it sign, a role's file waits.
	f := newFleet(t, crashfs.New(1), "")
	f.plan.Delegated[0].Files["releases/p2/rollouts.json"] = []byte("{}")
	c := f.publish(f.ring)
	require.Equal(t, []string{"releases-p1: targets does not let it sign releases/p2/rollouts.json yet"}, c.Waits)
	p, err := f.r.Load()
	require.NoError(t, err)
	require.NotContains(t, p.Files(), "releases/p2/rollouts.json")
}

// TestBins: the key of orders signs orders and nothing else: whatever a bin lists besides, no client finds.
func TestBins(t *testing.T) {
	disk := crashfs.New(1)
	f := newFleet(t, disk, "")
	f.publish(f.ring)
	p, err := f.r.Load()
	require.NoError(t, err)
	evil := []string{"releases/p1/linux-arm64/9.json", "dev/gw-1/linux-arm64.json", "moves/gw-1.json"}
	// A manager turned bad puts them into every bin, and automation signs the rest.
	key := f.only(Orders)
	for name, d := range p.roles {
		if !strings.HasPrefix(name, Orders+"-") {
			continue
		}
		for _, path := range evil {
			d.targets.Signed.Targets[path] = &metadata.TargetFiles{Length: 2, Hashes: metadata.Hashes{"sha256": make([]byte, 32)}}
		}
		payload, err := d.payload()
		require.NoError(t, err)
		s, err := key.Sign(key.Keys[0].Public.ID, payload)
		require.NoError(t, err)
		d.targets.Signatures[0].Signature = s
		raw, err := d.bytes()
		require.NoError(t, err)
		require.NoError(t, durable.Replace(disk, "/repository/"+d.file(), raw, 0o644))
	}
	first, err := durable.Read(disk, "/repository/1.root.json", maxMetadata)
	require.NoError(t, err)
	r, err := trust.Open(trust.Options{FS: crashfs.New(1), Dir: "/trust", Root: first, Source: folder{disk, "/repository"}, Now: func() time.Time { return f.now }})
	require.NoError(t, err)
	require.NoError(t, r.Refresh(context.Background()))
	_, err = r.Target(context.Background(), "orders/gw-1.json")
	require.NoError(t, err)
	for _, path := range evil {
		_, err := r.Target(context.Background(), path)
		require.ErrorIs(t, err, trust.ErrNoTarget, path)
	}
}

// TestPrune: what the published set has left behind goes after a while, and nothing else does.
func TestPrune(t *testing.T) {
	f := newFleet(t, durable.OS{}, t.TempDir())
	f.now = time.Now()
	f.publish(f.ring)
	first, err := os.ReadFile(filepath.Join(f.r.Dir, "1.root.json"))
	require.NoError(t, err)
	f.plan.Delegated[2].Files["orders/gw-3.json"] = []byte("{}")
	f.publish(f.ring)
	require.NoError(t, os.MkdirAll(filepath.Join(f.r.Dir, "blobs"), 0o755))
	for _, kept := range []string{"blobs/" + strings.Repeat("ab", 32), "index.html", "orders/readme"} {
		require.NoError(t, os.WriteFile(filepath.Join(f.r.Dir, kept), []byte("x"), 0o600))
	}
	p, err := f.r.Load()
	require.NoError(t, err)
	n, err := f.r.Prune(p)
	require.NoError(t, err)
	require.Zero(t, n, "all is new")
	f.now = f.now.Add(Old + day)
	n, err = f.r.Prune(p)
	require.NoError(t, err)
	require.Equal(t, 3, n, "snapshot 1, a bin, and an order")
	f.publish(f.ring)
	r, err := trust.Open(trust.Options{FS: crashfs.New(1), Dir: "/trust", Root: first, Source: folder{durable.OS{}, f.r.Dir}, Now: func() time.Time { return f.now }})
	require.NoError(t, err)
	require.NoError(t, r.Refresh(context.Background()), "from the first root")
}

// TestKeyFile: a key's file gives the key to who has the passphrase, and is refused where it lies.
func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	k, private, err := NewKey("targets", "four words are enough", 10)
	require.NoError(t, err)
	path := filepath.Join(dir, "a", "k.key")
	require.NoError(t, k.Write(durable.OS{}, path))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(text), "seed")
	got, err := ReadKey(durable.OS{}, path)
	require.NoError(t, err)
	require.True(t, got.Encrypted())
	_, err = got.Open("four words are not")
	require.ErrorIs(t, err, ErrPassphrase)
	opened, err := got.Open("four words are enough")
	require.NoError(t, err)
	require.True(t, private.Equal(opened))
	other, _, err := NewKey("targets", "", 0)
	require.NoError(t, err)
	for name, spoil := range map[string]string{
		"nothing":            "",
		"no key of ours":     "hello\n",
		"another id":         strings.Replace(string(text), k.Public.ID, other.Public.ID, 1),
		"another public key": strings.ReplaceAll(string(text), hexOf(k.Public.Key), hexOf(other.Public.Key)),
		"half":               string(text[:len(text)/3]),
		"a short seed":       string(other.bytes()[:len(other.bytes())-10]),
	} {
		require.NoError(t, os.WriteFile(path, []byte(spoil), 0o600))
		_, err := ReadKey(durable.OS{}, path)
		if err == nil { // then it does not open
			k, _ := ReadKey(durable.OS{}, path)
			_, err = k.Open("four words are enough")
		}
		require.Error(t, err, name)
	}
	ring := &Ring{Keys: []*KeyFile{got}, Passphrase: func(_ *KeyFile, try int) (string, error) {
		if try > 2 {
			return "", ErrNoKey
		}
		return "wrong", nil
	}}
	_, err = ring.Sign(got.Public.ID, nil)
	require.True(t, errors.Is(err, ErrNoKey))
}

func hexOf(k ed25519.PublicKey) string { return hex.EncodeToString(k) }

// TestPart: one step is published as it is, and neither what else is to be said nor what others have signed of it goes along or away.
func TestPart(t *testing.T) {
	disk := crashfs.New(1)
	f := newFleet(t, disk, "")
	f.publish(f.ring)
	f.plan.Delegated[1].Paths = []string{"dev/gw-1/*"} // waits for an owner
	f.plan.Delegated[2].Files["orders/gw-3.json"] = []byte("{}")
	f.publish(f.without(Root, Orders, Snapshot, Timestamp, Targets))
	_, err := disk.Stat("/staged/targets.json")
	require.NoError(t, err)
	published, err := f.r.Load()
	require.NoError(t, err)
	plan, err := f.r.Plan(published)
	require.NoError(t, err)
	plan.Part = true
	c, err := f.r.Prepare(plan, f.ring)
	require.NoError(t, err)
	require.True(t, c.Nothing, "what is published, as a plan, is what is published: %v", c.Steps)

	plan.Delegated[0].Files["releases/p1/rollouts.json"] = []byte(`{"halt":1}`)
	c, err = f.r.Prepare(plan, f.without("releases-p1"))
	require.NoError(t, err)
	require.False(t, c.Goes("releases-p1"))
	require.NoError(t, c.Commit())
	_, err = disk.Stat("/staged/releases-p1.json")
	require.Error(t, err, "a part is not staged")
	c, err = f.r.Prepare(plan, f.ring)
	require.NoError(t, err)
	require.True(t, c.Goes("releases-p1") && c.Goes(Timestamp) && !c.Goes(Targets) && f.step(c, Orders+"-0") == nil)
	require.NoError(t, c.Commit())
	_, err = disk.Stat("/staged/targets.json")
	require.NoError(t, err)
	published, err = f.r.Load()
	require.NoError(t, err)
	raw, err := f.r.File(published, "releases/p1/rollouts.json")
	require.NoError(t, err)
	require.Equal(t, `{"halt":1}`, string(raw))
	raw, err = f.r.File(published, "orders/gw-3.json")
	require.NoError(t, err)
	require.Equal(t, `{"serial":3}`, string(raw))
}

// TestRootOfBefore: a new root says what the keys of the old one still have to sign, too.
func TestRootOfBefore(t *testing.T) {
	f := newFleet(t, crashfs.New(1), "")
	f.publish(f.ring)
	old := f.plan.Root
	ring := &Ring{}
	f.plan.Root = newAuthority(t, ring, Root, 1, 1)
	s := f.step(f.publish(ring), Root)
	require.Equal(t, 1, s.Added)
	require.False(t, s.Complete)
	require.Len(t, s.Lacks, 1)
	require.True(t, s.Lacks[0].Before)
	require.Equal(t, []string{old.Keys[0].ID, old.Keys[1].ID, old.Keys[2].ID}, s.Lacks[0].Missing)
	s = f.step(f.publish(&Ring{}), Root)
	require.Zero(t, s.Added, "it was staged before")
}
