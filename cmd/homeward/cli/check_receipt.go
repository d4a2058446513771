package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	qrcode "github.com/skip2/go-qrcode"

	"homeward/agent"
	"homeward/agent/config"
	"homeward/agent/status"
	"homeward/buffer/durable"
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
	if err != nil {
		return c, fmt.Errorf("no receipt: %w", err)
	}
	return c, durable.WriteFile(file, []byte(c.Receipt), 0o644)
}

// printQR draws the compact receipt, two rows of modules in one of characters.
func printQR(w io.Writer, line string) error {
	q, err := qrcode.New(line, qrcode.Low)
	if err != nil {
		return fmt.Errorf("QR code: %w", err)
	}
	q.DisableBorder = true
	bits := q.Bitmap()
	dark := func(y, x int) bool { return y >= 0 && y < len(bits) && x >= 0 && x < len(bits) && bits[y][x] }
	var b strings.Builder
	const margin = 2 // the standard wants 4; readers are content with 2, and 80 columns hold no more
	for y := -margin; y < len(bits)+margin; y += 2 {
		b.WriteString("\x1b[37;40m") // white blocks on black, whatever the terminal's colours are
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
	_, err = io.WriteString(w, b.String())
	return err
}

// verifyReceipt checks a receipt that somebody shows.
func verifyReceipt(w io.Writer, file, key string, asJSON bool) error {
	if key != "" && (len(key) != 64 || strings.Trim(strings.ToLower(key), "0123456789abcdef") != "") {
		return usageError{fmt.Errorf("--key %q: want 64 hex digits, as ed25519 in homeward status --json shows them", key)}
	}
	f, err := os.Open(file)
	if err != nil {
		return usageError{err}
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
	known := "which is the one given"
	if key == "" {
		known = "compare it with ed25519 in homeward status --json of the gateway, or give it with --key"
	}
	clock := "the clock was trusted"
	if !v.Trusted {
		clock = "the clock was not trusted"
	}
	_, err = fmt.Fprintf(w, "genuine: signed by key %s\n  (%s)\ngateway %s at %s (%s): %s\n\n%s\n", v.Key, known, v.Gateway, v.Time, clock, v.Result, strings.TrimRight(v.Text, "\n"))
	return err
}
