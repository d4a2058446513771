package cli

import (
	"errors"
	"io"
	"log/slog"
	"net"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// noFarewell keeps DISCONNECT from clients of MQTT 3.1.1, which has none from a server: to them it is a wrong packet.
type noFarewell struct{ mochi.HookBase }

// ID implements [mochi.Hook].
func (*noFarewell) ID() string { return "no-farewell" }

// Provides implements [mochi.Hook].
func (*noFarewell) Provides(b byte) bool { return b == mochi.OnPacketEncode }

// OnPacketEncode implements [mochi.Hook]: a packet of kind 0 cannot be written, and the connection is closed all the same.
func (*noFarewell) OnPacketEncode(cl *mochi.Client, p packets.Packet) packets.Packet {
	if p.FixedHeader.Type == packets.Disconnect && cl.Properties.ProtocolVersion < 5 {
		p.FixedHeader.Type = packets.Reserved
	}
	return p
}

// serveBroker runs an MQTT broker behind l that lets everybody in. It keeps its sessions in memory. more may subscribe before it serves.
func serveBroker(l net.Listener, more func(*mochi.Server) error) (io.Closer, error) {
	b := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	err := errors.Join(b.AddHook(new(auth.AllowHook), nil), b.AddHook(new(noFarewell), nil), b.AddListener(listeners.NewNet("site", l)))
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
