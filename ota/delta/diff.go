package delta

import (
	"bytes"
	"encoding/binary"
)

// The format (Colin Percival, bsdiff 4): "BSDIFF40", then the lengths of the compressed control and difference blocks and of
// the new content, each as [number], then three bzip2 streams: control, difference, extra. Control has triples: add so many bytes
// of the difference to the old content, copy so many bytes of extra, then move so far in the old content.
const (
	magic     = "BSDIFF40"
	headerLen = 32
	tripleLen = 24

	// level is bzip2's: blocks of 300 kB, for which the three decoders take 1.2 MB each; 900 kB would take 3.6 MB each and, of the
	// agent's own releases, pack no better (docs/benchmarks.md).
	level = 3
)

// putNumber writes the format's integers: the absolute value in 63 bits, little endian, and the sign in the highest.
func putNumber(b []byte, v int64) {
	u := uint64(v)
	if v < 0 {
		u = uint64(-v) | 1<<63
	}
	binary.LittleEndian.PutUint64(b, u)
}

func number(b []byte) int64 {
	u := binary.LittleEndian.Uint64(b)
	v := int64(u &^ (1 << 63))
	if u>>63 != 0 {
		return -v
	}
	return v
}

// Diff makes a patch that turns old into new: the same one each time. Both are at most [MaxSize].
func Diff(old, new []byte) ([]byte, error) {
	if len(old) > MaxSize || len(new) > MaxSize {
		return nil, wrongSize("contents of %d and %d bytes: want at most %d each", len(old), len(new), MaxSize)
	}
	d := differ{old: old, new: new, sorted: suffixes(old, 256)}
	d.run()
	return d.patch(level), nil
}

// patch packs what was found.
func (d *differ) patch(level int) []byte {
	blocks := [3][]byte{bzip(d.control, level), bzip(d.difference, level), bzip(d.extra, level)}
	patch := make([]byte, headerLen, headerLen+len(blocks[0])+len(blocks[1])+len(blocks[2]))
	copy(patch, magic)
	putNumber(patch[8:], int64(len(blocks[0])))
	putNumber(patch[16:], int64(len(blocks[1])))
	putNumber(patch[24:], int64(len(d.new)))
	for _, b := range blocks {
		patch = append(patch, b...)
	}
	return patch
}

type differ struct {
	old, new []byte
	sorted   []int32 // old's suffixes

	control, difference, extra []byte
}

// longest finds where old goes on like new from at, for the longest.
func (d *differ) longest(at int) (pos, length int) {
	want := d.new[at:]
	low, high := 0, len(d.sorted) // the place of want among the suffixes
	for low < high {
		mid := int(uint(low+high) >> 1)
		if s := d.old[d.sorted[mid]:]; bytes.Compare(s[:min(len(s), len(want))], want) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	for _, i := range []int{low - 1, low} { // its neighbours have the most in common with it
		if i >= 0 && i < len(d.sorted) {
			if n := common(d.old[d.sorted[i]:], want); n > length {
				pos, length = int(d.sorted[i]), n
			}
		}
	}
	return pos, length
}

// common is how many bytes a and b begin with alike.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if binary.LittleEndian.Uint64(a[i:]) != binary.LittleEndian.Uint64(b[i:]) {
			break
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// better is how many bytes a match at another place must be longer than going on as before, to be worth a triple.
const better = 8

// long is a match of which not many are looked at for nothing, in bytes.
const long = 1024

// run walks through new. As long as old at the present distance does about as well as the best match anywhere, it stays; when
// a match elsewhere is clearly longer, the stretch between the two is given to one, the other, or extra.
func (d *differ) run() {
	type place struct{ new, old int }
	last := place{} // from where on nothing has been written
	var at, pos, length int
	distance := 0 // old's place less new's, of the present stretch
	pending := 0  // moves in old that came with no bytes
	alike := func(i int) bool {
		o := i + distance
		return o < len(d.old) && d.old[o] == d.new[i]
	}
	for at < len(d.new) {
		score := 0 // bytes of [at, counted) that the present distance gets right
		at += length
		slow := 0
		for counted := at; at < len(d.new); at++ {
			pos, length = d.longest(at)
			for ; counted < at+length; counted++ {
				if alike(counted) {
					score++
				}
			}
			if length == score && length != 0 || length > score+better {
				break
			}
			// A long match hardly better than the present distance, at one place after the other (repetitive contents): looking at each to
			// its end would take quadratic time.
			if length >= long {
				if slow++; slow > 64 {
					break
				}
			}
			if alike(at) {
				score--
			}
		}
		if length == score && at < len(d.new) {
			continue // the present distance does it as well
		}
		// Forwards from the last place with its distance, and backwards from the match with its own, each as far as at least half of
		// the bytes are right.
		forward := 0
		for i, right, best := 0, 0, 0; last.new+i < at && last.old+i < len(d.old); {
			if d.old[last.old+i] == d.new[last.new+i] {
				right++
			}
			if i++; right*2-i > best*2-forward {
				best, forward = right, i
			}
		}
		backward := 0
		if at < len(d.new) {
			for i, right, best := 1, 0, 0; at-i >= last.new && pos-i >= 0; i++ {
				if d.old[pos-i] == d.new[at-i] {
					right++
				}
				if right*2-i > best*2-backward {
					best, backward = right, i
				}
			}
		}
		if overlap := last.new + forward - (at - backward); overlap > 0 { // both want it: cut where it serves best
			cut := 0
			for i, gain, best := 0, 0, 0; i < overlap; i++ {
				if n := last.new + forward - overlap + i; d.new[n] == d.old[last.old+forward-overlap+i] {
					gain++
				}
				if n := at - backward + i; d.new[n] == d.old[pos-backward+i] {
					gain--
				}
				if gain > best {
					best, cut = gain, i+1
				}
			}
			forward += cut - overlap
			backward -= cut
		}
		for i := range forward {
			d.difference = append(d.difference, d.new[last.new+i]-d.old[last.old+i])
		}
		copied := d.new[last.new+forward : at-backward]
		d.extra = append(d.extra, copied...)
		move := pos - backward - (last.old + forward)
		if at == len(d.new) { // nothing comes that it would lead to
			move = 0
		}
		if forward == 0 && len(copied) == 0 && len(d.control) > 0 { // nothing but a move: the triple before can make it
			pending += move
		} else {
			d.addMove(pending)
			pending = 0
			var triple [tripleLen]byte
			putNumber(triple[0:], int64(forward))
			putNumber(triple[8:], int64(len(copied)))
			putNumber(triple[16:], int64(move))
			d.control = append(d.control, triple[:]...)
		}
		last = place{at - backward, pos - backward}
		distance = pos - at
	}
	d.addMove(pending)
}

// addMove lengthens the move of the last triple.
func (d *differ) addMove(by int) {
	if by == 0 {
		return
	}
	b := d.control[len(d.control)-8:]
	putNumber(b, number(b)+int64(by))
}
