package agent

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/buffer"
	"homeward/drivers"
)

// What an export lacks is told, by the running agent too.
func TestExportTellsWhatItLacks(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	a := newAgent(t, plainConfig(t.TempDir()), clock)
	give := func(n int) {
		for range n {
			_, err := a.lane.Append(buffer.Poll{Stamp: clock.Stamp(), Readings: value(1)})
			require.NoError(t, err)
		}
	}
	give(100)
	server := httptest.NewServer(a.localHandler())
	t.Cleanup(server.Close)
	export := func(format string) (lines int, lost string) {
		resp, err := server.Client().Get(server.URL + "/buffer/export?format=" + format)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return strings.Count(string(body), "\n"), resp.Trailer.Get(ExportTrailer)
	}
	lines, lost := export("json")
	require.Equal(t, 100, lines)
	require.Empty(t, lost)

	require.NoError(t, a.buf.SealNow())
	f, err := os.OpenFile(filepath.Join(BufferPath(a.Config.State), "00000001.db"), os.O_RDWR, 0)
	require.NoError(t, err)
	info, err := f.Stat()
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xA5}, int(info.Size())-4096), 4096)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	give(10)
	for format, want := range map[string]int{"json": 10, "csv": 11} {
		lines, lost = export(format)
		require.Equal(t, want, lines)
		require.Contains(t, lost, fmt.Sprintf("epoch %d readings 1 to 100", a.epoch))
	}
}

// The originals of aggregates are exported with them, and marked: whoever counts leaves out either.
func TestExportMarksOriginals(t *testing.T) {
	clock := &setClock{}
	clock.set(noon(2026, 3, 1), true)
	a := newAgent(t, plainConfig(t.TempDir()), clock)
	for range 100 {
		_, err := a.lane.Append(buffer.Poll{Stamp: clock.Stamp(), Readings: value(1)})
		require.NoError(t, err)
	}
	mean := value(1)
	mean[0].Quality = drivers.Aggregate
	_, err := a.lane.Thin(buffer.Range{From: 11, To: 60}, []buffer.Poll{{Stamp: clock.Stamp(), Readings: mean}})
	require.NoError(t, err)
	server := httptest.NewServer(a.localHandler())
	t.Cleanup(server.Close)
	export := func(format string) []string {
		resp, err := server.Client().Get(server.URL + "/buffer/export?format=" + format)
		require.NoError(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return strings.Split(strings.TrimSpace(string(body)), "\n")
	}
	for range 2 {
		lines := export("json")
		require.Len(t, lines, 101)
		table, err := csv.NewReader(strings.NewReader(strings.Join(export("csv"), "\n"))).ReadAll()
		require.NoError(t, err)
		require.Len(t, table, 102)
		for i, line := range lines {
			var r struct {
				Seq              int
				Quality, Outcome string
			}
			require.NoError(t, json.Unmarshal([]byte(line), &r))
			require.Equal(t, i+1, r.Seq)
			require.Equal(t, r.Seq >= 11 && r.Seq <= 60, r.Outcome == "thinned", line)
			require.Equal(t, r.Seq == 101, r.Quality == "aggregate", line)
			require.Equal(t, r.Outcome != "", strings.Contains(line, "outcome"), line)
			require.Equal(t, []string{r.Quality, r.Outcome}, table[i+1][8:])
		}
		require.NoError(t, a.buf.SealNow())
	}
}
