package agent

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"

	"homeward/agent/status"
)

// Code names a kind of problem. docs/codes.md explains each; a test holds the two together.
type Code string

// The codes.
const (
	CodeSensorFailing  Code = "sensor.failing"
	CodeSensorSilent   Code = "sensor.silent"
	CodeSensorGone     Code = "sensor.gone"
	CodeSensorWrong    Code = "sensor.wrong"
	CodeSensorSlow     Code = "sensor.slow"
	CodeBufferFull     Code = "buffer.full"
	CodeBufferDisk     Code = "buffer.disk"
	CodeBufferDamaged  Code = "buffer.damaged"
	CodeBufferEvicting Code = "buffer.evicting"
	CodeStranded       Code = "buffer.stranded"
	CodeHomeDown       Code = "home.unreachable"
	CodeHomeDenied     Code = "home.denied"
	CodeHomeTLS        Code = "home.not-trusted"
	CodeHomeUnproven   Code = "home.unproven"
	CodeHomeChanged    Code = "home.changed"
	CodeNoAck          Code = "publish.no-ack"
	CodeStuck          Code = "publish.stuck"
	CodeTooLarge       Code = "publish.too-large"
	CodeSchema         Code = "publish.no-schema"
	CodeClock          Code = "clock.untrusted"
	CodeConfigReload   Code = "config.reload-failed"
	CodeConfigRestart  Code = "config.restart-needed"
	CodeConfigWarning  Code = "config.warning"
	CodeOps70          Code = "operations.70"
	CodeOps90          Code = "operations.90"
	CodeOps100         Code = "operations.100"
	CodeHeld           Code = "operations.held"
	CodeStatusListen   Code = "status.listen"
	CodeUpdateSource   Code = "update.source"
	CodeUpdateTrial    Code = "update.trial"
	CodeUpdateRefused  Code = "update.refused"
	CodeUpdateFallback Code = "update.fallback"
	CodeUpdateLauncher Code = "update.launcher"
)

type problemKey struct {
	code    Code
	subject string
}

type problem struct {
	status.Problem
	order  uint64
	logged time.Time
}

// reminder is how often a lasting problem is logged again.
const reminder = time.Hour

// problems is the list of what is wrong now. Each is logged when it starts, hourly
// while it lasts, and when it ends.
type problems struct {
	now func() time.Time
	log *slog.Logger

	mu   sync.Mutex
	open map[problemKey]*problem
	n    uint64
}

func newProblems(now func() time.Time, log *slog.Logger) *problems {
	return &problems{now: now, log: log, open: map[problemKey]*problem{}}
}

func (p *problems) raise(code Code, subject string, sev status.Severity, text, remedy string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := problemKey{code, subject}
	now := p.now()
	old := p.open[k]
	if old == nil {
		p.n++
		old = &problem{Problem: status.Problem{Code: string(code), Subject: subject, Since: now}, order: p.n}
		p.open[k] = old
	}
	old.Severity, old.Text, old.Remedy = sev, text, remedy
	if old.logged.IsZero() || now.Sub(old.logged) >= reminder {
		old.logged = now
		p.log.Warn("problem", "code", code, "subject", subject, "text", text, "remedy", remedy)
	}
}

func (p *problems) clear(code Code, subject string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := problemKey{code, subject}
	if old := p.open[k]; old != nil {
		delete(p.open, k)
		p.log.Info("problem over", "code", code, "subject", subject, "lasted", p.now().Sub(old.Since).Round(time.Second))
	}
}

// only raises one of the codes for the subject and clears the others; none is "".
func (p *problems) only(one Code, codes []Code, subject string, sev status.Severity, text, remedy string) {
	for _, c := range codes {
		if c != one {
			p.clear(c, subject)
		}
	}
	if one != "" {
		p.raise(one, subject, sev, text, remedy)
	}
}

// forget clears every problem of the subject without a word: it is no longer configured.
func (p *problems) forget(codes []Code, subject string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range codes {
		delete(p.open, problemKey{c, subject})
	}
}

// list is in the order of appearance.
func (p *problems) list() []status.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*problem, 0, len(p.open))
	for _, x := range p.open {
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b *problem) int { return cmp.Compare(a.order, b.order) })
	out := make([]status.Problem, len(all))
	for i, x := range all {
		out[i] = x.Problem
	}
	return out
}
