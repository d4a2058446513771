package hostbus

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

var line8N1 = drivers.Line{Baud: 115200, DataBits: 8, Parity: 'N', StopBits: 1}

// pair is a pseudo-terminal; the returned end plays the instrument.
func pair(t *testing.T) (instrument *os.File, path string) {
	t.Helper()
	ptm, pts, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pts.Close())
	t.Cleanup(func() { ptm.Close() })
	return ptm, pts.Name()
}

func open(t *testing.T, path string) drivers.Port {
	t.Helper()
	p, err := OpenSerial(path, line8N1)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func TestSerialPassesBytes(t *testing.T) {
	for _, line := range []string{"9600-8N1", "19200-8E1", "115200-8E2", "300-7O1"} {
		t.Run(line, func(t *testing.T) {
			l, err := drivers.ParseLine(line)
			require.NoError(t, err)
			instrument, path := pair(t)
			p, err := OpenSerial(path, l)
			require.NoError(t, err)
			defer p.Close()
			require.Equal(t, l, p.Line())

			// Every byte as it is: no echo, no CR and LF games, no ^C.
			all := make([]byte, 256)
			for i := range all {
				all[i] = byte(i)
			}
			require.NoError(t, p.Write(all))
			got := make([]byte, 256)
			_, err = io.ReadFull(instrument, got)
			require.NoError(t, err)
			require.Equal(t, all, got)

			_, err = instrument.Write(all)
			require.NoError(t, err)
			for n := 0; n < len(got); {
				k, err := p.Read(got[n:], 5*time.Second)
				require.NoError(t, err)
				require.Positive(t, k)
				n += k
			}
			require.Equal(t, all, got)
		})
	}
}

func TestSerialTimeout(t *testing.T) {
	_, path := pair(t)
	p := open(t, path)
	for _, wait := range []time.Duration{-1, 0, time.Millisecond} {
		n, err := p.Read(make([]byte, 8), wait)
		require.Zero(t, n)
		require.ErrorIs(t, err, drivers.ErrTimeout)
		require.NotErrorIs(t, err, drivers.ErrGone)
	}
}

func TestSerialFlush(t *testing.T) {
	instrument, path := pair(t)
	p := open(t, path)
	_, err := instrument.Write([]byte("stale"))
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = p.Read(b, 5*time.Second) // it has arrived
	require.NoError(t, err)
	require.NoError(t, p.Flush())
	_, err = p.Read(b, 0)
	require.ErrorIs(t, err, drivers.ErrTimeout)
}

// TestSerialUnplugged: the other end of the pseudo-terminal closes, which looks like a pulled
// adapter: every call says so from then on.
func TestSerialUnplugged(t *testing.T) {
	for _, c := range []struct {
		name string
		call func(drivers.Port) error
	}{
		{"read", func(p drivers.Port) error { _, err := p.Read(make([]byte, 1), 5*time.Second); return err }},
		{"write", func(p drivers.Port) error { return p.Write([]byte{1}) }},
		{"flush", func(p drivers.Port) error { return p.Flush() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			instrument, path := pair(t)
			p := open(t, path)
			require.NoError(t, instrument.Close())
			err := c.call(p)
			require.ErrorIs(t, err, drivers.ErrGone)
			require.ErrorContains(t, err, "hostbus: port "+path+": "+c.name+": ")
			_, err = p.Read(make([]byte, 1), 0)
			require.ErrorIs(t, err, drivers.ErrGone)
			require.ErrorIs(t, p.Write([]byte{1}), drivers.ErrGone)
			require.NoError(t, p.Close())
			require.NoError(t, p.Close())
		})
	}
}

// TestSerialUnpluggedWhileReading: a read under way ends.
func TestSerialUnpluggedWhileReading(t *testing.T) {
	instrument, path := pair(t)
	p := open(t, path)
	done := make(chan error)
	go func() {
		_, err := p.Read(make([]byte, 1), time.Minute)
		done <- err
	}()
	require.NoError(t, instrument.Close())
	require.ErrorIs(t, <-done, drivers.ErrGone)
}

// TestSerialStuckWrite: nobody takes what is written, as with an adapter that hangs.
func TestSerialStuckWrite(t *testing.T) {
	_, path := pair(t)
	p, err := OpenSerial(path, drivers.Line{Baud: 4_000_000, DataBits: 8, Parity: 'N', StopBits: 1})
	require.NoError(t, err)
	err = p.Write(make([]byte, 1<<18))
	require.ErrorIs(t, err, drivers.ErrGone)
	require.ErrorContains(t, err, "bytes are stuck")
	_, err = p.Read(make([]byte, 1), 0)
	require.ErrorIs(t, err, drivers.ErrGone)
	require.NoError(t, p.Close())
}

func TestSerialClosed(t *testing.T) {
	_, path := pair(t)
	p := open(t, path)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err := p.Read(make([]byte, 1), 0)
	require.ErrorIs(t, err, drivers.ErrGone)
	require.ErrorIs(t, p.Write([]byte{1}), drivers.ErrGone)
	require.ErrorIs(t, p.Flush(), drivers.ErrGone)
}

func TestSerialRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	dangling := filepath.Join(dir, "by-path")
	require.NoError(t, os.Symlink(filepath.Join(dir, "ttyUSB7"), dangling))
	_, path := pair(t)
	for _, c := range []struct {
		name, path, line string
		want             error
		text             string
	}{
		{"no such path", filepath.Join(dir, "none"), "9600-8N1", drivers.ErrGone, "does not exist"},
		{"dangling link", dangling, "9600-8N1", drivers.ErrGone, "does not exist"},
		{"a file", file, "9600-8N1", drivers.ErrWrong, "not a serial port"},
		{"a folder", dir, "9600-8N1", drivers.ErrWrong, "not a serial port"},
		{"no terminal", "/dev/null", "9600-8N1", drivers.ErrWrong, "not a serial port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := drivers.ParseLine(c.line)
			require.NoError(t, err)
			_, err = OpenSerial(c.path, l)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, "hostbus: port "+c.path+": ")
			require.ErrorContains(t, err, c.text)
		})
	}
	for _, l := range []drivers.Line{{}, {Baud: 9600, DataBits: 9, Parity: 'N', StopBits: 1}, {Baud: 9600, DataBits: 8, Parity: 'M', StopBits: 1}, {Baud: 9600, DataBits: 8, Parity: 'N', StopBits: 3}} {
		_, err := OpenSerial(path, l)
		require.Error(t, err)
	}
}

// TestSerialStableName: the link is followed anew at each opening.
func TestSerialStableName(t *testing.T) {
	link := filepath.Join(t.TempDir(), "by-path")
	for range 2 {
		instrument, path := pair(t)
		_ = os.Remove(link)
		require.NoError(t, os.Symlink(path, link))
		p := open(t, link)
		require.NoError(t, p.Write([]byte("x")))
		_, err := io.ReadFull(instrument, make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, p.Close())
	}
}

// TestSerialInUse: one port, one holder, and the error says who it is.
func TestSerialInUse(t *testing.T) {
	t.Run("by us", func(t *testing.T) {
		_, path := pair(t)
		p := open(t, path)
		_, err := OpenSerial(path, line8N1)
		require.ErrorContains(t, err, "it is in use")
		require.NotErrorIs(t, err, drivers.ErrGone)
		require.NoError(t, p.Close())
		open(t, path)
	})
	t.Run("by another process", func(t *testing.T) {
		_, path := pair(t)
		other := exec.Command("sh", "-c", `exec sleep 60 <>"$0"`, path)
		require.NoError(t, other.Start())
		t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
		want := fmt.Sprintf("hostbus: port %s: it is in use by process %d (sleep)", path, other.Process.Pid)
		require.Eventually(t, func() bool {
			p, err := OpenSerial(path, line8N1)
			if err == nil {
				p.Close()
			}
			return err != nil && err.Error() == want
		}, 10*time.Second, 10*time.Millisecond)
		require.NoError(t, other.Process.Kill())
		_ = other.Wait()
		open(t, path)
	})
}

// TestSerialNotInherited: a child of this process must not keep the port.
func TestSerialNotInherited(t *testing.T) {
	_, path := pair(t)
	open(t, path)
	out, err := exec.Command("sh", "-c", "ls -l /proc/self/fd").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "/proc/")
	require.False(t, strings.Contains(string(out), path+"\n"), "%s", out)
}

// TestSerialManyFiles: select(2) takes no descriptor above 1023; that is an error, not a panic.
func TestSerialManyFiles(t *testing.T) {
	_, path := pair(t)
	for range 1100 {
		f, err := os.Open(os.DevNull)
		require.NoError(t, err)
		defer f.Close()
	}
	_, err := OpenSerial(path, line8N1)
	require.ErrorContains(t, err, "too many files are open")
}
