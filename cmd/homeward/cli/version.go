package cli

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"homeward/cmd/cmdline"
)

// Set by the linker: -X homeward/cmd/homeward/cli.version=… (see the Makefile).
var (
	version = "dev"
	commit  = ""
	built   = "" // RFC 3339
)

// Version is the release's version.
func Version() string { return version }

type versionFacts struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Built   string `json:"built"`
	Go      string `json:"go"`
	Arch    string `json:"goarch"`
	Slot    string `json:"slot"`
}

func facts() versionFacts {
	f := versionFacts{Version: version, Commit: commit, Built: built, Go: runtime.Version(), Arch: runtime.GOARCH, Slot: os.Getenv("HOMEWARD_SLOT")}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "GOARM" && f.Arch == "arm" {
				f.Arch += "v" + strings.SplitN(s.Value, ",", 2)[0]
			}
		}
	}
	return f
}

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print version, commit, build date, Go, architecture and slot",
		Example: "  homeward version --json",
		Args:    cmdline.NoArgs,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f := facts()
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), f)
		}
		or := func(s string) string {
			if s == "" {
				return "unknown"
			}
			return s
		}
		slot := f.Slot
		if slot == "" {
			slot = "none"
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "homeward %s\ncommit %s\nbuilt  %s\n%s %s\nslot   %s\n", f.Version, or(f.Commit), or(f.Built), f.Go, f.Arch, slot)
		return err
	}
	return cmd
}
