package status

import (
	"fmt"
	"io"
	"strings"
)

// WriteMetrics writes s in the Prometheus text format, version 0.0.4. Names are stable.
func WriteMetrics(w io.Writer, s Status) {
	m := metrics{w: w}
	m.gauge("homeward_info", "Always 1; the labels tell who this is.", 1, "gateway", s.Gateway, "version", s.Version, "project", s.Home.Project)
	m.gauge("homeward_uptime_seconds", "Since the agent started.", float64(s.UptimeS))
	m.gauge("homeward_home_connected", "1 while a session is up.", flag(s.Publish.Connected))
	m.gauge("homeward_home_proven", "1 while the path to the home is proven.", flag(s.Home.State == "proven"))
	m.gauge("homeward_clock_trusted", "1 while the clock is synchronised.", flag(s.Clock.Trusted))
	m.gauge("homeward_buffer_pending_readings", "Readings without an outcome.", float64(s.Buffer.Pending))
	m.gauge("homeward_buffer_oldest_seconds", "Age of the oldest of them.", s.Buffer.OldestAgeS)
	m.gauge("homeward_buffer_bytes", "Size of the buffer's folder.", float64(s.Buffer.Bytes))
	m.gauge("homeward_buffer_max_bytes", "Its bound.", float64(s.Buffer.MaxBytes))
	m.counter("homeward_buffer_dropped_readings_total", "Readings given up, each in a gap record; those that gave way to aggregates among them.", float64(s.Buffer.Dropped))
	m.counter("homeward_buffer_gaps_total", "Gap records made.", float64(s.Buffer.Gaps))
	m.counter("homeward_buffer_flushes_total", "Flushes since the start.", float64(s.Buffer.Flushes))
	m.gauge("homeward_buffer_thinned_kept_readings", "Readings that aggregates stand for, still stored.", float64(s.Buffer.ThinnedKept))
	m.counter("homeward_publish_payloads_total", "Payloads acknowledged since the start.", float64(s.Publish.Payloads))
	m.counter("homeward_publish_readings_total", "Readings in them.", float64(s.Publish.Readings))
	m.counter("homeward_publish_readings_thinned_total", "Readings that gave way to aggregates since the start.", float64(s.Publish.Thinned))
	m.counter("homeward_publish_operations_total", "Operations of the payloads tried since the start, repeats included.", float64(s.Publish.Operations))
	m.counter("homeward_publish_bytes_total", "Bytes of those payloads.", float64(s.Publish.Bytes))
	m.counter("homeward_publish_connects_total", "Sessions opened since the start.", float64(s.Publish.Connects))
	m.gauge("homeward_operations_used", "Billed operations counted this billing month, repeats included; never fewer than were sent.", float64(s.Operations.Used))
	m.gauge("homeward_operations_alarms", "Of those, for alarms.", float64(s.Operations.Alarms))
	m.gauge("homeward_operations_forecast", "Operations at the month's end, at the rate of the last day and within the budget where at_limit keeps to it.", float64(s.Operations.Forecast))
	m.gauge("homeward_operations_one_per_reading", "What one publish for each reading sent would have cost this billing month.", float64(s.Operations.OnePerReading))
	m.family("homeward_operations_unbilled", "gauge", "Operations of publishes without readings this billing month, by what is known of their cost; not among those used.")
	m.sample("homeward_operations_unbilled", float64(s.Operations.Free), "class", "free")
	m.sample("homeward_operations_unbilled", float64(s.Operations.Unknown), "class", "unknown")
	if s.Operations.Budget != nil {
		m.gauge("homeward_operations_budget", "Operations allowed this billing month.", float64(*s.Operations.Budget))
	}
	if s.Operations.Reserve != nil {
		m.gauge("homeward_operations_reserve", "Of the budget, for alarms.", float64(*s.Operations.Reserve))
	}
	if s.Operations.Left != nil {
		m.gauge("homeward_operations_left", "Of the budget, left for readings that are no alarms.", float64(*s.Operations.Left))
	}
	if s.Operations.PerHour != nil {
		m.gauge("homeward_operations_per_hour", "Operations an hour that the budget allows from now on.", *s.Operations.PerHour)
	}
	m.family("homeward_update_state", "gauge", "Always 1; the label tells how updates stand.")
	m.sample("homeward_update_state", 1, "state", s.Update.State)
	m.gauge("homeward_update_release", "Counter of the running release; 0: what the package brought.", float64(s.Update.Counter))
	m.gauge("homeward_update_bytes_today", "Fetched from the fleet's repository today; no data operations.", float64(s.Update.Bytes.Today))
	if s.Update.Checked != nil {
		m.gauge("homeward_update_checked_seconds", "When the repository was last looked at, Unix time.", float64(s.Update.Checked.Unix()))
	}
	m.family("homeward_operations_limit", "gauge", "Always 1; the label tells what the budget makes of publishing now.")
	m.sample("homeward_operations_limit", 1, "state", s.Operations.LimitState)
	m.gauge("homeward_publish_max_age_seconds", "The present maximum age: after it a payload leaves though it is not full; what the budget does not carry waits longer.", s.Publish.MaxAgeS)
	m.gauge("homeward_publish_max_age_configured_seconds", "The same while the budget carries all: publish.max_age.", s.Publish.ConfiguredMaxAgeS)
	m.family("homeward_sensor_ok", "gauge", "1 while the sensor's last poll was good.")
	for _, x := range s.Sensors {
		m.sample("homeward_sensor_ok", flag(x.State == "ok"), "sensor", x.Name, "driver", x.Driver)
	}
	for _, c := range []struct {
		name, help string
		value      func(Sensor) uint64
	}{
		{"homeward_sensor_readings_total", "Readings recorded.", func(x Sensor) uint64 { return x.Readings }},
		{"homeward_sensor_errors_total", "Polls that failed, in whole or in part.", func(x Sensor) uint64 { return x.Errors }},
		{"homeward_sensor_missed_total", "Ticks that passed without a poll.", func(x Sensor) uint64 { return x.Missed }},
	} {
		m.family(c.name, "counter", c.help)
		for _, x := range s.Sensors {
			m.sample(c.name, float64(c.value(x)), "sensor", x.Name, "driver", x.Driver)
		}
	}
	m.family("homeward_problem", "gauge", "1 for each present problem.")
	for _, p := range s.Problems {
		m.sample("homeward_problem", 1, "code", p.Code, "subject", p.Subject, "severity", string(p.Severity))
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

type metrics struct{ w io.Writer }

func (m metrics) family(name, kind, help string) {
	fmt.Fprintf(m.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (m metrics) gauge(name, help string, v float64, labels ...string) {
	m.family(name, "gauge", help)
	m.sample(name, v, labels...)
}

func (m metrics) counter(name, help string, v float64) {
	m.family(name, "counter", help)
	m.sample(name, v)
}

var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func (m metrics) sample(name string, v float64, labels ...string) {
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+`="`+escape.Replace(labels[i+1])+`"`)
	}
	if len(pairs) > 0 {
		name += "{" + strings.Join(pairs, ",") + "}"
	}
	fmt.Fprintf(m.w, "%s %v\n", name, v)
}
