package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"homeward/drivers"
)

// SerialDevice is whatever hangs on a simulated serial line.
type SerialDevice interface {
	// Serve talks on rw, at the pace of line, until ctx ends or rw fails; it returns
	// with nothing of its own still running. It is called anew for each plugging in.
	Serve(ctx context.Context, rw io.ReadWriter, line drivers.Line) error
}

// SerialLine is a pseudo-terminal with a device behind it and a stable link in front of it,
// as udev makes under /dev/serial/by-path. It can be pulled out and put back, and then comes
// back under another number. A pseudo-terminal knows no baud rate: the device
// keeps its pace with [WritePaced].
type SerialLine struct {
	link string
	line drivers.Line
	dev  SerialDevice
	log  *slog.Logger

	mu       sync.Mutex // protects the following
	ptm, pts *os.File   // nil: unplugged
	last     string     // the terminal's name when last plugged in
	cancel   context.CancelFunc
	done     chan struct{} // closed when the device has stopped serving
}

// NewSerialLine plugs dev in behind link, whose folder is made if need be. log may be nil.
func NewSerialLine(link string, line drivers.Line, dev SerialDevice, log *slog.Logger) (*SerialLine, error) {
	l := &SerialLine{link: link, line: line, dev: dev, log: log}
	if info, err := os.Lstat(link); err == nil && info.Mode()&os.ModeSymlink == 0 {
		return nil, fmt.Errorf("sim: serial line %s: there is something that is not a link", link)
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return nil, fmt.Errorf("sim: serial line: %w", err)
	}
	if err := l.Plug(); err != nil {
		return nil, err
	}
	return l, nil
}

// Link is the stable path.
func (l *SerialLine) Link() string { return l.link }

// TTY is the terminal's present path, or "" while unplugged.
func (l *SerialLine) TTY() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pts == nil {
		return ""
	}
	return l.last
}

// Plug puts the line back, under another number than the last time. Plugged in already, it does
// nothing.
func (l *SerialLine) Plug() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ptm != nil {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("sim: serial line %s: plug in: %w", l.link, err) }
	ptm, pts, err := openRaw()
	if err != nil {
		return fail(err)
	}
	if pts.Name() == l.last {
		other, otherTTY, err := openRaw()
		ptm.Close()
		pts.Close()
		if err != nil {
			return fail(err)
		}
		ptm, pts = other, otherTTY
	}
	// Replaced in one step, so that whoever looks finds the old or the new one.
	beside := fmt.Sprintf("%s.%d", l.link, os.Getpid())
	_ = os.Remove(beside)
	if err := errors.Join(os.Symlink(pts.Name(), beside), os.Rename(beside, l.link)); err != nil {
		ptm.Close()
		pts.Close()
		return fail(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.ptm, l.pts, l.last, l.cancel, l.done = ptm, pts, pts.Name(), cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		if err := l.dev.Serve(ctx, ptm, l.line); err != nil && ctx.Err() == nil && l.log != nil {
			l.log.Error("sim: serial device stopped", "link", l.link, "error", err)
		}
	}(l.done)
	return nil
}

// Unplug pulls the line out: whoever has it open is hung up, and the link is gone. It returns
// when the device has stopped serving.
func (l *SerialLine) Unplug() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ptm == nil {
		return nil
	}
	l.cancel()
	l.ptm.Close()
	l.pts.Close()
	if to, err := os.Readlink(l.link); err == nil && to == l.last {
		_ = os.Remove(l.link)
	}
	<-l.done
	l.ptm, l.pts = nil, nil
	return nil
}

// Inject puts bytes on the line that no device has sent: noise. Unplugged, it does nothing.
func (l *SerialLine) Inject(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ptm == nil {
		return nil
	}
	_, err := l.ptm.Write(b)
	return err
}

// Close is [SerialLine.Unplug] for good.
func (l *SerialLine) Close() error { return l.Unplug() }

// openRaw opens a pseudo-terminal that passes every byte as it is. Its own end of the
// terminal is kept open, so that the settings outlive whoever uses it.
func openRaw() (ptm, pts *os.File, err error) {
	ptm, pts, err = pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer ptm.Close() // it blocks: Close would not wake a Read
	fd, err := unix.FcntlInt(ptm.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		if err = errors.Join(setRaw(int(pts.Fd())), unix.SetNonblock(fd, true)); err == nil {
			return os.NewFile(uintptr(fd), ptm.Name()), pts, nil
		}
		unix.Close(fd)
	}
	pts.Close()
	return nil, nil, err
}

func setRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// WritePaced writes b no faster than line carries it; each byte is there when its last bit
// would be. A line without a baud rate is infinitely fast.
func WritePaced(ctx context.Context, w io.Writer, line drivers.Line, b []byte) error {
	if line.Baud <= 0 {
		_, err := w.Write(b)
		return err
	}
	char := line.CharTime()
	chunk := max(1, int(2*time.Millisecond/char)) // about as fine as timers are
	begin := time.Now()
	for sent := 0; sent < len(b); {
		n := min(chunk, len(b)-sent)
		if err := pause(ctx, time.Until(begin.Add(time.Duration(sent+n)*char))); err != nil {
			return err
		}
		if _, err := w.Write(b[sent : sent+n]); err != nil {
			return err
		}
		sent += n
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
