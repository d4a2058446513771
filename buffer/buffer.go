// Package buffer: the helper who owns it writes the package comment (promises and losses).
package buffer

import (
	"errors"
	"iter"
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
}

// WhenFull says what gives way at a bound.
type WhenFull string

// The policies; their texts are the configuration's.
const (
	DropOldest   WhenFull = "drop-oldest"
	StopSampling WhenFull = "stop-sampling"
)

// Options: the zero value of each field means what its comment says.
type Options struct {
	MaxBytes     int64         // bound on everything below the folder; 0: 512 MB
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
	Cost    int // data operations of one try
}

// Stats is what status shows.
type Stats struct {
	Pending       uint64        // readings without an outcome, in flight included
	InFlight      uint64        // of those, in an attempt
	OldestMono    time.Duration // of the oldest pending reading if it is of this boot
	OldestTime    int64         // Unix ms of the oldest pending reading; 0 none
	Bytes         int64         // below the folder
	MaxBytes      int64
	Free          int64  // of the file system
	Dropped       uint64 // readings ever given up, all reasons but Unsampled
	Delivered     uint64 // readings ever delivered
	Gaps          uint64 // gap records ever made
	Flushes       uint64 // since start
	Seals         uint64 // since start
	DiskFull      bool
	Stopped       bool // stop-sampling in force
	LastError     string
	Lanes         []LaneStats
	DamagedFiles  []string // set aside, names within the folder
	RecoveredFrom []string // one line per thing repaired at this start
}

// LaneStats is Stats for one epoch.
type LaneStats struct {
	Epoch       Epoch
	First, Next Seq // oldest pending, and the next number to be given
	Pending     uint64
	Gaps        int // not yet reported
	Segments    int
}

// The methods, with their contracts. This interface is only a checklist for whoever implements *Buffer and *Lane; it is removed once they exist.
type bufferAPI interface {
	// Lane opens the epoch's lane, making it if there is none.
	Lane(Epoch) (laneAPI, error)
	Lanes() []Epoch
	// Anchor tells that at mono of this boot it was wall (Unix ms); readings of the boot that were stamped untrusted are resolved with it from now on. Durable with the next flush.
	Anchor(boot [16]byte, mono time.Duration, wall int64) error
	// Flush makes everything written so far durable and returns when it is.
	Flush() error
	// SealNow seals (used before Close and by tests).
	SealNow() error
	Stats() Stats
	// SetBounds changes MaxBytes, KeepFree, Flush and WhenFull of a running buffer (SIGHUP).
	SetBounds(Options)
	// PutSide stores a small opaque record under key (durable with the next flush, latest wins); nil deletes. For the ledger and the agent's own small facts.
	PutSide(key string, value []byte) error
	Side(key string) []byte
	Verify() []string // every problem found, reading all files; nil when sound
	Close() error     // flush, seal, close; within a second or two
}

type laneAPI interface {
	// Append writes the poll to the tail log (a kill after it loses nothing) and returns the number of its first reading.
	Append(Poll) (Seq, error)
	// NoteGap records a gap that is not an outcome of stored readings (Unsampled), or gives up a stored range for the reason.
	NoteGap(Gap) error
	// Open iterates over polls without outcome and not in an attempt, from the given number on, in order. Safe beside Append; sees polls appended before the call.
	Open(from Seq) iter.Seq2[Stored, error]
	// OpenGaps lists gaps not yet reported and not in an attempt.
	OpenGaps() []Gap
	// Fix makes an attempt: boundary and bytes are durable when the next flush is (Buffer.Flush, or the periodic one; Durable below tells). Range must be open.
	Fix(a Attempt) (*Attempt, error)
	// Durable is closed once everything written before the call is on disk.
	Durable() <-chan struct{}
	// Attempts lists the attempts whose fate is unknown, oldest first: after a start they are to be tried again first.
	Attempts() []*Attempt
	// Retried counts one more try of an attempt (side record).
	Retried(id uint64) error
	// Ack: delivered. Release: not delivered for certain; its readings are open again. GiveUp: a gap with the reason.
	Ack(id uint64) error
	Release(id uint64) error
	GiveUp(id uint64, r Reason) error
	// AckRanges: delivered, on a receiver's word (publish.acknowledge: receiver); only ranges inside attempts count.
	AckRanges([]Range) error
	// All iterates over everything stored, outcome or not, for export.
	All() iter.Seq2[Stored, error]
	// Next is the number that the next reading will get.
	Next() Seq
	// Appended returns a channel that is closed at the next Append.
	Appended() <-chan struct{}
}
