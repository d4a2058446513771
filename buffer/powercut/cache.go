//go:build linux && (amd64 || arm64)

package powercut

import (
	"math/rand/v2"
	"syscall"
)

// Sector is the unit in which a cut tears what was not flushed, in bytes.
const Sector = 512

// Keep says how much of the write cache survives a cut.
type Keep int

// What survives.
const (
	KeepNone   Keep = iota // nothing that was not flushed
	KeepPrefix             // the oldest sectors up to a random one
	KeepSubset             // each sector or not, at random
)

func (k Keep) String() string { return [...]string{"none", "prefix", "subset"}[k] }

// A Cut is one loss of power.
type Cut struct {
	After int    // it comes with this write or flush from now; 0: at once
	Keep  Keep   // of the write cache
	Seed  uint64 // of what is random in it
}

// Counts is what arrived at the disk since it was made.
type Counts struct {
	Writes, Bytes, Flushes uint64
}

// Sub gives what arrived since an earlier count.
func (c Counts) Sub(old Counts) Counts {
	return Counts{c.Writes - old.Writes, c.Bytes - old.Bytes, c.Flushes - old.Flushes}
}

// write is one request that the disk has answered and not made durable.
type write struct {
	off  int64
	data []byte
}

// cache is a disk with a volatile write cache. It is not safe for concurrent use.
type cache struct {
	now     []byte // what a read sees
	stable  []byte // what survives for certain
	pending []write
	n       Counts

	gen   int // grows with each cut: whoever opened the disk before gets EIO
	off   bool
	armed Cut // After counts down; 0: none
	onCut func()
}

func newCache(size int64, onCut func()) *cache {
	return &cache{now: make([]byte, size), stable: make([]byte, size), onCut: onCut}
}

// open turns the disk on and gives what its user has to show with each request.
func (c *cache) open() (gen int) {
	c.off = false
	return c.gen
}

func (c *cache) read(gen int, p []byte, off int64) (int, syscall.Errno) {
	switch {
	case gen != c.gen:
		return 0, syscall.EIO
	case off < 0 || off >= int64(len(c.now)):
		return 0, 0
	}
	return copy(p, c.now[off:]), 0
}

func (c *cache) write(gen int, p []byte, off int64) syscall.Errno {
	switch {
	case gen != c.gen:
		return syscall.EIO
	case off < 0 || off > int64(len(c.now))-int64(len(p)):
		return syscall.ENOSPC
	}
	c.n.Writes++
	c.n.Bytes += uint64(len(p))
	copy(c.now[off:], p)
	c.pending = append(c.pending, write{off, append([]byte(nil), p...)})
	if c.strikes() { // in flight: it may survive, in whole or in part
		c.lose(c.armed)
		return syscall.EIO
	}
	return 0
}

func (c *cache) flush(gen int) syscall.Errno {
	if gen != c.gen {
		return syscall.EIO
	}
	c.n.Flushes++
	if c.strikes() {
		if rand.New(rand.NewPCG(c.armed.Seed, 1)).IntN(2) == 0 { // done, and nobody was told
			c.settle()
		}
		c.lose(c.armed)
		return syscall.EIO
	}
	c.settle()
	return 0
}

func (c *cache) settle() {
	for _, w := range c.pending {
		copy(c.stable[w.off:], c.now[w.off:w.off+int64(len(w.data))])
	}
	c.pending = nil
}

func (c *cache) strikes() bool {
	if c.armed.After == 0 {
		return false
	}
	c.armed.After--
	return c.armed.After == 0
}

// lose drops the power, unless it is off.
func (c *cache) lose(cut Cut) {
	if c.off {
		return
	}
	rng := rand.New(rand.NewPCG(cut.Seed, 2))
	sectors := 0
	for _, w := range c.pending {
		sectors += (len(w.data) + Sector - 1) / Sector
	}
	limit := 0
	if cut.Keep == KeepPrefix {
		limit = rng.IntN(sectors + 1)
	}
	i := 0
	for _, w := range c.pending {
		for at := 0; at < len(w.data); at += Sector {
			kept := i < limit
			if cut.Keep == KeepSubset {
				kept = rng.IntN(2) == 0
			}
			if kept {
				copy(c.stable[w.off+int64(at):], w.data[at:min(at+Sector, len(w.data))])
			}
			i++
		}
	}
	for _, w := range c.pending {
		copy(c.now[w.off:], c.stable[w.off:w.off+int64(len(w.data))])
	}
	c.pending, c.armed = nil, Cut{}
	c.gen++
	c.off = true
	c.onCut()
}
