package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"homeward/cmd/cmdline"
	"homeward/cmd/homeward-fleet/fleet"
	"homeward/ota/release"
	"homeward/ota/rollout"
	"homeward/ota/trust/writer"
)

func table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 8, 2, ' ', 0) }

// overview is what status prints as JSON.
type overview struct {
	Gateways []Told         `json:"gateways"`
	Silent   []string       `json:"silent"` // enrolled, and never heard
	Rollouts []rolloutState `json:"rollouts"`
	Ends     []expiry       `json:"ends"` // signatures that are nearly over

	Strangers   []string `json:"not_enrolled"`
	Unpublished []string `json:"unpublished"` // products whose rollouts in source/ say something else than what gateways see
	blocked     []string // what watch cannot do, and why
}

// rolloutState is a rollout and where its gateways are. Offline ones, and those that cannot tell, are in none of the counts.
type rolloutState struct {
	Product string          `json:"product"`
	Rollout release.Rollout `json:"rollout"`
	Good    int             `json:"good"`   // have kept it
	Trying  int             `json:"trying"` // are at it
	Failed  []failure       `json:"failed"`
	Next    []string        `json:"next"` // what watch would do, or why it waits
}

type failure struct {
	Gateway string `json:"gateway"`
	Code    string `json:"code"`
}

// seen is what rollouts of a product look at: not who is pinned or has moved away.
func seen(f *fleet.Folder, product string, told []Told, memory *rollout.Memory) ([]rollout.Seen, error) {
	var all []rollout.Seen
	for _, t := range told {
		if t.Home.Product != product || t.Moved {
			continue
		}
		if o, err := f.Order(t.Gateway); err != nil {
			return nil, err
		} else if o != nil && (o.Release.Pin || o.Release.Product != "" && o.Release.Product != product) {
			continue
		}
		s := rollout.Seen{Gateway: t.Gateway, Online: t.Online, At: t.Seen, Version: t.Release,
			Update: rollout.Update{State: t.Update.State, Code: t.Update.Code, Counter: t.Update.Counter, Attempt: t.Update.Attempt}}
		memory.Note(&s)
		all = append(all, s)
	}
	return all, nil
}

func (a *app) overview(f *fleet.Folder, told []Told, memory *rollout.Memory) (*overview, error) {
	o := &overview{Gateways: told, Silent: []string{}, Rollouts: []rolloutState{}, Strangers: []string{}, Unpublished: []string{}}
	enrolled, err := f.Gateways("")
	if err != nil {
		return nil, err
	}
	for _, id := range enrolled {
		if !slices.ContainsFunc(told, func(t Told) bool { return t.Gateway == id }) {
			o.Silent = append(o.Silent, id)
		}
	}
	for _, t := range told {
		if !slices.Contains(enrolled, t.Gateway) {
			o.Strangers = append(o.Strangers, t.Gateway)
		}
	}
	p, err := f.Repo.Load()
	if err != nil {
		return nil, err
	}
	o.Ends = ends(f, p)
	for _, product := range f.Products() {
		r, err := f.Rollouts(product)
		if err != nil {
			return nil, err
		}
		if ahead, err := f.Unpublished(p, product); err != nil {
			return nil, err
		} else if ahead {
			o.Unpublished = append(o.Unpublished, product)
		}
		gateways, err := seen(f, product, told, memory)
		if err != nil {
			return nil, err
		}
		_, steps := rollout.Decide(r, gateways, now())
		for i := range r.Rollouts {
			x := &r.Rollouts[i]
			s := rolloutState{Product: product, Rollout: *x, Failed: []failure{}, Next: []string{}}
			for _, g := range gateways {
				switch rollout.Judge(r, x, g, now()) {
				case rollout.Succeeded:
					s.Good++
				case rollout.Trying:
					s.Trying++
				case rollout.Failed:
					s.Failed = append(s.Failed, failure{g.Gateway, g.Update.Code})
				case rollout.Missing:
					s.Failed = append(s.Failed, failure{g.Gateway, "no verdict"})
				}
			}
			for _, step := range steps {
				if step.Rollout == x.ID {
					s.Next = append(s.Next, step.String())
				}
			}
			o.Rollouts = append(o.Rollouts, s)
		}
	}
	return o, nil
}

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the gateways say of themselves, and how the rollouts go",
		Long: `Show the gateways' retained statuses from the broker that fleet.yaml names, the rollouts, and which signatures end soon. A gateway that
is off is shown with what it said last. Exit 1 where a rollout has failures or is halted.`,
		Example: `  homeward-fleet status
  homeward-fleet status --json | jq '.gateways[] | select(.online | not)'`,
		Args: cmdline.NoArgs,
	}
	a.facts(cmd)
	quiet := cmd.Flags().Duration("wait", quietFor, "how long nothing new must arrive until all are known")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := a.look()
		if err != nil {
			return err
		}
		b, err := dial(cmd.Context(), f)
		if err != nil {
			return err
		}
		defer b.close()
		if err := b.settle(cmd.Context(), *quiet, time.Minute); err != nil {
			return err
		}
		o, err := a.overview(f, b.gateways(), &rollout.Memory{})
		if err != nil {
			return err
		}
		if a.json {
			err = printJSON(cmd.OutOrStdout(), o)
		} else {
			err = o.print(cmd.OutOrStdout())
		}
		if err != nil {
			return err
		}
		for _, r := range o.Rollouts {
			if r.Rollout.State == release.HaltedRoll || len(r.Failed) > 0 {
				return cmdline.ErrFailed
			}
		}
		return nil
	}
	return cmd
}

// shown keeps what came from elsewhere from playing with the terminal.
func shown(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return strconv.Quote(s)
	}
	return s
}

func (o *overview) print(out io.Writer) error {
	w := table(out)
	fmt.Fprintln(w, "GATEWAY\tPROJECT\tPRODUCT\tRELEASE\tUPDATE\tBACKLOG\tOPERATIONS\tPROBLEMS")
	for _, t := range o.Gateways {
		state := ""
		switch {
		case t.Moved:
			state = " (moved)"
		case !t.Online:
			state = " (off)"
		}
		if slices.Contains(o.Strangers, t.Gateway) {
			state += " (not enrolled)"
		}
		update := t.Update.State
		if t.Update.Counter > 0 {
			update += " " + strconv.FormatUint(t.Update.Counter, 10)
		}
		if t.Update.Code != "" {
			update += " " + t.Update.Code
		}
		var problems []string
		for _, p := range t.Problems {
			problems = append(problems, p.Code)
		}
		slices.Sort(problems)
		fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", t.Gateway, state, shown(t.Home.Project), shown(t.Home.Product), shown(t.Release), shown(update),
			t.Backlog, t.Operations, shown(strings.Join(slices.Compact(problems), " ")))
	}
	for _, id := range o.Silent {
		fmt.Fprintf(w, "%s (never heard)\t\t\t\t\t\t\t\n", id)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range o.Rollouts {
		at := ""
		for _, g := range r.Rollout.Groups {
			if r.Rollout.State == release.Running && (g.State == release.FirstOnly || g.State == release.Open) {
				at = fmt.Sprintf(", group %s (%s)", g.Name, groupState(g))
			}
		}
		fmt.Fprintf(out, "\nrollout %s of %s %s (%d): %s%s; %d have kept it, %d are at it, %d failed\n",
			r.Rollout.ID, r.Product, r.Rollout.Version, r.Rollout.Counter,
			r.Rollout.State, at, r.Good, r.Trying, len(r.Failed))
		for _, x := range r.Failed {
			fmt.Fprintf(out, "    %s: %s\n", x.Gateway, shown(x.Code))
		}
		for _, x := range r.Next {
			fmt.Fprintf(out, "    %s\n", shown(x))
		}
	}
	for _, product := range o.Unpublished {
		fmt.Fprintf(out, "\n%s\n", unpublished(product))
	}
	for _, b := range o.blocked {
		fmt.Fprintf(out, "\n%s\n", shown(b))
	}
	for _, e := range o.Ends {
		fmt.Fprintf(out, "\n%s\n", e)
	}
	return nil
}

// unpublished says that what is shown of a product is not what gateways see.
func unpublished(product string) string {
	return product + ": the releases and rollouts shown here are not published as they are: no gateway knows of the changes before homeward-fleet publish"
}

// quietFor is how long nothing new must arrive until watch takes all statuses for known. Tests shorten it.
var quietFor = 2 * time.Second

func (a *app) watchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Watch the gateways, and lead the rollouts on",
		Long: `Watch the gateways' statuses, and lead the rollouts of all products: the next group where the one before has kept the release, a halt
where too many failed. With the keys of releases, snapshot and timestamp at hand each step is published, and the gateways are told;
without, it changes nothing and says at each table what would be done and whose key is missing. It publishes its own steps and nothing
else: changes of managers that are not published yet stay so, and where they are to the same product's rollouts it waits for them
(a release that was only added goes along). What ends soon it renews. Any number of managers may watch: each decides from the same statuses and the same repository.`,
		Example: `  homeward-fleet watch
  homeward-fleet watch --look`,
		Args: cmdline.NoArgs,
	}
	look := cmd.Flags().Bool("look", false, "only look: decide and publish nothing")
	every := cmd.Flags().Duration("every", 15*time.Second, "how often to decide")
	length := cmd.Flags().Duration("for", 0, "how long to watch (default: until it is stopped)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *every < 100*time.Millisecond {
			return cmdline.Usage(fmt.Errorf("--every %v: want at least 100ms", *every))
		}
		ctx := cmd.Context()
		if *length > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, *length)
			defer cancel()
		}
		err := a.watch(ctx, cmd, *look, *every)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return cmd
}

func (a *app) watch(ctx context.Context, cmd *cobra.Command, look bool, every time.Duration) error {
	var b *broker
	defer func() {
		if b != nil {
			b.close()
		}
	}()
	memory := &rollout.Memory{}
	var renewed time.Time // when it was last tried
	pause := time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	var was string
	for {
		f, err := a.look() // another manager may have changed it
		if err != nil {
			return err
		}
		if b == nil {
			if b, err = dial(ctx, f); err == nil {
				err = b.settle(ctx, quietFor, time.Minute)
			}
			if err != nil {
				if b != nil {
					b.close()
					b = nil
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%v; again in %v\n", err, pause)
				select {
				case <-time.After(pause):
				case <-ctx.Done():
					return nil
				}
				pause = min(2*pause, time.Minute)
				continue
			}
			pause = time.Second
		}
		told := b.gateways()
		var blocked []string
		if !look {
			blocked, err = a.lead(ctx, cmd, b, told, memory, &renewed)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil && !errors.Is(err, fleet.ErrLocked) { // another one is at it
				fmt.Fprintln(cmd.ErrOrStderr(), err)
			}
			if f, err = a.look(); err != nil {
				return err
			}
		}
		o, err := a.overview(f, told, memory)
		if err != nil {
			return err
		}
		o.blocked = blocked
		var text strings.Builder
		if err := o.print(&text); err != nil {
			return err
		}
		if cmdline.Terminal(cmd.OutOrStdout()) {
			fmt.Fprintf(cmd.OutOrStdout(), "\x1b[H\x1b[2J%s\n%s\n", now().Format(time.TimeOnly), text.String())
		} else if text.String() != was {
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s\n", now().UTC().Format(time.RFC3339), text.String())
		}
		was = text.String()
		select {
		case <-tick.C:
		case err := <-b.lost:
			fmt.Fprintf(cmd.ErrOrStderr(), "the broker closed the connection: %v\n", err)
			b.close()
			b = nil
		case <-ctx.Done():
			return nil
		}
	}
}

// lead takes the next steps of all products and publishes them, and nothing else. What it cannot publish it leaves alone, and says why.
func (a *app) lead(ctx context.Context, cmd *cobra.Command, b *broker, told []Told, memory *rollout.Memory, renewed *time.Time) (blocked []string, err error) {
	return blocked, a.with(func(f *fleet.Folder) error {
		p, err := f.Repo.Load()
		if err != nil {
			return err
		}
		if err := f.Forward(p); err != nil {
			return err
		}
		var all []move
		for _, product := range f.Products() {
			m, err := decide(f, p, product, told, memory)
			if err != nil {
				return err
			}
			switch {
			case m == nil:
			case m.raw == nil:
				blocked = append(blocked, m.blocked("there are unpublished changes to its rollouts: homeward-fleet publish them first")...)
			default:
				all = append(all, *m)
			}
		}
		// It is automation, too: what ends is renewed, with the keys that are here.
		due := now().Sub(*renewed) > time.Hour && slices.ContainsFunc(p.Roles(), func(s writer.State) bool {
			return now().Add(writer.TermOf(s.Role).Renew).After(s.Expires)
		})
		if len(all) == 0 && !due {
			return nil
		}
		if due {
			*renewed = now()
		}
		plan, err := f.Repo.Plan(p)
		if err != nil {
			return err
		}
		plan.Part = true
		for i := range plan.Delegated {
			for j := range all {
				if r := &plan.Delegated[i]; r.Name == "releases-"+all[j].product {
					all[j].at, all[j].was, r.Files = i, r.Files, all[j].files
				}
			}
		}
		ring, err := a.ring(cmd, f)
		if err != nil {
			return err
		}
		change, err := f.Repo.Prepare(plan, ring)
		if err != nil {
			return err
		}
		// A product whose own key is missing does not hold the others.
		for _, s := range change.Steps {
			i := slices.IndexFunc(all, func(m move) bool { return s.Role == "releases-"+m.product })
			if i < 0 || s.Complete {
				continue
			}
			blocked = append(blocked, all[i].blocked(strings.Join(lacks(f, s), "; "))...)
			plan.Delegated[all[i].at].Files = all[i].was
			all = slices.Delete(all, i, i+1)
		}
		if len(blocked) > 0 {
			if len(all) == 0 && !due {
				return nil
			}
			if change, err = f.Repo.Prepare(plan, ring); err != nil {
				return err
			}
		}
		if !change.Publishes() || slices.ContainsFunc(all, func(m move) bool { return !change.Goes("releases-" + m.product) }) {
			var why []string
			for _, s := range change.Steps {
				why = append(why, lacks(f, s)...)
			}
			if len(why) == 0 {
				why = change.Waits
			}
			for _, m := range all {
				blocked = append(blocked, m.blocked(strings.Join(why, "; "))...)
			}
			return nil
		}
		if err := check(ctx, f, change); err != nil {
			return fmt.Errorf("a gateway would refuse the result, nothing is written: %w", err)
		}
		for _, m := range all {
			if err := f.KeepRollouts(m.product, m.raw); err != nil {
				return err
			}
		}
		if err := change.Commit(); err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		products := map[string]bool{}
		for _, m := range all {
			products[m.product] = true
			for _, step := range m.steps {
				fmt.Fprintf(out, "%s %s: %s\n", now().UTC().Format(time.RFC3339), m.product, step)
			}
			if len(m.steps) == 0 {
				fmt.Fprintf(out, "%s %s: steps that were taken before are published\n", now().UTC().Format(time.RFC3339), m.product)
			}
		}
		for _, s := range change.Steps {
			if change.Goes(s.Role) && s.Role == writer.Timestamp {
				fmt.Fprintf(out, "published: timestamp %d\n", s.Version)
			}
		}
		if len(all) == 0 {
			return nil
		}
		n, err := b.nudge(ctx, slices.DeleteFunc(slices.Clone(told), func(t Told) bool { return !products[t.Home.Product] }))
		fmt.Fprintf(out, "%d gateways are told to look\n", n)
		return err
	})
}

// move is what comes next in a product's rollouts.
type move struct {
	product string
	steps   []rollout.Step
	raw     []byte            // its rollouts then; nil: they are not to be published
	files   map[string][]byte // what its role signs then
	was     map[string][]byte // what it signs now
	at      int               // its place among the delegated roles
}

// decide gives a product's next move; nil where it has none. Steps that were taken and not published, by a watch that was cut short,
// are published with those that follow.
func decide(f *fleet.Folder, p *writer.Published, product string, told []Told, memory *rollout.Memory) (*move, error) {
	was, err := f.PublishedRollouts(p, product)
	if err != nil || was == nil { // nobody has seen one yet
		return nil, err
	}
	r, err := f.Rollouts(product)
	if err != nil {
		return nil, err
	}
	gateways, err := seen(f, product, told, memory)
	if err != nil {
		return nil, err
	}
	own, err := fleet.OwnStep(was, r)
	if err != nil {
		return nil, err
	}
	from := r
	if !own {
		from = was
	}
	m := &move{product: product}
	next, steps := rollout.Decide(from, gateways, now())
	for _, step := range steps {
		if step.Changes() {
			m.steps = append(m.steps, step)
		}
	}
	cut := own && !same(was, r)
	if len(m.steps) == 0 && !cut {
		return nil, nil
	}
	if !own {
		return m, nil
	}
	if m.files, err = f.ListedFiles(product); err != nil {
		return nil, err
	}
	if len(m.steps) == 0 {
		m.raw = m.files[release.RolloutsPath(product)]
		return m, nil
	}
	if m.raw, err = f.NextRollouts(next); err != nil {
		return nil, err
	}
	m.files[release.RolloutsPath(product)] = m.raw
	return m, nil
}

// same says whether two states of a product's rollouts are at the same step.
func same(x, y *release.Rollouts) bool {
	return reflect.DeepEqual(x.Rollouts, y.Rollouts)
}

// blocked says which steps are not taken, and why.
func (m *move) blocked(why string) (all []string) {
	for _, s := range m.steps {
		what := "not published"
		if s.Kind == rollout.Halt {
			what = "HALT IS NOT PUBLISHED"
		}
		all = append(all, fmt.Sprintf("%s: %s: %s: %s", what, m.product, s, why))
	}
	if len(m.steps) == 0 {
		all = append(all, fmt.Sprintf("not published: %s: %s", m.product, why))
	}
	return all
}

// Version is what version prints.
var Version = "dev"

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Example: "  homeward-fleet version", Args: cmdline.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "homeward-fleet "+Version)
		return err
	}
	return cmd
}
