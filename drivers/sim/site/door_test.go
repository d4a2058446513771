package site

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo answers lines behind a door.
func echo(t *testing.T) *door {
	d, err := openDoor("127.0.0.1:0")
	require.NoError(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := d.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	t.Cleanup(func() { d.Close(); all.Wait() })
	return d
}

type caller struct {
	net.Conn
	r *bufio.Reader
}

func call(t *testing.T, d *door) *caller {
	c, err := net.Dial("tcp", d.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &caller{c, bufio.NewReader(c)}
}

// ask sends a line and waits for the same one.
func (c *caller) ask(wait time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte("x\n")); err != nil {
		return err
	}
	_, err := c.r.ReadString('\n')
	return err
}

const patience = 10 * time.Second

func TestDoorGone(t *testing.T) {
	d := echo(t)
	c := call(t, d)
	require.NoError(t, c.ask(patience))
	require.NoError(t, d.setGone(true))
	err := c.ask(patience)
	require.Error(t, err)
	require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "it is cut, not silent")
	_, err = net.Dial("tcp", d.Addr().String())
	require.Error(t, err, "refused")
	require.NoError(t, d.setGone(false))
	require.NoError(t, call(t, d).ask(patience), "back at the same address")
}

func TestDoorFrozen(t *testing.T) {
	d := echo(t)
	c := call(t, d)
	require.NoError(t, c.ask(patience))
	d.setFrozen(true)
	require.ErrorIs(t, c.ask(100*time.Millisecond), os.ErrDeadlineExceeded, "kept, but silent")
	other := call(t, d)
	require.ErrorIs(t, other.ask(100*time.Millisecond), os.ErrDeadlineExceeded, "taken, but silent")
	d.setFrozen(false)
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err := c.r.ReadString('\n')
	require.NoError(t, err, "what waited goes through")
	require.NoError(t, other.ask(patience))
	d.setFrozen(true)
	require.NoError(t, d.Close(), "a frozen door closes")
}
