// Package agent does the work of the present home: it samples, keeps, publishes and
// tells how it goes. It knows all the parts and is known by none.
//
// It promises that sampling never waits for the network, the clock or a full disk; that
// a reading which was appended has one recorded outcome; that a bad
// configuration file changes nothing; and that it stops within five seconds.
// It may lose, at a power cut, what one flush interval brought.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"homeward/agent/cloud"
	"homeward/agent/config"
	"homeward/agent/home"
	"homeward/agent/ledger"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/agent/status"
	"homeward/buffer"
)

// Options is what an agent is made of. Config, OpenBus, Clock and NewCloud are required.
type Options struct {
	Config   *config.Config
	Reload   func() (*config.Config, error) // reads the configuration again; nil: it cannot change
	Version  string
	OpenBus  OpenBus
	Clock    Clock
	NewCloud func(c *config.Config, epoch buffer.Epoch, log *slog.Logger) (cloud.Cloud, error)
	Notify   func(state string)                      // tells the service manager (sd_notify); nil: nobody
	Watchdog time.Duration                           // how often it wants to hear WATCHDOG=1; 0: never
	FS       buffer.FS                               // nil: the operating system's
	Listen   func(addr string) (net.Listener, error) // nil: net.Listen over TCP
	Updates  *Updates                                // nil: this agent never changes its program
	Log      *slog.Logger                            // nil: silent
}

// Agent is one gateway at work.
type Agent struct {
	Options
	cfg      atomic.Pointer[config.Config]
	buf      *buffer.Buffer
	lane     *buffer.Lane
	epoch    buffer.Epoch
	problems *problems
	sampler  *sampler
	pub      *publisher // nil while the home may not be published to
	started  time.Time
	vital    *vital
	key      string // the public half of its own

	ledger  *ledger.Ledger
	updates *updates  // nil: nothing changes the program
	unwell  time.Time // since when a release on trial has failed a check

	web     *status.Server // of status.listen
	local   *status.Server // of the socket; nil: not open yet
	anchor  bool           // the boot's anchor has been given
	evicted uint64         // as last seen
}

// The keys of the agent's small facts in the buffer.
const (
	sideEpoch = "epoch"
	sideHome  = "home"
)

// SocketPath is where the agent of a state folder answers.
func SocketPath(state string) string { return filepath.Join(state, "run", "homeward.sock") }

// BufferPath is where it keeps its readings.
func BufferPath(state string) string { return filepath.Join(state, "buffer") }

// homeIdentity is what makes a home another home; address and credentials do not.
type homeIdentity struct {
	Cloud        string `json:"cloud"`
	Organization string `json:"organization"`
	Project      string `json:"project"`
	Product      string `json:"product"`
}

func identity(h config.Home) homeIdentity {
	return homeIdentity{h.Cloud, h.Organization, h.Project, h.Product}
}

// New opens the state folder. It talks to no instrument and no network.
func New(o Options) (*Agent, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	if o.Listen == nil {
		o.Listen = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	a := &Agent{Options: o, started: time.Now(), vital: newVital(), problems: newProblems(time.Now, o.Log)}
	a.cfg.Store(o.Config)
	if err := os.MkdirAll(o.Config.State, 0o750); err != nil {
		return nil, fmt.Errorf("agent: state folder: %w", err)
	}
	buf, err := buffer.Open(BufferPath(o.Config.State), a.bufferOptions(o.Config))
	if err != nil {
		return nil, err
	}
	a.buf = buf
	s := buf.Stats()
	a.evicted = s.Dropped - s.Thinned
	if key, err := home.Key(o.Config.State); err != nil { // nothing but receipts needs it
		o.Log.Warn("no key of its own", "error", err)
	} else {
		a.key = home.Public(key)
	}
	if err := a.settle(); err != nil {
		return nil, errors.Join(err, buf.Close())
	}
	a.enrol()
	if o.Updates != nil {
		if err := a.openUpdates(); err != nil { // a gateway that cannot be updated still reads and keeps
			a.problems.raise(CodeUpdateSource, "", status.Fail, "no release can be fetched: "+oneLine(err), "mend fleet: in the configuration, or the state folder's ota, and restart")
		}
	}
	return a, nil
}

func (a *Agent) bufferOptions(c *config.Config) buffer.Options {
	return buffer.Options{
		MaxBytes: int64(c.Buffer.MaxBytes), KeepFree: int64(c.Buffer.KeepFree),
		Flush: time.Duration(c.Buffer.Flush), WhenFull: buffer.WhenFull(c.Buffer.WhenFull),
		FS: a.FS, Log: a.Log,
	}
}

// settle finds the epoch, or begins a fresh one when nothing of an earlier life is
// left to say which numbers were used, and opens its lane.
func (a *Agent) settle() error {
	raw := a.buf.Side(sideEpoch)
	if len(raw) == 4 { // after a loss the buffer skips every number that may have been used
		a.epoch = buffer.Epoch(binary.BigEndian.Uint32(raw))
		if text := homeChanged(a.buf, a.Config); text != "" {
			a.problems.raise(CodeHomeChanged, "", status.Fail, text, homeChangedRemedy)
		}
	} else {
		var b [4]byte
		_, _ = rand.Read(b[:])                                        // never fails
		a.epoch = buffer.Epoch(binary.BigEndian.Uint32(b[:]) | 1<<31) // moves count up from here without meeting 0
		binary.BigEndian.PutUint32(b[:], uint32(a.epoch))
		text, _ := json.Marshal(belonging{identity(a.Config.Home), a.Config.Gateway})
		if err := errors.Join(a.buf.PutSide(sideEpoch, b[:]), a.buf.PutSide(sideHome, text), a.buf.Flush()); err != nil {
			return fmt.Errorf("agent: the state folder %s takes nothing (free space and inodes there, or make it writable): new epoch: %w", a.Config.State, err)
		}
		a.Log.Info("fresh epoch", "epoch", a.epoch)
	}
	id := identity(a.Config.Home)
	a.ledger = ledger.Open(ledger.Options{
		Store: a.buf, Durable: func() <-chan struct{} { return a.lane.Durable() }, Home: strings.Join([]string{id.Cloud, id.Organization, id.Project, id.Product}, "/"),
		Clock: a.Clock.Stamp, Budget: a.budget,
	})
	lane, err := a.buf.Lane(a.epoch)
	if err != nil {
		return err
	}
	a.lane = lane
	return nil
}

const homeChangedRemedy = "restore the home: block; or export the buffer (homeward buffer export) and give a new state: folder to start at the new home"

// belonging is whom the readings of a state folder belong to: nobody else may publish them.
type belonging struct {
	homeIdentity
	Gateway string `json:"gateway"`
}

func (o belonging) String() string {
	return fmt.Sprintf("gateway %s of %s/%s/%s on %s", o.Gateway, o.Organization, o.Project, o.Product, o.Cloud)
}

// homeChanged says that the buffer belongs to another home or gateway than the configured one; "" when it does not.
func homeChanged(b *buffer.Buffer, c *config.Config) string {
	var have belonging
	want := belonging{identity(c.Home), c.Gateway}
	if json.Unmarshal(b.Side(sideHome), &have) != nil || have == want {
		return ""
	}
	return fmt.Sprintf("the state folder belongs to %v, the configuration names %v; nothing is published", have, want)
}

// stranded names readings of an epoch whose home nobody knows any more: the state was lost, and guessing could
// send them to a home they do not belong to.
func (a *Agent) stranded(s buffer.Stats) {
	for _, l := range s.Lanes {
		subject := fmt.Sprintf("epoch %d", l.Epoch)
		if l.Epoch != a.epoch && (l.Pending > 0 || l.Gaps > 0) {
			a.problems.raise(CodeStranded, subject, status.Warn,
				fmt.Sprintf("%d readings are of an earlier epoch whose home is no longer known (meta.db was lost); they are kept, not published", l.Pending),
				"homeward buffer export writes them out")
		} else {
			a.problems.clear(CodeStranded, subject)
		}
	}
}

func (a *Agent) published() bool {
	for _, p := range a.problems.list() {
		if p.Code == string(CodeHomeChanged) {
			return false
		}
	}
	return true
}

// Run works until ctx ends, then stops within five seconds; or until an update wants another start, and returns [ErrRestart].
// Each value on reload makes it read the configuration again.
func (a *Agent) Run(ctx context.Context, reload <-chan os.Signal) error {
	cfg := a.Config
	a.listenLocal()
	defer func() {
		if a.local != nil {
			a.local.Close()
		}
	}()

	work, stop := context.WithCancel(ctx)
	defer stop()
	a.sampler = &sampler{
		open: a.OpenBus, clock: a.Clock, sink: a.lane, problems: a.problems, log: a.Log, vital: a.vital,
		alarmed: func(buffer.Seq) {},
	}
	if a.published() {
		if err := a.startPublisher(cfg); err != nil {
			return errors.Join(err, a.buf.Close())
		}
		a.sampler.alarmed = a.pub.alarmed
	}
	a.sampler.apply(work, cfg.Sensors, cfg.Publish.Alarms)
	var publishing sync.WaitGroup
	if a.pub != nil {
		publishing.Go(func() { a.pub.Run(work) })
	}
	a.listen(cfg.Status.Listen)
	a.warnings(cfg)
	a.Notify("READY=1")
	a.Log.Info("running", "gateway", cfg.Gateway, "version", a.Version, "epoch", a.epoch, "sensors", len(cfg.Sensors))

	var updating sync.WaitGroup
	var restart <-chan struct{}
	if a.updates != nil {
		restart = a.updates.restart
		updating.Go(func() {
			if err := a.updates.Run(work); err != nil {
				a.problems.raise(CodeUpdateSource, "", status.Fail, "updates have stopped: "+oneLine(err), "restart the agent; look at the state folder's disk")
			}
		})
	}

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	fed := time.Now()
	again := false
	for ctx.Err() == nil && !again {
		select {
		case <-ctx.Done():
		case <-restart:
			again = true
		case <-reload:
			a.reload(work)
		case <-tick.C:
			a.tend()
			if a.Watchdog > 0 && time.Since(fed) >= a.Watchdog/3 {
				if who := a.vital.stuck(); who != "" {
					a.Log.Error("watchdog not fed", "stuck", who)
				} else {
					a.Notify("WATCHDOG=1")
					fed = time.Now()
				}
			}
		}
	}

	a.Notify("STOPPING=1")
	stop()
	a.sampler.wait(time.Second)
	publishing.Wait() // bounded by farewell
	updating.Wait()
	if a.web != nil {
		a.web.Close()
	}
	err := a.buf.Close()
	if err == nil {
		a.stopped()
	}
	a.Log.Info("stopped")
	if again && err == nil {
		return ErrRestart
	}
	return err
}

func (a *Agent) startPublisher(cfg *config.Config) error {
	there, err := a.NewCloud(cfg, a.epoch, a.Log)
	if err != nil {
		return err
	}
	a.pub = newPublisher(&publisher{
		buf: a.buf, lane: a.lane, cloud: there,
		header:   pack.Header{Gateway: cfg.Gateway, Epoch: uint32(a.epoch)},
		settings: func() *config.Publish { return &a.cfg.Load().Publish },
		sets:     func() []packed.Set { return packed.Sets(a.cfg.Load()) },
		flush:    func() time.Duration { return time.Duration(a.cfg.Load().Buffer.Flush) },
		describe: a.describe, nudged: a.nudge, reported: a.reportOutcome, owes: a.owesOutcome, ledger: a.ledger,
		rule:  func() ledger.Rule { return ledger.Rule{PerBytes: int(a.cfg.Load().Operations.PerBytes)} },
		clock: a.Clock, grid: &timeGrid{config: a.cfg.Load}, problems: a.problems, log: a.Log, beat: a.vital.add("publisher"),
	})
	return nil
}

// tend looks at what changes slowly: once a second.
func (a *Agent) tend() {
	now := a.Clock.Stamp()
	if now.Trusted {
		if !a.anchor {
			// Readings of this boot that were taken before the clock was right are repaired with this.
			if err := a.buf.Anchor(now.Boot, now.Mono, now.Wall); err != nil {
				a.Log.Warn("anchor not recorded", "error", err)
			} else {
				a.anchor = true
			}
		}
		a.problems.clear(CodeClock, "")
	} else if time.Since(a.started) > time.Minute {
		source, _ := a.Clock.Source()
		a.problems.raise(CodeClock, "", status.Warn, "the clock is not synchronised (so the "+source+"): readings are marked stale-clock until it is",
			"check that an NTP client runs (timedatectl) and reaches its server, or fit a real-time clock")
	}
	s := a.buf.Stats()
	a.bufferProblems(s)
	a.stranded(s)
	a.operationProblems()
	a.updateProblems()
	a.listenLocal()
}

// tooLittle says what the buffer is short of.
func tooLittle(short string) string {
	switch short {
	case buffer.ShortKeepFree:
		return "less than buffer.keep_free left on the file system of the state folder"
	case buffer.ShortInodes:
		return "no inode left on the file system of the state folder"
	case buffer.ShortDisk:
		return "no space left on the file system of the state folder"
	}
	return "no room within buffer.max_bytes"
}

func evictedFor(short string) string {
	if short == "" {
		return ""
	}
	return ": there is " + tooLittle(short)
}

func moreRoom(short string) string {
	switch short {
	case buffer.ShortKeepFree:
		return "free space on the file system of the state folder, or lower buffer.keep_free, or bring the home back"
	case buffer.ShortInodes:
		return "delete files on the file system of the state folder (df -i), or bring the home back"
	case buffer.ShortMaxBytes:
		return "bring the home back, or raise buffer.max_bytes"
	}
	return "free space on the file system of the state folder, or bring the home back"
}

func (a *Agent) bufferProblems(s buffer.Stats) {
	if s.Stopped && s.Short != "" {
		a.problems.raise(CodeBufferFull, "", status.Fail, "there is "+tooLittle(s.Short)+" and sampling has stopped, as configured", moreRoom(s.Short))
	} else if s.Stopped {
		a.problems.raise(CodeBufferFull, "", status.Fail, "the buffer is full and sampling has stopped, as configured",
			"bring the home back, or raise buffer.max_bytes, or set buffer.when_full: drop-oldest")
	} else {
		a.problems.clear(CodeBufferFull, "")
	}
	if s.DiskFull {
		text := "the disk is full: " + s.LastError
		if s.Short == buffer.ShortDisk {
			text += "; nothing stored is given up, and what finds no room is counted as unsampled"
		}
		a.problems.raise(CodeBufferDisk, "", status.Fail, text, moreRoom(s.Short))
	} else {
		a.problems.clear(CodeBufferDisk, "")
	}
	if len(s.DamagedFiles) > 0 {
		a.problems.raise(CodeBufferDamaged, "", status.Warn,
			fmt.Sprintf("%d damaged files were set aside, first %s; what could not be read is in gap records", len(s.DamagedFiles), s.DamagedFiles[0]),
			"check the card or disk (dmesg), keep the *.damaged files for a look and then delete them")
	} else {
		a.problems.clear(CodeBufferDamaged, "")
	}
	dropped := s.Dropped - s.Thinned // what was thinned is spared, not lost for lack of room
	if a.evicted != dropped && slices.ContainsFunc(a.lane.OpenGaps(), func(g buffer.Gap) bool { return g.Reason == buffer.Evicted }) {
		a.problems.raise(CodeBufferEvicting, "", status.Fail, fmt.Sprintf("%d readings were given up to stay within the buffer's bounds", dropped)+evictedFor(s.EvictedFor), moreRoom(s.EvictedFor))
	} else if s.Pending == 0 {
		a.problems.clear(CodeBufferEvicting, "")
	}
	a.evicted = dropped
}

// budget is what the configuration allows.
func (a *Agent) budget() ledger.Budget {
	c := a.cfg.Load()
	o := c.Operations
	return ledger.Budget{
		Operations: o.PerMonth, Day: o.BillingDay, Zone: o.Zone, Reserve: float64(o.Reserve), AtLimit: o.AtLimit, Backlog: float64(c.Publish.BacklogShare),
	}
}

func (a *Agent) operationsStatus() status.Operations {
	r := a.ledger.Report()
	o := status.Operations{
		Month: r.Month, Used: r.Used, Forecast: r.Forecast, LimitState: "none",
		Alarms: r.Alarms, Free: r.Free, Unknown: r.Unknown, OnePerReading: r.Single, Past: []status.PastMonth{},
	}
	for _, m := range r.Past {
		o.Past = append(o.Past, status.PastMonth(m))
	}
	c := a.cfg.Load()
	if n := c.Operations.PerMonth; n > 0 {
		budget := uint64(n)
		percent := float64(o.Used) / float64(n) * 100
		o.Budget, o.Percent, o.Left, o.Reserve, o.PerHour = &budget, &percent, &r.Left, &r.Reserve, &r.PerHour
		pub, _, _ := a.pubStatus()
		o.LimitState = limitState(c, r, pub.MaxAgeS, a.thinning(pub.MaxAgeS))
	}
	o.LimitText = o.InWords()
	return o
}

// thinning says that readings have been replaced by aggregates lately.
func (a *Agent) thinning(maxAge float64) bool {
	if a.pub == nil {
		return false
	}
	a.pub.mu.Lock()
	defer a.pub.mu.Unlock()
	at := a.pub.thinnedAt
	return at > 0 && a.Clock.Stamp().Mono-at < max(time.Hour, time.Duration(3*maxAge)*time.Second)
}

func (a *Agent) operationProblems() {
	o := a.operationsStatus()
	var code Code
	sev := status.Warn
	if o.Percent != nil {
		switch {
		case *o.Percent >= 100:
			code, sev = CodeOps100, status.Fail
		case *o.Percent >= 90:
			code = CodeOps90
		case *o.Percent >= 70:
			code = CodeOps70
		}
	}
	text := ""
	if code != "" {
		text = fmt.Sprintf("%d of %d operations of the month from %s are used", o.Used, *o.Budget, o.Month)
	}
	a.problems.only(code, []Code{CodeOps70, CodeOps90, CodeOps100}, "", sev, text, saving(a.limitedBy(), &a.cfg.Load().Publish))
}

// limitedBy is what made most live payloads leave since the start: full or age; "" when none has left.
func (a *Agent) limitedBy() string {
	if a.pub == nil {
		return ""
	}
	a.pub.mu.Lock()
	defer a.pub.mu.Unlock()
	switch {
	case a.pub.left == 0:
		return ""
	case 2*a.pub.leftFull > a.pub.left:
		return "full"
	}
	return "age"
}

func (a *Agent) pubStatus() (status.Publish, string, time.Time) {
	if a.pub == nil {
		return status.Publish{}, "changed", a.started
	}
	return a.pub.status()
}

// Status is what `homeward status` shows.
func (a *Agent) Status() status.Status {
	cfg, s := a.cfg.Load(), a.buf.Stats()
	pub, state, since := a.pubStatus()
	pub.Format, pub.ConfiguredMaxAgeS = string(cfg.Publish.Format), time.Duration(cfg.Publish.MaxAge).Seconds()
	now := a.Clock.Stamp()
	source, offset := a.Clock.Source()
	v := status.Status{
		Gateway: cfg.Gateway, Version: a.Version, UptimeS: int64(time.Since(a.started).Seconds()), PID: os.Getpid(), Key: a.key,
		Home: status.Home{
			Cloud: string(cfg.Home.Cloud), Organization: cfg.Home.Organization, Project: cfg.Home.Project, Product: cfg.Home.Product,
			Epoch: uint32(a.epoch), State: state, Since: since.UTC(), URL: cfg.Home.URL,
		},
		Sensors: []status.Sensor{}, Publish: pub, Operations: a.operationsStatus(),
		Update:   a.updateStatus(),
		Clock:    status.Clock{Trusted: now.Trusted, Source: source, OffsetMS: offset},
		Problems: a.problems.list(),
		Buffer: status.Buffer{
			Pending: s.Pending, Bytes: s.Bytes, MaxBytes: s.MaxBytes, Free: s.Free, Dropped: s.Dropped, Delivered: s.Delivered,
			Gaps: s.Gaps, Flushes: s.Flushes, Seals: s.Seals, Lanes: []status.Lane{}, Damaged: s.DamagedFiles, Recovered: s.RecoveredFrom,
			Thinned: s.Thinned, ThinnedKept: s.ThinnedKept,
		},
	}
	if a.sampler != nil {
		v.Sensors = append(v.Sensors, a.sampler.status()...)
	}
	switch {
	case s.OldestMono > 0:
		v.Buffer.OldestAgeS = max(0, (now.Mono - s.OldestMono).Seconds())
	case s.OldestTime > 0:
		v.Buffer.OldestAgeS = max(0, float64(now.Wall-s.OldestTime)/1e3)
	}
	for _, l := range s.Lanes {
		v.Buffer.Lanes = append(v.Buffer.Lanes, status.Lane{Epoch: uint32(l.Epoch), First: uint64(l.First), Next: uint64(l.Next), Pending: l.Pending, Gaps: l.Gaps, Segments: l.Segments})
	}
	return v
}

// describe is the retained status that others see at the home (B/status).
func (a *Agent) describe(online bool) []byte {
	cfg := a.cfg.Load()
	type brief struct {
		Code     string `json:"code"`
		Subject  string `json:"subject,omitempty"`
		Severity string `json:"severity"`
		Text     string `json:"text"`
	}
	problems := []brief{}
	for _, p := range a.problems.list() {
		problems = append(problems, brief{p.Code, p.Subject, string(p.Severity), p.Text})
		if len(problems) == 20 {
			break
		}
	}
	release, update := a.tellUpdate()
	v := struct {
		Online     bool         `json:"online"`
		Version    string       `json:"version"`
		Epoch      uint32       `json:"epoch"`
		Home       homeIdentity `json:"home"`
		Release    string       `json:"release"`
		Update     toldUpdate   `json:"update"`
		Backlog    uint64       `json:"backlog"`
		Operations uint64       `json:"operations"`
		Problems   []brief      `json:"problems"`
	}{
		online, a.Version, uint32(a.epoch), identity(cfg.Home), release, update,
		a.buf.Stats().Pending, a.operationsStatus().Used, problems,
	}
	// A home that takes payloads of publish.max_bytes must take this too, or its problems would keep it from being reached. The will
	// travels in the CONNECT, with names and password.
	room := int(cfg.Publish.MaxBytes)
	if !online {
		room /= 2
	}
	for {
		text, _ := json.Marshal(v)
		if len(text) <= room || len(v.Problems) == 0 {
			return text
		}
		v.Problems = v.Problems[:len(v.Problems)-1]
	}
}

// listenLocal opens the socket; where it cannot, sampling goes on and it is tried again.
func (a *Agent) listenLocal() {
	if a.local != nil {
		return
	}
	path := SocketPath(a.Config.State)
	l, err := status.ListenUnix(path)
	if err != nil {
		a.problems.raise(CodeStatusListen, path, status.Warn, oneLine(err), "free space and inodes on the file system of the state folder, or remove what stands at that path")
		return
	}
	a.problems.clear(CodeStatusListen, path)
	a.local = status.Serve(l, a.localHandler(), a.Log)
}

// listen opens status.listen; a port that is taken is a problem, not a reason to stop.
func (a *Agent) listen(addr string) {
	if a.web != nil {
		a.web.Close()
		a.web = nil
	}
	if addr == "" {
		return
	}
	l, err := a.Listen(addr)
	if err != nil {
		a.problems.raise(CodeStatusListen, addr, status.Warn, oneLine(err), "choose another status.listen, or stop what listens there")
		return
	}
	a.problems.clear(CodeStatusListen, addr)
	a.web = status.Serve(l, status.Local(status.Handler(a.Status), addr), a.Log)
	a.Log.Info("status page", "url", "http://"+l.Addr().String()+"/")
}

func (a *Agent) localHandler() http.Handler {
	mux := status.Handler(a.Status)
	mux.HandleFunc("GET /check", func(w http.ResponseWriter, r *http.Request) {
		status.WriteJSON(w, a.check(r.Context(), r.FormValue("digest"), r.FormValue("offline") != ""))
	})
	mux.HandleFunc("GET /receipt", func(w http.ResponseWriter, r *http.Request) {
		key, err := home.Key(a.Config.State) // what it signs is what it saw itself
		if err != nil {
			http.Error(w, oneLine(err), http.StatusInternalServerError)
			return
		}
		offline := r.FormValue("offline") != ""
		lines := a.check(r.Context(), r.FormValue("digest"), offline)
		status.WriteJSON(w, receipt(key, aboutNow(a.cfg.Load(), a.Version, offline, a.Clock), lines))
	})
	a.serveUpdates(mux)
	mux.HandleFunc("GET /buffer/stat", func(w http.ResponseWriter, _ *http.Request) { status.WriteJSON(w, a.buf.Stats()) })
	mux.HandleFunc("GET /buffer/verify", func(w http.ResponseWriter, _ *http.Request) {
		status.WriteJSON(w, append([]string{}, a.buf.Verify()...))
	})
	mux.HandleFunc("GET /buffer/export", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Trailer", ExportTrailer)
		err := Export(w, a.buf, a.cfg.Load().Gateway, r.FormValue("format"))
		if lost := (IncompleteError)(nil); errors.As(err, &lost) {
			w.Header().Set(ExportTrailer, lost.Error())
		} else if err != nil {
			panic(http.ErrAbortHandler) // the reader must see that it is cut off
		}
	})
	return mux
}

// reload reads the configuration again and applies what can change while running.
func (a *Agent) reload(ctx context.Context) {
	if a.Reload == nil {
		return
	}
	next, err := a.Reload()
	if err != nil {
		a.problems.raise(CodeConfigReload, "", status.Warn, "the new configuration is not used: "+oneLine(err), "mend it and send SIGHUP again; until then the old one holds")
		return
	}
	a.problems.clear(CodeConfigReload, "")
	now := a.cfg.Load()
	if why := config.RestartNeeded(now, next); why != "" {
		a.problems.raise(CodeConfigRestart, "", status.Warn, why, "restart the agent to apply it (systemctl restart homeward)")
		// What needs a restart stays as it is; the rest is applied.
		next.Gateway, next.State, next.Home, next.Fleet = now.Gateway, now.State, now.Home, now.Fleet
	} else {
		a.problems.clear(CodeConfigRestart, "")
	}
	a.cfg.Store(next)
	a.buf.SetBounds(a.bufferOptions(next))
	a.sampler.apply(ctx, next.Sensors, next.Publish.Alarms)
	if now.Status.Listen != next.Status.Listen {
		a.problems.clear(CodeStatusListen, now.Status.Listen)
		a.listen(next.Status.Listen)
	}
	a.warnings(next)
	a.Log.Info("configuration read again", "sensors", len(next.Sensors))
}

func (a *Agent) warnings(c *config.Config) {
	seen := map[string]bool{}
	for _, w := range c.Warnings {
		seen[w.Path] = true
		code := Code(w.Code)
		if code == "" {
			code = CodeConfigWarning
		}
		a.problems.raise(code, w.Path, status.Warn, w.Text, w.Remedy)
	}
	for _, p := range a.problems.list() {
		if p.Code == string(CodeConfigWarning) && !seen[p.Subject] {
			a.problems.clear(Code(p.Code), p.Subject)
		}
	}
}
