package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"homeward/buffer/durable"
)

// cache keeps the verified metadata:
//
//	gen-N/ROLE.json   as it was signed; the role's name escaped as in a URL
//	gen-N/SUM         the SHA-256 of each, as sha256sum prints it, and last that of the lines before
//	files/HASH        target files, by the hash of their path
//
// A generation is written beside, under another name, and never changed afterwards; the highest with a good SUM wins. What
// does not fit its SUM is as if it were not there.
type cache struct {
	fs  durable.FS
	dir string
}

// generation is a set of files by role; n is 0 for none.
type generation struct {
	n     uint64
	files map[string][]byte
	torn  bool // files are not what lies in the folder: something did not fit its SUM, or the root comes from elsewhere
}

const (
	genPrefix = "gen-"
	unborn    = "new" // a generation that is being written
	sumName   = "SUM"
	maxSum    = 64 << 10
	maxFiles  = 48 // target files
)

func fileOf(role string) string { return url.PathEscape(role) + ".json" }

// load is all good generations, the newest first.
func (c cache) load() ([]generation, error) {
	numbers, err := c.numbers()
	if err != nil {
		return nil, err
	}
	var gens []generation
	for _, n := range numbers {
		if g, err := c.read(n); err == nil {
			gens = append(gens, g)
		}
	}
	return gens, nil
}

// numbers is those of the generations that are there, good or not, the highest first.
func (c cache) numbers() ([]uint64, error) {
	entries, err := c.fs.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		if s, ok := strings.CutPrefix(e.Name(), genPrefix); ok {
			if n, err := strconv.ParseUint(s, 10, 62); err == nil && n > 0 {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers, nil
}

func (c cache) path(n uint64) string {
	return filepath.Join(c.dir, genPrefix+strconv.FormatUint(n, 10))
}

func (c cache) read(n uint64) (generation, error) {
	dir := c.path(n)
	raw, err := durable.Read(c.fs, filepath.Join(dir, sumName), maxSum)
	if err != nil {
		return generation{}, err
	}
	sums, err := parseSum(raw)
	if err != nil {
		return generation{}, fmt.Errorf("%s: %w", dir, err)
	}
	g := generation{n: n, files: map[string][]byte{}}
	for name, sum := range sums {
		role, err := url.PathUnescape(strings.TrimSuffix(name, ".json"))
		if err != nil || fileOf(role) != name {
			return generation{}, fmt.Errorf("%s: %s names %q", dir, sumName, name)
		}
		data, err := durable.Read(c.fs, filepath.Join(dir, name), maxOf(role))
		if err != nil || sha256.Sum256(data) != sum {
			g.torn = true
			continue
		}
		g.files[role] = data
	}
	return g, nil
}

func makeSum(files map[string][]byte) []byte {
	var b bytes.Buffer
	for _, role := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(files[role]), fileOf(role))
	}
	fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(b.Bytes()), sumName)
	return b.Bytes()
}

func parseSum(raw []byte) (map[string][sha256.Size]byte, error) {
	body, found := bytes.CutSuffix(raw, []byte("  "+sumName+"\n"))
	at := len(body) - 2*sha256.Size
	if !found || at < 0 || string(body[at:]) != fmt.Sprintf("%x", sha256.Sum256(body[:at])) {
		return nil, errors.New(sumName + " is torn")
	}
	sums := map[string][sha256.Size]byte{}
	for line := range strings.Lines(string(body[:at])) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		b, err := hex.DecodeString(sum)
		if !ok || err != nil || len(b) != sha256.Size || strings.ContainsAny(name, "/\\") {
			return nil, fmt.Errorf("%s has the line %q", sumName, line)
		}
		sums[name] = [sha256.Size]byte(b)
	}
	return sums, nil
}

// commit writes files as the next generation after old. What old has already is linked, not written again.
func (c cache) commit(old generation, files map[string][]byte) (generation, error) {
	numbers, err := c.numbers()
	if err != nil {
		return old, err
	}
	next := old.n + 1
	if len(numbers) > 0 {
		next = max(next, numbers[0]+1)
	}
	dir := filepath.Join(c.dir, unborn)
	if err := c.fs.RemoveAll(dir); err != nil {
		return old, err
	}
	if err := c.fs.MkdirAll(dir, 0o700); err != nil {
		return old, err
	}
	for _, role := range slices.Sorted(maps.Keys(files)) {
		name := fileOf(role)
		if old.n > 0 && !old.torn && bytes.Equal(old.files[role], files[role]) &&
			c.fs.Link(filepath.Join(c.path(old.n), name), filepath.Join(dir, name)) == nil {
			continue
		}
		if err := c.write(filepath.Join(dir, name), files[role]); err != nil {
			return old, err
		}
	}
	if err := c.write(filepath.Join(dir, sumName), makeSum(files)); err != nil {
		return old, err
	}
	if err := c.fs.SyncDir(dir); err != nil {
		return old, err
	}
	if err := c.fs.Rename(dir, c.path(next)); err != nil {
		return old, err
	}
	if err := c.fs.SyncDir(c.dir); err != nil {
		return old, err
	}
	for _, n := range numbers {
		if n != old.n { // the last one stays, for a card that loses what it said was written
			_ = c.fs.RemoveAll(c.path(n)) // tried again at the next
		}
	}
	return generation{n: next, files: maps.Clone(files)}, nil
}

func (c cache) write(path string, data []byte) error {
	f, err := c.fs.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// file is where a target file is kept.
func (c cache) file(path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(c.dir, "files", hex.EncodeToString(sum[:16]))
}

// keep writes a target file durably, and forgets others if there are too many.
func (c cache) keep(path string, data []byte, used map[string]bool) error {
	dir := filepath.Join(c.dir, "files")
	if err := makeDir(c.fs, dir); err != nil {
		return err
	}
	name := c.file(path)
	err := durable.Replace(c.fs, name, data, 0o600)
	if err != nil { // something else may be in its place
		_ = c.fs.RemoveAll(name) // the next error is the one to tell
		err = durable.Replace(c.fs, name, data, 0o600)
	}
	if err != nil {
		return err
	}
	entries, err := c.fs.ReadDir(dir)
	if err != nil || len(entries) <= maxFiles {
		return err
	}
	for _, e := range entries {
		if name := filepath.Join(dir, e.Name()); !used[name] {
			_ = c.fs.Remove(name) // tried again at the next
		}
	}
	return nil
}

// makeDir makes a folder and those above it, and their names durable.
func makeDir(fs durable.FS, dir string) error {
	if info, err := fs.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	above := filepath.Dir(dir)
	if above != dir {
		if err := makeDir(fs, above); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return fs.SyncDir(above)
}
