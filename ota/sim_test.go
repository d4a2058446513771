package ota

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
	"homeward/ota/boot"
	"homeward/ota/delta"
	"homeward/ota/release"
	"homeward/ota/trust"
)

// program is what a simulated agent does; the zero is a good one.
type program struct {
	name      string
	selfCheck error
	crash     time.Duration // after its start it exits with 1; negative: at once
	hang      time.Duration // after its start it does nothing more, and the watchdog kills it a minute later; negative: at once
	unhealthy string        // this check always fails
	leaks     time.Duration // from then on the memory check fails
	deaf      bool          // it cannot reach the repository
	mute      bool          // it cannot reach the home
	runs      int
}

// fleet is a repository whose signatures are somebody else's test.
type fleet struct {
	mu      sync.Mutex
	targets map[string][]byte
	blobs   map[string][]byte
	down    bool  // the repository is out of reach
	served  int64 // bytes of blobs
	asked   int   // refreshes
	rate    int64 // bytes per second; 0: at once
	gets    []string
}

var errDown = &Error{"tuf.unreachable", "no route", nil}

func (f *fleet) Refresh(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.down {
		return errDown
	}
	return nil
}

func (f *fleet) Target(_ context.Context, path string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if data, ok := f.targets[path]; ok {
		return data, nil
	}
	return nil, trust.ErrNoTarget
}

func (f *fleet) Get(ctx context.Context, q trust.Request) (*trust.Body, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errors.New("no route")
	}
	data, ok := f.blobs[strings.TrimPrefix(q.Name, "blobs/")]
	if !ok {
		return nil, trust.ErrNotFound
	}
	f.gets = append(f.gets, q.Name)
	at := min(max(q.Offset, 0), int64(len(data)))
	return &trust.Body{ReadCloser: io.NopCloser(&serving{f, ctx, data[at:]}), Offset: at, Size: int64(len(data)), ETag: `"1"`}, nil
}

type serving struct {
	f    *fleet
	ctx  context.Context
	left []byte
}

func (s *serving) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n := copy(p, s.left)
	s.f.mu.Lock()
	rate := s.f.rate
	s.f.mu.Unlock()
	if rate > 0 && n > 0 {
		n = min(n, 1024)
		select {
		case <-time.After(time.Duration(int64(n) * int64(time.Second) / rate)):
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
	}
	s.left = s.left[n:]
	s.f.mu.Lock()
	s.f.served += int64(n)
	s.f.mu.Unlock()
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (f *fleet) sign(path string, data []byte) {
	f.mu.Lock()
	f.targets[path] = data
	f.mu.Unlock()
}

func (f *fleet) signed(path string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.targets[path] != nil
}

func (f *fleet) looks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *fleet) slow(rate int64) {
	f.mu.Lock()
	f.rate = rate
	f.mu.Unlock()
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// box is one simulated gateway: disk, launcher, and the agents that it starts.
type box struct {
	t         *testing.T
	fs        *crashfs.FS
	fleet     *fleet
	programs  map[string]*program // by the hash of their file
	content   map[string][]byte   // same
	settings  Settings
	linkDown  bool
	ready     error
	signed    func(fs durable.FS) trust.Options // nil: signatures are somebody else's test
	space     int64
	boots     int
	product   string
	noLaunch  bool // started by hand
	diskFails bool
	stumble   bool // the launcher starts the factory's, once
	onDamaged bool // the active slot may be damaged
	synced    func() bool
	refuses   func() error // what the repository answers to a refresh; nil: what it has
	cutAt     int          // the operation at which the power goes, from now on; 0: never
	ops       int          // before the present file system

	u       *Updater // of the running agent
	onStep  func(label string)
	onCheck func(ctx context.Context) error

	// What was seen durable, for the invariants.
	floors    map[string]uint64
	moveSeq   uint64
	committed uint64
	bad       map[string]bool // manifests that were quarantined
	downgrade bool            // allowed
	anew      bool            // a quarantined release may be armed
	told      map[string]int  // outcomes by counter, code and gen, as the fleet gets them
	gens      map[string][]uint64
	started   []string // programs, in order
}

const (
	boxDir  = "/state/ota"
	factory = "/usr/lib/homeward/factory/agent"
)

var window02 = Window{2 * 60, 5 * 60}

func newBox(t *testing.T) *box {
	b := &box{t: t, fs: crashfs.New(1), programs: map[string]*program{}, content: map[string][]byte{}, floors: map[string]uint64{}, bad: map[string]bool{},
		told: map[string]int{}, gens: map[string][]uint64{}, product: "box", fleet: &fleet{targets: map[string][]byte{}, blobs: map[string][]byte{}}}
	data := b.program(&program{name: "factory"})
	for _, dir := range []string{"/usr", "/usr/lib", "/usr/lib/homeward", filepath.Dir(factory), "/state", boxDir} {
		require.NoError(t, makeDir(b.fs, dir))
	}
	require.NoError(t, durable.Replace(b.fs, factory, data, 0o755))
	return b
}

// size of a program: several pieces of a download.
const size = 160 << 10

// made keeps what is slow to make.
var made sync.Map

func once(key string, mk func() []byte) []byte {
	if v, ok := made.Load(key); ok {
		return v.([]byte)
	}
	v := mk()
	made.Store(key, v)
	return v
}

// program makes the file of a program.
func (b *box) program(p *program) []byte {
	data := bytes.Clone(once("noise", func() []byte { // programs of one line resemble each other
		data := make([]byte, size)
		_, _ = rand.NewChaCha8(sha256.Sum256(nil)).Read(data)
		return data
	}))
	copy(data, "program "+p.name+"\n")
	copy(data[size/2:], p.name)
	b.programs[hashOf(data)], b.content[hashOf(data)] = p, data
	return data
}

// add puts a release into the repository and returns its manifest, before it is signed by put.
func (b *box) add(counter uint64, p *program, bases ...string) *release.Manifest {
	data := b.program(p)
	whole := once(hashOf(data), func() []byte {
		var z bytes.Buffer
		require.NoError(b.t, delta.Compress(&z, bytes.NewReader(data)))
		return z.Bytes()
	})
	part := release.Part{Name: "agent", Backend: "slot", SHA256: hashOf(data), Size: int64(len(data))}
	enc := func(enc, base string, blob []byte) {
		b.fleet.mu.Lock()
		b.fleet.blobs[hashOf(blob)] = blob
		b.fleet.mu.Unlock()
		part.Encodings = append(part.Encodings, release.Encoding{Enc: enc, Base: base, SHA256: hashOf(blob), Size: int64(len(blob)), WindowLog: map[bool]int{true: 21}[base == ""]})
	}
	enc("zstd", "", whole)
	for _, base := range bases {
		enc("bsdiff40", base, once(base+hashOf(data), func() []byte {
			patch, err := delta.Diff(b.content[base], data)
			require.NoError(b.t, err)
			return patch
		}))
	}
	return &release.Manifest{Schema: 1, Product: b.product, Platform: "linux-arm64", Version: "1." + fmt.Sprint(counter), Counter: counter, HW: []string{"pi"},
		Parts: []release.Part{part}, Health: release.Health{StableS: 600, DeadlineS: 1800, NeedServer: true}}
}

func (b *box) put(m *release.Manifest) string {
	data, err := m.Encode()
	require.NoError(b.t, err)
	b.fleet.sign(release.ManifestPath(m.Product, m.Platform, m.Counter), data)
	return hashOf(data)
}

// offer says which releases are listed, the newest last; those with a state of their own as counter:state.
func (b *box) offer(serial uint64, counters ...any) {
	r := &release.Rollouts{Schema: 1, Product: b.product, Serial: serial}
	for _, c := range counters {
		counter, state := uint64(0), release.Released
		switch c := c.(type) {
		case int:
			counter = uint64(c)
		case string:
			_, err := fmt.Sscanf(c, "%d:%s", &counter, &state)
			require.NoError(b.t, err)
		}
		r.Releases = append(r.Releases, release.Listed{Counter: counter, Version: "1." + fmt.Sprint(counter), Platforms: []string{"linux-arm64"}, State: state})
	}
	b.roll(r)
}

func (b *box) roll(r *release.Rollouts) {
	data, err := r.Encode()
	require.NoError(b.t, err)
	b.fleet.sign(release.RolloutsPath(b.product), data)
}

func (b *box) order(o *release.Order) {
	o.Gateway = "gw-1"
	data, err := o.Encode()
	require.NoError(b.t, err)
	b.fleet.sign(release.OrderPath("gw-1"), data)
}

func (b *box) store() *boot.Store { return &boot.Store{FS: b.fs, Dir: boxDir} }

func (b *box) record() boot.Record {
	r, _, err := b.store().Load()
	require.NoError(b.t, err)
	return r
}

// look checks the invariants on what is on disk now.
func (b *box) look(where string) boot.Record {
	r, _, err := b.store().Load()
	if b.fs.Crashed() {
		return boot.Record{}
	}
	t := b.t
	require.NoError(t, err, where)
	for product, floor := range b.floors {
		require.GreaterOrEqual(t, r.Floors[product], floor, "%s: the floor fell", where)
	}
	for product, floor := range r.Floors {
		b.floors[product] = floor
	}
	require.GreaterOrEqual(t, r.MoveSeq, b.moveSeq, "%s: move_seq fell", where)
	b.moveSeq = r.MoveSeq
	if !b.downgrade {
		require.GreaterOrEqual(t, r.Release.Counter, b.committed, "%s: a committed release was undone", where)
	}
	b.committed = r.Release.Counter
	if r.Active != "" && !b.onDamaged {
		if err := b.store().Verify(r.Active); !b.fs.Crashed() {
			require.NoError(t, err, "%s: the active slot", where)
		}
	}
	for _, q := range r.Quarantine {
		if b.toldCode(q.Release.Counter, q.Code) { // a verdict on the link is not final before
			b.bad[q.Manifest] = true
		}
	}
	if r.Trial != nil && !b.anew {
		require.False(t, b.bad[r.Trial.Release.SHA256], "%s: a quarantined release is armed: %v", where, r.Trial.Release)
	}
	return r
}

// reboot goes on with what is left of the disk.
func (b *box) reboot(mode crashfs.Mode) {
	done := b.fs.Ops()
	b.ops += done
	if b.cutAt > 0 {
		b.cutAt = max(b.cutAt-done, 1)
	}
	b.fs = b.fs.Reboot(mode)
	b.fs.CrashAt(b.cutAt)
	b.fs.SetSpace(b.space)
}

// power cuts it at the n-th operation from now on; 0: never.
func (b *box) power(n int) {
	b.cutAt = n
	if n > 0 {
		n += b.fs.Ops()
		b.cutAt = n
	}
	b.fs.CrashAt(n)
}

// how a process or the power ended.
type ending string

const (
	again   ending = "restart"
	crashed ending = "crash"
	hung    ending = "hang"
	cut     ending = "cut" // the power, by the file system
	over    ending = "over"
)

// on gives the box power for d, then cuts it; the launcher starts what it starts. It ends early when done says so or the file system
// cuts the power. It runs in a bubble of synctest.
func (b *box) on(d time.Duration, done func() bool) ending {
	b.boots++
	bootID := fmt.Sprintf("boot-%d", b.boots)
	deadline := time.Now().Add(d)
	for {
		slot, ok := b.launch(bootID)
		if !ok {
			return cut
		}
		end := b.agent(slot, bootID, deadline, done)
		if end == over || end == cut {
			return end
		}
		if end != again { // a kill: what was written is seen, nothing more is
			if r, _, err := b.store().Load(); err == nil && r.Trial != nil && r.Trial.BootID == bootID {
				if _, err := b.store().Update(func(r *boot.Record) error {
					boot.Ended(r, end == hung, string(end))
					return nil
				}); err != nil {
					if b.fs.Crashed() {
						return cut
					}
				}
			}
			select {
			case <-time.After(time.Second):
			case <-time.After(time.Until(deadline)):
			}
		}
	}
}

// launch is what homeward-launch does.
func (b *box) launch(bootID string) (slot string, ok bool) {
	s := b.store()
	r, _, err := s.Load()
	if err != nil {
		require.True(b.t, b.fs.Crashed(), "%v", err)
		return "", false
	}
	d := boot.Decision{Slot: r.Active}
	if r.Trial != nil {
		if _, err := s.Update(func(r *boot.Record) error { d = boot.Start(r, bootID); return nil }); err != nil {
			if b.fs.Crashed() {
				return "", false
			}
			d = boot.Decision{Slot: r.Active}
		}
	}
	if d.Trial {
		if err := s.Verify(d.Slot); err != nil {
			if _, err := s.Update(func(r *boot.Record) error { boot.RollBack(r, boot.CodeVerify, err.Error(), false); return nil }); err != nil {
				return "", false
			}
			d.Slot = r.Active
		}
	}
	if b.stumble {
		b.stumble = false
		return "", true
	}
	if d.Slot != "" && s.Verify(d.Slot) != nil {
		if d.Slot = r.Prev; d.Slot != "" && s.Verify(d.Slot) != nil {
			d.Slot = ""
		}
	}
	return d.Slot, !b.fs.Crashed()
}

// running gives the program in a file: no byte may be executed that was not verified.
func (b *box) running(path, slot string) *program {
	data, err := durable.Read(b.fs, path, 1<<20)
	if b.fs.Crashed() {
		return &program{selfCheck: crashfs.ErrCrash}
	}
	require.NoError(b.t, err)
	sha := hashOf(data)
	require.True(b.t, slot == "" || slot == sha, "slot %s holds %s", slot, sha)
	p := b.programs[sha]
	require.NotNil(b.t, p, "what nobody made would be executed from %s", path)
	return p
}

// health of a simulated agent.
type health struct {
	b     *box
	p     *program
	began time.Time
}

func (h health) Baseline(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"failing":["drivers"]}`), nil
}

func (h health) Check(_ context.Context, baseline json.RawMessage) []Check {
	list := []Check{{Name: "config", OK: true}, {Name: "store", OK: true}, {Name: "drivers", OK: bytes.Contains(baseline, []byte("drivers")), Text: "boiler is silent"},
		{Name: "memory", OK: h.p.leaks == 0 || time.Since(h.began) < h.p.leaks, Text: "300 MB"}}
	if h.p.unhealthy != "" {
		list = append(list, Check{Name: h.p.unhealthy, Text: "broken"})
	}
	return list
}

func (h health) Link(context.Context) bool { return !h.b.linkDown && !h.p.mute }

// channel is the repository as one program reaches it.
type channel struct {
	*fleet
	deaf bool
}

func (c channel) Refresh(ctx context.Context) error {
	if c.deaf {
		return errDown
	}
	return c.fleet.Refresh(ctx)
}

// agent runs what a slot holds.
func (b *box) agent(slot, bootID string, deadline time.Time, done func() bool) ending {
	path := factory
	name := Factory
	if slot != "" {
		path, name = b.store().Agent(slot), slot
	}
	p := b.running(path, slot)
	if b.noLaunch {
		name = ""
	}
	p.runs++
	b.started = append(b.started, p.name)
	if p.crash < 0 {
		return crashed
	}
	if p.hang < 0 {
		time.Sleep(time.Minute)
		return hung
	}
	b.look("start of " + p.name)
	restart := make(chan struct{}, 1)
	fs := b.fs
	var repo Repository = channel{b.fleet, p.deaf}
	of := trust.Options{Source: b.fleet}
	if b.signed != nil { // the real one
		repo, of = nil, b.signed(fs)
	}
	if b.refuses != nil {
		repo = hooked{repo, func(context.Context) error { return b.refuses() }}
	}
	u, err := New(Options{
		Dir: boxDir, FS: fs, Boot: b.store(), Gateway: "gw-1", Product: b.product, Platform: "linux-arm64", Hardware: []string{"pi", "pi-zero"},
		Slot: name, Agent: path, Version: p.name, Trust: of, MinRate: 1, Repository: repo,
		Config: func() Settings { return b.settings }, Now: time.Now, Health: health{b, p, time.Now()},
		Ready: func() error { return b.ready }, Synced: b.synced,
		SelfCheck: func(ctx context.Context, agent string) error {
			if fs.Crashed() {
				return crashfs.ErrCrash
			}
			if b.onCheck != nil {
				if err := b.onCheck(ctx); err != nil {
					return err
				}
			}
			return b.running(agent, filepath.Base(filepath.Dir(agent))).selfCheck
		},
		Restart: func() {
			select {
			case restart <- struct{}{}:
			default:
			}
		},
		Step: func(label string) {
			if b.onStep != nil && !fs.Crashed() {
				b.onStep(label)
			}
		},
	})
	if err != nil {
		if fs.Crashed() {
			return cut
		}
		require.True(b.t, b.diskFails, "%v", err)
		return crashed // the agent runs without updates, until it is started again
	}
	b.u = u
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = u.Run(ctx) }()
	stop := func(kill bool) {
		if kill {
			b.reboot(crashfs.All)
		}
		cancel()
		<-ended
	}
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-restart:
			stop(false)
			if fs.Crashed() {
				return cut
			}
			_ = b.store().Stopped(slot, bootID, 0) // best effort, as in the agent
			return again
		case <-tick.C:
			synctest.Wait() // what is due at this moment is done, and nobody else runs
		}
		ran := time.Since(began)
		switch {
		case fs.Crashed():
			stop(false)
			return cut
		case p.crash > 0 && ran >= p.crash:
			stop(true)
			return crashed
		case p.hang > 0 && ran >= p.hang:
			stop(true)
			time.Sleep(time.Minute)
			return hung
		case !time.Now().Before(deadline):
			stop(true)
			return over
		}
		if o, ok := u.Outcome(); ok { // the fleet hears of it
			key := fmt.Sprintf("%d %s", o.Counter, o.Code)
			if gens := b.gens[key+fmt.Sprint(o.Attempt)]; len(gens) == 0 || gens[len(gens)-1] != o.Gen {
				b.told[key]++ // as receivers that drop repeats
			}
			b.gens[key+fmt.Sprint(o.Attempt)] = append(b.gens[key+fmt.Sprint(o.Attempt)], o.Gen)
			_ = u.Acked(o.Gen) // what cannot be noted is told again
		}
		if done != nil && done() {
			stop(true)
			return over
		}
	}
}

// until gives power for at most d, until done.
func (b *box) until(d time.Duration, done func() bool) {
	b.t.Helper()
	if end := b.on(d, done); end != over || !done() {
		b.t.Fatalf("after %v: %s; record %+v; status %+v", d, end, b.record(), b.u.Status())
	}
}

// slot is the content of a release's agent.
func slotOf(m *release.Manifest) string { return m.Agent().SHA256 }

func (b *box) runs(counter uint64) func() bool {
	return func() bool {
		r := b.record()
		return r.Trial == nil && r.Release.Counter == counter && b.toldCode(counter, "ok")
	}
}

func (b *box) toldCode(counter uint64, code string) bool {
	return b.told[fmt.Sprintf("%d %s", counter, code)] > 0
}

func TestUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBox(t)
		m1 := b.add(1, &program{name: "one"})
		m1.SecurityFloor = 1
		b.put(m1)
		b.offer(1, 1)
		b.until(2*time.Hour, b.runs(1))
		require.Equal(t, []string{"factory", "one"}, b.started)
		require.Equal(t, map[string]int{"1 ok": 1}, b.told)
		require.Equal(t, uint64(1), b.record().Floors["box"])

		full := b.fleet.served
		b.put(b.add(2, &program{name: "two"}, slotOf(m1)))
		b.offer(2, 1, 2)
		b.until(3*time.Hour, b.runs(2))
		require.Less(t, b.fleet.served-full, full/2, "the patch is what was fetched")
		require.Equal(t, map[string]int{"1 ok": 1, "2 ok": 1}, b.told)
		s := b.u.Status()
		require.Equal(t, "two", s.Version)
		require.Equal(t, uint64(2), s.Counter)
		require.Equal(t, Idle, s.State)
		require.Equal(t, b.fleet.served, s.Bytes.Today)
		slots, err := b.store().Slots()
		require.NoError(t, err)
		require.Len(t, slots, 2, "the active and the one before")
		entries, err := b.fs.ReadDir(boxDir + "/stage")
		require.NoError(t, err)
		require.Empty(t, entries)
	})
}
