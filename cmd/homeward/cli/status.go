package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/agent/status"
	"homeward/cmd/cmdline"
)

// socketFlags says where the agent answers: beside the state folder of a configuration, or told.
func socketFlags(cmd *cobra.Command) func() (string, error) {
	path := configFlag(cmd)
	socket := cmd.Flags().String("socket", "", "the agent's socket (default: <state>/run/homeward.sock of the configuration)")
	return func() (string, error) {
		if *socket != "" {
			return *socket, nil
		}
		cfg, err := look(cmd, *path)
		if err != nil {
			return "", err
		}
		return agent.SocketPath(cfg.State), nil
	}
}

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running gateway is doing",
		Example: `  homeward status
  homeward status --json | jq .problems`,
		Args: cmdline.NoArgs,
	}
	socket := socketFlags(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := socket()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
		defer cancel()
		var s status.Status
		if err := status.Get(ctx, path, "/status.json", &s); err != nil {
			if errors.Is(err, status.ErrNotRunning) {
				return fmt.Errorf("%w: start it with homeward run", err)
			}
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), s)
		}
		return printStatus(cmd.OutOrStdout(), s)
	}
	return cmd
}

func ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return time.Since(*t).Round(time.Second).String() + " ago"
}

func printStatus(out io.Writer, s status.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "gateway\t%s, version %s, up %v\n", s.Gateway, s.Version, time.Duration(s.UptimeS)*time.Second)
	fmt.Fprintf(w, "home\t%s/%s on %s, epoch %d: %s for %v\n", s.Home.Organization, s.Home.Project, s.Home.Cloud, s.Home.Epoch, s.Home.State, time.Since(s.Home.Since).Round(time.Second))
	fmt.Fprintf(w, "waiting\t%d readings, oldest %v; %d bytes of %d\n", s.Buffer.Pending, (time.Duration(s.Buffer.OldestAgeS) * time.Second), s.Buffer.Bytes, s.Buffer.MaxBytes)
	fmt.Fprintf(w, "delivered\t%d readings in %d payloads since the start, last %s\n", s.Publish.Readings, s.Publish.Payloads, ago(s.Publish.LastAck))
	fmt.Fprintf(w, "given up\t%d readings, %d gaps\n", s.Buffer.Dropped, s.Buffer.Gaps)
	ops := fmt.Sprintf("%d since %s, forecast %d", s.Operations.Used, s.Operations.Month, s.Operations.Forecast)
	if s.Publish.Operations == 0 { // its rate is what the forecast is made of
		ops = fmt.Sprintf("%d since %s, no forecast before the first payload since the start", s.Operations.Used, s.Operations.Month)
	}
	if s.Operations.Budget != nil {
		ops += fmt.Sprintf(", budget %d (%.1f %% used)", *s.Operations.Budget, *s.Operations.Percent)
	}
	fmt.Fprintf(w, "operations\t%s\n", ops)
	trusted := "trusted"
	if !s.Clock.Trusted {
		trusted = "not trusted"
	}
	fmt.Fprintf(w, "clock\t%s (%s)\n\n", trusted, s.Clock.Source)
	fmt.Fprintf(w, "SENSOR\tSTATE\tLAST GOOD\tREADINGS\tERRORS\tMISSED\tLAST ERROR\n")
	for _, x := range s.Sensors {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", x.Name, x.State, ago(x.LastOK), x.Readings, x.Errors, x.Missed, x.LastError)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range s.Problems {
		colour := yellow
		if p.Severity == status.Fail {
			colour = red
		}
		subject := ""
		if p.Subject != "" {
			subject = " (" + p.Subject + ")"
		}
		fmt.Fprintf(out, "\n%s: %s%s: %s\n  %s\n", paint(out, colour, string(p.Severity)), p.Code, subject, p.Text, p.Remedy)
	}
	return nil
}
