package scan

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"homeward/drivers"
	"homeward/drivers/modbus"
)

// Units is what answers on a Modbus line.
type Units struct {
	Port    string   `json:"port"`
	Lines   []string `json:"lines"` // the settings tried
	Asked   int      `json:"asked"` // requests sent
	Found   []Unit   `json:"found"`
	Garbled []string `json:"garbled,omitempty"` // settings at which something answered that was no Modbus
}

// Unit is one that answers.
type Unit struct {
	Unit   int    `json:"unit"`
	Line   string `json:"line"`
	Answer string `json:"answer"`
	Config string `json:"config"`
}

// ModbusOptions says whom to ask.
type ModbusOptions struct {
	Port     string
	Lines    []drivers.Line
	From, To int           // units, both included
	Timeout  time.Duration // for each
	Pause    time.Duration // between requests
	Step     func(line drivers.Line, unit, found int)
}

// Modbus asks each unit once for holding register 0, at each line setting; a unit that was found is not asked again. Reading
// changes no register. Any answer that is one counts, an exception too. It refuses a port that somebody holds, and ends within
// a time-out when ctx does, with what was found till then.
func Modbus(ctx context.Context, o Options, m ModbusOptions) (*Units, error) {
	o.defaults()
	u := &Units{Port: m.Port, Lines: []string{}, Found: []Unit{}}
	file := "" // where the port's name leads to: the agent may know it by another
	switch {
	case strings.HasPrefix(m.Port, "/"):
		file, _ = filepath.EvalSymlinks(o.path(m.Port)) // missing: opening it says so
	case o.SimPath != nil:
		file, _ = o.SimPath(ctx, m.Port)
		file, _ = filepath.EvalSymlinks(file)
	}
	for _, x := range o.Owned {
		if x.Bus == m.Port || file != "" && o.same(x.Bus, file) {
			return u, fmt.Errorf("scan: port %s belongs to the running agent (sensor %s): stop it first, or disable the sensor", m.Port, x.Sensor)
		}
	}
	known := map[int]bool{}
	for _, line := range m.Lines {
		u.Lines = append(u.Lines, line.String())
		if err := u.try(ctx, &o, m, line, known); err != nil {
			return u, err
		}
	}
	return u, nil
}

func (u *Units) try(ctx context.Context, o *Options, m ModbusOptions, line drivers.Line, known map[int]bool) error {
	h, err := o.Open(ctx, drivers.Bus{Kind: drivers.Serial, Name: m.Port, Line: line})
	if err != nil {
		return err
	}
	defer h.Close()
	shared, garbled := &drivers.Shared{}, 0
	for unit := m.From; unit <= m.To; unit++ {
		if known[unit] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if m.Step != nil {
			m.Step(line, unit, len(u.Found))
		}
		address := 0
		c := modbus.Options{Port: m.Port, Line: line.String(), UnitID: &unit, Turnaround: m.Pause,
			Chans: []modbus.Channel{{Channel: drivers.Channel{Name: "register0"}, Register: "holding", Address: &address, Type: "uint16"}}}
		if faults := c.Check(); len(faults) > 0 {
			return fmt.Errorf("scan: line %s: want %s", line, faults[0].Want)
		}
		s, err := c.Open(ctx, drivers.Env{Port: h.Port, Timeout: m.Timeout, Shared: shared})
		if err != nil {
			return err
		}
		u.Asked++
		readings, err := s.Read(ctx)
		_ = s.Close()
		answer := ""
		switch {
		case err == nil && len(readings) > 0:
			answer = fmt.Sprintf("holding register 0 is %g", readings[0].Value)
		case errors.Is(err, drivers.ErrRefuse):
			answer = "it refuses holding register 0, and so it is there"
		case errors.Is(err, drivers.ErrGone), ctx.Err() != nil:
			return err
		case errors.Is(err, drivers.ErrCheck):
			garbled++
			continue
		default:
			continue
		}
		known[unit] = true
		u.Found = append(u.Found, Unit{unit, line.String(), answer,
			snippet(fmt.Sprintf("unit%d", unit), "modbus", "port", m.Port, modbusRest(line.String(), unit))})
	}
	if garbled > 0 {
		u.Garbled = append(u.Garbled, line.String())
	}
	return nil
}
