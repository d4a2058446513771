package max31855

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/drivertest"
	"homeward/drivers/sim"
)

func options() drivers.Options { return &Options{BusName: "sim:tc"} }

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Case{Options: options, Anonymous: true, Bench: func(t *testing.T) *drivertest.Bench {
		w := &sim.World{}
		dev := w.AddSPI("tc", sim.NewMAX31855(w, "tc", sim.Constant(412.5), sim.Constant(-3)))
		o, err := w.Open(drivers.Bus{Kind: drivers.SPI, Name: "sim:tc"})
		require.NoError(t, err)
		s := &drivertest.Steps{}
		return &drivertest.Bench{Steps: s, Env: drivers.Env{SPI: s.SPI(o.SPI), Timeout: time.Second}, Unplug: dev.Unplug, Plug: dev.Plug}
	}})
}

func TestDatasheetConversation(t *testing.T) {
	f, err := os.Open("testdata/max31855-datasheet.txt")
	require.NoError(t, err)
	defer f.Close()
	o := options()
	require.Empty(t, o.Check())
	s, err := o.Open(t.Context(), drivers.Env{SPI: drivertest.Play(t, f).SPI()})
	require.NoError(t, err)
	for _, want := range [][2]float64{{100.75, 100.56}, {-250, -0.06}} {
		r, err := s.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, []drivers.Reading{{Channel: "temperature", Value: want[0], Unit: "Cel"}, {Channel: "junction", Value: want[1], Unit: "Cel"}}, r)
	}
	r, err := s.Read(t.Context())
	require.ErrorIs(t, err, drivers.ErrCheck)
	require.ErrorContains(t, err, "OC")
	require.Equal(t, []drivers.Reading{{Channel: "junction", Value: 25, Unit: "Cel"}}, r)
}

// TestTables are 4 and 5 of 19-5793 rev 5 (page 10).
func TestTables(t *testing.T) {
	for code, want := range map[uint32]float64{0x1900: 1600, 0x0FA0: 1000, 0x0193: 100.75, 0x0064: 25, 0: 0, 0x3FFF: -0.25, 0x3FFC: -1, 0x3C18: -250} {
		hot, cold, _, err := decode(code<<18 | 0x1900)
		require.NoError(t, err)
		require.Equal(t, [2]float64{want, 25}, [2]float64{hot, cold})
	}
	for code, want := range map[uint32]float64{0x7F0: 127, 0x649: 100.5625, 0x190: 25, 0: 0, 0xFFF: -0.0625, 0xFF0: -1, 0xEC0: -20, 0xC90: -55} {
		_, cold, _, err := decode(0x01900000 | code<<4)
		require.NoError(t, err)
		require.Equal(t, want, cold)
	}
}

func TestRefused(t *testing.T) {
	for _, f := range []uint32{0, 0xFFFFFFFF, 0x01921900, 0x01901908, 0x01911900, 0x01901901, 0x0190C800, 0x7FFC1900, 0x80001900} {
		_, _, broken, err := decode(f)
		require.ErrorIs(t, err, drivers.ErrCheck, "%08x", f)
		require.Empty(t, broken)
	}
	for bit, name := range map[uint32]string{1: "OC", 2: "SCG", 4: "SCV"} {
		_, cold, _, err := decode(0x00011900 | bit)
		require.ErrorContains(t, err, name)
		require.Equal(t, 25.0, cold)
	}
}

func TestCheckNamesMistakes(t *testing.T) {
	drivertest.Mistakes(t, "bus", &Options{})
	drivertest.Mistakes(t, "channels[0].name", &Options{BusName: "x", Chans: []drivers.Channel{{Name: "hot"}}})
}

func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, frame uint32) {
		hot, cold, _, err := decode(frame)
		if err == nil && (hot < -270 || hot > 1800 || cold < -55 || cold > 127 || frame&0x2000F != 0) {
			t.Fatal(hot, cold)
		}
	})
}
