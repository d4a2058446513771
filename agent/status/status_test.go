package status

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func example() Status {
	budget, percent := uint64(100), 12.5
	return Status{
		Gateway: `gw"1`, Version: "v1", Home: Home{State: "proven", Project: "p\\q\nr"},
		Sensors:    []Sensor{{Name: "boiler room", Driver: "modbus", State: "ok", Readings: 7}, {Name: "b", State: "gone", Errors: 3}},
		Operations: Operations{Budget: &budget, Percent: &percent, Used: 12},
		Buffer:     Buffer{Pending: 12345678},
		Problems:   []Problem{{Code: "sensor.gone", Subject: "b", Severity: Fail, Since: time.Unix(0, 0)}},
	}
}

func get(t *testing.T, h http.Handler, method, host, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestViewChangesNothing(t *testing.T) {
	h := Handler(example)
	for _, path := range []string{"/", "/status.json", "/metrics"} {
		require.Equal(t, 200, get(t, h, "GET", "localhost", path).Code)
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			require.Equal(t, http.StatusMethodNotAllowed, get(t, h, method, "localhost", path).Code)
		}
	}
	require.Equal(t, 404, get(t, h, "GET", "localhost", "/check").Code, "the socket's own paths are not on the page")
	require.Equal(t, 404, get(t, h, "GET", "localhost", "/buffer/export").Code)
	var back Status
	require.NoError(t, json.Unmarshal(get(t, h, "GET", "localhost", "/status.json").Body.Bytes(), &back))
	require.EqualValues(t, 12345678, back.Buffer.Pending)
}

// TestFieldsOfTheContract holds the names that others rely on.
func TestFieldsOfTheContract(t *testing.T) {
	text, err := json.Marshal(example())
	require.NoError(t, err)
	var v map[string]any
	require.NoError(t, json.Unmarshal(text, &v))
	for path, keys := range map[string]string{
		"":           "gateway version uptime_s home sensors buffer publish operations update clock problems",
		"home":       "cloud organization project product epoch state since",
		"sensors":    "name driver state last_ok last_error errors readings",
		"buffer":     "pending oldest_age_s bytes max_bytes dropped gaps lanes",
		"publish":    "connected payloads readings operations last_ack format backlog_share",
		"operations": "month used budget percent forecast limit_state",
		"update":     "version slot state candidate last_result",
		"clock":      "trusted source offset_ms",
		"problems":   "code severity text remedy since",
	} {
		at := v
		if path != "" {
			switch x := v[path].(type) {
			case map[string]any:
				at = x
			case []any:
				at = x[0].(map[string]any)
			}
		}
		for _, k := range strings.Fields(keys) {
			require.Contains(t, at, k, path)
		}
	}
}

func TestForeignNamesAreRefused(t *testing.T) {
	h := Local(Handler(example), "gateway.local:8080")
	for host, code := range map[string]int{
		"127.0.0.1:8080": 200, "localhost": 200, "[::1]:8080": 200, "192.168.1.5:8080": 200, "gateway.local:8080": 200,
		"evil.example": 421, "evil.example:8080": 421, "127.0.0.1.evil.example": 421, "": 421,
	} {
		require.Equal(t, code, get(t, h, "GET", host, "/status.json").Code, host)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	body := get(t, Handler(example), "GET", "localhost", "/metrics").Body.String()
	sample := regexp.MustCompile(`^[a-z_]+(\{[a-z]+="([^"\\\n]|\\["\\n])*"(,[a-z]+="([^"\\\n]|\\["\\n])*")*\})? [0-9.e+-]+$`)
	seen := map[string]bool{}
	for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name = strings.Fields(name)[0]
			require.False(t, seen[name], "one family, one TYPE: %s", name)
			seen[name] = true
		}
		if !strings.HasPrefix(line, "#") {
			require.Regexp(t, sample, line)
		}
	}
	require.Contains(t, body, `homeward_sensor_readings_total{sensor="boiler room",driver="modbus"} 7`)
	require.Contains(t, body, `homeward_info{gateway="gw\"1",version="v1",project="p\\q\nr"} 1`)
	require.Contains(t, body, `homeward_problem{code="sensor.gone",subject="b",severity="fail"} 1`)
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "homeward.sock")
	var v Status
	require.ErrorIs(t, Get(t.Context(), path, "/status.json", &v), ErrNotRunning)
	l, err := ListenUnix(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o660), info.Mode().Perm())
	s := Serve(l, Handler(example), nil)
	require.NoError(t, Get(t.Context(), path, "/status.json", &v))
	require.EqualValues(t, 12345678, v.Buffer.Pending)
	require.ErrorContains(t, Get(t.Context(), path, "/nothing", &v), "404")
	_, err = ListenUnix(path)
	require.ErrorContains(t, err, "answers already")
	s.Close()
	s.Close() // twice is harmless

	// A killed agent leaves its socket behind; another file at its place is nobody's to remove.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	left.SetUnlinkOnClose(false)
	require.NoError(t, left.Close())
	require.ErrorIs(t, Get(t.Context(), path, "/status.json", &v), ErrNotRunning)
	l, err = ListenUnix(path)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err = ListenUnix(path)
	require.Error(t, err)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "mine", string(text))
}

func TestSlowCallersAreDropped(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := Serve(l, Handler(example), nil)
	defer s.Close()
	require.NotZero(t, s.http.ReadHeaderTimeout)
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET / HTTP/1.1\r\nX: "+strings.Repeat("a", 64<<10))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	deadline, _ := ctx.Deadline()
	require.NoError(t, c.SetReadDeadline(deadline))
	answer, _ := io.ReadAll(c)
	require.Contains(t, string(answer), "431")
}
