package home

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/ota/release"
)

func TestIdentityIsMadeOnce(t *testing.T) {
	state := t.TempDir()
	id, err := Identity(state)
	require.NoError(t, err)
	again, err := Identity(state)
	require.NoError(t, err)
	require.Equal(t, id.String(), again.String())
	info, err := os.Stat(IdentityPath(state))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	require.NoError(t, os.WriteFile(IdentityPath(state), []byte(id.String()+"X\n"), 0o600))
	_, err = Identity(state)
	require.ErrorContains(t, err, "want one age identity")
	require.NotContains(t, err.Error(), id.String()[20:], "what is almost a secret is none to show")
	require.NoError(t, os.Chmod(IdentityPath(state), 0o644))
	_, err = Identity(state)
	require.ErrorContains(t, err, "others may use it (mode 0644, want 0600)")
}

func TestEnrol(t *testing.T) {
	state := t.TempDir()
	compatible = filepath.Join(state, "compatible")
	t.Cleanup(func() { compatible = "/proc/device-tree/compatible" })
	require.Equal(t, []string{"generic-" + runtime.GOARCH}, Hardware(), "no device tree")
	require.NoError(t, os.WriteFile(compatible, []byte("raspberrypi,4-model-b\x00brcm,bcm2711\x00bad name\x00"), 0o600))
	require.Equal(t, []string{"raspberrypi,4-model-b", "brcm,bcm2711", "generic-" + runtime.GOARCH}, Hardware())

	e, err := Enrol(state, "gw-1", "1.0.0")
	require.NoError(t, err)
	text, err := os.ReadFile(EnrolmentPath(state))
	require.NoError(t, err)
	got, err := release.ParseEnrolment(text)
	require.NoError(t, err)
	require.Equal(t, e, got)
	before, err := os.Stat(EnrolmentPath(state))
	require.NoError(t, err)
	_, err = Enrol(state, "gw-1", "1.0.0")
	require.NoError(t, err)
	after, err := os.Stat(EnrolmentPath(state))
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "nothing new, nothing written")
	_, err = Enrol(state, "gw-1", "1.1.0")
	require.NoError(t, err)
	text, err = os.ReadFile(EnrolmentPath(state))
	require.NoError(t, err)
	require.Contains(t, string(text), "1.1.0")
	_, err = Enrol(state, "GW", "1.1.0")
	require.Error(t, err, "no gateway's name")
}
