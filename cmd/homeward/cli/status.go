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

	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/agent/config"
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

// span is a length of time as the configuration writes it.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	to := time.Second
	if d < time.Minute {
		to = 100 * time.Millisecond
	}
	return config.Duration(d.Round(to)).String()
}

// shownMonths are the last months that a status shows; --json has all.
const shownMonths = 3

func printOperations(w io.Writer, s status.Status) {
	o := s.Operations
	used := strconv.FormatUint(o.Used, 10)
	if o.Budget != nil {
		used += fmt.Sprintf(" of %d (%.1f %%)", *o.Budget, *o.Percent)
	}
	if o.Month != "" {
		used += " since " + o.Month
	} else {
		used += ", no month yet: the clock was never trusted"
	}
	if o.Forecast == o.Used && s.Publish.Operations == 0 { // its rate is what the forecast is made of
		used += ", no forecast before the first payload"
	} else {
		used += fmt.Sprintf(", forecast %d at the month's end", o.Forecast)
	}
	fmt.Fprintf(w, "operations\t%s\n", used)
	if o.Used > 0 {
		fmt.Fprintf(w, "saving\tone publish per reading would have been %d, %.1f times as many\n", o.OnePerReading, o.Factor())
	}
	if o.Budget != nil {
		fmt.Fprintf(w, "limit\t%s: %s\n", o.LimitState, o.InWords())
		fmt.Fprintf(w, "alarms\t%d of the operations, %d of the budget kept for them\n", o.Alarms, *o.Reserve)
	} else {
		fmt.Fprintf(w, "limit\t%s\n", o.InWords())
		fmt.Fprintf(w, "alarms\t%d of the operations\n", o.Alarms)
	}
	if s.Publish.MaxAgeS > 0 {
		fmt.Fprintf(w, "max age\t%s now, publish.max_age is %s; the oldest reading has waited for %s\n", span(s.Publish.MaxAgeS), span(s.Publish.ConfiguredMaxAgeS), span(s.Buffer.OldestAgeS))
	}
	fmt.Fprintf(w, "besides\t%d operations known to be free, %d of unknown cost (status, proofs, schemas)\n", o.Free, o.Unknown)
	if s.Buffer.Thinned > 0 {
		fmt.Fprintf(w, "thinned\t%d of the readings given up gave way to aggregates, %d since the start; %d are still stored\n", s.Buffer.Thinned, s.Publish.Thinned, s.Buffer.ThinnedKept)
	}
	if n := len(o.Past); n > 0 {
		var months []string
		for _, m := range slices.Backward(o.Past[max(0, n-shownMonths):]) {
			months = append(months, fmt.Sprintf("%s: %d (%d)", m.Month, m.Used, m.OnePerReading))
		}
		fmt.Fprintf(w, "earlier\t%s (one publish per reading)\n", strings.Join(months, ", "))
	}
}

func printStatus(out io.Writer, s status.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "gateway\t%s, version %s, up %v\n", s.Gateway, s.Version, time.Duration(s.UptimeS)*time.Second)
	fmt.Fprintf(w, "home\t%s/%s on %s, epoch %d: %s for %v\n", s.Home.Organization, s.Home.Project, s.Home.Cloud, s.Home.Epoch, s.Home.State, time.Since(s.Home.Since).Round(time.Second))
	fmt.Fprintf(w, "waiting\t%d readings, oldest %v; %d bytes of %d\n", s.Buffer.Pending, (time.Duration(s.Buffer.OldestAgeS) * time.Second), s.Buffer.Bytes, s.Buffer.MaxBytes)
	fmt.Fprintf(w, "delivered\t%d readings in %d payloads since the start, last %s\n", s.Publish.Readings, s.Publish.Payloads, ago(s.Publish.LastAck))
	fmt.Fprintf(w, "given up\t%d readings, %d gaps\n", s.Buffer.Dropped, s.Buffer.Gaps)
	printOperations(w, s)
	trusted := "trusted"
	if !s.Clock.Trusted {
		trusted = "not trusted"
	}
	fmt.Fprintf(w, "clock\t%s (%s)\n", trusted, s.Clock.Source)
	if u := s.Update; u.State != "none" {
		next := ""
		if u.Candidate != "" {
			next = fmt.Sprintf(", next %s (release %d)", u.Candidate, u.Target)
		}
		if u.Code != "" {
			next += ", " + u.Code
		}
		if u.LastResult != "" {
			next += ", last " + u.LastResult
		}
		fmt.Fprintf(w, "update\t%s%s; asked %s; %d bytes today, no data operations\n", u.State, next, ago(u.Checked), u.Bytes.Today)
	}
	fmt.Fprintln(w)
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
