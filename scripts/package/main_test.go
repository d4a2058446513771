package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestDebianVersion(t *testing.T) {
	for in, want := range map[string]string{
		"v1.2.0":                 "1.2.0",
		"1.2.0":                  "1.2.0",
		"v1.2.0-dirty":           "1.2.0+dirty",
		"v1.2.0-rc1":             "1.2.0~rc1",
		"v1.2.0-3-gabcdef0":      "1.2.0+3.gabcdef0",
		"v1.2.0-rc1-3-gabcdef0":  "1.2.0~rc1+3.gabcdef0",
		"abcdef0":                "0.0.0+gabcdef0",
		"1234567-dirty":          "0.0.0+g1234567.dirty",
		"dev":                    "0.0.0+dev",
		"":                       "",
		"main":                   "",
		"v1.2.0\nDepends: other": "",
		"1:2.0":                  "",
		"v1/../2":                "",
	} {
		got, err := debianVersion(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("debianVersion(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

// The package holds what scripts/install stages, as root's, with the maintainer scripts.
func TestBuild(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is missing: install the package dpkg")
	}
	program := filepath.Join(t.TempDir(), "homeward")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho fake\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	const source = "../.."
	out := t.TempDir()
	path, err := build(source, out, "v1.2.0-rc1", "amd64", program)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(out, "homeward_1.2.0~rc1_amd64.deb"); path != want {
		t.Errorf("wrote %s, want %s", path, want)
	}
	if left, _ := os.ReadDir(out); len(left) != 1 {
		t.Errorf("%d files beside the package: %v", len(left)-1, left)
	}
	for field, want := range map[string]string{
		"Package": "homeward", "Version": "1.2.0~rc1", "Architecture": "amd64", "Depends": "systemd, default-dbus-system-bus | dbus-system-bus",
	} {
		if got := strings.TrimSpace(dpkgDeb(t, "-f", path, field)); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}

	// What the package holds is compared with the staged folder, path and mode.
	stage := t.TempDir()
	if text, err := exec.Command(source+"/scripts/install", "--stage", stage, program).CombinedOutput(); err != nil {
		t.Fatalf("stage: %v: %s", err, text)
	}
	want, err := staged(stage)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{} // path: "mode owner/group"
	for _, line := range strings.Split(dpkgDeb(t, "-c", path), "\n") {
		if f := strings.Fields(line); len(f) == 6 && strings.HasPrefix(line, "-") {
			listed[strings.TrimPrefix(f[5], ".")] = f[0] + " " + f[1]
		}
	}
	if len(listed) != len(want) {
		t.Errorf("%d files, want the %d staged: %v", len(listed), len(want), listed)
	}
	for _, c := range want {
		mode := "-rw-r--r-- root/root"
		if c.Destination == "/usr/bin/homeward" {
			mode = "-rwxr-xr-x root/root"
		}
		if got := listed[c.Destination]; got != mode {
			t.Errorf("%s: %q, want %q", c.Destination, got, mode)
		}
	}
	for _, must := range []string{"/usr/bin/homeward", "/usr/lib/systemd/system/homeward.service", "/etc/homeward/homeward.yaml.sample"} {
		if listed[must] == "" {
			t.Errorf("%s: not in the package", must)
		}
	}

	control := t.TempDir()
	dpkgDeb(t, "-e", path, control)
	for _, name := range []string{"postinst", "prerm", "postrm"} {
		got, err := os.ReadFile(filepath.Join(control, name))
		if err != nil {
			t.Error(err)
			continue
		}
		source, err := os.ReadFile(filepath.Join(source, "configs/package", name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(source) {
			t.Errorf("%s: differs from configs/package/%s", name, name)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(control, "conffiles")); string(got) != "/etc/homeward/homeward.yaml.sample\n" {
		t.Errorf("conffiles: %q", got)
	}
}

func TestBuildRefuses(t *testing.T) {
	out := t.TempDir()
	for _, c := range []struct{ version, arch, program, want string }{
		{"main", "amd64", "/bin/sh", `--version "main"`},
		{"v1.0.0", "arm", "/bin/sh", `--arch "arm"`},
		{"v1.0.0", "amd64", filepath.Join(out, "none"), "does not exist"},
	} {
		if _, err := build("../..", out, c.version, c.arch, c.program); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c, err, c.want)
		}
	}
	if left, _ := os.ReadDir(out); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func dpkgDeb(t *testing.T, args ...string) string {
	t.Helper()
	text, err := exec.Command("dpkg-deb", args...).Output()
	if err != nil {
		t.Fatalf("dpkg-deb %v: %v", args, err)
	}
	return string(text)
}
