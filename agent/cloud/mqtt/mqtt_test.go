package mqtt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	broker "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"homeward/agent/cloud"
	"homeward/agent/cloud/cloudtest"
	"homeward/agent/cloud/mqtt"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"))
}

func options(url string) mqtt.Options {
	return mqtt.Options{URL: url, ClientID: "gw-1", Prefix: "homeward", Organization: "acme", Project: "cold", Gateway: "gw",
		KeepAlive: time.Second, PingWait: time.Second, WriteWait: 2 * time.Second}
}

func client(t testing.TB, o mqtt.Options) cloud.Cloud {
	t.Helper()
	c, err := mqtt.New(o)
	require.NoError(t, err)
	return c
}

// watcher receives what the gateway publishes, as a consumer would.
type watcher struct {
	mu       sync.Mutex
	payloads [][]byte
	status   []byte
}

func watch(t testing.TB, url string, conf *tls.Config, user, password string) *watcher {
	t.Helper()
	w := &watcher{}
	o := paho.NewClientOptions().AddBroker(strings.Replace(strings.Replace(url, "tls://", "ssl://", 1), "mqtt://", "tcp://", 1)).
		SetClientID("watcher").SetCleanSession(false).SetConnectRetry(true).SetConnectRetryInterval(100 * time.Millisecond).
		SetMaxReconnectInterval(200 * time.Millisecond).SetTLSConfig(conf).SetUsername(user).SetPassword(password)
	listening := make(chan struct{})
	var once sync.Once
	o.SetOnConnectHandler(func(c paho.Client) {
		token := c.Subscribe("homeward/acme/cold/gw/#", 1, func(_ paho.Client, m paho.Message) {
			w.mu.Lock()
			defer w.mu.Unlock()
			switch {
			case strings.HasSuffix(m.Topic(), "/status"):
				w.status = m.Payload()
			case strings.HasSuffix(m.Topic(), "/readings"), strings.HasSuffix(m.Topic(), "/alarms"):
				w.payloads = append(w.payloads, m.Payload())
			}
		})
		if token.WaitTimeout(10*time.Second) && token.Error() == nil {
			once.Do(func() { close(listening) })
		}
	})
	c := paho.NewClient(o)
	token := c.Connect()
	require.True(t, token.WaitTimeout(10*time.Second))
	require.NoError(t, token.Error())
	t.Cleanup(func() { c.Disconnect(0) })
	select {
	case <-listening:
	case <-time.After(10 * time.Second):
		t.Fatal("the watcher's subscription is not answered")
	}
	return w
}

func (w *watcher) received() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([][]byte(nil), w.payloads...)
}

func (w *watcher) state() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

func TestConformanceMosquitto(t *testing.T) {
	if testing.Short() {
		t.Skip("short: needs a real broker and some seconds")
	}
	cloudtest.Run(t, func(t *testing.T) cloudtest.Home {
		m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{
			Users: map[string]string{"gw": cloudtest.Secret, "reader": "reader", "mute": cloudtest.Secret},
			ACL:   "user gw\ntopic readwrite homeward/acme/cold/gw/#\nuser reader\ntopic read #\nuser mute\ntopic read homeward/acme/cold/gw/#\n",
		})
		w := watch(t, m.URL, nil, "reader", "reader")
		as := func(user, password string) cloud.Cloud {
			o := options(m.URL)
			o.Username, o.Password = user, func() (string, error) { return password, nil }
			return client(t, o)
		}
		return cloudtest.Home{
			New:      func() cloud.Cloud { return as("gw", cloudtest.Secret) },
			Deny:     func() cloud.Cloud { return as("gw", cloudtest.Secret+"x") },
			Drop:     func() cloud.Cloud { return as("mute", cloudtest.Secret) },
			Received: w.received, Status: w.state, Freeze: m.Freeze, Thaw: m.Thaw, Kill: m.Stop, Revive: m.Start,
			NoticeWithin: 10 * time.Second,
		}
	})
}

// TestInProcess needs nothing installed: the embedded broker takes the ordinary path.
func TestInProcess(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	b := broker.New(&broker.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, b.AddHook(new(auth.AllowHook), nil))
	require.NoError(t, b.AddListener(listeners.NewNet("test", l)))
	require.NoError(t, b.Serve())
	defer b.Close()
	w := watch(t, "mqtt://"+addr, nil, "", "")
	s, err := client(t, options("mqtt://"+addr)).Dial(t.Context(), []byte("here"), []byte("gone"))
	require.NoError(t, err)
	defer s.Close(t.Context(), []byte("farewell"))
	require.NoError(t, s.Prove(t.Context()))
	acked := make(chan error, 1)
	require.NoError(t, s.Publish(cloud.Message{Payload: []byte("{}")}, func(err error) { acked <- err }))
	require.NoError(t, <-acked)
	require.Eventually(t, func() bool { return len(w.received()) == 1 && string(w.state()) == "here" }, 5*time.Second, 5*time.Millisecond)

	// Hints come from anyone who may publish there; a flood costs bounded memory and does not block the session.
	flood := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("flood"))
	token := flood.Connect()
	require.True(t, token.WaitTimeout(5*time.Second))
	for i := range 200 {
		flood.Publish("homeward/acme/cold/gw/acks", 1, false, fmt.Sprint(i)).WaitTimeout(5 * time.Second)
	}
	flood.Disconnect(100)
	require.NoError(t, s.Prove(t.Context()))
	last := ""
	for len(s.Hints()) > 0 {
		last = string((<-s.Hints()).Payload)
	}
	require.Equal(t, "199", last, "the newest are kept")
}

func TestTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("short: needs a real broker")
	}
	ours, theirs := cloudtest.NewAuthority(t), cloudtest.NewAuthority(t)
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{TLS: ours, ClientCerts: true, Extra: "use_identity_as_username true\n"})
	cert, key := ours.Issue(t, "gw", false)
	old, oldKey := ours.Issue(t, "gw", true)
	good := options(m.URL)
	good.CAFile, good.CertFile, good.KeyFile = ours.CAFile, cert, key
	for _, tc := range []struct {
		name   string
		change func(*mqtt.Options)
		class  cloud.Class
		remedy string
	}{
		{"good", func(*mqtt.Options) {}, "", ""},
		{"foreign authority", func(o *mqtt.Options) { o.CAFile = theirs.CAFile }, cloud.NotTrusted, "home.ca_file"},
		{"wrong name", func(o *mqtt.Options) {
			o.URL = strings.Replace(o.URL, "localhost", "127.0.0.2", 1)
			o.Dial = toLoopback
		}, cloud.NotTrusted, "another name"},
		{"no certificate", func(o *mqtt.Options) { o.CertFile, o.KeyFile = "", "" }, cloud.Denied, "cert_file"},
		{"expired certificate", func(o *mqtt.Options) { o.CertFile, o.KeyFile = old, oldKey }, cloud.Denied, "cert_file"},
		{"certificate missing", func(o *mqtt.Options) { o.CertFile += "x" }, cloud.Denied, "mend the file"},
		{"clear text to a TLS port", func(o *mqtt.Options) { o.URL = strings.Replace(o.URL, "tls", "mqtt", 1) }, cloud.Unreachable, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := good
			tc.change(&o)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			s, err := client(t, o).Dial(ctx, nil, nil)
			if tc.class == "" {
				require.NoError(t, err)
				require.NoError(t, s.Prove(ctx))
				s.Close(ctx, nil)
				return
			}
			require.Error(t, err)
			require.Equal(t, tc.class, cloud.ClassOf(err), "%v", err)
			var e *cloud.Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, e.Remedy, tc.remedy, "%v", err)
		})
	}
	plain := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	o := options(strings.Replace(plain.URL, "mqtt", "tls", 1))
	_, err := client(t, o).Dial(t.Context(), nil, nil)
	var e *cloud.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Remedy, "TLS", "TLS to a clear-text port: %v", err)
}

func toLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, _ := net.SplitHostPort(addr)
	return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
}

// hostile answers each connection with a script, after the CONNECT was read.
func hostile(t *testing.T, script func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var work sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				buf := make([]byte, 4096)
				if _, err := c.Read(buf); err != nil {
					return
				}
				script(c)
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	return "mqtt://" + l.Addr().String()
}

var connack = []byte{0x20, 2, 0, 0}

func TestHostileBroker(t *testing.T) {
	giant := []byte{0x30, 0xff, 0xff, 0xff, 0x7f} // PUBLISH of 256 MB
	id := func(c net.Conn) []byte {               // of the SUBSCRIBE
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		if err != nil || n < 4 {
			return []byte{0, 1}
		}
		return buf[2:4]
	}
	for name, script := range map[string]func(net.Conn){
		"giant before connack": func(c net.Conn) { _, _ = c.Write(giant) },
		"giant after connack":  func(c net.Conn) { _, _ = c.Write(append(append([]byte{}, connack...), giant...)) },
		"long connack":         func(c net.Conn) { _, _ = c.Write(append([]byte{0x20, 0x80, 0x80, 0x04}, make([]byte, 65536)...)) },
		"endless length": func(c net.Conn) {
			_, _ = c.Write(append(append([]byte{}, connack...), 0x30, 0xff, 0xff, 0xff, 0xff, 0xff))
		},
		"garbage": func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte{0xff, 0x00, 0x13}, 1000)) },
		"http":    func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"suback with many codes": func(c net.Conn) {
			_, _ = c.Write(connack)
			_, _ = c.Write(append(append([]byte{0x90, 30}, id(c)...), make([]byte, 28)...))
		},
		"suback refused": func(c net.Conn) {
			_, _ = c.Write(connack)
			_, _ = c.Write(append(append([]byte{0x90, 5}, id(c)...), 0x80, 0x80, 0x80))
		},
		"publish with a topic longer than itself": func(c net.Conn) {
			_, _ = c.Write(connack)
			_, _ = c.Write(append(append([]byte{0x90, 5}, id(c)...), 1, 1, 1))
			_, _ = c.Write([]byte{0x32, 4, 0xff, 0xff, 'a', 'b'})
		},
		"puback for nobody": func(c net.Conn) {
			_, _ = c.Write(connack)
			_, _ = c.Write(append(append([]byte{0x90, 5}, id(c)...), 1, 1, 1))
			for i := range 100 {
				_, _ = c.Write(binary.BigEndian.AppendUint16([]byte{0x40, 2}, uint16(i+2000)))
			}
		},
		"closes at once": func(c net.Conn) { _ = c.Close() },
		"says nothing":   func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			s, err := client(t, options(hostile(t, script))).Dial(ctx, nil, []byte("will"))
			if err == nil {
				answered := make(chan error, 1)
				if s.Publish(cloud.Message{Payload: []byte("{}")}, func(err error) { answered <- err }) == nil {
					require.Error(t, <-answered, "nobody acknowledged this")
				}
				s.Close(ctx, nil)
			}
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20))
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tc := range []struct {
		change func(*mqtt.Options)
		says   string
	}{
		{func(o *mqtt.Options) { o.URL = "http://x" }, "mqtt://"},
		{func(o *mqtt.Options) { o.URL = "mqtt://" }, "host"},
		{func(o *mqtt.Options) { o.URL = "mqtt://u:" + cloudtest.Secret + "@h" }, "do not belong"},
		{func(o *mqtt.Options) { o.Project = "a/b" }, "a/b"},
		{func(o *mqtt.Options) { o.Gateway = "#" }, "without / + #"},
		{func(o *mqtt.Options) { o.ClientID = "" }, "client id"},
	} {
		o := options("mqtt://localhost")
		tc.change(&o)
		_, err := mqtt.New(o)
		require.ErrorContains(t, err, tc.says)
		require.NotContains(t, err.Error(), cloudtest.Secret)
	}
}
