package sim

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"homeward/drivers"
)

// TalkFault is what a talker does wrong. The zero value is a healthy one.
type TalkFault struct {
	Silent   bool          // nothing is said
	Late     time.Duration // a burst comes this much later than its values
	Truncate int           // only this many bytes of a burst are sent
	Corrupt  bool          // NMEA: wrong checksums; lines: a digit with its top bit set
	Noise    []byte        // comes right before a burst
	Times    int           // how many bursts it lasts; 0 until it is changed
}

// Talker is a [SerialDevice] that says a burst every so often. A value is told as served when the
// sentence or line that holds it has been written whole, as a float64 of what was printed. It is safe for use by several goroutines.
type Talker struct {
	// Ask, if set, is what a listener has to send to get one burst; nothing is said unasked.
	// Set it before serving.
	Ask []byte

	w     *World
	name  string
	every time.Duration
	burst func(at time.Time) []utterance

	mu     sync.Mutex // protects the following
	fault  TalkFault
	bursts int
}

// utterance is one sentence or line, with its terminator.
type utterance struct {
	text   string
	values []printed
}

type printed struct {
	channel string
	value   float64
}

// SetFault sets what goes wrong from the next burst on.
func (d *Talker) SetFault(f TalkFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// Bursts says how many bursts have been due, silent ones included.
func (d *Talker) Bursts() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bursts
}

// take counts a burst and takes one use of the fault.
func (d *Talker) take() TalkFault {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bursts++
	f := d.fault
	if f.Times > 0 {
		if d.fault.Times--; d.fault.Times == 0 {
			d.fault = TalkFault{}
		}
	}
	return f
}

// Serve implements [SerialDevice].
func (d *Talker) Serve(ctx context.Context, rw io.ReadWriter, line drivers.Line) error {
	ctx, cancel := context.WithCancel(ctx)
	var talking sync.WaitGroup
	defer talking.Wait()
	defer cancel()
	if d.Ask == nil {
		talking.Go(func() {
			for next := time.Now().Add(d.every); pause(ctx, time.Until(next)) == nil; {
				if d.say(ctx, rw, line) != nil {
					return
				}
				// Nobody may have read for long: bursts never bunch.
				for next = next.Add(d.every); time.Until(next) < 0; next = next.Add(d.every) {
				}
			}
		})
	}
	// What comes in is read so that a lost line is noticed.
	var got string
	chunk := make([]byte, 256)
	for {
		n, err := rw.Read(chunk)
		if err != nil {
			return err
		}
		if d.Ask == nil {
			continue
		}
		got += string(chunk[:n])
		for strings.Contains(got, string(d.Ask)) {
			_, got, _ = strings.Cut(got, string(d.Ask))
			if err := d.say(ctx, rw, line); err != nil {
				return err
			}
		}
		got = got[max(0, len(got)-len(d.Ask)+1):]
	}
}

// say says one burst.
func (d *Talker) say(ctx context.Context, w io.Writer, line drivers.Line) error {
	f := d.take()
	if f.Silent {
		return nil
	}
	at := d.w.now()
	said := d.burst(at)
	if err := pause(ctx, f.Late); f.Late > 0 && err != nil {
		return err
	}
	if err := WritePaced(ctx, w, line, f.Noise); err != nil {
		return err
	}
	left := math.MaxInt
	if f.Truncate > 0 {
		left = f.Truncate
	}
	for _, u := range said {
		text := u.text
		if f.Corrupt {
			text = spoil(text)
		}
		text = text[:min(len(text), left)]
		left -= len(text)
		if err := WritePaced(ctx, w, line, []byte(text)); err != nil {
			return err
		}
		if text != u.text {
			continue
		}
		for _, v := range u.values {
			d.w.served(d.name+"/"+v.channel, v.value, at)
		}
	}
	return nil
}

// spoil damages a sentence's checksum, or a line's first digit in a way that no text has.
func spoil(text string) string {
	b := []byte(text)
	if star := strings.LastIndexByte(text, '*'); text[0] == '$' && star >= 0 && star+1 < len(b) {
		if b[star+1]++; b[star+1] == '9'+1 || b[star+1] > 'F' {
			b[star+1] = '0'
		}
		return string(b)
	}
	if i := strings.IndexAny(text, "0123456789"); i >= 0 {
		b[i] |= 0x80
	}
	return string(b)
}

// ServeTCP lets up to 16 clients listen at once until ctx ends, as a serial device server does. It closes l, and returns with
// nothing of its own still running.
func (d *Talker) ServeTCP(ctx context.Context, l net.Listener) error {
	return serveTCP(ctx, l, func(ctx context.Context, c net.Conn) {
		_ = d.Serve(ctx, c, drivers.Line{}) // ends when the client leaves
	})
}

// serveTCP gives each client of l, at most 16 at once, to handle, whose connection is closed when it returns or ctx ends.
func serveTCP(ctx context.Context, l net.Listener, handle func(context.Context, net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	slots := make(chan struct{}, 16)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("sim: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		clients.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			handle(ctx, c)
		})
	}
}

// LineValue is a quantity that a line protocol prints.
type LineValue struct {
	Name  string // in the format, and as it is told
	Value Value
}

var placeholder = regexp.MustCompile(`\{([A-Za-z0-9_.-]+)(?::(%[-+ 0]*[0-9]{0,2}(?:\.[0-9]{1,2})?[dfeg]))?\}`)

// CheckLines says what is wrong with the arguments of [NewLines].
func CheckLines(format string, channels []LineValue) error {
	names := map[string]bool{}
	for _, c := range channels {
		names[c.Name] = true
	}
	for _, m := range placeholder.FindAllStringSubmatch(format, -1) {
		if !names[m[1]] {
			return fmt.Errorf("sim: line %q: %s is no channel", format, m[0])
		}
		delete(names, m[1])
	}
	if rest := placeholder.ReplaceAllString(format, ""); strings.ContainsAny(rest, "{}") {
		return fmt.Errorf("sim: line %q: want {channel} or {channel:%%.2f}, with one of d, f, e and g", format)
	}
	for _, c := range channels {
		if names[c.Name] {
			return fmt.Errorf("sim: line %q: no {%s}", format, c.Name)
		}
	}
	return nil
}

// NewLines makes an instrument such as a scale or a meter: a line every so often, ended with CR LF. format
// has {channel} or, with a verb of package fmt, {channel:%.2f} where a value stands; see [CheckLines].
func NewLines(w *World, name string, every time.Duration, format string, channels []LineValue) *Talker {
	values := map[string]Value{}
	for _, c := range channels {
		values[c.Name] = c.Value
	}
	return &Talker{w: w, name: name, every: every, burst: func(at time.Time) []utterance {
		var u utterance
		u.text = placeholder.ReplaceAllStringFunc(format, func(s string) string {
			m := placeholder.FindStringSubmatch(s)
			value := values[m[1]]
			if value == nil {
				return s
			}
			var text string
			switch v := value(at); {
			case m[2] == "":
				text = strconv.FormatFloat(v, 'f', -1, 64)
			case strings.HasSuffix(m[2], "d"):
				text = fmt.Sprintf(m[2], int64(math.Round(v)))
			default:
				text = fmt.Sprintf(m[2], v)
			}
			if v, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil {
				u.values = append(u.values, printed{m[1], v})
			}
			return text
		}) + "\r\n"
		return []utterance{u}
	}}
}

// NMEAQuantities are what [NewNMEA] can say.
func NMEAQuantities() []Quantity {
	return []Quantity{
		{"latitude", "lat", 48.1173, 2e-7}, {"longitude", "lon", 11.516667, 2e-7}, {"altitude", "m", 545.4, 0.05},
		{"speed", "m/s", 11.5, 0.001}, {"course", "deg", 84.4, 0.01}, {"satellites", "count", 8, 0}, {"quality", "", 1, 0}, {"hdop", "", 0.9, 0.01},
		{"depth", "m", 4.2, 0.01}, {"wind-speed", "m/s", 5.1, 0.01}, {"wind-angle", "deg", 214.8, 0.1},
		{"water-temperature", "Cel", 17.9, 0.1}, {"air-temperature", "Cel", 21.3, 0.1}, {"heading", "deg", 98.3, 0.1},
	}
}

// NewNMEA makes a ship's or vehicle's instruments on one line: an epoch of NMEA 0183 sentences every so often, of
// several talkers (GN, GP, GL, SD, WI, YX, HE). values are keyed as the nmea driver's channels; a
// position is said when any of its quantities is given, or none at all. quality 0 is a receiver without a fix.
func NewNMEA(w *World, name string, every time.Duration, values map[string]Value) *Talker {
	defaults := map[string]float64{}
	for _, q := range NMEAQuantities() {
		defaults[q.Name] = q.Default
	}
	position := len(values) == 0
	for _, q := range NMEAQuantities()[:8] {
		position = position || values[q.Name] != nil
	}
	return &Talker{w: w, name: name, every: every, burst: func(at time.Time) []utterance {
		value := func(name string) float64 { return or(values[name], defaults[name])(at) }
		var said []utterance
		// say prints a sentence; values are told as they were printed.
		say := func(format string, args ...any) {
			var u utterance
			for i, a := range args {
				if p, ok := a.(printed); ok {
					u.values = append(u.values, p)
					args[i] = nil
				}
			}
			var text []any
			for _, a := range args {
				if a != nil {
					text = append(text, a)
				}
			}
			body := fmt.Sprintf(format, text...)
			var sum byte
			for i := range len(body) {
				sum ^= body[i]
			}
			u.text = fmt.Sprintf("$%s*%02X\r\n", body, sum)
			said = append(said, u)
		}
		// of prints a quantity with decimals, and gives what that means.
		of := func(name string, decimals int) (string, printed) {
			text := strconv.FormatFloat(value(name), 'f', decimals, 64)
			v, _ := strconv.ParseFloat(text, 64)
			return text, printed{name, v}
		}
		if position {
			clock, date := at.UTC().Format("150405.00"), at.UTC().Format("020106")
			quality, qualityP := of("quality", 0)
			_, satsP := of("satellites", 0)
			sats := fmt.Sprintf("%02.0f", satsP.value)
			if qualityP.value == 0 {
				say("GNRMC,%s,V,,,,,,,%s,,,N", clock, date)
				say("GNGGA,%s,,,,,0,%s,99.99,,,,,,", clock, sats, qualityP, satsP)
			} else {
				lat, latP := angle("latitude", value("latitude"), 2, "NS")
				lon, lonP := angle("longitude", value("longitude"), 3, "EW")
				knots := strconv.FormatFloat(value("speed")*3600/1852, 'f', 3, 64)
				kn, _ := strconv.ParseFloat(knots, 64)
				speedP := printed{"speed", math.Round(kn*1852/3600*1e3) / 1e3}
				course, courseP := of("course", 2)
				alt, altP := of("altitude", 1)
				hdop, hdopP := of("hdop", 2)
				say("GNRMC,%s,A,%s,%s,%s,%s,%s,,,A", clock, lat, lon, knots, course, date, latP, lonP, speedP, courseP)
				say("GNVTG,%s,T,,M,%s,N,%.3f,K,A", course, knots, kn*1.852, speedP, courseP) // said again, and heard again by whoever reads from here on
				say("GNGGA,%s,%s,%s,%s,%s,%s,%s,M,46.9,M,,", clock, lat, lon, quality, sats, hdop, alt, qualityP, satsP, hdopP, altP, latP, lonP)
			}
			say("GPGSV,1,1,03,03,03,111,00,04,15,270,00,06,01,010,00")
			say("GLGSV,1,1,01,65,12,090,")
		}
		if values["depth"] != nil {
			depth, p := of("depth", 2)
			say("SDDPT,%s,0.3", depth, p)
		}
		if values["wind-speed"] != nil || values["wind-angle"] != nil {
			a, pa := of("wind-angle", 1)
			s, ps := of("wind-speed", 2)
			say("WIMWV,%s,R,%s,M,A", a, s, pa, ps)
		}
		if values["water-temperature"] != nil {
			t, p := of("water-temperature", 1)
			say("YXMTW,%s,C", t, p)
		}
		if values["air-temperature"] != nil {
			t, p := of("air-temperature", 1)
			say("WIXDR,C,%s,C,TempAir", t, p)
		}
		if values["heading"] != nil {
			h, p := of("heading", 1)
			say("HEHDT,%s,T", h, p)
		}
		return said
	}}
}

// angle prints degrees as (d)ddmm.mmmmm and a hemisphere, and gives what that means, to 1e-7.
func angle(name string, v float64, digits int, hemispheres string) (string, printed) {
	h, sign := hemispheres[:1], 1.0
	if v < 0 {
		h, sign = hemispheres[1:], -1
	}
	units := math.Round(math.Abs(v) * 60 * 1e5) // of 1e-5 minutes
	deg, minutes := math.Floor(units/60e5), math.Mod(units, 60e5)/1e5
	text := fmt.Sprintf("%0*d%08.5f,%s", digits, int(deg), minutes, h)
	return text, printed{name, sign * math.Round((deg+minutes/60)*1e7) / 1e7}
}
