package trust

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"homeward/buffer/durable"
)

// Downloader fetches blobs, which are named by their hash, into a folder. A cut of the link, the power or the budget costs what
// came since the last journal entry: at most a MiB, and at most what came in half a minute.
//
//	Dir/HASH.part      what is there so far
//	Dir/HASH.journal   how much of it is durable, and the hash's state there
//	Dir/HASH           the blob, verified
type Downloader struct {
	FS     durable.FS // nil: the operating system's
	Source Source
	Dir    string // made if missing

	// Take is asked before n bytes are read; its error stops the download, which can go on later. nil: no budget.
	Take func(n int) error
	// MinRate is in bytes per second; what is slower over a minute is given up. 0: 50.
	MinRate int64
	// Progress is told after each piece. nil: nobody.
	Progress func(done, size int64)

	step int64 // between journal entries; 0: 1 MiB
}

const (
	journalStep = 1 << 20
	journalTime = 30 * time.Second
	maxJournal  = 4 << 10
	piece       = 32 << 10
)

// journal is how far a download is.
type journal struct {
	Offset int64  `json:"offset"`
	State  []byte `json:"state"` // of the SHA-256 over what is before Offset
	ETag   string `json:"etag,omitempty"`
	CRC    uint32 `json:"crc,omitempty"` // Castagnoli, of this entry with CRC 0
}

func (j journal) sum() uint32 {
	j.CRC = 0
	raw, _ := json.Marshal(j) // strings and numbers
	return crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli))
}

// fetch is one download under way.
type fetch struct {
	*Downloader
	sum     string
	size    int64
	part    durable.File
	hash    hash.Hash
	offset  int64
	etag    string
	entered int64 // the offset of the last journal entry
	at      time.Time
}

// Fetch is the path of the blob with this SHA-256 (hex) and size, fetched if it is not there yet. Nothing but the verified blob
// is ever at that path. After an error it can be called again, and goes on where it was; after fetch.hash, fetch.size and fetch.range it
// starts anew.
func (d *Downloader) Fetch(ctx context.Context, sum string, size int64) (string, error) {
	if b, err := hex.DecodeString(sum); err != nil || len(b) != sha256.Size || hex.EncodeToString(b) != sum {
		return "", fail(CodeFetchHash, nil, "the blob %.80q; 64 lower-case hex digits are wanted", sum)
	}
	if size <= 0 {
		return "", fail(CodeFetchSize, nil, "blob %s has the size %d; more is wanted", sum, size)
	}
	c := *d
	if c.FS == nil {
		c.FS = durable.OS{}
	}
	if c.step <= 0 {
		c.step = journalStep
	}
	f := &fetch{Downloader: &c, sum: sum, size: size}
	if err := makeDir(c.FS, c.Dir); err != nil {
		return "", f.disk(err)
	}
	final := filepath.Join(c.Dir, sum)
	if ok, err := f.holds(final); err != nil {
		return "", err
	} else if ok {
		return final, f.clean()
	}
	if err := f.open(); err != nil {
		return "", err
	}
	err := f.run(ctx)
	if err2 := f.part.Close(); err == nil && err2 != nil {
		err = f.disk(err2)
	}
	if err != nil {
		return "", err
	}
	return final, f.finish(final)
}

// holds tells whether a file is the blob. One that is not is removed.
func (f *fetch) holds(path string) (bool, error) {
	file, err := f.FS.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, f.disk(err)
	}
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(file, 0, f.size+1))
	_ = file.Close() // only read
	if err == nil && n == f.size && hex.EncodeToString(h.Sum(nil)) == f.sum {
		return true, nil
	}
	if err := f.FS.Remove(path); err != nil {
		return false, f.disk(err)
	}
	return false, nil
}

func (f *fetch) partName() string    { return filepath.Join(f.Dir, f.sum+".part") }
func (f *fetch) journalName() string { return filepath.Join(f.Dir, f.sum+".journal") }

// open finds where the last attempt ended.
func (f *fetch) open() error {
	part, err := f.FS.OpenFile(f.partName(), os.O_RDWR|os.O_CREATE|nonblock, 0o600)
	if err != nil {
		return f.disk(err)
	}
	f.part, f.at = part, time.Now()
	if !f.resume() {
		if err := f.restart(); err != nil {
			return errors.Join(err, part.Close())
		}
	}
	f.entered = f.offset
	free, _, err := f.FS.Free(f.Dir)
	if need := f.size - f.offset; err == nil && free < need+need/10 {
		return errors.Join(fail(CodeFetchSpace, nil, "blob %s wants %d bytes more and a tenth; %d are free in %s", f.sum, need, free, f.Dir), part.Close())
	}
	return nil
}

func (f *fetch) resume() bool {
	raw, err := durable.Read(f.FS, f.journalName(), maxJournal)
	var j journal
	if err != nil || json.Unmarshal(raw, &j) != nil || j.CRC != j.sum() || j.Offset <= 0 || j.Offset > f.size {
		return false
	}
	info, err := f.part.Stat()
	h := sha256.New()
	if err != nil || info.Size() < j.Offset || h.(encoding.BinaryUnmarshaler).UnmarshalBinary(j.State) != nil {
		return false
	}
	f.hash, f.offset, f.etag = h, j.Offset, j.ETag
	return true
}

// restart forgets what is there.
func (f *fetch) restart() error {
	f.hash, f.offset, f.etag, f.entered = sha256.New(), 0, "", 0
	if err := f.forget(); err != nil {
		return err
	}
	if err := f.part.Truncate(0); err != nil {
		return f.disk(err)
	}
	return nil
}

// enter makes what is there durable.
func (f *fetch) enter() error {
	if f.offset == f.entered {
		return nil
	}
	if err := f.part.Sync(); err != nil {
		return f.disk(err)
	}
	state, err := f.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return f.disk(err)
	}
	j := journal{Offset: f.offset, State: state, ETag: f.etag}
	j.CRC = j.sum()
	raw, err := json.Marshal(j)
	if err != nil {
		return f.disk(err)
	}
	if err := durable.Replace(f.FS, f.journalName(), raw, 0o600); err != nil { // its folder's sync makes the part's name durable too
		return f.disk(err)
	}
	f.entered, f.at = f.offset, time.Now()
	return nil
}

// run reads to the end, or journals how far it came.
func (f *fetch) run(ctx context.Context) error {
	for range 2 { // the second time if the server has nothing to go on from
		err := f.transfer(ctx)
		var e *Error
		switch {
		case err == nil:
			return f.enter()
		case errors.Is(err, errRange):
			had := f.offset > 0
			if err := f.restart(); err != nil {
				return err
			}
			if !had {
				return fail(CodeFetchRange, err, "blob %s", f.sum)
			}
			continue
		case errors.As(err, &e) && (e.code == CodeFetchHash || e.code == CodeFetchSize || e.code == CodeFetchRange):
			return errors.Join(err, f.restart())
		case errors.As(err, &e) && (e.code == CodeFetchStore || e.code == CodeFetchSpace):
			return err // the disk would not take the journal either
		}
		return errors.Join(err, f.enter())
	}
	return fail(CodeFetchRange, nil, "blob %s: the server does not give the range that it was asked for, nor the whole", f.sum)
}

func (f *fetch) transfer(ctx context.Context) error {
	if f.offset == f.size {
		return f.check()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := f.Source.Get(ctx, Request{Name: "blobs/" + f.sum, Offset: f.offset, IfRange: f.etag, Max: f.size})
	switch {
	case errors.Is(err, errRange):
		return err
	case errors.Is(err, errTooLong):
		return fail(CodeFetchSize, err, "blob %s", f.sum)
	case errors.Is(err, ErrNotFound):
		return fail(CodeFetchMissing, err, "blob %s", f.sum)
	case err != nil:
		return f.link(err)
	}
	defer func() { _ = body.Close() }() // read to its end, or given up
	if body.Size >= 0 && body.Size != f.size {
		return fail(CodeFetchSize, nil, "blob %s: the source has %d bytes; signed are %d", f.sum, body.Size, f.size)
	}
	if body.Offset != f.offset {
		if body.Offset != 0 {
			return fail(CodeFetchRange, nil, "blob %s: the source answers from byte %d; asked was from %d", f.sum, body.Offset, f.offset)
		}
		if err := f.restart(); err != nil { // the whole comes, since it has changed or the source knows no ranges
			return err
		}
	}
	if body.ETag != "" || f.offset == 0 {
		f.etag = body.ETag
	}
	from := newSteady(ctx, cancel, body, f.MinRate)
	buf := make([]byte, min(piece, f.step))
	for f.offset < f.size {
		n := int(min(int64(len(buf)), f.size-f.offset))
		if f.Take != nil {
			if err := f.Take(n); err != nil {
				return fail(CodeFetchBudget, err, "blob %s at %d of %d bytes", f.sum, f.offset, f.size)
			}
		}
		n, err := io.ReadFull(from, buf[:n])
		if n > 0 {
			if err := f.add(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return f.link(err)
		}
	}
	if body.Size < 0 { // the length was not announced
		if n, _ := io.ReadFull(from, buf[:1]); n > 0 {
			return fail(CodeFetchSize, nil, "blob %s: more comes than the %d bytes that are signed", f.sum, f.size)
		}
	}
	return f.check()
}

// add takes a piece.
func (f *fetch) add(p []byte) error {
	if _, err := f.part.WriteAt(p, f.offset); err != nil {
		return f.disk(err)
	}
	_, _ = f.hash.Write(p) // never fails
	f.offset += int64(len(p))
	if f.Progress != nil {
		f.Progress(f.offset, f.size)
	}
	if f.offset-f.entered >= f.step || time.Since(f.at) >= journalTime {
		return f.enter()
	}
	return nil
}

func (f *fetch) check() error {
	if got := hex.EncodeToString(f.hash.Sum(nil)); got != f.sum {
		return fail(CodeFetchHash, nil, "blob %s: what came has the SHA-256 %s", f.sum, got)
	}
	return nil
}

// finish reads back what lies on the disk, and gives it its name.
func (f *fetch) finish(final string) error {
	part := f.partName()
	ok, err := f.holds(part)
	if err == nil && !ok {
		err = fail(CodeFetchHash, nil, "blob %s: the disk gives back other bytes than were written", f.sum)
	}
	if err != nil {
		return errors.Join(err, f.forget())
	}
	if err := f.FS.Rename(part, final); err != nil {
		return f.disk(err)
	}
	if err := f.FS.SyncDir(f.Dir); err != nil { // before the journal goes: either of them has to be there
		return f.disk(err)
	}
	return f.clean()
}

// clean removes what the blob no longer needs, as far as it is there.
func (f *fetch) clean() error {
	for _, name := range []string{f.partName(), f.journalName()} {
		if err := f.FS.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return f.disk(err)
		}
	}
	return nil
}

// forget removes the journal, durably: an old one would speak of other bytes.
func (f *fetch) forget() error {
	err := f.FS.Remove(f.journalName())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = f.FS.SyncDir(f.Dir)
	}
	if err != nil {
		return f.disk(err)
	}
	return nil
}

func (f *fetch) disk(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fail(CodeFetchSpace, err, "blob %s", f.sum)
	}
	return fail(CodeFetchStore, err, "blob %s", f.sum)
}

func (f *fetch) link(err error) error {
	code, what := CodeFetchUnreachable, fmt.Sprintf("blob %s at %d of %d bytes", f.sum, f.offset, f.size)
	if errors.Is(err, errSlow) {
		code = CodeFetchSlow
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the source ended it early")
	}
	return fail(code, err, "%s", what)
}
