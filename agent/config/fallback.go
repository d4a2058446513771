package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"homeward/configs/plainyaml"
	"homeward/drivers"
)

// Fallback is what a file with mistakes still says of where its gateway writes, and the defaults for the rest: somebody who looks
// at a running gateway must not be stopped by what it does not use. It is of no use to a gateway.
func Fallback(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return fallback(data, os.Getenv), nil
}

// simple is a top-level line of what may not be YAML as a whole.
var simple = regexp.MustCompile(`(?m)^(gateway|state):[ \t]+["']?([^"'#\r\n]*[^"'#\s])["']?[ \t]*(?:#[^\n]*)?\r?$`)

func fallback(data []byte, getenv func(string) string) *Config {
	c := &Config{}
	setDefaults(reflect.ValueOf(c).Elem())
	said := map[string]string{}
	if root, _ := plainyaml.Parse(data, bounds); root.Given() {
		entries, _ := root.Entries()
		for _, e := range entries {
			if text, kind := e.Scalar(); kind == "text" && e.Before == 0 {
				said[e.Key] = text
			}
		}
	} else if len(data) <= plainyaml.MaxBytes {
		for _, m := range simple.FindAllSubmatch(data, -1) {
			said[string(m[1])] = strings.TrimSpace(string(m[2]))
		}
	}
	if env := getenv(StateVariable); env != "" { // the service's folder, whatever the file says
		c.State = env
	} else if s := said["state"]; filepath.IsAbs(s) {
		c.State = filepath.Clean(s)
	}
	if isID(said["gateway"]) && drivers.IsName(said["gateway"]) {
		c.Gateway = said["gateway"]
	}
	return c
}
