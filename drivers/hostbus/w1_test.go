package hostbus

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"homeward/drivers"
	"homeward/drivers/sim"
)

func TestW1Folder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "devices")
	bus := drivers.Bus{Kind: drivers.W1Bus, Name: dir}
	refused := func(text string, is error) {
		h, err := Open(t.Context(), bus)
		require.Nil(t, h)
		require.ErrorIs(t, err, is)
		require.ErrorContains(t, err, text)
	}
	refused("raspi-config", drivers.ErrGone)
	require.NoError(t, os.Mkdir(dir, 0o755))
	refused("no bus master", drivers.ErrGone)
	master := filepath.Join(dir, "w1_bus_master1")
	require.NoError(t, os.Mkdir(master, 0o755))
	h, err := Open(t.Context(), bus)
	require.NoError(t, err)
	ids, err := h.W1.Devices()
	require.NoError(t, err)
	require.Empty(t, ids)

	const id = "28-0316a2798bff"
	chip := filepath.Join(dir, id)
	for _, name := range []string{"28-0316a2798bfe", id, "something"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	ids, err = h.W1.Devices()
	require.NoError(t, err)
	require.Equal(t, []string{"28-0316a2798bfe", id}, ids)
	_, err = h.W1.Read(id, "w1_slave")
	require.ErrorIs(t, err, drivers.ErrWrong)
	require.ErrorContains(t, err, "w1_therm")
	file := filepath.Join(chip, "w1_slave")
	require.NoError(t, os.WriteFile(file, []byte("hello"), 0o600))
	text, err := h.W1.Read(id, "w1_slave")
	require.NoError(t, err)
	require.Equal(t, "hello", string(text))
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("x"), maxW1File+1), 0o600))
	_, err = h.W1.Read(id, "w1_slave")
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.NoError(t, os.Remove(file))
	require.NoError(t, unix.Mkfifo(file, 0o600))
	_, err = h.W1.Read(id, "w1_slave")
	require.ErrorContains(t, err, "regular file", "and does not wait for a writer")
	for _, name := range []string{"..", "", "28-x", id + "/.."} {
		_, err = h.W1.Read(name, "w1_slave")
		require.ErrorIs(t, err, drivers.ErrWrong, name)
	}
	_, err = h.W1.Read(id, "../x")
	require.ErrorIs(t, err, drivers.ErrWrong)
	_, err = h.W1.Read("28-0316a2798b00", "w1_slave")
	require.ErrorIs(t, err, drivers.ErrTimeout)
	require.NoError(t, os.RemoveAll(dir))
	_, err = h.W1.Read(id, "w1_slave")
	require.ErrorIs(t, err, drivers.ErrGone)
	_, err = h.W1.Devices()
	require.ErrorIs(t, err, drivers.ErrGone)
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	refused("want a folder", drivers.ErrWrong)
}

// TestW1OverTheSocket of a simulator.
func TestW1OverTheSocket(t *testing.T) {
	w := &sim.World{}
	b, c := w.AddW1("w1"), sim.NewDS18B20(w, "flow", sim.Constant(21.5))
	require.NoError(t, b.Add(c))
	socket := filepath.Join(t.TempDir(), "s")
	l, err := sim.Listen(socket)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.ServeListener(ctx, l) }()
	defer func() { cancel(); require.NoError(t, <-served) }()
	t.Setenv(sim.Env, socket)
	h, err := Open(t.Context(), drivers.Bus{Kind: drivers.W1Bus, Name: "sim:w1"})
	require.NoError(t, err)
	defer h.Close()
	ids, err := h.W1.Devices()
	require.NoError(t, err)
	require.Equal(t, []string{c.ID()}, ids)
	text, err := h.W1.Read(c.ID(), "w1_slave")
	require.NoError(t, err)
	require.Contains(t, string(text), "58 01 4b 46 7f ff 08 10")
	require.Contains(t, string(text), "t=21500\n")
	_, err = h.W1.Read("28-000000000001", "w1_slave")
	require.ErrorIs(t, err, drivers.ErrTimeout)
	_, err = h.W1.Read("", "w1_slave")
	require.Error(t, err)
	b.SetGone(true)
	_, err = h.W1.Read(c.ID(), "w1_slave")
	require.ErrorIs(t, err, drivers.ErrGone)
	_, err = Open(t.Context(), drivers.Bus{Kind: drivers.W1Bus, Name: "sim:other"})
	require.ErrorIs(t, err, drivers.ErrGone)
}
