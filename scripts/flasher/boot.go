package main

import (
	"fmt"
	"slices"
	"strings"
)

// switches are the lines of config.txt that turn a bus on
// (https://www.raspberrypi.com/documentation/computers/config_txt.html, and overlays/README of the firmware).
var switches = map[string]string{
	"i2c":  "dtparam=i2c_arm=on",
	"spi":  "dtparam=spi=on",
	"w1":   "dtoverlay=w1-gpio",
	"uart": "enable_uart=1",
}

// editConfig adds what is not yet in force for every board; what is there stays.
func editConfig(text string, enable []string) string {
	inForce := map[string]bool{}
	all := true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "["):
			all = strings.EqualFold(line, "[all]")
		case all && !strings.HasPrefix(line, "#"):
			for _, l := range split(line) {
				k, _ := cutLast(l)
				for old := range inForce {
					if o, _ := cutLast(old); o == k && k != "dtoverlay" {
						delete(inForce, old) // the last one counts
					}
				}
				inForce[l] = true
			}
		}
	}
	var add []string
	for _, e := range []string{"i2c", "spi", "w1", "uart"} {
		if slices.Contains(enable, e) && !inForce[switches[e]] {
			add = append(add, switches[e])
		}
	}
	if len(add) == 0 {
		return text
	}
	nl := newline(text)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += nl
	}
	if !all {
		text += nl + "[all]" + nl
	}
	return text + strings.Join(add, nl) + nl
}

// split takes dtparam=a=1,b=2 apart; i2c is an old name of i2c_arm.
func split(line string) []string {
	rest, ok := strings.CutPrefix(line, "dtparam=")
	if !ok {
		return []string{line}
	}
	var out []string
	for _, p := range strings.Split(rest, ",") {
		if p == "i2c" || strings.HasPrefix(p, "i2c=") {
			p = strings.Replace(p, "i2c", "i2c_arm", 1)
		}
		if !strings.Contains(p, "=") {
			p += "=on"
		}
		out = append(out, "dtparam="+p)
	}
	return out
}

func cutLast(s string) (string, string) {
	if i := strings.LastIndexByte(s, '='); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

func newline(text string) string {
	if strings.Contains(text, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

// editCmdline adds words to the one line of cmdline.txt, and takes the serial console
// away where the port is wanted for an instrument. Other words stay as they are.
func editCmdline(text, script string, uart bool) (string, error) {
	line, rest, _ := strings.Cut(text, "\n")
	cr := strings.HasSuffix(line, "\r")
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", fmt.Errorf("cmdline.txt: its first line is empty: not a Raspberry Pi OS image")
	}
	old := len(words)
	if uart {
		words = slices.DeleteFunc(words, func(w string) bool {
			return strings.HasPrefix(w, "console=serial0") || strings.HasPrefix(w, "console=ttyAMA0") || strings.HasPrefix(w, "console=ttyS0")
		})
	}
	changed := len(words) != old
	if script != "" {
		for _, w := range words {
			if run, ok := strings.CutPrefix(w, "systemd.run="); ok && run != script {
				return "", fmt.Errorf("cmdline.txt: it already runs %s at first boot: use an image as published", run)
			}
		}
		for _, w := range hookWords(script) {
			if !slices.Contains(words, w) {
				words, changed = append(words, w), true
			}
		}
	}
	if !changed {
		return text, nil
	}
	line = strings.Join(words, " ")
	if cr {
		line += "\r"
	}
	return line + "\n" + rest, nil
}

// hookWords make systemd run a script once, before anything else, and start again
// (systemd-run-generator(8)); also where it was killed, since the default is to power off.
func hookWords(script string) []string {
	return []string{"systemd.run=" + script, "systemd.run_success_action=reboot", "systemd.run_failure_action=reboot", "systemd.unit=kernel-command-line.target"}
}
