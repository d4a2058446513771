package ledger_test

import (
	"path/filepath"
	"testing"

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
