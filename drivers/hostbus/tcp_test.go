package hostbus

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// tcpPair is a port and the other end of its connection.
func tcpPair(t *testing.T) (drivers.Port, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	h, err := Open(t.Context(), drivers.Bus{Kind: drivers.TCP, Name: "tcp://" + l.Addr().String()})
	require.NoError(t, err)
	c, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { h.Close(); c.Close() })
	return h.Port, c
}

func TestTCP(t *testing.T) {
	t.Parallel()
	p, c := tcpPair(t)
	require.Zero(t, p.Line())
	var b [16]byte
	_, err := p.Read(b[:], 0)
	require.Equal(t, drivers.ErrTimeout, err)
	require.NoError(t, p.Write([]byte("ask")))
	n, err := io.ReadFull(c, b[:3])
	require.NoError(t, err)
	require.Equal(t, "ask", string(b[:n]))
	_, err = c.Write([]byte("answer"))
	require.NoError(t, err)
	n, err = p.Read(b[:], 5*time.Second)
	require.NoError(t, err)
	require.Equal(t, "answer", string(b[:n]))

	_, err = c.Write([]byte("stale"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { n, _ = p.Read(b[:1], 0); return n == 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, p.Flush())
	_, err = p.Read(b[:], 0)
	require.ErrorIs(t, err, drivers.ErrTimeout)

	_, err = c.Write([]byte("last"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	n, err = io.ReadFull(reader{p}, b[:4])
	require.NoError(t, err, "what was sent before the end is read")
	require.Equal(t, "last", string(b[:n]))
	for range 2 {
		_, err = p.Read(b[:], 5*time.Second)
		require.ErrorIs(t, err, drivers.ErrGone)
		require.ErrorContains(t, err, "closed the connection")
	}
	require.ErrorIs(t, p.Write([]byte("x")), drivers.ErrGone)
	require.ErrorIs(t, p.Flush(), drivers.ErrGone)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err = p.Read(b[:], 0)
	require.ErrorIs(t, err, drivers.ErrGone)
}

type reader struct{ drivers.Port }

func (r reader) Read(b []byte) (int, error) { return r.Port.Read(b, 5*time.Second) }

func TestTCPReset(t *testing.T) {
	t.Parallel()
	p, c := tcpPair(t)
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
	require.NoError(t, c.Close())
	_, err := p.Read(make([]byte, 1), 5*time.Second)
	require.ErrorIs(t, err, drivers.ErrGone)
}

// TestTCPStuckWrite: a peer that reads nothing costs a bounded time, and then the connection.
func TestTCPStuckWrite(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe() // holds nothing
	defer theirs.Close()
	p := &tcpPort{url: "tcp://x:1", conn: ours}
	require.ErrorIs(t, p.Write([]byte("x")), drivers.ErrGone)
	_, err := p.Read(make([]byte, 1), 0)
	require.ErrorIs(t, err, drivers.ErrGone)
}

// TestTCPDial: each way in which nobody answers says what to do. Not parallel: it replaces the dialler.
func TestTCPDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url := "tcp://" + l.Addr().String()
	require.NoError(t, l.Close())
	_, err = OpenTCP(t.Context(), url)
	require.ErrorIs(t, err, drivers.ErrGone)
	require.ErrorContains(t, err, "nothing listens")

	defer func(dial func(context.Context, string, string) (net.Conn, error)) { dialTCP = dial }(dialTCP)
	for _, c := range []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}, "powered"},
		{context.DeadlineExceeded, "powered"},
		{&net.DNSError{Err: "no such host", Name: "plc"}, "IP address"},
	} {
		dialTCP = func(ctx context.Context, network, address string) (net.Conn, error) {
			_, bounded := ctx.Deadline()
			require.True(t, bounded)
			require.Equal(t, "plc:502", address)
			return nil, c.err
		}
		_, err := OpenTCP(t.Context(), "tcp://plc:502")
		require.ErrorIs(t, err, drivers.ErrGone)
		require.ErrorIs(t, err, c.err)
		require.ErrorContains(t, err, c.want)
	}
	dialTCP = func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("dialled")
	}
	for _, bad := range []string{"plc:502", "tcp://plc", "tcp://:502", "tcp://", "udp://plc:502"} {
		_, err := OpenTCP(t.Context(), bad)
		require.ErrorIs(t, err, drivers.ErrWrong, bad)
	}
}
