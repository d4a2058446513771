package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"homeward/agent"
	"homeward/agent/status"
	"homeward/cmd/cmdline"
)

const (
	startBound = 20 * time.Second
	drainBound = 30 * time.Second
	stopBound  = 6 * time.Second
	// maxSocketPath is what a unix socket's address holds (unix(7): 108 bytes with the final zero).
	maxSocketPath = 107
)

func demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a real gateway on a simulated site",
		Long: `Run the real homeward on a simulated site: a boiler with ten Modbus registers on a serial
line, a BME280 on I2C, an MCP3008 on SPI, and an MQTT broker. Nothing has to be
installed, and nothing leaves this machine.

It ends after --for, or with Ctrl-C; then the instruments stop, the backlog is drained, and
each reading that reached the broker is compared with what the instruments served.
Exit 0 only if all arrived, once recorded, unchanged and in order.`,
		Example: `  homeward-simulate demo
  homeward-simulate demo --for 30s`,
		Args: cmdline.NoArgs,
	}
	var d demo
	cmd.Flags().DurationVar(&d.length, "for", 0, "end by itself after this time; 0: with Ctrl-C")
	cmd.Flags().StringVar(&d.dir, "dir", "", "new or empty folder for configuration, state and log, which is kept; default: a temporary one")
	cmd.Flags().StringVar(&d.program, "homeward", "", "the gateway's program; default: homeward beside this one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if d.length < 0 {
			return cmdline.Usage(fmt.Errorf("--for %v: want a time such as 30s or 5m", d.length))
		}
		d.out, d.live = cmd.OutOrStdout(), cmdline.Terminal(cmd.OutOrStdout())
		return d.run(cmd.Context())
	}
	return cmd
}

// demo is one run of it.
type demo struct {
	length       time.Duration // 0: until ctx ends
	dir, program string        // "": the defaults
	out          io.Writer
	live         bool // out is a terminal

	site   *demoSite
	gw     *gateway
	config string        // path
	listen string        // of the status page
	last   status.Status // the gateway's, before it was stopped
	lines  int           // of the live summary on the screen
}

func (d *demo) run(ctx context.Context) (err error) {
	program, err := findGateway(d.program)
	if err != nil {
		return err
	}
	keep := d.dir != ""
	if d.dir, err = demoFolder(d.dir); err != nil {
		return err
	}
	defer func() {
		if err == nil && !keep {
			err = os.RemoveAll(d.dir)
		} else {
			fmt.Fprintf(d.out, "left in %s: configuration, state and log\n", d.dir)
		}
	}()
	state := filepath.Join(d.dir, "state")
	simLog, err := os.Create(filepath.Join(d.dir, "simulator.log"))
	if err != nil {
		return err
	}
	defer simLog.Close()
	if d.site, err = openSite(d.dir, slog.New(slog.NewTextHandler(simLog, nil))); err != nil {
		return err
	}
	defer d.site.Close()
	if d.listen, err = freePort(); err != nil {
		return err
	}
	d.config = filepath.Join(d.dir, "homeward.yaml")
	if err := os.WriteFile(d.config, []byte(d.site.config(state, d.listen, false)), 0o644); err != nil {
		return err
	}
	log := filepath.Join(d.dir, "homeward.log")
	d.gw, err = startGateway(program, d.config, state, log, d.site.Socket())
	if err != nil {
		return err
	}
	defer d.gw.stop(stopBound) // stopped already, unless something failed
	if _, err := d.gw.until(ctx, startBound, func(status.Status) bool { return true }); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted before the gateway had started")
		}
		if d.gw.ended() == nil {
			err = fmt.Errorf("the gateway does not answer: %w; the end of its log:\n%s", err, tail(log, 15))
		}
		return d.fail(err)
	}
	d.announce(log)
	begin := time.Now()
	if err := d.watch(ctx); err != nil {
		return d.fail(err)
	}
	ran := time.Since(begin)
	fmt.Fprintf(d.out, "\nending: the instruments stop, the backlog drains\n")
	wrong, err := d.end(state)
	if err != nil {
		return d.fail(err)
	}
	return d.summary(ran, wrong)
}

// fail says what is wrong on stdout, where the rest stands.
func (d *demo) fail(err error) error {
	fmt.Fprintln(d.out, "FAILED: "+err.Error())
	return cmdline.ErrFailed
}

// demoFolder makes dir, or a temporary one.
func demoFolder(dir string) (string, error) {
	temporary := dir == ""
	if temporary {
		dir = filepath.Join(os.TempDir(), "homeward-demo-0123456789") // as long as what is made below
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if path := agent.SocketPath(filepath.Join(dir, "state")); len(path) > maxSocketPath {
		return "", cmdline.Usage(fmt.Errorf("%s is too long for a socket's path: want at most %d bytes; name a shorter folder with --dir", path, maxSocketPath))
	}
	if temporary {
		return os.MkdirTemp("", "homeward-demo-")
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return "", cmdline.Usage(fmt.Errorf("--dir %s is not empty: name a new folder", dir))
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// freePort is a port that is free now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (d *demo) announce(log string) {
	host, port, _ := net.SplitHostPort(d.site.Broker())
	p := func(what, where string) { fmt.Fprintf(d.out, "  %-14s %s\n", what, where) }
	fmt.Fprintln(d.out, "A gateway with three simulated instruments. Where to look:")
	p("status page", "http://"+d.listen+"/")
	p("readings", fmt.Sprintf("mosquitto_sub -h %s -p %s -t %s/readings", host, port, d.site.topics))
	p("", fmt.Sprintf("broker %s, topics %s/{readings,alarms,status}", d.site.Broker(), d.site.topics))
	p("configuration", d.config)
	p("socket", fmt.Sprintf("%s  (%s status --config %s)", d.gw.socket, d.gw.cmd.Path, d.config))
	p("log", log)
	p("instruments", d.site.Socket()+"  (for $HOMEWARD_SIM)")
	if d.length == 0 {
		fmt.Fprintln(d.out, "Ctrl-C ends it.")
	}
	fmt.Fprintln(d.out)
}

// watch shows how it goes until it is time to end. An error means that the gateway has died.
func (d *demo) watch(ctx context.Context) error {
	if d.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.length)
		defer cancel()
	}
	every := 5 * time.Second
	if d.live {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.gw.done:
			return d.gw.ended()
		case <-tick.C:
		}
		if v, err := d.gw.status(ctx); err == nil {
			d.show(v)
		} else if ctx.Err() == nil && d.gw.ended() == nil {
			fmt.Fprintf(d.out, "the gateway does not tell its status: %v\n", err)
			d.lines = 0
		}
	}
}

// sampled is how many readings were recorded in this epoch.
func sampled(v status.Status) (n uint64) {
	for _, l := range v.Buffer.Lanes {
		if l.Epoch == v.Home.Epoch && l.Next > 0 {
			n = l.Next - 1
		}
	}
	return n
}

func (d *demo) show(v status.Status) {
	c := d.site.acc.counts()
	var sensors, problems []string
	for _, s := range v.Sensors {
		sensors = append(sensors, s.Name+" "+s.State)
	}
	for _, p := range v.Problems {
		problems = append(problems, strings.TrimSpace(p.Code+" "+p.Subject)+": "+p.Text)
	}
	if !d.live {
		fmt.Fprintf(d.out, "sampled %d, delivered %d, payloads %d, backlog %d, operations %d; %s; problems: %s\n", sampled(v), c.readings, c.payloads,
			v.Buffer.Pending, v.Publish.Operations, strings.Join(sensors, ", "), orNone(problems))
		return
	}
	rows := [][2]string{
		{"home", fmt.Sprintf("%s, up %v", v.Home.State, time.Duration(v.UptimeS)*time.Second)},
		{"readings", fmt.Sprintf("%d sampled, %d delivered, %d wait", sampled(v), c.readings, v.Buffer.Pending)},
		{"payloads", fmt.Sprintf("%d, %s; %.1f readings each", c.payloads, size(c.bytes), each(c.readings, c.payloads))},
		{"operations", fmt.Sprintf("%d, %d this month", v.Publish.Operations, v.Operations.Used)},
		{"instruments", strings.Join(sensors, ", ")},
		{"problems", orNone(problems)},
	}
	if d.lines > 0 {
		fmt.Fprintf(d.out, "\x1b[%dA", d.lines)
	}
	for _, r := range rows {
		fmt.Fprintf(d.out, "\x1b[2K\x1b[?7l  %-12s %s\x1b[?7h\n", r[0], r[1]) // one line each, cut at the edge
	}
	d.lines = len(rows)
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, "; ")
}

func each(n, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

func size(n uint64) string {
	if n < 10000 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f KB", float64(n)/1000)
}

// end stops the instruments' being read, waits for the backlog, stops the gateway and compares. Ctrl-C
// does not shorten it; every wait is bounded.
func (d *demo) end(state string) (wrong []string, err error) {
	ctx := context.Background()
	if err := os.WriteFile(d.config, []byte(d.site.config(state, d.listen, true)), 0o644); err != nil {
		return nil, err
	}
	if err := d.gw.signal(syscall.SIGHUP); err != nil {
		return nil, err
	}
	v, err := d.gw.until(ctx, startBound, func(v status.Status) bool {
		for _, s := range v.Sensors {
			if s.State != "disabled" {
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("the gateway was told to disable its sensors, and has not: %w", err)
	}
	v, err = d.gw.until(ctx, drainBound, func(v status.Status) bool { return v.Buffer.Pending == 0 && v.Publish.InFlight == 0 })
	if err != nil {
		if gone := d.gw.ended(); gone != nil {
			return nil, gone
		}
		wrong = append(wrong, fmt.Sprintf("the backlog was not drained: %d readings still wait, %d payloads are on their way (%v)", v.Buffer.Pending, v.Publish.InFlight, err))
	}
	d.last = v
	if err := d.gw.stop(stopBound); err != nil {
		wrong = append(wrong, err.Error())
	}
	// The broker may acknowledge a payload a moment before it passes it on.
	for end := time.Now().Add(2 * time.Second); d.site.acc.counts().contiguous < sampled(v) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	c := claims{recorded: sampled(v), delivered: v.Buffer.Delivered, sensors: map[string]polls{}}
	for _, s := range v.Sensors {
		c.sensors[s.Name] = polls{s.Polls, s.Errors, s.Readings}
	}
	return append(wrong, d.site.acc.verify(c, d.site.channels)...), nil
}

func (d *demo) summary(ran time.Duration, wrong []string) error {
	c := d.site.acc.counts()
	fmt.Fprintf(d.out, "\nin %v:\n", ran.Round(100*time.Millisecond))
	for _, r := range []struct {
		what string
		n    any
	}{
		{"readings sampled", sampled(d.last)}, {"readings delivered", c.readings}, {"repeats dropped", c.repeats},
		{"payloads", c.payloads}, {"bytes", c.bytes}, {"readings per payload", fmt.Sprintf("%.1f", each(c.readings, c.payloads))},
		{"operations", d.last.Publish.Operations},
	} {
		fmt.Fprintf(d.out, "  %-21s %12v\n", r.what, r.n)
	}
	if len(wrong) > 0 {
		return d.fail(errors.New(strings.Join(wrong, "\n        ")))
	}
	fmt.Fprintln(d.out, "every reading arrived: each once, in order, with the value and time that its instrument served")
	return nil
}
