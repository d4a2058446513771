package trust

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"homeward/buffer/durable"
)

// Target is the content of a small file (at most 64 KiB) that the fleet has signed, from the cache where it is there. The error is
// [ErrNoTarget] if nobody who may has signed that path. It speaks of the set that the last [Repository.Refresh] verified.
func (r *Repository) Target(ctx context.Context, name string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, err := r.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if t.Length > maxTarget {
		return nil, fail(CodeMalformed, nil, "target %s is signed with %d bytes; at most %d", name, t.Length, maxTarget)
	}
	kept := r.cache.file(name)
	if data, err := durable.Read(r.o.FS, kept, maxTarget); err == nil && t.VerifyLengthHashes(data) == nil {
		r.used(kept)
		return data, nil
	}
	where, err := r.remote(t, name)
	if err != nil {
		return nil, err
	}
	data, _, err := r.get(ctx, r.o.Targets, Request{Name: where, Max: t.Length})
	if err != nil {
		return nil, missing(err, name)
	}
	if err := t.VerifyLengthHashes(data); err != nil {
		return nil, fail(CodeHash, err, "target %s", name)
	}
	r.used(kept)
	if err := r.cache.keep(name, data, r.files); err != nil {
		return nil, fail(CodeStore, err, "keep target %s in %s", name, r.o.Dir)
	}
	return data, nil
}

func (r *Repository) used(file string) {
	if r.files == nil {
		r.files = map[string]bool{}
	}
	if len(r.files) >= maxFiles { // then what is asked for next is fetched again
		clear(r.files)
	}
	r.files[file] = true
}

// remote is where the source has a target: with consistent snapshots its name begins with its hash.
func (r *Repository) remote(t *metadata.TargetFiles, name string) (string, error) {
	dir, base := path.Split(name)
	if r.view.Root.Signed.ConsistentSnapshot {
		sum := t.Hashes["sha256"]
		if sum == nil {
			sum = t.Hashes["sha512"]
		}
		if sum == nil {
			return "", fail(CodeMalformed, nil, "target %s is signed with the hashes %q; sha256 is wanted", name, slices.Sorted(maps.Keys(t.Hashes)))
		}
		base = hex.EncodeToString(sum) + "." + base
	}
	parts := strings.Split(dir+base, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/"), nil
}

// hop is a delegation that leads on.
type hop struct{ role, parent string }

// find walks the delegations as TUF says: depth first, in the order in which they are listed, each role once.
func (r *Repository) find(ctx context.Context, name string) (*metadata.TargetFiles, error) {
	if r.view == nil { // what had expired may not have, by a better clock
		if r.view, r.why = r.offline(); r.why != nil {
			return nil, r.why
		}
		r.publish(time.Time{})
	}
	v := r.view
	if err := r.fresh(v); err != nil {
		return nil, err
	}
	if !r.o.PlainTUF && !plainPath(name) {
		return nil, fail(CodeNoTarget, ErrNoTarget, "%q; a path of a-z A-Z 0-9 . _ - between slashes is wanted", name)
	}
	known := len(v.parents)
	t, err := r.walk(ctx, v, name)
	if len(v.parents) > known { // what was fetched on the way, and is good whatever comes after it
		err = errors.Join(err, r.accept(v))
		r.publish(time.Time{})
	}
	return t, err
}

func (r *Repository) walk(ctx context.Context, v *view, name string) (*metadata.TargetFiles, error) {
	visited := map[string]bool{}
	stack := []hop{{targets, root}}
	for len(stack) > 0 {
		h := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if err := r.allowed(v, h, name); err != nil {
			return nil, err
		}
		if visited[h.role] {
			continue
		}
		if len(visited) > maxVisits {
			return nil, fail(CodeDelegation, nil, "target %s: more than %d roles to ask", name, maxVisits)
		}
		if err := r.load(ctx, v, h.role, h.parent); err != nil {
			return nil, err
		}
		visited[h.role] = true
		m := v.Targets[h.role].Signed
		if t := m.Targets[name]; t != nil {
			return t, nil
		}
		if m.Delegations == nil {
			continue
		}
		var next []hop
		var results []metadata.RoleResult
		if err := guard(func() error { results = m.Delegations.GetRolesForTarget(name); return nil }); err != nil {
			return nil, fail(CodeMalformed, err, "the delegations of role %q", h.role)
		}
		for _, d := range results {
			next = append(next, hop{d.Name, h.role})
			if d.Terminating {
				stack = nil
				break
			}
		}
		slices.Reverse(next)
		stack = append(stack, next...)
	}
	return nil, fail(CodeNoTarget, ErrNoTarget, "%s", name)
}

// allowed is what goes beyond TUF: which role may be asked about a path, who may delegate to it, and that only one does.
func (r *Repository) allowed(v *view, h hop, name string) error {
	if topLevel(h.role) {
		if h.role == targets && h.parent == root {
			return nil
		}
		return fail(CodeDelegation, nil, "role %q delegates to %q, which only the root may", h.parent, h.role)
	}
	if r.o.PlainTUF {
		return nil
	}
	if !plainName(h.role) {
		return fail(CodeDelegation, nil, "role %q delegates to %q; a name of a-z A-Z 0-9 . _ - is wanted", h.parent, h.role)
	}
	for other, m := range v.Targets {
		if n := delegates(m.Signed.Delegations, h.role); n > 1 || n == 1 && other != h.parent {
			return fail(CodeDiamond, nil, "role %q is delegated by %q and by %q; one delegator is wanted", h.role, h.parent, other)
		}
	}
	space, rest, _ := strings.Cut(name, "/")
	product, _, _ := strings.Cut(rest, "/")
	var ok bool
	switch space {
	case "releases":
		ok = h.parent == targets && h.role == "releases-"+product
	case "dev":
		ok = h.parent == targets && strings.HasPrefix(h.role, "dev-")
	case "orders":
		ok = h.parent == targets && h.role == "orders" || h.parent == "orders" && strings.HasPrefix(h.role, "orders-")
	}
	if !ok {
		return fail(CodeDelegation, nil, "role %q lets %q sign %s, which it may not", h.parent, h.role, name)
	}
	return nil
}

// delegates counts how often d names a role.
func delegates(d *metadata.Delegations, role string) (n int) {
	if d == nil {
		return 0
	}
	for _, other := range d.Roles {
		if other.Name == role {
			n++
		}
	}
	if d.SuccinctRoles != nil && d.SuccinctRoles.IsDelegatedRole(role) {
		n++
	}
	return n
}

// plainName is a file name of harmless characters.
func plainName(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// plainPath is a relative path of such names.
func plainPath(s string) bool {
	parts := strings.Split(s, "/")
	return len(parts) <= 8 && !slices.ContainsFunc(parts, func(p string) bool { return !plainName(p) })
}

// checkName refuses what could lead out of the repository's folder.
func checkName(name string) error {
	for _, p := range strings.Split(name, "/") {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "\\\x00?#") {
			return fmt.Errorf("the name %q; a relative path without empty, . or .. parts is wanted", name)
		}
	}
	return nil
}
