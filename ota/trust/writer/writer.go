// Package writer makes and changes a fleet repository: the folder of signed static files that ota/trust reads.
//
// Who signs what. root says which keys the other three top-level roles have, and targets which keys may say what below which
// paths: both belong to the owner, want a threshold of signatures, and are kept offline. releases-PRODUCT (releases/PRODUCT/…),
// dev-PRODUCT (dev/GATEWAY/… of exactly the gateways that are pinned) and orders (orders/…, in hashed bins that only orders
// delegates) belong to managers; snapshot and timestamp to automation. Each role has one delegator.
//
// Layout, below the repository's folder: N.ROLE.json and timestamp.json; target files as PATH/SHA256.NAME (consistent
// snapshots); blobs/SHA256, which no role lists, since the manifests name them by hash.
//
// Promises. What has been published is never left: every set is written before the timestamp that makes it visible, versions
// only grow, and a client of any earlier state accepts what a crash at any point leaves; one exception, told by [Change.Commit],
// is a new root that takes the timestamp's key away while the old key is not at hand. A role that lacks signatures is staged
// beside the repository, and what is published until it has them stays in force. Nothing is signed that is not in the plan.
//
// What it does not keep: an order of two managers who work on two copies of the folder. One folder, one lock.
package writer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"homeward/buffer/durable"
)

// The roles that every repository has, and orders, whose bins are orders-0 … orders-f (or as many as there are).
const (
	Root      = metadata.ROOT
	Targets   = metadata.TARGETS
	Snapshot  = metadata.SNAPSHOT
	Timestamp = metadata.TIMESTAMP
	Orders    = "orders"
)

const day = 24 * time.Hour

// Term is how long a role's signature holds, and how long before its end it is renewed by whoever has the keys, and warned of.
type Term struct{ Life, Renew time.Duration }

// TermOf is the term of a role. The timestamp's and the snapshot's lives are how long a server can hold back news unnoticed.
func TermOf(role string) Term {
	switch {
	case role == Root:
		return Term{730 * day, 180 * day}
	case role == Targets:
		return Term{365 * day, 90 * day}
	case role == Snapshot:
		return Term{14 * day, 7 * day}
	case role == Timestamp:
		return Term{7 * day, 6 * day}
	case strings.HasPrefix(role, "dev-"):
		return Term{30 * day, 15 * day}
	}
	return Term{90 * day, 30 * day}
}

// Bounds of what is read back from the folder.
const (
	maxMetadata = 16 << 20
	maxTarget   = 64 << 10 // what a gateway takes
)

// Public is the public half of a signing key.
type Public struct {
	ID  string // of TUF: SHA-256 of the key's canonical form, in hex
	Key ed25519.PublicKey
}

// NewPublic names a public key.
func NewPublic(key ed25519.PublicKey) (Public, error) {
	k, err := metadata.KeyFromPublicKey(key)
	if err != nil {
		return Public{}, fmt.Errorf("writer: %w", err)
	}
	id, err := k.ID()
	if err != nil {
		return Public{}, fmt.Errorf("writer: %w", err)
	}
	return Public{ID: id, Key: key}, nil
}

// Short is enough of a key's id to tell it from the others.
func Short(id string) string { return id[:min(8, len(id))] }

// Authority is whose signatures a role wants: Threshold of the keys.
type Authority struct {
	Keys      []Public
	Threshold int
}

// Role is a delegated role: what it may sign and what it is to say.
type Role struct {
	Name string
	Authority
	Paths []string          // patterns; * does not match a slash
	Files map[string][]byte // its targets
	Bits  int               // > 0: the files lie in 2^Bits bins, orders-0 …, chosen by the path's hash
}

// Plan is what the repository is to say.
type Plan struct {
	Root, Targets, Snapshot, Timestamp Authority
	Files                              map[string][]byte // signed by targets itself
	Delegated                          []Role
	Part                               bool // a step of its own: what waits in staged/ is not touched
}

// ErrNoKey is what a [Signer] says of a key that is not at hand.
var ErrNoKey = errors.New("the key is not at hand")

// Signer signs with the key of this id; [ErrNoKey] where it has none, any other error ends the work.
type Signer interface {
	Sign(id string, payload []byte) ([]byte, error)
}

// Repository is a repository's folder and the folder beside it where roles wait for signatures.
type Repository struct {
	FS     durable.FS
	Dir    string // what a web server serves
	Staged string
	Now    func() time.Time
}

// document is one signed file.
type document struct {
	role      string
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
}

func parse(role string, raw []byte) (*document, error) {
	d := &document{role: role}
	var err error
	switch role {
	case Root:
		d.root, err = new(metadata.Metadata[metadata.RootType]).FromBytes(raw)
	case Snapshot:
		d.snapshot, err = new(metadata.Metadata[metadata.SnapshotType]).FromBytes(raw)
	case Timestamp:
		d.timestamp, err = new(metadata.Metadata[metadata.TimestampType]).FromBytes(raw)
	default:
		d.targets, err = new(metadata.Metadata[metadata.TargetsType]).FromBytes(raw)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// meta is what go-tuf verifies; signed is what signatures are of.
func (d *document) meta() (meta, signed any, signatures *[]metadata.Signature) {
	switch {
	case d.root != nil:
		return d.root, d.root.Signed, &d.root.Signatures
	case d.snapshot != nil:
		return d.snapshot, d.snapshot.Signed, &d.snapshot.Signatures
	case d.timestamp != nil:
		return d.timestamp, d.timestamp.Signed, &d.timestamp.Signatures
	}
	return d.targets, d.targets.Signed, &d.targets.Signatures
}

func (d *document) version() int64 {
	switch {
	case d.root != nil:
		return d.root.Signed.Version
	case d.snapshot != nil:
		return d.snapshot.Signed.Version
	case d.timestamp != nil:
		return d.timestamp.Signed.Version
	}
	return d.targets.Signed.Version
}

func (d *document) expires() time.Time {
	switch {
	case d.root != nil:
		return d.root.Signed.Expires
	case d.snapshot != nil:
		return d.snapshot.Signed.Expires
	case d.timestamp != nil:
		return d.timestamp.Signed.Expires
	}
	return d.targets.Signed.Expires
}

func (d *document) set(version int64, expires time.Time) {
	expires = expires.UTC().Truncate(time.Second)
	switch {
	case d.root != nil:
		d.root.Signed.Version, d.root.Signed.Expires = version, expires
	case d.snapshot != nil:
		d.snapshot.Signed.Version, d.snapshot.Signed.Expires = version, expires
	case d.timestamp != nil:
		d.timestamp.Signed.Version, d.timestamp.Signed.Expires = version, expires
	default:
		d.targets.Signed.Version, d.targets.Signed.Expires = version, expires
	}
}

func (d *document) bytes() ([]byte, error) {
	meta, _, _ := d.meta()
	return json.Marshal(meta)
}

// payload is what is signed.
func (d *document) payload() ([]byte, error) {
	_, signed, _ := d.meta()
	return cjson.EncodeCanonical(signed)
}

// content is what the role says, whenever it says it.
func (d *document) content() ([]byte, error) {
	_, signed, _ := d.meta()
	raw, err := json.Marshal(signed)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	for _, name := range []string{"version", "expires", issuedAt} {
		delete(fields, name)
	}
	return json.Marshal(fields)
}

func same(a, b *document) (bool, error) {
	x, err := a.content()
	if err != nil {
		return false, err
	}
	y, err := b.content()
	return bytes.Equal(x, y), err
}

// issuedAt is the field of the timestamp that moves the clock of a gateway without one: Unix seconds.
const issuedAt = "issued_at"

// authority is whose signatures the delegator wants of a role; no key where it does not delegate it.
func (d *document) authority(role string) Authority {
	var ids []string
	var keys map[string]*metadata.Key
	a := Authority{}
	switch {
	case d == nil:
	case d.root != nil:
		if r := d.root.Signed.Roles[role]; r != nil {
			ids, keys, a.Threshold = r.KeyIDs, d.root.Signed.Keys, r.Threshold
		}
	case d.targets != nil && d.targets.Signed.Delegations != nil:
		g := d.targets.Signed.Delegations
		keys = g.Keys
		for _, r := range g.Roles {
			if r.Name == role {
				ids, a.Threshold = r.KeyIDs, r.Threshold
			}
		}
		if s := g.SuccinctRoles; s != nil && s.IsDelegatedRole(role) {
			ids, a.Threshold = s.KeyIDs, s.Threshold
		}
	}
	for _, id := range ids {
		if k := keys[id]; k != nil {
			if public, err := hex.DecodeString(k.Value.PublicKey); err == nil && len(public) == ed25519.PublicKeySize {
				a.Keys = append(a.Keys, Public{ID: id, Key: public})
			}
		}
	}
	return a
}

// signed is how many of an authority's keys have signed the document.
func (d *document) signed(by Authority) (int, []Public, error) {
	payload, err := d.payload()
	if err != nil {
		return 0, nil, err
	}
	_, _, signatures := d.meta()
	n, missing := 0, []Public(nil)
	for _, k := range by.Keys {
		ok := slices.ContainsFunc(*signatures, func(s metadata.Signature) bool {
			return s.KeyID == k.ID && ed25519.Verify(k.Key, payload, s.Signature)
		})
		if ok {
			n++
		} else {
			missing = append(missing, k)
		}
	}
	return n, missing, nil
}

func (d *document) verifies(by Authority) (bool, error) {
	if by.Threshold < 1 || len(by.Keys) == 0 {
		return false, nil
	}
	n, _, err := d.signed(by)
	return n >= by.Threshold, err
}

// file is the name of a document in the repository.
func (d *document) file() string { return fileName(d.role, d.version()) }

func fileName(role string, version int64) string {
	if role == Timestamp {
		return Timestamp + ".json"
	}
	return strconv.FormatInt(version, 10) + "." + role + ".json"
}

// Published is the set that clients see.
type Published struct {
	roots     []*document // 1, 2, 3 …
	timestamp *document
	snapshot  *document
	roles     map[string]*document // targets and all that are delegated
	targets   map[string]*metadata.TargetFiles
}

// Load reads the published set and follows its signatures; nil, and no error, for a folder in which nothing has been published.
// The timestamp and what hangs on it may be unsigned by the newest root's keys: a publication that was cut short is repaired
// by the next one.
func (r *Repository) Load() (*Published, error) {
	p := &Published{roles: map[string]*document{}}
	for v := int64(1); ; v++ {
		d, err := r.read(Root, v)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, err
		}
		if d.version() != v {
			return nil, fmt.Errorf("writer: %s says version %d: restore the file from a copy of the repository", fileName(Root, v), d.version())
		}
		for _, by := range append(p.roots[max(0, len(p.roots)-1):], d) {
			if ok, err := d.verifies(by.authority(Root)); err != nil || !ok {
				return nil, errors.Join(fmt.Errorf("writer: %s is not signed as root %d wants: restore the file from a copy of the repository",
					fileName(Root, v), by.version()), err)
			}
		}
		p.roots = append(p.roots, d)
	}
	if len(p.roots) == 0 {
		return nil, nil
	}
	var err error
	if p.timestamp, err = r.read(Timestamp, 0); errors.Is(err, fs.ErrNotExist) {
		return p, nil // cut short before anything was visible
	} else if err != nil {
		return nil, err
	}
	m := p.timestamp.timestamp.Signed.Meta["snapshot.json"]
	if m == nil {
		return nil, errors.New("writer: timestamp.json names no snapshot: restore the file from a copy of the repository")
	}
	if p.snapshot, err = r.read(Snapshot, m.Version); err != nil {
		return nil, err
	}
	for name, m := range p.snapshot.snapshot.Signed.Meta {
		role := strings.TrimSuffix(name, ".json")
		d, err := r.read(role, m.Version)
		if err != nil {
			return nil, err
		}
		if d.version() != m.Version {
			return nil, fmt.Errorf("writer: %s says version %d: restore the file from a copy of the repository", fileName(role, m.Version), d.version())
		}
		p.roles[role] = d
	}
	p.targets = map[string]*metadata.TargetFiles{}
	for _, s := range p.Roles() {
		if d := p.roles[s.Role]; d != nil {
			maps.Copy(p.targets, d.targets.Signed.Targets)
		}
	}
	return p, nil
}

func (r *Repository) read(role string, version int64) (*document, error) {
	name := fileName(role, version)
	raw, err := durable.Read(r.FS, filepath.Join(r.Dir, name), maxMetadata)
	if err != nil {
		return nil, fmt.Errorf("writer: %w", err)
	}
	d, err := parse(role, raw)
	if err != nil {
		return nil, fmt.Errorf("writer: %s: %w: restore the file from a copy of the repository", name, err)
	}
	return d, nil
}

// Root is the newest root, as a gateway's root_file has it.
func (p *Published) Root() ([]byte, error) { return p.roots[len(p.roots)-1].bytes() }

func (p *Published) root() *document {
	if p == nil || len(p.roots) == 0 {
		return nil
	}
	return p.roots[len(p.roots)-1]
}

// State is a role as it is published.
type State struct {
	Role    string
	Version int64
	Expires time.Time
	Keys    []string // ids, in the order of the delegator
	Needed  int
	Targets int
}

// Roles are the states of the roles that are published, root first.
func (p *Published) Roles() []State {
	root := p.root()
	if root == nil {
		return nil
	}
	all := []State{stateOf(root, root)}
	for _, d := range []*document{p.timestamp, p.snapshot, p.roles[Targets]} {
		if d != nil {
			all = append(all, stateOf(d, root))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.roles)) {
		by := p.roles[Targets]
		if strings.HasPrefix(name, Orders+"-") {
			by = p.roles[Orders]
		}
		if name != Targets && len(by.authority(name).Keys) > 0 {
			all = append(all, stateOf(p.roles[name], by))
		}
	}
	return all
}

func stateOf(d, by *document) State {
	a := by.authority(d.role)
	s := State{Role: d.role, Version: d.version(), Expires: d.expires(), Needed: a.Threshold}
	for _, k := range a.Keys {
		s.Keys = append(s.Keys, k.ID)
	}
	if d.targets != nil {
		s.Targets = len(d.targets.Signed.Targets)
	}
	return s
}

// Plan is what is published, as a plan: for whoever changes one thing and leaves all else as it is. It needs a published timestamp.
func (r *Repository) Plan(p *Published) (Plan, error) {
	root := p.root()
	if root == nil || p.roles[Targets] == nil {
		return Plan{}, errors.New("writer: nothing is published yet")
	}
	plan := Plan{Root: root.authority(Root), Targets: root.authority(Targets), Snapshot: root.authority(Snapshot), Timestamp: root.authority(Timestamp)}
	var err error
	if plan.Files, err = r.contents(p, p.roles[Targets]); err != nil {
		return Plan{}, err
	}
	g := p.roles[Targets].targets.Signed.Delegations
	if g == nil {
		return plan, nil
	}
	for _, d := range g.Roles {
		role := Role{Name: d.Name, Authority: p.roles[Targets].authority(d.Name), Paths: d.Paths, Files: map[string][]byte{}}
		documents := []*document{p.roles[d.Name]}
		if own := p.roles[d.Name]; own != nil && own.targets.Signed.Delegations != nil && own.targets.Signed.Delegations.SuccinctRoles != nil {
			bins := own.targets.Signed.Delegations.SuccinctRoles
			role.Bits = bins.BitLength
			for _, name := range bins.GetRoles() {
				documents = append(documents, p.roles[name])
			}
		}
		for _, d := range documents {
			files, err := r.contents(p, d)
			if err != nil {
				return Plan{}, err
			}
			maps.Copy(role.Files, files)
		}
		plan.Delegated = append(plan.Delegated, role)
	}
	return plan, nil
}

// contents are the files that a document lists.
func (r *Repository) contents(p *Published, d *document) (map[string][]byte, error) {
	files := map[string][]byte{}
	if d == nil {
		return files, nil
	}
	for path := range d.targets.Signed.Targets {
		content, err := r.File(p, path)
		if err != nil {
			return nil, err
		}
		files[path] = content
	}
	return files, nil
}

// Files are the paths of all targets that are published.
func (p *Published) Files() []string {
	var all []string
	if p != nil {
		for _, s := range p.Roles() {
			if d := p.roles[s.Role]; d != nil {
				all = slices.AppendSeq(all, maps.Keys(d.targets.Signed.Targets))
			}
		}
	}
	slices.Sort(all)
	return all
}

// files are the targets of the roles that hold now.
func (p *Published) files(now time.Time) []string {
	var all []string
	for _, s := range p.Roles() {
		if d := p.roles[s.Role]; d != nil && now.Before(d.expires()) {
			all = slices.AppendSeq(all, maps.Keys(d.targets.Signed.Targets))
		}
	}
	return all
}

// File reads a target as it is published; an error that is [fs.ErrNotExist] where no role lists it.
func (r *Repository) File(p *Published, path string) ([]byte, error) {
	if p != nil && p.targets[path] != nil {
		return durable.Read(r.FS, filepath.Join(r.Dir, targetName(path, p.targets[path])), maxTarget)
	}
	return nil, fmt.Errorf("writer: %s is not published: %w", path, fs.ErrNotExist)
}

func targetName(path string, t *metadata.TargetFiles) string {
	dir, name := filepath.Split(path)
	return dir + hex.EncodeToString(t.Hashes["sha256"]) + "." + name
}
