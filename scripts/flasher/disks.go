package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// host is where the machine says which disks it has and what it uses.
type host struct {
	sys       string // /sys
	mountinfo string // /proc/self/mountinfo
	swaps     string // /proc/swaps
	udev      string // /run/udev/data: labels
	// rdev gives the numbers of a block device's file, as 8:16.
	rdev func(path string) (string, error)
}

func realHost() host {
	return host{"/sys", "/proc/self/mountinfo", "/proc/swaps", "/run/udev/data", func(path string) (string, error) {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return "", &os.PathError{Op: "stat", Path: path, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return "", fmt.Errorf("%s: not a block device", path)
		}
		return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
	}}
}

// disk is a whole disk as the kernel describes it (Documentation/ABI/stable/sysfs-block).
type disk struct {
	Name, Dev, Vendor, Model, Serial string
	Size                             int64
	Removable, ReadOnly              bool
	Bus                              string // usb, mmc, emmc, or the driver's name
	Seq                              string // changes with each medium
	Parts                            []diskPart
	Use                              string // why it must not be written; empty: free
	System                           bool
}

type diskPart struct {
	Name, Dev, Label, Kind string
	Size                   int64
}

func (h host) read(parts ...string) string {
	b, err := os.ReadFile(filepath.Join(append([]string{h.sys, "block"}, parts...)...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// disks lists everything in /sys/block and what is on it.
func (h host) disks() ([]*disk, error) {
	dirs, err := os.ReadDir(filepath.Join(h.sys, "block"))
	if err != nil {
		return nil, err
	}
	var all []*disk
	for _, e := range dirs {
		d := &disk{Name: e.Name(), Dev: h.read(e.Name(), "dev"), Vendor: h.read(e.Name(), "device/vendor"),
			Model: cmp.Or(h.read(e.Name(), "device/model"), h.read(e.Name(), "device/name")), Serial: h.read(e.Name(), "device/serial"),
			Removable: h.read(e.Name(), "removable") == "1", ReadOnly: h.read(e.Name(), "ro") == "1", Seq: h.read(e.Name(), "diskseq")}
		n, _ := strconv.ParseInt(h.read(e.Name(), "size"), 10, 64)
		d.Size = n * sector // always 512, whatever the disk's own sector
		real, err := filepath.EvalSymlinks(filepath.Join(h.sys, "block", e.Name()))
		if err != nil || d.Dev == "" {
			continue
		}
		d.Bus = h.bus(d, real)
		subs, _ := os.ReadDir(real)
		for _, s := range subs {
			if h.read(e.Name(), s.Name(), "partition") == "" {
				continue
			}
			p := diskPart{Name: s.Name(), Dev: h.read(e.Name(), s.Name(), "dev")}
			n, _ := strconv.ParseInt(h.read(e.Name(), s.Name(), "size"), 10, 64)
			p.Size = n * sector
			p.Label, p.Kind = h.label(p.Dev)
			d.Parts = append(d.Parts, p)
		}
		all = append(all, d)
	}
	uses, err := h.uses()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		h.judge(d, all, uses)
	}
	return all, nil
}

// bus tells how a disk is connected, and finds a USB device's serial number.
func (h host) bus(d *disk, real string) string {
	switch {
	case strings.HasPrefix(d.Name, "mmcblk"):
		if h.read(d.Name, "device/type") == "SD" {
			return "mmc"
		}
		return "emmc"
	case strings.Contains(real, "/usb"):
		for dir := filepath.Dir(real); len(dir) > len(h.sys); dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "idVendor")); err == nil {
				if b, err := os.ReadFile(filepath.Join(dir, "serial")); err == nil && d.Serial == "" {
					d.Serial = strings.TrimSpace(string(b))
				}
				break
			}
		}
		return "usb"
	}
	return strings.TrimRight(d.Name, "0123456789")
}

func (h host) label(dev string) (label, kind string) {
	b, err := os.ReadFile(filepath.Join(h.udev, "b"+dev))
	if err != nil {
		return "", ""
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if l, ok := strings.CutPrefix(line, "E:ID_FS_LABEL="); ok {
			label = l
		}
		if k, ok := strings.CutPrefix(line, "E:ID_FS_TYPE="); ok {
			kind = k
		}
	}
	return label, kind
}

type use struct {
	where  string
	system bool
}

// uses tells which device numbers are mounted or swapped to. File systems with numbers of
// their own (btrfs) are found by the file they were mounted from, whatever its name.
func (h host) uses() (map[string]use, error) {
	all := map[string]use{}
	text, err := os.ReadFile(h.mountinfo)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		f, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(tail) < 2 {
			continue
		}
		dev, at := f[2], unescape(f[4])
		if strings.HasPrefix(dev, "0:") {
			if !strings.HasPrefix(tail[1], "/") {
				continue
			}
			if dev, err = h.rdev(unescape(tail[1])); err != nil {
				continue
			}
		}
		u := use{"is mounted at " + at, at == "/"}
		for _, dir := range []string{"/boot", "/efi", "/usr", "/var", "/home"} {
			u.system = u.system || at == dir || strings.HasPrefix(at, dir+"/") && dir == "/boot"
		}
		if old, ok := all[dev]; !ok || u.system && !old.system || at == "/" {
			all[dev] = u
		}
	}
	swaps, err := os.ReadFile(h.swaps)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(swaps)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[0], "/") {
			continue
		}
		if dev, err := h.rdev(unescape(f[0])); err == nil {
			if _, ok := all[dev]; !ok {
				all[dev] = use{"is swap", true}
			}
		}
	}
	return all, nil
}

// unescape undoes \040 and the like of /proc (proc_pid_mountinfo(5)).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// judge finds out whether something uses the disk, also through what is built on it: LUKS, LVM, RAID.
func (h host) judge(d *disk, all []*disk, uses map[string]use) {
	byName := map[string]*disk{}
	for _, o := range all {
		byName[o.Name] = o
	}
	type node struct{ name, dev, on, dir string }
	todo := []node{{d.Name, d.Dev, "", d.Name}}
	for _, p := range d.Parts {
		todo = append(todo, node{p.Name, p.Dev, "", d.Name + "/" + p.Name})
	}
	seen := map[string]bool{}
	var weak string
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		if seen[n.name] {
			continue
		}
		seen[n.name] = true
		what := n.name
		if n.on != "" {
			what += " on " + n.on
		}
		if u, ok := uses[n.dev]; ok {
			if d.Use == "" || u.system && !d.System {
				d.Use, d.System = what+" "+u.where, u.system
			}
		}
		holders, _ := os.ReadDir(filepath.Join(h.sys, "block", n.dir, "holders"))
		for _, e := range holders {
			if weak == "" {
				weak = what + " is in use by " + e.Name()
				if name := h.read(e.Name(), "dm/name"); name != "" {
					weak += " (" + name + ")"
				}
			}
			o, ok := byName[e.Name()]
			if !ok {
				continue
			}
			todo = append(todo, node{o.Name, o.Dev, n.name, o.Name})
			for _, p := range o.Parts {
				todo = append(todo, node{p.Name, p.Dev, n.name, o.Name + "/" + p.Name})
			}
		}
	}
	if d.Use == "" {
		d.Use = weak
	}
}

// refuse says why a disk is not written; fixed is the name given with --force-fixed.
func (d *disk) refuse(fixed string) error {
	dev := "/dev/" + d.Name
	base := strings.TrimRight(d.Name, "0123456789")
	switch {
	case slices.Contains([]string{"dm-", "md", "zram", "ram", "sr", "fd", "nbd", "drbd"}, base):
		return fmt.Errorf("%s: not a card", dev)
	case strings.Contains(d.Name, "boot") || strings.Contains(d.Name, "rpmb"):
		return fmt.Errorf("%s: a part of an eMMC's own: not a card", dev)
	case d.System:
		return fmt.Errorf("%s: the disk this machine runs from (%s): never written", dev, d.Use)
	case d.Use != "":
		return fmt.Errorf("%s: %s: unmount it first (umount, swapoff, cryptsetup close, vgchange -an)", dev, d.Use)
	case d.Size == 0:
		return fmt.Errorf("%s: no card in the reader", dev)
	case d.ReadOnly:
		return fmt.Errorf("%s: write-protected: slide the lock of the card or adapter", dev)
	case !d.Removable && d.Bus != "usb" && d.Bus != "mmc" && fixed != d.Name:
		return fmt.Errorf("%s: a fixed disk (%s): if it really is the one, add --force-fixed %s", dev, d.Bus, d.Name)
	}
	return nil
}

func (d *disk) describe() string {
	s := fmt.Sprintf("/dev/%-8s %9s  %s", d.Name, bytesText(d.Size), strings.Join(strings.Fields(d.Vendor+" "+d.Model), " "))
	if d.Serial != "" {
		s += ", serial " + d.Serial
	}
	kind := d.Bus
	if d.Removable {
		kind += ", removable"
	}
	return s + " (" + kind + ")"
}

// find is the disk that a path names, by any of its names.
func (h host) find(path string, all []*disk) (*disk, error) {
	dev, err := h.rdev(path)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Dev == dev {
			return d, nil
		}
		for _, p := range d.Parts {
			if p.Dev == dev {
				return nil, fmt.Errorf("%s: a partition (%s): want the whole disk, /dev/%s", path, p.Name, d.Name)
			}
		}
	}
	return nil, fmt.Errorf("%s: device %s is not in %s/block", path, dev, h.sys)
}

// pick finds the disk and refuses it, or gives it; an error lists what would be accepted.
func (h host) pick(path, fixed string, least int64) (*disk, error) {
	all, err := h.disks()
	if err != nil {
		return nil, err
	}
	d, err := h.find(path, all)
	if err == nil {
		err = d.refuse(fixed)
	}
	if err == nil && d.Size < least {
		err = fmt.Errorf("/dev/%s: %s, but the image needs %s: take a larger card", d.Name, bytesText(d.Size), bytesText(least))
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, candidates(all, least))
	}
	return d, nil
}

func candidates(all []*disk, least int64) string {
	var b strings.Builder
	for _, d := range all {
		if d.refuse("") == nil && d.Size >= least {
			fmt.Fprintf(&b, "\n  %s", d.describe())
		}
	}
	if b.Len() == 0 {
		return "no disk here would be accepted: put the card in, then scripts/flash --list"
	}
	return "would be accepted:" + b.String()
}

func (w *world) list() error {
	all, err := w.host.disks()
	if err != nil {
		return err
	}
	w.say("%s", candidates(all, 0))
	return nil
}

// same tells whether a second look finds the same medium.
func (d *disk) same(o *disk) bool {
	return d.Name == o.Name && d.Dev == o.Dev && d.Size == o.Size && d.Seq == o.Seq && d.Serial == o.Serial && d.Model == o.Model
}

func (w *world) toCard(ctx context.Context, o *options, img *Image, p progress) error {
	d, err := w.host.pick(o.device, o.fixed, img.least())
	if err != nil {
		return err
	}
	w.say("image     %s", img.describe())
	w.say("to        %s", d.describe())
	for _, part := range d.Parts {
		w.say("          now holds %s", strings.TrimSpace(fmt.Sprintf("%s  %s  %s %s", part.Name, bytesText(part.Size), part.Kind, part.Label)))
	}
	if o.dry {
		w.plan(o)
		return nil
	}
	if !o.yes {
		if err := w.ask(ctx, d.Name); err != nil {
			return err
		}
	}
	path := "/dev/" + d.Name
	// The card may have been changed or mounted while the question stood.
	again, err := w.host.pick(path, o.fixed, img.least())
	if err != nil {
		return err
	}
	if !again.same(d) {
		return fmt.Errorf("%s: another card than a moment ago: nothing was written; start again", path)
	}
	dev, err := w.open(path)
	if err != nil {
		return err
	}
	defer dev.Close()
	if dev.Size() != d.Size {
		return fmt.Errorf("%s: %s, was %s a moment ago: nothing was written; start again", path, bytesText(dev.Size()), bytesText(d.Size))
	}
	if last, err := w.host.pick(path, o.fixed, img.least()); err != nil || !last.same(d) {
		return fmt.Errorf("%s: another card than a moment ago: nothing was written; start again", path)
	}
	var done *Prepared
	prepare := o.steps(&done)
	got, err := flash(ctx, img, dev, dev.Size(), prepare, p)
	if err != nil {
		var s spoiled
		if errors.As(err, &s) {
			for _, e := range []error{unix.EIO, unix.ENXIO, unix.ENODEV, unix.ENOMEDIUM} {
				if errors.Is(err, e) {
					s.err = fmt.Errorf("%w (pulled out? otherwise the card or its reader is bad)", s.err)
				}
			}
			s.hint = fmt.Sprintf("%s cannot be used as it is: write it again, or take another card; %s was not touched", path, o.image)
			return s
		}
		return err
	}
	w.report(img, got, done)
	w.say("done      %s is ready: take it out", path)
	return nil
}
