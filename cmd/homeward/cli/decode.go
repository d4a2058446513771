package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"homeward/agent/pack"
	"homeward/cmd/cmdline"
)

func decodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "decode",
		Short: "Turn payloads back into readings",
		Long: `Read payloads from standard input, one a line, and print one JSON line a reading:

  {"gateway","epoch","seq","time","t_ms","channel","value","unit","quality"}

and one a gap:

  {"gateway","epoch","gap":{"from","to","n","t_from","t_to","reason"}}

A line that is no payload is named on standard error; the others are decoded all the same,
and the exit code is 1.`,
		Example: `  mosquitto_sub -h broker -t 'homeward/+/+/+/readings' | homeward decode
  homeward decode --hex < payloads.txt`,
		Args: cmdline.NoArgs,
	}
	asHex := cmd.Flags().Bool("hex", false, "the lines are hexadecimal")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d := pack.Decoder{Hex: *asHex, Bad: func(line int, err error) {
			fmt.Fprintf(cmd.ErrOrStderr(), "homeward: line %d: %v\n", line, err)
		}}
		bad, err := d.Run(cmd.InOrStdin(), cmd.OutOrStdout())
		if err == nil && bad > 0 {
			return cmdline.ErrFailed
		}
		return err
	}
	return cmd
}
