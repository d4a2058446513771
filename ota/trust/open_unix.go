//go:build unix

package trust

import "syscall"

// nonblock keeps the open of a pipe without a writer from waiting.
const nonblock = syscall.O_NONBLOCK
