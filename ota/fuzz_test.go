package ota

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func FuzzWindow(f *testing.F) {
	for _, s := range []string{"", "02:00-05:00", "22:00-02:00", "00:00-24:00", "24:00-00:00", "02:00-02:00", "2:00-5:00", "02:60-05:00", "-1:00-05:00", "02:00 05:00"} {
		f.Add(s, int64(1_700_000_000))
	}
	f.Fuzz(func(t *testing.T, text string, at int64) {
		w, err := ParseWindow(text)
		if err != nil {
			return
		}
		require.Equal(t, text, w.String(), "what parses re-encodes to the same")
		now := time.Unix(at%(1<<33), 0).UTC()
		wait := w.Wait(now, "gw-1")
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, 25*time.Hour)
		if wait > 0 {
			require.Zero(t, w.Wait(now.Add(wait), "gw-1"), "open when it said so")
		}
	})
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"state":"idle","candidate":{},"tried":["a"],"told":[{"manifest":"m","code":"c"}],"trials":[{"manifest":"m","n":2,"not_before":1}],"assigned":[{"manifest":"m","order":3,"rollout":"r"}],"back":true}`))
	f.Add([]byte(`{"tried":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]}`))
	f.Add([]byte(`{"state":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		j := parseJournal(data)
		require.LessOrEqual(t, len(j.Tried), maxKept)
		require.LessOrEqual(t, len(j.Assigned), maxKept)
		again, err := json.Marshal(j)
		require.NoError(t, err)
		require.Equal(t, j.Back, parseJournal(again).Back)
	})
}

func FuzzHistory(f *testing.F) {
	f.Add([]byte(`{"gen":1,"unix_s":5,"event":"armed","release":{"version":"1"},"code":""}` + "\n" + `{"gen":2,"event":"committed","code":"ok","acked":true}` + "\n"))
	f.Add([]byte("not json\n{}\n{\"event\":\"refused\",\"code\":\"rel.floor\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list := parseHistory(data)
		require.LessOrEqual(t, len(list), maxEntries)
		for _, e := range list {
			require.NotEmpty(t, e.Event)
			require.LessOrEqual(t, len(e.Text), maxText+len("…"))
		}
	})
}

func FuzzArmed(f *testing.F) {
	manifest := []byte(`{"schema":1}`)
	good, err := json.Marshal(armedFile{Manifest: manifest, Link: true, Baseline: json.RawMessage(`{"a":1}`)})
	require.NoError(f, err)
	f.Add(good)
	f.Add([]byte(`{"manifest":"AAAA"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseArmed(data, manifestHash(manifest))
		if err == nil {
			require.Equal(t, manifest, a.Manifest)
		} else {
			require.Empty(t, a.Manifest)
		}
	})
}

func TestWindow24(t *testing.T) {
	w, err := ParseWindow("22:00-02:00")
	require.NoError(t, err)
	open := map[int]bool{}
	for h := range 24 {
		if w.Wait(time.Date(2026, 5, 1, h, 59, 0, 0, time.UTC), "gw-1") == 0 {
			open[h] = true
		}
	}
	require.True(t, open[1] && open[0])
	require.False(t, open[2] || open[12] || open[21])
	starts := map[time.Duration]bool{}
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		wait := w.Wait(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), key)
		require.GreaterOrEqual(t, wait, 10*time.Hour)
		require.LessOrEqual(t, wait, 12*time.Hour)
		starts[wait] = true
	}
	require.Greater(t, len(starts), 3, "a fleet is spread over the first half")
	for _, bad := range []string{"02:00", "02:00-02:00", "25:00-02:00", "02:00-05:0x", "02:00–05:00"} {
		_, err := ParseWindow(bad)
		require.ErrorContains(t, err, "want a time of day from-to, such as 02:00-05:00", bad)
	}
}
