package hostbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
	"homeward/drivers/sim"
)

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Setenv(sim.Env, "")
	dir := t.TempDir()
	link := func(name, to string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.Symlink(to, path))
		return path
	}
	for _, tc := range []struct {
		bus  drivers.Bus
		want error
		text string
	}{
		{drivers.Bus{Kind: drivers.I2C, Name: "/dev/i2c-9999"}, drivers.ErrGone, "raspi-config"},
		{drivers.Bus{Kind: drivers.SPI, Name: "/dev/spidev99.9"}, drivers.ErrGone, "raspi-config"},
		{drivers.Bus{Kind: drivers.I2C, Name: link("unplugged", "/dev/i2c-9999")}, drivers.ErrGone, "unplugged"},
		{drivers.Bus{Kind: drivers.I2C, Name: link("i2c-1", "/dev/null")}, drivers.ErrWrong, "/dev/i2c-1, or a link to one"},
		{drivers.Bus{Kind: drivers.SPI, Name: link("spidev0.0", "/dev/null")}, drivers.ErrWrong, "/dev/spidev0.0, or a link to one"},
		{drivers.Bus{Kind: drivers.I2C, Name: dir}, drivers.ErrWrong, "want a device"},
		{drivers.Bus{Kind: drivers.I2C, Name: "sim:air"}, nil, "homeward-simulate"},
		{drivers.Bus{Kind: drivers.SPI, Name: "sim:adc"}, nil, "homeward-simulate"},
		{drivers.Bus{Kind: drivers.Serial, Name: "sim:boiler"}, nil, "homeward-simulate"},
		{drivers.Bus{Kind: "can", Name: "/dev/can0"}, nil, `kind "can"`},
	} {
		h, err := Open(t.Context(), tc.bus)
		require.Nil(t, h, tc.bus.Name)
		require.ErrorContains(t, err, tc.text)
		if tc.want != nil {
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.bus.Name)
		}
		require.Equal(t, tc.want == drivers.ErrGone, errors.Is(err, drivers.ErrGone), tc.bus.Name)
	}
}

// TestOpenSimulated reads the identity of a simulated chip over the socket of a simulator.
func TestOpenSimulated(t *testing.T) {
	w := &sim.World{}
	require.NoError(t, w.AddI2C("air").Add(0x76, sim.NewBME280(w, "air", sim.Environment{})))
	w.AddSPI("air2", sim.NewBMP280(w, "air2", sim.Environment{}))
	socket := filepath.Join(t.TempDir(), "s")
	l, err := sim.Listen(socket)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.ServeListener(ctx, l) }()
	defer func() { cancel(); require.NoError(t, <-served) }()
	t.Setenv(sim.Env, socket)

	h, err := Open(t.Context(), drivers.Bus{Kind: drivers.I2C, Name: "sim:air"})
	require.NoError(t, err)
	id := make([]byte, 1)
	require.NoError(t, h.I2C.Tx(0x76, []byte{0xD0}, id))
	require.Equal(t, []byte{0x60}, id)
	require.NoError(t, h.Close())
	require.NoError(t, h.Close(), "twice is harmless")
	require.ErrorIs(t, h.I2C.Tx(0x76, []byte{0xD0}, id), drivers.ErrGone)

	h, err = Open(t.Context(), drivers.Bus{Kind: drivers.SPI, Name: "sim:air2"})
	require.NoError(t, err)
	defer h.Close()
	for range 2 { // a sensor that failed is opened again on the bus that stayed open
		c, err := h.SPI.Connect(physic.MegaHertz, spi.Mode0, 8)
		require.NoError(t, err)
		in := make([]byte, 2)
		require.NoError(t, c.Tx([]byte{0xD0, 0}, in))
		require.EqualValues(t, 0x58, in[1])
	}

	_, err = Open(t.Context(), drivers.Bus{Kind: drivers.I2C, Name: "sim:nothing"})
	require.ErrorIs(t, err, drivers.ErrGone)
}

// failingI2C and failingSPI are as the library: errors are text, and Connect works once.
type failingI2C struct {
	i2c.Bus
	err error
}

func (b failingI2C) Tx(uint16, []byte, []byte) error { return b.err }

type failingSPI struct {
	spi.Port
	spi.Conn
	err       error
	connected bool
}

func (p *failingSPI) String() string               { return "" }
func (p *failingSPI) Tx(_, _ []byte) error         { return p.err }
func (p *failingSPI) TxPackets([]spi.Packet) error { return p.err }
func (p *failingSPI) Connect(physic.Frequency, spi.Mode, int) (spi.Conn, error) {
	if p.connected {
		return nil, errors.New("sysfs-spi: Connect() can only be called exactly once")
	}
	p.connected = true
	return p, nil
}

// TestLost: an adapter that was pulled is told from a chip that does not answer, over I2C and SPI.
func TestLost(t *testing.T) {
	here := func(t *testing.T, link string) node {
		require.NoError(t, os.Symlink("/dev/null", link))
		rdev, err := deviceAt(link)
		require.NoError(t, err)
		return node{name: link, rdev: rdev}
	}
	for _, tc := range []struct {
		errno error
		after func(t *testing.T, link string) // what becomes of the device's file
		want  error                           // nil: the error as it came
	}{
		{errno: unix.ENODEV, want: drivers.ErrGone},
		{errno: unix.EBADF, want: drivers.ErrGone},
		{errno: unix.ESHUTDOWN, want: drivers.ErrGone},
		{errno: os.ErrClosed, want: drivers.ErrGone},
		{errno: unix.ETIMEDOUT, want: drivers.ErrTimeout},
		{errno: unix.ENXIO},
		{errno: unix.EREMOTEIO},
		{errno: unix.EIO},
		{errno: unix.EIO, want: drivers.ErrGone, after: func(t *testing.T, link string) { require.NoError(t, os.Remove(link)) }},
		{errno: unix.ENXIO, want: drivers.ErrGone, after: func(t *testing.T, link string) {
			require.NoError(t, os.Remove(link))
			require.NoError(t, os.Symlink("/dev/zero", link))
		}},
	} {
		link := filepath.Join(t.TempDir(), "bus")
		n := here(t, link)
		if tc.after != nil {
			tc.after(t, link)
		}
		text := fmt.Errorf("sysfs: Tx() failed: %v", tc.errno)
		c, err := (&spiPort{Port: &failingSPI{err: text}, node: n}).Connect(physic.MegaHertz, spi.Mode0, 8)
		require.NoError(t, err)
		for _, err := range []error{
			i2cBus{failingI2C{err: text}, n}.Tx(0x76, []byte{0}, nil),
			c.Tx([]byte{0}, make([]byte, 1)),
			c.TxPackets(nil),
		} {
			require.ErrorContains(t, err, text.Error())
			for _, e := range []error{drivers.ErrGone, drivers.ErrTimeout} {
				require.Equal(t, e == tc.want, errors.Is(err, e), "%v", err)
			}
		}
	}
	require.NoError(t, i2cBus{failingI2C{}, node{name: "/dev/i2c-9999"}}.Tx(0x76, nil, nil), "no error, no question")
}

// TestConnectTwice: a sensor that is opened again, and a second one on the same device.
func TestConnectTwice(t *testing.T) {
	p := &spiPort{Port: &failingSPI{}, node: node{name: "/dev/spidev0.0"}}
	a, err := p.Connect(physic.MegaHertz, spi.Mode0, 8)
	require.NoError(t, err)
	b, err := p.Connect(physic.MegaHertz, spi.Mode0, 8)
	require.NoError(t, err)
	require.Equal(t, a, b)
	_, err = p.Connect(physic.MegaHertz, spi.Mode3, 8)
	require.ErrorIs(t, err, drivers.ErrWrong)
}
