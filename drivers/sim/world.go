package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"homeward/drivers"
)

// World is a simulated site: buses, devices, ports and a clock, by name. The zero World is
// empty, with a clock that nobody trusts. It is safe for use by several goroutines.
type World struct {
	// Served is told of each value that a chip hands out: its channel (the chip's name, a slash, the
	// quantity), the raw value, and when it was measured. It may be called by several goroutines at once. Nil: nobody
	// is told. Set it before anything is added.
	Served func(channel string, raw any, at time.Time)
	// Now is the time that chips live in; nil: the machine's. Set it before anything is added.
	Now func() time.Time
	// Log may be nil. Set it before serving.
	Log *slog.Logger

	mu      sync.Mutex // protects the following
	i2c     map[string]*I2CBus
	spi     map[string]*SPIDevice
	w1      map[string]*W1Bus
	serial  map[string]*SerialLine
	trusted bool
	offset  time.Duration
}

// SetClock says whether the site's clock is synchronised, and how far it is ahead of this machine's.
func (w *World) SetClock(trusted bool, offset time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trusted, w.offset = trusted, offset
}

// Clock is what [World.SetClock] has set.
func (w *World) Clock() (trusted bool, offset time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trusted, w.offset
}

// AddI2C adds an empty I2C bus, or gives the one that has this name.
func (w *World) AddI2C(name string) *I2CBus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.i2c[name]; b != nil {
		return b
	}
	b := &I2CBus{name: name}
	add(&w.i2c, name, b)
	return b
}

// AddSPI puts chip behind a chip select of its own.
func (w *World) AddSPI(name string, chip SPIChip) *SPIDevice {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := &SPIDevice{name: name, chip: chip}
	add(&w.spi, name, d)
	return d
}

// AddSerial gives a serial line a name. Closing it stays the caller's.
func (w *World) AddSerial(name string, l *SerialLine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	add(&w.serial, name, l)
}

func add[K comparable, T any](m *map[K]T, name K, v T) {
	if *m == nil {
		*m = map[K]T{}
	}
	(*m)[name] = v
}

func (w *World) now() time.Time {
	if w.Now != nil {
		return w.Now()
	}
	return time.Now()
}

func (w *World) served(channel string, raw any, at time.Time) {
	if w.Served != nil {
		w.Served(channel, raw, at)
	}
}

// Open opens a bus in the same process: what the package's Open does over the socket.
func (w *World) Open(bus drivers.Bus) (Opened, error) {
	name := strings.TrimPrefix(bus.Name, Prefix)
	done := func() error { return nil }
	switch bus.Kind {
	case drivers.I2C:
		b, err := find(w, &w.i2c, "I2C bus", name)
		if err != nil {
			return Opened{}, err
		}
		return Opened{I2C: b, Close: done}, nil
	case drivers.SPI:
		d, err := find(w, &w.spi, "SPI device", name)
		if err != nil {
			return Opened{}, err
		}
		return Opened{SPI: &spiPort{name: name, tx: d.tx}, Close: done}, nil
	case drivers.W1Bus:
		b, err := find(w, &w.w1, "1-Wire bus", name)
		if err != nil {
			return Opened{}, err
		}
		return Opened{W1: b, Close: done}, nil
	}
	return Opened{}, fmt.Errorf("sim: %s: kind %q cannot be opened this way: want i2c, spi or w1", bus.Name, bus.Kind)
}

// List names what the site has, with the prefix, sorted by kind and name. Chips on a bus are not told: who wants to know
// them has to look, as on a real one.
func (w *World) List() []drivers.Bus {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []drivers.Bus
	for _, name := range slices.Sorted(maps.Keys(w.i2c)) {
		list = append(list, drivers.Bus{Kind: drivers.I2C, Name: Prefix + name})
	}
	for _, name := range slices.Sorted(maps.Keys(w.serial)) {
		list = append(list, drivers.Bus{Kind: drivers.Serial, Name: Prefix + name})
	}
	for _, name := range slices.Sorted(maps.Keys(w.spi)) {
		list = append(list, drivers.Bus{Kind: drivers.SPI, Name: Prefix + name})
	}
	for _, name := range slices.Sorted(maps.Keys(w.w1)) {
		list = append(list, drivers.Bus{Kind: drivers.W1Bus, Name: Prefix + name})
	}
	return list
}

// PortPath is the path of a serial line's terminal; unplugged, it is [drivers.ErrGone].
func (w *World) PortPath(name string) (string, error) {
	name = strings.TrimPrefix(name, Prefix)
	l, err := find(w, &w.serial, "serial port", name)
	if err != nil {
		return "", err
	}
	path := l.TTY()
	if path == "" {
		return "", fmt.Errorf("sim: serial port %s: %w: it is unplugged", name, drivers.ErrGone)
	}
	return path, nil
}

func find[T any](w *World, in *map[string]T, what, name string) (v T, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, ok := (*in)[name]
	if !ok {
		have := "none"
		if len(*in) > 0 {
			have = strings.Join(slices.Sorted(maps.Keys(*in)), ", ")
		}
		err = fmt.Errorf("sim: %s %q: %w: the simulated site has %s", what, name, drivers.ErrGone, have)
	}
	return v, err
}

// maxClients bounds the connections that are served at once.
const maxClients = 64

// Serve answers on a unix socket that only this user may open, until ctx ends, and returns when
// nothing of it is running any more. It fails when another simulator answers there.
func (w *World) Serve(ctx context.Context, path string) error {
	l, err := Listen(path)
	if err != nil {
		return err
	}
	return w.ServeListener(ctx, l)
}

// Listen makes the socket, replacing one that a killed simulator left behind.
func Listen(path string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) { return nil, fmt.Errorf("sim: socket %s: %w", path, err) }
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fail(errors.New("another simulator answers there"))
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		// A file that is no socket is refused in the same way.
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket == 0 {
			return fail(errors.New("there is something that is not a socket"))
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fail(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fail(err)
	}
	return l, nil
}

// ServeListener is [World.Serve] on l, which it closes.
func (w *World) ServeListener(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	slots := make(chan struct{}, maxClients)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("sim: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default: // somebody opens without end
			c.Close()
			continue
		}
		clients.Go(func() {
			defer func() { <-slots }()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			defer c.Close()
			if err := w.client(c); err != nil && ctx.Err() == nil && w.Log != nil {
				w.Log.Warn("sim: client", "error", err)
			}
		})
	}
}

// client answers one connection until it ends.
func (w *World) client(c net.Conn) error {
	var tx func(addr uint16, w []byte, n int) ([]byte, error) // of what was opened
	var w1 *W1Bus                                             // the same
	for {
		var q request
		if err := readMessage(c, &q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var r reply
		var err error
		switch q.Op {
		case opOpen:
			tx, w1 = nil, nil
			if q.Kind == drivers.W1Bus {
				w1, err = find(w, &w.w1, "1-Wire bus", q.Name)
			} else {
				tx, err = w.transactions(q.Kind, q.Name)
			}
		case opTx:
			switch {
			case tx == nil:
				err = errors.New("nothing is open on this connection")
			case q.N < 0 || q.N > maxTransfer || len(q.W) > maxTransfer:
				err = fmt.Errorf("transfer of %d bytes out and %d in: want at most %d", len(q.W), q.N, maxTransfer)
			default:
				r.R, err = tx(q.Addr, q.W, q.N)
			}
		case opW1:
			switch {
			case w1 == nil:
				err = errors.New("no 1-Wire bus is open on this connection")
			case q.Device == "":
				r.Devices, err = w1.Devices()
			default:
				r.R, err = w1.Read(q.Device, q.File)
			}
		case opPort:
			r.Path, err = w.PortPath(q.Name)
		case opClock:
			var offset time.Duration
			r.Trusted, offset = w.Clock()
			r.OffsetNS = int64(offset)
		case opList:
			for _, b := range w.List() {
				r.Buses = append(r.Buses, listed{b.Kind, strings.TrimPrefix(b.Name, Prefix)})
			}
		default:
			err = fmt.Errorf("operation %q: want open, tx, w1, port, clock or list", q.Op)
		}
		if err != nil {
			r = failure(err)
		}
		if err := errors.Join(c.SetWriteDeadline(time.Now().Add(exchangeBound)), writeMessage(c, r)); err != nil {
			return err
		}
	}
}

func (w *World) transactions(kind drivers.BusKind, name string) (func(uint16, []byte, int) ([]byte, error), error) {
	switch kind {
	case drivers.I2C:
		b, err := find(w, &w.i2c, "I2C bus", name)
		if err != nil {
			return nil, err
		}
		return b.tx, nil
	case drivers.SPI:
		d, err := find(w, &w.spi, "SPI device", name)
		if err != nil {
			return nil, err
		}
		return d.tx, nil
	}
	return nil, fmt.Errorf("kind %q: want i2c, spi or w1", kind)
}
