package trust

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// These are rows of TUF's conformance suite (github.com/theupdateframework/tuf-conformance), under its names, on the client as the
// suite sees it: without what is wanted beyond TUF.

// plainFleet is a fleet with one key per role and nothing delegated.
func plainFleet(t *testing.T) *fleet {
	f := newFleet(t)
	for _, role := range []string{root, timestamp, snapshot, targets} {
		f.rekey(role, 1)
	}
	f.roles = map[string]*metadata.Metadata[metadata.TargetsType]{targets: metadata.Targets(f.root.Signed.Expires)}
	f.snap.Signed.Meta = map[string]*metadata.MetaFiles{}
	f.files = map[string][]byte{}
	f.publish()
	return f
}

func (f *fleet) plain(s *server) *gateway {
	g := f.gateway(f.web(s))
	g.o.PlainTUF, g.o.Floors = true, nil
	return g
}

// as gives a top-level role some of the numbered keys.
func (f *fleet) as(all []ed25519.PrivateKey, role string, keys []int, threshold int, sigs []int) {
	f.root.Signed.Roles[role].KeyIDs = nil
	f.root.Signed.Roles[role].Threshold = threshold
	for _, i := range keys {
		key, _ := keyOf(f.t, all[i])
		require.NoError(f.t, f.root.Signed.AddKey(key, role))
	}
	f.keys[role] = nil
	for _, i := range sigs {
		f.keys[role] = append(f.keys[role], all[i])
	}
}

type mdVersion struct {
	keys      []int
	threshold int
	sigs      []int
}

func TestSuiteRootRotation(t *testing.T) {
	t.Parallel()
	five, next, other := []int{0, 1, 2, 3, 4}, []int{0, 1, 3, 4, 5}, []int{5, 6, 7, 8, 9}
	for _, c := range []struct {
		name     string
		fails    bool
		versions []mdVersion
	}{
		{"1-of-1-key-rotation", false, []mdVersion{{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{2, 1}}, {[]int{2}, 1, []int{2}}}},
		{"1-of-1-key-rotation-unused-signatures", false, []mdVersion{{[]int{1}, 1, []int{3, 1, 4}}, {[]int{2}, 1, []int{3, 2, 1, 4}}, {[]int{2}, 1, []int{3, 2, 4}}}},
		{"3-of-5-sign-with-different-keycombos", false, []mdVersion{{five, 3, []int{0, 2, 4}}, {five, 3, []int{0, 4, 1}}, {five, 3, []int{0, 1, 3}}, {five, 3, []int{0, 1, 3}}}},
		{"3-of-5-one-key-rotated", false, []mdVersion{{five, 3, []int{0, 2, 4}}, {next, 3, []int{0, 4, 1}}}},
		{"3-of-5-one-key-rotated-with-intermediate-step", false, []mdVersion{{five, 3, []int{0, 2, 4}}, {next, 3, []int{0, 2, 4, 5}}, {next, 3, []int{0, 4, 5}}}},
		{"3-of-5-all-keys-rotated-with-intermediate-step", false, []mdVersion{{five, 3, []int{0, 2, 4}}, {other, 3, []int{0, 2, 4, 5, 6, 7}}, {other, 3, []int{5, 6, 7}}}},
		{"1-of-3-threshold-increase-to-2-of-3", false, []mdVersion{{[]int{1, 2, 3}, 1, []int{1}}, {[]int{1, 2, 3}, 2, []int{1, 2}}}},
		{"2-of-3-threshold-decrease-to-1-of-3", false, []mdVersion{{[]int{1, 2, 3}, 2, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1}}}},
		{"1-of-2-threshold-increase-to-2-of-2", false, []mdVersion{{[]int{1}, 1, []int{1}}, {[]int{1, 2}, 2, []int{1, 2}}}},
		{"1-of-1-key-rotation-fail-not-signed-with-old-key", true, []mdVersion{{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{2, 3, 4}}}},
		{"1-of-1-key-rotation-fail-not-signed-with-new-key", true, []mdVersion{{[]int{1}, 1, []int{1}}, {[]int{2}, 1, []int{1, 3, 4}}}},
		{"3-of-5-one-key-rotate-fails-not-signed-with-3-new-keys", true, []mdVersion{{five, 3, []int{0, 2, 4}}, {next, 3, []int{0, 2, 4}}}},
		{"3-of-5-one-key-rotate-fails-not-signed-with-3-old-keys", true, []mdVersion{{five, 3, []int{0, 2, 4}}, {next, 3, []int{0, 4, 5}}}},
		{"1-of-3-threshold-bump-to-2-of-3-fails-new-threshold-not-reached", true, []mdVersion{{[]int{1, 2, 3}, 1, []int{1}}, {[]int{1, 2, 3}, 2, []int{2}}}},
		{"2-of-3-threshold-decr-to-1-of-3-fails-old-threshold-not-reached", true, []mdVersion{{[]int{1, 2, 3}, 2, []int{1, 2}}, {[]int{1, 2, 3}, 1, []int{1}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := plainFleet(t)
			all := make([]ed25519.PrivateKey, 10)
			for i := range all {
				all[i] = newKey(t)
			}
			f.root.Signed.Version = 0
			var want []byte
			for i, v := range c.versions {
				f.root.Signed.Version++
				f.as(all, root, v.keys, v.threshold, v.sigs)
				if raw := f.signRoot(); !c.fails || i < len(c.versions)-1 {
					want = raw
				}
			}
			r := f.plain(f.serve()).open()
			err := r.Refresh(context.Background())
			require.Equal(t, c.fails, err != nil, "%v", err)
			require.Equal(t, string(want), string(r.Files()[root]))
		})
	}
}

func TestSuiteNonRootRotation(t *testing.T) {
	t.Parallel()
	five, next := []int{0, 1, 2, 3, 4}, []int{0, 1, 3, 4, 5}
	for _, c := range []struct {
		name  string
		fails bool
		v     mdVersion
	}{
		{"1-of-1-key-rotation", false, mdVersion{[]int{2}, 1, []int{2}}},
		{"1-of-1-key-rotation-unused-signatures", false, mdVersion{[]int{1}, 1, []int{3, 1, 4}}},
		{"1-of-1-key-rotation-fail-not-signed-with-new-key", true, mdVersion{[]int{2}, 1, []int{1, 3, 4}}},
		{"3-of-5-one-key-signature-wrong-not-signed-with-3-expected-keys", true, mdVersion{next, 3, []int{0, 2, 4}}},
		{"2-of-5-one-key-signature-missing-threshold-not-reached", true, mdVersion{next, 3, []int{0, 4}}},
		{"3-of-5-sign-first-combo", false, mdVersion{five, 3, []int{0, 2, 4}}},
		{"3-of-5-sign-second-combo", false, mdVersion{five, 3, []int{0, 4, 1}}},
		{"3-of-5-sign-third-combo", false, mdVersion{five, 3, []int{0, 1, 3}}},
		{"3-of-5-sign-fourth-combo", false, mdVersion{five, 3, []int{1, 2, 3}}},
		{"3-of-5-sign-fifth-combo", false, mdVersion{five, 3, []int{2, 3, 4}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := plainFleet(t)
			all := make([]ed25519.PrivateKey, 10)
			for i := range all {
				all[i] = newKey(t)
			}
			r := f.plain(f.serve()).open()
			for _, role := range []string{timestamp, snapshot, targets} {
				f.newRoot(func() { f.as(all, role, c.v.keys, c.v.threshold, c.v.sigs) })
				f.next(targets)
				err := r.Refresh(context.Background())
				require.Equal(t, c.fails, err != nil, "%s: %v", role, err)
				if !c.fails {
					name := fmt.Sprintf("%d.%s.json", f.snap.Signed.Version, role)
					if role == timestamp {
						name = "timestamp.json"
					}
					require.Equal(t, string(f.get(name)), string(r.Files()[role]))
				}
			}
		})
	}
}

type edge struct {
	from, to    string
	terminating bool
	paths       []string
}

func (f *fleet) graph(edges ...edge) {
	for _, e := range edges {
		if e.paths == nil {
			e.paths = []string{"*"}
		}
		f.delegate(e.from, e.to, e.paths, e.terminating)
	}
}

// visited is the delegated roles that were asked for.
func visited(s *server) (roles []string) {
	all, _ := s.seen()
	for _, name := range all[4:] {
		if role, ok := strings.CutSuffix(strings.TrimPrefix(name, "1."), ".json"); ok {
			roles = append(roles, role)
		}
	}
	return roles
}

func TestSuiteGraphTraversal(t *testing.T) {
	t.Parallel()
	a, b := edge{from: targets, to: "A"}, edge{from: targets, to: "B"}
	for _, c := range []struct {
		name  string
		edges []edge
		order string
	}{
		{"basic-delegation", []edge{a}, "A"},
		{"single-level-delegations", []edge{a, b}, "A B"},
		{"two-level-delegations", []edge{a, b, {from: "B", to: "C"}}, "A B C"},
		{"two-level-test-DFS-order-of-traversal", []edge{a, b, {from: "A", to: "C"}, {from: "A", to: "D"}}, "A C D B"},
		{"three-level-delegation-test-DFS-order-of-traversal", []edge{a, b, {from: "A", to: "C"}, {from: "C", to: "D"}}, "A C D B"},
		{"two-level-terminating-ignores-all-but-roles-descendants", []edge{a, b, {from: "A", to: "C", terminating: true}, {from: "A", to: "D"}}, "A C"},
		{"three-level-terminating-ignores-all-but-roles-descendants", []edge{a, b, {from: "A", to: "C", terminating: true}, {from: "C", to: "D"}}, "A C D"},
		{"two-level-ignores-all-branches-not-matching-paths", []edge{{from: targets, to: "A", paths: []string{"*.py"}}, b, {from: "A", to: "C"}}, "B"},
		{"three-level-ignores-all-branches-not-matching-paths", []edge{a, b, {from: "A", to: "C", paths: []string{"*.py"}}, {from: "C", to: "D"}}, "A B"},
		{"cyclic-graph", []edge{a, b, {from: "B", to: "C"}, {from: "C", to: "D"}, {from: "D", to: "B"}}, "A B C D"},
		{"two-roles-delegating-to-a-third", []edge{a, b, {from: "B", to: "C"}, {from: "A", to: "C"}}, "A C B"},
		{"two-roles-delegating-to-a-third-different-paths", []edge{a, b, {from: "B", to: "C"}, {from: "A", to: "C", paths: []string{"*.py"}}}, "A B C"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := plainFleet(t)
			f.graph(c.edges...)
			f.publish()
			s := f.serve()
			r := f.plain(s).open()
			require.NoError(t, r.Refresh(context.Background()))
			_, err := r.Target(context.Background(), "missingpath")
			require.Equal(t, CodeNoTarget, code(err), "%v", err)
			require.Equal(t, strings.Fields(c.order), visited(s))
		})
	}
}

func TestSuiteTargetfileSearch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, target string
		found        bool
		order        []string
	}{
		{"no delegations", "targetfile", true, nil},
		{"targetpath matches wildcard", "README.md", true, []string{"A"}},
		{"targetpath with separators x", "releases/x/x_v1", true, []string{"B", "C"}},
		{"targetpath with separators y", "releases/y/y_v1.zip", true, []string{"B", "D"}},
		{"targetpath is not delegated by all roles in the chain", "releases/z/z_v1.zip", false, []string{"B"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := plainFleet(t)
			f.graph(edge{targets, "A", false, []string{"*.doc", "*.md"}}, edge{targets, "B", false, []string{"releases/*/*"}},
				edge{"B", "C", false, []string{"releases/x/*"}}, edge{"B", "D", false, []string{"releases/y/*.zip"}})
			for target, role := range map[string]string{"targetfile": targets, "README.md": "A", "releases/x/x_v1": "C", "releases/y/y_v1.zip": "D", "releases/z/z_v1.zip": "D"} {
				f.target(role, target, target+" by "+role)
			}
			f.publish()
			s := f.serve()
			r := f.plain(s).open()
			require.NoError(t, r.Refresh(context.Background()))
			got, err := r.Target(context.Background(), c.target)
			require.Equal(t, c.found, err == nil, "%v", err)
			if c.found {
				require.Contains(t, string(got), c.target+" by ")
			}
			require.Equal(t, c.order, visited(s))
		})
	}
}

func TestSuiteWildcards(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, target string
		matches         bool
	}{
		{"*", "foo", true}, {"*", "foo/bar", false}, {"foo/*", "foo/bar", true}, {"foo/*", "foo/bar/baz", false}, {"*/*", "foo/bar", true},
		{"foo/f?o", "foo/fxo", true}, {"foo/f?o", "foo/fo", false}, {"foo/[a-c]", "foo/b", true}, {"foo/bar", "foo/bar", true},
	} {
		t.Run(fmt.Sprintf("%s %s", c.pattern, c.target), func(t *testing.T) {
			t.Parallel()
			f := plainFleet(t)
			f.graph(edge{targets, "A", false, []string{c.pattern}})
			f.target("A", c.target, "x")
			f.publish()
			r := f.plain(f.serve()).open()
			require.NoError(t, r.Refresh(context.Background()))
			_, err := r.Target(context.Background(), c.target)
			require.Equal(t, c.matches, err == nil, "%v", err)
		})
	}
}

func TestSuiteUnusualRoleNames(t *testing.T) {
	t.Parallel()
	for role, asked := range map[string]string{"?": "1.?.json", "#": "1.#.json", "/delegatedrole": "1./delegatedrole.json", "../delegatedrole": "1.../delegatedrole.json"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			f := plainFleet(t)
			f.graph(edge{from: targets, to: role})
			f.publish()
			s := f.serve()
			g := f.plain(s)
			r := g.open()
			require.NoError(t, r.Refresh(context.Background()))
			_, err := r.Target(context.Background(), "nonexistent")
			require.Equal(t, CodeNoTarget, code(err), "%v", err)
			all, _ := s.seen()
			require.Equal(t, asked, all[4], "as the server unescapes it")
			require.Len(t, g.open().Files(), 5)
			_, err = g.fs.Stat("/state/ota/delegatedrole.json")
			require.Error(t, err, "nothing leaves the folder")
		})
	}
}

// The row that go-tuf's own updater fails: a role that is cached through one delegator is verified again for another.
func TestSuiteCachedRoleIsVerifiedAgainstCurrentDelegator(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	f := plainFleet(t)
	f.graph(edge{targets, "A", false, []string{"a/*"}}, edge{targets, "B", false, []string{"b/*"}}, edge{"A", "C", false, []string{"*/*"}})
	good := f.keys["C"]
	f.keys["C"] = []ed25519.PrivateKey{newKey(t)}
	f.graph(edge{"B", "C", false, []string{"*/*"}}) // another key
	f.keys["C"] = good
	f.target("C", "a/x", "x")
	f.target("C", "b/x", "x")
	f.publish()
	g := f.plain(f.serve())
	for _, restart := range []bool{false, true} {
		r := g.open()
		require.NoError(t, r.Refresh(ctx))
		_, err := r.Target(ctx, "a/x")
		require.NoError(t, err)
		if restart {
			r = g.open()
		}
		_, err = r.Target(ctx, "b/x")
		require.Equal(t, CodeSignature, code(err), "%v", err)
	}
}

func TestSuiteConsistentSnapshot(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, consistent := range []bool{true, false} {
		f := plainFleet(t)
		f.newRoot(func() { f.root.Signed.ConsistentSnapshot = consistent })
		f.target(targets, "path/file", "x")
		f.publish()
		if !consistent {
			f.put("snapshot.json", f.get("1.snapshot.json"))
			f.put("targets.json", f.get("1.targets.json"))
			f.put("path/file", []byte("x"))
			f.drop("1.snapshot.json", "1.targets.json")
		}
		r := f.plain(f.serve()).open()
		require.NoError(t, r.Refresh(ctx))
		got, err := r.Target(ctx, "path/file")
		require.NoError(t, err)
		require.Equal(t, "x", string(got))
	}
}
