package ledger_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/agent/ledger"
	"homeward/drivers/all"
)

// The samples keep within the budgets that they name.
func TestSamplesKeepTheirBudget(t *testing.T) {
	files, err := filepath.Glob("../../configs/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		c, err := config.Load(file, all.Factories)
		require.NoError(t, err)
		f, err := ledger.Plan(c, ledger.PlanOptions{})
		require.NoError(t, err)
		if f.Percent != nil {
			require.LessOrEqual(t, *f.Percent, 100.0, file)
		}
	}
}

var update = flag.Bool("update", false, "write the plans in testdata")

// What homeward plan prints, of a sample with made-up values and of a recording of it.
func TestPlansAsPrinted(t *testing.T) {
	c, err := config.Load("../../configs/homeward.yaml", all.Factories)
	require.NoError(t, err)
	for name, o := range map[string]ledger.PlanOptions{
		"made-up": {Devices: 100, Prices: true, Thorough: true},
		"recording": {Thorough: true, Freshness: 15 * time.Minute, Recording: func() *ledger.Recording {
			r := ledger.NewRecording(c)
			require.NoError(t, r.ReadFile("testdata/recording"))
			return r
		}()},
	} {
		f, err := ledger.Plan(c, o)
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, f.Print(&b))
		file := filepath.Join("testdata", name+".txt")
		if *update {
			require.NoError(t, os.WriteFile(file, b.Bytes(), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		alike(t, string(want), b.String())
		if name == "recording" {
			doc, err := os.ReadFile("../../docs/plan.md")
			require.NoError(t, err)
			_, shown, _ := strings.Cut(string(doc), "```text\n")
			shown, _, _ = strings.Cut(shown, "```\n")
			alike(t, shown, b.String())
		}
	}
}

// alike wants the same text, but for numbers that differ by a twentieth: a better packer is no other plan.
func alike(t *testing.T, want, have string) {
	t.Helper()
	number := regexp.MustCompile(`[0-9][0-9,.]*`)
	const hint = "go test ./agent/ledger -run AsPrinted -update, and docs/plan.md"
	require.Equal(t, number.ReplaceAllStringFunc(want, blank), number.ReplaceAllStringFunc(have, blank), hint)
	was, is := number.FindAllString(want, -1), number.FindAllString(have, -1)
	for i := range was {
		a, b := value(t, was[i]), value(t, is[i])
		require.InDelta(t, a, b, 0.05*a+1, "%s\n%s", hint, have)
	}
}

func blank(number string) string { return strings.Repeat("0", len(number)) }

func value(t *testing.T, text string) float64 {
	v, err := strconv.ParseFloat(strings.Trim(strings.ReplaceAll(text, ",", ""), "."), 64)
	require.NoError(t, err)
	return v
}
