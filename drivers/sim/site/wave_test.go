package site

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadTrace(t *testing.T) {
	got, err := readTrace(strings.NewReader("\ufeff# made by hand\r\n\r\n# t_ms,channel,value\r\nt_ms,channel,value\r\n# a remark\r\n1000,a,1\r\n1000,b,5\r\n2000,a,2e1\r\n4000,b,-6\r\n"))
	require.NoError(t, err)
	require.Equal(t, []float64{0, 1000}, got["a"].ms)
	require.Equal(t, []float64{1, 20}, got["a"].value)
	require.Equal(t, 4000.0, got["a"].end, "the file's length and once more the channel's interval")
	for text, want := range map[string]string{
		"":                                             "no rows",
		"t_ms,channel,value\n":                         "no rows",
		"time,channel,value\n":                         "want the header t_ms,channel,value",
		"# a remark\n1,a,2\n":                          "line 2: \"1,a,2\": want the header",
		"# nothing else\n":                             "no rows",
		"t_ms,channel,value\n1,a":                      "line 2",
		"t_ms,channel,value\n1,,2":                     "line 2",
		"t_ms,channel,value\n1.5,a,2":                  "Unix time in ms",
		"t_ms,channel,value\n2,a,2\n1,a,2":             "line 3: t_ms \"1\": want Unix time in ms, not before the line above",
		"t_ms,channel,value\n1,a,NaN":                  "want a number",
		"t_ms,channel,value\n1,a,1e999":                "want a number",
		strings.Repeat("x", 5000):                      "token too long",
		"t_ms,channel,value\n1,a,2,3":                  "line 2",
		"t_ms,channel,value\n99999999999999999999,a,2": "line 2",
	} {
		_, err := readTrace(strings.NewReader(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestWaves(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	// of gives the wave's values at those seconds after the start.
	of := func(text string, seconds ...float64) (got []float64) {
		doc := "spi: [{name: s, sensor: x, chip: mcp3008, vref: 99, every: 1s, channels: [{name: c, input: 0, value: " + text + "}]}]"
		s, err := parseSite("s.yaml", []byte(doc), memory)
		require.NoError(t, err, text)
		v := s.spi[0].inputs[0].wave.value(start)
		for _, x := range seconds {
			got = append(got, v(start.Add(time.Duration(x*float64(time.Second)))))
		}
		return got
	}
	require.Equal(t, []float64{2.5, 2.5}, of("2.5", 0, 9))
	require.InDeltaSlice(t, []float64{5, 8, 5, 2}, of("{sine: {mean: 5, amplitude: 3, period: 4s}}", 0, 1, 2, 3), 1e-9)
	require.InDeltaSlice(t, []float64{1, 2, 1}, of("{sawtooth: {low: 1, high: 3, period: 4s}}", 0, 2, 4), 1e-9)
	require.Equal(t, []float64{0.5, 1, 1.5}, of("{counter: 0.5}", 0, 0, 0))
	const trace = "{trace: {file: t.csv, channel: "
	require.Equal(t, []float64{1, 1, 2, 2, 1, 2}, of(trace+"a}}", 0, 0.9, 1, 3.9, 4, 5))
	require.Equal(t, []float64{5, 5, 6}, of(trace+"b}}", 0, 2.9, 3))
	require.Equal(t, []float64{1, 2, 2}, of(trace+"a, loop: false}}", 0, 1, 1000))
	require.Equal(t, []float64{1, 2}, of(trace+"a, speed: 10}}", 0.05, 0.1))
}

// TestEncode: what a register hands out is told as a gateway reads it.
func TestEncode(t *testing.T) {
	for _, c := range []struct {
		r     register
		v     float64
		words []uint16
		value float64
	}{
		{register{kind: "int16", scale: 0.1}, 21.44, []uint16{214}, 21.4},
		{register{kind: "int16", scale: 0.1}, -0.04, []uint16{0}, 0},
		{register{kind: "int16", scale: 0.1}, -21.4, []uint16{0xFF2A}, -21.4},
		{register{kind: "int16", scale: 0.1}, 1e9, []uint16{0x7FFF}, 3276.7},
		{register{kind: "uint16", scale: 2, offset: -40}, 10, []uint16{25}, 10},
		{register{kind: "uint32", scale: 0.001}, 70, []uint16{1, 0x1170}, 70},
		{register{kind: "uint32", words: "little", scale: 0.001}, 70, []uint16{0x1170, 1}, 70},
		{register{kind: "uint16", order: "little", scale: 1}, 1, []uint16{0x0100}, 1},
		{register{kind: "float32", scale: 1}, 21.4, []uint16{0x41AB, 0x3333}, 21.4},
		{register{kind: "float64", scale: 1}, 0.1, []uint16{0x3FB9, 0x9999, 0x9999, 0x999A}, 0.1},
		{register{kind: "uint16", scale: 1, wave: wave{kind: "counter"}}, 65537, []uint16{1}, 1},
		{register{kind: "bool", scale: 1}, 0.5, []uint16{1}, 1},
		{register{kind: "bool", scale: 1}, 0.4, []uint16{0}, 0},
	} {
		words, value := c.r.encode(c.v)
		require.Equal(t, c.words, words, "%+v", c.r)
		require.Equal(t, c.value, value, "%+v", c.r)
	}
}
