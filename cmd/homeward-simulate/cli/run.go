package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/cmd/cmdline"
	"homeward/drivers/sim/site"
)

// runFlags are what a site is run with.
type runFlags struct {
	dir, truth, gateway string
	length              time.Duration // 0: until ctx ends
	out                 io.Writer
}

// addRun lets the program itself take a site's file.
func addRun(root *cobra.Command) {
	var f runFlags
	root.Use = "homeward-simulate [SITE.yaml]"
	root.Flags().StringVar(&f.dir, "dir", "", "folder for the socket, the ports' links and the gateway's state, which is kept; default: a temporary one")
	root.Flags().StringVar(&f.truth, "truth", "", "write what was served, and each fault, to this file (JSON lines)")
	root.Flags().StringVar(&f.gateway, "gateway", "", "write the configuration of a gateway at this site to this file")
	root.Flags().DurationVar(&f.length, "for", 0, "end by itself after this time; 0: with Ctrl-C")
	root.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) > 1:
			return cmdline.Usage(fmt.Errorf("%d arguments: want one site's file: see homeward-simulate --help", len(args)))
		case len(args) == 1 && !strings.ContainsAny(args[0], "./"):
			if _, err := os.Stat(args[0]); errors.Is(err, fs.ErrNotExist) {
				return cmdline.Usage(fmt.Errorf("unknown command %q: see homeward-simulate --help", args[0]))
			}
		}
		return nil
	}
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			if cmd.Flags().NFlag() > 0 {
				return cmdline.Usage(errors.New("no site's file: want homeward-simulate SITE.yaml"))
			}
			return cmd.Help()
		}
		if f.length < 0 {
			return cmdline.Usage(fmt.Errorf("--for %v: want a time such as 30s or 5m", f.length))
		}
		f.out = cmd.OutOrStdout()
		return f.run(cmd.Context(), args[0])
	}
}

func (f *runFlags) run(ctx context.Context, path string) (err error) {
	s, err := site.Load(path)
	if err != nil {
		return cmdline.Usage(err)
	}
	dir, err := siteFolder(f.dir)
	if err != nil {
		return err
	}
	if f.dir == "" {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	say := &lines{w: f.out, start: time.Now()}
	o := site.Options{
		Dir: dir, Say: say.event, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Broker: func(l net.Listener) (io.Closer, error) { return serveBroker(l, nil) },
	}
	if f.truth != "" {
		if info, err := os.Stat(f.truth); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			return cmdline.Usage(fmt.Errorf("--truth %s: it is there already: want a new file, as it may be what another run is compared with", f.truth))
		}
		truth, err := os.Create(f.truth)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, truth.Close()) }()
		o.Truth = truth
	}
	r, err := s.Open(o)
	if err != nil {
		return err
	}
	defer func() {
		// That the truth file cannot be written both say.
		if closed := r.Close(); closed != nil && (err == nil || err.Error() != closed.Error()) {
			err = errors.Join(err, closed)
		}
	}()
	if f.gateway != "" {
		if err := os.WriteFile(f.gateway, []byte(r.Config(filepath.Join(dir, "state"), false)+hurry), 0o644); err != nil {
			return err
		}
	}
	f.offer(path, r)
	if f.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.length)
		defer cancel()
	}
	say.start = time.Now()
	return r.Run(ctx)
}

// hurry lets a gateway send what it has before somebody compares: by default a reading may wait for minutes.
const hurry = "publish: {max_age: 2s}\noperations: {per_month: 4000000}\n"

// siteFolder makes dir, which may have been used before, or a temporary one.
func siteFolder(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "homeward-site-")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if socket := agent.SocketPath(filepath.Join(dir, "state")); len(socket) > maxSocketPath {
		return "", cmdline.Usage(fmt.Errorf("%s is too long for a socket's path: want at most %d bytes; name a shorter folder with --dir", socket, maxSocketPath))
	}
	return dir, os.MkdirAll(dir, 0o755)
}

func (f *runFlags) offer(path string, r *site.Running) {
	p := func(what, where string) { fmt.Fprintf(f.out, "  %-8s %s\n", what, where) }
	fmt.Fprintf(f.out, "The simulated site %s:\n", path)
	for _, l := range r.Offer() {
		p(l[0], l[1])
	}
	if f.truth != "" {
		p("truth", f.truth)
	}
	if f.gateway != "" {
		p("gateway", f.gateway)
		p("", fmt.Sprintf("HOMEWARD_SIM=%s homeward run --config %s", r.Socket(), f.gateway))
	}
	if f.length == 0 {
		fmt.Fprintln(f.out, "Ctrl-C ends it.")
	}
}

// lines are printed with the time since the start. It is safe for use by several goroutines.
type lines struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
}

func (l *lines) event(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "%8v  %s\n", time.Since(l.start).Round(100*time.Millisecond), text)
}
