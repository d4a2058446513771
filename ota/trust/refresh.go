package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"homeward/buffer/durable"
	"homeward/ota/boot"
)

// The top-level roles.
const (
	root      = metadata.ROOT
	timestamp = metadata.TIMESTAMP
	snapshot  = metadata.SNAPSHOT
	targets   = metadata.TARGETS
)

// Bounds of what is read. go-tuf takes some ten times as much memory while it parses.
const (
	maxRoot      = 64 << 10
	maxTimestamp = 16 << 10
	maxSnapshot  = 512 << 10
	maxRole      = 512 << 10
	maxTarget    = 64 << 10
	maxRotations = 256 // roots in one refresh
	maxVisits    = 32  // roles in one look-up
	maxRoles     = 64  // delegated roles in the cache
)

func maxOf(role string) int64 {
	switch role {
	case root:
		return maxRoot
	case timestamp:
		return maxTimestamp
	case snapshot:
		return maxSnapshot
	}
	return maxRole
}

// Repository is one gateway's view of a fleet repository. Its methods may be called at the same time; they take turns.
type Repository struct {
	o         Options
	cache     cache
	threshold map[string]int // the least that root and targets may have

	mu    sync.Mutex      // one Refresh or Target at a time; protects what follows
	gen   generation      // what is committed
	etag  string          // of the committed timestamp, where the source gave one
	view  *view           // what is committed, verified; nil: it cannot be used
	why   error           // why it cannot
	files map[string]bool // target files that were asked for since start

	stateMu sync.Mutex // protects what follows
	state   State
}

// view is a verified set of metadata.
type view struct {
	*trustedmetadata.TrustedMetadata
	files   map[string][]byte // by role, as they were signed
	parents map[string]string // of the delegated roles that were verified: who delegates to them
	least   time.Time         // it is not earlier than this: the trusted timestamp was signed then
}

// at sets the time by which expiry is judged.
func (v *view) at(now time.Time) {
	if now.Before(v.least) {
		now = v.least
	}
	v.RefTime = now
}

// Open reads the cache. It needs no network: what is cached and still good can be asked for at once, the rest after a [Repository.Refresh].
// An error means that the factory's root is unusable or that the folder cannot be made.
func Open(o Options) (*Repository, error) {
	if o.FS == nil {
		o.FS = durable.OS{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Synced == nil {
		o.Synced = func() bool { return false }
	}
	if o.Floors == nil {
		o.Floors = noFloors{}
	}
	if o.Targets == nil {
		o.Targets = o.Source
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Repository{o: o, cache: cache{fs: o.FS, dir: o.Dir}}
	factory, err := parseRoot(o.Root)
	if err != nil {
		return nil, fail(CodeRoot, err, "the factory's root.json cannot be used; the one that homeward-fleet init wrote is wanted")
	}
	// Two signatures, unless the owner began with one.
	r.threshold = map[string]int{root: 1, targets: 1}
	if !o.PlainTUF {
		for role := range r.threshold {
			r.threshold[role] = min(2, factory.Signed.Roles[role].Threshold)
		}
	}
	if err := r.policy(factory.Signed); err != nil {
		return nil, err
	}
	if err := makeDir(o.FS, o.Dir); err != nil {
		return nil, fail(CodeStore, err, "make %s", o.Dir)
	}
	gens, err := r.cache.load()
	if err != nil {
		o.Log.Warn("the trust cache cannot be read; it is made anew", "dir", o.Dir, "error", err)
	}
	r.gen = r.choose(gens, factory)
	r.view, r.why = r.offline()
	r.publish(time.Time{})
	return r, nil
}

// choose takes the newest generation, and the newest root of all: never the factory's where a newer one was kept.
func (r *Repository) choose(gens []generation, factory *metadata.Metadata[metadata.RootType]) generation {
	best, raw := factory.Signed.Version, r.o.Root
	for _, g := range gens {
		m, err := parseRoot(g.files[root])
		if err == nil && m.Signed.Version > best && r.policy(m.Signed) == nil {
			best, raw = m.Signed.Version, g.files[root]
		}
	}
	g := generation{files: map[string][]byte{}}
	if len(gens) > 0 {
		g = gens[0]
	}
	g.files = maps.Clone(g.files)
	g.torn = g.torn || !bytes.Equal(g.files[root], raw)
	g.files[root] = raw
	return g
}

// parseRoot checks that it is a root signed by its own keys.
func parseRoot(raw []byte) (m *metadata.Metadata[metadata.RootType], err error) {
	if len(raw) > maxRoot {
		return nil, fmt.Errorf("%d bytes; at most %d", len(raw), maxRoot)
	}
	err = guard(func() error {
		t, err := trustedmetadata.New(raw)
		if err != nil {
			return err
		}
		m = t.Root
		for _, role := range []string{root, timestamp, snapshot, targets} {
			if m.Signed.Roles[role] == nil {
				return fmt.Errorf("no role %s", role)
			}
		}
		return nil
	})
	return m, err
}

// policy is what a root has to keep beyond TUF.
func (r *Repository) policy(m metadata.RootType) error {
	for _, role := range []string{root, targets} {
		if got, want := m.Roles[role].Threshold, r.threshold[role]; got < want {
			return fail(CodeRoot, nil, "root %d has threshold %d for %s; at least %d is wanted", m.Version, got, role, want)
		}
	}
	return nil
}

// guard turns a panic of the library over hostile input into an error.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &metadata.ErrRepository{Msg: fmt.Sprintf("malformed: %v", p)}
		}
	}()
	return f()
}

// now is the time by which expiry is judged, before the timestamp has been looked at.
func (r *Repository) now() time.Time {
	now := r.o.Now()
	if now.Before(r.o.Built) {
		now = r.o.Built
	}
	return now.UTC()
}

// begin is a view of nothing but the root.
func (r *Repository) begin() (*view, error) {
	var t *trustedmetadata.TrustedMetadata
	err := guard(func() (err error) {
		t, err = trustedmetadata.New(r.gen.files[root])
		return err
	})
	if err != nil {
		return nil, fail(CodeRoot, err, "the stored root")
	}
	t.RefTime = r.now()
	return &view{TrustedMetadata: t, files: map[string][]byte{root: r.gen.files[root]}, parents: map[string]string{}}, nil
}

// offline is the committed set, if it is whole and still good.
func (r *Repository) offline() (*view, error) {
	v, err := r.begin()
	if err != nil {
		return nil, err
	}
	if r.gen.files[timestamp] == nil {
		return nil, fail(CodeMissing, nil, "nothing is cached yet: refresh first")
	}
	if err := r.addTimestamp(v, r.gen.files[timestamp]); err != nil {
		return nil, err
	}
	if err := r.addSnapshot(v, r.gen.files[snapshot], true); err != nil {
		return nil, err
	}
	if err := r.addRole(v, targets, root, r.gen.files[targets]); err != nil {
		return nil, err
	}
	if err := r.above(v); err != nil {
		return nil, err
	}
	return v, nil
}

// Refresh brings the metadata up to date: two requests if nothing is new. What it verified is durable when it returns. After an
// error the last set stays in force; a newer root is kept all the same.
func (r *Repository) Refresh(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := map[string]answer{}
	if r.view != nil {
		if nothing, err := r.nothingNew(ctx, asked); nothing || err != nil {
			return err
		}
	}
	v, err := r.begin()
	if err != nil {
		return err
	}
	etag := ""
	steps := []func() error{
		func() error { return r.stepRoot(ctx, v, asked) },
		func() (err error) { etag, err = r.stepTimestamp(ctx, v, asked); return err },
		func() error { return r.stepSnapshot(ctx, v) },
		func() error { return r.load(ctx, v, targets, root) },
		func() error { return r.above(v) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return errors.Join(err, r.salvage(v))
		}
	}
	if err := r.accept(v); err != nil {
		return err
	}
	r.etag = etag
	r.publish(r.o.Now())
	return nil
}

// answer is what the source said of a file in this refresh.
type answer struct {
	raw  []byte
	etag string
	err  error
}

// ask is get, once for each file in a refresh.
func (r *Repository) ask(ctx context.Context, asked map[string]answer, q Request) ([]byte, string, error) {
	a, ok := asked[q.Name]
	if !ok {
		a.raw, a.etag, a.err = r.get(ctx, r.o.Source, q)
		asked[q.Name] = a
	}
	return a.raw, a.etag, a.err
}

// nothingNew asks whether there is anything new, and is a whole refresh if not: what was verified is not verified again, which
// would take a small board seconds.
func (r *Repository) nothingNew(ctx context.Context, asked map[string]answer) (bool, error) {
	v := r.view
	_, _, err := r.ask(ctx, asked, nextRoot(v))
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	raw, etag, err := r.ask(ctx, asked, Request{Name: "timestamp.json", Max: maxTimestamp, IfNoneMatch: r.etag})
	switch {
	case errors.Is(err, ErrNotModified) && r.etag != "":
		etag = r.etag
	case err != nil:
		return false, missing(err, "timestamp.json")
	case !bytes.Equal(raw, v.files[timestamp]):
		return false, nil
	}
	if err := r.fresh(v); err != nil {
		return false, err
	}
	if err := r.above(v); err != nil {
		return false, err
	}
	if err := r.accept(v); err != nil { // heals the cache, and floors that could not be kept before
		return false, err
	}
	r.etag = etag
	r.publish(r.o.Now())
	return true, nil
}

// fresh tells whether the top-level roles of a whole set still hold now.
func (r *Repository) fresh(v *view) error {
	v.at(r.now())
	for _, s := range []struct {
		role string
		end  time.Time
	}{{root, v.Root.Signed.Expires}, {timestamp, v.Timestamp.Signed.Expires}, {snapshot, v.Snapshot.Signed.Expires}, {targets, v.Targets[targets].Signed.Expires}} {
		if v.RefTime.After(s.end) {
			return r.expired(v, s.role, s.end)
		}
	}
	return nil
}

func nextRoot(v *view) Request {
	return Request{Name: strconv.FormatInt(v.Root.Signed.Version+1, 10) + ".root.json", Max: maxRoot}
}

// salvage keeps what must be kept of a refresh that failed: a newer root, since a revoked key would stay usable without it.
func (r *Repository) salvage(v *view) error {
	files := maps.Clone(r.gen.files)
	files[root] = v.files[root]
	if r.o.PlainTUF { // TUF keeps each file as soon as it is verified
		maps.Copy(files, v.files)
	}
	if !r.differs(files) {
		return nil
	}
	if err := r.commit(files); err != nil {
		return err
	}
	if r.view, r.why = r.offline(); r.why != nil { // the new root may have taken the old set's keys away
		r.etag = ""
	}
	err := r.raise(map[string]boot.RoleFloor{root: {Version: v.Root.Signed.Version}})
	r.publish(time.Time{})
	return err
}

// accept makes a whole set the one in force.
func (r *Repository) accept(v *view) error {
	files := maps.Clone(r.gen.files)
	maps.Copy(files, v.files)
	for name := range files { // roles that are no more
		if !topLevel(name) && (v.Snapshot.Signed.Meta[name+".json"] == nil || len(files) > maxRoles && v.files[name] == nil) {
			delete(files, name)
		}
	}
	if r.differs(files) {
		if err := r.commit(files); err != nil {
			return err
		}
	}
	if err := r.raise(floorsOf(v)); err != nil {
		return err
	}
	r.view, r.why = v, nil
	return nil
}

func (r *Repository) differs(files map[string][]byte) bool {
	return !maps.EqualFunc(files, r.gen.files, bytes.Equal) || r.gen.n == 0 || r.gen.torn
}

func (r *Repository) commit(files map[string][]byte) error {
	g, err := r.cache.commit(r.gen, files)
	if err != nil {
		return fail(CodeStore, err, "keep the metadata in %s", r.o.Dir)
	}
	r.gen = g
	return nil
}

// stepRoot walks to the newest root, one version at a time.
func (r *Repository) stepRoot(ctx context.Context, v *view, asked map[string]answer) error {
	for range maxRotations {
		raw, _, err := r.ask(ctx, asked, nextRoot(v))
		if errors.Is(err, ErrNotFound) {
			break // this is the newest
		}
		if err != nil {
			return err
		}
		if err := r.addRoot(v, raw); err != nil {
			return err
		}
	}
	if floor := r.o.Floors.RoleFloors()[root]; v.Root.Signed.Version < floor.Version {
		return fail(CodeRollback, nil, "the source has no root after %d; %d was seen before", v.Root.Signed.Version, floor.Version)
	}
	if v.Root.Signed.IsExpired(v.RefTime) {
		return r.expired(v, root, v.Root.Signed.Expires)
	}
	return nil
}

// addRoot takes the next root. It is looked at before the view, which would keep it, is shown it.
func (r *Repository) addRoot(v *view, raw []byte) error {
	next := v.Root.Signed.Version + 1
	m, err := parseRoot(raw)
	if err != nil {
		return fail(CodeRoot, err, "%d.root.json", next)
	}
	if err := r.policy(m.Signed); err != nil {
		return err
	}
	if err := guard(func() error { _, err := v.UpdateRoot(raw); return err }); err != nil {
		return fail(CodeRoot, err, "%d.root.json", next)
	}
	v.files[root] = raw
	return nil
}

func (r *Repository) stepTimestamp(ctx context.Context, v *view, asked map[string]answer) (etag string, err error) {
	q := Request{Name: "timestamp.json", Max: maxTimestamp}
	if old := r.gen.files[timestamp]; old != nil {
		_ = r.addTimestamp(v, old) // an expired one still says which versions were seen; one of other keys says nothing
		if v.Timestamp != nil {
			q.IfNoneMatch = r.etag
		}
	}
	raw, etag, err := r.ask(ctx, asked, q)
	switch {
	case errors.Is(err, ErrNotModified) && q.IfNoneMatch != "":
		etag = r.etag
	case err != nil:
		return "", missing(err, "timestamp.json")
	default:
		var equal *metadata.ErrEqualVersionNumber
		if err := r.addTimestamp(v, raw); err != nil && !errors.As(err, &equal) {
			return "", err
		}
	}
	if floor, ok := r.floor(v, timestamp, ""); ok && v.Timestamp.Signed.Version < floor {
		return "", fail(CodeRollback, nil, "timestamp %d; %d was seen before", v.Timestamp.Signed.Version, floor)
	}
	if v.Timestamp.Signed.IsExpired(v.RefTime) {
		return "", r.expired(v, timestamp, v.Timestamp.Signed.Expires)
	}
	return etag, nil
}

// addTimestamp verifies a timestamp and lets it move the time.
func (r *Repository) addTimestamp(v *view, raw []byte) error {
	before := v.Timestamp
	err := guard(func() error {
		_, err := v.UpdateTimestamp(raw)
		if v.Timestamp != nil && v.Timestamp.Signed.Meta["snapshot.json"] == nil {
			v.Timestamp = before
			return &metadata.ErrRepository{Msg: "no snapshot in it"}
		}
		return err
	})
	if v.Timestamp != before {
		// Whoever has the timestamp's key may move the time forward, but neither past that signature's end nor the root's.
		if t := issued(v.Timestamp); t.After(v.least) && !t.After(v.Timestamp.Signed.Expires) && !t.After(v.Root.Signed.Expires) {
			v.least = t
			v.at(v.RefTime)
		}
	}
	if err != nil {
		return r.refused(v, timestamp, err)
	}
	v.files[timestamp] = raw
	return nil
}

// issued is when a timestamp says that it was signed, in its field issued_at: unix seconds or RFC 3339.
func issued(m *metadata.Metadata[metadata.TimestampType]) time.Time {
	switch at := m.Signed.UnrecognizedFields["issued_at"].(type) {
	case float64:
		if at > 0 && at < 1<<40 {
			return time.Unix(int64(at), 0).UTC()
		}
	case string:
		if t, err := time.Parse(time.RFC3339, at); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

func (r *Repository) stepSnapshot(ctx context.Context, v *view) error {
	meta := v.Timestamp.Signed.Meta["snapshot.json"]
	if old := r.gen.files[snapshot]; old != nil {
		err := r.addSnapshot(v, old, true)
		if err == nil {
			return nil
		}
	}
	raw, err := r.getSigned(ctx, v, snapshot, meta)
	if err != nil {
		return err
	}
	return r.addSnapshot(v, raw, false)
}

func (r *Repository) addSnapshot(v *view, raw []byte, cached bool) error {
	if raw == nil {
		return fail(CodeMissing, nil, "the snapshot is not cached: refresh first")
	}
	before := v.Snapshot
	err := guard(func() error {
		_, err := v.UpdateSnapshot(raw, cached)
		if v.Snapshot != nil {
			for name, m := range v.Snapshot.Signed.Meta {
				if m == nil {
					v.Snapshot = before
					return &metadata.ErrRepository{Msg: fmt.Sprintf("nothing about %q", name)}
				}
			}
		}
		return err
	})
	if err != nil {
		return r.refused(v, snapshot, err)
	}
	v.files[snapshot] = raw
	return nil
}

// load verifies a role of targets' kind, from the cache or the source.
func (r *Repository) load(ctx context.Context, v *view, role, parent string) error {
	if p, ok := v.parents[role]; ok && p == parent {
		return nil
	}
	if old := r.gen.files[role]; old != nil {
		if err := r.addRole(v, role, parent, old); err == nil {
			return nil
		}
	}
	meta := v.Snapshot.Signed.Meta[role+".json"]
	if meta == nil {
		return fail(CodeMalformed, nil, "the snapshot does not list role %q", role)
	}
	raw, err := r.getSigned(ctx, v, role, meta)
	if err != nil {
		return err
	}
	return r.addRole(v, role, parent, raw)
}

func (r *Repository) addRole(v *view, role, parent string, raw []byte) error {
	if raw == nil {
		return fail(CodeMissing, nil, "role %q is not cached: refresh first", role)
	}
	before, had := v.Targets[role]
	err := guard(func() error {
		m, err := v.UpdateDelegatedTargets(raw, role, parent)
		if err != nil {
			return err
		}
		for path, t := range m.Signed.Targets {
			if t == nil || t.Length < 0 {
				return &metadata.ErrRepository{Msg: fmt.Sprintf("nothing about target %q", path)}
			}
		}
		return nil
	})
	if err != nil {
		delete(v.Targets, role)
		if had {
			v.Targets[role] = before
		}
		return r.refused(v, role, err)
	}
	if floor, ok := r.floor(v, role, parent); ok && v.Targets[role].Signed.Version < floor {
		version := v.Targets[role].Signed.Version
		delete(v.Targets, role)
		return fail(CodeRollback, nil, "role %q has version %d; %d was seen before", role, version, floor)
	}
	v.files[role], v.parents[role] = raw, parent
	return nil
}

// getSigned fetches a file of which length, hash and version are signed.
func (r *Repository) getSigned(ctx context.Context, v *view, role string, meta *metadata.MetaFiles) ([]byte, error) {
	name := url.PathEscape(role) + ".json"
	if v.Root.Signed.ConsistentSnapshot {
		name = strconv.FormatInt(meta.Version, 10) + "." + name
	}
	most := maxOf(role)
	if meta.Length > most {
		return nil, fail(CodeMalformed, nil, "%s is signed with %d bytes; at most %d", name, meta.Length, most)
	}
	if meta.Length > 0 {
		most = meta.Length
	}
	raw, _, err := r.get(ctx, r.o.Source, Request{Name: name, Max: most})
	return raw, missing(err, name)
}

func missing(err error, name string) error {
	if errors.Is(err, ErrNotFound) {
		return fail(CodeMissing, err, "%s", name)
	}
	return err
}

// get reads a small file whole.
func (r *Repository) get(ctx context.Context, from Source, q Request) (raw []byte, etag string, err error) {
	if from == nil {
		return nil, "", fail(CodeUnreachable, nil, "%s is not cached, and there is no source", q.Name)
	}
	raw, etag, err = readAll(ctx, from, q, r.o.MinRate)
	var e *Error
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrNotModified), errors.As(err, &e):
		return raw, etag, err
	case errors.Is(err, errTooLong):
		return nil, "", fail(CodeMalformed, err, "%s", q.Name)
	}
	return nil, "", fail(CodeUnreachable, err, "%s", q.Name)
}

// refused gives the library's refusal its code.
func (r *Repository) refused(v *view, role string, err error) error {
	var (
		expired  *metadata.ErrExpiredMetadata
		version  *metadata.ErrBadVersionNumber
		unsigned *metadata.ErrUnsignedMetadata
		hash     *metadata.ErrLengthOrHashMismatch
		value    *metadata.ErrValue
		equal    *metadata.ErrEqualVersionNumber
	)
	code := CodeMalformed
	switch {
	case errors.As(err, &equal):
		return err
	case errors.As(err, &expired):
		return r.expired(v, role, time.Time{})
	case errors.As(err, &version):
		code = CodeRollback
	case errors.As(err, &unsigned):
		code = CodeSignature
	case errors.As(err, &hash):
		code = CodeHash
	case errors.As(err, &value):
		code = CodeMalformed
	}
	return fail(code, err, "%s", role)
}

// expired is a refusal for the time: for good if the clock is known to be right, else until it is.
func (r *Repository) expired(v *view, role string, end time.Time) error {
	what := fmt.Sprintf("%s has expired", role)
	if !end.IsZero() {
		what = fmt.Sprintf("%s expired on %s", role, end.UTC().Format(time.RFC3339))
	}
	now := v.RefTime.Format(time.RFC3339)
	if r.o.Synced() {
		return fail(CodeExpired, nil, "%s; it is %s, and a newer signature is wanted", what, now)
	}
	return fail(CodeTime, nil, "%s by the clock, which says %s and is not synchronized: waiting for time", what, now)
}

func topLevel(role string) bool {
	return role == root || role == timestamp || role == snapshot || role == targets
}

// State is what is trusted now.
func (r *Repository) State() State {
	r.stateMu.Lock()
	defer r.stateMu.Unlock()
	s := r.state
	s.Roles = slices.Clone(s.Roles)
	return s
}

// Files is the metadata in force, by role, as it was signed. It is not to be changed.
func (r *Repository) Files() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.gen.files)
}

// publish makes the state of what is committed; the time is that of a refresh that came to its end.
func (r *Repository) publish(refreshed time.Time) {
	var s State
	v := r.view
	if v == nil {
		v, _ = r.begin()
	}
	if v != nil {
		add := func(role string, version int64, expires time.Time) {
			keys, threshold := keysOf(v, role, v.parents[role])
			s.Roles = append(s.Roles, RoleState{Name: role, Version: version, Expires: expires, Threshold: threshold, Keys: keys})
		}
		add(root, v.Root.Signed.Version, v.Root.Signed.Expires)
		if v.Timestamp != nil {
			s.Issued = issued(v.Timestamp)
			add(timestamp, v.Timestamp.Signed.Version, v.Timestamp.Signed.Expires)
		}
		if v.Snapshot != nil {
			add(snapshot, v.Snapshot.Signed.Version, v.Snapshot.Signed.Expires)
		}
		for _, role := range slices.Sorted(maps.Keys(v.Targets)) {
			add(role, v.Targets[role].Signed.Version, v.Targets[role].Signed.Expires)
		}
	}
	r.stateMu.Lock()
	defer r.stateMu.Unlock()
	s.Refreshed = r.state.Refreshed
	if !refreshed.IsZero() {
		s.Refreshed = refreshed
	}
	r.state = s
}
