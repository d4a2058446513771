package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Change is a key, or a section, that differs between two configurations.
type Change struct {
	Path    string
	Restart bool // it takes effect only when the agent starts again
}

// Diff lists what changed, in the order of the file: keys of home, whole sections otherwise.
func Diff(old, next *Config) []Change {
	var list []Change
	a, b := fields(reflect.ValueOf(old).Elem()), fields(reflect.ValueOf(next).Elem())
	for i, f := range a {
		if reflect.DeepEqual(f.value.Interface(), b[i].value.Interface()) {
			continue
		}
		if f.key != "home" {
			list = append(list, Change{f.key, slices.Contains([]string{"gateway", "state", "fleet"}, f.key)})
			continue
		}
		g := fields(b[i].value)
		for j, h := range fields(f.value) {
			if !reflect.DeepEqual(h.value.Interface(), g[j].value.Interface()) {
				list = append(list, Change{"home." + h.key, true})
			}
		}
	}
	return list
}

// RestartNeeded says what changed that takes effect only when the agent starts again; empty if nothing did.
func RestartNeeded(old, next *Config) string {
	var paths []string
	for _, c := range Diff(old, next) {
		if c.Restart {
			paths = append(paths, c.Path)
		}
	}
	if len(paths) == 0 {
		return ""
	}
	return fmt.Sprintf("changed, but not applied until a restart: %s", strings.Join(paths, ", "))
}
