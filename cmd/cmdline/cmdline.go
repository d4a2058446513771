// Package cmdline is what the command lines of the programs have in common: their exit codes, which errors are a mistake of
// whoever called, and errors that are told in one line.
package cmdline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes of every command.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2 // wrong usage or configuration
)

// ErrFailed ends a command with exit 1 after it has said everything itself.
var ErrFailed = errors.New("failed")

type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Exit ends a command with that code, after it has said everything itself.
func Exit(code int) error { return exit(code) }

type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usage makes an error one of wrong usage or configuration: exit 2.
func Usage(err error) error { return usageError{err} }

// Run runs the command of the tree that its arguments name, tells its error in one line and returns the exit code. list gives
// the mistakes of a file that an error holds, which are told as they are, one a line as compilers do; nil where there are none.
func Run(ctx context.Context, root *cobra.Command, list func(error) error) int {
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return see(cmd, err) })
	err := root.ExecuteContext(ctx)
	stderr := root.ErrOrStderr()
	switch {
	case err == nil:
		return ExitDone
	case errors.Is(err, ErrFailed):
		return ExitFailed
	}
	if code, ok := errors.AsType[exit](err); ok {
		return int(code)
	}
	if problems := list(err); problems != nil {
		fmt.Fprintln(stderr, problems)
		return ExitUsage
	}
	fmt.Fprintln(stderr, root.Name()+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.As(err, new(usageError)) || isCobraUsage(err) {
		return ExitUsage
	}
	return ExitFailed
}

// isCobraUsage recognises what cobra says of unknown commands, which has no type of its own.
func isCobraUsage(err error) bool {
	return strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "required flag")
}

// see says where the command is described.
func see(cmd *cobra.Command, err error) error {
	return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
}

// NoArgs refuses arguments.
func NoArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return see(cmd, err)
	}
	return nil
}

// Terminal says whether w is one; live output appears only there.
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
