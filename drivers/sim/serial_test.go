package sim

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// echoer sends back what it gets.
type echoer struct{ served chan struct{} }

func (e echoer) Serve(_ context.Context, rw io.ReadWriter, _ drivers.Line) error {
	defer func() { e.served <- struct{}{} }()
	_, err := io.Copy(rw, rw)
	return err
}

func TestSerialLine(t *testing.T) {
	dev := echoer{make(chan struct{}, 10)}
	link := filepath.Join(t.TempDir(), "by-path", "usb-0:1.3-port0")
	l, err := NewSerialLine(link, drivers.Line{}, dev, nil)
	require.NoError(t, err)
	defer l.Close()
	require.Equal(t, link, l.Link())

	var names []string
	for range 3 {
		to, err := os.Readlink(link)
		require.NoError(t, err)
		require.Equal(t, l.TTY(), to)
		names = append(names, to)
		require.NoError(t, l.Plug(), "plugged in already")
		require.Equal(t, to, l.TTY())

		tty, err := os.OpenFile(link, os.O_RDWR, 0)
		require.NoError(t, err)
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		_, err = tty.Write(all)
		require.NoError(t, err)
		got := make([]byte, 256)
		_, err = io.ReadFull(tty, got)
		require.NoError(t, err)
		require.Equal(t, all, got, "the terminal is raw")

		require.NoError(t, l.Unplug())
		require.Len(t, dev.served, 1, "Unplug waits for the device")
		<-dev.served
		require.NoError(t, l.Unplug())
		require.Empty(t, l.TTY())
		_, err = os.Lstat(link)
		require.ErrorIs(t, err, os.ErrNotExist)
		n, err := tty.Read(got)
		require.Zero(t, n)
		require.Error(t, err, "whoever had it open is hung up")
		tty.Close()
		require.NoError(t, l.Plug())
	}
	require.NotEqual(t, names[0], names[1])
	require.NotEqual(t, names[1], names[2])
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	entries, err := os.ReadDir(filepath.Dir(link))
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestSerialLineInject(t *testing.T) {
	l, err := NewSerialLine(filepath.Join(t.TempDir(), "tty"), drivers.Line{}, echoer{make(chan struct{}, 1)}, nil)
	require.NoError(t, err)
	defer l.Close()
	tty, err := os.OpenFile(l.Link(), os.O_RDWR, 0)
	require.NoError(t, err)
	defer tty.Close()
	require.NoError(t, l.Inject([]byte("noise")))
	b := make([]byte, 5)
	_, err = io.ReadFull(tty, b)
	require.NoError(t, err)
	require.Equal(t, "noise", string(b))
	require.NoError(t, l.Unplug())
	require.NoError(t, l.Inject([]byte("noise")))
}

func TestSerialLineRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("precious"), 0o600))
	_, err := NewSerialLine(file, drivers.Line{}, echoer{}, nil)
	require.ErrorContains(t, err, "not a link")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
}

// stamped notes when each byte came.
type stamped struct {
	begin time.Time
	at    []time.Duration
	err   error
}

func (s *stamped) Write(b []byte) (int, error) {
	for range b {
		s.at = append(s.at, time.Since(s.begin))
	}
	return len(b), s.err
}

func TestWritePaced(t *testing.T) {
	line := drivers.Line{Baud: 9600, DataBits: 8, Parity: 'N', StopBits: 1}
	synctest.Test(t, func(t *testing.T) {
		s := &stamped{begin: time.Now()}
		require.NoError(t, WritePaced(t.Context(), s, line, make([]byte, 96)))
		require.Len(t, s.at, 96)
		for i, at := range s.at {
			require.GreaterOrEqual(t, at, time.Duration(i+1)*line.CharTime())
			require.Less(t, at, time.Duration(i+1)*line.CharTime()+3*time.Millisecond)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		s := &stamped{begin: time.Now()}
		require.ErrorIs(t, WritePaced(ctx, s, line, make([]byte, 96)), context.DeadlineExceeded)
		require.Less(t, len(s.at), 50)
		s.err = errors.New("gone")
		require.ErrorIs(t, WritePaced(t.Context(), s, line, make([]byte, 96)), s.err)
	})
}
