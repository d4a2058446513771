package site

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"homeward/drivers"
	"homeward/drivers/hostbus"
)

const talking = `ports:
  - {name: gps, nmea: {sensor: ship, every: 50ms, values: {depth: {counter: 1}, heading: 98.3}}}
  - {name: scale-port, line: 9600-8N1, talker: {sensor: scale, every: 50ms, format: "ST,{weight:%8.2f} kg", channels: [{name: weight, unit: kg, value: {counter: 0.25}}]}}
tcp:
  - {name: plc, slaves: [{sensor: pump, unit_id: 7, every: 1s, channels: [{name: speed, register: holding, address: 16, type: uint16, value: 1450}]}]}
  - {name: weather, talker: {sensor: mast, every: 50ms, format: "T={t}", channels: [{name: t, unit: Cel, value: -3.5}]}}
faults:
`

// lines reads what a talker says on its port, a line at a time.
func (x *rig) lines(port string, line drivers.Line) (*bufio.Reader, func() error) {
	h, err := hostbus.Open(context.Background(), drivers.Bus{Kind: drivers.Serial, Name: "sim:" + port, Line: line})
	require.NoError(x.t, err)
	return bufio.NewReader(portReader{h.Port}), h.Close
}

type portReader struct{ p drivers.Port }

func (r portReader) Read(b []byte) (int, error) { return r.p.Read(b, 2*time.Second) }

// TestTalkers: what is said on a line is what the truth file says.
func TestTalkers(t *testing.T) {
	x := open(t, talking+"  []")
	line, err := drivers.ParseLine("4800-8N1")
	require.NoError(t, err)
	require.Equal(t, line, x.r.site.ports[0].line, "NMEA 0183's own")
	r, done := x.lines("gps", line)
	var depths []string
	for len(depths) < 3 {
		text, err := r.ReadString('\n')
		require.NoError(t, err)
		if rest, ok := strings.CutPrefix(text, "$SDDPT,"); ok {
			depth, _, _ := strings.Cut(rest, ",")
			depths = append(depths, depth)
		}
	}
	require.NoError(t, done())
	line, _ = drivers.ParseLine("9600-8N1")
	r, done = x.lines("scale-port", line)
	whole := regexp.MustCompile(`^ST, +[0-9]+\.[0-9]{2} kg\r\n$`)
	for matched := false; !matched; { // we may have come within a line
		text, err := r.ReadString('\n')
		require.NoError(t, err)
		matched = whole.MatchString(text)
	}
	require.NoError(t, done())
	told := x.records()
	for _, s := range told.sensors {
		require.Equal(t, s.Name != "pump", s.Talks, s.Name)
	}
	served := map[string][]float64{}
	for _, v := range told.served {
		served[v.Channel] = append(served[v.Channel], v.Value)
	}
	require.Contains(t, served["ship/depth"], 1.0)
	require.Contains(t, served["ship/depth"], 2.0)
	require.Contains(t, served["ship/heading"], 98.3)
	require.Contains(t, served["scale/weight"], 0.25)
}

// askTCP asks unit 7 for holding register 16.
func askTCP(c net.Conn) ([]byte, error) {
	_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err := c.Write([]byte{0, 1, 0, 0, 0, 6, 7, 3, 0, 16, 0, 1}); err != nil {
		return nil, err
	}
	reply := make([]byte, 11)
	_, err := io.ReadFull(c, reply)
	return reply, err
}

func TestModbusTCP(t *testing.T) {
	x := open(t, talking+`
  - {at: 1s, for: 1s, on: pump, fault: silent}
  - {at: 3s, for: 1s, on: plc, fault: unplug}
  - {at: 5s, for: 1s, on: plc, fault: frozen}
  - {at: 7s, for: 1s, on: weather, fault: silent}`)
	address := x.r.doors["plc"].Addr().String()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	right := []byte{0, 1, 0, 0, 0, 5, 7, 3, 2, 1450 >> 8, 1450 & 0xFF}
	c := dial()
	reply, err := askTCP(c)
	require.NoError(t, err)
	require.Equal(t, right, reply)
	require.Equal(t, 1450.0, x.records().served[len(x.records().served)-1].Value)

	events := x.r.site.events()
	silent := func(err error) bool { e, ok := errors.AsType[net.Error](err); return ok && e.Timeout() }
	for i, want := range []func(error) bool{silent, func(err error) bool { return err != nil && !silent(err) }, silent} {
		require.NoError(t, x.r.act(events[2*i]))
		_, err := askTCP(c)
		require.True(t, want(err), "%s: %v", events[2*i].fault.name, err)
		require.NoError(t, x.r.act(events[2*i+1]))
		c = dial()
		reply, err = askTCP(c)
		require.NoError(t, err)
		require.Equal(t, right, reply)
	}

	mast, err := net.Dial("tcp", x.r.doors["weather"].Addr().String())
	require.NoError(t, err)
	defer mast.Close()
	r := bufio.NewReader(mast)
	text, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "T=-3.5\r\n", text)
	require.NoError(t, x.r.act(events[6]))
	_ = mast.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	for err == nil {
		_, err = r.ReadString('\n')
	}
	require.True(t, silent(err), "%v", err)
}

// TestPattern: the pattern in the gateway's configuration takes apart what a format makes.
func TestPattern(t *testing.T) {
	for _, c := range []struct {
		format, line string
		want         []string
	}{
		{"ST,{weight:%8.2f} kg", "ST,  -12.25 kg", []string{"-12.25"}},
		{"{b-x}|{a.y:%-7.1f}|", "1e-07|3.5    |", []string{"3.5", "1e-07"}},
		{"(a) {a.y:%+d}% {b-x}", "(a) +7% 0", []string{"+7", "0"}},
	} {
		re, err := regexp.Compile(`\A(?:` + pattern(c.format, []channel{{name: "a.y"}, {name: "b-x"}, {name: "weight"}}) + `)\z`)
		require.NoError(t, err)
		m := re.FindStringSubmatch(c.line)
		require.NotNil(t, m, "%v on %q", re, c.line)
		var got []string
		for i := range 3 {
			if at := re.SubexpIndex(group(i)); at >= 0 {
				got = append(got, m[at])
			}
		}
		require.Equal(t, c.want, got)
	}
}
