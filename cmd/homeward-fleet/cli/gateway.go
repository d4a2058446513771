package cli

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"homeward/buffer/durable"
	"homeward/cmd/cmdline"
	"homeward/cmd/homeward-fleet/fleet"
	"homeward/ota/release"
	"homeward/ota/trust/writer"
)

func (a *app) enrollCommand() *cobra.Command {
	var product, out string
	cmd := &cobra.Command{
		Use:   "enroll ENROLMENT",
		Short: "Take a gateway on, and write its provisioning file",
		Long: `Take a gateway on from its enrolment file (enrolment.json in its state folder; nothing in it is secret), give it a first order, and
write its provisioning file: the repository's root, its address, and the order, signed with the key of orders.`,
		Example: "  homeward-fleet enroll enrolment.json --product gateway-v2",
		Args:    args("ENROLMENT"),
	}
	cmd.Flags().StringVar(&product, "product", "", "whose releases it gets (default: the only product)")
	cmd.Flags().StringVar(&out, "out", "", "where the provisioning file is written (default: GATEWAY.provision.yaml)")
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		raw, err := durable.ReadFile(args[0], release.MaxFile)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("no enrolment file %s", args[0])
		}
		if err != nil {
			return err
		}
		e, err := release.ParseEnrolment(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		return a.with(func(f *fleet.Folder) error { return a.enroll(cmd, f, e, product, out) })
	}
	return cmd
}

func (a *app) enroll(cmd *cobra.Command, f *fleet.Folder, e *release.Enrolment, product, out string) error {
	if product == "" {
		all := f.Products()
		if len(all) != 1 {
			return cmdline.Usage(fmt.Errorf("--product: want one of %s", strings.Join(all, ", ")))
		}
		product = all[0]
	}
	if err := f.Product(product); err != nil {
		return err
	}
	p, err := f.Repo.Load()
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New("nothing is published yet: homeward-fleet publish")
	}
	root, err := p.Root()
	if err != nil {
		return err
	}
	order, err := f.Order(e.Gateway)
	if err != nil {
		return err
	}
	if order == nil {
		order = &release.Order{Gateway: e.Gateway}
	}
	order.Release = release.OrderRelease{Product: product}
	if out == "" {
		out = e.Gateway + ".provision.yaml"
	}
	g := fleet.Gateway{Enrolment: *e, Product: product, Since: now().Unix()}
	if err := f.Enrollable(g); err != nil {
		return err
	}
	if a.dry {
		ring, err := a.ring(cmd, f)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(f.Roles.Roles[writer.Orders].Keys, func(k fleet.Key) bool { return ring.Has(k.ID) }) {
			return missingKey(f, writer.Orders, "the provisioning file is signed with it")
		}
		fmt.Fprintf(cmd.OutOrStdout(), "would take on %s (%s) with product %s, and write %s\n", e.Gateway, strings.Join(e.Hardware, " "), product, out)
		return nil
	}
	ring, err := a.ring(cmd, f)
	if err != nil {
		return err
	}
	order.Serial++
	text, err := order.Encode()
	if err != nil {
		return err
	}
	order.Serial--
	provision, err := provisioning(f, ring, root, e.Gateway, text)
	if err != nil {
		return err
	}
	if err := f.Enroll(g); err != nil {
		return err
	}
	if err := f.SaveOrder(order); err != nil {
		return err
	}
	if err := durable.WriteFile(out, provision, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is enrolled, product %s, order %d: publish; its provisioning file is %s\n", e.Gateway, product, order.Serial, out)
	return nil
}

// signedOrder is what the signature of a provisioning file is of: these fields, in this order, as compact JSON.
type signedOrder struct {
	Gateway    string          `json:"gateway"`
	Repository string          `json:"repository"`
	Root       json.RawMessage `json:"root"`
	Order      json.RawMessage `json:"order"`
}

// provisioning is a provisioning file. JSON is YAML, too: one line for each of its parts.
func provisioning(f *fleet.Folder, ring *writer.Ring, root []byte, gateway string, order []byte) ([]byte, error) {
	what := signedOrder{Gateway: gateway, Repository: f.Settings.Address, Root: root, Order: order}
	payload, err := json.Marshal(what)
	if err != nil {
		return nil, err
	}
	keys := f.Roles.Roles[writer.Orders]
	for _, k := range keys.Keys {
		signature, err := ring.Sign(k.ID, payload)
		if errors.Is(err, writer.ErrNoKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var b strings.Builder
		fmt.Fprintf(&b, "# What gateway %s needs to find its fleet. Nothing here is secret.\n", gateway)
		fmt.Fprintf(&b, "gateway: %q\nrepository: %q\nroot: %s\norder: %s\nsignature: {keyid: %q, sig: %q}\n",
			gateway, what.Repository, compact(root), compact(order), k.ID, hex.EncodeToString(signature))
		return []byte(b.String()), nil
	}
	return nil, missingKey(f, writer.Orders, "the provisioning file is signed with it")
}

func compact(raw []byte) string {
	out, err := json.Marshal(json.RawMessage(raw))
	if err != nil {
		return string(raw)
	}
	return string(out)
}

// missingKey names the keys of a role, none of which is at hand.
func missingKey(f *fleet.Folder, role, why string) error {
	var all []string
	for _, k := range f.Roles.Roles[role].Keys {
		all = append(all, f.Holder(k.ID))
	}
	return fmt.Errorf("role %s: no key is at hand of %s: %s; name the folder that has it with --keys", role, strings.Join(all, ", "), why)
}

func (a *app) pinCommand() *cobra.Command {
	var x about
	var programs []string
	cmd := &cobra.Command{
		Use:   "pin GATEWAY [VERSION]",
		Short: "Give a development gateway a release of its own, which rollouts leave alone",
		Long: `Pin a gateway: it takes what lies in dev/GATEWAY/ of the repository, older or newer, and no rollout changes it. Either a VERSION of its
product, or a program of its own (--program, once for each platform). The owners have to sign which gateways are pinned; after that, a
new program for a pinned gateway only wants the keys of dev-PRODUCT and orders.`,
		Example: `  homeward-fleet pin gw-0001 1.9.1
  homeward-fleet pin gw-0001 --program build/linux-arm64/homeward --version 1.9.2-dev3`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 || (len(args) == 2) == (len(programs) > 0) {
				return cmdline.Usage(fmt.Errorf("want a gateway, and either a version or --program: see %s --help", cmd.CommandPath()))
			}
			return nil
		},
	}
	x.flags(cmd)
	cmd.Flags().StringArrayVar(&programs, "program", nil, "a program of its own; may be repeated, for other platforms")
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.with(func(f *fleet.Folder) error {
			g, err := f.Enrolled(args[0])
			if err != nil {
				return err
			}
			r, err := f.Rollouts(g.Product)
			if err != nil {
				return err
			}
			var manifests []*release.Manifest
			if len(programs) > 0 {
				if manifests, err = a.ownRelease(cmd, f, r, x, programs); err != nil {
					return err
				}
			} else {
				l, err := find(r, args[1])
				if err != nil {
					return err
				}
				if l.State == release.Removed {
					return fmt.Errorf("%s (%d) is removed", l.Version, l.Counter)
				}
				for _, p := range l.Platforms {
					m, err := f.Manifest(r.Product, p, l.Counter)
					if err != nil {
						return err
					}
					manifests = append(manifests, m)
				}
			}
			first := manifests[0]
			said := fmt.Sprintf("%s is pinned to %s (%d)", g.Gateway, first.Version, first.Counter)
			if a.dry {
				fmt.Fprintf(cmd.OutOrStdout(), "would be: %s\n", said)
				return belowFloor(cmd, f, r, first.Counter)
			}
			if err := belowFloor(cmd, f, r, first.Counter); err != nil {
				return err
			}
			o, err := orderOf(f, g)
			if err != nil {
				return err
			}
			before, err := f.Order(g.Gateway)
			if err != nil {
				return err
			}
			if err := f.Unpin(g.Gateway); err != nil {
				return err
			}
			for _, m := range manifests {
				if err := f.Pin(g.Gateway, m); err != nil {
					return err
				}
			}
			o.Release = release.OrderRelease{Product: g.Product, Version: first.Version, Counter: first.Counter, Pin: true}
			if err := f.SaveOrder(o); err != nil {
				return err
			}
			who := "publish"
			if before == nil || !before.Release.Pin {
				who = "targets has to sign that it is: publish, with the owners' keys"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, order %d; %s\n", said, o.Serial, who)
			return nil
		})
	}
	return cmd
}

// belowFloor says where gateways that have kept the product's releases would refuse this one. Only a gateway knows what it has kept.
func belowFloor(cmd *cobra.Command, f *fleet.Folder, r *release.Rollouts, counter uint64) error {
	floor, err := lastFloor(f, r)
	if err == nil && counter > 0 && counter < floor {
		fmt.Fprintf(cmd.ErrOrStderr(), "release %d is below security floor %d of %s: a gateway that has kept a release with that floor refuses it (rel.floor)\n",
			counter, floor, r.Product)
	}
	return err
}

// ownRelease makes the manifests of programs for one gateway. They have the number of the product's newest release: below it no floor
// can be, and nothing that is to come has it.
func (a *app) ownRelease(cmd *cobra.Command, f *fleet.Folder, r *release.Rollouts, x about, paths []string) ([]*release.Manifest, error) {
	if err := x.check(); err != nil {
		return nil, err
	}
	programs, err := readPrograms(paths)
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		p.doubt(cmd.ErrOrStderr(), x.version)
	}
	x.counter = 1
	if n := len(r.Releases); n > 0 {
		x.counter = r.Releases[n-1].Counter
	}
	if x.floor, err = lastFloor(f, r); err != nil {
		return nil, err
	}
	var all []*release.Manifest
	for _, p := range programs {
		bases, err := f.Bases(r, p.Platform, 2)
		if err != nil {
			return nil, err
		}
		part, err := f.Part(p.content, bases, !a.dry, func(string, *release.Encoding) {})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.path, err)
		}
		all = append(all, x.manifest(r.Product, p.Platform, part))
	}
	return all, nil
}

func orderOf(f *fleet.Folder, g *fleet.Gateway) (*release.Order, error) {
	o, err := f.Order(g.Gateway)
	if err != nil || o != nil {
		return o, err
	}
	return &release.Order{Gateway: g.Gateway, Release: release.OrderRelease{Product: g.Product}}, nil
}

func (a *app) unpinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unpin GATEWAY",
		Short: "Bring a development gateway back to its product's releases",
		Long: `Bring a pinned gateway back to what its product's other gateways get, older or newer, but never below the security floor of what it
has kept. The owners have to sign that it is pinned no longer; it goes back as soon as its order is published.`,
		Example: "  homeward-fleet unpin gw-0001",
		Args:    args("GATEWAY"),
	}
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.with(func(f *fleet.Folder) error {
			g, err := f.Enrolled(args[0])
			if err != nil {
				return err
			}
			o, err := orderOf(f, g)
			if err != nil {
				return err
			}
			if !o.Release.Pin {
				return fmt.Errorf("%s is not pinned", g.Gateway)
			}
			r, err := f.Rollouts(g.Product)
			if err != nil {
				return err
			}
			to := "no release is offered to it: it keeps what it has"
			if counter, why := r.Entitled(g.Gateway, 0); counter > 0 {
				to = "it goes to " + why
				// What it has committed it keeps as its floor, which is not in the order's power.
				floor, err := pinnedFloor(f, g.Gateway)
				if err != nil {
					return err
				}
				if counter < floor {
					to = fmt.Sprintf("its security floor is %d, above %d, which its product has: it keeps what it has until there is a newer release", floor, counter)
				}
			}
			if a.dry {
				fmt.Fprintf(cmd.OutOrStdout(), "would be: %s is pinned no longer; %s\n", g.Gateway, to)
				return nil
			}
			o.Release = release.OrderRelease{Product: g.Product}
			if err := f.SaveOrder(o); err != nil {
				return err
			}
			if err := f.Unpin(g.Gateway); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is pinned no longer, order %d; %s. Publish\n", g.Gateway, o.Serial, to)
			return nil
		})
	}
	return cmd
}

func pinnedFloor(f *fleet.Folder, gateway string) (uint64, error) {
	all, err := f.Pinned(gateway)
	floor := uint64(0)
	for _, m := range all {
		floor = max(floor, m.SecurityFloor)
	}
	return floor, err
}

func (a *app) ordersCommand() *cobra.Command {
	var product, version, settings string
	set := &cobra.Command{
		Use:   "set GATEWAY...",
		Short: "Order something of gateways: their product, a release ahead of its rollout, settings",
		Example: `  homeward-fleet orders set gw-0001 gw-0002 --release 1.9.1
  homeward-fleet orders set gw-0001 --settings settings.json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmdline.Usage(fmt.Errorf("want gateways: see %s --help", cmd.CommandPath()))
			}
			return nil
		},
	}
	set.Flags().StringVar(&product, "product", "", "whose releases they get")
	set.Flags().StringVar(&version, "release", "", "a release that they may have before its rollout reaches them; none: as the rollouts say")
	set.Flags().StringVar(&settings, "settings", "", "a file with a JSON object of settings; none: the ones they have are taken away")
	a.changes(set)
	set.RunE = func(cmd *cobra.Command, args []string) error {
		if product == "" && version == "" && settings == "" {
			return cmdline.Usage(fmt.Errorf("nothing to order: give --product, --release or --settings"))
		}
		return a.with(func(f *fleet.Folder) error {
			var orders []*release.Order
			for _, id := range args {
				o, err := a.order(cmd, f, id, product, version, settings)
				if err != nil {
					return err
				}
				orders = append(orders, o)
			}
			if a.dry {
				fmt.Fprintf(cmd.OutOrStdout(), "would order it of %s\n", strings.Join(args, ", "))
				return nil
			}
			for _, o := range orders {
				if err := f.SaveOrder(o); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ordered of %s: publish\n", strings.Join(args, ", "))
			return nil
		})
	}
	show := a.facts(&cobra.Command{
		Use: "show GATEWAY", Short: "Show what is ordered of a gateway", Example: "  homeward-fleet orders show gw-0001", Args: args("GATEWAY"),
	})
	show.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := a.look()
		if err != nil {
			return err
		}
		g, err := f.Enrolled(args[0])
		if err != nil {
			return err
		}
		o, err := f.Order(g.Gateway)
		if err != nil {
			return err
		}
		if o == nil {
			return fmt.Errorf("nothing is ordered of %s", g.Gateway)
		}
		if a.json {
			return printJSON(cmd.OutOrStdout(), o)
		}
		out := cmd.OutOrStdout()
		fmt.Fprintf(out, "gateway  %s\nserial   %d\nproduct  %s\n", o.Gateway, o.Serial, o.Release.Product)
		switch {
		case o.Release.Pin:
			fmt.Fprintf(out, "release  pinned to %s (%d)\n", o.Release.Version, o.Release.Counter)
		case o.Release.Counter > 0:
			fmt.Fprintf(out, "release  %s (%d) or newer\n", o.Release.Version, o.Release.Counter)
		default:
			fmt.Fprintln(out, "release  as the rollouts say")
		}
		if len(o.Settings) > 0 {
			fmt.Fprintf(out, "settings %s\n", o.Settings)
		}
		return nil
	}
	return parent("orders", "What is ordered of gateways", set, show)
}

func (a *app) order(cmd *cobra.Command, f *fleet.Folder, id, product, version, settings string) (*release.Order, error) {
	g, err := f.Enrolled(id)
	if err != nil {
		return nil, err
	}
	o, err := orderOf(f, g)
	if err != nil {
		return nil, err
	}
	if o.Release.Pin && (product != "" || version != "") {
		return nil, fmt.Errorf("%s is pinned to %s (%d): homeward-fleet unpin %s first", id, o.Release.Version, o.Release.Counter, id)
	}
	if product != "" {
		if err := f.Product(product); err != nil {
			return nil, err
		}
		o.Release = release.OrderRelease{Product: product}
	}
	switch version {
	case "":
	case "none":
		o.Release = release.OrderRelease{Product: o.Release.Product}
	default:
		r, err := f.Rollouts(o.Release.Product)
		if err != nil {
			return nil, err
		}
		l, err := find(r, version)
		if err != nil {
			return nil, err
		}
		if l.State == release.Halted || l.State == release.Removed {
			return nil, fmt.Errorf("%s (%d) is %s: no gateway would take it", l.Version, l.Counter, l.State)
		}
		o.Release.Version, o.Release.Counter = l.Version, l.Counter
		if err := belowFloor(cmd, f, r, l.Counter); err != nil {
			return nil, err
		}
	}
	switch settings {
	case "":
	case "none":
		o.Settings = nil
	default:
		raw, err := durable.ReadFile(settings, release.MaxFile)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("--settings %s: no such file", settings)
		}
		if err != nil {
			return nil, err
		}
		if fields := map[string]json.RawMessage{}; json.Unmarshal(raw, &fields) != nil {
			return nil, fmt.Errorf("--settings %s: want a file with one JSON object, such as {\"poll\": {\"every\": \"10s\"}}", settings)
		}
		o.Settings = raw
	}
	o.Serial++ // as it will be: what cannot be encoded is found before anything is written
	_, err = o.Encode()
	o.Serial--
	return o, err
}

func (a *app) keyCommand() *cobra.Command {
	return parent("key", "The keys of the roles", a.keyList(), a.keyNew(), a.keyAdd(), a.keyRotate(), a.keyPassphrase())
}

// keyRow is what key list prints as JSON.
type keyRow struct {
	Role      string   `json:"role"`
	Version   int64    `json:"version"` // 0: not published yet
	Ends      string   `json:"ends,omitempty"`
	Over      bool     `json:"over"`
	Threshold int      `json:"threshold"`
	Keys      []keyOne `json:"keys"`
}

type keyOne struct {
	ID     string `json:"id"`
	Holder string `json:"holder"`
	Here   bool   `json:"here"`
}

func (a *app) keyList() *cobra.Command {
	cmd := a.facts(&cobra.Command{
		Use: "list", Short: "List the roles, until when they hold, and their keys", Example: "  homeward-fleet key list --keys /media/owner-1", Args: cmdline.NoArgs,
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := a.look()
		if err != nil {
			return err
		}
		ring, err := a.ring(cmd, f)
		if err != nil {
			return err
		}
		p, err := f.Repo.Load()
		if err != nil {
			return err
		}
		states := map[string]writer.State{}
		for _, s := range p.Roles() {
			states[s.Role] = s
		}
		var rows []keyRow
		var names []string
		for name := range f.Roles.Roles {
			names = append(names, name)
		}
		slices.SortFunc(names, func(x, y string) int { return strings.Compare(rank(x)+x, rank(y)+y) })
		for _, name := range names {
			r := f.Roles.Roles[name]
			row := keyRow{Role: name, Threshold: r.Threshold}
			if s, ok := states[name]; ok {
				row.Version, row.Ends, row.Over = s.Version, date(s.Expires), !f.Now().Before(s.Expires)
			}
			for _, k := range r.Keys {
				row.Keys = append(row.Keys, keyOne{k.ID, k.Holder, ring.Has(k.ID)})
			}
			rows = append(rows, row)
		}
		out := cmd.OutOrStdout()
		if a.json {
			return printJSON(out, rows)
		}
		w := table(out)
		fmt.Fprintln(w, "ROLE\tVERSION\tENDS\tWANTS\tKEYS (* here)")
		for _, r := range rows {
			var keys []string
			for _, k := range r.Keys {
				here := ""
				if k.Here {
					here = "*"
				}
				keys = append(keys, here+f.Holder(k.ID))
			}
			version, ends := "-", "not published"
			if r.Version > 0 {
				version, ends = fmt.Sprint(r.Version), r.Ends
			}
			if r.Over {
				ends += " ended"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d of %d\t%s\n", r.Role, version, ends, r.Threshold, len(r.Keys), strings.Join(keys, ", "))
		}
		return w.Flush()
	}
	return cmd
}

func rank(role string) string {
	i := slices.Index([]string{writer.Root, writer.Targets, writer.Snapshot, writer.Timestamp, writer.Orders}, role)
	if i < 0 {
		i = 9
	}
	return fmt.Sprint(i)
}

// role is a role of the fleet.
func role(f *fleet.Folder, name string) (*fleet.RoleKeys, error) {
	if r := f.Roles.Roles[name]; r != nil {
		return r, nil
	}
	var all []string
	for n := range f.Roles.Roles {
		all = append(all, n)
	}
	slices.Sort(all)
	return nil, fmt.Errorf("no role %q: there are %s", name, strings.Join(all, ", "))
}

func (a *app) keyNew() *cobra.Command {
	var plain bool
	var out string
	cmd := &cobra.Command{
		Use:   "new ROLE",
		Short: "Make a key, wherever its holder is; it says nothing before it is added",
		Long: `Make a key file on the machine where it will be used. The file never has to leave it: whoever has the fleet's folder only needs what
is printed, for "key add" or "key rotate --with".`,
		Example: "  homeward-fleet key new targets --out /media/owner-2",
		Args:    args("ROLE"),
	}
	cmd.Flags().StringVar(&out, "out", ".", "the folder for its file")
	cmd.Flags().BoolVar(&plain, "no-passphrase", false, "leave it in the clear")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if strings.ContainsAny(args[0], "/\\\n") {
			return cmdline.Usage(fmt.Errorf("role %q: want a role's name", args[0]))
		}
		passphrase, err := a.newPassphrase(cmd, plain)
		if err != nil {
			return err
		}
		k, _, err := writer.NewKey(args[0], passphrase, workFactor)
		if err != nil {
			return err
		}
		if err := k.Write(durable.OS{}, keyPath(out, "", k)); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s\npublic %s\n", k.Path, hex.EncodeToString(k.Public.Key))
		return nil
	}
	return cmd
}

// taken is the key that a command gives a role: one that was made elsewhere, or a new one.
func (a *app) taken(cmd *cobra.Command, f *fleet.Folder, role, with, holder string, plain bool) (fleet.Key, string, error) {
	if with != "" {
		raw, err := hex.DecodeString(with)
		if err == nil && len(raw) == 32 {
			p, err := writer.NewPublic(raw)
			return fleet.KeyOf(p, holder), "", err
		}
		k, err := writer.ReadKey(f.FS, with)
		if errors.Is(err, os.ErrNotExist) {
			return fleet.Key{}, "", fmt.Errorf("--with %s: neither 64 hex digits, as key new prints them, nor a key's file that is there", with)
		}
		if err != nil {
			return fleet.Key{}, "", fmt.Errorf("--with %s: want 64 hex digits, as key new prints them, or a key's file: %w", with, err)
		}
		return fleet.KeyOf(k.Public, holder), "", nil
	}
	passphrase, err := a.newPassphrase(cmd, plain)
	if err != nil {
		return fleet.Key{}, "", err
	}
	k, _, err := writer.NewKey(role, passphrase, workFactor)
	if err != nil {
		return fleet.Key{}, "", err
	}
	path := keyPath(f.KeysDir(), holder, k)
	return fleet.KeyOf(k.Public, holder), path, k.Write(f.FS, path)
}

func (a *app) keyAdd() *cobra.Command {
	var with, holder string
	var threshold int
	var plain bool
	cmd := &cobra.Command{
		Use:   "add ROLE",
		Short: "Give a role one more key, or another threshold",
		Example: `  homeward-fleet key add releases-gateway-v2 --holder ci
  homeward-fleet key add targets --with 9c01… --holder owner-4 --threshold 3`,
		Args: args("ROLE"),
	}
	cmd.Flags().StringVar(&with, "with", "", "a key that key new has made: what it printed, or its file (default: a new one is made here)")
	cmd.Flags().StringVar(&holder, "holder", "", "who has it")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "signatures that the role wants from now on (default: as many as before)")
	cmd.Flags().BoolVar(&plain, "no-passphrase", false, "leave a new key in the clear")
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.with(func(f *fleet.Folder) error {
			r, err := role(f, args[0])
			if err != nil {
				return err
			}
			if threshold < 0 || threshold > len(r.Keys)+1 {
				return cmdline.Usage(fmt.Errorf("--threshold %d: want 1 to %d, as many as there will be keys", threshold, len(r.Keys)+1))
			}
			if holder == "" || holder != filepath.Base(holder) {
				return cmdline.Usage(fmt.Errorf("--holder %q: want a word for who has the key, such as ci or owner-4", holder))
			}
			if a.dry {
				fmt.Fprintf(cmd.OutOrStdout(), "would give %s a key of %s\n", args[0], holder)
				return nil
			}
			k, path, err := a.taken(cmd, f, args[0], with, holder, plain)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(r.Keys, func(o fleet.Key) bool { return o.ID == k.ID }) {
				return fmt.Errorf("%s has key %s already", args[0], writer.Short(k.ID))
			}
			r.Keys = append(r.Keys, k)
			if threshold > 0 {
				r.Threshold = threshold
			}
			if err := f.SaveRoles(); err != nil {
				return err
			}
			told(cmd, f, path, fmt.Sprintf("%s gets key %s", args[0], f.Holder(k.ID)), args[0])
			return nil
		})
	}
	return cmd
}

func told(cmd *cobra.Command, _ *fleet.Folder, path, said, role string) {
	by := "targets has"
	switch role {
	case writer.Root, writer.Targets, writer.Snapshot, writer.Timestamp:
		by = "root has"
	}
	if path != "" {
		fmt.Fprintln(cmd.OutOrStdout(), path)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s; %s to sign it: publish, with the owners' keys\n", said, by)
}

func (a *app) keyRotate() *cobra.Command {
	var replace, with, holder string
	var plain bool
	cmd := &cobra.Command{
		Use:   "rotate ROLE",
		Short: "Replace a key of a role: lost, stolen, or its holder has left",
		Long: `Replace a key. It is over as soon as it has been published, for every gateway that has seen it. Keep the old key at hand for that
publication where you have it: signed by both, the change is smooth for gateways that have not.`,
		Example: `  homeward-fleet key rotate timestamp
  homeward-fleet key rotate root --replace 3f2a81bc --with 9c01…`,
		Args: args("ROLE"),
	}
	cmd.Flags().StringVar(&replace, "replace", "", "the beginning of the old key's id (default: the only one)")
	cmd.Flags().StringVar(&with, "with", "", "a key that key new has made: what it printed, or its file (default: a new one is made here)")
	cmd.Flags().StringVar(&holder, "holder", "", "who has the new one (default: who had the old one)")
	cmd.Flags().BoolVar(&plain, "no-passphrase", false, "leave a new key in the clear")
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.with(func(f *fleet.Folder) error {
			r, err := role(f, args[0])
			if err != nil {
				return err
			}
			var all, found []string
			at := -1
			for i, k := range r.Keys {
				all = append(all, f.Holder(k.ID))
				if strings.HasPrefix(k.ID, replace) {
					found, at = append(found, k.ID), i
				}
			}
			if len(found) != 1 {
				return cmdline.Usage(fmt.Errorf("--replace %q: want the beginning of one key's id: %s has %s", replace, args[0], strings.Join(all, ", ")))
			}
			if holder == "" {
				holder = r.Keys[at].Holder
			}
			if holder != filepath.Base(holder) {
				return cmdline.Usage(fmt.Errorf("--holder %q: want a word for who has the key, such as ci or owner-4", holder))
			}
			old := f.Holder(found[0])
			if a.dry {
				fmt.Fprintf(cmd.OutOrStdout(), "would replace key %s of %s\n", old, args[0])
				return nil
			}
			k, path, err := a.taken(cmd, f, args[0], with, holder, plain)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(r.Keys, func(o fleet.Key) bool { return o.ID == k.ID }) {
				return fmt.Errorf("%s has key %s already", args[0], writer.Short(k.ID))
			}
			r.Keys[at] = k
			if err := f.SaveRoles(); err != nil {
				return err
			}
			told(cmd, f, path, fmt.Sprintf("key %s of %s is replaced by %s", old, args[0], f.Holder(k.ID)), args[0])
			return nil
		})
	}
	return cmd
}

func (a *app) keyPassphrase() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:     "passphrase FILE",
		Short:   "Give a key's file another passphrase",
		Example: "  homeward-fleet key passphrase /media/owner-1/root-3f2a81bc.key",
		Args:    args("FILE"),
	}
	cmd.Flags().StringVar(&to, "new-passphrase-file", "", "a file with the new one (default: the terminal is asked)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		k, err := writer.ReadKey(durable.OS{}, args[0])
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("no key's file %s", args[0])
		}
		if err != nil {
			return err
		}
		ring := &writer.Ring{Keys: []*writer.KeyFile{k}}
		if err := a.ask(cmd, ring); err != nil {
			return err
		}
		private, err := ring.Private(k.Public.ID)
		if errors.Is(err, writer.ErrNoKey) {
			return fmt.Errorf("%s was not opened: nothing is changed", args[0])
		}
		if err != nil {
			return err
		}
		b := *a
		b.passphrase = nil
		if to != "" {
			b.passphrase = []string{to}
		} else if os.Getenv(passphraseEnv) != "" {
			return cmdline.Usage(fmt.Errorf("$%s is set: say the new one with --new-passphrase-file", passphraseEnv))
		}
		p, err := b.newPassphrase(cmd, false)
		if err != nil {
			return err
		}
		if err := k.Reseal(private, p, workFactor); err != nil {
			return err
		}
		if err := k.Write(durable.OS{}, args[0]); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s has another passphrase; copies of the file still have the old one\n", args[0])
		return nil
	}
	return cmd
}
