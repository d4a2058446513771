package drivertest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParse: no text makes it panic, and what it takes is written and read again the same.
func FuzzParse(f *testing.F) {
	f.Add("i2c 76 d0 60\nspi d000 ff60 # comment\nsend 0103\nrecv 01 ! gone\n")
	f.Add("recv - ! fault\ni2c 00 - -\n\n#")
	f.Add("i2c 7f 0! timeout")
	f.Fuzz(func(t *testing.T, text string) {
		steps, err := parse(strings.NewReader(text))
		if err != nil {
			return
		}
		var again strings.Builder
		for _, s := range steps {
			again.WriteString(s.String() + "\n")
		}
		got, err := parse(strings.NewReader(again.String()))
		require.NoError(t, err)
		require.Equal(t, len(steps), len(got))
		for i := range steps {
			require.Equal(t, steps[i].String(), got[i].String())
			require.Equal(t, steps[i].kind, got[i].kind)
			require.Equal(t, steps[i].addr, got[i].addr)
		}
	})
}
