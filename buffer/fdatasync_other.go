//go:build !linux

package buffer

import "syscall"

func fdatasync(fd int) error { return syscall.Fsync(fd) }
