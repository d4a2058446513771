// Package trust says what the fleet has signed, and fetches it.
//
// A fleet repository is a folder of signed static files (TUF, https://theupdateframework.io), made by ota/trust/writer. A [Repository]
// is one gateway's view of one such folder; a [Source] is where the folder lies: a web server, a local folder, a USB stick.
// No source is trusted: what counts is signed by keys that lead back to the root given to [Open].
//
// Who may say what. The owner's keys (root, targets: offline, a threshold) delegate releases/PRODUCT/… to the role releases-PRODUCT,
// dev/GATEWAY/… of pinned gateways to dev-PRODUCT, orders/… to orders, which spreads them over bins; moves/… only targets itself
// may sign. These limits are checked here too, whatever the delegations say, and a role that two roles delegate to is refused.
//
// Promises. The root only ever gets newer: a verified newer root is kept although a later step failed, and the factory's is never
// used again once there is one. A set of metadata is committed whole: after a power cut it is the old one or the new one. A
// cache file that is torn, empty or missing costs a download and nothing else: the versions below which no role may fall are
// kept outside of the cache ([Floors]). They are bound to the role's keys, so that the owner can recover from a fast-forward by
// changing the keys. Nothing that arrives is used before its length and hash are those that were signed.
//
// May be lost: what was downloaded since the last journal entry (a MiB or half a minute), and the cache.
//
// Time. Metadata expires, and a gateway without a clock may be wrong: time never runs below the build's and that of the newest
// trusted timestamp; while the clock is not synchronized, expiry is "waiting for time" (tuf.time), asked again at each refresh.
package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"homeward/buffer/durable"
	"homeward/ota/boot"
)

// Codes of [Error]: stable, shown to the operator.
const (
	CodeRollback    = "tuf.rollback"    // an older version than was seen before
	CodeExpired     = "tuf.expired"     // the signature's time is over; the clock is synchronized
	CodeTime        = "tuf.time"        // the same, but the clock is not synchronized: waiting for time
	CodeSignature   = "tuf.signature"   // not enough valid signatures of the role's keys
	CodeDiamond     = "tuf.diamond"     // two roles delegate to one
	CodeDelegation  = "tuf.delegation"  // a role's name or path is not one that may be delegated
	CodeRoot        = "tuf.root"        // a root that does not follow from the trusted one, or with too low a threshold
	CodeMalformed   = "tuf.malformed"   // not metadata, too large, or not what was signed for that place
	CodeHash        = "tuf.hash"        // not the bytes that were signed
	CodeMissing     = "tuf.missing"     // signed metadata names a file that the source does not have
	CodeUnreachable = "tuf.unreachable" // the source does not answer, or something else answers in its place
	CodeStore       = "tuf.store"       // the gateway's own disk
	CodeNoTarget    = "tuf.no_target"   // nobody signed this path

	CodeFetchBudget      = "fetch.budget"      // the byte budget is spent; goes on later
	CodeFetchSlow        = "fetch.slow"        // below the minimum rate; goes on later
	CodeFetchRange       = "fetch.range"       // the server answers with another range than asked for
	CodeFetchHash        = "fetch.hash"        // not the bytes that were signed
	CodeFetchSize        = "fetch.size"        // longer or shorter than signed
	CodeFetchMissing     = "fetch.missing"     // the source does not have it
	CodeFetchUnreachable = "fetch.unreachable" // the source does not answer, or the link was cut; goes on later
	CodeFetchSpace       = "fetch.space"       // no room on the disk
	CodeFetchStore       = "fetch.store"       // the disk fails
)

// Error is a refusal or a failure with its code.
type Error struct {
	code string
	what string
	err  error
}

func fail(code string, err error, format string, args ...any) *Error {
	return &Error{code: code, what: fmt.Sprintf(format, args...), err: err}
}

// Error tells what, and why.
func (e *Error) Error() string {
	if e.err == nil {
		return "trust: " + e.what
	}
	return "trust: " + e.what + ": " + e.err.Error()
}

// Code is the stable code: tuf.… or fetch.….
func (e *Error) Code() string { return e.code }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.err }

// What a source says of a file.
var (
	ErrNotFound    = errors.New("not found")
	ErrNotModified = errors.New("not modified")
	ErrNoTarget    = errors.New("no such target") // nobody who may has signed this path
)

// Source gives the files below the repository's folder.
type Source interface {
	// Get opens a file. It returns [ErrNotFound] if the repository itself says that there is none, [ErrNotModified] if IfNoneMatch
	// is the file's ETag, any other error if the repository cannot be asked. The reads end with ctx.
	Get(ctx context.Context, q Request) (*Body, error)
}

// Request is what is wanted of a file.
type Request struct {
	Name        string // relative, with slashes, without . and .. ; every segment of a-z A-Z 0-9 . _ - and % escapes
	Offset      int64  // from here on; a source may answer from 0
	IfRange     string // ETag of what is there already; with another, the source answers from 0
	IfNoneMatch string
	Max         int64 // a body of a larger file is refused, at once where its size is known; 0: no bound
}

// Body is an open file from Offset on. Size is of the whole file, -1 if unknown.
type Body struct {
	io.ReadCloser
	Offset, Size int64
	ETag         string
}

// Floors keeps the lowest acceptable version of each role outside of the cache, durably (the boot record).
type Floors interface {
	RoleFloors() map[string]boot.RoleFloor
	SetRoleFloors(map[string]boot.RoleFloor) error
}

// Options of a repository.
type Options struct {
	FS      durable.FS       // nil: the operating system's
	Dir     string           // the cache, made if missing; one repository each
	Root    []byte           // the factory's root.json, where trust begins
	Source  Source           // nil: only what is cached
	Targets Source           // where target files are, if not with the metadata; nil: there
	Now     func() time.Time // the clock, never below the stored tick; nil: time.Now
	Built   time.Time        // when this program was built: time never runs below; zero: unknown
	Synced  func() bool      // whether the clock is synchronized; nil: never
	Floors  Floors           // nil: none are kept (only what the cache remembers)
	Log     *slog.Logger     // nil: silent

	// PlainTUF leaves out what goes beyond TUF: thresholds, names of roles, who may sign what, one delegator per role. It is there
	// for TUF's conformance suite and for nothing else.
	PlainTUF bool

	MinRate int64 // bytes per second below which a transfer is given up; 0: 50
}

// State is what is trusted now.
type State struct {
	Refreshed time.Time // the last refresh that came to its end; zero: none since start
	Issued    time.Time // when the trusted timestamp says that it was signed; zero: it does not say
	Roles     []RoleState
}

// RoleState is one trusted role.
type RoleState struct {
	Name      string
	Version   int64
	Expires   time.Time
	Threshold int
	Keys      []string // the ids of its keys, sorted
}
