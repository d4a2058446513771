// Package cli is the simulator's program: simulated sites, and the demo that runs a real
// gateway on one and checks that every reading arrives.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"homeward/cmd/cmdline"
	"homeward/drivers/sim/site"
)

// Main runs the program and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	root := Command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return cmdline.Run(ctx, root, func(err error) error {
		if problems, ok := errors.AsType[site.Problems](err); ok {
			return problems
		}
		return nil
	})
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
	}
	addRun(root)
	root.AddCommand(demoCommand(), verifyCommand())
	return root
}
