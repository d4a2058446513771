package ota

import (
	"golang.org/x/sys/unix"

	"homeward/buffer/durable"
)

// dropCache has what is read next come from the disk. Best effort: a file system without it reads from memory.
func dropCache(f durable.File) {
	if fd, ok := f.(interface{ Fd() uintptr }); ok {
		_ = unix.Fadvise(int(fd.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
}
