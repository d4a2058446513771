package hostbus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"

	"homeward/drivers"
)

// writeGrace is how much longer than its time on the line a write may take
// before the port counts as gone.
const writeGrace = time.Second

// serialPort is a [drivers.Port] over two descriptors of one terminal: go.bug.st's, which
// sets the line and is read from, and our own, which does not block and so
// gives writes a deadline. Ours also carries the flock that keeps out whoever
// asks for one (picocom, a second agent).
type serialPort struct {
	path string
	line drivers.Line

	mu   sync.Mutex // serialises Read and Close: go.bug.st closes the descriptor before it wakes readers
	port serial.Port
	fd   int   // ours; -1 once closed
	gone error // why the port is lost; sticky
}

// OpenSerial opens the terminal at path for this process alone, raw, with the given
// line setting. path is resolved anew at each call, so a link under
// /dev/serial/by-path or by-id finds an adapter under whatever number it has now.
//
// A path that does not exist is [drivers.ErrGone]; a path that is no terminal is
// [drivers.ErrWrong]; a port that someone else holds is refused with the holder's
// process id and name, as far as this user may see them.
func OpenSerial(path string, line drivers.Line) (drivers.Port, error) {
	fail := func(format string, args ...any) (drivers.Port, error) {
		return nil, fmt.Errorf("hostbus: port %s: "+format, append([]any{path}, args...)...)
	}
	mode, err := serialMode(line)
	if err != nil {
		return fail("%w", err)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fail("%w: the path does not exist; is the adapter plugged in and powered, and the path right (ls -l /dev/serial/by-path)?", drivers.ErrGone)
	} else if err != nil {
		return fail("%w", err)
	}
	if info.Mode()&fs.ModeCharDevice == 0 { // not even opened
		return fail("%w: it is not a serial port", drivers.ErrWrong)
	}
	// go.bug.st opens without O_CLOEXEC: no child may start until that is mended.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY): // TIOCEXCL, and we are not root
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			if h, ok := rival(deviceOf(stat), -1); ok {
				return fail("it is in use by %s", h)
			}
		}
		return fail("it is in use by another process (fuser -v %s names it)", path)
	case errors.Is(err, unix.EACCES):
		return fail("permission denied: this user must be in the group that owns it (usually dialout)")
	case err != nil && isGone(err):
		return fail("%w: %w", drivers.ErrGone, err)
	case err != nil:
		return fail("%w", err)
	}
	p := &serialPort{path: path, line: line, fd: fd}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		unix.Close(fd)
		return fail("%w: it is not a serial port", drivers.ErrWrong)
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		unix.Close(fd)
		return fail("%w", err)
	}
	dev := deviceOf(&stat)
	if h, ok := rival(dev, fd); ok {
		unix.Close(fd)
		return fail("it is in use by %s", h)
	}
	// An flock is also refused within one process.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		unix.Close(fd)
		return fail("it is in use: someone, perhaps this process, has locked it (fuser -v %s names whom)", path)
	}
	if p.port, err = serial.Open(path, mode); err != nil {
		_, still := unix.IoctlGetTermios(fd, unix.TCGETS) // PortError hides its cause
		unix.Close(fd)
		if isGone(err) || still != nil {
			return fail("%w: %w", drivers.ErrGone, err)
		}
		var pe *serial.PortError
		if errors.As(err, &pe) && pe.Code() == serial.InvalidSerialPort {
			return fail("%w: cannot be set to %s: %w", drivers.ErrWrong, line, err)
		}
		return fail("cannot open with %s: %w", line, err)
	}
	for h := range holders(dev, strconv.Itoa(os.Getpid())) {
		unix.CloseOnExec(h.fd)
	}
	if err := p.probe(); err != nil {
		p.Close()
		return fail("%w", err)
	}
	return p, nil
}

func serialMode(l drivers.Line) (*serial.Mode, error) {
	mode := &serial.Mode{BaudRate: l.Baud, DataBits: l.DataBits}
	switch l.Parity {
	case 'N':
		mode.Parity = serial.NoParity
	case 'E':
		mode.Parity = serial.EvenParity
	case 'O':
		mode.Parity = serial.OddParity
	default:
		return nil, fmt.Errorf("parity %q: want N, E or O", l.Parity)
	}
	switch l.StopBits {
	case 1:
		mode.StopBits = serial.OneStopBit
	case 2:
		mode.StopBits = serial.TwoStopBits
	default:
		return nil, fmt.Errorf("%d stop bits: want 1 or 2", l.StopBits)
	}
	if l.Baud <= 0 || l.DataBits < 5 || l.DataBits > 8 {
		return nil, fmt.Errorf("line %s: want a baud rate above 0 and 5 to 8 data bits", l)
	}
	return mode, nil
}

// probe reads once without waiting: go.bug.st waits with select(2), which
// cannot hold descriptors beyond 1023 and panics on one.
func (p *serialPort) probe() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("too many files are open in this process: a serial port needs a descriptor below 1024")
		}
	}()
	if err := p.Flush(); err != nil {
		return err
	}
	if _, err := p.Read(make([]byte, 64), 0); err != nil && !errors.Is(err, drivers.ErrTimeout) {
		return err
	}
	return nil
}

// lost remembers that the port is gone and why.
func (p *serialPort) lost(doing string, cause error) error {
	if p.gone == nil {
		p.gone = fmt.Errorf("hostbus: port %s: %s: %w: %w", p.path, doing, drivers.ErrGone, cause)
	}
	return p.gone
}

func (p *serialPort) failed(doing string, err error) error {
	if isGone(err) {
		return p.lost(doing, err)
	}
	return fmt.Errorf("hostbus: port %s: %s: %w", p.path, doing, err)
}

func (p *serialPort) Read(b []byte, wait time.Duration) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone != nil {
		return 0, p.gone
	}
	if err := p.port.SetReadTimeout(max(wait, 0)); err != nil {
		return 0, p.failed("read", err)
	}
	switch n, err := p.port.Read(b); {
	case n > 0:
		return n, nil
	case err != nil:
		return 0, p.failed("read", err)
	default: // go.bug.st reports a time-out as (0, nil)
		return 0, drivers.ErrTimeout
	}
}

func (p *serialPort) Write(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone != nil {
		return p.gone
	}
	deadline := time.Now().Add(time.Duration(len(b))*p.line.CharTime() + writeGrace)
	for len(b) > 0 {
		n, err := unix.Write(p.fd, b)
		if n > 0 {
			b = b[n:]
		}
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN):
			return p.failed("write", err)
		}
		left := time.Until(deadline)
		if left <= 0 {
			return p.lost("write", fmt.Errorf("%d bytes are stuck: the adapter takes no more", len(b)))
		}
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return p.failed("write", err)
		}
	}
	return nil
}

func (p *serialPort) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone != nil {
		return p.gone
	}
	if err := p.port.ResetInputBuffer(); err != nil {
		return p.failed("flush", err)
	}
	return nil
}

func (p *serialPort) Line() drivers.Line { return p.line }

// Close gives the port up, after a Read under way has ended. What was written and not sent is
// dropped: the kernel would otherwise wait up to 30 s for a stuck adapter.
// Closing again does nothing.
func (p *serialPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	_ = p.port.ResetOutputBuffer() // an adapter that is gone cannot and need not
	err := errors.Join(p.port.Close(), unix.Close(p.fd))
	p.fd = -1
	p.lost("use", errors.New("it was closed"))
	if err != nil && !isGone(err) {
		return fmt.Errorf("hostbus: port %s: close: %w", p.path, err)
	}
	return nil
}

// isGone tells an unplugged adapter, or a pseudo-terminal whose other end has
// closed, from other errors.
func isGone(err error) bool {
	var pe *serial.PortError
	if errors.As(err, &pe) && (pe.Code() == serial.PortClosed || pe.Code() == serial.PortNotFound) {
		return true
	}
	for _, e := range []error{unix.EIO, unix.ENXIO, unix.EBADF, unix.ENODEV, unix.ENOENT, unix.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// holder is a process that has a terminal open.
type holder struct {
	pid  int
	fd   int
	comm string
}

func (h holder) String() string {
	if h.pid == os.Getpid() {
		return "this process already"
	}
	return fmt.Sprintf("process %d (%s)", h.pid, h.comm)
}

// device identifies a terminal whatever its path.
type device struct{ rdev, fs uint64 }

func (d device) isPty() bool { return unix.Major(d.rdev) >= 136 && unix.Major(d.rdev) <= 143 }

// deviceOf leaves the file system out, as a container has a /dev of its own, except for
// pseudo-terminals, whose numbers start anew in each devpts.
func deviceOf(s *syscall.Stat_t) device {
	d := device{rdev: uint64(s.Rdev)} //nolint:unconvert // its type differs between platforms
	if d.isPty() {
		d.fs = uint64(s.Dev) //nolint:unconvert // see above
	}
	return d
}

// rival finds a process that has dev open, other than by our own descriptor. Who keeps the other end of a
// pseudo-terminal often keeps this end too, so that it outlives its users (socat
// does): such a process is no rival.
func rival(dev device, own int) (holder, bool) {
	for h := range holders(dev, "[0-9]*") {
		if h.pid == os.Getpid() && h.fd == own {
			continue
		}
		if !dev.isPty() || !hasPtmx(h.pid) {
			return h, true
		}
	}
	return holder{}, false
}

func hasPtmx(pid int) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(links, func(link string) bool {
		to, _ := os.Readlink(link)
		return to == "/dev/ptmx" || to == "/dev/pts/ptmx"
	})
}

// holders yields the descriptors of the character device dev in the processes that
// match, as far as /proc shows them to this user. Nothing is opened.
func holders(dev device, pids string) func(yield func(holder) bool) {
	return func(yield func(holder) bool) {
		procs, _ := filepath.Glob("/proc/" + pids)
		for _, proc := range procs {
			pid, err := strconv.Atoi(filepath.Base(proc))
			if err != nil {
				continue
			}
			fds, _ := os.ReadDir(proc + "/fd") // gone, or not ours to see
			for _, fd := range fds {
				name := proc + "/fd/" + fd.Name()
				if to, err := os.Readlink(name); err != nil || !strings.HasPrefix(to, "/dev/") {
					continue
				}
				info, err := os.Stat(name)
				if err != nil || info.Mode()&fs.ModeCharDevice == 0 {
					continue
				}
				if stat, ok := info.Sys().(*syscall.Stat_t); !ok || deviceOf(stat) != dev {
					continue
				}
				n, _ := strconv.Atoi(fd.Name())
				comm, _ := os.ReadFile(proc + "/comm")
				if !yield(holder{pid, n, strings.TrimSpace(string(comm))}) {
					return
				}
			}
		}
	}
}
