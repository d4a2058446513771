package agent

import (
	"encoding/json"
	"log/slog"
	"time"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/buffer"
)

// schemaEvery is how often a home is given the schema again: a broker may have lost what it retains.
const schemaEvery = 24 * time.Hour

// sidePacked is the present schema. It lies in the buffer so that an id is never used twice within an epoch: what
// takes it along takes the epoch too.
const sidePacked = "packed"

// packing is what the format packed needs: a schema for the channels that are configured.
type packing struct {
	coder   *packed.Coder
	text    []byte          // the schema, as it is published
	durable <-chan struct{} // closed once it is on disk; nil: it is
}

// newPacking takes the schema that was used last if it is of these channels, and makes another otherwise.
func newPacking(b *buffer.Buffer, lane *buffer.Lane, h pack.Header, sets []packed.Set, log *slog.Logger) (*packing, error) {
	last := uint32(0)
	if text := b.Side(sidePacked); text != nil {
		s, err := packed.ParseSchema(text)
		if err == nil && s.Epoch == h.Epoch {
			if last = s.ID; s.Gateway == h.Gateway && s.Of(sets) {
				coder, err := packed.New(s)
				if err == nil {
					return &packing{coder: coder, text: text}, nil
				}
				log.Warn("schema not used", "error", err)
			}
		} else if err != nil {
			log.Warn("schema not used", "error", err)
			var id struct{ ID uint32 }
			_ = json.Unmarshal(text, &id)
			last = id.ID
		}
	}
	coder, err := packed.Train(last+1, sets, nil, 0)
	if err != nil {
		return nil, err
	}
	coder.Schema().Gateway, coder.Schema().Epoch = h.Gateway, h.Epoch
	p := &packing{coder: coder, text: coder.Schema().Text()}
	if err := b.PutSide(sidePacked, p.text); err != nil {
		return nil, err
	}
	p.durable = lane.Durable()
	return p, nil
}
