//go:build linux && (amd64 || arm64)

package powercut

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer"
	"homeward/drivers"
)

// TestBuffer lets one buffer live through many cuts. A worker does operations
// one after another: each is told on stdout before it is done, confirmed after,
// and so is each flush. After the cut the buffer must be what it was after some
// operation that is not before the last flush: sequence numbers, open readings
// and what they say, attempts with their bytes, gaps, counts, side records.
func TestBuffer(t *testing.T) {
	d := newDisk(t)
	dir := filepath.Join(d.Path(), "buffer")
	n := cuts(t, 16, 300)
	rng := rand.New(rand.NewPCG(uint64(n), 5))
	if s := os.Getenv("HOMEWARD_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "HOMEWARD_SEED")
		rng = rand.New(rand.NewPCG(seed, 5))
	}
	m := newModel()
	var lives []lifeStart
	var total struct{ ops, durable, lost, again, torn, thinned int }
	for i := range n {
		life := uint64(i + 1)
		// Short lives reach what happens at the start, long ones all the rest; each fourth ends in a seal.
		cut := Cut{After: 1 + rng.IntN([]int{12, 80, 500, 24, 12, 80, 500, 4}[i%8]), Keep: Keep(rng.IntN(3)), Seed: rng.Uint64()}
		var when at
		if i%4 == 3 {
			when = at{from: 1 + rng.IntN(1500), word: "sealing"}
		}
		lives = append(lives, lifeStart{life, m.nexts()})
		lines := cutUnder(t, d, "buffer", dir, life, when, cut)
		ops, durable, err := parseOps(lines)
		require.NoError(t, err, "cut %d", i)
		keepCopy(t, dir)

		about := func() string { return fmt.Sprintf("cut %d of life %d, %+v, after: %s", i, life, cut, tail(lines)) }
		var before, seen *dump
		for tries := 0; ; tries++ {
			again := tries < 3 && rng.IntN(3) == 0 // cut it once more, while it recovers
			cut := Cut{After: 1 + rng.IntN(20), Keep: Keep(rng.IntN(3)), Seed: rng.Uint64()}
			if again {
				total.again++
				require.NoError(t, d.Arm(cut))
			}
			seen, err = look(dir, lives, rng.Uint64())
			off, oerr := d.Off()
			require.NoError(t, oerr)
			if !off { // else what was seen may be what was left in memory
				require.NoError(t, err, about())
				if before == nil {
					before = seen
				}
				require.Equal(t, before.Digest, seen.Digest, about())
			}
			if !again {
				break
			}
			require.NoError(t, d.Cut(cut)) // if it did not come by itself
			require.NoError(t, d.Unmount())
			require.NoError(t, d.Mount())
		}
		at, torn, now, err := m.match(ops, durable, seen)
		require.NoError(t, err, about())
		m = now
		if torn {
			total.torn++
		}
		for _, o := range ops {
			if o.Do == "thin" {
				total.thinned++
			}
		}
		total.ops += len(ops)
		total.durable += durable
		total.lost += len(ops) - at
		if len(seen.Notes) > 0 {
			t.Logf("cut %d: %q", i, seen.Notes)
		}
	}
	t.Logf("%d cuts (%d in a change of halves), %d more while recovering; %d operations (%d thinnings), %d known to be durable, %d lost, none of those; %d readings appended, %d delivered, %d given up, %d left",
		n, total.torn, total.again, total.ops, total.thinned, total.durable, total.lost, m.appended(), m.delivered, m.dropped, m.pending())
}

func tail(lines []string) string {
	return strings.Join(lines[max(0, len(lines)-12):], " | ")
}

// keepCopy keeps the files as the cut left them, for whoever has to find out why
// (go test -artifacts).
func keepCopy(t *testing.T, dir string) {
	t.Helper()
	to := filepath.Join(t.ArtifactDir(), "buffer")
	require.NoError(t, os.RemoveAll(to))
	if _, err := os.Stat(dir); err == nil {
		require.NoError(t, os.CopyFS(to, os.DirFS(dir)))
	}
}

// op is an operation on the buffer as a worker tells of it.
type op struct {
	Do     string // append thin fix ack release giveup retried ranges side anchor gap
	E      buffer.Epoch
	R      buffer.Range // append: the numbers; thin: the originals; else the attempt's range
	CRC    uint32       // of the attempt's bytes
	Gaps   []buffer.Gap `json:",omitempty"` // carried
	Reason buffer.Reason
	Part   buffer.Range // ranges: what the receiver has; thin: the aggregates' numbers
	Key    string       // side
	Value  string
	Life   uint64
	N      uint64
	ID     uint64 // of the attempt, once known
}

// teller prints operations, confirmations and flushes.
type teller struct{ enc *json.Encoder }

func (w teller) try(o op) { _ = w.enc.Encode(o) } // a broken pipe kills

func (w teller) done(id uint64) { fmt.Println("+", id) }
func (w teller) refused()       { fmt.Println("-") }
func (w teller) flushed()       { fmt.Println("flushed") }
func (w teller) sealing()       { fmt.Println("sealing") }

// parseOps gives the operations, of which the last may not have been confirmed,
// and how many of them had been made durable.
func parseOps(lines []string) (ops []op, durable int, err error) {
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "{"):
			var o op
			if json.Unmarshal([]byte(line), &o) != nil {
				return ops, durable, nil // cut off
			}
			ops = append(ops, o)
		case strings.HasPrefix(line, "+ "):
			ops[len(ops)-1].ID, err = strconv.ParseUint(line[2:], 10, 64)
			if err != nil {
				return nil, 0, err
			}
		case line == "-":
			ops = ops[:len(ops)-1]
		case line == "flushed":
			durable = len(ops)
		case line == "sealing":
		default:
			return nil, 0, fmt.Errorf("the worker said %q", line)
		}
	}
	return ops, durable, nil
}

func draw(parts ...uint64) *rand.Rand {
	var b []byte
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, p)
	}
	return rand.New(rand.NewPCG(uint64(crc32.ChecksumIEEE(b)), parts[len(parts)-1]))
}

func bootOf(life uint64) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], life)
	return id
}

const (
	wall0   = 1_700_000_000_000
	anchorW = 1_800_000_000_000
)

// pollAt is the poll whose first number is first, if life appends it: all of it
// follows from these.
func pollAt(e buffer.Epoch, first buffer.Seq, life uint64) buffer.Poll {
	rng := draw(uint64(e), uint64(first), life)
	sensor := rng.IntN(4)
	n := 1 + rng.IntN(3)
	if rng.IntN(30) == 0 {
		n = 40
	}
	mono := time.Duration(first) * time.Millisecond
	p := buffer.Poll{
		Stamp: drivers.Stamp{Boot: bootOf(life), Mono: mono, Wall: wall0 + int64(first), Trusted: rng.IntN(4) > 0},
		Alarm: rng.IntN(200) == 0,
	}
	for i := range n {
		v := float64(rng.IntN(100000)) / 100
		if rng.IntN(5) == 0 {
			v = rng.NormFloat64()
		}
		r := drivers.Reading{Channel: fmt.Sprintf("s%d/c%d", sensor, i), Value: v, Unit: "Cel"}
		if rng.IntN(50) == 0 {
			r.Quality = drivers.Suspect
		}
		if aggregates(e, first, life) {
			r.Quality = drivers.Aggregate
		}
		p.Readings = append(p.Readings, r)
	}
	return p
}

// aggregates says whether the polls thereabouts are to stand for others.
func aggregates(e buffer.Epoch, first buffer.Seq, life uint64) bool {
	return draw(uint64(e), uint64(first>>7), life, 6).IntN(8) == 0
}

// payload is an attempt's bytes.
func payload(e buffer.Epoch, r buffer.Range, life uint64) []byte {
	rng := draw(uint64(e), uint64(r.From), uint64(r.To), life, 1)
	p := make([]byte, 20+rng.IntN(1500))
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	return p
}

var epochs = []buffer.Epoch{1, 2, 4_000_000_000}

func init() {
	roles["buffer"] = liveBuffer
	roles["buffer-look"] = lookBuffer
}

func openBuffer(dir string, life uint64) (*buffer.Buffer, error) {
	rng := draw(life, 2)
	return buffer.Open(dir, buffer.Options{
		Flush:        []time.Duration{2, 10, 40}[rng.IntN(3)] * time.Millisecond,
		Seal:         []time.Duration{30, 100, 300}[rng.IntN(3)] * time.Millisecond,
		HalfBytes:    64 << 10,
		SegmentBytes: 256 << 10,
	})
}

// liveBuffer works on the buffer until the power goes.
func liveBuffer(dir string, life uint64) error {
	b, err := openBuffer(dir, life)
	if err != nil {
		return err
	}
	rng := draw(life, 3)
	w := teller{json.NewEncoder(os.Stdout)}
	for step := 0; ; step++ {
		if step%16 == 15 {
			time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond) // as long as a poll takes
		}
		e := epochs[rng.IntN(len(epochs))]
		l, err := b.Lane(e)
		if err != nil {
			return err
		}
		switch k := rng.IntN(100); {
		case k < 70:
			first := l.Next()
			if aggregates(e, first, life) {
				done, err := thin(l, w, rng, life)
				if err != nil {
					return err
				}
				if done {
					continue
				}
			}
			p := pollAt(e, first, life)
			w.try(op{Do: "append", E: e, R: buffer.Range{From: first, To: first + buffer.Seq(len(p.Readings)) - 1}, Life: life})
			got, err := l.Append(p)
			if err != nil {
				return err
			}
			if got != first {
				return fmt.Errorf("Append gave %d, Next had said %d", got, first)
			}
			w.done(0)
		case k < 74:
			if err := b.Flush(); err != nil {
				return err
			}
			w.flushed()
		case k < 75:
			<-l.Durable() // for ever, if the power is off
			w.flushed()
		case k < 76:
			key, value := fmt.Sprint("k", rng.IntN(4)), fmt.Sprint(life, "-", step)
			if rng.IntN(5) == 0 {
				value = ""
			}
			w.try(op{Do: "side", Key: key, Value: value})
			v := []byte(value)
			if value == "" {
				v = nil
			}
			if err := b.PutSide(key, v); err != nil {
				return err
			}
			w.done(0)
		case k < 77:
			w.try(op{Do: "gap", E: e, N: 3})
			if err := l.NoteGap(buffer.Gap{N: 3, TFrom: 1, TTo: 2, Reason: buffer.Unsampled}); err != nil {
				return err
			}
			w.done(0)
		case k == 77 && rng.IntN(20) == 0:
			w.try(op{Do: "anchor", Life: life})
			if err := b.Anchor(bootOf(life), 0, anchorW); err != nil {
				return err
			}
			w.done(0)
		case k == 78 && rng.IntN(3) == 0:
			w.sealing()
			if err := b.SealNow(); err != nil {
				return err
			}
			w.flushed()
		default:
			if err := publish(b, l, w, rng, life); err != nil {
				return err
			}
		}
	}
}

// thin replaces an open run by the polls that come next, if there is one and they are to stand for others.
func thin(l *buffer.Lane, w teller, rng *rand.Rand, life uint64) (bool, error) {
	e, first := l.Epoch(), l.Next()
	r, err := openRun(l, buffer.Seq(rng.Uint64N(uint64(first))), 1+rng.IntN(400))
	if err != nil || r.From == 0 {
		return false, err
	}
	var ps []buffer.Poll
	next := first
	for n := 1 + rng.IntN(60); len(ps) < n && aggregates(e, next, life); {
		p := pollAt(e, next, life)
		ps, next = append(ps, p), next+buffer.Seq(len(p.Readings))
	}
	w.try(op{Do: "thin", E: e, R: r, Part: buffer.Range{From: first, To: next - 1}, Life: life})
	got, err := l.Thin(r, ps)
	if err != nil {
		return false, err
	}
	if got != first {
		return false, fmt.Errorf("Thin gave %d, Next had said %d", got, first)
	}
	w.done(0)
	return true, nil
}

// openRun is the first open run from a number on, of about as many as most.
func openRun(l *buffer.Lane, from buffer.Seq, most int) (r buffer.Range, err error) {
	for s, err := range l.Open(from) {
		if err != nil {
			return r, err
		}
		if r.From == 0 {
			r.From = s.First
		} else if s.First != r.To+1 || most <= 0 {
			break
		}
		r.To = s.First + buffer.Seq(len(s.Readings)) - 1
		most -= len(s.Readings)
	}
	return r, nil
}

// publish makes an attempt, or decides one.
func publish(b *buffer.Buffer, l *buffer.Lane, w teller, rng *rand.Rand, life uint64) error {
	e := l.Epoch()
	if as := l.Attempts(); len(as) > 0 && rng.IntN(5) < 1+len(as) {
		a := as[rng.IntN(len(as))]
		if rng.IntN(2) == 0 { // as a publisher does before it sends
			if err := b.Flush(); err != nil {
				return err
			}
			w.flushed()
		}
		o := op{E: e, R: a.Range, CRC: crc32.ChecksumIEEE(a.Payload), ID: a.ID}
		var do func() error
		switch k := rng.IntN(20); {
		case k == 0:
			o.Do, do = "release", func() error { return l.Release(a.ID) }
		case k == 1:
			o.Do, o.Reason = "giveup", []buffer.Reason{buffer.Refused, buffer.Undeliverable}[rng.IntN(2)]
			do = func() error { return l.GiveUp(a.ID, o.Reason) }
		case k == 2:
			o.Do, do = "retried", func() error { return l.Retried(a.ID) }
		case k == 3 && a.Range != (buffer.Range{}):
			n := buffer.Seq(rng.Uint64N(a.Range.Len()))
			o.Do, o.Part = "ranges", buffer.Range{From: a.Range.From + n/2, To: a.Range.From + n}
			do = func() error { return l.AckRanges([]buffer.Range{o.Part}) }
		default:
			o.Do, do = "ack", func() error { return l.Ack(a.ID) }
		}
		w.try(o)
		if err := do(); err != nil {
			return err
		}
		w.done(a.ID)
		return nil
	}
	most := 1 + rng.IntN(150)
	var first buffer.Seq
	if rng.IntN(6) == 0 { // live before backlog
		first = l.Next() - min(l.Next()-1, buffer.Seq(rng.IntN(100)))
	}
	r, err := openRun(l, first, most)
	if err != nil {
		return err
	}
	gaps := l.OpenGaps()
	gaps = gaps[:rng.IntN(min(len(gaps), 3)+1)]
	if r.From == 0 && len(gaps) == 0 {
		return nil
	}
	a := buffer.Attempt{Range: r, Payload: payload(e, r, life), Cost: 1}
	for _, g := range gaps {
		a.Gaps = append(a.Gaps, g.ID)
	}
	w.try(op{Do: "fix", E: e, R: r, CRC: crc32.ChecksumIEEE(a.Payload), Gaps: gaps})
	fixed, err := l.Fix(a)
	if errors.Is(err, buffer.ErrInFlight) {
		w.refused()
		return nil
	}
	if err != nil {
		return err
	}
	w.done(fixed.ID)
	return nil
}

// lifeStart says which life appended the numbers from Next on.
type lifeStart struct {
	Life uint64
	Next map[buffer.Epoch]buffer.Seq
}

// look starts a worker that opens the buffer and says what is in it. It closes
// it or not, as the seed says. The error: it did not come to an end.
func look(dir string, lives []lifeStart, seed uint64) (*dump, error) {
	p, err := json.Marshal(lives)
	if err != nil {
		return nil, err
	}
	out, err := ask("buffer-look", dir, seed, bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	var s dump
	if err := json.Unmarshal(out, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

func lookBuffer(dir string, seed uint64) error {
	var lives []lifeStart
	if err := json.NewDecoder(os.Stdin).Decode(&lives); err != nil {
		return err
	}
	b, err := openBuffer(dir, seed)
	if err != nil {
		return err
	}
	s := dump{IDs: map[string]uint64{}, Fresh: b.Fresh()}
	bad := func(format string, args ...any) {
		if len(s.Bad) < 10 {
			s.Bad = append(s.Bad, fmt.Sprintf(format, args...))
		}
	}
	st := b.Stats()
	m := newModel()
	m.delivered, m.dropped = st.Delivered, st.Dropped
	stale, repaired := map[uint64]bool{}, map[uint64]bool{}
	for _, e := range epochs {
		l, err := b.Lane(e)
		if err != nil {
			return err
		}
		ml := m.lane(e)
		ml.next = l.Next()
		walk := walker{e: e, lives: lives}
		for got, err := range l.Open(0) {
			if err != nil {
				bad("epoch %d: Open: %v", e, err)
				break
			}
			r := buffer.Range{From: got.First, To: got.First + buffer.Seq(len(got.Readings)) - 1}
			ml.open.add(r)
			want, life, off := walk.to(got.First)
			if why := differ(got, want, off); why != "" {
				bad("epoch %d, reading %d of life %d: %s", e, got.First, life, why)
			}
			switch {
			case want.Stamp.Trusted:
				if got.Time != want.Stamp.Wall {
					bad("epoch %d, reading %d: time %d, want %d", e, got.First, got.Time, want.Stamp.Wall)
				}
			case got.Time == want.Stamp.Wall:
				stale[life] = true
			case got.Time == anchorW+want.Stamp.Mono.Milliseconds():
				repaired[life] = true
			default:
				bad("epoch %d, reading %d: time %d is neither as taken nor repaired", e, got.First, got.Time)
			}
		}
		all := walker{e: e, lives: lives}
		for got, err := range l.All() {
			if err != nil {
				bad("epoch %d: All: %v", e, err)
				break
			}
			r := buffer.Range{From: got.First, To: got.First + buffer.Seq(len(got.Readings)) - 1}
			if got.Thinned {
				ml.kept.add(r)
			}
			want, life, off := all.to(got.First)
			if why := differ(got, want, off); why != "" {
				bad("epoch %d, reading %d of life %d, exported: %s", e, got.First, life, why)
			}
		}
		for _, a := range l.Attempts() {
			x := &attempt{r: a.Range, crc: crc32.ChecksumIEEE(a.Payload), tries: a.Tries, carried: make([]buffer.Gap, len(a.Gaps))}
			ml.attempts = append(ml.attempts, x)
			s.IDs[fmt.Sprint(e, " ", x)] = a.ID
		}
		for _, g := range l.OpenGaps() {
			ml.gap(g, 1)
		}
	}
	for _, ls := range b.Stats().Lanes {
		if slices.Contains(epochs, ls.Epoch) {
			m.lane(ls.Epoch).left = ls.Pending
			if n := m.lane(ls.Epoch).kept.len(); n != ls.Kept {
				bad("epoch %d: %d originals exported, %d said to be kept", ls.Epoch, n, ls.Kept)
			}
		}
	}
	for _, k := range []string{"k0", "k1", "k2", "k3"} {
		if v := b.Side(k); v != nil {
			m.side[k] = string(v)
		}
	}
	for _, f := range st.DamagedFiles {
		bad("set aside: %s", f)
	}
	for _, v := range b.Verify() {
		bad("Verify: %s", v)
	}
	s.Notes = st.RecoveredFrom
	s.Digest = m.String()
	s.Stale, s.Repaired = slices.Sorted(maps.Keys(stale)), slices.Sorted(maps.Keys(repaired))
	if seed%2 == 0 {
		if err := b.Close(); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}
