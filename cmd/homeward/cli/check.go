package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/agent/status"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check everything before leaving the site",
		Long: `Check the configuration, read each sensor for real, look at clock, disk and buffer, reach
the home and prove that what is sent comes through, and forecast the month. One line each:
ok, warn or fail, and what to do. Exit 1 if anything failed.

Where the gateway runs, its agent does the reading, between its own polls.`,
		Example: `  homeward check --config /etc/homeward/homeward.yaml
  homeward check --offline`,
		Args: noArgs,
	}
	path := configFlag(cmd)
	offline := cmd.Flags().Bool("offline", false, "leave out what needs the network")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load(*path)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Minute)
		defer cancel()
		query := "/check?digest=" + cfg.Digest
		if *offline {
			query += "&offline=1"
		}
		var lines []agent.Line
		err = status.Get(ctx, agent.SocketPath(cfg.State), query, &lines)
		if errors.Is(err, status.ErrNotRunning) {
			o, oerr := options(ctx, cfg, slog.New(slog.DiscardHandler))
			if oerr != nil {
				return oerr
			}
			lines, err = agent.Check(ctx, o, *offline), nil
		}
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(cmd.OutOrStdout(), lines)
		} else {
			err = printLines(cmd.OutOrStdout(), lines)
		}
		for _, l := range lines {
			if l.Result == "fail" && err == nil {
				err = errFailed
			}
		}
		return err
	}
	return cmd
}

func printLines(w io.Writer, lines []agent.Line) error {
	colours := map[string]string{"ok": green, "warn": yellow, "fail": red}
	for _, l := range lines {
		remedy := ""
		if l.Remedy != "" {
			remedy = "\n      " + l.Remedy
		}
		if _, err := fmt.Fprintf(w, "%s  %s: %s%s\n", paint(w, colours[l.Result], fmt.Sprintf("%-4s", l.Result)), l.Name, l.Text, remedy); err != nil {
			return err
		}
	}
	return nil
}
