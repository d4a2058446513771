package nmea

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"homeward/drivers/drivertest"
)

// sum completes a sentence with its checksum.
func sum(body string) string {
	var c byte
	for i := range len(body) {
		c ^= body[i]
	}
	return fmt.Sprintf("$%s*%02X", body, c)
}

type values = map[string]float64

// TestDocumentedSentences: examples of others' documentation, with their checksums as printed there. gpsd: "NMEA
// Revealed", gpsd.gitlab.io/gpsd/NMEA.html; go-nmea: the comment of the type, v1.11.0.
func TestDocumentedSentences(t *testing.T) {
	for _, c := range []struct {
		from, raw string
		want      values
	}{
		{"go-nmea RMC", "$GNRMC,220516,A,5133.82,N,00042.24,W,173.8,231.8,130694,004.2,W*6E", values{"latitude": 51.5636667, "longitude": -0.704, "speed": 89.410, "course": 231.8}},
		{"go-nmea GGA", "$GNGGA,203415.000,6325.6138,N,01021.4290,E,1,8,2.42,72.5,M,41.5,M,,*7C", values{"latitude": 63.4268967, "longitude": 10.35715, "altitude": 72.5, "satellites": 8, "quality": 1, "hdop": 2.42}},
		{"go-nmea GLL", "$IIGLL,5924.462,N,01030.048,E,062216,A*38", values{"latitude": 59.4077, "longitude": 10.5008}},
		{"go-nmea GLL, NMEA 2.3", "$GNGLL,4404.14012,N,12118.85993,W,001037.00,A,A*67", values{"latitude": 44.0690020, "longitude": -121.3143322}},
		{"go-nmea GNS", "$GNGNS,014035.00,4332.69262,S,17235.48549,E,RR,13,0.9,25.63,11.24,,*70", values{"latitude": -43.5448770, "longitude": 172.5914248, "altitude": 25.63, "satellites": 13, "hdop": 0.9}},
		{"go-nmea VTG", "$GPVTG,45.5,T,67.5,M,30.45,N,56.40,K*4B", values{"course": 45.5, "speed": 15.665}},
		{"go-nmea VTG, NMEA 2.3", "$GPVTG,220.86,T,,M,2.550,N,4.724,K,A*34", values{"course": 220.86, "speed": 1.312}},
		{"go-nmea DPT", "$SDDPT,0.5,0.5,*7B", values{"depth": 0.5}},
		{"go-nmea DBT", "$IIDBT,032.93,f,010.04,M,005.42,F*2C", values{"depth": 10.04}},
		{"go-nmea MWV, true", "$WIMWV,12.1,T,10.1,N,A*27", values{}},
		{"go-nmea MTW", "$INMTW,17.9,C*1B", values{"water-temperature": 17.9}},
		{"go-nmea MDA", "$WIMDA,3.02,I,1.01,B,23.4,C,,,40.2,,12.1,C,19.3,T,20.1,M,13.1,N,1.1,M*62", values{"air-temperature": 23.4}},
		{"go-nmea HDT", "$GPHDT,274.07,T*03", values{"heading": 274.07}},
		{"go-nmea HDG, 12.6 W", "$HCHDG,98.3,0.0,E,12.6,W*57", values{"heading": 85.7}},
		{"go-nmea HDM, magnetic", "$HCHDM,093.8,M*2B", values{}},
		{"go-nmea XDR, no air", "$HCXDR,A,171,D,PITCH,A,-37,D,ROLL,G,367,,MAGX,G,2420,,MAGY,G,-8984,,MAGZ*41", values{}},
		{"gpsd GGA", "$GNGGA,001043.00,4404.14036,N,12118.85961,W,1,12,0.98,1113.0,M,-21.3,M,,*47", values{"latitude": 44.0690060, "longitude": -121.3143268, "altitude": 1113, "satellites": 12, "quality": 1, "hdop": 0.98}},
		{"gpsd RMC", "$GNRMC,001031.00,A,4404.13993,N,12118.86023,W,0.146,,100117,,,A*7B", values{"latitude": 44.0689988, "longitude": -121.3143372, "speed": 0.075}},
		{"gpsd GNS", "$GPGNS,224749.00,3333.4268304,N,11153.3538273,W,D,19,0.6,406.110,-26.294,6.0,0138,S*6A", values{"latitude": 33.5571138, "longitude": -111.8892305, "altitude": 406.11, "satellites": 19, "hdop": 0.6}},
	} {
		s, err := decode(c.raw, "R", false)
		require.NoError(t, err, c.from)
		require.InDeltaMapValues(t, c.want, s.values, 1e-9, c.from)
		require.Len(t, s.values, len(c.want), c.from)
	}
	for raw, want := range map[string]values{
		"$WIMWV,12.1,T,10.1,N,A*27": {"wind-angle": 12.1, "wind-speed": 5.196},
		"$HCHDM,093.8,M*2B":         {"heading": 93.8},
	} {
		s, err := decode(raw, "T", true)
		require.NoError(t, err)
		require.Equal(t, want, s.values)
	}
}

// TestDecode: what is right, disowned, of no use, and wrong.
func TestDecode(t *testing.T) {
	for body, want := range map[string]string{
		// disowned
		"GPRMC,220516,V,5133.82,N,00042.24,W,173.8,231.8,130694,004.2,W":   "void no fix yet: latitude longitude speed course",
		"GPRMC,220516,A,5133.82,N,00042.24,W,173.8,231.8,130694,004.2,W,N": "void no fix yet: latitude longitude speed course",
		"GPRMC,220516,A,5133.82,N,00042.24,W,173.8,231.8,130694,004.2,W,S": "void no fix yet: latitude longitude speed course",
		"GPGGA,203415,,,,,0,02,99.99,,,,,,":                                "quality=0 satellites=2 void no fix yet: latitude longitude altitude hdop",
		"GNGNS,014035.00,,,,,NN,00,99.9,,,,":                               "satellites=0 void no fix yet: latitude longitude altitude hdop",
		"GPGLL,,,,,062216,V,N":                                             "void no fix yet: latitude longitude",
		"GPVTG,,T,,M,,N,,K,N":                                              "void no fix yet: speed course",
		"GPVTG,,T,,M,0.1,N,0.2,K,A":                                        "speed=0.051 void left blank: course",
		"WIMWV,12.1,R,10.1,N,V":                                            "void status V: wind-speed wind-angle",
		"SDDPT,,0.5":                                                       "void left blank: depth",
		"SDDBT,,f,,M,,F":                                                   "void left blank: depth",
		"GPTHS,338.01,A":                                                   "heading=338.01",
		"GPTHS,338.01,V":                                                   "void mode V: heading",
		"HCHDG,98.3,,,,":                                                   "void HDG has no variation: heading: magnetic takes it as it is: heading",
		"GPRMC,220516,A,,,,,1.0,2.0,130694,,":                              "speed=0.514 course=2 void left blank: latitude longitude",
		// right
		"WIMWV,359.9,R,36,K,A":                                "wind-speed=10 wind-angle=359.9",
		"WIMWV,0,R,10,S,A":                                    "wind-speed=4.47 wind-angle=0",
		"WIXDR,P,1.02481,B,Barometer,C,19.5,C,TempAir":        "air-temperature=19.5",
		"WIMTA,-0.04,C":                                       "air-temperature=-0.04",
		"WIMDA,,I,,B,,C,11.1,C,,,,C,,T,,M,,N,,M":              "water-temperature=11.1",
		"HCHDG,1.0,2.0,W,3.0,W":                               "heading=356",
		"HCHDG,350.0,2.0,E,9.0,E":                             "heading=1",
		"GPGGA,123519,9000.0,S,18000.00,W,2,12,0.5,-3,M,,M,,": "latitude=-90 longitude=-180 altitude=-3 satellites=12 quality=2 hdop=0.5",
		"GPGSV,3,1,11,09,76,148,32,05,55,242,29":              "in view 11",
		// of no use
		"GPZDA,160012.71,11,03,2004,-1,00": "",
		"GPMSS,1":                          "",
		"GPRMC,220516":                     "",
		// wrong
		"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,F,46.9,M,,": "error unit \"F\": want M",
		"GPGGA,123519,4867.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,": "error position",
		"GPGGA,123519,9100.0,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,":   "error latitude",
		"GPGGA,123519,4807.038,E,01131.000,N,1,08,0.9,545.4,M,46.9,M,,": "error ",
		"GPGGA,123519,4807.038,N,,,1,08,0.9,545.4,M,46.9,M,,":           "error position",
		"GPGGA,123519,4807.038,N,01131.000,E,,08,0.9,545.4,M,46.9,M,,":  "error no fix quality",
		"GPGGA,123519,4807.038,N,01131.000,E,8,08,0.9,545.4,M,46.9,M,,": "error fix quality",
		"GPGGA,123519,4807.038,N,01131.000,E,1,08,NaN,545.4,M,46.9,M,,": "error NaN",
		"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,0x1p4,M,46.9,M,,": "error 0x1p4",
		"GPGGA,123519,4807.038,N,01131.000,E,1,-8,0.9,545.4,M,46.9,M,,": "error satellites",
		"GPVTG,361,T,,M,0.1,N,0.2,K,A":                                  "error 361",
		"GPVTG,36,T,,M,1e3,N,0.2,K,A":                                   "error 1e3",
		"SDDPT,-1,0.5":                                                  "error depth",
		"SDDBT,,f,3,f,,F":                                               "error unit \"f\"",
		"INMTW,17.9,F":                                                  "error",
		"HCHDG,98.3,0.0,,12.6,W":                                        "error unit",
		"WIMWV,12.1,R,10.1,,A":                                          "error unit",
	} {
		s, err := decode(sum(body), "R", false)
		if wrong, ok := strings.CutPrefix(want, "error"); ok {
			require.ErrorContains(t, err, strings.TrimSpace(wrong), body)
			require.Empty(t, s.values, body)
			continue
		}
		require.NoError(t, err, body)
		var got []string
		for _, q := range quantities {
			if v, ok := s.values[q.name]; ok {
				got = append(got, fmt.Sprintf("%s=%v", q.name, v))
			}
		}
		if s.inView >= 0 {
			got = append(got, fmt.Sprintf("in view %d", s.inView))
		}
		text := strings.Join(got, " ")
		if len(s.void) > 0 {
			text = strings.TrimSpace(text + " void " + s.why + ": " + strings.Join(s.void, " "))
		}
		sortless := func(s string) map[string]bool {
			m := map[string]bool{}
			for _, f := range strings.Fields(s) {
				m[f] = true
			}
			return m
		}
		require.Equal(t, sortless(want), sortless(text), body)
	}
}

// TestIsolate: what is before a sentence is skipped, what is after it spoils it.
func TestIsolate(t *testing.T) {
	const good = "$INMTW,17.9,C*1B"
	for line, ok := range map[string]bool{
		good: true, "\xff\x00" + good: true, "$GPGGA,1,48" + good: true, good + "  ": true, `\g:1-2-73874,n:157036,s:r003669945,c:1241544035*4A\` + good: true,
		good + "x": false, "INMTW,17.9,C*1B": false, "$INMTW,17.9,C": false, "$INMTW,17.\x0090,C*1B": false, "$INMTW,17.9\xb0,C*1B": false, "$*00": false, "": false,
		"$INMTW," + strings.Repeat("1", 200) + ",C*1B": false, "$IN,17.9,C*1B": false,
	} {
		s, got := isolate([]byte(line))
		require.Equal(t, ok, got, "%q", line)
		if ok {
			require.Equal(t, good, s)
		}
	}
}

// TestEveryFlip: no single wrong, missing or additional byte makes another sentence.
func TestEveryFlip(t *testing.T) {
	const good = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47"
	whole, err := decode(good, "R", false)
	require.NoError(t, err)
	try := func(b string) {
		raw, ok := isolate([]byte(b))
		if !ok {
			return
		}
		s, err := decode(raw, "R", false)
		if err == nil && len(s.values) > 0 {
			require.Equal(t, whole.values, s.values, "%q", b)
		}
	}
	for i := range len(good) {
		try(good[:i] + good[i+1:])
		try(good[:i])
		for x := range 256 {
			try(good[:i] + string([]byte{byte(x)}) + good[i+1:])
			try(good[:i] + string([]byte{byte(x)}) + good[i:])
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"$GNGGA,203415.000,6325.6138,N,01021.4290,E,1,8,2.42,72.5,M,41.5,M,,*7C", "$GNRMC,220516,A,5133.82,N,00042.24,W,173.8,231.8,130694,004.2,W*6E",
		"$WIMDA,3.02,I,1.01,B,23.4,C,,,40.2,,12.1,C,19.3,T,20.1,M,13.1,N,1.1,M*62", "$HCHDG,98.3,0.0,E,12.6,W*57", "\xff$GPGGA,$INMTW,17.9,C*1B", "$GPGSV,3,1,11,09,76,148,32*00",
	} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		raw, ok := isolate(b)
		if !ok {
			return
		}
		if fix { // the checksum is no obstacle to what is behind it
			raw = sum(raw[1:strings.LastIndexByte(raw, '*')])
		}
		for _, magnetic := range []bool{false, true} {
			s, err := decode(raw, "R", magnetic)
			if err != nil {
				require.Empty(t, s.values)
			}
			for q, v := range s.values {
				require.True(t, v >= -20000 && v <= 1e6, "%s %v", q, v)
			}
			_, lat := s.values["latitude"]
			_, lon := s.values["longitude"]
			require.Equal(t, lat, lon, "together or not at all")
		}
	})
}

// TestRecording plays sentences of gpsd's documentation as they would come.
func TestRecording(t *testing.T) {
	recording, err := os.Open("testdata/gpsd-examples.txt")
	require.NoError(t, err)
	defer recording.Close()
	played(t, drivertest.Play(t, recording))
}
