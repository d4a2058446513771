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

// KernelClock is the machine's own clock.
func KernelClock() (Clock, error) {
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

// simClock is the simulated site's clock: the machine's, shifted, and trusted when the
// site says so. Until the site was first heard nothing is trusted.
type simClock struct {
	boot  [16]byte
	state atomic.Pointer[simState]
}

type simState struct {
	trusted bool
	offset  time.Duration
}

// SimClock follows ask (see drivers/sim) each second until ctx ends.
func SimClock(ctx context.Context, ask func(context.Context) (trusted bool, offset time.Duration, err error)) (Clock, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	c := &simClock{boot: boot}
	c.state.Store(&simState{})
	follow := func() {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if trusted, offset, err := ask(ctx); err == nil {
			c.state.Store(&simState{trusted, offset})
		}
	}
	follow()
	go func() { // ends with ctx, which outlives every user of the clock
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				follow()
			}
		}
	}()
	return c, nil
}

func (c *simClock) Stamp() drivers.Stamp {
	s := c.state.Load()
	return drivers.Stamp{Boot: c.boot, Mono: mono(), Wall: time.Now().Add(s.offset).UnixMilli(), Trusted: s.trusted}
}

func (c *simClock) Source() (string, *float64) {
	s := c.state.Load()
	ms := float64(s.offset) / float64(time.Millisecond)
	return "simulator", &ms
}
