package sim

import (
	"math"
	"time"
)

// Constant is the waveform that stays.
func Constant(v float64) func(time.Time) float64 { return func(time.Time) float64 { return v } }

// Sine is mean ± amplitude, once around in period.
func Sine(mean, amplitude float64, period time.Duration) func(time.Time) float64 {
	return func(t time.Time) float64 {
		return mean + amplitude*math.Sin(2*math.Pi*turn(t, period))
	}
}

// Sawtooth rises from low to high in period and falls back at once.
func Sawtooth(low, high float64, period time.Duration) func(time.Time) float64 {
	return func(t time.Time) float64 { return low + (high-low)*turn(t, period) }
}

// turn is how far t is into its period, 0 to 1.
func turn(t time.Time, period time.Duration) float64 {
	return float64(t.UnixNano()%int64(period)) / float64(period)
}
