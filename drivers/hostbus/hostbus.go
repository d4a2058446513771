// Package hostbus opens the buses that instruments sit on: the machine's own I2C, SPI
// and serial ports, and the simulated ones of a running site (names sim:…).
//
// It promises to open a bus afresh each time it is asked, by the name as given, so that one
// that was pulled and came back is found; and that the error of a bus that is not there
// says what to do. It starts nothing at program start and holds nothing that was closed.
package hostbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"
	"periph.io/x/host/v3/sysfs"

	"homeward/drivers"
	"homeward/drivers/sim"
)

// Handle is an open bus: the one of Port, I2C and SPI that fits its kind.
type Handle struct {
	Port  drivers.Port
	I2C   i2c.Bus
	SPI   spi.Port
	close func() error
}

// NewHandle makes a handle that closes with close; the caller fills in the bus.
func NewHandle(close func() error) *Handle { return &Handle{close: close} }

// Close gives the bus up. Closing twice is harmless.
func (h *Handle) Close() error {
	if h.close == nil {
		return nil
	}
	close := h.close
	h.close = nil
	return close()
}

// Open opens a bus. The error wraps [drivers.ErrGone] when it is not there.
func Open(ctx context.Context, bus drivers.Bus) (*Handle, error) {
	simulated := strings.HasPrefix(bus.Name, sim.Prefix)
	switch {
	case bus.Kind == drivers.Serial:
		path := bus.Name
		if simulated {
			var err error
			if path, err = sim.PortPath(ctx, strings.TrimPrefix(bus.Name, sim.Prefix)); err != nil {
				return nil, err
			}
		}
		p, err := OpenSerial(path, bus.Line)
		if err != nil {
			return nil, err
		}
		return &Handle{Port: p, close: p.Close}, nil
	case simulated:
		o, err := sim.Open(ctx, bus)
		if err != nil {
			return nil, err
		}
		return &Handle{I2C: o.I2C, SPI: o.SPI, close: o.Close}, nil
	case bus.Kind == drivers.I2C:
		return openI2C(bus.Name)
	case bus.Kind == drivers.SPI:
		return openSPI(bus.Name)
	}
	return nil, fmt.Errorf("hostbus: kind %q of %s: want serial, i2c or spi", bus.Kind, bus.Name)
}

// resolve follows links, so that a stable name made by a udev rule works, and tells a
// missing device from one that may not be opened.
func resolve(name, enable string) (string, error) {
	path, err := filepath.EvalSymlinks(name)
	if err == nil {
		err = access(path)
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("hostbus: %w: %s does not exist: %s", drivers.ErrGone, name, enable)
	case errors.Is(err, os.ErrPermission):
		return "", fmt.Errorf("hostbus: %w: %s may not be opened: add the user to the group that owns it (ls -l %s)", drivers.ErrGone, name, name)
	case err != nil:
		return "", fmt.Errorf("hostbus: %w: %s: %w", drivers.ErrGone, name, err)
	}
	return path, nil
}

func access(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func openI2C(name string) (*Handle, error) {
	path, err := resolve(name, "switch I2C on (raspi-config, Interface Options) and look at ls /dev/i2c-*")
	if err != nil {
		return nil, err
	}
	var n int
	if _, err := fmt.Sscanf(filepath.Base(path), "i2c-%d", &n); err != nil {
		return nil, fmt.Errorf("hostbus: I2C bus %s: want a device such as /dev/i2c-1", name)
	}
	b, err := sysfs.NewI2C(n)
	if err != nil {
		return nil, fmt.Errorf("hostbus: %w: %s: %w", drivers.ErrGone, name, err)
	}
	return &Handle{I2C: i2cBus{b}, close: b.Close}, nil
}

func openSPI(name string) (*Handle, error) {
	path, err := resolve(name, "switch SPI on (raspi-config, Interface Options) and look at ls /dev/spidev*")
	if err != nil {
		return nil, err
	}
	var n, cs int
	if _, err := fmt.Sscanf(filepath.Base(path), "spidev%d.%d", &n, &cs); err != nil {
		return nil, fmt.Errorf("hostbus: SPI device %s: want a device such as /dev/spidev0.0", name)
	}
	p, err := sysfs.NewSPI(n, cs)
	if err != nil {
		return nil, fmt.Errorf("hostbus: %w: %s: %w", drivers.ErrGone, name, err)
	}
	return &Handle{SPI: spiPort{p}, close: p.Close}, nil
}

// lost marks the errors of an adapter that was pulled, so that it is opened afresh. The
// library wraps errors as text, so their text is what there is to look at.
func lost(err error) error {
	if err == nil {
		return nil
	}
	for _, text := range []string{"no such device", "bad file descriptor", "file already closed"} { // ENODEV, ENXIO, EBADF
		if strings.Contains(err.Error(), text) {
			return fmt.Errorf("%w: %w", drivers.ErrGone, err)
		}
	}
	return err
}

type i2cBus struct{ i2c.Bus }

func (b i2cBus) Tx(addr uint16, w, r []byte) error { return lost(b.Bus.Tx(addr, w, r)) }

type spiPort struct{ spi.Port }

func (p spiPort) Connect(f physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	c, err := p.Port.Connect(f, mode, bits)
	if err != nil {
		return nil, lost(err)
	}
	return spiConn{c}, nil
}

type spiConn struct{ spi.Conn }

func (c spiConn) Tx(w, r []byte) error { return lost(c.Conn.Tx(w, r)) }

func (c spiConn) TxPackets(p []spi.Packet) error { return lost(c.Conn.TxPackets(p)) }
