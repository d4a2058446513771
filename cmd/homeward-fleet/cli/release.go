package cli

import (
	"bytes"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"homeward/buffer/durable"
	"homeward/cmd/cmdline"
	"homeward/cmd/homeward-fleet/fleet"
	"homeward/ota/delta"
	"homeward/ota/release"
)

func (a *app) releaseCommand() *cobra.Command {
	return parent("release", "Releases and their rollouts", a.releaseAdd(), a.releaseList(), a.releaseRoll(), a.releaseHalt(), a.releaseRemove())
}

// program is a file to release.
type program struct {
	path    string
	content []byte
	delta.Binary
}

func readProgram(path string) (program, error) {
	p := program{path: path}
	var err error
	if p.content, err = durable.ReadFile(path, release.MaxPart); errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("no program %s: want a file that go build has made", path)
	} else if err != nil {
		return p, err
	}
	if p.Binary, err = delta.CheckBinary(bytes.NewReader(p.content)); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// agentPath is the package of the program that gateways run.
const agentPath = "homeward/cmd/homeward"

// doubt says where a program does not look like that version of the agent. It is not run, and may be somebody's own build.
func (p *program) doubt(out io.Writer, version string) {
	if info, err := buildinfo.Read(bytes.NewReader(p.content)); err == nil && info.Path != agentPath {
		fmt.Fprintf(out, "%s: warning: it was built from %s: want %s, the agent\n", p.path, shown(info.Path), agentPath)
	}
	if !bytes.Contains(p.content, []byte(version)) {
		fmt.Fprintf(out, "%s: warning: %s is nowhere in it: does it say another version of itself?\n", p.path, version)
	}
}

func readPrograms(paths []string) ([]program, error) {
	var all []program
	for _, path := range paths {
		p, err := readProgram(path)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(all, func(o program) bool { return o.Platform == p.Platform }); i >= 0 {
			return nil, cmdline.Usage(fmt.Errorf("%s and %s are both for %s: want one program for each platform", all[i].path, path, p.Platform))
		}
		all = append(all, p)
	}
	return all, nil
}

// about is what a manifest says beside its parts.
type about struct {
	version          string
	counter          uint64
	floor, min       uint64
	hardware         []string
	launcher         int
	stable, deadline time.Duration
	needServer       bool
}

func (x *about) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&x.version, "version", "", "its version, such as 1.9.1")
	flags.StringSliceVar(&x.hardware, "hw", nil, "hardware it is for, as gateways name theirs; may be repeated (default: any)")
	flags.IntVar(&x.launcher, "launcher", 0, "the lowest version of homeward-launch that it needs")
	flags.DurationVar(&x.stable, "stable", 10*time.Minute, "a gateway keeps it once it was healthy for so long")
	flags.DurationVar(&x.deadline, "deadline", 30*time.Minute, "a gateway goes back if it was not by then")
	flags.BoolVar(&x.needServer, "need-server", true, "healthy means also: reaches its home, if it did before")
}

func (x *about) check() error {
	if !release.IsVersion(x.version) {
		return cmdline.Usage(fmt.Errorf("--version %q: want a version such as 1.9.1", x.version))
	}
	if x.stable < time.Second || x.deadline < x.stable {
		return cmdline.Usage(fmt.Errorf("--stable %v --deadline %v: want at least 1s, and a deadline that is no shorter", x.stable, x.deadline))
	}
	return nil
}

func (x *about) manifest(product, platform string, part release.Part) *release.Manifest {
	return &release.Manifest{
		Schema: 1, Product: product, Platform: platform, Version: x.version, Counter: x.counter, SecurityFloor: x.floor, HW: x.hardware,
		Requires: release.Requires{MinCounter: x.min, Launcher: x.launcher}, Parts: []release.Part{part}, Issued: now().Unix(),
		Health: release.Health{StableS: int64(x.stable / time.Second), DeadlineS: int64(x.deadline / time.Second), NeedServer: x.needServer},
	}
}

func (a *app) releaseAdd() *cobra.Command {
	var x about
	var patches int
	var from []string
	cmd := &cobra.Command{
		Use:   "add PRODUCT PROGRAM...",
		Short: "Add a release: check the programs, compress them, make the patches",
		Long: `Add a release of a product: one program for each platform, which is read out of it. Each is compressed, and patches are made from the
last releases, so that a gateway fetches a patch where it can. Nobody gets it before "release roll" and "publish".

A program with compressed debugging information is refused: one changed line would make a patch of megabytes.`,
		Example: `  homeward-fleet release add gateway-v2 build/linux-*/homeward --version 1.9.1
  homeward-fleet release add gateway-v2 homeward --version 2.0.0 --min-counter 7 --security-floor 5`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cmdline.Usage(fmt.Errorf("want a product and its programs: see %s --help", cmd.CommandPath()))
			}
			return nil
		},
	}
	x.flags(cmd)
	flags := cmd.Flags()
	flags.Uint64Var(&x.counter, "counter", 0, "its number (default: the last one's, plus 1)")
	flags.Uint64Var(&x.floor, "security-floor", 0, "once a gateway has it, it takes no release below this number any more (default: the last one's)")
	flags.Uint64Var(&x.min, "min-counter", 0, "the oldest release that can be updated to it; older ones take a stepping stone first")
	flags.IntVar(&patches, "patches", 3, "make patches from the last so many releases")
	flags.StringArrayVar(&from, "from", nil, "make a patch from this program, too: a file (the factory's), or an older release's version that many still run; may be repeated")
	a.facts(a.changes(cmd))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := x.check(); err != nil {
			return err
		}
		if patches < 0 || patches > 32 || len(from) > 16 {
			return cmdline.Usage(fmt.Errorf("--patches %d, %d times --from: want 0 to 32, and at most 16 times", patches, len(from)))
		}
		programs, err := readPrograms(args[1:])
		if err != nil {
			return err
		}
		for _, p := range programs {
			p.doubt(cmd.ErrOrStderr(), x.version)
		}
		return a.with(func(f *fleet.Folder) error {
			others, err := readFrom(f, args[0], from)
			if err != nil {
				return err
			}
			return a.addRelease(cmd, f, args[0], x, programs, patches, others)
		})
	}
	return cmd
}

// readFrom gives what further patches are made from, by platform ("": any): files, or releases of the product.
func readFrom(f *fleet.Folder, product string, paths []string) (map[string][]fleet.Base, error) {
	others := map[string][]fleet.Base{}
	for _, path := range paths {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && release.IsVersion(path) {
			r, err := f.Rollouts(product)
			if err != nil {
				return nil, err
			}
			l, err := find(r, path)
			if err != nil {
				return nil, fmt.Errorf("--from %s is no file, and %w", path, err)
			}
			for _, platform := range l.Platforms {
				m, err := f.Manifest(product, platform, l.Counter)
				if err != nil {
					return nil, err
				}
				content, err := f.Program(m)
				if err != nil {
					return nil, err
				}
				others[platform] = append(others[platform], fleet.Base{Name: fmt.Sprintf("%s (%d)", l.Version, l.Counter), Content: content})
			}
			continue
		}
		p, err := durable.ReadFile(path, release.MaxPart)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("--from %s: neither a file nor a version such as 1.9.1", path)
		}
		if err != nil {
			return nil, err
		}
		platform := ""
		if b, err := delta.CheckBinary(bytes.NewReader(p)); err == nil {
			platform = b.Platform
		} // a program that would be no release any more still runs somewhere
		others[platform] = append(others[platform], fleet.Base{Name: path, Content: p})
	}
	return others, nil
}

// added is what release add prints as JSON.
type added struct {
	Product  string          `json:"product"`
	Version  string          `json:"version"`
	Counter  uint64          `json:"counter"`
	Programs []addedPlatform `json:"programs"`
}

type addedPlatform struct {
	Platform  string             `json:"platform"`
	SHA256    string             `json:"sha256"`
	Size      int64              `json:"size"`
	Encodings []release.Encoding `json:"encodings"`
}

func (a *app) addRelease(
	cmd *cobra.Command, f *fleet.Folder, product string, x about, programs []program, patches int, others map[string][]fleet.Base,
) error {
	r, err := f.Rollouts(product)
	if err != nil {
		return err
	}
	var last *release.Listed
	if n := len(r.Releases); n > 0 {
		last = &r.Releases[n-1]
	}
	switch {
	case last == nil && x.counter == 0:
		x.counter = 1
	case last != nil && x.counter == 0:
		x.counter = last.Counter + 1
	case last != nil && x.counter <= last.Counter:
		return fmt.Errorf("--counter %d: %s (%d) is there: counters only grow", x.counter, last.Version, last.Counter)
	}
	if i := slices.IndexFunc(r.Releases, func(l release.Listed) bool { return l.Version == x.version && l.State != release.Removed }); i >= 0 {
		return fmt.Errorf("--version %s: release %d has it already: give this one another, or remove that one first", x.version, r.Releases[i].Counter)
	}
	floor, err := lastFloor(f, r)
	if err != nil {
		return err
	}
	if !cmd.Flags().Changed("security-floor") {
		x.floor = floor
	}
	if x.floor < floor {
		return fmt.Errorf("--security-floor %d: the last release has %d, and a floor never falls", x.floor, floor)
	}
	if x.floor > x.counter {
		return fmt.Errorf("--security-floor %d: the release itself has the number %d, and would be refused by all who have it", x.floor, x.counter)
	}
	out := cmd.OutOrStdout()
	listed := release.Listed{Counter: x.counter, Version: x.version, State: release.Added}
	result := added{Product: product, Version: x.version, Counter: x.counter}
	var manifests []*release.Manifest
	for _, p := range programs {
		bases, err := f.Bases(r, p.Platform, patches)
		if err != nil {
			return err
		}
		bases = append(append(bases, others[p.Platform]...), others[""]...)
		bar := newBar(out, p.Platform, 1+len(bases), a.json)
		part, err := f.Part(p.content, bases, !a.dry, bar.step)
		bar.end()
		if err != nil {
			return fmt.Errorf("%s: %w", p.path, err)
		}
		m := x.manifest(product, p.Platform, part)
		if _, err := m.Encode(); err != nil {
			return err
		}
		manifests = append(manifests, m)
		listed.Platforms = append(listed.Platforms, p.Platform)
		result.Programs = append(result.Programs, addedPlatform{p.Platform, part.SHA256, part.Size, part.Encodings})
		if !a.json {
			fmt.Fprintf(out, "%s: %s, %s\n", p.Platform, p.path, bytesOf(part.Size))
			for _, e := range part.Encodings {
				what := "whole"
				if e.Enc == release.EncBsdiff {
					i := slices.IndexFunc(bases, func(b fleet.Base) bool { return fleet.Sum(b.Content) == e.Base })
					what = "from " + bases[i].Name
				}
				fmt.Fprintf(out, "    %-24s %10s  %5.1f %%\n", what, bytesOf(e.Size), 100*float64(e.Size)/float64(part.Encodings[0].Size))
			}
		}
	}
	if !a.dry {
		for _, m := range manifests {
			if err := f.SaveManifest(m); err != nil {
				return err
			}
		}
		r.Releases = append(r.Releases, listed)
		if err := f.SaveRollouts(r); err != nil {
			return err
		}
	}
	if a.json {
		return printJSON(out, result)
	}
	if a.dry {
		fmt.Fprintf(out, "would add %s %s as release %d; nothing is written\n", product, x.version, x.counter)
		return nil
	}
	fmt.Fprintf(out, "%s %s is release %d: homeward-fleet release roll %s %s, then publish\n", product, x.version, x.counter, product, x.version)
	return nil
}

// lastFloor is the highest security floor that a listed release has.
func lastFloor(f *fleet.Folder, r *release.Rollouts) (uint64, error) {
	floor := uint64(0)
	for _, l := range r.Releases {
		if l.State == release.Removed {
			continue
		}
		for _, p := range l.Platforms {
			m, err := f.Manifest(r.Product, p, l.Counter)
			if err != nil {
				return 0, err
			}
			floor = max(floor, m.SecurityFloor)
		}
	}
	return floor, nil
}

// bar is a progress bar on a terminal, and nothing elsewhere.
type bar struct {
	progress *mpb.Progress
	bar      *mpb.Bar
	doing    atomic.Value // string; the bar draws itself
}

func newBar(w io.Writer, name string, steps int, quiet bool) *bar {
	b := &bar{}
	b.doing.Store("")
	if quiet || !cmdline.Terminal(w) {
		return b
	}
	b.progress = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithAutoRefresh())
	b.bar = b.progress.AddBar(int64(steps), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.CountersNoUnit(" %d of %d "), decor.Any(func(decor.Statistics) string { return b.doing.Load().(string) })))
	return b
}

func (b *bar) step(doing string, _ *release.Encoding) {
	if b.bar == nil {
		return
	}
	if doing == "" {
		b.bar.Increment()
		return
	}
	b.doing.Store(doing)
}

// end takes the bar away, however far it is.
func (b *bar) end() {
	if b.bar == nil {
		return
	}
	b.bar.Abort(true)
	b.progress.Wait()
}

func (a *app) releaseList() *cobra.Command {
	cmd := a.facts(&cobra.Command{
		Use: "list PRODUCT", Short: "List a product's releases and rollouts", Example: "  homeward-fleet release list gateway-v2", Args: args("PRODUCT"),
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := a.look()
		if err != nil {
			return err
		}
		r, err := f.Rollouts(args[0])
		if err != nil {
			return err
		}
		p, err := f.Repo.Load()
		if err != nil {
			return err
		}
		ahead, err := f.Unpublished(p, r.Product)
		if err != nil {
			return err
		}
		if a.json {
			if ahead {
				fmt.Fprintln(cmd.ErrOrStderr(), unpublished(r.Product))
			}
			return printJSON(cmd.OutOrStdout(), r)
		}
		if err := printRollouts(cmd.OutOrStdout(), f, r); err != nil || !ahead {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", unpublished(r.Product))
		return nil
	}
	return cmd
}

func printRollouts(out io.Writer, f *fleet.Folder, r *release.Rollouts) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "RELEASE\tVERSION\tSTATE\tFLOOR\tFROM\tPLATFORMS\n")
	for _, l := range slices.Backward(r.Releases) {
		floor, min := "-", "-"
		if l.State != release.Removed && len(l.Platforms) > 0 {
			m, err := f.Manifest(r.Product, l.Platforms[0], l.Counter)
			if err != nil {
				return err
			}
			floor = strconv.FormatUint(m.SecurityFloor, 10)
			if m.Requires.MinCounter > 0 {
				min = strconv.FormatUint(m.Requires.MinCounter, 10)
			}
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", l.Counter, l.Version, l.State, floor, min, strings.Join(l.Platforms, " "))
	}
	for _, o := range r.Rollouts {
		fmt.Fprintf(w, "\nROLLOUT\tVERSION\tSTATE\n%s\t%s\t%s\n", o.ID, o.Version, o.State)
		for _, g := range o.Groups {
			fmt.Fprintf(w, "    %s\t%s\t%s\n", g.Name, groupSize(g), groupState(g))
		}
	}
	return w.Flush()
}

func groupSize(g release.Group) string {
	if len(g.Gateways) > 0 {
		return fmt.Sprintf("%d gateways", len(g.Gateways))
	}
	return fmt.Sprintf("to %v %%", g.Percent)
}

func groupState(g release.Group) string {
	switch g.State {
	case release.FirstOnly:
		return "first: " + g.First
	case release.Open:
		return fmt.Sprintf("open to %v %%", g.OpenTo)
	}
	return g.State
}

// find is the release that a version or a counter names.
func find(r *release.Rollouts, name string) (*release.Listed, error) {
	counter, err := strconv.ParseUint(name, 10, 64)
	for i := range slices.Backward(r.Releases) {
		l := &r.Releases[i]
		if l.Version == name && l.State != release.Removed || err == nil && l.Counter == counter {
			return l, nil
		}
	}
	var all []string
	for _, l := range r.Releases {
		if l.State != release.Removed {
			all = append(all, fmt.Sprintf("%s (%d)", l.Version, l.Counter))
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no release %q, nor any other: homeward-fleet release add", r.Product, name)
	}
	return nil, fmt.Errorf("%s has no release %q: there are %s", r.Product, name, strings.Join(all, ", "))
}

func (a *app) releaseHalt() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "halt PRODUCT VERSION",
		Short: "Offer a release to nobody any more",
		Long: `Offer a release to nobody any more, once published. Gateways that have not restarted into it yet drop it; who runs it keeps it: to
bring them back, roll out a newer release.`,
		Example: "  homeward-fleet release halt gateway-v2 1.9.1",
		Args:    args("PRODUCT", "VERSION"),
	}
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.change(cmd, args[0], args[1], func(f *fleet.Folder, r *release.Rollouts, l *release.Listed) (string, error) {
			if l.State == release.Halted {
				return "", fmt.Errorf("%s (%d) is halted already", l.Version, l.Counter)
			}
			if l.State == release.Removed {
				return "", fmt.Errorf("%s (%d) is removed", l.Version, l.Counter)
			}
			halt(r, l)
			return fmt.Sprintf("%s %s (%d) is halted: publish, so that the gateways know", r.Product, l.Version, l.Counter), nil
		})
	}
	return cmd
}

func halt(r *release.Rollouts, l *release.Listed) {
	l.State = release.Halted
	for i := range r.Rollouts {
		if o := &r.Rollouts[i]; o.Counter == l.Counter && (o.State == release.Running || o.State == release.Paused) {
			o.State = release.HaltedRoll
		}
	}
}

// change does something to a release and keeps it, or says what it would be.
func (a *app) change(cmd *cobra.Command, product, name string, do func(*fleet.Folder, *release.Rollouts, *release.Listed) (string, error)) error {
	return a.with(func(f *fleet.Folder) error {
		r, err := f.Rollouts(product)
		if err != nil {
			return err
		}
		l, err := find(r, name)
		if err != nil {
			return err
		}
		said, err := do(f, r, l)
		if err != nil {
			return err
		}
		if a.dry {
			r.Serial++
			if _, err := r.Encode(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "would be: %s\n", said)
			return nil
		}
		if err := f.SaveRollouts(r); err != nil {
			return err
		}
		if err := f.Tidy(product); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), said)
		return nil
	})
}

func (a *app) releaseRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove PRODUCT VERSION",
		Short: "Take a release away, and the blobs that nobody needs any more",
		Long: `Take a release away. Its number stays used. It can be no stepping stone any more: gateways that were off for long may need one.
Its manifests leave the repository with the next publish, and then the blobs that nobody needs any more.`,
		Example: "  homeward-fleet release remove gateway-v2 1.7.0",
		Args:    args("PRODUCT", "VERSION"),
	}
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.change(cmd, args[0], args[1], func(f *fleet.Folder, r *release.Rollouts, l *release.Listed) (string, error) {
			if l.State == release.Removed {
				return "", fmt.Errorf("%s (%d) is removed already", l.Version, l.Counter)
			}
			newer := func(o release.Listed) bool { return o.Counter > l.Counter && o.State == release.Released }
			if l.State == release.Released && !slices.ContainsFunc(r.Releases, newer) {
				return "", fmt.Errorf("%s (%d) is what the product's gateways run: release another first, or halt it", l.Version, l.Counter)
			}
			if n, err := needs(f, r, l); err != nil {
				return "", err
			} else if n != "" {
				return "", fmt.Errorf("%s (%d) is the only stepping stone to %s: remove that one first", l.Version, l.Counter, n)
			}
			halt(r, l)
			l.State = release.Removed
			r.Rollouts = slices.DeleteFunc(r.Rollouts, func(o release.Rollout) bool { return o.Counter == l.Counter })
			return fmt.Sprintf("%s %s (%d) is removed: publish, so that the gateways know", r.Product, l.Version, l.Counter), nil
		})
	}
	return cmd
}

// needs is a release to which only l leads from below; "" if there is none.
func needs(f *fleet.Folder, r *release.Rollouts, l *release.Listed) (string, error) {
	min := func(counter uint64) (uint64, error) {
		o := r.Listed(counter)
		if o == nil || len(o.Platforms) == 0 {
			return 0, nil
		}
		m, err := f.Manifest(r.Product, o.Platforms[0], counter)
		if err != nil {
			return 0, err
		}
		return m.Requires.MinCounter, nil
	}
	for _, o := range r.Releases {
		if o.Counter <= l.Counter || o.State == release.Removed || o.State == release.Halted {
			continue
		}
		from, err := min(o.Counter)
		if err != nil {
			return "", err
		}
		if from == 0 || from > l.Counter {
			continue
		}
		others := slices.ContainsFunc(r.Releases, func(x release.Listed) bool {
			return x.Counter >= from && x.Counter < o.Counter && x.Counter != l.Counter && x.State != release.Removed && x.State != release.Halted
		})
		if !others {
			return fmt.Sprintf("%s (%d)", o.Version, o.Counter), nil
		}
	}
	return "", nil
}

func (a *app) releaseRoll() *cobra.Command {
	var x roll
	cmd := &cobra.Command{
		Use:   "roll PRODUCT VERSION",
		Short: "Begin a rollout: group after group, halted by failures",
		Long: `Begin to bring a release to the product's gateways, once published. Each group's first gateway goes alone; when it has kept the
release, the group follows, --at-once percent of it at a time; when enough of it has (--success) and --soak has passed, the next one.
Too many failures (--errors, --error-percent) halt it. Each step is a publication: "watch" sees the gateways and makes them.

--groups are percent of the product's gateways, each with those before it. --group NAME=gw-1,gw-2 is a list, and goes before them.`,
		Example: `  homeward-fleet release roll gateway-v2 1.9.1 --group lab=gw-0001,gw-0002 --groups 5,25,100 --soak 24h
  homeward-fleet release roll gateway-v2 1.9.1 --all`,
		Args: args("PRODUCT", "VERSION"),
	}
	x.flags(cmd)
	a.changes(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.change(cmd, args[0], args[1], func(f *fleet.Folder, r *release.Rollouts, l *release.Listed) (string, error) {
			return x.begin(f, r, l)
		})
	}
	return cmd
}

// roll is how a rollout goes.
type roll struct {
	all                   bool
	percents              []float64
	lists                 []string
	atOnce                float64
	success, errorPercent float64
	errors                int
	soak, verdictAfter    time.Duration
	window                string
}

func (x *roll) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&x.all, "all", false, "no groups: every gateway may have it at once")
	flags.Float64SliceVar(&x.percents, "groups", []float64{1, 10, 50, 100}, "percent of the product's gateways that each group reaches")
	flags.Lookup("groups").DefValue = "1,10,50,100"
	flags.StringArrayVar(&x.lists, "group", nil, "a group by name: NAME=GATEWAY,…; may be repeated")
	flags.Float64Var(&x.atOnce, "at-once", 100, "percent of a group that may go at the same time")
	flags.Float64Var(&x.success, "success", 90, "percent of a group's verdicts that must be good before the next one begins")
	flags.Float64Var(&x.errorPercent, "error-percent", 10, "percent of a group's verdicts that may be bad; more halt it")
	flags.IntVar(&x.errors, "errors", 0, "bad verdicts in all that halt it; 0: not counted")
	flags.DurationVar(&x.soak, "soak", time.Hour, "between a group's last good verdict and the next group")
	flags.DurationVar(&x.verdictAfter, "verdict-after", 24*time.Hour, "a gateway that took it and is seen so much later without a verdict has failed")
	flags.StringVar(&x.window, "window", "", "the gateways' time of day for it, such as 02:00-05:00 (default: their own)")
}

func (x *roll) begin(f *fleet.Folder, r *release.Rollouts, l *release.Listed) (string, error) {
	if l.State == release.Removed {
		return "", fmt.Errorf("%s (%d) is removed", l.Version, l.Counter)
	}
	for _, o := range r.Rollouts {
		if o.State == release.Running || o.State == release.Paused {
			if o.Counter == l.Counter {
				return "", fmt.Errorf("rollout %s of it is %s: halt it first", o.ID, o.State)
			}
			return "", fmt.Errorf("rollout %s of %s is %s: two at once would blame one for the other; halt it first", o.ID, o.Version, o.State)
		}
	}
	if x.all {
		l.State = release.Released
		return fmt.Sprintf("%s %s (%d) is for all gateways: publish", r.Product, l.Version, l.Counter), nil
	}
	o := release.Rollout{
		Counter: l.Counter, Version: l.Version, State: release.Running, SuccessPercent: x.success, ErrorPercent: x.errorPercent, ErrorCount: x.errors,
		AtOnce: x.atOnce, SoakS: int64(x.soak / time.Second), VerdictAfterS: int64(x.verdictAfter / time.Second), Window: x.window,
	}
	n := 1 // an id is not used twice: what fell out of the list was older
	for _, other := range r.Rollouts {
		if at, ok := strings.CutPrefix(other.ID, fmt.Sprintf("r%d-", l.Counter)); ok {
			if last, err := strconv.Atoi(at); err == nil {
				n = max(n, last+1)
			}
		}
	}
	o.ID = fmt.Sprintf("r%d-%d", l.Counter, n)
	if x.atOnce <= 0 || x.atOnce > 100 {
		return "", cmdline.Usage(fmt.Errorf("--at-once %v: want more than 0, at most 100", x.atOnce))
	}
	for _, list := range x.lists {
		name, members, ok := strings.Cut(list, "=")
		if !ok || members == "" {
			return "", cmdline.Usage(fmt.Errorf("--group %q: want NAME=GATEWAY,GATEWAY", list))
		}
		g := release.Group{Name: name, State: release.Waiting, Gateways: strings.Split(members, ",")}
		for _, id := range g.Gateways {
			if e, err := f.Enrolled(id); err != nil {
				return "", err
			} else if e.Product != r.Product {
				return "", fmt.Errorf("--group %s: gateway %s is of product %s", name, id, e.Product)
			}
		}
		o.Groups = append(o.Groups, g)
	}
	for _, p := range x.percents {
		o.Groups = append(o.Groups, release.Group{Name: strconv.FormatFloat(p, 'g', -1, 64) + " percent", State: release.Waiting, Percent: p})
	}
	if len(o.Groups) == 0 {
		return "", cmdline.Usage(fmt.Errorf("no groups: give --groups, --group or --all"))
	}
	if err := open(f, r.Product, &o); err != nil {
		return "", err
	}
	l.State = release.Rolling
	r.Rollouts = append(r.Rollouts, o)
	said := fmt.Sprintf("rollout %s of %s %s (%d) begins with group %s (%s): publish, then watch",
		o.ID, r.Product, l.Version, l.Counter, o.Groups[0].Name, groupState(o.Groups[0]))
	return said, nil
}

// open begins the first group with one gateway, where one is known; watch chooses another if that one is off, and begins it where none is.
func open(f *fleet.Folder, product string, o *release.Rollout) error {
	known, err := f.Gateways(product)
	if err != nil {
		return err
	}
	g := &o.Groups[0]
	best := 200.0
	for _, id := range known {
		if order, err := f.Order(id); err != nil {
			return err
		} else if order != nil && order.Release.Pin {
			continue
		}
		if i, place := o.Group(id); i == 0 && place < best {
			g.State, g.First, best = release.FirstOnly, id, place
		}
	}
	return nil
}
