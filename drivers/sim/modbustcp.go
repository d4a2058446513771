package sim

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

// ServeTCP answers Modbus TCP with the same units, registers and faults as [Modbus.Serve], up to 16
// clients at once, until ctx ends. A unit that is not there is exception 0x0B, as from a gateway. It closes l, and
// returns with nothing of its own still running.
func (d *Modbus) ServeTCP(ctx context.Context, l net.Listener) error {
	return serveTCP(ctx, l, func(ctx context.Context, c net.Conn) {
		ctx, cancel := context.WithCancel(ctx)
		var late sync.WaitGroup
		defer late.Wait()
		defer cancel()
		var sending sync.Mutex
		for {
			// "MODBUS Messaging on TCP/IP Implementation Guide V1.0b" §3.1.3: the MBAP header.
			var head [7]byte
			if _, err := io.ReadFull(c, head[:]); err != nil {
				return
			}
			n := int(binary.BigEndian.Uint16(head[4:]))
			if head[2] != 0 || head[3] != 0 || n < 2 || n > 254 {
				return // out of step
			}
			req := make([]byte, n)
			req[0] = head[6]
			if _, err := io.ReadFull(c, req[1:]); err != nil {
				return
			}
			begin := time.Now()
			reply, f := d.answerTCP(head, req)
			if reply == nil {
				continue
			}
			send := func() error {
				if err := pause(ctx, time.Until(begin.Add(d.Delay+f.Late))); err != nil {
					return err
				}
				sending.Lock()
				defer sending.Unlock()
				_, err := c.Write(reply)
				return err
			}
			if f.Late > 0 {
				late.Go(func() { _ = send() })
			} else if send() != nil {
				return
			}
		}
	})
}

// answerTCP makes the reply to a request, unit and function first, nil for none.
func (d *Modbus) answerTCP(head [7]byte, req []byte) ([]byte, ModbusFault) {
	var reply []byte
	var f ModbusFault
	d.mu.Lock()
	known := d.units[req[0]] != nil
	d.mu.Unlock()
	switch {
	case !known:
		reply = []byte{req[0], req[1] | 0x80, 0x0B}
	case req[1] >= byte(Coils) && req[1] <= byte(Input) && len(req) != 6:
		reply = []byte{req[0], req[1] | 0x80, 0x03}
	default:
		if reply, f = d.respond(req); reply == nil {
			return nil, f
		}
	}
	out := []byte{head[0], head[1], 0, 0}
	if f.Foreign {
		out[1] ^= 0x40
	}
	if f.Corrupt {
		out[3] = 1
	}
	out = binary.BigEndian.AppendUint16(out, uint16(len(reply)))
	return f.onWire(append(out, reply...)), f
}
