package modbus

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/hostbus"
)

// TestInterop reads a slave that others wrote: Debian's pymodbus behind socat's pair of
// pseudo-terminals.
func TestInterop(t *testing.T) {
	socat, err := exec.LookPath("socat")
	if err != nil || exec.Command("/usr/bin/python3", "-c", "import pymodbus, serial_asyncio").Run() != nil {
		const need = "apt-get install socat python3-pymodbus python3-serial-asyncio"
		if os.Getenv("CI") != "" {
			t.Fatal(need)
		}
		t.Skip(need)
	}
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	start(t, exec.Command(socat, "pty,rawer,link="+ours, "pty,rawer,link="+theirs))
	require.Eventually(t, func() bool {
		_, err1 := os.Stat(ours)
		_, err2 := os.Stat(theirs)
		return err1 == nil && err2 == nil
	}, 10*time.Second, 5*time.Millisecond)

	slave := exec.Command("/usr/bin/python3", "testdata/slave.py", theirs, "--units", "1,7")
	out, err := slave.StdoutPipe()
	require.NoError(t, err)
	start(t, slave)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)

	port, err := hostbus.OpenSerial(ours, drivers.Line{Baud: 19200, DataBits: 8, Parity: 'E', StopBits: 1})
	require.NoError(t, err)
	defer port.Close()
	interoperate(t, &Options{Port: ours}, port)
}

// TestInteropTCP reads pymodbus over TCP.
func TestInteropTCP(t *testing.T) {
	if exec.Command("/usr/bin/python3", "-c", "import pymodbus, serial_asyncio").Run() != nil {
		const need = "apt-get install python3-pymodbus python3-serial-asyncio"
		if os.Getenv("CI") != "" {
			t.Fatal(need)
		}
		t.Skip(need)
	}
	slave := exec.Command("/usr/bin/python3", "testdata/slave.py", "127.0.0.1:0", "--tcp", "--units", "1,7")
	out, err := slave.StdoutPipe()
	require.NoError(t, err)
	start(t, slave)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	number, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	require.True(t, ok, line)
	url := "tcp://127.0.0.1:" + number
	port, err := hostbus.OpenTCP(t.Context(), url)
	require.NoError(t, err)
	defer port.Close()
	interoperate(t, &Options{URL: url}, port)
}

func interoperate(t *testing.T, o *Options, port drivers.Port) {
	o.UnitID, o.Chans = ptr(7), []Channel{
		channel("h0", "holding", 0, "uint16"),
		channel("h5", "holding", 5, "int16"),
		channel("h180", "holding", 180, "uint16"),
		channel("i3", "input", 3, "uint16"),
		channel("i4", "input", 4, "uint32"),
		channel("c0", "coil", 0, ""), channel("c1", "coil", 1, ""), channel("c9", "coil", 9, ""),
		channel("d0", "discrete", 0, ""), channel("d7", "discrete", 7, ""),
		channel("missing", "holding", 5000, "uint16"),
	}
	o.Chans[1].Scale = ptr(0.1)
	require.Empty(t, o.Check())
	s, err := o.Open(context.Background(), drivers.Env{Port: port, Timeout: 5 * time.Second, Shared: new(drivers.Shared)})
	require.NoError(t, err)
	defer s.Close()

	for range 3 {
		got, err := s.Read(context.Background())
		require.ErrorIs(t, err, drivers.ErrRefuse)
		require.EqualError(t, err, "modbus: unit 7: holding 5000 (missing): the instrument refused: illegal data address (0x02)")
		require.Equal(t, []drivers.Reading{
			{Channel: "h0", Value: 100}, {Channel: "h5", Value: 10.5}, {Channel: "h180", Value: 280},
			{Channel: "i3", Value: 1003}, {Channel: "i4", Value: 1004<<16 | 1005},
			{Channel: "c0", Value: 1}, {Channel: "c1", Value: 0}, {Channel: "c9", Value: 1},
			{Channel: "d0", Value: 0}, {Channel: "d7", Value: 1},
		}, got)
	}
}

// start runs a helper program until the test ends.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stderr = t.Output()
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}
