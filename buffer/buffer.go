// Package buffer keeps readings in order until each has an outcome.
//
// The parties: samplers append [Poll]s to a [Lane]; a publisher iterates over
// what is open, fixes a run of it as an [Attempt] with the bytes it will send,
// and tells the attempt's fate. A lane holds one epoch's readings, numbered 1,
// 2, 3… without holes and never twice.
//
// What it promises:
//
//   - A reading whose Append returned survives a crash or a kill of the process.
//   - A power cut costs at most what was appended since the last flush, at most
//     Options.Flush before it. What a closed [Lane.Durable] channel covered is
//     there afterwards; so is everything published, if the publisher waits for it.
//   - Each reading gets exactly one outcome: delivered, or a [Gap] with a reason.
//     What a damaged file takes becomes a gap of reason [Damaged].
//   - An attempt keeps boundary and bytes until its fate is known, across crashes.
//   - Append never waits for a flush, a seal or a full disk: where both halves of
//     the log are full it waits a second for room and then fails.
//   - Open succeeds whatever the files hold, as long as the folder and they can be used.
//     A file that cannot be opened is neither set aside nor given up: Open says whose it is.
//   - Where nothing is appended or decided nothing is written.
//
// What it may lose: outcomes told since the last flush (their readings are open
// again, and receivers drop the repeat by its key); and at a bound, as
// [Options.WhenFull] says, the oldest readings or the newest. On a disk that is
// full without a bound being reached Append fails, and nothing stored goes. A medium that
// loses the very last of what it said was on disk looks like a power cut.
//
// docs/buffer.md draws the files and says what happens at each step.
package buffer

import (
	"errors"
	"log/slog"
	"time"

	"homeward/drivers"
)

// Epoch numbers the homes of a gateway; a lane holds one epoch's readings.
type Epoch uint32

// Seq numbers the readings of a lane: 1, 2, 3… without holes.
type Seq uint64

// Reason says why a range of readings was given up.
type Reason string

// The reasons; their texts are part of the wire formats.
const (
	Evicted       Reason = "evicted"
	Purged        Reason = "purged"
	Damaged       Reason = "damaged"
	Undeliverable Reason = "undeliverable"
	Thinned       Reason = "thinned"
	Refused       Reason = "refused"
	Unsampled     Reason = "unsampled"
)

// Range is a run of sequence numbers, both ends included. The zero Range is empty.
type Range struct{ From, To Seq }

// Gap is a range that will not be delivered, or a time in which nothing was sampled (empty Range).
type Gap struct {
	ID             uint64 // of the gap record in its lane, for Batch.Gaps
	Range          Range
	N              uint64 // readings lost; for Unsampled: that were due
	TFrom, TTo     int64  // Unix ms of the first and last, resolved as readings are; 0 unknown
	Reason         Reason
	MaybeDelivered bool // an attempt had been made whose answer never came
}

// Poll is what one Read of one sensor gave: readings of one instant. It is appended,
// and as far as it fits delivered, as a whole.
type Poll struct {
	Stamp    drivers.Stamp
	Readings []drivers.Reading // full channel names; at least one; at most 65535
	Alarm    bool              // leaves at once, as a batch of its own
}

// Stored is a poll (or what is still open of it) as read back.
type Stored struct {
	First    Seq               // of Readings[0]; the others follow without holes
	Time     int64             // Unix ms: as taken, or repaired from the boot's anchor
	Readings []drivers.Reading // Quality StaleClock set where the time is neither trusted nor repaired
	Alarm    bool
	Boot     [16]byte
	Mono     time.Duration
	Wall     int64 // Unix ms, as taken
	Trusted  bool  // the clock was synchronised when it was taken
	Thinned  bool  // an original that aggregates stand for (Lane.Thin): only All gives those
}

// Stamp is the poll's as it was taken: with it an aggregate is repaired as what it is made of.
func (s *Stored) Stamp() drivers.Stamp {
	return drivers.Stamp{Boot: s.Boot, Mono: s.Mono, Wall: s.Wall, Trusted: s.Trusted}
}

// WhenFull says what gives way at a bound.
type WhenFull string

// The policies; their texts are the configuration's.
const (
	DropOldest   WhenFull = "drop-oldest"
	StopSampling WhenFull = "stop-sampling"
)

// What there can be too little of. At all but the first the oldest gives way, with [DropOldest].
const (
	ShortDisk     = "disk"      // the file system (or a quota) takes no more
	ShortMaxBytes = "max_bytes" // within Options.MaxBytes
	ShortKeepFree = "keep_free" // within Options.KeepFree
	ShortInodes   = "inodes"    // of the file system
)

// Options: the zero value of each field means what its comment says.
type Options struct {
	MaxBytes     int64         // bound on all files of the buffer; 0: 512 MB
	KeepFree     int64         // free bytes to leave on the file system; 0: none
	Flush        time.Duration // longest time between a write and its fdatasync; 0: 1 s
	Seal         time.Duration // longest time between seals; 0: 60 s
	WhenFull     WhenFull      // "": DropOldest
	HalfBytes    int           // of the tail log; 0: 1 MB
	SegmentBytes int64         // of a segment file; 0: 16 MB
	FS           FS            // nil: the operating system's
	Clock        Clock         // nil: real; timers for Flush and Seal
	Log          *slog.Logger  // nil: silent
	ReadOnly     bool          // look at a buffer that nobody runs; Append and outcomes fail
}

// Errors that Append and the outcomes return.
var (
	ErrFull   = errors.New("buffer: full, sampling stopped as configured (buffer.when_full: stop-sampling)")
	ErrClosed = errors.New("buffer: closed")
	ErrBusy   = errors.New("buffer: in use by another process")
)

// Attempt is a batch that was or is being tried. Its boundary and bytes do not change until its fate is known.
type Attempt struct {
	ID      uint64
	Range   Range    // may be empty: gaps only
	Gaps    []uint64 // gap records carried
	Payload []byte
	Alarm   bool
	Tries   int
	Cost    int   // data operations of one try
	Told    []Gap // what the payload says of Gaps, as OpenGaps gave them: Fix refuses (ErrOpen) where one has grown since; not kept
}

// Stats is what status shows.
type Stats struct {
	Pending       uint64        `json:"pending"`        // readings without an outcome, in flight included
	InFlight      uint64        `json:"in_flight"`      // of those, in an attempt
	OldestMono    time.Duration `json:"oldest_mono_ns"` // of the oldest pending reading if it is of this boot
	OldestTime    int64         `json:"oldest_time_ms"` // Unix ms of the oldest pending reading; 0 none
	Bytes         int64         `json:"bytes"`          // that its files take
	MaxBytes      int64         `json:"max_bytes"`
	Free          int64         `json:"free"`         // of the file system
	Dropped       uint64        `json:"dropped"`      // readings ever given up, all reasons but Unsampled
	Thinned       uint64        `json:"thinned"`      // of those dropped, given up for aggregates (Lane.Thin)
	ThinnedKept   uint64        `json:"thinned_kept"` // of those thinned, still stored
	Delivered     uint64        `json:"delivered"`    // readings ever delivered
	Gaps          uint64        `json:"gaps"`         // gap records ever made
	Flushes       uint64        `json:"flushes"`      // since start
	Seals         uint64        `json:"seals"`        // since start
	DiskFull      bool          `json:"disk_full"`
	Short         string        `json:"short,omitempty"`       // while DiskFull: what there is too little of, ShortDisk and so on
	EvictedFor    string        `json:"evicted_for,omitempty"` // for what readings were last evicted since start
	Stopped       bool          `json:"stopped"`               // stop-sampling in force
	LastError     string        `json:"last_error"`
	Lanes         []LaneStats   `json:"lanes"`
	DamagedFiles  []string      `json:"damaged"`   // set aside, names within the folder
	RecoveredFrom []string      `json:"recovered"` // one line per thing repaired at this start
}

// LaneStats is Stats for one epoch.
type LaneStats struct {
	Epoch    Epoch  `json:"epoch"`
	First    Seq    `json:"first"` // oldest pending
	Next     Seq    `json:"next"`  // the next number to be given
	Pending  uint64 `json:"pending"`
	Kept     uint64 `json:"thinned_kept"` // originals of aggregates, still stored
	Gaps     int    `json:"gaps"`         // not yet reported
	Segments int    `json:"segments"`
}
