package delta

import (
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
)

// Binary is what a program says of itself.
type Binary struct {
	Platform string // linux-arm64, linux-armv6, linux-armv7, linux-amd64
	Main     string // path of its main package
	Go       string // version of Go it was built with
	DWARF    bool   // it has debugging information, uncompressed
}

// CheckBinary looks at a program before it becomes a release: a Go program for Linux on a known platform, linked statically, without
// compressed debugging information. That would spread one changed line over the whole section: a patch of 4 MB instead of 8 KB.
// Errors have the codes binary.format, binary.platform, binary.dynamic, binary.dwarf.
func CheckBinary(r io.ReaderAt) (b Binary, err error) {
	defer func() { // debug/elf and buildinfo are not made for hostile files
		if p := recover(); p != nil {
			b, err = Binary{}, &Error{"binary.format", fmt.Sprintf("program: %v: want an ELF file as Go's linker writes it", p)}
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return Binary{}, &Error{"binary.format", fmt.Sprintf("program: %v: want an ELF file", err)}
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return Binary{}, &Error{"binary.format", fmt.Sprintf("program: ELF type %s: want an executable", f.Type)}
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return Binary{}, dynamic("it asks for a dynamic loader")
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		return Binary{}, dynamic("it needs " + strings.Join(libs, " "))
	}
	for _, s := range f.Sections {
		debugging := strings.HasPrefix(s.Name, ".debug_") || strings.HasPrefix(s.Name, ".zdebug_")
		if debugging && (s.Flags&elf.SHF_COMPRESSED != 0 || strings.HasPrefix(s.Name, ".z")) {
			return Binary{}, &Error{"binary.dwarf", fmt.Sprintf("program: section %s is compressed debugging information, which makes patches some "+
				`500 times larger: build with -ldflags "-s -w" (none) or -ldflags -compressdwarf=false`, s.Name)}
		}
		b.DWARF = b.DWARF || debugging
	}
	info, err := buildinfo.Read(r)
	if err != nil {
		return Binary{}, &Error{"binary.format", fmt.Sprintf("program: %v: want a Go program with its build information", err)}
	}
	b.Main, b.Go = info.Path, info.GoVersion
	if b.Platform, err = platform(f.Machine, info); err != nil {
		return Binary{}, err
	}
	return b, nil
}

func dynamic(why string) error {
	return &Error{"binary.dynamic", "program: linked dynamically: " + why + ", which a gateway need not have: build with CGO_ENABLED=0 and without -buildmode=pie"}
}

func platform(machine elf.Machine, info *debug.BuildInfo) (string, error) {
	setting := func(key string) string {
		for _, s := range info.Settings {
			if s.Key == key {
				return s.Value
			}
		}
		return ""
	}
	bad := func(what, bad, want string) (string, error) {
		return "", &Error{"binary.platform", fmt.Sprintf("program: %s: %q: want %s", what, bad, want)}
	}
	if os := setting("GOOS"); os != "linux" {
		return bad("GOOS", os, "linux")
	}
	arch := setting("GOARCH")
	known := map[elf.Machine]string{elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm", elf.EM_X86_64: "amd64"}[machine]
	switch {
	case known == "":
		return bad("machine", machine.String(), "EM_AARCH64, EM_ARM or EM_X86_64")
	case arch != known:
		return bad("GOARCH", arch, known+", as its ELF header has it")
	case arch != "arm":
		return "linux-" + arch, nil
	}
	switch arm, _, _ := strings.Cut(setting("GOARM"), ","); arm {
	case "6", "7":
		return "linux-armv" + arm, nil
	default:
		return bad("GOARM", setting("GOARM"), "6 or 7")
	}
}
