package cli

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestFarewell: when the site ends, a client of MQTT 3.1.1 sees its connection end, and one of MQTT 5 is told why.
func TestFarewell(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, c := range []struct {
		name    string
		connect []byte
		kind    byte // of the last packet; 0: there is none
	}{
		{"3.1.1", []byte{0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 1, 'a'}, 0},
		{"5", []byte{0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 0, 0, 1, 'a'}, 0xE0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			b, err := serveBroker(l, nil)
			require.NoError(t, err)
			conn, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			_, err = conn.Write(c.connect)
			require.NoError(t, err)
			head := make([]byte, 2)
			_, err = io.ReadFull(conn, head)
			require.NoError(t, err)
			require.Equal(t, byte(0x20), head[0], "CONNACK")
			_, err = io.CopyN(io.Discard, conn, int64(head[1]))
			require.NoError(t, err)
			require.NoError(t, b.Close())
			rest, _ := io.ReadAll(conn) // a reset is an end, too
			if c.kind == 0 {
				require.Empty(t, rest)
			} else {
				require.NotEmpty(t, rest)
				require.Equal(t, c.kind, rest[0])
			}
		})
	}
}
