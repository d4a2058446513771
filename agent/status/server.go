package status

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed page.html
var page []byte

// Server answers on the listeners it is given until it is closed.
type Server struct {
	http *http.Server
	done sync.WaitGroup
}

// Handler is the read-only view: the page, /status.json and /metrics.
func Handler(current func() Status) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'")
		_, _ = w.Write(page)
	})
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, current()) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		WriteMetrics(w, current())
	})
	return mux
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the caller has gone: nobody to tell
}

// Serve starts answering on l. The log may be nil. Whoever can reach l may send what he likes, as slowly as he likes: each
// connection takes one request without a body, and is bounded by [limits]; but an answer may take its time, as a check does.
func Serve(l net.Listener, h http.Handler, log *slog.Logger) *Server {
	return serve(l, h, log, limitsOf(l))
}

func serve(l net.Listener, h http.Handler, log *slog.Logger, most limits) *Server {
	s := &Server{http: &http.Server{
		Handler:           bodiless(h),
		ReadHeaderTimeout: most.header,
		MaxHeaderBytes:    8 << 10,
	}}
	s.http.SetKeepAlivesEnabled(false) // nobody keeps a place that he does not use
	if log != nil {
		s.http.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	}
	l = limit(l, most)
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) && log != nil {
			log.Error("status listener ended", "address", l.Addr().String(), "error", err)
		}
	}()
	return s
}

// bodiless refuses a request with a body: none here has a use for one, and its end might never come.
func bodiless(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			h.ServeHTTP(w, r)
			return
		}
		// The server reads on a little, so that the answer is not lost to a reset.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyBound))
		http.Error(w, "homeward takes no request with a body", http.StatusRequestEntityTooLarge)
	})
}

// Close ends it at once and waits.
func (s *Server) Close() {
	_ = s.http.Close()
	s.done.Wait()
}

// ListenUnix makes the gateway's socket, mode 0660, removing one that a killed
// agent left behind. It fails when another process answers there.
func ListenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("status: %s answers already: another homeward runs with this state folder", path)
	} else if info, serr := os.Lstat(path); errors.Is(err, syscall.ECONNREFUSED) && serr == nil && info.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("status: %w", err)
		}
	}
	old := syscall.Umask(0o117) // the mode must hold from the first moment
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	return l, nil
}

// Local wraps h for a TCP listener: it refuses requests that reach it under a foreign
// name, so that a web page open in an installer's browser cannot read the gateway
// by pointing its own name at this address (DNS rebinding).
func Local(h http.Handler, listen string) http.Handler {
	host, _, _ := net.SplitHostPort(listen)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			name = r.Host
		}
		_, perr := netip.ParseAddr(trimBrackets(name))
		if perr != nil && name != "localhost" && name != host {
			http.Error(w, "homeward answers to an address or localhost, not to "+name, http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func trimBrackets(s string) string {
	if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
		return s[1 : len(s)-1]
	}
	return s
}

// Client speaks to a running agent over its socket.
func Client(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
}

// Get fetches path from the agent behind socket into v. It fails with an error for which
// errors.Is(err, ErrNotRunning) holds when nobody answers there.
func Get(ctx context.Context, socket, path string, v any) error {
	return request(ctx, http.MethodGet, socket, path, v)
}

// Post is the same for what the agent is to do. What it answers in words when it does not is the error.
func Post(ctx context.Context, socket, path string, v any) error {
	return request(ctx, http.MethodPost, socket, path, v)
}

// maxWords is how much of an answer in words is taken.
const maxWords = 4096

func request(ctx context.Context, method, socket, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://homeward"+path, nil)
	if err != nil {
		return err
	}
	resp, err := Client(socket).Do(req)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%w (no answer at %s)", ErrNotRunning, socket)
		}
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%s may not be opened: run this as the user that the gateway runs as (sudo -u homeward …), or as root", socket)
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the agent stopped while it was asked")
		}
		return fmt.Errorf("status: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		return json.NewDecoder(resp.Body).Decode(v)
	case method == http.MethodPost && resp.StatusCode != http.StatusNotFound:
		words, _ := io.ReadAll(io.LimitReader(resp.Body, maxWords))
		return errors.New(strings.TrimSpace(string(words)))
	}
	return fmt.Errorf("status: the agent answered %s to %s", resp.Status, path)
}

// ErrNotRunning: no agent behind the socket.
var ErrNotRunning = errors.New("the gateway is not running")
