package hostbus

import (
	"fmt"
	"os"
	"syscall"
)

// Holder is a process that has a device open.
type Holder struct {
	PID  int    `json:"pid"`
	Name string `json:"name"` // as the kernel has it (/proc/PID/comm)
}

func (h Holder) String() string { return fmt.Sprintf("process %d (%s)", h.PID, h.Name) }

// Holders lists the processes that have the device file at path open, each once, this one left out, as far as /proc
// shows them to this user. Who keeps the other end of a pseudo-terminal is no holder. Nothing is opened.
func Holders(path string) ([]Holder, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("hostbus: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&os.ModeCharDevice == 0 {
		return nil, fmt.Errorf("hostbus: %s: not a device", path)
	}
	dev, seen := deviceOf(stat), map[int]bool{os.Getpid(): true}
	var list []Holder
	for h := range holders(dev, "[0-9]*") {
		if seen[h.pid] || dev.isPty() && hasPtmx(h.pid) {
			continue
		}
		seen[h.pid] = true
		list = append(list, Holder{h.pid, h.comm})
	}
	return list, nil
}
