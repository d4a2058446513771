package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"homeward/drivers"
)

// W1Chip is a chip on a 1-Wire bus, once its ROM has been selected. Calls are never concurrent.
type W1Chip interface {
	// ID is the chip's ROM code as Linux names it: family and serial number, 28-0316a2798bff.
	ID() string
	// W1 takes a function command with its data and gives the n bytes that are read after it.
	W1(w []byte, n int) []byte
	// Conversion is how long one takes at most, as the chip is set.
	Conversion() time.Duration
	// Reset is a power-on.
	Reset()
}

// W1Bus is a simulated 1-Wire bus with Linux's thermometer driver (w1_therm) on top, and a [drivers.W1] for the
// same process. Unlike the kernel, which asks up to five times, it asks once: a fault shows.
type W1Bus struct {
	name                    string
	sockets[string, W1Chip] // whose lock is not held during a conversion
}

// AddW1 adds an empty 1-Wire bus, or gives the one that has this name.
func (w *World) AddW1(name string) *W1Bus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.w1[name]; b != nil {
		return b
	}
	b := &W1Bus{name: name}
	add(&w.w1, name, b)
	return b
}

// Add puts a chip on the bus.
func (b *W1Bus) Add(chip W1Chip) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.chips[chip.ID()] != nil {
		return fmt.Errorf("sim: w1 %s: %s is there already", b.name, chip.ID())
	}
	add(&b.chips, chip.ID(), &socket[W1Chip]{chip: chip})
	return nil
}

func (b *W1Bus) String() string { return Prefix + b.name }

func (b *W1Bus) goneError() error {
	return fmt.Errorf("sim: w1 %s: %w: the bus is unplugged", b.name, drivers.ErrGone)
}

// Devices implements [drivers.W1].
func (b *W1Bus) Devices() ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return nil, b.goneError()
	}
	return b.presentLocked(), nil
}

func (b *W1Bus) presentLocked() (ids []string) {
	for _, id := range slices.Sorted(maps.Keys(b.chips)) {
		if !b.chips[id].unplugged {
			ids = append(ids, id)
		}
	}
	return ids
}

// The function commands that the kernel gives (DS18B20 datasheet 19-7487 rev 6, page 11).
const (
	w1Convert = 0x44
	w1Read    = 0xBE
)

// Read implements [drivers.W1]: w1_slave has one conversion made and gives the scratchpad in two lines
// (Linux, drivers/w1/slaves/w1_therm.c, w1_slave_show).
func (b *W1Bus) Read(device, file string) ([]byte, error) {
	if file != "w1_slave" {
		return nil, fmt.Errorf("sim: w1 %s: %s: file %q: want w1_slave", b.name, device, file)
	}
	wait, ok, err := b.begin(device)
	if err != nil {
		return nil, err
	}
	time.Sleep(wait)
	if !ok {
		return nil, nil // an empty file
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return nil, b.goneError()
	}
	s := b.chips[device]
	if s.unplugged {
		return nil, nil
	}
	pad := s.chip.W1([]byte{w1Read}, 9)
	f := s.fault.once()
	f.spoil(pad)
	crc, verdict := crcW1(pad[:8]), "NO"
	if crc == pad[8] {
		verdict = "YES"
	}
	hex := fmt.Sprintf("% x", pad)
	raw := int(int16(uint16(pad[1])<<8 | uint16(pad[0])))
	return fmt.Appendf(nil, "%s : crc=%02x %s\n%s t=%d\n", hex, crc, verdict, hex, raw*1000/16), nil
}

// begin starts a conversion; ok is false where no chip shows itself to the kernel.
func (b *W1Bus) begin(device string) (wait time.Duration, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return 0, false, b.goneError()
	}
	s := b.chips[device]
	if s == nil || s.unplugged {
		present := "no device"
		if ids := b.presentLocked(); len(ids) > 0 {
			present = strings.Join(ids, ", ")
		}
		return 0, false, fmt.Errorf("sim: w1 %s: %s: %w: the bus has %s", b.name, device, drivers.ErrTimeout, present)
	}
	if f := s.fault; f.NACK || f.Stuck > 0 {
		s.fault.once()
		return min(f.Stuck, maxStuck), false, nil
	}
	s.chip.W1([]byte{w1Convert}, 0)
	return s.chip.Conversion(), true, nil
}

// crcW1 is Maxim's CRC-8, bit by bit as the shift register of the datasheet's figure 11 (page 9).
func crcW1(b []byte) (crc byte) {
	for _, x := range b {
		for range 8 {
			feedback := (crc ^ x) & 1
			crc >>= 1
			if feedback == 1 {
				crc ^= 0x8C
			}
			x >>= 1
		}
	}
	return crc
}
