package buffer

import (
	"encoding/binary"
	"hash/maphash"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// corpus fails where the committed examples are missing.
func corpus(f *testing.F) {
	f.Helper()
	entries, err := os.ReadDir(filepath.Join("testdata", "fuzz", f.Name()))
	if err != nil || len(entries) == 0 {
		f.Fatalf("no corpus: %v", err)
	}
}

// FuzzReplay: any bytes in a half of the log. What is read can be read again, and lies in the half.
func FuzzReplay(f *testing.F) {
	corpus(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		// Give the fuzzer valid checksums to work behind: records whose CRC is 0 get theirs.
		data = append([]byte{}, data...)
		var prev uint32
		for off := 0; off+frameHeader < len(data); {
			n := int(binary.LittleEndian.Uint32(data[off:]))
			if n <= 0 || n > len(data)-off-frameHeader || binary.LittleEndian.Uint32(data[off+4:]) != 0 {
				break
			}
			h := data[off : off+frameHeader+n]
			binary.LittleEndian.PutUint32(h[12:], prev)
			prev = frameCRC(h)
			binary.LittleEndian.PutUint32(h[4:], prev)
			off += len(h)
		}
		b := &Buffer{state: newState(), seed: maphash.MakeSeed(), half: minHalf}
		b.log = Options{}.withDefaults().Log
		var h half
		h.reset(1)
		var holes map[Epoch][]Range
		s := b.replay(&h, data, 1, &holes)
		require.LessOrEqual(t, s.end, len(data))
		for _, l := range b.lanes {
			require.LessOrEqual(t, l.next, maxSeq+1<<20)
			l.open(1, l.next)
		}
		for _, hl := range h.lanes {
			require.Less(t, hl.first, hl.next)
		}
		b.snapshot(1)
	})
}

// FuzzBlock: any body behind a valid header. What decodes encodes to something that decodes the same.
func FuzzBlock(f *testing.F) {
	corpus(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < blockHeader || len(data) > 1<<16 {
			return
		}
		b := append([]byte{}, data...)
		copy(b, blockMagic)
		binary.LittleEndian.PutUint32(b[8:], uint32(len(b)))
		binary.LittleEndian.PutUint32(b[4:], crc(b[8:]))
		blk, err := decodeBlock(b)
		if err != nil {
			return
		}
		n := 0
		for i := range blk.ps {
			n += len(blk.ps[i].values)
		}
		require.Equal(t, blk.n, n)
		var z deflater
		again, err := z.encode(blk.epoch, blk.ps)
		require.NoError(t, err)
		blk2, err := decodeBlock(again)
		require.NoError(t, err)
		for i := range blk.ps {
			samePoll(t, &blk.ps[i], &blk2.ps[i])
		}
	})
}

// FuzzMeta: any value under any key.
func FuzzMeta(f *testing.F) {
	corpus(f)
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		m := newLoaded()
		m.take(key, sealValue(key, value))
		m.take(keyLane+"1", sealValue(keyLane+"1", []byte(`{"next":100,"done":[[1,5]]}`)))
		m.finish()
		for _, l := range m.lanes {
			l.open(1, l.next)
			_ = l.pending()
		}
		m.snapshot(1)
	})
}

// FuzzPages: what checkPages lets through bbolt opens to write without ending the process, and walks.
func FuzzPages(f *testing.F) {
	corpus(f)
	dir, err := mkTemp()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { removeAll(dir) })
	name := filepath.Join(dir, "base.db")
	db, err := bolt.Open(name, 0o600, &bolt.Options{PageSize: pageSize, NoFreelistSync: true})
	require.NoError(f, err)
	require.NoError(f, db.Update(func(tx *bolt.Tx) error {
		bk, err := tx.CreateBucket(bucketBlocks)
		for i := range 300 {
			if err == nil {
				err = bk.Put(key(Seq(i)), make([]byte, 20+i))
			}
		}
		if err == nil {
			_, err = tx.CreateBucket([]byte("inline"))
		}
		return err
	}))
	require.NoError(f, db.Close())
	base, err := os.ReadFile(name)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, patch []byte) { // triples of offset and byte
		data := append([]byte{}, base...)
		for ; len(patch) >= 4 && len(patch) <= 400; patch = patch[4:] {
			data[int(binary.LittleEndian.Uint16(patch))*int(patch[2]%4+1)%len(data)] ^= patch[3]
		}
		name := filepath.Join(t.TempDir(), "x.db")
		require.NoError(t, os.WriteFile(name, data, 0o600))
		file, err := OSFS{}.OpenFile(name, openRO, 0)
		require.NoError(t, err)
		err = checkPages(file)
		require.NoError(t, file.Close())
		if err != nil {
			return
		}
		var db *bolt.DB
		_ = guard(func() error {
			db, err = bolt.Open(name, 0o600, &bolt.Options{PageSize: pageSize, NoFreelistSync: true})
			return err
		})
		if db != nil {
			_ = guard(func() error {
				return db.View(func(tx *bolt.Tx) error {
					return tx.ForEach(func(_ []byte, bk *bolt.Bucket) error {
						return bk.ForEach(func(k, v []byte) error { return nil })
					})
				})
			})
			closeBolt(db)
		}
	})
}
