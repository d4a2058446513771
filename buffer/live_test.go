package buffer

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// TestMain lets the test program be the one that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BUFFER_TEST_CHILD"); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

var childOptions = Options{HalfBytes: minHalf, SegmentBytes: minSegment, Flush: 2 * time.Millisecond, Seal: 20 * time.Millisecond}

// child appends, delivers and thins a little, and says what it has done, until it is killed.
func child(dir string) {
	b, err := Open(dir, childOptions)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	l, err := b.Lane(1)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	out := bufio.NewWriter(os.Stdout)
	for {
		first, err := l.Append(pollAt(int(l.Next()-1)/10, 10))
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Fprintln(out, "appended", first)
		if first%500 == 1 && first > 1000 {
			a, err := l.Fix(Attempt{Range: Range{first - 1000, first - 991}, Payload: []byte(fmt.Sprint(first))})
			if err == nil {
				err = l.Ack(a.ID)
			}
			if err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
			fmt.Fprintln(out, "delivered", first-1000)
		}
		if first%500 == 251 && first > 1000 {
			p := pollAt(int(l.Next()-1)/10, 10)
			for i := range p.Readings {
				p.Readings[i].Quality = drivers.Aggregate
			}
			if _, err := l.Thin(Range{first - 200, first - 151}, []Poll{p}); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
			fmt.Fprintln(out, "thinned", first-200)
		}
		if err := out.Flush(); err != nil {
			os.Exit(1)
		}
	}
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	delivered := map[Seq]bool{}
	var thinned rangeSet
	defer func() {
		if !t.Skipped() {
			require.NotEmpty(t, delivered, "the rounds were too short to prove anything")
			require.NotEmpty(t, thinned.r, "the rounds were too short to prove anything")
		}
	}()
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "BUFFER_TEST_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		err = cmd.Start()
		if errors.Is(err, syscall.ENOEXEC) {
			t.Skip("an emulated processor without binfmt: this test's own program cannot be started")
		}
		require.NoError(t, err)
		fuse := sync.OnceFunc(func() { // lit by the child's first word: starting takes as long as it takes
			time.AfterFunc(time.Duration(100+70*round)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		})
		var last Seq
		in := bufio.NewScanner(out)
		for in.Scan() {
			fuse()
			var word string
			var seq Seq
			if n, _ := fmt.Sscan(in.Text(), &word, &seq); n < 2 { // the last line may be cut
				require.NotContains(t, in.Text(), "error")
				continue
			}
			switch word {
			case "appended":
				last = max(last, seq)
			case "delivered":
				for s := seq; s < seq+10; s++ {
					delivered[s] = true
				}
			case "thinned":
				thinned.add(Range{seq, seq + 49})
			}
		}
		_ = cmd.Wait()
		b := mustOpen(t, dir, childOptions)
		require.Empty(t, b.Stats().RecoveredFrom)
		l := mustLane(t, b, 1)
		if last > 0 { // otherwise it was killed before it had begun
			require.GreaterOrEqual(t, l.Next(), last+10, "nothing appended is lost")
		}
		for _, a := range l.Attempts() { // killed between the two
			require.NoError(t, l.Ack(a.ID))
			for s := a.Range.From; s <= a.Range.To; s++ {
				delivered[s] = true
			}
		}
		open := map[Seq]bool{}
		for s, err := range l.Open(1) {
			require.NoError(t, err)
			n := int(s.First) - 1
			for i, r := range s.Readings {
				if r.Quality == drivers.Aggregate {
					r.Quality = drivers.Good
				}
				require.Equal(t, pollAt(n/10, 10).Readings[n%10+i], r)
				require.False(t, delivered[s.First+Seq(i)] || thinned.overlaps(Range{s.First + Seq(i), s.First + Seq(i)}), "an outcome is not forgotten")
				open[s.First+Seq(i)] = true
			}
		}
		for s := Seq(1); s < l.Next(); s++ {
			require.True(t, open[s] || l.l.done.has(Range{s, s}), "%d", s)
		}
		var told rangeSet
		for _, g := range l.OpenGaps() {
			require.Equal(t, Thinned, g.Reason)
			require.Equal(t, g.N, told.add(g.Range))
		}
		for _, r := range thinned.r {
			require.True(t, told.has(r), "a thinning is not forgotten")
		}
		thinned = told // killed before it could say so
		originals, _ := exported(t, l)
		require.Equal(t, thinned.r, originals)
		require.Empty(t, b.Verify())
		require.NoError(t, b.Close())
	}
}

// Samplers, a publisher, seals and flushes all at once: each reading is delivered once.
func TestAllAtOnce(t *testing.T) {
	opt := childOptions
	opt.Seal = 5 * time.Millisecond
	b := mustOpen(t, t.TempDir(), opt)
	l := mustLane(t, b, 1)
	const samplers, polls, size = 3, 400, 10
	var wg sync.WaitGroup
	for k := range samplers {
		wg.Go(func() {
			for i := range polls {
				for {
					_, err := l.Append(pollAt(k*polls+i, size))
					if err == nil {
						break
					}
					if !errors.Is(err, errLogFull) { // a loaded machine may be slow to seal
						t.Error(err)
						return
					}
				}
				if i%50 == 0 {
					b.Stats()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	got := map[Seq]float64{}
	for finished := false; ; {
		more := l.Appended()
		var r Range
		for s, err := range l.Open(1) {
			require.NoError(t, err)
			if r.From == 0 {
				r = Range{s.First, s.First - 1}
			}
			if s.First != r.To+1 || r.Len() > 200 {
				break
			}
			for i, x := range s.Readings {
				_, twice := got[s.First+Seq(i)]
				require.False(t, twice)
				got[s.First+Seq(i)] = x.Value
			}
			r.To += Seq(len(s.Readings))
		}
		if r.From > 0 {
			a, err := l.Fix(Attempt{Range: r})
			require.NoError(t, err)
			<-l.Durable()
			require.NoError(t, l.Ack(a.ID))
			continue
		}
		if finished {
			break
		}
		select {
		case <-more:
		case <-done:
			finished = true
		}
	}
	require.Len(t, got, samplers*polls*size)
	st := b.Stats()
	require.Zero(t, st.Pending)
	require.Equal(t, uint64(samplers*polls*size), st.Delivered)
	require.Zero(t, st.Gaps)
	require.NoError(t, b.SealNow())
	require.Zero(t, b.Stats().Lanes[0].Segments, "what is delivered takes no room")
	require.Empty(t, b.Verify())
}

// The live end is found without touching the backlog.
func TestLiveOverBacklog(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{HalfBytes: 256 << 10, SegmentBytes: minSegment, Clock: stillClock{time.Unix(1e9, 0)}})
	l := mustLane(t, b, 1)
	for i := range 20_000 {
		_, err := l.Append(pollAt(i, 10))
		require.NoError(t, err)
		if i%2000 == 1999 {
			require.NoError(t, b.SealNow())
		}
	}
	b.dbMu.Lock()
	for len(b.open) > 0 {
		b.closeSeg(b.open[0])
	}
	b.dbMu.Unlock()
	for i := range 50 {
		from := l.Next()
		_, err := l.Append(pollAt(20_000+i, 10))
		require.NoError(t, err)
		checkPolls(t, readAll(t, l, from), 20_000+i, 1)
	}
	require.Empty(t, b.open, "no segment was needed")
	n := 0
	for s, err := range l.Open(1) {
		require.NoError(t, err)
		require.Equal(t, Seq(10*n+1), s.First)
		n++
	}
	require.Equal(t, 20_050, n)
	require.LessOrEqual(t, len(b.open), maxOpen)
}

func TestAlarmIsFlushedAtOnce(t *testing.T) {
	b := mustOpen(t, t.TempDir(), Options{Flush: time.Hour})
	l := mustLane(t, b, 1)
	p := pollAt(0, 1)
	p.Alarm = true
	_, err := l.Append(p)
	require.NoError(t, err)
	select {
	case <-l.Durable():
	case <-time.After(20 * time.Second):
		t.Fatal("not flushed")
	}
	require.True(t, readAll(t, l, 1)[0].Alarm)
}

func TestLostFolderStartsFresh(t *testing.T) {
	dir := t.TempDir()
	b := mustOpen(t, dir, Options{})
	require.True(t, b.Fresh())
	require.NoError(t, b.Close())
	b = mustOpen(t, dir, Options{})
	require.False(t, b.Fresh())
	add(t, mustLane(t, b, 1), 1)
	require.NoError(t, b.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.Remove(dir+"/"+e.Name()))
	}
	b = mustOpen(t, dir, Options{})
	require.True(t, b.Fresh())
	require.Empty(t, b.Lanes())
}

func BenchmarkAppend(b *testing.B) {
	buf, err := Open(b.TempDir(), Options{MaxBytes: 1 << 30})
	require.NoError(b, err)
	defer buf.end()
	l, err := buf.Lane(1)
	require.NoError(b, err)
	p := pollAt(0, 10)
	n, refused := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		p.Stamp.Mono += 100 * time.Millisecond
		p.Stamp.Wall += 100
		_, err := l.Append(p)
		if err == nil {
			n += len(p.Readings)
		} else if refused++; !strings.Contains(err.Error(), "in time") { // that is: faster than the disk
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "readings/s")
	b.ReportMetric(float64(refused)/float64(b.N), "refused/op")
}

func BenchmarkDrain(b *testing.B) {
	buf, err := Open(b.TempDir(), Options{})
	require.NoError(b, err)
	defer buf.end()
	l, err := buf.Lane(1)
	require.NoError(b, err)
	for i := range 10_000 {
		_, err := l.Append(pollAt(i, 10))
		require.NoError(b, err)
	}
	require.NoError(b, buf.SealNow())
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		for s, err := range l.Open(1) {
			if err != nil {
				b.Fatal(err)
			}
			n += len(s.Readings)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "readings/s")
}

func BenchmarkLive(b *testing.B) {
	buf, err := Open(b.TempDir(), Options{})
	require.NoError(b, err)
	defer buf.end()
	l, err := buf.Lane(1)
	require.NoError(b, err)
	for i := range 10_000 {
		_, err := l.Append(pollAt(i, 10))
		require.NoError(b, err)
	}
	from := l.Next() - 10
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range l.Open(from) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
