package ota

import (
	"fmt"
	"hash/fnv"
	"time"
)

// Window is a time of day in which a staged release may be started, such as 22:00-02:00. The zero value is always open. Both ends
// are minutes after midnight, by the wall clock of the zone it is asked in; it may run over midnight.
type Window struct{ From, To int }

// ParseWindow reads "HH:MM-HH:MM", 00:00 to 24:00; "" is the whole day.
func ParseWindow(text string) (Window, error) {
	if text == "" {
		return Window{}, nil
	}
	bad := fmt.Errorf("ota: window %.32q: want a time of day from-to, such as 02:00-05:00", text)
	if len(text) != len("02:00-05:00") || text[5] != '-' {
		return Window{}, bad
	}
	minutes := func(s string) int {
		for _, i := range []int{0, 1, 3, 4} {
			if s[i] < '0' || s[i] > '9' {
				return -1
			}
		}
		h, m := int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
		if s[2] != ':' || m > 59 || h*60+m > 24*60 {
			return -1
		}
		return h*60 + m
	}
	w := Window{minutes(text[:5]), minutes(text[6:])}
	if w.From < 0 || w.To < 0 || w.From == w.To {
		return Window{}, bad
	}
	return w, nil
}

// String is what ParseWindow reads.
func (w Window) String() string {
	if w == (Window{}) {
		return ""
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d", w.From/60, w.From%60, w.To/60, w.To%60)
}

// minutes is how long it is.
func (w Window) minutes() int {
	if w.To > w.From {
		return w.To - w.From
	}
	return w.To + 24*60 - w.From
}

// Wait is how long from now until it is open; 0: it is. key moves the opening by up to half of the window, the same for each key,
// so that a fleet does not restart at one moment.
func (w Window) Wait(now time.Time, key string) time.Duration {
	if w == (Window{}) {
		return 0
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // never fails
	late := int(h.Sum32() % uint32(w.minutes()/2+1))
	open := Window{(w.From + late) % (24 * 60), w.To}
	day, month := now.Day(), now.Month()
	at := now.Hour()*60 + now.Minute()
	if in := (at - open.From + 24*60) % (24 * 60); in < open.minutes() {
		return 0
	}
	next := time.Date(now.Year(), month, day, open.From/60, open.From%60, 0, 0, now.Location())
	if !next.After(now) {
		next = time.Date(now.Year(), month, day+1, open.From/60, open.From%60, 0, 0, now.Location())
	}
	return max(next.Sub(now), time.Second) // a clock set back within a day of summer time
}
