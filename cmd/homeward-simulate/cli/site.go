package cli

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"homeward/drivers/sim/site"
)

//go:embed demo.yaml
var demoYAML []byte

// demoSite is the demo's site: instruments, clock and broker, and the account of what they served and it got.
type demoSite struct {
	*site.Running
	channels []string
	topics   string // B of the home's topics
	acc      *account
}

// openSite starts everything; dir is for its socket and links.
func openSite(dir string, log *slog.Logger) (*demoSite, error) {
	parsed, err := site.Parse("demo.yaml", demoYAML)
	if err != nil {
		return nil, err
	}
	g := parsed.Gateway
	s := &demoSite{
		channels: parsed.Channels(), acc: newAccount(parsed.Tolerances()),
		topics: fmt.Sprintf("homeward/%s/%s/%s", g.Organization, g.Project, g.ID),
	}
	got := func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) { s.acc.receive(p.Payload) }
	s.Running, err = parsed.Open(site.Options{Dir: dir, Log: log, Served: s.acc.serve, Broker: func(l net.Listener) (io.Closer, error) {
		return serveBroker(l, func(b *mochi.Server) error {
			return errors.Join(b.Subscribe(s.topics+"/readings", 1, got), b.Subscribe(s.topics+"/alarms", 2, got))
		})
	}})
	return s, err
}

// config is the gateway's configuration on this site.
func (s *demoSite) config(state, listen string, disabled bool) string {
	return s.Config(state, disabled) + fmt.Sprintf(`publish:
  format: rows
  max_bytes: 1024
  max_age: 2s
  alarms:
    - {channel: tank/level, above: 2.9}
operations: {per_month: 4000000}
buffer: {max_bytes: 64MB, keep_free: 0, flush: 1s}
status: {listen: %q}
`, listen)
}
