package chip

import (
	"math"
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
)

// TestCRC8 is the example of Sensirion's datasheets (SHT3x-DIS version 7, table 20; SHT4x version 6.6, table 7): 0xBEEF gives 0x92.
func TestCRC8(t *testing.T) {
	require.EqualValues(t, 0x92, CRC8([]byte{0xBE, 0xEF}))
	require.Equal(t, []byte{1, 0xBE, 0xEF, 0x92}, AppendWord([]byte{1}, 0xBEEF))
	w, err := Words([]byte{0xBE, 0xEF, 0x92})
	require.NoError(t, err)
	require.Equal(t, []uint16{0xBEEF}, w)
}

// TestWordsEveryError: up to three wrong bits in a word and its checksum are found, whatever the word; so are zeros and ones of a dead line.
func TestWordsEveryError(t *testing.T) {
	for _, word := range []uint16{0, 1, 0x8000, 0xBEEF, 0xFFFF} {
		good := AppendWord(nil, word)
		for mask := uint32(1); mask < 1<<24; mask++ {
			if bits.OnesCount32(mask) > 3 {
				continue
			}
			w, err := Words([]byte{good[0] ^ byte(mask>>16), good[1] ^ byte(mask>>8), good[2] ^ byte(mask)})
			if err == nil {
				t.Fatalf("%04x with the bits %06x wrong is taken for %04x", word, mask, w)
			}
		}
	}
	for _, bad := range [][]byte{{0, 0, 0}, {0xFF, 0xFF, 0xFF}, {0xBE, 0xEF}, {0xBE, 0xEF, 0x92, 0}, {0xBE, 0xEF, 0x92, 0xBE, 0xEF, 0x93}} {
		w, err := Words(bad)
		require.ErrorIs(t, err, drivers.ErrCheck, "%x", bad)
		require.Empty(t, w)
	}
}

func TestRound(t *testing.T) {
	require.Equal(t, 21.34, Round(21.3351, 2))
	require.Equal(t, -7.3, Round(-7.25, 1))
	require.False(t, math.Signbit(Round(-0.001, 2)), "no minus zero")
}

var quantities = []Quantity{{"temperature", "Cel", -40, 125}, {"humidity", "%RH", 0, 100}}

func TestFilledIn(t *testing.T) {
	low := 10.0
	for _, o := range []Options{{BusName: "/dev/i2c-1"}, {BusName: "/dev/i2c-1", Chans: []drivers.Channel{{Name: "humidity", Min: &low}}}} {
		var address *int
		given := len(o.Chans)
		for range 2 { // twice is the same as once
			require.Empty(t, CheckI2C(o.BusName, &address, "", 0x44, 0x45))
			require.Empty(t, o.CheckChannels(quantities))
		}
		require.Equal(t, 0x44, *address)
		require.Equal(t, drivers.Bus{Kind: drivers.I2C, Name: "/dev/i2c-1"}, o.Bus())
		r := o.Pick(map[string]float64{"temperature": 21, "humidity": 55})
		c := o.Channels()
		if given == 0 {
			require.Equal(t, []drivers.Reading{{Channel: "temperature", Value: 21, Unit: "Cel"}, {Channel: "humidity", Value: 55, Unit: "%RH"}}, r)
			require.Equal(t, []float64{-40, 125, 0, 100}, []float64{*c[0].Min, *c[0].Max, *c[1].Min, *c[1].Max})
			continue
		}
		require.Equal(t, []drivers.Reading{{Channel: "humidity", Value: 55, Unit: "%RH"}}, r)
		require.Equal(t, []float64{10, 100}, []float64{*c[0].Min, *c[0].Max})
		require.Equal(t, drivers.Unit("%RH"), *c[0].Unit)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	odd, there := drivers.Unit("F"), 0x44
	for _, tc := range []struct {
		bus     string
		address int
		chans   []drivers.Channel
		want    []drivers.Fault
	}{
		{"", there, nil, []drivers.Fault{{Path: "bus", Want: "the I2C bus, such as /dev/i2c-1"}}},
		{"/dev/spidev0.0", there, nil, []drivers.Fault{{Path: "bus", Bad: "/dev/spidev0.0", Want: "an I2C bus, such as /dev/i2c-1"}}},
		{"/dev/i2c-1", 0x50, nil, []drivers.Fault{{Path: "address", Bad: "0x50", Want: "0x44 or 0x45"}}},
		{"/dev/i2c-1", there, []drivers.Channel{{Name: "humidity"}, {Name: "temp"}}, []drivers.Fault{{Path: "channels[1].name", Bad: "temp", Want: "temperature or humidity"}}},
		{"/dev/i2c-1", there, []drivers.Channel{{Name: "humidity", Unit: &odd}}, []drivers.Fault{{Path: "channels[0].unit", Bad: "F", Want: "%RH: this driver gives no other"}}},
	} {
		o, a := Options{BusName: tc.bus, Chans: tc.chans}, &tc.address
		require.Equal(t, tc.want, append(CheckI2C(o.BusName, &a, "0x44 or 0x45", 0x44, 0x45), o.CheckChannels(quantities)...))
	}
}

func TestTrim(t *testing.T) {
	tenth, code, scale := 0.1, 823.0, 0.00322 // not constants, which Go multiplies exactly
	require.NotEqual(t, 0.3, tenth*3)
	require.Equal(t, 0.3, Trim(tenth*3))
	require.Equal(t, 2.65006, Trim(code*scale))
}
