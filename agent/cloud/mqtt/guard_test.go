package mqtt

import (
	"bytes"
	"io"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/stretchr/testify/require"
)

// FuzzGuard: however a stream is cut, the guard says the same of it; and what it lets through, the library
// takes without a panic, in packets of bounded size.
func FuzzGuard(f *testing.F) {
	for _, seed := range []string{
		"\x20\x02\x00\x00\x90\x05\x00\x01\x01\x01\x01\x32\x07\x00\x03a/b\x00\x09\x40\x02\x00\x02\xd0\x00",
		"\x30\xff\xff\xff\x7f", "\x20\x02\x00\x00\x30\xff\xff\xff\xff", "\x20\x02\x00\x00\x90\x06\x00\x01\x01\x01\x01\x01",
		"\x20\x02\x00\x00\x32\x04\xff\xffab", "HTTP/1.1 400 Bad Request\r\n\r\n", "\x20\x82\x00\x00\x00",
	} {
		f.Add([]byte(seed), byte(1))
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut byte) {
		whole, pieces := &guard{topics: 3, most: maxPayload}, &guard{topics: 3, most: maxPayload}
		err := whole.follow(stream)
		var perr error
		size := int(cut)%7 + 1
		for rest := stream; len(rest) > 0 && perr == nil; rest = rest[min(size, len(rest)):] {
			perr = pieces.follow(rest[:min(size, len(rest))])
		}
		require.Equal(t, err == nil, perr == nil, "%v, in pieces %v", err, perr)
		if err != nil {
			return
		}
		for r := io.Reader(bytes.NewReader(stream)); ; {
			packet, err := packets.ReadPacket(r)
			if err != nil {
				return
			}
			if p, ok := packet.(*packets.PublishPacket); ok {
				require.LessOrEqual(t, len(p.Payload), maxPayload)
			}
		}
	})
}
