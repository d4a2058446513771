package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/cmd/cmdline"
)

func planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Forecast the month: readings, payloads, operations, share of the budget",
		Long: `Say what a month with this configuration will bring: readings, payloads and operations by
format and by max_age, the share of the budget, the blocks that so many gateways need, what
dead-band, on_change, resolution and time_resolution save, and the cheapest setting that
keeps readings as fresh as wanted; beside it what one publish per reading would have cost.

Without more, sensors bring made-up values. --recording takes real ones: CSV files with the
columns t_ms (Unix ms), channel (sensor/channel) and value, as homeward buffer export
--format csv writes them, or folders of such files. --running takes what the gateway's
buffer holds, whether it runs or not.`,
		Example: `  homeward plan --config /etc/homeward/homeward.yaml
  homeward plan --devices 100 --prices
  homeward plan --recording readings.csv --freshness 15m
  homeward plan --running`,
		Args: cmdline.NoArgs,
	}
	path := configFlag(cmd)
	devices := cmd.Flags().Int("devices", 1, "number of gateways like this one")
	prices := cmd.Flags().Bool("prices", false, "with the prices that are known")
	recordings := cmd.Flags().StringArray("recording", nil, "CSV file or folder of such with real readings; may be given more than once")
	running := cmd.Flags().Bool("running", false, "with the readings that the gateway's buffer holds")
	var freshness config.Duration
	cmd.Flags().TextVar(&freshness, "freshness", config.Duration(0), "how long a reading may wait, for the cheapest setting; default: publish.max_age")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case *devices < 1:
			return cmdline.Usage(fmt.Errorf("--devices %d: want at least 1", *devices))
		case *running && len(*recordings) > 0:
			return cmdline.Usage(errors.New("--running and --recording: want one of them"))
		case cmd.Flags().Changed("freshness") && (freshness < config.Duration(100*time.Millisecond) || freshness > config.Duration(720*time.Hour)):
			return cmdline.Usage(fmt.Errorf("--freshness %v: want 100ms to 720h", freshness))
		}
		cfg, err := load(*path)
		if err != nil {
			return err
		}
		o := ledger.PlanOptions{Devices: *devices, Prices: *prices, Thorough: true, Freshness: time.Duration(freshness)}
		if *running {
			o.Recording, err = fromBuffer(cmd, cfg, *path)
		} else if len(*recordings) > 0 {
			o.Recording, err = fromFiles(cfg, *recordings)
		}
		if err != nil {
			return err
		}
		p, err := ledger.Plan(cfg, o)
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

func fromFiles(cfg *config.Config, paths []string) (*ledger.Recording, error) {
	r := ledger.NewRecording(cfg)
	for _, path := range paths {
		if err := r.ReadFile(path); err != nil {
			return nil, cmdline.Usage(err)
		}
	}
	return r, nil
}

// fromBuffer reads the export as it is written. What a damaged file lacks is told, and no reason to give up.
func fromBuffer(cmd *cobra.Command, cfg *config.Config, path string) (*ledger.Recording, error) {
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	out, in := io.Pipe()
	exported := make(chan error, 1)
	go func() {
		err := export(ctx, cfg, path, "csv", in)
		_ = in.Close() // never fails
		exported <- err
	}()
	r := ledger.NewRecording(cfg)
	err := r.ReadBuffer(out)
	_ = out.CloseWithError(errors.New("no more is read")) // never fails
	stop()
	exportErr := <-exported
	switch {
	case err != nil && r.Empty() && exportErr != nil:
		return nil, exportErr // it ended before it began
	case err != nil:
		return nil, err
	case exportErr != nil:
		fmt.Fprintf(cmd.ErrOrStderr(), "homeward: %v\n", exportErr)
	}
	return r, nil
}
