package agent

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/buffer"
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
