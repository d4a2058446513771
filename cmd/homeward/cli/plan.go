package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"homeward/agent/ledger"
	"homeward/cmd/cmdline"
)

func planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Forecast the month: readings, payloads, operations, share of the budget",
		Long: `Say what a month with this configuration will bring: readings, payloads and operations, the
share of the budget, and what one publish per reading would have cost.`,
		Example: `  homeward plan --config /etc/homeward/homeward.yaml
  homeward plan --devices 100 --prices`,
		Args: cmdline.NoArgs,
	}
	path := configFlag(cmd)
	devices := cmd.Flags().Int("devices", 1, "number of gateways like this one")
	prices := cmd.Flags().Bool("prices", false, "with the prices that are known")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *devices < 1 {
			return cmdline.Usage(fmt.Errorf("--devices %d: want at least 1", *devices))
		}
		cfg, err := load(*path)
		if err != nil {
			return err
		}
		p, err := ledger.Plan(cfg, ledger.PlanOptions{Devices: *devices, Prices: *prices})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), p)
		}
		return p.Print(cmd.OutOrStdout())
	}
	return cmd
}
