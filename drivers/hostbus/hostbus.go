// Package hostbus opens the buses that instruments sit on: the machine's own I2C, SPI
// and serial ports, and the simulated ones of a running site (names sim:…).
//
// It promises to open a bus afresh each time it is asked, by the name as given, so that one
// that was pulled and came back is found; that the error of a bus that is not there
// says what to do; and that an adapter pulled out under an open bus is told
// ([drivers.ErrGone]) from a chip that does not answer. It starts nothing at program start and
// holds nothing that was closed.
package hostbus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"
	"periph.io/x/host/v3/sysfs"

	"homeward/drivers"
	"homeward/drivers/sim"
)

// Handle is an open bus: the one of Port, I2C, SPI and W1 that fits its kind.
type Handle struct {
	Port  drivers.Port // serial and TCP
	I2C   i2c.Bus
	SPI   spi.Port
	W1    drivers.W1
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
	case bus.Kind == drivers.TCP:
		p, err := OpenTCP(ctx, bus.Name)
		if err != nil {
			return nil, err
		}
		return &Handle{Port: p, close: p.Close}, nil
	case simulated:
		o, err := sim.Open(ctx, bus)
		if err != nil {
			return nil, err
		}
		return &Handle{I2C: o.I2C, SPI: o.SPI, W1: o.W1, close: o.Close}, nil
	case bus.Kind == drivers.I2C:
		return openI2C(bus.Name)
	case bus.Kind == drivers.SPI:
		return openSPI(bus.Name)
	case bus.Kind == drivers.W1Bus:
		return openW1(bus.Name)
	}
	return nil, fmt.Errorf("hostbus: kind %q of %s: want serial, tcp, i2c, spi or w1", bus.Kind, bus.Name)
}

var (
	i2cName = regexp.MustCompile(`^/dev/i2c-([0-9]{1,5})$`)
	spiName = regexp.MustCompile(`^/dev/spidev([0-9]{1,5})\.([0-9]{1,3})$`)
)

// node is a device file as it was when it was opened.
type node struct {
	name   string // as configured
	rdev   uint64
	number [2]int // of its name
}

// find follows links, so that a stable name made by a udev rule works, and says what is wrong with a
// name before a library, which wraps errors as text, can.
func find(name string, form *regexp.Regexp, example, enable string) (node, error) {
	fail := func(format string, args ...any) (node, error) {
		return node{}, fmt.Errorf("hostbus: bus %s: "+format, append([]any{name}, args...)...)
	}
	path, err := filepath.EvalSymlinks(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail("%w: the device does not exist: %s", drivers.ErrGone, enable)
	case err != nil:
		return fail("%w", err)
	}
	m := form.FindStringSubmatch(path)
	if m == nil { // not even opened
		return fail("%w: want a device such as %s, or a link to one", drivers.ErrWrong, example)
	}
	n := node{name: name}
	for i, digits := range m[1:] {
		n.number[i], _ = strconv.Atoi(digits)
	}
	n.rdev, err = deviceAt(path)
	if err == nil {
		err = unix.Access(path, unix.R_OK|unix.W_OK)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fail("permission denied: this user must be in the group that owns it (ls -l %s shows it)", path)
	case err != nil && isGone(err), errors.Is(err, fs.ErrNotExist):
		return fail("%w: %w", drivers.ErrGone, err)
	case err != nil:
		return fail("%w", err)
	}
	return n, nil
}

func deviceAt(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, err
	}
	return uint64(stat.Rdev), nil
}

func openI2C(name string) (*Handle, error) {
	n, err := find(name, i2cName, "/dev/i2c-1", "switch I2C on (raspi-config, Interface Options), and compare the name with ls /dev/i2c-*")
	if err != nil {
		return nil, err
	}
	b, err := sysfs.NewI2C(n.number[0])
	if err != nil {
		return nil, fmt.Errorf("hostbus: bus %s: %w", name, n.lost(err))
	}
	return &Handle{I2C: i2cBus{b, n}, close: b.Close}, nil
}

func openSPI(name string) (*Handle, error) {
	n, err := find(name, spiName, "/dev/spidev0.0", "switch SPI on (raspi-config, Interface Options), and compare the name with ls /dev/spidev*")
	if err != nil {
		return nil, err
	}
	p, err := sysfs.NewSPI(n.number[0], n.number[1])
	if err != nil {
		return nil, fmt.Errorf("hostbus: bus %s: %w", name, n.lost(err))
	}
	return &Handle{SPI: &spiPort{Port: p, node: n}, close: p.Close}, nil
}

// lost marks the errors of an adapter that was pulled, so that it is opened afresh, and time-outs. The kernel takes
// the device file away before it lets go of who has it open, so after an error the file tells,
// whatever number the adapter's driver failed with (EIO, often). The library wraps errors as text.
//
// ENXIO is not among them: an I2C adapter says so when no chip acknowledges an address
// (Linux, Documentation/i2c/fault-codes.rst), and the bus is well.
func (n node) lost(err error) error {
	if err == nil {
		return nil
	}
	rdev, statErr := deviceAt(n.name)
	gone := errors.Is(statErr, fs.ErrNotExist) || statErr == nil && rdev != n.rdev
	for _, e := range []unix.Errno{unix.ENODEV, unix.EBADF, unix.ESHUTDOWN} { // ESHUTDOWN: spidev's
		// "no such device" also begins ENXIO's "no such device or address".
		gone = gone || strings.HasSuffix(err.Error(), e.Error())
	}
	if gone || strings.HasSuffix(err.Error(), os.ErrClosed.Error()) {
		return fmt.Errorf("%w: %w", drivers.ErrGone, err)
	}
	if strings.HasSuffix(err.Error(), unix.ETIMEDOUT.Error()) { // a bus that is held low
		return fmt.Errorf("%w: %w", drivers.ErrTimeout, err)
	}
	return err
}

type i2cBus struct {
	i2c.Bus
	node
}

func (b i2cBus) Tx(addr uint16, w, r []byte) error { return b.lost(b.Bus.Tx(addr, w, r)) }
func (b i2cBus) String() string                    { return b.name }

// spiPort lets several sensors connect to one open device, and one again after it failed; the library's may be
// connected once only.
type spiPort struct {
	spi.Port
	node
	conn spi.Conn // nil: not connected yet
	as   string
}

func (p *spiPort) String() string { return p.name }

func (p *spiPort) Connect(f physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	as := fmt.Sprintf("%v, %v, %d bits", f, mode, bits)
	switch {
	case p.conn == nil:
		c, err := p.Port.Connect(f, mode, bits)
		if err != nil {
			return nil, p.lost(err)
		}
		p.conn, p.as = spiConn{c, p.node}, as
	case p.as != as:
		return nil, fmt.Errorf("hostbus: bus %s: %w: connected with %s, and cannot be with %s too", p.name, drivers.ErrWrong, p.as, as)
	}
	return p.conn, nil
}

type spiConn struct {
	spi.Conn
	node
}

func (c spiConn) String() string { return c.name }

func (c spiConn) Tx(w, r []byte) error { return c.lost(c.Conn.Tx(w, r)) }

func (c spiConn) TxPackets(p []spi.Packet) error { return c.lost(c.Conn.TxPackets(p)) }
