package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	qrcode "github.com/skip2/go-qrcode"
	"golang.org/x/sys/unix"

	"homeward/agent"
	"homeward/agent/config"
	"homeward/agent/status"
	"homeward/buffer/durable"
	"homeward/cmd/cmdline"
)

// checkReceipt makes the check and writes its receipt; where the gateway runs, its agent signs.
func checkReceipt(ctx context.Context, cfg *config.Config, query string, offline bool, file string) (agent.Checked, error) {
	var c agent.Checked
	err := status.Get(ctx, agent.SocketPath(cfg.State), "/receipt"+query, &c)
	if errors.Is(err, status.ErrNotRunning) {
		o, oerr := options(ctx, cfg, slog.New(slog.DiscardHandler))
		if oerr != nil {
			return c, oerr
		}
		c, err = agent.CheckReceipt(ctx, o, offline)
	}
	_, serr := os.Stat(cfg.State)
	switch {
	case err != nil && errors.Is(serr, fs.ErrNotExist):
		return c, fmt.Errorf("no receipt: the gateway's key belongs into the state folder, and there is no %s: start the gateway once, or make the folder (sudo install -d -o homeward -g homeward -m 750 %s)", cfg.State, cfg.State)
	case errors.Is(err, fs.ErrPermission):
		return c, fmt.Errorf("no receipt: %w: run this as the user that the gateway runs as (sudo -u homeward …), or as root", err)
	case err != nil:
		return c, fmt.Errorf("no receipt: %w", err)
	}
	switch err := durable.WriteFile(file, []byte(c.Receipt), 0o644); {
	case errors.Is(err, fs.ErrNotExist):
		return c, cmdline.Usage(fmt.Errorf("--receipt %s: no such folder: name a file in one that is there", file))
	case errors.Is(err, fs.ErrPermission):
		return c, cmdline.Usage(fmt.Errorf("--receipt %s: this user may not write there: name a file where it may, such as /tmp/receipt.txt", file))
	case err != nil:
		return c, fmt.Errorf("--receipt: %w", err)
	}
	return c, nil
}

// The quiet zone around the code: the standard wants 4 modules; readers are content with 2.
const wideMargin, narrowMargin = 4, 2

// printQR draws the compact receipt, two rows of modules in one of characters. Where the terminal is too narrow, the lines
// would wrap and nobody could read the code: it says so instead. No columns and rows: not known, as on a serial console.
func printQR(w io.Writer, line string, columns, rows int) error {
	q, err := qrcode.New(line, qrcode.Low)
	if err != nil {
		return fmt.Errorf("QR code: %w", err)
	}
	q.DisableBorder = true
	bits := q.Bitmap()
	if columns <= 0 {
		columns = 80
	}
	margin := wideMargin
	height := func() int { return (len(bits) + 2*margin + 1) / 2 }
	if columns < len(bits)+2*margin || rows > 0 && rows <= height() {
		margin = narrowMargin
	}
	if columns < len(bits)+2*margin {
		_, err = fmt.Fprintf(w, "no QR code: it needs %d columns, this terminal has %d: make it wider or its letters smaller, and check again\n", len(bits)+2*margin, columns)
		return err
	}
	dark := func(y, x int) bool { return y >= 0 && y < len(bits) && x >= 0 && x < len(bits) && bits[y][x] }
	var b strings.Builder
	for y := -margin; y < len(bits)+margin; y += 2 {
		// White blocks on black, whatever the terminal's colours are: themes change the first 16, so two of the fixed ones
		// follow for whoever knows them.
		b.WriteString("\x1b[37;40m\x1b[38;5;231m\x1b[48;5;16m")
		for x := -margin; x < len(bits)+margin; x++ {
			switch top, low := dark(y, x), dark(y+1, x); {
			case top && low:
				b.WriteByte(' ')
			case top:
				b.WriteString("▄")
			case low:
				b.WriteString("▀")
			default:
				b.WriteString("█")
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	if rows > 0 && rows <= height() {
		fmt.Fprintf(&b, "the QR code has %d rows, this terminal %d: make it higher or its letters smaller, and scroll up\n", height(), rows)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// size is a terminal's, 0 where it is not known.
func size(w io.Writer) (columns, rows int) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, 0
	}
	s, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(s.Col), int(s.Row)
}

// verifyReceipt checks a receipt that somebody shows.
func verifyReceipt(w io.Writer, file, key string, asJSON bool) error {
	if key != "" && (len(key) != 64 || strings.Trim(strings.ToLower(key), "0123456789abcdef") != "") {
		return cmdline.Usage(fmt.Errorf("--key %q: want 64 hex digits, as ed25519 in homeward status --json shows them", key))
	}
	f, err := os.Open(file)
	if err != nil {
		return cmdline.Usage(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return err
	}
	v, err := agent.VerifyReceipt(text, key)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, v)
	}
	signer := "genuine: signed by key %s,\n  the one given with --key\n"
	if key == "" {
		signer = "signed, signer unknown: key %s\n  (anybody can make a key: compare it with ed25519 in homeward status --json of the gateway, or give that with --key)\n"
	}
	clock := "the clock was trusted"
	if !v.Trusted {
		clock = "the clock was not trusted"
	}
	_, err = fmt.Fprintf(w, signer+"gateway %s at %s (%s): %s\n\n%s\n", v.Key, v.Gateway, v.Time, clock, v.Result, strings.TrimRight(v.Text, "\n"))
	return err
}
