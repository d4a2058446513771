package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"homeward/cmd/cmdline"
	"homeward/cmd/homeward-fleet/fleet"
	"homeward/ota/trust"
	"homeward/ota/trust/writer"
)

func (a *app) publishCommand() *cobra.Command {
	var offline, nudge bool
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Sign what is to be said, check it as a gateway would, and write it",
		Long: `Sign what differs from the repository, or ends soon, with the keys at hand. What has all its signatures is checked by a client and
written, the timestamp last. What lacks some waits in staged/ for whoever has the keys and runs publish as well; what is published
until then stays in force. On a terminal it lists what would be signed before it asks for a passphrase.

Run it at least once a week with automation's keys (cron, CI): the timestamp ends after 7 days, and gateways then trust nothing new.
Exit 0: published, nothing to do, or a signature more for what waits; 1: nothing could be published, or the timestamp, the snapshot
or what has ended could not be renewed, and why.`,
		Example: `  homeward-fleet publish --dry-run
  homeward-fleet publish --keys /media/owner-1`,
		Args: cmdline.NoArgs,
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "do not ask the address of fleet.yaml whether something newer is served there")
	cmd.Flags().BoolVar(&nudge, "nudge", false, "tell the gateways that are online to look at the repository now, over the broker of fleet.yaml")
	a.facts(a.changes(cmd))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.with(func(f *fleet.Folder) error {
			if nudge && f.Settings.MQTT == nil {
				return cmdline.Usage(errors.New("--nudge: fleet.yaml has no mqtt: say there where the gateways publish their status"))
			}
			ring, err := a.ring(cmd, f)
			if err != nil {
				return err
			}
			if !offline {
				if err := served(cmd, f); err != nil {
					return err
				}
			}
			published, err := a.publish(cmd, f, ring)
			if !nudge || a.dry || err != nil && !published {
				return err
			}
			return errors.Join(err, nudgeAll(cmd, f)) // what is over and could not be renewed holds no news back
		})
	}
	return cmd
}

// nudgeAll tells every gateway that is online to look.
func nudgeAll(cmd *cobra.Command, f *fleet.Folder) error {
	b, err := dial(cmd.Context(), f)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.settle(cmd.Context(), time.Second, time.Minute); err != nil {
		return err
	}
	n, err := b.nudge(cmd.Context(), b.gateways())
	if err == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d gateways are told to look\n", n)
	}
	return err
}

// result is what publish prints as JSON.
type result struct {
	Published bool          `json:"published"`
	Nothing   bool          `json:"nothing"`
	DryRun    bool          `json:"dry_run"`
	Timestamp int64         `json:"timestamp"`
	Roles     []roleResult  `json:"roles"`
	Waits     []string      `json:"waits"`
	Ends      []expiry      `json:"ends"`
	missing   []writer.Step // those that lack signatures
}

type roleResult struct {
	Role     string   `json:"role"`
	Version  int64    `json:"version"`
	Reason   string   `json:"reason"`
	What     []string `json:"what,omitempty"`
	Signed   int      `json:"signed"`
	Needed   int      `json:"needed"`
	Missing  []string `json:"missing,omitempty"`
	Complete bool     `json:"complete"`
}

type expiry struct {
	Role string    `json:"role"`
	Ends time.Time `json:"ends"`
	Over bool      `json:"over"`
}

func (e expiry) String() string {
	if e.Over {
		return fmt.Sprintf("%s ended on %s: gateways trust nothing new of it until it is published with its keys", e.Role, date(e.Ends))
	}
	return fmt.Sprintf("%s ends on %s: publish with its keys before", e.Role, date(e.Ends))
}

// publish signs and writes what can be, and says whether gateways see something new. An error does not mean that they do not.
func (a *app) publish(cmd *cobra.Command, f *fleet.Folder, ring *writer.Ring) (bool, error) {
	published, err := f.Repo.Load()
	if err != nil {
		return false, err
	}
	if err := f.Forward(published); err != nil {
		return false, err
	}
	plan, err := f.Plan()
	if err != nil {
		return false, err
	}
	a.preview = func() { preview(cmd.ErrOrStderr(), f, plan, ring) }
	change, err := f.Repo.Prepare(plan, ring)
	a.preview = nil
	if err != nil {
		return false, err
	}
	if change.Publishes() {
		if err := check(cmd.Context(), f, change); err != nil {
			return false, fmt.Errorf("a gateway would refuse the result, nothing is written: %w", err)
		}
	}
	if !a.dry {
		if err := change.Commit(); err != nil {
			return false, err
		}
		if published, err = f.Repo.Load(); err != nil {
			return false, err
		}
	}
	pruned := ""
	if !a.dry && change.Ready {
		if pruned, err = prune(f, published); err != nil {
			return false, err
		}
	}
	r := result{Nothing: change.Nothing, DryRun: a.dry, Roles: []roleResult{}, Waits: append([]string{}, change.Waits...), Ends: ends(f, published)}
	r.Published = change.Publishes() && !a.dry
	for _, s := range change.Steps {
		r.Roles = append(r.Roles, roleResult{s.Role, s.Version, s.Reason, s.What, s.Signed, s.Needed, s.Missing, s.Complete})
		if !s.Complete {
			r.missing = append(r.missing, s)
		}
	}
	for _, s := range published.Roles() {
		if s.Role == writer.Timestamp {
			r.Timestamp = s.Version
		}
	}
	if a.json {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		a.printResult(cmd.OutOrStdout(), f, ring, change, r)
		fmt.Fprint(cmd.OutOrStdout(), pruned)
	}
	if err != nil {
		return false, err
	}
	if !change.Ready {
		return false, a.refusal(f, r)
	}
	for _, s := range change.Steps {
		if s.Added > 0 && !s.Complete { // somebody else's turn
			return r.Published, nil
		}
	}
	if why := lapsed(f, ring, published, change); len(why) > 0 {
		return r.Published, errors.New(strings.Join(why, "; "))
	}
	if !change.Publishes() && len(r.missing) > 0 {
		return false, a.refusal(f, r)
	}
	return r.Published, nil
}

// lapsed are the roles that should have been renewed and could not be: the timestamp and the snapshot when they are due, which
// automation sees to, and any that is over.
func lapsed(f *fleet.Folder, ring *writer.Ring, p *writer.Published, change *writer.Change) []string {
	var why []string
	bins := false
	for _, s := range p.Roles() {
		over := !f.Now().Before(s.Expires)
		due := over || (s.Role == writer.Timestamp || s.Role == writer.Snapshot) && f.Now().Add(writer.TermOf(s.Role).Renew).After(s.Expires)
		bin := strings.HasPrefix(s.Role, writer.Orders+"-")
		if !due || change.Goes(s.Role) || bin && bins {
			continue
		}
		bins = bins || bin
		var keys []string
		for _, id := range s.Keys {
			what := "is not at hand"
			if ring.Has(id) {
				what = "was not opened"
			}
			keys = append(keys, fmt.Sprintf("key %s %s", f.Holder(id), what))
		}
		ends := "is to be renewed before it ends on " + date(s.Expires)
		if over {
			ends = "ended on " + date(s.Expires)
		}
		why = append(why, fmt.Sprintf("%s %s: %s", s.Role, ends, strings.Join(keys, ", ")))
	}
	return why
}

// reader is a signer who only reads what it would be asked to sign.
type reader struct {
	steps []writer.Step
	keys  [][]string
}

func (r *reader) Sign(string, []byte) ([]byte, error) { return nil, writer.ErrNoKey }

func (r *reader) Tell(s writer.Step, keys []string) {
	r.steps, r.keys = append(r.steps, s), append(r.keys, keys)
}

// preview says what the keys at hand would sign, before anybody opens them. What only comes up once the owners have signed (after
// a change of their own keys) is not in it.
func preview(out io.Writer, f *fleet.Folder, plan writer.Plan, ring *writer.Ring) {
	r := &reader{}
	if _, err := f.Repo.Prepare(plan, r); err != nil {
		return // the real one says why
	}
	fmt.Fprintln(out, "to be signed:")
	for i, s := range r.steps {
		if !slices.ContainsFunc(r.keys[i], ring.Has) {
			continue
		}
		fmt.Fprintf(out, "  %s %d (%s)\n", s.Role, s.Version, s.Reason)
		for _, w := range s.What {
			fmt.Fprintf(out, "      %s\n", w)
		}
	}
}

// prune removes what neither the published set nor the source names any more, and says so.
func prune(f *fleet.Folder, p *writer.Published) (string, error) {
	if _, err := f.Repo.Prune(p); err != nil {
		return "", err
	}
	blobs, size, err := f.Unused(p)
	if err != nil || len(blobs) == 0 {
		return "", err
	}
	if err := f.DropBlobs(blobs); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d blobs that nobody needs any more are gone, %s\n", len(blobs), bytesOf(size)), nil
}

// check looks at what would be published as a gateway does that has only seen the first root.
func check(ctx context.Context, f *fleet.Folder, change *writer.Change) error {
	dir, err := os.MkdirTemp("", "homeward-fleet-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := change.Get("1.root.json")
	if err != nil {
		return err
	}
	gateway, err := trust.Open(trust.Options{FS: f.FS, Dir: dir, Root: root, Source: prospect{change}, Now: f.Now, Synced: func() bool { return true }})
	if err != nil {
		return err
	}
	if err := gateway.Refresh(ctx); err != nil {
		return err
	}
	looked := 0
	for _, s := range change.Steps {
		for _, path := range s.Paths() { // writer's own client has looked at all
			if looked++; looked > 50 || !s.Complete {
				break
			}
			if _, err := gateway.Target(ctx, path); err != nil && !errors.Is(err, trust.ErrNoTarget) {
				return err
			}
		}
	}
	return nil
}

// prospect is the source of a repository that is not written yet.
type prospect struct{ change *writer.Change }

func (p prospect) Get(_ context.Context, q trust.Request) (*trust.Body, error) {
	raw, err := p.change.Get(q.Name)
	if err != nil {
		return nil, trust.ErrNotFound
	}
	return &trust.Body{ReadCloser: io.NopCloser(bytes.NewReader(raw)), Size: int64(len(raw))}, nil
}

// refusal names what was missing for publishing anything.
func (a *app) refusal(f *fleet.Folder, r result) error {
	var why []string
	for _, s := range r.missing {
		why = append(why, lacks(f, s)...)
	}
	if len(why) == 0 {
		why = r.Waits
	}
	return fmt.Errorf("nothing is published: %s", strings.Join(why, "; "))
}

// lacks says whose signatures a step waits for.
func lacks(f *fleet.Folder, s writer.Step) []string {
	var all []string
	for _, l := range s.Lacks {
		of := ""
		if l.Before {
			of = " of the " + s.Role + " before"
		}
		all = append(all, fmt.Sprintf("%s has %d of %d signatures%s and lacks %s", s.Role, l.Signed, l.Needed, of, holders(f, l)))
	}
	return all
}

func holders(f *fleet.Folder, s writer.Lack) string {
	var names []string
	for _, id := range s.Missing {
		names = append(names, f.Holder(id))
	}
	list := strings.Join(names, ", ")
	switch n := s.Needed - s.Signed; {
	case len(names) == 0:
		return "keys"
	case n >= len(names):
		return "key " + strings.Join(names, " and ")
	case n == 1:
		return "one of the keys " + list
	default:
		return fmt.Sprintf("%d of the keys %s", n, list)
	}
}

func (a *app) printResult(out io.Writer, f *fleet.Folder, ring *writer.Ring, change *writer.Change, r result) {
	bins, what := 0, 0
	for _, s := range change.Steps {
		if strings.HasPrefix(s.Role, writer.Orders+"-") { // many, and all the same: told in one line
			bins++
			what += len(s.What)
			if s.Complete {
				for _, w := range s.What {
					fmt.Fprintf(out, "%s %d: %s\n", writer.Orders, s.Version, w)
				}
				continue
			}
		}
		state := "signed"
		if !s.Complete {
			state = fmt.Sprintf("%d of %d signatures", s.Signed, s.Needed)
		}
		fmt.Fprintf(out, "%s %d (%s): %s\n", s.Role, s.Version, s.Reason, state)
		for _, w := range s.What {
			fmt.Fprintf(out, "    %s\n", w)
		}
		if s.Complete {
			continue
		}
		var told []string
		for _, l := range s.Lacks {
			if l.Before {
				fmt.Fprintf(out, "    by the keys of the %s before, %d of %d have signed: it lacks %s\n", s.Role, l.Signed, l.Needed, holders(f, l))
			} else {
				fmt.Fprintf(out, "    it lacks %s\n", holders(f, l))
			}
			for _, id := range l.Missing {
				if ring.Has(id) && !slices.Contains(told, id) {
					told = append(told, id)
					fmt.Fprintf(out, "    the file of key %s is here, but was not opened\n", f.Holder(id))
				}
			}
		}
		if !a.dry {
			fmt.Fprintf(out, "    it waits in staged/%s.json: whoever has such a key runs homeward-fleet publish --keys DIR\n", s.Role)
		}
	}
	if bins > 0 && what == 0 {
		fmt.Fprintf(out, "%s: %d of its files are signed anew\n", writer.Orders, bins)
	}
	for _, w := range r.Waits {
		fmt.Fprintf(out, "waiting: %s\n", w)
	}
	for _, e := range r.Ends {
		fmt.Fprintln(out, e)
	}
	switch {
	case change.Nothing:
		fmt.Fprintf(out, "nothing to do: what is published is what is to be said, timestamp %d\n", r.Timestamp)
	case change.Ready && !change.Publishes():
		fmt.Fprintf(out, "nothing new is published, timestamp %d stays\n", r.Timestamp)
	case a.dry && change.Ready:
		fmt.Fprintf(out, "would publish this; nothing is written\n")
	case change.Ready:
		fmt.Fprintf(out, "published: timestamp %d\n", r.Timestamp)
	}
}

// ends are the roles whose time is nearly over: those that publish would have renewed, had their keys been there.
func ends(f *fleet.Folder, p *writer.Published) []expiry {
	all := []expiry{}
	bins := false
	for _, s := range p.Roles() {
		if s.Role == writer.Timestamp && f.Now().Add(2*24*time.Hour).Before(s.Expires) {
			continue // it is renewed daily: only worth a word when that stopped
		}
		if f.Now().Add(writer.TermOf(s.Role).Renew).After(s.Expires) {
			if strings.HasPrefix(s.Role, writer.Orders+"-") {
				if bins {
					continue
				}
				bins = true
			}
			all = append(all, expiry{s.Role, s.Expires, !f.Now().Before(s.Expires)})
		}
	}
	return all
}

// served refuses to publish what is older than what gateways see already: another manager has published from another copy.
func served(cmd *cobra.Command, f *fleet.Folder) error {
	if f.Settings.Address == "" {
		return nil
	}
	p, err := f.Repo.Load()
	if err != nil || p == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
	defer cancel()
	version, err := servedTimestamp(ctx, f.Settings.Address)
	if err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s was not asked for what it serves: %v\n", f.Settings.Address, err)
		return nil
	}
	for _, s := range p.Roles() {
		if s.Role == writer.Timestamp && version > s.Version {
			return fmt.Errorf("%s serves timestamp %d, and this folder's is %d: another manager has published; take over that folder first",
				f.Settings.Address, version, s.Version)
		}
	}
	return nil
}

func servedTimestamp(ctx context.Context, address string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(address, "/")+"/timestamp.json", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New(resp.Status)
	}
	var t struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&t); err != nil {
		return 0, err
	}
	return t.Signed.Version, nil
}
