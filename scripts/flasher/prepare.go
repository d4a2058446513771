package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/ext4"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
)

// Prepared says what was put on the card.
type Prepared struct {
	Lines []string
}

func (p *Prepared) say(format string, args ...any) {
	p.Lines = append(p.Lines, fmt.Sprintf(format, args...))
}

// prepare edits boot and root partition in the overlay.
func (s *Settings) prepare(o *overlay, parts []Partition) (done *Prepared, err error) {
	err = guard(func() error {
		done, err = s.edit(o, parts)
		return err
	})
	return done, err
}

func (s *Settings) edit(o *overlay, parts []Partition) (*Prepared, error) {
	done := &Prepared{}
	boot, bootPart, err := openFAT(o, parts)
	if err != nil {
		return nil, err
	}
	script := ""
	if s.firstBoot() {
		script = path.Join(bootDir(o, parts), scriptName)
		files, err := s.stage()
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if err := putFile(boot, "/"+f.name, f.data); err != nil {
				return nil, fmt.Errorf("boot partition: %s: %w", f.name, err)
			}
			done.say("boot  /%s  %s", f.name, bytesText(int64(len(f.data))))
		}
	}
	uart := slices.Contains(s.Enable, "uart")
	if script != "" || uart {
		if err := editFile(boot, "/cmdline.txt", done, func(t string) (string, error) { return editCmdline(t, script, uart) }); err != nil {
			return nil, err
		}
	}
	if len(s.Enable) > 0 {
		if err := editFile(boot, "/config.txt", done, func(t string) (string, error) { return editConfig(t, s.Enable), nil }); err != nil {
			return nil, err
		}
	}
	if s.User != "" || len(s.Keys) > 0 {
		// Not empty: the library gives an empty file on FAT a cluster, which is an error there.
		if err := putFile(boot, "/ssh", []byte("\n")); err != nil {
			return nil, fmt.Errorf("boot partition: ssh: %w", err)
		}
		done.say("boot  /ssh")
	}
	if s.User != "" {
		hash := s.Hash
		if hash == "" {
			hash = "*"
		}
		if err := putFile(boot, "/userconf.txt", []byte(s.User+":"+hash+"\n")); err != nil {
			return nil, fmt.Errorf("boot partition: userconf.txt: %w", err)
		}
		done.say("boot  /userconf.txt  user %s", s.User)
	}
	if err := boot.Close(); err != nil {
		return nil, fmt.Errorf("boot partition: %w", err)
	}
	if err := fixFree(o, bootPart); err != nil {
		return nil, fmt.Errorf("boot partition: %w", err)
	}
	return done, nil
}

// guard makes an error of a panic: the library trusts what it reads, and images are not ours.
func guard(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("file system that cannot be handled (%v)", r)
		}
	}()
	return do()
}

// openFAT finds the boot partition: the first FAT file system with a cmdline.txt or config.txt.
func openFAT(o *overlay, parts []Partition) (filesystem.FileSystem, *Partition, error) {
	why := ""
	for i := range parts {
		p := &parts[i]
		var fsys filesystem.FileSystem
		if err := checkFAT(o, *p); err != nil {
			why += fmt.Sprintf("; partition %d: %v", p.N, err)
			continue
		}
		if guard(func() (err error) { fsys, err = openFAT32(o, *p); return err }) != nil &&
			guard(func() (err error) { fsys, err = fat16.Read(o, p.Size, p.Start, sector); return err }) != nil {
			continue
		}
		for _, name := range []string{"/cmdline.txt", "/config.txt"} {
			if _, err := readFile(fsys, name); err == nil {
				return fsys, p, nil
			}
		}
	}
	return nil, nil, fmt.Errorf("no FAT partition with cmdline.txt or config.txt: not a Raspberry Pi image; without first-boot options it can still be written%s", why)
}

// openExt4 finds the root partition: the first ext4 file system with /etc.
func openExt4(o *overlay, parts []Partition) (*ext4.FileSystem, *Partition, error) {
	err := errors.New("no ext4 partition with /etc")
	for i := range parts {
		p := &parts[i]
		sb := make([]byte, 1024)
		if _, e := o.ReadAt(sb, p.Start+1024); e != nil || binary.LittleEndian.Uint16(sb[56:]) != 0xef53 {
			continue
		}
		// s_state and s_feature_incompat (ext4 wiki, super block): what is not cleanly unmounted is not touched.
		if binary.LittleEndian.Uint16(sb[58:])&1 == 0 || binary.LittleEndian.Uint32(sb[96:])&4 != 0 {
			err = fmt.Errorf("partition %d was not cleanly unmounted", p.N)
			continue
		}
		var f *ext4.FileSystem
		if e := guard(func() (e error) {
			if f, e = ext4.Read(o, p.Size, p.Start, sector); e != nil {
				return e
			}
			_, e = f.Stat("etc")
			return e
		}); e != nil {
			err = fmt.Errorf("partition %d: %w", p.N, e)
			continue
		}
		return f, p, nil
	}
	return nil, nil, err
}

func openFAT32(o *overlay, p Partition) (filesystem.FileSystem, error) {
	return fat32.Read(o, p.Size, p.Start, sector)
}

// bootDir is where the image's system mounts the boot partition: /boot/firmware since Debian 12.
func bootDir(o *overlay, parts []Partition) string {
	root, _, err := openExt4(o, parts)
	if err != nil {
		return "/boot/firmware"
	}
	var fstab []byte
	_ = guard(func() error { fstab, err = readFile(root, "/etc/fstab"); return err })
	for line := range strings.Lines(string(fstab)) {
		if w := strings.Fields(line); len(w) > 2 && w[2] == "vfat" && (w[1] == "/boot" || w[1] == "/boot/firmware") {
			return w[1]
		}
	}
	return "/boot/firmware"
}

// rel is name as the library wants it.
func rel(name string) string { return strings.TrimPrefix(name, "/") }

// putFile replaces a file and reads it back.
func putFile(fsys filesystem.FileSystem, name string, data []byte) error {
	if old, err := readFile(fsys, name); err == nil {
		if bytes.Equal(old, data) {
			return nil
		}
	}
	// Not Remove: on FAT it leaves the file's clusters allocated.
	f, err := fsys.OpenFile(rel(name), os.O_CREATE|os.O_TRUNC|os.O_RDWR)
	if err != nil {
		return err
	}
	for rest := data; len(rest) > 0; {
		n, err := f.Write(rest[:min(len(rest), chunk)])
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := f.Close(); err != nil {
		return err
	}
	got, err := readFile(fsys, name)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("it reads back differently")
	}
	return nil
}

func editFile(fsys filesystem.FileSystem, name string, done *Prepared, edit func(string) (string, error)) error {
	old, err := readFile(fsys, name)
	if err != nil {
		return fmt.Errorf("boot partition: %s: %w: not a Raspberry Pi image", name, err)
	}
	text, err := edit(string(old))
	if err != nil {
		return fmt.Errorf("boot partition: %w", err)
	}
	if text == string(old) {
		done.say("boot  %s  as it was", name)
		return nil
	}
	if err := putFile(fsys, name, []byte(text)); err != nil {
		return fmt.Errorf("boot partition: %s: %w", name, err)
	}
	done.say("boot  %s  edited", name)
	return nil
}

func readFile(fsys filesystem.FileSystem, name string) ([]byte, error) {
	f, err := fsys.OpenFile(rel(name), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 128 << 20
	// In multiples of any cluster: from within one, the library reads on behind the file's end.
	var b []byte
	for buf := make([]byte, 1<<20); ; {
		n, err := f.Read(buf)
		if b = append(b, buf[:n]...); len(b) > most {
			return b, fs.ErrInvalid
		}
		if err == io.EOF || err == nil && n < len(buf) {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// fixFree writes the count of free clusters of a FAT32 file system, which the library
// leaves stale (FAT specification 1.03, "FSInfo").
func fixFree(o *overlay, p *Partition) error {
	bpb := make([]byte, sector)
	if _, err := o.ReadAt(bpb, p.Start); err != nil {
		return err
	}
	u16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(bpb[at:])) }
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(bpb[at:])) }
	if u16(22) != 0 || u16(17) != 0 { // FAT16 has no such count
		return nil
	}
	per, cluster, reserved, fats, fatSize := u16(11), int64(bpb[13]), u16(14), int64(bpb[16]), u32(36)
	total := u32(32)
	if total == 0 {
		total = u16(19)
	}
	if per != sector || cluster == 0 || fatSize == 0 {
		return fmt.Errorf("FAT32 with sectors of %d bytes: want 512", per)
	}
	clusters := (total - reserved - fats*fatSize) / cluster
	if clusters <= 0 || (clusters+2)*4 > fatSize*sector || (reserved+fatSize)*sector > p.Size {
		return errors.New("FAT32: its table is too small")
	}
	fat := make([]byte, (clusters+2)*4)
	if _, err := o.ReadAt(fat, p.Start+reserved*sector); err != nil {
		return err
	}
	free, next := uint32(0), uint32(0xffffffff)
	for c := int64(2); c < clusters+2; c++ {
		if binary.LittleEndian.Uint32(fat[c*4:])&0x0fffffff == 0 {
			if free++; next == 0xffffffff {
				next = uint32(c)
			}
		}
	}
	info := make([]byte, sector)
	at := p.Start + u16(48)*sector
	if _, err := o.ReadAt(info, at); err != nil {
		return err
	}
	if string(info[:4]) != "RRaA" || string(info[484:488]) != "rrAa" {
		return nil
	}
	binary.LittleEndian.PutUint32(info[488:], free)
	binary.LittleEndian.PutUint32(info[492:], next)
	_, err := o.WriteAt(info, at)
	return err
}
