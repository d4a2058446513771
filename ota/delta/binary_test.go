package delta

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// forged is a program with something of the same length in another's place.
func forged(t *testing.T, data []byte, old, new string) []byte {
	t.Helper()
	require.Len(t, new, len(old))
	require.True(t, bytes.Contains(data, []byte(old)), old)
	return bytes.ReplaceAll(data, []byte(old), []byte(new))
}

func TestCheckBinary(t *testing.T) {
	t.Parallel()
	good := build(t, "p", program(1), stripped)
	armv6 := build(t, "p", program(1), stripped, "GOARCH=arm", "GOARM=6")
	cut := func(n int) []byte { return bytes.Clone(good[:n]) }
	machine := func(m elf.Machine) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint16(b[18:], uint16(m))
		return b
	}
	interpreter := bytes.Clone(good)
	binary.LittleEndian.PutUint32(interpreter[binary.LittleEndian.Uint64(good[32:]):], uint32(elf.PT_INTERP)) // its first program header
	for _, tt := range []struct {
		name           string
		data           []byte
		platform, code string
		want           string
	}{
		{"arm64", good, "linux-arm64", "", ""},
		{"amd64", build(t, "p", program(1), stripped, "GOARCH=amd64"), "linux-amd64", "", ""},
		{"armv6", armv6, "linux-armv6", "", ""},
		{"armv7", forged(t, armv6, "GOARM=6", "GOARM=7"), "linux-armv7", "", ""},
		{"armv5", forged(t, armv6, "GOARM=6", "GOARM=5"), "", "binary.platform", `GOARM: "5": want 6 or 7`},
		{"another machine", machine(elf.EM_RISCV), "", "binary.platform", "EM_RISCV"},
		{"another machine than the build's", machine(elf.EM_X86_64), "", "binary.platform", `GOARCH: "arm64": want amd64`},
		{"another system", forged(t, good, "GOOS=linux", "GOOS=plan9"), "", "binary.platform", `GOOS: "plan9": want linux`},
		{"uncompressed DWARF", build(t, "p", program(1), "-compressdwarf=false"), "linux-arm64", "", ""},
		{"compressed DWARF", build(t, "p", program(1), ""), "", "binary.dwarf", `-ldflags "-s -w" (none) or -ldflags -compressdwarf=false`},
		{"a dynamic loader", interpreter, "", "binary.dynamic", "CGO_ENABLED=0"},
		{"no build information", forged(t, good, "Go buildinf:", "no buildinf:"), "", "binary.format", "build information"},
		{"Windows", []byte("MZ\x90\x00"), "", "binary.format", "ELF"},
		{"a script", []byte("#!/bin/sh\necho hello\n"), "", "binary.format", "ELF"},
		{"empty", nil, "", "binary.format", "ELF"},
		{"cut", cut(len(good) / 2), "", "binary.format", ""},
		{"header only", cut(64), "", "binary.format", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := CheckBinary(bytes.NewReader(tt.data))
			require.Equal(t, tt.code, code(err), "%v", err)
			if tt.code != "" {
				require.ErrorContains(t, err, tt.want)
				return
			}
			require.Equal(t, tt.platform, b.Platform)
			require.Equal(t, "example", b.Main)
			require.Contains(t, b.Go, "go1.")
			require.Equal(t, tt.name == "uncompressed DWARF", b.DWARF)
		})
	}
	for _, path := range []string{"/bin/sh", "/usr/bin/env"} { // C, with libraries
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		_, err = CheckBinary(f)
		require.Equal(t, "binary.dynamic", code(err), "%s: %v", path, err)
		require.NoError(t, f.Close())
	}
}
