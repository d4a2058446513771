package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"homeward/agent"
	"homeward/agent/status"
	"homeward/buffer/durable"
	"homeward/cmd/cmdline"
	"homeward/ota"
	"homeward/ota/boot"
)

func updateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Look at releases and updates, or apply one from a file",
		Args:  cmdline.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmdline.Usage(errors.New("say status, apply, history or clear: see homeward update --help"))
		},
	}
	cmd.AddCommand(updateStatus(), updateApply(), updateHistory(), updateClear())
	return cmd
}

// standing is how updates stand beside an agent that does not run: what its record says.
func standing(state string) (status.Update, error) {
	rec, _, err := (&boot.Store{FS: durable.OS{}, Dir: agent.UpdatePath(state)}).Load()
	if err != nil {
		return status.Update{}, err
	}
	u := status.Update{Version: rec.Release.Version, Counter: rec.Release.Counter, Slot: cmp.Or(rec.Active, ota.Factory), State: "not running"}
	if rec.Trial != nil {
		u.State, u.Candidate, u.Target, u.Attempt = "not running, on trial", rec.Trial.Release.Version, rec.Trial.Release.Counter, rec.Trial.Attempt
	}
	if r := rec.LastResult; r != nil {
		u.LastResult = strings.TrimPrefix(r.Release.Version+": "+r.Code, ": ")
	}
	for _, q := range rec.Quarantine {
		u.Quarantine = append(u.Quarantine, status.Quarantined{Version: q.Release.Version, Counter: q.Release.Counter, Code: q.Code})
	}
	return u, nil
}

func updateStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show which release runs, which comes next, and how far it is",
		Example: "  homeward update status\n  homeward update status --json",
		Args:    cmdline.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := look(cmd, *path)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
		defer cancel()
		var s status.Status
		err = status.Get(ctx, agent.SocketPath(cfg.State), "/status.json", &s)
		if errors.Is(err, status.ErrNotRunning) {
			s.Update, err = standing(cfg.State)
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), s.Update)
		}
		return printUpdate(cmd.OutOrStdout(), s.Update)
	}
	return cmd
}

func printUpdate(out io.Writer, u status.Update) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	running := cmp.Or(u.Version, "the release that the package brought")
	if u.Counter > 0 {
		running += fmt.Sprintf(", release %d", u.Counter)
	}
	fmt.Fprintf(w, "running\t%s, slot %s\n", running, cmp.Or(short(u.Slot), "none: not started by the launcher, so that nothing can be installed"))
	state := u.State
	switch {
	case u.State == "none":
		state += ": no fleet is configured (fleet:)"
	case u.Candidate == "" && u.Why != "":
		state += ": " + u.Why
	}
	fmt.Fprintf(w, "state\t%s\n", state)
	if u.Candidate != "" {
		next := fmt.Sprintf("%s, release %d", u.Candidate, u.Target)
		if u.Why != "" {
			next += ": " + u.Why
		}
		if u.Attempt > 0 {
			next += fmt.Sprintf(", trial %d", u.Attempt)
		}
		fmt.Fprintf(w, "next\t%s\n", next)
	}
	if u.Code != "" {
		fmt.Fprintf(w, "because\t%s (%s)\n", cmp.Or(u.Text, "of its code"), u.Code)
	}
	for _, f := range u.Failing {
		fmt.Fprintf(w, "on trial\tfails: %s\n", f)
	}
	if u.Bytes.Total > 0 {
		fmt.Fprintf(w, "fetched\t%d of %d bytes\n", u.Bytes.Done, u.Bytes.Total)
	}
	today := strconv.FormatInt(u.Bytes.Today, 10) + " bytes today"
	if u.Bytes.Limit > 0 {
		today += fmt.Sprintf(" of %d", u.Bytes.Limit)
	}
	if u.State != "none" && !strings.HasPrefix(u.State, "not running") {
		fmt.Fprintf(w, "traffic\t%s, no data operations\n", today)
		next := ""
		if u.NextCheck != nil {
			next = ", next in " + max(0, time.Until(*u.NextCheck)).Round(time.Second).String()
		}
		fmt.Fprintf(w, "asked\t%s%s\n", ago(u.Checked), next)
	}
	if u.Pinned != "" {
		fmt.Fprintf(w, "pinned\tto %s: rollouts leave this gateway alone\n", u.Pinned)
	}
	if u.Window != "" {
		fmt.Fprintf(w, "window\t%s\n", u.Window)
	}
	if u.LastResult != "" {
		fmt.Fprintf(w, "last\t%s\n", u.LastResult)
	}
	for _, q := range u.Quarantine {
		fmt.Fprintf(w, "failed here\t%s, release %d: %s; not again until it is assigned anew\n", q.Version, q.Counter, q.Code)
	}
	if u.Fallback {
		fmt.Fprintf(w, "beware\tthe slot that should run could not be started\n")
	}
	return w.Flush()
}

// short is a hash as people compare it.
func short(slot string) string {
	if len(slot) == 64 {
		return slot[:12]
	}
	return slot
}

func updateApply() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Take releases from a folder, such as one on a USB stick",
		Long: `Take releases from a copy of the fleet's repository: a folder, on a USB stick for example, or the
timestamp.json in it. What is there is checked as if it came over the network: it must be signed by the
fleet, meant for this gateway, and newer. The running gateway does it, so its user must be able to read the folder.`,
		Example: "  homeward update apply /media/usb/acme",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cmdline.Usage(errors.New("name one folder: homeward update apply /media/usb/acme"))
			}
			return nil
		},
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := look(cmd, *path)
		if err != nil {
			return err
		}
		file, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		if _, err := os.Stat(file); err != nil {
			return cmdline.Usage(err)
		}
		var u status.Update
		err = status.Post(cmd.Context(), agent.SocketPath(cfg.State), "/update/apply?path="+url.QueryEscape(file), &u)
		if errors.Is(err, status.ErrNotRunning) {
			return fmt.Errorf("%w: it is the running gateway that applies a release: start it (systemctl start homeward)", err)
		}
		if err != nil {
			return err
		}
		return printUpdate(cmd.OutOrStdout(), u)
	}
	return cmd
}

func updateHistory() *cobra.Command {
	cmd := &cobra.Command{Use: "history", Short: "List what became of each release", Example: "  homeward update history", Args: cmdline.NoArgs}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := look(cmd, *path)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
		defer cancel()
		list := []ota.Entry{}
		err = status.Get(ctx, agent.SocketPath(cfg.State), "/update/history", &list)
		if errors.Is(err, status.ErrNotRunning) {
			list, err = append(list, ota.ReadHistory(agent.UpdatePath(cfg.State))...), nil
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), list)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
		if len(list) == 0 {
			fmt.Fprintln(w, "no release was ever tried here")
		}
		for _, e := range list {
			told := ""
			if e.Event != ota.EventArmed && !e.Acked {
				told = "  (the fleet does not know yet)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\trelease %d\t%s\t%s%s\n", time.Unix(e.UnixS, 0).Format(time.DateTime), e.Event, e.Release.Version, e.Release.Counter, e.Code, e.Text, told)
		}
		return w.Flush()
	}
	return cmd
}

func updateClear() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "clear VERSION",
		Short:   "Let a release that failed here be tried again",
		Example: "  homeward update clear 1.4.2",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cmdline.Usage(errors.New("name one version that homeward update status lists as failed here: homeward update clear 1.4.2"))
			}
			return nil
		},
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := look(cmd, *path)
		if err != nil {
			return err
		}
		var u status.Update
		err = status.Post(cmd.Context(), agent.SocketPath(cfg.State), "/update/clear?version="+url.QueryEscape(args[0]), &u)
		if errors.Is(err, status.ErrNotRunning) {
			return fmt.Errorf("%w: it is the running gateway that does it: start it (systemctl start homeward)", err)
		}
		if err != nil {
			return err
		}
		return printUpdate(cmd.OutOrStdout(), u)
	}
	return cmd
}

// What a release may take while it says whether it runs here. How long is for the updater to say.
const (
	selfCheckMemory = 256 << 20 // bytes of data: a Go program's heap and stacks, setrlimit(2) RLIMIT_DATA
)

// updates is what the agent needs to change its program.
func updates(config string) *agent.Updates {
	u := &agent.Updates{Slot: os.Getenv("HOMEWARD_SLOT"), Launcher: 1}
	u.Program, _ = os.Executable()
	if n, err := strconv.Atoi(os.Getenv("HOMEWARD_LAUNCHER")); err == nil {
		u.Launcher = n
	}
	u.Built, _ = time.Parse(time.RFC3339, built)
	u.SelfCheck = func(ctx context.Context, program string) error { return selfCheck(ctx, program, config) }
	return u
}

func selfCheck(ctx context.Context, program, config string) error {
	cmd := exec.CommandContext(ctx, program, "selfcheck", "--config", config)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &capped{w: &said, left: 1000}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: selfCheckMemory, Max: selfCheckMemory}
	_ = unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, &limit, nil) // it may have ended already
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer: %w", ctx.Err())
		}
		if text := strings.TrimSpace(said.String()); text != "" {
			return fmt.Errorf("%w: %s", err, strings.ReplaceAll(text, "\n", "; "))
		}
		return err
	}
	return nil
}

// capped takes the beginning of what a program says.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if _, err := c.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
