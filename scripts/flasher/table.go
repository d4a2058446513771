package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Partition of an image; start and size in bytes.
type Partition struct {
	N           int
	Start, Size int64
	Kind        byte // MBR type; 0 from a GPT
}

const sector = 512

var errNoTable = errors.New("not a disk image: no partition table (MBR or GPT) at its start")

// readTable reads the MBR (UEFI 2.10 §5.2.1) or GPT (§5.3) at the start of an image. end is
// the first byte behind the last partition, and behind the backup table of a GPT.
func readTable(head []byte) (parts []Partition, end int64, err error) {
	if len(head) < 2*sector || head[510] != 0x55 || head[511] != 0xaa {
		return nil, 0, errNoTable
	}
	for i := range 4 {
		e := head[446+16*i:][:16]
		kind := e[4]
		start := int64(binary.LittleEndian.Uint32(e[8:])) * sector
		size := int64(binary.LittleEndian.Uint32(e[12:])) * sector
		if kind == 0 || size == 0 {
			continue
		}
		if e[0] != 0 && e[0] != 0x80 {
			return nil, 0, fmt.Errorf("%w: partition %d has flag %#02x, want 0x00 or 0x80", errNoTable, i+1, e[0])
		}
		if kind == 0xee {
			return readGPT(head)
		}
		if start == 0 {
			return nil, 0, fmt.Errorf("%w: partition %d starts at 0", errNoTable, i+1)
		}
		for _, p := range parts {
			if start < p.Start+p.Size && p.Start < start+size {
				return nil, 0, fmt.Errorf("%w: partitions %d and %d overlap", errNoTable, p.N, i+1)
			}
		}
		parts = append(parts, Partition{N: i + 1, Start: start, Size: size, Kind: kind})
		end = max(end, start+size)
	}
	if len(parts) == 0 {
		return nil, 0, fmt.Errorf("%w: the table is empty", errNoTable)
	}
	return parts, end, nil
}

func readGPT(head []byte) (parts []Partition, end int64, err error) {
	bad := func(what string) ([]Partition, int64, error) {
		return nil, 0, fmt.Errorf("%w: GPT: %s", errNoTable, what)
	}
	h := head[sector:][:sector]
	if !bytes.Equal(h[:8], []byte("EFI PART")) {
		return bad("signature missing")
	}
	size := binary.LittleEndian.Uint32(h[12:])
	if size < 92 || size > sector {
		return bad(fmt.Sprintf("header of %d bytes, want 92 to 512", size))
	}
	own := bytes.Clone(h[:size])
	copy(own[16:20], []byte{0, 0, 0, 0})
	if crc32.ChecksumIEEE(own) != binary.LittleEndian.Uint32(h[16:]) {
		return bad("header checksum wrong")
	}
	backup := binary.LittleEndian.Uint64(h[32:])
	at, n, each := binary.LittleEndian.Uint64(h[72:]), binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:])
	if n == 0 || n > 1024 || each < 128 || each > 1024 || at < 2 || at*sector+uint64(n*each) > uint64(len(head)) {
		return bad(fmt.Sprintf("%d entries of %d bytes at sector %d", n, each, at))
	}
	table := head[at*sector:][:n*each]
	if crc32.ChecksumIEEE(table) != binary.LittleEndian.Uint32(h[88:]) {
		return bad("checksum of the entries wrong")
	}
	const most = 1 << 50 / sector
	if backup >= most {
		return bad("backup beyond a petabyte")
	}
	end = int64(backup+1) * sector
	for i := range int(n) {
		e := table[i*int(each):][:each]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if first == 0 || last < first || last >= most {
			return bad(fmt.Sprintf("partition %d from sector %d to %d", i+1, first, last))
		}
		p := Partition{N: i + 1, Start: int64(first) * sector, Size: int64(last-first+1) * sector}
		parts = append(parts, p)
		end = max(end, p.Start+p.Size)
	}
	if len(parts) == 0 {
		return bad("the table is empty")
	}
	return parts, end, nil
}
