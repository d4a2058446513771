package agent

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/cloud"
	"homeward/agent/config"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/buffer"
	"homeward/drivers"
)

func packedDesk(t *testing.T) *desk {
	d := newDesk(t, func(c *config.Publish) {
		c.Format, c.MaxAge = "packed", config.Duration(time.Minute)
	})
	d.sets = []packed.Set{
		{Every: 1000, Channels: []packed.Hint{{Name: "a/x", Unit: "Cel", Exact: &packed.Channel{Div: 10}}, {Name: "a/y"}}},
		{Every: 7000, Channels: []packed.Hint{{Name: "b/z"}}},
	}
	return d
}

// poll appends what sensor a gives, and each seventh time b.
func (d *desk) poll(t *testing.T, i int) {
	t.Helper()
	at := func() drivers.Stamp { return d.clock.Stamp() }
	x := math.Round(200+30*math.Sin(float64(i)/40)) / 10
	_, err := d.lane.Append(buffer.Poll{Stamp: at(), Readings: []drivers.Reading{{Channel: "a/x", Unit: "Cel", Value: x}, {Channel: "a/y", Value: float64(i)}}})
	require.NoError(t, err)
	if i%7 == 0 {
		_, err := d.lane.Append(buffer.Poll{Stamp: at(), Readings: []drivers.Reading{{Channel: "b/z", Value: math.Sqrt(float64(i))}}})
		require.NoError(t, err)
	}
}

// readings checks that every number has arrived once, or repeated identically, and returns how many payloads were packed.
func (d *desk) readings(t *testing.T, want int) (packs int) {
	t.Helper()
	seen := map[uint64]pack.Reading{}
	for _, a := range d.home.arrivals() {
		if packed.Is([]byte(a.bytes)) {
			packs++
			require.LessOrEqual(t, len(a.bytes), int(d.cfg.Load().MaxBytes))
		}
		for _, r := range a.payload.Readings {
			if old, known := seen[r.Seq]; known {
				require.Equal(t, old, r)
			}
			seen[r.Seq] = r
		}
	}
	require.Len(t, seen, want)
	require.EqualValues(t, want, d.buf.Stats().Delivered)
	return packs
}

func TestPackedNeedsItsSchemaFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := packedDesk(t)
		d.home.schema = &cloud.Error{Class: cloud.Unproven, Op: "schema", Err: errors.New("does not come back"), Remedy: "allow it"}
		d.run(t)
		for i := range 300 {
			d.poll(t, i)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		require.Zero(t, d.readings(t, int(d.buf.Stats().Delivered)), "without a schema at the home nothing is packed")
		require.NotEmpty(t, d.home.arrivals(), "and nothing waits for it")
		require.Contains(t, d.codes(), "publish.no-schema")

		d.home.set(func() { d.home.schema = nil })
		time.Sleep(10 * time.Minute)
		before := len(d.home.arrivals())
		for i := range 3000 {
			d.poll(t, 300+i)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		require.NotContains(t, d.codes(), "publish.no-schema")
		total := int(d.lane.Next() - 1)
		packs := d.readings(t, total)
		require.Equal(t, packs, len(d.home.arrivals())-before)
		d.end(t)
	})
}

// TestPackedSchemaIDs: a schema is kept over a restart, another set of channels gets another id, and a channel that no schema has goes as rows.
func TestPackedSchemaIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := packedDesk(t)
		d.run(t)
		for i := range 200 {
			d.poll(t, i)
			if i%50 == 0 {
				d.append(t, "old/c", float64(i), false) // was configured once
			}
			time.Sleep(time.Second)
		}
		// A broker that went and came back: the same schema is given again.
		d.home.set(func() { d.home.last.drop() })
		time.Sleep(2 * time.Minute)
		d.sets = append(d.sets, packed.Set{Every: 1000, Channels: []packed.Hint{{Name: "old/c"}}})
		again := *d.cfg.Load()
		d.cfg.Store(&again) // as after SIGHUP
		time.Sleep(5 * time.Second)
		for i := range 200 {
			d.poll(t, 200+i)
			d.append(t, "old/c", float64(i), false)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		require.Positive(t, d.readings(t, int(d.lane.Next()-1)))
		var ids []uint32
		for _, text := range d.home.schemas {
			s, err := packed.ParseSchema([]byte(text))
			require.NoError(t, err)
			require.Equal(t, "gw", s.Gateway)
			require.EqualValues(t, 7, s.Epoch)
			ids = append(ids, s.ID)
		}
		require.Equal(t, []uint32{1, 1, 2}, ids)
		rows := false
		for _, a := range d.home.arrivals() {
			rows = rows || a.bytes[0] == '{' && a.payload.Readings[0].Channel == "old/c"
		}
		require.True(t, rows)
		d.end(t)
	})
}

// TestPackedLearns: what was published makes a better schema, with which payloads hold more, and nothing is lost on the way.
func TestPackedLearns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := packedDesk(t)
		d.cfg.Load().MaxAge = config.Duration(time.Hour)
		d.run(t)
		for i := range 9000 {
			d.poll(t, i)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Hour)
		d.readings(t, int(d.lane.Next()-1))
		var ids []uint32
		for _, text := range d.home.schemas {
			s, err := packed.ParseSchema([]byte(text))
			require.NoError(t, err)
			if len(ids) == 0 || ids[len(ids)-1] != s.ID {
				ids = append(ids, s.ID)
			}
		}
		require.Equal(t, []uint32{1, 2}, ids, "one lesson a day")
		perByte := map[uint32]float64{}
		for _, a := range d.home.arrivals() {
			info, err := packed.Peek([]byte(a.bytes))
			require.NoError(t, err)
			perByte[info.Schema] = max(perByte[info.Schema], float64(len(a.payload.Readings))/float64(len(a.bytes)))
		}
		require.Greater(t, perByte[2], perByte[1])
		d.end(t)
	})
}

// wrapping is a home that puts payloads into JSON strings.
type wrapping struct{ *fakeHome }

func (w wrapping) Limits() cloud.Limits {
	l := w.fakeHome.Limits()
	l.Wraps = true
	return l
}

// TestEncodings: packed payloads have the letters that publish.encoding names, text where the home wraps them, no payload is
// longer than publish.max_bytes as the home counts, and operations are counted so.
func TestEncodings(t *testing.T) {
	for _, tc := range []struct {
		encoding string
		wraps    bool
		begins   string // one of these
	}{{"text", false, "!#"}, {"text85", false, "%("}, {"binary", false, "\x01\x02"}, {"text", true, "!#"}, {"text85", true, "%("}, {"binary", true, "!#"}} {
		synctest.Test(t, func(t *testing.T) {
			d := packedDesk(t)
			const limit = 3000
			d.cfg.Load().Encoding, d.cfg.Load().MaxBytes = tc.encoding, limit
			if tc.wraps {
				d.cloud = wrapping{d.home}
			}
			for i := range 600 {
				d.append(t, fmt.Sprintf("old/\"%d\"", i%8), float64(i), false) // has no schema
			}
			d.run(t)
			for i := range 300 {
				d.poll(t, i)
				time.Sleep(time.Second)
			}
			time.Sleep(2 * time.Minute)
			require.Positive(t, d.readings(t, int(d.lane.Next()-1)))
			rows, cost := 0, 0
			for _, a := range d.home.arrivals() {
				size := len(a.bytes)
				if tc.wraps {
					size = pack.Wrapped([]byte(a.bytes))
				}
				require.LessOrEqual(t, size, limit)
				cost += (size + 1023) / 1024
				if a.bytes[0] == '{' {
					rows = max(rows, size)
					continue
				}
				require.Contains(t, tc.begins, a.bytes[:1], "%s, wrapped %t", tc.encoding, tc.wraps)
			}
			require.Greater(t, rows, limit-50, "and filled")
			v, _, _ := d.status()
			require.EqualValues(t, cost, v.Operations)
			d.end(t)
		})
	}
}

// TestPackedSchemaOnRequest: who has lost the schema asks for it on B/orders, and cannot ask often.
func TestPackedSchemaOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := packedDesk(t)
		d.run(t)
		time.Sleep(time.Minute)
		ask := func(text string) {
			d.home.mu.Lock()
			hints := d.home.last.hints
			d.home.mu.Unlock()
			hints <- cloud.Hint{Topic: "orders", Payload: []byte(text)}
			time.Sleep(time.Minute)
		}
		schemas := func() int {
			d.home.mu.Lock()
			defer d.home.mu.Unlock()
			return len(d.home.schemas)
		}
		require.Equal(t, 1, schemas())
		time.Sleep(schemaPatience)
		ask(`{"schema":true}`)
		require.Equal(t, 2, schemas())
		require.Equal(t, d.home.schemas[0], d.home.schemas[1])
		for range 5 {
			ask(`{"schema":true}`)
		}
		require.Equal(t, 2, schemas())
		time.Sleep(schemaPatience)
		require.Equal(t, 3, schemas(), "asked for meanwhile")
		time.Sleep(schemaPatience)
		for _, other := range []string{`{"schema":false}`, `{"schema":1}`, `schema`, ``, `[]`} {
			ask(other)
		}
		require.Equal(t, 3, schemas())
		d.end(t)
	})
}
