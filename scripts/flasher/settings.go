package main

import (
	"crypto/pbkdf2"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Settings are what a card is made ready with.
type Settings struct {
	Package  string   // a .deb on this machine
	Config   string   // homeward.yaml on this machine
	Files    []Put    // further files
	Hostname string   //
	WifiName string   // SSID
	WifiKey  string   // 64 hex digits, never the passphrase
	Country  string   // of the wifi regulations, ISO 3166
	User     string   // first user
	Hash     string   // crypt(3) of the user's password; empty: no password, keys only
	Keys     []string // lines of authorized_keys
	Enable   []string // i2c, spi, w1, uart
}

// Put is one file for the gateway.
type Put struct {
	Src, Dest string
	Mode      os.FileMode
}

const configDest = "/etc/homeward/homeward.yaml"

func (s *Settings) empty() bool { return !s.firstBoot() && len(s.Enable) == 0 }

// firstBoot reports whether anything has to be done by the gateway itself.
func (s *Settings) firstBoot() bool {
	return s.Package != "" || s.Config != "" || len(s.Files) > 0 || s.Hostname != "" || s.WifiName != "" || s.User != "" || len(s.Keys) > 0 || slices.Contains(s.Enable, "i2c")
}

var (
	hostRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	userRE = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	destRE = regexp.MustCompile(`^/[A-Za-z0-9._@+/-]{1,200}$`)
	hashRE = regexp.MustCompile(`^\$[A-Za-z0-9./$=,]{10,200}$`)
	pkgRE  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]{0,120}\.deb$`)
	ctryRE = regexp.MustCompile(`^[A-Z]{2}$`)
	keyRE  = regexp.MustCompile(`^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) [A-Za-z0-9+/]{60,}={0,2}( [ -~]*)?$`)
)

// parsePut reads SRC=DEST[:MODE].
func parsePut(arg string) (Put, error) {
	src, dest, ok := strings.Cut(arg, "=")
	bad := func(why string) (Put, error) {
		return Put{}, fmt.Errorf("--file %q: %s: want SOURCE=/path/on/the/gateway[:MODE], as ca.pem=/etc/homeward/ca.pem:0644", arg, why)
	}
	if !ok || src == "" {
		return bad("no =")
	}
	p := Put{Src: src, Dest: dest, Mode: 0o600}
	if d, m, ok := strings.Cut(dest, ":"); ok {
		var mode uint32
		if _, err := fmt.Sscanf(m, "%o", &mode); err != nil || mode > 0o777 || mode&0o400 == 0 {
			return bad("mode " + m)
		}
		p.Dest, p.Mode = d, os.FileMode(mode)
	}
	if !destRE.MatchString(p.Dest) || path.Clean(p.Dest) != p.Dest {
		return bad("destination")
	}
	for _, sys := range []string{"/proc", "/sys", "/dev", "/run", "/boot", "/tmp"} {
		if p.Dest == sys || strings.HasPrefix(p.Dest, sys+"/") {
			return bad("destination below " + sys + ", which does not last")
		}
	}
	return p, nil
}

// wifiKey derives what the radio uses from name and passphrase (IEEE 802.11i H.4.1), so
// that the passphrase itself is not on the card.
func wifiKey(ssid, pass string) (string, error) {
	if len(ssid) == 0 || len(ssid) > 32 || strings.ContainsFunc(ssid, func(r rune) bool { return r < 32 || r == 127 || r == '\\' || r == ';' || r == '"' }) {
		return "", fmt.Errorf("--wifi %q: want 1 to 32 bytes without control characters, \\, ; or \"", ssid)
	}
	if b, err := hex.DecodeString(pass); err == nil && len(b) == 32 {
		return strings.ToLower(pass), nil
	}
	if len(pass) < 8 || len(pass) > 63 {
		return "", fmt.Errorf("wifi passphrase: %d characters: want 8 to 63 (WPA2), or 64 hex digits", len(pass))
	}
	k, err := pbkdf2.Key(sha1.New, pass, []byte(ssid), 4096, 32)
	return hex.EncodeToString(k), err
}

// check looks at everything that can be wrong before a card is touched.
func (s *Settings) check() error {
	if s.Hostname != "" && !hostRE.MatchString(s.Hostname) {
		return fmt.Errorf("--hostname %q: want 1 to 63 of a-z 0-9 -, not - at either end", s.Hostname)
	}
	if s.User != "" && (!userRE.MatchString(s.User) || s.User == "root" || s.User == "homeward") {
		return fmt.Errorf("--user %q: want 1 to 32 of a-z 0-9 _ -, and neither root nor homeward", s.User)
	}
	if s.Hash != "" && (s.User == "" || !hashRE.MatchString(s.Hash)) {
		return fmt.Errorf("--user-hash-file: want one line from `openssl passwd -6`, together with --user")
	}
	if s.User != "" && s.Hash == "" && len(s.Keys) == 0 {
		return fmt.Errorf("--user %s: no way to log in: add --ssh-key FILE or --user-hash-file FILE", s.User)
	}
	for i, k := range s.Keys {
		if !keyRE.MatchString(k) {
			return fmt.Errorf("--ssh-key: line %d is not a public key: want the .pub file, as ~/.ssh/id_ed25519.pub", i+1)
		}
	}
	if s.WifiName != "" && !ctryRE.MatchString(s.Country) {
		return fmt.Errorf("--wifi-country %q: want two capital letters, as DE", s.Country)
	}
	for _, e := range s.Enable {
		if _, ok := switches[e]; !ok {
			return fmt.Errorf("--enable %q: want i2c, spi, w1 or uart", e)
		}
	}
	if s.Package != "" && !pkgRE.MatchString(filepath.Base(s.Package)) {
		return fmt.Errorf("--package %s: want a .deb file, as homeward_0.3.0_arm64.deb", s.Package)
	}
	dests := map[string]bool{configDest: s.Config != ""}
	for _, f := range s.Files {
		if dests[f.Dest] {
			return fmt.Errorf("--file %s: a second file for it", f.Dest)
		}
		dests[f.Dest] = true
	}
	for _, src := range s.sources() {
		if b, err := slurp(src); err != nil {
			return err
		} else if len(b) == 0 {
			return fmt.Errorf("%s: empty: want a file with something in it", src)
		}
	}
	if s.Package != "" {
		if b, err := slurp(s.Package); err != nil || !strings.HasPrefix(string(b), "!<arch>\ndebian-binary") {
			return fmt.Errorf("--package %s: not a Debian package", s.Package)
		}
	}
	return nil
}

func (s *Settings) sources() (all []string) {
	for _, f := range []string{s.Package, s.Config} {
		if f != "" {
			all = append(all, f)
		}
	}
	for _, f := range s.Files {
		all = append(all, f.Src)
	}
	return all
}

// slurp reads a file for the gateway; none is larger than 128 MiB.
func slurp(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 128 << 20
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(b) > most {
		return nil, fmt.Errorf("%s: more than %s", path, bytesText(most))
	}
	return b, nil
}
