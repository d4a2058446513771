package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud"
	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/buffer"
	"homeward/drivers"
)

// monthHome is a home that can be away. It keeps of each reading only that it came.
type monthHome struct {
	t        *testing.T
	mu       sync.Mutex
	away     bool
	billed   map[string]int // operations of each month, by the home's own clock
	came     []bool         // by sequence number
	twice    int
	thinned  int // readings in gap records
	marked   int // aggregates
	alarms   map[uint64]time.Time
	coders   map[uint32]*packed.Coder
	last     *monthSession
	payloads int
	month    func(time.Time) string // who is billed when, by the home's clock
	mute     bool                   // it takes, and does not acknowledge
	ids      map[string]int         // of payloads, by their bytes
	in       map[uint64]int         // which payload brought a reading first
}

func newMonthHome(t *testing.T) *monthHome {
	return &monthHome{
		t: t, billed: map[string]int{}, alarms: map[uint64]time.Time{}, coders: map[uint32]*packed.Coder{}, ids: map[string]int{}, in: map[uint64]int{},
		month: func(at time.Time) string { return at.UTC().Format("2006-01") },
	}
}

func (h *monthHome) Name() string { return "month" }
func (h *monthHome) Limits() cloud.Limits {
	return cloud.Limits{MaxBytes: 1024, Window: 16, Schemas: true, Publishes: 30, Per: 15 * time.Second}
}

func (h *monthHome) Dial(context.Context, []byte, []byte) (cloud.Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away {
		return nil, &cloud.Error{Class: cloud.Unreachable, Op: "connect", Err: errors.New("away"), Remedy: "wait"}
	}
	h.last = &monthSession{h: h, done: make(chan struct{}), hints: make(chan cloud.Hint)}
	return h.last, nil
}

func (h *monthHome) leave(away bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away = away; away && h.last != nil {
		h.last.drop()
	}
}

type monthSession struct {
	h     *monthHome
	done  chan struct{}
	hints chan cloud.Hint
	once  sync.Once
}

func (s *monthSession) Publish(m cloud.Message, ack func(error)) error {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	var p pack.Payload
	var err error
	if packed.Is(m.Payload) {
		info, perr := packed.Peek(m.Payload)
		if perr != nil {
			return perr
		}
		p, err = h.coders[info.Schema].Decode(m.Payload)
	} else {
		p, err = pack.Decode(m.Payload)
	}
	if err != nil {
		h.t.Errorf("payload: %v", err)
		return err
	}
	h.payloads++
	h.billed[h.month(time.Now())] += max(1, (len(m.Payload)+1023)/1024)
	id := h.ids[string(m.Payload)]
	if id == 0 {
		id = len(h.ids) + 1
		h.ids[string(m.Payload)] = id
	}
	mark := func(seq uint64) bool {
		for uint64(len(h.came)) <= seq {
			h.came = append(h.came, make([]bool, seq+1000)...)
		}
		if h.came[seq] {
			return false
		}
		h.came[seq] = true
		return true
	}
	for _, r := range p.Readings {
		if !mark(r.Seq) {
			if h.twice++; h.in[r.Seq] != id {
				h.t.Errorf("reading %d came in two payloads", r.Seq)
			}
		} else if r.Quality == drivers.Aggregate {
			h.marked++
		}
		h.in[r.Seq] = id
		if _, seen := h.alarms[r.Seq]; m.Kind == cloud.Alarm && !seen {
			h.alarms[r.Seq] = time.Now()
		}
	}
	for _, g := range p.Gaps {
		for seq := *g.From; seq <= *g.To; seq++ {
			if mark(seq) {
				h.thinned++
			}
		}
	}
	if !h.mute {
		go ack(nil)
	}
	return nil
}

func (s *monthSession) Prove(context.Context, int) error { return nil }
func (s *monthSession) Schema(_ context.Context, id uint32, text []byte) error {
	schema, err := packed.ParseSchema(text)
	if err != nil {
		return err
	}
	coder, err := packed.New(schema)
	if err != nil {
		return err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.coders[id] = coder
	return nil
}
func (s *monthSession) Status(context.Context, []byte) error { return nil }
func (s *monthSession) Hints() <-chan cloud.Hint             { return s.hints }
func (s *monthSession) Done() <-chan struct{}                { return s.done }
func (s *monthSession) Err() error                           { return errors.New("lost") }
func (s *monthSession) Close(context.Context, []byte)        { s.drop() }
func (s *monthSession) drop()                                { s.once.Do(func() { close(s.done) }) }

// monthSite is a gateway with 40 channels whose publisher, ledger and buffer are the real ones.
type monthSite struct {
	*publisher
	t      *testing.T
	dir    string
	home   *monthHome
	cfg    *config.Publish
	budget ledger.Budget
	every  time.Duration // each sensor is read so often
	boot   byte
	booted time.Time
	// The clock may be wrong, and may not be trusted.
	off     time.Duration
	doubted bool

	values [40]float64
	random *rand.Rand
	stop   context.CancelFunc
	done   sync.WaitGroup
	began  map[uint64]time.Time // of alarms, by sequence number
	taken  uint64
	oldest time.Duration // the longest that an ordinary reading has waited while the home was reached
}

func (m *monthSite) Stamp() drivers.Stamp {
	return drivers.Stamp{Boot: [16]byte{m.boot}, Mono: time.Since(m.booted), Wall: time.Now().Add(m.off).UnixMilli(), Trusted: !m.doubted}
}
func (*monthSite) Source() (string, *float64) { return "test", nil }

func (m *monthSite) start() {
	t := m.t
	m.boot++
	m.booted = time.Now()
	buf, err := buffer.Open(m.dir, buffer.Options{HalfBytes: 256 << 10, MaxBytes: 64 << 20, Seal: 10 * m.every, FS: lazyFS{}})
	require.NoError(t, err)
	lane, err := buf.Lane(7)
	require.NoError(t, err)
	sets := packed.Sets(&config.Config{Sensors: monthSensors(), Operations: config.Operations{AtLimit: m.budget.AtLimit}})
	log := slog.New(slog.DiscardHandler)
	m.publisher = newPublisher(&publisher{
		buf: buf, lane: lane, cloud: m.home, header: pack.Header{Gateway: "gw", Epoch: 7},
		settings: func() *config.Publish { return m.cfg }, sets: func() []packed.Set { return sets },
		flush: func() time.Duration { return time.Second }, describe: func(bool) []byte { return []byte("{}") },
		rule:   func() ledger.Rule { return ledger.Rule{PerBytes: 1024} },
		ledger: ledger.Open(ledger.Options{Store: buf, Durable: lane.Durable, Clock: m.Stamp, Budget: func() ledger.Budget { return m.budget }}),
		clock:  m, problems: newProblems(time.Now, log), log: log, beat: newVital().add("publisher"),
	})
	var ctx context.Context
	ctx, m.stop = context.WithCancel(t.Context())
	m.done.Go(func() { m.Run(ctx) })
}

func (m *monthSite) end() {
	m.stop()
	m.done.Wait()
	require.NoError(m.t, m.buf.Close())
}

func monthSensors() (sensors []config.Sensor) {
	for i := range 4 {
		s := config.Sensor{Name: fmt.Sprintf("sensor%d", i), Every: config.Duration(time.Minute)}
		for j := range 10 {
			unit := drivers.Unit("Cel")
			s.Channels = append(s.Channels, drivers.Channel{Name: fmt.Sprintf("c%d", j), Unit: &unit})
		}
		sensors = append(sensors, s)
	}
	return sensors
}

// poll reads one of the four sensors.
func (m *monthSite) poll(sensor int, alarm bool) {
	p := buffer.Poll{Stamp: m.Stamp(), Alarm: alarm}
	for j := range 10 {
		v := &m.values[sensor*10+j]
		*v += float64(m.random.IntN(5) - 2)
		p.Readings = append(p.Readings, drivers.Reading{Channel: fmt.Sprintf("sensor%d/c%d", sensor, j), Value: math.Round(*v) / 10, Unit: "Cel"})
	}
	first, err := m.lane.Append(p)
	require.NoError(m.t, err)
	m.taken += 10
	if alarm {
		m.began[uint64(first)] = time.Now()
		m.alarmed(first)
	}
}

// run samples for so long.
func (m *monthSite) run(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		for sensor := range 4 {
			m.poll(sensor, false)
			time.Sleep(m.every / 4)
		}
		m.look()
	}
}

// look notes how long the oldest reading has waited.
func (m *monthSite) look() {
	m.home.mu.Lock()
	away := m.home.away
	m.home.mu.Unlock()
	if s := m.buf.Stats(); !away && s.OldestMono > 0 {
		m.oldest = max(m.oldest, m.Stamp().Mono-s.OldestMono)
	}
}

// lazyFS does not wait for the disk: in a bubble no power is cut, and a month has a million flushes.
type lazyFS struct{ buffer.OSFS }

type lazyFile struct{ buffer.File }

func (lazyFile) Sync() error { return nil }

func (lazyFS) OpenFile(name string, flag int, perm os.FileMode) (buffer.File, error) {
	f, err := buffer.OSFS{}.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

// A month at a site: 40 channels, three outages, two storms of alarms, a gateway that starts again and again.
func month(t *testing.T, format, atLimit string, budget int64, every, maxAge time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now() // a bubble's time begins on the 1st of January
		m := &monthSite{
			t: t, dir: t.TempDir(), random: rand.New(rand.NewPCG(3, 4)), began: map[uint64]time.Time{}, every: every,
			home:   newMonthHome(t),
			cfg:    &config.Publish{Format: format, MaxBytes: 1024, MaxAge: config.Duration(maxAge), Acknowledge: "proven", BacklogShare: 0.5},
			budget: ledger.Budget{Operations: budget, Day: 1, Reserve: 0.1, AtLimit: atLimit, Backlog: 0.5},
		}
		storm := func(n int) {
			for i := range n {
				m.poll(i%4, true)
				time.Sleep(7 * time.Second)
			}
		}
		until := func(day float64) { m.run(time.Until(start.Add(time.Duration(day * 24 * float64(time.Hour))))) }
		outage := func(d time.Duration) {
			m.home.leave(true)
			m.run(d)
			m.home.leave(false)
		}
		m.start()
		until(3)
		storm(int(budget / 100))
		until(5)
		outage(36 * time.Hour)
		until(9)
		for range 30 {
			m.run(2 * time.Minute)
			m.end()
			m.start()
		}
		until(12)
		outage(2 * time.Hour)
		until(18)
		storm(int(budget / 100))
		until(22)
		outage(48 * time.Hour)
		until(31 - 1.0/240) // the test polls a little beyond
		r := m.ledger.Report()
		spent := m.home.billed["2000-01"]
		require.Equal(t, "2000-01-01", r.Month)
		time.Sleep(10 * time.Second)
		m.end()

		// What is at the home, and what is still here.
		buf, err := buffer.Open(m.dir, buffer.Options{HalfBytes: 256 << 10, MaxBytes: 64 << 20})
		require.NoError(t, err)
		lane, err := buf.Lane(7)
		require.NoError(t, err)
		open := map[uint64]bool{}
		for st, err := range lane.Open(0) {
			require.NoError(t, err)
			for i := range st.Readings {
				open[uint64(st.First)+uint64(i)] = true
			}
		}
		for _, g := range lane.OpenGaps() {
			for seq := g.Range.From; seq <= g.Range.To; seq++ {
				open[uint64(seq)] = true
			}
		}
		missing := 0
		for seq := uint64(1); seq < uint64(lane.Next()); seq++ {
			if came := seq < uint64(len(m.home.came)) && m.home.came[seq]; !came && !open[seq] {
				missing++
			}
		}
		require.NoError(t, buf.Close())
		var late []time.Duration
		for seq, began := range m.began {
			came, ok := m.home.alarms[seq]
			require.True(t, ok, "alarm %d never came", seq)
			late = append(late, came.Sub(began))
		}
		t.Logf("%d readings, %d aggregates came, %d readings thinned; %d operations of %d, %d of them alarms (one publish per reading: %d); %d payloads; %d readings twice; %d wait",
			m.taken, m.home.marked, m.home.thinned, spent, budget, r.Alarms, r.Single, m.home.payloads, m.home.twice, len(open))
		t.Logf("the longest wait while the home was reached: of a reading %v, of an alarm %v", m.oldest.Round(time.Second), slices.Max(late))
		require.LessOrEqual(t, int64(spent), budget)
		require.GreaterOrEqual(t, r.Used, uint64(spent), "the ledger never counts less than was sent")
		require.LessOrEqual(t, slices.Max(late), 5*time.Second)
		require.Zero(t, missing, "each reading came, or is in a gap record, or waits")
		require.Less(t, len(open), int(m.taken/50))
		require.Equal(t, atLimit == ledger.Thin, m.home.thinned > 0)
	})
}

// TestMonth: in the campaign each sensor once a minute, which takes minutes.
func TestMonth(t *testing.T) {
	t.Parallel() // beside the tests that wait for a broker
	t.Run("budget", func(t *testing.T) { month(t, pack.FormatPacked, ledger.Hold, 7200, 5*time.Minute, time.Minute) })
	t.Run("a tenth of it, thinned", func(t *testing.T) { month(t, pack.FormatRows, ledger.Thin, 720, 5*time.Minute, time.Minute) })
	if os.Getenv("HOMEWARD_CAMPAIGN") == "" {
		return
	}
	t.Run("budget, each minute", func(t *testing.T) { month(t, pack.FormatPacked, ledger.Hold, 7200, time.Minute, 5*time.Minute) })
	t.Run("a tenth of it, thinned, each minute", func(t *testing.T) { month(t, pack.FormatPacked, ledger.Thin, 720, time.Minute, 5*time.Minute) })
}

// kill leaves the files as they are, and starts anew from them.
func (m *monthSite) kill() {
	m.stop()
	m.done.Wait()
	old, buf := m.dir, m.buf
	m.dir = m.t.TempDir()
	require.NoError(m.t, os.CopyFS(m.dir, os.DirFS(old)))
	require.NoError(m.t, buf.Close())
	m.start()
}

// Whatever is sent, acknowledged, lost or cut off, and whatever the clock says: the ledger has at least what came to the home, no more leaves than the
// budget allows, and a reading that comes twice comes in the same bytes.
func TestLedgerAndBatches(t *testing.T) {
	t.Parallel()
	seeds := 12
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		seeds = 300
	}
	for seed := range seeds {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { ledgerAndBatches(t, uint64(seed)) }) })
		if !ok {
			return
		}
	}
}

func ledgerAndBatches(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 11))
	format := []string{pack.FormatRows, pack.FormatPacked}[random.IntN(2)]
	m := &monthSite{
		t: t, dir: t.TempDir(), random: random, began: map[uint64]time.Time{}, every: time.Minute, home: newMonthHome(t),
		cfg: &config.Publish{Format: format, MaxBytes: 1024, MaxAge: config.Duration(time.Minute), Acknowledge: "proven", BacklogShare: 0.5},
		budget: ledger.Budget{
			Operations: int64(100 + random.IntN(3000)), Day: 2 + random.IntN(2), Reserve: 0.1, Backlog: 0.5,
			AtLimit: []string{ledger.Hold, ledger.Thin, ledger.Continue}[random.IntN(3)],
		},
	}
	m.home.month = func(at time.Time) string {
		start, _ := ledger.Month(at, m.budget.Day, nil)
		return start.Format(time.DateOnly)
	}
	m.start()
	for range 60 {
		switch random.IntN(10) {
		case 0, 1, 2:
			for range random.IntN(60) {
				m.poll(random.IntN(4), false)
				time.Sleep(time.Second)
			}
		case 3:
			m.poll(random.IntN(4), true)
		case 4:
			m.home.leave(random.IntN(2) == 0)
		case 5: // acknowledgements are lost, and the connection with them
			m.home.mu.Lock()
			m.home.mute = !m.home.mute
			if !m.home.mute && m.home.last != nil {
				m.home.last.drop()
			}
			m.home.mu.Unlock()
		case 6:
			m.kill()
		case 7: // never over a restart: nobody could tell
			m.off = time.Duration(random.IntN(2000)-1000) * time.Hour
			for range random.IntN(60) {
				m.poll(random.IntN(4), false)
				time.Sleep(time.Second)
			}
			m.off = 0
			time.Sleep(2 * time.Second)
		case 8:
			m.doubted = !m.doubted
		case 9:
			time.Sleep(time.Duration(random.IntN(6*3600)) * time.Second)
		}
	}
	m.doubted = false
	m.home.leave(false)
	m.home.mu.Lock()
	if m.home.mute = false; m.home.last != nil {
		m.home.last.drop()
	}
	m.home.mu.Unlock()
	time.Sleep(10 * time.Minute)
	r := m.ledger.Report()
	m.home.mu.Lock()
	came := m.home.billed[r.Month]
	for name, n := range m.home.billed {
		if m.budget.AtLimit != ledger.Continue {
			require.LessOrEqual(t, int64(n), m.budget.Operations, name)
		}
	}
	m.home.mu.Unlock()
	require.Equal(t, m.home.month(time.Now()), r.Month)
	require.GreaterOrEqual(t, r.Used, uint64(came))
	m.end()
}
