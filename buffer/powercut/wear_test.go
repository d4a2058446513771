//go:build linux && (amd64 || arm64)

package powercut

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"homeward/buffer"
	"homeward/drivers"
)

// wear is a way of using the buffer at 10 readings a second.
type wear struct {
	name    string
	every   time.Duration // a poll
	n       int           // readings in it
	publish time.Duration // 0: never
	lazy    bool          // ext4 mounted lazytime: changed times alone do not go through the journal
}

var wears = []wear{
	{name: "1x10", every: time.Second, n: 10},
	{name: "10x1", every: time.Second / 10, n: 1},
	{name: "10x1-lazytime", every: time.Second / 10, n: 1, lazy: true},
	{name: "published", every: time.Second, n: 10, publish: 10 * time.Second},
}

// BenchmarkDiskWear runs the real buffer in real time, with the options that it
// has by default, and counts what arrives at the block device: data, ext4's
// journal and metadata, in bytes and flushes a second. The making of the files
// is not counted; the seals are. All ways run at once, each on its own disk,
// for two minutes or HOMEWARD_WEAR_SECONDS. Values: a random walk with two
// decimals.
func BenchmarkDiskWear(b *testing.B) {
	seconds := 120
	if s := os.Getenv("HOMEWARD_WEAR_SECONDS"); s != "" {
		var err error
		seconds, err = strconv.Atoi(s)
		require.NoError(b, err, "HOMEWARD_WEAR_SECONDS")
	}
	for range b.N {
		var wg sync.WaitGroup
		got := make([]worn, len(wears))
		errs := make([]error, len(wears))
		for i, w := range wears {
			d := newDisk(b)
			wg.Go(func() {
				got[i], errs[i] = w.run(d, time.Duration(seconds)*time.Second)
			})
		}
		wg.Wait()
		for i, w := range wears {
			require.NoError(b, errs[i])
			b.ReportMetric(float64(got[i].Bytes)/float64(seconds), w.name+"-B/s")
			b.ReportMetric(float64(got[i].Flushes)/float64(seconds), w.name+"-flushes/s")
			b.ReportMetric(float64(got[i].syncs)/float64(seconds), w.name+"-log-syncs/s")
			b.Logf("%s: %+v in %d s", w.name, got[i], seconds)
		}
	}
	b.ReportMetric(0, "ns/op") // says nothing here
}

// worn is what a way of using the buffer costs.
type worn struct {
	Counts
	syncs, seals uint64 // of these flushes the buffer asked for so many for the log; the rest are the seals' and ext4's own
}

func (w wear) run(d *Disk, length time.Duration) (n worn, err error) {
	if w.lazy {
		if err := unix.Mount("", d.Path(), "", unix.MS_REMOUNT|unix.MS_NOATIME|unix.MS_LAZYTIME, ""); err != nil {
			return n, err
		}
	}
	b, err := buffer.Open(filepath.Join(d.Path(), "buffer"), buffer.Options{})
	if err != nil {
		return n, err
	}
	defer func() {
		if cerr := b.Close(); err == nil {
			err = cerr
		}
	}()
	l, err := b.Lane(1)
	if err != nil {
		return n, err
	}
	values := make([]float64, 10)
	rng := rand.New(rand.NewPCG(1, 6))
	start := time.Now()
	turn := 0
	poll := func() error {
		p := buffer.Poll{Stamp: drivers.Stamp{Mono: time.Since(start), Wall: time.Now().UnixMilli(), Trusted: true}}
		for i := range w.n {
			k := (turn*w.n + i) % len(values)
			values[k] = math.Round(100*values[k]+rng.NormFloat64()*5) / 100
			p.Readings = append(p.Readings, drivers.Reading{Channel: fmt.Sprint("boiler/c", k), Value: values[k], Unit: "Cel"})
		}
		turn++
		_, err := l.Append(p)
		return err
	}
	// The first seal makes meta.db and the first segment.
	if err := poll(); err != nil {
		return n, err
	}
	if err := b.SealNow(); err != nil {
		return n, err
	}
	time.Sleep(6 * time.Second) // ext4's own timer: 5 s
	before, err := d.Counts()
	if err != nil {
		return n, err
	}
	stats := b.Stats()
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	publish := make(<-chan time.Time)
	if w.publish > 0 {
		t := time.NewTicker(w.publish)
		defer t.Stop()
		publish = t.C
	}
	for {
		select {
		case <-tick.C:
			if err := poll(); err != nil {
				return n, err
			}
		case <-publish:
			if err := publishAll(l); err != nil {
				return n, err
			}
		case <-ctx.Done():
			after, err := d.Counts()
			now := b.Stats()
			return worn{after.Sub(before), now.Flushes - stats.Flushes, now.Seals - stats.Seals}, err
		}
	}
}

// publishAll delivers all that is open as one payload of 1,000 bytes, durable before
// it would be sent.
func publishAll(l *buffer.Lane) error {
	r := buffer.Range{From: l.Next(), To: l.Next() - 1}
	for s, err := range l.Open(0) {
		if err != nil {
			return err
		}
		r.From = s.First
		break
	}
	a, err := l.Fix(buffer.Attempt{Range: r, Payload: []byte(strings.Repeat("x", 1000)), Cost: 1})
	if err != nil {
		return err
	}
	<-l.Durable()
	return l.Ack(a.ID)
}
