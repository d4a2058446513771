package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent"
	"homeward/agent/config"
	"homeward/agent/status"
	"homeward/drivers"
	"homeward/drivers/all"
	"homeward/drivers/scan"
	"homeward/drivers/sim"
)

// asked counts what a chip is asked.
type asked struct {
	sim.I2CChip
	n atomic.Int64
}

func (a *asked) I2C(w []byte, n int) ([]byte, bool) {
	a.n.Add(1)
	return a.I2CChip.I2C(w, n)
}

// TestScanBeside runs the built program twice: `homeward run` at a simulated site, and beside it `homeward scan`. The scan says what
// the gateway holds, finds what is free, and asks nothing of what is held: the gateway notices nothing.
func TestScanBeside(t *testing.T) {
	if testing.Short() {
		t.Skip("short: with real processes")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "homeward")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "homeward/cmd/homeward").CombinedOutput()
	require.NoError(t, err, "%s", out)

	// The site: of each kind of bus one that the gateway holds, and one that is free.
	w := &sim.World{}
	chip := func(name string) *asked {
		ct, err := sim.FindChip(name)
		require.NoError(t, err)
		return &asked{I2CChip: ct.New(w, name, nil).(sim.I2CChip)}
	}
	held, beside, free := chip("bme280"), chip("mcp9808"), chip("mcp9808")
	bus := w.AddI2C("i2c-1")
	require.NoError(t, bus.Add(0x76, held))
	require.NoError(t, bus.Add(0x18, beside)) // on the gateway's bus, but none of its sensors
	require.NoError(t, w.AddI2C("i2c-2").Add(0x19, free))
	for _, name := range []string{"spi0.0", "spi0.1"} {
		ct, err := sim.FindChip("max31855")
		require.NoError(t, err)
		w.AddSPI(name, ct.New(w, name, nil).(sim.SPIChip))
	}
	w1 := w.AddW1("w1")
	for _, name := range []string{"held", "free"} {
		ct, err := sim.FindChip("ds18b20")
		require.NoError(t, err)
		require.NoError(t, w1.Add(ct.New(w, name, nil).(sim.W1Chip)))
	}
	thermometers, err := w1.Devices()
	require.NoError(t, err)
	require.Len(t, thermometers, 2)
	line := func(name string, units ...byte) *sim.Modbus {
		d, regs := new(sim.Modbus), new(sim.ModbusMap)
		regs.Set(sim.Holding, 0, 42)
		for _, u := range units {
			d.AddSlave(u, regs)
		}
		l, err := sim.NewSerialLine(filepath.Join(dir, name), drivers.Line{Baud: 19200, DataBits: 8, Parity: 'E', StopBits: 1}, d, nil)
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		w.AddSerial(name, l)
		return d
	}
	rs485, usb, spare := line("rs485", 1, 2), line("usb", 3, 4), line("spare", 5)
	socket := filepath.Join(dir, "sim")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.Serve(ctx, socket) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	require.Eventually(t, func() bool { _, err := os.Stat(socket); return err == nil }, time.Minute, 10*time.Millisecond)

	// One port under its name at the site, the other under its path, as by-path names are.
	file := filepath.Join(dir, "gw.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `gateway: gw-1
state: %[1]s/state
home: {organization: a, project: b, product: c, url: "mqtt://127.0.0.1:1"}
sensors:
  - {name: cellar, driver: bme280, bus: "sim:i2c-1", address: 0x76, every: 2s}
  - {name: oven, driver: max31855, bus: "sim:spi0.0", every: 2s}
  - {name: boiler, driver: modbus, port: "sim:rs485", line: 19200-8E1, unit_id: 1, every: 2s, timeout: 2s, channels: [{name: r, register: holding, address: 0, type: uint16}]}
  - {name: meter, driver: modbus, port: %[1]s/usb, line: 19200-8E1, unit_id: 3, every: 2s, timeout: 2s, channels: [{name: r, register: holding, address: 0, type: uint16}]}
  - {name: pipe, driver: ds18b20, bus: "sim:w1", id: %[2]s, every: 2s}
buffer: {keep_free: 0, max_bytes: 64MB}
`, dir, thermometers[0]), 0o600))
	homeward := func(args ...string) *exec.Cmd {
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), sim.Env+"="+socket, "NOTIFY_SOCKET=")
		return cmd
	}
	var log bytes.Buffer
	run := homeward("run", "--config", file)
	run.Stdout, run.Stderr = &log, &log
	require.NoError(t, run.Start())
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			_ = run.Process.Signal(syscall.SIGTERM)
			_ = run.Wait()
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("the gateway's log: %s", &log)
		}
	})
	look := func() (s status.Status, polls int) {
		if status.Get(t.Context(), agent.SocketPath(filepath.Join(dir, "state")), "/status.json", &s) != nil || len(s.Sensors) != 5 {
			return s, -1
		}
		polls = 1 << 30
		for _, x := range s.Sensors {
			if x.State != "ok" {
				return s, -1
			}
			polls = min(polls, int(x.Polls))
		}
		return s, polls
	}
	require.Eventually(t, func() bool { _, polls := look(); return polls >= 2 }, time.Minute, 50*time.Millisecond)

	before, polls := look()
	require.Positive(t, polls)
	names := map[string]string{"sim:i2c-1": "cellar", "sim:rs485": "boiler", "sim:usb": "meter", "sim:spi0.0": "oven", thermometers[0]: "pipe"}
	seen := func(name string, users []scan.User) {
		var sensors []string
		for _, u := range users {
			if u.Agent {
				require.Equal(t, run.Process.Pid, u.PID)
				sensors = append(sensors, u.Sensor)
			}
		}
		want := []string(nil)
		if names[name] != "" {
			want = []string{names[name]}
		}
		require.Equal(t, want, sensors, name)
	}
	var items []string
	scans := 0
	for now := polls; now < polls+4; scans++ { // at any moment of a poll
		var text, errs bytes.Buffer
		cmd := homeward("scan", "--json", "--config", file)
		cmd.Stdout, cmd.Stderr = &text, &errs
		require.NoError(t, cmd.Run(), "%s", &errs)
		var r scan.Result
		require.NoError(t, json.Unmarshal(text.Bytes(), &r))
		items = nil
		for _, b := range r.I2C {
			seen(b.Name, b.Users)
			switch b.Name {
			case "sim:i2c-1":
				require.Equal(t, "in use, so it was not touched", b.Note)
				require.Empty(t, b.Chips)
			case "sim:i2c-2":
				require.Empty(t, b.Note)
				require.Len(t, b.Chips, 1)
				require.Equal(t, "mcp9808", b.Chips[0].Chip)
				items = append(items, b.Chips[0].Config)
			}
		}
		for _, p := range r.Serial {
			if strings.HasPrefix(p.Name, "sim:") {
				seen(p.Name, p.Users)
				items = append(items, p.Config)
			}
		}
		for _, d := range r.SPI {
			if strings.HasPrefix(d.Name, "sim:") {
				seen(d.Name, d.Users)
				for _, c := range d.Choices {
					items = append(items, c.Config)
				}
			}
		}
		for _, d := range r.W1 {
			if d.Bus == "sim:w1" {
				seen(d.Name, d.Users)
				items = append(items, d.Config)
			}
		}
		require.Len(t, items, 1+3+5+2) // each find once; SPI with a choice of five where it is free
		_, p := look()
		now = max(now, p)
	}
	require.GreaterOrEqual(t, scans, 2)

	// As a person sees it.
	text, err := homeward("scan", "--config", file).Output()
	require.NoError(t, err)
	require.Contains(t, string(text), "the running homeward agent: sensor cellar (bme280, ok)")
	require.Contains(t, string(text), "the running homeward agent: sensor meter (modbus, ok)")

	// Units are looked for where nobody is, and not on the gateway's lines, whatever name they are given.
	belongs, inUse := "belongs to the running agent (sensor ", fmt.Sprintf("in use by process %d (homeward)", run.Process.Pid)
	for port, want := range map[string]string{"sim:rs485": belongs, "sim:usb": belongs, filepath.Join(dir, "usb"): belongs, filepath.Join(dir, "rs485"): inUse} {
		text, err := homeward("scan", "--config", file, "--modbus", port, "--units", "1-5", "--line", "19200-8E1").CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(text), want, port)
	}
	text, err = homeward("scan", "--json", "--config", file, "--modbus", "sim:spare", "--units", "4-6", "--line", "19200-8E1").CombinedOutput()
	require.NoError(t, err, "%s", text)
	require.Contains(t, string(text), `"unit": 5`)
	require.Equal(t, 1, spare.Requests(5))

	// The gateway polled on: nothing failed, nothing was missed, and nobody but it asked anything.
	after, now := look()
	require.GreaterOrEqual(t, now, polls+4)
	for i, x := range after.Sensors {
		require.Zero(t, x.Errors, "%+v", x)
		require.Empty(t, x.LastError)
		require.Equal(t, before.Sensors[i].Missed, x.Missed, "%+v", x)
		require.GreaterOrEqual(t, x.Readings, before.Sensors[i].Readings+4)
	}
	require.Zero(t, beside.n.Load(), "the gateway's bus was looked through")
	require.Zero(t, rs485.Requests(2)+usb.Requests(4), "the gateway's lines were looked through")
	require.Positive(t, free.n.Load())

	// When it has ended, all is free: this is what it kept the scan from.
	stop()
	var r scan.Result
	text, err = homeward("scan", "--json", "--config", file).Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &r))
	i := slices.IndexFunc(r.I2C, func(b scan.I2CBus) bool { return b.Name == "sim:i2c-1" })
	require.Empty(t, r.I2C[i].Users)
	require.Len(t, r.I2C[i].Chips, 2)
	require.Positive(t, beside.n.Load())

	// Each find can be copied.
	for i, item := range items {
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "gateway: gw\nstate: /tmp/x\nhome: {organization: a, project: b, product: c, url: \"mqtt://h\"}\nsensors:\n  %s\n", item), 0o600))
		_, err := config.Load(path, all.Factories)
		require.NoError(t, err, item)
	}
}
