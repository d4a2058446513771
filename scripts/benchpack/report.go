package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// goals are the row "EP1 text, schema + 2 primer payloads" of the prototype's measurements on these recordings.
var goals = map[string]float64{
	"room16": 3068, "climate-ms": 1109, "power7": 2446, "n2k-boat": 705, "surfrad15": 2692, "obd27": 3238, "gps1hz": 2698, "machine1": 217,
}

func (r *outcome) of(format string, limit int) float64 {
	for _, x := range r.results {
		if x.Format == format && x.Limit == limit {
			return x.ReadingsPerOperation
		}
	}
	return math.NaN()
}

func (r *outcome) decoded() bool {
	return !slices.ContainsFunc(r.results, func(x result) bool { return !x.DecodedOK })
}

// bound is the best that we know for the whole test part in one piece.
func (r *outcome) bound() float64 { return max(r.whole, r.general) }

func report(w io.Writer, all []*outcome, primers, runs int) {
	fmt.Fprintf(w, "\n### Readings per operation of %d bytes, schema with %d primers\n\n", operation, primers)
	table := [][]string{{"recording", "channels, groups", "readings", "one a publish", "JSON array", "CSV + brotli 11 + base 93", "rows", "senml", "packed text", "goal", "", "packed binary", "bound", "text of bound", "decoded"}}
	columns := []func(*outcome) float64{
		func(*outcome) float64 { return 1 },
		func(r *outcome) float64 { return r.array },
		func(r *outcome) float64 { return r.brotli },
		func(r *outcome) float64 { return r.of(rowsFormat, operation) },
		func(r *outcome) float64 { return r.of(senmlFormat, operation) },
		func(r *outcome) float64 { return r.of(textFormat, operation) },
		func(r *outcome) float64 { return r.of(binaryFormat, operation) },
		func(r *outcome) float64 { return r.bound() },
	}
	for _, r := range all {
		line := []string{r.name, fmt.Sprintf("%d, %d", r.channels, r.groups), strconv.Itoa(r.readings)}
		for _, c := range columns {
			line = append(line, show(c(r)))
		}
		goal, ahead := "", ""
		if g, ok := goals[r.name]; ok {
			goal, ahead = show(g), fmt.Sprintf("%+.1f %%", 100*(r.of(textFormat, operation)/g-1))
		}
		line = slices.Insert(line, 9, goal, ahead)
		ok := "all"
		if !r.decoded() {
			ok = "NO"
		}
		table = append(table, append(line, fmt.Sprintf("%.0f %%", 100*r.of(textFormat, operation)/r.bound()), ok))
	}
	line := []string{"median", "", ""}
	for _, c := range columns {
		line = append(line, show(median(all, c)))
	}
	line = slices.Insert(line, 9, "", "")
	table = append(table, append(line, fmt.Sprintf("%.0f %%", 100*median(all, func(r *outcome) float64 { return r.of(textFormat, operation) / r.bound() })), ""))
	write(w, table)
	fmt.Fprintf(w, "\nFull payloads count as one operation, the last one by its length. *Bound*: the test part in one piece, per %d bytes of text: the same model without a limit, or brotli 11, whichever is better.\n", operation)

	fmt.Fprintf(w, "\n### The bound's two parts, and the schema\n\n*Nothing learnt*: packed text as a new gateway sends it, whose schema has what the configuration says; of a CSV that is names and groups alone.\n\n")
	table = [][]string{{"recording", "our model in one piece", "brotli 11 in one piece", "nothing learnt", "schema, bytes", "training, s of processor"}}
	for _, r := range all {
		table = append(table, []string{r.name, show(r.whole), show(r.general), show(r.fresh), strconv.Itoa(r.schema), fmt.Sprintf("%.2f", r.training.Seconds())})
	}
	write(w, table)

	for _, limit := range limits[1:] {
		fmt.Fprintf(w, "\n### Readings per payload of %d bytes\n\n", limit)
		table = [][]string{append([]string{"recording"}, formats...)}
		for _, r := range all {
			line := []string{r.name}
			for _, f := range formats {
				line = append(line, show(r.of(f, limit)))
			}
			table = append(table, line)
		}
		line := []string{"median"}
		for _, f := range formats {
			line = append(line, show(median(all, func(r *outcome) float64 { return r.of(f, limit) })))
		}
		write(w, append(table, line))
	}
	if runs == 0 {
		return
	}
	fmt.Fprintf(w, "\n### Time and memory, payloads of %d bytes\n\nProcessor time of all threads, ns a reading, the least of %d runs; in brackets allocations a reading.\n\n", operation, runs)
	table = [][]string{{"recording", "rows", "from rows", "packed text", "allocations a payload", "from packed text", "packed binary", "from packed binary", "memory, KB", "KB a channel"}}
	for _, r := range all {
		line := []string{r.name}
		for _, f := range []string{rowsFormat, textFormat, binaryFormat} {
			c, ok := r.costs[f]
			if !ok {
				line = append(line, "", "")
				continue
			}
			line = append(line, c[0].String(), c[1].String())
		}
		line = slices.Insert(line, 4, fmt.Sprintf("%.1f", r.perLoad))
		table = append(table, append(line, fmt.Sprintf("%.0f", r.memory/1000), fmt.Sprintf("%.1f", r.memory/1000/float64(r.channels))))
	}
	write(w, table)
	fmt.Fprintf(w, "\n*Memory*: a coder and one writer at work, what is kept between payloads included.\n")

	table = [][]string{{"recording", "payloads", "Go, µs", "Node, ms", "slowest", "first, cold", "a schema, once"}}
	for _, r := range all {
		if r.node == nil {
			continue
		}
		times := slices.Sorted(slices.Values(r.node.PayloadMS))
		table = append(table, []string{
			r.name, strconv.Itoa(r.payloads), fmt.Sprintf("%.0f", r.costs[textFormat][1].ns*float64(r.readings)/float64(r.payloads)/1000),
			fmt.Sprintf("%.1f", times[len(times)/2]), fmt.Sprintf("%.1f", times[len(times)-1]), fmt.Sprintf("%.1f", r.node.FirstMS), fmt.Sprintf("%.1f", r.node.PrepareMS),
		})
	}
	if len(table) > 1 {
		fmt.Fprintf(w, "\n### Decoding one packed text payload of %d bytes\n\nGo: processor time, the mean of all payloads. Node: elapsed time of each payload, the least of %d rounds: the median and the slowest payload.\n\n", operation, nodeRounds)
		write(w, table)
	} else {
		fmt.Fprintf(w, "\nThe decoder in JavaScript was not measured: it needs packed.js and Node.\n")
	}
}

func (c cost) String() string { return fmt.Sprintf("%.0f (%.2f)", c.ns, c.allocs) }

func show(v float64) string {
	switch {
	case math.IsNaN(v):
		return ""
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func median(all []*outcome, of func(*outcome) float64) float64 {
	values := make([]float64, len(all))
	for i, r := range all {
		values[i] = of(r)
	}
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// write writes a table for people, and for Markdown.
func write(w io.Writer, table [][]string) {
	widths := make([]int, len(table[0]))
	for _, line := range table {
		for i, c := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for i, line := range table {
		for j, c := range line {
			fmt.Fprintf(w, "| %s%s ", c, strings.Repeat(" ", widths[j]-utf8.RuneCountInString(c)))
		}
		fmt.Fprintln(w, "|")
		if i == 0 {
			for _, n := range widths {
				fmt.Fprint(w, "|", strings.Repeat("-", n+2))
			}
			fmt.Fprintln(w, "|")
		}
	}
}

// write writes the trace as CSV into a folder.
func (t *trace) write(dir string) error {
	text := []byte(header + "\n")
	for _, r := range t.rows {
		text = strconv.AppendInt(text, r.time, 10)
		text = append(append(append(text, ','), r.channel...), ',')
		text = append(strconv.AppendFloat(text, r.value, 'f', -1, 64), '\n')
	}
	return os.WriteFile(filepath.Join(dir, t.name+".csv"), text, 0o644)
}
