package writer

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"homeward/buffer/durable"
)

// KeySuffix ends the name of a key's file.
const KeySuffix = ".key"

// KeyFile is a signing key as it lies in a file of its own:
//
//	# homeward fleet key
//	# role: targets
//	# id: 3f2a…
//	# public: 9c01…
//	-----BEGIN AGE ENCRYPTED FILE-----
//
// What is encrypted, with a passphrase (scrypt), is the private key's seed in hex. A key without passphrase has "seed: HEX"
// there instead. What the comments say is never trusted once the key is open: role, id and public key have to agree with it.
type KeyFile struct {
	Path   string
	Role   string // for people, and to find it
	Public Public
	sealed []byte
	seed   []byte // nil: encrypted
}

// maxWorkFactor bounds what a key file can make us compute: 2^20 are about four seconds.
const maxWorkFactor = 20

// NewKey makes a key. An empty passphrase leaves it in the clear; workFactor is scrypt's logarithm, 0 for age's default (18).
func NewKey(role, passphrase string, workFactor int) (*KeyFile, ed25519.PrivateKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("writer: %w", err)
	}
	k := &KeyFile{Role: role}
	if k.Public, err = NewPublic(public); err != nil {
		return nil, nil, err
	}
	return k, private, k.seal(private.Seed(), passphrase, workFactor)
}

func (k *KeyFile) seal(seed []byte, passphrase string, workFactor int) error {
	if passphrase == "" {
		k.seed, k.sealed = seed, nil
		return nil
	}
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	if workFactor > 0 {
		recipient.SetWorkFactor(workFactor)
	}
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, recipient)
	if err == nil {
		_, err = io.WriteString(w, hex.EncodeToString(seed)+"\n")
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = a.Close()
	}
	if err != nil {
		return fmt.Errorf("writer: %w", err)
	}
	k.seed, k.sealed = nil, b.Bytes()
	return nil
}

// Encrypted says whether the key wants a passphrase.
func (k *KeyFile) Encrypted() bool { return k.seed == nil }

// ErrPassphrase is a wrong passphrase.
var ErrPassphrase = errors.New("the passphrase is wrong")

// Open gives the private key.
func (k *KeyFile) Open(passphrase string) (ed25519.PrivateKey, error) {
	seed := k.seed
	if seed == nil {
		identity, err := age.NewScryptIdentity(passphrase)
		if err != nil {
			return nil, ErrPassphrase
		}
		identity.SetMaxWorkFactor(maxWorkFactor)
		r, err := age.Decrypt(armor.NewReader(bytes.NewReader(k.sealed)), identity)
		if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
			return nil, fmt.Errorf("%s: %w", k.Path, ErrPassphrase)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.Path, err)
		}
		text, err := io.ReadAll(io.LimitReader(r, 1024))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.Path, err)
		}
		if seed, err = hex.DecodeString(strings.TrimSpace(string(text))); err != nil {
			return nil, fmt.Errorf("%s: not a key inside: want a seed in hex", k.Path)
		}
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s: a seed of %d bytes: want %d", k.Path, len(seed), ed25519.SeedSize)
	}
	private := ed25519.NewKeyFromSeed(seed)
	if !bytes.Equal(private.Public().(ed25519.PublicKey), k.Public.Key) {
		return nil, fmt.Errorf("%s: the key inside is not the one that its comments name", k.Path)
	}
	return private, nil
}

// Reseal gives the key another passphrase.
func (k *KeyFile) Reseal(private ed25519.PrivateKey, passphrase string, workFactor int) error {
	return k.seal(private.Seed(), passphrase, workFactor)
}

func (k *KeyFile) bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# homeward fleet key\n# role: %s\n# id: %s\n# public: %s\n", k.Role, k.Public.ID, hex.EncodeToString(k.Public.Key))
	if k.seed != nil {
		fmt.Fprintf(&b, "seed: %s\n", hex.EncodeToString(k.seed))
	} else {
		b.Write(k.sealed)
	}
	return b.Bytes()
}

// Write writes the key's file, 0600.
func (k *KeyFile) Write(files durable.FS, path string) error {
	if err := MakeFolder(files, filepath.Dir(path)); err != nil {
		return err
	}
	k.Path = path
	return durable.Replace(files, path, k.bytes(), 0o600)
}

// ReadKey reads a key's file. It does not open it.
func ReadKey(files durable.FS, path string) (*KeyFile, error) {
	raw, err := durable.Read(files, path, 16<<10)
	if err != nil {
		return nil, fmt.Errorf("writer: %w", err)
	}
	k := &KeyFile{Path: path}
	fields := map[string]string{}
	s := bufio.NewScanner(bytes.NewReader(raw))
	rest := []byte(nil)
	for s.Scan() {
		line := s.Text()
		if name, value, ok := strings.Cut(strings.TrimPrefix(line, "# "), ": "); ok && rest == nil {
			fields[name] = strings.TrimSpace(value)
			continue
		}
		if strings.HasPrefix(line, "-----BEGIN ") || rest != nil {
			rest = append(rest, line+"\n"...)
		}
	}
	public, err := hex.DecodeString(fields["public"])
	if err != nil || len(public) != ed25519.PublicKeySize || !strings.HasPrefix(string(raw), "# homeward fleet key\n") {
		return nil, fmt.Errorf("writer: %s is not a key's file: want one that homeward-fleet has written", path)
	}
	if k.Public, err = NewPublic(public); err != nil {
		return nil, err
	}
	if k.Public.ID != fields["id"] {
		return nil, fmt.Errorf("writer: %s: id %q is not that of its public key, %s", path, fields["id"], k.Public.ID)
	}
	k.Role = fields["role"]
	k.sealed = rest
	if rest == nil {
		if k.seed, err = hex.DecodeString(fields["seed"]); err != nil || len(k.seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("writer: %s has no key: want an encrypted one, or seed: HEX", path)
		}
	}
	return k, nil
}

// Ring is a [Signer]: the keys of some folders, each opened when it is first needed.
type Ring struct {
	Keys []*KeyFile
	// Passphrase is asked for a key's passphrase, again where the one before was wrong (try 1, 2 …). [ErrNoKey] leaves the key out.
	Passphrase func(k *KeyFile, try int) (string, error)

	open map[string]ed25519.PrivateKey
	left map[string]bool
}

// OpenRing finds the key files (*.key) in folders and below.
func OpenRing(files durable.FS, folders ...string) (*Ring, error) {
	r := &Ring{}
	for _, dir := range folders {
		if err := r.find(files, dir, 0); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Ring) find(files durable.FS, dir string, depth int) error {
	entries, err := files.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) && depth == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("writer: keys: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir() && depth < 3:
			if err := r.find(files, path, depth+1); err != nil {
				return err
			}
		case strings.HasSuffix(e.Name(), KeySuffix):
			k, err := ReadKey(files, path)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(r.Keys, func(o *KeyFile) bool { return o.Public.ID == k.Public.ID }) {
				r.Keys = append(r.Keys, k)
			}
		}
	}
	return nil
}

// Add puts a key into the ring that is open already.
func (r *Ring) Add(k *KeyFile, private ed25519.PrivateKey) {
	r.Keys = append(r.Keys, k)
	r.keep(k.Public.ID, private)
}

// Adopt takes over the keys that another ring has opened, or that were left out there, as far as this one has them.
func (r *Ring) Adopt(o *Ring) {
	r.left = o.left
	for id, private := range o.open {
		if r.Has(id) {
			r.keep(id, private)
		}
	}
}

func (r *Ring) keep(id string, private ed25519.PrivateKey) {
	if r.open == nil {
		r.open = map[string]ed25519.PrivateKey{}
	}
	r.open[id] = private
}

// Has says whether the key's file is there.
func (r *Ring) Has(id string) bool {
	return slices.ContainsFunc(r.Keys, func(k *KeyFile) bool { return k.Public.ID == id })
}

// maxTries is how often a passphrase may be wrong.
const maxTries = 10

// Private opens the key with this id.
func (r *Ring) Private(id string) (ed25519.PrivateKey, error) {
	if p := r.open[id]; p != nil {
		return p, nil
	}
	i := slices.IndexFunc(r.Keys, func(k *KeyFile) bool { return k.Public.ID == id })
	if i < 0 || r.left[id] {
		return nil, ErrNoKey
	}
	k := r.Keys[i]
	for try := 1; ; try++ {
		passphrase := ""
		if k.Encrypted() {
			if r.Passphrase == nil {
				return nil, fmt.Errorf("%s is encrypted and there is nobody to ask for its passphrase", k.Path)
			}
			var err error
			if passphrase, err = r.Passphrase(k, try); errors.Is(err, ErrNoKey) {
				if r.left == nil {
					r.left = map[string]bool{}
				}
				r.left[id] = true
				return nil, ErrNoKey
			} else if err != nil {
				return nil, err
			}
		}
		private, err := k.Open(passphrase)
		if errors.Is(err, ErrPassphrase) && try < maxTries {
			continue
		}
		if err != nil {
			return nil, err
		}
		r.keep(id, private)
		return private, nil
	}
}

// Sign implements [Signer].
func (r *Ring) Sign(id string, payload []byte) ([]byte, error) {
	private, err := r.Private(id)
	if err != nil {
		return nil, err
	}
	return ed25519.Sign(private, payload), nil
}
