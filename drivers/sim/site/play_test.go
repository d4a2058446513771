package site

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTimeline: each fault begins and ends at its time, in the fake time of a bubble.
func TestTimeline(t *testing.T) {
	s, err := Parse("whole.yaml", []byte(whole))
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		start := time.Now()
		var got []string
		require.NoError(t, play(ctx, s.events(), func(e event) error {
			word := "end"
			if e.begin {
				word = "begin"
			}
			got = append(got, fmt.Sprintf("%v %s %s %s", time.Since(start), word, e.fault.name, e.fault.on))
			return nil
		}))
		require.Equal(t, time.Minute, time.Since(start), "until it is told to end")
		require.Equal(t, []string{
			"1s begin unplug rs485", "3s end unplug rs485",
			"4s begin late boiler", "4s begin noise meter",
			"5s end noise meter", "5s begin stuck i2c-1", "5s begin float tank",
			"6s end stuck i2c-1", "6s end float tank", "6s begin nack attic", "6s begin gone broker",
			"7s end gone broker", "7s begin frozen broker", "8s end frozen broker",
			"8s begin clock-jump clock", "9s begin rename rs485",
		}, got)
	})
}

func TestTimelineStops(t *testing.T) {
	s, err := Parse("whole.yaml", []byte(whole))
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		n := 0
		err := play(context.Background(), s.events(), func(event) error { n++; return broken })
		require.ErrorIs(t, err, broken)
		require.Equal(t, 1, n)
		ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
		defer cancel()
		n = 0
		require.NoError(t, play(ctx, s.events(), func(event) error { n++; return nil }))
		require.Equal(t, 1, n, "what is due later does not happen")
	})
}
