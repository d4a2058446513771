// Command package writes the Debian package of the gateway: the files that scripts/install
// stages, the papers that Debian wants beside them and the maintainer scripts of
// configs/package. It promises a version that dpkg accepts and that no
// unfinished package has a package's name.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
)

// archs are Debian's names. armhf is built for ARMv6, which the first Raspberry Pi and the
// Zero are: Raspberry Pi OS calls that armhf too.
var archs = []string{"armhf", "arm64", "amd64"}

const usageText = `Write the Debian package of a built gateway.

  package --version VERSION --arch ARCH [--source DIR] [--out DIR] PROGRAM

Flags:
`

func main() {
	set := flag.NewFlagSet("package", flag.ContinueOnError)
	version := set.String("version", "", "`version`, as git describe --tags --always --dirty prints it")
	arch := set.String("arch", "", "Debian's `name` of the architecture: "+strings.Join(archs, ", "))
	source := set.String("source", ".", "the repository's `folder`")
	out := set.String("out", "build", "`folder` that the package is written to")
	set.Usage = func() {
		fmt.Fprint(set.Output(), usageText)
		set.PrintDefaults()
	}
	if err := set.Parse(os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		return
	} else if err != nil {
		os.Exit(2)
	}
	if set.NArg() != 1 {
		fmt.Fprintf(os.Stderr, "package: %d programs: want one: see --help\n", set.NArg())
		os.Exit(2)
	}
	path, err := build(*source, *out, *version, *arch, set.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
	info, err := os.Stat(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
	fmt.Printf("%-50s %8.2f MB\n", path, float64(info.Size())/1e6)
}

var (
	legal  = regexp.MustCompile(`^[0-9][0-9A-Za-z.+~]*$`) // deb-version(7), without epoch and revision
	commit = regexp.MustCompile(`^[0-9a-f]{7,40}$`)
	ahead  = regexp.MustCompile(`-([0-9]+)-g([0-9a-f]{7,40})$`)
)

// debianVersion turns what git describe prints into a version that sorts as the history does:
// v1.2.0-rc1 before v1.2.0 before v1.2.0-3-gabcdef0. A commit without a tag sorts before every
// release, and two of them in no order.
func debianVersion(describe string) (string, error) {
	v, dirty := strings.CutSuffix(describe, "-dirty")
	plus := ""
	switch m := ahead.FindStringSubmatchIndex(v); {
	case m != nil:
		plus = "+" + v[m[2]:m[3]] + ".g" + v[m[4]:m[5]]
		v = v[:m[0]]
	case commit.MatchString(v):
		v, plus = "0.0.0", "+g"+v
	case v == "dev":
		v, plus = "0.0.0", "+dev"
	}
	v = strings.TrimPrefix(v, "v")
	if release, pre, ok := strings.Cut(v, "-"); ok {
		v = release + "~" + strings.ReplaceAll(pre, "-", ".")
	}
	v += plus
	if dirty {
		if plus == "" {
			v += "+dirty"
		} else {
			v += ".dirty"
		}
	}
	if !legal.MatchString(v) {
		return "", fmt.Errorf("--version %q: is no version: want one like v1.2.0, v1.2.0-rc1, v1.2.0-3-gabcdef0 or a commit", describe)
	}
	return v, nil
}

// build stages program and writes out/homeward_VERSION_ARCH.deb, whose path it returns.
func build(source, out, describe, arch, program string) (path string, err error) {
	version, err := debianVersion(describe)
	if err != nil {
		return "", err
	}
	if !slices.Contains(archs, arch) {
		return "", fmt.Errorf("--arch %q: want one of %s", arch, strings.Join(archs, ", "))
	}
	stage, err := os.MkdirTemp("", "homeward-package-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	run := exec.Command(filepath.Join(source, "scripts", "install"), "--stage", stage, program)
	if text, err := run.CombinedOutput(); err != nil {
		return "", fmt.Errorf("scripts/install --stage: %w: %s", err, strings.TrimSpace(string(text)))
	}
	maintainer := packager(source)
	if err := papers(stage, program, version, maintainer); err != nil {
		return "", err
	}
	contents, err := staged(stage)
	if err != nil {
		return "", err
	}
	script := func(name string) string { return filepath.Join(source, "configs", "package", name) }
	info := nfpm.WithDefaults(&nfpm.Info{
		Name:            "homeward",
		Arch:            arch,
		Version:         version,
		VersionSchema:   "none", // as it is
		Section:         "net",
		Maintainer:      maintainer,
		License:         "Apache-2.0",
		Description:     "edge gateway agent\nReads instruments over serial lines, I2C and SPI, keeps every reading through\ncrashes and power cuts, and publishes them to an MQTT broker.",
		DisableGlobbing: true,
		Overridables: nfpm.Overridables{
			// systemctl and systemd-sysusers, for postinst; the bus tells whether the clock is synchronised; the unit reloads with kill.
			Depends:  []string{"systemd", "default-dbus-system-bus | dbus-system-bus", "procps"},
			Contents: contents,
			Scripts: nfpm.Scripts{
				PostInstall: script("postinst"),
				PreRemove:   script("prerm"),
				PostRemove:  script("postrm"),
			},
			// Every Debian and Raspberry Pi OS that systemd-sysusers runs on unpacks xz.
			Deb: nfpm.Deb{Compression: "xz"},
		},
	})
	if err := nfpm.Validate(info); err != nil {
		return "", err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	path = filepath.Join(out, "homeward_"+version+"_"+arch+".deb")
	f, err := os.CreateTemp(out, ".homeward-*.deb")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := deb.Default.Package(info, f); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	return path, os.Rename(f.Name(), path)
}

// staged lists the files below stage. Those of /etc are the administrator's once installed, as
// in scripts/install, which never overwrites them: dpkg's word for that is a conffile.
func staged(stage string) (files.Contents, error) {
	var list files.Contents
	err := filepath.WalkDir(stage, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		to := strings.TrimPrefix(path, stage)
		c := &files.Content{Source: path, Destination: to}
		switch {
		case d.Type() == fs.ModeSymlink:
			c.Type = files.TypeSymlink
			if c.Source, err = os.Readlink(path); err != nil {
				return err
			}
		case !d.Type().IsRegular():
			return fmt.Errorf("%s: is no regular file", path)
		}
		if strings.HasPrefix(to, "/etc/") {
			c.Type = files.TypeConfig
		}
		list = append(list, c)
		return nil
	})
	if err == nil && len(list) == 0 {
		err = errors.New("scripts/install --stage: left no file")
	}
	return list, err
}
