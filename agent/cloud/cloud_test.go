package cloud_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"homeward/agent/cloud"
)

func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "min"))
		high := time.Duration(rapid.Int64Range(0, int64(24*365*time.Hour)).Draw(t, "max"))
		b := cloud.Backoff{Min: low, Max: high}
		if low == 0 {
			low = time.Second
		}
		if high == 0 {
			high = 2 * time.Minute
		}
		for range 2 {
			bound := min(low, high)
			for range rapid.IntRange(0, 100).Draw(t, "steps") {
				wait := b.Next()
				require.GreaterOrEqual(t, wait, bound/10)
				require.LessOrEqual(t, wait, bound)
				bound = min(2*bound, high)
			}
			b.Reset()
		}
	})
}

// TestBackoffSpreads: gateways that lost their broker together come back spread over the whole bound.
func TestBackoffSpreads(t *testing.T) {
	var quarters [4]int
	for range 4000 {
		b := cloud.Backoff{Min: 400, Max: 400}
		quarters[min(3, b.Next()/100)]++
	}
	for i, n := range quarters {
		require.Greater(t, n, 400, "quarter %d", i)
	}
}

func TestBackoffWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b cloud.Backoff
		began := time.Now()
		require.NoError(t, b.Wait(t.Context(), 10*time.Second))
		require.Equal(t, 10*time.Second, time.Since(began))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Minute)
			cancel()
		}()
		began = time.Now()
		require.ErrorIs(t, b.Wait(ctx, time.Hour), context.Canceled)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

func TestClassOf(t *testing.T) {
	inner := errors.New("bad password")
	err := error(&cloud.Error{Class: cloud.Denied, Op: "connect", Err: inner})
	require.EqualError(t, err, "cloud: connect: bad password")
	require.ErrorIs(t, err, inner)
	require.Equal(t, cloud.Denied, cloud.ClassOf(fmt.Errorf("home: %w", err)))
	require.Equal(t, cloud.Unreachable, cloud.ClassOf(inner))
}
