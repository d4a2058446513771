package modbus

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// What an exception usually comes of is said beside it.
func TestHints(t *testing.T) {
	s := &Sensor{unit: 9}
	for _, c := range []struct {
		code     byte
		function byte
		address  int
		want     string
	}{
		{0x02, readHolding, 40001, "; what a manual calls 40001 is register: holding, address: 0"},
		{0x02, readInput, 40108, "; what a manual calls 40108 is register: holding, address: 107"},
		{0x02, readInput, 30011, "; what a manual calls 30011 is register: input, address: 10"},
		{0x02, readDiscrete, 19999, "; what a manual calls 19999 is register: discrete, address: 9998"},
		{0x02, readHolding, 5000, ""},
		{0x02, readHolding, 50000, ""},
		{0x03, readHolding, 40001, ""},
		{0x0A, readHolding, 0, "; a gateway answered, and behind it nothing does as unit_id: 9"},
		{0x0B, readHolding, 40001, "; a gateway answered, and behind it nothing does as unit_id: 9"},
	} {
		require.Equal(t, c.want, s.hint(block{function: c.function, address: c.address}, fmt.Errorf("x: %w", &refusedError{c.code})))
	}
	require.Empty(t, s.hint(block{address: 40001}, errors.New("x")))
}
