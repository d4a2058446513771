//go:build linux

// Package benchrun measures the gateway's real program from outside: what the kernel says of its
// memory and processor time, and what a paced Modbus slave on a real pseudo-terminal sees of it.
// The broker is Debian's Mosquitto. scripts/bench runs it; nothing here judges what it measures.
package benchrun

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent"
	"homeward/agent/cloud/cloudtest"
	"homeward/agent/status"
	"homeward/drivers"
	"homeward/drivers/sim"
)

// seconds reads a length from the environment.
func seconds(b *testing.B, key string, otherwise int) time.Duration {
	b.Helper()
	if s := os.Getenv(key); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(b, err, key)
		require.Positive(b, n, key)
		otherwise = n
	}
	return time.Duration(otherwise) * time.Second
}

// program is the binary that is measured: $HOMEWARD_BIN, as released.
func program(b *testing.B) string {
	b.Helper()
	path := os.Getenv("HOMEWARD_BIN")
	if path == "" {
		b.Skip("HOMEWARD_BIN is not set: scripts/bench does")
	}
	return path
}

// gateway is one process and the slave that it asks.
type gateway struct {
	name  string
	dir   string
	cmd   *exec.Cmd
	begun time.Time // just before the process was started
	log   bytes.Buffer

	mu    sync.Mutex
	asked []time.Time // when the slave was asked for its first register
}

// start runs the program with registers Modbus registers at 115,200 baud; with none, without a sensor.
func start(b *testing.B, name string, registers int, every, home string) *gateway {
	b.Helper()
	g := &gateway{name: name, dir: b.TempDir()}
	var c strings.Builder
	fmt.Fprintf(&c, "gateway: %s\nstate: %s/state\nhome: {cloud: mqtt, organization: acme, project: bench, product: p, %s}\n", name, g.dir, home)
	if registers == 0 {
		c.WriteString("sensors: []\n")
	} else {
		line, err := drivers.ParseLine("115200-8N1")
		require.NoError(b, err)
		regs := new(sim.ModbusMap)
		n := 0
		regs.SetFunc(sim.Holding, 0, registers, func() []uint16 {
			g.mu.Lock()
			g.asked = append(g.asked, time.Now())
			g.mu.Unlock()
			values := make([]uint16, registers)
			for i := range values {
				values[i] = uint16(200 + (n+7*i)%50)
			}
			n++
			return values
		})
		slave := new(sim.Modbus)
		slave.AddSlave(1, regs)
		l, err := sim.NewSerialLine(filepath.Join(g.dir, "port"), line, slave, nil)
		require.NoError(b, err)
		b.Cleanup(func() { _ = l.Close() })
		fmt.Fprintf(&c, "sensors:\n  - name: unit\n    driver: modbus\n    port: %s/port\n    line: 115200-8N1\n    unit_id: 1\n    every: %s\n    channels:\n", g.dir, every)
		for i := range registers {
			fmt.Fprintf(&c, "      - {name: r%d, register: holding, address: %d, type: int16, scale: 0.1, unit: Cel}\n", i, i)
		}
	}
	format := ""
	if strings.HasSuffix(name, "packed") {
		format = "format: packed, "
	}
	if strings.HasSuffix(name, "fleet") {
		c.WriteString(fleet(b))
	}
	c.WriteString("publish: {" + format + "max_age: 10s}\nbuffer: {keep_free: 0}\n")
	g.run(b, c.String())
	return g
}

// fleet is the key of a configuration for a fresh fleet, which homeward-fleet makes and a web server serves.
func fleet(b *testing.B) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "acme")
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(dir, "repository"))))
	b.Cleanup(server.Close)
	program := filepath.Join(b.TempDir(), "homeward-fleet")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "homeward/cmd/homeward-fleet").CombinedOutput()
	require.NoError(b, err, "%s", out)
	for _, args := range [][]string{
		{"init", "--organization", "acme", "--address", server.URL, "--no-passphrase"}, {"product", "add", "p", "--no-passphrase"}, {"publish", "--offline"},
	} {
		out, err := exec.Command(program, append([]string{"--fleet", dir}, args...)...).CombinedOutput()
		require.NoError(b, err, "%v: %s", args, out)
	}
	return fmt.Sprintf("fleet: {repository: %q, root_file: %s/repository/1.root.json, every: 1m}\n", server.URL, dir)
}

// run starts the program with a configuration.
func (g *gateway) run(b *testing.B, text string) {
	b.Helper()
	config := filepath.Join(g.dir, "homeward.yaml")
	require.NoError(b, os.WriteFile(config, []byte(text), 0o600))
	g.cmd = exec.Command(program(b), "run", "--config", config)
	g.cmd.Stdout, g.cmd.Stderr = &g.log, &g.log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	g.begun = time.Now()
	require.NoError(b, g.cmd.Start())
	b.Cleanup(func() { g.stop(b) })
}

// stop is SIGTERM and the wait for its end; a second one does nothing.
func (g *gateway) stop(b *testing.B) {
	b.Helper()
	if g.cmd.ProcessState != nil {
		return
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	if err := g.cmd.Wait(); err != nil {
		b.Errorf("%s: %v\n%s", g.name, err, g.log.String())
	}
}

func (g *gateway) status(b *testing.B) (v status.Status) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	require.NoError(b, status.Get(ctx, agent.SocketPath(filepath.Join(g.dir, "state")), "/status.json", &v), g.name)
	return v
}

// first waits until the slave was asked for the first time, and gives how long after the start that was.
func (g *gateway) first(b *testing.B) time.Duration {
	b.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		g.mu.Lock()
		if len(g.asked) > 0 {
			defer g.mu.Unlock()
			return g.asked[0].Sub(g.begun)
		}
		g.mu.Unlock()
	}
	b.Fatalf("%s: the slave was never asked", g.name)
	return 0
}

// memory gives /proc/PID/status's sizes in MB (1e6 bytes).
func (g *gateway) memory(b *testing.B) map[string]float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	require.NoError(b, err)
	sizes := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[2] == "kB" {
			kb, err := strconv.ParseFloat(f[1], 64)
			require.NoError(b, err, line)
			sizes[strings.TrimSuffix(f[0], ":")] = kb * 1024 / 1e6
		}
	}
	return sizes
}

// cpu is the processor time so far, from the scheduler's own sum: nanoseconds, not ticks.
func (g *gateway) cpu(b *testing.B) time.Duration {
	b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", g.cmd.Process.Pid))
	require.NoError(b, err)
	var sum time.Duration
	for _, t := range threads {
		text, err := os.ReadFile(t)
		require.NoError(b, err)
		f := strings.Fields(string(text))
		require.Len(b, f, 3, t)
		ns, err := strconv.ParseInt(f[0], 10, 64)
		require.NoError(b, err)
		sum += time.Duration(ns)
	}
	return sum
}

// BenchmarkSteady runs gateways side by side, each by itself: without a sensor, with ten
// registers a second, the same over TLS, the same packed (after 400 s with what it has learnt), and the same with a fleet whose
// repository it asks each minute. It says what memory they have after a minute and at the
// end, and the processor time from the tenth second on. HOMEWARD_BENCH_SECONDS (default 300) is the length.
func BenchmarkSteady(b *testing.B) {
	program(b)
	length := seconds(b, "HOMEWARD_BENCH_SECONDS", 300)
	plain := cloudtest.StartMosquitto(b, cloudtest.MosquittoOptions{})
	authority := cloudtest.NewAuthority(b)
	secret := cloudtest.StartMosquitto(b, cloudtest.MosquittoOptions{TLS: authority})
	overTLS := fmt.Sprintf("url: %q, ca_file: %q", secret.URL, authority.CAFile)
	for range b.N {
		all := []*gateway{
			start(b, "idle", 0, "", fmt.Sprintf("url: %q", plain.URL)),
			start(b, "ten", 10, "1s", fmt.Sprintf("url: %q", plain.URL)),
			start(b, "ten-tls", 10, "1s", overTLS),
			start(b, "ten-packed", 10, "1s", fmt.Sprintf("url: %q", plain.URL)),
			start(b, "ten-fleet", 10, "1s", fmt.Sprintf("url: %q", plain.URL)),
		}
		begin := time.Now()
		until := func(d time.Duration) { time.Sleep(time.Until(begin.Add(d))) }
		tell := func() {
			for _, g := range all {
				m := g.memory(b)
				b.Logf("%-10s after %4.0f s: VmRSS %5.2f MB = RssAnon %5.2f + RssFile %5.2f, at most %5.2f (VmHWM)",
					g.name, time.Since(g.begun).Seconds(), m["VmRSS"], m["RssAnon"], m["RssFile"], m["VmHWM"])
			}
		}
		until(min(10*time.Second, length/2))
		used, since := map[*gateway]time.Duration{}, time.Now()
		for _, g := range all {
			used[g] = g.cpu(b)
		}
		if length > time.Minute {
			until(time.Minute)
			tell()
		}
		until(length)
		tell()
		over := time.Since(since)
		for _, g := range all {
			perHour := (g.cpu(b) - used[g]).Seconds() / over.Hours()
			m, s := g.memory(b), g.status(b)
			b.ReportMetric(m["VmRSS"], g.name+"-MB")
			b.ReportMetric(m["RssAnon"], g.name+"-anon-MB")
			b.ReportMetric(perHour, g.name+"-cpu-s/h")
			b.Logf("%-10s processor %5.1f s an hour (%.2f %% of one core); home %s, %d readings in %d payloads acknowledged",
				g.name, perHour, perHour/36, s.Home.State, s.Publish.Readings, s.Publish.Payloads)
			g.stop(b)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFast asks 100 registers every 100 ms at 115,200 baud: how many polls a second the slave
// sees, how regularly, and how many ticks the gateway says it missed. HOMEWARD_BENCH_FAST_SECONDS (default 60).
func BenchmarkFast(b *testing.B) {
	program(b)
	length := seconds(b, "HOMEWARD_BENCH_FAST_SECONDS", 60)
	home := cloudtest.StartMosquitto(b, cloudtest.MosquittoOptions{})
	for range b.N {
		g := start(b, "fast", 100, "100ms", fmt.Sprintf("url: %q", home.URL))
		g.first(b)
		time.Sleep(3 * time.Second)
		before, used := g.status(b), g.cpu(b)
		from := time.Now()
		time.Sleep(length)
		to := time.Now()
		after, busy := g.status(b), g.cpu(b)-used
		g.mu.Lock()
		var in []time.Time
		for _, t := range g.asked {
			if !t.Before(from) && t.Before(to) {
				in = append(in, t)
			}
		}
		g.mu.Unlock()
		require.Greater(b, len(in), 1, "the slave was hardly asked")
		var apart []time.Duration
		for i := range in[1:] {
			apart = append(apart, in[i+1].Sub(in[i]))
		}
		slices.Sort(apart)
		was, is := before.Sensors[0], after.Sensors[0]
		m := g.memory(b)
		b.ReportMetric(float64(len(in))/to.Sub(from).Seconds(), "polls/s")
		b.ReportMetric(float64(is.Missed-was.Missed), "missed")
		b.ReportMetric(float64(is.Errors-was.Errors), "errors")
		b.ReportMetric(m["VmRSS"], "MB")
		b.ReportMetric(m["RssAnon"], "anon-MB")
		b.ReportMetric(busy.Seconds()/to.Sub(from).Hours(), "cpu-s/h")
		b.Logf("polls of 100 registers: %d in %.1f s, apart %v (median), %v (99 %%), %v (most); missed since the start: %d; pending %d",
			len(in), to.Sub(from).Seconds(), apart[len(apart)/2].Round(100*time.Microsecond), apart[len(apart)*99/100].Round(100*time.Microsecond),
			apart[len(apart)-1].Round(100*time.Microsecond), is.Missed, after.Buffer.Pending)
		g.stop(b)
	}
	b.ReportMetric(0, "ns/op")
}

// The size of BenchmarkMany: units on each of the lines, and the channels of all of them.
const (
	manyLines    = 16
	manyUnits    = 4
	manyChannels = 10_000
)

// BenchmarkMany reads 10,000 registers of 64 Modbus units on 16 lines of 115,200 baud, every 10 s and, in another gateway
// after it, every second: memory, processor time and missed ticks as they grow. HOMEWARD_BENCH_MANY_SECONDS
// (default 300) is the length of each.
func BenchmarkMany(b *testing.B) {
	program(b)
	length := seconds(b, "HOMEWARD_BENCH_MANY_SECONDS", 300)
	home := cloudtest.StartMosquitto(b, cloudtest.MosquittoOptions{})
	for range b.N {
		for _, every := range []string{"10s", "1s"} {
			many(b, home.URL, every, length)
		}
	}
	b.ReportMetric(0, "ns/op")
}

func many(b *testing.B, home, every string, length time.Duration) {
	g := &gateway{name: "many-" + every, dir: b.TempDir()}
	var c strings.Builder
	fmt.Fprintf(&c, "gateway: many\nstate: %s/state\nhome: {cloud: mqtt, organization: acme, project: bench, product: p, url: %q}\n", g.dir, home)
	c.WriteString("publish: {max_age: 10s, max_bytes: 64KB}\nbuffer: {keep_free: 0, max_bytes: 2GB}\nsensors:\n")
	line, err := drivers.ParseLine("115200-8N1")
	require.NoError(b, err)
	channels := 0
	for l := range manyLines {
		slave := new(sim.Modbus)
		for u := range manyUnits {
			sensor := l*manyUnits + u
			n := manyChannels / (manyLines * manyUnits)
			if sensor < manyChannels%(manyLines*manyUnits) {
				n++
			}
			regs, poll := new(sim.ModbusMap), 0
			regs.SetFunc(sim.Holding, 0, n, func() []uint16 {
				poll++
				values := make([]uint16, n)
				for i := range values {
					values[i] = uint16(200 + (poll+7*i+sensor)%50)
				}
				return values
			})
			slave.AddSlave(byte(u+1), regs)
			fmt.Fprintf(&c, "  - {name: unit-%d, driver: modbus, port: %s/port-%d, line: 115200-8N1, unit_id: %d, every: %s, timeout: 500ms, channels: [", sensor, g.dir, l, u+1, every)
			for i := range n {
				fmt.Fprintf(&c, "{name: r%d, register: holding, address: %d, type: int16, scale: 0.1, unit: Cel}, ", i, i)
			}
			c.WriteString("]}\n")
			channels += n
		}
		s, err := sim.NewSerialLine(filepath.Join(g.dir, fmt.Sprintf("port-%d", l)), line, slave, nil)
		require.NoError(b, err)
		defer s.Close()
	}
	require.Equal(b, manyChannels, channels)
	g.run(b, c.String())
	defer g.stop(b)
	begin, tells := time.Now(), 5
	var used time.Duration
	var since time.Time
	for i := range tells {
		time.Sleep(time.Until(begin.Add(length * time.Duration(i+1) / time.Duration(tells))))
		m, s := g.memory(b), g.status(b)
		readings, missed, errs := uint64(0), uint64(0), uint64(0)
		for _, x := range s.Sensors {
			readings, missed, errs = readings+x.Readings, missed+x.Missed, errs+x.Errors
		}
		b.Logf("every %-4s after %4.0f s: VmRSS %6.2f MB = RssAnon %6.2f + RssFile %5.2f, at most %6.2f; %9d readings, %d missed ticks, %d errors; buffer %d bytes, %d pending, %d payloads",
			every, time.Since(begin).Seconds(), m["VmRSS"], m["RssAnon"], m["RssFile"], m["VmHWM"], readings, missed, errs, s.Buffer.Bytes, s.Buffer.Pending, s.Publish.Payloads)
		if i == 0 {
			used, since = g.cpu(b), time.Now()
			continue
		}
		if i == tells-1 {
			share := (g.cpu(b) - used).Seconds() / time.Since(since).Seconds()
			b.Logf("every %-4s processor %.1f %% of one core", every, 100*share)
			b.ReportMetric(m["VmRSS"], "every-"+every+"-MB")
			b.ReportMetric(m["RssAnon"], "every-"+every+"-anon-MB")
			b.ReportMetric(100*share, "every-"+every+"-cpu-%")
			b.ReportMetric(float64(missed), "every-"+every+"-missed")
		}
	}
}

// BenchmarkStart says how long after the start of the process the slave is asked for the first time, with a new state
// folder and nobody answering at home. The first poll has a random place within the interval, at most a second.
func BenchmarkStart(b *testing.B) {
	program(b)
	const rounds = 11
	for range b.N {
		for _, every := range []string{"100ms", "1s"} {
			var took []time.Duration
			for range rounds {
				g := start(b, "first", 10, every, `url: "mqtt://127.0.0.1:1"`)
				took = append(took, g.first(b))
				g.stop(b)
			}
			slices.Sort(took)
			b.ReportMetric(took[rounds/2].Seconds()*1000, "every-"+every+"-median-ms")
			b.ReportMetric(took[rounds-1].Seconds()*1000, "every-"+every+"-most-ms")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkVersion is what starting any program of this size costs here: the floor below BenchmarkStart.
func BenchmarkVersion(b *testing.B) {
	path := program(b)
	for b.Loop() {
		out, err := exec.Command(path, "version", "--json").Output()
		require.NoError(b, err)
		require.True(b, json.Valid(out), "%s", out)
	}
}
