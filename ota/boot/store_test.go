package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
)

func write(t require.TestingT, fs durable.FS, name string, data []byte) {
	require.NoError(t, fs.MkdirAll(filepath.Dir(name), 0o700))
	f, err := fs.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	_, err = f.Write(data)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func read(t require.TestingT, fs durable.FS, name string) []byte {
	data, err := durable.Read(fs, name, 1<<20)
	require.NoError(t, err)
	return data
}

// sealed is a record's file, from its JSON.
func sealed(text string) []byte {
	return fmt.Appendf(nil, "%s\n%08x\n", text, crc32.Checksum([]byte(text), castagnoli))
}

func slotOf(program string) string {
	sum := sha256.Sum256([]byte(program))
	return hex.EncodeToString(sum[:])
}

func TestUpdateAndLoad(t *testing.T) {
	s := &Store{FS: durable.OS{}, Dir: filepath.Join(t.TempDir(), "ota")}
	r, how, err := s.Load()
	require.NoError(t, err)
	require.Equal(t, Record{}, r)
	require.Equal(t, Recovered{Source: FromFactory}, how, "a new gateway has nothing, and nothing is wrong")
	_, err = os.Stat(s.Dir)
	require.ErrorIs(t, err, os.ErrNotExist, "Load makes nothing")

	r, err = s.Update(func(r *Record) error { r.MoveSeq = 4; return nil })
	require.NoError(t, err)
	require.Equal(t, uint64(1), r.Gen)
	r, err = s.Update(func(r *Record) error { r.MoveSeq = 5; r.Gen = 99; return nil })
	require.NoError(t, err)
	require.Equal(t, uint64(2), r.Gen, "the store counts")
	got, how, err := s.Load()
	require.NoError(t, err)
	require.Equal(t, r, got)
	require.Equal(t, Recovered{Source: FromRecord}, how)
	bak, err := Parse(read(t, s.FS, s.path(backupName)))
	require.NoError(t, err)
	require.Equal(t, uint64(1), bak.Gen)

	before, err := os.Stat(s.path(recordName))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), before.Mode().Perm())
	same, err := s.Update(func(r *Record) error { return nil })
	require.NoError(t, err)
	require.Equal(t, r, same)
	after, err := os.Stat(s.path(recordName))
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "no change, no write")

	boom := errors.New("boom")
	_, err = s.Update(func(r *Record) error { r.MoveSeq = 9; return boom })
	require.ErrorIs(t, err, boom)
	got, _, _ = s.Load()
	require.Equal(t, uint64(5), got.MoveSeq)
}

func TestNothingFalls(t *testing.T) {
	s := &Store{FS: crashfs.New(1), Dir: "/s/ota"}
	_, err := s.Update(func(r *Record) error {
		r.MoveSeq, r.Floors, r.Roles = 5, map[string]uint64{"p": 3}, map[string]RoleFloor{"snapshot": {Version: 9, Keys: "k1"}}
		return nil
	})
	require.NoError(t, err)
	for _, c := range []struct {
		change func(r *Record)
		want   string
	}{
		{func(r *Record) { r.MoveSeq = 4 }, "move_seq would fall from 5 to 4"},
		{func(r *Record) { r.Floors["p"] = 2 }, `floors["p"] would fall from 3 to 2`},
		{func(r *Record) { r.Floors = nil }, `floors["p"] would fall from 3 to 0`},
		{func(r *Record) { r.Roles["snapshot"] = RoleFloor{8, "k1"} }, `roles["snapshot"] would fall from version 9 to 8`},
		{func(r *Record) { r.Roles = nil }, `roles["snapshot"] would fall`},
		{func(r *Record) { r.Active = "../x" }, `active "../x", want 64 hex digits`},
		{func(r *Record) { r.Home = strings.Repeat("x", 5000) }, "want at most 4096"},
		{func(r *Record) { r.Trial = &Trial{Slot: hash('a'), TriesLeft: 4} }, "trial has 4 tries"},
		{func(r *Record) {
			r.Trial, r.Quarantine = &Trial{Slot: hash('a'), Release: release(1)}, []Quarantined{{Manifest: release(1).SHA256}}
		}, "on trial is quarantined"},
	} {
		_, err := s.Update(func(r *Record) error { c.change(r); return nil })
		require.ErrorContains(t, err, c.want)
	}
	r, err := s.Update(func(r *Record) error { r.Roles["snapshot"] = RoleFloor{1, "k2"}; return nil })
	require.NoError(t, err, "other keys start anew")
	require.Equal(t, uint64(2), r.Gen)
}

// TestUnknownKeysStay: the launcher may be older than the agent.
func TestUnknownKeysStay(t *testing.T) {
	s := &Store{FS: crashfs.New(1), Dir: "/s/ota"}
	text := `{"schema":1,"gen":3,"active":"","release":{},"prev_release":{},"new":{"a":[1,2.50,"x"]},"trial":{"slot":"` + hash('b') +
		`","release":{"product":"p","version":"2","counter":2,"sha256":"` + hash('2') + `"},"tries_left":3,"boots_left":10,"powered_s":0,"attempt":1,"extra":true}}`
	write(t, s.FS, s.path(recordName), sealed(text))
	_, err := s.Update(func(r *Record) error { Start(r, "b1"); return nil })
	require.NoError(t, err)
	data, _, _ := bytes.Cut(read(t, s.FS, s.path(recordName)), []byte("\n"))
	var got map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(data, &got))
	require.JSONEq(t, `{"a":[1,2.50,"x"]}`, string(got["new"]))
	require.Contains(t, string(got["trial"]), `"extra":true`)
	require.Contains(t, string(got["trial"]), `"tries_left":2`)
}

// TestFullRecordHasAllKeys: what a record writes it must not take for unknown when it reads.
func TestFullRecordHasAllKeys(t *testing.T) {
	full := Record{
		Gen: 1, Home: "h", Epoch: 2, Active: hash('a'), Release: release(1), Prev: hash('b'), PrevRelease: release(2),
		Trial: &Trial{Slot: hash('c'), Release: release(3), Home: "i", TriesLeft: 1, BootsLeft: 2, BootID: "b", PoweredS: 3, Clean: true, Cleans: 4, Hung: true,
			Ended: "e", StableS: 4, DeadlineS: 5, NeedServer: true, Attempt: 1, Serial: 6},
		Quarantine: []Quarantined{{Manifest: hash('d'), Slot: hash('e'), Release: release(4), Code: "c", Serial: 7}},
		Floors:     map[string]uint64{"p": 8}, Roles: map[string]RoleFloor{"r": {9, "k"}}, MoveSeq: 10, Pin: &Pin{release(5), 11},
		LastResult: &Result{Release: release(6), Code: "c", Text: "t", Gen: 12, Attempt: 1, Serial: 15, UnixS: 13, Acked: true}, TimeFloor: 14,
	}
	data, err := full.encode()
	require.NoError(t, err)
	got, err := Parse(data)
	require.NoError(t, err)
	require.Equal(t, full, got)
	require.Nil(t, got.extra)
	require.Nil(t, got.Trial.extra)
}

func TestLadder(t *testing.T) {
	good := func(gen uint64) []byte {
		r := Record{Gen: gen, Active: hash('a'), MoveSeq: gen}
		data, err := r.encode()
		require.NoError(t, err)
		return data
	}
	flip := func(bit int) []byte {
		data := good(2)
		data[bit/8] ^= 1 << (bit % 8)
		return data
	}
	type damage struct {
		name string
		data []byte
	}
	damages := []damage{
		{"empty", nil}, {"zeros", make([]byte, len(good(2)))}, {"half", good(2)[:len(good(2))/2]}, {"twice", append(good(2), good(2)...)},
		{"too large", append(good(2), make([]byte, MaxRecord)...)}, {"no checksum", []byte("{}\n")}, {"not JSON", sealed("{")}, {"null", sealed("null")},
		{"newer schema", sealed(`{"schema":2,"active":"` + hash('z'-20) + `"}`)}, {"no schema", sealed(`{"active":""}`)},
		{"a path", sealed(`{"schema":1,"active":"../../../bin/sh"}`)}, {"a short slot", sealed(`{"schema":1,"active":"abc"}`)},
		{"capitals", sealed(`{"schema":1,"active":"` + strings.ToUpper(hash('a')) + `"}`)}, {"trial without slot", sealed(`{"schema":1,"active":"","trial":{}}`)},
		{"negative tries", sealed(`{"schema":1,"active":"","trial":{"slot":"` + hash('a') + `","tries_left":-1}}`)},
	}
	for n := range len(good(2)) * 8 {
		damages = append(damages, damage{fmt.Sprint("bit ", n), flip(n)})
	}
	programs := []string{"oldest", "older", "newest"}
	for _, d := range damages {
		fs := crashfs.New(1)
		s := &Store{FS: fs, Dir: "/s/ota"}
		write(t, fs, s.path(recordName), d.data)

		// Nothing else: the factory.
		r, how, err := s.Load()
		require.NoError(t, err, d.name)
		require.Equal(t, FromFactory, how.Source, d.name)
		require.Equal(t, Record{}, r, d.name)
		require.ErrorContains(t, how.Problem, "boot.state", d.name)

		// Slots: the newest that is what its name says.
		for _, p := range programs {
			write(t, fs, s.Agent(slotOf(p)), []byte(p))
		}
		write(t, fs, s.Agent(slotOf("broken")), []byte("brokem"))
		write(t, fs, s.Agent(".new-"+slotOf("x")), []byte("x"))
		write(t, fs, s.path("slots/"+hash('e')+"/other"), []byte("x"))
		r, how, err = s.Load()
		require.NoError(t, err, d.name)
		require.Equal(t, FromSlot, how.Source, d.name)
		require.Equal(t, slotOf("newest"), r.Active, d.name)
		require.Equal(t, slotOf("older"), r.Prev, d.name)

		// The backup.
		write(t, fs, s.path(backupName), good(1))
		r, how, err = s.Load()
		require.NoError(t, err, d.name)
		require.Equal(t, FromBackup, how.Source, d.name)
		require.Equal(t, uint64(1), r.Gen, d.name)

		// An update heals, from the backup, and leaves the backup alone; but never what it does not understand.
		r, err = s.Update(func(r *Record) error { r.Home = "x"; return nil })
		if d.name == "newer schema" {
			require.ErrorIs(t, err, ErrNewer)
			require.Equal(t, d.data, read(t, fs, s.path(recordName)))
			continue
		}
		require.NoError(t, err, d.name)
		require.Equal(t, uint64(2), r.Gen, d.name)
		require.Equal(t, good(1), read(t, fs, s.path(backupName)), d.name)
		_, how, err = s.Load()
		require.NoError(t, err, d.name)
		require.Equal(t, Recovered{Source: FromRecord}, how, d.name)
	}
}

// TestStagedIsNotArmed: a new gateway's first slot is on disk before there is a record; it is not started.
func TestStagedIsNotArmed(t *testing.T) {
	g := newGateway(crashfs.New(1))
	require.NoError(t, g.install("release 1"))
	r, how, err := g.s.Load()
	require.NoError(t, err)
	require.Equal(t, Recovered{Source: FromFactory}, how)
	require.Equal(t, Record{}, r)
	r, err = g.s.Update(func(r *Record) error { return Arm(r, Trial{Slot: slotOf("release 1"), Release: release(1)}) })
	require.NoError(t, err)
	require.Empty(t, r.Active)
}

func TestVerify(t *testing.T) {
	s := &Store{FS: durable.OS{}, Dir: t.TempDir()}
	slot := slotOf("program")
	require.ErrorIs(t, s.Verify(slot), os.ErrNotExist)
	require.ErrorContains(t, s.Verify("../x"), "want 64 hex digits")
	write(t, s.FS, s.Agent(slot), []byte("program"))
	require.NoError(t, s.Verify(slot))
	write(t, s.FS, s.Agent(slot), []byte("prograM"))
	require.ErrorIs(t, s.Verify(slot), ErrSlot)
	require.NoError(t, os.Remove(s.Agent(slot)))
	require.NoError(t, syscall.Mkfifo(s.Agent(slot), 0o600))
	require.ErrorIs(t, s.Verify(slot), ErrSlot, "a pipe does not block")
	require.NoError(t, os.Remove(s.Agent(slot)))
	require.NoError(t, os.Mkdir(s.Agent(slot), 0o700))
	require.ErrorIs(t, s.Verify(slot), ErrSlot)
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	s := &Store{FS: durable.OS{}, Dir: dir}
	require.NoError(t, os.MkdirAll(s.path(recordName), 0o700)) // a folder in its place
	_, how, err := s.Load()
	require.Error(t, err)
	require.Equal(t, FromFactory, how.Source)
	_, err = s.Update(func(*Record) error { return nil })
	require.ErrorContains(t, err, "cannot be read")
	_, err = os.Stat(s.path(recordName))
	require.NoError(t, err)
}

// denied is a file system that will not let one file be read.
type denied struct {
	durable.FS
	name string
	err  error
}

func (d *denied) OpenFile(name string, flag int, perm os.FileMode) (durable.File, error) {
	if name == d.name {
		return nil, &os.PathError{Op: "open", Path: name, Err: d.err}
	}
	return d.FS.OpenFile(name, flag, perm)
}

// TestUnreadableIsNotDamaged: the one before counts where the record is damaged or gone, never where it may only not be read: the
// verdict that it holds would be forgotten, and written over.
func TestUnreadableIsNotDamaged(t *testing.T) {
	for _, cause := range []error{syscall.EACCES, syscall.EIO} {
		fs := &denied{FS: crashfs.New(1), err: cause}
		s := &Store{FS: fs, Dir: "/s/ota"}
		for _, change := range []func(*Record){
			func(r *Record) { *r = armed(t); Start(r, "b1") },
			func(r *Record) { RollBack(r, CodeCrash, "x", true) },
		} {
			_, err := s.Update(func(r *Record) error { change(r); return nil })
			require.NoError(t, err)
		}
		fs.name = s.path(recordName)
		r, how, err := s.Load()
		require.ErrorIs(t, err, cause)
		require.Equal(t, FromBackup, how.Source)
		require.Equal(t, hash('a'), r.Active, "as far as can be known")
		_, err = s.Update(func(r *Record) error { Start(r, "b1"); return nil })
		require.ErrorIs(t, err, cause)
		require.ErrorContains(t, err, "what is there cannot be read")
		fs.name = ""
		r, how, err = s.Load()
		require.NoError(t, err)
		require.NoError(t, how.Problem)
		require.Nil(t, r.Trial)
		require.Len(t, r.Quarantine, 1)
	}
}

// TestRootLeavesFilesToTheService: what root writes belongs to the folder's owner, and a link leads nowhere.
func TestRootLeavesFilesToTheService(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("wants root, to write in somebody else's folder")
		}
		t.Skip("wants root, to write in somebody else's folder")
	}
	state := t.TempDir()
	require.NoError(t, os.Chown(state, 65534, 65533))
	s := &Store{FS: durable.OS{}, Dir: filepath.Join(state, "ota")}
	for seq := range uint64(3) {
		_, err := s.Update(func(r *Record) error { r.MoveSeq = seq + 1; return nil })
		require.NoError(t, err)
	}
	require.NoError(t, s.Note(Last{BootID: "b1"}))
	for _, name := range []string{"", recordName, backupName, lockName, lastName} {
		info, err := os.Stat(s.path(name))
		require.NoError(t, err)
		st := info.Sys().(*syscall.Stat_t)
		require.Equal(t, []uint32{65534, 65533}, []uint32{st.Uid, st.Gid}, name)
		require.Zero(t, info.Mode().Perm()&0o077, name)
	}

	victim := filepath.Join(t.TempDir(), "victim")
	for _, name := range []string{lockName, lastName} {
		require.NoError(t, os.Remove(s.path(name)))
		require.NoError(t, os.Symlink(victim, s.path(name)))
	}
	require.Error(t, s.Note(Last{BootID: "b1"}))
	_, err := s.Update(func(r *Record) error { r.MoveSeq++; return nil })
	require.Error(t, err)
	require.NoFileExists(t, victim)
}

// TestLock: processes and goroutines that change the record at once lose no change.
func TestLock(t *testing.T) {
	if dir := os.Getenv("HOMEWARD_TEST_LOCK"); dir != "" {
		s := &Store{FS: durable.OS{}, Dir: dir}
		for range 20 {
			_, err := s.Update(func(r *Record) error { r.MoveSeq++; return nil })
			require.NoError(t, err)
		}
		return
	}
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ota")
	s := &Store{FS: durable.OS{}, Dir: dir}
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestLock$")
			cmd.Env = append(os.Environ(), "HOMEWARD_TEST_LOCK="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		group.Go(func() {
			for range 20 {
				if _, err := s.Update(func(r *Record) error { r.MoveSeq++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	r, _, err := s.Load()
	require.NoError(t, err)
	require.Equal(t, uint64(120), r.MoveSeq)
	require.Equal(t, uint64(120), r.Gen)
}

func TestLastAndStopped(t *testing.T) {
	s := &Store{FS: durable.OS{}, Dir: t.TempDir()}
	_, known := s.Last("b1")
	require.False(t, known)
	for _, l := range []Last{{Slot: hash('a'), BootID: "b1", StartS: 12, Crashes: 2}, {Clean: true, BootID: "b1"}} {
		require.NoError(t, s.Note(l))
		got, known := s.Last("b1")
		require.True(t, known)
		require.Equal(t, l, got)
		_, known = s.Last("b2")
		require.False(t, known, "of another boot")
	}
	for _, text := range []string{"", "stopped", "stopped factory b1 -1 0\n", "stopped ../x b1 1 0\n", "maybe factory b1 1 0\n", strings.Repeat("x", 600), "stopped factory unknown 1 0\n"} {
		write(t, s.FS, s.path(lastName), []byte(text))
		for _, id := range []string{"b1", UnknownBoot} {
			_, known := s.Last(id)
			require.False(t, known, "%q", text)
		}
	}

	require.NoError(t, s.Stopped("", "b1", 0))
	_, err := os.Stat(s.path(recordName))
	require.ErrorIs(t, err, os.ErrNotExist, "without a trial no record is written")
	_, err = s.Update(func(r *Record) error {
		*r = armed(t)
		Start(r, "b1")
		return nil
	})
	require.NoError(t, err)
	for _, c := range []struct {
		slot, boot string
		clean      bool
	}{{"", "b1", false}, {hash('a'), "b1", false}, {hash('b'), "b0", false}, {hash('b'), "b1", true}} {
		require.NoError(t, s.Stopped(c.slot, c.boot, 90*time.Second))
		r, _, err := s.Load()
		require.NoError(t, err)
		require.Equal(t, c.clean, r.Trial.Clean, "%+v", c)
	}
	r, _, _ := s.Load()
	require.Equal(t, int64(90), r.Trial.PoweredS)
}

// gateway is an updater and a launcher that do what is needed and no more: from release 1 in slot a to release 2 in slot b.
type gateway struct {
	fs     *crashfs.FS
	s      *Store
	boots  int
	ran    map[string]bool // slots that were started
	trials int
}

const dirOTA = "/var/ota"

func newGateway(fs *crashfs.FS) *gateway {
	return &gateway{fs: fs, s: &Store{FS: fs, Dir: dirOTA}, ran: map[string]bool{}}
}

func (g *gateway) install(program string) error { return install(g.s, program, true) }

// install is steps 5 to 8 of an update: write beside, sync, rename, sync.
func install(s *Store, program string, sync bool) error {
	slot, slots := slotOf(program), filepath.Join(s.Dir, "slots")
	if s.Verify(slot) == nil {
		return nil
	}
	tmp := filepath.Join(slots, ".new-"+slot)
	if err := errors.Join(s.FS.RemoveAll(tmp), s.FS.RemoveAll(s.SlotDir(slot))); err != nil {
		return err
	}
	if err := s.FS.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	if err := s.FS.SyncDir(s.Dir); err != nil {
		return err
	}
	f, err := s.FS.OpenFile(filepath.Join(tmp, agentName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	for _, part := range []string{program[:len(program)/2], program[len(program)/2:]} {
		if _, err := f.Write([]byte(part)); err != nil {
			return err
		}
	}
	if sync {
		err = errors.Join(f.Sync(), s.FS.SyncDir(tmp))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.FS.Rename(tmp, s.SlotDir(slot)); err != nil {
		return err
	}
	return s.FS.SyncDir(slots)
}

// start is the launcher: what it starts, once it may.
func (g *gateway) start() (slot string, trial bool, err error) {
	r, _, err := g.s.Load()
	if err != nil {
		return "", false, err
	}
	d := Decision{Slot: r.Active}
	if r.Trial != nil {
		counted, err := g.s.Update(func(r *Record) error { d = Start(r, "boot"+strconv.Itoa(g.boots)); return nil })
		if err != nil {
			return "", false, err
		}
		if d.Trial {
			// Counted durably, before: whatever the power does now.
			after, _, err := (&Store{FS: g.fs.Clone(1).Reboot(crashfs.None), Dir: dirOTA}).Load()
			if err != nil || after.Trial == nil || after.Trial.TriesLeft != counted.Trial.TriesLeft {
				return "", false, fmt.Errorf("an uncounted trial: %+v, %w", after.Trial, err)
			}
			g.trials++
		}
	}
	if d.Slot != "" {
		if err := g.s.Verify(d.Slot); err != nil {
			return "", false, fmt.Errorf("not bootable: %w", err)
		}
	}
	g.ran[d.Slot] = true
	return d.Slot, d.Trial, nil
}

// live goes on from wherever it is until release 2 is committed.
func (g *gateway) live(good bool) error {
	g.boots++
	for range 12 {
		_, trial, err := g.start()
		if err != nil {
			return err
		}
		r, _, err := g.s.Load()
		if err != nil {
			return err
		}
		switch {
		case trial && good:
			if _, err := g.s.Update(func(r *Record) error { Commit(r, 2); return nil }); err != nil {
				return err
			}
		case trial: // crashes
		case r.Release == release(2):
			return nil
		case r.Release == Release{}: // the first release is installed by hand
			if err := g.install("release 1"); err != nil {
				return err
			}
			if _, err := g.s.Update(func(r *Record) error {
				r.Active, r.Release, r.Floors, r.MoveSeq = slotOf("release 1"), release(1), map[string]uint64{"gateway-v2": 1}, 1
				return nil
			}); err != nil {
				return err
			}
		default:
			if _, bad := r.Quarantined(release(2).SHA256); bad {
				return nil
			}
			if err := g.install("release 2"); err != nil {
				return err
			}
			if _, err := g.s.Update(func(r *Record) error { return Arm(r, Trial{Slot: slotOf("release 2"), Release: release(2)}) }); err != nil {
				return err
			}
		}
	}
	return errors.New("no end")
}

// holds says what must be true of the disk at each moment.
func holds(t *testing.T, fs *crashfs.FS, seen *Record, where string) {
	t.Helper()
	s := &Store{FS: fs, Dir: dirOTA}
	r, how, err := s.Load()
	require.NoError(t, err, where)
	require.NoError(t, how.Problem, "%s: a power cut damages no record\n%s", where, fs.Tree())
	for _, slot := range []string{r.Active, r.Prev} {
		if slot != "" {
			require.NoError(t, s.Verify(slot), "%s\n%s", where, fs.Tree())
		}
	}
	if r.Trial != nil {
		require.NoError(t, s.Verify(r.Trial.Slot), "%s: armed before it was whole\n%s", where, fs.Tree())
	}
	require.NoError(t, rises(seen, &r), where)
	require.GreaterOrEqual(t, r.Gen, seen.Gen, where)
	if seen.Release == release(2) {
		require.Equal(t, release(2), r.Release, "%s: a committed release stays", where)
	}
	if _, was := seen.Quarantined(release(2).SHA256); was {
		_, is := r.Quarantined(release(2).SHA256)
		require.True(t, is, where)
		require.Nil(t, r.Trial, where)
	}
}

// TestCrashAtEachOperation cuts the power at each operation of a whole update, of a good and of a bad release, and again at each
// operation of what follows; in each mode of survival.
func TestCrashAtEachOperation(t *testing.T) {
	t.Parallel()
	every := 200 // of the second crashes
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		every = 1
	}
	for _, good := range []bool{true, false} {
		crashes, states := 0, 0
		for n := 1; ; n++ {
			first := newGateway(crashfs.New(uint64(n)))
			require.NoError(t, first.fs.MkdirAll("/var", 0o755))
			require.NoError(t, first.fs.SyncDir("/"))
			first.fs.CrashAt(first.fs.Ops() + n)
			err := first.live(good)
			if err == nil {
				require.False(t, first.fs.Crashed())
				break
			}
			require.ErrorIs(t, err, crashfs.ErrCrash, "crash at %d", n)
			crashes++
			for _, mode := range crashfs.Modes {
				where := fmt.Sprintf("good %v, crash at %d, %s", good, n, mode)
				disk := first.fs.Clone(uint64(n)).Reboot(mode)
				states++
				holds(t, disk, &Record{}, where)
				seen, _, err := (&Store{FS: disk, Dir: dirOTA}).Load()
				require.NoError(t, err)
				for m := 1 + n%every; ; m += every {
					second := newGateway(disk.Clone(uint64(m)))
					second.boots = 100
					second.fs.CrashAt(m)
					err := second.live(good)
					if err == nil {
						finished(t, second, good, where)
						break
					}
					require.ErrorIs(t, err, crashfs.ErrCrash, "%s, then at %d", where, m)
					crashes++
					for _, mode := range crashfs.Modes {
						where := fmt.Sprintf("%s, then at %d, %s", where, m, mode)
						disk := second.fs.Clone(uint64(m)).Reboot(mode)
						states++
						holds(t, disk, &seen, where)
						third := newGateway(disk)
						third.boots = 200
						require.NoError(t, third.live(good), where)
						finished(t, third, good, where)
					}
				}
			}
		}
		t.Logf("good %v: %d crashes, %d states of the disk", good, crashes, states)
		require.Greater(t, crashes, 100)
	}
}

func finished(t *testing.T, g *gateway, good bool, where string) {
	t.Helper()
	for _, mode := range []crashfs.Mode{crashfs.None, crashfs.All} {
		disk := g.fs.Clone(1).Reboot(mode)
		holds(t, disk, &Record{}, where)
		r, _, err := (&Store{FS: disk, Dir: dirOTA}).Load()
		require.NoError(t, err)
		if good {
			require.Equal(t, release(2), r.Release, where)
			require.Empty(t, r.Quarantine, where)
			require.Equal(t, uint64(2), r.Floors["gateway-v2"], where)
		} else {
			require.Equal(t, release(1), r.Release, where)
			require.Len(t, r.Quarantine, 1, where)
			require.Equal(t, uint64(1), r.Floors["gateway-v2"], where)
		}
	}
}

// TestFailAtEachOperation: an error of any operation (full, read-only, broken) is told, harms nothing, and is gone with its cause.
func TestFailAtEachOperation(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO, syscall.EROFS} {
		base := newGateway(crashfs.New(1))
		require.NoError(t, base.install("release 1"))
		_, err := base.s.Update(func(r *Record) error { *r = armed(t); r.Active = slotOf("release 1"); return nil })
		require.NoError(t, err)
		start := func(s *Store) error {
			_, err := s.Update(func(r *Record) error { Start(r, "b1"); return nil })
			return err
		}
		failed := 0
		for n := 1; ; n++ {
			for _, lasting := range []bool{false, true} {
				fs := base.fs.Clone(1)
				if lasting {
					fs.FailFrom(n, cause)
				} else {
					fs.Fail(n, cause)
				}
				s := &Store{FS: fs, Dir: dirOTA}
				err := start(s)
				if err == nil {
					continue
				}
				failed++
				require.ErrorIs(t, err, cause)
				fs.FailFrom(0, nil)
				r, how, err := s.Load()
				require.NoError(t, err)
				require.NoError(t, how.Problem)
				require.Equal(t, slotOf("release 1"), r.Active)
				require.NoError(t, start(s))
			}
			if fs := base.fs.Clone(1); start(&Store{FS: fs, Dir: dirOTA}) == nil && n > fs.Ops() {
				break
			}
		}
		require.Greater(t, failed, 8)
	}
}

func FuzzParse(f *testing.F) {
	r := armed(f)
	Start(&r, "b1")
	data, err := r.encode()
	require.NoError(f, err)
	f.Add(data)
	f.Add(sealed(`{"schema":1,"active":"","release":{},"prev_release":{},"x":[{}]}`))
	f.Add(sealed(`{"schema":1,"SCHEMA":2,"active":null,"trial":{"Slot":"` + hash('a') + `","slot":"/"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, sealed(string(data))} { // a checksum is no secret
			r, err := Parse(data)
			if err != nil {
				require.True(t, errors.Is(err, ErrDamaged) || errors.Is(err, ErrNewer), "%v", err)
				continue
			}
			require.True(t, r.Active == "" || IsSlot(r.Active))
			again := r.clone()
			Start(&again, "b")
			RollBack(&again, CodeCrash, "x", true)
			if out, err := r.encode(); err == nil { // it may have grown: by a number's new form
				_, err := Parse(out)
				require.NoError(t, err)
			}
		}
	})
}
