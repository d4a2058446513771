package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"homeward/agent/config"
	"homeward/agent/home"
	"homeward/agent/ledger"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/buffer/durable"
	"homeward/drivers"
	"homeward/ota"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// Line is one line of the leave-site check.
type Line struct {
	Name   string `json:"name"`
	Result string `json:"result"` // ok, warn, fail
	Text   string `json:"text"`
	Remedy string `json:"remedy"`

	Values []Value `json:"values,omitempty"` // of a sensor
}

// Value is one that a sensor gave.
type Value struct {
	Channel string       `json:"channel"`
	Value   float64      `json:"value"`
	Unit    drivers.Unit `json:"unit"`
}

// Lines are made by these alone: none that warns or fails is without a remedy.

func okLine(name, text string) Line { return Line{Name: name, Result: resultOK, Text: text} }

func warnLine(name, text, remedy string) Line { return badLine(resultWarn, name, text, remedy) }

func failLine(name, text, remedy string) Line { return badLine(resultFail, name, text, remedy) }

// lastRemedy is for what has no better one.
const lastRemedy = "see homeward status and docs/codes.md, and the agent's log"

func badLine(result, name, text, remedy string) Line {
	if remedy == "" {
		remedy = lastRemedy
	}
	return Line{Name: name, Result: result, Text: text, Remedy: remedy}
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
		lines = append(lines, failLine("configuration", "the running agent uses another configuration than this file; what follows is about the one it uses",
			"have it read the file (SIGHUP, or systemctl reload), or restart it, and check again"))
	}
	for _, p := range a.problems.list() {
		if slices.Contains(configCodes, Code(p.Code)) {
			lines = append(lines, failLine("configuration", p.Text, p.Remedy))
		}
	}
	lines = append(lines, checkSensors(cfg, func(c *config.Sensor) ([]drivers.Reading, error) {
		bound, cancel := context.WithTimeout(ctx, sensorBound)
		defer cancel()
		return patiently(bound, func() ([]drivers.Reading, error) { return a.sampler.readNow(bound, c.Name) })
	})...)
	stats := a.buf.Stats()
	lines = append(lines, checkClock(a.Clock), checkDisk(cfg), a.checkBacklog(checkBuffer(stats, a.Clock)))
	if !offline {
		bound, cancel := context.WithTimeout(ctx, homeTime(int(cfg.Publish.MaxBytes)))
		defer cancel()
		if a.pub != nil {
			lines = append(lines, checkHome(cfg, a.pub.proveNow(bound)))
		} else {
			lines = append(lines, failLine("home", "not asked: the state folder belongs to another home", homeChangedRemedy))
		}
	}
	lines = append(append(lines, checkCard(cfg)...), checkBudget(cfg), checkUpdate(ctx, cfg, a.Clock, offline))
	return append(lines, standing(a.problems.list(), lines, offline)...)
}

// configCodes have lines of their own, named configuration.
var configCodes = []Code{CodeConfigReload, CodeConfigRestart, CodeHomeChanged}

// standing gives a line to each problem of the agent that the lines of the check do not show already.
func standing(list []status.Problem, lines []Line, offline bool) (more []Line) {
	bad := map[string]bool{}
	failed := map[string]bool{}
	for _, l := range lines {
		bad[l.Name] = bad[l.Name] || l.Result != resultOK
		failed[l.Name] = failed[l.Name] || l.Result == resultFail
	}
	for _, p := range list {
		name, sensor := p.Code, "sensor "+p.Subject
		if p.Subject != "" {
			name += " " + p.Subject
		}
		switch code := Code(p.Code); {
		case slices.Contains(configCodes, code), code == CodeConfigWarning:
			continue
		case slices.Contains(homeCodes, code) && (offline || failed["home"]): // offline, it is not asked for
			continue
		case code == CodeClock && bad["clock"], code == CodeBufferFull && failed["buffer"], code == CodeBufferDamaged && bad["buffer"] && !failed["buffer"]:
			continue
		case slices.Contains(sensorCodes, code) && failed[sensor]:
			continue
		case slices.Contains(sensorCodes, code) && code != CodeSensorSlow: // its next poll may be far off
			more = append(more, warnLine(sensor, "it answers now, and did not at its last poll: "+p.Text, p.Remedy))
		case p.Severity == status.Fail:
			more = append(more, failLine(name, p.Text, p.Remedy))
		default:
			more = append(more, warnLine(name, p.Text, p.Remedy))
		}
	}
	return more
}

// lateBacklog is how much older than the maximum age the oldest reading may be while the home takes readings.
const lateBacklog = time.Minute

// checkBacklog warns of readings that should have left, or that the budget keeps.
func (a *Agent) checkBacklog(l Line) Line {
	s := a.Status()
	age := time.Duration(s.Buffer.OldestAgeS * float64(time.Second)).Round(time.Second)
	most, what := a.cfg.Load().Publish.MaxAge, "publish.max_age"
	if now := config.Duration(s.Publish.MaxAgeS * float64(time.Second)); now > most {
		most, what = config.Duration(time.Duration(now).Round(time.Second)), "the present maximum age"
	}
	if l.Result != resultOK || !s.Publish.Connected || s.Home.State != "proven" || s.Buffer.Pending == 0 || age <= time.Duration(most)+lateBacklog {
		return l
	}
	text := fmt.Sprintf("%s; the home takes readings, and this one waits for %v, longer than %s: %v", l.Text, config.Duration(age), what, most)
	switch o := s.Operations; o.LimitState {
	case "stretched", ledger.Hold, ledger.Thin:
		return warnLine(l.Name, fmt.Sprintf("%s; %s: %s", text, o.LimitState, o.LimitText),
			"homeward plan says what saves operations; or raise operations.per_month, or choose another operations.at_limit: see docs/operations.md")
	}
	return warnLine(l.Name, text,
		"after an outage wait until the backlog has left and check again; if it does not shrink, look at homeward status for publish problems, raise publish.backlog_share, or have the receiver confirm (acknowledge: receiver)")
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
	lines = append(lines, checkSensors(cfg, func(c *config.Sensor) ([]drivers.Reading, error) {
		w := owners[c.Options.Bus()]
		if w == nil {
			w = &owner{sampler: s, bus: c.Options.Bus()}
			owners[w.bus] = w
		}
		x := newSensor(c, nil)
		defer x.close()
		bound, cancel := context.WithTimeout(ctx, sensorBound)
		defer cancel()
		readings, err := patiently(bound, func() ([]drivers.Reading, error) { return w.read(bound, x) })
		if errors.Is(err, drivers.ErrGone) {
			w.close()
		}
		return readings, err
	})...)
	for _, w := range owners {
		w.close()
	}
	lines = append(lines, checkClock(o.Clock), checkDisk(cfg))
	epoch := buffer.Epoch(0)
	if _, err := os.Stat(BufferPath(cfg.State)); err == nil {
		if b, err := buffer.Open(BufferPath(cfg.State), buffer.Options{ReadOnly: true, MaxBytes: int64(cfg.Buffer.MaxBytes)}); err != nil {
			lines = append(lines, failLine("buffer", oneLine(err), "see docs/buffer.md; the agent sets damaged files aside by itself when it starts"))
		} else {
			for _, e := range b.Lanes() {
				epoch = max(epoch, e)
			}
			lines = append(lines, checkBuffer(b.Stats(), o.Clock))
			if text := homeChanged(b, cfg); text != "" {
				lines = append(lines, failLine("home", text, homeChangedRemedy))
			}
			_ = b.Close()
		}
	}
	if !offline {
		lines = append(lines, checkHome(cfg, proveHome(ctx, o, epoch)))
	}
	return append(append(lines, checkCard(cfg)...), checkBudget(cfg), checkUpdate(ctx, cfg, o.Clock, offline))
}

// CheckReceipt is [Check] with a receipt, signed with the key of the state folder, which is made if there is none.
func CheckReceipt(ctx context.Context, o Options, offline bool) (Checked, error) {
	key, err := home.Key(o.Config.State)
	if err != nil {
		return Checked{}, err
	}
	lines := Check(ctx, o, offline)
	return receipt(key, aboutNow(o.Config, o.Version, offline, o.Clock), lines), nil
}

// patiently asks again when an instrument has said that it has nothing yet, until ctx ends.
func patiently(ctx context.Context, read func() ([]drivers.Reading, error)) ([]drivers.Reading, error) {
	for {
		readings, err := read()
		held := new(drivers.HeldError)
		if !errors.As(err, &held) {
			return readings, err
		}
		select {
		case <-time.After(held.After):
		case <-ctx.Done():
			return readings, err
		}
	}
}

// homeTime bounds a connection and a proof of so many bytes.
func homeTime(bytes int) time.Duration { return homeBound - proofBound + proofTime(bytes) }

func proveHome(ctx context.Context, o Options, epoch buffer.Epoch) error {
	there, err := o.NewCloud(o.Config, epoch, o.Log)
	if err != nil {
		return err
	}
	size := largest(&o.Config.Publish, there.Limits())
	ctx, cancel := context.WithTimeout(ctx, homeTime(size))
	defer cancel()
	link, err := there.Dial(ctx, nil, nil)
	if err != nil {
		return err
	}
	defer link.Close(ctx, nil)
	return link.Prove(ctx, size)
}

func checkConfig(cfg *config.Config) []Line {
	count := "1 sensor"
	if n := len(cfg.Sensors); n != 1 {
		count = fmt.Sprintf("%d sensors", n)
	}
	lines := []Line{okLine("configuration", count)}
	for _, w := range cfg.Warnings {
		lines = append(lines, warnLine("configuration", w.Path+": "+w.Text, w.Remedy))
	}
	return lines
}

// checkSensors reads the sensors, one bus after another in parallel.
func checkSensors(cfg *config.Config, read func(*config.Sensor) ([]drivers.Reading, error)) []Line {
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
					lines[i] = warnLine("sensor "+c.Name, "disabled", "remove disabled: true when it is wanted")
					continue
				}
				one.Lock()
				readings, err := read(c)
				one.Unlock()
				lines[i] = sensorLine(c, readings, err)
			}
		})
	}
	busy.Wait()
	return lines
}

// maxShown bounds the values in a line's text; all of them are in its Values, up to maxValues.
const maxShown, maxValues = 6, 64

func sensorLine(c *config.Sensor, readings []drivers.Reading, err error) Line {
	name, n := "sensor "+c.Name, len(readings)
	var values []Value
	var shown, outside []string
	for i, r := range readings {
		text := fmt.Sprintf("%s %.6g %s", r.Channel, r.Value, r.Unit)
		if i < maxShown {
			shown = append(shown, strings.TrimSpace(text))
		}
		if i < maxValues {
			values = append(values, Value{r.Channel, r.Value, r.Unit})
		}
		for _, ch := range c.Channels {
			if ch.Name == r.Channel && (ch.Min != nil && r.Value < *ch.Min || ch.Max != nil && r.Value > *ch.Max) && len(outside) < maxShown {
				outside = append(outside, strings.TrimSpace(text))
			}
		}
	}
	if n > maxShown {
		shown = append(shown, fmt.Sprintf("and %d more", n-maxShown))
	}
	l := okLine(name, fmt.Sprintf("%s on %s: %s", c.Driver, c.Options.Bus().Name, strings.Join(shown, ", ")))
	switch {
	case err != nil:
		_, remedy := sensorProblem(c.Options.Bus().Kind, n, err)
		text := oneLine(err)
		if n > 0 {
			text = fmt.Sprintf("%d of %d channels: %s", n, len(c.Channels), text)
		}
		l = failLine(name, text, remedy)
	case len(outside) > 0:
		l = warnLine(name, "outside min and max: "+strings.Join(outside, ", "), "check the instrument and its wiring, or the channel's min, max, scale and type")
	}
	l.Values = values
	return l
}

func checkClock(c Clock) Line {
	now := c.Stamp()
	source, _ := c.Source()
	text := time.UnixMilli(now.Wall).UTC().Format(time.RFC3339) + ", by the " + source
	if !now.Trusted {
		return warnLine("clock", text+", not synchronised", "wait for the NTP client (timedatectl), or connect the network")
	}
	return okLine("clock", text)
}

func checkDisk(cfg *config.Config) Line {
	var fs unix.Statfs_t
	dir := cfg.State
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return warnLine("disk", fmt.Sprintf("state folder %s does not exist", dir), "create it, owned by the user that homeward runs as; as root homeward run makes it itself")
	}
	if err := unix.Statfs(dir, &fs); err != nil {
		return failLine("disk", fmt.Sprintf("state folder %s: %v", dir, err), "create it, owned by the user that homeward runs as")
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return failLine("disk", fmt.Sprintf("state folder %s cannot be written: %v", dir, err), "give it to the user that homeward runs as, or mount it read-write")
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	text := fmt.Sprintf("%d MB free at %s", free/1e6, dir)
	if free < int64(cfg.Buffer.KeepFree) {
		return failLine("disk", fmt.Sprintf("%s, less than buffer.keep_free: %d MB", text, int64(cfg.Buffer.KeepFree)/1e6), "free space, or lower buffer.keep_free")
	}
	if free-int64(cfg.Buffer.KeepFree) < int64(cfg.Buffer.MaxBytes) {
		return warnLine("disk", fmt.Sprintf("%s: the buffer can not grow to buffer.max_bytes: %d MB", text, int64(cfg.Buffer.MaxBytes)/1e6), "free space, or lower buffer.max_bytes so that the limit is the one you expect")
	}
	return okLine("disk", text)
}

// oldBacklog is an age at which it is worth a look why nothing left.
const oldBacklog = 24 * time.Hour

func checkBuffer(s buffer.Stats, c Clock) Line {
	text := fmt.Sprintf("%d readings waiting, %d bytes of %d", s.Pending, s.Bytes, s.MaxBytes)
	switch {
	case s.Stopped:
		return failLine("buffer", text+", sampling stopped", "bring the home back or raise buffer.max_bytes")
	case len(s.DamagedFiles) > 0:
		return warnLine("buffer", fmt.Sprintf("%s, %d damaged files set aside", text, len(s.DamagedFiles)), "check the card (dmesg) and replace it if this happens again")
	}
	if now := c.Stamp(); now.Trusted && s.Pending > 0 && s.OldestTime > 0 {
		age := time.Duration(now.Wall-s.OldestTime) * time.Millisecond
		if text += fmt.Sprintf(", the oldest for %v", age.Round(time.Second)); age > oldBacklog {
			return warnLine("buffer", text, "the backlog leaves once the home is proven; if it is, raise publish.backlog_share, or look for what uses up the budget")
		}
	}
	return okLine("buffer", text)
}

func checkHome(cfg *config.Config, err error) Line {
	if err == nil {
		return okLine("home", "reached and proven: "+cfg.Home.URL)
	}
	_, remedy := homeProblem(err)
	return failLine("home", oneLine(err), remedy)
}

func checkBudget(cfg *config.Config) Line {
	plan, err := ledger.Plan(cfg, ledger.PlanOptions{})
	if err != nil {
		return warnLine("budget", oneLine(err), "see homeward plan")
	}
	l := budgetLine(cfg, plan)
	if what, remedy := tooSlow(cfg, plan); what != "" {
		if l.Remedy != "" {
			remedy += "; " + l.Remedy
		}
		l = warnLine(l.Name, l.Text+"; "+what, remedy)
	}
	return l
}

func budgetLine(cfg *config.Config, plan *ledger.Forecast) Line {
	text := fmt.Sprintf("about %.0f operations a month", plan.Operations)
	if cfg.Operations.PerMonth == 0 {
		return okLine("budget", text+", no budget configured")
	}
	text = fmt.Sprintf("%s of %d", text, cfg.Operations.PerMonth)
	if plan.Reserve >= 1 {
		text += fmt.Sprintf(", %.0f of which are kept for alarms", plan.Reserve)
	}
	if plan.Enough != nil && !*plan.Enough {
		what, remedy := overBudget(cfg, plan)
		return warnLine("budget", text+": "+what, fmt.Sprintf("%s%s; as configured about %.0f a month would do", savings(cfg, plan), remedy, sufficient(cfg, plan)))
	}
	if plan.Operations > 0.9*float64(cfg.Operations.PerMonth) {
		return warnLine("budget", text+": less than a tenth is left for alarms, repeats and outages", savings(cfg, plan))
	}
	return okLine("budget", text)
}

// sufficient is the least budget that carries the plan, rounded up to two digits.
func sufficient(cfg *config.Config, plan *ledger.Forecast) float64 {
	least := max(plan.Operations, (plan.Operations-plan.Alarms)/(1-float64(cfg.Operations.Reserve)))
	digits := math.Pow(10, max(0, math.Floor(math.Log10(least))-1))
	return math.Ceil(least/digits) * digits
}

// overBudget says what the agent will make of a budget that does not carry the plan, and what helps beside savings.
func overBudget(cfg *config.Config, plan *ledger.Forecast) (what, remedy string) {
	if wait := stretchedAge(cfg, plan); wait > 0 {
		return fmt.Sprintf("so that it lasts, readings will wait longer than publish.max_age: %v, about %v", cfg.Publish.MaxAge, config.Duration(wait)), ""
	}
	switch cfg.Operations.AtLimit {
	case ledger.Continue:
		return fmt.Sprintf("no publish.max_age makes it suffice, and operations.at_limit: continue publishes all: the budget will be exceeded by about %.0f", plan.Operations-float64(plan.Budget)),
			"; or, to keep to the budget, set operations.at_limit: thin or hold"
	case ledger.Thin:
		return "no publish.max_age makes it suffice: what it does not carry will leave as min, mean and max of each channel and interval", ""
	}
	full := "the oldest is given up (buffer.when_full)"
	if cfg.Buffer.WhenFull == string(buffer.StopSampling) {
		full = "nothing more is recorded (buffer.when_full)"
	}
	return "no publish.max_age makes it suffice: what it does not carry will wait in the buffer, and once that is full " + full, "; or set operations.at_limit: thin or continue"
}

// tooSlow says what comes of a publish.rate that does not carry the plan's payloads; "" of one that does.
func tooSlow(cfg *config.Config, plan *ledger.Forecast) (what, remedy string) {
	rate := cfg.Publish.Rate
	i := slices.IndexFunc(plan.Formats, func(f ledger.Format) bool { return f.Name == plan.Format })
	if rate.N == 0 || i < 0 {
		return "", ""
	}
	month := time.Duration(plan.Days) * 24 * time.Hour
	most := float64(rate.N) * month.Seconds() / rate.Per.Seconds()
	if plan.Formats[i].Payloads <= 1.1*most { // about as many: nobody sees the difference
		return "", ""
	}
	what = fmt.Sprintf("publish.rate: %v lets about %.0f payloads leave of %.0f: ", rate, most, plan.Formats[i].Payloads)
	if plan.Formats[i].PayloadsIfFull <= most {
		between := config.Duration((rate.Per / time.Duration(rate.N)).Round(100 * time.Millisecond))
		return what + fmt.Sprintf("readings will wait longer than publish.max_age: %v, about %v", cfg.Publish.MaxAge, between), "raise publish.rate or publish.max_age"
	}
	return what + "readings will wait in the buffer until it is full", "raise publish.rate"
}

// stretchedAge is about how long readings will wait where fewer payloads, each fuller, are within the budget; 0 where they are not.
func stretchedAge(cfg *config.Config, plan *ledger.Forecast) time.Duration {
	ordinary := float64(plan.Budget) - max(plan.Reserve, plan.Alarms)
	i := slices.IndexFunc(plan.Formats, func(f ledger.Format) bool { return f.Name == plan.Format })
	if i < 0 || ordinary < 1 {
		return 0
	}
	cost := float64(ledger.Rule{PerBytes: plan.PerBytes}.Cost(int(cfg.Publish.MaxBytes)))
	if plan.Formats[i].PayloadsIfFull*cost > ordinary {
		return 0
	}
	between := time.Duration(float64(plan.Days) * 24 * float64(time.Hour) / ordinary * cost)
	return (between + time.Duration(cfg.Buffer.Flush) + coalesce + time.Second).Round(time.Second) // as session.due has it
}

// savings is what lowers the operations of a forecast.
func savings(cfg *config.Config, plan *ledger.Forecast) string {
	limitedBy, other := "", ""
	for _, f := range plan.Formats {
		if f.Name == string(cfg.Publish.Format) {
			limitedBy = f.LimitedBy
		} else if f.LimitedBy != "" && f.Operations < 0.95*plan.Operations {
			other = fmt.Sprintf("; publish.format: %s makes about %.0f", f.Name, f.Operations)
		}
	}
	if limitedBy == "age" && plan.Enough != nil && !*plan.Enough && stretchedAge(cfg, plan) == 0 {
		limitedBy = "age, not enough"
	}
	return saving(limitedBy, &cfg.Publish) + other
}

// saving is what lowers the operations when most payloads leave for this reason (as in [ledger.Format], or "age, not enough"); "" where that is not known.
func saving(limitedBy string, p *config.Publish) string {
	const rarer = "raise the sensors' every, record only what changes (on_change, deadband), or raise operations.per_month"
	switch {
	case limitedBy == "full" && p.MaxBytes < 1024:
		return "most payloads leave full, so that a longer publish.max_age saves nothing: raise publish.max_bytes to 1024, which is one operation too; or " + rarer
	case limitedBy == "full":
		return "most payloads leave full, so that a longer publish.max_age saves nothing: " + rarer
	case limitedBy == "age, not enough":
		return "a longer publish.max_age saves some, and not enough: " + rarer
	case limitedBy == "age":
		return "most payloads leave before they are full: raise publish.max_age; or " + rarer
	}
	return rarer + "; homeward plan says whether a longer publish.max_age saves anything"
}

// sourceBound is how long the fleet's repository may take.
const sourceBound = 30 * time.Second

// checkUpdate says where releases come from, and asks there, as a new gateway would.
func checkUpdate(ctx context.Context, cfg *config.Config, clock Clock, offline bool) Line {
	const name = "updates"
	if cfg.Fleet == nil {
		return okLine(name, "no source configured: releases are installed by hand")
	}
	root, err := durable.ReadFile(cfg.Fleet.RootFile, maxRoot)
	if err != nil {
		remedy := "put a root.json of the fleet there: N.root.json in its repository"
		if errors.Is(err, fs.ErrPermission) {
			remedy = "let the gateway's user read it (chmod 644): it is no secret"
		}
		return failLine(name, "fleet.root_file: "+oneLine(err), remedy)
	}
	source, err := fleetSource(cfg.Fleet.Repository)
	if err != nil {
		return failLine(name, oneLine(err), "mend fleet.repository")
	}
	dir, err := os.MkdirTemp("", "homeward-check-")
	if err != nil {
		return warnLine(name, oneLine(err), "free space for temporary files")
	}
	defer os.RemoveAll(dir)
	repo, err := trust.Open(trust.Options{
		Dir: dir, Root: root, Source: source,
		Now: func() time.Time { return time.UnixMilli(clock.Stamp().Wall) }, Synced: func() bool { return clock.Stamp().Trusted },
	})
	if err != nil {
		return failLine(name, fmt.Sprintf("fleet.root_file %s: %s", cfg.Fleet.RootFile, oneLine(err)), "put a root.json of the fleet there: N.root.json in its repository")
	}
	if offline {
		return okLine(name, fmt.Sprintf("%s, not asked", cfg.Fleet.Repository))
	}
	line, err := askFleet(ctx, cfg, repo)
	switch code := ota.CodeOf(err); {
	case err == nil:
		return line
	case code == trust.CodeTime:
		return warnLine(name, fmt.Sprintf("%s is reached; whether it is fresh cannot be said before the clock is right", cfg.Fleet.Repository), updateRemedy(code))
	case code == trust.CodeSignature || code == trust.CodeRoot:
		return failLine(name, fmt.Sprintf("%s (%s)", oneLine(err), code), "compare fleet.root_file with the root.json of this fleet: it is another fleet's, or the repository is not what was signed")
	case code == trust.CodeMissing:
		return failLine(name, fmt.Sprintf("%s (%s)", oneLine(err), code), "fleet.repository is the folder in which timestamp.json lies: mend the address, or have the fleet manager upload all of repository/")
	default:
		return failLine(name, fmt.Sprintf("%s (%s)", oneLine(err), code), updateRemedy(code))
	}
}

// askFleet looks what the repository has for this gateway.
func askFleet(ctx context.Context, cfg *config.Config, repo *trust.Repository) (none Line, err error) {
	const name = "updates"
	ctx, cancel := context.WithTimeout(ctx, sourceBound)
	defer cancel()
	if err := repo.Refresh(ctx); err != nil {
		return none, err
	}
	text, err := repo.Target(ctx, release.OrderPath(cfg.Gateway))
	if errors.Is(err, trust.ErrNoTarget) {
		return warnLine(name, fmt.Sprintf("%s is reached and trusted, and has no order for gateway %s", cfg.Fleet.Repository, cfg.Gateway),
			"have the fleet manager enroll it (homeward-fleet enroll), with "+home.EnrolmentPath(cfg.State)+", which the gateway writes when it first runs"), nil
	}
	if err != nil {
		return none, err
	}
	if o, err := release.ParseOrder(text); err != nil {
		return none, err
	} else if p := o.Release.Product; p != "" && p != cfg.Home.Product {
		return failLine(name, fmt.Sprintf("the fleet orders releases of product %s for gateway %s, and home.product is %s: it gets none", p, cfg.Gateway, cfg.Home.Product),
			"set home.product, or have the fleet manager set the product (homeward-fleet orders set --product)"), nil
	}
	_, err = repo.Target(ctx, release.RolloutsPath(cfg.Home.Product))
	if errors.Is(err, trust.ErrNoTarget) {
		return warnLine(name, fmt.Sprintf("%s is reached and knows this gateway, and has no releases of product %s", cfg.Fleet.Repository, cfg.Home.Product),
			"compare home.product with the fleet's products (homeward-fleet product list)"), nil
	}
	return okLine(name, fmt.Sprintf("%s is reached, trusted, and knows this gateway", cfg.Fleet.Repository)), err
}

// checkCard says how far the flash below the state folder is worn, where it tells: eMMC does (JEDEC JESD84-B51, EXT_CSD 268 and
// 269: in tenths of its life), SD cards do not.
func checkCard(cfg *config.Config) []Line {
	var stat unix.Stat_t
	if unix.Stat(cfg.State, &stat) != nil {
		return nil
	}
	dev, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(stat.Dev)), unix.Minor(uint64(stat.Dev)))) //nolint:unconvert // its type differs between platforms
	if err != nil {
		return nil
	}
	for _, d := range []string{dev, filepath.Dir(dev)} { // the disk, or the one of its partition
		text, err := os.ReadFile(filepath.Join(d, "device", "life_time"))
		if err == nil {
			return cardLines(string(text))
		}
	}
	return nil
}

func cardLines(text string) []Line {
	var a, b int
	if n, _ := fmt.Sscanf(text, "0x%x 0x%x", &a, &b); n != 2 || max(a, b) < 1 {
		return nil // it does not know
	}
	if used := max(a, b); used >= 10 {
		return []Line{warnLine("card", fmt.Sprintf("at least %d %% of the flash's life is used", 10*(used-1)), "replace it soon: export the buffer, and give the new one the same configuration")}
	} else {
		return []Line{okLine("card", fmt.Sprintf("%d to %d %% of the flash's life is used", 10*(used-1), 10*used))}
	}
}
