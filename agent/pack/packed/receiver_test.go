package packed

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/agent/pack"
	"homeward/drivers"
)

// gatewaysPayload is a schema and one payload of it.
func gatewaysPayload(t *testing.T, gateway string, id uint32, named bool) (schema, payload []byte) {
	t.Helper()
	c, err := Train(id, []Set{{Every: 1000, Channels: []Hint{{Name: "a/x", Unit: "Cel"}}}}, nil, 0)
	require.NoError(t, err)
	c.Schema().Gateway, c.Schema().Epoch = gateway, 3
	w := c.NewWriter(pack.Header{Gateway: gateway, Epoch: 3, First: 11}, Text, named, 1024)
	for i := range 5 {
		require.True(t, w.Add(pack.Poll{Time: int64(1000 * i), Readings: []drivers.Reading{{Channel: "a/x", Unit: "Cel", Value: float64(i) / 4}}}))
	}
	payload, n := w.Close()
	require.Equal(t, 5, n)
	return c.Schema().Text(), payload
}

const topic = "homeward/acme/cold/gw-1/readings"

func TestReceiverKeepsUntilTheSchemaComes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "schemas")
	schema, payload := gatewaysPayload(t, "gw-1", 7, false)
	_, other := gatewaysPayload(t, "gw-1", 8, false)
	r := &Receiver{Dir: dir}
	for range 2 { // a repeat is kept once
		ps, err := r.Take(topic, payload)
		require.ErrorIs(t, err, ErrWaiting)
		require.Empty(t, ps)
	}
	_, err := r.Take(topic, other)
	require.ErrorIs(t, err, ErrWaiting)

	r = &Receiver{Dir: dir} // another day
	ps, err := r.Take("homeward/acme/cold/gw-1/schema/7", schema)
	require.NoError(t, err)
	require.Len(t, ps, 1)
	require.Equal(t, "gw-1", ps[0].Gateway)
	require.Equal(t, pack.Reading{Seq: 12, TimeMS: 1000, Channel: "a/x", Value: 0.25, Unit: "Cel"}, ps[0].Readings[1])

	// What was written is not given again; before that, it is.
	again, err := (&Receiver{Dir: dir}).Take("", schema)
	require.NoError(t, err)
	require.Equal(t, ps, again)
	require.NoError(t, r.Released(schema))
	ps, err = r.Take("", schema)
	require.NoError(t, err)
	require.Empty(t, ps)

	ps, err = (&Receiver{Dir: dir}).Take(topic, payload)
	require.NoError(t, err)
	require.Len(t, ps, 1)

	// The same number with another content would make numbers up.
	changed := bytes.Replace(schema, []byte(`"u":"Cel"`), []byte(`"u":"K"`), 1)
	_, err = r.Take("", changed)
	require.ErrorContains(t, err, "came with another content")
}

func TestReceiverNeverGuessesWhose(t *testing.T) {
	schema, payload := gatewaysPayload(t, "gw-1", 7, false)
	named, own := gatewaysPayload(t, "gw-2", 7, true)
	r := &Receiver{}
	for _, s := range [][]byte{schema, named} {
		_, err := r.Take("", s)
		require.NoError(t, err)
	}
	_, err := r.Take("", payload)
	require.ErrorContains(t, err, "cannot be told")
	ps, err := r.Take("", own)
	require.NoError(t, err)
	require.Equal(t, "gw-2", ps[0].Gateway)
	_, err = r.Take("homeward/acme/cold/gw-3/readings", payload)
	require.ErrorContains(t, err, "is not known")
	ps, err = (&Receiver{Gateway: "gw-1", coders: r.coders}).Take("", payload)
	require.NoError(t, err)
	require.Equal(t, "gw-1", ps[0].Gateway)
}

// Names come from outside: no file lies anywhere else for it.
func TestReceiverStaysInItsFolder(t *testing.T) {
	dir := t.TempDir()
	for _, gateway := range []string{"../../x", "..", ".", "a/b", "0xaa", strings.Repeat("n", 5000), "a\x00b", "gw-1"} {
		schema, payload := gatewaysPayload(t, gateway, 7, true)
		if len(gateway) > 255 {
			_, payload = gatewaysPayload(t, gateway, 7, false)
		}
		r := &Receiver{Dir: filepath.Join(dir, "in"), Gateway: gateway}
		_, err := r.Take("", payload)
		require.ErrorIs(t, err, ErrWaiting, "%.20q", gateway)
		ps, err := r.Take("", schema)
		require.NoError(t, err)
		require.Len(t, ps, 1, "%.20q", gateway)
	}
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, names, 1)
}

func TestReceiverTakesEveryFormat(t *testing.T) {
	r := &Receiver{Dir: t.TempDir()}
	rows := []byte(`{"gw":"g","e":1,"s":1,"n":1,"t":0,"g":[{"c":["ch"],"u":[""],"r":[[0,1]]}]}`)
	ps, err := r.Take("", rows)
	require.NoError(t, err)
	require.Len(t, ps[0].Readings, 1)
	require.NoError(t, r.Released(rows))
	_, err = r.Take("", []byte("hello"))
	require.ErrorContains(t, err, "first byte")
	_, err = r.Take("", []byte(`{"gw":"g","e":1,"id":0,"ch":[]}`))
	require.ErrorContains(t, err, "schema")
}
