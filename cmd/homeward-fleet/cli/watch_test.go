package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"homeward/agent/cloud/cloudtest"
	"homeward/ota/release"
)

// site are gateways that only say how they are.
type site struct {
	t      *testing.T
	client paho.Client
	mu     sync.Mutex
	nudged map[string]int
}

func newSite(t *testing.T, options *paho.ClientOptions) *site {
	s := &site{t: t, nudged: map[string]int{}, client: paho.NewClient(options)}
	require.True(t, s.client.Connect().WaitTimeout(10*time.Second))
	t.Cleanup(func() { s.client.Disconnect(100) })
	token := s.client.Subscribe("homeward/acme/+/+/orders", 1, func(_ paho.Client, m paho.Message) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.nudged[strings.Split(m.Topic(), "/")[3]]++
	})
	require.True(t, token.WaitTimeout(10*time.Second))
	require.NoError(t, token.Error())
	return s
}

// say publishes a gateway's retained status.
func (s *site) say(gateway, release, state, code string, counter uint64) {
	v := map[string]any{
		"online": true, "version": release, "epoch": 1, "release": release, "backlog": 12, "operations": 34,
		"home":     map[string]any{"cloud": "mqtt", "organization": "acme", "project": "cold", "product": "gateway-v2"},
		"update":   map[string]any{"state": state, "code": code, "counter": counter, "attempt": 1},
		"problems": []map[string]any{{"code": "clock.untrusted", "severity": "warn", "text": "the clock"}},
	}
	raw, err := json.Marshal(v)
	require.NoError(s.t, err)
	token := s.client.Publish("homeward/acme/cold/"+gateway+"/status", 1, true, raw)
	require.True(s.t, token.WaitTimeout(10*time.Second))
	require.NoError(s.t, token.Error())
}

func (s *site) nudges(gateway string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nudged[gateway]
}

// TestWatch: a manager who watches leads a rollout on, publishes each step and tells the gateways, over TLS with a password; a bad first
// gateway halts it; and status says all of that.
func TestWatch(t *testing.T) {
	t.Parallel()
	authority := cloudtest.NewAuthority(t)
	doc, err := os.ReadFile("../../../docs/mqtt.md")
	require.NoError(t, err)
	_, rules, ok := strings.Cut(string(doc), "```\npattern readwrite") // a fleet manager may do no more than docs/mqtt.md says
	require.True(t, ok)
	rules, _, _ = strings.Cut(rules, "```")
	broker := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{TLS: authority, Users: map[string]string{"fleet": "hush-hush", "site": "hush-hush"},
		ACL: "pattern readwrite" + rules + "\nuser site\ntopic readwrite homeward/#\n"})
	m := newManager(t)
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("hush-hush\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "fleet.yaml"), fmt.Appendf(nil, "organization: acme\nmqtt:\n  url: %s\n  username: fleet\n  password_file: %s\n  ca_file: %s\n",
		broker.URL, password, authority.CAFile), 0o600))
	m.run("product", "add", "gateway-v2")
	m.run("publish")
	for i := range 6 {
		m.enroll(fmt.Sprintf("gw-%d", i), "gateway-v2")
	}
	dir := t.TempDir()
	for _, version := range []string{"1.0.0", "1.1.0"} {
		build(t, filepath.Join(dir, version), version, "-s", "-w")
		m.run("release", "add", "gateway-v2", filepath.Join(dir, version), "--version", version)
	}
	m.run("release", "roll", "gateway-v2", "1.0.0", "--all")
	m.run("publish")
	options := paho.NewClientOptions().AddBroker(strings.Replace(broker.URL, "tls://", "ssl://", 1)).SetUsername("site").SetPassword("hush-hush").SetClientID("site")
	pem, err := os.ReadFile(authority.CAFile)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(pem))
	options.SetTLSConfig(&tls.Config{RootCAs: pool})
	s := newSite(t, options)
	for i := range 6 {
		s.say(fmt.Sprintf("gw-%d", i), "1.0.0", "idle", "", 1)
	}
	m.run("release", "roll", "gateway-v2", "1.1.0", "--group", "lab=gw-0", "--groups", "100", "--soak", "0s")
	m.run("publish")

	require.Zero(t, s.nudges("gw-5"))
	m.run("publish", "--nudge")
	require.Eventually(t, func() bool { return s.nudges("gw-5") == 1 }, time.Minute, 20*time.Millisecond)

	code, out, _ := m.try("status", "--wait", "300ms")
	require.Zero(t, code)
	require.Regexp(t, `(?m)^gw-3 +cold +gateway-v2 +1\.0\.0 +idle 1 +12 +34 +clock\.untrusted$`, out)
	require.Contains(t, out, "rollout r2-1 of gateway-v2 1.1.0 (2): running, group lab (first: gw-0)")

	ctx, stop := context.WithCancel(t.Context())
	var said, errs safe
	ended := make(chan error, 1)
	go func() {
		cmd := Command()
		cmd.SetArgs([]string{"--fleet", m.dir, "watch", "--every", "100ms"})
		cmd.SetOut(&said)
		cmd.SetErr(&errs)
		ended <- cmd.ExecuteContext(ctx)
	}()
	wait := func(what string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(said.String(), what) }, time.Minute, 50*time.Millisecond, "%s: %s%s", what, &said, &errs)
	}
	s.say("gw-0", "1.1.0", "trial", "", 2)
	s.say("gw-0", "1.1.0", "idle", "ok", 2)
	wait("group 100 percent: first: gateway gw-")
	require.Eventually(t, func() bool { return s.nudges("gw-5") > 1 }, time.Minute, 50*time.Millisecond)
	r := m.published("gateway-v2")
	first := r.Rollouts[0].Groups[1].First
	require.NotEmpty(t, first)
	require.NotEqual(t, "gw-0", first)
	s.say(first, "1.0.0", "idle", "trial.crash", 2)
	wait("rollout r2-1: halt: ")
	require.Eventually(t, func() bool { return m.published("gateway-v2").Rollouts[0].State == release.HaltedRoll }, time.Minute, 50*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	require.NotContains(t, said.String()+errs.String(), "hush-hush")

	code, out, _ = m.try("status", "--wait", "300ms")
	require.Equal(t, 1, code, "a halted rollout is a failure")
	require.Contains(t, out, "rollout r2-1 of gateway-v2 1.1.0 (2): halted; 1 have kept it, 0 are at it, 1 failed\n    "+first+": trial.crash\n")
}

// watch runs a watch until it has said something and the table after it.
func (m *manager) watch(what string) string {
	m.t.Helper()
	ctx, stop := context.WithTimeout(m.t.Context(), time.Minute)
	defer stop()
	var said, errs safe
	ended := make(chan error, 1)
	go func() {
		cmd := Command()
		cmd.SetArgs([]string{"--fleet", m.dir, "watch", "--every", "100ms"})
		cmd.SetOut(&said)
		cmd.SetErr(&errs)
		ended <- cmd.ExecuteContext(ctx)
	}()
	require.Eventually(m.t, func() bool { return strings.Contains(said.String(), what) }, time.Minute, 20*time.Millisecond, "%s: %s%s", what, &said, &errs)
	stop()
	require.NoError(m.t, <-ended)
	return said.String()
}

// TestWatchWithoutKeys: a watch that cannot publish changes nothing and nudges nobody, says whose key is missing, and one with the key
// publishes its step and nothing of what managers have not published.
func TestWatchWithoutKeys(t *testing.T) {
	t.Parallel()
	broker := cloudtest.StartMosquitto(t, cloudtest.MosquittoOptions{})
	m := newManager(t)
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "fleet.yaml"), fmt.Appendf(nil, "organization: acme\nmqtt: {url: %q}\n", broker.URL), 0o600))
	m.run("product", "add", "gateway-v2")
	m.run("publish")
	for i := range 3 {
		m.enroll(fmt.Sprintf("gw-%d", i), "gateway-v2")
	}
	program := filepath.Join(t.TempDir(), "program")
	build(t, program, "1.0.0", "-s", "-w")
	for _, version := range []string{"1.0.0", "1.1.0"} {
		m.run("release", "add", "gateway-v2", program, "--version", version)
	}
	m.run("release", "roll", "gateway-v2", "1.0.0", "--all")
	m.run("release", "roll", "gateway-v2", "1.1.0", "--group", "lab=gw-0", "--groups", "100", "--soak", "0s")
	require.Contains(t, m.run("release", "list", "gateway-v2"), "gateway-v2: the releases and rollouts shown here are not published as they are")
	m.run("publish")
	require.NotContains(t, m.run("release", "list", "gateway-v2"), "not published")

	s := newSite(t, paho.NewClientOptions().AddBroker(strings.Replace(broker.URL, "mqtt://", "tcp://", 1)).SetClientID("site"))
	for i := range 3 {
		s.say(fmt.Sprintf("gw-%d", i), "1.0.0", "idle", "", 1)
	}
	s.say("gw-99", "1.0.0", "idle", "", 1)
	s.say("gw-0", "1.0.0", "idle", "trial.crash", 2)
	m.run("orders", "set", "gw-1", "--release", "1.1.0") // not published
	m.run("release", "add", "gateway-v2", program, "--version", "1.2.0")
	source := filepath.Join(m.dir, "source", release.RolloutsPath("gateway-v2"))
	before, err := os.ReadFile(source)
	require.NoError(t, err)

	for _, key := range []string{"releases", "automation"} {
		dir := filepath.Join(m.dir, "keys", key)
		require.NoError(t, os.Rename(dir, m.dir+"-away"))
		out := m.watch("HALT IS NOT PUBLISHED")
		require.Regexp(t, `HALT IS NOT PUBLISHED: gateway-v2: rollout r2-1: halt: .*trial\.crash: .* has 0 of 1 signatures and lacks key [0-9a-f]{8} \(`+key+`\)`, out)
		require.NotContains(t, out, "told to look")
		after, err := os.ReadFile(source)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
		require.NoError(t, os.Rename(m.dir+"-away", dir))
	}
	require.Zero(t, s.nudges("gw-0"))

	// a change to the same rollouts that nobody has published is not the watch's
	require.NoError(t, os.WriteFile(m.dir+"-rollouts", before, 0o600))
	m.run("release", "halt", "gateway-v2", "1.0.0")
	out := m.watch("there are unpublished changes to its rollouts: homeward-fleet publish them first")
	require.Contains(t, out, "gateway-v2: the releases and rollouts shown here are not published as they are")
	require.NoError(t, os.Rename(m.dir+"-rollouts", source))
	require.Equal(t, release.Running, m.published("gateway-v2").Rollouts[0].State)

	out = m.watch("\nrollout r2-1 of gateway-v2 1.1.0 (2): halted")
	require.Contains(t, out, "gateway-v2: rollout r2-1: halt: ")
	require.Contains(t, out, "4 gateways are told to look")
	require.Regexp(t, `(?m)^gw-99 \(not enrolled\) +cold `, out)
	require.NotRegexp(t, `(?m)^ +0 +0`, out, "no row without a name")
	require.Equal(t, release.HaltedRoll, m.published("gateway-v2").Rollouts[0].State)
	f, err := (&app{dir: m.dir}).look()
	require.NoError(t, err)
	p, err := f.Repo.Load()
	require.NoError(t, err)
	raw, err := f.Repo.File(p, release.OrderPath("gw-1"))
	require.NoError(t, err)
	order, err := release.ParseOrder(raw)
	require.NoError(t, err)
	require.Zero(t, order.Release.Counter, "the order is published by whoever gave it")
	require.Contains(t, m.run("publish"), "changed orders/gw-1.json")
}

// safe is a buffer that may be read while it is written.
type safe struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safe) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// published are the rollouts that gateways see.
func (m *manager) published(product string) *release.Rollouts {
	f, err := (&app{dir: m.dir}).look()
	require.NoError(m.t, err)
	p, err := f.Repo.Load()
	require.NoError(m.t, err)
	raw, err := f.Repo.File(p, release.RolloutsPath(product))
	require.NoError(m.t, err)
	r, err := release.ParseRollouts(raw)
	require.NoError(m.t, err)
	return r
}
