package durable

import (
	"os"
	"syscall"
)

// Free is what an unprivileged user may still take. inodes is -1 where the
// file system does not count them (btrfs, vfat).
func (OS) Free(dir string) (bytes, inodes int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	inodes = -1
	if st.Files > 0 {
		inodes = int64(st.Ffree)
	}
	return int64(st.Bavail) * int64(st.Bsize), inodes, nil
}
