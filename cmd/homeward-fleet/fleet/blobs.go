package fleet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"homeward/buffer/durable"
	"homeward/ota/delta"
	"homeward/ota/release"
	"homeward/ota/trust/writer"
)

// Base is a program that patches are made from.
type Base struct {
	Name    string // "1.9.0 (140)", or a file's
	Content []byte
}

// Sum is the SHA-256 of a content, in hex.
func Sum(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Bases are the programs of the last n releases before a counter that the product has for a platform, newest first.
func (f *Folder) Bases(r *release.Rollouts, platform string, n int) ([]Base, error) {
	var all []Base
	for _, l := range slices.Backward(r.On(platform).Releases) {
		if len(all) == n {
			break
		}
		if l.State == release.Removed {
			continue
		}
		m, err := f.Manifest(r.Product, platform, l.Counter)
		if err != nil {
			return nil, err
		}
		content, err := f.Program(m)
		if err != nil {
			return nil, fmt.Errorf("release %s (%d): %w", l.Version, l.Counter, err)
		}
		all = append(all, Base{fmt.Sprintf("%s (%d)", l.Version, l.Counter), content})
	}
	return all, nil
}

// Program is the agent of a release, out of its whole blob.
func (f *Folder) Program(m *release.Manifest) ([]byte, error) {
	p := m.Agent()
	for _, e := range p.Encodings {
		if e.Enc != release.EncZstd {
			continue
		}
		blob, err := durable.Read(f.FS, f.path(repoName, release.BlobPath(e.SHA256)), e.Size)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		if err := delta.Decompress(&b, bytes.NewReader(blob), p.Size); err != nil {
			return nil, err
		}
		if got := Sum(b.Bytes()); got != p.SHA256 {
			return nil, fmt.Errorf("blob %s is damaged: it gives %s, not %s: restore it from a copy of the repository", e.SHA256, got, p.SHA256)
		}
		return b.Bytes(), nil
	}
	return nil, errors.New("it has no whole program")
}

// Part makes the agent's part of a release: its whole blob and a patch from each base, each of which has been applied again. The
// patches that are no smaller than the whole are left out. step is called before each, and once more at the end with what was made.
// Nothing is written when write is false.
func (f *Folder) Part(content []byte, bases []Base, write bool, step func(doing string, done *release.Encoding)) (release.Part, error) {
	p := release.Part{Name: release.AgentPart, Backend: release.SlotBackend, SHA256: Sum(content), Size: int64(len(content))}
	keep := func(e release.Encoding, blob []byte) error {
		e.SHA256, e.Size = Sum(blob), int64(len(blob))
		p.Encodings = append(p.Encodings, e)
		if write {
			if err := f.saveBlob(e.SHA256, blob); err != nil {
				return err
			}
		}
		step("", &e)
		return nil
	}
	step("whole", nil)
	var b bytes.Buffer
	if err := delta.Compress(&b, bytes.NewReader(content)); err != nil {
		return p, err
	}
	whole := b.Bytes()
	var back bytes.Buffer
	if err := delta.Decompress(&back, bytes.NewReader(whole), p.Size); err != nil || !bytes.Equal(back.Bytes(), content) {
		return p, fmt.Errorf("the compressed program does not give the program again (%v): nothing is changed", err)
	}
	if err := keep(release.Encoding{Enc: release.EncZstd, WindowLog: delta.WindowLog}, whole); err != nil {
		return p, err
	}
	seen := map[string]bool{p.SHA256: true}
	for _, base := range bases {
		sum := Sum(base.Content)
		if seen[sum] {
			continue
		}
		seen[sum] = true
		step("from "+base.Name, nil)
		patch, err := delta.Diff(base.Content, content)
		if err != nil {
			return p, fmt.Errorf("patch from %s: %w", base.Name, err)
		}
		back.Reset()
		err = delta.Patch(&back, bytes.NewReader(base.Content), int64(len(base.Content)), bytes.NewReader(patch), int64(len(patch)), p.Size)
		if err != nil || !bytes.Equal(back.Bytes(), content) {
			return p, fmt.Errorf("the patch from %s does not give the program again (%v): nothing is changed", base.Name, err)
		}
		if len(patch) >= len(whole) {
			step("", nil)
			continue
		}
		if err := keep(release.Encoding{Enc: release.EncBsdiff, Base: sum}, patch); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (f *Folder) saveBlob(sum string, blob []byte) error {
	name := f.path(repoName, release.BlobPath(sum))
	if info, err := f.FS.Stat(name); err == nil && info.Size() == int64(len(blob)) {
		return nil
	}
	if err := writer.MakeFolder(f.FS, f.path(repoName, "blobs")); err != nil {
		return err
	}
	return durable.Replace(f.FS, name, blob, 0o644)
}

// Unused are the blobs that neither the source nor what is published needs, with their bytes in all.
func (f *Folder) Unused(p *writer.Published) (sums []string, size int64, err error) {
	used := map[string]bool{}
	use := func(files map[string][]byte) error {
		for path, raw := range files {
			if strings.HasPrefix(path, "orders/") || strings.HasSuffix(path, "/rollouts.json") {
				continue
			}
			m, err := release.ParseManifest(raw)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, part := range m.Parts {
				for _, e := range part.Encodings {
					used[e.SHA256] = true
				}
			}
		}
		return nil
	}
	source := map[string][]byte{}
	for _, product := range f.Products() {
		files, err := f.listed(product)
		if err != nil {
			return nil, 0, err
		}
		maps.Copy(source, files)
	}
	dev, err := f.files("dev")
	if err != nil {
		return nil, 0, err
	}
	maps.Copy(source, dev)
	published := map[string][]byte{}
	for _, path := range p.Files() {
		if published[path], err = f.Repo.File(p, path); err != nil {
			return nil, 0, err
		}
	}
	if err := errors.Join(use(source), use(published)); err != nil {
		return nil, 0, err
	}
	entries, err := f.FS.ReadDir(f.path(repoName, "blobs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	for _, e := range entries {
		sum := strings.TrimSuffix(e.Name(), durable.TempSuffix)
		if release.IsHash(sum) && (!used[sum] || sum != e.Name()) {
			info, err := e.Info()
			if err != nil {
				return nil, 0, err
			}
			sums, size = append(sums, e.Name()), size+info.Size()
		}
	}
	return sums, size, nil
}

// DropBlobs removes blobs.
func (f *Folder) DropBlobs(names []string) error {
	for _, name := range names {
		if err := f.FS.Remove(f.path(repoName, "blobs", name)); err != nil {
			return err
		}
	}
	return nil
}
