package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/buffer"
	"homeward/drivers"
)

// Line is one line of the leave-site check.
type Line struct {
	Name   string `json:"name"`
	Result string `json:"result"` // ok, warn, fail
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

const (
	resultOK   = "ok"
	resultWarn = "warn"
	resultFail = "fail"
)

const sensorBound, homeBound = 15 * time.Second, 20 * time.Second

// check is the leave-site check beside a running agent: it disturbs nothing.
// digest is that of the file which the caller looks at.
func (a *Agent) check(ctx context.Context, digest string, offline bool) []Line {
	cfg := a.cfg.Load()
	lines := checkConfig(cfg)
	if digest != "" && digest != cfg.Digest {
		lines = append(lines, Line{"configuration", resultFail, "the running agent uses another configuration than this file; what follows is about the one it uses",
			"have it read the file (SIGHUP, or systemctl reload), or restart it, and check again"})
	}
	for _, p := range a.problems.list() {
		if p.Code == string(CodeConfigReload) || p.Code == string(CodeConfigRestart) || p.Code == string(CodeHomeChanged) {
			lines = append(lines, Line{"configuration", resultFail, p.Text, p.Remedy})
		}
	}
	lines = append(lines, checkSensors(cfg, func(c *config.Sensor) (int, error) {
		bound, cancel := context.WithTimeout(ctx, sensorBound)
		defer cancel()
		return a.sampler.readNow(bound, c.Name)
	})...)
	stats := a.buf.Stats()
	lines = append(lines, checkClock(a.Clock), checkDisk(cfg), checkBuffer(stats))
	if !offline {
		bound, cancel := context.WithTimeout(ctx, homeBound)
		defer cancel()
		if a.pub != nil {
			lines = append(lines, checkHome(cfg, a.pub.proveNow(bound)))
		}
	}
	return append(lines, checkBudget(cfg))
}

// Check is the same for a gateway that is not running: it opens the buses and the
// home itself, and writes nothing.
func Check(ctx context.Context, o Options, offline bool) []Line {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	cfg := o.Config
	lines := checkConfig(cfg)
	owners := map[drivers.Bus]*owner{}
	s := &sampler{open: o.OpenBus, clock: o.Clock, log: o.Log}
	lines = append(lines, checkSensors(cfg, func(c *config.Sensor) (int, error) {
		w := owners[c.Options.Bus()]
		if w == nil {
			w = &owner{sampler: s, bus: c.Options.Bus()}
			owners[w.bus] = w
		}
		x := newSensor(c, nil)
		defer x.close()
		readings, err := w.read(ctx, x)
		if errors.Is(err, drivers.ErrGone) {
			w.close()
		}
		return len(readings), err
	})...)
	for _, w := range owners {
		w.close()
	}
	lines = append(lines, checkClock(o.Clock), checkDisk(cfg))
	epoch := buffer.Epoch(0)
	if _, err := os.Stat(BufferPath(cfg.State)); err == nil {
		if b, err := buffer.Open(BufferPath(cfg.State), buffer.Options{ReadOnly: true, MaxBytes: int64(cfg.Buffer.MaxBytes)}); err != nil {
			lines = append(lines, Line{"buffer", resultFail, oneLine(err), "see docs/buffer.md; the agent sets damaged files aside by itself when it starts"})
		} else {
			for _, e := range b.Lanes() {
				epoch = max(epoch, e)
			}
			lines = append(lines, checkBuffer(b.Stats()))
			if text := homeChanged(b, cfg); text != "" {
				lines = append(lines, Line{"home", resultFail, text, homeChangedRemedy})
			}
			_ = b.Close()
		}
	}
	if !offline {
		lines = append(lines, checkHome(cfg, proveHome(ctx, o, epoch)))
	}
	return append(lines, checkBudget(cfg))
}

func proveHome(ctx context.Context, o Options, epoch buffer.Epoch) error {
	home, err := o.NewCloud(o.Config, epoch, o.Log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, homeBound)
	defer cancel()
	link, err := home.Dial(ctx, nil, nil)
	if err != nil {
		return err
	}
	defer link.Close(ctx, nil)
	return link.Prove(ctx)
}

func checkConfig(cfg *config.Config) []Line {
	lines := []Line{{"configuration", resultOK, fmt.Sprintf("%d sensors", len(cfg.Sensors)), ""}}
	for _, w := range cfg.Warnings {
		lines = append(lines, Line{"configuration", resultWarn, w.Path + ": " + w.Text, w.Remedy})
	}
	return lines
}

// checkSensors reads the sensors, one bus after another in parallel.
func checkSensors(cfg *config.Config, read func(*config.Sensor) (int, error)) []Line {
	lines := make([]Line, len(cfg.Sensors))
	byBus := map[drivers.Bus][]int{}
	for i := range cfg.Sensors {
		bus := cfg.Sensors[i].Options.Bus()
		byBus[bus] = append(byBus[bus], i)
	}
	var busy sync.WaitGroup
	var one sync.Mutex // read may keep a map of buses
	for _, list := range byBus {
		busy.Go(func() {
			for _, i := range list {
				c := &cfg.Sensors[i]
				if c.Disabled {
					lines[i] = Line{"sensor " + c.Name, resultWarn, "disabled", "remove disabled: true when it is wanted"}
					continue
				}
				one.Lock()
				n, err := read(c)
				one.Unlock()
				lines[i] = sensorLine(c, n, err)
			}
		})
	}
	busy.Wait()
	return lines
}

func sensorLine(c *config.Sensor, n int, err error) Line {
	l := Line{"sensor " + c.Name, resultOK, fmt.Sprintf("%s on %s: %d readings", c.Driver, c.Options.Bus().Name, n), ""}
	if err == nil {
		return l
	}
	l.Result, l.Text = resultFail, oneLine(err)
	if n > 0 {
		l.Text = fmt.Sprintf("%d of %d channels: %s", n, len(c.Channels), l.Text)
	}
	_, l.Remedy = sensorProblem(n, err)
	return l
}

func checkClock(c Clock) Line {
	now := c.Stamp()
	source, _ := c.Source()
	text := time.UnixMilli(now.Wall).UTC().Format(time.RFC3339) + ", by the " + source
	if !now.Trusted {
		return Line{"clock", resultWarn, text + ", not synchronised", "wait for the NTP client (timedatectl), or connect the network"}
	}
	return Line{"clock", resultOK, text, ""}
}

func checkDisk(cfg *config.Config) Line {
	var fs unix.Statfs_t
	dir := cfg.State
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return Line{"disk", resultWarn, fmt.Sprintf("state folder %s does not exist", dir), "create it, owned by the user that homeward runs as; as root homeward run makes it itself"}
	}
	if err := unix.Statfs(dir, &fs); err != nil {
		return Line{"disk", resultFail, fmt.Sprintf("state folder %s: %v", dir, err), "create it, owned by the user that homeward runs as"}
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return Line{"disk", resultFail, fmt.Sprintf("state folder %s cannot be written: %v", dir, err), "give it to the user that homeward runs as, or mount it read-write"}
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	text := fmt.Sprintf("%d MB free at %s", free/1e6, dir)
	if free < int64(cfg.Buffer.KeepFree) {
		return Line{"disk", resultFail, fmt.Sprintf("%s, less than buffer.keep_free: %d MB", text, int64(cfg.Buffer.KeepFree)/1e6), "free space, or lower buffer.keep_free"}
	}
	if free-int64(cfg.Buffer.KeepFree) < int64(cfg.Buffer.MaxBytes) {
		return Line{"disk", resultWarn, fmt.Sprintf("%s: the buffer can not grow to buffer.max_bytes: %d MB", text, int64(cfg.Buffer.MaxBytes)/1e6), "free space, or lower buffer.max_bytes so that the limit is the one you expect"}
	}
	return Line{"disk", resultOK, text, ""}
}

func checkBuffer(s buffer.Stats) Line {
	text := fmt.Sprintf("%d readings waiting, %d bytes of %d", s.Pending, s.Bytes, s.MaxBytes)
	switch {
	case s.Stopped:
		return Line{"buffer", resultFail, text + ", sampling stopped", "bring the home back or raise buffer.max_bytes"}
	case len(s.DamagedFiles) > 0:
		return Line{"buffer", resultWarn, fmt.Sprintf("%s, %d damaged files set aside", text, len(s.DamagedFiles)), "check the card (dmesg) and replace it if this happens again"}
	}
	return Line{"buffer", resultOK, text, ""}
}

func checkHome(cfg *config.Config, err error) Line {
	if err == nil {
		return Line{"home", resultOK, "reached and proven: " + cfg.Home.URL, ""}
	}
	_, remedy := homeProblem(err)
	return Line{"home", resultFail, oneLine(err), remedy}
}

func checkBudget(cfg *config.Config) Line {
	plan, err := ledger.Plan(cfg, ledger.PlanOptions{})
	if err != nil {
		return Line{"budget", resultWarn, oneLine(err), "see homeward plan"}
	}
	text := fmt.Sprintf("about %.0f operations a month", plan.Operations)
	if cfg.Operations.PerMonth == 0 {
		return Line{"budget", resultOK, text + ", no budget configured", ""}
	}
	text = fmt.Sprintf("%s of %d", text, cfg.Operations.PerMonth)
	if plan.Operations > float64(cfg.Operations.PerMonth) {
		return Line{"budget", resultFail, text, "raise publish.max_age or the sensors' every; homeward plan shows what each saves"}
	}
	return Line{"budget", resultOK, text, ""}
}
