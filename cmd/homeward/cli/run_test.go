package cli

import (
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/buffer"
)

// Why a gateway does not start comes with what to do.
func TestStartError(t *testing.T) {
	c := &config.Config{State: "/s"}
	err := fmt.Errorf("agent: state folder: %w", &fs.PathError{Op: "mkdir", Path: "/s", Err: fs.ErrPermission})
	require.ErrorContains(t, startError(c, err), "mkdir /s: permission denied: run this as the user that owns the state folder (sudo -u homeward …)")
	require.ErrorIs(t, startError(c, err), err)
	require.ErrorContains(t, startError(c, fmt.Errorf("x: %w", buffer.ErrBusy)), "another gateway runs with the state folder /s: ")
	require.Equal(t, fs.ErrInvalid, startError(c, fs.ErrInvalid))
}
