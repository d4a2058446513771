package ota

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"homeward/buffer/durable"
	"homeward/ota/delta"
	"homeward/ota/release"
)

// selfCheckTime is how long the new program may take to say that it runs here.
const selfCheckTime = 60 * time.Second

// slotBackend keeps programs in folders named by their hash. A folder with its final name has been read back from the disk.
type slotBackend struct {
	fs      durable.FS
	dir     string // slots/
	running string // "factory", a hash, or ""
	agent   string // the running program's file
	check   func(ctx context.Context, agent string) error
	step    func(string)
	base    string         // hash of agent, once it was needed
	late    map[string]int // self-checks that took too long, by slot
}

const newPrefix = ".new-"

func (s *slotBackend) file(sha string) string { return filepath.Join(s.dir, sha, "agent") }

// Base is the hash of the running program, which the factory's has too.
func (s *slotBackend) Base() string {
	if s.base == "" && s.agent != "" {
		if sha, _, err := s.hash(s.agent); err == nil {
			s.base = sha
		}
	}
	return s.base
}

// hash reads a file from the disk, not from memory: cards lie.
func (s *slotBackend) hash(path string) (sha string, size int64, err error) {
	f, err := s.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	dropCache(f)
	h := sha256.New()
	size, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 64<<10))
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// Have implements Backend.
func (s *slotBackend) Have(_ context.Context, p *release.Part) (bool, error) {
	sha, size, err := s.hash(s.file(p.SHA256))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, diskError("read slot "+p.SHA256, err)
	}
	return sha == p.SHA256 && size == p.Size, nil
}

// Stage implements Backend: steps 5 to 8.
func (s *slotBackend) Stage(ctx context.Context, p *release.Part, e release.Encoding, blob string) error {
	next := filepath.Join(s.dir, newPrefix+p.SHA256)
	if err := s.fs.RemoveAll(next); err != nil {
		return diskError("build slot", err)
	}
	if err := s.build(ctx, next, p, e, blob); err != nil {
		return err
	}
	final := filepath.Join(s.dir, p.SHA256)
	if sha, _, err := s.hash(s.file(p.SHA256)); err == nil && sha == p.SHA256 { // whole: it may be the active one
		if err := s.fs.RemoveAll(next); err != nil {
			return diskError("replace slot", err)
		}
		return nil
	}
	// What has that name is damaged: nobody counts on it.
	if err := s.fs.RemoveAll(final); err != nil {
		return diskError("replace slot", err)
	}
	if err := s.fs.Rename(next, final); err != nil {
		return diskError("name slot", err)
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return diskError("name slot", err)
	}
	s.step("staged")
	return nil
}

func (s *slotBackend) build(ctx context.Context, dir string, p *release.Part, e release.Encoding, blob string) (err error) {
	if err := s.fs.MkdirAll(dir, 0o755); err != nil {
		return diskError("build slot", err)
	}
	path := filepath.Join(dir, "agent")
	f, err := s.fs.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return diskError("build slot", err)
	}
	defer func() {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	var disk disk
	out := &capped{w: f, h: sha256.New(), left: p.Size, ctx: ctx, disk: &disk}
	buf := bufio.NewWriterSize(out, 64<<10)
	err = s.decode(buf, p, e, blob, &disk)
	if err == nil {
		err = buf.Flush()
	}
	switch {
	case disk.err != nil:
		return diskError("build slot", disk.err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return &Error{CodeVerify, fmt.Sprintf("%s blob %.12s… does not give part %s", e.Enc, e.SHA256, p.Name), err}
	case out.left != 0:
		return &Error{CodeVerify, fmt.Sprintf("%s blob %.12s… gives %d bytes of part %s, want %d", e.Enc, e.SHA256, p.Size-out.left, p.Name, p.Size), nil}
	}
	if got := hex.EncodeToString(out.h.Sum(nil)); got != p.SHA256 {
		return &Error{CodeVerify, fmt.Sprintf("%s blob %.12s… gives part %s with SHA-256 %s, want %s", e.Enc, e.SHA256, p.Name, got, p.SHA256), nil}
	}
	s.step("built")
	if err := f.Chmod(0o555); err != nil {
		return diskError("build slot", err)
	}
	if err := f.Sync(); err != nil {
		return diskError("build slot", err)
	}
	err, f = f.Close(), nil
	if err != nil {
		return diskError("build slot", err)
	}
	if err := s.fs.SyncDir(dir); err != nil {
		return diskError("build slot", err)
	}
	s.step("synced")
	sha, _, err := s.hash(path)
	if err != nil {
		return diskError("read slot back", err)
	}
	if sha != p.SHA256 {
		return &Error{CodeDisk, fmt.Sprintf("read back %s, wrote %s: the disk does not keep what it is given", sha, p.SHA256), nil}
	}
	s.step("read-back")
	return nil
}

// copyEnc is the encoding of a part that is what runs: it is copied.
const copyEnc = "copy"

// decode writes the part to w. What the disk says on the way is in disk: it must not be blamed on the blob.
func (s *slotBackend) decode(w io.Writer, p *release.Part, e release.Encoding, blob string, disk *disk) error {
	in, err := s.fs.OpenFile(blob, os.O_RDONLY, 0)
	if err != nil {
		return disk.note(err)
	}
	defer func() { _ = in.Close() }() // only read
	switch e.Enc {
	case copyEnc:
		_, err = io.Copy(w, watched{in, disk})
		return err
	case release.EncZstd:
		return delta.Decompress(w, watched{in, disk}, p.Size)
	case release.EncBsdiff:
		old, err := s.fs.OpenFile(s.agent, os.O_RDONLY, 0)
		if err != nil {
			return disk.note(err)
		}
		defer func() { _ = old.Close() }() // only read
		info, err := old.Stat()
		if err != nil {
			return disk.note(err)
		}
		return delta.Patch(w, watched{old, disk}, info.Size(), watched{in, disk}, e.Size, p.Size)
	}
	return fmt.Errorf("encoding %q: want %s or %s", e.Enc, release.EncZstd, release.EncBsdiff)
}

// disk keeps the first error of any file of a build.
type disk struct{ err error }

func (d *disk) note(err error) error {
	if err != nil && err != io.EOF && d.err == nil {
		d.err = err
	}
	return err
}

type watched struct {
	f    durable.File
	disk *disk
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.f.Read(p)
	return n, w.disk.note(err)
}

func (w watched) ReadAt(p []byte, at int64) (int, error) {
	n, err := w.f.ReadAt(p, at)
	return n, w.disk.note(err)
}

// Check implements Backend: step 9.
func (s *slotBackend) Check(ctx context.Context, p *release.Part) error {
	limited, cancel := context.WithTimeout(ctx, selfCheckTime)
	defer cancel()
	err := s.check(limited, s.file(p.SHA256))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case limited.Err() != nil, errors.Is(err, context.DeadlineExceeded), killed(err):
		text := fmt.Sprintf("the new program did not say within %v that it runs here", selfCheckTime)
		if killed(err) {
			text = "the new program was killed before it said that it runs here"
		}
		if s.late[p.SHA256]++; s.late[p.SHA256] < 3 { // a busy or a small machine is not the release's fault
			return fmt.Errorf("ota: %s; it will be asked again: %w", text, err)
		}
		return &Error{CodeSelfCheck, text, err}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return &Error{CodeDisk, "slots are not where programs may be started (mounted noexec?): " + s.dir, err}
	}
	if passing(err) {
		return fmt.Errorf("ota: the new program could not be asked whether it runs here: %w", err)
	}
	return &Error{CodeSelfCheck, "the new program does not run here", err}
}

// Arm implements Backend: the record does it.
func (s *slotBackend) Arm(context.Context, *release.Part) error { return nil }

// Confirm implements Backend: the record does it.
func (s *slotBackend) Confirm(context.Context, *release.Part) error { return nil }

// Collect implements Backend. What it could not remove is tried again the next time.
func (s *slotBackend) Collect(keep []string) error {
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return diskError("list slots", err)
	}
	kept := map[string]bool{}
	for _, sha := range keep {
		kept[sha] = true
	}
	var failed error
	for _, e := range entries {
		if name := e.Name(); !kept[name] && (release.IsHash(name) || strings.HasPrefix(name, newPrefix)) {
			failed = errors.Join(failed, s.fs.RemoveAll(filepath.Join(s.dir, name)))
		}
	}
	if failed != nil {
		return diskError("collect slots", failed)
	}
	return nil
}

// capped writes at most the signed size, and hashes it. It tells the disk's errors from the content's.
type capped struct {
	w io.Writer
	h interface {
		io.Writer
		Sum([]byte) []byte
	}
	left int64
	ctx  context.Context
	disk *disk
}

func (c *capped) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > c.left {
		return 0, errors.New("more bytes than signed")
	}
	n, err := c.w.Write(p)
	c.left -= int64(n)
	_, _ = c.h.Write(p[:n]) // never fails
	return n, c.disk.note(err)
}

// diskError says whether there is no room or the disk fails.
func diskError(what string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Error{CodeSpace, what + ": no room on the disk", err}
	}
	return &Error{CodeDisk, what, err}
}
