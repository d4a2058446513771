package scan

import (
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"strings"

	"homeward/drivers"
)

// spi lists the devices that the kernel gives programs a file for. None is opened.
func (o *Options) spi(r *Result, simulated []drivers.Bus) {
	add := func(name, path string) {
		if !o.wanted(name) {
			return
		}
		d := Device{Name: name, Users: o.users(path, name), Note: "SPI tells nothing of what is connected"}
		d.Config = snippet("spi"+strings.NewReplacer(":", "", "/", "", ".", "-").Replace(strings.TrimPrefix(strings.TrimPrefix(name, "/dev/spidev"), "sim:spi")), "mcp3008", "bus", name, "channels: [{name: input0, input: 0, unit: V}]")
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
	d := Device{Name: id, Bus: bus, Chip: w1Families[m[1]], Users: o.users("", bus)}
	if d.Chip == "" {
		d.Note = "family " + m[1] + ": not a thermometer that this program reads"
	}
	if d.Chip == "ds18b20" {
		d.Config = snippet("ds18b20-"+id[3:], "ds18b20", "bus", bus, "id: "+id)
	}
	r.W1 = append(r.W1, d)
}
