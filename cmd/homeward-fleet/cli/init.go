package cli

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"homeward/cmd/cmdline"
	"homeward/cmd/homeward-fleet/fleet"
	"homeward/ota/release"
	"homeward/ota/trust/writer"
)

// made is a new key, in memory.
type made struct {
	holder string
	file   *writer.KeyFile
}

// makeKey makes a key for a role, puts it into the ring and into the role.
func makeKey(r *fleet.Roles, ring *writer.Ring, role, holder, passphrase string, threshold int) (made, error) {
	k, private, err := writer.NewKey(role, passphrase, workFactor)
	if err != nil {
		return made{}, err
	}
	ring.Add(k, private)
	if r.Roles[role] == nil {
		r.Roles[role] = &fleet.RoleKeys{Threshold: threshold}
	}
	r.Roles[role].Keys = append(r.Roles[role].Keys, fleet.KeyOf(k.Public, holder))
	return made{holder, k}, nil
}

func (a *app) initCommand() *cobra.Command {
	var s fleet.Settings
	var threshold, owners, gateways int
	var plain bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a fleet's folder, its keys and its first signed repository",
		Long: `Make a fleet's folder: the keys of all roles, fleet.yaml, and a first repository that is signed and can be served.

root and targets belong to the owner. They have as many keys as there are owners (--owners), and want the signatures of --threshold
of them, so that no single stolen or lost key decides. The others have one key each; more can be added with "key add".`,
		Example: `  homeward-fleet init --fleet acme --organization acme --address https://fleet.example.net/acme`,
		Args:    cmdline.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&s.Organization, "organization", "", "whose fleet it is, as the gateways' configuration says it")
	flags.StringVar(&s.Address, "address", "", "where gateways will find the repository: https://…")
	flags.IntVar(&threshold, "threshold", 2, "signatures that root and targets want; 1: one stolen key takes the fleet")
	flags.IntVar(&owners, "owners", 3, "keys that root and targets have")
	flags.IntVar(&gateways, "gateways", 1000, "about how many gateways there will be: their orders are spread over files accordingly")
	flags.BoolVar(&plain, "no-passphrase", false, "leave the keys in the clear")
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !release.IsName(s.Organization) {
			return cmdline.Usage(fmt.Errorf("--organization %q: want %s", s.Organization, release.WantName))
		}
		if err := fleet.CheckAddress(s.Address); err != nil {
			return cmdline.Usage(fmt.Errorf("--address %s: %w", s.Address, err))
		}
		if owners < 1 || owners > 16 {
			return cmdline.Usage(fmt.Errorf("--owners %d: want 1 to 16", owners))
		}
		if threshold < 1 || threshold > owners {
			return cmdline.Usage(fmt.Errorf("--threshold %d: want 1 to %d, the number of --owners", threshold, owners))
		}
		if gateways < 1 || gateways > 1_000_000 {
			return cmdline.Usage(fmt.Errorf("--gateways %d: want 1 to 1000000", gateways))
		}
		roles := fleet.Roles{Schema: 1, Bits: orderBits(gateways), Roles: map[string]*fleet.RoleKeys{}}
		out := cmd.OutOrStdout()
		if a.dry {
			fmt.Fprintf(out, "would make %s: root and targets with %d keys each, of which %d sign; orders in %d files; "+
				"snapshot, timestamp and orders with one key each\n", a.dir, owners, threshold, 1<<roles.Bits)
			return nil
		}
		passphrase, err := a.newPassphrase(cmd, plain)
		if err != nil {
			return err
		}
		f, err := fleet.Init(a.dir, s, roles, now)
		if err != nil {
			return err
		}
		err = a.first(cmd, f, passphrase, owners, threshold)
		return errors.Join(err, f.Close())
	}
	return cmd
}

// orderBits: a gateway fetches the snapshot (28 bytes for each of B files) and one of the files (160 bytes for each of N/B orders) when
// they change; together they are smallest near B = √(5.7 N).
func orderBits(gateways int) int {
	return max(2, min(8, bits.Len(uint(gateways*57/10))/2))
}

func (a *app) first(cmd *cobra.Command, f *fleet.Folder, passphrase string, owners, threshold int) error {
	ring := &writer.Ring{}
	var keys []made
	add := func(role, holder string, threshold int) error {
		m, err := makeKey(&f.Roles, ring, role, holder, passphrase, threshold)
		keys = append(keys, m)
		return err
	}
	for i := range owners {
		holder := fmt.Sprintf("owner-%d", i+1)
		if err := errors.Join(add(writer.Root, holder, threshold), add(writer.Targets, holder, threshold)); err != nil {
			return err
		}
	}
	if err := errors.Join(add(writer.Orders, "fleet", 1), add(writer.Snapshot, "automation", 1), add(writer.Timestamp, "automation", 1)); err != nil {
		return err
	}
	// The keys are written first: nothing is signed with a key that a crash may lose.
	for _, k := range keys {
		if err := k.file.Write(f.FS, keyPath(f.KeysDir(), k.holder, k.file)); err != nil {
			return err
		}
	}
	plan, err := f.Plan()
	if err != nil {
		return err
	}
	change, err := f.Repo.Prepare(plan, ring)
	if err != nil {
		return err
	}
	if err := change.Commit(); err != nil {
		return err
	}
	if err := f.Write(); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s is the fleet of %s. Root and targets want %d of %d signatures.\n\nThe keys, and where they belong:\n",
		f.Dir, f.Settings.Organization, threshold, owners)
	held := map[string][]string{}
	var order []string
	for _, k := range keys {
		if held[k.holder] == nil {
			order = append(order, k.holder)
		}
		held[k.holder] = append(held[k.holder], filepath.Base(k.file.Path))
	}
	for _, holder := range order {
		fmt.Fprintf(out, "  keys/%s/   %s\n      %s\n", holder, strings.Join(held[holder], " "), belongs(holder))
	}
	guide(out, f, threshold, passphrase == "")
	return nil
}

func belongs(holder string) string {
	switch {
	case strings.HasPrefix(holder, "owner-"):
		return "to one owner: move the folder to a USB stick, give each file a passphrase of the owner's own (key passphrase FILE) before anything else,\n" +
			"      keep it offline and a copy elsewhere. Needed for products, pins, key changes, and once a year"
	case holder == "automation":
		return "to the machine that publishes. Needed at each publish, and at least once a week"
	case holder == "fleet":
		return "to whoever assigns gateways: enroll, orders, pin, unpin. Needed at each of them, and once in 60 days"
	}
	return "to whoever makes releases. Needed at each release, each step of a rollout, and once in 60 days"
}

func guide(out io.Writer, f *fleet.Folder, threshold int, plain bool) {
	if threshold == 1 {
		fmt.Fprint(out, "\nA threshold of 1: whoever gets one owner's keys can sign anything for every gateway, for good. Two owners are safer: key add.\n")
	}
	if plain {
		fmt.Fprint(out, "\nThe keys have no passphrase: whoever reads a file has the key. homeward-fleet key passphrase FILE gives it one.\n")
	}
	if !plain {
		fmt.Fprint(out, "\nAll of them have the same passphrase now, and who knows it needs only the files: each owner gives theirs another one first.\n")
	}
	fmt.Fprintf(out, `
Next:
  serve %s/ with any web server, or try it with homeward-fleet serve
  give each gateway %s as fleet.root_file
  homeward-fleet product add NAME, then homeward-fleet publish
`, f.RepositoryDir(), filepath.Join(f.RepositoryDir(), "1.root.json"))
}

func (a *app) productCommand() *cobra.Command {
	var plain bool
	add := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a product, with keys for its releases and for its development gateways",
		Long: `Add a product, as the gateways' configuration names it: a key that signs its releases and rollouts, and one that signs what its
pinned development gateways get, and nothing else. The owners have to sign that these keys may do so: publish.`,
		Example: "  homeward-fleet product add gateway-v2",
		Args:    args("NAME"),
	}
	add.Flags().BoolVar(&plain, "no-passphrase", false, "leave the keys in the clear")
	a.changes(add)
	add.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		if !release.IsName(name) || strings.ContainsFunc(name, func(r rune) bool { // it stands in paths, which gateways want plain
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
		}) {
			return cmdline.Usage(fmt.Errorf("product %q: want 1 to 64 of a-z A-Z 0-9 . _ -, no dot at its beginning", name))
		}
		return a.with(func(f *fleet.Folder) error {
			if f.Product(name) == nil {
				return fmt.Errorf("product %s is there already", name)
			}
			if n := len(f.Products()); n >= fleet.MaxProducts {
				return fmt.Errorf("product %s: there are %d already: a fleet has at most %d", name, n, fleet.MaxProducts)
			}
			out := cmd.OutOrStdout()
			if a.dry {
				fmt.Fprintf(out, "would add product %s with a key for releases-%s and one for dev-%s\n", name, name, name)
				return nil
			}
			passphrase, err := a.newPassphrase(cmd, plain)
			if err != nil {
				return err
			}
			ring := &writer.Ring{}
			for _, r := range []struct{ role, holder string }{{"releases-" + name, "releases"}, {"dev-" + name, "fleet"}} {
				m, err := makeKey(&f.Roles, ring, r.role, r.holder, passphrase, 1)
				if err != nil {
					return err
				}
				if err := m.file.Write(f.FS, keyPath(f.KeysDir(), m.holder, m.file)); err != nil {
					return err
				}
				fmt.Fprintf(out, "%s\n    %s\n", m.file.Path, belongs(m.holder))
			}
			if err := f.SaveRollouts(&release.Rollouts{Schema: 1, Product: name}); err != nil {
				return err
			}
			if err := f.SaveRoles(); err != nil {
				return err
			}
			fmt.Fprintf(out, "product %s is added; targets has to sign it: homeward-fleet publish\n", name)
			return nil
		})
	}
	list := a.facts(&cobra.Command{Use: "list", Short: "List the products", Example: "  homeward-fleet product list", Args: cmdline.NoArgs})
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := a.look()
		if err != nil {
			return err
		}
		if a.json {
			return printJSON(cmd.OutOrStdout(), append([]string{}, f.Products()...))
		}
		for _, p := range f.Products() {
			fmt.Fprintln(cmd.OutOrStdout(), p)
		}
		return nil
	}
	return parent("product", "The fleet's products", add, list)
}
