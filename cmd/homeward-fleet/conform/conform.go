// Package conform is the command line of TUF's conformance suite (github.com/theupdateframework/tuf-conformance, CLIENT-CLI.md) on
// the gateway's own client, ota/trust:
//
//	homeward-fleet conformance --metadata-dir D init ROOT
//	homeward-fleet conformance --metadata-dir D --metadata-url U refresh
//	homeward-fleet conformance --metadata-dir D --metadata-url U --target-name T --target-base-url B --target-dir X download
//
// Exit 0: done; 1: refused. The client leaves out what it wants beyond TUF (trust.Options.PlainTUF): with it, rows of the suite that
// take a threshold of 1, other names of roles or two delegators of one role for granted would fail, as they should.
package conform

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"homeward/buffer/durable"
	"homeward/cmd/cmdline"
	"homeward/ota/trust"
)

const maxRoot = 64 << 10

type client struct {
	metadataDir, metadataURL, targetName, targetBaseURL, targetDir string
}

// Command is the hidden command conformance.
func Command() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:    "conformance",
		Short:  "Speak the command line of TUF's conformance suite",
		Hidden: true,
		Args:   cmdline.NoArgs,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&c.metadataDir, "metadata-dir", "", "folder of the trusted metadata")
	f.StringVar(&c.metadataURL, "metadata-url", "", "address of the repository's metadata")
	f.StringVar(&c.targetName, "target-name", "", "path of the target to fetch")
	f.StringVar(&c.targetBaseURL, "target-base-url", "", "address of the repository's targets")
	f.StringVar(&c.targetDir, "target-dir", "", "folder for fetched targets")
	verb := func(use, short string, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) }})
	}
	verb("init ROOT", "Begin with that root", cobra.ExactArgs(1), func(_ context.Context, args []string) error { return c.init(args[0]) })
	verb("refresh", "Bring the metadata up to date", cmdline.NoArgs, func(ctx context.Context, _ []string) error { return c.run(ctx, false) })
	verb("download", "Fetch a target", cmdline.NoArgs, func(ctx context.Context, _ []string) error { return c.run(ctx, true) })
	return cmd
}

func (c *client) init(root string) error {
	if err := c.want("--metadata-dir", c.metadataDir); err != nil {
		return err
	}
	raw, err := durable.ReadFile(root, maxRoot)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(c.metadataDir, "root.json"), raw, 0o600)
}

func (c *client) want(flag, value string) error {
	if value == "" {
		return cmdline.Usage(fmt.Errorf("%s is missing", flag))
	}
	return nil
}

func (c *client) run(ctx context.Context, download bool) error {
	for _, f := range [][2]string{{"--metadata-dir", c.metadataDir}, {"--metadata-url", c.metadataURL}} {
		if err := c.want(f[0], f[1]); err != nil {
			return err
		}
	}
	now, err := clock(ctx)
	if err != nil {
		return err
	}
	raw, err := durable.ReadFile(filepath.Join(c.metadataDir, "root.json"), maxRoot)
	if err != nil {
		return err
	}
	o := trust.Options{
		Dir: c.metadataDir, Root: raw, PlainTUF: true,
		Now: func() time.Time { return now }, Synced: func() bool { return true },
	}
	if o.Source, err = trust.HTTPS(c.metadataURL, trust.HTTPOptions{Plain: true}); err != nil {
		return err
	}
	if download {
		for _, f := range [][2]string{{"--target-name", c.targetName}, {"--target-base-url", c.targetBaseURL}, {"--target-dir", c.targetDir}} {
			if err := c.want(f[0], f[1]); err != nil {
				return err
			}
		}
		if o.Targets, err = trust.HTTPS(c.targetBaseURL, trust.HTTPOptions{Plain: true}); err != nil {
			return err
		}
	}
	r, err := trust.Open(o)
	if err != nil {
		return err
	}
	err = r.Refresh(ctx)
	var data []byte
	if err == nil && download {
		data, err = r.Target(ctx, c.targetName)
	}
	for role, raw := range r.Files() { // what is trusted is looked at also after a refusal
		if err := durable.WriteFile(filepath.Join(c.metadataDir, url.PathEscape(role)+".json"), raw, 0o600); err != nil {
			return err
		}
	}
	if err != nil || !download {
		return err
	}
	return durable.WriteFile(filepath.Join(c.targetDir, url.PathEscape(c.targetName)), data, 0o600)
}

// clock asks date, since the suite sets the time with faketime, which a static program does not notice.
func clock(ctx context.Context) (time.Time, error) {
	out, err := exec.CommandContext(ctx, "date", "+%s").Output()
	if err != nil {
		return time.Time{}, fmt.Errorf("date: %w", err)
	}
	s, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("date says %.40q; seconds are wanted", out)
	}
	return time.Unix(s, 0), nil
}
