package main

import (
	"cmp"
	"fmt"
	"math"
	"runtime"
	"slices"
	"syscall"

	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/drivers"
)

// Limits are the payload limits that are measured; the first is an operation, and what the others are compared with.
var limits = []int{operation, 864, 622}

const operation = 1024

// The formats, as the JSON file names them.
const (
	rowsFormat   = pack.FormatRows
	senmlFormat  = pack.FormatSenML
	textFormat   = "packed-text"
	binaryFormat = "packed-binary"
)

var formats = []string{rowsFormat, senmlFormat, textFormat, binaryFormat}

const (
	gateway = "gw-0017" // rows and senml name it; packed leaves it to the topic
	epoch   = 3
	// Sequence numbers as they are after some months.
	firstSeq = 1_234_567
)

// filler fills one payload.
type filler interface {
	add(pack.Poll) bool
	close() (payload []byte, readings int)
}

// plainFiller is rows or senml.
type plainFiller struct{ pack.Writer }

func (f plainFiller) add(p pack.Poll) bool {
	if f.Add(p) {
		return true
	}
	if f.Len() == 0 {
		f.AddPart(p)
	}
	return false
}

func (f plainFiller) close() ([]byte, int) { return f.Close() }

type packedFiller struct{ *packed.Writer }

func (f packedFiller) add(p pack.Poll) bool { return f.Add(p) }
func (f packedFiller) close() ([]byte, int) { return f.Close() }

// codec is a format, made ready for one trace.
type codec struct {
	format string
	open   func(first uint64, limit int) filler
	decode func([]byte) (pack.Payload, error)
	named  bool // its payloads say whose they are
}

func codecs(c *packed.Coder) []codec {
	header := func(first uint64) pack.Header { return pack.Header{Gateway: gateway, Epoch: epoch, First: first} }
	plain := func(format string) codec {
		return codec{format, func(first uint64, limit int) filler { return plainFiller{pack.New(format, header(first), limit)} }, pack.Decode, true}
	}
	dense := func(format string, radix packed.Radix) codec {
		writers := map[int]*packed.Writer{}
		return codec{format, func(first uint64, limit int) filler {
			if writers[limit] == nil {
				writers[limit] = c.NewWriter(header(first), radix, false, limit)
			}
			writers[limit].Reset(header(first))
			return packedFiller{writers[limit]}
		}, c.Decode, false}
	}
	return []codec{plain(rowsFormat), plain(senmlFormat), dense(textFormat, packed.Text), dense(binaryFormat, packed.Binary)}
}

// load is what one limit made of a trace's test part.
type load struct {
	payloads [][]byte
	counts   []int // readings of each
	limit    int
}

// pack fills payloads with all polls.
func (c codec) pack(polls []pack.Poll, limit int) (load, error) {
	l := load{limit: limit}
	err := c.each(polls, limit, func(payload []byte, n int) {
		l.payloads, l.counts = append(l.payloads, payload), append(l.counts, n)
	})
	return l, err
}

// each fills payloads with all polls, and gives each away.
func (c codec) each(polls []pack.Poll, limit int, take func(payload []byte, readings int)) error {
	first := uint64(firstSeq)
	for rest := polls; len(rest) > 0; {
		w := c.open(first, limit)
		for _, p := range rest {
			if !w.add(p) {
				break
			}
		}
		b, n := w.close()
		if n <= 0 || len(b) > limit {
			return fmt.Errorf("the payload from reading %d on has %d readings in %d bytes: want at least 1 in at most %d", first-firstSeq+1, n, len(b), limit)
		}
		take(b, n)
		first += uint64(n)
		rest = skip(rest, n)
	}
	return nil
}

// skip gives what is left of polls without their first n readings.
func skip(polls []pack.Poll, n int) []pack.Poll {
	for n > 0 && len(polls) > 0 {
		k := len(polls[0].Readings)
		if k > n {
			return append([]pack.Poll{{Time: polls[0].Time, Readings: polls[0].Readings[n:]}}, polls[1:]...)
		}
		polls, n = polls[1:], n-k
	}
	return polls
}

func (l load) readings() (n int) {
	for _, k := range l.counts {
		n += k
	}
	return n
}

// operations are what the payloads cost: each full one is an operation, the last one counts by its length.
func (l load) operations() float64 {
	n := len(l.payloads)
	if n == 0 {
		return 0
	}
	return float64(n-1) + float64(len(l.payloads[n-1]))/float64(l.limit)
}

func (l load) perOperation() float64 { return float64(l.readings()) / l.operations() }

// sample is a reading as it is compared.
type sample struct {
	time    int64
	channel string
	bits    uint64
	unit    drivers.Unit
}

func (s sample) String() string {
	return fmt.Sprintf("%d %s %v %s", s.time, s.channel, math.Float64frombits(s.bits), s.unit)
}

func (s sample) compare(o sample) int {
	return cmp.Or(cmp.Compare(s.time, o.time), cmp.Compare(s.channel, o.channel), cmp.Compare(s.bits, o.bits), cmp.Compare(s.unit, o.unit))
}

// verify decodes every payload: it must hold exactly the readings that it was made of, numbered without a hole. A
// payload's own order is free.
func (c codec) verify(l load, polls []pack.Poll) error {
	next := uint64(firstSeq)
	var want, got []sample
	for i, b := range l.payloads {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("payload %d of %d: %s", i+1, len(l.payloads), fmt.Sprintf(format, args...))
		}
		p, err := c.decode(b)
		if err != nil {
			return bad("%v", err)
		}
		whose := ""
		if c.named {
			whose = gateway
		}
		if want := (pack.Header{Gateway: whose, Epoch: epoch, First: next}); p.Header != want {
			return bad("its header is %+v: want %+v", p.Header, want)
		}
		if len(p.Readings) != l.counts[i] || len(p.Gaps) != 0 {
			return bad("%d readings and %d gaps came back: want %d and 0", len(p.Readings), len(p.Gaps), l.counts[i])
		}
		want, got = want[:0], got[:0]
		for n := l.counts[i]; n > 0; {
			if len(polls) == 0 {
				return bad("more readings than there were")
			}
			take := min(n, len(polls[0].Readings))
			for _, r := range polls[0].Readings[:take] {
				want = append(want, sample{polls[0].Time, r.Channel, math.Float64bits(r.Value), r.Unit})
			}
			polls, n = skip(polls, take), n-take
		}
		for _, r := range p.Readings {
			if r.Seq != next || r.Quality != drivers.Good {
				return bad("sequence number %d, quality %s: want %d, good", r.Seq, r.Quality, next)
			}
			next++
			got = append(got, sample{r.TimeMS, r.Channel, math.Float64bits(r.Value), r.Unit})
		}
		slices.SortFunc(want, sample.compare)
		slices.SortFunc(got, sample.compare)
		for j := range want {
			if got[j] != want[j] {
				return bad("%v came back where %v went in", got[j], want[j])
			}
		}
	}
	if len(polls) > 0 {
		return fmt.Errorf("%d polls are in no payload", len(polls))
	}
	return nil
}

// cost is what a reading takes.
type cost struct {
	ns     float64 // processor time, of all threads
	allocs float64
}

// measure takes the least of several runs; run works on n readings.
func measure(runs, n int, run func() error) (least cost, err error) {
	least = cost{math.Inf(1), math.Inf(1)}
	var before, after runtime.MemStats
	for range runs + 1 { // the first one warms up
		runtime.GC()
		runtime.ReadMemStats(&before)
		begin := processor()
		if err := run(); err != nil {
			return least, err
		}
		took := processor() - begin
		runtime.ReadMemStats(&after)
		least.ns = min(least.ns, float64(took)/float64(n))
		least.allocs = min(least.allocs, float64(after.Mallocs-before.Mallocs)/float64(n))
	}
	return least, nil
}

// processor is the time that this process has computed, in ns: a loaded machine does not count.
func processor() int64 {
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // it has no other way to fail than a wrong address
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

var usage syscall.Rusage // a variable of processor's own would count as an allocation

// memory is what a coder and one writer at work hold, in bytes.
func memory(schema *packed.Schema, polls []pack.Poll) (float64, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // and what pools kept of earlier work
	runtime.ReadMemStats(&before)
	c, err := packed.New(schema)
	if err != nil {
		return 0, err
	}
	open := func(rest []pack.Poll) (*packed.Writer, int) {
		w := c.NewWriter(pack.Header{Epoch: epoch, First: firstSeq}, packed.Text, false, operation)
		n := 0
		for _, p := range rest {
			if !w.Add(p) {
				break
			}
			n += len(p.Readings)
		}
		return w, n
	}
	w, _ := open(polls)
	_, n := w.Close() // the second payload is filled with the first's experience
	rest := skip(polls, n)
	if len(rest) == 0 {
		rest = polls
	}
	w, _ = open(rest)
	runtime.GC()
	runtime.GC() // what only the start needed is gone
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(c)
	runtime.KeepAlive(w)
	return float64(after.HeapAlloc) - float64(before.HeapAlloc), nil
}
