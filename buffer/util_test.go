package buffer

import "os"

// mkTemp makes a folder in memory where there is one: these tests are about order, not about disks.
func mkTemp() (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", "buffer"); err == nil {
		return dir, nil
	}
	return os.MkdirTemp("", "buffer")
}

func removeAll(dir string) { _ = os.RemoveAll(dir) }
