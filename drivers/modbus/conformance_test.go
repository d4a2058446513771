package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/drivertest"
)

// onWire is Options whose sensor lives in the wire's time. The wire is the bench's present one.
type onWire struct {
	*Options
	wire **wire
}

func (o onWire) Open(_ context.Context, env drivers.Env) (drivers.Sensor, error) {
	s, err := o.open(env, (*o.wire).now)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// healthy is a unit 17 whose registers hold their own address; bits of even address are set.
func (w *wire) healthy(end time.Time, frame []byte) {
	if frame[0] != 17 {
		return
	}
	address, count := binary.BigEndian.Uint16(frame[2:]), binary.BigEndian.Uint16(frame[4:])
	if f := frame[1]; f == readCoils || f == readDiscrete {
		n := (int(count) + 7) / 8
		reply := []byte{17, f, byte(n)}
		for range n {
			reply = append(reply, 0x55<<(address%2))
		}
		w.deliver(end.Add(3*time.Millisecond), appendCRC(reply))
		return
	}
	values := make([]uint16, count)
	for i := range values {
		values[i] = address + uint16(i)
	}
	w.deliver(end.Add(3*time.Millisecond), registers(17, frame[1], values...))
}

// TestConformance: two requests of registers and one of coils, over an adapter that hands bytes over one by one
// or in bursts. Pulled is either the instrument, which is silence, or the adapter, which is a port that is gone.
func TestConformance(t *testing.T) {
	for _, pulled := range []string{"instrument", "adapter"} {
		for _, burst := range []time.Duration{0, 16 * time.Millisecond} {
			t.Run(pulled+" "+burst.String(), func(t *testing.T) {
				var now *wire
				drivertest.Run(t, drivertest.Case{
					Anonymous: true,
					Options: func() drivers.Options {
						unit := 17
						return onWire{&Options{Port: "/dev/ttyS0", UnitID: &unit, Chans: []Channel{
							channel("flow", "holding", 5, "int16"),
							channel("energy", "input", 16, "uint32"),
							channel("pump", "coil", 3, ""),
							channel("return", "holding", 7, "uint16"),
						}}, &now}
					},
					Bench: func(*testing.T) *drivertest.Bench {
						w := newWire("19200-8E1")
						w.burst, w.onWrite, now = burst, w.healthy, w
						steps := new(drivertest.Steps)
						b := &drivertest.Bench{
							Env:    drivers.Env{Port: steps.Port(w), Timeout: timeout},
							Steps:  steps,
							Unplug: func() { w.onWrite = nil },
							Plug:   func() { w.onWrite = w.healthy },
						}
						if pulled == "adapter" {
							b.Unplug = func() { w.err = fmt.Errorf("hostbus: %w", drivers.ErrGone) }
							b.Plug = func() { w.err = nil }
						}
						return b
					},
				})
			})
		}
	}
}

// TestWireIsUsed: the conformance bench answers what was asked, so that its values are those of the addresses.
func TestWireIsUsed(t *testing.T) {
	w := newWire("19200-8E1")
	w.onWrite = w.healthy
	unit := 17
	s := w.open(t, new(drivers.Shared), &Options{UnitID: &unit, Chans: []Channel{
		channel("a", "holding", 5, "uint16"), channel("b", "coil", 4, ""), channel("c", "coil", 5, ""), channel("d", "discrete", 7, ""),
	}})
	got, err := s.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{{Channel: "a", Value: 5}, {Channel: "b", Value: 1}, {Channel: "c"}, {Channel: "d"}}, got)
}
