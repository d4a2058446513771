package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"homeward/ota/boot"
)

// Times of --supervise, as in homeward.service.
var (
	startTimeout = 90 * time.Second // until READY=1
	watchdog     = 60 * time.Second // between two WATCHDOG=1
	stopTimeout  = 15 * time.Second // after SIGTERM
)

// supervise starts the agent again and again, until it is told to stop (SIGTERM, SIGINT) or the agent refuses its configuration.
func (l *launcher) supervise(args []string) int {
	runtime.LockOSThread() // the child is to die with this thread
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	sleep := l.sleep
	stopping := false
	l.sleep = func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		for !stopping {
			select {
			case <-timer.C:
				return
			case s := <-signals:
				stopping = s == unix.SIGTERM || s == unix.SIGINT
			}
		}
	}
	defer func() { l.sleep = sleep }()
	for {
		p := l.plan()
		if stopping {
			return 0
		}
		started := false
		for _, c := range p.list {
			if !l.usable(c, p) {
				continue
			}
			p.note.Slot, p.note.StartS = c.slot, l.uptime()
			if err := l.store.Note(p.note); err != nil {
				l.say("%v", err)
				l.sleep(time.Second) // nothing else sets the pace
			}
			e, err := l.once(c, args, signals)
			if err != nil {
				l.failed(c, err)
				continue
			}
			started = true
			if e.stopped {
				return e.status
			}
			if e.status == boot.ExitUsage && !e.hung {
				if c.trial {
					l.undo(boot.CodeConfig, refuses, false)
					break
				}
				l.say("%s refuses its configuration: it is not started again", c.path)
				return boot.ExitUsage
			}
			l.say("%s: %s", c.path, e.how)
			if e.status == boot.ExitAgain {
				// Asked for: no pause.
				p.note.Clean = !c.trial
				_ = l.store.Note(p.note) // at worst there is a pause
			}
			if c.trial {
				_, err := l.store.Update(func(r *boot.Record) error { boot.Ended(r, e.hung, e.how); return nil })
				if err != nil {
					l.say("%v", err)
				}
			}
			break
		}
		if !started {
			l.say("nothing could be started, not even %s: install the package again", l.factory)
			l.sleep(10 * time.Second)
		}
		if stopping {
			return 0
		}
	}
}

// end is how one run ended.
type end struct {
	status  int // exit status; 128 and the signal's number
	hung    bool
	stopped bool // it was told to
	how     string
}

// once runs the agent until it ends.
func (l *launcher) once(c candidate, args []string, signals <-chan os.Signal) (end, error) {
	// The agent feeds the watchdog from its start: on trial, silence is a hang before READY=1 too. As under systemd, feeding alone
	// makes no start longer than startTimeout then.
	first, limit := startTimeout, watchdog
	if c.trial {
		limit = min(limit, trialWatchdog)
		first = limit
	}
	sock, name, err := listen()
	if err != nil {
		return end{}, err
	}
	defer func() { _ = unix.Close(sock) }()
	cmd := exec.Command(c.path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for _, kv := range l.environment(c, "NOTIFY_SOCKET="+name, fmt.Sprintf("WATCHDOG_USEC=%d", limit.Microseconds())) {
		if !strings.HasPrefix(kv, "WATCHDOG_PID=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	// A supervisor that is killed must not leave an agent behind that the next one knows nothing of.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return end{}, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()

	var e end
	ready, closing := false, false
	began := time.Now()
	timer := time.NewTimer(first)
	defer timer.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			state := cmd.ProcessState
			e.status = state.ExitCode()
			e.how = fmt.Sprintf("it exited with status %d", e.status)
			if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
				e.status, e.how = 128+int(ws.Signal()), "it was killed by "+unix.SignalName(ws.Signal())
			} else if err != nil && e.status < 0 {
				e.how = err.Error()
			}
			if e.hung {
				e.how = "it hung: the watchdog ended it"
			}
			if e.stopped && e.status == 128+int(unix.SIGTERM) {
				e.status = 0
			}
			return e, nil
		case s := <-signals:
			sig, _ := s.(syscall.Signal)
			if sig == unix.SIGTERM || sig == unix.SIGINT {
				if !e.stopped {
					timer.Reset(stopTimeout)
				}
				e.stopped, sig = true, unix.SIGTERM
			}
			_ = cmd.Process.Signal(sig) // it may have gone
		case <-tick.C:
			for {
				text, ok := hear(sock, cmd.Process.Pid)
				if !ok {
					break
				}
				for line := range strings.SplitSeq(text, "\n") {
					switch {
					case e.stopped:
					case line == "READY=1", line == "WATCHDOG=1" && !closing:
						ready = ready || line == "READY=1"
						switch {
						case ready:
							timer.Reset(limit)
						case !c.trial || time.Since(began) < startTimeout:
							timer.Reset(first)
						}
					case line == "STOPPING=1":
						closing = true
						timer.Reset(stopTimeout)
					case line == "WATCHDOG=trigger":
						timer.Reset(0)
					}
				}
			}
		case <-timer.C:
			l.say("%s does not answer: it is killed", c.path)
			e.hung = !e.stopped
			_ = cmd.Process.Kill() // it may have gone
		}
	}
}

// listen makes a notification socket in the abstract name space: no file is left behind.
func listen() (fd int, name string, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, "", fmt.Errorf("notification socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{}) // the kernel chooses a name
	}
	var at unix.Sockaddr
	if err == nil {
		at, err = unix.Getsockname(fd)
	}
	if un, ok := at.(*unix.SockaddrUnix); err == nil && ok && len(un.Name) > 1 {
		return fd, un.Name, nil
	}
	return 0, "", errors.Join(fmt.Errorf("notification socket: no name: %w", err), unix.Close(fd))
}

// hear gives one message of this process; what others send is not listened to.
func hear(fd, pid int) (string, bool) {
	for {
		buf, oob := make([]byte, 4096), make([]byte, 256)
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			return "", false
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			continue
		}
		for i := range messages {
			if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil && int(cred.Pid) == pid {
				return string(buf[:n]), true
			}
		}
	}
}
