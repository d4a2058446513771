// Package mqtt speaks to a home that is a plain MQTT 3.1.1 broker; docs/mqtt.md has the topics.
//
// It promises that a publish counts as taken only when its PUBACK arrives on the
// connection that carried it, while that connection is up; that it says when the
// broker acknowledges and does not pass on ([Session.Prove]); and that nothing a broker sends
// costs more than bounded memory. It keeps no store and makes no reconnect: each Dial is a
// new client, and what is unanswered when a session ends is the caller's to send again.
package mqtt

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"homeward/agent/cloud"
)

// Options is how the broker is reached.
type Options struct {
	URL      string // mqtt://, tls://, ws:// or wss://
	ClientID string
	Username string
	Password func() (string, error) // asked at each Dial; nil: none
	CAFile   string                 // PEM; "": the system's roots
	CertFile string                 // PEM; with KeyFile: this client's certificate
	KeyFile  string
	// The first four levels of every topic.
	Prefix, Organization, Project, Gateway string

	KeepAlive time.Duration // whole seconds; 0: 30 s. A connection that died is noticed within this, PingWait and 5 s
	PingWait  time.Duration // 0: 10 s
	WriteWait time.Duration // the longest that one write may take; 0: 10 s
	Window    int           // publishes in flight; 0: 32
	Clean     bool          // leave no session behind at the broker: for a visit
	// ReadSecret reads KeyFile and checks its mode; nil: os.ReadFile.
	ReadSecret func(ref string) ([]byte, error)
	// Dial opens the connection below TLS and websockets; nil: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	Now  func() time.Time // for certificates' validity; nil: time.Now
	Log  *slog.Logger     // nil: silent
}

const (
	maxPayload  = 256 << 10        // bytes of a publish, and of one that the broker sends
	maxHint     = 128 << 10        // bytes of a hint that is kept
	openBound   = 30 * time.Second // to open a connection, if the caller's context does not end sooner
	leaveBound  = 2 * time.Second  // for the DISCONNECT to leave
	maxInternal = 4                // probes and statuses under way, besides the window
)

// Cloud makes sessions with one broker.
type Cloud struct {
	o    Options
	addr *url.URL
	base string // the topics' first four levels
}

var ports = map[string]string{"mqtt": "1883", "tls": "8883", "ws": "80", "wss": "443"}

// New checks the options. It opens nothing.
func New(o Options) (*Cloud, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, errors.New("mqtt: url is malformed: want mqtt://, tls://, ws:// or wss:// and a host") // it may hold a password
	}
	if u.User != nil {
		return nil, errors.New("mqtt: url: user and password do not belong in it: use username and password_file")
	}
	if ports[u.Scheme] == "" || u.Hostname() == "" {
		return nil, fmt.Errorf("mqtt: url %q: want mqtt://, tls://, ws:// or wss:// and a host", o.URL)
	}
	for _, level := range []string{o.Prefix, o.Organization, o.Project, o.Gateway} {
		if level == "" || strings.ContainsAny(level, "/+#\x00") {
			return nil, fmt.Errorf("mqtt: topic level %q: want a name without / + #", level)
		}
	}
	if o.ClientID == "" {
		return nil, errors.New("mqtt: client id is missing")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), ports[u.Scheme])
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 30 * time.Second
	}
	if o.KeepAlive < time.Second || o.KeepAlive > 65535*time.Second || o.KeepAlive%time.Second != 0 {
		return nil, fmt.Errorf("mqtt: keep-alive %v: want whole seconds, 1 to 65535", o.KeepAlive)
	}
	if o.PingWait == 0 {
		o.PingWait = 10 * time.Second
	}
	if o.WriteWait == 0 {
		o.WriteWait = 10 * time.Second
	}
	if o.Window == 0 {
		o.Window = 32
	}
	if o.ReadSecret == nil {
		o.ReadSecret = os.ReadFile
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Cloud{o: o, addr: u, base: strings.Join([]string{o.Prefix, o.Organization, o.Project, o.Gateway}, "/")}, nil
}

// Name is "mqtt".
func (c *Cloud) Name() string { return "mqtt" }

// Limits are this client's own: MQTT 3.1.1 has no way for a broker to say its own.
func (c *Cloud) Limits() cloud.Limits {
	return cloud.Limits{MaxBytes: maxPayload, Window: c.o.Window, Schemas: true}
}

// largest is how many bytes a packet of the broker may have: a probe of the largest payload comes back.
func (c *Cloud) largest() uint32 { return uint32(2+len(c.base)+len("/probe")+2) + maxPayload }

// secure makes the TLS configuration anew, so that renewed files are picked up.
func (c *Cloud) secure() (*tls.Config, error) {
	if c.addr.Scheme != "tls" && c.addr.Scheme != "wss" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.addr.Hostname(), Time: c.o.Now}
	if c.o.CAFile != "" {
		pem, err := os.ReadFile(c.o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", c.o.CAFile)
		}
	}
	if c.o.CertFile != "" {
		cert, err := os.ReadFile(c.o.CertFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		key, err := c.o.ReadSecret(c.o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cert_file %s and key_file: %w", c.o.CertFile, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// Session is one connection to the broker.
type Session struct {
	o      *Options
	base   string
	client paho.Client
	opened paho.Token // of the CONNECT

	queue chan outgoing
	hints chan cloud.Hint
	done  chan struct{}
	work  sync.WaitGroup

	mu      sync.Mutex
	link    *guard                   // nil until the connection is open
	opening error                    // what went wrong below MQTT, unwrapped
	err     *cloud.Error             // why done
	open    [2]int                   // publishes accepted and not answered, those in queue included: the home's own, and messages
	nonce   map[string]chan struct{} // probes not yet read back, whole
}

type outgoing struct {
	topic    string
	message  bool // counts towards the window
	retained bool
	payload  []byte
	ack      func(error)
}

// Dial connects, subscribes and says that the gateway is there.
func (c *Cloud) Dial(ctx context.Context, status, will []byte) (cloud.Session, error) {
	conf, err := c.secure()
	if err != nil {
		return nil, &cloud.Error{Class: cloud.Denied, Op: "connect", Remedy: "mend the file named, in the configuration's home:" + permit(err), Err: err}
	}
	s := &Session{
		o: &c.o, base: c.base,
		queue: make(chan outgoing, c.o.Window+maxInternal), hints: make(chan cloud.Hint, 16), done: make(chan struct{}), nonce: map[string]chan struct{}{},
	}
	po := paho.NewClientOptions().AddBroker(c.addr.String()).
		SetClientID(c.o.ClientID).SetProtocolVersion(4).SetCleanSession(c.o.Clean).
		SetAutoReconnect(false).SetConnectRetry(false).SetOrderMatters(true).
		SetKeepAlive(c.o.KeepAlive).SetPingTimeout(c.o.PingWait).SetWriteTimeout(c.o.WriteWait).SetConnectTimeout(openBound).
		SetStore(paho.NewOrderedMemoryStore()).
		SetDefaultPublishHandler(s.receive).
		SetConnectionLostHandler(func(_ paho.Client, err error) { s.fail(classify("session", s.why(err))) }).
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
			conn, err := c.open(ctx, conf)
			s.mu.Lock()
			defer s.mu.Unlock()
			if err == nil && s.err != nil { // given up meanwhile
				_ = conn.Close()
				err = s.err
			}
			if err != nil {
				s.opening = err
				return nil, err
			}
			s.link = &guard{Conn: conn, writeWait: c.o.WriteWait, topics: len(subscribed), most: c.largest()}
			return s.link, nil
		})
	if c.o.Username != "" {
		po.SetUsername(c.o.Username)
	}
	if c.o.Password != nil {
		password, err := c.o.Password()
		if err != nil {
			return nil, &cloud.Error{Class: cloud.Denied, Op: "connect", Remedy: "mend home.password_file: want the password alone in a file of the user that homeward runs as, mode 0600" + permit(err), Err: err}
		}
		po.SetPassword(password)
	}
	if will != nil {
		po.SetBinaryWill(c.base+"/status", will, 1, true)
	}
	s.client = paho.NewClient(po)
	token := s.client.Connect().(*paho.ConnectToken)
	s.opened = token
	if err := s.wait(ctx, token); err != nil {
		e := classify("connect", s.why(err))
		select {
		case <-token.Done():
			if code := token.ReturnCode(); code >= 1 && code <= 5 {
				e = refused(code)
			}
		default:
		}
		if e.Class == cloud.Unreachable && hungUp(e.Err) && !errors.Is(e.Err, errHandshake) {
			e.Remedy = fmt.Sprintf("what listens there hangs up without a word: check the port in home.url (mqtt:// is usually 1883, tls:// 8883), the broker's log, and the largest packet that it takes (Mosquitto: max_packet_size): "+
				"the greeting, with a will of %d bytes, has to fit", len(will))
		}
		s.leave(ctx, false)
		return nil, e
	}
	s.work.Go(s.write)
	err = s.subscribe(ctx, subscribed...)
	if err == nil && status != nil {
		err = s.enqueue("status", outgoing{topic: s.base + "/status", retained: true, payload: status, ack: func(error) {}})
	}
	if err != nil {
		s.leave(ctx, false)
		return nil, err
	}
	s.o.Log.Debug("connected", "broker", c.addr.Host, "client_id", c.o.ClientID, "session_present", token.SessionPresent())
	return s, nil
}

// permit says how a file that is missing or may not be read becomes one that may; "" when neither is the trouble.
func permit(err error) string {
	file, ok := errors.AsType[*fs.PathError](err)
	folder := os.Getenv("CREDENTIALS_DIRECTORY")
	switch {
	case !ok:
		return ""
	case folder != "" && strings.HasPrefix(file.Path, folder+"/"):
		return fmt.Sprintf("; the unit gives it with LoadCredential=%s:FILE", file.Path[len(folder)+1:])
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("; create it: sudo install -o homeward -m 600 SOURCE %s (/dev/stdin as SOURCE takes what is typed)", file.Path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("; sudo chown homeward %[1]s && sudo chmod 600 %[1]s, and let that user into its folder", file.Path)
	}
	return ""
}

func (c *Cloud) open(ctx context.Context, conf *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openBound)
	defer cancel()
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := c.o.Dial(ctx, network, addr)
		if err == nil {
			abortAfter(conn, c.o.KeepAlive+c.o.PingWait)
		}
		return conn, err
	}
	if c.addr.Scheme == "ws" || c.addr.Scheme == "wss" {
		return openWeb(ctx, c.addr, conf, dial)
	}
	conn, err := dial(ctx, "tcp", c.addr.Host)
	if err != nil || conf == nil {
		return conn, err
	}
	secured := tls.Client(conn, conf)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	return secured, nil
}

var errHandshake = errors.New("TLS handshake")

// refused explains a CONNACK (MQTT 3.1.1 §3.2.2.3, table 3.1).
func refused(code byte) *cloud.Error {
	e := &cloud.Error{Class: cloud.Denied, Op: "connect"}
	switch code {
	case 1:
		e.Err, e.Remedy = errors.New("the broker does not speak MQTT 3.1.1"), "use a broker or listener that takes MQTT 3.1.1"
	case 2:
		e.Err, e.Remedy = errors.New("the broker refuses the client id"), "set home.client_id to what the broker expects"
	case 3:
		e.Class, e.Err, e.Remedy = cloud.Unreachable, errors.New("the broker says it is unavailable"), "look at the broker"
	case 4:
		e.Err, e.Remedy = errors.New("bad user name or password"), "check home.username and home.password_file against the broker's"
	default:
		e.Err, e.Remedy = errors.New("not authorized"), "check home.username, home.password_file, home.client_id and the certificate against the broker's users and access rules"
	}
	return e
}

// classify finds the class and the remedy of a failure.
func classify(op string, err error) *cloud.Error {
	if known, ok := errors.AsType[*cloud.Error](err); ok {
		e := *known
		e.Op = op
		return &e
	}
	e := &cloud.Error{Class: cloud.Unreachable, Op: op, Err: err, Remedy: "check the network at the site, and that home.url names the broker's host and port"}
	var (
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		invalid x509.CertificateInvalidError
		name    x509.HostnameError
		lookup  *net.DNSError
		web     *webRefusal
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Class, e.Remedy = cloud.NotTrusted, "the broker's certificate is expired or not yet valid: look at the gateway's clock first, then at the certificate"
	case errors.As(err, &name):
		e.Class, e.Remedy = cloud.NotTrusted, "the broker's certificate is for another name: use that name in home.url"
	case errors.As(err, &verify):
		e.Class, e.Remedy = cloud.NotTrusted, "the broker's certificate is not from an authority that is trusted here: set home.ca_file to the authority's certificate"
	case errors.As(err, &record):
		e.Class, e.Remedy = cloud.NotTrusted, "the port does not speak TLS: check home.url (mqtt:// is usually 1883, tls:// 8883)"
	case isAlert(err):
		e.Class, e.Remedy = cloud.Denied, "the broker refused the TLS handshake: check home.cert_file and home.key_file, and that they are from an authority the broker trusts"
	case errors.As(err, &web) && (web.status == http.StatusUnauthorized || web.status == http.StatusForbidden):
		e.Class, e.Remedy = cloud.Denied, "the web server in front of the broker refuses the connection: check the path in home.url and the server's access rules"
	case errors.As(err, &web):
		e.Remedy = "what answers is a web server but no MQTT broker: check the path in home.url (often /mqtt)"
	case errors.As(err, &lookup):
		e.Remedy = "the host's name cannot be looked up: check home.url, and the name server at the site"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Remedy = "the host answers but nothing listens at that port: check that the broker runs, and the port in home.url"
	case errors.Is(err, errHandshake):
		e.Remedy = "the port may not speak TLS, or the network cuts it: check home.url (mqtt:// is usually 1883, tls:// 8883)"
	}
	return e
}

// hungUp says that the other side ended the connection.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// isAlert says that the other side refused in TLS.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// why prefers what the connection itself said to what the library makes of it.
func (s *Session) why(err error) error {
	s.mu.Lock()
	link, opening := s.link, s.opening
	s.mu.Unlock()
	if opening != nil {
		return opening
	}
	if link != nil {
		if cause := link.cause(); cause != nil {
			return cause
		}
	}
	if err == nil {
		err = errors.New("connection closed")
	}
	return err
}

// wait for a token, but never longer than ctx or the session.
func (s *Session) wait(ctx context.Context, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-s.done:
		return s.Err()
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// handOver runs one of the client's calls. With a stuck socket, or a connection that has just been lost, they block for up
// to WriteWait and cannot be interrupted, so once the session or ctx has ended it is left to end by itself: nil.
func (s *Session) handOver(ctx context.Context, call func() paho.Token) paho.Token {
	taken := make(chan paho.Token, 1)
	go func() { taken <- call() }()
	select {
	case t := <-taken:
		return t
	case <-s.done:
	case <-ctx.Done():
	}
	return nil
}

// subscribed is what is listened to from the start, in one packet.
var subscribed = []string{"probe", "orders", "acks"}

func (s *Session) subscribe(ctx context.Context, names ...string) error {
	filters := map[string]byte{}
	for _, name := range names {
		filters[s.base+"/"+name] = 1
	}
	token := s.handOver(ctx, func() paho.Token { return s.client.SubscribeMultiple(filters, nil) })
	if token == nil {
		return classify("subscribe", s.why(cmp.Or(ctx.Err(), s.Err())))
	}
	if err := s.wait(ctx, token); err != nil {
		return classify("subscribe", s.why(err))
	}
	for topic, code := range token.(*paho.SubscribeToken).Result() {
		if code > 2 { // 0x80 is a refusal; others do not exist (MQTT 3.1.1 §3.9.3)
			return &cloud.Error{Class: cloud.Denied, Op: "subscribe", Err: fmt.Errorf("the broker refuses the subscription to %s", topic),
				Remedy: "allow this user to read and write " + s.base + "/#"}
		}
	}
	return nil
}

// receive takes every message. It must not block: acknowledgements wait behind it.
func (s *Session) receive(_ paho.Client, m paho.Message) {
	name, ok := strings.CutPrefix(m.Topic(), s.base+"/")
	if !ok {
		return
	}
	kind, _, _ := strings.Cut(name, "/")
	switch kind {
	case "probe", "schema":
		s.mu.Lock()
		defer s.mu.Unlock()
		if key := name + " " + string(m.Payload()); s.nonce[key] != nil {
			close(s.nonce[key])
			delete(s.nonce, key)
		}
	case "orders", "acks":
		if len(m.Payload()) > maxHint {
			s.o.Log.Debug("hint too long, dropped", "topic", name, "bytes", len(m.Payload()))
			return
		}
		h := cloud.Hint{Topic: name, Payload: append([]byte(nil), m.Payload()...)}
		for {
			select {
			case s.hints <- h:
				return
			default:
			}
			select { // the oldest gives way
			case <-s.hints:
			default:
			}
		}
	}
}

func (s *Session) openLocked(out outgoing) (open *int, limit int) {
	if out.message {
		return &s.open[1], s.o.Window
	}
	return &s.open[0], maxInternal
}

// enqueue hands out to the writer, unless as many as there may be are under way.
func (s *Session) enqueue(op string, out outgoing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.endedLocked(op, "not sent")
	}
	open, limit := s.openLocked(out)
	if *open >= limit {
		return &cloud.Error{Class: cloud.Slow, Op: op, Err: fmt.Errorf("%d publishes are unanswered, the most at a time", *open), Remedy: "wait for acknowledgements"}
	}
	*open++
	s.queue <- out // has room for all
	return nil
}

// answer tells a publish's outcome, once.
func (s *Session) answer(out outgoing, err error) {
	s.mu.Lock()
	open, _ := s.openLocked(out)
	*open--
	s.mu.Unlock()
	out.ack(err)
}

// endedLocked is the error of what the session's end left open.
func (s *Session) endedLocked(op, what string) error {
	return &cloud.Error{Class: cloud.Unreachable, Op: op, Remedy: s.err.Remedy, Err: fmt.Errorf("%s, the session has ended: %w", what, s.err.Err)}
}

func (s *Session) ended(op, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endedLocked(op, what)
}

// Publish sends m with QoS 1 to readings or alarms. It never waits; what is beyond the window is refused as
// [cloud.Slow], what the session's end leaves unanswered gets an error of class [cloud.Unreachable]. The
// session must not be closed from within ack.
func (s *Session) Publish(m cloud.Message, ack func(error)) error {
	topic := s.base + "/readings"
	if m.Kind == cloud.Alarm {
		topic = s.base + "/alarms"
	}
	if len(m.Payload) > maxPayload {
		return &cloud.Error{Class: cloud.TooLarge, Op: "publish", Err: fmt.Errorf("payload of %d bytes: want at most %d", len(m.Payload), maxPayload), Remedy: "lower publish.max_bytes"}
	}
	return s.enqueue("publish", outgoing{topic: topic, message: true, payload: m.Payload, ack: ack})
}

// Status replaces the retained status and waits until the broker has it.
func (s *Session) Status(ctx context.Context, status []byte) error {
	answer := make(chan error, 1)
	if err := s.enqueue("status", outgoing{topic: s.base + "/status", retained: true, payload: status, ack: func(err error) { answer <- err }}); err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return classify("status", fmt.Errorf("no answer: %w", ctx.Err()))
	}
}

// write hands publishes to the client one after another: with a stuck socket that blocks, and must
// not block the caller.
func (s *Session) write() {
	for {
		select {
		case <-s.done:
			for len(s.queue) > 0 { // nothing is added any more
				s.answer(<-s.queue, s.ended("publish", "not sent"))
			}
			return
		case out := <-s.queue:
			token := s.handOver(context.Background(), func() paho.Token { return s.client.Publish(out.topic, 1, out.retained, out.payload) })
			if token == nil {
				s.answer(out, s.ended("publish", "unanswered"))
				continue
			}
			s.work.Go(func() { // as many as the window, ending with the session
				select {
				case <-token.Done():
					if err := token.Error(); err != nil {
						// Whether it arrived is unknown, and will never be known on this connection.
						s.fail(classify("session", s.why(err)))
						s.answer(out, s.ended("publish", "unanswered"))
						return
					}
					s.answer(out, nil)
				case <-s.done:
					s.answer(out, s.ended("publish", "unanswered"))
				}
			})
		}
	}
}

// Prove publishes a nonce and waits until it is read back; then the same with one of size bytes (at most what may be published),
// since brokers acknowledge what is too large for them and drop it. The first tells a size that is refused from a topic that is.
func (s *Session) Prove(ctx context.Context, size int) error {
	nonce := rand.Text()
	topic := s.base + "/probe"
	if err := s.readBack(ctx, "probe", false, nonce, "what is published to "+topic,
		"look at the broker: it takes connections and does not acknowledge",
		"allow this user to read and write "+s.base+"/# in the broker's access rules"); err != nil {
		return err
	}
	short := len(nonce)
	if size = min(size, maxPayload); size <= short {
		return nil
	}
	full := rand.Text()
	full += strings.Repeat(".", size-len(full))
	what := fmt.Sprintf("a message of %d bytes to %s", size, topic)
	remedy := fmt.Sprintf("raise the broker's limit (Mosquitto: message_size_limit to %d or more, max_packet_size to %d), or lower publish.max_bytes; a payload that was tried before keeps its size", size, size+1024)
	err := s.readBack(ctx, "probe", false, full, what, remedy, remedy)
	e, ok := errors.AsType[*cloud.Error](err)
	if !ok || e.Class == cloud.Slow || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	e.Bytes, e.Remedy = size, remedy
	if e.Class == cloud.Unproven {
		e.Err = fmt.Errorf("%w; one of %d bytes comes back", e.Err, short)
	} else {
		e.Err = fmt.Errorf("the connection ended at %s; one of %d bytes came back: %w", what, short, e.Err)
	}
	return e
}

// Schema publishes a schema, retained, and waits until it is read back.
func (s *Session) Schema(ctx context.Context, id uint32, text []byte) error {
	name := fmt.Sprintf("schema/%d", id)
	topic := s.base + "/" + name
	if err := s.subscribe(ctx, name); err != nil {
		return err
	}
	return s.readBack(ctx, name, true, string(text), fmt.Sprintf("the schema (%d bytes, retained) published to %s", len(text), topic),
		"look at the broker: it takes connections and does not acknowledge",
		"allow this user to read and write "+s.base+"/#, with retained messages, and messages of so many bytes; or use publish.format: rows")
}

// readBack publishes text and waits until it is read back. An error names it as what, with the remedy for what is not
// acknowledged, or does not come back.
func (s *Session) readBack(ctx context.Context, name string, retained bool, text, what, unanswered, dropped string) error {
	seen := make(chan struct{})
	key := name + " " + text
	s.mu.Lock()
	s.nonce[key] = seen
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.nonce, key)
	}()
	acked := make(chan error, 1)
	if err := s.enqueue("prove", outgoing{topic: s.base + "/" + name, retained: retained, payload: []byte(text), ack: func(err error) { acked <- err }}); err != nil {
		return err
	}
	e := &cloud.Error{Class: cloud.Unproven, Op: "prove", Err: errors.New(what + " is not acknowledged"), Remedy: unanswered}
	for {
		select {
		case <-seen:
			return nil
		case err := <-acked:
			if err != nil {
				return classify("prove", err)
			}
			acked = nil
			e.Err, e.Remedy = errors.New(what+" is acknowledged and does not come back"), dropped
		case <-s.done: // acknowledged, and then the connection ended
			return classify("prove", s.ended("prove", "not read back"))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) { // says nothing about the home
				return classify("prove", ctx.Err())
			}
			return e
		}
	}
}

// Hints are orders' nudges and receivers' acknowledgements.
func (s *Session) Hints() <-chan cloud.Hint { return s.hints }

// Done is closed when the connection is lost or the session closed.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is why, an *[cloud.Error]; nil before.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return nil
	}
	return s.err
}

// fail ends the session; the first reason stays. It says whether this was the first.
func (s *Session) fail(err *cloud.Error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.err = err
	close(s.done)
	return true
}

// Close says farewell with status, if there is one and the connection is up, disconnects, and waits for all that
// worked for the session. A broker that does not answer is left when ctx ends. Once closed, it does nothing.
func (s *Session) Close(ctx context.Context, status []byte) {
	if status != nil {
		_ = s.Status(ctx, status) // the will says as much if this does not arrive
	}
	s.leave(ctx, true)
}

// leave ends the session and everything that works for it. In good order the broker is sent a DISCONNECT,
// without which it would publish the will.
func (s *Session) leave(ctx context.Context, orderly bool) {
	up := s.fail(&cloud.Error{Class: cloud.Unreachable, Op: "session", Err: errors.New("closed")})
	s.mu.Lock()
	link := s.link
	s.mu.Unlock()
	if link != nil && !(up && orderly) {
		_ = link.Close()
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		<-s.opened.Done() // told to disconnect while it connects, the client would wait for nothing
		// It returns as soon as it is done; the bound is for a socket that is stuck until it is closed below.
		s.client.Disconnect(uint((2 * leaveBound).Milliseconds()))
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	case <-time.After(leaveBound):
	}
	if link != nil {
		_ = link.Close()
	}
	<-gone
	s.work.Wait()
}
