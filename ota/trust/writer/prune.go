package writer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"

	"homeward/buffer/durable"
)

// Old is how long what the published set has left behind stays: longer than any client, or any cache on its way, may still ask for it.
const Old = 14 * day

var (
	versioned = regexp.MustCompile(`^[0-9]+\.(.+)\.json$`)
	hashed    = regexp.MustCompile(`^[0-9a-f]{64}\.`)
)

// Prune removes metadata and target files that the published set does not name, once they have been there for [Old]. Roots stay for ever:
// a gateway that was off for years follows them one by one.
func (r *Repository) Prune(p *Published) (removed int, err error) {
	used := map[string]bool{}
	for _, d := range p.roles {
		used[d.file()] = true
		for path, t := range d.targets.Signed.Targets {
			used[targetName(path, t)] = true
		}
	}
	if p.snapshot != nil {
		used[p.snapshot.file()] = true
	}
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		entries, err := r.FS.ReadDir(filepath.Join(r.Dir, dir))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if e.IsDir() {
				if depth < 3 && name != "blobs" {
					if err := walk(name, depth+1); err != nil {
						return err
					}
				}
				continue
			}
			ours := hashed.MatchString(e.Name()) && depth > 0
			if m := versioned.FindStringSubmatch(e.Name()); m != nil && depth == 0 {
				ours = m[1] != Root
			}
			ours = ours || filepath.Ext(e.Name()) == durable.TempSuffix
			info, err := e.Info()
			if err != nil {
				return err
			}
			age := r.Now().Sub(info.ModTime())
			if !ours || used[name] || age < Old {
				continue
			}
			if err := r.FS.Remove(filepath.Join(r.Dir, name)); err != nil {
				return err
			}
			removed++
		}
		return nil
	}
	if err := walk("", 0); err != nil {
		return removed, fmt.Errorf("writer: prune: %w", err)
	}
	return removed, nil
}
