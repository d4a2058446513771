package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
)

// Env is the environment variable that holds the path of a running simulator's socket.
const Env = "HOMEWARD_SIM"

// Prefix marks a simulated bus or port in a configuration.
const Prefix = "sim:"

// Opened is an open simulated bus: I2C, SPI or W1 is set, as it was asked for.
type Opened struct {
	I2C   i2c.Bus
	SPI   spi.Port
	W1    drivers.W1
	Close func() error
}

// Open opens the simulated I2C bus, SPI device or 1-Wire bus bus.Name (with or without the prefix sim:) of the
// simulator behind $HOMEWARD_SIM. A simulator that is not there, or has nothing of that name, is
// [drivers.ErrGone], as an unplugged bus is.
func Open(ctx context.Context, bus drivers.Bus) (Opened, error) {
	name := strings.TrimPrefix(bus.Name, Prefix)
	if bus.Kind != drivers.I2C && bus.Kind != drivers.SPI && bus.Kind != drivers.W1Bus {
		return Opened{}, fmt.Errorf("sim: %s: kind %q cannot be opened this way: want i2c, spi or w1", bus.Name, bus.Kind)
	}
	c, err := dial(ctx)
	if err != nil {
		return Opened{}, fmt.Errorf("sim: %s %s: %w", bus.Kind, name, err)
	}
	c.what = fmt.Sprintf("%s %s", bus.Kind, name)
	if _, err := c.ask(ctx, request{Op: opOpen, Kind: bus.Kind, Name: name}); err != nil {
		c.close()
		return Opened{}, err
	}
	switch bus.Kind {
	case drivers.I2C:
		return Opened{I2C: remoteI2C{c}, Close: c.close}, nil
	case drivers.W1Bus:
		return Opened{W1: remoteW1{c}, Close: c.close}, nil
	}
	return Opened{SPI: &spiPort{name: name, tx: c.tx}, Close: c.close}, nil
}

// PortPath is the path of the terminal behind the simulated serial port name (with or without the
// prefix sim:). It is asked for anew at each opening: after an unplugging it is another one. An unplugged or
// unknown port is [drivers.ErrGone].
func PortPath(ctx context.Context, name string) (string, error) {
	name = strings.TrimPrefix(name, Prefix)
	r, err := once(ctx, "serial port "+name, request{Op: opPort, Name: name})
	return r.Path, err
}

// List names the buses, devices and ports of the simulator behind $HOMEWARD_SIM, with the prefix.
func List(ctx context.Context) ([]drivers.Bus, error) {
	r, err := once(ctx, "list", request{Op: opList})
	var list []drivers.Bus
	for _, b := range r.Buses {
		list = append(list, drivers.Bus{Kind: b.Kind, Name: Prefix + b.Name})
	}
	return list, err
}

// Clock is the simulated site's clock: whether it is synchronised, and how far it is ahead of this machine's.
func Clock(ctx context.Context) (trusted bool, offset time.Duration, err error) {
	r, err := once(ctx, "clock", request{Op: opClock})
	return r.Trusted, time.Duration(r.OffsetNS), err
}

func once(ctx context.Context, what string, q request) (reply, error) {
	c, err := dial(ctx)
	if err != nil {
		return reply{}, fmt.Errorf("sim: %s: %w", what, err)
	}
	defer c.close()
	c.what = what
	return c.ask(ctx, q)
}

// client is one connection to a simulator.
type client struct {
	what string
	conn net.Conn
	mu   sync.Mutex // one exchange at a time; protects the following
	gone error      // sticky: after a failed exchange question and answer no longer match
}

func dial(ctx context.Context) (*client, error) {
	path := os.Getenv(Env)
	if path == "" {
		return nil, fmt.Errorf("$%s is not set: names that begin with sim: are devices of a running homeward-simulate, which prints the path of its socket", Env)
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeBound)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: no simulator behind $%s: %w", drivers.ErrGone, Env, err)
	}
	return &client{conn: conn}, nil
}

func (c *client) close() error {
	err := c.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// ask makes one exchange.
func (c *client) ask(ctx context.Context, q request) (reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return reply{}, c.gone
	}
	deadline := time.Now().Add(exchangeBound)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	var r reply
	err := c.conn.SetDeadline(deadline)
	if err == nil {
		stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
		if err = writeMessage(c.conn, q); err == nil {
			err = readMessage(c.conn, &r)
		}
		if !stop() && err == nil {
			err = ctx.Err() // the deadline may be spoiled
		}
	}
	if err != nil {
		c.conn.Close()
		c.gone = fmt.Errorf("sim: %s: %w: %w", c.what, drivers.ErrGone, err)
		return reply{}, c.gone
	}
	if err := r.err(); err != nil {
		return reply{}, fmt.Errorf("sim: %s: %w", c.what, err)
	}
	return r, nil
}

// tx writes w and reads n bytes: one transaction of the bus.
func (c *client) tx(addr uint16, w []byte, n int) ([]byte, error) {
	if len(w) > maxTransfer || n > maxTransfer {
		return nil, fmt.Errorf("sim: %s: transfer of %d bytes out and %d in: want at most %d", c.what, len(w), n, maxTransfer)
	}
	r, err := c.ask(context.Background(), request{Op: opTx, Addr: addr, W: w, N: n})
	if err != nil {
		return nil, err
	}
	if len(r.R) != n {
		return nil, fmt.Errorf("sim: %s: %w: %d bytes where %d were asked for", c.what, drivers.ErrGone, len(r.R), n)
	}
	return r.R, nil
}

type remoteI2C struct{ c *client }

func (b remoteI2C) String() string                  { return Prefix + strings.TrimPrefix(b.c.what, "i2c ") }
func (b remoteI2C) SetSpeed(physic.Frequency) error { return nil }

func (b remoteI2C) Tx(addr uint16, w, r []byte) error {
	got, err := b.c.tx(addr, w, len(r))
	copy(r, got)
	return err
}

type remoteW1 struct{ c *client }

func (b remoteW1) Devices() ([]string, error) {
	r, err := b.c.ask(context.Background(), request{Op: opW1})
	return r.Devices, err
}

func (b remoteW1) Read(device, file string) ([]byte, error) {
	if device == "" { // it would ask for the list
		return nil, fmt.Errorf("sim: %s: no device: want one such as 28-0316a2798bff", b.c.what)
	}
	r, err := b.c.ask(context.Background(), request{Op: opW1, Device: device, File: file})
	return r.R, err
}

// spiPort makes an [spi.Port] of a function that does one full-duplex transaction under one chip select.
type spiPort struct {
	name string
	tx   func(_ uint16, w []byte, n int) ([]byte, error)
}

func (p *spiPort) String() string { return Prefix + p.name }

// Connect implements [spi.Port]. Any speed will do; words have 8 bits.
func (p *spiPort) Connect(_ physic.Frequency, mode spi.Mode, bits int) (spi.Conn, error) {
	if bits != 8 || mode&(spi.HalfDuplex|spi.NoCS|spi.LSBFirst) != 0 {
		return nil, fmt.Errorf("sim: spi %s: mode %v with %d bits: want full duplex, chip select, most significant bit first, 8 bits", p.name, mode, bits)
	}
	return &spiConn{p}, nil
}
