package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

const doc = "usr/share/doc/homeward"

// papers adds to the staged files what Debian's policy wants beside them: the licences of all
// that is in the program, a changelog, and manual pages compressed.
func papers(stage, program, version, maintainer string) error {
	text, err := licences(program)
	if err != nil {
		return err
	}
	log := fmt.Sprintf("homeward (%s) unstable; urgency=medium\n\n  * Made from the sources of this version: CHANGELOG.md there.\n\n -- %s  %s\n",
		version, maintainer, time.Now().UTC().Format(time.RFC1123Z))
	// A program of Go is static: it runs on any Debian, and there is no library to share.
	override := "homeward: statically-linked-binary [usr/lib/homeward/factory/agent]\nhomeward: statically-linked-binary [usr/lib/homeward/homeward-launch]\n"
	for name, text := range map[string]string{doc + "/copyright": text, doc + "/changelog": log, "usr/share/lintian/overrides/homeward": override} {
		path := filepath.Join(stage, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	pages, err := filepath.Glob(filepath.Join(stage, "usr/share/man/man8/*.8"))
	if err != nil {
		return err
	}
	for _, path := range append(pages, filepath.Join(stage, doc, "changelog")) {
		if err := compress(path); err != nil {
			return err
		}
	}
	return nil
}

// compress replaces path by path.gz, the same whenever it is made.
func compress(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	_, err = z.Write(text)
	if err := errors.Join(err, z.Close()); err != nil {
		return err
	}
	if err := os.WriteFile(path+".gz", packed.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Remove(path)
}

var (
	licence = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|edl-|epl-)`)
	// Debian has the text of this one, and wants it named instead of repeated.
	apache = regexp.MustCompile(`(?s)[ \t]*Apache License\s+Version 2\.0, January 2004.*?additional\s+liability\.[ \t]*\n(\s*END OF TERMS AND CONDITIONS[ \t]*\n)?`)
)

const apacheText = "/usr/share/common-licenses/Apache-2.0"

// licences is the copyright file: ours, and those of the modules that the program says it was
// built from, as they lie in Go's module cache.
func licences(program string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("%s: %w: want a program built by go build", program, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Homeward is copyright its authors, and licensed under the Apache License, Version 2.0:\non Debian systems see %s.\n\n"+
		"The program usr/lib/homeward/factory/agent also holds Go's run time and library, and the modules\nnamed below, each with its own licence:\n", apacheText)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "LICENSE"))
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "\n==== Go (%s)\n\n%s", info.GoVersion, text)
	dirs, err := sources(info.Deps)
	if err != nil {
		return "", err
	}
	for _, d := range dirs {
		entries, err := os.ReadDir(d.Dir)
		if err != nil {
			return "", err
		}
		found := false
		for _, e := range entries {
			if !e.Type().IsRegular() || !licence.MatchString(e.Name()) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(d.Dir, e.Name()))
			if err != nil {
				return "", err
			}
			found = true
			text = apache.ReplaceAll(text, []byte("Apache License, Version 2.0: on Debian systems see "+apacheText+".\n"))
			fmt.Fprintf(&b, "\n==== %s %s: %s\n\n%s\n", d.Path, d.Version, e.Name(), bytes.TrimSpace(text))
		}
		if !found {
			return "", fmt.Errorf("%s %s: has no licence file: want to know its terms before it is distributed", d.Path, d.Version)
		}
	}
	return b.String(), nil
}

type source struct{ Path, Version, Dir, Error string }

// sources says where the modules lie, in their order.
func sources(mods []*debug.Module) ([]source, error) {
	args := []string{"mod", "download", "-json"}
	n := 0
	for _, m := range mods {
		if m.Replace != nil {
			m = m.Replace
		}
		if strings.HasPrefix(m.Path, "./") {
			continue // of this tree: ours
		}
		args = append(args, m.Path+"@"+m.Version)
		n++
	}
	if n == 0 {
		return nil, nil
	}
	// Outside of any module: the versions are the program's, not ours.
	run := exec.Command("go", args...)
	run.Dir = os.TempDir()
	run.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	out, err := run.Output()
	var list []source
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var s source
		if err := d.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go mod download: %w", err)
		}
		if s.Error != "" {
			return nil, fmt.Errorf("%s %s: %s", s.Path, s.Version, s.Error)
		}
		list = append(list, s)
	}
	if err != nil || len(list) != n {
		return nil, fmt.Errorf("go mod download: %d of %d modules: %w", len(list), n, err)
	}
	return list, nil
}

// packager is who makes the package, since Homeward has no address of its own yet: as Debian's
// tools do it, $DEBFULLNAME and $DEBEMAIL; else the last commit's author; else who runs this.
func packager(dir string) string {
	name, address := os.Getenv("DEBFULLNAME"), os.Getenv("DEBEMAIL")
	if address == "" {
		run := exec.Command("git", "log", "-1", "--format=%an%n%ae")
		run.Dir = dir
		if out, err := run.Output(); err == nil {
			n, a, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
			name, address = cmp.Or(name, n), a
		}
	}
	if address == "" {
		address = "root@localhost"
		if u, err := user.Current(); err == nil {
			host, _ := os.Hostname()
			name, address = cmp.Or(name, u.Name, u.Username), u.Username+"@"+cmp.Or(host, "localhost")
		}
	}
	plain := regexp.MustCompile(`[\x00-\x1f<>]+`)
	return fmt.Sprintf("%s <%s>", cmp.Or(strings.TrimSpace(plain.ReplaceAllString(name, " ")), "Homeward"), plain.ReplaceAllString(address, ""))
}
