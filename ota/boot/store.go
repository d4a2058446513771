package boot

import (
	"errors"
	"sync"

	"homeward/buffer/durable"
)

// Store is the record of one gateway, and the slots beside it.
type Store struct {
	FS  durable.FS
	Dir string // <state>/ota

	mu sync.Mutex // one writer in this process; the lock file for all of them
}

// Source is where a record was read.
type Source string

// Sources, from the best to the last resort.
const (
	FromNothing Source = "nothing" // a new gateway: no record and no slot
	FromRecord  Source = "boot.state"
	FromBackup  Source = "boot.state.bak"
	FromSlot    Source = "slot"    // the newest slot whose hash is its name
	FromFactory Source = "factory" // there was a record once, and there is no slot
)

// Recovered says where a record came from, and what was wrong with the better sources.
type Recovered struct {
	Source  Source
	Problem error // nil: nothing was wrong
}

// Load reads the record.
func (s *Store) Load() (Record, Recovered, error) {
	return Record{}, Recovered{}, errors.ErrUnsupported
}

// Update changes the record durably.
func (s *Store) Update(change func(*Record) error) (Record, error) {
	return Record{}, errors.ErrUnsupported
}
