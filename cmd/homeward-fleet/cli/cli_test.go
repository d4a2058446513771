package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"homeward/agent/cloud/cloudtest"
	"homeward/ota/release"
)

// secret is the passphrase in these tests; no command may ever print it.
const secret = "correct-horse-battery"

func TestMain(m *testing.M) {
	workFactor, quietFor = 10, 500*time.Millisecond
	if filepath.Base(os.Args[0]) != "homeward-fleet" { // the tests, and not the program
		if err := os.Setenv(passphraseEnv, secret); err != nil {
			panic(err)
		}
	}
	testscript.Main(m, map[string]func(){
		"homeward-fleet": func() {
			workFactor = 10
			if days, err := strconv.Atoi(os.Getenv("FLEET_DAYS")); err == nil { // later
				now = func() time.Time { return time.Now().AddDate(0, 0, days) }
			}
			os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// manager runs commands on a fleet of its own.
type manager struct {
	t   *testing.T
	dir string
}

func newManager(t *testing.T) *manager {
	m := &manager{t, filepath.Join(t.TempDir(), "acme")}
	m.run("init", "--organization", "acme", "--gateways", "20")
	return m
}

func (m *manager) try(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	code = Main(append([]string{"--fleet", m.dir}, args...), strings.NewReader(""), &stdout, &stderr)
	require.NotContains(m.t, stdout.String()+stderr.String(), secret)
	return code, stdout.String(), stderr.String()
}

func (m *manager) run(args ...string) string {
	m.t.Helper()
	code, out, errs := m.try(args...)
	require.Zero(m.t, code, "%v: %s%s", args, out, errs)
	return out
}

// enroll takes a gateway on.
func (m *manager) enroll(id, product string) {
	m.t.Helper()
	raw, err := enrolment(id).Encode()
	require.NoError(m.t, err)
	path := filepath.Join(m.t.TempDir(), id+".json")
	require.NoError(m.t, os.WriteFile(path, raw, 0o600))
	m.run("enroll", path, "--product", product, "--out", path+".provision.yaml")
}

// TestOtherClient: a TUF client that is none of ours follows a repository that the commands made, from its first root over a rotation,
// through delegations and the bins of orders.
func TestOtherClient(t *testing.T) {
	t.Parallel()
	modules, err := filepath.Abs("../../../build/tools/node_modules")
	require.NoError(t, err)
	if _, err := os.Stat(filepath.Join(modules, "tuf-js")); err != nil {
		cloudtest.Without(t, "tuf-js in build/tools: scripts/test-deps, or npm install --prefix build/tools --no-save tuf-js@4.1.0")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		cloudtest.Without(t, "sudo apt-get install nodejs")
	}
	m := newManager(t)
	first, err := os.ReadFile(filepath.Join(m.dir, "repository", "1.root.json"))
	require.NoError(t, err)
	m.run("product", "add", "p1")
	m.run("product", "add", "p2")
	m.run("publish")
	want := map[string]string{"moves/gw-1.json": "", "orders/gw-99.json": "", "dev/gw-2/linux-arm64.json": ""}
	for i := range 6 {
		id := fmt.Sprintf("gw-%d", i)
		m.enroll(id, []string{"p1", "p2"}[i%2])
		want[release.OrderPath(id)] = "yes"
	}
	program := filepath.Join(t.TempDir(), "program")
	build(t, program, "1.0.0", "-s", "-w")
	m.run("release", "add", "p1", program, "--version", "1.0.0", "--hw", "generic-arm64")
	m.run("pin", "gw-4", "1.0.0")
	for _, path := range []string{release.RolloutsPath("p1"), release.RolloutsPath("p2"), release.ManifestPath("p1", "linux-arm64", 1), release.DevPath("gw-4", "linux-arm64")} {
		want[path] = "yes"
	}
	for _, role := range []string{"timestamp", "orders", "snapshot", "releases-p1"} {
		m.run("key", "rotate", role)
	}
	m.run("publish")
	var keys []struct {
		Role string
		Keys []struct{ ID string }
	}
	require.NoError(t, json.Unmarshal([]byte(m.run("key", "list", "--json")), &keys))
	for _, k := range keys[:2] { // root and targets
		m.run("key", "rotate", k.Role, "--replace", k.Keys[0].ID)
	}
	m.run("publish")

	root, err := os.OpenRoot(filepath.Join(m.dir, "repository"))
	require.NoError(t, err)
	defer root.Close()
	server := httptest.NewServer(files{root})
	defer server.Close()
	args := []string{"testdata/tuf.cjs", modules, server.URL, filepath.Join(t.TempDir(), "root.json")}
	require.NoError(t, os.WriteFile(args[3], first, 0o600))
	for path := range want {
		args = append(args, path)
	}
	cmd := exec.Command(node, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	d := json.NewDecoder(bytes.NewReader(out))
	seen := 0
	for {
		var line [2]any
		if err := d.Decode(&line); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
		name := line[0].(string)
		if name == "root" {
			require.EqualValues(t, 3, line[1])
			continue
		}
		seen++
		if want[name] == "" {
			require.Nil(t, line[1], name)
			continue
		}
		source, err := os.ReadFile(filepath.Join(m.dir, "source", name))
		require.NoError(t, err)
		require.Equal(t, string(source), line[1], name)
	}
	require.Equal(t, len(want), seen)
}

// TestScripts runs the program as a manager does. Beside testscript's own commands there are
//
//	exit CODE COMMAND…         runs it and wants this exit code, and no passphrase in its output
//	program FILE VERSION [-w]  makes a small program for arm64; with its debugging information compressed unless -w
//	enrolment GATEWAY          makes the enrolment file GATEWAY.json
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("SECRET", secret)
			e.Setenv(passphraseEnv, "")
			return os.WriteFile(filepath.Join(e.WorkDir, "secret"), []byte(secret+"\n"), 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exit": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				got := 0
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					failed, ok := errors.AsType[*exec.ExitError](err)
					if !ok {
						ts.Fatalf("%v", err)
					}
					got = failed.ExitCode()
				}
				if neg || got != want {
					ts.Fatalf("exit %d, want %d", got, want)
				}
				if strings.Contains(ts.ReadFile("stdout")+ts.ReadFile("stderr"), secret) {
					ts.Fatalf("the output holds the passphrase")
				}
			},
			"program": func(ts *testscript.TestScript, _ bool, args []string) {
				build(t, ts.MkAbs(args[0]), args[1], args[2:]...)
			},
			"enrolment": func(ts *testscript.TestScript, _ bool, args []string) {
				raw, err := enrolment(args[0]).Encode()
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]+".json"), raw, 0o600))
			},
		},
	})
}

func enrolment(id string) *release.Enrolment {
	return &release.Enrolment{Gateway: id, AgeRecipient: "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
		Ed25519: strings.Repeat("ab", 32), Hardware: []string{"generic-arm64"}, Agent: "1.9.0"}
}

// build makes a small program for arm64.
func build(t testing.TB, path, version string, flags ...string) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module program\n\ngo 1.26\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nvar version = \"\"\n\nfunc main() { println(version) }\n"), 0o600))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", strings.Join(flags, " ")+" -X main.version="+version, "-o", path, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}
