package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/agent/config"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/cmd/cmdline"
)

func bufferCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "buffer",
		Short: "Look into the buffer, whether the gateway runs or not",
		Args:  cmdline.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmdline.Usage(errors.New("say stat, verify or export: see homeward buffer --help"))
		},
	}
	cmd.AddCommand(bufferStat(), bufferVerify(), bufferExport())
	return cmd
}

// through asks the running agent, or opens the buffer itself when there is none.
func through(ctx context.Context, cfg *config.Config, path string, answer any, direct func(*buffer.Buffer) error) error {
	err := status.Get(ctx, agent.SocketPath(cfg.State), path, answer)
	if !errors.Is(err, status.ErrNotRunning) {
		return err
	}
	return directly(cfg, direct)
}

func directly(cfg *config.Config, do func(*buffer.Buffer) error) error {
	dir := agent.BufferPath(cfg.State)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("no buffer yet: %w", err)
	}
	b, err := buffer.Open(dir, buffer.Options{ReadOnly: true, MaxBytes: int64(cfg.Buffer.MaxBytes)})
	if err != nil {
		return err
	}
	return errors.Join(do(b), b.Close())
}

func bufferStat() *cobra.Command {
	cmd := &cobra.Command{Use: "stat", Short: "Count what the buffer holds", Example: "  homeward buffer stat --json", Args: cmdline.NoArgs}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := look(cmd, *path)
		if err != nil {
			return err
		}
		var s buffer.Stats
		if err := through(cmd.Context(), cfg, "/buffer/stat", &s, func(b *buffer.Buffer) error { s = b.Stats(); return nil }); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), s)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
		fmt.Fprintf(w, "waiting\t%d readings, %d of them in flight\ndelivered\t%d\ngiven up\t%d readings, %d gaps\nsize\t%d bytes of %d, %d free on the file system\n",
			s.Pending, s.InFlight, s.Delivered, s.Dropped, s.Gaps, s.Bytes, s.MaxBytes, s.Free)
		if s.Thinned > 0 || s.ThinnedKept > 0 {
			fmt.Fprintf(w, "thinned\t%d of those given up, for aggregates; %d still in the buffer\n", s.Thinned, s.ThinnedKept)
		}
		for _, l := range s.Lanes {
			fmt.Fprintf(w, "epoch %d\t%d waiting, from %d, next %d, %d segments, %d gaps to report\n", l.Epoch, l.Pending, l.First, l.Next, l.Segments, l.Gaps)
		}
		for _, f := range s.DamagedFiles {
			fmt.Fprintf(w, "damaged\t%s\n", f)
		}
		return w.Flush()
	}
	return cmd
}

func bufferVerify() *cobra.Command {
	cmd := &cobra.Command{Use: "verify", Short: "Read every file of the buffer and name what is damaged", Example: "  homeward buffer verify", Args: cmdline.NoArgs}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := look(cmd, *path)
		if err != nil {
			return err
		}
		found := []string{}
		if err := through(cmd.Context(), cfg, "/buffer/verify", &found, func(b *buffer.Buffer) error { found = append(found, b.Verify()...); return nil }); err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(cmd.OutOrStdout(), found)
		} else if len(found) == 0 {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "sound")
		}
		if !*asJSON {
			for _, f := range found {
				fmt.Fprintln(cmd.OutOrStdout(), f)
			}
		}
		if err == nil && len(found) > 0 {
			return cmdline.ErrFailed
		}
		return err
	}
	return cmd
}

func bufferExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the readings in the buffer as JSON lines or CSV",
		Long: `Write every reading that the buffer still holds, delivered or not, to standard output:
JSON lines as homeward decode prints them, or CSV with the same columns. Readings that
aggregates stand for (operations: at_limit: thin) are written too, with the outcome
"thinned": count either those or the aggregates (quality "aggregate"). Readings that
cannot be read because a file is damaged are named on standard error, and the exit code is 1.`,
		Example: "  homeward buffer export --format csv > readings.csv",
		Args:    cmdline.NoArgs,
	}
	path := configFlag(cmd)
	format := cmd.Flags().String("format", "json", "json or csv")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *format != "json" && *format != "csv" {
			return cmdline.Usage(fmt.Errorf("--format %q: want json or csv", *format))
		}
		cfg, err := look(cmd, *path)
		if err != nil {
			return err
		}
		return export(cmd.Context(), cfg, *path, *format, cmd.OutOrStdout())
	}
	return cmd
}

// export writes the readings of the buffer of cfg, which stood in path: the running agent's, or the folder's.
func export(ctx context.Context, cfg *config.Config, path, format string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://homeward/buffer/export?format="+format, nil)
	if err != nil {
		return err
	}
	resp, err := status.Client(agent.SocketPath(cfg.State)).Do(req)
	if err != nil {
		if cfg.Gateway == "" {
			return cmdline.Usage(fmt.Errorf("%s does not say whose readings these are: mend its gateway: first", path))
		}
		return directly(cfg, func(b *buffer.Buffer) error { return agent.Export(out, b, cfg.Gateway, format) })
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent answered %s", resp.Status)
	}
	if _, err = io.Copy(out, resp.Body); err != nil {
		return err
	}
	if lost := resp.Trailer.Get(agent.ExportTrailer); lost != "" {
		return errors.New(lost)
	}
	return nil
}
