// Package home knows who this gateway is: its own key, made on it and never leaving it.
//
// It promises one key per state folder: whoever asks first makes it, and everybody who asks at the same time
// gets the same one, also across processes; once [Key] has returned, the key outlives a power cut. A file that is there
// and is no key is an error, never replaced: what was signed with it could no longer be told from a forgery.
package home

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"homeward/buffer/durable"
)

// KeyPath is where the gateway of a state folder keeps its key: PKCS#8 (RFC 5208, RFC 8410) in PEM, mode 0600.
func KeyPath(state string) string { return filepath.Join(state, "keys", "ed25519") }

// maxKey bounds the file; a key takes 119 bytes.
const maxKey = 4096

const block = "PRIVATE KEY"

// Key is the key of the gateway whose state folder this is, made if there is none. The state folder must be there.
func Key(state string) (ed25519.PrivateKey, error) {
	path := KeyPath(state)
	key, err := read(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := create(state, path, newKey); err != nil {
		return nil, fmt.Errorf("home: the gateway's key could not be made: %w", err)
	}
	return read(path)
}

// newKey is the text of a fresh key file.
func newKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der}), nil
}

// Public is the public half, as receipts and enrolment show it: 64 hex digits.
func Public(key ed25519.PrivateKey) string {
	if len(key) != ed25519.PrivateKeySize {
		return ""
	}
	return hex.EncodeToString(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}

// badKey says what is wrong with a key file, and what to do.
func badKey(path, why string) error {
	return fmt.Errorf("home: key %s: %s: restore it from a copy; or move it away, and the gateway makes another, which whoever knows the old one must be told", path, why)
}

// readText reads a key file that nobody else may read.
func readText(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("home: key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("home: key: %w", err)
	}
	switch {
	case !info.Mode().IsRegular() || info.Size() > maxKey:
		return nil, badKey(path, "it is no key file")
	case info.Mode().Perm()&0o077 != 0:
		return nil, badKey(path, fmt.Sprintf("others may use it (mode %04o, want 0600)", info.Mode().Perm()))
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, fmt.Errorf("home: key: %w", err)
	}
	return text, nil
}

func read(path string) (ed25519.PrivateKey, error) {
	text, err := readText(path)
	if err != nil {
		return nil, err
	}
	b, rest := pem.Decode(text)
	if b == nil || b.Type != block || len(rest) != 0 {
		return nil, badKey(path, "want one PEM block "+block)
	}
	any, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	key, ok := any.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, badKey(path, "want an Ed25519 key in PKCS#8")
	}
	return key, nil
}

// create writes beside, syncs, and gives the file its name only if there is none yet: of several at once, one wins.
func create(state, path string, fresh func() ([]byte, error)) (err error) {
	owner, err := os.Stat(state)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	switch err := os.Mkdir(dir, 0o700); {
	case errors.Is(err, fs.ErrExist):
	case err != nil:
		return err
	default:
		give(dir, owner)
	}
	text, err := fresh()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*"+durable.TempSuffix) // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(text)
	give(f.Name(), owner)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), path)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) { // a file system without links
		err = unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(durable.SyncDir(dir), durable.SyncDir(state))
}

// give lets the gateway's user have what root made in its state folder. Where this is not root, it is the
// user's already.
func give(path string, owner fs.FileInfo) {
	if s, ok := owner.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		_ = os.Lchown(path, int(s.Uid), int(s.Gid))
	}
}
