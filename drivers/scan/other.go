package scan

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"periph.io/x/conn/v3/physic"
	"periph.io/x/conn/v3/spi"

	"homeward/drivers"
	"homeward/drivers/max31855"
)

// spiChips are the drivers of chips on SPI, with what an item must say beside name and bus.
var spiChips = []struct{ driver, rest string }{
	{"mcp3008", "channels: [{name: input0, input: 0, unit: V}]"},
	{"mcp3208", "channels: [{name: input0, input: 0, unit: V}]"},
	{"max31855", ""},
	{"bme280", "interface: spi"},
	{"bmp280", "interface: spi"},
}

const noteSPI = "SPI tells nothing of what is connected: take the item of the chip that is"

// spi lists the devices that the kernel gives programs a file for. None is opened but those that AskSPI names.
func (o *Options) spi(ctx context.Context, r *Result, simulated []drivers.Bus) {
	add := func(name, path string) {
		if !o.wanted(name) && !slices.Contains(o.AskSPI, name) {
			return
		}
		d := Device{Name: name, Users: o.users(path, name)}
		item := func(driver, rest string) string {
			n := "spi" + strings.NewReplacer(":", "", "/", "", ".", "-").Replace(strings.TrimPrefix(strings.TrimPrefix(name, "/dev/spidev"), "sim:spi"))
			if rest == "" {
				return snippet(n, driver, "bus", name)
			}
			return snippet(n, driver, "bus", name, rest)
		}
		d.Note = noteSPI
		if slices.Contains(o.AskSPI, name) {
			d.Chip, d.Note = o.askSPI(ctx, name, len(d.Users) > 0)
		}
		if len(d.Users) > 0 && d.Note == noteSPI {
			d.Note = ""
		}
		for _, c := range spiChips {
			switch {
			case d.Chip == "" && len(d.Users) == 0:
				d.Choices = append(d.Choices, Choice{c.driver, item(c.driver, c.rest)})
			case d.Chip == c.driver:
				d.Config = item(c.driver, c.rest)
			}
		}
		r.SPI = append(r.SPI, d)
	}
	for _, p := range o.glob("/dev/spidev*") {
		add("/dev/"+filepath.Base(p), p)
	}
	for _, b := range simulated {
		if b.Kind == "spi" {
			add(b.Name, "")
		}
	}
}

// askSPI reads the identity of a BME280 or BMP280, and else two words to see whether they can be a MAX31855's: that has no identity, but
// reserved bits, a fault bit that agrees with its causes, and temperatures that exist, in both words. In this order: zeros are an
// order to the first two, to write.
func (o *Options) askSPI(ctx context.Context, name string, used bool) (chip, note string) {
	if used {
		return "", "in use, so it was not asked"
	}
	o.Step(name)
	h, err := o.Open(ctx, drivers.Bus{Kind: drivers.SPI, Name: name})
	if err != nil {
		return "", err.Error()
	}
	defer h.Close()
	conn, err := h.SPI.Connect(physic.MegaHertz, spi.Mode0, 8)
	if err != nil {
		return "", err.Error()
	}
	var id [2]byte
	if err := conn.Tx([]byte{0xD0, 0}, id[:]); err != nil {
		return "", err.Error()
	}
	switch id[1] {
	case 0x60:
		return "bme280", "identity 0x60 (register 0xD0)"
	case 0x58:
		return "bmp280", "identity 0x58 (register 0xD0)"
	}
	c := max31855.Options{BusName: name}
	_ = c.Check() // fills in the channels
	s, err := c.Open(ctx, drivers.Env{SPI: h.SPI})
	if err != nil {
		return "", "asked, it is no BME280, BMP280 or MAX31855, or has no power: " + err.Error()
	}
	defer s.Close()
	readings, err := s.Read(ctx)
	if len(readings) == 0 {
		return "", "asked, it is no BME280, BMP280 or MAX31855: " + err.Error()
	}
	var says []string
	for _, x := range readings {
		says = append(says, fmt.Sprintf("%s %g %s", x.Channel, x.Value, x.Unit))
	}
	if err != nil { // the thermocouple is broken
		says = append(says, err.Error())
	}
	return "max31855", "probably, by the form of its answer: " + strings.Join(says, ", ")
}

// w1Families are the thermometers that the kernel's w1_therm reads, by family code (Documentation/w1/slaves/w1_therm.rst).
var w1Families = map[string]string{"10": "ds18s20", "22": "ds1822", "28": "ds18b20", "3b": "max31850", "42": "ds28ea00"}

var w1ID = regexp.MustCompile(`^([0-9a-f]{2})-[0-9a-f]{12}$`)

// w1 lists what the kernel, or a simulated site, has found on 1-Wire buses.
func (o *Options) w1(ctx context.Context, r *Result, simulated []drivers.Bus) {
	for _, p := range o.glob("/sys/bus/w1/devices/*") {
		o.w1Device(r, "/sys/bus/w1/devices", filepath.Base(p))
	}
	for _, b := range simulated {
		if b.Kind != drivers.W1Bus || len(o.Buses) > 0 && !o.named(b.Name) {
			continue
		}
		h, err := o.Open(ctx, b)
		if err != nil {
			r.Notes = append(r.Notes, err.Error())
			continue
		}
		var ids []string
		if h.W1 != nil {
			ids, err = h.W1.Devices() // a list that is kept, no conversation
		}
		if err = errors.Join(err, h.Close()); err != nil {
			r.Notes = append(r.Notes, err.Error())
		}
		for _, id := range ids {
			o.w1Device(r, b.Name, id)
		}
	}
}

func (o *Options) w1Device(r *Result, bus, id string) {
	m := w1ID.FindStringSubmatch(id)
	if m == nil || !o.wanted(bus, id) {
		return
	}
	d := Device{Name: id, Bus: bus, Chip: w1Families[m[1]]}
	mine := *o // of the bus's sensors those that read this device
	mine.Owned = slices.DeleteFunc(slices.Clone(o.Owned), func(x Owned) bool { return x.Device != "" && x.Device != id })
	d.Users = mine.users("", bus)
	if d.Chip == "" {
		d.Note = "family " + m[1] + ": not a thermometer that this program reads"
	}
	if d.Chip == "ds18b20" {
		d.Config = snippet("ds18b20-"+id[3:], "ds18b20", "bus", bus, "id: "+id)
	}
	r.W1 = append(r.W1, d)
}
