package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
)

// serveWorld serves w until the returned function is called, and points $HOMEWARD_SIM at it.
func serveWorld(t *testing.T, w *World) (stop func()) {
	path := filepath.Join(t.TempDir(), "sim.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.ServeListener(ctx, l) }()
	t.Setenv(Env, path)
	return sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func TestSocket(t *testing.T) {
	defer goleak.VerifyNone(t)
	w, clk, served := bench()
	bus := w.AddI2C("i2c-1")
	require.Same(t, bus, w.AddI2C("i2c-1"))
	require.NoError(t, bus.Add(0x76, NewBME280(w, "climate", Environment{})))
	require.ErrorContains(t, bus.Add(0x76, nil), "taken")
	require.ErrorContains(t, bus.Add(0x78, nil), "0x08 to 0x77")
	w.AddSPI("adc", NewMCP3008(w, "adc", 3.3, [8]func(time.Time) float64{Constant(1.65)}))
	line, err := NewSerialLine(filepath.Join(t.TempDir(), "port"), drivers.Line{}, echoer{make(chan struct{}, 9)}, nil)
	require.NoError(t, err)
	defer line.Close()
	w.AddSerial("rs485", line)
	w.SetClock(true, -90*time.Minute)
	stop := serveWorld(t, w)
	defer stop()
	ctx := t.Context()

	trusted, offset, err := Clock(ctx)
	require.NoError(t, err)
	require.True(t, trusted)
	require.Equal(t, -90*time.Minute, offset)

	path, err := PortPath(ctx, "sim:rs485")
	require.NoError(t, err)
	require.Equal(t, line.TTY(), path)
	require.NoError(t, line.Unplug())
	_, err = PortPath(ctx, "rs485")
	require.ErrorIs(t, err, drivers.ErrGone)
	require.ErrorContains(t, err, "unplugged")

	o, err := Open(ctx, drivers.Bus{Kind: drivers.I2C, Name: "sim:i2c-1"})
	require.NoError(t, err)
	require.Equal(t, "sim:i2c-1", o.I2C.String())
	require.NoError(t, o.I2C.SetSpeed(400e3))
	id := make([]byte, 1)
	require.NoError(t, o.I2C.Tx(0x76, []byte{0xD0}, id))
	require.Equal(t, []byte{0x60}, id)
	require.NoError(t, o.I2C.Tx(0x76, []byte{0xF4, 0x21}, nil))
	clk.t = clk.t.Add(time.Second)
	require.NoError(t, o.I2C.Tx(0x76, []byte{0xF7}, make([]byte, 8)))
	require.Equal(t, "climate/temperature", channels(*served))
	require.InDelta(t, 20, (*served)[0].raw, 0.01)
	require.ErrorIs(t, o.I2C.Tx(0x40, []byte{0}, id), syscall.ENXIO)
	require.ErrorContains(t, o.I2C.Tx(0x40, []byte{0}, id), "0x40")
	require.ErrorContains(t, o.I2C.Tx(0x76, []byte{0}, make([]byte, maxTransfer+1)), "at most 4096")
	require.NoError(t, o.I2C.Tx(0x76, []byte{0}, make([]byte, maxTransfer)))

	s, err := Open(ctx, drivers.Bus{Kind: drivers.SPI, Name: "adc"})
	require.NoError(t, err)
	require.Equal(t, "sim:adc", s.SPI.String())
	_, err = s.SPI.Connect(1e6, spi.Mode0, 16)
	require.Error(t, err)
	c, err := s.SPI.Connect(1e6, spi.Mode0, 8)
	require.NoError(t, err)
	r := make([]byte, 3)
	require.NoError(t, c.Tx([]byte{1, 0x80, 0}, r))
	require.Equal(t, []byte{0xFF, 0xFA, 0}, r)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())

	for _, b := range []drivers.Bus{{Kind: drivers.I2C, Name: "sim:i2c-2"}, {Kind: drivers.SPI, Name: "sim:i2c-1"}} {
		_, err = Open(ctx, b)
		require.ErrorIs(t, err, drivers.ErrGone)
		_, here := w.Open(b)
		require.ErrorIs(t, here, drivers.ErrGone)
		require.ErrorContains(t, here, "the simulated site has")
	}
	_, err = Open(ctx, drivers.Bus{Kind: drivers.Serial, Name: "sim:rs485"})
	require.ErrorContains(t, err, "want i2c, spi or w1")

	stop()
	for range 2 {
		require.ErrorIs(t, o.I2C.Tx(0x76, []byte{0xD0}, id), drivers.ErrGone, "the simulator has gone")
	}
	require.NoError(t, o.Close())
	_, err = Open(ctx, drivers.Bus{Kind: drivers.I2C, Name: "sim:i2c-1"})
	require.ErrorIs(t, err, drivers.ErrGone)
	t.Setenv(Env, "")
	_, _, err = Clock(ctx)
	require.ErrorContains(t, err, "$HOMEWARD_SIM is not set")
	require.NotErrorIs(t, err, drivers.ErrGone)
}

// TestSilentSimulator: one that accepts and says nothing costs no more than the caller's deadline.
func TestSilentSimulator(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sim.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	t.Setenv(Env, path)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, _, err = Clock(ctx)
	require.ErrorIs(t, err, drivers.ErrGone)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sim.sock")
	l, err := Listen(path)
	require.NoError(t, err)
	_, err = Listen(path)
	require.ErrorContains(t, err, "another simulator")
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	l, err = Listen(path)
	require.NoError(t, err, "one left behind by a kill")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, l.Close())
	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	_, err = Listen(path)
	require.Error(t, err)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "precious", string(b))
}

func TestI2CFaults(t *testing.T) {
	w, _, _ := bench()
	bus := w.AddI2C("b")
	chip := NewBMP280(w, "x", Environment{})
	require.NoError(t, bus.Add(0x77, chip))
	id := func() (byte, error) {
		r := make([]byte, 1)
		err := bus.Tx(0x77, []byte{0xD0}, r)
		return r[0], err
	}
	bus.SetFault(0x77, BusFault{NACK: true, Times: 2})
	for range 2 {
		_, err := id()
		require.ErrorIs(t, err, syscall.ENXIO)
	}
	v, err := id()
	require.NoError(t, err)
	require.Equal(t, byte(0x58), v)
	bus.SetFault(0x77, BusFault{Flip: 2})
	v, err = id()
	require.NoError(t, err)
	require.Equal(t, byte(0x58^0x40), v)
	bus.SetFault(0x77, BusFault{Stuck: time.Millisecond, Times: 1})
	_, err = id()
	require.ErrorIs(t, err, drivers.ErrTimeout)
	require.NoError(t, bus.Tx(0x77, []byte{0xF5, 0xE0}, nil))
	bus.Unplug(0x77)
	_, err = id()
	require.ErrorIs(t, err, syscall.ENXIO)
	bus.Plug(0x77)
	config := make([]byte, 1)
	require.NoError(t, bus.Tx(0x77, []byte{0xF5}, config))
	require.Zero(t, config[0], "it has lost what was set")
	bus.SetGone(true)
	_, err = id()
	require.ErrorIs(t, err, drivers.ErrGone)
	bus.SetGone(false)
	_, err = id()
	require.NoError(t, err)
}

func TestSPIFaults(t *testing.T) {
	w, _, _ := bench()
	d := w.AddSPI("d", NewBMP280(w, "x", Environment{}))
	o, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:d"})
	require.NoError(t, err)
	c, err := o.SPI.Connect(0, spi.Mode3, 8)
	require.NoError(t, err)
	id := func() byte {
		r := make([]byte, 2)
		require.NoError(t, c.Tx([]byte{0xD0, 0}, r))
		return r[1]
	}
	d.SetFault(BusFault{Float: true, Times: 1})
	require.Equal(t, byte(0), id())
	d.SetFault(BusFault{Float: true, Level: 0xFF, Times: 1})
	require.Equal(t, byte(0xFF), id())
	d.SetFault(BusFault{Flip: 16, Times: 1})
	require.Equal(t, byte(0x59), id())
	d.Unplug()
	require.Equal(t, byte(0xFF), id())
	d.Plug()
	require.Equal(t, byte(0x58), id())
}

// FuzzClient throws bytes at the server: it answers or hangs up, and stays bounded.
func FuzzClient(f *testing.F) {
	for _, q := range []request{{Op: opClock}, {Op: opOpen, Kind: drivers.I2C, Name: "b"}, {Op: opTx, N: -1}, {Op: opTx, W: []byte{1}, N: 1 << 30}, {Op: opPort, Name: "x"}, {Op: "?"}} {
		var b bytes.Buffer
		if err := writeMessage(&b, q); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add(binary.BigEndian.AppendUint32(nil, 1<<31))
	f.Fuzz(func(t *testing.T, in []byte) {
		w := &World{Now: func() time.Time { return time.Unix(0, 0) }}
		if err := w.AddI2C("b").Add(0x76, NewBME280(w, "x", Environment{})); err != nil {
			t.Fatal(err)
		}
		w.AddSPI("s", NewMCP3208(w, "s", 5, [8]func(time.Time) float64{}))
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer theirs.Close()
			_ = w.client(theirs)
		}()
		got := make(chan struct{})
		go func() {
			defer close(got)
			_, _ = io.Copy(io.Discard, ours)
		}()
		_, _ = ours.Write(in)
		ours.Close()
		<-done
		<-got
	})
}
