package release

import (
	"fmt"
	"slices"
	"strings"
)

// The words of a manifest.
const (
	AgentPart   = "agent"    // the part that every release has: the agent's program
	SlotBackend = "slot"     // a program in a folder named by its hash
	EncZstd     = "zstd"     // the whole content, one zstd frame
	EncBsdiff   = "bsdiff40" // a BSDIFF40 patch from Base
)

// Manifest is one release of a product for one platform: the target releases/<product>/<platform>/<counter>.json, or
// dev/<gateway>/<platform>.json.
type Manifest struct {
	Schema        int      `json:"schema"` // 1
	Product       string   `json:"product"`
	Platform      string   `json:"platform"`
	Version       string   `json:"version"`
	Counter       uint64   `json:"counter"`        // the release's number in its product; grows
	SecurityFloor uint64   `json:"security_floor"` // once committed, no release of this product below it
	HW            []string `json:"hw,omitempty"`   // hardware it is for, of which a gateway needs to have one; none: any
	Requires      Requires `json:"requires"`
	Parts         []Part   `json:"parts"`
	Health        Health   `json:"health"`
	Order         []string `json:"order,omitempty"`  // names of the parts to install, in this order; none: all, as they stand
	Issued        int64    `json:"issued,omitempty"` // unix seconds
}

// Requires is what a gateway must have before.
type Requires struct {
	MinCounter uint64 `json:"min_counter,omitempty"` // the oldest release that can be updated to this one: others take stepping stones
	Launcher   int    `json:"launcher,omitempty"`    // the lowest version of the launcher
}

// Part is one content. A part that is not in the manifest's order is for other programs and not looked at further.
type Part struct {
	Name      string     `json:"name"`
	Backend   string     `json:"backend"` // what installs it
	SHA256    string     `json:"sha256"`  // of the content itself
	Size      int64      `json:"size"`    // bytes
	Encodings []Encoding `json:"encodings"`
}

// Encoding is a blob from which a part's content can be made. Those of an unknown kind are kept and not to be chosen.
type Encoding struct {
	Enc       string `json:"enc"`
	Base      string `json:"base,omitempty"` // SHA-256 of the content that it is a patch of; a patch has one, a whole has none
	SHA256    string `json:"sha256"`         // of the blob
	Size      int64  `json:"size"`           // bytes of the blob
	WindowLog int    `json:"window_log,omitempty"`
}

// Health is when a trial has passed, in powered seconds.
type Health struct {
	StableS    int64 `json:"stable_s"`   // healthy for so long without a gap
	DeadlineS  int64 `json:"deadline_s"` // by then, or it has failed
	NeedServer bool  `json:"need_server,omitempty"`
}

// ParseManifest reads a manifest of at most [MaxFile] bytes.
func ParseManifest(data []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := decodeSchema(data, "manifest", m); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// Encode gives the bytes that [ParseManifest] reads, or the error that it would give.
func (m *Manifest) Encode() ([]byte, error) { return encode(m, ParseManifest) }

func (m *Manifest) check() error {
	if err := first(
		named("manifest: product", m.Product, IsName, WantName),
		named("manifest: platform", m.Platform, IsPlatform, wantPlatform),
		named("manifest: version", m.Version, IsVersion, wantVersion),
		within("manifest: counter", m.Counter, 1, MaxCounter),
		within("manifest: requires: launcher", m.Requires.Launcher, 0, 1<<16),
		within("manifest: health: stable_s", m.Health.StableS, 1, maxStable),
		within("manifest: health: deadline_s", m.Health.DeadlineS, 1, maxDeadline),
		within("manifest: issued", m.Issued, 0, maxUnix),
		counted("manifest: hw", len(m.HW), maxHardware),
		counted("manifest: parts", len(m.Parts), maxParts),
	); err != nil {
		return err
	}
	if m.SecurityFloor > m.Counter {
		return malformed("manifest: security_floor", m.SecurityFloor, fmt.Sprintf("at most the release's own counter, %d", m.Counter))
	}
	if m.Requires.MinCounter >= m.Counter {
		return malformed("manifest: requires: min_counter", m.Requires.MinCounter, fmt.Sprintf("less than the release's own counter, %d", m.Counter))
	}
	if m.Health.DeadlineS < m.Health.StableS {
		return malformed("manifest: health: deadline_s", m.Health.DeadlineS, fmt.Sprintf("at least stable_s, %d", m.Health.StableS))
	}
	for i, hw := range m.HW {
		if err := named("manifest: hw", hw, isHardware, wantHardware); err != nil {
			return err
		}
		if slices.Contains(m.HW[:i], hw) {
			return malformed("manifest: hw", hw, "each hardware once")
		}
	}
	seen := map[string]bool{}
	for i := range m.Parts {
		name := m.Parts[i].Name
		if err := named("manifest: parts: name", name, isPart, wantPart); err != nil {
			return err
		}
		if seen[name] {
			return malformed("manifest: parts: name", name, "each part once")
		}
		seen[name] = true
	}
	for i, name := range m.Order {
		if !seen[name] {
			return malformed("manifest: order", name, "names of the manifest's parts")
		}
		if slices.Contains(m.Order[:i], name) {
			return malformed("manifest: order", name, "each part once")
		}
	}
	for _, p := range m.Needed() {
		if err := p.check(); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(m.Needed(), func(p *Part) bool { return p.Name == AgentPart }) {
		return malformed("manifest: parts", strings.Join(m.Order, " "), `a part "agent", and in order, if there is one`)
	}
	return nil
}

// Needed are the parts to install, in the order in which that is done.
func (m *Manifest) Needed() []*Part {
	var parts []*Part
	if len(m.Order) == 0 {
		for i := range m.Parts {
			parts = append(parts, &m.Parts[i])
		}
		return parts
	}
	for _, name := range m.Order {
		if i := slices.IndexFunc(m.Parts, func(p Part) bool { return p.Name == name }); i >= 0 {
			parts = append(parts, &m.Parts[i])
		}
	}
	return parts
}

// Agent is the part that holds the agent's program.
func (m *Manifest) Agent() *Part {
	if i := slices.IndexFunc(m.Parts, func(p Part) bool { return p.Name == AgentPart }); i >= 0 {
		return &m.Parts[i]
	}
	return nil
}

func isPart(s string) bool { return lowerWord(s, "._-") && s[0] != '.' }

const wantPart = "1 to 64 of a-z 0-9 . _ -, no dot at the beginning"

func (p *Part) check() error {
	at := "manifest: part " + p.Name
	if p.Backend != SlotBackend {
		return fault("rel.backend", at+": backend", p.Backend, "slot, the only one that this program has; take a newer program, or a stepping stone to it")
	}
	if err := first(
		named(at+": sha256", p.SHA256, IsHash, wantHash),
		within(at+": size", p.Size, 1, MaxPart),
		counted(at+": encodings", len(p.Encodings), maxEncodings),
	); err != nil {
		return err
	}
	whole := false
	for i := range p.Encodings {
		e := &p.Encodings[i]
		at := fmt.Sprintf("%s: encoding %d", at, i+1)
		if err := first(
			named(at+": enc", e.Enc, isPart, wantPart),
			named(at+": sha256", e.SHA256, IsHash, wantHash),
			within(at+": size", e.Size, 1, MaxPart),
		); err != nil {
			return err
		}
		switch e.Enc {
		case EncZstd:
			if e.Base != "" {
				return malformed(at+": base", e.Base, "none: a zstd encoding is the whole content")
			}
			if err := within(at+": window_log", e.WindowLog, minWindowLog, maxWindowLog); err != nil {
				return err
			}
			whole = true
		case EncBsdiff:
			if err := named(at+": base", e.Base, IsHash, wantHash); err != nil {
				return err
			}
			if e.Base == p.SHA256 {
				return malformed(at+": base", e.Base, "another content than the part's own")
			}
		default: // of a kind that came later
			if e.Base != "" && !IsHash(e.Base) {
				return malformed(at+": base", e.Base, wantHash)
			}
		}
	}
	if !whole {
		return malformed(at+": encodings", "no whole one", "one of enc zstd, for gateways that have no base of a patch")
	}
	return nil
}

// Choices are the encodings a gateway can use that holds the contents for which has says true, the cheapest first.
func (p *Part) Choices(has func(sha256 string) bool) []Encoding {
	var list []Encoding
	for _, e := range p.Encodings {
		if e.Enc == EncZstd || e.Enc == EncBsdiff && has(e.Base) {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b Encoding) int { return int(a.Size - b.Size) }) // both ≤ MaxPart
	return list
}

// Gateway is what a manifest is held against.
type Gateway struct {
	Product  string
	Platform string
	Hardware []string // all that it answers to
	Floor    uint64   // the committed security floor of the product
	Launcher int      // version of its launcher
	Running  uint64   // counter of the running release of this product; 0: none
}

// For says whether this release is meant for a gateway: an error with code rel.wrong_product, rel.wrong_platform, rel.wrong_hw,
// rel.floor, rel.launcher or, where only a stepping stone is missing, rel.stepping.
func (m *Manifest) For(g Gateway) error {
	switch {
	case m.Product != g.Product:
		return fault("rel.wrong_product", "manifest: product", m.Product, "this gateway's, "+g.Product)
	case m.Platform != g.Platform:
		return fault("rel.wrong_platform", "manifest: platform", m.Platform, "this gateway's, "+g.Platform)
	case len(m.HW) > 0 && !slices.ContainsFunc(m.HW, func(hw string) bool { return slices.Contains(g.Hardware, hw) }):
		return fault("rel.wrong_hw", "manifest: hw", strings.Join(m.HW, " "), "one of this gateway's: "+strings.Join(g.Hardware, " "))
	case m.Counter < g.Floor:
		return fault("rel.floor", "manifest: counter", m.Counter, fmt.Sprintf("at least the security floor, %d", g.Floor))
	case m.Requires.Launcher > g.Launcher:
		return fault("rel.launcher", "manifest: requires: launcher", m.Requires.Launcher, fmt.Sprintf("at most this gateway's, %d: the package has to be updated first", g.Launcher))
	case m.Requires.MinCounter > g.Running:
		return fault("rel.stepping", "manifest: requires: min_counter", m.Requires.MinCounter, fmt.Sprintf("at most the running release's, %d: a stepping stone comes first", g.Running))
	}
	return nil
}
