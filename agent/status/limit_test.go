package status

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is what only something that hangs reaches.
const patience = 30 * time.Second

func dialed(t *testing.T, l net.Listener, text string) net.Conn {
	t.Helper()
	c, err := net.Dial(l.Addr().Network(), l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_, err = io.WriteString(c, text)
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	return c
}

// gone reads until the server closes.
func gone(t *testing.T, c net.Conn) string {
	t.Helper()
	text, err := io.ReadAll(c)
	if err != nil {
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.NotContains(t, err.Error(), "timeout", "still open after %v", patience)
	}
	return string(text)
}

func listeners(t *testing.T) map[string]net.Listener {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	unix, err := ListenUnix(filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	return map[string]net.Listener{"tcp": tcp, "unix": unix}
}

const ask = "GET / HTTP/1.1\r\nHost: localhost\r\n"

// A body that never ends, and a connection that is done: none stays open.
func TestNobodyStays(t *testing.T) {
	for name, l := range listeners(t) {
		t.Run(name, func(t *testing.T) {
			served := atomic.Int32{}
			s := Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				served.Add(1)
				_, _ = io.WriteString(w, "here")
			}), nil)
			defer s.Close()
			for _, body := range []string{"Content-Length: 200000\r\n\r\nx", "Content-Length: 2000000\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n5\r\nx"} {
				require.Contains(t, gone(t, dialed(t, l, ask+body)), " 413 ", body)
			}
			require.Zero(t, served.Load())
			text := gone(t, dialed(t, l, strings.Repeat(ask+"\r\n", 100)))
			require.Contains(t, text, " 200 ")
			require.EqualValues(t, 1, served.Load(), "one request a connection")
		})
	}
}

// There are no more connections at a time than the limit, and whoever waits is served once one ends. An answer that takes
// longer than the bounds of reading and writing arrives whole.
func TestConnectionLimit(t *testing.T) {
	for name, l := range listeners(t) {
		t.Run(name, func(t *testing.T) {
			const most = 3
			var now, peak atomic.Int32
			release := make(chan struct{})
			s := serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer now.Add(-1)
				for n, p := now.Add(1), peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
				}
				<-release
				if r.Context().Err() != nil {
					http.Error(w, "given up", http.StatusInternalServerError)
					return
				}
				_, _ = io.WriteString(w, "here")
			}), nil, limits{connections: most, header: 2 * time.Second, write: 2 * time.Second})
			defer s.Close()
			var all []net.Conn
			for range 3 * most {
				all = append(all, dialed(t, l, ask+"\r\n"))
			}
			require.Eventually(t, func() bool { return now.Load() == most }, patience, time.Millisecond)
			time.Sleep(3 * time.Second) // beyond both bounds, and time for more to come in
			require.EqualValues(t, most, peak.Load())
			close(release)
			for _, c := range all {
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, resp.StatusCode)
			}
			require.EqualValues(t, most, peak.Load())
		})
	}
}

// Who asks for much and takes nothing of it is cut off.
func TestSlowReader(t *testing.T) {
	for name, l := range listeners(t) {
		t.Run(name, func(t *testing.T) {
			failed := make(chan error, 1)
			s := serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				b := make([]byte, 1<<20)
				for {
					if _, err := w.Write(b); err != nil {
						failed <- err
						return
					}
				}
			}), nil, limits{connections: 1, header: time.Second, write: 200 * time.Millisecond})
			defer s.Close()
			dialed(t, l, ask+"\r\n")
			select {
			case err := <-failed:
				require.ErrorContains(t, err, "timeout")
			case <-time.After(patience):
				require.Fail(t, "it still writes")
			}
		})
	}
}

// Closing does not wait for a place.
func TestCloseAtLimit(t *testing.T) {
	for name, l := range listeners(t) {
		t.Run(name, func(t *testing.T) {
			in := make(chan struct{})
			s := serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(in)
				<-r.Context().Done()
			}), nil, limits{connections: 1, header: patience, write: patience})
			dialed(t, l, ask+"\r\n")
			<-in
			dialed(t, l, ask)
			closed := make(chan struct{})
			go func() {
				s.Close()
				close(closed)
			}()
			select {
			case <-closed:
			case <-time.After(patience):
				require.Fail(t, "it waits")
			}
		})
	}
}
