package cli

import (
	"errors"
	"io"
	"log/slog"
	"net"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// serveBroker runs an MQTT broker behind l that lets everybody in. It keeps its sessions in memory. more may subscribe before it serves.
func serveBroker(l net.Listener, more func(*mochi.Server) error) (io.Closer, error) {
	b := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	err := errors.Join(b.AddHook(new(auth.AllowHook), nil), b.AddListener(listeners.NewNet("site", l)))
	if err == nil && more != nil {
		err = more(b)
	}
	if err == nil {
		err = b.Serve()
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}
