package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goreleaser/nfpm/v2/files"
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
	need(t, "dpkg-deb", "dpkg")
	program := small(t)
	const source = "../.."
	out := t.TempDir()
	t.Setenv("DEBFULLNAME", "A. Packager")
	t.Setenv("DEBEMAIL", "a@example.org")
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
		"Package": "homeward", "Version": "1.2.0~rc1", "Architecture": "amd64", "Maintainer": "A. Packager <a@example.org>", "Depends": "systemd, default-dbus-system-bus | dbus-system-bus, procps",
	} {
		if got := strings.TrimSpace(dpkgDeb(t, "-f", path, field)); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}

	// What the package holds is compared with the staged folder, path and mode, and the papers.
	stage := t.TempDir()
	if text, err := exec.Command(source+"/scripts/install", "--stage", stage, program).CombinedOutput(); err != nil {
		t.Fatalf("stage: %v: %s", err, text)
	}
	want, err := staged(stage)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range want {
		if strings.HasPrefix(c.Destination, "/usr/share/man/") {
			want[i].Destination += ".gz"
		}
	}
	for _, name := range []string{"doc/homeward/copyright", "doc/homeward/changelog.gz", "lintian/overrides/homeward"} {
		want = append(want, &files.Content{Destination: "/usr/share/" + name})
	}
	listed := map[string]string{} // path: "mode owner/group"
	for _, line := range strings.Split(dpkgDeb(t, "-c", path), "\n") {
		switch f := strings.Fields(line); {
		case len(f) == 6 && strings.HasPrefix(line, "-"):
			listed[strings.TrimPrefix(f[5], ".")] = f[0] + " " + f[1]
		case len(f) == 8 && strings.HasPrefix(line, "l"):
			listed[strings.TrimPrefix(f[5], ".")] = f[6] + " " + f[7] // -> where to
		}
	}
	if len(listed) != len(want) {
		t.Errorf("%d files, want the %d staged: %v", len(listed), len(want), listed)
	}
	for _, c := range want {
		mode := "-rw-r--r-- root/root"
		switch c.Destination {
		case "/usr/lib/homeward/factory/agent", "/usr/lib/homeward/homeward-launch":
			mode = "-rwxr-xr-x root/root"
		case "/usr/bin/homeward":
			mode = "-> ../lib/homeward/factory/agent"
		}
		if got := listed[c.Destination]; got != mode {
			t.Errorf("%s: %q, want %q", c.Destination, got, mode)
		}
	}
	for _, must := range []string{"/usr/bin/homeward", "/usr/lib/homeward/factory/agent", "/usr/lib/homeward/homeward-launch",
		"/usr/lib/systemd/system/homeward.service", "/usr/lib/systemd/system/homeward-guard.service", "/etc/homeward/homeward.yaml.sample"} {
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

// small is a program of Go.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "homeward")
	if err := os.WriteFile(program+".go", []byte("package main\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, program+".go")
	if text, err := run.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, text)
	}
	if err := os.Link(program, filepath.Join(dir, "homeward-launch")); err != nil {
		t.Fatal(err)
	}
	return program
}

// The modules that a program holds are named, and their licences are there, but for the one that Debian has.
func TestLicences(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := licences(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, must := range []string{apacheText, "==== Go (go", "==== github.com/goreleaser/nfpm/v2 v2.47.0: LICENSE", "Permission is hereby granted", "Redistribution and use in source and binary forms"} {
		if !strings.Contains(text, must) {
			t.Errorf("no %q", must)
		}
	}
	for _, whole := range []string{"Grant of Copyright License", "Grant of Patent License"} {
		if strings.Contains(text, whole) {
			t.Errorf("repeats the Apache License: %q", whole)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	out, dir := t.TempDir(), t.TempDir()
	for _, name := range []string{"text", "homeward-launch"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("text"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ version, arch, program, want string }{
		{"main", "amd64", "/bin/sh", `--version "main"`},
		{"v1.0.0", "arm", "/bin/sh", `--arch "arm"`},
		{"v1.0.0", "amd64", filepath.Join(out, "none"), "does not exist"},
		{"v1.0.0", "amd64", "main.go", "homeward-launch: does not exist"},
		{"v1.0.0", "amd64", filepath.Join(dir, "text"), "want a program built by go build"},
	} {
		if _, err := build("../..", out, c.version, c.arch, c.program); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c, err, c.want)
		}
	}
	if left, _ := os.ReadDir(out); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Without $DEBEMAIL the package names who made the last commit, and without a history who made the package.
func TestPackager(t *testing.T) {
	t.Setenv("DEBFULLNAME", "")
	t.Setenv("DEBEMAIL", "")
	address := regexp.MustCompile(`^[^<>]+ <[^<>@ ]+@[^<>@ ]+>$`)
	if got := packager(t.TempDir()); !address.MatchString(got) {
		t.Errorf("no history: %q", got)
	}
	dir := t.TempDir()
	for _, args := range [][]string{{"init", "-q"}, {"-c", "user.name=Who Ever", "-c", "user.email=who@example.org", "commit", "-q", "--allow-empty", "-m", "x"}} {
		run := exec.Command("git", args...)
		run.Dir = dir
		if text, err := run.CombinedOutput(); err != nil {
			t.Skipf("git %v: %v: %s", args, err, text)
		}
	}
	if got := packager(dir); got != "Who Ever <who@example.org>" {
		t.Errorf("last commit: %q", got)
	}
	t.Setenv("DEBEMAIL", "a@example.org\nDepends: other")
	t.Setenv("DEBFULLNAME", "A <b>\n")
	if got := packager(dir); got != "A  b <a@example.orgDepends: other>" {
		t.Errorf("hostile: %q", got)
	}
}

// The real program, built and packaged for the Raspberry Pi's architectures: it runs from the package on an emulated
// processor, armhf's on the ARMv6 of the first Raspberry Pi. arm64 and lintian take long: they are scripts/campaign's.
func TestArchitectures(t *testing.T) {
	if testing.Short() {
		t.Skip("short: builds the program")
	}
	need(t, "dpkg-deb", "dpkg")
	campaign := os.Getenv("HOMEWARD_CAMPAIGN") != ""
	for _, c := range []struct {
		arch string
		env  []string
		run  []string
	}{
		{"armhf", []string{"GOARCH=arm", "GOARM=6"}, []string{"qemu-arm-static", "-cpu", "arm1176"}},
		{"arm64", []string{"GOARCH=arm64", "GOARM64=v8.0"}, []string{"qemu-aarch64-static"}},
	} {
		if c.arch != "armhf" && !campaign {
			continue
		}
		t.Run(c.arch, func(t *testing.T) {
			t.Parallel()
			need(t, c.run[0], "qemu-user-static")
			dir := t.TempDir()
			program := filepath.Join(dir, "homeward")
			compile := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w -X homeward/cmd/homeward/cli.version=v1.2.3 -X main.version=v1.2.3", "-o", dir+"/", "./cmd/homeward", "./cmd/homeward-launch")
			compile.Dir = "../.."
			compile.Env = append(os.Environ(), append(c.env, "GOOS=linux", "CGO_ENABLED=0")...)
			if text, err := compile.CombinedOutput(); err != nil {
				t.Fatalf("go build: %v: %s", err, text)
			}
			path, err := build("../..", filepath.Join(dir, "out"), "v1.2.3", c.arch, program)
			if err != nil {
				t.Fatal(err)
			}
			unpacked := filepath.Join(dir, "unpacked")
			dpkgDeb(t, "-x", path, unpacked)
			args := append(c.run[1:], filepath.Join(unpacked, "usr/bin/homeward"), "version")
			text, err := exec.Command(c.run[0], args...).CombinedOutput()
			if err != nil || !strings.HasPrefix(string(text), "homeward v1.2.3\n") {
				t.Errorf("%s %v: %v: %s", c.run[0], args, err, text)
			}
			args = append(c.run[1:], filepath.Join(unpacked, "usr/lib/homeward/homeward-launch"), "--version")
			text, err = exec.Command(c.run[0], args...).CombinedOutput()
			if err != nil || !strings.HasPrefix(string(text), "homeward-launch v1.2.3, level ") {
				t.Errorf("%s %v: %v: %s", c.run[0], args, err, text)
			}
			if campaign {
				noErrors(t, path)
			}
			t.Logf("packaged: %s, %s", filepath.Base(path), strings.Join(c.run, " "))
		})
	}
}

// noErrors: Debian's own critic finds no error in a package.
func noErrors(t *testing.T, path string) {
	t.Helper()
	need(t, "lintian", "lintian")
	text, err := exec.Command("lintian", "--allow-root", "--fail-on", "error", path).CombinedOutput()
	if err != nil {
		t.Errorf("lintian: %v", err)
	}
	t.Logf("lintian: errors %d, warnings %d\n%s", strings.Count("\n"+string(text), "\nE: "), strings.Count("\n"+string(text), "\nW: "), text)
}

// need skips where a program of the system is missing, and fails in CI.
func need(t *testing.T, program, from string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing: install the package %s", program, from)
	}
	t.Skipf("%s is missing: install the package %s", program, from)
}

func dpkgDeb(t *testing.T, args ...string) string {
	t.Helper()
	text, err := exec.Command("dpkg-deb", args...).Output()
	if err != nil {
		t.Fatalf("dpkg-deb %v: %v", args, err)
	}
	return string(text)
}
