package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time, written 500ms, 10s, 5m, 24h or 1h30m; never negative.
type Duration time.Duration

const wantDuration = "a duration such as 500ms, 10s, 5m or 24h"

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 || strings.HasPrefix(string(text), "+") || strings.HasPrefix(string(text), "-") {
		return fmt.Errorf("%s", wantDuration)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes a duration as UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Size is a number of bytes, written 1024, 64KB, 512MB (powers of 1000, as disks are sold) or 64KiB, 512MiB
// (powers of 1024).
type Size int64

const wantSize = "a size such as 1024, 64KB, 512MB or 2GB (powers of 1000), or 64KiB, 512MiB (powers of 1024)"

var sizeUnits = []struct {
	name   string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || int64(n) > math.MaxInt64/u.factor {
			break
		}
		*s = Size(int64(n) * u.factor)
		return nil
	}
	return fmt.Errorf("%s", wantSize)
}

// MarshalText writes a size as UnmarshalText reads it.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10)
	for _, u := range sizeUnits {
		if u.factor > 1 && s > 1024 && int64(s)%u.factor == 0 { // 1024 is how everyone writes it
			if short := strconv.FormatInt(int64(s)/u.factor, 10) + u.name; len(short) <= len(best) {
				best = short
			}
		}
	}
	return best
}

// Percent is a share, 0 to 1, written 10%.
type Percent float64

const wantPercent = "a percentage such as 10%"

// UnmarshalText reads a percentage.
func (p *Percent) UnmarshalText(text []byte) error {
	digits, ok := strings.CutSuffix(string(text), "%")
	v, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(v >= 0 && v <= 100) || strings.ContainsAny(digits, "+-eExXpP_") {
		return fmt.Errorf("%s", wantPercent)
	}
	*p = Percent(v / 100)
	return nil
}

// MarshalText writes a percentage as UnmarshalText reads it.
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p Percent) String() string {
	return strconv.FormatFloat(math.Round(float64(p)*1e12)/1e10, 'f', -1, 64) + "%"
}

// Rate is how often something may happen: at most N times within any time Per, written 1/s, 30/15s or 300/m. The zero Rate
// is no bound.
type Rate struct {
	N   int
	Per time.Duration
}

const wantRate = "a number, 1 to 65535, and a time, 100ms to 24h, such as 1/s, 30/15s or 300/1m"

// UnmarshalText reads a rate.
func (r *Rate) UnmarshalText(text []byte) error {
	times, per, ok := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(times, 10, 16)
	if len(per) > 0 && (per[0] < '0' || per[0] > '9') {
		per = "1" + per
	}
	var d Duration
	if !ok || err != nil || n == 0 || strings.HasPrefix(times, "0") || d.UnmarshalText([]byte(per)) != nil || d < Duration(100*time.Millisecond) || d > Duration(24*time.Hour) {
		return fmt.Errorf("%s", wantRate)
	}
	*r = Rate{int(n), time.Duration(d)}
	return nil
}

// MarshalText writes a rate as UnmarshalText reads it; no bound as nothing.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r Rate) String() string {
	if r == (Rate{}) {
		return ""
	}
	return fmt.Sprintf("%d/%v", r.N, Duration(r.Per))
}

// Window is a time of day, From to To after midnight; over midnight where To is before From. The zero Window
// is the whole day.
type Window struct{ From, To time.Duration }

const wantWindow = `a time of day such as "02:00-05:00"`

// UnmarshalText reads a window.
func (w *Window) UnmarshalText(text []byte) error {
	from, to, ok := strings.Cut(string(text), "-")
	a, aok := clock(from)
	b, bok := clock(to)
	if !ok || !aok || !bok || a == b {
		return fmt.Errorf("%s", wantWindow)
	}
	*w = Window{a, b}
	return nil
}

func clock(s string) (time.Duration, bool) {
	t, err := time.Parse("15:04", s)
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err == nil && len(s) == len("15:04")
}

// MarshalText writes a window as UnmarshalText reads it; the whole day as nothing.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

func (w Window) String() string {
	if w == (Window{}) {
		return ""
	}
	at := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60) }
	return at(w.From) + "-" + at(w.To)
}
