// Command homeward-launch starts the gateway's agent from the right slot: the one on trial, which it counts durably first, or the
// active one, or, where that is damaged, the one before or the factory's. A release that does not stay is undone here, by something
// that is not part of it. It needs no network, no configuration and no database, and nothing of it stays in memory: the agent takes
// its place.
//
// What it may lose: where the state folder cannot be written, a release on trial waits, and the active one runs.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"homeward/buffer/durable"
	"homeward/ota/boot"
)

var version = "dev" // set by the build

const usage = `usage: homeward-launch ARGUMENT...               starts the agent with these arguments, from the slot that is due
       homeward-launch --supervise ARGUMENT...   the same without systemd: stays, restarts it, watches it, passes signals on
       homeward-launch --guard                   undoes a release on trial; for homeward-guard.service and by hand
       homeward-launch --stopped                 notes how the agent ended; for ExecStopPost= of homeward.service
       homeward-launch --version
Environment: HOMEWARD_STATE    the state folder, /var/lib/homeward
             HOMEWARD_FACTORY  the last resort, factory/agent beside this program
Exit status: the agent's; 1 nothing could be started, 2 wrong usage. With --supervise also 2 where the agent refuses its configuration.
Example:     homeward-launch run --config /etc/homeward/homeward.yaml
`

func main() {
	debug.SetTraceback("crash") // exit status 2, as of a panic, would keep systemd from starting it again
	state := env("HOMEWARD_STATE", "/var/lib/homeward")
	l := &launcher{
		state: state, factory: env("HOMEWARD_FACTORY", factory()), boot: boot.BootID(),
		store: &boot.Store{FS: durable.OS{}, Dir: filepath.Join(state, "ota")},
		say:   func(format string, args ...any) { fmt.Fprintf(os.Stderr, "homeward-launch: "+format+"\n", args...) },
		now:   func() int64 { return time.Now().Unix() }, uptime: uptime, sleep: time.Sleep, notify: notify,
	}
	args := os.Args[1:]
	what := ""
	if len(args) > 0 {
		what = args[0]
	}
	switch what {
	case "", "--help", "-h":
		fmt.Print(usage)
	case "--version":
		fmt.Printf("homeward-launch %s, level %d\n", version, boot.LauncherLevel)
	case "--guard":
		only(args)
		os.Exit(l.guard())
	case "--stopped":
		only(args)
		l.stopped()
	case "--supervise":
		os.Exit(l.supervise(args[1:]))
	default:
		if what[0] == '-' {
			fmt.Fprintf(os.Stderr, "homeward-launch: %s: unknown option: see homeward-launch --help\n", what)
			os.Exit(boot.ExitUsage)
		}
		l.exec(args)
		l.say("nothing could be started, not even %s: install the package again", l.factory)
		os.Exit(1)
	}
}

// factory is the agent that was installed with this launcher.
func factory() string {
	self, err := os.Executable()
	if err != nil {
		return "/usr/lib/homeward/factory/agent"
	}
	return filepath.Join(filepath.Dir(self), "factory", "agent")
}

func only(args []string) {
	if len(args) > 1 {
		fmt.Fprintf(os.Stderr, "homeward-launch: %s takes no arguments, but there is %q\n", args[0], args[1])
		os.Exit(boot.ExitUsage)
	}
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// uptime is seconds since the boot.
func uptime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail for a clock that each supported kernel has
	return int64(ts.Sec)
}

// notify tells the service manager; without one it does nothing.
func notify(text string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	_ = unix.Sendto(fd, []byte(text), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: path}) // at worst the longer watchdog holds
}
