package ota

import (
	"path/filepath"

	"homeward/buffer/durable"
)

// ReadHistory reads the history in <state>/ota beside an agent that does not run.
func ReadHistory(dir string) []Entry {
	return readHistory(durable.OS{}, filepath.Join(dir, "outbox", "history.jsonl"))
}
