package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	"homeward/buffer/durable"
)

// Store is the record of one gateway, and the slots beside it.
type Store struct {
	FS  durable.FS
	Dir string // <state>/ota

	mu sync.Mutex // one writer in this process; the lock file is for all of them
}

// Source is where a record was read.
type Source string

// Sources, from the best to the last resort.
const (
	FromRecord  Source = "boot.state"
	FromBackup  Source = "boot.state.bak"
	FromSlot    Source = "slot"    // the newest slot whose hash is its name
	FromFactory Source = "factory" // a new gateway, or nothing is left
)

// Recovered says where a record came from, and what was wrong with the better sources.
type Recovered struct {
	Source  Source
	Problem error // nil: nothing was wrong
}

// lockWait is how long Update waits for another process: none holds the lock longer than a write takes.
const lockWait = 5 * time.Second

const (
	recordName = "boot.state"
	backupName = "boot.state.bak"
	lockName   = "boot.lock"
	agentName  = "agent"
)

func (s *Store) path(name string) string { return filepath.Join(s.Dir, name) }

// SlotDir is the folder of a slot.
func (s *Store) SlotDir(slot string) string { return filepath.Join(s.Dir, "slots", slot) }

// Agent is the program in a slot.
func (s *Store) Agent(slot string) string { return filepath.Join(s.SlotDir(slot), agentName) }

// Load reads the record; where it is damaged or gone, the one before; where that is damaged too, a record that starts the newest slot
// whose hash is its name; without one, the factory's, as where no record was ever written. It needs no lock and changes nothing. The
// error is of the file system: what is there may not be read, which says nothing about what it holds. The record is then the best that
// can be known, good for its active slot alone, and Update writes nothing over it.
func (s *Store) Load() (Record, Recovered, error) {
	r, _, how, err := s.load()
	return r, how, err
}

// load gives with the record the bytes it was read from, nil where it was made up.
func (s *Store) load() (Record, []byte, Recovered, error) {
	var problems []error
	var broken error // what is not a matter of content
	for _, source := range []Source{FromRecord, FromBackup} {
		data, err := durable.Read(s.FS, s.path(string(source)), MaxRecord)
		if err == nil {
			r, err := Parse(data)
			if err == nil {
				return r, data, Recovered{source, errors.Join(problems...)}, broken
			}
			problems = append(problems, fmt.Errorf("%s: %w", source, err))
			continue
		}
		switch {
		case errors.Is(err, durable.ErrTooLarge):
			err = fmt.Errorf("%w: %w", err, ErrDamaged)
		case errors.Is(err, os.ErrNotExist):
		default:
			broken = errors.Join(broken, err)
		}
		if source == FromRecord || !errors.Is(err, os.ErrNotExist) { // the first generation has none before it
			problems = append(problems, err)
		}
	}
	if len(problems) == 1 && errors.Is(problems[0], os.ErrNotExist) && broken == nil {
		// Never written: what slots there are were staged and never armed.
		return Record{}, nil, Recovered{Source: FromFactory}, nil
	}
	slots, err := s.Slots()
	if err != nil {
		broken = errors.Join(broken, err)
	}
	var whole []string
	for _, slot := range slots {
		if s.Verify(slot) == nil {
			if whole = append(whole, slot); len(whole) == 2 {
				break
			}
		}
	}
	r, how := Record{}, Recovered{FromFactory, errors.Join(problems...)}
	if len(whole) > 0 {
		how.Source, r.Active = FromSlot, whole[0]
		if len(whole) > 1 {
			r.Prev = whole[1]
		}
	}
	return r, nil, how, broken
}

// Slots lists the slots by name, the newest first. Whether they hold what they should, Verify says.
func (s *Store) Slots() ([]string, error) {
	entries, err := s.FS.ReadDir(s.path("slots"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("boot: list slots: %w", err)
	}
	type slot struct {
		name string
		time time.Time
	}
	var slots []slot
	for _, e := range entries {
		if !isHash(e.Name()) {
			continue
		}
		if info, err := s.FS.Stat(s.Agent(e.Name())); err == nil && info.Mode().IsRegular() {
			slots = append(slots, slot{e.Name(), info.ModTime()})
		}
	}
	sort.SliceStable(slots, func(i, j int) bool { return slots[i].time.After(slots[j].time) })
	var names []string
	for _, s := range slots {
		names = append(names, s.name)
	}
	return names, nil
}

// ErrSlot is what Verify returns for a slot whose program is not what its name says.
var ErrSlot = errors.New("the program is not what the slot's name says")

// Verify reads a slot's program and compares its SHA-256 with the slot's name.
func (s *Store) Verify(slot string) (err error) {
	if !isHash(slot) {
		return fmt.Errorf("boot: slot %.80q: want 64 hex digits", slot)
	}
	f, err := s.FS.OpenFile(s.Agent(slot), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("boot: slot %.12s: %w", slot, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("boot: slot %.12s: %w", slot, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("boot: slot %.12s: %s is no regular file: %w", slot, agentName, ErrSlot)
	}
	h := sha256.New()
	if _, err := io.Copy(h, struct{ io.Reader }{f}); err != nil {
		return fmt.Errorf("boot: slot %.12s: %w", slot, err)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != slot {
		return fmt.Errorf("boot: slot %.12s holds a program with SHA-256 %s: %w", slot, sum, ErrSlot)
	}
	return nil
}

// Update changes the record durably: when it returns without an error, the new one is there after a power cut. It refuses a change
// by which a floor, a role's version or move_seq would fall. A change that changes nothing writes nothing. On an error the record on
// disk is the old one, except for an error of the last step, after which it may be either.
func (s *Store) Update(change func(*Record) error) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeDir(); err != nil {
		return Record{}, fmt.Errorf("boot: update: %w", err)
	}
	unlock, err := s.lock()
	if err != nil {
		return Record{}, fmt.Errorf("boot: update: %w", err)
	}
	defer unlock()
	old, data, how, err := s.load()
	if err != nil {
		return Record{}, fmt.Errorf("boot: update: what is there cannot be read: %w", err)
	}
	if errors.Is(how.Problem, ErrNewer) {
		return Record{}, fmt.Errorf("boot: update: %w", how.Problem)
	}
	r := old.clone()
	if err := change(&r); err != nil {
		return Record{}, err
	}
	r.Gen = old.Gen
	same, err := r.encode()
	if err != nil {
		return Record{}, err
	}
	if bytes.Equal(same, data) && how.Source == FromRecord {
		return old, nil
	}
	r.Gen++
	if err := r.check(); err != nil {
		return Record{}, fmt.Errorf("boot: update: %w", err)
	}
	if err := rises(&old, &r); err != nil {
		return Record{}, fmt.Errorf("boot: update: %w", err)
	}
	fresh, err := r.encode()
	if err != nil {
		return Record{}, err
	}
	switch how.Source {
	case FromRecord:
		if err := s.backup(data); err != nil {
			return Record{}, fmt.Errorf("boot: update: %s: %w", backupName, err)
		}
	case FromSlot, FromFactory: // the folder may be as new
		if err := s.FS.SyncDir(filepath.Dir(s.Dir)); err != nil {
			return Record{}, fmt.Errorf("boot: update: %w", err)
		}
	}
	if err := durable.Replace(heir{s.FS}, s.path(recordName), fresh, 0o600); err != nil {
		return Record{}, fmt.Errorf("boot: update: %w", err)
	}
	return r, nil
}

// lock takes the lock of all processes. A file system of a test has one process.
func (s *Store) lock() (func(), error) {
	f, err := s.open(lockName, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	unlock := func() { _ = f.Close() } // nothing was written
	fd, ok := f.(interface{ Fd() uintptr })
	if !ok {
		return unlock, nil
	}
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(fd.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) || time.Since(start) > lockWait {
			unlock()
			return nil, fmt.Errorf("lock %s, waited %s: %w", s.path(lockName), time.Since(start).Round(time.Millisecond), err)
		}
	}
}

// backup makes the present record boot.state.bak as well: a second name, where the file system has them. At each moment .bak is the
// old or the new one.
func (s *Store) backup(data []byte) error {
	tmp := s.path(backupName + durable.TempSuffix)
	if err := s.FS.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.FS.Link(s.path(recordName), tmp); err != nil {
		return durable.Replace(heir{s.FS}, s.path(backupName), data, 0o600)
	}
	return s.FS.Rename(tmp, s.path(backupName)) // synced with the record's own name, in the same folder
}

// rises says no to whatever must never fall.
func rises(old, now *Record) error {
	for product, floor := range old.Floors {
		if now.Floors[product] < floor {
			return fmt.Errorf("floors[%q] would fall from %d to %d: it only rises", product, floor, now.Floors[product])
		}
	}
	for role, floor := range old.Roles {
		next, ok := now.Roles[role]
		if !ok || next.Keys == floor.Keys && next.Version < floor.Version {
			return fmt.Errorf("roles[%q] would fall from version %d to %d: it only rises, or starts anew with other keys", role, floor.Version, next.Version)
		}
	}
	if now.MoveSeq < old.MoveSeq {
		return fmt.Errorf("move_seq would fall from %d to %d: it only rises", old.MoveSeq, now.MoveSeq)
	}
	return nil
}

// The note of the last run: no promise rests on it, so it is written without a sync, and a power cut makes it invalid by itself,
// for it names the boot.
const lastName = "last"

// Last is how the program before this one went, as far as is known.
type Last struct {
	Clean   bool   // it ended when asked to
	Slot    string // "" is the factory's
	BootID  string
	StartS  int64 // seconds after the boot at which it was started
	Crashes int   // unclean ends in a row, each soon after its start
}

// Last reads the note; false: there is none, or none of this boot.
func (s *Store) Last(bootID string) (Last, bool) {
	data, err := durable.Read(s.FS, s.path(lastName), 512)
	if err != nil {
		return Last{}, false
	}
	var l Last
	var how, slot string
	if n, err := fmt.Sscanf(string(data), "%8s %64s %64s %d %d\n", &how, &slot, &l.BootID, &l.StartS, &l.Crashes); n != 5 || err != nil {
		return Last{}, false
	}
	l.Clean, l.Slot = how == "stopped", strings.TrimPrefix(slot, "factory")
	if bootID == UnknownBoot || l.BootID != bootID || l.Slot != "" && !isHash(l.Slot) || how != "stopped" && how != "started" || l.StartS < 0 || l.Crashes < 0 {
		return Last{}, false
	}
	return l, true
}

// Note writes the note of the run that begins or, with Clean, has ended.
func (s *Store) Note(l Last) error {
	how, slot := "started", l.Slot
	if l.Clean {
		how = "stopped"
	}
	if slot == "" {
		slot = "factory"
	}
	text := fmt.Sprintf("%s %s %s %d %d\n", how, slot, l.BootID, l.StartS, l.Crashes)
	if err := s.makeDir(); err != nil {
		return fmt.Errorf("boot: note: %w", err)
	}
	f, err := s.open(lastName, os.O_WRONLY|os.O_TRUNC)
	if err != nil {
		return fmt.Errorf("boot: note: %w", err)
	}
	_, err = f.Write([]byte(text))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("boot: note: %w", err)
	}
	return nil
}

// Stopped is for the agent, as its last act when it was asked to stop: the next start in this boot costs no try and needs no check of
// the slot. slot is the agent's own, "" the factory's; powered are the trial's seconds of this run that were not counted yet.
func (s *Store) Stopped(slot, bootID string, powered time.Duration) error {
	l, _ := s.Last(bootID)
	note := s.Note(Last{Clean: true, Slot: slot, BootID: bootID, StartS: l.StartS})
	if r, _, err := s.Load(); err == nil && (r.Trial == nil || slot == "" || r.Trial.Slot != slot || r.Trial.BootID != bootID) {
		return note // no trial of ours: no write
	}
	_, err := s.Update(func(r *Record) error {
		if t := r.Trial; t != nil && slot != "" && t.Slot == slot && t.BootID == bootID {
			t.Clean = true
			t.PoweredS += max(0, int64(powered/time.Second))
		}
		return nil
	})
	return errors.Join(note, err)
}

// UnknownBoot is the boot id where the kernel tells none: each crash counts then, and each slot is checked.
const UnknownBoot = "unknown"

// BootID is the kernel's id of this boot, or what $HOMEWARD_BOOT_ID says, for tests.
func BootID() string {
	if id := os.Getenv("HOMEWARD_BOOT_ID"); id != "" {
		return id
	}
	data, err := durable.ReadFile("/proc/sys/kernel/random/boot_id", 64)
	if err != nil || len(data) < 2 {
		return UnknownBoot
	}
	return strings.TrimSpace(string(data))
}
