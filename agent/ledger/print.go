package ledger

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"homeward/agent/config"
)

// width is how long lines of a plan are at most, so that a mail leaves them alone.
const width = 100

// page is text that grows.
type page struct{ strings.Builder }

// say writes a paragraph, broken into lines. Those after the first begin below its text.
func (p *page) say(head, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	indent := strings.Repeat(" ", utf8.RuneCountInString(head))
	line := head
	empty := true
	for word := range strings.FieldsSeq(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			p.WriteString(strings.TrimRight(line, " ") + "\n")
			line, empty = indent, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	p.WriteString(strings.TrimRight(line, " ") + "\n")
}

// table writes rows of cells: the first column left, the others right.
func (p *page) table(rows [][]string) {
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, r := range rows {
		line := ""
		for i, cell := range r {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				line += cell + pad
			} else {
				line += "  " + pad + cell
			}
		}
		p.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

const margin = 12 // of the paragraphs' heads

func head(s string) string { return fmt.Sprintf("%-*s", margin, s) }

// Print writes the forecast as plain text, in lines of 100 characters at most: for a mail.
func (f *Forecast) Print(out io.Writer) error {
	p := &page{}
	p.say("", "The month of %s: %d days, every sensor answering, the home always reached.", f.Gateway, f.Days)
	p.WriteString("\n")
	f.printMeasured(p)
	f.printBudget(p)
	f.printCheapest(p)
	f.printBlocks(p)
	p.WriteString("\n")
	f.printFormats(p)
	f.printAges(p)
	f.printReductions(p)
	p.WriteString("\n")
	f.printRest(p)
	_, err := io.WriteString(out, p.String())
	return err
}

func (f *Forecast) printMeasured(p *page) {
	m := &f.Measured
	more := ""
	if m.Skipped > 0 {
		more += fmt.Sprintf(" %s of no use: of sensors that are disabled or channels that are gone, without value or time, or aggregates.", many(m.Skipped, "line"))
	}
	if len(m.Missing) > 0 {
		more += fmt.Sprintf(" Not in it, and not counted: %s.", some(m.Missing))
	}
	if len(m.MadeUp) > 0 {
		more += fmt.Sprintf(" Made-up values for %s, which it has nothing of.", some(m.MadeUp))
	}
	if m.Short {
		more += " That is too short to fill packed payloads: their figures are rough."
	}
	switch m.Source {
	case "buffer":
		p.say(head("measured"), "on the buffer of the gateway: %s readings in %s, as if the month went on so. What its dead-bands, on_change and resolutions left out is not in it.%s",
			count(float64(m.Readings)), long(m.Seconds), more)
	case "recording":
		name := many(len(m.Files), "file")
		if len(m.Files) == 1 {
			name = brief(filepath.Base(m.Files[0]))
		}
		p.say(head("measured"), "on a recording, %s: %s readings in %s, as if the month went on so.%s", name, count(float64(m.Readings)), long(m.Seconds), more)
	default:
		p.say(head("measured"), "on made-up values, which wander in small steps. Real ones: --recording FILE, or --running.")
	}
	left := ""
	if f.Taken > f.Readings*1.0000001 {
		left = fmt.Sprintf(" of %s taken", count(f.Taken))
	}
	p.say(head("readings"), "%s published%s", count(f.Readings), left)
	if f.Alarms > 0 {
		p.say(head("alarms"), "%s, each a publish of its own that cuts the payload being filled short; counted below", count(f.Alarms))
	}
	p.WriteString("\n")
}

// label is how a format is called.
func (x *Format) label() string {
	if x.Encoding != "" {
		return x.Name + " " + x.Encoding
	}
	return x.Name
}

func (f *Forecast) configured(x *Format) bool {
	return x.Name == f.Format && (x.Encoding == "" || x.Encoding == f.Encoding)
}

func (f *Forecast) printFormats(p *page) {
	top := []string{"format", "per payload", "bytes", "payloads", "operations", "of single", "blocks"}
	if f.Budget > 0 {
		top = append(top, "of budget")
	}
	rows := [][]string{top}
	all := append(append([]Format(nil), f.Formats...), f.OneByOne)
	all[len(all)-1].PercentOfSingle = 100
	for i := range all {
		x := &all[i]
		name := x.label()
		if i == len(all)-1 {
			name = "single readings"
		} else if f.configured(x) {
			name += " *"
		}
		r := []string{name, fmt.Sprintf("%.1f", x.ReadingsPerPayload), fmt.Sprintf("%.0f", x.BytesPerPayload), short(x.Payloads), short(x.Operations),
			percent(x.PercentOfSingle), short(float64(x.Blocks))}
		if x.Percent != nil {
			r = append(r, percent(*x.Percent))
		}
		rows = append(rows, r)
	}
	p.table(rows)
	p.say("", "* as configured%s; single readings: one publish per reading; blocks for %s", f.agedBy(), many(f.Gateways, "gateway"))
}

// agedBy says what the table of formats was made with.
func (f *Forecast) agedBy() string {
	if len(f.Formats) == 0 {
		return ""
	}
	return ", with max_age " + span(f.Formats[0].MaxAgeS)
}

func (f *Forecast) printAges(p *page) {
	if len(f.Formats) == 0 || f.Formats[0].ByMaxAge == nil {
		return
	}
	top := []string{"max_age"}
	for _, a := range f.Formats[0].ByMaxAge {
		s := span(a.MaxAgeS)
		if a.MaxAgeS == f.Formats[0].MaxAgeS {
			s += " *"
		}
		top = append(top, s)
	}
	rows := [][]string{top}
	for i := range f.Formats {
		r := []string{f.Formats[i].label()}
		for _, a := range f.Formats[i].ByMaxAge {
			r = append(r, short(a.Operations))
		}
		rows = append(rows, r)
	}
	p.WriteString("\noperations a month by max_age\n")
	p.table(rows)
}

func (f *Forecast) printReductions(p *page) {
	if len(f.Reductions) == 0 {
		return
	}
	p.WriteString("\n")
	rows := [][]string{{"less to send", "on channels", "", "readings with", "without", "operations with", "without"}}
	blind := false
	for _, x := range f.Reductions {
		kind := "lossy"
		if x.Lossless {
			kind = "lossless"
		}
		if !x.Used && x.With == nil {
			rows = append(rows, []string{x.Key, "none", "", "", "", "", ""})
			continue
		}
		on := fmt.Sprintf("%d of %d", x.Channels, x.Of)
		if !x.Used {
			on = "none; on all:"
		}
		r := []string{x.Key, on, kind, short(x.With.Readings), "?", short(x.With.Operations), "?"}
		if x.Without != nil {
			r[4], r[6] = short(x.Without.Readings), short(x.Without.Operations)
		} else {
			blind = true
		}
		rows = append(rows, r)
	}
	p.table(rows)
	if blind {
		p.say("", "? the buffer holds what is left")
	}
	var notes []string
	for _, x := range f.Reductions {
		switch {
		case x.Key == keyResolution && x.Changed > 0 && x.Without != nil:
			notes = append(notes, fmt.Sprintf("resolution rounds %.1f %% of the values", 100*x.Changed))
		case x.Key == keyTime && x.Changed > 0:
			notes = append(notes, fmt.Sprintf("time_resolution moves %.1f %% of the times, by half of it at most", 100*x.Changed))
		}
	}
	if len(notes) > 0 {
		p.say("", "%s", strings.Join(notes, "; "))
	}
}

func (f *Forecast) printBudget(p *page) {
	x := f.chosen()
	if x != nil && x.LimitedBy != "" {
		why := "most leave before they are full: a longer max_age saves operations"
		if x.LimitedBy == "full" {
			why = "most leave full: a longer max_age saves nothing"
		}
		p.say(head("payloads"), "of %s are full after %s (%.1f readings) and leave after %s at the latest; %s", x.label(), span(x.FullAfterS), x.ReadingsIfFull, span(x.MaxAgeS), why)
	}
	if f.Percent == nil {
		p.say(head("budget"), "none configured (operations.per_month)")
		return
	}
	share := fmt.Sprintf("%s of %s operations, %s", count(f.Operations), count(float64(f.Budget)), percent(*f.Percent))
	if f.Reserve > 0 {
		share += fmt.Sprintf("; %s of the budget are kept for alarms", count(f.Reserve))
	}
	if *f.Enough {
		p.say(head("budget"), "%s", share)
		return
	}
	p.say(head("budget"), "too small: %s", share)
	if f.EnoughMaxAgeS != nil {
		p.say(head(""), "max_age %s would do; the gateway stretches it by itself, as far as it must", span(*f.EnoughMaxAgeS))
		return
	}
	p.say(head(""), "with %s no max_age makes it suffice. at_limit %s: %s", f.Format, f.AtLimit, map[string]string{
		Hold:     "what the budget does not carry waits in the buffer, and in the end the oldest goes as buffer.when_full says",
		Thin:     "what the budget does not carry leaves as min, mean and max of each channel and interval",
		Continue: "all is published, beyond the budget",
	}[f.AtLimit])
}

func (f *Forecast) chosen() *Format {
	for i := range f.Formats {
		if f.configured(&f.Formats[i]) {
			return &f.Formats[i]
		}
	}
	return nil
}

func (f *Forecast) printCheapest(p *page) {
	if f.Cheapest == nil {
		return
	}
	tell := func(first string, c *Cheapest) {
		x, share := Format{Name: c.Format, Encoding: c.Encoding}, ""
		if f.Budget > 0 {
			share = fmt.Sprintf(", %s of the budget", percent(*f.percent(c.Operations)))
		}
		p.say(head(first), "%s, max_age %s: %s operations a month%s, %s for %s", x.label(), span(c.MaxAgeS), count(c.Operations), share, many(c.Blocks, "block"), many(f.Gateways, "gateway"))
		now := f.chosen()
		switch {
		case now != nil && f.configured(&x) && c.MaxAgeS == now.MaxAgeS:
			p.say(head(""), "as configured")
		case c.Saved < 0:
			p.say(head(""), "%s operations more than as configured", count(-c.Saved))
		default:
			p.say(head(""), "operations saved: %s", count(c.Saved))
		}
	}
	p.say(head("cheapest"), "where a reading may wait %s:", span(f.Cheapest.MaxAgeS))
	tell("", f.Cheapest)
	if f.CheapestText != nil {
		tell("  as text", f.CheapestText)
	}
}

func (f *Forecast) printBlocks(p *page) {
	b := &f.Blocks
	p.say(head("blocks"), "%s: %s operations, %s of %s operations and %d devices a month; one publish per reading %s",
		many(f.Gateways, "gateway"), count(b.Operations), many(b.Blocks, "block"), count(BlockOperations), BlockDevices, many(b.OneByOne, "block"))
	p.say(head(""), "over cellular data that is part of a block (%d MB): %s, the payloads are %s MB", BlockMegabytes, many(b.Cellular, "block"), megabytes(b.Megabytes))
	if b.Dollars != nil {
		p.say(head(""), "at US$%d a block (Particle's Basic plan, list price of 2026): US$%s a month, over cellular data US$%s; one publish per reading US$%s",
			BlockDollars, count(*b.Dollars), count(*b.DollarsCellular), count(*b.DollarsOneByOne))
	}
}

func (f *Forecast) printRest(p *page) {
	rule := "one a publish, whatever its size"
	if f.PerBytes > 0 {
		rule = fmt.Sprintf("one for each started %s bytes of a publish", count(float64(f.PerBytes)))
	}
	p.say(head("operations"), "%s", rule)
	alarms := ""
	if f.Measured.Source == "made-up" {
		alarms = "alarms, "
	}
	schema := ""
	if f.SchemaOperations > 0 {
		schema = fmt.Sprintf(", and the schema of packed payloads (%s operations, where the home bills it)", count(f.SchemaOperations))
	}
	p.say(head("not counted"), "%srepeats, a backlog after an outage, status messages%s", alarms, schema)
}

// count writes a whole number with its thousands apart.
func count(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short is count, in thousands, millions or a power of ten where it is long: for tables.
func short(v float64) string {
	switch {
	case v >= 1e13:
		return fmt.Sprintf("%.2e", v)
	case v >= 1e10:
		return count(v/1e6) + "M"
	case v >= 1e8:
		return count(v/1e3) + "k"
	}
	return count(v)
}

func megabytes(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return count(v)
}

func percent(v float64) string {
	switch {
	case v >= 1e5:
		return ">99,999 %"
	case v >= 1000:
		return count(v) + " %"
	}
	return fmt.Sprintf("%.1f %%", v)
}

func many(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return count(float64(n)) + " " + what
}

// some names the first few.
func some(names []string) string {
	const most = 4
	var list []string
	for _, n := range names[:min(len(names), most)] {
		list = append(list, brief(n))
	}
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list, ", "), len(names)-most)
	}
	return strings.Join(list, ", ")
}

// brief is a name that fits into a line.
func brief(s string) string {
	const most = 70
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

func span(seconds float64) string {
	d := time.Duration(min(seconds, 1e9) * float64(time.Second))
	if d >= time.Minute {
		return config.Duration(d.Round(time.Second)).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// long is a length of time to the minute, or the second where it is short.
func long(seconds float64) string {
	d := time.Duration(min(seconds, 9e9) * float64(time.Second))
	if d < time.Hour {
		return config.Duration(d.Round(time.Second)).String()
	}
	d = d.Round(time.Minute)
	if days := d / (24 * time.Hour); days > 1 {
		if d -= days * 24 * time.Hour; d == 0 {
			return fmt.Sprintf("%d days", days)
		}
		return fmt.Sprintf("%d days %s", days, config.Duration(d))
	}
	return config.Duration(d).String()
}
