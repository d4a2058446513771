package home

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"filippo.io/age"

	"homeward/buffer/durable"
	"homeward/ota/release"
)

// IdentityPath is where the gateway of a state folder keeps the age identity to which an order's credentials are encrypted, mode 0600.
func IdentityPath(state string) string { return filepath.Join(state, "keys", "age") }

// EnrolmentPath is where it says who it is, for homeward-fleet enroll. Nothing in the file is secret.
func EnrolmentPath(state string) string { return filepath.Join(state, "enrolment.json") }

// Identity is the age identity (X25519) of the gateway whose state folder this is, made if there is none.
func Identity(state string) (*age.X25519Identity, error) {
	path := IdentityPath(state)
	text, err := readText(path)
	if errors.Is(err, fs.ErrNotExist) {
		fresh := func() ([]byte, error) {
			id, err := age.GenerateX25519Identity()
			if err != nil {
				return nil, err
			}
			return []byte(id.String() + "\n"), nil
		}
		if err := create(state, path, fresh); err != nil {
			return nil, fmt.Errorf("home: the gateway's age identity could not be made: %w", err)
		}
		text, err = readText(path)
	}
	if err != nil {
		return nil, err
	}
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	if err != nil { // the library's error may show the text
		return nil, badKey(path, "want one age identity (AGE-SECRET-KEY-1…)")
	}
	return id, nil
}

// Enrol writes the enrolment file, if it says anything else than it should, and gives what it says.
func Enrol(state, gateway, version string) (*release.Enrolment, error) {
	key, err := Key(state)
	if err != nil {
		return nil, err
	}
	id, err := Identity(state)
	if err != nil {
		return nil, err
	}
	e := &release.Enrolment{Gateway: gateway, AgeRecipient: id.Recipient().String(), Ed25519: Public(key), Hardware: Hardware(), Agent: version}
	text, err := e.Encode()
	if err != nil {
		return nil, err
	}
	path := EnrolmentPath(state)
	if have, err := durable.ReadFile(path, int64(len(text))); err == nil && bytes.Equal(have, text) {
		return e, nil
	}
	return e, durable.WriteFile(path, text, 0o644)
}

// compatible is the device tree's name of the board, most particular first, each ended by a zero byte (Devicetree Specification §2.3.1).
var compatible = "/proc/device-tree/compatible"

// Hardware is what this box is, most particular first: the device tree's names, then generic-<GOARCH>, which every box of that
// processor has.
func Hardware() []string {
	generic := "generic-" + runtime.GOARCH
	text, err := os.ReadFile(compatible)
	if err != nil || len(text) > 4096 {
		return []string{generic}
	}
	var names []string
	for name := range strings.SplitSeq(string(text), "\x00") {
		if name != "" && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) && len(names) < 8 {
			names = append(names, name)
		}
	}
	return slices.Concat(names, []string{generic})
}

// Platform is what this program was built for, as releases name it: linux-arm64, linux-armv6, linux-armv7, linux-amd64.
func Platform() string {
	arch := runtime.GOARCH
	if info, ok := debug.ReadBuildInfo(); ok && arch == "arm" {
		for _, s := range info.Settings {
			if s.Key == "GOARM" {
				arch += "v" + strings.SplitN(s.Value, ",", 2)[0]
			}
		}
	}
	return runtime.GOOS + "-" + arch
}
