package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
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
	name string

	mu    sync.Mutex // protects the following; not held during a conversion
	chips map[string]*w1Slot
	gone  bool
}

type w1Slot struct {
	chip      W1Chip
	fault     BusFault
	unplugged bool
}

// AddW1 adds an empty 1-Wire bus, or gives the one that has this name.
func (w *World) AddW1(name string) *W1Bus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.w1[name]; b != nil {
		return b
	}
	b := &W1Bus{name: name, chips: map[string]*w1Slot{}}
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
	b.chips[chip.ID()] = &w1Slot{chip: chip}
	return nil
}

// SetFault sets what goes wrong with a chip from now on. NACK: no presence pulse, and the kernel's file is empty. Flip: a bit of
// the scratchpad. Stuck: the bus is held for so long, and the file is empty.
func (b *W1Bus) SetFault(id string, f BusFault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.chips[id]; s != nil {
		s.fault = f
	}
}

// Unplug takes a chip off the bus.
func (b *W1Bus) Unplug(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.chips[id]; s != nil {
		s.unplugged = true
	}
}

// Plug puts a chip back: it has lost its power.
func (b *W1Bus) Plug(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.chips[id]; s != nil && s.unplugged {
		s.unplugged = false
		s.chip.Reset()
	}
}

// SetGone takes the whole bus away (its master unloaded or pulled out) or brings it back.
func (b *W1Bus) SetGone(gone bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone && !gone {
		for _, s := range b.chips {
			s.chip.Reset()
		}
	}
	b.gone = gone
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
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(b.chips)) {
		if !b.chips[id].unplugged {
			ids = append(ids, id)
		}
	}
	return ids, nil
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
		return 0, false, fmt.Errorf("sim: w1 %s: %s: %w: the bus has %s", b.name, device, drivers.ErrTimeout, b.presentLocked())
	}
	if f := s.fault; f.NACK || f.Stuck > 0 {
		s.fault.once()
		return min(f.Stuck, maxStuck), false, nil
	}
	s.chip.W1([]byte{w1Convert}, 0)
	return s.chip.Conversion(), true, nil
}

func (b *W1Bus) presentLocked() string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(b.chips)) {
		if !b.chips[id].unplugged {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return "no device"
	}
	return strings.Join(ids, ", ")
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
