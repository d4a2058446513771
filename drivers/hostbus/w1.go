package hostbus

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"homeward/drivers"
)

// maxW1File is a page: the most that a file of sysfs holds.
const maxW1File = 4096

// maxW1Entries bounds what is looked at in a bus's folder.
const maxW1Entries = 4096

var (
	w1Device = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{12}$`)
	w1File   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
)

// w1Dir is a folder such as /sys/bus/w1/devices, or that of one bus master in it.
type w1Dir string

func openW1(name string) (*Handle, error) {
	if _, err := w1Dir(name).list(); err != nil {
		return nil, err
	}
	return &Handle{W1: w1Dir(name)}, nil
}

func (d w1Dir) String() string { return string(d) }

// list gives the folder's names, and [drivers.ErrGone] where there is no bus: the folder stays when a
// master is pulled, so it must hold one, or a device, or be a master's.
func (d w1Dir) list() ([]string, error) {
	const enable = "switch 1-Wire on (raspi-config, Interface Options, which loads w1-gpio) and restart"
	fail := func(format string, args ...any) ([]string, error) {
		return nil, fmt.Errorf("hostbus: bus %s: "+format, append([]any{string(d)}, args...)...)
	}
	f, err := os.OpenFile(string(d), os.O_RDONLY|unix.O_NONBLOCK|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail("%w: the folder does not exist: %s", drivers.ErrGone, enable)
	case errors.Is(err, unix.ENOTDIR):
		return fail("%w: want a folder such as /sys/bus/w1/devices", drivers.ErrWrong)
	case err != nil:
		return fail("%w", err)
	}
	defer f.Close()
	names, err := f.Readdirnames(maxW1Entries)
	if err != nil && !errors.Is(err, io.EOF) {
		return fail("%w: %w", drivers.ErrGone, err)
	}
	const master = "w1_bus_master"
	if !strings.HasPrefix(filepath.Base(string(d)), master) &&
		!slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, master) || w1Device.MatchString(n) }) {
		return fail("%w: it holds no bus master: %s", drivers.ErrGone, enable)
	}
	return names, nil
}

// Devices implements [drivers.W1].
func (d w1Dir) Devices() ([]string, error) {
	names, err := d.list()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !w1Device.MatchString(n) })
	slices.Sort(names)
	return names, nil
}

// Read implements [drivers.W1]. It takes as long as the kernel does: a conversion of up to 750 ms, and the repetitions of one that failed.
func (d w1Dir) Read(device, file string) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("hostbus: bus %s: %s/%s: %w", string(d), device, file, err)
	}
	if !w1Device.MatchString(device) || !w1File.MatchString(file) {
		return fail(fmt.Errorf("%w: want a device and a file such as 28-0316a2798bff/w1_slave", drivers.ErrWrong))
	}
	f, err := os.OpenFile(filepath.Join(string(d), device, file), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fail(d.lost(device, err))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return fail(err)
	} else if !info.Mode().IsRegular() {
		return fail(fmt.Errorf("%w: not a regular file", drivers.ErrWrong))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxW1File+1))
	switch {
	case err != nil:
		return fail(d.lost(device, err))
	case len(text) > maxW1File:
		return fail(fmt.Errorf("%w: more than %d bytes", drivers.ErrCheck, maxW1File))
	}
	return text, nil
}

// lost tells a bus that is gone from a device that is.
func (d w1Dir) lost(device string, err error) error {
	if _, gone := d.list(); errors.Is(gone, drivers.ErrGone) {
		return fmt.Errorf("%w: %w", drivers.ErrGone, err)
	}
	switch _, statErr := os.Stat(filepath.Join(string(d), device)); {
	case errors.Is(statErr, fs.ErrNotExist):
		return fmt.Errorf("%w: the kernel does not find this device", drivers.ErrTimeout)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: no such file: is the kernel's module for this family (w1_therm) loaded?", drivers.ErrWrong)
	}
	return err
}
