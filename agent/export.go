package agent

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"time"

	"homeward/agent/pack"
	"homeward/buffer"
)

// Export writes every stored reading, delivered or not, oldest lane first: as the JSON lines of
// `homeward decode` (format "" or "json") or as CSV with the same columns. Sequence numbers
// are the buffer's; inside one payload the wire's order may differ.
func Export(w io.Writer, b *buffer.Buffer, gateway, format string) error {
	var table *csv.Writer
	switch format {
	case "", "json":
	case "csv":
		table = csv.NewWriter(w)
		if err := table.Write([]string{"gateway", "epoch", "seq", "time", "t_ms", "channel", "value", "unit", "quality"}); err != nil {
			return err
		}
	default:
		return fmt.Errorf("agent: export format %q: want json or csv", format)
	}
	for _, epoch := range b.Lanes() {
		lane, err := b.Lane(epoch)
		if err != nil {
			return err
		}
		for st, err := range lane.All() {
			if err != nil {
				return err
			}
			p := pack.Payload{Header: pack.Header{Gateway: gateway, Epoch: uint32(epoch), First: uint64(st.First)}}
			for i, r := range st.Readings {
				p.Readings = append(p.Readings, pack.Reading{Seq: uint64(st.First) + uint64(i), TimeMS: st.Time, Channel: r.Channel, Value: r.Value, Unit: r.Unit, Quality: r.Quality})
			}
			if table == nil {
				if err := pack.Lines(w, p); err != nil {
					return err
				}
				continue
			}
			at := time.UnixMilli(st.Time).UTC().Format(pack.TimeLayout)
			for _, r := range p.Readings {
				row := []string{gateway, strconv.FormatUint(uint64(epoch), 10), strconv.FormatUint(r.Seq, 10), at, strconv.FormatInt(st.Time, 10),
					r.Channel, strconv.FormatFloat(r.Value, 'g', -1, 64), string(r.Unit), r.Quality.String()}
				if err := table.Write(row); err != nil {
					return err
				}
			}
		}
	}
	if table != nil {
		table.Flush()
		return table.Error()
	}
	return nil
}
