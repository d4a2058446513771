package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	leastRate = 50               // bytes per second
	rateSpan  = 60 * time.Second // over which the rate is looked at
)

// errSlow ends a transfer below the minimum rate.
var errSlow = errors.New("too slow")

// steady reads from a body and gives up, by cancelling the context that it was opened with, if less than the minimum comes. Time
// between reads does not count.
type steady struct {
	body   io.Reader
	cancel context.CancelCauseFunc
	ctx    context.Context
	least  int64         // bytes in each span
	span   time.Duration // 0: rateSpan
	got    int64
	spent  time.Duration
}

func newSteady(ctx context.Context, cancel context.CancelCauseFunc, body io.Reader, rate int64) *steady {
	if rate <= 0 {
		rate = leastRate
	}
	return &steady{body: body, cancel: cancel, ctx: ctx, least: max(1, rate*int64(rateSpan/time.Second)), span: rateSpan}
}

func (s *steady) Read(p []byte) (int, error) {
	slow := fmt.Errorf("%w: less than %d bytes in %s", errSlow, s.least, s.span)
	timer := time.AfterFunc(s.span-s.spent, func() { s.cancel(slow) })
	start := time.Now()
	n, err := s.body.Read(p)
	timer.Stop()
	s.got += int64(n)
	if s.spent += time.Since(start); s.spent >= s.span {
		if s.got < s.least && err == nil {
			s.cancel(slow)
			err = slow
		}
		s.got, s.spent = 0, 0
	}
	if cause := context.Cause(s.ctx); err != nil && !errors.Is(err, io.EOF) && cause != nil {
		err = cause
	}
	return n, err
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
