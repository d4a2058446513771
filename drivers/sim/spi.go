package sim

import (
	"fmt"

	"periph.io/x/conn/v3"
	"periph.io/x/conn/v3/spi"
)

// spiConn is a connection to one device; see [spiPort].
type spiConn struct{ port *spiPort }

func (c *spiConn) String() string      { return c.port.String() }
func (c *spiConn) Duplex() conn.Duplex { return conn.Full }

// Tx implements [conn.Conn]: w and r have the same length, or one of them is empty.
func (c *spiConn) Tx(w, r []byte) error {
	return c.TxPackets([]spi.Packet{{W: w, R: r}})
}

// TxPackets implements [spi.Conn]. Packets with KeepCS are one transaction with the next.
func (c *spiConn) TxPackets(packets []spi.Packet) error {
	var (
		out []byte
		in  [][]byte // where the answer goes, from off on
		off []int
	)
	for i, p := range packets {
		n := max(len(p.W), len(p.R))
		if len(p.W) != 0 && len(p.R) != 0 && len(p.W) != len(p.R) {
			return fmt.Errorf("sim: spi %s: %d bytes out and %d in: both ways are clocked at once, want the same length or one of them empty", c.port.name, len(p.W), len(p.R))
		}
		if p.BitsPerWord != 0 && p.BitsPerWord != 8 {
			return fmt.Errorf("sim: spi %s: words of %d bits: want 8", c.port.name, p.BitsPerWord)
		}
		in, off = append(in, p.R), append(off, len(out))
		out = append(append(out, p.W...), make([]byte, n-len(p.W))...)
		if p.KeepCS && i < len(packets)-1 {
			continue
		}
		if len(out) > 0 {
			got, err := c.port.tx(0, out, len(out))
			if err != nil {
				return err
			}
			for j, r := range in {
				copy(r, got[off[j]:])
			}
		}
		out, in, off = nil, nil, nil
	}
	return nil
}
