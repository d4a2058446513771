package agent

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
)

// timedated answers as systemd-timedated does, on a bus of its own.
type timedated struct{ value atomic.Value }

func (d *timedated) Get(iface, property string) (dbus.Variant, *dbus.Error) {
	if iface != "org.freedesktop.timedate1" || property != "NTPSynchronized" {
		return dbus.Variant{}, dbus.MakeFailedError(os.ErrInvalid)
	}
	return dbus.MakeVariant(d.value.Load()), nil
}

// newBus is a dbus-daemon for this test alone.
func newBus(t *testing.T) string {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("dbus-daemon is missing: apt install dbus-daemon")
		}
		t.Skip("dbus-daemon is missing: apt install dbus-daemon")
	}
	address := "unix:path=" + filepath.Join(t.TempDir(), "bus")
	config := filepath.Join(t.TempDir(), "bus.conf")
	require.NoError(t, os.WriteFile(config, []byte(`<busconfig><type>session</type><listen>`+address+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600))
	cmd := exec.Command(daemon, "--nofork", "--print-address", "--config-file="+config)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	_, err = out.Read(make([]byte, 1)) // it says its address when it listens
	require.NoError(t, err)
	return address
}

func TestNTPSynchronized(t *testing.T) {
	address := newBus(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := ntpSynchronized(ctx, address)
	require.ErrorContains(t, err, "timedate1", "nobody has the name")

	conn, err := dbus.Connect(address)
	require.NoError(t, err)
	defer conn.Close()
	d := &timedated{}
	d.value.Store(false)
	require.NoError(t, conn.Export(d, "/org/freedesktop/timedate1", "org.freedesktop.DBus.Properties"))
	_, err = conn.RequestName("org.freedesktop.timedate1", 0)
	require.NoError(t, err)
	trusted, err := ntpSynchronized(ctx, address)
	require.NoError(t, err)
	require.False(t, trusted)

	d.value = atomic.Value{}
	d.value.Store(true)
	trusted, err = ntpSynchronized(ctx, address)
	require.NoError(t, err)
	require.True(t, trusted)

	d.value = atomic.Value{}
	d.value.Store("yes")
	_, err = ntpSynchronized(ctx, address)
	require.ErrorContains(t, err, "not a boolean")
}

// A bus that is not there or says nothing is given up.
func TestNTPSynchronizedSilence(t *testing.T) {
	_, err := ntpSynchronized(t.Context(), "unix:path="+filepath.Join(t.TempDir(), "none"))
	require.ErrorContains(t, err, "no such file")

	path := filepath.Join(t.TempDir(), "mute")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = ntpSynchronized(ctx, "unix:path="+path)
	require.Error(t, err)
	require.Error(t, ctx.Err())
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		trusted, fail, asked := false, error(os.ErrPermission), 0
		c, err := follow(ctx, "oracle", func(trusted bool) time.Duration {
			if trusted {
				return time.Minute
			}
			return time.Second
		}, func(context.Context) (bool, time.Duration, error) { asked++; return trusted, 0, fail })
		require.NoError(t, err)
		require.False(t, c.Stamp().Trusted)
		source, _ := c.Source()
		require.Equal(t, "oracle, which did not answer: permission denied", source)

		trusted, fail = true, nil
		time.Sleep(1500 * time.Millisecond)
		require.True(t, c.Stamp().Trusted)
		source, offset := c.Source()
		require.Equal(t, "oracle", source)
		require.Nil(t, offset)

		trusted, fail, asked = false, os.ErrDeadlineExceeded, 0
		time.Sleep(5 * time.Minute)
		require.Equal(t, 5, asked)
		require.True(t, c.Stamp().Trusted, "no answer changes nothing")
		fail = nil
		time.Sleep(time.Minute)
		require.False(t, c.Stamp().Trusted)
		cancel()
		synctest.Wait()
	})
}
