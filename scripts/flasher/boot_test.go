package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestEditConfig(t *testing.T) {
	for _, c := range []struct {
		name, old, enable, want string
	}{
		{"nothing there", "", "i2c", "dtparam=i2c_arm=on\n"},
		{"commented lines stay", "#dtparam=i2c_arm=on\n", "i2c", "#dtparam=i2c_arm=on\ndtparam=i2c_arm=on\n"},
		{"already on", "dtparam=i2c_arm=on\n", "i2c", "dtparam=i2c_arm=on\n"},
		{"already on, short", "dtparam=i2c,spi=on\n", "i2c,spi", "dtparam=i2c,spi=on\n"},
		{"off: the last line counts", "dtparam=spi=off\n", "spi", "dtparam=spi=off\ndtparam=spi=on\n"},
		{"on, then off", "dtparam=spi=on\ndtparam=spi=off\n", "spi", "dtparam=spi=on\ndtparam=spi=off\ndtparam=spi=on\n"},
		{"only on another board", "[pi4]\ndtparam=spi=on\n", "spi", "[pi4]\ndtparam=spi=on\n\n[all]\ndtparam=spi=on\n"},
		{"section closed", "[pi4]\nx=1\n[all]\n", "w1,uart", "[pi4]\nx=1\n[all]\ndtoverlay=w1-gpio\nenable_uart=1\n"},
		{"other overlays are not replaced", "dtoverlay=w1-gpio\ndtoverlay=vc4-kms-v3d\n", "w1", "dtoverlay=w1-gpio\ndtoverlay=vc4-kms-v3d\n"},
		{"no newline at the end", "a=1", "uart", "a=1\nenable_uart=1\n"},
		{"DOS lines", "a=1\r\n", "uart", "a=1\r\nenable_uart=1\r\n"},
		{"no order of its own", "", "uart,w1,spi,i2c", "dtparam=i2c_arm=on\ndtparam=spi=on\ndtoverlay=w1-gpio\nenable_uart=1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			enable := strings.Split(c.enable, ",")
			got := editConfig(c.old, enable)
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if again := editConfig(got, enable); again != got {
				t.Errorf("a second edit gives %q", again)
			}
		})
	}
}

func TestEditCmdline(t *testing.T) {
	const hook = " systemd.run=/boot/firmware/homeward-first-boot.sh systemd.run_success_action=reboot systemd.run_failure_action=reboot systemd.unit=kernel-command-line.target"
	const script = "/boot/firmware/homeward-first-boot.sh"
	for _, c := range []struct {
		name, old, script string
		uart              bool
		want, fail        string
	}{
		{name: "hook", old: "console=tty1 root=x quiet\n", script: script, want: "console=tty1 root=x quiet" + hook + "\n"},
		{name: "no newline", old: "root=x", script: script, want: "root=x" + hook + "\n"},
		{name: "DOS line", old: "root=x\r\n", script: script, want: "root=x" + hook + "\r\n"},
		{name: "serial console goes, others stay", old: "console=serial0,115200 console=tty1 root=x\n", uart: true, want: "console=tty1 root=x\n"},
		{name: "nothing to do", old: "root=x  quiet\n", uart: true, want: "root=x  quiet\n"},
		{name: "somebody else's script", old: "root=x systemd.run=/boot/firstrun.sh\n", script: script, fail: "it already runs /boot/firstrun.sh at first boot"},
		{name: "empty", old: "\n", script: script, fail: "first line is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := editCmdline(c.old, c.script, c.uart)
			if c.fail != "" {
				if err == nil || !strings.Contains(err.Error(), c.fail) {
					t.Errorf("error %v, want %q", err, c.fail)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got  %q %v\nwant %q", got, err, c.want)
			}
			if again, err := editCmdline(got, c.script, c.uart); err != nil || again != got {
				t.Errorf("a second edit gives %q %v", again, err)
			}
		})
	}
}

const sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl tech@laptop"

// prepared makes an image with everything there is.
func prepared(t *testing.T, img string) string {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "ready.img")
	code, o, e := runFlash(t, nil, img, "--image-only", out,
		"--package", writeFile(t, dir, "homeward_0.3.0_arm64.deb", "!<arch>\ndebian-binary   1700000000  0     0     100644  4         `\n2.0\n"+strings.Repeat("x", 3e6)),
		"--config", writeFile(t, dir, "homeward.yaml", "gateway: gw-0017\n"),
		"--file", writeFile(t, dir, "pw", "s3cret\n")+"=/etc/homeward/password",
		"--file", writeFile(t, dir, "ca.pem", "CA\n")+"=/etc/homeward/ca.pem:0644",
		"--file", writeFile(t, dir, "pw2", "x")+"=/opt/other/password",
		"--hostname", "gw-0017", "--user", "tech", "--ssh-key", writeFile(t, dir, "key.pub", sshKey+"\n"),
		"--wifi", "plant $(reboot) 'room'", "--wifi-password-file", writeFile(t, dir, "wifi", "correct horse\n"), "--wifi-country", "DE",
		"--enable", "i2c,spi", "--enable", "w1,uart")
	if code != 0 {
		t.Fatalf("code %d\n%s%s", code, o, e)
	}
	return out
}

// TestPrepared looks at a prepared image with tools that are not ours.
func TestPrepared(t *testing.T) {
	t.Run("FAT32", func(t *testing.T) { testPrepared(t, makeImage(t)) })
	t.Run("FAT16", func(t *testing.T) { testPrepared(t, makeImage(t, "fat16")) })
}

func testPrepared(t *testing.T, plain string) {
	img := prepared(t, plain)
	checkClean(t, img)
	want := strings.Replace(strings.TrimSpace(cmdline), "console=serial0,115200 ", "", 1) +
		" systemd.run=/boot/firmware/homeward-first-boot.sh systemd.run_success_action=reboot systemd.run_failure_action=reboot systemd.unit=kernel-command-line.target\n"
	if got := bootFile(t, img, "cmdline.txt"); got != want {
		t.Errorf("cmdline.txt\n%s\nwant\n%s", got, want)
	}
	if got, want := bootFile(t, img, "config.txt"), configTxt+"dtparam=i2c_arm=on\ndtparam=spi=on\ndtoverlay=w1-gpio\nenable_uart=1\n"; got != want {
		t.Errorf("config.txt\n%s\nwant\n%s", got, want)
	}
	if got := bootFile(t, img, "userconf.txt"); got != "tech:*\n" {
		t.Errorf("userconf.txt %q", got)
	}
	if got := bootFile(t, img, "ssh"); got != "\n" {
		t.Errorf("ssh %q", got)
	}
	if got := bootFile(t, img, "homeward-first-boot-file02-password"); got != "s3cret\n" {
		t.Errorf("password file %q", got)
	}
	if got := bootFile(t, img, "kernel8.img"); got != strings.Repeat("kernel", 1e5) {
		t.Error("another file was changed")
	}
	key, err := wifiKey("plant $(reboot) 'room'", "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if steps := bootFile(t, img, "homeward-first-boot-steps"); strings.Contains(steps, "correct horse") || !strings.Contains(steps, key) {
		t.Errorf("want the wifi key, not the passphrase:\n%s", steps)
	}
	if script := bootFile(t, img, "homeward-first-boot.sh"); strings.Contains(script, key) {
		t.Error("a secret is in the script, which is deleted last")
	}

	// Once more over the prepared image: the edits are there once.
	again := prepared(t, img)
	checkClean(t, again)
	for _, name := range []string{"cmdline.txt", "config.txt", "userconf.txt"} {
		if a, b := bootFile(t, img, name), bootFile(t, again, name); a != b {
			t.Errorf("%s edited twice\n%s\n%s", name, a, b)
		}
	}
}

// TestFirstBoot runs the script that the card carries on a tree, with stand-ins for the
// commands that would change this machine, twice.
func TestFirstBoot(t *testing.T) {
	img := prepared(t, makeImage(t))
	root := t.TempDir()
	boot := filepath.Join(root, "boot/firmware")
	stubs := filepath.Join(root, "stubs")
	for _, dir := range []string{boot, stubs, root + "/etc/NetworkManager", root + "/home/tech", root + "/etc/homeward"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	listing := run(t, "", need(t, "mdir", "mtools"), "-b", "-i", fmt.Sprintf("%s@@%d", img, bootAt), "::")
	for _, l := range strings.Fields(listing) {
		name := strings.TrimPrefix(l, "::/")
		writeFile(t, boot, name, bootFile(t, img, name))
	}
	writeFile(t, root+"/etc", "hosts", "127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n")
	calls := filepath.Join(root, "calls")
	for name, body := range map[string]string{
		"getent":       `case "$1 $2" in "passwd tech") [ -e "$ROOT/tech" ] && echo tech:x:1001:1001::/home/tech:/bin/bash ;; "passwd homeward") [ -e "$ROOT/installed" ] ;; *) exit 2 ;; esac`,
		"useradd":      `touch "$ROOT/tech"`,
		"dpkg":         `[ ! -e "$ROOT/broken" ] && touch "$ROOT/installed"`,
		"id":           `echo tech`,
		"chown":        ``,
		"chpasswd":     `cat >>"$ROOT/calls"`,
		"systemctl":    ``,
		"raspi-config": ``,
		"rfkill":       ``,
		"usermod":      ``,
		// Ownership cannot be given without root.
		"install": `if [ "$1" = -d ]; then mkdir -p "$8" && chmod 700 "$8"; else exec /usr/bin/install "$@"; fi`,
	} {
		p := writeFile(t, stubs, name, "#!/bin/sh\necho "+name+" \"$@\" >>\"$ROOT/calls\"\n"+body+"\n")
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	keep := filepath.Join(root, "var/lib/homeward-first-boot")
	boots := func(dir string) {
		t.Helper()
		c := exec.Command("sh", filepath.Join(dir, scriptName))
		c.Env = []string{"HOMEWARD_ROOT=" + root, "ROOT=" + root, "PATH=" + stubs + ":/usr/bin:/bin"}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return "(" + err.Error() + ")"
		}
		return string(b)
	}
	// The first time the package cannot be installed.
	writeFile(t, root, "broken", "")
	boots(boot)
	if got := read("boot/firmware/homeward-first-boot.log"); !strings.Contains(got, "FAILED package") || !strings.Contains(got, "ok hostname") {
		t.Errorf("log on the boot partition:\n%s", got)
	}
	if got := read("boot/firmware/cmdline.txt"); strings.Contains(got, "systemd") || !strings.HasPrefix(got, "console=tty1 root=") {
		t.Errorf("cmdline.txt: %s", got)
	}
	// What it needs to try again is where only root can read it, not on the FAT partition.
	if left, _ := filepath.Glob(filepath.Join(boot, "homeward-first-boot*")); len(left) != 1 || filepath.Base(left[0]) != "homeward-first-boot.log" {
		t.Errorf("left on the boot partition: %v, want the log", left)
	}
	if st, err := os.Stat(keep); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v %v, want mode 0700", keep, st, err)
	}
	if got := read("var/lib/homeward-first-boot/homeward-first-boot-file02-password"); got != "s3cret\n" {
		t.Errorf("files are gone though a step failed: %s", got)
	}
	os.Remove(filepath.Join(root, "broken"))
	boots(keep)
	log := read("var/log/homeward-first-boot.log")
	if !strings.HasSuffix(strings.TrimSpace(log), "done") {
		t.Fatalf("log:\n%s", log)
	}
	ssid := "plant $(reboot) 'room'"
	key, err := wifiKey(ssid, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/hostname":                         "gw-0017\n",
		"etc/hosts":                            "127.0.0.1\tlocalhost\n127.0.1.1\tgw-0017\n",
		"etc/homeward/homeward.yaml":           "gateway: gw-0017\n",
		"etc/homeward/password":                "s3cret\n",
		"etc/homeward/ca.pem":                  "CA\n",
		"etc/modules-load.d/homeward-i2c.conf": "i2c-dev\n",
		"home/tech/.ssh/authorized_keys":       sshKey + "\n",
		"etc/NetworkManager/system-connections/homeward-wifi.nmconnection": "[connection]\nid=homeward-wifi\ntype=wifi\n[wifi]\nmode=infrastructure\nssid=" + ssid + "\n[wifi-security]\nkey-mgmt=wpa-psk\npsk=" + key + "\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=auto\n",
	} {
		if got := read(name); got != want {
			t.Errorf("%s: %q\nwant %q", name, got, want)
		}
	}
	for name, mode := range map[string]os.FileMode{"etc/homeward/password": 0o600, "etc/homeward/ca.pem": 0o644, "etc/homeward/homeward.yaml": 0o640, "etc/NetworkManager/system-connections/homeward-wifi.nmconnection": 0o600} {
		if st, err := os.Stat(filepath.Join(root, name)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want mode %o", name, st, err, mode)
		}
	}
	got, _ := os.ReadFile(calls)
	for _, want := range []string{"useradd --create-home --shell /bin/bash tech\n", "tech:*\n", "dpkg --force-confold -i " + keep + "/homeward-first-boot-homeward_0.3.0_arm64.deb\n", "systemctl enable homeward.service\n", "systemctl enable ssh.service\n", "raspi-config nonint do_wifi_country DE\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("not called: %q in\n%s", want, got)
		}
	}
	left, _ := filepath.Glob(filepath.Join(boot, "homeward-first-boot*"))
	if _, err := os.Stat(keep); len(left) != 0 || err == nil {
		t.Errorf("left: %v, %s %v", left, keep, err)
	}
	if _, err := os.Stat(filepath.Join(boot, "userconf.txt")); err == nil {
		t.Error("userconf.txt is left, with the user's hash")
	}
	for line := range strings.Lines(string(got)) { // what ps would show
		if strings.Contains(line, key) || strings.Contains(line, "s3cret") {
			t.Errorf("a secret in a command: %s", line)
		}
	}
}

// TestWifiKey has the example of IEEE 802.11i-2004, H.4.2 (also in hostapd's documentation).
func TestWifiKey(t *testing.T) {
	got, err := wifiKey("IEEE", "password")
	if want := "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"; err != nil || got != want {
		t.Errorf("%s %v, want %s", got, err, want)
	}
	for _, bad := range [][2]string{{"", "password"}, {"x", "short"}, {strings.Repeat("x", 33), "password"}, {"a\nb", "password"}, {"x", strings.Repeat("y", 64)}} {
		if k, err := wifiKey(bad[0], bad[1]); err == nil {
			t.Errorf("%q %q gives %s, want an error", bad[0], bad[1], k)
		}
	}
}

// TestUsage has what is wrong before anything is touched.
func TestUsage(t *testing.T) {
	img := makeImage(t)
	dir := t.TempDir()
	key := writeFile(t, dir, "key.pub", sshKey)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{}, "0 arguments, want IMAGE and DEVICE"},
		{[]string{img}, "1 arguments, want IMAGE and DEVICE"},
		{[]string{img, "/dev/sdb", "--nosuch"}, "flag provided but not defined: -nosuch"},
		{[]string{img, "/dev/sdb", "--hostname", "GW 1"}, `--hostname "GW 1": want 1 to 63 of a-z 0-9 -`},
		{[]string{img, "/dev/sdb", "--user", "root", "--ssh-key", key}, "neither root nor homeward"},
		{[]string{img, "/dev/sdb", "--user", "tech"}, "--user tech: no way to log in"},
		{[]string{img, "/dev/sdb", "--ssh-key", writeFile(t, dir, "id", "-----BEGIN OPENSSH PRIVATE KEY-----\n")}, "is not a public key"},
		{[]string{img, "/dev/sdb", "--wifi", "x"}, "go together"},
		{[]string{img, "/dev/sdb", "--enable", "i2c,can"}, `--enable "can": want i2c, spi, w1 or uart`},
		{[]string{img, "/dev/sdb", "--file", key + "=/etc/../etc/shadow"}, "destination"},
		{[]string{img, "/dev/sdb", "--file", key + "=/etc/a'b"}, "destination"},
		{[]string{img, "/dev/sdb", "--file", key + "=/boot/firmware/x"}, "destination below /boot, which does not last"},
		{[]string{img, "/dev/sdb", "--file", key + "=/etc/x:9"}, "mode 9"},
		{[]string{img, "/dev/sdb", "--file", key + "=/etc/x", "--file", key + "=/etc/x"}, "a second file for it"},
		{[]string{img, "/dev/sdb", "--package", key}, "want a .deb file"},
		{[]string{img, "/dev/sdb", "--package", writeFile(t, dir, "x_1_arm64.deb", "no")}, "not a Debian package"},
		{[]string{img, "/dev/sdb", "--file", writeFile(t, dir, "none", "") + "=/etc/x"}, "none: empty"},
		{[]string{img, "--image-only", key}, "exists: want a new file"},
		{[]string{img, "/dev/sdb", "--config", writeFile(t, dir, "h.yaml", "a: b"), "--homeward", "/nonexistent"}, "not a program that can be run here"},
	} {
		dev := &memDevice{b: make([]byte, 1<<20)}
		fix, _ := card(t, dev)
		code, _, errs := runFlash(t, fix, c.args...)
		if code != 2 || !strings.Contains(errs, c.want) || dev.opened {
			t.Errorf("%v: code %d, %q\nwant %q", c.args, code, errs, c.want)
		}
	}
}

// TestConfigIsChecked lets a stand-in and the real strictness decide.
func TestConfigIsChecked(t *testing.T) {
	img := makeImage(t)
	dir := t.TempDir()
	conf := writeFile(t, dir, "homeward.yaml", "gateway: GW\n")
	bin := writeFile(t, dir, "homeward", "#!/bin/sh\n[ \"$1 $2\" = 'plan --config' ] || exit 9\ngrep -q GW \"$3\" && { echo \"$3:1:10: gateway: bad\" >&2; exit 2; }\nexit 0\n")
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.img")
	code, _, errs := runFlash(t, nil, img, "--image-only", out, "--config", conf, "--homeward", bin)
	if code != 2 || !strings.Contains(errs, conf+":1:10: gateway: bad") {
		t.Errorf("code %d: %s", code, errs)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("an image was made")
	}
	writeFile(t, dir, "homeward.yaml", "gateway: gw\n")
	code, o, errs := runFlash(t, nil, img, "--image-only", out, "--config", conf, "--homeward", bin)
	if code != 0 || !strings.Contains(o, "read without mistakes by "+bin) {
		t.Errorf("code %d: %s%s", code, o, errs)
	}
}

// TestNotPi has an image without a boot partition: it can be written as it is only.
func TestNotPi(t *testing.T) {
	b := make([]byte, 8*mib)
	b[446+4] = 0x83
	binary.LittleEndian.PutUint32(b[446+8:], 2048)
	binary.LittleEndian.PutUint32(b[446+12:], 4096)
	b[510], b[511] = 0x55, 0xaa
	dir := t.TempDir()
	img := writeFile(t, dir, "other.img", string(b))
	code, _, errs := runFlash(t, nil, img, "--image-only", filepath.Join(dir, "1"), "--hostname", "gw")
	if code != 1 || !strings.Contains(errs, "no FAT partition with cmdline.txt") {
		t.Errorf("code %d: %s", code, errs)
	}
	if code, _, errs := runFlash(t, nil, img, "--image-only", filepath.Join(dir, "2")); code != 0 {
		t.Errorf("code %d: %s", code, errs)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.partial")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestFileSizes has texts of each length around a cluster's end: they are edited as they are, without what lies behind them.
func TestFileSizes(t *testing.T) {
	for _, kind := range []string{"", "fat16"} {
		img := makeImage(t, slices.DeleteFunc([]string{kind}, func(s string) bool { return s == "" })...)
		f, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		o := newOverlay(f, rootAt+rootBytes)
		fsys, _, err := openFAT(o, []Partition{{N: 1, Start: bootAt, Size: bootBytes}})
		if err != nil {
			t.Fatal(err)
		}
		// What was there before shows if too much is read.
		if err := putFile(fsys, "/config.txt", []byte(strings.Repeat("#", 8192))); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 511, 512, 513, 848, 849, 1000, 1023, 1024, 1025, 1286, 2047, 2048, 2049, 2303, 5000} {
			want := strings.Repeat("x", size)
			if err := putFile(fsys, "/config.txt", []byte(want)); err != nil {
				t.Fatalf("%s %d bytes: %v", kind, size, err)
			}
			if got, err := readFile(fsys, "/config.txt"); err != nil || string(got) != want {
				t.Errorf("%s %d bytes: %d are read, %v", kind, size, len(got), err)
			}
		}
	}
}
