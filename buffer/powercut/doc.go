// Package powercut is a disk that loses its power when a test says so, and says
// what was written to it.
//
// The disk is one file of a FUSE file system with a volatile write cache, in a
// process of its own; above it are a loop device and ext4 (mkfs defaults,
// noatime). What was written since the last flush is in the cache. A cut
// freezes the disk between two requests and drops the cache: all of it, all but
// a prefix, or a random subset of its 512-byte sectors. From then on every
// request of the old mount fails, so a dying mount writes nothing; [Disk.Mount]
// brings the disk up again, and ext4 replays its journal.
//
// What it promises: a flush that was answered is never undone; a seed and the
// same requests give the same survivors; nothing (mount, loop device, process)
// outlives the process that made it, not even one that was killed.
//
// What it does not model: a card that lies about flushes, or that damages
// sectors which were not being written.
//
// It needs Linux on amd64 or arm64 (go-fuse does not build on 32-bit ARM), root,
// /dev/fuse and loop devices; [Missing] tells.
package powercut
