package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/buffer"
)

// schemaEvery is how often a home is given the schema again: a broker may have lost what it retains.
const schemaEvery = 24 * time.Hour

// schemaPatience is how soon it is given again to who asks for it: nobody may spend this gateway's operations by asking.
const schemaPatience = 10 * time.Minute

// sidePacked is the present schema. It lies in the buffer so that an id is never used twice within an epoch: what
// takes it along takes the epoch too.
const sidePacked = "packed"

// packing is what the format packed needs: a schema for the channels that are configured.
type packing struct {
	coder   *packed.Coder
	text    []byte          // the schema, as it is published
	durable <-chan struct{} // closed once it is on disk; nil: it is
}

// flushed says that the schema's id is on disk: no other schema will ever have it.
func (p *packing) flushed() bool {
	if p.durable == nil {
		return true
	}
	select {
	case <-p.durable:
		p.durable = nil
		return true
	default:
		return false
	}
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
			var id struct {
				Epoch uint32 `json:"e"`
				ID    uint32 `json:"id"`
			}
			if json.Unmarshal(text, &id) == nil && id.Epoch == h.Epoch {
				last = id.ID // of a schema too large to be kept
			}
		}
	}
	coder, err := packed.Train(last+1, sets, nil, 0)
	if err != nil {
		return nil, err
	}
	return keepPacking(b, lane, h, coder)
}

// keepPacking makes a schema this gateway's, and its id one that is never used again.
func keepPacking(b *buffer.Buffer, lane *buffer.Lane, h pack.Header, coder *packed.Coder) (*packing, error) {
	s := coder.Schema()
	s.Gateway, s.Epoch = h.Gateway, h.Epoch
	p := &packing{coder: coder, text: s.Text()}
	kept := p.text
	if len(kept) > buffer.MaxSide {
		kept = fmt.Appendf(nil, `{"e":%d,"id":%d}`, s.Epoch, s.ID) // the next start makes another
	}
	if err := b.PutSide(sidePacked, kept); err != nil {
		return nil, err
	}
	p.durable = lane.Durable()
	return p, nil
}

// plain begins a payload that needs no schema.
func (s *session) plain(h pack.Header) pack.Writer {
	if s.cloud.Limits().Wraps {
		return pack.NewWrapped(s.cfg.Format, h, s.limit)
	}
	return pack.New(s.cfg.Format, h, s.limit)
}

// costs says how many data operations a payload is.
func (s *session) costs(payload []byte) int {
	if s.cloud.Limits().Wraps {
		return s.rule().Cost(pack.Wrapped(payload))
	}
	return s.rule().Cost(len(payload))
}

// radix is that of packed payloads: JSON has no bytes.
func (s *session) radix() packed.Radix {
	r := packed.RadixOf(s.cfg.Encoding)
	if r == packed.Binary && s.cloud.Limits().Wraps {
		return packed.Text
	}
	return r
}

// What a schema is learnt from, and when.
const (
	lessonReadings = 4000           // some 200 KB
	lessonEvery    = 24 * time.Hour // instruments and what they measure change slowly
	lessonPrimers  = 4              // of 1,024 bytes: a schema of some 5 KB
	lessonGain     = 0.97           // a schema that saves less is not worth its transmission
)

// teacher collects what was published and makes a better schema of it. The publisher's goroutine alone touches it.
type teacher struct {
	polls  []pack.Poll
	n      int       // readings
	next   time.Time // no lesson before
	lesson chan *packed.Coder
	pupils sync.WaitGroup
}

// hear takes a poll; what it holds may be used again by the caller.
func (t *teacher) hear(p pack.Poll) {
	if t.lesson != nil || t.n >= lessonReadings || time.Now().Before(t.next) {
		return
	}
	p.Readings = slices.Clone(p.Readings)
	t.polls, t.n = append(t.polls, p), t.n+len(p.Readings)
}

// teach starts a lesson if there is enough for one. Its outcome, nil if nothing better came out, is on t.lesson.
func (t *teacher) teach(ctx context.Context, now *packing, sets []packed.Set, max int, log *slog.Logger) {
	if t.lesson != nil || t.n < lessonReadings {
		return
	}
	polls, lesson := t.polls, make(chan *packed.Coder, 1)
	t.polls, t.n, t.lesson, t.next = nil, 0, lesson, time.Now().Add(lessonEvery)
	t.pupils.Go(func() {
		better, err := betterSchema(ctx, now.coder, sets, polls, max)
		if err != nil && ctx.Err() == nil {
			log.Warn("no better schema", "error", err)
		}
		lesson <- better
	})
}

// betterSchema is one learnt from polls, if what it learns from most of them serves for the rest in payloads of max bytes.
func betterSchema(ctx context.Context, now *packed.Coder, sets []packed.Set, polls []pack.Poll, max int) (*packed.Coder, error) {
	id := now.Schema().ID + 1
	cut := len(polls) * 6 / 10
	try, err := packed.TrainContext(ctx, id, sets, polls[:cut], lessonPrimers)
	if err != nil {
		return nil, err
	}
	if float64(try.Size(polls[cut:], max)) > lessonGain*float64(now.Size(polls[cut:], max)) {
		return nil, nil
	}
	return packed.TrainContext(ctx, id, sets, polls, lessonPrimers)
}
