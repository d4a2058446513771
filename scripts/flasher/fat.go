package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// checkFAT looks at what the library takes on trust: sizes it would allocate, and chains of
// clusters that never end (FAT specification 1.03, "Boot Sector and BPB", "FAT Data Structure").
func checkFAT(o *overlay, p Partition) error {
	bpb := make([]byte, sector)
	if _, err := o.ReadAt(bpb, p.Start); err != nil {
		return err
	}
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(bpb[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(bpb[at:])) }
	if bpb[510] != 0x55 || bpb[511] != 0xaa {
		return errors.New("no FAT file system")
	}
	per, cluster, reserved, fats, roots := u16(11), int64(bpb[13]), u16(14), int64(bpb[16]), u16(17)
	total, size, width := u16(19), u16(22), int64(2)
	if total == 0 {
		total = u32(32)
	}
	if size == 0 {
		size, width = u32(36), 4
	}
	const most = 64 << 20 // a table of 16 million clusters
	start := reserved + fats*size + (roots*32+sector-1)/sector
	switch {
	case per != sector:
		return fmt.Errorf("FAT: sectors of %d bytes: want 512", per)
	case cluster == 0 || cluster&(cluster-1) != 0:
		return fmt.Errorf("FAT: clusters of %d sectors: want a power of two", cluster)
	case reserved == 0 || fats < 1 || fats > 2 || size == 0 || size*sector > most:
		return fmt.Errorf("FAT: %d tables of %d sectors: damaged", fats, size)
	case total*sector > p.Size || start >= total:
		return fmt.Errorf("FAT: %d sectors with data from %d, in a partition of %d: damaged", total, start, p.Size/sector)
	}
	clusters := (total - start) / cluster
	if width == 2 && clusters >= 65525 || width == 4 && clusters >= 0x0ffffff5 || (clusters+2)*width > size*sector {
		return fmt.Errorf("FAT: %d clusters in a table of %d sectors: damaged", clusters, size)
	}
	if width == 4 && (u32(44) < 2 || u32(44) >= clusters+2) {
		return fmt.Errorf("FAT: root folder at cluster %d of %d: damaged", u32(44), clusters)
	}
	table := make([]byte, (clusters+2)*width)
	if _, err := o.ReadAt(table, p.Start+reserved*sector); err != nil {
		return err
	}
	next := func(c int64) int64 {
		if width == 2 {
			return int64(binary.LittleEndian.Uint16(table[c*2:]))
		}
		return int64(binary.LittleEndian.Uint32(table[c*4:]) & 0x0fffffff)
	}
	// Each chain is followed until it ends or meets what an earlier one has shown to end.
	const now, ends = 1, 2
	seen := make([]byte, clusters+2)
	for first := int64(2); first < clusters+2; first++ {
		c := first
		for ; c >= 2 && c < clusters+2 && seen[c] == 0; c = next(c) {
			seen[c] = now
		}
		if c >= 2 && c < clusters+2 && seen[c] == now {
			return fmt.Errorf("FAT: the chain of cluster %d never ends: damaged", first)
		}
		for c = first; c >= 2 && c < clusters+2 && seen[c] == now; c = next(c) {
			seen[c] = ends
		}
	}
	return nil
}
