package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"homeward/agent/pack"
	"homeward/cmd/cmdline"
	"homeward/drivers/sim/truth"
)

func verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify --truth FILE [ARRIVED]",
		Short: "Compare what arrived with what a site served",
		Long: `Compare readings that arrived (JSON lines, as homeward decode prints them; standard input, or -,
by default) with the truth file of the simulated site. Exit 0 only if nothing is

  lost       a sequence number that is missing, and that no gap covers
  repeated   one value under two keys, or a key with two contents; identical repeats of a
             key are what delivery at least once makes, and are only counted
  misnamed   a channel or unit that the site does not have, or a value that another channel served
  wrong      nothing was served that the reading can be of, at that time
  unsampled  an instrument, or one of its channels, was not heard for longer than three of its intervals and two seconds,
             no fault lay on it or had done so within what its recovery may take (--recovery), and no
             gap record says so; or too many of its values did not arrive

For each fault and instrument: the time from its end to the first reading taken after it.
Channels with a dead-band, or recorded on change, are unsampled in this sense: leave both out.`,
		Example: `  mosquitto_sub -t 'homeward/+/+/+/readings' > payloads.txt &
  homeward decode < payloads.txt | homeward-simulate verify --truth truth.jsonl`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return cmdline.Usage(fmt.Errorf("%d files: want one file of readings, or - for standard input", len(args)))
			}
			return nil
		},
	}
	file := cmd.Flags().String("truth", "", "what the site wrote with its own --truth")
	asJSON := cmd.Flags().Bool("json", false, "print the report as JSON")
	recovery := cmd.Flags().Duration("recovery", 0, "how long after each fault an instrument may still be silent (default: what the gateway promises of the fault)")
	allowance := cmd.Flags().Duration("allowance", truth.DefaultAllowance, "how long a busy machine may keep a poll waiting")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *file == "" {
			return cmdline.Usage(fmt.Errorf("no --truth FILE: name the file that homeward-simulate SITE.yaml --truth FILE has written"))
		}
		if *recovery < 0 || *recovery == 0 && cmd.Flags().Changed("recovery") {
			return cmdline.Usage(fmt.Errorf("--recovery %v: want a time such as 15s", *recovery))
		}
		if *allowance <= 0 {
			return cmdline.Usage(fmt.Errorf("--allowance %v: want a time such as 400ms", *allowance))
		}
		t, err := os.Open(*file)
		if err != nil {
			return err
		}
		defer t.Close()
		in := cmd.InOrStdin()
		if len(args) > 0 && args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		r, err := truth.Verify(t, in, truth.Options{Recovery: *recovery, Allowance: *allowance})
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		if *asJSON {
			e := json.NewEncoder(out)
			e.SetIndent("", "  ")
			err = e.Encode(struct {
				OK bool `json:"ok"`
				*truth.Report
			}{r.OK(), r})
		} else {
			err = printReport(out, r)
		}
		if err == nil && !r.OK() {
			return cmdline.ErrFailed
		}
		return err
	}
	return cmd
}

// printReport prints it for people.
func printReport(w io.Writer, r *truth.Report) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("%d values served; %d readings arrived, of %d gateways and epochs; %d identical repeats", r.Served, r.Readings, r.Lanes, r.Repeats)
	for _, reason := range slices.Sorted(maps.Keys(r.Gaps)) {
		p("gap records say %s: %d", shown(reason), r.Gaps[reason])
	}
	if r.Aggregate > 0 {
		p("%d aggregates, which are not compared", r.Aggregate)
	}
	if r.Stale > 0 {
		p("%d readings of a clock that was not trusted, compared without their time", r.Stale)
	}
	if r.Missing > 0 {
		p("%d values did not arrive, and no fault or gap explains it: their polls failed, or were none", r.Missing)
	}
	if r.WatchedMS > 0 {
		watched, excused := time.Duration(r.WatchedMS)*time.Millisecond, time.Duration(r.ExcusedMS)*time.Millisecond
		p("%v were watched, of all instruments together; for %v of it a fault or a gap excuses silence", watched.Round(100*time.Millisecond), excused.Round(100*time.Millisecond))
	}
	if r.LargestMS > 0 {
		p("a value was served at most %d ms after its reading's time", r.LargestMS)
	}
	if !r.Complete {
		p("the truth file has no end: the simulator was killed, and what it served last is missing; %d readings of that time are not judged", r.Beyond)
	}
	p("")
	for _, f := range r.Findings {
		p("%-10s %d", f.Kind, f.Count)
		for _, e := range f.Examples {
			p("  %s", exampleLine(e))
		}
		if n := len(f.Examples); n > 0 && f.Count > uint64(n) && f.Kind != truth.Lost {
			p("  and %d more", f.Count-uint64(n))
		}
	}
	if len(r.Recovered) > 0 {
		p("")
		p("%-24s %-12s %-24s %-12s recovery", "fault on", "fault", "sensor", "lasted")
	}
	for _, x := range r.Recovered {
		if x.Sensor == "" {
			x.Sensor = "-"
		}
		lasted, after := "to the end", "-"
		if x.EndMS > 0 {
			lasted = (time.Duration(x.EndMS-x.BeginMS) * time.Millisecond).String()
		}
		if x.EndMS > 0 && x.Sensor != "-" {
			after = "no reading after it"
		}
		if x.AfterMS != nil {
			after = (time.Duration(*x.AfterMS) * time.Millisecond).String()
		}
		p("%-24s %-12s %-24s %-12s %s", x.On, x.Fault, x.Sensor, lasted, after)
	}
	p("")
	if r.OK() {
		p("all is well: every reading is one that its instrument served, once, under its name, and none is missing unexplained")
	} else {
		var wrong []string
		for _, f := range r.Findings {
			if f.Count > 0 {
				wrong = append(wrong, fmt.Sprintf("%d %s", f.Count, f.Kind))
			}
		}
		p("FAILED: %s", strings.Join(wrong, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func exampleLine(e truth.Example) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case e.To > e.Seq:
		add("%s epoch %d seq %d to %d", shown(e.Gateway), e.Epoch, e.Seq, e.To)
	case e.Seq > 0:
		add("%s epoch %d seq %d", shown(e.Gateway), e.Epoch, e.Seq)
	}
	if e.Channel != "" {
		add("%s", shown(e.Channel))
	}
	if e.TimeMS != 0 {
		add("%s", time.UnixMilli(e.TimeMS).UTC().Format(pack.TimeLayout))
	}
	if e.Value != nil {
		add("%v", *e.Value)
	}
	return strings.Join(parts, " ") + ": " + e.Why
}

// shown keeps what came from elsewhere from playing with the terminal.
func shown(s string) string {
	if strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return strconv.Quote(s)
	}
	return s
}
