package cli

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/color"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/stretchr/testify/require"

	"homeward/agent"
	"homeward/cmd/cmdline"
)

// theme is a terminal's colours: background and letters, and the 16 that themes change.
type theme struct {
	back, fore color.Gray
	first      [16]color.Gray
}

// themes are a dark and a light one with the usual colours, and one that turns black and white round, as light
// variants of some colour schemes do.
func themes() map[string]theme {
	g := func(y uint8) color.Gray { return color.Gray{Y: y} }
	usual := [16]color.Gray{g(0), g(60), g(120), g(150), g(30), g(80), g(140), g(170), g(85), g(100), g(190), g(220), g(90), g(120), g(210), g(255)}
	turned := usual
	for i := range turned {
		turned[i].Y = 255 - turned[i].Y
	}
	return map[string]theme{
		"dark": {back: g(0), fore: g(170), first: usual}, "grey": {back: g(46), fore: g(211), first: usual},
		"light": {back: g(255), fore: g(0), first: usual}, "turned round": {back: g(245), fore: g(60), first: turned},
	}
}

// screen is how many rows the terminal has.
const screen = 60

// photograph draws what a terminal of so many columns shows in the end of what was written to it, each character 2k × 4k pixels:
// colours, half blocks and the wrapping of lines are right, other letters are smudges.
func photograph(t *testing.T, out string, columns, k int, th theme) image.Image {
	type cell struct {
		r          rune
		fore, back color.Gray
	}
	rows := [][]cell{nil}
	fore, back := th.fore, th.back
	palette := func(n int) color.Gray {
		switch {
		case n < 16:
			return th.first[n]
		case n < 232: // a cube of 6 × 6 × 6
			level := func(i int) int {
				if i == 0 {
					return 0
				}
				return 55 + 40*i
			}
			n -= 16
			return color.GrayModel.Convert(color.RGBA{uint8(level(n / 36)), uint8(level(n / 6 % 6)), uint8(level(n % 6)), 255}).(color.Gray)
		}
		return color.Gray{Y: uint8(8 + 10*(n-232))}
	}
	for len(out) > 0 {
		if rest, ok := strings.CutPrefix(out, "\x1b["); ok {
			end := strings.IndexByte(rest, 'm')
			require.GreaterOrEqual(t, end, 0, "another sequence than a colour: %.20q", out)
			var n []int
			for _, f := range strings.Split(rest[:end], ";") {
				v, err := strconv.Atoi(f)
				require.NoError(t, err, "%.20q", out)
				n = append(n, v)
			}
			for ; len(n) > 0; n = n[1:] {
				switch {
				case n[0] == 0:
					fore, back = th.fore, th.back
				case n[0] >= 30 && n[0] <= 37:
					fore = palette(n[0] - 30)
				case n[0] >= 40 && n[0] <= 47:
					back = palette(n[0] - 40)
				case len(n) >= 3 && n[0] == 38 && n[1] == 5:
					fore, n = palette(n[2]), n[2:]
				case len(n) >= 3 && n[0] == 48 && n[1] == 5:
					back, n = palette(n[2]), n[2:]
				default:
					t.Fatalf("a colour that the test does not know: %d", n[0])
				}
			}
			out = rest[end+1:]
			continue
		}
		r, size := utf8.DecodeRuneInString(out)
		out = out[size:]
		last := len(rows) - 1
		switch {
		case r == '\r':
		case r == '\n':
			rows = append(rows, nil)
		default:
			require.True(t, r >= ' ', "%q", r)
			if len(rows[last]) == columns {
				rows, last = append(rows, nil), last+1
			}
			rows[last] = append(rows[last], cell{r, fore, back})
		}
	}
	rows = rows[max(0, len(rows)-screen):]
	img := image.NewGray(image.Rect(0, 0, columns*2*k, len(rows)*4*k))
	for y := range img.Rect.Dy() {
		row := rows[y/(4*k)]
		for x := range img.Rect.Dx() {
			c := cell{' ', th.fore, th.back}
			if i := x / (2 * k); i < len(row) {
				c = row[i]
			}
			low := y%(4*k) >= 2*k
			ink := false
			switch c.r {
			case ' ':
			case '█':
				ink = true
			case '▀':
				ink = !low
			case '▄':
				ink = low
			default:
				ink = x/k%2 == 0 && y/k%4 != 3
			}
			if ink {
				img.SetGray(x, y, c.fore)
			} else {
				img.SetGray(x, y, c.back)
			}
		}
	}
	return img
}

// decodeQR is a reader that is none of ours, on the whole picture.
func decodeQR(img image.Image) (text string, err error) {
	// It takes a piece of the content for a mark in one picture of a hundred, whatever its size: as a phone's hand it tilts the next.
	for _, tilt := range []float64{0, 0.03, -0.03, 0.1, -0.1} {
		b, berr := gozxing.NewBinaryBitmapFromImage(tilted(img, tilt))
		if berr != nil {
			return "", berr
		}
		r, rerr := qrcode.NewQRCodeReader().Decode(b, nil)
		if rerr == nil {
			return r.GetText(), nil
		}
		err = cmp.Or(err, rerr)
	}
	return "", err
}

// tilted is the picture turned about its middle, by radians.
func tilted(img image.Image, radians float64) image.Image {
	if radians == 0 {
		return img
	}
	b := img.Bounds()
	out := image.NewGray(b)
	sin, cos := math.Sincos(radians)
	mx, my := float64(b.Dx())/2, float64(b.Dy())/2
	for y := range b.Dy() {
		for x := range b.Dx() {
			dx, dy := float64(x)-mx, float64(y)-my
			at := image.Pt(int(mx+dx*cos-dy*sin), int(my+dx*sin+dy*cos))
			if !at.In(b) {
				at = image.Point{}
			}
			out.Set(x, y, img.At(at.X, at.Y))
		}
	}
	return out
}

// TestQRReads: the shortest and the longest code, drawn for a terminal of any width that it fits, is read from the picture of
// that terminal, on dark and light grounds, with letters small and large.
func TestQRReads(t *testing.T) {
	// All that a receipt may be made of: what encodes best and what encodes worst.
	long := "homeward-receipt-1 " + strings.Repeat(`{"gateway":"gw-0017",Zz_9`, 17)[:agent.MaxCompact-19]
	for what, line := range map[string]string{"short": long[:300], "long": long, "digits": strings.Repeat("0", agent.MaxCompact)} {
		for _, columns := range []int{80, 77, 76, 73, 132} {
			var out bytes.Buffer
			require.NoError(t, printQR(&out, line, columns, 0))
			for name, th := range themes() {
				for k := 1; k <= 4; k += 3 {
					text, err := decodeQR(photograph(t, "ok    clock: fine\r\n"+out.String()+"receipt: leaving.txt\r\n", columns, k, th))
					require.NoError(t, err, "%s code, %d columns, %s, letters of %d pixels", what, columns, name, 4*k)
					require.Equal(t, line, text)
				}
			}
		}
	}
}

// TestQRFits: the longest code fits a terminal of 80 columns with the margin of the standard and is square. Where it does not
// fit, its line would wrap; such a picture is not readable, so it is not drawn.
func TestQRFits(t *testing.T) {
	line := strings.Repeat("x", agent.MaxCompact)
	draw := func(columns, rows int) string {
		var out bytes.Buffer
		require.NoError(t, printQR(&out, line, columns, rows))
		return out.String()
	}
	for _, c := range []struct{ columns, rows, wide, high int }{{80, 0, 77, 39}, {0, 0, 77, 39}, {80, 40, 77, 39}, {80, 39, 73, 37}, {76, 0, 73, 37}, {73, 38, 73, 37}} {
		text := draw(c.columns, c.rows)
		rows := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		require.Len(t, rows, c.high, c)
		for _, row := range rows {
			require.Equal(t, c.wide, strings.Count(row, "█")+strings.Count(row, "▀")+strings.Count(row, "▄")+strings.Count(row, " "), c)
		}
	}
	require.Equal(t, "no QR code: it needs 73 columns, this terminal has 72: make it wider or its letters smaller, and check again\n", draw(72, 50))
	require.Contains(t, draw(80, 24), "the QR code has 37 rows, this terminal 24: make it higher")

	// The picture is a true one: wrapped, the code is lost; on its own it is not.
	dark := themes()["dark"]
	_, err := decodeQR(photograph(t, draw(80, 0), 80, 4, dark))
	require.NoError(t, err)
	_, err = decodeQR(photograph(t, draw(80, 0), 72, 4, dark))
	require.Error(t, err)
}

// TestQRVerifies: the code that `check --receipt` shows on a terminal of 80 columns, read from its picture, is
// what --verify-receipt takes, and belongs to the file; with one sensor and with a thousand.
func TestQRVerifies(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	for _, sensors := range []int{1, 1000} {
		t.Run(fmt.Sprintf("%d sensors", sensors), func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "state"), 0o700))
			var b strings.Builder
			fmt.Fprintf(&b, "gateway: %s\nstate: %s/state\nhome: {organization: acme, project: cold, product: p, url: \"mqtt://127.0.0.1:1\"}\nsensors:\n", strings.Repeat("g", 64), dir)
			for i := range sensors {
				fmt.Fprintf(&b, "  - {name: %s%d, driver: bme280, bus: /dev/i2c-nowhere%d}\n", strings.Repeat("s", 50), i, i)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, "gw.yaml"), []byte(b.String()), 0o600))
			homeward := func(columns uint16, args ...string) (string, int) {
				cmd := exec.Command(self, args...)
				cmd.Args[0] = "homeward" // see TestMain
				cmd.Env = append(os.Environ(), "TERM=xterm-256color", "NO_COLOR=")
				cmd.Dir = dir
				tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: screen, Cols: columns})
				require.NoError(t, err)
				defer tty.Close()
				out, _ := io.ReadAll(tty) // ends with EIO when the program ends
				_ = cmd.Wait()
				return string(out), cmd.ProcessState.ExitCode()
			}
			out, code := homeward(80, "check", "--offline", "--config", "gw.yaml", "--receipt", "leaving.txt")
			require.Equal(t, cmdline.ExitFailed, code, out) // there is no such bus
			for name, th := range themes() {
				text, err := decodeQR(photograph(t, out, 80, 4, th))
				require.NoError(t, err, "%s: %.2000s", name, out)
				require.NoError(t, os.WriteFile(filepath.Join(dir, "code.txt"), []byte(text), 0o600))
				shown, code := homeward(80, "check", "--verify-receipt", "code.txt", "--json")
				require.Equal(t, cmdline.ExitDone, code, shown)
				require.Contains(t, shown, fmt.Sprintf("%d fail)", sensors))
				file, err := os.ReadFile(filepath.Join(dir, "leaving.txt"))
				require.NoError(t, err)
				v, err := agent.VerifyReceipt(file, "")
				require.NoError(t, err)
				require.Contains(t, shown, v.SHA256, "the code names its text")
				require.Contains(t, shown, v.Key)
			}
			out, _ = homeward(60, "check", "--offline", "--config", "gw.yaml", "--receipt", "leaving.txt")
			require.NotContains(t, out, "█")
			require.Contains(t, out, "columns, this terminal has 60")
			require.Contains(t, out, "receipt: leaving.txt")
		})
	}
}

// TestQRReaderStaysHere: the reader of the tests is no part of the programs.
func TestQRReaderStaysHere(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "homeward/cmd/...").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "github.com/skip2/go-qrcode\n", "the list is whole")
	require.NotContains(t, string(out), "gozxing")
}
