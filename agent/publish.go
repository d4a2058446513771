package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"homeward/agent/cloud"
	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/drivers"
)

const (
	dialBound     = 30 * time.Second
	proofBound    = 15 * time.Second
	proofPatience = 3 * time.Second // for a session that could be asked for a proof
	proofEvery    = time.Hour
	ackBound      = time.Minute     // after this without an acknowledgement the session is given up
	farewell      = time.Second     // for the last acknowledgements and the last status
	statusEvery   = 5 * time.Minute // between statuses that say nothing new
	statusPause   = 30 * time.Second
	owedPause     = 5 * time.Second        // the same where an outcome waits
	coalesce      = 200 * time.Millisecond // appends are looked at together
	maxAlarms     = 1024
	maxAckRanges  = 4096
	stuckTries    = 5 // of one payload without an answer, before it is called stuck
	// A receiver that has not confirmed a payload is sent it again after this, then ever more rarely.
	receiverRetry    = time.Minute
	maxReceiverRetry = time.Hour
)

// publisher takes readings from a lane to its home: alarms first, then live readings
// that are due, then the backlog on a leash. A batch that was tried keeps its
// boundary and bytes until its fate is known.
type publisher struct {
	buf      *buffer.Buffer
	lane     *buffer.Lane
	cloud    cloud.Cloud
	header   pack.Header // First is set for each payload
	settings func() *config.Publish
	sets     func() []packed.Set // what is configured, for a schema
	flush    func() time.Duration
	describe func(online bool) []byte // the retained status
	nudged   func()                   // the fleet has something new; nil: nobody listens
	reported func(status []byte)      // a retained status has arrived at a home that is proven; nil: nobody asks
	owes     func() bool              // something in the status must be told until it has arrived; nil: never
	ledger   *ledger.Ledger
	rule     func() ledger.Rule
	clock    Clock
	grid     *timeGrid // nil: times are published as taken
	problems *problems
	log      *slog.Logger
	beat     *beat

	mu      sync.Mutex
	alarms  []buffer.Seq // appended and not yet in a batch, ascending
	view    status.Publish
	state   string
	since   time.Time
	wake    chan struct{}   // an alarm came
	asks    chan chan error // for a proof now
	trouble error           // the last that kept the home from taking readings

	left, leftFull uint64 // live payloads that left, and those of them that were full

	teacher teacher         // only Run touches it
	lessons context.Context // of its goroutines: Run's

	sends sends // only Run touches it
	each  each  // only Run touches it
	// When readings were last thinned, on the monotonic clock; 0 never.
	thinnedAt time.Duration

	cuts int // sessions that ended at a proof of the largest payload, and none that passed it; only Run touches it
}

const sideAlarms = "alarms"

func newPublisher(p *publisher) *publisher {
	p.wake = make(chan struct{}, 1)
	p.asks = make(chan chan error)
	p.state, p.since = "connecting", time.Now()
	if text := p.buf.Side(sideAlarms); text != nil {
		_ = json.Unmarshal(text, &p.alarms) // a lost list costs promptness, not readings
	}
	return p
}

// alarmed notes the first number of an alarm's poll.
func (p *publisher) alarmed(first buffer.Seq) {
	p.mu.Lock()
	p.alarms = append(p.alarms, first)
	if len(p.alarms) > maxAlarms {
		p.alarms = p.alarms[1:] // it still leaves with the backlog
	}
	p.saveAlarmsLocked()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *publisher) saveAlarmsLocked() {
	text, _ := json.Marshal(p.alarms)
	if len(p.alarms) == 0 {
		text = nil
	}
	if err := p.buf.PutSide(sideAlarms, text); err != nil {
		p.log.Warn("alarm list not kept", "error", err)
	}
}

// proveNow has the present session prove the path once more.
func (p *publisher) proveNow(ctx context.Context) error {
	ask := make(chan error, 1)
	select {
	case p.asks <- ask:
	case <-time.After(proofPatience):
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.trouble != nil {
			return p.trouble
		}
		return errors.New("agent: not connected to the home yet")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-ask:
		return err
	case <-ctx.Done():
		return errors.New("agent: the session ended during the proof")
	}
}

func (p *publisher) setState(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != s {
		p.state, p.since = s, time.Now()
		p.log.Info("home", "state", s)
	}
}

func (p *publisher) status() (v status.Publish, state string, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.view, p.state, p.since
}

var homeCodes = []Code{CodeHomeDown, CodeHomeDenied, CodeHomeTLS, CodeHomeUnproven}

var codeOfClass = map[cloud.Class]Code{
	cloud.Unreachable: CodeHomeDown, cloud.Slow: CodeHomeDown, cloud.Unpaid: CodeHomeDenied,
	cloud.Denied: CodeHomeDenied, cloud.NotTrusted: CodeHomeTLS, cloud.Unproven: CodeHomeUnproven,
}

// homeProblem is the code and the remedy for what keeps a home from taking readings.
func homeProblem(err error) (Code, string) {
	code, ok := codeOfClass[cloud.ClassOf(err)]
	if !ok {
		code = CodeHomeDown
	}
	if e := new(cloud.Error); errors.As(err, &e) && e.Remedy != "" {
		return code, e.Remedy
	}
	return code, "check the network at the site and the home's address"
}

func (p *publisher) complain(err error) {
	p.mu.Lock()
	p.trouble = err
	p.mu.Unlock()
	code, remedy := homeProblem(err)
	p.problems.only(code, homeCodes, "", status.Fail, oneLine(err), remedy)
	if code == CodeHomeDown {
		p.setState("connecting")
	} else {
		p.setState("questionable")
	}
}

// Run keeps one session after another until ctx ends.
func (p *publisher) Run(ctx context.Context) {
	defer p.beat.end()
	defer p.teacher.pupils.Wait() // they end with ctx
	p.lessons = ctx
	var pause cloud.Backoff
	for ctx.Err() == nil {
		p.beat.promise(dialBound)
		began := time.Now()
		err := p.session(ctx)
		p.mu.Lock()
		p.view.Connected, p.view.InFlight = false, 0
		p.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if _, state, _ := p.status(); state == "proven" && time.Since(began) > ackBound {
			pause.Reset()
		}
		p.complain(err)
		wait := pause.Next()
		if e := new(cloud.Error); errors.As(err, &e) {
			wait = max(wait, e.Wait)
		}
		p.log.Debug("session over", "error", err, "retry_in", wait)
		p.beat.promise(wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// flight is an attempt on its way in this session.
type flight struct {
	*buffer.Attempt
	backlog bool
	durable <-chan struct{} // nil: it is
	sent    time.Time       // zero: waiting for the disk, or for the home's rate
	taken   bool            // acknowledged by the home, not yet by the receiver
}

// run is a payload being filled.
type run struct {
	rows   pack.Writer
	made   bool // of aggregates, at least the first
	mixed  bool // and of others
	from   buffer.Seq
	next   buffer.Seq
	gaps   []buffer.Gap
	oldest buffer.Stored
	full   bool
	closed []byte // the payload, once it was made
	size   int    // bytes, when it held so many readings: sized
	sized  int
}

// session is one connection's worth of publishing. Only its goroutine touches it.
type session struct {
	*publisher
	link                            cloud.Session
	cfg                             *config.Publish
	window                          int
	limit                           int               // bytes of a payload
	proven                          int               // bytes of the largest payload that comes through; 0: not proven
	flights                         []*flight         // oldest first
	again                           []*buffer.Attempt // to be tried again, oldest first
	acks                            chan acked
	over                            chan struct{} // closed when nobody takes acks any more
	live                            run
	backlog                         run
	border                          buffer.Seq       // live readings start here
	drained                         bool             // no backlog below the border
	blocked                         bool             // the in-flight bound was met: wait for an acknowledgement
	packing                         *packing         // nil: not wanted, or not to be had
	packs                           bool             // the home has the schema
	better                          *packing         // learnt, and on its way to the home
	unschooled                      bool             // the home has refused the schema: payloads are rows for good
	asked                           bool             // for the schema
	calm                            <-chan time.Time // when the home's rate allows more; nil: it does
	ahead, behind                   float64          // payloads that must be allowed before what is live, or the backlog, can be thinned; 0: any
	heldLive, heldBehind, heldAlarm bool             // the budget keeps what is due

	unheard bool // the receiver owes its word: the broker's acknowledgement does not end that problem
}

type acked struct {
	id  uint64
	err error
}

func (p *publisher) session(ctx context.Context) error {
	dctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	online, offline := p.describe(true), p.describe(false)
	if err := p.overhead(dctx, len(online), len(offline)); err != nil { // with the farewell
		return err
	}
	link, err := p.cloud.Dial(dctx, online, offline)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.view.Connected = true
	p.view.Connects++
	p.mu.Unlock()
	limits := p.cloud.Limits()
	s := &session{
		publisher: p, link: link, window: limits.Window,
		acks:   make(chan acked, limits.Window+1),
		over:   make(chan struct{}),
		again:  p.lane.Attempts(),
		border: p.lane.Next(),
	}
	s.reconfigure(limits)
	err = s.stuck(s.run(ctx))
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer stop()
	if ctx.Err() != nil {
		s.lastAcks(last)
	}
	close(s.over)
	link.Close(last, p.describe(false))
	return err
}

// largest is how many bytes a payload may have for the home and by configuration.
func largest(c *config.Publish, limits cloud.Limits) int {
	if limits.MaxBytes > 0 {
		return min(int(c.MaxBytes), limits.MaxBytes)
	}
	return int(c.MaxBytes)
}

// minPayload is what publish.max_bytes must be at least.
const minPayload = 256

// allowed is how large a payload may be now.
func (s *session) allowed(limits cloud.Limits) int {
	n := largest(s.cfg, limits)
	if s.proven > 0 && s.cfg.Acknowledge != "puback" {
		n = min(n, s.proven) // until more is proven
	}
	// A payload that the budget never holds would never leave.
	if _, _, most := s.ledger.Spendable(); float64(s.rule().PerBytes)*most < float64(n) && s.rule().PerBytes > 0 {
		n = max(s.rule().PerBytes*max(1, int(most)), minPayload)
	}
	return n
}

// proofTime bounds a proof of so many bytes: on a slow line a large one takes its time.
func proofTime(bytes int) time.Duration {
	return proofBound + time.Duration(bytes)*time.Second/(8<<10)
}

func (s *session) reconfigure(limits cloud.Limits) {
	s.cfg = s.settings()
	s.limit = s.allowed(limits)
	if s.cfg.Window > 0 {
		s.window = min(s.cfg.Window, limits.Window)
	}
	s.live, s.backlog, s.drained = run{}, run{}, false
	s.ahead, s.behind = 0, 0 // a smaller budget may never hold so much
	s.repack(limits)
}

// repack has the schema that the settings ask for; it is used once the home has it.
func (s *session) repack(limits cloud.Limits) {
	s.better = nil
	if s.cfg.Format != pack.FormatPacked || !limits.Schemas {
		s.packing, s.packs = nil, false
		return
	}
	sets := s.sets()
	if s.packing != nil && s.packing.coder.Schema().Of(sets) {
		return
	}
	var err error
	s.packs = false
	if s.packing, err = newPacking(s.buf, s.lane, s.header, sets, s.log); err != nil {
		s.packing = nil
		s.log.Error("no schema: payloads are rows", "error", err)
	}
}

func (s *session) trusted() bool { return s.proven > 0 || s.cfg.Acknowledge == "puback" }

// needs is the size of the largest payload that is, or will be, published: one that was tried keeps its bytes.
func (s *session) needs() int {
	n := largest(s.cfg, s.cloud.Limits())
	for _, a := range s.again {
		n = max(n, len(a.Payload))
	}
	for _, f := range s.flights {
		n = max(n, len(f.Payload))
	}
	return n
}

// proof is how one ended.
type proof struct {
	bytes int
	err   error
}

// stuck looks at what was under way when the connection ended: what meets that again and again is not the network's fault.
func (s *session) stuck(err error) error {
	if n := cutAt(err); n > 0 {
		if s.cuts++; s.cuts >= stuckTries {
			s.sayStuck(n, s.cuts, oneLine(err))
		}
		return err
	}
	select {
	case <-s.link.Done():
	default:
		return err // it did not end by itself
	}
	for _, f := range s.flights {
		if f.sent.IsZero() || f.taken {
			continue
		}
		if f.Tries >= stuckTries {
			remedy := s.sayStuck(len(f.Payload), f.Tries, oneLine(err))
			return &cloud.Error{Class: cloud.Unreachable, Op: "publish", Err: fmt.Errorf("at a payload of %d bytes: %w", len(f.Payload), err), Remedy: remedy}
		}
		break // those behind it did not leave before it
	}
	return err
}

// cutAt is the size of the proof at which the connection ended; 0: at none, or it has not ended.
func cutAt(err error) int {
	if e := new(cloud.Error); errors.As(err, &e) && e.Class == cloud.Unreachable {
		return e.Bytes
	}
	return 0
}

// sayStuck raises the problem of a payload that was tried so many times without an answer, and returns its remedy.
func (s *session) sayStuck(bytes, tries int, what string) (remedy string) {
	remedy = fmt.Sprintf("compare the broker's largest message and packet (Mosquitto: message_size_limit, max_packet_size) with publish.max_bytes: raise the one to %d and more, or lower the other; a payload that was tried before keeps its size", bytes+1024)
	s.problems.raise(CodeStuck, "", status.Fail, fmt.Sprintf("a payload of %d bytes (publish.max_bytes is %d) was tried %d times without an answer: %s", bytes, s.cfg.MaxBytes, tries, what), remedy)
	return remedy
}

func (s *session) run(ctx context.Context) (err error) {
	var pause cloud.Backoff
	proofs := make(chan proof, 1)
	var proofRunning sync.WaitGroup
	defer proofRunning.Wait()
	pctx, stopProof := context.WithCancel(ctx)
	defer stopProof()
	proving := false
	var askers []chan error
	defer func() {
		for _, ask := range askers {
			ask <- cmp.Or(err, errors.New("agent: the session ended during the proof"))
		}
	}()
	prove := func() {
		if proving {
			return
		}
		proving = true
		size := s.needs()
		proofRunning.Add(1)
		go func() {
			defer proofRunning.Done()
			bound, cancel := context.WithTimeout(pctx, proofTime(size))
			defer cancel()
			err := s.overhead(bound, 0, size) // a small one first
			if err == nil {
				err = s.link.Prove(bound, size)
			}
			proofs <- proof{size, err}
		}()
	}
	prove()
	nextProof := (<-chan time.Time)(nil)

	// The home gets the schema once the path is proven, then each day; until it has it, payloads are rows.
	schemas := make(chan error, 1)
	var schemaPause cloud.Backoff
	nextSchema := (<-chan time.Time)(nil)
	offered, offeredAt := (*packing)(nil), time.Time{}
	offering := false
	offer := func(p *packing) {
		offered, offering, nextSchema = p, true, nil
		proofRunning.Go(func() {
			bound, cancel := context.WithTimeout(pctx, proofTime(len(p.text)))
			defer cancel()
			err := s.overhead(bound, len(p.text))
			if err == nil {
				err = s.link.Schema(bound, p.coder.Schema().ID, p.text)
			}
			schemas <- err
		})
	}

	var telling sync.WaitGroup
	defer telling.Wait()
	told, toldAt := s.describe(true), time.Now()
	tell := func() {
		text := s.describe(true)
		quiet := time.Since(toldAt)
		owed := s.owes != nil && s.trusted() && s.owes() // the status of the connect proves nothing
		if quiet < owedPause || !owed && (quiet < statusPause || bytes.Equal(text, told) || quiet < statusEvery && sameNews(text, told)) {
			return
		}
		told, toldAt = text, time.Now()
		proven := s.trusted()
		telling.Add(1)
		go func() {
			defer telling.Done()
			bound, cancel := context.WithTimeout(pctx, 10*time.Second)
			defer cancel()
			if s.overhead(bound, len(text)) == nil && s.link.Status(bound, text) == nil && proven && s.reported != nil { // a lost status is followed by the next
				s.reported(text)
			}
		}()
	}

	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var appended <-chan struct{}
	var settle <-chan time.Time
	for {
		s.beat.promise(dialBound)
		if want := cmp.Or(s.better, s.packing); want != nil && !offering && s.trusted() && want.flushed() && (offered != want || s.asked && time.Since(offeredAt) > schemaPatience) {
			s.asked, offeredAt = false, time.Now()
			offer(want)
		}
		if s.trusted() {
			if err := s.send(); err != nil {
				return err
			}
			s.fill()
		}
		if settle == nil && appended == nil {
			appended = s.lane.Appended()
		}
		s.show()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.link.Done():
			if proving {
				select {
				case p := <-proofs: // it may know what the connection ended at
					if cutAt(p.err) > 0 {
						return p.err
					}
				case <-time.After(farewell):
				}
			}
			return cmp.Or(s.link.Err(), error(&cloud.Error{Class: cloud.Unreachable, Op: "session", Err: errors.New("connection closed")}))
		case ask := <-s.asks:
			askers = append(askers, ask)
			prove()
		case p := <-proofs:
			proving = false
			s.prove(p)
			for _, ask := range askers {
				ask <- p.err
			}
			askers = nil
			if cutAt(p.err) > 0 {
				return p.err
			}
			if p.err == nil {
				if s.needs() > p.bytes { // publish.max_bytes was raised meanwhile
					prove()
				}
				pause.Reset()
				nextProof = time.After(proofEvery)
			} else {
				nextProof = time.After(pause.Next() + 5*time.Second)
			}
		case <-nextProof:
			nextProof = nil
			prove()
		case err := <-schemas:
			offering = false
			if offered != s.packing && offered != s.better || offered == nil {
				break // another is wanted by now
			}
			if err == nil {
				if !s.packs || offered == s.better {
					s.packing, s.better, s.packs = offered, nil, true
					s.live, s.backlog = run{}, run{} // what is being filled is rows, or of the old schema
				}
				s.problems.clear(CodeSchema, "")
				nextSchema = time.After(schemaEvery)
				break
			}
			s.schemaRefused(err)
			nextSchema = time.After(schemaPause.Next() + 5*time.Second)
		case <-nextSchema:
			if s.packing != nil && !offering {
				offer(cmp.Or(s.better, s.packing))
			}
		case coder := <-s.teacher.lesson:
			s.teacher.lesson = nil
			s.learnt(coder)
		case a := <-s.acks:
			s.ack(a)
		case h := <-s.link.Hints():
			s.hint(h)
		case <-s.durable():
		case <-s.calm:
			s.calm = nil
		case <-s.wake:
		case <-appended:
			appended, settle = nil, time.After(coalesce)
		case <-settle:
			settle = nil
		case <-ticker.C:
			if err := s.late(); err != nil {
				return err
			}
			s.hold()
			if len(s.flights) == 0 {
				s.blocked = false // no acknowledgement will say so: what the disk refused is tried again
			}
			tell()
			if s.packs {
				s.teacher.teach(s.lessons, s.packing, s.sets(), s.limit, s.log)
			}
			if now := s.settings(); now != s.cfg {
				s.reconfigure(s.cloud.Limits())
				if s.needs() != s.proven {
					prove() // larger than is proven, or small enough now
				}
			}
		}
	}
}

// learnt takes a better schema into use, once the home has it; until then the present one serves.
func (s *session) learnt(coder *packed.Coder) {
	if coder == nil || s.packing == nil || coder.Schema().ID != s.packing.coder.Schema().ID+1 || !coder.Schema().Of(s.sets()) {
		return // another was made meanwhile
	}
	better, err := keepPacking(s.buf, s.lane, s.header, coder)
	if err != nil {
		s.log.Error("schema not kept", "error", err)
		return
	}
	s.better = better
}

// schemaRefused tells that payloads are rows, since the home has no schema.
func (s *session) schemaRefused(err error) {
	remedy := "look at the broker: it must keep retained messages; or use publish.format: rows"
	if e := new(cloud.Error); errors.As(err, &e) {
		remedy = cmp.Or(e.Remedy, remedy)
	}
	s.unschooled = !s.packs
	if !s.packs {
		s.problems.raise(CodeSchema, "", status.Warn, "payloads are rows until the home has the schema that packed ones need: "+oneLine(err), remedy)
	}
}

// prove notes how a proof of the path ended.
func (s *session) prove(p proof) {
	if p.err != nil {
		s.proven = 0
		s.complain(p.err)
		return
	}
	if s.cuts > 0 {
		s.cuts = 0
		s.problems.clear(CodeStuck, "")
	}
	s.proven = p.bytes
	if limits := s.cloud.Limits(); s.limit != s.allowed(limits) {
		s.reconfigure(limits)
	}
	s.setState("proven")
	now := time.Now().UTC()
	s.mu.Lock()
	s.view.LastProof = &now
	s.mu.Unlock()
	s.problems.only("", homeCodes, "", "", "", "")
}

// durable is closed when the first flight that waits for the disk may leave.
func (s *session) durable() <-chan struct{} {
	for _, f := range s.flights {
		if f.durable != nil {
			return f.durable
		}
	}
	return nil
}

// send publishes the flights whose attempt is on disk, alarms before what waits for the home's rate.
func (s *session) send() error {
	for _, f := range s.flights {
		select {
		case <-f.durable:
			f.durable = nil
		default:
		}
	}
	for _, alarms := range []bool{true, false} {
		for _, f := range s.flights {
			if !f.sent.IsZero() || f.durable != nil || f.Alarm != alarms {
				continue
			}
			if wait := s.sends.wait(s.bound(), alarms, time.Now()); wait > 0 {
				if s.calm == nil {
					s.calm = time.After(wait)
				}
				break
			}
			if err := s.publish(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) publish(f *flight) error {
	kind := cloud.Readings
	if f.Alarm {
		kind = cloud.Alarm
	}
	id := f.ID
	f.sent = time.Now()
	s.sends.note(f.sent)
	s.mu.Lock()
	s.view.Operations += uint64(f.Cost)
	s.view.Bytes += uint64(len(f.Payload))
	s.mu.Unlock()
	answer := func(err error) {
		select {
		case s.acks <- acked{id, err}:
		case <-s.over:
		}
	}
	return s.link.Publish(cloud.Message{Kind: kind, Payload: f.Payload}, answer)
}

// bound is how often may be published.
func (s *session) bound() config.Rate {
	r := config.Rate(s.cfg.Rate)
	if l := s.cloud.Limits(); l.Publishes > 0 && (r.N == 0 || float64(l.Publishes)*float64(r.Per) < float64(r.N)*float64(l.Per)) {
		return config.Rate{N: l.Publishes, Per: l.Per}
	}
	return r
}

// crowded says that flights wait for the home's rate: readings do better in a payload that still fills.
func (s *session) crowded() bool {
	return s.bound().N > 0 && slices.ContainsFunc(s.flights, func(f *flight) bool { return f.sent.IsZero() }) && s.sends.wait(s.bound(), false, time.Now()) > 0
}

// sends are the times of the last publishes: a home that counts them within any length of time is never over its limit, which a
// token bucket of that size could be.
type sends []time.Time

// wait is how long until one more is within the rate. Of a rate of four and more a tenth, one at least, is kept for alarms.
func (s *sends) wait(r config.Rate, alarm bool, now time.Time) time.Duration {
	if r.N == 0 {
		return 0
	}
	recent := *s
	for len(recent) > 0 && now.Sub(recent[0]) >= r.Per {
		recent = recent[1:]
	}
	*s = recent
	most := r.N
	if !alarm && most >= 4 {
		most -= max(1, most/10)
	}
	if len(recent) < most {
		return 0
	}
	return r.Per - now.Sub(recent[len(recent)-most])
}

// maxSends is how many times are kept: the largest rate's.
const maxSends = 1 << 16

func (s *sends) note(at time.Time) {
	*s = append(*s, at)
	if n := len(*s) - maxSends; n > 0 {
		*s = slices.Clone((*s)[n:])
	}
}

// alarmRoom is kept of the bytes that may be in flight, so that an alarm leaves even when
// nothing else is acknowledged.
const maxInFlight, alarmRoom = 256 << 10, 64 << 10

// held is what is in flight: payloads that the home has not acknowledged, and the bytes of all.
func (s *session) held() (unanswered, bytes int) {
	for _, f := range s.flights {
		bytes += len(f.Payload)
		if !f.taken {
			unanswered++
		}
	}
	for _, a := range s.again {
		bytes += len(a.Payload)
	}
	return unanswered, bytes
}

// waiting is how many flights have not left yet: the disk, or the home's rate, keeps them.
func (s *session) waiting() (n int) {
	for _, f := range s.flights {
		if f.sent.IsZero() {
			n++
		}
	}
	return n
}

// fill makes attempts as long as there is something to send, room for it and the budget allows.
func (s *session) fill() {
	for {
		n, _ := s.held()
		if n-s.waiting() >= s.window {
			return
		}
		if s.repeatAlarm() || s.sendAlarm() { // what waits for the home's rate is not in an alarm's way
			continue
		}
		if n >= s.window || s.blocked || s.crowded() {
			return
		}
		s.extend(&s.live, s.border, 0)
		due := s.due(&s.live)
		live, saved, most := s.ledger.Spendable()
		if s.drained && len(s.again) == 0 {
			live += saved // nobody else wants it
		}
		made := s.live.made // aggregates leave as they are
		allowed := due && (made || live >= s.ahead) && s.may(ledger.Live, s.costAbout(&s.live)) && s.may(ledger.Live, s.cost(&s.live))
		if allowed && !made && s.live.full && s.live.closed == nil {
			var done bool
			if done, s.ahead = s.thin(s.border, 0, live, most); done {
				s.live = run{}
				continue
			}
			allowed = s.ahead == 0
		}
		s.heldLive = due && !allowed
		if allowed {
			if s.depart(&s.live, false) {
				continue
			}
			if s.blocked || len(s.again) == 0 {
				return
			}
		}
		behind := 0
		for _, f := range s.flights {
			if f.backlog {
				behind++
			}
		}
		if behind >= max(1, int(float64(s.window)*float64(s.cfg.BacklogShare))) {
			return
		}
		if len(s.again) > 0 {
			c := s.again[0].Cost
			if s.heldBehind = !s.may(ledger.Backlog, c) && !s.may(ledger.Live, c); s.heldBehind {
				return
			}
			s.repeat(0, ledger.Backlog)
			continue
		}
		if s.drained {
			return
		}
		s.extend(&s.backlog, 0, s.border)
		if s.backlog.full {
			if s.heldBehind = saved < s.behind || !s.may(ledger.Backlog, s.cost(&s.backlog)); s.heldBehind {
				return
			}
			if s.backlog.closed == nil {
				var done bool
				if done, s.behind = s.thin(s.backlog.from, s.border, min(saved, mostBacklog*float64(s.rule().Cost(s.limit))), mostBacklog*float64(s.rule().Cost(s.limit))); done {
					s.backlog, s.behind = run{}, 0 // the aggregates come after what is live
					continue
				} else if s.behind > 0 {
					return
				}
			}
			if s.depart(&s.backlog, true) {
				continue
			}
			return
		}
		if s.backlog.rows == nil && s.alarmsWait() {
			return // one that the list had lost is in its way, and leaves first
		}
		// What is left of the backlog fills no payload: live readings complete it.
		s.drained, s.heldBehind = true, false
		if s.backlog.rows != nil {
			s.border = s.backlog.from
			s.backlog, s.live = run{}, run{}
		}
	}
}

func (s *session) alarmsWait() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.alarms) > 0
}

// mostBacklog payloads are made of a backlog that is thinned.
const mostBacklog = 8

// may asks the ledger.
func (s *session) may(k ledger.Kind, cost int) bool {
	return s.ledger.May(k, cost, !s.drained || len(s.again) > 0)
}

// cost is what a run's payload is as it stands.
func (s *session) cost(r *run) int { return s.costSince(r, 0) }

// costAbout is what it was when it had no less than 15/16 of the readings: asking takes a while where payloads are packed, the longer the more is in it.
func (s *session) costAbout(r *run) int { return s.costSince(r, 16) }

func (s *session) costSince(r *run, parts int) int {
	rule := s.rule()
	switch most := rule.Cost(s.limit); {
	case r.closed != nil:
		return rule.Cost(len(r.closed))
	case most == 1 || r.full:
		return most
	case r.rows == nil:
		return rule.Cost(0)
	}
	n, grown := r.rows.Len(), 0
	if parts > 0 {
		grown = r.sized / parts
	}
	if r.size == 0 || n < r.sized || n > r.sized+grown {
		r.size, r.sized = min(r.rows.Size(), s.limit), n
	}
	return rule.Cost(r.size)
}

// maxAge is how long an ordinary reading may wait now.
func (s *session) maxAge() time.Duration {
	return s.ledger.MaxAge(time.Duration(s.cfg.MaxAge), s.costAbout(&s.live))
}

// repeatAlarm tries an alarm again that an earlier session has tried. One that was never answered is no longer hurried: a home that says nothing would have
// all of the budget.
func (s *session) repeatAlarm() bool {
	i := slices.IndexFunc(s.again, func(a *buffer.Attempt) bool { return a.Alarm && a.Tries < stuckTries })
	return i >= 0 && s.may(ledger.Alarm, s.again[i].Cost) && s.repeat(i, ledger.Alarm)
}

// repeat tries an attempt again.
func (s *session) repeat(i int, k ledger.Kind) bool {
	a := s.again[i]
	s.again = slices.Delete(s.again, i, i+1)
	if err := s.lane.Retried(a.ID); err != nil {
		s.log.Warn("attempt lost before its repeat", "range_from", a.Range.From, "error", err)
		return true
	}
	a.Tries++
	a.Cost = max(a.Cost, s.costs(a.Payload)) // the rule may have changed
	return s.launch(a, k)
}

// extend adds to r the open polls from r's end (or start, for an empty run) up to end (0: none).
func (s *session) extend(r *run, start, end buffer.Seq) {
	for s.extendOnce(r, start, end) && !s.blocked {
	}
}

// extendOnce stops after a reading that fits into no payload and was given up: there may be more.
func (s *session) extendOnce(r *run, start, end buffer.Seq) (more bool) {
	if r.full || r.closed != nil {
		return false
	}
	if r.rows != nil {
		start = r.next
	}
	for st, err := range s.lane.Open(start) {
		st.Time = s.grid.round(st)
		switch {
		case err != nil:
			s.log.Warn("buffer read failed", "error", err)
			return false
		case end != 0 && st.First >= end:
			return false
		case r.rows != nil && (st.First != r.next || st.Alarm): // a payload is a run without holes; an alarm travels alone
			r.full = true
			return false
		case st.Alarm:
			s.found(st.First)
			return false
		}
		if r.rows == nil {
			s.begin(r, st)
		}
		n := len(st.Readings)
		if !r.rows.Add(pack.Poll{Time: st.Time, Readings: st.Readings}) {
			r.full = true
			if r.next != r.from {
				return false
			}
			if len(r.gaps) > 0 && r.next == r.from { // the gaps are in its way: they go alone
				s.start(r, st)
				if !r.rows.Add(pack.Poll{Time: st.Time, Readings: st.Readings}) {
					n = s.part(r.rows, st)
				}
				r.full = n < len(st.Readings)
			} else {
				n = s.part(r.rows, st)
			}
			if n == 0 {
				*r = run{}
				return true
			}
		}
		if r == &s.live && s.packing != nil {
			s.teacher.hear(pack.Poll{Time: st.Time, Readings: st.Readings})
		}
		r.next = st.First + buffer.Seq(n)
		r.mixed = r.mixed || r.made != (st.Readings[0].Quality == drivers.Aggregate)
		if r.full {
			return false
		}
	}
	return false
}

// found queues an alarm that the list had lost.
func (s *session) found(first buffer.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, known := slices.BinarySearch(s.alarms, first)
	if known {
		return
	}
	s.alarms = slices.Insert(s.alarms, i, first)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// part takes as many channels of a poll as fit when the whole does not; a reading too
// large alone is given up.
func (s *session) part(rows pack.Writer, st buffer.Stored) int {
	n := rows.AddPart(pack.Poll{Time: st.Time, Readings: st.Readings})
	if n == 0 {
		s.problems.raise(CodeTooLarge, "", status.Fail,
			fmt.Sprintf("one reading of %s alone does not fit into %d bytes", st.Readings[0].Channel, s.limit),
			"raise publish.max_bytes or shorten the names")
		if err := s.lane.NoteGap(buffer.Gap{Range: buffer.Range{From: st.First, To: st.First}, N: 1, Reason: buffer.Undeliverable}); err != nil {
			s.log.Error("gap not recorded", "error", err)
			s.blocked = true // until the next acknowledgement, instead of spinning
		}
	}
	return n
}

// start starts a payload at st.
func (s *session) start(r *run, st buffer.Stored) {
	h := s.header
	h.First = uint64(st.First)
	made := len(st.Readings) > 0 && st.Readings[0].Quality == drivers.Aggregate
	*r = run{rows: s.writer(h, st), made: made, from: st.First, next: st.First, oldest: st}
}

// writer is of the configured format; what no schema has goes as rows.
func (s *session) writer(h pack.Header, st buffer.Stored) pack.Writer {
	if s.packs && s.packing.coder.Fits(pack.Poll{Time: st.Time, Readings: st.Readings}) {
		return s.packing.coder.NewWriter(h, s.radix(), false, s.limit)
	}
	return s.plain(h)
}

// begin starts a payload at st, with the gaps that have not been reported.
func (s *session) begin(r *run, st buffer.Stored) {
	s.start(r, st)
	for _, g := range s.lane.OpenGaps() {
		if s.gapTaken(g.ID) || r.rows.Size() > s.limit/2 {
			continue
		}
		if r.rows.AddGap(wireGap(g)) {
			r.gaps = append(r.gaps, g)
		}
	}
}

// gapTaken says that the gap rides in a payload being filled.
func (s *session) gapTaken(id uint64) bool {
	for _, r := range []*run{&s.live, &s.backlog} {
		if slices.ContainsFunc(r.gaps, func(g buffer.Gap) bool { return g.ID == id }) {
			return true
		}
	}
	return false
}

func wireGap(g buffer.Gap) pack.Gap {
	w := pack.Gap{N: g.N, TFrom: g.TFrom, TTo: g.TTo, Reason: string(g.Reason), MaybeDelivered: g.MaybeDelivered}
	if g.Range != (buffer.Range{}) {
		from, to := uint64(g.Range.From), uint64(g.Range.To)
		w.From, w.To = &from, &to
	}
	return w
}

// due says that the run must leave: full, or its oldest reading is as old as it may
// get, counting the flush that it has to wait for.
func (s *session) due(r *run) bool {
	if r.rows == nil {
		return s.gapsDue(r)
	}
	if r.full || r.closed != nil {
		return true
	}
	maxAge := s.maxAge()
	return s.age(r.oldest) >= maxAge-min(maxAge/2, s.flush()+coalesce+time.Second)
}

// gapsDue starts a payload of gaps alone when some have waited for readings that could carry them.
func (s *session) gapsDue(r *run) bool {
	gaps := s.lane.OpenGaps()
	if !s.drained || len(gaps) == 0 || s.clock.Stamp().Wall-gaps[0].TTo < s.maxAge().Milliseconds() {
		return false
	}
	s.start(r, buffer.Stored{First: s.lane.Next()})
	for _, g := range gaps {
		if !s.gapTaken(g.ID) && r.rows.AddGap(wireGap(g)) {
			r.gaps = append(r.gaps, g)
		}
	}
	if len(r.gaps) == 0 {
		*r = run{}
		s.problems.raise(CodeTooLarge, "gap", status.Fail, fmt.Sprintf("a gap record alone does not fit into %d bytes", s.limit), "raise publish.max_bytes")
		return false
	}
	r.full = true
	return true
}

func (s *session) age(st buffer.Stored) time.Duration {
	now := s.clock.Stamp()
	if st.Boot == now.Boot {
		return now.Mono - st.Mono
	}
	return math.MaxInt64 // of an earlier boot: it has waited long enough
}

// depart fixes the run as an attempt. False: no room now.
func (s *session) depart(r *run, backlog bool) bool {
	if r.closed == nil {
		var n int
		r.closed, n = r.rows.Close()
		r.next = r.from + buffer.Seq(n) // what did not fit after all begins the next
		if !r.mixed {
			s.capacity().learn(n, len(r.closed), s.limit, r.made)
		}
		if n == 0 && r.rows.Len() > 0 {
			s.log.Error("a payload was too small for its first reading", "bytes", s.limit)
			s.packs = false // as rows it will be split, or given up
			*r = run{}
			return false
		}
	}
	payload := r.closed
	if _, bytes := s.held(); bytes > 0 && bytes+len(payload) > maxInFlight-alarmRoom {
		s.blocked = len(s.again) == 0 // what is to be repeated has its room, and makes some
		return false
	}
	a := buffer.Attempt{Payload: payload, Cost: s.costs(payload)}
	if r.next > r.from {
		a.Range = buffer.Range{From: r.from, To: r.next - 1}
	}
	for _, g := range r.gaps {
		a.Gaps = append(a.Gaps, g.ID)
	}
	a.Told = r.gaps
	next, full := r.next, r.full
	*r = run{}
	if !s.fix(a, backlog) {
		return false
	}
	if !backlog {
		s.mu.Lock()
		if s.left++; full {
			s.leftFull++
		}
		s.mu.Unlock()
	}
	if !backlog && next > s.border {
		s.border = next
	}
	return true
}

func (s *session) fix(a buffer.Attempt, backlog bool) bool {
	fixed, err := s.lane.Fix(a)
	if err != nil {
		s.log.Debug("batch not fixed", "from", a.Range.From, "to", a.Range.To, "error", err)
		s.blocked = errors.Is(err, buffer.ErrInFlight) && len(s.flights) > 0
		return false
	}
	kind := ledger.Live
	switch {
	case a.Alarm:
		kind = ledger.Alarm
	case backlog:
		kind = ledger.Backlog
	}
	s.launch(fixed, kind)
	return true
}

// launch counts the try and lets it wait for the disk. What cannot be counted is not sent: it is tried again.
func (s *session) launch(a *buffer.Attempt, k ledger.Kind) bool {
	e := ledger.Entry{Class: ledger.Billed, Cost: a.Cost, Kind: k}
	if a.Tries <= 1 && a.Range != (buffer.Range{}) {
		e.Readings = int(a.Range.To-a.Range.From) + 1
	}
	if _, err := s.ledger.Count(e); err != nil {
		s.log.Error("not sent", "error", err)
		s.again = append(s.again, a)
		s.blocked = true // until the next acknowledgement, or session
		return false
	}
	s.flights = append(s.flights, &flight{Attempt: a, backlog: k == ledger.Backlog, durable: s.lane.Durable()})
	return true
}

// overhead counts publishes that carry no readings, of so many bytes each, before they are made.
func (p *publisher) overhead(ctx context.Context, bytes ...int) error {
	class, cost := ledger.Class(cmp.Or(p.cloud.Limits().Overhead, string(ledger.Unknown))), 0
	for _, n := range bytes {
		cost += p.rule().Cost(n)
	}
	wait, err := p.ledger.Count(ledger.Entry{Class: class, Cost: cost, Kind: ledger.Overhead})
	switch {
	case err != nil && class == ledger.Billed:
		return err
	case err != nil || !wait: // a full disk must not keep the home from being reached
		return nil
	}
	select {
	case <-p.lane.Durable():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sendAlarm makes an attempt of the oldest alarm's poll.
func (s *session) sendAlarm() bool {
	s.mu.Lock()
	if len(s.alarms) == 0 {
		s.mu.Unlock()
		return false
	}
	first := s.alarms[0]
	s.mu.Unlock()
	rest := buffer.Seq(0)
	for st, err := range s.lane.Open(first) {
		if err != nil || st.First < first || !st.Alarm || len(st.Readings) == 0 || st.First > first {
			break // gone meanwhile
		}
		st.Time = s.grid.round(st)
		h := s.header
		h.First = uint64(first)
		rows := s.plain(h)
		n := len(st.Readings)
		if !rows.Add(pack.Poll{Time: st.Time, Readings: st.Readings}) {
			if n = s.part(rows, st); n == 0 {
				n = 1 // given up; the rest goes on
			}
			if n < len(st.Readings) {
				rest = first + buffer.Seq(n)
			}
		}
		if rows.Len() > 0 {
			payload, _ := rows.Close()
			a := buffer.Attempt{Range: buffer.Range{From: first, To: first + buffer.Seq(n) - 1}, Payload: payload, Alarm: true, Cost: s.costs(payload)}
			if s.heldAlarm = !s.may(ledger.Alarm, a.Cost); s.heldAlarm || !s.fix(a, false) {
				return false
			}
			if err := s.buf.Flush(); err != nil {
				s.log.Warn("flush for an alarm failed", "error", err)
			}
		}
		break
	}
	s.mu.Lock()
	s.alarms = s.alarms[1:]
	if rest != 0 {
		s.alarms = slices.Insert(s.alarms, 0, rest)
	}
	s.saveAlarmsLocked()
	s.mu.Unlock()
	return true
}

// ack takes the answer to one publish.
func (s *session) ack(a acked) {
	i := slices.IndexFunc(s.flights, func(f *flight) bool { return f.ID == a.id })
	if i < 0 {
		return
	}
	f := s.flights[i]
	s.blocked = false
	switch {
	case a.err == nil && !s.trusted():
		// Acknowledged by a home that may be throwing away: not delivered.
		s.drop(i)
		s.again = append(s.again, f.Attempt)
	case a.err == nil && s.cfg.Acknowledge == "receiver" && f.Range != (buffer.Range{}): // gaps alone have no numbers to confirm
		f.taken = true
		if !s.unheard {
			s.problems.clear(CodeNoAck, "")
		}
	case a.err == nil:
		s.drop(i)
		if err := s.lane.Ack(f.ID); err != nil {
			s.log.Warn("outcome not recorded", "error", err)
			return
		}
		s.delivered(f)
	case cloud.ClassOf(a.err) == cloud.TooLarge:
		s.drop(i)
		s.problems.raise(CodeTooLarge, "", status.Fail, oneLine(a.err), "lower publish.max_bytes to what the home takes")
		if err := s.lane.GiveUp(f.ID, buffer.Undeliverable); err != nil {
			s.log.Error("gap not recorded", "error", err)
		}
	default: // its fate is unknown; the session ends and the next one tries it again
		s.log.Debug("publish failed", "error", a.err)
	}
}

func (s *session) drop(i int) { s.flights = slices.Delete(s.flights, i, i+1) }

func (s *session) delivered(f *flight) {
	now := time.Now().UTC()
	n := uint64(0)
	if f.Range != (buffer.Range{}) {
		n = uint64(f.Range.To-f.Range.From) + 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.Payloads++
	s.view.Readings += n
	s.view.LastAck = &now
	share := 0.0
	if f.backlog {
		share = 1
	}
	s.view.BacklogShare += (share - s.view.BacklogShare) / 8
	s.unheard = false
	s.problems.clear(CodeNoAck, "")
	s.problems.clear(CodeStuck, "")
}

// late looks for publishes that were never answered.
func (s *session) late() error {
	for i := 0; i < len(s.flights); i++ {
		f := s.flights[i]
		if f.sent.IsZero() {
			continue
		}
		waited := time.Since(f.sent)
		switch {
		case f.taken && waited > min(receiverRetry<<min(max(f.Tries-1, 0), 6), maxReceiverRetry):
			s.unheard = true
			s.problems.raise(CodeNoAck, "", status.Warn,
				fmt.Sprintf("the receiver has not confirmed a payload for %v", waited.Round(time.Second)),
				"check that the receiver runs and writes its acknowledgements to B/acks, or set publish.acknowledge: proven")
			s.drop(i)
			i--
			s.again, s.blocked = append(s.again, f.Attempt), false
		case !f.taken && waited > ackBound:
			err := fmt.Errorf("no acknowledgement for %v though connected", waited.Round(time.Second))
			s.problems.raise(CodeNoAck, "", status.Fail, err.Error(), "look at the broker: it takes connections and does not acknowledge")
			if f.Tries >= stuckTries {
				s.sayStuck(len(f.Payload), f.Tries, err.Error())
			}
			return &cloud.Error{Class: cloud.Unreachable, Op: "publish", Err: err, Remedy: "look at the broker: it takes connections and does not acknowledge"}
		}
	}
	return nil
}

// hint takes what a receiver says; it is data from anyone who may publish there.
func (s *session) hint(h cloud.Hint) {
	var order struct {
		Schema bool `json:"schema"`
	}
	if h.Topic == "orders" {
		if json.Unmarshal(h.Payload, &order) == nil && order.Schema {
			s.asked = true // a receiver has lost it, or a broker what it retained
		} else if s.nudged != nil {
			s.nudged() // whatever it says: what counts is signed, in the repository
		}
	}
	if h.Topic != "acks" || s.cfg.Acknowledge != "receiver" {
		return
	}
	var msg struct {
		Epoch  uint32     `json:"epoch"`
		Ranges []ackRange `json:"ranges"`
	}
	if err := json.Unmarshal(h.Payload, &msg); err != nil || len(msg.Ranges) > maxAckRanges {
		s.log.Debug("acknowledgement refused", "error", err, "ranges", len(msg.Ranges))
		return
	}
	if msg.Epoch != s.header.Epoch {
		return
	}
	ranges := make([]buffer.Range, 0, len(msg.Ranges))
	for _, r := range msg.Ranges {
		ranges = append(ranges, buffer.Range(r))
	}
	if err := s.lane.AckRanges(ranges); err != nil {
		s.log.Warn("outcome not recorded", "error", err)
		return
	}
	open := map[uint64]bool{}
	for _, a := range s.lane.Attempts() {
		open[a.ID] = true
	}
	s.again = slices.DeleteFunc(s.again, func(a *buffer.Attempt) bool { return !open[a.ID] })
	s.flights = slices.DeleteFunc(s.flights, func(f *flight) bool {
		if open[f.ID] {
			return false
		}
		s.delivered(f)
		return true
	})
	s.blocked = false
}

// ackRange is [from,to]. What is not quite that may mean anything, and readings are deleted on its word: it spoils its message.
type ackRange buffer.Range

func (r *ackRange) UnmarshalJSON(b []byte) error {
	var ends []*buffer.Seq
	if err := json.Unmarshal(b, &ends); err != nil {
		return err
	}
	if len(ends) != 2 || ends[0] == nil || ends[1] == nil || *ends[0] == 0 || *ends[0] > *ends[1] {
		return fmt.Errorf("range %.40q: want [from,to], from at least 1 and to not below it", b)
	}
	*r = ackRange{From: *ends[0], To: *ends[1]}
	return nil
}

// lastAcks waits for the answers to what has been sent; each saves a repeat.
func (s *session) lastAcks(ctx context.Context) {
	for s.trusted() && slices.ContainsFunc(s.flights, func(f *flight) bool { return !f.sent.IsZero() && !f.taken }) {
		select {
		case a := <-s.acks:
			s.ack(a)
			if a.err != nil {
				return
			}
		case <-s.link.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *session) show() {
	maxAge := s.maxAge()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.InFlight = len(s.flights)
	s.view.MaxAgeS = maxAge.Seconds()
}

// sameNews compares two statuses' problems, and how updates stand, alone.
func sameNews(a, b []byte) bool {
	var x, y struct {
		Problems json.RawMessage `json:"problems"`
		Update   json.RawMessage `json:"update"`
	}
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && bytes.Equal(x.Problems, y.Problems) && bytes.Equal(x.Update, y.Update)
}
