package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"homeward/cmd/homeward-simulate/cli"
	gateway "homeward/cmd/homeward/cli"
)

// documented are the commands in README.md and docs/, by file: what stands in a block of commands, and what stands in
// the text between backquotes and begins with a program of ours. Those that name what to put in (FILE, […], a|b) are
// synopses.
type documented struct{ commands, synopses map[string][]string }

var (
	ours      = regexp.MustCompile(`^(?:bin/)?(?:homeward|homeward-simulate) [a-z-]|^(?:sudo )?scripts/[a-z-]+(?: |$)|^make [a-z]`)
	starts    = regexp.MustCompile(`^(?:\$ |sudo |make |(?:bin/)?homeward(?:-simulate)? |scripts/|scp |mosquitto_sub |systemctl |journalctl |go |export |HOMEWARD_|ONLY=|python3 |apt |dpkg |systemd-creds )`)
	comment   = regexp.MustCompile(` +# .*$`)
	open      = regexp.MustCompile(`[A-Z]{4,}|…|\||\[-|\[[A-Z]`)
	backquote = regexp.MustCompile("`([^`\n]+)`")
)

func readDocumented(t *testing.T) documented {
	d := documented{map[string][]string{}, map[string][]string{}}
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	for _, path := range append(files, "../../README.md", "../../CONTRIBUTING.md") {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		name := strings.TrimPrefix(path, "../../")
		add := func(command string, prose bool) {
			command = strings.TrimPrefix(comment.ReplaceAllString(strings.TrimSpace(command), ""), "$ ")
			into := d.commands
			if prose && open.MatchString(command) {
				into = d.synopses
			}
			if !slices.Contains(into[name], command) {
				into[name] = append(into[name], command)
			}
		}
		fenced, plain := false, false
		for line := range strings.Lines(string(text)) {
			line = strings.TrimRight(line, "\n")
			switch {
			case strings.HasPrefix(strings.TrimSpace(line), "```"):
				fenced, plain = !fenced, slices.Contains([]string{"```", "```sh", "```console"}, strings.TrimSpace(line))
			case fenced && plain && starts.MatchString(line):
				add(line, false)
			case !fenced:
				for _, m := range backquote.FindAllStringSubmatch(line, -1) {
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
	roots := map[string]*cobra.Command{"homeward": gateway.Command(), "homeward-simulate": cli.Command()}
	looked := 0
	for _, file := range slices.Sorted(maps.Keys(d.commands)) {
		for _, s := range slices.Concat(d.synopses[file], d.commands[file]) {
			s = strings.TrimPrefix(strings.TrimPrefix(s, "sudo -u homeward "), "bin/")
			if s == "homeward receipt 1" { // the head of a receipt
				continue
			}
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
