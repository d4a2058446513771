package mqtt_test

import (
	"log/slog"
	"net"
	"testing"
	"time"

	broker "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/stretchr/testify/require"

	"homeward/agent/cloud"
	"homeward/agent/cloud/mqtt"
)

// TestWebsocket: the same conversation inside websockets, with and without a path.
func TestWebsocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	b := broker.New(&broker.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, b.AddHook(new(auth.AllowHook), nil))
	require.NoError(t, b.AddListener(listeners.NewWebsocket(listeners.Config{ID: "ws", Address: addr})))
	require.NoError(t, b.Serve())
	defer b.Close()
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)

	w := watch(t, "ws://"+addr+"/mqtt", nil, "", "")
	for i, url := range []string{"ws://" + addr, "ws://" + addr + "/mqtt"} {
		s, err := client(t, options(url)).Dial(t.Context(), []byte("here"), []byte("gone"))
		require.NoError(t, err, url)
		require.NoError(t, s.Prove(t.Context()), url)
		acked := make(chan error, 1)
		require.NoError(t, s.Publish(cloud.Message{Payload: make([]byte, 100<<10)}, func(err error) { acked <- err }))
		require.NoError(t, <-acked)
		require.Eventually(t, func() bool { return len(w.received()) == i+1 }, 5*time.Second, 5*time.Millisecond)
		require.Len(t, w.received()[i], 100<<10)
		s.Close(t.Context(), []byte("farewell"))
		require.Eventually(t, func() bool { return string(w.state()) == "farewell" }, 5*time.Second, 5*time.Millisecond)
	}

	// A port that speaks no websockets.
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer plain.Close()
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
			_ = c.Close()
		}
	}()
	_, err = client(t, options("ws://"+plain.Addr().String())).Dial(t.Context(), nil, nil)
	require.Equal(t, cloud.Unreachable, cloud.ClassOf(err))
	var e *cloud.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Remedy)

	_, err = mqtt.New(options("http://" + addr))
	require.ErrorContains(t, err, "want mqtt://, tls://, ws:// or wss://")
}

// TestClean: a visit leaves no session at the broker, which would queue messages for nobody; otherwise it is kept.
func TestClean(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	url := "mqtt://" + l.Addr().String()
	b := broker.New(&broker.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, b.AddHook(new(auth.AllowHook), nil))
	require.NoError(t, b.AddListener(listeners.NewNet("test", l)))
	require.NoError(t, b.Serve())
	defer b.Close()
	for _, clean := range []bool{false, true} {
		o := options(url)
		o.Clean = clean
		s, err := client(t, o).Dial(t.Context(), nil, nil)
		require.NoError(t, err)
		require.NoError(t, s.Prove(t.Context()))
		s.Close(t.Context(), nil)
		require.Eventually(t, func() bool {
			c, known := b.Clients.Get(o.ClientID)
			return known != clean && (!known || c.Closed())
		}, 5*time.Second, 5*time.Millisecond, "clean %v", clean)
	}
}
