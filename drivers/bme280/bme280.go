// Package bme280 reads Bosch's BME280 (temperature, pressure, humidity) and BMP280 (temperature, pressure) over I2C or SPI.
//
// It promises that a value comes from a chip that has just shown its identity and still
// holds the settings that were written to it: a chip that was pulled, exchanged or lost
// its supply is an error, and is set up again when it is opened anew. Codes of a chip that has measured
// nothing since its reset and those of a dead bus are refused.
//
// What it cannot tell: SPI acknowledges nothing, so a start command that is garbled on the wire, while all that
// is read before and after it is right, gives the measurement before once more.
//
// Sources: Bosch Sensortec BST-BME280-DS002 and BST-BMP280-DS001.
package bme280

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
	"homeward/drivers/chip"
)

// Factory is the driver as the list of drivers names it.
var Factory = drivers.Factory{
	Name: "bme280", Aliases: []string{"bmp280"},
	Summary: "Bosch BME280 and BMP280 over I2C or SPI: temperature, pressure, humidity (BME280)",
	New:     func(name string) drivers.Options { return &Options{bmp: name == "bmp280"} },
}

// Options is the configuration of one chip.
type Options struct {
	BusName      string            `yaml:"bus" doc:"/dev/i2c-N, /dev/spidevB.C or sim:NAME"`
	Address      *int              `yaml:"address,omitempty" doc:"I2C address, 0x76 (default) or 0x77"`
	Interface    string            `yaml:"interface,omitempty" doc:"i2c or spi; default: what the bus's name says, i2c for sim:"`
	Oversampling *int              `yaml:"oversampling,omitempty" doc:"measurements that are averaged in the chip: 1 (default), 2, 4, 8 or 16"`
	Chans        []drivers.Channel `yaml:"channels,omitempty" doc:"temperature (Cel), humidity (%RH, BME280 only) and pressure (Pa), and how each is recorded; default: all that the chip has"`

	bmp  bool
	kind drivers.BusKind
	osrs byte
}

// quantities in the order of recording, with unit and operating range (BST-BME280-DS002 §1.1, tables 1 to 3).
var quantities = []chip.Quantity{
	{Name: "temperature", Unit: "Cel", Min: -40, Max: 85},
	{Name: "humidity", Unit: "%RH", Min: 0, Max: 100},
	{Name: "pressure", Unit: "Pa", Min: 30000, Max: 110000},
}

// Check implements [drivers.Options].
func (o *Options) Check() (faults []drivers.Fault) {
	fault := func(path string, bad any, want string) {
		faults = append(faults, drivers.Fault{Path: path, Bad: bad, Want: want})
	}
	named := drivers.BusKind("")
	switch {
	case o.BusName == "":
		fault("bus", nil, "the bus, such as /dev/i2c-1 or /dev/spidev0.0")
	case strings.Contains(o.BusName, "spidev"):
		named = drivers.SPI
	case strings.Contains(o.BusName, "i2c"), strings.HasPrefix(o.BusName, "sim:"):
		named = drivers.I2C
	}
	switch o.Interface {
	case "":
		if o.kind = named; named == "" && o.BusName != "" {
			fault("interface", nil, "i2c or spi: the bus's name does not tell")
		}
	case "i2c", "spi":
		o.kind = drivers.BusKind(o.Interface)
		if named != "" && o.kind != named && !strings.HasPrefix(o.BusName, "sim:") {
			fault("interface", o.Interface, string(named)+", as the bus's name says, or nothing")
		}
	default:
		fault("interface", o.Interface, "i2c or spi")
	}
	switch {
	case o.kind == drivers.SPI:
		if o.Address != nil {
			fault("address", fmt.Sprintf("%#x", *o.Address), "no address: SPI devices are told apart by their chip select")
		}
	case o.Address == nil:
		o.Address = new(int)
		*o.Address = 0x76
	case *o.Address != 0x76 && *o.Address != 0x77:
		fault("address", fmt.Sprintf("%#x", *o.Address), "0x76 or 0x77, by the chip's pin SDO")
	}
	o.osrs = 1
	if o.Oversampling != nil {
		i := slices.Index([]int{1, 2, 4, 8, 16}, *o.Oversampling)
		if i < 0 {
			fault("oversampling", *o.Oversampling, "1, 2, 4, 8 or 16")
		}
		o.osrs = byte(i + 1)
	}
	measured := quantities
	if o.bmp {
		measured = slices.DeleteFunc(slices.Clone(measured), func(q chip.Quantity) bool { return q.Name == "humidity" })
	}
	return append(faults, chip.CheckChannels(&o.Chans, measured)...)
}

// Bus implements [drivers.Options].
func (o *Options) Bus() drivers.Bus { return drivers.Bus{Kind: o.kind, Name: o.BusName} }

// Channels implements [drivers.Options].
func (o *Options) Channels() []drivers.Channel {
	return slices.Clone(o.Chans)
}

// The registers (BST-BME280-DS002 §5.3, table 18).
const (
	regID       = 0xD0
	regCtrlHum  = 0xF2
	regStatus   = 0xF3
	regCtrlMeas = 0xF4
	regConfig   = 0xF5
	regData     = 0xF7 // pressure 3, temperature 3, humidity 2 bytes

	idBME280 = 0x60 // §5.4.1
	idBMP280 = 0x58 // BST-BMP280-DS001 §4.3.1; engineering samples with 0x56 and 0x57 are refused

	statusMeasuring = 1 << 3 // §5.4.4
	statusUpdating  = 1 << 0
	modeForced      = 0x01 // §3.3.3

	resetCode = 0x80000
)

// Dev is an opened chip.
type Dev struct {
	opts  *Options
	reg   registers
	id    byte
	calib calibration
	sleep func(time.Duration)
	took  time.Duration // longest measurement
}

// registers is the chip's register file, over whichever bus.
type registers interface {
	read(at byte, p []byte) error
	write(at, v byte) error
}

// Open identifies the chip, reads its calibration and sets it up.
func (o *Options) Open(ctx context.Context, env drivers.Env) (drivers.Sensor, error) {
	d := &Dev{opts: o, id: idBME280, sleep: env.Sleep}
	if o.bmp {
		d.id = idBMP280
	}
	if d.sleep == nil {
		d.sleep = time.Sleep
	}
	if o.kind == drivers.SPI {
		c, err := env.SPI.Connect(physic.MegaHertz, spi.Mode0, 8) // at most 10 MHz, modes 0 and 3 (§6.3)
		if err != nil {
			return nil, fmt.Errorf("bme280: %w", err)
		}
		d.reg = spiRegisters{c}
	} else {
		d.reg = i2cRegisters{&i2c.Dev{Bus: env.I2C, Addr: uint16(*o.Address)}}
	}
	if err := d.open(ctx); err != nil {
		return nil, fmt.Errorf("bme280: %w", err)
	}
	return d, nil
}

func (d *Dev) open(ctx context.Context) error {
	if err := d.identify(); err != nil {
		return err
	}
	// After power-on the calibration is copied from the chip's memory within 2 ms (§1.1, start-up time).
	for try := 0; ; try++ {
		var status [1]byte
		if err := d.reg.read(regStatus, status[:]); err != nil {
			return fmt.Errorf("status: %w", err)
		}
		if status[0]&statusUpdating == 0 {
			break
		}
		if try == 10 {
			return fmt.Errorf("%w: the chip is still starting after 20 ms", drivers.ErrCheck)
		}
		d.sleep(2 * time.Millisecond)
	}
	var low [calibLowLen]byte
	if err := d.reg.read(calibLow, low[:]); err != nil {
		return fmt.Errorf("calibration: %w", err)
	}
	var hum []byte
	if !d.opts.bmp {
		hum = make([]byte, calibHumLen)
		if err := d.reg.read(calibHum, hum); err != nil {
			return fmt.Errorf("humidity calibration: %w", err)
		}
	}
	if err := d.calib.parse(low[:], hum); err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrCheck, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// ctrl_hum takes effect with the next write to ctrl_meas (§5.4.3); config is written while the chip sleeps (§5.4.6).
	if err := d.reg.write(regCtrlMeas, 0); err != nil {
		return fmt.Errorf("sleep: %w", err)
	}
	if err := d.reg.write(regConfig, 0); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if !d.opts.bmp {
		if err := d.reg.write(regCtrlHum, d.opts.osrs); err != nil {
			return fmt.Errorf("ctrl_hum: %w", err)
		}
	}
	if err := d.reg.write(regCtrlMeas, d.ctrl()); err != nil {
		return fmt.Errorf("ctrl_meas: %w", err)
	}
	n := float64(int(1) << (d.opts.osrs - 1))
	d.took = time.Duration((1.25 + 3*2.3*n + 2*0.575) * float64(time.Millisecond)) // §9.1, t_measure,max
	return d.settled()
}

// ctrl is ctrl_meas asleep.
func (d *Dev) ctrl() byte { return d.opts.osrs<<5 | d.opts.osrs<<2 }

func (d *Dev) identify() error {
	var id [1]byte
	if err := d.reg.read(regID, id[:]); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	switch {
	case id[0] == d.id:
		return nil
	case id[0] == 0 || id[0] == 0xFF:
		return fmt.Errorf("%w: identity reads %#02x: nothing drives the bus", drivers.ErrCheck, id[0])
	case id[0] == idBME280:
		return fmt.Errorf("%w: this is a BME280: write driver: bme280", drivers.ErrWrong)
	case id[0] == idBMP280:
		return fmt.Errorf("%w: this is a BMP280, without humidity: write driver: bmp280", drivers.ErrWrong)
	}
	return fmt.Errorf("%w: identity reads %#02x, want %#02x", drivers.ErrWrong, id[0], d.id)
}

// settled checks that the chip holds what was written to it; after a loss of supply it does not.
func (d *Dev) settled() error {
	var got [4]byte // ctrl_hum, status, ctrl_meas, config
	if err := d.reg.read(regCtrlHum, got[:]); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	hum := byte(0)
	if !d.opts.bmp {
		hum = d.opts.osrs
	} else {
		got[0] = 0 // no such register
	}
	// The mode's two bits are the chip's own: it goes back to sleep by itself.
	if got[0]&7 != hum || got[2]&^3 != d.ctrl() || got[3]&0xFC != 0 {
		return fmt.Errorf("%w: the chip has lost its settings (ctrl_hum %#02x, ctrl_meas %#02x, config %#02x)", drivers.ErrCheck, got[0], got[2], got[3])
	}
	return nil
}

// Read implements [drivers.Sensor].
func (d *Dev) Read(ctx context.Context) ([]drivers.Reading, error) {
	readings, err := d.measure(ctx)
	if err != nil {
		return nil, fmt.Errorf("bme280: %w", err)
	}
	return readings, nil
}

func (d *Dev) measure(ctx context.Context) ([]drivers.Reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.identify(); err != nil {
		return nil, err
	}
	if err := d.settled(); err != nil {
		return nil, err
	}
	if err := d.reg.write(regCtrlMeas, d.ctrl()|modeForced); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	d.sleep(d.took)
	for try := 0; ; try++ {
		var status [1]byte
		if err := d.reg.read(regStatus, status[:]); err != nil {
			return nil, fmt.Errorf("status: %w", err)
		}
		if status[0]&statusMeasuring == 0 {
			break
		}
		if try == 5 {
			return nil, fmt.Errorf("%w: still measuring after twice the longest time", drivers.ErrCheck)
		}
		d.sleep(d.took / 5)
	}
	data := make([]byte, 8)
	if d.opts.bmp {
		data = data[:6]
	}
	if err := d.reg.read(regData, data); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	if err := d.settled(); err != nil { // a supply that failed meanwhile
		return nil, err
	}
	return d.convert(data)
}

// convert turns the data registers into readings.
func (d *Dev) convert(data []byte) ([]drivers.Reading, error) {
	p20 := int32(data[0])<<12 | int32(data[1])<<4 | int32(data[2])>>4
	t20 := int32(data[3])<<12 | int32(data[4])<<4 | int32(data[5])>>4
	// Both are 0x80000 after a reset and when skipped (§5.4.8, §5.4.9). One alone is a code like any other, near
	// 26.5 Cel or 82 kPa: the settings, which have just been checked, skip nothing.
	if t20 == resetCode && p20 == resetCode {
		return nil, fmt.Errorf("%w: no measurement was made since the chip's last reset", drivers.ErrCheck)
	}
	for _, x := range []struct {
		name string
		raw  int32
	}{{"temperature", t20}, {"pressure", p20}} {
		if x.raw>>4 == 0 || x.raw>>4 == 0xFFFF { // a dead wire; no chip measures so far out
			return nil, fmt.Errorf("%w: raw %s %#x", drivers.ErrCheck, x.name, x.raw)
		}
	}
	centi, fine := d.calib.temperature(t20)
	pa256, ok := d.calib.pressure(p20, fine)
	if !ok {
		return nil, fmt.Errorf("%w: the calibration gives no pressure", drivers.ErrCheck)
	}
	// Hundredths are near what the chip resolves (0.01 Cel, 0.008 %RH, 0.18 Pa).
	values := map[string]float64{"temperature": float64(centi) / 100, "pressure": chip.Round(float64(pa256)/256, 2)}
	if !d.opts.bmp {
		h16 := int32(data[6])<<8 | int32(data[7])
		if h16 == 0 || h16 == 0xFFFF {
			return nil, fmt.Errorf("%w: raw humidity %#x", drivers.ErrCheck, h16)
		}
		values["humidity"] = chip.Round(float64(d.calib.humidity(h16, fine))/1024, 2)
	}
	var out []drivers.Reading
	var errs []error
	for _, c := range d.opts.Chans {
		v := values[c.Name]
		// Far outside of what the chip can measure it is a broken chip, not a suspect value.
		q := quantities[slices.IndexFunc(quantities, func(q chip.Quantity) bool { return q.Name == c.Name })]
		if v < q.Min-(q.Max-q.Min) || v > q.Max+(q.Max-q.Min) {
			errs = append(errs, fmt.Errorf("%w: %s %g %s cannot be measured by this chip", drivers.ErrCheck, c.Name, v, q.Unit))
			continue
		}
		out = append(out, drivers.Reading{Channel: c.Name, Value: v, Unit: *c.Unit})
	}
	return out, errors.Join(errs...)
}

// Close implements [drivers.Sensor]: the chip sleeps by itself after each measurement.
func (d *Dev) Close() error { return nil }

type i2cRegisters struct{ dev *i2c.Dev }

func (r i2cRegisters) read(at byte, p []byte) error { return r.dev.Tx([]byte{at}, p) }
func (r i2cRegisters) write(at, v byte) error       { return r.dev.Tx([]byte{at, v}, nil) }

// spiRegisters: bit 7 of the address is 1 to read, 0 to write (§6.3).
type spiRegisters struct{ c spi.Conn }

func (r spiRegisters) read(at byte, p []byte) error {
	w, in := make([]byte, len(p)+1), make([]byte, len(p)+1)
	w[0] = at | 0x80
	if err := r.c.Tx(w, in); err != nil {
		return err
	}
	copy(p, in[1:])
	return nil
}

func (r spiRegisters) write(at, v byte) error {
	return r.c.Tx([]byte{at &^ 0x80, v}, make([]byte, 2))
}
