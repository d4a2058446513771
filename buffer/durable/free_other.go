//go:build !linux

package durable

import "errors"

// Free is known on Linux only.
func (OS) Free(string) (bytes, inodes int64, err error) { return 0, 0, errors.ErrUnsupported }
