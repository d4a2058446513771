package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/agent/config"
	"homeward/agent/pack"
	"homeward/agent/pack/packed"
	"homeward/buffer"
	"homeward/drivers"
)

// Times are published on the sensor's grid, also of alarms and those that were repaired; the buffer keeps them as taken, and
// the order is that of recording.
func TestTimesOnTheGrid(t *testing.T) {
	for _, format := range []string{pack.FormatRows, pack.FormatPacked, pack.FormatSenML} {
		t.Run(format, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, func(c *config.Publish) { c.Format = format })
				d.sets = []packed.Set{{Every: 1000, Res: 100, Channels: []packed.Hint{{Name: "a/x"}}}}
				cfg := &config.Config{Sensors: []config.Sensor{{Name: "a", TimeResolution: config.Duration(100 * time.Millisecond)}, {Name: "b", TimeResolution: config.Duration(time.Minute)}}}
				d.grid = &timeGrid{config: func() *config.Config { return cfg }}
				const wall = 1_700_000_000_000
				boot := [16]byte{1}
				var want []int64
				add := func(channel string, mono time.Duration, at int64, trusted, alarm bool, published int64) {
					seq, err := d.lane.Append(buffer.Poll{Alarm: alarm, Stamp: drivers.Stamp{Boot: boot, Mono: mono, Wall: at, Trusted: trusted},
						Readings: []drivers.Reading{{Channel: channel, Value: float64(len(want))}}})
					require.NoError(t, err)
					if alarm {
						d.alarmed(seq)
					}
					want = append(want, published)
				}
				add("a/x", 1*time.Millisecond, 77, false, false, wall-9_000) // the clock was not set yet
				add("a/x", 1001*time.Millisecond, 1077, false, false, wall-8_000)
				add("a/x", 10_000*time.Millisecond, wall+1_049, true, false, wall+1_000)
				add("a/x", 10_010*time.Millisecond, wall+1_051, true, false, wall+1_100)
				add("a/x", 10_020*time.Millisecond, wall+1_061, true, false, wall+1_100) // the same time as published
				add("a/x", 10_021*time.Millisecond, wall+1_049, true, false, wall+1_000) // the clock was set back
				add("a/x", 10_100*time.Millisecond, wall+1_149, true, true, wall+1_100)
				add("b/y", 10_200*time.Millisecond, wall+31_000, true, false, wall+40_000) // 22:13:20 and a half
				add("gone/z", 10_300*time.Millisecond, wall+1_337, true, false, wall+1_337)
				require.NoError(t, d.buf.Anchor(boot, 9*time.Second, wall+7)) // so the first was taken at wall - 8992
				var polls []buffer.Stored
				for st, err := range d.lane.All() {
					require.NoError(t, err)
					polls = append(polls, st)
				}
				require.Len(t, polls, len(want))
				require.EqualValues(t, wall-8992, polls[0].Time)
				require.EqualValues(t, wall+1_049, polls[2].Time, "as taken")
				d.run(t)
				time.Sleep(time.Minute)
				d.end(t)
				got := map[float64]int64{} // by value, which counts what was recorded
				for _, a := range d.home.arrivals() {
					for _, r := range a.payload.Readings {
						require.EqualValues(t, r.Seq, r.Value+1, "in the order of recording")
						got[r.Value] = r.TimeMS
					}
				}
				require.Len(t, got, len(want))
				for i, at := range want {
					require.Equal(t, at, got[float64(i)], "reading %d", i)
				}
			})
		})
	}
}
