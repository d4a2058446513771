// Package fleet is the fleet manager's folder: what the fleet is to be told, before it is signed.
//
//	fleet.yaml         settings, written by hand
//	roles.json         which keys each role is to have
//	source/            the target files as they are to be, under their paths in the repository
//	enrolled/          what gateways handed in
//	staged/            roles that wait for signatures
//	repository/        what has been signed: this alone is served
//	keys/              key files, until they are where they belong
//
// Every change is a change of source/ or roles.json; ota/trust/writer compares them with the repository, signs and publishes.
// What source/ says is nothing before it is signed: it may lie in a version control system and be looked at by others.
// One manager at a time: [Open] holds a lock on the folder until [Folder.Close].
package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"homeward/buffer/durable"
	"homeward/ota/release"
	"homeward/ota/trust/writer"
)

// MaxProducts bounds the products of a fleet: each has two roles, which targets names to every gateway.
const MaxProducts = 64

// Names in the folder.
const (
	settingsName = "fleet.yaml"
	rolesName    = "roles.json"
	sourceName   = "source"
	enrolledName = "enrolled"
	stagedName   = "staged"
	repoName     = "repository"
	keysName     = "keys"
	lockName     = ".lock"
)

const (
	maxRoles = 1 << 20
	maxBits  = 12
)

// Key is the public half of a key, and who holds it.
type Key struct {
	ID     string `json:"id"`
	Public string `json:"public"` // 64 hex digits
	Holder string `json:"holder,omitempty"`
}

// RoleKeys are whose signatures a role is to want.
type RoleKeys struct {
	Threshold int   `json:"threshold"`
	Keys      []Key `json:"keys"`
}

// Roles is roles.json.
type Roles struct {
	Schema int                  `json:"schema"`
	Bits   int                  `json:"order_bits"` // orders lie in 2^bits files
	Roles  map[string]*RoleKeys `json:"roles"`
}

// Folder is an open fleet folder.
type Folder struct {
	Dir      string
	FS       durable.FS
	Settings Settings
	Roles    Roles
	Repo     *writer.Repository
	Now      func() time.Time

	lock *os.File
}

// Paths of the folder.
func (f *Folder) path(parts ...string) string {
	return filepath.Join(append([]string{f.Dir}, parts...)...)
}

// RepositoryDir is what a web server serves.
func (f *Folder) RepositoryDir() string { return f.path(repoName) }

// KeysDir is where key files are written first.
func (f *Folder) KeysDir() string { return f.path(keysName) }

// ErrLocked is a folder that somebody else works on, for longer than patience.
var ErrLocked = errors.New("another homeward-fleet has been working on this folder for a while: try again when it is done")

// patience is how long a command waits for another one on the same folder: a publication is a matter of seconds.
const patience = 30 * time.Second

func newFolder(dir string, now func() time.Time) *Folder {
	if now == nil {
		now = time.Now
	}
	f := &Folder{Dir: dir, FS: durable.OS{}, Now: now}
	f.Repo = &writer.Repository{FS: f.FS, Dir: f.path(repoName), Staged: f.path(stagedName), Now: now}
	return f
}

// hold takes the folder's lock.
func (f *Folder) hold() error {
	l, err := os.OpenFile(f.path(lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if errors.Is(err, syscall.EWOULDBLOCK) && time.Now().Before(end) {
			continue
		}
		_ = l.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%s: %w", f.Dir, ErrLocked)
		}
		return fmt.Errorf("%s: lock: %w", f.Dir, err)
	}
	f.lock = l
	return nil
}

// Close gives the lock back.
func (f *Folder) Close() error {
	if f.lock == nil {
		return nil
	}
	return f.lock.Close()
}

// Init makes a folder. It refuses one that is there.
func Init(dir string, s Settings, r Roles, now func() time.Time) (*Folder, error) {
	if _, err := os.Stat(filepath.Join(dir, rolesName)); err == nil {
		return nil, fmt.Errorf("%s: a fleet's folder is here already: choose another with --fleet", dir)
	}
	for _, name := range []string{repoName, keysName} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return nil, fmt.Errorf("%s: %s/ is here, but no %s: what an init that was cut short has left; remove it first", dir, name, rolesName)
		}
	}
	f := newFolder(dir, now)
	f.Settings, f.Roles = s, r
	if err := writer.MakeFolder(f.FS, dir); err != nil {
		return nil, err
	}
	return f, f.hold()
}

// Write writes what Init has been given; the roles last, which make it a fleet's folder.
func (f *Folder) Write() error {
	if err := durable.Replace(f.FS, f.path(settingsName), f.Settings.text(), 0o644); err != nil {
		return err
	}
	if err := durable.Replace(f.FS, f.path(".gitignore"), []byte("/keys/\n/.lock\n"), 0o644); err != nil {
		return err
	}
	return f.SaveRoles()
}

// Open opens a folder and takes its lock, unless it is only looked at.
func Open(dir string, look bool, now func() time.Time) (*Folder, error) {
	f := newFolder(dir, now)
	if _, err := f.FS.Stat(f.path(rolesName)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no fleet's folder (it has no %s): name it with --fleet, or make one with homeward-fleet init", dir, rolesName)
	}
	if !look {
		if err := f.hold(); err != nil {
			return nil, err
		}
	}
	if err := f.read(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Folder) read() error {
	raw, err := durable.Read(f.FS, f.path(rolesName), maxRoles)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &f.Roles); err != nil || f.Roles.Schema != 1 || f.Roles.Bits < 1 || f.Roles.Bits > maxBits {
		return fmt.Errorf("%s: not readable as schema 1 (%v): restore it from a copy", f.path(rolesName), err)
	}
	f.Settings, err = readSettings(f.FS, f.path(settingsName))
	return err
}

// SaveRoles writes roles.json.
func (f *Folder) SaveRoles() error {
	raw, err := json.MarshalIndent(f.Roles, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(f.FS, f.path(rolesName), append(raw, '\n'), 0o644)
}

// Products are the fleet's products.
func (f *Folder) Products() []string {
	var all []string
	for name := range f.Roles.Roles {
		if p, ok := strings.CutPrefix(name, "releases-"); ok {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return all
}

// Product says whether it is one, or which there are.
func (f *Folder) Product(name string) error {
	all := f.Products()
	if slices.Contains(all, name) {
		return nil
	}
	if len(all) == 0 {
		return fmt.Errorf("no product %q, nor any other: add it with homeward-fleet product add %s", name, name)
	}
	return fmt.Errorf("no product %q: there are %s; add it with homeward-fleet product add", name, strings.Join(all, ", "))
}

// Holder is who has a key, as far as roles.json knows: "3f2a81bc (owner-1)".
func (f *Folder) Holder(id string) string {
	for _, r := range f.Roles.Roles {
		for _, k := range r.Keys {
			if k.ID == id && k.Holder != "" {
				return writer.Short(id) + " (" + k.Holder + ")"
			}
		}
	}
	return writer.Short(id)
}

func (r *RoleKeys) authority() (writer.Authority, error) {
	a := writer.Authority{Threshold: r.Threshold}
	for _, k := range r.Keys {
		p, err := k.public()
		if err != nil {
			return a, err
		}
		a.Keys = append(a.Keys, p)
	}
	return a, nil
}

// Plan is what the repository is to say.
func (f *Folder) Plan() (writer.Plan, error) {
	var plan writer.Plan
	var err error
	authority := func(name string) writer.Authority {
		r := f.Roles.Roles[name]
		if r == nil {
			err = errors.Join(err, fmt.Errorf("%s: no role %s: restore it from a copy", f.path(rolesName), name))
			return writer.Authority{}
		}
		a, e := r.authority()
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s: role %s: %w", f.path(rolesName), name, e))
		}
		return a
	}
	plan.Root, plan.Targets = authority(writer.Root), authority(writer.Targets)
	plan.Snapshot, plan.Timestamp = authority(writer.Snapshot), authority(writer.Timestamp)
	orders, err2 := f.files("orders")
	dev, err3 := f.files("dev")
	if err := errors.Join(err, err2, err3); err != nil {
		return plan, err
	}
	plan.Delegated = []writer.Role{{Name: writer.Orders, Authority: authority(writer.Orders), Paths: []string{"orders/*"}, Bits: f.Roles.Bits, Files: orders}}
	for _, p := range f.Products() {
		files, err := f.listed(p)
		if err != nil {
			return plan, err
		}
		plan.Delegated = append(plan.Delegated, writer.Role{
			Name: "releases-" + p, Authority: authority("releases-" + p), Files: files,
			Paths: []string{"releases/" + p + "/*", "releases/" + p + "/*/*"},
		})
		pinned := writer.Role{Name: "dev-" + p, Authority: authority("dev-" + p), Files: map[string][]byte{}}
		for _, path := range slices.Sorted(maps.Keys(dev)) {
			m, err := release.ParseManifest(dev[path])
			if err != nil {
				return plan, fmt.Errorf("%s: %w", f.path(sourceName, path), err)
			}
			if m.Product != p {
				continue
			}
			pinned.Files[path] = dev[path]
			pattern := path[:strings.LastIndexByte(path, '/')+1] + "*"
			if !slices.Contains(pinned.Paths, pattern) {
				pinned.Paths = append(pinned.Paths, pattern)
			}
		}
		plan.Delegated = append(plan.Delegated, pinned)
	}
	return plan, err
}

// listed are a product's rollouts and the manifests of the releases that they list: others are what was cut short.
func (f *Folder) listed(product string) (map[string][]byte, error) {
	files, err := f.files("releases/" + product)
	if err != nil {
		return nil, err
	}
	r, err := f.Rollouts(product)
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{release.RolloutsPath(product): true}
	for _, l := range r.Releases {
		for _, p := range l.Platforms {
			path := release.ManifestPath(product, p, l.Counter)
			if l.State == release.Removed {
				continue
			}
			if files[path] == nil {
				return nil, fmt.Errorf("%s is missing, and release %d is listed: restore it from a copy", f.path(sourceName, path), l.Counter)
			}
			keep[path] = true
		}
	}
	maps.DeleteFunc(files, func(path string, _ []byte) bool { return !keep[path] })
	return files, nil
}

// files are the source files below a folder of the repository, by path.
func (f *Folder) files(below string) (map[string][]byte, error) {
	all := map[string][]byte{}
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		entries, err := f.FS.ReadDir(f.path(sourceName, dir))
		if errors.Is(err, fs.ErrNotExist) && depth == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := dir + "/" + e.Name()
			if e.IsDir() && depth < 2 {
				if err := walk(path, depth+1); err != nil {
					return err
				}
			} else if strings.HasSuffix(e.Name(), ".json") {
				if all[path], err = durable.Read(f.FS, f.path(sourceName, path), release.MaxFile); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return all, walk(below, 0)
}

// save writes a source file.
func (f *Folder) save(path string, content []byte) error {
	name := f.path(sourceName, path)
	if err := writer.MakeFolder(f.FS, filepath.Dir(name)); err != nil {
		return err
	}
	return durable.Replace(f.FS, name, content, 0o644)
}

// drop removes a source file, and its folder if that is empty then.
func (f *Folder) drop(path string) error {
	name := f.path(sourceName, path)
	if err := f.FS.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = f.FS.Remove(filepath.Dir(name)) // if empty
	return nil
}

// Rollouts is what the product's rollouts are to say; those of a new product are empty, with serial 0.
func (f *Folder) Rollouts(product string) (*release.Rollouts, error) {
	if err := f.Product(product); err != nil {
		return nil, err
	}
	raw, err := durable.Read(f.FS, f.path(sourceName, release.RolloutsPath(product)), release.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &release.Rollouts{Schema: 1, Product: product}, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := release.ParseRollouts(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path(sourceName, release.RolloutsPath(product)), err)
	}
	return r, nil
}

// keptRollouts are the rollouts that are over which the file still shows: every gateway fetches it at each step.
const keptRollouts = 8

// SaveRollouts gives the rollouts the next serial and writes them, without what is long over: rollouts that have ended, and releases that
// are removed, once nothing of them is published.
func (f *Folder) SaveRollouts(r *release.Rollouts) error {
	raw, err := f.NextRollouts(r)
	if err != nil {
		return err
	}
	return f.KeepRollouts(r.Product, raw)
}

// KeepRollouts writes what [Folder.NextRollouts] gave.
func (f *Folder) KeepRollouts(product string, raw []byte) error {
	return f.save(release.RolloutsPath(product), raw)
}

// NextRollouts is what [Folder.SaveRollouts] writes.
func (f *Folder) NextRollouts(r *release.Rollouts) ([]byte, error) {
	r.Serial++
	over := 0
	for i := len(r.Rollouts) - 1; i >= 0; i-- {
		if s := r.Rollouts[i].State; s == release.Done || s == release.HaltedRoll {
			if over++; over > keptRollouts {
				r.Rollouts = slices.Delete(r.Rollouts, i, i+1)
			}
		}
	}
	if slices.ContainsFunc(r.Releases, func(l release.Listed) bool { return l.State == release.Removed }) {
		p, err := f.Repo.Load()
		if err != nil {
			return nil, err
		}
		published := map[string]bool{}
		for _, path := range p.Files() {
			published[path] = true
		}
		last := r.Releases[len(r.Releases)-1].Counter // keeps the number
		r.Releases = slices.DeleteFunc(r.Releases, func(l release.Listed) bool {
			return l.State == release.Removed && l.Counter != last &&
				!slices.ContainsFunc(l.Platforms, func(p string) bool { return published[release.ManifestPath(r.Product, p, l.Counter)] })
		})
	}
	return r.Encode()
}

// PublishedRollouts are a product's rollouts as gateways see them; nil where there are none.
func (f *Folder) PublishedRollouts(p *writer.Published, product string) (*release.Rollouts, error) {
	raw, err := f.Repo.File(p, release.RolloutsPath(product))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return release.ParseRollouts(raw)
}

// Unpublished says whether a product's rollouts are to say something else than what gateways see.
func (f *Folder) Unpublished(p *writer.Published, product string) (bool, error) {
	r, err := f.Rollouts(product)
	if err != nil {
		return false, err
	}
	was, err := f.PublishedRollouts(p, product)
	if err != nil || was == nil {
		return was == nil && (len(r.Releases) > 0 || len(r.Rollouts) > 0), err
	}
	return r.Serial != was.Serial, nil
}

// OwnStep says whether what a product's rollouts are to say goes on from what is published by nothing but steps of its rollouts, and
// by releases that nobody is offered yet.
func OwnStep(published, source *release.Rollouts) (bool, error) {
	if published == nil {
		return false, nil
	}
	was := map[uint64]string{}
	for _, l := range published.Releases {
		was[l.Counter] = l.State
	}
	plain := func(r *release.Rollouts) ([]byte, error) { // without what steps change
		p := release.Rollouts{Schema: r.Schema, Product: r.Product}
		for _, l := range r.Releases {
			before, ok := was[l.Counter]
			if !ok && l.State == release.Added {
				continue
			}
			if before == release.Rolling && (l.State == release.Released || l.State == release.Halted) {
				l.State = release.Rolling
			}
			p.Releases = append(p.Releases, l)
		}
		for _, o := range r.Rollouts {
			o.State, o.Again, o.Groups = "", nil, slices.Clone(o.Groups)
			for i := range o.Groups {
				o.Groups[i].State, o.Groups[i].First, o.Groups[i].OpenTo = "", "", 0
			}
			p.Rollouts = append(p.Rollouts, o)
		}
		return json.Marshal(p)
	}
	x, err := plain(published)
	if err != nil {
		return false, err
	}
	y, err := plain(source)
	return string(x) == string(y), err
}

// ListedFiles are a product's rollouts and the manifests that they list, as they are to be.
func (f *Folder) ListedFiles(product string) (map[string][]byte, error) { return f.listed(product) }

// Manifest reads a product's release as it is to be, an error that is [fs.ErrNotExist] if there is none for the platform.
func (f *Folder) Manifest(product, platform string, counter uint64) (*release.Manifest, error) {
	return f.manifest(release.ManifestPath(product, platform, counter))
}

func (f *Folder) manifest(path string) (*release.Manifest, error) {
	raw, err := durable.Read(f.FS, f.path(sourceName, path), release.MaxFile)
	if err != nil {
		return nil, err
	}
	m, err := release.ParseManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// SaveManifest writes a manifest under its path.
func (f *Folder) SaveManifest(m *release.Manifest) error {
	raw, err := m.Encode()
	if err != nil {
		return err
	}
	return f.save(release.ManifestPath(m.Product, m.Platform, m.Counter), raw)
}

// Tidy takes away the manifests that the rollouts do not list any more.
func (f *Folder) Tidy(product string) error {
	all, err := f.files("releases/" + product)
	if err != nil {
		return err
	}
	keep, err := f.listed(product)
	if err != nil {
		return err
	}
	for path := range all {
		if keep[path] == nil {
			if err := f.drop(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Order is what is to be ordered of a gateway; nil if nothing is.
func (f *Folder) Order(gateway string) (*release.Order, error) {
	raw, err := durable.Read(f.FS, f.path(sourceName, release.OrderPath(gateway)), release.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o, err := release.ParseOrder(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", release.OrderPath(gateway), err)
	}
	return o, nil
}

// SaveOrder gives the order the next serial and writes it.
func (f *Folder) SaveOrder(o *release.Order) error {
	o.Serial++
	raw, err := o.Encode()
	if err != nil {
		return err
	}
	return f.save(release.OrderPath(o.Gateway), raw)
}

// Gateway is one that was taken on.
type Gateway struct {
	release.Enrolment
	Product string `json:"product"`
	Since   int64  `json:"since"` // Unix seconds
}

// Enroll keeps what the gateway handed in. One that is enrolled already is only taken again with the same keys.
func (f *Folder) Enroll(g Gateway) error {
	if err := f.Enrollable(g); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return err
	}
	if err := writer.MakeFolder(f.FS, f.path(enrolledName)); err != nil {
		return err
	}
	return durable.Replace(f.FS, f.path(enrolledName, g.Gateway+".json"), append(raw, '\n'), 0o644)
}

// Enrollable says why the gateway would not be taken on.
func (f *Folder) Enrollable(g Gateway) error {
	old, err := f.Enrolled(g.Gateway)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && (old.Ed25519 != g.Ed25519 || old.AgeRecipient != g.AgeRecipient) {
		return fmt.Errorf("gateway %s is enrolled with other keys: if its card was replaced, remove %s first", g.Gateway, f.path(enrolledName, g.Gateway+".json"))
	}
	return nil
}

// Enrolled is a gateway that was taken on; an error that is [fs.ErrNotExist] if it was not.
func (f *Folder) Enrolled(gateway string) (*Gateway, error) {
	if !release.IsGateway(gateway) {
		return nil, fmt.Errorf("gateway %q: want 1 to 64 of a-z 0-9 . _ -", gateway)
	}
	raw, err := durable.Read(f.FS, f.path(enrolledName, gateway+".json"), release.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("gateway %s is not enrolled: homeward-fleet enroll takes its enrolment file: %w", gateway, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	g := new(Gateway)
	if err := json.Unmarshal(raw, g); err != nil {
		return nil, fmt.Errorf("%s: %w", f.path(enrolledName, gateway+".json"), err)
	}
	return g, nil
}

// Gateways are all that are enrolled; of a product, or "" for all.
func (f *Folder) Gateways(product string) ([]string, error) {
	entries, err := f.FS.ReadDir(f.path(enrolledName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		g, err := f.Enrolled(id)
		if err != nil {
			return nil, err
		}
		if product == "" || g.Product == product {
			all = append(all, id)
		}
	}
	return all, nil
}

// Pin gives a gateway the manifest of a release of its own; Unpin takes it away.
func (f *Folder) Pin(gateway string, m *release.Manifest) error {
	raw, err := m.Encode()
	if err != nil {
		return err
	}
	return f.save(release.DevPath(gateway, m.Platform), raw)
}

// Unpin takes a pinned gateway's own manifests away.
func (f *Folder) Unpin(gateway string) error {
	files, err := f.files("dev/" + gateway)
	for path := range files {
		err = errors.Join(err, f.drop(path))
	}
	return err
}

// Pinned are a pinned gateway's own manifests.
func (f *Folder) Pinned(gateway string) ([]*release.Manifest, error) {
	files, err := f.files("dev/" + gateway)
	if err != nil {
		return nil, err
	}
	var all []*release.Manifest
	for path := range files {
		m, err := f.manifest(path)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// Forward refuses a source that is older than what is published, as after restoring it from a copy: the same serial or counter
// must never say two things.
func (f *Folder) Forward(p *writer.Published) error {
	if p == nil {
		return nil
	}
	for _, path := range p.Files() {
		old, err := f.Repo.File(p, path)
		if err != nil {
			return err
		}
		now, err := durable.Read(f.FS, f.path(sourceName, path), release.MaxFile)
		gone := errors.Is(err, fs.ErrNotExist)
		if err != nil && !gone {
			return err
		}
		if err := f.forward(path, old, now, gone); err != nil {
			return fmt.Errorf("%s is older than what is published: %w; take the source that was published last", f.path(sourceName), err)
		}
	}
	return nil
}

func (f *Folder) forward(path string, old, now []byte, gone bool) error {
	serial := func(raw []byte) (uint64, error) {
		if strings.HasPrefix(path, "orders/") {
			o, err := release.ParseOrder(raw)
			if err != nil {
				return 0, err
			}
			return o.Serial, nil
		}
		r, err := release.ParseRollouts(raw)
		if err != nil {
			return 0, err
		}
		return r.Serial, nil
	}
	switch {
	case strings.HasPrefix(path, "dev/"):
	case strings.HasPrefix(path, "orders/"), strings.HasSuffix(path, "/rollouts.json"):
		if gone {
			return fmt.Errorf("%s is missing", path)
		}
		was, err := serial(old)
		if err != nil {
			return err
		}
		is, err := serial(now)
		if err != nil {
			return err
		}
		if is < was || is == was && string(old) != string(now) {
			return fmt.Errorf("%s has serial %d, the published one %d", path, is, was)
		}
	case strings.HasPrefix(path, "releases/"):
		m, err := release.ParseManifest(old)
		if err != nil {
			return err
		}
		r, err := f.Rollouts(m.Product)
		if err != nil {
			return err
		}
		l := r.Listed(m.Counter)
		if l == nil {
			return fmt.Errorf("%s is published, and release %d is not listed", path, m.Counter)
		}
		if gone && l.State != release.Removed {
			return fmt.Errorf("%s is missing", path)
		}
		if !gone && string(old) != string(now) {
			return fmt.Errorf("%s says something else than what is published, and a counter is used once", path)
		}
	}
	return nil
}
