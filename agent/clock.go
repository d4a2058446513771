package agent

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"homeward/drivers"
)

// Clock says when a reading is taken, and whether that can be believed.
type Clock interface {
	Stamp() drivers.Stamp
	// Source names who vouches for the time; offset is its estimate of the error in ms, if it gives one.
	Source() (name string, offsetMS *float64)
}

// kernelClock trusts the wall clock while the kernel calls it synchronised, whichever
// NTP client did it (adjtimex(2): STA_UNSYNC clear).
type kernelClock struct{ boot [16]byte }

// KernelClock is the machine's own clock. Where the kernel may not be asked (the service's system call filter forbids
// adjtimex(2), which could also set the clock), systemd-timedated is, which asks it: every ten seconds until the
// clock is synchronised and every ten minutes then, until ctx ends. The kernel itself calls a clock unsynchronised only
// hours after its last correction.
func KernelClock(ctx context.Context) (Clock, error) {
	if _, err := unix.Adjtimex(new(unix.Timex)); err != nil {
		return follow(ctx, "systemd-timedated", func(trusted bool) time.Duration {
			if trusted {
				return 10 * time.Minute
			}
			return 10 * time.Second
		}, func(ctx context.Context) (bool, time.Duration, error) {
			trusted, err := ntpSynchronized(ctx, systemBus())
			return trusted, 0, err
		})
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	return &kernelClock{boot: boot}, nil
}

func bootID() (id [16]byte, err error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return id, fmt.Errorf("agent: boot id: %w", err)
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("agent: boot id: %s holds %q, not a UUID", path, text)
	}
	copy(id[:], raw)
	return id, nil
}

func mono() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail for a clock every Linux ≥ 2.6.39 has
	return time.Duration(ts.Nano())
}

func (c *kernelClock) Stamp() drivers.Stamp {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return drivers.Stamp{
		Boot: c.boot, Mono: mono(), Wall: time.Now().UnixMilli(),
		Trusted: err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0,
	}
}

func (c *kernelClock) Source() (string, *float64) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil || t.Status&unix.STA_UNSYNC != 0 {
		return "kernel", nil
	}
	ms := float64(t.Offset) / 1e3 // µs
	if t.Status&unix.STA_NANO != 0 {
		ms /= 1e3
	}
	return "kernel", &ms
}

// followedClock is the machine's, shifted; whether it is trusted another process says, who is asked now and then.
// Until the first answer nothing is trusted.
type followedClock struct {
	boot  [16]byte
	name  string
	state atomic.Pointer[followed]
}

type followed struct {
	trusted bool
	offset  time.Duration
	err     error // why nothing was ever heard
}

// follow asks at once and then each time that every(trusted) has passed, until ctx ends. A question without an answer
// changes nothing.
func follow(ctx context.Context, name string, every func(trusted bool) time.Duration,
	ask func(context.Context) (trusted bool, offset time.Duration, err error)) (*followedClock, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	c := &followedClock{boot: boot, name: name}
	heard := false
	once := func() {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		trusted, offset, err := ask(ctx)
		if err == nil {
			heard = true
		}
		if err == nil || !heard {
			c.state.Store(&followed{trusted, offset, err})
		}
	}
	once()
	go func() { // ends with ctx, which outlives every user of the clock
		for {
			wait := time.NewTimer(every(c.state.Load().trusted))
			select {
			case <-ctx.Done():
				wait.Stop()
				return
			case <-wait.C:
				once()
			}
		}
	}()
	return c, nil
}

const simulator = "simulator"

// SimClock is the simulated site's clock: ask (see drivers/sim) says each second, until ctx ends, whether it is trusted.
func SimClock(ctx context.Context, ask func(context.Context) (trusted bool, offset time.Duration, err error)) (Clock, error) {
	return follow(ctx, simulator, func(bool) time.Duration { return time.Second }, ask)
}

func (c *followedClock) Stamp() drivers.Stamp {
	s := c.state.Load()
	return drivers.Stamp{Boot: c.boot, Mono: mono(), Wall: time.Now().Add(s.offset).UnixMilli(), Trusted: s.trusted}
}

func (c *followedClock) Source() (string, *float64) {
	s := c.state.Load()
	if s.err != nil {
		return fmt.Sprintf("%s, which did not answer: %v", c.name, s.err), nil
	}
	if c.name != simulator {
		return c.name, nil // it says no offset
	}
	ms := float64(s.offset) / float64(time.Millisecond)
	return c.name, &ms
}
