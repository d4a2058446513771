package sim_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/all"
	"homeward/drivers/sim"
)

// TestAirChipsAndTheirDrivers: each chip at its default address is read by the driver of its name, with channel names, units and values as
// the chip tells them.
func TestAirChipsAndTheirDrivers(t *testing.T) {
	levels := map[string][]float64{"temperature": {-38.17, 0, 21.4567, 99.9}, "humidity": {0, 12.345, 67.89, 100}, "light": {0, 3.3, 4321.9, 98765}}
	for _, name := range []string{"tmp102", "lm75", "mcp9808", "sht3x", "sht4x", "bh1750"} {
		for i := range 4 {
			t.Run(fmt.Sprint(name, i), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, err := sim.FindChip(name)
					require.NoError(t, err)
					var mu sync.Mutex
					served := map[string]float64{}
					w := &sim.World{Served: func(channel string, raw any, at time.Time) {
						mu.Lock()
						defer mu.Unlock()
						require.False(t, at.After(time.Now()), "measured before it is told")
						served[channel] = raw.(float64)
					}}
					values := map[string]sim.Value{}
					for _, q := range c.Quantities {
						values[q.Name] = sim.Constant(levels[q.Name][i])
					}
					require.NoError(t, w.AddI2C("b").Add(c.Address, c.New(w, "x", values).(sim.I2CChip)))
					k := slices.IndexFunc(all.Factories, func(f drivers.Factory) bool { return f.Name == name || slices.Contains(f.Aliases, name) })
					require.GreaterOrEqual(t, k, 0)
					o := configured(t, all.Factories[k], name, c.Address)
					opened, err := w.Open(drivers.Bus{Kind: drivers.I2C, Name: "sim:b"})
					require.NoError(t, err)
					s, err := o.Open(t.Context(), drivers.Env{I2C: opened.I2C, Timeout: time.Second, Shared: &drivers.Shared{}})
					require.NoError(t, err)
					got, err := s.Read(t.Context())
					require.NoError(t, err)
					require.Len(t, got, len(c.Quantities))
					for j, q := range c.Quantities {
						require.Equal(t, q.Name, got[j].Channel)
						require.Equal(t, q.Unit, got[j].Unit)
						told, ok := served["x/"+q.Name]
						require.True(t, ok, "%s is told", q.Name)
						require.InDelta(t, told, got[j].Value, q.Tolerance)
						require.InDelta(t, levels[q.Name][i], got[j].Value, 1)
					}
				})
			})
		}
	}
}

// configured is what a configuration of bus and address alone gives.
func configured(t *testing.T, f drivers.Factory, name string, address uint16) drivers.Options {
	t.Helper()
	o := f.New(name)
	require.NoError(t, yaml.UnmarshalWithOptions(fmt.Appendf(nil, "bus: sim:b\naddress: %d\n", address), o, yaml.Strict()))
	require.Empty(t, o.Check())
	return o
}

// tx is a transaction that must be acknowledged, or not.
func tx(t *testing.T, b *sim.I2CBus, addr uint16, w []byte, n int, ok bool) []byte {
	t.Helper()
	r := make([]byte, n)
	err := b.Tx(addr, w, r)
	require.Equal(t, ok, err == nil, "%x: %v", w, err)
	return r
}

// TestAirChipsPowerOn: the registers as the datasheets have them after power-on, and what is not acknowledged.
func TestAirChipsPowerOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sim.World{}
		b := w.AddI2C("b")
		for addr, c := range map[uint16]sim.I2CChip{
			0x48: sim.NewTMP102(w, "t", nil), 0x4C: sim.NewLM75(w, "l", false, nil), 0x4D: sim.NewLM75(w, "i", true, nil), 0x18: sim.NewMCP9808(w, "m", nil),
			0x44: sim.NewSHT3x(w, "h", sim.Environment{}), 0x46: sim.NewSHT4x(w, "s", 0xBEEFBEEF, sim.Environment{}), 0x23: sim.NewBH1750(w, "b", nil),
		} {
			require.NoError(t, b.Add(addr, c))
		}
		// TMP102, SBOS397B tables 2, 7 and 8: 0 Cel until the first conversion ends; registers 1 to 3. Other pointers are none.
		require.Equal(t, []byte{0, 0}, tx(t, b, 0x48, []byte{0}, 2, true))
		require.Equal(t, []byte{0x60, 0xA0}, tx(t, b, 0x48, []byte{1}, 2, true))
		require.Equal(t, []byte{0x4B, 0x00}, tx(t, b, 0x48, []byte{2}, 2, true))
		require.Equal(t, []byte{0x50, 0x00}, tx(t, b, 0x48, []byte{3}, 2, true))
		tx(t, b, 0x48, []byte{4}, 2, false)
		// LM75A rev. 04 table 5.
		require.Equal(t, []byte{0}, tx(t, b, 0x4C, []byte{1}, 1, true))
		require.Equal(t, []byte{0x50, 0}, tx(t, b, 0x4C, []byte{3}, 2, true))
		require.Equal(t, []byte{0x50}, tx(t, b, 0x4C, []byte{7}, 1, true), "NXP's takes two bits of the pointer")
		require.Equal(t, []byte{0xA1}, tx(t, b, 0x4D, []byte{7}, 1, true))
		// MCP9808, DS25095A registers 5-2, 5-5, 5-6 and 5-7.
		for reg, want := range map[byte][]byte{1: {0, 0}, 6: {0, 0x54}, 7: {4, 0}, 8: {3}} {
			require.Equal(t, want, tx(t, b, 0x18, []byte{reg}, len(want), true))
		}
		// Sensirion's are deaf for their first millisecond.
		tx(t, b, 0x44, []byte{0xF3, 0x2D}, 3, false)
		tx(t, b, 0x46, []byte{0x89}, 0, false)
		time.Sleep(time.Millisecond)
		// SHT3x table 18: alert pending and reset detected; then without measurement, before its end, unknown, and half a command.
		require.Equal(t, []byte{0x80, 0x10, 0xE1}, tx(t, b, 0x44, []byte{0xF3, 0x2D}, 3, true))
		tx(t, b, 0x44, nil, 6, false)
		tx(t, b, 0x44, []byte{0x24, 0x00}, 0, true)
		tx(t, b, 0x44, nil, 6, false)
		tx(t, b, 0x44, []byte{0x12, 0x34}, 0, false)
		tx(t, b, 0x44, []byte{0x24}, 0, false)
		// SHT4x: 0xBEEF with the checksum that is the datasheet's example; nothing while it measures.
		tx(t, b, 0x46, []byte{0x89}, 0, true)
		require.Equal(t, []byte{0xBE, 0xEF, 0x92, 0xBE, 0xEF, 0x92}, tx(t, b, 0x46, nil, 6, true))
		tx(t, b, 0x46, nil, 6, false)
		tx(t, b, 0x46, []byte{0xFD}, 0, true)
		tx(t, b, 0x46, nil, 6, false)
		tx(t, b, 0x46, []byte{0x12}, 0, false)
		time.Sleep(9 * time.Millisecond)
		tx(t, b, 0x46, nil, 6, true)
		// BH1750: dark until it was told to measure; one instruction a transaction.
		require.Equal(t, []byte{0, 0}, tx(t, b, 0x23, nil, 2, true))
		tx(t, b, 0x23, []byte{0x42, 0x65}, 0, false)
		tx(t, b, 0x23, []byte{0xFF}, 0, false)
		tx(t, b, 0x23, []byte{0x20}, 0, true)
		require.Equal(t, []byte{0, 0}, tx(t, b, 0x23, nil, 2, true), "still measuring")
		time.Sleep(180 * time.Millisecond)
		require.Equal(t, []byte{0x01, 0x68}, tx(t, b, 0x23, nil, 2, true), "300 lx × 1.2")
	})
}
