package agent

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"homeward/agent/pack"
	"homeward/buffer"
)

// Export writes every stored reading, delivered or not, oldest lane first: as the JSON lines of
// `homeward decode` (format "" or "json") or as CSV with the same columns, and in both an outcome: "thinned" with the
// originals of aggregates, so that nobody counts both (JSON has it only there, in CSV it is empty elsewhere). Sequence numbers
// are the buffer's; inside one payload the wire's order may differ. What should be there and cannot be read
// makes it an [IncompleteError] once everything else is written.
func Export(w io.Writer, b *buffer.Buffer, gateway, format string) error {
	var table *csv.Writer
	switch format {
	case "", "json":
	case "csv":
		table = csv.NewWriter(w)
		if err := table.Write([]string{"gateway", "epoch", "seq", "time", "t_ms", "channel", "value", "unit", "quality", "outcome"}); err != nil {
			return err
		}
	default:
		return fmt.Errorf("agent: export format %q: want json or csv", format)
	}
	var lost IncompleteError
	for _, epoch := range b.Lanes() {
		lane, err := b.Lane(epoch)
		if err != nil {
			return err
		}
		for st, err := range lane.All() {
			var u *buffer.UnreadableError
			if errors.As(err, &u) {
				lost = append(lost, u)
				continue
			}
			if err != nil {
				return err
			}
			p := pack.Payload{Header: pack.Header{Gateway: gateway, Epoch: uint32(epoch), First: uint64(st.First)}}
			for i, r := range st.Readings {
				p.Readings = append(p.Readings, pack.Reading{Seq: uint64(st.First) + uint64(i), TimeMS: st.Time, Channel: r.Channel, Value: r.Value, Unit: r.Unit, Quality: r.Quality})
			}
			outcome := ""
			if st.Thinned {
				outcome = string(buffer.Thinned)
			}
			if table == nil {
				to := w
				if st.Thinned {
					to = originals{w}
				}
				if err := pack.Lines(to, p); err != nil {
					return err
				}
				continue
			}
			at := time.UnixMilli(st.Time).UTC().Format(pack.TimeLayout)
			for _, r := range p.Readings {
				row := []string{gateway, strconv.FormatUint(uint64(epoch), 10), strconv.FormatUint(r.Seq, 10), at, strconv.FormatInt(st.Time, 10),
					r.Channel, strconv.FormatFloat(r.Value, 'g', -1, 64), string(r.Unit), r.Quality.String(), outcome}
				if err := table.Write(row); err != nil {
					return err
				}
			}
		}
	}
	if table != nil {
		table.Flush()
		if err := table.Error(); err != nil {
			return err
		}
	}
	if len(lost) > 0 {
		return lost.merged()
	}
	return nil
}

// originals adds to JSON lines that they are those of readings for which aggregates stand.
type originals struct{ w io.Writer }

func (o originals) Write(lines []byte) (int, error) {
	if _, err := o.w.Write(bytes.ReplaceAll(lines, []byte("}\n"), []byte(`,"outcome":"`+buffer.Thinned+"\"}\n"))); err != nil {
		return 0, err
	}
	return len(lines), nil
}

// IncompleteError names the readings that an export lacks.
type IncompleteError []*buffer.UnreadableError

// merged joins ranges that touch.
func (e IncompleteError) merged() IncompleteError {
	slices.SortFunc(e, func(x, y *buffer.UnreadableError) int {
		return cmp.Or(cmp.Compare(x.Epoch, y.Epoch), cmp.Compare(x.Range.From, y.Range.From))
	})
	out := e[:1]
	for _, u := range e[1:] {
		if last := out[len(out)-1]; last.Epoch == u.Epoch && u.Range.From <= last.Range.To+1 {
			last.Range.To = max(last.Range.To, u.Range.To)
		} else {
			out = append(out, u)
		}
	}
	return out
}

func (e IncompleteError) Error() string {
	var text strings.Builder
	text.WriteString("not in the export, for the buffer's files are damaged there (homeward buffer verify): ")
	for i, u := range e {
		if i == 10 {
			fmt.Fprintf(&text, ", and %d more ranges", len(e)-i)
			break
		}
		if i > 0 {
			text.WriteString(", ")
		}
		fmt.Fprintf(&text, "epoch %d readings %d to %d", u.Epoch, u.Range.From, u.Range.To)
	}
	return text.String()
}

// ExportTrailer is the HTTP trailer in which the running agent says what its export lacks.
const ExportTrailer = "Homeward-Incomplete"
