package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud/cloudtest"
	"homeward/agent/pack"
	"homeward/agent/status"
)

// TestFirstLight is the whole way with tools that others wrote at both ends: Debian's pymodbus slave behind socat's pair of
// pseudo-terminals, the gateway, Debian's Mosquitto, mosquitto_sub, and homeward decode.
func TestFirstLight(t *testing.T) {
	for _, format := range pack.Formats {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			firstLight(t, format)
		})
	}
}

func firstLight(t *testing.T, format string) {
	if testing.Short() {
		t.Skip("short: end to end, with real processes")
	}
	socat, err := exec.LookPath("socat")
	if err != nil {
		cloudtest.Without(t, "sudo apt-get install socat")
	}
	sub, err := exec.LookPath("mosquitto_sub")
	if err != nil {
		cloudtest.Without(t, "sudo apt-get install mosquitto-clients")
	}
	if exec.Command("/usr/bin/python3", "-c", "import pymodbus, serial_asyncio").Run() != nil {
		cloudtest.Without(t, "sudo apt-get install python3-pymodbus python3-serial-asyncio")
	}
	homeward, err := build()
	require.NoError(t, err)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	dir := t.TempDir()

	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	run(t, exec.Command(socat, "pty,rawer,link="+ours, "pty,rawer,link="+theirs))
	require.Eventually(t, func() bool {
		_, err1 := os.Stat(ours)
		_, err2 := os.Stat(theirs)
		return err1 == nil && err2 == nil
	}, patience, 5*time.Millisecond)
	slave := exec.Command("/usr/bin/python3", "../../drivers/modbus/testdata/slave.py", theirs)
	out, err := slave.StdoutPipe()
	require.NoError(t, err)
	run(t, slave)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)

	// mosquitto_sub -t 'homeward/+/+/+/readings' | homeward decode
	listen := exec.Command(sub, "-h", "localhost", "-p", strconv.Itoa(m.Port), "-q", "1", "-t", "homeward/+/+/+/readings")
	pipe, into, err := os.Pipe()
	require.NoError(t, err)
	listen.Stdout = into
	decode := exec.Command(homeward, "decode")
	decode.Stdin = pipe
	lines, err := decode.StdoutPipe()
	require.NoError(t, err)
	run(t, decode)
	run(t, listen)
	require.NoError(t, pipe.Close())
	require.NoError(t, into.Close())

	s := &site{t: t, dir: dir, every: "1s", extra: "publish: {max_age: 2s, format: " + format + "}\n"}
	s.log, err = os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	t.Cleanup(func() { s.kill(); _ = s.log.Close() })
	require.NoError(t, os.Symlink(ours, filepath.Join(dir, "port")))
	s.configure(m.URL)
	began := time.Now()
	s.start()
	t.Cleanup(func() {
		if text, _ := os.ReadFile(s.log.Name()); t.Failed() {
			t.Logf("the gateway's log:\n%s", text)
		}
	})
	s.until("proven", proven)
	epoch := s.until("four polls", func(v status.Status) bool { return v.Buffer.Delivered >= 40 }).Home.Epoch

	// A poll's ten channels have ten numbers, in their order in the configuration.
	type reading struct {
		Gateway string    `json:"gateway"`
		Epoch   uint32    `json:"epoch"`
		Seq     uint64    `json:"seq"`
		Time    time.Time `json:"time"`
		TimeMS  int64     `json:"t_ms"`
		Channel string    `json:"channel"`
		Value   float64   `json:"value"`
	}
	got := make(chan reading, 1000)
	go func() { // ends with decode
		defer close(got)
		for in := bufio.NewScanner(lines); in.Scan(); {
			r := reading{}
			if err := json.Unmarshal(in.Bytes(), &r); err != nil {
				t.Errorf("%s: %v", in.Text(), err)
				return
			}
			got <- r
		}
	}()
	seen := map[string]int{}
	keys := map[uint64]bool{}
	for end := time.After(patience); len(seen) < 10 || len(keys) < 30; {
		select {
		case r, ok := <-got:
			require.True(t, ok, "homeward decode ended")
			require.Equal(t, "gw-1", r.Gateway)
			require.Equal(t, epoch, r.Epoch)
			require.False(t, keys[r.Seq], "%d came twice", r.Seq)
			i := int(r.Seq-1) % 10
			require.Equal(t, fmt.Sprintf("unit/r%d", i), r.Channel)
			require.EqualValues(t, 100+i, r.Value)
			require.Equal(t, r.TimeMS, r.Time.UnixMilli())
			require.WithinRange(t, r.Time, began.Add(-time.Second), time.Now().Add(time.Second))
			seen[r.Channel]++
			keys[r.Seq] = true
		case <-end:
			t.Fatalf("after %v: %v", patience, seen)
		}
	}
	for i := range 10 {
		require.GreaterOrEqual(t, seen[fmt.Sprintf("unit/r%d", i)], 2)
	}
	s.stop()
}

// run runs a program until the test ends.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
