package agent

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/agent/home"
	"homeward/buffer"
	"homeward/drivers"
	"homeward/drivers/bme280"
)

func testReceipt(t *testing.T, lines ...Line) (Checked, string) {
	key, err := home.Key(t.TempDir())
	require.NoError(t, err)
	cfg := &config.Config{Gateway: strings.Repeat("g", 64), Digest: strings.Repeat("0", 64), Home: config.Home{Cloud: "mqtt", Organization: "acme", Project: "cold", Product: "p", URL: "tls://h"}}
	c := receipt(key, about{cfg: cfg, version: "1", time: time.Unix(1_700_000_000, 0).UTC(), source: "kernel"}, lines)
	return c, home.Public(key)
}

// TestReceiptFlips: no bit of a receipt can be changed, nothing be cut off or added, in either form.
func TestReceiptFlips(t *testing.T) {
	c, key := testReceipt(t, okLine("configuration", "1 sensors"), failLine("sensor cellar", "gone", "plug it in"), warnLine("clock", "late", ""))
	for _, text := range []string{c.Receipt, c.Compact} {
		v, err := VerifyReceipt([]byte(text), key)
		require.NoError(t, err)
		require.Equal(t, "fail (1 ok, 1 warn, 1 fail)", v.Result)
		require.Equal(t, key, v.Key)
		for i := range len(text) {
			for bit := range 8 {
				b := []byte(text)
				b[i] ^= 1 << bit
				_, err := VerifyReceipt(b, "")
				require.Error(t, err, "byte %d, bit %d", i, bit)
			}
			_, err := VerifyReceipt([]byte(text[:i]), "")
			require.Error(t, err, "cut at %d", i)
		}
		for _, more := range []string{" ", "x", "\n\n", "\r\n", "\x00"} {
			_, err := VerifyReceipt([]byte(text+more), "")
			require.Error(t, err, "%q added", more)
		}
		_, err = VerifyReceipt([]byte(text), strings.Repeat("0", 64))
		require.ErrorContains(t, err, "another key")
	}
	a, err := VerifyReceipt([]byte(c.Receipt), "")
	require.NoError(t, err)
	b, err := VerifyReceipt([]byte(c.Compact+"\n"), "")
	require.NoError(t, err)
	require.Equal(t, a.SHA256, b.SHA256, "the code names its text")
}

// TestReceiptOffline: who is shown a receipt is told that the home was not asked, by either form.
func TestReceiptOffline(t *testing.T) {
	key, err := home.Key(t.TempDir())
	require.NoError(t, err)
	for _, offline := range []bool{false, true} {
		a := about{cfg: &config.Config{Gateway: "gw", Digest: strings.Repeat("0", 64)}, version: "1", time: time.Unix(1_700_000_000, 0), source: "kernel", offline: offline}
		c := receipt(key, a, []Line{okLine("configuration", "1 sensors")})
		for _, text := range []string{c.Receipt, c.Compact} {
			v, err := VerifyReceipt([]byte(text), "")
			require.NoError(t, err)
			require.Equal(t, map[bool]string{false: "ok (1 ok, 0 warn, 0 fail)", true: "ok (1 ok, 0 warn, 0 fail), offline: the home was not asked"}[offline], v.Result)
		}
	}
}

// TestReceiptHostile: whatever instruments say, a receipt verifies, is bounded, and does nothing to a terminal;
// and what is no receipt is refused without a panic.
func TestReceiptHostile(t *testing.T) {
	var lines []Line
	for i := range 200 {
		lines = append(lines, failLine(fmt.Sprintf("sensor s%d", i), "\x1b[2J\nsignature: 00\nkey: "+strings.Repeat("é\u202e", 4000), "\xff\xfe\r\n"))
	}
	c, key := testReceipt(t, lines...)
	require.Less(t, len(c.Receipt), maxReceipt)
	require.LessOrEqual(t, len(c.Compact), MaxCompact)
	for _, text := range []string{c.Receipt, c.Compact} {
		v, err := VerifyReceipt([]byte(text), key)
		require.NoError(t, err)
		require.NotContains(t, v.Text, "\x1b")
		require.NotContains(t, v.Text, "\u202e")
	}
	// Signed by a key of its own, but meant for a terminal.
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	body := strings.Replace(c.Receipt[:strings.LastIndex(c.Receipt, "key: ")], "version: 1", "version: \x1b]0;x\a", 1) + "key: " + home.Public(private) + "\n"
	_, err = VerifyReceipt(fmt.Appendf(nil, "%s%s%x\n", body, signature, ed25519.Sign(private, []byte(body))), "")
	require.ErrorContains(t, err, "not as this program writes it")
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		b := []byte([]string{receiptHead, compactHead}[r.IntN(2)])
		for range r.IntN(300) {
			b = append(b, []byte(" \n:akey signature{}\x00")[r.IntN(20)])
		}
		_, err := VerifyReceipt(b, "")
		require.Error(t, err)
	}
	_, err = VerifyReceipt(bytes.Repeat([]byte(receiptHead), maxReceipt), "")
	require.ErrorContains(t, err, "at most")
}

// TestReceiptOfMany: however many lines there are, the receipt is one that can be verified; what failed has room first, and
// what has none is counted.
func TestReceiptOfMany(t *testing.T) {
	for _, c := range []struct {
		ok, warn, fail int
		text           int
		want           string
	}{
		{500, 10, 10, 100, ""},
		{3000, 20, 20, 100, " ok, 0 warn, 0 fail\n"},
		{10, 3000, 20, 100, "without room here: 10 ok, "},
		{10, 20, 3000, 100, "without room here: 10 ok, 20 warn, "},
		{0, 0, 10_000, 4000, "without room here: 0 ok, 0 warn, "},
	} {
		var lines []Line
		text := strings.Repeat("x", c.text)
		for range c.ok {
			lines = append(lines, okLine("sensor o", text))
		}
		for range c.warn {
			lines = append(lines, warnLine("sensor w", text, text))
		}
		for range c.fail {
			lines = append(lines, failLine("sensor f", text, text))
		}
		r, key := testReceipt(t, lines...)
		require.LessOrEqual(t, len(r.Receipt), maxReceipt)
		if c.want != "" {
			require.Greater(t, len(r.Receipt), maxReceipt-receiptEnd-3*maxLineText, "the room is used")
			require.Contains(t, r.Receipt, c.want)
		} else {
			require.NotContains(t, r.Receipt, "without room")
		}
		v, err := VerifyReceipt([]byte(r.Receipt), key)
		require.NoError(t, err)
		require.Contains(t, v.Result, fmt.Sprintf("(%d ok, %d warn, %d fail)", c.ok, c.warn, c.fail))
		// Each line is there or counted.
		left := [3]int{}
		if _, after, found := strings.Cut(r.Receipt, "without room here: "); found {
			_, err := fmt.Sscanf(after, "%d ok, %d warn, %d fail", &left[0], &left[1], &left[2])
			require.NoError(t, err)
		}
		for i, want := range []int{c.ok, c.warn, c.fail} {
			require.Equal(t, want, left[i]+strings.Count(r.Receipt, "  sensor "+"owf"[i:i+1]+": "))
		}
		require.LessOrEqual(t, len(r.Compact), MaxCompact)
	}
}

// TestLinesHaveRemedies: a line is made by okLine, warnLine or failLine alone, in the whole package; and the last two
// do not make one without a remedy.
func TestLinesHaveRemedies(t *testing.T) {
	require.NotEmpty(t, warnLine("a", "b", "").Remedy)
	require.NotEmpty(t, failLine("a", "b", "").Remedy)
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	calls := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			fn, _ := d.(*ast.FuncDecl)
			ast.Inspect(d, func(n ast.Node) bool {
				switch x := n.(type) {
				case *ast.CompositeLit:
					id, ok := x.Type.(*ast.Ident)
					list, _ := x.Type.(*ast.ArrayType)
					if list != nil {
						if e, is := list.Elt.(*ast.Ident); is && e.Name == "Line" {
							for _, e := range x.Elts {
								_, literal := e.(*ast.CompositeLit)
								require.False(t, literal, "%s: a Line without a maker", name)
							}
						}
					}
					if ok && id.Name == "Line" {
						require.True(t, fn != nil && (fn.Name.Name == "okLine" || fn.Name.Name == "badLine"), "%s: a Line made elsewhere", name)
					}
				case *ast.CallExpr:
					if id, ok := x.Fun.(*ast.Ident); ok && (id.Name == "warnLine" || id.Name == "failLine") {
						calls++
						lit, literal := x.Args[2].(*ast.BasicLit)
						require.False(t, literal && len(lit.Value) < 12, "%s: an empty remedy", name)
					}
				}
				return true
			})
		}
	}
	require.Greater(t, calls, 15)
}

// TestSensorLines: what was read is shown, bounded; what is outside its limits is a warning.
func TestSensorLines(t *testing.T) {
	limit := 50.0
	o := bme280.Factory.New("bme280")
	c := &config.Sensor{Name: "cellar", Driver: "bme280", Options: o, Channels: []drivers.Channel{{Name: "x0", Max: &limit}}}
	var readings []drivers.Reading
	for i := range 100 {
		readings = append(readings, drivers.Reading{Channel: fmt.Sprintf("x%d", i), Value: 21.5, Unit: "Cel"})
	}
	l := sensorLine(c, readings, nil)
	require.Equal(t, resultOK, l.Result)
	require.Contains(t, l.Text, "x0 21.5 Cel, x1")
	require.Contains(t, l.Text, "and 94 more")
	require.Len(t, l.Values, maxValues)
	readings[0].Value = 51
	l = sensorLine(c, readings, nil)
	require.Equal(t, resultWarn, l.Result)
	require.Contains(t, l.Text, "x0 51 Cel")
	require.Equal(t, resultFail, sensorLine(c, nil, drivers.ErrTimeout).Result)
}

// TestCardLines: eMMC tells its wear in tenths; what tells nothing gives no line.
func TestCardLines(t *testing.T) {
	require.Empty(t, cardLines("0x00 0x00\n"))
	require.Empty(t, cardLines("nonsense"))
	require.Equal(t, "10 to 20 % of the flash's life is used", cardLines("0x01 0x02\n")[0].Text)
	require.Equal(t, resultWarn, cardLines("0x0b 0x01\n")[0].Result)
}

// TestOldBacklog: readings that wait for more than a day are worth a look.
func TestOldBacklog(t *testing.T) {
	c := fixedClock{drivers.Stamp{Wall: 1_700_000_000_000, Trusted: true}}
	s := buffer.Stats{Pending: 1, OldestTime: 1_700_000_000_000 - 25*3600*1000}
	require.Equal(t, resultWarn, checkBuffer(s, c).Result)
	s.OldestTime += 2 * 3600 * 1000
	require.Equal(t, resultOK, checkBuffer(s, c).Result)
}

type fixedClock struct{ now drivers.Stamp }

func (c fixedClock) Stamp() drivers.Stamp       { return c.now }
func (c fixedClock) Source() (string, *float64) { return "kernel", nil }
