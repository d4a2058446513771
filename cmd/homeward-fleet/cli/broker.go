package cli

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"homeward/agent/config"
	"homeward/cmd/homeward-fleet/fleet"
	"homeward/ota/release"
)

// Told is what a gateway says of itself: its retained status.
type Told struct {
	Gateway string `json:"gateway"`
	Online  bool   `json:"online"`
	Version string `json:"version"`
	Epoch   uint32 `json:"epoch"`
	Home    struct {
		Cloud        string `json:"cloud"`
		Organization string `json:"organization"`
		Project      string `json:"project"`
		Product      string `json:"product"`
	} `json:"home"`
	Release string `json:"release"`
	Update  struct {
		State   string `json:"state"`
		Code    string `json:"code"`
		Counter uint64 `json:"counter"`
		Attempt int    `json:"attempt"`
		Gen     uint64 `json:"gen,omitempty"`
	} `json:"update"`
	Backlog    uint64 `json:"backlog"`
	Operations uint64 `json:"operations"`
	Problems   []struct {
		Code     string `json:"code"`
		Subject  string `json:"subject,omitempty"`
		Severity string `json:"severity"`
		Text     string `json:"text"`
	} `json:"problems"`
	Moved bool      `json:"moved,omitempty"`
	Seen  time.Time `json:"seen"`  // when it arrived here: a retained one may be old
	Fresh bool      `json:"fresh"` // it arrived as it was published, not out of the broker's memory

	topic string // B of B/status
}

// Bounds of what a broker may send.
const (
	maxStatus   = 64 << 10
	maxGateways = 100_000
)

// broker is a connection that hears the gateways' statuses.
type broker struct {
	client paho.Client
	base   string // <prefix>/<organization>/
	news   chan struct{}
	lost   chan error

	mu    sync.Mutex // protects what follows
	heard map[string]Told
	last  time.Time
}

// dial connects to the broker of fleet.yaml.
func dial(ctx context.Context, f *fleet.Folder) (*broker, error) {
	m := f.Settings.MQTT
	if m == nil {
		return nil, errors.New("fleet.yaml has no mqtt: say there where the gateways publish their status")
	}
	u, err := url.Parse(m.URL)
	if err != nil {
		return nil, fmt.Errorf("mqtt: url: %w", err)
	}
	scheme, port := "tcp", "1883"
	o := paho.NewClientOptions()
	if u.Scheme == "tls" {
		scheme, port = "ssl", "8883"
		conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
		if m.CAFile != "" {
			pem, err := os.ReadFile(m.CAFile)
			if err != nil {
				return nil, fmt.Errorf("mqtt: ca_file: %w", err)
			}
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("mqtt: ca_file: %s holds no PEM certificate", m.CAFile)
			}
		}
		o.SetTLSConfig(conf)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	id := make([]byte, 6)
	_, _ = rand.Read(id) // never fails
	o.AddBroker(scheme + "://" + u.Hostname() + ":" + port)
	o.SetClientID("homeward-fleet-" + hex.EncodeToString(id))
	o.SetUsername(m.Username)
	if m.PasswordFile != "" {
		secret, err := config.ReadSecret(m.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("mqtt: password_file: %w", err)
		}
		o.SetPassword(string(secret))
	}
	b := &broker{base: m.Prefix + "/" + f.Settings.Organization + "/", news: make(chan struct{}, 1), lost: make(chan error, 1), heard: map[string]Told{}}
	o.SetAutoReconnect(false).SetConnectRetry(false).SetCleanSession(true).SetConnectTimeout(15 * time.Second).SetOrderMatters(true)
	o.SetConnectionLostHandler(func(_ paho.Client, err error) {
		select {
		case b.lost <- err:
		default:
		}
	})
	b.client = paho.NewClient(o)
	if err := wait(ctx, b.client.Connect()); err != nil {
		return nil, fmt.Errorf("broker %s: %w", u.Host, err)
	}
	project := m.Project
	if project == "" {
		project = "+"
	}
	if err := wait(ctx, b.client.Subscribe(b.base+project+"/+/status", 1, func(_ paho.Client, msg paho.Message) { b.take(msg) })); err != nil {
		b.close()
		return nil, fmt.Errorf("broker %s: subscribe: %w", u.Host, err)
	}
	return b, nil
}

func wait(ctx context.Context, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(20 * time.Second):
		return errors.New("no answer within 20 s")
	}
}

// close leaves. It waits for the last message to be taken.
func (b *broker) close() { b.client.Disconnect(250) }

func (b *broker) take(msg paho.Message) {
	levels := strings.Split(msg.Topic(), "/")
	if len(levels) != 5 || !release.IsGateway(levels[3]) || len(msg.Payload()) > maxStatus {
		return
	}
	var t Told
	gone := len(msg.Payload()) == 0
	if !gone {
		if err := json.Unmarshal(msg.Payload(), &t); err != nil {
			return // not a gateway's
		}
	}
	t.Gateway, t.Seen, t.Fresh = levels[3], now(), !msg.Retained()
	t.topic = strings.TrimSuffix(msg.Topic(), "/status")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = t.Seen
	switch {
	case gone:
		delete(b.heard, t.topic)
	case len(b.heard) < maxGateways:
		b.heard[t.topic] = t
	}
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// gateways are what all of them said last, by name. One that has moved is told by its new home.
func (b *broker) gateways() []Told {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := map[string]Told{}
	for _, t := range b.heard {
		if old, ok := at[t.Gateway]; ok && (t.Moved || !old.Moved && old.Epoch > t.Epoch) {
			continue
		}
		at[t.Gateway] = t
	}
	all := make([]Told, 0, len(at))
	for _, t := range at {
		all = append(all, t)
	}
	slices.SortFunc(all, func(x, y Told) int { return strings.Compare(x.Gateway, y.Gateway) })
	return all
}

// settle waits until the retained statuses are in: nothing new for quiet, at most for bound.
func (b *broker) settle(ctx context.Context, quiet, bound time.Duration) error {
	end := time.After(bound)
	for {
		select {
		case <-b.news:
		case <-time.After(quiet):
			return nil
		case <-end:
			return nil
		case err := <-b.lost:
			return fmt.Errorf("the broker closed the connection: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nudge tells gateways to look at the repository now. It is a hint: one that does not hear it looks by itself later.
func (b *broker) nudge(ctx context.Context, to []Told) (int, error) {
	n := 0
	for _, t := range to {
		if !t.Online || t.Moved {
			continue
		}
		if err := wait(ctx, b.client.Publish(t.topic+"/orders", 0, false, `{"look":true}`)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
