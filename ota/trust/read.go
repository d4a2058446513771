package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	leastRate = 50               // bytes per second
	rateSpan  = 60 * time.Second // over which the rate is looked at
)

// errSlow ends a transfer below the minimum rate.
var errSlow = errors.New("too slow")

// steady reads from a body and gives up, by cancelling the context that it was opened with, if less than the minimum comes in a
// span of reading. Time between reads does not count.
type steady struct {
	body   io.Reader
	ctx    context.Context
	cancel context.CancelCauseFunc
	least  int64 // bytes in each span

	mu      sync.Mutex // protects what follows
	reading bool
	got     int64 // in this span
	left    time.Duration
	until   time.Time // the end of this span, if the read waits that long
	timer   *time.Timer
}

func newSteady(ctx context.Context, cancel context.CancelCauseFunc, body io.Reader, rate int64) *steady {
	if rate <= 0 {
		rate = leastRate
	}
	return &steady{body: body, ctx: ctx, cancel: cancel, least: rate * int64(rateSpan/time.Second), left: rateSpan}
}

func (s *steady) Read(p []byte) (int, error) {
	s.mu.Lock()
	s.reading, s.until = true, time.Now().Add(s.left)
	s.timer = time.AfterFunc(s.left, s.look)
	s.mu.Unlock()
	n, err := s.body.Read(p)
	s.mu.Lock()
	s.timer.Stop()
	s.reading, s.got = false, s.got+int64(n)
	s.left = max(0, time.Until(s.until))
	s.mu.Unlock()
	if cause := context.Cause(s.ctx); err != nil && !errors.Is(err, io.EOF) && cause != nil {
		err = cause
	}
	return n, err
}

// look ends a span.
func (s *steady) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.until) {
		return // another look was sooner
	}
	if s.got < s.least {
		s.cancel(fmt.Errorf("%w: less than %d bytes in %s", errSlow, s.least, rateSpan))
		return
	}
	s.got, s.left, s.until = 0, rateSpan, time.Now().Add(rateSpan)
	if s.reading {
		s.timer.Reset(rateSpan)
	}
}

// readAll is a whole small file.
func readAll(ctx context.Context, src Source, q Request, rate int64) (raw []byte, etag string, err error) {
	if err := checkName(q.Name); err != nil {
		return nil, "", fail(CodeMalformed, err, "file")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := src.Get(ctx, q)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = body.Close() }() // read to its end, or given up
	if body.Size > q.Max {
		return nil, "", fail(CodeMalformed, nil, "%s has %d bytes; at most %d", q.Name, body.Size, q.Max)
	}
	raw, err = io.ReadAll(io.LimitReader(newSteady(ctx, cancel, body, rate), q.Max+1))
	if err != nil {
		return nil, "", err
	}
	if int64(len(raw)) > q.Max {
		return nil, "", fail(CodeMalformed, nil, "%s has more than %d bytes", q.Name, q.Max)
	}
	return raw, body.ETag, nil
}
