// Package cli is the fleet manager's program: keys, releases, rollouts, orders, and what the gateways say of themselves.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"homeward/buffer/durable"
	"homeward/cmd/cmdline"
	"homeward/cmd/homeward-fleet/conform"
	"homeward/cmd/homeward-fleet/fleet"
	"homeward/ota/trust/writer"
)

// Environment variables.
const (
	fleetEnv      = "HOMEWARD_FLEET"
	passphraseEnv = "HOMEWARD_PASSPHRASE"
)

// workFactor of new keys' passphrases (scrypt, logarithm); 0: age's default. Tests lower it.
var workFactor = 0

// now is the clock.
var now = time.Now

// Main runs the program and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	root := Command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return cmdline.Run(ctx, root, func(err error) error {
		if file, ok := errors.AsType[*fleet.FileError](err); ok {
			return file
		}
		return nil
	})
}

// app is what all commands share.
type app struct {
	dir        string
	keys       []string
	passphrase []string // files
	dry        bool
	json       bool

	said    map[string]bool // keys that no passphrase opened, told once
	entered []string        // passphrases that were typed
	last    *writer.Ring    // the keys that were opened
	preview func()          // says what is to be signed, before the terminal is asked for the first passphrase; may be nil
}

// Command is the whole command tree.
func Command() *cobra.Command {
	a := &app{said: map[string]bool{}}
	root := &cobra.Command{
		Use:   "homeward-fleet",
		Short: "Releases and orders for a fleet of gateways, signed",
		Long: `The fleet is a folder: what it is to be told (source/), who signs it (roles.json), and what has been signed (repository/), which
any web server or USB stick can serve. Commands change what is to be said; "publish" signs it with the keys at hand, has a client
check it, and writes it. What lacks a signature waits in staged/ and says whose.

Keys are files, encrypted with a passphrase, looked for in DIR/keys and where --keys says.`,
		Example: `  homeward-fleet init --fleet acme --organization acme
  homeward-fleet --fleet acme product add gateway-v2
  homeward-fleet --fleet acme publish`,
	}
	dir := os.Getenv(fleetEnv)
	if dir == "" {
		dir = "."
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.dir, "fleet", dir, "the fleet's folder (default: $"+fleetEnv+", else this one)")
	flags.StringArrayVar(&a.keys, "keys", nil, "a folder with key files, besides keys/ in the fleet's folder; may be repeated")
	flags.StringArrayVar(&a.passphrase, "passphrase-file", nil,
		"a file with the passphrase of keys (else $"+passphraseEnv+", else the terminal is asked); may be repeated")
	root.AddCommand(a.initCommand(), a.productCommand(), a.keyCommand(), a.enrollCommand(), a.releaseCommand(), a.pinCommand(), a.unpinCommand(),
		a.ordersCommand(), a.publishCommand(), a.statusCommand(), a.watchCommand(), a.serveCommand(), versionCommand(), conform.Command())
	return root
}

// changes gives a command --dry-run.
func (a *app) changes(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.dry, "dry-run", false, "say what would be done, and do nothing")
	return cmd
}

// facts gives a command --json.
func (a *app) facts(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print it as JSON")
	return cmd
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// args wants that many arguments, which names says in words.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return cmdline.Usage(fmt.Errorf("%s wants %s: see %s --help", cmd.CommandPath(), strings.Join(names, " "), cmd.CommandPath()))
		}
		return nil
	}
}

// parent is a command that has others.
func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cmdline.NoArgs}
	var names []string
	for _, c := range children {
		names = append(names, c.Name())
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return cmdline.Usage(fmt.Errorf("say %s: see %s --help", strings.Join(names, ", "), cmd.CommandPath()))
	}
	cmd.AddCommand(children...)
	return cmd
}

// with opens the fleet's folder for what do does.
func (a *app) with(do func(f *fleet.Folder) error) error {
	f, err := fleet.Open(a.dir, false, now)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

// look opens the fleet's folder to look at it.
func (a *app) look() (*fleet.Folder, error) { return fleet.Open(a.dir, true, now) }

// ring has the keys at hand.
func (a *app) ring(cmd *cobra.Command, f *fleet.Folder) (*writer.Ring, error) {
	for _, dir := range a.keys {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return nil, cmdline.Usage(fmt.Errorf("--keys %s: want a folder with key files", dir))
		}
	}
	r, err := writer.OpenRing(f.FS, append([]string{f.KeysDir()}, a.keys...)...)
	if err != nil {
		return nil, err
	}
	if a.last != nil { // watch asks for them again and again
		r.Adopt(a.last)
	}
	a.last = r
	return r, a.ask(cmd, r)
}

// ask lets a ring ask for passphrases: files, the environment, what was typed before, and the terminal.
func (a *app) ask(cmd *cobra.Command, r *writer.Ring) error {
	given, err := a.passphrases()
	if err != nil {
		return err
	}
	typed := "" // the key whose passphrase was typed last
	r.Passphrase = func(k *writer.KeyFile, try int) (string, error) {
		candidates := append(append([]string{}, given...), a.entered...)
		if try <= len(candidates) {
			return candidates[try-1], nil
		}
		fd := int(os.Stdin.Fd())
		if cmd.InOrStdin() != os.Stdin || !term.IsTerminal(fd) {
			if !a.said[k.Public.ID] {
				a.said[k.Public.ID] = true
				why := "no passphrase is given"
				if len(candidates) > 0 {
					why = "none of the passphrases opens it"
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s is left out: %s (--passphrase-file, $%s)\n", k.Path, why, passphraseEnv)
			}
			return "", writer.ErrNoKey
		}
		if a.preview != nil {
			a.preview()
			a.preview = nil
		}
		if typed == k.Public.ID {
			fmt.Fprintln(cmd.ErrOrStderr(), "this passphrase does not open it")
		}
		typed = k.Public.ID
		text, err := askTerminal(cmd, fd, fmt.Sprintf("passphrase of %s (%s; empty: leave it out): ", k.Path, k.Role))
		if err != nil {
			return "", err
		}
		if len(text) == 0 {
			return "", writer.ErrNoKey
		}
		a.entered = append(a.entered, string(text))
		return string(text), nil
	}
	return nil
}

// errInterrupted is a Ctrl-C where a passphrase was asked for.
var errInterrupted = errors.New("interrupted: nothing is changed")

// askTerminal reads a passphrase, or leaves when the command is interrupted: the read goes on until the program ends, which is soon.
func askTerminal(cmd *cobra.Command, fd int, ask string) ([]byte, error) {
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	type answer struct {
		text []byte
		err  error
	}
	read := make(chan answer, 1)
	fmt.Fprint(cmd.ErrOrStderr(), ask)
	go func() {
		text, err := term.ReadPassword(fd)
		read <- answer{text, err}
	}()
	select {
	case got := <-read:
		fmt.Fprintln(cmd.ErrOrStderr())
		return got.text, got.err
	case <-cmd.Context().Done():
		fmt.Fprintln(cmd.ErrOrStderr())
		_ = term.Restore(fd, state)
		return nil, errInterrupted
	}
}

// passphrases are those that files and the environment give.
func (a *app) passphrases() ([]string, error) {
	var all []string
	for _, path := range a.passphrase {
		raw, err := durable.ReadFile(path, 4096)
		if errors.Is(err, os.ErrNotExist) {
			return nil, cmdline.Usage(fmt.Errorf("--passphrase-file %s: no such file", path))
		}
		if err != nil {
			return nil, cmdline.Usage(fmt.Errorf("--passphrase-file: %w", err))
		}
		p := string(bytes.TrimRight(raw, "\r\n"))
		if p == "" {
			return nil, cmdline.Usage(fmt.Errorf("--passphrase-file %s: it is empty", path))
		}
		all = append(all, p)
	}
	if p := os.Getenv(passphraseEnv); p != "" {
		all = append(all, p)
	}
	return all, nil
}

// minPassphrase is the shortest that a new key gets: scrypt slows guessing down, and no more.
const minPassphrase = 8

// newPassphrase is what new keys are encrypted with; "" if plain.
func (a *app) newPassphrase(cmd *cobra.Command, plain bool) (string, error) {
	if plain {
		return "", nil
	}
	given, err := a.passphrases()
	if err != nil {
		return "", err
	}
	p := ""
	if len(given) > 0 {
		p = given[0]
	} else {
		fd := int(os.Stdin.Fd())
		if cmd.InOrStdin() != os.Stdin || !term.IsTerminal(fd) {
			return "", cmdline.Usage(fmt.Errorf("no passphrase for the new keys: give --passphrase-file FILE or $%s, run it on a terminal, "+
				"or leave them in the clear with --no-passphrase", passphraseEnv))
		}
		var typed [2]string
		for i, ask := range []string{"passphrase for the new keys: ", "again: "} {
			text, err := askTerminal(cmd, fd, ask)
			if err != nil {
				return "", err
			}
			typed[i] = string(text)
		}
		if typed[0] != typed[1] {
			return "", errors.New("the two passphrases differ: nothing is changed")
		}
		p = typed[0]
		a.entered = append(a.entered, p)
	}
	if len(p) < minPassphrase {
		return "", cmdline.Usage(fmt.Errorf("a passphrase of %d bytes: want at least %d; several words are easier to keep than signs", len(p), minPassphrase))
	}
	return p, nil
}

// keyPath is where a new key is written: DIR/keys/HOLDER/ROLE-ID.key.
func keyPath(dir, holder string, k *writer.KeyFile) string {
	return filepath.Join(dir, holder, k.Role+"-"+writer.Short(k.Public.ID)+writer.KeySuffix)
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func bytesOf(n int64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.2f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
