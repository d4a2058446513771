package cli

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// When the start is over, sensors read and home reached; and how often what has been used since is let go.
const settleTime, leanEvery = 30 * time.Second, 2 * time.Minute

// keepLean unmaps what is not used, until stop is called.
func keepLean(log *slog.Logger) (stop func()) {
	over := make(chan struct{})
	var owner sync.WaitGroup
	owner.Go(func() {
		timer := time.NewTimer(settleTime)
		defer timer.Stop()
		for {
			select {
			case <-over:
				return
			case <-timer.C:
				if err := unmapProgram(); err != nil {
					log.Debug("program not unmapped", "error", err)
				}
				timer.Reset(leanEvery)
			}
		}
	})
	return func() {
		close(over)
		owner.Wait()
	}
}

// unmapProgram lets go of the pages of the program's own file. What is still used comes back from the page cache at a
// touch; what only the start needed, 2 to 4 of 11 MB, does not. Pages that can be written are left alone: those are memory, not file.
func unmapProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps") // proc(5): address perms offset dev inode pathname
	if err != nil {
		return err
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var start, end uintptr
		var perms string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &start, &end, &perms); n != 3 || !strings.HasSuffix(lines.Text(), exe) || strings.Contains(perms, "w") || !strings.HasSuffix(perms, "p") {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return nil
}
