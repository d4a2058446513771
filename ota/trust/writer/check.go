package writer

import (
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"homeward/buffer/durable"
)

// overlay gives a client the repository as it would be.
type overlay struct {
	r     *Repository
	files map[string][]byte
}

const overlayURL = "https://repository.invalid/"

func (o overlay) DownloadFile(path string, maxLength int64, _ time.Duration) ([]byte, error) {
	name, err := url.PathUnescape(strings.TrimPrefix(path, overlayURL))
	if err != nil {
		return nil, err
	}
	raw, ok := o.files[name]
	if !ok {
		if raw, err = durable.Read(o.r.FS, filepath.Join(o.r.Dir, name), maxLength); err != nil {
			return nil, &metadata.ErrDownloadHTTP{StatusCode: 404, URL: name}
		}
	}
	if int64(len(raw)) > maxLength {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s has %d bytes, more than %d", name, len(raw), maxLength)}
	}
	return raw, nil
}

// overlay is the repository as it would be.
func (c *Change) overlay() (overlay, error) {
	files, root, timestamp, err := c.newFiles()
	if err != nil {
		return overlay{}, err
	}
	maps.Copy(files, c.files)
	if root != nil {
		files[fileName(Root, c.next.root().version())] = root
	}
	if timestamp != nil {
		files[Timestamp+".json"] = timestamp
	}
	return overlay{c.r, files}, nil
}

// check follows the result from the first root to every file of the plan, with a client of its own.
func (c *Change) check(now time.Time) error {
	o, err := c.overlay()
	if err != nil {
		return err
	}
	first, err := c.next.roots[0].bytes()
	if err != nil {
		return err
	}
	if c.from.root() != nil {
		if first, err = durable.Read(c.r.FS, filepath.Join(c.r.Dir, fileName(Root, 1)), maxMetadata); err != nil {
			return err
		}
	}
	// The roots' files are read as they lie there, so that a chain with a hole is found.
	cfg, err := config.New(overlayURL, first)
	if err != nil {
		return err
	}
	cfg.DisableLocalCache, cfg.LocalMetadataDir, cfg.LocalTargetsDir = true, "", ""
	cfg.Fetcher = o
	cfg.MaxRootRotations = int64(len(c.next.roots)) + 1
	cfg.RootMaxLength, cfg.TimestampMaxLength, cfg.SnapshotMaxLength, cfg.TargetsMaxLength = maxMetadata, maxMetadata, maxMetadata, maxMetadata
	u, err := updater.New(cfg)
	if err != nil {
		return err
	}
	u.UnsafeSetRefTime(now)
	if err := u.Refresh(); err != nil {
		return err
	}
	trusted := u.GetTrustedMetadataSet()
	if got, want := trusted.Timestamp.Signed.Version, c.next.timestamp.version(); got != want {
		return fmt.Errorf("it sees timestamp %d, not %d", got, want)
	}
	for _, path := range c.next.files(now) {
		info, err := u.GetTargetInfo(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if _, err := o.DownloadFile(overlayURL+targetName(path, info), maxTarget, 0); err != nil {
			return fmt.Errorf("%s: its file is not there: %w", path, err)
		}
	}
	return c.forward()
}

// forward refuses a set that a client of the published one would take for a step back.
func (c *Change) forward() error {
	if c.from == nil || c.from.snapshot == nil {
		return nil
	}
	for name, old := range c.from.roles {
		if now := c.next.roles[name]; now == nil || now.version() < old.version() {
			return fmt.Errorf("%s would go back from version %d", name, old.version())
		}
	}
	if c.next.timestamp.version() < c.from.timestamp.version() || c.next.snapshot.version() < c.from.snapshot.version() {
		return fmt.Errorf("the timestamp or the snapshot would go back")
	}
	if !slices.Equal(c.next.roots[:len(c.from.roots)], c.from.roots) {
		return fmt.Errorf("a root that is published would change")
	}
	return nil
}
