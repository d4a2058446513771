package buffer

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decoder reads what the append functions wrote. After the first thing that
// does not fit bad is set and everything reads as zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) string() string { return string(d.bytes(d.uvarint())) }

// count reads a number of things of at least size bytes each: more than the
// bytes left can hold is damage, so that nothing large is allocated for it.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) seq() Seq {
	v := Seq(d.uvarint())
	if v > maxSeq {
		d.fail()
		return 0
	}
	return v
}

func (d *decoder) epoch() Epoch {
	v := d.uvarint()
	if v > 1<<32-1 {
		d.fail()
	}
	return Epoch(v)
}

func (d *decoder) boot() (id [16]byte) {
	copy(id[:], d.bytes(16))
	return id
}

// done says that everything was read and fitted.
func (d *decoder) done() bool { return !d.bad && len(d.b) == 0 }

func crcUpdate(c uint32, b []byte) uint32 { return crc32.Update(c, castagnoli, b) }
