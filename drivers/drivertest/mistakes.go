package drivertest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// Mistakes sees that each of some options has one mistake, that it is named by path, and that what would be right is said.
func Mistakes(t *testing.T, path string, wrong ...drivers.Options) {
	t.Helper()
	require.NotEmpty(t, wrong)
	for i, o := range wrong {
		faults := o.Check()
		require.Len(t, faults, 1, "%s, %d", path, i)
		require.Equal(t, path, faults[0].Path)
		require.NotEmpty(t, faults[0].Want, "%s, %d", path, i)
	}
}
