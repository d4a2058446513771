//go:build linux && (amd64 || arm64)

package boot

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/powercut"
)

const workerEnv = "HOMEWARD_TEST_UPDATES" // folder; with "nosync" after a space: slots are not synced, which is wrong

func TestMain(m *testing.M) {
	powercut.Main()
	if what := os.Getenv(workerEnv); what != "" {
		dir, how, _ := strings.Cut(what, " ")
		if err := updates(&Store{FS: durable.OS{}, Dir: dir}, how != "nosync"); err != nil {
			fmt.Fprintln(os.Stderr, err) // expected once the power is off
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// program is release n's: 40 KB that no other has.
func program(n uint64) string { return strings.Repeat(fmt.Sprintf("release %d\n", n), 4000) }

// updates goes from release to release, for ever, and says what it was promised: generation, release, and whether it is committed.
func updates(s *Store, sync bool) error {
	id := fmt.Sprint("boot", os.Getpid(), time.Now().UnixNano())
	for {
		r, _, err := s.Load()
		if err != nil {
			return err
		}
		said := "committed"
		if r.Trial != nil {
			d := Decision{}
			if r, err = s.Update(func(r *Record) error { d = Start(r, id); return nil }); err != nil {
				return err
			}
			if d.Trial {
				if err := s.Verify(d.Slot); err != nil {
					return err
				}
				r, err = s.Update(func(r *Record) error { Commit(r, r.Trial.Release.Counter); return nil })
			}
		} else {
			n := r.Release.Counter + 1
			if err := install(s, program(n), sync); err != nil {
				return err
			}
			said = "armed"
			r, err = s.Update(func(r *Record) error {
				r.MoveSeq++
				return Arm(r, Trial{Slot: slotOf(program(n)), Release: release(n)})
			})
		}
		if err != nil {
			return err
		}
		fmt.Println(said, r.Gen, r.Release.Counter, r.MoveSeq)
		slots, err := s.Slots()
		if err != nil {
			return err
		}
		for _, slot := range slots { // step 19
			if slot != r.Active && slot != r.Prev && (r.Trial == nil || slot != r.Trial.Slot) {
				if err := s.FS.RemoveAll(s.SlotDir(slot)); err != nil {
					return err
				}
			}
		}
	}
}

// look says what is wrong after a cut with what was promised before.
func look(s *Store, lines []string) error {
	r, how, err := s.Load()
	if err := errors.Join(err, how.Problem); err != nil {
		return err
	}
	slots := []string{r.Active, r.Prev}
	if r.Trial != nil {
		slots = append(slots, r.Trial.Slot)
	}
	for _, slot := range slots {
		if slot != "" {
			if err := s.Verify(slot); err != nil {
				return err
			}
		}
	}
	if len(lines) == 0 {
		return nil
	}
	var said string
	var gen, counter, seq uint64
	if _, err := fmt.Sscan(lines[len(lines)-1], &said, &gen, &counter, &seq); err != nil {
		return err
	}
	if r.Gen < gen || r.Release.Counter < counter || r.MoveSeq < seq || r.Floors["gateway-v2"] < counter {
		return fmt.Errorf("promised %s, there is %+v", lines[len(lines)-1], r)
	}
	return nil
}

// TestExt4 cuts the power under whole updates on ext4, at random requests to the disk, and between them, one after the other on the
// same disk. A slot that is not synced must show, or the test sees nothing.
func TestExt4(t *testing.T) {
	if m := powercut.Missing(); m != "" {
		t.Skip(m)
	}
	t.Parallel()
	many := 12
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		many = 250
	}
	if s := os.Getenv("HOMEWARD_CUTS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err, "HOMEWARD_CUTS")
		many = n
	}
	seed, _ := strconv.ParseUint(os.Getenv("HOMEWARD_SEED"), 10, 64)
	for _, how := range []string{"sync", "nosync"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			d, err := powercut.New(t.TempDir())
			require.NoError(t, err)
			defer func() { require.NoError(t, d.Close()) }()
			rnd := rand.New(rand.NewPCG(seed, 9))
			n, broken, acked := many, 0, 0
			if how == "nosync" {
				n = max(4, many/5)
			}
			for i := range n {
				dir := filepath.Join(d.Path(), "a", "ota")
				if how == "nosync" { // each on its own: a broken one is not to be mended
					dir = filepath.Join(d.Path(), strconv.Itoa(i), "ota")
				}
				s := &Store{FS: durable.OS{}, Dir: dir}
				require.NoError(t, os.MkdirAll(filepath.Dir(dir), 0o700))
				require.NoError(t, durable.SyncDir(d.Path()))
				cut := powercut.Cut{Keep: powercut.Keep(i % 3), Seed: rnd.Uint64(), After: 1 + rnd.IntN(150)}
				if how == "nosync" {
					cut.After = 0
				}
				lines := under(t, d, dir+" "+how, cut)
				acked += len(lines)
				err := look(s, lines)
				if how == "sync" {
					require.NoError(t, err, "cut %d, %+v, %d acknowledged", i, cut, len(lines))
				} else if err != nil {
					broken++
				}
			}
			t.Logf("cuts: %d, updates of the record acknowledged: %d, broken: %d", n, acked, broken)
			if how == "nosync" {
				require.Positive(t, broken, "the rig must see a slot that was not synced")
			} else {
				require.Greater(t, acked, n)
			}
		})
	}
}

// under runs the worker until the cut and brings the disk up again; After 0: with its first line.
func under(t *testing.T, d *powercut.Disk, what string, cut powercut.Cut) (lines []string) {
	t.Helper()
	dark := d.Dark()
	if cut.After > 0 {
		require.NoError(t, d.Arm(cut))
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), workerEnv+"="+what)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { // ends with the worker
		defer close(ended)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines = append(lines, s.Text())
			if cut.After == 0 && len(lines) == 1 {
				_ = d.Cut(cut) // seen below
			}
		}
	}()
	select {
	case <-dark:
	case <-ended:
		select {
		case <-dark:
		case <-time.After(10 * time.Second):
			t.Fatalf("the worker ended before the cut: %s", &stderr)
		}
	case <-time.After(time.Minute):
		t.Fatal("no cut after a minute")
	}
	_ = cmd.Process.Kill() // it may be gone already
	<-ended
	_ = cmd.Wait() // killed
	require.NoError(t, d.Unmount())
	require.NoError(t, d.Mount())
	return lines
}
