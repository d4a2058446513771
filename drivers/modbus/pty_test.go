package modbus

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/hostbus"
	"homeward/drivers/sim"
)

// site is a simulated line on a real pseudo-terminal, with units 1 and 2 whose holding register
// i holds 100 × unit + i.
type site struct {
	line   *sim.SerialLine
	slaves *sim.Modbus
	port   drivers.Port
	shared *drivers.Shared
}

func newSite(t testing.TB, line string) *site {
	l, err := drivers.ParseLine(line)
	require.NoError(t, err)
	s := &site{slaves: new(sim.Modbus)}
	for unit := range byte(2) {
		regs := new(sim.ModbusMap)
		for i := range uint16(200) {
			regs.Set(sim.Holding, i, 100*uint16(unit+1)+i)
		}
		s.slaves.AddSlave(unit+1, regs)
	}
	s.line, err = sim.NewSerialLine(filepath.Join(t.TempDir(), "port"), l, s.slaves, nil)
	require.NoError(t, err)
	t.Cleanup(func() { s.line.Close() })
	s.open(t)
	return s
}

func (s *site) open(t testing.TB) {
	l, err := drivers.ParseLine(DefaultLine)
	require.NoError(t, err)
	s.port, err = hostbus.OpenSerial(s.line.Link(), l)
	require.NoError(t, err)
	s.shared = new(drivers.Shared)
	port := s.port
	t.Cleanup(func() { port.Close() })
}

func (s *site) sensor(t testing.TB, unit int, timeout time.Duration, addresses ...int) drivers.Sensor {
	o := &Options{Port: s.line.Link(), UnitID: &unit}
	for _, a := range addresses {
		o.Chans = append(o.Chans, channel("x", "holding", a, "uint16"))
	}
	require.Empty(t, o.Check())
	sensor, err := o.Open(context.Background(), drivers.Env{Port: s.port, Timeout: timeout, Shared: s.shared})
	require.NoError(t, err)
	return sensor
}

func value(t testing.TB, s drivers.Sensor) float64 {
	t.Helper()
	got, err := s.Read(context.Background())
	require.NoError(t, err)
	require.Len(t, got, 1)
	return got[0].Value
}

// patient is a time-out that a loaded machine keeps; short and medium are meant to pass, and
// within medium something else has come.
const (
	patient = 5 * time.Second
	medium  = 300 * time.Millisecond
	short   = 100 * time.Millisecond
)

// TestPtyFaults: each fault costs one error, and the next reading is right.
func TestPtyFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault sim.ModbusFault
		want  error
	}{
		"silent":    {sim.ModbusFault{Silent: true}, drivers.ErrTimeout},
		"truncated": {sim.ModbusFault{Truncate: 4}, drivers.ErrTimeout},
		"corrupt":   {sim.ModbusFault{Corrupt: true}, drivers.ErrCheck},
		"noise":     {sim.ModbusFault{Noise: []byte("noise")}, drivers.ErrCheck},
		"unit":      {sim.ModbusFault{Unit: 2}, drivers.ErrCheck},
		"function":  {sim.ModbusFault{Function: 4}, drivers.ErrCheck},
		"longer":    {sim.ModbusFault{Length: 2}, drivers.ErrCheck},
		"shorter":   {sim.ModbusFault{Length: -1}, drivers.ErrCheck},
		"exception": {sim.ModbusFault{Exception: 0x0B}, drivers.ErrRefuse},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "115200-8N1")
			hasty, calm := s.sensor(t, 1, medium, 5), s.sensor(t, 1, patient, 5)
			hasty.(*Sensor).timing.late = short
			require.Equal(t, 105.0, value(t, calm))
			c.fault.Times = 1
			s.slaves.SetFault(1, c.fault)
			got, err := hasty.Read(context.Background())
			require.ErrorIs(t, err, c.want)
			require.Empty(t, got)
			for held := (*drivers.HeldError)(nil); ; {
				got, err := calm.Read(context.Background())
				if errors.As(err, &held) {
					require.Equal(t, 1, s.slaves.Requests(1)-1, "nothing is sent while held")
					time.Sleep(held.After)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, []drivers.Reading{{Channel: "x", Value: 105}}, got)
				break
			}
		})
	}
}

// TestPtyLateReply: the reply for register 5 comes after its time; the next request, of equal
// shape, is for register 90.
func TestPtyLateReply(t *testing.T) {
	t.Parallel()
	s := newSite(t, "115200-8N1")
	five, ninety := s.sensor(t, 1, medium/2, 5), s.sensor(t, 1, patient, 90)
	s.slaves.SetFault(1, sim.ModbusFault{Late: medium/2 + 100*time.Millisecond, Times: 1})
	_, err := five.Read(context.Background())
	require.ErrorIs(t, err, drivers.ErrTimeout)
	for {
		got, err := ninety.Read(context.Background())
		if held := (*drivers.HeldError)(nil); errors.As(err, &held) {
			require.Empty(t, got)
			time.Sleep(held.After / 4)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, 190.0, got[0].Value)
		break
	}
}

// TestPtySilentNeighbour: unit 1 is silent, unit 2 on the same line is read meanwhile.
func TestPtySilentNeighbour(t *testing.T) {
	t.Parallel()
	s := newSite(t, "115200-8N1")
	silent, healthy := s.sensor(t, 1, short, 5), s.sensor(t, 2, patient, 5)
	s.slaves.SetFault(1, sim.ModbusFault{Silent: true})
	_, err := silent.Read(context.Background())
	require.ErrorIs(t, err, drivers.ErrTimeout)
	_, err = silent.Read(context.Background())
	require.ErrorIs(t, err, drivers.ErrHeld)
	for range 3 {
		require.Equal(t, 205.0, value(t, healthy))
	}
	require.Equal(t, 1, s.slaves.Requests(1))
}

// TestPtyReplug: pulled out, the port is gone; put back under another number, the same link leads
// to it.
func TestPtyReplug(t *testing.T) {
	t.Parallel()
	s := newSite(t, "115200-8N1")
	require.Equal(t, 105.0, value(t, s.sensor(t, 1, patient, 5)))
	for range 2 {
		before := s.line.TTY()
		require.NoError(t, s.line.Unplug())
		_, err := s.sensor(t, 1, patient, 5).Read(context.Background())
		require.ErrorIs(t, err, drivers.ErrGone)
		require.NoError(t, s.port.Close())
		_, err = hostbus.OpenSerial(s.line.Link(), s.port.Line())
		require.ErrorIs(t, err, drivers.ErrGone)

		require.NoError(t, s.line.Plug())
		require.NotEqual(t, before, s.line.TTY())
		s.open(t)
		require.Equal(t, 105.0, value(t, s.sensor(t, 1, patient, 5)))
	}
}

// BenchmarkPoll reads 100 registers of a simulated unit at 115,200 baud: on the line that takes
// 8 + 205 characters and two silences, 22 ms.
func BenchmarkPoll(b *testing.B) {
	s := newSite(b, "115200-8N1")
	o := &Options{Port: s.line.Link(), Line: "115200-8N1", UnitID: ptr(1)}
	for i := range 100 {
		o.Chans = append(o.Chans, channel("x", "holding", i, "uint16"))
	}
	require.Empty(b, o.Check())
	require.NoError(b, s.port.Close())
	port, err := hostbus.OpenSerial(s.line.Link(), o.Bus().Line)
	require.NoError(b, err)
	defer port.Close()
	sensor, err := o.Open(context.Background(), drivers.Env{Port: port, Timeout: time.Second, Shared: new(drivers.Shared)})
	require.NoError(b, err)
	for b.Loop() {
		got, err := sensor.Read(context.Background())
		if err != nil || len(got) != 100 || got[99].Value != 199 {
			b.Fatal(len(got), err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "polls/s")
}
