package mqtt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	broker "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"homeward/agent/cloud"
	"homeward/agent/cloud/cloudtest"
	"homeward/agent/cloud/mqtt"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		// What was being handed over when its connection broke ends by itself, within WriteWait.
		err := goleak.Find()
		for end := time.Now().Add(5 * options("").WriteWait); err != nil && time.Now().Before(end); {
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
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
		token := c.Subscribe("homeward/acme/cold/gw/#", 1, func(_ paho.Client, m paho.Message) { w.take(m.Topic(), m.Payload()) })
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

func (w *watcher) take(topic string, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch topic[strings.LastIndexByte(topic, '/')+1:] {
	case "status":
		w.status = bytes.Clone(payload)
	case "readings", "alarms":
		w.payloads = append(w.payloads, bytes.Clone(payload))
	}
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
			New:  func() cloud.Cloud { return as("gw", cloudtest.Secret) },
			Deny: func() cloud.Cloud { return as("gw", cloudtest.Secret+"x") },
			Drop: func() cloud.Cloud { return as("mute", cloudtest.Secret) },
			DropLarge: func() cloud.Cloud {
				narrow := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{Extra: fmt.Sprintf("message_size_limit %d\n", cloudtest.Small)})
				return client(t, options(narrow.URL))
			},
			CutLarge: func() cloud.Cloud {
				narrow := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{Extra: fmt.Sprintf("max_packet_size %d\n", cloudtest.Small+100)})
				return client(t, options(narrow.URL))
			},
			Received: w.received, Status: w.state, Freeze: m.Freeze, Thaw: m.Thaw, Kill: m.Stop, Revive: m.Start,
			NoticeWithin: 10 * time.Second,
		}
	})
}

// inProcess is the embedded broker with the rules of TestConformanceMosquitto.
type inProcess struct {
	broker.HookBase
	*broker.Server
	addr, web string // host:port of the listeners
	watcher
}

func (b *inProcess) ID() string { return "rules" }

func (b *inProcess) Provides(hook byte) bool {
	return hook == broker.OnConnectAuthenticate || hook == broker.OnACLCheck || hook == broker.OnPublish
}

func (b *inProcess) OnConnectAuthenticate(_ *broker.Client, pk packets.Packet) bool {
	return string(pk.Connect.Password) == cloudtest.Secret || len(pk.Connect.Username) == 0
}

func (b *inProcess) OnACLCheck(*broker.Client, string, bool) bool { return true }

func (b *inProcess) OnPublish(c *broker.Client, pk packets.Packet) (packets.Packet, error) {
	large := len(pk.Payload) > cloudtest.Small
	switch user := string(c.Properties.Username); {
	case user == "mute", user == "narrow" && large:
		return pk, packets.CodeSuccessIgnore // acknowledged and thrown away
	case user == "cut" && large:
		c.Stop(packets.ErrPacketTooLarge)
		return pk, packets.ErrPacketTooLarge
	}
	return pk, nil
}

func startInProcess(t *testing.T, secure *tls.Config) *inProcess {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &inProcess{addr: l.Addr().String(), web: free.Addr().String()}
	require.NoError(t, free.Close())
	b.Server = broker.New(&broker.Options{Logger: slog.New(slog.DiscardHandler), InlineClient: true})
	require.NoError(t, b.AddHook(b, nil))
	require.NoError(t, b.AddListener(listeners.NewNet("tcp", l)))
	require.NoError(t, b.AddListener(listeners.NewWebsocket(listeners.Config{ID: "web", Address: b.web, TLSConfig: secure})))
	require.NoError(t, b.Subscribe("homeward/acme/cold/gw/#", 1, func(_ *broker.Client, _ packets.Subscription, pk packets.Packet) {
		b.take(pk.TopicName, pk.Payload)
	}))
	require.NoError(t, b.Serve())
	t.Cleanup(func() { _ = b.Close() })
	require.Eventually(t, func() bool { // it listens a little later
		c, err := net.Dial("tcp", b.web)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, time.Millisecond)
	return b
}

// TestConformanceInProcess needs nothing installed: the embedded broker behind a line that goes silent and is cut.
func TestConformanceInProcess(t *testing.T) {
	var logged syncBuffer
	cloudtest.Run(t, func(t *testing.T) cloudtest.Home {
		b := startInProcess(t, nil)
		p := cloudtest.StartProxy(t, b.addr)
		as := func(user, password string) cloud.Cloud {
			o := options(fmt.Sprintf("mqtt://127.0.0.1:%d", p.Port))
			o.KeepAlive = 2 * time.Second // this broker waits one and a half, in whole seconds: with 1 s it would end the session before the first ping
			o.Username, o.Password = user, func() (string, error) { return password, nil }
			o.Log = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			return client(t, o)
		}
		return cloudtest.Home{
			New:       func() cloud.Cloud { return as("gw", cloudtest.Secret) },
			Deny:      func() cloud.Cloud { return as("gw", cloudtest.Secret+"x") },
			Drop:      func() cloud.Cloud { return as("mute", cloudtest.Secret) },
			DropLarge: func() cloud.Cloud { return as("narrow", cloudtest.Secret) },
			CutLarge:  func() cloud.Cloud { return as("cut", cloudtest.Secret) },
			Received:  b.received, Status: b.state, Freeze: p.Freeze, Thaw: p.Thaw, Kill: p.Kill, Revive: p.Revive,
			NoticeWithin: 10 * time.Second,
		}
	})
	require.Contains(t, logged.String(), "connected")
	require.NotContains(t, logged.String(), cloudtest.Secret)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestHintsAreBounded: hints come from anyone who may publish there; a flood costs bounded memory and does not block the session.
func TestHintsAreBounded(t *testing.T) {
	b := startInProcess(t, nil)
	s, err := client(t, options("mqtt://"+b.addr)).Dial(t.Context(), nil, nil)
	require.NoError(t, err)
	defer s.Close(t.Context(), nil)
	require.NoError(t, b.Publish("homeward/acme/cold/gw/orders", []byte("look"), false, 1))
	require.Equal(t, cloud.Hint{Topic: "orders", Payload: []byte("look")}, <-s.Hints())
	for i := range 200 {
		require.NoError(t, b.Publish("homeward/acme/cold/gw/acks", fmt.Append(nil, i), false, 1))
	}
	require.NoError(t, b.Publish("homeward/acme/cold/gw/acks", make([]byte, 200<<10), false, 1))
	require.NoError(t, b.Publish("homeward/acme/cold/gw/elsewhere", []byte("not subscribed"), false, 1))
	require.NoError(t, s.Prove(t.Context(), 1024))
	require.LessOrEqual(t, len(s.Hints()), 16)
	last := ""
	for len(s.Hints()) > 0 {
		last = string((<-s.Hints()).Payload)
	}
	require.Equal(t, "199", last, "the newest are kept, and nothing that is too long")
}

// TestQueuedOrders: the broker keeps orders for a gateway that is away, and hands them over when it is back.
func TestQueuedOrders(t *testing.T) {
	if testing.Short() {
		t.Skip("short: needs a real broker")
	}
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	c := client(t, options(m.URL))
	s, err := c.Dial(t.Context(), nil, nil)
	require.NoError(t, err)
	s.Close(t.Context(), nil)
	fleet := paho.NewClient(paho.NewClientOptions().AddBroker(strings.Replace(m.URL, "mqtt", "tcp", 1)).SetClientID("fleet"))
	require.True(t, fleet.Connect().WaitTimeout(10*time.Second))
	require.True(t, fleet.Publish("homeward/acme/cold/gw/orders", 1, false, "while away").WaitTimeout(10*time.Second))
	fleet.Disconnect(1000)
	s, err = c.Dial(t.Context(), nil, nil)
	require.NoError(t, err)
	defer s.Close(t.Context(), nil)
	select {
	case h := <-s.Hints():
		require.Equal(t, "while away", string(h.Payload))
	case <-time.After(10 * time.Second):
		t.Fatal("lost")
	}
}

// TestClean: a visit leaves no session at the broker, which would queue messages for nobody; otherwise it is kept.
func TestClean(t *testing.T) {
	b := startInProcess(t, nil)
	for _, clean := range []bool{false, true} {
		o := options("mqtt://" + b.addr)
		o.Clean = clean
		s, err := client(t, o).Dial(t.Context(), nil, nil)
		require.NoError(t, err)
		require.NoError(t, s.Prove(t.Context(), 1024))
		s.Close(t.Context(), nil)
		require.Eventually(t, func() bool {
			c, known := b.Clients.Get(o.ClientID)
			return known != clean && (!known || c.Closed())
		}, 5*time.Second, 5*time.Millisecond, "clean %v", clean)
	}
}

func TestPasswordIsReadAtEachDial(t *testing.T) {
	b := startInProcess(t, nil)
	o := options("mqtt://" + b.addr)
	password, trouble := "outdated", error(nil)
	o.Username, o.Password = "gw", func() (string, error) { return password, trouble }
	c := client(t, o)
	_, err := c.Dial(t.Context(), nil, nil)
	require.Equal(t, cloud.Denied, cloud.ClassOf(err))
	password = cloudtest.Secret
	s, err := c.Dial(t.Context(), nil, nil)
	require.NoError(t, err)
	s.Close(t.Context(), nil)
	for cause, says := range map[error]string{
		os.ErrPermission:           "sudo chown homeward /etc/homeward/password && sudo chmod 600 /etc/homeward/password",
		os.ErrNotExist:             "sudo install -o homeward -m 600 SOURCE /etc/homeward/password",
		errors.New("no such disk"): "the password alone in a file of the user that homeward runs as, mode 0600",
	} {
		trouble = fmt.Errorf("config: secret: %w", &os.PathError{Op: "stat", Path: "/etc/homeward/password", Err: cause})
		_, err = c.Dial(t.Context(), nil, nil)
		require.ErrorIs(t, err, cause)
		require.Equal(t, cloud.Denied, cloud.ClassOf(err))
		var e *cloud.Error
		require.ErrorAs(t, err, &e)
		require.Contains(t, e.Remedy, "mend home.password_file: ")
		require.Contains(t, e.Remedy, says)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/homeward.service")
	trouble = &os.PathError{Op: "stat", Path: "/run/credentials/homeward.service/mqtt", Err: os.ErrNotExist}
	_, err = c.Dial(t.Context(), nil, nil)
	var e *cloud.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Remedy, "LoadCredential=mqtt:FILE")
}

func TestWebsocket(t *testing.T) {
	ca := cloudtest.NewAuthority(t)
	cert, key := ca.Issue(t, "localhost", false)
	pair, err := tls.LoadX509KeyPair(cert, key)
	require.NoError(t, err)
	works := func(t *testing.T, b *inProcess, url string) {
		dialled := false
		o := options(url)
		o.CAFile = ca.CAFile
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled = true
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		s, err := client(t, o).Dial(t.Context(), []byte("here"), []byte("gone"))
		require.NoError(t, err)
		require.True(t, dialled)
		require.NoError(t, s.Prove(t.Context(), 1024))
		acked := make(chan error, 1)
		big := bytes.Repeat([]byte("x"), 100_000)
		require.NoError(t, s.Publish(cloud.Message{Payload: big}, func(err error) { acked <- err }))
		require.NoError(t, <-acked)
		require.Eventually(t, func() bool { return len(b.received()) == 1 }, 10*time.Second, 5*time.Millisecond)
		require.True(t, bytes.Equal(big, b.received()[0]))
		s.Close(t.Context(), []byte("farewell"))
		require.Eventually(t, func() bool { return string(b.state()) == "farewell" }, 10*time.Second, 5*time.Millisecond)
	}
	t.Run("ws", func(t *testing.T) {
		b := startInProcess(t, nil)
		works(t, b, "ws://"+b.web+"/mqtt")
	})
	t.Run("ws without a path", func(t *testing.T) {
		b := startInProcess(t, nil)
		works(t, b, "ws://"+b.web)
	})
	t.Run("wss", func(t *testing.T) {
		b := startInProcess(t, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
		_, port, err := net.SplitHostPort(b.web)
		require.NoError(t, err)
		works(t, b, "wss://localhost:"+port)
		o := options("wss://localhost:" + port)
		o.CAFile = cloudtest.NewAuthority(t).CAFile
		_, err = client(t, o).Dial(t.Context(), nil, nil)
		require.Equal(t, cloud.NotTrusted, cloud.ClassOf(err), "%v", err)
	})
	for status, class := range map[int]cloud.Class{http.StatusForbidden: cloud.Denied, http.StatusUnauthorized: cloud.Denied, http.StatusNotFound: cloud.Unreachable, http.StatusOK: cloud.Unreachable} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
			defer server.Close()
			_, err := client(t, options(strings.Replace(server.URL, "http", "ws", 1))).Dial(t.Context(), nil, nil)
			require.Equal(t, class, cloud.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, fmt.Sprint(status))
			var e *cloud.Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, e.Remedy, "path in home.url")
		})
	}
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
		{"our clock is behind", func(o *mqtt.Options) { o.Now = func() time.Time { return time.Unix(0, 0) } }, cloud.NotTrusted, "clock"},
		{"broker's certificate has expired", func(o *mqtt.Options) {
			o.Now = func() time.Time { return time.Now().Add(1000 * time.Hour) }
		}, cloud.NotTrusted, "clock"},
		{"key missing", func(o *mqtt.Options) { o.KeyFile += "x" }, cloud.Denied, "sudo install -o homeward -m 600"},
		{"key of another certificate", func(o *mqtt.Options) { o.KeyFile = oldKey }, cloud.Denied, "mend the file"},
		{"authority missing", func(o *mqtt.Options) { o.CAFile += "x" }, cloud.Denied, "mend the file"},
		{"authority is no certificate", func(o *mqtt.Options) { o.CAFile = key }, cloud.Denied, "mend the file"},
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
				require.NoError(t, s.Prove(ctx, 1024))
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
		"second connack": func(c net.Conn) { _, _ = c.Write(append(connack, connack...)) },
		"publish with QoS 2": func(c net.Conn) {
			_, _ = c.Write(append(append([]byte{}, connack...), 0x34, 7, 0, 3, 'a', '/', 'b', 0, 9))
		},
		"publish with QoS 3":       func(c net.Conn) { _, _ = c.Write(append(append([]byte{}, connack...), 0x36, 5, 0, 1, 'a', 0, 9)) },
		"empty publish":            func(c net.Conn) { _, _ = c.Write(append(append([]byte{}, connack...), 0x30, 0)) },
		"pubrel":                   func(c net.Conn) { _, _ = c.Write(append(append([]byte{}, connack...), 0x62, 2, 0, 2)) },
		"unsuback":                 func(c net.Conn) { _, _ = c.Write(append(append([]byte{}, connack...), 0xb0, 2, 0, 1)) },
		"connect":                  func(c net.Conn) { _, _ = c.Write(append(append([]byte{}, connack...), 0x10, 2, 0, 1)) },
		"return code nobody knows": func(c net.Conn) { _, _ = c.Write([]byte{0x20, 2, 0, 77}) },
		"suback with QoS 9": func(c net.Conn) {
			_, _ = c.Write(connack)
			_, _ = c.Write(append(append([]byte{0x90, 5}, id(c)...), 1, 9, 1))
		},
		"flood of publishes": func(c net.Conn) {
			_, _ = c.Write(connack)
			_, _ = c.Write(append(append([]byte{0x90, 5}, id(c)...), 1, 1, 1))
			for range 3000 {
				if _, err := c.Write([]byte{0x32, 6, 0, 1, 'x', 0, 7, '!'}); err != nil {
					return
				}
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

// TestRefusals: each return code has its class and a remedy (MQTT 3.1.1 §3.2.2.3).
func TestRefusals(t *testing.T) {
	for code, class := range map[byte]cloud.Class{1: cloud.Denied, 2: cloud.Denied, 3: cloud.Unreachable, 4: cloud.Denied, 5: cloud.Denied} {
		_, err := client(t, options(hostile(t, func(c net.Conn) { _, _ = c.Write([]byte{0x20, 2, 0, code}) }))).Dial(t.Context(), nil, nil)
		require.Equal(t, class, cloud.ClassOf(err), "%d: %v", code, err)
		var e *cloud.Error
		require.ErrorAs(t, err, &e)
		require.NotEmpty(t, e.Remedy)
	}
	_, err := client(t, options("mqtt://no-such-host.invalid")).Dial(t.Context(), nil, nil)
	var e *cloud.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, cloud.Unreachable, e.Class)
	require.Contains(t, e.Remedy, "name")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, err = client(t, options("mqtt://"+l.Addr().String())).Dial(t.Context(), nil, nil)
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Remedy, "nothing listens")
	if testing.Short() {
		return
	}
	m := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{Extra: "max_packet_size 400\n"})
	_, err = client(t, options(m.URL)).Dial(t.Context(), nil, make([]byte, 500))
	require.ErrorAs(t, err, &e)
	require.Equal(t, cloud.Unreachable, e.Class, "%v", err)
	require.Contains(t, e.Remedy, "max_packet_size")
	require.Contains(t, e.Remedy, "500 bytes")
}

// TestStuckSocket: a broker that stops reading holds nobody up, and ends the session.
func TestStuckSocket(t *testing.T) {
	url := hostile(t, func(c net.Conn) {
		_, _ = c.Write(connack)
		buf := make([]byte, 4096)
		if n, err := c.Read(buf); err == nil && n > 4 {
			_, _ = c.Write(append(append([]byte{0x90, 5}, buf[2:4]...), 1, 1, 1))
		}
		<-t.Context().Done()
	})
	o := options(url)
	o.KeepAlive, o.WriteWait = time.Minute, time.Second // it is the write that notices
	c := client(t, o)
	s, err := c.Dial(t.Context(), nil, nil)
	require.NoError(t, err)
	answers := make(chan error, c.Limits().Window)
	for range c.Limits().Window {
		require.NoError(t, s.Publish(cloud.Message{Payload: make([]byte, c.Limits().MaxBytes)}, func(err error) { answers <- err }))
	}
	select {
	case <-s.Done():
		require.Equal(t, cloud.Unreachable, cloud.ClassOf(s.Err()))
	case <-time.After(30 * time.Second):
		t.Fatal("not noticed")
	}
	s.Close(t.Context(), []byte("farewell"))
	require.Len(t, answers, c.Limits().Window)
	for range c.Limits().Window {
		err := <-answers
		require.Error(t, err)
		require.Equal(t, cloud.Unreachable, cloud.ClassOf(err))
	}
}

// TestLateAcknowledgement: an answer that comes on the next connection is nobody's, even with the right packet id.
func TestLateAcknowledgement(t *testing.T) {
	var mu sync.Mutex
	var unanswered [][]byte // packet ids
	packet := func(c net.Conn) (kind byte, body []byte) {
		var head [2]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return 0, nil
		}
		body = make([]byte, head[1])
		_, err := io.ReadFull(c, body)
		if err != nil {
			return 0, nil
		}
		return head[0] >> 4, body
	}
	url := hostile(t, func(c net.Conn) {
		_, _ = c.Write(connack)
		_, body := packet(c)
		if len(body) < 2 {
			return
		}
		_, _ = c.Write(append(append([]byte{0x90, 5}, body[:2]...), 1, 1, 1))
		mu.Lock()
		late := unanswered
		mu.Unlock()
		for _, id := range late {
			_, _ = c.Write(append([]byte{0x40, 2}, id...))
		}
		kind, body := packet(c)
		if kind != 3 {
			return
		}
		topic := int(binary.BigEndian.Uint16(body))
		mu.Lock()
		unanswered = append(unanswered, body[2+topic:][:2])
		mu.Unlock()
		_ = c.Close()
	})
	// The topics and payloads are short enough for one byte of length.
	c := client(t, options(url))
	var a [2]chan error
	for i := range a {
		a[i] = make(chan error, 10)
		s, err := c.Dial(t.Context(), nil, nil)
		require.NoError(t, err)
		require.NoError(t, s.Publish(cloud.Message{Payload: []byte("{}")}, func(err error) { a[i] <- err }))
		<-s.Done()
		s.Close(t.Context(), nil)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, unanswered, 2)
	require.Equal(t, unanswered[0], unanswered[1], "a new client counts its packets anew")
	for i := range a {
		require.Len(t, a[i], 1)
		require.Equal(t, cloud.Unreachable, cloud.ClassOf(<-a[i]))
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
		{func(o *mqtt.Options) { o.URL = "http://u:" + cloudtest.Secret + "@h" }, "do not belong"},
		{func(o *mqtt.Options) { o.URL = "mqtt://u:" + cloudtest.Secret + "@h:port" }, "malformed"},
		{func(o *mqtt.Options) { o.KeepAlive = time.Millisecond }, "whole seconds"},
		{func(o *mqtt.Options) { o.KeepAlive = 1500 * time.Millisecond }, "whole seconds"},
		{func(o *mqtt.Options) { o.KeepAlive = 24 * time.Hour }, "whole seconds"},
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
