package main

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// staged is a file that waits for first boot beside the script.
type staged struct {
	name string
	data []byte
	mode uint32
}

// stage gives the script for first boot and its files.
func (s *Settings) stage() ([]staged, error) {
	var files []staged
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if s.Hostname != "" {
		line("step hostname set_hostname %s", quote(s.Hostname))
	}
	// Before the user, who joins the groups that the package makes.
	if s.Package != "" {
		data, err := slurp(s.Package)
		if err != nil {
			return nil, err
		}
		name := stagePrefix + filepath.Base(s.Package)
		files = append(files, staged{name, data, 0o600})
		line("step package install_package %s", quote(name))
	}
	if s.User != "" {
		hash := s.Hash
		if hash == "" {
			hash = "*"
		}
		line("step user set_user %s %s", quote(s.User), quote(hash))
	}
	for _, k := range s.Keys {
		line("step ssh-key add_key %s %s", quote(s.User), quote(k))
	}
	if len(s.Keys) > 0 || s.User != "" {
		line("step ssh enable_ssh")
	}
	if s.WifiName != "" {
		line("step wifi set_wifi %s %s %s", quote(s.WifiName), quote(s.WifiKey), quote(s.Country))
	}
	if slices.Contains(s.Enable, "i2c") {
		line("step i2c load_i2c")
	}
	puts := s.Files
	if s.Config != "" {
		puts = append([]Put{{s.Config, configDest, 0o640}}, puts...)
	}
	for i, p := range puts {
		data, err := slurp(p.Src)
		if err != nil {
			return nil, err
		}
		// Numbered, since two may have the same name.
		name := fmt.Sprintf("%sfile%02d-%s", stagePrefix, i+1, path.Base(p.Dest))
		files = append(files, staged{name, data, 0o600})
		line("step %s put_file %s %s %04o", quote(p.Dest), quote(name), quote(p.Dest), p.Mode.Perm())
	}
	if s.Package != "" || s.Config != "" {
		line("step service start_homeward")
	}
	// Apart from the script, which stays until the very last: keys and the password's hash are in here.
	files = append(files, staged{stepsName, []byte(b.String()), 0o600})
	return append(files, staged{scriptName, []byte(scriptText), 0o700}), nil
}

const (
	// Flat names with one beginning: a directory that the library makes on FAT has a wrong "..".
	stagePrefix = "homeward-first-boot-"
	scriptName  = "homeward-first-boot.sh"
	stepsName   = stagePrefix + "steps"
)

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// scriptText runs on the gateway. It may be killed or lose power anywhere, and then runs again: first all
// that waits is moved off the FAT partition, which every user can read, into a folder of
// root's; then each step does nothing where its work is done; cmdline.txt names the script until all of it is on
// the medium, and the script itself goes last. With HOMEWARD_ROOT it works on another tree (tests).
const scriptText = `#!/bin/sh
# Makes a fresh gateway ready. Runs at first boot, from a card written by Homeward's scripts/flash.
set -u
umask 022
R="${HOMEWARD_ROOT:-}"
HERE=$(cd "$(dirname "$0")" && pwd)
KEEP="$R/var/lib/homeward-first-boot"
mkdir -p "$R/var/log" "$R/var/lib"
LOG="$R/var/log/homeward-first-boot.log"
exec >>"$LOG" 2>&1
date
for boot in "$R/boot/firmware" "$R/boot"; do
	[ ! -e "$boot/cmdline.txt" ] || break
done
failed=""
step() {
	name=$1; shift
	if "$@"; then echo "ok $name"; else echo "FAILED $name"; failed="$failed $name"; fi
}
have() { command -v "$1" >/dev/null 2>&1; }

# A folder with its last name is complete and on the medium: only then what it was made from goes.
take_over() {
	[ "$HERE" != "$KEEP" ] || return 0
	if [ ! -d "$KEEP" ]; then
		rm -rf "$KEEP.new"
		mkdir -m 700 "$KEEP.new" && cp "$HERE"/homeward-first-boot* "$KEEP.new/" && chmod 600 "$KEEP.new"/* && sync &&
			mv "$KEEP.new" "$KEEP" && sync || return 1
	fi
	rm -f "$HERE"/homeward-first-boot-*
}
set_hostname() {
	echo "$1" >"$R/etc/hostname" || return 1
	touch "$R/etc/hosts"
	if grep -q '^127\.0\.1\.1' "$R/etc/hosts"; then
		sed -i "s/^127\.0\.1\.1.*/127.0.1.1\t$1/" "$R/etc/hosts"
	else
		printf '127.0.1.1\t%s\n' "$1" >>"$R/etc/hosts"
	fi || return 1
	if [ -z "$R" ]; then hostname "$1" || true; fi
}
set_user() {
	# No other program changes users now: locks are those of a run that was cut off.
	[ -n "$R" ] || rm -f /etc/passwd.lock /etc/shadow.lock /etc/group.lock /etc/gshadow.lock /etc/subuid.lock /etc/subgid.lock
	if [ -x "$R/usr/lib/userconf-pi/userconf" ]; then
		# Without the hash, which ps would show. Its exit code is that of its last line, which starts a getty.
		"$R/usr/lib/userconf-pi/userconf" "$1" '' || true
		getent passwd "$1" >/dev/null || return 1
	else
		getent passwd "$1" >/dev/null || useradd --create-home --shell /bin/bash "$1" || return 1
		for g in sudo dialout i2c spi gpio; do ! getent group $g >/dev/null || usermod -aG $g "$1" || return 1; done
	fi
	printf '%s:%s\n' "$1" "$2" | chpasswd -e || return 1
	rm -f "$boot/userconf.txt" # done, and the hash is in it
}
add_key() {
	user=$1
	[ -n "$user" ] || user=$(getent passwd 1000 | cut -d: -f1)
	[ -n "$user" ] || { echo "no user for the key: flash again with --user"; return 1; }
	home="$R$(getent passwd "$user" | cut -d: -f6)"
	group=$(id -gn "$user") || return 1
	install -d -o "$user" -g "$group" -m 700 "$home/.ssh" || return 1
	touch "$home/.ssh/authorized_keys" || return 1
	grep -qxF "$2" "$home/.ssh/authorized_keys" || printf '%s\n' "$2" >>"$home/.ssh/authorized_keys" || return 1
	chown "$user:$group" "$home/.ssh/authorized_keys" && chmod 600 "$home/.ssh/authorized_keys"
}
enable_ssh() { systemctl enable ssh.service; }
set_wifi() {
	if have raspi-config; then raspi-config nonint do_wifi_country "$3" || true; fi
	if have rfkill; then rfkill unblock wifi || true; fi
	if [ -d "$R/etc/NetworkManager" ]; then
		mkdir -p "$R/etc/NetworkManager/system-connections" || return 1
		f="$R/etc/NetworkManager/system-connections/homeward-wifi.nmconnection"
		(umask 077; printf '[connection]\nid=homeward-wifi\ntype=wifi\n[wifi]\nmode=infrastructure\nssid=%s\n[wifi-security]\nkey-mgmt=wpa-psk\npsk=%s\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=auto\n' "$1" "$2" >"$f.new") &&
			chmod 600 "$f.new" && mv "$f.new" "$f"
	else
		mkdir -p "$R/etc/wpa_supplicant" || return 1
		f="$R/etc/wpa_supplicant/wpa_supplicant.conf"
		(umask 077; printf 'ctrl_interface=DIR=/var/run/wpa_supplicant GROUP=netdev\nupdate_config=1\ncountry=%s\nnetwork={\n\tssid="%s"\n\tpsk=%s\n}\n' "$3" "$1" "$2" >"$f.new") &&
			chmod 600 "$f.new" && mv "$f.new" "$f"
	fi
}
load_i2c() {
	mkdir -p "$R/etc/modules-load.d" && echo i2c-dev >"$R/etc/modules-load.d/homeward-i2c.conf" || return 1
	[ -n "$R" ] || modprobe i2c-dev || true
}
# Files that are there already, as after a second run, are the installer's: keep them over the package's.
install_package() { DEBIAN_FRONTEND=noninteractive dpkg --force-confold -i "$KEEP/$1"; }
put_file() {
	dir=$(dirname "$R$2")
	mkdir -p "$dir" || return 1
	install -m "$3" "$KEEP/$1" "$R$2.new" || return 1
	case $2 in
	/etc/homeward/*) if getent passwd homeward >/dev/null; then chown homeward: "$R$2.new" || return 1; fi ;;
	esac
	mv "$R$2.new" "$R$2"
}
start_homeward() {
	if ! systemctl cat homeward.service >/dev/null 2>&1; then
		echo "no homeward.service: install the package by hand"
		return 0
	fi
	systemctl enable homeward.service # it starts after the restart that follows
}

# In place and as long as it was: one sector, which a power cut finds old or new.
leave_cmdline() {
	[ -e "$boot/cmdline.txt" ] || return 0
	size=$(wc -c <"$boot/cmdline.txt")
	text=$(sed 's| systemd\.run=[^ ]*homeward-first-boot[^ ]*||; s| systemd\.run_success_action=reboot||; s| systemd\.run_failure_action=reboot||; s| systemd\.unit=kernel-command-line\.target||' "$boot/cmdline.txt") || return 1
	[ -n "$text" ] || return 1
	printf "%-$((size - 1))s\n" "$text" | dd of="$boot/cmdline.txt" bs=64k conv=notrunc,fsync iflag=fullblock status=none
}

if [ -e "$KEEP/done" ]; then
	echo "all steps were done before"
elif take_over && [ -r "$KEEP/homeward-first-boot-steps" ]; then
	. "$KEEP/homeward-first-boot-steps"
else
	step take-over false
fi
[ -n "$failed" ] || : >"$KEEP/done"
sync
# Never twice after its end: it would start again and again.
leave_cmdline || failed="$failed cmdline.txt"
sync
if [ -z "$failed" ]; then
	echo done
	rm -f "$boot/homeward-first-boot.log" "$boot/homeward-first-boot.sh"
	sync
	rm -rf "$KEEP"
else
	[ -d "$KEEP" ] || KEEP=$HERE
	echo "FAILED:$failed; to try again: sudo sh $KEEP/homeward-first-boot.sh"
	cp "$LOG" "$boot/homeward-first-boot.log"
	[ "$KEEP" = "$HERE" ] || rm -f "$HERE/homeward-first-boot.sh"
fi
sync
exit 0
`
