//go:build linux && (amd64 || arm64)

package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"homeward/buffer/durable"
)

// verdict is what was found after a cut.
type verdict int

const (
	kept    verdict = iota // everything acknowledged is there, and whole
	lost                   // something acknowledged is not there
	corrupt                // something is there that was never written
)

func (v verdict) String() string { return [...]string{"kept", "lost", "corrupt"}[v] }

// control is a way of writing that is known to be right, or known to be wrong.
type control struct {
	role  string
	wrong bool
	when  at
	after int // bound of Cut.After; 0: the cut comes with the line
	look  func(dir string, acked int) verdict
}

var controls = map[string]control{
	"bbolt":                      {role: "bbolt", when: at{from: 1}, after: 120, look: lookBolt},
	"bbolt NoSync":               {role: "bbolt-nosync", wrong: true, when: at{lines: 60}, look: lookBolt},
	"log with fdatasync":         {role: "log", when: at{from: 1}, after: 120, look: lookLog},
	"log without fdatasync":      {role: "log-nosync", wrong: true, when: at{lines: 60}, look: lookLog},
	"durable.WriteFile":          {role: "replace", when: at{from: 1}, after: 120, look: lookVersion},
	"rename without folder sync": {role: "replace-nodir", wrong: true, when: at{lines: 3}, look: lookVersion},
}

// TestControls shows that the rig sees each loss that it is there to see, and
// none where there is none.
func TestControls(t *testing.T) {
	for name, c := range controls {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t)
			n := cuts(t, 6, 60)
			var found [3]int
			for i := range n {
				dir := filepath.Join(d.Path(), strconv.Itoa(i))
				require.NoError(t, os.Mkdir(dir, 0o700))
				require.NoError(t, durable.SyncDir(d.Path()))
				seed := uint64(i)
				cut := Cut{Keep: Keep(i % 3), Seed: seed}
				if c.after > 0 {
					cut.After = 1 + rand.New(rand.NewPCG(seed, 3)).IntN(c.after)
				}
				acked := len(cutUnder(t, d, c.role, dir, seed, c.when, cut))
				v := c.look(dir, acked)
				found[v]++
				if !c.wrong {
					require.Equal(t, kept, v, "cut %d, %d acknowledged: %+v", i, acked, cut)
				}
			}
			t.Logf("%d cuts: %d kept, %d lost, %d corrupt", n, found[kept], found[lost], found[corrupt])
			if c.wrong {
				require.GreaterOrEqual(t, found[lost]+found[corrupt], (n+1)/2, "the rig must see most of the losses")
			}
		})
	}
}

func init() {
	roles["bbolt"] = func(dir string, seed uint64) error { return writeBolt(dir, seed, false) }
	roles["bbolt-nosync"] = func(dir string, seed uint64) error { return writeBolt(dir, seed, true) }
	roles["bbolt-look"] = func(dir string, acked uint64) error {
		_, err := fmt.Println(int(checkBolt(dir, int(acked))))
		return err
	}
	roles["log"] = func(dir string, seed uint64) error { return writeLog(dir, true) }
	roles["log-nosync"] = func(dir string, seed uint64) error { return writeLog(dir, false) }
	roles["replace"] = func(dir string, _ uint64) error {
		return writeVersions(func(data []byte) error {
			return durable.WriteFile(filepath.Join(dir, "state"), data, 0o600)
		}, 1<<30)
	}
	roles["replace-nodir"] = func(dir string, _ uint64) error {
		return writeVersions(func(data []byte) error { return replace(dir, data) }, 3)
	}
}

// content is what record i holds: 1 to 600 bytes that nothing else holds.
func content(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 4))
	p := make([]byte, 1+rng.IntN(600))
	for j := range p {
		p[j] = byte(rng.Uint32())
	}
	return p
}

func ack(i int) { fmt.Println("ok", i) }

func key(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

func writeBolt(dir string, seed uint64, noSync bool) error {
	db, err := bolt.Open(filepath.Join(dir, "db"), 0o600, &bolt.Options{NoSync: noSync})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return b.Put(key(i), content(i))
		})
		if err != nil {
			return err
		}
		ack(i)
	}
}

// lookBolt looks in a process of its own: on a damaged file bbolt may panic with
// the file open and mapped, and then the disk could not be unmounted.
func lookBolt(dir string, acked int) verdict {
	out, err := ask("bbolt-look", dir, uint64(acked), nil)
	var v verdict
	if _, serr := fmt.Sscan(string(out), &v); err != nil || serr != nil {
		return corrupt
	}
	return v
}

func checkBolt(dir string, acked int) (v verdict) {
	defer func() { // bbolt panics on a damaged file
		if recover() != nil {
			v = corrupt
		}
	}()
	path := filepath.Join(dir, "db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return lost
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return corrupt
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		for range tx.Check() {
			v = corrupt
		}
		b := tx.Bucket([]byte("b"))
		if b == nil {
			v = max(v, lost)
			return nil
		}
		for i := range acked {
			if b.Get(key(i)) == nil {
				v = max(v, lost)
			}
		}
		return b.ForEach(func(k, val []byte) error {
			if !bytes.Equal(val, content(int(binary.BigEndian.Uint32(k)))) {
				v = corrupt
			}
			return nil
		})
	})
	if err != nil {
		return corrupt
	}
	return v
}

// writeLog appends records: length, CRC-32, content.
func writeLog(dir string, sync bool) error {
	f, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		p := content(i)
		rec := binary.BigEndian.AppendUint32(nil, uint32(len(p)))
		rec = binary.BigEndian.AppendUint32(rec, crc32.ChecksumIEEE(p))
		if _, err := f.Write(append(rec, p...)); err != nil {
			return err
		}
		if sync {
			if err := f.Sync(); err != nil {
				return err
			}
		}
		ack(i)
	}
}

func lookLog(dir string, acked int) verdict {
	p, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		return lost
	}
	for i := 0; ; i++ {
		whole := len(p) >= 8 && len(p)-8 >= int(binary.BigEndian.Uint32(p))
		if whole {
			rec := p[8 : 8+binary.BigEndian.Uint32(p)]
			if whole = crc32.ChecksumIEEE(rec) == binary.BigEndian.Uint32(p[4:]); whole && !bytes.Equal(rec, content(i)) {
				return corrupt
			}
			p = p[8+len(rec):]
		}
		if !whole {
			if i < acked {
				return lost
			}
			return kept
		}
	}
}

// writeVersions replaces the file n times and then waits for the end.
func writeVersions(put func([]byte) error, n int) error {
	for i := range n {
		if err := put(append(key(i), bytes.Repeat(content(i), 20)...)); err != nil {
			return err
		}
		ack(i)
	}
	select {}
}

// replace forgets to sync the folder.
func replace(dir string, data []byte) error {
	tmp := filepath.Join(dir, "state.new")
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "state"))
}

func lookVersion(dir string, acked int) verdict {
	p, err := os.ReadFile(filepath.Join(dir, "state"))
	if errors.Is(err, os.ErrNotExist) {
		return lost
	}
	if err != nil || len(p) < 4 {
		return corrupt
	}
	i := int(binary.BigEndian.Uint32(p))
	switch {
	case !bytes.Equal(p[4:], bytes.Repeat(content(i), 20)):
		return corrupt
	case i < acked-1:
		return lost
	case i > acked: // more than the one that was being written
		return corrupt
	}
	return kept
}
