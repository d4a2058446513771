package site

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestInexact: a tolerance is stated where a right gateway may round otherwise, and only there.
func TestInexact(t *testing.T) {
	for _, c := range []struct {
		kind                     string
		scale, offset, low, high float64
		want                     bool
	}{
		{"bool", 1, 0, 0, 1, false},
		{"uint32", 0.001, 0, 0, 4294967.295, false},
		{"int16", 0.1, 0, -20, 80, false},
		{"uint16", 3, 5, 0, 100, false},
		{"float32", 1, 0, -1e30, 1e30, false},
		{"float32", 0.1, 0, 0, 100, true},
		{"int16", 0.1, -40, -20, 80, true},
		{"uint64", 0.0125, 0, 0, 1e13, true}, // 125 times its register is beyond 2^53
	} {
		r := register{kind: c.kind, scale: c.scale, offset: c.offset, wave: wave{low: c.low, high: c.high}}
		got := r.inexact()
		require.Equal(t, c.want, got > 0, "%+v", c)
		require.LessOrEqual(t, got, 1e-14*max(c.high, 100), "a few units of the last bit: %+v", c)
	}
	r := register{kind: "uint64", scale: 0.15, wave: wave{kind: "counter"}}
	require.Positive(t, r.inexact(), "a counter goes up to the end of its type")
	require.Equal(t, 2.9, twelve(2.9000000000004), "as the gateway keeps it")
	require.Equal(t, 0.30000000001, twelve(0.1*3+1e-11))
}
