package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	credentialPrefix = "credential:"
	maxSecret        = 64 << 10
)

// SecretPath is the file that ref means: itself, or for credential:NAME the one that systemd
// put below $CREDENTIALS_DIRECTORY (systemd.exec(5), LoadCredential).
func SecretPath(ref string) (string, error) {
	name, ok := strings.CutPrefix(ref, credentialPrefix)
	if !ok {
		return ref, nil
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	switch {
	case !isCredential(name):
		return "", fmt.Errorf("config: credential %q: want a name of letters, digits and . _ -", name)
	case dir == "":
		return "", fmt.Errorf("config: credential %q: $CREDENTIALS_DIRECTORY is not set: start the gateway as a systemd service with LoadCredential=%s:FILE", name, name)
	}
	return filepath.Join(dir, name), nil
}

func isCredential(name string) bool {
	return name != "" && len(name) <= 255 && name != "." && name != ".." && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

// ReadSecret reads what ref means, without the newline at its end. A file that its group or
// others may read is refused; credentials are systemd's to guard. No error shows the content.
func ReadSecret(ref string) ([]byte, error) {
	path, err := SecretPath(ref)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path) // before opening, which would wait at a pipe
	switch {
	case err != nil:
		return nil, fmt.Errorf("config: secret: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("config: secret %s: is no regular file", path)
	case info.Mode().Perm()&0o077 != 0 && !strings.HasPrefix(ref, credentialPrefix):
		return nil, fmt.Errorf("config: secret %s: mode %04o lets others at it: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("config: secret: %w", err)
	}
	defer f.Close()
	secret, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("config: secret: %w", err)
	case len(secret) > maxSecret:
		return nil, fmt.Errorf("config: secret %s: larger than %d bytes", path, maxSecret)
	}
	secret = bytes.TrimSuffix(bytes.TrimSuffix(secret, []byte("\n")), []byte("\r"))
	if len(secret) == 0 {
		return nil, fmt.Errorf("config: secret %s: is empty", path)
	}
	return secret, nil
}
