package cmdline

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

var errFile = errors.New("f.yaml:1:1: a\nf.yaml:2:1: b")

// Every error has its exit code, and but for a file's mistakes one line.
func TestRun(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		err  error
		code int
		said string
	}{
		{"done", nil, nil, ExitDone, ""},
		{"failed, and said so itself", nil, fmt.Errorf("x: %w", ErrFailed), ExitFailed, ""},
		{"failed", nil, errors.New("a\nb"), ExitFailed, "prog: a; b\n"},
		{"usage", nil, fmt.Errorf("x: %w", Usage(errors.New("--n 0: want 1"))), ExitUsage, "prog: x: --n 0: want 1\n"},
		{"a file's mistakes", nil, fmt.Errorf("x: %w", errFile), ExitUsage, "f.yaml:1:1: a\nf.yaml:2:1: b\n"},
		{"a flag", []string{"do", "--m"}, nil, ExitUsage, "prog: unknown flag: --m: see prog do --help\n"},
		{"an argument", []string{"do", "it"}, nil, ExitUsage, "prog: unknown command \"it\" for \"prog do\": see prog do --help\n"},
		{"a command", []string{"sing"}, nil, ExitUsage, "prog: unknown command \"sing\" for \"prog\"\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := &cobra.Command{Use: "prog"}
			root.AddCommand(&cobra.Command{Use: "do", Args: NoArgs, RunE: func(*cobra.Command, []string) error { return c.err }})
			if c.args == nil {
				c.args = []string{"do"}
			}
			root.SetArgs(c.args)
			var out, errs bytes.Buffer
			root.SetOut(&out)
			root.SetErr(&errs)
			code := Run(t.Context(), root, func(err error) error {
				if errors.Is(err, errFile) {
					return errFile
				}
				return nil
			})
			require.Equal(t, c.code, code)
			require.Equal(t, c.said, errs.String())
			require.Empty(t, out.String())
		})
	}
	require.False(t, Terminal(new(bytes.Buffer)))
}
