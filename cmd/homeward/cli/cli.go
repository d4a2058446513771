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
	"syscall"

	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/agent/config"
	"homeward/cmd/cmdline"
	"homeward/drivers/all"
)

// Main runs the program and returns its exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := Command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return cmdline.Run(ctx, root, func(err error) error {
		if problems, ok := errors.AsType[*config.Problems](err); ok {
			return problems
		}
		return nil
	})
}

// Command is the whole command tree.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:   "homeward",
		Short: "Read instruments, keep every reading, publish it",
		Long: `Homeward is an edge gateway agent: it reads sensors over serial lines, I2C and SPI,
keeps every reading through power cuts, and publishes them to an MQTT broker with as
few messages as possible.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cmdline.Usage(fmt.Errorf("unknown command %q: see homeward --help", args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(runCommand(), checkCommand(), scanCommand(), statusCommand(), decodeCommand(), bufferCommand(), planCommand(), updateCommand(), selfCheckCommand(), versionCommand())
	return root
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
		return nil, cmdline.Usage(fmt.Errorf("%w: run this as the user that the gateway runs as (sudo -u homeward …), or as root", err))
	case errors.Is(err, fs.ErrNotExist):
		return nil, cmdline.Usage(fmt.Errorf("%w: name the file with --config", err))
	case err != nil:
		return nil, cmdline.Usage(err)
	}
	return c, nil
}

// look reads a configuration to find its gateway's state folder, for commands that only look: a file with mistakes, which the
// running gateway does not use, does not keep them from it. Where nothing was ever written there, the mistakes are the answer.
func look(cmd *cobra.Command, path string) (*config.Config, error) {
	c, err := load(path)
	problems, ok := errors.AsType[*config.Problems](err)
	if !ok {
		return c, err
	}
	c, ferr := config.Fallback(path)
	if ferr != nil {
		return nil, err
	}
	if _, serr := os.Stat(agent.BufferPath(c.State)); serr != nil && !errors.Is(serr, fs.ErrPermission) {
		return nil, err
	}
	mistakes := "1 mistake"
	if n := len(problems.List); n > 1 {
		mistakes = fmt.Sprintf("%d mistakes", n)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "homeward: %s has %s, which homeward check --config %s names; this is the gateway of %s\n", path, mistakes, path, c.State)
	return c, nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// terminal says whether w is one; colour and live output appear only there.
func terminal(w io.Writer) bool { return cmdline.Terminal(w) && os.Getenv("NO_COLOR") == "" }

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
		return nil, cmdline.Usage(fmt.Errorf("--log %q: want debug, info, warn or error", level))
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
