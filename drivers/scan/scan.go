// Package scan looks for what hangs on a machine: serial ports, chips on I2C buses, SPI devices, 1-Wire
// thermometers and, when asked to, Modbus units; each find with the lines of configuration that would read it.
//
// It promises to change nothing that it finds:
//
//   - Serial ports are listed from /sys and /dev and never opened (opening one moves its modem lines, which
//     resets some boards). Only [Modbus] opens one, on request, and refuses one that another process holds.
//   - SPI devices and 1-Wire devices are listed by the files that the kernel made for them. SPI has no addresses and
//     no acknowledgement: there is no question that means the same to every chip, and even to read is to write as many bits, which
//     a shift register puts out on its pins and a D/A converter on its output. Only one that [Options].AskSPI names is
//     asked: for register 0xD0, where a BME280 has its identity, and then, with zeros, whether its word is one of a MAX31855.
//   - A bus that the running agent owns ([Options].Owned), or that any process has open, is not touched; what the
//     agent has there is listed in place of it. Addresses that a driver of the kernel serves are not touched.
//   - On I2C an address is first only read from, without a write: nothing but a finished conversion, or an entry of a
//     queue, can be taken that way. Only where known chips live is more asked, and only what no other chip
//     that may sit at that address can take for an order, as follows.
//
// Not read at all: 0x0C (the SMBus alert address: reading it takes an alert from whom it was meant for) and 0x69 (write-only
// clock chips of mainboards, which hang the bus when they are read; see i2cdetect(8)), and, unless named, buses of
// screens (DDC, HDMI) and of mainboards (SMBus, with the memories' EEPROMs).
//
// What may be written, per address, and why it is harmless there:
//
//   - 0x18–0x1F (MCP9808): one byte, register 0x06 and then 0x07, then a read. Register chips there (LIS3DH, BMA2xx, MMA845x,
//     LM90) move their pointer; a DS2482 has no such command and refuses it; codecs (WM8731) need two bytes.
//   - 0x23, 0x5C (BH1750): nothing. It only takes orders, and a port expander at 0x23 (PCF8574) would put any byte
//     out on its pins. "Probably" is all that can be said.
//   - 0x40–0x47 (INA219), if it answers a plain read: one byte, register 0x02. To an HDC1000 or HDC1080 (0x40–0x43) registers 0x00
//     and 0x01 order a measurement, and 0x02 is its configuration, whose low byte is always zero, while an INA219 has there
//     its conversion-ready bit. Only where that bit is set are registers 0x00 and 0x05 asked.
//     0xFE, where other chips of the kind have their maker, is not asked: it resets an Si7021, HTU21D and SHT2x.
//   - 0x44–0x46 (SHT3x, SHT4x), if it does not answer a plain read: these chips do not while they have nothing to tell,
//     and whoever answers is a chip with registers (INA219, OPT3001, ISL29125, PCA9685), to which two bytes would be a
//     change. Then 0x89 (serial number, SHT4x; to an SHT3x half a command), and if nobody knows it, 0xF32D (status, SHT3x).
//     What could still be hurt is a chip that cannot be read at all: audio processors (TDA7439, PT2258)
//     at 0x44 would take 0xF32D for a tone. They are the one exception known; leave their bus out with [Options].Buses.
//   - 0x48–0x4F (TMP102, LM75, ADS1115, INA219): one byte, registers 0x00 to 0x03 and 0x05. A PCF8591, which also lives there, takes any byte as
//     its control byte, and could switch its analog output off. It answers a plain read with samples of one
//     input, so it is excluded where the bytes read are those of a register instead. Where they are not, nothing is
//     written, and the find says so; [Options].Ask is how to say that no PCF8591 is there.
//   - 0x62 (SCD4x), if it does not answer a plain read (an MCP4725 and a PCA9633 or PCA9685 do): 0xE4B8 (is a measurement
//     ready), which is also allowed while it measures. Its serial number is not asked then: it may be only in idle.
//   - 0x76, 0x77 (BME280, BMP280): one byte, register 0xD0. A TCA9548 (0x70–0x77) takes any byte for the channels
//     to switch on. Read plainly it repeats one byte; where the bytes read differ it is excluded, and otherwise, as at 0x48,
//     nothing is written unless [Options].Ask says so. An MS5611 has no command 0xD0, a HT16K33 neither.
//
// It may miss a chip that is asleep, or that has an order under way; and it guesses: what it says is a beginning for
// `homeward check`, not a proof.
package scan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"homeward/drivers"
	"homeward/drivers/hostbus"
)

// Options says where to look. The zero value looks at the whole machine.
type Options struct {
	Root    string // what /dev and /sys are below; "": the root
	Buses   []string
	Ask     []uint16 // I2C addresses at which a known chip may be asked although another could sit there that takes the question for an order
	AskSPI  []string // SPI devices that may be asked although another chip could take the question for an order
	Owned   []Owned  // what a running agent has open
	Agent   int      // its process id; 0: none runs
	Open    func(context.Context, drivers.Bus) (*hostbus.Handle, error)
	Sim     func(context.Context) ([]drivers.Bus, error)           // lists simulated buses; nil: there are none
	SimPath func(ctx context.Context, name string) (string, error) // the terminal of a simulated port
	Holders func(path string) ([]hostbus.Holder, error)            // nil: hostbus.Holders
	Sleep   func(time.Duration)                                    // nil: time.Sleep
	Step    func(what string)                                      // told what is looked at; nil: nobody
}

// Owned is a sensor of the running agent.
type Owned struct {
	Bus    string `json:"bus"`
	Sensor string `json:"sensor"`
	Driver string `json:"driver"`
	State  string `json:"state"`
	Device string `json:"device,omitempty"` // 1-Wire: the one on that bus; "": the only one, or not known
}

// Result is all that was found.
type Result struct {
	Serial []Port   `json:"serial"`
	I2C    []I2CBus `json:"i2c"`
	SPI    []Device `json:"spi"`
	W1     []Device `json:"w1"`
	Modbus *Units   `json:"modbus,omitempty"`
	Notes  []string `json:"notes"`
}

// User is who uses a port or bus.
type User struct {
	PID    int    `json:"pid,omitempty"`
	Name   string `json:"name"`            // of the process, or the kernel's driver
	Agent  bool   `json:"agent,omitempty"` // the running gateway that was asked
	Sensor string `json:"sensor,omitempty"`
	Driver string `json:"driver,omitempty"`
	State  string `json:"state,omitempty"`
}

func (u User) String() string {
	switch {
	case u.Agent && u.Sensor != "":
		return fmt.Sprintf("the running homeward agent: sensor %s (%s, %s)", u.Sensor, u.Driver, u.State)
	case u.Agent:
		return fmt.Sprintf("the running homeward agent (process %d)", u.PID)
	case u.PID != 0:
		return fmt.Sprintf("process %d (%s)", u.PID, u.Name)
	}
	return u.Name
}

// Device is an SPI device or a 1-Wire thermometer.
type Device struct {
	Name   string `json:"name"` // path, name below sim:, or 1-Wire id
	Bus    string `json:"bus,omitempty"`
	Chip   string `json:"chip,omitempty"`
	Users  []User `json:"users,omitempty"`
	Note   string `json:"note,omitempty"`
	Config string `json:"config,omitempty"` // an item below sensors:
	// Choices are items of which one is right, where it cannot be told what is connected.
	Choices []Choice `json:"choices,omitempty"`
}

// Choice is a driver that may be the right one.
type Choice struct {
	Driver string `json:"driver"`
	Config string `json:"config"` // an item below sensors:
}

// Scan looks at everything but Modbus. The error is that of ctx; what could not be looked at is in the notes.
func Scan(ctx context.Context, o Options) (*Result, error) {
	o.defaults()
	r := &Result{Serial: []Port{}, I2C: []I2CBus{}, SPI: []Device{}, W1: []Device{}, Notes: []string{}}
	var simulated []drivers.Bus
	if o.Sim != nil {
		var err error
		if simulated, err = o.Sim(ctx); err != nil {
			r.Notes = append(r.Notes, "simulated buses: "+err.Error())
		}
	}
	o.serial(ctx, r, simulated)
	o.i2c(ctx, r, simulated)
	o.spi(ctx, r, simulated)
	o.w1(ctx, r, simulated)
	for _, b := range append(slices.Clone(o.Buses), o.AskSPI...) {
		if !r.has(b) {
			r.Notes = append(r.Notes, fmt.Sprintf("%s: no such port or bus here", b))
		}
	}
	return r, ctx.Err()
}

func (o *Options) defaults() {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Open == nil {
		o.Open = hostbus.Open
	}
	if o.Holders == nil {
		o.Holders = hostbus.Holders
	}
	if o.Sleep == nil {
		o.Sleep = time.Sleep
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
}

func (r *Result) has(name string) bool {
	for _, p := range r.Serial {
		if p.Name == name || slices.Contains(p.ByPath, name) || slices.Contains(p.ByID, name) {
			return true
		}
	}
	named := func(d Device) bool { return d.Name == name || d.Bus == name }
	return slices.ContainsFunc(r.I2C, func(b I2CBus) bool { return b.Name == name }) || slices.ContainsFunc(r.SPI, named) || slices.ContainsFunc(r.W1, named)
}

// wanted says whether a bus under any of its names is to be looked at.
func (o *Options) wanted(names ...string) bool {
	return len(o.Buses) == 0 || slices.ContainsFunc(names, func(n string) bool { return slices.Contains(o.Buses, n) })
}

// named says whether a bus was asked for by its name.
func (o *Options) named(name string) bool { return slices.Contains(o.Buses, name) }

// path is where a path of the machine is.
func (o *Options) path(p string) string { return filepath.Join(o.Root, p) }

// text reads a small file of /sys, "" where there is none. Whatever a device calls itself is
// shortened, and cleaned of what is not printable.
func (o *Options) text(p string) string {
	f, err := os.Open(p)
	if err != nil {
		return ""
	}
	defer f.Close()
	var b [256]byte
	n, _ := f.Read(b[:])
	return clean(string(b[:n]))
}

func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 || !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
}

// users says who has the port or bus under any of its names, whose device file is at path ("": none).
func (o *Options) users(path string, names ...string) []User {
	var list []User
	agent := false
	for _, x := range o.Owned {
		if slices.Contains(names, x.Bus) || path != "" && o.same(x.Bus, path) {
			list = append(list, User{PID: o.Agent, Name: "homeward", Agent: true, Sensor: clean(x.Sensor), Driver: clean(x.Driver), State: clean(x.State)})
			agent = true
		}
	}
	if path == "" {
		return list
	}
	holders, _ := o.Holders(path) // it is gone again: nobody has it
	for _, h := range holders {
		if h.PID == o.Agent && o.Agent != 0 {
			if !agent {
				list = append(list, User{PID: h.PID, Name: "homeward", Agent: true})
			}
			continue
		}
		list = append(list, User{PID: h.PID, Name: clean(h.Name)})
	}
	return list
}

// same says whether the configured name leads to the device file at path.
func (o *Options) same(name, path string) bool {
	if !strings.HasPrefix(name, "/") {
		return false
	}
	to, err := filepath.EvalSymlinks(o.path(name))
	return err == nil && to == path
}

// glob lists a folder's matching paths in an order that a person expects: numbers by value.
func (o *Options) glob(pattern string) []string {
	list, _ := filepath.Glob(o.path(pattern))
	slices.SortFunc(list, natural)
	return list
}

var digits = regexp.MustCompile(`[0-9]+`)

func natural(a, b string) int {
	pad := func(s string) string {
		return digits.ReplaceAllStringFunc(s, func(d string) string { return strings.Repeat("0", max(0, 12-len(d))) + d })
	}
	return strings.Compare(pad(a), pad(b))
}

// isMissing says that there is nothing at a path, as opposed to something that may not be seen.
func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func isGone(err error) bool    { return errors.Is(err, drivers.ErrGone) }
func isTimeout(err error) bool { return errors.Is(err, drivers.ErrTimeout) }
