package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"homeward/agent/config"
	"homeward/agent/home"
)

// Checked is the outcome of a leave-site check with the proof of it; docs/receipt.md has the bytes.
type Checked struct {
	Lines   []Line `json:"lines"`
	Receipt string `json:"receipt"` // a text that a person can read, signed
	Compact string `json:"compact"` // one line for a QR code, signed too
}

const (
	receiptHead = "homeward receipt 1\n"
	compactHead = "homeward-receipt-1 "
	signature   = "signature: "

	// maxReceipt bounds what is verified; a line of the check is bounded below.
	maxReceipt  = 256 << 10
	maxLineText = 500
	// MaxCompact is what a QR code of version 13 holds at error correction L (ISO/IEC 18004 table 7): 69 modules, which
	// with its margin fits a terminal of 80 columns.
	MaxCompact = 425
)

// about is what a receipt says beside the lines.
type about struct {
	cfg     *config.Config
	version string
	offline bool
	time    time.Time
	trusted bool
	source  string
}

func aboutNow(c *config.Config, version string, offline bool, clock Clock) about {
	now := clock.Stamp()
	source, _ := clock.Source()
	return about{c, version, offline, time.UnixMilli(now.Wall).UTC(), now.Trusted, source}
}

// receipt signs the outcome of a check.
func receipt(key ed25519.PrivateKey, a about, lines []Line) Checked {
	n := map[string]int{}
	var failed []string
	for _, l := range lines {
		if n[l.Result]++; l.Result == resultFail {
			failed = append(failed, printable(l.Name))
		}
	}
	result, counted := verdict(n[resultOK], n[resultWarn], n[resultFail])
	clock := clockOf[a.trusted]
	checked := "everything"
	if a.offline {
		checked = offline
	}
	h := a.cfg.Home
	when := a.time.UTC().Format(time.RFC3339)
	var b strings.Builder
	b.WriteString(receiptHead)
	for _, f := range [][2]string{
		{"gateway", a.cfg.Gateway}, {"home", fmt.Sprintf("%s %s/%s/%s %s", h.Cloud, h.Organization, h.Project, h.Product, h.URL)},
		{"time", when}, {"clock", clock + " (" + a.source + ")"}, {"version", a.version}, {"configuration", a.cfg.Digest}, {"checked", checked},
		{"result", counted},
	} {
		fmt.Fprintf(&b, "%s: %s\n", f[0], printable(f[1]))
	}
	b.WriteByte('\n')
	writeLines(&b, lines)
	sum := sha256.Sum256([]byte(b.String()))
	hash := hex.EncodeToString(sum[:])
	fmt.Fprintf(&b, "\nsha256: %s\nkey: %s\n", hash, home.Public(key))
	sig := ed25519.Sign(key, []byte(b.String()))
	text := b.String() + signature + hex.EncodeToString(sig) + "\n"

	c := compact{a.cfg.Gateway, when, a.trusted, result, n[resultOK], n[resultWarn], n[resultFail], a.offline, nil, hash}
	line := c.sign(key)
	for i := range failed { // as many names as there is room for
		c.Failed = failed[:i+1]
		longer := c.sign(key)
		if len(longer) > MaxCompact {
			break
		}
		line = longer
	}
	return Checked{lines, text, line}
}

// verdict is the worst of the lines, alone and with their numbers.
func verdict(ok, warn, fail int) (result, counted string) {
	result = resultOK
	switch {
	case fail > 0:
		result = resultFail
	case warn > 0:
		result = resultWarn
	}
	return result, fmt.Sprintf("%s (%d ok, %d warn, %d fail)", result, ok, warn, fail)
}

// clockOf is what a receipt says of a clock that is trusted, and of one that is not; its source follows in brackets.
var clockOf = map[bool]string{true: "trusted", false: "not trusted"}

// receiptEnd is room for what follows the lines: how many were left out, and the three lines that prove.
const receiptEnd = 512

// writeLines writes as many lines as a receipt may hold. Where not all have room, those that say ok are left out first, then those
// that warn, each from the end, and how many is said: what failed is what a receipt is read for.
func writeLines(b *strings.Builder, lines []Line) {
	texts := make([]string, len(lines))
	need := b.Len() + receiptEnd
	for i, l := range lines {
		texts[i] = fmt.Sprintf("%-4s  %s: %s\n", l.Result, printable(l.Name), printable(l.Text))
		if l.Remedy != "" {
			texts[i] += fmt.Sprintf("      %s\n", printable(l.Remedy))
		}
		need += len(texts[i])
	}
	left := map[string]int{}
	for _, result := range []string{resultOK, resultWarn, resultFail} {
		for i := len(lines) - 1; i >= 0 && need > maxReceipt; i-- {
			if lines[i].Result == result {
				need -= len(texts[i])
				texts[i] = ""
				left[result]++
			}
		}
	}
	for _, t := range texts {
		b.WriteString(t)
	}
	if len(left) > 0 {
		fmt.Fprintf(b, "      without room here: %d ok, %d warn, %d fail\n", left[resultOK], left[resultWarn], left[resultFail])
	}
}

// compact is what the QR code says.
type compact struct {
	Gateway string   `json:"gateway"`
	Time    string   `json:"time"`
	Trusted bool     `json:"trusted"` // the clock
	Result  string   `json:"result"`
	OK      int      `json:"ok"`
	Warn    int      `json:"warn"`
	Fail    int      `json:"fail"`
	Offline bool     `json:"offline,omitempty"` // the home was not asked
	Failed  []string `json:"failed,omitempty"`  // the first of them
	SHA256  string   `json:"sha256"`            // of the text receipt, up to the line of this name
}

func (c compact) sign(key ed25519.PrivateKey) string {
	text, _ := json.Marshal(c) // cannot fail
	line := compactHead + string(text) + " " + encode(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
	return line + " " + encode(ed25519.Sign(key, []byte(line)))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// decode takes only what encode would have written: one form for one value.
func decode(s string, n int) ([]byte, bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return b, err == nil && len(b) == n && encode(b) == s
}

// printable keeps a text on its line, and short.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) <= maxLineText {
		return s
	}
	s = s[:maxLineText]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// Verified is what a receipt says whose signature is right.
type Verified struct {
	Gateway string `json:"gateway"`
	Time    string `json:"time"`
	Trusted bool   `json:"clock_trusted"`
	Result  string `json:"result"`
	Key     string `json:"key"` // who signed it: whether that is the gateway's must be known from elsewhere
	SHA256  string `json:"sha256"`
	Text    string `json:"text"` // all that was signed, safe to print
}

// VerifyReceipt checks a receipt's text, or the line of its QR code. want is the key that must have signed it, "" for any.
func VerifyReceipt(b []byte, want string) (*Verified, error) {
	bad := func(format string, args ...any) (*Verified, error) {
		return nil, fmt.Errorf("receipt: "+format, args...)
	}
	if len(b) > maxReceipt {
		return bad("%d bytes: want at most %d", len(b), maxReceipt)
	}
	var v *Verified
	var err error
	switch {
	case bytes.HasPrefix(b, []byte(receiptHead)):
		v, err = verifyText(b)
	case bytes.HasPrefix(b, []byte(compactHead)):
		v, err = verifyCompact(b)
	default:
		return bad("it does not begin as one: want the file of check --receipt, or the line of its QR code")
	}
	if err != nil {
		return bad("%w", err)
	}
	if want != "" && v.Key != strings.ToLower(want) {
		return bad("signed by another key: %s", v.Key)
	}
	return v, nil
}

var errAltered = errors.New("altered: the signature does not fit the text")

func verifyText(b []byte) (*Verified, error) {
	at := bytes.LastIndex(b, []byte("\n"+signature)) + 1
	if at == 0 {
		return nil, errors.New("torn: it has no signature")
	}
	body, last := string(b[:at]), string(b[at:])
	sig, err := hex.DecodeString(strings.TrimSuffix(strings.TrimPrefix(last, signature), "\n"))
	if err != nil || last != signature+hex.EncodeToString(sig)+"\n" {
		return nil, errors.New("altered: the last line is no signature")
	}
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	key, ok := strings.CutPrefix(lines[len(lines)-1], "key: ")
	public, err := hex.DecodeString(key)
	if !ok || err != nil || len(public) != ed25519.PublicKeySize || hex.EncodeToString(public) != key {
		return nil, errors.New("altered: no key before the signature")
	}
	if !ed25519.Verify(public, []byte(body), sig) {
		return nil, errAltered
	}
	// What follows was signed, perhaps by nobody that one should trust.
	if !safe(body) || len(lines) < 12 {
		return nil, errors.New("signed, but not as this program writes it")
	}
	field := func(i int, name string) string {
		text, ok := strings.CutPrefix(lines[i], name+": ")
		if !ok {
			err = fmt.Errorf("signed, but line %d is not %s: as this program writes it", i+1, name)
		}
		return text
	}
	clock, result := field(4, "clock"), field(8, "result")
	v := &Verified{Gateway: field(1, "gateway"), Time: field(3, "time"), Trusted: strings.HasPrefix(clock, clockOf[true]+" ("),
		Result: extent(result, field(7, "checked") != "everything"), SHA256: field(len(lines)-2, "sha256"), Key: key, Text: body}
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(clock, clockOf[v.Trusted]+" (") || !strings.HasSuffix(clock, ")") {
		return nil, fmt.Errorf("signed, but its clock is %.40q: want trusted or not trusted, and the source in brackets", clock)
	}
	if err := plain(public, v.Time, result); err != nil {
		return nil, err
	}
	upto := strings.LastIndex(body, "\nsha256: ")
	if sum := sha256.Sum256([]byte(body[:upto])); hex.EncodeToString(sum[:]) != v.SHA256 {
		return nil, errors.New("signed, but its sha256 is not that of its text")
	}
	return v, nil
}

func verifyCompact(b []byte) (*Verified, error) {
	line := strings.TrimSuffix(string(b), "\n")
	at := strings.LastIndexByte(line, ' ')
	head := strings.LastIndexByte(line[:at], ' ')
	if head < len(compactHead) {
		return nil, errors.New("torn: want a text, a key and a signature")
	}
	public, ok1 := decode(line[head+1:at], ed25519.PublicKeySize)
	sig, ok2 := decode(line[at+1:], ed25519.SignatureSize)
	if !ok1 || !ok2 {
		return nil, errors.New("altered: no key or no signature at its end")
	}
	if !ed25519.Verify(public, []byte(line[:at]), sig) {
		return nil, errAltered
	}
	text := line[len(compactHead):head]
	var c compact
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil || !safe(text) {
		return nil, errors.New("signed, but not as this program writes it")
	}
	if again, err := json.Marshal(c); err != nil || string(again) != text || !safe(c.Gateway+c.Time+c.Result+c.SHA256) {
		return nil, errors.New("signed, but not as this program writes it")
	}
	result := fmt.Sprintf("%s (%d ok, %d warn, %d fail)", c.Result, c.OK, c.Warn, c.Fail)
	if err := plain(public, c.Time, result); err != nil {
		return nil, err
	}
	return &Verified{c.Gateway, c.Time, c.Trusted, extent(result, c.Offline), hex.EncodeToString(public), c.SHA256, text}, nil
}

// plain says whether key is one that somebody holds, and time and result are what they seem.
func plain(key []byte, when, result string) error {
	if isWeak(key) {
		return errors.New("signed by nobody: for this key anybody can make a signature")
	}
	if t, err := time.Parse(time.RFC3339, when); err != nil || t.UTC().Format(time.RFC3339) != when {
		return fmt.Errorf("signed, but its time is %.40q: want one such as 2026-11-25T10:00:00Z", when)
	}
	var word string
	var ok, warn, fail int
	_, err := fmt.Sscanf(result, "%s (%d ok, %d warn, %d fail)", &word, &ok, &warn, &fail)
	if _, counted := verdict(ok, warn, fail); err != nil || counted != result || min(ok, warn, fail) < 0 {
		return fmt.Errorf("signed, but its result is %.40q: want ok, warn or fail, as the numbers in brackets say", result)
	}
	return nil
}

// weak are the y of the points of order 1, 2, 4 and 8, of which no private key is the root (RFC 7748 §5; RFC 8032 §5.1).
var weak = []string{
	"0100000000000000000000000000000000000000000000000000000000000000", // order 1
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // 2
	"0000000000000000000000000000000000000000000000000000000000000000", // 4
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // 8
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // 8
}

// isWeak tells such a key, and one of no single form: y of 2^255-19 or more. Package ed25519 takes both.
func isWeak(key []byte) bool {
	y := bytes.Clone(key)
	y[31] &^= 0x80 // the sign of x
	big := y[31] == 0x7f && y[0] >= 0xed
	for _, b := range y[1:31] {
		big = big && b == 0xff
	}
	return big || slices.Contains(weak, hex.EncodeToString(y))
}

// offline is what a check is that did not ask the home.
const offline = "offline: the home was not asked"

// extent adds to a result what it does not speak of.
func extent(result string, alone bool) string {
	if alone {
		return result + ", " + offline
	}
	return result
}

// safe says that a text does nothing to a terminal.
func safe(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
}
