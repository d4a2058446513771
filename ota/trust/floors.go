package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"

	"homeward/ota/boot"
)

// noFloors keeps nothing.
type noFloors struct{}

func (noFloors) RoleFloors() map[string]boot.RoleFloor         { return nil }
func (noFloors) SetRoleFloors(map[string]boot.RoleFloor) error { return nil }

// keysOf is the ids of a role's keys, sorted, and its threshold. parent is only looked at for delegated roles.
func keysOf(v *view, role, parent string) (ids []string, threshold int) {
	if topLevel(role) {
		if d := v.Root.Signed.Roles[role]; d != nil {
			ids, threshold = d.KeyIDs, d.Threshold
		}
	} else if p := v.Targets[parent]; p != nil && p.Signed.Delegations != nil {
		d := p.Signed.Delegations
		if s := d.SuccinctRoles; s != nil && d.Roles == nil {
			ids, threshold = s.KeyIDs, s.Threshold
		}
		for _, d := range d.Roles {
			if d.Name == role {
				ids, threshold = d.KeyIDs, d.Threshold
				break
			}
		}
	}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids), threshold
}

// bind is a short hash of the keys to which a role's floor is bound. The snapshot's is bound to the timestamp's keys too: with
// those alone one can make the snapshot's version run away.
func bind(v *view, role, parent string) string {
	if role == root {
		return "" // a root never goes back, whoever signs it
	}
	h := sha256.New()
	add := func(role string) {
		ids, _ := keysOf(v, role, parent)
		for _, id := range ids {
			h.Write([]byte(id + "\n"))
		}
	}
	add(role)
	if role == snapshot {
		add(timestamp)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// floor is the version below which a role may not fall; ok is false if there is none for its keys.
func (r *Repository) floor(v *view, role, parent string) (version int64, ok bool) {
	f, ok := r.o.Floors.RoleFloors()[role]
	if !ok || f.Keys != bind(v, role, parent) {
		return 0, false
	}
	return f.Version, true
}

// above tells whether a whole set holds the floors.
func (r *Repository) above(v *view) error {
	versions := map[string]int64{
		root: v.Root.Signed.Version, timestamp: v.Timestamp.Signed.Version, snapshot: v.Snapshot.Signed.Version, targets: v.Targets[targets].Signed.Version,
	}
	for _, role := range slices.Sorted(maps.Keys(versions)) {
		if floor, ok := r.floor(v, role, ""); ok && versions[role] < floor {
			return fail(CodeRollback, nil, "%s %d; %d was seen before", role, versions[role], floor)
		}
	}
	return nil
}

// floorsOf is the floors that a verified set makes.
func floorsOf(v *view) map[string]boot.RoleFloor {
	f := map[string]boot.RoleFloor{root: {Version: v.Root.Signed.Version}}
	f[timestamp] = boot.RoleFloor{Version: v.Timestamp.Signed.Version, Keys: bind(v, timestamp, "")}
	f[snapshot] = boot.RoleFloor{Version: v.Snapshot.Signed.Version, Keys: bind(v, snapshot, "")}
	for role, parent := range v.parents {
		f[role] = boot.RoleFloor{Version: v.Targets[role].Signed.Version, Keys: bind(v, role, parent)}
	}
	return f
}

// raise makes floors durable; one that is higher already stays, unless the role's keys have changed.
func (r *Repository) raise(floors map[string]boot.RoleFloor) error {
	all := r.o.Floors.RoleFloors()
	raised := maps.Clone(all)
	if raised == nil {
		raised = map[string]boot.RoleFloor{}
	}
	for role, f := range floors {
		if old, ok := all[role]; !ok || old.Keys != f.Keys || old.Version < f.Version {
			raised[role] = f
		}
	}
	if maps.Equal(all, raised) {
		return nil
	}
	if err := r.o.Floors.SetRoleFloors(raised); err != nil {
		return fail(CodeStore, err, "keep the versions that were seen")
	}
	return nil
}
