package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud/cloudtest"
)

const (
	unit  = "../../configs/systemd/homeward.service"
	guard = "../../configs/systemd/homeward-guard.service"
)

// TestService: systemd has nothing to say about the units, and the exposure of the gateway's is at most 1.5 of 10.
func TestService(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		cloudtest.Without(t, "sudo apt-get install systemd")
	}
	// verify wants the program, which is not installed here, and the guard beside.
	const launcher = "/usr/lib/homeward/homeward-launch "
	dir := t.TempDir()
	here := map[string]string{}
	for _, path := range []string{unit, guard} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		here[path] = strings.ReplaceAll(string(text), launcher, "/bin/true ")
	}
	require.Contains(t, here[unit], "\nExecStart=/bin/true run --config /etc/homeward/homeward.yaml\n")
	verify := func(unit, text string) string {
		for path, text := range here {
			require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), []byte(text), 0o644))
		}
		copied := filepath.Join(dir, filepath.Base(unit))
		require.NoError(t, os.WriteFile(copied, []byte(text), 0o644))
		verify := exec.Command(analyze, "verify", "--man=no", copied)
		verify.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":") // and where units are anyway
		out, _ := verify.CombinedOutput()
		// What else this machine has installed is not ours to judge.
		var ours []string
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "homeward") {
				ours = append(ours, line)
			}
		}
		return strings.Join(ours, "")
	}
	for path, text := range here {
		require.Empty(t, verify(path, text))
		require.Contains(t, verify(path, strings.Replace(text, "[Service]", "[Service]\nWatchdogsSec=1", 1)), "WatchdogsSec", "the test sees no mistake")
	}

	security := func(threshold string) (string, error) {
		out, err := exec.Command(analyze, "security", "--no-pager", "--offline=yes", "--threshold="+threshold, unit).CombinedOutput()
		return string(out), err
	}
	out, err := security("15")
	exposure := regexp.MustCompile(`Overall exposure level[^\n]*`).FindString(out)
	require.NotEmpty(t, exposure, out)
	require.NoError(t, err, "%s; of these:\n%s", exposure, strings.Join(regexp.MustCompile(`(?m)^✗.*$`).FindAllString(out, -1), "\n"))
	_, err = security("1")
	require.Error(t, err, "the test sees no exposure")
	t.Log(exposure)
}

// TestUdevRules: udev has nothing to say about the rules but that groups are missing, which homeward.sysusers makes.
func TestUdevRules(t *testing.T) {
	udevadm, err := exec.LookPath("udevadm")
	if err != nil {
		cloudtest.Without(t, "sudo apt-get install udev")
	}
	text, err := os.ReadFile("../../configs/udev/60-homeward.rules")
	require.NoError(t, err)
	findings := verifyRules
	if exec.Command(udevadm, "verify", "--help").Run() != nil { // before systemd 254
		findings = testRules
	}
	require.Empty(t, findings(t, udevadm, string(text)))
	require.Contains(t, findings(t, udevadm, "BOGUS==\"x\"\n"+string(text)), "BOGUS", "the test sees no mistake")
}

func verifyRules(t *testing.T, udevadm, text string) string {
	path := filepath.Join(t.TempDir(), "60-homeward.rules")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	out, err := exec.Command(udevadm, "verify", "--no-summary", "--resolve-names=never", path).CombinedOutput()
	require.Equal(t, err != nil, len(out) > 0, "%v: %s", err, out)
	return string(out)
}

// testRules lets udev read the rules in place of this machine's own, in a mount namespace, and takes no event.
func testRules(t *testing.T, udevadm, text string) string {
	const to = "/etc/udev/rules.d"
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "60-homeward.rules"), []byte(text), 0o644))
	out, err := exec.Command("unshare", "--map-root-user", "--mount", "mount", "--bind", dir, to).CombinedOutput()
	if err != nil {
		cloudtest.Without(t, "a mount namespace, or systemd 254 with udevadm verify: "+strings.TrimSpace(string(out)))
	}
	out, _ = exec.Command("unshare", "--map-root-user", "--mount", "sh", "-c", `mount --bind "$1" "$2" && "$3" test /sys/class/mem/null`, "sh", dir, to, udevadm).CombinedOutput()
	var found []string
	read := false
	for line := range strings.Lines(string(out)) {
		switch {
		case !strings.Contains(line, "60-homeward.rules"):
		case strings.HasPrefix(line, "Reading rules file: "):
			read = true
		case !strings.Contains(line, "Unknown group '"):
			found = append(found, line)
		}
	}
	require.True(t, read, "the rules were not read: %s", out)
	return strings.Join(found, "")
}
