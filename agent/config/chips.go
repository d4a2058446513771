package config

import (
	"fmt"
	"reflect"
	"strings"

	"homeward/configs/plainyaml"
	"homeward/drivers"
)

// chipKey is one chip: an address of an I2C bus, an SPI chip select, the thermometers of a 1-Wire bus.
type chipKey struct {
	kind    drivers.BusKind
	bus     string
	address int
}

// checkChip refuses a sensor that reads what another one reads already, which is a copied sensor with a forgotten address
// more often than not, and two drivers on one chip, which undo each other's settings. Two sensors may share a
// chip's channels or inputs between them. Modbus units are not looked at: they may well be read at two rates.
func (d *decoder) checkChip(c *Config, read map[chipKey][]int, i int, path string) {
	s := &c.Sensors[i]
	if s.Disabled {
		return
	}
	bus := s.Options.Bus()
	k := chipKey{kind: bus.Kind, bus: bus.Name}
	at := path + ".bus"
	if address, ok := option(s.Options, "address").(int); ok && bus.Kind == drivers.I2C {
		k.address, at = address, path+".address"
	}
	others := read[k]
	read[k] = append(others, i)
	for _, j := range others {
		o, who := &c.Sensors[j], fmt.Sprintf("sensors[%d], %s,", j, c.Sensors[j].Name)
		if bus.Kind == drivers.W1Bus {
			id, _ := option(s.Options, "id").(string)
			other, _ := option(o.Options, "id").(string)
			switch {
			case id == "":
				d.problem(path+".id", "missing", fmt.Sprintf("the chip's id, since %s is on the same bus", who))
			case other == "":
				d.problem(fmt.Sprintf("sensors[%d].id", j), "missing", fmt.Sprintf("the chip's id, since sensors[%d], %s, is on the same bus", i, s.Name))
			case id == other:
				d.problem(path+".id", d.shown(path+".id"), fmt.Sprintf("an id of its own: %s has it already", who))
			}
			continue
		}
		if o.Driver == s.Driver && twice(s, o) == "" {
			continue
		}
		value, want := plainyaml.Quote(bus.Name), "a bus of its own"
		if k.address != 0 {
			value, want = fmt.Sprintf("%#x", k.address), "an address of its own on "+bus.Name
		}
		why := "reads " + twice(s, o) + " there already"
		if o.Driver != s.Driver {
			why = "is there already, with driver: " + o.Driver
		}
		d.problem(at, value, fmt.Sprintf("%s: %s %s", want, who, why))
		return
	}
}

// twice names the first input, or without inputs the first channel, that two sensors on one chip have in common.
func twice(a, b *Sensor) string {
	seen := map[string]bool{}
	for _, what := range inputs(b) {
		seen[what] = true
	}
	for _, what := range inputs(a) {
		if seen[what] {
			return what
		}
	}
	return ""
}

// inputs are what a sensor reads of its chip.
func inputs(s *Sensor) (list []string) {
	channels := reflect.ValueOf(option(s.Options, "channels"))
	for i, ch := range s.Channels {
		what := ch.Name
		if channels.Kind() == reflect.Slice && i < channels.Len() && channels.Index(i).Kind() == reflect.Struct {
			for _, key := range []string{"input", "against", "differential"} {
				if v := optionOf(channels.Index(i), key); v != nil {
					if key == "input" {
						what = ""
					}
					what = strings.TrimSpace(fmt.Sprintf("%s %s %v", what, key, v))
				}
			}
		}
		list = append(list, what)
	}
	return list
}

// option is the value of a driver's own key, nil where it has none or it is not given.
func option(o drivers.Options, key string) any { return optionOf(reflect.ValueOf(o).Elem(), key) }

func optionOf(v reflect.Value, key string) any {
	for _, f := range fields(v) {
		switch {
		case f.key != key:
		case f.value.Kind() != reflect.Pointer:
			return f.value.Interface()
		case !f.value.IsNil():
			return f.value.Elem().Interface()
		}
	}
	return nil
}
