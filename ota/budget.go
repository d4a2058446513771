package ota

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"homeward/buffer/durable"
	"homeward/ota/trust"
)

// ErrBudget says that the day's bytes are spent. What was begun is resumed on another day.
var ErrBudget = &Error{trust.CodeFetchBudget, "the day's bytes for updates are spent", nil}

// budget counts the bytes fetched for updates, by day. What is on disk is never less than what was read: bytes are reserved there
// before they are read, and a crash costs at most one reservation. Metadata has a share of its own, so that a halt is heard of
// though a release took the rest. An unreadable file begins the day anew, and is rewritten.
type budget struct {
	fs    durable.FS
	path  string
	now   func() time.Time // in the gateway's zone
	limit func() int64     // 0: none

	mu       sync.Mutex // protects the following
	day      string
	used     int64 // of the day, what was read
	reserved int64 // of the day, what is on disk
}

type budgetFile struct {
	Day   string `json:"day"`
	Bytes int64  `json:"bytes"`
}

const (
	reservation     = 256 << 10
	little          = 4 << 10 // for metadata: a day of idle looks costs a few writes
	metadataReserve = 1 << 20 // most that is kept for metadata, of a tenth of the day's bytes
)

func openBudget(fs durable.FS, path string, now func() time.Time, limit func() int64) *budget {
	b := &budget{fs: fs, path: path, now: now, limit: limit}
	var f budgetFile
	if data, err := durable.Read(fs, path, 1<<10); err == nil && json.Unmarshal(data, &f) == nil && f.Bytes >= 0 {
		b.day, b.used, b.reserved = f.Day, f.Bytes, f.Bytes
	}
	return b
}

// take counts n bytes that are about to be read.
func (b *budget) take(n int, metadata bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turnLocked()
	limit := b.limit()
	if limit > 0 {
		most := limit
		if !metadata {
			most -= min(limit/10, metadataReserve)
		}
		if b.used+int64(n) > most {
			return ErrBudget
		}
	}
	if b.used+int64(n) > b.reserved {
		more := int64(reservation)
		if limit > 0 {
			more = min(more, limit/64)
		}
		if metadata {
			more = min(more, little)
		}
		if err := b.writeLocked(b.used + int64(n) + more); err != nil {
			return err
		}
	}
	b.used += int64(n)
	return nil
}

// settle gives back what was reserved and not read, where it is worth a write.
func (b *budget) settle() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reserved-b.used <= little {
		return nil
	}
	return b.writeLocked(b.used)
}

func (b *budget) today() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turnLocked()
	return b.used
}

// turnLocked begins a new day. A clock that was set back does not give a day's bytes twice: days only go forward, unless by more
// than a day, which is a clock that was wrong before.
func (b *budget) turnLocked() {
	day := b.now().Format(time.DateOnly)
	if day == b.day {
		return
	}
	if last, err := time.Parse(time.DateOnly, b.day); err == nil {
		if now, _ := time.Parse(time.DateOnly, day); now.Before(last) && last.Sub(now) <= 24*time.Hour {
			return
		}
	}
	b.day, b.used, b.reserved = day, 0, 0
}

func (b *budget) writeLocked(bytes int64) error {
	data, err := json.Marshal(budgetFile{b.day, bytes})
	if err != nil {
		return fmt.Errorf("ota: count bytes: %w", err)
	}
	if err := durable.Replace(b.fs, b.path, data, 0o600); err != nil {
		return fmt.Errorf("ota: count bytes: %w", err)
	}
	b.reserved = bytes
	return nil
}

// untilTomorrow is how long the day still lasts.
func (b *budget) untilTomorrow() time.Duration {
	now := b.now()
	return time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, now.Location()).Sub(now)
}

// sources is where the repository's files come from at present: the configured source, or for a while a folder. It counts what
// metadata takes; the downloader counts blobs itself.
type sources struct {
	online trust.Source // nil: none
	bytes  *budget

	mu     sync.Mutex
	folder trust.Source
}

func (s *sources) use(folder trust.Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.folder = folder
}

// local says that a folder is read: nothing is fetched.
func (s *sources) local() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.folder != nil
}

var errNoSource = &Error{trust.CodeUnreachable, "no fleet repository is configured", nil}

// Get implements trust.Source.
func (s *sources) Get(ctx context.Context, q trust.Request) (*trust.Body, error) {
	s.mu.Lock()
	folder := s.folder
	s.mu.Unlock()
	if folder != nil {
		return folder.Get(ctx, q)
	}
	if s.online == nil {
		return nil, errNoSource
	}
	return s.online.Get(ctx, q)
}

// metadata is the same for the repository's metadata, which is counted.
type metadata struct{ *sources }

func (s metadata) Get(ctx context.Context, q trust.Request) (*trust.Body, error) {
	body, err := s.sources.Get(ctx, q)
	if err != nil || s.local() {
		return body, err
	}
	body.ReadCloser = &counted{body.ReadCloser, s.bytes}
	return body, nil
}

type counted struct {
	io.ReadCloser
	bytes *budget
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		if over := c.bytes.take(n, true); over != nil {
			return 0, over
		}
	}
	return n, err
}
