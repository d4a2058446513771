package sim

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"periph.io/x/conn/v3/physic"

	"homeward/drivers"
)

// I2CChip is a chip on an I2C bus. Calls are never concurrent.
type I2CChip interface {
	// I2C takes what is written and gives the n bytes that are read after it. ok is false
	// where the chip does not acknowledge.
	I2C(w []byte, n int) (r []byte, ok bool)
	// Reset is a power-on.
	Reset()
}

// SPIChip is a chip behind a chip select. Calls are never concurrent.
type SPIChip interface {
	// SPI gives the byte that comes in while each byte of w goes out, under one chip select.
	SPI(w []byte) []byte
	// Reset is a power-on.
	Reset()
}

// BusFault is what a chip, or its wiring, does wrong. The zero value is a healthy one.
type BusFault struct {
	NACK  bool          // I2C: the address is not acknowledged; 1-Wire: no presence pulse, and the kernel's file is empty
	Stuck time.Duration // I2C: the bus is held for this long (at most 4 s), for everybody, and then the transaction fails; 1-Wire: for the chip alone, and the file is empty
	Flip  int           // this bit of what is read is the wrong one; counted from 1, the most significant bit of the first byte
	Level byte          // SPI: with Float, what is read all the time: 0x00 or 0xFF
	Float bool          // SPI: nothing drives the line
	Times int           // how many transactions it lasts; 0 until it is changed
}

// once takes one use of a fault.
func (f *BusFault) once() BusFault {
	now := *f
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			*f = BusFault{}
		}
	}
	return now
}

func (f BusFault) spoil(r []byte) {
	if i := f.Flip - 1; i >= 0 && i/8 < len(r) {
		r[i/8] ^= 0x80 >> (i % 8)
	}
}

// sockets are the places of a bus that chips sit in, by address (K).
type sockets[K comparable, C interface{ Reset() }] struct {
	mu    sync.Mutex // one transaction at a time; protects the following
	chips map[K]*socket[C]
	gone  bool
}

type socket[C interface{ Reset() }] struct {
	chip      C
	fault     BusFault
	unplugged bool
}

// SetFault sets what goes wrong at addr from now on.
func (b *sockets[K, C]) SetFault(addr K, f BusFault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.chips[addr]; s != nil {
		s.fault = f
	}
}

// Unplug takes the chip at addr off the bus.
func (b *sockets[K, C]) Unplug(addr K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.chips[addr]; s != nil {
		s.unplugged = true
	}
}

// Plug puts the chip at addr back: it has lost its power and with it what was set.
func (b *sockets[K, C]) Plug(addr K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.chips[addr]; s != nil && s.unplugged {
		s.unplugged = false
		s.chip.Reset()
	}
}

// SetGone takes the whole bus away (its adapter pulled out, its master unloaded) or brings it back.
func (b *sockets[K, C]) SetGone(gone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone && !gone {
		for _, s := range b.chips {
			s.chip.Reset()
		}
	}
	b.gone = gone
}

// I2CBus is a simulated I2C bus, and an [i2c.Bus] for the same process.
type I2CBus struct {
	name string
	sockets[uint16, I2CChip]
}

// Add puts a chip at a 7-bit address.
func (b *I2CBus) Add(addr uint16, chip I2CChip) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if addr < 0x08 || addr > 0x77 {
		return fmt.Errorf("sim: i2c %s: address 0x%02x: want 0x08 to 0x77", b.name, addr)
	}
	if b.chips[addr] != nil {
		return fmt.Errorf("sim: i2c %s: address 0x%02x is taken", b.name, addr)
	}
	add(&b.chips, addr, &socket[I2CChip]{chip: chip})
	return nil
}

func (b *I2CBus) String() string { return Prefix + b.name }

// SetSpeed implements [i2c.Bus]; any speed will do.
func (b *I2CBus) SetSpeed(physic.Frequency) error { return nil }

// Tx implements [i2c.Bus]. An address that nobody acknowledges is ENXIO, a bus that is held
// low [drivers.ErrTimeout], as from Linux's i2c-dev.
func (b *I2CBus) Tx(addr uint16, w, r []byte) error {
	got, err := b.tx(addr, w, len(r))
	copy(r, got)
	return err
}

func (b *I2CBus) tx(addr uint16, w []byte, n int) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fail := func(err error, why string) ([]byte, error) {
		return nil, fmt.Errorf("sim: i2c %s: address 0x%02x: %w: %s", b.name, addr, err, why)
	}
	if b.gone {
		return fail(drivers.ErrGone, "the bus is unplugged")
	}
	s := b.chips[addr]
	if s == nil || s.unplugged {
		return fail(syscall.ENXIO, "not acknowledged")
	}
	f := s.fault.once()
	if f.Stuck > 0 {
		time.Sleep(min(f.Stuck, maxStuck))
		return fail(drivers.ErrTimeout, "the bus is held low")
	}
	if f.NACK {
		return fail(syscall.ENXIO, "not acknowledged")
	}
	r, ok := s.chip.I2C(w, n)
	if !ok {
		return fail(syscall.EREMOTEIO, "data not acknowledged")
	}
	f.spoil(r)
	return r, nil
}

// SPIDevice is a simulated SPI device. SPI acknowledges nothing: an absent one reads as a level.
type SPIDevice struct {
	name string

	mu        sync.Mutex // protects the following
	chip      SPIChip
	fault     BusFault
	unplugged bool
}

// SetFault sets what goes wrong from now on.
func (d *SPIDevice) SetFault(f BusFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// Unplug takes the chip away: ones are read.
func (d *SPIDevice) Unplug() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unplugged = true
}

// Plug puts the chip back: it has lost its power and with it what was set.
func (d *SPIDevice) Plug() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unplugged {
		d.unplugged = false
		d.chip.Reset()
	}
}

func (d *SPIDevice) tx(_ uint16, w []byte, n int) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w = append(append(make([]byte, 0, max(n, len(w))), w...), make([]byte, max(0, n-len(w)))...)
	f := d.fault.once()
	level := byte(0xFF)
	if f.Float {
		level = f.Level
	}
	var r []byte
	if f.Float || d.unplugged {
		r = make([]byte, len(w))
		for i := range r {
			r[i] = level
		}
	} else {
		r = d.chip.SPI(w)
	}
	f.spoil(r)
	return r[:n], nil
}
