package main

import (
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	fleetcli "homeward/cmd/homeward-fleet/cli"
	"homeward/cmd/homeward-simulate/cli"
	gateway "homeward/cmd/homeward/cli"
)

// documents are the commands in README.md, CONTRIBUTING.md and docs/, by file: what stands in a block of commands, and what
// stands in the text between backquotes and begins with a program. Those that name what to put in (FILE, […], a|b) are
// synopses; a name is a program with its command and nothing else, in the text.
type documents struct {
	commands, synopses map[string][]string
	names              map[string]bool // as well as in commands
}

const others = `(?:go|apt(?:-get)?|dpkg|systemctl|journalctl|systemd-[a-z]+|raspi-config|ls|echo|chmod|sh|openssl|socat|python3|mosquitto_[a-z]+|drivers/[a-z/]+\.py|[A-Z_]+=[^"\s]+) \S`

var (
	ours      = regexp.MustCompile(`^(?:bin/|sudo (?:-u homeward )?)?(?:homeward|homeward-simulate|homeward-fleet) [a-z-]|^(?:sudo )?scripts/[a-z-]+(?: |$)|^make [a-z]|^sudo [a-z]|^` + others)
	starts    = regexp.MustCompile(`^(?:\$ |sudo |make |(?:bin/)?homeward(?:-simulate|-fleet)? |scripts/|scp |` + others + `)`)
	comment   = regexp.MustCompile(` +(?:# |\()(or: )?(.*)$`)
	open      = regexp.MustCompile(`[A-Z]{4,}|…|\||\[-|\[[A-Z]`)
	backquote = regexp.MustCompile("`([^`\n]+)`")
	setting   = regexp.MustCompile(`^(?:[A-Z_]+=[^…"\s]+ )+`)
	bare      = regexp.MustCompile(`^(?:homeward|homeward-simulate|homeward-fleet|scripts/[a-z-]+|make|go)(?: [a-z][a-z-]*)*$`)
)

func readDocumented(t *testing.T) documents {
	d := documents{map[string][]string{}, map[string][]string{}, map[string]bool{}}
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, path := range append(files, "../../README.md", "../../CONTRIBUTING.md") {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		name := strings.TrimPrefix(path, "../../")
		add := func(command string, prose bool) {
			if command == "homeward receipt 1" { // the head of a receipt
				return
			}
			into := d.commands
			if prose && open.MatchString(setting.ReplaceAllString(command, "")) {
				into = d.synopses
			}
			if !slices.Contains(into[name], command) {
				into[name] = append(into[name], command)
			}
			if prose && bare.MatchString(command) {
				d.names[command] = true
			}
		}
		line := func(s string) {
			if m := comment.FindStringSubmatch(s); m != nil {
				if s = strings.TrimSuffix(s, m[0]); m[1] != "" {
					add(m[2], false)
				}
			}
			add(strings.TrimPrefix(strings.TrimSpace(s), "$ "), false)
		}
		fenced, plain, begun := false, false, ""
		for l := range strings.Lines(string(text)) {
			l = strings.TrimRight(l, "\n")
			switch {
			case strings.HasPrefix(strings.TrimSpace(l), "```"):
				fenced, plain = !fenced, slices.Contains([]string{"```", "```sh", "```console"}, strings.TrimSpace(l))
			case fenced && plain && (begun != "" || starts.MatchString(l)):
				begun += strings.TrimSpace(l)
				if more, ok := strings.CutSuffix(begun, `\`); ok {
					begun = more
					continue
				}
				line(begun)
				begun = ""
			case !fenced:
				for _, m := range backquote.FindAllStringSubmatch(l, -1) {
					if ours.MatchString(m[1]) {
						add(m[1], true)
					}
				}
			}
		}
	}
	return d
}

// TestSynopses: a command that README.md or docs/ names is there, and has the flags that stand beside it.
func TestSynopses(t *testing.T) {
	d := readDocumented(t)
	roots := map[string]*cobra.Command{"homeward": gateway.Command(), "homeward-simulate": cli.Command(), "homeward-fleet": fleetcli.Command()}
	looked := 0
	for _, file := range slices.Sorted(maps.Keys(d.commands)) {
		for _, s := range slices.Concat(d.synopses[file], d.commands[file]) {
			s = strings.TrimPrefix(strings.TrimPrefix(s, "sudo -u homeward "), "bin/")
			s, _, _ = strings.Cut(s, " --help")
			words := strings.Fields(s)
			root := roots[words[0]]
			if root == nil {
				continue
			}
			var path []string
			for _, w := range words[1:] {
				if !regexp.MustCompile(`^[a-z-]+$`).MatchString(w) || strings.HasPrefix(w, "-") {
					break
				}
				path = append(path, w)
			}
			at, _, err := root.Find(path)
			require.NoError(t, err, "%s: %s", file, s)
			require.True(t, len(path) == 0 || at != root, "%s: %s: no such command", file, s)
			for _, flag := range regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(s, -1) {
				require.NotNil(t, at.Flag(flag[1]), "%s: %s: no flag --%s", file, s, flag[1])
			}
			looked++
		}
	}
	require.Greater(t, looked, 15)
}

var simulator = sync.OnceValues(func() (string, error) {
	path, err := build()
	if err != nil {
		return "", err
	}
	path = filepath.Join(filepath.Dir(path), "homeward-simulate")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Dir(path)+"/", "../homeward-simulate", "../homeward-launch")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// TestCommands runs what the documents tell people to type, as it stands there: testdata/commands has the scripts, and a command that
// is in no script fails here. Beside testscript's own commands there are
//
//	documented [CODE] FILE COMMAND   runs it by sh and wants this exit code, 0 if none is said. The document must have it; FILE * are
//	                                 all that have it. [x] and a|b stand for several commands: without and with all of
//	                                 [x], and each of a and b
//	documented &NAME FILE COMMAND    the same in the background
//	elsewhere FILE COMMAND PATH TEXT another test runs it: the file PATH, which has this text
//	nowhere FILE COMMAND WHY         no test runs it
//	needs COMMAND PACKAGE            skips the script where the command fails, for want of this package of Debian, or of what this
//	                                 script installs; in CI it fails
//	put OLD NEW                      from here on, in documented commands: what a document cannot know
//	box                              from here on, documented commands, and those of inside and start, run in a machine of their own: /etc, /var/lib,
//	                                 /usr/local, /run and the network are nobody else's, and sudo -u is heeded
//	inside COMMAND                   runs it, by sh and in the box if there is one
//	start NAME COMMAND               the same in the background
//	await NAME PATTERN [VAR]         waits until what it printed has it; the first group goes into VAR
//	until COMMAND                    is inside, again and again until it succeeds
//	end NAME SIGNAL [CODE]           stops it (SIGNAL -: waits for it), wants this exit code (- for any), and has its output for stdout and stderr
//	tree                             copies this repository into $WORK/tree
//	shown FILE TEXT                  the document has this, in a line
//	block FILE HEAD TO               writes the block of the document that begins with the line HEAD to the file TO
//	free VAR                         a free port of this machine
func TestCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("short: end to end, with real processes")
	}
	d := readDocumented(t)
	scripts, err := filepath.Glob("testdata/commands/*.txtar")
	require.NoError(t, err)
	covered(t, d, scripts)
	program, err := simulator()
	require.NoError(t, err)
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	testscript.Run(t, testscript.Params{
		Files:              scripts,
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", strings.Join([]string{e.WorkDir + "/bin", filepath.Dir(program), os.Getenv("PATH"), "/usr/sbin", "/sbin"}, ":"))
			e.Setenv("ROOT", root)
			tool, err := exec.LookPath("go")
			if err != nil {
				return err
			}
			e.Setenv("TOOL", tool)
			for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPROXY"} {
				out, err := exec.Command("go", "env", name).Output()
				if err != nil {
					return err
				}
				e.Setenv(name, strings.TrimSpace(string(out)))
			}
			e.Setenv("NOTIFY_SOCKET", "")
			s := &scene{t: e.T(), work: e.WorkDir, documents: d, behind: map[string]*process{}}
			e.Values[sceneKey{}] = s
			e.Defer(s.close)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"documented": in((*scene).documented),
			"elsewhere":  in((*scene).elsewhere),
			"nowhere":    in((*scene).nowhere),
			"needs":      in((*scene).needs),
			"put":        in((*scene).put),
			"box":        in((*scene).box),
			"inside":     in((*scene).inside),
			"start":      in((*scene).behindCmd),
			"await":      in((*scene).await),
			"until":      in((*scene).until),
			"end":        in((*scene).end),
			"tree":       in((*scene).tree),
			"shown":      in((*scene).shown),
			"block":      in((*scene).block),
			"free":       in((*scene).free),
		},
	})
}

var scripted = regexp.MustCompile(`^(documented(?: &\w+| \d+)?|elsewhere|nowhere) (\S+) (?:'((?:[^']|\'\')*)'|(\S+))`)

// covered wants each documented command in a script. A mere name in the text is covered by a command that begins with it.
func covered(t *testing.T, d documents, scripts []string) {
	has := map[string]map[string]bool{}
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "-- ") {
				break
			}
			if m := scripted.FindStringSubmatch(line); m != nil {
				if has[m[2]] == nil {
					has[m[2]] = map[string]bool{}
				}
				has[m[2]][strings.ReplaceAll(m[3], "''", "'")+m[4]] = true
			}
		}
	}
	begun := func(name string) bool {
		for _, commands := range has {
			for c := range commands {
				for _, c := range variants(c) {
					if c = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(c, "sudo -u homeward "), "sudo "), "bin/"); strings.HasPrefix(c+" ", name+" ") {
						return true
					}
				}
			}
		}
		return false
	}
	for file := range d.commands {
		for _, c := range slices.Concat(d.commands[file], d.synopses[file]) {
			if !has[file][c] && !has["*"][c] && !(d.names[c] && begun(c)) {
				t.Errorf("%s: no script in testdata/commands runs: %s", file, c)
			}
		}
	}
}

type sceneKey struct{}

// scene is what a script has set up.
type scene struct {
	t         testscript.T
	work      string
	documents documents
	puts      []string
	holder    *exec.Cmd // of the box
	behind    map[string]*process
}

// process is a command in the background.
type process struct {
	cmd      *exec.Cmd
	out, err string // files
	done     chan error
}

// in finds the script's scene; none of the commands can be negated.
func in(do func(*scene, *testscript.TestScript, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("unsupported: !")
		}
		do(ts.Value(sceneKey{}).(*scene), ts, args)
	}
}

func want(ts *testscript.TestScript, args []string, least, most int, usage string) {
	if len(args) < least || len(args) > most {
		ts.Fatalf("usage: %s", usage)
	}
}

func (s *scene) close() {
	for _, p := range s.behind {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
	if s.holder != nil {
		_ = s.holder.Process.Kill()
		_ = s.holder.Wait()
	}
}

func (s *scene) has(ts *testscript.TestScript, file, command string) {
	if file == "*" {
		for file := range s.documents.commands {
			if slices.Contains(s.documents.commands[file], command) {
				return
			}
		}
		ts.Fatalf("no document has the command: %s", command)
	}
	if !slices.Contains(s.documents.commands[file], command) && !slices.Contains(s.documents.synopses[file], command) {
		ts.Fatalf("%s has no command: %s", file, command)
	}
}

func (s *scene) documented(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, 3, "documented [CODE|&NAME] FILE COMMAND")
	code, name := 0, ""
	if len(args) == 3 {
		var ok bool
		if name, ok = strings.CutPrefix(args[0], "&"); !ok {
			var err error
			code, err = strconv.Atoi(args[0])
			ts.Check(err)
			name = ""
		}
		args = args[1:]
	}
	s.has(ts, args[0], args[1])
	var all []string
	for _, c := range variants(args[1]) {
		for i := 0; i < len(s.puts); i += 2 {
			c = strings.ReplaceAll(c, s.puts[i], s.puts[i+1])
		}
		if slices.Contains(s.documents.synopses[args[0]], args[1]) && open.MatchString(setting.ReplaceAllString(strings.ReplaceAll(c, s.work, ""), "")) {
			ts.Fatalf("put something for what is open in: %s", c)
		}
		all = append(all, s.become(c))
	}
	if name != "" {
		if len(all) != 1 {
			ts.Fatalf("one command, not %d, can run in the background", len(all))
		}
		s.start(ts, name, all[0])
		return
	}
	var out, errs strings.Builder
	for _, c := range all {
		if got := s.sh(ts, c); got != code {
			ts.Fatalf("%s: exit %d, want %d", c, got, code)
		}
		out.WriteString(ts.ReadFile("stdout"))
		errs.WriteString(ts.ReadFile("stderr"))
	}
	if len(all) > 1 {
		s.says(ts, out.String(), errs.String())
	}
}

// says makes what was printed the output that stdout and stderr look at.
func (s *scene) says(ts *testscript.TestScript, out, errs string) {
	ts.Check(os.WriteFile(s.work+"/.out", []byte(out), 0o600))
	ts.Check(os.WriteFile(s.work+"/.err", []byte(errs), 0o600))
	ts.Check(ts.Exec("sh", "-c", `cat "$1"; cat "$2" >&2`, "sh", s.work+"/.out", s.work+"/.err"))
}

var (
	optional = regexp.MustCompile(` \[([^\]]+)\]`)
	choice   = regexp.MustCompile(`[a-z]+(?:\|[a-z]+)+`)
)

// variants of a synopsis: without and with all of [x], and each of a|b. A command in which | is a pipe has spaces around it.
func variants(synopsis string) []string {
	all := []string{synopsis}
	if optional.MatchString(synopsis) {
		all = []string{optional.ReplaceAllString(synopsis, ""), optional.ReplaceAllString(synopsis, " $1")}
	}
	if m := choice.FindString(synopsis); m != "" {
		var each []string
		for _, one := range strings.Split(m, "|") {
			for _, c := range all {
				each = append(each, strings.Replace(c, m, one, 1))
			}
		}
		return each
	}
	return all
}

// become takes sudo away; in the box the user after -u is heeded.
func (s *scene) become(command string) string {
	as := regexp.MustCompile(`^sudo (?:-u ([a-z]+) )?`).FindStringSubmatch(command)
	if as == nil {
		return command
	}
	command = strings.TrimPrefix(command, as[0])
	if as[1] != "" && s.holder != nil {
		command = "setpriv --reuid=" + as[1] + " --regid=" + as[1] + " --init-groups -- " + command
	}
	return command
}

// argv is sh with the command, in the box if there is one.
func (s *scene) argv(ts *testscript.TestScript, command string) []string {
	if s.holder == nil {
		return []string{"sh", "-c", command}
	}
	return []string{"nsenter", "-t", strconv.Itoa(s.holder.Process.Pid), "-m", "-n", "sh", "-c", "cd '" + ts.MkAbs(".") + "'; " + command}
}

func (s *scene) sh(ts *testscript.TestScript, command string) int {
	argv := s.argv(ts, command)
	ts.Logf("$ %s", command)
	err := ts.Exec(argv[0], argv[1:]...)
	if failed, ok := err.(*exec.ExitError); ok {
		return failed.ExitCode()
	}
	ts.Check(err)
	return 0
}

func (s *scene) behindCmd(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, 2, "start NAME COMMAND")
	s.start(ts, args[0], args[1])
}

func (s *scene) start(ts *testscript.TestScript, name, command string) {
	if s.behind[name] != nil {
		ts.Fatalf("%s: runs already", name)
	}
	ts.Check(ts.Exec("env", "-0"))
	env := strings.Split(strings.TrimRight(ts.ReadFile("stdout"), "\x00"), "\x00")
	p := &process{out: filepath.Join(s.work, "."+name+".out"), err: filepath.Join(s.work, "."+name+".err"), done: make(chan error, 1)}
	out, err := os.Create(p.out)
	ts.Check(err)
	defer out.Close()
	errs, err := os.Create(p.err)
	ts.Check(err)
	defer errs.Close()
	argv := s.argv(ts, "trap : INT TERM; "+command) // sh waits, and ends as the command does
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = ts.MkAbs("."), env, out, errs
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ts.Logf("$ %s &", command)
	ts.Check(p.cmd.Start())
	go func() { p.done <- p.cmd.Wait(); close(p.done) }()
	s.behind[name] = p
}

func (s *scene) running(ts *testscript.TestScript, name string) *process {
	if s.behind[name] == nil {
		ts.Fatalf("%s: nothing of this name runs", name)
	}
	return s.behind[name]
}

func (s *scene) await(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, 3, "await NAME PATTERN [VAR]")
	p := s.running(ts, args[0])
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		said := ts.ReadFile(p.out) + ts.ReadFile(p.err)
		if m := re.FindStringSubmatch(said); m != nil {
			if len(args) == 3 {
				ts.Setenv(args[2], m[1])
			}
			return
		}
		select {
		case err := <-p.done:
			delete(s.behind, args[0])
			ts.Fatalf("%s ended (%v) and never said %s, but:\n%s", args[0], err, args[1], said)
		default:
		}
		if time.Now().After(end) {
			ts.Fatalf("%s never said %s, but:\n%s", args[0], args[1], said)
		}
	}
}

func (s *scene) until(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, 1, "until COMMAND")
	for end := time.Now().Add(patience); s.sh(ts, args[0]) != 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("never: %s", args[0])
		}
	}
}

func (s *scene) end(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, 3, "end NAME SIGNAL [CODE]")
	p := s.running(ts, args[0])
	signal := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}[args[1]]
	if signal != 0 {
		ts.Check(syscall.Kill(-p.cmd.Process.Pid, signal))
	}
	code := "0"
	if len(args) == 3 {
		code = args[2]
	}
	select {
	case <-p.done:
		delete(s.behind, args[0])
	case <-time.After(patience):
		ts.Fatalf("%s does not end", args[0])
	}
	s.says(ts, ts.ReadFile(p.out), ts.ReadFile(p.err))
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); code != "-" && got != code {
		ts.Fatalf("%s: %v, want exit code %s", args[0], p.cmd.ProcessState, code)
	}
}

func (s *scene) elsewhere(ts *testscript.TestScript, args []string) {
	want(ts, args, 4, 4, "elsewhere FILE COMMAND PATH TEXT")
	s.has(ts, args[0], args[1])
	text, err := os.ReadFile(filepath.Join(ts.Getenv("ROOT"), args[2]))
	ts.Check(err)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.Contains(line, args[3]) && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "//") {
			return
		}
	}
	ts.Fatalf("%s has no line with: %s", args[2], args[3])
}

func (s *scene) nowhere(ts *testscript.TestScript, args []string) {
	want(ts, args, 3, 3, "nowhere FILE COMMAND WHY")
	s.has(ts, args[0], args[1])
}

func (s *scene) put(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, 2, "put OLD NEW")
	s.puts = append(s.puts, args...)
}

func (s *scene) box(ts *testscript.TestScript, args []string) {
	want(ts, args, 0, 0, "box")
	own := filepath.Join(s.work, "box")
	ts.Check(os.Mkdir(own, 0o755))
	s.holder = exec.Command("unshare", "--mount", "--net", "sh", "-ec", `
		mount -t tmpfs tmpfs "$0"
		for d in etc var/lib usr/local; do
			mkdir -p "$0/up/$d" "$0/behind/$d"
			mount -t overlay overlay -o "lowerdir=/$d,upperdir=$0/up/$d,workdir=$0/behind/$d" "/$d"
		done
		mount -t tmpfs tmpfs /run # no systemd
		ip link set lo up
		echo ready
		exec sleep 600`, own)
	s.holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errs strings.Builder
	s.holder.Stderr = &errs
	said, err := s.holder.StdoutPipe()
	ts.Check(err)
	ts.Check(s.holder.Start())
	if n, _ := said.Read(make([]byte, 8)); n == 0 {
		err := s.holder.Wait()
		s.holder = nil
		without(s.t, fmt.Sprintf("a machine of its own (root, unshare, overlayfs): %v: %s", err, errs.String()))
	}
}

// without is cloudtest.Without for a script.
func without(t testscript.T, what string) {
	if os.Getenv("CI") != "" {
		t.Fatal("needs " + what)
	}
	t.Skip("needs " + what)
}

func (s *scene) needs(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, 2, "needs COMMAND PACKAGE")
	if s.sh(ts, args[0]) != 0 {
		what := args[1]
		if !strings.Contains(what, "/") {
			what = "sudo apt-get install " + what
		}
		without(s.t, what)
	}
}

func (s *scene) inside(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, 1, "inside COMMAND")
	if got := s.sh(ts, args[0]); got != 0 {
		ts.Fatalf("%s: exit %d", args[0], got)
	}
}

func (s *scene) tree(ts *testscript.TestScript, args []string) {
	want(ts, args, 0, 0, "tree")
	root := ts.Getenv("ROOT")
	ts.Check(filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		rel, err2 := filepath.Rel(root, path)
		if err != nil || err2 != nil {
			return fmt.Errorf("%w %w", err, err2)
		}
		to := filepath.Join(s.work, "tree", rel)
		switch {
		case slices.Contains([]string{".git", "bin", "build"}, rel):
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(to, 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(to, text, info.Mode())
	}))
}

func (s *scene) read(ts *testscript.TestScript, file string) string {
	text, err := os.ReadFile(filepath.Join(ts.Getenv("ROOT"), file))
	ts.Check(err)
	return string(text)
}

func (s *scene) shown(ts *testscript.TestScript, args []string) {
	want(ts, args, 2, 2, "shown FILE TEXT")
	if !strings.Contains(s.read(ts, args[0]), args[1]) {
		ts.Fatalf("%s does not show: %s", args[0], args[1])
	}
}

func (s *scene) block(ts *testscript.TestScript, args []string) {
	want(ts, args, 3, 3, "block FILE HEAD TO")
	_, text, ok := strings.Cut(s.read(ts, args[0]), "\n"+args[1])
	if !ok {
		ts.Fatalf("%s has no line that begins with: %s", args[0], args[1])
	}
	text, _, _ = strings.Cut(text, "\n```")
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(args[1]+text+"\n"), 0o644))
}

func (s *scene) free(ts *testscript.TestScript, args []string) {
	want(ts, args, 1, 1, "free VAR")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], port)
}
