package rollout

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
	"homeward/ota"
	"homeward/ota/boot"
	"homeward/ota/delta"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// TestFleet is a fleet of simulated gateways with the real update code: each has its own disk, boot record, launcher and updater; only
// signatures, radio and hardware are left out. One in ten is offline, one in twenty has hardware that no release is for or fails on.
// A bad release is rolled out, then one that is bad for most of them, then good ones, of which the last can only be reached over two
// stepping stones.
func TestFleet(t *testing.T) {
	n := 120
	if testing.Short() {
		n = 60
	}
	if os.Getenv("HOMEWARD_CAMPAIGN") == "1" {
		n = 1000
	}
	synctest.Test(t, func(t *testing.T) { simulate(t, n) })
}

const (
	dir         = "/state/ota"
	factoryFile = "/usr/lib/homeward/factory/agent"
	line        = "gateway"
)

// depot is the fleet repository, as everybody reads it once signatures are checked.
type depot struct {
	mu       sync.Mutex
	targets  map[string][]byte
	blobs    map[string][]byte
	programs map[string]uint64 // release by hash of its program
	rollouts *release.Rollouts
	served   int64
}

func (d *depot) Target(_ context.Context, path string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if data, ok := d.targets[path]; ok {
		return data, nil
	}
	return nil, trust.ErrNoTarget
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// program is the file of a release's agent; 0: the factory's.
func program(counter uint64) []byte {
	data := bytes.Repeat([]byte("what all of them have in common. "), 60)
	return append(data, fmt.Sprintf("release %d", counter)...)
}

// add makes a release: whole, and as a patch from another.
func (d *depot) add(t *testing.T, counter, minCounter, base uint64, hw ...string) {
	data := program(counter)
	var z bytes.Buffer
	require.NoError(t, delta.Compress(&z, bytes.NewReader(data)))
	part := release.Part{Name: release.AgentPart, Backend: release.SlotBackend, SHA256: hashOf(data), Size: int64(len(data))}
	part.Encodings = []release.Encoding{{Enc: release.EncZstd, SHA256: hashOf(z.Bytes()), Size: int64(z.Len()), WindowLog: delta.WindowLog}}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blobs[hashOf(z.Bytes())] = z.Bytes()
	if base > 0 {
		patch, err := delta.Diff(program(base), data)
		require.NoError(t, err)
		d.blobs[hashOf(patch)] = patch
		part.Encodings = append(part.Encodings, release.Encoding{Enc: release.EncBsdiff, Base: hashOf(program(base)), SHA256: hashOf(patch), Size: int64(len(patch))})
	}
	m := release.Manifest{Schema: 1, Product: line, Platform: "linux-arm64", Version: version(counter), Counter: counter, HW: hw, Parts: []release.Part{part},
		Requires: release.Requires{MinCounter: minCounter}, Health: release.Health{StableS: 120, DeadlineS: 1800, NeedServer: true}}
	data, err := m.Encode()
	require.NoError(t, err)
	d.targets[release.ManifestPath(line, "linux-arm64", counter)] = data
	d.programs[part.SHA256] = counter
}

// publish signs the next rollouts, so to speak.
func (d *depot) publish(t *testing.T, change func(r *release.Rollouts)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d.rollouts)
	d.rollouts.Serial++
	data, err := d.rollouts.Encode()
	require.NoError(t, err)
	d.targets[release.RolloutsPath(line)] = data
}

// current is what is published.
func (d *depot) current() *release.Rollouts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return clone(d.rollouts)
}

// roll lists a release and begins its rollout.
func (d *depot) roll(t *testing.T, counter uint64) {
	d.publish(t, func(r *release.Rollouts) {
		r.Releases = append(r.Releases, release.Listed{Counter: counter, Version: version(counter), Platforms: []string{"linux-arm64"}, State: release.Rolling})
		r.Rollouts = append(r.Rollouts, release.Rollout{
			ID: fmt.Sprintf("r-%d", counter), Counter: counter, Version: version(counter), State: release.Running, ErrorPercent: 20, AtOnce: 50, SoakS: 3600, VerdictAfterS: 86400,
			Groups: []release.Group{{Name: "some", Percent: 10, State: release.Waiting}, {Name: "half", Percent: 50, State: release.Waiting}, {Name: "all", Percent: 100, State: release.Waiting}},
		})
	})
}

// station is one simulated gateway.
type station struct {
	t        *testing.T
	depot    *depot
	id       string
	hardware string

	mu      sync.Mutex // protects the following
	broken  bool       // the new programs do not start on it
	crashes func(counter uint64) bool
	fs      *crashfs.FS
	powered bool
	link    bool
	updater *ota.Updater
	told    Seen
	ran     map[uint64]int
	boots   int
	stop    context.CancelFunc
	ended   chan struct{}
}

func newStation(t *testing.T, d *depot, i int) *station {
	s := &station{t: t, depot: d, id: fmt.Sprintf("gw-%04d", i), hardware: "pi", fs: crashfs.New(uint64(i) + 1), ran: map[uint64]int{}}
	for _, path := range []string{"/usr", "/usr/lib", "/usr/lib/homeward", filepath.Dir(factoryFile), "/state", dir} {
		require.NoError(t, s.fs.MkdirAll(path, 0o755))
		require.NoError(t, s.fs.SyncDir(filepath.Dir(path)))
	}
	require.NoError(t, durable.Replace(s.fs, factoryFile, program(0), 0o755))
	s.told = Seen{Gateway: s.id, Platform: "linux-arm64", At: time.Now()}
	return s
}

// on gives it power, and a link or none.
func (s *station) on(link bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.powered, s.link = true, link
	s.boots++
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.ended = cancel, make(chan struct{})
	bootID := fmt.Sprintf("boot-%d", s.boots)
	go func() {
		defer close(s.ended)
		for ctx.Err() == nil {
			s.agent(ctx, s.launch(bootID), bootID)
		}
	}()
}

// off cuts its power.
func (s *station) off() {
	s.mu.Lock()
	on := s.powered
	stop, ended := s.stop, s.ended
	s.powered, s.link, s.updater = false, false, nil
	s.told.Online = false // the broker publishes its will
	s.mu.Unlock()
	if !on {
		return
	}
	stop()
	<-ended
	s.fs = s.fs.Reboot(crashfs.Random)
}

func (s *station) store() *boot.Store { return &boot.Store{FS: s.fs, Dir: dir} }

// launch is what the launcher does.
func (s *station) launch(bootID string) string {
	st := s.store()
	r, _, err := st.Load()
	require.NoError(s.t, err)
	d := boot.Decision{Slot: r.Active}
	if r.Trial != nil {
		_, err := st.Update(func(r *boot.Record) error { d = boot.Start(r, bootID); return nil })
		require.NoError(s.t, err)
	}
	if d.Slot != "" {
		require.NoError(s.t, st.Verify(d.Slot), "%s: a slot that is started holds what its name says", s.id)
	}
	return d.Slot
}

// agent is one process.
func (s *station) agent(ctx context.Context, slot, bootID string) {
	st, path, name, counter := s.store(), factoryFile, ota.Factory, uint64(0)
	if slot != "" {
		path, name = st.Agent(slot), slot
		s.depot.mu.Lock()
		counter = s.depot.programs[slot]
		s.depot.mu.Unlock()
	}
	s.mu.Lock()
	s.ran[counter]++
	crashes := s.crashes(counter)
	s.mu.Unlock()
	if crashes {
		time.Sleep(time.Second)
		_, err := st.Update(func(r *boot.Record) error {
			if r.Trial != nil {
				boot.Ended(r, false, "exit status 2")
			}
			return nil
		})
		require.NoError(s.t, err)
		return
	}
	restart, changed := make(chan struct{}, 1), make(chan struct{}, 1)
	signal := func(c chan struct{}) func() {
		return func() {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	u, err := ota.New(ota.Options{
		Dir: dir, FS: s.fs, Boot: st, Gateway: s.id, Product: line, Platform: "linux-arm64", Hardware: []string{s.hardware},
		Slot: name, Agent: path, Version: version(counter), Trust: trust.Options{Source: s}, MinRate: 1, Repository: s,
		Config: func() ota.Settings { return ota.Settings{Every: 5 * 24 * time.Hour, Zone: time.UTC} }, Health: s,
		SelfCheck: func(_ context.Context, agent string) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.broken {
				return fmt.Errorf("illegal instruction")
			}
			return nil
		},
		Restart: signal(restart), Changed: signal(changed),
	})
	require.NoError(s.t, err)
	s.mu.Lock()
	s.updater = u
	s.mu.Unlock()
	run, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = u.Run(run) }()
	defer func() { cancel(); <-ended }()
	for {
		s.tell(u)
		select {
		case <-ctx.Done(): // the power
			return
		case <-restart:
			cancel()
			<-ended
			require.NoError(s.t, st.Stopped(slot, bootID, 0))
			return
		case <-changed:
		}
	}
}

// tell publishes the retained status, as the agent does.
func (s *station) tell(u *ota.Updater) {
	st := u.Status()
	told := Update{State: string(st.State), Code: st.Code, Counter: st.Counter}
	o, due := u.Outcome()
	if due {
		told = Update{o.State, o.Code, o.Counter, o.Attempt}
	} else if st.Candidate != "" {
		told = Update{string(st.State), st.Code, st.Target, st.Attempt}
	} else {
		for _, e := range slices.Backward(u.History()) {
			if e.Event != ota.EventArmed {
				told = Update{string(st.State), e.Code, e.Release.Counter, e.Attempt}
				break
			}
		}
	}
	s.mu.Lock()
	link := s.link
	if link {
		s.told = Seen{Gateway: s.id, Platform: "linux-arm64", Online: true, At: time.Now(), Version: st.Version, Update: told}
	}
	s.mu.Unlock()
	if due && link {
		require.NoError(s.t, u.Acked(o.Gen))
	}
}

func (s *station) says() Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// setLink mends its link, or cuts it.
func (s *station) setLink(link bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link, s.told.Online = link, link && s.powered
	s.told.At = time.Now()
}

func (s *station) linked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link
}

type unreachable struct{}

func (unreachable) Error() string { return "no route" }
func (unreachable) Code() string  { return "tuf.unreachable" }

// Refresh, Target and Get are the repository as it reaches it.
func (s *station) Refresh(context.Context) error {
	if !s.linked() {
		return unreachable{}
	}
	return nil
}

func (s *station) Target(ctx context.Context, path string) ([]byte, error) {
	return s.depot.Target(ctx, path)
}

func (s *station) Get(_ context.Context, q trust.Request) (*trust.Body, error) {
	if !s.linked() {
		return nil, unreachable{}
	}
	s.depot.mu.Lock()
	defer s.depot.mu.Unlock()
	data, ok := s.depot.blobs[strings.TrimPrefix(q.Name, "blobs/")]
	if !ok {
		return nil, trust.ErrNotFound
	}
	at := min(max(q.Offset, 0), int64(len(data)))
	s.depot.served += int64(len(data)) - at
	return &trust.Body{ReadCloser: io.NopCloser(bytes.NewReader(data[at:])), Offset: at, Size: int64(len(data)), ETag: `"1"`}, nil
}

// Baseline, Check and Link are its health.
func (s *station) Baseline(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{}`), nil
}

func (s *station) Check(context.Context, json.RawMessage) []ota.Check {
	return []ota.Check{{Name: "config", OK: true}, {Name: "store", OK: true}, {Name: "drivers", OK: true}, {Name: "memory", OK: true}}
}

func (s *station) Link(context.Context) bool { return s.linked() }

func (s *station) record() boot.Record {
	r, _, err := s.store().Load()
	require.NoError(s.t, err)
	return r
}

// team are the fleet's managers: whoever is awake decides. They share nothing but what is published and told.
type team struct {
	t        *testing.T
	depot    *depot
	stations []*station
	memories [3]Memory
	turn     int
	steps    []Step
}

// watch decides every few minutes until no rollout runs, or at most for so long.
func (m *team) watch(most time.Duration) {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(5 * time.Minute) {
		r := m.depot.current()
		if !slices.ContainsFunc(r.Rollouts, func(o release.Rollout) bool { return o.State == release.Running }) {
			return
		}
		m.turn++
		memory := &m.memories[m.turn%len(m.memories)]
		if m.turn%97 == 0 { // started anew
			*memory = Memory{}
		}
		var seen []Seen
		for _, s := range m.stations {
			told := s.says()
			memory.Note(&told)
			seen = append(seen, told)
		}
		rand.Shuffle(len(seen), func(i, j int) { seen[i], seen[j] = seen[j], seen[i] })
		next, steps := Decide(r, seen, time.Now())
		if !slices.ContainsFunc(steps, Step.Changes) {
			continue
		}
		for _, s := range steps {
			if s.Changes() {
				m.steps = append(m.steps, s)
				m.t.Logf("%s %s", time.Now().UTC().Format("01-02 15:04"), s)
			}
		}
		m.depot.publish(m.t, func(r *release.Rollouts) { serial := r.Serial; *r = *next; r.Serial = serial })
		m.nudge()
	}
}

// nudge tells all that hear it to look.
func (m *team) nudge() {
	for _, s := range m.stations {
		s.mu.Lock()
		if s.link && s.updater != nil {
			s.updater.Nudge()
		}
		s.mu.Unlock()
	}
}

func simulate(t *testing.T, n int) {
	d := &depot{targets: map[string][]byte{}, blobs: map[string][]byte{}, programs: map[string]uint64{}, rollouts: &release.Rollouts{Schema: 1, Product: line}}
	m := &team{t: t, depot: d}
	d.add(t, 1, 0, 0)
	d.publish(t, func(r *release.Rollouts) {
		r.Releases = []release.Listed{{Counter: 1, Version: version(1), Platforms: []string{"linux-arm64"}, State: release.Released}}
	})
	for i := range n {
		s := newStation(t, d, i)
		s.crashes = func(counter uint64) bool { return counter == 2 }
		m.stations = append(m.stations, s)
		s.on(true)
	}
	defer func() {
		for _, s := range m.stations {
			s.off()
		}
	}()
	counters := func() map[uint64]int {
		counts := map[uint64]int{}
		for _, s := range m.stations {
			counts[s.record().Release.Counter]++
		}
		return counts
	}
	m.nudge()
	time.Sleep(2 * time.Hour)
	require.Equal(t, map[uint64]int{1: n}, counters(), "everybody begins with release 1")

	// Some go offline: half of them without power, half without a link. Others have hardware of their own.
	var away, wrong []*station
	for i, s := range m.stations {
		switch {
		case i%10 == 3:
			away = append(away, s)
			if i%20 == 3 {
				s.off()
			} else {
				s.setLink(false)
			}
		case i%40 == 7:
			wrong = append(wrong, s)
			s.off()
			s.hardware = "another board"
			s.on(true)
		case i%40 == 27:
			wrong = append(wrong, s)
			s.mu.Lock()
			s.broken = true
			s.mu.Unlock()
		}
	}
	t.Logf("%d gateways: %d offline, %d with bad hardware", n, len(away), len(wrong))

	// The bad release.
	d.add(t, 2, 0, 1, "pi")
	d.roll(t, 2)
	m.nudge()
	m.watch(7 * 24 * time.Hour)
	time.Sleep(24 * time.Hour)
	r := d.current()
	require.Equal(t, release.HaltedRoll, r.Rollouts[0].State)
	require.Equal(t, release.Halted, r.Listed(2).State)
	require.NotEqual(t, release.GroupDone, r.Rollouts[0].Groups[0].State, "inside the first group")
	ran := 0
	for _, s := range m.stations {
		s.mu.Lock()
		if s.ran[2] > 0 {
			ran++
			g, _ := r.Rollouts[0].Group(s.id)
			require.Zero(t, g, "%s is not of the first group", s.id)
		}
		s.mu.Unlock()
	}
	t.Logf("the bad release ran on %d of %d gateways and was halted", ran, n)
	require.Positive(t, ran)
	require.LessOrEqual(t, ran, 1+n/10)
	require.Equal(t, map[uint64]int{1: n}, counters(), "nobody has committed it, everybody is back")

	// One that most of them crash with, but not the one that goes first.
	d.add(t, 3, 0, 1, "pi")
	most := func(id string) bool { return release.Bucket("crashes", id) < 70 }
	d.roll(t, 3)
	roll := &d.current().Rollouts[1]
	first, lowest := "", 100.0
	for _, s := range m.stations {
		if g, place := roll.Group(s.id); g == 0 && place < lowest && s.linked() && !slices.Contains(wrong, s) {
			first, lowest = s.id, place
		}
	}
	for _, s := range m.stations {
		s.mu.Lock()
		s.crashes = func(counter uint64) bool { return counter == 2 || counter == 3 && s.id != first && most(s.id) }
		s.mu.Unlock()
	}
	m.nudge()
	m.watch(7 * 24 * time.Hour)
	time.Sleep(24 * time.Hour)
	r = d.current()
	require.Equal(t, release.HaltedRoll, r.Rollouts[1].State)
	require.Equal(t, release.Open, r.Rollouts[1].Groups[0].State, "inside the first group")
	ran = 0
	for _, s := range m.stations {
		s.mu.Lock()
		if s.ran[3] > 0 {
			ran++
			g, _ := r.Rollouts[1].Group(s.id)
			require.Zero(t, g, "%s is not of the first group", s.id)
		}
		s.mu.Unlock()
	}
	kept := counters()[3]
	t.Logf("the release that crashes on most of them ran on %d, was kept by %d and halted", ran, kept)
	require.Positive(t, kept)
	require.Less(t, kept, ran)
	require.Equal(t, map[uint64]int{1: n - kept, 3: kept}, counters())

	// A good one.
	d.add(t, 4, 0, 1, "pi")
	d.roll(t, 4)
	m.nudge()
	m.watch(7 * 24 * time.Hour)
	time.Sleep(2 * 24 * time.Hour)
	require.Equal(t, release.Done, d.current().Rollouts[2].State)
	require.Equal(t, map[uint64]int{1: len(away) + len(wrong), 4: n - len(away) - len(wrong)}, counters())

	// Months pass, with releases that need the ones before.
	for counter := uint64(5); counter <= 6; counter++ {
		time.Sleep(40 * 24 * time.Hour)
		d.add(t, counter, counter-1, counter-1, "pi")
		d.roll(t, counter)
		m.nudge()
		m.watch(7 * 24 * time.Hour)
		time.Sleep(2 * 24 * time.Hour)
		require.Equal(t, map[uint64]int{1: len(away) + len(wrong), counter: n - len(away) - len(wrong)}, counters())
	}

	// Those that were away come back.
	for _, s := range away {
		if s.linked() || s.stop == nil {
			continue
		}
		if s.powered {
			s.setLink(true)
		} else {
			s.on(true)
		}
	}
	time.Sleep(4 * 24 * time.Hour)
	require.Equal(t, map[uint64]int{1: len(wrong), 6: n - len(wrong)}, counters())
	for _, s := range away {
		s.mu.Lock()
		require.Zero(t, s.ran[2]+s.ran[3], "%s was offline and has run a bad release", s.id)
		require.Positive(t, s.ran[4], "a stepping stone")
		require.Positive(t, s.ran[5], "a stepping stone")
		s.mu.Unlock()
	}
	for _, s := range m.stations {
		rec := s.record()
		require.Nil(t, rec.Trial)
		require.NoError(t, s.store().Verify(rec.Active), "%s: bricked", s.id)
		require.True(t, s.says().Online)
	}
	for _, s := range wrong {
		require.Contains(t, []string{"rel.wrong_hw", "slot.selfcheck"}, s.says().Update.Code, "%s", s.id)
	}
	t.Logf("all %d good gateways are on release 6, %d came back after months over stepping stones; %d kilobytes were loaded; nobody is bricked", n-len(wrong), len(away), d.served/1000)
}
