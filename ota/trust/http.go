package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// HTTPOptions of a source on a web server; the zero value is good.
type HTTPOptions struct {
	Plain     bool              // http:// too, where anybody on the way can hold news back (not forge them)
	TLS       *tls.Config       // nil: the system's authorities
	Transport http.RoundTripper // nil: one of its own, with the environment's proxy
	Agent     string            // User-Agent; "": homeward
	Wait      time.Duration     // until a connection stands, and until an answer begins; 0: 30 s
}

// Bounds of what a server may make a gateway do.
const (
	maxRedirects  = 3
	maxRetryAfter = time.Hour
	urgentAfter   = time.Minute // for those who cannot wait: see Urgent
	maxETag       = 200
	maxDiscard    = 1 << 10
	defaultWait   = 30 * time.Second
)

// BusyError is a server that says when to come back (429, 503). Until then the source asks it nothing, but for [Urgent].
type BusyError struct {
	Status int
	Until  time.Time // at most an hour ahead
	since  time.Time
}

type urgent struct{}

// Urgent is for what cannot wait as long as a busy server likes, such as a trial with a deadline: it is asked again a minute after it
// said so, if not before.
func Urgent(ctx context.Context) context.Context { return context.WithValue(ctx, urgent{}, true) }

// Error tells the status and the time.
func (e *BusyError) Error() string {
	return fmt.Sprintf("the server is busy (status %d): not before %s", e.Status, e.Until.UTC().Format(time.RFC3339))
}

// RetryAfter is how long a server asked to be left alone, 0 if it did not.
func RetryAfter(err error) time.Duration {
	var busy *BusyError
	if errors.As(err, &busy) {
		return max(0, time.Until(busy.Until))
	}
	return 0
}

var (
	errElsewhere = errors.New("leads to another host; the repository has to be where its address says (a captive portal?)")
	errRange     = errors.New("another range than was asked for")
)

type web struct {
	base     string
	agent    string
	client   *http.Client
	patience time.Duration

	mu   sync.Mutex
	busy *BusyError
}

// HTTPS is a repository on a web server: base is its folder's address.
func HTTPS(base string, o HTTPOptions) (Source, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, fmt.Errorf("trust: the repository's address: %w", err)
	case u.User != nil:
		return nil, fmt.Errorf("trust: the repository's address %s has a user in it; it would end in logs: leave it out", u.Redacted())
	case u.Scheme == "http" && !o.Plain:
		return nil, fmt.Errorf("trust: the repository's address %s is not https://, which is wanted unless plain HTTP is allowed", base)
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("trust: the repository's address %q; https://HOST/FOLDER is wanted", base)
	}
	if o.Wait <= 0 {
		o.Wait = defaultWait
	}
	if o.Agent == "" {
		o.Agent = "homeward"
	}
	if o.Transport == nil {
		dialer := &net.Dialer{Timeout: o.Wait}
		o.Transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        o.TLS,
			TLSHandshakeTimeout:    o.Wait,
			ResponseHeaderTimeout:  o.Wait,
			IdleConnTimeout:        10 * time.Second,
			MaxIdleConns:           2,
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true, // lengths are of what was signed; a small body that grows is not wanted
		}
	}
	client := &http.Client{Transport: o.Transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		safer := u.Scheme == "http" && next.URL.Scheme == "https" && next.URL.Hostname() == u.Hostname()
		if !safer && (next.URL.Host != u.Host || next.URL.Scheme != u.Scheme) {
			return errElsewhere
		}
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirections", maxRedirects)
		}
		return nil
	}}
	return &web{base: strings.TrimSuffix(u.String(), "/") + "/", agent: o.Agent, client: client, patience: o.Wait}, nil
}

// Get asks for a file; its name is escaped already.
func (w *web) Get(ctx context.Context, q Request) (*Body, error) {
	if err := w.free(ctx); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+q.Name, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", w.agent)
	if q.IfNoneMatch != "" {
		req.Header.Set("If-None-Match", q.IfNoneMatch)
	}
	if q.Offset > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(q.Offset, 10)+"-")
		if q.IfRange != "" && !strings.HasPrefix(q.IfRange, "W/") {
			req.Header.Set("If-Range", q.IfRange)
		}
	}
	resp, err := w.client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	body, err := w.answer(resp, q)
	if err != nil {
		w.discard(resp)
		return nil, err
	}
	return body, nil
}

// discard ends an answer of which nothing is wanted. A small one is read to its end, since the connection can then be used again:
// another costs some kilobytes and, far away, a second.
func (w *web) discard(resp *http.Response) {
	if resp.ContentLength >= 0 && resp.ContentLength <= maxDiscard {
		late := time.AfterFunc(w.patience, func() { _ = resp.Body.Close() })
		_, _ = io.Copy(io.Discard, resp.Body)
		late.Stop()
	}
	_ = resp.Body.Close() // as above
}

func (w *web) answer(resp *http.Response, q Request) (*Body, error) {
	body := &Body{ReadCloser: resp.Body, Size: resp.ContentLength, ETag: resp.Header.Get("ETag")}
	if len(body.ETag) > maxETag {
		body.ETag = ""
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		var err error
		if body.Offset, body.Size, err = contentRange(resp.Header.Get("Content-Range")); err != nil {
			return nil, err
		}
		if q.Offset == 0 {
			return nil, fmt.Errorf("%w: status 206 for the whole file", errRange)
		}
	case http.StatusNotModified:
		if q.IfNoneMatch == "" {
			return nil, errors.New("the server says not modified, though nothing was said to be there")
		}
		return nil, ErrNotModified
	case http.StatusNotFound:
		return nil, ErrNotFound
	case http.StatusRequestedRangeNotSatisfiable:
		return nil, fmt.Errorf("%w: the server has nothing from byte %d on", errRange, q.Offset)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return nil, w.wait(resp)
	default:
		return nil, fmt.Errorf("the server answers %q", resp.Status)
	}
	if kind := resp.Header.Get("Content-Type"); strings.HasPrefix(kind, "text/html") {
		return nil, fmt.Errorf("a web page (%s) comes in place of the file (a captive portal?)", kind)
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, fmt.Errorf("the server sends Content-Encoding %s, which was not asked for", enc)
	}
	if q.Max > 0 && body.Size > q.Max {
		return nil, fmt.Errorf("%w: the server announces %d bytes; at most %d are wanted", errTooLong, body.Size, q.Max)
	}
	return body, nil
}

// contentRange reads "bytes FIRST-LAST/SIZE"; the size is -1 for "*".
func contentRange(s string) (first, size int64, err error) {
	bad := fmt.Errorf("%w: Content-Range %.80q", errRange, s)
	rest, ok := strings.CutPrefix(s, "bytes ")
	span, total, ok2 := strings.Cut(rest, "/")
	a, b, ok3 := strings.Cut(span, "-")
	first, err = strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil || err2 != nil || first < 0 || last < first {
		return 0, 0, bad
	}
	if total == "*" {
		return first, -1, nil
	}
	if size, err = strconv.ParseInt(total, 10, 64); err != nil || size != last+1 {
		return 0, 0, bad // everything to the end was asked for
	}
	return first, size, nil
}

// free is an error while the server wants to be left alone.
func (w *web) free(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.busy != nil && now.Before(w.busy.Until) && (ctx.Value(urgent{}) == nil || now.Before(w.busy.since.Add(urgentAfter))) {
		return w.busy
	}
	w.busy = nil
	return nil
}

// wait reads Retry-After: seconds or a date.
func (w *web) wait(resp *http.Response) error {
	after := time.Minute
	now := time.Now()
	if s := resp.Header.Get("Retry-After"); s != "" {
		if n, err := strconv.ParseInt(s, 10, 32); err == nil && n >= 0 {
			after = time.Duration(n) * time.Second
		} else if t, err := http.ParseTime(s); err == nil {
			// By the server's own clock, since this one may be wrong.
			if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
				after = t.Sub(date)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = &BusyError{Status: resp.StatusCode, Until: now.Add(min(max(after, 0), maxRetryAfter)), since: now}
	return w.busy
}

var errTooLong = errors.New("too long")
