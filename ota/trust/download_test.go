package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/buffer/durable"
	"homeward/buffer/durable/crashfs"
)

// blob is some bytes and their name.
func blob(n int) (data []byte, sum string) {
	data = make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	h := sha256.Sum256(data)
	return data, hex.EncodeToString(h[:])
}

// mem is a source in memory that counts what it gives out.
type mem struct {
	mu     sync.Mutex
	files  map[string][]byte
	etag   string
	given  int
	cutAt  int  // the body breaks off here; 0: never
	whole  bool // knows no ranges
	offset int64
}

func (m *mem) Get(ctx context.Context, q Request) (*Body, error) {
	data, ok := m.files[q.Name]
	if !ok {
		return nil, ErrNotFound
	}
	from := q.Offset
	if m.whole || q.IfRange != m.etag {
		from = 0
	}
	end := len(data)
	if m.cutAt > 0 {
		end = min(end, int(from)+m.cutAt)
	}
	return &Body{ReadCloser: io.NopCloser(&count{bytes.NewReader(data[from:end]), m}), Offset: from + m.offset, Size: int64(len(data)), ETag: m.etag}, nil
}

type count struct {
	r io.Reader
	m *mem
}

func (c *count) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(len(p), 1000)])
	c.m.mu.Lock()
	c.m.given += n
	c.m.mu.Unlock()
	return n, err
}

func newMem(data []byte, sum string) *mem {
	return &mem{files: map[string][]byte{"blobs/" + sum: data}, etag: `"1"`}
}

func TestFetch(t *testing.T) {
	t.Parallel()
	data, sum := blob(100_000)
	m := newMem(data, sum)
	var told []int64
	d := &Downloader{Source: m, Dir: filepath.Join(t.TempDir(), "stage"), Progress: func(done, size int64) { told = append(told, done, size) }}
	path, err := d.Fetch(context.Background(), sum, int64(len(data)))
	require.NoError(t, err)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	require.Equal(t, []int64{100_000, 100_000}, told[len(told)-2:])
	entries, err := os.ReadDir(d.Dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing is left beside")
	// It is there: nothing is fetched again, unless the disk has lost it.
	before := m.given
	_, err = d.Fetch(context.Background(), sum, int64(len(data)))
	require.NoError(t, err)
	require.Equal(t, before, m.given)
	got[7] ^= 1
	require.NoError(t, os.WriteFile(path, got, 0o600))
	_, err = d.Fetch(context.Background(), sum, int64(len(data)))
	require.NoError(t, err)
	require.Equal(t, 2*before, m.given)

	for _, bad := range []string{"", "../" + sum, sum[1:], strings.ToUpper(sum), sum + "/x"} {
		_, err = d.Fetch(context.Background(), bad, 5)
		require.Equal(t, CodeFetchHash, code(err), bad)
	}
	_, err = d.Fetch(context.Background(), sum, 0)
	require.Equal(t, CodeFetchSize, code(err))
}

// A link that breaks off at every so many bytes costs nothing twice.
func TestFetchResumes(t *testing.T) {
	t.Parallel()
	data, sum := blob(1 << 20)
	for _, cut := range []int{1, 1000, 64 << 10, 1<<20 - 1} {
		for _, change := range []string{"", "etag", "whole"} {
			m := newMem(data, sum)
			m.cutAt = max(cut, 50_000)
			d := &Downloader{FS: crashfs.New(1), Source: m, Dir: "/stage"}
			for i := 0; ; i++ {
				if i == 3 && change != "" {
					m.etag, m.whole, m.cutAt = `"2"`, change == "whole", 0 // starts anew once
				}
				_, err := d.Fetch(context.Background(), sum, int64(len(data)))
				if err == nil {
					break
				}
				require.Equal(t, CodeFetchUnreachable, code(err), "%v", err)
				require.Less(t, i, 200)
			}
			most := len(data)
			if change != "" {
				most *= 2
			}
			require.LessOrEqual(t, m.given, most, "cut %d %s", cut, change)
		}
	}
}

// Each way in which a server can lie about a blob, and what it is called.
func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	data, sum := blob(3000)
	other, _ := blob(3001)
	type answer func(w http.ResponseWriter, r *http.Request)
	head := func(w http.ResponseWriter, status int, fields ...string) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Set(fields[i], fields[i+1])
		}
		w.WriteHeader(status)
	}
	for name, c := range map[string]struct {
		answer answer
		code   string
		begun  bool // half of it is there already
		stays  bool // what was there is kept
	}{
		"wrong bytes": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(other[:3000]) }, CodeFetchHash, false, false},
		"longer, announced": {func(w http.ResponseWriter, _ *http.Request) {
			head(w, 200, "Content-Length", "3001")
			_, _ = w.Write(other)
		}, CodeFetchSize, false, false},
		"shorter, announced": {func(w http.ResponseWriter, _ *http.Request) {
			head(w, 200, "Content-Length", "2999")
			_, _ = w.Write(data[:2999])
		}, CodeFetchSize, false, false},
		"huge Content-Length": {func(w http.ResponseWriter, _ *http.Request) { head(w, 200, "Content-Length", "9000000000000000000") }, CodeFetchSize, false, false},
		"longer, in chunks": {func(w http.ResponseWriter, _ *http.Request) {
			head(w, 200)
			_, _ = w.Write(data)
			_, _ = w.Write(other)
		}, CodeFetchSize, false, false},
		"shorter, in chunks": {func(w http.ResponseWriter, _ *http.Request) {
			head(w, 200)
			_, _ = w.Write(data[:1000])
			w.(http.Flusher).Flush()
		}, CodeFetchUnreachable, false, true},
		"endless": {func(w http.ResponseWriter, r *http.Request) { endless(w, r) }, CodeFetchSize, false, false},
		"gzip": {func(w http.ResponseWriter, _ *http.Request) {
			head(w, 200, "Content-Encoding", "gzip")
			_, _ = w.Write(data)
		}, CodeFetchUnreachable, false, false},
		"captive portal, page":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>pay here")) }, CodeFetchUnreachable, false, false},
		"captive portal, begun": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>pay here")) }, CodeFetchUnreachable, true, true},
		"redirect to another": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.2/x", http.StatusFound)
		}, CodeFetchUnreachable, true, true},
		"redirect in a circle":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, CodeFetchUnreachable, true, true},
		"500":                   {func(w http.ResponseWriter, _ *http.Request) { head(w, 500) }, CodeFetchUnreachable, true, true},
		"404":                   {func(w http.ResponseWriter, _ *http.Request) { head(w, 404) }, CodeFetchMissing, true, true},
		"206 from elsewhere":    {func(w http.ResponseWriter, _ *http.Request) { head(w, 206, "Content-Range", "bytes 1000-2999/3000") }, CodeFetchRange, true, false},
		"206 of another size":   {func(w http.ResponseWriter, _ *http.Request) { head(w, 206, "Content-Range", "bytes 1500-3000/3001") }, CodeFetchSize, true, false},
		"206 without a range":   {func(w http.ResponseWriter, _ *http.Request) { head(w, 206) }, CodeFetchRange, true, false},
		"206 unasked":           {func(w http.ResponseWriter, _ *http.Request) { head(w, 206, "Content-Range", "bytes 0-2999/3000") }, CodeFetchRange, false, false},
		"416":                   {func(w http.ResponseWriter, _ *http.Request) { head(w, 416) }, CodeFetchRange, true, false},
		"not modified, unasked": {func(w http.ResponseWriter, _ *http.Request) { head(w, 304) }, CodeFetchUnreachable, true, true},
		"cut in the middle":     {func(w http.ResponseWriter, _ *http.Request) { hijack(w) }, CodeFetchUnreachable, true, true},
		"206 with other content": {func(w http.ResponseWriter, _ *http.Request) {
			head(w, 206, "Content-Range", "bytes 1500-2999/3000")
			_, _ = w.Write(other[:1500])
		}, CodeFetchHash, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fleet{t: t, files: map[string][]byte{"blobs/" + sum: data}}
			s := f.serve()
			d := &Downloader{Source: f.web(s), Dir: t.TempDir()}
			if c.begun {
				half := newMem(data, sum)
				half.cutAt = 1500
				_, err := (&Downloader{Source: half, Dir: d.Dir}).Fetch(context.Background(), sum, 3000)
				require.Error(t, err)
			}
			s.hook = func(w http.ResponseWriter, r *http.Request) bool { c.answer(w, r); return true }
			_, err := d.Fetch(context.Background(), sum, 3000)
			require.Equal(t, c.code, code(err), "%v", err)
			_, err = os.Stat(filepath.Join(d.Dir, sum))
			require.ErrorIs(t, err, os.ErrNotExist, "nothing unverified has the blob's name")
			_, err = os.Stat(filepath.Join(d.Dir, sum+".journal"))
			require.Equal(t, c.stays, err == nil, "what was there: %v", err)
			// Afterwards an honest server is enough.
			s.hook = nil
			path, err := d.Fetch(context.Background(), sum, 3000)
			require.NoError(t, err)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
		})
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 1<<10)); err != nil {
			return
		}
	}
}

// hijack announces 3000 bytes and closes the connection after a few.
func hijack(w http.ResponseWriter) {
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = rw.WriteString("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1500-2999/3000\r\nContent-Length: 1500\r\n\r\nabc")
	_ = rw.Flush()
	_ = conn.Close()
}

func TestFetchBudget(t *testing.T) {
	t.Parallel()
	data, sum := blob(200_000)
	m := newMem(data, sum)
	spent := errors.New("used up until tomorrow")
	left := 100_000
	d := &Downloader{Source: m, Dir: t.TempDir(), Take: func(n int) error {
		if n > left {
			return spent
		}
		left -= n
		return nil
	}}
	_, err := d.Fetch(context.Background(), sum, int64(len(data)))
	require.Equal(t, CodeFetchBudget, code(err))
	require.ErrorIs(t, err, spent)
	require.LessOrEqual(t, m.given, 100_000)
	left = 200_000
	_, err = d.Fetch(context.Background(), sum, int64(len(data)))
	require.NoError(t, err)
	require.Equal(t, 200_000, m.given, "it went on where it was")
}

// dripping gives a few bytes each second, or none.
type dripping struct {
	ctx  context.Context
	rate int
}

func (d dripping) Read(p []byte) (int, error) {
	select {
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	case <-time.After(time.Second):
	}
	if d.rate == 0 {
		<-d.ctx.Done()
		return 0, d.ctx.Err()
	}
	return min(d.rate, len(p)), nil
}

type drip struct{ rate int }

func (d drip) Get(ctx context.Context, q Request) (*Body, error) {
	return &Body{ReadCloser: io.NopCloser(dripping{ctx, d.rate}), Size: -1}, nil
}

// A body that comes too slowly, or not at all, is given up within two minutes; 2 kbit/s is not too slow.
func TestSlow(t *testing.T) {
	for _, c := range []struct {
		rate int
		slow bool
	}{{0, true}, {1, true}, {49, true}, {60, false}, {250, false}} {
		t.Run(strconv.Itoa(c.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, sum := blob(1 << 16)
				start := time.Now()
				d := &Downloader{FS: crashfs.New(1), Source: drip{c.rate}, Dir: "/stage"}
				_, err := d.Fetch(context.Background(), sum, 1<<16)
				if c.slow {
					require.Equal(t, CodeFetchSlow, code(err), "%v", err)
					require.Less(t, time.Since(start), 2*time.Minute)
				} else {
					require.Equal(t, CodeFetchSize, code(err), "it came to its end: %v", err)
				}
				_, _, err = readAll(context.Background(), drip{c.rate}, Request{Name: "x", Max: 1 << 16}, 0)
				require.Equal(t, c.slow, errors.Is(err, errSlow), "%v", err)
			})
		})
	}
}

// A power cut at every operation, and again at every operation of the second try: what is there is the blob or nothing, and the
// bytes on the link stay below twice the blob.
func TestFetchPowerCuts(t *testing.T) {
	t.Parallel()
	data, sum := blob(40 << 10)
	const dir, step = "/state/stage", 4 << 10
	runs := 0
	attempt := func(fs durable.FS, m *mem) error {
		d := &Downloader{FS: fs, Source: m, Dir: dir, step: step}
		path, err := d.Fetch(context.Background(), sum, int64(len(data)))
		if err != nil {
			return err
		}
		got, err := durable.Read(fs, path, 1<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
		return nil
	}
	whole := func(fs durable.FS) {
		got, err := durable.Read(fs, dir+"/"+sum, 1<<20)
		if err == nil {
			require.True(t, bytes.Equal(data, got), "under the blob's name lies nothing else")
		}
	}
	second := 29 // of the second cuts, every so many
	if os.Getenv("HOMEWARD_CAMPAIGN") != "" {
		second = 1
	}
	for _, mode := range crashfs.Modes {
		for n := 1; ; n++ {
			fs := crashfs.New(uint64(n))
			fs.CrashAt(n)
			m := newMem(data, sum)
			if attempt(fs, m) == nil {
				require.Greater(t, n, 40)
				break
			}
			once := m.given
			after := fs.Reboot(mode)
			whole(after)
			for k := 1 + n%second; ; k += second {
				fs := after.Clone(uint64(k))
				fs.CrashAt(k)
				m := newMem(data, sum)
				m.given = once
				runs++
				err := attempt(fs, m)
				if err == nil {
					break
				}
				fs = fs.Reboot(mode)
				whole(fs)
				require.NoError(t, attempt(fs, m))
				require.LessOrEqual(t, m.given, 2*len(data), "%s: cuts at %d and %d", mode, n, k)
			}
		}
	}
	t.Logf("%d runs with two power cuts", runs)
}

// Many cuts of the power in one download: each piece is fetched at most once and a half on average.
func TestFetchManyPowerCuts(t *testing.T) {
	t.Parallel()
	data, sum := blob(256 << 10)
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		fs, m, cuts := crashfs.New(seed), newMem(data, sum), 0
		for {
			d := &Downloader{FS: fs, Source: m, Dir: "/stage", step: 8 << 10}
			fs.CrashAt(20 + r.IntN(60))
			_, err := d.Fetch(context.Background(), sum, int64(len(data)))
			if err == nil {
				break
			}
			fs = fs.Reboot(crashfs.Modes[r.IntN(len(crashfs.Modes))])
			cuts++
			require.Less(t, cuts, 1000, "no progress")
		}
		require.LessOrEqual(t, m.given, 2*len(data), "%d cuts", cuts)
	}
}

// A disk that fails or is full at each operation: an error with its code, and later all is well.
func TestFetchDiskFails(t *testing.T) {
	t.Parallel()
	data, sum := blob(20 << 10)
	for name, c := range map[string]struct {
		err  error
		code string
	}{"EIO": {errno("input/output error"), CodeFetchStore}, "ENOSPC": {noSpace, CodeFetchSpace}} {
		for n := 1; ; n++ {
			fs := crashfs.New(uint64(n))
			fs.Fail(n, c.err)
			m := newMem(data, sum)
			d := &Downloader{FS: fs, Source: m, Dir: "/state/stage", step: 4 << 10}
			_, err := d.Fetch(context.Background(), sum, int64(len(data)))
			if fs.Ops() < n {
				break
			}
			if err != nil {
				require.Equal(t, c.code, code(err), "%s at %d: %v", name, n, err)
			}
			path, err := d.Fetch(context.Background(), sum, int64(len(data)))
			require.NoError(t, err, "%s at %d", name, n)
			got, err := durable.Read(fs, path, 1<<20)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
		}
	}
	fs := crashfs.New(1)
	fs.SetSpace(10 << 10)
	_, err := (&Downloader{FS: fs, Source: newMem(data, sum), Dir: "/stage"}).Fetch(context.Background(), sum, int64(len(data)))
	require.Equal(t, CodeFetchSpace, code(err), "%v", err)
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status        int
		after, date   string
		least, utmost time.Duration
	}{
		"seconds":  {503, "120", "", 110 * time.Second, 2 * time.Minute},
		"none":     {429, "", "", 50 * time.Second, time.Minute},
		"a date":   {429, "Mon, 30 Nov 2026 12:10:00 GMT", "Mon, 30 Nov 2026 12:00:00 GMT", 9 * time.Minute, 10 * time.Minute},
		"the past": {429, "Mon, 30 Nov 2026 11:00:00 GMT", "Mon, 30 Nov 2026 12:00:00 GMT", 0, 0},
		"absurd":   {503, "2000000000", "", 59 * time.Minute, time.Hour},
		"nonsense": {503, "soon", "", 50 * time.Second, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			s := f.serve()
			s.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if c.after != "" {
					w.Header().Set("Retry-After", c.after)
				}
				if c.date != "" {
					w.Header().Set("Date", c.date)
				}
				w.WriteHeader(c.status)
				return true
			}
			r := f.gateway(f.web(s)).open()
			err := r.Refresh(context.Background())
			require.Equal(t, CodeUnreachable, code(err))
			wait := RetryAfter(err)
			require.LessOrEqual(t, c.least, wait)
			require.LessOrEqual(t, wait, c.utmost)
			s.reset()
			s.hook = nil
			err = r.Refresh(context.Background())
			requests, _ := s.seen()
			if c.utmost > 0 {
				require.Error(t, err)
				require.Empty(t, requests, "the server is left alone")
			} else {
				require.NoError(t, err)
			}
		})
	}
	require.Zero(t, RetryAfter(errors.New("else")))
}

// TestUrgent: who cannot wait asks a busy server again after a minute, and only then.
func TestUrgent(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	s := f.serve()
	s.hook = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "1800")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	source := f.web(s)
	r := f.gateway(source).open()
	require.Error(t, r.Refresh(context.Background()))
	s.reset()
	s.hook = nil
	var busy *BusyError
	require.ErrorAs(t, r.Refresh(Urgent(context.Background())), &busy)
	requests, _ := s.seen()
	require.Empty(t, requests)
	source.(*web).busy.since = time.Now().Add(-61 * time.Second)
	require.ErrorAs(t, r.Refresh(context.Background()), &busy)
	require.NoError(t, r.Refresh(Urgent(context.Background())))
	require.NoError(t, r.Refresh(context.Background()), "it is not busy any more")
}

func TestHTTPSAddress(t *testing.T) {
	for base, want := range map[string]string{
		"https://fleet.example/f":      "",
		"https://fleet.example/f/":     "",
		"http://fleet.example/f":       "is not https://",
		"https://u:secret@fleet/f":     "has a user in it",
		"ftp://fleet/f":                "https://HOST/FOLDER is wanted",
		"https://fleet/f?x=1":          "https://HOST/FOLDER is wanted",
		"/srv/fleet":                   "https://HOST/FOLDER is wanted",
		"https://fleet.example/\x00\n": "address",
	} {
		_, err := HTTPS(base, HTTPOptions{})
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "secret")
	}
}

// A server whose certificate nobody vouches for, one that hangs up, and one that is not there.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	s := f.serve()
	for name, base := range map[string]string{"nothing listens": "http://" + addr, "plain HTTP behind https": "https://" + s.Listener.Addr().String()} {
		src, err := HTTPS(base, HTTPOptions{Plain: true, Wait: time.Second})
		require.NoError(t, err)
		require.Equal(t, CodeUnreachable, code(f.gateway(src).open().Refresh(context.Background())), name)
	}
	require.Equal(t, CodeUnreachable, code(f.gateway(Folder("/nonexistent/stick")).open().Refresh(context.Background())), "a stick that is not plugged in")
}

func TestCheckName(t *testing.T) {
	for _, bad := range []string{"", "/x", "x/", "a//b", ".", "..", "a/../b", "a\\b", "a?b", "a#b", "a\x00"} {
		require.Error(t, checkName(bad), bad)
	}
	require.NoError(t, checkName(fmt.Sprintf("releases/p1/%064d.141.json", 1)))
}
