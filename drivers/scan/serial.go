package scan

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"homeward/drivers"
)

// Port is a serial port.
type Port struct {
	Name    string   `json:"name"`    // /dev/ttyUSB0: may be another one after the next start
	ByPath  []string `json:"by_path"` // where it is plugged in
	ByID    []string `json:"by_id"`   // which adapter it is, where it has a serial number
	Driver  string   `json:"driver,omitempty"`
	Vendor  string   `json:"usb_vendor,omitempty"`  // 0403
	Product string   `json:"usb_product,omitempty"` // 6001
	Serial  string   `json:"usb_serial,omitempty"`
	Text    string   `json:"usb_text,omitempty"` // what the adapter calls itself
	Users   []User   `json:"users,omitempty"`
	Note    string   `json:"note,omitempty"`
	Config  string   `json:"config,omitempty"` // an item below sensors:
}

// Stable is the name that stays: by path if there is one.
func (p *Port) Stable() string {
	switch {
	case len(p.ByPath) > 0:
		return p.ByPath[0]
	case len(p.ByID) > 0:
		return p.ByID[0]
	}
	return p.Name
}

// serial lists the ports. No port is opened.
func (o *Options) serial(ctx context.Context, r *Result, simulated []drivers.Bus) {
	links := func(dir string) map[string][]string {
		to := map[string][]string{}
		for _, l := range o.glob(dir + "/*") {
			target, err := filepath.EvalSymlinks(l)
			if err == nil {
				to[target] = append(to[target], dir+"/"+filepath.Base(l))
			}
		}
		return to
	}
	byPath, byID := links("/dev/serial/by-path"), links("/dev/serial/by-id")
	consoles := strings.Fields(o.text(o.path("/sys/class/tty/console/active")))
	for _, device := range o.glob("/sys/class/tty/*/device") {
		class := filepath.Dir(device)
		name := filepath.Base(class)
		// 8250 ports are made in advance: type 0 is one without hardware (include/uapi/linux/serial_core.h, PORT_UNKNOWN).
		if strings.HasPrefix(name, "hvc") || strings.HasPrefix(name, "ttyS") && o.text(filepath.Join(class, "type")) == "0" {
			continue
		}
		file := o.path("/dev/" + name)
		p := Port{Name: "/dev/" + name, ByPath: append([]string{}, byPath[file]...), ByID: append([]string{}, byID[file]...)}
		if !o.wanted(append(append([]string{p.Name}, p.ByPath...), p.ByID...)...) {
			continue
		}
		if to, err := filepath.EvalSymlinks(filepath.Join(device, "driver")); err == nil {
			p.Driver = clean(filepath.Base(to))
		}
		if to, err := filepath.EvalSymlinks(device); err == nil {
			o.usb(&p, to)
		}
		p.Users = o.users(file, append(append([]string{p.Name}, p.ByPath...), p.ByID...)...)
		switch _, err := os.Stat(file); {
		case isMissing(err):
			p.Note = "the kernel has it, but there is no " + p.Name + ": in a container it must be passed in"
		case slices.Contains(consoles, name):
			p.Note = "the kernel's console is on it: take console=" + name + " (or serial0) out of the kernel's command line to use it"
		}
		r.Serial = append(r.Serial, p)
	}
	for _, b := range simulated {
		if b.Kind != "serial" || !o.wanted(b.Name) {
			continue
		}
		p := Port{Name: b.Name, ByPath: []string{}, ByID: []string{}, Driver: "simulated"}
		path := ""
		if o.SimPath != nil {
			var err error
			if path, err = o.SimPath(ctx, b.Name); err != nil {
				p.Note = err.Error()
			}
		}
		p.Users = o.users(path, p.Name)
		r.Serial = append(r.Serial, p)
	}
	for i := range r.Serial {
		p := &r.Serial[i]
		p.Config = snippet(fmt.Sprintf("port%d", i+1), "modbus", "port", p.Stable(), modbusRest("19200-8E1", 1))
	}
}

// usb fills in what the adapter says of itself: the nearest folder above the port that has an idVendor.
func (o *Options) usb(p *Port, dir string) {
	for root := filepath.Clean(o.path("/sys")); len(dir) > len(root) && strings.HasPrefix(dir, root); dir = filepath.Dir(dir) {
		if v := o.text(filepath.Join(dir, "idVendor")); v != "" {
			p.Vendor, p.Product = v, o.text(filepath.Join(dir, "idProduct"))
			p.Serial = o.text(filepath.Join(dir, "serial"))
			p.Text = strings.TrimSpace(o.text(filepath.Join(dir, "manufacturer")) + " " + o.text(filepath.Join(dir, "product")))
			return
		}
	}
}
