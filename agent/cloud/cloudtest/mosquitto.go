// Package cloudtest is the suite that every cloud passes, and the brokers that tests run
// against: Debian's Mosquitto as a process that can be frozen and killed, and a line that can go silent.
package cloudtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// MosquittoOptions configure the broker; the zero value lets everyone do everything on loopback.
type MosquittoOptions struct {
	Users       map[string]string // user → password; nil: anonymous
	ACL         string            // contents of an acl_file; "" none
	TLS         *Authority        // nil: clear text
	ClientCerts bool              // with TLS: clients need a certificate of the same authority
	Extra       string            // further configuration lines
}

// Mosquitto is a running broker. Its port stays the same over Stop and Start.
type Mosquitto struct {
	URL  string
	Port int
	dir  string
	t    testing.TB
	mu   sync.Mutex
	cmd  *exec.Cmd
	dead chan struct{}
}

// StartMosquitto starts Debian's broker on a free loopback port; when it is not installed it skips the test, or in CI fails it.
func StartMosquitto(t testing.TB, o MosquittoOptions) *Mosquitto {
	t.Helper()
	return StartMosquittoAt(t, freePort(t), o)
}

// StartMosquittoAt is StartMosquitto on a given port.
func StartMosquittoAt(t testing.TB, port int, o MosquittoOptions) *Mosquitto {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if path = "/usr/sbin/mosquitto"; !exists(path) {
			Without(t, "a real broker: sudo apt-get install mosquitto")
		}
	}
	m := &Mosquitto{t: t, dir: t.TempDir(), Port: port}
	scheme := "mqtt"
	var conf strings.Builder
	fmt.Fprintf(&conf, "listener %d 127.0.0.1\nallow_anonymous %v\nuser root\nlog_type error\nlog_type warning\nlog_dest stderr\nmax_queued_messages 1000000\nset_tcp_nodelay true\n", m.Port, o.Users == nil)
	if o.Users != nil {
		file := filepath.Join(m.dir, "passwords")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		for user, password := range o.Users {
			out, err := exec.Command("mosquitto_passwd", "-b", file, user, password).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		fmt.Fprintf(&conf, "password_file %s\n", file)
	}
	if o.ACL != "" {
		file := filepath.Join(m.dir, "acl")
		require.NoError(t, os.WriteFile(file, []byte(o.ACL), 0o600))
		fmt.Fprintf(&conf, "acl_file %s\n", file)
	}
	if o.TLS != nil {
		scheme = "tls"
		cert, key := o.TLS.Issue(t, "localhost", false)
		fmt.Fprintf(&conf, "cafile %s\ncertfile %s\nkeyfile %s\nrequire_certificate %v\n", o.TLS.CAFile, cert, key, o.ClientCerts)
	}
	conf.WriteString(o.Extra)
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "mosquitto.conf"), []byte(conf.String()), 0o600))
	m.URL = fmt.Sprintf("%s://localhost:%d", scheme, m.Port)
	m.start(path)
	t.Cleanup(m.Stop)
	return m
}

// Without skips a test for want of something outside of this repository; in CI, where all of it is to be there, it fails the test.
func Without(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("needs " + what)
	}
	t.Skip("needs " + what)
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (m *Mosquitto) start(path string) {
	m.t.Helper()
	cmd := exec.Command(path, "-c", filepath.Join(m.dir, "mosquitto.conf"))
	pipe, err := cmd.StderrPipe()
	require.NoError(m.t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(m.t, cmd.Start())
	dead := make(chan struct{})
	said := make(chan string, 64)
	go func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			select {
			case said <- lines.Text():
			default:
			}
		}
		_ = cmd.Wait()
		close(dead)
	}()
	m.mu.Lock()
	m.cmd, m.dead = cmd, dead
	m.mu.Unlock()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", m.Port), time.Second)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-dead:
			close(said) // nobody writes any more
			m.t.Fatalf("mosquitto ended: %s", <-said)
		default:
		}
		require.True(m.t, time.Now().Before(end), "mosquitto does not answer")
	}
}

// Start starts it again on the same port.
func (m *Mosquitto) Start() {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	m.start(path)
}

func (m *Mosquitto) signal(s syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(s)
	}
}

// Stop kills it and waits.
func (m *Mosquitto) Stop() {
	m.signal(syscall.SIGKILL)
	m.mu.Lock()
	dead := m.dead
	m.cmd = nil
	m.mu.Unlock()
	<-dead
}

// SetACL replaces the access rules for the next Start; the broker must have been made with some.
func (m *Mosquitto) SetACL(text string) {
	require.NoError(m.t, os.WriteFile(filepath.Join(m.dir, "acl"), []byte(text), 0o600))
}

// Freeze stops the process without closing its connections; Thaw lets it go on.
func (m *Mosquitto) Freeze() { m.signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (m *Mosquitto) Thaw() { m.signal(syscall.SIGCONT) }
