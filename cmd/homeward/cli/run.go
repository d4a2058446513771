package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/agent/cloud"
	"homeward/agent/cloud/mqtt"
	"homeward/agent/config"
	"homeward/buffer"
	"homeward/cmd/cmdline"
	"homeward/drivers/hostbus"
	"homeward/drivers/sim"
	"homeward/ota"
)

// stopBound is the longest a stop may take.
const stopBound = 5 * time.Second

func runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway until SIGTERM",
		Long: `Run the gateway: sample, keep, publish.

SIGTERM or SIGINT flushes, seals and stops within five seconds. SIGHUP reads the
configuration again; a file with mistakes changes nothing and shows in homeward status.`,
		Example: "  homeward run --config /etc/homeward/homeward.yaml",
		Args:    cmdline.NoArgs,
	}
	path := configFlag(cmd)
	level := cmd.Flags().String("log", "info", "least level that is logged: debug, info, warn, error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		log, err := logger(cmd.ErrOrStderr(), *level)
		if err != nil {
			return err
		}
		cfg, err := load(*path)
		if err != nil {
			return err
		}
		return run(cmd.Context(), cfg, *path, log)
	}
	return cmd
}

func run(ctx context.Context, cfg *config.Config, path string, log *slog.Logger) error {
	// A gateway shares a small box: give memory back soon rather than late.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40)
	}
	o, err := options(ctx, cfg, log)
	if err != nil {
		return err
	}
	o.Reload = func() (*config.Config, error) { return load(path) }
	o.Updates = updates(path)
	late := func() {
		log.Error("not stopped in time", "after", stopBound)
		os.Exit(cmdline.ExitFailed)
	}
	o.Notify = func(state string) {
		if state == "STOPPING=1" { // for a signal or for an update
			time.AfterFunc(stopBound, late)
		}
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("service manager not told", "error", err)
		}
	}
	if o.Watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		log.Warn("watchdog setting not understood", "error", err)
	}
	ready := alive(o.Notify, o.Watchdog)
	a, err := agent.New(o)
	ready()
	if err != nil {
		return startError(cfg, err)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ended := context.AfterFunc(ctx, func() {
		time.Sleep(stopBound)
		late()
	})
	defer ended()
	debug.FreeOSMemory() // what reading the configuration left behind: 3 MB that an idle gateway would keep for minutes
	lean := keepLean(log)
	defer lean()
	err = a.Run(ctx, hup)
	if errors.Is(err, agent.ErrRestart) {
		return cmdline.Exit(ota.ExitRestart)
	}
	return err
}

// startBound is how long a start may take before it counts as hung: a large buffer may have to be looked through first.
const startBound = 80 * time.Second

// alive feeds the watchdog while the agent is made, for startBound at most: that of a release on trial runs from its first moment.
func alive(notify func(string), watchdog time.Duration) (stop func()) {
	if watchdog <= 0 {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startBound)
	var owner sync.WaitGroup
	owner.Go(func() {
		tick := time.NewTicker(watchdog / 3)
		defer tick.Stop()
		for {
			notify("WATCHDOG=1")
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		cancel()
		owner.Wait()
	}
}

// startError says what to do where a gateway cannot start on its state folder.
func startError(cfg *config.Config, err error) error {
	switch {
	case errors.Is(err, buffer.ErrBusy):
		return fmt.Errorf("%w: another gateway runs with the state folder %s: look at it with homeward status, stop it (systemctl stop homeward), or give this one another state folder (state:)", err, cfg.State)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run this as the user that owns the state folder (sudo -u homeward …), or as root, or give this gateway another state folder (state:)", err)
	}
	return err
}

// options is what run and check have in common: the real world, or the simulated one
// behind $HOMEWARD_SIM.
func options(ctx context.Context, cfg *config.Config, log *slog.Logger) (agent.Options, error) {
	o := agent.Options{Config: cfg, Version: Version(), OpenBus: hostbus.Open, NewCloud: newCloud, Log: log}
	var err error
	if os.Getenv("HOMEWARD_SIM") != "" {
		o.Clock, err = agent.SimClock(ctx, sim.Clock)
	} else {
		o.Clock, err = agent.KernelClock(ctx)
	}
	return o, err
}

func newCloud(cfg *config.Config, epoch buffer.Epoch, log *slog.Logger) (cloud.Cloud, error) {
	h := cfg.Home
	id := h.ClientID
	if id == "" {
		id = fmt.Sprintf("%s-%d", cfg.Gateway, epoch)
	}
	var password func() (string, error)
	if h.PasswordFile != "" {
		password = func() (string, error) {
			secret, err := config.ReadSecret(h.PasswordFile)
			return string(secret), err
		}
	}
	return mqtt.New(mqtt.Options{
		URL: h.URL, ClientID: id, Username: h.Username, Password: password,
		CAFile: h.CAFile, CertFile: h.CertFile, KeyFile: h.KeyFile, ReadSecret: config.ReadSecret,
		Prefix: h.Prefix, Organization: h.Organization, Project: h.Project, Gateway: cfg.Gateway,
		Clean: epoch == 0, // nothing was recorded yet: a check before the first run
		Log:   log,
	})
}
