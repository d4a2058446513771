// Package release is what a fleet says about releases, as signed files of its repository: what a release consists of
// ([Manifest]), which gateway may have it and when ([Rollouts]), and what is ordered of one gateway ([Order]). Beside them is
// what a gateway hands in to be taken on ([Enrolment]).
//
// It promises that a value which a parser returned has been checked in full: names that can stand in a path, sizes and counts
// within bounds, no key twice at any depth, only known schemas and states. It does not know who signed what; that is package
// trust's part, and comes first. Unknown keys are left aside, so that a later release may say more: whoever adds a key that must
// not be left aside raises the schema. All of it is a pure function of its input: no clock, no files.
//
// Errors carry a stable code ([Error.Code]): rel.malformed, rel.schema, rel.size, rel.backend; and of a manifest that is not for
// a gateway: rel.wrong_product, rel.wrong_platform, rel.wrong_hw, rel.floor, rel.launcher, rel.stepping.
package release

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what is read.
const (
	MaxFile    = 64 << 10  // bytes of a manifest, rollouts, an order or an enrolment
	MaxPart    = 256 << 20 // bytes of a part, and of any encoding of it
	MaxCounter = 1<<53 - 1 // of counters and serials: what JSON carries exactly

	maxDepth     = 16
	maxParts     = 16
	maxEncodings = 64 // of a part
	maxHardware  = 128
	maxReleases  = 512
	maxPlatforms = 16
	maxRollouts  = 64
	maxGroups    = 32
	maxMembers   = 4096
	minWindowLog = 10
	maxWindowLog = 23 // 8 MiB: what a gateway's decoder takes
	maxStable    = 24 * 60 * 60
	maxDeadline  = 7 * 24 * 60 * 60
	maxWait      = 366 * 24 * 60 * 60
	maxUnix      = 1 << 40
)

// Error is a refusal with a stable code.
type Error struct{ code, text string }

func (e *Error) Error() string { return "release: " + e.text }

// Code is the stable code, such as rel.malformed.
func (e *Error) Code() string { return e.code }

// fault names what is wrong, with which value, and what would be right.
func fault(code, what string, bad any, want string) *Error {
	text := ""
	switch v := bad.(type) {
	case nil:
		text = "missing"
	case string:
		if len(v) > 80 {
			v = v[:80] + "…"
		}
		text = strconv.QuoteToASCII(v)
	default:
		text = fmt.Sprint(v)
	}
	return &Error{code, fmt.Sprintf("%s: %s: want %s", what, text, want)}
}

func malformed(what string, bad any, want string) error {
	return fault("rel.malformed", what, bad, want)
}

// ManifestPath is the TUF target that holds a product's release for a platform.
func ManifestPath(product, platform string, counter uint64) string {
	return "releases/" + product + "/" + platform + "/" + strconv.FormatUint(counter, 10) + ".json"
}

// RolloutsPath is the TUF target that says who may have which release of a product.
func RolloutsPath(product string) string { return "releases/" + product + "/rollouts.json" }

// OrderPath is the TUF target that is ordered of one gateway.
func OrderPath(gateway string) string { return "orders/" + gateway + ".json" }

// DevPath is the TUF target that holds the release which a development gateway is pinned to.
func DevPath(gateway, platform string) string { return "dev/" + gateway + "/" + platform + ".json" }

// BlobPath is where a content lies beside the metadata. No TUF target: its hash and size stand in a manifest.
func BlobPath(sha256 string) string { return "blobs/" + sha256 }

// IsGateway is the rule for a gateway's id: 1–64 of a-z 0-9 . _ - (and no path's "." or "..").
func IsGateway(s string) bool {
	return lowerWord(s, "._-") && s != "." && s != ".."
}

const wantGateway = "a gateway's id: 1 to 64 of a-z 0-9 . _ -"

// IsName is the rule for the names of products and organizations: those that the configuration takes (1–64 characters of any
// script, 127 bytes, printable, no / + #, no blanks at the ends, no leading $), less what has a meaning in a path, a TUF pattern or
// an address: no \ * ? [ ] { } % : and no leading dot.
func IsName(s string) bool {
	n := utf8.RuneCountInString(s)
	return n >= 1 && n <= 64 && len(s) <= 127 && utf8.ValidString(s) && strings.TrimSpace(s) == s && s[0] != '.' && s[0] != '$' &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return strings.ContainsRune(`/+#\*?[]{}%:`, r) || r != ' ' && !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S)
		})
}

// WantName says what [IsName] asks for.
const WantName = `a name of 1 to 64 characters (127 bytes) without / + # \ * ? [ ] { } % : and control characters, no . or $ at its beginning, no blanks at its ends`

// IsPlatform is the rule for platforms, such as linux-arm64; which of them there are is not its matter.
func IsPlatform(s string) bool { return len(s) <= 32 && lowerWord(s, "-") }

const wantPlatform = "a platform such as linux-arm64: 1 to 32 of a-z 0-9 -"

// IsVersion is the rule for a release's version, such as 1.9.1-rc2.
func IsVersion(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".+~_-", r))
	})
}

const wantVersion = "a version such as 1.9.1: 1 to 64 of a-z A-Z 0-9 . + ~ _ -"

// IsHash is the rule for the name of a content: SHA-256 in 64 lower-case hex digits.
func IsHash(s string) bool {
	return len(s) == 2*sha256.Size && !strings.ContainsFunc(s, func(r rune) bool { return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f') })
}

const wantHash = "a SHA-256: 64 of 0-9 a-f"

// lowerWord: 1–64 of a-z 0-9 and also.
func lowerWord(s, also string) bool {
	return len(s) >= 1 && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune(also, r))
	})
}

// isHardware: a device tree's compatible (raspberrypi,model-zero-w) or any other word of printable ASCII.
func isHardware(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

const wantHardware = "1 to 64 printable ASCII characters without blanks, such as raspberrypi,model-zero-w"

// Bucket places a gateway in a rollout: a stable number 0 ≤ b < 100, evenly spread over the gateways and drawn anew for each
// rollout, so that no gateway is always among the first.
func Bucket(rolloutID, gateway string) float64 {
	sum := sha256.Sum256([]byte(rolloutID + "\x00" + gateway))
	b := float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53) * 100
	return min(b, 100-1e-12) // the product may round up to 100
}
