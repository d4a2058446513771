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
	"homeward/cmd/cmdline"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check everything before leaving the site",
		Long: `Check the configuration, read each sensor for real, look at clock, disk and buffer, reach
the home and prove that what is sent comes through, and forecast the month. One line each:
ok, warn or fail, and what to do. Exit 1 if anything failed.

Where the gateway runs, its agent does the reading, between its own polls.

With --receipt the outcome is also written to a file, signed with the gateway's own key, and shown as a
QR code on a terminal; --verify-receipt checks such a file, or the line in the code, anywhere.`,
		Example: `  homeward check --config /etc/homeward/homeward.yaml
  homeward check --offline
  homeward check --receipt leaving.txt
  homeward check --verify-receipt leaving.txt`,
		Args: cmdline.NoArgs,
	}
	path := configFlag(cmd)
	offline := cmd.Flags().Bool("offline", false, "leave out what needs the network")
	asJSON := jsonFlag(cmd)
	receipt := cmd.Flags().String("receipt", "", "write a signed receipt to this file")
	verify := cmd.Flags().String("verify-receipt", "", "check this receipt, or file with a QR code's line, and nothing else")
	key := cmd.Flags().String("key", "", "with --verify-receipt: the key that must have signed it (hex)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *verify != "" {
			return verifyReceipt(cmd.OutOrStdout(), *verify, *key, *asJSON)
		}
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
		var checked agent.Checked
		if *receipt != "" {
			if checked, err = checkReceipt(ctx, cfg, query[len("/check"):], *offline, *receipt); err != nil && len(checked.Lines) == 0 {
				return err
			}
			return finishCheck(cmd.OutOrStdout(), checked, *receipt, *asJSON, err)
		}
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
		checked.Lines = lines
		return finishCheck(cmd.OutOrStdout(), checked, "", *asJSON, nil)
	}
	return cmd
}

// finishCheck prints the outcome; unwritten is why the receipt could not be written.
func finishCheck(w io.Writer, c agent.Checked, file string, asJSON bool, unwritten error) error {
	var err error
	if asJSON {
		err = printJSON(w, c.Lines)
	} else {
		err = printLines(w, c.Lines)
	}
	if unwritten != nil {
		return errors.Join(err, unwritten)
	}
	if file != "" && !asJSON && err == nil {
		if terminal(w) {
			columns, rows := size(w)
			err = printQR(w, c.Compact, columns, rows)
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "receipt: %s\n", file)
		}
	}
	for _, l := range c.Lines {
		if l.Result == "fail" && err == nil {
			err = cmdline.ErrFailed
		}
	}
	return err
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
