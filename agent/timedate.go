package agent

import (
	"context"
	"fmt"
	"os"

	"github.com/godbus/dbus/v5"
)

// systemBus is the address of the system's D-Bus (D-Bus specification, "Well-known Message Bus Instances").
func systemBus() string {
	if address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); address != "" {
		return address
	}
	return "unix:path=/run/dbus/system_bus_socket"
}

// ntpSynchronized asks systemd-timedated whether the kernel's clock is synchronised
// (org.freedesktop.timedate1(5), NTPSynchronized). The service is started for it if need be, and ends by itself.
func ntpSynchronized(ctx context.Context, address string) (bool, error) {
	bus, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("system bus: %w", err)
	}
	defer func() { _ = bus.Close() }() // nothing is left to be said
	if err := bus.Auth(nil); err != nil {
		return false, fmt.Errorf("system bus: %w", err)
	}
	if err := bus.Hello(); err != nil {
		return false, fmt.Errorf("system bus: %w", err)
	}
	var answer dbus.Variant
	err = bus.Object("org.freedesktop.timedate1", "/org/freedesktop/timedate1").
		CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, "org.freedesktop.timedate1", "NTPSynchronized").Store(&answer)
	if err != nil {
		return false, fmt.Errorf("timedate1: %w", err)
	}
	trusted, ok := answer.Value().(bool)
	if !ok {
		return false, fmt.Errorf("timedate1: NTPSynchronized is %s, not a boolean", answer)
	}
	return trusted, nil
}
