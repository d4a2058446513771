package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestImports holds the arrows of the architecture: imports point down only. For each
// part: the packages of this module that it may import (a trailing slash means all below).
func TestImports(t *testing.T) {
	allowed := []struct {
		part string
		may  []string
	}{
		{"homeward/buffer/durable/crashfs", []string{"homeward/buffer/durable"}},
		{"homeward/buffer/durable", nil},
		{"homeward/buffer/powercut", []string{"homeward/buffer", "homeward/buffer/", "homeward/drivers"}},
		{"homeward/buffer", []string{"homeward/drivers", "homeward/buffer/durable"}},
		{"homeward/drivers", []string{"homeward/drivers/"}},
		{"homeward/drivers/sim/site", []string{"homeward/drivers", "homeward/drivers/", "homeward/configs/plainyaml"}},
		{"homeward/drivers/", []string{"homeward/drivers", "homeward/drivers/"}},
		{"homeward/agent/cloud/", []string{"homeward/agent/cloud", "homeward/agent/cloud/", "homeward/drivers"}},
		{"homeward/agent/cloud", []string{"homeward/drivers"}},
		{"homeward/agent/pack/packed", []string{"homeward/agent/pack", "homeward/agent/config", "homeward/buffer/durable", "homeward/drivers"}},
		{"homeward/agent/pack", []string{"homeward/drivers"}},
		{"homeward/agent/config", []string{"homeward/drivers", "homeward/buffer/durable", "homeward/configs/plainyaml"}},
		{"homeward/agent/ledger", []string{"homeward/drivers", "homeward/agent/config", "homeward/agent/pack", "homeward/agent/pack/packed"}},
		{"homeward/agent/home", []string{"homeward/buffer/durable", "homeward/ota/release"}},
		{"homeward/agent/status", nil},
		{"homeward/agent", []string{"homeward/agent/", "homeward/drivers", "homeward/drivers/hostbus", "homeward/buffer", "homeward/buffer/durable", "homeward/ota", "homeward/ota/"}},
		{"homeward/ota/release", nil},
		{"homeward/ota/delta", []string{"homeward/buffer/durable"}},
		{"homeward/ota/rollout", []string{"homeward/ota/release"}},
		{"homeward/ota/trust/writer", []string{"homeward/ota/release", "homeward/ota/delta", "homeward/buffer/durable"}},
		{"homeward/ota/trust", []string{"homeward/ota/boot", "homeward/buffer/durable"}},
		{"homeward/ota/boot", []string{"homeward/buffer/durable"}},
		{"homeward/ota", []string{"homeward/ota/boot", "homeward/ota/release", "homeward/ota/delta", "homeward/ota/trust", "homeward/buffer/durable"}},
		{"homeward/cmd/homeward-launch", []string{"homeward/ota/boot", "homeward/buffer/durable"}}, // tiny, and nothing of what may be bad
		{"homeward/configs/plainyaml", nil},
		{"homeward/cmd/", []string{"homeward/"}},
		{"homeward/scripts/", []string{"homeward/"}},
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "homeward/...").Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Greater(t, len(lines), 10, "the whole module is looked at")
	match := func(pattern, path string) bool {
		return pattern == path || strings.HasSuffix(pattern, "/") && strings.HasPrefix(path, pattern)
	}
	for _, line := range lines {
		fields := strings.Fields(line)
		pkg, rule := fields[0], -1
		for i, a := range allowed { // the first that fits
			if match(a.part, pkg) {
				rule = i
				break
			}
		}
		require.GreaterOrEqual(t, rule, 0, "%s has no rule: add one here", pkg)
		for _, imp := range fields[1:] {
			if !strings.HasPrefix(imp, "homeward/") {
				continue
			}
			ok := false
			for _, m := range allowed[rule].may {
				ok = ok || match(m, imp)
			}
			require.True(t, ok, "%s imports %s: imports point down only", pkg, imp)
		}
	}
}
