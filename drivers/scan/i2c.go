package scan

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"periph.io/x/conn/v3/i2c"

	"homeward/drivers"
	"homeward/drivers/chip"
)

// I2CBus is an I2C bus and what answers on it.
type I2CBus struct {
	Name    string `json:"name"`
	Adapter string `json:"adapter,omitempty"` // as the kernel calls it
	Users   []User `json:"users,omitempty"`
	Note    string `json:"note,omitempty"` // why it was not looked at, or not wholly
	Chips   []Chip `json:"chips"`
}

// Chip is something that answers at an address.
type Chip struct {
	Address uint16 `json:"address"`
	Chip    string `json:"chip,omitempty"` // "": not known
	Sure    bool   `json:"sure"`           // it said so itself, by an identity or a checksum
	Why     string `json:"why"`
	Config  string `json:"config,omitempty"` // an item below sensors:
}

// The addresses that a 7-bit device may have (NXP UM10204, table 3, reserved addresses).
const firstAddress, lastAddress = 0x08, 0x77

// notRead are addresses that are not even read from; see the package comment.
var notRead = map[uint16]bool{0x0C: true, 0x69: true}

// foreign are adapters whose bus is not for sensors, by words in their names.
var foreign = []string{"ddc", "hdmi", "dpddc", "aux", "gmbus", "i915", "nvkm", "nouveau", "amdgpu", "radeon", "smbus", "7e805000", "fef04500", "fef09500"}

func (o *Options) i2c(ctx context.Context, r *Result, simulated []drivers.Bus) {
	for _, p := range o.glob("/dev/i2c-*") {
		number := strings.TrimPrefix(filepath.Base(p), "i2c-")
		b := I2CBus{Name: "/dev/i2c-" + number, Chips: []Chip{}}
		if !o.wanted(b.Name) {
			continue
		}
		b.Adapter = o.text(o.path("/sys/class/i2c-dev/i2c-" + number + "/name"))
		compatible := o.text(o.path("/sys/class/i2c-dev/i2c-" + number + "/device/of_node/compatible"))
		b.Users = o.users(p, b.Name)
		kernel := o.kernelChips(number)
		about := strings.ToLower(b.Adapter + " " + compatible)
		if !o.named(b.Name) && slices.ContainsFunc(foreign, func(w string) bool { return strings.Contains(about, w) }) {
			b.Note = fmt.Sprintf("left alone: a screen's or a mainboard's bus (%s); --bus %s looks at it all the same", b.Adapter, b.Name)
		} else {
			o.look(ctx, &b, kernel)
		}
		r.I2C = append(r.I2C, b)
	}
	for _, s := range simulated {
		if s.Kind == drivers.I2C && o.wanted(s.Name) {
			b := I2CBus{Name: s.Name, Adapter: "simulated", Chips: []Chip{}, Users: o.users("", s.Name)}
			o.look(ctx, &b, nil)
			r.I2C = append(r.I2C, b)
		}
	}
}

// kernelChips are the chips that a driver of the kernel serves: address → text.
func (o *Options) kernelChips(number string) map[uint16]string {
	list := map[uint16]string{}
	for _, p := range o.glob("/sys/bus/i2c/devices/" + number + "-*") {
		var addr uint16
		if _, err := fmt.Sscanf(strings.TrimPrefix(filepath.Base(p), number+"-"), "%04x", &addr); err != nil {
			continue
		}
		if to, err := filepath.EvalSymlinks(filepath.Join(p, "driver")); err == nil {
			list[addr] = fmt.Sprintf("%s, in use by the kernel's driver %s", o.text(filepath.Join(p, "name")), clean(filepath.Base(to)))
		}
	}
	return list
}

// look reads the addresses of a bus that nobody has.
func (o *Options) look(ctx context.Context, b *I2CBus, kernel map[uint16]string) {
	if len(b.Users) > 0 {
		b.Note = "in use, so it was not touched"
		return
	}
	o.Step(b.Name)
	h, err := o.Open(ctx, drivers.Bus{Kind: drivers.I2C, Name: b.Name})
	if err != nil {
		b.Note = err.Error()
		return
	}
	defer h.Close()
	stuck := 0
	for addr := uint16(firstAddress); addr <= lastAddress && ctx.Err() == nil; addr++ {
		if text, ok := kernel[addr]; ok {
			b.Chips = append(b.Chips, Chip{Address: addr, Why: text})
			continue
		}
		if notRead[addr] {
			continue
		}
		c, err := o.ask(h.I2C, addr)
		if isGone(err) {
			b.Note = err.Error()
			return
		}
		if isTimeout(err) { // each may cost a second: the bus is held low
			if stuck++; stuck == 3 {
				b.Note = "the bus does not work: a line is held low, or has no pull-up resistor"
				return
			}
		} else {
			stuck = 0
		}
		if c == nil {
			continue
		}
		if c.Chip != "" {
			c.Config = i2cSnippet(c.Chip, b.Name, addr)
		}
		b.Chips = append(b.Chips, *c)
	}
}

// line is a bus seen from one address.
type line struct {
	bus   i2c.Bus
	addr  uint16
	sleep func(time.Duration)
}

// read reads n bytes without writing any.
func (l line) read(n int) ([]byte, error) {
	b := make([]byte, n)
	return b, l.bus.Tx(l.addr, nil, b)
}

// register writes one byte, which selects a register, and reads n.
func (l line) register(reg byte, n int) ([]byte, error) {
	b := make([]byte, n)
	return b, l.bus.Tx(l.addr, []byte{reg}, b)
}

// command writes an order that changes nothing, waits, and reads n bytes in words of two, each with its checksum.
func (l line) command(order []byte, n int) ([]byte, bool) {
	if l.bus.Tx(l.addr, order, nil) != nil {
		return nil, false
	}
	l.sleep(2 * time.Millisecond) // 1 ms: SHT4x, SCD4x §3.4; SHT3x answers at once
	b, err := l.read(n)
	if err != nil {
		return nil, false
	}
	_, err = chip.Words(b)
	return b, err == nil
}

// ask finds out what is at an address, nil for nothing. The package comment says for each why what is
// asked changes nothing.
func (o *Options) ask(bus i2c.Bus, addr uint16) (*Chip, error) {
	l := line{bus, addr, o.Sleep}
	allowed := slices.Contains(o.Ask, addr)
	const peek = 16
	first, err := l.read(peek)
	if err != nil {
		if isGone(err) || isTimeout(err) {
			return nil, err
		}
		return l.mute(), nil
	}
	c := &Chip{Address: addr, Why: "something answers"}
	found := func(chip string, sure bool, format string, args ...any) (*Chip, error) {
		c.Chip, c.Sure, c.Why = chip, sure, fmt.Sprintf(format, args...)
		return c, nil
	}
	switch {
	case addr >= 0x18 && addr <= 0x1F:
		maker, err1 := l.word(0x06)
		device, err2 := l.word(0x07)
		if err1 == nil && err2 == nil && maker == 0x0054 && device>>8 == 0x04 {
			return found("mcp9808", true, "maker 0x0054, device 0x04 (registers 6 and 7)")
		}
	case addr == 0x23 || addr == 0x5C:
		return found("bh1750", false, "something answers where a BH1750 would; not asked, since it has no identity and a port expander would take a question for an order")
	case addr >= 0x40 && addr <= 0x47:
		if bus, err := l.word(0x02); err == nil && bus&0x0002 != 0 { // not an HDC10x0
			if text, sure := l.ina219(); text != "" {
				return found("ina219", sure, "%s", text)
			}
		}
		if (addr >= 0x44 && addr <= 0x46) && allowed {
			return l.sensirion(c), nil
		}
	case addr >= 0x48 && addr <= 0x4F:
		if !allowed && maybeSamples(first) {
			c.Why = fmt.Sprintf("%s; not asked, since it could be a PCF8591, whose output a question could switch off: if it is none, --ask 0x%02x asks it", livesAt48(addr), addr)
			return c, nil
		}
		if chip, sure, text := l.at48(addr); chip != "" {
			return found(chip, sure, "%s", text)
		}
	case addr == 0x62 && allowed:
		return l.sensirion(c), nil
	case addr == 0x76 || addr == 0x77:
		if !allowed {
			all, err := l.read(256)
			if err != nil || constant(all) {
				c.Why = fmt.Sprintf("a BME280, a BMP280 or a switch; not asked, since a TCA9548 would take the question for an order: if it is none, --ask 0x%02x asks it", addr)
				return c, nil
			}
		}
		id, err := l.register(0xD0, 1)
		switch {
		case err != nil:
		case id[0] == 0x60:
			return found("bme280", true, "identity 0x60 (register 0xD0)")
		case id[0] >= 0x56 && id[0] <= 0x58:
			return found("bmp280", true, "identity 0x%02x (register 0xD0)", id[0])
		default:
			c.Why = fmt.Sprintf("identity 0x%02x (register 0xD0): neither a BME280 nor a BMP280", id[0])
		}
	}
	return c, nil
}

// mute asks an address that does not answer a plain read, as Sensirion's chips do not.
func (l line) mute() *Chip {
	switch l.addr {
	case 0x44, 0x45, 0x46, 0x62:
		if c := l.sensirion(&Chip{Address: l.addr}); c.Chip != "" {
			return c
		}
	}
	return nil
}

func (l line) sensirion(c *Chip) *Chip {
	if l.addr == 0x62 {
		if _, ok := l.command([]byte{0xE4, 0xB8}, 3); ok {
			c.Chip, c.Sure, c.Why = "scd4x", true, "its ready status has the right checksum"
		}
		return c
	}
	if b, ok := l.command([]byte{0x89}, 6); ok {
		c.Chip, c.Sure, c.Why = "sht4x", true, fmt.Sprintf("serial number %02x%02x%02x%02x", b[0], b[1], b[3], b[4])
	} else if l.addr == 0x46 { // no SHT3x lives there
	} else if b, ok := l.command([]byte{0xF3, 0x2D}, 3); ok {
		c.Chip, c.Sure, c.Why = "sht3x", true, fmt.Sprintf("status 0x%02x%02x, with the right checksum", b[0], b[1])
	}
	return c
}

func (l line) word(reg byte) (uint16, error) {
	b, err := l.register(reg, 2)
	return binary.BigEndian.Uint16(b), err
}

// ina219 knows one by its configuration after power-on (SBOS448G table 2), or by the form of its registers.
func (l line) ina219() (text string, sure bool) {
	config, err1 := l.word(0x00)
	calibration, err2 := l.word(0x05)
	switch {
	case err1 != nil || err2 != nil || calibration&1 != 0 || config&0x4000 != 0:
		return "", false
	case config == 0x399F:
		return "configuration 0x399f, as after power-on (register 0)", true
	case calibration != 0 && config&0xC000 == 0:
		return fmt.Sprintf("the form of an INA219's registers: configuration 0x%04x, calibration 0x%04x", config, calibration), false
	}
	return "", false
}

// at48 tells the chips apart that live at 0x48 to 0x4F.
func (l line) at48(addr uint16) (chip string, sure bool, text string) {
	var reg [4]uint16
	for i := range reg {
		v, err := l.word(byte(i))
		if err != nil {
			return "", false, ""
		}
		reg[i] = v
	}
	nibbles := reg[2]&0x000F == 0 && reg[3]&0x000F == 0
	switch {
	case addr <= 0x4B && reg[2] == 0x8000 && reg[3] == 0x7FFF: // SBAS444D §9.6.3 and §9.6.4
		return "ads1115", reg[1]&0x7FFF == 0x0583, fmt.Sprintf("thresholds 0x8000 and 0x7fff, configuration 0x%04x (registers 1 to 3)", reg[1])
	case addr <= 0x4B && reg[1]&0x6000 == 0x6000 && nibbles && reg[3] > reg[2]: // SBOS397B table 7: R1 and R0 read as ones
		return "tmp102", reg[2] == 0x4B00 && reg[3] == 0x5000, fmt.Sprintf("the form of a TMP102's registers: configuration 0x%04x, limits 0x%04x and 0x%04x", reg[1], reg[2], reg[3])
	}
	if text, sure := l.ina219(); sure {
		return "ina219", true, text
	}
	// LM75: an 8-bit configuration whose upper bits are zero, limits in steps of 0.5 °C.
	if reg[1]>>8&0xE0 == 0 && reg[2]&0x7F == 0 && reg[3]&0x7F == 0 && int16(reg[3]) > int16(reg[2]) {
		return "lm75", false, fmt.Sprintf("the form of an LM75's registers: limits 0x%04x and 0x%04x", reg[2], reg[3])
	}
	if text, _ := l.ina219(); text != "" {
		return "ina219", false, text
	}
	return "", false, ""
}

func livesAt48(addr uint16) string {
	if addr <= 0x4B {
		return "a TMP102, LM75, ADS1115, INA219 or PCF8591"
	}
	return "an LM75, INA219 or PCF8591"
}

// maybeSamples says that b could be samples of a PCF8591's input: they differ little from one to the next. A register of
// two bytes gives other bytes in between, or ones where nobody drives the line any more.
func maybeSamples(b []byte) bool {
	jumps := 0
	for i := 1; i < len(b); i++ {
		d := int(b[i]) - int(b[i-1])
		if d < -3 || d > 3 {
			jumps++
		}
	}
	return jumps == 0
}

func constant(b []byte) bool {
	return !slices.ContainsFunc(b, func(x byte) bool { return x != b[0] })
}
