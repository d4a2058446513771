// Command benchpack measures how many readings fit into a data operation: on recordings from a folder, and on the
// simulator's own. docs/benchmarks.md keeps what it prints.
//
// Grouping, schema and primers are learnt from the first 30 % of a recording; what follows is packed, decoded and compared to
// the bit. It exits with 1 when a payload did not decode to what was packed, and with 2 when a recording cannot be read.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
)

func main() {
	o := options{out: os.Stdout, progress: os.Stderr, script: "agent/pack/packed/packed.js"}
	traces := flag.String("traces", "", "a folder of CSV files ("+header+"); default ../shared/traces, where it is there")
	flag.StringVar(&o.json, "json", "", "write the results to this file, too")
	flag.StringVar(&o.keep, "keep", "", "write the simulator's recordings into this folder, as CSV")
	flag.IntVar(&o.primers, "primers", 2, "payloads that a schema carries as examples, 0 to 8")
	flag.IntVar(&o.runs, "runs", 5, "runs of which the quickest counts; 0: measure no time")
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "traces" })
	o.traces = *traces
	switch {
	case flag.NArg() > 0:
		fmt.Fprintf(os.Stderr, "benchpack: %q: want flags alone\n", flag.Arg(0))
		os.Exit(2)
	case o.primers < 0 || o.primers > 8 || o.runs < 0:
		fmt.Fprintf(os.Stderr, "benchpack: primers %d, runs %d: want 0 to 8, and 0 or more\n", o.primers, o.runs)
		os.Exit(2)
	case !given:
		if info, err := os.Stat(sharedTraces); err == nil && info.IsDir() {
			o.traces = sharedTraces
		}
	case o.traces == "":
		fmt.Fprintln(os.Stderr, "benchpack: --traces is empty: want a folder")
		os.Exit(2)
	}
	os.Exit(o.run())
}

const sharedTraces = "../shared/traces"

type options struct {
	traces   string // empty: none
	json     string
	keep     string
	primers  int
	runs     int
	script   string // the decoder in JavaScript
	out      io.Writer
	progress io.Writer
	recorded []trace                     // instead of the simulator's, in tests
	codecs   func(*packed.Coder) []codec // nil: all
}

// result is one line of the JSON file.
type result struct {
	Trace                string  `json:"trace"`
	Format               string  `json:"format"`
	Limit                int     `json:"limit"`
	ReadingsPerOperation float64 `json:"readings_per_operation"`
	DecodedOK            bool    `json:"decoded_ok"`
}

// outcome is all that is known of one trace.
type outcome struct {
	name     string
	channels int
	groups   int
	readings int // of the test part
	results  []result
	array    float64 // readings per operation
	brotli   float64
	whole    float64 // our model, in one payload
	general  float64 // brotli, the same
	fresh    float64 // packed text, with a schema of which nothing was learnt
	schema   int     // bytes
	training time.Duration
	costs    map[string][2]cost // by format: encode, decode
	perLoad  float64            // allocations a payload, packed text, encode
	payloads int
	memory   float64 // bytes
	node     *nodeResult
	problems []string
}

func (o *options) run() int {
	fail := func(err error) int {
		fmt.Fprintln(o.progress, "benchpack:", strings.ReplaceAll(err.Error(), "\n", "\nbenchpack: "))
		return 2
	}
	var traces []trace
	if o.traces != "" {
		var err error
		if traces, err = readFolder(o.traces); err != nil {
			return fail(err)
		}
	}
	recorded := o.recorded
	if recorded == nil {
		for i := range places {
			t, err := places[i].record()
			if err != nil {
				return fail(err)
			}
			recorded = append(recorded, t)
			if o.keep != "" {
				if err := t.write(o.keep); err != nil {
					return fail(err)
				}
			}
		}
	}
	for _, t := range recorded {
		if slices.ContainsFunc(traces, func(x trace) bool { return x.name == t.name }) {
			return fail(fmt.Errorf("%s: the simulator's recording is called so: want another name for %s", t.name, filepath.Join(o.traces, t.name+".csv")))
		}
		traces = append(traces, t)
	}
	// What a trace is too short for is told before anything is measured.
	var errs []error
	for i := range traces {
		_, err := traces[i].cut()
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fail(err)
	}
	node := ""
	if _, err := os.Stat(o.script); err == nil && o.runs > 0 {
		node, _ = exec.LookPath("node")
	}
	fmt.Fprintf(o.out, "date:    %s\n%s\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), machineText())
	for _, t := range traces {
		if t.blanks > 0 {
			fmt.Fprintf(o.out, "note:    %s: %d lines without a value are left out, the first is %s\n", t.name, t.blanks, t.firstBlank)
		}
	}
	var all []*outcome
	for i := range traces {
		begin := time.Now()
		r, err := o.measure(&traces[i], node)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", traces[i].name, err))
		}
		fmt.Fprintf(o.progress, "%-14s %6d readings, %.1f s\n", r.name, r.readings, time.Since(begin).Seconds())
		all = append(all, r)
	}
	report(o.out, all, o.primers, o.runs)
	bad := 0
	list := []result{}
	for _, r := range all {
		list = append(list, r.results...)
		for _, p := range r.problems {
			fmt.Fprintf(o.progress, "benchpack: %s: %s\n", r.name, p)
			bad++
		}
	}
	if o.json != "" {
		text, err := json.MarshalIndent(list, "", "  ")
		if err == nil {
			err = os.WriteFile(o.json, append(text, '\n'), 0o644)
		}
		if err != nil {
			return fail(err)
		}
	}
	if bad > 0 {
		return 1
	}
	return 0
}

// machineText says where this was measured.
func machineText() string {
	cpu, load, kernel := "unknown", "unknown", "unknown"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			if name, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = "Linux " + strings.TrimSpace(string(b))
	}
	return fmt.Sprintf("cpu:     %s, %d cores, load %s\nkernel:  %s %s\ngo:      %s", cpu, runtime.NumCPU(), load, kernel, runtime.GOARCH, runtime.Version())
}

// measure does everything with one trace.
func (o *options) measure(t *trace, node string) (*outcome, error) {
	at, err := t.cut()
	if err != nil {
		return nil, err
	}
	sets := t.groups(at)
	training, polls := t.polls(t.rows[:at], sets), t.polls(t.rows[at:], sets)
	r := &outcome{name: t.name, groups: len(sets), readings: len(t.rows) - at, costs: map[string][2]cost{}}
	for _, s := range sets {
		r.channels += len(s.Channels)
	}
	begin := processor()
	coder, err := packed.Train(1, sets, training, o.primers)
	if err != nil {
		return nil, err
	}
	r.training = time.Duration(processor() - begin)
	r.schema = len(coder.Schema().Text())
	list := codecs
	if o.codecs != nil {
		list = o.codecs
	}
	allowed, renamed := senmlNames(polls)
	if renamed > 0 {
		fmt.Fprintf(o.out, "note:    %s: %d channels have names that SenML does not allow; in senml they are written with _ in those places\n", t.name, renamed)
	}
	for _, c := range list(coder) {
		polls := polls
		if c.format == senmlFormat {
			polls = allowed
		}
		for _, limit := range limits {
			l, err := c.pack(polls, limit)
			if err != nil {
				return nil, fmt.Errorf("%s, limit %d: %w", c.format, limit, err)
			}
			err = c.verify(l, polls)
			if err != nil {
				r.problems = append(r.problems, fmt.Sprintf("%s, limit %d: %v", c.format, limit, err))
			}
			r.results = append(r.results, result{t.name, c.format, limit, l.perOperation(), err == nil})
			if limit != operation || err != nil {
				continue
			}
			if err := o.costs(r, c, l, polls, node, coder); err != nil {
				return nil, err
			}
		}
	}
	return r, o.others(r, coder, sets, polls)
}

// costs measures what packing and unpacking the payloads of one format takes.
func (o *options) costs(r *outcome, c codec, l load, polls []pack.Poll, node string, coder *packed.Coder) (err error) {
	var both [2]cost
	if o.runs > 0 {
		if both[0], err = measure(o.runs, r.readings, func() error { return c.each(polls, operation, func([]byte, int) {}) }); err != nil {
			return err
		}
		if both[1], err = measure(o.runs, r.readings, func() error {
			for _, b := range l.payloads {
				if _, err := c.decode(b); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		r.costs[c.format] = both
	}
	if c.format != textFormat {
		return nil
	}
	r.payloads = len(l.payloads)
	r.perLoad = both[0].allocs * float64(r.readings) / float64(len(l.payloads))
	if r.memory, err = memory(coder.Schema(), polls); err != nil {
		return err
	}
	if node == "" {
		return nil
	}
	result, decode, err := runNode(node, o.script, coder.Schema(), l)
	if err == nil {
		r.node = &result
		err = codec{decode: decode}.verify(l, polls)
	}
	if err != nil {
		r.problems = append(r.problems, fmt.Sprintf("packed.js: %v", err))
	}
	return nil
}

// others measures what we compare with.
func (o *options) others(r *outcome, coder *packed.Coder, sets []packed.Set, polls []pack.Poll) error {
	fresh, err := packed.Train(1, sets, nil, 0)
	if err != nil {
		return err
	}
	l, err := codecs(fresh)[2].pack(polls, operation)
	if err != nil {
		return fmt.Errorf("nothing learnt: %w", err)
	}
	r.fresh = l.perOperation()
	array := codec{open: func(_ uint64, limit int) filler { return &arrayFiller{limit: limit} }}
	if l, err = array.pack(polls, operation); err != nil {
		return fmt.Errorf("JSON array: %w", err)
	}
	r.array = l.perOperation()
	if l, err = brotliPack(polls, operation); err != nil {
		return fmt.Errorf("brotli: %w", err)
	}
	r.brotli = l.perOperation()
	n, err := wholeBrotli(polls)
	if err != nil {
		return fmt.Errorf("brotli: %w", err)
	}
	r.general = float64(r.readings) / (float64(n) / operation)
	// Our own model in one piece, or as few as it can be.
	whole := codec{open: func(first uint64, limit int) filler {
		return packedFiller{coder.NewWriter(pack.Header{Epoch: epoch, First: first}, packed.Text, false, limit)}
	}}
	if l, err = whole.pack(polls, pack.MaxPayload); err != nil {
		return fmt.Errorf("whole: %w", err)
	}
	bytes := 0
	for _, b := range l.payloads {
		bytes += len(b)
	}
	r.whole = float64(r.readings) / (float64(bytes) / operation)
	return nil
}
