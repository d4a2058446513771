package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"homeward/agent"
	"homeward/agent/cloud/cloudtest"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/agent/status"
	"homeward/buffer"
	"homeward/drivers"
	"homeward/drivers/sim"
)

// patience bounds every wait for something that must happen, on a loaded machine too.
const patience = 60 * time.Second

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "homeward-e2e")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "homeward")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// site is a gateway with a Modbus unit of ten registers on a real pseudo-terminal. Register 0 counts the
// requests served, so that each sample is told from every other.
type site struct {
	t      *testing.T
	dir    string
	slaves *sim.Modbus
	line   *sim.SerialLine
	served atomic.Int64
	mu     sync.Mutex
	times  []int64      // Unix ms of each
	alarm  atomic.Int64 // register 1
	env    []string
	cmd    *exec.Cmd
	log    *os.File
	extra  string // further configuration
	every  string
	sensor string // further keys of the sensor

	consumer *consumer
}

func newSite(t *testing.T) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("short: end to end, with real processes")
	}
	s := &site{t: t, dir: t.TempDir(), slaves: new(sim.Modbus), every: "100ms"}
	regs := new(sim.ModbusMap)
	regs.SetFunc(sim.Holding, 0, 10, func() []uint16 {
		s.mu.Lock()
		s.times = append(s.times, time.Now().UnixMilli())
		n := s.served.Add(1)
		s.mu.Unlock()
		return []uint16{uint16(n), uint16(s.alarm.Load()), 2, 3, 4, 5, 6, uint16(n >> 4), uint16(n * 7 % 1000), 9}
	})
	s.slaves.AddSlave(1, regs)
	line, err := drivers.ParseLine("115200-8N1")
	require.NoError(t, err)
	s.line, err = sim.NewSerialLine(filepath.Join(s.dir, "port"), line, s.slaves, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.line.Close() })
	s.log, err = os.Create(filepath.Join(s.dir, "log"))
	require.NoError(t, err)
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			text, _ := os.ReadFile(s.log.Name())
			if len(text) > 6000 {
				text = text[len(text)-6000:]
			}
			t.Logf("the gateway's log ends:\n%s", text)
		}
		_ = s.log.Close()
	})
	return s
}

// after is when the first request behind n was served, in Unix ms.
func (s *site) after(n int64) int64 {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.served.Load() > n }, patience, 5*time.Millisecond, "sampling starts")
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times[n]
}

func (s *site) config() string { return filepath.Join(s.dir, "homeward.yaml") }

func (s *site) configure(url string) {
	s.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "gateway: gw-1\nstate: %s/state\nhome: {cloud: mqtt, organization: acme, project: cold, product: p, url: %q%s}\n", s.dir, url, "")
	fmt.Fprintf(&b, "sensors:\n  - name: unit\n    driver: modbus\n    port: %s/port\n    line: 115200-8N1\n    unit_id: 1\n    every: %s\n    timeout: 1s\n%s    channels:\n", s.dir, s.every, s.sensor)
	for i := range 10 {
		fmt.Fprintf(&b, "      - {name: r%d, register: holding, address: %d, type: uint16}\n", i, i)
	}
	if !strings.Contains(s.extra, "publish:") {
		b.WriteString("publish: {max_age: 1s, alarms: [{channel: unit/r1, above: 100}]}\n")
	}
	if !strings.Contains(s.extra, "buffer:") {
		b.WriteString("buffer: {keep_free: 0, max_bytes: 64MB}\n")
	}
	b.WriteString(s.extra)
	require.NoError(s.t, os.WriteFile(s.config(), []byte(b.String()), 0o644))
}

func (s *site) start() {
	s.t.Helper()
	path, err := build()
	require.NoError(s.t, err)
	s.cmd = exec.Command(path, "run", "--config", s.config(), "--log", "debug")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(s.t, s.cmd.Start())
}

func (s *site) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// stop is SIGTERM; it must end by itself within the bound, with exit 0.
func (s *site) stop() {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	select {
	case err := <-done:
		s.cmd = nil
		require.NoError(s.t, err)
	case <-time.After(15 * time.Second):
		s.t.Fatal("the gateway does not stop")
	}
}

func (s *site) status() (v status.Status, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	err = status.Get(ctx, agent.SocketPath(filepath.Join(s.dir, "state")), "/status.json", &v)
	return v, err
}

// until waits for a status that is as wanted.
func (s *site) until(what string, ok func(status.Status) bool) status.Status {
	s.t.Helper()
	var last status.Status
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if v, err := s.status(); err == nil {
			if last = v; ok(v) {
				return v
			}
		}
	}
	s.t.Fatalf("never %s; last status: %+v", what, last)
	return last
}

func has(code string) func(status.Status) bool {
	return func(v status.Status) bool {
		return slices.ContainsFunc(v.Problems, func(p status.Problem) bool { return p.Code == code })
	}
}

func proven(v status.Status) bool  { return v.Home.State == "proven" }
func drained(v status.Status) bool { return v.Buffer.Pending == 0 && v.Publish.InFlight == 0 }

// settle stops the sampling by a reload and waits until everything was delivered.
func (s *site) settle(url string) status.Status {
	s.t.Helper()
	keep := s.sensor
	s.sensor += "    disabled: true\n"
	s.configure(url)
	s.sensor = keep
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGHUP))
	s.until("disabled", func(v status.Status) bool { return len(v.Sensors) == 1 && v.Sensors[0].State == "disabled" })
	return s.until("drained", drained)
}

type key struct {
	gateway string
	epoch   uint32
	seq     uint64
}

// consumer is a receiver that drops repeats by (gateway, epoch, seq) and sees that they are repeats.
type consumer struct {
	t           *testing.T
	client      paho.Client
	mu          sync.Mutex
	got         map[key]pack.Reading
	in          map[key]string // the payload that it first came in
	schemas     packed.Receiver
	packs       int   // packed payloads
	payloads    int   // of readings and alarms, repeats included
	order       []key // as they first came
	alarms      []pack.Reading
	gaps        []pack.Gap
	repeats     int
	packedAgain int // repeats in packed payloads
	limit       int // bytes of a payload
	wrong       []string
	heard       atomic.Int32 // times that it subscribed
}

// backTo starts the broker while the gateway stands still, until somebody listens again: a broker that was killed keeps no sessions.
func (s *site) backTo(m *cloudtest.Mosquitto) {
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGSTOP))
	before := s.consumer.heard.Load()
	m.Start()
	require.Eventually(s.t, func() bool { return s.consumer.heard.Load() > before }, patience, 20*time.Millisecond)
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGCONT))
}

func consume(t *testing.T, url string) *consumer {
	t.Helper()
	c := &consumer{t: t, limit: 1024, got: map[key]pack.Reading{}, in: map[key]string{}, schemas: packed.Receiver{Dir: t.TempDir()}}
	o := paho.NewClientOptions().AddBroker(strings.Replace(url, "mqtt://", "tcp://", 1)).SetClientID("consumer").SetCleanSession(false).
		SetConnectRetry(true).SetConnectRetryInterval(100 * time.Millisecond).SetMaxReconnectInterval(200 * time.Millisecond).SetKeepAlive(5 * time.Second)
	o.SetOnConnectHandler(func(client paho.Client) {
		if client.SubscribeMultiple(map[string]byte{"homeward/acme/cold/gw-1/readings": 1, "homeward/acme/cold/gw-1/alarms": 1, "homeward/acme/cold/gw-1/schema/+": 1}, c.take).WaitTimeout(patience) {
			c.heard.Add(1)
		}
	})
	c.client = paho.NewClient(o)
	c.client.Connect().WaitTimeout(10 * time.Second)
	t.Cleanup(func() { c.client.Disconnect(0) })
	return c
}

func (c *consumer) take(_ paho.Client, m paho.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if packed.Is(m.Payload()) {
		c.packs++
	}
	if !strings.Contains(m.Topic(), "/schema/") && !m.Duplicate() {
		c.payloads++
	}
	ps, err := c.schemas.Take(m.Topic(), m.Payload())
	if err == nil && strings.Contains(m.Topic(), "/schema/") {
		err = c.schemas.Released(m.Payload())
	} else if len(m.Payload()) > c.limit {
		c.wrong = append(c.wrong, fmt.Sprintf("payload of %d bytes", len(m.Payload())))
	}
	if err != nil {
		c.wrong = append(c.wrong, err.Error())
		return
	}
	for _, p := range ps {
		c.keep(p, string(m.Payload()), strings.HasSuffix(m.Topic(), "/alarms"))
	}
}

// keep takes what a payload holds. What comes again comes in the same bytes.
func (c *consumer) keep(p pack.Payload, payload string, alarm bool) {
	c.gaps = append(c.gaps, p.Gaps...)
	for _, r := range p.Readings {
		k := key{p.Gateway, p.Epoch, r.Seq}
		if old, ok := c.got[k]; ok {
			c.repeats++
			if packed.Is([]byte(payload[:1])) {
				c.packedAgain++
			}
			if old != r || c.in[k] != payload {
				c.wrong = append(c.wrong, fmt.Sprintf("%v was %v and is %v; in %.200q, now in %.200q", k, old, r, c.in[k], payload))
			}
			continue
		}
		c.got[k], c.in[k] = r, payload
		c.order = append(c.order, k)
		if alarm {
			c.alarms = append(c.alarms, r)
		}
	}
}

// epochs returns the readings of each epoch in the order of their numbers, having checked that these have no holes beyond the gaps.
func (c *consumer) epochs() map[uint32][]pack.Reading {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Empty(c.t, c.wrong)
	out := map[uint32][]pack.Reading{}
	for k, r := range c.got {
		out[k.epoch] = append(out[k.epoch], r)
	}
	for epoch, list := range out {
		slices.SortFunc(list, func(a, b pack.Reading) int { return int(a.Seq) - int(b.Seq) })
		for i, r := range list {
			require.Equal(c.t, uint64(i+1), r.Seq, "epoch %d: a number is missing", epoch)
		}
	}
	return out
}

// count is how many readings have come.
func (c *consumer) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.got)
}

// countPacked is how many packed payloads have come.
func (c *consumer) countPacked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packs
}

// counter returns the values of register 0 in the order of sequence numbers.
func counter(list []pack.Reading) (values []int, times []int64) {
	for _, r := range list {
		if r.Channel == "unit/r0" {
			values, times = append(values, int(r.Value)), append(times, r.TimeMS)
		}
	}
	return values, times
}

func rounds(short, campaign int) int {
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		return campaign
	}
	return short
}

// restart is from just before a kill to the first request that was served after it, in Unix ms.
type restart struct{ from, to int64 }

// TestKill9 kills the gateway again and again while it samples ten registers ten times a second: nothing that it sampled is lost,
// nothing is left twice after dropping by key, what comes again comes in the same bytes, and the order of the numbers is the
// order of sampling.
func TestKill9(t *testing.T) {
	for _, format := range []string{pack.FormatRows, pack.FormatPacked} {
		t.Run(format, func(t *testing.T) { kill9(t, format) })
	}
}

func kill9(t *testing.T, format string) {
	t.Parallel()
	s := newSite(t)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := consume(t, m.URL)
	s.extra = "publish: {format: " + format + ", max_age: 1s, alarms: [{channel: unit/r1, above: 100}]}\n"
	s.configure(m.URL)
	n := rounds(4, 50)
	count := c.count
	if format == pack.FormatPacked { // of each life the first payloads may be rows, until the home has the schema
		count = c.countPacked
	}
	restarts := make([]restart, n)
	for i := range n {
		s.start()
		before := s.served.Load()
		s.after(before + 3)
		if i > 0 {
			restarts[i-1].to = s.after(before)
		}
		if i%2 == 1 {
			s.alarm.Store(int64(i%4) * 100)
		}
		if i%2 == 0 {
			time.Sleep(rand.N(2500 * time.Millisecond))
		} else { // right behind a payload's arrival: its acknowledgement may not have been recorded
			came := count()
			for end := time.Now().Add(patience); count() == came; time.Sleep(100 * time.Microsecond) {
				require.True(t, time.Now().Before(end), "nothing comes")
			}
		}
		restarts[i].from = time.Now().UnixMilli()
		s.kill()
	}
	before := s.served.Load()
	s.start()
	s.until("proven", proven)
	restarts[n-1].to = s.after(before)
	operations := s.settle(m.URL).Operations
	s.stop()
	served := int(s.served.Load())
	require.Eventually(t, func() bool { return c.count()%10 == 0 }, patience, 20*time.Millisecond)
	all := c.epochs()
	require.Len(t, all, 1, "a kill begins no new epoch")
	for _, list := range all {
		require.Zero(t, len(list)%10)
		values, times := counter(list)
		lost, pauses, quiet := 0, 0, 0
		for i := range values {
			previous := 0
			if i > 0 {
				previous = values[i-1]
				require.LessOrEqual(t, times[i-1], times[i], "order of numbers is order of time")
				if times[i]-times[i-1] > 1000 {
					pauses++
					if !slices.ContainsFunc(restarts, func(r restart) bool { return times[i-1] <= r.to && r.from <= times[i] }) {
						quiet++
					}
				}
			}
			require.Greater(t, values[i], previous, "order of numbers is order of sampling")
			lost += values[i] - previous - 1
		}
		lost += served - values[len(values)-1]
		t.Logf("%d kills: %d polls served, %d delivered, %d cut off in the middle of a poll, %d packed payloads, %d repeats dropped, %d of them of packed payloads, %d alarms, %d pauses over a second, %d of them outside of a restart",
			n, served, len(values), lost, c.packs, c.repeats, c.packedAgain, len(c.alarms), pauses, quiet)
		// A poll that was served and not yet appended when the kill came is no reading yet: at most one a kill.
		require.LessOrEqual(t, lost, n, "readings were lost")
		require.Zero(t, quiet, "a second without a sample outside of a restart")
	}
	require.Empty(t, c.gaps)
	t.Logf("%d operations in the ledger, %d payloads came", operations.Used, c.payloads)
	require.GreaterOrEqual(t, operations.Used, uint64(c.payloads), "the ledger counts each try before it is made")
}

// TestBrokerTroubles: whatever the broker does, sampling goes on and everything is delivered afterwards.
func TestBrokerTroubles(t *testing.T) {
	allow := "topic readwrite #\n"
	for _, tc := range []struct {
		name    string
		cut     int // polls that may be cut off in the middle
		trouble func(t *testing.T, s *site, m *cloudtest.Mosquitto)
	}{
		{"absent at boot", 0, func(t *testing.T, s *site, m *cloudtest.Mosquitto) {
			m.Stop()
			s.start()
			s.until("unreachable", has("home.unreachable"))
			sampled(t, s)
			s.backTo(m)
		}},
		{"gone and back", 0, func(t *testing.T, s *site, m *cloudtest.Mosquitto) {
			s.start()
			s.until("proven", proven)
			sampled(t, s)
			m.Stop()
			s.until("unreachable", has("home.unreachable"))
			sampled(t, s)
			s.backTo(m)
		}},
		{"frozen", 0, func(t *testing.T, s *site, m *cloudtest.Mosquitto) {
			s.start()
			s.until("proven", proven)
			m.Freeze()
			s.until("unreachable", has("home.unreachable"))
			sampled(t, s)
			m.Thaw()
		}},
		{"acknowledges and drops", 0, func(t *testing.T, s *site, m *cloudtest.Mosquitto) {
			m.Stop()
			m.SetACL("topic read #\n") // publishes are acknowledged and go nowhere
			m.Start()
			s.start()
			s.until("unproven", has("home.unproven"))
			sampled(t, s)
			v, err := s.status()
			require.NoError(t, err)
			require.Equal(t, "questionable", v.Home.State)
			require.Zero(t, v.Buffer.Delivered, "nothing counts as delivered")
			m.Stop()
			m.SetACL(allow)
			s.backTo(m)
		}},
		{"refuses", 0, func(t *testing.T, s *site, m *cloudtest.Mosquitto) {
			m.Stop()
			hostile := cloudtest.MosquittoOptions{Users: map[string]string{"other": "x"}}
			refusing := cloudtest.StartMosquittoAt(t, m.Port, hostile)
			s.start()
			s.until("denied", has("home.denied"))
			sampled(t, s)
			refusing.Stop()
			s.backTo(m)
		}},
		{"port lost and found", 1, func(t *testing.T, s *site, m *cloudtest.Mosquitto) {
			require.NoError(t, s.line.Unplug())
			s.start() // missing at start
			s.until("gone", has("sensor.gone"))
			require.NoError(t, s.line.Plug())
			sampled(t, s)
			old := s.line.TTY()
			require.NoError(t, s.line.Unplug())
			s.until("gone", has("sensor.gone"))
			require.NoError(t, s.line.Plug())
			require.NotEqual(t, old, s.line.TTY(), "back under another name")
			sampled(t, s)
		}},
		{"port held by another program", 1, func(t *testing.T, s *site, m *cloudtest.Mosquitto) {
			other := exec.Command("/bin/sh", "-c", `exec sleep 600 <>"$0"`, s.line.TTY())
			other.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			require.NoError(t, other.Start())
			release := sync.OnceFunc(func() { _ = other.Process.Kill(); _ = other.Wait() })
			t.Cleanup(release)
			name := fmt.Sprintf("/proc/%d/comm", other.Process.Pid)
			require.Eventually(t, func() bool { text, _ := os.ReadFile(name); return string(text) == "sleep\n" }, patience, 5*time.Millisecond)
			s.start()
			v := s.until("failing", func(v status.Status) bool {
				return len(v.Problems) > 0 && len(v.Sensors) == 1 && v.Sensors[0].LastError != ""
			})
			require.Contains(t, v.Sensors[0].LastError, fmt.Sprintf("it is in use by process %d (sleep)", other.Process.Pid))
			s.until("said", func(v status.Status) bool {
				return slices.ContainsFunc(v.Problems, func(p status.Problem) bool {
					return strings.HasPrefix(p.Code, "sensor.") && p.Subject == "unit" && strings.Contains(p.Text, "in use")
				})
			})
			require.Zero(t, s.served.Load(), "two programs do not ask on one line")
			release()
			sampled(t, s)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{ACL: allow})
			c := consume(t, m.URL)
			s.consumer = c
			s.configure(m.URL)
			tc.trouble(t, s, m)
			s.until("proven", proven)
			v := s.settle(m.URL)
			for _, p := range v.Problems {
				// The time-out is longer than every; and this machine may have no NTP.
				require.Contains(t, []string{"config.warning", "clock.untrusted"}, p.Code, p.Text)
			}
			s.stop()
			total := func() int { return int(v.Buffer.Lanes[0].Next - 1) }
			require.Eventually(t, func() bool { return c.count() == total() }, patience, 20*time.Millisecond)
			for _, list := range c.epochs() {
				values, _ := counter(list)
				for i := 1; i < len(values); i++ {
					require.Greater(t, values[i], values[i-1])
				}
				require.Equal(t, int(s.served.Load()), values[len(values)-1])
				require.InDelta(t, int(s.served.Load()), len(values), float64(tc.cut), "every poll that was answered is there")
			}
			require.Empty(t, c.gaps)
		})
	}
}

// sampled waits for twenty more polls.
func sampled(t *testing.T, s *site) {
	t.Helper()
	before := s.served.Load()
	require.Eventually(t, func() bool { return s.served.Load() >= before+20 }, patience, 10*time.Millisecond, "sampling never waits")
}

// TestClock: a box that wakes in 1970 keeps its readings, and repairs their times once the clock is right.
func TestClock(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	world := &sim.World{}
	world.SetClock(false, -time.Since(time.Unix(1000, 0)))
	socket := filepath.Join(t.TempDir(), "sim.sock")
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	l, err := sim.Listen(socket)
	require.NoError(t, err)
	serving.Go(func() { _ = world.ServeListener(ctx, l) })
	defer serving.Wait()
	defer cancel()
	s.env = []string{"HOMEWARD_SIM=" + socket}
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := consume(t, m.URL)
	s.extra = "publish: {max_age: 5s}\n"
	s.configure(m.URL)
	m.Stop() // nothing leaves before the clock is right
	began := time.Now()
	s.start()
	sampled(t, s)
	world.SetClock(true, 0)
	s.until("trusted", func(v status.Status) bool { return v.Clock.Trusted })
	sampled(t, s)
	world.SetClock(true, -30*time.Minute) // steps back: order does not depend on it
	s.until("stepped", func(v status.Status) bool { return v.Clock.OffsetMS != nil && *v.Clock.OffsetMS < -1e6 })
	sampled(t, s)
	m.Start()
	s.until("proven", proven)
	s.settle(m.URL)
	s.stop()
	require.Eventually(t, func() bool { return c.count() == int(s.served.Load())*10 }, patience, 20*time.Millisecond)
	for _, list := range c.epochs() {
		values, times := counter(list)
		stepped := false
		for i := range values {
			require.Equal(t, i+1, values[i], "order by sequence")
			if i > 0 && times[i] < times[i-1]-1e6 {
				stepped = true
			}
			if !stepped {
				require.WithinRange(t, time.UnixMilli(times[i]), began.Add(-time.Second), time.Now(), "repaired")
			}
		}
		require.True(t, stepped)
		for _, r := range list {
			require.Equal(t, drivers.Good, r.Quality)
		}
	}
}

// TestStateLost: a replaced card begins a fresh epoch and never reuses a key.
func TestStateLost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := consume(t, m.URL)
	s.configure(m.URL)
	for range 3 {
		s.start()
		s.until("proven", proven)
		sampled(t, s)
		s.settle(m.URL)
		s.stop()
		s.configure(m.URL)
		require.NoError(t, os.RemoveAll(filepath.Join(s.dir, "state")))
	}
	require.Eventually(t, func() bool { return c.count() == int(s.served.Load())*10 }, patience, 20*time.Millisecond)
	require.Len(t, c.epochs(), 3)
}

// TestReload: a bad file changes nothing and says so, a good one is applied, and another home is not published to.
func TestReload(t *testing.T) {
	s := newSite(t)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := consume(t, m.URL)
	s.configure(m.URL)
	s.start()
	s.until("proven", proven)
	good, err := os.ReadFile(s.config())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.config(), append(good, "nonsense: 1\n"...), 0o644))
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
	v := s.until("refused", has("config.reload-failed"))
	i := slices.IndexFunc(v.Problems, func(p status.Problem) bool { return p.Code == "config.reload-failed" })
	require.Contains(t, v.Problems[i].Text, "nonsense")
	sampled(t, s)
	require.NoError(t, os.WriteFile(s.config(), []byte(strings.Replace(string(good), "project: cold", "project: warm", 1)), 0o644))
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGHUP))
	s.until("told to restart", has("config.restart-needed"))
	s.stop()
	count := c.count()
	s.start()
	v = s.until("refused", has("home.changed"))
	require.Equal(t, "changed", v.Home.State)
	sampled(t, s)
	s.stop()
	require.Equal(t, count, c.count(), "no reading reaches a home it does not belong to")
	require.NoError(t, os.WriteFile(s.config(), good, 0o644))
	s.start()
	s.until("proven", proven)
	s.settle(m.URL)
	s.stop()
	require.Eventually(t, func() bool { return c.count() == int(s.served.Load())*10 }, patience, 20*time.Millisecond)
	c.epochs()
}

// TestReceiver: with acknowledge: receiver a payload is kept until a receiver says so.
func TestReceiver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := consume(t, m.URL)
	s.extra = "publish: {max_age: 1s, acknowledge: receiver}\n"
	s.configure(m.URL)
	s.start()
	s.until("sent", func(v status.Status) bool { return v.Publish.Operations > 2 })
	v, err := s.status()
	require.NoError(t, err)
	require.Zero(t, v.Buffer.Delivered)
	say := func(epoch uint32, text string) {
		c.client.Publish("homeward/acme/cold/gw-1/acks", 1, false, fmt.Sprintf(`{"epoch":%d,"ranges":%s}`, epoch, text)).WaitTimeout(patience)
	}
	say(v.Home.Epoch+1, "[[1,1000000]]")
	say(v.Home.Epoch, "[[0,5],[9,3]]")
	say(v.Home.Epoch, "nonsense")
	sampled(t, s)
	v, err = s.status()
	require.NoError(t, err)
	require.Zero(t, v.Buffer.Delivered, "not ours, or no range")
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		say(v.Home.Epoch, "[[1,1000000]]")
		if now, err := s.status(); err == nil && now.Buffer.Delivered > 0 && now.Publish.Payloads > 2 {
			break
		}
		require.True(t, time.Now().Before(end))
	}
	s.stop()
}

// throttle passes connections on to the broker at no more than rate bytes a second from the gateway.
func throttle(t *testing.T, port, rate int) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var work sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	work.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				_ = near.Close()
				continue
			}
			_ = near.(*net.TCPConn).SetReadBuffer(4096)
			work.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
			work.Go(func() {
				defer far.Close()
				buf := make([]byte, max(rate/50, 1))
				for {
					n, err := near.Read(buf)
					if err != nil {
						return
					}
					time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
					if _, err := far.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return "mqtt://" + l.Addr().String()
}

// TestBacklog: while a long backlog drains through a slow link, live readings and alarms pass it.
func TestBacklog(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.every = "1s"
	backlog := rounds(30_000, 1_000_000)
	limit := rounds(1024, 16<<10)
	s.extra = fmt.Sprintf("publish: {max_age: 1s, max_bytes: %d, alarms: [{channel: unit/r1, above: 100}]}\n", limit)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := consume(t, m.URL)
	c.limit = limit
	slow := throttle(t, m.Port, rounds(40_000, 400_000))
	s.configure(slow)
	// A first life makes the epoch; then the outage's readings are put beside it.
	s.start()
	s.until("running", func(status.Status) bool { return true })
	s.settle(slow)
	s.stop()
	s.configure(slow)
	b, err := buffer.Open(agent.BufferPath(filepath.Join(s.dir, "state")), buffer.Options{})
	require.NoError(t, err)
	lane, err := b.Lane(b.Lanes()[0])
	require.NoError(t, err)
	before := int(lane.Next()) - 1
	for i := range backlog / 10 {
		p := buffer.Poll{Stamp: drivers.Stamp{Wall: 1.7e12 + int64(i)*1000, Mono: time.Duration(i) * time.Second, Trusted: true}}
		for j := range 10 {
			p.Readings = append(p.Readings, drivers.Reading{Channel: fmt.Sprintf("old/c%d", j), Value: float64(i % 1000 * j)})
		}
		_, err := lane.Append(p)
		require.NoError(t, err)
	}
	require.NoError(t, b.Close())
	s.start()
	s.until("proven", proven)
	served := s.served.Load()
	require.Eventually(t, func() bool { return s.served.Load() >= served+3 }, patience, 10*time.Millisecond)
	s.alarm.Store(500)
	require.Eventually(t, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.alarms) > 0 }, patience, 10*time.Millisecond, "the alarm arrives")
	old := func() (n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range c.got {
			if strings.HasPrefix(r.Channel, "old/") {
				n++
			}
		}
		return n
	}
	behind := backlog - old()
	require.Positive(t, behind, "the alarm has overtaken the backlog")
	c.mu.Lock()
	live := 0
	for _, r := range c.got {
		if int(r.Seq) > before+backlog {
			live++
		}
	}
	c.mu.Unlock()
	t.Logf("when the alarm arrived %d of %d readings of the backlog were behind it, and %d live ones had come", behind, backlog, live)
	for end := time.Now().Add(20 * patience); old() < backlog; time.Sleep(time.Second) { // a window each flush: some 1,600 readings a second
		require.True(t, time.Now().Before(end), "%d of %d", old(), backlog)
	}
	s.settle(slow)
	s.stop()
	c.epochs()
	require.Empty(t, c.gaps)
}

// TestDiskFull: a full disk loses nothing that is stored, does not stop the sampling, and heals by itself.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		cloudtest.Without(t, "root, to mount a small file system")
	}
	s := newSite(t)
	state := filepath.Join(s.dir, "state")
	require.NoError(t, os.Mkdir(state, 0o755))
	require.NoError(t, syscall.Mount("tmpfs", state, "tmpfs", 0, "size=40m"))
	t.Cleanup(func() { _ = syscall.Unmount(state, syscall.MNT_DETACH) })
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := consume(t, m.URL)
	s.every = "10ms"
	s.configure(m.URL)
	s.start()
	s.until("proven", proven)
	m.Stop()
	sampled(t, s)
	fill, err := os.Create(filepath.Join(state, "fill"))
	require.NoError(t, err)
	chunk := make([]byte, 1<<16)
	for err == nil {
		_, err = fill.Write(chunk)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, fill.Close())
	for range 20 {
		sampled(t, s)
	}
	require.NoError(t, os.Remove(fill.Name()))
	m.Start()
	s.until("proven", proven)
	v := s.settle(m.URL)
	s.stop()
	require.False(t, has("buffer.disk")(v), "healed")
	require.Eventually(t, func() bool { return c.count() == int(s.served.Load())*10 }, patience, 20*time.Millisecond)
	c.epochs()
	require.Empty(t, c.gaps)
}

// TestLogLost: without the log of the last minute the gateway goes on in its epoch, behind the numbers that may have been used, and
// delivers what was sealed.
func TestLogLost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := consume(t, m.URL)
	m.Stop()
	s.configure(m.URL)
	s.start()
	sampled(t, s)
	s.stop() // seals
	sealed := int(s.served.Load()) * 10
	require.NoError(t, os.Remove(filepath.Join(agent.BufferPath(filepath.Join(s.dir, "state")), "tail.log")))
	m.Start()
	s.start()
	s.until("proven", proven)
	sampled(t, s)
	s.settle(m.URL)
	s.stop()
	require.Eventually(t, func() bool { return c.count() == int(s.served.Load())*10 }, patience, 20*time.Millisecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	epochs, low, high := map[uint32]bool{}, 0, 0
	for k := range c.got {
		epochs[k.epoch] = true
		if int(k.seq) <= sealed {
			low++
		} else {
			high++
		}
	}
	require.Len(t, epochs, 1)
	require.Equal(t, sealed, low, "what was sealed arrives")
	require.Positive(t, high)
	require.NotEmpty(t, c.gaps)
	for _, g := range c.gaps {
		require.Equal(t, "damaged", g.Reason)
	}
	require.Empty(t, c.wrong)
}
