// Package delta makes programs small for slow links, and whole again on a gateway: patches from one version to the next
// ([Diff], [Patch]: BSDIFF40, as Debian's bsdiff and bspatch write and read it), and whole contents ([Compress],
// [Decompress]: one zstd frame). [CheckBinary] says beforehand whether a program is fit for it.
//
// It promises that what a gateway applies is bounded however hostile the bytes are: no more output than the signed size, no read
// outside the old content, memory that does not grow with the content (a patch for 15 MB: 16 MB at most, the whole process
// counted; see docs/benchmarks.md), no panic. It does not promise that the result is right: a patch on another base gives other
// bytes. Whoever calls compares the result's SHA-256 with the signed one. Making a patch takes some 25 times the old content in memory.
//
// Errors about what was read carry a stable code ([Error.Code]): delta.malformed, delta.size; of a program binary.format,
// binary.platform, binary.dynamic, binary.dwarf. Errors of reading and writing are passed on as they are.
package delta

import "fmt"

// MaxSize bounds the old content, the new one and the patch, in bytes.
const MaxSize = 256 << 20

// Error is a refusal with a stable code.
type Error struct{ code, text string }

func (e *Error) Error() string { return "delta: " + e.text }

// Code is the stable code, such as delta.malformed.
func (e *Error) Code() string { return e.code }

func malformed(format string, args ...any) error {
	return &Error{"delta.malformed", fmt.Sprintf(format, args...)}
}

func wrongSize(format string, args ...any) error {
	return &Error{"delta.size", fmt.Sprintf(format, args...)}
}
