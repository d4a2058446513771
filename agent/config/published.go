package config

import "time"

// PublishedTime is the time of a reading of s as it is published: the multiple of time_resolution that is nearest to when it was
// taken, halves later; both in Unix ms.
func (s *Sensor) PublishedTime(taken int64) int64 {
	res := time.Duration(s.TimeResolution).Milliseconds()
	if res < 2 {
		return taken
	}
	rest := taken % res
	if rest < 0 {
		rest += res
	}
	if rest*2 >= res {
		return taken - rest + res
	}
	return taken - rest
}
