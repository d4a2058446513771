package ledger

import "time"

// Month is the billing month that now lies in: it begins on billingDay at midnight of the zone (nil: UTC), in months
// that are too short on their last day, and ends where the next begins. billingDay is 1
// to 31.
func Month(now time.Time, billingDay int, zone *time.Location) (start, end time.Time) {
	if zone == nil {
		zone = time.UTC
	}
	now = now.In(zone)
	year, month, _ := now.Date()
	start = begins(year, month, billingDay, zone)
	if now.Before(start) {
		return begins(year, month-1, billingDay, zone), start
	}
	return start, begins(year, month+1, billingDay, zone)
}

// begins is the billing day of a month; months may lie outside of January to December.
func begins(year int, month time.Month, day int, zone *time.Location) time.Time {
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC)
	return time.Date(year, month, min(max(day, 1), last.Day()), 0, 0, 0, 0, zone)
}
