package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
)

// web is MQTT over a websocket (MQTT 3.1.1 §6): a stream, cut anyhow into binary messages.
// One goroutine reads, one writes; the guard sees to the latter.
type web struct {
	*websocket.Conn
	message io.Reader // being read; nil between two
}

func (w *web) Read(p []byte) (int, error) {
	for {
		if w.message == nil {
			kind, message, err := w.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("the broker sent a websocket message that is not binary")
			}
			w.message = message
		}
		n, err := w.message.Read(p)
		if errors.Is(err, io.EOF) {
			w.message, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (w *web) Write(p []byte) (int, error) {
	if err := w.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *web) SetDeadline(t time.Time) error {
	return errors.Join(w.SetReadDeadline(t), w.SetWriteDeadline(t))
}

// webRefusal is an answer that does not open a websocket.
type webRefusal struct{ status int }

func (r *webRefusal) Error() string {
	return fmt.Sprintf("no websocket: the server answers %d %s", r.status, http.StatusText(r.status))
}

func openWeb(ctx context.Context, addr *url.URL, conf *tls.Config, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (net.Conn, error) {
	dialer := websocket.Dialer{NetDialContext: dial, Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, Subprotocols: []string{"mqtt"}}
	conn, resp, err := dialer.DialContext(ctx, addr.String(), nil)
	switch {
	case errors.Is(err, websocket.ErrBadHandshake) && resp != nil:
		return nil, &webRefusal{resp.StatusCode}
	case err != nil:
		return nil, err
	}
	return &web{Conn: conn}, nil
}
