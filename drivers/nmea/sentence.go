package nmea

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"

	gonmea "github.com/adrianmo/go-nmea"
)

// maxSentence is the standard's 82 characters and as many again for instruments that write more decimals.
const maxSentence = 164

// sentence is what one sentence says.
type sentence struct {
	address string             // talker and type, such as GPGGA
	values  map[string]float64 // by quantity
	void    []string           // quantities that the instrument says it does not know
	why     string             // for void
	inView  int                // GSV: satellites; -1 otherwise
}

var (
	errForm = errors.New("no NMEA 0183 sentence")
	errSkip = errors.New("of no use")

	form = regexp.MustCompile(`^\$[A-Z]{2}[A-Z0-9]{3}(?:,[ -)+-~]*)\*[0-9A-Fa-f]{2}$`)
	// plain is a number as the standard prints it. The parser also takes NaN, Inf, and 0x1p4.
	plain = regexp.MustCompile(`^-?[0-9]{1,7}(?:\.[0-9]{0,9})?$`)
	lat   = regexp.MustCompile(`^[0-8][0-9][0-5][0-9](?:\.[0-9]{0,9})?$|^9000(?:\.0{0,9})?$`)
	lon   = regexp.MustCompile(`^(?:0[0-9]|1[0-7])[0-9][0-5][0-9](?:\.[0-9]{0,9})?$|^18000(?:\.0{0,9})?$`)
)

// isolate finds the sentence in a line: what follows the last $. Before it may stand the rest of another one,
// noise, or a tag block (NMEA 4.10 §7).
func isolate(line []byte) (string, bool) {
	s := string(line)
	i := strings.LastIndexByte(s, '$')
	if i < 0 {
		return "", false
	}
	s = strings.TrimRight(s[i:], " ")
	return s, len(s) <= maxSentence && form.MatchString(s)
}

// decode reads a sentence, which must have a right checksum. wind is the reference, R or T; magnetic says which
// north headings are counted from. A sentence of another kind has an address and nothing else.
func decode(raw, wind string, magnetic bool) (sentence, error) {
	if !form.MatchString(raw) || len(raw) > maxSentence {
		return sentence{}, errForm
	}
	d := decoder{s: sentence{values: map[string]float64{}, inView: -1}, wind: wind, magnetic: magnetic}
	parser := gonmea.SentenceParser{NaNForEmptyFloat: true, OnBaseSentence: func(b *gonmea.BaseSentence) error {
		d.s.address, d.fields = b.Prefix(), b.Fields
		if least[b.Type] == 0 || b.Talker == "P" || len(b.Fields) < least[b.Type] {
			return errSkip
		}
		return nil
	}}
	parsed, err := parser.Parse(raw)
	if errors.Is(err, errSkip) {
		return d.s, nil
	}
	if err != nil {
		return sentence{}, fmt.Errorf("%s: %w", address(raw), err)
	}
	if err := d.take(parsed); err != nil {
		return sentence{}, fmt.Errorf("%s: %w", d.s.address, err)
	}
	return d.s, nil
}

// address is the address field of a sentence, for messages.
func address(raw string) string {
	a, _, _ := strings.Cut(strings.TrimPrefix(raw, "$"), ",")
	return a
}

// least is how many fields a sentence must have to be read, by type.
var least = map[string]int{
	gonmea.TypeRMC: 11, gonmea.TypeGGA: 14, gonmea.TypeGNS: 12, gonmea.TypeGLL: 6, gonmea.TypeVTG: 8, gonmea.TypeGSV: 3,
	gonmea.TypeDPT: 2, gonmea.TypeDBT: 6, gonmea.TypeMWV: 5, gonmea.TypeMTW: 2, gonmea.TypeMDA: 20, gonmea.TypeMTA: 2, gonmea.TypeXDR: 4,
	gonmea.TypeHDT: 2, gonmea.TypeHDM: 2, gonmea.TypeHDG: 5, gonmea.TypeTHS: 2,
}

const knot = 1852.0 / 3600 // m/s

// noFix are the FAA modes without a measured position: none, manual input, simulator.
const noFix = "NMS"

type decoder struct {
	s        sentence
	fields   []string
	wind     string
	magnetic bool
}

// set takes a value whose field is i; a blank field is none. scale turns it into the quantity's unit, and decimals are what is kept.
func (d *decoder) set(quantity string, i int, v, scale float64, decimals int, low, high float64) error {
	if d.fields[i] == "" {
		d.blank(quantity)
		return nil
	}
	if !plain.MatchString(d.fields[i]) {
		return fmt.Errorf("field %d, %s: %q is no number", i+1, quantity, d.fields[i])
	}
	power := math.Pow10(decimals)
	v = math.Round(v*scale*power) / power
	if !(v >= low && v <= high) {
		return fmt.Errorf("field %d, %s: %g is not %g to %g", i+1, quantity, v, low, high)
	}
	if v == 0 {
		v = 0 // no negative zero
	}
	d.s.values[quantity] = v
	return nil
}

// blank says that a quantity was left out.
func (d *decoder) blank(quantities ...string) {
	d.s.void = append(d.s.void, quantities...)
	d.s.why = blank
}

// nothing says that the instrument disowns quantities.
func (d *decoder) nothing(why string, quantities ...string) {
	d.s.void, d.s.why = append(d.s.void, quantities...), why
}

// position takes latitude and longitude together or not at all; their fields begin at i.
func (d *decoder) position(i int, latitude, longitude float64) error {
	f := d.fields[i : i+4]
	if f[0] == "" && f[2] == "" {
		d.blank("latitude", "longitude")
		return nil
	}
	if !lat.MatchString(f[0]) || f[1] != "N" && f[1] != "S" || !lon.MatchString(f[2]) || f[3] != "E" && f[3] != "W" {
		return fmt.Errorf("position %q: want ddmm.mmm,N,dddmm.mmm,E", strings.Join(f, ","))
	}
	const places = 1e7 // about 1 cm
	d.s.values["latitude"] = math.Round(latitude*places)/places + 0
	d.s.values["longitude"] = math.Round(longitude*places)/places + 0
	return nil
}

// unit says that field i holds a unit.
func (d *decoder) unit(i int, units string) error {
	if d.fields[i] == "" || !strings.Contains(units, d.fields[i]) {
		return fmt.Errorf("field %d: unit %q: want %s", i+1, d.fields[i], units)
	}
	return nil
}

func (d *decoder) void(mode string) bool { return mode != "" && strings.Contains(noFix, mode) }

// Why there is no value.
const (
	noFixYet = "no fix yet"
	blank    = "left blank"
)

func (d *decoder) take(parsed gonmea.Sentence) error {
	switch m := parsed.(type) {
	case gonmea.RMC:
		if m.Validity != gonmea.ValidRMC || d.void(m.FFAMode) {
			d.nothing(noFixYet, "latitude", "longitude", "speed", "course")
			return nil
		}
		return errors.Join(d.position(2, m.Latitude, m.Longitude), d.set("speed", 6, m.Speed, knot, 3, 0, 2000), d.set("course", 7, m.Course, 1, 2, 0, 360))
	case gonmea.GLL:
		if m.Validity != gonmea.ValidGLL || d.void(m.FFAMode) {
			d.nothing(noFixYet, "latitude", "longitude")
			return nil
		}
		return d.position(0, m.Latitude, m.Longitude)
	case gonmea.VTG:
		if d.void(m.FFAMode) {
			d.nothing(noFixYet, "speed", "course")
			return nil
		}
		if d.fields[1] != "T" || d.fields[5] != "N" { // written before NMEA 2, without units
			return nil
		}
		return errors.Join(d.set("speed", 4, m.GroundSpeedKnots, knot, 3, 0, 2000), d.set("course", 0, m.TrueTrack, 1, 2, 0, 360))
	case gonmea.GGA:
		quality := d.fields[5]
		if quality == "" {
			return errors.New("no fix quality")
		}
		err := errors.Join(d.set("quality", 5, float64(quality[0]-'0'), 1, 0, 0, 6), d.set("satellites", 6, float64(m.NumSatellites), 1, 0, 0, 99))
		if quality == gonmea.Invalid {
			d.nothing(noFixYet, "latitude", "longitude", "altitude", "hdop")
			return err
		}
		if d.fields[8] != "" {
			err = errors.Join(err, d.unit(9, "M"))
		}
		return errors.Join(err, d.position(1, m.Latitude, m.Longitude), d.set("hdop", 7, m.HDOP, 1, 2, 0, 100), d.set("altitude", 8, m.Altitude, 1, 3, -20000, 1e6))
	case gonmea.GNS:
		err := d.set("satellites", 6, float64(m.SVs), 1, 0, 0, 99)
		if strings.Trim(d.fields[5], noFix) == "" {
			d.nothing(noFixYet, "latitude", "longitude", "altitude", "hdop")
			return err
		}
		return errors.Join(err, d.position(1, m.Latitude, m.Longitude), d.set("hdop", 7, m.HDOP, 1, 2, 0, 100), d.set("altitude", 8, m.Altitude, 1, 3, -20000, 1e6))
	case gonmea.GSV:
		if n := m.NumberSVsInView; n >= 0 && n <= 99 {
			d.s.inView = int(n)
		}
	case gonmea.DPT: // below the transducer, as DBT
		return d.set("depth", 0, m.Depth, 1, 3, 0, 12000)
	case gonmea.DBT:
		if d.fields[2] == "" {
			d.blank("depth")
			return nil
		}
		return errors.Join(d.unit(3, "M"), d.set("depth", 2, m.DepthMeters, 1, 3, 0, 12000))
	case gonmea.MWV:
		if m.Reference != d.wind {
			return nil
		}
		if !m.StatusValid {
			d.nothing("status V", "wind-speed", "wind-angle")
			return nil
		}
		scale, ok := map[string]float64{gonmea.UnitKMHMWV: 1 / 3.6, gonmea.UnitMSMWV: 1, gonmea.UnitKnotsMWV: knot, gonmea.UnitSMilesHMWV: 0.44704}[m.WindSpeedUnit]
		if !ok {
			return fmt.Errorf("unit %q: want K, M, N or S", m.WindSpeedUnit)
		}
		return errors.Join(d.set("wind-angle", 0, m.WindAngle, 1, 2, 0, 360), d.set("wind-speed", 2, m.WindSpeed, scale, 3, 0, 200))
	case gonmea.MTW:
		return d.celsius("water-temperature", 0, m.Temperature)
	case gonmea.MTA:
		return d.celsius("air-temperature", 0, m.Temperature)
	case gonmea.MDA:
		var err error
		if d.fields[4] != "" {
			err = d.celsius("air-temperature", 4, m.AirTemp)
		}
		if d.fields[6] != "" {
			err = errors.Join(err, d.celsius("water-temperature", 6, m.WaterTemp))
		}
		return err
	case gonmea.XDR:
		for i, x := range m.Measurements {
			if x.TransducerType == gonmea.TransducerTemperatureXDR && strings.Contains(strings.ToLower(x.TransducerName), "air") {
				return d.celsius("air-temperature", 4*i+1, x.Value)
			}
		}
	case gonmea.HDT:
		if d.magnetic {
			return nil
		}
		return errors.Join(d.unit(1, "T"), d.set("heading", 0, m.Heading, 1, 2, 0, 360))
	case gonmea.THS:
		if d.magnetic {
			return nil
		}
		if m.Status != gonmea.AutonomousTHS {
			d.nothing("mode "+m.Status, "heading")
			return nil
		}
		return d.set("heading", 0, m.Heading, 1, 2, 0, 360)
	case gonmea.HDM:
		if !d.magnetic {
			return nil
		}
		return errors.Join(d.unit(1, "M"), d.set("heading", 0, m.Heading, 1, 2, 0, 360))
	case gonmea.HDG:
		return d.compass(m)
	}
	return nil
}

func (d *decoder) celsius(quantity string, i int, v float64) error {
	if d.fields[i] == "" {
		d.blank(quantity)
		return nil
	}
	return errors.Join(d.unit(i+1, "C"), d.set(quantity, i, v, 1, 3, -100, 100))
}

// compass turns a compass's heading into a magnetic one by its deviation, and that into a true one by the variation.
func (d *decoder) compass(m gonmea.HDG) error {
	heading := m.Heading
	for _, x := range []struct {
		i    int
		v    float64
		want bool // it has to be there
		name string
	}{{1, m.Deviation, false, "deviation"}, {3, m.Variation, !d.magnetic, "variation"}} {
		switch text := d.fields[x.i]; {
		case x.name == "variation" && d.magnetic:
			continue
		case text == "" && x.want:
			d.nothing("HDG has no "+x.name+": heading: magnetic takes it as it is", "heading")
			return nil
		case text == "":
			continue
		case !plain.MatchString(text):
			return fmt.Errorf("%s %q is no number", x.name, text)
		}
		if err := d.unit(x.i+1, "EW"); err != nil {
			return err
		}
		if d.fields[x.i+1] == "W" {
			x.v = -x.v
		}
		heading += x.v
	}
	if d.fields[0] != "" {
		heading = math.Mod(heading+720, 360)
	}
	return d.set("heading", 0, heading, 1, 2, 0, 360)
}
