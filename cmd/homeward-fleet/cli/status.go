package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	o := &overview{Gateways: told, Silent: []string{}, Rollouts: []rolloutState{}}
	enrolled, err := f.Gateways("")
	if err != nil {
		return nil, err
	}
	for _, id := range enrolled {
		if !slices.ContainsFunc(told, func(t Told) bool { return t.Gateway == id }) {
			o.Silent = append(o.Silent, id)
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
	quiet := cmd.Flags().Duration("wait", 2*time.Second, "how long nothing new must arrive until all are known")
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
	for _, e := range o.Ends {
		fmt.Fprintf(out, "\n%s ends on %s: publish with its keys before\n", e.Role, date(e.Ends))
	}
	return nil
}

func (a *app) watchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Watch the gateways, and lead the rollouts on",
		Long: `Watch the gateways' statuses, and lead the rollouts of all products: the next group where the one before has kept the release, a halt
where too many failed. With the keys of releases, snapshot and timestamp at hand each step is published, and the gateways are told;
without, it says what would be done. Any number of managers may watch: each decides from the same statuses and the same repository.`,
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
				err = b.settle(ctx, 2*time.Second, time.Minute)
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
		if !look {
			err := a.lead(ctx, cmd, b, told, memory, &renewed)
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

// lead takes the next steps of all products and publishes them.
func (a *app) lead(ctx context.Context, cmd *cobra.Command, b *broker, told []Told, memory *rollout.Memory, renewed *time.Time) error {
	return a.with(func(f *fleet.Folder) error {
		p, err := f.Repo.Load()
		if err != nil {
			return err
		}
		if err := f.Forward(p); err != nil {
			return err
		}
		changed := map[string]bool{}
		for _, product := range f.Products() {
			r, err := f.Rollouts(product)
			if err != nil {
				return err
			}
			gateways, err := seen(f, product, told, memory)
			if err != nil {
				return err
			}
			next, steps := rollout.Decide(r, gateways, now())
			for _, step := range steps {
				if step.Changes() {
					changed[product] = true
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s\n", now().UTC().Format(time.RFC3339), product, step)
				}
			}
			if changed[product] {
				if err := f.SaveRollouts(next); err != nil {
					return err
				}
			}
		}
		// It is automation, too: what ends is renewed, with the keys that are here.
		due := now().Sub(*renewed) > time.Hour && slices.ContainsFunc(p.Roles(), func(s writer.State) bool {
			return now().Add(writer.TermOf(s.Role).Renew).After(s.Expires)
		})
		if len(changed) == 0 && !due {
			return nil
		}
		*renewed = now()
		ring, err := a.ring(cmd, f)
		if err != nil {
			return err
		}
		if err := a.publish(cmd, f, ring); err != nil {
			return err
		}
		n, err := b.nudge(ctx, slices.DeleteFunc(told, func(t Told) bool { return !changed[t.Home.Product] }))
		fmt.Fprintf(cmd.OutOrStdout(), "%d gateways are told to look\n", n)
		return err
	})
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
