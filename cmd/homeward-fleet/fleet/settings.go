package fleet

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/goccy/go-yaml"

	"homeward/buffer/durable"
	"homeward/ota/release"
	"homeward/ota/trust/writer"
)

// Settings is fleet.yaml.
type Settings struct {
	Organization string `yaml:"organization"`
	Address      string `yaml:"address"` // where gateways find the repository: https://…
	MQTT         *MQTT  `yaml:"mqtt"`    // where gateways publish their status; nil: nowhere that we know of
}

// MQTT is the broker of the gateways' home, read by status and watch.
type MQTT struct {
	URL          string `yaml:"url"` // tls:// or mqtt://
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	CAFile       string `yaml:"ca_file"`
	Prefix       string `yaml:"prefix"`  // default: homeward
	Project      string `yaml:"project"` // default: all of the organization
}

func (s Settings) text() []byte {
	address := "# address: https://fleet.example.net/acme   # where the gateways find repository/"
	if s.Address != "" {
		address = "address: " + quote(s.Address)
	}
	return []byte("organization: " + quote(s.Organization) + "\n" + address + `
# mqtt:                                # where the gateways publish their status: for status and watch
#   url: tls://broker.example.net:8883
#   username: fleet
#   password_file: /etc/homeward-fleet/password
#   ca_file: /etc/homeward-fleet/ca.pem
#   prefix: homeward
#   project: cold-chain                # default: every project of the organization
`)
}

func quote(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789.-/:_", r) }) {
		raw, err := yaml.Marshal(s)
		if err == nil {
			return strings.TrimSpace(string(raw))
		}
	}
	return s
}

func readSettings(files durable.FS, path string) (Settings, error) {
	var s Settings
	raw, err := durable.Read(files, path, 64<<10)
	if err != nil {
		return s, err
	}
	if err := yaml.NewDecoder(bytes.NewReader(raw), yaml.Strict()).Decode(&s); err != nil {
		if y, ok := errors.AsType[yaml.Error](err); ok && y.GetToken() != nil {
			at := y.GetToken().Position
			return s, &FileError{fmt.Errorf("%s:%d:%d: %s", path, at.Line, at.Column, y.GetMessage())}
		}
		return s, &FileError{fmt.Errorf("%s: %w", path, err)}
	}
	return s, s.check(path)
}

// FileError is a mistake in fleet.yaml.
type FileError struct{ error }

func (s *Settings) check(path string) error {
	wrong := func(format string, args ...any) error {
		return &FileError{fmt.Errorf(path+": "+format, args...)}
	}
	if !release.IsName(s.Organization) {
		return wrong("organization: %q: want %s", s.Organization, release.WantName)
	}
	if err := CheckAddress(s.Address); err != nil {
		return wrong("address: %w", err)
	}
	if m := s.MQTT; m != nil {
		u, err := url.Parse(m.URL)
		if err != nil || u.Scheme != "tls" && u.Scheme != "mqtt" || u.Host == "" || u.User != nil {
			return wrong("mqtt: url: want tls:// or mqtt:// and a host; the name goes in username, the password in password_file")
		}
		if m.Prefix == "" {
			m.Prefix = "homeward"
		}
		for name, level := range map[string]string{"prefix": m.Prefix, "project": m.Project} {
			if strings.ContainsAny(level, "/+#\x00") {
				return wrong("mqtt: %s: %q: want one level of a topic, without / + #", name, level)
			}
		}
	}
	return nil
}

// CheckAddress refuses an address at which no gateway would find a repository; none is fine.
func CheckAddress(address string) error {
	if address == "" {
		return nil
	}
	if u, err := url.Parse(address); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return errors.New("want https:// and a host, without a name and password, such as https://fleet.example.net/acme")
	}
	return nil
}

func (k Key) public() (writer.Public, error) {
	raw, err := hex.DecodeString(k.Public)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return writer.Public{}, fmt.Errorf("key %s: public %q: want 64 hex digits", k.ID, k.Public)
	}
	p, err := writer.NewPublic(raw)
	if err != nil {
		return p, err
	}
	if p.ID != k.ID {
		return p, fmt.Errorf("key %s: the id of its public key is %s", k.ID, p.ID)
	}
	return p, nil
}

// KeyOf is a key as roles.json has it.
func KeyOf(p writer.Public, holder string) Key {
	return Key{ID: p.ID, Public: hex.EncodeToString(p.Key), Holder: holder}
}
