// Package cli turns flags and signals into one running agent, and into the small
// commands around it. It is a package so that tests and the manual pages can use
// the commands as values.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"homeward/agent/config"
	"homeward/drivers/all"
)

// Exit codes of every command.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2 // wrong usage or configuration
)

// usageError is answered with exit 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// failed ends a command with exit 1 after it has said everything itself.
var errFailed = errors.New("failed")

// Main runs the program and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := Command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return ExitDone
	case errors.Is(err, errFailed):
		return ExitFailed
	}
	var problems *config.Problems
	if errors.As(err, &problems) {
		fmt.Fprintln(stderr, problems.Error())
		return ExitUsage
	}
	fmt.Fprintln(stderr, "homeward: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.As(err, new(usageError)) || isCobraUsage(err) {
		return ExitUsage
	}
	return ExitFailed
}

// isCobraUsage recognises what cobra says of unknown commands, which has no type of its own.
func isCobraUsage(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag")
}

// Command is the whole command tree.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:   "homeward",
		Short: "Read instruments, keep every reading, publish it",
		Long: `Homeward is an edge gateway agent: it reads sensors over serial lines, I2C and SPI,
keeps every reading through power cuts, and publishes them to an MQTT broker with as
few messages as possible.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q: see homeward --help", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(runCommand(), checkCommand(), scanCommand(), statusCommand(), decodeCommand(), bufferCommand(), planCommand(), versionCommand())
	return root
}

// noArgs refuses arguments with exit 2.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	}
	return nil
}

const defaultConfig = "/etc/homeward/homeward.yaml"

func configFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("config", defaultConfig, "configuration file")
}

func jsonFlag(cmd *cobra.Command) *bool { return cmd.Flags().Bool("json", false, "print JSON") }

func load(path string) (*config.Config, error) {
	c, err := config.Load(path, all.Factories)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, usageError{fmt.Errorf("%w: run this as the user that the gateway runs as (sudo -u homeward …), or as root", err)}
	case errors.Is(err, fs.ErrNotExist):
		return nil, usageError{fmt.Errorf("%w: name the file with --config", err)}
	case err != nil:
		return nil, usageError{err}
	}
	return c, nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// terminal says whether w is one; colour and live output appear only there.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == ""
}

func paint(w io.Writer, colour, text string) string {
	if !terminal(w) {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

const red, yellow, green = "31", "33", "32"

func logger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{fmt.Errorf("--log %q: want debug, info, warn or error", level)}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l, ReplaceAttr: dropTime()})), nil
}

// dropTime leaves the time to the journal, which stamps each line itself.
func dropTime() func([]string, slog.Attr) slog.Attr {
	if os.Getenv("JOURNAL_STREAM") == "" {
		return nil
	}
	return func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}
}
