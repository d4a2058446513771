package drivertest_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/drivertest"
	"homeward/drivers/modbus"
)

// slave is a port with unit 7 behind it, whose input register n holds 100+n. It answers at once, and a frame
// is one write.
type slave struct {
	line    drivers.Line
	pending []byte
	gone    bool
}

func (s *slave) Line() drivers.Line { return s.line }
func (s *slave) Flush() error       { s.pending = nil; return nil }
func (s *slave) Close() error       { return nil }

func (s *slave) Read(p []byte, wait time.Duration) (int, error) {
	if s.gone {
		return 0, drivers.ErrGone
	}
	if len(s.pending) == 0 {
		time.Sleep(wait)
		return 0, drivers.ErrTimeout
	}
	n := copy(p, s.pending)
	s.pending = s.pending[n:]
	return n, nil
}

func (s *slave) Write(p []byte) error {
	if s.gone {
		return drivers.ErrGone
	}
	if len(p) != 8 || p[0] != 7 || p[1] != 4 || crc(p) != 0 {
		return nil // not for us
	}
	from, count := binary.BigEndian.Uint16(p[2:]), binary.BigEndian.Uint16(p[4:])
	answer := []byte{7, 4, byte(2 * count)}
	for i := range count {
		answer = binary.BigEndian.AppendUint16(answer, 100+from+i)
	}
	s.pending = append(s.pending, binary.LittleEndian.AppendUint16(answer, crc(answer))...)
	return nil
}

// crc is of "MODBUS over Serial Line V1.02" §6.2.1, bit by bit; 0 over a frame with a right one.
func crc(b []byte) uint16 {
	c := uint16(0xFFFF)
	for _, x := range b {
		c ^= uint16(x)
		for range 8 {
			low := c & 1
			if c >>= 1; low != 0 {
				c ^= 0xA001
			}
		}
	}
	return c
}

func TestModbus(t *testing.T) {
	drivertest.Run(t, drivertest.Case{
		Anonymous: true,
		Options: func() drivers.Options {
			unit, near, far := 7, 3, 900
			v := drivers.Unit("V")
			o := modbus.Factory.New("modbus").(*modbus.Options)
			o.Port, o.UnitID = "/dev/ttyUSB0", &unit
			o.Chans = []modbus.Channel{ // two requests
				{Channel: drivers.Channel{Name: "far"}, Register: "input", Address: &far, Type: "uint16"},
				{Channel: drivers.Channel{Name: "near", Unit: &v}, Register: "input", Address: &near, Type: "int16"},
			}
			return o
		},
		Bench: func(t *testing.T) *drivertest.Bench {
			line, err := drivers.ParseLine("19200-8E1")
			require.NoError(t, err)
			s, port := &drivertest.Steps{}, &slave{line: line}
			return &drivertest.Bench{
				Steps: s, Env: drivers.Env{Port: s.Port(port), Timeout: time.Second},
				Unplug: func() { port.gone, port.pending = true, nil },
				Plug:   func() { port.gone = false },
			}
		},
	})
}
