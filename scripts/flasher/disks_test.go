package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// laptop is a fixture of /sys, /proc and /run/udev: a system disk with LUKS and LVM, a data
// disk with btrfs, a RAID member, two USB readers (one empty), an SD slot, an eMMC.
type laptop struct {
	t    *testing.T
	dir  string
	rdev map[string]string
}

func (l *laptop) write(name, text string) {
	l.t.Helper()
	p := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// disk adds a disk at a place in the device tree; parts are sizes in MB.
func (l *laptop) disk(at, name, dev string, mb int64, removable bool, attrs map[string]string, parts ...string) {
	base := "sys/devices/" + at + "/block/" + name
	l.write(base+"/dev", dev+"\n")
	l.write(base+"/size", fmt.Sprintln(mb*1e6/512))
	l.write(base+"/removable", map[bool]string{true: "1\n", false: "0\n"}[removable])
	l.write(base+"/ro", "0\n")
	l.write(base+"/diskseq", "7\n")
	l.rdev["/dev/"+name] = dev
	os.MkdirAll(filepath.Join(l.dir, base, "holders"), 0o755)
	for k, v := range attrs {
		l.write(base+"/"+k, v+"\n")
	}
	for i, p := range parts {
		pname, pdev, _ := strings.Cut(p, "=")
		l.write(base+"/"+pname+"/partition", fmt.Sprintln(i+1))
		l.write(base+"/"+pname+"/dev", pdev+"\n")
		l.write(base+"/"+pname+"/size", "2048\n")
		os.MkdirAll(filepath.Join(l.dir, base, pname, "holders"), 0o755)
		l.rdev["/dev/"+pname] = pdev
	}
	link := filepath.Join(l.dir, "sys/block", name)
	os.MkdirAll(filepath.Dir(link), 0o755)
	if err := os.Symlink("../devices/"+at+"/block/"+name, link); err != nil {
		l.t.Fatal(err)
	}
}

func (l *laptop) holder(of, name string) {
	// of is disk or disk/partition
	p := filepath.Join(l.dir, "sys/block", of, "holders", name)
	if err := os.Symlink("../../../"+name, p); err != nil {
		l.t.Fatal(err)
	}
}

func (l *laptop) host() host {
	return host{l.dir + "/sys", l.dir + "/mountinfo", l.dir + "/swaps", l.dir + "/udev", func(p string) (string, error) {
		if d, ok := l.rdev[p]; ok {
			return d, nil
		}
		return "", &os.PathError{Op: "stat", Path: p, Err: os.ErrNotExist}
	}}
}

func newLaptop(t *testing.T) *laptop {
	l := &laptop{t: t, dir: t.TempDir(), rdev: map[string]string{}}
	l.disk("pci0/nvme", "nvme0n1", "259:0", 512000, false, map[string]string{"device/model": "SSD 980"}, "nvme0n1p1=259:1", "nvme0n1p2=259:2")
	l.disk("virtual", "dm-0", "253:0", 500000, false, map[string]string{"dm/name": "luks-root"})
	l.disk("virtual", "dm-1", "253:1", 400000, false, map[string]string{"dm/name": "vg-root"})
	l.holder("nvme0n1/nvme0n1p2", "dm-0")
	l.holder("dm-0", "dm-1")
	l.disk("pci0/ata1", "sda", "8:0", 1000000, false, map[string]string{"device/model": "HGST"}, "sda1=8:1")
	l.disk("pci0/ata2", "sdc", "8:32", 1000000, false, nil, "sdc1=8:33")
	l.disk("virtual", "md0", "9:0", 1000000, false, nil)
	l.holder("sdc/sdc1", "md0")
	l.disk("pci0/usb1/1-2/host", "sdb", "8:16", 31914, true, map[string]string{"device/vendor": "Generic ", "device/model": "SD/MMC          "}, "sdb1=8:17", "sdb2=8:18")
	l.write("sys/devices/pci0/usb1/1-2/idVendor", "05e3\n")
	l.write("sys/devices/pci0/usb1/1-2/serial", "000000000820\n")
	l.disk("pci0/usb1/1-3/host", "sdd", "8:48", 0, true, map[string]string{"device/model": "MicroSD"})
	l.disk("pci0/usb1/1-4/host", "sde", "8:64", 250000, false, map[string]string{"device/model": "USB SSD"})
	l.disk("pci0/mmc_host/mmc0/mmc0:aaaa", "mmcblk0", "179:0", 31914, false, map[string]string{"device/type": "SD", "device/name": "SC32G", "device/serial": "0x1234"})
	l.disk("pci0/mmc_host/mmc1/mmc1:0001", "mmcblk1", "179:8", 63000, false, map[string]string{"device/type": "MMC", "device/name": "BJTD4R"})
	l.disk("pci0/mmc_host/mmc1/mmc1:0001", "mmcblk1boot0", "179:16", 4, false, map[string]string{"device/type": "MMC"})
	l.disk("pci0/ata9", "sdf", "8:80", 500000, false, nil)
	l.disk("virtual", "zram0", "252:0", 4000, false, nil)
	l.disk("virtual", "loop0", "7:0", 64, false, nil)
	l.write("udev/b8:17", "E:ID_FS_LABEL=bootfs\nE:ID_FS_TYPE=vfat\n")
	l.write("mountinfo", `26 1 253:1 / / rw,relatime - ext4 /dev/mapper/vg-root rw
27 26 259:1 / /boot/efi rw - vfat /dev/nvme0n1p1 rw
28 26 0:42 /@data /srv/my\040data rw - btrfs /dev/disk/by-label/data rw
29 26 0:23 / /proc rw - proc proc rw
`)
	l.rdev["/dev/disk/by-label/data"] = "8:1"
	l.rdev["/dev/disk/by-id/usb-Generic"] = "8:16"
	l.rdev["/dev/disk/by-id/usb-Generic-part1"] = "8:17"
	l.write("swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 4000 0 100\n")
	return l
}

func TestRefusals(t *testing.T) {
	const gb = 1e9
	for _, c := range []struct {
		name, path, fixed string
		change            func(*laptop)
		least             int64
		want              string // part of the error; empty: accepted
	}{
		{name: "card in a USB reader", path: "/dev/sdb"},
		{name: "by another name", path: "/dev/disk/by-id/usb-Generic"},
		{name: "SD slot", path: "/dev/mmcblk0"},
		{name: "USB disk that does not call itself removable", path: "/dev/sde"},
		{name: "missing", path: "/dev/sdz", want: "file does not exist"},
		{name: "partition", path: "/dev/sdb1", want: "/dev/sdb1: a partition (sdb1): want the whole disk, /dev/sdb\n"},
		{name: "partition by another name", path: "/dev/disk/by-id/usb-Generic-part1", want: "want the whole disk, /dev/sdb\n"},
		{name: "system disk", path: "/dev/nvme0n1", want: "the disk this machine runs from (nvme0n1p1 is mounted at /boot/efi)"},
		{name: "system disk through LUKS and LVM", path: "/dev/nvme0n1", change: func(l *laptop) {
			l.write("mountinfo", "26 1 253:1 / / rw,relatime - ext4 /dev/mapper/vg-root rw\n")
		}, want: "the disk this machine runs from (dm-1 on dm-0 is mounted at /)"},
		{name: "system disk, forced", path: "/dev/nvme0n1", fixed: "nvme0n1", want: "the disk this machine runs from"},
		{name: "LUKS mapping itself", path: "/dev/dm-0", fixed: "dm-0", want: "not a card"},
		{name: "btrfs, mounted by label", path: "/dev/sda", fixed: "sda", want: `/dev/sda: sda1 is mounted at /srv/my data: unmount it first`},
		{name: "RAID member", path: "/dev/sdc", fixed: "sdc", want: "sdc1 is in use by md0"},
		{name: "fixed", path: "/dev/sdf", want: "a fixed disk (sdf): if it really is the one, add --force-fixed sdf"},
		{name: "fixed, another name forced", path: "/dev/sdf", fixed: "sda", want: "a fixed disk"},
		{name: "fixed, forced", path: "/dev/sdf", fixed: "sdf"},
		{name: "eMMC", path: "/dev/mmcblk1", want: "a fixed disk (emmc)"},
		{name: "eMMC boot part", path: "/dev/mmcblk1boot0", fixed: "mmcblk1boot0", want: "not a card"},
		{name: "zram", path: "/dev/zram0", fixed: "zram0", want: "not a card"},
		{name: "empty reader", path: "/dev/sdd", want: "no card in the reader"},
		{name: "too small", path: "/dev/sdb", least: 64 * gb, want: "/dev/sdb: 31.91 GB, but the image needs 64.00 GB: take a larger card"},
		{name: "write-protected", path: "/dev/sdb", change: func(l *laptop) { l.write("sys/block/sdb/ro", "1\n") }, want: "write-protected"},
		{name: "mounted", path: "/dev/sdb", change: func(l *laptop) {
			l.write("mountinfo", "1 1 8:18 / /media/me/rootfs rw - ext4 /dev/sdb2 rw\n")
		}, want: "/dev/sdb: sdb2 is mounted at /media/me/rootfs: unmount it first"},
		{name: "mounted as a whole, bind mount only", path: "/dev/sdb", change: func(l *laptop) {
			l.write("mountinfo", "1 1 8:16 /sub /mnt rw - ext4 /dev/root rw\n")
		}, want: "sdb is mounted at /mnt"},
		{name: "runs from the card", path: "/dev/mmcblk0", change: func(l *laptop) {
			l.write("mountinfo", "1 1 179:0 / / rw - ext4 /dev/root rw\n")
		}, want: "the disk this machine runs from"},
		{name: "swap by another name", path: "/dev/sdb", change: func(l *laptop) {
			l.rdev["/dev/disk/by-uuid/x"] = "8:18"
			l.write("swaps", "Filename Type\n/dev/disk/by-uuid/x partition 1 0 1\n")
		}, want: "sdb2 is swap"},
		{name: "opened with cryptsetup", path: "/dev/sdb", change: func(l *laptop) {
			l.disk("virtual", "dm-7", "253:7", 100, false, map[string]string{"dm/name": "secret"})
			l.holder("sdb/sdb2", "dm-7")
		}, want: "sdb2 is in use by dm-7 (secret)"},
		{name: "mapping on it mounted", path: "/dev/sdb", change: func(l *laptop) {
			l.disk("virtual", "dm-7", "253:7", 100, false, nil)
			l.holder("sdb/sdb2", "dm-7")
			l.write("mountinfo", "1 1 253:7 / /mnt rw - ext4 /dev/mapper/x rw\n")
		}, want: "dm-7 on sdb2 is mounted at /mnt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLaptop(t)
			if c.change != nil {
				c.change(l)
			}
			d, err := l.host().pick(c.path, c.fixed, c.least)
			if c.want == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatalf("accepted %s, want an error with %q", d.Name, c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q\nwant %q", err, c.want)
			}
		})
	}
}

func TestCandidatesAreListed(t *testing.T) {
	l := newLaptop(t)
	_, err := l.host().pick("/dev/nvme0n1", "", 1e9)
	want := `/dev/nvme0n1: the disk this machine runs from (nvme0n1p1 is mounted at /boot/efi): never written
would be accepted:
  /dev/mmcblk0   31.91 GB  SC32G, serial 0x1234 (mmc)
  /dev/sdb       31.91 GB  Generic SD/MMC, serial 000000000820 (usb, removable)
  /dev/sde      250.00 GB  USB SSD (usb)`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// memDevice is a card in memory that can be made to misbehave.
type memDevice struct {
	b       []byte
	written int64
	failAt  int64 // bytes written until it is pulled; 0: never
	gone    bool
	spoil   func(off int64, p []byte) // changes what arrives on the medium
	onWrite func(off int64)
	opened  bool
	rereads int
}

var errPulled = fmt.Errorf("no such device or address")

func (d *memDevice) ReadAt(p []byte, off int64) (int, error) {
	if d.gone {
		return 0, errPulled
	}
	if off >= int64(len(d.b)) {
		return 0, io.EOF
	}
	n := copy(p, d.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *memDevice) WriteAt(p []byte, off int64) (int, error) {
	if d.onWrite != nil {
		d.onWrite(off)
	}
	if off%blockSize != 0 || len(p)%sector != 0 {
		return 0, fmt.Errorf("write of %d at %d is not in blocks", len(p), off)
	}
	if d.gone || off+int64(len(p)) > int64(len(d.b)) {
		return 0, errPulled
	}
	if d.failAt > 0 && d.written+int64(len(p)) > d.failAt {
		n := copy(d.b[off:], p[:d.failAt-d.written])
		d.written, d.gone = d.failAt, true
		return n, errPulled
	}
	d.written += int64(len(p))
	copy(d.b[off:], p)
	if d.spoil != nil {
		d.spoil(off, d.b[off:][:len(p)])
	}
	return len(p), nil
}

func (d *memDevice) Sync() error {
	if d.gone {
		return errPulled
	}
	return nil
}
func (d *memDevice) DropCache() error { return nil }
func (d *memDevice) Reread()          { d.rereads++ }
func (d *memDevice) Size() int64      { return int64(len(d.b)) }
func (d *memDevice) Close() error     { return nil }
