package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
)

// need skips where a package of the system is missing, and fails in CI.
func need(t *testing.T, tool, pkg string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if p := filepath.Join(dir, tool); dir != "" {
			if _, err := os.Stat(p); err == nil {
				return p
			}
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing: apt-get install %s", tool, pkg)
	}
	t.Skipf("%s is missing: apt-get install %s", tool, pkg)
	return ""
}

func run(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Stdin = strings.NewReader(stdin)
	c.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

const (
	mib       = 1 << 20
	bootAt    = 4 * mib
	bootBytes = 34 * mib // the least that FAT32 is
	rootAt    = bootAt + bootBytes
	rootBytes = 20 * mib
	cmdline   = "console=serial0,115200 console=tty1 root=PARTUUID=12345678-02 rootfstype=ext4 fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
	configTxt = "# For more options see http://rptl.io/configtxt\n#dtparam=i2c_arm=on\n#dtparam=spi=on\n\ndtparam=audio=on\n\n[cm4]\notg_mode=1\n\n[all]\n"
)

// makeImage builds what Raspberry Pi OS looks like: an MBR, a FAT32 partition with the
// firmware's files, and an ext4 root made with the features its builder chooses
// (pi-gen, export-image/prerun.sh: ^huge_file and ^64bit, the rest mke2fs's own).
// It is made once; no test may change it.
func makeImage(t *testing.T, features ...string) string {
	t.Helper()
	name := strings.Join(append([]string{"os"}, features...), "")
	if made[name] == "" {
		made[name] = buildImage(t, name, features)
	}
	return made[name]
}

var (
	made   = map[string]string{} // tests of this package do not run in parallel
	shared string
)

func TestMain(m *testing.M) {
	if os.Getenv(socketEnv) != "" {
		if err := serveSocket(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	var err error
	if shared, err = os.MkdirTemp("", "flasher"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(shared)
	os.Exit(code)
}

func buildImage(t *testing.T, name string, features []string) string {
	t.Helper()
	vfat, ext := need(t, "mkfs.vfat", "dosfstools"), need(t, "mkfs.ext4", "e2fsprogs")
	dir := filepath.Join(shared, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	write := func(name, text string) {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/fstab", "proc /proc proc defaults 0 0\nPARTUUID=12345678-01 /boot/firmware vfat defaults 0 2\nPARTUUID=12345678-02 / ext4 defaults,noatime 0 1\n")
	write("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n")
	write("etc/hostname", "raspberrypi\n")
	write("etc/systemd/system/multi-user.target.wants/x.service", "")
	write("var/lib/dpkg/status", strings.Repeat("Package: x\n", 5000))
	for i := range 700 { // enough for directories with a hash tree
		write(fmt.Sprintf("var/lib/dpkg/info/some-package-with-a-long-name-%04d.list", i), "/.\n")
	}
	for i := range 400 {
		write(fmt.Sprintf("etc/systemd/system/some-unit-with-a-rather-long-name-%04d.service", i), "[Unit]\n")
	}
	img := filepath.Join(dir, "os.img")
	fat, ext4 := filepath.Join(dir, "boot.fat"), filepath.Join(dir, "root.ext4")
	bits, cluster := "32", "1"
	features = slices.DeleteFunc(slices.Clone(features), func(f string) bool {
		if f == "fat16" {
			bits, cluster = "16", "4"
		}
		return f == "fat16"
	})
	run(t, "", vfat, "-C", "-F", bits, "-s", cluster, "-n", "bootfs", fat, fmt.Sprint(bootBytes/1024))
	run(t, "", ext, "-q", "-L", "rootfs", "-O", strings.Join(append([]string{"^huge_file"}, features...), ","), "-d", root, ext4, fmt.Sprint(rootBytes/1024)+"k")

	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put := func(at int64, b []byte) {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	mbr := make([]byte, 512)
	binary.LittleEndian.PutUint32(mbr[440:], 0x12345678)
	for i, p := range []Partition{{Start: bootAt, Size: bootBytes, Kind: 0x0c}, {Start: rootAt, Size: rootBytes, Kind: 0x83}} {
		e := mbr[446+16*i:]
		e[4] = p.Kind
		binary.LittleEndian.PutUint32(e[8:], uint32(p.Start/sector))
		binary.LittleEndian.PutUint32(e[12:], uint32(p.Size/sector))
	}
	mbr[510], mbr[511] = 0x55, 0xaa
	put(0, mbr)
	for at, name := range map[int64]string{bootAt: fat, rootAt: ext4} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		put(at, b)
		os.Remove(name)
	}
	boot := newOverlay(f, rootAt+rootBytes)
	part := Partition{Start: bootAt, Size: bootBytes}
	var fsys filesystem.FileSystem
	fsys, err = openFAT32(boot, part)
	if bits == "16" {
		fsys, err = fat16.Read(boot, part.Size, part.Start, sector)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"/cmdline.txt": cmdline, "/config.txt": configTxt, "/kernel8.img": strings.Repeat("kernel", 1e5)} {
		if err := putFile(fsys, name, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := fixFree(boot, &part); err != nil {
		t.Fatal(err)
	}
	for _, b := range boot.blocks() {
		put(b*blockSize, boot.dirty[b])
	}
	checkClean(t, img)
	return img
}

// checkClean runs the file system checkers of the system over both partitions.
func checkClean(t *testing.T, img string) {
	t.Helper()
	fat := need(t, "fsck.vfat", "dosfstools")
	e2 := need(t, "e2fsck", "e2fsprogs")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	p := filepath.Join(t.TempDir(), "boot.fat")
	if err := os.WriteFile(p, b[bootAt:][:bootBytes], 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "", fat, "-n", "-v", p); strings.Contains(out, "Free cluster summary wrong") {
		t.Fatalf("fsck.vfat:\n%s", out)
	}
	run(t, "", e2, "-fn", fmt.Sprintf("%s?offset=%d", img, rootAt))
}

// bootFile reads a file of the boot partition with mtools.
func bootFile(t *testing.T, img, name string) string {
	t.Helper()
	return run(t, "", need(t, "mtype", "mtools"), "-i", fmt.Sprintf("%s@@%d", img, bootAt), "::"+name)
}
