// Package cli is the simulator's program: simulated sites, and the demo that runs a real
// gateway on one and checks that every reading arrives.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"homeward/drivers/sim/site"
)

// Exit codes of every command.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2 // wrong usage
)

// usageError is answered with exit 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errFailed ends a command with exit 1 after it has said everything itself.
var errFailed = errors.New("failed")

// Main runs the program and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	root := Command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return ExitDone
	case errors.Is(err, errFailed):
		return ExitFailed
	}
	if problems, ok := errors.AsType[site.Problems](err); ok { // one a line, as compilers do
		fmt.Fprintln(stderr, problems.Error())
		return ExitUsage
	}
	fmt.Fprintln(stderr, "homeward-simulate: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	// What cobra says of unknown commands has no type of its own.
	if errors.As(err, new(usageError)) || strings.HasPrefix(err.Error(), "unknown command") {
		return ExitUsage
	}
	return ExitFailed
}

// Command is the whole command tree.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:   "homeward-simulate",
		Short: "Simulated sites for homeward",
		Long: `Simulated instruments on simulated buses, for trying homeward out with nothing installed.

With a site's file it runs that site: its serial ports, chips, broker and faults, until --for or
Ctrl-C. Exit 0 when it ended; 2 when the file has a mistake, each named with its line.`,
		Example: `  homeward-simulate configs/sites/cellar.yaml --gateway /tmp/gateway.yaml --truth /tmp/truth.jsonl
  homeward-simulate demo`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	addRun(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(demoCommand(), verifyCommand())
	return root
}

// noArgs refuses arguments with exit 2.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	}
	return nil
}

// terminal says whether w is one; live output appears only there.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
