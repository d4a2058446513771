package cli

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAlive: a start is given its time, and no more.
func TestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fed := 0
		stop := alive(func(state string) {
			require.Equal(t, "WATCHDOG=1", state)
			fed++
		}, 15*time.Second)
		time.Sleep(42 * time.Second)
		require.Equal(t, 9, fed)
		time.Sleep(time.Hour)
		require.LessOrEqual(t, fed, 17, "a start that hangs is not kept alive")
		stop()
		alive(func(string) { t.Error("nobody asked") }, 0)()
	})
}
