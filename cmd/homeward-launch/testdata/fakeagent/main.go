// Command fakeagent stands for the agent and its updater in tests of the launcher: it behaves as the file behave/<slot> below the
// state folder says (ok, exit N, panic, segv, hang, hang-at-start, never-ready, slow N, memory, late N), arms what the file assign says
// ("slot counter"), commits its own trial, and writes what happens to the file log ("ms-since-boot slot what"). What must never
// happen it writes to the file violations.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"homeward/buffer/durable"
	"homeward/ota/boot"
)

var state, slot = os.Getenv("HOMEWARD_STATE"), os.Getenv("HOMEWARD_SLOT")

func line(file, format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(state, file), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return
	}
	fmt.Fprintf(f, format+"\n", args...)
	f.Close()
}

func note(what string) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	line("log", "%d %.12s %s", ts.Nano()/1e6, slot, what)
}

func notify(text string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	fmt.Fprint(c, text)
	c.Close()
}

func read(name string) string {
	text, _ := os.ReadFile(filepath.Join(state, name))
	return strings.TrimSpace(string(text))
}

func own() string {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	h := sha256.New()
	io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil))
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "version" {
		fmt.Println("fake agent")
		return
	}
	notify("WATCHDOG=1") // as the agent: from its start
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	if slot == "" || state == "" {
		fmt.Fprintln(os.Stderr, "fakeagent: wants HOMEWARD_SLOT and HOMEWARD_STATE")
		os.Exit(1)
	}
	id := boot.BootID()
	mine := slot
	if slot == "factory" {
		mine = ""
	} else if got := own(); got != slot {
		line("violations", "slot %s runs a program with hash %s", slot, got)
	}
	s := &boot.Store{FS: durable.OS{}, Dir: filepath.Join(state, "ota")}
	r, how, err := s.Load()
	trial := mine != "" && r.Trial != nil && r.Trial.Slot == mine && r.Active != mine
	switch {
	case err != nil || how.Problem != nil:
		line("violations", "record: %v, %v", how.Problem, err)
	case trial && (r.Trial.BootID != id || r.Trial.TriesLeft >= boot.Tries):
		line("violations", "an uncounted trial: %+v", *r.Trial)
	case !trial && mine != r.Active && os.Getenv("FAKE_ANY") == "":
		line("violations", "%s runs, which is neither active (%s) nor on trial", slot, r.Active)
	}
	note("start " + strings.Join(os.Args[1:], " "))

	behave, arg, _ := strings.Cut(read("behave/"+slot), " ")
	n, _ := strconv.Atoi(arg)
	switch behave {
	case "exit":
		os.Exit(n)
	case "panic":
		panic("as asked")
	case "segv":
		signal.Reset(unix.SIGSEGV)
		unix.Kill(os.Getpid(), unix.SIGSEGV)
		time.Sleep(time.Second)
		unix.Kill(os.Getpid(), unix.SIGKILL)
	case "hang-at-start":
		select {}
	case "never-ready":
		for {
			notify("WATCHDOG=1")
			time.Sleep(20 * time.Millisecond)
		}
	case "slow":
		for range n / 20 {
			notify("WATCHDOG=1")
			time.Sleep(20 * time.Millisecond)
		}
	case "memory":
		var all [][]byte
		for len(all) < 1000 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			all = append(all, b)
		}
	}
	notify("READY=1")
	note("ready")
	if behave == "hang" {
		select {}
	}
	beat := time.Minute
	if usec, err := strconv.Atoi(os.Getenv("WATCHDOG_USEC")); err == nil {
		beat = time.Duration(usec) * time.Microsecond / 3
	}
	commitAfter := 300 * time.Millisecond
	if ms, err := strconv.Atoi(read("commit_ms")); err == nil {
		commitAfter = time.Duration(ms) * time.Millisecond
	}
	began, fed := time.Now(), time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	for {
		select {
		case <-term:
			notify("STOPPING=1")
			if err := s.Stopped(mine, id, time.Since(began)); err != nil {
				note("error " + err.Error())
			}
			note("stopped")
			os.Exit(0)
		case <-tick.C:
		}
		if time.Since(fed) > beat {
			notify("WATCHDOG=1")
			fed = time.Now()
		}
		if behave == "late" && time.Since(began) > time.Duration(n)*time.Millisecond {
			os.Exit(1)
		}
		if trial && time.Since(began) > commitAfter {
			if _, err := s.Update(func(r *boot.Record) error {
				if r.Trial != nil && r.Trial.Slot == mine {
					boot.Commit(r, r.Trial.Release.Counter)
				}
				return nil
			}); err != nil {
				note("error " + err.Error())
				continue
			}
			trial = false
			note("committed")
		}
		if want, counter, ok := strings.Cut(read("assign"), " "); ok && !trial && want != mine {
			c, _ := strconv.ParseUint(counter, 10, 64)
			release := boot.Release{Product: "p", Version: counter, Counter: c, SHA256: fmt.Sprintf("%064x", c)}
			r, _, err := s.Load()
			if _, bad := r.Quarantined(release.SHA256); bad || err != nil || c <= r.Release.Counter {
				continue
			}
			if last := r.LastResult; last != nil && last.Release == release && last.Code == boot.CodeConfig { // to be tried again, but not soon
				continue
			}
			if s.Verify(want) != nil {
				continue
			}
			if _, err := s.Update(func(r *boot.Record) error { return boot.Arm(r, boot.Trial{Slot: want, Release: release}) }); err != nil {
				if read("refused") != counter {
					note("refused " + err.Error())
					os.WriteFile(filepath.Join(state, "refused"), []byte(counter), 0o666)
				}
				continue
			}
			if err := s.Stopped(mine, id, 0); err != nil {
				note("error " + err.Error())
			}
			note("again")
			os.Exit(boot.ExitAgain)
		}
	}
}
