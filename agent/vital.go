package agent

import (
	"sync"
	"time"
)

// slack is what a goroutine may be late beyond what it promised before it counts as stuck.
const slack = 2 * time.Minute

// vital knows which parts of the agent make progress; the service manager's watchdog is
// fed only while all do.
type vital struct {
	mu    sync.Mutex
	beats map[*beat]struct{}
}

type beat struct {
	of   *vital
	name string
	by   time.Time // under of.mu
}

func newVital() *vital { return &vital{beats: map[*beat]struct{}{}} }

func (v *vital) add(name string) *beat {
	b := &beat{of: v, name: name}
	b.promise(0)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.beats[b] = struct{}{}
	return b
}

// promise says that the goroutine will be heard of again within d.
func (b *beat) promise(d time.Duration) {
	by := time.Now().Add(d + slack)
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.by = by
}

func (b *beat) end() {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	delete(b.of.beats, b)
}

// stuck names a part that did not keep its promise; "" when all did.
func (v *vital) stuck() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for b := range v.beats {
		if time.Now().After(b.by) {
			return b.name
		}
	}
	return ""
}
