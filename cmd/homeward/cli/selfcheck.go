package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"homeward/cmd/cmdline"
)

// selfCheckCommand is what the running release asks of the next one before it lets it run: whether it starts on this machine at
// all, and understands the configuration.
func selfCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "selfcheck",
		Short:   "Say whether this program runs here and understands the configuration",
		Example: "  homeward selfcheck --config /etc/homeward/homeward.yaml",
		Args:    cmdline.NoArgs,
		Hidden:  true,
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load(*path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "homeward %s: gateway %s, %d sensors\n", Version(), cfg.Gateway, len(cfg.Sensors))
		return err
	}
	return cmd
}
