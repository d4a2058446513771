package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent"
	"homeward/cmd/cmdline"
	"homeward/drivers"
	"homeward/drivers/scan"
	"homeward/drivers/sim"
)

// TestScanSimulated: the command finds the chips and units of a simulated site, and the configuration that it prints is
// one that check takes.
func TestScanSimulated(t *testing.T) {
	w := &sim.World{}
	bus := w.AddI2C("i2c-1")
	for _, ct := range sim.ChipTypes() {
		switch c := ct.New(w, ct.Name, nil).(type) {
		case sim.I2CChip:
			_ = bus.Add(ct.Address, c) // the first at an address stays
		case sim.SPIChip:
			w.AddSPI(ct.Name, c)
		case sim.W1Chip:
			require.NoError(t, w.AddW1("w1").Add(c))
		}
	}
	d := &sim.Modbus{}
	regs := &sim.ModbusMap{}
	regs.Set(sim.Holding, 0, 42)
	d.AddSlave(5, regs)
	d.AddSlave(7, &sim.ModbusMap{}) // refuses everything
	l, err := sim.NewSerialLine(filepath.Join(t.TempDir(), "rs485"), drivers.Line{Baud: 19200, DataBits: 8, Parity: 'E', StopBits: 1}, d, nil)
	require.NoError(t, err)
	defer l.Close()
	w.AddSerial("rs485", l)
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.Serve(ctx, socket) }()
	defer func() { cancel(); require.NoError(t, <-served) }()
	require.Eventually(t, func() bool { _, err := os.Stat(socket); return err == nil }, time.Minute, 10*time.Millisecond)
	t.Setenv(sim.Env, socket)
	run := func(v any, args ...string) {
		var out, errs bytes.Buffer
		args = append([]string{"scan", "--json", "--state", filepath.Join(t.TempDir(), "none")}, args...)
		require.Equal(t, cmdline.ExitDone, Main(args, strings.NewReader(""), &out, &errs), errs.String())
		require.NoError(t, json.Unmarshal(out.Bytes(), v))
	}
	var r scan.Result
	run(&r)
	var units scan.Units
	run(&units, "--modbus", "sim:rs485", "--line", "19200-8E1", "--units", "4-8", "--timeout", "200ms")
	var items []string
	named := 0
	for _, b := range r.I2C {
		for _, c := range b.Chips {
			if c.Config != "" {
				items, named = append(items, c.Config), named+1
			}
		}
	}
	require.GreaterOrEqual(t, named, 1)
	for _, p := range r.Serial {
		items = append(items, p.Config)
	}
	for _, p := range r.SPI {
		require.Len(t, p.Choices, 5)
		for _, c := range p.Choices {
			items = append(items, c.Config)
		}
	}
	var asked scan.Result
	run(&asked, "--bus", "sim:max31855", "--ask", "sim:max31855,0x48")
	require.Len(t, asked.SPI, 1)
	require.Equal(t, "max31855", asked.SPI[0].Chip)
	items = append(items, asked.SPI[0].Config)
	for _, p := range r.W1 {
		require.NotEmpty(t, p.Config)
		items = append(items, p.Config)
	}
	require.NotEmpty(t, r.W1, r.Notes)
	require.Len(t, units.Found, 2)
	require.Equal(t, []int{5, 7}, []int{units.Found[0].Unit, units.Found[1].Unit})
	require.Contains(t, units.Found[0].Answer, "42")
	require.Contains(t, units.Found[1].Answer, "refuses")
	for _, u := range units.Found {
		items = append(items, u.Config)
	}
	read := 0
	for i, item := range items { // each alone: one port may not be used at two settings
		text := fmt.Sprintf("gateway: gw\nstate: %s\nhome: {organization: a, project: b, product: c, url: \"mqtt://h\"}\nsensors:\n  %s\n", t.TempDir(), item)
		path := filepath.Join(t.TempDir(), fmt.Sprintf("%d.yaml", i))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		var out, errs bytes.Buffer
		code := Main([]string{"check", "--offline", "--json", "--config", path}, strings.NewReader(""), &out, &errs)
		require.NotEqual(t, cmdline.ExitUsage, code, "%s: %s", item, &errs)
		var lines []agent.Line
		require.NoError(t, json.Unmarshal(out.Bytes(), &lines))
		require.Equal(t, []string{"configuration", "ok"}, []string{lines[0].Name, lines[0].Result}, "%s: %s", item, lines[0].Text)
		i := slices.IndexFunc(lines, func(l agent.Line) bool { return strings.HasPrefix(l.Name, "sensor ") })
		require.GreaterOrEqual(t, i, 0)
		if lines[i].Result == "ok" {
			read++
		}
	}
	require.GreaterOrEqual(t, read, named+3, "what was told by its identity is read, and so are the unit that answers, the thermometer and the thermocouple")
}

// TestScanModbusStops: Ctrl-C ends a search at once, with what was found till then; a port of the running agent is refused.
func TestScanModbusStops(t *testing.T) {
	d := &sim.Modbus{}
	regs := &sim.ModbusMap{}
	regs.Set(sim.Holding, 0, 1)
	d.AddSlave(1, regs)
	l, err := sim.NewSerialLine(filepath.Join(t.TempDir(), "port"), drivers.Line{Baud: 19200, DataBits: 8, Parity: 'E', StopBits: 1}, d, nil)
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	m := scan.ModbusOptions{Port: l.Link(), Lines: []drivers.Line{{Baud: 19200, DataBits: 8, Parity: 'E', StopBits: 1}}, From: 1, To: 247, Timeout: 200 * time.Millisecond}
	m.Step = func(_ drivers.Line, unit, _ int) {
		if unit == 3 {
			cancel()
		}
	}
	u, err := scan.Modbus(ctx, scan.Options{}, m)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, u.Found, 1)
	require.Equal(t, 1, d.Requests(1), "each unit is asked once")
	require.LessOrEqual(t, u.Asked, 3)

	o := scan.Options{Owned: []scan.Owned{{Bus: l.Link(), Sensor: "boiler"}}}
	_, err = scan.Modbus(t.Context(), o, m)
	require.ErrorContains(t, err, "belongs to the running agent (sensor boiler)")
	require.Equal(t, 1, d.Requests(1))
}
