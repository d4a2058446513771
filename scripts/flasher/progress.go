package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"
)

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// meter shows how far a stage is: a bar on a terminal, otherwise a line each tenth.
type meter struct {
	out   io.Writer
	tty   bool
	p     *mpb.Progress
	bar   *mpb.Bar
	stage string
	total int64
	n     int64
	next  int64
	start time.Time
	last  time.Time
	now   func() time.Time
}

func newProgress(_ context.Context, out io.Writer, tty bool) *meter {
	return &meter{out: out, tty: tty, now: time.Now}
}

func (m *meter) begin(stage string, total int64) {
	m.stage, m.total, m.n, m.start = stage, total, 0, m.now()
	m.last = m.start
	m.next = max(total/10, 64<<20)
	if total <= 0 {
		m.next = 256 << 20
	}
	if !m.tty {
		return
	}
	m.p = mpb.New(mpb.WithOutput(m.out), mpb.WithWidth(40))
	m.bar = m.p.AddBar(max(total, 0),
		mpb.PrependDecorators(decor.Name(stage, decor.WC{W: 20, C: decor.DindentRight})),
		mpb.AppendDecorators(
			decor.CountersKiloByte("% .1f / % .1f "),
			decor.EwmaSpeed(decor.SizeB1000(0), "% .1f ", 20),
			decor.EwmaETA(decor.ET_STYLE_GO, 20),
		))
}

func (m *meter) Write(b []byte) (int, error) {
	m.n += int64(len(b))
	if m.tty {
		t := m.now()
		m.bar.EwmaIncrInt64(int64(len(b)), t.Sub(m.last))
		m.last = t
		return len(b), nil
	}
	if m.n >= m.next {
		m.next = m.n + max(m.total/10, 64<<20)
		if m.total <= 0 {
			m.next = m.n + 256<<20
		}
		m.line()
	}
	return len(b), nil
}

func (m *meter) line() {
	took := m.now().Sub(m.start)
	rate := float64(m.n) / max(took.Seconds(), 0.001)
	if m.total > 0 {
		left := time.Duration(float64(m.total-m.n) / rate * float64(time.Second))
		fmt.Fprintf(m.out, "%-18s %3d %%  %s of %s  %.1f MB/s  %v left\n", m.stage, m.n*100/m.total, bytesText(m.n), bytesText(m.total), rate/1e6, left.Round(time.Second))
		return
	}
	fmt.Fprintf(m.out, "%-18s %s  %.1f MB/s\n", m.stage, bytesText(m.n), rate/1e6)
}

func (m *meter) end() {
	if m.tty {
		m.close()
		return
	}
	took := m.now().Sub(m.start)
	fmt.Fprintf(m.out, "%-18s done  %s in %v\n", m.stage, bytesText(m.n), took.Round(100*time.Millisecond))
}

// close ends a bar that may not be full.
func (m *meter) close() {
	if m.bar == nil {
		return
	}
	if m.total <= 0 || m.n >= m.total {
		m.bar.SetTotal(-1, true)
	} else {
		m.bar.Abort(false)
	}
	m.p.Wait()
	m.bar, m.p = nil, nil
}
