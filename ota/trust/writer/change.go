package writer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"homeward/buffer/durable"
)

// Step is a role that a change makes anew.
type Step struct {
	Role     string
	Version  int64
	Reason   string   // "new", "changed", "keys" (others sign it now) or "renewed"
	What     []string // what changes, one a line, in words; for whoever is asked to sign
	Signed   int
	Needed   int
	Missing  []string // ids of the keys that could still sign, where Signed < Needed
	Lacks    []Lack   // who else has to sign: a root is signed by the keys of the root before it, too
	Added    int      // signatures that were made now
	Complete bool
	doc      *document
}

// Lack is what an authority still wants of a role.
type Lack struct {
	Signed, Needed int
	Missing        []string // ids of the keys that could still sign
	Before         bool     // the authority is the root before
}

// Teller is a [Signer] that wants to know what it will be asked to sign, before it is.
type Teller interface {
	// Tell is called for each role that is made anew, with the ids of the keys that could sign it.
	Tell(s Step, keys []string)
}

// Paths are the targets that the role lists.
func (s Step) Paths() []string {
	if s.doc == nil || s.doc.targets == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(s.doc.targets.Signed.Targets))
}

// Change is what a publication would do: signed in memory, nothing written yet.
type Change struct {
	Steps   []Step
	Waits   []string // roles that nothing can be said of before another one has its signatures, with the reason
	Ready   bool     // snapshot and timestamp are signed: what is complete can be published
	Nothing bool     // published and planned are the same, and nothing is due for renewal

	r         *Repository
	from      *Published
	next      *Published
	files     map[string][]byte // by name in the repository
	rootFirst bool
	hold      bool // a role that targets names is not signed
	part      bool
}

// Prepare compares the plan with what is published, signs what differs or is due with the keys at hand, and checks the result
// as a client would. now is read once.
func (r *Repository) Prepare(plan Plan, keys Signer) (*Change, error) {
	from, err := r.Load()
	if err != nil {
		return nil, err
	}
	c := &Change{r: r, part: plan.Part, from: from, next: &Published{roles: map[string]*document{}}, files: map[string][]byte{}}
	p := preparation{Change: c, plan: plan, keys: keys, now: r.Now()}
	if err := p.run(); err != nil {
		return nil, err
	}
	c.Nothing = len(c.Steps) == 0
	if c.Publishes() {
		if err := c.check(p.now); err != nil {
			return nil, fmt.Errorf("writer: a client would refuse the result, nothing is written: %w", err)
		}
	}
	return c, nil
}

type preparation struct {
	*Change
	plan Plan
	keys Signer
	now  time.Time
}

// role makes one role. by are the delegators, each of whose authority has to be met; old may not be there.
func (p *preparation) role(want, old *document, base int64, by []Authority, also []Authority) (*document, error) {
	term := TermOf(want.role)
	reason := ""
	if old == nil {
		reason = "new"
	} else {
		equal, err := same(want, old)
		if err != nil {
			return nil, err
		}
		good := true
		for _, a := range by {
			ok, err := old.verifies(a)
			if err != nil {
				return nil, err
			}
			good = good && ok
		}
		switch {
		case !equal:
			reason = "changed"
		case !good && want.role != Root:
			reason = "keys"
		case p.now.Add(term.Renew).After(old.expires()):
			reason = "renewed"
		default:
			return old, nil
		}
	}
	want.set(base+1, p.now.Add(term.Life))
	staged, err := p.r.stagedRole(want.role)
	if err != nil {
		return nil, err
	}
	if staged != nil {
		equal, err := same(staged, want)
		if err != nil {
			return nil, err
		}
		// Whoever signs a staged file signs its end as well: one that is nearly over, or too far, is made anew.
		left := staged.expires().Sub(p.now)
		if equal && staged.version() == want.version() && left > term.Life/2 && left <= term.Life+day {
			want = staged
		}
	}
	s := Step{Role: want.role, Version: want.version(), Reason: reason, doc: want, Complete: true}
	if s.What, err = describe(want, old); err != nil {
		return nil, err
	}
	if t, ok := p.keys.(Teller); ok {
		var ids []string
		for _, a := range slices.Concat(by, also) {
			for _, k := range a.Keys {
				ids = append(ids, k.ID)
			}
		}
		t.Tell(s, ids)
	}
	if s.Added, err = p.sign(want, slices.Concat(by, also)); err != nil {
		return nil, err
	}
	for i, a := range by {
		n, missing, err := want.signed(a)
		if err != nil {
			return nil, err
		}
		if s.Needed > 0 && n >= a.Threshold {
			continue
		}
		lack := Lack{Signed: n, Needed: a.Threshold, Before: i > 0}
		for _, k := range missing {
			lack.Missing = append(lack.Missing, k.ID)
		}
		if s.Complete {
			s.Signed, s.Needed, s.Missing = lack.Signed, lack.Needed, lack.Missing
		}
		if n < a.Threshold {
			s.Complete = false
			s.Lacks = append(s.Lacks, lack)
		}
	}
	if reason == "renewed" && s.Signed == 0 && !s.Complete {
		return old, nil // for whoever has a key; Published.Roles tells when it ends
	}
	p.Steps = append(p.Steps, s)
	if s.Complete {
		return want, nil
	}
	return old, nil
}

// sign adds the signatures of all keys that are at hand, says how many it made, and drops those that are nobody's or wrong.
func (p *preparation) sign(d *document, by []Authority) (added int, err error) {
	payload, err := d.payload()
	if err != nil {
		return 0, err
	}
	_, _, signatures := d.meta()
	var kept []metadata.Signature
	done := map[string]bool{}
	for _, a := range by {
		for _, k := range a.Keys {
			if done[k.ID] {
				continue
			}
			done[k.ID] = true
			i := slices.IndexFunc(*signatures, func(s metadata.Signature) bool {
				return s.KeyID == k.ID && ed25519.Verify(k.Key, payload, s.Signature)
			})
			if i >= 0 {
				kept = append(kept, (*signatures)[i])
				continue
			}
			s, err := p.keys.Sign(k.ID, payload)
			if errors.Is(err, ErrNoKey) {
				continue
			}
			if err != nil {
				return 0, fmt.Errorf("writer: %s: key %s: %w", d.role, Short(k.ID), err)
			}
			if !ed25519.Verify(k.Key, payload, s) {
				return 0, fmt.Errorf("writer: %s: key %s signs with another key than its id says", d.role, Short(k.ID))
			}
			kept = append(kept, metadata.Signature{KeyID: k.ID, Signature: s})
			added++
		}
	}
	*signatures = kept
	return added, nil
}

func (p *preparation) run() error {
	published := p.from
	if published == nil {
		published = &Published{roles: map[string]*document{}}
	}
	// root
	want, err := rootDocument(p.plan)
	if err != nil {
		return err
	}
	oldRoot := published.root()
	by := []Authority{want.authority(Root)}
	base := int64(0)
	if oldRoot != nil {
		by, base = append(by, oldRoot.authority(Root)), oldRoot.version()
	}
	root, err := p.role(want, oldRoot, base, by, nil)
	if err != nil {
		return err
	}
	if root == nil {
		p.Waits = append(p.Waits, "everything: there is no root yet")
		return nil
	}
	p.next.roots = published.roots
	if root != oldRoot {
		p.next.roots = append(slices.Clone(published.roots), root)
	}
	// alsoOld are the keys of the root before: signed by both, a role is good for clients that have seen the new root and for others.
	alsoOld := func(role string) []Authority {
		if oldRoot == nil || root == oldRoot || sameKeys(oldRoot.authority(role), root.authority(role)) {
			return nil
		}
		return []Authority{oldRoot.authority(role)}
	}
	// targets
	if want, err = targetsDocument(p.plan); err != nil {
		return err
	}
	old := published.roles[Targets]
	targets, err := p.role(want, old, published.lastVersion(Targets), []Authority{root.authority(Targets)}, alsoOld(Targets))
	if err != nil {
		return err
	}
	if targets == nil {
		p.Waits = append(p.Waits, "everything else: targets has no signatures yet")
		return nil
	}
	if ok, err := targets.verifies(root.authority(Targets)); err != nil || !ok {
		p.Waits = append(p.Waits, "everything else: targets is not signed as the new root wants")
		return err
	}
	p.next.roles[Targets] = targets
	// delegated roles
	for _, role := range p.plan.Delegated {
		if err := p.delegated(role, targets, published); err != nil {
			return err
		}
	}
	// What is delegated no longer stays in the snapshot, which may never lose a name.
	for name, d := range published.roles {
		if p.next.roles[name] == nil {
			p.next.roles[name] = d
		}
	}
	// snapshot and timestamp
	snapshot := &document{role: Snapshot, snapshot: metadata.Snapshot()}
	snapshot.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{}
	for name, d := range p.next.roles {
		snapshot.snapshot.Signed.Meta[name+".json"] = &metadata.MetaFiles{Version: d.version()}
	}
	base = 0
	if published.snapshot != nil {
		base = published.snapshot.version()
	}
	p.take()
	if p.hold {
		return nil
	}
	was := len(p.Steps)
	p.next.snapshot, err = p.role(snapshot, published.snapshot, base, []Authority{root.authority(Snapshot)}, alsoOld(Snapshot))
	if err != nil || len(p.Steps) > was && !p.Steps[was].Complete {
		return err
	}
	timestamp := &document{role: Timestamp, timestamp: metadata.Timestamp()}
	timestamp.timestamp.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: p.next.snapshot.version()}
	timestamp.timestamp.Signed.UnrecognizedFields = map[string]any{issuedAt: p.now.Unix()}
	base = 0
	if published.timestamp != nil {
		base = published.timestamp.version()
	}
	was = len(p.Steps)
	p.next.timestamp, err = p.role(timestamp, published.timestamp, base, []Authority{root.authority(Timestamp)}, alsoOld(Timestamp))
	if err != nil || len(p.Steps) > was && !p.Steps[was].Complete {
		return err
	}
	p.Ready = true
	if root != oldRoot && oldRoot != nil {
		// Both kinds of client accept a timestamp that both roots' keys have signed, and what it leads to.
		for _, role := range []string{Targets, Snapshot, Timestamp} {
			if also := alsoOld(role); also != nil {
				d := map[string]*document{Targets: targets, Snapshot: p.next.snapshot, Timestamp: p.next.timestamp}[role]
				ok, err := d.verifies(also[0])
				if err != nil {
					return err
				}
				p.rootFirst = p.rootFirst || !ok
			}
		}
	}
	return nil
}

func sameKeys(a, b Authority) bool {
	ids := func(a Authority) []string {
		var all []string
		for _, k := range a.Keys {
			all = append(all, k.ID)
		}
		slices.Sort(all)
		return all
	}
	return a.Threshold == b.Threshold && slices.Equal(ids(a), ids(b))
}

func (p *Published) lastVersion(role string) int64 {
	if d := p.roles[role]; d != nil {
		return d.version()
	}
	return 0
}

// delegated makes a delegated role and, where it has some, its bins. A set is only published when every role that targets
// names is there and signed as targets wants: a role that waits for its keys holds the rest.
func (p *preparation) delegated(role Role, targets *document, published *Published) error {
	by := targets.authority(role.Name)
	named := len(by.Keys) > 0
	if !named {
		if len(role.Paths) == 0 {
			return nil
		}
		p.Waits = append(p.Waits, role.Name+": targets does not name it yet")
		by = role.Authority
	}
	if named {
		role.Files = p.inside(role, targets)
	}
	want, err := roleDocument(role)
	if err != nil {
		return err
	}
	d, err := p.role(want, published.roles[role.Name], published.lastVersion(role.Name), []Authority{by}, nil)
	if err != nil {
		return err
	}
	if named {
		ok := d != nil
		if ok {
			if ok, err = d.verifies(by); err != nil {
				return err
			}
		}
		if !ok {
			p.hold = true
			p.Waits = append(p.Waits, "everything: targets names "+role.Name+", which is not signed as it wants")
			return nil
		}
		if p.now.After(d.expires()) {
			p.Waits = append(p.Waits, fmt.Sprintf("%s: it ended on %s and no gateway takes it until one of its keys signs again",
				role.Name, d.expires().Format(time.DateOnly)))
		}
		p.next.roles[role.Name] = d
	}
	if d == nil || role.Bits == 0 || d.targets.Signed.Delegations == nil || d.targets.Signed.Delegations.SuccinctRoles == nil {
		return nil
	}
	bins := d.targets.Signed.Delegations.SuccinctRoles
	files := map[string]map[string][]byte{}
	for path, content := range role.Files {
		name := bins.GetRolesForTarget(path)[0].Name
		if files[name] == nil {
			files[name] = map[string][]byte{}
		}
		files[name][path] = content
	}
	for _, name := range bins.GetRoles() {
		want, err := roleDocument(Role{Name: name, Files: files[name]})
		if err != nil {
			return err
		}
		bin, err := p.role(want, published.roles[name], published.lastVersion(name), []Authority{d.authority(name)}, nil)
		if err != nil {
			return err
		}
		ok := bin != nil
		if ok {
			if ok, err = bin.verifies(d.authority(name)); err != nil {
				return err
			}
		}
		if !ok {
			if named {
				p.hold = true
				p.Waits = append(p.Waits, "everything: the bins of "+role.Name+" are not signed")
			}
			return nil
		}
		if named {
			p.next.roles[name] = bin
		}
	}
	return nil
}

// inside are the files that targets lets the role sign; a client would never find the others.
func (p *preparation) inside(role Role, targets *document) map[string][]byte {
	files := map[string][]byte{}
	for _, d := range targets.targets.Signed.Delegations.Roles {
		if d.Name != role.Name {
			continue
		}
		for _, path := range slices.Sorted(maps.Keys(role.Files)) {
			if ok, err := d.IsDelegatedPath(path); err == nil && ok {
				files[path] = role.Files[path]
			} else {
				p.Waits = append(p.Waits, fmt.Sprintf("%s: targets does not let it sign %s yet", role.Name, path))
			}
		}
	}
	return files
}

// take finds the files of what is new.
func (p *preparation) take() {
	plan := []map[string][]byte{p.plan.Files}
	for _, r := range p.plan.Delegated {
		plan = append(plan, r.Files)
	}
	for _, s := range p.Steps {
		d := p.next.roles[s.Role]
		if d != s.doc || d == nil || d.targets == nil {
			continue
		}
		for path, info := range d.targets.Signed.Targets {
			for _, files := range plan {
				if content, ok := files[path]; ok {
					p.files[targetName(path, info)] = content
				}
			}
		}
	}
}

// goes says whether a step is published by this change.
func (c *Change) goes(s Step) bool {
	return c.Ready && s.Complete && (s.Role == Root || s.Role == Snapshot || s.Role == Timestamp || c.next.roles[s.Role] == s.doc)
}

// Goes says whether this change publishes the role anew.
func (c *Change) Goes(role string) bool {
	return slices.ContainsFunc(c.Steps, func(s Step) bool { return s.Role == role && c.goes(s) })
}

func addKeys(into map[string]*metadata.Key, a Authority) ([]string, error) {
	ids := []string{}
	for _, k := range a.Keys {
		key, err := metadata.KeyFromPublicKey(k.Key)
		if err != nil {
			return nil, err
		}
		into[k.ID] = key
		ids = append(ids, k.ID)
	}
	return ids, nil
}

func rootDocument(plan Plan) (*document, error) {
	d := &document{role: Root, root: metadata.Root()}
	for name, a := range map[string]Authority{Root: plan.Root, Targets: plan.Targets, Snapshot: plan.Snapshot, Timestamp: plan.Timestamp} {
		if a.Threshold < 1 || a.Threshold > len(a.Keys) {
			return nil, fmt.Errorf("writer: %s wants %d of %d signatures: want at least 1, and no more than it has keys", name, a.Threshold, len(a.Keys))
		}
		ids, err := addKeys(d.root.Signed.Keys, a)
		if err != nil {
			return nil, err
		}
		d.root.Signed.Roles[name] = &metadata.Role{KeyIDs: ids, Threshold: a.Threshold}
	}
	return d, nil
}

func targetsDocument(plan Plan) (*document, error) {
	d, err := roleDocument(Role{Name: Targets, Files: plan.Files})
	if err != nil {
		return nil, err
	}
	g := &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	for _, r := range plan.Delegated {
		if len(r.Paths) == 0 { // a role without paths may not be written (and tuf-js refuses it)
			continue
		}
		if r.Threshold < 1 || r.Threshold > len(r.Keys) {
			return nil, fmt.Errorf("writer: %s wants %d of %d signatures: want at least 1, and no more than it has keys", r.Name, r.Threshold, len(r.Keys))
		}
		ids, err := addKeys(g.Keys, r.Authority)
		if err != nil {
			return nil, err
		}
		g.Roles = append(g.Roles, metadata.DelegatedRole{Name: r.Name, KeyIDs: ids, Threshold: r.Threshold, Terminating: true, Paths: r.Paths})
	}
	d.targets.Signed.Delegations = g
	return d, nil
}

func roleDocument(r Role) (*document, error) {
	d := &document{role: r.Name, targets: metadata.Targets()}
	if r.Bits > 0 { // the files are the bins'
		keys := map[string]*metadata.Key{}
		ids, err := addKeys(keys, r.Authority)
		if err != nil {
			return nil, err
		}
		d.targets.Signed.Delegations = &metadata.Delegations{Keys: keys, SuccinctRoles: &metadata.SuccinctRoles{
			KeyIDs: ids, Threshold: r.Threshold, BitLength: r.Bits, NamePrefix: r.Name,
		}}
		return d, nil
	}
	for path, content := range r.Files {
		if len(content) > maxTarget {
			return nil, fmt.Errorf("writer: %s has %d bytes: a gateway takes at most %d", path, len(content), maxTarget)
		}
		sum := sha256.Sum256(content)
		d.targets.Signed.Targets[path] = &metadata.TargetFiles{Length: int64(len(content)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	}
	return d, nil
}

// describe says in words what a role says that it did not say before.
func describe(d, old *document) ([]string, error) {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	authority := func(name string, a, b Authority) {
		if sameKeys(a, b) {
			return
		}
		has := func(x Authority, id string) bool {
			return slices.ContainsFunc(x.Keys, func(k Public) bool { return k.ID == id })
		}
		for _, k := range b.Keys {
			if !has(a, k.ID) {
				add("%s gets key %s", name, Short(k.ID))
			}
		}
		for _, k := range a.Keys {
			if !has(b, k.ID) {
				add("%s loses key %s", name, Short(k.ID))
			}
		}
		if a.Threshold != b.Threshold {
			add("%s wants %d of %d signatures", name, b.Threshold, len(b.Keys))
		}
	}
	switch {
	case d.root != nil:
		for _, name := range []string{Root, Targets, Snapshot, Timestamp} {
			authority(name, old.authority(name), d.authority(name))
		}
	case d.targets != nil:
		before := map[string]*metadata.TargetFiles{}
		roles := map[string]metadata.DelegatedRole{}
		if old != nil {
			before = old.targets.Signed.Targets
			if g := old.targets.Signed.Delegations; g != nil {
				for _, r := range g.Roles {
					roles[r.Name] = r
				}
			}
		}
		if g := d.targets.Signed.Delegations; g != nil {
			for _, r := range g.Roles {
				authority(r.Name, old.authority(r.Name), d.authority(r.Name))
				for _, path := range r.Paths {
					if !slices.Contains(roles[r.Name].Paths, path) {
						add("%s may sign %s", r.Name, path)
					}
				}
				for _, path := range roles[r.Name].Paths {
					if !slices.Contains(r.Paths, path) {
						add("%s may sign %s no longer", r.Name, path)
					}
				}
				delete(roles, r.Name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(roles)) {
			add("%s may sign nothing any longer", name)
		}
		for _, path := range slices.Sorted(maps.Keys(d.targets.Signed.Targets)) {
			switch b := before[path]; {
			case b == nil:
				add("new %s", path)
			case !b.Equal(*d.targets.Signed.Targets[path]):
				add("changed %s", path)
			}
		}
		for _, path := range slices.Sorted(maps.Keys(before)) {
			if d.targets.Signed.Targets[path] == nil {
				add("gone %s", path)
			}
		}
	}
	return out, nil
}

func (r *Repository) stagedPath(role string) string { return filepath.Join(r.Staged, role+".json") }

// stagedRole is what waits for signatures; one that cannot be read is as good as none.
func (r *Repository) stagedRole(role string) (*document, error) {
	raw, err := durable.Read(r.FS, r.stagedPath(role), maxMetadata)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("writer: %w", err)
	}
	d, err := parse(role, raw)
	if err != nil {
		return nil, nil
	}
	return d, nil
}

// Commit writes the change: what lacks signatures is staged; then, where [Change.Ready], the files, the metadata, and last the
// timestamp. A new root goes before the timestamp only where the keys of the root before it are not at hand for what they used
// to sign: if the power goes between the two, clients refuse both until the next publication (and accept nothing wrong).
// With [Plan.Part] nothing is staged, and what others have staged stays.
func (c *Change) Commit() error {
	r := c.r
	if c.part {
		if c.Publishes() {
			return c.publish()
		}
		return nil
	}
	pending := map[string]bool{}
	for _, s := range c.Steps {
		if c.goes(s) || s.Role == Snapshot || s.Role == Timestamp { // automation makes its own
			continue
		}
		pending[s.Role] = true
		raw, err := s.doc.bytes()
		if err != nil {
			return err
		}
		if err := r.write(r.stagedPath(s.Role), raw, 0o644); err != nil {
			return err
		}
	}
	if c.Publishes() {
		if err := c.publish(); err != nil {
			return err
		}
	}
	names, err := r.FS.ReadDir(r.Staged)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	for _, e := range names {
		if role, ok := strings.CutSuffix(e.Name(), ".json"); ok && !pending[role] {
			if err := r.FS.Remove(filepath.Join(r.Staged, e.Name())); err != nil {
				return fmt.Errorf("writer: %w", err)
			}
		}
	}
	return nil
}

// Publishes says whether anything is published, and not only staged.
func (c *Change) Publishes() bool { return slices.ContainsFunc(c.Steps, c.goes) }

// Get is a file of the repository as it would be, for whoever wants to check it with a client of theirs.
func (c *Change) Get(name string) ([]byte, error) {
	o, err := c.overlay()
	if err != nil {
		return nil, err
	}
	return o.DownloadFile(overlayURL+name, maxMetadata, 0)
}

// newFiles are the metadata of the change, by name: without root and timestamp.
func (c *Change) newFiles() (files map[string][]byte, root, timestamp []byte, err error) {
	files = map[string][]byte{}
	for _, s := range c.Steps {
		if !c.goes(s) {
			continue
		}
		raw, err := s.doc.bytes()
		if err != nil {
			return nil, nil, nil, err
		}
		switch s.Role {
		case Root:
			root = raw
		case Timestamp:
			timestamp = raw
		default:
			files[s.doc.file()] = raw
		}
	}
	return files, root, timestamp, nil
}

func (c *Change) publish() error {
	for name, content := range c.files {
		if err := c.r.writeIfOther(filepath.Join(c.r.Dir, name), content); err != nil {
			return err
		}
	}
	files, root, timestamp, err := c.newFiles()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := c.r.writeIfOther(filepath.Join(c.r.Dir, name), files[name]); err != nil {
			return err
		}
	}
	last := []struct {
		name string
		raw  []byte
	}{{Timestamp + ".json", timestamp}, {fileName(Root, c.next.root().version()), root}}
	if c.rootFirst || c.from.root() == nil {
		slices.Reverse(last)
	}
	for _, f := range last {
		if f.raw == nil {
			continue
		}
		if err := c.r.writeIfOther(filepath.Join(c.r.Dir, f.name), f.raw); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) writeIfOther(path string, content []byte) error {
	if info, err := r.FS.Stat(path); err == nil && info.Size() == int64(len(content)) {
		if old, err := durable.Read(r.FS, path, maxMetadata); err == nil && bytes.Equal(old, content) {
			return nil
		}
	}
	return r.write(path, content, 0o644)
}

func (r *Repository) write(path string, content []byte, perm os.FileMode) error {
	if err := MakeFolder(r.FS, filepath.Dir(path)); err != nil {
		return err
	}
	if err := durable.Replace(r.FS, path, content, perm); err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	return nil
}

// MakeFolder makes a folder and those above it, durably.
func MakeFolder(files durable.FS, dir string) error {
	if _, err := files.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := MakeFolder(files, parent); err != nil {
			return err
		}
	}
	if err := files.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	if err := files.SyncDir(parent); err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	return nil
}
