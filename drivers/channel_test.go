package drivers

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIsName(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "kühl raum 1": true, "温度": true, strings.Repeat("ä", 63): true, strings.Repeat("a", 64): true,
		"": false, " a": false, "a ": false, "a/b": false, "a+": false, "#": false, "a\tb": false, "a\u202eb": false, "a\xff": false,
		strings.Repeat("a", 65): false, strings.Repeat("ä", 64): false, // 128 bytes
	} {
		require.Equal(t, want, IsName(s), "%q", s)
	}
}

func TestCheckScale(t *testing.T) {
	for _, c := range []struct {
		scale  *float64
		offset float64
		wrong  []string
	}{
		{nil, 0, nil}, {new(-2.5), 7, nil}, {new(0.0), 0, []string{"scale"}}, {new(math.Inf(1)), math.NaN(), []string{"scale", "offset"}}, {nil, math.Inf(-1), []string{"offset"}},
	} {
		var wrong []string
		scale := c.scale
		CheckScale(&scale, c.offset, func(key string, _ any, _ string) { wrong = append(wrong, key) })
		require.Equal(t, c.wrong, wrong)
		if c.scale == nil {
			require.Equal(t, 1.0, *scale)
		}
	}
}
