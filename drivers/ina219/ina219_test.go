package ina219

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/chip"
	"homeward/drivers/chip/chiptest"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func ptr[T any](v T) *T { return &v }

func options() drivers.Options {
	o := Factory.New("ina219").(*Options)
	o.BusName = "sim:chip"
	return o
}

// stranger acknowledges everything and holds nothing.
type stranger struct{}

func (stranger) Reset()                             {}
func (stranger) I2C(_ []byte, n int) ([]byte, bool) { return make([]byte, n), true }

func bench(volts, amperes float64) func(t *testing.T) *drivertest.Bench {
	return func(t *testing.T) *drivertest.Bench {
		return chiptest.Bench(t, 0x40, func(w *sim.World) (one, other sim.I2CChip) {
			return sim.NewINA219(w, "chip", 0.1, map[string]sim.Value{"voltage": sim.Constant(volts), "current": sim.Constant(amperes)}), stranger{}
		})
	}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Case{Options: options, Bench: bench(12, 0.5)})
}

// TestDatasheet plays the datasheet's example.
func TestDatasheet(t *testing.T) {
	o := options().(*Options)
	o.Shunt, o.MaxCurrent = ptr(0.002), ptr(15.0)
	got, err := chiptest.Play(t, o, 1, "testdata/ina219-datasheet.txt")
	require.NoError(t, err)
	require.Equal(t, []drivers.Reading{{Channel: "voltage", Value: 11.98, Unit: "V"}, {Channel: "current", Value: 10, Unit: "A"}, {Channel: "power", Value: 119.8, Unit: "W"}}, got)
}

// TestShuntTable: the codes of §8.6.3.1, at a gain of 8 and with a shunt of an ohm, where volts are amperes.
func TestShuntTable(t *testing.T) {
	o := options().(*Options)
	o.Shunt = ptr(1.0)
	require.Empty(t, o.Check())
	for code, volts := range map[uint16]float64{0x7CFF: 0.31999, 0x1F40: 0.08, 0x0FA0: 0.04, 0x0001: 1e-5, 0x0000: 0, 0xFFFF: -1e-5, 0xF060: -0.04, 0xE0C0: -0.08, 0x8301: -0.31999} {
		got, err := o.convert(2000<<3|ready, code)
		require.NoError(t, err)
		require.Equal(t, map[string]float64{"voltage": 8, "current": volts, "power": chip.Trim(8 * volts)}, got)
	}
	for _, code := range []uint16{0x7D00, 0x8300, 0x7FFF, 0x8000} {
		_, err := o.convert(2000<<3|ready, code)
		require.ErrorIs(t, err, drivers.ErrCheck, "%#04x is the range's end or beyond", code)
		require.ErrorContains(t, err, "max_current: 0.32")
	}
	for _, bus := range []uint16{2000 << 3, 2000<<3 | ready | overflow} {
		_, err := o.convert(bus, 0)
		require.ErrorIs(t, err, drivers.ErrCheck)
	}
}

// TestValues: what the simulated chip serves, with each range.
func TestValues(t *testing.T) {
	for _, v := range []struct{ volts, amperes, most float64 }{{0, 0, 0.1}, {5.128, 0.3999, 0.4}, {12, -0.799, 0.8}, {24, 1.5, 1.6}, {26, -3.1999, 3.2}, {1, 0.0001, 3.2}} {
		o := options().(*Options)
		o.MaxCurrent = &v.most
		got, err := chiptest.Read(t, o, 2, func(t *testing.T) drivers.Env { return bench(v.volts, v.amperes)(t).Env })
		require.NoError(t, err)
		require.InDelta(t, v.volts, got[3].Value, 1e-9)
		require.InDelta(t, v.amperes, got[4].Value, 1e-9)
		require.InDelta(t, v.volts*v.amperes, got[5].Value, 1e-6)
	}
}

// TestRangeExceeded: an error, and a reading again when the current is back.
func TestRangeExceeded(t *testing.T) {
	o := options().(*Options)
	o.MaxCurrent = ptr(0.4)
	got, err := chiptest.Read(t, o, 1, func(t *testing.T) drivers.Env { return bench(12, 0.41)(t).Env })
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.Empty(t, got)
}

// TestSupplyLost between and within measurements: never a value that was measured with other settings.
func TestSupplyLost(t *testing.T) {
	for at := 5; at <= 8; at++ {
		synctest.Test(t, func(t *testing.T) {
			b, o := bench(12, 0.5)(t), options()
			require.Empty(t, o.Check())
			b.Env.I2C = &chiptest.Tap{Bus: b.Env.I2C, On: func(n int, _, _ []byte) {
				if n == at {
					b.Unplug()
					b.Plug()
				}
			}}
			s, err := o.Open(t.Context(), b.Env)
			require.NoError(t, err)
			got, err := s.Read(t.Context())
			if at == 8 { // all was read
				require.NoError(t, err)
				got, err = s.Read(t.Context())
			}
			require.ErrorIs(t, err, drivers.ErrCheck)
			require.Empty(t, got)
		})
	}
}

func TestCheckNamesMistakes(t *testing.T) {
	on := chip.Options{BusName: "/dev/i2c-1"}
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "address", &Options{Options: on, Address: ptr(0x50)})
	drivertest.Mistakes(t, "shunt", &Options{Options: on, Shunt: ptr(0.0)})
	drivertest.Mistakes(t, "max_current", &Options{Options: on, MaxCurrent: ptr(3.3)})
	drivertest.Mistakes(t, "channels[0].name", &Options{Options: chip.Options{BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "energy"}}}})
	o := options().(*Options)
	o.MaxCurrent = ptr(3.2)
	require.Empty(t, o.Check(), "the whole range")
}

// FuzzDecode: whatever is taken lies on the scales.
func FuzzDecode(f *testing.F) {
	o := options().(*Options)
	require.Empty(f, o.Check())
	f.Fuzz(func(t *testing.T, bus, shunt uint16) {
		v, err := o.convert(bus, shunt)
		if err != nil {
			return
		}
		require.True(t, v["voltage"] >= 0 && v["voltage"] < 32.8 && v["current"] > -3.2 && v["current"] < 3.2)
	})
}
